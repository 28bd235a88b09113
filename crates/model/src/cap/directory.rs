//! Directories.

use super::FileRef;
use serde::{Deserialize, Serialize};

/// An open directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Which.
    pub file: FileRef,
    /// The position of readdir, a cookie of the file system.
    pub position: u64,
}
