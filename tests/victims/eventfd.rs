//! Eventfds.

use crate::Victim;
use crate::call::{read_some, write_all};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("eventfd_count", count),
    ("eventfd_semaphore", semaphore),
    ("eventfd_shared", shared),
    ("eventfd_full", full),
    ("eventfd_blocked_reader", blocked_reader),
    ("eventfd_blocked_writer", blocked_writer),
];

fn read(fd: i32) -> Result<u64, String> {
    read_some(fd, 8)?.try_into().map(u64::from_ne_bytes).map_err(|_| "a short read".to_owned())
}

fn count(stage: &Stage) -> Verdict {
    let (some, none) = (sys!(eventfd(0, libc::EFD_CLOEXEC))?, sys!(eventfd(0, libc::EFD_NONBLOCK))?);
    write_all(some, &0x1234_5678_9abc_u64.to_ne_bytes())?;
    stage.freeze_here()?;
    same!(read(some)?, 0x1234_5678_9abc, "the count");
    check!(read(none).is_err(), "an empty one can be read");
    Ok(())
}

fn semaphore(stage: &Stage) -> Verdict {
    let fd = sys!(eventfd(3, libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK))?;
    stage.freeze_here()?;
    for _ in 0..3 {
        same!(read(fd)?, 1, "a read of a semaphore");
    }
    check!(read(fd).is_err(), "a fourth read succeeded");
    Ok(())
}

fn shared(stage: &Stage) -> Verdict {
    let fd = sys!(eventfd(0, 0))?;
    let child = stage.fork(|| {
        same!(read(fd)?, 5, "what the child read");
        Ok(())
    })?;
    stage.freeze_here()?;
    write_all(fd, &5u64.to_ne_bytes())?;
    stage.reap(child)
}

fn full(stage: &Stage) -> Verdict {
    let fd = sys!(eventfd(0, libc::EFD_NONBLOCK))?;
    write_all(fd, &(u64::MAX - 1).to_ne_bytes())?;
    stage.freeze_here()?;
    check!(write_all(fd, &1u64.to_ne_bytes()).is_err(), "it is no longer full");
    same!(read(fd)?, u64::MAX - 1, "the count");
    Ok(())
}

fn blocked_reader(stage: &Stage) -> Verdict {
    let fd = sys!(eventfd(0, libc::EFD_SEMAPHORE))?;
    let take = || {
        same!(read(fd)?, 1, "what was read");
        Ok(())
    };
    let children = [stage.fork(take)?, stage.fork(take)?];
    let waits = |pid: &i32| crate::call::is_in_call(*pid, libc::SYS_read);
    crate::call::until("both wait", || children.iter().all(waits))?;
    stage.freeze_here()?;
    write_all(fd, &2u64.to_ne_bytes())?;
    children.into_iter().try_for_each(|pid| stage.reap(pid))
}

fn blocked_writer(stage: &Stage) -> Verdict {
    let fd = sys!(eventfd(0, 0))?;
    write_all(fd, &(u64::MAX - 2).to_ne_bytes())?;
    let child = stage.fork(|| write_all(fd, &7u64.to_ne_bytes()))?;
    crate::call::until("the child waits", || crate::call::is_in_call(child, libc::SYS_write))?;
    stage.freeze_here()?;
    same!(read(fd)?, u64::MAX - 2, "the count");
    stage.reap(child)?;
    same!(read(fd)?, 7, "what was added then");
    Ok(())
}
