//! `watch` over TLS.

use super::{Files, LONG, Pair, Server, watch};
use crate::common::{Broker, command, task};
use std::path::Path;

#[test]
fn watch_over_tls_trusts_what_the_machine_trusts() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    broker.task("job", "1");
    broker.send(&["job", "FINISHED"]);
    server.fence(&broker);
    let trust = |path: &Path| format!("SSL_CERT_FILE={}", path.display());
    let output = watch(&[&trust(&server.files.certificate())], &server.url());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().collect::<Vec<_>>(), [task("1", "COMPLETED"), command("FINISHED")]);

    let fails = |variable: &str, url: &str, words: &[&str]| {
        let output = watch(&[variable], url);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        text.into_owned()
    };
    let other = Files::new(&Pair::ending_in(LONG));
    let trusted = trust(&server.files.certificate());
    fails(&trust(&other.certificate()), &server.url(), &["certificate is refused", "self-signed"]);
    let named = format!("wss://localhost:{}/", server.monitor.viewers.port());
    fails(&trusted, &named, &["certificate is refused", "it is not for localhost"]);
}
