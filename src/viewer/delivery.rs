//! The delivery of one channel to one viewer.

use super::deadlines::Deadlines;
use super::disconnect::Disconnect;
use super::socket::{Received, Socket};
use crate::config::Clients;
use crate::context::Shared;
use crate::deadline::turns;
use crate::hub::cursor::{Cursor, Turn};
use crate::hub::fan_out::pings::Pings;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// The most reads, or writes, made before other tasks get their turn.
const STEPS: usize = 8;
/// The least time for which a viewer that was quiet stays busy.
const STAY: Duration = Duration::from_secs(1);

/// A viewer that gets its channel's messages.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) socket: Socket,
    /// Its position in the channel.
    pub(super) cursor: Cursor,
    deadlines: Deadlines,
    /// The time until which the viewer stays busy, because it was quiet before: or it could have a new task made for every byte it sends.
    stay_until: Option<Instant>,
}

/// The event that a viewer waits for, besides its own messages and its deadlines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// More in the log.
    Log,
    /// Room in the socket.
    Room,
    /// Only its turn.
    Turn,
}

impl Delivery {
    /// Begins a delivery.
    pub(super) fn new(socket: Socket, cursor: Cursor, pings: Pings) -> Self {
        Self { socket, cursor, deadlines: Deadlines::new(pings), stay_until: None }
    }

    /// Goes on with a viewer that was quiet. `is_full` is true if its socket took only a part of the last write.
    pub(super) fn after_quiet(socket: Socket, cursor: Cursor, pings: Pings, is_full: bool, clients: &Clients) -> Self {
        let mut deadlines = Deadlines::new(pings);
        if is_full {
            deadlines.blocked(clients);
        }
        Self { socket, cursor, deadlines, stay_until: Some(Instant::now() + STAY) }
    }

    /// Returns the deadlines that stay while the viewer is quiet.
    pub(super) fn pings(&self) -> Pings {
        self.deadlines.pings()
    }

    /// Writes the channel to the viewer until it may become quiet. Fails with the reason if one of them ends before.
    pub(super) async fn run(&mut self, shared: &Shared) -> Result<(), Disconnect> {
        let log = Arc::clone(self.cursor.changed());
        let mut timer = pin!(sleep_until(self.deadlines.next()));
        loop {
            let mut changed = pin!(log.notified());
            let mut wait = self.step(shared)?;
            if wait == Wait::Log && self.may_become_quiet() {
                if self.socket.is_idle() {
                    return Ok(());
                }
                // A pong for which there was no room before.
                if self.socket.has_control() {
                    wait = Wait::Turn;
                }
            }
            let is_due = if wait == Wait::Turn {
                yield_now().await;
                self.deadlines.next() <= Instant::now()
            } else {
                self.deadlines.arm(timer.as_mut(), self.stay_until.filter(|_| wait == Wait::Log));
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
            // Boxed: its room would be kept for as long as the viewer stays, and there are many.
            if is_due {
                Box::pin(self.keep_deadlines(shared)).await?;
            }
        }
    }

    /// Returns true unless the viewer has to stay busy for some time yet.
    fn may_become_quiet(&mut self) -> bool {
        if self.stay_until.is_some_and(|until| until <= Instant::now()) {
            self.stay_until = None;
        }
        self.stay_until.is_none()
    }

    /// Sends the ping that is due at a deadline, or gives the viewer up.
    async fn keep_deadlines(&mut self, shared: &Shared) -> Result<(), Disconnect> {
        let paused = self.deadlines.was_paused();
        if self.deadlines.is_over() {
            // Bytes that the viewer sent or took in time are handled first.
            for _ in 0..turns() {
                yield_now().await;
                self.step_at_deadline(shared).await?;
            }
        }
        if self.deadlines.check(&shared.settings().clients, paused)? {
            self.socket.ping();
        }
        Ok(())
    }

    /// Reads the viewer's messages, and writes the channel's.
    fn step(&mut self, shared: &Shared) -> Result<Wait, Disconnect> {
        let more = self.read()?;
        let wait = self.write(shared)?;
        Ok(if more { Wait::Turn } else { wait })
    }

    /// Does the same at a deadline. It writes only if the viewer has made room: without it the viewer is stalled, even if its channel
    /// has ended.
    async fn step_at_deadline(&mut self, shared: &Shared) -> Result<(), Disconnect> {
        self.read()?;
        let stream = self.socket.stream();
        if poll_fn(|cx| Poll::Ready(stream.poll_write_ready(cx).is_ready())).await {
            self.write(shared)?;
        }
        Ok(())
    }

    /// Reads the viewer's messages, which only show that it lives; returns true if there may be more.
    fn read(&mut self) -> Result<bool, Disconnect> {
        for _ in 0..STEPS {
            match self.socket.receive()? {
                Received::Message(_) => self.deadlines.answered(),
                Received::Part => {}
                Received::Nothing => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes the messages that the viewer has not got yet.
    fn write(&mut self, shared: &Shared) -> Result<Wait, Disconnect> {
        for _ in 0..STEPS {
            if self.socket.has_control() && self.cursor.rest().is_empty() {
                if !self.socket.write_control()? {
                    self.deadlines.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                self.deadlines.wrote();
                continue;
            }
            let stream = self.socket.stream();
            match self.cursor.turn(|bytes| stream.try_write(bytes)) {
                Ok(Turn::Wrote) => self.deadlines.wrote(),
                Ok(Turn::CaughtUp) if !stream.flush()? => {
                    self.deadlines.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                Ok(Turn::CaughtUp) => {
                    self.deadlines.wrote();
                    return Ok(Wait::Log);
                }
                Ok(Turn::Ended(end)) => return Err(end.into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.deadlines.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Wait::Turn)
    }
}
