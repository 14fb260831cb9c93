//! The protocols' bytes: ZMTP, job messages, closing frames, lists in HTTP headers. Bytes in, values out; no sockets, no settings.

pub mod close;
pub mod first_byte;
pub mod header_list;
pub mod message;
pub mod ws_frame;
pub mod zmtp;
