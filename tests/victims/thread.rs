//! Threads: their own storage, names, scheduling, and what the kernel keeps for each.

use crate::Victim;
use crate::call::{READ_WRITE, gettid, map, nap, until, zeroed};
use crate::stage::{Stage, Verdict};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("thread_local_storage", local_storage),
    ("thread_two_hundred", two_hundred),
    ("thread_parents", parents),
    ("thread_leader_gone", leader_gone),
    ("thread_leader_gone_root", leader_gone_root),
    ("thread_leader_gone_status", leader_gone_status),
    ("thread_leader_gone_warned", leader_gone_warned),
    ("thread_joined_later", joined_later),
    ("thread_rseq", rseq),
    ("thread_robust_mutex", robust_mutex),
    ("thread_robust_mutex_process", robust_mutex_process),
    ("thread_names_and_masks", names_and_masks),
    ("thread_default_slack", default_slack),
    ("thread_scheduling", scheduling),
    ("thread_scheduling_ranked", scheduling_ranked),
    ("thread_memory_policies", memory_policies),
    ("thread_conditions", conditions),
    ("thread_storm", storm),
    ("thread_executes", executes),
    ("thread_own_directory", own_directory),
    ("thread_own_descriptors", own_descriptors),
    ("thread_own_network", own_network),
    ("thread_executing", executing),
];

/// Executes this program again from a thread that is not the leader, until `go`.
pub(crate) fn execute_again(dir: &str) -> std::process::ExitCode {
    use std::os::unix::process::CommandExt;
    if std::path::Path::new(dir).join("go").exists() {
        return std::process::ExitCode::SUCCESS;
    }
    let dir = dir.to_owned();
    let execute = move || std::process::Command::new("/proc/self/exe").args(["again", &dir]).exec();
    let failed = std::thread::spawn(execute).join();
    eprintln!("not executed: {failed:?}");
    std::process::ExitCode::FAILURE
}

/// Children that execute without pause, each time from another thread, which then becomes the leader.
fn executes(stage: &Stage) -> Verdict {
    let dir = stage.path("go").parent().map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
    let children: Vec<i32> = (0..3)
        .map(|_| {
            stage.fork(|| {
                check!(execute_again(&dir) == std::process::ExitCode::SUCCESS, "it could not execute");
                Ok(())
            })
        })
        .collect::<Result<_, _>>()?;
    stage.ready();
    stage.wait();
    children.into_iter().try_for_each(|child| stage.reap(child))
}

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// Runs `threads` threads that are told apart by `number`; each waits for the end of the freeze and is then judged.
pub(crate) fn crowd(
    stage: &Stage,
    threads: u64,
    make: fn(u64) -> Verdict,
    judge: fn(u64) -> Verdict,
) -> Verdict {
    let (standing, go) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|number| {
                let (standing, go) = (&standing, &go);
                scope.spawn(move || {
                    let made = make(number);
                    let tid = gettid();
                    standing.fetch_add(1, SeqCst);
                    while !go.load(SeqCst) {
                        nap(Duration::from_millis(20));
                    }
                    made?;
                    same!(gettid(), tid, "the thread's number");
                    judge(number).map_err(|why| format!("thread {number}: {why}"))
                })
            })
            .collect();
        let stands = until("all threads stand", || standing.load(SeqCst) as usize == threads.len());
        let seen = stands.and_then(|()| stage.freeze_amid_threads());
        go.store(true, SeqCst);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)?;
        seen
    })
}

fn set_own(number: u64) -> Verdict {
    OWN.set(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    Ok(())
}

fn check_own(number: u64) -> Verdict {
    same!(OWN.get(), number.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1, "thread-local storage");
    Ok(())
}

fn local_storage(stage: &Stage) -> Verdict {
    set_own(99)?;
    crowd(stage, 4, set_own, check_own)?;
    check_own(99)
}

/// A thread of several goes its own way; refused.
fn apart(stage: &Stage, flags: i32) -> Verdict {
    static FLAGS: AtomicU32 = AtomicU32::new(0);
    fn make(number: u64) -> Verdict {
        if number == 1 {
            sys!(unshare(FLAGS.load(SeqCst) as i32))?;
        }
        Ok(())
    }
    FLAGS.store(flags as u32, SeqCst);
    crowd(stage, 3, make, |_| Ok(()))
}

fn own_directory(stage: &Stage) -> Verdict {
    apart(stage, libc::CLONE_FS)
}

fn own_descriptors(stage: &Stage) -> Verdict {
    apart(stage, libc::CLONE_FILES)
}

fn own_network(stage: &Stage) -> Verdict {
    apart(stage, libc::CLONE_NEWNET)
}

fn two_hundred(stage: &Stage) -> Verdict {
    crowd(stage, 200, set_own, check_own)
}

/// More threads than there are processes as a rule; some have children of their own.
fn parents(stage: &Stage) -> Verdict {
    fn make(number: u64) -> Verdict {
        if !number.is_multiple_of(200) {
            return Ok(());
        }
        let child = sys!(fork())?;
        if child == 0 {
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            loop {
                unsafe { libc::pause() };
            }
        }
        OWN.set(child as u64);
        Ok(())
    }
    fn judge(number: u64) -> Verdict {
        if number.is_multiple_of(200) {
            let child = OWN.get() as i32;
            until("its child waits", || crate::call::state_of(child) == Some('S'))?;
            sys!(kill(child, libc::SIGKILL))?;
            same!(sys!(waitpid(child, std::ptr::null_mut(), 0))?, child, "which child ended");
        }
        Ok(())
    }
    crowd(stage, 800, make, judge)
}

/// The leader has ended by exit(2) of its thread alone; the others go on.
fn leader_gone(stage: &Stage) -> Verdict {
    // The verdict must come from another thread, so this victim writes it by way of a second process.
    let child = stage.fork(|| {
        let child = unsafe { libc::getpid() };
        let dir = stage.path("leader_gone");
        std::thread::spawn(move || {
            let leader_ended = until("the leader ended", || crate::call::state_of(child) == Some('Z'));
            std::fs::write(&dir, "standing").ok();
            let outcome =
                leader_ended.and_then(|()| until("it is told to end", || dir.with_extension("end").exists()));
            unsafe { libc::_exit(outcome.is_err().into()) };
        });
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        Ok(())
    })?;
    until("the child stands", || stage.path("leader_gone").exists())?;
    stage.freeze_here()?;
    std::fs::write(stage.path("leader_gone.end"), "").map_err(|why| why.to_string())?;
    stage.reap(child)
}

/// The process that is frozen has no leader, but descriptors, memory, a timer and children.
fn leader_gone_root(stage: &Stage) -> Verdict {
    stage.play_without_leader(|stage| {
        let path = stage.path("file");
        std::fs::write(&path, "one two").map_err(|why| why.to_string())?;
        let fd = crate::call::open(&path, libc::O_RDWR)?;
        sys!(lseek(fd, 4, libc::SEEK_SET))?;
        let (from, to) = crate::call::pipe(libc::O_CLOEXEC)?;
        crate::call::write_all(to, b"in between")?;
        let memory: Vec<u64> = (0..100_000).collect();
        let words = crate::call::shared_words::<1>()?;
        words[0].store(7, SeqCst);
        unsafe { libc::umask(0o137) };
        set_own(5)?;
        let child = stage.fork(|| until("the parent goes on", || words[0].load(SeqCst) == 8))?;
        let (tid, directory) = (gettid(), std::env::current_dir().map_err(|why| why.to_string())?);
        stage.ready();
        stage.wait();
        same!(gettid(), tid, "the thread's number");
        same!(crate::call::state_of(unsafe { libc::getpid() }), Some('Z'), "the state of the leader");
        same!(crate::call::read_all(fd, 3)?, b"two", "what stands at the offset");
        same!(crate::call::read_some(from, 64)?, b"in between", "what waited in a pipe");
        check!(memory.iter().copied().eq(0..100_000), "memory changed");
        check_own(5)?;
        same!(unsafe { libc::umask(0) }, 0o137, "the file mode mask");
        same!(std::env::current_dir().map_err(|why| why.to_string())?, directory, "the working directory");
        words[0].store(8, SeqCst);
        stage.reap(child)?;
        let thread = std::thread::spawn(gettid);
        check!(thread.join().is_ok_and(|other| other != tid), "no other thread can be made");
        Ok(())
    })
}

/// Every other thread ends by itself. What the last of them ended with is then the status of the process since Linux 5.17
/// (`synchronize_group_exit`, kernel/exit.c); before, what the leader did.
fn leader_gone_status(stage: &Stage) -> Verdict {
    let words = crate::call::shared_words::<2>()?;
    let child = stage.fork(|| {
        let own = unsafe { libc::getpid() };
        std::thread::spawn(move || {
            let ended = until("the leader ended", || crate::call::state_of(own) == Some('Z'));
            words[0].store(if ended.is_ok() { 1 } else { 2 }, SeqCst);
            let _told = until("it is told to end", || words[1].load(SeqCst) == 1);
            unsafe { libc::syscall(libc::SYS_exit, 3) };
        });
        unsafe { libc::syscall(libc::SYS_exit, 7) };
        Ok(())
    })?;
    until("the child stands", || words[0].load(SeqCst) != 0)?;
    same!(words[0].load(SeqCst), 1, "whether its leader ended");
    stage.freeze_here()?;
    same!(crate::call::state_of(child), Some('Z'), "the state of its leader");
    let mut status = 0;
    same!(sys!(waitpid(child, &mut status, libc::WNOHANG))?, 0, "a child of which a thread goes on");
    words[1].store(1, SeqCst);
    sys!(waitpid(child, &mut status, 0))?;
    stage.forget(child);
    check!([3 << 8, 7 << 8].contains(&status), "the status of the child is {status:#x}");
    Ok(())
}

/// A child that is to be told of its parent's end, whose leader has ended: refused.
fn leader_gone_warned(stage: &Stage) -> Verdict {
    stage.play_without_leader(|stage| {
        let words = crate::call::shared_words::<2>()?;
        let child = stage.fork(|| {
            sys!(prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1))?;
            words[0].store(1, SeqCst);
            until("the parent goes on", || words[1].load(SeqCst) == 1)
        })?;
        until("the child stands", || words[0].load(SeqCst) == 1)?;
        stage.ready();
        stage.wait();
        words[1].store(1, SeqCst);
        stage.reap(child)
    })
}

/// pthread_join waits on a word that the kernel clears: set_tid_address.
fn joined_later(stage: &Stage) -> Verdict {
    let go = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let go = Arc::clone(&go);
        move || {
            while !go.load(SeqCst) {
                nap(Duration::from_millis(5));
            }
            gettid()
        }
    });
    let standing = std::thread::spawn(|| 17);
    until("the short thread ended", || standing.is_finished())?;
    stage.freeze_amid_threads()?;
    go.store(true, SeqCst);
    check!(thread.join().is_ok_and(|tid| tid != gettid()), "the thread cannot be joined");
    same!(standing.join().ok(), Some(17), "what a thread that ended before returned");
    // The kernel's record, read back: what a new thread's end clears.
    same!(std::thread::spawn(|| 5).join().ok(), Some(5), "what a new thread returned");
    Ok(())
}

/// The C library's registration of restartable sequences, if it makes one.
fn rseq_cpu() -> Option<u32> {
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    let size = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()) };
    if offset.is_null() || size.is_null() || unsafe { *size.cast::<u32>() } == 0 {
        return None;
    }
    let thread: *const u8;
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) thread) };
    let area = unsafe { thread.offset(*offset.cast::<isize>()) };
    Some(unsafe { area.add(4).cast::<u32>().read_volatile() })
}

/// The kernel keeps `cpu_id` up to date in every thread.
fn rseq(stage: &Stage) -> Verdict {
    fn look(_: u64) -> Verdict {
        let mut allowed: libc::cpu_set_t = zeroed();
        sys!(sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed))?;
        for cpu in (0..1024).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) }) {
            let mut one: libc::cpu_set_t = zeroed();
            unsafe { libc::CPU_SET(cpu, &mut one) };
            sys!(sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one))?;
            if let Some(found) = rseq_cpu() {
                same!(found as usize, cpu, "the CPU that rseq tells");
            }
        }
        sys!(sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &allowed))?;
        Ok(())
    }
    if rseq_cpu().is_none() {
        eprintln!("skipped: this C library registers no rseq");
    }
    look(0)?;
    crowd(stage, 3, look, look)?;
    look(0)
}

fn robust(address: *mut libc::pthread_mutex_t) -> Verdict {
    let mut attributes: libc::pthread_mutexattr_t = zeroed();
    unsafe {
        libc::pthread_mutexattr_init(&mut attributes);
        libc::pthread_mutexattr_setpshared(&mut attributes, libc::PTHREAD_PROCESS_SHARED);
        libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST);
        same!(libc::pthread_mutex_init(address, &attributes), 0, "pthread_mutex_init");
    }
    Ok(())
}

/// The owner dies after the thaw: the kernel walks its robust list and wakes the next one.
fn robust_mutex(stage: &Stage) -> Verdict {
    let mutex = map(4096, READ_WRITE, libc::MAP_PRIVATE)? as usize;
    robust(mutex as *mut _)?;
    let (locked, go) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unsafe { libc::pthread_mutex_lock(mutex as *mut _) };
            locked.store(true, SeqCst);
            while !go.load(SeqCst) {
                nap(Duration::from_millis(5));
            }
        });
        until("the mutex is locked", || locked.load(SeqCst))?;
        let seen = stage.freeze_amid_threads();
        same!(
            unsafe { libc::pthread_mutex_trylock(mutex as *mut _) },
            libc::EBUSY,
            "trying a mutex that is held"
        );
        go.store(true, SeqCst);
        seen
    })?;
    same!(
        unsafe { libc::pthread_mutex_lock(mutex as *mut _) },
        libc::EOWNERDEAD,
        "locking a dead owner's mutex"
    );
    Ok(())
}

fn robust_mutex_process(stage: &Stage) -> Verdict {
    let mutex: *mut libc::pthread_mutex_t = map(4096, READ_WRITE, libc::MAP_SHARED)?.cast();
    robust(mutex)?;
    let words = crate::call::shared_words::<1>()?;
    let child = stage.fork(|| {
        unsafe { libc::pthread_mutex_lock(mutex) };
        words[0].store(1, SeqCst);
        stage.wait();
        until("the owner is told to die", || words[0].load(SeqCst) == 2)
    })?;
    until("the mutex is locked", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    same!(unsafe { libc::pthread_mutex_trylock(mutex) }, libc::EBUSY, "trying a mutex that is held");
    words[0].store(2, SeqCst);
    // Waits in the kernel until the robust list is walked.
    same!(unsafe { libc::pthread_mutex_lock(mutex) }, libc::EOWNERDEAD, "locking a dead owner's mutex");
    stage.reap(child)
}

fn names_and_masks(stage: &Stage) -> Verdict {
    fn mask() -> Result<libc::sigset_t, String> {
        let mut mask: libc::sigset_t = zeroed();
        sys!(pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask))?;
        Ok(mask)
    }
    fn name() -> Result<String, String> {
        std::fs::read_to_string(format!("/proc/self/task/{}/comm", gettid())).map_err(|why| why.to_string())
    }
    fn make(number: u64) -> Verdict {
        let text = crate::call::c(&format!("odd (name) {number}\u{1}"));
        sys!(prctl(libc::PR_SET_NAME, text.as_ptr()))?;
        let mut set: libc::sigset_t = zeroed();
        for signal in (1..=64).filter(|s| (*s as u64 + number).is_multiple_of(3)) {
            unsafe { libc::sigaddset(&mut set, signal) };
        }
        sys!(pthread_sigmask(libc::SIG_SETMASK, &set, null_mut()))?;
        OWN.set(u64::from_ne_bytes(unsafe { std::mem::transmute_copy(&mask()?) }));
        let slack = 70_000 + number as libc::c_ulong;
        sys!(prctl(libc::PR_SET_TIMERSLACK, slack))?;
        Ok(())
    }
    fn judge(number: u64) -> Verdict {
        same!(name()?, format!("odd (name) {number}\u{1}\n"), "its name");
        same!(
            u64::from_ne_bytes(unsafe { std::mem::transmute_copy(&mask()?) }),
            OWN.get(),
            "its signal mask"
        );
        same!(sys!(prctl(libc::PR_GET_TIMERSLACK))?, 70_000 + number as i32, "its timer slack");
        Ok(())
    }
    crowd(stage, 5, make, judge)
}

/// The timer slack to which threads and processes go back: that which their maker had.
fn default_slack(stage: &Stage) -> Verdict {
    let set = |nanos: libc::c_ulong| sys!(prctl(libc::PR_SET_TIMERSLACK, nanos));
    let judge = |own, first| {
        same!(sys!(prctl(libc::PR_GET_TIMERSLACK))?, own, "the timer slack");
        sys!(prctl(libc::PR_SET_TIMERSLACK, 0u64))?;
        same!(sys!(prctl(libc::PR_GET_TIMERSLACK))?, first, "the timer slack that is gone back to");
        Ok(())
    };
    let (read, write) = crate::call::pipe(0)?;
    set(81_000)?;
    let child = stage.fork(|| {
        set(82_000)?;
        let grandchild = stage.fork(|| {
            crate::call::read_some(read, 1)?;
            judge(82_000, 82_000)
        })?;
        set(83_000)?;
        crate::call::read_some(read, 1)?;
        judge(83_000, 81_000)?;
        stage.reap(grandchild)
    })?;
    set(84_000)?;
    let (stands, go) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set(85_000)?;
            stands.store(1, SeqCst);
            while !go.load(SeqCst) {
                nap(Duration::from_millis(5));
            }
            judge(85_000, 84_000)
        });
        until("the thread stands", || stands.load(SeqCst) != 0)?;
        let seen = stage.freeze_amid_threads();
        go.store(true, SeqCst);
        sys!(write(write, c"ab".as_ptr().cast(), 2))?;
        thread.join().map_err(|_| "the thread panicked")??;
        judge(84_000, 50_000)?;
        stage.reap(child)?;
        seen
    })
}

/// Nice values, policies and affinity, of each thread.
fn scheduling(stage: &Stage) -> Verdict {
    fn state() -> Result<String, String> {
        let mut affinity: libc::cpu_set_t = zeroed();
        sys!(sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut affinity))?;
        let cpus: Vec<usize> = (0..1024).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &affinity) }).collect();
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, gettid() as u32) };
        let mut parameter: libc::sched_param = zeroed();
        sys!(sched_getparam(0, &mut parameter))?;
        let policy = sys!(sched_getscheduler(0))?;
        let io = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
        Ok(format!(
            "nice {nice} policy {policy:#x} priority {} io {io:#x} cpus {cpus:?}",
            parameter.sched_priority
        ))
    }
    thread_local!(static STATE: Cell<String> = const { Cell::new(String::new()) });
    fn make(number: u64) -> Verdict {
        let mut parameter: libc::sched_param = zeroed();
        match number {
            0 => _ = sys!(setpriority(libc::PRIO_PROCESS, gettid() as u32, 7))?,
            1 => _ = sys!(sched_setscheduler(0, libc::SCHED_BATCH, &parameter))?,
            2 => {
                sys!(setpriority(libc::PRIO_PROCESS, gettid() as u32, 11))?;
                sys!(sched_setscheduler(0, libc::SCHED_IDLE, &parameter))?;
            }
            3 => {
                let mut one: libc::cpu_set_t = zeroed();
                unsafe { libc::CPU_SET(0, &mut one) };
                // CPU 0 may not be ours; then the thread stays where it is.
                let _pinned = sys!(sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one));
            }
            4 => {
                // Best effort, level 6.
                unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, (2 << 13) | 6) };
            }
            _ => {
                // Real-time policies need a right that few have.
                parameter.sched_priority = 5;
                sys!(setpriority(libc::PRIO_PROCESS, gettid() as u32, 12))?;
                let _ranked =
                    sys!(sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &parameter));
            }
        }
        STATE.set(state()?);
        Ok(())
    }
    fn judge(_: u64) -> Verdict {
        same!(state()?, STATE.take(), "how it is scheduled");
        Ok(())
    }
    crowd(stage, 6, make, judge)
}

/// `struct sched_attr` of sched_getattr(2), in words.
fn attributes() -> Result<[u64; 6], String> {
    let mut words = [0u64; 6];
    sys!(syscall(libc::SYS_sched_getattr, 0, words.as_mut_ptr(), 48, 0))?;
    Ok(words)
}

/// What takes rights that few have: deadlines, ranks, classes of I/O; and slices, which anybody may ask for.
fn scheduling_ranked(stage: &Stage) -> Verdict {
    fn state() -> Result<([u64; 6], i64), String> {
        Ok((attributes()?, unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) }))
    }
    thread_local!(static STATE: Cell<Option<([u64; 6], i64)>> = const { Cell::new(None) });
    fn make(number: u64) -> Verdict {
        const MILLISECOND: u64 = 1_000_000;
        const RESET_ON_FORK: u64 = 1;
        const OVERRUN: u64 = 4;
        // Size and policy, flags, nice value and priority, runtime, deadline, period.
        let attributes = |policy: i32, flags: u64, priority: u64, times: [u64; 3]| {
            let words = [48 | (policy as u64) << 32, flags, priority << 32, times[0], times[1], times[2]];
            sys!(syscall(libc::SYS_sched_setattr, 0, words.as_ptr(), 0))
        };
        let io = |class: u64, level: u64| sys!(syscall(libc::SYS_ioprio_set, 1, 0, class << 13 | level));
        let made = match number {
            0 => attributes(6, RESET_ON_FORK, 0, [MILLISECOND, 90 * MILLISECOND, 100 * MILLISECOND]),
            1 => attributes(6, OVERRUN, 0, [2 * MILLISECOND, 50 * MILLISECOND, 50 * MILLISECOND]),
            2 => attributes(libc::SCHED_FIFO, 0, 3, [0; 3]),
            3 => attributes(libc::SCHED_RR, RESET_ON_FORK, 99, [0; 3]),
            4 => attributes(libc::SCHED_OTHER, 0, 0, [7 * MILLISECOND, 0, 0]),
            5 => attributes(libc::SCHED_BATCH, 0, 0, [MILLISECOND / 2, 0, 0]),
            6 => io(1, 2),
            _ => io(3, 0),
        };
        if let Err(why) = made {
            eprintln!("skipped: thread {number}: {why}");
        }
        STATE.set(Some(state()?));
        Ok(())
    }
    fn judge(_: u64) -> Verdict {
        same!(Some(state()?), STATE.take(), "how it is scheduled");
        Ok(())
    }
    crowd(stage, 8, make, judge)
}

/// Which nodes memory comes from; also on a machine that has but one.
fn memory_policies(stage: &Stage) -> Verdict {
    fn state() -> Result<(i32, u64), String> {
        let (mut mode, mut nodes) = (0, [0u64; 16]);
        sys!(syscall(libc::SYS_get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), 1024, 0, 0))?;
        Ok((mode, nodes[0]))
    }
    thread_local!(static STATE: Cell<Option<(i32, u64)>> = const { Cell::new(None) });
    fn make(number: u64) -> Verdict {
        const STATIC_NODES: i32 = 1 << 15;
        let first = 1u64;
        // Default, preferred, bound, interleaved, local.
        let (mode, bits) =
            [(0, 0), (1, 64), (2, 64), (2 | STATIC_NODES, 64), (3, 64), (4, 0)][number as usize];
        let nodes = if bits == 0 { std::ptr::null() } else { &raw const first };
        if let Err(why) = sys!(syscall(libc::SYS_set_mempolicy, mode, nodes, bits)) {
            eprintln!("skipped: set_mempolicy: {why}");
        }
        STATE.set(state().ok());
        Ok(())
    }
    fn judge(_: u64) -> Verdict {
        same!(state().ok(), STATE.take(), "its memory policy");
        Ok(())
    }
    crowd(stage, 6, make, judge)
}

/// Condition variables and barriers of the standard library go on working between threads frozen in them.
fn conditions(stage: &Stage) -> Verdict {
    let shared = (Mutex::new(0u32), Condvar::new());
    let barrier = Barrier::new(5);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut turn = shared.0.lock().unwrap_or_else(|poison| poison.into_inner());
                while *turn == 0 {
                    turn = shared.1.wait(turn).unwrap_or_else(|poison| poison.into_inner());
                }
                *turn += 1;
                drop(turn);
                barrier.wait();
            });
        }
        nap(Duration::from_millis(30));
        let seen = stage.freeze_amid_threads();
        *shared.0.lock().unwrap_or_else(|poison| poison.into_inner()) = 1;
        shared.1.notify_all();
        barrier.wait();
        seen
    })?;
    same!(*shared.0.lock().map_err(|_| "poisoned")?, 5, "how many threads woke");
    Ok(())
}

/// Three threads that start and join others without pause.
fn storm(stage: &Stage) -> Verdict {
    let (count, over) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let short = std::thread::spawn(|| OWN.replace(7));
                    assert_eq!(short.join().ok(), Some(0), "thread-local storage of a new thread");
                    count.fetch_add(1, SeqCst);
                }
            });
        }
        let storms = until("it storms", || count.load(SeqCst) > 20);
        stage.ready();
        stage.wait();
        let before = count.load(SeqCst);
        let storms = storms.and_then(|()| until("it storms on", || count.load(SeqCst) > before + 20));
        over.store(true, SeqCst);
        storms
    })
}

/// A thread that is not the first executes the program again and again, which ends all others each time.
fn executing(stage: &Stage) -> Verdict {
    if !crate::binary::was_copied() {
        stage.ready();
    }
    for _ in 0..6 {
        std::thread::spawn(|| {
            loop {
                crate::call::nap(Duration::from_micros(300));
            }
        });
    }
    let go = stage.path("go");
    let ended = std::thread::spawn(move || {
        crate::call::nap(Duration::from_millis(2));
        if go.exists() { Ok(()) } else { crate::binary::execute(crate::binary::SELF) }
    });
    ended.join().map_err(|_| "it panicked".to_owned())?
}
