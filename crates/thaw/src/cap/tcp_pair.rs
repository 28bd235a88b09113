//! TCP connections whose both ends are in the tree: connected anew between the same addresses, and filled.

use super::error::{About, Error};
use super::{file, tcp};
use frost_model::Checkpoint;
use frost_model::cap::{Capability, Inet, TcpPeer, TcpStream};
use frost_sys::sock::{int_option, set_int_option};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, bind, connect, getsockname,
    listen, recv, send, shutdown,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// A connection's ends: the index of a description, and the socket.
type End<'a> = (usize, &'a TcpStream);

/// Makes all connections within the tree, by the index of their description.
///
/// Before any listening socket is made: one of ours takes the place of each meanwhile.
pub(super) fn make(checkpoint: &Checkpoint) -> Result<BTreeMap<usize, OwnedFd>, Error> {
    let mut made = BTreeMap::new();
    let mut doors = Doors::default();
    let stream = |index: usize| match checkpoint.descriptions.get(index).map(|d| &d.capability) {
        Some(Capability::TcpStream(stream)) => Some(stream),
        _ => None,
    };
    let port = |inet: &Inet| inet.local.map(|at| at.port());
    let listening: BTreeSet<Option<u16>> = checkpoint
        .descriptions
        .iter()
        .filter_map(|description| match &description.capability {
            Capability::TcpListener(listener) => Some(port(&listener.inet)),
            _ => None,
        })
        .collect();
    for index in 0..checkpoint.descriptions.len() {
        let Some(first) = stream(index).filter(|_| !made.contains_key(&index)) else { continue };
        let what = || checkpoint.descriptions[index].capability.to_string();
        let peer = match first.inside.as_ref().map(|inside| inside.peer) {
            Some(TcpPeer::Description(peer)) => peer,
            Some(TcpPeer::Closed) => {
                made.insert(index, closed(first, &mut doors).about("connect", what())?);
                continue;
            }
            Some(TcpPeer::Listener(_)) | None => continue,
        };
        if peer.index() == index {
            let fd = with_itself(&first.inet).about("connect", what())?;
            fill(&fd, &fd, first).about("fill the queue of", what())?;
            made.insert(index, fd);
            continue;
        }
        let Some(second) = stream(peer.index()) else { continue };
        let (client, server): (End<'_>, End<'_>) = match listening.contains(&port(&first.inet)) {
            true => ((peer.index(), second), (index, first)),
            false => ((index, first), (peer.index(), second)),
        };
        let (connecting, accepted) = connection(client.1, server.1).about("connect", what())?;
        fill(&connecting, &accepted, server.1).about("fill the queue of", what())?;
        fill(&accepted, &connecting, client.1).about("fill the queue of", what())?;
        for (fd, (index, stream)) in [(connecting, client), (accepted, server)] {
            if let Some(inside) = &stream.inside {
                let how = match (inside.shut_read, inside.shut_write) {
                    (true, true) => Some(Shutdown::Both),
                    (true, false) => Some(Shutdown::Read),
                    (false, true) => Some(Shutdown::Write),
                    (false, false) => None,
                };
                if let Some(how) = how {
                    shutdown(&fd, how).about("shut down", what())?;
                }
            }
            made.insert(index, fd);
        }
    }
    Ok(made)
}

/// Connects those that nobody has accepted yet, to listening sockets that are there by now, and gives all connections
/// within the tree their options and flags: SO_REUSEADDR must not be taken from one while its port is still to be
/// listened on.
pub(super) fn finish(checkpoint: &Checkpoint, made: &mut [Option<OwnedFd>]) -> Result<(), Error> {
    for (index, description) in checkpoint.descriptions.iter().enumerate() {
        let Capability::TcpStream(stream) = &description.capability else { continue };
        let what = || description.capability.to_string();
        let listener = match stream.inside.as_ref().map(|inside| &inside.peer) {
            Some(TcpPeer::Listener(listener)) => listener,
            Some(TcpPeer::Description(_) | TcpPeer::Closed) => {
                let fd = made.get(index).and_then(Option::as_ref).ok_or(Errno::BADF).about("find", what())?;
                set_up(checkpoint, index, fd, &stream.inet)?;
                continue;
            }
            None => continue,
        };
        let listener = made.get(listener.index()).and_then(Option::as_ref).ok_or(Errno::BADF);
        let listener = listener.and_then(getsockname).and_then(SocketAddr::try_from).about("find", what())?;
        let target = stream.peer.filter(|peer| peer.port() == listener.port()).unwrap_or(listener);
        let fd = match stream.inet.local.map(|from| connect_from(&stream.inet, from, target)) {
            Some(Ok(fd)) => fd,
            _ => {
                let bound = client_socket(&stream.inet, stream.inet.local);
                let fd = bound.or_else(|_| client_socket(&stream.inet, None)).about("make", what())?;
                begin_to_connect(&fd, target).about("connect", what())?;
                fd
            }
        };
        set_up(checkpoint, index, &fd, &stream.inet)?;
        made[index] = Some(fd);
    }
    // Behind those who were there first.
    for (index, description) in checkpoint.descriptions.iter().enumerate() {
        if let Capability::TcpStream(stream) = &description.capability
            && stream.is_connecting()
            && made.get(index).is_some_and(Option::is_none)
            && let Some(peer) = stream.peer
        {
            let fd = call(&stream.inet, peer)?;
            set_up(checkpoint, index, &fd, &stream.inet)?;
            made[index] = Some(fd);
        }
    }
    Ok(())
}

/// Makes a socket that calls a peer and waits for its answer, as it did; so a connect(2) that waited is issued again.
fn call(inet: &Inet, peer: SocketAddr) -> Result<OwnedFd, Error> {
    let anywhere = || tcp::bound(&Inet { local: None, ..inet.clone() }, SocketType::STREAM, true);
    let fd = tcp::bound(inet, SocketType::STREAM, true).or_else(|_| anywhere())?;
    if begin_to_connect(&fd, peer).is_ok() {
        return Ok(fd);
    }
    // The program is to find the error, which was told to us.
    let fd = anywhere()?;
    let _ = call_in_vain(&fd, inet.v6);
    Ok(fd)
}

/// Connects a socket without waiting for whom it calls, as somebody else may have taken the last place at a listening socket,
/// where nothing is accepted before the program runs. It stays in O_NONBLOCK, until it is given the flags that it had.
fn begin_to_connect(fd: &OwnedFd, to: SocketAddr) -> rustix::io::Result<()> {
    rustix::io::ioctl_fionbio(fd, true)?;
    match connect(fd, &to) {
        Err(Errno::INPROGRESS) => Ok(()),
        other => other,
    }
}

/// Lets a socket wait for an answer that is ECONNREFUSED, when it calls again after a second: whom it calls has no room for
/// it, and is gone then.
fn call_in_vain(fd: &OwnedFd, v6: bool) -> rustix::io::Result<()> {
    let plain = Inet { v6: false, protocol: 0, local: None, options: Vec::new() };
    let full = client_socket(&plain, Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)))?;
    listen(&full, 0)?;
    let at = SocketAddr::try_from(getsockname(&full)?)?;
    let first = tcp::socket(&plain, SocketType::STREAM)?;
    connect(&first, &at)?;
    begin_to_connect(fd, of_family(at, v6))
}

/// Makes a connection whose other end is closed, with what it had sent.
fn closed(stream: &TcpStream, doors: &mut Doors) -> rustix::io::Result<OwnedFd> {
    let (connecting, accepted) = doors.connect(&stream.inet)?;
    fill(&accepted, &connecting, stream)?;
    drop(accepted);
    let mut fds = [PollFd::new(&connecting, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
    if stream.inside.as_ref().is_some_and(|inside| inside.shut_write) {
        shutdown(&connecting, Shutdown::Write)?;
    }
    Ok(connecting)
}

/// Sockets that listen for connections whose addresses do not matter: to find a free port takes the kernel milliseconds where
/// most are in use.
#[derive(Default)]
struct Doors {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Doors {
    fn connect(&mut self, client: &Inet) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        if client.v6
            && let Ok(door) = open_door(&mut self.v6, true)
            && let Ok(both) = connect_to(client, None, door)
        {
            return Ok(both);
        }
        connect_to(client, None, open_door(&mut self.v4, false)?)
    }
}

fn open_door(door: &mut Option<OwnedFd>, v6: bool) -> rustix::io::Result<&OwnedFd> {
    if door.is_none() {
        let plain = Inet { v6, protocol: 0, local: None, options: Vec::new() };
        let ip = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        *door = Some(listening_at(&plain, SocketAddr::new(ip, 0))?);
    }
    door.as_ref().ok_or(Errno::BADF)
}

/// How long the addresses of a connection are waited for that was closed a moment ago: the kernel lends them again a
/// second after its last segment (tcp_twsk_unique, net/ipv4/tcp_ipv4.c).
const LINGERING: Duration = Duration::from_millis(2500);

/// Connects a socket to itself, at its address or, where that is another's or not of this machine, at any that does not leave the
/// machine.
fn with_itself(inet: &Inet) -> rustix::io::Result<OwnedFd> {
    let connected = |local: SocketAddr| {
        let fd = client_socket(inet, Some(of_family(local, inet.v6)))?;
        let own = SocketAddr::try_from(getsockname(&fd)?)?;
        begin_to_connect(&fd, own)?;
        Ok(fd)
    };
    let at_its_own = inet.local.ok_or(Errno::ADDRNOTAVAIL).and_then(connected);
    let fd = at_its_own.or_else(|_| connected(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)))?;
    // It has answered itself when it can be written to.
    poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
    Ok(fd)
}

/// Connects two sockets of ours at the recorded addresses, or where these are another's or not of this machine, as for a
/// copy, at any address that does not leave the machine.
fn connection(client: &TcpStream, server: &TcpStream) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    if let Some((from, at)) = client.inet.local.zip(server.inet.local) {
        let start = Instant::now();
        loop {
            match connect_at(&client.inet, Some(from), &server.inet, at) {
                // It does not matter to the two who of them called whom, and only one of them lingers.
                Err(Errno::BUSY) => {}
                Ok(both) => return Ok(both),
                Err(_) => break,
            }
            if let Ok((accepted, connecting)) = connect_at(&server.inet, Some(at), &client.inet, from) {
                return Ok((connecting, accepted));
            }
            if start.elapsed() > LINGERING {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let v4 = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    if client.inet.v6 && server.inet.v6 {
        let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0);
        if let Ok(both) = connect_at(&client.inet, None, &server.inet, v6) {
            return Ok(both);
        }
    }
    connect_at(&client.inet, None, &server.inet, of_family(v4, server.inet.v6))
}

/// Connects a socket bound to `from` to one that listens at `at`; EBUSY if a closed connection lingers there.
fn connect_at(
    client: &Inet,
    from: Option<SocketAddr>,
    server: &Inet,
    at: SocketAddr,
) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    connect_to(client, from, &listening_at(server, at)?)
}

fn listening_at(server: &Inet, at: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let listening = client_socket(server, Some(at))?;
    listen(&listening, 1)?;
    Ok(listening)
}

fn connect_to(
    client: &Inet,
    from: Option<SocketAddr>,
    listening: &OwnedFd,
) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let address = SocketAddr::try_from(getsockname(listening)?)?;
    let target = of_family(address, client.v6);
    let connecting = match from.map(|from| connect_from(client, from, target)) {
        Some(Ok(connecting)) => connecting,
        first => {
            let lingers = matches!(first, Some(Err(Errno::ADDRNOTAVAIL)));
            let connecting = match client_socket(client, from) {
                Err(Errno::ADDRINUSE) if lingers => return Err(Errno::BUSY),
                other => other?,
            };
            match connect(&connecting, &target) {
                // Bound by force of SO_REUSEADDR, or chosen; either way a closed connection is still in the way.
                Err(Errno::ADDRNOTAVAIL) => return Err(Errno::BUSY),
                other => other?,
            }
            connecting
        }
    };
    let own = SocketAddr::try_from(getsockname(&connecting)?)?;
    loop {
        let (accepted, from) = acceptfrom_with(listening, SocketFlags::CLOEXEC)?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        // Anybody might have come first; they are turned away, as by a server that is not there yet.
        if from.is_some_and(|from| of_family(from, true) == of_family(own, true)) {
            return Ok((connecting, accepted));
        }
    }
}

/// Connects from a port as the kernel chooses one: while a closed connection lingers (TIME_WAIT) its port cannot be bound,
/// but can be chosen. So it is let choose, among this one (IP_LOCAL_PORT_RANGE, Linux 6.3).
fn connect_from(inet: &Inet, from: SocketAddr, target: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let fd = client_socket(inet, None)?;
    let port = i32::from(from.port());
    set_int_option(&fd, libc::IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)?;
    set_int_option(&fd, libc::IPPROTO_IP, LOCAL_PORT_RANGE, port << 16 | port)?;
    bind(&fd, &SocketAddr::new(from.ip(), 0))?;
    begin_to_connect(&fd, target)?;
    let got = SocketAddr::try_from(getsockname(&fd)?)?;
    // Outside of net.ipv4.ip_local_port_range the kernel chooses as it likes.
    if got.port() != from.port() {
        return Err(Errno::INVAL);
    }
    set_int_option(&fd, libc::IPPROTO_IP, LOCAL_PORT_RANGE, 0)?;
    set_int_option(&fd, libc::IPPROTO_IP, BIND_ADDRESS_NO_PORT, 0)?;
    Ok(fd)
}

const BIND_ADDRESS_NO_PORT: i32 = 24;
const LOCAL_PORT_RANGE: i32 = 51;

/// An address as a socket of either family names it.
fn of_family(address: SocketAddr, v6: bool) -> SocketAddr {
    match (address.ip().to_canonical(), v6) {
        (IpAddr::V4(v4), true) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

/// Makes a socket bound to an address, whatever lingers there.
fn client_socket(inet: &Inet, local: Option<SocketAddr>) -> rustix::io::Result<OwnedFd> {
    let fd = tcp::socket(inet, SocketType::STREAM)?;
    set_int_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if inet.v6 {
        set_int_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    if let Some(local) = local {
        bind(&fd, &local)?;
    }
    Ok(fd)
}

/// Longer queues do not fit into new sockets.
const SHORT: usize = 32 << 10;

/// Puts what waited at `to` there again, through the other end.
fn fill(from: &OwnedFd, to: &OwnedFd, stream: &TcpStream) -> rustix::io::Result<()> {
    let Some(inside) = &stream.inside else { return Ok(()) };
    // Nothing is held back to be sent with more.
    set_int_option(from, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    let mut rest = inside.queue.as_slice();
    if rest.len() > SHORT {
        widen(from, to, rest.len())?;
    }
    let mut patience = 200;
    while !rest.is_empty() {
        match send(from, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::INTR) => {}
            // What the kernel sends by a timer, as after a window that was closed, makes room a little later.
            Err(Errno::AGAIN) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes room for a long queue.
///
/// For an ordinary user the size of buffers is limited (net.core.wmem_max), yet they grow by themselves when much passes
/// and is read (net.ipv4.tcp_rmem). That is how they grew in the program too.
fn widen(from: &OwnedFd, to: &OwnedFd, bytes: usize) -> rustix::io::Result<()> {
    /// SO_SNDBUFFORCE and SO_RCVBUFFORCE.
    const FORCE: [i32; 2] = [32, 33];
    let level = libc::SOL_SOCKET;
    let size = i32::try_from(bytes.saturating_mul(2)).unwrap_or(i32::MAX / 2);
    let forced =
        set_int_option(from, level, FORCE[0], size).and_then(|()| set_int_option(to, level, FORCE[1], size));
    if forced.is_ok() {
        return Ok(());
    }
    let nothing = vec![0u8; 256 << 10];
    let mut taken = nothing.clone();
    let mut passing = 0usize;
    for _ in 0..4000 {
        let room = int_option(to, level, libc::SO_RCVBUF)? as usize;
        if room / 2 > bytes {
            break;
        }
        if let Ok(sent) = send(from, &nothing, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            passing += sent;
        }
        passing -= take(to, &mut taken)?;
    }
    while passing > 0 {
        let mut fds = [PollFd::new(to, PollFlags::IN)];
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut fds, Some(&second))? == 0 {
            return Err(Errno::TIMEDOUT);
        }
        passing -= take(to, &mut taken)?;
    }
    Ok(())
}

/// Reads away what is there.
fn take(from: &OwnedFd, into: &mut [u8]) -> rustix::io::Result<usize> {
    match recv(from, into, RecvFlags::DONTWAIT) {
        Ok((_, got)) => Ok(got),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Sets recorded options and flags, and takes back what only served the making.
fn set_up(checkpoint: &Checkpoint, index: usize, fd: &OwnedFd, inet: &Inet) -> Result<(), Error> {
    let description = &checkpoint.descriptions[index];
    let what = || description.capability.to_string();
    // SO_BUF_LOCK (72): sizes change by themselves again.
    let _ = set_int_option(fd, libc::SOL_SOCKET, 72, 0);
    let has = |level: i32, name: i32| {
        inet.options.iter().any(|option| (option.level, option.name) == (level, name))
    };
    for (level, name) in [(libc::SOL_SOCKET, libc::SO_REUSEADDR), (libc::IPPROTO_TCP, libc::TCP_NODELAY)] {
        if !has(level, name) {
            set_int_option(fd, level, name, 0).about("set the options of", what())?;
        }
    }
    tcp::set_options(fd, &inet.options);
    file::set_status(fd, description.flags).about("set the flags of", what())?;
    if let Some(owner) = description.owner.filter(|owner| owner.signal != 0) {
        frost_sys::fcntl::set_signal(fd, owner.signal).about("choose the signal of", what())?;
    }
    Ok(())
}
