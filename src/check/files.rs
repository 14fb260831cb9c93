//! The files of the configuration: the configuration itself, the Unix socket, the log, the saved history. They are looked at as the
//! user that the check has become.

use super::holder::Holder;
use super::obstacle::{Kind, Obstacle, directory_of, outside, unreadable, unwritable, unwritable_file};
use super::ports;
use super::report::Finding;
use super::sandbox::Sandbox;
use crate::config::{Output, Settings};
use crate::failure::Exit;
use crate::logging::Target;
use crate::succession::file;
use std::fs::{metadata, symlink_metadata};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Returns a finding if the monitor's user cannot read the configuration; `by_unit` is true if even the start reads it as that user.
pub(super) fn configuration(path: &Path, sandbox: Option<&Sandbox>, by_unit: bool) -> Option<Finding> {
    let obstacle = unreadable(path, sandbox)?;
    if by_unit {
        return Some(obstacle.finding(Exit::Config));
    }
    Some(Finding::Warning(format!("{}; root reads it at the start, but a reload cannot", obstacle.what)))
}

/// Checks that the monitor can make its Unix socket. `holder` listens there now, if it is some.
pub(super) fn socket(path: &Path, holder: Option<&Holder>, sandbox: Option<&Sandbox>) -> Finding {
    let shown = path.display();
    match symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let what = format!("{shown} is there already, and no socket; remove it, or name another path");
            return Finding::Failed(Exit::Unavailable, what);
        }
        _ => {}
    }
    match (unwritable(directory_of(path), sandbox), holder) {
        (Some(obstacle), _) => {
            let exit = if obstacle.kind == Kind::Permission { Exit::NoPermission } else { Exit::Unavailable };
            obstacle.finding(exit)
        }
        (None, Some(holder)) => {
            ports::taken(&format!("unix:{shown}"), holder, sandbox.is_some(), "end it, or name another path")
        }
        (None, None) => Finding::Good(format!("unix:{shown} can be bound")),
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
        Target::Journal => return Finding::Good("the journal".into()),
        Target::Stderr => return Finding::Good("the journal if systemd starts the monitor, else stderr".into()),
        Target::Standard(_) => {
            let name = logger.file.as_deref().unwrap_or(Path::new("")).display();
            return Finding::Good(format!("{name}, which is what the monitor is started with"));
        }
        Target::File(path) => path,
    };
    let shown = path.display();
    let directory = directory_of(&path);
    let found = metadata(&path).ok();
    let obstacle = match &found {
        Some(found) if found.is_dir() => {
            return Finding::Failed(Exit::Config, format!("{shown} is a directory; name a file"));
        }
        Some(_) => outside(&path, directory, sandbox).or_else(|| unwritable_file(&path, sandbox)),
        None => unwritable(directory, sandbox),
    };
    match obstacle {
        Some(Obstacle { kind: Kind::Private, what }) => return Finding::Warning(what),
        Some(obstacle) => return obstacle.finding(Exit::Config),
        None => {}
    }
    match found {
        Some(found) if found.is_file() && logger.rotations > 0 => match unwritable(directory, sandbox) {
            Some(Obstacle { what, .. }) => Finding::Warning(format!("{shown} can be written, but not rotated: {what}")),
            None => Finding::Good(format!("{shown} can be written")),
        },
        Some(_) => Finding::Good(format!("{shown} can be written")),
        None => Finding::Good(format!("{shown} can be made")),
    }
}

/// Checks that nothing else is in the place of the saved history, and that it can be saved. If it cannot, the monitor starts, but
/// would lose all history at a stop.
pub(super) fn history(path: &Path, sandbox: Option<&Sandbox>) -> Finding {
    if let Err(failure) = file::check(path) {
        return Finding::Failed(failure.exit(), failure.to_string());
    }
    let shown = path.display();
    match unwritable(directory_of(path), sandbox) {
        Some(obstacle) => obstacle.finding(Exit::Config),
        None => Finding::Good(format!("{shown} can be written")),
    }
}
