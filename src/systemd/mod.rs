//! The service manager: notifications (`sd_notify(3)`) and the descriptors that it keeps between two processes.

pub mod fd_store;
pub mod notify;
pub(crate) mod readiness;
