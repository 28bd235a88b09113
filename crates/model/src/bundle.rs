//! Files that an image brings along for machines that do not have them.

use crate::cap::FileIdentity;
use crate::layer::{Node, Written};
use crate::process::Checkpoint;
use serde::{Deserialize, Serialize};

/// A file, directory or symbolic link of the machine that a program was frozen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundled {
    /// What it is; its path counts from the root directory on.
    pub file: Written,
    /// What fstat(2) said of it, by which a machine is found to have it.
    pub identity: FileIdentity,
    /// The BLAKE3 digest of the content of a file.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
}

impl Bundled {
    /// Returns its absolute path.
    pub fn path(&self) -> std::path::PathBuf {
        std::path::Path::new("/").join(self.file.path.as_path())
    }

    /// Returns how long its content is.
    pub fn len_bytes(&self) -> u64 {
        match &self.file.node {
            Node::File { len_bytes, .. } => *len_bytes,
            _ => 0,
        }
    }
}

impl Checkpoint {
    /// Returns whether the image brings a file of this path along.
    pub fn is_bundled(&self, path: &std::path::Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let Ok(below) = path.strip_prefix("/") else { return false };
        let below = below.as_os_str().as_bytes();
        self.bundle.binary_search_by(|bundled| bundled.file.path.as_bytes().cmp(below)).is_ok()
    }
}
