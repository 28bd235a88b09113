//! What a socket holds that the kernel does not give back: messages about what was sent, keys, leases, routes.

use super::recognise::{CLOSE_FIRST, Refusal};
use super::{Held, options, pipe};
use frost_sys::network;
use frost_sys::sock::{int_option, option, set_option};
use frost_sys::sock_options;
use rustix::event::PollFlags;

const SOCKET: i32 = libc::SOL_SOCKET;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;

/// The options by which messages come into the queue of errors, as numbered in include/uapi/asm-generic/socket.h, linux/in.h and
/// in6.h: SO_TIMESTAMPING, SO_WIFI_STATUS, SO_ZEROCOPY, SO_TXTIME, IP_RECVERR, IPV6_RECVERR.
///
/// Who turns IP_RECVERR off empties the queue (do_ip_setsockopt, net/ipv4/ip_sockglue.c).
const ASKING: [(i32, i32); 6] =
    [(SOCKET, 37), (SOCKET, 41), (SOCKET, SO_ZEROCOPY), (SOCKET, SO_TXTIME), (IP, 11), (IPV6, 25)];
const SO_ZEROCOPY: i32 = 60;
const SO_TXTIME: i32 = 61;

/// Refuses a socket in whose queue of errors (MSG_ERRQUEUE) something waits.
pub(super) fn nothing_told(held: &Held) -> Result<(), Refusal> {
    // Who reads there takes what is read, MSG_PEEK or not (ip_recv_error, net/ipv4/ip_sockglue.c). An event tells of it, or of an
    // error that came with it (datagram_poll, net/core/datagram.c; tcp_poll, net/ipv4/tcp.c).
    if pipe::events(&held.fd).contains(PollFlags::ERR)
        && ASKING.iter().any(|(level, name)| is_set(held, *level, *name))
    {
        return Err(Refusal::passing(
            "socket with a message about what it sent that was not read yet",
            "what waits in its queue of errors (MSG_ERRQUEUE) cannot be looked at without taking it from the program",
            "try again in a moment, when the program has read it",
        ));
    }
    Ok(())
}

/// Whether an option is not zero; of SO_TXTIME the flags, which come behind a clock.
fn is_set(held: &Held, level: i32, name: i32) -> bool {
    let mut value = [0u8; 8];
    let from = if (level, name) == (SOCKET, SO_TXTIME) { 4 } else { 0 };
    option(&held.fd, level, name, &mut value).is_ok() && value[from..].iter().any(|byte| *byte != 0)
}

/// Finds those of `sockets`, by the index of their descriptions, that hold something else which cannot be carried.
pub(super) fn find<'a>(sockets: impl Iterator<Item = (usize, &'a Held)>) -> Vec<(usize, Refusal)> {
    let mut leased = None;
    let mut refusals = Vec::new();
    for (index, held) in sockets {
        let fact = |name| int_option(&held.fd, SOCKET, name).unwrap_or(-1);
        let domain = fact(libc::SO_DOMAIN);
        if !matches!(domain, libc::AF_INET | libc::AF_INET6) {
            continue;
        }
        let refusal = match (fact(libc::SO_TYPE), fact(libc::SO_PROTOCOL)) {
            (libc::SOCK_STREAM, _) => keys(held),
            (libc::SOCK_RAW, libc::IPPROTO_IGMP | libc::IPPROTO_ICMPV6) => router(domain),
            _ => None,
        };
        let lease = || match domain {
            libc::AF_INET6 => lease(held, leased.get_or_insert_with(leased_labels)),
            _ => None,
        };
        refusals.extend(refusal.or_else(lease).map(|refusal| (index, refusal)));
    }
    refusals
}

/// Refuses a TCP socket that takes more memory for options than those take that can be read.
fn keys(held: &Held) -> Option<Refusal> {
    // Each key is counted there (tcp_md5_do_add, net/ipv4/tcp_ipv4.c; tcp_ao_key_alloc, net/ipv4/tcp_ao.c), and each send with
    // MSG_ZEROCOPY until it is done and told (msg_zerocopy_alloc, net/core/skbuff.c).
    let own = memory_of_options(&held.fd).filter(|bytes| *bytes > 0)?;
    if own <= memory_of_twin(held)? {
        return None;
    }
    Some(if is_set(held, SOCKET, SO_ZEROCOPY) {
        Refusal::passing(
            "TCP socket with sends by MSG_ZEROCOPY that are not done yet",
            "the kernel would have to tell the program later when each of them is",
            "try again in a moment, when its peer has received more",
        )
    } else {
        Refusal::new(
            "TCP socket with keys (TCP_MD5SIG, TCP_AO)",
            "it takes memory for more options than the kernel gives back, as it does not give back keys",
            CLOSE_FIRST,
        )
    })
}

/// How much memory a socket takes for options: SK_MEMINFO_OPTMEM, the seventh of SO_MEMINFO (Linux 4.12; sk_get_meminfo,
/// net/core/sock.c).
fn memory_of_options(socket: impl rustix::fd::AsFd) -> Option<u32> {
    const SO_MEMINFO: i32 = 55;
    let mut words = [0u8; 36];
    let told = option(socket, SOCKET, SO_MEMINFO, &mut words).ok()?;
    (told >= 28).then(|| words[24..28].try_into().map_or(0, u32::from_ne_bytes))
}

/// The same of a new socket with those options that take some: a filter and headers of IPv6. `None` if they cannot be set.
fn memory_of_twin(held: &Held) -> Option<u32> {
    /// SO_ATTACH_FILTER; IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR and IPV6_DSTOPTS.
    const TAKING: [(i32, i32); 5] = [(SOCKET, 26), (IPV6, 54), (IPV6, 55), (IPV6, 57), (IPV6, 59)];
    let twin = options::new_of_kind(&held.fd).ok()?;
    let usual = sock_options::Usual::of(&twin);
    let values = usual.differing(&held.fd);
    let taking = values.iter().filter(|(level, name, _)| TAKING.contains(&(*level, *name)));
    let failed =
        sock_options::set_all(&twin, taking.map(|(level, name, value)| (*level, *name, value.as_slice())));
    memory_of_options(&twin).filter(|_| failed.is_empty())
}

/// Refuses what may be the socket of a multicast router (MRT_INIT): there is one in the network, whose socket is one like this.
fn router(domain: i32) -> Option<Refusal> {
    let family = rustix::net::AddressFamily::from_raw(domain as u16);
    network::forwards_multicast(family).unwrap_or(false).then(|| {
        Refusal::new(
            "raw socket of a multicast router (MRT_INIT)",
            "its interfaces and routes end with it",
            "let the program end its routing first (MRT_DONE)",
        )
    })
}

/// The labels of flows that somebody in the network has leased.
fn leased_labels() -> Vec<u32> {
    let table = network::table("ip6_flowlabel").unwrap_or_default();
    // The first of each line, behind a headline (ip6fl_seq_show, net/ipv6/ip6_flowlabel.c).
    let labels = table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
    labels.filter_map(|label| u32::from_str_radix(label, 16).ok()).collect()
}

/// Refuses a socket that has leased one of these labels.
fn lease(held: &Held, labels: &[u32]) -> Option<Refusal> {
    const IPV6_FLOWLABEL_MGR: i32 = 32;
    const IPV6_FL_A_RENEW: u8 = 2;
    const IPV6_FL_S_EXCL: u8 = 1;
    let has_leased = |label: &u32| {
        // `struct in6_flowlabel_req` (include/uapi/linux/in6.h). To renew a lease for no time changes nothing about it, and
        // is an error for who has none (ipv6_flowlabel_renew and fl6_renew, net/ipv6/ip6_flowlabel.c).
        let mut request = [0u8; 32];
        request[16..20].copy_from_slice(&label.to_be_bytes());
        (request[20], request[21]) = (IPV6_FL_A_RENEW, IPV6_FL_S_EXCL);
        set_option(&held.fd, IPV6, IPV6_FLOWLABEL_MGR, &request).is_ok()
    };
    labels.iter().any(has_leased).then(|| {
        Refusal::new(
            "socket with a label of flows (IPV6_FLOWLABEL_MGR)",
            "its lease ends with it, and somebody else may get it",
            "let the program give it back first (IPV6_FL_A_PUT)",
        )
    })
}
