//! The probe: a message that the monitor sends to itself, to show that it relays.

use crate::hub::Hub;
use crate::hub::fan_out::Key;
use crate::hub::fan_out::pings::Pings;
use crate::hub::run::PROBE;
use crate::wire::close::End;
use crate::wire::message::{Kind, RELEASE_FRAME};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

/// The owner of the probe's entry: nobody.
const NOBODY: u32 = u32::MAX;
/// The time until the probe's first ping, which it never reaches.
const NO_PING: Duration = Duration::from_secs(86_400);

/// A probe whose message has come out; dropping it removes its entry and its run.
pub(crate) struct Probe<'a> {
    hub: &'a Arc<Hub>,
    /// Held so that only one probe has sockets.
    _only: MutexGuard<'a, ()>,
    far: Option<UnixStream>,
    slot: usize,
    key: Key,
}

impl Probe<'_> {
    /// Hangs up, and completes when the entry has been handed back for that.
    pub(crate) async fn hang_up(mut self) {
        self.far = None;
        loop {
            let over = self.hub.probe_over.notified();
            if !self.hub.has_entry(self.key) {
                return;
            }
            over.await;
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        if let Some(far) = &mut self.far {
            far.read_exact(&mut [0; RELEASE_FRAME.len()]).await?;
        }
        Ok(())
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut table = self.hub.table();
        if let Some(run) = table.runs.get_mut(self.slot).filter(|run| run.is_probe() && run.lifecycle.is_some()) {
            run.discard(End::Finished);
            table.remove(self.slot);
        }
        drop(table);
        self.hub.remove_quiet(self.key);
    }
}

impl Hub {
    /// Sends a message through the hub to a quiet viewer of its own, and completes when it has come out of the socket. It evicts no
    /// history. `None` once the hub stops. `watch` is passed to [`Hub::join`].
    ///
    /// # Errors
    /// If there are no sockets for it, or `watch` fails; [`io::ErrorKind::UnexpectedEof`] if its viewer was closed.
    pub(crate) async fn probe(
        self: &Arc<Self>,
        watch: impl FnOnce(BorrowedFd<'_>, Key) -> io::Result<()>,
    ) -> io::Result<Option<Probe<'_>>> {
        let only = self.probing.lock().await;
        let (near, far) = net::UnixStream::pair()?;
        far.set_nonblocking(true)?;
        let far = Some(UnixStream::from_std(far)?);
        let (cursor, pings) = (self.subscribe(Instant::now(), PROBE), Pings::at(Instant::now() + NO_PING));
        if self.table().stopping {
            return Ok(None);
        }
        let (slot, mut watched) = (cursor.slot(), Ok(()));
        let key = self.join(cursor, near.into(), pings, NOBODY, |socket, key| {
            watched = watch(socket, key);
            Ok(())
        });
        let mut probe = Probe { hub: self, _only: only, far, slot, key };
        watched?;
        self.publish(Instant::now(), PROBE, Kind::Progress, RELEASE_FRAME);
        probe.receive().await?;
        Ok(Some(probe))
    }

    /// Notes that the entry of a probe was handed back.
    pub(crate) fn end_probe(&self) {
        self.probe_over.notify_one();
    }
}
