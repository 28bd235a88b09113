//! Image to running process: plan, build, gate.
//!
//! A checkpoint is compiled into *tapes*, arrays of system calls that processes made of nothing else run to build
//! themselves. When every thread of the tree waits at the gate, one write opens it; before that nothing has
//! happened that anybody could see, and our death ends all of it.
#![forbid(unsafe_code)]

mod attach;
mod baseline;
mod build;
pub mod cap;
mod clocks;
mod compile;
mod control;
mod error;
mod inside;
mod kept;
pub mod layer;
mod layout;
mod nest;
mod plan;
mod pool;
mod release;
mod script;
mod stage;
#[cfg(test)]
mod synthetic;
mod thaw;
mod vdso;
mod verify;

pub use attach::{Attached, Ending, Passing, Terminal};
pub use compile::InnerCall;
pub use error::{Error, Lack};
pub use kept::Kept;
pub use plan::{Namespaces, Options, Plan, PlannedProcess, rules};
pub use stage::Stage;
pub use thaw::{Thawed, thaw};
