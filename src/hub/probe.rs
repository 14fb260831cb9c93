//! The probe: a message that the monitor sends to itself, to show that it relays.

use crate::hub::Hub;
use crate::hub::fan_out::Key;
use crate::hub::fan_out::pings::Pings;
use crate::hub::run::PROBE;
use crate::wire::close::End;
use crate::wire::message::{Kind, RELEASE_FRAME};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// The owner of the probe's entry: nobody.
pub(crate) const NOBODY: u32 = u32::MAX;
/// The time until the probe would be pinged: it does not stay so long.
const NO_PING: Duration = Duration::from_secs(86_400);

/// The probe's entry; dropping it removes the entry and the run.
struct Entry<'a> {
    hub: &'a Arc<Hub>,
    slot: usize,
    key: Key,
}

impl Drop for Entry<'_> {
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
    /// history. Once the hub stops, it completes at once.
    ///
    /// # Errors
    /// If there are no sockets for it.
    pub(crate) async fn probe(self: &Arc<Self>) -> io::Result<()> {
        let _one = self.probing.lock().await;
        let (near, mut far) = UnixStream::pair()?;
        let (cursor, pings) = (self.subscribe(Instant::now(), PROBE), Pings::at(Instant::now() + NO_PING));
        if self.table().stopping {
            return Ok(());
        }
        let (slot, near) = (cursor.slot(), near.into_std()?.into());
        let _entry = Entry { hub: self, slot, key: self.join(cursor, near, pings, NOBODY, |_, _| Ok(())) };
        self.publish(Instant::now(), PROBE, Kind::Progress, RELEASE_FRAME);
        far.read_exact(&mut [0; RELEASE_FRAME.len()]).await?;
        Ok(())
    }
}
