//! What a viewer sent and the protocol has not dealt with: kept as it came, so that another process can go on from there.

/// The longest header of a frame (RFC 6455, section 5.2), in bytes.
const MAX_HEADER: usize = 14;

/// Bytes from the viewer, given to the protocol one frame at a time.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Begins with a frame.
    bytes: Vec<u8>,
    /// How many of them were given; never past the end of the first frame.
    given: u16,
    in_message: bool,
}

impl Incoming {
    /// Of a viewer that sent `bytes`, and whether it is in a message of several frames.
    #[must_use]
    pub fn new(bytes: Vec<u8>, in_message: bool) -> Self {
        Self { bytes, given: 0, in_message }
    }

    /// What the protocol has not dealt with; a frame that it has in part is there from its beginning.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the viewer has begun a message of several frames.
    #[must_use]
    pub fn is_in_message(&self) -> bool {
        self.in_message
    }

    /// Whether everything was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == usize::from(self.given)
    }

    /// Adds what the viewer sent.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives the protocol the next bytes, up to the end of a frame; returns how many.
    pub fn give(&mut self, buffer: &mut [u8]) -> usize {
        let start = usize::from(self.given);
        let next = &self.bytes[start..self.known_end().min(self.bytes.len())];
        let count = next.len().min(buffer.len());
        buffer[..count].copy_from_slice(&next[..count]);
        self.given = u16::try_from(start + count).unwrap_or(u16::MAX);
        count
    }

    /// Forgets the first frame if it was given as a whole: the protocol has dealt with it, since it asks for more or has returned.
    pub fn settle(&mut self) {
        const FINAL: u8 = 0x80;
        const CONTROL: u8 = 0x08;
        let end = self.known_end();
        if end > usize::from(self.given) || self.bytes.len() < 2 || end < header(self.bytes[1]) {
            return;
        }
        if self.bytes[0] & CONTROL == 0 {
            self.in_message = self.bytes[0] & FINAL == 0;
        }
        self.bytes.drain(..end);
        self.given = 0;
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Where the first frame ends, or where what says so ends.
    fn known_end(&self) -> usize {
        let Some(&second) = self.bytes.get(1) else { return 2 };
        let header = header(second);
        let Some(extended) = self.bytes.get(2..header) else { return header };
        let length = match second & 0x7f {
            126 => extended[..2].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            127 => extended[..8].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            short => short.into(),
        };
        usize::try_from(length).unwrap_or(usize::MAX).saturating_add(header)
    }
}

/// How long the header is whose second byte is this one.
fn header(second: u8) -> usize {
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    debug_assert!(2 + extended + mask <= MAX_HEADER);
    2 + extended + mask
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
        /// However the bytes come and are asked for, what is kept begins with the frame that the protocol is in.
        #[test]
        fn what_is_kept_begins_with_the_frame_that_was_not_dealt_with(
            frames in frames(), pieces in prop::collection::vec((1_usize..200, 1_usize..70), 1..20),
        ) {
            let sent = frames.concat();
            let (mut incoming, mut pushed, mut given) = (Incoming::default(), 0, Vec::new());
            for (piece, room) in pieces.into_iter().cycle().take(2000) {
                let piece = piece.min(sent.len() - pushed);
                incoming.push(&sent[pushed..pushed + piece]);
                pushed += piece;
                let mut buffer = vec![0; room];
                incoming.settle();
                let count = incoming.give(&mut buffer);
                given.extend_from_slice(&buffer[..count]);
                let mut dealt = 0;
                let whole = frames.iter().take_while(|frame| {
                    let fits = dealt + frame.len() <= given.len();
                    dealt += if fits { frame.len() } else { 0 };
                    fits
                });
                let data = whole.filter(|frame| frame[0] & 8 == 0).last();
                let in_message = data.is_some_and(|frame| frame[0] & 0x80 == 0);
                incoming.settle();
                prop_assert_eq!(incoming.bytes(), &sent[dealt..pushed]);
                prop_assert_eq!(incoming.is_in_message(), in_message);
                prop_assert_eq!(incoming.is_empty(), given.len() == pushed);
            }
            prop_assert_eq!(given, sent);
        }
    }

    #[test]
    fn of_a_frame_that_announces_too_much_the_header_is_given_at_once() {
        let mut incoming = Incoming::new([&[0x81, 0xff][..], &[0xff; 8], &[1; 8]].concat(), false);
        let mut buffer = [0; 64];
        assert_eq!((incoming.give(&mut buffer), incoming.give(&mut buffer)), (18, 0));
        incoming.settle();
        assert_eq!(incoming.bytes().len(), 18);
    }
}
