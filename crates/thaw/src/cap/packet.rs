//! Packet sockets.

use super::error::{About, Error};
use super::{file, tcp};
use frost_model::cap::PacketSocket;
use frost_sys::{network, packet};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, netdevice};

/// Most memberships of one kind that are asked for again; each is a call.
const COUNT_MAX: u32 = 1024;

/// Makes a packet socket. It receives nothing before its options are set: some of them are filters.
pub(super) fn make(socket: &PacketSocket, flags: u32) -> Result<OwnedFd, Error> {
    let what = || match &socket.interface {
        Some(interface) => format!("packet socket on {interface}"),
        None => "packet socket".to_owned(),
    };
    let kind = if socket.raw { SocketType::RAW } else { SocketType::DGRAM };
    let fd = network::socket(AddressFamily::PACKET, kind, None).about("make", what())?;
    tcp::set_options(&fd, &socket.options);
    let index = |name: &str| netdevice::name_to_index(&fd, name);
    for membership in &socket.memberships {
        let index = index(&membership.interface).about("find the interface of", what())?;
        for _ in 0..membership.count.min(COUNT_MAX) {
            packet::add_membership(&fd, index, membership.kind, &membership.address)
                .about("listen by", what())?;
        }
    }
    let interface = socket.interface.as_deref().map(index).transpose();
    let interface = interface.about("find the interface of", what())?;
    if socket.protocol != 0 || interface.is_some() {
        packet::bind(&fd, socket.protocol, interface.unwrap_or(0)).about("bind", what())?;
    }
    file::set_status(&fd, flags).about("set the flags of", what())?;
    Ok(fd)
}
