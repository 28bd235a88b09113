//! Packet sockets.

use super::recognise::Refusal;
use super::{Error, Held, raw};
use frost_model::cap::{Capability, PacketMembership, PacketSocket, SocketOption};
use frost_sys::sock::int_option;
use frost_sys::{network, packet};
use rustix::net::{AddressFamily, SocketType, netdevice};

/// Decides whether a packet socket can be carried.
pub(super) fn recognise(held: &Held) -> Result<(), Refusal> {
    raw::recognise(held, "packet")?;
    if packet::has_fanout(&held.fd) {
        return Err(Refusal::new(
            "packet socket of a fanout group",
            "others would be given its packets while it is away",
            "let the program close it first",
        ));
    }
    match packet::told(held.stat.st_ino as u32) {
        Ok(told) if !told.ring => Ok(()),
        Ok(_) => Err(Refusal::new(
            "packet socket with a ring",
            "its memory is the kernel's, which goes on writing into it",
            "let the program close it first",
        )),
        Err(_) => Err(Refusal::new(
            "packet socket",
            "the kernel does not tell what it listens to",
            "freeze it from within its network namespace, on a kernel with CONFIG_PACKET_DIAG",
        )),
    }
}

/// Captures a packet socket. What waits in it is lost, as the network may lose it.
pub(super) fn capture(held: &Held, options: Vec<SocketOption>) -> Result<Capability, Error> {
    let fail = |source| held.error(source);
    let raw = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_TYPE).map_err(fail)? == libc::SOCK_RAW;
    let kind = if raw { SocketType::RAW } else { SocketType::DGRAM };
    let fresh = network::socket(AddressFamily::PACKET, kind, None).map_err(fail)?;
    let (protocol, interface) = packet::address(&held.fd).map_err(fail)?;
    let name = |index: u32| netdevice::index_to_name(&fresh, index);
    let told = packet::told(held.stat.st_ino as u32).map_err(fail)?;
    let memberships = told.memberships.into_iter().map(|(index, kind, address, count)| {
        Ok(PacketMembership { interface: name(index)?, kind, address, count })
    });
    Ok(Capability::Packet(PacketSocket {
        raw,
        protocol,
        interface: (interface != 0).then(|| name(interface)).transpose().map_err(fail)?,
        memberships: memberships.collect::<Result<_, _>>().map_err(fail)?,
        options,
        waited: raw::anything_waits(held),
    }))
}
