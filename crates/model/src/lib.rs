//! The state of a program as four core sessions and a set of capabilities.
//!
//! A [`Checkpoint`] is the state of one process tree at one instant. Each [`Process`] is split as a
//! component framework would split it: [`pd`] (who it is and what it may reach), [`cpu`] (what runs),
//! [`rm`] (what is attached where) and [`ram`] (what is in it). What lies outside of a process, or is
//! shared between several, is a [capability](cap): an open file description, or an object behind one.
//!
//! The types are the records of an image: what is written here is what `frost-image` encodes. This
//! crate makes no system call and knows no file, so all of it can be tested anywhere.
//!
//! Invariants of a checkpoint that [`Checkpoint::validate`] checks, and that thaw relies on: parents come
//! before their children, identifiers resolve, regions are sorted and disjoint, every run of pages lies
//! inside its region or dataspace.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod cap;
pub mod check;
pub mod clock;
pub mod cpu;
pub mod host;
pub mod id;
pub mod layer;
mod listening;
pub mod machine;
pub mod nest;
pub mod network;
pub mod obstacle;
pub mod path;
pub mod pd;
pub mod process;
pub mod ram;
pub mod rm;
pub mod route;
mod sparse;
pub mod steps;

pub use check::Malformed;
pub use id::{DataspaceId, DescriptionId, ObjectId, Pid, TargetAddr, TargetFd, Tid};
pub use obstacle::Obstacle;
pub use path::BytePath;
pub use process::{Checkpoint, Process};
pub use steps::Steps;

/// Bytes in a page of the only page size we support as base page.
pub const PAGE_SIZE: u64 = 4096;
