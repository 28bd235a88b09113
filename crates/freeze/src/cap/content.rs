//! Content of files, on its way into the pack.

use super::{Error, Held};
use crate::copies::{Copies, Key};
use frost_model::PAGE_SIZE;
use frost_model::ram::{Pages, Run};
use frost_store::PackWriter;
use frost_sys::hugetlb;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::SeekFrom;
use rustix::io::{Errno, ReadWriteFlags};
use std::io::IoSliceMut;
use std::ops::Range;

/// Where contents go: the pack of an image; a vector in tests.
pub trait Sink {
    /// Adds `bytes` and returns the offset at which they lie, a multiple of the page size.
    ///
    /// The bytes of consecutive calls lie side by side if their lengths are multiples of the page size.
    ///
    /// # Errors
    /// What writing gave, as no space.
    fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError>;

    /// Adds `bytes` that begin at `offset` of an object, by its device and inode, and notes in `pages` where they lie.
    ///
    /// # Errors
    /// What writing gave, as no space.
    fn store(
        &mut self,
        _object: Key,
        offset: u64,
        bytes: &[u8],
        pages: &mut Pages,
    ) -> Result<(), StoreError> {
        let pack_offset = self.append(bytes)?;
        pages.push(Run { offset, len_bytes: bytes.len() as u64, pack_offset });
        Ok(())
    }
}

/// What a [`Sink`] gives when it cannot take more.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

impl Sink for PackWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        Ok(Self::append(self, bytes)?)
    }
}

/// A pack that has copies of some of what goes into it.
pub(crate) struct Beside<'a> {
    pub(crate) pack: &'a mut PackWriter,
    pub(crate) copies: &'a mut Copies,
}

impl Sink for Beside<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        Ok(self.pack.append(bytes)?)
    }

    fn store(&mut self, object: Key, offset: u64, bytes: &[u8], pages: &mut Pages) -> Result<(), StoreError> {
        Ok(self.copies.store(object, offset, bytes, self.pack, pages)?)
    }
}

impl Sink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> Result<u64, StoreError> {
        self.resize(self.len().next_multiple_of(PAGE_SIZE as usize), 0);
        let offset = self.len() as u64;
        self.extend_from_slice(bytes);
        Ok(offset)
    }
}

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Stores the data of the file behind `held`; holes stay holes. `whole` pads the end to a page with zeros.
pub(super) fn store(held: &Held, len_bytes: u64, whole: bool, sink: &mut dyn Sink) -> Result<Pages, Error> {
    let object = || held.describe();
    store_from(&Source::open(held)?, len_bytes, whole, sink, &object)
}

/// Stores the data of a file of ours; holes stay holes.
pub(crate) fn store_file(
    file: OwnedFd,
    len_bytes: u64,
    name: &dyn Fn() -> String,
    sink: &mut dyn Sink,
) -> Result<Pages, Error> {
    store_from(&Source::Anew(file), len_bytes, false, sink, name)
}

fn store_from(
    file: &Source<'_>,
    len_bytes: u64,
    whole: bool,
    sink: &mut dyn Sink,
    name: &dyn Fn() -> String,
) -> Result<Pages, Error> {
    let error = |source| Error::Object { object: name(), source };
    let object = file.key().map_err(error)?;
    let mut pages = Pages::default();
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut at = 0;
    while let Some((start, end)) = file.next_data(at, len_bytes).map_err(error)? {
        // Where the file system keeps data in smaller blocks, the rest of the page is a hole, which reads as zeros.
        let start = start / PAGE_SIZE * PAGE_SIZE;
        let end = end.next_multiple_of(PAGE_SIZE).min(len_bytes);
        let mut offset = start.max(at);
        while offset < end {
            let want = CHUNK_BYTES.min((end - offset) as usize);
            let got = file.read(&mut buffer[..want], offset).map_err(error)?;
            // The file became shorter than it was, although everybody in the tree stands still.
            if got != want {
                return Err(Error::Changed { object: name() });
            }
            let mut stored = want;
            if whole {
                stored = want.next_multiple_of(PAGE_SIZE as usize);
                buffer[want..stored].fill(0);
            }
            let bytes = &buffer[..stored];
            let parts =
                if file.hides_holes() { nonzero(bytes) } else { std::iter::once(0..stored).collect() };
            for part in parts {
                let at = offset + part.start as u64;
                sink.store(object, at, &bytes[part], &mut pages)
                    .map_err(|source| Error::Store { object: name(), source })?;
            }
            offset += want as u64;
        }
        at = end;
    }
    Ok(pages)
}

/// Returns the ranges of bytes that have pages which are not zero.
pub(crate) fn nonzero(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for page in bytes.chunks(PAGE_SIZE as usize) {
        let end = at + page.len();
        if page.iter().any(|byte| *byte != 0) {
            match found.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => found.push(at..end),
            }
        }
        at = end;
    }
    found
}

/// A file that is read without moving the program's offset.
enum Source<'a> {
    /// Opened anew, so that the offset is ours to seek for data and holes.
    Anew(OwnedFd),
    /// The program's own description, where the file may not be opened again: read with pread(2) only, and holes
    /// are not found.
    Shared(&'a Held),
}

impl<'a> Source<'a> {
    fn open(held: &'a Held) -> Result<Self, Error> {
        match held.open_anew() {
            Ok(fd) => Ok(Self::Anew(fd)),
            Err(_) if held.is_readable() => Ok(Self::Shared(held)),
            Err(error) => Err(held.error(error)),
        }
    }

    fn key(&self) -> Result<Key, Errno> {
        let stat = match self {
            Self::Anew(fd) => rustix::fs::fstat(fd)?,
            Self::Shared(held) => held.stat,
        };
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Whether the file system tells nobody where its holes are, which for one of huge pages are large.
    fn hides_holes(&self) -> bool {
        match self {
            Self::Anew(fd) => hugetlb::page_shift(fd).is_some(),
            Self::Shared(held) => hugetlb::page_shift(&held.fd).is_some(),
        }
    }

    fn next_data(&self, at: u64, len_bytes: u64) -> Result<Option<(u64, u64)>, Errno> {
        if at >= len_bytes {
            return Ok(None);
        }
        let Self::Anew(fd) = self else { return Ok(Some((at, len_bytes))) };
        let start = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that does not know of holes.
            Err(Errno::INVAL) => return Ok(Some((at, len_bytes))),
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(fd, SeekFrom::Hole(start))?;
        Ok((start < len_bytes).then_some((start, end.min(len_bytes))))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let fd = match self {
            Self::Anew(fd) => fd.as_fd(),
            Self::Shared(held) => held.fd.as_fd(),
        };
        let mut done = 0;
        while done < buffer.len() {
            let slice = &mut [IoSliceMut::new(&mut buffer[done..])];
            match rustix::io::preadv2(fd, slice, offset + done as u64, ReadWriteFlags::empty()) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
