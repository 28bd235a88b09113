//! Epoll instances.

use super::{Error, Held};
use frost_model::cap::{BusyPoll, Watch};
use frost_model::id::{DescriptionId, TargetFd};
use frost_sys::kcmp::kcmp_watched;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::cmp::Ordering;
use std::collections::HashMap;

/// A watch, and what could be found out about the file.
pub(super) struct Seen {
    /// The number under which it was added.
    pub(super) number: i32,
    /// The description, if the tree holds it.
    pub(super) description: Option<usize>,
    events: u32,
    data: u64,
}

/// Reads what an instance watches.
///
/// fdinfo tells the number under which a file was added, but the number may be closed by now, or denote another file.
/// Which file it really is, is found by comparing (KCMP_EPOLL_TFD) with those the tree holds.
pub(super) fn watches(held: &Held, all: &[Held]) -> Result<Vec<Seen>, Error> {
    let info = held.info()?;
    let own = std::process::id() as i32;
    let mut nth_of = HashMap::new();
    let mut seen = Vec::new();
    for line in info.fields("tfd") {
        // "7 events: 40000019 data:                7  pos:0 ino:3ffc sdev:f"
        let parsed = (|| {
            let number: i32 = line.split_whitespace().next()?.parse().ok()?;
            let hexadecimal = |name| {
                let rest = line.split_once(name)?.1.trim_start();
                u64::from_str_radix(rest.split_whitespace().next()?, 16).ok()
            };
            Some((number, hexadecimal("events:")? as u32, hexadecimal("data:")?, hexadecimal("ino:")))
        })();
        let Some((number, events, data, inode)) = parsed else {
            return Err(Error::Refused { object: held.describe() });
        };
        let nth: &mut u32 = nth_of.entry(number).or_default();
        let mut description = None;
        for (index, candidate) in all.iter().enumerate() {
            if inode.is_some_and(|inode| inode != candidate.stat.st_ino) {
                continue;
            }
            match kcmp_watched(own, candidate.fd.as_raw_fd(), own, held.fd.as_raw_fd(), number, *nth) {
                Ok(Ordering::Equal) => {
                    description = Some(index);
                    break;
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(source) => return Err(held.error(source)),
            }
        }
        *nth += 1;
        seen.push(Seen { number, description, events, data });
    }
    Ok(seen)
}

/// How an instance polls devices, if it does.
pub(super) fn busy_poll(held: &Held) -> Option<BusyPoll> {
    let found = frost_sys::epoll::BusyPoll::of(held.fd.as_fd()).unwrap_or_default();
    let frost_sys::epoll::BusyPoll { usecs, budget, prefer, .. } = found;
    (found != Default::default()).then_some(BusyPoll { usecs, budget, prefer: prefer != 0 })
}

impl Seen {
    /// Makes the record of a watch whose file the tree holds.
    pub(super) fn record(&self) -> Option<Watch> {
        Some(Watch {
            fd: TargetFd::new(self.number),
            description: DescriptionId::new(self.description? as u32),
            events: self.events,
            data: self.data,
        })
    }
}
