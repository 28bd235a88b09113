//! Filters of system calls that a program has installed itself.

use crate::Victim;
use crate::call::errno;
use crate::stage::{Stage, Verdict};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

pub(crate) const VICTIMS: &[Victim] = &[
    ("filter_one", one),
    ("filter_by_prctl", by_prctl),
    ("filter_stacked", stacked),
    ("filter_for_all", for_all),
    ("filter_of_threads", of_threads),
    ("filter_of_one_thread", of_one_thread),
    ("filter_forked", forked),
    ("filter_executed", executed),
    ("filter_failed", failed),
    ("filter_large", large),
    ("filter_traps", traps),
    ("filter_without_asking", without_asking),
    ("filter_few_calls", few_calls),
    ("filter_few_calls_on_a_fiber", few_calls_on_a_fiber),
    ("filter_few_calls_of_many", few_calls_of_many),
    ("filter_left_area", left_area),
    ("filter_no_executable_memory", no_executable_memory),
    ("filter_rights_given_up", rights_given_up),
    ("filter_listener", listener),
];

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction(u16, u8, u8, u32);

const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const TRAP: u32 = 0x0003_0000;
const KILL: u32 = 0x8000_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const FOR_ALL: libc::c_ulong = 1;
const LISTEN: libc::c_ulong = 8;

fn install(code: &[Instruction], flags: libc::c_ulong) -> Result<i64, String> {
    let program = (code.len() as u64, code.as_ptr());
    let result = sys!(syscall(libc::SYS_seccomp, 1, flags, &program))?;
    // The number of a thread that could not get it.
    check!(flags & FOR_ALL == 0 || result == 0, "thread {result} does not get the filter");
    Ok(result)
}

/// Answers one call in some way, and lets all others through.
fn answering(nr: libc::c_long, how: u32) -> Vec<Instruction> {
    vec![
        Instruction(LOAD, 0, 0, 0),
        Instruction(EQUAL, 0, 1, nr as u32),
        Instruction(RETURN, 0, 0, how),
        Instruction(RETURN, 0, 0, ALLOW),
    ]
}

fn no_new_privs() -> Verdict {
    sys!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).map(drop)
}

/// What a call of no consequence gives: 0 if it is let through.
fn given(nr: libc::c_long) -> i32 {
    if unsafe { libc::syscall(nr, 0, 0, 0) } == -1 { errno() } else { 0 }
}

const SYNC: libc::c_long = libc::SYS_getppid;
const OTHER: libc::c_long = libc::SYS_getpgrp;
const THIRD: libc::c_long = libc::SYS_getuid;

fn one(stage: &Stage) -> Verdict {
    no_new_privs()?;
    install(&answering(SYNC, ERRNO | 77), 0)?;
    same!(given(SYNC), 77, "before");
    stage.freeze_here()?;
    same!(given(SYNC), 77, "the filtered call");
    same!(given(OTHER), 0, "another call");
    // It may go on installing.
    install(&answering(OTHER, ERRNO | 78), 0)?;
    same!((given(SYNC), given(OTHER)), (77, 78), "one more");
    Ok(())
}

fn by_prctl(stage: &Stage) -> Verdict {
    no_new_privs()?;
    let code = answering(SYNC, ERRNO | 7);
    let program = (code.len() as u64, code.as_ptr());
    sys!(prctl(libc::PR_SET_SECCOMP, 2, &program))?;
    // Whoever forbids one of both ways may still use the other.
    let code = answering(libc::SYS_seccomp, ERRNO | 1);
    let program = (code.len() as u64, code.as_ptr());
    sys!(prctl(libc::PR_SET_SECCOMP, 2, &program))?;
    let code = answering(OTHER, ERRNO | 8);
    let program = (code.len() as u64, code.as_ptr());
    sys!(prctl(libc::PR_SET_SECCOMP, 2, &program))?;
    stage.freeze_here()?;
    same!((given(SYNC), given(OTHER), given(libc::SYS_seccomp)), (7, 8, 1), "the filtered calls");
    Ok(())
}

/// Of two that give an error the newer one counts, so their order is to be seen.
fn stacked(stage: &Stage) -> Verdict {
    no_new_privs()?;
    for error in 10..20 {
        install(&answering(SYNC, ERRNO | error), 0)?;
        install(&answering(OTHER, ERRNO | (30 - error)), 2)?;
    }
    same!((given(SYNC), given(OTHER)), (19, 11), "before");
    stage.freeze_here()?;
    same!((given(SYNC), given(OTHER)), (19, 11), "the newest");
    Ok(())
}

/// Threads that look and tell when they are asked to.
struct Crew {
    go: AtomicU32,
    standing: AtomicU32,
}

impl Crew {
    const fn new() -> Self {
        Self { go: AtomicU32::new(0), standing: AtomicU32::new(0) }
    }

    fn stand(&self) {
        self.standing.fetch_add(1, SeqCst);
        while self.go.load(SeqCst) == 0 {
            crate::call::nap(std::time::Duration::from_millis(2));
        }
    }

    fn until_standing(&self, count: u32) -> Verdict {
        crate::call::until("the threads stand", || self.standing.load(SeqCst) == count)
    }
}

/// One thread gives its filters to all, and may do so again afterwards: all of them still have what it has.
fn for_all(stage: &Stage) -> Verdict {
    no_new_privs()?;
    let crew = Crew::new();
    install(&answering(SYNC, ERRNO | 5), 0)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let crew = &crew;
                scope.spawn(move || {
                    if number == 1 {
                        crew.until_standing(2)?;
                        install(&answering(OTHER, ERRNO | 6), FOR_ALL)?;
                    }
                    crew.stand();
                    same!((given(SYNC), given(OTHER)), (5, 6), "thread {number}");
                    if number == 2 {
                        install(&answering(THIRD, ERRNO | 9), FOR_ALL)?;
                        crew.go.store(2, SeqCst);
                    }
                    while crew.go.load(SeqCst) != 2 {
                        crate::call::nap(std::time::Duration::from_millis(2));
                    }
                    same!(given(THIRD), 9, "thread {number}, of the new one");
                    Ok(())
                })
            })
            .collect();
        let stood = crew.until_standing(3);
        let seen = stood.and_then(|()| stage.freeze_amid_threads());
        crew.go.store(1, SeqCst);
        let verdicts = threads.into_iter().map(|thread| {
            let verdict: Verdict = thread.join().map_err(|_| "a thread panicked".to_owned())?;
            if verdict.is_err() {
                crew.go.store(2, SeqCst);
            }
            verdict
        });
        verdicts.fold(seen, Result::and)
    })?;
    same!((given(SYNC), given(OTHER), given(THIRD)), (5, 6, 9), "the leader");
    Ok(())
}

/// A counter that children share with their parent.
struct Counter(&'static AtomicU32);

impl Counter {
    fn new() -> Result<Self, String> {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, flags, -1, 0) };
        check!(page != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Ok(Self(unsafe { &*page.cast::<AtomicU32>() }))
    }

    /// In a child: says that it stands, and waits for `go`.
    fn stand(&self, stage: &Stage) {
        self.0.fetch_add(1, SeqCst);
        stage.wait();
    }

    fn until_standing(&self, count: u32) -> Verdict {
        crate::call::until("the children stand", || self.0.load(SeqCst) == count)
    }
}

/// Each thread has another one, beside what all have.
fn of_threads(stage: &Stage) -> Verdict {
    no_new_privs()?;
    install(&answering(SYNC, ERRNO | 5), 0)?;
    threads_with(stage, &[Some(20), None, Some(22), Some(20)], 5)
}

/// The leader has none.
fn of_one_thread(stage: &Stage) -> Verdict {
    threads_with(stage, &[None, Some(31)], 0)
}

fn threads_with(stage: &Stage, errors: &[Option<u32>], all: i32) -> Verdict {
    let crew = Crew::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = errors
            .iter()
            .map(|error| {
                let crew = &crew;
                scope.spawn(move || {
                    if let Some(error) = error {
                        no_new_privs()?;
                        install(&answering(OTHER, ERRNO | error), 0)?;
                    }
                    crew.stand();
                    let own = error.map_or(0, |error| error as i32);
                    same!((given(SYNC), given(OTHER)), (all, own), "a thread with {error:?}");
                    Ok(())
                })
            })
            .collect();
        let stood = crew.until_standing(errors.len() as u32);
        let seen = stood.and_then(|()| stage.freeze_amid_threads());
        crew.go.store(1, SeqCst);
        let verdicts =
            threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?);
        verdicts.fold(seen, Result::and)
    })?;
    same!((given(SYNC), given(OTHER)), (all, 0), "the leader");
    Ok(())
}

/// Children have what their parent had when they were born, and may go their own ways.
fn forked(stage: &Stage) -> Verdict {
    let counter = Counter::new()?;
    no_new_privs()?;
    install(&answering(SYNC, ERRNO | 5), 0)?;
    let child = |own: Option<u32>, expected: (i32, i32)| {
        stage.fork(|| {
            if let Some(own) = own {
                install(&answering(OTHER, ERRNO | own), 0)?;
            }
            counter.stand(stage);
            same!((given(SYNC), given(OTHER)), expected, "a child");
            Ok(())
        })
    };
    let mut children = vec![child(None, (5, 0))?, child(Some(40), (5, 40))?];
    install(&answering(OTHER, ERRNO | 41), 0)?;
    children.push(child(None, (5, 41))?);
    children.push(child(Some(42), (5, 42))?);
    counter.until_standing(4)?;
    stage.freeze_here()?;
    for child in children {
        stage.reap(child)?;
    }
    same!((given(SYNC), given(OTHER)), (5, 41), "the parent");
    Ok(())
}

/// Filters outlive the program that installed them.
fn executed(stage: &Stage) -> Verdict {
    const AGAIN: &str = "FILTER_EXECUTED";
    if std::env::var_os(AGAIN).is_none() {
        no_new_privs()?;
        install(&answering(SYNC, ERRNO | 12), 0)?;
        use std::os::unix::process::CommandExt;
        let own = std::env::current_exe().map_err(|why| why.to_string())?;
        let why = std::process::Command::new(own).args(std::env::args_os().skip(1)).env(AGAIN, "1").exec();
        return Err(why.to_string());
    }
    same!(given(SYNC), 12, "before");
    stage.freeze_here()?;
    same!(given(SYNC), 12, "the filtered call");
    Ok(())
}

/// Not every attempt succeeds: without rights, of nonsense, of nothing.
fn failed(stage: &Stage) -> Verdict {
    no_new_privs()?;
    let refused = |code: &[Instruction], flags| install(code, flags).is_err();
    check!(refused(&[Instruction(0xffff, 0, 0, 0)], 0), "nonsense");
    check!(refused(&[Instruction(LOAD, 0, 0, 0)], 0), "no end");
    check!(refused(&answering(SYNC, ERRNO | 50), 1 << 20), "a flag that there is not");
    install(&answering(SYNC, ERRNO | 51), 0)?;
    check!(refused(&[Instruction(RETURN, 0, 0, ALLOW)], 1 << 20), "a flag that there is not");
    check!(sys!(syscall(libc::SYS_seccomp, 1, 0, 8)).is_err(), "no memory");
    stage.freeze_here()?;
    same!(given(SYNC), 51, "the filtered call");
    Ok(())
}

/// As long as one may be, and several of them.
fn large(stage: &Stage) -> Verdict {
    no_new_privs()?;
    for error in 60..64 {
        let mut code = vec![Instruction(LOAD, 0, 0, 0)];
        // Numbers that are no calls.
        code.extend((0..4092).map(|number| Instruction(EQUAL, 0, 0, 100_000 + number)));
        code.extend([Instruction(EQUAL, 0, 1, SYNC as u32), Instruction(RETURN, 0, 0, ERRNO | error)]);
        code.push(Instruction(RETURN, 0, 0, ALLOW));
        same!(code.len(), 4096, "instructions");
        install(&code, 0)?;
    }
    stage.freeze_here()?;
    same!(given(SYNC), 63, "the filtered call");
    Ok(())
}

static TRAPPED: AtomicU32 = AtomicU32::new(0);

/// A sandbox that answers the calls itself, in a handler of SIGSYS.
fn traps(stage: &Stage) -> Verdict {
    extern "C" fn handler(_: i32) {
        TRAPPED.fetch_add(1, SeqCst);
    }
    let mut action: libc::sigaction = crate::call::zeroed();
    action.sa_sigaction = handler as *const () as usize;
    sys!(sigaction(libc::SIGSYS, &action, std::ptr::null_mut()))?;
    no_new_privs()?;
    install(&answering(SYNC, TRAP), 0)?;
    given(SYNC);
    same!(TRAPPED.load(SeqCst), 1, "before");
    stage.freeze_here()?;
    same!(TRAPPED.load(SeqCst), 1, "while it was away");
    given(SYNC);
    same!(TRAPPED.load(SeqCst), 2, "calls that were trapped");
    Ok(())
}

/// Installed with rights that it still has, so no_new_privs is not set.
fn without_asking(stage: &Stage) -> Verdict {
    if install(&answering(SYNC, ERRNO | 13), 0).is_err() {
        eprintln!("skipped: only who has CAP_SYS_ADMIN installs a filter without no_new_privs");
        return stage.freeze_here();
    }
    stage.freeze_here()?;
    same!(given(SYNC), 13, "the filtered call");
    Ok(())
}

/// As a sandbox for one purpose: all but a few calls would kill it. Among them is not restart_syscall, by which the kernel
/// goes on with a call that was interrupted.
fn only_few_calls() -> Verdict {
    let allowed = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_access,
        libc::SYS_exit_group,
        libc::SYS_rt_sigreturn,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
    ];
    let mut code = vec![Instruction(LOAD, 0, 0, 0)];
    let count = allowed.len() as u8;
    code.extend((0..count).zip(allowed).map(|(at, nr)| Instruction(EQUAL, count - at, 0, nr as u32)));
    code.extend([Instruction(RETURN, 0, 0, KILL), Instruction(RETURN, 0, 0, ALLOW)]);
    no_new_privs()?;
    install(&code, 0).map(drop)
}

fn few_calls(stage: &Stage) -> Verdict {
    let counter = Counter::new()?;
    let child = stage.fork(|| {
        only_few_calls()?;
        counter.stand(stage);
        Ok(())
    })?;
    counter.until_standing(1)?;
    stage.freeze_here()?;
    stage.reap(child)
}

/// Sleeps where nothing is known of the room on its stack, so that what is left of the time has no place there.
fn few_calls_on_a_fiber(stage: &Stage) -> Verdict {
    let counter = Counter::new()?;
    let child = stage.fork(|| {
        let start = crate::restart::heap()?;
        only_few_calls()?;
        counter.0.fetch_add(1, SeqCst);
        let time = crate::call::timespec(std::time::Duration::from_millis(500));
        while !stage.gone() {
            crate::restart::sleep_on_a_fiber(start, &time)?;
        }
        Ok(())
    })?;
    counter.until_standing(1)?;
    crate::call::until("it sleeps", || crate::call::is_in_call(child, libc::SYS_nanosleep))?;
    stage.freeze_here()?;
    stage.reap(child)
}

/// Some of many fall asleep when they were seen awake and have not stopped yet, so that nobody knows for how long they slept.
fn few_calls_of_many(stage: &Stage) -> Verdict {
    const CHILDREN: u32 = 24;
    let counter = Counter::new()?;
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        children.push(stage.fork(|| {
            only_few_calls()?;
            counter.0.fetch_add(1, SeqCst);
            while !stage.gone() {
                crate::call::nap(std::time::Duration::from_micros(50));
            }
            Ok(())
        })?);
    }
    counter.until_standing(CHILDREN)?;
    stage.freeze_here()?;
    children.into_iter().try_for_each(|child| stage.reap(child))
}

/// Something looks as if a freezer that died had left it there, and to take it away is forbidden.
fn left_area(stage: &Stage) -> Verdict {
    let counter = Counter::new()?;
    let child = stage.fork(|| {
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let place = std::ptr::without_provenance_mut(0x10_0000_0000);
        let area = unsafe { libc::mmap(place, 1 << 20, rights, flags, -1, 0) };
        check!(area == place, "the place is taken");
        no_new_privs()?;
        install(&answering(libc::SYS_munmap, KILL), 0)?;
        counter.stand(stage);
        Ok(())
    })?;
    counter.until_standing(1)?;
    stage.freeze_without_facts()?;
    stage.reap(child)
}

/// Memory that may be written and executed is what a freeze needs for some microseconds.
fn no_executable_memory(stage: &Stage) -> Verdict {
    no_new_privs()?;
    // The low word of the third argument of mmap.
    install(
        &[
            Instruction(LOAD, 0, 0, 0),
            Instruction(EQUAL, 0, 4, libc::SYS_mmap as u32),
            Instruction(LOAD, 0, 0, 32),
            Instruction(0x54, 0, 0, 6),
            Instruction(EQUAL, 0, 1, 6),
            Instruction(RETURN, 0, 0, ERRNO | 1),
            Instruction(RETURN, 0, 0, ALLOW),
        ],
        0,
    )?;
    let map = |rights: i32| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, flags, -1, 0) != libc::MAP_FAILED }
    };
    stage.freeze_here()?;
    check!(map(3) && !map(7), "the rights of memory");
    Ok(())
}

fn rights_given_up(stage: &Stage) -> Verdict {
    if install(&answering(SYNC, ERRNO | 14), 0).is_err() {
        eprintln!("skipped: only who has CAP_SYS_ADMIN installs a filter without no_new_privs");
        return stage.freeze_here();
    }
    // Version 3, of no capabilities.
    sys!(syscall(libc::SYS_capset, &[0x2008_0522u32, 0], &[0u32; 6]))?;
    stage.freeze_here()?;
    same!(given(SYNC), 14, "the filtered call");
    Ok(())
}

fn listener(stage: &Stage) -> Verdict {
    no_new_privs()?;
    let listener = install(&answering(libc::SYS_getpgrp, NOTIFY), LISTEN)?;
    // Nobody answers any more.
    sys!(close(listener as i32))?;
    stage.freeze_here()
}
