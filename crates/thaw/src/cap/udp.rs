//! UDP sockets.

use super::error::{About, Error};
use super::{file, tcp};
use frost_model::cap::UdpSocket;
use rustix::fd::OwnedFd;
use rustix::net::SocketType;

/// Makes a UDP socket, bound and connected as it was.
pub(super) fn make(socket: &UdpSocket, flags: u32) -> Result<OwnedFd, Error> {
    let what = || match socket.inet.local {
        Some(local) => format!("UDP socket {local}"),
        None => "UDP socket".to_owned(),
    };
    let fd = tcp::bound(&socket.inet, SocketType::DGRAM, socket.peer.is_some())?;
    tcp::restore_reuse(&fd, &socket.inet).about("set the options of", what())?;
    if let Some(peer) = socket.peer {
        // Fails where there is no way to that peer (any more); sends then say so, as on a network that went down.
        let _ = rustix::net::connect(&fd, &peer);
    }
    file::set_status(&fd, flags).about("set the flags of", what())?;
    Ok(fd)
}
