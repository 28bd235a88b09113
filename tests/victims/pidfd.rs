//! Pidfds of processes of the tree.

use crate::Victim;
use crate::call::{until, zeroed};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] =
    &[("pidfd_child", child), ("pidfd_self", own), ("pidfd_zombie", zombie), ("pidfd_gone", gone)];

fn pidfd(pid: i32) -> Result<i32, String> {
    Ok(sys!(syscall(libc::SYS_pidfd_open, pid, 0))? as i32)
}

fn ready(fd: i32) -> Result<bool, String> {
    let mut poll = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
    Ok(sys!(poll(poll.as_mut_ptr(), 1, 0))? == 1)
}

fn pid_of(fd: i32) -> Result<String, String> {
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
