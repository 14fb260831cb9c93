//! The memory of quiet viewers, also after each of them was once busy.

use super::{Server, texts};
use crate::common::{raise_open_files, skipped, until};

const CROWD: usize = 4000;
/// The most memory for a quiet viewer, in bytes: an entry, and as much again. A busy one takes more than three times as much.
const MOST: usize = 512;

#[test]
fn quiet_viewers_take_little_memory_also_after_they_were_busy() {
    let allowed = raise_open_files();
    if allowed < 2 * CROWD {
        return skipped(&format!("{allowed} open files are too few"));
    }
    let server = Server::tcp("clients: {max: 10000, ping_interval: 3600}\n");
    // One viewer comes first, so that memory which the monitor takes only once is not counted.
    drop(server.subscribed("job"));
    let before = server.monitor.rss_kib();
    let is_little = || {
        let kib = server.monitor.rss_kib().saturating_sub(before);
        (kib * 1024 < (CROWD * MOST) as u64).then_some(kib)
    };
    let mut crowd: Vec<_> = (0..CROWD).map(|_| server.subscribed("job")).collect();
    let first = until("they are quiet", is_little);
    for viewer in &mut crowd {
        viewer.send_text("hello");
    }
    until("they are busy", || is_little().is_none().then_some(()));
    let then = until("they are quiet again, and memory is given back", is_little);
    eprintln!("{first} KiB for {CROWD} viewers, {then} KiB after each was busy");
    server.tasks("job", 0, 1);
    for viewer in &mut crowd {
        viewer.texts(&texts(0, 1));
    }
}
