//! Unix sockets whose peers are in the tree: made, named, connected, filled, shut down.
//!
//! All of them together, since a connection has two ends, and names must be given in an order: a socket that was
//! accepted has the name of the listening one, so such names are first given to listening sockets of our own, which
//! are closed before the real ones take them.
//!
//! Credentials (SO_PEERCRED, SCM_CREDENTIALS) of connections are those of who thaws: the kernel takes them when a
//! connection is made. Those of listening sockets are their process' own again, since that lets them listen once more.

use super::error::{About, Error};
use super::file::{self, Problem};
use super::{outside, tcp};
use frost_model::cap::{Capability, Message, UnixName, UnixSocket, UnixState, UnixType};
use frost_model::{Checkpoint, DescriptionId};
use frost_sys::sock::{self, bind_unix, connect_unix, in_directory};
use frost_sys::unix_diag::{ESTABLISHED, UnixSocket as UnixDiag, unix_sockets};
use frost_sys::{network, sight};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, socketpair};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

/// What the queues are filled through, and what is undone at the end.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// The other end of a socket whose peer was closed; it is closed when the queue is filled.
    ghosts: BTreeMap<usize, OwnedFd>,
    /// Nodes of names that did not exist any more.
    extra_nodes: Vec<PathBuf>,
}

/// A socket of the image, by the index of its description.
type Socket<'a> = (usize, &'a UnixSocket, u32);

fn sockets(checkpoint: &Checkpoint) -> Vec<Socket<'_>> {
    let all = checkpoint.descriptions.iter().enumerate();
    all.filter_map(|(index, description)| match &description.capability {
        Capability::Unix(socket) => Some((index, socket, description.flags)),
        _ => None,
    })
    .collect()
}

/// The bytes by which a name is bound.
pub(crate) fn raw(name: &UnixName) -> Vec<u8> {
    match name {
        UnixName::Abstract(name) => [b"\0", name.as_slice()].concat(),
        UnixName::Path { path, .. } => path.as_bytes().to_vec(),
    }
}

/// Where the node of a name lies; `None` for an abstract name, or a relative one whose directory is not known.
fn node(name: &UnixName) -> Option<PathBuf> {
    match name {
        UnixName::Abstract(_) => None,
        UnixName::Path { path, directory: Some(directory), .. } => {
            Some(directory.as_path().join(path.as_path()))
        }
        UnixName::Path { path, directory: None, .. } => {
            path.as_path().is_absolute().then(|| path.as_path().to_owned())
        }
    }
}

/// Gives a socket its name, in the directory from which it is meant.
fn bind(fd: &OwnedFd, name: &UnixName) -> rustix::io::Result<()> {
    match name {
        UnixName::Path { directory: Some(directory), .. } => {
            in_directory(directory.as_path(), || bind_unix(fd, &raw(name)))
        }
        _ => bind_unix(fd, &raw(name)),
    }
}

/// Connects a socket to the one that has `name`.
fn connect(fd: &OwnedFd, name: &UnixName) -> rustix::io::Result<()> {
    match name {
        UnixName::Path { directory: Some(directory), .. } => {
            in_directory(directory.as_path(), || connect_unix(fd, &raw(name)))
        }
        _ => connect_unix(fd, &raw(name)),
    }
}

/// Whether a name is another socket's. Nobody is disturbed by finding out: no connection is tried.
pub(crate) fn is_alive(name: &UnixName) -> bool {
    let Some(path) = node(name) else {
        // An abstract name can be taken for a moment, if it is free.
        let Ok(fd) = new_socket(UnixType::Stream) else { return false };
        return matches!(name, UnixName::Abstract(_)) && bind(&fd, name) == Err(Errno::ADDRINUSE);
    };
    let Ok(stat) = rustix::fs::lstat(sight::of(path)) else { return false };
    let owns = |other: &UnixDiag| {
        // Those that were accepted have the name of the listening one too.
        let accepted = other.kind != libc::SOCK_DGRAM as u8 && other.state == ESTABLISHED;
        !accepted && other.node.is_some_and(|(_, inode)| inode == stat.st_ino as u32)
    };
    unix_sockets().is_ok_and(|all| all.iter().any(owns))
}

/// Looks whether a socket's name can be taken.
pub(super) fn look(checkpoint: &Checkpoint, socket: &UnixSocket) -> Result<(), Problem> {
    let problem = |reason: String, remedy: &str| {
        Err(Problem { reason, remedy: remedy.to_owned(), errno: None, content: false })
    };
    if let UnixState::Connected { peer } = socket.state {
        let of_peer = checkpoint.descriptions.get(peer.index()).map(|description| &description.capability);
        if !matches!(of_peer, Some(Capability::Unix(other)) if other.kind == socket.kind) {
            return problem("the image names something else as its peer".to_owned(), "the image is damaged");
        }
    }
    let Some(name) = &socket.name else { return Ok(()) };
    if matches!(name, UnixName::Path { present: false, .. }) {
        return Ok(());
    }
    if is_alive(name) {
        return problem(
            format!("{name} is the name of another program's socket now"),
            "end that program (`ss -xlp` tells which)",
        );
    }
    let Some(path) = node(name) else { return Ok(()) };
    match rustix::fs::lstat(sight::of(&path)) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            problem(format!("{} is something else now", path.display()), "move it away")
        }
        Ok(_) | Err(Errno::NOENT) => {
            let directory = path.parent().unwrap_or(&path);
            match rustix::fs::access(sight::of(directory), rustix::fs::Access::WRITE_OK) {
                Ok(()) => Ok(()),
                Err(error) => problem(
                    format!("no socket can be made in {}: {error}", directory.display()),
                    "make that directory, and let it be writable",
                ),
            }
        }
        Err(error) => problem(format!("{} cannot be looked up: {error}", path.display()), "see the cause"),
    }
}

/// Removes the node that the frozen socket left behind.
fn clear(name: &UnixName) -> rustix::io::Result<()> {
    let Some(path) = node(name) else { return Ok(()) };
    match rustix::fs::lstat(sight::of(&path)) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket && !is_alive(name) => {
            rustix::fs::unlink(&path)
        }
        Ok(_) => Err(Errno::ADDRINUSE),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives a socket the name it had for good, with the node's owner and mode; a node that was gone goes again at the end.
fn take_name(fd: &OwnedFd, name: &UnixName, sockets: &mut Sockets) -> rustix::io::Result<()> {
    if let UnixName::Path { path, directory: None, present: false, .. } = name
        && !path.as_path().is_absolute()
    {
        // Nobody knows from where it was meant, and nobody can use it: its name is lost.
        return Ok(());
    }
    let UnixName::Path { present, mode, uid, gid, .. } = name else { return bind(fd, name) };
    let Some(path) = node(name) else { return bind(fd, name) };
    if !present && rustix::fs::lstat(sight::of(&path)).is_ok() {
        // The path is another's by now, and nobody could reach this socket by it.
        return Ok(());
    }
    clear(name)?;
    match bind(fd, name) {
        Err(_) if !present => return Ok(()),
        other => other?,
    }
    if !present {
        sockets.extra_nodes.push(path);
        return Ok(());
    }
    rustix::fs::chmodat(rustix::fs::CWD, &path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    // An ordinary user cannot give a node away, and need not: it is theirs already.
    let _ = rustix::fs::chownat(
        rustix::fs::CWD,
        &path,
        Some(Uid::from_raw(*uid)),
        Some(Gid::from_raw(*gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    );
    Ok(())
}

fn new_socket(kind: UnixType) -> rustix::io::Result<OwnedFd> {
    network::socket(AddressFamily::UNIX, outside::socket_type(kind), None)
}

/// Makes, names and connects all unix sockets of the image.
pub(super) fn make(checkpoint: &Checkpoint, made: &mut [Option<OwnedFd>]) -> Result<Sockets, Error> {
    let all = sockets(checkpoint);
    let mut result = Sockets::default();
    if all.is_empty() {
        return Ok(result);
    }
    // Names that more than one socket has, or that a listening one has: those of accepted sockets.
    let mut count: HashMap<Vec<u8>, usize> = HashMap::new();
    for (_, socket, _) in &all {
        if let Some(name) = &socket.name {
            *count.entry(raw(name)).or_default() += 1;
        }
    }
    let is_shared = |name: &UnixName| count.get(&raw(name)).is_some_and(|count| *count > 1);
    let mut servers = Servers::default();
    // What is there already was kept, and has its name.
    let kept = all.iter().filter(|(index, ..)| made[*index].is_some());
    servers.kept = kept.filter_map(|(_, socket, _)| socket.name.as_ref()).map(raw).collect();
    // Connections first, while the names are free for our own listening sockets.
    for (index, socket, _) in &all {
        if made[*index].is_some() || socket.kind == UnixType::Datagram {
            continue;
        }
        let what = || checkpoint.descriptions[*index].capability.to_string();
        let peer = match socket.state {
            UnixState::Connected { peer } => Some(peer.index()),
            UnixState::PeerClosed | UnixState::PeerReset => None,
            _ => continue,
        };
        let other = peer.and_then(|peer| all.iter().find(|(index, ..)| *index == peer));
        let other_name = other.and_then(|(_, socket, _)| socket.name.as_ref());
        let (ours, theirs) = match (&socket.name, other_name) {
            (None, None) => {
                socketpair(AddressFamily::UNIX, outside::socket_type(socket.kind), SocketFlags::CLOEXEC, None)
                    .about("make", what())?
            }
            // The end with a shared name was accepted; if neither is, either may have been.
            (Some(name), client) if is_shared(name) || client.is_none() => {
                let (accepted, client) =
                    servers.connection(socket.kind, name, client, &mut result).about("connect", what())?;
                (accepted, client)
            }
            (client, Some(name)) => {
                let client = client.as_ref();
                let (accepted, client) =
                    servers.connection(socket.kind, name, client, &mut result).about("connect", what())?;
                (client, accepted)
            }
            (Some(name), client) => {
                servers.connection(socket.kind, name, client, &mut result).about("connect", what())?
            }
        };
        made[*index] = Some(ours);
        match peer {
            Some(peer) => {
                let slot = made.get_mut(peer).ok_or(Errno::BADF).about("connect", what())?;
                *slot = Some(theirs);
            }
            None => {
                result.ghosts.insert(*index, theirs);
            }
        }
    }
    servers.close();
    make_datagram_pairs(checkpoint, &all, made, &mut result)?;
    make_single(checkpoint, &all, made, &mut result)?;
    connect_datagrams(checkpoint, &all, made)?;
    connect_pending(checkpoint, &all, made)?;
    for (index, socket, flags) in &all {
        let Some(fd) = &made[*index] else { continue };
        let what = || checkpoint.descriptions[*index].capability.to_string();
        tcp::set_options(fd, &socket.options);
        file::set_status(fd, *flags).about("set the flags of", what())?;
        if let Some(owner) = checkpoint.descriptions[*index].owner.filter(|owner| owner.signal != 0) {
            frost_sys::fcntl::set_signal(fd, owner.signal).about("choose the signal of", what())?;
        }
    }
    Ok(result)
}

/// Listening sockets of our own, by type and name.
#[derive(Default)]
struct Servers {
    made: HashMap<(u8, Vec<u8>), Server>,
    /// Names of sockets that were kept. One whose peer is gone, and that was accepted there, gets another name.
    kept: HashSet<Vec<u8>>,
}

struct Server {
    fd: OwnedFd,
    /// Its node, to be taken away.
    node: Option<PathBuf>,
    /// The name it really has.
    name: UnixName,
}

impl Servers {
    /// Makes a connection to a socket named `name`; returns the accepted end and the connecting one, which is named
    /// `client` if that has a name.
    fn connection(
        &mut self,
        kind: UnixType,
        name: &UnixName,
        client: Option<&UnixName>,
        sockets: &mut Sockets,
    ) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let connecting = new_socket(kind)?;
        if let Some(client) = client {
            take_name(&connecting, client, sockets)?;
        }
        let key = (kind as u8, raw(name));
        if !self.made.contains_key(&key) {
            let server = new_socket(kind)?;
            // A name that exists no more, at a place that is another's by now or cannot be found: any will do.
            let usable = match name {
                UnixName::Path { present: false, .. } => node(name)
                    .is_some_and(|path| matches!(rustix::fs::lstat(sight::of(path)), Err(Errno::NOENT))),
                _ => true,
            } && !self.kept.contains(&raw(name));
            let mut used = name.clone();
            if usable {
                clear(name)?;
            }
            if !usable || bind(&server, name).is_err() {
                used = UnixName::Abstract(super::nobodys_name().into_bytes());
                bind(&server, &used)?;
            }
            rustix::net::listen(&server, 16)?;
            let node = node(&used);
            self.made.insert(key.clone(), Server { fd: server, node, name: used });
        }
        let server = self.made.get(&key).ok_or(Errno::BADF)?;
        connect(&connecting, &server.name)?;
        let accepted = rustix::net::accept_with(&server.fd, SocketFlags::CLOEXEC)?;
        Ok((accepted, connecting))
    }

    /// Closes them and takes their nodes away.
    fn close(self) {
        for server in self.made.into_values() {
            drop(server.fd);
            if let Some(node) = server.node {
                let _ = rustix::fs::unlink(node);
            }
        }
    }
}

/// Makes pairs of datagram sockets without names: nothing but socketpair(2) connects such.
fn make_datagram_pairs(
    checkpoint: &Checkpoint,
    all: &[Socket<'_>],
    made: &mut [Option<OwnedFd>],
    result: &mut Sockets,
) -> Result<(), Error> {
    for (index, socket, _) in all {
        if made[*index].is_some() || socket.kind != UnixType::Datagram {
            continue;
        }
        let what = || checkpoint.descriptions[*index].capability.to_string();
        let peer = match socket.state {
            UnixState::Connected { peer } => {
                let other = all.iter().find(|(index, ..)| *index == peer.index());
                let back = |other: &UnixSocket| matches!(other.state, UnixState::Connected { peer } if peer.index() == *index);
                match other {
                    // The other one has a name, so it is made by itself and connected to.
                    Some((_, other, _)) if other.name.is_some() && !back(other) => continue,
                    Some((_, other, _)) if other.name.is_some() && socket.name.is_some() => continue,
                    Some((other_index, ..)) if made[*other_index].is_none() => Some(*other_index),
                    _ => continue,
                }
            }
            UnixState::PeerClosed | UnixState::PeerReset => None,
            _ => continue,
        };
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, outside::socket_type(socket.kind), SocketFlags::CLOEXEC, None)
                .about("make", what())?;
        // A socket of a pair can still be named.
        if let Some(name) = &socket.name {
            take_name(&ours, name, result).about("bind", what())?;
        }
        made[*index] = Some(ours);
        match peer {
            Some(peer) => {
                let other = all.iter().find(|(index, ..)| *index == peer);
                if let Some(name) = other.and_then(|(_, other, _)| other.name.as_ref()) {
                    take_name(&theirs, name, result).about("bind", what())?;
                }
                made[peer] = Some(theirs);
            }
            None => {
                result.ghosts.insert(*index, theirs);
            }
        }
    }
    Ok(())
}

/// Makes all sockets that are not part of a pair, with their names, and lets them listen.
fn make_single(
    checkpoint: &Checkpoint,
    all: &[Socket<'_>],
    made: &mut [Option<OwnedFd>],
    result: &mut Sockets,
) -> Result<(), Error> {
    let is_gone = |socket: &UnixSocket| matches!(socket.name, Some(UnixName::Path { present: false, .. }));
    let present = |name: &UnixName| {
        all.iter().any(|(_, other, _)| {
            other.name.as_ref().is_some_and(|other| raw(other) == raw(name)) && !is_gone(other)
        })
    };
    // Those whose node is gone come first: it may be gone because another was bound over it.
    let gone = all.iter().filter(|(_, socket, _)| is_gone(socket));
    for (index, socket, _) in gone.chain(all.iter().filter(|(_, socket, _)| !is_gone(socket))) {
        // It is kept, and has its name.
        if made[*index].is_some() {
            continue;
        }
        let what = || checkpoint.descriptions[*index].capability.to_string();
        let fd = new_socket(socket.kind).about("make", what())?;
        match &socket.name {
            Some(name) if is_gone(socket) && present(name) => {
                clear(name).and_then(|()| bind(&fd, name)).about("bind", what())?;
                node(name).map_or(Ok(()), rustix::fs::unlink).about("unlink", what())?;
            }
            Some(name) => take_name(&fd, name, result).about("bind", what())?,
            None => {}
        }
        if let UnixState::Listening { backlog, .. } = socket.state {
            if sock::unix_socket_name(&fd, false).about("find", what())?.is_none() {
                // Its path is another's by now. Nobody reached it by that, but without a name it could not listen.
                let name = format!("\0{}", super::nobodys_name());
                bind_unix(&fd, name.as_bytes()).about("bind", what())?;
            }
            let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
            rustix::net::listen(&fd, backlog).about("listen on", what())?;
        }
        made[*index] = Some(fd);
    }
    Ok(())
}

/// Connects datagram sockets to named ones.
fn connect_datagrams(
    checkpoint: &Checkpoint,
    all: &[Socket<'_>],
    made: &[Option<OwnedFd>],
) -> Result<(), Error> {
    for (index, socket, _) in all {
        let (UnixType::Datagram, UnixState::Connected { peer }) = (socket.kind, &socket.state) else {
            continue;
        };
        let what = || checkpoint.descriptions[*index].capability.to_string();
        let Some(fd) = &made[*index] else { continue };
        let other = all.iter().find(|(index, ..)| *index == peer.index());
        if let Some(name) = other.and_then(|(_, other, _)| other.name.as_ref()) {
            connect(fd, name).about("connect", what())?;
        }
    }
    Ok(())
}

/// Makes the connections that a listening socket has not accepted, in their order.
fn connect_pending(
    checkpoint: &Checkpoint,
    all: &[Socket<'_>],
    made: &[Option<OwnedFd>],
) -> Result<(), Error> {
    for (index, socket, _) in all {
        let UnixState::Listening { pending, .. } = &socket.state else { continue };
        let Some(name) = &socket.name else { continue };
        let what = || checkpoint.descriptions[*index].capability.to_string();
        for client in pending {
            match client.and_then(|client| made.get(client.index())).and_then(Option::as_ref) {
                Some(client) => connect_at_once(client, name).about("connect to", what())?,
                // One that was closed before it was accepted.
                None => {
                    let gone = new_socket(socket.kind).about("make", what())?;
                    connect_at_once(&gone, name).about("connect to", what())?;
                }
            }
        }
    }
    Ok(())
}

/// Connects without waiting for room in the backlog.
fn connect_at_once(fd: &OwnedFd, name: &UnixName) -> rustix::io::Result<()> {
    let now = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, now | OFlags::NONBLOCK)?;
    let result = connect(fd, name);
    rustix::fs::fcntl_setfl(fd, now)?;
    result
}

/// Fills the queues, shuts down what was shut, and takes away what only served the making.
pub(super) fn fill(
    checkpoint: &Checkpoint,
    made: &[Option<OwnedFd>],
    sockets_made: Sockets,
) -> Result<(), Error> {
    let all = sockets(checkpoint);
    let named: HashMap<Vec<u8>, usize> =
        all.iter().filter_map(|(index, socket, _)| Some((raw(socket.name.as_ref()?), *index))).collect();
    for (index, socket, _) in &all {
        let Some(target) = &made[*index] else { continue };
        let what = || checkpoint.descriptions[*index].capability.to_string();
        for message in &socket.queue {
            let rights = rights(message, made);
            let peer = match socket.state {
                UnixState::Connected { peer } => made.get(peer.index()).and_then(Option::as_ref),
                _ => sockets_made.ghosts.get(index),
            };
            let sent = match socket.kind {
                UnixType::Stream | UnixType::SeqPacket => {
                    let peer = peer.ok_or(Errno::NOTCONN).about("fill the queue of", what())?;
                    send_all(peer, &message.data, None, &rights)
                }
                UnixType::Datagram => send_datagram(socket, target, peer, message, &rights, &named, made),
            };
            sent.about("fill the queue of", what())?;
        }
    }
    for (index, socket, _) in &all {
        let Some(fd) = &made[*index] else { continue };
        let what = || checkpoint.descriptions[*index].capability.to_string();
        if sockets_made.ghosts.contains_key(index) {
            if socket.state == UnixState::PeerReset && socket.kind != UnixType::Datagram {
                // The peer is closed with something unread, which is what the error tells of.
                sock::send_unix(fd, b"\0", None, &[]).about("reset", what())?;
            }
            continue;
        }
        if matches!(socket.state, UnixState::Unconnected | UnixState::Listening { .. })
            && socket.kind != UnixType::Datagram
        {
            continue;
        }
        let how = match (socket.shut_read, socket.shut_write) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            (false, true) => Shutdown::Write,
            (false, false) => continue,
        };
        rustix::net::shutdown(fd, how).about("shut down", what())?;
    }
    let nodes: HashSet<PathBuf> = sockets_made.extra_nodes.into_iter().collect();
    for node in nodes {
        let _ = rustix::fs::unlink(node);
    }
    Ok(())
}

fn rights<'a>(message: &Message, made: &'a [Option<OwnedFd>]) -> Vec<BorrowedFd<'a>> {
    let find = |id: &DescriptionId| made.get(id.index()).and_then(Option::as_ref).map(AsFd::as_fd);
    message.rights.iter().filter_map(find).collect()
}

/// Sends all of a message without waiting, with more room in the sender's buffer if need be.
fn send_all(
    from: &OwnedFd,
    data: &[u8],
    name: Option<&[u8]>,
    rights: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    const SO_SNDBUF: i32 = 7;
    const SO_SNDBUFFORCE: i32 = 32;
    let level = libc::SOL_SOCKET;
    let before = sock::int_option(from, level, SO_SNDBUF)?;
    let mut room = before;
    let mut done = 0;
    let mut rights = rights;
    let result = loop {
        match sock::send_unix(from, &data[done..], name, rights) {
            Ok(sent) => {
                done += sent;
                rights = &[];
                if done >= data.len() {
                    break Ok(());
                }
            }
            Err(Errno::INTR) => {}
            Err(error @ (Errno::AGAIN | Errno::MSGSIZE | Errno::NOBUFS)) => {
                room = room.saturating_mul(2);
                if room > 1 << 30 {
                    break Err(error);
                }
                // Beyond net.core.wmem_max only root goes; the kernel clamps in silence, so look whether it grew.
                if sock::set_int_option(from, level, SO_SNDBUFFORCE, room / 2).is_err() {
                    sock::set_int_option(from, level, SO_SNDBUF, room / 2)?;
                    if sock::int_option(from, level, SO_SNDBUF)? < room {
                        break Err(error);
                    }
                }
            }
            Err(error) => break Err(error),
        }
    };
    if room != before {
        sock::set_int_option(from, level, SO_SNDBUF, before / 2)?;
    }
    result
}

/// Puts a datagram into a queue, from the socket whose name it bears if that can be.
fn send_datagram(
    socket: &UnixSocket,
    target: &OwnedFd,
    peer: Option<&OwnedFd>,
    message: &Message,
    rights: &[BorrowedFd<'_>],
    named: &HashMap<Vec<u8>, usize>,
    made: &[Option<OwnedFd>],
) -> rustix::io::Result<()> {
    // The target's name as it is now: it may be one that could not be taken.
    let own_name = sock::unix_socket_name(target, false)?;
    let sender = message.sender.as_ref().and_then(|sender| named.get(&raw(sender)));
    if let (Some(sender), Some(name)) =
        (sender.and_then(|index| made.get(*index)).and_then(Option::as_ref), &own_name)
    {
        match send_all(sender, &message.data, Some(name), rights) {
            // The target takes datagrams of its own peer only; then that is who sent it.
            Err(Errno::PERM) => {}
            other => return other,
        }
    }
    if let Some(peer) = peer {
        return match &own_name {
            Some(name) => send_all(peer, &message.data, Some(name), rights),
            None => send_all(peer, &message.data, None, rights),
        };
    }
    let Some(name) = &own_name else {
        return if matches!(socket.state, UnixState::Unconnected) { Ok(()) } else { Err(Errno::NOTCONN) };
    };
    // The sender is gone. Its name, if it was an abstract one, is free then, and can be borrowed.
    let stand_in = new_socket(UnixType::Datagram)?;
    if let Some(UnixName::Abstract(_)) = &message.sender {
        let _ = bind_unix(&stand_in, &message.sender.as_ref().map(raw).unwrap_or_default());
    }
    send_all(&stand_in, &message.data, Some(name), rights)
}
