//! UDP sockets.

use super::Inet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A UDP or UDP-Lite socket. Datagrams that wait in it and cannot be sent to it again are lost, as the network may lose them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpSocket {
    /// Address and options.
    pub inet: Inet,
    /// The address it is connected to.
    pub peer: Option<SocketAddr>,
    /// Datagrams that wait in its receive queue, the oldest first; they are sent to it again from where they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queue: Vec<Datagram>,
    /// Whether reading was shut down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shut_read: bool,
    /// Whether writing was shut down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shut_write: bool,
}

/// A datagram that waits to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// The length of the datagrams of which it was put together (UDP_GRO), 0 for one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub segment: u16,
    /// The address it was sent to, if its receiver is bound to none (IP_PKTINFO).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    /// How many hops it had left (IP_RECVTTL, IPV6_RECVHOPLIMIT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u8>,
    /// Its type of service or traffic class, with what it tells of congestion (IP_RECVTOS, IPV6_RECVTCLASS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<u8>,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}
