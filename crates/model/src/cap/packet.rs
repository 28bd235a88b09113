//! Packet sockets: those of the link layer.

use super::SocketOption;
use serde::{Deserialize, Serialize};

/// A packet socket. Packets that wait in it are lost, as the network may lose them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketSocket {
    /// Whether it is of type SOCK_RAW, which has link-layer headers, rather than SOCK_DGRAM.
    pub raw: bool,
    /// The ETH_P_ number it listens to, 0 for none.
    pub protocol: u16,
    /// The name of the interface it is bound to.
    pub interface: Option<String>,
    /// What it asked interfaces to receive.
    pub memberships: Vec<PacketMembership>,
    /// Options that differ from those of a new socket.
    pub options: Vec<SocketOption>,
    /// Whether packets waited in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waited: bool,
}

/// What a packet socket asked an interface to receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketMembership {
    /// The name of the interface.
    pub interface: String,
    /// PACKET_MR_MULTICAST (0), PROMISC (1), ALLMULTI (2) or UNICAST (3).
    pub kind: u16,
    /// The address, for kinds that have one.
    #[serde(with = "serde_bytes")]
    pub address: Vec<u8>,
    /// How often it asked.
    pub count: u32,
}
