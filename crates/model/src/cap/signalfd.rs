//! Descriptors that read signals.

use serde::{Deserialize, Serialize};

/// A signalfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalFd {
    /// The signals it reads, bit 0 for signal 1.
    pub mask: u64,
}
