//! Several monitors that are one service, through real Redis servers and Sentinels: each viewer gets every message once and in
//! order, whichever process dies, stops or is cut off.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod away;
mod chaos;
mod data;
mod expiry;
mod failover;
mod haproxy;
mod jobs;
mod node;
mod nodes_end;
mod permissions;
mod redis_ends;
mod refusals;
mod relaying;
mod releases;
mod restarts;
mod stream;
mod tails;
