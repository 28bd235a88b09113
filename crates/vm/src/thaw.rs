//! An image to a running virtual machine.

use crate::birth::{self, Birth, How, Started};
use crate::disk::copy_sparse;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::{disk, qemu, run};
use frost_model::machine::{DiskBase, Forward, Machine};
use frost_runtime::instance::{Claim, Instance, Record, Standing};
use frost_store::{Image, Name, Store};
use rustix::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// How to thaw.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A copy beside whatever runs, with ports of its own.
    pub clone: bool,
    /// Ports instead of those that lead to the same of the guest, or beside them.
    pub forwards: Vec<Forward>,
}

/// Thaws an image of a virtual machine; its memory is mapped from the pack and not read.
///
/// The calling process must have one thread only, since it forks.
///
/// # Errors
/// Nothing runs then, and the image is as it was. [`Error::Disk`] names a disk that is not what it was.
pub fn thaw(store: &Store, image: &Image, options: &Options) -> Result<Started> {
    let Some(machine) = &image.checkpoint().machine else {
        return Err(Error::Stream { what: "it is an image of processes".to_owned() });
    };
    let mut machine = machine.clone();
    require(&machine)?;
    if options.clone && machine.disks.iter().any(|disk| disk.layer.is_none()) {
        return Err(Error::Unsupported {
            object: "a copy of a machine that frost did not start".to_owned(),
            why: "it writes to its disk itself, which two cannot".to_owned(),
            remedy: "thaw it without --clone".to_owned(),
        });
    }
    if options.clone {
        for forward in &mut machine.forwards {
            forward.host = qemu::free_port()?;
        }
    } else if let Some(running) = store.state(image.id())?.instance() {
        let id = image.id().clone();
        return Err(frost_store::Error::Runs { id, instance: running.clone() }.into());
    }
    for chosen in &options.forwards {
        machine.forwards.retain(|forward| forward.guest != chosen.guest);
    }
    machine.forwards.extend(options.forwards.iter().cloned());
    let command = machine.guest.as_ref().map_or(&machine.arguments, |guest| &guest.command);
    let record = Record {
        command: command.iter().map(ToString::to_string).collect(),
        detached: machine.guest.is_some(),
        machine: true,
        ..Record::now()
    };
    let (instance, claim) = if options.clone {
        copy_of(store, &image.id().name)?
    } else {
        let (instance, claim) = Instance::claim(store, &image.id().name)?;
        if let Standing::Kept(kept) = instance.standing()? {
            let pid = kept.root().unwrap_or(kept.keeper);
            return Err(frost_runtime::Error::Runs { name: instance.name().to_string(), pid }.into());
        }
        (instance, claim)
    };
    let mut claim = Some(claim);
    let outcome = prepare_and_start(store, image, machine, &instance, &record, options, &mut claim);
    if options.clone {
        return run::finish(outcome, instance, claim);
    }
    if outcome.is_err() {
        // What an earlier run of that name left stays, as its log; and it is what it was.
        let _ = instance.note_frozen(image.id().version);
    }
    drop(claim);
    outcome
}

/// Refuses what the VMM here cannot take, before anything is started.
fn require(machine: &Machine) -> Result<()> {
    let refused = |object: String, why: String, remedy: &str| Error::Unsupported {
        object,
        why,
        remedy: remedy.to_owned(),
    };
    if machine.vmm != "qemu" {
        let why = format!("it was run by {}, which this frost does not know", machine.vmm);
        return Err(refused("this virtual machine".to_owned(), why, "take a newer frost"));
    }
    let boards = qemu::boards()?;
    if !boards.contains(&machine.board) {
        let why = format!(
            "{} builds no such machine; it was saved by QEMU {}",
            qemu::installed()?,
            machine.vmm_version
        );
        return Err(refused(
            format!("a machine of type {}", machine.board),
            why,
            "install a QEMU from 7.2 on",
        ));
    }
    for disk in &machine.disks {
        let DiskBase::File { path, file_bytes, modified, digest, .. } = &disk.base else { continue };
        let path = path.as_path();
        let bad = |why: String| Error::Disk { path: path.to_owned(), why };
        let data = std::fs::metadata(path)
            .map_err(|error| bad(format!("that the guest's disk began with cannot be read: {error}")))?;
        if data.len() == *file_bytes && data.mtime() == modified.sec && data.mtime_nsec() == modified.nsec {
            continue;
        }
        if digest.is_empty() {
            return Err(bad(
                "was changed since the machine was frozen, which went on writing to it".to_owned()
            ));
        }
        let now = run::digest(path)?;
        if now.as_slice() != digest.as_slice() {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            return Err(bad(format!(
                "was changed since the guest was frozen: its BLAKE3 was {}, and is {}",
                hex(digest),
                hex(&now)
            )));
        }
    }
    Ok(())
}

/// Takes a name for a copy.
fn copy_of(store: &Store, name: &Name) -> Result<(Instance, Claim)> {
    for number in 2..10_000 {
        let Ok(name) = Name::new(&format!("{name}-{number}")) else { break };
        if store.versions(&name)?.is_empty() {
            match Instance::claim(store, &name) {
                Ok((instance, claim)) if !matches!(instance.standing()?, Standing::Kept(_)) => {
                    return Ok((instance, claim));
                }
                Ok(_) | Err(frost_runtime::Error::Busy) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(frost_runtime::Error::Busy.into())
}

fn prepare_and_start(
    store: &Store,
    image: &Image,
    machine: Machine,
    instance: &Instance,
    record: &Record,
    options: &Options,
    claim: &mut Option<Claim>,
) -> Result<Started> {
    let pack = image.pack()?;
    // The memory is the guest's own affair; what QEMU itself makes sense of is verified first.
    let blocks = image.blocks()?;
    for layer in machine.disks.iter().filter_map(|disk| disk.layer) {
        blocks.verify(pack.as_fd(), layer.offset..layer.offset + layer.len_bytes)?;
    }
    for range in machine.memory.changed.iter().map(|changed| changed.bytes) {
        blocks.verify(pack.as_fd(), range.offset..range.offset + range.len_bytes)?;
    }
    let held = instance.begin(record, true)?;
    let place = Place::new(instance)?;
    for (index, disk) in machine.disks.iter().enumerate() {
        let Some(layer) = disk.layer else { continue };
        let path = place.layer(index);
        let file = disk::create(&path)?;
        file.set_len(layer.len_bytes).map_err(Error::file(&path))?;
        copy_sparse(&pack, layer.offset, file.as_fd(), 0, layer.len_bytes)
            .map_err(|errno| Error::File { path, source: errno.into() })?;
    }
    let source = pack.try_clone().map_err(Error::file("the pack"))?;
    let birth = Birth {
        machine,
        memory: pack,
        source: Some(source),
        place,
        name: instance.name().clone(),
        store: store.clone(),
        how: How::Thaw { id: image.id().clone(), claim: !options.clone },
    };
    birth::start(birth, held, claim)
}
