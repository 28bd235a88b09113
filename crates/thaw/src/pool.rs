//! The descriptors that the tree inherits.
//!
//! A description has the number under which the program knows it, where all processes that have this number agree: so
//! that a program may use nearly all of the numbers that its limit allows. All else has numbers that no process uses.

use crate::cap::directory::{self, Removed};
use crate::cap::memfd;
use crate::compile::{FileMode, FileUse, Numbers};
use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_model::cap::{Capability, FileRef, LockKind};
use frost_model::ram::DataspaceKind;
use frost_model::rm::Attachment;
use frost_model::{Checkpoint, DataspaceId, DescriptionId};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use std::collections::{HashMap, HashSet};
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
    /// Starts one for `checkpoint`, in which so many descriptions have no number that all agree on.
    pub(crate) fn of(checkpoint: &Checkpoint, strangers: usize) -> Self {
        let taken: HashSet<i32> = checkpoint
            .processes
            .iter()
            .flat_map(|process| &process.pd.descriptors)
            .map(|descriptor| descriptor.fd.raw())
            .collect();
        // Behind all of them, if the limit leaves room there; else in the gaps between.
        let behind = taken.iter().max().map_or(0, |fd| fd + 1).max(64);
        let most = frost_sys::limits::get(libc::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let wanted = strangers as u64 + 1024;
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

    /// Moves descriptions to their numbers: those that are theirs, as far as these are free here, else any of the pool.
    fn settle(
        &mut self,
        descriptions: Vec<Option<OwnedFd>>,
        homes: &[Option<i32>],
    ) -> rustix::io::Result<Vec<Option<i32>>> {
        let mut waiting = descriptions;
        let raw = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        let mut holders: HashMap<i32, usize> =
            waiting.iter().enumerate().filter_map(|(index, fd)| Some((raw(fd)?, index))).collect();
        let mut numbers = vec![None; waiting.len()];
        for first in 0..waiting.len() {
            // Each waits for the next one to leave its number.
            let mut queue = vec![first];
            let mut queued = HashSet::from([first]);
            while let Some(index) = queue.last().copied() {
                let Some(fd) = waiting[index].take() else {
                    queue.pop();
                    continue;
                };
                let now = fd.as_raw_fd();
                let home = homes[index];
                let holder = home.filter(|home| *home != now).and_then(|home| holders.get(&home)).copied();
                match holder {
                    // They wait for each other.
                    Some(other) if !queued.insert(other) => {
                        if let Some(theirs) = waiting[other].take() {
                            let aside = rustix::io::fcntl_dupfd_cloexec(&theirs, self.next)?;
                            holders.remove(&theirs.as_raw_fd());
                            holders.insert(aside.as_raw_fd(), other);
                            waiting[other] = Some(aside);
                        }
                        waiting[index] = Some(fd);
                    }
                    Some(other) => {
                        waiting[index] = Some(fd);
                        queue.push(other);
                    }
                    None => {
                        holders.remove(&now);
                        numbers[index] = Some(self.move_to(fd, home)?);
                        queue.pop();
                    }
                }
            }
        }
        Ok(numbers)
    }

    /// Moves a descriptor to a number, or to any of the pool if that one is in use here or beyond our limit.
    fn move_to(&mut self, fd: OwnedFd, home: Option<i32>) -> rustix::io::Result<i32> {
        let Some(home) = home else { return self.adopt(fd) };
        if fd.as_raw_fd() == home {
            rustix::io::fcntl_setfd(&fd, FdFlags::empty())?;
            self.held.push(fd);
            return Ok(home);
        }
        match rustix::io::fcntl_dupfd_cloexec(&fd, home) {
            Ok(copy) if copy.as_raw_fd() == home => self.move_to(copy, Some(home)),
            Ok(_) | Err(Errno::INVAL | Errno::MFILE) => self.adopt(fd),
            Err(errno) => Err(errno),
        }
    }
}

/// Returns the number of each description on which all processes agree that have it.
fn homes(checkpoint: &Checkpoint, descriptions: &[Option<OwnedFd>], instead: &Instead) -> Vec<Option<i32>> {
    let mut meanings: HashMap<i32, Option<usize>> = HashMap::new();
    for descriptor in checkpoint.processes.iter().flat_map(|process| &process.pd.descriptors) {
        let index = descriptor.description.index();
        let meaning = meanings.entry(descriptor.fd.raw()).or_insert(Some(index));
        if *meaning != Some(index) {
            *meaning = None;
        }
    }
    for (_, fd, _) in instead {
        meanings.insert(*fd, None);
    }
    let mut homes = vec![None; descriptions.len()];
    for (fd, meaning) in meanings {
        if let Some(index) = meaning.filter(|index| descriptions.get(*index).is_some_and(Option::is_some)) {
            homes[index] = Some(homes[index].map_or(fd, |other: i32| other.min(fd)));
        }
    }
    homes
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

/// Returns the removed directory that a process is to go to, if a use is of such a one.
pub(crate) fn removed_directory<'a>(
    checkpoint: &'a Checkpoint,
    index: usize,
    file_use: &FileUse,
) -> Option<&'a FileRef> {
    file_use.removed?;
    let pd = &checkpoint.processes.get(index)?.pd;
    let mut places = [&pd.cwd, &pd.root].into_iter().flatten();
    places.find(|place| FileUse::new(place, FileMode::Directory) == *file_use)
}

/// Opens a file as a process needs it.
pub(crate) fn open(file_use: &FileUse) -> rustix::io::Result<OwnedFd> {
    let flags = match file_use.mode {
        FileMode::Read => OFlags::RDONLY,
        FileMode::Write => OFlags::RDWR,
        FileMode::Directory => OFlags::PATH | OFlags::DIRECTORY,
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(&file_use.path));
    let path = frost_sys::sight::of(path);
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
}

/// What replaces a description in one process: the description, the process' descriptor, and ours.
type Instead = Vec<(DescriptionId, i32, OwnedFd)>;

/// Opens everything and gives it numbers.
pub(crate) fn open_all(
    checkpoint: &Checkpoint,
    pack: OwnedFd,
    (descriptions, instead): (Vec<Option<OwnedFd>>, Instead),
    mut removed: Removed,
    gate: OwnedFd,
    arrived: OwnedFd,
) -> Result<(Pool, Numbers), Error> {
    let stage = Stage::Open;
    let number = || "a number for a descriptor".to_owned();
    let homes = homes(checkpoint, &descriptions, &instead);
    let strangers = homes.iter().filter(|home| home.is_none()).count();
    let mut pool = Pool::of(checkpoint, strangers);
    let mut numbers = Numbers {
        // Next to each other, so that one call closes both at the end.
        gate: pool.adopt(gate).at(stage, number)?,
        arrived: pool.adopt(arrived).at(stage, number)?,
        ..Numbers::default()
    };
    for (file_use, index) in file_uses(checkpoint) {
        let fd = match removed_directory(checkpoint, index, &file_use) {
            Some(file) => directory::to_go_to(removed.get(file)?),
            None => open(&file_use),
        };
        let fd = fd.at(stage, || String::from_utf8_lossy(&file_use.path).into_owned())?;
        let fd = pool.adopt(fd).at(stage, number)?;
        numbers.files.insert(file_use, fd);
    }
    let shown = shown(checkpoint);
    for index in 0..checkpoint.dataspaces.len() {
        let fd = dataspace(checkpoint, index, &pack, &descriptions).at(stage, || format!("memfd {index}"))?;
        let to_read = fd.as_ref().filter(|_| shown.contains(&Shown::DataspaceToRead(index)));
        if let Some(fd) = to_read.and_then(|fd| open_anew(fd, OFlags::RDONLY)) {
            numbers.dataspaces_to_read.insert(index, pool.adopt(fd).at(stage, number)?);
        }
        let fd = fd.map(|fd| pool.adopt(fd)).transpose().at(stage, number)?;
        numbers.dataspaces.push(fd);
    }
    for (index, fd) in descriptions.iter().enumerate() {
        for (to_write, mode) in [(false, OFlags::RDONLY), (true, OFlags::RDWR)] {
            // Nobody else may have a file open of which somebody has a lease, so that is what the mapping was made from.
            let leased = checkpoint.descriptions[index].locks.iter().any(|lock| lock.kind == LockKind::Lease);
            let is_shown = !leased && shown.contains(&Shown::Description(index, to_write));
            if let Some(fd) = fd.as_ref().filter(|_| is_shown).and_then(|fd| open_anew(fd, mode)) {
                numbers.descriptions_shown.insert((index, to_write), pool.adopt(fd).at(stage, number)?);
            }
        }
    }
    numbers.descriptions = pool.settle(descriptions, &homes).at(stage, number)?;
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
    if !matches!(dataspace.kind, DataspaceKind::Memfd { .. }) {
        return Ok(None);
    }
    if crate::layout::attached(checkpoint, index).is_none() {
        return Ok(None);
    }
    let this = DataspaceId::new(index as u32);
    for (description, fd) in checkpoint.descriptions.iter().zip(descriptions) {
        if let (Capability::Memfd(memfd), Some(fd)) = (&description.capability, fd)
            && memfd.dataspace == this
        {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            // What somebody has open for writing is nobody's binary.
            let mode = if is_written(checkpoint, this) { OFlags::RDWR } else { OFlags::RDONLY };
            return rustix::fs::open(path, mode | OFlags::CLOEXEC, Mode::empty()).map(Some);
        }
    }
    memfd::make(dataspace, pack.as_fd())
}

/// What a mapping shows, by its index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Shown {
    /// Only of shared mappings that may not become writable: all else shows what was opened for its dataspace.
    DataspaceToRead(usize),
    /// And whether it may be written through the mapping.
    Description(usize, bool),
}

/// Finds what mappings show that needs a description of its own.
fn shown(checkpoint: &Checkpoint) -> HashSet<Shown> {
    let regions = checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
    let shown = regions.filter_map(|region| match &region.attachment {
        Attachment::Dataspace { dataspace, shared: true, may_write: false, .. } => {
            Some(Shown::DataspaceToRead(dataspace.index()))
        }
        Attachment::Description { description, shared, may_write, .. } => {
            Some(Shown::Description(description.index(), *shared && *may_write))
        }
        _ => None,
    });
    shown.collect()
}

/// Opens a file anew. A shared mapping of one that is opened for reading cannot become writable (VM_MAYWRITE in `do_mmap`,
/// mm/mmap.c); and what a mapping shows stays open, with the locks that are held by it.
///
/// `None` if its rights forbid that; what has it open then serves, as the program's own did.
fn open_anew(fd: &OwnedFd, mode: OFlags) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, mode | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Whether a mapping of a dataspace may be written through to it.
fn is_written(checkpoint: &Checkpoint, this: DataspaceId) -> bool {
    let regions = checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
    regions.map(|region| &region.attachment).any(|attachment| {
        matches!(attachment, Attachment::Dataspace { dataspace, shared: true, may_write: true, .. } if *dataspace == this)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    /// An eventfd that counts `value`, under a number.
    fn counter(value: u32, number: i32) -> OwnedFd {
        let fd = eventfd(value, EventfdFlags::CLOEXEC).unwrap();
        let placed = rustix::io::fcntl_dupfd_cloexec(&fd, number).unwrap();
        assert_eq!(placed.as_raw_fd(), number);
        placed
    }

    #[test]
    fn descriptions_get_their_numbers_also_from_each_other() {
        const FIRST: i32 = 700;
        let occupied = counter(99, FIRST + 8);
        // Two that change places, a chain of three, one that is where it belongs, one that has no number, one that is not
        // there, and one whose number we use ourselves.
        let now = [0, 1, 2, 3, 4, 6, 7, -1, 9];
        let home = [Some(1), Some(0), Some(3), Some(4), Some(5), Some(6), None, None, Some(8)];
        let descriptions: Vec<Option<OwnedFd>> =
            now.iter().map(|at| (*at >= 0).then(|| counter(*at as u32 + 1, FIRST + at))).collect();
        let homes: Vec<Option<i32>> = home.iter().map(|at| at.map(|at| FIRST + at)).collect();
        let mut pool = Pool { taken: (FIRST..FIRST + 10).collect(), next: FIRST + 5, held: Vec::new() };
        let numbers = pool.settle(descriptions, &homes).unwrap();
        assert_eq!(numbers[..6], homes[..6]);
        assert_eq!(numbers[7], None);
        assert!(numbers[6] >= Some(FIRST + 10) && numbers[8] >= Some(FIRST + 10));
        for (at, number) in now.iter().zip(&numbers).filter_map(|(at, number)| Some((at, (*number)?))) {
            let held = pool.held.iter().find(|fd| fd.as_raw_fd() == number).unwrap();
            let mut count = [0; 8];
            rustix::io::read(held, &mut count).unwrap();
            assert_eq!(u64::from_ne_bytes(count), *at as u64 + 1);
            assert!(!rustix::io::fcntl_getfd(held).unwrap().contains(FdFlags::CLOEXEC));
        }
        drop(occupied);
    }
}
