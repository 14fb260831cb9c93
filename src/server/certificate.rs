//! The daily check of the certificate in force.

use crate::context::Shared;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::sleep;

/// The time between two checks.
const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// Warns, once a day, of a certificate that expires soon or is not valid yet. Never returns.
pub(super) async fn watch(shared: Arc<Shared>) {
    loop {
        if let Some(warning) = shared.certificate().and_then(|certificate| certificate.warning(SystemTime::now())) {
            log::warn!("{warning}");
        }
        sleep(PERIOD).await;
    }
}
