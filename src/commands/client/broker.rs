//! A broker that sends messages to a monitor over ZeroMQ.

use crate::broker::link::ROUTING_ID;
use crate::commands::client::connect::unknown_host;
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::host_port::split_host_and_port;
use crate::wire::first_byte::{HTTP, TLS_RECORDS, ZMTP};
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Bytes;
use zeromq::{RouterSocket, Socket, SocketOptions, SocketSend, ZmqError, ZmqMessage};

/// The time limit for a monitor to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time after which a silent port is asked by HTTP for its protocol. A monitor sends its greeting at once.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// The time limit for sent messages to leave the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The time after which a plain TCP connect tests whether anything listens. The crate retries a refused connect and does not report it.
const LOOK_AFTER: Duration = Duration::from_millis(300);

/// Waits, then names the protocol of a port that stays silent. Never returns if the protocol is ZeroMQ or unknown.
async fn silent_port(host_and_port: &str) -> &'static str {
    sleep(ASK_AFTER).await;
    match other_protocol(host_and_port).await {
        Some(what) => what,
        None => pending().await,
    }
}

/// Asks a port by HTTP, and describes its protocol as a clause; `None` if it is ZeroMQ or unknown.
async fn other_protocol(host_and_port: &str) -> Option<&'static str> {
    let asked = async {
        let mut stream = TcpStream::connect(host_and_port).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {host_and_port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // An alert of TLS is shorter than that.
        let mut answer = Vec::new();
        let _ = stream.take(b"HTTP/1.1 426".len() as u64).read_to_end(&mut answer).await;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(CONNECT_TIMEOUT, asked).await.ok()?.ok()?;
    match *answer.first()? {
        _ if answer.ends_with(b" 426") => Some("is the port where viewers connect"),
        _ if answer.ends_with(b" 400") => Some("refuses plain HTTP, as a monitor's port of viewers with TLS does"),
        HTTP => Some("speaks HTTP, as a monitor's status page does"),
        first if TLS_RECORDS.contains(&first) => Some("speaks TLS, as a monitor's port of viewers may"),
        ZMTP => None,
        _ => Some("does not speak ZeroMQ"),
    }
}

/// Returns the error of a connect to a port where nobody listens. Never returns if somebody listens.
async fn refused(host_and_port: &str) -> io::Error {
    sleep(LOOK_AFTER).await;
    match TcpStream::connect(host_and_port).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => e,
        _ => pending().await,
    }
}

/// A ROUTER that is connected to a monitor.
pub(crate) struct Broker {
    socket: RouterSocket,
    address: String,
}

impl Broker {
    /// Connects to the monitor at `address`, such as `tcp://127.0.0.1:7894`, and waits until the handshake is complete.
    ///
    /// # Errors
    /// [`Exit::Usage`] for a wrong address, [`Exit::Unavailable`] if nobody answers or the other end is no monitor.
    pub(crate) async fn connect(address: &str) -> Result<Self, Failure> {
        let wrong = |what: &str| {
            let expected = "expected tcp://HOST:PORT, such as tcp://127.0.0.1:7894";
            Failure::new(Exit::Usage, format!("{address} is no ZeroMQ address: {what}; {expected}"))
        };
        let unavailable = |what: String| Failure::new(Exit::Unavailable, what);
        let host_and_port = address.strip_prefix("tcp://").ok_or_else(|| wrong("it does not begin with tcp://"))?;
        split_host_and_port(host_and_port).map_err(|what| wrong(&what))?;
        let mut options = SocketOptions::default();
        // The crate's own timeout would fire after a pause of this process although the answer has come.
        options.no_connect_timeout();
        let mut socket = RouterSocket::with_options(options);
        let connected = tokio::select! {
            connected = timeout(CONNECT_TIMEOUT, socket.connect(address)) => connected,
            e = refused(host_and_port) => {
                let what = format!("nothing listens at {address} ({e}); is the monitor running, and is this its zeromq_uri?");
                return Err(unavailable(what));
            }
            what = silent_port(host_and_port) => {
                return Err(unavailable(format!("{address} {what}; use that of brokers (zeromq_uri)")));
            }
        };
        let Ok(connected) = connected else {
            return Err(unavailable(format!(
                "no monitor answers at {address} within {} s; is this its zeromq_uri, and does zeromq.allow name this machine?",
                CONNECT_TIMEOUT.as_secs()
            )));
        };
        match connected {
            Ok(()) => Ok(Self { socket, address: address.into() }),
            Err(ZmqError::Endpoint(_)) => Err(wrong("its host or its port is wrong")),
            // The error of a name that does not resolve has no error number.
            Err(ZmqError::Network(e)) if e.raw_os_error().is_none() && e.kind() != io::ErrorKind::UnexpectedEof => {
                let host = host_and_port.rsplit_once(':').map_or(host_and_port, |(host, _)| host);
                Err(unavailable(format!("cannot connect to {address}: {}", unknown_host(host, &e))))
            }
            Err(_) => Err(unavailable(match other_protocol(host_and_port).await {
                Some(what) => format!("{address} {what}; use that of brokers (zeromq_uri)"),
                None => format!(
                    "{address} closed the link in the handshake; if it is a monitor, does its zeromq.allow name this machine?"
                ),
            })),
        }
    }

    /// Sends one message: the channel id, the command, then for TASK the task's id and state.
    pub(crate) async fn send(&mut self, frames: &[&str]) -> Result<(), Failure> {
        let mut message = ZmqMessage::from(ROUTING_ID);
        for frame in frames {
            message.push_back(Bytes::copy_from_slice(frame.as_bytes()));
        }
        self.socket.send(message).await.map_err(|e| {
            Failure::new(
                Exit::Unavailable,
                format!("cannot send to {}: {e}; check that a monitor still listens there", self.address),
            )
        })
    }

    /// Closes the link once every message has left the process. No other task may run in the runtime.
    ///
    /// The crate has no such call. Its writing task ends once the socket is dropped and the queue is empty, which shows in the number of
    /// tasks.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if that takes longer than 5 s.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        drop(self.socket);
        let metrics = Handle::current().metrics();
        let flushed = async {
            while metrics.num_alive_tasks() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(FLUSH_TIMEOUT, flushed)
            .await
            .map_err(|_| Failure::new(Exit::Unavailable, format!("{} did not take the message", self.address)))
    }
}
