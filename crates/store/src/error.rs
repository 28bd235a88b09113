//! What can go wrong in a store.

use frost_image::{ImageId, Instance, NameError};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on a store failed. Unless an operation says otherwise, the store is then as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was to be done, as `write`.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no room.
    #[error("no space for {}: {limit}; needed {needed_bytes} bytes, free {free_bytes}", path.display())]
    NoSpace {
        /// The file that was to grow.
        path: PathBuf,
        /// What was full.
        limit: SpaceLimit,
        /// How many bytes were to be written.
        needed_bytes: u64,
        /// How many are free there.
        free_bytes: u64,
    },
    /// The store belongs to somebody else.
    #[error("the store {} belongs to user {owner}, and this is user {user}", path.display())]
    OtherOwner {
        /// The store.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are. Root may be told to trust the owner ([`OpenOptions::trust_owner`](crate::OpenOptions)).
        user: u32,
    },
    /// Others could change what lies here.
    #[error("{} has mode {mode:04o}: others may write there, so nothing in it can be trusted", path.display())]
    Writable {
        /// The file or directory. `chmod go-w` on it is the remedy, after a look at what it holds.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file of the store is not a plain file of the store's owner.
    #[error("{} is not a file that frost made: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How it shows.
        why: &'static str,
    },
    /// What was to be the store is a directory of something else.
    #[error("{} is no store, and it holds {found:?}", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
        /// Something in it that frost did not make.
        found: String,
    },
    /// What was given is no name.
    #[error("{spec:?} names no image")]
    Name {
        /// What was given.
        spec: String,
        /// Which rule it breaks.
        source: NameError,
    },
    /// There is no such image.
    #[error("there is no image {spec}{}", present(versions))]
    NoSuchImage {
        /// What was asked for.
        spec: String,
        /// The versions there are of that name.
        versions: Vec<u32>,
    },
    /// The name has no version left to give.
    #[error("the name {name} has no versions left")]
    NoVersions {
        /// The name.
        name: String,
    },
    /// An image cannot be read.
    #[error("cannot use {}", path.display())]
    Image {
        /// Its file, or what it was to be read from.
        path: PathBuf,
        /// Why not.
        source: frost_image::Error,
    },
    /// A file of an image is not there.
    #[error("{} is missing: somebody removed it", path.display())]
    Lost {
        /// Which.
        path: PathBuf,
    },
    /// It is of a virtual machine, and processes were asked for.
    #[error("{id} is an image of a virtual machine")]
    IsMachine {
        /// The image.
        id: ImageId,
    },
    /// A pack is not what it was when it was committed.
    #[error("{} is damaged in block {block}, at bytes {offset} to {}", path.display(), offset + len_bytes)]
    BlockDamaged {
        /// The pack.
        path: PathBuf,
        /// Which block.
        block: u64,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len_bytes: u64,
    },
    /// Another command holds the store for too long.
    #[error("another frost command has held {} for {seconds} seconds", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// The instance of this image runs.
    #[error("{id} runs already, as process {}", instance.pid)]
    Runs {
        /// The image.
        id: ImageId,
        /// The root process of the running instance.
        instance: Instance,
    },
}

/// What limits the growth of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceLimit {
    /// The file system is full.
    FileSystem,
    /// The user's quota is used up.
    Quota,
    /// The file would be longer than the process or the file system allows (RLIMIT_FSIZE).
    FileSize,
}

impl std::fmt::Display for SpaceLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FileSystem => "the file system is full",
            Self::Quota => "the quota is used up",
            Self::FileSize => {
                "the file would be longer than is allowed (`ulimit -f`, or the file system's limit)"
            }
        })
    }
}

impl Error {
    /// Returns whether there was no room, which a caller reports with an exit status of its own.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Returns whether an image is damaged, too new, or of another machine.
    pub fn is_bad_image(&self) -> bool {
        matches!(
            self,
            Self::Image { .. } | Self::BlockDamaged { .. } | Self::Foreign { .. } | Self::Lost { .. }
        )
    }

    /// Returns whether something asked for does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoSuchImage { .. } | Self::Name { .. })
    }

    /// Whether a file that should be there is not.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn io(action: &'static str, path: &Path, errno: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: errno.into() }
    }

    /// Tells a full disk, a used-up quota and a file size limit from other errors of writing.
    ///
    /// `free_bytes` is asked only when there is no space.
    pub(crate) fn write(
        path: &Path,
        errno: Errno,
        needed_bytes: u64,
        free_bytes: impl FnOnce() -> u64,
    ) -> Self {
        let limit = match errno {
            Errno::NOSPC => SpaceLimit::FileSystem,
            Errno::DQUOT => SpaceLimit::Quota,
            Errno::FBIG => SpaceLimit::FileSize,
            other => return Self::io("write", path, other),
        };
        Self::NoSpace { path: path.to_owned(), limit, needed_bytes, free_bytes: free_bytes() }
    }
}

fn present(versions: &[u32]) -> String {
    match versions {
        [] => String::new(),
        [only] => format!("; there is version {only}"),
        [first, .., last] => format!("; there are {} versions from {first} to {last}", versions.len()),
    }
}

/// The result of an operation on a store.
pub type Result<T> = std::result::Result<T, Error>;
