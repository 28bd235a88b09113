//! Fanotify groups: made at once, watching only when all else is done.
//!
//! Nothing can be put into the queue of one, but it can be made to overflow, and read empty until only that is left: so
//! the program is told that it has to look for itself. That comes before the marks, as reading would take what they tell.

use super::error::{About, Error};
use super::file::{self, Problem};
use super::inotify::{Fate, fate};
use frost_model::cap::{Fanotify, FanotifyMark, FanotifyTarget, MountPoint, WatchTarget};
use frost_sys::fanotify::{self, EVENT_FLAGS, MARK_EVICTABLE, MARK_IGNORE};
use frost_sys::mounts::{self, Mount};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::path::{Path, PathBuf};

const UNLIMITED_QUEUE: u32 = libc::FAN_UNLIMITED_QUEUE;
const REPORT_FID: u32 = 0x200;
const REPORT_DIR_FID: u32 = 0x400;

/// What the program has to be told.
fn is_lost(group: &Fanotify, fates: &[Fate]) -> bool {
    let happened =
        |(mark, fate): (&FanotifyMark, &Fate)| mark.mask & !EVENT_FLAGS != 0 && *fate != Fate::Same;
    group.queued || group.marks.iter().zip(fates).any(happened)
}

/// What became of a marked file. Of a mount and a file system nobody tells whether something happened there.
fn fate_of(mark: &FanotifyMark) -> Fate {
    match &mark.target {
        FanotifyTarget::File(WatchTarget::Path { file, entries }) => fate(file, *entries),
        FanotifyTarget::File(WatchTarget::Description(_)) => Fate::Same,
        FanotifyTarget::Mount(_) | FanotifyTarget::FileSystem(_) => Fate::Changed,
    }
}

/// Looks whether all can be watched, and says what the program will be told. With `own_mounts` those of the program may
/// be others than ours.
pub(super) fn look(group: &Fanotify, own_mounts: bool) -> Result<Option<String>, Problem> {
    let refused = |reason: String, remedy: &str, errno| Problem {
        reason,
        remedy: remedy.to_owned(),
        errno,
        content: false,
    };
    let probe = init(group).map_err(|errno| {
        let remedy = match errno {
            Errno::PERM => "thaw it as root",
            Errno::MFILE => "raise fs.fanotify.max_user_groups",
            _ => "thaw it on a kernel that is as new as that on which it was frozen",
        };
        refused(format!("a group of these flags cannot be made: {errno}"), remedy, Some(errno))
    })?;
    let mounts = mounts::of("self");
    for mark in &group.marks {
        match &mark.target {
            FanotifyTarget::File(WatchTarget::Path { file, .. }) if fate_of(mark) != Fate::Gone => {
                let path = frost_sys::sight::of(file.path.as_path());
                add(&probe, mark, &path, false).map_err(|errno| {
                    let remedy = match errno {
                        Errno::NOSPC => "raise fs.fanotify.max_user_marks",
                        _ => "let it be readable for whoever thaws",
                    };
                    refused(format!("{} cannot be marked: {errno}", file.path), remedy, Some(errno))
                })?;
            }
            FanotifyTarget::File(_) => {}
            FanotifyTarget::Mount(place) | FanotifyTarget::FileSystem(place)
                if !own_mounts && !is_there(&mounts, place) =>
            {
                return Err(refused(
                    format!("{} of {} is not mounted at {}", place.file_system, place.source, place.path),
                    "mount it there again",
                    None,
                ));
            }
            FanotifyTarget::Mount(_) | FanotifyTarget::FileSystem(_) => {}
        }
    }
    let told = match group.flags & UNLIMITED_QUEUE {
        0 => "the program is told that events were lost (FAN_Q_OVERFLOW)",
        _ => "what happened meanwhile to what it watches it is not told",
    };
    let fates: Vec<Fate> = group.marks.iter().map(fate_of).collect();
    Ok(is_lost(group, &fates).then(|| told.to_owned()))
}

/// Whether the same is mounted at a place, and not hidden there. Numbers of devices are others after a start.
fn is_there(mounts: &[Mount], place: &MountPoint) -> bool {
    mounts.iter().rfind(|mount| mount.path == place.path.as_bytes()).is_some_and(|mount| {
        mount.root == place.root.as_bytes()
            && mount.file_system == place.file_system
            && mount.source == place.source.as_bytes()
    })
}

/// Makes a group that watches nothing yet.
pub(super) fn make(group: &Fanotify, flags: u32) -> rustix::io::Result<OwnedFd> {
    let fd = init(group)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    file::set_status(&fd, flags)?;
    Ok(fd)
}

/// Who has CAP_SYS_ADMIN makes a group that tells more of other processes than the program's did.
fn init(group: &Fanotify) -> rustix::io::Result<OwnedFd> {
    if group.privileged {
        return fanotify::init(group.flags, group.event_flags);
    }
    let ours = capabilities(None)?;
    let mut fewer = ours;
    fewer.effective.remove(CapabilitySet::SYS_ADMIN);
    set_capabilities(None, fewer)?;
    let made = fanotify::init(group.flags, group.event_flags);
    set_capabilities(None, ours)?;
    made
}

/// Adds a mark of what lies at `path`.
fn add(group: &OwnedFd, mark: &FanotifyMark, path: &Path, follow: bool) -> rustix::io::Result<()> {
    let (kind, is_directory) = match &mark.target {
        FanotifyTarget::Mount(_) => (libc::FAN_MARK_MOUNT, false),
        FanotifyTarget::FileSystem(_) => (libc::FAN_MARK_FILESYSTEM, false),
        FanotifyTarget::File(_) => {
            let mode = rustix::fs::stat(path).map_or(0, |stat| stat.st_mode);
            (libc::FAN_MARK_INODE, FileType::from_raw_mode(mode) == FileType::Directory)
        }
    };
    let mut base = libc::FAN_MARK_ADD | kind | mark.flags & MARK_EVICTABLE;
    if !follow {
        base |= libc::FAN_MARK_DONT_FOLLOW;
    }
    // The kernel adds FAN_EVENT_ON_CHILD to what is no directory by itself, and takes it from nobody there
    // (do_fanotify_mark, fs/notify/fanotify/fanotify_user.c).
    let own = |mask: u32| if is_directory { mask } else { mask & !libc::FAN_EVENT_ON_CHILD as u32 };
    if own(mark.mask) != 0 {
        fanotify::mark(group, base, own(mark.mask), path)?;
    }
    if mark.ignored != 0 {
        let how = if mark.flags & MARK_IGNORE != 0 { MARK_IGNORE } else { libc::FAN_MARK_IGNORED_MASK };
        let survives = mark.flags & libc::FAN_MARK_IGNORED_SURV_MODIFY;
        fanotify::mark(group, base | how | survives, own(mark.ignored), path)?;
    }
    Ok(())
}

/// A group whose marks are still to be made.
#[derive(Debug)]
pub(super) struct Late {
    fd: OwnedFd,
    group: Fanotify,
    /// Files without a name that are marked, in the order of the marks.
    open: Vec<Option<OwnedFd>>,
    /// What became of what is marked, in that order.
    fates: Vec<Fate>,
}

impl Late {
    pub(super) fn of(fd: OwnedFd, group: &Fanotify, made: &[Option<OwnedFd>]) -> Result<Self, Error> {
        let open = |mark: &FanotifyMark| match mark.target {
            FanotifyTarget::File(WatchTarget::Description(id)) => {
                let fd = made.get(id.index()).and_then(Option::as_ref).ok_or(Errno::BADF);
                let fd = fd.and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0));
                fd.about("mark", "a file without a name").map(Some)
            }
            _ => Ok(None),
        };
        let open = group.marks.iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Self { fd, group: group.clone(), open, fates: Vec::new() })
    }

    /// Leaves in the group what the program has to know. Comes before anything is watched: looking is told too.
    pub(super) fn prepare(&mut self) -> Result<(), Error> {
        self.fates = self.group.marks.iter().map(fate_of).collect();
        if is_lost(&self.group, &self.fates) {
            self.tell_of_loss().about("tell of events that were lost by", "a fanotify group")?;
        }
        Ok(())
    }

    /// Makes the marks.
    pub(super) fn apply(&self) -> Result<(), Error> {
        self.mark_all().about("mark files by", "a fanotify group")
    }

    fn mark_all(&self) -> rustix::io::Result<()> {
        let mounts = mounts::of("self");
        for ((mark, open), fate) in self.group.marks.iter().zip(&self.open).zip(&self.fates) {
            let (path, follow) = match (&mark.target, open) {
                (_, Some(fd)) => (PathBuf::from(file::own_path(fd)), true),
                (FanotifyTarget::File(WatchTarget::Path { file, .. }), _) if *fate != Fate::Gone => {
                    (file.path.as_path().to_owned(), false)
                }
                (FanotifyTarget::File(_), None) => continue,
                (FanotifyTarget::Mount(place) | FanotifyTarget::FileSystem(place), None) => {
                    if !is_there(&mounts, place) {
                        return Err(Errno::NODEV);
                    }
                    (place.path.as_path().to_owned(), false)
                }
            };
            let mut mark = mark.clone();
            // A change of the file ends such a mask.
            let is_file = matches!(mark.target, FanotifyTarget::File(_));
            if is_file && *fate == Fate::Changed && mark.flags & libc::FAN_MARK_IGNORED_SURV_MODIFY == 0 {
                mark.ignored = 0;
            }
            add(&self.fd, &mark, &path, follow)?;
        }
        Ok(())
    }

    /// Makes the kernel say that events were lost: fills the queue until it overflows, and reads all but that away.
    fn tell_of_loss(&self) -> rustix::io::Result<()> {
        if self.group.flags & UNLIMITED_QUEUE != 0 {
            return Ok(());
        }
        let limit = std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events");
        let limit: usize = limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(16384);
        // Events of one file and process are joined with one of the 128 before them that fall into the same part of a
        // table (fanotify_merge, fs/notify/fanotify/fanotify.c), so each is of a file of its own.
        let directories = self.group.flags & REPORT_DIR_FID != 0 && self.group.flags & REPORT_FID == 0;
        match directories {
            true => self.open_directories(limit + 1)?,
            false => self.open_files(limit + 1)?,
        }
        // The event of the overflow is the last.
        fanotify::drain(self.fd.as_fd())
    }

    fn open_files(&self, count: usize) -> rustix::io::Result<()> {
        let event = libc::FAN_OPEN as u32;
        for _ in 0..count {
            let file = rustix::fs::memfd_create("frost-fanotify", MemfdFlags::CLOEXEC)?;
            let path = file::own_path(&file);
            fanotify::mark(&self.fd, libc::FAN_MARK_ADD, event, &path)?;
            // Through a description of its own: what memfd_create(2) returns may tell nothing of its use.
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            fanotify::mark(&self.fd, libc::FAN_MARK_REMOVE, event, &path)?;
        }
        Ok(())
    }

    /// A group that tells of directories only gets nothing of a memfd, which lies in none.
    fn open_directories(&self, count: usize) -> rustix::io::Result<()> {
        let above = Scratch::make()?;
        let event = libc::FAN_OPEN as u32 | EVENT_FLAGS;
        fanotify::mark(&self.fd, libc::FAN_MARK_ADD, event, &above.0)?;
        for number in 0..count {
            let path = above.0.join(format!("{number:010}"));
            rustix::fs::mkdir(&path, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::empty());
            rustix::fs::rmdir(&path)?;
            opened?;
        }
        fanotify::mark(&self.fd, libc::FAN_MARK_REMOVE, event, &above.0)
    }
}

/// A directory of ours, removed when it is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> rustix::io::Result<Self> {
        let name = super::nobodys_name();
        let mut last = Errno::NOENT;
        // In memory first, as nothing of it is to be kept.
        for place in ["/dev/shm", "/tmp", "/var/tmp"] {
            let path = Path::new(place).join(&name);
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Ok(()) => return Ok(Self(path)),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = rustix::fs::rmdir(&self.0);
    }
}
