//! A connection to Redis that sends a command and reads its answer (RESP 2).

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Nil,
}

impl Reply {
    /// # Panics
    /// If it is not an array.
    pub(crate) fn array(self) -> Vec<Reply> {
        match self {
            Reply::Array(replies) => replies,
            other => panic!("an array was to come, not {other:?}"),
        }
    }

    /// # Panics
    /// If it is not a string of bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Reply::Bulk(bytes) => bytes,
            other => panic!("bytes were to come, not {other:?}"),
        }
    }

    /// # Panics
    /// If it is not a text.
    pub(crate) fn text(self) -> String {
        match self {
            Reply::Status(text) => text,
            other => String::from_utf8(other.bytes()).expect("a text"),
        }
    }
}

/// A connection to Redis or to a Sentinel.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects. Each connect, read and write ends within `time`.
    pub(crate) fn open(address: SocketAddr, time: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, time)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(time))?;
        stream.set_write_timeout(Some(time))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a command and returns its answer.
    pub(crate) fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<Reply> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes)?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| Error::other("an empty answer"))?;
        let number = || rest.parse::<i64>().map_err(Error::other);
        match kind {
            "+" => Ok(Reply::Status(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => number().map(Reply::Integer),
            "$" | "*" if number()? < 0 => Ok(Reply::Nil),
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()?).expect("it is not negative") + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(Reply::Bulk(bytes))
            }
            "*" => (0..number()?).map(|_| self.reply()).collect::<Result<_>>().map(Reply::Array),
            _ => Err(Error::other(format!("no answer begins with {line:?}"))),
        }
    }
}
