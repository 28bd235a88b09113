//! Memory that outlives a region: shared between processes, or behind a descriptor.

use super::Pages;
use crate::cap::{FileIdentity, FileMarks};
use crate::path::BytePath;
use serde::{Deserialize, Serialize};

/// A shared memory object and its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataspace {
    /// What it is.
    pub kind: DataspaceKind,
    /// Its size in bytes.
    pub len_bytes: u64,
    /// Its content; offsets count from its start.
    pub pages: Pages,
}

/// Kinds of dataspaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataspaceKind {
    /// MAP_SHARED | MAP_ANONYMOUS, shared by inheritance only.
    SharedAnonymous,
    /// A memfd.
    Memfd {
        /// Its name, without `memfd:`.
        name: BytePath,
        /// F_SEAL_ bits.
        seals: u32,
        /// Permission bits (fchmod), as of `st_mode`.
        mode: u32,
        /// The logarithm of the page size if it is of huge pages (MFD_HUGETLB), else 0.
        huge_shift: u32,
        /// What it was as a file, if that was told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<FileIdentity>,
        /// Its other marks, likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        marks: Option<FileMarks>,
    },
}
