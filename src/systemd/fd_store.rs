//! Descriptors that outlive the process: the service manager keeps them (`sd_notify(3)`, FDSTORE) and hands them to the next one.

use crate::config::temporary_path;
use crate::deadline::timeout;
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

/// What the names of listening sockets begin with; the number of the process follows, as the store counts them, and that of the
/// socket.
const LISTENER: &str = "listener-";
/// The name of the queue in which one process hands its connections to the next.
pub const HANDOVER_QUEUE: &str = "succession";
/// How long the service manager may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listening socket of the process before this one.
#[derive(Debug)]
pub struct Listener {
    /// The name under which it is kept.
    pub name: String,
    /// The number of the process that made it.
    pub generation: u64,
    /// The socket.
    pub socket: TcpListener,
}

impl Listener {
    /// Closes it, here and at the service manager.
    pub fn close(self) {
        forget(&self.name);
        // At once, and not when the service manager gets to it.
        if let Err(e) = SockRef::from(&self.socket).shutdown(Shutdown::Both) {
            log::debug!("{} listens on: {e}", self.name);
        }
    }
}

/// A listening Unix socket of the process before this one.
#[derive(Debug)]
pub struct UnixListener {
    name: String,
    socket: net::UnixListener,
}

impl UnixListener {
    /// Whether it was bound to this path, or to the name it had before.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let bound = self.socket.local_addr();
        bound.is_ok_and(|at| at.as_pathname() == Some(&temporary_path(path)))
    }

    /// The socket, of which the service manager lets go.
    ///
    /// # Errors
    /// Those of the system. Must be called in a tokio runtime.
    pub fn into_listener(self) -> io::Result<tokio::net::UnixListener> {
        forget(&self.name);
        self.socket.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(self.socket)
    }
}

/// What this process was started with.
#[derive(Debug, Default)]
pub struct InheritedFds {
    /// Listening sockets.
    pub listeners: Vec<Listener>,
    /// Listening Unix sockets.
    pub unix: Vec<UnixListener>,
    /// What the process before handed over.
    handover: Option<OwnedFd>,
    /// How many processes before this one left listening sockets.
    generation: u64,
    /// How many listening sockets there were at first, and how many of them are those of the process before.
    counts: (usize, usize),
    /// How many listening sockets this process has, and whether one of them is the status listener; unknown until they are bound.
    own: (usize, bool),
}

/// Takes the descriptors that this process was started with; those that it cannot use are closed. To be called once, before
/// others are opened.
#[must_use]
pub fn take() -> InheritedFds {
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
            let number = name.strip_prefix(LISTENER).and_then(|rest| rest.split('-').next()?.parse().ok());
            let generation: u64 = number.unwrap_or(0);
            inherited.generation = inherited.generation.max(generation.saturating_add(1));
            if SockRef::from(&descriptor).domain().is_ok_and(|domain| domain == Domain::UNIX) {
                inherited.unix.push(UnixListener { name, socket: descriptor.into() });
            } else {
                inherited.listeners.push(Listener { name, generation, socket: descriptor.into() });
            }
        } else if name == HANDOVER_QUEUE {
            inherited.handover = Some(descriptor);
        } else {
            log::warn!("closed descriptor {fd} from the service manager ({name:?}): it is no listening socket");
            forget(&name);
        }
    }
    let newest = inherited.generation.saturating_sub(1);
    let of_before = inherited.listeners.iter().filter(|listener| listener.generation == newest).count();
    // Unix sockets do not tell.
    inherited.counts = (inherited.listeners.len() + inherited.unix.len(), of_before + inherited.unix.len().min(1));
    inherited
}

fn listens(descriptor: &OwnedFd) -> bool {
    let socket = SockRef::from(descriptor);
    socket.is_listener().unwrap_or(false)
        && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.local_addr().is_ok_and(|at| at.as_socket().is_some() || at.as_pathname().is_some())
}

impl InheritedFds {
    /// Takes the queue of the process before, if it handed something over.
    #[must_use]
    pub fn take_handover(&mut self) -> Option<OwnedFd> {
        self.handover.take()
    }

    /// Returns the listening sockets that came, those of the process before or of this one, whichever are more, and whether this one
    /// has a status listener.
    #[must_use]
    pub fn listener_counts(&self) -> (usize, usize, bool) {
        let ((inherited, before), (own, status)) = (self.counts, self.own);
        (inherited, before.max(own).max(2), status)
    }

    /// Notes the listening sockets of this process: what it takes over must fit beside them.
    pub fn note_own(&mut self, listeners: usize, status: bool) {
        self.own = (listeners, status);
    }

    /// The user and the group of the process that handed something over, as the system noted them when the queue was made.
    ///
    /// A process could put a socket of somebody else's in the queue's place; what is read from it is then that peer's own.
    #[must_use]
    pub fn predecessor(&self) -> Option<(Uid, Gid)> {
        let made_by = getsockopt(self.handover.as_ref()?, sockopt::PeerCredentials).ok()?;
        Some((Uid::from_raw(made_by.uid()), Gid::from_raw(made_by.gid())))
    }

    /// Has the service manager keep this process's listening sockets. Silent without one.
    pub fn keep<'a>(&self, listeners: impl Iterator<Item = BorrowedFd<'a>>) {
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
pub fn keep(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // Without FDPOLL=0 one end of a pair would be let go as soon as the other is closed.
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    notify::send(Kind::Store, &state, Some(descriptor.try_clone_to_owned()?));
    Ok(())
}

/// Has the service manager let go of what it keeps under `name`.
pub fn forget(name: &str) {
    notify::send(Kind::Remove, &[NotifyState::FdStoreRemove, NotifyState::FdName(name)], None);
}

/// Waits until the service manager has done what it was told (`sd_notify_barrier(3)`), also what still waits to be sent.
///
/// # Errors
/// If it does not get to it within 1 s, or there is none.
pub async fn barrier() -> io::Result<()> {
    if !notify::is_open() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "there is no service manager"));
    }
    // It closes its copy of `writer` once it gets there.
    let (reader, writer) = pipe()?;
    notify::send(Kind::Barrier, &[NotifyState::Custom("BARRIER=1")], Some(writer.into()));
    if has_ended(reader.as_fd(), PATIENCE).await? {
        return Ok(());
    }
    let what = format!("the service manager does not answer within {} s", PATIENCE.as_secs());
    Err(io::Error::new(io::ErrorKind::TimedOut, what))
}

/// Whether the other end of a pipe or a pair is closed within `time`. Nothing may come from it.
///
/// # Errors
/// Those of the system. Must be called in a tokio runtime.
pub async fn has_ended(end: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    let end = notify::watch(end, Interest::READABLE)?;
    Ok(timeout(time, end.readable()).await.is_ok())
}
