//! Opening a store, and finding images in it.

use crate::draft::{Draft, Intent, versions};
use crate::ending::Ending;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::root::{DRAFTS, IMAGES, Root, TARGET, dir_of};
use frost_image::{ImageId, Name};
use frost_sys::proc;
use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What there may be in the directory of a store before it holds images: of other parts of frost, and of a file system.
const OURS: &[&str] =
    &[IMAGES, DRAFTS, "lock", "instances", "copies", "bundles", "scenarios", "vm", "lost+found"];

/// Where a store is, and whom to trust.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Its directory, which is made with its parents if it does not exist.
    pub root: PathBuf,
    /// Whether root may use a store of another user, whose images it would then run as root.
    pub trust_owner: bool,
}

/// A directory of images.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) root: Arc<Root>,
    swept: Vec<Leftover>,
}

/// What a process that died had begun and left in the store; it was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What was being done: `freeze`, `end`, `import`, `remove`, `compress`.
    pub doing: String,
    /// To the images of which name.
    pub name: String,
    /// The pid it had.
    pub pid: u32,
    /// How many bytes of disk its removal freed.
    pub freed_bytes: u64,
    /// The process that was being frozen, by pid and start time in clock ticks since boot.
    pub target: Option<(i32, u64)>,
}

impl Store {
    /// Opens a store, making its directory if there is none, and sweeps what dead processes left in it.
    ///
    /// # Errors
    /// [`Error::OtherOwner`] if it is not ours; [`Error::Writable`] if others may write to it; [`Error::NoStore`] if it is a
    /// directory of something else.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let path = &options.root;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || fs::open(path, flags, Mode::empty());
        let fd = match open() {
            Err(Errno::NOENT) => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
                    Errno::from_io_error(&source).map_or_else(
                        || Error::io("make", path, std::io::ErrorKind::Other),
                        |errno| Error::write(path, errno, 4096, || 0),
                    )
                })?;
                open()
            }
            other => other,
        };
        let fd = fd.map_err(|errno| Error::io("open", path, errno))?;
        let stat = fs::fstat(&fd).map_err(|errno| Error::io("stat", path, errno))?;
        let user = rustix::process::geteuid().as_raw();
        if stat.st_uid != user && !(user == 0 && options.trust_owner) {
            return Err(Error::OtherOwner { path: path.clone(), owner: stat.st_uid, user });
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(Error::Writable { path: path.clone(), mode: stat.st_mode & 0o7777 });
        }
        let root = Arc::new(Root::new(fd, path.clone(), (stat.st_uid, stat.st_gid)));
        if root.open_dir(IMAGES).is_err()
            && let Some(found) = root.names(".")?.into_iter().find(|name| !OURS.contains(&name.as_str()))
        {
            return Err(Error::NoStore { path: path.clone(), found });
        }
        for dir in [IMAGES, DRAFTS] {
            // A store on a read-only medium can be read without them.
            if let Err(error) = root.make_dir(dir)
                && root.open_dir(dir).is_err()
            {
                return Err(error);
            }
        }
        let swept = sweep(&root);
        Ok(Self { root, swept })
    }

    /// Tells `watch` how far long operations on packs are, now and then: bytes that are done, and bytes in all.
    ///
    /// It is told by whoever does the work, and can be set once.
    pub fn watch(&self, watch: impl Fn(u64, u64) + Send + Sync + 'static) {
        self.root.watch(Box::new(watch));
    }

    /// Returns its directory.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Returns the user whose store it is.
    pub fn owner(&self) -> u32 {
        self.root.owner()
    }

    /// Returns what [`open`](Self::open) found of processes that had died, and removed.
    pub fn swept(&self) -> &[Leftover] {
        &self.swept
    }

    /// Returns how many bytes can still be written; 0 if that cannot be known.
    pub fn free_bytes(&self) -> u64 {
        self.root.free_bytes()
    }

    /// Begins a new version of a name, which nobody sees before its commit.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], [`Error::Busy`].
    pub fn begin(&self, name: &Name) -> Result<Draft> {
        Draft::new(&self.root, name)
    }

    /// Begins a new version as [`begin`](Self::begin), whose pack is a file that exists: it gets a second name.
    ///
    /// `file` must be ours, on the file system of the store, and have `len_bytes` that are written; they are the
    /// beginning of the pack, and what is behind them is cut off. Nobody may change it once it is committed. If there is no
    /// commit, only its second name is removed.
    ///
    /// # Errors
    /// As [`begin`](Self::begin); [`Error::Io`] if it cannot have a second name.
    pub fn begin_over(&self, name: &Name, file: &Path, len_bytes: u64) -> Result<Draft> {
        Draft::over(&self.root, name, file, len_bytes)
    }

    /// Notes that a process is about to be changed by an operation on an image of `name`: `doing` is one word, as `thaw`.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], [`Error::Busy`].
    pub fn intend(&self, doing: &str, name: &Name) -> Result<Intent> {
        Intent::new(&self.root, doing, name)
    }

    /// Says that `processes`, by pid and start time, are about to be ended, the first of them last.
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn ending(&self, name: &Name, processes: &[(i32, u64)]) -> Result<Ending> {
        Ending::new(&self.root, name, processes)
    }

    /// Ends what dead processes were about to [end](Self::ending), or lets it go on as a whole. [`open`](Self::open) does so
    /// too.
    pub fn take_up_endings(&self) {
        crate::ending::take_up_all(&self.root);
    }

    /// Finds the image that `spec` denotes: the newest of a name (`web`), or a version of it (`web@2`).
    ///
    /// # Errors
    /// [`Error::Name`] if `spec` is no name, [`Error::NoSuchImage`] if there is none.
    pub fn resolve(&self, spec: &str) -> Result<ImageId> {
        let parsed = ImageId::parse_spec(spec);
        let (name, version) = parsed.map_err(|source| Error::Name { spec: spec.to_owned(), source })?;
        let versions = self.versions(&name)?;
        let found = match version {
            None => versions.last().copied(),
            Some(version) => Some(version).filter(|version| versions.contains(version)),
        };
        match found {
            Some(version) => Ok(ImageId { name, version }),
            None => Err(Error::NoSuchImage { spec: spec.to_owned(), versions }),
        }
    }

    /// Returns the versions of a name, ascending; none if there is no such name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn versions(&self, name: &Name) -> Result<Vec<u32>> {
        versions(&self.root, name)
    }

    /// Opens an image of this machine's architecture: header and manifest are verified, decoded and validated.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Image`] if it is damaged, cut short, too new, or of another architecture.
    /// [`Error::IsMachine`] if it is of a virtual machine.
    pub fn open_image(&self, id: &ImageId) -> Result<Image> {
        let image = self.open_any(id)?;
        if image.checkpoint().machine.is_some() {
            return Err(Error::IsMachine { id: id.clone() });
        }
        Ok(image)
    }

    /// Opens an image as [`open_image`](Self::open_image), of whatever it is.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Image`] if it is damaged, cut short, too new, or of another architecture.
    pub fn open_any(&self, id: &ImageId) -> Result<Image> {
        Image::open(&self.root, id)
    }

    /// Returns the directory of an image, for messages.
    pub fn path_of(&self, id: &ImageId) -> PathBuf {
        self.root.show(dir_of(id))
    }

    /// Returns all names that have images, or had some.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn names(&self) -> Result<Vec<Name>> {
        let names = self.root.names(IMAGES)?;
        Ok(names.iter().filter_map(|name| Name::new(name).ok()).collect())
    }
}

/// Calls `each` for the drafts whose process has died, with their names and where they are.
pub(crate) fn each_dead_draft(root: &Arc<Root>, mut each: impl FnMut(&str, &Path)) {
    let drafts = root.names(DRAFTS).unwrap_or_default();
    if drafts.is_empty() {
        return;
    }
    let Ok(_lock) = root.lock() else { return };
    for draft in drafts {
        let relative = Path::new(DRAFTS).join(&draft);
        let Ok(dir) = root.open_dir(&relative) else { continue };
        let began = Instant::now();
        let is_dead = loop {
            if fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                break true;
            }
            if !is_held_a_moment_longer(&draft) || began.elapsed() > LET_GO_WITHIN {
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if is_dead {
            each(&draft, &relative);
        }
    }
}

/// How long a draft may be locked behind the end of its process.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

/// Whether a draft is locked by one that is about to end, or by a child of one that has: worth waiting for where a program may
/// stand still for it.
fn is_held_a_moment_longer(draft: &str) -> bool {
    let pid = draft.strip_prefix("end.").and_then(|rest| rest.split('.').next()?.parse().ok());
    pid.is_some_and(|pid: i32| proc::stat(pid).map_or(true, |stat| stat.is_ending()))
}

/// Removes the drafts whose process has died, and ends what such a one was ending. What cannot be removed, or not now, stays
/// for the next command.
pub(crate) fn sweep(root: &Arc<Root>) -> Vec<Leftover> {
    let mut swept = Vec::new();
    each_dead_draft(root, |draft, relative| {
        if !crate::ending::take_up(root, relative) {
            return;
        }
        let target = root.names(relative).unwrap_or_default().iter().find_map(|name| parse_target(name));
        let Ok(freed_bytes) = root.remove_tree(relative) else { return };
        let mut parts = draft.splitn(4, '.');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let (doing, pid, _random, name) = (part(), part(), part(), part());
        swept.push(Leftover { doing, name, pid: pid.parse().unwrap_or(0), freed_bytes, target });
    });
    swept
}

/// Parses the name of the file that [`Draft::aim_at`] makes.
fn parse_target(name: &str) -> Option<(i32, u64)> {
    let (pid, start_time) = name.strip_prefix(TARGET)?.split_once('.')?;
    Some((pid.parse().ok()?, start_time.parse().ok()?))
}
