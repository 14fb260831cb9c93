//! Bytes of a viewer that the protocol has not dealt with: kept as they came, so that another process can go on from there.

use crate::wire::ws_frame::{CONTROL, FINAL, announced_length};

/// Bytes of the viewer, given to the protocol one frame at a time.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    /// They begin with a frame.
    bytes: Vec<u8>,
    /// The number of bytes that were given; never past the end of the first frame.
    given: u16,
    in_message: bool,
}

impl FrameBuffer {
    /// Creates the buffer of a viewer that sent `bytes`. `in_message` is true if they follow the first frame of a longer message.
    pub(super) fn new(bytes: Vec<u8>, in_message: bool) -> Self {
        Self { bytes, given: 0, in_message }
    }

    /// Returns the bytes that the protocol has not dealt with; a frame that it has in part is there from its beginning.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns true if the viewer has begun a message of several frames and not ended it.
    pub(super) fn is_in_message(&self) -> bool {
        self.in_message
    }

    /// Returns true if all bytes were given.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == usize::from(self.given)
    }

    /// Adds bytes of the viewer.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives the protocol the next bytes, up to the end of a frame; returns how many.
    pub(super) fn give(&mut self, buffer: &mut [u8]) -> usize {
        let start = usize::from(self.given);
        // Bytes that make no whole header are all of one frame.
        let end = announced_length(&self.bytes).unwrap_or(usize::MAX).min(self.bytes.len());
        let next = &self.bytes[start..end];
        let count = next.len().min(buffer.len());
        buffer[..count].copy_from_slice(&next[..count]);
        self.given = u16::try_from(start + count).unwrap_or(u16::MAX);
        count
    }

    /// Forgets the first frame if it was given as a whole: the protocol has dealt with it, since it asks for more or has returned.
    pub(super) fn forget_given(&mut self) {
        let Some(end) = announced_length(&self.bytes).filter(|end| *end <= usize::from(self.given)) else { return };
        if self.bytes[0] & CONTROL == 0 {
            self.in_message = self.bytes[0] & FINAL == 0;
        }
        self.bytes.drain(..end);
        self.given = 0;
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Masked and not, with every form of length, control frames too.
    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let frame = (any::<[bool; 2]>(), 0_u8..16, prop_oneof![0_usize..130, Just(300)], 0..3).prop_map(
            |([last, masked], opcode, length, form)| {
                let mut bytes = vec![u8::from(last) << 7 | opcode];
                let mask = u8::from(masked) << 7;
                match (form, u8::try_from(length)) {
                    (0, Ok(short @ 0..126)) => bytes.push(mask | short),
                    (0 | 1, _) => bytes.extend([&[mask + 126][..], &(length as u64).to_be_bytes()[6..]].concat()),
                    _ => bytes.extend([&[mask + 127][..], &(length as u64).to_be_bytes()].concat()),
                }
                bytes.resize(bytes.len() + usize::from(masked) * 4 + length, 7);
                bytes
            },
        );
        prop::collection::vec(frame, 0..8)
    }

    proptest! {
        /// The buffer begins with the frame that the protocol is in, however the bytes come and are asked for.
        #[test]
        fn what_is_kept_begins_with_the_frame_that_was_not_dealt_with(
            frames in frames(), pieces in prop::collection::vec((1_usize..200, 1_usize..70), 1..20),
        ) {
            let sent = frames.concat();
            let (mut kept, mut pushed, mut given) = (FrameBuffer::default(), 0, Vec::new());
            for (piece, room) in pieces.into_iter().cycle().take(2000) {
                let piece = piece.min(sent.len() - pushed);
                kept.push(&sent[pushed..pushed + piece]);
                pushed += piece;
                let mut buffer = vec![0; room];
                kept.forget_given();
                let count = kept.give(&mut buffer);
                given.extend_from_slice(&buffer[..count]);
                let mut dealt = 0;
                let whole = frames.iter().take_while(|frame| {
                    let fits = dealt + frame.len() <= given.len();
                    dealt += if fits { frame.len() } else { 0 };
                    fits
                });
                let data = whole.filter(|frame| frame[0] & 8 == 0).last();
                let in_message = data.is_some_and(|frame| frame[0] & 0x80 == 0);
                kept.forget_given();
                prop_assert_eq!(kept.bytes(), &sent[dealt..pushed]);
                prop_assert_eq!(kept.is_in_message(), in_message);
                prop_assert_eq!(kept.is_empty(), given.len() == pushed);
            }
            prop_assert_eq!(given, sent);
        }
    }

    #[test]
    fn of_a_frame_that_announces_too_much_the_header_is_given_at_once() {
        let mut kept = FrameBuffer::new([&[0x81, 0xff][..], &[0xff; 8], &[1; 8]].concat(), false);
        let mut buffer = [0; 64];
        assert_eq!((kept.give(&mut buffer), kept.give(&mut buffer)), (18, 0));
        kept.forget_given();
        assert_eq!(kept.bytes().len(), 18);
    }
}
