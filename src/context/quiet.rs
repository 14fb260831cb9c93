//! Quiet viewers as the rest of the monitor sees them: who they are, and the epoll set that tells when one of them has sent something.

use crate::context::permits::{AddressPermit, Permit};
use crate::peer::Peer;
use rustix::event::{Timespec, epoll};
use slab::Slab;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The most events that are taken at once: dealing with one takes about a microsecond.
pub(crate) const EVENTS: usize = 256;
/// The number of ended tasks after which memory is given back: half a megabyte or more.
const MANY: usize = 512;
/// The delay from then until the memory is given back.
const PAUSE: Duration = Duration::from_secs(1);

/// A quiet viewer's address and permits.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) peer: Peer,
    pub(crate) permit: Permit,
    pub(crate) address_permit: Option<Box<AddressPermit>>,
}

/// The owners of the entries in the hub's fan-out, and the epoll set of their sockets.
///
/// The set is level-triggered: what is not read is told again. A socket leaves the set before the runtime watches it again.
#[derive(Debug)]
pub(crate) struct QuietViewers {
    set: AsyncFd<OwnedFd>,
    owners: Mutex<Slab<Owner>>,
    /// The number of viewers that have become quiet since memory was given back.
    ended_tasks: AtomicUsize,
    /// Notified when they are many.
    many_ended: Notify,
}

impl QuietViewers {
    /// Creates an empty set. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the system has no descriptor for it, or the runtime cannot watch it.
    pub(crate) fn new() -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned here, and nothing exchanges or closes it before the `AsyncFd` is dropped.
        #[expect(unsafe_code, reason = "tokio has no safe call for a descriptor that is no socket")]
        let set = unsafe { AsyncFd::register_with_interest(set, Interest::READABLE)? };
        Ok(Self { set, owners: Mutex::default(), ended_tasks: 0.into(), many_ended: Notify::new() })
    }

    /// Keeps an owner; returns its number.
    pub(crate) fn keep(&self, owner: Owner) -> u32 {
        let number = self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(owner);
        // Each has a descriptor, and those are counted with 31 bits.
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Takes the owner with this number out, if there is one.
    pub(crate) fn take(&self, number: u32) -> Option<Owner> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).try_remove(number as usize)
    }

    /// Counts a viewer that has become quiet: its task ends.
    pub(crate) fn task_ended(&self) {
        if self.ended_tasks.fetch_add(1, Ordering::Relaxed) + 1 == MANY {
            self.many_ended.notify_one();
        }
    }

    /// Waits until the memory of many viewers' tasks may be given back.
    pub(crate) async fn many_tasks_ended(&self) {
        self.many_ended.notified().await;
        // More may end at the same time.
        sleep(PAUSE).await;
        self.ended_tasks.store(0, Ordering::Relaxed);
    }

    /// Watches a socket; its events have this key.
    ///
    /// # Errors
    /// If the system refuses, for example because the user watches too many sockets (`fs.epoll.max_user_watches`).
    pub(crate) fn watch(&self, socket: impl AsFd, key: u64) -> io::Result<()> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        Ok(epoll::add(self.set.get_ref(), socket, epoll::EventData::new_u64(key), events)?)
    }

    /// Watches a socket no more. Must be called before it is closed or watched by the runtime.
    pub(crate) fn forget(&self, socket: impl AsFd) {
        // An error means that it is not watched.
        let _ = epoll::delete(self.set.get_ref(), socket);
    }

    /// Waits for events, and puts the keys of at most [`EVENTS`] of them into `keys`. There may be none.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) async fn next_events(&self, keys: &mut Vec<u64>) -> io::Result<()> {
        let mut ready = self.set.readable().await?;
        self.take_events(keys)?;
        // Only an empty set shows that there is nothing more. The runtime tells of the next event, not of those that are left.
        if keys.is_empty() {
            ready.clear_ready();
        }
        Ok(())
    }

    fn take_events(&self, keys: &mut Vec<u64>) -> io::Result<()> {
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        let (events, _) = epoll::wait(self.set.get_ref(), &mut room, Some(&Timespec::default()))?;
        keys.clear();
        keys.extend(events.iter().map(|event| event.data.u64()));
        Ok(())
    }
}
