//! Epoll instances.

use super::{Error, Held};
use frost_model::Pid;
use frost_model::cap::{BusyPoll, Watch};
use frost_model::id::{DescriptionId, TargetFd};
use frost_model::pd::Descriptor;
use frost_sys::kcmp::kcmp_watched;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// A watch, and what could be found out about the file.
#[derive(Debug)]
pub(super) struct Seen {
    /// The number under which it was added.
    pub(super) number: i32,
    /// The description, if the tree holds it.
    pub(super) description: Option<usize>,
    events: u32,
    data: u64,
}

/// What the files are found among that instances watch.
pub(super) struct Finder<'a> {
    all: &'a [Held],
    /// The tables of those that have an instance; each in the order of the numbers.
    holders: HashMap<usize, Vec<&'a [Descriptor]>>,
    /// Descriptions by the number of their inode, in groups that are in the order of kcmp(2).
    by_inode: HashMap<u64, Vec<&'a [usize]>>,
}

impl<'a> Finder<'a> {
    /// Of the descriptions `all`, those `instances` are looked into.
    pub(super) fn new(
        all: &'a [Held],
        instances: &[usize],
        tables: &'a BTreeMap<Pid, Vec<Descriptor>>,
        by_file: &'a HashMap<(u64, u64), Vec<usize>>,
    ) -> Self {
        let mut holders: HashMap<usize, Vec<&[Descriptor]>> =
            instances.iter().map(|index| (*index, Vec::new())).collect();
        for table in tables.values() {
            for entry in table {
                if let Some(known) = holders.get_mut(&entry.description.index())
                    && known.last().is_none_or(|last| !std::ptr::eq(*last, table.as_slice()))
                {
                    known.push(table);
                }
            }
        }
        let mut by_inode: HashMap<u64, Vec<&[usize]>> = HashMap::new();
        for ((_, inode), group) in by_file {
            by_inode.entry(*inode).or_default().push(group);
        }
        Self { all, holders, by_inode }
    }

    /// Reads what the instance watches that is the description `index`.
    ///
    /// fdinfo tells the number under which a file was added, but the number may be closed by now, or denote another
    /// file. Which file it really is, is found by comparing (KCMP_EPOLL_TFD) with those the tree holds.
    pub(super) fn watches(&self, index: usize) -> Result<Vec<Seen>, Error> {
        let held = &self.all[index];
        let info = held.info()?;
        let holders = self.holders.get(&index).map(Vec::as_slice).unwrap_or_default();
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
                Some((number, hexadecimal("events:")? as u32, hexadecimal("data:")?, hexadecimal("ino:")?))
            })();
            let Some((number, events, data, inode)) = parsed else {
                return Err(Error::Refused { object: held.describe() });
            };
            let nth: &mut u32 = nth_of.entry(number).or_default();
            let description = self.find(held, (number, *nth), inode, holders)?;
            *nth += 1;
            seen.push(Seen { number, description, events, data });
        }
        Ok(seen)
    }

    /// Finds the description that was added to `epoll` under a number, as the nth of these; first among what the
    /// `holders` of `epoll` have under it.
    ///
    /// Each comparison is a walk of the kernel along all that the instance watches (ep_find_tfd, fs/eventpoll.c), and
    /// most kinds of anonymous files have one inode for all.
    fn find(
        &self,
        epoll: &Held,
        (number, nth): (i32, u32),
        inode: u64,
        holders: &[&[Descriptor]],
    ) -> Result<Option<usize>, Error> {
        let own = std::process::id() as i32;
        let mut failure = None;
        let mut compare = |index: &usize| {
            let candidate = self.all[*index].fd.as_raw_fd();
            kcmp_watched(own, candidate, own, epoll.fd.as_raw_fd(), number, nth).unwrap_or_else(|source| {
                failure = Some(source).filter(|source| *source != Errno::NOENT).or(failure);
                Ordering::Less
            })
        };
        let numbered = holders.iter().filter_map(|table| {
            let at = table.binary_search_by_key(&number, |entry| entry.fd.raw()).ok()?;
            Some(table[at].description.index())
        });
        let mut compared = None;
        let mut found = None;
        for index in numbered {
            if compared.replace(index) != Some(index) && compare(&index) == Ordering::Equal {
                found = Some(index);
                break;
            }
        }
        if found.is_none() {
            let groups = self.by_inode.get(&inode).map(Vec::as_slice).unwrap_or_default();
            found = groups.iter().find_map(|group| Some(group[group.binary_search_by(&mut compare).ok()?]));
        }
        match failure {
            Some(source) => Err(epoll.error(source)),
            None => Ok(found),
        }
    }
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
