//! Listening sockets that a keeper has kept while its program was frozen: the program gets the very same again.

use crate::cap;
use frost_model::Checkpoint;
use frost_model::cap::{Capability, UnixType};
use frost_sys::sock::{int_option, unix_socket_name};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What a keeper has kept, as far as it concerns an image.
#[derive(Debug, Default)]
pub struct Kept {
    /// By the index of the description that gets it.
    sockets: BTreeMap<usize, OwnedFd>,
    /// Those that no description gets.
    others: Vec<Found>,
}

impl Kept {
    /// Finds out which description of a checkpoint gets which of the sockets that were kept, each with its number.
    ///
    /// That need not be the version that was frozen: a socket has to be what the description says. Several may be the same,
    /// as those of SO_REUSEPORT; then each goes to its own.
    pub fn of(checkpoint: &Checkpoint, found: Vec<(u32, OwnedFd)>) -> Self {
        let mut kept = Self::for_another(found);
        for own in [true, false] {
            for (index, description) in checkpoint.descriptions.iter().enumerate() {
                if kept.others.is_empty() {
                    return kept;
                }
                if kept.sockets.contains_key(&index) {
                    continue;
                }
                let fits = |one: &Found| {
                    (!own || one.number as usize == index) && one.is_what(&description.capability)
                };
                if let Some(at) = kept.others.iter().position(fits)
                    && checkpoint.is_keepable(index)
                {
                    kept.sockets.insert(index, kept.others.remove(at).socket);
                }
            }
        }
        kept
    }

    /// Of what was kept for another program nothing is for this one, and some of it may be in the way.
    pub fn for_another(found: Vec<(u32, OwnedFd)>) -> Self {
        let others = found.into_iter().map(|(number, socket)| Found::look_at(number, socket)).collect();
        Self { others, ..Self::default() }
    }

    /// Returns the sockets that the image gets, with their numbers in it, if there are others beside.
    pub fn without_others(&self) -> Option<Vec<(u32, BorrowedFd<'_>)>> {
        let numbered = || self.sockets.iter().map(|(index, socket)| (*index as u32, socket.as_fd()));
        (!self.others.is_empty()).then(|| numbered().collect())
    }

    /// Closes the others.
    pub fn drop_others(&mut self) {
        self.others.clear();
    }

    /// Returns the socket of a description.
    pub(crate) fn get(&self, index: usize) -> Option<&OwnedFd> {
        self.sockets.get(&index)
    }

    /// Returns the indices of the descriptions that get one.
    pub(crate) fn descriptions(&self) -> impl Iterator<Item = usize> {
        self.sockets.keys().copied()
    }

    /// Returns whether a socket that is for no description has the same port, or the same name, as this one.
    pub(crate) fn is_in_the_way(&self, of: &Capability) -> bool {
        self.others.iter().any(|other| match of {
            Capability::TcpListener(listener) => {
                let port = listener.inet.local.map(|local| local.port());
                port.is_some() && other.local.map(|local| local.port()) == port
            }
            Capability::Unix(_) => other.is_what(of),
            _ => false,
        })
    }
}

/// A socket, and what it is.
#[derive(Debug)]
struct Found {
    /// The description that had it in the image of which it was kept.
    number: u32,
    socket: OwnedFd,
    family: Option<i32>,
    kind: Option<i32>,
    protocol: Option<i32>,
    listens: bool,
    local: Option<SocketAddr>,
    name: Option<Vec<u8>>,
}

impl Found {
    fn look_at(number: u32, socket: OwnedFd) -> Self {
        let fact = |name| int_option(&socket, libc::SOL_SOCKET, name).ok();
        let family = fact(libc::SO_DOMAIN);
        Self {
            number,
            family,
            kind: fact(libc::SO_TYPE),
            protocol: fact(libc::SO_PROTOCOL),
            listens: fact(libc::SO_ACCEPTCONN) == Some(1),
            local: rustix::net::getsockname(&socket).ok().and_then(|local| SocketAddr::try_from(local).ok()),
            name: (family == Some(libc::AF_UNIX))
                .then(|| unix_socket_name(&socket, false).ok().flatten())
                .flatten(),
            socket,
        }
    }

    /// Whether it is what a description was. A unix socket must still be reached by its name.
    fn is_what(&self, capability: &Capability) -> bool {
        match capability {
            Capability::TcpListener(listener) => {
                let inet = &listener.inet;
                self.family == Some(if inet.v6 { libc::AF_INET6 } else { libc::AF_INET })
                    && self.protocol == Some(inet.protocol)
                    && self.listens == listener.backlog.is_some()
                    && self.local == inet.local
            }
            Capability::Unix(unix) => {
                let kind = match unix.kind {
                    UnixType::Stream => libc::SOCK_STREAM,
                    UnixType::Datagram => libc::SOCK_DGRAM,
                    UnixType::SeqPacket => libc::SOCK_SEQPACKET,
                };
                let Some(recorded) = &unix.name else { return false };
                self.listens
                    && self.kind == Some(kind)
                    && self.name.as_deref() == Some(cap::bound_name(recorded).as_slice())
                    && cap::is_reached(recorded)
            }
            _ => false,
        }
    }
}
