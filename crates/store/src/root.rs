//! The directory of a store, and the few ways in which files in it are touched.
//!
//! ```text
//! <root>/lock                                held for moments, to commit, remove, mark and sweep
//! <root>/images/<name>/<version>/manifest    header, manifest, block table
//! <root>/images/<name>/<version>/pack        raw pages, while hot; maybe one file with other versions
//! <root>/images/<name>/<version>/pack.zst    the same, while cold
//! <root>/images/<name>/<version>/state       which process runs it, if it was thawed
//! <root>/images/<name>/last                  a link whose text is the highest version ever, once one was removed
//! <root>/drafts/<kind>.<pid>.<random>.<name> being made or unmade; locked by whoever does it
//! ```
//!
//! All paths are relative to the descriptor of the root, and no symbolic link is followed below it.

use crate::error::{Error, Result};
use frost_image::{ImageId, Name};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) const IMAGES: &str = "images";
pub(crate) const DRAFTS: &str = "drafts";
pub(crate) const MANIFEST: &str = "manifest";
pub(crate) const PACK: &str = "pack";
pub(crate) const COLD: &str = "pack.zst";
/// Begins the name of a file of a draft that tells which process is being frozen: `target.PID.STARTTIME`.
pub(crate) const TARGET: &str = "target.";
pub(crate) const STATE: &str = "state";
pub(crate) const LAST: &str = "last";

/// How long we wait for the lock. Its holders need milliseconds, unless they are stopped or their disk hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever is told how far a long operation is.
struct Watch(Box<dyn Fn(u64, u64) + Send + Sync>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    path: PathBuf,
    owner: (u32, u32),
    watch: OnceLock<Watch>,
}

/// The lock of the store, released when dropped. Lock order: a draft's lock may be taken under it, never before it.
#[must_use]
pub(crate) struct Lock(#[allow(dead_code, reason = "closing it releases the lock")] OwnedFd);

impl Root {
    pub(crate) fn new(fd: OwnedFd, path: PathBuf, owner: (u32, u32)) -> Self {
        Self { fd, path, owner, watch: OnceLock::new() }
    }

    /// Tells `watch` how far long operations are, from now on.
    pub(crate) fn watch(&self, watch: Box<dyn Fn(u64, u64) + Send + Sync>) {
        self.watch.get_or_init(|| Watch(watch));
    }

    /// Tells whoever watches how many bytes of how many are done.
    pub(crate) fn report(&self, done: u64, all: u64) {
        if let Some(Watch(watch)) = self.watch.get() {
            watch(done, all);
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner.0
    }

    /// The path of something in the store, for messages.
    pub(crate) fn show(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    /// How many bytes can still be written; 0 if that cannot be known.
    pub(crate) fn free_bytes(&self) -> u64 {
        free_bytes(self.fd.as_fd())
    }

    /// Waits for the lock of the store.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let fd = self.create("lock", OFlags::RDWR | OFlags::CREATE)?;
        let began = Instant::now();
        loop {
            match fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(fd)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Busy { path: self.show("lock"), seconds: PATIENCE.as_secs() });
                }
                Err(errno) => return Err(Error::io("lock", &self.show("lock"), errno)),
            }
        }
    }

    /// Opens a directory of the store.
    pub(crate) fn open_dir(&self, relative: impl AsRef<Path>) -> Result<OwnedFd> {
        let relative = relative.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&self.fd, relative, flags, Mode::empty())
            .map_err(|errno| Error::io("open", &self.show(relative), errno))
    }

    /// Makes a directory of ours; that it exists is not an error. Returns whether it is new.
    pub(crate) fn make_dir(&self, relative: impl AsRef<Path>) -> Result<bool> {
        let relative = relative.as_ref();
        match fs::mkdirat(&self.fd, relative, Mode::RWXU) {
            Ok(()) => self.give(relative).map(|()| true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(Error::write(&self.show(relative), errno, 4096, || self.free_bytes())),
        }
    }

    /// Creates a file of ours.
    pub(crate) fn create(&self, relative: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
        let relative = relative.as_ref();
        let flags = flags | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.fd, relative, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| Error::write(&self.show(relative), errno, 4096, || self.free_bytes()))?;
        self.give(relative)?;
        Ok(file)
    }

    /// Root working in another user's store leaves its files to that user.
    fn give(&self, relative: &Path) -> Result<()> {
        if rustix::process::geteuid().as_raw() == self.owner.0 {
            return Ok(());
        }
        let (uid, gid) = (fs::Uid::from_raw(self.owner.0), fs::Gid::from_raw(self.owner.1));
        fs::chownat(&self.fd, relative, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::io("change the owner of", &self.show(relative), errno))
    }

    /// Opens a file of the store for reading; `None` if it does not exist.
    ///
    /// It must be a plain file of the store's owner that nobody else may write.
    pub(crate) fn open_file(&self, relative: impl AsRef<Path>) -> Result<Option<(OwnedFd, Stat)>> {
        let relative = relative.as_ref();
        // A fifo in the place of a file must not make us wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&self.fd, relative, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(Error::io("open", &self.show(relative), errno)),
        };
        let stat = fs::fstat(&file).map_err(|errno| Error::io("stat", &self.show(relative), errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Foreign { path: self.show(relative), why: "it is not a plain file" });
        }
        if stat.st_uid != self.owner.0 {
            return Err(Error::Foreign { path: self.show(relative), why: "it belongs to another user" });
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(Error::Writable { path: self.show(relative), mode: stat.st_mode & 0o7777 });
        }
        Ok(Some((file, stat)))
    }

    /// Returns the text of a symbolic link; `None` if there is none.
    pub(crate) fn read_link(&self, relative: impl AsRef<Path>) -> Result<Option<String>> {
        match fs::readlinkat(&self.fd, relative.as_ref(), Vec::new()) {
            Ok(text) => Ok(text.into_string().ok()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => Ok(None),
            Err(errno) => Err(Error::io("read", &self.show(relative), errno)),
        }
    }

    /// Makes a symbolic link that only its text is wanted of.
    pub(crate) fn make_link(&self, text: &str, relative: &Path) -> Result<()> {
        fs::symlinkat(text, &self.fd, relative)
            .map_err(|errno| Error::write(&self.show(relative), errno, 4096, || self.free_bytes()))?;
        self.give(relative)
    }

    /// Returns the names in a directory, sorted; nothing if it does not exist.
    pub(crate) fn names(&self, relative: impl AsRef<Path>) -> Result<Vec<String>> {
        let relative = relative.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno| Error::io("read", &self.show(relative), errno);
        let dir = match fs::openat(&self.fd, relative, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(failed(errno)),
        };
        let mut names = Vec::new();
        for entry in fs::Dir::new(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // What is not UTF-8 is not ours.
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Gives a file a second name; tells whether the file system can do that.
    pub(crate) fn link(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<bool> {
        let (from, to) = (from.as_ref(), to.as_ref());
        match fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // No hard links here, or too many of this file.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(Error::write(&self.show(to), errno, 4096, || self.free_bytes())),
        }
    }

    /// Opens a file of ours for writing and locks it; `None` if it is locked, or does not exist.
    pub(crate) fn lock_file(&self, relative: impl AsRef<Path>) -> Result<Option<OwnedFd>> {
        let relative = relative.as_ref();
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match fs::openat(&self.fd, relative, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::ACCESS | Errno::ROFS) => return Ok(None),
            Err(errno) => return Err(Error::io("open", &self.show(relative), errno)),
        };
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("lock", &self.show(relative), errno)),
        }
    }

    /// By which numbers a file is known; `None` if it does not exist.
    pub(crate) fn identity(&self, relative: impl AsRef<Path>) -> Option<(u64, u64)> {
        let stat = fs::statat(&self.fd, relative.as_ref(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// How many names a file has; 0 if it does not exist.
    pub(crate) fn names_of_file(&self, relative: impl AsRef<Path>) -> u64 {
        let stat = fs::statat(&self.fd, relative.as_ref(), AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| stat.st_nlink)
    }

    pub(crate) fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        fs::renameat(&self.fd, from, &self.fd, to)
            .map_err(|errno| Error::write(&self.show(to), errno, 4096, || self.free_bytes()))
    }

    /// Gives a file from anywhere a second name here, and opens it.
    pub(crate) fn link_from(&self, from: &Path, to: impl AsRef<Path>) -> Result<OwnedFd> {
        let to = to.as_ref();
        let failed = |errno| Error::io("link", from, errno);
        fs::linkat(fs::CWD, from, &self.fd, to, AtFlags::empty()).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(&self.fd, to, flags, Mode::empty())
            .map_err(|errno| Error::io("open", &self.show(to), errno))
    }

    /// Removes a file; that it does not exist is not an error.
    pub(crate) fn unlink(&self, relative: impl AsRef<Path>) -> Result<()> {
        self.unlink_as(relative.as_ref(), AtFlags::empty())
    }

    /// Removes an empty directory; that it does not exist, or is not empty, is not an error.
    pub(crate) fn remove_dir(&self, relative: impl AsRef<Path>) -> Result<()> {
        self.unlink_as(relative.as_ref(), AtFlags::REMOVEDIR)
    }

    fn unlink_as(&self, relative: &Path, flags: AtFlags) -> Result<()> {
        match fs::unlinkat(&self.fd, relative, flags) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
            Err(errno) => Err(Error::io("remove", &self.show(relative), errno)),
        }
    }

    /// Removes a directory with all in it; returns how many bytes of disk that frees.
    pub(crate) fn remove_tree(&self, relative: &Path) -> Result<u64> {
        self.remove_levels(relative, 3)
    }

    /// The store has a name, a version and its files below each other, and nothing deeper.
    fn remove_levels(&self, relative: &Path, levels: u32) -> Result<u64> {
        let mut freed_bytes = 0;
        for name in self.names(relative)? {
            let child = relative.join(&name);
            let Ok(stat) = fs::statat(&self.fd, &child, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && levels > 0 {
                freed_bytes += self.remove_levels(&child, levels - 1)?;
            } else {
                // What has another name is freed with the last of them.
                if stat.st_nlink == 1 {
                    freed_bytes += self.disk_bytes(&child);
                }
                self.unlink(&child)?;
            }
        }
        self.remove_dir(relative)?;
        Ok(freed_bytes)
    }

    /// The room a file takes on disk; 0 if it does not exist.
    pub(crate) fn disk_bytes(&self, relative: impl AsRef<Path>) -> u64 {
        let stat = fs::statat(&self.fd, relative.as_ref(), AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    pub(crate) fn exists(&self, relative: impl AsRef<Path>) -> bool {
        fs::statat(&self.fd, relative.as_ref(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// When a file was last written; `None` if it does not exist.
    pub(crate) fn modified(&self, relative: impl AsRef<Path>) -> Option<SystemTime> {
        let stat = fs::statat(&self.fd, relative.as_ref(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)))
    }

    /// Makes what was created, renamed and removed in a directory survive a power loss.
    pub(crate) fn sync_dir(&self, relative: impl AsRef<Path>) -> Result<()> {
        let relative = relative.as_ref();
        let dir = self.open_dir(relative)?;
        fs::fsync(&dir).map_err(|errno| Error::write(&self.show(relative), errno, 0, || self.free_bytes()))
    }
}

/// How many bytes an ordinary user can still write to the file system of `fd`.
pub(crate) fn free_bytes(fd: BorrowedFd<'_>) -> u64 {
    fs::fstatvfs(fd).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub(crate) fn dir_of_name(name: &Name) -> PathBuf {
    Path::new(IMAGES).join(name.as_str())
}

pub(crate) fn dir_of(id: &ImageId) -> PathBuf {
    dir_of_name(&id.name).join(id.version.to_string())
}

/// Fails at a named step if a test asks for it, as that step itself would.
pub(crate) fn fault(step: &str, path: &Path, needed_bytes: u64) -> Result<()> {
    frost_sys::fault::point(step).map_err(|errno| Error::write(path, errno, needed_bytes, || 0))
}

/// Fails as the kernel would if a file may not grow to `len_bytes` (RLIMIT_FSIZE), but without the signal that would
/// end us (SIGXFSZ).
pub(crate) fn within_limit(len_bytes: u64) -> std::result::Result<(), Errno> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    if limit.is_some_and(|limit| limit < len_bytes) { Err(Errno::FBIG) } else { Ok(()) }
}

/// Writes all of `bytes` at `offset`, however short the single writes are.
pub(crate) fn write_all_at(
    file: BorrowedFd<'_>,
    mut bytes: &[u8],
    mut offset: u64,
) -> std::result::Result<(), Errno> {
    within_limit(offset + bytes.len() as u64)?;
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            // A file system that takes nothing and names no reason is full.
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Reads at `offset` until `buffer` is full or the file ends; returns how many bytes were read.
pub(crate) fn read_full_at(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> std::result::Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}
