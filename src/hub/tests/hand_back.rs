//! Tests of hand-backs: sockets without room, hang-ups, and what quiet viewers send.

use super::fan_out::pair;
use super::*;
use crate::hub::cursor::WRITE_LIMIT;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::{HandBack, Reason};
use rustix::net::{RecvFlags, SocketType, recv, sockopt};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

/// A whole masked frame of a client without payload.
const fn empty(first: u8) -> [u8; 6] {
    [first, 0x80, 1, 2, 3, 4]
}
const PONG: [u8; 6] = empty(0x8a);

/// Returns a connection that takes so many bytes, roughly.
fn narrow(bytes: usize) -> (OwnedFd, OwnedFd) {
    let (near, far) = pair(SocketType::STREAM);
    sockopt::set_socket_send_buffer_size(&near, bytes).unwrap();
    (near, far)
}

impl Bench {
    /// Returns the only viewer that is handed back.
    fn only_back(&self) -> HandBack {
        let back = self.hub.next_back().expect("one is handed back");
        assert!(self.hub.next_back().is_none(), "only one is");
        self.check();
        back
    }
}

/// Reads everything that a cursor gives now, as bytes.
fn rest_of(cursor: &mut Cursor) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut take = |pending: &[u8]| {
        bytes.extend_from_slice(pending);
        Ok(pending.len())
    };
    while cursor.turn(&mut take).unwrap() == Turn::Wrote {}
    bytes
}

/// The viewer makes room at once; still, nothing but its own task may write to it.
#[test]
fn a_full_socket_is_handed_back_with_the_rest_of_its_frame_and_gets_nothing_more() {
    let bench = Bench::new(History::default());
    let (far, other) = (bench.quiet_over("job", narrow(4096)), bench.quiet("job"));
    let messages = ["SHORT".to_owned(), "x".repeat(60_000), "LAST".to_owned()];
    let mut publisher = bench.hub.publisher(bench.now);
    for message in &messages {
        publisher.publish("job", Kind::Progress, &frame(message));
    }
    drop(publisher);
    bench.check();
    let mut got = far.all_bytes();
    bench.publish("job", "ANOTHER");
    bench.deliver_all();
    assert!(far.all_bytes().is_empty(), "nobody writes to it until it is busy");
    let back = bench.only_back();
    assert!(matches!(back.reason, Reason::Full(_)) && back.owner == 7);
    let mut cursor = back.into_cursor();
    let whole = messages.iter().map(|message| frame(message)).collect::<Vec<_>>().concat();
    let end = frame(&messages[0]).len() + frame(&messages[1]).len();
    assert!(!got.is_empty() && got.len() < end && whole.starts_with(&got));
    assert_eq!(cursor.rest(), &whole[got.len()..end], "exactly the rest of the frame");
    assert_eq!(cursor.position().1, end as u64);
    assert_eq!((bench.metrics.sent.get(), bench.metrics.replayed.get()), (2 + 4, 0), "messages that were begun");
    got.extend(rest_of(&mut cursor));
    assert!(got == [&whole[..], &frame("ANOTHER")].concat(), "everything once");
    assert_eq!(other.all_bytes(), got);
    assert_eq!(bench.metrics.sent_bytes.get(), 2 * got.len() as u64);
    assert_eq!((bench.metrics.sent.get(), bench.metrics.replayed.get()), (8, 0), "it stays live");
}

#[test]
fn a_socket_that_takes_nothing_is_handed_back_and_goes_on_where_it_was() {
    let bench = Bench::new(History::default());
    let far = bench.quiet_over("job", narrow(4096));
    let mut sent = 0;
    let back = loop {
        sent += 1;
        bench.publish("job", &sent.to_string());
        if let Some(back) = bench.hub.next_back() {
            break back;
        }
        assert!(sent < 10_000, "it is handed back");
    };
    assert!(matches!(back.reason, Reason::Full(_)), "it is full");
    let mut cursor = back.into_cursor();
    let mut got = far.all_bytes();
    got.extend(rest_of(&mut cursor));
    let all: Vec<_> = (1..=sent).map(|n| n.to_string()).collect();
    assert_eq!(commands(&got), all);
    assert_eq!(got, all.iter().flat_map(|command| frame(command)).collect::<Vec<_>>());
}

#[test]
fn more_than_one_write_takes_makes_a_viewer_busy() {
    let bench = Bench::new(History::default());
    let far = bench.quiet_over("job", narrow(4 << 20));
    let long = frame(&"x".repeat(60_000));
    let mut publisher = bench.hub.publisher(bench.now);
    for _ in 0..6 {
        publisher.publish("job", Kind::Progress, &long);
    }
    drop(publisher);
    let mut got = far.all_bytes();
    assert!(got.len() <= WRITE_LIMIT && got.len() > long.len(), "{} bytes", got.len());
    let back = bench.only_back();
    assert!(matches!(back.reason, Reason::Full(_)));
    let mut cursor = back.into_cursor();
    assert_eq!(cursor.rest().len(), got.len().next_multiple_of(long.len()) - got.len());
    got.extend(rest_of(&mut cursor));
    assert!(got == long.repeat(6));
}

/// A viewer that fell behind after it was handed back is told so. It has had the chance.
#[test]
fn a_viewer_without_room_may_fall_behind_and_is_told() {
    let bench = Bench::new(History { channel_messages: 2, ..History::default() });
    let far = bench.quiet_over("job", narrow(4096));
    bench.hub.publish(bench.now, "job", Kind::Progress, &frame(&"x".repeat(60_000)));
    for command in ["1", "2", "3"] {
        bench.publish("job", command);
    }
    let mut cursor = bench.only_back().into_cursor();
    let mut got = far.all_bytes();
    got.extend_from_slice(cursor.rest());
    let length = cursor.rest().len();
    assert_eq!(cursor.turn(|_| Ok(length)).unwrap(), Turn::Wrote);
    assert_eq!(cursor.turn(|_| Ok(0)).unwrap(), Turn::Ended(End::Behind));
    assert!(got == frame(&"x".repeat(60_000)), "a whole frame, and nothing after the gap");
}

#[test]
fn a_hang_up_is_handed_back_once() {
    enum HangUp {
        Fin,
        Reset,
        AtSend,
    }
    for how in [HangUp::Fin, HangUp::Reset, HangUp::AtSend] {
        let bench = Bench::new(History::default());
        let (far, other) = (bench.quiet("job"), bench.quiet("job"));
        let key = far.key;
        match how {
            HangUp::Fin => {
                drop(far);
                bench.hub.hear(key);
            }
            HangUp::Reset => {
                bench.publish("job", "STARTED");
                drop(far); // which has not read that
                bench.hub.hear(key);
            }
            HangUp::AtSend => {
                drop(far);
                bench.publish("job", "STARTED");
            }
        }
        bench.check();
        bench.hub.hear(key);
        bench.publish("job", "TASK");
        bench.hub.hear(key);
        let back = bench.only_back();
        let error = match &back.reason {
            Reason::Gone(error) => error.as_ref().map(std::io::Error::kind),
            other => panic!("it is gone, not {other:?}"),
        };
        match how {
            HangUp::Fin => assert_eq!(error, None),
            HangUp::Reset => assert_eq!(error, Some(ErrorKind::ConnectionReset)),
            HangUp::AtSend => assert_eq!(error, Some(ErrorKind::BrokenPipe)),
        }
        let viewers = || bench.hub.table().runs.iter().map(|(_, run)| run.viewers()).sum::<usize>();
        assert_eq!(viewers(), 2, "it is counted until its cursor is dropped");
        drop(back.into_cursor());
        assert_eq!(viewers(), 1);
        bench.hub.hear(key);
        bench.check();
        assert_eq!(other.commands().last().unwrap(), "TASK");
    }
}

#[test]
fn an_empty_channel_goes_with_its_last_quiet_viewer() {
    let bench = Bench::new(History::default());
    let keys: Vec<_> = bench.crowd("job", 3).into_iter().map(|far| far.key).collect();
    for (left, key) in [2, 1, 0].into_iter().zip(keys) {
        bench.hub.hear(key);
        assert_eq!(bench.drop_back(), 1);
        assert_eq!(bench.hub.usage().channels, usize::from(left > 0));
    }
    assert_empty(&bench.hub);
}

#[test]
fn the_name_of_an_entry_that_is_gone_names_no_other() {
    let bench = Bench::new(History::default());
    let old = bench.quiet("job").key;
    bench.hub.hear(old);
    assert_eq!(bench.drop_back(), 1);
    let far = bench.quiet("job");
    assert_ne!(far.key, old);
    assert_eq!((u64::from(far.key) ^ u64::from(old)) & 0xffff_ffff, 0, "its index is used again");
    far.say(b"hello");
    bench.hub.hear(old);
    bench.hub.remove_quiet(old);
    assert!(bench.hub.next_back().is_none());
    bench.hub.hear(far.key);
    assert!(matches!(bench.only_back().reason, Reason::Spoke(bytes) if bytes == b"hello"));
}

#[test]
fn pongs_are_dealt_with_and_anything_else_is_handed_back_to_the_byte() {
    let bench = Bench::new(History::default());
    let far = bench.quiet("job");
    let long_pong = [&[0x8a, 0xfd, 1, 2, 3, 4][..], &[9; 125]].concat();
    for pongs in [&PONG[..], &PONG.repeat(3), &long_pong] {
        far.say(pongs);
        bench.hub.hear(far.key);
        assert!(bench.hub.next_back().is_none());
    }
    bench.hub.hear(far.key); // without a reason
    assert!(bench.hub.next_back().is_none());
    bench.publish("job", "STARTED");
    assert_eq!(far.commands(), ["STARTED"], "it is still quiet");

    let pong_and_ping = [PONG, empty(0x89)].concat();
    let others = [&b"x"[..], &PONG[..1], &PONG[..5], &empty(0x89), &empty(0x81), &pong_and_ping, &[0x8a, 0]];
    for bytes in others {
        let far = bench.quiet("job");
        far.say(bytes);
        bench.hub.hear(far.key);
        bench.hub.hear(far.key);
        let back = bench.only_back();
        assert!(matches!(back.reason, Reason::Spoke(spoke) if spoke == bytes), "{bytes:?}");
    }
}

/// The rest of a long message stays in the socket, where its task finds it.
#[test]
fn no_byte_of_a_long_message_is_lost() {
    let bench = Bench::new(History::default());
    let far = bench.quiet("job");
    let long: Vec<u8> = (0..1000).map(|n| u8::try_from(n % 251).unwrap()).collect();
    far.say(&long);
    bench.hub.hear(far.key);
    let back = bench.only_back();
    let Reason::Spoke(mut bytes) = back.reason else { panic!("it spoke") };
    let mut rest = [0; 2000];
    let (count, _) = recv(&back.socket, &mut rest, RecvFlags::DONTWAIT).unwrap();
    bytes.extend_from_slice(&rest[..count]);
    assert_eq!(bytes, long);
}

#[test]
fn a_viewer_whose_socket_cannot_be_watched_is_handed_back() {
    let bench = Bench::new(History::default());
    let (near, far) = pair(SocketType::STREAM);
    let cursor = bench.subscribe("job");
    bench.hub.join(cursor, near, Pings::at(bench.now), 7, |_, _| Err(ErrorKind::StorageFull.into()));
    bench.check();
    bench.publish("job", "STARTED");
    let back = bench.only_back();
    assert!(matches!(&back.reason, Reason::Spoke(bytes) if bytes.is_empty()));
    assert_eq!(read(&mut back.into_cursor()), got(&["STARTED"], CAUGHT_UP));
    drop(far);
}
