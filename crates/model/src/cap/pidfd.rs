//! Descriptors of processes.

use crate::id::Pid;
use serde::{Deserialize, Serialize};

/// A pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidFd {
    /// A process of the tree, or `None` if the process had been reaped.
    pub pid: Option<Pid>,
    /// Whether it denotes a thread (PIDFD_THREAD).
    pub thread: bool,
}
