//! Netlink sockets.

use super::error::{About, Error};
use super::{file, tcp};
use frost_model::cap::NetlinkSocket;
use frost_sys::sock::set_int_option;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, socket_with};
use std::num::NonZeroU32;

/// SOL_NETLINK and NETLINK_ADD_MEMBERSHIP.
const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;

/// Makes a netlink socket with its address and groups.
pub(super) fn make(socket: &NetlinkSocket, flags: u32) -> Result<OwnedFd, Error> {
    let what = || format!("netlink socket {}", socket.port);
    let kind = if socket.raw { SocketType::RAW } else { SocketType::DGRAM };
    let protocol = NonZeroU32::new(socket.protocol as u32).map(Protocol::from_raw);
    let fd =
        socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, protocol).about("make", what())?;
    tcp::set_options(&fd, &socket.options);
    if socket.port != 0 {
        match bind(&fd, &SocketAddrNetlink::new(socket.port, 0)) {
            // It is given by the kernel where a program does not choose, so another will do.
            Err(Errno::ADDRINUSE) => bind(&fd, &SocketAddrNetlink::new(0, 0)),
            other => other,
        }
        .about("bind", what())?;
    }
    for group in &socket.groups {
        set_int_option(&fd, SOL_NETLINK, ADD_MEMBERSHIP, *group as i32)
            .about("join the groups of", what())?;
    }
    if let Some((port, groups)) = socket.peer {
        connect(&fd, &SocketAddrNetlink::new(port, groups)).about("connect", what())?;
    }
    file::set_status(&fd, flags).about("set the flags of", what())?;
    Ok(fd)
}
