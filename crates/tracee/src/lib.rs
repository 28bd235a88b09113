//! A stopped process that does what we say.
//!
//! - [`seize`]: a process tree brought to a standstill, and [`restart`], what becomes of its calls;
//! - [`elapsed`]: how much of a timeout was left;
//! - [`tape`]: a builder for arrays of system calls, and [`interpreter`], the code that runs them;
//! - [`inject`]: tapes run by the threads of a stopped process;
//! - [`leftover`]: what a thaw that died leaves, and how it is taken away;
//! - [`frame`]: signal frames, by which a thread finds its way back without us;
//! - [`stub`]: a process that consists of nothing but the interpreter and a tape.

pub mod denial;
pub mod elapsed;
pub mod frame;
pub mod gateway;
pub mod inject;
pub mod interpreter;
pub mod leftover;
pub mod restart;
pub mod seize;
pub mod stub;
pub mod tape;
