//! Devices that hold no state.

use super::FileRef;
use serde::{Deserialize, Serialize};

/// An open character device without state: `/dev/null`, `zero`, `full`, `random`, `urandom`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The node, whose `rdev` tells which device it is.
    pub file: FileRef,
}
