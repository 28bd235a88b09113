//! Devices that hold no state: opened by their path again.

use super::file::{self, Problem, Same};
use frost_model::cap::Device;
use rustix::fd::OwnedFd;

/// Opens the node, if it still is that device.
pub(super) fn open(device: &Device, flags: u32) -> Result<OwnedFd, Problem> {
    file::open(&device.file, flags, Same::Device)
}
