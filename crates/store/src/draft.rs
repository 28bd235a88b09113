//! An image being made: invisible until its commit, and gone if that never comes.

use crate::error::{Error, Result};
use crate::image::Image;
use crate::instance::{Liveness, liveness};
use crate::pack::PackWriter;
use crate::root::{
    DRAFTS, IMAGES, LAST, MANIFEST, PACK, Root, TARGET, dir_of, dir_of_name, fault, write_all_at,
};
use frost_image::{
    BLOCK_BYTES, Blocks, Digest, Header, ImageId, Instance, Name, PARTIAL_PACK, Then, Tree, encode,
};
use frost_model::Checkpoint;
use frost_model::steps::{Step, Steps};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, FlockOperation, OFlags};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image being made. Dropped without a [`commit`](Draft::commit), it is removed; if its process is killed, the
/// next command removes it.
pub struct Draft {
    place: Place,
    name: Name,
    pack: PackWriter,
    growth: Option<Growth>,
}

/// The pack of an earlier version that a draft goes on with; it has its old length again if the draft does not become an
/// image.
struct Growth {
    /// Holds the lock by which others see that the pack grows.
    file: OwnedFd,
    old_bytes: u64,
    kept: bool,
}

impl Drop for Growth {
    fn drop(&mut self) {
        if !self.kept {
            // If that fails, the next version does it.
            let _ = fs::ftruncate(&self.file, self.old_bytes);
        }
    }
}

/// What a commit made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The name and the version it got.
    pub id: ImageId,
    /// Bytes that the image added to the store: manifest and pack, or the part of the pack that is its own.
    pub bytes: u64,
    /// The digest of its manifest, which no other image has.
    pub manifest_digest: Digest,
    /// Images of the same program that were superseded, as their freezer had died before it ended the program.
    /// This commit removed them.
    pub replaced: Vec<ImageId>,
    /// How long its steps took: `store.hash`, `store.encode`, `store.pack.sync`, `store.manifest.sync`,
    /// `store.rename`.
    pub steps: Vec<Step>,
}

impl Draft {
    pub(crate) fn new(root: &Arc<Root>, name: &Name) -> Result<Self> {
        let place = Place::new(root, "freeze", name)?;
        let file = place.create(PACK)?;
        let pack = PackWriter::new(file, root.show(place.relative.join(PACK)));
        Ok(Self { place, name: name.clone(), pack, growth: None })
    }

    /// Goes on with the pack of an earlier version of the same name, so that its pages need not be stored again: both
    /// images then have one file by two names, of which the earlier one needs the first part only.
    ///
    /// To be called before anything is in the pack. Returns whether it does so; a pack that is compressed, that another
    /// freeze goes on with, or that has a later version is left alone, and this image gets one of its own.
    ///
    /// # Errors
    /// As for any write to the store; the draft is of no use then.
    pub fn share_pack(&mut self, earlier: &Image) -> Result<bool> {
        let root = Arc::clone(&self.place.root);
        let from = dir_of(earlier.id()).join(PACK);
        let own = self.place.relative.join(PACK);
        debug_assert_eq!(self.pack.len_bytes(), 0, "nothing was written yet");
        if earlier.id().name != self.name {
            return Ok(false);
        }
        // Under the lock, so that the file is not compressed or removed meanwhile.
        let _lock = root.lock()?;
        let Some((_, stat)) = root.open_file(&from)? else { return Ok(false) };
        // Each version that goes on with a pack is longer and has a higher number than the one it goes on from.
        let mut later = versions(&root, &self.name)?;
        later.retain(|version| *version > earlier.id().version);
        let is_of_it = |version| {
            let id = ImageId { name: self.name.clone(), version };
            root.identity(dir_of(&id).join(PACK)) == Some((stat.st_dev, stat.st_ino))
        };
        if later.into_iter().any(is_of_it) {
            return Ok(false);
        }
        let len_bytes = earlier.header().pack.len_bytes;
        let Some(file) = root.lock_file(&from)? else { return Ok(false) };
        let blocks = earlier.blocks()?.into_blocks();
        root.unlink(&own)?;
        if !root.link(&from, &own)? {
            self.pack = PackWriter::new(self.place.create(PACK)?, root.show(&own));
            return Ok(false);
        }
        // What a freeze that died has added belongs to no image.
        fs::ftruncate(&file, len_bytes).map_err(|errno| Error::io("shorten", &root.show(&own), errno))?;
        let ours = file.try_clone().map_err(|source| Error::io("open", &root.show(&own), source))?;
        let start = len_bytes.next_multiple_of(BLOCK_BYTES);
        self.pack = PackWriter::resume(file, root.show(&own), Tree::resume(&blocks), start);
        self.growth = Some(Growth { file: ours, old_bytes: len_bytes, kept: false });
        Ok(true)
    }

    /// A draft whose pack is a second name of `file`.
    pub(crate) fn over(root: &Arc<Root>, name: &Name, file: &Path, len_bytes: u64) -> Result<Self> {
        let place = Place::new(root, "freeze", name)?;
        let linked = root.link_from(file, place.relative.join(PACK))?;
        let path = root.show(place.relative.join(PACK));
        let failed = |errno| Error::write(&path, errno, len_bytes, || root.free_bytes());
        fs::ftruncate(&linked, len_bytes).map_err(failed)?;
        let mut pack = PackWriter::new(linked, path);
        pack.reserve(len_bytes);
        Ok(Self { place, name: name.clone(), pack, growth: None })
    }

    /// Returns the name that the image will have.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Notes which process is being frozen, so that whoever sweeps up after us can look whether we left anything in it.
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn aim_at(&mut self, target: &Instance) -> Result<()> {
        let file = format!("{TARGET}{}.{}", target.pid, target.start_time);
        self.place.create(&file)?;
        self.place.passing = Some(file);
        Ok(())
    }

    /// Returns the writer of the pack.
    pub fn pack(&mut self) -> &mut PackWriter {
        &mut self.pack
    }

    /// Makes the image complete, synced and visible, under the next version of its name.
    ///
    /// `origin` is the root process of the program, as [`observe`](crate::observe) saw it, and `then` what will be
    /// done with it. With [`Then::End`] the image counts as superseded for as long as that very process runs, so a
    /// freezer that dies between the commit and the end needs no further mark: end the root process last.
    ///
    /// All ranges that were reserved in the pack must be written by now.
    ///
    /// # Errors
    /// Whatever it is, there is no new image then, and the draft is gone. [`Error::NoSpace`] if there was no room;
    /// [`Error::Image`] if the checkpoint contradicts itself.
    pub fn commit(mut self, checkpoint: &Checkpoint, origin: Instance, then: Then) -> Result<Committed> {
        let mut steps = Steps::start();
        let blocks = self.pack.finish_hash()?;
        steps.end("store.hash");
        let bad = |source| Error::Image { path: self.place.show(MANIFEST), source };
        checkpoint.validate(blocks.len_bytes()).map_err(|malformed| bad(malformed.into()))?;
        // Its version stands in the header, and is known only under the lock.
        let id = ImageId { name: self.name.clone(), version: 1 };
        let mut header = Header::describe(id, checkpoint, origin, then);
        if self.growth.is_some() {
            header.features_needed |= PARTIAL_PACK;
        }
        let bytes = encode(&mut header, checkpoint, &blocks).map_err(bad)?;
        steps.end("store.encode");
        let sync = || {
            fault("store.pack.sync", self.pack.path(), self.pack.len_bytes())?;
            self.pack.sync()
        };
        let added = self.pack.added_bytes();
        let mut committed = self.place.publish(header, bytes, &blocks, sync, steps)?;
        if let Some(growth) = &mut self.growth {
            growth.kept = true;
        }
        committed.bytes -= blocks.len_bytes() - added;
        Ok(committed)
    }
}

/// What a command is doing to a process, told to whoever comes after it should it die; gone when dropped.
pub struct Intent {
    place: Place,
}

impl Intent {
    pub(crate) fn new(root: &Arc<Root>, doing: &str, name: &Name) -> Result<Self> {
        Ok(Self { place: Place::new(root, doing, name)? })
    }

    /// Notes which process it is, as [`Draft::aim_at`].
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn aim_at(&self, target: &Instance) -> Result<()> {
        self.place.create(&format!("{TARGET}{}.{}", target.pid, target.start_time)).map(drop)
    }
}

/// A directory below `drafts`, locked while its process lives and removed when dropped.
pub(crate) struct Place {
    pub(crate) root: Arc<Root>,
    pub(crate) relative: PathBuf,
    /// Holds the lock by which others see that we live.
    dir: OwnedFd,
    published: bool,
    /// A file that is of use only while this is a draft: it tells whom a freeze stops.
    passing: Option<String>,
}

impl Place {
    /// Makes and locks a directory. `kind` says what for: `freeze`, `import`, ...
    pub(crate) fn new(root: &Arc<Root>, kind: &str, name: &Name) -> Result<Self> {
        // Under the lock of the store, since a sweeper takes any draft it can lock for a dead one's.
        let _lock = root.lock()?;
        Self::new_locked(root, kind, name)
    }

    fn new_locked(root: &Arc<Root>, kind: &str, name: &Name) -> Result<Self> {
        let relative = Self::path(root, kind, name)?;
        root.make_dir(&relative)?;
        let dir = lock_dir(root, &relative)?;
        Ok(Self { root: Arc::clone(root), relative, dir, published: false, passing: None })
    }

    /// Takes a directory of the images away, to be removed. The caller holds the lock of the store.
    ///
    /// It is renamed as a whole and nothing is made for it, so that it works on a full disk.
    pub(crate) fn adopt(root: &Arc<Root>, name: &Name, from: &Path) -> Result<Self> {
        let relative = Self::path(root, "remove", name)?;
        let dir = lock_dir(root, from)?;
        root.rename(from, &relative)?;
        Ok(Self { root: Arc::clone(root), relative, dir, published: false, passing: None })
    }

    fn path(root: &Root, kind: &str, name: &Name) -> Result<PathBuf> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Error::io("get random bytes for", &root.show(DRAFTS), errno))?;
        let (pid, random) = (std::process::id(), u64::from_ne_bytes(random));
        Ok(Path::new(DRAFTS).join(format!("{kind}.{pid}.{random:016x}.{name}")))
    }

    pub(crate) fn show(&self, file: &str) -> PathBuf {
        self.root.show(self.relative.join(file))
    }

    pub(crate) fn create(&self, file: &str) -> Result<OwnedFd> {
        self.root.create(self.relative.join(file), OFlags::RDWR | OFlags::EXCL)
    }

    /// Lets it lie, for the next command to find.
    pub(crate) fn leave(&mut self) {
        self.published = true;
    }

    /// Removes the directory with all in it; returns how many bytes of disk that frees.
    pub(crate) fn clear(mut self) -> Result<u64> {
        self.published = true;
        self.root.remove_tree(&self.relative)
    }

    /// Writes the manifest file, syncs all and renames it to the next version of its name.
    ///
    /// `header` gets the next version here, or keeps a later one; `bytes` is the manifest file. `sync_pack` makes the
    /// pack survive a power loss.
    ///
    /// The order has a reason beyond safety: as the manifest is on its way to the device when the pack is synced, a
    /// journaling file system writes its journal once for both, and what is left of the manifest is an overwrite.
    pub(crate) fn publish(
        mut self,
        mut header: Header,
        mut bytes: Vec<u8>,
        blocks: &Blocks,
        sync_pack: impl FnOnce() -> Result<()>,
        mut steps: Steps,
    ) -> Result<Committed> {
        let path = self.show(MANIFEST);
        let len_bytes = bytes.len() as u64;
        let failed = |errno| Error::write(&path, errno, len_bytes, || self.root.free_bytes());
        let file = self.create(MANIFEST)?;
        fault("store.manifest.write", &path, len_bytes)?;
        write_all_at(file.as_fd(), &bytes, 0).map_err(failed)?;
        // Only to make the sync below short.
        let _ = frost_sys::writeback::start_writeback(file.as_fd(), 0, 0);
        sync_pack()?;
        steps.end("store.pack.sync");

        let lock = self.root.lock()?;
        let name = header.id.name.clone();
        header.id.version = next_version(&self.root, &name)?.max(header.id.version);
        bytes[..Header::LEN_BYTES].copy_from_slice(&header.encode());
        fault("store.manifest.sync", &path, len_bytes)?;
        write_all_at(file.as_fd(), &bytes[..Header::LEN_BYTES], 0).map_err(failed)?;
        fs::fdatasync(&file).map_err(failed)?;
        fs::fsync(&self.dir).map_err(failed)?;
        steps.end("store.manifest.sync");

        let home = dir_of_name(&name);
        let is_new = self.root.make_dir(&home)?;
        let target = dir_of(&header.id);
        fault("store.rename", &path, 0)?;
        self.root.rename(&self.relative, &target)?;
        let synced = fault("store.renamed", &path, 0)
            .and_then(|()| self.root.sync_dir(&home))
            .and_then(|()| if is_new { self.root.sync_dir(IMAGES) } else { Ok(()) });
        if let Err(error) = synced {
            // It may not survive a power loss, so it must not be taken for an image.
            self.root.rename(&target, &self.relative)?;
            return Err(error);
        }
        self.published = true;
        if let Some(file) = &self.passing {
            // Not before the rename, for whoever sweeps after us. If it stays, nobody minds.
            let _ = self.root.unlink(target.join(file));
        }
        // A child that we forked may have the descriptor still; nobody shall wait for it.
        let _ = fs::flock(&self.dir, FlockOperation::Unlock);
        let replaced = remove_superseded(&self.root, &header);
        drop(lock);
        steps.end("store.rename");
        let bytes = len_bytes + blocks.len_bytes();
        let manifest_digest = header.manifest_digest;
        Ok(Committed { id: header.id, bytes, manifest_digest, replaced, steps: steps.into_done() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is found by the next command.
            let _ = self.root.remove_tree(&self.relative);
        }
    }
}

/// The versions of a name, ascending.
pub(crate) fn versions(root: &Root, name: &Name) -> Result<Vec<u32>> {
    let mut versions: Vec<u32> =
        root.names(dir_of_name(name))?.iter().filter_map(|entry| version_of(entry)).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// Reads the name of a version's directory, which has one spelling.
fn version_of(entry: &str) -> Option<u32> {
    entry.parse().ok().filter(|version: &u32| *version > 0 && version.to_string() == entry)
}

/// The version after the highest that a name ever had. The caller holds the lock.
fn next_version(root: &Root, name: &Name) -> Result<u32> {
    let present = versions(root, name)?.last().copied().unwrap_or(0);
    let last = present.max(last_version(root, name)?);
    last.checked_add(1).ok_or_else(|| Error::NoVersions { name: name.to_string() })
}

/// The highest version that was ever removed by number, 0 if none was.
pub(crate) fn last_version(root: &Root, name: &Name) -> Result<u32> {
    let text = root.read_link(dir_of_name(name).join(LAST))?;
    Ok(text.as_deref().and_then(version_of).unwrap_or(0))
}

/// Locks a directory, by which others see that its process lives.
fn lock_dir(root: &Root, relative: &Path) -> Result<OwnedFd> {
    let dir = root.open_dir(relative)?;
    fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)
        .map_err(|errno| Error::io("lock", &root.show(relative), errno))?;
    Ok(dir)
}

/// Removes the images that the new one replaces: of the same process, which was to be ended and was not.
///
/// The caller holds the lock. What cannot be removed stays superseded, so errors change nothing.
fn remove_superseded(root: &Arc<Root>, new: &Header) -> Vec<ImageId> {
    let mut replaced = Vec::new();
    if new.origin.pid <= 0 || !matches!(liveness(&new.origin), Ok(Liveness::Runs)) {
        return replaced;
    }
    for version in versions(root, &new.id.name).unwrap_or_default().into_iter().rev() {
        let id = ImageId { name: new.id.name.clone(), version };
        let Ok(old) = crate::image::read_header(root, &id) else { continue };
        if id == new.id || old.origin != new.origin {
            continue;
        }
        if old.then != Then::End {
            // When that one was made, there was none before it any more.
            break;
        }
        // The place goes at once, and the files with it.
        if Place::adopt(root, &id.name, &dir_of(&id)).is_ok() {
            replaced.push(id);
        }
    }
    replaced
}
