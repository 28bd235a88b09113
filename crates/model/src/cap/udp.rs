//! UDP sockets.

use super::Inet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A UDP socket. Datagrams that wait in it are lost, as the network may lose them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpSocket {
    /// Address and options.
    pub inet: Inet,
    /// The address it is connected to.
    pub peer: Option<SocketAddr>,
}
