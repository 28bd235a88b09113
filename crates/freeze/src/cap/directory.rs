//! Directories.

use super::{Error, Held, regular};
use frost_model::BytePath;
use frost_model::cap::{Capability, Directory};

/// Captures an open directory.
pub(super) fn capture(held: &Held, path: BytePath) -> Result<Capability, Error> {
    let position = held.info()?.position();
    Ok(Capability::Directory(Directory { file: regular::reference(held, path)?, position }))
}
