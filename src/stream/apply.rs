//! The records of an entry, applied to the hub: each batch once.

use crate::config::History;
use crate::hub;
use crate::logging::Throttle;
use crate::snapshot::stream::{EntryId, Place};
use crate::stream::MessageStream;
use crate::stream::clock::Time;
use crate::stream::record::{self, Record};
use crate::stream::seen::Verdict;
use std::time::Duration;
use tokio::time::Instant;

static OTHER_LIMITS: Throttle = Throttle::new(Duration::from_secs(600));
static MISSING: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static UNREADABLE: Throttle = Throttle::new(Duration::from_secs(60));

/// The outcome of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// Its records are in the hub, or were there before.
    Done,
    /// This many batches are missing before it. It was not applied.
    Gap(u64),
}

/// Returns a checksum of the limits by which a node keeps history: nodes with the same keep the same.
pub(super) fn checksum(history: &History) -> u32 {
    let History { finished, unfinished, release_failed, release_aborted, state: _, .. } = history;
    let times = [finished, unfinished, release_failed, release_aborted].map(|time| time.duration());
    let sizes = [history.channel_messages, history.channel_bytes, history.total_bytes];
    crc32fast::hash(format!("{times:?}{sizes:?}").as_bytes())
}

impl MessageStream {
    /// Applies a batch that came at `time`. Batches that are missing before it are given up if `over_gaps` is true.
    ///
    /// While a node catches up, that is in the past, and the hub first does what was due until then.
    pub(super) fn apply(&self, id: EntryId, batch: &[u8], time: Time, over_gaps: bool) -> Applied {
        let (head, rest) = match record::split(batch) {
            Ok(parts) => parts,
            Err(e) => {
                self.skip_unreadable(id, &e);
                return Applied::Done;
            }
        };
        let (ingest, number) = (head.ingest, head.number);
        let verdict = self.reading().seen.judge(ingest, number);
        match verdict {
            Verdict::Known => return Applied::Done,
            Verdict::Gap(missing) if !over_gaps => return Applied::Gap(missing),
            Verdict::Gap(missing) => {
                if let Some(more) = MISSING.pass() {
                    log::error!(
                        "{missing} batches of node {} are missing in the stream before entry {id}: their messages are lost, unless they \
                         come later{more}",
                        head.node.escape_debug()
                    );
                }
            }
            Verdict::New => {}
        }
        match record::records(rest) {
            Ok(records) => self.publish(id, Place { ingest, batch: number, index: 0 }, &records, time),
            Err(e) => self.skip_unreadable(id, &e),
        }
        self.reading().seen.note(ingest, number, id);
        self.metrics.cluster.read.add(1);
        // Batches from before tell nothing: the limits of all nodes may have been changed since.
        if !time.is_known && ingest != self.ingest().id() {
            self.compare_limits(head.limits, &head.node);
        }
        Applied::Done
    }

    fn publish(&self, id: EntryId, next: Place, records: &[Record<'_>], time: Time) {
        if time.is_known {
            self.hub.expire_until(time.at);
        }
        let mut publisher = self.hub.publisher_of(time.at, hub::Entry { id, next });
        for record in records {
            match record {
                Record::Message { channel, kind, frame } => publisher.publish(channel, *kind, frame),
                Record::Release { channel, of } => publisher.release(channel, *of),
            }
        }
    }

    /// Logs a batch that cannot be read. No node writes one.
    fn skip_unreadable(&self, id: EntryId, why: &record::Unreadable) {
        if let Some(more) = UNREADABLE.pass() {
            let key = self.key();
            log::error!("{key}: entry {id} is left out: {why}; who else writes to this key?{more}");
        }
    }

    /// Names a node that keeps another history than this one.
    fn compare_limits(&self, limits: u32, node: &str) {
        if limits == self.ingest().limits() {
            return;
        }
        self.condition_mut().other_limits = Some(Instant::now());
        if let Some(more) = OTHER_LIMITS.pass() {
            log::warn!(
                "node {} has other history.* limits than this one, so that late viewers may see other histories; set the same on \
                 all nodes{more}",
                node.escape_debug()
            );
        }
    }
}

#[cfg(test)]
mod tests;
