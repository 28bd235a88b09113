//! Writing a pack: raw pages, hashed beside the writing.

use crate::error::{Error, Result, SpaceLimit};
use crate::root::{free_bytes, read_full_at, within_limit, write_all_at};
use frost_image::{BLOCK_BYTES, Blocks, Tree};
use frost_model::PAGE_SIZE;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, SeekFrom};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How much is read back at once for hashing: large enough for BLAKE3 to use all lanes, small enough for a cache.
const HASH_BYTES: u64 = 4 * BLOCK_BYTES;

/// How much must wait to be hashed before a thread is started for it; less is hashed at the end, in less time than
/// a thread takes to start.
const THREAD_BYTES: u64 = 1 << 20;

/// How much is hashed between two requests to write it to the device.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Writes the pack of a draft.
///
/// A pack is a sequence of pages. Bytes go in by [`append`](Self::append), or are written by somebody else
/// through [`file`](Self::file) into a range that was [`reserved`](Self::reserve). What is known to be
/// [`filled`](Self::filled) is hashed by a thread of its own, which reads it back from the page cache while more is
/// written, and asks the kernel to begin writing it to disk. Its memory is 256 KiB, and 32 bytes for each block. What
/// is [written anew](Self::changed) is hashed anew at the end.
///
/// The thread starts with the first MiB to hash, so a process that forks does so before it writes.
pub struct PackWriter {
    file: Arc<OwnedFd>,
    path: PathBuf,
    /// What was hashed when the pack was written so far, by an earlier version.
    begun: Tree,
    /// Where this version's own bytes begin.
    start: u64,
    /// The first byte behind all that was appended and reserved; page-aligned.
    end: u64,
    /// All below is written. Never more than `end`.
    filled: u64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<std::result::Result<Tree, Errno>>>,
    /// What the thread does first.
    first: Option<Box<dyn FnOnce() + Send>>,
    /// Whether the thread could not be started, so that all is hashed at the end.
    alone: bool,
    /// Bytes that need not be written, since an earlier version has them.
    spared_bytes: u64,
    watch: Option<Box<dyn FnMut(u64, u64)>>,
}

#[derive(Default)]
struct Shared {
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Default)]
struct Orders {
    /// All below may be hashed.
    filled: u64,
    /// How much has to be filled until whoever hashes it has something to do; 0 while it does not wait.
    wanted: u64,
    /// Blocks that were changed after they may have been hashed.
    changed: BTreeSet<u64>,
    /// No more will come.
    sealed: bool,
    /// What was hashed is of no use.
    abandoned: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        // The holders of this lock only assign, so what a panic would leave behind is whole.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = self.lock();
        change(&mut orders);
        // It is on another processor, as a rule, and to wake it takes longer than to write a page.
        if orders.sealed || orders.abandoned || orders.wanted > 0 && orders.filled >= orders.wanted {
            self.changed.notify_all();
        }
    }
}

impl PackWriter {
    /// Begins a pack in an empty file that can be read and written.
    pub(crate) fn new(file: OwnedFd, path: PathBuf) -> Self {
        Self::resume(file, path, Tree::new(), 0)
    }

    /// Goes on with a pack whose first `start` bytes an earlier version has written; `start` is a multiple of
    /// [`BLOCK_BYTES`]. What `begun` has not hashed of them is hashed again.
    pub(crate) fn resume(file: OwnedFd, path: PathBuf, begun: Tree, start: u64) -> Self {
        let shared = Shared::default();
        shared.order(|orders| orders.filled = start);
        Self {
            file: Arc::new(file),
            path,
            begun,
            start,
            end: start,
            filled: start,
            shared: Arc::new(shared),
            thread: None,
            first: None,
            alone: false,
            spared_bytes: 0,
            watch: None,
        }
    }

    /// Tells `watch` how far the pack is, now and then: bytes that are done, and bytes as far as they are known.
    pub fn watch(&mut self, watch: impl FnMut(u64, u64) + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// Says that so many bytes are as an earlier version has them, and need not be written.
    pub fn spared(&mut self, len_bytes: u64) {
        self.spared_bytes += len_bytes;
        self.tell();
    }

    fn tell(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch(self.filled - self.start + self.spared_bytes, self.end - self.start + self.spared_bytes);
        }
    }

    /// Says what the thread that hashes is to do first: it inherits the processors and the priority of whoever writes
    /// what it hashes, which that one may have for itself only. Nothing is done with it if the thread runs already.
    pub fn hash_elsewhere(&mut self, leave: impl FnOnce() + Send + 'static) {
        self.first = Some(Box::new(leave));
    }

    /// Returns how many bytes this version has added.
    pub fn added_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Returns the length so far: where the next bytes will lie. A multiple of the page size.
    pub fn len_bytes(&self) -> u64 {
        self.end
    }

    /// Checks that `len_bytes` more would find room, before anything is stopped for them.
    ///
    /// Nothing is reserved by it: others may use up the room meanwhile.
    ///
    /// # Errors
    /// [`Error::NoSpace`] by free blocks, or by RLIMIT_FSIZE. A used-up quota shows only when writing.
    pub fn require_space(&self, len_bytes: u64) -> Result<()> {
        if within_limit(self.end.saturating_add(len_bytes)).is_err() {
            return Err(self.no_space(SpaceLimit::FileSize, len_bytes));
        }
        let free = free_bytes(self.file());
        if free < len_bytes {
            return Err(self.no_space(SpaceLimit::FileSystem, len_bytes));
        }
        Ok(())
    }

    /// Checks that what was [reserved](Self::reserve) and not yet written would find room, before anybody writes it.
    ///
    /// Whoever writes through [`file`](Self::file) would else learn of a full disk late, and of RLIMIT_FSIZE by a
    /// signal.
    ///
    /// # Errors
    /// As [`require_space`](Self::require_space).
    pub fn require_reserved(&self) -> Result<()> {
        let stat = fs::fstat(self.file()).map_err(|errno| Error::io("stat", &self.path, errno))?;
        // What an earlier version has left as holes stays so.
        let written = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let missing = self.end.saturating_sub(written).min(self.added_bytes());
        if within_limit(self.end).is_err() {
            return Err(self.no_space(SpaceLimit::FileSize, missing));
        }
        if free_bytes(self.file()) < missing {
            return Err(self.no_space(SpaceLimit::FileSystem, missing));
        }
        Ok(())
    }

    /// Writes `bytes` at the end, and returns the offset in the pack at which they begin: a multiple of the page
    /// size. What remains of their last page is zero.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and [`Error::Io`]. The pack is then as it was before; it may be appended to again.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let offset = self.end;
        let end = page_end(offset, bytes.len() as u64);
        write_all_at(self.file(), bytes, offset)
            .map_err(|errno| self.write_error(errno, bytes.len() as u64))?;
        // Who hashes it must not find its end before that of the page.
        let rest = (end - offset) as usize - bytes.len();
        write_all_at(self.file(), &vec![0; rest], offset + bytes.len() as u64)
            .map_err(|errno| self.write_error(errno, rest as u64))?;
        self.end = end;
        if self.filled == offset {
            self.filled(end);
        }
        Ok(offset)
    }

    /// Sets aside `len_bytes` at the end, which somebody else writes through [`file`](Self::file), and returns the
    /// offset at which they begin: a multiple of the page size. The end of their last page is zero if not written.
    ///
    /// Disk space is not reserved by it; [`require_space`](Self::require_space) looks whether there is some. Until
    /// [`filled`](Self::filled) is called, neither this range nor anything behind it is hashed.
    pub fn reserve(&mut self, len_bytes: u64) -> u64 {
        let offset = self.end;
        self.end = page_end(offset, len_bytes);
        offset
    }

    /// Says that all bytes of the pack below `up_to` are written and will not change, so that they may be hashed.
    ///
    /// What lies below an earlier `up_to` stays so; a commit takes all that was appended and reserved for filled.
    pub fn filled(&mut self, up_to: u64) {
        self.filled = up_to.min(self.end).max(self.filled);
        if self.thread.is_none() && !self.alone && self.filled - self.begun.len_bytes() >= THREAD_BYTES {
            let (file, shared, begun) =
                (Arc::clone(&self.file), Arc::clone(&self.shared), self.begun.clone());
            let first = self.first.take();
            let spawned = std::thread::Builder::new().name("frost-hash".to_owned()).spawn(move || {
                if let Some(first) = first {
                    first();
                }
                hash(file.as_fd(), &shared, begun)
            });
            self.alone = spawned.is_err();
            self.thread = spawned.ok();
        }
        let filled = self.filled;
        self.shared.order(|orders| orders.filled = filled);
        self.tell();
    }

    /// Says that bytes below what is [`filled`](Self::filled) were written once more, after they were.
    pub fn changed(&mut self, offset: u64, len_bytes: u64) {
        let end = offset.saturating_add(len_bytes).min(self.filled);
        if offset < end {
            self.shared.order(|orders| {
                orders.changed.extend(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
            });
        }
    }

    /// Lets the device begin to write what is there, so that it is written the sooner.
    pub fn begin_sync(&self) {
        // 0 bytes are all to the end. What cannot be begun now is done by the commit.
        let _ = frost_sys::writeback::start_writeback(self.file(), 0, 0);
    }

    /// Returns the file, open for reading and writing, its offsets those of the pack.
    ///
    /// Its file offset is nobody's: use pread and pwrite.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Returns that file to be read beside the writing.
    pub fn shared_file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.file)
    }

    /// Returns the path of the file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the pack, and hashes what is left of it.
    pub(crate) fn finish_hash(&mut self) -> Result<Blocks> {
        // Reserved bytes at the end that nobody wrote are zeros; the file is made as long as the pack.
        within_limit(self.end)
            .and_then(|()| fs::ftruncate(self.file(), self.end))
            .map_err(|errno| self.write_error(errno, self.end))?;
        // The device works while the rest is hashed.
        self.begin_sync();
        let end = self.end;
        self.shared.order(|orders| {
            orders.filled = end;
            orders.sealed = true;
        });
        let hashed = match self.thread.take() {
            Some(thread) => thread.join().unwrap_or(Err(Errno::IO)),
            None => hash(self.file.as_fd(), &self.shared, std::mem::take(&mut self.begun)),
        };
        let tree = hashed.map_err(|errno| Error::io("read back", &self.path, errno))?;
        if tree.len_bytes() != end {
            let why = std::io::Error::other("it was made shorter while it was written");
            return Err(Error::io("read back", &self.path, why));
        }
        Ok(tree.finish())
    }

    /// Makes the bytes of the pack survive a power loss, as a commit does once more with those written since.
    ///
    /// # Errors
    /// As for any write to the store.
    pub fn sync(&self) -> Result<()> {
        fs::fdatasync(self.file()).map_err(|errno| self.write_error(errno, self.end))
    }

    fn no_space(&self, limit: SpaceLimit, needed_bytes: u64) -> Error {
        Error::NoSpace { path: self.path.clone(), limit, needed_bytes, free_bytes: free_bytes(self.file()) }
    }

    fn write_error(&self, errno: Errno, needed_bytes: u64) -> Error {
        Error::write(&self.path, errno, needed_bytes, || free_bytes(self.file()))
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        self.shared.order(|orders| orders.abandoned = true);
        if let Some(thread) = self.thread.take() {
            // Its result is of no use any more.
            let _ = thread.join();
        }
    }
}

fn page_end(offset: u64, len_bytes: u64) -> u64 {
    offset.saturating_add(len_bytes).checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX - (PAGE_SIZE - 1))
}

/// Where a file has holes, as far as that was asked.
///
/// A hole need not be read: that would give it pages in the page cache, of which a machine's memory of 2 GiB has half a
/// million, and making them takes longer than hashing zeros.
#[derive(Default)]
struct Holes {
    /// What was asked last: a hole up to the first number, then data up to the second.
    hole_end: u64,
    data_end: u64,
}

impl Holes {
    /// Whether `range` is a hole, all of it. Below `filled` the file does not change any more.
    fn cover(&mut self, file: BorrowedFd<'_>, range: Range<u64>, filled: u64) -> bool {
        if range.start >= self.data_end.max(self.hole_end) {
            let (hole_end, data_end) = match fs::seek(file, SeekFrom::Data(range.start)) {
                Ok(data) => (data, fs::seek(file, SeekFrom::Hole(data)).unwrap_or(data)),
                // No data follows: a hole, if the file is that long.
                Err(Errno::NXIO) => {
                    let len = fs::fstat(file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
                    (len, len)
                }
                // Not every file system tells.
                Err(_) => (range.start, u64::MAX),
            };
            (self.hole_end, self.data_end) = (hole_end.min(filled), data_end);
        }
        range.end <= self.hole_end
    }
}

/// Hashes a file up to where it is filled, and at last what of it was changed, until it is sealed or abandoned.
fn hash(file: BorrowedFd<'_>, shared: &Shared, begun: Tree) -> std::result::Result<Tree, Errno> {
    let mut tree = begun;
    let mut buffer = vec![0; HASH_BYTES as usize];
    let mut written_back = tree.len_bytes();
    let mut holes = Holes::default();
    // How much has to be filled before the next step.
    let mut wanted = HASH_BYTES;
    loop {
        let hashed = tree.len_bytes();
        let (len, changed, filled, sealed) = {
            let mut orders = shared.lock();
            while !orders.abandoned && !orders.sealed && orders.filled - hashed < wanted {
                orders.wanted = hashed + wanted;
                orders = shared.changed.wait(orders).unwrap_or_else(PoisonError::into_inner);
            }
            orders.wanted = 0;
            if orders.abandoned {
                return Ok(tree);
            }
            let len = HASH_BYTES.min(orders.filled - hashed);
            // Only at the end, since what was changed is often changed once more.
            let changed = if len == 0 { orders.changed.pop_first() } else { None };
            (len, changed, orders.filled, orders.sealed)
        };
        wanted = HASH_BYTES;
        if let Some(index) = changed {
            let at = index * BLOCK_BYTES;
            let len = BLOCK_BYTES.min(hashed.saturating_sub(at)) as usize;
            // A block that is not hashed yet will be.
            if len > 0 {
                if read_full_at(file, &mut buffer[..len], at)? < len {
                    return Ok(tree);
                }
                tree.replace(index, &buffer[..len]);
            }
            continue;
        }
        if len == 0 {
            return Ok(tree);
        }
        let bytes = &mut buffer[..len as usize];
        if holes.cover(file, hashed..hashed + len, filled) {
            bytes.fill(0);
        } else if read_full_at(file, bytes, hashed)? < bytes.len() {
            if sealed {
                return Ok(tree);
            }
            // The file ends before what was reserved, of which nobody writes the end: it gets longer by what comes behind it,
            // or by the seal.
            wanted = filled - hashed + 1;
            continue;
        }
        tree.push(bytes);
        if tree.len_bytes() - written_back >= WRITEBACK_BYTES {
            // Only so that the sync at the end is short; what cannot be begun now is done then.
            let _ =
                frost_sys::writeback::start_writeback(file, written_back, tree.len_bytes() - written_back);
            written_back = tree.len_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody writes the end of what was reserved, and until the seal the file is shorter than that.
    #[test]
    fn a_file_that_is_still_too_short_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pack");
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut pack = PackWriter::new(file.into(), path);
        for part in 1..=2 {
            let offset = pack.reserve(2 * THREAD_BYTES);
            write_all_at(pack.file(), &vec![part; BLOCK_BYTES as usize + 1], offset).unwrap();
            pack.filled(pack.len_bytes());
            // It has found the end, and waits for more than it is told of as a rule.
            let ended = |pack: &PackWriter| pack.thread.as_ref().is_some_and(JoinHandle::is_finished);
            while pack.shared.lock().wanted <= pack.len_bytes() && !ended(&pack) {
                std::thread::yield_now();
            }
        }
        let hashed = pack.finish_hash().unwrap();
        let mut whole = Tree::new();
        let mut content = vec![0; 4 * THREAD_BYTES as usize];
        assert_eq!(read_full_at(pack.file(), &mut content, 0).unwrap(), content.len());
        content.chunks(BLOCK_BYTES as usize).for_each(|block| whole.push(block));
        assert_eq!(hashed.root(), whole.finish().root());
    }
}
