//! Tracking that goes on from one image to the next.
//!
//! What is still protected at the next freeze is as the last image has it, so only what was written since is looked at. The
//! trackers are held by the program's keeper meanwhile, which need not know what they are: they lie in flight in a socket,
//! behind a note of whose they are, and it holds the end at which they come out. Nobody else has them: if the keeper ends,
//! the kernel lifts all protection.

use crate::Keeper;
use crate::dirty::Tracker;
use frost_image::Digest;
use frost_sys::proc::{Mapping, VmFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// The most bytes of a note. A process with more mappings than that has room for is tracked anew.
const NOTE_BYTES: usize = 64 << 10;

/// The image which trackers go on from. A number may be used again; the digest is of this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Since {
    pub(crate) version: u32,
    pub(crate) digest: Digest,
}

/// What lies beside each tracker.
#[derive(Serialize, Deserialize)]
struct Note {
    since: Since,
    pid: i32,
    start_time: u64,
    registered: BTreeSet<(u64, u64)>,
    /// What the mappings were, if there is room for it.
    #[serde(default)]
    known: Known,
}

/// The mappings of a process as they were when it went on: their flags, which cost a walk over all page tables.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Each set of flags once.
    flags: Vec<serde_bytes::ByteBuf>,
    /// Start, end, the number of the flags, protection key, size of a page.
    mappings: Vec<(u64, u64, usize, u32, u64)>,
}

impl Known {
    fn of(mappings: &[Mapping]) -> Self {
        let mut known = Self::default();
        for mapping in mappings {
            let letters = mapping.flags.letters();
            let found = known.flags.iter().position(|flags| *flags == letters);
            let index = found.unwrap_or_else(|| {
                known.flags.push(serde_bytes::ByteBuf::from(letters));
                known.flags.len() - 1
            });
            let (key, page_bytes) = (mapping.protection_key, mapping.page_bytes);
            known.mappings.push((mapping.start, mapping.end, index, key, page_bytes));
        }
        known
    }

    /// Gives mappings the flags that they had; `None` if there is one that was not there, or had other rights.
    pub(crate) fn give(&self, mut mappings: Vec<Mapping>) -> Option<Vec<Mapping>> {
        for mapping in &mut mappings {
            let at = self.mappings.partition_point(|known| known.1 <= mapping.start);
            let mut there = self.mappings[at..].iter().take_while(|known| known.0 < mapping.end);
            // It may have grown since, at either end.
            let (_, _, index, key, page_bytes) =
                there.find(|(start, end, ..)| *start == mapping.start || *end == mapping.end)?;
            let flags = VmFlags::of_letters(self.flags.get(*index)?);
            let rights = [(mapping.read, *b"rd"), (mapping.write, *b"wr"), (mapping.execute, *b"ex")];
            if rights.iter().any(|(has, flag)| flags.has(*flag) != *has) {
                return None;
            }
            (mapping.flags, mapping.protection_key, mapping.page_bytes) = (flags, *key, *page_bytes);
        }
        Some(mappings)
    }
}

/// A tracker, and what else is known of its process.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) tracker: Tracker,
    pub(crate) known: Known,
}

/// Trackers that were held, by process and its start time.
#[derive(Debug)]
pub(crate) struct Held {
    since: Since,
    trackers: BTreeMap<(i32, u64), Tracked>,
}

impl Held {
    /// Takes what the keeper holds; `None` if that is nothing that we can use.
    pub(crate) fn take(keeper: &dyn Keeper) -> Option<Self> {
        let socket = keeper.give()?;
        let mut held: Option<Self> = None;
        while let Some((note, descriptor)) = receive(&socket) {
            let held =
                held.get_or_insert_with(|| Self { since: note.since.clone(), trackers: BTreeMap::new() });
            if held.since == note.since {
                let tracker = Tracker::adopt(descriptor, note.registered);
                let tracked = Tracked { tracker, known: note.known };
                held.trackers.insert((note.pid, note.start_time), tracked);
            }
        }
        held
    }

    /// Returns whether they go on from this image.
    pub(crate) fn is_since(&self, since: &Since) -> bool {
        self.since == *since
    }

    /// Gives the tracker of a process away, if there is one.
    pub(crate) fn remove(&mut self, pid: i32, start_time: u64) -> Option<Tracked> {
        self.trackers.remove(&(pid, start_time))
    }

    /// Returns whether each of these processes has a tracker.
    pub(crate) fn covers(&self, processes: &[(i32, u64)]) -> bool {
        processes.iter().all(|process| self.trackers.contains_key(process))
    }
}

/// Lets a keeper hold trackers until the next freeze, each of a process with these mappings. Those that it cannot hold end.
pub(crate) fn hold(keeper: &dyn Keeper, since: &Since, trackers: Vec<(i32, u64, Tracker, Vec<Mapping>)>) {
    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let Ok((ours, theirs)) = pair else { return };
    for (pid, start_time, tracker, mappings) in trackers {
        let registered = tracker.registered().clone();
        let known = Known::of(&mappings);
        let mut note = Note { since: since.clone(), pid, start_time, registered, known };
        if !send(&ours, &note, &tracker) {
            note.known = Known::default();
            send(&ours, &note, &tracker);
        }
    }
    if let Err(why) = keeper.hold(theirs.as_fd()) {
        tracing::debug!("the keeper holds no trackers: {why}");
    }
}

fn send(socket: &OwnedFd, note: &Note, tracker: &Tracker) -> bool {
    let mut bytes = Vec::new();
    if ciborium::into_writer(note, &mut bytes).is_err() || bytes.len() > NOTE_BYTES {
        return false;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [tracker.as_fd()];
    // Nobody reads yet, so what the socket has no room for stays with us.
    control.push(SendAncillaryMessage::ScmRights(&descriptors))
        && rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::DONTWAIT).is_ok()
}

fn receive(socket: &OwnedFd) -> Option<(Note, OwnedFd)> {
    let mut bytes = vec![0; NOTE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).ok()?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.into_iter().next();
        }
    }
    Some((ciborium::from_reader(&bytes[..received.bytes]).ok()?, descriptor?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings() -> Vec<Mapping> {
        // Other threads of the test may map memory between two looks.
        frost_sys::proc::mappings(std::process::id() as i32).unwrap()
    }

    fn bare(mappings: &[Mapping]) -> Vec<Mapping> {
        let forget = |mapping: &Mapping| Mapping {
            flags: VmFlags::default(),
            protection_key: 0,
            page_bytes: 0,
            ..mapping.clone()
        };
        mappings.iter().map(forget).collect()
    }

    #[test]
    fn mappings_have_the_flags_that_they_had() {
        let before = mappings();
        let known = Known::of(&before);
        assert!(known.flags.len() < before.len(), "each set is there once");
        assert_eq!(known.give(bare(&before)), Some(before));
    }

    #[test]
    fn a_mapping_that_has_grown_is_the_same_and_another_is_not_known() {
        let before: Vec<Mapping> = mappings().into_iter().filter(|mapping| mapping.write).take(1).collect();
        let known = Known::of(&before);
        let with = |change: &dyn Fn(&mut Mapping)| {
            let mut now = bare(&before);
            now.iter_mut().for_each(change);
            known.give(now).map(|given| given[0].flags.clone())
        };
        let same = Some(before[0].flags.clone());
        assert_eq!(with(&|mapping| mapping.end += 4096), same);
        assert_eq!(with(&|mapping| mapping.start -= 4096), same);
        assert_eq!(with(&|mapping| mapping.write = false), None);
        assert_eq!(with(&|mapping| (mapping.start, mapping.end) = (mapping.end, mapping.end + 4096)), None);
    }

    #[test]
    fn a_note_of_an_earlier_build_is_read() {
        #[derive(Serialize)]
        struct Earlier {
            since: Since,
            pid: i32,
            start_time: u64,
            registered: BTreeSet<(u64, u64)>,
        }
        let since = Since { version: 3, digest: Digest::of(b"") };
        let registered = BTreeSet::from([(4096, 8192)]);
        let earlier = Earlier { since: since.clone(), pid: 7, start_time: 9, registered };
        let mut bytes = Vec::new();
        ciborium::into_writer(&earlier, &mut bytes).unwrap();
        let note: Note = ciborium::from_reader(bytes.as_slice()).unwrap();
        assert_eq!((note.since, note.pid, note.start_time), (since, 7, 9));
        assert!(note.known.mappings.is_empty() && note.known.give(mappings()).is_none());
    }
}
