//! A broker's message: decoded from its ZeroMQ frames, encoded as the WebSocket frame its viewers receive.

use super::ws_frame::{MAX_UNMASKED_HEADER, put_text_header};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest channel id accepted from either side, in bytes.
pub const MAX_CHANNEL_ID: usize = 256;

/// FINISHED as a ready frame: a channel gets it when its job failed or was aborted and nothing followed, a viewer when the
/// monitor ends its subscription.
pub const RELEASE_FRAME: &[u8] = b"\x81\x17{\"command\": \"FINISHED\"}";

/// One progress message, borrowed from the bytes the broker sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The channel (job) id: 1 to [`MAX_CHANNEL_ID`] bytes.
    pub channel: &'a str,
    /// The command word, passed on as it is.
    pub command: &'a str,
    /// The task id, if there is a third frame.
    pub task: Option<&'a str>,
    /// The task's state, if there is a fourth frame.
    pub state: Option<&'a str>,
}

/// The meaning of a message for its channel. The order of the variants is part of the stream's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A job begins with it: DOWNLOADED or STARTED. For a finished channel it begins a new run.
    Begins,
    /// The job goes on.
    Progress,
    /// The job failed; unless something follows, no FINISHED will come.
    Failed,
    /// The job was aborted and is expected to run again; unless something follows, no FINISHED will come.
    Aborted,
    /// The last message of a run.
    Finished,
}

/// The reason for which a message was dropped. The link that it came from goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Fewer than two frames.
    #[error("expected a channel id and a command, got fewer than two frames")]
    TooFewFrames,
    /// The channel id is empty.
    #[error("the channel id is empty")]
    EmptyChannel,
    /// The channel id is longer than [`MAX_CHANNEL_ID`].
    #[error("the channel id is longer than {MAX_CHANNEL_ID} bytes")]
    LongChannel,
    /// A frame, possibly one after the fourth, is not UTF-8.
    #[error("a frame is not UTF-8")]
    NotUtf8,
}

impl<'a> Message<'a> {
    /// Decodes the frames that follow the sender's identity. Frames past the fourth are checked and dropped.
    ///
    /// # Errors
    /// If a frame is missing, not UTF-8, or no valid channel id.
    pub fn decode(frames: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Malformed> {
        let mut texts = [None; 4];
        for (i, frame) in frames.into_iter().enumerate() {
            let text = str::from_utf8(frame).map_err(|_| Malformed::NotUtf8)?;
            if let Some(slot) = texts.get_mut(i) {
                *slot = Some(text);
            }
        }
        let [Some(channel), Some(command), task, state] = texts else {
            return Err(Malformed::TooFewFrames);
        };
        match channel.len() {
            0 => Err(Malformed::EmptyChannel),
            1..=MAX_CHANNEL_ID => Ok(Self { channel, command, task, state }),
            _ => Err(Malformed::LongChannel),
        }
    }

    /// Returns the meaning of the message for its channel.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.command {
            "DOWNLOADED" | "STARTED" => Kind::Begins,
            "FINISHED" => Kind::Finished,
            "FAILED" => Kind::Failed,
            "ABORTED" => Kind::Aborted,
            _ => Kind::Progress,
        }
    }

    /// Returns true for the message that stops the Python monitor.
    #[must_use]
    pub fn is_exit(&self) -> bool {
        self.channel == "0" && self.command == "exit"
    }

    /// Encodes the message as one unmasked WebSocket text frame into `buffer`, which is cleared first, and returns it.
    ///
    /// The text is what Python's `json.dumps(…, sort_keys=True)` writes, to the byte.
    pub fn encode<'b>(&self, buffer: &'b mut Vec<u8>) -> &'b [u8] {
        buffer.clear();
        buffer.resize(MAX_UNMASKED_HEADER, 0);
        buffer.extend_from_slice(b"{\"command\": ");
        push_json_string(buffer, self.command);
        for (key, value) in [(&b", \"task_id\": "[..], self.task), (b", \"task_state\": ", self.state)] {
            if let Some(value) = value {
                buffer.extend_from_slice(key);
                push_json_string(buffer, value);
            }
        }
        buffer.push(b'}');
        let start = put_text_header(buffer);
        &buffer[start..]
    }
}

/// Appends `text` as a JSON string with every byte outside printable ASCII escaped.
fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|b| !(b' '..=b'~').contains(&b) || b == b'"' || b == b'\\') {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut chars = tail.chars();
        if let Some(c) = chars.next() {
            push_escaped(out, c);
        }
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, c: char) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match c {
        '"' => b'"',
        '\\' => b'\\',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        '\u{8}' => b'b',
        '\u{c}' => b'f',
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                out.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(*unit >> shift & 0xf)]));
            }
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Checks a channel id that somebody typed.
///
/// # Errors
/// If the monitor would refuse it; the text says what was expected.
pub(crate) fn check_channel(id: &str) -> Result<(), String> {
    match id.len() {
        1..=MAX_CHANNEL_ID => Ok(()),
        0 => Err(format!("the channel id is empty; expected 1 to {MAX_CHANNEL_ID} bytes")),
        length => Err(format!("the channel id has {length} bytes; expected 1 to {MAX_CHANNEL_ID} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ws_frame::{frame_length, frame_text};

    fn text(frames: &[&[u8]]) -> Result<String, Malformed> {
        let mut buffer = Vec::new();
        let frame = Message::decode(frames.iter().copied())?.encode(&mut buffer);
        assert_eq!(frame_length(frame), frame.len());
        Ok(frame_text(frame).to_owned())
    }

    fn decode<const N: usize>(frames: [&[u8]; N]) -> Result<Message<'_>, Malformed> {
        Message::decode(frames)
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        note: String,
        frames_hex: Vec<String>,
        channel: Option<String>,
        text: Option<String>,
        last: bool,
    }

    #[test]
    fn the_command_alone_says_what_a_message_means_for_its_channel() {
        let kind = |command| Message { channel: "job", command, task: None, state: None }.kind();
        assert_eq!((kind("FINISHED"), kind("FAILED"), kind("ABORTED")), (Kind::Finished, Kind::Failed, Kind::Aborted));
        assert_eq!((kind("DOWNLOADED"), kind("STARTED")), (Kind::Begins, Kind::Begins));
        let others = ["TASK", "ENDED", "UPLOADED", "failed", "Started", "STARTED ", ""];
        assert!(others.into_iter().all(|command| kind(command) == Kind::Progress));
    }

    #[test]
    fn every_wire_vector_to_the_byte() {
        let file: Vectors = serde_json::from_str(include_str!("../../tests/wire.json")).unwrap();
        assert!(file.vectors.len() > 30);
        for vector in file.vectors {
            let unhex = |s: &String| -> Vec<u8> {
                (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
            };
            let frames: Vec<Vec<u8>> = vector.frames_hex.iter().map(unhex).collect();
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            assert_eq!(text(&frames).ok(), vector.text, "{}", vector.note);
            if let Ok(message) = Message::decode(frames.iter().copied()) {
                assert_eq!(Some(message.channel), vector.channel.as_deref(), "{}", vector.note);
                assert_eq!(message.kind() == Kind::Finished, vector.last, "{}", vector.note);
            }
        }
    }

    #[test]
    fn a_channel_id_is_1_to_256_bytes() {
        let id = [b'a'; MAX_CHANNEL_ID + 1];
        assert!(decode([&id[..MAX_CHANNEL_ID], b"STARTED"]).is_ok());
        assert_eq!(decode([&id, b"STARTED"]), Err(Malformed::LongChannel));
        assert_eq!(decode([b"", b"STARTED"]), Err(Malformed::EmptyChannel));
    }

    #[test]
    fn only_channel_0_with_exit_is_the_exit_message() {
        assert!(decode([b"0", b"exit"]).unwrap().is_exit());
        assert!(!decode([b"0", b"STARTED"]).unwrap().is_exit());
        assert!(!decode([b"1", b"exit"]).unwrap().is_exit());
    }

    #[test]
    fn the_release_frame_is_what_the_broker_would_have_caused() {
        let mut buffer = Vec::new();
        let finished = Message { channel: "c", command: "FINISHED", task: None, state: None };
        assert_eq!(finished.encode(&mut buffer), RELEASE_FRAME);
    }
}
