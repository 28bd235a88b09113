//! Whose network is meant: ours, that of a process in a network namespace of its own, or a new one.
//!
//! A socket belongs to the namespace in which it was made, and what netlink sockets tell is of that. Whoever deals with
//! a program says once whose network it means, for the whole process; sockets to ask and to compare with are then made
//! in there, by a process of ours that entered it: to enter it ourselves we would have to enter the user namespace it
//! belongs to, and nobody leaves one again.
//!
//! What is in a network namespace, and how it is made so again, is in [`census`].

pub mod census;
mod route;

use crate::clone::{self, Clone, fork_beside_threads};
use crate::raw::check;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with, socketpair,
};
use rustix::process::{WaitId, WaitIdOptions};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::sync::RwLock;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Ours.
    Ours,
    /// That of a process.
    Process(i32),
    /// A new one, as a program would get it.
    New,
}

/// A process of ours that makes sockets elsewhere; it ends when its channel is closed.
#[derive(Debug)]
struct Agent {
    channel: Option<OwnedFd>,
    pid: i32,
    pidfd: OwnedFd,
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.channel.take());
        // Whoever was forked from its parent has no such child.
        let _ = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

static AGENT: RwLock<Option<Agent>> = RwLock::new(None);

/// The network that is meant, until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Meant(());

impl Drop for Meant {
    fn drop(&mut self) {
        forget();
    }
}

/// Whether another network than ours is meant.
pub fn is_meant() -> bool {
    AGENT.read().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
}

/// Means ours again.
pub fn forget() {
    let mut agent = AGENT.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    *agent = None;
}

/// Means this network until what is returned is dropped.
///
/// # Errors
/// EPERM without rights over it; what forbids a new one.
pub fn mean(whose: Whose) -> Result<Meant> {
    forget();
    let whose = match whose {
        Whose::Process(pid) if is_ours(pid) => Whose::Ours,
        other => other,
    };
    if whose != Whose::Ours {
        let agent = Agent::start(whose)?;
        *AGENT.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(agent);
    }
    Ok(Meant(()))
}

/// Whether a process is in our network namespace. One that is gone is.
pub fn is_ours(pid: i32) -> bool {
    crate::proc::is_in_our_namespace(pid, "net")
}

/// Makes a socket in the network that is meant.
///
/// # Errors
/// Those of socket(2).
pub fn socket(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> Result<OwnedFd> {
    let agent = AGENT.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    match agent.as_ref().and_then(|agent| agent.channel.as_ref()) {
        None => socket_with(family, kind, SocketFlags::CLOEXEC, protocol),
        Some(channel) => {
            let protocol = protocol.map_or(0, |protocol| protocol.as_raw().get());
            ask(channel, [u32::from(family.as_raw()), kind.as_raw(), protocol])
        }
    }
}

/// Reads a table of the network that is meant, out of `/proc/net`.
///
/// # Errors
/// That it is not there.
pub fn table(name: &str) -> std::io::Result<String> {
    let agent = AGENT.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let id = agent.as_ref().map_or_else(|| "self".to_owned(), |agent| agent.pid.to_string());
    std::fs::read_to_string(format!("/proc/{id}/net/{name}"))
}

/// The number of the network that is meant: the inode of its namespace; `None` if it is not told.
pub fn id() -> Option<u64> {
    let agent = AGENT.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let id = agent.as_ref().map_or_else(|| "self".to_owned(), |agent| agent.pid.to_string());
    rustix::fs::stat(format!("/proc/{id}/ns/net")).ok().map(|stat| stat.st_ino)
}

/// Whether an address of a network is one of the machine: it can be bound, to a port that the kernel chooses.
pub fn is_local(ip: std::net::IpAddr) -> bool {
    let family = if ip.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let probe = socket(family, SocketType::DGRAM, None);
    probe.is_ok_and(|probe| rustix::net::bind(&probe, &std::net::SocketAddr::new(ip, 0)).is_ok())
}

/// Whether somebody routes multicast packets of a family in the network that is meant (MRT_INIT, MRT6_INIT).
///
/// # Errors
/// Those of netlink; EOPNOTSUPP where the kernel has none of that family.
///
/// Source: the count of `conf/all/mc_forwarding`, raised by MRT_INIT alone (ip_mroute_setsockopt, net/ipv4/ipmr.c;
/// ip6mr_sk_init, net/ipv6/ip6mr.c).
pub fn forwards_multicast(family: AddressFamily) -> Result<bool> {
    const RTM_GETNETCONF: u16 = 82;
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_IFINDEX_ALL: i32 = -1;
    const NETCONFA_MC_FORWARDING: u16 = 4;
    // `struct netconfmsg` (include/uapi/linux/netconf.h), padded.
    let mut body = vec![family.as_raw() as u8, 0, 0, 0];
    route::append(&mut body, NETCONFA_IFINDEX, &NETCONFA_IFINDEX_ALL.to_ne_bytes());
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let told = route::one(&socket, RTM_GETNETCONF, &body, 4)?;
    Ok(told.word(NETCONFA_MC_FORWARDING).is_some_and(|count| count != 0))
}

fn ask(channel: &OwnedFd, words: [u32; 3]) -> Result<OwnedFd> {
    let request = words.map(u32::to_ne_bytes).concat();
    sendmsg(channel, &[IoSlice::new(&request)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
    let mut answer = [0u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(channel, &mut [IoSliceMut::new(&mut answer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes != answer.len() {
        return Err(Errno::CHILD);
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| Errno::from_raw_os_error(i32::from_ne_bytes(answer)))
}

impl Agent {
    fn start(whose: Whose) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match fork_beside_threads()? {
            Clone::Child => {
                use std::os::fd::AsRawFd;
                let entered = enter(whose);
                // It would hold our pipes and locks beyond our death.
                crate::own::close_all_but(Some(theirs.as_raw_fd()));
                let errno = entered.err().map_or(0, Errno::raw_os_error);
                let _ = reply(&theirs, errno, None);
                if errno == 0 {
                    serve(&theirs);
                }
                clone::exit_now(0)
            }
            Clone::Parent { pid, pidfd } => {
                drop(theirs);
                let agent = Self { channel: Some(ours), pid, pidfd };
                let channel = agent.channel.as_ref().ok_or(Errno::CHILD)?;
                let mut answer = [0u8; 4];
                let received = rustix::io::retry_on_intr(|| {
                    rustix::net::recv(channel, &mut answer[..], RecvFlags::empty())
                })?;
                match (received.0, i32::from_ne_bytes(answer)) {
                    (4, 0) => Ok(agent),
                    (4, errno) => Err(Errno::from_raw_os_error(errno)),
                    _ => Err(Errno::CHILD),
                }
            }
        }
    }
}

fn reply(channel: &OwnedFd, errno: i32, descriptor: Option<&OwnedFd>) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(channel, &[IoSlice::new(&errno.to_ne_bytes())], &mut ancillary, SendFlags::NOSIGNAL)
}

fn serve(channel: &OwnedFd) {
    let mut request = [0u8; 12];
    while let Ok((12, _)) =
        rustix::io::retry_on_intr(|| rustix::net::recv(channel, &mut request[..], RecvFlags::empty()))
    {
        let word = |at: usize| {
            request.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
        };
        let made = socket_with(
            AddressFamily::from_raw(word(0) as u16),
            SocketType::from_raw(word(4)),
            SocketFlags::CLOEXEC,
            NonZeroU32::new(word(8)).map(Protocol::from_raw),
        );
        let sent = match &made {
            Ok(socket) => reply(channel, 0, Some(socket)),
            Err(errno) => reply(channel, errno.raw_os_error(), None),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Enters a network, for good.
///
/// # Errors
/// As [`mean`].
fn enter(whose: Whose) -> Result<()> {
    match whose {
        Whose::Ours => Ok(()),
        Whose::Process(pid) => clone::enter_with_user(pid, libc::CLONE_NEWNET),
        Whose::New => {
            let made = unshare(libc::CLONE_NEWNET);
            if made == Err(Errno::PERM) {
                unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
            } else {
                made?;
            }
            census::begin()
        }
    }
}

fn unshare(flags: libc::c_int) -> Result<()> {
    // SAFETY: the namespaces of this process change, and no memory.
    check(i64::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// Runs `work` in a network, in a process of its own, and returns the bytes that it made.
///
/// # Errors
/// As [`mean`]; what `work` failed with; as [`clone::apart`].
pub fn within(whose: Whose, work: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    clone::apart(|| enter(whose).and_then(|()| work()))
}
