//! Descriptions whose other end is not in the tree.

use super::FileRef;
use crate::id::Pid;
use serde::{Deserialize, Serialize};

/// A description that thaw obtains by a route: handed in, opened anew, or closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// What it was.
    pub kind: OutsideKind,
    /// A process at the other end, and its command name, if one could be found.
    pub peer: Option<(Pid, String)>,
}

/// What lies outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutsideKind {
    /// A terminal.
    Terminal {
        /// The node, for people: a terminal is never reopened by path.
        file: FileRef,
        /// `struct termios` as TCGETS2 gave it.
        #[serde(with = "serde_bytes")]
        settings: Vec<u8>,
        /// Rows and columns.
        size: (u16, u16),
        /// Whether it is the controlling terminal of the tree's session.
        controlling: bool,
        /// Its foreground process group, if that is in the tree.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        foreground: Option<Pid>,
    },
    /// A pipe whose other end is held by another program only.
    Pipe {
        /// Its inode.
        inode: u64,
        /// F_GETPIPE_SZ in bytes.
        capacity_bytes: u32,
        /// Bytes that wait in it for a reader in the tree.
        #[serde(with = "serde_bytes")]
        content: Vec<u8>,
    },
    /// A unix socket connected to another program, as journald's.
    Unix {
        /// Its inode.
        inode: u64,
        /// Its type.
        kind: super::UnixType,
        /// The name of the peer's socket, if it has one.
        peer_name: Option<super::UnixName>,
        /// Messages that wait in its receive queue.
        queue: Vec<super::Message>,
        /// Who SO_PEERCRED tells is its peer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credentials: Option<super::PeerCredentials>,
    },
}
