//! Inotify instances and file handles: who is watched, as fdinfo tells it.

use crate::fdinfo::FdInfo;
use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::path::Path;

/// One watch of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The number by which events name it.
    pub wd: i32,
    /// Events and flags.
    pub mask: u32,
    /// The inode as its file system numbers it inside the kernel.
    pub inode: u64,
    /// The device of its superblock, 12 bits of major and 20 bits of minor number.
    pub device: u32,
    /// Type and bytes of its handle, where the file system has handles.
    pub handle: Option<(i32, Vec<u8>)>,
}

impl Shown {
    /// Returns whether both watch the same file.
    pub fn same_file(&self, other: &Self) -> bool {
        (self.inode, self.device, &self.handle) == (other.inode, other.device, &other.handle)
    }
}

/// Lists the watches that an instance has, by ascending number; `None` if a line is not understood.
///
/// Source: inotify_fdinfo, fs/notify/fdinfo.c. The lines are as `inotify wd:3 ino:9e7e sdev:800013 mask:800afce
/// ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d`, all but the type and length of the handle
/// in hexadecimal.
pub fn watches(info: &FdInfo) -> Option<Vec<Shown>> {
    let lines = info.text().lines().filter_map(|line| line.strip_prefix("inotify "));
    let mut all = lines.map(parse).collect::<Option<Vec<_>>>()?;
    all.sort_by_key(|shown| shown.wd);
    Some(all)
}

fn parse(line: &str) -> Option<Shown> {
    // The number of a watch is shown in hexadecimal too.
    let (wd, mask) = (number(line, "wd")? as i32, number(line, "mask")? as u32);
    Some(Shown { wd, mask, ..file(line)? })
}

/// Reads of which file such a line is.
pub(crate) fn file(line: &str) -> Option<Shown> {
    let handle = (|| {
        let kind = number(line, "fhandle-type")? as i32;
        let text = field(line, "f_handle")?;
        let bytes = (0..text.len() / 2).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok());
        Some((kind, bytes.collect::<Option<Vec<_>>>()?))
    })();
    let (inode, device) = (number(line, "ino")?, number(line, "sdev")? as u32);
    Some(Shown { wd: 0, mask: 0, inode, device, handle })
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))
}

/// Reads a field in hexadecimal.
pub(crate) fn number(line: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(field(line, name)?, 16).ok()
}

/// Opens the file behind a handle by O_PATH; `mount` is any file of its file system.
///
/// # Errors
/// EPERM without CAP_DAC_READ_SEARCH, ESTALE if the file is gone.
pub fn open_by_handle(mount: impl AsFd, kind: i32, handle: &[u8]) -> Result<OwnedFd> {
    // MAX_HANDLE_SZ of include/linux/exportfs.h.
    const MOST: usize = 128;
    #[repr(C)]
    struct FileHandle {
        bytes: u32,
        kind: i32,
        data: [u8; MOST],
    }
    if handle.len() > MOST {
        return Err(Errno::INVAL);
    }
    let mut file = FileHandle { bytes: handle.len() as u32, kind, data: [0; MOST] };
    file.data[..handle.len()].copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `file` is a live object in the layout of `struct file_handle`, whose data is as long as it says or longer.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            &raw mut file,
            libc::c_long::from(flags),
        )
    })?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The most entries of a directory that a digest covers.
const MOST_ENTRIES: usize = 100_000;

/// Returns a digest of what lies in a directory: names, and of each inode, mode, length and last change. `None` if it
/// cannot be read, or holds too much.
///
/// It serves to find out whether anything happened there meanwhile; the order of entries does not count. Sockets are
/// left out, since a thaw makes those of the program anew.
pub fn entries_digest(directory: &Path) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    let mut sum = 0u64;
    for (count, entry) in Dir::read_from(&fd).ok()?.enumerate() {
        let entry = entry.ok()?;
        if count > MOST_ENTRIES {
            return None;
        }
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            continue;
        }
        // What a subdirectory holds is told to watches of that directory only.
        let (length, seconds, nanos) = match kind {
            FileType::Directory => (0, 0, 0),
            _ => (stat.st_size as u64, stat.st_mtime as u64, stat.st_mtime_nsec),
        };
        let words = [stat.st_ino, u64::from(stat.st_mode), length, seconds, nanos];
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        sum = sum.wrapping_add(fnv(name.to_bytes().iter().copied().chain([0]).chain(bytes)));
    }
    Some(sum)
}

/// FNV-1a.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

    #[test]
    fn a_watch_is_shown_as_it_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let instance = init(CreateFlags::CLOEXEC).unwrap();
        let flags = WatchFlags::CREATE | WatchFlags::MODIFY;
        let wd = add_watch(&instance, directory.path(), flags).unwrap();
        let other = add_watch(&instance, "/proc", WatchFlags::CREATE).unwrap();
        let shown = watches(&FdInfo::of_ours(&instance).unwrap()).unwrap();
        assert_eq!(shown.iter().map(|shown| shown.wd).collect::<Vec<_>>(), [wd, other]);
        assert_eq!(shown[0].mask, flags.bits());
        assert_eq!(shown[0].inode, rustix::fs::stat(directory.path()).unwrap().st_ino);
        assert!(shown[0].same_file(&shown[0].clone()) && !shown[0].same_file(&shown[1]));
    }

    #[test]
    fn what_happens_in_a_directory_changes_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let empty = entries_digest(directory.path()).unwrap();
        std::fs::write(directory.path().join("a"), b"1").unwrap();
        let one = entries_digest(directory.path()).unwrap();
        std::fs::rename(directory.path().join("a"), directory.path().join("b")).unwrap();
        let renamed = entries_digest(directory.path()).unwrap();
        std::fs::remove_file(directory.path().join("b")).unwrap();
        assert!(empty != one && one != renamed && empty != renamed);
        assert_eq!(entries_digest(directory.path()), Some(empty));
    }
}
