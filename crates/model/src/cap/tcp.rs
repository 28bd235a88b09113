//! TCP sockets.

use crate::id::DescriptionId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What sockets of the internet families have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inet {
    /// Whether the family is AF_INET6.
    pub v6: bool,
    /// The protocol number given to socket(2), as IPPROTO_MPTCP; 0 for the default.
    pub protocol: i32,
    /// The local address; `None` if it was not bound.
    pub local: Option<SocketAddr>,
    /// Options that differ from those of a new socket.
    pub options: Vec<SocketOption>,
}

/// A socket option as getsockopt(2) gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// SOL_ or IPPROTO_ number.
    pub level: i32,
    /// The option's number.
    pub name: i32,
    /// Its value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// A TCP socket without a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpListener {
    /// Address and options.
    pub inet: Inet,
    /// The backlog if it listens.
    pub backlog: Option<u32>,
}

/// A TCP socket with a peer, or one that had one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStream {
    /// Address and options.
    pub inet: Inet,
    /// The peer; `None` if it was gone.
    pub peer: Option<SocketAddr>,
    /// TCP_ESTABLISHED (1) and so on, as in `tcp_info`; in TCP_SYN_SENT (2) its peer is called anew.
    pub state: u8,
    /// The rest, if its other end is in the tree or was closed; else it is reset when thawed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<TcpInside>,
}

impl TcpStream {
    /// Returns whether it waits for its peer to answer at all (TCP_SYN_SENT): nothing has passed, so it is called anew.
    pub fn is_connecting(&self) -> bool {
        self.state == 2 && self.peer.is_some() && self.inside.is_none()
    }
}

/// A connection whose other end is in the tree too, or is closed already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpInside {
    /// Its other end.
    pub peer: TcpPeer,
    /// What was sent to it and not read yet.
    #[serde(with = "serde_bytes")]
    pub queue: Vec<u8>,
    /// Whether reading was shut down.
    pub shut_read: bool,
    /// Whether writing was shut down.
    pub shut_write: bool,
}

/// The other end of a connection that is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcpPeer {
    /// A socket of the tree; itself, if it is connected to itself.
    Description(DescriptionId),
    /// It waits to be accepted by this listening socket, and has sent nothing.
    Listener(DescriptionId),
    /// It was closed, wherever it was: what waits is read, and then the end.
    Closed,
}
