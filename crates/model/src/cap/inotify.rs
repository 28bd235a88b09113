//! Watches of files and directories.

use super::FileRef;
use crate::id::DescriptionId;
use serde::{Deserialize, Serialize};

/// An inotify instance.
///
/// Events that wait in it can only be read by taking them, and no event can be put into one, so none is carried: where
/// some were waiting, or a watched file changed while the program was away, the program reads IN_Q_OVERFLOW, by which
/// the kernel tells every program that it has to look for itself. Of a file that is gone it reads that it was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inotify {
    /// What it watches, by ascending number.
    pub watches: Vec<InotifyWatch>,
    /// Whether events waited to be read.
    pub queued: bool,
}

/// A watch of an inotify instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InotifyWatch {
    /// The number by which events name it.
    pub wd: i32,
    /// Events and flags (IN_ONESHOT, IN_EXCL_UNLINK).
    pub mask: u32,
    /// What it watches.
    pub target: WatchTarget,
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchTarget {
    /// A file with a name.
    Path {
        /// The file.
        file: FileRef,
        /// A digest of what lay in the directory; `None` for other files, and for one that holds too much.
        entries: Option<u64>,
    },
    /// A file without a name that is open too.
    Description(DescriptionId),
}

/// The highest number of a watch that is carried: the kernel gives numbers in ascending order, so all below are passed
/// on the way to it.
pub const INOTIFY_MOST: i32 = 1 << 22;
