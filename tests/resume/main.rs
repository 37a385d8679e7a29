//! Runs that are put down and taken up again: the same bytes as if nothing had happened.

mod library;
mod program;

#[path = "../program/mod.rs"]
mod running;
#[path = "../tiny_model/mod.rs"]
mod tiny_model;
