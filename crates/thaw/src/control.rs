//! The control area: the interpreter, all tapes, and the bytes their calls point to, in one shared memfd.
//!
//! Its addresses are known before anything is mapped, so tapes can point to each other and to their bytes. The
//! first page holds the interpreter and a magic word, by which an area that was left behind is recognised.

use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_abi::tape::{ENTRY_BYTES, PENDING, RESULT_OFFSET};
use frost_model::PAGE_SIZE;
use frost_tracee::tape::Tape;
use frost_tracee::{interpreter, leftover};
use rustix::fd::OwnedFd;
use rustix::fs::MemfdFlags;

/// Address space for tapes. The memfd is sparse: what is not used takes nothing.
const TAPES_BYTES: u64 = 256 << 20;
/// Address space for the bytes they point to.
const BLOBS_BYTES: u64 = 1 << 30;
/// The length of the whole area.
pub(crate) const CONTROL_BYTES: u64 = PAGE_SIZE + TAPES_BYTES + BLOBS_BYTES;
/// A control area in the making.
#[derive(Debug)]
pub(crate) struct Control {
    base: u64,
    tapes: Vec<u8>,
    blobs: Vec<u8>,
}

impl Control {
    /// Starts an empty one, to be mapped at `base`.
    pub(crate) fn at(base: u64) -> Self {
        Self { base, tapes: Vec::new(), blobs: Vec::new() }
    }

    /// Returns where it is mapped.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Returns the address of the interpreter's `syscall` instruction.
    pub(crate) fn syscall_address(&self) -> u64 {
        self.base + interpreter::after_syscall() as u64 - 2
    }

    /// Returns the address at which the next tape is to be placed.
    pub(crate) fn next_tape(&self) -> u64 {
        self.base + PAGE_SIZE + self.tapes.len() as u64
    }

    /// Places a tape that was made for [`next_tape`](Self::next_tape), and returns its offset in the memfd.
    pub(crate) fn place(&mut self, tape: &Tape) -> Result<u64, Error> {
        debug_assert_eq!(tape.address(), self.next_tape());
        let offset = PAGE_SIZE + self.tapes.len() as u64;
        for entry in tape.entries() {
            self.tapes.extend_from_slice(&entry.to_bytes());
        }
        if self.tapes.len() as u64 > TAPES_BYTES {
            return Err(Error::TooLarge { what: "its tapes" });
        }
        Ok(offset)
    }

    /// Stores bytes at a multiple of `align` and returns their address.
    pub(crate) fn blob_aligned(&mut self, bytes: &[u8], align: usize) -> u64 {
        let at = self.blobs.len().next_multiple_of(align);
        self.blobs.resize(at, 0);
        self.blobs.extend_from_slice(bytes);
        self.base + PAGE_SIZE + TAPES_BYTES + at as u64
    }

    /// Stores bytes, aligned for words, and returns their address.
    pub(crate) fn blob(&mut self, bytes: &[u8]) -> u64 {
        self.blob_aligned(bytes, 8)
    }

    /// Stores words and returns their address.
    pub(crate) fn words(&mut self, words: &[u64]) -> u64 {
        let address = self.blob(&[]);
        for word in words {
            self.blobs.extend_from_slice(&word.to_ne_bytes());
        }
        address
    }

    /// Stores a string with a NUL behind it and returns its address.
    pub(crate) fn string(&mut self, bytes: &[u8]) -> u64 {
        let address = self.blob(bytes);
        self.blobs.push(0);
        address
    }

    /// Replaces bytes that were stored at `address`.
    pub(crate) fn overwrite(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - self.base - PAGE_SIZE - TAPES_BYTES) as usize;
        self.blobs[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes all of it into a memfd.
    ///
    /// `descriptors` are those of ours that stay in every process as long as the area does.
    pub(crate) fn write(&self, descriptors: [i32; 2]) -> Result<Area, Error> {
        let stage = Stage::Compile;
        if self.blobs.len() as u64 > BLOBS_BYTES {
            return Err(Error::TooLarge { what: "its arguments" });
        }
        let name = || "the control area".to_owned();
        let fd = rustix::fs::memfd_create(leftover::CONTROL_NAME, MemfdFlags::CLOEXEC).at(stage, name)?;
        rustix::fs::ftruncate(&fd, CONTROL_BYTES).at(stage, name)?;
        let mut head = interpreter::code().to_vec();
        let tail = leftover::control_tail(descriptors);
        head.resize(PAGE_SIZE as usize - tail.len(), 0);
        head.extend_from_slice(&tail);
        write_at(&fd, &head, 0).at(stage, name)?;
        write_at(&fd, &self.tapes, PAGE_SIZE).at(stage, name)?;
        write_at(&fd, &self.blobs, PAGE_SIZE + TAPES_BYTES).at(stage, name)?;
        Ok(Area { fd, tapes_bytes: self.tapes.len() })
    }
}

fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(fd, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// A control area in its memfd.
#[derive(Debug)]
pub(crate) struct Area {
    fd: OwnedFd,
    tapes_bytes: usize,
}

/// The results of all tapes at one moment.
#[derive(Debug)]
pub(crate) struct Results(Vec<u8>);

impl Area {
    /// Returns the memfd.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Reads what the tapes have done so far.
    pub(crate) fn results(&self) -> rustix::io::Result<Results> {
        let mut bytes = vec![0; self.tapes_bytes];
        let mut at = 0;
        while at < bytes.len() {
            let got = rustix::io::pread(&self.fd, &mut bytes[at..], PAGE_SIZE + at as u64)?;
            if got == 0 {
                break;
            }
            at += got;
        }
        Ok(Results(bytes))
    }
}

impl Results {
    /// Returns the result of entry `index` of the tape at `offset`; `None` if it was not reached.
    pub(crate) fn get(&self, offset: u64, index: usize) -> Option<i64> {
        let at = (offset - PAGE_SIZE) as usize + index * ENTRY_BYTES + RESULT_OFFSET;
        let result = i64::from_ne_bytes(self.0.get(at..at + 8)?.try_into().ok()?);
        (result != PENDING).then_some(result)
    }
}
