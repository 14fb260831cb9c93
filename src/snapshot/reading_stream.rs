//! The reading of the part of a state that belongs to the stream. The memory for a list is counted before the list is read.

use crate::snapshot::encoding::Refused;
use crate::snapshot::reading::{Limits, take};
use crate::snapshot::stream::{EntryId, MAX_MISSING, ReadFrom, StreamState};
use std::borrow::Cow;

/// Takes the stream's part off `rest`, if there is one.
pub(super) fn read<'a>(rest: &mut &'a [u8], limits: Limits) -> Result<Option<StreamState<'a>>, Refused> {
    let is_there: bool = take(rest)?;
    if !is_there {
        return Ok(None);
    }
    let room = &mut { limits.stream };
    let (name, ingest, next) = take(rest)?;
    let waiting = take_list(rest, room, |rest, _| take(rest))?;
    if !limits.has_stream {
        // Nothing else is needed, and nothing follows the stream's part.
        *rest = &[];
        let (position, safe) = (EntryId::default(), EntryId::default());
        let (kept, seen, dropped) = (Vec::new(), Vec::new(), Vec::new());
        return Ok(Some(StreamState { name, ingest, next, waiting, kept, seen, position, safe, epoch: None, dropped }));
    }
    let kept = take_list(rest, room, |rest, _| take(rest))?;
    let seen = take_list(rest, room, take_read_from)?;
    let (position, safe) = take(rest)?;
    let epoch: Option<Cow<'a, str>> = take(rest)?;
    // It is copied later.
    charge(room, epoch.as_ref().map_or(0, |epoch| epoch.len()))?;
    let dropped = take_list(rest, room, |rest, _| take(rest))?;
    Ok(Some(StreamState { name, ingest, next, waiting, kept, seen, position, safe, epoch, dropped }))
}

/// Takes `bytes` of memory from the `room` that is left.
fn charge(room: &mut usize, bytes: usize) -> Result<(), Refused> {
    *room = room.checked_sub(bytes).ok_or(Refused::StreamTooLarge)?;
    Ok(())
}

/// Takes a list off `rest`, whose values `take_one` takes.
fn take_list<'a, T>(
    rest: &mut &'a [u8],
    room: &mut usize,
    take_one: impl Fn(&mut &'a [u8], &mut usize) -> Result<T, Refused>,
) -> Result<Vec<T>, Refused> {
    let count: u64 = take(rest)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    charge(room, count.saturating_mul(size_of::<T>()))?;
    // Each value has at least a byte.
    let mut list = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        list.push(take_one(rest, room)?);
    }
    Ok(list)
}

/// Takes the numbers of an ingest off `rest`.
fn take_read_from(rest: &mut &[u8], room: &mut usize) -> Result<ReadFrom, Refused> {
    let (ingest, last, at) = take(rest)?;
    let ahead = &mut { *rest };
    let count: u64 = take(ahead)?;
    if count > MAX_MISSING as u64 {
        return Err(Refused::Inconsistent("more missing batches than are remembered"));
    }
    let missing = take_list(rest, room, |rest, _| take(rest))?;
    Ok(ReadFrom { ingest, last, at, missing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::stream::Batch;

    const AT: EntryId = EntryId { milliseconds: 5, number: 6 };

    fn batch(number: u64) -> Batch<'static> {
        Batch { number, at: (number == 1).then_some(AT), bytes: (&b"batch"[..]).into() }
    }

    fn read_from(missing: usize) -> ReadFrom {
        let missing: Vec<_> = (1..).map(|i| (3 * i, 3 * i + 1)).take(missing).collect();
        ReadFrom { ingest: u64::MAX, last: 1000, at: AT, missing }
    }

    fn state() -> StreamState<'static> {
        StreamState {
            name: "recodex".into(),
            ingest: 7,
            next: 3,
            waiting: vec![batch(2)],
            kept: vec![batch(1)],
            seen: vec![read_from(MAX_MISSING)],
            position: AT,
            safe: EntryId::default(),
            epoch: Some("epoch".into()),
            dropped: vec![(AT, AT)],
        }
    }

    fn encode(state: &StreamState<'_>) -> Vec<u8> {
        postcard::to_stdvec(&Some(state)).unwrap()
    }

    /// Reads a state whose lists may take `stream` bytes.
    fn read_within(bytes: &[u8], stream: usize, has_stream: bool) -> Result<StreamState<'_>, String> {
        let mut rest = bytes;
        let read = read(&mut rest, Limits { stream, has_stream, ..Limits::NONE });
        read.map(|state| state.expect("it is there")).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let (state, rest) = (state(), &mut &*encode(&state()));
        assert_eq!(read(rest, Limits::NONE).unwrap(), Some(state));
        assert!(rest.is_empty());
        assert_eq!(read(&mut &b"\0"[..], Limits::NONE).unwrap(), None);
    }

    #[test]
    fn each_list_and_the_epoch_count_as_memory() {
        let small =
            StreamState { waiting: vec![], kept: vec![], seen: vec![], epoch: None, dropped: vec![], ..state() };
        let of_batches = 1000 * size_of::<Batch<'_>>();
        let numbers = ReadFrom { missing: vec![], ..read_from(0) };
        for (state, bytes) in [
            (StreamState { waiting: vec![batch(1); 1000], ..small.clone() }, of_batches),
            (StreamState { kept: vec![batch(1); 1000], ..small.clone() }, of_batches),
            (StreamState { seen: vec![numbers; 1000], ..small.clone() }, 1000 * size_of::<ReadFrom>()),
            (
                StreamState { seen: vec![read_from(MAX_MISSING)], ..small.clone() },
                size_of::<ReadFrom>() + MAX_MISSING * size_of::<(u64, u64)>(),
            ),
            (StreamState { dropped: vec![(AT, AT); 1000], ..small.clone() }, 1000 * size_of::<(EntryId, EntryId)>()),
            (StreamState { epoch: Some("e".repeat(1000).into()), ..small.clone() }, 1000),
        ] {
            let encoded = encode(&state);
            let too_large = "its part for the cluster is too large (cluster.buffer)";
            assert_eq!(read_within(&encoded, bytes - 1, true), Err(too_large.into()), "{state:?}");
            assert_eq!(read_within(&encoded, bytes, true), Ok(state));
        }
    }

    #[test]
    fn more_missing_batches_than_are_remembered_are_refused() {
        let state = StreamState { seen: vec![read_from(MAX_MISSING + 1)], ..state() };
        let said = "it is not consistent: more missing batches than are remembered";
        assert_eq!(read_within(&encode(&state), usize::MAX, true), Err(said.into()));
    }

    #[test]
    fn without_a_stream_only_what_waits_is_read() {
        let state = StreamState { kept: vec![batch(1); 1000], dropped: vec![(AT, AT); 1000], ..state() };
        let waiting = StreamState {
            kept: vec![],
            seen: vec![],
            position: EntryId::default(),
            epoch: None,
            dropped: vec![],
            ..state.clone()
        };
        let bytes = size_of::<Batch<'_>>();
        assert_eq!(read_within(&encode(&state), bytes, false), Ok(waiting));
        assert!(read_within(&encode(&state), bytes - 1, false).is_err());
    }
}
