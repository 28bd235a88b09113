//! Unix sockets of a network namespace, as sock_diag(7) lists them.

use crate::network;
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send};

/// TCP_ESTABLISHED, the state of a connected socket.
pub const ESTABLISHED: u8 = 1;
/// TCP_CLOSE, the state of one that is neither connected nor listening.
pub const CLOSED: u8 = 7;
/// TCP_LISTEN.
pub const LISTENING: u8 = 10;

/// A unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
    pub kind: u8,
    /// [`ESTABLISHED`], [`CLOSED`] or [`LISTENING`].
    pub state: u8,
    /// Its inode.
    pub inode: u32,
    /// Its name: a path, or a NUL and an abstract name.
    pub name: Option<Vec<u8>>,
    /// Device (in the kernel's 12:20 form) and inode of the node of a path.
    pub node: Option<(u32, u32)>,
    /// The inode of its peer; 0 for a peer that was not accepted yet.
    pub peer: Option<u32>,
    /// The inodes of clients that a listening socket has not accepted yet, in order; 0 for one that is gone.
    pub pending: Vec<u32>,
    /// Bytes that wait to be read, or connections that wait to be accepted.
    pub receive_queue: u32,
    /// Bytes sent and not read yet, or the backlog of a listening socket.
    pub send_queue: u32,
    /// Bit 0: reading was shut down, bit 1: writing was.
    pub shutdown: u8,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Lists all unix sockets of the network that is [meant](network::mean).
///
/// # Errors
/// ENOENT or EPROTONOSUPPORT where the kernel lacks CONFIG_UNIX_DIAG.
///
/// Source: `sock_diag(7)`, `include/uapi/linux/unix_diag.h`.
pub fn unix_sockets() -> Result<Vec<UnixSocket>> {
    let socket = network::socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG))?;
    let mut request = Vec::with_capacity(40);
    // struct nlmsghdr: length, type, NLM_F_REQUEST | NLM_F_DUMP, sequence, port.
    request.extend_from_slice(&40u32.to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&0x301u16.to_ne_bytes());
    request.extend_from_slice(&1u32.to_ne_bytes());
    request.extend_from_slice(&0u32.to_ne_bytes());
    // struct unix_diag_req: family, protocol, padding, all states, any inode,
    // UDIAG_SHOW_NAME | VFS | PEER | ICONS | RQLEN, no cookie.
    request.extend_from_slice(&[AddressFamily::UNIX.as_raw() as u8, 0, 0, 0]);
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&0u32.to_ne_bytes());
    request.extend_from_slice(&0x1fu32.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    send(&socket, &request, SendFlags::empty())?;

    let mut sockets = Vec::new();
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..len];
        while rest.len() >= 16 {
            let length = word(rest, 0) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let Some(body) = rest.get(16..length) else { return Err(Errno::BADMSG) };
            match kind {
                NLMSG_DONE => return Ok(sockets),
                NLMSG_ERROR => {
                    return Err(Errno::from_raw_os_error((word(body, 0) as i32).wrapping_neg()));
                }
                SOCK_DIAG_BY_FAMILY => sockets.extend(parse(body)),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Decodes `struct unix_diag_msg` (16 bytes) and the attributes behind it.
fn parse(body: &[u8]) -> Option<UnixSocket> {
    let mut rest = body.get(16..)?;
    let mut socket =
        UnixSocket { kind: body[1], state: body[2], inode: word(body, 4), ..UnixSocket::default() };
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let value = rest.get(4..length)?;
        // The numbers are those of the enum in unix_diag.h.
        match u16::from_ne_bytes([rest[2], rest[3]]) {
            0 => {
                let mut name = value.to_vec();
                if name.first().is_some_and(|byte| *byte != 0) {
                    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                }
                socket.name = Some(name).filter(|name| !name.is_empty());
            }
            // struct unix_diag_vfs: inode, then device.
            1 => socket.node = Some((word(value, 4), word(value, 0))),
            2 => socket.peer = Some(word(value, 0)),
            3 => socket.pending = value.chunks_exact(4).map(|inode| word(inode, 0)).collect(),
            4 => (socket.receive_queue, socket.send_queue) = (word(value, 0), word(value, 4)),
            6 => socket.shutdown = *value.first()?,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fs::fstat;
    use rustix::net::{SocketFlags, socketpair};

    #[test]
    fn a_pair_is_listed_with_both_ends() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        send(&a, b"four", SendFlags::empty()).unwrap();
        let (a, b) = (fstat(&a).unwrap().st_ino as u32, fstat(&b).unwrap().st_ino as u32);
        let all = unix_sockets().unwrap();
        let find = |inode| all.iter().find(|socket| socket.inode == inode).unwrap();
        assert_eq!((find(a).peer, find(b).peer), (Some(b), Some(a)));
        assert_eq!((find(a).state, find(a).kind, find(b).receive_queue), (ESTABLISHED, 1, 4));
    }
}
