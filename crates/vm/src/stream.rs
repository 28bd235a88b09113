//! The stream in which QEMU saves a guest, taken apart as it comes: the pages of its memory, and all the rest.
//!
//! The pages go to their places in a flat file; what remains is a stream that QEMU loads into a guest whose memory is
//! that file already. So memory is mapped, never read, at a thaw, whatever way it came into the file.
//!
//! Source: QEMU, `migration/savevm.c` and `migration/ram.c`, 7.2 to 10.0. Numbers are big-endian. All sections of memory come
//! before those of devices, whose length nobody can tell, and which are passed on as they are.

use crate::error::{Error, Result};
use frost_model::machine::Changed;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::io::{BufReader, BufWriter, Read, Write};

const PAGE: usize = 4096;
const MAGIC: u32 = 0x5145_564d;
const VERSION: u32 = 3;

// Kinds of sections, migration/savevm.h.
const EOF: u8 = 0;
const SECTION_START: u8 = 1;
const SECTION_PART: u8 = 2;
const SECTION_END: u8 = 3;
const SECTION_FULL: u8 = 4;
const SUBSECTION: u8 = 5;
const CONFIGURATION: u8 = 7;
const COMMAND: u8 = 8;
const FOOTER: u8 = 0x7e;

// Flags in the low bits of a page's address, migration/ram.c.
const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const WHOLE_PAGE: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;

/// The most that is kept of a stream beside the pages of memory: a graphics card has some dozen MiB.
const REST_BYTES: usize = 512 << 20;

/// Where the pages of a guest's memory go.
pub trait Pages {
    /// Takes a page; `offset` is its place in the memory.
    ///
    /// # Errors
    /// Why it cannot be kept, which ends the save.
    fn page(&mut self, offset: u64, bytes: &[u8; PAGE]) -> Result<()>;
}

/// Reads a stream to its end, and returns what it holds beside the pages of the memory called `memory`, which has
/// `memory_bytes`.
///
/// `ignore_shared` tells whether QEMU was told to leave shared memory out: then it also writes where each memory lies.
///
/// # Errors
/// [`Error::Stream`] if it is not understood, or ends early; what `pages` fails with.
pub fn take_apart(
    stream: impl Read,
    memory: &str,
    memory_bytes: u64,
    ignore_shared: bool,
    pages: &mut dyn Pages,
) -> Result<Vec<u8>> {
    let stream = BufReader::with_capacity(1 << 20, stream);
    parts(stream, memory, memory_bytes, ignore_shared, pages).map(|parts| parts.rest)
}

fn parts<'a, R: Read>(
    stream: BufReader<R>,
    memory: &'a str,
    memory_bytes: u64,
    ignore_shared: bool,
    pages: &mut dyn Pages,
) -> Result<Parts<'a, R>> {
    let mut parts = Parts {
        stream,
        rest: Vec::new(),
        memory,
        memory_bytes,
        ignore_shared,
        last: Vec::new(),
        seen: false,
        end: None,
    };
    parts.run(pages)?;
    if !parts.seen {
        return Err(wrong(format!("it has no memory called {memory}")));
    }
    Ok(parts)
}

/// Where pages can be put into a stream that has none of a memory.
#[derive(Clone, Copy, Debug)]
pub struct Gap<'a> {
    devices: &'a [u8],
    at: usize,
    memory: &'a str,
}

impl<'a> Gap<'a> {
    /// Finds it in what [`take_apart`] returned.
    ///
    /// # Errors
    /// [`Error::Stream`] if it is no such stream, or has pages of the memory.
    pub fn find(devices: &'a [u8], memory: &'a str, memory_bytes: u64, ignore_shared: bool) -> Result<Self> {
        struct None;
        impl Pages for None {
            fn page(&mut self, _: u64, _: &[u8; PAGE]) -> Result<()> {
                Err(wrong("it has pages of the memory, which are elsewhere"))
            }
        }
        let stream = BufReader::with_capacity(PAGE, devices);
        let found = parts(stream, memory, memory_bytes, ignore_shared, &mut None)?;
        match found.end {
            // So its offset is ours, too.
            Some(at) if found.rest == devices => Ok(Self { devices, at, memory }),
            _ => Err(wrong("it has no place for pages of the memory")),
        }
    }

    /// Writes the stream with pages of the memory in it, which are read from a pack.
    ///
    /// # Errors
    /// Those of reading the pack, and of the writer.
    pub fn fill(&self, changed: &[Changed], pack: BorrowedFd<'_>, writer: impl Write) -> std::io::Result<()> {
        let mut writer = BufWriter::with_capacity(1 << 20, writer);
        let (before, after) = self.devices.split_at(self.at);
        writer.write_all(before)?;
        let mut again = 0;
        let mut bytes = vec![0; 64 * PAGE];
        for range in changed {
            let mut done = 0;
            while done < range.bytes.len_bytes {
                let len = bytes.len().min((range.bytes.len_bytes - done) as usize);
                read_all_at(pack, &mut bytes[..len], range.bytes.offset + done)?;
                for (page, at) in bytes[..len].chunks_exact(PAGE).zip((range.at + done..).step_by(PAGE)) {
                    writer.write_all(&(at | WHOLE_PAGE | again).to_be_bytes())?;
                    if again == 0 {
                        writer.write_all(&[self.memory.len() as u8])?;
                        writer.write_all(self.memory.as_bytes())?;
                        again = CONTINUE;
                    }
                    writer.write_all(page)?;
                }
                done += len as u64;
            }
        }
        writer.write_all(after)?;
        writer.flush()
    }
}

fn read_all_at(file: BorrowedFd<'_>, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(file, &mut bytes[done..], offset + done as u64) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn wrong(what: impl Into<String>) -> Error {
    Error::Stream { what: what.into() }
}

struct Parts<'a, R: Read> {
    stream: BufReader<R>,
    rest: Vec<u8>,
    memory: &'a str,
    memory_bytes: u64,
    ignore_shared: bool,
    /// The memory that the last page was of.
    last: Vec<u8>,
    /// Whether the memory was announced.
    seen: bool,
    /// Where in the rest the first part of memory ends.
    end: Option<usize>,
}

impl<R: Read> Parts<'_, R> {
    fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).map_err(|error| wrong(format!("it ends early: {error}")))?;
        Ok(bytes)
    }

    /// Reads bytes that are also passed on.
    fn pass<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.read()?;
        self.rest.extend_from_slice(&bytes);
        Ok(bytes)
    }

    /// Passes on as many bytes, and returns them.
    fn pass_some(&mut self, len: usize) -> Result<Vec<u8>> {
        if len > 1 << 16 {
            return Err(wrong("it has a name of great length"));
        }
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).map_err(|error| wrong(format!("it ends early: {error}")))?;
        self.rest.extend_from_slice(&bytes);
        Ok(bytes)
    }

    fn run(&mut self, pages: &mut dyn Pages) -> Result<()> {
        if u32::from_be_bytes(self.pass()?) != MAGIC || u32::from_be_bytes(self.pass()?) != VERSION {
            return Err(wrong("it does not begin as a stream of version 3"));
        }
        let mut section = None;
        let [mut kind] = self.read()?;
        loop {
            match kind {
                CONFIGURATION => {
                    self.rest.push(kind);
                    kind = self.configuration()?;
                    continue;
                }
                COMMAND => {
                    self.rest.push(kind);
                    self.pass::<2>()?;
                    let len = u16::from_be_bytes(self.pass()?);
                    self.pass_some(usize::from(len))?;
                }
                SECTION_START => {
                    self.rest.push(kind);
                    let id: [u8; 4] = self.pass()?;
                    let [len] = self.pass()?;
                    let name = self.pass_some(usize::from(len))?;
                    self.pass::<8>()?;
                    if name != b"ram" {
                        return Err(wrong(format!("it has a part {}", String::from_utf8_lossy(&name))));
                    }
                    section = Some(id);
                    self.memory(pages)?;
                    self.footer(id)?;
                }
                SECTION_PART | SECTION_END => {
                    self.rest.push(kind);
                    let id: [u8; 4] = self.pass()?;
                    if Some(id) != section {
                        return Err(wrong("it goes on with a part that it did not begin"));
                    }
                    self.memory(pages)?;
                    self.footer(id)?;
                }
                SECTION_FULL | EOF => {
                    self.rest.push(kind);
                    return self.devices();
                }
                kind => return Err(wrong(format!("it has a section of kind {kind}"))),
            }
            [kind] = self.read()?;
        }
    }

    /// Passes on what follows to the end of the stream.
    fn devices(&mut self) -> Result<()> {
        let limit = (REST_BYTES - self.rest.len().min(REST_BYTES)) as u64;
        let read = self.stream.by_ref().take(limit).read_to_end(&mut self.rest);
        read.map_err(|error| wrong(format!("it breaks off: {error}")))?;
        if self.rest.len() >= REST_BYTES {
            return Err(wrong("its devices have more than 512 MiB"));
        }
        Ok(())
    }

    /// Passes on the machine's name, and the parts of it, and returns the kind of the section that follows.
    fn configuration(&mut self) -> Result<u8> {
        let len = u32::from_be_bytes(self.pass()?);
        self.pass_some(len as usize)?;
        loop {
            let [kind] = self.read()?;
            if kind != SUBSECTION {
                return Ok(kind);
            }
            self.rest.push(kind);
            let [len] = self.pass()?;
            let name = self.pass_some(usize::from(len))?;
            self.pass::<4>()?;
            match name.as_slice() {
                b"configuration/target-page-bits" => {
                    self.pass::<4>()?;
                }
                b"configuration/uuid" => {
                    self.pass::<16>()?;
                }
                b"configuration/capabilities" => {
                    let count = u32::from_be_bytes(self.pass()?);
                    for _ in 0..count.min(256) {
                        let [len] = self.pass()?;
                        self.pass_some(usize::from(len))?;
                    }
                }
                name => return Err(wrong(format!("it has a part {}", String::from_utf8_lossy(name)))),
            }
        }
    }

    /// Takes one section's pages apart.
    fn memory(&mut self, pages: &mut dyn Pages) -> Result<()> {
        loop {
            let word = u64::from_be_bytes(self.read()?);
            let (offset, flags) = (word & !(PAGE as u64 - 1), word & (PAGE as u64 - 1));
            match flags & !CONTINUE {
                EOS => {
                    self.end.get_or_insert(self.rest.len());
                    self.rest.extend_from_slice(&word.to_be_bytes());
                    return Ok(());
                }
                MEM_SIZE => {
                    self.rest.extend_from_slice(&word.to_be_bytes());
                    self.sizes(offset)?;
                }
                kind @ (ZERO | WHOLE_PAGE) => {
                    if flags & CONTINUE == 0 {
                        let [len] = self.read()?;
                        let mut name = vec![0; usize::from(len)];
                        self.stream
                            .read_exact(&mut name)
                            .map_err(|error| wrong(format!("it ends early: {error}")))?;
                        self.last = name;
                    }
                    let ours = self.last == self.memory.as_bytes();
                    if ours && offset > self.memory_bytes.saturating_sub(PAGE as u64) {
                        return Err(wrong("it has a page beyond the end of the memory"));
                    }
                    if !ours {
                        // Each names its memory, as the one before may have been taken away.
                        self.rest.extend_from_slice(&(offset | kind).to_be_bytes());
                        self.rest.push(self.last.len() as u8);
                        self.rest.extend_from_slice(&self.last);
                        if kind == ZERO {
                            self.pass::<1>()?;
                        } else {
                            self.pass::<PAGE>()?;
                        }
                        if self.rest.len() > REST_BYTES {
                            return Err(wrong("its devices have more than 512 MiB"));
                        }
                        continue;
                    }
                    let page = if kind == ZERO { [self.read::<1>()?[0]; PAGE] } else { self.read::<PAGE>()? };
                    pages.page(offset, &page)?;
                }
                other => return Err(wrong(format!("it has memory in the form {other:#x}"))),
            }
        }
    }

    /// Passes on the list of all memories, `total` bytes together, and looks for ours.
    fn sizes(&mut self, mut total: u64) -> Result<()> {
        while total > 0 {
            let [len] = self.pass()?;
            let name = self.pass_some(usize::from(len))?;
            let bytes = u64::from_be_bytes(self.pass()?);
            if self.ignore_shared {
                self.pass::<8>()?;
            }
            if name == self.memory.as_bytes() {
                if bytes != self.memory_bytes {
                    return Err(wrong(format!(
                        "its memory has {bytes} bytes instead of {}",
                        self.memory_bytes
                    )));
                }
                self.seen = true;
            }
            total =
                total.checked_sub(bytes).ok_or_else(|| wrong("the lengths of its memories do not add up"))?;
        }
        Ok(())
    }

    fn footer(&mut self, id: [u8; 4]) -> Result<()> {
        let [mark] = self.pass()?;
        if mark != FOOTER || self.pass::<4>()? != id {
            return Err(wrong("a part of it does not end where it should"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frost_model::machine::Extent;
    use rustix::fd::AsFd;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Kept(BTreeMap<u64, u8>);

    impl Pages for Kept {
        fn page(&mut self, offset: u64, bytes: &[u8; PAGE]) -> Result<()> {
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            self.0.insert(offset, bytes[0]);
            Ok(())
        }
    }

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(VERSION.to_be_bytes());
        bytes.push(CONFIGURATION);
        bytes.extend(3u32.to_be_bytes());
        bytes.extend(b"q35");
        bytes.push(SECTION_START);
        bytes.extend(2u32.to_be_bytes());
        bytes.extend(b"\x03ram");
        bytes.extend([0; 8]);
        bytes.extend(((3 * 4096) | MEM_SIZE).to_be_bytes());
        bytes.extend(b"\x03ram");
        bytes.extend((2 * 4096u64).to_be_bytes());
        bytes.extend(b"\x04bios");
        bytes.extend(4096u64.to_be_bytes());
        bytes.extend(EOS.to_be_bytes());
        bytes.push(FOOTER);
        bytes.extend(2u32.to_be_bytes());
        bytes.push(SECTION_END);
        bytes.extend(2u32.to_be_bytes());
        bytes.extend(WHOLE_PAGE.to_be_bytes());
        bytes.extend(b"\x03ram");
        bytes.extend([9; 4096]);
        bytes.extend((4096 | ZERO | CONTINUE).to_be_bytes());
        bytes.push(0);
        bytes.extend(WHOLE_PAGE.to_be_bytes());
        bytes.extend(b"\x04bios");
        bytes.extend([7; 4096]);
        bytes.extend(EOS.to_be_bytes());
        bytes.push(FOOTER);
        bytes.extend(2u32.to_be_bytes());
        bytes.push(SECTION_FULL);
        bytes.extend(b"devices, whatever they are");
        bytes
    }

    #[test]
    fn pages_of_memory_go_to_their_places_and_all_else_stays() {
        let mut kept = Kept::default();
        let bytes = stream();
        let rest = take_apart(bytes.as_slice(), "ram", 8192, false, &mut kept).unwrap();
        assert_eq!(kept.0, BTreeMap::from([(0, 9), (4096, 0)]));
        assert!(rest.ends_with(b"devices, whatever they are"));
        // One page with its word and name less, and one zero with its word.
        assert_eq!(rest.len(), bytes.len() - (8 + 4 + 4096) - (8 + 1));
        // What remains is a stream itself.
        let again = take_apart(rest.as_slice(), "ram", 8192, false, &mut Kept::default()).unwrap();
        assert_eq!(again, rest);
    }

    #[test]
    fn pages_are_put_into_a_stream_that_has_none() {
        let rest = take_apart(stream().as_slice(), "ram", 8192, false, &mut Kept::default()).unwrap();
        let pack = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&pack, &[[1; 4096], [2; 4096], [3; 4096]].concat()).unwrap();
        let range = |at, offset| Changed { at, bytes: Extent { offset, len_bytes: 4096 } };
        let gap = Gap::find(&rest, "ram", 8192, false).unwrap();
        let mut filled = Vec::new();
        gap.fill(&[range(0, 8192), range(4096, 0)], pack.as_fd(), &mut filled).unwrap();
        let mut kept = Kept::default();
        assert_eq!(take_apart(filled.as_slice(), "ram", 8192, false, &mut kept).unwrap(), rest);
        assert_eq!(kept.0, BTreeMap::from([(0, 3), (4096, 1)]));
        // A pack that ends early is told of.
        assert!(gap.fill(&[range(0, 12288)], pack.as_fd(), &mut Vec::new()).is_err());
        // A stream with pages of its own, or of another machine, is refused.
        assert!(Gap::find(&filled, "ram", 8192, false).is_err());
        assert!(Gap::find(&rest, "pc.ram", 8192, false).is_err());
    }

    #[test]
    fn what_is_cut_short_or_changed_is_refused_and_never_more_than_that() {
        let bytes = stream();
        let fixed = bytes.len() - b"devices, whatever they are".len();
        for len in 0..fixed {
            let cut = take_apart(&bytes[..len], "ram", 8192, false, &mut Kept::default());
            assert!(matches!(cut, Err(Error::Stream { .. })), "{len}");
        }
        assert!(take_apart(bytes.as_slice(), "ram", 4096, false, &mut Kept::default()).is_err());
        assert!(take_apart(bytes.as_slice(), "pc.ram", 8192, false, &mut Kept::default()).is_err());
        struct Any;
        impl Pages for Any {
            fn page(&mut self, _: u64, _: &[u8; PAGE]) -> Result<()> {
                Ok(())
            }
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x41;
            // Whatever it makes of it, it ends.
            let _ = take_apart(changed.as_slice(), "ram", 8192, false, &mut Any);
        }
    }
}
