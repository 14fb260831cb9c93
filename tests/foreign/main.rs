//! The daemon with programs of other projects: browsers, Python, web servers and Prometheus. `tests/run` installs them.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod prometheus;
mod proxies;
mod status_page;
