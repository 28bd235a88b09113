//! Listening sockets that a keeper keeps while its program is frozen, so that whoever connects waits instead of being refused.
//!
//! To the keeper they are one descriptor, of which it need know nothing: they lie in flight in a socket, all in one message,
//! and it has the end at which they come out. A thaw only looks at the message (MSG_PEEK gives duplicates of what is in
//! flight, `unix_peek_fds`, net/unix/af_unix.c), so if it fails, they are still there.

use frost_sys::sock;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// How many can be kept: as many as one message takes (SCM_MAX_FD, include/net/scm.h).
pub const MOST: usize = 253;

/// Puts sockets and the number of each in flight; returns the end at which they come out.
pub(crate) fn offer(sockets: &[(u32, BorrowedFd<'_>)]) -> Result<OwnedFd> {
    let sockets = &sockets[..sockets.len().min(MOST)];
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let numbers: Vec<u8> = sockets.iter().flat_map(|(number, _)| number.to_le_bytes()).collect();
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, fd)| *fd).collect();
    sock::send_unix(&ours, &numbers, None, &descriptors)?;
    Ok(theirs)
}

/// Looks at what lies in flight.
pub(crate) fn look(offer: &OwnedFd) -> Result<Vec<(u32, OwnedFd)>> {
    let Some(seen) = sock::peek(offer, MOST * 4)? else { return Ok(Vec::new()) };
    let numbers = seen.data.chunks_exact(4).map(|word| word.try_into().map_or(u32::MAX, u32::from_le_bytes));
    Ok(numbers.zip(seen.rights).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    #[test]
    fn sockets_are_seen_again_and_again_with_their_numbers() {
        let listeners: Vec<_> =
            (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
        let addresses: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        let numbered: Vec<_> = (7..).zip(listeners.iter().map(AsFd::as_fd)).collect();
        let offer = offer(&numbered).unwrap();
        drop(listeners);
        for _ in 0..2 {
            let seen = look(&offer).unwrap();
            assert_eq!(seen.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [7, 8, 9]);
            for ((_, fd), address) in seen.into_iter().zip(&addresses) {
                let listener = std::net::TcpListener::from(fd);
                assert_eq!(listener.local_addr().unwrap(), *address);
                let client = std::net::TcpStream::connect(address).expect("it listens");
                assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
            }
        }
        drop(offer);
        for address in addresses {
            assert!(std::net::TcpStream::connect(address).is_err(), "nobody keeps it any more");
        }
    }
}
