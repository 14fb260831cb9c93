//! Attacks on the brokers' port: the process goes on, uses little memory, and serves the other clients.

mod handshake;
mod traffic;

use crate::common::zmtp::{greeted, ready};
use crate::common::{RawPeer, Scene};
use std::fmt::Display;

/// The same for what is sent after a handshake.
fn each_closes_its_ready_link<N: Display, B: AsRef<[u8]>>(attacks: &[(N, B)]) {
    let mut scene = Scene::new("");
    for (name, bytes) in attacks {
        eprintln!("attack: {name}");
        let mut peer = RawPeer::ready(scene.monitor.brokers);
        peer.send_what_goes(bytes.as_ref());
        peer.is_closed();
        scene.relays();
    }
    scene.is_unharmed();
    scene.monitor.wait_log("closed the ZeroMQ link");
}

/// A whole handshake, as libzmq sends it.
fn handshake() -> Vec<u8> {
    greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", b"")]))
}
