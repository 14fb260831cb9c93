//! The protocols' bytes: ZMTP, job messages, closing frames, lists in HTTP headers. Bytes in, values out; no sockets, no settings.

pub(crate) mod close;
pub(crate) mod first_byte;
pub(crate) mod header_list;
pub(crate) mod message;
pub(crate) mod ws_frame;
pub(crate) mod zmtp;
