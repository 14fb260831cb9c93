//! With `cluster`: the messages go through a stream in Redis, from which every node reads them.

mod away;
pub(crate) mod connect;
mod sentinel;
