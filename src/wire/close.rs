//! The ends of a channel, and the bytes that close a viewer's WebSocket with them.
//!
//! Reasons that are a viewer's own are in `viewer::disconnect`, the codes that are counted in `metrics::labels`.

use super::message::RELEASE_FRAME;
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// The time in which a viewer has to answer a close frame.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason for which a viewer gets nothing more from a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The run finished and everything was delivered.
    Finished,
    /// The monitor stops and everything was delivered.
    Stopping,
    /// The job never finished and was silent for too long.
    Expired,
    /// The history of all channels together was too large.
    Evicted,
    /// The viewer was slower than the bounds of its channel allow.
    Behind,
}

impl End {
    /// Returns the close code and the reason text for a viewer.
    #[must_use]
    pub fn close(self) -> (CloseCode, &'static str) {
        match self {
            Self::Finished => (CloseCode::Normal, ""),
            Self::Stopping => (CloseCode::Away, "the monitor stops"),
            Self::Expired => (CloseCode::Away, "the job never finished"),
            Self::Evicted => (CloseCode::Again, "the job's history had to go"),
            Self::Behind => (CloseCode::Again, "too slow for the job's history"),
        }
    }

    /// Returns the last bytes for a viewer whose answer is not waited for: FINISHED, if `finish` is set and the viewer has not got the
    /// job's own, then a close frame. The viewer must be between two frames.
    #[must_use]
    pub fn closing_bytes(self, finish: bool) -> Vec<u8> {
        let (code, reason) = self.close();
        let mut bytes = if finish && self != Self::Finished { RELEASE_FRAME.to_vec() } else { Vec::new() };
        // A control frame has at most 125 bytes; the reasons above are much shorter.
        bytes.extend([0x88, u8::try_from(2 + reason.len()).unwrap_or(2)]);
        bytes.extend(u16::from(code).to_be_bytes());
        bytes.extend(reason.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_jobs_own_end_has_no_finished_of_the_monitors() {
        let text = |end: End, finish| String::from_utf8_lossy(&end.closing_bytes(finish)).into_owned();
        let stop = b"\x88\x13\x03\xe9the monitor stops";
        assert_eq!(End::Stopping.closing_bytes(true), [RELEASE_FRAME, stop].concat());
        assert_eq!(End::Stopping.closing_bytes(false), stop);
        for finish in [false, true] {
            assert_eq!(End::Finished.closing_bytes(finish), b"\x88\x02\x03\xe8");
        }
        for end in [End::Stopping, End::Expired, End::Evicted, End::Behind] {
            assert!(text(end, true).contains("FINISHED") && !text(end, false).contains("FINISHED"), "{end:?}");
            assert!(text(end, true).ends_with(end.close().1), "{end:?}");
        }
    }
}
