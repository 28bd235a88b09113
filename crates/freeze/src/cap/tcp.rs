//! TCP sockets.

use super::{Error, Held};
use frost_model::Checkpoint;
use frost_model::cap::{Capability, Inet, SocketOption, TcpInside, TcpListener, TcpPeer, TcpStream};
use frost_model::id::DescriptionId;
use frost_sys::pidfd::pidfd_getfd;
use frost_sys::proc;
use frost_sys::sock::{int_option, option, set_int_option};
use frost_tracee::seize::StoppedTree;
use rustix::fd::AsFd;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP_SYN_SENT, TCP_CLOSE and TCP_LISTEN of `include/net/tcp_states.h`.
const CONNECTING: u8 = 2;
const CLOSED: u8 = 7;
const LISTENING: u8 = 10;

/// Lets the ports of listening sockets, and of those that are connected to themselves, without SO_REUSEADDR be bound again when a
/// tree has been ended.
///
/// Its connections then end too, and the kernel keeps their port for a minute (TIME_WAIT) from whoever has not set that
/// option, or if they had not (`inet_bind_conflict`, net/ipv4/inet_connection_sock.c). It changes nothing for a socket
/// that is connected already, should the tree go on after all.
pub(crate) fn give_ports_free(tree: &StoppedTree, checkpoint: &Checkpoint) {
    let reuse = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
    let ports: Vec<u16> = checkpoint
        .descriptions
        .iter()
        .enumerate()
        .filter_map(|(index, description)| match &description.capability {
            Capability::TcpListener(listener) => Some(&listener.inet),
            Capability::TcpStream(stream) => {
                let peer = stream.inside.as_ref().map(|inside| inside.peer);
                let own = TcpPeer::Description(DescriptionId::new(index as u32));
                (peer == Some(own)).then_some(&stream.inet)
            }
            _ => None,
        })
        .filter(|inet| inet.options.iter().all(|option| (option.level, option.name) != reuse))
        .filter_map(|inet| Some(inet.local?.port()))
        .collect();
    if ports.is_empty() {
        return;
    }
    for process in tree.processes().iter().filter(|process| !process.zombie) {
        for (number, link) in proc::open_files(process.pid).unwrap_or_default() {
            if link.starts_with(b"socket:")
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
pub(super) fn inet(held: &Held, options: Vec<SocketOption>) -> Result<Inet, Error> {
    let fail = |source| held.error(source);
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).map_err(fail);
    let v6 = fact(libc::SO_DOMAIN)? == libc::AF_INET6;
    let protocol = fact(libc::SO_PROTOCOL)?;
    let local = rustix::net::getsockname(&held.fd).map_err(fail)?;
    // Port 0 is a socket that is not bound.
    let local = SocketAddr::try_from(local).ok().filter(|local| local.port() != 0);
    Ok(Inet { v6, protocol, local, options })
}

/// Returns the peer's address, if there is one.
pub(super) fn peer(held: &Held) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getpeername(&held.fd).ok()??).ok()
}

/// Captures a TCP socket.
pub(super) fn capture(
    held: &Held,
    inside: Option<TcpInside>,
    options: Vec<SocketOption>,
) -> Result<Capability, Error> {
    let inet = inet(held, options)?;
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
    // getpeername(2) knows of no peer before that has answered (inet_getname, net/ipv4/af_inet.c).
    let called = || in_table(held, if inet.v6 { "tcp6" } else { "tcp" }).map(|(_, peer)| peer);
    let peer = if state == CONNECTING { called() } else { peer };
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

/// Returns the state and the remote address of a socket as a table of the kernel tells them, one of `/proc/net`.
pub(super) fn in_table(held: &Held, table: &str) -> Option<(u8, SocketAddr)> {
    let table = proc::read(crate::target::shown_by(held.place.pid), &format!("net/{table}")).ok()?;
    find(&String::from_utf8_lossy(&table), held.stat.st_ino)
}

/// Finds a socket in `/proc/net/tcp` and its like: sl, local and remote address, state, ..., inode.
fn find(table: &str, inode: u64) -> Option<(u8, SocketAddr)> {
    let inode = inode.to_string();
    let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let fields = lines.into_iter().find(|fields| fields.get(9) == Some(&inode.as_str()))?;
    let state = u8::from_str_radix(fields[3], 16).ok()?;
    let (address, port) = fields[2].split_once(':')?;
    // Words of 32 bits in the order of this machine, each of bytes in the order of the network.
    let words = address.as_bytes().chunks_exact(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<[u8; 4]>>>()?.concat();
    let ip = match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V6(Ipv6Addr::from(bytes)),
        Err(_) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some((state, SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn state_and_remote_address_are_those_of_the_inode() {
        let found = |table, inode| find(table, inode).map(|(state, peer)| (state, peer.to_string()));
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     \x20  1: 00000000:0001 0100007F:1F90 02 00000000:00000000 00:00000000 00000000     0        0 77 2 0000000000000000 0\n\
                     \x20  1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 78 2 0000000000000000 0\n";
        assert_eq!(found(table, 77), Some((2, "127.0.0.1:8080".to_owned())));
        assert_eq!(found(table, 78), Some((7, "0.0.0.0:0".to_owned())));
        assert_eq!(found(table, 79), None);
        let table = " 58: 00000000000000000000000000000000:003A 00000000000000000000000001000000:0000 01 00000000:00000000 00:00000000 00000000 0 0 5 2 0000000000000000 0\n";
        assert_eq!(found(table, 5), Some((1, "[::1]:0".to_owned())));
    }
}
