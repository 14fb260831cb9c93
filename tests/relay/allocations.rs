//! A message that goes from a broker's socket to viewers' sockets allocates no memory except in the history.

use crate::common;

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use allocation_counter::measure;
use common::{Broker, Viewer, task};
use recodex_monitor::internals::config::Settings;
use recodex_monitor::internals::server::relay::{Ended, Relay, Stop};
use recodex_monitor::internals::systemd::fd_store::InheritedFds;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

const VIEWERS: usize = 50;

/// Returns the number of allocations of a relay that delivers a few messages `rounds` times.
fn allocations(rounds: usize) -> u64 {
    let (tell, addresses) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let relay = thread::spawn(move || {
        let settings = b"{websocket_uri: [127.0.0.1, 0], zeromq_uri: [127.0.0.1, 0]}";
        let settings = Settings::parse(Path::new(""), settings).expect("it is right");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let life = measure(|| {
            runtime.block_on(async {
                let relay = Relay::bind(settings, InheritedFds::default()).expect("ports are free");
                tell.send((relay.viewer_addresses()[0], relay.broker_addresses()[0])).expect("somebody listens");
                let stop = async {
                    stopped.await.expect("it is asked to stop");
                    Stop::ForGood
                };
                assert!(matches!(relay.run(None, stop).await, Ended::Stopped));
            });
        });
        life.count_total
    });
    let (viewers, brokers) = addresses.recv().expect("the relay is bound");
    let broker = Broker::connect(brokers);
    let mut crowd: Vec<_> = (0..VIEWERS).map(|_| Viewer::subscribed(viewers, "job")).collect();
    let mut number = 0;
    for _ in 0..rounds {
        let ids: Vec<_> = (0..10)
            .map(|_| {
                number += 1;
                number.to_string()
            })
            .collect();
        for id in &ids {
            broker.task("job", id);
        }
        let texts: Vec<_> = ids.iter().map(|id| task(id, "COMPLETED")).collect();
        for viewer in &mut crowd {
            viewer.texts(&texts);
        }
    }
    stop.send(()).expect("it runs");
    for viewer in &mut crowd {
        viewer.is_ended_with(1001);
    }
    drop(broker);
    relay.join().expect("it ends")
}

#[test]
fn a_delivery_takes_no_memory() {
    let (few, many) = (allocations(10), allocations(210));
    eprintln!("{few} times with 100 messages to {VIEWERS} viewers, {many} times with 2,100");
    // The history grows by doubling; nothing else may.
    assert!(many < few + 20, "2,000 messages to {VIEWERS} viewers took memory {} times", many - few);
}
