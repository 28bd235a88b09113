//! Signals: actions, masks, alternate stacks, and what is queued.

use crate::Victim;
use crate::call::{READ_WRITE, gettid, map, nap, until, zeroed};
use crate::stage::{Stage, Verdict};
use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("signals_actions", actions),
    ("signals_pending_process", pending_process),
    ("signals_pending_thread", pending_thread),
    ("signals_pending_many", pending_many),
    ("signals_pending_unqueued", pending_unqueued),
    ("signals_alternate_stack", alternate_stack),
    ("signals_in_handler", in_handler),
    ("signals_ignored_stop", ignored_stop),
];

static SEEN: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);

extern "C" fn record(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let local = 0u8;
    STACK.store(&raw const local as u64, SeqCst);
    VALUE.store(unsafe { (*info).si_value() }.sival_ptr as u64, SeqCst);
    SEEN.store(signal, SeqCst);
}

fn handle(signal: i32, flags: i32, masked: &[i32]) -> Verdict {
    let mut action: libc::sigaction = zeroed();
    action.sa_sigaction = record as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    for other in masked {
        unsafe { libc::sigaddset(&mut action.sa_mask, *other) };
    }
    sys!(sigaction(signal, &action, null_mut()))?;
    Ok(())
}

/// Every way an action can be set; that they are unchanged is among the facts that every victim compares.
fn actions(stage: &Stage) -> Verdict {
    handle(libc::SIGUSR1, libc::SA_RESTART | libc::SA_NODEFER, &[libc::SIGUSR2, libc::SIGTERM])?;
    handle(libc::SIGUSR2, libc::SA_ONSTACK, &[])?;
    handle(libc::SIGRTMIN() + 3, libc::SA_RESETHAND, &[64])?;
    handle(64, libc::SA_NOCLDWAIT, &[])?;
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGTSTP, libc::SIG_IGN);
    }
    stage.freeze_here()?;
    sys!(raise(libc::SIGUSR1))?;
    same!(SEEN.load(SeqCst), libc::SIGUSR1, "the signal that the handler saw");
    sys!(raise(libc::SIGRTMIN() + 3))?;
    let mut now: libc::sigaction = zeroed();
    sys!(sigaction(libc::SIGRTMIN() + 3, std::ptr::null(), &mut now))?;
    same!(now.sa_sigaction, libc::SIG_DFL, "the action of SA_RESETHAND after its signal");
    sys!(raise(libc::SIGHUP))?;
    Ok(())
}

fn block(signals: &[i32]) -> Result<libc::sigset_t, String> {
    let mut set: libc::sigset_t = zeroed();
    signals.iter().for_each(|signal| unsafe { _ = libc::sigaddset(&mut set, *signal) });
    sys!(pthread_sigmask(libc::SIG_BLOCK, &set, null_mut()))?;
    Ok(set)
}

/// Takes one signal of the set: its number, code, value, sender.
fn take(set: &libc::sigset_t) -> Result<(i32, i32, u64, i32), String> {
    let (mut info, none): (libc::siginfo_t, libc::timespec) = (zeroed(), zeroed());
    // Raw, since the C library shows SI_TKILL as SI_USER.
    sys!(syscall(libc::SYS_rt_sigtimedwait, &raw const *set, &raw mut info, &raw const none, 8))?;
    Ok(unsafe { (info.si_signo, info.si_code, info.si_value().sival_ptr as u64, info.si_pid()) })
}

fn queue(pid: i32, signal: i32, value: u64) -> Verdict {
    sys!(sigqueue(pid, signal, libc::sigval { sival_ptr: value as *mut _ }))?;
    Ok(())
}

fn pending_process(stage: &Stage) -> Verdict {
    let (real, pid) = (libc::SIGRTMIN() + 1, unsafe { libc::getpid() });
    let set = block(&[libc::SIGUSR1, libc::SIGTERM, real])?;
    for value in [0x1111_2222_3333_4444, 7, 5] {
        queue(pid, real, value)?;
    }
    sys!(kill(pid, libc::SIGTERM))?;
    queue(pid, libc::SIGUSR1, 99)?;
    stage.freeze_here()?;
    same!(
        take(&set)?,
        (libc::SIGUSR1, libc::SI_QUEUE, 99, pid),
        "the first signal (number, code, value, sender)"
    );
    let (signal, code, _, sender) = take(&set)?;
    same!((signal, code, sender), (libc::SIGTERM, libc::SI_USER, pid), "the second");
    for value in [0x1111_2222_3333_4444, 7, 5] {
        same!(take(&set)?, (real, libc::SI_QUEUE, value, pid), "a real-time signal");
    }
    check!(take(&set).is_err(), "a signal more than were sent");
    Ok(())
}

/// Signals for one thread stay with it.
fn pending_thread(stage: &Stage) -> Verdict {
    let pid = unsafe { libc::getpid() };
    let set = block(&[libc::SIGUSR1, libc::SIGUSR2])?;
    let (tid, go) = (AtomicI32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            tid.store(gettid(), SeqCst);
            while !go.load(SeqCst) {
                nap(Duration::from_millis(5));
            }
            let (signal, code, _, sender) = take(&set)?;
            same!((signal, code, sender), (libc::SIGUSR2, libc::SI_TKILL, pid), "the thread's signal");
            check!(take(&set).is_err(), "the thread saw another's signal");
            Ok(())
        });
        until("the thread stands", || tid.load(SeqCst) != 0)?;
        sys!(syscall(libc::SYS_tgkill, pid, tid.load(SeqCst), libc::SIGUSR2))?;
        sys!(syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1))?;
        let seen = stage.freeze_amid_threads();
        go.store(true, SeqCst);
        thread.join().map_err(|_| "the thread panicked".to_owned())??;
        same!(take(&set)?.0, libc::SIGUSR1, "the leader's signal");
        check!(take(&set).is_err(), "a signal more than were sent");
        seen
    })
}

/// Where there is no room left for more than their bits.
fn pending_unqueued(stage: &Stage) -> Verdict {
    let set = block(&[libc::SIGUSR1, libc::SIGUSR2])?;
    let mut limit: libc::rlimit = zeroed();
    sys!(getrlimit(libc::RLIMIT_SIGPENDING, &mut limit))?;
    let none = libc::rlimit { rlim_cur: 0, ..limit };
    sys!(setrlimit(libc::RLIMIT_SIGPENDING, &none))?;
    let pid = unsafe { libc::getpid() };
    sys!(syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1))?;
    // As sigqueue(3): of a signal that has no queue the kernel keeps what it can.
    queue(pid, libc::SIGUSR2, 7)?;
    stage.freeze_here()?;
    for signal in [libc::SIGUSR1, libc::SIGUSR2] {
        same!(take(&set)?, (signal, libc::SI_USER, 0, 0), "the signal that was taken");
    }
    check!(take(&set).is_err(), "another signal is pending");
    Ok(())
}

fn pending_many(stage: &Stage) -> Verdict {
    let (real, pid) = (libc::SIGRTMIN() + 2, unsafe { libc::getpid() });
    let set = block(&[real])?;
    (0..1000).try_for_each(|value| queue(pid, real, value))?;
    stage.freeze_here()?;
    for value in 0..1000 {
        same!(take(&set)?.2, value, "the value of signal {value}");
    }
    check!(take(&set).is_err(), "a signal more than were sent");
    Ok(())
}

fn alternate_stack(stage: &Stage) -> Verdict {
    const LEN: usize = 64 * 1024;
    let memory = map(LEN, READ_WRITE, libc::MAP_PRIVATE)?;
    let stack = libc::stack_t { ss_sp: memory.cast(), ss_flags: 0, ss_size: LEN };
    sys!(sigaltstack(&stack, null_mut()))?;
    handle(libc::SIGUSR1, libc::SA_ONSTACK, &[])?;
    stage.freeze_here()?;
    queue(unsafe { libc::getpid() }, libc::SIGUSR1, 31)?;
    same!(VALUE.load(SeqCst), 31, "the value that the handler saw");
    let at = STACK.load(SeqCst) as usize;
    check!(
        (memory as usize..memory as usize + LEN).contains(&at),
        "the handler ran on another stack, at {at:#x}"
    );
    Ok(())
}

/// Frozen inside a handler, on its alternate stack, with the handler's mask; the way back leads home.
fn in_handler(stage: &Stage) -> Verdict {
    static GO: AtomicBool = AtomicBool::new(false);
    extern "C" fn stay(signal: i32) {
        SEEN.store(signal, SeqCst);
        while !GO.load(SeqCst) {
            nap(Duration::from_millis(5));
        }
    }
    const LEN: usize = 64 * 1024;
    let memory = map(LEN, READ_WRITE, libc::MAP_PRIVATE)?;
    let stack = libc::stack_t { ss_sp: memory.cast(), ss_flags: 0, ss_size: LEN };
    sys!(sigaltstack(&stack, null_mut()))?;
    let mut action: libc::sigaction = zeroed();
    action.sa_sigaction = stay as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK;
    unsafe { libc::sigaddset(&mut action.sa_mask, libc::SIGUSR2) };
    sys!(sigaction(libc::SIGUSR1, &action, null_mut()))?;
    handle(libc::SIGUSR2, 0, &[])?;
    let leader = gettid();
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            until("the handler stands", || SEEN.load(SeqCst) == libc::SIGUSR1)?;
            sys!(syscall(libc::SYS_tgkill, libc::getpid(), leader, libc::SIGUSR2))?;
            stage.ready();
            stage.wait();
            same!(SEEN.load(SeqCst), libc::SIGUSR1, "the last signal seen, while the next is blocked");
            GO.store(true, SeqCst);
            Ok(())
        });
        sys!(syscall(libc::SYS_tgkill, libc::getpid(), leader, libc::SIGUSR1))?;
        helper.join().map_err(|_| "the helper panicked".to_owned())?
    })?;
    same!(SEEN.load(SeqCst), libc::SIGUSR2, "the signal that came when the handler was left");
    Ok(())
}

/// SIGCONT and the stop signals ignored: a freeze that used them would be seen, or would not stop.
fn ignored_stop(stage: &Stage) -> Verdict {
    for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH] {
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    handle(libc::SIGCONT, 0, &[])?;
    handle(libc::SIGTRAP, 0, &[])?;
    stage.freeze_here()?;
    same!(SEEN.load(SeqCst), 0, "stray signals");
    Ok(())
}
