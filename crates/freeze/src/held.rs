//! Tracking that goes on from one image to the next.
//!
//! What is still protected at the next freeze is as the last image has it, so only what was written since is looked at. The
//! trackers are held by the program's keeper meanwhile, which need not know what they are: they lie in flight in a socket,
//! behind a note of whose they are, and it holds the end at which they come out. Nobody else has them: if the keeper ends,
//! the kernel lifts all protection.

use crate::Keeper;
use crate::dirty::Tracker;
use frost_image::Digest;
use frost_sys::proc;
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
}

/// Trackers that were held, by process and its start time.
#[derive(Debug)]
pub(crate) struct Held {
    since: Since,
    trackers: BTreeMap<(i32, u64), Tracker>,
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
                held.trackers.insert((note.pid, note.start_time), tracker);
            }
        }
        held
    }

    /// Returns whether they go on from this image.
    pub(crate) fn is_since(&self, since: &Since) -> bool {
        self.since == *since
    }

    /// Gives the tracker of a process away, if there is one.
    pub(crate) fn remove(&mut self, pid: i32, start_time: u64) -> Option<Tracker> {
        self.trackers.remove(&(pid, start_time))
    }

    /// Returns whether each of these processes has a tracker.
    pub(crate) fn covers(&self, processes: &[(i32, u64)]) -> bool {
        processes.iter().all(|process| self.trackers.contains_key(process))
    }

    /// Ends all tracking.
    pub(crate) fn release(self) {
        for ((pid, _), tracker) in self.trackers {
            tracker.release(&proc::bare_mappings(pid).unwrap_or_default());
        }
    }
}

/// Lets a keeper hold trackers until the next freeze. Those that it cannot are given back.
pub(crate) fn hold(
    keeper: &dyn Keeper,
    since: &Since,
    trackers: Vec<(i32, u64, Tracker)>,
) -> Vec<(i32, u64, Tracker)> {
    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let Ok((ours, theirs)) = pair else { return trackers };
    let mut refused = Vec::new();
    let mut sent = Vec::new();
    for (pid, start_time, tracker) in trackers {
        let note = Note { since: since.clone(), pid, start_time, registered: tracker.registered().clone() };
        let list = if send(&ours, &note, &tracker) { &mut sent } else { &mut refused };
        list.push((pid, start_time, tracker));
    }
    if let Err(why) = keeper.hold(theirs.as_fd()) {
        tracing::debug!("the keeper holds no trackers: {why}");
        refused.append(&mut sent);
    }
    refused
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
