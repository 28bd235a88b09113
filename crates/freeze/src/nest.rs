//! What was run by `frost run` within the tree: its keeper, and all that lives in namespaces below that.

use crate::Keeper;
use crate::survey::{Seen, is_keeper};
use frost_model::id::ObjectId;
use frost_model::nest::{Nest, NestNumber};
use frost_model::{BytePath, Obstacle, Pid};
use frost_sys::{ipc, proc};
use frost_tracee::seize::{StoppedProcess, StoppedTree};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};

/// Which keeper each process lives below, by its number in our namespace; a keeper lives below itself.
#[derive(Debug, Default)]
pub(crate) struct Nests(HashMap<i32, i32>);

impl Nests {
    /// Finds all keepers among these processes, and what lives below them.
    pub(crate) fn among(pids: impl Iterator<Item = i32>) -> Self {
        let mut found = HashMap::new();
        // Whoever is not pid 1 only looks like one.
        let is_first =
            |pid: &i32| proc::status(*pid).is_ok_and(|status| status.inner_pids.last() == Some(&1));
        for keeper in pids.filter(|pid| is_keeper(*pid) && is_first(pid)) {
            let mut below = vec![keeper];
            let mut index = 0;
            while index < below.len() {
                below.extend(proc::children(below[index]).unwrap_or_default());
                index += 1;
            }
            for pid in below {
                // One in another comes to stand below both, and is refused.
                found.entry(pid).or_insert(keeper);
            }
        }
        Self(found)
    }

    /// Returns the keeper below which a process lives.
    pub(crate) fn keeper_of(&self, pid: i32) -> Option<i32> {
        self.0.get(&pid).copied()
    }
}

fn namespace(pid: i32, kind: &str) -> Option<std::ffi::CString> {
    rustix::fs::readlink(proc::path(pid, &format!("ns/{kind}")), Vec::new()).ok()
}

fn read(pid: i32, name: &str) -> Option<Vec<u8>> {
    proc::read(pid, name).ok()
}

/// Lists what is in the way of carrying those keepers and what lives below them.
pub(crate) fn survey(seen: &[Seen<'_>], nests: &Nests, keeper: Option<&dyn Keeper>) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    let Some(root) = seen.first() else { return obstacles };
    for process in seen.iter().filter(|process| nests.keeper_of(process.pid).is_some()) {
        let below = nests.keeper_of(process.pid).unwrap_or(process.pid);
        let mut refuse = |object: &str, reason: &str, remedy: &str| {
            obstacles.push(Obstacle {
                pid: process.inner,
                command: process.command.clone(),
                object: object.to_owned(),
                reason: reason.to_owned(),
                remedy: remedy.to_owned(),
                passes: false,
            });
        };
        let is_keeper = process.pid == below;
        if keeper.is_none() {
            if is_keeper {
                refuse(
                    "`frost run` in it",
                    "what runs below a keeper is carried with a program of `frost run` only",
                    "freeze that program by its own name, from in there, or start the outer one by `frost run`",
                );
            }
            continue;
        }
        if process.status.depth() > 1 {
            if process.status.inner_pids.last() == Some(&1) && self::is_keeper(process.pid) {
                refuse(
                    "`frost run` in a `frost run` in it",
                    "only one `frost run` within another is carried",
                    "freeze that program by its own name, from in there, or run it beside this one",
                );
            }
            continue;
        }
        if namespace(process.through, "net") != namespace(root.through, "net") {
            refuse(
                "network of a `frost run` in it",
                "a network of its own is not carried there",
                "start the inner program with the host's network, or freeze it by its own name, from in there",
            );
        }
        if read(process.through, "cgroup") != read(root.through, "cgroup") {
            refuse(
                "budget of a `frost run` in it",
                "its control groups are not carried",
                "start the inner program without a budget, or freeze it by its own name, from in there",
            );
        }
        if is_keeper {
            if mounts_of_its_own(process.through, root.through) {
                refuse(
                    "layer of a `frost run` in it",
                    "what is mounted there beside /proc and /dev is not carried",
                    "start the inner program without layers, or freeze it by its own name, from in there",
                );
            }
            let [objects, queues] = ipc_of(process.through);
            if objects {
                refuse(
                    "System V objects of a `frost run` in it",
                    "what lies in an IPC namespace of its own is not carried there",
                    "let the program remove them first, or freeze it by its own name, from in there",
                );
            }
            // One may have a name without being open.
            if queues {
                refuse(
                    "POSIX message queue of a `frost run` in it",
                    "what lies in an IPC namespace of its own is not carried there",
                    "let the program close it first, or freeze it by its own name, from in there",
                );
            }
            continue;
        }
        // The keeper stands where the root stands; it is its children that have another one.
        if read(process.through, "timens_offsets") != read(root.through, "timens_offsets") {
            refuse(
                "time of a `frost run` in it",
                "it was frozen by itself before, and its clocks stand otherwise than those of the outer program",
                "freeze it by its own name, from in there",
            );
        }
        for kind in ["pid", "user", "mnt", "ipc", "uts"] {
            if namespace(process.through, kind) != namespace(below, kind) {
                refuse(
                    "namespace within a `frost run` in it",
                    "it is in another one than its keeper, as in a sandbox",
                    "run the program without its sandbox, where it has a switch for that",
                );
            }
        }
        let (queue, directory) = descriptors(process.through, &own_systems(below));
        if queue {
            refuse(
                "POSIX message queue of a `frost run` in it",
                "what lies in an IPC namespace of its own is not carried there",
                "let the program close it first, or freeze it by its own name, from in there",
            );
        }
        if directory {
            obstacles.push(Obstacle {
                pid: process.inner,
                command: process.command.clone(),
                object: "directory of /proc or /dev of a `frost run` in it".to_owned(),
                reason: "it lists what is in there, and the outer program's would be opened in its place"
                    .to_owned(),
                remedy: "try again in a moment, or let the program close it first".to_owned(),
                // As of whoever looks at processes.
                passes: true,
            });
        }
    }
    obstacles
}

/// Whether there are System V objects, and message queues, in the namespace of a keeper; so is what cannot be told.
fn ipc_of(keeper: i32) -> [bool; 2] {
    match ipc::Lists::of(keeper) {
        Ok(Some(lists)) => [lists.have_objects(), lists.have_queues()].map(|have| have.unwrap_or(true)),
        Ok(None) => [false; 2],
        Err(_) => [true; 2],
    }
}

/// What is mounted somewhere: which file system, which directory of it, and where; as `/proc/PID/mountinfo` shows it.
fn mounts(pid: i32) -> Vec<(String, String, String)> {
    let text = read(pid, "mountinfo").unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    text.lines().filter_map(mount).collect()
}

/// Whether a keeper has something mounted that neither the root has nor every keeper makes.
fn mounts_of_its_own(keeper: i32, root: i32) -> bool {
    let known = mounts(root);
    let made = |place: &str| {
        ["/proc", "/dev"]
            .iter()
            .any(|made| place.strip_prefix(made).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    mounts(keeper).iter().any(|mount| !made(&mount.2) && !known.contains(mount))
}

/// Finds the path outside of what a keeper has as `/dev/console`.
fn console(keeper: i32, root: i32) -> Option<BytePath> {
    let (device, node, _) = mounts(keeper).into_iter().find(|mount| mount.2 == "/dev/console")?;
    let outside = mounts(root).into_iter().find(|mount| mount.0 == device && node.starts_with(&mount.1))?;
    let below = node.strip_prefix(&outside.1)?.trim_start_matches('/');
    let path = if below.is_empty() { outside.2 } else { format!("{}/{below}", outside.2) };
    Some(BytePath::new(path.into_bytes()))
}

/// The file systems that a keeper makes: those of `/proc`, `/dev` and `/dev/pts`.
fn own_systems(keeper: i32) -> Vec<u64> {
    let places = ["root/proc", "root/dev", "root/dev/pts"];
    let device = |place: &&str| rustix::fs::stat(proc::path(keeper, place)).ok().map(|stat| stat.st_dev);
    places.iter().filter_map(device).collect()
}

/// Whether a process has a descriptor of a message queue, and one of a directory on a file system of its keeper's own which
/// is not that of a process.
fn descriptors(pid: i32, systems: &[u64]) -> (bool, bool) {
    let (mut queue, mut directory) = (false, false);
    for number in proc::numbers(pid, "fd").unwrap_or_default() {
        let path = proc::path(pid, &format!("fd/{number}"));
        let Ok(stat) = rustix::fs::stat(&path) else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if systems.contains(&stat.st_dev) => {
                let link = rustix::fs::readlink(&path, Vec::new()).unwrap_or_default();
                let of_process = |rest: &[u8]| rest.first().is_some_and(u8::is_ascii_digit);
                directory |= !link.as_bytes().strip_prefix(b"/proc/").is_some_and(of_process);
            }
            FileType::RegularFile => {
                queue |= rustix::fs::statfs(&path)
                    .is_ok_and(|stat| stat.f_type as u32 == frost_sys::mqueue::FILE_SYSTEM);
            }
            _ => {}
        }
    }
    (queue, directory)
}

/// Makes the records of all nests. `terminals` tells for each pseudoterminal on which file system its slave lies.
pub(crate) fn capture(
    tree: &StoppedTree,
    nests: &Nests,
    terminals: &[Option<u64>],
) -> Result<Vec<Nest>, Errno> {
    let processes = tree.processes();
    let Some(root) = processes.first() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for keeper in processes.iter().filter(|process| nests.keeper_of(process.pid) == Some(process.pid)) {
        let mut numbers = BTreeMap::new();
        let inside = |process: &&StoppedProcess| nests.keeper_of(process.pid) == Some(keeper.pid);
        for process in processes.iter().filter(inside) {
            numbers.insert(process.inner, process.own);
            numbers.extend(process.threads.iter().map(|thread| (thread.inner, thread.own)));
            // Those of a leader that has ended stand nowhere else.
            let status = &process.status;
            for (outer, all) in
                [(status.group(), &status.inner_groups), (status.session(), &status.inner_sessions)]
            {
                if let (Some(outer @ 1..), Some(inner @ 1..)) = (outer, all.last().copied()) {
                    numbers.insert(outer, inner);
                }
            }
        }
        let pts = proc::path(keeper.through, "root/dev/pts");
        let instance = rustix::fs::stat(pts)?.st_dev;
        let lies_there = |(_, terminal): &(usize, &Option<u64>)| **terminal == Some(instance);
        found.push(Nest {
            keeper: Pid::new(keeper.inner),
            user: namespace(keeper.through, "user") != namespace(root.through, "user"),
            numbers: numbers
                .into_iter()
                .map(|(outer, inner)| NestNumber { outer: Pid::new(outer), inner: Pid::new(inner) })
                .collect(),
            ptys: terminals
                .iter()
                .enumerate()
                .filter(lies_there)
                .map(|(index, _)| ObjectId::new(index as u32))
                .collect(),
            console: console(keeper.through, root.through),
        });
    }
    Ok(found)
}
