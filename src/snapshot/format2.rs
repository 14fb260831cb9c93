//! Format 2 of a state, which version 2.0.0 writes. It is read, so that an upgrade keeps every connection, and never written.
//!
//! postcard's wire format has no field names: these types must never change.

use crate::peer::Peer;
use crate::snapshot::state::{self, Lifecycle};
use serde::Deserialize;
use std::borrow::Cow;

/// [`state::Run`] in format 2. The state around it has no `history_file` and no `stream`; all else is as in format 3.
#[derive(Debug, Deserialize)]
pub(super) struct Run<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, with = "serde_bytes")]
    frames: Cow<'a, [u8]>,
    start: u64,
    trimmed: bool,
    lifecycle: Lifecycle,
    since: u64,
    touched: u64,
    failed: Option<u64>,
}

/// [`state::Viewer`] in format 2.
#[derive(Debug, Deserialize)]
pub(super) struct Viewer<'a> {
    cookie: u64,
    peer: Peer,
    #[serde(borrow)]
    stage: Stage<'a>,
    #[serde(borrow, with = "serde_bytes")]
    received: Cow<'a, [u8]>,
    #[serde(borrow, with = "serde_bytes")]
    unsent: Cow<'a, [u8]>,
}

#[derive(Debug, Deserialize)]
enum Stage<'a> {
    Connected {
        proxied: bool,
    },
    Request,
    Naming,
    Relaying {
        run: u32,
        offset: u64,
        #[serde(borrow, with = "serde_bytes")]
        rest: Cow<'a, [u8]>,
        in_message: bool,
    },
    Closing {
        answer: bool,
        in_message: bool,
    },
}

impl<'a> From<Run<'a>> for state::Run<'a> {
    fn from(old: Run<'a>) -> Self {
        let Run { id, frames, start, trimmed, lifecycle, since, touched, failed } = old;
        Self { id, frames, start, trimmed, lifecycle, since, touched, failed, aborted: None, origin: None }
    }
}

impl<'a> From<Viewer<'a>> for state::Viewer<'a> {
    fn from(old: Viewer<'a>) -> Self {
        let Viewer { cookie, peer, stage, received, unsent } = old;
        let stage = match stage {
            Stage::Connected { proxied } => state::Stage::Connected { proxied },
            Stage::Request => state::Stage::Request { unproxied: false },
            Stage::Naming => state::Stage::Naming,
            Stage::Relaying { run, offset, rest, in_message } => {
                state::Stage::Relaying { run, offset, rest, in_message }
            }
            Stage::Closing { answer, in_message } => state::Stage::Closing { answer, in_message },
        };
        Self { cookie, peer, stage, received, unsent }
    }
}

#[cfg(test)]
mod tests {
    use crate::snapshot::encoding::FORMAT;
    use crate::snapshot::reading::Limits;
    use crate::snapshot::state::{Lifecycle, Stage, State};
    use crate::wire::zmtp;

    /// A state that 2.0.0 handed over: 6 viewers, 2 brokers' links, 4 channels, each at another point.
    const SAMPLE: &[u8] = include_bytes!("../../tests/state-2.0.0");

    #[test]
    fn what_2_0_0_handed_over_is_read_whole() {
        let state = State::decode(SAMPLE, Limits::NONE).unwrap();
        assert_eq!((&*state.version, &state.history_file), ("2.0.0", &None));
        let runs: Vec<_> = state.runs.iter().map(|run| (&*run.id, run.lifecycle, run.failed.is_some())).collect();
        let open = |id, failed| (id, Lifecycle::Open, failed);
        let done = ("done-job", Lifecycle::Finished, false);
        assert_eq!(runs, [open("open-job", false), open("failed-job", true), done, open("silent-job", false)]);
        assert!(state.runs[0].frames.ends_with(br#""task_state": "COMPLETED"}"#));
        assert!(state.runs.iter().all(|run| run.aborted.is_none() && !run.trimmed));

        let links: Vec<_> = state.links.iter().map(|link| (link.stage, link.messages, link.received.len())).collect();
        assert_eq!(links, [(zmtp::Stage::Greeting, 0, 20), (zmtp::Stage::Traffic, 5, 14)]);

        let stages: Vec<_> =
            state.viewers.iter().map(|viewer| (&viewer.stage, &*viewer.received, &*viewer.unsent)).collect();
        let at = |run, offset| Stage::Relaying { run, offset, rest: b"".into(), in_message: false };
        let nothing = &b""[..];
        assert_eq!(
            stages,
            [
                (&Stage::Naming, &b"\x81\x84\0\0"[..], nothing),
                (&at(0, 92), nothing, nothing),
                (&Stage::Request { unproxied: false }, b"GET / HTTP/1.1\r\nHo", nothing),
                (&Stage::Request { unproxied: false }, nothing, nothing),
                (&at(3, 0), b"\x89\x80\0\0", nothing),
                (&Stage::Closing { answer: true, in_message: false }, nothing, nothing),
            ]
        );
        assert_eq!(state.viewers[4].peer.to_string(), "192.0.2.7");
    }

    #[test]
    fn what_was_read_is_written_in_the_new_format() {
        let state = State::decode(SAMPLE, Limits::NONE).unwrap();
        let written = state.encode().unwrap();
        assert_eq!(written[8..12], FORMAT.to_le_bytes());
        assert_eq!(State::decode(&written, Limits::NONE).unwrap(), state);
    }
}
