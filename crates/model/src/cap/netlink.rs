//! Netlink sockets.

use super::SocketOption;
use serde::{Deserialize, Serialize};

/// A netlink socket in whose queue nothing waits.
///
/// What it would have been told while the program was away, it is not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetlinkSocket {
    /// NETLINK_ROUTE (0) and so on.
    pub protocol: i32,
    /// Whether it is of type SOCK_RAW, which makes no other difference.
    pub raw: bool,
    /// Its address, 0 if it was not bound; another one is taken if that is another's.
    pub port: u32,
    /// The multicast groups it listens to, counted from 1.
    pub groups: Vec<u32>,
    /// The address and the mask of groups it is connected to.
    pub peer: Option<(u32, u32)>,
    /// Options that differ from those of a new socket.
    pub options: Vec<SocketOption>,
}
