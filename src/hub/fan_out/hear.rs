//! Bytes that a quiet viewer has sent: pongs are dealt with here; with anything else the viewer becomes busy.

use crate::hub::Hub;
use crate::hub::fan_out::{Key, Why};
use crate::hub::table::Table;
use crate::wire::ws_frame::are_pongs;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// The most bytes that are read at once: a pong and a long one behind it. The rest stays in the kernel.
const READ: usize = 256;

impl Hub {
    /// Reads what a quiet viewer has sent, once. Does nothing if `key` names no quiet viewer any more.
    pub(crate) fn hear(&self, key: Key) {
        let mut table = self.table();
        if let Some(index) = table.fan_out.find(key) {
            table.hear(index);
            self.wake(&table);
        }
    }
}

impl Table {
    /// Reads what the viewer of an entry has sent, once.
    pub(super) fn hear(&mut self, index: usize) {
        let entry = &mut self.fan_out.entries[index];
        let mut bytes = [0; READ];
        match recv(&entry.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.hand_back(index, Why::Gone(None)),
            Ok((count, _)) if are_pongs(&bytes[..count]) => entry.pings.answered(),
            Ok((count, _)) => self.hand_back(index, Why::Spoke(bytes[..count].to_vec())),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => self.hand_back(index, Why::Gone(Some(e.into()))),
        }
    }
}
