//! Unix sockets inside the tree.

use crate::Victim;
use crate::call::{c, open, read_all, read_some, sys_socket_option, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

pub(crate) const VICTIMS: &[Victim] = &[
    ("unix_stream", stream),
    ("unix_datagram", datagram),
    ("unix_seqpacket", seqpacket),
    ("unix_between_processes", between),
    ("unix_shutdown", shutdown),
    ("unix_peer_closed", peer_closed),
    ("unix_listening", listening),
    ("unix_pending_connection", pending_connection),
    ("unix_pending_data", pending_data),
    ("unix_abstract", abstract_name),
    ("unix_datagram_named", datagram_named),
    ("unix_rights_in_flight", rights_in_flight),
    ("unix_options", options),
    ("unix_unconnected", unconnected),
    ("unix_full", full),
    ("unix_rights_nested", rights_nested),
    ("unix_rights_of_itself", rights_of_itself),
    ("unix_pending_closed", pending_closed),
    ("unix_pending_closed_data", pending_closed_data),
    ("unix_passing", passing),
    ("unix_many_to_one", many_to_one),
    ("unix_bound_over", bound_over),
    ("unix_moved", moved),
    ("unix_moved_datagram", moved_datagram),
    ("unix_credentials", credentials),
    ("unix_listener_credentials", listener_credentials),
    ("unix_backlog_full", backlog_full),
    ("unix_datagram_full", datagram_full),
    ("unix_seqpacket_shutdown", seqpacket_shutdown),
    ("unix_shutdown_read", shutdown_read),
    ("unix_shutdown_both", shutdown_both),
    ("unix_peer_reset", peer_reset),
    ("unix_peer_reset_left", peer_reset_left),
    ("unix_datagram_disconnected", datagram_disconnected),
    ("unix_datagram_peer_closed", datagram_peer_closed),
    ("unix_rights_listener", rights_listener),
    ("unix_rights_many", rights_many),
    ("unix_rights_cycle", rights_cycle),
    ("unix_out_of_band", out_of_band),
    ("unix_seqpacket_listening", seqpacket_listening),
    ("unix_both_full", both_full),
];

fn text<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|why| why.to_string())
}

fn pair(kind: i32) -> Result<[i32; 2], String> {
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()))?;
    Ok(pair)
}

fn stream(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let data: Vec<u8> = (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    write_all(one, &data)?;
    write_all(two, b"the other way")?;
    same!(read_all(two, 5)?, data[..5], "the first bytes");
    stage.freeze_here()?;
    write_all(one, b"more")?;
    check!(read_all(two, data.len() - 5)? == data[5..], "the content changed");
    same!(read_all(two, 4)?, b"more", "what was sent after");
    same!(read_all(one, 13)?, b"the other way", "the other way");
    write_all(two, b"back")?;
    same!(read_all(one, 4)?, b"back", "what was sent back");
    Ok(())
}

fn messages(stage: &Stage, kind: i32) -> Verdict {
    let [one, two] = pair(kind)?;
    for size in [1usize, 0, 1000, 7] {
        let message = vec![size as u8; size];
        sys!(send(one, message.as_ptr().cast(), size, 0))?;
    }
    stage.freeze_here()?;
    same!(sys_socket_option(two, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?, -1, "where a look begins");
    sys!(send(one, b"last".as_ptr().cast(), 4, 0))?;
    for size in [1usize, 0, 1000, 7] {
        same!(read_some(two, 5000)?, vec![size as u8; size], "a message");
    }
    same!(read_some(two, 5000)?, b"last", "the message sent after");
    sys!(send(two, b"back".as_ptr().cast(), 4, 0))?;
    same!(read_some(one, 5000)?, b"back", "what was sent back");
    Ok(())
}

fn datagram(stage: &Stage) -> Verdict {
    messages(stage, SOCK_DGRAM)
}

fn seqpacket(stage: &Stage) -> Verdict {
    messages(stage, SOCK_SEQPACKET)
}

fn between(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let child = stage.fork(|| {
        sys!(close(one))?;
        // Stands in the call while it is frozen.
        same!(read_all(two, 4)?, b"ping", "what the child read");
        write_all(two, b"pong")?;
        same!(read_some(two, 4)?, b"", "the end");
        Ok(())
    })?;
    sys!(close(two))?;
    stage.freeze_here()?;
    write_all(one, b"ping")?;
    same!(read_all(one, 4)?, b"pong", "what the parent read");
    sys!(close(one))?;
    stage.reap(child)
}

fn shutdown(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    write_all(one, b"last words")?;
    sys!(shutdown(one, libc::SHUT_WR))?;
    stage.freeze_here()?;
    same!(read_some(two, 100)?, b"last words", "what was left");
    same!(read_some(two, 100)?, b"", "the end");
    let sent = sys!(send(one, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL));
    check!(sent.is_err(), "a socket that was shut down sends");
    write_all(two, b"other way")?;
    same!(read_some(one, 100)?, b"other way", "the other way");
    Ok(())
}

fn peer_closed(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    write_all(one, b"last words")?;
    sys!(close(one))?;
    stage.freeze_here()?;
    same!(read_some(two, 100)?, b"last words", "what was left");
    same!(read_some(two, 100)?, b"", "the end");
    let sent = sys!(send(two, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL));
    check!(sent.is_err() && crate::call::errno() == libc::EPIPE, "sending to a closed peer: {sent:?}");
    Ok(())
}

fn listening(stage: &Stage) -> Verdict {
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    stage.freeze_here()?;
    let mut client = text(UnixStream::connect(&path))?;
    let (mut server, _) = text(listener.accept())?;
    text(client.write_all(b"hello"))?;
    let mut bytes = [0; 5];
    text(server.read_exact(&mut bytes))?;
    same!(&bytes, b"hello", "what came through");
    Ok(())
}

/// Connected, but not yet accepted.
fn pending_connection(stage: &Stage) -> Verdict {
    pending(stage, b"")
}

/// Connected and written to, but not yet accepted.
fn pending_data(stage: &Stage) -> Verdict {
    pending(stage, b"hel")
}

fn pending(stage: &Stage, early: &[u8]) -> Verdict {
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    let mut client = text(UnixStream::connect(&path))?;
    text(client.write_all(early))?;
    stage.freeze_here()?;
    text(client.write_all(&b"hello"[early.len()..]))?;
    let (mut server, _) = text(listener.accept())?;
    let mut bytes = [0; 5];
    text(server.read_exact(&mut bytes))?;
    same!(&bytes, b"hello", "what came through");
    text(server.write_all(b"world"))?;
    text(client.read_exact(&mut bytes))?;
    same!(&bytes, b"world", "what came back");
    Ok(())
}

fn abstract_name(stage: &Stage) -> Verdict {
    use std::os::linux::net::SocketAddrExt;
    // The victim's directory makes the name unique.
    let name = stage.path("abstract").to_string_lossy().into_owned();
    let address = text(std::os::unix::net::SocketAddr::from_abstract_name(&name))?;
    let listener = text(UnixListener::bind_addr(&address))?;
    let established = text(UnixStream::connect_addr(&address))?;
    let (accepted, _) = text(listener.accept())?;
    stage.freeze_here()?;
    text((&accepted).write_all(b"hello"))?;
    let mut bytes = [0; 5];
    text((&established).read_exact(&mut bytes))?;
    let local = text(listener.local_addr())?;
    same!(local.as_abstract_name(), Some(name.as_bytes()), "its name");
    let peer = text(established.peer_addr())?;
    same!(peer.as_abstract_name(), Some(name.as_bytes()), "the name of the peer");
    text(UnixStream::connect_addr(&address).map(drop))
}

fn datagram_named(stage: &Stage) -> Verdict {
    let (here, there) = (stage.path("here"), stage.path("there"));
    let (one, two) = (text(UnixDatagram::bind(&here))?, text(UnixDatagram::bind(&there))?);
    text(one.send_to(b"queued", &there))?;
    let third = text(UnixDatagram::unbound())?;
    text(third.connect(&there))?;
    stage.freeze_here()?;
    let mut bytes = [0; 16];
    let (len, sender) = text(two.recv_from(&mut bytes))?;
    same!(&bytes[..len], b"queued", "what was queued");
    same!(sender.as_pathname(), Some(here.as_path()), "its sender");
    text(third.send(b"hello"))?;
    same!(text(two.recv(&mut bytes))?, 5, "what came from the connected one");
    text(two.send_to(b"back", &here))?;
    same!(text(one.recv(&mut bytes))?, 4, "what came back");
    Ok(())
}

pub(crate) fn send_descriptor(socket: i32, fd: i32) -> Verdict {
    let byte = libc::iovec { iov_base: b"d".as_ptr().cast_mut().cast(), iov_len: 1 };
    let mut control = [0u64; 8];
    let mut message: libc::msghdr = zeroed();
    message.msg_iov = (&raw const byte).cast_mut();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd);
    }
    sys!(sendmsg(socket, &message, 0))?;
    Ok(())
}

pub(crate) fn receive_descriptor(socket: i32) -> Result<i32, String> {
    let mut byte = 0u8;
    let iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0u64; 8];
    let mut message: libc::msghdr = zeroed();
    message.msg_iov = (&raw const iov).cast_mut();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    sys!(recvmsg(socket, &mut message, 0))?;
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        check!(
            !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS,
            "no descriptor came with the message"
        );
        Ok(libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    }
}

/// A descriptor that is only in a queue.
fn rights_in_flight(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let path = stage.path("file");
    text(std::fs::write(&path, "content"))?;
    let fd = open(&path, libc::O_RDONLY)?;
    sys!(lseek(fd, 3, libc::SEEK_SET))?;
    send_descriptor(one, fd)?;
    sys!(close(fd))?;
    stage.freeze_here()?;
    let received = receive_descriptor(two)?;
    same!(read_all(received, 10)?, b"tent", "the file");
    Ok(())
}

fn options(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_DGRAM)?;
    let set = [(libc::SO_PASSCRED, 1), (libc::SO_SNDBUF, 30_000), (libc::SO_RCVBUF, 20_000)];
    for (name, value) in set {
        sys!(setsockopt(one, libc::SOL_SOCKET, name, (&raw const value).cast(), 4))?;
    }
    sys!(fcntl(two, libc::F_SETFL, libc::O_NONBLOCK))?;
    let read = || set.map(|(name, _)| sys_socket_option(one, libc::SOL_SOCKET, name));
    let before = read();
    stage.freeze_here()?;
    same!(read(), before, "the options");
    check!(read_some(two, 1).is_err(), "there is something to read");
    Ok(())
}

fn unconnected(stage: &Stage) -> Verdict {
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    let fd = sys!(socket(libc::AF_UNIX, SOCK_STREAM, 0))?;
    stage.freeze_here()?;
    let mut address: libc::sockaddr_un = zeroed();
    address.sun_family = libc::AF_UNIX as u16;
    let bytes = path.to_string_lossy().into_owned().into_bytes();
    check!(bytes.len() < address.sun_path.len(), "the directory's name is too long");
    bytes.iter().enumerate().for_each(|(index, byte)| address.sun_path[index] = *byte as libc::c_char);
    sys!(connect(fd, (&raw const address).cast(), size_of::<libc::sockaddr_un>() as u32))?;
    check!(listener.as_raw_fd() != fd, "two sockets, one number");
    text(listener.accept().map(drop))
}

/// Filled until it takes no more; then a writer waits.
fn full(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let block: Vec<u8> = (0..4096u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let child = stage.fork(|| {
        sys!(close(two))?;
        (0..500).try_for_each(|_| write_all(one, &block))
    })?;
    sys!(close(one))?;
    crate::call::until("the child waits", || crate::call::is_in_call(child, libc::SYS_write))?;
    stage.freeze_here()?;
    for index in 0..500 {
        check!(read_all(two, 4096)? == block, "block {index} changed");
    }
    same!(read_some(two, 1)?, b"", "the end");
    stage.reap(child)
}

/// A socket in flight, in whose queue another is in flight, in whose queue a file is.
fn rights_nested(stage: &Stage) -> Verdict {
    let path = stage.path("file");
    text(std::fs::write(&path, "content"))?;
    let fd = open(&path, libc::O_RDONLY)?;
    let [inner, inner_end] = pair(SOCK_STREAM)?;
    let [middle, middle_end] = pair(SOCK_SEQPACKET)?;
    let [outer, outer_end] = pair(SOCK_DGRAM)?;
    send_descriptor(inner, fd)?;
    write_all(inner, b"behind")?;
    send_descriptor(middle, inner_end)?;
    send_descriptor(outer, middle_end)?;
    for fd in [fd, inner_end, middle_end, inner, middle] {
        sys!(close(fd))?;
    }
    stage.freeze_here()?;
    let middle = receive_descriptor(outer_end)?;
    let inner = receive_descriptor(middle)?;
    let file = receive_descriptor(inner)?;
    same!(read_all(file, 10)?, b"content", "the file");
    same!(read_all(inner, 6)?, b"behind", "what lay behind it");
    same!(read_some(inner, 1)?, b"", "the end");
    Ok(())
}

/// A socket in its own queue.
fn rights_of_itself(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    send_descriptor(one, two)?;
    stage.freeze_here()?;
    let again = receive_descriptor(two)?;
    write_all(one, b"hello")?;
    same!(read_all(again, 5)?, b"hello", "what came through");
    Ok(())
}

/// The client went before it was accepted: with nothing sent that is an end, else nobody can read what it sent.
fn closed_early(stage: &Stage, early: &[u8]) -> Verdict {
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    let mut client = text(UnixStream::connect(&path))?;
    text(client.write_all(early))?;
    drop(client);
    stage.freeze_here()?;
    let (mut server, _) = text(listener.accept())?;
    let mut bytes = Vec::new();
    text(server.read_to_end(&mut bytes))?;
    same!(bytes, early, "what came through");
    Ok(())
}

fn pending_closed(stage: &Stage) -> Verdict {
    closed_early(stage, b"")
}

fn pending_closed_data(stage: &Stage) -> Verdict {
    closed_early(stage, b"early")
}

/// Half of the time there is a connection that was not accepted yet and is closed or written to already.
fn passing(stage: &Stage) -> Verdict {
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    stage.ready();
    let moment = std::time::Duration::from_millis(10);
    let mut rounds = 0u32;
    while !stage.gone() {
        let mut client = Some(text(UnixStream::connect(&path))?);
        let expected: &[u8] = if rounds.is_multiple_of(2) { b"" } else { b"early" };
        match rounds % 2 {
            0 => client = None,
            _ => text(client.iter_mut().try_for_each(|client| client.write_all(expected)))?,
        }
        crate::call::nap(moment);
        let (mut server, _) = text(listener.accept())?;
        drop(client);
        let mut bytes = Vec::new();
        text(server.read_to_end(&mut bytes))?;
        same!(bytes, expected, "what came through");
        crate::call::nap(moment);
        rounds += 1;
    }
    Ok(())
}

/// Several senders, two of them with a name, one of them gone.
fn many_to_one(stage: &Stage) -> Verdict {
    let server = text(UnixDatagram::bind(stage.path("server")))?;
    let first = text(UnixDatagram::bind(stage.path("first")))?;
    let second = text(UnixDatagram::bind(stage.path("second")))?;
    let nameless = text(UnixDatagram::unbound())?;
    for (sender, message) in [(&first, "one"), (&nameless, "two"), (&second, "three"), (&first, "four")] {
        text(sender.connect(stage.path("server")))?;
        text(sender.send(message.as_bytes()))?;
    }
    drop(nameless);
    stage.freeze_here()?;
    let mut bytes = [0; 16];
    for (name, message) in
        [(Some("first"), "one"), (None, "two"), (Some("second"), "three"), (Some("first"), "four")]
    {
        let (len, from) = text(server.recv_from(&mut bytes))?;
        same!(&bytes[..len], message.as_bytes(), "a message");
        let path = name.map(|name| stage.path(name));
        same!(from.as_pathname(), path.as_deref(), "who sent {message}");
    }
    text(second.send(b"on"))?;
    same!(text(server.recv(&mut bytes))?, 2, "what is sent then");
    Ok(())
}

/// The node was replaced by another listening socket of the same path.
fn bound_over(stage: &Stage) -> Verdict {
    let path = stage.path("socket");
    let old = text(UnixListener::bind(&path))?;
    let client = text(UnixStream::connect(&path))?;
    let (server, _) = text(old.accept())?;
    text(std::fs::remove_file(&path))?;
    let new = text(UnixListener::bind(&path))?;
    stage.freeze_here()?;
    text((&client).write_all(b"hello"))?;
    let mut bytes = [0; 5];
    text((&server).read_exact(&mut bytes))?;
    let again = text(UnixStream::connect(&path))?;
    let (served, _) = text(new.accept())?;
    text((&again).write_all(b"again"))?;
    text((&served).read_exact(&mut bytes))?;
    same!(&bytes, b"again", "what came to the new one");
    text(old.set_nonblocking(true))?;
    check!(old.accept().is_err(), "the old one has a client");
    Ok(())
}

/// Who is at the other end, and who sent what waits.
/// Servers whose sockets were bound under a name for the moment: renamed, linked under their own, linked and left under both, in a
/// directory that was renamed, and bound from a directory that the program has left.
fn moved(stage: &Stage) -> Verdict {
    let path = |name: &str| stage.path(name);
    let listen = |name: &str| text(UnixListener::bind(path(name)));
    let renamed = listen("renamed.1")?;
    text(std::fs::rename(path("renamed.1"), path("renamed")))?;
    let linked = listen("linked.1")?;
    text(std::fs::hard_link(path("linked.1"), path("linked")))?;
    text(std::fs::remove_file(path("linked.1")))?;
    let twice = listen("one")?;
    text(std::fs::hard_link(path("one"), path("two")))?;
    text(std::fs::create_dir(path("before")))?;
    let along = listen("before/socket")?;
    text(std::fs::rename(path("before"), path("behind")))?;
    let here = text(std::env::current_dir())?;
    text(std::env::set_current_dir(stage.path("")))?;
    let near = text(UnixListener::bind("near.1"))?;
    text(std::fs::rename("near.1", "near"))?;
    stage.freeze_here()?;
    text(std::env::set_current_dir(here))?;
    let reached = |server: &UnixListener, name: &str| {
        let mut client = text(UnixStream::connect(path(name))).map_err(|why| format!("{name}: {why}"))?;
        let (mut accepted, _) = text(server.accept())?;
        text(client.write_all(b"hello"))?;
        let mut read = [0; 5];
        text(accepted.read_exact(&mut read))?;
        same!(&read, b"hello", "what came by {name}");
        Ok::<(), String>(())
    };
    let all = [(&renamed, "renamed"), (&linked, "linked"), (&twice, "one"), (&twice, "two")];
    for (server, name) in all.into_iter().chain([(&along, "behind/socket"), (&near, "near")]) {
        reached(server, name)?;
    }
    for name in ["renamed.1", "linked.1", "near.1"] {
        check!(!path(name).exists(), "{name} is there again");
    }
    let inode = |name: &str| text(std::fs::metadata(path(name))).map(|file| file.ino());
    same!(inode("one")?, inode("two")?, "the node of both names");
    let name = text(renamed.local_addr())?;
    let bound = path("renamed.1");
    same!(name.as_pathname(), Some(bound.as_path()), "the name that it tells");
    Ok(())
}

/// A socket that receives datagrams under a name that it was not bound to, and is connected to another.
fn moved_datagram(stage: &Stage) -> Verdict {
    let path = |name: &str| stage.path(name);
    let server = text(UnixDatagram::bind(path("server.1")))?;
    text(std::fs::rename(path("server.1"), path("server")))?;
    let client = text(UnixDatagram::bind(path("client.1")))?;
    text(std::fs::rename(path("client.1"), path("client")))?;
    text(client.connect(path("server")))?;
    stage.freeze_here()?;
    text(client.send(b"there"))?;
    let mut read = [0; 8];
    same!(text(server.recv(&mut read))?, 5, "what came to the server");
    text(server.send_to(b"back", path("client")))?;
    same!(text(client.recv(&mut read))?, 4, "what came back");
    Ok(())
}

fn credentials(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let on = 1i32;
    sys!(setsockopt(two, libc::SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), 4))?;
    let peer = || {
        let (mut found, mut len) = (zeroed::<libc::ucred>(), size_of::<libc::ucred>() as u32);
        sys!(getsockopt(one, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut found).cast(), &mut len))?;
        Ok::<_, String>((found.uid, found.gid))
    };
    let before = peer()?;
    write_all(one, b"x")?;
    stage.freeze_here()?;
    same!(peer()?, before, "user and group of the peer");
    let (mut byte, mut control) = ([0u8; 1], [0u64; 8]);
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut message: libc::msghdr = zeroed();
    (message.msg_iov, message.msg_iovlen) = (&mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), 64);
    same!(sys!(recvmsg(two, &mut message, 0))?, 1, "bytes");
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    check!(!header.is_null(), "no credentials came");
    let sender: libc::ucred = unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    same!((sender.uid, sender.gid), before, "user and group of the sender");
    Ok(())
}

/// Who connects to a listening socket is told who listens, and finds that process.
fn listener_credentials(stage: &Stage) -> Verdict {
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    let waiting = text(UnixStream::connect(&path))?;
    stage.freeze_here()?;
    let client = text(UnixStream::connect(&path))?;
    let (mut found, mut len) = (zeroed::<libc::ucred>(), size_of::<libc::ucred>() as u32);
    sys!(getsockopt(
        std::os::fd::AsRawFd::as_raw_fd(&client),
        libc::SOL_SOCKET,
        libc::SO_PEERCRED,
        (&raw mut found).cast(),
        &mut len
    ))?;
    same!(found.pid, unsafe { libc::getpid() }, "the process that listens");
    // The one that waited is still the first to be accepted.
    let (server, _) = text(listener.accept())?;
    text((&waiting).write_all(b"hello"))?;
    let mut bytes = [0; 5];
    text((&server).read_exact(&mut bytes))?;
    same!(&bytes, b"hello", "what came to the first");
    Ok(())
}

/// As many clients as the backlog takes, and one that waits for room in it.
fn backlog_full(stage: &Stage) -> Verdict {
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    sys!(listen(listener.as_raw_fd(), 1))?;
    let early = [text(UnixStream::connect(&path))?, text(UnixStream::connect(&path))?];
    let child = stage.fork(|| {
        let mut late = text(UnixStream::connect(&path))?;
        text(late.write_all(b"late"))
    })?;
    crate::call::until("the child waits", || crate::call::is_in_call(child, libc::SYS_connect))?;
    stage.freeze_here()?;
    for client in &early {
        let (server, _) = text(listener.accept())?;
        text((&*client).write_all(b"early"))?;
        same!(read_all(server.as_raw_fd(), 5)?, b"early", "what came of one that was in time");
    }
    let (server, _) = text(listener.accept())?;
    same!(read_all(server.as_raw_fd(), 100)?, b"late", "what came of the one that waited");
    stage.reap(child)
}

/// A queue of datagrams without room, and one that waits for it.
fn datagram_full(stage: &Stage) -> Verdict {
    let server = text(UnixDatagram::bind(stage.path("server")))?;
    let count = stage.path("count");
    let child = stage.fork(|| {
        let client = text(UnixDatagram::unbound())?;
        text(client.set_nonblocking(true))?;
        let send = |n: u32| client.send_to(&n.to_ne_bytes(), stage.path("server"));
        let mut sent = 0;
        while send(sent).is_ok() {
            sent += 1;
        }
        text(std::fs::write(&count, sent.to_string()))?;
        text(client.set_nonblocking(false))?;
        (sent..sent + 3).try_for_each(|n| text(send(n).map(drop)))
    })?;
    crate::call::until("the child waits", || {
        count.exists() && crate::call::is_in_call(child, libc::SYS_sendto)
    })?;
    stage.freeze_here()?;
    let all: u32 = text(std::fs::read_to_string(&count))?.parse().map_err(|_| "a number".to_owned())?;
    for n in 0..all + 3 {
        same!(read_some(server.as_raw_fd(), 100)?, n.to_ne_bytes(), "a datagram");
    }
    stage.reap(child)
}

fn shut(fd: i32, how: i32) -> Verdict {
    sys!(shutdown(fd, how))?;
    Ok(())
}

fn cannot_send(fd: i32) -> Verdict {
    let sent = sys!(send(fd, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL));
    check!(sent.is_err() && crate::call::errno() == libc::EPIPE, "sending: {sent:?}");
    Ok(())
}

fn seqpacket_shutdown(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_SEQPACKET)?;
    for message in [&b"last"[..], b"words"] {
        sys!(send(one, message.as_ptr().cast(), message.len(), 0))?;
    }
    sys!(send(two, b"back".as_ptr().cast(), 4, 0))?;
    shut(one, libc::SHUT_WR)?;
    stage.freeze_here()?;
    for message in [&b"last"[..], b"words", b""] {
        same!(read_some(two, 100)?, message, "a message");
    }
    cannot_send(one)?;
    same!(read_some(one, 100)?, b"back", "the other way");
    sys!(send(two, b"more".as_ptr().cast(), 4, 0))?;
    same!(read_some(one, 100)?, b"more", "the other way");
    Ok(())
}

/// One that reads no more, with something left that it may still read.
fn shutdown_read(stage: &Stage) -> Verdict {
    let pairs = [pair(SOCK_STREAM)?, pair(SOCK_SEQPACKET)?];
    for [one, two] in pairs {
        sys!(send(two, b"left".as_ptr().cast(), 4, 0))?;
        shut(one, libc::SHUT_RD)?;
    }
    stage.freeze_here()?;
    for [one, two] in pairs {
        cannot_send(two)?;
        same!(read_some(one, 100)?, b"left", "what was left");
        same!(read_some(one, 100)?, b"", "the end");
        sys!(send(one, b"on".as_ptr().cast(), 2, 0))?;
        same!(read_some(two, 100)?, b"on", "the other way");
    }
    Ok(())
}

fn shutdown_both(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let [three, four] = pair(SOCK_DGRAM)?;
    for (from, to) in [(one, two), (three, four)] {
        sys!(send(from, b"left".as_ptr().cast(), 4, 0))?;
        sys!(send(to, b"lost".as_ptr().cast(), 4, 0))?;
        shut(from, libc::SHUT_RDWR)?;
    }
    stage.freeze_here()?;
    for (from, to) in [(one, two), (three, four)] {
        cannot_send(from)?;
        same!(read_some(to, 100)?, b"left", "what was left");
        same!(read_some(from, 100)?, b"lost", "what was left for it");
        same!(read_some(from, 100)?, b"", "its end");
    }
    same!(read_some(two, 100)?, b"", "the end");
    cannot_send(two)
}

fn told_reset(fd: i32) -> Verdict {
    let got = sys!(recv(fd, [0u8; 8].as_mut_ptr().cast(), 8, 0));
    same!((got.is_err(), crate::call::errno()), (true, libc::ECONNRESET), "what is told");
    Ok(())
}

/// Closes one end with something unread in it, and `left` by it for the other.
fn reset(kind: i32, left: &[u8]) -> Result<i32, String> {
    let [stays, goes] = pair(kind)?;
    if !left.is_empty() {
        sys!(send(goes, left.as_ptr().cast(), left.len(), 0))?;
    }
    sys!(send(stays, b"unread".as_ptr().cast(), 6, 0))?;
    sys!(close(goes))?;
    Ok(stays)
}

/// The peer was closed with something unread: an error is told once.
fn peer_reset(stage: &Stage) -> Verdict {
    let (stream, empty) = (reset(SOCK_STREAM, b"left")?, reset(SOCK_STREAM, b"")?);
    let packets = reset(SOCK_SEQPACKET, b"")?;
    stage.freeze_here()?;
    same!(read_some(stream, 100)?, b"left", "what was left");
    for stays in [stream, empty, packets] {
        told_reset(stays)?;
        same!(read_some(stays, 100)?, b"", "the end");
        cannot_send(stays)?;
    }
    Ok(())
}

/// An error that would be told before what is left.
fn peer_reset_left(stage: &Stage) -> Verdict {
    let stays = reset(SOCK_SEQPACKET, b"left")?;
    stage.freeze_here()?;
    told_reset(stays)?;
    same!(read_some(stays, 100)?, b"left", "what was left");
    same!(read_some(stays, 100)?, b"", "the end");
    Ok(())
}

/// The other end of a pair of datagram sockets has turned to another, with something unread: an error tells of it.
fn datagram_disconnected(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_DGRAM)?;
    let other = text(UnixDatagram::bind(stage.path("other")))?;
    sys!(send(two, b"unread".as_ptr().cast(), 6, 0))?;
    let turning = unsafe { std::mem::ManuallyDrop::new(UnixDatagram::from_raw_fd(one)) };
    text(turning.connect(stage.path("other")))?;
    stage.freeze_here()?;
    told_reset(two)?;
    sys!(send(one, b"turned".as_ptr().cast(), 6, 0))?;
    same!(read_some(other.as_raw_fd(), 100)?, b"turned", "what comes to the other");
    Ok(())
}

fn datagram_peer_closed(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_DGRAM)?;
    for message in [&b"last"[..], b"", b"words"] {
        sys!(send(one, message.as_ptr().cast(), message.len(), 0))?;
    }
    sys!(close(one))?;
    sys!(fcntl(two, libc::F_SETFL, libc::O_NONBLOCK))?;
    stage.freeze_here()?;
    for message in [&b"last"[..], b"", b"words"] {
        same!(read_some(two, 100)?, message, "a message");
    }
    let again = sys!(recv(two, [0u8; 8].as_mut_ptr().cast(), 8, 0));
    same!((again.is_err(), crate::call::errno()), (true, libc::EAGAIN), "what comes then");
    let sent = sys!(send(two, b"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL));
    same!((sent.is_err(), crate::call::errno()), (true, libc::ECONNREFUSED), "sending");
    Ok(())
}

/// A listening socket that is only in a queue, with a client that waits to be accepted.
fn rights_listener(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let path = stage.path("socket");
    let listener = text(UnixListener::bind(&path))?;
    let mut client = text(UnixStream::connect(&path))?;
    send_descriptor(one, listener.as_raw_fd())?;
    drop(listener);
    stage.freeze_here()?;
    text(client.write_all(b"hello"))?;
    let received = receive_descriptor(two)?;
    let accepted = sys!(accept(received, std::ptr::null_mut(), std::ptr::null_mut()))?;
    same!(read_all(accepted, 5)?, b"hello", "what came through");
    text(UnixStream::connect(&path).map(drop))
}

/// Messages with descriptors one behind the other, most of them of one description.
fn rights_many(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let (reader, writer) = crate::call::pipe(0)?;
    for n in 0..150 {
        send_descriptor(one, if n % 3 == 0 { writer } else { reader })?;
        if n % 7 == 0 {
            write_all(one, b"-")?;
        }
    }
    sys!(close(one))?;
    sys!(close(writer))?;
    stage.freeze_here()?;
    for n in 0..150 {
        let received = receive_descriptor(two)?;
        if n % 7 == 0 {
            same!(read_all(two, 1)?, b"-", "what lies between");
        }
        match n % 3 {
            0 => write_all(received, &[n as u8])?,
            1 => same!(read_all(received, 1)?, [(n - 1) as u8], "what came through the pipe"),
            _ => {}
        }
        sys!(close(received))?;
    }
    same!(read_some(two, 1)?, b"", "the end");
    same!(read_some(reader, 1)?, b"", "the end of the pipe");
    Ok(())
}

/// Each of two sockets lies in the other's queue, and nowhere else.
fn rights_cycle(stage: &Stage) -> Verdict {
    let ([one, to_one], [two, to_two]) = (pair(SOCK_SEQPACKET)?, pair(SOCK_STREAM)?);
    send_descriptor(to_one, two)?;
    send_descriptor(to_two, one)?;
    sys!(close(two))?;
    stage.freeze_here()?;
    let two = receive_descriptor(one)?;
    let again = receive_descriptor(two)?;
    sys!(close(one))?;
    sys!(send(to_one, b"hello".as_ptr().cast(), 5, 0))?;
    same!(read_some(again, 100)?, b"hello", "what came through");
    write_all(to_two, b"there")?;
    same!(read_all(two, 5)?, b"there", "what came through the other");
    Ok(())
}

/// A byte out of band amid others.
fn out_of_band(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    write_all(one, b"before")?;
    if sys!(send(one, b"!".as_ptr().cast(), 1, libc::MSG_OOB)).is_err() {
        eprintln!("skipped: this kernel has no such bytes");
    } else {
        write_all(one, b"after")?;
        stage.freeze_here()?;
        let mut byte = 0u8;
        same!(sys!(recv(two, (&raw mut byte).cast(), 1, libc::MSG_OOB))?, 1, "bytes out of band");
        same!(byte, b'!', "the byte");
    }
    same!(read_some(two, 100)?, b"before", "what comes before it");
    same!(read_some(two, 100)?, b"after", "what comes after it");
    Ok(())
}

fn seqpacket_listening(stage: &Stage) -> Verdict {
    let path = c(&stage.path("socket").to_string_lossy());
    let bytes = path.as_bytes_with_nul();
    let mut address: libc::sockaddr_un = zeroed();
    address.sun_family = libc::AF_UNIX as u16;
    check!(bytes.len() <= address.sun_path.len(), "the directory's name is too long");
    bytes.iter().enumerate().for_each(|(index, byte)| address.sun_path[index] = *byte as libc::c_char);
    let len = size_of::<libc::sockaddr_un>() as u32;
    let socket = || sys!(socket(libc::AF_UNIX, SOCK_SEQPACKET, 0));
    let (listener, accepted_of, waiting) = (socket()?, socket()?, socket()?);
    sys!(bind(listener, (&raw const address).cast(), len))?;
    sys!(listen(listener, 4))?;
    let accept = || sys!(accept(listener, std::ptr::null_mut(), std::ptr::null_mut()));
    sys!(connect(accepted_of, (&raw const address).cast(), len))?;
    let accepted = accept()?;
    sys!(send(accepted, b"one".as_ptr().cast(), 3, 0))?;
    sys!(send(accepted, b"two".as_ptr().cast(), 3, 0))?;
    sys!(connect(waiting, (&raw const address).cast(), len))?;
    stage.freeze_here()?;
    same!(read_some(accepted_of, 100)?, b"one", "a message");
    same!(read_some(accepted_of, 100)?, b"two", "a message");
    let late = accept()?;
    sys!(send(waiting, b"late".as_ptr().cast(), 4, 0))?;
    same!(read_some(late, 100)?, b"late", "a message of the one that waited");
    Ok(())
}

/// Each way is full, and somebody waits at each end.
fn both_full(stage: &Stage) -> Verdict {
    let [one, two] = pair(SOCK_STREAM)?;
    let block: Vec<u8> = (0..3000u32).map(|i| ((i * 13) >> 2) as u8).collect();
    let words = crate::call::shared_words::<1>()?;
    let play = |own: i32, other: i32| {
        sys!(close(other))?;
        (0..400).try_for_each(|_| write_all(own, &block))?;
        words[0].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    };
    let children = [stage.fork(|| play(one, two))?, stage.fork(|| play(two, one))?];
    crate::call::until("both wait", || {
        children.iter().all(|pid| crate::call::is_in_call(*pid, libc::SYS_write))
    })?;
    stage.freeze_here()?;
    for fd in [one, two] {
        for index in 0..400 {
            check!(read_all(fd, block.len())? == block, "block {index} changed");
        }
    }
    children.into_iter().try_for_each(|pid| stage.reap(pid))
}
