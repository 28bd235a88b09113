//! Event counters.

use serde::{Deserialize, Serialize};

/// An eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFd {
    /// Its value.
    pub count: u64,
    /// Whether reads take one (EFD_SEMAPHORE).
    pub semaphore: bool,
}
