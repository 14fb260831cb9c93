//! The queue of descriptors between two processes: a pair of Unix sockets, of which the service manager keeps the reading end.
//!
//! The service manager could keep each connection by itself. But systemd compares a new descriptor with all others, with one system
//! call each, and names all of them in one environment variable, which has a limit of 128 KiB.

use crate::systemd::{fd_store, notify};
use memmap2::Mmap;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, sendmsg, setsockopt, socketpair, sockopt,
};
use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The most descriptors in one message (Linux, `SCM_MAX_FD`).
const PER_MESSAGE: usize = 253;
/// The requested length of the queue, in bytes. The system gives less (`net.core.wmem_max`), enough for some 135,000 sockets.
const QUEUE: usize = 64 * 1024 * 1024;
/// The part of the queue that sockets leave free for the state, in bytes.
const RESERVE: usize = 8 * 1024;

/// The time in which a service manager closes a descriptor that it does not keep: systemd after 252 does it in a thread of its own.
const CLOSED_BY: Duration = Duration::from_millis(20);

/// The seals of the state: nobody can change it or make it shorter.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_SHRINK);

/// The time in which another try to seal the state begins.
const SEAL_TIME: Duration = Duration::from_secs(1);

/// The first byte of the first message: the number of sockets follows.
const COUNT: u8 = b'#';
/// The first byte of a message with sockets.
const SOCKETS: u8 = b's';
/// The first byte of the last message, which has the state.
const STATE: u8 = b'!';

/// The writing end of a queue that outlives the process.
#[derive(Debug)]
pub struct FdQueue(OwnedFd);

impl FdQueue {
    /// Makes an empty queue and waits until the service manager keeps it. Must be called in a tokio runtime, where
    /// [`notify::send_waiting`] runs.
    ///
    /// # Errors
    /// If there is no service manager, it keeps nothing, or it does not answer in time.
    pub(crate) async fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let queue = Self::with(ours, QUEUE)?;
        // The previous process may have left one that could not be read.
        fd_store::forget(fd_store::HANDOVER_QUEUE);
        fd_store::keep(fd_store::HANDOVER_QUEUE, theirs.as_fd())?;
        drop(theirs);
        if let Err(e) = fd_store::barrier().await {
            // If it keeps the queue after all, the next process closes it, since it has no state.
            notify::forget_descriptors();
            fd_store::forget(fd_store::HANDOVER_QUEUE);
            return Err(e);
        }
        if fd_store::has_ended(queue.0.as_fd(), CLOSED_BY).await? {
            let what = "no service manager that keeps descriptors (FileDescriptorStoreMax=)";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        Ok(queue)
    }

    /// Makes a queue of `length` bytes, or as many as the system gives.
    fn with(end: OwnedFd, length: usize) -> io::Result<Self> {
        setsockopt(&end, sockopt::SndBuf, &length)?;
        // The system doubles what it is told, for its own bookkeeping.
        let length = getsockopt(&end, sockopt::SndBuf)? / 2;
        setsockopt(&end, sockopt::SndBuf, &length.saturating_sub(RESERVE))?;
        Ok(Self(end))
    }

    /// Puts as many of `sockets` in as there is room for; returns their number. To be called once.
    pub(crate) fn put(&self, sockets: &[RawFd]) -> usize {
        let warn = |e| log::warn!("not every connection can be handed over: {e}");
        let count = (sockets.len() as u64).to_le_bytes();
        if let Err(e) = self.send(COUNT, &count, &[]) {
            warn(e);
            return 0;
        }
        let put = |some: &&[RawFd]| self.send(SOCKETS, &[], some).map_err(warn).is_ok();
        sockets.chunks(PER_MESSAGE).take_while(put).map(<[RawFd]>::len).sum()
    }

    /// Puts the state in, as `write` writes it. The queue is complete then.
    ///
    /// # Errors
    /// If there is no memory or no room.
    pub(crate) fn close(self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create("recodex-monitor", flags)?);
        write(&mut file)?;
        seal(&file)?;
        setsockopt(&self.0, sockopt::SndBuf, &QUEUE)?;
        Ok(self.send(STATE, &[], &[file.as_raw_fd()])?)
    }

    fn send(&self, kind: u8, more: &[u8], descriptors: &[RawFd]) -> Result<(), Errno> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let kind = [kind];
        let bytes = [IoSlice::new(&kind), IoSlice::new(more)];
        sendmsg::<()>(self.0.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }
}

/// The contents of a queue.
#[derive(Debug)]
pub(super) struct Received {
    /// The sockets, in their order.
    pub(super) sockets: Vec<OwnedFd>,
    /// The number of sockets that were sent.
    pub(super) sent: usize,
    /// True if all of them were taken.
    pub(super) complete: bool,
    pub(super) state: Mmap,
}

/// Takes the first `room` sockets and the state out of a queue. Other sockets are closed.
///
/// # Errors
/// If the queue is not complete, or cannot be read.
pub(super) fn open(queue: &OwnedFd, room: usize) -> io::Result<Received> {
    let incomplete = || io::Error::new(io::ErrorKind::UnexpectedEof, "it is not complete");
    let (mut sockets, mut sent, mut complete, mut state) = (Vec::new(), 0, true, None);
    while state.is_none() {
        let Message { bytes, mut descriptors, whole } = receive(queue, room.saturating_sub(sockets.len()))?;
        match bytes[..] {
            [COUNT, ref count @ ..] => {
                let count = u64::from_le_bytes(count.try_into().map_err(|_| incomplete())?);
                sent = usize::try_from(count).map_err(|_| incomplete())?;
            }
            [SOCKETS] => {
                complete &= whole && sockets.len() + descriptors.len() <= room;
                sockets.append(&mut descriptors);
                sockets.truncate(room);
            }
            [STATE] => state = descriptors.pop(),
            _ => return Err(incomplete()),
        }
    }
    let state = map(&state.ok_or_else(incomplete)?)?;
    Ok(Received { sent: if complete { sockets.len() } else { sent.max(sockets.len()) }, sockets, complete, state })
}

/// Seals the state. The system refuses for as long as something else refers to its memory, as the kernel's own management of memory does
/// for a moment. Each try waits for about 0.3 s by itself.
fn seal(state: &File) -> Result<(), Errno> {
    let begun = Instant::now();
    loop {
        match fcntl(state, FcntlArg::F_ADD_SEALS(SEALS)) {
            Err(Errno::EBUSY) if begun.elapsed() < SEAL_TIME => {}
            sealed => return sealed.map(drop),
        }
    }
}

/// Maps the state into memory. Most of it is history, which the hub copies once; so it is not copied before.
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

/// One message of a queue.
struct Message {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// True if all its descriptors were taken.
    whole: bool,
}

/// Takes one message with the first `room` of its descriptors. There is always room for one, which may be the state.
fn receive(queue: &OwnedFd, room: usize) -> io::Result<Message> {
    let mut bytes = vec![0; 1 + size_of::<u64>()];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(PER_MESSAGE))];
    let length = cmsg_space!(ScmRights(room.clamp(1, PER_MESSAGE)));
    let mut control = RecvAncillaryBuffer::new(&mut space[..length]);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(queue, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let rights = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    bytes.truncate(message.bytes);
    Ok(Message { bytes, descriptors, whole: !message.flags.contains(ReturnFlags::CTRUNC) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{SpliceFFlags, splice};
    use std::io::{Write, pipe};
    use std::net::UdpSocket;
    use std::thread;

    fn pair(length: usize) -> (FdQueue, OwnedFd) {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (FdQueue::with(ours, length).unwrap(), theirs)
    }

    #[test]
    fn sockets_come_out_in_their_order_with_the_state_and_only_when_it_is_there() {
        let (queue, theirs) = pair(QUEUE);
        let sockets: Vec<_> = (0..300).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(queue.put(&sockets.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>()), 300);
        drop(sockets);
        queue.close(|file| file.write_all(b"state")).unwrap();
        let Received { sockets, state, sent, complete } = open(&theirs, usize::MAX).unwrap();
        assert_eq!((sent, complete), (300, true));
        let found: Vec<_> = sockets.into_iter().map(|fd| UdpSocket::from(fd).local_addr().unwrap()).collect();
        assert_eq!((found, &state[..]), (addresses, &b"state"[..]));
        assert!(open(&theirs, usize::MAX).is_err(), "it is empty");
        let (queue, theirs) = pair(QUEUE);
        queue.put(&[theirs.as_raw_fd()]);
        drop(queue);
        assert!(open(&theirs, usize::MAX).is_err(), "it has no state");
        let (queue, theirs) = pair(QUEUE);
        queue.put(&[]);
        let file = std::fs::File::open("/dev/null").unwrap();
        queue.send(STATE, &[], &[file.as_raw_fd()]).unwrap();
        assert_eq!(open(&theirs, usize::MAX).unwrap_err().to_string(), "its state is not sealed");
    }

    #[test]
    fn a_state_whose_memory_is_held_for_a_moment_is_sealed_after_it() {
        let (queue, theirs) = pair(QUEUE);
        let (reader, writer) = pipe().unwrap();
        let begun = Instant::now();
        queue.put(&[]);
        queue
            .close(|file| {
                file.write_all(&[7; 4096])?;
                // The pipe refers to the page itself.
                assert_eq!(splice(&*file, Some(&mut 0), &writer, None, 4096, SpliceFFlags::empty())?, 4096);
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(400));
                    drop((reader, writer));
                });
                Ok(())
            })
            .unwrap();
        assert!(begun.elapsed() > Duration::from_millis(300), "nothing was in the way");
        assert_eq!(open(&theirs, 0).unwrap().state[..], [7; 4096]);
    }

    #[test]
    fn sockets_are_taken_as_far_as_there_is_room_and_the_state_always() {
        let sockets: Vec<_> = (0..300).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let fds: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        for room in [0, 1, 2, 7, 252, 253, 254, 299] {
            let (queue, theirs) = pair(QUEUE);
            assert_eq!(queue.put(&fds), 300);
            queue.close(|file| file.write_all(b"state")).unwrap();
            let received = open(&theirs, room).unwrap();
            assert_eq!((received.sent, received.complete, &received.state[..]), (300, false, &b"state"[..]));
            let found = received.sockets.into_iter().map(|fd| UdpSocket::from(fd).local_addr().unwrap());
            assert!(found.eq(sockets[..room].iter().map(|socket| socket.local_addr().unwrap())), "{room}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_state_always_fits() {
        crate::rlimit::raise_open_files();
        let (queue, theirs) = pair(RESERVE + 512);
        let fds = vec![theirs.as_raw_fd(); 20 * PER_MESSAGE];
        let put = queue.put(&fds);
        assert!(put > 0 && put < fds.len() && put % PER_MESSAGE == 0, "{put}");
        queue.close(|_| Ok(())).unwrap();
        assert_eq!(open(&theirs, usize::MAX).unwrap().sockets.len(), put);
    }
}
