//! Epoll instances.

use super::error::{About, Error};
use super::{InnerCall, When};
use frost_model::cap::{Capability, Epoll, Watch};
use frost_model::{Checkpoint, DescriptionId, Process};
use frost_sys::epoll::{Add, BusyPoll, add_under_numbers};
use rustix::fd::{AsFd, OwnedFd};

/// Returns when a watch has to be added by a process of the tree, if it has to: a signalfd wakes whoever added it, and what
/// denotes a process is opened inside.
fn inner(checkpoint: &Checkpoint, watch: &Watch) -> Option<When> {
    let watched = checkpoint.descriptions.get(watch.description.index())?;
    match &watched.capability {
        Capability::SignalFd(_) => Some(When::Placed),
        capability => super::denotes_process(checkpoint, capability).then_some(When::Met),
    }
}

/// Makes an instance that watches nothing yet.
pub(super) fn make(epoll: &Epoll) -> rustix::io::Result<OwnedFd> {
    let fd = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?;
    if let Some(poll) = epoll.busy_poll {
        // A matter of speed: where the kernel does not know it, or lets only root have so much, it waits as others do.
        let _ = BusyPoll::new(poll.usecs, poll.budget, poll.prefer).set(fd.as_fd());
    }
    Ok(fd)
}

/// Adds all watches that we can add. Every description must have been made.
pub(super) fn add_watches(checkpoint: &Checkpoint, made: &[Option<OwnedFd>]) -> Result<(), Error> {
    let mut adds = Vec::new();
    for (index, description) in checkpoint.descriptions.iter().enumerate() {
        let Capability::Epoll(epoll) = &description.capability else { continue };
        let Some(instance) = made[index].as_ref() else { continue };
        for watch in epoll.watches.iter().filter(|watch| inner(checkpoint, watch).is_none()) {
            let Some(file) = made.get(watch.description.index()).and_then(Option::as_ref) else { continue };
            adds.push(Add {
                epoll: instance.as_fd(),
                file: file.as_fd(),
                number: watch.fd.raw(),
                events: watch.events,
                data: watch.data,
            });
        }
    }
    let (done, result) = add_under_numbers(&adds);
    let number = adds.get(done).map_or(-1, |add| add.number);
    result.about("watch", format!("fd {number} by epoll"))
}

/// The calls by which `process` adds those watches of `instance` that only it can add: it has both descriptors.
pub(super) fn calls(
    checkpoint: &Checkpoint,
    process: &Process,
    instance: DescriptionId,
    fd: i32,
) -> Vec<InnerCall> {
    let Some(Capability::Epoll(epoll)) =
        checkpoint.descriptions.get(instance.index()).map(|description| &description.capability)
    else {
        return Vec::new();
    };
    let has = |watch: &&Watch| {
        let mut table = process.pd.descriptors.iter();
        table.any(|entry| entry.fd == watch.fd && entry.description == watch.description)
    };
    let due = epoll.watches.iter().filter(has);
    due.filter_map(|watch| Some((watch, inner(checkpoint, watch)?)))
        .map(|(watch, when)| {
            let number = watch.fd.raw();
            let args = [fd as u64, libc::EPOLL_CTL_ADD as u64, number as u64, 0];
            let mut call = InnerCall { when, ..InnerCall::new(libc::SYS_epoll_ctl, &args, number) };
            // struct epoll_event is packed on x86-64: 32 bits of events, then 64 of data.
            let mut event = watch.events.to_ne_bytes().to_vec();
            event.extend_from_slice(&watch.data.to_ne_bytes());
            call.data.push((3, event));
            call
        })
        .collect()
}
