//! TCP sockets.

use super::{Error, Held};
use frost_model::Checkpoint;
use frost_model::cap::{Capability, Inet, SocketOption, TcpInside, TcpListener, TcpStream};
use frost_sys::pidfd::pidfd_getfd;
use frost_sys::sock::{int_option, option, set_int_option};
use frost_sys::{network, proc, sock_options};
use frost_tracee::seize::StoppedTree;
use rustix::fd::AsFd;
use rustix::net::{AddressFamily, Protocol, SocketType};
use std::net::SocketAddr;
use std::num::NonZeroU32;

/// TCP_CLOSE and TCP_LISTEN of `include/net/tcp_states.h`.
const CLOSED: u8 = 7;
const LISTENING: u8 = 10;

/// Lets the ports of listening sockets without SO_REUSEADDR be bound again when a tree has been ended.
///
/// Its connections then end too, and the kernel keeps their port for a minute (TIME_WAIT) from whoever has not set that
/// option, or if they had not (`inet_bind_conflict`, net/ipv4/inet_connection_sock.c). It changes nothing for a socket
/// that is connected already, should the tree go on after all.
pub(crate) fn give_ports_free(tree: &StoppedTree, checkpoint: &Checkpoint) {
    let reuse = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
    let ports: Vec<u16> = checkpoint
        .descriptions
        .iter()
        .filter_map(|description| match &description.capability {
            Capability::TcpListener(listener) => Some(&listener.inet),
            _ => None,
        })
        .filter(|inet| inet.options.iter().all(|option| (option.level, option.name) != reuse))
        .filter_map(|inet| Some(inet.local?.port()))
        .collect();
    if ports.is_empty() {
        return;
    }
    for process in tree.processes().iter().filter(|process| !process.zombie) {
        for number in proc::numbers(process.pid, "fd").unwrap_or_default() {
            if proc::link(process.pid, &format!("fd/{number}")).is_ok_and(|link| link.starts_with(b"socket:"))
                && let Ok(socket) = pidfd_getfd(process.pidfd.as_fd(), number)
                && let Ok(local) = rustix::net::getsockname(&socket)
                && let Ok(local) = SocketAddr::try_from(local)
                && ports.contains(&local.port())
            {
                let _ = set_int_option(&socket, reuse.0, reuse.1, 1);
            }
        }
    }
}

/// Captures what all sockets of the internet families have.
pub(super) fn inet(held: &Held, kind: SocketType) -> Result<Inet, Error> {
    let fail = |source| held.error(source);
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).map_err(fail);
    let v6 = fact(libc::SO_DOMAIN)? == libc::AF_INET6;
    let protocol = fact(libc::SO_PROTOCOL)?;
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let number = NonZeroU32::new(protocol as u32).map(Protocol::from_raw);
    let fresh = network::socket(family, kind, number).map_err(fail)?;
    let local = rustix::net::getsockname(&held.fd).map_err(fail)?;
    // Port 0 is a socket that is not bound.
    let local = SocketAddr::try_from(local).ok().filter(|local| local.port() != 0);
    Ok(Inet { v6, protocol, local, options: options(held, &fresh) })
}

/// Returns the options that differ from those of a new socket.
pub(super) fn options(held: &Held, fresh: &rustix::fd::OwnedFd) -> Vec<SocketOption> {
    sock_options::differing(&held.fd, fresh)
        .into_iter()
        .map(|(level, name, value)| SocketOption { level, name, value })
        .collect()
}

/// Returns the peer's address, if there is one.
pub(super) fn peer(held: &Held) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getpeername(&held.fd).ok()??).ok()
}

/// Captures a TCP socket.
pub(super) fn capture(held: &Held, inside: Option<TcpInside>) -> Result<Capability, Error> {
    let inet = inet(held, SocketType::STREAM)?;
    // The first bytes of `struct tcp_info` (include/uapi/linux/tcp.h): the state; at 28 tcpi_sacked, which for a
    // listening socket is its backlog (tcp_get_info, net/ipv4/tcp.c).
    let mut info = [0u8; 104];
    let told = option(&held.fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).unwrap_or(0);
    let accepts = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).unwrap_or(0) != 0;
    let peer = peer(held);
    let state = match told {
        0 if accepts => LISTENING,
        0 if peer.is_some() => 1,
        0 => CLOSED,
        _ => info[0],
    };
    if accepts {
        let backlog = info[28..32].try_into().map(u32::from_ne_bytes).unwrap_or(0);
        // An MPTCP socket does not tell; 4096 is the largest that net.core.somaxconn lets through by default.
        let backlog = if told >= 32 && info[0] == LISTENING { backlog } else { 4096 };
        return Ok(Capability::TcpListener(TcpListener { inet, backlog: Some(backlog) }));
    }
    // A socket that never was connected shows neither error nor hang-up that a new one does not show.
    let unused = state == CLOSED && peer.is_none() && !was_connected(held);
    Ok(match unused {
        true => Capability::TcpListener(TcpListener { inet, backlog: None }),
        false => Capability::TcpStream(TcpStream { inet, peer, state, inside }),
    })
}

/// Returns whether a closed socket had a connection: it was shut down then, so it reads as at its end (POLLIN), while
/// a new one shows POLLOUT and POLLHUP only (tcp_poll, net/ipv4/tcp.c).
fn was_connected(held: &Held) -> bool {
    super::pipe::events(&held.fd).contains(rustix::event::PollFlags::IN)
}
