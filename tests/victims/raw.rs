//! Raw and ping sockets, for those who may make them.

use crate::Victim;
use crate::call::zeroed;
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("raw_icmp", raw),
    ("raw_connected", connected),
    ("raw_v6", v6),
    ("raw_ping", ping),
    ("raw_router", router),
    ("raw_waiting", waiting),
];

const LEN: u32 = size_of::<libc::sockaddr_in>() as u32;

/// Makes such a socket; none where that is a right of root, or the kernel has it not.
fn socket(domain: i32, kind: i32, protocol: i32) -> Option<i32> {
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        eprintln!("skipped: {}", std::io::Error::last_os_error());
    }
    (fd >= 0).then_some(fd)
}

fn loopback() -> libc::sockaddr_in {
    let mut address: libc::sockaddr_in = zeroed();
    address.sin_family = libc::AF_INET as u16;
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    address
}

/// Sends an echo request with a number and waits for its answer, which a raw socket gets beside the request.
fn echo(fd: i32, identifier: u16, number: u16) -> Verdict {
    let mut request = [8u8, 0, 0, 0, 0, 0, 0, 0];
    request[4..6].copy_from_slice(&identifier.to_be_bytes());
    request[6..8].copy_from_slice(&number.to_be_bytes());
    let sum =
        request.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    let to = loopback();
    sys!(sendto(fd, request.as_ptr().cast(), 8, 0, std::ptr::from_ref(&to).cast(), LEN))?;
    for _ in 0..1000 {
        let mut bytes = [0u8; 128];
        let got = sys!(recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0))? as usize;
        // A raw socket gets the header of IP too, of 20 bytes; a ping socket does not, and has its own identifier.
        let message = if bytes[0] == 0x45 && got >= 28 { &bytes[20..28] } else { &bytes[..8] };
        if message[0] == 0 && message[6..8] == number.to_be_bytes() {
            return Ok(());
        }
    }
    Err("no answer among a thousand packets".to_owned())
}

fn int(fd: i32, level: i32, name: i32) -> Result<i32, String> {
    let (mut value, mut len) = (0i32, 4);
    sys!(getsockopt(fd, level, name, std::ptr::from_mut(&mut value).cast(), &mut len))?;
    Ok(value)
}

fn set(fd: i32, level: i32, name: i32, value: i32) -> Verdict {
    sys!(setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), 4))?;
    Ok(())
}

/// With a filter that lets answers through and nothing else.
fn raw(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) else {
        return stage.freeze_here();
    };
    // SOL_RAW, ICMP_FILTER.
    set(fd, 255, 1, !1)?;
    set(fd, libc::IPPROTO_IP, libc::IP_TTL, 9)?;
    echo(fd, 77, 1)?;
    stage.freeze_here()?;
    same!((int(fd, 255, 1)?, int(fd, libc::IPPROTO_IP, libc::IP_TTL)?), (!1, 9), "its filter and its TTL");
    echo(fd, 77, 2)
}

/// Connected and bound, without a port by which that could be seen.
fn connected(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::AF_INET, libc::SOCK_RAW, 253) else { return stage.freeze_here() };
    let Some(other) = socket(libc::AF_INET, libc::SOCK_RAW, 253) else { return stage.freeze_here() };
    let address = loopback();
    let pointer = std::ptr::from_ref(&address).cast();
    sys!(bind(fd, pointer, LEN))?;
    sys!(connect(fd, pointer, LEN))?;
    stage.freeze_here()?;
    same!(sys!(send(fd, b"hello".as_ptr().cast(), 5, 0))?, 5, "bytes sent to whom it is connected");
    let mut bytes = [0u8; 64];
    same!(sys!(recv(other, bytes.as_mut_ptr().cast(), 64, 0))?, 25, "a header and what was sent");
    same!(&bytes[20..25], b"hello", "what came through");
    Ok(())
}

fn v6(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::AF_INET6, libc::SOCK_RAW, 253) else { return stage.freeze_here() };
    // IPV6_CHECKSUM at SOL_RAW, IPV6_RECVHOPLIMIT.
    set(fd, 255, 7, 4)?;
    set(fd, libc::IPPROTO_IPV6, 51, 1)?;
    stage.freeze_here()?;
    same!((int(fd, 255, 7)?, int(fd, libc::IPPROTO_IPV6, 51)?), (4, 1), "its options");
    Ok(())
}

/// An ordinary user's echo requests: allowed to groups of net.ipv4.ping_group_range.
fn ping(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP) else {
        return stage.freeze_here();
    };
    echo(fd, 0, 1)?;
    let name = || {
        let (mut found, mut len) = (loopback(), LEN);
        sys!(getsockname(fd, std::ptr::from_mut(&mut found).cast(), &mut len))?;
        Ok::<_, String>(found.sin_port)
    };
    let before = name()?;
    stage.freeze_here()?;
    if !stage.was_copied() {
        same!(name()?, before, "its identifier");
    }
    echo(fd, 0, 2)
}

/// That of a multicast router, of which there is one in a network.
fn router(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_IGMP) else {
        return stage.freeze_here();
    };
    // MRT_INIT.
    crate::call::until("there is no other", || set(fd, libc::IPPROTO_IP, 200, 1).is_ok())?;
    stage.freeze_here()?;
    // MRT_DONE, which only the router can.
    set(fd, libc::IPPROTO_IP, 201, 0)
}

/// One in which a packet waits.
fn waiting(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) else {
        return stage.freeze_here();
    };
    let to = loopback();
    // It hears itself, whatever that is worth to others.
    sys!(sendto(fd, [13u8; 8].as_ptr().cast(), 8, 0, std::ptr::from_ref(&to).cast(), LEN))?;
    let mut poll = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    same!(sys!(poll(poll.as_mut_ptr(), 1, 60_000))?, 1, "what waits");
    stage.freeze_here()
}
