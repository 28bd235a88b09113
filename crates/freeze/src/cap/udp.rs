//! UDP sockets.

use super::recognise::Refusal;
use super::{Error, Held, pipe, tcp};
use frost_model::cap::{Capability, Datagram, Inet, SocketOption, UdpSocket};
use frost_sys::sock::{self, int_option, set_int_option};
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

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
    nothing_begun(held)
}

/// Refuses a socket with a datagram that was begun and not sent (MSG_MORE, UDP_CORK).
pub(super) fn nothing_begun(held: &Held) -> Result<(), Refusal> {
    // What is on its way to a device counts as well, for some microseconds as a rule.
    if sock::unsent_bytes(&held.fd).is_ok_and(|bytes| bytes > 0) {
        return Err(Refusal::passing(
            "socket with a datagram that is not sent yet",
            "what was begun of it (MSG_MORE, UDP_CORK) the kernel shows to nobody",
            "try again in a moment, when the program has sent it",
        ));
    }
    Ok(())
}

/// Whether the program may not send by it any more.
///
/// Of one of which only writing was shut down no event tells (datagram_poll, net/core/datagram.c).
fn is_shut_for_writing(held: &Held, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> bool {
    let events = pipe::events(&held.fd);
    if events.contains(PollFlags::HUP) {
        return true;
    }
    let to = match (peer, local) {
        (Some(_), _) => None,
        (None, Some(local)) if local.is_ipv4() => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9)),
        (None, Some(_)) => Some(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 9)),
        // It would be given a port.
        (None, None) => return false,
    };
    !events.contains(PollFlags::ERR)
        && nothing_begun(held).is_ok()
        && sock::is_shut_for_writing(&held.fd, to.as_ref()).unwrap_or(false)
}

/// Captures a UDP socket, with what waits in it.
pub(super) fn capture(held: &Held, options: Vec<SocketOption>) -> Result<Capability, Error> {
    let inet = tcp::inet(held, options)?;
    let queue = peek_all(held, &inet)?;
    let peer = tcp::peer(held);
    let shut_read = pipe::events(&held.fd).contains(PollFlags::RDHUP);
    let shut_write = is_shut_for_writing(held, inet.local, peer);
    Ok(Capability::Udp(UdpSocket { inet, peer, queue, shut_read, shut_write }))
}

/// Looks at all that waits without taking it: SO_PEEK_OFF walks along the queue, and is put back to what it was.
///
/// When each of them came (SO_TIMESTAMP) is lost: nobody can say that of a datagram that is sent again.
fn peek_all(held: &Held, inet: &Inet) -> Result<Vec<Datagram>, Error> {
    let fail = |source| held.error(source);
    let events = pipe::events(&held.fd);
    if !events.contains(PollFlags::IN) || events.contains(PollFlags::ERR) {
        return Ok(Vec::new());
    }
    let before = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).map_err(fail)?;
    let telling = if inet.v6 { &sock::TELLING[..] } else { &sock::TELLING[..3] };
    held.peeking(before, telling, || walk(held, inet.local))
}

fn walk(held: &Held, local: Option<SocketAddr>) -> Result<Vec<Datagram>, Error> {
    let unspecified = local.filter(|local| local.ip().to_canonical().is_unspecified());
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
        let to = seen.to.zip(unspecified).map(|(ip, local)| SocketAddr::new(ip, local.port()));
        let (hops, class) = (seen.hops, seen.class);
        queue.push(Datagram { from: seen.from, data: seen.data, segment: seen.segment, to, hops, class });
    }
    Ok(queue)
}
