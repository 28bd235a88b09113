//! Netlink sockets.

use crate::Victim;
use crate::call::{read_some, zeroed};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("netlink_route", route),
    ("netlink_groups", groups),
    ("netlink_unbound", unbound),
    ("netlink_filter", filter),
    ("netlink_unread", unread),
    ("netlink_generic", generic),
    ("netlink_audit", audit),
];

const SOL_NETLINK: i32 = 270;

fn socket(protocol: i32) -> Result<i32, String> {
    sys!(socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol))
}

fn address(port: u32, groups: u32) -> libc::sockaddr_nl {
    let mut address: libc::sockaddr_nl = zeroed();
    address.nl_family = libc::AF_NETLINK as u16;
    (address.nl_pid, address.nl_groups) = (port, groups);
    address
}

const LEN: u32 = size_of::<libc::sockaddr_nl>() as u32;

fn bind(fd: i32, groups: u32) -> Verdict {
    let address = address(0, groups);
    sys!(bind(fd, std::ptr::from_ref(&address).cast(), LEN))?;
    Ok(())
}

/// Port and groups.
fn name(fd: i32) -> Result<(u32, u32), String> {
    let (mut found, mut len) = (address(0, 0), LEN);
    sys!(getsockname(fd, std::ptr::from_mut(&mut found).cast(), &mut len))?;
    Ok((found.nl_pid, found.nl_groups))
}

/// Asks for all links: RTM_GETLINK (18) with NLM_F_REQUEST | NLM_F_DUMP.
fn ask(fd: i32) -> Verdict {
    let mut request = Vec::new();
    for word in [20u32, 18 | 0x301 << 16, 7, 0, 0] {
        request.extend(word.to_ne_bytes());
    }
    let kernel = address(0, 0);
    let kernel = std::ptr::from_ref(&kernel).cast();
    same!(sys!(sendto(fd, request.as_ptr().cast(), 20, 0, kernel, LEN))?, 20, "bytes of the request");
    Ok(())
}

/// Reads the whole answer; whether there was a link in it.
fn answer(fd: i32) -> Result<bool, String> {
    let mut links = 0;
    loop {
        let bytes = read_some(fd, 65536)?;
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let len = u32::from_ne_bytes(rest[..4].try_into().unwrap_or_default()) as usize;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                // NLMSG_DONE, NLMSG_ERROR, RTM_NEWLINK
                3 => return Ok(links > 0),
                2 => return Err("an error in place of an answer".to_owned()),
                16 => links += 1,
                _ => {}
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn route(stage: &Stage) -> Verdict {
    let fd = socket(0)?;
    bind(fd, 0)?;
    let before = name(fd)?;
    ask(fd)?;
    check!(answer(fd)?, "no link before");
    stage.freeze_here()?;
    if !stage.was_copied() {
        same!(name(fd)?, before, "its address");
    }
    ask(fd)?;
    check!(answer(fd)?, "no link after");
    Ok(())
}

fn groups(stage: &Stage) -> Verdict {
    let fd = socket(0)?;
    // Links and addresses by mask, RTNLGRP_NSID (28) and RTNLGRP_IPV6_MROUTE_R (31) by number.
    bind(fd, 0x11)?;
    for group in [28, 34] {
        sys!(setsockopt(fd, SOL_NETLINK, 1, std::ptr::from_ref(&group).cast(), 4))?;
    }
    let ext_ack = 1;
    sys!(setsockopt(fd, SOL_NETLINK, 11, std::ptr::from_ref(&ext_ack).cast(), 4))?;
    let memberships = || {
        let (mut words, mut len) = ([0u32; 8], 32);
        sys!(getsockopt(fd, SOL_NETLINK, 9, words.as_mut_ptr().cast(), &mut len))?;
        Ok::<_, String>(words)
    };
    let before = memberships()?;
    stage.freeze_here()?;
    same!(memberships()?, before, "the groups");
    let (mut value, mut len) = (0, 4);
    sys!(getsockopt(fd, SOL_NETLINK, 11, std::ptr::from_mut(&mut value).cast(), &mut len))?;
    same!(value, 1, "NETLINK_EXT_ACK");
    Ok(())
}

fn unbound(stage: &Stage) -> Verdict {
    let fd = socket(0)?;
    let kernel = address(0, 0);
    stage.freeze_here()?;
    same!(name(fd)?, (0, 0), "its address");
    sys!(connect(fd, std::ptr::from_ref(&kernel).cast(), LEN))?;
    ask(fd)?;
    check!(answer(fd)?, "no link");
    Ok(())
}

/// A packet filter that lets nothing through.
fn filter(stage: &Stage) -> Verdict {
    let fd = socket(0)?;
    bind(fd, 0)?;
    let mut nothing = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &mut nothing };
    let len = size_of::<libc::sock_fprog>() as u32;
    sys!(setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, std::ptr::from_ref(&program).cast(), len))?;
    stage.freeze_here()?;
    ask(fd)?;
    let mut byte = [0u8; 1];
    let got = unsafe { libc::recv(fd, byte.as_mut_ptr().cast(), 1, libc::MSG_DONTWAIT) };
    check!(got == -1, "something came through the filter");
    Ok(())
}

fn unread(stage: &Stage) -> Verdict {
    let fd = socket(0)?;
    bind(fd, 0)?;
    ask(fd)?;
    stage.freeze_here()?;
    check!(answer(fd)?, "no link");
    Ok(())
}

fn generic(stage: &Stage) -> Verdict {
    let fd = socket(16)?;
    bind(fd, 0)?;
    let before = name(fd)?;
    stage.freeze_here()?;
    same!(name(fd)?, before, "its address");
    Ok(())
}

/// One by which a server writes into the log of audits.
fn audit(stage: &Stage) -> Verdict {
    let Ok(fd) = socket(9) else {
        eprintln!("skipped: the kernel has no audits");
        return stage.freeze_here();
    };
    bind(fd, 0)?;
    let before = name(fd)?;
    stage.freeze_here()?;
    if !stage.was_copied() {
        same!(name(fd)?, before, "its address");
    }
    Ok(())
}
