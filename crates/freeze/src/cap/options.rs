//! The options of sockets, told as what differs from a new socket of the same kind.

use super::{Error, Held};
use frost_model::cap::SocketOption;
use frost_sys::network;
use frost_sys::sock::int_option;
use frost_sys::sock_options::Usual;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, Protocol, SocketType};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Family, type and protocol, as for socket(2).
type Kind = (u16, u32, u32);

/// The usual options of each kind that was met: reading them takes a hundred calls, as many as those of a socket do.
type Usuals = HashMap<Kind, Usual>;

/// From so many sockets on, waking a thread takes less than it saves.
const MANY_SOCKETS: usize = 8;

/// Sockets whose options another thread has begun to read.
#[derive(Debug)]
pub(super) struct Ahead {
    sockets: Vec<(usize, Arc<OwnedFd>)>,
    /// Which is to be read next.
    next: AtomicUsize,
    found: Mutex<HashMap<usize, Vec<SocketOption>>>,
}

impl Ahead {
    /// Has the options of sockets read by another thread, if they are many; `have_done` gives it work, and tells whether there is
    /// one.
    ///
    /// Nothing that is told by an option may be changed any more.
    pub(super) fn of(
        sockets: Vec<(usize, Arc<OwnedFd>)>,
        have_done: impl FnOnce(Box<dyn FnOnce() + Send>) -> bool,
    ) -> Option<Arc<Self>> {
        if sockets.len() < MANY_SOCKETS {
            return None;
        }
        let ahead = Arc::new(Self { sockets, next: AtomicUsize::new(0), found: Mutex::default() });
        let theirs = Arc::clone(&ahead);
        have_done(Box::new(move || theirs.go_on())).then_some(ahead)
    }

    /// Reads those that nobody has begun to read. What fails is left out.
    fn go_on(&self) {
        let mut usuals = Usuals::new();
        while let Some((index, socket)) = self.sockets.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if let Ok(options) = of_one(socket, &mut usuals) {
                self.found().insert(*index, options);
            }
        }
    }

    fn found(&self) -> MutexGuard<'_, HashMap<usize, Vec<SocketOption>>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the options of each socket that differ from those of a new one, by the index of its description; of some they may
/// have been read `ahead`.
pub(super) fn differing(
    sockets: &[(usize, &Held)],
    ahead: Option<&Ahead>,
) -> Result<HashMap<usize, Vec<SocketOption>>, Error> {
    let mut options = ahead.map_or_else(HashMap::new, |ahead| {
        ahead.go_on();
        std::mem::take(&mut *ahead.found())
    });
    // Also what the other thread has begun and not ended: it may have lost its processor, which we do not wait for.
    let mut usuals = Usuals::new();
    for (index, held) in sockets {
        if let Entry::Vacant(unknown) = options.entry(*index) {
            unknown.insert(of_one(&held.fd, &mut usuals).map_err(|error| held.error(error))?);
        }
    }
    Ok(options)
}

fn of_one(socket: &OwnedFd, usuals: &mut Usuals) -> rustix::io::Result<Vec<SocketOption>> {
    let usual = match usuals.entry(kind(socket)?) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => {
            let usual = usual(*unknown.key())?;
            unknown.insert(usual)
        }
    };
    let option = |(level, name, value)| SocketOption { level, name, value };
    Ok(usual.differing(socket).into_iter().map(option).collect())
}

fn kind(socket: &OwnedFd) -> rustix::io::Result<Kind> {
    let fact = |name| int_option(socket, libc::SOL_SOCKET, name).map(|fact| fact as u32);
    let family = fact(libc::SO_DOMAIN)? as u16;
    // What a packet socket receives is not a kind of its own.
    let protocol = if i32::from(family) == libc::AF_PACKET { 0 } else { fact(libc::SO_PROTOCOL)? };
    Ok((family, fact(libc::SO_TYPE)?, protocol))
}

fn usual(kind: Kind) -> rustix::io::Result<Usual> {
    new(kind).map(Usual::of)
}

fn new((family, kind, protocol): Kind) -> rustix::io::Result<OwnedFd> {
    let protocol = NonZeroU32::new(protocol).map(Protocol::from_raw);
    network::socket(AddressFamily::from_raw(family), SocketType::from_raw(kind), protocol)
}

/// Makes a new socket of the same kind.
pub(super) fn new_of_kind(socket: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    new(kind(socket)?)
}
