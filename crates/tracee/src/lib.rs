//! A stopped process that does what we say.
//!
//! - [`tape`]: a builder for arrays of system calls, and [`interpreter`], the code that runs them;
//! - [`stub`]: a process that consists of nothing but the interpreter and a tape.

pub mod interpreter;
pub mod stub;
pub mod tape;
