//! The configuration: a YAML file becomes [`Settings`] that cannot be wrong, or an error with the position and the correction.
//!
//! The checks run while serde reads the file, since only then is the position of every value known.

mod access;
mod address;
mod descriptors;
mod error;
mod explain;
mod load;
mod node;
mod origin;
mod paths;
mod settings;
mod typed;
mod value;
mod yaml;

pub use access::{Network, Proxy, ProxyHeader};
pub use address::{Address, Endpoint, Mode};
pub use error::ConfigError;
pub use origin::Origin;
pub use paths::DEFAULT_LOG;
pub use settings::{Clients, DEFAULT_USER, History, Logger, Settings, Tls, Zeromq};
pub use value::{Level, Output, Seconds};
pub use yaml::{MAX_BRACKETS, MAX_DEPTH, MAX_FILE};

#[cfg(test)]
mod tests;
