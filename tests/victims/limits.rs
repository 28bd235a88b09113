//! Resource limits, which are among the facts that every victim compares.

use crate::Victim;
use crate::call::zeroed;
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("limits_soft", soft),
    ("limits_hard", hard),
    ("limits_tight_files", tight_files),
    ("limits_tight_size", tight_size),
    ("limits_most_files", most_files),
    ("limits_crossed_files", crossed_files),
    ("limits_full_address_space", full_address_space),
];

fn lower(which: libc::__rlimit_resource_t, soft: u64, hard: Option<u64>) -> Verdict {
    let mut limit: libc::rlimit = zeroed();
    sys!(getrlimit(which, &mut limit))?;
    limit.rlim_max = limit.rlim_max.min(hard.unwrap_or(u64::MAX));
    limit.rlim_cur = soft.min(limit.rlim_max);
    sys!(setrlimit(which, &limit))?;
    Ok(())
}

/// There is no room for what a freeze maps, but for what the victim itself may need.
fn full_address_space(stage: &Stage) -> Verdict {
    const ROOM_BYTES: u64 = 512 << 10;
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or("statm tells no size")?;
    lower(libc::RLIMIT_AS, pages * 4096 + ROOM_BYTES, None)?;
    stage.freeze_without_facts()?;
    lower(libc::RLIMIT_AS, u64::MAX, None)
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

/// An eventfd that counts `value`, under a number of its own choice.
fn counter(value: u32, fd: i32) -> Verdict {
    let made = sys!(eventfd(value, libc::EFD_NONBLOCK))?;
    if made != fd {
        sys!(dup2(made, fd))?;
        sys!(close(made))?;
    }
    Ok(())
}

fn counts(value: u64, fd: i32) -> Verdict {
    let mut count = [0; 8];
    sys!(read(fd, count.as_mut_ptr().cast(), 8))?;
    same!(u64::from_ne_bytes(count), value, "what descriptor {fd} counts");
    Ok(())
}

/// Three quarters of the numbers that the limit allows refer to descriptions of their own, so that there are not as many
/// others to build them with; the limit is that of whoever thaws, too.
fn most_files(stage: &Stage) -> Verdict {
    const FIRST: i32 = 10;
    let mut limit: libc::rlimit = zeroed();
    sys!(getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
    // As many as the machine may have of them, and all of its programs.
    let limit = limit.rlim_max.min(20_000);
    lower(libc::RLIMIT_NOFILE, limit, None)?;
    let last = (limit as i32 / 4 * 3).max(FIRST);
    for fd in FIRST..last {
        counter(fd as u32, fd)?;
    }
    stage.freeze_here()?;
    (FIRST..last).try_for_each(|fd| counts(fd as u64, fd))
}

/// Two processes know the same descriptions by each other's numbers, and a third one does not have them.
fn crossed_files(stage: &Stage) -> Verdict {
    const FIRST: i32 = 20;
    for fd in FIRST..FIRST + 4 {
        counter(fd as u32, fd)?;
    }
    let (settled, go) = (sys!(eventfd(0, libc::EFD_SEMAPHORE))?, sys!(eventfd(0, libc::EFD_SEMAPHORE))?);
    let wait = |fd: i32| -> Verdict {
        let mut count = 0u64;
        sys!(read(fd, (&raw mut count).cast(), 8)).map(drop)
    };
    let without = stage.fork(|| {
        for fd in FIRST..FIRST + 4 {
            sys!(close(fd))?;
        }
        crate::call::write_all(settled, &1u64.to_ne_bytes())?;
        wait(go)?;
        for fd in FIRST..FIRST + 4 {
            check!(sys!(fcntl(fd, libc::F_GETFD)).is_err(), "descriptor {fd} is open where it was closed");
        }
        Ok(())
    })?;
    let crossed = stage.fork(|| {
        let aside = sys!(dup(FIRST))?;
        sys!(dup2(FIRST + 1, FIRST))?;
        sys!(dup3(aside, FIRST + 1, libc::O_CLOEXEC))?;
        sys!(close(aside))?;
        sys!(dup2(FIRST + 2, FIRST + 3))?;
        crate::call::write_all(settled, &1u64.to_ne_bytes())?;
        wait(go)?;
        let closes = |fd: i32| Ok::<_, String>(sys!(fcntl(fd, libc::F_GETFD))? & libc::FD_CLOEXEC != 0);
        same!((closes(FIRST)?, closes(FIRST + 1)?), (false, true), "what is closed on exec");
        counts(FIRST as u64 + 1, FIRST)?;
        counts(FIRST as u64, FIRST + 1)?;
        counts(FIRST as u64 + 2, FIRST + 3)
    })?;
    wait(settled)?;
    wait(settled)?;
    stage.freeze_here()?;
    // Which that process does not have under any number.
    counts(FIRST as u64 + 3, FIRST + 3)?;
    crate::call::write_all(go, &2u64.to_ne_bytes())?;
    stage.reap(crossed)?;
    stage.reap(without)
}

/// The program may not write large files, while its image must be one.
fn tight_size(stage: &Stage) -> Verdict {
    let memory = crate::call::map(8 << 20, crate::call::READ_WRITE, libc::MAP_PRIVATE)?;
    crate::call::fill(memory, 8 << 20, 3);
    lower(libc::RLIMIT_FSIZE, 64 * 1024, Some(64 * 1024))?;
    stage.freeze_here()?;
    crate::call::check_fill("memory", memory, 8 << 20, 3)
}
