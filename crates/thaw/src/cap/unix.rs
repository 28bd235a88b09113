//! Unix sockets whose peers are in the tree: made, named, connected, filled, shut down.
//!
//! All of them together, since a connection has two ends, and names must be given in an order: a socket that was
//! accepted has the name of the listening one, so such names are first given to listening sockets of our own, which
//! are closed before the real ones take them.
//!
//! The kernel takes down who makes a connection, lets a socket listen, or sends a message (SO_PEERCRED,
//! SCM_CREDENTIALS). So each of these is done by a process that has the number, user and groups of the one that did it, for
//! that moment. One that lives lets its sockets listen once more when it is there.

use super::error::{About, Error};
use super::file::{self, Problem};
use super::unix_name::{self as name, address, be_named, bind, clear, connect, node, raw, take_name};
use super::{Planned, Route, denotes_process, outside, pidfd, proc, tcp};
use frost_model::cap::{
    Capability, FileRef, Message, PeerCredentials, PidFd, SenderCredentials, SocketOption, UnixName,
    UnixSocket, UnixState, UnixType,
};
use frost_model::{Checkpoint, DescriptionId};
use frost_sys::guise::{self, Guise};
use frost_sys::sock::{self, Ucred, bind_unix};
use frost_sys::{network, sight};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
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
    pub(super) extra_nodes: Vec<PathBuf>,
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

/// Whether a file is the node of a socket that the thaw binds anew.
pub(super) fn is_node(checkpoint: &Checkpoint, file: &FileRef) -> bool {
    let is_its = |socket: &UnixSocket| {
        socket.name.as_ref().and_then(node).is_some_and(|node| node == file.path.as_path())
            || socket.places.contains(&file.path)
    };
    FileType::from_raw_mode(file.identity.mode) == FileType::Socket
        && sockets(checkpoint).iter().any(|(_, socket, _)| is_its(socket))
}

/// Looks whether a socket's name can be taken.
pub(super) fn look(checkpoint: &Checkpoint, socket: &UnixSocket) -> Result<(), Problem> {
    if let UnixState::Connected { peer } = socket.state {
        let of_peer = checkpoint.descriptions.get(peer.index()).map(|description| &description.capability);
        if !matches!(of_peer, Some(Capability::Unix(other)) if other.kind == socket.kind) {
            return name::problem(
                "the image names something else as its peer".to_owned(),
                "the image is damaged",
            );
        }
    }
    name::look(socket)
}

/// Says that a number that the socket tells is another process' by now.
pub(super) fn effect(checkpoint: &Checkpoint, socket: &UnixSocket) -> Option<String> {
    let told = socket.credentials.as_ref()?.pid;
    let is_ours = checkpoint.processes.iter().any(|process| process.pd.relation.pid.raw() == told);
    (told > 0 && !is_ours && frost_sys::proc::stat(told).is_ok()).then(|| {
        format!("process {told} is another one now, so it tells another number of who made it (SO_PEERCRED)")
    })
}

pub(super) fn new_socket(kind: UnixType) -> rustix::io::Result<OwnedFd> {
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
    let (mut pairs, mut connections) = (Vec::new(), Vec::new());
    let mut planned = HashSet::new();
    for (index, socket, _) in &all {
        if made[*index].is_some() || planned.contains(index) || socket.kind == UnixType::Datagram {
            continue;
        }
        let peer = match socket.state {
            UnixState::Connected { peer } => Some(peer.index()),
            UnixState::PeerClosed | UnixState::PeerReset => None,
            _ => continue,
        };
        planned.extend([Some(*index), peer].into_iter().flatten());
        let other = peer.and_then(|peer| all.iter().find(|(index, ..)| *index == peer));
        let other = other.map(|(_, socket, _)| *socket);
        let ours = End { index: Some(*index), socket: Some(socket) };
        let theirs = End { index: peer, socket: other };
        match (&socket.name, theirs.name()) {
            (None, None) => pairs.push([ours, theirs]),
            // The end with a shared name was accepted; if neither is, either may have been.
            (Some(name), client) if is_shared(name) || client.is_none() => {
                connections.push(Connection { kind: socket.kind, name, accepted: ours, client: theirs });
            }
            (_, Some(name)) => {
                connections.push(Connection { kind: socket.kind, name, accepted: theirs, client: ours });
            }
            (Some(name), None) => {
                connections.push(Connection { kind: socket.kind, name, accepted: ours, client: theirs });
            }
        }
    }
    make_pairs(checkpoint, &pairs, made, &mut result)?;
    servers.connect(checkpoint, connections, made, &mut result)?;
    servers.close();
    make_datagram_pairs(checkpoint, &all, made, &mut result)?;
    make_single(checkpoint, &all, made, &mut result)?;
    connect_datagrams(checkpoint, &all, made)?;
    listen_all(checkpoint, &all, made)?;
    connect_pending(checkpoint, &all, made)?;
    for (index, socket, flags) in &all {
        let Some(fd) = &made[*index] else { continue };
        let what = || checkpoint.descriptions[*index].capability.to_string();
        // Where a socket wants to know who sends, what bears no name would be given that of whoever fills its queue.
        let now: Vec<_> = socket.options.iter().filter(|option| !asks_for_sender(option)).cloned().collect();
        tcp::set_options(fd, &now);
        file::set_status(fd, *flags).about("set the flags of", what())?;
        if let Some(owner) = checkpoint.descriptions[*index].owner.filter(|owner| owner.signal != 0) {
            frost_sys::fcntl::set_signal(fd, owner.signal).about("choose the signal of", what())?;
        }
    }
    Ok(result)
}

/// What is done by the same process.
type Groups<'a, T> = BTreeMap<Option<&'a PeerCredentials>, T>;

/// One end of a connection; a peer that was closed has neither.
#[derive(Clone, Copy)]
struct End<'a> {
    index: Option<usize>,
    socket: Option<&'a UnixSocket>,
}

impl<'a> End<'a> {
    fn name(&self) -> Option<&'a UnixName> {
        self.socket.and_then(|socket| socket.name.as_ref())
    }

    fn credentials(&self) -> Option<&'a PeerCredentials> {
        self.socket.and_then(|socket| socket.credentials.as_ref())
    }
}

/// A connection that was made by connect(2).
struct Connection<'a> {
    kind: UnixType,
    /// The name of the socket that accepted it.
    name: &'a UnixName,
    accepted: End<'a>,
    client: End<'a>,
}

/// Does `work` as the one whom the kernel is to take down, or as ourselves if it is nobody. A builder of a tree has one thread;
/// who has others and wants the sockets only makes them in their own name.
fn as_whom(
    who: Option<&PeerCredentials>,
    work: impl FnOnce() -> Result<Vec<OwnedFd>, guise::Failed>,
) -> Result<Vec<OwnedFd>, guise::Failed> {
    match who.filter(|_| guise::is_possible()) {
        None => work(),
        Some(who) => guise::act(Guise { pid: who.pid, ids: Some((who.uid, who.gid, &who.groups)) }, work),
    }
}

/// Puts both ends of a connection into their places; that of a peer that was closed is closed later.
fn place(
    ends: [(End<'_>, OwnedFd); 2],
    made: &mut [Option<OwnedFd>],
    sockets: &mut Sockets,
) -> rustix::io::Result<()> {
    let indices = [ends[0].0.index, ends[1].0.index];
    for ((end, fd), other) in ends.into_iter().zip([indices[1], indices[0]]) {
        match end.index {
            Some(index) => *made.get_mut(index).ok_or(Errno::BADF)? = Some(fd),
            None => _ = sockets.ghosts.insert(other.ok_or(Errno::BADF)?, fd),
        }
    }
    Ok(())
}

/// Makes pairs, each as who made it, and gives names to those ends that have one.
fn make_pairs(
    checkpoint: &Checkpoint,
    pairs: &[[End<'_>; 2]],
    made: &mut [Option<OwnedFd>],
    sockets: &mut Sockets,
) -> Result<(), Error> {
    let what = |pair: &[End<'_>; 2]| {
        let index = pair[0].index.unwrap_or_default();
        checkpoint.descriptions[index].capability.to_string()
    };
    let kind = |pair: &[End<'_>; 2]| pair[0].socket.map_or(UnixType::Stream, |socket| socket.kind);
    let mut groups: Groups<'_, Vec<&[End<'_>; 2]>> = Groups::new();
    for pair in pairs {
        groups.entry(pair[0].credentials()).or_default().push(pair);
    }
    for (who, pairs) in groups {
        let make = || {
            let mut all = Vec::with_capacity(2 * pairs.len());
            for (done, pair) in pairs.iter().enumerate() {
                let kind = outside::socket_type(kind(pair));
                let (one, two) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
                    .map_err(|errno| (done, errno))?;
                all.extend([one, two]);
            }
            Ok(all)
        };
        let all = as_whom(who, make).or_else(|(done, errno)| {
            Err(errno).about("make", pairs.get(done).map(|pair| what(pair)).unwrap_or_default())
        })?;
        let mut all = all.into_iter();
        for pair in pairs {
            let (Some(one), Some(two)) = (all.next(), all.next()) else { break };
            for (end, fd) in [(&pair[0], &one), (&pair[1], &two)] {
                if let Some(socket) = end.socket {
                    be_named(fd, socket, sockets).about("bind", what(pair))?;
                }
            }
            place([(pair[0], one), (pair[1], two)], made, sockets).about("make", what(pair))?;
        }
    }
    Ok(())
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
    /// Makes the listening socket for connections to `name`, if there is none yet.
    fn serve(&mut self, kind: UnixType, name: &UnixName) -> rustix::io::Result<()> {
        let key = (kind as u8, raw(name));
        if self.made.contains_key(&key) {
            return Ok(());
        }
        let server = new_socket(kind)?;
        // A name that exists no more, at a place that is another's by now or cannot be found: any will do.
        let usable = match name {
            UnixName::Path { present: false, .. } => {
                node(name).is_some_and(|path| matches!(rustix::fs::lstat(sight::of(path)), Err(Errno::NOENT)))
            }
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
        let node = node(&used);
        self.made.insert(key, Server { fd: server, node, name: used });
        Ok(())
    }

    fn of(&self, connection: &Connection<'_>) -> rustix::io::Result<&Server> {
        self.made.get(&(connection.kind as u8, raw(connection.name))).ok_or(Errno::BADF)
    }

    /// Makes connections: the client is told who listened when it was made, the other end who connected.
    fn connect<'a>(
        &mut self,
        checkpoint: &Checkpoint,
        connections: Vec<Connection<'a>>,
        made: &mut [Option<OwnedFd>],
        sockets: &mut Sockets,
    ) -> Result<(), Error> {
        let what = |connection: &Connection<'_>| {
            let index = connection.accepted.index.or(connection.client.index).unwrap_or_default();
            checkpoint.descriptions[index].capability.to_string()
        };
        let mut groups: Groups<'a, Groups<'a, Vec<Connection<'a>>>> = Groups::new();
        for connection in connections {
            self.serve(connection.kind, connection.name).about("connect", what(&connection))?;
            let group = groups.entry(connection.client.credentials()).or_default();
            group.entry(connection.accepted.credentials()).or_default().push(connection);
        }
        for (listener, group) in groups {
            let served: Vec<&Connection<'_>> = group.values().flatten().collect();
            let listen = || {
                for (done, connection) in served.iter().enumerate() {
                    let server = self.of(connection).map_err(|errno| (done, errno))?;
                    rustix::net::listen(&server.fd, 16).map_err(|errno| (done, errno))?;
                }
                Ok(Vec::new())
            };
            as_whom(listener, listen).map_err(|(done, errno)| (errno, served.get(done))).or_else(
                |(errno, connection)| {
                    Err(errno).about(
                        "listen for",
                        connection.map(|connection| what(connection)).unwrap_or_default(),
                    )
                },
            )?;
            for (connector, connections) in &group {
                let mut clients = Vec::with_capacity(connections.len());
                for connection in connections {
                    let client = new_socket(connection.kind).about("make", what(connection))?;
                    if let Some(name) = connection.client.name() {
                        take_name(&client, name, sockets).about("bind", what(connection))?;
                    }
                    clients.push(client);
                }
                let join = || {
                    let mut accepted = Vec::with_capacity(connections.len());
                    for (done, (connection, client)) in connections.iter().zip(&clients).enumerate() {
                        let joined = self.of(connection).and_then(|server| {
                            connect(client, &server.name)?;
                            rustix::net::accept_with(&server.fd, SocketFlags::CLOEXEC)
                        });
                        accepted.push(joined.map_err(|errno| (done, errno))?);
                    }
                    Ok(accepted)
                };
                let accepted = as_whom(*connector, join).or_else(|(done, errno)| {
                    Err(errno).about("connect", connections.get(done).map(what).unwrap_or_default())
                })?;
                for ((connection, client), accepted) in connections.iter().zip(clients).zip(accepted) {
                    place([(connection.accepted, accepted), (connection.client, client)], made, sockets)
                        .about("connect", what(connection))?;
                }
            }
        }
        Ok(())
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
    let mut pairs = Vec::new();
    let mut planned = HashSet::new();
    for (index, socket, _) in all {
        if made[*index].is_some() || planned.contains(index) || socket.kind != UnixType::Datagram {
            continue;
        }
        let other = match socket.state {
            UnixState::Connected { peer } => {
                let other = all.iter().find(|(index, ..)| *index == peer.index());
                let back = |other: &UnixSocket| matches!(other.state, UnixState::Connected { peer } if peer.index() == *index);
                let is_pair = socket.credentials.is_some();
                match other {
                    // The other one has a name, so it is made by itself and connected to.
                    Some((_, other, _)) if other.name.is_some() && !back(other) => continue,
                    Some((_, other, _)) if other.name.is_some() && socket.name.is_some() && !is_pair => {
                        continue;
                    }
                    Some((other_index, other, _)) if made[*other_index].is_none() => {
                        End { index: Some(*other_index), socket: Some(other) }
                    }
                    _ => continue,
                }
            }
            UnixState::PeerClosed | UnixState::PeerReset => End { index: None, socket: None },
            _ => continue,
        };
        planned.extend([Some(*index), other.index].into_iter().flatten());
        pairs.push([End { index: Some(*index), socket: Some(socket) }, other]);
    }
    make_pairs(checkpoint, &pairs, made, result)
}

/// Makes all sockets that are not part of a pair, with their names, and lets them listen.
fn make_single(
    checkpoint: &Checkpoint,
    all: &[Socket<'_>],
    made: &mut [Option<OwnedFd>],
    result: &mut Sockets,
) -> Result<(), Error> {
    let is_gone = |socket: &UnixSocket| {
        matches!(socket.name, Some(UnixName::Path { present: false, .. })) && socket.places.is_empty()
    };
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
        let fd = match (&socket.credentials, socket.kind) {
            (Some(who), UnixType::Datagram) => left_of_a_pair(who).about("make", what())?,
            _ => new_socket(socket.kind).about("make", what())?,
        };
        match &socket.name {
            Some(name) if is_gone(socket) && present(name) => {
                clear(name).and_then(|()| bind(&fd, name)).about("bind", what())?;
                node(name).map_or(Ok(()), rustix::fs::unlink).about("unlink", what())?;
            }
            _ => be_named(&fd, socket, result).about("bind", what())?,
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

/// Makes a datagram socket that was one of a pair and is not any more: only for those the kernel takes down who made it.
fn left_of_a_pair(who: &PeerCredentials) -> rustix::io::Result<OwnedFd> {
    let (fd, _) = pair_of(UnixType::Datagram, Some(who))?;
    rustix::net::connect_unspec(&fd)?;
    Ok(fd)
}

/// Makes a pair as who made it.
pub(super) fn pair_of(
    kind: UnixType,
    who: Option<&PeerCredentials>,
) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let pair = as_whom(who, || {
        let pair = socketpair(AddressFamily::UNIX, outside::socket_type(kind), SocketFlags::CLOEXEC, None);
        pair.map(|(one, two)| vec![one, two]).map_err(|errno| (0, errno))
    });
    let mut pair = pair.map_err(|(_, errno)| errno)?.into_iter();
    pair.next().zip(pair.next()).ok_or(Errno::BADF)
}

/// Lets the sockets that listen do so as who let them.
fn listen_all(checkpoint: &Checkpoint, all: &[Socket<'_>], made: &[Option<OwnedFd>]) -> Result<(), Error> {
    let mut groups: Groups<'_, Vec<Listener<'_>>> = Groups::new();
    for (index, socket, _) in all {
        if let (UnixState::Listening { backlog, .. }, Some(fd), Some(who)) =
            (&socket.state, &made[*index], &socket.credentials)
        {
            groups.entry(Some(who)).or_default().push(Listener { index: *index, fd, backlog: *backlog });
        }
    }
    for (who, listeners) in groups {
        listen_as(checkpoint, who, &listeners)?;
    }
    Ok(())
}

/// A socket that listens.
struct Listener<'a> {
    index: usize,
    fd: &'a OwnedFd,
    backlog: u32,
}

fn listen_as(
    checkpoint: &Checkpoint,
    who: Option<&PeerCredentials>,
    listeners: &[Listener<'_>],
) -> Result<(), Error> {
    let listen = || {
        for (done, Listener { fd, backlog, .. }) in listeners.iter().enumerate() {
            let backlog = i32::try_from(*backlog).unwrap_or(i32::MAX);
            rustix::net::listen(fd, backlog).map_err(|errno| (done, errno))?;
        }
        Ok(Vec::new())
    };
    let listened = as_whom(who, listen).or_else(|(done, errno)| {
        let index = listeners.get(done).map_or(0, |listener| listener.index);
        Err(errno).about("listen on", &checkpoint.descriptions[index].capability)
    });
    listened.map(drop)
}

/// Whether it was `process`, as it is now, that let a socket listen; `None` if the image does not tell.
pub(super) fn listens_by(socket: &UnixSocket, process: &frost_model::Process) -> Option<bool> {
    let who = socket.credentials.as_ref()?;
    let now = &process.pd.credentials;
    Some(
        who.pid == process.pd.relation.pid.raw()
            && (who.uid, who.gid) == (now.uids[1], now.gids[1])
            && who.groups == now.groups,
    )
}

/// Who connected a socket that was not accepted yet. The kernel shows what it took down to who accepts it only, so it is the
/// first process that has the client.
fn connector(checkpoint: &Checkpoint, client: DescriptionId) -> Option<PeerCredentials> {
    let has = |process: &&frost_model::Process| {
        process.pd.descriptors.iter().any(|entry| entry.description == client)
    };
    let process = checkpoint.processes.iter().find(has)?;
    let credentials = &process.pd.credentials;
    Some(PeerCredentials {
        pid: process.pd.relation.pid.raw(),
        uid: credentials.uids[1],
        gid: credentials.gids[1],
        groups: credentials.groups.clone(),
    })
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
        if let Some(name) = other.and_then(|(_, other, _)| address(other)) {
            connect(fd, &name).about("connect", what())?;
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
        let (Some(name), Some(fd), UnixState::Listening { backlog, .. }) =
            (address(socket), &made[*index], &socket.state)
        else {
            continue;
        };
        let name = name.as_ref();
        let what = || checkpoint.descriptions[*index].capability.to_string();
        let listen = |who| listen_as(checkpoint, who, &[Listener { index: *index, fd, backlog: *backlog }]);
        // A client is told who let the socket listen last when it connected.
        let mut listening = socket.credentials.as_ref();
        for client in pending {
            let found = client.and_then(|client| made.get(client.index())).and_then(Option::as_ref);
            // One without was closed before it was accepted.
            let (Some(id), Some(fd)) = (client, found) else {
                let gone = new_socket(socket.kind).about("make", what())?;
                connect_at_once(&gone, name).about("connect to", what())?;
                continue;
            };
            let told = match &checkpoint.descriptions[id.index()].capability {
                Capability::Unix(client) => client.credentials.as_ref(),
                _ => None,
            };
            if told.is_some() && told != listening {
                listen(told)?;
                listening = told;
            }
            let who = told.and_then(|_| connector(checkpoint, *id));
            let connected = as_whom(who.as_ref(), || {
                connect_at_once(fd, name).map(|()| Vec::new()).map_err(|errno| (0, errno))
            });
            connected.map_err(|(_, errno)| errno).about("connect to", what())?;
        }
        if listening != socket.credentials.as_ref() {
            listen(socket.credentials.as_ref())?;
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

/// Fills the queues, shuts down what was shut, and takes away what only served the making; what is left to do if something in
/// a queue denotes a process.
pub(super) fn fill(
    checkpoint: &Checkpoint,
    planned: &[Planned],
    made: &[Option<OwnedFd>],
    sockets_made: Sockets,
) -> Result<Option<Late>, Error> {
    fill_queues(checkpoint, made, &sockets_made, |socket| !is_late(checkpoint, socket))?;
    if !sockets(checkpoint).iter().any(|(_, socket, _)| is_late(checkpoint, socket)) {
        finish(checkpoint, made, sockets_made)?;
        return Ok(None);
    }
    let mut wanted: HashSet<usize> = HashSet::new();
    for (index, socket, _) in sockets(checkpoint) {
        wanted.insert(index);
        if is_late(checkpoint, socket) {
            wanted.extend(socket.queue.iter().flat_map(|message| &message.rights).map(|id| id.index()));
        }
    }
    let is_opened = |index: &usize| {
        let closed = planned.get(*index).is_some_and(|planned| planned.route == Route::Close);
        !closed && denotes_process(checkpoint, &checkpoint.descriptions[*index].capability)
    };
    let opened = wanted.iter().copied().filter(is_opened).collect();
    let copy = |(index, fd): (usize, &Option<OwnedFd>)| {
        let fd = fd.as_ref().filter(|_| wanted.contains(&index));
        fd.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).transpose()
    };
    let made = made.iter().enumerate().map(copy).collect::<rustix::io::Result<_>>();
    Ok(Some(Late { made: made.about("duplicate", "unix sockets")?, opened, sockets: sockets_made }))
}

/// What is left to do when the processes are there, since something in flight denotes one.
#[derive(Debug)]
pub(super) struct Late {
    /// The sockets, and what is sent through them, by the index of its description.
    made: Vec<Option<OwnedFd>>,
    /// Which of it is to be opened first, instead of what stands there.
    opened: Vec<usize>,
    sockets: Sockets,
}

impl Late {
    /// Opens what denotes processes, and fills the queues that were left.
    pub(super) fn apply(mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        for index in self.opened {
            let description = &checkpoint.descriptions[index];
            let opened =
                match (&description.capability, proc::of_process(checkpoint, &description.capability)) {
                    (Capability::PidFd(PidFd { pid: Some(pid), thread, .. }), _) => {
                        pidfd::open(*pid, *thread, description.flags)
                    }
                    (_, Some(file)) => file.open(description.flags),
                    (_, None) => continue,
                };
            self.made[index] = Some(opened.about("open", &description.capability)?);
        }
        fill_queues(checkpoint, &self.made, &self.sockets, |socket| is_late(checkpoint, socket))?;
        finish(checkpoint, &self.made, self.sockets)
    }
}

/// Whether something in the queue of a socket denotes a process of the tree.
fn is_late(checkpoint: &Checkpoint, socket: &UnixSocket) -> bool {
    let sent = socket.queue.iter().flat_map(|message| &message.rights);
    let mut sent = sent.filter_map(|id| checkpoint.descriptions.get(id.index()));
    sent.any(|description| denotes_process(checkpoint, &description.capability))
}

/// Puts messages into the queues of those sockets that are `due`.
fn fill_queues(
    checkpoint: &Checkpoint,
    made: &[Option<OwnedFd>],
    sockets_made: &Sockets,
    due: impl Fn(&UnixSocket) -> bool,
) -> Result<(), Error> {
    let all = sockets(checkpoint);
    let named: HashMap<Vec<u8>, usize> =
        all.iter().filter_map(|(index, socket, _)| Some((raw(socket.name.as_ref()?), *index))).collect();
    for (index, socket, _) in all.iter().filter(|(_, socket, _)| due(socket)) {
        let Some(target) = &made[*index] else { continue };
        let what = || checkpoint.descriptions[*index].capability.to_string();
        for message in &socket.queue {
            let way = Way { rights: rights(message, made), sender: message.credentials };
            let peer = match socket.state {
                UnixState::Connected { peer } => made.get(peer.index()).and_then(Option::as_ref),
                _ => sockets_made.ghosts.get(index),
            };
            let sent = match socket.kind {
                UnixType::Stream | UnixType::SeqPacket => {
                    let peer = peer.ok_or(Errno::NOTCONN).about("fill the queue of", what())?;
                    send_all(peer, &message.data, None, &way)
                }
                UnixType::Datagram => send_datagram(socket, target, peer, message, &way, &named, made),
            };
            sent.about("fill the queue of", what())?;
        }
    }
    Ok(())
}

/// What comes behind the filling of all queues: shutting down, asking for senders.
fn finish(checkpoint: &Checkpoint, made: &[Option<OwnedFd>], sockets_made: Sockets) -> Result<(), Error> {
    let all = sockets(checkpoint);
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
    for (index, socket, _) in &all {
        if let Some(fd) = &made[*index] {
            let late: Vec<_> =
                socket.options.iter().filter(|option| asks_for_sender(option)).cloned().collect();
            tcp::set_options(fd, &late);
        }
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

/// What a message takes with it.
struct Way<'a> {
    rights: Vec<BorrowedFd<'a>>,
    sender: Option<SenderCredentials>,
}

/// Whether an option lets messages bear the credentials of who sends them.
fn asks_for_sender(option: &SocketOption) -> bool {
    /// SO_PASSPIDFD (include/uapi/asm-generic/socket.h).
    const PASSPIDFD: i32 = 76;
    option.level == libc::SOL_SOCKET && [libc::SO_PASSCRED, PASSPIDFD].contains(&option.name)
}

/// Sends all of a message, as who sent it.
fn send_all(from: &OwnedFd, data: &[u8], name: Option<&[u8]>, way: &Way<'_>) -> rustix::io::Result<()> {
    let Some(sender) = way.sender else { return send_from(from, data, name, &way.rights, None) };
    let told = Ucred { pid: sender.pid, uid: sender.uid, gid: sender.gid };
    match send_from(from, data, name, &way.rights, Some(told)) {
        // There is no such process: so there is one for that moment.
        Err(Errno::SRCH) => {}
        other => return other,
    }
    let send = || {
        // Its number, if that was free.
        let told = Ucred { pid: rustix::process::getpid().as_raw_nonzero().get(), ..told };
        send_from(from, data, name, &way.rights, Some(told)).map(|()| Vec::new()).map_err(|errno| (0, errno))
    };
    if !guise::is_possible() {
        return send().map(drop).map_err(|(_, errno)| errno);
    }
    guise::act(Guise { pid: sender.pid, ids: None }, send).map(drop).map_err(|(_, errno)| errno)
}

/// Sends all of a message without waiting, with more room in the sender's buffer if need be.
fn send_from(
    from: &OwnedFd,
    data: &[u8],
    name: Option<&[u8]>,
    rights: &[BorrowedFd<'_>],
    sender: Option<Ucred>,
) -> rustix::io::Result<()> {
    const SO_SNDBUF: i32 = 7;
    const SO_SNDBUFFORCE: i32 = 32;
    let level = libc::SOL_SOCKET;
    let before = sock::int_option(from, level, SO_SNDBUF)?;
    let mut room = before;
    let mut done = 0;
    let mut rights = rights;
    let result = loop {
        match sock::send_unix_as(from, &data[done..], name, rights, sender) {
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
    way: &Way<'_>,
    named: &HashMap<Vec<u8>, usize>,
    made: &[Option<OwnedFd>],
) -> rustix::io::Result<()> {
    // The target's name as it is now: it may be one that could not be taken.
    let own_name = sock::unix_socket_name(target, false)?;
    let sender = message.sender.as_ref().and_then(|sender| named.get(&raw(sender)));
    if let (Some(sender), Some(name)) =
        (sender.and_then(|index| made.get(*index)).and_then(Option::as_ref), &own_name)
    {
        match send_all(sender, &message.data, Some(name), way) {
            // The target takes datagrams of its own peer only; then that is who sent it.
            Err(Errno::PERM) => {}
            other => return other,
        }
    }
    if let Some(peer) = peer {
        return match &own_name {
            Some(name) => send_all(peer, &message.data, Some(name), way),
            None => send_all(peer, &message.data, None, way),
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
    send_all(&stand_in, &message.data, Some(name), way)
}
