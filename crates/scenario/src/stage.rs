//! Starts a component: the one place that knows what a component's surroundings are.
//!
//! A component is started by a stage, this same binary once more, since what has to happen between fork and exec is more
//! than may be done in a process with threads. The stage makes the surroundings and becomes the component. If the
//! component is isolated the stage stays as its reaper outside, and another process is pid 1 of its namespaces.

use frost_sys::clone::{self, Clone};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where a component that is isolated finds its sessions.
const INSIDE: &str = "/run/frost";

/// What every program needs that is linked to libraries, as far as a machine has it.
const SYSTEM: [&str; 8] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"];

/// The surroundings of a component.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    /// The supervisor, with which the component ends.
    pub(crate) parent: i32,
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// The directory of its sessions.
    pub(crate) sessions: PathBuf,
    /// An empty directory, on which the root of an isolated component is mounted.
    pub(crate) root: PathBuf,
    pub(crate) isolated: bool,
    pub(crate) network: bool,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) memory_bytes: Option<u64>,
    /// The files by which it enters its control groups.
    pub(crate) groups: Vec<PathBuf>,
    /// How many processes it may have.
    pub(crate) processes: Option<u64>,
    /// How many files it may open, as far as nobody raises it: as many as the supervisor itself was allowed.
    pub(crate) open_files: Option<u64>,
    /// Its sessions are files.
    pub(crate) files: bool,
    /// How long a report of it may be.
    pub(crate) limit_bytes: u64,
}

/// Starts a component; what it prints goes to `log`, a pipe: a file would be there for its next life to read. Over
/// `reports` the stage tells where its reports are, if they are files and it is isolated.
///
/// To be called by the main thread: the kernel ends the component with the thread that started it.
pub(crate) fn spawn(
    surroundings: &Surroundings,
    log: std::io::PipeWriter,
    reports: Option<OwnedFd>,
) -> io::Result<Child> {
    let text = serde_json::to_string(surroundings).map_err(io::Error::other)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("stage").arg(text).env_clear();
    // The component gets another one.
    command.stdin(reports.map_or_else(Stdio::null, Stdio::from)).stdout(log.try_clone()?).stderr(log);
    command.spawn()
}

/// Looks a binary up, as a shell does, but beside this program first.
pub(crate) fn find(binary: &Path) -> io::Result<PathBuf> {
    let candidates: Vec<PathBuf> = if binary.components().count() > 1 {
        vec![binary.to_owned()]
    } else {
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
        let path = std::env::var_os("PATH").unwrap_or_default();
        beside
            .into_iter()
            .chain(std::env::split_paths(&path))
            .map(|directory| directory.join(binary))
            .collect()
    };
    let executable =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    match candidates.into_iter().find(executable) {
        Some(path) => path.canonicalize(),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "no such executable file")),
    }
}

/// The life of a stage.
pub(crate) fn run(text: &str) -> u8 {
    let failed = |what: String| {
        crate::voice::tell(format_args!("frost-scenario: {what}"));
        126
    };
    let Ok(surroundings) = serde_json::from_str::<Surroundings>(text) else {
        return failed("a stage is started by `frost up` only".to_owned());
    };
    match surroundings.enter() {
        Ok(status) => status,
        Err((what, errno)) => failed(format!("{what}: {errno}")),
    }
}

type Failed = (String, Errno);

fn about(what: impl Into<String>) -> impl FnOnce(Errno) -> Failed {
    let what = what.into();
    move |errno| (what, errno)
}

impl Surroundings {
    fn enter(self) -> Result<u8, Failed> {
        die_with_parent();
        if rustix::process::getppid().map(|pid| pid.as_raw_pid()) != Some(self.parent) {
            return Ok(1);
        }
        // Before anything is started or taken that would count elsewhere.
        for entrance in &self.groups {
            std::fs::write(entrance, "0").map_err(|error| {
                (
                    format!("cannot enter {}", entrance.display()),
                    Errno::from_io_error(&error).unwrap_or(Errno::IO),
                )
            })?;
        }
        // The supervisor takes its signals from a descriptor; a component shall find none blocked.
        frost_sys::signals::set_mask(0).map_err(about("cannot unblock signals"))?;
        if let Some(bytes) = self.memory_bytes {
            limit(Resource::Data, bytes)?;
        }
        // What it leaves behind when it dies is nobody's to read.
        limit(Resource::Core, 0)?;
        if let Some(files) = self.open_files {
            let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
            let limits = Rlimit { current: Some(files), maximum: hard };
            rustix::process::setrlimit(Resource::Nofile, limits)
                .map_err(about("cannot set how many files it may open"))?;
        }
        if !self.isolated {
            if let Some(processes) = self.processes {
                limit(Resource::Nproc, processes)?;
            }
            return self.execute(&self.sessions, &self.binary);
        }
        let remedy = "cannot make namespaces for it (`isolated = false` does without)";
        let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        match frost_sys::enclose::fork(!self.network).map_err(about(remedy))? {
            Clone::Parent { pid, .. } => Ok(wait_for(pid)),
            Clone::Child => {
                die_with_parent();
                map_ids(ids)?;
                self.build_root()?;
                if let Some(processes) = self.processes {
                    // Counted in the new user namespace, in which there is this process, and soon another one.
                    limit(Resource::Nproc, processes.saturating_add(1))?;
                }
                match clone::fork_single_threaded(Signal::CHILD.as_raw()).map_err(about("cannot fork"))? {
                    // Pid 1 has no default actions for signals; so it is another process, which only reaps.
                    Clone::Parent { pid, .. } => Ok(wait_for(pid)),
                    Clone::Child => self.execute(Path::new(INSIDE), &self.binary),
                }
            }
        }
    }

    fn execute(&self, sessions: &Path, binary: &Path) -> Result<u8, Failed> {
        if self.isolated {
            // The one that it was started with is the host's, whose times root could set.
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())
                .map_err(about("cannot open /dev/null"))?;
            rustix::stdio::dup2_stdin(&null).map_err(about("cannot set its input"))?;
            drop(null);
            renounce()?;
            crate::confine::filter(self.network)
                .install()
                .map_err(about("cannot filter its system calls"))?;
        }
        frost_sys::enclose::keep_descriptors().map_err(about("cannot keep what is open to itself"))?;
        let mut command = Command::new(binary);
        command.args(&self.arguments).env_clear().current_dir(if self.isolated {
            Path::new("/")
        } else {
            sessions
        });
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/tmp").env("LANG", "C.UTF-8");
        command.env("FROST_SESSION", sessions.join("session"));
        if self.files {
            command.env("FROST_ROM", sessions.join("rom")).env("FROST_REPORT", sessions.join("report"));
            command.env("FROST_CHANGED", sessions.join("changed"));
        }
        command.envs(&self.environment);
        let error = command.exec();
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Err((format!("cannot execute {}", binary.display()), errno))
    }

    /// Makes a root of what the component is given, all of it read-only, and goes there.
    fn build_root(&self) -> Result<(), Failed> {
        let root = &self.root;
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(about("cannot keep its mounts to itself"))?;
        tmpfs(root, "mode=755")?;
        // Before anything is given to it that lies in there.
        let temporary = inside(root, Path::new("/tmp"))?;
        make_dir(&temporary)?;
        tmpfs(&temporary, "mode=1777,size=64m,nr_inodes=16384")?;
        for path in SYSTEM.iter().map(Path::new) {
            match std::fs::symlink_metadata(path) {
                Ok(meta) if meta.is_symlink() => {
                    let target = std::fs::read_link(path).unwrap_or_default();
                    let place = inside(root, path)?;
                    rustix::fs::symlink(target, &place)
                        .map_err(about(format!("cannot link {}", place.display())))?;
                }
                Ok(_) => give(root, path, path, true)?,
                Err(_) => {}
            }
        }
        for path in &self.paths {
            give(root, path, path, true)?;
        }
        if !SYSTEM.iter().any(|system| self.binary.starts_with(system)) {
            give(root, &self.binary, &self.binary, true)?;
        }
        give(root, &self.sessions, Path::new(INSIDE), true)?;
        if self.files {
            self.make_place_for_reports(&inside(root, &Path::new(INSIDE).join("report"))?)?;
        }
        for device in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"] {
            // Read-only does not keep anybody from writing to a device, but from changing its mode and times, which are
            // the host's.
            give(root, Path::new(device), Path::new(device), true)?;
        }
        let proc = inside(root, Path::new("/proc"))?;
        make_dir(&proc)?;
        // Where the host's own /proc is covered in part, the kernel refuses a new one; there is none then.
        // Read-only, since for root's processes the kernel asks for no right but the owner's to write what is below /proc/sys,
        // and much of that is the host's.
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        let _ = rustix::mount::mount("proc", &proc, "proc", flags, None);
        rustix::process::chdir(root).map_err(about("cannot enter its root"))?;
        rustix::process::pivot_root(".", ".").map_err(about("cannot change to its root"))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(about("cannot leave the host's root"))?;
        rustix::process::chdir("/").map_err(about("cannot enter its root"))?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount_remount("/", flags, "").map_err(about("cannot make its root read-only"))
    }
}

impl Surroundings {
    /// Makes the place of its reports, and tells the supervisor.
    ///
    /// It is a file system of its own: whatever a component writes there is memory that counts as its own, and has an end,
    /// and is gone with it. The component sees a directory of it only; what the supervisor has renamed out of that is out of
    /// the component's reach.
    fn make_place_for_reports(&self, place: &Path) -> Result<(), Failed> {
        // Drafts, the one that waits and the one that is read; and something for small ones of other names.
        let bytes = self.limit_bytes.saturating_mul(4).saturating_add(16 << 20);
        tmpfs(place, &format!("mode=700,size={bytes},nr_inodes=4096"))?;
        make_dir(&place.join("report"))?;
        make_dir(&place.join("taken"))?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let reports = rustix::fs::open(place, flags, Mode::empty())
            .map_err(about("cannot open the place of its reports"))?;
        rustix::mount::mount_bind(place.join("report"), place)
            .map_err(about("cannot give it a place for its reports"))?;
        frost_component::wire::send(std::io::stdin(), "reports", &[], Some(reports.as_fd()))
            .map_err(about("cannot tell where its reports are"))
    }
}

fn limit(resource: Resource, value: u64) -> Result<(), Failed> {
    // A lower one of the host stands.
    let hard = rustix::process::getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
    rustix::process::setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })
        .map_err(about(format!("cannot set its budget ({resource:?})")))
}

fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

/// Gives up every right over the new namespaces, for good: whoever had them could make its root writable again.
fn renounce() -> Result<(), Failed> {
    rustix::thread::set_no_new_privs(true).map_err(about("cannot renounce new rights"))?;
    for capability in CapabilitySet::all().iter() {
        // What the kernel does not know it does not have either.
        if rustix::thread::capability_is_in_bounding_set(capability) == Ok(true) {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .map_err(about("cannot renounce its rights"))?;
        }
    }
    // For root, exec(2) makes them anew, out of the bounding set, which is empty now.
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(about("cannot renounce its rights"))
}

/// Reaps until `pid` has ended, and returns its status as a shell does.
fn wait_for(pid: i32) -> u8 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended.as_raw_pid() == pid => {
                let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
                return u8::try_from(code.unwrap_or(1)).unwrap_or(1);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
}

/// Keeps its identity in the new user namespace: it has no rights there but over what it was given.
fn map_ids((uid, gid): (u32, u32)) -> Result<(), Failed> {
    let write = |path: &str, text: String| {
        std::fs::write(path, text).map_err(|error| {
            (format!("cannot write {path}"), Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// The place of a path below the new root, with all directories above it made.
fn inside(root: &Path, path: &Path) -> Result<PathBuf, Failed> {
    let place = root.join(path.strip_prefix("/").unwrap_or(path));
    if let Some(parent) = place.parent() {
        make_dir(parent)?;
    }
    Ok(place)
}

fn make_dir(path: &Path) -> Result<(), Failed> {
    std::fs::create_dir_all(path).map_err(|error| {
        (format!("cannot make {}", path.display()), Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })
}

fn tmpfs(path: &Path, options: &str) -> Result<(), Failed> {
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(options.as_c_str()),
    )
    .map_err(about(format!("cannot mount a tmpfs on {}", path.display())))
}

/// Makes a path of the host appear below the new root.
fn give(root: &Path, path: &Path, at: &Path, read_only: bool) -> Result<(), Failed> {
    let place = inside(root, at)?;
    if path.is_dir() {
        make_dir(&place)?;
    } else if !place.exists() {
        rustix::fs::open(&place, rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC, Mode::RUSR)
            .map_err(about(format!("cannot make {}", place.display())))?;
    }
    // Recursive, since in a user namespace the kernel does not let one see what a mount covers.
    rustix::mount::mount_bind_recursive(path, &place)
        .map_err(about(format!("cannot give it {}", path.display())))?;
    if !read_only {
        return Ok(());
    }
    frost_sys::enclose::make_read_only(&place)
        .map_err(about(format!("cannot make {} read-only", path.display())))
}
