//! The state that one process hands to the next, or saves: types, encoding, checks.

mod consistency;
pub mod encoding;
mod fitting;
mod format2;
pub mod reading;
pub mod state;
