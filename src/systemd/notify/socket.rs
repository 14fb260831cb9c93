//! The socket of the service manager: its address, and sends that never wait.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

#[derive(Debug)]
pub(super) struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
}

/// Returns the address that a value of `NOTIFY_SOCKET` names.
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) if !name.is_empty() => SocketAddr::from_abstract_name(name),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Returns true if a send failed because nobody has the socket open.
pub(super) fn is_gone(error: Errno) -> bool {
    use Errno::{ECONNREFUSED, ECONNRESET, EDESTADDRREQ, ENOTCONN, EPIPE};
    matches!(error, ECONNREFUSED | ENOTCONN | ECONNRESET | EPIPE | EDESTADDRREQ)
}

impl Socket {
    /// Makes a socket that sends to the one that `name` names, as `NOTIFY_SOCKET` does. Nobody needs to have it open yet.
    ///
    /// # Errors
    /// If `name` is not an address.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let address = address(name)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        if let Err(e) = socket.connect_addr(&address) {
            log::warn!("the service manager cannot be reached at NOTIFY_SOCKET yet: {e}; it is tried again");
        }
        Ok(Self { socket, address })
    }

    /// Sends a message, at once or not at all. If another socket has taken the place of the one before, it goes to that one.
    pub(super) fn send(&self, text: &str, descriptor: Option<&OwnedFd>) -> Result<(), Errno> {
        let mut is_new = false;
        loop {
            match self.try_send(text, descriptor) {
                Err(Errno::EINTR) => {}
                Err(e) if is_gone(e) && !is_new && self.socket.connect_addr(&self.address).is_ok() => is_new = true,
                sent => return sent,
            }
        }
    }

    fn try_send(&self, text: &str, descriptor: Option<&OwnedFd>) -> Result<(), Errno> {
        let bytes = [IoSlice::new(text.as_bytes())];
        let descriptors: Vec<_> = descriptor.into_iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.socket.as_raw_fd(), &bytes, rights, flags, None).map(drop)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_an_abstract_name_are_addresses_and_nothing_else() {
        assert_eq!(address("@a/b").unwrap().as_abstract_name(), Some(&b"a/b"[..]));
        assert!(address("/run/notify").unwrap().as_pathname().is_some());
        let long = format!("/{}", "a".repeat(200));
        for name in ["", "@", "notify", "vsock:2:1", &long] {
            assert!(address(name).is_err(), "{name}");
        }
    }
}
