//! Control groups: where one may be made, its limits, what of them is used.
//!
//! Both versions are served, each controller wherever it is mounted: with version 1 each has a hierarchy of its own, with
//! version 2 all have one. A group is made below one that is called [`PARENT`]; whose processes have ended is
//! recognised by that it can be removed, so nobody needs to note what was made.
//!
//! Source: `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of the kernel, cgroups(7).

use crate::proc;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Access, AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::path::{Path, PathBuf};

/// What the group is called below which all of ours are made.
pub const PARENT: &str = "frost";
/// The group for those who were in one whose controllers are given to the groups below it, as version 2 wants it.
const OTHERS: &str = "frost-others";
/// The period by which the processors' time is divided, the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// What a group limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory in bytes, page cache included, swap not.
    Memory,
    /// Processor time in hundredths of one processor.
    Cpu,
}

impl Resource {
    /// Returns the controller's name, the same in both versions.
    pub fn controller(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// Why there can be no group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No hierarchy that is mounted here has the controller.
    Controller,
    /// There is one, but not for us: the group that we are in.
    Delegation(PathBuf),
}

impl Lack {
    /// Tells what lacks.
    pub fn told(&self, resource: Resource) -> String {
        let controller = resource.controller();
        match self {
            Self::Controller => {
                format!("no control group hierarchy with the controller {controller} is mounted here")
            }
            Self::Delegation(group) => {
                format!(
                    "no control group with the controller {controller} is delegated to you; yours is {}",
                    group.display()
                )
            }
        }
    }

    /// Tells what is to be done about it.
    pub fn remedy(&self, resource: Resource) -> &'static str {
        match (self, resource) {
            (Self::Controller, _) => {
                "mount it (`mount -t cgroup2 none /sys/fs/cgroup`, with a kernel that has it), or run it \
                 without that limit"
            }
            // The unit `user@.service` delegates the processors' controller since systemd 252, that of memory always.
            (Self::Delegation(_), Resource::Cpu) => {
                "let the service manager delegate a group: `systemd-run --user --scope -p Delegate=yes \
                 frost ...`, before systemd 252 with `Delegate=pids memory cpu` below `[Service]` in \
                 /etc/systemd/system/user@.service.d/delegate.conf and a new login; or as root: `mkdir GROUP; \
                 chown -R USER GROUP; echo PID > GROUP/cgroup.procs`"
            }
            (Self::Delegation(_), Resource::Memory) => {
                "let the service manager delegate a group: `systemd-run --user --scope -p Delegate=yes \
                 frost ...`; or as root: `mkdir GROUP; chown -R USER GROUP; echo PID > GROUP/cgroup.procs`"
            }
        }
    }
}

/// A mounted hierarchy, as we stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    unified: bool,
    /// Where its root is mounted, and what of it.
    mount: PathBuf,
    root: PathBuf,
}

impl Hierarchy {
    /// Finds the hierarchy of a controller among what is mounted.
    fn of(resource: Resource, mounts: &str) -> Option<Self> {
        let found = mounts.lines().filter_map(|line| Self::read(line, resource));
        // On a machine with both, the one of version 1 has it, or it would not be there.
        let mut found: Vec<Self> = found.collect();
        found.sort_by_key(|hierarchy| hierarchy.unified);
        found.into_iter().find(|hierarchy| {
            let controllers = || std::fs::read_to_string(hierarchy.mount.join("cgroup.controllers"));
            !hierarchy.unified || controllers().is_ok_and(|list| has(&list, resource.controller()))
        })
    }

    /// Reads a line of mountinfo, proc_pid_mountinfo(5).
    fn read(line: &str, resource: Resource) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mount) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let unified = match name {
            "cgroup2" => true,
            "cgroup" if options.split(',').any(|option| option == resource.controller()) => false,
            _ => return None,
        };
        Some(Self { unified, mount: unescaped(mount), root: unescaped(root) })
    }

    /// Returns the directory of the group of a process, by its `/proc/PID/cgroup`.
    fn group(&self, resource: Resource, groups: &str) -> Option<PathBuf> {
        let path = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let ours = match self.unified {
                true => controllers.is_empty(),
                false => controllers.split(',').any(|name| name == resource.controller()),
            };
            ours.then_some(path)
        })?;
        // A group outside of what is mounted here, or of our cgroup namespace, is none that we could name.
        let rest = Path::new(path).strip_prefix(&self.root).ok()?;
        let inside = rest.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        // Joined with nothing, a path gets a slash behind it.
        let is_root = rest.as_os_str().is_empty();
        inside.then(|| if is_root { self.mount.clone() } else { self.mount.join(rest) })
    }
}

/// Undoes what the kernel does to spaces, tabs, newlines and backslashes in paths.
pub fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = &behind[if octal.is_some() { 3 } else { 0 }..];
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

fn has(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace().any(|word| word == name)
}

fn io(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// A group below which ours are made.
#[derive(Debug)]
pub struct Parent {
    resource: Resource,
    unified: bool,
    path: PathBuf,
    /// Locked while a group of ours is empty on purpose, so that nobody takes it for one that is left.
    lock: OwnedFd,
}

impl Parent {
    /// Finds or makes the group below which those of a resource are made.
    ///
    /// Root's is at the root of the hierarchy, so that a program outlives the session or the service that it was started
    /// from. For others it is below the nearest group that was delegated to them.
    ///
    /// # Errors
    /// What lacks.
    pub fn find(resource: Resource) -> std::result::Result<Self, Lack> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let hierarchy = Hierarchy::of(resource, &mounts).ok_or(Lack::Controller)?;
        let own = hierarchy.group(resource, &groups);
        let mut candidates = candidates(own.as_deref(), &hierarchy.mount);
        if rustix::process::geteuid().is_root() {
            candidates.insert(0, &hierarchy.mount);
        }
        let made = candidates.into_iter().find_map(|above| Self::below(resource, &hierarchy, above).ok());
        made.ok_or_else(|| Lack::Delegation(own.unwrap_or_else(|| hierarchy.mount.clone())))
    }

    /// Makes the group of another resource, of the same program. In one hierarchy, as that of version 2, it is the same
    /// group, since a process is in one only.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn make_beside(self, name: &str, others: &[Group]) -> Result<Group> {
        let same = |other: &&Group| other.path.parent() == Some(&*self.path);
        match others.iter().find(same) {
            Some(other) => Ok(Group {
                resource: self.resource,
                unified: self.unified,
                path: other.path.clone(),
                directory: open(&other.path)?,
                lock: Some(self.lock),
            }),
            None => self.make(name),
        }
    }

    fn below(resource: Resource, hierarchy: &Hierarchy, above: &Path) -> Result<Self> {
        // Who may not move processes there has no use for a group.
        rustix::fs::access(above, Access::WRITE_OK)?;
        rustix::fs::access(above.join("cgroup.procs"), Access::WRITE_OK)?;
        let path = above.join(PARENT);
        if hierarchy.unified {
            enable(above, resource)?;
        }
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        rustix::fs::access(&path, Access::WRITE_OK)?;
        if hierarchy.unified {
            enable(&path, resource)?;
        }
        let lock = open(&path)?;
        rustix::fs::flock(&lock, FlockOperation::LockShared)?;
        Ok(Self { resource, unified: hierarchy.unified, path, lock })
    }

    /// Makes a group; `name` is made unique.
    ///
    /// It is not taken for one that was left as long as it, or a clone of its lock, is held.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn make(self, name: &str) -> Result<Group> {
        for number in 0.. {
            let path = match number {
                0 => self.path.join(name),
                number => self.path.join(format!("{name}.{number}")),
            };
            match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let directory = open(&path)?;
                    let (resource, unified) = (self.resource, self.unified);
                    return Ok(Group { resource, unified, path, directory, lock: Some(self.lock) });
                }
                Err(Errno::EXIST) if number < 10_000 => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }
}

/// The groups below which ours may be made, the nearest first: that of `own` and those above it.
///
/// None that only has whoever made room for ours, and now us: its own processes would have to make room again.
fn candidates<'a>(own: Option<&'a Path>, mount: &Path) -> Vec<&'a Path> {
    let mut all: Vec<&Path> = own.iter().flat_map(|own| own.ancestors()).collect();
    all.retain(|path| path.starts_with(mount) && path.file_name().is_none_or(|name| name != OTHERS));
    all
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Gives a controller to the groups below one of version 2.
fn enable(above: &Path, resource: Resource) -> Result<()> {
    let control = above.join("cgroup.subtree_control");
    let list = std::fs::read_to_string(&control).map_err(|error| io(&error))?;
    if has(&list, resource.controller()) {
        return Ok(());
    }
    let give = || std::fs::write(&control, format!("+{}", resource.controller())).map_err(|error| io(&error));
    match give() {
        // A group that is not the hierarchy's root has either processes or groups with controllers.
        Err(Errno::BUSY) => {}
        other => return other,
    }
    let others = above.join(OTHERS);
    match rustix::fs::mkdir(&others, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    // Some may be born meanwhile.
    for _ in 0..100 {
        let list = std::fs::read_to_string(above.join("cgroup.procs")).map_err(|error| io(&error))?;
        for pid in list.lines() {
            match std::fs::write(others.join("cgroup.procs"), pid).map_err(|error| io(&error)) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        match give() {
            Err(Errno::BUSY) => {}
            other => return other,
        }
    }
    Err(Errno::BUSY)
}

/// A group of ours.
#[derive(Debug)]
pub struct Group {
    resource: Resource,
    unified: bool,
    path: PathBuf,
    directory: OwnedFd,
    lock: Option<OwnedFd>,
}

impl Group {
    /// Finds the group of a process, if it is one of ours.
    pub fn of(pid: i32, resource: Resource) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = String::from_utf8(proc::read(pid, "cgroup").ok()?).ok()?;
        let hierarchy = Hierarchy::of(resource, &mounts)?;
        let path = hierarchy.group(resource, &groups)?;
        // The program may have made some of its own below it.
        let ours = |path: &&Path| path.parent().and_then(Path::file_name).is_some_and(|name| name == PARENT);
        let path = path.ancestors().find(ours)?.to_owned();
        let directory = open(&path).ok()?;
        Some(Self { resource, unified: hierarchy.unified, path, directory, lock: None })
    }

    /// Says that there are processes in it by now, or never will be, so that it needs no protection.
    pub fn settled(&mut self) {
        drop(self.lock.take());
    }

    /// Returns what it limits.
    pub fn resource(&self) -> Resource {
        self.resource
    }

    /// Returns its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its name.
    pub fn name(&self) -> &std::ffi::OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Returns its directory, opened.
    pub fn directory(&self) -> rustix::fd::BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path.join(name)).ok()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.path.join(name), text).map_err(|error| io(&error))
    }

    /// Sets its limit; `None` takes it away. Memory is in bytes, processors in hundredths of one.
    ///
    /// # Errors
    /// EBUSY if more memory is in use than it shall have and cannot be given back. EINVAL for less processor time than the kernel divides it by.
    pub fn limit(&self, limit: Option<u64>) -> Result<()> {
        if self.unified {
            self.prepare(limit)?;
        }
        let number = |none: &str| limit.map_or_else(|| none.to_owned(), |limit| limit.to_string());
        let quota = limit.map(|percent| percent.saturating_mul(PERIOD_US) / 100);
        match (self.resource, self.unified) {
            // Without the controller there is no limit to take away.
            (_, true) if limit.is_none() && self.limited_to().is_none() => Ok(()),
            (Resource::Memory, true) => {
                // All of the program is ended, and not that one of it that needs most. Linux 4.19.
                let _ = self.write("memory.oom.group", "1");
                self.make_room(limit)?;
                self.write("memory.max", &number("max"))
            }
            (Resource::Memory, false) => self.write("memory.limit_in_bytes", &number("-1")),
            (Resource::Cpu, true) => {
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                self.write("cpu.max", &format!("{quota} {PERIOD_US}"))
            }
            (Resource::Cpu, false) => {
                let quota = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
                self.write("cpu.cfs_quota_us", &quota)
            }
        }
    }

    /// Has version 2 limit this resource here: it may be a group that was made for the other one.
    fn prepare(&self, limit: Option<u64>) -> Result<()> {
        let above: Vec<&Path> = self.path.ancestors().skip(1).take(2).collect();
        match limit {
            Some(_) => above.iter().rev().try_for_each(|above| enable(above, self.resource)),
            None => Ok(()),
        }
    }

    /// Has version 2 give back what it can before it limits memory: it would end processes for the rest.
    fn make_room(&self, limit: Option<u64>) -> Result<()> {
        let over =
            || limit.and_then(|limit| self.memory_bytes()?.checked_sub(limit)).filter(|over| *over > 0);
        for _ in 0..4 {
            let Some(bytes) = over() else { return Ok(()) };
            // Linux 5.19. It fails with EAGAIN when less was given back than that.
            let _ = self.write("memory.reclaim", &bytes.to_string());
        }
        if over().is_some() { Err(Errno::BUSY) } else { Ok(()) }
    }

    /// Returns its limit, in the units of [`limit`](Self::limit).
    pub fn limited_to(&self) -> Option<u64> {
        let first = |text: String| text.split_ascii_whitespace().next()?.parse::<u64>().ok();
        match (self.resource, self.unified) {
            (Resource::Memory, true) => first(self.read("memory.max")?),
            // What is not limited has the greatest number of pages there is.
            (Resource::Memory, false) => {
                first(self.read("memory.limit_in_bytes")?).filter(|bytes| *bytes < 1 << 62)
            }
            (Resource::Cpu, true) => {
                let text = self.read("cpu.max")?;
                let mut words = text.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
                Some(words.next()?? * 100 / words.next()??.max(1))
            }
            (Resource::Cpu, false) => {
                let (quota, period) = (self.read("cpu.cfs_quota_us")?, self.read("cpu.cfs_period_us")?);
                Some(first(quota)? * 100 / first(period)?.max(1))
            }
        }
    }

    /// Returns how many bytes of memory are in use.
    pub fn memory_bytes(&self) -> Option<u64> {
        let name = if self.unified { "memory.current" } else { "memory.usage_in_bytes" };
        self.read(name)?.trim().parse().ok()
    }

    /// Returns whether something in it was ended because it needed more memory than the limit allows.
    ///
    /// Both versions count that as `oom_kill`, version 1 since Linux 4.13.
    pub fn has_starved(&self) -> bool {
        let name = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = self.read(name).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Asks version 1 to tell when memory lacks, by a counter that can be waited for: it ends what needs most and not the
    /// whole group. `None` where the kernel ends all of it ([`limit`](Self::limit)), or cannot tell.
    ///
    /// It tells before anything has ended: [`has_starved`](Self::has_starved) may say so some milliseconds later only.
    ///
    /// Source: `Documentation/admin-guide/cgroup-v1/memory.rst`, "OOM Control".
    pub fn want(&self) -> Option<OwnedFd> {
        use rustix::fd::AsRawFd;
        if self.unified || self.resource != Resource::Memory {
            return None;
        }
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let counter = rustix::event::eventfd(0, flags).ok()?;
        let events = rustix::fs::openat(
            &self.directory,
            "memory.oom_control",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        let text = format!("{} {}", counter.as_raw_fd(), events.as_raw_fd());
        self.write("cgroup.event_control", &text).ok()?;
        Some(counter)
    }

    /// Returns whether there are processes in it.
    pub fn has_processes(&self) -> bool {
        self.read("cgroup.procs").is_some_and(|list| !list.is_empty())
    }

    /// Opens the file by which a process moves itself here: it writes `0`.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn entrance(&self) -> Result<OwnedFd> {
        rustix::fs::openat(&self.directory, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Moves a process here, with all of its threads.
    ///
    /// # Errors
    /// ESRCH if it has ended; EACCES if it is in a group that is not ours to take it from.
    pub fn take(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Removes it, unless there are processes in it.
    ///
    /// # Errors
    /// EBUSY then.
    pub fn remove(&self) -> Result<()> {
        rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR)
    }
}

/// Removes groups that were left by programs that have ended; returns how many.
///
/// One that another command is making at this moment is left alone, and so are all beside it.
pub fn sweep() -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents: Vec<PathBuf> = Vec::new();
    for resource in [Resource::Memory, Resource::Cpu] {
        let Some(hierarchy) = Hierarchy::of(resource, &mounts) else { continue };
        let own = hierarchy.group(resource, &groups).unwrap_or_else(|| hierarchy.mount.clone());
        let above = own.ancestors().filter(|path| path.starts_with(&hierarchy.mount));
        for path in above.map(|above| above.join(PARENT)) {
            if !parents.contains(&path) {
                parents.push(path);
            }
        }
    }
    let mut removed = 0;
    for parent in parents {
        let Ok(lock) = open(&parent) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let entries =
            std::fs::read_dir(&parent).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        removed += entries.filter(|path| remove_below(path)).count();
    }
    removed
}

/// Removes a group and those below it that are empty; returns whether it is gone.
fn remove_below(path: &Path) -> bool {
    let Ok(kind) = std::fs::symlink_metadata(path) else { return false };
    if !kind.is_dir() {
        return false;
    }
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        remove_below(&entry.path());
    }
    rustix::fs::rmdir(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /box /sys/fs/cgroup/me\\040mory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn each_controller_is_found_where_it_is_mounted() {
        let memory = Hierarchy::of(Resource::Memory, MOUNTS).unwrap();
        assert_eq!((memory.unified, memory.mount.to_str()), (false, Some("/sys/fs/cgroup/me mory")));
        let groups = "4:memory:/box/job/one\n1:cpu,cpuacct:/\n0::/elsewhere\n";
        let group = memory.group(Resource::Memory, groups).unwrap();
        assert_eq!(group, Path::new("/sys/fs/cgroup/me mory/job/one"));
        // A group that lies outside of what is mounted cannot be named.
        assert_eq!(memory.group(Resource::Memory, "4:memory:/other\n"), None);
        assert_eq!(memory.group(Resource::Memory, "4:memory:/box/../other\n"), None);
        let cpu = Hierarchy::of(Resource::Cpu, MOUNTS).unwrap();
        let group = cpu.group(Resource::Cpu, groups).unwrap();
        assert_eq!(group.to_str(), Some("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(Hierarchy::of(Resource::Memory, &MOUNTS.replace("memory", "pids")), None);
    }

    #[test]
    fn nobody_makes_room_who_has_made_room() {
        let own = Path::new("/sys/fs/cgroup/user/scope/frost-others");
        let above = ["/sys/fs/cgroup/user/scope", "/sys/fs/cgroup/user", "/sys/fs/cgroup"].map(Path::new);
        assert_eq!(candidates(Some(own), Path::new("/sys/fs/cgroup")), above);
        assert_eq!(candidates(None, Path::new("/sys/fs/cgroup")), [] as [&Path; 0]);
    }

    #[test]
    fn both_limits_of_one_hierarchy_are_of_one_group() {
        let directory = tempfile::tempdir().unwrap();
        let parent = |resource, below: &str| {
            let path = directory.path().join(below);
            std::fs::create_dir_all(&path).unwrap();
            let lock = open(&path).unwrap();
            Parent { resource, unified: true, path, lock }
        };
        let memory = parent(Resource::Memory, "both").make_beside("one", &[]).unwrap();
        let others = std::slice::from_ref(&memory);
        let cpu = parent(Resource::Cpu, "both").make_beside("one", others).unwrap();
        assert_eq!((memory.path(), memory.resource()), (cpu.path(), Resource::Memory));
        assert_eq!(cpu.resource(), Resource::Cpu);
        let elsewhere = parent(Resource::Cpu, "cpu").make_beside("one", others).unwrap();
        assert_ne!(memory.path(), elsewhere.path());
    }

    #[test]
    fn version_2_counts_only_where_it_has_the_controller() {
        let directory = tempfile::tempdir().unwrap();
        let mounts = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", directory.path().display());
        let list = directory.path().join("cgroup.controllers");
        std::fs::write(&list, "hugetlb\n").unwrap();
        assert_eq!(Hierarchy::of(Resource::Memory, &mounts), None);
        std::fs::write(&list, "cpu memory\n").unwrap();
        let found = Hierarchy::of(Resource::Memory, &mounts).unwrap();
        assert!(found.unified);
        assert_eq!(found.group(Resource::Memory, "0::/a/b\n").unwrap(), directory.path().join("a/b"));
    }
}
