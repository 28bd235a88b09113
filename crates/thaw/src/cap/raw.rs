//! Raw and ping sockets.

use super::error::{About, Error};
use super::{file, tcp};
use frost_model::cap::RawSocket;
use rustix::fd::OwnedFd;
use rustix::net::SocketType;

/// Makes a raw or ping socket, bound and connected as it was. These have SO_REUSEADDR unless they gave it up
/// (INET_PROTOSW_REUSE, net/ipv4/af_inet.c), so it is not taken back after the binding.
pub(super) fn make(socket: &RawSocket, flags: u32) -> Result<OwnedFd, Error> {
    let what = || if socket.raw { "raw socket" } else { "ping socket" };
    let kind = if socket.raw { SocketType::RAW } else { SocketType::DGRAM };
    let fd = tcp::bound(&socket.inet, kind, socket.peer.is_some())?;
    if let Some(peer) = socket.peer {
        // Fails where there is no way to that peer (any more); sends then say so, as on a network that went down.
        let _ = rustix::net::connect(&fd, &peer);
    }
    file::set_status(&fd, flags).about("set the flags of", what())?;
    Ok(fd)
}
