//! Directories: opened by their path again, or, if they had been removed, made and removed once more.

use super::error::{About, Error};
use super::file::{self, Problem, Same};
use frost_model::cap::{Directory, FileRef};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Access, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Opens the directory, if it still is that one; what is in it may have changed, as for any program.
pub(super) fn open(directory: &Directory, flags: u32) -> Result<OwnedFd, Problem> {
    file::open(&directory.file, flags, Same::Node)
}

/// Where a removed directory is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Under its old path, by which the kernel then calls it.
    OldPath,
    /// Under a name of ours in this directory, since its old path is taken or may not be used.
    In(PathBuf),
}

/// Finds a place for a removed directory, trying nothing that could be seen.
pub(crate) fn place(file: &FileRef) -> Option<Place> {
    let path = file.path.as_path();
    let there = |path: &Path| !matches!(rustix::fs::lstat(path), Err(Errno::NOENT));
    let writable = |path: &Path| rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if path.is_absolute() && !there(path) {
        // Directories above it may be gone as well.
        let above = path.ancestors().skip(1).find(|above| there(above));
        if above.is_some_and(|above| above.is_dir() && writable(above)) {
            return Some(Place::OldPath);
        }
    }
    let nearest = path.parent().filter(|parent| parent.is_absolute());
    let candidates = nearest.into_iter().chain([Path::new("/var/tmp"), Path::new("/tmp")]);
    candidates
        .into_iter()
        .find(|place| place.is_dir() && writable(place))
        .map(|place| Place::In(place.to_owned()))
}

/// Says that there is no place.
pub(crate) fn no_place() -> Problem {
    Problem {
        reason: "no directory can be made in which it could be removed".to_owned(),
        remedy: "make /var/tmp or /tmp writable".to_owned(),
        errno: None,
        content: false,
    }
}

/// Directories that were made and removed again, by device and inode of what they were.
///
/// Several descriptors and working directories may have been one.
#[derive(Debug, Default)]
pub(crate) struct Removed(BTreeMap<(u64, u64), OwnedFd>);

impl Removed {
    /// Returns a removed directory, made when it is first asked for.
    pub(crate) fn get(&mut self, file: &FileRef) -> Result<&OwnedFd, Error> {
        use std::collections::btree_map::Entry;
        Ok(match self.0.entry((file.identity.device, file.identity.inode)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let made = make(file).about("make", format!("removed directory {}", file.path))?;
                entry.insert(made)
            }
        })
    }
}

/// Opens a removed directory once more; as itself, since O_NOFOLLOW, which stays among the flags, does not go with a link.
pub(super) fn reopen(made: &OwnedFd, flags: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC;
    rustix::fs::openat(made, ".", flags - (OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC), Mode::empty())
}

/// Makes a directory and removes it. If we are killed in between, it stays, empty.
fn make(file: &FileRef) -> rustix::io::Result<OwnedFd> {
    let old = file.path.as_path();
    match place(file).ok_or(Errno::ACCESS)? {
        Place::OldPath => {
            let lacking: Vec<&Path> = old.ancestors().skip(1).take_while(|above| !above.exists()).collect();
            let made = lacking.iter().rev().try_for_each(|above| rustix::fs::mkdir(*above, Mode::RWXU));
            let made = made.and_then(|()| make_at(old, file));
            for above in lacking {
                // As far as they were made.
                let _ = rustix::fs::rmdir(above);
            }
            made
        }
        Place::In(directory) => {
            let mut number = 0;
            loop {
                let name = format!(".frost-removed-{}-{number}", std::process::id());
                match make_at(&directory.join(name), file) {
                    Err(Errno::EXIST) if number < 1000 => number += 1,
                    made => return made,
                }
            }
        }
    }
}

fn make_at(path: &Path, file: &FileRef) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdir(path, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    rustix::fs::rmdir(path)?;
    let fd = opened?;
    let identity = &file.identity;
    let stat = rustix::fs::fstat(&fd)?;
    if (stat.st_uid, stat.st_gid) != (identity.uid, identity.gid) {
        // An ordinary user cannot give it away; nobody but the program sees it anyway.
        let _ = rustix::fs::fchown(&fd, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid)));
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(identity.mode & 0o7777))?;
    Ok(fd)
}

/// Opens a removed directory so that a process can go to it.
pub(crate) fn to_go_to(made: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
