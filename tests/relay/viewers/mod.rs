//! The viewers' port: the things that a client may do, a browser or not, and the answers.

mod deadlines;
mod messages;
mod slow;
mod upgrade;

use crate::common::Monitor;
use crate::common::viewer::http;

/// The status, and the body, of an answer that ends the connection.
fn answer(monitor: &Monitor, request: &[u8]) -> (String, String) {
    let answer = http(monitor.viewers, request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {head}"));
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    (status.to_owned(), body.to_owned())
}
