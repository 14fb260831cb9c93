//! The files of the configuration: the configuration itself, the Unix socket, the log, the saved history. They are looked at as the
//! user that the check has become.

use super::holder;
use super::holder::Holder;
use super::obstacle::{Kind, Obstacle, outside, unopened, unreadable, unremovable, unwritable};
use super::ports;
use super::report::Finding;
use super::sandbox::Sandbox;
use crate::config::{Output, Settings, temporary_path};
use crate::error::Exit;
use crate::fs::directory_of;
use crate::handover::history_file;
use crate::logging::{self, Target};
use crate::net::unix::is_listened_at;
use nix::unistd::{AccessFlags, access, geteuid};
use std::collections::BTreeSet;
use std::fs::{metadata, symlink_metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Returns a finding if the monitor's user cannot read the configuration; `by_unit` is true if even the start reads it as that user.
pub(super) fn configuration(path: &Path, sandbox: Option<&Sandbox>, by_unit: bool) -> Option<Finding> {
    let obstacle = unreadable(path, sandbox)?;
    if by_unit {
        return Some(obstacle.finding(Exit::Config));
    }
    Some(Finding::Warning(format!("{}; root reads it at the start, but a reload cannot", obstacle.what)))
}

/// Checks that the monitor can make its Unix socket. `monitors` are those that run.
pub(super) fn socket(path: &Path, monitors: &BTreeSet<u32>, sandbox: Option<&Sandbox>) -> Finding {
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
    let holder = (found.is_some() && is_listened_at(path)).then(|| holder::of_socket(path, monitors));
    let is_mine = found.is_some_and(|found| found.uid() == geteuid().as_raw());
    let may_be_the_monitors = is_mine && !monitors.is_empty() && access(path, AccessFlags::W_OK).is_err();
    let held = holder.map(|holder| match holder {
        Holder::Unknown if may_be_the_monitors => Finding::Warning(format!(
            "unix:{shown} is held by a process to which the monitor's user may not connect, which is right only if it is the monitor"
        )),
        Holder::Unknown => Finding::Failed(
            Exit::Unavailable,
            format!(
                "{shown} is there already, and the monitor's user may not connect to it; end the process that listens there or, if \
                 there is none, remove the socket"
            ),
        ),
        holder => {
            ports::taken(&format!("unix:{shown}"), &holder, sandbox.is_some(), "end it, or name another path")
        }
    });
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

/// Checks that the log can be written, and rotated.
pub(super) fn log(settings: &Settings, sandbox: Option<&Sandbox>) -> Finding {
    let logger = &settings.logger;
    // Standard error of this check says nothing about the service's.
    if sandbox.is_some() && logger.output == Output::Auto && logger.file.is_none() {
        return Finding::Good("the journal".into());
    }
    let path = match Target::of(logger) {
        // Where there is a unit, there is a service manager, and its journal.
        Target::Journal if sandbox.is_some() => return Finding::Good("the journal".into()),
        Target::Journal => {
            return match logging::reach_journal() {
                Ok(()) => Finding::Good("the journal".into()),
                Err(failure) if logger.output == Output::Auto => {
                    Finding::Warning(format!("{failure}; the log goes to standard error instead"))
                }
                Err(failure) => Finding::from(&failure),
            };
        }
        Target::Stderr => return Finding::Good("the journal if systemd starts the monitor, else stderr".into()),
        Target::Standard(_) => {
            let name = logger.file.as_deref().unwrap_or(Path::new("")).display();
            return Finding::Good(format!("{name}, which is what the monitor is started with"));
        }
        Target::File(path) => path,
    };
    let shown = path.display();
    let (obstacle, is_regular, can) = match logging::probe(&path) {
        Ok(None) => {
            let is_regular = metadata(&path).is_ok_and(|found| found.is_file());
            (outside(&path, directory_of(&path), sandbox), is_regular, "can be written")
        }
        Ok(Some(new)) => (unwritable(directory_of(&new), sandbox), true, "can be made"),
        Err(e) if e.kind() == ErrorKind::IsADirectory => {
            return Finding::Failed(Exit::Config, format!("{shown} is a directory; name a file"));
        }
        Err(e) => {
            let obstacle = outside(&path, directory_of(&path), sandbox).or_else(|| unopened(&path, &e, sandbox));
            (obstacle, false, "can be written")
        }
    };
    match obstacle {
        Some(Obstacle { kind: Kind::Private, what }) => return Finding::Warning(what),
        Some(obstacle) => return obstacle.finding(Exit::Config),
        None => {}
    }
    let unrotated = if is_regular && logger.rotations > 0 && logger.max_size > 0 {
        unwritable(directory_of(&path), sandbox)
    } else {
        None
    };
    match unrotated {
        Some(Obstacle { what, .. }) => Finding::Warning(format!("{shown} {can}, but not rotated: {what}")),
        None => Finding::Good(format!("{shown} {can}")),
    }
}

/// Checks that nothing else is in the place of the saved history. If it cannot be saved, the monitor starts all the same.
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
