//! The service manager: notifications to it, and the descriptors that it keeps between two processes (`sd_notify(3)`).

pub(crate) mod fd_store;
pub(crate) mod notify;
pub(crate) mod readiness;
