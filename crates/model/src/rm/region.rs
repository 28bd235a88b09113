//! Regions: attachments of dataspaces in an address space.

use super::Bounds;
use crate::PAGE_SIZE;
use crate::cap::FileRef;
use crate::id::{DataspaceId, DescriptionId, ObjectId};
use crate::ram::{MemoryPolicy, Pages};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The region map of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RmState {
    /// Regions by ascending address, disjoint.
    pub regions: Vec<Region>,
    /// Where code, data, heap, stack, arguments and environment lie.
    pub bounds: Bounds,
    /// The vDSO the program was started with.
    pub vdso: Option<Vdso>,
    /// Protection keys, if it has any beside key 0.
    #[serde(default, skip_serializing_if = "ProtectionKeys::is_empty")]
    pub keys: ProtectionKeys,
}

/// How many protection keys an address space has (`arch_max_pkey`, arch/x86/include/asm/pkeys.h).
pub const PROTECTION_KEYS: u32 = 16;

/// The protection keys of an address space (pkeys(7)); key 0, which all memory has at first, is not told. The rights that a
/// thread has by them are in its xstate (PKRU).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionKeys {
    /// Those that the program has allocated (pkey_alloc): bit 1 for key 1.
    pub allocated: u32,
    /// That which the kernel gives to memory that may only be executed, 0 for none.
    pub execute_only: u32,
}

impl ProtectionKeys {
    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the program has allocated `key`.
    pub fn has(&self, key: u32) -> bool {
        self.allocated.checked_shr(key).is_some_and(|bits| bits & 1 == 1)
    }
}

/// A range of whole pages of an address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// Makes a range from page-aligned addresses; `None` if one is not aligned or the range is empty.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start < end && start.is_multiple_of(PAGE_SIZE) && end.is_multiple_of(PAGE_SIZE))
            .then_some(Self { start, end })
    }

    /// Returns the first address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Returns the first address behind it.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Returns its length in bytes.
    pub const fn len_bytes(self) -> u64 {
        self.end - self.start
    }

    /// Returns whether `address` lies in it.
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Returns whether both share a page.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Returns whether all of it is well-formed; a decoded range may not be.
    pub fn is_valid(self) -> bool {
        Self::new(self.start, self.end) == Some(self)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.end)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where it lies.
    pub range: PageRange,
    /// What may be done with it.
    pub protection: Protection,
    /// What is attached.
    pub attachment: Attachment,
    /// Advice, locks and growth.
    pub flags: RegionFlags,
    /// The pages that belong to this region alone: those of anonymous memory, and those of a private file
    /// mapping that were written. Offsets count from the start of the region.
    pub private: Pages,
    /// Guard regions inside (MADV_GUARD_INSTALL), as ranges of addresses.
    pub guards: Vec<PageRange>,
    /// From which nodes its pages are taken (mbind), if it has a policy of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<MemoryPolicy>,
    /// The logarithm of the size of its pages, if those are of hugetlbfs (MAP_HUGETLB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_shift: Option<u32>,
}

/// Rights of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub execute: bool,
    /// The protection key (pkey_mprotect), 0 by default.
    pub key: u32,
}

impl Protection {
    /// Returns whether nothing but execution is allowed.
    pub const fn is_execute_only(self) -> bool {
        self.execute && !self.read && !self.write
    }
}

/// What a region shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// Private anonymous memory.
    Anonymous,
    /// A file, mapped by its path.
    File {
        /// The file, and what it was when the program was frozen.
        file: FileRef,
        /// Offset in the file in bytes.
        offset: u64,
        /// Whether writes go to the file (MAP_SHARED).
        shared: bool,
        /// Whether the mapping was made from a writable description, so that PROT_WRITE may be set later.
        may_write: bool,
    },
    /// Memory that is shared, or that lies behind a descriptor: shared anonymous memory, a memfd.
    Dataspace {
        /// Which.
        dataspace: DataspaceId,
        /// Offset in the dataspace in bytes.
        offset: u64,
        /// Whether writes are seen by others (MAP_SHARED).
        shared: bool,
        /// Whether PROT_WRITE may be set later.
        may_write: bool,
    },
    /// A file without a name that is carried as an object: mapped from a description of the checkpoint.
    Description {
        /// A description of that file.
        description: DescriptionId,
        /// Offset in the file in bytes.
        offset: u64,
        /// Whether writes go to the file (MAP_SHARED).
        shared: bool,
        /// Whether PROT_WRITE may be set later.
        may_write: bool,
    },
    /// Memory of the kernel's own making, which has no content to save.
    Special(SpecialRegion),
    /// A segment of System V shared memory (shmat).
    Segment {
        /// Which.
        segment: ObjectId,
        /// Offset in the segment in bytes.
        offset: u64,
        /// Whether PROT_WRITE may be set later; not if it was attached by SHM_RDONLY.
        may_write: bool,
    },
    /// The ring of a context of asynchronous I/O (io_setup), without requests under way.
    Aio {
        /// Events that were not taken yet, the oldest first: `struct io_event`, 32 bytes each.
        #[serde(with = "serde_bytes")]
        events: Vec<u8>,
    },
}

/// Regions that the kernel puts into each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpecialRegion {
    /// `[vvar]`, data of the vDSO.
    Vvar,
    /// `[vvar_vclock]`, clock pages of the vDSO, a region of its own since Linux 6.13.
    VvarVclock,
    /// `[vdso]`, its code.
    Vdso,
    /// `[vsyscall]`, which no process can unmap.
    Vsyscall,
}

/// Flags of a region, from `VmFlags` of `/proc/PID/smaps`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionFlags {
    /// `gd`: grows down, a stack.
    pub grows_down: bool,
    /// `lo`: locked in memory.
    pub locked: bool,
    /// `lf`: locked when touched (MLOCK_ONFAULT).
    pub lock_on_fault: bool,
    /// `dc`: not copied by fork (MADV_DONTFORK).
    pub dont_fork: bool,
    /// `wf`: zeroed in the child of a fork (MADV_WIPEONFORK).
    pub wipe_on_fork: bool,
    /// `dd`: not part of core dumps (MADV_DONTDUMP).
    pub dont_dump: bool,
    /// `hg`: MADV_HUGEPAGE.
    pub huge_page: bool,
    /// `nh`: MADV_NOHUGEPAGE.
    pub no_huge_page: bool,
    /// `mg`: MADV_MERGEABLE.
    pub mergeable: bool,
    /// `sr`: MADV_SEQUENTIAL.
    pub sequential: bool,
    /// `rr`: MADV_RANDOM.
    pub random: bool,
    /// `nr`: no swap space is reserved (MAP_NORESERVE).
    pub no_reserve: bool,
    /// `ht`: pages of hugetlbfs.
    pub hugetlb: bool,
    /// `sl`: sealed (mseal).
    pub sealed: bool,
    /// `dp`: may be dropped under memory pressure (MAP_DROPPABLE).
    pub droppable: bool,
}

/// The vDSO of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vdso {
    /// The start of its lowest region, `[vvar]`: the address that ARCH_MAP_VDSO_64 takes.
    pub address: u64,
    /// The start of its code, as AT_SYSINFO_EHDR says.
    pub code: u64,
    /// The BLAKE3 digest of its code pages.
    pub digest: [u8; 32],
}
