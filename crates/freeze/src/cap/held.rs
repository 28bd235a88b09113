//! An open file description of the tree, held by a duplicate of ours.
//!
//! A duplicate shares everything with the program's descriptor: offset, status flags, position in a queue. So
//! nothing here may seek, read, or set a flag through it; where content must be read, the file is opened anew.

use super::Error;
use frost_model::cap::{Lock, Node, Owner};
use frost_model::{BytePath, Pid};
use frost_sys::fdinfo::FdInfo;
use frost_sys::sock::{int_option, set_int_option};
use frost_sys::undo::Undo;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// Where a description was found first.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The process, as the freezer sees it.
    pub(super) pid: Pid,
    /// Its command name.
    pub(super) command: String,
    /// The number of the descriptor, or `None` for one in flight.
    pub(super) number: Option<i32>,
}

/// An open file description of the tree.
#[derive(Debug)]
pub(super) struct Held {
    /// Our duplicate.
    pub(super) fd: Arc<OwnedFd>,
    /// What fstat(2) says.
    pub(super) stat: Stat,
    /// F_GETFL.
    pub(super) flags: OFlags,
    /// What the kernel calls it: a path, or a name as `pipe:[77]`; none if it is longer than a page.
    pub(super) link: Option<Vec<u8>>,
    /// Where it was found.
    pub(super) place: Place,
    /// Locks held through it.
    pub(super) locks: Vec<Lock>,
}

impl Held {
    pub(super) fn new(fd: OwnedFd, place: Place) -> Result<Self> {
        let (stat, flags) = (rustix::fs::fstat(&fd)?, rustix::fs::fcntl_getfl(&fd)?);
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        // What readlink(2) would tell of a socket (sockfs_dname, net/socket.c); but one opened with O_PATH is a file.
        let link = match is_socket && !flags.contains(OFlags::PATH) {
            true => Some(format!("socket:[{}]", stat.st_ino).into_bytes()),
            false => match rustix::fs::readlink(own_path(fd.as_fd()), Vec::new()) {
                Ok(link) => Some(link.into_bytes()),
                Err(Errno::NAMETOOLONG) => None,
                Err(error) => return Err(error),
            },
        };
        Ok(Self { fd: Arc::new(fd), stat, flags, link, place, locks: Vec::new() })
    }

    /// The name the kernel gives it, for messages.
    pub(super) fn name(&self) -> String {
        match &self.link {
            Some(link) => String::from_utf8_lossy(link).into_owned(),
            None => "a path longer than 4095 bytes".to_owned(),
        }
    }

    /// Returns the descriptor for messages: `fd 3 of process 12 (/tmp/x)`.
    pub(super) fn describe(&self) -> String {
        let pid = self.place.pid;
        match self.place.number {
            Some(number) => format!("fd {number} of process {pid} ({})", self.name()),
            None => format!("a descriptor in flight in process {pid} ({})", self.name()),
        }
    }

    pub(super) fn error(&self, source: Errno) -> Error {
        Error::Object { object: self.describe(), source }
    }

    pub(super) fn info(&self) -> std::result::Result<FdInfo, Error> {
        FdInfo::of_ours(&self.fd).map_err(|e| self.error(e))
    }

    /// Returns whether it is a socket; one opened with O_PATH is a file.
    pub(super) fn is_socket(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Socket && !self.flags.contains(OFlags::PATH)
    }

    /// Owner and permissions.
    pub(super) fn node(&self) -> Node {
        Node { uid: self.stat.st_uid, gid: self.stat.st_gid, mode: self.stat.st_mode & 0o7777 }
    }

    /// The key of what lies behind it: device and inode.
    pub(super) fn key(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    pub(super) fn is_readable(&self) -> bool {
        !self.flags.contains(OFlags::PATH) && self.flags & OFlags::RWMODE != OFlags::WRONLY
    }

    pub(super) fn is_writable(&self) -> bool {
        !self.flags.contains(OFlags::PATH) && self.flags & OFlags::RWMODE != OFlags::RDONLY
    }

    /// Opens the same file with a description of its own, to read without moving the program's offset; not one with a
    /// lease that this would break.
    pub(super) fn open_anew(&self) -> Result<OwnedFd> {
        if frost_sys::lease::is_exclusive(&self.fd) {
            return Err(Errno::AGAIN);
        }
        let path = own_path(self.fd.as_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        // Reading leaves the access time alone where we may ask for that.
        rustix::fs::open(&path, flags | OFlags::NOATIME, rustix::fs::Mode::empty())
            .or_else(|_| rustix::fs::open(&path, flags, rustix::fs::Mode::empty()))
    }

    /// Does `work`, which looks along the queue of a socket by SO_PEEK_OFF while it tells more by the options `telling` (level
    /// and number), and puts all that back to what it was `before`, even if we are killed amid it.
    pub(super) fn peeking<T>(
        &self,
        before: i32,
        telling: &[(i32, i32)],
        work: impl FnOnce() -> std::result::Result<T, Error>,
    ) -> std::result::Result<T, Error> {
        let is_off = |(level, name): &(i32, i32)| int_option(&self.fd, *level, *name) == Ok(0);
        let off: Vec<(i32, i32)> = telling.iter().copied().filter(is_off).collect();
        let turn = |value: i32| {
            off.iter().try_for_each(|(level, name)| set_int_option(&self.fd, *level, *name, value))
        };
        let put_back = || set_int_option(&self.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, before).and(turn(0));
        let undo = Undo::armed(|| _ = put_back()).map_err(|source| self.error(source))?;
        // A fault, and with it the end of us, comes where it is the worst.
        let moved = set_int_option(&self.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)
            .and_then(|()| turn(1))
            .and_then(|()| frost_sys::fault::point("freeze.peek"));
        let done = moved.map_err(|source| self.error(source)).and_then(|()| work());
        put_back().map_err(|source| self.error(source))?;
        undo.disarm();
        done
    }

    /// Returns whom it signals, in our pid namespace.
    pub(super) fn owner(&self) -> Option<Owner> {
        let owner = frost_sys::fcntl::owner(&self.fd).ok()?;
        let signal = frost_sys::fcntl::signal(&self.fd).unwrap_or(0);
        // A signal may be chosen before it is said who gets it.
        (owner.id != 0 || signal != 0).then_some(Owner { kind: owner.kind, id: owner.id, signal })
    }
}

/// The path that leads to the file behind a descriptor of ours.
pub(super) fn own_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Takes the suffix away that the kernel adds to the path of a file without a name.
pub(super) fn without_deleted(link: &[u8]) -> BytePath {
    BytePath::new(link.strip_suffix(b" (deleted)").unwrap_or(link))
}
