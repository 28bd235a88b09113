//! The pack of an image read piece by piece, whether it is hot or cold.

use crate::error::Result;
use crate::frame::PackReader;
use crate::image::PackBlocks;
use frost_image::{BLOCK_BYTES, FRAME_BYTES};

/// Reads raw pages of a pack at any offset. What it returns was verified.
///
/// It holds one frame, so its memory is about 2 MiB whatever the image has; reading by ascending offset decodes each
/// frame once. Nothing is written to the store, also if the pack is cold.
pub struct PackPages {
    reader: PackReader,
    blocks: PackBlocks,
    /// The frame that the reader holds.
    held: Option<u64>,
}

impl PackPages {
    pub(crate) fn new(reader: PackReader, blocks: PackBlocks) -> Self {
        Self { reader, blocks, held: None }
    }

    /// Returns the length of the pack.
    pub fn len_bytes(&self) -> u64 {
        self.blocks.len_bytes()
    }

    /// Reads all of `out` from `offset` on; zeros where the pack has ended.
    ///
    /// # Errors
    /// [`Error::BlockDamaged`](crate::Error::BlockDamaged), [`Error::Io`](crate::Error::Io); `out` is then undefined.
    pub fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            if at >= self.len_bytes() {
                out[done..].fill(0);
                break;
            }
            let (frame, within) = (at / FRAME_BYTES, (at % FRAME_BYTES) as usize);
            if self.held != Some(frame) {
                self.held = None;
                self.reader.frame(frame, &self.blocks)?;
                self.held = Some(frame);
            }
            let raw = self.reader.held(frame);
            let len = (raw.len() - within).min(out.len() - done);
            out[done..done + len].copy_from_slice(&raw[within..within + len]);
            done += len;
        }
        Ok(())
    }

    /// Returns how many bytes from `offset` on are certainly the same in both packs, by their digests alone: those up to
    /// the end of the block that `offset` lies in, or 0 if it has to be read.
    ///
    /// The digest of a block depends on its place, so it tells something only of blocks at the same offset.
    pub fn known_same(&self, other: &Self, offset: u64) -> u64 {
        let block = offset / BLOCK_BYTES;
        match (self.blocks.digest(block), other.blocks.digest(block)) {
            (Some(one), Some(two)) if one == two => (block + 1) * BLOCK_BYTES - offset,
            _ => 0,
        }
    }
}

impl std::fmt::Debug for PackPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackPages").field("path", &self.reader.path()).field("held", &self.held).finish()
    }
}
