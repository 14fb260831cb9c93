//! The check after each reload that `zeromq.allow` still names a broker's address.

use crate::config::Settings;
use crate::context::Shared;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// A peer's address, and a receiver of the settings, which may stop allowing it.
pub(super) struct Allowed {
    peer: SocketAddr,
    settings: watch::Receiver<Arc<Settings>>,
}

impl Allowed {
    pub(super) fn new(peer: SocketAddr, shared: &Shared) -> Self {
        let mut settings = shared.settings_from_now_on();
        // A reload may have changed the settings after the address was checked.
        settings.mark_changed();
        Self { peer, settings }
    }

    /// Completes once `zeromq.allow` does not name the peer. It may be dropped and called again.
    pub(super) async fn revoked(&mut self) {
        while self.settings.changed().await.is_ok() {
            let settings = Arc::clone(&self.settings.borrow_and_update());
            if !settings.zeromq.allows(self.peer.ip()) {
                return;
            }
        }
        // The settings' sender is gone: the process ends.
        std::future::pending::<()>().await;
    }
}
