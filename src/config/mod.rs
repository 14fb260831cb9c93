//! The configuration: a YAML file becomes [`Settings`] that cannot be wrong, or an error with the position and the correction.
//!
//! The checks run while serde reads the file, since only then is the position of every value known.

mod access;
mod address;
mod cluster;
mod descriptors;
mod error;
mod explain;
mod load;
mod node;
mod origin;
mod paths;
mod settings;
mod source;
mod status_uri;
mod typed;
mod value;
mod writers;
mod yaml;

pub(crate) use access::{Network, Proxy, ProxyHeader};
pub(crate) use address::{Address, Endpoint, Mode};
pub(crate) use cluster::{Cluster, Server};
pub(crate) use error::ConfigError;
pub(crate) use origin::Origin;
pub(crate) use paths::{DEFAULT_LOG, unfinished_history, unusable_history};
pub(crate) use settings::{Clients, DEFAULT_USER, Logger};
pub use settings::{History, Settings, Tls};
pub(crate) use source::Instance;
pub use source::Source;
pub(crate) use status_uri::{RUNTIME_DIRECTORY, StatusUri, default_socket};
pub use value::Seconds;
pub(crate) use value::{Level, Output};
pub(crate) use writers::{Who, writers};
pub use yaml::{MAX_BRACKETS, MAX_DEPTH, MAX_FILE};

#[cfg(test)]
mod tests;
