//! The life of the process: start, reload, stop, and giving up root.

pub mod certificate;
pub mod privileges;
pub mod relay;
pub mod reload;
pub mod service;
pub mod trust;
