//! An image of the store, opened for reading.

use crate::error::{Error, Result};
use crate::root::{MANIFEST, PACK, Root, dir_of, read_full_at};
use frost_image::{BLOCK_BYTES, Blocks, Header, ImageId, decode};
use frost_model::Checkpoint;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// An image whose header and manifest were read, verified and validated; its pack was not read yet.
pub struct Image {
    root: Arc<Root>,
    /// Kept open, so that the image can be read to its end even if it is removed meanwhile.
    manifest: OwnedFd,
    header: Header,
    checkpoint: Checkpoint,
}

impl Image {
    pub(crate) fn open(root: &Arc<Root>, id: &ImageId) -> Result<Self> {
        let (manifest, header) = open_manifest(root, id)?;
        let bad = |source| Error::Image { path: root.show(dir_of(id).join(MANIFEST)), source };
        header.require_architecture(std::env::consts::ARCH).map_err(bad)?;
        let bytes = read_part(root, id, &manifest, Header::LEN_BYTES as u64, header.manifest_bytes)?;
        let checkpoint = decode(&header, &bytes).map_err(bad)?.checkpoint;
        Ok(Self { root: Arc::clone(root), manifest, header, checkpoint })
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
    /// Its bytes are not verified; [`blocks`](Self::blocks) has the digests to do that with, beside other work.
    ///
    /// # Errors
    /// [`Error::Image`] if the pack is missing or has another length than it was committed with.
    pub fn pack(&self) -> Result<OwnedFd> {
        let relative = dir_of(self.id()).join(PACK);
        let path = self.root.show(&relative);
        let Some((file, stat)) = self.root.open_file(&relative)? else {
            return Err(Error::io("open", &path, rustix::io::Errno::NOENT));
        };
        check_length(&path, "pack", self.header.pack.len_bytes, stat.st_size.cast_unsigned())?;
        Ok(file)
    }

    /// Reads the digests of the blocks of the pack.
    ///
    /// # Errors
    /// [`Error::Image`] if they are damaged; they prove themselves against the digest in the header.
    pub fn blocks(&self) -> Result<PackBlocks> {
        let path = self.root.show(dir_of(self.id()).join(PACK));
        read_blocks(&self.root, &self.header, &self.manifest).map(|blocks| PackBlocks { blocks, path })
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

/// The digests of a pack, with which ranges of it are verified. It can be sent to a thread that does so.
#[derive(Clone, Debug)]
pub struct PackBlocks {
    blocks: Blocks,
    path: PathBuf,
}

impl PackBlocks {
    /// Returns the length of the pack.
    pub fn len_bytes(&self) -> u64 {
        self.blocks.len_bytes()
    }

    /// Verifies the blocks that `range` of the pack touches.
    ///
    /// # Errors
    /// [`Error::BlockDamaged`] names the first block that is not what it was, also if the pack ends before it.
    pub fn verify(&self, pack: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
        self.damaged(pack, range, 1).map(|damaged| match damaged.first() {
            None => Ok(()),
            Some(block) => Err(self.error(*block)),
        })?
    }

    /// The first blocks of `range` that are damaged, `limit` at most.
    pub(crate) fn damaged(&self, pack: BorrowedFd<'_>, range: Range<u64>, limit: usize) -> Result<Vec<u64>> {
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut damaged = Vec::new();
        let range = range.start..range.end.min(self.len_bytes());
        if range.is_empty() {
            return Ok(damaged);
        }
        for block in range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES) {
            let place = self.blocks.range(block);
            let bytes = &mut buffer[..(place.end - place.start) as usize];
            let read = read_full_at(pack, bytes, place.start)
                .map_err(|errno| Error::io("read", &self.path, errno))?;
            if !self.blocks.verify(block, &bytes[..read]) {
                damaged.push(block);
                if damaged.len() == limit {
                    break;
                }
            }
        }
        Ok(damaged)
    }

    pub(crate) fn error(&self, block: u64) -> Error {
        let place = self.blocks.range(block);
        let len_bytes = place.end - place.start;
        Error::BlockDamaged { path: self.path.clone(), block, offset: place.start, len_bytes }
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
        let spec = id.to_string();
        return Err(Error::NoSuchImage { spec, versions: crate::draft::versions(root, &id.name)? });
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

fn check_length(
    path: &std::path::Path,
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
