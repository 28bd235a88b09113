//! Resource limits.

use serde::{Deserialize, Serialize};

/// The soft and hard value of one limit; `u64::MAX` is RLIM_INFINITY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// How far the soft value may be raised.
    pub hard: u64,
}
