//! Unix sockets.

use super::SocketOption;
use crate::id::DescriptionId;
use crate::path::BytePath;
use serde::{Deserialize, Serialize};

/// A unix socket whose peers are in the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// Its inode, by which messages and logs name it.
    pub inode: u64,
    /// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
    pub kind: UnixType,
    /// Its name, if it was bound.
    pub name: Option<UnixName>,
    /// What it is connected to.
    pub state: UnixState,
    /// Messages that wait in its receive queue, the oldest first.
    pub queue: Vec<Message>,
    /// Whether reading was shut down.
    pub shut_read: bool,
    /// Whether writing was shut down.
    pub shut_write: bool,
    /// Options that differ from those of a new socket.
    pub options: Vec<SocketOption>,
    /// Who SO_PEERCRED tells is its peer; of one that listens, whom those are told that connect to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PeerCredentials>,
    /// Paths at which its node was found that are not its name: it was moved or linked there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<BytePath>,
}

/// Who made a connection or let a socket listen, as the kernel took it down at that moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerCredentials {
    /// The number of the process, in the namespace of the tree; it may have ended. 0 if it has none there.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups (SO_PEERGROUPS).
    pub groups: Vec<u32>,
}

/// Types of unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixType {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_DGRAM.
    Datagram,
    /// SOCK_SEQPACKET.
    SeqPacket,
}

/// The name of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixName {
    /// A path, as given to bind(2), and whether the node was still there and still this socket's.
    Path {
        /// As given to bind(2); a relative one counts from `directory`.
        path: BytePath,
        /// The directory a relative path counts from.
        directory: Option<BytePath>,
        /// Whether the node exists and is this socket's.
        present: bool,
        /// Permission bits of the node.
        mode: u32,
        /// Owner of the node.
        uid: u32,
        /// Group of the node.
        gid: u32,
    },
    /// A name in the abstract name space, without the leading NUL.
    Abstract(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// What a unix socket is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixState {
    /// Nothing.
    Unconnected,
    /// It listens.
    Listening {
        /// The backlog.
        backlog: u32,
        /// Connections that it has not accepted, in order: the client's description, or `None` for one that is
        /// closed already.
        pending: Vec<Option<DescriptionId>>,
    },
    /// It is connected to a listening socket of the tree, which has not accepted it.
    Pending,
    /// It is connected to another socket of the tree.
    Connected {
        /// The peer's description, if a descriptor still refers to it.
        peer: DescriptionId,
    },
    /// Its peer had been closed.
    PeerClosed,
    /// Its peer had been closed with messages unread, which the next read will report (ECONNRESET).
    PeerReset,
}

/// A message in a receive queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// Descriptions in flight with it (SCM_RIGHTS).
    pub rights: Vec<DescriptionId>,
    /// The sender's name, of a datagram.
    pub sender: Option<UnixName>,
    /// Who sent it, if its receiver wants to know (SO_PASSCRED).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SenderCredentials>,
}

/// Who sent a message (SCM_CREDENTIALS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderCredentials {
    /// The number of the process, in the namespace of the tree; it may have ended.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}
