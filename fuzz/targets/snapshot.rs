//! Whatever a process finds in the place of what another left, it refuses it or goes on with it.
//!
//! Input: the body of a state. Its head is tried by itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::config::History;
use recodex_monitor::internals::hub::cursor::Turn;
use recodex_monitor::internals::hub::Hub;
use recodex_monitor::internals::metrics::counters::Metrics;
use recodex_monitor::internals::handover::cursor_of;
use recodex_monitor::internals::snapshot::reading::Limits;
use recodex_monitor::internals::snapshot::state::State;
use recodex_monitor::internals::wire::zmtp::Parser;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

fuzz_target!(|input: &[u8]| {
    let none = Limits::NONE;
    assert!(State::decode(input, none).is_err() || input[8] == 2 || State::decode_body(&input[24..], none).is_ok());
    let Ok(mut state) = State::decode_body(input, none) else { return };
    let written = state.encode().unwrap();
    assert_eq!(State::decode(&written, none).unwrap(), state);
    assert!(State::decode(&written[..written.len() - 1], none).is_err());

    for link in state.links.iter() {
        let mut parser = Parser::resume(link.stage, &link.received);
        let done = loop {
            match parser.event() {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(done.is_err() || !parser.space().is_empty());
    }
    let limits = History { channel_messages: 8, channel_bytes: 1024, total_bytes: 16 * 1024, ..History::default() };
    state.fit(limits.total_bytes, true);
    assert!(State::decode(&state.encode().unwrap(), none).is_ok_and(|again| again.runs.len() <= state.runs.len()));
    let hub = Hub::new(limits, Arc::new(Metrics::default()));
    let now = Instant::now();
    let slots = hub.restore(now, Duration::from_secs(1), &state.runs);
    let cursors = state.viewers.iter().filter_map(|viewer| cursor_of(viewer, &hub, &slots));
    let mut cursors: Vec<_> = cursors.collect();
    hub.drop_unused(now, &slots);
    hub.check();
    for cursor in &mut cursors {
        while let Turn::Wrote = cursor.turn(|bytes| Ok(bytes.len())).unwrap() {}
    }
    cursors.clear();
    hub.check();
});
