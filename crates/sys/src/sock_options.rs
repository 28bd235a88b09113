//! Socket options that can be read and set back: one table for all families.
//!
//! What is not in the table either cannot be read (eBPF programs), is a fact rather than a
//! setting (SO_ERROR, TCP_INFO), or changes by itself (TCP_QUICKACK). A test looks for options that the table lacks.

use crate::multicast::{self, Groups, MSFILTER};
use crate::sock::{int_option, option, set_option};
use rustix::fd::AsFd;
use rustix::io::{Errno, Result};

/// An option of a socket: level, number and value.
pub type Value = (i32, i32, Vec<u8>);

/// How the value of an option is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Set as it was read.
    Plain,
    /// A text that ends where the kernel says, NUL included.
    Text,
    /// Instructions of a classic packet filter, read as SO_GET_FILTER.
    Filter,
    /// Groups that were joined, each a value of its own.
    Membership,
    /// A setting as long as the socket is not connected; then what the connection came to.
    Unconnected,
    /// A buffer size: the kernel doubles what is set, and `SO_BUF_LOCK` tells by this bit whether it was set at all.
    Buffer { force: i32, lock: i32 },
}

/// To which sockets an option belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    All,
    Inet,
    Inet6,
    Tcp,
    Udp,
    Raw,
    Packet,
    Netlink,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    level: i32,
    name: i32,
    text: &'static str,
    sockets: For,
    form: Form,
}

const fn row(sockets: For, level: i32, name: i32, text: &'static str) -> Row {
    Row { level, name, text, sockets, form: Form::Plain }
}

const SOCKET: i32 = libc::SOL_SOCKET;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;
const NETLINK: i32 = 270;
const RAW: i32 = 255;
const ICMPV6: i32 = libc::IPPROTO_ICMPV6;
const PACKET: i32 = 263;

/// The table. Numbers are those of include/uapi/asm-generic/socket.h, linux/in.h, in6.h, tcp.h, udp.h,
/// icmp.h, icmpv6.h, if_packet.h and netlink.h, as of Linux 6.18; each was found to be readable and settable there.
///
/// In this order they are set: before the socket is bound, so V6ONLY, REUSEPORT and BINDTODEVICE take effect.
const TABLE: &[Row] = &[
    Row {
        level: SOCKET,
        name: 7,
        text: "SO_SNDBUF",
        sockets: For::All,
        form: Form::Buffer { force: 32, lock: 1 },
    },
    Row {
        level: SOCKET,
        name: 8,
        text: "SO_RCVBUF",
        sockets: For::All,
        form: Form::Buffer { force: 33, lock: 2 },
    },
    row(For::All, SOCKET, 2, "SO_REUSEADDR"),
    row(For::All, SOCKET, 1, "SO_DEBUG"),
    row(For::All, SOCKET, 15, "SO_REUSEPORT"),
    row(For::All, SOCKET, 5, "SO_DONTROUTE"),
    row(For::All, SOCKET, 6, "SO_BROADCAST"),
    row(For::All, SOCKET, 9, "SO_KEEPALIVE"),
    row(For::All, SOCKET, 10, "SO_OOBINLINE"),
    row(For::All, SOCKET, 11, "SO_NO_CHECK"),
    row(For::All, SOCKET, 13, "SO_LINGER"),
    row(For::All, SOCKET, 16, "SO_PASSCRED"),
    row(For::All, SOCKET, 18, "SO_RCVLOWAT"),
    row(For::All, SOCKET, 20, "SO_RCVTIMEO"),
    row(For::All, SOCKET, 21, "SO_SNDTIMEO"),
    Row { level: SOCKET, name: 25, text: "SO_BINDTODEVICE", sockets: For::All, form: Form::Text },
    row(For::All, SOCKET, 29, "SO_TIMESTAMP"),
    row(For::All, SOCKET, 35, "SO_TIMESTAMPNS"),
    row(For::All, SOCKET, 63, "SO_TIMESTAMP_NEW"),
    row(For::All, SOCKET, 64, "SO_TIMESTAMPNS_NEW"),
    // What was set by the new number is told by both, what was set by the old one by that only.
    row(For::All, SOCKET, 37, "SO_TIMESTAMPING"),
    row(For::All, SOCKET, 65, "SO_TIMESTAMPING_NEW"),
    row(For::All, SOCKET, 34, "SO_PASSSEC"),
    row(For::All, SOCKET, 36, "SO_MARK"),
    row(For::All, SOCKET, 40, "SO_RXQ_OVFL"),
    row(For::All, SOCKET, 41, "SO_WIFI_STATUS"),
    row(For::All, SOCKET, 42, "SO_PEEK_OFF"),
    row(For::All, SOCKET, 43, "SO_NOFCS"),
    row(For::All, SOCKET, 45, "SO_SELECT_ERR_QUEUE"),
    row(For::All, SOCKET, 46, "SO_BUSY_POLL"),
    row(For::All, SOCKET, 47, "SO_MAX_PACING_RATE"),
    row(For::All, SOCKET, 49, "SO_INCOMING_CPU"),
    row(For::All, SOCKET, 60, "SO_ZEROCOPY"),
    row(For::All, SOCKET, 61, "SO_TXTIME"),
    row(For::All, SOCKET, 69, "SO_PREFER_BUSY_POLL"),
    row(For::All, SOCKET, 73, "SO_RESERVE_MEM"),
    row(For::Tcp, SOCKET, 74, "SO_TXREHASH"),
    row(For::All, SOCKET, 75, "SO_RCVMARK"),
    row(For::All, SOCKET, 76, "SO_PASSPIDFD"),
    row(For::All, SOCKET, 82, "SO_RCVPRIORITY"),
    row(For::All, SOCKET, 83, "SO_PASSRIGHTS"),
    row(For::Inet, IP, 1, "IP_TOS"),
    // Behind the type of service, which sets it.
    row(For::All, SOCKET, 12, "SO_PRIORITY"),
    row(For::Inet, IP, 2, "IP_TTL"),
    row(For::Raw, IP, 3, "IP_HDRINCL"),
    row(For::Inet, IP, 4, "IP_OPTIONS"),
    row(For::Raw, IP, 5, "IP_ROUTER_ALERT"),
    row(For::Inet, IP, 6, "IP_RECVOPTS"),
    row(For::Inet, IP, 7, "IP_RETOPTS"),
    row(For::Inet, IP, 8, "IP_PKTINFO"),
    row(For::Inet, IP, 10, "IP_MTU_DISCOVER"),
    row(For::Inet, IP, 11, "IP_RECVERR"),
    row(For::Inet, IP, 12, "IP_RECVTTL"),
    row(For::Inet, IP, 13, "IP_RECVTOS"),
    row(For::Inet, IP, 15, "IP_FREEBIND"),
    row(For::Inet, IP, 18, "IP_PASSSEC"),
    row(For::Inet, IP, 19, "IP_TRANSPARENT"),
    row(For::Inet, IP, 20, "IP_RECVORIGDSTADDR"),
    row(For::Inet, IP, 21, "IP_MINTTL"),
    row(For::Raw, IP, 22, "IP_NODEFRAG"),
    row(For::Inet, IP, 23, "IP_CHECKSUM"),
    row(For::Inet, IP, 24, "IP_BIND_ADDRESS_NO_PORT"),
    row(For::Inet, IP, 25, "IP_RECVFRAGSIZE"),
    row(For::Inet, IP, 26, "IP_RECVERR_RFC4884"),
    row(For::Inet, IP, 32, "IP_MULTICAST_IF"),
    row(For::Inet, IP, 33, "IP_MULTICAST_TTL"),
    row(For::Inet, IP, 34, "IP_MULTICAST_LOOP"),
    row(For::Inet, IP, 49, "IP_MULTICAST_ALL"),
    row(For::Inet, IP, 50, "IP_UNICAST_IF"),
    row(For::Inet, IP, 51, "IP_LOCAL_PORT_RANGE"),
    row(For::Inet6, IPV6, 26, "IPV6_V6ONLY"),
    row(For::Inet6, IPV6, 2, "IPV6_2292PKTINFO"),
    row(For::Inet6, IPV6, 3, "IPV6_2292HOPOPTS"),
    row(For::Inet6, IPV6, 4, "IPV6_2292DSTOPTS"),
    row(For::Inet6, IPV6, 5, "IPV6_2292RTHDR"),
    row(For::Inet6, IPV6, 8, "IPV6_2292HOPLIMIT"),
    row(For::Inet6, IPV6, 11, "IPV6_FLOWINFO"),
    row(For::Inet6, IPV6, 16, "IPV6_UNICAST_HOPS"),
    row(For::Inet6, IPV6, 17, "IPV6_MULTICAST_IF"),
    row(For::Inet6, IPV6, 18, "IPV6_MULTICAST_HOPS"),
    row(For::Inet6, IPV6, 19, "IPV6_MULTICAST_LOOP"),
    row(For::Inet6, IPV6, 23, "IPV6_MTU_DISCOVER"),
    row(For::Inet6, IPV6, 25, "IPV6_RECVERR"),
    row(For::Inet6, IPV6, 29, "IPV6_MULTICAST_ALL"),
    row(For::Inet6, IPV6, 30, "IPV6_ROUTER_ALERT_ISOLATE"),
    row(For::Inet6, IPV6, 31, "IPV6_RECVERR_RFC4884"),
    row(For::Inet6, IPV6, 33, "IPV6_FLOWINFO_SEND"),
    row(For::Raw, IPV6, 36, "IPV6_HDRINCL"),
    row(For::Inet6, IPV6, 49, "IPV6_RECVPKTINFO"),
    row(For::Inet6, IPV6, 51, "IPV6_RECVHOPLIMIT"),
    row(For::Inet6, IPV6, 53, "IPV6_RECVHOPOPTS"),
    row(For::Inet6, IPV6, 54, "IPV6_HOPOPTS"),
    row(For::Inet6, IPV6, 55, "IPV6_RTHDRDSTOPTS"),
    row(For::Inet6, IPV6, 56, "IPV6_RECVRTHDR"),
    row(For::Inet6, IPV6, 57, "IPV6_RTHDR"),
    row(For::Inet6, IPV6, 58, "IPV6_RECVDSTOPTS"),
    row(For::Inet6, IPV6, 59, "IPV6_DSTOPTS"),
    row(For::Inet6, IPV6, 60, "IPV6_RECVPATHMTU"),
    row(For::Inet6, IPV6, 62, "IPV6_DONTFRAG"),
    row(For::Inet6, IPV6, 66, "IPV6_RECVTCLASS"),
    row(For::Inet6, IPV6, 67, "IPV6_TCLASS"),
    row(For::Inet6, IPV6, 70, "IPV6_AUTOFLOWLABEL"),
    row(For::Inet6, IPV6, 72, "IPV6_ADDR_PREFERENCES"),
    row(For::Inet6, IPV6, 73, "IPV6_MINHOPCOUNT"),
    row(For::Inet6, IPV6, 74, "IPV6_RECVORIGDSTADDR"),
    row(For::Inet6, IPV6, 75, "IPV6_TRANSPARENT"),
    row(For::Inet6, IPV6, 76, "IPV6_UNICAST_IF"),
    row(For::Inet6, IPV6, 77, "IPV6_RECVFRAGSIZE"),
    row(For::Inet6, IPV6, 78, "IPV6_FREEBIND"),
    row(For::Tcp, TCP, 1, "TCP_NODELAY"),
    Row { level: TCP, name: 2, text: "TCP_MAXSEG", sockets: For::Tcp, form: Form::Unconnected },
    row(For::Tcp, TCP, 3, "TCP_CORK"),
    row(For::Tcp, TCP, 4, "TCP_KEEPIDLE"),
    row(For::Tcp, TCP, 5, "TCP_KEEPINTVL"),
    row(For::Tcp, TCP, 6, "TCP_KEEPCNT"),
    row(For::Tcp, TCP, 7, "TCP_SYNCNT"),
    row(For::Tcp, TCP, 8, "TCP_LINGER2"),
    row(For::Tcp, TCP, 9, "TCP_DEFER_ACCEPT"),
    row(For::Tcp, TCP, 10, "TCP_WINDOW_CLAMP"),
    Row { level: TCP, name: 13, text: "TCP_CONGESTION", sockets: For::Tcp, form: Form::Text },
    row(For::Tcp, TCP, 16, "TCP_THIN_LINEAR_TIMEOUTS"),
    row(For::Tcp, TCP, 18, "TCP_USER_TIMEOUT"),
    row(For::Tcp, TCP, 23, "TCP_FASTOPEN"),
    row(For::Tcp, TCP, 25, "TCP_NOTSENT_LOWAT"),
    row(For::Tcp, TCP, 27, "TCP_SAVE_SYN"),
    row(For::Tcp, TCP, 30, "TCP_FASTOPEN_CONNECT"),
    row(For::Tcp, TCP, 33, "TCP_FASTOPEN_KEY"),
    row(For::Tcp, TCP, 34, "TCP_FASTOPEN_NO_COOKIE"),
    row(For::Tcp, TCP, 36, "TCP_INQ"),
    row(For::Tcp, TCP, 37, "TCP_TX_DELAY"),
    row(For::Tcp, TCP, 44, "TCP_RTO_MAX_MS"),
    row(For::Udp, UDP, 1, "UDP_CORK"),
    row(For::Udp, UDP, 10, "UDPLITE_SEND_CSCOV"),
    row(For::Udp, UDP, 11, "UDPLITE_RECV_CSCOV"),
    row(For::Udp, UDP, 100, "UDP_ENCAP"),
    row(For::Udp, UDP, 101, "UDP_NO_CHECK6_TX"),
    row(For::Udp, UDP, 102, "UDP_NO_CHECK6_RX"),
    row(For::Udp, UDP, 103, "UDP_SEGMENT"),
    row(For::Udp, UDP, 104, "UDP_GRO"),
    row(For::Raw, RAW, 1, "ICMP_FILTER"),
    row(For::Raw, ICMPV6, 1, "ICMPV6_FILTER"),
    row(For::Raw, RAW, 7, "IPV6_CHECKSUM"),
    row(For::Packet, PACKET, 7, "PACKET_COPY_THRESH"),
    row(For::Packet, PACKET, 8, "PACKET_AUXDATA"),
    row(For::Packet, PACKET, 9, "PACKET_ORIGDEV"),
    row(For::Packet, PACKET, 10, "PACKET_VERSION"),
    row(For::Packet, PACKET, 12, "PACKET_RESERVE"),
    row(For::Packet, PACKET, 14, "PACKET_LOSS"),
    row(For::Packet, PACKET, 15, "PACKET_VNET_HDR"),
    row(For::Packet, PACKET, 24, "PACKET_VNET_HDR_SZ"),
    row(For::Packet, PACKET, 17, "PACKET_TIMESTAMP"),
    row(For::Packet, PACKET, 19, "PACKET_TX_HAS_OFF"),
    row(For::Packet, PACKET, 20, "PACKET_QDISC_BYPASS"),
    row(For::Packet, PACKET, 23, "PACKET_IGNORE_OUTGOING"),
    row(For::Netlink, NETLINK, 3, "NETLINK_PKTINFO"),
    row(For::Netlink, NETLINK, 4, "NETLINK_BROADCAST_ERROR"),
    row(For::Netlink, NETLINK, 5, "NETLINK_NO_ENOBUFS"),
    row(For::Netlink, NETLINK, 8, "NETLINK_LISTEN_ALL_NSID"),
    row(For::Netlink, NETLINK, 10, "NETLINK_CAP_ACK"),
    row(For::Netlink, NETLINK, 11, "NETLINK_EXT_ACK"),
    row(For::Netlink, NETLINK, 12, "NETLINK_GET_STRICT_CHK"),
    Row { level: SOCKET, name: 26, text: "SO_ATTACH_FILTER", sockets: For::All, form: Form::Filter },
    row(For::All, SOCKET, 44, "SO_LOCK_FILTER"),
    Row { level: IP, name: MSFILTER, text: "IP_ADD_MEMBERSHIP", sockets: For::Inet, form: Form::Membership },
    Row { level: IPV6, name: MSFILTER, text: "IPV6_JOIN_GROUP", sockets: For::Inet6, form: Form::Membership },
];

/// Longest value that is carried; extension headers of IPv6 are the longest there are.
const VALUE_MAX: usize = 512;

/// `SO_BUF_LOCK`: which buffer sizes were set by the program, Linux 5.15.
const SO_BUF_LOCK: i32 = 72;

/// What sockets of one kind are compared with: a new one of that kind, and the groups that are joined on this machine.
///
/// Read once for all sockets of a kind, since it takes as many calls as reading the options of one of them.
#[derive(Clone, Debug)]
pub struct Usual {
    kind: Kind,
    /// Parallel to the table; empty for what such sockets do not have.
    values: Vec<Vec<u8>>,
    groups: Groups,
}

impl Usual {
    /// Reads what `fresh` has, a new socket, and the groups of its network.
    #[must_use]
    pub fn of(fresh: impl AsFd) -> Self {
        let kind = Kind::of(fresh.as_fd());
        let mut buffer = [0u8; VALUE_MAX];
        let mut value = |row: &Row| {
            let plain = !matches!(row.form, Form::Filter | Form::Membership);
            let read = plain && kind.has(row.sockets);
            let len = read.then(|| option(&fresh, row.level, row.name, &mut buffer).ok()).flatten();
            buffer[..len.unwrap_or(0)].to_vec()
        };
        Self { values: TABLE.iter().map(&mut value).collect(), groups: Groups::read(kind.domain), kind }
    }

    /// Returns the options of `socket`, which is of the same kind, that differ from what is usual.
    ///
    /// Options that this kernel or this kind of socket does not have are left out.
    pub fn differing(&self, socket: impl AsFd) -> Vec<Value> {
        let socket = socket.as_fd();
        let unconnected = is_unconnected(socket);
        let mut values = Vec::new();
        let mut buffer = [0u8; VALUE_MAX];
        for (row, usual) in TABLE.iter().zip(&self.values).filter(|(row, _)| self.kind.has(row.sockets)) {
            if row.form == Form::Filter {
                if let Ok(Some(filter)) = filter(socket) {
                    values.push((row.level, row.name, filter));
                }
                continue;
            }
            if row.form == Form::Membership {
                let joined = self.groups.joined(socket, row.level);
                values.extend(joined.into_iter().map(|filter| (row.level, row.name, filter)));
                continue;
            }
            if row.form == Form::Unconnected && !unconnected {
                continue;
            }
            let Ok(len) = option(socket, row.level, row.name, &mut buffer) else { continue };
            let value = &buffer[..len];
            let set = match row.form {
                // Buffers also grow by themselves, which is no setting.
                Form::Buffer { lock, .. } => match int_option(socket, SOCKET, SO_BUF_LOCK) {
                    Ok(locks) => locks & lock != 0,
                    Err(_) => value != usual,
                },
                Form::Plain | Form::Text | Form::Filter | Form::Membership | Form::Unconnected => {
                    value != usual
                }
            };
            // The type of service sets the priority too, so that it must be set back even to what is usual.
            let set = set
                || row.text == "SO_PRIORITY"
                    && values.iter().any(|(level, name, _)| (*level, *name) == (IP, 1));
            // What is no setting but came of others is less than can be set (TCP_MIN_MSS, include/net/tcp.h).
            let set = set && !(row.form == Form::Unconnected && value[0] < 88 && value[1] == 0);
            if set {
                values.push((row.level, row.name, value.to_vec()));
            }
        }
        values
    }
}

/// Returns the classic packet filter of a socket, as `struct sock_filter` of 8 bytes each; `None` if it has none.
///
/// # Errors
/// EACCES if it is an eBPF program, which the kernel does not give back.
pub fn filter(socket: impl AsFd) -> Result<Option<Vec<u8>>> {
    // SO_GET_FILTER is the number of SO_ATTACH_FILTER; lengths are counted in instructions, of which there are at
    // most 4096 (BPF_MAXINSNS): sk_get_filter, net/core/filter.c.
    const SO_GET_FILTER: i32 = 26;
    let socket = socket.as_fd();
    // Asked with no room, it tells the number only.
    if crate::sock::option_of_units(socket, SOCKET, SO_GET_FILTER, &mut [], 8)? == 0 {
        return Ok(None);
    }
    let mut instructions = vec![0u8; 4096 * 8];
    let count = crate::sock::option_of_units(socket, SOCKET, SO_GET_FILTER, &mut instructions, 8)?;
    instructions.truncate(count * 8);
    Ok(Some(instructions).filter(|instructions| !instructions.is_empty()))
}

/// Sets options as [`Usual::differing`] returned them and returns those that could not be set, by name.
///
/// An option that is not in the table is not set: what comes from an image is not trusted to be harmless.
pub fn set_all<'a>(
    socket: impl AsFd,
    values: impl IntoIterator<Item = (i32, i32, &'a [u8])>,
) -> Vec<(&'static str, Errno)> {
    let mut failed = Vec::new();
    for (level, name, value) in values {
        let Some(row) = TABLE.iter().find(|row| (row.level, row.name) == (level, name)) else {
            failed.push(("an option that frost does not know", Errno::NOPROTOOPT));
            continue;
        };
        if let Err(error) = set(socket.as_fd(), row, value) {
            failed.push((row.text, error));
        }
    }
    failed
}

fn set(socket: impl AsFd, row: &Row, value: &[u8]) -> Result<()> {
    let socket = socket.as_fd();
    if row.form == Form::Filter {
        return crate::sock::attach_filter(socket, value);
    }
    if row.form == Form::Membership {
        return multicast::join(socket, row.level, value);
    }
    if value.len() > VALUE_MAX {
        return Err(Errno::INVAL);
    }
    match row.form {
        Form::Plain | Form::Text | Form::Filter | Form::Membership | Form::Unconnected => {
            set_option(socket, row.level, row.name, value)
        }
        Form::Buffer { force, .. } => {
            let size = value.try_into().map(i32::from_ne_bytes).map_err(|_| Errno::INVAL)?;
            let half = (size / 2).to_ne_bytes();
            // Beyond net.core.wmem_max only with CAP_NET_ADMIN; without it the plain call clamps in silence.
            if set_option(socket, row.level, force, &half).is_ok() {
                return Ok(());
            }
            set_option(socket, row.level, row.name, &half)?;
            if int_option(socket, row.level, row.name)? >= size { Ok(()) } else { Err(Errno::PERM) }
        }
    }
}

fn is_unconnected(socket: impl AsFd) -> bool {
    matches!(rustix::net::getpeername(socket), Err(Errno::NOTCONN) | Ok(None))
}

/// The facts of a socket that say which options it has.
#[derive(Clone, Copy, Debug)]
struct Kind {
    domain: i32,
    kind: i32,
    protocol: i32,
}

impl Kind {
    fn of(socket: impl AsFd) -> Self {
        let fact = |name| int_option(socket.as_fd(), SOCKET, name).unwrap_or(-1);
        Self { domain: fact(libc::SO_DOMAIN), kind: fact(libc::SO_TYPE), protocol: fact(libc::SO_PROTOCOL) }
    }

    fn has(&self, sockets: For) -> bool {
        let inet6 = self.domain == libc::AF_INET6;
        let inet = inet6 || self.domain == libc::AF_INET;
        match sockets {
            For::All => true,
            For::Inet => inet,
            For::Inet6 => inet6,
            // An MPTCP socket (262) takes the options of TCP too.
            For::Tcp => inet && self.kind == libc::SOCK_STREAM,
            For::Netlink => self.domain == libc::AF_NETLINK,
            For::Udp => inet && matches!(self.protocol, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE),
            For::Raw => inet && self.kind == libc::SOCK_RAW,
            For::Packet => self.domain == libc::AF_PACKET,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sock::set_int_option;
    use rustix::fd::OwnedFd;
    use rustix::net::{AddressFamily, SocketType, socket};

    fn sockets() -> Vec<[OwnedFd; 3]> {
        let make = |family, kind| {
            let one = || socket(family, kind, None).unwrap();
            [one(), one(), one()]
        };
        vec![
            make(AddressFamily::UNIX, SocketType::STREAM),
            make(AddressFamily::UNIX, SocketType::DGRAM),
            make(AddressFamily::INET, SocketType::STREAM),
            make(AddressFamily::INET, SocketType::DGRAM),
            make(AddressFamily::INET6, SocketType::STREAM),
            make(AddressFamily::INET6, SocketType::DGRAM),
            make(AddressFamily::NETLINK, SocketType::RAW),
        ]
    }

    /// Every kind of socket that has options of its own: family, type, protocol.
    const KINDS: [(i32, i32, i32); 16] = [
        (libc::AF_UNIX, libc::SOCK_STREAM, 0),
        (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        (libc::AF_INET, libc::SOCK_STREAM, 0),
        (libc::AF_INET6, libc::SOCK_STREAM, 0),
        (libc::AF_INET, libc::SOCK_STREAM, 262),
        (libc::AF_INET, libc::SOCK_DGRAM, 0),
        (libc::AF_INET6, libc::SOCK_DGRAM, 0),
        (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6),
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        (libc::AF_INET6, libc::SOCK_RAW, 253),
        (libc::AF_PACKET, libc::SOCK_RAW, 0),
        (libc::AF_NETLINK, libc::SOCK_RAW, 0),
    ];

    /// Makes one, if that is allowed and known here: raw ones by root only.
    fn make((family, kind, protocol): (i32, i32, i32)) -> Option<OwnedFd> {
        let family = AddressFamily::from_raw(family as u16);
        let protocol = std::num::NonZeroU32::new(protocol as u32).map(rustix::net::Protocol::from_raw);
        rustix::net::socket(family, SocketType::from_raw(kind as u32), protocol).ok()
    }

    /// What can be read and set and is yet not in the table, with the reason.
    const LEFT_OUT: [(i32, i32, &str); 12] = [
        (SOCKET, 62, "SO_BINDTOIFINDEX is SO_BINDTODEVICE by number"),
        (SOCKET, 66, "SO_RCVTIMEO_NEW is SO_RCVTIMEO on 64 bits"),
        (SOCKET, 67, "SO_SNDTIMEO_NEW is SO_SNDTIMEO on 64 bits"),
        (SOCKET, SO_BUF_LOCK, "it follows from setting the sizes"),
        (RAW, 36, "IPV6_HDRINCL at another level"),
        (IPV6, 7, "IPV6_CHECKSUM at another level"),
        (TCP, 12, "TCP_QUICKACK changes by itself"),
        (TCP, 19, "TCP_REPAIR is no state of a program"),
        (SOCKET, 70, "SO_BUSY_POLL_BUDGET cannot be read"),
        (PACKET, 18, "PACKET_FANOUT is refused"),
        (SOCKET, 14, "SO_BSDCOMPAT does nothing"),
        (TCP, 17, "TCP_THIN_DUPACK does nothing"),
    ];

    #[test]
    fn no_option_that_can_be_read_and_set_is_missing() {
        let levels = [SOCKET, IP, IPV6, TCP, UDP, ICMPV6, RAW, PACKET, NETLINK, 284];
        let mut missing = Vec::new();
        for kind in KINDS {
            let Some(untouched) = make(kind) else { continue };
            for (level, name) in levels.iter().flat_map(|level| (0..130).map(move |name| (*level, name))) {
                let known = TABLE.iter().any(|row| (row.level, row.name) == (level, name));
                if known || LEFT_OUT.iter().any(|(l, n, _)| (*l, *n) == (level, name)) {
                    continue;
                }
                let mut value = [0u8; VALUE_MAX];
                let Ok(len) = option(&untouched, level, name, &mut value) else { continue };
                let Some(socket) = make(kind) else { continue };
                let changes = [1i32, 0, 2, 7, 64, 1000, -1].iter().any(|candidate| {
                    let (mut new, mut after) = (value, [0u8; VALUE_MAX]);
                    new[..4].copy_from_slice(&candidate.to_ne_bytes());
                    set_option(&socket, level, name, &new[..len.max(4)]).is_ok()
                        && option(&socket, level, name, &mut after)
                            .is_ok_and(|found| after[..found] != value[..len])
                });
                if changes {
                    missing.push((kind, level, name));
                }
            }
        }
        assert_eq!(missing, [], "(kind of socket, level, option)");
    }

    #[test]
    fn a_priority_other_than_that_of_the_type_of_service_comes_back() {
        let [socket, fresh, copy] = sockets().remove(2);
        set_int_option(&socket, IP, 1, 0x10).unwrap();
        set_int_option(&socket, SOCKET, 12, 0).unwrap();
        let values = Usual::of(&fresh).differing(&socket);
        assert_eq!(set_all(&copy, values.iter().map(|(l, n, v)| (*l, *n, v.as_slice()))), []);
        assert_eq!(int_option(&copy, SOCKET, 12), Ok(0));
    }

    #[test]
    fn a_fresh_socket_differs_in_nothing() {
        for [socket, fresh, _] in sockets() {
            assert_eq!(Usual::of(&fresh).differing(&socket), []);
        }
    }

    #[test]
    fn each_option_that_can_be_set_is_seen_and_set_back() {
        let mut tried = 0;
        for [socket, fresh, copy] in sockets() {
            let kind = Kind::of(&socket);
            for row in TABLE.iter().filter(|row| kind.has(row.sockets) && row.form == Form::Plain) {
                let mut value = [0u8; 64];
                let Ok(len) = option(&socket, row.level, row.name, &mut value) else { continue };
                // Whatever the default is, one of these is another valid value of most options.
                for candidate in [1i32, 0, 2, 7] {
                    let mut new = value;
                    new[..4].copy_from_slice(&candidate.to_ne_bytes());
                    if new != value && set_option(&socket, row.level, row.name, &new[..len]).is_ok() {
                        tried += 1;
                        break;
                    }
                }
            }
            set_int_option(&socket, SOCKET, 7, 50_000).unwrap();
            set_int_option(&socket, SOCKET, 8, 60_000).unwrap();
            let values = Usual::of(&fresh).differing(&socket);
            assert!(values.iter().any(|(_, name, _)| *name == 8));
            let failed = set_all(&copy, values.iter().map(|(l, n, v)| (*l, *n, v.as_slice())));
            assert_eq!(failed, [], "{values:?}");
            assert_eq!(Usual::of(&fresh).differing(&copy), values);
        }
        assert!(tried > 100, "{tried}");
    }

    #[test]
    fn a_packet_filter_is_seen_and_set_back() {
        for [socket, fresh, copy] in sockets() {
            // ret #4; what a filter is worth to a program that relies on it.
            let filter: Vec<u8> = [0x06, 0, 0, 0, 4, 0, 0, 0].to_vec();
            assert_eq!(super::filter(&socket), Ok(None));
            crate::sock::attach_filter(&socket, &filter).unwrap();
            let values = Usual::of(&fresh).differing(&socket);
            assert_eq!(values, [(SOCKET, 26, filter.clone())]);
            assert_eq!(set_all(&copy, values.iter().map(|(l, n, v)| (*l, *n, v.as_slice()))), []);
            assert_eq!(super::filter(&copy), Ok(Some(filter)));
        }
    }

    #[test]
    fn an_option_outside_of_the_table_is_refused() {
        let [socket, ..] = sockets().remove(0);
        // SO_ATTACH_BPF
        assert_eq!(set_all(&socket, [(SOCKET, 50, &[0u8; 4][..])]).len(), 1);
    }
}
