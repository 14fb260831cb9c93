//! Attacks on both ports, faulty networks, and a system that lacks resources: other clients do not notice.

#[path = "../common/mod.rs"]
mod common;

mod brokers;
mod faulty_network;
mod noise;
mod resource_limits;
mod viewers;
