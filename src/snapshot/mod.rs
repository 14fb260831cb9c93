//! The state that one process hands to the next, or saves: types, encoding, checks.

mod consistency;
pub(crate) mod encoding;
mod fitting;
mod format2;
pub(crate) mod reading;
mod reading_stream;
pub(crate) mod state;
pub(crate) mod stream;
