//! The connects that wait at a shared port when the monitor stops. They are accepted before the socket is closed, because the system
//! would reset them.
//!
//! Other instances stay at the port, and the system has already chosen this one for these connects.

use crate::deadline::timeout_at;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use std::future::poll_fn;
use std::io;
use std::net::{self, Shutdown};
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The most time for accepting: clients may connect as fast as they are accepted.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// A copy of a listening socket, which is there after the task that accepts has ended.
#[derive(Debug)]
pub(crate) struct Backlog(net::TcpListener);

impl Backlog {
    /// Copies a listening socket.
    ///
    /// # Errors
    /// If there is no free descriptor.
    pub(crate) fn of(listener: &TcpListener) -> io::Result<Self> {
        listener.as_fd().try_clone_to_owned().map(|copy| Self(copy.into()))
    }

    /// Accepts with `accept` every connect that waits, and then closes the socket for all processes that hold it. New connects go to the
    /// other instances from then on. `accept` must accept for ever.
    pub(crate) async fn drain<F: Future<Output = ()>>(self, accept: impl FnOnce(TcpListener) -> F) {
        match self.0.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => {
                let mut accepting = pin!(accept(listener));
                let drained = poll_fn(|cx| {
                    let _ = accepting.as_mut().poll(cx);
                    if self.is_empty() { Poll::Ready(()) } else { Poll::Pending }
                });
                let _ = timeout_at(Instant::now() + DRAIN_LIMIT, drained).await;
            }
            Err(e) => log::debug!("connects that wait are closed: {e}"),
        }
        // The service manager has a copy, too, and nobody would accept at it.
        if let Err(e) = SockRef::from(&self.0).shutdown(Shutdown::Both) {
            log::debug!("a shared port is still listened at: {e}");
        }
    }

    fn is_empty(&self) -> bool {
        let mut waits = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut waits, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
    }
}
