//! The handover of every connection and all history to the next process, at a restart.
//!
//! All tasks of the old process end where they wait, and each connection that is dropped records its state in the
//! outbox. From there it goes, with the history, into a queue that the service manager keeps. The next
//! process goes on at the same byte.

pub(crate) mod fd_queue;
pub(crate) mod history_file;
mod inherited;
mod outgoing;
mod refuse;

pub(crate) use inherited::Inherited;
pub use inherited::cursor_of;
pub(crate) use outgoing::{hand_over, history_to_save};
