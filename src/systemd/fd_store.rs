//! The service manager's store of descriptors (`sd_notify(3)`, FDSTORE): it keeps them and passes them to the next process.

use crate::deadline::timeout;
use crate::fs::temporary_path;
use crate::systemd::notify;
use crate::systemd::notify::Kind;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Uid};
use sd_notify::NotifyState;
use socket2::{Domain, SockRef, Type};
use std::io::{self, pipe};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net;
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;

/// The prefix of the names of listening sockets. The generation of the process follows, and the number of the socket.
const LISTENER: &str = "listener-";
/// The name of the queue in which a process hands its connections to the next. Version 2.0.0 uses it, too.
pub(crate) const HANDOVER_QUEUE: &str = "succession";
/// The most time that the service manager has to handle messages.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listening TCP socket of a previous process.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the store.
    pub name: String,
    /// The generation of the process that made it.
    pub generation: u64,
    /// The socket.
    pub socket: TcpListener,
}

impl Listener {
    /// Closes the socket, here and in the store.
    pub(crate) fn close(self) {
        forget(&self.name);
        // Without this, the socket would listen until the service manager has closed its copy.
        if let Err(e) = SockRef::from(&self.socket).shutdown(Shutdown::Both) {
            log::debug!("{} is still listening: {e}", self.name);
        }
    }
}

/// A listening Unix socket of a previous process.
#[derive(Debug)]
pub struct UnixListener {
    name: String,
    generation: u64,
    socket: net::UnixListener,
}

impl UnixListener {
    /// Returns true if it was made for this path: it was bound to the temporary path, and renamed.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let bound = self.socket.local_addr();
        bound.is_ok_and(|at| at.as_pathname() == Some(&temporary_path(path)))
    }

    /// Returns the socket, and has the service manager let it go. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn into_listener(self) -> io::Result<tokio::net::UnixListener> {
        forget(&self.name);
        self.socket.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(self.socket)
    }
}

/// The descriptors that this process was started with.
#[derive(Debug, Default)]
pub struct InheritedFds {
    /// Listening TCP sockets.
    pub listeners: Vec<Listener>,
    /// Listening Unix sockets.
    pub unix: Vec<UnixListener>,
    /// The queue of the previous process.
    handover: Option<OwnedFd>,
    /// The generation of this process: one more than the largest of the listening sockets.
    generation: u64,
    /// The number of listening sockets at first, and of those that the previous process made.
    counts: (usize, usize),
    /// The number of listening sockets of this process, true if one of them is the status listener, and the number of descriptors for
    /// Redis. Not known until the sockets are bound.
    own: (usize, bool, usize),
}

/// Takes the descriptors that this process was started with; the ones that it cannot use are closed. To be called once, before
/// others are opened.
pub(crate) fn take() -> InheritedFds {
    let mut inherited = InheritedFds::default();
    let handed = match sd_notify::listen_fds_with_names() {
        Ok(handed) => handed,
        Err(e) => {
            log::warn!("what the service manager kept is left alone: {e}");
            return inherited;
        }
    };
    for (fd, name) in handed {
        #[expect(unsafe_code, reason = "a descriptor that comes by its number is owned by saying so")]
        // SAFETY: $LISTEN_PID says that it was opened for this process, and nothing else here takes it up.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        if listens(&descriptor) {
            inherited.add_listener(name, descriptor);
        } else if name == HANDOVER_QUEUE {
            inherited.handover = Some(descriptor);
        } else {
            log::warn!("closed descriptor {fd} from the service manager ({name:?}): it is no listening socket");
            forget(&name);
        }
    }
    inherited.count_listeners();
    inherited
}

/// Returns true for a listening stream socket that has an address.
fn listens(descriptor: &OwnedFd) -> bool {
    let socket = SockRef::from(descriptor);
    socket.is_listener().unwrap_or(false)
        && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.local_addr().is_ok_and(|at| at.as_socket().is_some() || at.as_pathname().is_some())
}

impl InheritedFds {
    fn add_listener(&mut self, name: String, socket: OwnedFd) {
        let number = name.strip_prefix(LISTENER).and_then(|rest| rest.split('-').next()?.parse().ok());
        let generation: u64 = number.unwrap_or(0);
        self.generation = self.generation.max(generation.saturating_add(1));
        if SockRef::from(&socket).domain().is_ok_and(|domain| domain == Domain::UNIX) {
            self.unix.push(UnixListener { name, generation, socket: socket.into() });
        } else {
            self.listeners.push(Listener { name, generation, socket: socket.into() });
        }
    }

    fn count_listeners(&mut self) {
        let newest = self.generation.saturating_sub(1);
        let of_previous = self.listeners.iter().filter(|listener| listener.generation == newest).count();
        let unix_of_previous = self.unix.iter().filter(|listener| listener.generation == newest).count();
        self.counts = (self.listeners.len() + self.unix.len(), of_previous + unix_of_previous);
    }

    /// Copies the listening TCP sockets, in order to close them after they were adopted one by one.
    pub(crate) fn copy_listeners(&self) -> Vec<Listener> {
        let copy = |Listener { name, generation, socket }: &Listener| match socket.try_clone() {
            Ok(socket) => Some(Listener { name: name.clone(), generation: *generation, socket }),
            Err(e) => {
                log::debug!("{name} would stay open after a start that fails: {e}");
                None
            }
        };
        self.listeners.iter().filter_map(copy).collect()
    }

    /// Takes the queue of the previous process, if it handed something over.
    pub(crate) fn take_handover(&mut self) -> Option<OwnedFd> {
        self.handover.take()
    }

    /// Returns four things: the number of inherited listening sockets, the number of those of the previous process or of this one
    /// (whichever is larger), true if this process has a status listener, and its number of descriptors for Redis.
    pub(crate) fn counts(&self) -> (usize, usize, bool, usize) {
        let ((inherited, previous), (own, status, redis)) = (self.counts, self.own);
        (inherited, previous.max(own).max(2), status, redis)
    }

    /// Notes the listening sockets of this process, and the descriptors for Redis: the connections that it takes over must fit beside them.
    pub(crate) fn note_own(&mut self, listeners: usize, status: bool, redis: usize) {
        self.own = (listeners, status, redis);
    }

    /// Returns the user and the group of the process that made the queue, as the system noted them then.
    ///
    /// The previous process could have passed on a queue that somebody else made. Then everything in it comes from that user, too.
    pub(crate) fn predecessor(&self) -> Option<(Uid, Gid)> {
        let made_by = getsockopt(self.handover.as_ref()?, sockopt::PeerCredentials).ok()?;
        Some((Uid::from_raw(made_by.uid()), Gid::from_raw(made_by.gid())))
    }

    /// Has the service manager keep this process's listening sockets. Without a service manager nothing is done.
    pub(crate) fn keep<'a>(&self, listeners: impl Iterator<Item = BorrowedFd<'a>>) {
        for (i, listener) in listeners.enumerate() {
            if let Err(e) = keep(&format!("{LISTENER}{}-{i}", self.generation), listener) {
                log::debug!("the service manager does not keep the listening sockets: {e}");
                return;
            }
        }
    }
}

/// Has the service manager keep a descriptor under `name`. Without a service manager nothing is done.
///
/// # Errors
/// If the descriptor cannot be copied.
pub(crate) fn keep(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // Without FDPOLL=0 one end of a pair would be let go as soon as the other is closed.
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    notify::send(Kind::Store, &state, Some(descriptor.try_clone_to_owned()?));
    Ok(())
}

/// Has the service manager let go of all descriptors with this name.
pub(crate) fn forget(name: &str) {
    notify::send(Kind::Remove, &[NotifyState::FdStoreRemove, NotifyState::FdName(name)], None);
}

/// Waits until the service manager has handled all messages, also those that still wait to be sent (`sd_notify_barrier(3)`).
///
/// # Errors
/// If it takes more than 1 s, or there is no service manager.
pub(crate) async fn barrier() -> io::Result<()> {
    if !notify::is_open() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "there is no service manager"));
    }
    // The service manager closes its copy of `writer` once it has handled the messages before.
    let (reader, writer) = pipe()?;
    notify::send(Kind::Barrier, &[NotifyState::Custom("BARRIER=1")], Some(writer.into()));
    if has_ended(reader.as_fd(), PATIENCE).await? {
        return Ok(());
    }
    let what = format!("the service manager does not answer within {} s", PATIENCE.as_secs());
    Err(io::Error::new(io::ErrorKind::TimedOut, what))
}

/// Returns true if the other end of a pipe or a pair is closed within `time`. Nothing may be sent from there. Must be called in a tokio
/// runtime.
///
/// # Errors
/// If the system refuses.
pub(crate) async fn has_ended(end: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    let end = notify::watch(end, Interest::READABLE)?;
    Ok(timeout(time, end.readable()).await.is_ok())
}
