//! Signalfds.

use crate::Victim;
use crate::call::{read_some, zeroed};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] =
    &[("signalfd_pending", pending), ("signalfd_epoll", epoll), ("signalfd_blocked_reader", blocked_reader)];

fn signalfd(signals: &[i32]) -> Result<i32, String> {
    let mut set: libc::sigset_t = zeroed();
    signals.iter().for_each(|signal| unsafe { _ = libc::sigaddset(&mut set, *signal) });
    sys!(sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
    sys!(signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))
}

fn next(fd: i32) -> Result<(i32, u64), String> {
    let bytes = read_some(fd, 128)?;
    same!(bytes.len(), 128, "the length of a record");
    let info: libc::signalfd_siginfo = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
    Ok((info.ssi_signo as i32, info.ssi_ptr))
}

fn pending(stage: &Stage) -> Verdict {
    let pid = unsafe { libc::getpid() };
    let fd = signalfd(&[libc::SIGUSR1, libc::SIGUSR2])?;
    let other = signalfd(&[64])?;
    sys!(sigqueue(pid, libc::SIGUSR1, libc::sigval { sival_ptr: 99 as *mut _ }))?;
    stage.freeze_here()?;
    same!(next(fd)?, (libc::SIGUSR1, 99), "the signal");
    check!(next(fd).is_err(), "there is one more");
    sys!(sigqueue(pid, 64, libc::sigval { sival_ptr: 5 as *mut _ }))?;
    check!(next(fd).is_err(), "it takes a signal of another set");
    same!(next(other)?, (64, 5), "the signal of the other set");
    Ok(())
}

fn epoll(stage: &Stage) -> Verdict {
    let fd = signalfd(&[libc::SIGTERM])?;
    let epoll = sys!(epoll_create1(0))?;
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 3 };
    sys!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event))?;
    stage.freeze_here()?;
    let mut events: [libc::epoll_event; 2] = zeroed();
    same!(sys!(epoll_wait(epoll, events.as_mut_ptr(), 2, 0))?, 0, "what is ready");
    sys!(kill(libc::getpid(), libc::SIGTERM))?;
    same!(sys!(epoll_wait(epoll, events.as_mut_ptr(), 2, 1000))?, 1, "what is ready then");
    same!(next(fd)?.0, libc::SIGTERM, "the signal");
    Ok(())
}

/// A child waits for a signal to itself by a descriptor that its parent made.
fn blocked_reader(stage: &Stage) -> Verdict {
    let fd = signalfd(&[libc::SIGUSR1])?;
    sys!(fcntl(fd, libc::F_SETFL, 0))?;
    let child = stage.fork(|| {
        same!(next(fd)?, (libc::SIGUSR1, 7), "the signal");
        Ok(())
    })?;
    crate::call::until("the child waits", || crate::call::is_in_call(child, libc::SYS_read))?;
    stage.freeze_here()?;
    sys!(sigqueue(child, libc::SIGUSR1, libc::sigval { sival_ptr: 7 as *mut _ }))?;
    stage.reap(child)
}
