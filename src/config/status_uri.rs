//! The address of the status listener: the configured one, or else a socket in the service's runtime directory.

use super::address::check_length;
use super::{Address, Endpoint, Instance};
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

/// The runtime directory of the packages' unit, from its `RuntimeDirectory=`.
pub(crate) const RUNTIME_DIRECTORY: &str = "/run/recodex";

/// The value of `status_uri`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StatusUri {
    /// No value. Without a runtime directory there is no status listener.
    #[default]
    Unset,
    /// No value: the status listener is this socket in the runtime directory.
    Default(Endpoint),
    /// `false`: there is no status listener.
    Off,
    /// An address.
    At(Endpoint),
}

impl StatusUri {
    /// Returns the address of the status listener, if there is to be one.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Default(endpoint) | Self::At(endpoint) => Some(endpoint),
            Self::Unset | Self::Off => None,
        }
    }

    /// Returns the same as [`StatusUri::endpoint`], to be changed.
    pub(super) fn endpoint_mut(&mut self) -> Option<&mut Endpoint> {
        match self {
            Self::Default(endpoint) | Self::At(endpoint) => Some(endpoint),
            Self::Unset | Self::Off => None,
        }
    }

    /// Returns true if nobody has configured the status listener. A monitor that cannot have it then runs without it.
    pub(crate) fn is_default(&self) -> bool {
        matches!(self, Self::Default(_))
    }

    /// Takes the socket in a runtime directory if no address is set. A path that is too long for a socket is not taken.
    pub(super) fn default_in(&mut self, directory: &Path, instance: Option<&Instance>) {
        let path = default_socket(directory, instance);
        if *self == Self::Unset && check_length(&path).is_ok() {
            *self = Self::Default(Endpoint::Unix(path));
        }
    }
}

/// Returns the path of the socket that the status listener has if none is configured. Each instance has one of its own.
pub(crate) fn default_socket(directory: &Path, instance: Option<&Instance>) -> PathBuf {
    let name = instance.map_or_else(|| "status.sock".into(), |instance| format!("status-{}.sock", instance.name()));
    directory.join(name)
}

impl Serialize for StatusUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unset => serializer.serialize_none(),
            Self::Off => serializer.serialize_bool(false),
            Self::Default(endpoint) | Self::At(endpoint) => endpoint.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for StatusUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FalseOrEndpoint;
        impl<'de> Visitor<'de> for FalseOrEndpoint {
            type Value = StatusUri;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a host and a port, such as [\"127.0.0.1\", 4568], or \"unix:\" and an absolute path, or false",
                )
            }

            fn visit_unit<E: Error>(self) -> Result<StatusUri, E> {
                Ok(StatusUri::Unset)
            }

            fn visit_bool<E: Error>(self, is_on: bool) -> Result<StatusUri, E> {
                if is_on {
                    return Err(E::invalid_value(Unexpected::Bool(true), &self));
                }
                Ok(StatusUri::Off)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<StatusUri, A::Error> {
                Address::read(list, &self).map(|address| StatusUri::At(Endpoint::Tcp(address)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<StatusUri, E> {
                Endpoint::read(text, &self).map(StatusUri::At)
            }
        }
        deserializer.deserialize_any(FalseOrEndpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn parse(text: &str) -> Result<StatusUri, String> {
        Settings::parse(Path::new("c.yml"), text.as_bytes())
            .map(|settings| settings.status_uri)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn only_what_is_not_set_becomes_the_socket_in_the_runtime_directory() {
        let run = Path::new("/run/recodex");
        let unix = |path: &str| Endpoint::Unix(path.into());
        let instance: Instance = "a".parse().unwrap();
        for (text, instance, expected) in [
            ("", None, StatusUri::Default(unix("/run/recodex/status.sock"))),
            ("status_uri:\n", None, StatusUri::Default(unix("/run/recodex/status.sock"))),
            ("", Some(&instance), StatusUri::Default(unix("/run/recodex/status-a.sock"))),
            ("status_uri: false\n", None, StatusUri::Off),
            ("status_uri: 'unix:/s'\n", Some(&instance), StatusUri::At(unix("/s"))),
        ] {
            let mut status = parse(text).unwrap();
            status.default_in(run, instance);
            assert_eq!(status, expected, "{text}");
        }
        let mut status = StatusUri::Unset;
        status.default_in(Path::new(&format!("/{}", "d".repeat(100))), None);
        assert_eq!(status, StatusUri::Unset, "no socket can have such a path");
    }

    #[test]
    fn what_is_no_address_is_refused_with_all_that_is_expected() {
        for wrong in ["true", "4568", "'/run/s'", "['a']", "'unix:s'"] {
            let error = parse(&format!("status_uri: {wrong}\n")).unwrap_err();
            assert!(error.contains("expected a host and a port") && error.contains("or false"), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_value_is_written_as_it_is_read() {
        for text in ["status_uri: null\n", "status_uri: false\n", "status_uri: unix:/s\n", "status_uri:\n- a\n- 1\n"] {
            let settings = Settings::parse(Path::new("c.yml"), text.as_bytes()).unwrap();
            assert!(settings.to_yaml().contains(text), "{text}: {}", settings.to_yaml());
        }
    }
}
