//! Where the nodes of unix sockets are that were moved or linked since they were bound.
//!
//! Servers bind a socket under a name for the moment and give it its own by rename(2) or link(2), so that nobody meets it before it
//! listens. The kernel tells the name that was given to bind(2), and the inode: its paths are looked for where such a node is as a
//! rule, in the directory of that name, or next to it if that was moved, and where the program is.

use super::Members;
use super::unix::open_directories;
use frost_model::BytePath;
use frost_model::cap::UnixName;
use frost_sys::sight;
use frost_sys::unix_diag::UnixSocket;
use rustix::fs::{Dir, FileType, Mode, OFlags};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The most directory entries that are looked at: 100,000 take a tenth of a second.
const MOST_ENTRIES: usize = 20_000;

/// Nodes of sockets in directories that were read, each of them once.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// With the directories in them.
    read: HashMap<PathBuf, Vec<PathBuf>>,
    /// By the lower half of the inode, as the kernel tells it of a socket.
    found: HashMap<u32, Vec<PathBuf>>,
    entries: usize,
}

impl Nodes {
    /// Returns where the node of a socket lies beside its `name`, which gets owner and mode of that if it is not there.
    pub(super) fn places(
        &mut self,
        socket: &UnixSocket,
        name: &mut UnixName,
        members: &Members,
    ) -> Vec<BytePath> {
        let (Some((_, inode)), UnixName::Path { path, directory, present, mode, uid, gid }) =
            (socket.node, name)
        else {
            return Vec::new();
        };
        let own = match directory {
            Some(directory) => directory.as_path().join(path.as_path()),
            None => path.as_path().to_owned(),
        };
        if *present && rustix::fs::lstat(sight::of(&own)).is_ok_and(|stat| stat.st_nlink == 1) {
            return Vec::new();
        }
        let beside = own.parent().filter(|parent| parent.is_absolute());
        let is_there = |directory: &&Path| rustix::fs::stat(sight::of(*directory)).is_ok();
        match beside.and_then(|beside| beside.ancestors().find(is_there)) {
            Some(found) if Some(found) == beside => _ = self.read(found),
            // It was moved: what it is called now lies there, too, as a rule.
            Some(above) => self.read(above).into_iter().for_each(|below| _ = self.read(&below)),
            None => {}
        }
        for pid in members.outer().map(crate::target::shown_by) {
            if let Ok(cwd) = frost_sys::proc::link(pid, "cwd") {
                self.read(frost_sys::proc::as_path(&cwd));
            }
            open_directories(pid).iter().for_each(|directory| _ = self.read(directory));
        }
        let mut places = Vec::new();
        for place in self.found.get(&inode).into_iter().flatten().filter(|place| **place != own) {
            let Ok(stat) = rustix::fs::lstat(sight::of(place)) else { continue };
            if stat.st_ino as u32 == inode && FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
                (*mode, *uid, *gid) = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
                places.push(BytePath::from(place.as_path()));
            }
        }
        places
    }

    /// Takes note of the nodes in a directory, and returns the directories in it.
    fn read(&mut self, directory: &Path) -> Vec<PathBuf> {
        if let Some(below) = self.read.get(directory) {
            return below.clone();
        }
        let mut below = Vec::new();
        if self.entries > MOST_ENTRIES {
            return below;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(opened) = rustix::fs::open(sight::of(directory), flags, Mode::empty()) else { return below };
        for entry in Dir::read_from(&opened).into_iter().flatten().flatten() {
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                break;
            }
            let name = entry.file_name().to_bytes();
            let path = directory.join(std::ffi::OsStr::from_bytes(name));
            match entry.file_type() {
                FileType::Directory if !matches!(name, b"." | b"..") => below.push(path),
                // Some file systems do not tell the type.
                FileType::Socket | FileType::Unknown => {
                    self.found.entry(entry.ino() as u32).or_default().push(path)
                }
                _ => {}
            }
        }
        self.read.insert(directory.to_owned(), below.clone());
        below
    }
}
