//! An image of the store, opened for reading.

use crate::cold::{Raw, open_raw};
use crate::error::{Error, Result};
use crate::frame::PackReader;
use crate::pages::PackPages;
use crate::root::{MANIFEST, PACK, Root, dir_of, read_full_at};
use frost_image::{BLOCK_BYTES, Blocks, Digest, Header, ImageId, PARTIAL_PACK, decode};
use frost_model::Checkpoint;
use frost_model::check::Malformed;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// An image whose header and manifest were read, verified and validated; its pack was not read yet.
pub struct Image {
    root: Arc<Root>,
    /// Kept open, so that the image can be read to its end even if it is removed meanwhile.
    manifest: OwnedFd,
    header: Header,
    checkpoint: Checkpoint,
    /// The pack, inflated, if it is cold and was asked for.
    inflated: OnceLock<OwnedFd>,
}

impl Image {
    pub(crate) fn open(root: &Arc<Root>, id: &ImageId) -> Result<Self> {
        let (manifest, header) = open_manifest(root, id)?;
        let bad = |source| Error::Image { path: root.show(dir_of(id).join(MANIFEST)), source };
        header.require_architecture(std::env::consts::ARCH).map_err(bad)?;
        let bytes = read_part(root, id, &manifest, Header::LEN_BYTES as u64, header.manifest_bytes)?;
        let checkpoint = decode(&header, &bytes).map_err(bad)?.checkpoint;
        Ok(Self { root: Arc::clone(root), manifest, header, checkpoint, inflated: OnceLock::new() })
    }

    /// Returns the name and the version.
    pub fn id(&self) -> &ImageId {
        &self.header.id
    }

    /// Returns the header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the program.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Takes the program out.
    pub fn into_checkpoint(self) -> Checkpoint {
        self.checkpoint
    }

    /// Opens the pack for reading: raw pages at the offsets that the checkpoint names.
    ///
    /// The bytes of a hot pack are not verified; [`blocks`](Self::blocks) has the digests to do that with, beside
    /// other work. A cold pack is inflated into a file without a name in the store, and verified on the way, some
    /// 1 GB/s, once for all calls: use pread, as what they return shares a file offset.
    ///
    /// # Errors
    /// [`Error::Image`] if the pack has another length than it was committed with, [`Error::Io`] if it is missing;
    /// of a cold one also [`Error::BlockDamaged`], and [`Error::NoSpace`].
    pub fn pack(&self) -> Result<OwnedFd> {
        let again = |file: &OwnedFd| {
            file.try_clone()
                .map_err(|source| Error::io("open", &self.root.show(dir_of(self.id()).join(PACK)), source))
        };
        match self.inflated.get() {
            Some(file) => again(file),
            None => match open_raw(&self.root, &self.header, || self.blocks())? {
                Raw::Hot(file) => Ok(file),
                Raw::Inflated(file) => again(self.inflated.get_or_init(|| file)),
            },
        }
    }

    /// Opens the pack for reading it piece by piece with little memory: for looking at an image, not for thawing it.
    ///
    /// # Errors
    /// As of [`pack`](Self::pack) and [`blocks`](Self::blocks), without those of inflating a cold one.
    pub fn pages(&self) -> Result<PackPages> {
        let reader = PackReader::open(&self.root, &self.header)?;
        let blocks = PackBlocks { path: reader.path().to_owned(), ..self.blocks()? };
        Ok(PackPages::new(reader, blocks))
    }

    /// Reads the digests of the blocks of the pack.
    ///
    /// # Errors
    /// [`Error::Image`] if they are damaged; they prove themselves against the digest in the header.
    pub fn blocks(&self) -> Result<PackBlocks> {
        let path = self.root.show(dir_of(self.id()).join(PACK));
        let blocks = read_blocks(&self.root, &self.header, &self.manifest)?;
        let live = Live::of(&self.header, &self.checkpoint).map_err(|malformed| Error::Image {
            path: self.root.show(dir_of(self.id()).join(MANIFEST)),
            source: malformed.into(),
        })?;
        Ok(PackBlocks { blocks, path, live })
    }

    /// Verifies a pack that [`pack`](Self::pack) opened, all of it: some 4 GB/s from the page cache.
    ///
    /// # Errors
    /// [`Error::BlockDamaged`] names the first block that is not what it was.
    pub fn verify_pack(&self, pack: BorrowedFd<'_>) -> Result<()> {
        let blocks = self.blocks()?;
        blocks.verify(pack, 0..blocks.len_bytes())
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("id", self.id()).finish_non_exhaustive()
    }
}

/// The digests of a pack, with which ranges of it are verified. It can be sent to a thread that does so.
///
/// Only blocks that the image refers to are looked at: the others belong to earlier versions, and may be gone.
#[derive(Clone, Debug)]
pub struct PackBlocks {
    blocks: Blocks,
    path: PathBuf,
    live: Live,
}

/// Which blocks of a pack hold something that an image refers to.
#[derive(Clone, Debug)]
pub(crate) struct Live(Vec<u64>);

impl Live {
    /// All of a pack of `len_bytes`.
    pub(crate) fn all(len_bytes: u64) -> Self {
        let count = Blocks::count_for(len_bytes);
        let mut words = vec![u64::MAX; (count as usize).div_ceil(64)];
        if let Some(last) = words.last_mut() {
            *last >>= (64 - count % 64) % 64;
        }
        Self(words)
    }

    /// Those that an image refers to, which are all unless its pack has those of other versions too.
    pub(crate) fn of(header: &Header, checkpoint: &Checkpoint) -> std::result::Result<Self, Malformed> {
        let len_bytes = header.pack.len_bytes;
        if header.features_needed & PARTIAL_PACK == 0 {
            return Ok(Self::all(len_bytes));
        }
        let mut live = Self(vec![0; (Blocks::count_for(len_bytes) as usize).div_ceil(64)]);
        for range in checkpoint.stored(len_bytes)? {
            for block in range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES) {
                live.0[block as usize / 64] |= 1 << (block % 64);
            }
        }
        Ok(live)
    }

    /// Adds those of another image that shares the pack.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub(crate) fn contains(&self, block: u64) -> bool {
        self.0.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }
}

impl PackBlocks {
    pub(crate) fn new(blocks: Blocks, path: PathBuf, live: Live) -> Self {
        Self { blocks, path, live }
    }

    pub(crate) fn into_blocks(self) -> Blocks {
        self.blocks
    }

    /// Returns the length of the pack.
    pub fn len_bytes(&self) -> u64 {
        self.blocks.len_bytes()
    }

    /// Returns whether the image refers to anything in a block.
    pub(crate) fn is_live(&self, block: u64) -> bool {
        self.live.contains(block)
    }

    /// Returns the digest of a block, which holds for its place in the pack only; `None` behind the last.
    pub(crate) fn digest(&self, block: u64) -> Option<Digest> {
        // The only block of a pack has the digest of the pack, which is computed otherwise.
        self.blocks.digest(block).filter(|_| self.blocks.count() > 1)
    }

    /// Verifies the blocks that `range` of the pack touches.
    ///
    /// # Errors
    /// [`Error::BlockDamaged`] names the first block that is not what it was, also if the pack ends before it.
    pub fn verify(&self, pack: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let range = range.start..range.end.min(self.len_bytes());
        if range.is_empty() {
            return Ok(());
        }
        for block in range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES) {
            if !self.live.contains(block) {
                continue;
            }
            let place = self.blocks.range(block);
            let bytes = &mut buffer[..(place.end - place.start) as usize];
            let read = read_full_at(pack, bytes, place.start)
                .map_err(|errno| Error::io("read", &self.path, errno))?;
            if !self.blocks.verify(block, &bytes[..read]) {
                return Err(self.error(block));
            }
        }
        Ok(())
    }

    fn error(&self, block: u64) -> Error {
        self.frame_error(&self.path, self.blocks.range(block))
    }

    /// The error that names a range of the pack.
    pub(crate) fn frame_error(&self, path: &Path, range: Range<u64>) -> Error {
        Error::BlockDamaged {
            path: path.to_owned(),
            block: range.start / BLOCK_BYTES,
            offset: range.start,
            len_bytes: range.end - range.start,
        }
    }

    /// Verifies consecutive blocks in memory, the first of them being block `first`.
    pub(crate) fn verify_frame(&self, path: &Path, first: u64, raw: &[u8]) -> Result<()> {
        self.damaged_in(path, first, raw).next().map_or(Ok(()), Err)
    }

    /// Zeroes those of consecutive blocks in memory that the image does not refer to.
    pub(crate) fn clear_dead(&self, first: u64, raw: &mut [u8]) {
        for (bytes, block) in raw.chunks_mut(BLOCK_BYTES as usize).zip(first..) {
            if !self.is_live(block) {
                bytes.fill(0);
            }
        }
    }

    /// The damaged ones of consecutive blocks in memory.
    pub(crate) fn damaged_in(&self, path: &Path, first: u64, raw: &[u8]) -> impl Iterator<Item = Error> {
        raw.chunks(BLOCK_BYTES as usize)
            .zip(first..)
            .filter(|(bytes, block)| self.is_live(*block) && !self.blocks.verify(*block, bytes))
            .map(|(_, block)| self.frame_error(path, self.blocks.range(block)))
    }
}

/// Reads the header of an image.
pub(crate) fn read_header(root: &Root, id: &ImageId) -> Result<Header> {
    open_manifest(root, id).map(|(_, header)| header)
}

/// Opens a manifest file, reads its header, and checks that the file has the length it announces.
pub(crate) fn open_manifest(root: &Root, id: &ImageId) -> Result<(OwnedFd, Header)> {
    let relative = dir_of(id).join(MANIFEST);
    let path = root.show(&relative);
    let Some((file, stat)) = root.open_file(&relative)? else {
        let (spec, versions) = (id.to_string(), crate::draft::versions(root, &id.name)?);
        if versions.contains(&id.version) {
            return Err(Error::Lost { path });
        }
        return Err(Error::NoSuchImage { spec, versions });
    };
    let mut bytes = [0; Header::LEN_BYTES];
    let len = read_full_at(file.as_fd(), &mut bytes, 0).map_err(|errno| Error::io("read", &path, errno))?;
    let bad = |source| Error::Image { path: path.clone(), source };
    let header = Header::decode(&bytes[..len]).map_err(bad)?;
    check_length(&path, "manifest file", header.file_bytes(), stat.st_size.cast_unsigned())?;
    if header.id != *id {
        let why = format!("it is of {}", header.id);
        return Err(bad(frost_image::Error::Damaged { what: "header", why }));
    }
    Ok((file, header))
}

pub(crate) fn check_length(
    path: &Path,
    what: &'static str,
    expected_bytes: u64,
    found_bytes: u64,
) -> Result<()> {
    let source = match found_bytes.cmp(&expected_bytes) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => frost_image::Error::CutShort { what, expected_bytes, found_bytes },
        std::cmp::Ordering::Greater => {
            let why = format!("it has {found_bytes} bytes instead of {expected_bytes}");
            frost_image::Error::Damaged { what, why }
        }
    };
    Err(Error::Image { path: path.to_owned(), source })
}

/// Reads the block table of an image.
pub(crate) fn read_blocks(root: &Root, header: &Header, manifest: &OwnedFd) -> Result<Blocks> {
    let offset = Header::LEN_BYTES as u64 + header.manifest_bytes;
    let bytes = read_part(root, &header.id, manifest, offset, header.table_bytes())?;
    Blocks::decode(&bytes, header.pack.len_bytes, &header.pack.root)
        .map_err(|source| Error::Image { path: root.show(dir_of(&header.id).join(MANIFEST)), source })
}

/// Reads which blocks of its pack an image refers to.
pub(crate) fn read_live(root: &Root, header: &Header, manifest: &OwnedFd) -> Result<Live> {
    let bytes = read_part(root, &header.id, manifest, Header::LEN_BYTES as u64, header.manifest_bytes)?;
    decode(header, &bytes)
        .and_then(|manifest| Ok(Live::of(header, &manifest.checkpoint)?))
        .map_err(|source| Error::Image { path: root.show(dir_of(&header.id).join(MANIFEST)), source })
}

/// Reads a part of a manifest file, whose length was compared with what the header says.
pub(crate) fn read_part(
    root: &Root,
    id: &ImageId,
    manifest: &OwnedFd,
    offset: u64,
    len_bytes: u64,
) -> Result<Vec<u8>> {
    let path = root.show(dir_of(id).join(MANIFEST));
    let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(usize::MAX)];
    let read = read_full_at(manifest.as_fd(), &mut bytes, offset)
        .map_err(|errno| Error::io("read", &path, errno))?;
    bytes.truncate(read);
    Ok(bytes)
}
