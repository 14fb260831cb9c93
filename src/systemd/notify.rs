//! The socket of the service manager (`sd_notify(3)`). No message waits on the relay's thread: what cannot go at once is queued.

use crate::deadline::timeout;
use crate::logging::{Throttle, escape};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How long a service manager that cannot be reached is left alone.
const PAUSE: Duration = Duration::from_secs(1);

static MANAGER: OnceLock<Manager> = OnceLock::new();
static SLOW: Throttle = Throttle::new(Duration::from_secs(60));

/// The kind of a message, which decides whether an older one still matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Readiness. The newest one waits, as for the four after it.
    Ready,
    /// The beginning of a reload.
    Reloading,
    /// The end of the service.
    Stopping,
    /// The status line.
    Status,
    /// A sign of life.
    Watchdog,
    /// A descriptor to be kept. Each listening socket is sent once, so that those that wait are few.
    Store,
    /// A descriptor to be let go; each name is sent once.
    Remove,
    /// A descriptor to be closed, once all before it is done.
    Barrier,
}

impl Kind {
    /// Whether all of this kind must arrive, and not only the newest.
    fn counts(self) -> bool {
        matches!(self, Self::Store | Self::Remove | Self::Barrier)
    }
}

/// A message that waits.
#[derive(Debug)]
struct Message {
    kind: Kind,
    text: String,
    descriptor: Option<OwnedFd>,
}

/// Why messages still wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// None waits.
    Sent,
    /// The queue of the socket is full.
    Full,
    /// Nobody has the socket open.
    Gone,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    waiting: Mutex<VecDeque<Message>>,
    changed: Notify,
}

/// The address that a value of `NOTIFY_SOCKET` names.
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) if !name.is_empty() => SocketAddr::from_abstract_name(name),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Opens the socket that `NOTIFY_SOCKET` names, if it is set. To be called once, before root is given up.
pub fn open() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let name = name.to_string_lossy();
    match address(&name).and_then(Manager::new) {
        Ok(manager) => drop(MANAGER.set(manager)),
        Err(e) => log::warn!(
            "NOTIFY_SOCKET={}: the service manager cannot be told anything: {e}; expected an absolute path of at most 107 bytes, or @ \
             and a name in the abstract namespace",
            escape(&name)
        ),
    }
}

/// Whether there is a service manager to be told anything.
#[must_use]
pub fn is_open() -> bool {
    MANAGER.get().is_some()
}

/// Tells the service manager something, at once or as soon as it can be told.
pub fn send(kind: Kind, states: &[NotifyState<'_>], descriptor: Option<OwnedFd>) {
    if let Some(manager) = MANAGER.get() {
        let text = states.iter().flat_map(|state| [state.to_string(), "\n".to_owned()]).collect();
        manager.send(Message { kind, text, descriptor });
    }
}

/// Has the runtime look after a descriptor, without a copy of it.
///
/// # Errors
/// Those of the system. Must be called in a tokio runtime.
pub fn watch(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    #[expect(unsafe_code, reason = "the descriptor must stay open, and that is what a borrowed one does")]
    // SAFETY: a borrowed descriptor is open as long as it is borrowed, and always the same one.
    unsafe {
        Ok(AsyncFd::register_with_interest(descriptor, interest)?)
    }
}

/// Sends what waits while the runtime runs. Never returns.
pub async fn attend() {
    match MANAGER.get() {
        Some(manager) => manager.attend().await,
        None => std::future::pending().await,
    }
}

/// Gives up what waits of a handover that is not to be.
pub fn forget_descriptors() {
    if let Some(manager) = MANAGER.get() {
        manager.lock().retain(|message| !matches!(message.kind, Kind::Store | Kind::Barrier));
    }
}

/// Waits, when no runtime runs any more, until descriptors are let go; for `time` at most. Nothing else matters at the end.
pub fn finish(time: Duration) {
    if let Some(manager) = MANAGER.get() {
        manager.finish(time);
    }
}

impl Manager {
    fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        if let Err(e) = socket.connect_addr(&address) {
            log::warn!("the service manager cannot be reached at NOTIFY_SOCKET yet: {e}; it is tried again");
        }
        Ok(Self { socket, address, waiting: Mutex::default(), changed: Notify::new() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Message>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, message: Message) {
        let mut waiting = self.lock();
        if !message.kind.counts() {
            waiting.retain(|other| other.kind != message.kind);
        }
        let is_first = waiting.is_empty();
        waiting.push_back(message);
        drop(waiting);
        if is_first && self.flush() != Outcome::Sent {
            if let Some(more) = SLOW.pass() {
                log::warn!("the service manager does not take messages; they wait, and the relay goes on{more}");
            }
            self.changed.notify_one();
        }
    }

    /// Sends what waits, in its order, as far as that is possible at once.
    fn flush(&self) -> Outcome {
        let mut waiting = self.lock();
        let mut connected = false;
        while let Some(message) = waiting.front() {
            match self.try_send(message) {
                Ok(()) => {}
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Outcome::Full,
                Err(Errno::ECONNREFUSED | Errno::ENOTCONN | Errno::ECONNRESET | Errno::EPIPE | Errno::EDESTADDRREQ) => {
                    if connected || self.socket.connect_addr(&self.address).is_err() {
                        return Outcome::Gone;
                    }
                    connected = true;
                    continue;
                }
                Err(e) => log::warn!("cannot tell the service manager {:?}: {e}", message.text),
            }
            waiting.pop_front();
        }
        Outcome::Sent
    }

    fn try_send(&self, message: &Message) -> Result<(), Errno> {
        let bytes = [IoSlice::new(message.text.as_bytes())];
        let descriptors: Vec<_> = message.descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.socket.as_raw_fd(), &bytes, rights, flags, None).map(drop)
    }

    async fn attend(&self) {
        let socket = match watch(self.socket.as_fd(), Interest::WRITABLE) {
            Ok(socket) => socket,
            Err(e) => return log::warn!("cannot wait for the service manager: {e}"),
        };
        loop {
            // The pause is for what no event tells, such as a new socket in the place of the old one.
            let ready = timeout(PAUSE, socket.writable()).await;
            match self.flush() {
                Outcome::Sent => self.changed.notified().await,
                Outcome::Full => {
                    if let Ok(Ok(mut ready)) = ready {
                        ready.clear_ready();
                    }
                }
                Outcome::Gone => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn finish(&self, time: Duration) {
        self.lock().retain(|message| message.kind == Kind::Remove);
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.flush() {
                Outcome::Sent => return,
                _ if left.is_zero() => return,
                Outcome::Gone => sleep(left.min(PAUSE / 10)),
                Outcome::Full => {
                    let time = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                    let _ = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], time);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: Kind, text: &str) -> Message {
        Message { kind, text: text.into(), descriptor: None }
    }

    /// A manager whose queue is full, and the other end of its socket.
    fn full() -> (tempfile::TempDir, UnixDatagram, Manager) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let peer = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::new(address(path.to_str().unwrap()).unwrap()).unwrap();
        while manager.socket.send(b"other").is_ok() {}
        peer.set_nonblocking(true).unwrap();
        (directory, peer, manager)
    }

    fn heard(peer: &UnixDatagram) -> Vec<String> {
        let mut bytes = [0; 64];
        let texts = std::iter::from_fn(|| {
            let length = peer.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        });
        texts.filter(|text| text != "other").collect()
    }

    #[test]
    fn what_waits_goes_in_order_with_the_newest_status_and_every_descriptor() {
        let (_directory, peer, manager) = full();
        for (kind, text) in [
            (Kind::Store, "store 0"),
            (Kind::Status, "status 0"),
            (Kind::Ready, "ready"),
            (Kind::Watchdog, "beat 0"),
            (Kind::Store, "store 1"),
            (Kind::Status, "status 1"),
            (Kind::Remove, "remove"),
            (Kind::Watchdog, "beat 1"),
        ] {
            manager.send(message(kind, text));
        }
        assert_eq!(heard(&peer), [""; 0]);
        assert_eq!(manager.flush(), Outcome::Sent);
        assert_eq!(heard(&peer), ["store 0", "ready", "store 1", "status 1", "remove", "beat 1"]);
    }

    #[test]
    fn reloads_that_nobody_hears_of_leave_one_pair_that_ends_with_ready() {
        let (_directory, peer, manager) = full();
        for _ in 0..1000 {
            manager.send(message(Kind::Reloading, "reloading"));
            manager.send(message(Kind::Ready, "ready"));
        }
        heard(&peer);
        manager.flush();
        assert_eq!(heard(&peer), ["reloading", "ready"]);
    }

    #[tokio::test]
    async fn room_in_the_queue_is_an_event() {
        let (_directory, peer, manager) = full();
        manager.send(message(Kind::Ready, "ready"));
        let send = manager.attend();
        let hear = async {
            // The task has found the queue full by now.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let start = Instant::now();
            let mut all = heard(&peer);
            while all.is_empty() {
                tokio::task::yield_now().await;
                all = heard(&peer);
            }
            (all, start.elapsed())
        };
        let (all, took) = tokio::select! { () = send => unreachable!(), heard = hear => heard };
        assert_eq!(all, ["ready"]);
        assert!(took < PAUSE, "{took:?}");
    }

    #[test]
    fn a_socket_in_the_place_of_the_old_one_is_found_without_a_new_descriptor() {
        let (directory, peer, manager) = full();
        let path = directory.path().join("notify");
        drop(peer);
        std::fs::remove_file(&path).unwrap();
        manager.send(message(Kind::Ready, "ready"));
        assert_eq!(manager.flush(), Outcome::Gone);
        let (peer, number) = (UnixDatagram::bind(&path).unwrap(), manager.socket.as_raw_fd());
        peer.set_nonblocking(true).unwrap();
        assert_eq!(manager.flush(), Outcome::Sent);
        assert_eq!((heard(&peer), manager.socket.as_raw_fd()), (vec!["ready".to_owned()], number));
    }

    #[test]
    fn the_end_waits_for_what_is_let_go_and_not_for_long() {
        let (_directory, peer, manager) = full();
        manager.send(message(Kind::Stopping, "stopping"));
        manager.send(message(Kind::Remove, "remove"));
        manager.finish(Duration::from_millis(20));
        heard(&peer);
        manager.finish(PAUSE);
        assert_eq!(heard(&peer), ["remove"]);
    }

    #[test]
    fn a_path_and_an_abstract_name_are_addresses_and_nothing_else() {
        assert_eq!(address("@a/b").unwrap().as_abstract_name(), Some(&b"a/b"[..]));
        assert!(address("/run/notify").unwrap().as_pathname().is_some());
        let long = format!("/{}", "a".repeat(200));
        for name in ["", "@", "notify", "vsock:2:1", &long] {
            assert!(address(name).is_err(), "{name}");
        }
    }
}
