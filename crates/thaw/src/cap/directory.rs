//! Directories: opened by their path again.

use super::file::{self, Problem, Same};
use frost_model::cap::Directory;
use rustix::fd::OwnedFd;

/// Opens the directory, if it still is that one; what is in it may have changed, as for any program.
pub(super) fn open(directory: &Directory, flags: u32) -> Result<OwnedFd, Problem> {
    file::open(&directory.file, flags, Same::Node)
}
