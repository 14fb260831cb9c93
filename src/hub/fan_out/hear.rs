//! Bytes that a quiet viewer has sent. Pongs and the answer to a close frame are handled here. Anything else makes the viewer busy.

use crate::hub::Hub;
use crate::hub::fan_out::{Key, Reason, State};
use crate::hub::table::Table;
use crate::wire::ws_frame::{are_pongs, is_close};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// The most bytes that are read at once. A short and a long pong fit; the rest stays in the kernel.
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
        let is_closing = matches!(entry.state, State::Closing(_));
        let mut bytes = [0; READ];
        match recv(&entry.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.hand_back(index, Reason::Gone(None)),
            // Both have closed.
            Ok((count, _)) if is_closing && is_close(&bytes[..count]) => self.hand_back(index, Reason::Gone(None)),
            Ok((count, _)) if are_pongs(&bytes[..count]) => {
                if !is_closing {
                    entry.pings.answered();
                }
            }
            Ok((count, _)) => self.hand_back(index, Reason::Spoke(bytes[..count].to_vec())),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => self.hand_back(index, Reason::Gone(Some(e.into()))),
        }
    }
}
