//! Descriptors of processes.

use crate::id::Pid;
use serde::{Deserialize, Serialize};

/// A pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidFd {
    /// A process of the tree, or a thread of one, or `None` if it is gone.
    pub pid: Option<Pid>,
    /// Whether it denotes a thread (PIDFD_THREAD).
    pub thread: bool,
    /// How it ended (a wait status), if it is gone and that is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
}
