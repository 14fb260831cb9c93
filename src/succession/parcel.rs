//! How connections travel from one process to the next: in the queue of a Unix socket, of which the service manager keeps the
//! end that is read.
//!
//! Kept one by one, every connection would be compared with all others kept (systemd does, with one system call each), and be
//! named in one variable of the environment, which has a limit of 128 KiB.

use crate::{limits, store};
use memmap2::Mmap;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, getsockopt, recvmsg, sendmsg,
    setsockopt, socketpair, sockopt,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The name under which the service manager keeps it.
pub const NAME: &str = "succession";
/// The most descriptors in one message (Linux, `SCM_MAX_FD`).
const PER_MESSAGE: usize = 253;
/// The queue asked for, in bytes; the system gives less (`net.core.wmem_max`), which is enough for some 135,000 sockets.
const QUEUE: usize = 64 * 1024 * 1024;
/// What of it is kept for the state, in bytes.
const RESERVE: usize = 8 * 1024;

/// How long a service manager may take to close what it does not keep: systemd after 252 does it in a thread of its own.
const CLOSED_BY: Duration = Duration::from_millis(20);

/// Nobody changes the state any more, or makes it shorter.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_SHRINK);

/// What a message carries: how many sockets are meant to follow, some of them, or the state, which is the last.
const COUNT: u8 = b'#';
const SOCKETS: u8 = b's';
const STATE: u8 = b'!';

/// The end to be written of a queue that outlives the process.
#[derive(Debug)]
pub struct Parcel(OwnedFd);

impl Parcel {
    /// An empty one, which the service manager keeps already.
    ///
    /// # Errors
    /// If there is no service manager, or it keeps nothing.
    pub fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let parcel = Self::with(ours, QUEUE)?;
        // One that the process before left, and that this one could not read.
        store::forget(NAME);
        store::keep(NAME, theirs.as_fd())?;
        drop(theirs);
        store::barrier()?;
        if store::has_ended(parcel.0.as_fd(), CLOSED_BY)? {
            let what = "no service manager that keeps descriptors (FileDescriptorStoreMax=)";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        Ok(parcel)
    }

    /// One whose queue has `length` bytes, or as many as the system gives.
    fn with(end: OwnedFd, length: usize) -> io::Result<Self> {
        setsockopt(&end, sockopt::SndBuf, &length)?;
        // The system doubles what it is told, for its own bookkeeping.
        let length = getsockopt(&end, sockopt::SndBuf)? / 2;
        setsockopt(&end, sockopt::SndBuf, &length.saturating_sub(RESERVE))?;
        Ok(Self(end))
    }

    /// Puts in as many of `sockets` as there is room for; returns how many. To be called once.
    pub fn put(&self, sockets: &[RawFd]) -> usize {
        let warn = |e| log::warn!("not every connection can be handed over: {e}");
        let count = (sockets.len() as u64).to_le_bytes();
        if let Err(e) = self.send(COUNT, &count, &[]) {
            warn(e);
            return 0;
        }
        let put = |some: &&[RawFd]| self.send(SOCKETS, &[], some).map_err(warn).is_ok();
        sockets.chunks(PER_MESSAGE).take_while(put).map(<[RawFd]>::len).sum()
    }

    /// Puts in the state, as `write` writes it, which makes it complete.
    ///
    /// # Errors
    /// If there is no memory or no room.
    pub fn close(self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create("recodex-monitor", flags)?);
        write(&mut file)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
        setsockopt(&self.0, sockopt::SndBuf, &QUEUE)?;
        Ok(self.send(STATE, &[], &[file.as_raw_fd()])?)
    }

    fn send(&self, what: u8, more: &[u8], descriptors: &[RawFd]) -> Result<(), Errno> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let what = [what];
        let bytes = [IoSlice::new(&what), IoSlice::new(more)];
        sendmsg::<()>(self.0.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }
}

/// Takes everything out of a queue: the sockets in their order, and the state.
///
/// # Errors
/// If it is not complete, cannot be read, or has more sockets than this process may open.
pub fn open(queue: &OwnedFd) -> io::Result<(Vec<OwnedFd>, Mmap)> {
    let incomplete = || io::Error::new(io::ErrorKind::UnexpectedEof, "it is not complete");
    let (mut sockets, mut state) = (Vec::new(), None);
    while state.is_none() {
        let (what, mut descriptors) = receive(queue)?;
        match what[..] {
            // Those that find no place would be lost, and their peers not be told.
            [COUNT, ref count @ ..] => has_room(u64::from_le_bytes(count.try_into().map_err(|_| incomplete())?))?,
            [SOCKETS] => sockets.append(&mut descriptors),
            [STATE] => state = descriptors.pop(),
            _ => return Err(incomplete()),
        }
    }
    Ok((sockets, map(&state.ok_or_else(incomplete)?)?))
}

/// The state where it is: most of it is history, which will be copied once anyway.
fn map(state: &OwnedFd) -> io::Result<Mmap> {
    let seals = fcntl(state, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_retain);
    if !seals.contains(SEALS) {
        return Err(io::Error::other("its state is not sealed"));
    }
    #[expect(unsafe_code, reason = "memory that others could change is no slice")]
    // SAFETY: its seals keep everybody from changing it or making it shorter.
    unsafe {
        Mmap::map(state)
    }
}

fn has_room(sockets: u64) -> io::Result<()> {
    let files = limits::open_files();
    let limit = files.saturating_sub(limits::besides_connections(files, 2));
    if usize::try_from(sockets).is_ok_and(|sockets| sockets <= limit) {
        return Ok(());
    }
    let what = format!("it has {sockets} connections, and the limit of open files (LimitNOFILE=) allows {limit}");
    Err(io::Error::other(what))
}

/// What one message says, and what it carries.
fn receive(queue: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 1 + size_of::<u64>()];
    let mut space = cmsg_space!([RawFd; PER_MESSAGE]);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(queue.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let (length, mut descriptors) = (message.bytes, Vec::new());
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            #[expect(unsafe_code, reason = "a descriptor that comes by its number is owned by saying so")]
            // SAFETY: the kernel has just opened them for this process, and nothing else here takes them up.
            descriptors.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    bytes.truncate(length);
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::UdpSocket;

    fn pair(length: usize) -> (Parcel, OwnedFd) {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Parcel::with(ours, length).unwrap(), theirs)
    }

    #[test]
    fn sockets_come_out_in_their_order_with_the_state_and_only_when_it_is_there() {
        let (parcel, theirs) = pair(QUEUE);
        let sockets: Vec<_> = (0..300).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(parcel.put(&sockets.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>()), 300);
        drop(sockets);
        parcel.close(|file| file.write_all(b"state")).unwrap();
        let (sockets, state) = open(&theirs).unwrap();
        let found: Vec<_> = sockets.into_iter().map(|fd| UdpSocket::from(fd).local_addr().unwrap()).collect();
        assert_eq!((found, &state[..]), (addresses, &b"state"[..]));
        assert!(open(&theirs).is_err(), "it is empty");
        let (parcel, theirs) = pair(QUEUE);
        parcel.put(&[theirs.as_raw_fd()]);
        drop(parcel);
        assert!(open(&theirs).is_err(), "it has no state");
        let (parcel, theirs) = pair(QUEUE);
        parcel.put(&[]);
        let file = std::fs::File::open("/dev/null").unwrap();
        parcel.send(STATE, &[], &[file.as_raw_fd()]).unwrap();
        assert_eq!(open(&theirs).unwrap_err().to_string(), "its state is not sealed");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_state_always_fits() {
        limits::raise_open_files();
        let (parcel, theirs) = pair(RESERVE + 512);
        let fds = vec![theirs.as_raw_fd(); 20 * PER_MESSAGE];
        let put = parcel.put(&fds);
        assert!(put > 0 && put < fds.len() && put % PER_MESSAGE == 0, "{put}");
        parcel.close(|_| Ok(())).unwrap();
        assert_eq!(open(&theirs).unwrap().0.len(), put);
    }
}
