//! Layers: directories of which the program had a view of its own, with what it wrote there.

use crate::cap::FileIdentity;
use crate::clock::Timespec;
use crate::path::BytePath;
use crate::ram::Pages;
use serde::{Deserialize, Serialize};

/// One directory, and what was written there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The directory, an absolute path.
    pub directory: BytePath,
    /// What was written: directories before what is in them, the directory itself first.
    pub written: Vec<Written>,
    /// All that lies below, in the directory as others see it, by ascending path.
    pub lower: Vec<Lower>,
}

/// Something that was made, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its path from the directory of the layer on; empty for that itself.
    pub path: BytePath,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of its content.
    pub modified: Timespec,
    /// Extended attributes, those of the layer itself left out.
    pub attributes: Vec<Attribute>,
    /// What it is.
    pub node: Node,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its name.
    pub name: BytePath,
    /// Its value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// What something in a layer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A directory.
    Directory {
        /// Whether nothing of what lies below shows through.
        opaque: bool,
    },
    /// A file with its content.
    File {
        /// Its length in bytes.
        len_bytes: u64,
        /// Its content; holes stay holes.
        pages: Pages,
    },
    /// One more name of a file or node that stands before it: an index into `written`.
    Link(u32),
    /// A symbolic link, and where it leads.
    Symlink(BytePath),
    /// A fifo, a socket that nobody listens at, or a device, with its number.
    Special {
        /// The number of the device.
        rdev: u64,
    },
    /// It was removed, of what lies below.
    Removed,
}

/// Something that lies below a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lower {
    /// Its path from the directory of the layer on.
    pub path: BytePath,
    /// What fstat(2) said of it; only type, rights, length and digest count on another machine.
    pub identity: FileIdentity,
    /// The BLAKE3 digest of a file's content, or of where a symbolic link leads; zeros for all else.
    pub digest: [u8; 32],
}
