//! Cold packs: compressed when nobody has needed them for long, inflated when somebody does.

use crate::draft::Place;
use crate::error::{Error, Result};
use crate::frame::{FrameEncoder, PackReader, RawWriter};
use crate::image::{PackBlocks, open_manifest, read_blocks};
use crate::root::{COLD, DRAFTS, PACK, Root, dir_of, fault, write_all_at};
use frost_image::{ImageId, SeekTable};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::sync::Arc;

/// What the compression of a pack brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Of which image.
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
    let mut reader = PackReader::open(root, header)?;
    if !reader.is_cold() {
        return Ok(Raw::Hot(reader.into_file()));
    }
    let blocks = blocks()?;
    let file = unnamed(root, header)?;
    let path = root.show(DRAFTS);
    let writer = RawWriter::new(file.as_fd(), &path, header.pack.len_bytes)?;
    for index in 0..reader.frames() {
        let (raw, _) = reader.frame(index, &blocks)?;
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

/// Compresses the pack of an image, verifying it on the way. `None` if it is compressed, or would not shrink by a
/// tenth.
///
/// Whoever has the raw pack open keeps it.
pub(crate) fn compress(root: &Arc<Root>, id: &ImageId, level: i32) -> Result<Option<Compressed>> {
    let (manifest, header) = open_manifest(root, id)?;
    let raw = dir_of(id).join(PACK);
    let mut reader = PackReader::open(root, &header)?;
    if reader.is_cold() {
        return Ok(None);
    }
    let blocks = PackBlocks::new(read_blocks(root, &header, &manifest)?, reader.path().to_owned());
    let before_bytes = root.disk_bytes(&raw);
    let place = Place::new(root, "compress", &id.name)?;
    let (file, path) = (place.create(COLD)?, place.show(COLD));
    let failed = |errno| Error::write(&path, errno, header.pack.len_bytes, || root.free_bytes());
    let mut encoder = FrameEncoder::new(level).map_err(|source| Error::io("compress", &path, source))?;
    let (mut table, mut end) = (SeekTable::new(), 0);
    for index in 0..reader.frames() {
        let (raw, _) = reader.frame(index, &blocks)?;
        let frame = encoder.encode(raw).map_err(|source| Error::io("compress", &path, source))?;
        write_all_at(file.as_fd(), frame, end).map_err(failed)?;
        table.push(frame.len() as u64);
        end += frame.len() as u64;
        if end > before_bytes - before_bytes / 10 {
            return Ok(None);
        }
    }
    write_all_at(file.as_fd(), &table.encode(header.pack.len_bytes), end).map_err(failed)?;
    fs::fdatasync(&file).map_err(failed)?;

    let _lock = root.lock()?;
    // If the image was removed meanwhile, so is its directory, and the rename fails.
    root.rename(place.relative.join(COLD), dir_of(id).join(COLD))?;
    root.sync_dir(dir_of(id))?;
    fault("store.compress.renamed", &path, 0)?;
    root.unlink(&raw)?;
    Ok(Some(Compressed { id: id.clone(), before_bytes, after_bytes: root.disk_bytes(dir_of(id).join(COLD)) }))
}
