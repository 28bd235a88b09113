//! Pid 1 of the namespaces in which a program lives, and all that is to be known of it from outside.
//!
//! The keeper itself is a program of its own in `program/`, carried here as [`PROGRAM`]. Whoever makes namespaces is their
//! pid 1 first, makes them fit to live in ([`house`]), starts a program there or not, and becomes the keeper by executing
//! it. Commands talk to it by a [`Connection`] in the words of [`protocol`].
//! What programs in there are refused is in [`admission`], what they installed themselves in [`notes`]; how they are told
//! of freeze and thaw is in [`notices`].
#![forbid(unsafe_code)]

pub mod admission;
mod connection;
pub mod house;
mod kept;
pub mod notes;
pub mod notices;
pub mod protocol;

pub use connection::{Connection, Error, Packet, State};
pub use house::Held;
pub use kept::MOST as MOST_KEPT;

/// The keeper, an ELF file.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/frost-keeper"));
