//! Files of file systems in memory, which go with the machine: their content is captured.

use super::held::Place;
use super::{Error, Held, Sink, content, regular};
use frost_model::cap::{FileRef, LockKind, Volatile};
use frost_model::{BytePath, Pid};
use frost_sys::hugetlb;
use frost_sys::lease::Leases;
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

/// Whether a description is of such a file and may have changed it.
///
/// Not one with a lease, which the reading would break.
pub(super) fn is_written(held: &Held) -> bool {
    held.is_writable() && is_in_memory(held) && !held.locks.iter().any(|lock| lock.kind == LockKind::Lease)
}

fn is_in_memory(held: &Held) -> bool {
    // TMPFS_MAGIC and RAMFS_MAGIC of include/uapi/linux/magic.h.
    let magic = rustix::fs::fstatfs(&held.fd).map_or(0, |stat| stat.f_type as u32);
    let regular = FileType::from_raw_mode(held.stat.st_mode) == FileType::RegularFile;
    regular && matches!(magic, 0x0102_1994 | 0x8584_58f6 | hugetlb::FILE_SYSTEM)
}

/// Opens a file that is mapped so that it can be written, by its path; `None` if it is none of these, or
/// has a lease.
pub(super) fn of_mapping(path: &[u8], pid: Pid, command: &str) -> Option<Held> {
    let fd = Leases::read().open(frost_sys::proc::as_path(path), OFlags::RDONLY).ok()?;
    let held = Held::new(fd, Place { pid, command: command.to_owned(), number: None }).ok()?;
    is_in_memory(&held).then_some(held)
}

/// Captures such a file.
pub(super) fn capture(held: &Held, path: BytePath, sink: &mut dyn Sink) -> Result<Volatile, Error> {
    let file: FileRef = regular::reference(held, path)?;
    let marks = crate::file::marks(held.fd.as_fd(), &held.stat).map_err(|errno| held.error(errno))?;
    let pages = content::store(held, file.identity.len_bytes, false, sink)?;
    let digest = digest(held, file.identity.len_bytes).map_err(|errno| held.error(errno))?;
    Ok(Volatile { file, pages, digest, marks: Some(marks) })
}

fn digest(held: &Held, len_bytes: u64) -> Result<[u8; 32], Errno> {
    let anew = held.open_anew();
    let fd = anew.as_ref().map_or(held.fd.as_fd(), AsFd::as_fd);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len_bytes {
        let part = buffer.len().min((len_bytes - at) as usize);
        match rustix::io::pread(fd, &mut buffer[..part], at) {
            Ok(0) => return Err(Errno::IO),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                at += got as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(hasher.finalize().into())
}
