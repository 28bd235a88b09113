//! TCP sockets.

use super::error::{About, Error};
use super::file;
use frost_model::cap::{Inet, SocketOption, TcpListener, TcpStream};
use frost_sys::network;
use frost_sys::sock::{set_int_option, set_option};
use frost_sys::sock_options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU32;

/// Makes a socket of an internet family with its options.
pub(super) fn socket(inet: &Inet, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let family = if inet.v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let protocol = NonZeroU32::new(inet.protocol as u32).map(Protocol::from_raw);
    match network::socket(family, kind, protocol) {
        // IPPROTO_MPTCP (262) where the kernel or an administrator does without it: plain TCP is its fallback anyway.
        Err(Errno::PROTONOSUPPORT | Errno::NOPROTOOPT) if inet.protocol == 262 => {
            network::socket(family, kind, None)
        }
        other => other,
    }
}

/// Sets recorded options. What this kernel or our rights do not allow is left at its default: none of these changes
/// what a program reads, only how fast or by which way.
pub(super) fn set_options(socket: impl AsFd, options: &[SocketOption]) {
    let values = options.iter().map(|option| (option.level, option.name, option.value.as_slice()));
    let _ = sock_options::set_all(socket, values);
}

/// Binds a socket to its recorded address.
///
/// With SO_REUSEADDR, whatever the program had set: connections of the frozen program may linger in TIME_WAIT, and
/// must not keep its own port from it; the freeze has set it for them too. [`restore_reuse`] sets the option as it was.
fn bind(socket: &OwnedFd, inet: &Inet, any_address: bool) -> rustix::io::Result<()> {
    let Some(local) = inet.local else { return Ok(()) };
    if !has_reuse(inet) {
        set_int_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    let result = rustix::net::bind(socket, &local);
    if any_address && result == Err(Errno::ADDRNOTAVAIL) {
        // The address was chosen by connect(2), from a network where we may not be any more; the port matters.
        let any = SocketAddr::new(
            if inet.v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() },
            local.port(),
        );
        return rustix::net::bind(socket, &any);
    }
    result
}

fn has_reuse(inet: &Inet) -> bool {
    let key = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
    inet.options.iter().any(|option| (option.level, option.name) == key)
}

/// Returns whether a socket of some program has a local port: none has those of connections that have ended, which the
/// kernel keeps for a minute (TIME_WAIT), or until the other side has closed too (FIN_WAIT, LAST_ACK).
///
/// A connection that came to be without SO_REUSEADDR keeps its port even from a socket that has it
/// (`inet_bind_conflict`, net/ipv4/inet_connection_sock.c); a freeze gives it to those that it ends itself.
///
/// Source: `get_tcp4_sock` and `get_timewait4_sock` in net/ipv4/tcp_ipv4.c: an inode of 0 is that of no file.
pub(super) fn has_owner(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let tables = ["tcp", "tcp6"].map(network::table);
    let mut found = false;
    for line in tables.iter().flatten().flat_map(|table| table.lines().skip(1)) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = words.as_slice() else { continue };
        let here = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        if here == Some(port) {
            if *inode != "0" || *state == LISTEN {
                return true;
            }
            found = true;
        }
    }
    // One that is only bound, or of another protocol, is in neither table.
    !found
}

/// Takes SO_REUSEADDR back from a socket that got it from us only.
pub(super) fn restore_reuse(socket: &OwnedFd, inet: &Inet) -> rustix::io::Result<()> {
    if inet.local.is_none() || has_reuse(inet) {
        return Ok(());
    }
    set_int_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0)
}

/// Makes a socket with its options and address, and no more: it neither listens nor is connected. The address of one
/// that will be `connected` was chosen by the kernel, so it may be any.
pub(super) fn bound(inet: &Inet, kind: SocketType, connected: bool) -> Result<OwnedFd, Error> {
    let what = || {
        let protocol = if kind == SocketType::STREAM { "TCP" } else { "UDP" };
        match inet.local {
            Some(local) => format!("{protocol} socket {local}"),
            None => format!("{protocol} socket"),
        }
    };
    let fd = socket(inet, kind).about("make", what())?;
    set_options(&fd, &inet.options);
    bind(&fd, inet, connected).about("bind", what())?;
    Ok(fd)
}

/// Makes a TCP socket without a peer.
pub(super) fn make(listener: &TcpListener, flags: u32) -> Result<OwnedFd, Error> {
    let what = || match listener.inet.local {
        Some(local) => format!("TCP socket {local}"),
        None => "TCP socket".to_owned(),
    };
    let fd = bound(&listener.inet, SocketType::STREAM, false)?;
    if let Some(backlog) = listener.backlog {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        rustix::net::listen(&fd, backlog).about("listen on", what())?;
    }
    // Not before it listens: that looks for others at its port once more, and connections of the program are there.
    restore_reuse(&fd, &listener.inet).about("set the options of", what())?;
    file::set_status(&fd, flags).about("set the flags of", what())?;
    Ok(fd)
}

/// Makes a socket that was kept what it was: a freeze may have given it SO_REUSEADDR, and the image may be of another
/// version.
pub(super) fn keep(kept: &OwnedFd, listener: &TcpListener, flags: u32) -> rustix::io::Result<OwnedFd> {
    let fd = rustix::io::fcntl_dupfd_cloexec(kept, 3)?;
    set_options(&fd, &listener.inet.options);
    if let Some(backlog) = listener.backlog {
        rustix::net::listen(&fd, i32::try_from(backlog).unwrap_or(i32::MAX))?;
    }
    restore_reuse(&fd, &listener.inet)?;
    file::set_status(&fd, flags)?;
    Ok(fd)
}

/// Makes a connection that its peer has just reset: the truth about one whose peer waited in vain.
///
/// It is made on the loopback interface and reset by closing the other end with SO_LINGER 0. Reads give ECONNRESET
/// once and then end of file, writes EPIPE, and poll shows it readable with error and hang-up.
pub(super) fn make_reset(stream: &TcpStream, flags: u32) -> Result<OwnedFd, Error> {
    let what = || match stream.peer {
        Some(peer) => format!("a connection in place of that to {peer}"),
        None => "a closed connection".to_owned(),
    };
    let plain = Inet { v6: false, protocol: 0, local: None, options: Vec::new() };
    let server = socket(&plain, SocketType::STREAM).about("make", what())?;
    let loopback = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    rustix::net::bind(&server, &loopback).about("bind", what())?;
    rustix::net::listen(&server, 1).about("listen for", what())?;
    let address = rustix::net::getsockname(&server).about("find", what())?;
    let address = SocketAddr::try_from(address).about("find", what())?;
    // Of the recorded family: an IPv6 socket reaches the same place by a mapped address.
    let client = socket(&Inet { v6: stream.inet.v6, ..plain }, SocketType::STREAM).about("make", what())?;
    let target = match (stream.inet.v6, address) {
        (true, SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        (_, address) => address,
    };
    // Where no loopback interface is up, as in a new network namespace, a socket without connection has to do: it says
    // ENOTCONN and EPIPE.
    if rustix::net::connect(&client, &target).is_ok() {
        let accepted = rustix::net::accept_with(&server, SocketFlags::CLOEXEC).about("accept", what())?;
        // struct linger: on, 0 seconds.
        let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
        set_option(&accepted, libc::SOL_SOCKET, libc::SO_LINGER, &linger).about("reset", what())?;
        drop(accepted);
        let mut fds = [PollFd::new(&client, PollFlags::IN)];
        let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = poll(&mut fds, Some(&patience));
    }
    set_options(&client, &stream.inet.options);
    file::set_status(&client, flags).about("set the flags of", what())?;
    Ok(client)
}
