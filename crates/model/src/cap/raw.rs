//! Raw and ping sockets of the internet families.

use super::Inet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A raw socket, or a datagram socket of ICMP. Packets that wait in it are lost, as the network may lose them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawSocket {
    /// Address and options; as port the protocol of a raw socket, the identifier of a ping socket.
    pub inet: Inet,
    /// Whether it is of type SOCK_RAW rather than SOCK_DGRAM.
    pub raw: bool,
    /// The address it is connected to, without a port.
    pub peer: Option<SocketAddr>,
    /// Whether packets waited in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waited: bool,
}
