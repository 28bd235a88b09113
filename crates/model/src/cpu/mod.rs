//! The CPU session: the threads of a process.

mod registers;
mod restart;
mod scheduling;
mod thread;

pub use registers::{REGISTER_WORDS, Registers};
pub use restart::{NOT_IN_SYSCALL, Restart};
pub use scheduling::{Scheduling, USUAL_TIMER_SLACK_NS};
pub use thread::{AltStack, CpuState, RobustList, Rseq, Thread, ThreadSettings};
