//! UDP sockets.

use crate::Victim;
use crate::call::{nap, read_error, sys_socket_option};
use crate::stage::{Stage, Verdict};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("udp_bound", bound),
    ("udp_connected", connected),
    ("udp_v6", v6),
    ("udp_multicast", multicast),
    ("udp_queued", queued),
    ("udp_queued_orphan", queued_orphan),
    ("udp_queued_connected", queued_connected),
    ("udp_queued_v6", queued_v6),
    ("udp_queued_full", queued_full),
    ("udp_queued_aimed", queued_aimed),
    ("udp_queued_aimed_v6", queued_aimed_v6),
    ("udp_queued_segments", queued_segments),
    ("udp_blocked", blocked),
    ("udp_lite", lite),
    ("udp_error", error),
    ("udp_shut_down", shut_down),
    ("udp_shut_for_writing", shut_for_writing),
    ("udp_begun", begun),
    ("udp_errors_told", errors_told),
    ("udp_times_told", times_told),
    ("udp_times_not_told", times_not_told),
    ("udp_label_leased", label_leased),
];

fn text<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|why| why.to_string())
}

fn exchange(from: &UdpSocket, to: &UdpSocket) -> Verdict {
    let mut bytes = [0; 16];
    text(from.send_to(b"hello", text(to.local_addr())?))?;
    let (len, sender) = text(to.recv_from(&mut bytes))?;
    same!(&bytes[..len], b"hello", "what came through");
    same!(sender, text(from.local_addr())?, "the sender");
    Ok(())
}

fn bound(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    text(one.set_broadcast(true))?;
    text(one.set_ttl(33))?;
    let before = (text(one.local_addr())?, text(two.local_addr())?);
    stage.freeze_here()?;
    same!((text(one.local_addr())?, text(two.local_addr())?), before, "the addresses");
    same!((text(one.broadcast())?, text(one.ttl())?), (true, 33), "the options");
    exchange(&one, &two)?;
    exchange(&two, &one)
}

fn connected(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    text(one.connect(text(two.local_addr())?))?;
    stage.freeze_here()?;
    same!(text(one.peer_addr())?, text(two.local_addr())?, "the peer");
    text(one.send(b"hello"))?;
    let mut bytes = [0; 16];
    same!(text(two.recv(&mut bytes))?, 5, "what came through");
    Ok(())
}

fn v6(stage: &Stage) -> Verdict {
    let Ok(one) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    let two = text(UdpSocket::bind("[::1]:0"))?;
    stage.freeze_here()?;
    exchange(&one, &two)
}

/// A group that was joined on the loopback interface still is.
fn multicast(stage: &Stage) -> Verdict {
    let group = std::net::Ipv4Addr::new(239, 7, 7, 7);
    let (local, any) = (std::net::Ipv4Addr::LOCALHOST, std::net::Ipv4Addr::UNSPECIFIED);
    let one = text(UdpSocket::bind((any, 0)))?;
    text(one.join_multicast_v4(&group, &local))?;
    stage.freeze_here()?;
    // One who is a member cannot become one again.
    check!(one.join_multicast_v4(&group, &local).is_err(), "it is no member any more");
    text(one.leave_multicast_v4(&group, &local))
}

/// Reads what must wait: from whom, and what.
fn expect(socket: &UdpSocket, from: SocketAddr, data: &[u8]) -> Verdict {
    let mut bytes = vec![0; 1 << 16];
    text(socket.set_nonblocking(true))?;
    let (len, sender) = text(socket.recv_from(&mut bytes))?;
    same!(&bytes[..len], data, "a datagram that waited");
    same!(sender, from, "its sender");
    Ok(())
}

/// A datagram waits, and behind it came an error that nobody has read.
fn error(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    text(one.connect(text(two.local_addr())?))?;
    text(two.send_to(b"hello", text(one.local_addr())?))?;
    drop(two);
    // Nobody has that port now, which an ICMP message tells.
    text(one.send(b"lost"))?;
    stage.freeze_here()?;
    text(one.set_nonblocking(true))?;
    let mut bytes = [0; 16];
    let first = one.recv(&mut bytes);
    same!(first.map_err(|why| why.raw_os_error()), Err(Some(libc::ECONNREFUSED)), "the error");
    let len = text(one.recv(&mut bytes))?;
    same!(&bytes[..len], b"hello", "the datagram");
    Ok(())
}

fn expect_no_more(socket: &UdpSocket) -> Verdict {
    text(socket.set_nonblocking(true))?;
    let more = socket.recv_from(&mut [0; 16]);
    check!(more.is_err(), "more than what waited: {more:?}");
    Ok(())
}

/// From two senders in turn, with an empty one, a long one, and two that are equal.
fn queued(stage: &Stage) -> Verdict {
    let reader = text(UdpSocket::bind("127.0.0.1:0"))?;
    // One that is bound to a place, and one whose port was chosen when it sent.
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("0.0.0.0:0"))?);
    let to = text(reader.local_addr())?;
    let long: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let port = text(two.local_addr())?.port();
    let (from_one, from_two) = (text(one.local_addr())?, SocketAddr::from(([127, 0, 0, 1], port)));
    let messages = [
        (&one, from_one, &b"first"[..]),
        (&two, from_two, b""),
        (&one, from_one, &long),
        (&two, from_two, b"same"),
        (&two, from_two, b"same"),
    ];
    for (from, _, data) in messages {
        text(from.send_to(data, to))?;
    }
    stage.freeze_here()?;
    for (_, from, data) in messages {
        expect(&reader, from, data)?;
    }
    expect_no_more(&reader)?;
    text(reader.set_nonblocking(false))?;
    exchange(&one, &reader)
}

/// Its sender was closed long ago.
fn queued_orphan(stage: &Stage) -> Verdict {
    let reader = text(UdpSocket::bind("0.0.0.0:0"))?;
    let sender = text(UdpSocket::bind("127.0.0.1:0"))?;
    let from = text(sender.local_addr())?;
    text(sender.send_to(b"last words", ("127.0.0.1", text(reader.local_addr())?.port())))?;
    drop(sender);
    stage.freeze_here()?;
    expect(&reader, from, b"last words")?;
    expect_no_more(&reader)
}

/// Both are connected to each other, and both have something to read.
fn queued_connected(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    let (at_one, at_two) = (text(one.local_addr())?, text(two.local_addr())?);
    text(one.connect(at_two))?;
    text(two.connect(at_one))?;
    for n in 0..20u8 {
        text(one.send(&[n]))?;
        text(two.send(&[n, n]))?;
    }
    stage.freeze_here()?;
    for n in 0..20u8 {
        expect(&two, at_one, &[n])?;
        expect(&one, at_two, &[n, n])?;
    }
    expect_no_more(&one)?;
    expect_no_more(&two)
}

/// A socket of both families hears one of each.
fn queued_v6(stage: &Stage) -> Verdict {
    let Ok(reader) = UdpSocket::bind("[::]:0") else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    let Ok(six) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    let four = text(UdpSocket::bind("127.0.0.1:0"))?;
    let port = text(reader.local_addr())?.port();
    text(six.send_to(b"by six", ("::1", port)))?;
    let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], text(four.local_addr())?.port()));
    let both = four.send_to(b"by four", ("127.0.0.1", port)).is_ok();
    stage.freeze_here()?;
    expect(&reader, text(six.local_addr())?, b"by six")?;
    if both {
        expect(&reader, mapped, b"by four")?;
    }
    expect_no_more(&reader)
}

/// As many as find room: all of them, in order, and no other.
fn queued_full(stage: &Stage) -> Verdict {
    let reader = text(UdpSocket::bind("127.0.0.1:0"))?;
    let sender = text(UdpSocket::bind("127.0.0.1:0"))?;
    let to = text(reader.local_addr())?;
    for n in 0..2000u32 {
        text(sender.send_to(&n.to_ne_bytes().repeat(200), to))?;
    }
    // How many found room is told by one like it.
    let twin = text(UdpSocket::bind("127.0.0.1:0"))?;
    for n in 0..2000u32 {
        text(sender.send_to(&n.to_ne_bytes().repeat(200), text(twin.local_addr())?))?;
    }
    text(twin.set_nonblocking(true))?;
    let mut room = 0u32;
    while twin.recv(&mut [0; 800]).is_ok() {
        room += 1;
    }
    check!(room < 2000, "there was room for all");
    stage.freeze_here()?;
    for n in 0..room {
        expect(&reader, text(sender.local_addr())?, &n.to_ne_bytes().repeat(200))?;
    }
    expect_no_more(&reader)
}

/// Sets options of a socket, each a level, a number and a value.
fn set_all(socket: &UdpSocket, options: &[(i32, i32, i32)]) -> Verdict {
    for (level, name, value) in options {
        sys!(setsockopt(socket.as_raw_fd(), *level, *name, std::ptr::from_ref(value).cast(), 4))?;
    }
    Ok(())
}

/// Reads what must wait, and how it came: to which address, with how many hops left, in which class.
fn expect_aimed(socket: &UdpSocket, data: &[u8], to: &str, hops: i32, class: i32) -> Verdict {
    let (mut bytes, mut control) = ([0u8; 64], [0u64; 64]);
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header: libc::msghdr = crate::call::zeroed();
    (header.msg_iov, header.msg_iovlen) = (&mut iov, 1);
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), 512);
    let got = sys!(recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_DONTWAIT))? as usize;
    same!(&bytes[..got], data, "a datagram that waited");
    let (mut address, mut numbers) = (None, [-1i32; 2]);
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&header) };
    while !message.is_null() {
        let (kind, body) =
            unsafe { (((*message).cmsg_level, (*message).cmsg_type), libc::CMSG_DATA(message)) };
        match kind {
            (libc::SOL_IP, libc::IP_PKTINFO) => {
                let told = unsafe { body.cast::<libc::in_pktinfo>().read_unaligned() };
                address = Some(std::net::IpAddr::from(told.ipi_addr.s_addr.to_ne_bytes()));
            }
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                let told = unsafe { body.cast::<libc::in6_pktinfo>().read_unaligned() };
                address = Some(std::net::IpAddr::from(told.ipi6_addr.s6_addr));
            }
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                numbers[0] = unsafe { body.cast::<i32>().read_unaligned() };
            }
            (libc::SOL_IP, libc::IP_TOS) => numbers[1] = unsafe { body.read() }.into(),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                numbers[1] = unsafe { body.cast::<i32>().read_unaligned() };
            }
            _ => {}
        }
        message = unsafe { libc::CMSG_NXTHDR(&header, message) };
    }
    same!(
        address.map(|address| address.to_canonical().to_string()),
        Some(to.to_owned()),
        "whom it was sent to"
    );
    same!(numbers, [hops, class], "its hops and its class");
    Ok(())
}

/// IP_PKTINFO, IP_RECVTTL, IP_RECVTOS.
const TELLING: [(i32, i32, i32); 3] = [(0, 8, 1), (0, 12, 1), (0, 13, 1)];
/// IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS.
const TELLING_V6: [(i32, i32, i32); 3] = [(41, 49, 1), (41, 51, 1), (41, 66, 1)];

/// Two that hear at all addresses got something at one of them; the first asks how before it waits, the other behind it.
fn queued_aimed(stage: &Stage) -> Verdict {
    let bind = || text(UdpSocket::bind("0.0.0.0:0"));
    let (one, two, sender) = (bind()?, bind()?, bind()?);
    set_all(&one, &TELLING)?;
    // IP_TTL, IP_TOS, which are others by the time it is sent again.
    set_all(&sender, &[(0, 2, 7), (0, 1, 0x4a)])?;
    for reader in [&one, &two] {
        text(sender.send_to(b"aimed", ("127.0.0.5", text(reader.local_addr())?.port())))?;
    }
    set_all(&sender, &[(0, 2, 9), (0, 1, 0)])?;
    stage.freeze_here()?;
    for (level, name, _) in TELLING {
        same!(sys_socket_option(two.as_raw_fd(), level, name)?, 0, "whether it asks by option {name}");
    }
    set_all(&two, &TELLING)?;
    for reader in [&one, &two] {
        expect_aimed(reader, b"aimed", "127.0.0.5", 7, 0x4a)?;
        expect_no_more(reader)?;
    }
    // IP_TTL, IP_TOS.
    let now = [2, 1].map(|name| sys_socket_option(sender.as_raw_fd(), 0, name));
    same!(now, [Ok(9), Ok(0)], "how the sender sends");
    Ok(())
}

/// The same by IPv6, and by IPv4 to a socket of both.
fn queued_aimed_v6(stage: &Stage) -> Verdict {
    let (Ok(one), Ok(two), Ok(sender)) =
        (UdpSocket::bind("[::]:0"), UdpSocket::bind("[::]:0"), UdpSocket::bind("[::1]:0"))
    else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    let sender_v4 = text(UdpSocket::bind("127.0.0.1:0"))?;
    set_all(&one, &TELLING_V6)?;
    set_all(&one, &TELLING)?;
    // IPV6_UNICAST_HOPS, IPV6_TCLASS; IP_TTL, IP_TOS.
    set_all(&sender, &[(41, 16, 7), (41, 67, 0x4a)])?;
    set_all(&sender_v4, &[(0, 2, 8), (0, 1, 0x49)])?;
    for reader in [&one, &two] {
        let port = text(reader.local_addr())?.port();
        text(sender.send_to(b"by six", ("::1", port)))?;
        text(sender_v4.send_to(b"by four", ("127.0.0.6", port)))?;
    }
    set_all(&sender, &[(41, 16, -1), (41, 67, 0)])?;
    set_all(&sender_v4, &[(0, 2, 64), (0, 1, 0)])?;
    stage.freeze_here()?;
    for (level, name, _) in TELLING_V6.into_iter().chain(TELLING) {
        same!(
            sys_socket_option(two.as_raw_fd(), level, name)?,
            0,
            "whether it asks by option {level} {name}"
        );
    }
    set_all(&two, &TELLING_V6)?;
    set_all(&two, &TELLING)?;
    for reader in [&one, &two] {
        expect_aimed(reader, b"by six", "::1", 7, 0x4a)?;
        expect_aimed(reader, b"by four", "127.0.0.6", 8, 0x49)?;
        expect_no_more(reader)?;
    }
    Ok(())
}

/// Datagrams that were put together on their way (UDP_SEGMENT, UDP_GRO) come as those that they were.
fn queued_segments(stage: &Stage) -> Verdict {
    let (reader, sender) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    let (fd, by) = (reader.as_raw_fd(), sender.as_raw_fd());
    let (one, len) = (1i32, 1000i32);
    sys!(setsockopt(fd, 17, 104, std::ptr::from_ref(&one).cast(), 4))?;
    sys!(setsockopt(by, 17, 103, std::ptr::from_ref(&len).cast(), 4))?;
    let data: Vec<u8> = (0..5500u32).map(|n| (n % 241) as u8).collect();
    text(sender.send_to(&data, text(reader.local_addr())?))?;
    stage.freeze_here()?;
    let mut bytes = vec![0u8; 1 << 16];
    let mut control = [0u64; 16];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header: libc::msghdr = crate::call::zeroed();
    (header.msg_iov, header.msg_iovlen) = (&mut iov, 1);
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), 128);
    let got = sys!(recvmsg(fd, &mut header, libc::MSG_DONTWAIT))? as usize;
    check!(bytes[..got] == data, "{got} bytes, or others than were sent");
    // Length, level and number of the control message, and the length of a segment.
    same!((control[1], control[2] as u32), (17 | 104 << 32, 1000), "how it was put together");
    expect_no_more(&reader)
}

/// A thread waits for a datagram amid the freeze.
fn blocked(stage: &Stage) -> Verdict {
    let reader = text(UdpSocket::bind("127.0.0.1:0"))?;
    let sender = text(UdpSocket::bind("127.0.0.1:0"))?;
    let to = text(reader.local_addr())?;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| expect_blocking(&reader, b"at last"));
        nap(Duration::from_millis(30));
        let seen = stage.freeze_amid_threads();
        text(sender.send_to(b"at last", to))?;
        waiting.join().map_err(|_| "it panicked")??;
        seen
    })
}

fn expect_blocking(socket: &UdpSocket, data: &[u8]) -> Verdict {
    let mut bytes = [0; 16];
    let len = text(socket.recv(&mut bytes))?;
    same!(&bytes[..len], data, "what came");
    Ok(())
}

/// UDP-Lite, with a checksum over the first 12 bytes.
fn lite(stage: &Stage) -> Verdict {
    let make = || {
        let fd = sys!(socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::IPPROTO_UDPLITE))?;
        let mut address: libc::sockaddr_in = crate::call::zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let len = size_of::<libc::sockaddr_in>() as u32;
        sys!(bind(fd, std::ptr::from_ref(&address).cast(), len))?;
        Ok::<_, String>(unsafe { UdpSocket::from_raw_fd(fd) })
    };
    let (Ok(one), Ok(two)) = (make(), make()) else {
        eprintln!("skipped: there is no UDP-Lite here");
        return stage.freeze_here();
    };
    let cover = 12i32;
    // UDPLITE_SEND_CSCOV.
    sys!(setsockopt(one.as_raw_fd(), libc::IPPROTO_UDPLITE, 10, std::ptr::from_ref(&cover).cast(), 4))?;
    text(one.send_to(b"waits", text(two.local_addr())?))?;
    stage.freeze_here()?;
    let (mut found, mut len) = (0i32, 4);
    let value = std::ptr::from_mut(&mut found).cast();
    sys!(getsockopt(one.as_raw_fd(), libc::IPPROTO_UDPLITE, 10, value, &mut len))?;
    same!(found, 12, "what its checksum covers");
    expect(&two, text(one.local_addr())?, b"waits")?;
    text(two.set_nonblocking(false))?;
    exchange(&one, &two)
}

/// As one does to wake whoever waits at it, connected or not.
fn shut_down(stage: &Stage) -> Verdict {
    let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0"));
    let [connected, unconnected, other] = sockets;
    let (connected, unconnected, other) = (text(connected)?, text(unconnected)?, text(other)?);
    text(connected.connect(text(other.local_addr())?))?;
    text(other.send_to(b"left", text(connected.local_addr())?))?;
    sys!(shutdown(connected.as_raw_fd(), libc::SHUT_RDWR))?;
    // It is told to be an error, and done.
    let told = sys!(shutdown(unconnected.as_raw_fd(), libc::SHUT_RD));
    same!((told.is_err(), crate::call::errno()), (true, libc::ENOTCONN), "what is told");
    stage.freeze_here()?;
    let mut bytes = [0; 16];
    same!(text(connected.recv(&mut bytes))?, 4, "what was left");
    for socket in [&connected, &unconnected] {
        same!(text(socket.recv(&mut bytes))?, 0, "the end");
    }
    let sent = sys!(send(connected.as_raw_fd(), b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL));
    same!((sent.is_err(), crate::call::errno()), (true, libc::EPIPE), "sending");
    text(unconnected.send_to(b"on", text(other.local_addr())?))?;
    same!(text(other.recv(&mut bytes))?, 2, "what is sent by one that only reads no more");
    Ok(())
}

/// Only writing was shut down, of a connected one with a datagram that waits, of one that is not connected, and of IPv6.
fn shut_for_writing(stage: &Stage) -> Verdict {
    let bind = |address: &str| text(UdpSocket::bind(address));
    let (other, connected, unconnected) = (bind("127.0.0.1:0")?, bind("127.0.0.1:0")?, bind("127.0.0.1:0")?);
    let (other_v6, v6, open) = (bind("[::1]:0")?, bind("[::1]:0")?, bind("127.0.0.1:0")?);
    let (to, to_v6) = (text(other.local_addr())?, text(other_v6.local_addr())?);
    text(connected.connect(to))?;
    text(v6.connect(to_v6))?;
    text(open.connect(to))?;
    text(other.send_to(b"waits", text(connected.local_addr())?))?;
    for socket in [&connected, &unconnected, &v6] {
        // Of one that is not connected it is told to be an error, and done.
        sys!(shutdown(socket.as_raw_fd(), libc::SHUT_WR)).ok();
    }
    stage.freeze_here()?;
    let mut bytes = [0; 16];
    same!(text(connected.recv(&mut bytes))?, 5, "what waited");
    text(other.send_to(b"more", text(connected.local_addr())?))?;
    same!(text(connected.recv(&mut bytes))?, 4, "what is sent to it");
    let pipe = |told: std::io::Result<usize>| told.map_err(|why| why.raw_os_error());
    for (socket, to) in [(&connected, None), (&unconnected, Some(to)), (&v6, None)] {
        let sent = match to {
            None => sys!(send(socket.as_raw_fd(), b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL))
                .map_err(|_| Some(crate::call::errno()))
                .map(|sent| sent as usize),
            Some(to) => pipe(socket.send_to(b"x", to)),
        };
        same!(sent, Err(Some(libc::EPIPE)), "sending");
    }
    text(open.send(b"on"))?;
    same!(text(other.recv(&mut bytes))?, 2, "what an open one sends, and nothing before that");
    expect_no_more(&other)?;
    expect_no_more(&other_v6)
}

/// One that was begun, and is not sent yet: nobody can look at it, and who tries anything may lose it.
fn begun(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    text(one.connect(text(two.local_addr())?))?;
    let put = |bytes: &[u8], flags| sys!(send(one.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags));
    put(b"the first and ", libc::MSG_MORE)?;
    stage.freeze_here()?;
    put(b"the rest", 0)?;
    let mut bytes = [0; 64];
    let len = text(two.recv(&mut bytes))?;
    same!(String::from_utf8_lossy(&bytes[..len]), "the first and the rest", "the datagram");
    Ok(())
}

/// Whom it sent to was not there, which waits in its queue of errors (IP_RECVERR); the error beside that was read.
fn errors_told(stage: &Stage) -> Verdict {
    let (one, gone) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    let (fd, on) = (one.as_raw_fd(), 1i32);
    sys!(setsockopt(fd, libc::SOL_IP, libc::IP_RECVERR, (&raw const on).cast(), 4))?;
    text(one.connect(text(gone.local_addr())?))?;
    drop(gone);
    text(one.send(b"lost"))?;
    let told = sys_socket_option(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
    same!(told, libc::ECONNREFUSED, "the error");
    stage.freeze_here()?;
    same!(read_error(fd)?.map(|(origin, _)| origin), Some(2), "SO_EE_ORIGIN_ICMP");
    Ok(())
}

/// Asks for the time at which each datagram is sent, with its number: SOF_TIMESTAMPING_TX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY.
fn ask_for_times(socket: &UdpSocket) -> Verdict {
    let flags = 1i32 << 1 | 1 << 4 | 1 << 7 | 1 << 11;
    // SO_TIMESTAMPING.
    sys!(setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, 37, (&raw const flags).cast(), 4))?;
    Ok(())
}

/// When something was sent is told, and nobody has read that.
fn times_told(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    ask_for_times(&one)?;
    text(one.send_to(b"hello", text(two.local_addr())?))?;
    let mut poll = [libc::pollfd { fd: one.as_raw_fd(), events: 0, revents: 0 }];
    same!(sys!(poll(poll.as_mut_ptr(), 1, 60_000))?, 1, "what shows the message");
    text(two.recv(&mut [0; 8]))?;
    stage.freeze_here()?;
    same!(read_error(one.as_raw_fd())?, Some((4, 0)), "SO_EE_ORIGIN_TIMESTAMPING, of the first");
    Ok(())
}

/// What waits was sent once: that it is sent again is told to nobody.
fn times_not_told(stage: &Stage) -> Verdict {
    let (one, two) = (text(UdpSocket::bind("127.0.0.1:0"))?, text(UdpSocket::bind("127.0.0.1:0"))?);
    let (from, to) = (text(one.local_addr())?, text(two.local_addr())?);
    text(one.send_to(b"before", to))?;
    ask_for_times(&one)?;
    stage.freeze_here()?;
    expect(&two, from, b"before")?;
    same!(read_error(one.as_raw_fd())?, None, "what is told of it");
    text(one.send_to(b"after", to))?;
    let mut poll = [libc::pollfd { fd: one.as_raw_fd(), events: 0, revents: 0 }];
    same!(sys!(poll(poll.as_mut_ptr(), 1, 60_000))?, 1, "what shows the message");
    same!(read_error(one.as_raw_fd())?, Some((4, 0)), "SO_EE_ORIGIN_TIMESTAMPING, of the first");
    Ok(())
}

/// A label of flows that is this socket's, beside one that has none.
fn label_leased(stage: &Stage) -> Verdict {
    let (Ok(one), Ok(_other)) = (UdpSocket::bind("[::1]:0"), UdpSocket::bind("[::1]:0")) else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    // `struct in6_flowlabel_req` of include/uapi/linux/in6.h: to ::1, any label, IPV6_FL_A_GET, IPV6_FL_S_EXCL, IPV6_FL_F_CREATE.
    let mut request = [0u8; 32];
    (request[15], request[20], request[21], request[22]) = (1, 0, 1, 1);
    let request = &mut request;
    // IPV6_FLOWLABEL_MGR.
    sys!(setsockopt(one.as_raw_fd(), libc::SOL_IPV6, 32, request.as_ptr().cast(), 32))?;
    check!(request[16..20] != [0; 4], "no label was chosen");
    stage.freeze_here()?;
    // IPV6_FL_A_PUT.
    request[20] = 1;
    sys!(setsockopt(one.as_raw_fd(), libc::SOL_IPV6, 32, request.as_ptr().cast(), 32))?;
    Ok(())
}
