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

/// Family, type and protocol, as for socket(2).
type Kind = (u16, u32, u32);

/// Returns the options of each socket that differ from those of a new one, by the index of its description.
///
/// Those of a new one are read once of each kind: it takes a hundred calls, as many as those of a socket do.
pub(super) fn differing(sockets: &[(usize, &Held)]) -> Result<HashMap<usize, Vec<SocketOption>>, Error> {
    let mut usuals: HashMap<Kind, Usual> = HashMap::new();
    let mut options = HashMap::with_capacity(sockets.len());
    for (index, held) in sockets {
        let usual = match usuals.entry(kind(held)?) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let usual = usual(*unknown.key()).map_err(|error| held.error(error))?;
                unknown.insert(usual)
            }
        };
        let option = |(level, name, value)| SocketOption { level, name, value };
        options.insert(*index, usual.differing(&held.fd).into_iter().map(option).collect());
    }
    Ok(options)
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
