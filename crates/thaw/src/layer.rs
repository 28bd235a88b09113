//! A layer made again: what the program had written, as overlayfs keeps it.

use crate::cap::copy;
use frost_model::layer::{Layer, Node, Written};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Why a layer cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {}: {source}", path.display())]
pub struct Failed {
    /// What was made.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: Errno,
}

/// Nothing of what lies below shows through a directory that has this.
const OPAQUE: &str = "user.overlay.opaque";

/// Makes what was written, in `upper`, an empty directory.
///
/// # Errors
/// What cannot be made: for want of room, of rights, or since the file system there has no extended attributes.
pub fn make(layer: &Layer, pack: BorrowedFd<'_>, upper: &Path) -> Result<(), Failed> {
    let all: Vec<&Written> = layer.written.iter().collect();
    make_tree(&all, pack, upper, false)
}

/// Makes a tree of files in `upper`, an empty directory: that itself first, and each behind the directory that it is in.
/// Links name the files of that list. With `ours`, files stay ours that we may not give away.
///
/// # Errors
/// As [`make`].
pub fn make_tree(all: &[&Written], pack: BorrowedFd<'_>, upper: &Path, ours: bool) -> Result<(), Failed> {
    let place = |written: &Written| match written.path.as_bytes() {
        [] => upper.to_owned(),
        _ => upper.join(written.path.as_path()),
    };
    for written in all {
        let path = place(written);
        let first = match &written.node {
            Node::Link(first) => all.get(*first as usize).map(|first| place(first)),
            _ => None,
        };
        node(written, &path, first.as_deref(), pack).map_err(|source| Failed { path, source })?;
    }
    // Those of directories last, since what is made in them changes them, and they may forbid it.
    for written in all.iter().rev().filter(|written| !matches!(written.node, Node::Link(_))) {
        let path = place(written);
        finish(written, &path, ours).map_err(|source| Failed { path, source })?;
    }
    Ok(())
}

fn node(
    written: &Written,
    path: &Path,
    first: Option<&Path>,
    pack: BorrowedFd<'_>,
) -> rustix::io::Result<()> {
    let kind = rustix::fs::FileType::from_raw_mode(written.mode);
    match &written.node {
        Node::Directory { opaque } => {
            if !written.path.as_bytes().is_empty() {
                rustix::fs::mkdir(path, Mode::RWXU)?;
            }
            if *opaque {
                rustix::fs::lsetxattr(path, OPAQUE, b"y", XattrFlags::empty())?;
            }
        }
        Node::File { len_bytes, pages } => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::ftruncate(&file, *len_bytes)?;
            copy(pack.as_fd(), pages, &file, *len_bytes)?;
        }
        Node::Link(_) => {
            rustix::fs::linkat(CWD, first.ok_or(Errno::INVAL)?, CWD, path, AtFlags::empty())?;
        }
        Node::Symlink(to) => rustix::fs::symlink(to.as_path(), path)?,
        Node::Special { rdev } => rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, *rdev)?,
        // Anybody may make a whiteout. Linux 5.8.
        Node::Removed => {
            rustix::fs::mknodat(CWD, path, rustix::fs::FileType::CharacterDevice, Mode::empty(), 0)?;
        }
    }
    Ok(())
}

/// Gives something its owner, attributes, rights and time.
fn finish(written: &Written, path: &Path, ours: bool) -> rustix::io::Result<()> {
    if matches!(written.node, Node::Removed) {
        return Ok(());
    }
    let stat = rustix::fs::lstat(path)?;
    if (stat.st_uid, stat.st_gid) != (written.uid, written.gid) {
        let (uid, gid) = (Uid::from_raw(written.uid), Gid::from_raw(written.gid));
        match rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::PERM | Errno::INVAL) if ours => {}
            other => other?,
        }
    }
    for attribute in &written.attributes {
        let (name, value) = (attribute.name.as_path(), attribute.value.as_slice());
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())?;
    }
    if !matches!(written.node, Node::Symlink(_)) {
        let mode = Mode::from_raw_mode(written.mode & 0o7777);
        rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?;
    }
    let modified = Timespec { tv_sec: written.modified.sec, tv_nsec: written.modified.nsec as _ };
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: now, last_modification: modified };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}
