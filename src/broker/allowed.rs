//! Whether a broker's address is still allowed.

use crate::config::Settings;
use crate::context::Shared;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Whether `zeromq.allow` names a peer, which a reload may change.
pub(super) struct Allowed {
    peer: SocketAddr,
    settings: watch::Receiver<Arc<Settings>>,
}

impl Allowed {
    pub(super) fn new(peer: SocketAddr, shared: &Shared) -> Self {
        let mut settings = shared.settings_from_now_on();
        // A reload may have come since it was looked at for the last time.
        settings.mark_changed();
        Self { peer, settings }
    }

    /// Completes once `zeromq.allow` does not name the peer. Nothing is lost if it is dropped before.
    pub(super) async fn ended(&mut self) {
        while self.settings.changed().await.is_ok() {
            let settings = Arc::clone(&self.settings.borrow_and_update());
            if !settings.zeromq.allows(self.peer.ip()) {
                return;
            }
        }
        // The monitor goes.
        std::future::pending::<()>().await;
    }
}
