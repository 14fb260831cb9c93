//! Parts of the fan-out for tests and fuzz targets: viewers become quiet and busy without a runtime, and slices are cut at any step.

use crate::config::Clients;
use crate::hub::Hub;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::round::STEPS_IN_TEST;
use crate::hub::fan_out::{HandBack, Key, Position, Reason};
use rustix::net::sockopt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tokio::time::Instant;

/// A viewer that was quiet, as fuzz targets see it.
#[derive(Debug)]
pub struct Returned {
    /// Its end of the pair of sockets.
    pub socket: UnixStream,
    /// Its position in its run.
    pub cursor: Cursor,
    /// The number that it had.
    pub owner: u32,
    /// The rest of a ping, which it is to get next.
    pub ping: &'static [u8],
    /// The bytes that it has sent, if it was handed back for them.
    pub spoke: Option<Vec<u8>>,
}

impl From<HandBack> for Returned {
    fn from(back: HandBack) -> Self {
        let HandBack { socket, position, owner, reason, .. } = back;
        let Position::Reading(cursor) = position else { panic!("tests close viewers by themselves") };
        let (ping, spoke): (&[u8], _) = match reason {
            Reason::Ping(rest) => (rest, None),
            Reason::Spoke(bytes) => (&[], Some(bytes)),
            _ => (&[], None),
        };
        Self { socket: socket.into(), cursor, owner, ping, spoke }
    }
}

#[cfg(test)]
impl HandBack {
    /// Returns the cursor of a viewer that is in its run.
    pub(in crate::hub) fn into_cursor(self) -> Cursor {
        match self.position {
            Position::Reading(cursor) => cursor,
            Position::Closing(end) => panic!("it is being closed: {end:?}"),
        }
    }
}

/// Returns the two ends of a connection. If it is `narrow`, the first end takes only a few frames.
///
/// # Panics
/// If the system has no sockets.
#[must_use]
pub fn connection(narrow: bool) -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().expect("there are sockets");
    for end in [&near, &far] {
        end.set_nonblocking(true).expect("it is a socket");
    }
    if narrow {
        sockopt::set_socket_send_buffer_size(&near, 1).expect("it is a socket");
    }
    (near, far)
}

/// Has every slice end after so many steps, in this thread.
pub fn cut_slices(steps: Option<u32>) {
    STEPS_IN_TEST.set(steps);
}

impl Hub {
    /// Makes a viewer quiet if it has everything; returns the name of its entry.
    ///
    /// # Errors
    /// Its cursor, if it has not.
    pub fn make_quiet(
        &self,
        cursor: Cursor,
        socket: UnixStream,
        ping_at: Instant,
        owner: u32,
    ) -> Result<u64, Box<Cursor>> {
        if !cursor.is_caught_up() {
            return Err(Box::new(cursor));
        }
        Ok(self.join(cursor, socket.into(), Pings::at(ping_at), owner, |_, _| Ok(())).into())
    }

    /// Reads what the quiet viewer of this name has sent.
    pub fn hear_from(&self, key: u64) {
        self.hear(Key::from(key));
    }

    /// Writes to quiet viewers for a slice; returns true if there is more to write.
    pub fn write_slice(&self) -> bool {
        self.deliver()
    }

    /// Looks at quiet viewers' deadlines for a slice; returns true if there are more.
    pub fn sweep_slice(&self, now: Instant) -> bool {
        self.sweep(now, &Clients::default())
    }

    /// Returns the next viewer that must become busy.
    pub fn next_returned(self: &Arc<Self>) -> Option<Returned> {
        self.next_back().map(Into::into)
    }

    /// Returns the next viewer of a run that has ended.
    pub fn next_closed(self: &Arc<Self>) -> Option<Returned> {
        self.next_ended().map(Into::into)
    }

    /// Returns any viewer that is quiet or waits to be handed back.
    pub fn next_at_end(self: &Arc<Self>) -> Option<Returned> {
        self.next_left().map(Into::into)
    }

    /// Does the same.
    pub(in crate::hub) fn next_left(self: &Arc<Self>) -> Option<HandBack> {
        self.next_remaining(&mut 0)
    }

    /// Returns the next viewer of a run that has ended, instead of a close frame to it.
    pub(in crate::hub) fn next_ended(self: &Arc<Self>) -> Option<HandBack> {
        let mut table = self.table();
        let index = table.next_ended()?;
        Some(table.take_any(index, self))
    }

    /// Returns the time of the next sweep.
    #[cfg(test)]
    pub(in crate::hub) fn sweep_at(&self) -> Option<Instant> {
        self.table().fan_out.sweep_at
    }
}
