//! The header of a WebSocket frame (RFC 6455, section 5.2): reading it from a peer's bytes, and writing that of a server's text.

/// The longest header of a frame without a mask, in bytes.
pub(super) const MAX_UNMASKED_HEADER: usize = 10;
/// The bit of the first byte that marks the last frame of a message.
pub(crate) const FINAL: u8 = 0x80;
/// The bit of the first byte that marks a control frame.
pub(crate) const CONTROL: u8 = 0x08;
/// The first byte of a text message that is one frame.
const FINAL_TEXT: u8 = FINAL | 1;
/// The first byte of a pong.
const PONG: u8 = FINAL | 0xa;
/// The first byte of a close frame.
const CLOSE: u8 = FINAL | 8;
/// The longest payload of a control frame, in bytes.
const MAX_CONTROL: usize = 125;
/// The bit of the second byte that says that a mask of 4 bytes ends the header.
const MASKED: u8 = 0x80;

/// Returns the lengths in bytes of the header that begins `bytes` and of the payload after it, or `None` if the header is not whole.
///
/// tungstenite's parser does more than that: it fails at opcodes that only the protocol is to refuse.
fn lengths(bytes: &[u8]) -> Option<(usize, u64)> {
    let (head, rest) = bytes.split_at_checked(2)?;
    let (extended, payload) = match head[1] & !MASKED {
        126 => (2, u16::from_be_bytes(*rest.first_chunk()?).into()),
        127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
        short => (0, short.into()),
    };
    let mask = if head[1] & MASKED == 0 { 0 } else { 4 };
    let header = 2 + extended + mask;
    (header <= bytes.len()).then_some((header, payload))
}

/// Returns the length in bytes of the frame that begins `bytes`, or `None` if its header is not whole. The rest of the frame may be
/// missing, and a length that no memory has becomes [`usize::MAX`].
pub(crate) fn announced_length(bytes: &[u8]) -> Option<usize> {
    let (header, payload) = lengths(bytes)?;
    Some(usize::try_from(payload).unwrap_or(usize::MAX).saturating_add(header))
}

/// Returns the length in bytes of the frame that begins `bytes`, which hold whole frames only.
#[must_use]
pub fn frame_length(bytes: &[u8]) -> usize {
    match *bytes {
        // Every delivery asks, and nearly every frame is a short one without a mask.
        [_, short @ ..126, ..] => 2 + usize::from(short),
        _ => announced_length(bytes).unwrap_or(bytes.len()),
    }
}

/// Returns true if these bytes of a client are whole pongs and nothing else (RFC 6455, section 5.5): masked, at most 125 bytes each.
pub(crate) fn are_pongs(mut bytes: &[u8]) -> bool {
    while let [PONG, second, ..] = *bytes {
        let length = usize::from(second & !MASKED);
        if second & MASKED == 0 || length > MAX_CONTROL {
            return false;
        }
        let Some(rest) = bytes.get(6 + length..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// Returns true if these bytes of a client begin with a whole close frame.
pub(crate) fn is_close(bytes: &[u8]) -> bool {
    let is_masked =
        matches!(*bytes, [CLOSE, second, ..] if second & MASKED != 0 && usize::from(second & !MASKED) <= MAX_CONTROL);
    is_masked && announced_length(bytes).is_some_and(|length| length <= bytes.len())
}

/// Returns the length in bytes of the text frame that begins `bytes`, or `None` if it is no whole one of a server.
#[must_use]
pub(crate) fn checked_frame_length(bytes: &[u8]) -> Option<usize> {
    let is_text = matches!(*bytes, [FINAL_TEXT, second, ..] if second & MASKED == 0);
    announced_length(bytes).filter(|length| is_text && *length <= bytes.len())
}

/// Returns the text of a server's whole frame.
#[must_use]
pub(crate) fn frame_text(frame: &[u8]) -> &str {
    let payload = lengths(frame).and_then(|(header, _)| frame.get(header..)).unwrap_or_default();
    // The monitor's JSON is ASCII.
    str::from_utf8(payload).unwrap_or_default()
}

/// Writes a text frame's header just before the payload that begins at [`MAX_UNMASKED_HEADER`]; returns where the frame begins.
pub(super) fn put_text_header(buffer: &mut [u8]) -> usize {
    let length = buffer.len() - MAX_UNMASKED_HEADER;
    let extended = (length as u64).to_be_bytes();
    let (code, extended) = match length {
        0..=125 => (u8::try_from(length).unwrap_or(0), &extended[8..]),
        126..=0xffff => (126, &extended[6..]),
        _ => (127, &extended[..]),
    };
    let start = MAX_UNMASKED_HEADER - 2 - extended.len();
    buffer[start] = FINAL_TEXT;
    buffer[start + 1] = code;
    buffer[start + 2..MAX_UNMASKED_HEADER].copy_from_slice(extended);
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_masked_close_frame_is_one() {
        let close = [0x88, 0x82, 1, 2, 3, 4, 2, 0xea];
        assert!(is_close(&close) && is_close(&[&close[..], b"more"].concat()) && is_close(&[0x88, 0x80, 1, 2, 3, 4]));
        assert!((0..8).all(|cut| !is_close(&close[..cut])));
        assert!(
            !is_close(&[0x88, 0])
                && !is_close(&[0x8a, 0x80, 1, 2, 3, 4])
                && !is_close(&[&[0x88, 0xfe, 0, 126][..], &[0; 130]].concat())
        );
    }

    #[test]
    fn only_whole_masked_short_pongs_are_pongs() {
        let pong = |length: u8| [&[0x8a, 0x80 | length, 1, 2, 3, 4][..], &vec![7; usize::from(length)]].concat();
        for bytes in [pong(0), pong(1), pong(125), [pong(0), pong(9)].concat(), Vec::new()] {
            assert!(are_pongs(&bytes), "{bytes:?}");
            for cut in 1..bytes.len() {
                // Two pongs that are cut after the first one are one pong.
                assert_eq!(are_pongs(&bytes[..cut]), bytes.len() == 21 && cut == 6, "{bytes:?} to {cut}");
            }
        }
        let long = [&[0x8a, 0xfe, 0, 126, 1, 2, 3, 4][..], &[7; 126]].concat();
        let empty = |first: u8| vec![first, 0x80, 1, 2, 3, 4];
        let others = [0x89, 0x0a, 0xca, 0x81].map(empty);
        for bytes in others.iter().cloned().chain([long, vec![0x8a, 0], [pong(0), empty(0x81)].concat()]) {
            assert!(!are_pongs(&bytes), "{bytes:?}");
        }
    }

    #[test]
    fn headers_at_the_edges_of_each_length_form() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (127, 4), (65_535, 4), (65_536, 10), (65_537, 10)] {
            let mut buffer = vec![b'x'; MAX_UNMASKED_HEADER + length];
            let start = put_text_header(&mut buffer);
            let frame = &buffer[start..];
            assert_eq!(frame.len(), header + length);
            assert_eq!(frame_length(frame), frame.len());
            assert_eq!(frame_text(frame), "x".repeat(length));
            assert_eq!(checked_frame_length(frame), Some(frame.len()));
            assert!((0..frame.len()).all(|cut| checked_frame_length(&frame[..cut]).is_none()));
            assert!((0..header).all(|cut| announced_length(&frame[..cut]).is_none()));
            assert_eq!(frame[0], 0x81);
        }
    }

    #[test]
    fn a_mask_is_part_of_the_header_and_no_length_overflows() {
        let huge = [&[0x81, 0xff][..], &[0xff; 8], &[1; 4]].concat();
        assert_eq!(announced_length(&huge), Some(usize::MAX));
        assert_eq!(announced_length(&huge[..13]), None);
        assert_eq!(announced_length(&[0x81, 0x83, 1, 2, 3, 4, 5]), Some(9));
        assert_eq!(checked_frame_length(&[0x81, 0x80, 1, 2, 3, 4]), None);
        assert_eq!(checked_frame_length(&[0x82, 0]), None);
    }
}
