//! Memory behind a descriptor.

use super::{Error, Held, Sink, content};
use frost_model::BytePath;
use frost_model::cap::{Capability, Memfd};
use frost_model::id::DataspaceId;
use frost_model::ram::{Dataspace, DataspaceKind};
use frost_sys::hugetlb;
use rustix::fd::AsFd;
use rustix::fs::{MemfdFlags, memfd_create};
use std::sync::OnceLock;

/// Returns the device number of memfds: they all lie in one file system of the kernel's own, but those of huge pages.
pub(super) fn device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    let ask = || {
        let own = memfd_create("frost-probe", MemfdFlags::CLOEXEC).ok()?;
        rustix::fs::fstat(own).ok().map(|stat| stat.st_dev)
    };
    *DEVICE.get_or_init(ask)
}

/// Returns the name of a memfd, or `None` if this is something else.
pub(super) fn name(held: &Held, device: Option<u64>) -> Option<BytePath> {
    let link = held.link.as_deref()?;
    let name = link.strip_prefix(b"/memfd:")?;
    let is_one = || Some(held.stat.st_dev) == device || hugetlb::page_shift(&held.fd).is_some();
    (held.stat.st_nlink == 0 && is_one())
        .then(|| BytePath::new(name.strip_suffix(b" (deleted)").unwrap_or(name)))
}

/// Captures the memory.
pub(super) fn capture_memory(held: &Held, name: BytePath, sink: &mut dyn Sink) -> Result<Dataspace, Error> {
    let stat = rustix::fs::fstat(&held.fd).map_err(|e| held.error(e))?;
    let seals = rustix::fs::fcntl_get_seals(&held.fd).map_err(|e| held.error(e))?;
    let marks = crate::file::marks(held.fd.as_fd(), &stat).map_err(|e| held.error(e))?;
    let len_bytes = stat.st_size as u64;
    let pages = content::store(held, len_bytes, true, sink)?;
    let huge_shift = hugetlb::page_shift(&held.fd).unwrap_or(0);
    let kind = DataspaceKind::Memfd {
        name,
        seals: seals.bits(),
        mode: stat.st_mode & 0o7777,
        huge_shift,
        identity: Some(crate::file::identity(&stat)),
        marks: Some(marks),
    };
    Ok(Dataspace { kind, len_bytes, pages })
}

/// Captures a description of it.
pub(super) fn capture(held: &Held, dataspace: DataspaceId) -> Result<Capability, Error> {
    Ok(Capability::Memfd(Memfd { dataspace, position: held.info()?.position() }))
}
