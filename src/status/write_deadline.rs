//! The deadline for write progress on a streaming answer.

use crate::deadline::passed;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The deadline for write progress on a streaming answer. Clones are the same deadline.
#[derive(Debug, Clone)]
pub(super) struct WriteDeadline(Arc<(watch::Sender<Option<Instant>>, Duration)>);

impl WriteDeadline {
    pub(super) fn new(timeout: Duration) -> Self {
        Self(Arc::new((watch::Sender::new(Some(Instant::now() + timeout)), timeout)))
    }

    /// Restarts the deadline after progress.
    pub(super) fn restart(&self) {
        self.0.0.send_replace(Some(Instant::now() + self.0.1));
    }

    /// Ends the answer: its connection is over.
    pub(super) fn end(&self) {
        self.0.0.send_replace(None);
    }

    /// Completes when the connection is over.
    pub(super) async fn ended(&self) {
        let _ = self.0.0.subscribe().wait_for(Option::is_none).await;
    }

    /// Completes when the deadline has passed.
    pub(super) async fn stalled(&self) {
        loop {
            let until = *self.0.0.borrow();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => passed(until).await,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::yield_now;
    use tokio::time::sleep;

    /// After a pause of the process, the deadline and room for more of the answer are found together.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_goes_on_when_its_time_is_over_has_as_long_again() {
        let timeout = Duration::from_secs(30);
        let (begun, deadline) = (Instant::now(), WriteDeadline::new(timeout));
        let reader = deadline.clone();
        let given_up = tokio::spawn(async move { deadline.stalled().await });
        sleep(timeout).await;
        // The steps from a socket to what is written to it.
        for _ in 0..3 {
            yield_now().await;
        }
        reader.restart();
        given_up.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 60);
    }
}
