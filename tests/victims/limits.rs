//! Resource limits, which are among the facts that every victim compares.

use crate::Victim;
use crate::call::zeroed;
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("limits_soft", soft),
    ("limits_hard", hard),
    ("limits_tight_files", tight_files),
    ("limits_tight_size", tight_size),
];

fn lower(which: libc::__rlimit_resource_t, soft: u64, hard: Option<u64>) -> Verdict {
    let mut limit: libc::rlimit = zeroed();
    sys!(getrlimit(which, &mut limit))?;
    limit.rlim_max = limit.rlim_max.min(hard.unwrap_or(u64::MAX));
    limit.rlim_cur = soft.min(limit.rlim_max);
    sys!(setrlimit(which, &limit))?;
    Ok(())
}

fn soft(stage: &Stage) -> Verdict {
    lower(libc::RLIMIT_NOFILE, 300, None)?;
    lower(libc::RLIMIT_CORE, 0, None)?;
    lower(libc::RLIMIT_STACK, 4 << 20, None)?;
    lower(libc::RLIMIT_CPU, 100_000, None)?;
    stage.freeze_here()
}

fn hard(stage: &Stage) -> Verdict {
    lower(libc::RLIMIT_NOFILE, 200, Some(250))?;
    lower(libc::RLIMIT_CORE, 0, Some(0))?;
    lower(libc::RLIMIT_MEMLOCK, 4096, Some(8192))?;
    lower(libc::RLIMIT_SIGPENDING, 10, Some(20))?;
    lower(libc::RLIMIT_AS, 8 << 30, Some(16 << 30))?;
    stage.freeze_here()
}

/// No descriptor can be opened any more: nothing may depend on one in the program.
fn tight_files(stage: &Stage) -> Verdict {
    let high = sys!(fcntl(0, libc::F_DUPFD, 100))?;
    // The next free number is what Facts and Maps need to read /proc; one is kept for that.
    lower(libc::RLIMIT_NOFILE, 8, Some(8))?;
    stage.freeze_here()?;
    sys!(fcntl(high, libc::F_GETFD))?;
    Ok(())
}

/// The program may not write large files, while its image must be one.
fn tight_size(stage: &Stage) -> Verdict {
    let memory = crate::call::map(8 << 20, crate::call::READ_WRITE, libc::MAP_PRIVATE)?;
    crate::call::fill(memory, 8 << 20, 3);
    lower(libc::RLIMIT_FSIZE, 64 * 1024, Some(64 * 1024))?;
    stage.freeze_here()?;
    crate::call::check_fill("memory", memory, 8 << 20, 3)
}
