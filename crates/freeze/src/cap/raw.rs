//! Raw and ping sockets.

use super::recognise::Refusal;
use super::{Error, Held, tcp};
use frost_model::cap::{Capability, RawSocket};
use frost_sys::network;
use frost_sys::sock::int_option;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

/// Decides whether we may make such a socket too: to compare its options with, and at thaw.
pub(super) fn recognise(held: &Held, what: &str) -> Result<(), Refusal> {
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).unwrap_or(0) as u32;
    let family = AddressFamily::from_raw(fact(libc::SO_DOMAIN) as u16);
    let kind = SocketType::from_raw(fact(libc::SO_TYPE));
    let protocol = NonZeroU32::new(fact(libc::SO_PROTOCOL)).map(Protocol::from_raw);
    match network::socket(family, kind, protocol) {
        Err(Errno::PERM | Errno::ACCESS) => Err(Refusal::new(
            format!("{what} socket"),
            "you may not make one, and a thaw has to",
            "freeze and thaw it as root, or widen net.ipv4.ping_group_range for ping sockets",
        )),
        _ => Ok(()),
    }
}

/// Captures a raw or ping socket. What waits in it is lost, as the network may lose it.
pub(super) fn capture(held: &Held) -> Result<Capability, Error> {
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).map_err(|error| held.error(error));
    let raw = fact(libc::SO_TYPE)? == libc::SOCK_RAW;
    let inet = tcp::inet(held, if raw { SocketType::RAW } else { SocketType::DGRAM })?;
    let table = match (raw, inet.v6) {
        (true, false) => "raw",
        (true, true) => "raw6",
        (false, false) => "icmp",
        (false, true) => "icmp6",
    };
    // getpeername(2) knows of no peer that has no port (inet_getname, net/ipv4/af_inet.c).
    let table = frost_sys::proc::read(held.place.pid.raw(), &format!("net/{table}")).unwrap_or_default();
    let peer = peer(&String::from_utf8_lossy(&table), held.stat.st_ino).map(|ip| SocketAddr::new(ip, 0));
    Ok(Capability::Raw(RawSocket { inet, raw, peer }))
}

/// Finds the peer of a socket in `/proc/net/raw` and its like: sl, local and remote address, state, ..., inode.
fn peer(table: &str, inode: u64) -> Option<IpAddr> {
    let inode = inode.to_string();
    let lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let fields = lines.into_iter().find(|fields| fields.get(9) == Some(&inode.as_str()))?;
    // TCP_ESTABLISHED is what a connected one is said to be.
    if fields[3] != "01" {
        return None;
    }
    let (address, _port) = fields[2].split_once(':')?;
    // Words of 32 bits in the order of this machine, each of bytes in the order of the network.
    let words = address.as_bytes().chunks_exact(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<[u8; 4]>>>()?.concat();
    match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
        Err(_) => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_that_of_the_inode_and_only_if_connected() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     \x20  1: 00000000:0001 0100007F:0000 01 00000000:00000000 00:00000000 00000000     0        0 77 2 0000000000000000 0\n\
                     \x20  1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 78 2 0000000000000000 0\n";
        assert_eq!(peer(table, 77), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(peer(table, 78), None);
        assert_eq!(peer(table, 79), None);
        let table = " 58: 00000000000000000000000000000000:003A 00000000000000000000000001000000:0000 01 00000000:00000000 00:00000000 00000000 0 0 5 2 0000000000000000 0\n";
        assert_eq!(peer(table, 5), Some("::1".parse().unwrap()));
    }
}
