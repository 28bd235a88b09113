//! The process tree: parents, sessions, groups, the stopped and the dead.

use crate::Victim;
use crate::call::{pipe, read_some, shared_words, state_of, until, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("tree_deep", deep),
    ("tree_fifty", fifty),
    ("tree_groups", groups),
    ("tree_sessions", sessions),
    ("tree_group_without_leader", group_without_leader),
    ("tree_session_without_leader", session_without_leader),
    ("tree_zombies", zombies),
    ("tree_zombie_of_another", zombie_of_another),
    ("tree_zombie_group_leader", zombie_group_leader),
    ("tree_stopped_child", stopped_child),
    ("tree_stopped_unseen", stopped_unseen),
    ("tree_orphan", orphan),
    ("tree_death_signal", death_signal),
    ("tree_exit_signal", exit_signal),
    ("tree_storm", storm),
    ("tree_traced", traced),
    ("tree_mourned", mourned),
];

fn relations() -> [u32; 4] {
    unsafe { [libc::getpid(), libc::getppid(), libc::getpgrp(), libc::getsid(0)].map(|id| id as u32) }
}

/// Waits like every child: until `go`, then checks that its place in the tree is what it was.
fn stay(stage: &Stage, standing: &AtomicU32) -> Verdict {
    let before = relations();
    standing.fetch_add(1, SeqCst);
    stage.wait();
    same!(relations(), before, "pid, parent, group and session");
    Ok(())
}

fn deep(stage: &Stage) -> Verdict {
    fn below(stage: &Stage, standing: &AtomicU32, depth: u32) -> Verdict {
        if depth == 0 {
            return stay(stage, standing);
        }
        let child = stage.fork(|| below(stage, standing, depth - 1))?;
        stay(stage, standing)?;
        stage.reap(child)
    }
    let words = shared_words::<1>()?;
    let child = stage.fork(|| below(stage, &words[0], 20))?;
    until("all stand", || words[0].load(SeqCst) == 21)?;
    stage.freeze_here()?;
    stage.reap(child)
}

fn fifty(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let mut children = Vec::new();
    for _ in 0..10 {
        children.push(stage.fork(|| {
            let below: Vec<i32> =
                (0..4).map(|_| stage.fork(|| stay(stage, &words[0]))).collect::<Result<_, _>>()?;
            stay(stage, &words[0])?;
            below.into_iter().try_for_each(|child| stage.reap(child))
        })?);
    }
    until("all stand", || words[0].load(SeqCst) == 50)?;
    stage.freeze_here()?;
    children.into_iter().try_for_each(|child| stage.reap(child))
}

/// Pipelines as a shell makes them: two groups, each led by its first process.
fn groups(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let mut children = Vec::new();
    for _ in 0..2 {
        let mut group = 0;
        for _ in 0..3 {
            let child = stage.fork(|| {
                sys!(setpgid(0, group))?;
                stay(stage, &words[0])
            })?;
            if group == 0 {
                group = child;
                until("the leader leads", || unsafe { libc::getpgid(child) } == child)?;
            }
            children.push((child, group));
        }
    }
    until("all stand", || words[0].load(SeqCst) == 6)?;
    stage.freeze_here()?;
    for (child, group) in &children {
        same!(sys!(getpgid(*child))?, *group, "the group of a child");
    }
    children.into_iter().try_for_each(|(child, _)| stage.reap(child))
}

fn sessions(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let mut children = Vec::new();
    for _ in 0..2 {
        children.push(stage.fork(|| {
            sys!(setsid())?;
            let child = stage.fork(|| stay(stage, &words[0]))?;
            let grouped = stage.fork(|| {
                sys!(setpgid(0, 0))?;
                stay(stage, &words[0])
            })?;
            stay(stage, &words[0])?;
            stage.reap(child)?;
            stage.reap(grouped)
        })?);
    }
    until("all stand", || words[0].load(SeqCst) == 6)?;
    stage.freeze_here()?;
    children.into_iter().try_for_each(|child| stage.reap(child))
}

/// The leader of a group has ended and was waited for; its members keep the group's number.
fn group_without_leader(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let (reader, writer) = pipe(libc::O_CLOEXEC)?;
    let leader = stage.fork(|| {
        sys!(setpgid(0, 0))?;
        read_some(reader, 1)?;
        Ok(())
    })?;
    until("the leader leads", || unsafe { libc::getpgid(leader) } == leader)?;
    let members: Vec<i32> = (0..2)
        .map(|_| {
            stage.fork(|| {
                sys!(setpgid(0, leader))?;
                stay(stage, &words[0])
            })
        })
        .collect::<Result<_, _>>()?;
    until("the members stand", || words[0].load(SeqCst) == 2)?;
    write_all(writer, b"x")?;
    stage.reap(leader)?;
    sys!(close(reader))?;
    sys!(close(writer))?;
    stage.freeze_here()?;
    for member in &members {
        same!(sys!(getpgid(*member))?, leader, "the group of a member");
    }
    members.into_iter().try_for_each(|member| stage.reap(member))
}

/// As a daemon that forked twice: its session's leader is gone.
fn session_without_leader(stage: &Stage) -> Verdict {
    let words = shared_words::<2>()?;
    sys!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
    let leader = stage.fork(|| {
        sys!(setsid())?;
        stage.fork(|| {
            until("its parent is gone", || unsafe { libc::getppid() } as u32 == words[1].load(SeqCst))?;
            stay(stage, &words[0])
        })?;
        Ok(())
    })?;
    words[1].store(unsafe { libc::getpid() } as u32, SeqCst);
    stage.reap(leader)?;
    until("the daemon stands", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    let mut status = 0;
    sys!(waitpid(-1, &mut status, 0))?;
    same!(status, 0, "the daemon's status");
    Ok(())
}

fn zombies(stage: &Stage) -> Verdict {
    let exits = stage.fork(|| unsafe { libc::_exit(42) })?;
    let killed = stage.fork(|| {
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        Ok(())
    })?;
    let plain = stage.fork(|| Ok(()))?;
    until("all three are zombies", || {
        [exits, killed, plain].into_iter().all(|pid| state_of(pid) == Some('Z'))
    })?;
    stage.freeze_here()?;
    let mut status = 0;
    same!(sys!(waitpid(killed, &mut status, 0))?, killed, "the child waited for");
    same!(status, libc::SIGTERM, "the status of the killed one");
    same!(sys!(waitpid(exits, &mut status, 0))?, exits, "the child waited for");
    same!(status, 42 << 8, "the status of the one that exited");
    let mut info: libc::siginfo_t = zeroed();
    sys!(waitid(libc::P_ALL, 0, &mut info, libc::WEXITED))?;
    let seen = unsafe { (info.si_pid(), info.si_status(), info.si_code) };
    same!(seen, (plain, 0, libc::CLD_EXITED), "the last one (pid, status, code)");
    [exits, killed, plain].into_iter().for_each(|pid| stage.forget(pid));
    check!(sys!(waitpid(-1, &mut status, libc::WNOHANG)).is_err(), "there is a child more");
    Ok(())
}

/// A zombie of another user, where there may be one, which was looked at before and is again (WNOWAIT).
fn zombie_of_another(stage: &Stage) -> Verdict {
    let root = unsafe { libc::geteuid() } == 0;
    let child = stage.fork(|| {
        if root {
            sys!(setresgid(2345, 2346, 2347))?;
            sys!(setresuid(1234, 1235, 1236))?;
        }
        unsafe { libc::_exit(42) }
    })?;
    let look = |options: i32| {
        let mut info: libc::siginfo_t = zeroed();
        sys!(waitid(libc::P_PID, child as u32, &mut info, libc::WEXITED | options))?;
        Ok::<_, String>(unsafe { (info.si_pid(), info.si_uid(), info.si_status(), info.si_code) })
    };
    let before = look(libc::WNOWAIT)?;
    let ids = || {
        let status =
            std::fs::read_to_string(format!("/proc/{child}/status")).map_err(|why| why.to_string())?;
        Ok::<Vec<String>, String>(
            status
                .lines()
                .filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"))
                .map(str::to_owned)
                .collect(),
        )
    };
    let ids_before = ids()?;
    stage.freeze_here()?;
    same!(ids()?, ids_before, "user and group");
    same!(look(libc::WNOWAIT)?, before, "what is told of it (pid, user, status, code)");
    same!(look(0)?, before, "what is told when it is waited for");
    stage.forget(child);
    Ok(())
}

/// A zombie that leads the group of a living process.
fn zombie_group_leader(stage: &Stage) -> Verdict {
    let words = shared_words::<2>()?;
    let leader = stage.fork(|| {
        sys!(setpgid(0, 0))?;
        words[1].store(1, SeqCst);
        until("the member stands", || words[0].load(SeqCst) == 1)
    })?;
    until("the leader leads", || words[1].load(SeqCst) == 1)?;
    let member = stage.fork(|| {
        sys!(setpgid(0, leader))?;
        stay(stage, &words[0])
    })?;
    until("the leader is a zombie", || state_of(leader) == Some('Z'))?;
    stage.freeze_here()?;
    same!(sys!(getpgid(member))?, leader, "the group of the member");
    stage.reap(member)?;
    stage.reap(leader)
}

/// Stopped by job control, as its parent knows already.
fn stopped_child(stage: &Stage) -> Verdict {
    let child = stage.fork(|| {
        sys!(raise(libc::SIGSTOP))?;
        Ok(())
    })?;
    let mut status = 0;
    same!(sys!(waitpid(child, &mut status, libc::WUNTRACED))?, child, "the child waited for");
    stage.freeze_here()?;
    until("the child is stopped again", || state_of(child) == Some('T'))?;
    // Whether its parent had asked is not known to a thaw, so it may be told once more; never of another child.
    let told = sys!(waitpid(child, &mut status, libc::WUNTRACED | libc::WNOHANG))?;
    check!(told == 0 || libc::WIFSTOPPED(status), "told {told}, status {status:#x}");
    sys!(kill(child, libc::SIGCONT))?;
    stage.reap(child)
}

/// Stopped, which its parent has not asked for yet.
fn stopped_unseen(stage: &Stage) -> Verdict {
    let child = stage.fork(|| {
        sys!(raise(libc::SIGSTOP))?;
        Ok(())
    })?;
    until("the child is stopped", || state_of(child) == Some('T'))?;
    stage.freeze_here()?;
    let mut status = 0;
    let told = sys!(waitpid(child, &mut status, libc::WUNTRACED | libc::WNOHANG))?;
    check!(told == child && libc::WIFSTOPPED(status), "its stop is not told: {told}, status {status:#x}");
    sys!(kill(child, libc::SIGCONT))?;
    stage.reap(child)
}

/// A grandchild whose parent ended became ours, as we are a subreaper.
fn orphan(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    sys!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
    let us = unsafe { libc::getpid() };
    let parent = stage.fork(|| {
        stage.fork(|| {
            until("its parent is gone", || unsafe { libc::getppid() } == us)?;
            stay(stage, &words[0])
        })?;
        Ok(())
    })?;
    stage.reap(parent)?;
    until("the orphan stands", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    let mut subreaper = 0;
    sys!(prctl(libc::PR_GET_CHILD_SUBREAPER, &mut subreaper))?;
    same!(subreaper, 1, "whether we are a subreaper");
    let mut status = 0;
    sys!(waitpid(-1, &mut status, 0))?;
    same!(status, 0, "the orphan's status");
    Ok(())
}

/// PR_SET_PDEATHSIG still fires.
fn death_signal(stage: &Stage) -> Verdict {
    let words = shared_words::<2>()?;
    sys!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
    let parent = stage.fork(|| {
        stage.fork(|| {
            sys!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            words[0].store(1, SeqCst);
            loop {
                crate::call::nap(std::time::Duration::from_millis(5));
            }
        })?;
        until("it may end", || words[1].load(SeqCst) == 1)
    })?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    words[1].store(1, SeqCst);
    stage.reap(parent)?;
    let mut status = 0;
    sys!(waitpid(-1, &mut status, 0))?;
    same!(status, libc::SIGKILL, "the status of the child whose parent ended");
    Ok(())
}

/// A child made by clone(2) that tells its end by another signal than SIGCHLD.
fn exit_signal(stage: &Stage) -> Verdict {
    let mut set: libc::sigset_t = zeroed();
    unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
    sys!(sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
    let words = shared_words::<1>()?;
    let child = sys!(syscall(libc::SYS_clone, libc::SIGUSR2, 0, 0, 0, 0))?;
    if child == 0 {
        let _told = until("the parent goes on", || words[0].load(SeqCst) == 1);
        unsafe { libc::syscall(libc::SYS_exit_group, 3) };
    }
    stage.freeze_here()?;
    words[0].store(1, SeqCst);
    let mut status = 0;
    same!(sys!(waitpid(child as i32, &mut status, libc::__WALL))? as i64, child, "the child waited for");
    same!(status, 3 << 8, "its status");
    let none: libc::timespec = zeroed();
    same!(sys!(sigtimedwait(&set, std::ptr::null_mut(), &none))?, libc::SIGUSR2, "the signal of its end");
    Ok(())
}

/// Four workers that fork and reap without pause.
fn storm(stage: &Stage) -> Verdict {
    let words = shared_words::<2>()?;
    let workers: Vec<i32> = (0..4)
        .map(|_| {
            stage.fork(|| {
                let mut count = 0u32;
                while words[1].load(SeqCst) == 0 || count < 10 {
                    let child = stage.fork(|| unsafe { libc::_exit(0) })?;
                    stage.reap(child)?;
                    count += 1;
                    words[0].fetch_add(1, SeqCst);
                }
                Ok(())
            })
        })
        .collect::<Result<_, _>>()?;
    until("it storms", || words[0].load(SeqCst) > 20)?;
    stage.freeze_here()?;
    let count = words[0].load(SeqCst);
    until("it storms on", || words[0].load(SeqCst) > count + 20)?;
    words[1].store(1, SeqCst);
    workers.into_iter().try_for_each(|worker| stage.reap(worker))
}

/// A child that is traced by its parent, as a debugger would.
fn traced(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let child = stage.fork(|| until("it may end", || words[0].load(SeqCst) == 1))?;
    sys!(syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, child, 0, 0))?;
    stage.freeze_here()?;
    words[0].store(1, SeqCst);
    stage.reap(child)
}

/// Children may be killed by somebody at any time: their parent is told of each once, and those that live go on.
fn mourned(stage: &Stage) -> Verdict {
    let words = shared_words::<4>()?;
    let mut children = Vec::new();
    for word in words {
        children.push(stage.fork(|| {
            loop {
                word.fetch_add(1, SeqCst);
                crate::call::nap(std::time::Duration::from_millis(2));
            }
        })?);
    }
    until("all of them count", || words.iter().all(|word| word.load(SeqCst) > 0))?;
    // That one has ended is to be seen in it.
    stage.freeze_without_facts()?;
    for (child, word) in children.into_iter().zip(words) {
        let before = word.load(SeqCst);
        let (mut status, mut ended) = (0, false);
        until("a child goes on, or has ended", || {
            ended = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == child;
            ended || word.load(SeqCst) != before
        })?;
        if ended {
            stage.forget(child);
            same!(status, libc::SIGKILL, "the status of a child that was killed");
            check!(
                unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == -1
                    && crate::call::errno() == libc::ECHILD,
                "a child that was waited for is there again"
            );
        }
    }
    Ok(())
}
