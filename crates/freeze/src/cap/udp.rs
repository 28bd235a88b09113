//! UDP sockets.

use super::recognise::Refusal;
use super::{Error, Held, pipe, tcp};
use frost_model::cap::{Capability, Datagram, UdpSocket};
use frost_sys::sock::{self, int_option, set_int_option};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SocketType;

/// Most datagrams that are carried; somebody outside may go on sending while we look.
const DATAGRAMS_MAX: usize = 1 << 20;

/// Refuses a socket whose queue cannot be looked at.
pub(super) fn recognise(held: &Held) -> Result<(), Refusal> {
    // A look takes the error (`sock_error` in __skb_try_recv_datagram, net/core/datagram.c), which is the program's. Alone
    // it is lost, as an ICMP message may be at any time; but what waits behind it was received.
    let events = pipe::events(&held.fd);
    if events.contains(PollFlags::IN | PollFlags::ERR) {
        return Err(Refusal::passing(
            "UDP socket with an error that was not read yet",
            "what it received cannot be looked at without taking that error from the program",
            "try again in a moment, when the program has used the socket",
        ));
    }
    Ok(())
}

/// Captures a UDP socket, with what waits in it.
pub(super) fn capture(held: &Held) -> Result<Capability, Error> {
    let inet = tcp::inet(held, SocketType::DGRAM)?;
    let queue = peek_all(held)?;
    // One of which only writing was shut down looks like any other (datagram_poll, net/core/datagram.c).
    let events = pipe::events(&held.fd);
    let (shut_read, shut_write) = (events.contains(PollFlags::RDHUP), events.contains(PollFlags::HUP));
    Ok(Capability::Udp(UdpSocket { inet, peer: tcp::peer(held), queue, shut_read, shut_write }))
}

/// Looks at all that waits without taking it: SO_PEEK_OFF walks along the queue, and is put back to what it was.
fn peek_all(held: &Held) -> Result<Vec<Datagram>, Error> {
    let fail = |source| held.error(source);
    let events = pipe::events(&held.fd);
    if !events.contains(PollFlags::IN) || events.contains(PollFlags::ERR) {
        return Ok(Vec::new());
    }
    let before = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).map_err(fail)?;
    held.peeking(before, || walk(held))
}

fn walk(held: &Held) -> Result<Vec<Datagram>, Error> {
    let fail = |source| held.error(source);
    let (mut queue, mut offset) = (Vec::new(), 0i32);
    loop {
        if queue.len() == DATAGRAMS_MAX {
            return Err(held.error(Errno::MSGSIZE));
        }
        // An empty datagram has no place of its own: the kernel marks it as seen, and the next look passes it.
        set_int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset).map_err(fail)?;
        let Some(seen) = sock::peek_datagram(&held.fd).map_err(fail)? else { break };
        offset = offset.checked_add(seen.data.len() as i32).ok_or(held.error(Errno::MSGSIZE))?;
        queue.push(Datagram { from: seen.from, data: seen.data, segment: seen.segment });
    }
    Ok(queue)
}
