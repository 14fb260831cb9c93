//! Names of hosts become addresses, in threads that a stop does not wait for.
//!
//! The system's resolver can take half a minute, and cannot be interrupted. The runtime would wait for a thread of its own when it ends.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use tokio::sync::{Semaphore, oneshot};

/// The most lookups at the same time. A further one waits. This is enough for all names that the configuration of a cluster may have, if
/// none of them gets an answer.
const MAX_LOOKUPS: usize = 16 * PER_NAME;
/// The most lookups of one name at the same time, so that a name that gets no answer does not keep others waiting.
const PER_NAME: usize = 2;

static LOOKUPS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);
/// The permits of each name that is being looked up.
static NAMES: Mutex<BTreeMap<String, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());

/// Returns the addresses of a host, with this port. If this is dropped, the lookup goes on without it.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    let name = host.to_owned();
    look_up(host, move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect)).await
}

/// Calls `ask` in a thread, as soon as there is a permit for this name.
async fn look_up<T, F>(name: &str, ask: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    let of_name = permits(name).acquire_owned().await.map_err(io::Error::other)?;
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let (found, answer) = oneshot::channel();
    thread::Builder::new().name("resolve".into()).spawn(move || {
        let result = ask();
        drop((permit, of_name));
        // Nobody may wait any more.
        let _ = found.send(result);
    })?;
    answer.await.map_err(io::Error::other)?
}

/// Returns the permits of a name. Those of names that are not being looked up are dropped.
fn permits(name: &str) -> Arc<Semaphore> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.retain(|_, permits| Arc::strong_count(permits) > 1);
    Arc::clone(names.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(PER_NAME))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadline::timeout;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn addresses_and_names_are_resolved() {
        assert_eq!(resolve("127.0.0.1", 1).await.unwrap(), ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(resolve("::1", 1).await.unwrap(), ["[::1]:1".parse().unwrap()]);
        assert!(resolve("localhost", 1).await.unwrap().iter().all(|at| at.ip().is_loopback() && at.port() == 1));
        assert!(resolve("no.such.host.invalid", 1).await.is_err());
    }

    #[tokio::test]
    async fn a_name_that_gets_no_answer_keeps_no_other_waiting() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        let (answers, silence) = mpsc::channel::<()>();
        let silence = Arc::new(Mutex::new(silence));
        let asked: Vec<_> = (0..2 * MAX_LOOKUPS)
            .map(|_| {
                let silence = Arc::clone(&silence);
                tokio::spawn(look_up("silent.test", move || {
                    let running = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
                    // An error, once `answers` is dropped.
                    let _ = silence.lock().unwrap().recv();
                    RUNNING.fetch_sub(1, Ordering::SeqCst);
                    Ok(running)
                }))
            })
            .collect();
        // Each of the tasks has run once after this, as there is one thread.
        tokio::task::yield_now().await;
        let other = timeout(Duration::from_secs(20), look_up("other.test", || Ok("found"))).await;
        assert_eq!(other.expect("it need not wait").unwrap(), "found");
        drop(answers);
        for task in asked {
            assert!(task.await.unwrap().unwrap() <= PER_NAME);
        }
        // A name that nobody looks up is forgotten.
        drop(permits("last.test"));
        let names = NAMES.lock().unwrap();
        assert!(!names.contains_key("silent.test") && !names.contains_key("other.test"), "{names:?}");
    }
}
