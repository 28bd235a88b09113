//! Locks on files.

use crate::id::Pid;
use serde::{Deserialize, Serialize};

/// A lock that is held through a description.
///
/// Only the one continuation of a program takes its locks again; a copy never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Who holds it.
    pub kind: LockKind,
    /// Whether it excludes other readers too.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `None` for the end of the file, wherever that is.
    pub end: Option<u64>,
}

impl Lock {
    /// Returns how many bytes are locked; `None` for all from the first on.
    pub fn len_bytes(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.start).saturating_add(1))
    }
}

/// Kinds of locks, which differ in who holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// A process (F_SETLK).
    Process(Pid),
    /// The description, on a range (F_OFD_SETLK).
    Description,
    /// The description, on the whole file (flock).
    Flock,
    /// The description, which is told by a signal when another opens the file (F_SETLEASE). One that is being broken is
    /// recorded as what it is to become.
    Lease,
}
