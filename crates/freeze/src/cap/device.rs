//! Devices that hold no state.

use super::{Error, Held, regular};
use frost_model::BytePath;
use frost_model::cap::{Capability, Device};
use rustix::fs::{Dev, major, minor};

/// Returns whether a character device holds no state: null, zero, full, random, urandom.
pub(super) fn is_stateless(device: Dev) -> bool {
    // Documentation/admin-guide/devices.txt, "1 char Memory devices".
    major(device) == 1 && matches!(minor(device), 3 | 5 | 7 | 8 | 9)
}

/// Captures an open device.
pub(super) fn capture(held: &Held, path: BytePath) -> Result<Capability, Error> {
    Ok(Capability::Device(Device { file: regular::reference(held, path)? }))
}
