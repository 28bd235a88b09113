//! Multicast memberships of a socket, found by asking for each group that somebody on this machine has joined.
//!
//! The kernel does not list the groups of a socket, but tells the source filter of one that is asked for
//! (MCAST_MSFILTER), and EADDRNOTAVAIL where the socket is no member (ip_mc_gsfget, net/ipv4/igmp.c).

use crate::sock::{option, set_option};
use rustix::fd::AsFd;
use rustix::io::{Errno, Result};

/// MCAST_JOIN_GROUP and MCAST_MSFILTER of include/uapi/linux/in.h, the same for both versions of IP.
const JOIN_GROUP: i32 = 42;
/// The option by which a membership is told.
pub(crate) const MSFILTER: i32 = 48;

// struct group_filter: interface, (padding,) group as struct sockaddr_storage, mode, number of sources, sources.
const GROUP_AT: usize = 8;
const STORAGE_BYTES: usize = 128;
const MODE_AT: usize = GROUP_AT + STORAGE_BYTES;
const COUNT_AT: usize = MODE_AT + 4;
const HEADER_BYTES: usize = COUNT_AT + 4;
/// The most sources that are asked for: net.ipv4.igmp_max_msf is 10 by default.
const MOST_SOURCES: usize = 64;

/// The groups that anybody has joined in a network.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    v4: Vec<(u32, Vec<u8>)>,
    v6: Vec<(u32, Vec<u8>)>,
}

impl Groups {
    /// Reads the groups that sockets of a domain can be members of: none, if it is no internet domain.
    #[must_use]
    pub fn read(domain: i32) -> Self {
        match domain {
            libc::AF_INET => Self { v4: groups_v4(), v6: Vec::new() },
            // Which can be members of both.
            libc::AF_INET6 => Self { v4: groups_v4(), v6: groups_v6() },
            _ => Self::default(),
        }
    }

    /// Returns the memberships of a socket at one level, each as its `struct group_filter`.
    pub fn joined(&self, socket: impl AsFd, level: i32) -> Vec<Vec<u8>> {
        let groups = if level == libc::IPPROTO_IPV6 { &self.v6 } else { &self.v4 };
        let ask = |(interface, group): &(u32, Vec<u8>)| {
            let mut filter = vec![0u8; HEADER_BYTES + MOST_SOURCES * STORAGE_BYTES];
            filter[..4].copy_from_slice(&interface.to_ne_bytes());
            filter[GROUP_AT..GROUP_AT + group.len()].copy_from_slice(group);
            filter[COUNT_AT..HEADER_BYTES].copy_from_slice(&(MOST_SOURCES as u32).to_ne_bytes());
            option(socket.as_fd(), level, MSFILTER, &mut filter).ok()?;
            let count = filter[COUNT_AT..HEADER_BYTES].try_into().map_or(0, u32::from_ne_bytes) as usize;
            filter.truncate(HEADER_BYTES + count.min(MOST_SOURCES) * STORAGE_BYTES);
            Some(filter)
        };
        groups.iter().filter_map(ask).collect()
    }
}

/// Joins a group as [`Groups::joined`] told it.
///
/// # Errors
/// ENODEV if there is no such interface, EINVAL for bytes that are no such structure.
pub fn join(socket: impl AsFd, level: i32, filter: &[u8]) -> Result<()> {
    let socket = socket.as_fd();
    let request = filter.get(..MODE_AT).ok_or(Errno::INVAL)?;
    let rest = filter.get(HEADER_BYTES..).ok_or(Errno::INVAL)?;
    if !rest.len().is_multiple_of(STORAGE_BYTES) || rest.len() / STORAGE_BYTES > MOST_SOURCES {
        return Err(Errno::INVAL);
    }
    // struct group_req is the beginning of it.
    set_option(socket, level, JOIN_GROUP, request)?;
    let all_sources = filter[MODE_AT..COUNT_AT] == [0; 4] && rest.is_empty();
    if all_sources { Ok(()) } else { set_option(socket, level, MSFILTER, filter) }
}

/// Interface and address of each group of IPv4 in `/proc/net/igmp`: a line of an interface begins with its number, those
/// of its groups with a tab.
fn groups_v4() -> Vec<(u32, Vec<u8>)> {
    let text = crate::network::table("igmp").unwrap_or_default();
    let mut interface = 0;
    let mut groups = Vec::new();
    for line in text.lines().skip(1) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !line.starts_with('\t') {
            interface = first.parse().unwrap_or(0);
        } else if let Ok(group) = u32::from_str_radix(first, 16) {
            // struct sockaddr_in: family, port, address, which is printed as the number that it is in memory.
            let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            address.extend([0, 0]);
            address.extend(group.to_ne_bytes());
            groups.push((interface, address));
        }
    }
    groups
}

/// The same of IPv6, from `/proc/net/igmp6`: `2 eth0 ff020000000000000000000000000001 1 0000000C 0`.
fn groups_v6() -> Vec<(u32, Vec<u8>)> {
    let text = crate::network::table("igmp6").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?.parse().ok()?;
        let group = u128::from_str_radix(fields.nth(1)?, 16).ok()?;
        // struct sockaddr_in6: family, port, flow information, address, scope.
        let mut address = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
        address.extend([0; 6]);
        address.extend(group.to_be_bytes());
        address.extend([0; 4]);
        Some((interface, address))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};

    #[test]
    fn a_group_that_was_joined_is_found_and_joined_again() {
        let one = UdpSocket::bind("0.0.0.0:0").unwrap();
        let two = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(Groups::read(libc::AF_INET).joined(&one, libc::IPPROTO_IP), Vec::<Vec<u8>>::new());
        one.join_multicast_v4(&Ipv4Addr::new(239, 1, 2, 3), &Ipv4Addr::LOCALHOST).unwrap();
        let joined = Groups::read(libc::AF_INET).joined(&one, libc::IPPROTO_IP);
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0][GROUP_AT + 4..GROUP_AT + 8], [239, 1, 2, 3]);
        assert_eq!(Groups::read(libc::AF_INET).joined(&two, libc::IPPROTO_IP), Vec::<Vec<u8>>::new());
        join(&two, libc::IPPROTO_IP, &joined[0]).unwrap();
        assert_eq!(Groups::read(libc::AF_INET).joined(&two, libc::IPPROTO_IP), joined);
        assert_eq!(join(&two, libc::IPPROTO_IP, &joined[0][..20]), Err(Errno::INVAL));
    }
}
