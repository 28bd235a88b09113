//! Devices that hold no state.

use super::held::without_deleted;
use super::recognise::Refusal;
use super::{Error, Held, regular};
use frost_model::BytePath;
use frost_model::cap::{Capability, Device};
use rustix::fs::{Dev, FileType, Stat, major, minor};

/// Returns whether a character device holds no state: null, zero, full, random, urandom.
pub(super) fn is_stateless(device: Dev) -> bool {
    // Documentation/admin-guide/devices.txt, "1 char Memory devices".
    major(device) == 1 && matches!(minor(device), 3 | 5 | 7 | 8 | 9)
}

/// Returns a path that leads to the same device, if not to the very node: as where another file system was mounted on /dev
/// since, or the node was made anew.
pub(super) fn path(held: &Held) -> Result<BytePath, Refusal> {
    let path = without_deleted(held.link.as_deref().unwrap_or_default());
    let is_it = |stat: Stat| {
        (FileType::from_raw_mode(stat.st_mode), stat.st_rdev)
            == (FileType::CharacterDevice, held.stat.st_rdev)
    };
    match rustix::fs::stat(frost_sys::sight::of(path.as_path())).is_ok_and(is_it) {
        true => Ok(path),
        false => regular::named_path(held),
    }
}

/// Captures an open device.
pub(super) fn capture(held: &Held, path: BytePath) -> Result<Capability, Error> {
    Ok(Capability::Device(Device { file: regular::reference(held, path)? }))
}
