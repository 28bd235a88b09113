//! Sockets: raw options, unix addresses, messages that are looked at without being taken.

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Longest `sun_path` (`struct sockaddr_un`).
pub const UNIX_NAME_MAX: usize = 108;

/// Reads an option into `out` and returns its length.
pub fn option(fd: impl AsFd, level: i32, name: i32, out: &mut [u8]) -> Result<usize> {
    let mut len = out.len() as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes, which `out` has, and stores how many.
    let result = unsafe { libc::getsockopt(fd, level, name, out.as_mut_ptr().cast(), &raw mut len) };
    check(i64::from(result)).map(|_| len as usize)
}

/// Reads an option whose length the kernel counts in units of `unit` bytes into `out`, and returns how many there are.
pub fn option_of_units(fd: impl AsFd, level: i32, name: i32, out: &mut [u8], unit: usize) -> Result<usize> {
    let mut len = (out.len() / unit) as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` units, for which `out` has room, and stores how many.
    let result = unsafe { libc::getsockopt(fd, level, name, out.as_mut_ptr().cast(), &raw mut len) };
    check(i64::from(result)).map(|_| len as usize)
}

/// Attaches a classic packet filter, given as `struct sock_filter` of 8 bytes each.
pub fn attach_filter(fd: impl AsFd, instructions: &[u8]) -> Result<()> {
    let mut aligned: Vec<libc::sock_filter> = Vec::with_capacity(instructions.len() / 8);
    for word in instructions.chunks_exact(8) {
        let number = |at: usize| u32::from_ne_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]);
        let code = u16::from_ne_bytes([word[0], word[1]]);
        aligned.push(libc::sock_filter { code, jt: word[2], jf: word[3], k: number(4) });
    }
    let len = u16::try_from(aligned.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: aligned.as_mut_ptr() };
    let fd = fd.as_fd().as_raw_fd();
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` and the instructions it points to are live, and as long as it says; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), size)
    };
    check(i64::from(result)).map(drop)
}

/// Reads an option that is an integer.
pub fn int_option(fd: impl AsFd, level: i32, name: i32) -> Result<i32> {
    let mut bytes = [0u8; 4];
    option(fd, level, name, &mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// Sets an option.
pub fn set_option(fd: impl AsFd, level: i32, name: i32, value: &[u8]) -> Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads at most `len` bytes of `value`.
    let result = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    check(i64::from(result)).map(drop)
}

/// Sets an option that is an integer.
pub fn set_int_option(fd: impl AsFd, level: i32, name: i32, value: i32) -> Result<()> {
    set_option(fd, level, name, &value.to_ne_bytes())
}

fn unix_address(name: &[u8]) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    if name.is_empty() || name.len() > UNIX_NAME_MAX {
        return Err(Errno::INVAL);
    }
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (slot, byte) in address.sun_path.iter_mut().zip(name) {
        *slot = *byte as libc::c_char;
    }
    let mut len = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name.len();
    if name[0] != 0 && name.len() < UNIX_NAME_MAX {
        // A path is given with its NUL, as everybody does; the kernel counts it into what getsockname(2) returns.
        len += 1;
    }
    Ok((address, len as libc::socklen_t))
}

fn unix_name(address: &libc::sockaddr_un, len: libc::socklen_t) -> Option<Vec<u8>> {
    let len = (len as usize).checked_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path))?;
    if len == 0 || i32::from(address.sun_family) != libc::AF_UNIX {
        return None;
    }
    let mut name: Vec<u8> = address.sun_path.iter().take(len).map(|byte| *byte as u8).collect();
    if name[0] != 0 {
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    }
    Some(name)
}

/// Binds a unix socket to `name`: a path, or a NUL and an abstract name.
pub fn bind_unix(fd: impl AsFd, name: &[u8]) -> Result<()> {
    let (address, len) = unix_address(name)?;
    // SAFETY: `address` is a live sockaddr_un of which `len` bytes are meant.
    check(i64::from(unsafe { libc::bind(fd.as_fd().as_raw_fd(), (&raw const address).cast(), len) }))
        .map(drop)
}

/// Connects a unix socket to `name`: a path, or a NUL and an abstract name.
pub fn connect_unix(fd: impl AsFd, name: &[u8]) -> Result<()> {
    let (address, len) = unix_address(name)?;
    // SAFETY: `address` is a live sockaddr_un of which `len` bytes are meant.
    let result = unsafe { libc::connect(fd.as_fd().as_raw_fd(), (&raw const address).cast(), len) };
    check(i64::from(result)).map(drop)
}

/// Runs `act` in a thread of ours that has gone to `directory` alone, so that names relative to it can be used.
///
/// A name is at most 108 bytes long, and is remembered as it was given, so it cannot be made absolute.
pub fn in_directory<T: Send>(
    directory: &std::path::Path,
    act: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().spawn_scoped(scope, || {
            // SAFETY: only this thread, which ends below, gets a working directory of its own.
            check(unsafe { libc::unshare(libc::CLONE_FS) })?;
            rustix::process::chdir(directory)?;
            act()
        });
        match worker.map(|worker| worker.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Errno::IO),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)),
        }
    })
}

/// Returns the name of a unix socket, or of its peer; `None` if it has none.
pub fn unix_socket_name(fd: impl AsFd, peer: bool) -> Result<Option<Vec<u8>>> {
    // SAFETY: the struct consists of integers, for which zero is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes of `address`, and stores how many there were.
    let result = unsafe {
        if peer {
            libc::getpeername(fd, (&raw mut address).cast(), &raw mut len)
        } else {
            libc::getsockname(fd, (&raw mut address).cast(), &raw mut len)
        }
    };
    check(i64::from(result))?;
    Ok(unix_name(&address, len))
}

/// A message that was looked at.
#[derive(Debug)]
pub struct Peeked {
    /// Its bytes.
    pub data: Vec<u8>,
    /// The name of the unix socket that sent it, if it has one.
    pub sender: Option<Vec<u8>>,
    /// Duplicates of the descriptors that travel with it (SCM_RIGHTS), close-on-exec.
    pub rights: Vec<OwnedFd>,
    /// Process, user and group of the sender (SCM_CREDENTIALS), if SO_PASSCRED is set; a message may bear none.
    pub credentials: Option<Ucred>,
    /// Whether the message, or what travels with it, is longer than what was read.
    pub truncated: bool,
}

/// `struct ucred` (include/linux/socket.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ucred {
    /// The process, 0 if it has no number here.
    pub pid: i32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Ucred {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        Some(Self { pid: word(0)? as i32, uid: word(4)?, gid: word(8)? })
    }
}

/// Who a unix socket was connected by, or listens by (SO_PEERCRED); `None` if the kernel has taken down nobody.
pub fn peer_credentials(fd: impl AsFd) -> Result<Option<Ucred>> {
    let mut bytes = [0u8; 12];
    option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut bytes)?;
    // Of nobody the user is none (`cred_to_ucred`, net/core/sock.c).
    Ok(Ucred::from_bytes(&bytes).filter(|told| told.uid != u32::MAX))
}

/// The supplementary groups of the same (SO_PEERGROUPS, Linux 4.13).
pub fn peer_groups(fd: impl AsFd) -> Result<Vec<u32>> {
    let get = |bytes: &mut [u8]| option(&fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, bytes);
    let mut bytes = vec![0u8; 4 * 64];
    let len = match get(&mut bytes) {
        // More than that; there are NGROUPS_MAX at most.
        Err(Errno::RANGE) => {
            bytes.resize(4 * 65_536, 0);
            get(&mut bytes)?
        }
        other => other?,
    };
    let words = bytes[..len.min(bytes.len())].chunks_exact(4);
    Ok(words.filter_map(|word| word.try_into().ok().map(u32::from_ne_bytes)).collect())
}

/// Looks at the next message or bytes of a unix socket, at most `max` bytes, without taking or waiting.
///
/// `None` if there is none. With SO_PEEK_OFF set on the socket, each call returns what follows the last one's.
pub fn peek(fd: impl AsFd, max: usize) -> Result<Option<Peeked>> {
    const SCM_RIGHTS: i32 = 1;
    const SCM_CREDENTIALS: i32 = 2;
    // 253 descriptors (SCM_MAX_FD), credentials, a pidfd and a security label all fit.
    #[repr(C, align(8))]
    struct Control([u8; 4096]);
    let mut control = Control([0; 4096]);
    let mut room = vec![0u8; max];
    let mut iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: both structs consist of integers and pointers, for which zero is valid.
    let (mut address, mut header): (libc::sockaddr_un, libc::msghdr) = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut address).cast();
    header.msg_namelen = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `header` describes live buffers of the stated lengths.
    let got = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut header, flags) };
    let got = match check(got as libc::c_long) {
        Ok(got) => got as usize,
        Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error),
    };
    // In a place of its own size: thousands may wait, each of a few bytes.
    let data = room.get(..got).unwrap_or_default().to_vec();
    let mut rights = Vec::new();
    let mut credentials = None;
    let used = header.msg_controllen.min(control.0.len());
    let mut at = 0;
    // A walk over `struct cmsghdr`: length (8 bytes), level, type, data, padded to 8.
    while let Some(head) = control.0[..used].get(at..at + 16) {
        let word =
            |range: std::ops::Range<usize>| head[range].try_into().map(i32::from_ne_bytes).unwrap_or(0);
        let len = head[..8].try_into().map(usize::from_ne_bytes).unwrap_or(0);
        let Some(body) = control.0[..used].get(at + 16..at + len.max(16)) else { break };
        let (level, kind) = (word(8..12), word(12..16));
        if level == libc::SOL_SOCKET && kind == SCM_CREDENTIALS {
            // One that bears none tells of process 0.
            credentials = Ucred::from_bytes(body).filter(|told| told.pid != 0);
        }
        // SCM_PIDFD (4) brings a descriptor too, which must not stay open.
        if level == libc::SOL_SOCKET && (kind == SCM_RIGHTS || kind == 4) {
            for raw in body.chunks_exact(4) {
                let raw = raw.try_into().map(i32::from_ne_bytes).unwrap_or(-1);
                if raw >= 0 {
                    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
                    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
                    if kind == SCM_RIGHTS {
                        rights.push(fd);
                    }
                }
            }
        }
        at += len.max(16).next_multiple_of(8);
    }
    Ok(Some(Peeked {
        data,
        sender: unix_name(&address, header.msg_namelen),
        rights,
        credentials,
        truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    }))
}

/// Looks at the next bytes of a unix stream socket and returns how many of them lie in pieces, as they were sent,
/// that end within `room` bytes. Needs SO_PEEK_OFF to be set, which moves on.
///
/// A look does not tell where the piece begins with which descriptors travel, since it runs on through the pieces
/// before it. But it copies each piece whole or not at all, so memory that cannot be written behind `room` bytes
/// makes it stop at the end of the last piece that fits (unix_stream_read_generic, net/unix/af_unix.c).
pub fn whole_pieces(fd: impl AsFd, room: usize) -> Result<usize> {
    let mut data = vec![0u8; room];
    let wall_len = 1 << 20;
    // SAFETY: a new mapping at an address of the kernel's choice; it is removed below and nobody else knows of it.
    let wall = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            wall_len,
            rustix::mm::ProtFlags::empty(),
            rustix::mm::MapFlags::PRIVATE,
        )
    }?;
    let mut iov = [
        libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() },
        libc::iovec { iov_base: wall, iov_len: wall_len },
    ];
    // SAFETY: the struct consists of integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov.as_mut_ptr();
    header.msg_iovlen = iov.len();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `header` describes live memory; the kernel cannot write the second part, which has no rights. Without
    // room for control messages no descriptor is installed.
    let got = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut header, flags) };
    let got = check(got as libc::c_long);
    // SAFETY: the mapping made above, of that length.
    unsafe { rustix::mm::munmap(wall, wall_len) }?;
    match got {
        Ok(got) => Ok(got as usize),
        Err(Errno::FAULT | Errno::AGAIN) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Sends bytes through a unix socket without waiting and without SIGPIPE, with descriptors (at most 253), to
/// `name` or to whom it is connected.
pub fn send_unix(
    fd: impl AsFd,
    data: &[u8],
    name: Option<&[u8]>,
    rights: &[BorrowedFd<'_>],
) -> Result<usize> {
    send_unix_as(fd, data, name, rights, None)
}

/// As [`send_unix`], and says who sent it.
///
/// # Errors
/// EPERM if we may not say so; ESRCH if there is no such process.
pub fn send_unix_as(
    fd: impl AsFd,
    data: &[u8],
    name: Option<&[u8]>,
    rights: &[BorrowedFd<'_>],
    sender: Option<Ucred>,
) -> Result<usize> {
    const SCM_CREDENTIALS: i32 = 2;
    #[repr(C, align(8))]
    struct Control([u8; 1064]);
    let mut control = Control([0; 1064]);
    if rights.len() > 253 {
        return Err(Errno::INVAL);
    }
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: the struct consists of integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    let address = name.map(unix_address).transpose()?;
    if let Some((address, len)) = &address {
        header.msg_name = std::ptr::from_ref(address).cast_mut().cast();
        header.msg_namelen = *len;
    }
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    let mut used = 0;
    // One `struct cmsghdr` behind the other: length (8 bytes), level, type, data, padded to 8.
    let mut add = |kind: i32, words: &mut dyn Iterator<Item = u32>| {
        let mut end = used + 16;
        for word in words {
            control.0[end..end + 4].copy_from_slice(&word.to_ne_bytes());
            end += 4;
        }
        control.0[used..used + 8].copy_from_slice(&(end - used).to_ne_bytes());
        control.0[used + 8..used + 12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control.0[used + 12..used + 16].copy_from_slice(&kind.to_ne_bytes());
        used = end.next_multiple_of(8);
    };
    if let Some(sender) = sender {
        add(SCM_CREDENTIALS, &mut [sender.pid as u32, sender.uid, sender.gid].into_iter());
    }
    if !rights.is_empty() {
        add(libc::SCM_RIGHTS, &mut rights.iter().map(|fd| fd.as_raw_fd() as u32));
    }
    if used > 0 {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = used;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `header` describes live buffers of the stated lengths, which the call only reads.
    check(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const header, flags) } as libc::c_long)
        .map(|sent| sent as usize)
}

/// A datagram that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeekedDatagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// Its bytes.
    pub data: Vec<u8>,
    /// The length of the datagrams of which it was put together (UDP_GRO), 0 for one.
    pub segment: u16,
    /// The address it was sent to, if the socket tells that (IP_PKTINFO, IPV6_RECVPKTINFO).
    pub to: Option<IpAddr>,
    /// How many hops it had left, if the socket tells that (IP_RECVTTL, IPV6_RECVHOPLIMIT).
    pub hops: Option<u8>,
    /// Its type of service or traffic class, if the socket tells that (IP_RECVTOS, IPV6_RECVTCLASS).
    pub class: Option<u8>,
}

/// How a datagram is sent; what is left out is as the options of the socket say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// In segments of this length, if it is not 0 and the datagram is longer.
    pub segment: u16,
    /// How many hops it may make, at least 1.
    pub hops: Option<u8>,
    /// Its type of service or traffic class.
    pub class: Option<u8>,
}

/// The options of a socket of IPv4, and those that one of IPv6 has beside them, by which it tells of each datagram where it was
/// sent to, its hops and its class: level and number, of include/uapi/linux/in.h and in6.h.
pub const TELLING: [(i32, i32); 6] = [
    (libc::IPPROTO_IP, 8),
    (libc::IPPROTO_IP, 12),
    (libc::IPPROTO_IP, 13),
    (libc::IPPROTO_IPV6, 49),
    (libc::IPPROTO_IPV6, 51),
    (libc::IPPROTO_IPV6, 66),
];

/// The control messages of the same: what they tell when one receives, and take when one sends.
const IP_PKTINFO: (i32, i32) = (libc::IPPROTO_IP, 8);
const IP_TTL: (i32, i32) = (libc::IPPROTO_IP, 2);
const IP_TOS: (i32, i32) = (libc::IPPROTO_IP, 1);
const IPV6_PKTINFO: (i32, i32) = (libc::IPPROTO_IPV6, 50);
const IPV6_HOPLIMIT: (i32, i32) = (libc::IPPROTO_IPV6, 52);
const IPV6_TCLASS: (i32, i32) = (libc::IPPROTO_IPV6, 67);

/// The level and the number of a control message that tells, or gives, the length of segments: UDP_GRO when one
/// receives, UDP_SEGMENT when one sends (include/uapi/linux/udp.h).
const SOL_UDP: i32 = libc::IPPROTO_UDP;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

/// Given with a datagram, which moments of its way are to be told (`__sock_cmsg_send`, net/core/sock.c).
const SO_TIMESTAMPING: i32 = 37;

/// Room for control messages, aligned as these are.
#[repr(C, align(8))]
struct Control([u8; 1024]);

impl Control {
    /// Appends a message, of some bytes, behind those that are `used`: `struct cmsghdr`, data, padded to 8.
    fn add(&mut self, used: &mut usize, (level, kind): (i32, i32), data: &[u8]) {
        let len = 16 + data.len();
        let Some(room) = self.0.get_mut(*used..*used + len.next_multiple_of(8)) else { return };
        room[..8].copy_from_slice(&len.to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&kind.to_ne_bytes());
        room[16..len].copy_from_slice(data);
        *used += len.next_multiple_of(8);
    }
}

/// Looks at the next datagram of an internet socket without taking or waiting; `None` if there is none.
///
/// With SO_PEEK_OFF set on the socket it is the one at that offset, in bytes of all that wait. A pending error of the
/// socket is taken and returned.
pub fn peek_datagram(fd: impl AsFd) -> Result<Option<PeekedDatagram>> {
    // The length of a datagram has 16 bits, also when it was put together of several.
    let mut room = vec![0u8; 1 << 16];
    let mut control = Control([0; 1024]);
    let mut iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: both structs consist of integers and pointers, for which zero is valid.
    let (mut address, mut header): (libc::sockaddr_in6, libc::msghdr) = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut address).cast();
    header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `header` describes live buffers of the stated lengths.
    let got = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut header, flags) };
    let data = match check(got as libc::c_long) {
        // In a place of its own size, as above.
        Ok(got) => room.get(..got as usize).unwrap_or_default().to_vec(),
        Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut segment, mut to, mut hops, mut class) = (0, None, None, None);
    let used = header.msg_controllen.min(control.0.len());
    let mut at = 0;
    // A walk over `struct cmsghdr`: length (8 bytes), level, type, data, padded to 8.
    while let Some(head) = control.0[..used].get(at..at + 20) {
        let word =
            |range: std::ops::Range<usize>| head[range].try_into().map(i32::from_ne_bytes).unwrap_or(0);
        let bytes = |from: usize, len: usize| control.0[..used].get(at + from..at + from + len);
        // They tell of the datagram as it lies there, whenever the option was set (ip_cmsg_recv_offset, net/ipv4/ip_sockglue.c;
        // ip6_datagram_recv_common_ctl, net/ipv6/datagram.c), so that of IPv4 comes to a socket of IPv6, too.
        match (word(8..12), word(12..16)) {
            (SOL_UDP, UDP_GRO) => segment = word(16..20) as u16,
            // `struct in_pktinfo`: the address of the header is its third word.
            IP_PKTINFO => to = bytes(24, 4).and_then(|ip| Some(IpAddr::from(<[u8; 4]>::try_from(ip).ok()?))),
            IPV6_PKTINFO => {
                let ip = bytes(16, 16).and_then(|ip| Some(IpAddr::from(<[u8; 16]>::try_from(ip).ok()?)));
                to = ip.map(|ip| ip.to_canonical());
            }
            IP_TTL | IPV6_HOPLIMIT => hops = u8::try_from(word(16..20)).ok(),
            IP_TOS => class = bytes(16, 1).map(|byte| byte[0]),
            IPV6_TCLASS => class = u8::try_from(word(16..20)).ok(),
            _ => {}
        }
        let len = head[..8].try_into().map(usize::from_ne_bytes).unwrap_or(0);
        at += len.max(16).next_multiple_of(8);
    }
    let port = u16::from_be(address.sin6_port);
    let from = match i32::from(address.sin6_family) {
        libc::AF_INET6 => SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(address.sin6_addr.s6_addr),
            port,
            0,
            address.sin6_scope_id,
        )),
        // struct sockaddr_in has the address where struct sockaddr_in6 has the flow, and the port at the same place.
        libc::AF_INET => {
            SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(address.sin6_flowinfo.to_ne_bytes()), port))
        }
        _ => return Err(Errno::AFNOSUPPORT),
    };
    Ok(Some(PeekedDatagram { from, data, segment, to, hops, class }))
}

/// Returns how many bytes of a socket's room for what it sends are in use (SIOCOUTQ).
///
/// Of one that sends datagrams: what was begun and not sent (MSG_MORE), and what is on its way to the device.
pub fn unsent_bytes(fd: impl AsFd) -> Result<i32> {
    let mut bytes = 0;
    // SAFETY: the call stores an integer, for which there is room.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(bytes)
}

/// Finds out whether a socket that sends datagrams may not send any more (SHUT_WR), without sending any: one is tried
/// whose bytes cannot be read, which is found out later (EFAULT; `__ip_append_data` and its like for IPv6, net/ipv4/ip_output.c).
///
/// `to` is left out for a socket that is connected. The socket must have neither an error, which this would take, nor a datagram
/// that was begun, which it would lose.
pub fn is_shut_for_writing(fd: impl AsFd, to: Option<&SocketAddr>) -> Result<bool> {
    let page = rustix::param::page_size();
    let nothing = std::ptr::null_mut();
    // SAFETY: a new mapping, wherever there is room, which nobody may read.
    let unreadable = unsafe {
        rustix::mm::mmap_anonymous(
            nothing,
            page,
            rustix::mm::ProtFlags::empty(),
            rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::NORESERVE,
        )
    }?;
    let mut iov = libc::iovec { iov_base: unreadable, iov_len: 1 };
    let to = to.map(socket_address);
    // SAFETY: a struct of integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some((address, len)) = &to {
        header.msg_name = (&raw const *address).cast_mut().cast();
        header.msg_namelen = *len;
    }
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: all that the header leads to is alive; the kernel reports memory that cannot be read.
    let sent = check(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const header, flags) } as i64);
    // SAFETY: the mapping made above, which nothing else knows of.
    unsafe { rustix::mm::munmap(unreadable, page) }?;
    Ok(sent == Err(Errno::PIPE))
}

/// An address as the kernel takes it, and its length.
fn socket_address(to: &SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: a struct of integers, for which zero is valid.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    address.sin6_port = to.port().to_be();
    let len = match to {
        // `struct sockaddr_in` has its address where this has the flow.
        SocketAddr::V4(to) => {
            address.sin6_family = libc::AF_INET as u16;
            address.sin6_flowinfo = u32::from_ne_bytes(to.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(to) => {
            address.sin6_family = libc::AF_INET6 as u16;
            address.sin6_addr.s6_addr = to.ip().octets();
            address.sin6_scope_id = to.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (address, len as libc::socklen_t)
}

/// Sends a datagram without waiting, or as many as it makes in segments.
///
/// When it is sent is told to nobody, though the program that has the socket may have asked for that (SO_TIMESTAMPING).
pub fn send_datagram(fd: impl AsFd, data: &[u8], to: &SocketAddr, manner: Manner) -> Result<()> {
    let mut control = Control([0; 1024]);
    let mut used = 0;
    // Not by the options of the socket, which may be a program's.
    control.add(&mut used, (libc::SOL_SOCKET, SO_TIMESTAMPING), &0u32.to_ne_bytes());
    if manner.segment != 0 && data.len() > usize::from(manner.segment) {
        control.add(&mut used, (SOL_UDP, UDP_SEGMENT), &manner.segment.to_ne_bytes());
    }
    // Those of the family that it is sent by, which a socket of IPv6 takes for both (udpv6_sendmsg, net/ipv6/udp.c).
    let (hops, class) = if to.is_ipv4() { (IP_TTL, IP_TOS) } else { (IPV6_HOPLIMIT, IPV6_TCLASS) };
    for (kind, value) in [(hops, manner.hops.filter(|hops| *hops > 0)), (class, manner.class)] {
        if let Some(value) = value {
            control.add(&mut used, kind, &i32::from(value).to_ne_bytes());
        }
    }
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let (address, address_len) = socket_address(to);
    // SAFETY: a struct of integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw const address).cast_mut().cast();
    header.msg_namelen = address_len;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = used;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `header` describes live buffers of the stated lengths, which the call only reads.
    check(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const header, flags) } as libc::c_long)
        .map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_peek_takes_nothing_and_shows_what_travels_along() {
        let (a, b) = pair(SocketType::STREAM);
        assert!(peek(&b, 100).unwrap().is_none());
        send_unix(&a, b"one", None, &[std::io::stdin().as_fd()]).unwrap();
        for _ in 0..2 {
            let seen = peek(&b, 100).unwrap().unwrap();
            assert_eq!((seen.data.as_slice(), seen.rights.len(), seen.truncated), (&b"one"[..], 1, false));
        }
    }

    #[test]
    fn a_peek_keeps_no_more_room_than_it_needs() {
        let (a, b) = pair(SocketType::STREAM);
        send_unix(&a, b"one", None, &[]).unwrap();
        assert!(peek(&b, 1 << 20).unwrap().unwrap().data.capacity() < 1024);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = std::net::UdpSocket::bind(any).unwrap();
        socket.send_to(b"one", socket.local_addr().unwrap()).unwrap();
        let seen = peek_datagram(&socket).unwrap().unwrap();
        assert_eq!(seen.data, b"one");
        assert!(seen.data.capacity() < 1024);
    }

    #[test]
    fn the_end_of_a_piece_is_found_without_taking_it() {
        let (a, b) = pair(SocketType::STREAM);
        for piece in [&b"one"[..], b"three", b"5"] {
            send_unix(&a, piece, None, &[]).unwrap();
        }
        for (room, whole) in [(2, 0), (3, 3), (7, 3), (8, 8), (9, 9), (100, 9)] {
            set_int_option(&b, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0).unwrap();
            assert_eq!(whole_pieces(&b, room).unwrap(), whole, "{room}");
        }
    }

    #[test]
    fn abstract_names_and_paths_come_back_as_given() {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        assert_eq!(unix_socket_name(&socket, false).unwrap(), None);
        let name = format!("\0frost-test-{}", std::process::id());
        bind_unix(&socket, name.as_bytes()).unwrap();
        assert_eq!(unix_socket_name(&socket, false).unwrap(), Some(name.into_bytes()));
        let longest = [b'x'; UNIX_NAME_MAX];
        assert_eq!(unix_address(&longest).unwrap().1, 110);
        assert!(unix_address(&[b'x'; UNIX_NAME_MAX + 1]).is_err());
    }
}
