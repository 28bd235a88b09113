//! The runtime environment: a program and all it starts live in namespaces of their own below a keeper, and have a name.
//!
//! [`run`](run::run) starts one. Its [`Instance`](instance::Instance) is found by its name in a directory of the store,
//! where its keeper's socket lies; what it is doing is asked of the keeper, or read from the note of its end, never from
//! what was written at its start. [`freeze`] and [`thaw`] go through the engines of those names, with the keeper told:
//! it stays, and holds the terminal and the namespaces, or it ends too.
//!
//! Of the processes of frost only the keeper must live; every other may die at any instant.
#![forbid(unsafe_code)]

pub mod budget;
mod bundle;
mod error;
mod execution;
pub mod freeze;
pub mod instance;
pub mod layer;
mod outward;
pub mod run;
pub mod thaw;

pub use error::Error;
