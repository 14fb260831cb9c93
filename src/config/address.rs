//! The addresses at which the monitor listens, and the mode of a Unix socket.

use super::value::Whole;
use crate::fs::{MAX_UNIX_PATH, temporary_path};
use serde::de::{Deserializer, Error, Expected, IgnoredAny, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name, an IP address, or `*` for every address.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{host}{close}:{}", self.port)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.host, self.port).serialize(serializer)
    }
}

impl Address {
    /// Reads a list; `expected` is for the error.
    pub(super) fn read<'de, A: SeqAccess<'de>>(mut list: A, expected: &dyn Expected) -> Result<Self, A::Error> {
        let host: String = list.next_element()?.ok_or_else(|| Error::invalid_length(0, expected))?;
        let Port(port) = list.next_element()?.ok_or_else(|| Error::invalid_length(1, expected))?;
        let mut length = 2;
        while list.next_element::<IgnoredAny>()?.is_some() {
            length += 1;
        }
        if length == 2 { Ok(Self { host, port }) } else { Err(Error::invalid_length(length, expected)) }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HostAndPort;
        impl<'de> Visitor<'de> for HostAndPort {
            type Value = Address;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host and a port, such as [\"127.0.0.1\", 4567]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Address, A::Error> {
                Address::read(list, &self)
            }
        }
        deserializer.deserialize_seq(HostAndPort)
    }
}

/// The prefix of a Unix socket's name.
pub(super) const UNIX: &str = "unix:";

/// An address where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(Address),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Returns the path of a Unix socket.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Reads the name of a Unix socket; `expected` is for the error.
    pub(super) fn read<E: Error>(text: &str, expected: &dyn Expected) -> Result<Self, E> {
        let path = text.strip_prefix(UNIX).map(PathBuf::from).filter(|path| path.is_absolute());
        let path = path.ok_or_else(|| E::invalid_value(Unexpected::Str(text), expected))?;
        check_length(&path).map_err(E::custom)?;
        Ok(Self::Unix(path))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tcp(address) => address.serialize(serializer),
            Self::Unix(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TcpOrUnix;
        impl<'de> Visitor<'de> for TcpOrUnix {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host and a port, such as [\"127.0.0.1\", 4567], or \"unix:\" and an absolute path")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Endpoint, A::Error> {
                Address::read(list, &self).map(Endpoint::Tcp)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Endpoint, E> {
                Endpoint::read(text, &self)
            }
        }
        deserializer.deserialize_any(TcpOrUnix)
    }
}

/// Refuses a path that is too long for a Unix socket, or whose temporary path is.
pub(super) fn check_length(path: &Path) -> Result<(), &'static str> {
    if [path, &temporary_path(path)].iter().any(|path| path.as_os_str().len() > MAX_UNIX_PATH) {
        return Err("the path of a Unix socket is too long; expected at most 107 bytes, and 102 before the last slash");
    }
    Ok(())
}

/// The mode of a Unix socket, as of `chmod(1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Lets the owner and the group connect.
    pub const GROUP: Self = Self(0o660);

    /// Returns the permission bits.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octal;
        impl Visitor<'_> for Octal {
            type Value = Mode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode in octal digits and quotes, such as \"0660\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Mode, E> {
                let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() >= 3);
                mode.map(Mode).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Octal)
    }
}

struct Port(u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Whole { what: "a port", min: 0, max: u16::MAX.into(), hint: ", as a number or in quotes" };
        let port = deserializer.deserialize_any(whole)?;
        u16::try_from(port).map(Self).map_err(D::Error::custom)
    }
}
