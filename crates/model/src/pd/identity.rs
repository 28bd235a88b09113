//! A process' place in the tree, its file system view and its settings.

use super::{Credentials, IntervalTimers, Limit, PosixTimer, SigInfo, SignalAction};
use crate::cap::FileRef;
use crate::id::{DescriptionId, Pid, TargetFd};
use crate::path::BytePath;
use serde::{Deserialize, Serialize};

/// The state of a protection domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PdState {
    /// Its place among the others.
    pub relation: Relation,
    /// Whether it runs, is stopped by job control, or waits to be reaped.
    pub life: Life,
    /// The command name: that of the leader thread.
    pub command: BytePath,
    /// The command line, for people.
    pub arguments: Vec<BytePath>,
    /// The binary, `/proc/PID/exe`; absent for a zombie, and if it is a file or memory without a name: then it is what is mapped
    /// where the code begins (`start_code`).
    pub exe: Option<FileRef>,
    /// Credentials of the leader thread.
    pub credentials: Credentials,
    /// The working directory; absent for a zombie.
    pub cwd: Option<FileRef>,
    /// The root directory, if it is not that of the freezer.
    pub root: Option<FileRef>,
    /// The file mode creation mask.
    pub umask: u32,
    /// What each signal does, index 0 for signal 1.
    pub actions: Vec<SignalAction>,
    /// Signals pending for the process as a whole, in the order of their queue.
    pub pending: Vec<SigInfo>,
    /// Soft and hard limits, indexed by the RLIMIT_ number.
    pub limits: Vec<Limit>,
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    pub interval_timers: IntervalTimers,
    /// Timers made by timer_create(2).
    pub posix_timers: Vec<PosixTimer>,
    /// Settings made by prctl(2) and its like.
    pub prctl: PrctlState,
    /// The descriptor table, by ascending number.
    pub descriptors: Vec<Descriptor>,
}

/// Where a process stands in the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Its pid in its own (innermost) pid namespace.
    pub pid: Pid,
    /// Its parent, if that belongs to the tree: neither that of the root does, nor the keeper, which adopts whose parent ended.
    pub parent: Option<Pid>,
    /// Its process group; absent if the group's leader never was in the tree.
    pub group: Option<Pid>,
    /// Its session; absent if the session's leader never was in the tree.
    pub session: Option<Pid>,
    /// Whether it is the leader of its session and has a controlling terminal.
    pub controls_terminal: bool,
    /// The signal its parent gets when it ends, usually SIGCHLD.
    pub exit_signal: i32,
    /// Whether orphans below it become its children (PR_SET_CHILD_SUBREAPER).
    pub subreaper: bool,
}

/// What a process was doing, as its parent could see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// It ran or slept.
    Running,
    /// Job control had stopped it by this signal.
    Stopped {
        /// SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU.
        signal: i32,
    },
    /// It had ended and its parent had not yet waited for it.
    Zombie {
        /// The status that wait(2) will give.
        status: i32,
    },
}

/// Settings of prctl(2) that belong to a whole process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrctlState {
    /// PR_GET_DUMPABLE: 0, 1 or 2.
    pub dumpable: u32,
    /// Whether PR_GET_THP_DISABLE says anything but 0.
    pub thp_disable: bool,
    /// Flags of PR_SET_THP_DISABLE beside (PR_THP_DISABLE_EXCEPT_ADVISED, since Linux 6.18).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub thp_flags: u32,
    /// `/proc/PID/personality`.
    pub personality: u32,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: i32,
    /// `/proc/PID/coredump_filter`.
    pub coredump_filter: u32,
    /// The commands of MEMBARRIER_CMD_GET_REGISTRATIONS that were registered.
    pub membarrier: u32,
    /// PR_GET_MDWE flags.
    pub mdwe: u32,
    /// What mlockall(2) does with mappings to come: MCL_FUTURE, and MCL_ONFAULT with it; 0 for nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lock_future: u32,
    /// PR_GET_MEMORY_MERGE: all of its memory may be merged with equal pages (KSM).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory_merge: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// An entry of the descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its number.
    pub fd: TargetFd,
    /// Whether exec closes it.
    pub close_on_exec: bool,
    /// What it refers to; several descriptors may refer to one description.
    pub description: DescriptionId,
}
