//! The status page, and the policy that limits what it may do.

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};
use std::sync::LazyLock;

/// The page. It requests nothing but the events.
pub(super) const PAGE: &str = include_str!("page.html");

/// The policy for browsers: the page may run its own script, use its own style sheet, and listen to the monitor.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let inside =
            PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(inside, _)| inside);
        BASE64.encode(digest(&SHA256, inside.as_bytes()).as_ref())
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash("script"),
        hash("style")
    )
});
