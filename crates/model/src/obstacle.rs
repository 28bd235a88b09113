//! A reason why something cannot be carried, told so that a person can act on it.

use crate::id::Pid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing in the way of a freeze or a thaw.
///
/// All obstacles of an operation are collected and told at once, before anything is touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The process it was found in.
    pub pid: Pid,
    /// That process' command name.
    pub command: String,
    /// The object, as `fd 11 (io_uring ring)`.
    pub object: String,
    /// Why it is in the way, a clause without final period.
    pub reason: String,
    /// What the user can do, a clause without final period.
    pub remedy: String,
    /// Whether it is one of this moment, and may be gone when one looks again. A freeze that finds no other looks again
    /// a little later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passes: bool,
}

impl Obstacle {
    /// Returns whether there are some, and all go by themselves as a rule.
    pub fn all_pass(obstacles: &[Self]) -> bool {
        !obstacles.is_empty() && obstacles.iter().all(|obstacle| obstacle.passes)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}): {}: {}", self.pid, self.command, self.object, self.reason)
    }
}
