//! A virtual machine to an image. Its keeper does it.

use crate::disk::copy_sparse;
use crate::error::{Error, Result};
use crate::keeper::{self, Kept};
use crate::stream::Pages;
use crate::vmm::Vmm;
use frost_keeper::Connection;
use frost_keeper::protocol::Message;
use frost_model::cap::Objects;
use frost_model::clock::{Clocks, Timespec};
use frost_model::host::Host;
use frost_model::machine::{Disk, DiskBase, Extent};
use frost_model::{Checkpoint, PAGE_SIZE};
use frost_store::{Draft, Name, Then, observe};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::fs::File;
use std::path::Path;
use std::time::{Instant, SystemTime};

/// What a keeper is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The name of the image.
    pub name: String,
    /// Whether the machine is to go on.
    pub leave_running: bool,
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

/// Pages that are put into the pack.
struct IntoPack<'a> {
    file: BorrowedFd<'a>,
    path: &'a Path,
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
}

impl Pages for IntoPack<'_> {
    fn page(&mut self, offset: u64, bytes: &[u8; 4096]) -> Result<()> {
        if offset != self.start + self.run.len() as u64 || self.run.len() >= RUN_BYTES {
            self.flush()?;
            self.start = offset;
        }
        // The file is new: what is not written is zero.
        if bytes.iter().any(|byte| *byte != 0) {
            self.run.extend_from_slice(bytes);
        } else {
            self.flush()?;
            self.start = offset + PAGE_SIZE;
        }
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
    // file of its own comes with the devices.
    let mut draft = if shared && !order.leave_running {
        kept.store.begin_over(&name, &memory, memory_bytes)?
    } else {
        let mut draft = kept.store.begin(&name)?;
        draft.pack().reserve(memory_bytes);
        draft
    };
    let pid = kept.qemu.pid();
    let origin = observe(pid)?.ok_or(Error::Gone)?;
    let devices = {
        let path = draft.pack().path().to_owned();
        let file = draft.pack().file();
        let mut pages = IntoPack { file, path: &path, run: Vec::with_capacity(RUN_BYTES), start: 0 };
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
    draft.pack().filled(memory_bytes);
    let disks = disks(kept, &mut draft)?;
    let mut machine = kept.machine.clone();
    machine.vmm_version = kept.qemu.version().to_string();
    machine.ignore_shared = shared;
    machine.memory.bytes = Extent { offset: 0, len_bytes: memory_bytes };
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
    };
    let then = if order.leave_running { Then::GoOn } else { Then::End };
    let committed = draft.commit(&checkpoint, origin, then)?;
    if !order.leave_running {
        // The memory is an image now: it must not change any more.
        kept.qemu.quit();
    }
    Ok(Frozen {
        name: committed.id.name.to_string(),
        version: committed.id.version,
        bytes: kept.store.summary(&committed.id).disk_bytes,
        pause_us: began.elapsed().as_micros() as u64,
        running: order.leave_running,
    })
}

/// Puts the disks into the pack: what they began with, unless that stays where it is, and what was written since.
fn disks(kept: &Kept, draft: &mut Draft) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for (index, disk) in kept.machine.disks.iter().enumerate() {
        let base = match (&disk.base, &kept.source) {
            (DiskBase::Pack(extent), Some(source)) => DiskBase::Pack(put(draft, source.as_fd(), *extent)?),
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
