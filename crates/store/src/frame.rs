//! The pack as a sequence of frames of 1 MiB, whether it lies raw or compressed.

use crate::error::{Error, Result};
use crate::image::{PackBlocks, check_length};
use crate::root::{COLD, PACK, Root, dir_of, read_full_at, within_limit, write_all_at};
use frost_image::{BLOCK_BYTES, COMPRESSED_LIMIT_BYTES, FRAME_BYTES, Header, SeekTable};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs;
use std::path::{Path, PathBuf};
use zstd::bulk::{Compressor, Decompressor};

/// The pack of an image, read frame by frame.
pub(crate) struct PackReader {
    file: OwnedFd,
    path: PathBuf,
    len_bytes: u64,
    /// Where its frames lie, if it is cold.
    cold: Option<SeekTable>,
    compressed: Vec<u8>,
    decoder: FrameDecoder,
}

impl PackReader {
    /// Opens the pack of an image, raw or cold.
    pub(crate) fn open(root: &Root, header: &Header) -> Result<Self> {
        let len_bytes = header.pack.len_bytes;
        let dir = dir_of(&header.id);
        if let Some((file, path)) = open_hot(root, header)? {
            return Self::new(file, path, len_bytes, None);
        }
        let path = root.show(dir.join(PACK));
        let cold_path = root.show(dir.join(COLD));
        let Some((file, stat)) = root.open_file(dir.join(COLD))? else {
            return Err(Error::Lost { path });
        };
        let table = read_table(&file, &cold_path, stat.st_size.cast_unsigned(), len_bytes)?;
        Self::new(file, cold_path, len_bytes, Some(table))
    }

    fn new(file: OwnedFd, path: PathBuf, len_bytes: u64, cold: Option<SeekTable>) -> Result<Self> {
        let decoder = FrameDecoder::new(&path)?;
        let compressed = vec![0; COMPRESSED_LIMIT_BYTES as usize];
        Ok(Self { file, path, len_bytes, cold, compressed, decoder })
    }

    pub(crate) fn is_cold(&self) -> bool {
        self.cold.is_some()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn frames(&self) -> u64 {
        SeekTable::count_for(self.len_bytes)
    }

    /// Reads frame `index`, verified; blocks that the image does not refer to are zeros.
    ///
    /// # Errors
    /// [`Error::BlockDamaged`] for the first damaged block; all of the frame if it cannot be decompressed.
    pub(crate) fn frame(&mut self, index: u64, blocks: &PackBlocks) -> Result<&[u8]> {
        let held = SeekTable::held(index, self.len_bytes);
        let len = (held.end - held.start) as usize;
        let first = held.start / BLOCK_BYTES;
        match &self.cold {
            None => {
                let raw = &mut self.decoder.raw[..len];
                read_full_at(self.file.as_fd(), raw, held.start)
                    .map_err(|errno| Error::io("read", &self.path, errno))?;
            }
            Some(table) => {
                let place = table.range(index).unwrap_or(0..0);
                let compressed = &mut self.compressed[..(place.end - place.start) as usize];
                read_full_at(self.file.as_fd(), compressed, place.start)
                    .map_err(|errno| Error::io("read", &self.path, errno))?;
                // The last frame holds more if a later version has gone on with the pack.
                let whole = SeekTable::held(index, table.pack_bytes());
                if self.decoder.decode(compressed, (whole.end - whole.start) as usize).is_none() {
                    return Err(blocks.frame_error(&self.path, held));
                }
            }
        }
        let raw = &mut self.decoder.raw[..len];
        blocks.verify_frame(&self.path, first, raw)?;
        blocks.clear_dead(first, raw);
        Ok(raw)
    }

    /// Returns the bytes of frame `index`, which is the one that [`frame`](Self::frame) read last.
    pub(crate) fn held(&self, index: u64) -> &[u8] {
        let held = SeekTable::held(index, self.len_bytes);
        &self.decoder.raw[..(held.end - held.start) as usize]
    }

    /// Names what is damaged of a frame: single blocks, or all of it if it cannot be decompressed.
    pub(crate) fn damaged(&mut self, index: u64, blocks: &PackBlocks) -> Result<Vec<Error>> {
        let held = SeekTable::held(index, self.len_bytes);
        let mut damaged = Vec::new();
        let mut whole = None;
        // The frame was decoded by now, if it could be, and its bytes are still here.
        if let Err(Error::BlockDamaged { block, offset, len_bytes, path }) = self.frame(index, blocks) {
            whole =
                (len_bytes > BLOCK_BYTES).then_some(Error::BlockDamaged { block, offset, len_bytes, path });
        }
        match whole {
            Some(error) => damaged.push(error),
            None => {
                let raw = &self.decoder.raw[..(held.end - held.start) as usize];
                damaged.extend(blocks.damaged_in(&self.path, held.start / BLOCK_BYTES, raw));
            }
        }
        Ok(damaged)
    }
}

/// Opens the pack of an image and returns it with its path; `None` if it is not raw.
pub(crate) fn open_hot(root: &Root, header: &Header) -> Result<Option<(OwnedFd, PathBuf)>> {
    let relative = dir_of(&header.id).join(PACK);
    let path = root.show(&relative);
    let Some((file, stat)) = root.open_file(relative)? else { return Ok(None) };
    // Behind its end may lie what a later version has added.
    let found = stat.st_size.cast_unsigned().min(header.pack.len_bytes);
    check_length(&path, "pack", header.pack.len_bytes, found)?;
    Ok(Some((file, path)))
}

fn read_table(file: &OwnedFd, path: &Path, file_bytes: u64, pack_bytes: u64) -> Result<SeekTable> {
    let bad = |source| Error::Image { path: path.to_owned(), source };
    let read = |len: u64| {
        let mut tail = vec![0; len as usize];
        let read = read_full_at(file.as_fd(), &mut tail, file_bytes - len)
            .map_err(|errno| Error::io("read", path, errno))?;
        tail.truncate(read);
        Ok(tail)
    };
    let least = SeekTable::len_for(pack_bytes);
    if file_bytes < least {
        let what = "cold pack";
        return Err(bad(frost_image::Error::CutShort {
            what,
            expected_bytes: least,
            found_bytes: file_bytes,
        }));
    }
    let len = SeekTable::len_in(&read(SeekTable::FOOTER_BYTES)?, file_bytes).map_err(bad)?;
    SeekTable::decode(&read(len)?, file_bytes, pack_bytes).map_err(bad)
}

/// Decompresses frames of at most 1 MiB into the same memory.
pub(crate) struct FrameDecoder {
    decoder: Decompressor<'static>,
    pub(crate) raw: Vec<u8>,
}

impl FrameDecoder {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let decoder = Decompressor::new().map_err(|source| Error::io("read", path, source))?;
        Ok(Self { decoder, raw: vec![0; FRAME_BYTES as usize] })
    }

    /// Decompresses a frame that must give `len` bytes; `None` if it does not. It never writes more than 1 MiB.
    pub(crate) fn decode(&mut self, compressed: &[u8], len: usize) -> Option<&mut [u8]> {
        let written = self.decoder.decompress_to_buffer(compressed, self.raw.as_mut_slice()).ok()?;
        (written == len).then(|| &mut self.raw[..len])
    }
}

/// Compresses frames into the same memory.
pub(crate) struct FrameEncoder {
    encoder: Compressor<'static>,
    compressed: Vec<u8>,
}

impl FrameEncoder {
    pub(crate) fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { encoder: Compressor::new(level)?, compressed: vec![0; COMPRESSED_LIMIT_BYTES as usize] })
    }

    pub(crate) fn encode(&mut self, raw: &[u8]) -> std::io::Result<&[u8]> {
        let len = self.encoder.compress_to_buffer(raw, self.compressed.as_mut_slice())?;
        Ok(&self.compressed[..len])
    }
}

/// Writes the blocks of a raw pack; blocks of zeros become holes.
pub(crate) struct RawWriter<'a> {
    file: BorrowedFd<'a>,
    path: &'a Path,
    len_bytes: u64,
}

impl<'a> RawWriter<'a> {
    /// Begins a pack of `len_bytes` in an empty file.
    pub(crate) fn new(file: BorrowedFd<'a>, path: &'a Path, len_bytes: u64) -> Result<Self> {
        let writer = Self { file, path, len_bytes };
        let grown = within_limit(len_bytes).and_then(|()| fs::ftruncate(file, len_bytes));
        grown.map_err(|errno| writer.error(errno))?;
        Ok(writer)
    }

    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        for (index, block) in bytes.chunks(BLOCK_BYTES as usize).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                write_all_at(self.file, block, offset + index as u64 * BLOCK_BYTES)
                    .map_err(|errno| self.error(errno))?;
            }
        }
        Ok(())
    }

    fn error(&self, errno: rustix::io::Errno) -> Error {
        Error::write(self.path, errno, self.len_bytes, || crate::root::free_bytes(self.file))
    }
}
