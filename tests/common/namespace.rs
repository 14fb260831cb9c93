//! Simulated machines with a network of their own.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::{fs, thread};

use nix::sched::{CloneFlags, setns};

use super::{skipped, unique};

/// A network namespace; dropping it removes it.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes two machines and the cable between them; the first has [`Namespace::NEAR`]. Returns `None` if this machine cannot do
    /// that.
    pub(crate) fn pair() -> Option<(Self, Self)> {
        if !ip(&["netns", "list"]) {
            skipped("needs the command ip");
            return None;
        }
        let (Some(near), Some(far)) = (Self::new(), Self::new()) else {
            skipped("needs the right to make network namespaces");
            return None;
        };
        let cable = ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &far.name];
        near.ip(&cable);
        for (machine, address) in [(&near, "10.0.0.1/24"), (&far, "10.0.0.2/24")] {
            machine.ip(&["address", "add", address, "dev", "cable"]);
            machine.ip(&["link", "set", "lo", "up"]);
            machine.ip(&["link", "set", "cable", "up"]);
        }
        Some((near, far))
    }

    /// The address of the first machine.
    pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn new() -> Option<Self> {
        let name = format!("{}-{}", unique("recodex-monitor"), std::process::id());
        ip(&["netns", "add", &name]).then_some(Namespace { name })
    }

    fn ip(&self, words: &[&str]) {
        assert!(ip(&[&["-n", self.name.as_str()], words].concat()), "ip cannot do this: {words:?}");
    }

    /// Runs a function on this machine. Sockets, threads and processes that it starts stay there.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let act = || {
            let namespace = fs::File::open(format!("/run/netns/{}", self.name)).expect("ip has put it there");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may");
            act()
        };
        thread::scope(|scope| scope.spawn(act).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Disconnects the machine at once: nothing that it sends from now on reaches the other one.
    pub(crate) fn vanish(&self) {
        self.ip(&["link", "set", "cable", "down"]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.name]);
    }
}

fn ip(words: &[&str]) -> bool {
    Command::new("ip").args(words).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}
