//! Settings of prctl(2) and its like.

use crate::Victim;
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] =
    &[("prctl_settings", settings), ("prctl_not_dumpable", not_dumpable), ("prctl_membarrier", membarrier)];

fn settings(stage: &Stage) -> Verdict {
    sys!(prctl(libc::PR_SET_NAME, c"odd) name (\x01".as_ptr()))?;
    sys!(prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0))?;
    sys!(prctl(libc::PR_SET_TIMERSLACK, 123_456))?;
    sys!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
    sys!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1))?;
    sys!(personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong))?;
    for (name, value) in [("oom_score_adj", "500"), ("coredump_filter", "0x11")] {
        std::fs::write(format!("/proc/self/{name}"), value).map_err(|why| format!("{name}: {why}"))?;
    }
    // The signal of a parent's end belongs to the parent that there was; the thawed program has another.
    sys!(prctl(libc::PR_SET_PDEATHSIG, 0))?;
    stage.freeze_here()?;
    same!(sys!(prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0))?, 1, "THP_DISABLE");
    let mut subreaper = 0;
    sys!(prctl(libc::PR_GET_CHILD_SUBREAPER, &mut subreaper))?;
    same!(subreaper, 1, "CHILD_SUBREAPER");
    Ok(())
}

/// A program that keeps debuggers out; only root can freeze it.
fn not_dumpable(stage: &Stage) -> Verdict {
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: an ordinary user cannot look into a process that is not dumpable");
        return stage.freeze_here();
    }
    sys!(prctl(libc::PR_SET_DUMPABLE, 0))?;
    stage.freeze_here()
}

/// Registered for expedited barriers: without the registration the call fails.
fn membarrier(stage: &Stage) -> Verdict {
    let barrier = |command: i32| sys!(syscall(libc::SYS_membarrier, command, 0, 0));
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    barrier(REGISTER_PRIVATE_EXPEDITED)?;
    barrier(PRIVATE_EXPEDITED)?;
    stage.freeze_here()?;
    barrier(PRIVATE_EXPEDITED)?;
    Ok(())
}
