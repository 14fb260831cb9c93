//! A viewer's first bytes: the request is answered by the rules, and only a text of 1 to 256 bytes names a channel.
//!
//! Input: whether the request is the input's, or else how long it is; the size of the pieces; the bytes. Each input
//! is a connection over the loopback interface; the clock stands still, so that a silent client costs no time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::config::Settings;
use recodex_monitor::internals::wire::message::{Kind, RELEASE_FRAME};
use recodex_monitor::internals::peer::Peer;
use recodex_monitor::internals::server::relay::Relay;
use recodex_monitor::internals::context::Shared;
use recodex_monitor::internals::systemd::fd_store::InheritedFds;
use recodex_monitor::internals::net::head_limits::MAX_HEAD;
use recodex_monitor::internals::net::stream::Stream;
use recodex_monitor::internals::viewer::{Viewer, quiet};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::Instant;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX: ";
const SWITCHED: &[u8] = b"HTTP/1.1 101 ";

struct World {
    runtime: Runtime,
    shared: Arc<Shared>,
    listener: TcpListener,
}

thread_local!(static WORLD: World = {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let anywhere = b"{websocket_uri: [127.0.0.1, 0], zeromq_uri: [127.0.0.1, 0]}";
    let settings = Settings::parse(Path::new(""), anywhere).unwrap();
    let shared = runtime.block_on(async {
        let shared = Relay::bind(settings, InheritedFds::default()).unwrap().shared();
        quiet::serve(&shared); // a viewer of an open run becomes quiet
        shared
    });
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    World { runtime, shared, listener }
});

/// What must become of a client.
enum Fate {
    Named(String, bool),
    Closed(&'static [u16]),
    Left,
}

/// The client's frames, read by RFC 6455.
fn fate(mut bytes: &[u8]) -> Fate {
    const BROKEN: Fate = Fate::Closed(&[1002, 1007, 1008]);
    const SILENT: Fate = Fate::Closed(&[1008]);
    let mut message: Option<(bool, Vec<u8>)> = None;
    loop {
        let &[first, second, ref rest @ ..] = bytes else { return if bytes.is_empty() { SILENT } else { BROKEN } };
        let (last, opcode) = (first & 0x80 > 0, first & 0x0f);
        let control = opcode >= 8;
        let fits = if control { last } else { (opcode == 0) == message.is_some() };
        if first & 0x70 != 0 || second & 0x80 == 0 || !matches!(opcode, 0..3 | 8..11) || !fits {
            return BROKEN;
        }
        let extended = [0, 2, 8][usize::from(second & 0x7f).saturating_sub(125)];
        let Some((length, rest)) = rest.split_at_checked(extended) else { return SILENT };
        let length = match extended {
            0 => u64::from(second & 0x7f),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        // A short length in a long form is against the RFC, but no reason to part: tungstenite takes it.
        if control && length > 125 {
            return BROKEN;
        }
        let Some((mask, rest)) = rest.split_at_checked(4) else { return BROKEN };
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= 4096) else { return BROKEN };
        let Some((payload, rest)) = rest.split_at_checked(length) else { return SILENT };
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        bytes = rest;
        match opcode {
            8 => return if length == 1 { BROKEN } else { Fate::Left },
            9.. => continue,
            _ => message.get_or_insert_with(|| (opcode == 1, Vec::new())).1.extend(payload),
        }
        let Some((text, whole)) = &message else { return BROKEN };
        match str::from_utf8(whole) {
            _ if whole.len() > 4096 => return BROKEN,
            Err(e) if *text && (last || e.error_len().is_some()) => return Fate::Closed(&[1007]),
            _ if !last => {}
            _ if !*text => return Fate::Closed(&[1003]),
            Ok(id) if (1..=256).contains(&id.len()) => return Fate::Named(id.to_owned(), bytes.is_empty()),
            _ => return SILENT,
        }
    }
}

/// Sends `bytes` in pieces; returns all that comes back.
async fn talk(world: &World, bytes: &[u8], piece: usize) -> Vec<u8> {
    let (client, server) =
        tokio::join!(TcpStream::connect(world.listener.local_addr().unwrap()), world.listener.accept());
    let (mut client, (server, peer)) = (client.unwrap(), server.unwrap());
    client.set_nodelay(true).unwrap(); // or the kernel would hold pieces back, for no time on this clock
    client.set_zero_linger().unwrap(); // or its port would be kept for a minute
    let monitor = Viewer::new(Stream::Tcp(server), Peer::Socket(peer), Arc::clone(&world.shared)).serve(None);
    let mut answer = Vec::new();
    let client = async {
        for piece in bytes.chunks(piece.max(1 + bytes.len() / 16)) {
            if client.write_all(piece).await.is_err() {
                break;
            }
            // Without a timer: the clock must not move while bytes are on their way.
            for _ in 0..4 {
                yield_now().await;
            }
        }
        let _ = client.read_to_end(&mut answer).await;
        drop(client);
    };
    tokio::join!(monitor, client);
    answer
}

/// The data and close frames among what the monitor sent.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        assert!(matches!(bytes[0], 0x81 | 0x88..=0x8a) && bytes[1] <= 125, "{bytes:?}");
        let (frame, rest) = bytes.split_at(2 + usize::from(bytes[1]));
        frames.extend(Some(frame).filter(|frame| frame[0] < 0x89));
        bytes = rest;
    }
    frames
}

fn check(world: &World, input: &[u8]) {
    let [mode, piece, body @ ..] = input else { return };
    let filler = vec![b'x'; usize::from(*mode >> 1) * 256];
    let head = if mode & 1 > 0 { vec![] } else { [REQUEST, &filler, b"\r\n\r\n"].concat() };
    let fate = fate(body);
    let (hub, viewers) = (&world.shared.hub, world.shared.metrics.viewers.get());
    if let Fate::Named(id, _) = &fate {
        hub.publish(Instant::now(), id, Kind::Finished, RELEASE_FRAME);
    }
    let bytes = [&head, body].concat();
    let answer = world.runtime.block_on(talk(world, &bytes, usize::from(*piece) + 1));
    let subscribed = world.shared.metrics.viewers.get() - viewers;
    hub.expire(Instant::now() + world.shared.settings().history.unfinished.duration());
    assert_eq!((hub.usage().bytes, world.shared.viewers.taken()), (0, 0));
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let (status, rest) = answer.split_at(end);
    if !status.starts_with(SWITCHED) {
        let known = [&b"HTTP/1.1 400 "[..], b"HTTP/1.1 426 ", b"HTTP/1.1 431 "];
        let at = known.iter().position(|known| status.starts_with(known));
        assert!(at.is_some() || answer.is_empty());
        assert!(subscribed == 0 && (head.is_empty() || at == Some(2) && head.len() > MAX_HEAD));
        return;
    }
    let frames = frames(rest);
    let code = frames.last().filter(|last| last[0] == 0x88 && last.len() >= 4);
    let code = code.map(|last| u16::from_be_bytes([last[2], last[3]]));
    assert!(subscribed < 2 && (head.is_empty() || head.len() <= MAX_HEAD));
    if head.is_empty() {
        return;
    }
    match fate {
        Fate::Named(_, alone) => {
            assert_eq!(subscribed, 1, "{code:?} {frames:?}");
            assert!(!alone || frames.len() == 2 && frames[0] == RELEASE_FRAME && code == Some(1000), "{frames:?}");
        }
        Fate::Closed(codes) => {
            // Its dialog ends on FINISHED alone: who is too late gets it, who breaks a rule does not.
            let late = frames.len() == 2 && frames[0] == RELEASE_FRAME && frames[1].ends_with(b"no channel id in time");
            assert!(frames.len() == 1 || late, "{frames:?}");
            assert!(subscribed == 0 && codes.contains(&code.unwrap()), "{code:?}");
        }
        Fate::Left => assert!(subscribed == 0 && frames.iter().all(|frame| frame[0] == 0x88)),
    }
}

fuzz_target!(|input: &[u8]| WORLD.with(|world| check(world, input)));
