//! A broker that uses libzmq, as the real one does.

use std::net::SocketAddr;

use super::{DEADLINE, Event, Monitor, Viewer, command, unique, until};

/// The routing id of the monitor.
const MONITOR: &[u8] = b"recodex-monitor";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Router,
    Dealer,
}

pub(crate) struct Broker {
    pub(crate) socket: zmq::Socket,
    kind: Kind,
    context: zmq::Context,
}

impl Broker {
    /// A ROUTER without an identity, as the real broker is.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::with(address, Kind::Router, |_| Ok(()))
    }

    /// A broker whose socket has options of its own, set before it connects.
    pub(crate) fn with(address: SocketAddr, kind: Kind, options: impl FnOnce(&zmq::Socket) -> zmq::Result<()>) -> Self {
        let context = zmq::Context::new();
        let socket = context
            .socket(match kind {
                Kind::Router => zmq::ROUTER,
                Kind::Dealer => zmq::DEALER,
            })
            .expect("a socket");
        let set_up = || {
            if kind == Kind::Router {
                // Without it a ROUTER drops what it cannot send; with it, it says so or waits.
                socket.set_router_mandatory(true)?;
            }
            socket.set_ipv6(address.is_ipv6())?;
            socket.set_linger(0)?;
            socket.set_sndtimeo(i32::try_from(DEADLINE.as_millis()).expect("it fits"))?;
            socket.set_reconnect_ivl(50)?;
            options(&socket)?;
            socket.connect(&format!("tcp://{address}"))
        };
        set_up().expect("libzmq takes the options");
        Broker { socket, kind, context }
    }

    /// Sends one message: channel, command, task id, task state.
    pub(crate) fn send<F: AsRef<[u8]>>(&self, frames: &[F]) {
        if self.kind == Kind::Router {
            let more = if frames.is_empty() { 0 } else { zmq::SNDMORE };
            until("the link to the monitor stands", || match self.socket.send(MONITOR, more) {
                Ok(()) => Some(()),
                Err(zmq::Error::EHOSTUNREACH) => None,
                Err(error) => panic!("the broker cannot send: {error}"),
            });
        }
        for (index, frame) in frames.iter().enumerate() {
            let more = if index + 1 < frames.len() { zmq::SNDMORE } else { 0 };
            self.socket.send(frame.as_ref(), more).expect("the broker can send");
        }
    }

    pub(crate) fn task(&self, channel: &str, id: &str) {
        self.send(&[channel, "TASK", id, "COMPLETED"]);
    }

    /// Starts to collect the events of the link (`zmq::SocketEvent`).
    pub(crate) fn events(&self) -> Events {
        let endpoint = format!("inproc://{}", unique("events"));
        self.socket.monitor(&endpoint, i32::from(zmq::SocketEvent::ALL.to_raw())).expect("libzmq can watch sockets");
        let pair = self.context.socket(zmq::PAIR).expect("a socket");
        pair.connect(&endpoint).expect("it is bound");
        Events(pair)
    }
}

pub(crate) struct Events(zmq::Socket);

impl Events {
    /// The next event within so many milliseconds.
    pub(crate) fn next(&self, milliseconds: i64) -> Option<zmq::SocketEvent> {
        if self.0.poll(zmq::POLLIN, milliseconds).expect("it can be polled") == 0 {
            return None;
        }
        let frames = self.0.recv_multipart(0).expect("an event waits");
        Some(zmq::SocketEvent::from_raw(u16::from_ne_bytes([frames[0][0], frames[0][1]])))
    }
}

/// Returns once the monitor has taken everything this broker has sent.
///
/// Messages on a link keep their order. So the monitor has all of them once another message has arrived on a new channel.
pub(crate) fn fence(monitor: &Monitor, broker: &Broker) {
    let channel = unique("fence");
    broker.send(&[channel.as_str(), "FINISHED"]);
    until("everything sent is taken", || {
        let mut viewer = Viewer::watch(monitor.viewers, &channel);
        viewer.texts(&[command("FINISHED")]);
        match viewer.rest()[..] {
            [Event::Close(Some(1000))] => Some(()),
            [Event::Close(Some(1013))] => None, // evicted before its message came: ask again
            ref other => panic!("a close was to come, not {other:?}"),
        }
    });
}
