//! Packet sockets: their address, and what sock_diag(7) tells of them.

use crate::network;
use crate::raw::check;
use crate::sock::{option, set_option};
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send};

/// SOL_PACKET and PACKET_ADD_MEMBERSHIP of include/uapi/linux/if_packet.h.
const SOL_PACKET: i32 = 263;
const ADD_MEMBERSHIP: i32 = 1;
const FANOUT: i32 = 18;

/// The protocol in host order, and the index of the interface, 0 for all.
pub fn address(fd: impl AsFd) -> Result<(u16, u32)> {
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes of `address`.
    let result = unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut len) };
    check(i64::from(result))?;
    Ok((u16::from_be(address.sll_protocol), address.sll_ifindex as u32))
}

/// Binds to a protocol in host order and an interface, 0 for all: from now on it receives.
pub fn bind(fd: impl AsFd, protocol: u16, interface: u32) -> Result<()> {
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = interface as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a live sockaddr_ll of that length.
    let result = unsafe { libc::bind(fd.as_fd().as_raw_fd(), (&raw const address).cast(), len) };
    check(i64::from(result)).map(drop)
}

/// Asks an interface to receive more than it does: index, PACKET_MR_ kind, address.
pub fn add_membership(fd: impl AsFd, interface: u32, kind: u16, address: &[u8]) -> Result<()> {
    // struct packet_mreq: index, kind, length, 8 bytes of address; longer ones as struct packet_mreq_max of 32.
    let mut request = Vec::with_capacity(40);
    request.extend_from_slice(&interface.to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&(address.len() as u16).to_ne_bytes());
    request.extend_from_slice(address);
    request.resize(if address.len() > 8 { 40 } else { 16 }, 0);
    set_option(fd, SOL_PACKET, ADD_MEMBERSHIP, &request)
}

/// Whether a socket shares its packets with others (PACKET_FANOUT).
pub fn has_fanout(fd: impl AsFd) -> bool {
    let mut value = [0u8; 4];
    option(fd, SOL_PACKET, FANOUT, &mut value).is_ok() && value != [0; 4]
}

/// What the kernel tells of a packet socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Interface, PACKET_MR_ kind, address, and how often each was asked for.
    pub memberships: Vec<(u32, u16, Vec<u8>, u32)>,
    /// Whether it has a ring of packets that it shares with the kernel (PACKET_RX_RING, PACKET_TX_RING).
    pub ring: bool,
}

/// Finds a packet socket of the network that is [meant](network::mean) by its inode.
///
/// # Errors
/// ENOENT where the kernel lacks CONFIG_PACKET_DIAG, or has no such socket.
///
/// Source: `include/uapi/linux/packet_diag.h`.
pub fn told(inode: u32) -> Result<Told> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    let socket = network::socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG))?;
    // struct nlmsghdr: length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, port; struct packet_diag_req:
    // family, protocol, padding, any inode, PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG, no cookie.
    let mut request = Vec::with_capacity(36);
    request.extend_from_slice(&36u32.to_ne_bytes());
    request.extend_from_slice(&20u16.to_ne_bytes());
    request.extend_from_slice(&0x301u16.to_ne_bytes());
    request.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    request.extend_from_slice(&[AddressFamily::PACKET.as_raw() as u8, 0, 0, 0]);
    request.extend_from_slice(&0u32.to_ne_bytes());
    request.extend_from_slice(&6u32.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    send(&socket, &request, SendFlags::empty())?;
    let mut found = Err(Errno::NOENT);
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..len];
        while rest.len() >= 16 {
            let length = (word(rest, 0) as usize).clamp(16, rest.len());
            match half(rest, 4) {
                NLMSG_DONE => return found,
                NLMSG_ERROR => return Err(Errno::NOENT),
                // struct packet_diag_msg: family, type, protocol, inode, cookie; then attributes.
                _ if length >= 32 && word(rest, 20) == inode => found = Ok(attributes(&rest[32..length])),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn attributes(mut rest: &[u8]) -> Told {
    // PACKET_DIAG_MCLIST, RX_RING, TX_RING.
    let mut told = Told::default();
    while rest.len() >= 4 {
        let length = (half(rest, 0) as usize).clamp(4, rest.len());
        let body = &rest[4..length];
        match half(rest, 2) {
            // struct packet_diag_mclist: index, count, type, length of the address, 32 bytes of it.
            1 => told.memberships.extend(body.chunks_exact(44).map(|entry| {
                let len = half(entry, 10).min(32) as usize;
                (word(entry, 0), half(entry, 8), entry[12..12 + len].to_vec(), word(entry, 4))
            })),
            2 | 3 => told.ring = true,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    told
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes)
}
