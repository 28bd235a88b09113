//! Unix sockets: who is connected to whom, and what waits in their queues.

use super::nodes::Nodes;
use super::recognise::Refusal;
use super::{Error, Held, Members, aside, pipe};
use frost_model::BytePath;
use frost_model::Pid;
use frost_model::cap::{
    Capability, Message, Outside, OutsideKind, PeerCredentials, SenderCredentials, SocketOption, UnixName,
    UnixSocket, UnixState, UnixType,
};
use frost_model::id::DescriptionId;
use frost_sys::sock::{self, Peeked, int_option, set_int_option};
use frost_sys::unix_diag::{self, ESTABLISHED, LISTENING};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The unix sockets of the program's network, as the kernel listed them.
#[derive(Debug, Default)]
pub(super) struct Table {
    sockets: HashMap<u32, unix_diag::UnixSocket>,
    /// The listening socket at which a client waits to be accepted, by the client's inode.
    pending_at: HashMap<u32, u32>,
    nodes: RefCell<Nodes>,
}

/// What a socket of the tree is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// Nothing outside of the tree.
    Inside(UnixState),
    /// A socket of another program, by its inode, if that is known.
    Outside(Option<u32>),
}

impl Table {
    pub(super) fn read() -> Result<Self, Error> {
        let listed = unix_diag::unix_sockets().map_err(|source| Error::NoUnixDiag { source })?;
        let mut table = Self::default();
        for socket in listed {
            for client in socket.pending.iter().filter(|client| **client != 0) {
                table.pending_at.insert(*client, socket.inode);
            }
            table.sockets.insert(socket.inode, socket);
        }
        Ok(table)
    }

    fn of(&self, held: &Held) -> Option<&unix_diag::UnixSocket> {
        self.sockets.get(&(held.stat.st_ino as u32))
    }

    /// Returns whether something waits in the queue of a socket.
    pub(super) fn has_queue(&self, held: &Held) -> bool {
        // One that listens has connections in its queue.
        let Some(socket) = self.of(held).filter(|socket| socket.state != LISTENING) else { return false };
        if kind(held) == UnixType::Stream {
            return socket.receive_queue != 0;
        }
        let events = pipe::events(&held.fd);
        // A datagram of no bytes counts nothing; poll tells of it. Where an error waits, a look would take that first
        // (__skb_try_recv_datagram, net/core/datagram.c): what has both is refused.
        (socket.receive_queue != 0 || events.contains(PollFlags::IN)) && !events.contains(PollFlags::ERR)
    }

    /// Refuses what a look at the queue would take from the program, or not see.
    fn look_is_harmless(&self, held: &Held, socket: &unix_diag::UnixSocket) -> Result<(), Refusal> {
        let events = pipe::events(&held.fd);
        let queue = socket.receive_queue != 0 || kind(held) == UnixType::Datagram;
        if kind(held) != UnixType::Stream && events.contains(PollFlags::ERR) && queue {
            return Err(Refusal::passing(
                "unix socket with an error that was not read yet",
                "what it received cannot be looked at without taking that error from the program",
                "try again in a moment, when the program has used the socket",
            ));
        }
        if events.contains(PollFlags::PRI) {
            return Err(Refusal::passing(
                "unix socket with a byte out of band that was not read yet",
                "the kernel does not tell where in its queue that byte stands",
                "try again in a moment, when the program has read it",
            ));
        }
        Ok(())
    }

    /// Finds out what `held` is connected to; `inside` finds the descriptions of the tree by inode.
    pub(super) fn relation(&self, held: &Held, inside: &HashMap<u32, usize>) -> Result<Relation, Refusal> {
        let Some(socket) = self.of(held) else {
            return Err(Refusal::new(
                "unix socket",
                "it belongs to another network namespace",
                "freeze it from within its network namespace",
            ));
        };
        if socket.state != LISTENING {
            self.look_is_harmless(held, socket)?;
        }
        let id = |inode: &u32| inside.get(inode).map(|index| DescriptionId::new(*index as u32));
        Ok(match (socket.state, socket.peer) {
            // Whether it sent something is told by nobody: the accepting end is listed only once it is accepted.
            (LISTENING, _) if socket.pending.contains(&0) => {
                return Err(Refusal::passing(
                    "unix socket with a connection that was closed before it was accepted",
                    "what it may have sent lies in a queue that nobody can read before it is accepted",
                    "try again in a moment, when the server has accepted it",
                ));
            }
            (LISTENING, _) => {
                let pending = socket.pending.iter();
                // A client of another program will find the connection reset, as when a server ends.
                let pending =
                    pending.filter(|inode| **inode == 0 || inside.contains_key(inode)).map(id).collect();
                Relation::Inside(UnixState::Listening { backlog: socket.send_queue, pending })
            }
            (_, Some(peer)) if peer != 0 => match id(&peer) {
                Some(peer) => Relation::Inside(UnixState::Connected { peer }),
                None => Relation::Outside(Some(peer)),
            },
            // A datagram socket counts as established as soon as somebody connects to it (unix_dgram_connect).
            (_, None) if socket.kind == libc::SOCK_DGRAM as u8 => Relation::Inside(UnixState::Unconnected),
            // A peer without inode: it was not accepted yet, or it is closed.
            (ESTABLISHED, _) => match self.pending_at.get(&socket.inode) {
                Some(listener) if inside.contains_key(listener) && socket.send_queue > 0 => {
                    return Err(Refusal::passing(
                        "unix socket whose connection was not accepted yet",
                        "what it sent already lies in a queue that nobody can read before it is accepted",
                        "try again in a moment, when the server has accepted it",
                    ));
                }
                Some(listener) if inside.contains_key(listener) => Relation::Inside(UnixState::Pending),
                Some(listener) => Relation::Outside(Some(*listener)),
                None if pipe::events(&held.fd).contains(PollFlags::ERR) => {
                    Relation::Inside(UnixState::PeerReset)
                }
                None => Relation::Inside(UnixState::PeerClosed),
            },
            (_, Some(_)) => Relation::Inside(UnixState::PeerClosed),
            (_, None) => Relation::Inside(UnixState::Unconnected),
        })
    }

    /// Captures a socket whose peers are in the tree.
    pub(super) fn capture(
        &self,
        held: &Held,
        state: UnixState,
        queue: Vec<Message>,
        credentials: Option<PeerCredentials>,
        (members, options): (&Members, Vec<SocketOption>),
    ) -> Result<Capability, Error> {
        let kind = kind(held);
        let listed = self.of(held);
        let shutdown = listed.map_or(0, |socket| socket.shutdown);
        let mut name = listed.and_then(|socket| name(socket, members));
        // Nobody looks for any other by its node.
        let is_sought = matches!(state, UnixState::Listening { .. }) || kind == UnixType::Datagram;
        let places = match (listed, &mut name) {
            (Some(socket), Some(name)) if is_sought => self.nodes.borrow_mut().places(socket, name, members),
            _ => Vec::new(),
        };
        Ok(Capability::Unix(UnixSocket {
            inode: held.stat.st_ino,
            kind,
            name,
            state,
            queue,
            shut_read: shutdown & 1 != 0,
            shut_write: shutdown & 2 != 0,
            options,
            credentials,
            places,
        }))
    }

    /// Captures a socket that is connected to another program.
    pub(super) fn capture_outside(
        &self,
        held: &Held,
        peer: Option<u32>,
        queue: Vec<Message>,
        credentials: Option<PeerCredentials>,
        members: &Members,
    ) -> Capability {
        let peer_name =
            peer.and_then(|inode| self.sockets.get(&inode)).and_then(|socket| name(socket, members));
        let kind =
            OutsideKind::Unix { inode: held.stat.st_ino, kind: kind(held), peer_name, queue, credentials };
        Capability::Outside(Outside { kind, peer: peer_process(held, members) })
    }
}

/// Who was at the other end when the connection was made.
fn peer_process(held: &Held, members: &Members) -> Option<(Pid, String)> {
    let pid = Pid::new(sock::peer_credentials(&held.fd).ok()??.pid);
    (pid.raw() > 0 && members.inner(pid).is_none())
        .then(|| (pid, frost_sys::proc::command(pid.raw())))
        .filter(|(_, command)| !command.is_empty())
}

/// Returns whom the kernel takes for the peer of a socket, by the number that we see.
pub(super) fn credentials(held: &Held) -> Result<Option<PeerCredentials>, Error> {
    let Some(told) = sock::peer_credentials(&held.fd).map_err(|e| held.error(e))? else { return Ok(None) };
    let groups = sock::peer_groups(&held.fd).map_err(|e| held.error(e))?;
    Ok(Some(PeerCredentials { pid: told.pid, uid: told.uid, gid: told.gid, groups }))
}

/// The numbers that processes have in the pid namespace of the tree: that of the peer, and those of who sent what waits.
pub(super) type Numbers = (i32, Vec<i32>);

/// Asks for these. For each socket is said whether its messages bear credentials.
pub(super) fn numbers_inside(members: &Members, sockets: &[(&Held, bool)]) -> Result<Vec<Numbers>, Errno> {
    let numbers = |(held, asks): &(&Held, bool)| {
        let peer = sock::peer_credentials(&held.fd)?.map_or(0, |told| told.pid);
        let seen = if *asks { peek_all(held).map_err(|_| Errno::IO)? } else { Vec::new() };
        let sender = |seen: &Peeked| seen.credentials.map_or(0, |told| told.pid);
        Ok((peer, seen.iter().map(sender).collect()))
    };
    aside::inside(members, || sockets.iter().map(numbers).collect())
}

fn kind(held: &Held) -> UnixType {
    match int_option(&held.fd, libc::SOL_SOCKET, libc::SO_TYPE) {
        Ok(libc::SOCK_DGRAM) => UnixType::Datagram,
        Ok(libc::SOCK_SEQPACKET) => UnixType::SeqPacket,
        _ => UnixType::Stream,
    }
}

/// The room for a path in an address, `struct sockaddr_un`.
const MOST_ADDRESS: usize = 108;

/// Returns the last part of a name that was given as `/proc/self/fd/N/NAME`.
fn through_descriptor(name: &[u8]) -> Option<&Path> {
    let rest = name.strip_prefix(b"/proc/self/fd/")?;
    let at = rest.iter().position(|byte| *byte == b'/')?;
    let last = &rest[at + 1..];
    let digits = !rest[..at].is_empty() && rest[..at].iter().all(u8::is_ascii_digit);
    (digits && !last.is_empty() && !last.contains(&b'/'))
        .then(|| Path::new(std::ffi::OsStr::from_bytes(last)))
}

/// Lists the directories that a process has open.
pub(super) fn open_directories(pid: i32) -> Vec<PathBuf> {
    let numbers = frost_sys::proc::numbers(pid, "fd").unwrap_or_default();
    let directory = |number: &i32| {
        let link = frost_sys::proc::path(pid, &format!("fd/{number}"));
        let is_one = rustix::fs::stat(&link)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        is_one.then(|| std::fs::read_link(link).ok())?
    };
    numbers.iter().filter_map(directory).collect()
}

/// Makes the record of a socket's name, and looks whether its node is still there.
fn name(socket: &unix_diag::UnixSocket, members: &Members) -> Option<UnixName> {
    let raw = socket.name.as_deref()?;
    if let Some(name) = raw.strip_prefix(b"\0") {
        return Some(UnixName::Abstract(name.to_vec()));
    }
    let path = BytePath::new(raw);
    let node = |full: &Path| {
        let stat = rustix::fs::lstat(frost_sys::sight::of(full)).ok()?;
        let same = socket.node.is_some_and(|(_, inode)| inode == stat.st_ino as u32);
        (same && FileType::from_raw_mode(stat.st_mode) == FileType::Socket).then_some(stat)
    };
    // By way of a descriptor, which is how names are given that are longer than an address. Whose it was is not told.
    if let Some(last) = through_descriptor(raw) {
        for directory in members.outer().flat_map(|pid| open_directories(crate::target::shown_by(pid))) {
            let Some(stat) = node(&directory.join(last)) else { continue };
            let full = BytePath::from(directory.join(last).as_path());
            let short = full.as_bytes().len() < MOST_ADDRESS;
            let (path, directory) = match short {
                true => (full, None),
                false => (BytePath::from(last), Some(BytePath::from(directory.as_path()))),
            };
            return Some(UnixName::Path {
                path,
                directory,
                present: true,
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
            });
        }
    }
    let record = |path, directory, stat: Option<rustix::fs::Stat>| UnixName::Path {
        path,
        directory,
        present: stat.is_some(),
        mode: stat.map_or(0o777, |stat| stat.st_mode & 0o7777),
        uid: stat.map_or(0, |stat| stat.st_uid),
        gid: stat.map_or(0, |stat| stat.st_gid),
    };
    if path.as_path().is_absolute() {
        let stat = node(path.as_path());
        return Some(record(path, None, stat));
    }
    // A relative name counts from what was the working directory then; most programs have not left it.
    let directories = members.outer().filter_map(|pid| {
        let link = frost_sys::proc::link(crate::target::shown_by(pid), "cwd").ok()?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(&link)))
    });
    // A thaw gives a long name from the directory itself.
    let open = members.outer().flat_map(|pid| open_directories(crate::target::shown_by(pid)));
    for directory in directories.chain(open) {
        if let Some(stat) = node(&directory.join(path.as_path())) {
            let directory = Some(BytePath::from(directory.as_path()));
            return Some(record(path, directory, Some(stat)));
        }
    }
    Some(record(path, None, None))
}

/// Turns an address into the record of a sender.
pub(super) fn sender(raw: &[u8]) -> UnixName {
    match raw.strip_prefix(b"\0") {
        Some(name) => UnixName::Abstract(name.to_vec()),
        None => UnixName::Path {
            path: BytePath::new(raw),
            directory: None,
            present: false,
            mode: 0o777,
            uid: 0,
            gid: 0,
        },
    }
}

/// Most messages that are read from one queue; the kernel's own limit is net.unix.max_dgram_qlen.
const MESSAGES_MAX: usize = 65_536;

/// Looks at all that waits in a socket's queue without taking it.
///
/// Only for a socket of a stopped tree: where one look is not enough, SO_PEEK_OFF walks along the queue, and is put
/// back to what it was.
pub(super) fn peek_all(held: &Held) -> Result<Vec<Peeked>, Error> {
    let fail = |source| held.error(source);
    let is_stream = kind(held) == UnixType::Stream;
    let before = int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).map_err(fail)?;
    if is_stream && before < 0 {
        // One look sees all bytes up to the first descriptors in flight.
        let waiting = rustix::io::ioctl_fionread(&held.fd).map_err(fail)? as usize;
        match sock::peek(&held.fd, waiting.max(1)).map_err(fail)? {
            None => return Ok(Vec::new()),
            Some(seen) if seen.data.len() == waiting && seen.rights.is_empty() => {
                return Ok(if seen.data.is_empty() { Vec::new() } else { vec![seen] });
            }
            Some(_) => {}
        }
    }
    held.peeking(before, &[], || walk(held, is_stream))
}

fn walk(held: &Held, is_stream: bool) -> Result<Vec<Peeked>, Error> {
    let fail = |source| held.error(source);
    let at = |offset: usize| {
        set_int_option(&held.fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset as i32).map_err(fail)
    };
    let mut all = Vec::new();
    let mut offset = 0;
    let mut room = 256 * 1024;
    loop {
        if all.len() == MESSAGES_MAX {
            return Err(held.error(Errno::MSGSIZE));
        }
        at(offset)?;
        let Some(seen) = sock::peek(&held.fd, room).map_err(fail)? else { break };
        if seen.truncated && !is_stream {
            // A packet larger than our buffer; socket buffers are limited, so this ends.
            room *= 2;
            continue;
        }
        let at_end = seen.data.is_empty() && (is_stream || pipe::events(&held.fd).contains(PollFlags::RDHUP));
        if at_end {
            break;
        }
        if seen.data.is_empty() {
            // An empty packet has no place of its own: the kernel marks it as seen, and the next look passes it.
            all.push(seen);
            continue;
        }
        let len = seen.data.len();
        if is_stream && !seen.rights.is_empty() && len > 1 {
            split_before_rights(held, &at, offset, seen, &mut all)?;
        } else {
            all.push(seen);
        }
        offset += len;
    }
    Ok(all)
}

/// Splits bytes with descriptors where the piece begins that was sent with them: a look returns the plain bytes
/// before it together with it, while a read would give them apart.
fn split_before_rights(
    held: &Held,
    at: &dyn Fn(usize) -> Result<(), Error>,
    offset: usize,
    seen: Peeked,
    all: &mut Vec<Peeked>,
) -> Result<(), Error> {
    at(offset)?;
    // The piece with the descriptors is the last one seen, so all that fits into one byte less lies before it.
    let plain = sock::whole_pieces(&held.fd, seen.data.len() - 1).map_err(|e| held.error(e))?;
    let Peeked { mut data, sender, rights, credentials, truncated } = seen;
    let rest = data.split_off(plain.min(data.len() - 1));
    if !data.is_empty() {
        // One look sees pieces of one sender only, if it sees who that is.
        all.push(Peeked { data, sender: None, rights: Vec::new(), credentials, truncated: false });
    }
    all.push(Peeked { data: rest, sender, rights, credentials, truncated });
    Ok(())
}

/// Makes the record of a message; `identify` finds or adds the descriptions in flight.
pub(super) fn record(
    seen: Peeked,
    mut identify: impl FnMut(OwnedFd) -> Result<DescriptionId, Error>,
) -> Result<Message, Error> {
    let rights = seen.rights.into_iter().map(&mut identify).collect::<Result<_, _>>()?;
    let credentials =
        seen.credentials.map(|told| SenderCredentials { pid: told.pid, uid: told.uid, gid: told.gid });
    Ok(Message { data: seen.data, rights, sender: seen.sender.as_deref().map(sender), credentials })
}
