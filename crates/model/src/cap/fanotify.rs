//! Watches of files, mounts and file systems.

use super::WatchTarget;
use crate::path::BytePath;
use serde::{Deserialize, Serialize};

/// A fanotify group.
///
/// As with inotify, no event can be put into one, so none is carried: where some were waiting, where a marked file changed
/// while the program was away, and always where a mount or a file system is marked, of which nobody tells what happened
/// there, the program reads FAN_Q_OVERFLOW. A queue without a limit (FAN_UNLIMITED_QUEUE) cannot overflow: the plan says
/// that the program is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fanotify {
    /// The flags of fanotify_init(2).
    pub flags: u32,
    /// Flags of the files that events bring.
    pub event_flags: u32,
    /// Whether it was made with CAP_SYS_ADMIN: else events tell of no processes but the one that reads them.
    pub privileged: bool,
    /// What it watches.
    pub marks: Vec<FanotifyMark>,
    /// Whether events waited to be read.
    pub queued: bool,
}

/// A mark of a fanotify group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanotifyMark {
    /// FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_EVICTABLE, FAN_MARK_IGNORE.
    pub flags: u32,
    /// Events, with FAN_ONDIR and FAN_EVENT_ON_CHILD.
    pub mask: u32,
    /// Events that are not told.
    pub ignored: u32,
    /// What it is of.
    pub target: FanotifyTarget,
}

/// What is marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FanotifyTarget {
    /// A file or directory.
    File(WatchTarget),
    /// What is reached by a mount.
    Mount(MountPoint),
    /// All of a file system that is mounted there.
    FileSystem(MountPoint),
}

/// A mount, as proc_pid_mountinfo(5) tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Where it is mounted.
    pub path: BytePath,
    /// The directory of the file system that is seen there.
    pub root: BytePath,
    /// The type of the file system.
    pub file_system: String,
    /// What it was mounted from.
    pub source: BytePath,
}
