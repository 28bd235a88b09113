//! The kernel boundary: one function for each call that rustix does not have, in rustix' manner.
//!
//! Borrowed descriptors in, owned ones out, flags as types, errno as [`rustix::io::Errno`]. Nothing here decides
//! anything; what a call means for a freeze or a thaw stands with its caller.

pub mod cgroup;
pub mod child;
pub mod clone;
pub mod elf;
pub mod enclose;
pub mod epoll;
pub mod extent;
pub mod fanotify;
pub mod fault;
pub mod fcntl;
pub mod fdinfo;
pub mod guise;
pub mod hugetlb;
pub mod impatience;
pub mod inotify;
pub mod ipc;
pub mod jobs;
pub mod kcmp;
pub mod lease;
pub mod limits;
pub mod memory;
pub mod mounts;
pub mod mqueue;
pub mod multicast;
pub mod network;
pub mod own;
pub mod packet;
pub mod pagemap;
pub mod pidfd;
pub mod probe;
pub mod proc;
pub mod processor;
pub mod ptrace;
pub mod pty;
pub mod sched;
pub mod sealed;
pub mod seccomp;
pub mod sight;
pub mod signalfd;
pub mod signals;
pub mod sock;
pub mod sock_options;
pub mod spawn;
pub mod stub;
pub mod sysv;
pub mod time;
pub mod timerfd;
pub mod undo;
pub mod unix_diag;
pub mod userfaultfd;
pub mod writeback;

mod raw;
