//! The end of a viewer: its answer or close frame, and the bytes that it gets when it is dropped.

use super::answer::{Answer, FULL, STOPPING};
use super::delivery::Delivery;
use super::disconnect::Disconnect;
use super::socket::Socket;
use super::upgrade::{self, Refused};
use super::{Stage, Viewer};
use crate::deadline::timeout;
use crate::wire::close::{CLOSE_TIMEOUT, End};

impl Viewer {
    /// Closes the connection as `reason` demands. What cannot be sent now is sent without waiting when the viewer is dropped.
    pub(super) async fn close(&mut self, reason: &Disconnect) {
        reason.count(&self.shared, self.peer);
        match reason {
            Disconnect::Refused(Refused::Answered(answer)) => self.end_request(answer, true),
            Disconnect::Stopping => self.end_request(&STOPPING, false),
            _ => {}
        }
        let mut finish = reason.is_by_monitor() && self.shared.settings().clients.finish_on_close;
        let mut close = reason.close();
        // In this case the viewer has the job's own FINISHED, or a part of it, whose rest is sent first.
        let has_all =
            matches!(&self.stage, Stage::Subscribed(delivery) if delivery.cursor.end() == Some(End::Finished));
        if has_all && reason.is_by_monitor() {
            (finish, close) = (false, Some(End::Finished.close()));
        }
        let mut over = true;
        if (close.is_some() || matches!(reason, Disconnect::ByPeer))
            && let Some(socket) = self.unsubscribe()
        {
            let begun = close.is_none_or(|(code, reason)| socket.begin_close(code, reason, finish).is_ok());
            over = !begun || !reason.is_lost() && timeout(CLOSE_TIMEOUT, socket.close_out()).await.is_ok();
        }
        if over {
            self.stage = Stage::Gone;
        }
    }

    /// Sends an HTTP answer to a connection whose request has not been answered, unless it still waits for a PROXY header or TLS.
    /// If `always` is not set, the connection must have sent a part of a request.
    fn end_request(&mut self, answer: &Answer, always: bool) {
        let (mut stream, mut begun) = match std::mem::take(&mut self.stage) {
            Stage::Request { stream, head, .. } => (stream, !head.is_empty()),
            Stage::Connected(stream, None) if self.shared.certificate().is_none() => (stream, false),
            stage => return self.stage = stage,
        };
        begun |= stream.try_read(&mut [0; 4096]).is_ok_and(|count| count > 0);
        if begun || always {
            upgrade::end_with(stream, answer, b"GET");
        }
    }

    /// Ends the subscription; the rest of a frame that was sent in part is still sent.
    fn unsubscribe(&mut self) -> Option<&mut Socket> {
        let socket = match std::mem::take(&mut self.stage) {
            Stage::Subscribed(Delivery { mut socket, cursor, .. }) => {
                socket.put_first(cursor.rest());
                socket
            }
            Stage::Naming(socket) | Stage::Closing(socket) => socket,
            Stage::Connected(..) | Stage::Request { .. } | Stage::Gone => return None,
        };
        self.stage = Stage::Closing(socket);
        match &mut self.stage {
            Stage::Closing(socket) => Some(socket),
            _ => None,
        }
    }
}

impl Drop for Viewer {
    /// Puts the connection into the outbox if that is open, or ends it without waiting.
    fn drop(&mut self) {
        if self.permit.is_none() {
            // The next process may have no room for it.
            return self.end_request(self.refusal.unwrap_or(&FULL), true);
        }
        let Some((mut stream, left)) = self.take_state() else { return };
        // A TLS session cannot be handed over: its keys stay here.
        if self.shared.outbox.is_open() && !stream.is_tls() {
            match stream.into_socket() {
                Some(socket) => self.shared.outbox.leave_viewer(socket, left),
                None => log::debug!("viewer {} cannot be handed over", left.peer),
            }
        } else {
            let told = stream.end_with(&left.closing_bytes(self.shared.settings().clients.finish_on_close));
            log::debug!(RECODEX_PEER:% = left.peer; "viewer {} is closed: {told:?}", left.peer);
        }
    }
}
