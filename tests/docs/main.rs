//! The documents agree with the source.

mod layers;
mod manual_pages;
mod readme;
mod runbooks;
mod sizing;
mod threat_model;
