//! Which processes can be frozen at all.

use crate::failure::{Failure, FailureKind};
use crate::urgent::Urgent;
use frost_model::{Obstacle, Pid};
use frost_sys::proc;
use frost_sys::proc::{Stat, Status};
use std::process::Command;

/// Checks what can be said of a target before it is touched.
///
/// # Errors
/// No such process, a kernel thread, a thread, this command or one of its ancestors, a process that a service
/// manager would start again.
pub(crate) fn validate(pid: i32, force: bool) -> Result<Stat, Failure> {
    let cannot = |kind, stat: &Stat| {
        let name = String::from_utf8_lossy(&stat.comm).into_owned();
        Failure::new(kind, format!("cannot freeze process {pid} ({name})")).state("nothing was touched")
    };
    let none = || {
        Failure::new(FailureKind::NotFound, format!("cannot freeze process {pid}"))
            .cause("there is no process of this number")
            .state("nothing was touched")
            .hint("`ps -e` lists the processes that run")
    };
    if pid <= 0 {
        return Err(none());
    }
    let stat = proc::stat(pid).map_err(|_| none())?;
    let status = proc::status(pid).map_err(|_| none())?;
    if stat.is_kernel_thread() {
        return Err(cannot(FailureKind::Unsupported, &stat)
            .cause("it is a thread of the kernel, which has no state of its own")
            .hint("choose a program"));
    }
    if status.tgid != pid {
        return Err(cannot(FailureKind::Usage, &stat)
            .cause(format!("it is a thread of process {}", status.tgid))
            .hint(format!("`frost freeze {}` freezes the whole process", status.tgid)));
    }
    if stat.is_zombie() && proc::lasts(|| living_thread(pid).is_none()) {
        return Err(cannot(FailureKind::NotFound, &stat)
            .cause(format!("it has ended, and its parent {} has not yet asked for its status", stat.ppid))
            .hint("there is nothing left to freeze"));
    }
    if let Some(distance) = ancestry(pid) {
        let (who, hint) = if distance == 0 {
            ("it is this command itself", "name another process")
        } else {
            (
                "it is an ancestor of this command, which would be frozen with it",
                "run frost from elsewhere: another terminal, or `setsid -f frost freeze ...`",
            )
        };
        return Err(cannot(FailureKind::Usage, &stat).cause(who).hint(hint));
    }
    if status.tracer != 0 {
        let tracer = proc::command(status.tracer);
        return Err(cannot(FailureKind::Unsupported, &stat)
            .cause(format!("process {} ({tracer}) is tracing it", status.tracer))
            .hint("detach the debugger, then freeze it"));
    }
    if !force && let Some((unit, restart)) = restarting_unit(pid) {
        return Err(cannot(FailureKind::Unsupported, &stat)
                .cause(format!("it is the main process of {unit}, which has Restart={restart}: systemd would start it again"))
                .hint(format!(
                    "set Restart=no by `systemctl edit --runtime {unit}`, or use --force if a second instance does no harm"
                )));
    }
    Ok(stat)
}

/// Returns how many generations `pid` is above us: 0 for ourselves, `None` if it is no ancestor.
fn ancestry(pid: i32) -> Option<usize> {
    let mut at = std::process::id() as i32;
    for distance in 0..4096 {
        if at == pid {
            return Some(distance);
        }
        at = proc::stat(at).ok()?.ppid;
        if at <= 0 {
            return None;
        }
    }
    None
}

/// Returns the systemd unit that would start `pid` again, and its Restart= setting.
fn restarting_unit(pid: i32) -> Option<(String, String)> {
    let cgroups = proc::read(pid, "cgroup").ok()?;
    let cgroups = String::from_utf8_lossy(&cgroups).into_owned();
    let unit =
        cgroups.lines().find_map(|line| line.rsplit('/').next().filter(|name| name.ends_with(".service")))?;
    let shown = Command::new("systemctl")
        .args(["show", unit, "--property=MainPID", "--property=Restart"])
        .stdin(std::process::Stdio::null())
        .output()
        .ok()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let property = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let restart = property("Restart")?;
    (property("MainPID")? == pid.to_string() && restart != "no")
        .then(|| (unit.to_owned(), restart.to_owned()))
}

/// Returns the number by which a process is looked at: its own, or that of a thread which goes on if its leader has
/// ended; `None` if all of it has ended.
pub(crate) fn living_thread(pid: i32) -> Option<i32> {
    let lives = |tid: &i32| proc::stat(*tid).is_ok_and(|stat| !stat.is_ending());
    if lives(&pid) {
        return Some(pid);
    }
    proc::threads(pid).ok()?.into_iter().find(lives)
}

/// Returns the number by which `/proc` shows what a process has: one whose leader has ended shows neither namespaces nor
/// places, nor descriptors, by its own (`exit_files`, `exit_fs` and `exit_task_namespaces` in `do_exit`, kernel/exit.c).
pub(crate) fn shown_by(pid: Pid) -> i32 {
    living_thread(pid.raw()).unwrap_or(pid.raw())
}

/// Lists why a process could not be stopped, or not looked at once it is: what a freeze meets before its survey.
pub(crate) fn survey_stop(pid: i32, status: &Status) -> Option<Obstacle> {
    let add = |object: &str, reason: String, remedy: &str| {
        Some(Obstacle {
            pid: Pid::new(status.number().unwrap_or(pid)),
            command: proc::command(pid),
            object: object.to_owned(),
            reason,
            remedy: remedy.to_owned(),
            passes: false,
        })
    };
    if status.tracer != 0 {
        let tracer = proc::command(status.tracer);
        return add(
            "debugger",
            format!("process {} ({tracer}) is tracing it", status.tracer),
            "detach the debugger, then freeze it",
        );
    }
    // The fifth byte of an ELF file is its class, 1 for 32 bits.
    let mut head = [0; 5];
    let read = std::fs::File::open(proc::path(pid, "exe"))
        .and_then(|mut exe| std::io::Read::read_exact(&mut exe, &mut head));
    if read.is_ok() && head == *b"\x7fELF\x01" {
        let reason = "it is a program of 32 bits".to_owned();
        return add("binary", reason, "only programs of 64 bits are carried");
    }
    None
}

/// Namespaces that a thaw does not make, and in which the program must therefore be with us.
const SHARED_NAMESPACES: [(&str, &str); 3] = [("net", "network"), ("uts", "host name"), ("cgroup", "cgroup")];

/// Lists what is in the way in a process as a whole: nothing here needs it to be stopped.
///
/// A program of the runtime has the namespaces of its keeper, `home`, which a thaw makes again.
pub(crate) fn survey(pid: i32, inner: Pid, status: &Status, home: Option<i32>) -> Vec<Obstacle> {
    let command = proc::command(pid);
    let mut obstacles = Vec::new();
    let mut add = |object: &str, reason: String, remedy: &str| {
        obstacles.push(Obstacle {
            pid: inner,
            command: command.clone(),
            object: object.to_owned(),
            reason,
            remedy: remedy.to_owned(),
            passes: false,
        });
    };
    for (file, name) in SHARED_NAMESPACES {
        let link = |id: &str| rustix::fs::readlink(format!("/proc/{id}/ns/{file}"), Vec::new()).ok();
        if let (Some(theirs), Some(ours)) = (link(&pid.to_string()), link("self"))
            && theirs != ours
            && home.is_none_or(|home| Some(&theirs) != link(&home.to_string()).as_ref())
        {
            add(
                &format!("{name} namespace"),
                format!("it is in another {name} namespace than this command, as in a container"),
                "run frost inside of the container",
            );
        }
    }
    // A frost thaw of an ordinary user makes a mount namespace too, with nothing but a /proc of its own: what decides
    // is whether the same files lie below the same paths.
    let mounts = |id: &str| rustix::fs::readlink(format!("/proc/{id}/ns/mnt"), Vec::new()).ok();
    let root = |path: String| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    if mounts(&pid.to_string()) != mounts("self") && root(format!("/proc/{pid}/root")) != root("/".to_owned())
    {
        add(
            "mount namespace",
            "it is in another mount namespace than this command, with other files, as in a container"
                .to_owned(),
            "run frost inside of the container",
        );
    }
    // Where users have the numbers that they have here and nobody has rights, as where an ordinary user's thaw put the
    // program, one is as good as another.
    let users = |id: &str| rustix::fs::readlink(format!("/proc/{id}/ns/user"), Vec::new()).ok();
    let theirs = users(&pid.to_string());
    if theirs != users("self")
        && home.is_none_or(|home| theirs != users(&home.to_string()))
        && !(status.cap_permitted == 0 && maps_as_here(pid))
    {
        add(
            "user namespace",
            "it is in another user namespace than this command, in which it has other numbers or rights"
                .to_owned(),
            "run the program without its sandbox, or frost inside of the container",
        );
    }
    let mut class = [0u8; 5];
    let exe = rustix::fs::open(
        proc::path(pid, "exe"),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    if exe.is_ok_and(|exe| rustix::io::pread(&exe, &mut class, 0).is_ok()) && class == *b"\x7fELF\x01" {
        add("binary", "it is a 32-bit program, which is not carried".to_owned(), "use a 64-bit build of it");
    }
    obstacles
}

/// Whether a process lives in namespaces whose first process has not executed anything yet and is frost: that of a
/// `frost run` which is on its way to become a keeper. A sandbox may have a first process that never executes anything.
pub(crate) fn is_unfinished(pid: i32, status: &Status) -> bool {
    if status.depth() == 0 {
        return false;
    }
    let exe = |pid: i32| proc::link(pid, "exe").ok();
    // By its name, as it may be of another version than we are.
    let name = |exe: &[u8]| proc::as_path(exe).file_name().map(std::ffi::OsStr::to_owned);
    let is_frost = |theirs: &[u8]| {
        let ours = rustix::fs::readlink("/proc/self/exe", Vec::new());
        ours.is_ok_and(|ours| name(theirs) == name(ours.as_bytes()))
    };
    let mut at = pid;
    // A first process has a parent outside, where the number of levels is less.
    while let (Ok(status), Ok(stat)) = (proc::status(at), proc::stat(at)) {
        if status.depth() == 0 || stat.ppid <= 0 {
            return false;
        }
        if status.inner_pids.last() == Some(&1) {
            return exe(at).is_some_and(|own| is_frost(&own) && exe(stat.ppid) == Some(own));
        }
        at = stat.ppid;
    }
    false
}

/// Whether users and groups have the same numbers in the user namespace of a process as here.
fn maps_as_here(pid: i32) -> bool {
    ["uid_map", "gid_map"].into_iter().all(|name| {
        let text = proc::read(pid, name).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // Lines of: first number inside, first number here, how many (user_namespaces(7)).
        let same = |line: &str| {
            let mut numbers = line.split_ascii_whitespace();
            numbers.next().is_some_and(|inside| numbers.next() == Some(inside))
        };
        !text.is_empty() && text.lines().all(same)
    })
}

/// Namespaces of which a thaw makes at most one of a kind for the whole tree.
const ONE_FOR_ALL: [(&str, &str); 5] =
    [("ipc", "IPC"), ("pid", "pid"), ("user", "user"), ("mnt", "mount"), ("time", "time")];

/// Lists the processes that live in other namespaces than the first, as those of a sandbox.
pub(crate) fn survey_namespaces(pids: &[(i32, Pid)]) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    let Some(((root, _), others)) = pids.split_first().filter(|(_, others)| !others.is_empty()) else {
        return obstacles;
    };
    for (file, name) in ONE_FOR_ALL {
        let namespace =
            |pid: i32| rustix::fs::readlink(proc::path(pid, &format!("ns/{file}")), Vec::new()).ok();
        let Some(first) = namespace(*root) else { continue };
        for (pid, _) in others {
            if namespace(*pid).is_some_and(|theirs| theirs != first) {
                obstacles.push(Obstacle {
                    // The number by which it is known here: in a pid namespace of its own it may be 1.
                    pid: Pid::new(*pid),
                    command: proc::command(*pid),
                    object: format!("{name} namespace"),
                    reason: format!(
                        "it is in another {name} namespace than the root of its tree, as in a sandbox"
                    ),
                    remedy: "run the program without its sandbox, where it has a switch for that".to_owned(),
                    passes: false,
                });
            }
        }
    }
    obstacles
}

/// Lists kernel objects that two processes share and that a thaw would make separate.
pub(crate) fn survey_shared(pids: &[(i32, Pid)]) -> Vec<Obstacle> {
    use frost_sys::kcmp::{Resource, kcmp};
    let mut obstacles = Vec::new();
    let shared = [
        (Resource::Vm, "its address space (vfork or CLONE_VM)"),
        (Resource::Files, "its descriptor table (CLONE_FILES)"),
        (Resource::Fs, "its working directory and root (CLONE_FS)"),
        (Resource::SigHand, "its signal handlers (CLONE_SIGHAND)"),
    ];
    for (resource, what) in shared {
        // kcmp gives an order, so that equal ones become neighbours.
        let mut sorted: Vec<_> = pids.to_vec();
        sorted.sort_by(|a, b| kcmp(a.0, b.0, resource).unwrap_or(a.0.cmp(&b.0)));
        for pair in sorted.windows(2) {
            if kcmp(pair[0].0, pair[1].0, resource) == Ok(std::cmp::Ordering::Equal) {
                obstacles.push(Obstacle {
                    pid: pair[1].1,
                    command: proc::command(pair[1].0),
                    object: "process".to_owned(),
                    reason: format!("it shares {what} with process {}", pair[0].1),
                    remedy: "freeze it a little later, when a vfork in progress has ended".to_owned(),
                    // As a vfork does; a CLONE_VM that lasts is waited for in vain.
                    passes: resource == Resource::Vm,
                });
            }
        }
    }
    obstacles
}

/// Namespaces that a thread may enter alone; for the others its process must have no second thread, or it takes a working
/// directory of its own (`validate_nsset`, kernel/nsproxy.c; `mntns_install`, fs/namespace.c).
const OF_THREADS: [(&str, &str); 4] = [
    ("net", "a network namespace"),
    ("uts", "a host name (UTS) namespace"),
    ("ipc", "an IPC namespace"),
    ("cgroup", "a cgroup namespace"),
];

/// From so many threads on a stop takes so long that each thing that is asked of all of them counts.
const MANY_THREADS: usize = 1000;

/// Lists threads of a process that have for themselves what a thaw would make them share with the others.
///
/// A stopped process with thousands of threads is not asked for the host names, IPC and cgroups of each: that took a seventh of
/// the stop (110 ms of 780 for 10,000 threads), and programs use network namespaces in this way.
pub(crate) fn survey_threads(
    pid: i32,
    through: i32,
    inner: Pid,
    status: &Status,
    urgent: Option<&Urgent>,
) -> Vec<Obstacle> {
    use frost_sys::kcmp::{Resource, kcmp};
    const CAP_SYS_ADMIN: u32 = 21;
    if status.threads < 2 {
        return Vec::new();
    }
    let threads = proc::threads(pid).unwrap_or_default();
    let find = |is_apart: &(dyn Fn(i32) -> bool + Sync)| {
        // One that ends has given up all of that.
        let goes_on = |tid: i32| proc::stat(tid).is_ok_and(|stat| !stat.is_ending());
        first_of(&threads, urgent, &|tid| tid != through && is_apart(tid) && goes_on(tid))
    };
    let differs = |resource| {
        find(&|tid| kcmp(through, tid, resource).is_ok_and(|order| order != std::cmp::Ordering::Equal))
    };
    let mut found = vec![
        (differs(Resource::Fs), "a working directory and a file mode mask (CLONE_FS)"),
        (differs(Resource::Files), "descriptors (CLONE_FILES)"),
    ];
    // Who may not enter one has none.
    if status.cap_permitted >> CAP_SYS_ADMIN & 1 != 0 {
        let asked = if urgent.is_some() && threads.len() > MANY_THREADS { 1 } else { OF_THREADS.len() };
        found.extend(OF_THREADS[..asked].iter().map(|(file, name)| {
            let of = |tid: i32| {
                rustix::fs::readlink(proc::path(pid, &format!("task/{tid}/ns/{file}")), Vec::new()).ok()
            };
            let ours = of(through);
            (find(&|tid| of(tid).is_some_and(|theirs| Some(theirs) != ours)), *name)
        }));
    }
    let obstacle = |(thread, what): (Option<i32>, &str)| {
        let thread = thread?;
        let number = proc::status(thread).ok().and_then(|status| status.number()).unwrap_or(thread);
        Some(Obstacle {
            pid: inner,
            command: proc::command(pid),
            object: format!("thread {number}"),
            reason: format!("it has {what} of its own, apart from the other threads"),
            remedy: "freeze it when that thread has ended, or let the program do that in a process"
                .to_owned(),
            passes: false,
        })
    };
    found.into_iter().filter_map(obstacle).collect()
}

/// Returns the first of some threads of which something is so. Many are asked for by two of ours: a look at one takes 5 us.
fn first_of(threads: &[i32], urgent: Option<&Urgent>, is_so: &(dyn Fn(i32) -> bool + Sync)) -> Option<i32> {
    let find = |threads: &[i32]| threads.iter().copied().find(|tid| is_so(*tid));
    if threads.len() < MANY_THREADS {
        return find(threads);
    }
    let (ours, rest) = threads.split_at(threads.len() / 2);
    std::thread::scope(|scope| {
        let leave = urgent.map(Urgent::leave);
        let helper = std::thread::Builder::new().spawn_scoped(scope, || {
            if let Some(leave) = leave {
                leave();
            }
            find(rest)
        });
        find(ours).or_else(|| match helper.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(found)) => found,
            _ => find(rest),
        })
    })
}
