//! The file of `history.state`: the history from a process that stops to one that starts later.
//!
//! A file that is not a saved history is never removed and never replaced.

use crate::config::{History, unfinished_history, unusable_history};
use crate::error::{Exit, Failure};
use crate::handover::inherited::restore_stream;
use crate::hub::Hub;
use crate::snapshot::encoding::{Refused, is_ours};
use crate::snapshot::reading::Limits;
use crate::snapshot::state;
use crate::snapshot::state::State;
use crate::stream::MessageStream;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;
use std::fs::{self, File, OpenOptions, symlink_metadata};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// A file is read up to this many times `history.total_bytes`, since the setting may have been lowered. All of the file is in memory
/// while the part that is kept is restored.
const TIMES: usize = 2;
/// The bytes of a file that do not count as history, at most.
const SLACK: usize = 1024 * 1024;

/// The most bytes of memory for the list of the messages that wait for Redis, if there is no `cluster` any more.
const LOST: usize = 16 * 1024 * 1024;

/// The thing at a path.
enum Found {
    Nothing,
    /// An empty file of this user or of root.
    Empty,
    /// A saved history, whole or not, of whatever version.
    Saved(File),
    /// Something else; the text says what it is.
    Foreign(String),
}

/// Says why a file of this type and owner cannot be a saved history, if so.
fn foreign(found: &fs::Metadata) -> Option<String> {
    if found.is_symlink() {
        return Some("it is a link".into());
    }
    if !found.is_file() {
        return Some("it is not a regular file".into());
    }
    let is_known = [geteuid().as_raw(), 0].contains(&found.uid());
    (!is_known).then(|| format!("it belongs to another user (uid {})", found.uid()))
}

/// Looks at a path. A link is not followed.
fn find(path: &Path) -> io::Result<Found> {
    // The owner is checked before the file is opened: a file of another user is foreign even if it cannot be read.
    match symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        found => {
            if let Some(what) = foreign(&found?) {
                return Ok(Found::Foreign(what));
            }
        }
    }
    let mut file = match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Ok(Found::Foreign(format!("it cannot be read ({e})"))),
        Ok(file) => file,
    };
    // The path may lead to another file by now.
    let found = file.metadata()?;
    if let Some(what) = foreign(&found) {
        return Ok(Found::Foreign(what));
    }
    if found.len() == 0 {
        return Ok(Found::Empty);
    }
    let mut head = Vec::new();
    (&file).take(8).read_to_end(&mut head)?;
    if !is_ours(&head) {
        return Ok(Found::Foreign("it is not a saved history".into()));
    }
    file.rewind()?;
    Ok(Found::Saved(file))
}

/// Checks that nothing else than a saved history is at the path, and at those of the files beside it.
///
/// # Errors
/// [`Exit::Config`] if something else is there.
pub(crate) fn check(path: &Path) -> Result<(), Failure> {
    for path in [path.to_path_buf(), unfinished_history(path), unusable_history(path)] {
        if let Ok(Found::Foreign(what)) = find(&path) {
            let hint = "expected a history that a monitor has saved, or nothing; move it away, or name another file";
            return Err(Failure::new(Exit::Config, format!("history.state: {}: {what}; {hint}", path.display())));
        }
    }
    Ok(())
}

/// Checks that a path can be given to another file: only an empty file or a saved history would be lost.
fn must_be_free(path: &Path) -> io::Result<()> {
    match find(path)? {
        Found::Foreign(what) => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there, and {what}", path.display())))
        }
        Found::Nothing | Found::Empty | Found::Saved(_) => Ok(()),
    }
}

/// Makes the file; a saved history that is there is removed.
fn create(path: &Path) -> io::Result<File> {
    must_be_free(path)?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Saves the history to the file, and logs the outcome. Returns true if it is saved.
pub(crate) fn save(path: &Path, history: Result<Vec<u8>, Refused>) -> bool {
    let saved = history.map_err(io::Error::other).and_then(|bytes| write(path, &bytes));
    match &saved {
        Ok(()) => log::info!("the history is saved to {}", path.display()),
        Err(e) => log::error!("history.state: cannot save the history to {}: {e}", path.display()),
    }
    saved.is_ok()
}

/// Writes the file, or leaves the one that is there as it is.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    must_be_free(path)?;
    let new = unfinished_history(path);
    let mut file = create(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Restores the history in the file into a hub, if it is not older than `limits.finished`, as far as `limits.total_bytes` allows; and
/// the messages that Redis had not taken, of whatever age, into a stream. Without a hub the history is not needed. The file is removed;
/// one that cannot be used is renamed. Logs the outcome.
pub(crate) fn take_up(path: &Path, limits: &History, to: Option<(&Hub, Option<&MessageStream>)>) {
    let shown = path.display();
    match find(path) {
        Ok(Found::Nothing | Found::Empty) => {}
        Ok(Found::Foreign(what)) => log::warn!("history.state: {shown} is left alone: {what}"),
        Err(e) => log::warn!("history.state: cannot read {shown}: {e}"),
        Ok(Found::Saved(file)) => match to {
            None => remove(path, &file),
            Some((hub, stream)) => take_up_saved(path, &file, limits, hub, stream),
        },
    }
    // Tested at the start, so that an administrator can correct the mistake before the stop.
    if let Err(why) = try_to_write(path) {
        log::error!("{why}");
    }
}

/// Restores a saved history, and removes or renames its file.
fn take_up_saved(path: &Path, file: &File, limits: &History, hub: &Hub, stream: Option<&MessageStream>) {
    let shown = path.display();
    match restore(file, hub, stream, limits) {
        Ok(what) => {
            remove(path, file);
            log::info!("took up {what} from {shown}");
        }
        Err(Unusable::Old(age)) => {
            remove(path, file);
            let sent = match stream.map_or(0, MessageStream::unsent) {
                0 => String::new(),
                unsent => format!("; {unsent} messages in it that Redis had not taken are sent"),
            };
            log::warn!("{shown} is not taken up: it was saved {age} s ago, more than history.finished{sent}");
        }
        Err(Unusable::Refused(why)) => {
            let bad = unusable_history(path);
            match must_be_free(&bad).and_then(|()| fs::rename(path, &bad)) {
                Ok(()) => log::warn!("{shown} is not taken up: {why}; it is kept as {}", bad.display()),
                Err(e) => log::warn!("{shown} is not taken up: {why}; it stays, and cannot be renamed: {e}"),
            }
        }
    }
}

/// Makes the file that a save writes first, and removes it. Must not be called for the path in force while a save may run.
///
/// # Errors
/// A sentence that says why no history can be saved.
pub(crate) fn try_to_write(path: &Path) -> Result<(), String> {
    let new = unfinished_history(path);
    let made = create(&new);
    made.map_err(|e| format!("history.state: cannot write {}: {e}; history will not outlive a stop", new.display()))?;
    let _ = fs::remove_file(&new);
    Ok(())
}

/// Removes the file, so that it is never taken up twice. Another file that is at the path by now stays.
fn remove(path: &Path, file: &File) {
    let id = |found: &fs::Metadata| (found.dev(), found.ino());
    let same = symlink_metadata(path).and_then(|now| Ok(id(&now) == id(&file.metadata()?)));
    if let Err(e) = same.and_then(|same| if same { fs::remove_file(path) } else { Ok(()) }) {
        log::warn!("history.state: cannot remove {}: {e}", path.display());
    }
}

/// The reason why a saved history is not taken up.
enum Unusable {
    /// It was saved this many seconds ago.
    Old(u64),
    /// It cannot be read; the text says why.
    Refused(String),
}

impl From<Refused> for Unusable {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.to_string())
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Restores the history in the file into `hub`; returns its size and age for the log.
fn restore(file: &File, hub: &Hub, stream: Option<&MessageStream>, limits: &History) -> Result<String, Unusable> {
    let limit = limits.total_bytes.saturating_mul(TIMES).saturating_add(SLACK);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > limit.saturating_add(stream.map_or(0, MessageStream::saved_bytes)) {
        return Err(Refused::TooLarge.into());
    }
    let mut bytes = Vec::with_capacity(length);
    file.take(length as u64).read_to_end(&mut bytes)?;
    let limits_of_file = Limits {
        cost: limit,
        // A file has no connections.
        connections: 0,
        unread: false,
        stream: stream.map_or(LOST, MessageStream::saved_bytes),
        has_stream: stream.is_some(),
    };
    let mut state = State::decode(&bytes, limits_of_file)?;
    let age = Duration::from_millis(state::now().saturating_sub(state.written));
    let is_old = age > limits.finished.duration();
    if let Some(mut saved) = state.stream.take() {
        if is_old {
            // Its runs are not taken up: the stream is read from its beginning.
            saved.forget_reading();
        }
        restore_stream(Some(saved), stream, age);
    }
    if is_old {
        return Err(Unusable::Old(age.as_secs()));
    }
    let dropped = state.fit(limits.total_bytes, false);
    if dropped > 0 {
        log::warn!(
            "history.total_bytes ({} bytes) is less than was saved: {dropped} channels are dropped",
            limits.total_bytes
        );
    }
    for run in &mut state.runs {
        // No viewer has an offset in this run. An offset that begins at 0 never comes near the largest possible one.
        run.start = 0;
    }
    let now = Instant::now();
    let slots = hub.restore(now, age, &state.runs);
    hub.drop_unused(now, &slots);
    Ok(format!("{} channels, saved {} s ago,", slots.len(), age.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_history_with_a_long_name_that_ends_like_a_temporary_one_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("{}.new", "x".repeat(110)));
        fs::write(&path, "ReCodExM and so on").unwrap();
        try_to_write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ReCodExM and so on");
        write(&path, b"ReCodExM anew").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ReCodExM anew");
    }
}
