//! The options of sockets, told as what differs from a new socket of the same kind.

use super::{Error, Held};
use frost_model::cap::SocketOption;
use frost_sys::network;
use frost_sys::sock::int_option;
use frost_sys::sock_options::Usual;
use rustix::net::{AddressFamily, Protocol, SocketType};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;

/// Reading the options of one takes a hundred calls, 30 us; a thread takes 50 us to begin. While the program stands
/// still, there is a processor for each of its own.
const SOCKETS_PER_THREAD: usize = 16;

/// Family, type and protocol, as for socket(2).
type Kind = (u16, u32, u32);

/// Returns the options of each socket that differ from those of a new one, by the index of its description.
pub(super) fn differing(sockets: &[(usize, &Held)]) -> Result<HashMap<usize, Vec<SocketOption>>, Error> {
    let mut usuals: HashMap<Kind, Usual> = HashMap::new();
    let mut kinds = Vec::with_capacity(sockets.len());
    for (_, held) in sockets {
        let kind = kind(held)?;
        if let Entry::Vacant(unknown) = usuals.entry(kind) {
            unknown.insert(usual(kind).map_err(|error| held.error(error))?);
        }
        kinds.push(kind);
    }
    let read = |sockets: &[(usize, &Held)], kinds: &[Kind]| -> Vec<(usize, Vec<SocketOption>)> {
        let of = |((index, held), kind): (&(usize, &Held), &Kind)| {
            let values = usuals.get(kind).map(|usual| usual.differing(&held.fd)).unwrap_or_default();
            let option = |(level, name, value)| SocketOption { level, name, value };
            (*index, values.into_iter().map(option).collect())
        };
        sockets.iter().zip(kinds).map(of).collect()
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (sockets.len() / SOCKETS_PER_THREAD).clamp(1, processors);
    let each = sockets.len().div_ceil(threads).max(1);
    let mut parts = sockets.chunks(each).zip(kinds.chunks(each));
    let Some((own, own_kinds)) = parts.next() else { return Ok(HashMap::new()) };
    std::thread::scope(|scope| {
        let read = &read;
        let mut others = Vec::new();
        let mut options = Vec::with_capacity(sockets.len());
        let mut own = vec![(own, own_kinds)];
        for part in parts {
            // Where there may be no more threads, we do it ourselves.
            match std::thread::Builder::new().spawn_scoped(scope, move || read(part.0, part.1)) {
                Ok(thread) => others.push(thread),
                Err(_) => own.push(part),
            }
        }
        own.into_iter().for_each(|part| options.extend(read(part.0, part.1)));
        for thread in others {
            options.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        Ok(options.into_iter().collect())
    })
}

fn kind(held: &Held) -> Result<Kind, Error> {
    let fact = |name| {
        int_option(&held.fd, libc::SOL_SOCKET, name)
            .map(|fact| fact as u32)
            .map_err(|error| held.error(error))
    };
    let family = fact(libc::SO_DOMAIN)? as u16;
    // What a packet socket receives is not a kind of its own.
    let protocol = if i32::from(family) == libc::AF_PACKET { 0 } else { fact(libc::SO_PROTOCOL)? };
    Ok((family, fact(libc::SO_TYPE)?, protocol))
}

fn usual((family, kind, protocol): Kind) -> rustix::io::Result<Usual> {
    let protocol = NonZeroU32::new(protocol).map(Protocol::from_raw);
    network::socket(AddressFamily::from_raw(family), SocketType::from_raw(kind), protocol).map(Usual::of)
}
