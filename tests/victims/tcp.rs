//! TCP sockets: those that listen come back, established ones are closed.

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

/// Thawed, an established connection is closed: an ordinary end or error, no hang. Unharmed, it lives on.
fn established(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let mut client = text(TcpStream::connect(text(listener.local_addr())?))?;
    let (server, _) = text(listener.accept())?;
    stage.freeze_here()?;
    text(client.set_read_timeout(Some(Duration::from_secs(20)))).ok();
    let sent = (&server).write_all(b"hello");
    let received = client.read(&mut [0; 5]);
    if stage.was_thawed() {
        let hangs = matches!(&received, Err(why) if why.kind() == std::io::ErrorKind::WouldBlock);
        check!(
            !hangs && !matches!(received, Ok(1..)),
            "the closed connection: sent {sent:?}, received {received:?}"
        );
    } else {
        check!(
            sent.is_ok() && matches!(received, Ok(5)),
            "the connection: sent {sent:?}, received {received:?}"
        );
    }
    serve(&listener)
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
