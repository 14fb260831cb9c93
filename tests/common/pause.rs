//! A process that is stopped (SIGSTOP), as by a virtual machine's snapshot, until a deadline of it is over.

use std::fs::read_to_string;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Monitor, kill, until};

/// Longer than the deadlines of two seconds that the tests set, and shorter than what counts as a pause (a second more).
pub(crate) const OVER: Duration = Duration::from_millis(2_500);

/// Longer than such a deadline by what counts as a pause.
pub(crate) const FAR_OVER: Duration = Duration::from_millis(4_500);

/// Stops the monitor, does this, waits until `time` is over, and lets it go on.
pub(crate) fn paused<T>(monitor: &Monitor, time: Duration, act: impl FnOnce() -> T) -> T {
    paused_process(monitor.pid(), time, act)
}

/// The same for any process.
pub(crate) fn paused_process<T>(pid: u32, time: Duration, act: impl FnOnce() -> T) -> T {
    assert!(kill(pid, "STOP").success(), "the process is there to be stopped");
    let stat = format!("/proc/{pid}/stat");
    until("the program is stopped", || {
        let stat = read_to_string(&stat).ok()?;
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    });
    let began = Instant::now();
    let done = act();
    sleep(time.saturating_sub(began.elapsed()));
    assert!(kill(pid, "CONT").success(), "the process is there to go on");
    done
}

/// Waits until the other side's kernel has all that was sent from the socket at `local`.
pub(crate) fn arrived(local: SocketAddr) {
    until("what was sent is in the other socket", || is_all_sent(|from, _| from == local.port()).then_some(()));
}

/// Whether the monitor's kernel has nothing left that was written to the socket at `local`.
pub(crate) fn has_all(local: SocketAddr) -> bool {
    is_all_sent(|_, to| to == local.port())
}

/// Whether nothing waits to be sent or acknowledged on the connections with these ports, the own one and the other.
fn is_all_sent(is_it: impl Fn(u16, u16) -> bool) -> bool {
    let table = read_to_string("/proc/net/tcp").expect("Linux has it");
    let port = |address: &str| address.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    let mut queues = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (from, to) = (port(words.next()?)?, port(words.next()?)?);
        is_it(from, to).then_some(words.nth(1)?)
    });
    let mut is_sent = |queue: &str| queue.starts_with("00000000:");
    queues.next().is_some_and(&mut is_sent) && queues.all(is_sent)
}
