//! Layers: directories of which a program has a view of its own, by overlayfs.
//!
//! What it writes lies in the instance's directory. An image holds it with the memory; a thaw makes it again in a fresh
//! place, and mounts that in the keeper's namespaces.

use crate::bundle;
use crate::error::Error;
use crate::instance::{Instance, boot_id};
use frost_freeze::layer::{self, Source};
use frost_keeper::house::{self, Failed};
use frost_model::BytePath;
use frost_model::layer::{Layer, Lower, Node};
use frost_store::{Image, ImageId, Name, Store};
use frost_sys::clone::{self, Clone};
use frost_sys::proc;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, Timestamps, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A layer of an instance, as its record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub directory: BytePath,
    /// Where it lies.
    pub place: BytePath,
}

impl Place {
    fn layer(&self) -> house::Layer {
        house::Layer {
            directory: self.directory.as_path().to_owned(),
            place: self.place.as_path().to_owned(),
        }
    }
}

/// Returns layers as those who mount them take them.
pub(crate) fn mounted(places: &[Place]) -> Vec<house::Layer> {
    places.iter().map(Place::layer).collect()
}

fn refused(directory: &Path, why: impl Into<String>) -> Error {
    Error::Layer { directory: directory.to_owned(), why: why.into() }
}

fn file(path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_owned();
    move |errno| Error::File { path, source: errno.into() }
}

/// Finds directories that layers are to be over, and whether there can be one.
///
/// # Errors
/// [`Error::Layer`] with what is in the way.
pub(crate) fn check(store: &Store, directories: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found: Vec<PathBuf> = Vec::new();
    let kept = std::fs::canonicalize(store.path()).unwrap_or_else(|_| store.path().to_owned());
    for directory in directories {
        let real = std::fs::canonicalize(directory).map_err(|error| refused(directory, error.to_string()))?;
        if !real.is_dir() {
            return Err(refused(directory, "it is no directory"));
        }
        if let Some(mount) = submount(&real) {
            return Err(refused(directory, format!("{} is mounted in it", mount.display())));
        }
        if kept.starts_with(&real) {
            return Err(refused(directory, "the store of frost is in it"));
        }
        if let Some(other) = found.iter().find(|other| other.starts_with(&real) || real.starts_with(other)) {
            return Err(refused(directory, format!("it overlaps with {}", other.display())));
        }
        if ["/proc", "/dev", "/sys"].iter().any(|own| real.starts_with(own)) {
            return Err(refused(directory, "it holds no files that could be written"));
        }
        found.push(real);
    }
    Ok(found)
}

/// Returns something that is mounted below a directory.
fn submount(directory: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points =
        mounts.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let points = points.map(|point| frost_sys::cgroup::unescaped(&String::from_utf8_lossy(point)));
    points.into_iter().find(|point| point != directory && point.starts_with(directory))
}

/// Makes places for layers below `base`, a directory that there is none of yet.
fn make(base: &Path, directories: &[PathBuf]) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    for (index, directory) in directories.iter().enumerate() {
        let place = Place {
            directory: BytePath::from(directory.as_path()),
            place: BytePath::from(base.join(index.to_string()).as_path()),
        };
        let layer = place.layer();
        for path in [layer.place.clone(), layer.upper(), layer.work()] {
            std::fs::create_dir_all(&path).map_err(|source| Error::File { path, source })?;
        }
        places.push(place);
    }
    Ok(places)
}

/// Makes empty layers of an instance.
pub(crate) fn fresh(instance: &Instance, directories: &[PathBuf]) -> Result<Vec<Place>, Error> {
    let places = make(&new_base(instance), directories)?;
    for place in &places {
        let layer = place.layer();
        let (stat, upper) =
            (rustix::fs::stat(&layer.directory).map_err(file(&layer.directory))?, layer.upper());
        // The directory itself is that of the layer. Who may not give it away shows it as their own.
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let _ = rustix::fs::chownat(CWD, &upper, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        rustix::fs::chmodat(CWD, &upper, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())
            .map_err(file(&upper))?;
        let time = |sec, nsec: u64| rustix::fs::Timespec { tv_sec: sec, tv_nsec: nsec as _ };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        let _ = rustix::fs::utimensat(CWD, &upper, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
    Ok(places)
}

/// A place for layers that is not used: what was there before may still be mounted by a keeper.
fn new_base(instance: &Instance) -> PathBuf {
    let base = instance.path().join("layers");
    let name = |number: u32| base.join(format!("{}.{number}", std::process::id()));
    (0..).map(name).find(|path| !path.exists()).unwrap_or(base)
}

/// Makes layers of an instance as an image has them.
pub(crate) fn restored(instance: &Instance, image: &Image) -> Result<Vec<Place>, Error> {
    restore(&new_base(instance), image)
}

fn restore(base: &Path, image: &Image) -> Result<Vec<Place>, Error> {
    let layers = &image.checkpoint().layers;
    if layers.is_empty() {
        return Ok(Vec::new());
    }
    let directories: Vec<PathBuf> = layers.iter().map(|layer| layer.directory.as_path().to_owned()).collect();
    let pack = image.pack()?;
    let made = make(base, &directories).and_then(|places| {
        for (place, layer) in places.iter().zip(layers) {
            frost_thaw::layer::make(layer, pack.as_fd(), &place.layer().upper())
                .map_err(|failed| Error::File { path: failed.path, source: failed.source.into() })?;
        }
        Ok(places)
    });
    if made.is_err() {
        remove(base);
    }
    made
}

/// Removes places, also what their owner has forbidden to themselves, as overlayfs does.
pub(crate) fn remove(path: &Path) {
    let Ok(kind) = std::fs::symlink_metadata(path) else { return };
    if kind.is_dir() {
        let _ = rustix::fs::chmodat(CWD, path, Mode::RWXU, AtFlags::empty());
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            remove(&entry.path());
        }
        let _ = std::fs::remove_dir(path);
    } else {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes all layers of an instance but those in `used`.
pub(crate) fn sweep(instance: &Instance, used: &[Place]) {
    for entry in std::fs::read_dir(instance.path().join("layers")).into_iter().flatten().flatten() {
        let path = entry.path();
        if !used.iter().any(|place| place.place.as_path().starts_with(&path)) {
            remove(&path);
        }
    }
}

/// Says how what lies below the layers of an image differs from what it was; with `bundled`, returns which of them do.
///
/// # Errors
/// [`Error::Lower`] with the first of them.
pub(crate) fn compare(layers: &[Layer], bundled: bool) -> Result<Vec<PathBuf>, Error> {
    let mut differing = Vec::new();
    const SHOWN: usize = 3;
    for layer in layers {
        let directory = layer.directory.as_path();
        if bundled && !directory.exists() {
            differing.push(directory.to_owned());
            continue;
        }
        check_mounts(directory)?;
        let now = layer::lower(directory, &layer.lower)
            .map_err(|(path, source)| Error::File { path, source: source.into() })?;
        let differences = differences(&layer.lower, &now);
        if !differences.is_empty() && bundled {
            differing.push(directory.to_owned());
        } else if !differences.is_empty() {
            let more = differences.len().saturating_sub(SHOWN);
            let shown: Vec<String> =
                differences.into_iter().take(SHOWN).map(|(path, how)| format!("{path} {how}")).collect();
            return Err(Error::Lower { directory: directory.to_owned(), shown: shown.join(", "), more });
        }
    }
    Ok(differing)
}

fn check_mounts(directory: &Path) -> Result<(), Error> {
    let stat = rustix::fs::stat(directory).map_err(|errno| refused(directory, errno.to_string()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(refused(directory, "it is no directory"));
    }
    match submount(directory) {
        Some(mount) => Err(refused(directory, format!("{} is mounted in it", mount.display()))),
        None => Ok(()),
    }
}

/// Compares what lies below as it was and as it is, both by ascending path.
fn differences(was: &[Lower], is: &[Lower]) -> Vec<(BytePath, &'static str)> {
    let mut found = Vec::new();
    let (mut was, mut is) = (was.iter().peekable(), is.iter().peekable());
    loop {
        let order = match (was.peek(), is.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(was), Some(is)) => was.path.cmp(&is.path),
        };
        match order {
            std::cmp::Ordering::Less => found.extend(was.next().map(|was| (was.path.clone(), "is missing"))),
            std::cmp::Ordering::Greater => found.extend(is.next().map(|is| (is.path.clone(), "is new"))),
            std::cmp::Ordering::Equal => {
                if let (Some(was), Some(is)) = (was.next(), is.next())
                    && !alike(was, is)
                {
                    found.push((is.path.clone(), "differs"));
                }
            }
        }
    }
}

fn alike(was: &Lower, is: &Lower) -> bool {
    let directory = FileType::from_raw_mode(was.identity.mode) == FileType::Directory;
    was.identity.mode == is.identity.mode
        && was.identity.rdev == is.identity.rdev
        // That of a directory tells of its file system only.
        && (directory || was.identity.len_bytes == is.identity.len_bytes)
        && was.digest == is.digest
}

/// Makes what a freeze needs of the layers of an instance. What lies below is looked at before the program is stopped; only
/// what changed since the newest image is read.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn sources(
    store: &Store,
    name: &Name,
    places: &[Place],
    brought: Option<&BytePath>,
) -> Result<Vec<Source>, Error> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let known = match store.versions(name)?.last() {
        Some(version) => {
            store.open_any(&ImageId { name: name.clone(), version: *version })?.into_checkpoint().layers
        }
        None => Vec::new(),
    };
    let source = |place: &Place| {
        let known = known.iter().find(|layer| layer.directory == place.directory);
        let known = known.map_or(&[][..], |layer| layer.lower.as_slice());
        let layer = place.layer();
        // What an image brought along lies below it in place of what the machine has.
        let brought = brought.map(|place| bundle::brought(place.as_path(), &layer.directory));
        let below = brought.filter(|brought| brought.is_dir()).unwrap_or_else(|| layer.directory.clone());
        let lower = layer::lower(&below, known)
            .map_err(|(path, source)| Error::File { path, source: source.into() })?;
        Ok(Source { upper: layer.upper(), directory: layer.directory, below, lower })
    };
    places.iter().map(source).collect()
}

/// Mounts layers in the namespaces of a keeper that was kept, in place of those that are mounted there.
///
/// # Errors
/// [`Error::Environment`] if a mount failed.
pub(crate) fn remount(keeper: &OwnedFd, layers: &[house::Layer]) -> Result<(), Error> {
    if layers.is_empty() {
        return Ok(());
    }
    let failed = |(object, source): Failed| Error::Environment { object, source };
    let about = |object: &str| {
        let object = object.to_owned();
        move |source: Errno| Error::Environment { object, source }
    };
    let (ours, theirs) = UnixStream::pair()
        .map_err(|error| about("a socket to a helper")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    match clone::fork_single_threaded(libc::SIGCHLD).map_err(about("a process in its namespaces"))? {
        Clone::Child => {
            let outcome =
                enter_and_mount(keeper, layers).err().map(|(object, errno)| (object, errno.raw_os_error()));
            let _ = (&theirs).write_all(&serde_json::to_vec(&outcome).unwrap_or_default());
            clone::exit_now(0)
        }
        Clone::Parent { pid, .. } => {
            drop(theirs);
            let mut text = Vec::new();
            let _ = (&ours).read_to_end(&mut text);
            let pid = rustix::process::Pid::from_raw(pid);
            while let Err(Errno::INTR) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())
            {
            }
            match serde_json::from_slice::<Option<(String, i32)>>(&text) {
                Ok(None) => Ok(()),
                Ok(Some((object, errno))) => Err(failed((object, Errno::from_raw_os_error(errno)))),
                Err(_) => Err(failed(("a process in its namespaces".to_owned(), Errno::CHILD))),
            }
        }
    }
}

fn enter_and_mount(keeper: &OwnedFd, layers: &[house::Layer]) -> Result<(), Failed> {
    let user = if rustix::process::geteuid().is_root() { 0 } else { libc::CLONE_NEWUSER };
    clone::enter(keeper.as_fd(), (user | libc::CLONE_NEWNS) as u64)
        .map_err(|errno| ("the keeper's namespaces".to_owned(), errno))?;
    for layer in layers.iter().rev() {
        // Nobody has a file of it open any more but whoever was given one by the program.
        match rustix::mount::unmount(&layer.directory, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err((format!("the layer over {}", layer.directory.display()), errno)),
        }
    }
    house::mount_layers(layers)
}

/// Where copies had their layers that had no names yet.
const COPIES: &str = "copies";
/// The file that tells of a copy's keeper.
const KEEPER: &str = "keeper";

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Removes what copies have left that have ended; returns how many.
pub fn sweep_copies(store: &Store) -> usize {
    let mut removed = 0;
    for entry in std::fs::read_dir(store.path().join(COPIES)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(lock) = open_directory(&path) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let note = std::fs::read_to_string(path.join(KEEPER)).unwrap_or_default();
        let words: Vec<&str> = note.split_ascii_whitespace().collect();
        let lives = match words.as_slice() {
            [pid, start, boot] if *boot == boot_id() => {
                let stat = pid.parse().ok().and_then(|pid: i32| proc::stat(pid).ok());
                stat.is_some_and(|stat| stat.starttime.to_string() == *start && !stat.is_zombie())
            }
            _ => false,
        };
        if !lives {
            remove(&path);
            removed += 1;
        }
    }
    removed
}

/// How something in a layer differs from what lies below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is not there below.
    Added,
    /// It is something else there.
    Changed,
    /// It is only there.
    Removed,
}

/// Lists what a program has written into its layers: as it is now if it runs or has ended, or as an image has it. Paths
/// are whole, and ascend. `None` if it has no layers.
///
/// # Errors
/// [`Error::Missing`]; [`Error::File`].
pub fn changes(store: &Store, target: &str) -> Result<Option<Vec<(BytePath, Change)>>, Error> {
    let mut changes = Vec::new();
    let instance = match Name::new(target) {
        Ok(name) => Instance::find(store, &name)?,
        Err(_) => None,
    };
    let live = match &instance {
        Some(instance) => instance.lives_or_ended()?.then(|| instance.record()).transpose()?,
        None => None,
    };
    if let Some(record) = live {
        if record.layers.is_empty() {
            return Ok(None);
        }
        for place in &record.layers {
            let layer = place.layer();
            let written = layer::look(&layer.upper()).map_err(|error| Error::Written(error.to_string()))?;
            let below = |path: &BytePath| {
                rustix::fs::lstat(layer.directory.join(path.as_path())).ok().map(|stat| stat.st_mode)
            };
            add_changes(&place.directory, &written, below, &mut changes);
        }
    } else {
        let image = store.open_any(&store.resolve(target)?)?;
        if image.checkpoint().layers.is_empty() {
            return Ok(None);
        }
        for layer in &image.checkpoint().layers {
            let below = |path: &BytePath| {
                let found = layer.lower.binary_search_by(|lower| lower.path.cmp(path));
                found.ok().map(|at| layer.lower[at].identity.mode)
            };
            add_changes(&layer.directory, &layer.written, below, &mut changes);
        }
    }
    changes.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Some(changes))
}

fn add_changes(
    directory: &BytePath,
    written: &[frost_model::layer::Written],
    below: impl Fn(&BytePath) -> Option<u32>,
    changes: &mut Vec<(BytePath, Change)>,
) {
    for written in written.iter().filter(|written| !written.path.as_bytes().is_empty()) {
        let change = match (&written.node, below(&written.path)) {
            (Node::Removed, Some(_)) => Change::Removed,
            // Of what was added and removed again nothing is left.
            (Node::Removed, None) => continue,
            // A directory is in the layer as soon as something in it is.
            (Node::Directory { opaque: false }, Some(mode)) if mode == written.mode => continue,
            (_, Some(_)) => Change::Changed,
            (_, None) => Change::Added,
        };
        let path = directory.as_path().join(written.path.as_path());
        changes.push((BytePath::new(path.as_os_str().as_bytes()), change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_is_compared_by_path_kind_length_and_content() {
        let lower = |path: &str, mode, len_bytes, digest| Lower {
            path: BytePath::new(path),
            identity: frost_model::cap::FileIdentity { mode, len_bytes, ..Default::default() },
            digest: [digest; 32],
        };
        let was = [lower("a", 0o100_644, 1, 1), lower("b", 0o100_644, 1, 1), lower("d", 0o040_755, 60, 0)];
        let is = [lower("b", 0o100_644, 1, 2), lower("c", 0o100_644, 1, 1), lower("d", 0o040_755, 40, 0)];
        let found = differences(&was, &is);
        let found: Vec<(String, &str)> =
            found.into_iter().map(|(path, how)| (path.to_string(), how)).collect();
        let expected = [("a", "is missing"), ("b", "differs"), ("c", "is new")];
        assert_eq!(found, expected.map(|(path, how)| (path.to_owned(), how)));
        assert!(differences(&was, &was).is_empty());
    }

    #[test]
    fn something_that_is_mounted_in_a_directory_is_found() {
        assert!(submount(Path::new("/")).is_some());
        assert!(submount(Path::new("/nonexistent")).is_none());
    }
}
