//! Netlink sockets.

use super::recognise::Refusal;
use super::{Error, Held, pipe, tcp};
use frost_model::cap::{Capability, NetlinkSocket};
use frost_sys::sock::{int_option, option};
use rustix::event::PollFlags;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use std::num::NonZeroU32;

/// Protocols in which a socket is no more than its address and its groups: NETLINK_ROUTE, USERSOCK, SOCK_DIAG,
/// KOBJECT_UEVENT (include/uapi/linux/netlink.h). By others a program registers itself for something.
const PLAIN: [i32; 4] = [0, 2, 4, 15];

/// SOL_NETLINK and NETLINK_LIST_MEMBERSHIPS.
const SOL_NETLINK: i32 = 270;
const LIST_MEMBERSHIPS: i32 = 9;
const AGAIN: &str = "try again in a moment, when the program has read it";

/// Decides whether a socket can be carried as it stands.
pub(super) fn recognise(held: &Held) -> Result<(), Refusal> {
    let protocol = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).unwrap_or(-1);
    if !PLAIN.contains(&protocol) {
        return Err(Refusal::new(
            format!("netlink socket of protocol {protocol}"),
            "what the program registered by it is not told by the kernel",
            "let the program close it first",
        ));
    }
    if pipe::events(&held.fd).contains(PollFlags::IN) || has_dump(held) {
        return Err(Refusal::new(
            "netlink socket with unread messages",
            "a message of the kernel cannot be put back into its queue",
            AGAIN,
        ));
    }
    Ok(())
}

/// Whether the kernel still has parts of an answer to give: the column `Dump` of `/proc/net/netlink`.
fn has_dump(held: &Held) -> bool {
    let text = std::fs::read_to_string("/proc/net/netlink").unwrap_or_default();
    let inode = held.stat.st_ino.to_string();
    // sk, Eth, Pid, Groups, Rmem, Wmem, Dump, Locks, Drops, Inode
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(9) == Some(&inode.as_str()) && fields[6] != "0"
    })
}

/// Captures a netlink socket.
pub(super) fn capture(held: &Held) -> Result<Capability, Error> {
    let fail = |source| held.error(source);
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).map_err(fail);
    let protocol = fact(libc::SO_PROTOCOL)?;
    let raw = fact(libc::SO_TYPE)? == libc::SOCK_RAW;
    let kind = if raw { SocketType::RAW } else { SocketType::DGRAM };
    let number = NonZeroU32::new(protocol as u32).map(Protocol::from_raw);
    let fresh = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, number).map_err(fail)?;
    let local = rustix::net::getsockname(&held.fd).and_then(SocketAddrNetlink::try_from).map_err(fail)?;
    let peer = rustix::net::getpeername(&held.fd).ok().flatten();
    let peer = peer.and_then(|peer| SocketAddrNetlink::try_from(peer).ok());
    let mut words = [0u8; 512];
    let len = option(&held.fd, SOL_NETLINK, LIST_MEMBERSHIPS, &mut words).map_err(fail)?;
    let bits = (0..len.min(words.len()) as u32 * 8).filter(|bit| {
        // Words of 32 bits in the order of this machine, which is that of bytes.
        words[*bit as usize / 8] & (1 << (bit % 8)) != 0
    });
    Ok(Capability::Netlink(NetlinkSocket {
        protocol,
        raw,
        port: local.pid(),
        groups: bits.map(|bit| bit + 1).collect(),
        peer: peer.map(|peer| (peer.pid(), peer.groups())).filter(|peer| *peer != (0, 0)),
        options: tcp::options(held, &fresh),
    }))
}
