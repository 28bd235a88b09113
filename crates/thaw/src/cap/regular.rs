//! Regular files, with and without a name.

use super::error::{About, Error};
use super::file::{self, Same};
use super::pack;
use frost_model::cap::{FileIdentity, FileMarks, FileRef, Unnamed};
use frost_model::clock;
use frost_model::ram::Pages;
use frost_sys::sight;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, Uid, XattrFlags};
use std::path::{Path, PathBuf};

/// Where a file without a name is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Under its old path, and unlinked at once: the kernel then calls it as it did.
    OldPath,
    /// Without a name in this directory, where it never had one.
    Nameless(PathBuf),
    /// Without a name in this directory, since its old path is taken or may not be used.
    In(PathBuf),
}

/// Whether it was made by O_TMPFILE: the kernel calls such a file by its number (d_mark_tmpfile, fs/dcache.c). It may be
/// given a name by linkat(2), which one that had a name may not.
fn was_never_named(unnamed: &Unnamed) -> bool {
    let name = unnamed.path.as_path().file_name();
    name.is_some_and(|name| *name == *format!("#{}", unnamed.identity.inode))
}

/// Finds a place for a file without a name, trying nothing that could be seen.
///
/// Its content may be of any size, so it goes to a file system: that of its directory if possible, else /var/tmp or
/// /tmp. Memory (a memfd) is no substitute. What is `executed` may not lie on one that is mounted with noexec.
pub(super) fn place(unnamed: &Unnamed, executed: bool) -> Option<Place> {
    use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
    let path = unnamed.path.as_path();
    let directory = path.parent()?;
    let suits = |directory: &Path| {
        directory.is_absolute()
            && (!executed
                || statvfs(sight::of(directory))
                    .is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::NOEXEC)))
    };
    let usable = |directory: &&Path| suits(directory) && temporary(directory).is_ok();
    if was_never_named(unnamed) && usable(&directory) {
        return Some(Place::Nameless(directory.to_owned()));
    }
    let writable =
        suits(directory) && access(sight::of(directory), Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if writable && matches!(rustix::fs::lstat(sight::of(path)), Err(rustix::io::Errno::NOENT)) {
        return Some(Place::OldPath);
    }
    let candidates = [directory, Path::new("/var/tmp"), Path::new("/tmp")];
    candidates.into_iter().find(usable).map(|directory| Place::In(directory.to_owned()))
}

fn temporary(directory: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(sight::of(directory), flags, Mode::RUSR | Mode::WUSR)
}

/// Makes a file without a name, with its content. Its owner, mode and all else are set by [`finish`], once all that
/// opens or maps it is done.
pub(super) fn make(unnamed: &Unnamed, executed: bool, pack: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let name = format!("deleted file {}", unnamed.path);
    let no_room = rustix::io::Errno::ACCESS;
    let mut place = place(unnamed, executed).ok_or(no_room).about("find a place for", &name)?;
    if place == Place::OldPath {
        let path = unnamed.path.as_path();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                // Before anything is in it: if we die here, an empty file remains at most.
                rustix::fs::unlink(path).about("unlink", &name)?;
                fill(&fd, unnamed, pack).about("write", &name)?;
                return Ok(fd);
            }
            // Taken since, or a file system where nothing can be made: without a name, then.
            Err(_) => place = Place::In(path.parent().map_or_else(|| "/tmp".into(), Path::to_owned)),
        }
    }
    let (Place::In(directory) | Place::Nameless(directory)) = place else {
        return Err(no_room).about("find a place for", &name);
    };
    let fd = temporary(&directory).about("make", &name)?;
    fill(&fd, unnamed, pack).about("write", &name)?;
    Ok(fd)
}

fn fill(fd: &OwnedFd, unnamed: &Unnamed, from: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::fs::ftruncate(fd, unnamed.identity.len_bytes)?;
    pack::copy(from, &unnamed.pages, fd, unnamed.identity.len_bytes)
}

/// Gives a file that was made its owner, mode, attributes and times back, as far as we may.
pub(super) fn finish(
    fd: &OwnedFd,
    identity: &FileIdentity,
    marks: Option<&FileMarks>,
) -> rustix::io::Result<()> {
    // By its path, which does for one that was opened with O_PATH.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let stat = rustix::fs::fstat(fd)?;
    if (stat.st_uid, stat.st_gid) != (identity.uid, identity.gid) {
        // An ordinary user cannot give files away; nobody but the program sees this one anyway.
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        let _ = rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::empty());
    }
    for attribute in marks.iter().flat_map(|marks| &marks.attributes) {
        // Not every file system has all kinds, and not everybody may set them.
        let _ = rustix::fs::setxattr(&path, attribute.name.as_path(), &attribute.value, XattrFlags::empty());
    }
    rustix::fs::chmod(&path, Mode::from_raw_mode(identity.mode & 0o7777))?;
    let time = |time: clock::Timespec| Timespec { tv_sec: time.sec, tv_nsec: time.nsec as _ };
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let last_access = marks.map_or(now, |marks| time(marks.accessed));
    let times = Timestamps { last_access, last_modification: time(identity.modified) };
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())
}

/// What is made anew without a name, with what it gets when nobody is about to open, map or write it any more.
#[derive(Debug, Default)]
pub(super) struct Unfinished(Vec<(OwnedFd, FileIdentity, Option<FileMarks>)>);

impl Unfinished {
    /// Takes note of one.
    ///
    /// Held by a descriptor that nobody counts as one who has it open, since the program may get a lease of it.
    pub(super) fn add(
        &mut self,
        fd: &OwnedFd,
        identity: &FileIdentity,
        marks: Option<&FileMarks>,
    ) -> rustix::io::Result<()> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let held = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        self.0.push((held, identity.clone(), marks.cloned()));
        Ok(())
    }

    /// Finishes all.
    pub(super) fn finish(&self) -> rustix::io::Result<()> {
        self.0.iter().try_for_each(|(fd, identity, marks)| finish(fd, identity, marks.as_ref()))
    }
}

/// Files with captured content that wait beside those they will replace. Dropped before that, they are removed.
#[derive(Debug, Default)]
pub(super) struct Replaced(Vec<(PathBuf, PathBuf)>);

impl Replaced {
    /// Makes a file beside the one that changed, with the content that was captured.
    ///
    /// By a name, since one that was made without would be called deleted for good. If we are killed before it takes its
    /// place, it remains.
    pub(super) fn make(
        &mut self,
        file: &FileRef,
        pages: &Pages,
        from: BorrowedFd<'_>,
    ) -> Result<OwnedFd, Error> {
        let path = file.path.as_path();
        let name = format!(".{}", super::nobodys_name());
        let beside = path.with_file_name(name);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR).about("make", beside.display())?;
        self.0.push((beside, path.to_owned()));
        rustix::fs::ftruncate(&fd, file.identity.len_bytes).about("write", &file.path)?;
        pack::copy(from, pages, &fd, file.identity.len_bytes).about("write", &file.path)?;
        Ok(fd)
    }

    /// Puts each in its place.
    pub(super) fn take_place(&mut self) -> Result<(), Error> {
        while let Some((beside, path)) = self.0.pop() {
            rustix::fs::rename(&beside, &path).about("replace", path.display())?;
        }
        Ok(())
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        for (beside, _) in &self.0 {
            let _ = rustix::fs::unlink(beside);
        }
    }
}

/// Sets the offset of a description that can have one.
pub(super) fn seek(fd: &OwnedFd, flags: u32, position: u64) -> rustix::io::Result<()> {
    if flags & OFlags::PATH.bits() != 0 || position == 0 {
        return Ok(());
    }
    rustix::fs::seek(fd, SeekFrom::Start(position)).map(drop)
}

/// What must be as it was of a named file opened with `flags`.
pub(super) fn same(flags: u32) -> Same {
    if flags & OFlags::PATH.bits() != 0 { Same::Node } else { Same::Content }
}

/// Opens a description of a file without a name.
pub(super) fn description(made: &OwnedFd, flags: u32, position: u64) -> rustix::io::Result<OwnedFd> {
    let fd = file::reopen(made, flags)?;
    seek(&fd, flags, position)?;
    Ok(fd)
}
