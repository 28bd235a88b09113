//! Capture of the RAM session: the pages that belong to the tree.
//!
//! First every populated page gets its place in the pack, then the pages are copied there. So the order of the pack
//! is that of the addresses, and who copies can be decided afterwards.

use crate::cap::content::nonzero;
use crate::copies::{Copies, Key};
use crate::rm::{self, Backing};
use crate::unseen::{Looked, Onlookers};
use frost_model::PAGE_SIZE;
use frost_model::ram::{Dataspace, DataspaceKind, Pages, Run};
use frost_model::rm::PageRange;
use frost_store::PackWriter;
use frost_sys::memory::{self, Part};
use frost_sys::pagemap::{PageRegion, Pagemap};
use frost_sys::proc::{self, Mapping};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::OnceLock;

/// Why memory could not be captured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("memory {address:x} of process {pid} cannot be read")]
    Read {
        pid: i32,
        address: u64,
        #[source]
        source: Errno,
    },
    #[error("the page map of process {pid} cannot be read")]
    Pagemap {
        pid: i32,
        #[source]
        source: Errno,
    },
    #[error("the process cannot write its memory itself")]
    Inject {
        #[source]
        source: frost_tracee::inject::Error,
    },
    #[error("process {pid} cannot show all of its shared memory")]
    View {
        pid: i32,
        #[source]
        source: frost_tracee::inject::Error,
    },
    #[error("memory cannot be written to the pack")]
    Write {
        #[source]
        source: Errno,
    },
    #[error(transparent)]
    Store(#[from] frost_store::Error),
}

/// Consecutive pages of a process and their place in the pack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) pid: i32,
    pub(crate) address: u64,
    pub(crate) len_bytes: u64,
    pub(crate) pack_offset: u64,
    /// Whether the process itself may read it; else only `/proc/PID/mem` can.
    pub(crate) readable: bool,
}

/// Pages of a process that have a place in the pack: address, length and place, by ascending address.
pub(crate) type Placed = Vec<(u64, u64, u64)>;

/// The parent of a process, with which it may share pages by copy-on-write.
pub(crate) struct Kin {
    pub(crate) pid: i32,
    pub(crate) pagemap: Pagemap,
    pub(crate) placed: Rc<Placed>,
}

// Bits of an entry of the page map.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const EXCLUSIVE: u64 = 1 << 56;
const FRAME: u64 = (1 << 55) - 1;

/// How many pages are compared at a time.
const COMPARED_PAGES: usize = 16;

impl Kin {
    /// Splits `start..end` of process `pid` into pieces, those with a place being pages that both have.
    pub(crate) fn split(
        &self,
        pid: i32,
        pagemap: &Pagemap,
        start: u64,
        end: u64,
    ) -> Result<Vec<Piece>, Error> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut add = |from: u64, to: u64, place: Option<u64>| match pieces.last_mut() {
            Some((last_from, last_to, last))
                if *last_to == from && last.map(|last| last + (*last_to - *last_from)) == place =>
            {
                *last_to = to;
            }
            _ if from < to => pieces.push((from, to, place)),
            _ => {}
        };
        let mut at = start;
        let first = self.placed.partition_point(|(address, len, _)| address + len <= start);
        for (address, len, place) in self.placed[first..].iter().take_while(|(address, ..)| *address < end) {
            let (from, to) = ((*address).max(start), (address + len).min(end));
            add(at, from, None);
            let same = self.same_pages(pid, pagemap, from, to)?;
            for (index, same) in same.into_iter().enumerate() {
                let page = from + index as u64 * PAGE_SIZE;
                add(page, page + PAGE_SIZE, same.then(|| place + (page - address)));
            }
            at = to;
        }
        add(at, end, None);
        Ok(pieces)
    }

    /// Tells of each page of a range whether it is one and the same in both processes.
    ///
    /// Root sees the numbers of page frames. Others see which pages are mapped more than once, and compare those: equal
    /// ones may be stored once whether or not they are the same.
    fn same_pages(&self, pid: i32, pagemap: &Pagemap, start: u64, end: u64) -> Result<Vec<bool>, Error> {
        let entries =
            |pid, map: &Pagemap| map.entries(start, end).map_err(|source| Error::Pagemap { pid, source });
        let (ours, theirs) = (entries(pid, pagemap)?, entries(self.pid, &self.pagemap)?);
        let kind = |entry: u64| entry & (PRESENT | SWAPPED);
        let mut same = vec![false; ours.len()];
        let mut compared = Vec::new();
        for (index, (our, their)) in ours.iter().zip(&theirs).enumerate() {
            let (frame, other) = (our & FRAME, their & FRAME);
            if kind(*our) == 0 || kind(*our) != kind(*their) {
                continue;
            }
            if frame != 0 && other != 0 {
                same[index] = frame == other;
            } else if (our | their) & EXCLUSIVE == 0 {
                compared.push(index);
            }
        }
        let page = PAGE_SIZE as usize;
        let mut buffers = [vec![0; COMPARED_PAGES * page], vec![0; COMPARED_PAGES * page]];
        if compared.is_empty() {
            return Ok(same);
        }
        let mem = |pid| open_mem(pid).map_err(|source| Error::Read { pid, address: start, source });
        let (our_mem, their_mem) = (mem(pid)?, mem(self.pid)?);
        let mut rest = compared.as_slice();
        while let Some(first) = rest.first() {
            let count = (1..rest.len().min(COMPARED_PAGES))
                .find(|index| rest[*index] != first + index)
                .unwrap_or(rest.len().min(COMPARED_PAGES));
            let len = count * page;
            let address = start + (first * page) as u64;
            let [one, two] = &mut buffers;
            read_exactly(pid, address, &mut one[..len], |at, out| rustix::io::pread(&our_mem, out, at))?;
            read_exactly(self.pid, address, &mut two[..len], |at, out| {
                rustix::io::pread(&their_mem, out, at)
            })?;
            for index in 0..count {
                let range = index * page..(index + 1) * page;
                same[first + index] = one[range.clone()] == two[range];
            }
            rest = &rest[count..];
        }
        Ok(same)
    }
}

/// So few pages are read sooner than it is told whose they are.
const FEW_PAGES_BYTES: u64 = 4 * PAGE_SIZE;

/// Takes those of `ranges` out that no other process has in its page tables, as far as it is worth its time to know: they are not
/// copied for process_vm_readv(2) either, as [`open_mem`] tells of others.
///
/// # Errors
/// As for any read of the page map.
pub(crate) fn take_exclusive(
    (pid, pagemap): (i32, &Pagemap),
    ranges: &mut Vec<(u64, u64)>,
) -> Result<Vec<(u64, u64)>, Error> {
    let mut exclusive = Vec::new();
    let mut others = Vec::new();
    for (start, end) in ranges.drain(..) {
        if end - start < FEW_PAGES_BYTES {
            others.push((start, end));
            continue;
        }
        let entries = pagemap.entries(start, end).map_err(|source| Error::Pagemap { pid, source })?;
        let is_own = |entry: &u64| entry & (PRESENT | EXCLUSIVE) == PRESENT | EXCLUSIVE;
        let mut at = start;
        for same in entries.chunk_by(|a, b| is_own(a) == is_own(b)) {
            let until = at + same.len() as u64 * PAGE_SIZE;
            let list = if is_own(&same[0]) { &mut exclusive } else { &mut others };
            list.push((at, until));
            at = until;
        }
    }
    *ranges = others;
    Ok(exclusive)
}

/// Returns whether a mapping has pages of its own that an image keeps.
///
/// MAP_DROPPABLE memory may vanish at any time, so it comes back empty. Shared memory is not this mapping's own.
pub(crate) fn has_private_pages(mapping: &Mapping, backing: &Backing) -> bool {
    !matches!(backing, Backing::Special(_)) && !mapping.shared && !mapping.flags.has(*b"dp")
}

/// Finds the pages that belong to one mapping alone, and gives them a place in the pack; those that the parent has too
/// get the place that they have there.
pub(crate) fn place_private(
    pid: i32,
    pagemap: &Pagemap,
    mapping: &Mapping,
    backing: &Backing,
    kin: Option<&Kin>,
    pack: &mut PackWriter,
    extents: &mut Vec<Extent>,
) -> Result<(Pages, Vec<PageRange>), Error> {
    let (pieces, guards) = private_content(pid, pagemap, mapping, backing, kin)?;
    let own = pieces.iter().filter(|(_, _, place)| place.is_none());
    let total: u64 = own.map(|(start, end, _)| end - start).sum();
    let mut pages = Pages::default();
    let mut next = if total > 0 { pack.reserve(total) } else { 0 };
    for (start, end, place) in pieces {
        let len_bytes = end - start;
        let pack_offset = place.unwrap_or(next);
        pages.push(Run { offset: start - mapping.start, len_bytes, pack_offset });
        if place.is_none() {
            extents.push(Extent { pid, address: start, len_bytes, pack_offset, readable: mapping.read });
            next += len_bytes;
        }
    }
    Ok((pages, guards))
}

/// Pages of a mapping: first address, the address behind them, and their place in the pack if the parent has them too.
pub(crate) type Piece = (u64, u64, Option<u64>);

/// Finds the pages that belong to one mapping alone, and its guards.
pub(crate) fn private_content(
    pid: i32,
    pagemap: &Pagemap,
    mapping: &Mapping,
    backing: &Backing,
    kin: Option<&Kin>,
) -> Result<(Vec<Piece>, Vec<PageRange>), Error> {
    if !has_private_pages(mapping, backing) {
        return Ok((Vec::new(), guards_of_shared(pid, pagemap, mapping, backing)?));
    }
    let (content, guards) =
        pagemap.private_pages(mapping.start, mapping.end).map_err(|source| Error::Pagemap { pid, source })?;
    let mut pieces = Vec::with_capacity(content.len());
    for region in &content {
        match kin {
            Some(kin) => pieces.extend(kin.split(pid, pagemap, region.start, region.end)?),
            None => pieces.push((region.start, region.end, None)),
        }
    }
    Ok((pieces, ranges(&guards)))
}

/// Finds the guards of a mapping without pages of its own: files and shared memory may have some since Linux 6.15.
pub(crate) fn guards_of_shared(
    pid: i32,
    pagemap: &Pagemap,
    mapping: &Mapping,
    backing: &Backing,
) -> Result<Vec<PageRange>, Error> {
    // A kernel that has them can scan.
    if matches!(backing, Backing::Special(_)) || !pagemap.can_scan() {
        return Ok(Vec::new());
    }
    let found = pagemap.private_pages(mapping.start, mapping.end);
    found.map(|(_, guards)| ranges(&guards)).map_err(|source| Error::Pagemap { pid, source })
}

fn ranges(guards: &[PageRegion]) -> Vec<PageRange> {
    guards.iter().filter_map(|region| PageRange::new(region.start, region.end)).collect()
}

/// The memory of a process, read from outside.
pub(crate) struct Source {
    pid: i32,
    mem: OnceLock<OwnedFd>,
}

impl Source {
    pub(crate) fn new(pid: i32) -> Self {
        Self { pid, mem: OnceLock::new() }
    }

    /// Reads all of `out` at `address`.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Error> {
        let pid = self.pid;
        let file = match self.mem.get() {
            Some(file) => file,
            None => {
                let file = open_mem(pid).map_err(|source| Error::Read { pid, address, source })?;
                self.mem.get_or_init(|| file)
            }
        };
        read_exactly(pid, address, out, |at, out| rustix::io::pread(file, out, at))
    }
}

/// Reads all of `out` from a file.
pub(crate) fn read_exactly_at(file: &impl AsFd, out: &mut [u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < out.len() {
        match rustix::io::pread(file, &mut out[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Reads parts of the memory of process `pid`, by `read` unless all of them are its `own`, as a page is that it has just written: it
/// is not copied for process_vm_readv(2), as [`open_mem`] tells of others. One call of that reads a thousand parts, in
/// half to two thirds of the time of as many reads of the file; what it cannot read `read` is asked for.
///
/// # Errors
/// That of `read`.
pub(crate) fn read_parts<E>(
    (pid, own): (i32, bool),
    parts: &mut [Part<'_>],
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut at, mut may) = (0, own);
    while at < parts.len() {
        let end = parts.len().min(at + memory::MOST_PARTS);
        let got = if may { memory::read_parts(pid, &mut parts[at..end]) } else { Err(Errno::FAULT) };
        // Whatever else forbids it (a filter that we are under) does so for all.
        may = may && matches!(got, Ok(_) | Err(Errno::FAULT));
        let mut got = got.unwrap_or(0);
        while at < end && parts[at].1.len() <= got {
            got -= parts[at].1.len();
            at += 1;
        }
        if at < end {
            let (address, out) = &mut parts[at];
            read(*address, out)?;
            at += 1;
        }
    }
    Ok(())
}

/// Bytes copied at a time: stays in the second-level cache, and is soon touched for the first time.
const CHUNK_BYTES: usize = 256 << 10;

/// Copies extents into the pack from outside, through a buffer of ours.
///
/// `complete` says that everything in the pack up to the end of each extent is then written, so that it may be
/// hashed at once; extents are in ascending order.
pub(crate) fn copy(extents: &[Extent], complete: bool, pack: &mut PackWriter) -> Result<(), Error> {
    let mut buffer = vec![0u8; CHUNK_BYTES];
    let mut filled = 0usize;
    let mut filled_at = 0u64;
    let mut source: Option<Source> = None;
    for extent in extents {
        let mut done = 0;
        while done < extent.len_bytes {
            let pack_offset = extent.pack_offset + done;
            if filled == CHUNK_BYTES || (filled > 0 && filled_at + filled as u64 != pack_offset) {
                write_at(pack, &buffer[..filled], filled_at)?;
                if complete {
                    pack.filled(filled_at + filled as u64);
                }
                filled = 0;
            }
            if filled == 0 {
                filled_at = pack_offset;
            }
            let want = ((extent.len_bytes - done) as usize).min(CHUNK_BYTES - filled);
            let out = &mut buffer[filled..filled + want];
            let address = extent.address + done;
            let known = source.take().filter(|source| source.pid == extent.pid);
            source.insert(known.unwrap_or_else(|| Source::new(extent.pid))).read(address, out)?;
            filled += want;
            done += want as u64;
        }
    }
    if filled > 0 {
        write_at(pack, &buffer[..filled], filled_at)?;
        if complete {
            pack.filled(filled_at + filled as u64);
        }
    }
    Ok(())
}

/// Writes bytes to their place in the pack, for the first time or once more.
pub(crate) fn write_at(pack: &mut PackWriter, bytes: &[u8], at: u64) -> Result<(), Error> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(pack.file(), &bytes[done..], at + done as u64) {
            Ok(0) => return Err(Error::Write { source: Errno::IO }),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(source) => return Err(Error::Write { source }),
        }
    }
    pack.changed(at, bytes.len() as u64);
    Ok(())
}

/// `/proc/PID/mem` reads pages without read permission too (FOLL_FORCE), for those who may trace the process.
///
/// process_vm_readv(2) does not, and pins what it reads: a page that is shared by copy-on-write is copied for that
/// (`gup_must_unshare`, mm/internal.h, Linux 5.19), so that a look at a program would cost it memory.
pub(crate) fn open_mem(pid: i32) -> Result<OwnedFd, Errno> {
    rustix::fs::open(frost_sys::proc::path(pid, "mem"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn read_exactly(
    pid: i32,
    address: u64,
    out: &mut [u8],
    read: impl Fn(u64, &mut [u8]) -> Result<usize, Errno>,
) -> Result<(), Error> {
    let mut done = 0;
    while done < out.len() {
        let at = address + done as u64;
        match read(at, &mut out[done..]) {
            Ok(0) => return Err(Error::Read { pid, address: at, source: Errno::FAULT }),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(source) => return Err(Error::Read { pid, address: at, source }),
        }
    }
    Ok(())
}

/// A window onto a shared memory object: offset in the object, process, address, length.
pub(crate) type Window = (u64, i32, u64, u64);

/// A shared memory object that only mappings refer to, and where it can be read.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    kind: DataspaceKind,
    windows: Vec<Window>,
}

/// Shared memory objects that no descriptor refers to, by device and inode.
pub(crate) type SharedMemories = BTreeMap<(u64, u64), SharedMemory>;

/// Notes that `mapping` of process `pid` shows a shared memory object.
pub(crate) fn note_shared(found: &mut SharedMemories, pid: i32, mapping: &Mapping, backing: &Backing) {
    if let Backing::Shared { .. } = backing {
        note_shared_window(found, pid, mapping);
    }
}

/// The same of one that is known to do so, or a part of it.
pub(crate) fn note_shared_window(found: &mut SharedMemories, pid: i32, mapping: &Mapping) {
    let huge_shift = rm::huge_shift(mapping);
    let name = match mapping.name.strip_prefix(b"/memfd:") {
        Some(name) => Some(name),
        // What MAP_HUGETLB makes without a file is such a one under another name, and shown a second time (mremap(2)) only by
        // a descriptor.
        None => huge_shift.and_then(|_| mapping.name.strip_prefix(b"/")),
    };
    let kind = match name {
        Some(name) => DataspaceKind::Memfd {
            name: frost_model::BytePath::new(name.strip_suffix(crate::file::DELETED).unwrap_or(name)),
            seals: 0,
            mode: 0o777,
            huge_shift: huge_shift.unwrap_or(0),
            identity: None,
            marks: None,
        },
        None => DataspaceKind::SharedAnonymous,
    };
    let object = found.entry((mapping.device, mapping.inode));
    let object = object.or_insert_with(|| SharedMemory { kind, windows: Vec::new() });
    object.windows.push((mapping.offset, pid, mapping.start, mapping.end - mapping.start));
}

/// Reads a shared memory object through the mappings of the tree.
///
/// Its pages need not be in the page tables of any process, so all of each window is read; what is zero stays a hole.
pub(crate) fn capture_shared(
    object: &SharedMemory,
    copies: (Key, &mut Copies),
    pack: &mut PackWriter,
) -> Result<Dataspace, Error> {
    let (pages, len_bytes) = capture_windows(&object.windows, None, Some(copies), pack)?;
    Ok(Dataspace { kind: object.kind.clone(), len_bytes, pages })
}

/// The same, with what no mapping shows at that moment: a program may have unmapped a part, or have changed what a mapping
/// shows (remap_file_pages), and map it again. Tells as well why that could not be looked at, if so. `opened` is that object, if
/// somebody could open it.
pub(crate) fn capture_shared_whole(
    object: &SharedMemory,
    (key, copies): (Key, &mut Copies),
    opened: Option<OwnedFd>,
    onlookers: &Onlookers<'_>,
    pack: &mut PackWriter,
) -> Result<(Dataspace, Option<String>), Error> {
    let mut kind = object.kind.clone();
    // Who may not open one may open none.
    let behind = || {
        let behind = object.windows.iter().map(|window| open_behind(*window));
        behind.take_while(|opened| opened.as_ref().err() != Some(&Errno::PERM)).find_map(Result::ok)
    };
    let file = opened.or_else(behind);
    if let Some(file) = &file {
        let pid = object.windows.first().map_or(0, |window| window.1);
        let (pages, len_bytes) = capture_file(file, pid, (key, copies), pack)?;
        if let DataspaceKind::Memfd { seals, mode, .. } = &mut kind {
            *seals = rustix::fs::fcntl_get_seals(file).map_or(0, |seals| seals.bits());
            *mode = rustix::fs::fstat(file).map_or(*mode, |stat| stat.st_mode & 0o7777);
        }
        return Ok((Dataspace { kind, len_bytes, pages }, None));
    }
    if let DataspaceKind::Memfd { huge_shift: shift @ 1.., .. } = kind {
        let windows = readable_pages(&object.windows, 1 << shift)?;
        let (pages, len_bytes) = capture_windows(&windows, None, Some((key, copies)), pack)?;
        return Ok((Dataspace { kind, len_bytes, pages }, None));
    }
    let mut windows = Vec::with_capacity(object.windows.len());
    for window in &object.windows {
        windows.extend(readable(*window)?);
    }
    let filled = onlookers.filled(&windows)?;
    let looked = onlookers.look(&windows, &object.windows, |rest| {
        let windows = [filled.as_slice(), &rest].concat();
        capture_windows(&windows, None, Some((key, &mut *copies)), pack)
    })?;
    let ((pages, len_bytes), why) = match looked {
        Looked::Seen(captured) => (captured, None),
        Looked::Unseen(why) => (capture_windows(&filled, None, Some((key, copies)), pack)?, Some(why)),
    };
    Ok((Dataspace { kind, len_bytes, pages }, why))
}

/// Opens the object that a mapping shows. Only root may, as it has no other name.
fn open_behind((_, pid, address, len): Window) -> Result<OwnedFd, Errno> {
    let name = format!("map_files/{address:x}-{:x}", address + len);
    rustix::fs::open(proc::path(pid, &name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads shared memory through windows, and returns its content and where they end. `digest` gets what they show, and zeros for
/// what none shows before the last.
pub(crate) fn capture_windows(
    windows: &[Window],
    mut digest: Option<&mut blake3::Hasher>,
    mut copies: Option<(Key, &mut Copies)>,
    pack: &mut PackWriter,
) -> Result<(Pages, u64), Error> {
    let is_shared = copies.is_some();
    let mut windows = windows.to_vec();
    windows.sort_unstable();
    let mut pages = Pages::default();
    let mut end = 0;
    let mut buffer = vec![0u8; CHUNK_BYTES];
    for (offset, pid, address, len) in windows {
        if let Some(digest) = digest.as_deref_mut() {
            let mut hole = offset.saturating_sub(end);
            if hole > 0 {
                buffer.fill(0);
            }
            while hole > 0 {
                let part = hole.min(CHUNK_BYTES as u64);
                digest.update(&buffer[..part as usize]);
                hole -= part;
            }
        }
        let mut at = end.max(offset);
        let window_end = offset + len;
        let mem = open_mem(pid).map_err(|source| Error::Read { pid, address, source })?;
        while at < window_end {
            let want = ((window_end - at) as usize).min(CHUNK_BYTES);
            let out = &mut buffer[..want];
            let from = address + (at - offset);
            // There is no copy-on-write in what is shared, and process_vm_readv(2) copies once, not twice as `mem_rw` does
            // (fs/proc/base.c).
            let readable = |at, out: &mut [u8]| match is_shared.then(|| memory::read(pid, at, out)) {
                Some(Ok(count)) if count > 0 => Ok(count),
                _ => rustix::io::pread(&mem, out, at),
            };
            read_exactly(pid, from, out, readable)?;
            if let Some(digest) = digest.as_deref_mut() {
                digest.update(out);
            }
            let copies = copies.as_mut().map(|(key, copies)| (*key, &mut **copies));
            store_nonzero(out, at, copies, pack, &mut pages)?;
            at += want as u64;
        }
        end = end.max(window_end);
    }
    Ok((pages, end))
}

/// Reads an object that we may open, of process `pid`. Who reads a hole of it through a mapping would fill that.
fn capture_file(
    file: &OwnedFd,
    pid: i32,
    (key, copies): (Key, &mut Copies),
    pack: &mut PackWriter,
) -> Result<(Pages, u64), Error> {
    let failed = |address| move |source| Error::Read { pid, address, source };
    let size = rustix::fs::fstat(file).map_err(failed(0))?.st_size;
    let size = u64::try_from(size).unwrap_or(0);
    let end = size.next_multiple_of(PAGE_SIZE);
    let (mut at, mut pages) = (0, Pages::default());
    let mut buffer = vec![0u8; CHUNK_BYTES];
    while at < end {
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data / PAGE_SIZE * PAGE_SIZE,
            Err(Errno::NXIO) => break,
            Err(source) => return Err(failed(at)(source)),
        };
        // As far as there are no holes.
        let hole = rustix::fs::seek(file, SeekFrom::Hole(at)).map_err(failed(at))?;
        let want = (hole.next_multiple_of(PAGE_SIZE).min(end) - at).min(CHUNK_BYTES as u64) as usize;
        let out = &mut buffer[..want];
        out.fill(0);
        // The last page of a memfd may be a part of one.
        let mut done = 0;
        while done < want {
            match rustix::io::pread(file, &mut out[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(source) => return Err(failed(at)(source)),
            }
        }
        store_nonzero(out, at, Some((key, &mut *copies)), pack, &mut pages)?;
        at += want as u64;
    }
    Ok((pages, size))
}

/// A mapped file without a name that we may not open, and the windows onto it.
#[derive(Debug, Default)]
pub(crate) struct DeletedFile {
    /// The path it had.
    pub(crate) path: Vec<u8>,
    /// Windows, and whether what is written there is the file's.
    windows: Vec<(Window, bool)>,
}

/// Such files by device and inode.
pub(crate) type DeletedFiles = BTreeMap<(u64, u64), DeletedFile>;

/// Notes that `mapping` of process `pid` shows a file without a name.
pub(crate) fn note_deleted(found: &mut DeletedFiles, pid: i32, mapping: &Mapping) {
    let file = found.entry((mapping.device, mapping.inode)).or_default();
    file.path = mapping.name.strip_suffix(crate::file::DELETED).unwrap_or(&mapping.name).to_vec();
    let window = (mapping.offset, pid, mapping.start, mapping.end - mapping.start);
    file.windows.push((window, mapping.shared));
}

/// Reads a file without a name through the mappings of the tree, and what they do not show through a view, if one of them is
/// shared. Returns its content and where that ends, and why there was no view where there should be.
///
/// Where all that shows a page is private, a page that was written there stands for the file's own.
pub(crate) fn capture_deleted(
    file: &DeletedFile,
    onlookers: &Onlookers<'_>,
    pack: &mut PackWriter,
) -> Result<((Pages, u64), Option<String>), Error> {
    let mut bounds: Vec<u64> = Vec::new();
    let mut windows = Vec::with_capacity(file.windows.len());
    for (window, shared) in &file.windows {
        for window in readable(*window)? {
            bounds.extend([window.0, window.0 + window.3]);
            windows.push((window, *shared));
        }
    }
    bounds.sort_unstable();
    bounds.dedup();
    let mut chosen = Vec::new();
    for pair in bounds.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let shows = |((offset, _, _, len), _): &&(Window, bool)| *offset <= start && end <= offset + len;
        let best = windows.iter().filter(shows).max_by_key(|(_, shared)| *shared);
        if let Some(((offset, pid, address, _), _)) = best {
            chosen.push((start, *pid, address + (start - offset), end - start));
        }
    }
    let shared: Vec<_> = windows.iter().filter(|(_, shared)| *shared).map(|(window, _)| *window).collect();
    if shared.is_empty() {
        return Ok((capture_windows(&chosen, None, None, pack)?, None));
    }
    let looked = onlookers.look(&chosen, &shared, |rest| {
        capture_windows(&[chosen.as_slice(), &rest].concat(), None, None, pack)
    })?;
    Ok(match looked {
        Looked::Seen(captured) => (captured, None),
        Looked::Unseen(why) => (capture_windows(&chosen, None, None, pack)?, Some(why)),
    })
}

/// Returns the parts of a window that can be read: it may have guards, and what it shows may have been cut, or never been as
/// long.
fn readable((offset, pid, address, len): Window) -> Result<Vec<Window>, Error> {
    let failed = |source| Error::Pagemap { pid, source };
    let pagemap = Pagemap::open(pid).map_err(failed)?;
    let mut guards = match pagemap.can_scan() {
        true => pagemap.private_pages(address, address + len).map_err(failed)?.1,
        false => Vec::new(),
    };
    guards.push(PageRegion { start: address + len, end: address + len, categories: 0 });
    let (mut parts, mut at) = (Vec::new(), address);
    for guard in guards {
        let len = readable_bytes(pid, at, guard.start - at)?;
        parts.extend((len > 0).then_some((offset + (at - address), pid, at, len)));
        at = guard.end;
    }
    Ok(parts)
}

/// Returns how much of a mapping can be read: a file may end before the mapping does.
fn readable_bytes(pid: i32, address: u64, len: u64) -> Result<u64, Error> {
    let mem = open_mem(pid).map_err(|source| Error::Read { pid, address, source })?;
    let readable = |page: u64| rustix::io::pread(&mem, &mut [0u8; 1][..], address + page * PAGE_SIZE).is_ok();
    let (mut low, mut high) = (0, len / PAGE_SIZE);
    if high > 0 && readable(high - 1) {
        return Ok(len);
    }
    while low < high {
        let middle = (low + high) / 2;
        if readable(middle) { low = middle + 1 } else { high = middle }
    }
    Ok(low * PAGE_SIZE)
}

/// Returns what can be read of windows onto an object of huge pages, of `page_bytes` each, and where they end as an empty one.
///
/// A page that is not there yet may fail to come into being for want of huge pages, which the kernel reports as a fault; one
/// that is there is found (`hugetlb_fault`, mm/hugetlb.c). Nothing else shows what is unmapped: mremap(2) makes no second
/// mapping of such memory.
pub(crate) fn readable_pages(windows: &[Window], page_bytes: u64) -> Result<Vec<Window>, Error> {
    let mut readable = Vec::new();
    for (offset, pid, address, len) in windows {
        let mem = open_mem(*pid).map_err(|source| Error::Read { pid: *pid, address: *address, source })?;
        for at in (0..*len).step_by(page_bytes as usize) {
            let start = address + at;
            match rustix::io::pread(&mem, &mut [0u8; 1][..], start) {
                Ok(_) => readable.push((offset + at, *pid, start, page_bytes)),
                // One that is there and cannot be read, as memory that has failed, is no hole.
                Err(source) if is_there(*pid, start)? => {
                    return Err(Error::Read { pid: *pid, address: start, source });
                }
                Err(_) => {}
            }
        }
        readable.push((offset + len, *pid, address + len, 0));
    }
    Ok(readable)
}

/// Whether the page table of a process has a page at an address, in whatever state.
fn is_there(pid: i32, address: u64) -> Result<bool, Error> {
    let entries = Pagemap::open(pid).and_then(|map| map.entries(address, address + PAGE_SIZE));
    let entries = entries.map_err(|source| Error::Pagemap { pid, source })?;
    Ok(entries.iter().any(|entry| entry & (PRESENT | SWAPPED) != 0))
}

fn store_nonzero(
    bytes: &[u8],
    offset: u64,
    mut copies: Option<(Key, &mut Copies)>,
    pack: &mut PackWriter,
    pages: &mut Pages,
) -> Result<(), Error> {
    for part in nonzero(bytes) {
        let offset = offset + part.start as u64;
        let run = &bytes[part];
        match &mut copies {
            Some((key, copies)) => copies.store(*key, offset, run, pack, pages)?,
            None => {
                let pack_offset = pack.append(run)?;
                pages.push(Run { offset, len_bytes: run.len() as u64, pack_offset });
            }
        }
    }
    Ok(())
}

/// Returns whether a mapping shows memory whose content [`capture_shared`] must read.
pub(crate) fn needs_windows(backing: &Backing, behind: &dyn rm::Behind) -> bool {
    matches!(backing, Backing::Shared { device, inode } if behind.dataspace(*device, *inode).is_none())
}
