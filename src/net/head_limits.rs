//! Bounds of the first bytes of a client: the head of an HTTP request, and the first message of TLS.

use tokio::sync::Semaphore;

/// The longest head, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;
/// The longest head that needs no permit, in bytes.
pub const SHORT_HEAD: usize = 2048;
/// The number of longer heads that are read at once. Another one waits, so that slow requests cannot fill the memory.
pub const LONG_HEADS: usize = 256;

/// The permits for longer heads.
pub(crate) static LONG: Semaphore = Semaphore::const_new(LONG_HEADS);
