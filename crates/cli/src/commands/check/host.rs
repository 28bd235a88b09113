//! The features of kernel and machine that frost uses, each tried.

use crate::place::Place;
use frost_sys::pagemap::Pagemap;
use frost_sys::probe::{self, Stage};
use frost_sys::{kcmp, memory, pidfd, proc};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};
use serde::Serialize;
use std::path::Path;

/// How a feature stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// All there.
    Ok,
    /// There, but not for everything or everybody.
    Limited,
    /// Needed, and not there.
    Missing,
}

/// A feature and how it stands.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Feature {
    /// A name that stays the same from release to release.
    pub(super) name: &'static str,
    /// How it stands.
    pub(super) status: Verdict,
    /// What frost does with it.
    pub(super) purpose: &'static str,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Feature {
    fn ok(name: &'static str, purpose: &'static str) -> Self {
        Self { name, status: Verdict::Ok, purpose, detail: None, remedy: None }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    fn short(mut self, status: Verdict, remedy: impl Into<String>) -> Self {
        self.status = status;
        self.remedy = Some(remedy.into());
        self
    }

    /// Judges a call that was tried: what its failure means, and what to do then.
    fn tried(self, outcome: Result<(), Errno>, status: Verdict, remedy: &str) -> Self {
        match outcome {
            Ok(()) => self,
            Err(errno) => self.detail(text(errno)).short(status, remedy),
        }
    }
}

/// The capabilities that root may lack in a container, as bits of CapEff (`include/uapi/linux/capability.h`).
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// Who asks: some features matter to one of them only.
#[derive(Clone, Copy)]
struct Caller {
    root: bool,
    capabilities: u64,
}

impl Caller {
    fn has(self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }
}

/// Tries every feature.
pub(super) fn features(place: &Place) -> Vec<Feature> {
    let caller = Caller {
        root: rustix::process::geteuid().is_root(),
        capabilities: proc::status(own_pid()).map_or(0, |status| status.cap_effective),
    };
    let mut features = vec![
        kernel(),
        processor(),
        ptrace(),
        yama(caller),
        pidfd_getfd(),
        same_object(),
        foreign_memory(),
        pagemap(),
        children(),
        mm_map(),
        memfd(),
    ];
    if caller.root {
        features.push(chosen_pid(caller));
        features.push(privileges(caller));
    }
    features.extend([
        namespaces(caller),
        time_namespace(caller),
        huge_pages(),
        userfaultfd(),
        descriptors(),
        store(place),
    ]);
    features
}

fn own_pid() -> i32 {
    getpid().as_raw_nonzero().get()
}

fn text(errno: Errno) -> String {
    std::io::Error::from(errno).to_string().to_lowercase()
}

/// A file of `/proc/sys` or `/sys`, trimmed; `None` if it is not there, which most often means "no such restriction".
fn setting(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel() -> Feature {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let feature = Feature::ok("kernel", "Linux 6.1 or later").detail(release);
    if version >= (6, 1) { feature } else { feature.short(Verdict::Missing, "boot a newer kernel") }
}

fn processor() -> Feature {
    let feature = Feature::ok("processor", "x86-64 with XSAVE").detail(std::env::consts::ARCH);
    #[cfg(target_arch = "x86_64")]
    return match std::arch::is_x86_feature_detected!("xsave") {
        true => feature,
        // PTRACE_GETREGSET of NT_X86_XSTATE is ENODEV then (`xfpregs`, arch/x86/kernel/fpu/regset.c).
        false => feature.short(
            Verdict::Missing,
            "all registers are read by XSAVE: use a processor that has it; in a virtual machine a model of Sandy Bridge or later (`-cpu max`)",
        ),
    };
    #[cfg(not(target_arch = "x86_64"))]
    feature.short(Verdict::Missing, "use an x86-64 machine; no other is supported yet")
}

fn ptrace() -> Feature {
    let outcome = probe::trace_child();
    let remedy = match outcome {
        Err(Errno::NODEV) => "the processor lacks what it takes, see above",
        _ => {
            "something forbids ptrace(2) even for one's own child: in a container, allow it in its seccomp profile"
        }
    };
    Feature::ok("ptrace", "stops a program and reads its registers").tried(outcome, Verdict::Missing, remedy)
}

fn yama(caller: Caller) -> Feature {
    const PATH: &str = "/proc/sys/kernel/yama/ptrace_scope";
    let feature = Feature::ok("ptrace_scope", "freezing programs that frost did not start");
    let Some(scope) = setting(PATH) else { return feature.detail("not restricted: Yama is not there") };
    let feature = feature.detail(format!("kernel.yama.ptrace_scope = {scope}"));
    match scope.as_str() {
        "0" => feature,
        "1" | "2" if caller.has(CAP_SYS_PTRACE) => feature,
        "1" | "2" => feature.short(
            if scope == "1" { Verdict::Limited } else { Verdict::Missing },
            "freeze by sudo, or as root: sysctl kernel.yama.ptrace_scope=0",
        ),
        _ => feature.short(Verdict::Missing, "it can only be lowered by booting again without the setting"),
    }
}

fn pidfd_getfd() -> Feature {
    let outcome = pidfd_open(getpid(), PidfdFlags::empty()).and_then(|own| {
        let probe = std::io::stderr();
        let number = rustix::fd::AsRawFd::as_raw_fd(&probe.as_fd());
        match pidfd::pidfd_getfd(own.as_fd(), number) {
            // A closed standard error says nothing about the call.
            Ok(_) | Err(Errno::BADF) => Ok(()),
            Err(errno) => Err(errno),
        }
    });
    Feature::ok("pidfd_getfd", "looks at a program's descriptors").tried(
        outcome,
        Verdict::Missing,
        "in a container, allow pidfd_getfd(2) in its seccomp profile",
    )
}

fn same_object() -> Feature {
    Feature::ok("kcmp", "tells which descriptors share one open file").tried(
        kcmp::kcmp(own_pid(), own_pid(), kcmp::Resource::Vm).map(drop),
        Verdict::Missing,
        "use a kernel with CONFIG_KCMP; in a container, allow kcmp(2) in its seccomp profile",
    )
}

fn foreign_memory() -> Feature {
    // Address 0 is never mapped, so EFAULT is the answer of a kernel that lets us ask.
    let outcome = match memory::read(own_pid(), 0, &mut [0; 1]) {
        Ok(_) | Err(Errno::FAULT) => Ok(()),
        Err(errno) => Err(errno),
    };
    Feature::ok("process_vm_readv", "reads a program's memory").tried(
        outcome,
        Verdict::Missing,
        "in a container, allow process_vm_readv(2) in its seccomp profile",
    )
}

fn pagemap() -> Feature {
    Feature::ok("pagemap", "finds the pages that a program wrote").tried(
        Pagemap::open(own_pid()).map(drop),
        Verdict::Missing,
        "use a kernel with CONFIG_PROC_PAGE_MONITOR",
    )
}

fn children() -> Feature {
    let feature = Feature::ok("/proc children", "finds all processes of a tree");
    if Path::new("/proc/thread-self/children").exists() {
        feature
    } else {
        feature.short(Verdict::Missing, "mount /proc, and use a kernel with CONFIG_PROC_CHILDREN")
    }
}

fn mm_map() -> Feature {
    Feature::ok("PR_SET_MM_MAP", "sets where heap, stack and arguments lie").tried(
        probe::mm_map(),
        Verdict::Missing,
        "use a kernel with CONFIG_CHECKPOINT_RESTORE",
    )
}

fn memfd() -> Feature {
    // EINVAL: a kernel before 6.3, where each memfd may be executed.
    let outcome = match probe::executable_memfd() {
        Err(Errno::INVAL) => Ok(()),
        outcome => outcome,
    };
    Feature::ok("executable memfd", "starts a thawed program without a file").tried(
        outcome,
        Verdict::Missing,
        "as root: sysctl vm.memfd_noexec=0",
    )
}

fn chosen_pid(caller: Caller) -> Feature {
    let feature = Feature::ok("chosen pids", "thaws as root with the pids it had");
    match probe::chosen_pid() {
        // Another process took the number between two forks; the right was there, which is asked first.
        Ok(()) | Err(Errno::EXIST) => feature,
        Err(errno) if !caller.has(CAP_CHECKPOINT_RESTORE) && !caller.has(CAP_SYS_ADMIN) => feature
            .detail(text(errno))
            .short(Verdict::Limited, "give this root CAP_CHECKPOINT_RESTORE, or thaw with --clone"),
        Err(errno) => feature
            .detail(text(errno))
            .short(Verdict::Limited, "allow clone3(2) with set_tid, or thaw with --clone"),
    }
}

fn privileges(caller: Caller) -> Feature {
    let feature = Feature::ok("privileges", "sets limits, priorities and credentials as they were");
    let lacking: Vec<&str> = [
        (CAP_SYS_PTRACE, "CAP_SYS_PTRACE"),
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        (CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE"),
    ]
    .into_iter()
    .filter(|&(capability, _)| !caller.has(capability))
    .map(|(_, name)| name)
    .collect();
    if lacking.is_empty() {
        return feature;
    }
    feature.detail(format!("this root lacks {}", lacking.join(", "))).short(
        Verdict::Limited,
        "hard limits above ours cannot be raised again, nor other users' programs frozen, without them",
    )
}

fn namespaces(caller: Caller) -> Feature {
    let (name, purpose, flags) = if caller.root {
        ("namespaces", "thaws a copy beside the original (--clone)", probe::PID_AND_MOUNT)
    } else {
        ("user namespaces", "thaws as an ordinary user", probe::USER | probe::PID_AND_MOUNT)
    };
    let feature = Feature::ok(name, purpose);
    let Err((stage, errno)) = probe::namespaces(flags) else { return feature };
    let status = if caller.root { Verdict::Limited } else { Verdict::Missing };
    let feature = feature.detail(match stage {
        Stage::Create => format!("cannot make them: {}", text(errno)),
        Stage::ChoosePid => "no rights inside of them".to_owned(),
        Stage::MountProc => "cannot mount /proc inside of them".to_owned(),
    });
    feature.short(status, namespace_remedy(stage))
}

/// What gives namespaces to whoever was refused them.
pub(crate) fn refused_namespaces_remedy() -> String {
    namespace_remedy(Stage::Create)
}

/// The setting that allows none of one kind of namespaces, if there is one (namespaces(7)).
fn none_allowed() -> Option<String> {
    let kinds = ["user", "pid", "mnt", "ipc", "uts", "time", "net"];
    let limits = kinds.map(|kind| format!("max_{kind}_namespaces"));
    let zero = |limit: &&String| setting(&format!("/proc/sys/user/{limit}")).as_deref() == Some("0");
    limits.iter().find(zero).map(|limit| format!("as root: sysctl user.{limit}=10000"))
}

/// The setting that most likely forbids a user namespace, as distributions have them.
fn namespace_remedy(stage: Stage) -> String {
    let is = |path: &str, value: &str| setting(path).as_deref() == Some(value);
    let remedy = if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "as root: sysctl kernel.unprivileged_userns_clone=1"
    } else if let Some(remedy) = none_allowed() {
        return remedy;
    } else if matches!(
        probe::namespaces(probe::USER | probe::PID_AND_MOUNT),
        Err((_, Errno::NOSPC | Errno::USERS))
    ) {
        // Linux 4.9 and later say ENOSPC for both: `inc_ucount` along all ancestors, and 33 levels (create_user_ns).
        "there are as many as may be, or they are nested too deeply: as root: sysctl user.max_user_namespaces=10000, or run \
         it further outside"
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give frost an AppArmor profile with `userns,`"
    } else if stage == Stage::MountProc {
        "a container that masks parts of /proc forbids it: run it with an unmasked /proc"
    } else {
        "in a container, allow clone3(2) with namespaces in its seccomp profile"
    };
    remedy.to_owned()
}

fn time_namespace(caller: Caller) -> Feature {
    let feature = Feature::ok("time namespaces", "lets a program's clock go on from where it stood");
    let user = if caller.root { 0 } else { probe::USER };
    if user != 0 && probe::namespaces(user).is_err() {
        return feature.detail("not known").short(Verdict::Limited, "it takes user namespaces");
    }
    match probe::namespaces(user | probe::TIME) {
        Ok(()) => feature,
        Err((_, Errno::INVAL)) => {
            feature.short(Verdict::Missing, "use a kernel with time namespaces (CONFIG_TIME_NS)")
        }
        Err((_, errno)) => {
            let remedy = if caller.root {
                none_allowed().unwrap_or_else(|| "give this root CAP_SYS_ADMIN".to_owned())
            } else {
                refused_namespaces_remedy()
            };
            feature.detail(text(errno)).short(Verdict::Missing, remedy)
        }
    }
}

fn huge_pages() -> Feature {
    let feature = Feature::ok("huge pages", "fills memory quickly at thaw");
    match setting("/sys/kernel/mm/transparent_hugepage/enabled") {
        Some(modes) if !modes.contains("[never]") => feature,
        Some(_) => feature.detail("set to never").short(
            Verdict::Limited,
            "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled; else thaw is slower",
        ),
        None => feature.detail("not in this kernel").short(Verdict::Limited, "thaw is slower without"),
    }
}

fn userfaultfd() -> Feature {
    let feature =
        Feature::ok("userfaultfd", "copies memory while the program runs (--leave-running, --precopy)");
    // One that is only for faults of the program itself is enough.
    match (probe::userfaultfd(true), probe::userfaultfd(false)) {
        (Ok(()), _) | (_, Ok(())) => feature,
        (Err(Errno::INVAL), _) | (_, Err(Errno::INVAL)) => feature.short(
            Verdict::Limited,
            "use Linux 6.7 or later, which tells what was written; else a program stands still until all of it is copied",
        ),
        (Err(_), Err(errno)) => {
            feature.detail(text(errno)).short(Verdict::Limited, "use a kernel with CONFIG_USERFAULTFD")
        }
    }
}

fn descriptors() -> Feature {
    /// A freeze holds a descriptor for each of the program's, and a few of its own.
    const COMFORTABLE: u64 = 4096;
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let feature = Feature::ok("open files", "holds all descriptors of a program at once").detail(format!(
        "{} now, at most {}",
        limit.current.unwrap_or(u64::MAX),
        limit.maximum.map_or("unlimited".to_owned(), |hard| hard.to_string())
    ));
    if hard >= COMFORTABLE {
        feature
    } else {
        feature.short(Verdict::Limited, "raise it by `ulimit -Hn`, or `nofile` in /etc/security/limits.conf")
    }
}

fn store(place: &Place) -> Feature {
    let directory = &place.directory;
    // What does not exist yet is made by the first freeze, below the nearest directory that does.
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let feature = Feature::ok("store", "keeps the images");
    let stat = match rustix::fs::statvfs(existing) {
        Ok(stat) => stat,
        Err(errno) => {
            return feature
                .detail(format!("{}: {}", directory.display(), text(errno)))
                .short(Verdict::Missing, "name another directory by --store or FROST_HOME");
        }
    };
    let free = crate::output::bytes(stat.f_bavail.saturating_mul(stat.f_frsize));
    let feature = feature.detail(format!("{}, {free} free", directory.display()));
    if let Err(errno) = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        return feature
            .detail(format!("{}: {}", existing.display(), text(errno)))
            .short(Verdict::Missing, "name another directory by --store or FROST_HOME");
    }
    /// TMPFS_MAGIC, `include/uapi/linux/magic.h`.
    const TMPFS: u64 = 0x0102_1994;
    match rustix::fs::statfs(existing) {
        Ok(kind) if kind.f_type as u64 == TMPFS => feature.short(
            Verdict::Limited,
            "it lies in memory (tmpfs): images are lost when the machine is turned off",
        ),
        _ => feature,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ok_has_a_remedy() {
        let place = Place { directory: "/nonexistent/store".into(), remark: None };
        for feature in features(&place) {
            assert_eq!(feature.status == Verdict::Ok, feature.remedy.is_none(), "{}", feature.name);
        }
    }
}
