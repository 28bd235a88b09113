//! Netlink sockets.

use super::recognise::Refusal;
use super::{Error, Held, pipe};
use frost_model::cap::{Capability, NetlinkSocket, SocketOption};
use frost_sys::network;
use frost_sys::sock::{int_option, option};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType};
use std::num::NonZeroU32;

/// Protocols in which a socket is no more than its address and its groups: NETLINK_ROUTE, USERSOCK, SOCK_DIAG, XFRM,
/// SELINUX, FIB_LOOKUP, KOBJECT_UEVENT, RDMA, CRYPTO (include/uapi/linux/netlink.h). By others a program registers
/// itself for something.
const PLAIN: [i32; 9] = [0, 2, 4, 6, 7, 10, 15, 20, 21];

/// NETLINK_AUDIT, and its question for the state of things (include/uapi/linux/audit.h).
const AUDIT: i32 = 9;
const AUDIT_GET: u32 = 1000;

/// SOL_NETLINK and NETLINK_LIST_MEMBERSHIPS.
const SOL_NETLINK: i32 = 270;
const LIST_MEMBERSHIPS: i32 = 9;
const AGAIN: &str = "try again in a moment, when the program has read it";

/// Decides whether a socket can be carried as it stands.
pub(super) fn recognise(held: &Held) -> Result<(), Refusal> {
    let protocol = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PROTOCOL).unwrap_or(-1);
    if protocol == AUDIT {
        // Who keeps such a socket to write into the log, as sshd and dbus-daemon do, has not registered anything.
        if audit_daemon() == Some(held.place.pid.raw()) {
            return Err(Refusal::new(
                "netlink socket of the audit daemon",
                "the kernel would find its log without a reader",
                "let the program close it first",
            ));
        }
    } else if !PLAIN.contains(&protocol) {
        return Err(Refusal::new(
            format!("netlink socket of protocol {protocol}"),
            "what the program registered by it is not told by the kernel",
            "let the program close it first",
        ));
    }
    if pipe::events(&held.fd).contains(PollFlags::IN) || has_dump(held) {
        return Err(Refusal::passing(
            "netlink socket with unread messages",
            "a message of the kernel cannot be put back into its queue",
            AGAIN,
        ));
    }
    Ok(())
}

/// Asks the kernel which process is its audit daemon. None that we can see if we may not ask: then no program of ours may
/// be it either.
fn audit_daemon() -> Option<i32> {
    let protocol = NonZeroU32::new(AUDIT as u32).map(Protocol::from_raw);
    let socket = network::socket(AddressFamily::NETLINK, SocketType::RAW, protocol).ok()?;
    // struct nlmsghdr: length, AUDIT_GET, NLM_F_REQUEST, sequence, port.
    let request = [16u32, AUDIT_GET | 1 << 16, 1, 0].map(u32::to_ne_bytes).concat();
    rustix::net::send(&socket, &request, SendFlags::empty()).ok()?;
    // A thread of the kernel answers.
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&patience)).ok()?;
    let mut answer = [0u8; 256];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(answer[..len].get(at..at + 4)?.try_into().ok()?));
    // struct audit_status behind the header: mask, enabled, failure, pid.
    (word(4)? as u16 == AUDIT_GET as u16).then(|| word(28)).flatten().map(|pid| pid as i32)
}

/// Whether the kernel still has parts of an answer to give: the column `Dump` of `/proc/net/netlink`.
fn has_dump(held: &Held) -> bool {
    let text = network::table("netlink").unwrap_or_default();
    let inode = held.stat.st_ino.to_string();
    // sk, Eth, Pid, Groups, Rmem, Wmem, Dump, Locks, Drops, Inode
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(9) == Some(&inode.as_str()) && fields[6] != "0"
    })
}

/// Captures a netlink socket.
pub(super) fn capture(held: &Held, options: Vec<SocketOption>) -> Result<Capability, Error> {
    let fail = |source| held.error(source);
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).map_err(fail);
    let protocol = fact(libc::SO_PROTOCOL)?;
    let raw = fact(libc::SO_TYPE)? == libc::SOCK_RAW;
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
        options,
    }))
}
