//! The relaying of one channel to one viewer, and the deadlines that it keeps.

use super::disconnect::Left;
use super::socket::{Received, Socket};
use crate::config::Clients;
use crate::context::Shared;
use crate::deadline::{turns, was_paused};
use crate::hub::cursor::{Cursor, Turn};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

/// The most reads, or writes, made before other tasks get their turn.
const STEPS: usize = 8;

/// A viewer that gets its channel's messages.
#[derive(Debug)]
pub(super) struct Relaying {
    /// Its connection.
    pub(super) socket: Socket,
    /// Its place in the channel.
    pub(super) cursor: Cursor,
    clock: Clock,
}

/// What a viewer waits for besides its own messages and its clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// More in the log.
    Log,
    /// Room in the socket.
    Room,
    /// Only its turn.
    Turn,
}

impl Relaying {
    /// One that begins now.
    pub(super) fn new(socket: Socket, cursor: Cursor, clients: &Clients) -> Self {
        Self { socket, cursor, clock: Clock::new(clients) }
    }

    /// Writes the channel to the viewer until one of them ends.
    pub(super) async fn relay(&mut self, shared: &Shared) -> Left {
        let log = Arc::clone(self.cursor.changed());
        let mut timer = pin!(sleep_until(self.clock.next()));
        loop {
            let mut changed = pin!(log.notified());
            let wait = match self.step(shared) {
                Ok(wait) => wait,
                Err(left) => return left,
            };
            let rang = if wait == Wait::Turn {
                yield_now().await;
                self.clock.next() <= Instant::now()
            } else {
                self.clock.arm(timer.as_mut());
                let stream = self.socket.stream();
                poll_fn(|cx| {
                    let room = wait == Wait::Room && stream.poll_write_ready(cx).is_ready();
                    let log = wait == Wait::Log && changed.as_mut().poll(cx).is_ready();
                    if room || log || stream.poll_read_ready(cx).is_ready() {
                        return Poll::Ready(false);
                    }
                    timer.as_mut().poll(cx).map(|()| true)
                })
                .await
            };
            if rang {
                let paused = self.clock.was_paused();
                if self.clock.is_over() {
                    // What the viewer sent or took in time comes first.
                    for _ in 0..turns() {
                        yield_now().await;
                        if let Err(left) = self.look(shared).await {
                            return left;
                        }
                    }
                }
                match self.clock.ring(&shared.settings().clients, paused) {
                    Ok(true) => self.socket.ping(),
                    Ok(false) => {}
                    Err(left) => return left,
                }
            }
        }
    }

    /// Reads what the viewer sent, and writes what it has not got yet.
    fn step(&mut self, shared: &Shared) -> Result<Wait, Left> {
        let more = self.read()?;
        let wait = self.write(shared)?;
        Ok(if more { Wait::Turn } else { wait })
    }

    /// The same at a deadline. It writes only if the viewer has made room: one that has not is stalled, whatever became of its channel.
    async fn look(&mut self, shared: &Shared) -> Result<(), Left> {
        self.read()?;
        let stream = self.socket.stream();
        if poll_fn(|cx| Poll::Ready(stream.poll_write_ready(cx).is_ready())).await {
            self.write(shared)?;
        }
        Ok(())
    }

    /// Reads what the viewer sent, which only shows that it lives; returns whether there may be more.
    fn read(&mut self) -> Result<bool, Left> {
        for _ in 0..STEPS {
            match self.socket.receive()? {
                Received::Message(_) => self.clock.answered(),
                Received::Part => {}
                Received::Nothing => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes what the viewer has not got yet.
    fn write(&mut self, shared: &Shared) -> Result<Wait, Left> {
        for _ in 0..STEPS {
            if self.socket.has_control() && self.cursor.rest().is_empty() {
                if !self.socket.write_control()? {
                    self.clock.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                self.clock.wrote();
                continue;
            }
            let stream = self.socket.stream();
            match self.cursor.turn(|bytes| stream.try_write(bytes)) {
                Ok(Turn::Wrote) => self.clock.wrote(),
                Ok(Turn::CaughtUp) if !stream.flush()? => {
                    self.clock.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                Ok(Turn::CaughtUp) => {
                    self.clock.wrote();
                    return Ok(Wait::Log);
                }
                Ok(Turn::Ended(end)) => return Err(end.into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.clock.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Wait::Turn)
    }
}

/// A viewer's deadlines.
#[derive(Debug)]
struct Clock {
    ping_at: Instant,
    answer_by: Option<Instant>,
    room_by: Option<Instant>,
}

impl Clock {
    fn new(clients: &Clients) -> Self {
        Self { ping_at: Instant::now() + clients.ping_interval.duration(), answer_by: None, room_by: None }
    }

    fn next(&self) -> Instant {
        [self.answer_by, self.room_by].into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    /// Whether the viewer is to be given up, if it has not sent or taken anything meanwhile.
    fn is_over(&self) -> bool {
        let now = Instant::now();
        [self.answer_by, self.room_by].into_iter().flatten().any(|by| by <= now)
    }

    /// Whether this process was paused before it saw that the next deadline is over.
    fn was_paused(&self) -> bool {
        was_paused(self.next())
    }

    /// Sets the timer to the next deadline. One that moved further away is found when the timer rings.
    fn arm(&self, timer: Pin<&mut Sleep>) {
        let next = self.next();
        if next < timer.deadline() || timer.is_elapsed() {
            timer.reset(next);
        }
    }

    /// Nothing could be written.
    fn blocked(&mut self, clients: &Clients) {
        self.room_by.get_or_insert_with(|| Instant::now() + clients.stall_timeout.duration());
    }

    /// Something was written; after a stall, that shows that the viewer reads.
    fn wrote(&mut self) {
        if self.room_by.take().is_some() {
            self.answer_by = None;
        }
    }

    /// The viewer sent something.
    fn answered(&mut self) {
        self.answer_by = None;
    }

    /// What is due now: true for a ping. `paused` is whether this process was paused meanwhile.
    fn ring(&mut self, clients: &Clients, paused: bool) -> Result<bool, Left> {
        let now = Instant::now();
        let over = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        match (over(self.room_by), over(self.answer_by)) {
            (false, false) => {}
            // The viewer could not be heard: it is asked again, and has the whole time again.
            _ if paused => {
                if self.room_by.is_some() {
                    self.room_by = Some(now + clients.stall_timeout.duration());
                }
                (self.answer_by, self.ping_at) = (None, now);
            }
            (true, _) => return Err(Left::Stalled),
            (false, true) => return Err(Left::Silent),
        }
        if self.ping_at > now {
            return Ok(false);
        }
        self.ping_at = now + clients.ping_interval.duration();
        self.answer_by.get_or_insert_with(|| now + clients.ping_timeout.duration());
        Ok(true)
    }
}
