//! Packet sockets, for those who may make them.

use crate::Victim;
use crate::call::zeroed;
use crate::stage::{Stage, Verdict};
use std::net::UdpSocket;

pub(crate) const VICTIMS: &[Victim] = &[
    ("packet_bound", bound),
    ("packet_unbound", unbound),
    ("packet_memberships", memberships),
    ("packet_waiting", waiting),
];

const SOL_PACKET: i32 = 263;
/// ETH_P_IP.
const IP: u16 = 0x0800;

/// Makes such a socket; none where that is a right of root.
fn socket(kind: i32) -> Option<i32> {
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        eprintln!("skipped: {}", std::io::Error::last_os_error());
    }
    (fd >= 0).then_some(fd)
}

fn address() -> Result<libc::sockaddr_ll, String> {
    let mut address: libc::sockaddr_ll = zeroed();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = IP.to_be();
    address.sll_ifindex = unsafe { libc::if_nametoindex(c"lo".as_ptr()) } as i32;
    check!(address.sll_ifindex != 0, "there is no interface lo");
    Ok(address)
}

fn name(fd: i32) -> Result<(u16, i32), String> {
    let mut found: libc::sockaddr_ll = zeroed();
    let mut len = size_of::<libc::sockaddr_ll>() as u32;
    sys!(getsockname(fd, std::ptr::from_mut(&mut found).cast(), &mut len))?;
    Ok((u16::from_be(found.sll_protocol), found.sll_ifindex))
}

fn int(fd: i32, name: i32) -> Result<i32, String> {
    let (mut value, mut len) = (0i32, 4);
    sys!(getsockopt(fd, SOL_PACKET, name, std::ptr::from_mut(&mut value).cast(), &mut len))?;
    Ok(value)
}

/// One that sees what is sent over the loopback interface.
fn bound(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::SOCK_DGRAM) else { return stage.freeze_here() };
    let address = address()?;
    let len = size_of::<libc::sockaddr_ll>() as u32;
    sys!(bind(fd, std::ptr::from_ref(&address).cast(), len))?;
    let one = 1;
    // PACKET_AUXDATA.
    sys!(setsockopt(fd, SOL_PACKET, 8, std::ptr::from_ref(&one).cast(), 4))?;
    let before = name(fd)?;
    stage.freeze_here()?;
    same!(name(fd)?, before, "its protocol and interface");
    same!(int(fd, 8)?, 1, "PACKET_AUXDATA");
    let udp = UdpSocket::bind("127.0.0.1:0").map_err(|why| why.to_string())?;
    let word = format!("to be seen by {}", unsafe { libc::getpid() });
    let to = udp.local_addr().map_err(|why| why.to_string())?;
    udp.send_to(word.as_bytes(), to).map_err(|why| why.to_string())?;
    for _ in 0..10_000 {
        let mut bytes = [0u8; 2048];
        let got = sys!(recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0))? as usize;
        if bytes[..got].ends_with(word.as_bytes()) {
            return Ok(());
        }
    }
    Err("it does not see what is sent".to_owned())
}

fn unbound(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::SOCK_RAW) else { return stage.freeze_here() };
    stage.freeze_here()?;
    same!(name(fd)?, (0, 0), "its protocol and interface");
    let mut byte = [0u8; 1];
    let got = unsafe { libc::recv(fd, byte.as_mut_ptr().cast(), 1, libc::MSG_DONTWAIT) };
    check!(got == -1, "it receives something");
    Ok(())
}

/// A group of the link layer that was joined twice, so that it is left when that was taken back twice.
fn memberships(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::SOCK_RAW) else { return stage.freeze_here() };
    let mut request: libc::packet_mreq = zeroed();
    request.mr_ifindex = address()?.sll_ifindex;
    request.mr_type = libc::PACKET_MR_MULTICAST as u16;
    request.mr_alen = 6;
    // Nobody else's: of this process.
    request.mr_address[..2].copy_from_slice(&[0x33, 0x07]);
    request.mr_address[2..6].copy_from_slice(&unsafe { libc::getpid() }.to_be_bytes());
    let group: String = request.mr_address[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let is_member = || std::fs::read_to_string("/proc/net/dev_mcast").unwrap_or_default().contains(&group);
    let len = size_of::<libc::packet_mreq>() as u32;
    let request = std::ptr::from_ref(&request).cast();
    for _ in 0..2 {
        sys!(setsockopt(fd, SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, request, len))?;
    }
    check!(is_member(), "it is no member before");
    stage.freeze_here()?;
    check!(is_member(), "it is no member any more");
    let leave = || sys!(setsockopt(fd, SOL_PACKET, libc::PACKET_DROP_MEMBERSHIP, request, len));
    leave()?;
    check!(is_member(), "it had asked once only");
    leave()?;
    check!(!is_member(), "it had asked more than twice");
    Ok(())
}

/// One in which a packet waits.
fn waiting(stage: &Stage) -> Verdict {
    let Some(fd) = socket(libc::SOCK_DGRAM) else { return stage.freeze_here() };
    let address = address()?;
    let len = size_of::<libc::sockaddr_ll>() as u32;
    sys!(bind(fd, std::ptr::from_ref(&address).cast(), len))?;
    let udp = UdpSocket::bind("127.0.0.1:0").map_err(|why| why.to_string())?;
    let to = udp.local_addr().map_err(|why| why.to_string())?;
    udp.send_to(b"to be seen", to).map_err(|why| why.to_string())?;
    let mut poll = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    same!(sys!(poll(poll.as_mut_ptr(), 1, 60_000))?, 1, "what waits");
    stage.freeze_here()
}
