//! Files as a process names them.

use frost_model::cap::{FileIdentity, FileMarks, FileRef};
use frost_model::clock::Timespec;
use frost_model::layer::Attribute;
use frost_model::path::BytePath;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
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

/// Returns what there is to an open file beside its identity.
///
/// # Errors
/// Why its attributes cannot be read.
pub(crate) fn marks(fd: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<FileMarks> {
    // By its path, which does for any descriptor.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let list = |buffer: &mut [u8]| rustix::fs::listxattr(&path, buffer);
    let attributes = attributes(list, |name, buffer| rustix::fs::getxattr(&path, name, buffer))?;
    Ok(FileMarks { accessed: Timespec { sec: stat.st_atime, nsec: stat.st_atime_nsec as i64 }, attributes })
}

/// The most bytes of a list of names, and of a value (XATTR_LIST_MAX and XATTR_SIZE_MAX, include/uapi/linux/limits.h).
const MOST_ATTRIBUTE_BYTES: usize = 65_536;

/// Reads extended attributes, but for those that we may not read; `list` fills a buffer with their names, `get` with a value.
pub(crate) fn attributes(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&Path, &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<Attribute>> {
    let mut names = vec![0u8; MOST_ATTRIBUTE_BYTES];
    match list(&mut names) {
        Ok(length) => names.truncate(length),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    let mut attributes = Vec::new();
    let mut room = vec![0u8; MOST_ATTRIBUTE_BYTES];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let value = match get(frost_sys::proc::as_path(name), &mut room) {
            // In a place of its own size: a layer has thousands of files.
            Ok(length) => room.get(..length).unwrap_or_default().to_vec(),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM) => continue,
            Err(errno) => return Err(errno),
        };
        attributes.push(Attribute { name: BytePath::new(name), value });
    }
    Ok(attributes)
}

/// Bounds how much of a directory is searched for a file's other name.
const MOST_ENTRIES: usize = 1 << 20;

/// Finds another name, in the directory where it was, of a file whose name was deleted: as of one that is made under a name
/// for the moment, then linked to its own, as sem_open(3) makes semaphores.
pub(crate) fn other_name(deleted: &[u8], (device, inode): (u64, u64)) -> Option<Vec<u8>> {
    let path = deleted.strip_suffix(DELETED)?;
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    let directory = &path[..at.max(1)];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open =
        rustix::fs::open(frost_sys::sight::of(frost_sys::proc::as_path(directory)), flags, Mode::empty());
    let open = open.ok()?;
    if rustix::fs::fstat(&open).ok()?.st_dev != device {
        return None;
    }
    let mut entries = rustix::fs::Dir::read_from(&open).ok()?.take(MOST_ENTRIES).map_while(Result::ok);
    let entry = entries.find(|entry| {
        entry.ino() == inode
            && rustix::fs::statat(&open, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
    })?;
    Some([&path[..=at], entry.file_name().to_bytes()].concat())
}

/// Refers to the file behind a link of `/proc`, as `/proc/PID/cwd`, by the path that it shows.
///
/// # Errors
/// Why the file cannot be found by that path again.
pub(crate) fn behind_link(link: &Path) -> Result<FileRef, String> {
    let path = rustix::fs::readlink(link, Vec::new()).map_err(|errno| errno.to_string())?.into_bytes();
    let there = rustix::fs::stat(link).map_err(|errno| errno.to_string())?;
    let shown = String::from_utf8_lossy(&path).into_owned();
    if path.strip_prefix(b"/proc/").and_then(|rest| rest.first()).is_some_and(u8::is_ascii_digit) {
        return Err(format!("{shown} is the directory of a process, and is not there before that is thawed"));
    }
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
