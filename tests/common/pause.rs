//! Stops a process (SIGSTOP) until one of its deadlines has passed, as a snapshot of a virtual machine does.

use std::fs::read_to_string;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Monitor, kill, until};

/// A pause that is longer than a deadline.
#[derive(Clone, Copy)]
pub(crate) struct Pause {
    deadline: Duration,
    length: Duration,
}

impl Pause {
    /// Returns a pause that is longer than `deadline` by less than 1 s, so that the program does not notice it as a pause.
    pub(crate) const fn over(deadline: Duration) -> Self {
        Self { deadline, length: Duration::from_millis(500).saturating_add(deadline) }
    }

    /// Returns a pause that is longer than `deadline` by more than 1 s, so that the program notices it.
    pub(crate) const fn far_over(deadline: Duration) -> Self {
        Self { deadline, length: Duration::from_millis(2_500).saturating_add(deadline) }
    }
}

/// The pauses for the deadlines of 3 s that most tests set.
pub(crate) const OVER: Pause = Pause::over(Duration::from_secs(3));
pub(crate) const FAR_OVER: Pause = Pause::far_over(Duration::from_secs(3));

/// Runs a test, and runs it again if its deadline had passed before its pause began, as may happen on a busy machine.
pub(crate) fn in_time(mut test: impl FnMut() -> Option<()>) {
    assert!((0..5).any(|_| test().is_some()), "the deadline was over before the pause, five times");
}

/// Stops the monitor, calls `act`, waits until the pause is over, and continues the monitor. Returns `None`, without a call of
/// `act`, if the deadline, which began after `since`, may have passed before.
pub(crate) fn paused<T>(monitor: &Monitor, pause: Pause, since: Instant, act: impl FnOnce() -> T) -> Option<T> {
    paused_process(monitor.pid(), pause.length, || (since.elapsed() < pause.deadline).then(act))
}

/// Stops a process, calls `act`, waits until `time` is over, and continues the process.
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

/// Waits until the kernel of the other side has all bytes that were sent from the socket at `local`.
pub(crate) fn arrived(local: SocketAddr) {
    until("what was sent is in the other socket", || is_all_sent(|from, _| from == local.port()).then_some(()));
}

/// Returns true if the socket at `local` has received all bytes that the monitor wrote to it.
pub(crate) fn has_all(local: SocketAddr) -> bool {
    is_all_sent(|_, to| to == local.port())
}

/// Returns true if no byte waits to be sent or acknowledged on the connections for which `is_it` holds; it gets the local port and
/// the other one.
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
