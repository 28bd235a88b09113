//! UDP sockets.

use super::{Error, Held, tcp};
use frost_model::cap::{Capability, UdpSocket};
use rustix::net::SocketType;

/// Captures a UDP socket. What waits in it is lost, as the network may lose it.
pub(super) fn capture(held: &Held) -> Result<Capability, Error> {
    let inet = tcp::inet(held, SocketType::DGRAM)?;
    Ok(Capability::Udp(UdpSocket { inet, peer: tcp::peer(held) }))
}
