//! A proxy between the nodes and Redis that delays, cuts, or drops answers. It reads what it passes on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// A proxy at an address of its own. Dropping it cuts all connections.
pub(crate) struct RedisProxy {
    /// A client that connects here is connected to the target.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    links: Mutex<Vec<Arc<Link>>>,
    ended: AtomicBool,
    /// Connects are refused.
    refuses: AtomicBool,
    /// No byte passes, in either direction, on connections of nodes.
    holds: AtomicBool,
    /// The same on connections of Sentinels and replicas.
    holds_insiders: AtomicBool,
    /// Requests pass, and answers are lost.
    drops_answers: AtomicBool,
    /// The number of XADDs whose answer is still to be lost, each together with its connection.
    to_lose: AtomicU64,
    lost: AtomicU64,
    /// The number of XADDs that are still to come late: after their connection has been cut, and another XADD has passed.
    to_come_late: AtomicU64,
    came_late: AtomicU64,
    /// The number of XADDs that have passed.
    passed: AtomicU64,
    /// The delay of each answer, in milliseconds.
    delay: AtomicU64,
}

/// A connection through the proxy.
struct Link {
    near: TcpStream,
    far: TcpStream,
    /// It is the connection of a Sentinel or a replica.
    inside: AtomicBool,
    /// The next answer is lost, and the connection is cut.
    loses: AtomicBool,
}

impl RedisProxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target: target.into(),
            links: Mutex::default(),
            ended: false.into(),
            refuses: false.into(),
            holds: false.into(),
            holds_insiders: false.into(),
            drops_answers: false.into(),
            to_lose: 0.into(),
            lost: 0.into(),
            to_come_late: 0.into(),
            came_late: 0.into(),
            passed: 0.into(),
            delay: 0.into(),
        });
        let accepting = Arc::clone(&shared);
        spawn(move || {
            for near in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(near) = near else { continue };
                accepting.accept(near);
            }
        });
        Self { address, shared }
    }

    /// Sends new connections to another server, and cuts those that there are.
    pub(crate) fn leads_to(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
        self.cut();
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        lock(&self.shared.links).drain(..).for_each(|link| link.cut());
    }

    /// Cuts all connections, and each new one, until [`RedisProxy::mend`].
    pub(crate) fn refuse(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Passes nothing on, in either direction, until [`RedisProxy::mend`]. Connects succeed.
    pub(crate) fn hold(&self) {
        self.shared.holds.store(true, Ordering::SeqCst);
    }

    /// The same for Sentinels and replicas only. The nodes notice nothing.
    pub(crate) fn hold_insiders(&self) {
        self.shared.holds_insiders.store(true, Ordering::SeqCst);
    }

    /// Passes requests on and drops each answer, until [`RedisProxy::mend`].
    pub(crate) fn drop_answers(&self) {
        self.shared.drops_answers.store(true, Ordering::SeqCst);
    }

    /// Loses the answers of the next `count` XADDs: Redis gets each of them, and then its connection is cut.
    pub(crate) fn lose_answers(&self, count: u64) {
        self.shared.to_lose.store(count, Ordering::SeqCst);
    }

    /// Returns the number of answers that [`RedisProxy::lose_answers`] has lost.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Has the next `count` XADDs come late: the connection of each is cut, and Redis gets it after the next XADD that passes.
    pub(crate) fn delay_requests(&self, count: u64) {
        self.shared.to_come_late.store(count, Ordering::SeqCst);
    }

    /// Returns the number of requests that came late.
    pub(crate) fn came_late(&self) -> u64 {
        self.shared.came_late.load(Ordering::SeqCst)
    }

    /// Delays each answer.
    pub(crate) fn delay(&self, time: Duration) {
        let milliseconds = u64::try_from(time.as_millis()).expect("a short time");
        self.shared.delay.store(milliseconds, Ordering::SeqCst);
    }

    /// Passes everything on from now on. Connections from which bytes were lost are cut.
    pub(crate) fn mend(&self) {
        if self.shared.drops_answers.swap(false, Ordering::SeqCst) {
            self.cut();
        }
        for flag in [&self.shared.refuses, &self.shared.holds, &self.shared.holds_insiders] {
            flag.store(false, Ordering::SeqCst);
        }
    }
}

impl Drop for RedisProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.refuse();
        self.mend();
        let _ = TcpStream::connect(self.address); // wakes the thread that accepts
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    fn cut(&self) {
        for stream in [&self.near, &self.far] {
            let _ = stream.shutdown(Shutdown::Both); // it may have ended
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, near: TcpStream) {
        if self.refuses.load(Ordering::SeqCst) {
            return;
        }
        let target = *lock(&self.target);
        let Ok(far) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else { return };
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("a TCP socket");
        }
        let link = Arc::new(Link { near, far, inside: false.into(), loses: false.into() });
        lock(&self.links).push(Arc::clone(&link));
        let (shared, other) = (Arc::clone(self), Arc::clone(&link));
        spawn(move || shared.pass_requests(&other));
        let shared = Arc::clone(self);
        spawn(move || shared.pass_answers(&link));
    }

    /// Waits while no byte may pass.
    fn wait(&self, link: &Link) {
        let flag = |link: &Link| if link.inside.load(Ordering::SeqCst) { &self.holds_insiders } else { &self.holds };
        let holds = || flag(link).load(Ordering::SeqCst);
        while holds() && !self.ended.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(2));
        }
    }

    fn pass_requests(&self, link: &Link) {
        let mut piece = vec![0; 65_536];
        let mut read = 0;
        while let Some(length) = receive(&link.near, &mut piece) {
            let bytes = &piece[..length];
            // The first commands show what a client is.
            if read < 2048 && (has(bytes, b"sentinel-") || has(bytes, b"REPLCONF")) {
                link.inside.store(true, Ordering::SeqCst);
            }
            read += length;
            self.wait(link);
            let adds = has(bytes, b"XADD");
            let take = |from: &AtomicU64| {
                adds && from.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
            };
            if take(&self.to_lose) {
                link.loses.store(true, Ordering::SeqCst);
            }
            if take(&self.to_come_late) {
                self.send_late(link, &mut piece, length);
                break;
            }
            let bytes = &piece[..length];
            if (&link.far).write_all(bytes).is_err() {
                break;
            }
            self.passed.fetch_add(u64::from(adds), Ordering::SeqCst);
        }
        link.cut();
    }

    /// Cuts the connection to the node, and sends its request, the beginning of which was read, once another XADD has passed.
    fn send_late(&self, link: &Link, piece: &mut [u8], mut length: usize) {
        let mut request = piece[..length].to_vec();
        link.near.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout above zero");
        while length == piece.len() {
            length = receive(&link.near, piece).unwrap_or(0);
            request.extend_from_slice(&piece[..length]);
        }
        let before = self.passed.load(Ordering::SeqCst);
        let _ = link.near.shutdown(Shutdown::Both); // it may have ended
        while self.passed.load(Ordering::SeqCst) == before && !self.ended.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(1));
        }
        // The answer is for nobody.
        let Ok(mut late) = TcpStream::connect_timeout(&lock(&self.target), Duration::from_secs(1)) else { return };
        if late.write_all(&request).is_ok() && receive(&late, piece).is_some() {
            self.came_late.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pass_answers(&self, link: &Link) {
        let mut piece = vec![0; 65_536];
        while let Some(length) = receive(&link.far, &mut piece) {
            let delay = self.delay.load(Ordering::SeqCst);
            if delay > 0 {
                sleep(Duration::from_millis(delay));
            }
            self.wait(link);
            if link.loses.load(Ordering::SeqCst) {
                self.lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if self.drops_answers.load(Ordering::SeqCst) && !link.inside.load(Ordering::SeqCst) {
                continue;
            }
            if (&link.near).write_all(&piece[..length]).is_err() {
                break;
            }
        }
        link.cut();
    }
}

/// Reads some bytes; nothing at the end of the connection.
fn receive(mut stream: &TcpStream, piece: &mut [u8]) -> Option<usize> {
    loop {
        match stream.read(piece) {
            Ok(0) => return None,
            Ok(length) => return Some(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Returns true if the bytes contain a word, in upper or lower case.
fn has(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}
