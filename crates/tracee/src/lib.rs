//! A stopped process that does what we say.
//!
//! - [`tape`]: a builder for arrays of system calls, and [`interpreter`], the code that runs them;
//! - [`frame`]: signal frames, by which a thread finds its way back without us;
//! - [`stub`]: a process that consists of nothing but the interpreter and a tape.

pub mod frame;
pub mod interpreter;
pub mod stub;
pub mod tape;
