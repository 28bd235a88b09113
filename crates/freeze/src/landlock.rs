//! Landlock domains, which the kernel shows to nobody.
//!
//! What gives one away: whoever is in a domain may look at processes in it and below it only (`hook_ptrace_access_check`,
//! security/landlock/task.c), whatever its rules are about. So a process is made to compare itself with us, whom it could
//! look at by its rights. Where these do not reach so far, a domain is not found.

use crate::inner::{ProcessFacts, ThreadFacts};
use frost_model::{Obstacle, Pid};
use frost_sys::proc::{self, Status};
use frost_tracee::seize::{StoppedProcess, StoppedThread};

/// Returns our number, if `process` could look at us unless it is in a domain.
///
/// What decides otherwise (ptrace(2), access mode checking): its real user and group must be all of ours, it must have
/// what capabilities we have, and no other security module may confine it.
pub(crate) fn witness(process: &StoppedProcess) -> Option<i32> {
    let own = std::process::id() as i32;
    let same = |name: &str| {
        let link = |pid| rustix::fs::readlink(proc::path(pid, &format!("ns/{name}")), Vec::new()).ok();
        link(own).is_some_and(|ours| link(process.through) == Some(ours))
    };
    let reaches = reaches(&process.status, &proc::status(own).ok()?)
        && rustix::process::dumpable_behavior() == Ok(rustix::process::DumpableBehavior::Dumpable);
    // AppArmor and SELinux tell whom they do not confine; without such a module there is nothing to read.
    let label = proc::read(process.through, "attr/current").unwrap_or_default();
    let free = label.is_empty() || String::from_utf8_lossy(&label).contains("unconfined");
    (reaches && free && same("pid") && same("user")).then_some(own)
}

/// Whether a thread may look at us by its user, group and capabilities.
fn reaches(theirs: &Status, ours: &Status) -> bool {
    let alike = |ours: &[u32; 4], theirs: u32| ours[..3].iter().all(|id| *id == theirs);
    alike(&ours.uids, theirs.uids[0])
        && alike(&ours.gids, theirs.gids[0])
        && ours.cap_permitted & !theirs.cap_permitted == 0
}

/// Refuses a process of which a thread is in a domain.
pub(crate) fn refuse(process: &StoppedProcess, facts: &ProcessFacts) -> Option<Obstacle> {
    // One whose credentials are not those of its process may be kept out by these.
    let ours = proc::status(std::process::id() as i32).ok()?;
    let is_in = |(thread, facts): (&StoppedThread, &ThreadFacts)| {
        facts.confined
            && proc::thread_status(process.pid, thread.tid).is_ok_and(|status| reaches(&status, &ours))
    };
    process.threads.iter().zip(&facts.threads).any(is_in).then(|| Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: "Landlock domain".to_owned(),
        reason: "its rules cannot be read back, so that a thaw would lose them in silence".to_owned(),
        remedy: "run the program without its sandbox, where it has a switch for that".to_owned(),
        passes: false,
    })
}
