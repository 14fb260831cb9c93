//! Tests of the encoding of batches.

use super::*;
use crate::wire::message::{Message, RELEASE_FRAME};
use crate::wire::zmtp::MAX_MESSAGE;
use proptest::prelude::*;

/// Reads a whole batch.
pub(in crate::stream) fn read(bytes: &[u8]) -> Result<(Head<'_>, Vec<Record<'_>>), Unreadable> {
    let (head, rest) = split(bytes)?;
    Ok((head, records(rest)?))
}

fn head() -> Head<'static> {
    Head { ingest: 300, number: 1, node: "a".into(), limits: 7 }
}

fn message<'a>(channel: &'a str, kind: Kind, frame: &'a [u8]) -> Record<'a> {
    Record::Message { channel: channel.into(), kind, frame: frame.into() }
}

/// Returns a text frame with a payload of `length` bytes, more than 65,535.
fn long_frame(length: usize) -> Vec<u8> {
    [&[0x81, 127][..], &(length as u64).to_be_bytes(), &vec![b'x'; length]].concat()
}

const KINDS: [Kind; 5] = [Kind::Begins, Kind::Progress, Kind::Failed, Kind::Aborted, Kind::Finished];

/// Nodes with another version of the program read these bytes. If this fails, the format has changed, and needs another [`FORMAT`].
#[test]
fn the_bytes_of_format_1() {
    assert_eq!(FORMAT, "1");
    let mut bytes = begin(&head());
    for kind in KINDS {
        assert!(append(&mut bytes, &message("job", kind, b"\x81\x02{}")));
    }
    let of = Place { ingest: 300, batch: 128, index: 2 };
    assert!(append(&mut bytes, &Record::Release { channel: "job".into(), of }));
    let expected = [
        // The ingest 300, number 1, the node, the limits.
        &b"\xac\x02\x01\x01a\x07"[..],
        b"\x00\x03job\x00\x04\x81\x02{}",
        b"\x00\x03job\x01\x04\x81\x02{}",
        b"\x00\x03job\x02\x04\x81\x02{}",
        b"\x00\x03job\x03\x04\x81\x02{}",
        b"\x00\x03job\x04\x04\x81\x02{}",
        // A release of the third record in batch 128 of ingest 300.
        b"\x01\x03job\xac\x02\x80\x01\x02",
    ];
    assert_eq!(bytes, expected.concat());
    assert_eq!(count(&bytes), 6);
}

#[test]
fn a_record_that_does_not_fit_leaves_the_batch_as_it_was() {
    let empty = begin(&head());
    // The number of the variant, the channel and its length, the kind, and a length of three bytes.
    let room = MAX_BATCH - empty.len() - (1 + 4 + 1 + 3);
    let frame = long_frame(room - 10);
    let mut batch = empty.clone();
    assert!(append(&mut batch, &message("job", Kind::Progress, &frame)));
    assert_eq!(batch.len(), MAX_BATCH);
    assert_eq!(read(&batch).unwrap().1, [message("job", Kind::Progress, &frame)]);
    let full = batch.clone();
    for other in [message("x", Kind::Finished, RELEASE_FRAME), message("job", Kind::Progress, &frame)] {
        assert!(!append(&mut batch, &other));
        assert!(batch == full);
    }
    let mut batch = empty.clone();
    assert!(!append(&mut batch, &message("job", Kind::Progress, &long_frame(room - 9))));
    assert_eq!(batch, empty);
    let long = [&*full, &[0]].concat();
    assert_eq!(read(&long), Err(Unreadable::TooLong(MAX_BATCH + 1)));
}

#[test]
fn the_longest_message_of_a_broker_fits_into_a_batch_with_the_longest_head() {
    let (channel, node) = ("c".repeat(MAX_CHANNEL_ID), "n".repeat(MAX_NODE));
    // Each becomes an escape of six characters. The real limit is lower, since the channel's id is in the message, too.
    let text = "\u{1}".repeat(MAX_MESSAGE);
    let mut buffer = Vec::new();
    let frame = Message { channel: &channel, command: &text, task: Some(""), state: Some("") }.encode(&mut buffer);
    assert!(frame.len() > 6 * MAX_MESSAGE);
    let mut bytes = begin(&Head { ingest: u64::MAX, number: u64::MAX, node: node.into(), limits: u32::MAX });
    assert!(append(&mut bytes, &message(&channel, Kind::Progress, frame)));
    assert_eq!(read(&bytes).unwrap().1, [message(&channel, Kind::Progress, frame)]);
}

#[test]
fn a_batch_that_is_cut_is_readable_only_between_its_records() {
    let mut bytes = begin(&head());
    let mut whole = vec![bytes.len()];
    let of = Place { ingest: 300, batch: 128, index: 2 };
    let long = vec![b'x'; 200];
    let frame = [&[0x81, 126, 0, 200][..], &long].concat();
    for record in [
        message("job", Kind::Begins, b"\x81\x02{}"),
        Record::Release { channel: "job".into(), of },
        message("other", Kind::Progress, &frame),
    ] {
        assert!(append(&mut bytes, &record));
        whole.push(bytes.len());
    }
    for cut in 0..=bytes.len() {
        let records = read(&bytes[..cut]).map(|(_, records)| records.len()).ok();
        assert_eq!(records, whole.iter().position(|length| *length == cut), "cut after {cut} bytes");
        assert_eq!(count(&bytes[..cut]), records.unwrap_or(0));
    }
}

#[test]
fn a_batch_that_no_node_writes_is_refused() {
    let of = |record: &Record<'_>| {
        let mut bytes = begin(&head());
        append(&mut bytes, record);
        read(&bytes).map(|_| ())
    };
    let channel = Err(Unreadable::Inconsistent("a channel id that is empty or too long"));
    let place = Place { ingest: 1, batch: 1, index: 0 };
    for id in [String::new(), "c".repeat(MAX_CHANNEL_ID + 1)] {
        assert_eq!(of(&message(&id, Kind::Begins, RELEASE_FRAME)), channel);
        assert_eq!(of(&Record::Release { channel: id.into(), of: place }), channel);
    }
    let two = [RELEASE_FRAME, RELEASE_FRAME].concat();
    let frames: [&[u8]; 9] = [
        b"",
        b"\x81",
        b"\x81\x03{}",
        b"\x81\x01{}",
        b"\x81\x82\x01\x02\x03\x04{}",
        b"\x82\x02{}",
        b"\x01\x02{}",
        b"\x88\x00",
        &two,
    ];
    for frame in frames {
        let expected = Err(Unreadable::Inconsistent("a message that is no text frame"));
        assert_eq!(of(&message("job", Kind::Begins, frame)), expected, "{frame:?}");
    }
    assert_eq!(of(&message("job", Kind::Begins, RELEASE_FRAME)), Ok(()));

    let head_of = |number, node: &str| read(&begin(&Head { number, node: node.into(), ..head() })).map(|_| ());
    assert_eq!(head_of(0, "a"), Err(Unreadable::Inconsistent("its number is 0")));
    assert_eq!(head_of(1, &"n".repeat(MAX_NODE)), Ok(()));
    let long = "n".repeat(MAX_NODE + 1);
    assert_eq!(head_of(1, &long), Err(Unreadable::Inconsistent("the name of its node is too long")));

    // An unknown record, an unknown kind, a channel that is no UTF-8, a length that no memory has.
    for record in [&b"\x02\x03job"[..], b"\x00\x03job\x05\x02\x81\x00", b"\x00\x01\xff\x00\x02\x81\x00", &[0, 0xff]] {
        let huge = [record, &[0xff; 9]].concat();
        for record in [record, &huge] {
            let bytes = [&*begin(&head()), record].concat();
            assert!(matches!(read(&bytes), Err(Unreadable::Malformed(_))), "{record:?}");
        }
    }
}

/// A message as a broker may send it, or a release.
pub(in crate::stream) fn record() -> impl Strategy<Value = Record<'static>> {
    let channel = || "[a-zä\u{0}]{1,40}".prop_map(Cow::<str>::Owned);
    let command = prop_oneof![29 => "\\PC{0,60}", 1 => (30_000..32_000_usize).prop_map(|pairs| "a\u{1}".repeat(pairs))];
    let kind = prop::sample::select(&KINDS[..]);
    prop_oneof![
        9 => (channel(), kind, command).prop_map(|(channel, kind, command)| {
            let mut buffer = Vec::new();
            let message = Message { channel: &channel, command: &command, task: None, state: None };
            let frame = message.encode(&mut buffer).to_vec();
            Record::Message { channel, kind, frame: frame.into() }
        }),
        1 => (channel(), any::<(u64, u64, u32)>()).prop_map(|(channel, (ingest, batch, index))| {
            Record::Release { channel, of: Place { ingest, batch, index } }
        }),
    ]
}

proptest! {
    #[test]
    fn a_batch_is_read_as_it_was_written(
        (ingest, number, limits) in (any::<u64>(), 1..=u64::MAX, any::<u32>()),
        node in "\\PC{0,32}",
        all in prop::collection::vec(record(), 0..12),
    ) {
        let head = Head { ingest, number, node: node.into(), limits };
        let mut bytes = begin(&head);
        let mut taken = Vec::new();
        for record in all {
            let before = bytes.clone();
            if append(&mut bytes, &record) {
                taken.push(record);
            } else {
                prop_assert!(bytes == before && !taken.is_empty(), "one alone fits");
            }
        }
        prop_assert!(bytes.len() <= MAX_BATCH);
        prop_assert_eq!(count(&bytes), taken.len());
        prop_assert_eq!(read(&bytes), Ok((head, taken)));
    }

    #[test]
    fn bytes_that_are_no_batch_give_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((head, records)) = read(&bytes) {
            prop_assert!(head.number > 0 && records.iter().all(|record| record.check().is_ok()));
        }
    }

    #[test]
    fn a_batch_with_wrong_bytes_gives_an_error_or_another_batch(
        all in prop::collection::vec(record(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = begin(&head());
        for record in &all {
            append(&mut bytes, record);
        }
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(&bytes);
    }
}
