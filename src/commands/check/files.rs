//! Checks the configuration file, the Unix socket, the log and the saved history, as the user that the check has become.

use super::holder;
use super::holder::Holder;
use super::obstacle::{Kind, Obstacle, outside, unopened, unreadable, unremovable, unwritable};
use super::ports;
use super::report::Finding;
use super::sandbox::Sandbox;
use super::unit::Unit;
use crate::config::{Output, Settings};
use crate::error::Exit;
use crate::fs::{directory_of, temporary_path};
use crate::handover::history_file;
use crate::logging::{self, Target};
use crate::net::unix::is_listened_at;
use nix::unistd::{AccessFlags, access, geteuid};
use std::collections::BTreeSet;
use std::fs::{Metadata, metadata, symlink_metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Returns a finding if the monitor's user cannot read the configuration. `by_unit` is true if that user also reads it at the start.
pub(super) fn configuration(path: &Path, sandbox: Option<&Sandbox>, by_unit: bool) -> Option<Finding> {
    let obstacle = unreadable(path, sandbox)?;
    if by_unit {
        return Some(obstacle.finding(Exit::Config));
    }
    Some(Finding::Warning(format!("{}; root reads it at the start, but a reload cannot", obstacle.what)))
}

/// Checks that the monitor can make a Unix socket. `monitors` are the running monitors.
pub(super) fn socket(path: &Path, monitors: &BTreeSet<u32>, unit: Option<&Unit>, sandbox: Option<&Sandbox>) -> Finding {
    let shown = path.display();
    let directory = directory_of(path);
    let refused = |obstacle: Obstacle| {
        let exit = if obstacle.kind == Kind::Permission { Exit::NoPermission } else { Exit::Unavailable };
        obstacle.finding(exit)
    };
    if let Some(obstacle) = outside(directory, directory, sandbox) {
        return refused(obstacle);
    }
    let found = symlink_metadata(path).ok();
    let new = temporary_path(path);
    let is_other = |path: &Path| symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket());
    if let Some(other) = [path, &new].into_iter().find(|path| is_other(path)) {
        let what = format!("{} is there already, and no socket; remove it, or name another path", other.display());
        return Finding::Failed(Exit::Unavailable, what);
    }
    let held = found.and_then(|found| holder_of_socket(path, &found, monitors, unit));
    if let Some(failed @ Finding::Failed(..)) = held {
        return failed;
    }
    if new.exists() && is_listened_at(&new) {
        let what = format!("somebody listens at {}; end that process, or name another path", new.display());
        return Finding::Failed(Exit::Unavailable, what);
    }
    let obstacle =
        unwritable(directory, sandbox).or_else(|| unremovable(&new, sandbox)).or_else(|| unremovable(path, sandbox));
    match obstacle {
        Some(obstacle) => refused(obstacle),
        None => held.unwrap_or_else(|| Finding::Good(format!("unix:{shown} can be bound"))),
    }
}

/// Returns the finding about the process that listens at the Unix socket `found`, if there is one.
fn holder_of_socket(path: &Path, found: &Metadata, monitors: &BTreeSet<u32>, unit: Option<&Unit>) -> Option<Finding> {
    if !is_listened_at(path) {
        return None;
    }
    let shown = path.display();
    let is_mine = found.uid() == geteuid().as_raw();
    let may_be_the_monitors = is_mine && !monitors.is_empty() && access(path, AccessFlags::W_OK).is_err();
    Some(match holder::of_socket(path, monitors) {
        Holder::Unknown if may_be_the_monitors => Finding::Warning(format!(
            "unix:{shown} is held by a process to which the monitor's user may not connect, which is right only if that is the monitor"
        )),
        Holder::Unknown => Finding::Failed(
            Exit::Unavailable,
            format!(
                "{shown} is there already, and the monitor's user may not connect to it; end the process that listens there or, if \
                 there is none, remove the socket"
            ),
        ),
        holder => ports::held_by(
            &format!("unix:{shown}"),
            &holder,
            unit.map(|unit| &*unit.name),
            "end it, or name another path",
        ),
    })
}

/// Checks that the log can be written, and rotated.
pub(super) fn log(settings: &Settings, sandbox: Option<&Sandbox>) -> Finding {
    let logger = &settings.logger;
    // The standard error of this check is not the service's.
    if sandbox.is_some() && logger.output == Output::Auto && logger.file.is_none() {
        return Finding::Good("the journal".into());
    }
    match Target::of(logger) {
        // A unit implies a service manager with its journal.
        Target::Journal if sandbox.is_some() => Finding::Good("the journal".into()),
        Target::Journal => match logging::reach_journal() {
            Ok(()) => Finding::Good("the journal".into()),
            Err(failure) if logger.output == Output::Auto => {
                Finding::Warning(format!("{failure}; the log goes to standard error instead"))
            }
            Err(failure) => Finding::from(&failure),
        },
        Target::Stderr => Finding::Good("the journal if systemd starts the monitor, else stderr".into()),
        Target::Standard(_) => {
            let name = logger.file.as_deref().unwrap_or(Path::new("")).display();
            Finding::Good(format!("{name}, which is what the monitor is started with"))
        }
        Target::File(path) => log_file(&path, logger.rotations > 0 && logger.max_size > 0, sandbox),
    }
}

/// Checks that a log file can be written and, if `rotates` is set, that files can be made beside it.
fn log_file(path: &Path, rotates: bool, sandbox: Option<&Sandbox>) -> Finding {
    let (shown, directory) = (path.display(), directory_of(path));
    let (obstacle, is_regular, can) = match logging::probe(path) {
        Ok(None) => {
            let is_regular = metadata(path).is_ok_and(|found| found.is_file());
            (outside(path, directory, sandbox), is_regular, "can be written")
        }
        Ok(Some(new)) => (unwritable(directory_of(&new), sandbox), true, "can be created"),
        Err(e) if e.kind() == ErrorKind::IsADirectory => {
            return Finding::Failed(Exit::Config, format!("{shown} is a directory; name a file"));
        }
        Err(e) => {
            let obstacle = outside(path, directory, sandbox).or_else(|| unopened(path, &e, sandbox));
            (obstacle, false, "can be written")
        }
    };
    match obstacle {
        Some(Obstacle { kind: Kind::Private, what }) => return Finding::Warning(what),
        Some(obstacle) => return obstacle.finding(Exit::Config),
        None => {}
    }
    match (is_regular && rotates).then(|| unwritable(directory, sandbox)).flatten() {
        Some(Obstacle { what, .. }) => Finding::Warning(format!("{shown} {can}, but not rotated: {what}")),
        None => Finding::Good(format!("{shown} {can}")),
    }
}

/// Checks that no other file is in the place of the saved history. A history that cannot be saved does not prevent the start.
pub(super) fn history(path: &Path, sandbox: Option<&Sandbox>) -> Finding {
    if let Err(failure) = history_file::check(path) {
        return Finding::Failed(failure.exit(), failure.to_string());
    }
    let shown = path.display();
    match unwritable(directory_of(path), sandbox) {
        Some(Obstacle { kind: Kind::Unknown, what }) => Finding::Warning(what),
        Some(Obstacle { what, .. }) => {
            Finding::Warning(format!("{what}; the monitor starts, but all history will be lost at a stop"))
        }
        None => Finding::Good(format!("{shown} can be written")),
    }
}
