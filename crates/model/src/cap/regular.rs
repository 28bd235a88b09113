//! Regular files.

use super::{FileIdentity, FileMarks, FileRef};
use crate::id::ObjectId;
use crate::path::BytePath;
use crate::ram::Pages;
use serde::{Deserialize, Serialize};

/// An open regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegularFile {
    /// Where its content comes from.
    pub content: Content,
    /// The file offset in bytes.
    pub position: u64,
}

/// Where the content of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// From the file of that path, which stays where it is.
    Named {
        /// The file.
        file: FileRef,
        /// Its bytes at the instant of the freeze, if `--files` captured them.
        captured: Option<Pages>,
        /// The BLAKE3 digest of its content, if its route will want to know whether that is still there.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
        digest: Option<[u8; 32]>,
    },
    /// From the image: the file had no name any more. An index into `unnamed`.
    Unnamed(ObjectId),
}

/// A file without a name, with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unnamed {
    /// The path it had, as the kernel tells it, without ` (deleted)`.
    pub path: BytePath,
    /// What it was.
    pub identity: FileIdentity,
    /// Its content; offsets count from its start, holes stay holes.
    pub pages: Pages,
    /// Its other marks, if they were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<FileMarks>,
}
