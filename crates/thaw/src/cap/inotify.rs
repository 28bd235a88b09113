//! Inotify instances: made at once, watching only when all else is done.
//!
//! A number is given to each watch in ascending order and never twice (idr_alloc_cyclic, fs/notify/inotify), so numbers
//! that are not used any more are given to a file of ours and taken back. What that tells is read away. At the end only
//! what is true waits in the instance: that files are gone, and that events were lost.

use super::error::{About, Error};
use super::file::{self, Problem};
use frost_model::cap::{FileIdentity, FileRef, Inotify, WatchTarget};
use frost_sys::inotify::entries_digest;
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

/// What became of a watched file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Same,
    Changed,
    Gone,
}

/// Compares a watched file with what it was.
pub(super) fn fate(file: &FileRef, entries: Option<u64>) -> Fate {
    let path = file.path.as_path();
    let Ok(stat) = rustix::fs::lstat(frost_sys::sight::of(path)) else { return Fate::Gone };
    let was = &file.identity;
    if is_virtual(path) {
        return Fate::Same;
    }
    if stat.st_ino != was.inode || FileType::from_raw_mode(stat.st_mode) != FileType::from_raw_mode(was.mode)
    {
        return Fate::Gone;
    }
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let same = stat.st_mode == was.mode
        && match directory {
            true => entries.is_some() && entries_digest(path) == entries,
            false => written(&stat, was),
        };
    if same { Fate::Same } else { Fate::Changed }
}

fn written(stat: &Stat, was: &FileIdentity) -> bool {
    let modified = (stat.st_mtime, stat.st_mtime_nsec as i64);
    stat.st_size as u64 == was.len_bytes && modified == (was.modified.sec, was.modified.nsec)
}

/// Whether numbers and times of a file mean nothing: proc, sysfs, cgroup.
fn is_virtual(path: &std::path::Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(frost_sys::sight::of(path), flags, Mode::empty()).is_ok_and(|fd| file::is_virtual(&fd))
}

/// Looks whether all can be watched, and says what the program will be told.
pub(super) fn look(inotify: &Inotify) -> Result<Option<String>, Problem> {
    let mut gone = Vec::new();
    let mut lost = inotify.queued;
    let probe = init(CreateFlags::CLOEXEC);
    for watch in &inotify.watches {
        let WatchTarget::Path { file, entries } = &watch.target else { continue };
        match fate(file, *entries) {
            Fate::Gone => {
                gone.push(file.path.to_string());
                continue;
            }
            Fate::Changed => lost = true,
            Fate::Same => {}
        }
        let Ok(probe) = &probe else { continue };
        let flags = WatchFlags::DELETE_SELF | WatchFlags::DONT_FOLLOW;
        if let Err(errno) = add_watch(probe, file.path.as_path(), flags) {
            return Err(Problem {
                reason: format!("{} cannot be watched: {errno}", file.path),
                remedy: match errno {
                    Errno::NOSPC => "raise fs.inotify.max_user_watches".to_owned(),
                    _ => "let it be readable for whoever thaws".to_owned(),
                },
                errno: Some(errno),
                content: false,
            });
        }
    }
    let mut told = Vec::new();
    if !gone.is_empty() {
        told.push(format!("the program is told that {} was deleted", gone.join(", ")));
    }
    if lost {
        told.push("the program is told that events were lost (IN_Q_OVERFLOW)".to_owned());
    }
    Ok(Some(told.join("; ")).filter(|told| !told.is_empty()))
}

/// Makes an instance that watches nothing yet.
pub(super) fn make(flags: u32) -> rustix::io::Result<OwnedFd> {
    let fd = init(CreateFlags::CLOEXEC)?;
    file::set_status(&fd, flags)?;
    Ok(fd)
}

/// An instance whose watches are still to be made.
#[derive(Debug)]
pub(super) struct Late {
    instance: OwnedFd,
    watches: Vec<Watch>,
    queued: bool,
}

#[derive(Debug)]
struct Watch {
    wd: i32,
    mask: u32,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Path(FileRef, Option<u64>),
    Open(OwnedFd),
}

impl Late {
    pub(super) fn of(instance: OwnedFd, inotify: &Inotify, made: &[Option<OwnedFd>]) -> Result<Self, Error> {
        let mut watches = Vec::with_capacity(inotify.watches.len());
        for watch in &inotify.watches {
            let target = match &watch.target {
                WatchTarget::Path { file, entries } => Target::Path(file.clone(), *entries),
                WatchTarget::Description(id) => {
                    let fd = made.get(id.index()).and_then(Option::as_ref).ok_or(Errno::BADF);
                    let fd = fd.and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0));
                    Target::Open(fd.about("watch", "a file without a name")?)
                }
            };
            watches.push(Watch { wd: watch.wd, mask: watch.mask, target });
        }
        Ok(Self { instance, watches, queued: inotify.queued })
    }

    /// Makes the watches, and leaves in the instance what the program has to know.
    pub(super) fn apply(&self) -> Result<(), Error> {
        self.watch_all().about("watch files by", "an inotify instance")
    }

    fn watch_all(&self) -> rustix::io::Result<()> {
        let scratch = Scratch::make()?;
        let mut lost = self.queued;
        let mut gone = Vec::new();
        let mut wd = 0;
        for watch in &self.watches {
            while wd < watch.wd - 1 {
                wd = add_watch(&self.instance, scratch.path(), WatchFlags::MODIFY)?;
                remove_watch(&self.instance, wd)?;
                // Before the queue is full, which would be told too.
                if wd % 4096 == 0 {
                    lost |= self.drain(0)?;
                }
            }
            // Flags such as IN_EXCL_UNLINK stay; where the path leads was found out when it was recorded.
            let mask = WatchFlags::from_bits_retain(watch.mask);
            let given = match &watch.target {
                Target::Open(fd) => add_watch(&self.instance, file::own_path(fd), mask)?,
                Target::Path(file, entries) => {
                    let fate = fate(file, *entries);
                    lost |= fate == Fate::Changed;
                    if fate == Fate::Gone {
                        let ghost = Scratch::make()?;
                        let given = add_watch(&self.instance, ghost.path(), mask)?;
                        gone.push(ghost);
                        given
                    } else {
                        let path = file.path.as_path();
                        add_watch(&self.instance, path, mask | WatchFlags::DONT_FOLLOW)?
                    }
                }
            };
            // A file that is watched twice by one instance has one number, so the image is not of a real one.
            if given != watch.wd {
                return Err(Errno::INVAL);
            }
            wd = given;
        }
        lost |= self.drain(0)?;
        if lost {
            self.tell_of_loss(&scratch)?;
        }
        // A file that ceases to be tells so to who watches it: IN_DELETE_SELF if asked for, and IN_IGNORED.
        drop(gone);
        Ok(())
    }

    /// Reads all but the last `kept` bytes away, and returns whether something of a real file was among it.
    fn drain(&self, kept: u64) -> rustix::io::Result<bool> {
        let waiting = rustix::io::ioctl_fionread(&self.instance)?.saturating_sub(kept);
        if waiting == 0 {
            return Ok(false);
        }
        let mut buffer = vec![0u8; waiting as usize];
        let got = rustix::io::read(&self.instance, &mut buffer)?;
        let mut rest = &buffer[..got];
        let mut real = false;
        // struct inotify_event: wd, mask, cookie, length of the name.
        while let Some((event, behind)) = rest.split_at_checked(16) {
            let word = |at: usize| event[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
            real |= word(4) & libc::IN_IGNORED == 0;
            rest = behind.get(word(12) as usize..).unwrap_or_default();
        }
        Ok(real)
    }

    /// Makes the kernel say that events were lost: fills the queue until it overflows, and reads all but that away.
    fn tell_of_loss(&self, scratch: &Scratch) -> rustix::io::Result<()> {
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
        let limit: usize = limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(16384);
        let wd = add_watch(&self.instance, scratch.path(), WatchFlags::MODIFY | WatchFlags::ACCESS)?;
        // Through a description of its own: what memfd_create(2) returns may tell nothing of its use.
        let file = rustix::fs::open(scratch.path(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let mut byte = [0u8; 1];
        // An event like the one before it is joined with it, so two kinds in turn.
        for _ in 0..limit / 2 + 1 {
            rustix::io::pwrite(&file, &byte, 0)?;
            rustix::io::pread(&file, &mut byte, 0)?;
        }
        remove_watch(&self.instance, wd)?;
        // The event of the overflow is the last, and has no name.
        self.drain(16)?;
        Ok(())
    }
}

/// A file of ours, without a name.
#[derive(Debug)]
struct Scratch(OwnedFd);

impl Scratch {
    fn make() -> rustix::io::Result<Self> {
        let fd = rustix::fs::memfd_create("frost-inotify", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, 1)?;
        Ok(Self(fd))
    }

    fn path(&self) -> String {
        file::own_path(&self.0)
    }
}
