//! Epoll instances.

use crate::id::{DescriptionId, TargetFd};
use serde::{Deserialize, Serialize};

/// An epoll instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoll {
    /// What it watches.
    pub watches: Vec<Watch>,
    /// How it polls devices before it waits (EPIOCSPARAMS), if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_poll: Option<BusyPoll>,
}

/// How devices are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyPoll {
    /// For how long, in microseconds.
    pub usecs: u32,
    /// For how many packets at a time.
    pub budget: u16,
    /// Whether that is preferred to interrupts.
    pub prefer: bool,
}

/// One file in an epoll set. The kernel's key is the pair of number and description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The number under which it was added; it may be closed, or denote something else by now.
    pub fd: TargetFd,
    /// What was added.
    pub description: DescriptionId,
    /// EPOLL event bits and flags.
    pub events: u32,
    /// The user's word.
    pub data: u64,
}
