//! Pages that several packs have: found, and shared where the file system lets files share.
//!
//! All of what is raw is read once. A sixteenth of the pages, chosen by their content, is remembered by a short hash; where
//! another pack has one of these, it is compared byte by byte in both directions. Only runs of 64 KiB and more are of use: a
//! pack in many small pieces is read slowly.

use crate::error::{Error, Result};
use crate::image::read_header;
use crate::root::{PACK, Root, dir_of};
use crate::store::Store;
use frost_image::ImageId;
use frost_model::PAGE_SIZE;
use frost_sys::extent;
use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::collections::HashMap;

/// Bytes read, and compared, at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// The shortest run that is shared.
const LEAST_BYTES: u64 = 64 << 10;
/// One page of so many is remembered.
const SPARSE: u64 = 16;
/// The kernel shares no more in one call (`vfs_dedupe_file_range` of XFS and btrfs).
const MOST_BYTES: u64 = 16 << 20;

/// What was found twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Bytes that stood on the disk once more than they had to.
    pub found_bytes: u64,
    /// How many of them are shared now.
    pub shared_bytes: u64,
}

/// A pack that is raw.
struct Pack {
    file: OwnedFd,
    id: ImageId,
    len_bytes: u64,
}

impl Store {
    /// Finds pages that several packs have, and lets these share them.
    ///
    /// # Errors
    /// [`Error::Io`]. What is shared by then stays shared; nothing that is read changes by it.
    pub(crate) fn share_duplicates(&self) -> Result<Duplicates> {
        let mut packs = Vec::new();
        for name in self.names()? {
            for group in self.groups(&name)? {
                // It has all of the pack.
                let Some(id) = group.last().cloned() else { continue };
                if let Some((file, _)) = self.root.open_file(dir_of(&id).join(PACK))?
                    && let Ok(header) = read_header(&self.root, &id)
                {
                    packs.push(Pack { file, id, len_bytes: header.pack.len_bytes });
                }
            }
        }
        let mut search = Search {
            root: &self.root,
            all_bytes: packs.iter().map(|pack| pack.len_bytes).sum(),
            packs,
            done_bytes: 0,
            known: HashMap::new(),
            cannot: false,
            found: Duplicates::default(),
        };
        (0..search.packs.len()).try_for_each(|index| search.pack(index))?;
        Ok(search.found)
    }
}

struct Search<'a> {
    root: &'a Root,
    packs: Vec<Pack>,
    done_bytes: u64,
    all_bytes: u64,
    /// Pages by their hash: which pack, and where in it.
    known: HashMap<u64, (u32, u64)>,
    /// The file system lets no files share.
    cannot: bool,
    found: Duplicates,
}

impl Search<'_> {
    fn failed(&self, index: usize, action: &'static str, errno: Errno) -> Error {
        Error::io(action, &self.root.show(dir_of(&self.packs[index].id).join(PACK)), errno)
    }

    /// Searches a pack for what those before it have, or itself has before.
    fn pack(&mut self, index: usize) -> Result<()> {
        let len = self.packs[index].len_bytes;
        let mut chunk = vec![0; CHUNK_BYTES as usize];
        let mut at = 0;
        // What lies before was shared, or told to be the same.
        let mut free_from = 0;
        while at < len {
            let file = &self.packs[index].file;
            match seek(file, SeekFrom::Data(at)) {
                Ok(data) => at = data / PAGE_SIZE * PAGE_SIZE,
                // No data behind it.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(self.failed(index, "read", errno)),
            }
            let got = read(file, &mut chunk, at).map_err(|errno| self.failed(index, "read", errno))?;
            let pages = chunk[..got].chunks_exact(PAGE_SIZE as usize);
            let first = at;
            for (number, page) in pages.enumerate() {
                let offset = first + number as u64 * PAGE_SIZE;
                let Some(hash) = hash_of(page).filter(|_| offset >= free_from) else { continue };
                match self.known.get(&hash).copied() {
                    Some((other, place)) => {
                        let run = self.run((other as usize, place), (index, offset), free_from)?;
                        if let Some((from, to, bytes)) = run {
                            self.share((other as usize, from), (index, to), bytes)?;
                            free_from = to + bytes;
                        }
                    }
                    None => _ = self.known.insert(hash, (index as u32, offset)),
                }
            }
            if got < chunk.len() {
                break;
            }
            at = (first + got as u64).max(free_from);
            self.root.report(self.done_bytes + at.min(len), self.all_bytes);
        }
        self.done_bytes += len;
        Ok(())
    }

    /// Returns how far two packs are the same around two places: both beginnings, and the length.
    fn run(
        &self,
        (other, place): (usize, u64),
        (index, offset): (usize, u64),
        free_from: u64,
    ) -> Result<Option<(u64, u64, u64)>> {
        let same = |place: u64, offset: u64| -> Result<bool> {
            let mut both = [[0; PAGE_SIZE as usize]; 2];
            for (page, (index, at)) in both.iter_mut().zip([(other, place), (index, offset)]) {
                let got = read(&self.packs[index].file, page, at)
                    .map_err(|errno| self.failed(index, "read", errno))?;
                if got < page.len() {
                    return Ok(false);
                }
            }
            Ok(both[0] == both[1])
        };
        let (mut from, mut to) = (place, offset);
        while from >= PAGE_SIZE && to >= free_from + PAGE_SIZE && same(from - PAGE_SIZE, to - PAGE_SIZE)? {
            from -= PAGE_SIZE;
            to -= PAGE_SIZE;
        }
        let mut bytes = offset - to;
        // In one pack both must not overlap.
        let most = if other == index { to - from } else { u64::MAX };
        let fits = |bytes: u64| {
            bytes < most
                && from + bytes < self.packs[other].len_bytes
                && to + bytes < self.packs[index].len_bytes
        };
        while fits(bytes) && same(from + bytes, to + bytes)? {
            bytes += PAGE_SIZE;
        }
        Ok((bytes >= LEAST_BYTES).then_some((from, to, bytes)))
    }

    /// Lets one pack have a range together with another, unless it does.
    fn share(
        &mut self,
        (other, from): (usize, u64),
        (index, to): (usize, u64),
        len_bytes: u64,
    ) -> Result<()> {
        let mut done = 0;
        while done < len_bytes {
            let part = (len_bytes - done).min(MOST_BYTES);
            let (theirs, ours) = (&self.packs[other].file, &self.packs[index].file);
            let place = |file: &OwnedFd, at: u64| extent::place(file, at).ok().flatten();
            let is_shared = [done, done + part - PAGE_SIZE]
                .into_iter()
                .all(|at| place(theirs, from + at).is_some_and(|there| place(ours, to + at) == Some(there)));
            if !is_shared {
                self.found.found_bytes += part;
                if !self.cannot {
                    match extent::share(theirs, from + done, ours, to + done, part) {
                        Ok(bytes) => self.found.shared_bytes += bytes,
                        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::PERM) => {
                            self.cannot = true;
                        }
                        Err(errno) => return Err(self.failed(index, "share pages of", errno)),
                    }
                }
            }
            done += part;
        }
        Ok(())
    }
}

/// Reads as much as there is.
fn read(file: &OwnedFd, out: &mut [u8], offset: u64) -> std::result::Result<usize, Errno> {
    crate::root::read_full_at(rustix::fd::AsFd::as_fd(file), out, offset)
}

/// Returns the hash of a page that is to be remembered; `None` for all others, and for zeros.
fn hash_of(page: &[u8]) -> Option<u64> {
    let hash = blake3::hash(page);
    let number = u64::from_le_bytes(*hash.as_bytes().first_chunk()?);
    (number.is_multiple_of(SPARSE) && page.iter().any(|byte| *byte != 0)).then_some(number)
}
