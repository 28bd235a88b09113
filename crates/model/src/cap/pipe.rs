//! Pipes.

use super::Node;
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};

/// A description of a pipe; its access mode tells which end it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeEnd {
    /// Index into `pipes`.
    pub pipe: ObjectId,
}

/// A pipe and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// F_GETPIPE_SZ in bytes.
    pub capacity_bytes: u32,
    /// Unread bytes, in order: one element, or one for each packet (O_DIRECT); a packet alone has an empty one behind it.
    pub content: Vec<serde_bytes::ByteBuf>,
    /// Whether a reader existed. Without one, and with no reader among the descriptions, writes give EPIPE.
    pub readers: bool,
    /// Whether a writer existed.
    pub writers: bool,
    /// Who may open it through /proc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
}
