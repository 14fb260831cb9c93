//! The parts of a service manager that a service can see: it receives notifications, keeps descriptors, and starts the next process
//! with them.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::{DEADLINE, Host, Monitor, open_directory, open_up, until};

/// Descriptors with their names.
type Kept = Vec<(String, OwnedFd)>;

pub(crate) struct Manager {
    /// The path of the socket that receives notifications.
    pub(crate) path: PathBuf,
    heard: Receiver<String>,
    kept: Arc<Mutex<Kept>>,
    /// The receiver of barriers, if the manager does not answer them at once.
    barriers: Barriers,
    _directory: tempfile::TempDir,
}

/// The sender of the barriers' descriptors. A barrier is answered once its descriptor is dropped.
type Barriers = Arc<Mutex<Option<Sender<Vec<OwnedFd>>>>>;

impl Manager {
    pub(crate) fn new() -> Self {
        Self::with_room(usize::MAX)
    }

    /// Creates a manager that keeps at most `room` descriptors (`FileDescriptorStoreMax=`).
    pub(crate) fn with_room(room: usize) -> Self {
        let directory = open_directory();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in a directory of ours");
        open_up(&path);
        let kept = Arc::<Mutex<Kept>>::default();
        let (say, heard) = channel();
        let barriers = Barriers::default();
        let (store, answer) = (Arc::clone(&kept), Arc::clone(&barriers));
        std::thread::spawn(move || listen(&socket, &say, &store, &answer, room));
        Self { path, heard, kept, barriers, _directory: directory }
    }

    /// Stops answering barriers (`sd_notify_barrier(3)`). A barrier is answered once the test drops the descriptors that it
    /// receives here.
    pub(crate) fn holds_barriers(&self) -> Receiver<Vec<OwnedFd>> {
        let (sender, receiver) = channel();
        *self.barriers.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Starts a monitor under this manager, with `variables` in its environment.
    pub(crate) fn starts(&self, variables: &[&str], config: &str) -> Monitor {
        self.starts_at(Host::default(), variables, config)
    }

    /// Starts the next process, with the kept descriptors and the ports of `before`.
    pub(crate) fn restarts(&self, before: &Monitor, config: &str) -> Monitor {
        self.starts_at(
            Host { viewers: before.viewers.port(), brokers: before.brokers.port(), ..Host::default() },
            &[],
            config,
        )
    }

    pub(crate) fn starts_at(&self, host: Host<'_>, variables: &[&str], config: &str) -> Monitor {
        Monitor::start_with(&self.descriptors(), &self.wrapper(variables), host, config)
    }

    /// Returns the command that starts a process with the manager's environment.
    pub(crate) fn wrapper(&self, variables: &[&str]) -> Vec<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let script = "export LISTEN_PID=$$; exec \"$@\"";
        let listen = [format!("LISTEN_FDS={}", kept.len()), format!("LISTEN_FDNAMES={}", names.join(":"))];
        let notify = format!("NOTIFY_SOCKET={}", self.path.display());
        let words = ["env", &notify, &listen[0], &listen[1]].into_iter().chain(variables.iter().copied());
        words.chain(["sh", "-c", script, "sh"]).map(str::to_owned).collect()
    }

    pub(crate) fn descriptors(&self) -> Vec<OwnedFd> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|(_, fd)| fd.try_clone().expect("descriptors are left")).collect()
    }

    /// Returns the names of the kept descriptors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(name, _)| name.clone()).collect()
    }

    /// Keeps a descriptor from the test, instead of any others of that name.
    pub(crate) fn keep(&self, name: &str, fd: OwnedFd) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, _)| other != name);
        kept.push((name.to_owned(), fd));
    }

    /// Forgets all descriptors, as for a service that has stopped.
    pub(crate) fn forgets(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The next message, or `None` if none comes within `time`.
    pub(crate) fn within(&self, time: Duration) -> Option<String> {
        self.heard.recv_timeout(time).ok()
    }

    /// The next message that holds `text`.
    pub(crate) fn hears(&self, text: &str) -> String {
        until(text, || self.within(DEADLINE).filter(|message| message.contains(text)))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"", &self.path));
    }
}

/// Handles messages until an empty one comes.
fn listen(
    socket: &UnixDatagram,
    say: &Sender<String>,
    kept: &Mutex<Kept>,
    barriers: &Mutex<Option<Sender<Vec<OwnedFd>>>>,
    room: usize,
) {
    loop {
        let (message, descriptors) = receive(socket);
        if message.is_empty() {
            return;
        }
        let has = |line: &str| message.lines().any(|found| found == line);
        let name = message.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if has("FDSTOREREMOVE=1") {
            kept.retain(|(other, _)| other != name);
        } else if has("FDSTORE=1") {
            let left = room.saturating_sub(kept.len());
            kept.extend(descriptors.into_iter().take(left).map(|fd| (name.to_owned(), fd)));
        } else if has("BARRIER=1")
            && let Some(hold) = &*barriers.lock().unwrap_or_else(PoisonError::into_inner)
        {
            let _ = hold.send(descriptors);
        }
        drop(kept);
        if !has("BARRIER=1") {
            let _ = say.send(message);
        }
    }
}

fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut bytes = [0; 4096];
    let mut space = cmsg_space!([RawFd; 253]);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), flags).expect("it can be received");
    let (length, mut descriptors) = (message.bytes, Vec::new());
    for part in message.cmsgs().expect("there is room for them") {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            #[expect(unsafe_code, reason = "a descriptor that comes by its number is owned by saying so")]
            // SAFETY: the kernel has just opened them.
            descriptors.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    (String::from_utf8(bytes[..length].to_vec()).expect("UTF-8"), descriptors)
}
