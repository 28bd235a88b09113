//! Pidfds of processes of the tree.

use crate::Victim;
use crate::call::{until, zeroed};
use crate::stage::{Stage, Verdict};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

pub(crate) const VICTIMS: &[Victim] = &[
    ("pidfd_child", child),
    ("pidfd_self", own),
    ("pidfd_zombie", zombie),
    ("pidfd_gone", gone),
    ("pidfd_gone_told", gone_told),
    ("pidfd_sibling", sibling),
    ("pidfd_thread", thread),
];

/// PIDFD_THREAD of include/uapi/linux/pidfd.h.
pub(crate) const OF_THREAD: i32 = libc::O_EXCL;

pub(crate) fn pidfd(pid: i32) -> Result<i32, String> {
    Ok(sys!(syscall(libc::SYS_pidfd_open, pid, 0))? as i32)
}

/// Opens one of a single thread; `None` before Linux 6.9.
pub(crate) fn pidfd_of_thread(tid: i32) -> Result<Option<i32>, String> {
    match sys!(syscall(libc::SYS_pidfd_open, tid, OF_THREAD)) {
        Err(_) if crate::call::errno() == libc::EINVAL => Ok(None),
        opened => Ok(Some(opened? as i32)),
    }
}

pub(crate) fn ready(fd: i32) -> Result<bool, String> {
    let mut poll = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    Ok(sys!(poll(poll.as_mut_ptr(), 1, 0))? == 1)
}

pub(crate) fn pid_of(fd: i32) -> Result<String, String> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).map_err(|why| why.to_string())?;
    Ok(info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap_or("none").trim().to_owned())
}

fn child(stage: &Stage) -> Verdict {
    let child = stage.fork(|| {
        stage.wait();
        loop {
            crate::call::nap(std::time::Duration::from_millis(5));
        }
    })?;
    let fd = pidfd(child)?;
    stage.freeze_here()?;
    check!(!ready(fd)?, "the child has ended");
    same!(pid_of(fd)?, child.to_string(), "whose pidfd it is");
    sys!(syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, std::ptr::null::<u8>(), 0))?;
    let mut info: libc::siginfo_t = zeroed();
    sys!(waitid(libc::P_PIDFD, fd as u32, &mut info, libc::WEXITED))?;
    stage.forget(child);
    same!(unsafe { info.si_status() }, libc::SIGKILL, "how it ended");
    Ok(())
}

fn own(stage: &Stage) -> Verdict {
    let fd = pidfd(unsafe { libc::getpid() })?;
    stage.freeze_here()?;
    same!(pid_of(fd)?, unsafe { libc::getpid() }.to_string(), "whose pidfd it is");
    sys!(syscall(libc::SYS_pidfd_send_signal, fd, 0, std::ptr::null::<u8>(), 0))?;
    Ok(())
}

fn zombie(stage: &Stage) -> Verdict {
    let child = stage.fork(|| Ok(()))?;
    let fd = pidfd(child)?;
    until("it is a zombie", || crate::call::state_of(child) == Some('Z'))?;
    stage.freeze_here()?;
    check!(ready(fd)?, "the zombie is not seen as ended");
    stage.reap(child)
}

/// Of a process that was waited for.
fn gone(stage: &Stage) -> Verdict {
    let child = stage.fork(|| Ok(()))?;
    let fd = pidfd(child)?;
    stage.reap(child)?;
    stage.freeze_here()?;
    check!(ready(fd)?, "it is not seen as ended");
    check!(
        sys!(syscall(libc::SYS_pidfd_send_signal, fd, 0, std::ptr::null::<u8>(), 0)).is_err(),
        "it can be signalled"
    );
    Ok(())
}

/// Held by one who is neither that process, nor its parent, nor below it, and watched by that one.
fn sibling(stage: &Stage) -> Verdict {
    let words = crate::call::shared_words::<2>()?;
    let (number, told) = (&words[0], &words[1]);
    let watcher = stage.fork(|| {
        until("the other is there", || number.load(SeqCst) != 0)?;
        let other = number.load(SeqCst) as i32;
        let fd = pidfd(other)?;
        let epoll = sys!(epoll_create1(libc::EPOLL_CLOEXEC))?;
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 77 };
        sys!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event))?;
        told.store(1, SeqCst);
        stage.wait();
        same!(pid_of(fd)?, other.to_string(), "whose pidfd it is");
        sys!(syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, std::ptr::null::<u8>(), 0))?;
        event.u64 = 0;
        same!(sys!(epoll_wait(epoll, &mut event, 1, 60_000))?, 1, "events of its end");
        same!({ event.u64 }, 77, "the word of the watch");
        Ok(())
    })?;
    let other = stage.fork(|| {
        stage.wait();
        loop {
            crate::call::nap(std::time::Duration::from_millis(5));
        }
    })?;
    number.store(other as u32, SeqCst);
    until("the watcher stands", || told.load(SeqCst) == 1)?;
    stage.freeze_here()?;
    stage.reap(watcher)?;
    let mut status = 0;
    sys!(waitpid(other, &mut status, 0))?;
    stage.forget(other);
    same!(status, libc::SIGKILL, "how the other ended");
    Ok(())
}

/// Of single threads: an own one, one of a child, a leader, and one that has ended.
fn thread(stage: &Stage) -> Verdict {
    let words = crate::call::shared_words::<4>()?;
    let [own, childs, end_own, end_childs] = words;
    let run = |tid: &'static AtomicU32, end: &'static AtomicU32| {
        std::thread::spawn(move || {
            tid.store(crate::call::gettid() as u32, SeqCst);
            until("it may end", || end.load(SeqCst) == 1)
        })
    };
    let child = stage.fork(|| {
        let thread = run(childs, end_childs);
        check!(thread.join().is_ok_and(|ended| ended.is_ok()), "the child's thread did not end well");
        stage.wait();
        Ok(())
    })?;
    let thread = run(own, end_own);
    let gone = std::thread::spawn(|| pidfd_of_thread(crate::call::gettid())).join();
    let gone = gone.map_err(|_| "the thread that ends panicked".to_owned())??;
    until("the threads stand", || own.load(SeqCst) != 0 && childs.load(SeqCst) != 0)?;
    let Some(gone) = gone else {
        end_own.store(1, SeqCst);
        end_childs.store(1, SeqCst);
        stage.freeze_amid_threads()?;
        return stage.reap(child);
    };
    let tids = [own.load(SeqCst) as i32, childs.load(SeqCst) as i32, unsafe { libc::getpid() }];
    let mut held = Vec::new();
    for tid in tids {
        let fd = pidfd_of_thread(tid)?.ok_or("one of a thread could be opened before")?;
        held.push((fd, sys!(fcntl(fd, libc::F_GETFL))?));
    }
    until("the thread has ended", || ready(gone).unwrap_or(false))?;
    let seen = stage.freeze_amid_threads();
    for ((fd, flags), tid) in held.iter().zip(tids) {
        same!(pid_of(*fd)?, tid.to_string(), "whose pidfd it is");
        same!(sys!(fcntl(*fd, libc::F_GETFL))?, *flags, "its flags");
        check!(!ready(*fd)?, "thread {tid} has ended");
    }
    check!(ready(gone)?, "the one that has ended is not seen so");
    end_own.store(1, SeqCst);
    end_childs.store(1, SeqCst);
    seen?;
    check!(thread.join().is_ok_and(|ended| ended.is_ok()), "the thread did not end well");
    for (fd, _) in &held[..2] {
        until("the thread's end is seen", || ready(*fd).unwrap_or(false))?;
    }
    stage.reap(child)
}

/// How a process ended that was waited for (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15); `None` if that is not told.
fn end_of(fd: i32) -> Option<i32> {
    // `struct pidfd_info` of include/uapi/linux/pidfd.h: 64 bits of what is wanted and told, at 60 the status.
    const GET_INFO: u64 = 0xc040_ff0b;
    const EXIT: u32 = 1 << 3;
    let mut info = [0u32; 16];
    info[0] = EXIT;
    sys!(ioctl(fd, GET_INFO, info.as_mut_ptr())).ok()?;
    (info[0] & EXIT != 0).then_some(info[15] as i32)
}

/// How processes ended that were waited for, one of them by a signal.
fn gone_told(stage: &Stage) -> Verdict {
    let mut all = Vec::new();
    for how in [0, 42, -libc::SIGTERM, -libc::SIGKILL] {
        let child = stage.fork(|| {
            if how < 0 {
                unsafe { libc::kill(libc::getpid(), -how) };
            }
            unsafe { libc::_exit(how) }
        })?;
        let fd = pidfd(child)?;
        sys!(waitpid(child, std::ptr::null_mut(), 0))?;
        stage.forget(child);
        all.push((fd, end_of(fd)));
    }
    stage.freeze_here()?;
    for (fd, end) in all {
        same!(end_of(fd), end, "how it ended");
    }
    Ok(())
}
