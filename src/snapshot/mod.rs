//! The state that one process tells the next: types, encoding, checks.

pub mod format2;
pub mod reading;
pub mod state;
