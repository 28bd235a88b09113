//! The protocol: packets between a component and whoever runs it. `docs/component.md` is its description.
//!
//! A packet is one message of a SOCK_SEQPACKET socket: a line of words, and behind its end a content, or a descriptor
//! of a sealed memfd that holds it.

use rustix::cmsg_space;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// A content up to this size travels inside its packet; making and mapping a memfd costs more than copying so much.
pub const INLINE_BYTES: usize = 32 << 10;

/// No packet is longer.
const PACKET_BYTES: usize = INLINE_BYTES + 1024;

thread_local! {
    /// Where packets arrive: to clear as much for each of them would cost more than to receive it.
    static ARRIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; PACKET_BYTES].into());
}

/// The longest name of a component, a ROM or a report.
pub const NAME_BYTES: usize = 64;

/// Returns whether this can be the name of a component, a ROM or a report.
///
/// Names stand in lines of words and are names of files, so they hold neither spaces nor slashes, nor begin with a dot.
pub fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !text.is_empty() && text.len() <= NAME_BYTES && text.bytes().all(good) && !text.starts_with('.')
}

/// One message.
#[derive(Debug)]
pub struct Packet {
    /// Its line.
    pub head: String,
    /// What came behind the line.
    pub body: Vec<u8>,
    /// The descriptor that came with it.
    pub fd: Option<OwnedFd>,
}

impl Packet {
    /// Returns the first two words of the line, and what follows them.
    pub fn words(&self) -> (&str, &str, &str) {
        let mut words = self.head.splitn(3, ' ');
        (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""))
    }
}

/// Sends a packet.
///
/// # Errors
/// EAGAIN if the peer's queue is full and the socket does not block; EPIPE if the peer is gone.
pub fn send(socket: impl AsFd, head: &str, body: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let parts = [IoSlice::new(head.as_bytes()), IoSlice::new(b"\n"), IoSlice::new(body)];
    loop {
        match rustix::net::sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives a packet; `None` when the peer is gone.
///
/// # Errors
/// EMSGSIZE if it is longer than any packet is, EBADMSG if its line is no text, EAGAIN if there is none now.
pub fn receive(socket: impl AsFd, flags: RecvFlags) -> Result<Option<Packet>> {
    ARRIVED.with_borrow_mut(|bytes| receive_into(socket, flags, bytes))
}

fn receive_into(socket: impl AsFd, flags: RecvFlags, bytes: &mut [u8]) -> Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        let mut parts = [IoSliceMut::new(bytes)];
        match rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, flags) {
            // A peer that has ended without reading all it was sent is told of so, once and before what it has sent itself,
            // which is in the queue still, and behind that its end (Linux 6.18, `unix_release_sock`, `sock_error`).
            Err(Errno::INTR | Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    let mut fd = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last().or(fd);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let bytes = &bytes[..received.bytes];
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Errno::BADMSG)?.to_owned();
    let body = bytes.get(end + 1..).unwrap_or_default().to_vec();
    Ok(Some(Packet { head, body, fd }))
}
