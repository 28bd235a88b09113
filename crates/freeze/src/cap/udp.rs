//! UDP sockets.

use super::{Error, Held, pipe, tcp};
use frost_model::cap::{Capability, Datagram, UdpSocket};
use frost_sys::sock::{self, int_option, set_int_option};
use rustix::event::PollFlags;
use rustix::net::SocketType;

/// Most datagrams that are looked at; those behind them are lost.
const DATAGRAMS_MAX: usize = 65_536;

/// Captures a UDP socket, with what waits in it.
pub(super) fn capture(held: &Held) -> Result<Capability, Error> {
    let inet = tcp::inet(held, SocketType::DGRAM)?;
    let queue = peek_all(held)?;
    Ok(Capability::Udp(UdpSocket { inet, peer: tcp::peer(held), queue }))
}

/// Looks at all that waits without taking it: SO_PEEK_OFF walks along the queue, and is put back to what it was.
fn peek_all(held: &Held) -> Result<Vec<Datagram>, Error> {
    let fail = |source| held.error(source);
    // A look at a socket with an error (as of an ICMP message) takes that error, which is the program's.
    let events = pipe::events(&held.fd);
    if !events.contains(PollFlags::IN) || events.contains(PollFlags::ERR) {
        return Ok(Vec::new());
    }
    let before = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).map_err(fail)?;
    let queue = walk(held);
    set_int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, before).map_err(fail)?;
    queue
}

fn walk(held: &Held) -> Result<Vec<Datagram>, Error> {
    let fail = |source| held.error(source);
    let (mut queue, mut offset) = (Vec::new(), 0);
    while queue.len() < DATAGRAMS_MAX {
        // An empty datagram has no place of its own: the kernel marks it as seen, and the next look passes it.
        set_int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset).map_err(fail)?;
        let Some(seen) = sock::peek_datagram(&held.fd).map_err(fail)? else { break };
        offset += seen.data.len() as i32;
        queue.push(Datagram { from: seen.from, data: seen.data, segment: seen.segment });
    }
    Ok(queue)
}
