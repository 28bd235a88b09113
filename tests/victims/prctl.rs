//! Settings of prctl(2) and its like.

use crate::Victim;
use crate::call::{READ_WRITE, map};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("prctl_settings", settings),
    ("prctl_not_dumpable", not_dumpable),
    ("prctl_shut", shut),
    ("prctl_membarrier", membarrier),
    ("prctl_of_threads", of_threads),
    ("prctl_memory_merge", memory_merge),
    ("prctl_dispatch", dispatch),
    ("prctl_personalities", personalities),
    ("prctl_huge_pages_advised", huge_pages_advised),
    ("prctl_segments", segments),
    ("prctl_memory_denied", memory_denied),
    ("prctl_landlock", landlock),
    ("prctl_landlock_of_thread", landlock_of_thread),
    ("prctl_keyring_of_process", keyring_of_process),
    ("prctl_keyring_of_thread", keyring_of_thread),
];

/// No memory that can be written becomes executable; children are free to.
fn memory_denied(stage: &Stage) -> Verdict {
    const PR_SET_MDWE: libc::c_int = 65;
    const PR_GET_MDWE: libc::c_int = 66;
    /// PR_MDWE_REFUSE_EXEC_GAIN and PR_MDWE_NO_INHERIT.
    const BITS: libc::c_ulong = 3;
    let none: libc::c_ulong = 0;
    if let Err(why) = sys!(prctl(PR_SET_MDWE, BITS, none, none, none)) {
        eprintln!("skipped: PR_SET_MDWE: {why}");
        return stage.freeze_here();
    }
    stage.freeze_here()?;
    same!(sys!(prctl(PR_GET_MDWE, none, none, none, none))? as libc::c_ulong, BITS, "MDWE");
    let page = map(4096, READ_WRITE, libc::MAP_PRIVATE)?;
    check!(
        sys!(mprotect(page.cast(), 4096, libc::PROT_READ | libc::PROT_EXEC)).is_err(),
        "it became executable"
    );
    sys!(munmap(page.cast(), 4096))?;
    Ok(())
}

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

/// The same, whoever it is.
fn shut(stage: &Stage) -> Verdict {
    sys!(prctl(libc::PR_SET_DUMPABLE, 0))?;
    stage.ready();
    stage.wait();
    Ok(())
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

/// What one thread alone has set, and its leader has not.
fn of_threads(stage: &Stage) -> Verdict {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    const PR_SET_IO_FLUSHER: i32 = 57;
    const PR_GET_IO_FLUSHER: i32 = 58;
    const PR_GET_SPECULATION_CTRL: i32 = 52;
    const PR_SET_SPECULATION_CTRL: i32 = 53;
    const PR_SPEC_DISABLE: libc::c_ulong = 4;
    const ARCH_GET_CPUID: i32 = 0x1011;
    const ARCH_SET_CPUID: i32 = 0x1012;
    let look = || {
        let mut tsc = 0;
        unsafe { libc::prctl(libc::PR_GET_TSC, &mut tsc) };
        let memory_failure = unsafe { libc::prctl(libc::PR_MCE_KILL_GET, 0, 0, 0, 0) };
        let flusher = unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) };
        let speculation = [0, 1, 2].map(|which: libc::c_ulong| unsafe {
            libc::prctl(
                PR_GET_SPECULATION_CTRL,
                which,
                0 as libc::c_ulong,
                0 as libc::c_ulong,
                0 as libc::c_ulong,
            )
        });
        let cpuid = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_CPUID, 0) };
        (tsc, memory_failure, flusher, speculation, cpuid)
    };
    let (standing, go) = (AtomicU32::new(0), AtomicU32::new(0));
    let leader = look();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys!(prctl(libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET, libc::PR_MCE_KILL_EARLY, 0, 0))?;
            // Only some may, and only where the processor has these.
            let _ = sys!(prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0));
            for which in 0..3 as libc::c_ulong {
                let _ = sys!(prctl(
                    PR_SET_SPECULATION_CTRL,
                    which,
                    PR_SPEC_DISABLE,
                    0 as libc::c_ulong,
                    0 as libc::c_ulong
                ));
            }
            let _ = sys!(syscall(libc::SYS_arch_prctl, ARCH_SET_CPUID, 0));
            sys!(prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV))?;
            let before = look();
            check!(before != leader, "nothing was set");
            standing.store(1, SeqCst);
            // No clock is read here: that would read the time-stamp counter.
            while go.load(SeqCst) == 0 {
                crate::call::nap(std::time::Duration::from_millis(5));
            }
            same!(
                look(),
                before,
                "the thread's settings (time stamps, memory failure, flusher, speculation, cpuid)"
            );
            sys!(prctl(libc::PR_SET_TSC, libc::PR_TSC_ENABLE))?;
            let _ = sys!(syscall(libc::SYS_arch_prctl, ARCH_SET_CPUID, 1));
            Ok(())
        });
        crate::call::until("the thread stands", || standing.load(SeqCst) == 1 || thread.is_finished())?;
        let seen = stage.freeze_amid_threads();
        go.store(1, SeqCst);
        thread.join().map_err(|_| "the thread panicked".to_owned())??;
        seen
    })?;
    same!(look(), leader, "the leader's settings (time stamps, memory failure, flusher, speculation, cpuid)");
    Ok(())
}

/// All memory of the process may be merged with equal pages.
fn memory_merge(stage: &Stage) -> Verdict {
    const PR_SET_MEMORY_MERGE: i32 = 67;
    const PR_GET_MEMORY_MERGE: i32 = 68;
    if let Err(why) = sys!(prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)) {
        eprintln!("skipped: PR_SET_MEMORY_MERGE: {why}");
        return stage.freeze_here();
    }
    stage.freeze_here()?;
    same!(sys!(prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0))?, 1, "MEMORY_MERGE");
    Ok(())
}

/// Handles its own system calls, as emulators of other systems do.
fn dispatch(stage: &Stage) -> Verdict {
    const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
    // 0 lets calls through, at the moment.
    let selector = Box::new(std::sync::atomic::AtomicU8::new(0));
    let none: libc::c_ulong = 0;
    if let Err(why) =
        sys!(prctl(PR_SET_SYSCALL_USER_DISPATCH, 1 as libc::c_ulong, none, none, selector.as_ptr()))
    {
        eprintln!("skipped: PR_SET_SYSCALL_USER_DISPATCH: {why}");
    }
    let seen = stage.freeze_here();
    sys!(prctl(PR_SET_SYSCALL_USER_DISPATCH, none, none, none, none))?;
    seen
}

/// The kernel keeps a personality for each thread.
fn personalities(stage: &Stage) -> Verdict {
    const TELL: libc::c_ulong = 0xffff_ffff;
    const KINDS: [i32; 4] =
        [0, libc::UNAME26, libc::ADDR_NO_RANDOMIZE | libc::STICKY_TIMEOUTS, libc::READ_IMPLIES_EXEC];
    fn make(number: u64) -> Verdict {
        sys!(personality(KINDS[number as usize] as libc::c_ulong))?;
        Ok(())
    }
    fn judge(number: u64) -> Verdict {
        same!(sys!(personality(TELL))?, KINDS[number as usize], "the thread's personality");
        Ok(())
    }
    sys!(personality(libc::WHOLE_SECONDS as libc::c_ulong))?;
    crate::thread::crowd(stage, 4, make, judge)?;
    same!(sys!(personality(TELL))?, libc::WHOLE_SECONDS, "the leader's personality");
    Ok(())
}

/// Huge pages only where they are advised, since Linux 6.18.
fn huge_pages_advised(stage: &Stage) -> Verdict {
    const PR_THP_DISABLE_EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
    let (one, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    if let Err(why) = sys!(prctl(libc::PR_SET_THP_DISABLE, one, PR_THP_DISABLE_EXCEPT_ADVISED, none, none)) {
        eprintln!("skipped: PR_THP_DISABLE_EXCEPT_ADVISED: {why}");
        return stage.freeze_here();
    }
    stage.freeze_here()?;
    same!(sys!(prctl(libc::PR_GET_THP_DISABLE, none, none, none, none))?, 3, "THP_DISABLE");
    Ok(())
}

/// A segment of its own, as emulators make them for programs of fewer bits; refused.
fn segments(stage: &Stage) -> Verdict {
    const WRITE: i32 = 0x11;
    // struct user_desc: number, base, limit, and the bits of 32 bits, contents, whole pages, usable.
    let descriptor = [0u32, 0x1000, 0xfffff, 0b101_0001];
    if let Err(why) = sys!(syscall(libc::SYS_modify_ldt, WRITE, descriptor.as_ptr(), 16)) {
        eprintln!("skipped: modify_ldt: {why}");
    }
    stage.freeze_here()
}

const KEYCTL_GET_KEYRING_ID: libc::c_long = 0;

/// Keys that end with the process; refused.
fn keyring_of_process(stage: &Stage) -> Verdict {
    const KEY_SPEC_PROCESS_KEYRING: libc::c_long = -2;
    sys!(syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1))?;
    stage.freeze_here()
}

/// Keys of one thread, which is not the leader; refused.
fn keyring_of_thread(stage: &Stage) -> Verdict {
    const KEY_SPEC_THREAD_KEYRING: libc::c_long = -1;
    fn make(number: u64) -> Verdict {
        if number == 1 {
            sys!(syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING, 1))?;
        }
        Ok(())
    }
    crate::thread::crowd(stage, 2, make, |_| Ok(()))
}

/// Puts the calling thread into a Landlock domain in which no block devices can be made.
fn enter_domain() -> Verdict {
    const MAKE_BLOCK: u64 = 1 << 11;
    let (one, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    let attributes = [MAKE_BLOCK];
    let ruleset = sys!(syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), 8, 0))? as i32;
    sys!(prctl(libc::PR_SET_NO_NEW_PRIVS, one, none, none, none))?;
    sys!(syscall(libc::SYS_landlock_restrict_self, ruleset, 0))?;
    sys!(close(ruleset))?;
    Ok(())
}

/// A sandbox that cannot be read back; refused.
fn landlock(stage: &Stage) -> Verdict {
    enter_domain()?;
    stage.freeze_here()
}

/// One thread is in it, another is not.
fn landlock_of_thread(stage: &Stage) -> Verdict {
    let make = |number| if number == 1 { enter_domain() } else { Ok(()) };
    crate::thread::crowd(stage, 2, make, |_| Ok(()))
}
