//! All options of all sockets: whatever can be set is set, and what can be read must read the same afterwards.

use crate::Victim;
use crate::call::zeroed;
use crate::stage::{Stage, Verdict};
use std::collections::BTreeMap;

pub(crate) const VICTIMS: &[Victim] = &[
    ("options_unix", unix),
    ("options_tcp", tcp),
    ("options_udp", udp),
    ("options_netlink", netlink),
    ("options_raw", raw),
    ("options_owner", owner),
];

const SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;
/// SOL_SOCKET, IP, TCP, UDP, IPV6, ICMPV6, RAW, PACKET, NETLINK, MPTCP.
const LEVELS: [i32; 10] = [SOCKET, 0, TCP, 17, 41, 58, 255, 263, 270, 284];

/// What differs from socket to socket, tells of the traffic, or makes another thing of the socket when it is set.
const OTHERS: [(i32, i32); 26] = [
    (SOCKET, 4),  // SO_ERROR
    (SOCKET, 17), // SO_PEERCRED
    (SOCKET, 26), // SO_ATTACH_FILTER, in units of its own
    (SOCKET, 27), // SO_DETACH_FILTER
    (SOCKET, 31), // SO_PEERSEC
    (SOCKET, 44), // SO_LOCK_FILTER
    (SOCKET, 49), // SO_INCOMING_CPU
    (SOCKET, 50), // SO_ATTACH_BPF
    (SOCKET, 51), // SO_ATTACH_REUSEPORT_CBPF
    (SOCKET, 52), // SO_ATTACH_REUSEPORT_EBPF
    (SOCKET, 55), // SO_MEMINFO
    (SOCKET, 56), // SO_INCOMING_NAPI_ID
    (SOCKET, 57), // SO_COOKIE
    (SOCKET, 59), // SO_PEERGROUPS
    (SOCKET, 71), // SO_NETNS_COOKIE
    (SOCKET, 72), // SO_BUF_LOCK
    (SOCKET, 77), // SO_PEERPIDFD
    (41, 1),      // IPV6_ADDRFORM makes it one of IPv4
    (TCP, 11),    // TCP_INFO
    (TCP, 12),    // TCP_QUICKACK
    (TCP, 19),    // TCP_REPAIR
    (TCP, 24),    // TCP_TIMESTAMP
    (TCP, 26),    // TCP_CC_INFO
    (TCP, 10),    // TCP_WINDOW_CLAMP, when all else is set
    (TCP, 2),     // TCP_MAXSEG, likewise
    (263, 18),    // PACKET_FANOUT
];

fn get(fd: i32, level: i32, name: i32) -> Option<Vec<u8>> {
    let (mut value, mut len) = ([0u8; 512], 512u32);
    let got = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &mut len) };
    (got == 0).then(|| value[..len as usize].to_vec())
}

fn set(fd: i32, level: i32, name: i32, value: &[u8]) -> bool {
    unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as u32) == 0 }
}

fn options() -> impl Iterator<Item = (i32, i32)> {
    let all = LEVELS.into_iter().flat_map(|level| (0..130).map(move |name| (level, name)));
    all.filter(|option| !OTHERS.contains(option))
}

fn read(fd: i32) -> BTreeMap<(i32, i32), Vec<u8>> {
    options().filter_map(|(level, name)| Some(((level, name), get(fd, level, name)?))).collect()
}

/// Sets each option of one level to something that it is not.
fn change(fd: i32, level: i32) -> usize {
    let own = options().filter(|(of, _)| *of == level);
    own.filter(|(level, name)| {
        let Some(value) = get(fd, *level, *name) else { return false };
        [1i32, 0, 2, 7].iter().any(|candidate| {
            let mut new = value.clone();
            new.resize(new.len().max(4), 0);
            new[..4].copy_from_slice(&candidate.to_ne_bytes());
            set(fd, *level, *name, &new) && get(fd, *level, *name).is_some_and(|found| found != value)
        })
    })
    .count()
}

fn judge(stage: &Stage, kinds: &[(i32, i32, i32)]) -> Verdict {
    let mut sockets = Vec::new();
    // One for each level, so that a strange setting of one hides nothing of another.
    for (domain, kind, protocol) in kinds {
        for level in LEVELS {
            let fd = unsafe { libc::socket(*domain, *kind | libc::SOCK_CLOEXEC, *protocol) };
            if fd < 0 {
                eprintln!("skipped: {domain} {kind} {protocol}: {}", std::io::Error::last_os_error());
                continue;
            }
            if change(fd, level) == 0 {
                sys!(close(fd))?;
                continue;
            }
            sockets.push(((*domain, *kind, *protocol), level, fd, read(fd)));
        }
    }
    stage.freeze_here()?;
    for (kind, level, fd, before) in &sockets {
        let after = read(*fd);
        for (option, value) in before {
            same!(
                after.get(option),
                Some(value),
                "option {option:?} of socket {kind:?}, changed at level {level}"
            );
        }
    }
    Ok(())
}

fn unix(stage: &Stage) -> Verdict {
    judge(stage, &[(1, libc::SOCK_STREAM, 0), (1, libc::SOCK_DGRAM, 0), (1, libc::SOCK_SEQPACKET, 0)])
}

fn tcp(stage: &Stage) -> Verdict {
    judge(stage, &[(2, libc::SOCK_STREAM, 0), (10, libc::SOCK_STREAM, 0)])
}

fn udp(stage: &Stage) -> Verdict {
    let (dgram, lite) = (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE);
    judge(stage, &[(2, dgram, 0), (10, dgram, 0), (2, dgram, lite), (10, dgram, lite)])
}

fn netlink(stage: &Stage) -> Verdict {
    judge(stage, &[(16, libc::SOCK_RAW, 0)])
}

fn raw(stage: &Stage) -> Verdict {
    let raw = libc::SOCK_RAW;
    judge(stage, &[(2, raw, 1), (10, raw, 58), (10, raw, 253), (17, raw, 0)])
}

/// Whose a socket is, and its permissions, where they were changed and where not.
fn owner(stage: &Stage) -> Verdict {
    let node = |fd: i32| {
        let mut stat: libc::stat = zeroed();
        sys!(fstat(fd, &mut stat))?;
        Ok::<_, String>((stat.st_mode, stat.st_uid, stat.st_gid))
    };
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()))?;
    let mut sockets = pair.to_vec();
    for (family, kind) in [
        (libc::AF_UNIX, libc::SOCK_DGRAM),
        (libc::AF_INET, libc::SOCK_STREAM),
        (libc::AF_INET, libc::SOCK_DGRAM),
        (libc::AF_NETLINK, libc::SOCK_RAW),
    ] {
        sockets.push(sys!(socket(family, kind, 0))?);
        sockets.push(sys!(socket(family, kind, 0))?);
    }
    sys!(listen(sockets[4], 4))?;
    for fd in sockets.iter().step_by(2) {
        sys!(fchmod(*fd, 0o640))?;
        // Only root may give it away.
        if unsafe { libc::geteuid() } == 0 {
            sys!(fchown(*fd, 4711, 4712))?;
        }
    }
    let nodes = || sockets.iter().map(|fd| node(*fd)).collect::<Result<Vec<_>, _>>();
    let before = nodes()?;
    stage.freeze_here()?;
    same!(nodes()?, before, "mode, owner and group");
    Ok(())
}
