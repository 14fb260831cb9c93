//! A message's frames become the WebSocket frame that a plain implementation of the same rules makes of them.
//!
//! Input: frames, each a length and as many bytes; after length 255, a count and a byte that is repeated 257 × count
//! times.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::wire::message::{Kind, Malformed, Message};
use recodex_monitor::internals::wire::ws_frame::frame_length;
use std::collections::BTreeMap;

fn frames(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let [length, rest @ ..] = input {
        let (frame, rest) = match rest {
            [count, byte, rest @ ..] if *length == 255 => (vec![*byte; 257 * usize::from(*count)], rest),
            _ => {
                let (frame, rest) = rest.split_at(rest.len().min(usize::from(*length)));
                (frame.to_vec(), rest)
            }
        };
        frames.push(frame);
        input = rest;
    }
    frames
}

/// A JSON string in ASCII, as Python writes it.
fn json(text: &str) -> String {
    let mut out = String::new();
    for c in serde_json::to_string(text).unwrap().chars() {
        if (' '..='~').contains(&c) {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

fn expected(frames: &[Vec<u8>]) -> Result<(String, String), Malformed> {
    let texts: Result<Vec<_>, _> = frames.iter().cloned().map(String::from_utf8).collect();
    let texts = texts.map_err(|_| Malformed::NotUtf8)?;
    if texts.len() < 2 {
        return Err(Malformed::TooFewFrames);
    }
    match texts[0].len() {
        0 => return Err(Malformed::EmptyChannel),
        257.. => return Err(Malformed::LongChannel),
        _ => {}
    }
    let object: BTreeMap<_, _> = ["command", "task_id", "task_state"].into_iter().zip(&texts[1..]).collect();
    let pairs: Vec<_> = object.into_iter().map(|(key, value)| format!("{}: {}", json(key), json(value))).collect();
    Ok((texts[0].clone(), format!("{{{}}}", pairs.join(", "))))
}

fuzz_target!(|input: &[u8]| {
    let frames = frames(input);
    let message = match (Message::decode(frames.iter().map(Vec::as_slice)), expected(&frames)) {
        (Ok(message), Ok(expected)) => (message, expected),
        (got, expected) => return assert_eq!(got.err(), expected.err()),
    };
    let (message, (channel, text)) = message;
    let mut buffer = b"what was there before".to_vec();
    let frame = message.encode(&mut buffer);
    let length = text.len();
    let header = match length {
        ..126 => vec![0x81, u8::try_from(length).unwrap()],
        126..65_536 => [&[0x81, 126][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
        _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
    };
    assert_eq!(&frame[..header.len()], header);
    assert!(frame[header.len()..] == *text.as_bytes(), "{text}");
    assert_eq!(frame_length(frame), frame.len());
    assert_eq!(message.channel, channel);
    assert_eq!(message.is_exit(), frames[0] == b"0" && frames[1] == b"exit");
    let kind = match frames[1].as_slice() {
        b"FINISHED" => Kind::Finished,
        b"FAILED" => Kind::Failed,
        b"ABORTED" => Kind::Aborted,
        b"DOWNLOADED" | b"STARTED" => Kind::Begins,
        _ => Kind::Progress,
    };
    assert_eq!(message.kind(), kind);
});
