//! Files by path, and how they are recognised.

use crate::clock::Timespec;
use crate::layer::Attribute;
use crate::path::BytePath;
use serde::{Deserialize, Serialize};

/// A file that is found by its path again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its absolute path, as seen from the root of the freezer.
    pub path: BytePath,
    /// What it was when the program was frozen.
    pub identity: FileIdentity,
}

/// What fstat(2) said of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Last change of its content.
    pub modified: Timespec,
    /// The GNU build-id of a mapped ELF file, by which it is the same wherever it lies.
    #[serde(with = "serde_bytes")]
    pub build_id: Option<Vec<u8>>,
    /// Whether it was a directory that had been removed; the path is the one it had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// What a file that is made anew gets beside what its identity tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMarks {
    /// Last access to its content.
    pub accessed: Timespec,
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
}
