//! Rebuild of open file descriptions, one kind a file.

use crate::compile::InnerCall;
use crate::error::Error;
use frost_model::{Checkpoint, Obstacle, Process};
use rustix::fd::{BorrowedFd, OwnedFd};
use serde::{Deserialize, Serialize};

/// What decides about routes.
#[derive(Clone, Copy, Debug)]
pub struct ThawContext {
    /// Whether the program gets our standard input and output.
    pub attach: bool,
    /// Whether it is a copy beside the original.
    pub copy: bool,
}

/// How one description is obtained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The route, in the route table's words.
    pub route: String,
    /// What it is, for people.
    pub text: String,
}

/// Decides for each description of a checkpoint how it is obtained.
pub fn plan(_checkpoint: &Checkpoint, _context: &ThawContext) -> (Vec<Planned>, Vec<Obstacle>) {
    (Vec::new(), Vec::new())
}

/// Opens every description, in the builder.
///
/// # Errors
/// If one cannot be had any more.
pub fn build(
    checkpoint: &Checkpoint,
    _planned: &[Planned],
    _pack: BorrowedFd<'_>,
) -> Result<Vec<Option<OwnedFd>>, Error> {
    Ok(checkpoint.descriptions.iter().map(|_| None).collect())
}

/// Returns the calls that a process makes once its descriptors are in place.
pub fn tape_calls(_checkpoint: &Checkpoint, _process: &Process) -> Vec<InnerCall> {
    Vec::new()
}
