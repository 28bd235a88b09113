//! Pipes.

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
    pub node: Option<PipeNode>,
}

/// Owner and permissions of a pipe, which matter to who opens it through /proc (as /dev/stdout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeNode {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits, at most 0o7777; 0o600 of a new one.
    pub mode: u32,
}
