//! System V segments, semaphores and message queues.

use crate::PAGE_SIZE;
use crate::id::Pid;
use crate::ram::Pages;
use serde::{Deserialize, Serialize};

/// What all three have, from `struct ipc_perm`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipc {
    /// Its identifier, which stays the same across a thaw.
    pub id: i32,
    /// Its key, 0 for IPC_PRIVATE.
    pub key: i32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits, at most 0o777.
    pub mode: u32,
    /// User and group of who made it, if they are others than owner and group (`cuid`, `cgid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator: Option<(u32, u32)>,
    /// Which processes the kernel has noted, 0 for none: who made a segment and who attached or detached it last, who operated
    /// last on each semaphore, who sent and who received last; none at all if it is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<Pid>,
}

/// A segment of shared memory (shmget).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Identifier, key, owner, rights.
    pub ipc: Ipc,
    /// Its size in bytes, as given to shmget; it has whole pages.
    pub len_bytes: u64,
    /// Its content.
    pub pages: Pages,
    /// The BLAKE3 digest of its content, by which a segment that was left in place is known to be the same.
    pub digest: [u8; 32],
    /// The key it was made with, which it loses when it is removed while it is attached; its attachments are named by it.
    pub first_key: i32,
    /// Whether it vanishes with its last attachment (IPC_RMID while it was attached).
    pub removed: bool,
    /// Whether it is locked in memory (SHM_LOCK).
    pub locked: bool,
    /// The logarithm of the size of its pages, if it is known to be of huge pages (SHM_HUGETLB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_shift: Option<u32>,
}

impl Segment {
    /// Returns how many bytes an attachment of it has: whole pages. `None` for more than there can be.
    pub fn attached_bytes(&self) -> Option<u64> {
        let page = self.huge_shift.map_or(Some(PAGE_SIZE), |shift| 1_u64.checked_shl(shift))?;
        self.len_bytes.checked_next_multiple_of(page)
    }
}

/// A set of semaphores (semget).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemaphoreSet {
    /// Identifier, key, owner, rights.
    pub ipc: Ipc,
    /// The value of each semaphore.
    pub values: Vec<u16>,
    /// Whether anybody has operated on it since it was made (`sem_otime`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub operated: bool,
    /// What the ends of processes will undo (SEM_UNDO).
    pub undo: Vec<SemaphoreUndo>,
}

/// What the end of one process changes in a set of semaphores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemaphoreUndo {
    /// The process.
    pub pid: Pid,
    /// What is added to each semaphore when it ends (`semadj`).
    pub adjust: Vec<i32>,
}

/// A message queue (msgget).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageQueue {
    /// Identifier, key, owner, rights.
    pub ipc: Ipc,
    /// The most bytes that it takes (`msg_qbytes`).
    pub capacity_bytes: u64,
    /// Its messages, the oldest first.
    pub messages: Vec<QueuedMessage>,
}

/// A message in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedMessage {
    /// Its type, at least 1.
    pub kind: i64,
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

impl SemaphoreSet {
    /// Returns the values that the semaphores have once every process has ended.
    pub fn undone(&self) -> Vec<u16> {
        let sum = |index: usize| -> i32 {
            self.undo.iter().filter_map(|undo| undo.adjust.get(index)).copied().fold(0, i32::saturating_add)
        };
        // The kernel keeps them within 0 and SEMVMX (`exit_sem`, ipc/sem.c).
        let after = |(index, value): (usize, &u16)| {
            i32::from(*value).saturating_add(sum(index)).clamp(0, MOST_VALUE) as u16
        };
        self.values.iter().enumerate().map(after).collect()
    }
}

/// SEMVMX: the greatest value of a semaphore, and the greatest adjustment.
pub const MOST_VALUE: i32 = 32_767;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_ends_of_processes_undo_adds_up_within_bounds() {
        let undo = |pid: i32, adjust: &[i32]| SemaphoreUndo { pid: Pid::new(pid), adjust: adjust.to_vec() };
        let set = SemaphoreSet {
            ipc: Ipc::default(),
            values: vec![0, 3, 32_767],
            operated: true,
            undo: vec![undo(1, &[1, -2, 5]), undo(2, &[2, -2])],
        };
        assert_eq!(set.undone(), [3, 0, 32_767]);
    }
}
