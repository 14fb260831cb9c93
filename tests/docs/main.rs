//! The documents and the source against each other.

mod layers;
mod manual_pages;
mod readme;
