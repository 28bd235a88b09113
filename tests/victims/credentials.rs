//! Who the program is. Most of it can only be set by root.

use crate::Victim;
use crate::call::zeroed;
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("credentials_plain", plain),
    ("credentials_dropped", dropped),
    ("credentials_capabilities", capabilities),
    ("credentials_of_threads", of_threads),
    ("credentials_of_each_thread", of_each_thread),
];

/// The lines of a status file that tell credentials.
fn credentials(thread: &str) -> Result<Vec<String>, String> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).map_err(|why| why.to_string())?;
    let names =
        ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"];
    let mut lines: Vec<String> = status
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)))
        .map(str::to_owned)
        .collect();
    lines.push(format!("securebits {:#x}", unsafe { libc::prctl(libc::PR_GET_SECUREBITS) }));
    Ok(lines)
}

pub(crate) fn is_root() -> bool {
    // Root of a user namespace that maps but one user cannot become another one.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mapped: Option<u64> = map.split_ascii_whitespace().nth(2).and_then(|count| count.parse().ok());
    mapped > Some(1) && unsafe { libc::geteuid() == 0 }
}

fn judged(stage: &Stage) -> Verdict {
    let before = credentials("self")?;
    stage.freeze_here()?;
    same!(credentials("self")?, before, "credentials");
    Ok(())
}

fn plain(stage: &Stage) -> Verdict {
    sys!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
    if is_root() {
        return judged(stage);
    }
    // An ordinary user's program comes back in a user namespace, where it may hold capabilities over that alone.
    let ids = || unsafe { (libc::getuid(), libc::geteuid(), libc::getgid(), libc::getegid()) };
    let before = ids();
    stage.freeze_here()?;
    same!(ids(), before, "user and group");
    Ok(())
}

/// As a service that drops root: other users for real, effective, saved; groups of its own.
fn dropped(stage: &Stage) -> Verdict {
    if !is_root() {
        eprintln!("skipped: only root can drop root");
        return stage.freeze_here();
    }
    // The directory must stay writable for whom we become.
    let dir = crate::call::c(&stage.path("").to_string_lossy());
    sys!(chmod(dir.as_ptr(), 0o777))?;
    let groups = [1001, 1002, 77];
    sys!(setgroups(3, groups.as_ptr()))?;
    sys!(setresgid(1001, 1002, 1003))?;
    sys!(setresuid(1004, 1005, 1006))?;
    // Not dumpable any more, as after any such change; a debugger without rights is kept out.
    judged(stage)
}

/// Capabilities kept over setuid, ambient ones, a smaller bounding set, securebits.
fn capabilities(stage: &Stage) -> Verdict {
    if !is_root() {
        eprintln!("skipped: only root has capabilities to keep");
        return stage.freeze_here();
    }
    const CAP_NET_BIND_SERVICE: u32 = 10;
    const CAP_SYS_NICE: u32 = 23;
    const CAP_SETPCAP: u32 = 8;
    let dir = crate::call::c(&stage.path("").to_string_lossy());
    sys!(chmod(dir.as_ptr(), 0o777))?;
    sys!(prctl(libc::PR_CAPBSET_DROP, 36, 0, 0, 0))?;
    const SECBIT_KEEP_CAPS: i32 = 1 << 4;
    sys!(prctl(libc::PR_SET_SECUREBITS, SECBIT_KEEP_CAPS))?;
    sys!(setresgid(1001, 1001, 1001))?;
    sys!(setresuid(1004, 1004, 1004))?;
    let wanted = 1u32 << CAP_NET_BIND_SERVICE | 1 << CAP_SYS_NICE | 1 << CAP_SETPCAP;
    let header = [0x2008_0522u32, 0];
    let data = [[wanted & !(1 << CAP_SYS_NICE), wanted, 1 << CAP_NET_BIND_SERVICE], [0; 3]];
    sys!(syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))?;
    sys!(prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0))?;
    judged(stage)
}

/// The kernel keeps credentials for each thread; a raw call changes one alone.
fn of_threads(stage: &Stage) -> Verdict {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return stage.freeze_here();
    }
    let (standing, go) = (std::sync::atomic::AtomicU32::new(0), std::sync::atomic::AtomicBool::new(false));
    use std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys!(syscall(libc::SYS_setfsuid, 1009))?;
            let groups = [5, 6];
            sys!(syscall(libc::SYS_setgroups, 2, groups.as_ptr()))?;
            let before = credentials("thread-self")?;
            standing.store(1, SeqCst);
            while !go.load(SeqCst) {
                crate::call::nap(std::time::Duration::from_millis(5));
            }
            same!(credentials("thread-self")?, before, "the thread's credentials");
            Ok(())
        });
        crate::call::until("the thread stands", || standing.load(SeqCst) == 1 || thread.is_finished())?;
        let seen = stage.freeze_amid_threads();
        go.store(true, SeqCst);
        thread.join().map_err(|_| "the thread panicked".to_owned())??;
        seen
    })?;
    let mut set: libc::sigset_t = zeroed();
    sys!(sigemptyset(&mut set))?;
    Ok(())
}

/// Threads that differ from their leader in one thing each.
fn of_each_thread(stage: &Stage) -> Verdict {
    thread_local!(static BEFORE: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) });
    fn make(number: u64) -> Verdict {
        const SECBIT_NOROOT: i32 = 1;
        const SECBIT_KEEP_CAPS: i32 = 1 << 4;
        let header = [0x2008_0522u32, 0];
        let mut data = [[0u32; 3]; 2];
        let none: libc::c_ulong = 0;
        let made = match number {
            0 => sys!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, none, none, none)).map(i64::from),
            1 => sys!(prctl(libc::PR_SET_SECUREBITS, SECBIT_NOROOT)).map(i64::from),
            2 => sys!(prctl(libc::PR_SET_SECUREBITS, SECBIT_KEEP_CAPS)).map(i64::from),
            3 => sys!(syscall(libc::SYS_setresuid, 1004, 1005, 1006)),
            4 => sys!(syscall(libc::SYS_setresgid, 1001, 1002, 1003)),
            5 => sys!(syscall(libc::SYS_setfsgid, 1007)),
            6 => sys!(syscall(libc::SYS_setgroups, 2, [7, 8].as_ptr())),
            7 => sys!(prctl(libc::PR_CAPBSET_DROP, 36, 0, 0, 0)).map(i64::from),
            _ => sys!(syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr())).and_then(|_| {
                // CAP_KILL, effective and inheritable.
                data[0][0] &= !(1 << 5);
                data[0][2] = data[0][1] & 0xff;
                sys!(syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))
            }),
        };
        made.map_err(|why| format!("thread {number}: {why}"))?;
        BEFORE.set(credentials("thread-self")?);
        Ok(())
    }
    fn judge(_: u64) -> Verdict {
        same!(credentials("thread-self")?, BEFORE.take(), "the thread's credentials");
        Ok(())
    }
    if !is_root() {
        eprintln!("skipped: only root can be several users at once");
        return stage.freeze_here();
    }
    let before = credentials("self")?;
    crate::thread::crowd(stage, 9, make, judge)?;
    same!(credentials("self")?, before, "credentials of the leader");
    Ok(())
}
