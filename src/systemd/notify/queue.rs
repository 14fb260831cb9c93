//! The messages that wait until the service manager takes them.

use crate::deadline::timeout;
use crate::logging::Throttle;
use crate::systemd::notify::socket::{Socket, is_gone};
use crate::systemd::notify::{Kind, watch};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::sync::Notify;

/// The time between two attempts to reach a service manager that cannot be reached.
const PAUSE: Duration = Duration::from_secs(1);

static SLOW: Throttle = Throttle::new(Duration::from_secs(60));

#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) descriptor: Option<OwnedFd>,
}

/// The result of an attempt to send all messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// No message waits any more.
    Sent,
    /// The queue of the socket is full.
    Full,
    /// Nobody has the socket open.
    Gone,
}

#[derive(Debug)]
pub(super) struct Queue {
    socket: Socket,
    waiting: Mutex<VecDeque<Message>>,
    /// Notified when messages begin to wait.
    changed: Notify,
}

impl Queue {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, waiting: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message at once if no other waits, or has it wait. If only the newest of its kind matters, the older one is dropped.
    pub(super) fn send(&self, message: Message) {
        let mut waiting = self.lock();
        if !message.kind.all_count() {
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

    /// Drops the messages that wait and are of one of these kinds.
    pub(super) fn forget(&self, kinds: &[Kind]) {
        self.lock().retain(|message| !kinds.contains(&message.kind));
    }

    /// Sends the messages that wait, in their order, as far as that is possible at once.
    fn flush(&self) -> Outcome {
        let mut waiting = self.lock();
        while let Some(message) = waiting.front() {
            match self.socket.send(&message.text, message.descriptor.as_ref()) {
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return Outcome::Full,
                Err(e) if is_gone(e) => return Outcome::Gone,
                Err(e) => log::warn!("cannot tell the service manager {:?}: {e}", message.text),
            }
            waiting.pop_front();
        }
        Outcome::Sent
    }

    /// Sends messages that wait as soon as the socket takes them. Never returns.
    pub(super) async fn send_waiting(&self) {
        let socket = match watch(self.socket.as_fd(), Interest::WRITABLE) {
            Ok(socket) => socket,
            Err(e) => return log::warn!("cannot wait for the service manager: {e}"),
        };
        loop {
            // Some changes cause no event, such as a new socket at the path of the old one. So the task also tries again after a
            // pause.
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

    /// Blocks until the messages about descriptors to be let go are sent, for `time` at most. All others are dropped.
    pub(super) fn finish(&self, time: Duration) {
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
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    fn message(kind: Kind, text: &str) -> Message {
        Message { kind, text: text.into(), descriptor: None }
    }

    /// A queue whose socket takes no more, and the other end of its socket.
    fn full() -> (tempfile::TempDir, UnixDatagram, Queue) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let peer = UnixDatagram::bind(&path).unwrap();
        let queue = Queue::new(Socket::new(path.to_str().unwrap()).unwrap());
        while queue.socket.send("other", None).is_ok() {}
        peer.set_nonblocking(true).unwrap();
        (directory, peer, queue)
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
        let (_directory, peer, queue) = full();
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
            queue.send(message(kind, text));
        }
        assert_eq!(heard(&peer), [""; 0]);
        assert_eq!(queue.flush(), Outcome::Sent);
        assert_eq!(heard(&peer), ["store 0", "ready", "store 1", "status 1", "remove", "beat 1"]);
    }

    #[test]
    fn reloads_that_nobody_hears_of_leave_one_pair_that_ends_with_ready() {
        let (_directory, peer, queue) = full();
        for _ in 0..1000 {
            queue.send(message(Kind::Reloading, "reloading"));
            queue.send(message(Kind::Ready, "ready"));
        }
        heard(&peer);
        queue.flush();
        assert_eq!(heard(&peer), ["reloading", "ready"]);
    }

    #[tokio::test]
    async fn room_in_the_queue_is_an_event() {
        let (_directory, peer, queue) = full();
        queue.send(message(Kind::Ready, "ready"));
        let sending = queue.send_waiting();
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
        let (all, took) = tokio::select! { () = sending => unreachable!(), heard = hear => heard };
        assert_eq!(all, ["ready"]);
        assert!(took < PAUSE, "{took:?}");
    }

    #[test]
    fn a_socket_in_the_place_of_the_old_one_is_found_without_a_new_descriptor() {
        let (directory, peer, queue) = full();
        let path = directory.path().join("notify");
        drop(peer);
        std::fs::remove_file(&path).unwrap();
        queue.send(message(Kind::Ready, "ready"));
        assert_eq!(queue.flush(), Outcome::Gone);
        let (peer, number) = (UnixDatagram::bind(&path).unwrap(), queue.socket.as_fd().as_raw_fd());
        peer.set_nonblocking(true).unwrap();
        assert_eq!(queue.flush(), Outcome::Sent);
        assert_eq!((heard(&peer), queue.socket.as_fd().as_raw_fd()), (vec!["ready".to_owned()], number));
    }

    #[test]
    fn the_end_waits_for_what_is_let_go_and_not_for_long() {
        let (_directory, peer, queue) = full();
        queue.send(message(Kind::Stopping, "stopping"));
        queue.send(message(Kind::Remove, "remove"));
        queue.finish(Duration::from_millis(20));
        heard(&peer);
        queue.finish(PAUSE);
        assert_eq!(heard(&peer), ["remove"]);
    }
}
