//! Listening sockets that a program's keeper keeps while that is frozen, so that whoever connects waits.

use crate::Keeper;
use frost_keeper::MOST_KEPT;
use frost_model::{Checkpoint, DescriptionId};
use frost_sys::pidfd::pidfd_getfd;
use frost_tracee::seize::StoppedTree;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::BTreeSet;

/// Lets a keeper have the sockets of a tree that is about to be ended; returns what the user should know.
pub(crate) fn keep(tree: &StoppedTree, checkpoint: &Checkpoint, keeper: &dyn Keeper) -> Option<String> {
    let sockets = find(tree, checkpoint);
    if sockets.is_empty() {
        return None;
    }
    let numbered: Vec<(u32, BorrowedFd<'_>)> =
        sockets.iter().map(|(id, socket)| (id.raw(), socket.as_fd())).collect();
    match keeper.keep(&numbered) {
        Err(why) => Some(format!("its ports are closed while it is frozen: {why}")),
        Ok(()) if sockets.len() > MOST_KEPT => {
            Some(format!("of its listening sockets {MOST_KEPT} stay open while it is frozen"))
        }
        Ok(()) => None,
    }
}

/// Duplicates the sockets that can be kept, each once; one more than can be at most.
fn find(tree: &StoppedTree, checkpoint: &Checkpoint) -> Vec<(DescriptionId, OwnedFd)> {
    let mut sockets: Vec<(DescriptionId, OwnedFd)> = Vec::new();
    let mut seen = BTreeSet::new();
    for process in tree.processes().iter().filter(|process| !process.zombie) {
        let of = |known: &&frost_model::Process| known.pd.relation.pid.raw() == process.inner;
        let Some(known) = checkpoint.processes.iter().find(of) else { continue };
        for descriptor in &known.pd.descriptors {
            let id = descriptor.description;
            if sockets.len() > MOST_KEPT {
                return sockets;
            }
            if seen.insert(id)
                && checkpoint.is_keepable(id.index())
                && let Ok(socket) = pidfd_getfd(process.pidfd.as_fd(), descriptor.fd.raw())
            {
                sockets.push((id, socket));
            }
        }
    }
    sockets
}
