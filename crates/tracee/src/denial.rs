//! Why the kernel does not let us look into a process.

use frost_sys::proc;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;

/// What stands between us and a process, as far as the kernel shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It belongs to this user.
    Owner(u32),
    /// It is our user's, but of this group, to which we belong at most beside our own.
    Group(u32),
    /// It has rights that we do not have.
    Capabilities,
    /// It is ours, and closed to all but root.
    Closed,
    /// `kernel.yama.ptrace_scope` has this value, which keeps us from processes that we did not start.
    Scope(u32),
    /// The kernel does not say.
    Unknown,
}

impl Denial {
    /// Finds it out.
    pub fn of(pid: i32) -> Self {
        let ours = rustix::process::geteuid().as_raw();
        let group = rustix::process::getgid().as_raw();
        let Ok(status) = proc::status(pid) else { return Self::Unknown };
        if let Some(other) = status.uids[..3].iter().find(|uid| **uid != ours) {
            return Self::Owner(*other);
        }
        // The files of one that is not dumpable belong to root (`task_dump_owner`, fs/proc/base.c); it became so by
        // PR_SET_DUMPABLE, or by a binary that nobody may read, or that gave it rights.
        let closed = std::fs::metadata(proc::path(pid, "maps")).is_ok_and(|file| file.uid() != ours);
        if closed {
            return Self::Closed;
        }
        // All of them are compared (`__ptrace_may_access`, kernel/ptrace.c), and what it may do with what we may
        // (`cap_ptrace_access_check`, security/commoncap.c).
        if let Some(other) = status.gids[..3].iter().find(|gid| **gid != group) {
            return Self::Group(*other);
        }
        let own = proc::status(rustix::process::getpid().as_raw_nonzero().get());
        if own.is_ok_and(|own| status.cap_permitted & !own.cap_effective != 0) {
            return Self::Capabilities;
        }
        let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
        match scope.ok().and_then(|scope| scope.trim().parse().ok()) {
            Some(scope @ 1..) => Self::Scope(scope),
            _ => Self::Unknown,
        }
    }

    /// Returns whether what the kernel tells of a thread is closed to us, even if we may trace it: the owner of a user
    /// namespace has all rights over what lives in there, but the files of one that is not dumpable belong to the root of the
    /// machine.
    pub fn is_closed(tid: i32) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        proc::lasts(|| {
            rustix::fs::open(proc::path(tid, "fd"), flags, Mode::empty()).err() == Some(Errno::ACCESS)
                // Those of one that ends and has no memory any more are root's, too.
                && proc::read(tid, "statm").is_ok_and(|pages| !pages.starts_with(b"0 "))
        })
    }

    /// Returns what to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Owner(_) => "only its owner or root can freeze a process",
            Self::Group(_) => {
                "freeze it as root, or as a program of that group: `sg GROUP -c 'frost freeze ...'`"
            }
            Self::Closed | Self::Capabilities => "freeze it as root",
            Self::Scope(_) => "freeze it as root; `frost check` tells how ordinary users may",
            Self::Unknown => {
                "freeze it as root; if root may not either, a security module forbids it (AppArmor, SELinux)"
            }
        }
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Owner(uid) => write!(f, "it belongs to user {uid}"),
            Self::Group(gid) => write!(f, "its group is {gid}, which is not ours"),
            Self::Capabilities => f.write_str("it has rights (capabilities) that this user does not have"),
            Self::Closed => {
                f.write_str(
                    "it has shut out all but root, as programs do that keep keys (PR_SET_DUMPABLE), or one may not read \
                     its binary",
                )
            }
            Self::Scope(scope) => write!(
                f,
                "only what started it, or root, may look into it (kernel.yama.ptrace_scope is {scope})"
            ),
            Self::Unknown => f.write_str("the kernel does not let this user look into it"),
        }
    }
}
