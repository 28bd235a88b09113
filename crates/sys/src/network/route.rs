//! What rtnetlink(7) and its like tell of a network namespace: lists of messages with attributes.

use rustix::fd::OwnedFd;
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;

/// A message: the fixed part of its body, and the attributes behind it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) fixed: Vec<u8>,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Told {
    /// Returns an attribute.
    pub(super) fn attribute(&self, number: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(kind, _)| *kind == number).map(|(_, value)| value.as_slice())
    }

    /// Returns an attribute that is a number.
    pub(super) fn word(&self, number: u16) -> Option<u32> {
        self.attribute(number).map(|value| word(value, 0))
    }

    /// Returns an attribute that is a text with a zero behind it.
    pub(super) fn text(&self, number: u16) -> Option<String> {
        let value = self.attribute(number)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(value.get(..end)?).into_owned())
    }

    /// Returns the attributes within an attribute.
    pub(super) fn inside(&self, number: u16) -> Option<Self> {
        self.attribute(number).map(|value| Self { fixed: Vec::new(), attributes: attributes(value) })
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|half| half.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

fn attributes(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    while rest.len() >= 4 {
        let length = usize::from(half(rest, 0)).clamp(4, rest.len());
        // NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of the number.
        found.push((half(rest, 2) & 0x3fff, rest.get(4..length).unwrap_or_default().to_vec()));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn netlink(protocol: u32) -> Result<OwnedFd> {
    let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    // struct nlmsghdr: length, type, flags, sequence, port.
    let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

/// Asks for all there is of a kind; each answer has `fixed` bytes before its attributes.
pub(super) fn list(protocol: u32, kind: u16, body: &[u8], fixed: usize) -> Result<Vec<Told>> {
    let socket = netlink(protocol)?;
    send(&socket, &message(kind, REQUEST | DUMP, body), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while rest.len() >= 16 {
            let length = (word(rest, 0) as usize).clamp(16, rest.len());
            let body = rest.get(16..length).unwrap_or_default();
            match half(rest, 4) {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(Errno::from_raw_os_error((word(body, 0) as i32).wrapping_neg())),
                _ if body.len() >= fixed => {
                    let (fixed, rest) = body.split_at(fixed);
                    found.push(Told { fixed: fixed.to_vec(), attributes: attributes(rest) });
                }
                _ => return Err(Errno::BADMSG),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Asks a socket for one thing; its answer has `fixed` bytes before its attributes.
pub(super) fn one(socket: &OwnedFd, kind: u16, body: &[u8], fixed: usize) -> Result<Told> {
    send(socket, &message(kind, REQUEST, body), SendFlags::empty())?;
    let mut buffer = [0u8; 4096];
    let (len, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    let answer = buffer.get(..len).unwrap_or_default();
    match (half(answer, 4), answer.get(16..).and_then(|body| body.split_at_checked(fixed))) {
        (NLMSG_ERROR, _) => Err(Errno::from_raw_os_error((word(answer, 16) as i32).wrapping_neg())),
        (_, Some((fixed, rest))) => Ok(Told { fixed: fixed.to_vec(), attributes: attributes(rest) }),
        (_, None) => Err(Errno::BADMSG),
    }
}

/// Asks the kernel to do something.
pub(super) fn order(protocol: u32, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
    let socket = netlink(protocol)?;
    send(&socket, &message(kind, REQUEST | ACK | flags, body), SendFlags::empty())?;
    let mut buffer = [0u8; 4096];
    let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    let answer = buffer.get(..len).unwrap_or_default();
    match (half(answer, 4), (word(answer, 16) as i32).wrapping_neg()) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, errno) => Err(Errno::from_raw_os_error(errno)),
        _ => Err(Errno::BADMSG),
    }
}

/// Appends an attribute.
pub(super) fn append(body: &mut Vec<u8>, number: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(number.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
