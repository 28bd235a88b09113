//! Image to running process: plan, build, gate.
//!
//! A checkpoint is compiled into *tapes*, arrays of system calls that processes made of nothing else run to build
//! themselves. When every thread of the tree waits at the gate, one write opens it; before that nothing has
//! happened that anybody could see, and our death ends all of it.
#![forbid(unsafe_code)]

mod baseline;
mod build;
mod compile;
mod control;
mod error;
mod layout;
mod plan;
mod pool;
mod release;
mod script;
mod stage;
#[cfg(test)]
mod synthetic;
mod vdso;

pub use error::Error;
pub use stage::Stage;
