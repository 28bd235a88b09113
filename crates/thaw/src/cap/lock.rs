//! Locks on files.

use super::error::{About, Error};
use super::{InnerCall, When};
use frost_model::cap::{Lock, LockKind};
use frost_model::{Checkpoint, DescriptionId, Pid};
use frost_sys::fcntl::lock_range;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, flock};

/// F_OFD_SETLK of include/uapi/linux/fcntl.h.
const F_OFD_SETLK: u64 = 37;

/// The call by which a process takes a lock again, without waiting. Late, since closing any descriptor of a file
/// gives up all locks that the process has on it.
pub(super) fn call(lock: &Lock, fd: i32) -> InnerCall {
    let call = match lock.kind {
        LockKind::Flock => {
            let operation = if lock.exclusive { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
            InnerCall::new(libc::SYS_flock, &[fd as u64, operation as u64], fd)
        }
        LockKind::Lease => {
            let kind = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
            InnerCall::new(libc::SYS_fcntl, &[fd as u64, libc::F_SETLEASE as u64, kind as u64], fd)
        }
        LockKind::Process(_) | LockKind::Description => {
            let command = match lock.kind {
                LockKind::Description => F_OFD_SETLK,
                _ => libc::F_SETLK as u64,
            };
            let mut call = InnerCall::new(libc::SYS_fcntl, &[fd as u64, command, 0], fd);
            call.data.push((2, range(lock)));
            call
        }
    };
    InnerCall { when: When::Alone, ..call }
}

/// `struct flock` of x86-64: type, whence (16 bits each), padding, start, length (64 bits each), pid, padding.
fn range(lock: &Lock) -> Vec<u8> {
    let kind = if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as i16;
    let len = lock.len_bytes().unwrap_or(0) as i64;
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&(lock.start as i64).to_ne_bytes());
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// Takes the locks of descriptions that no process has, as they lie in messages only.
pub(super) fn take_in_flight(checkpoint: &Checkpoint, made: &[Option<OwnedFd>]) -> Result<(), Error> {
    for (index, (description, fd)) in checkpoint.descriptions.iter().zip(made).enumerate() {
        let Some(fd) = fd.as_ref().filter(|_| !description.locks.is_empty()) else { continue };
        if super::first_holder(checkpoint, DescriptionId::new(index as u32)).is_some() {
            continue;
        }
        for lock in &description.locks {
            let taken = match (lock.kind, lock.exclusive) {
                (LockKind::Flock, true) => flock(fd, FlockOperation::NonBlockingLockExclusive),
                (LockKind::Flock, false) => flock(fd, FlockOperation::NonBlockingLockShared),
                (LockKind::Description, exclusive) => lock_range(fd, exclusive, lock.start, lock.len_bytes()),
                // Locks of a process are not passed with a descriptor, and leases tell whom others do: later.
                (LockKind::Process(_) | LockKind::Lease, _) => Ok(()),
            };
            taken.about("lock", &description.capability)?;
        }
    }
    Ok(())
}

/// Returns whether process `pid` is the one to take a lock; `first` says whether it is the first that has the
/// description.
pub(super) fn is_taken_by(lock: &Lock, pid: Pid, first: bool) -> bool {
    match lock.kind {
        LockKind::Process(holder) => holder == pid,
        LockKind::Description | LockKind::Flock | LockKind::Lease => first,
    }
}
