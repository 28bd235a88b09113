//! UDP sockets.
//!
//! Datagrams that waited are sent to the socket again, from where they came: by the socket of the tree that has this
//! address, else by one of ours that takes the address for a moment, if it is free and we may. So datagrams of this
//! host are carried, those of others only by root; the rest is lost, as the network may lose it.

use super::error::{About, Error};
use super::{file, tcp};
use frost_model::Checkpoint;
use frost_model::cap::{Capability, Datagram, UdpSocket};
use frost_sys::network;
use frost_sys::sock::{self, Manner, set_int_option};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, socket_with};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Makes a UDP socket, bound and connected as it was.
pub(super) fn make(socket: &UdpSocket, flags: u32) -> Result<OwnedFd, Error> {
    let what = || match socket.inet.local {
        Some(local) => format!("UDP socket {local}"),
        None => "UDP socket".to_owned(),
    };
    let fd = tcp::bound(&socket.inet, SocketType::DGRAM, socket.peer.is_some())?;
    tcp::restore_reuse(&fd, &socket.inet).about("set the options of", what())?;
    if let Some(peer) = socket.peer {
        // Fails where there is no way to that peer (any more); sends then say so, as on a network that went down.
        let _ = rustix::net::connect(&fd, &peer);
    }
    file::set_status(&fd, flags).about("set the flags of", what())?;
    Ok(fd)
}

/// Tells what of a socket's queue will be lost; `None` if nothing.
pub(super) fn effect(checkpoint: &Checkpoint, socket: &UdpSocket) -> Option<String> {
    let inside: Vec<SocketAddr> = sockets(checkpoint).filter_map(|(_, socket)| socket.inet.local).collect();
    let is_lost = |from: &SocketAddr| {
        !inside.iter().any(|local| is_of(*local, *from)) && sender(*from, socket.inet.protocol).is_none()
    };
    let mut known: BTreeMap<SocketAddr, bool> = BTreeMap::new();
    let lost = socket
        .queue
        .iter()
        .filter(|datagram| *known.entry(datagram.from).or_insert_with_key(|from| is_lost(from)));
    match lost.count() {
        0 => None,
        1 => Some("a datagram that waited in it is lost, as the network may lose it".to_owned()),
        count => Some(format!("{count} datagrams that waited in it are lost, as the network may lose them")),
    }
}

fn sockets(checkpoint: &Checkpoint) -> impl Iterator<Item = (usize, &UdpSocket)> {
    let all = checkpoint.descriptions.iter().enumerate();
    all.filter_map(|(index, description)| match &description.capability {
        Capability::Udp(socket) => Some((index, socket)),
        _ => None,
    })
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Whether a socket bound to `local` sends from `from`.
fn is_of(local: SocketAddr, from: SocketAddr) -> bool {
    let (local, from) = (canonical(local), canonical(from));
    local == from || local.1 == from.1 && local.0.is_unspecified() && from.0.is_loopback()
}

/// Sends all datagrams that waited. Those that cannot be sent, or find no place, are lost. Then shuts down what was.
pub(super) fn fill(checkpoint: &Checkpoint, made: &[Option<OwnedFd>]) {
    for (index, socket) in sockets(checkpoint) {
        if !matches!(made.get(index), Some(Some(_))) {
            continue;
        }
        let mut senders: BTreeMap<SocketAddr, Option<OwnedFd>> = BTreeMap::new();
        for datagram in &socket.queue {
            let inside = sockets(checkpoint).find(|(_, other)| {
                other.inet.protocol == socket.inet.protocol
                    && other.inet.local.is_some_and(|local| is_of(local, datagram.from))
            });
            let inside = inside.and_then(|(index, _)| made.get(index)?.as_ref());
            let own = || sender(datagram.from, socket.inet.protocol);
            let by = match inside {
                Some(fd) => Some(fd),
                None => senders.entry(datagram.from).or_insert_with(own).as_ref(),
            };
            let (Some(by), Some(target)) = (by, target(socket, datagram)) else { continue };
            let manner = Manner { segment: datagram.segment, hops: datagram.hops, class: datagram.class };
            let _ = sock::send_datagram(by, &datagram.data, &target, manner);
        }
    }
    for (index, socket) in sockets(checkpoint) {
        let how = match (socket.shut_read, socket.shut_write) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            (false, true) => Shutdown::Write,
            (false, false) => continue,
        };
        if let Some(Some(fd)) = made.get(index) {
            // Of one that is not connected it is done as well, and then told to be an error (inet_shutdown).
            let _ = rustix::net::shutdown(fd, how);
        }
    }
}

/// Where a datagram is sent so that a socket gets it; `None` if that might reach anybody else.
fn target(socket: &UdpSocket, datagram: &Datagram) -> Option<SocketAddr> {
    let local = socket.inet.local?;
    // Where it was sent to, if that is an address of this machine; else what reaches only this one. A group that it was sent to
    // may have others in it.
    let to = datagram.to.map(|to| to.ip().to_canonical()).filter(|_| local.ip().is_unspecified());
    if let Some(to) = to.filter(|to| !is_of_many(*to) && network::is_local(*to)) {
        return Some(SocketAddr::new(to, local.port()));
    }
    let ip = match (local.ip(), datagram.from.ip()) {
        (ip, IpAddr::V6(from)) if ip.is_unspecified() && from.to_ipv4_mapped().is_none() => {
            Ipv6Addr::LOCALHOST.into()
        }
        (ip, _) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        (ip, _) => ip.to_canonical(),
    };
    // Only an address of this host can be bound; groups can be too.
    (!is_of_many(ip) && network::is_local(ip)).then(|| SocketAddr::new(ip, local.port()))
}

/// Whether what is sent to an address may reach several.
fn is_of_many(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET }
}

/// Makes a socket that sends from an address, if we may: root may from that of another host too.
fn sender(from: SocketAddr, protocol: i32) -> Option<OwnedFd> {
    /// IP_TRANSPARENT of include/uapi/linux/in.h, IPV6_TRANSPARENT of in6.h.
    const TRANSPARENT: (i32, i32) = (19, 75);
    let (ip, port) = canonical(from);
    let protocol = std::num::NonZeroU32::new(protocol as u32).map(rustix::net::Protocol::from_raw);
    let fd = socket_with(family(ip), SocketType::DGRAM, SocketFlags::CLOEXEC, protocol).ok()?;
    set_int_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).ok()?;
    let _ = match ip {
        IpAddr::V4(_) => set_int_option(&fd, libc::IPPROTO_IP, TRANSPARENT.0, 1),
        IpAddr::V6(_) => set_int_option(&fd, libc::IPPROTO_IPV6, TRANSPARENT.1, 1),
    };
    rustix::net::bind(&fd, &SocketAddr::new(ip, port)).ok()?;
    Some(fd)
}
