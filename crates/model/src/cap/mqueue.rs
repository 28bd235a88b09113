//! POSIX message queues.

use crate::clock::Timespec;
use crate::id::ObjectId;
use crate::path::BytePath;
use serde::{Deserialize, Serialize};

/// A description of a message queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MqueueEnd {
    /// Index into `mqueues`.
    pub queue: ObjectId,
}

/// A POSIX message queue.
///
/// One that has a name stays where it is when the program is frozen, as a file does. At thaw it must be as it was, or be
/// missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mqueue {
    /// Its name, without the slash.
    pub name: BytePath,
    /// Whether the name was taken away (mq_unlink).
    pub removed: bool,
    /// Its inode number, and when a message last came or went, by which it is known to be as it was.
    pub inode: u64,
    /// The time of its last change.
    pub modified: Timespec,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The most messages that it holds.
    pub most_messages: u32,
    /// The most bytes of a message.
    pub most_bytes: u32,
    /// Its messages, in the order in which they will be received.
    pub messages: Vec<MqueueMessage>,
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MqueueMessage {
    /// Its priority, below 32768.
    pub priority: u32,
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}
