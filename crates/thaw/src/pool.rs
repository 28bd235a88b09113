//! The descriptors that the tree inherits, under numbers that no process of the image uses.

use crate::compile::{FileMode, FileUse, Numbers};
use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_model::cap::Capability;
use frost_model::ram::DataspaceKind;
use frost_model::rm::Attachment;
use frost_model::{Checkpoint, DataspaceId, DescriptionId};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Descriptors under chosen numbers, kept open until the tree has its copies.
#[derive(Debug)]
pub(crate) struct Pool {
    taken: HashSet<i32>,
    next: i32,
    held: Vec<OwnedFd>,
}

impl Pool {
    /// Starts one for `checkpoint`.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        let taken: HashSet<i32> = checkpoint
            .processes
            .iter()
            .flat_map(|process| &process.pd.descriptors)
            .map(|descriptor| descriptor.fd.raw())
            .collect();
        // Behind all of them, if the limit leaves room there; else in the gaps between.
        let behind = taken.iter().max().map_or(0, |fd| fd + 1).max(64);
        let most = frost_sys::limits::get(libc::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let wanted = checkpoint.descriptions.len() as u64 + 1024;
        let next = if behind as u64 + wanted < most { behind } else { 3 };
        Self { taken, next, held: Vec::new() }
    }

    /// Moves a descriptor to a number of the pool, from which children inherit it.
    pub(crate) fn adopt(&mut self, fd: OwnedFd) -> rustix::io::Result<i32> {
        loop {
            let copy = rustix::io::fcntl_dupfd_cloexec(&fd, self.next)?;
            let number = copy.as_raw_fd();
            self.next = number + 1;
            if self.taken.contains(&number) {
                continue;
            }
            rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
            self.held.push(copy);
            return Ok(number);
        }
    }
}

/// Returns how each file that is mapped, executed or gone to has to be opened.
pub(crate) fn file_uses(checkpoint: &Checkpoint) -> Vec<(FileUse, usize)> {
    let mut seen = HashSet::new();
    let mut uses = Vec::new();
    for (index, process) in checkpoint.processes.iter().enumerate() {
        let mut add = |file_use: FileUse| {
            if seen.insert(file_use.clone()) {
                uses.push((file_use, index));
            }
        };
        for region in &process.rm.regions {
            if let Attachment::File { file, shared, may_write, .. } = &region.attachment {
                let mode = if *shared && *may_write { FileMode::Write } else { FileMode::Read };
                add(FileUse::new(file, mode));
            }
        }
        if let Some(exe) = &process.pd.exe {
            add(FileUse::new(exe, FileMode::Read));
        }
        for directory in [&process.pd.cwd, &process.pd.root].into_iter().flatten() {
            add(FileUse::new(directory, FileMode::Directory));
        }
    }
    uses
}

/// Opens a file as a process needs it.
pub(crate) fn open(file_use: &FileUse) -> rustix::io::Result<OwnedFd> {
    let flags = match file_use.mode {
        FileMode::Read => OFlags::RDONLY,
        FileMode::Write => OFlags::RDWR,
        FileMode::Directory => OFlags::PATH | OFlags::DIRECTORY,
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(&file_use.path));
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
}

/// What replaces a description in one process: the description, the process' descriptor, and ours.
type Instead = Vec<(DescriptionId, i32, OwnedFd)>;

/// Opens everything and gives it numbers.
pub(crate) fn open_all(
    checkpoint: &Checkpoint,
    pack: OwnedFd,
    (descriptions, instead): (Vec<Option<OwnedFd>>, Instead),
    gate: OwnedFd,
    arrived: OwnedFd,
) -> Result<(Pool, Numbers), Error> {
    let stage = Stage::Open;
    let number = || "a number for a descriptor".to_owned();
    let mut pool = Pool::of(checkpoint);
    let mut numbers = Numbers {
        // Next to each other, so that one call closes both at the end.
        gate: pool.adopt(gate).at(stage, number)?,
        arrived: pool.adopt(arrived).at(stage, number)?,
        ..Numbers::default()
    };
    for (file_use, _) in file_uses(checkpoint) {
        let fd = open(&file_use).at(stage, || String::from_utf8_lossy(&file_use.path).into_owned())?;
        let fd = pool.adopt(fd).at(stage, number)?;
        numbers.files.insert(file_use, fd);
    }
    for index in 0..checkpoint.dataspaces.len() {
        let fd = dataspace(checkpoint, index, &pack, &descriptions).at(stage, || format!("memfd {index}"))?;
        let fd = fd.map(|fd| pool.adopt(fd)).transpose().at(stage, number)?;
        numbers.dataspaces.push(fd);
    }
    for description in descriptions {
        let fd = description.map(|fd| pool.adopt(fd)).transpose().at(stage, number)?;
        numbers.descriptions.push(fd);
    }
    for (id, fd, own) in instead {
        numbers.instead.insert((id.index(), fd), pool.adopt(own).at(stage, number)?);
    }
    numbers.pack = pool.adopt(pack).at(stage, number)?;
    Ok((pool, numbers))
}

/// Opens the memfd of a dataspace that a region shows: through a description of it, or, if it has none, made anew.
fn dataspace(
    checkpoint: &Checkpoint,
    index: usize,
    pack: &OwnedFd,
    descriptions: &[Option<OwnedFd>],
) -> rustix::io::Result<Option<OwnedFd>> {
    let dataspace = &checkpoint.dataspaces[index];
    let DataspaceKind::Memfd { name, seals, mode, huge_shift } = &dataspace.kind else { return Ok(None) };
    if crate::layout::attached(checkpoint, index).is_none() {
        return Ok(None);
    }
    let this = DataspaceId::new(index as u32);
    for (description, fd) in checkpoint.descriptions.iter().zip(descriptions) {
        if let (Capability::Memfd(memfd), Some(fd)) = (&description.capability, fd)
            && memfd.dataspace == this
        {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            return rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(Some);
        }
    }
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if *huge_shift != 0 {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(huge_shift << 26);
    }
    let fd = rustix::fs::memfd_create(name.as_bytes(), flags)?;
    rustix::fs::ftruncate(&fd, dataspace.len_bytes)?;
    let mut buffer = vec![0; 1 << 20];
    for run in &dataspace.pages.runs {
        let mut done = 0;
        let end = run.len_bytes.min(dataspace.len_bytes.saturating_sub(run.offset));
        while done < end {
            let part = (end - done).min(buffer.len() as u64) as usize;
            let got = rustix::io::pread(pack, &mut buffer[..part], run.pack_offset + done)?;
            if got == 0 {
                return Err(Errno::IO);
            }
            write_all(&fd, &buffer[..got], run.offset + done)?;
            done += got as u64;
        }
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(*mode & 0o7777))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::from_bits_retain(*seals))?;
    Ok(Some(fd))
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(fd, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
