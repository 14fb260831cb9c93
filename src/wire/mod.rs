//! Bytes in, values out: the messages of jobs, ZMTP, lists in HTTP headers. Nothing here knows a socket or a setting.

pub mod close;
pub mod first_byte;
pub mod header_list;
pub mod message;
pub mod zmtp;
