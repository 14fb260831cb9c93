//! Whatever stands in the stream of a cluster, it is refused, or it has the records that it has when it is written again.
//!
//! Input: a batch.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::stream::record::{Record, append, begin, records, split};
use recodex_monitor::internals::wire::message::MAX_CHANNEL_ID;
use recodex_monitor::internals::wire::ws_frame::frame_length;

fuzz_target!(|input: &[u8]| {
    let Ok((head, rest)) = split(input) else { return };
    assert!(head.number > 0);
    let mut again = begin(&head);
    let Ok(found) = records(rest) else { return };
    for record in &found {
        let (Record::Message { channel, .. } | Record::Release { channel, .. }) = record;
        assert!((1..=MAX_CHANNEL_ID).contains(&channel.len()));
        if let Record::Message { frame, .. } = record {
            assert_eq!((frame[0], frame_length(frame)), (0x81, frame.len()));
        }
        assert!(append(&mut again, record), "it is not longer than the input");
    }
    assert!(again.len() <= input.len());
    let (head_again, rest) = split(&again).unwrap();
    assert_eq!((head_again, records(rest).unwrap()), (head, found));
});
