//! Whether an image is what it was when it was committed.

use crate::error::{Error, Result};
use crate::frame::PackReader;
use crate::image::{Live, PackBlocks, open_manifest, read_blocks, read_part};
use crate::root::{MANIFEST, dir_of};
use crate::store::Store;
use frost_image::{Header, ImageId, decode};

/// How many damaged blocks are named; a disk that has lost more has lost the image.
const NAMED: usize = 64;

impl Store {
    /// Reads all of an image and compares every digest. Returns what is wrong with it: nothing, if it is sound.
    ///
    /// Each of the problems makes a thaw refuse. Of damaged blocks the first 64 are named. An image of another
    /// architecture can be verified too.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], and [`Error::Io`] if something could not be read for another reason than damage.
    pub fn verify(&self, id: &ImageId) -> Result<Vec<Error>> {
        let mut problems = Vec::new();
        let (manifest, header) = match open_manifest(&self.root, id) {
            Err(error) if error.is_bad_image() => return Ok(vec![error]),
            other => other?,
        };
        let bytes = read_part(&self.root, id, &manifest, Header::LEN_BYTES as u64, header.manifest_bytes)?;
        let live = decode(&header, &bytes).and_then(|manifest| Ok(Live::of(&header, &manifest.checkpoint)?));
        // Without a manifest any block may be needed.
        let live = live.unwrap_or_else(|source| {
            problems.push(Error::Image { path: self.root.show(dir_of(id).join(MANIFEST)), source });
            Live::all(header.pack.len_bytes)
        });
        let reader = PackReader::open(&self.root, &header);
        match (reader, read_blocks(&self.root, &header, &manifest)) {
            (Ok(mut reader), Ok(blocks)) => {
                let blocks = PackBlocks::new(blocks, reader.path().to_owned(), live);
                for index in 0..reader.frames() {
                    match reader.frame(index, &blocks) {
                        Ok(_) => {}
                        Err(Error::BlockDamaged { .. }) => {
                            problems.append(&mut reader.damaged(index, &blocks)?);
                        }
                        Err(error) => return Err(error),
                    }
                    let pack_bytes = header.pack.len_bytes;
                    self.root.report(frost_image::SeekTable::held(index, pack_bytes).end, pack_bytes);
                    if problems.len() >= NAMED {
                        problems.truncate(NAMED);
                        break;
                    }
                }
            }
            (reader, blocks) => {
                for error in [reader.err(), blocks.err()].into_iter().flatten() {
                    if !error.is_bad_image() && !error.is_not_found() {
                        return Err(error);
                    }
                    problems.push(error);
                }
            }
        }
        Ok(problems)
    }
}
