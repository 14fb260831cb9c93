//! Tests of the connections: one that is dropped, and peers that are not Redis.

use super::*;
use crate::config::Settings;
use crate::deadline::timeout;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

fn redis(listener: &TcpListener) -> (Redis, Server) {
    let at = listener.local_addr().unwrap();
    let file = format!("cluster: {{redis: [\"{at}\"]}}");
    let cluster = Settings::parse(Path::new("c.yml"), file.as_bytes()).unwrap().cluster.unwrap();
    (Redis::load(&cluster).unwrap(), cluster.redis[0].clone())
}

#[tokio::test]
async fn a_connection_that_is_dropped_writes_nothing_more() {
    const LONG: usize = 64 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (redis, server) = redis(&listener);
    let (dropped, is_dropped) = oneshot::channel();
    let client = async {
        let mut connection = redis.connect(&server, Duration::from_secs(20)).await.unwrap();
        let mut command = redis::cmd("XADD");
        command.arg(vec![0_u8; LONG]);
        let never = command.exec_async(&mut connection);
        assert!(timeout(Duration::from_millis(10), never).await.is_err());
        drop(connection);
        dropped.send(()).unwrap();
    };
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 14]).await.unwrap();
        stream.write_all(b"+PONG\r\n").await.unwrap();
        is_dropped.await.unwrap();
        let mut rest = Vec::new();
        // The end may be a reset.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.len() < LONG, "{}", rest.len());
    };
    Box::pin(timeout(Duration::from_secs(20), async { tokio::join!(server, client) })).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_not_redis_is_said_to_be() {
    for (answer, said) in [
        (&b""[..], "it closed the connection without an answer; does it speak TLS there (cluster.tls)?"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it is not Redis"),
        (b"\x15\x03\x03\0\x02\x02\x46", "it speaks TLS there (cluster.tls)"),
        (b"-ERR max number of clients reached\r\n", "it has too many clients (maxclients)"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "it is still loading its data"),
        (b"-XYZ a\x1b[31mb\r\n", "it answers XYZ a\u{fffd}[31mb"),
        (b"nonsense\r\n", "its answer is not that of Redis"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (redis, server) = redis(&listener);
        let refuse = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 14]).await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let connect = redis.connect(&server, Duration::from_secs(20));
        let ((), connected) = tokio::join!(refuse, connect);
        let away = connected.err().unwrap().to_string();
        assert!(away.starts_with(&format!("{server}: {said}")), "{}: {away}", answer.escape_ascii());
    }
}
