//! Files of file systems in memory.

use super::{FileMarks, FileRef};
use crate::ram::Pages;
use serde::{Deserialize, Serialize};

/// A named file of a tmpfs that the program writes, or shares by a mapping, as POSIX shared memory (shm_open).
///
/// It stays where it is when the program is frozen, as every named file. At thaw it must have the same content, or be
/// missing, as after a start of the machine; then it is made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volatile {
    /// Which.
    pub file: FileRef,
    /// Its content; offsets count from its start, holes stay holes.
    pub pages: Pages,
    /// The BLAKE3 digest of its content, holes being zeros.
    pub digest: [u8; 32],
    /// Its other marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<FileMarks>,
}
