//! Memory behind a descriptor.

use crate::id::DataspaceId;
use serde::{Deserialize, Serialize};

/// A description of a memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memfd {
    /// The memory.
    pub dataspace: DataspaceId,
    /// The file offset in bytes.
    pub position: u64,
}
