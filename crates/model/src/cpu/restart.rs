//! What becomes of the system call a thread was in.
//!
//! A stop interrupts a blocking call. Most are restarted by the kernel itself, from the registers alone;
//! two groups are not, and each is an own case here.

use super::Registers;
use crate::clock::Timespec;
use serde::{Deserialize, Serialize};

/// `orig_rax` of a thread that is not in a system call.
pub const NOT_IN_SYSCALL: u64 = u64::MAX;

/// How a thread goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// From its registers: it was in no call, or in one that the kernel restarts from them
    /// (-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND in rax).
    #[default]
    None,
    /// The call had a restart block (-ERESTART_RESTARTBLOCK in rax), which is lost with the thread: it is issued
    /// again with the time that was left.
    Block {
        /// What was left of the timeout; `None` if there was none, or it could not be told.
        remaining: Option<Timespec>,
    },
    /// The call returned -EINTR to the stop: it is issued again, unless a signal that waits is handled before.
    Reissue {
        /// What was left of the timeout; `None` if there was none, or it could not be told.
        remaining: Option<Timespec>,
    },
}

impl Registers {
    /// Returns the system call in which the thread was stopped, if it was in one.
    pub fn syscall(&self) -> Option<u64> {
        (self.orig_rax != NOT_IN_SYSCALL).then_some(self.orig_rax)
    }
}
