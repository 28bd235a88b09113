//! A virtual machine to an image. Its keeper does it.

use crate::disk::copy_sparse;
use crate::error::{Error, Result};
use crate::keeper::{self, Kept};
use crate::stream::Pages;
use crate::vmm::Vmm;
use frost_keeper::Connection;
use frost_keeper::protocol::Message;
use frost_model::Checkpoint;
use frost_model::cap::Objects;
use frost_model::clock::{Clocks, Timespec};
use frost_model::host::Host;
use frost_model::machine::{Changed, Disk, DiskBase, Extent};
use frost_store::{Draft, Name, Then, observe};
use frost_sys::pagemap::Pagemap;
use frost_sys::proc;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::Stat;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Instant, SystemTime};

/// What a keeper is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The name of the image.
    pub name: String,
    /// Whether the machine is to go on.
    pub leave_running: bool,
    /// Whether all of its memory is to be written, also what an earlier image has.
    #[serde(default)]
    pub full: bool,
}

/// What a freeze made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The name of the image.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Bytes of the image on disk, without holes.
    pub bytes: u64,
    /// How long the guest stood still, or until it was ended.
    pub pause_us: u64,
    /// Whether it goes on.
    pub running: bool,
}

/// What a keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done(Frozen),
    /// It is not; the machine runs on.
    Failed {
        /// Whether there was no room.
        no_space: bool,
        /// The reasons, the nearest first.
        causes: Vec<String>,
    },
}

impl Answer {
    pub(crate) fn of(error: &Error) -> Self {
        let mut causes = Vec::new();
        let mut next: Option<&dyn std::error::Error> = Some(error);
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        causes.dedup();
        let no_space = matches!(error, Error::Store(frost_store::Error::NoSpace { .. }));
        Self::Failed { no_space, causes }
    }
}

/// Asks a keeper to freeze its machine, and waits until that is done.
///
/// # Errors
/// [`Error::Gone`] if the keeper ended meanwhile.
pub fn order(connection: &Connection, order: &Order) -> Result<Answer> {
    let text = serde_json::to_vec(order).map_err(|error| Error::Speech { what: error.to_string() })?;
    connection.send(Message::new(keeper::FREEZE, 0, 0, 0), &text).map_err(|_| Error::Gone)?;
    loop {
        let packet = connection.receive().map_err(|_| Error::Gone)?;
        if packet.message.kind == keeper::DONE {
            return serde_json::from_slice(&packet.data)
                .map_err(|error| Error::Speech { what: error.to_string() });
        }
    }
}

/// Pages that are put into the pack, which has only zeros where they go.
struct IntoPack<'a> {
    file: BorrowedFd<'a>,
    path: &'a Path,
    /// The parts of the memory that are wanted, in ascending order, and where they go.
    places: &'a [Changed],
    /// Pages that follow each other, and where they begin.
    run: Vec<u8>,
    start: u64,
}

/// So much is written at once.
const RUN_BYTES: usize = 1 << 20;

impl IntoPack<'_> {
    fn flush(&mut self) -> Result<()> {
        let (mut bytes, mut offset) = (self.run.as_slice(), self.start);
        while !bytes.is_empty() {
            match rustix::io::pwrite(self.file, bytes, offset) {
                Ok(0) => return Err(no_space(self.path, Errno::NOSPC)),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(no_space(self.path, errno)),
            }
        }
        self.run.clear();
        Ok(())
    }

    /// Returns where in the pack a page of the memory goes, if it is wanted.
    fn place(&self, page: u64) -> Option<u64> {
        let behind = self.places.partition_point(|place| place.at <= page);
        let place = self.places.get(behind.checked_sub(1)?)?;
        let inside = page - place.at;
        (inside < place.bytes.len_bytes).then(|| place.bytes.offset + inside)
    }
}

impl Pages for IntoPack<'_> {
    fn page(&mut self, offset: u64, bytes: &[u8; 4096]) -> Result<()> {
        let Some(offset) = self.place(offset).filter(|_| bytes.iter().any(|byte| *byte != 0)) else {
            return Ok(());
        };
        if offset != self.start + self.run.len() as u64 || self.run.len() >= RUN_BYTES {
            self.flush()?;
            self.start = offset;
        }
        self.run.extend_from_slice(bytes);
        Ok(())
    }
}

fn no_space(path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => frost_store::Error::NoSpace {
            path: path.to_owned(),
            limit: frost_store::SpaceLimit::FileSystem,
            needed_bytes: 0,
            free_bytes: 0,
        }
        .into(),
        errno => Error::File { path: path.to_owned(), source: errno.into() },
    }
}

/// Makes an image of a paused machine. The caller lets it go on, if the image says so or this fails.
pub(crate) fn freeze(kept: &mut Kept, order: &Order, began: Instant) -> Result<Frozen> {
    let name = Name::new(&order.name).map_err(|error| Error::Speech { what: error.to_string() })?;
    let memory_bytes = kept.machine.memory.bytes.len_bytes;
    let memory = kept.place.memory();
    let shared = kept.qemu.ignores_shared();
    // A memory that changes no more is the pack by a second name; one that goes on is copied, and one that was never in a
    // file of its own comes with the devices, or what changed of it since it was mapped from a pack.
    let mut draft = if shared && !order.leave_running {
        kept.store.begin_over(&name, &memory, memory_bytes)?
    } else {
        kept.store.begin(&name)?
    };
    let changed = if order.full { None } else { share(kept, &mut draft)? };
    let whole = [Changed { at: 0, bytes: Extent { offset: 0, len_bytes: memory_bytes } }];
    let places = changed.as_deref().unwrap_or(&whole);
    if changed.is_none() && draft.pack().len_bytes() == 0 {
        draft.pack().reserve(memory_bytes);
    }
    let pid = kept.qemu.pid();
    let origin = observe(pid)?.ok_or(Error::Gone)?;
    let devices = {
        let path = draft.pack().path().to_owned();
        let file = draft.pack().file();
        let mut pages = IntoPack { file, path: &path, places, run: Vec::with_capacity(RUN_BYTES), start: 0 };
        let devices = kept.qemu.save(&mut pages)?;
        pages.flush()?;
        devices
    };
    if shared && order.leave_running {
        let from = File::open(&memory).map_err(Error::file(&memory))?;
        let path = draft.pack().path().to_owned();
        copy_sparse(&from, 0, draft.pack().file(), 0, memory_bytes)
            .map_err(|errno| no_space(&path, errno))?;
    }
    let end = draft.pack().len_bytes();
    draft.pack().filled(end);
    let goes_on = changed.is_some();
    let disks = disks(kept, &mut draft, goes_on)?;
    let mut machine = kept.machine.clone();
    machine.vmm_version = kept.qemu.version().to_string();
    machine.ignore_shared = shared;
    machine.memory.bytes = Extent { offset: 0, len_bytes: memory_bytes };
    machine.memory.changed = changed.unwrap_or_default();
    machine.devices = ByteBuf::from(devices);
    machine.disks = disks;
    if let (Some(guest), Some(agent)) = (&mut machine.guest, &kept.agent) {
        agent.state_into(guest);
    }
    // A paused QEMU has written all that it held of them.
    crate::adopt::settle(&mut machine.disks);
    let checkpoint = Checkpoint {
        host: host()?,
        clocks: Clocks { realtime: now(), ..Clocks::default() },
        processes: Vec::new(),
        descriptions: Vec::new(),
        objects: Objects::default(),
        dataspaces: Vec::new(),
        machine: Some(machine),
        layers: Vec::new(),
        bundle: Vec::new(),
        nests: Vec::new(),
    };
    let then = if order.leave_running { Then::GoOn } else { Then::End };
    let committed = draft.commit(&checkpoint, origin, then)?;
    if goes_on {
        kept.image = Some(committed.id.clone());
    }
    if !order.leave_running {
        // The memory is an image now: it must not change any more.
        kept.qemu.quit();
    }
    Ok(Frozen {
        name: committed.id.name.to_string(),
        version: committed.id.version,
        // Without the holes of a memory of its own.
        bytes: if goes_on { committed.bytes } else { kept.store.summary(&committed.id).disk_bytes },
        pause_us: began.elapsed().as_micros() as u64,
        running: order.leave_running,
    })
}

/// Goes on with the pack that the memory is a private mapping of, if that can be and is worth it; returns the places for
/// what changed of the memory, which are all the pages that QEMU has to itself.
fn share(kept: &Kept, draft: &mut Draft) -> Result<Option<Vec<Changed>>> {
    let (Some(id), Some(source)) = (&kept.image, &kept.source) else { return Ok(None) };
    let Ok(mapped) = rustix::fs::fstat(source) else { return Ok(None) };
    // The image may have been removed, or its pack compressed or made anew.
    let Ok(image) = kept.store.open_any(id) else { return Ok(None) };
    let pack = kept.store.path_of(id).join("pack");
    let same =
        std::fs::metadata(pack).is_ok_and(|pack| pack.dev() == mapped.st_dev && pack.ino() == mapped.st_ino);
    if !same {
        return Ok(None);
    }
    let memory_bytes = kept.machine.memory.bytes.len_bytes;
    let Some(written) = written(kept.qemu.pid(), &mapped, memory_bytes) else { return Ok(None) };
    let written_bytes: u64 = written.iter().map(|range| range.end - range.start).sum();
    // A thaw reads what changed, and only maps the rest: where much of it has changed, a new beginning is better.
    if written_bytes > mapped.st_blocks.cast_unsigned() * 512 / 2 || !draft.share_pack(&image)? {
        return Ok(None);
    }
    let mut offset = draft.pack().reserve(written_bytes);
    let places = written.into_iter().map(|range| {
        let len_bytes = range.end - range.start;
        let bytes = Extent { offset, len_bytes };
        offset += len_bytes;
        Changed { at: range.start, bytes }
    });
    Ok(Some(places.collect()))
}

/// Finds which parts of a memory that is a private mapping of a file's beginning its process has written. `None` where
/// that cannot be told.
fn written(pid: i32, file: &Stat, memory_bytes: u64) -> Option<Vec<Range<u64>>> {
    let mappings = proc::bare_mappings(pid).ok()?;
    let pagemap = Pagemap::open(pid).ok()?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut seen = 0;
    for mapping in mappings {
        let ours = mapping.inode == file.st_ino && mapping.device == file.st_dev && !mapping.shared;
        if !ours || mapping.offset >= memory_bytes {
            continue;
        }
        // It may be in parts, of which some are left out of core dumps or may be merged.
        let (pages, _) = pagemap.private_pages(mapping.start, mapping.end).ok()?;
        let at = |address: u64| mapping.offset + (address - mapping.start);
        ranges.extend(pages.iter().map(|page| at(page.start)..at(page.end)));
        seen += mapping.end - mapping.start;
    }
    ranges.sort_unstable_by_key(|range| range.start);
    // All of it once, or it is not what we take it for.
    (seen == memory_bytes && ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)).then_some(ranges)
}

/// Puts the disks into the pack: what they began with, unless that stays where it is or is in the pack already, and what
/// was written since.
fn disks(kept: &Kept, draft: &mut Draft, goes_on: bool) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for (index, disk) in kept.machine.disks.iter().enumerate() {
        let base = match (&disk.base, &kept.source) {
            (DiskBase::Pack(extent), Some(source)) if !goes_on => {
                DiskBase::Pack(put(draft, source.as_fd(), *extent)?)
            }
            (base, _) => base.clone(),
        };
        let layer = match disk.layer {
            Some(_) => {
                let path = kept.place.layer(index);
                let file = File::open(&path).map_err(Error::file(&path))?;
                let len_bytes = file.metadata().map_err(Error::file(&path))?.len();
                Some(put(draft, file.as_fd(), Extent { offset: 0, len_bytes })?)
            }
            None => None,
        };
        disks.push(Disk { base, layer, len_bytes: disk.len_bytes });
    }
    Ok(disks)
}

/// Puts a range of a file at the end of the pack.
fn put(draft: &mut Draft, from: BorrowedFd<'_>, extent: Extent) -> Result<Extent> {
    let path = draft.pack().path().to_owned();
    let offset = draft.pack().reserve(extent.len_bytes);
    copy_sparse(from, extent.offset, draft.pack().file(), offset, extent.len_bytes)
        .map_err(|errno| no_space(&path, errno))?;
    let end = draft.pack().len_bytes();
    draft.pack().filled(end);
    Ok(Extent { offset, len_bytes: extent.len_bytes })
}

fn host() -> Result<Host> {
    let uname = rustix::system::uname();
    let boot_id = "/proc/sys/kernel/random/boot_id";
    let boot_id = std::fs::read_to_string(boot_id).map_err(Error::file(boot_id))?;
    Ok(Host {
        architecture: uname.machine().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        boot_id: boot_id.trim_end().to_owned(),
        xcr0: 0,
        cpu_features: Vec::new(),
        uid: rustix::process::geteuid().as_raw(),
        privileged: rustix::process::geteuid().is_root(),
        pid_namespace: false,
        ipc_namespace: false,
        runtime: None,
    })
}

fn now() -> Timespec {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timespec::from_nanos(since.as_nanos() as i128)
}
