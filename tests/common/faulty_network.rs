//! A faulty network: a TCP proxy that delays, splits, stalls and cuts, all of it chosen by a seed. It never changes, loses or
//! repeats a byte.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

/// The number of bytes that get the same treatment.
const PIECE: usize = 4096;

/// The kernel's buffer for unread bytes. It is small, so that the other side soon notices a network that stalls.
const BUFFER: u32 = 8192;

/// A sequence that looks random, and is the same for the same seed (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A seed from the clock, or from the environment to repeat a failure; printed in either case.
    pub(crate) fn seeded() -> Self {
        const NAME: &str = "FAULTS_SEED";
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").subsec_nanos().into();
        let seed = std::env::var(NAME).map_or_else(|_| clock(), |text| text.parse().expect("a number"));
        eprintln!("{NAME}={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }

    /// A sequence of its own.
    pub(crate) fn fork(&mut self) -> Self {
        Random(self.next())
    }
}

/// The faults of a network. It passes on every byte that no fault stops.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Faults {
    None,
    /// Sends every byte alone.
    Bytes,
    /// Delays, splits and stalls.
    Delays,
    /// The same, and it cuts links. It uses no resets, so every byte that was passed on arrives.
    Cuts,
    /// The same, and some cuts are resets.
    Resets,
}

pub(crate) struct FaultyNetwork {
    /// A client that connects here is connected to the target.
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    _runtime: Runtime,
}

struct State {
    target: SocketAddr,
    faults: Faults,
    mended: AtomicBool,
    /// The number of bytes to the target after which the next link is cut.
    limit: AtomicU64,
    cuts: AtomicUsize,
}

impl FaultyNetwork {
    pub(crate) fn to(target: SocketAddr, faults: Faults, mut random: Random) -> Self {
        let state = Arc::new(State {
            target,
            faults,
            mended: (faults == Faults::None).into(),
            limit: u64::MAX.into(),
            cuts: 0.into(),
        });
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let guard = runtime.enter();
        let socket = small_socket();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let listener = socket.listen(128).expect("it is bound");
        drop(guard);
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            loop {
                let (near, _) = listener.accept().await.expect("there are descriptors");
                let (state, random) = (Arc::clone(&shared), random.fork());
                tokio::spawn(async move { state.carry(near, random).await });
            }
        });
        FaultyNetwork { address, state, _runtime: runtime }
    }

    /// Passes everything on without faults from now on.
    pub(crate) fn mend(&self) {
        self.state.mended.store(true, Ordering::Relaxed);
    }

    /// Cuts the next link, without a reset, after this number of bytes to the target.
    pub(crate) fn cut_next_after(&self, bytes: u64) {
        self.state.limit.store(bytes, Ordering::Relaxed);
    }

    /// Returns the number of links that were cut so far.
    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::Relaxed)
    }
}

fn small_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(BUFFER).expect("a TCP socket");
    socket
}

/// The end of a link that the network has cut.
#[derive(Debug, PartialEq)]
enum Cut {
    End,
    Reset,
}

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Cut::Reset
    }
}

impl State {
    async fn carry(&self, mut near: TcpStream, mut random: Random) {
        let Ok(mut far) = small_socket().connect(self.target).await else { return };
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("a TCP socket");
        }
        let limit = self.limit.swap(u64::MAX, Ordering::Relaxed);
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        let there = self.pump(from_near, to_far, random.fork(), limit);
        let back = self.pump(from_far, to_near, random, u64::MAX);
        match tokio::try_join!(there, back) {
            Ok(_) => {}
            Err(Cut::Reset) => {
                for stream in [&near, &far] {
                    SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
                }
            }
            // The near side is told last: if it connects anew, its old link has been read to the end.
            Err(Cut::End) => {
                let _ = far.shutdown().await;
                let _ = copy(&mut far, &mut sink()).await;
            }
        }
    }

    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        mut random: Random,
        mut limit: u64,
    ) -> Result<(), Cut> {
        let mut piece = [0; PIECE];
        loop {
            let length = from.read(&mut piece).await?;
            if length == 0 {
                return Ok(to.shutdown().await?);
            }
            let bytes = &piece[..length];
            if limit <= length as u64 {
                to.write_all(&bytes[..usize::try_from(limit).expect("it is below a usize")]).await?;
                self.cuts.fetch_add(1, Ordering::Relaxed);
                return Err(Cut::End);
            }
            limit -= if limit == u64::MAX { 0 } else { length as u64 };
            self.pass(bytes, &mut to, &mut random).await?;
        }
    }

    /// Passes on `bytes`, in one way or another.
    async fn pass(&self, bytes: &[u8], to: &mut (impl AsyncWrite + Unpin), random: &mut Random) -> Result<(), Cut> {
        if self.mended.load(Ordering::Relaxed) {
            return Ok(to.write_all(bytes).await?);
        }
        let at = random.below(bytes.len() + 1);
        let alone = match (self.faults, random.below(100)) {
            (Faults::None, _) => 0,
            (Faults::Bytes, _) => bytes.len(),
            (Faults::Cuts | Faults::Resets, 0..2) => {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                to.write_all(&bytes[..at]).await?;
                return Err(if self.faults == Faults::Cuts || random.below(2) == 0 { Cut::End } else { Cut::Reset });
            }
            (_, 2..12) => {
                sleep(Duration::from_millis(random.below(20) as u64)).await;
                0
            }
            (_, 12..14) => {
                to.write_all(&bytes[..at]).await?;
                sleep(Duration::from_millis(random.below(200) as u64)).await;
                return Ok(to.write_all(&bytes[at..]).await?);
            }
            (_, 14..24) => bytes.len().min(256),
            (_, 24..50) => at.min(1),
            _ => 0,
        };
        for byte in &bytes[..alone] {
            to.write_all(&[*byte]).await?;
        }
        Ok(to.write_all(&bytes[alone..]).await?)
    }
}
