//! Attacks on both ports, faulty networks, and a system that is short of something: others do not notice.

#[path = "../common/mod.rs"]
mod common;

mod brokers;
mod faulty_network;
mod noise;
mod resource_limits;
mod viewers;
