//! TCP connections whose both ends are in the tree.
//!
//! All that was sent must lie where it can be read. Most of it waits at the receiver. What the receiver had no room for
//! is still with the sender, where only TCP_REPAIR shows it (CAP_NET_ADMIN). Both count what passed, so it is known
//! whether anything is missing.

use super::recognise::Refusal;
use super::{Held, pipe, tcp};
use frost_model::cap::{TcpInside, TcpPeer};
use frost_model::id::DescriptionId;
use frost_sys::sock::{int_option, option, set_int_option};
use frost_sys::undo::Undo;
use rustix::event::PollFlags;
use rustix::io::Result;
use rustix::net::{RecvFlags, recv};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long what was sent may take to arrive: longer than an acknowledgement is delayed (TCP_DELACK_MAX, 200 ms), which
/// is what Nagle's algorithm waits for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The parts of `struct tcp_info` (include/uapi/linux/tcp.h) that say what passed.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    state: u8,
    received: u64,
    not_sent: u64,
    /// Payload that left, each byte counted once.
    sent: u64,
}

impl Passed {
    fn of(held: &Held) -> Option<Self> {
        let mut info = [0u8; 216];
        let told = option(&held.fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).ok()?;
        let long = |at: usize| info[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        let not_sent = info[144..148].try_into().map_or(0, u32::from_ne_bytes);
        // tcpi_bytes_received at 128, tcpi_bytes_sent and tcpi_bytes_retrans at 200 and 208 (Linux 4.19).
        (told == info.len()).then(|| Self {
            state: info[0],
            received: long(128),
            not_sent: not_sent.into(),
            sent: long(200).saturating_sub(long(208)),
        })
    }

    /// Whether it has sent its end: FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING.
    fn has_ended(self) -> bool {
        matches!(self.state, 4 | 5 | 6 | 9 | 11)
    }

    /// Whether the end of the peer has come: TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING.
    fn is_at_end(self) -> bool {
        matches!(self.state, 6 | 8 | 9 | 11)
    }
}

/// Both addresses of a connection, mapped ones in their short form, so that both ends say the same.
fn addresses(held: &Held) -> Option<(SocketAddr, SocketAddr)> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let local = SocketAddr::try_from(rustix::net::getsockname(&held.fd).ok()?).ok()?;
    Some((plain(local), plain(tcp::peer(held)?)))
}

fn is_plain_tcp(held: &Held) -> bool {
    int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PROTOCOL) == Ok(libc::IPPROTO_TCP)
}

/// Finds connections within the tree among `sockets`, the TCP sockets by the index of their description.
///
/// Those to elsewhere are not in the result. `still` says that nobody sends any more.
pub(super) fn find(
    sockets: &[(usize, &Held)],
    still: bool,
) -> (HashMap<usize, TcpInside>, Vec<(usize, Refusal)>) {
    let mut ends: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    let mut listeners: Vec<(usize, SocketAddr)> = Vec::new();
    // Clients that can be in the queue of each: all of one that waits for their first word (TCP_DEFER_ACCEPT), which the
    // kernel does not count.
    let mut places: HashMap<usize, u32> = HashMap::new();
    let held: HashMap<usize, &Held> = sockets.iter().copied().collect();
    for (index, held) in sockets.iter().filter(|(_, held)| is_plain_tcp(held)) {
        if let Some(both) = addresses(held) {
            ends.insert(both, *index);
        } else if int_option(&held.fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1)
            && let Ok(local) = rustix::net::getsockname(&held.fd)
            && let Ok(local) = SocketAddr::try_from(local)
        {
            listeners.push((*index, local));
            let defers = int_option(&held.fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT).unwrap_or(0) != 0;
            places.insert(*index, if defers { u32::MAX } else { waiting(held) });
        }
    }
    let (mut found, mut refusals) = (HashMap::new(), Vec::new());
    for (&(local, peer), &index) in &ends {
        let socket = held[&index];
        // One may be connected to itself (a simultaneous open); what it has begun to end is over at once.
        let is_pair =
            |other: &&usize| **other != index || Passed::of(socket).is_some_and(|passed| passed.state == 1);
        if let Some(&other) = ends.get(&(peer, local)).filter(is_pair) {
            match direction(held[&other], socket, still) {
                Ok((queue, shut_read, shut_write)) => {
                    let peer = TcpPeer::Description(DescriptionId::new(other as u32));
                    found.insert(index, TcpInside { peer, queue, shut_read, shut_write });
                }
                Err(refusal) => refusals.push((index, refusal)),
            }
            continue;
        }
        // Not accepted yet: its other end is in the queue of a listening socket, and what it sent too.
        let at = listeners.iter().find(|(_, listening)| {
            listening.port() == peer.port()
                && (listening.ip().is_unspecified() || listening.ip().to_canonical() == peer.ip())
        });
        let Some(passed) = Passed::of(socket) else { continue };
        if let Some((listener, _)) = at
            // Nobody has answered; one that has shut down is in FIN_WAIT1 or FIN_WAIT2.
            && passed.received == 0
            && matches!(passed.state, 1 | 4 | 5)
            && is_local(peer)
            && let Some(places) = places.get_mut(listener).filter(|places| **places > 0)
        {
            *places -= 1;
            if passed.state != 1 || passed.sent + passed.not_sent != 0 {
                refusals.push((index, not_accepted()));
                continue;
            }
            let peer = TcpPeer::Listener(DescriptionId::new(*listener as u32));
            found.insert(index, TcpInside { peer, queue: Vec::new(), shut_read: false, shut_write: false });
        }
    }
    for (index, socket) in sockets.iter().filter(|(_, held)| is_plain_tcp(held)) {
        if !found.contains_key(index) && !refusals.iter().any(|(refused, _)| refused == index) {
            match closed(socket, still) {
                Ok(inside) => found.extend(inside.map(|inside| (*index, inside))),
                Err(refusal) => refusals.push((*index, refusal)),
            }
        }
    }
    // Both ends or none.
    let refused: Vec<usize> = refusals.iter().map(|(index, _)| *index).collect();
    found.retain(|_, inside| match inside.peer {
        TcpPeer::Description(id) => !refused.contains(&id.index()),
        TcpPeer::Listener(_) | TcpPeer::Closed => true,
    });
    (found, refusals)
}

/// How many connections wait at a listening socket to be accepted: `tcpi_unacked` (tcp_get_info, net/ipv4/tcp.c).
fn waiting(held: &Held) -> u32 {
    let mut info = [0u8; 28];
    let told = option(&held.fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info);
    if told == Ok(info.len()) { info[24..].try_into().map_or(0, u32::from_ne_bytes) } else { 0 }
}

fn not_accepted() -> Refusal {
    Refusal::passing(
        "TCP connection within the program that was not accepted yet",
        "what it sent already lies in a queue that nobody can read before it is accepted",
        "try again in a moment, when the server has accepted it",
    )
}

/// What a connection holds that its peer has closed, without an error: CLOSE_WAIT, LAST_ACK, or all over (CLOSE).
fn closed(held: &Held, still: bool) -> std::result::Result<Option<TcpInside>, Refusal> {
    let Some(Passed { state, .. }) = Passed::of(held) else { return Ok(None) };
    let events = pipe::events(&held.fd);
    let over = state == 7 && events.contains(PollFlags::IN);
    if !(matches!(state, 8 | 9) || over) || events.contains(PollFlags::ERR) {
        return Ok(None);
    }
    urgent(held, still)?;
    let Ok(queue) = peek(held) else { return Ok(None) };
    Ok(Some(TcpInside { peer: TcpPeer::Closed, queue, shut_read: false, shut_write: state != 8 }))
}

/// Refuses a socket with something behind an urgent byte, at which every look ends (tcp_recvmsg_locked, net/ipv4/tcp.c).
fn urgent(held: &Held, still: bool) -> std::result::Result<(), Refusal> {
    if pipe::events(&held.fd).contains(PollFlags::PRI) {
        return Err(Refusal::passing(
            "TCP connection within the program with a byte out of band that was not read yet",
            "what was sent from there on cannot be looked at",
            "try again in a moment, when the program has read it",
        ));
    }
    // The byte itself may have been read; then it is only passed over.
    if still && behind_mark(held).is_ok_and(|bytes| bytes > 1) {
        return Err(Refusal::passing(
            "TCP connection within the program with a byte out of band amid what was not read yet",
            "that byte was read, but what was sent behind it cannot be looked at before what was sent ahead of it is read",
            "try again in a moment, when the program has read up to there",
        ));
    }
    Ok(())
}

/// How many bytes wait from an urgent one on: those that are counted only if it is a byte like others (tcp_inq,
/// net/ipv4/tcp.c).
fn behind_mark(held: &Held) -> Result<u64> {
    let (level, inline) = (libc::SOL_SOCKET, libc::SO_OOBINLINE);
    if int_option(&held.fd, level, inline)? != 0 || !anything_waits(held) {
        return Ok(0);
    }
    let put_back = || set_int_option(&held.fd, level, inline, 0);
    let before = rustix::io::ioctl_fionread(&held.fd)?;
    let undo = Undo::armed(|| _ = put_back())?;
    set_int_option(&held.fd, level, inline, 1)?;
    let all = rustix::io::ioctl_fionread(&held.fd);
    put_back()?;
    undo.disarm();
    Ok(all?.saturating_sub(before))
}

/// Whether anything is in the queue of a socket: what it takes in memory, the first of SO_MEMINFO (Linux 4.12;
/// sk_get_meminfo, net/core/sock.c), is given back with the last of it. So it is taken for granted where that is not told.
fn anything_waits(held: &Held) -> bool {
    const SO_MEMINFO: i32 = 55;
    let mut words = [0u8; 36];
    option(&held.fd, libc::SOL_SOCKET, SO_MEMINFO, &mut words).is_err() || words[..4] != [0; 4]
}

/// Whether an address is one of this machine: it can be bound, to a port that the kernel chooses.
fn is_local(address: SocketAddr) -> bool {
    frost_sys::network::is_local(address.ip())
}

/// Reads what waits at `to` and what `from` has still to send; and whether `to` was shut down for reading and writing.
fn direction(from: &Held, to: &Held, still: bool) -> std::result::Result<(Vec<u8>, bool, bool), Refusal> {
    let refuse = |what: &str, reason: &str, remedy: &str| Err(Refusal::new(what, reason, remedy));
    let start = Instant::now();
    let (receiver, missing) = loop {
        let (Some(sender), Some(receiver)) = (Passed::of(from), Passed::of(to)) else {
            return refuse(
                "TCP connection within the program",
                "this kernel does not tell how much was sent by it",
                "freeze it on Linux 4.19 or later",
            );
        };
        // The end of a stream takes one number too, and is counted with what was received.
        let received = receiver.received - u64::from(receiver.is_at_end() && receiver.received > sender.sent);
        let missing = (sender.sent + sender.not_sent).saturating_sub(received);
        if missing == 0 || (!still && may_repair()) || start.elapsed() > PATIENCE {
            break (receiver, missing);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    urgent(to, still)?;
    let failed = "TCP connection within the program whose queue changed";
    let mut queue = match peek(to) {
        Ok(queue) => queue,
        // It runs on, and reads meanwhile.
        Err(_) if !still => Vec::new(),
        Err(_) => {
            return Err(Refusal::passing(failed, "what waits in it could not be read", "try again"));
        }
    };
    if missing != 0 && (still || !may_repair()) {
        match unsent(from, missing) {
            Ok(rest) => queue.extend(rest),
            Err(_) => {
                return Err(Refusal::passing(
                    "TCP connection within the program whose receiver does not read",
                    "what its sender has still to send is shown to root only",
                    "freeze it as root, or try again when more was read",
                ));
            }
        }
    }
    let events = pipe::events(&to.fd);
    let shut_read = events.contains(PollFlags::RDHUP) && !receiver.is_at_end();
    Ok((queue, shut_read, receiver.has_ended()))
}

/// Whether we have CAP_NET_ADMIN (12).
fn may_repair() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|set| set & (1 << 12) != 0)
}

/// Looks at all that waits to be read.
fn peek(held: &Held) -> Result<Vec<u8>> {
    // Where looking begins, if the program set that (Linux 6.10).
    let from = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).unwrap_or(-1);
    let put_back = || set_int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, from);
    let mut undo = None;
    if from >= 0 {
        undo = Some(Undo::armed(|| _ = put_back())?);
        set_int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, -1)?;
    }
    let waiting = rustix::io::ioctl_fionread(&held.fd)? as usize;
    let mut queue = vec![0u8; waiting + 1];
    let got = match recv(&held.fd, &mut queue[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, got)) => Ok(got),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(error) => Err(error),
    };
    if let Some(undo) = undo {
        put_back()?;
        undo.disarm();
    }
    let got = got?;
    if got != waiting {
        return Err(rustix::io::Errno::IO);
    }
    queue.truncate(got);
    Ok(queue)
}

/// Reads the last `missing` bytes of what a socket has still to send, or to send again.
fn unsent(held: &Held, missing: u64) -> Result<Vec<u8>> {
    const TCP_REPAIR: i32 = 19;
    const TCP_REPAIR_QUEUE: i32 = 20;
    const TCP_SEND_QUEUE: i32 = 2;
    /// Ends it without a probe of the receiver's window.
    const OFF_NO_PROBE: i32 = -1;
    let tcp = libc::IPPROTO_TCP;
    let (level, reuse) = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
    // Set to zero behind our back at the end of it (do_tcp_setsockopt).
    let before = int_option(&held.fd, level, reuse)?;
    let put_back = || {
        let ended = set_int_option(&held.fd, tcp, TCP_REPAIR, OFF_NO_PROBE);
        set_int_option(&held.fd, level, reuse, before).and(ended)
    };
    // A connection that stays in this state sends and receives nothing any more.
    let undo = Undo::armed(|| _ = put_back())?;
    set_int_option(&held.fd, tcp, TCP_REPAIR, 1)?;
    frost_sys::fault::point("freeze.repair")?;
    let mut queue = vec![0u8; 64 << 20];
    let got = set_int_option(&held.fd, tcp, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
        .and_then(|()| recv(&held.fd, &mut queue[..], RecvFlags::PEEK | RecvFlags::DONTWAIT));
    put_back()?;
    undo.disarm();
    let (_, got) = got?;
    let from = got.checked_sub(missing as usize).ok_or(rustix::io::Errno::IO)?;
    Ok(queue[from..got].to_vec())
}
