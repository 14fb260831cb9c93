//! Tests that run one at a time, in a process of their own: a child of another test, between fork and exec, would hold
//! sockets that have to be closed; and the soak measures the memory of its process.

#[path = "../common/mod.rs"]
mod common;

mod descriptors;
mod handover;
mod saved_history;
mod soak;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    common::raise_open_files();
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The texts of the tasks numbered so.
fn ids(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|i| common::task(&i.to_string(), "COMPLETED")).collect()
}
