//! System calls that programs under the runtime are refused, since what they make cannot be carried.
//!
//! Each gets the error that makes programs fall back which know to do without: that of a kernel that lacks the call, or
//! of an administrator who has turned it off.

use frost_sys::seccomp::{Filter, Refusal};
use frost_sys::userfaultfd::MARKED_FLAGS;

/// Calls that are refused together.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What `--allow` calls it.
    pub name: &'static str,
    /// What the calls are for.
    pub what: &'static str,
    /// The calls with their numbers and what each gets.
    pub calls: &'static [(&'static str, libc::c_long, i32)],
    /// Why this error, and who is known to fall back.
    pub why: &'static str,
}

/// All that is refused.
pub const KINDS: [Kind; 6] = [
    Kind {
        name: "io-uring",
        what: "io_uring rings",
        calls: &[
            ("io_uring_setup", libc::SYS_io_uring_setup, libc::ENOSYS),
            ("io_uring_enter", libc::SYS_io_uring_enter, libc::ENOSYS),
            ("io_uring_register", libc::SYS_io_uring_register, libc::ENOSYS),
        ],
        why: "as on a kernel without it: libuv (Node.js) takes its thread pool and epoll, MariaDB libaio or its simulation",
    },
    Kind {
        name: "userfaultfd",
        what: "descriptors that serve page faults",
        calls: &[("userfaultfd", libc::SYS_userfaultfd, libc::EPERM)],
        why: "as where vm.unprivileged_userfaultfd is 0",
    },
    Kind {
        name: "perf",
        what: "performance counters",
        calls: &[("perf_event_open", libc::SYS_perf_event_open, libc::EACCES)],
        why: "as where kernel.perf_event_paranoid is high: perf and language runtimes go without",
    },
    Kind {
        name: "bpf",
        what: "BPF programs and maps",
        calls: &[("bpf", libc::SYS_bpf, libc::EPERM)],
        why: "as where kernel.unprivileged_bpf_disabled is set",
    },
    Kind {
        name: "fanotify",
        what: "fanotify groups",
        calls: &[("fanotify_init", libc::SYS_fanotify_init, libc::EPERM)],
        why: "as for whoever lacks CAP_SYS_ADMIN",
    },
    Kind {
        name: "landlock",
        what: "Landlock domains, which nobody can read back, so that a thaw would lose them in silence",
        calls: &[
            ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, libc::EOPNOTSUPP),
            ("landlock_add_rule", libc::SYS_landlock_add_rule, libc::EOPNOTSUPP),
            ("landlock_restrict_self", libc::SYS_landlock_restrict_self, libc::EOPNOTSUPP),
        ],
        why: "as on a kernel where it is not enabled; landlock(7) asks programs to go on without, as Chromium does",
    },
];

/// Finds a kind by its name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Makes the filter of a program to which the kinds named in `allowed` are open.
pub fn filter(allowed: &[String]) -> Filter {
    let refused: Vec<Refusal> = KINDS
        .iter()
        .filter(|kind| !allowed.iter().any(|name| name == kind.name))
        .flat_map(|kind| kind.calls)
        .map(|(_, number, errno)| Refusal {
            number: *number as u32,
            errno: *errno,
            // A freeze tracks the writes of a program by a descriptor that it makes there and takes away at once. A program
            // that takes the mark for itself gets what it could have without a filter, and is refused when it is frozen.
            unless: (*number == libc::SYS_userfaultfd).then_some(MARKED_FLAGS),
        })
        .collect();
    Filter::refusing(&refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..index].iter().all(|other| other.name != kind.name));
            assert!(kind.calls.iter().all(|(_, _, errno)| *errno > 0));
        }
    }
}
