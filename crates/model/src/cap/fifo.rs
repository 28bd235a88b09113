//! Named pipes.

use super::FileRef;
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};

/// A description of a fifo; its access mode tells which end it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fifo {
    /// The node.
    pub file: FileRef,
    /// Whether the node was deleted; the path is the one it had.
    pub deleted: bool,
    /// Its content: index into `pipes`.
    pub pipe: ObjectId,
}
