//! Files as a process names them.

use frost_model::cap::{FileIdentity, FileRef};
use frost_model::clock::Timespec;
use frost_model::path::BytePath;
use rustix::fs::{FileType, Stat};
use std::path::Path;

/// What the kernel appends to the path of a file that has no name any more.
pub(crate) const DELETED: &[u8] = b" (deleted)";

/// Turns what fstat(2) says into the record of an image.
pub(crate) fn identity(stat: &Stat) -> FileIdentity {
    FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        len_bytes: stat.st_size as u64,
        modified: Timespec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 },
        build_id: None,
        removed: FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_nlink == 0,
    }
}

/// Refers to the file behind a link of `/proc`, as `/proc/PID/cwd`, by the path that it shows.
///
/// # Errors
/// Why the file cannot be found by that path again.
pub(crate) fn behind_link(link: &Path) -> Result<FileRef, String> {
    let path = rustix::fs::readlink(link, Vec::new()).map_err(|errno| errno.to_string())?.into_bytes();
    let there = rustix::fs::stat(link).map_err(|errno| errno.to_string())?;
    let shown = String::from_utf8_lossy(&path).into_owned();
    let there_now = identity(&there);
    if there_now.removed
        && let Some(path) = path.strip_suffix(DELETED).filter(|path| path.starts_with(b"/"))
    {
        return Ok(FileRef { path: BytePath::new(path), identity: there_now });
    }
    match rustix::fs::stat(frost_sys::sight::of(frost_sys::proc::as_path(&path))) {
        Ok(found) if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino) => {
            Ok(FileRef { path: BytePath::new(path), identity: there_now })
        }
        Ok(_) => Err(format!("{shown} is another file by now")),
        Err(_) if path.ends_with(DELETED) => Err(format!("{shown}: it was deleted or replaced")),
        Err(errno) => Err(format!("{shown} is not reachable by that path: {errno}")),
    }
}
