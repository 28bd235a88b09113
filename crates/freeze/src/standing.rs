//! What is in the way in processes that stand still, and is only told by them.

use crate::inner::ProcessFacts;
use frost_model::{Obstacle, Pid};
use frost_sys::proc::Mapping;
use frost_sys::ptrace;
use frost_tracee::seize::{StoppedProcess, StoppedTree};

/// Returns what makes an obstacle in a process of an object, the reason and the remedy.
fn refusal(process: &StoppedProcess) -> impl Fn(&str, &str, &str) -> Obstacle {
    |object, reason, remedy| Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: object.to_owned(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
        passes: false,
    }
}

/// Refuses a process whose leader has ended, if the rest of it cannot be reached.
pub(crate) fn lost_leader(process: &StoppedProcess) -> Option<Obstacle> {
    let refuse = refusal(process);
    if !process.lacks_leader() {
        return None;
    }
    process.thread_pidfd.is_none().then(|| {
        refuse(
            "main thread",
            "it has ended, and this kernel gives no hold on the descriptors of the other threads",
            "freeze it on Linux 6.9 or later",
        )
    })
}

/// Refuses a process that asked for a signal at the end of its parent, if the leader of that has ended already: the signal
/// comes with the end of the thread that made it (`forget_original_parent`, kernel/exit.c), and would come once more when
/// that ends again in the thawed program.
pub(crate) fn warned_of_leader(
    tree: &StoppedTree,
    process: &StoppedProcess,
    facts: &ProcessFacts,
) -> Option<Obstacle> {
    let refuse = refusal(process);
    let parent = tree.processes().iter().find(|other| other.pid == process.parent)?;
    let asked = facts.threads.iter().any(|thread| thread.parent_death_signal != 0);
    (asked && parent.lacks_leader()).then(|| {
        refuse(
            "parent-death signal",
            "the main thread of its parent has ended while others go on, and would end once more",
            "let the program turn that signal off (PR_SET_PDEATHSIG)",
        )
    })
}

/// Refuses a process that has a keyring which would end with it. Only it can be asked.
pub(crate) fn own_keyring(process: &StoppedProcess, facts: &ProcessFacts) -> Option<Obstacle> {
    let refuse = refusal(process);
    let keyring = facts.threads.iter().find_map(|thread| thread.keyring)?;
    Some(refuse(
        &format!("keyring of {keyring}"),
        "the kernel does not give back all keys, nor takes them under their numbers",
        "let the program keep its keys in another keyring (keyrings(7)), as that of its user",
    ))
}

/// Refuses a process with protection keys whose filters do not let it tell which it has.
pub(crate) fn silent_of_keys(
    process: &StoppedProcess,
    mappings: &[Mapping],
    facts: &ProcessFacts,
) -> Option<Obstacle> {
    let refuse = refusal(process);
    let keyed = mappings.iter().find(|mapping| mapping.protection_key != 0)?;
    facts.protection_keys.is_none().then(|| {
        refuse(
            &format!("memory {:x}-{:x}", keyed.start, keyed.end),
            "it has a protection key, and a filter forbids the call that tells which there are",
            "let the program's filter (seccomp) allow pkey_mprotect",
        )
    })
}

/// Refuses a process with segments of its own, as Wine makes them for programs of 32 and 16 bits. Only it can be asked.
pub(crate) fn own_segments(process: &StoppedProcess, facts: &ProcessFacts) -> Option<Obstacle> {
    let refuse = refusal(process);
    facts.segments.then(|| {
        refuse(
            "segments (modify_ldt)",
            "frost does not carry the local descriptor table of a process",
            "run the program without those, as one of 64 bits",
        )
    })
}

/// Refuses a process with a thread that is handed its own calls: those of a tape would be, too.
pub(crate) fn dispatching(process: &StoppedProcess) -> Option<Obstacle> {
    let refuse = refusal(process);
    let dispatches =
        process.threads.iter().find(|thread| ptrace::dispatches_calls(thread.tid).unwrap_or(false))?;
    Some(refuse(
        &format!("thread {}", dispatches.inner),
        "it handles its own system calls (PR_SET_SYSCALL_USER_DISPATCH)",
        "freeze it when it does not, or run the program without that",
    ))
}
