//! Deadlines that look at the sockets once more before they act.
//!
//! After a pause of the process (SIGSTOP, a virtual machine's snapshot, a loaded machine) its timers and its sockets are due together.
//! Tokio then fires the timers first: a signal interrupts its `epoll_wait`, which it takes for no events; and one call returns 1,024
//! events at most. Bytes that a peer sent in time would come too late. So every deadline gives the I/O driver some turns after its time
//! is over, and counts only if the bytes in the sockets did not end the wait.

use hyper::rt::{Sleep, Timer};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// The fewest turns that follow a deadline: a future that takes several steps, such as reading a message in parts, ends in them.
const TURNS: usize = 16;
/// The most events that one turn of the I/O driver brings; Tokio's default.
const EVENTS: usize = 1024;

/// The delay after which a deadline that is seen so late shows that the process was paused.
const PAUSE: Duration = Duration::from_secs(1);

/// The error of a deadline that came before the future was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Returns the number of turns that follow a deadline: enough that every socket that is ready has woken its task, and that task has
/// run, more than once.
///
/// In a runtime of one thread, one call of [`yield_now`] completes after the I/O driver was asked and the tasks that it woke have
/// run. There are hardly more sockets that the runtime watches than tasks. This holds in a task only: the future of `block_on` goes before all tasks.
pub(crate) fn turns() -> usize {
    TURNS + Handle::current().metrics().num_alive_tasks() / EVENTS
}

/// Waits for [`turns`], so that the bytes in the sockets are read.
pub(crate) async fn look_again() {
    for _ in 0..turns() {
        yield_now().await;
    }
}

/// Returns true if a deadline is seen so late that this process must have been paused.
pub(crate) fn was_paused(at: Instant) -> bool {
    at.elapsed() > PAUSE
}

/// Waits until `at`, and then for the bytes in the sockets.
pub(crate) async fn passed(at: Instant) {
    sleep_until(at).await;
    look_again().await;
}

/// Waits for `future` until `at`, and then for the bytes in the sockets.
pub(crate) async fn timeout_at<F: Future>(at: Instant, future: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = passed(at) => Err(Elapsed),
    }
}

/// Waits for `future` for this time, and then for the bytes in the sockets. If this process was paused meanwhile, the peer could not be
/// heard, or not be answered: the whole time begins again.
///
/// A future that is large and waits in many tasks should be pinned before: this one has room for it twice.
pub(crate) async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    let over = pin!(async {
        loop {
            let at = Instant::now() + time;
            sleep_until(at).await;
            let paused = was_paused(at);
            look_again().await;
            if !paused {
                return;
            }
        }
    });
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = over => Err(Elapsed),
    }
}

/// The timer for hyper, with these deadlines.
#[derive(Debug)]
pub(crate) struct HttpTimer;

/// A wait of [`HttpTimer`].
struct Wait(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Timer for HttpTimer {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait(Box::pin(passed(Instant::now() + time))))
    }

    fn sleep_until(&self, at: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait(Box::pin(passed(at.into()))))
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Sleep for Wait {}
