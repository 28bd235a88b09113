//! Whose files are meant by a path: ours, or those of a process with mounts of its own.
//!
//! A program with layers sees other files below the same paths than we do. Whoever deals with one says so once, for the
//! whole process, which deals with no other: each path of the program is then looked up below the root of that process.
//! Source: proc_pid_root(5), a link that leads into the mount namespace of the process.

use std::path::{Path, PathBuf};
use std::sync::RwLock;

static ROOT: RwLock<Option<i32>> = RwLock::new(None);

/// Means by paths of the program what they are to this process; `None` for what they are to us.
pub fn set(process: Option<i32>) {
    let mut root = ROOT.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    *root = process;
}

/// Returns the path by which we find what an absolute path is to the program. Links on the way that are absolute lead
/// below our own root; the kernel tells paths without any.
pub fn of(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    let root = ROOT.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    match (*root, path.strip_prefix("/")) {
        (Some(pid), Ok(below)) => Path::new("/proc").join(pid.to_string()).join("root").join(below),
        _ => path.to_owned(),
    }
}
