//! Memory behind a descriptor.

use super::{file, pack, regular};
use frost_model::ram::{Dataspace, DataspaceKind};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, SealFlags, memfd_create};
use rustix::io::{Errno, Result};

/// Returns the seals that are set when the mappings of the program are made: F_SEAL_FUTURE_WRITE, which forbids new
/// ones that may be written, and with it F_SEAL_SEAL, which forbids further seals.
pub(super) fn late_seals(dataspace: &Dataspace) -> SealFlags {
    match &dataspace.kind {
        DataspaceKind::Memfd { seals, .. } if seals & SealFlags::FUTURE_WRITE.bits() != 0 => {
            SealFlags::from_bits_retain(*seals) & (SealFlags::FUTURE_WRITE | SealFlags::SEAL)
        }
        _ => SealFlags::empty(),
    }
}

/// Makes a memfd with its content and all seals but the late ones; `None` if the dataspace is no memfd.
pub(crate) fn make(dataspace: &Dataspace, from: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let DataspaceKind::Memfd { name, seals, mode, huge_shift, .. } = &dataspace.kind else { return Ok(None) };
    let seals = SealFlags::from_bits_retain(*seals);
    let mut flags = MemfdFlags::CLOEXEC;
    if seals != SealFlags::SEAL {
        flags |= MemfdFlags::ALLOW_SEALING;
    }
    if *huge_shift != 0 {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(huge_shift << 26);
    }
    // A memfd that may not be executed has F_SEAL_EXEC (Linux 6.3); others say so where the default is otherwise.
    let name = name.as_bytes();
    let fd = match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        other => other,
    }?;
    rustix::fs::ftruncate(&fd, dataspace.len_bytes)?;
    pack::copy(from, &dataspace.pages, &fd, dataspace.len_bytes)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
    let now = rustix::fs::fcntl_get_seals(&fd)?;
    let missing = seals & !now & !late_seals(dataspace);
    if !missing.is_empty() {
        rustix::fs::fcntl_add_seals(&fd, missing)?;
    }
    Ok(Some(fd))
}

/// Opens a description of a memfd. The `first` one for reading and writing is that with which it was made: the kernel does not
/// count it among those who write (`memfd_create`, mm/memfd.c), and lets nobody execute what any other can write to, so it may be
/// a binary's.
pub(super) fn description(made: &OwnedFd, flags: u32, position: u64, first: bool) -> Result<OwnedFd> {
    if !first {
        return regular::description(made, flags, position);
    }
    let fd = made.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
    file::set_status(&fd, flags)?;
    regular::seek(&fd, flags, position)?;
    Ok(fd)
}
