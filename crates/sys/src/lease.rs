//! Files that somebody has a lease on (F_SETLEASE): opening one breaks the lease.
//!
//! Its holder gets a signal, and whoever opens the file waits until it is given up, or for
//! `/proc/sys/fs/lease-break-time`; with O_NONBLOCK the open fails, but the signal is sent all the same (`__break_lease`,
//! fs/locks.c). So it has to be known before.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, Stat, major, minor};
use rustix::io::{Errno, Result};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The files with leases that are shown in our pid namespace, by device and inode.
#[derive(Clone, Debug, Default)]
pub struct Leases(Vec<(u32, u32, u64)>);

impl Leases {
    /// Reads which there are now.
    pub fn read() -> Self {
        let text = crate::proc::file(Path::new("/proc/locks")).unwrap_or_default();
        Self(String::from_utf8_lossy(&text).lines().filter_map(parse).collect())
    }

    /// Those of a moment ago, if they were read then: the kernel waits for all processors to read them (`locks_start`,
    /// fs/locks.c), which takes some 10 ms that a stopped program would stand still for.
    pub fn recent() -> Self {
        static LAST: Mutex<Option<(Instant, Leases)>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((when, leases)) if when.elapsed() < Duration::from_secs(1) => leases.clone(),
            _ => {
                let leases = Self::read();
                *last = Some((Instant::now(), leases.clone()));
                leases
            }
        }
    }

    /// Returns whether somebody has a lease on a file.
    pub fn has(&self, stat: &Stat) -> bool {
        let device = (major(stat.st_dev), minor(stat.st_dev));
        // A file system without a device shows others for its files than its own, as btrfs and overlayfs do.
        let same = |(major, minor): (u32, u32)| (major, minor) == device || major == 0;
        self.0.iter().any(|(major, minor, inode)| *inode == stat.st_ino && same((*major, *minor)))
    }

    /// Opens a file unless that would break a lease. It never waits.
    ///
    /// # Errors
    /// EAGAIN where somebody has a lease on it; else those of open(2).
    pub fn open(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
        let found = rustix::fs::open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        if self.has(&rustix::fs::fstat(&found)?) {
            return Err(Errno::AGAIN);
        }
        let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(itself, flags, Mode::empty())
    }
}

/// Returns whether an open file description has a lease for writing, which any other opening of its file breaks.
///
/// Nobody else can have one: only who alone has a file open gets it (`check_conflicting_open`, fs/locks.c).
pub fn is_exclusive(fd: impl AsFd) -> bool {
    // SAFETY: F_GETLEASE takes nothing.
    unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETLEASE) == libc::F_WRLCK }
}

/// Reads a line of `/proc/locks`, if it tells of a lease: `1: LEASE  ACTIVE    WRITE 1234 fd:01:5678 0 EOF`.
fn parse(line: &str) -> Option<(u32, u32, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next() != Some("LEASE") {
        return None;
    }
    let mut place = fields.nth(3)?.split(':');
    let mut hex = || u32::from_str_radix(place.next()?, 16).ok();
    let (major, minor) = (hex()?, hex()?);
    Some((major, minor, place.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_told_by_device_and_inode() {
        assert_eq!(parse("1: LEASE  ACTIVE    WRITE 1234 fd:1a:56780 0 EOF"), Some((0xfd, 0x1a, 56780)));
        assert_eq!(parse("1: POSIX  ADVISORY  WRITE 1234 fd:1a:56780 0 EOF"), None);
        assert_eq!(parse("1: LEASE"), None);
    }

    #[test]
    fn a_file_with_a_lease_is_not_opened() {
        let path = std::env::temp_dir().join(format!("frost-lease-{}", std::process::id()));
        std::fs::write(&path, "content").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let open = || Leases::read().open(&path, OFlags::RDONLY).map(drop);
        assert!(!is_exclusive(&file));
        assert_eq!(open(), Ok(()));
        // SAFETY: F_SETLEASE takes an integer.
        let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
        assert_eq!(set, 0, "a file system without leases");
        assert_eq!(open(), Err(Errno::AGAIN));
        assert!(is_exclusive(&file));
        std::fs::remove_file(&path).unwrap();
    }
}
