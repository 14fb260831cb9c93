//! History in a file, from a process that stops to one that starts later (`history.state`).

use super::state::{self, Refused, State};
use crate::config::History;
use crate::hub::Hub;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// What a file may be longer than the history in it is counted for, in bytes.
const SLACK: u64 = 1024 * 1024;

/// Where the file is written, until it is whole.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn create(path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Saves history to the file. Logs what came of it.
pub fn save(path: &Path, history: Result<Vec<u8>, Refused>) {
    match history.map_err(io::Error::other).and_then(|bytes| write(path, &bytes)) {
        Ok(()) => log::info!("the history is saved to {}", path.display()),
        Err(e) => log::error!("history.state: cannot save the history to {}: {e}", path.display()),
    }
}

/// Writes the file, or leaves the one that is there as it is.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = beside(path);
    let written = create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Has `hub` take up what is in the file, if it is not older than `limits.finished` and within `limits.total_bytes`; without a hub
/// it is not wanted. The file is gone then. Logs what came of it.
pub fn take_up(path: &Path, limits: &History, hub: Option<&Hub>) {
    match (take(path, limits.total_bytes), hub) {
        (Ok(Some(bytes)), Some(hub)) => match restore(&bytes, hub, limits.finished.duration()) {
            Ok(what) => log::info!("took up {what} from {}", path.display()),
            Err(why) => log::warn!("{} is not taken up: {why}", path.display()),
        },
        (Ok(_), _) => {}
        (Err(e), _) => log::warn!("history.state: cannot read {}: {e}", path.display()),
    }
    // Said now and not only when it is too late.
    let new = beside(path);
    match create(&new) {
        Ok(_) => drop(fs::remove_file(&new)),
        Err(e) => log::error!("history.state: cannot write {}: {e}; history will not outlive a stop", new.display()),
    }
}

/// Reads the file and removes it, so that it is never taken up twice.
fn take(path: &Path, total_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file"));
    }
    let limit = total_bytes as u64 + SLACK;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    fs::remove_file(path)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than history.total_bytes allows"));
    }
    Ok(Some(bytes))
}

fn restore(bytes: &[u8], hub: &Hub, young: Duration) -> Result<String, String> {
    let state = State::decode(bytes).map_err(|e| e.to_string())?;
    let age = Duration::from_millis(state::now().saturating_sub(state.written));
    if age > young {
        return Err(format!("it was saved {} s ago, more than history.finished", age.as_secs()));
    }
    let now = Instant::now();
    let slots = hub.restore(now, age, &state.runs);
    hub.settle(now, &slots);
    Ok(format!("{} channels, saved {} s ago,", slots.len(), age.as_secs()))
}
