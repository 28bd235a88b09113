//! Cold packs: compressed when nobody has needed them for long, inflated when somebody does.

use crate::draft::Place;
use crate::error::{Error, Result};
use crate::frame::{FrameEncoder, PackReader, RawWriter, open_hot};
use crate::image::{Live, PackBlocks, open_manifest, read_blocks, read_live};
use crate::root::{COLD, DRAFTS, PACK, Root, dir_of, fault, write_all_at};
use frost_image::{BLOCK_BYTES, Blocks, ImageId, SeekTable};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::sync::Arc;

/// What the compression of a pack brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Of which image; of several versions that share a pack, the newest.
    pub id: ImageId,
    /// Bytes on disk before.
    pub before_bytes: u64,
    /// Bytes on disk now.
    pub after_bytes: u64,
}

/// A pack as raw pages.
pub(crate) enum Raw {
    /// The file in the store, not verified.
    Hot(OwnedFd),
    /// A file without a name that was made of a cold pack, verified.
    Inflated(OwnedFd),
}

/// Opens the pack of an image as raw pages, read-only: the file itself, or a cold one inflated and verified.
pub(crate) fn open_raw(
    root: &Arc<Root>,
    header: &frost_image::Header,
    blocks: impl FnOnce() -> Result<PackBlocks>,
) -> Result<Raw> {
    if let Some((file, _)) = open_hot(root, header)? {
        return Ok(Raw::Hot(file));
    }
    let mut reader = PackReader::open(root, header)?;
    let blocks = blocks()?;
    let file = unnamed(root, header)?;
    let path = root.show(DRAFTS);
    let writer = RawWriter::new(file.as_fd(), &path, header.pack.len_bytes)?;
    for index in 0..reader.frames() {
        let raw = reader.frame(index, &blocks)?;
        writer.write(raw, SeekTable::held(index, header.pack.len_bytes).start)?;
    }
    // What nobody may write any more, nobody can. Without /proc it stays as it is.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let read_only = fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    Ok(Raw::Inflated(read_only.unwrap_or(file)))
}

/// A file without a name in the store, which goes when it is closed.
fn unnamed(root: &Arc<Root>, header: &frost_image::Header) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let drafts = root.open_dir(DRAFTS)?;
    match fs::openat(&drafts, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file),
        // Not every file system has them.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
            // The place goes at the end of this function, and takes the name away.
            Place::new(root, "thaw", &header.id.name)?.create(PACK)
        }
        Err(errno) => {
            Err(Error::write(&root.show(DRAFTS), errno, header.pack.len_bytes, || root.free_bytes()))
        }
    }
}

/// Compresses the pack that `group` has in common, verifying it on the way; the last of the group has all of it. `None` if
/// it is compressed, is used by others too, or would not shrink by a tenth.
///
/// Whoever has the raw pack open keeps it.
pub(crate) fn compress(root: &Arc<Root>, group: &[ImageId], level: i32) -> Result<Option<Compressed>> {
    let Some(id) = group.last() else { return Ok(None) };
    let (manifest, header) = open_manifest(root, id)?;
    let raw = dir_of(id).join(PACK);
    let mut reader = PackReader::open(root, &header)?;
    if reader.is_cold() {
        return Ok(None);
    }
    let live = live_of(root, group)?;
    let blocks = PackBlocks::new(read_blocks(root, &header, &manifest)?, reader.path().to_owned(), live);
    let before_bytes = root.disk_bytes(&raw);
    let place = Place::new(root, "compress", &id.name)?;
    let (file, path) = (place.create(COLD)?, place.show(COLD));
    let failed = |errno| Error::write(&path, errno, header.pack.len_bytes, || root.free_bytes());
    let mut encoder = FrameEncoder::new(level).map_err(|source| Error::io("compress", &path, source))?;
    let (mut table, mut end) = (SeekTable::new(), 0);
    for index in 0..reader.frames() {
        let frame = encoder
            .encode(reader.frame(index, &blocks)?)
            .map_err(|source| Error::io("compress", &path, source))?;
        write_all_at(file.as_fd(), frame, end).map_err(failed)?;
        table.push(frame.len() as u64);
        end += frame.len() as u64;
        root.report(SeekTable::held(index, header.pack.len_bytes).end, header.pack.len_bytes);
        if end > before_bytes - before_bytes / 10 {
            return Ok(None);
        }
    }
    write_all_at(file.as_fd(), &table.encode(header.pack.len_bytes), end).map_err(failed)?;
    fs::fdatasync(&file).map_err(failed)?;

    let _lock = root.lock()?;
    // Nobody may have gone on with it meanwhile, or be about to.
    let Some(_growing) = root.lock_file(&raw)? else { return Ok(None) };
    if root.names_of_file(&raw) != group.len() as u64 {
        return Ok(None);
    }
    // If an image was removed meanwhile, so is its directory, and this fails.
    let (others, made) = (&group[..group.len() - 1], place.relative.join(COLD));
    for other in others {
        if !root.link(&made, dir_of(other).join(COLD))? {
            return Ok(None);
        }
    }
    root.rename(&made, dir_of(id).join(COLD))?;
    for one in group {
        root.sync_dir(dir_of(one))?;
    }
    fault("store.compress.renamed", &path, 0)?;
    for one in group {
        root.unlink(dir_of(one).join(PACK))?;
    }
    Ok(Some(Compressed { id: id.clone(), before_bytes, after_bytes: root.disk_bytes(dir_of(id).join(COLD)) }))
}

/// Returns which blocks of a pack any of `group` refers to.
fn live_of(root: &Arc<Root>, group: &[ImageId]) -> Result<Live> {
    let mut live = Live::all(0);
    for id in group {
        let (manifest, header) = open_manifest(root, id)?;
        live.add(&read_live(root, &header, &manifest)?);
    }
    Ok(live)
}

/// Gives back to the file system what is in the pack of `group` and no image of it refers to; returns how many bytes.
///
/// Nothing moves: blocks become holes, and what a freeze that died has left behind the end goes.
pub(crate) fn reclaim(root: &Arc<Root>, group: &[ImageId]) -> Result<u64> {
    let Some(id) = group.last() else { return Ok(0) };
    let (raw, path) = (dir_of(id).join(PACK), root.show(dir_of(id).join(PACK)));
    let live = live_of(root, group)?;
    let (_, header) = open_manifest(root, id)?;
    let _lock = root.lock()?;
    let before = root.disk_bytes(&raw);
    if before <= live.count() * BLOCK_BYTES {
        return Ok(0);
    }
    let Some(file) = root.lock_file(&raw)? else { return Ok(0) };
    if root.names_of_file(&raw) != group.len() as u64 {
        return Ok(0);
    }
    let failed = |errno| Error::io("punch holes in", &path, errno);
    fs::ftruncate(&file, header.pack.len_bytes).map_err(failed)?;
    let mut dead = 0..0;
    for block in 0..=Blocks::count_for(header.pack.len_bytes) {
        let is_dead = block * BLOCK_BYTES < header.pack.len_bytes && !live.contains(block);
        if is_dead && dead.end == block && !dead.is_empty() {
            dead.end = block + 1;
            continue;
        }
        if !dead.is_empty() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fs::fallocate(&file, flags, dead.start * BLOCK_BYTES, (dead.end - dead.start) * BLOCK_BYTES)
            {
                Ok(()) => {}
                // Not every file system can.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(errno) => return Err(failed(errno)),
            }
        }
        dead = if is_dead { block..block + 1 } else { 0..0 };
    }
    Ok(before.saturating_sub(root.disk_bytes(&raw)))
}
