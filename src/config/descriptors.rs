//! Lowers the numbers of viewers and brokers to what the limit of open files allows.

use super::Settings;
use crate::rlimit;
use crate::rlimit::{Demand, Shares, TooFew};

impl Settings {
    /// Returns the largest number of descriptors for Redis.
    pub(crate) fn redis_descriptors(&self) -> usize {
        self.cluster.as_ref().map_or(0, |cluster| rlimit::redis(cluster.redis.len()))
    }

    /// Lowers `clients.max` and `zeromq.max_connections` to what the limit of open files allows. `listeners` is the number of listening
    /// sockets, or 0 before they are bound. Returns the share of each kind of connection, and a warning if a configured value does not fit.
    pub(crate) fn fit(&mut self, files: usize, listeners: usize) -> Result<(Shares, Option<String>), TooFew> {
        let status = self.status_uri.endpoint().is_some();
        let (viewers, brokers) = (self.clients.max, self.zeromq.max_connections);
        let listeners = listeners.max(2 + usize::from(status));
        let redis = self.redis_descriptors();
        let shares = rlimit::share(files, Demand { listeners, status, viewers, brokers, redis })?;
        (self.clients.max, self.zeromq.max_connections) = (shares.viewers, shares.brokers);
        // The default never causes a warning: it means as many as fit.
        let fits = brokers == shares.brokers && (viewers == shares.viewers || viewers == rlimit::default_max_clients());
        let what = || {
            format!(
                "only {files} files may be open at once, which is enough for {} viewers (clients.max is {viewers}) and {} brokers \
                 (zeromq.max_connections is {brokers}); raise the limit of open files (LimitNOFILE= of the service, or \
                 ulimit -n), or lower these settings",
                shares.viewers, shares.brokers
            )
        };
        Ok((shares, (!fits).then(what)))
    }
}
