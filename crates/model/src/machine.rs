//! A virtual machine: what a checkpoint holds in place of processes, if it is of one.

use crate::clock::Timespec;
use crate::path::BytePath;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// A virtual machine at one instant, as the program that ran it gave it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The program that ran it: `qemu`.
    pub vmm: String,
    /// Its version, as `7.2.22`.
    pub vmm_version: String,
    /// The type of machine with its version, as `pc-q35-7.2`.
    pub board: String,
    /// The model of its processors, as `Nehalem`.
    pub processor: String,
    /// What executed it: `tcg`, which is software, or `kvm`.
    pub accelerator: String,
    /// How many processors it has.
    pub cpus: u32,
    /// Its memory.
    pub memory: MachineMemory,
    /// Its disks, in the order of its slots.
    pub disks: Vec<Disk>,
    /// Ports of the host that lead to it.
    pub forwards: Vec<Forward>,
    /// What frost's init ran in it; `None` for a machine that frost did not start.
    pub guest: Option<Guest>,
    /// The arguments of a machine that frost did not start, its program's name first.
    pub arguments: Vec<BytePath>,
    /// Whether its devices were saved with `x-ignore-shared`, which a load must be told.
    pub ignore_shared: bool,
    /// Its devices: QEMU's stream without the pages of the memory.
    pub devices: ByteBuf,
}

/// The memory of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineMemory {
    /// What the program calls it.
    pub name: String,
    /// Its bytes, flat, at the beginning of the pack: it is mapped from there.
    pub bytes: Extent,
    /// What differs from that, in ascending order.
    ///
    /// The pack is an earlier version's then, from which the machine was thawed before it was frozen anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Changed>,
}

impl MachineMemory {
    /// A memory that is all at the beginning of the pack.
    pub fn flat(name: &str, len_bytes: u64) -> Self {
        Self { name: name.to_owned(), bytes: Extent { offset: 0, len_bytes }, changed: Vec::new() }
    }

    /// How many bytes of it have changed since it was mapped.
    pub fn changed_bytes(&self) -> u64 {
        self.changed.iter().map(|changed| changed.bytes.len_bytes).sum()
    }
}

/// A range of a memory that was written since it was mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Where in the memory it begins; a multiple of the page size.
    pub at: u64,
    /// Its content, whole pages.
    pub bytes: Extent,
}

/// A range of the pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it begins; a multiple of the page size.
    pub offset: u64,
    /// How long it is.
    pub len_bytes: u64,
}

/// A disk of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What it began with.
    pub base: DiskBase,
    /// What was written since, in qcow2; `None` if that went into the base itself.
    pub layer: Option<Extent>,
    /// The size of the disk that the guest sees.
    pub len_bytes: u64,
}

/// What a disk began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskBase {
    /// It is in the image, in qcow2.
    Pack(Extent),
    /// A file that stays where it is.
    File {
        /// Its absolute path.
        path: BytePath,
        /// `raw` or `qcow2`.
        format: String,
        /// Its length.
        file_bytes: u64,
        /// When it was last changed; if that and the length are the same, so is the content.
        modified: Timespec,
        /// The BLAKE3 of its content, empty if nobody took it.
        digest: ByteBuf,
    },
}

/// A port of the host that leads to one of a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The port of the host, on its loopback address.
    pub host: u16,
    /// The port of the guest.
    pub guest: u16,
}

/// The command that frost's init ran in a virtual machine, and what was on its way between the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// The command and its arguments.
    pub command: Vec<BytePath>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The beginning of a frame that the init was sending.
    pub partial: ByteBuf,
    /// The numbers of the last frames that were sent to it: those of control, those of input.
    pub numbers: [u8; 2],
    /// Input that it has not acknowledged, a frame each; the number above is of the first.
    pub input: Vec<ByteBuf>,
}
