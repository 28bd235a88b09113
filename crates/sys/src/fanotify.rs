//! Fanotify groups: what they watch, as fdinfo tells it, and the calls that make them.

use crate::fdinfo::FdInfo;
use crate::inotify::{self, Shown, number};
use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// FAN_MARK_IGNORE, include/uapi/linux/fanotify.h.
pub const MARK_IGNORE: u32 = 0x400;
/// FAN_MARK_EVICTABLE.
pub const MARK_EVICTABLE: u32 = 0x200;
/// FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM and FAN_PRE_ACCESS: who causes such an event waits for an answer.
pub const PERMISSIONS: u32 = 0x0017_0000;
/// FAN_EVENT_ON_CHILD and FAN_ONDIR, which are no events.
pub const EVENT_FLAGS: u32 = 0x4800_0000;

/// A group as fdinfo shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The flags of fanotify_init(2).
    pub flags: u32,
    /// Flags of the files that events bring.
    pub event_flags: u32,
    /// Its marks, in no order.
    pub marks: Vec<Mark>,
}

/// A mark of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What it is of.
    pub of: Marked,
    /// FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_EVICTABLE, FAN_MARK_IGNORE.
    pub flags: u32,
    /// Events.
    pub mask: u32,
    /// Events that are not told.
    pub ignored: u32,
}

/// What is marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// A file.
    File(Shown),
    /// A mount, by the number that mountinfo gives it.
    Mount(u64),
    /// A file system, by the device of its superblock.
    FileSystem(u32),
    /// Something else, as a mount namespace (Linux 6.14).
    Other,
}

/// Reads what is told of a group; `None` if a line is not understood.
///
/// Source: fanotify_show_fdinfo, fs/notify/fdinfo.c. The first line is as `fanotify flags:c02 event-flags:8002`; those of
/// marks begin by `fanotify ino:`, as inotify's, by `fanotify mnt_id:` or by `fanotify sdev:`, all in hexadecimal.
pub fn group(info: &FdInfo) -> Option<Group> {
    let mut lines = info.text().lines().filter_map(|line| line.strip_prefix("fanotify "));
    let first = lines.next()?;
    let (flags, event_flags) = (number(first, "flags")? as u32, number(first, "event-flags")? as u32);
    Some(Group { flags, event_flags, marks: lines.map(mark_shown).collect::<Option<_>>()? })
}

fn mark_shown(line: &str) -> Option<Mark> {
    let of = match (number(line, "ino"), number(line, "mnt_id"), number(line, "sdev")) {
        (Some(_), ..) => Marked::File(inotify::file(line)?),
        (None, Some(mount), _) => Marked::Mount(mount),
        (None, None, Some(device)) => Marked::FileSystem(device as u32),
        (None, None, None) => Marked::Other,
    };
    let number = |name| number(line, name).map(|number| number as u32);
    Some(Mark { of, flags: number("mflags")?, mask: number("mask")?, ignored: number("ignored_mask")? })
}

/// Makes a group.
///
/// # Errors
/// EPERM for what only CAP_SYS_ADMIN may ask for.
pub fn init(flags: u32, event_flags: u32) -> Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = check(unsafe { libc::fanotify_init(flags, event_flags) })?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Adds, changes or removes a mark of what lies at an absolute path.
pub fn mark(group: impl AsFd, flags: u32, mask: u32, path: impl AsRef<Path>) -> Result<()> {
    let path = CString::new(path.as_ref().as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let group = group.as_fd().as_raw_fd();
    // SAFETY: the path ends by a zero and is only read.
    check(unsafe { libc::fanotify_mark(group, flags, u64::from(mask), libc::AT_FDCWD, path.as_ptr()) })?;
    Ok(())
}

/// Returns how many events wait in a group.
///
/// FIONREAD counts no more of each than its fanotify_event_metadata (fanotify_ioctl, fs/notify/fanotify/fanotify_user.c).
pub fn waiting(group: impl AsFd) -> Result<u64> {
    Ok(rustix::io::ioctl_fionread(group)? / METADATA)
}

/// Length of struct fanotify_event_metadata.
const METADATA: u64 = 24;

/// Reads all but the last event that waits in a group away, with the descriptors that they bring. All of these are of one
/// length.
pub fn drain(group: BorrowedFd<'_>) -> Result<()> {
    let mut buffer = [0u8; 8192];
    // Where the first event does not fit the call fails, and takes nothing.
    let mut length = METADATA as usize;
    while waiting(group)? > 1 {
        match rustix::io::read(group, &mut buffer[..length]) {
            Ok(got) => {
                close_all(&buffer[..got]);
                break;
            }
            Err(Errno::INVAL) if length + 4 <= buffer.len() => length += 4,
            Err(errno) => return Err(errno),
        }
    }
    loop {
        let count = waiting(group)?.saturating_sub(1) as usize;
        if count == 0 {
            return Ok(());
        }
        let got = rustix::io::read(group, &mut buffer[..length * count.min(8192 / length)])?;
        close_all(&buffer[..got]);
    }
}

/// Closes the descriptors in what was read of a group.
fn close_all(mut rest: &[u8]) {
    let close = |bytes: Option<&[u8]>| {
        let number = bytes.and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_ne_bytes);
        if number >= 0 {
            // SAFETY: the kernel installed this descriptor for us when the event was read, so nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    };
    // struct fanotify_event_metadata: length of all, version, a zero, length of this, mask, descriptor, pid.
    while let Some(length) = rest.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes) {
        let Some((event, behind)) = rest.split_at_checked(length as usize).filter(|_| length >= 24) else {
            return;
        };
        close(event.get(16..20));
        let mut records = event.get(24..).unwrap_or_default();
        // struct fanotify_event_info_header: type, a zero, length; FAN_EVENT_INFO_TYPE_PIDFD is 4.
        while let [kind, _, low, high, ..] = records {
            let length = usize::from(u16::from_ne_bytes([*low, *high]));
            if *kind == 4 {
                close(records.get(4..8));
            }
            records = records.get(length.max(4)..).unwrap_or_default();
        }
        rest = behind;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_each_kind_are_read() {
        let info = FdInfo::new(
            "pos:\t0\nfanotify flags:c02 event-flags:8002\n\
             fanotify mnt_id:1e mflags:0 mask:48000020 ignored_mask:0\n\
             fanotify sdev:1b mflags:40 mask:0 ignored_mask:2\n\
             fanotify mnt_ns:4026531841 mflags:0 mask:1000000 ignored_mask:0\n\
             fanotify ino:992165 sdev:fe00000 mflags:200 mask:8000002 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 \
             f_handle:65219900204210ee\n",
        );
        let group = group(&info).unwrap();
        assert_eq!((group.flags, group.event_flags), (0xc02, 0x8002));
        let of: Vec<_> = group.marks.iter().map(|mark| &mark.of).collect();
        assert_eq!(of[..3], [&Marked::Mount(0x1e), &Marked::FileSystem(0x1b), &Marked::Other]);
        assert!(matches!(of[3], Marked::File(shown) if shown.inode == 0x0099_2165 && shown.handle.is_some()));
        assert_eq!(group.marks[1].flags, 0x40);
        assert_eq!(group.marks[3].mask, 0x0800_0002);
    }
}
