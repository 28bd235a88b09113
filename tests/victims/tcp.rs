//! TCP sockets: those that listen come back, and connections of which both ends are in the program.

use crate::Victim;
use crate::call::{sys_socket_option, zeroed};
use crate::stage::{Stage, Verdict};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("tcp_listening", listening),
    ("tcp_listening_v6", listening_v6),
    ("tcp_options", options),
    ("tcp_unconnected", unconnected),
    ("tcp_bound", bound),
    ("tcp_established", established),
    ("tcp_accepting_server", accepting_server),
    ("tcp_without_listener", without_listener),
    ("tcp_queued", queued),
    ("tcp_much_queued", much_queued),
    ("tcp_full", full),
    ("tcp_backlog_full", backlog_full),
    ("tcp_between_processes", between_processes),
    ("tcp_half_closed", half_closed),
    ("tcp_peer_closed", peer_closed),
    ("tcp_both_closed", both_closed),
    ("tcp_pending", pending),
    ("tcp_both_versions", both_versions),
    ("tcp_connecting", connecting),
    ("tcp_deferred", deferred),
    ("tcp_reset", reset),
    ("tcp_out_of_band_read", out_of_band_read),
    ("tcp_out_of_band", out_of_band),
    ("tcp_out_of_band_passed", out_of_band_passed),
    ("tcp_pending_data", pending_data),
    ("tcp_own_peer", own_peer),
    ("tcp_own_peer_v6", own_peer_v6),
    ("tcp_sends_told", sends_told),
    ("tcp_sends_under_way", sends_under_way),
    ("tcp_keys", keys),
    ("tcp_filtered", filtered),
];

fn text<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|why| why.to_string())
}

fn serve(listener: &TcpListener) -> Verdict {
    let mut client = text(TcpStream::connect(text(listener.local_addr())?))?;
    let (mut server, _) = text(listener.accept())?;
    text(client.write_all(b"hello"))?;
    let mut bytes = [0; 5];
    text(server.read_exact(&mut bytes))?;
    same!(&bytes, b"hello", "what came through");
    Ok(())
}

fn listening(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let any = text(TcpListener::bind("0.0.0.0:0"))?;
    let before = (text(listener.local_addr())?, text(any.local_addr())?);
    stage.freeze_here()?;
    same!((text(listener.local_addr())?, text(any.local_addr())?), before, "the addresses");
    serve(&listener)
}

fn listening_v6(stage: &Stage) -> Verdict {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    stage.freeze_here()?;
    serve(&listener)
}

fn options(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let fd = listener.as_raw_fd();
    let set = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::SOL_SOCKET, libc::SO_REUSEADDR, 1),
        (libc::SOL_SOCKET, libc::SO_REUSEPORT, 1),
        (libc::SOL_SOCKET, libc::SO_RCVBUF, 50_000),
        (libc::SOL_SOCKET, libc::SO_PRIORITY, 3),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 77),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1),
        (libc::IPPROTO_IP, libc::IP_TOS, 16),
    ];
    for (level, name, value) in set {
        sys!(setsockopt(fd, level, name, (&raw const value).cast(), 4))?;
    }
    let read = || set.map(|(level, name, _)| sys_socket_option(fd, level, name));
    let before = read();
    text(listener.set_nonblocking(true))?;
    stage.freeze_here()?;
    same!(read(), before, "the options");
    same!(
        text(listener.accept().map(drop).or_else(|why| match why.kind() {
            std::io::ErrorKind::WouldBlock => Ok(()),
            _ => Err(why),
        }))?,
        (),
        "accept without a client"
    );
    Ok(())
}

fn unconnected(stage: &Stage) -> Verdict {
    let fd = sys!(socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    stage.freeze_here()?;
    let mut address: libc::sockaddr_in = zeroed();
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = text(listener.local_addr())?.port().to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    sys!(connect(fd, (&raw const address).cast(), size_of::<libc::sockaddr_in>() as u32))?;
    text(listener.accept().map(drop))
}

/// Bound, not yet listening.
fn bound(stage: &Stage) -> Verdict {
    let fd = sys!(socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
    // As every server does: what is left of old connections then does not hold the port.
    let one = 1i32;
    sys!(setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const one).cast(), 4))?;
    let mut address: libc::sockaddr_in = zeroed();
    address.sin_family = libc::AF_INET as u16;
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    sys!(bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_in>() as u32))?;
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    let before = text(listener.local_addr())?;
    stage.freeze_here()?;
    same!(text(listener.local_addr())?, before, "the address");
    sys!(listen(fd, 5))?;
    serve(&listener)
}

/// A connected pair: listener, connecting and accepted end.
fn pair() -> Result<(TcpListener, TcpStream, TcpStream), String> {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let client = text(TcpStream::connect(text(listener.local_addr())?))?;
    let (server, _) = text(listener.accept())?;
    Ok((listener, client, server))
}

fn passes(from: &TcpStream, to: &TcpStream) -> Verdict {
    let (mut from, mut to) = (from, to);
    let mut bytes = [0; 5];
    text(from.write_all(b"hello"))?;
    text(to.read_exact(&mut bytes))?;
    same!(&bytes, b"hello", "what came through");
    Ok(())
}

fn names(stream: &TcpStream) -> Result<(std::net::SocketAddr, std::net::SocketAddr), String> {
    Ok((text(stream.local_addr())?, text(stream.peer_addr())?))
}

/// Both ends are in the program, so the connection lives on.
fn established(stage: &Stage) -> Verdict {
    let (listener, client, server) = pair()?;
    text(client.set_nodelay(true))?;
    let before = (names(&client)?, names(&server)?);
    stage.freeze_here()?;
    same!((names(&client)?, names(&server)?), before, "the addresses");
    same!((text(client.nodelay())?, text(server.nodelay())?), (true, false), "TCP_NODELAY");
    passes(&client, &server)?;
    passes(&server, &client)?;
    serve(&listener)
}

/// The listening socket that made it is closed.
fn without_listener(stage: &Stage) -> Verdict {
    let (listener, client, server) = pair()?;
    drop(listener);
    stage.freeze_here()?;
    passes(&client, &server)?;
    passes(&server, &client)?;
    drop(client);
    same!(text((&server).read(&mut [0; 5]))?, 0, "the end");
    Ok(())
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

/// Data waits in both directions.
fn queued(stage: &Stage) -> Verdict {
    let (_listener, mut client, mut server) = pair()?;
    text(client.write_all(b"to the server"))?;
    text(server.write_all(&numbered(30_000)))?;
    stage.freeze_here()?;
    let (mut short, mut long) = ([0; 13], vec![0; 30_000]);
    text(server.read_exact(&mut short))?;
    text(client.read_exact(&mut long))?;
    same!(&short, b"to the server", "what waited at the server");
    check!(long == numbered(30_000), "what waited at the client is not what was sent");
    passes(&client, &server)?;
    passes(&server, &client)
}

/// More waits than a new socket has room for: the buffers have grown, since much was read.
fn much_queued(stage: &Stage) -> Verdict {
    let (_listener, client, mut server) = pair()?;
    let mut taken = vec![0; 1 << 20];
    for _ in 0..100 {
        let sent = text((&client).write(&taken))?;
        text(server.read_exact(&mut taken[..sent]))?;
    }
    text(client.set_nonblocking(true))?;
    let bytes = numbered(1_500_000);
    let mut sent = 0;
    while let Ok(some) = (&client).write(&bytes[sent..]) {
        sent += some;
        let mut waiting = 0;
        // All that was sent has arrived; the last of it is what has no room any more.
        sys!(ioctl(client.as_raw_fd(), libc::TIOCOUTQ, &mut waiting))?;
        if some == 0 || waiting != 0 {
            break;
        }
    }
    let fd = server.as_raw_fd();
    let arrived = || {
        let mut waiting = 0;
        (unsafe { libc::ioctl(fd, libc::FIONREAD, &mut waiting) } == 0).then_some(waiting as usize)
    };
    crate::call::until("something has arrived", || {
        arrived().is_some_and(|waiting| waiting > 300_000.min(sent))
    })?;
    // Whatever is still with the sender is read, so that only the receiver has something, and much.
    let mut begun = vec![0; sent / 8];
    text(server.read_exact(&mut begun))?;
    crate::call::until("all has arrived", || arrived() == Some(sent - begun.len()))?;
    stage.freeze_here()?;
    let mut rest = vec![0; sent - begun.len()];
    text(server.read_exact(&mut rest))?;
    check!(
        begun == bytes[..begun.len()] && rest == bytes[begun.len()..sent],
        "what came through is not what was sent"
    );
    text(client.set_nonblocking(false))?;
    passes(&client, &server)
}

/// The sender has filled all there is and would wait: what is still with it is shown to root only.
fn full(stage: &Stage) -> Verdict {
    let (_listener, client, mut server) = pair()?;
    text(client.set_nonblocking(true))?;
    let bytes = numbered(16 << 20);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 50 {
        match (&client).write(&bytes[sent..]) {
            Ok(some) => (sent, idle) = (sent + some, 0),
            Err(_) => idle += 1,
        }
        crate::call::nap(Duration::from_millis(1));
    }
    text(client.set_nonblocking(false))?;
    let writer = text(client.try_clone())?;
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| text((&writer).write_all(&bytes[sent..])));
        crate::call::until("the writer waits", || {
            let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
            tasks.filter_map(|task| task.file_name().to_string_lossy().parse().ok()).any(|tid| {
                crate::call::is_in_call(tid, libc::SYS_write)
                    || crate::call::is_in_call(tid, libc::SYS_sendto)
            })
        })?;
        // The writer may go on and end once there is more room.
        stage.ready();
        stage.wait();
        let mut all = vec![0; bytes.len()];
        text(server.read_exact(&mut all))?;
        check!(all == bytes, "what came through is not what was sent");
        blocked.join().map_err(|_| "the writer panicked".to_owned())?
    })
}

/// As many connections wait to be accepted as may, and one more calls in vain until some of them are.
fn backlog_full(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    sys!(listen(listener.as_raw_fd(), 1))?;
    let address = text(listener.local_addr())?;
    let (first, second) = (text(TcpStream::connect(address))?, text(TcpStream::connect(address))?);
    std::thread::scope(|scope| {
        let third = scope.spawn(|| TcpStream::connect(address));
        crate::call::until("the third calls", || {
            let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
            let mut tids = tasks.filter_map(|task| task.file_name().to_string_lossy().parse().ok());
            tids.any(|tid| crate::call::is_in_call(tid, libc::SYS_connect))
        })?;
        stage.freeze_amid_threads()?;
        let mut accepted = Vec::new();
        for _ in 0..3 {
            accepted.push(text(listener.accept())?.0);
        }
        let third = third.join().map_err(|_| "who calls panicked".to_owned())?;
        for client in [&first, &second, &text(third)?] {
            let own = text(client.local_addr())?;
            let server = accepted.iter().find(|server| server.peer_addr().is_ok_and(|peer| peer == own));
            passes(client, server.ok_or("nobody has accepted a client")?)?;
        }
        Ok(())
    })
}

fn between_processes(stage: &Stage) -> Verdict {
    let (listener, client, server) = pair()?;
    let child = stage.fork(|| {
        sys!(close(server.as_raw_fd()))?;
        let mut bytes = Vec::new();
        text((&client).write_all(b"question"))?;
        text((&client).read_to_end(&mut bytes))?;
        same!(bytes, b"answer", "what came back");
        Ok(())
    })?;
    drop((client, listener));
    crate::call::until("the child reads", || {
        crate::call::is_in_call(child, libc::SYS_read) || crate::call::is_in_call(child, libc::SYS_recvfrom)
    })?;
    stage.freeze_here()?;
    let mut bytes = [0; 8];
    text((&server).read_exact(&mut bytes))?;
    same!(&bytes, b"question", "what waited");
    text((&server).write_all(b"answer"))?;
    drop(server);
    stage.reap(child)
}

/// One direction was shut down, with something unread before the end.
fn half_closed(stage: &Stage) -> Verdict {
    let (_listener, mut client, mut server) = pair()?;
    text(client.write_all(b"last words"))?;
    text(client.shutdown(std::net::Shutdown::Write))?;
    stage.freeze_here()?;
    let mut bytes = Vec::new();
    text(server.read_to_end(&mut bytes))?;
    same!(bytes, b"last words", "what waited");
    passes(&server, &client)?;
    check!(client.write_all(b"x").is_err(), "the closed direction takes something");
    Ok(())
}

/// The other end was closed in order.
fn peer_closed(stage: &Stage) -> Verdict {
    let (_listener, mut client, server) = pair()?;
    text((&server).write_all(b"farewell"))?;
    drop(server);
    stage.freeze_here()?;
    let mut bytes = Vec::new();
    text(client.read_to_end(&mut bytes))?;
    same!(bytes, b"farewell", "what waited");
    let mut second = false;
    crate::call::until("a write fails", || std::mem::replace(&mut second, client.write_all(b"x").is_err()))
}

/// Both ends were closed in order, and one of them is still open as a descriptor.
fn both_closed(stage: &Stage) -> Verdict {
    let (_listener, mut client, mut server) = pair()?;
    text(client.write_all(b"x"))?;
    text(client.shutdown(std::net::Shutdown::Write))?;
    text(server.read_to_end(&mut Vec::new()))?;
    text(server.write_all(b"unread"))?;
    drop(server);
    stage.freeze_here()?;
    let mut bytes = Vec::new();
    text(client.read_to_end(&mut bytes))?;
    same!(bytes, b"unread", "what waited");
    Ok(())
}

/// Nobody has accepted it.
fn pending(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let clients = [(); 3].map(|()| TcpStream::connect(listener.local_addr().expect("it is bound")));
    let ports = clients
        .iter()
        .map(|client| client.as_ref().map_or(0, |client| client.local_addr().expect("bound").port()));
    let ports: Vec<u16> = ports.collect();
    stage.freeze_here()?;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (server, from) = text(listener.accept())?;
        let at = ports.iter().position(|port| *port == from.port()).ok_or("another client")?;
        let client = clients[at].as_ref().map_err(|why| why.to_string())?;
        passes(client, &server)?;
        passes(&server, client)?;
        seen.push(at);
    }
    seen.sort_unstable();
    same!(seen, [0, 1, 2], "who was accepted");
    Ok(())
}

/// A server of IPv6, one client of each version.
fn both_versions(stage: &Stage) -> Verdict {
    let Ok(listener) = TcpListener::bind("[::]:0") else {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    };
    let port = text(listener.local_addr())?.port();
    let mut pairs = Vec::new();
    for host in ["127.0.0.1", "::1"] {
        if let Ok(client) = TcpStream::connect((host, port)) {
            pairs.push((client, text(listener.accept())?.0));
        }
    }
    let before = pairs.iter().map(|(a, b)| Ok((names(a)?, names(b)?))).collect::<Result<Vec<_>, String>>()?;
    stage.freeze_here()?;
    let after = pairs.iter().map(|(a, b)| Ok((names(a)?, names(b)?))).collect::<Result<Vec<_>, String>>()?;
    same!(after, before, "the addresses");
    for (client, server) in &pairs {
        passes(client, server)?;
        passes(server, client)?;
    }
    Ok(())
}

/// A server whose thread stands in accept(2).
fn accepting_server(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let address = text(listener.local_addr())?;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut client, _) = text(listener.accept())?;
            text(client.write_all(b"served"))
        });
        let seen = stage.freeze_amid_threads();
        let mut bytes = Vec::new();
        text(TcpStream::connect(address).and_then(|mut stream| stream.read_to_end(&mut bytes)))?;
        same!(bytes, b"served", "what came through");
        server.join().map_err(|_| "the server panicked".to_owned())??;
        seen
    })
}

fn connect_plainly(fd: i32, to: std::net::SocketAddr) -> Result<i32, String> {
    let mut address: libc::sockaddr_in = zeroed();
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = to.port().to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    sys!(connect(fd, (&raw const address).cast(), size_of::<libc::sockaddr_in>() as u32))
}

/// The server has no room for more: one waits in connect(2), another does not wait for it to end.
fn connecting(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    sys!(listen(listener.as_raw_fd(), 1))?;
    let at = text(listener.local_addr())?;
    let early = [text(TcpStream::connect(at))?, text(TcpStream::connect(at))?];
    let child = stage.fork(|| {
        let mut late = text(TcpStream::connect(at))?;
        text(late.write_all(b"late"))
    })?;
    crate::call::until("the child waits", || crate::call::is_in_call(child, libc::SYS_connect))?;
    let own = sys!(socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0))?;
    let begun = connect_plainly(own, at);
    same!((begun.is_err(), crate::call::errno()), (true, libc::EINPROGRESS), "what connect says: {begun:?}");
    stage.freeze_here()?;
    for client in &early {
        let (server, _) = text(listener.accept())?;
        check!(
            early.iter().any(|client| client.local_addr().ok() == server.peer_addr().ok()),
            "one that waited for room came before one that had it"
        );
        text((&*client).write_all(b"x"))?;
    }
    let late = [text(listener.accept())?.0, text(listener.accept())?.0];
    let mut poll = [libc::pollfd { fd: own, events: libc::POLLOUT, revents: 0 }];
    sys!(poll(poll.as_mut_ptr(), 1, 60_000))?;
    same!(poll[0].revents, libc::POLLOUT, "what the one shows that did not wait");
    same!(sys_socket_option(own, libc::SOL_SOCKET, libc::SO_ERROR)?, 0, "its error");
    let own = unsafe { TcpStream::from_raw_fd(own) };
    text((&own).write_all(b"mine"))?;
    drop(own);
    stage.reap(child)?;
    let mut said = [String::new(), String::new()];
    for (mut server, said) in late.iter().zip(&mut said) {
        text(server.read_to_string(said))?;
    }
    said.sort();
    same!(said, ["late", "mine"], "what came of those that waited");
    Ok(())
}

/// A server that is told of clients when they have said something (TCP_DEFER_ACCEPT), and one that has not.
fn deferred(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let on = 30i32;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
    sys!(setsockopt(listener.as_raw_fd(), level, name, (&raw const on).cast(), 4))?;
    let client = text(TcpStream::connect(text(listener.local_addr())?))?;
    stage.freeze_here()?;
    text((&client).write_all(b"hello"))?;
    let (server, _) = text(listener.accept())?;
    let mut bytes = [0; 5];
    text((&server).read_exact(&mut bytes))?;
    same!(&bytes, b"hello", "what came through");
    passes(&server, &client)
}

/// The other end was closed with something unread: an error is told once.
fn reset(stage: &Stage) -> Verdict {
    let (_listener, mut client, server) = pair()?;
    text(client.write_all(b"unread"))?;
    let arrived = |fd: i32| {
        let mut waiting = 0;
        (unsafe { libc::ioctl(fd, libc::FIONREAD, &mut waiting) } == 0).then_some(waiting)
    };
    crate::call::until("it has arrived", || arrived(server.as_raw_fd()) == Some(6))?;
    drop(server);
    let mut poll = [libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    same!(sys!(poll(poll.as_mut_ptr(), 1, 60_000))?, 1, "what shows the end");
    stage.freeze_here()?;
    let told = client.read(&mut [0; 8]).map_err(|why| why.raw_os_error());
    same!(told, Err(Some(libc::ECONNRESET)), "what is told");
    same!(text(client.read(&mut [0; 8]))?, 0, "the end");
    check!(client.write_all(b"x").is_err(), "it takes something");
    Ok(())
}

/// Sends a byte out of band amid others, and waits until all of them are there.
fn send_urgent(client: &TcpStream, server: &TcpStream, behind: &[u8]) -> Verdict {
    text((&*client).write_all(b"before"))?;
    sys!(send(client.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB))?;
    let mut poll = [libc::pollfd { fd: server.as_raw_fd(), events: libc::POLLPRI, revents: 0 }];
    same!(sys!(poll(poll.as_mut_ptr(), 1, 60_000))?, 1, "what shows the byte");
    text((&*client).write_all(behind))
}

fn take_urgent(server: &TcpStream) -> Verdict {
    let mut byte = 0u8;
    same!(sys!(recv(server.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_OOB))?, 1, "bytes out of band");
    same!(byte, b'!', "the byte out of band");
    Ok(())
}

/// A byte out of band that was read, with nothing behind it.
fn out_of_band_read(stage: &Stage) -> Verdict {
    let (_listener, client, server) = pair()?;
    send_urgent(&client, &server, b"")?;
    take_urgent(&server)?;
    stage.freeze_here()?;
    same!(crate::call::read_all(server.as_raw_fd(), 6)?, b"before", "what comes before it");
    passes(&client, &server)
}

/// A byte out of band that was not read: what lies behind it cannot be looked at.
fn out_of_band(stage: &Stage) -> Verdict {
    let (_listener, client, server) = pair()?;
    send_urgent(&client, &server, b"after")?;
    stage.freeze_here()?;
    take_urgent(&server)?;
    same!(crate::call::read_some(server.as_raw_fd(), 100)?, b"before", "what comes before it");
    same!(crate::call::read_all(server.as_raw_fd(), 5)?, b"after", "what comes after it");
    Ok(())
}

/// The byte was read, and what lies ahead of it and behind it was not.
fn out_of_band_passed(stage: &Stage) -> Verdict {
    let (_listener, client, server) = pair()?;
    send_urgent(&client, &server, b"after")?;
    take_urgent(&server)?;
    stage.freeze_here()?;
    same!(crate::call::read_some(server.as_raw_fd(), 100)?, b"before", "what comes before it");
    same!(crate::call::read_all(server.as_raw_fd(), 5)?, b"after", "what comes after it");
    Ok(())
}

/// A socket that is connected to itself: what it sends it receives.
fn own_peer(stage: &Stage) -> Verdict {
    let fd = sys!(socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
    let mut address: libc::sockaddr_in = zeroed();
    address.sin_family = libc::AF_INET as u16;
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    let (pointer, mut len) =
        ((&raw mut address).cast::<libc::sockaddr>(), size_of::<libc::sockaddr_in>() as u32);
    sys!(bind(fd, pointer, len))?;
    sys!(getsockname(fd, pointer, &mut len))?;
    sys!(connect(fd, pointer, len))?;
    judge_own_peer(stage, unsafe { TcpStream::from_raw_fd(fd) }, b"to itself")
}

/// The same, with nothing that waits: what such a one leaves lingers when it is ended.
fn own_peer_v6(stage: &Stage) -> Verdict {
    let fd = sys!(socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
    let mut address: libc::sockaddr_in6 = zeroed();
    address.sin6_family = libc::AF_INET6 as u16;
    address.sin6_addr.s6_addr[15] = 1;
    let (pointer, mut len) =
        ((&raw mut address).cast::<libc::sockaddr>(), size_of::<libc::sockaddr_in6>() as u32);
    if sys!(bind(fd, pointer, len)).is_err() {
        eprintln!("skipped: there is no IPv6 here");
        return stage.freeze_here();
    }
    sys!(getsockname(fd, pointer, &mut len))?;
    sys!(connect(fd, pointer, len))?;
    judge_own_peer(stage, unsafe { TcpStream::from_raw_fd(fd) }, b"")
}

fn judge_own_peer(stage: &Stage, mut socket: TcpStream, waiting: &[u8]) -> Verdict {
    let before = text(socket.local_addr())?;
    text(socket.set_nodelay(true))?;
    text(socket.write_all(waiting))?;
    stage.freeze_here()?;
    let now = text(socket.local_addr())?;
    same!(text(socket.peer_addr())?, now, "its peer");
    check!(now == before || stage.was_copied(), "it is {now}, and was {before}");
    same!(text(socket.nodelay())?, true, "its option");
    same!(crate::call::read_all(socket.as_raw_fd(), waiting.len())?, waiting, "what it sent");
    passes(&socket, &socket)
}

/// Lets a socket send by MSG_ZEROCOPY, and does so.
fn send_without_copy(socket: &TcpStream, bytes: &'static [u8]) -> Result<usize, String> {
    let (fd, on) = (socket.as_raw_fd(), 1i32);
    // SO_ZEROCOPY.
    sys!(setsockopt(fd, libc::SOL_SOCKET, 60, (&raw const on).cast(), 4))?;
    let flags = libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT;
    let sent = sys!(send(fd, bytes.as_ptr().cast(), bytes.len(), flags))?;
    Ok(sent as usize)
}

/// The kernel has told that a send by MSG_ZEROCOPY is done, and nobody has read that.
fn sends_told(stage: &Stage) -> Verdict {
    let (_listener, client, mut server) = pair()?;
    let sent = send_without_copy(&client, &[7; 10_000])?;
    text(server.read_exact(&mut vec![0; sent]))?;
    let mut poll = [libc::pollfd { fd: client.as_raw_fd(), events: 0, revents: 0 }];
    same!(sys!(poll(poll.as_mut_ptr(), 1, 60_000))?, 1, "what shows the message");
    stage.freeze_here()?;
    same!(
        crate::call::read_error(client.as_raw_fd())?,
        Some((5, 0)),
        "SO_EE_ORIGIN_ZEROCOPY, of the first send"
    );
    passes(&client, &server)
}

/// Nobody has received all of what was sent by MSG_ZEROCOPY, so the kernel still has to tell that it is done.
fn sends_under_way(stage: &Stage) -> Verdict {
    let (_listener, client, mut server) = pair()?;
    let bytes: &'static [u8] = vec![7; 64 << 20].leak();
    let sent = send_without_copy(&client, bytes)?;
    check!(sent < bytes.len(), "all of it found room");
    stage.freeze_here()?;
    text(server.read_exact(&mut vec![0; sent]))?;
    let mut told = None;
    crate::call::until("it is told", || {
        told = crate::call::read_error(client.as_raw_fd()).ok().flatten();
        told.is_some()
    })?;
    same!(told.map(|(origin, _)| origin), Some(5), "SO_EE_ORIGIN_ZEROCOPY");
    Ok(())
}

/// Segments of one client are signed (TCP_MD5SIG).
fn keys(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    // `struct tcp_md5sig` of include/uapi/linux/tcp.h: an address of 128 bytes, flags, a prefix, a length, an interface, the key.
    let mut key = [0u8; 216];
    key[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    key[4..8].copy_from_slice(&[127, 0, 0, 9]);
    (key[130], key[136]) = (3, b'k');
    // TCP_MD5SIG.
    let set = sys!(setsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, 14, key.as_ptr().cast(), 216));
    if set.is_err() {
        eprintln!("skipped: {}", std::io::Error::last_os_error());
    }
    stage.freeze_here()?;
    // That key is found, and is taken away.
    key[130] = 0;
    if set.is_ok() {
        sys!(setsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, 14, key.as_ptr().cast(), 216))?;
    }
    serve(&listener)
}

/// What takes memory as keys do, but is given back: a filter that lets all through.
fn filtered(stage: &Stage) -> Verdict {
    let (listener, client, server) = pair()?;
    let mut code = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: u32::MAX }];
    let filter = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    for fd in [listener.as_raw_fd(), client.as_raw_fd()] {
        let len = size_of::<libc::sock_fprog>() as u32;
        let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
        if sys!(setsockopt(fd, level, name, (&raw const filter).cast(), len)).is_err() {
            // Some kernels let root only filter what comes by TCP.
            same!(crate::call::errno(), libc::EPERM, "why no filter is taken");
            eprintln!("skipped: filters of TCP are root's here");
            return stage.freeze_here();
        }
    }
    stage.freeze_here()?;
    for fd in [listener.as_raw_fd(), client.as_raw_fd()] {
        let nothing = 0i32;
        let (level, name) = (libc::SOL_SOCKET, libc::SO_DETACH_FILTER);
        sys!(setsockopt(fd, level, name, (&raw const nothing).cast(), 4))?;
    }
    passes(&client, &server)?;
    serve(&listener)
}

/// Nobody has accepted it, and it has said something already.
fn pending_data(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let client = text(TcpStream::connect(text(listener.local_addr())?))?;
    text((&client).write_all(b"early"))?;
    stage.freeze_here()?;
    let (server, _) = text(listener.accept())?;
    same!(crate::call::read_all(server.as_raw_fd(), 5)?, b"early", "what it said");
    passes(&client, &server)
}
