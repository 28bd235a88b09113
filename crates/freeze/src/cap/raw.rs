//! Raw and ping sockets.

use super::recognise::Refusal;
use super::{Error, Held, pipe, tcp, udp};
use frost_model::cap::{Capability, RawSocket, SocketOption};
use frost_sys::network;
use frost_sys::sock::int_option;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketType};
use std::net::SocketAddr;
use std::num::NonZeroU32;

/// Decides whether we may make such a socket too: to compare its options with, and at thaw.
pub(super) fn recognise(held: &Held, what: &str) -> Result<(), Refusal> {
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).unwrap_or(0) as u32;
    let family = AddressFamily::from_raw(fact(libc::SO_DOMAIN) as u16);
    let kind = SocketType::from_raw(fact(libc::SO_TYPE));
    let protocol = NonZeroU32::new(fact(libc::SO_PROTOCOL)).map(Protocol::from_raw);
    match network::socket(family, kind, protocol) {
        Err(Errno::PERM | Errno::ACCESS) => Err(Refusal::new(
            format!("{what} socket"),
            "you may not make one, and a thaw has to",
            "freeze and thaw it as root, or widen net.ipv4.ping_group_range for ping sockets",
        )),
        _ => udp::nothing_begun(held),
    }
}

/// Whether packets wait to be read.
pub(super) fn anything_waits(held: &Held) -> bool {
    pipe::events(&held.fd).contains(PollFlags::IN)
}

/// Captures a raw or ping socket. What waits in it is lost, as the network may lose it.
pub(super) fn capture(held: &Held, options: Vec<SocketOption>) -> Result<Capability, Error> {
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).map_err(|error| held.error(error));
    let raw = fact(libc::SO_TYPE)? == libc::SOCK_RAW;
    let inet = tcp::inet(held, options)?;
    let table = match (raw, inet.v6) {
        (true, false) => "raw",
        (true, true) => "raw6",
        (false, false) => "icmp",
        (false, true) => "icmp6",
    };
    // getpeername(2) knows of no peer that has no port (inet_getname, net/ipv4/af_inet.c). TCP_ESTABLISHED (1) is what a
    // connected one is said to be.
    let peer = tcp::in_table(held, table).filter(|(state, _)| *state == 1);
    let peer = peer.map(|(_, peer)| SocketAddr::new(peer.ip(), 0));
    Ok(Capability::Raw(RawSocket { inet, raw, peer, waited: anything_waits(held) }))
}
