//! Inotify instances: what they watch, and where that lies.

use super::recognise::Refusal;
use super::{Error, Held, Members};
use crate::file::identity;
use frost_model::BytePath;
use frost_model::cap::{FileRef, INOTIFY_MOST, Inotify, InotifyWatch, WatchTarget};
use frost_model::id::DescriptionId;
use frost_sys::fdinfo::FdInfo;
use frost_sys::inotify::{self, Shown};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Finds watched files by path. The kernel tells inode, file system and handle only.
///
/// With the right to open handles (root), a handle leads to the file and the file to its path. Otherwise the path is
/// guessed, from where the program is and what it has open, and then searched for. Whether a path is the right one is
/// found by watching it too, in an instance of ours, and comparing what the kernel tells of both: exact on every file
/// system, also where stat(2) gives other numbers than the kernel uses (overlayfs, btrfs).
pub(super) struct Finder {
    ours: Option<OwnedFd>,
    guesses: BTreeSet<PathBuf>,
    mounts: Vec<(u32, PathBuf)>,
}

/// The most directory entries that are looked at in a search; a million take about a second.
const MOST_ENTRIES: usize = 1_000_000;

impl Finder {
    pub(super) fn new(members: &Members, held: &[Held]) -> Self {
        let mut guesses = BTreeSet::new();
        let mut add = |link: &[u8]| {
            let path = Path::new(std::ffi::OsStr::from_bytes(link));
            if path.is_absolute() {
                guesses.extend(path.ancestors().map(Path::to_owned));
            }
        };
        for pid in members.outer().map(crate::target::shown_by) {
            for name in ["cwd", "root", "exe"] {
                if let Ok(link) = frost_sys::proc::link(pid, name) {
                    add(&link);
                }
            }
        }
        held.iter().filter_map(|held| held.link.as_deref()).for_each(add);
        Self { ours: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok(), guesses, mounts: mounts() }
    }

    /// Reads the watches of an instance and finds the files.
    pub(super) fn look(&mut self, instance: &Held, held: &[Held]) -> Result<Result<Inotify, Refusal>, Error> {
        // First, before our own looking adds to it: opening a directory is an event too.
        let queued = rustix::io::ioctl_fionread(&instance.fd).map_err(|e| instance.error(e))? != 0;
        let shown = inotify::watches(&instance.info()?)
            .ok_or_else(|| Error::Refused { object: instance.describe() })?;
        if shown.last().is_some_and(|last| last.wd > INOTIFY_MOST) {
            return Ok(Err(Refusal::new(
                "inotify instance",
                "its watches have numbers beyond 4 million, each of which would be given once to reach them",
                "restart the program, then freeze it",
            )));
        }
        let targets = self.targets(&shown, held);
        let mut watches = Vec::with_capacity(shown.len());
        for (shown, target) in shown.iter().zip(targets) {
            let Some(target) = target else {
                let device = (shown.device >> 20, shown.device & 0xf_ffff);
                return Ok(Err(Refusal::new(
                    format!("inotify instance with watch {}", shown.wd),
                    format!(
                        "the path of the watched file was not found (inode {} of device {}:{}; the kernel tells root \
                         only)",
                        shown.inode, device.0, device.1
                    ),
                    "freeze it as root, or let the program remove the watch",
                )));
            };
            watches.push(InotifyWatch { wd: shown.wd, mask: shown.mask, target });
        }
        Ok(Ok(Inotify { watches, queued }))
    }

    /// Finds watched files, each if it can.
    pub(super) fn targets(&mut self, shown: &[Shown], held: &[Held]) -> Vec<Option<WatchTarget>> {
        let mut targets: Vec<Option<WatchTarget>> =
            shown.iter().map(|shown| self.find(shown, held)).collect();
        let lacking: Vec<usize> = (0..targets.len()).filter(|index| targets[*index].is_none()).collect();
        if !lacking.is_empty() {
            self.search(shown, &lacking, &mut targets);
        }
        targets
    }

    /// Finds a file among those the program has open, by its handle, or among the guesses.
    fn find(&mut self, wanted: &Shown, held: &[Held]) -> Option<WatchTarget> {
        for (index, candidate) in held.iter().enumerate() {
            let path = super::held::own_path(candidate.fd.as_fd());
            if candidate.stat.st_ino == wanted.inode
                && candidate.stat.st_nlink == 0
                && self.probe(Path::new(&path), true).is_some_and(|shown| shown.same_file(wanted))
            {
                return Some(WatchTarget::Description(DescriptionId::new(index as u32)));
            }
        }
        if let Some(path) = self.by_handle(wanted) {
            return target(&path);
        }
        let mounts = self.mounts.iter().filter(|(device, _)| *device == wanted.device).map(|(_, path)| path);
        let found = self.guesses.iter().chain(mounts).find(|path| self.is(path, wanted)).cloned()?;
        target(&found)
    }

    /// What the kernel tells of a file when it is watched.
    fn probe(&self, path: &Path, follow: bool) -> Option<Shown> {
        let ours = self.ours.as_ref()?;
        let mut flags = WatchFlags::DELETE_SELF;
        flags.set(WatchFlags::DONT_FOLLOW, !follow);
        let wd = add_watch(ours, path, flags).ok()?;
        let shown = FdInfo::of_ours(ours).ok().and_then(|info| inotify::watches(&info));
        let _ = remove_watch(ours, wd);
        shown?.into_iter().find(|shown| shown.wd == wd)
    }

    fn is(&self, path: &Path, wanted: &Shown) -> bool {
        self.probe(path, false).is_some_and(|shown| shown.same_file(wanted))
    }

    fn by_handle(&self, wanted: &Shown) -> Option<PathBuf> {
        let (kind, handle) = wanted.handle.as_ref()?;
        for (_, mount) in self.mounts.iter().filter(|(device, _)| *device == wanted.device) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(mount) = rustix::fs::open(mount, flags, Mode::empty()) else { continue };
            let file = match inotify::open_by_handle(&mount, *kind, handle) {
                Ok(file) => file,
                Err(rustix::io::Errno::PERM) => return None,
                Err(_) => continue,
            };
            // A file that nobody looked up by name since it was read from disk has no path that the kernel knows.
            let link = rustix::fs::readlink(super::held::own_path(file.as_fd()), Vec::new()).ok()?;
            let path = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
            if path.is_absolute() && self.is(&path, wanted) {
                return Some(path);
            }
        }
        None
    }

    /// Walks through directories, the nearest first, until all are found or enough was looked at.
    fn search(&mut self, shown: &[Shown], lacking: &[usize], targets: &mut [Option<WatchTarget>]) {
        let mut lacking = lacking.to_vec();
        // The deepest guess lies nearest to what the program does.
        let mut todo: VecDeque<PathBuf> = self.guesses.iter().cloned().collect();
        todo.make_contiguous().sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        let wanted = |device: u32| lacking.iter().any(|index| shown[*index].device == device);
        todo.extend(self.mounts.iter().filter(|(device, _)| wanted(*device)).map(|(_, path)| path.clone()));
        let mut seen = HashSet::new();
        let mut entries = 0;
        while let Some(directory) = todo.pop_front() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::open(&directory, flags, Mode::empty()) else { continue };
            let Ok(stat) = rustix::fs::fstat(&fd) else { continue };
            if !seen.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            for entry in Dir::read_from(&fd).into_iter().flatten().flatten() {
                entries += 1;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let path = || directory.join(std::ffi::OsStr::from_bytes(name));
                if let Some(at) = lacking.iter().position(|index| {
                    let wanted = &shown[*index];
                    wanted.inode == entry.ino() && self.is(&path(), wanted)
                }) {
                    targets[lacking.swap_remove(at)] = target(&path());
                }
                if entry.file_type() == FileType::Directory {
                    todo.push_back(path());
                }
            }
            if lacking.is_empty() || entries > MOST_ENTRIES {
                return;
            }
        }
    }
}

/// Makes the record of a watched file.
fn target(path: &Path) -> Option<WatchTarget> {
    let stat = rustix::fs::lstat(path).ok()?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Some(WatchTarget::Path {
        file: FileRef { path: BytePath::from(path), identity: identity(&stat) },
        entries: if is_directory { inotify::entries_digest(path) } else { None },
    })
}

/// Lists mount points with the device of their file system, as fdinfo shows it.
fn mounts() -> Vec<(u32, PathBuf)> {
    let own = frost_sys::mounts::of("self").into_iter();
    own.map(|mount| (mount.device, PathBuf::from(std::ffi::OsString::from_vec(mount.path)))).collect()
}
