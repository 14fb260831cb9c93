//! The steps of a message's way, each by itself: parse, decode and encode, append, read at a cursor.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use recodex_monitor::internals::config::History;
use recodex_monitor::internals::hub::Hub;
use recodex_monitor::internals::hub::cursor::Turn;
use recodex_monitor::internals::metrics::counters::Metrics;
use recodex_monitor::internals::wire::message::{Kind, Message};
use recodex_monitor::internals::wire::zmtp::{Event, Parser};
use tokio::time::Instant;

const PARTS: [&[u8]; 4] = [b"student_5d1f3c7a9be24f60", b"TASK", b"compile_01", b"COMPLETED"];

/// How many messages one measurement takes.
const MESSAGES: usize = 1000;

fn parse(c: &mut Criterion) {
    let greeting = [&b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL"[..], &[0; 48]].concat();
    let ready = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
    let mut stream = Vec::new();
    for _ in 0..MESSAGES {
        for (number, part) in PARTS.iter().enumerate() {
            let length = u8::try_from(part.len()).expect("a short part");
            stream.extend([u8::from(number + 1 < PARTS.len()), length]);
            stream.extend_from_slice(part);
        }
    }
    let feed = |parser: &mut Parser, bytes: &[u8]| {
        let mut messages = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = parser.space();
            let count = rest.len().min(space.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            parser.received(count);
            while let Some(event) = parser.event().expect("it is ZMTP") {
                messages += usize::from(matches!(black_box(event), Event::Message(_)));
            }
        }
        messages
    };
    let ready = || {
        let mut parser = Parser::default();
        feed(&mut parser, &[&greeting[..], ready].concat());
        parser
    };
    let mut group = c.benchmark_group("zmtp");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function("parse", |b| {
        b.iter_batched_ref(ready, |parser| assert_eq!(feed(parser, &stream), MESSAGES), BatchSize::SmallInput);
    });
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut buffer = Vec::new();
    c.bench_function("message/decode", |b| b.iter(|| Message::decode(black_box(PARTS))));
    let message = Message::decode(PARTS).expect("it is a message");
    c.bench_function("message/encode", |b| b.iter(|| black_box(&message).encode(&mut buffer).len()));
}

fn hub() -> Arc<Hub> {
    Hub::new(History::default(), Arc::new(Metrics::default()))
}

/// One frame of a task, as it stands in the log.
fn frame() -> Vec<u8> {
    Message::decode(PARTS).expect("it is a message").encode(&mut Vec::new()).to_vec()
}

fn append(c: &mut Criterion) {
    let frame = frame();
    let mut group = c.benchmark_group("hub");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for channels in [1, 1000] {
        let ids: Vec<_> = (0..channels).map(|number| format!("channel-{number}")).collect();
        group.bench_function(format!("append, {channels} channels"), |b| {
            b.iter_batched_ref(
                hub,
                |hub| {
                    let now = Instant::now();
                    for id in ids.iter().cycle().take(MESSAGES) {
                        hub.publish(now, id, Kind::Progress, &frame);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn cursor(c: &mut Criterion) {
    let (hub, frame, now) = (hub(), frame(), Instant::now());
    for _ in 0..MESSAGES {
        hub.publish(now, "job", Kind::Progress, &frame);
    }
    let length = frame.len();
    let mut group = c.benchmark_group("cursor");
    for (name, at_once) in [("frame by frame", length), ("in two writes", length * MESSAGES / 2)] {
        group.bench_function(format!("1,000 messages {name}"), |b| {
            b.iter_batched_ref(
                || hub.subscribe(now, "job"),
                |cursor| while let Ok(Turn::Wrote) = cursor.turn(|bytes| Ok(black_box(bytes).len().min(at_once))) {},
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, parse, encode, append, cursor);
criterion_main!(benches);
