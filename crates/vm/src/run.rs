//! Boots a guest around a program.

use crate::birth::{self, Birth, How, Started};
use crate::disk;
use crate::error::{Error, Result};
use crate::initramfs::{self, Root, Task};
use crate::kernel::Kernel;
use crate::place::Place;
use crate::qemu;
use frost_model::BytePath;
use frost_model::clock::Timespec;
use frost_model::machine::{Disk, DiskBase, Extent, Forward, Guest, Machine, MachineMemory};
use frost_runtime::instance::{Claim, Instance, Record};
use frost_store::{Name, Store};
use rustix::fd::OwnedFd;
use serde_bytes::ByteBuf;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Less than this, and a kernel of today has no room to boot.
const LEAST_MEMORY_BYTES: u64 = 96 << 20;

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name; if there is none, the command's, made unique.
    pub name: Option<Name>,
    /// What is to run.
    pub task: Task,
    /// Where commands are looked for on this machine, as in PATH.
    pub path: OsString,
    /// The guest's memory.
    pub memory_bytes: u64,
    /// Its processors.
    pub cpus: u32,
    /// A directory or a disk image as its root; without one it has a small one in memory.
    pub root: Option<PathBuf>,
    /// Ports of this machine that lead to it.
    pub forwards: Vec<Forward>,
    /// `tcg` or `kvm`.
    pub accelerator: String,
    /// Whether nobody stays with it.
    pub detach: bool,
}

/// Boots a guest.
///
/// The calling process must have one thread only, since it forks.
///
/// # Errors
/// Nothing was started then.
pub fn run(store: &Store, kernel: &Kernel, options: &Options) -> Result<Started> {
    let unsupported = |object: &str, why: String, remedy: &str| Error::Unsupported {
        object: object.to_owned(),
        why,
        remedy: remedy.to_owned(),
    };
    if options.memory_bytes < LEAST_MEMORY_BYTES {
        let why = format!("a guest needs {} MiB to boot", LEAST_MEMORY_BYTES >> 20);
        return Err(unsupported("so little memory", why, "give it more by --ram"));
    }
    let memory_bytes = options.memory_bytes.next_multiple_of(2 << 20);
    // Its memory is a file without blocks until they are written; where there are none left then, QEMU gets SIGBUS.
    let free_bytes = store.free_bytes();
    if free_bytes < memory_bytes {
        return Err(frost_store::Error::NoSpace {
            path: store.path().to_owned(),
            limit: frost_store::SpaceLimit::FileSystem,
            needed_bytes: memory_bytes,
            free_bytes,
        }
        .into());
    }
    let program = options.task.command.first().cloned().unwrap_or_default();
    let root = match &options.root {
        Some(_) => Root::Disk,
        None => initramfs::memory_root(&options.task, &options.path)?,
    };
    let initramfs = initramfs::build(kernel, &options.task, &root)?;
    let record = Record {
        command: options.task.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        detached: true,
        machine: true,
        ..Record::now()
    };
    let (instance, claim) = frost_runtime::run::claim(store, options.name.as_ref(), &program)?;
    let mut claim = Some(claim);
    let outcome =
        prepare_and_start(store, kernel, options, memory_bytes, &initramfs, &instance, &record, &mut claim);
    finish(outcome, instance, claim)
}

/// Gives the right to the instance back, and removes it if nothing runs.
pub(crate) fn finish(outcome: Result<Started>, instance: Instance, claim: Option<Claim>) -> Result<Started> {
    if outcome.is_err()
        && let Some(claim) = claim
    {
        let _ = instance.remove(claim);
    }
    outcome
}

fn prepare_and_start(
    store: &Store,
    kernel: &Kernel,
    options: &Options,
    memory_bytes: u64,
    initramfs: &[u8],
    instance: &Instance,
    record: &Record,
    claim: &mut Option<Claim>,
) -> Result<Started> {
    let held = instance.begin(record, false)?;
    let place = Place::new(instance)?;
    std::fs::write(place.initramfs(), initramfs).map_err(Error::file(place.initramfs()))?;
    let memory = disk::create(&place.memory())?;
    memory.set_len(memory_bytes).map_err(Error::file(place.memory()))?;
    let (disks, source) = match &options.root {
        Some(root) => {
            let (disk, source) = disk_of(root, &place)?;
            disk::empty_layer(&place.layer(0), disk.len_bytes)?;
            (vec![disk], source)
        }
        None => (Vec::new(), None),
    };
    let bytes = |text: &OsStr| BytePath::new(text.as_bytes());
    let machine = Machine {
        vmm: "qemu".to_owned(),
        vmm_version: String::new(),
        board: qemu::BOARD.to_owned(),
        processor: qemu::PROCESSOR.to_owned(),
        accelerator: options.accelerator.clone(),
        cpus: options.cpus,
        memory: MachineMemory::flat(qemu::MEMORY, memory_bytes),
        disks,
        forwards: options.forwards.clone(),
        guest: Some(Guest {
            command: options.task.command.iter().map(|word| bytes(word)).collect(),
            terminal: options.task.terminal,
            ..Guest::default()
        }),
        arguments: Vec::new(),
        ignore_shared: true,
        devices: ByteBuf::new(),
    };
    let birth = Birth {
        machine,
        memory: memory.into(),
        source,
        place,
        name: instance.name().clone(),
        store: store.clone(),
        // Its keeper lives in another working directory.
        how: How::Boot(std::path::absolute(&kernel.image).map_err(Error::file(&kernel.image))?),
    };
    birth::start(birth, held, claim)
}

/// Makes a disk of what was given as root; with it comes the file that the image is to hold, if it is to.
fn disk_of(root: &Path, place: &Place) -> Result<(Disk, Option<OwnedFd>)> {
    if root.is_dir() {
        let base = place.base();
        let len_bytes = disk::from_directory(root, &base)?;
        let file = File::open(&base).map_err(Error::file(&base))?;
        let file_bytes = file.metadata().map_err(Error::file(&base))?.len();
        let whole = Extent { offset: 0, len_bytes: file_bytes };
        let disk = Disk { base: DiskBase::Pack(whole), layer: Some(whole), len_bytes };
        return Ok((disk, Some(file.into())));
    }
    let path = std::fs::canonicalize(root).map_err(Error::file(root))?;
    let file = File::open(&path).map_err(Error::file(&path))?;
    let data = file.metadata().map_err(Error::file(&path))?;
    let qcow2 = disk::qcow2_bytes(&file);
    let len_bytes = qcow2.unwrap_or(data.len());
    let base = DiskBase::File {
        format: if qcow2.is_some() { "qcow2" } else { "raw" }.to_owned(),
        file_bytes: data.len(),
        modified: Timespec { sec: data.mtime(), nsec: data.mtime_nsec() },
        digest: ByteBuf::from(digest(&path)?.to_vec()),
        path: path.as_path().into(),
    };
    Ok((Disk { base, layer: Some(Extent { offset: 0, len_bytes }), len_bytes }, None))
}

/// The BLAKE3 of a file.
pub(crate) fn digest(path: &Path) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(Error::file(path))?).map_err(Error::file(path))?;
    Ok(*hasher.finalize().as_bytes())
}
