//! Tests of the fan-out's parts: slices of time, and names of entries.

use super::Key;
use super::round::Slice;
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn a_slice_is_over_after_its_time_and_stays_over() {
    let mut slice = Slice::begin();
    let begun = Instant::now();
    assert!((0..15).all(|_| !slice.is_over()), "every slice makes some progress");
    while begun.elapsed() < Duration::from_millis(1) {}
    assert!((0..16).any(|_| slice.is_over()));
    assert!((0..100).all(|_| slice.is_over()));
}

#[test]
fn a_slice_without_an_end_is_never_over() {
    let mut slice = Slice::endless();
    assert!((0..100_000).all(|_| !slice.is_over()));
}

#[test]
fn the_name_of_an_entry_is_a_number_and_the_same_again() {
    for key in [(0, 0), (1, 2), (u32::MAX, 7), (7, u32::MAX)].map(|(index, generation)| Key { index, generation }) {
        assert_eq!(Key::from(u64::from(key)), key);
    }
}
