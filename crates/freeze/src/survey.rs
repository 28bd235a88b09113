//! All that is in the way of a freeze, in one list.

use crate::Keeper;
use crate::cap::{Catalog, Motion, Observed};
use crate::failure::{Failure, FailureKind};
use crate::filter::{self, Member};
use crate::nest::{self, Nests};
use crate::patience::Patience;
use crate::rm::{self, Behind, FileCache};
use crate::statuses::Statuses;
use crate::urgent::Urgent;
use crate::{file, reach, target};
use frost_model::id::{DataspaceId, DescriptionId, ObjectId};
use frost_model::{Obstacle, PAGE_SIZE, Pid};
use frost_sys::lease::Leases;
use frost_sys::network;
use frost_sys::proc::{self, Mapping, Status};
use frost_tracee::denial::Denial;
use frost_tracee::inject::AREA_BYTES;
use frost_tracee::seize;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::process::PidfdFlags;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// A process as it is looked at, stopped or not.
pub(crate) struct Seen<'a> {
    pub(crate) pid: i32,
    /// Its number, or that of a thread if its leader has ended.
    pub(crate) through: i32,
    pub(crate) inner: Pid,
    pub(crate) command: String,
    pub(crate) pidfd: rustix::fd::BorrowedFd<'a>,
    pub(crate) status: &'a Status,
    pub(crate) mappings: &'a [Mapping],
}

/// A process that runs while it is looked at.
struct Running {
    pid: i32,
    through: i32,
    inner: Pid,
    pidfd: OwnedFd,
    status: Status,
    mappings: Vec<Mapping>,
}

impl Behind for Catalog {
    fn dataspace(&self, device: u64, inode: u64) -> Option<DataspaceId> {
        self.dataspace_of(device, inode)
    }

    fn description(&self, device: u64, inode: u64) -> Option<DescriptionId> {
        self.description_of(device, inode)
    }

    fn segment(&self, _id: i32) -> Option<ObjectId> {
        // They are no descriptors.
        None
    }
}

/// Looks at living processes and lists every obstacle in them. They stand still if we are `urgent`.
pub(crate) fn look(
    seen: &[Seen<'_>],
    files: &mut FileCache,
    urgent: Option<&Urgent>,
    keeper: Option<&dyn Keeper>,
) -> Result<(Catalog, Vec<Obstacle>), crate::cap::Error> {
    let motion = if urgent.is_some() { Motion::Stopped } else { Motion::Running };
    let observed: Vec<Observed<'_>> = seen
        .iter()
        .map(|process| Observed {
            pid: Pid::new(process.pid),
            through: process.through,
            inner: process.inner,
            command: &process.command,
            pidfd: process.pidfd,
        })
        .collect();
    let (mut catalog, mut obstacles) = Catalog::survey(&observed, motion)?;
    let linked = adopt_deleted(&mut catalog, seen, files)?;
    let nests = Nests::among(seen.iter().map(|process| process.pid));
    let in_the_way = nest::survey(seen, &nests, keeper);
    // One word about it says more than one about each namespace and file there.
    let refused = !in_the_way.is_empty();
    obstacles.extend(in_the_way);
    let unfinished = |process: &&Seen<'_>| target::is_unfinished(process.pid, process.status);
    let (coming, settled): (Vec<&Seen<'_>>, Vec<&Seen<'_>>) = seen.iter().partition(unfinished);
    if let Some(first) = coming.first() {
        obstacles.retain(|obstacle| {
            coming.iter().all(|process| obstacle.pid != process.inner && obstacle.pid.raw() != process.pid)
        });
        obstacles.push(Obstacle {
            pid: first.inner,
            command: first.command.clone(),
            object: "`frost run` that begins in it".to_owned(),
            reason: "its keeper is not there yet".to_owned(),
            remedy: "try again in a moment".to_owned(),
            passes: true,
        });
    }
    let seen = settled;
    for process in seen.iter().filter(|process| !refused || nests.keeper_of(process.pid).is_none()) {
        let below = nests.keeper_of(process.pid);
        let home = below.or(keeper.map(Keeper::pid));
        obstacles.extend(target::survey(process.through, process.inner, process.status, home));
        obstacles.extend(rm::survey(
            process.through,
            process.inner,
            &process.command,
            process.mappings,
            &linked,
            files,
        ));
        obstacles.extend(full_address_space(process));
        for (link, object) in [("exe", "binary"), ("cwd", "working directory"), ("root", "root directory")] {
            if below.is_some() && link == "exe" && is_keeper(process.pid) {
                continue;
            }
            let found = match link {
                "exe" => rm::binary(process.through, process.mappings, files).map(drop),
                _ => file::behind_link(&proc::path(process.through, link)).map(drop),
            };
            if let Err(reason) = found {
                obstacles.push(Obstacle {
                    pid: process.inner,
                    command: process.command.clone(),
                    object: object.to_owned(),
                    reason,
                    remedy: "restart the program from where it can be found again".to_owned(),
                    passes: false,
                });
            }
        }
    }
    let outer = seen.iter().filter(|process| nests.keeper_of(process.pid).is_none());
    let pids: Vec<_> = outer.map(|process| (process.through, process.inner)).collect();
    obstacles.extend(target::survey_namespaces(&pids));
    obstacles.extend(seen.iter().flat_map(|process| {
        target::survey_threads(process.pid, process.through, process.inner, process.status, urgent)
    }));
    let all: Vec<_> = seen.iter().map(|process| (process.through, process.inner)).collect();
    obstacles.extend(target::survey_shared(if refused { &pids } else { &all }));
    Ok((catalog, obstacles))
}

/// Refuses a process that may not map what a freeze needs in it for some microseconds.
fn full_address_space(process: &Seen<'_>) -> Option<Obstacle> {
    const RLIMIT_AS: usize = 9;
    let limits = proc::limits(process.through).unwrap_or_default();
    let (limit_bytes, _) = *limits.get(RLIMIT_AS)?;
    let counted = process.mappings.iter().filter(|mapping| mapping.name != b"[vsyscall]");
    let mapped_bytes: u64 = counted.map(|mapping| mapping.end - mapping.start).sum();
    // Pages, as `may_expand_vm` counts them, mm/mmap.c.
    (mapped_bytes.saturating_add(AREA_BYTES) > limit_bytes / PAGE_SIZE * PAGE_SIZE).then(|| Obstacle {
        pid: process.inner,
        command: process.command.clone(),
        object: "limit of its address space".to_owned(),
        reason: format!(
            "it has {mapped_bytes} of {limit_bytes} bytes, and a freeze maps {AREA_BYTES} more for a moment"
        ),
        remedy: "raise the limit first (`prlimit --pid PID --as=unlimited:`)".to_owned(),
        passes: false,
    })
}

/// Whether a process is a keeper or leads a session for one, both of which are executed from memory.
pub(crate) fn is_keeper(pid: i32) -> bool {
    proc::link(pid, "exe").is_ok_and(|exe| exe.starts_with(b"/memfd:frost-keeper"))
}

/// Looks at the threads of all processes, for their filters; where they stand still their states may be `known`.
pub(crate) fn members(seen: &[Seen<'_>], known: Option<&Statuses>) -> Vec<Member> {
    let nests = Nests::among(seen.iter().map(|process| process.pid));
    let look = |process: &Seen<'_>| {
        let nested = nests.keeper_of(process.pid).is_some_and(|keeper| keeper != process.pid);
        let Some(known) = known else {
            return Member::look(process.pid, process.inner, &process.command, nested);
        };
        let states = known.of_process(process.pid);
        let threads = states.filter_map(|(tid, status)| Some((tid, status.ok()?.clone()))).collect();
        Member::with(process.pid, process.inner, &process.command, nested, threads)
    };
    // One word about what only begins there says enough.
    seen.iter().filter(|process| !target::is_unfinished(process.pid, process.status)).map(look).collect()
}

/// Opens mapped files that were deleted and that no descriptor refers to by which they could be mapped, and adds them to the
/// catalog: by way of the kernel's links to them, which only root may follow, to the binary, or to another descriptor. Else the
/// content is read through the mappings.
///
/// Returns the files that were not added since they have another name still.
fn adopt_deleted(
    catalog: &mut Catalog,
    seen: &[Seen<'_>],
    files: &mut FileCache,
) -> Result<HashSet<(u64, u64)>, crate::cap::Error> {
    let mut linked = HashSet::new();
    for process in seen {
        for mapping in process.mappings {
            let Ok(rm::Backing::Deleted { device, inode }) = rm::backing(mapping, process.through, files)
            else {
                continue;
            };
            // Once for reading; what is mapped for writing must be opened so.
            let written = mapping.shared && mapping.flags.has(*b"mw");
            if catalog.has_description(device, inode, written) || linked.contains(&(device, inode)) {
                continue;
            }
            let name = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
            let access = if written { OFlags::RDWR } else { OFlags::RDONLY };
            let is_it = |path: &PathBuf| {
                rustix::fs::stat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
            };
            let ways = [proc::path(process.through, &name), proc::path(process.through, "exe")];
            let mut ways = ways.into_iter().chain(catalog.links_to(device, inode)).filter(is_it);
            let Some(file) = ways.find_map(|way| Leases::recent().open(way, access).ok()) else { continue };
            if rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_nlink > 0) {
                linked.insert((device, inode));
                continue;
            }
            catalog.adopt(file, Pid::new(process.pid), &process.command)?;
        }
    }
    Ok(linked)
}

/// Means by the program's paths what they are to it, if it has a view of its own.
pub(crate) fn see_as(keeper: Option<&dyn Keeper>) {
    frost_sys::sight::set(
        keeper.filter(|keeper| !keeper.layers().is_empty() || keeper.is_bundled()).map(Keeper::pid),
    );
}

/// Lists a process and its descendants, and those that its keeper has adopted; parents come before their children.
pub(crate) fn tree(pid: i32, keeper: Option<&dyn Keeper>) -> Vec<i32> {
    let mut tree = vec![pid];
    // What its processes have left behind.
    let adopted = keeper.iter().flat_map(|keeper| proc::children(keeper.pid()).unwrap_or_default());
    let leader = keeper.and_then(Keeper::leader);
    tree.extend(adopted.filter(|child| *child != pid && Some(*child) != leader));
    let mut index = 0;
    while index < tree.len() {
        for child in proc::children(tree[index]).unwrap_or_default() {
            if !tree.contains(&child) {
                tree.push(child);
            }
        }
        index += 1;
    }
    tree
}

/// How often a tree is looked at in which processes begin or end meanwhile.
const MOST_LOOKS: u32 = 10;

/// Lists what would be in the way of freezing `pid` and its descendants, which run on meanwhile.
///
/// # Errors
/// As [`freeze`](crate::freeze) for targets that cannot be frozen at all.
pub fn check(pid: i32, force: bool, keeper: Option<&dyn Keeper>) -> Result<Vec<Obstacle>, Failure> {
    look_ahead(pid, force, keeper, &mut Patience::new()).map(|found| found.0)
}

/// Lists what would be in the way, as far as there is patience left for what goes by itself, and the mappings of each
/// process, whose flags cost a walk over all page tables.
pub(crate) fn look_ahead(
    pid: i32,
    force: bool,
    keeper: Option<&dyn Keeper>,
    patience: &mut Patience,
) -> Result<(Vec<Obstacle>, Mappings), Failure> {
    see_as(keeper);
    proc::number_as(pid);
    let stat = target::validate(pid, force)?;
    let what = format!("cannot check process {pid} ({})", String::from_utf8_lossy(&stat.comm));
    let failed = |error: crate::cap::Error| {
        Failure::new(FailureKind::Failed, what.as_str()).because(&error).state("nothing was touched")
    };
    // A freeze that surveys first has said so already.
    let _meant = if network::is_meant() { None } else { crate::network::mean(keeper).map_err(failed)? };
    let mut looks = 1;
    loop {
        let (outcome, changed) = look_at_running(pid, keeper, &what);
        // What begins or ends just now may look like something that cannot be carried.
        if changed && looks < MOST_LOOKS && !outcome.as_ref().is_ok_and(|(found, _)| found.is_empty()) {
            looks += 1;
        } else if !(outcome.as_ref().is_ok_and(|(found, _)| Obstacle::all_pass(found)) && patience.wait()) {
            return outcome;
        }
    }
}

/// The mappings of processes, by pid.
pub(crate) type Mappings = BTreeMap<i32, Vec<Mapping>>;

/// Looks once at a tree that runs. Also returns whether a process has begun or ended meanwhile.
fn look_at_running(
    pid: i32,
    keeper: Option<&dyn Keeper>,
    what: &str,
) -> (Result<(Vec<Obstacle>, Mappings), Failure>, bool) {
    let members = tree(pid, keeper);
    let (mut running, mut obstacles) = match open_all(&members, keeper, what) {
        Ok(opened) => opened,
        Err(failure) => return (Err(failure), false),
    };
    let users: Vec<reach::User> = running
        .iter()
        .map(|running| reach::User {
            through: running.through,
            inner: running.inner,
            command: proc::command(running.pid),
        })
        .collect();
    let silent = reach::silent(&users);
    if !silent.is_empty() {
        obstacles.extend(silent);
        return (Ok((obstacles, Mappings::new())), false);
    }
    let mut ended = Vec::new();
    let outcome = loop {
        let outcome = look_at(&running, keeper);
        // Whatever ends while we look is no obstacle: its namespaces, its binary and so on were not there to be read.
        let (living, now_ended): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|running| target::living_thread(running.pid).is_some());
        let any = !now_ended.is_empty();
        running = living;
        ended.extend(now_ended.iter().flat_map(|running| [running.inner, Pid::new(running.pid)]));
        match outcome {
            Err(_) if any => {}
            outcome => break outcome,
        }
    };
    let changed = !ended.is_empty() || tree(pid, keeper) != members;
    let outcome = outcome.map(|found| {
        obstacles.extend(found);
        obstacles.retain(|obstacle| !ended.contains(&obstacle.pid));
        (obstacles, running.into_iter().map(|running| (running.pid, running.mappings)).collect())
    });
    let outcome = outcome.map_err(|error| {
        Failure::new(FailureKind::Failed, what).because(&error).state("nothing was touched")
    });
    (outcome, changed)
}

/// Opens those of these processes that live. Also returns what keeps them from being stopped.
fn open_all(
    members: &[i32],
    keeper: Option<&dyn Keeper>,
    what: &str,
) -> Result<(Vec<Running>, Vec<Obstacle>), Failure> {
    let mut found = Vec::new();
    let mut unstoppable = Vec::new();
    for member in members.iter().copied() {
        let Some(through) = target::living_thread(member) else { continue };
        let Ok(status) = proc::status(through) else { continue };
        unstoppable.extend(target::survey_stop(through, &status));
        let Some(number) = rustix::process::Pid::from_raw(member) else { continue };
        let pidfd = match through == member {
            true => rustix::process::pidfd_open(number, PidfdFlags::empty()),
            false => frost_sys::pidfd::pidfd_of_thread(through),
        };
        let inner = proc::status(member).ok().and_then(|status| status.number());
        let inner = Pid::new(inner.unwrap_or(member));
        let Ok(pidfd) = pidfd else { continue };
        let closed = Denial::is_closed(through).then_some(rustix::io::Errno::ACCESS);
        match closed.map_or_else(|| proc::mappings(through), Err) {
            Ok(mut mappings) => {
                if keeper.is_some() {
                    // Tracked since the last image: a program of the runtime has no userfaultfd of its own, or its
                    // descriptor is refused.
                    mappings.iter_mut().for_each(|mapping| mapping.flags.remove(*b"uw"));
                }
                found.push(Running { pid: member, through, inner, pidfd, status, mappings });
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => {}
            Err(_) => {
                let why = Denial::of(member);
                let error = seize::Error::Denied { pid: member, command: proc::command(member), why };
                return Err(Failure::new(FailureKind::Denied, what)
                    .because(&error)
                    .state("nothing was touched")
                    .hint(why.remedy()));
            }
        }
    }
    Ok((found, unstoppable))
}

fn look_at(running: &[Running], keeper: Option<&dyn Keeper>) -> Result<Vec<Obstacle>, crate::cap::Error> {
    let mut files = FileCache::default();
    let named: Vec<_> =
        running.iter().map(|process| rm::named(&process.mappings, process.through, &mut files)).collect();
    let seen: Vec<Seen<'_>> = running
        .iter()
        .zip(&named)
        .map(|(running, mappings)| Seen {
            pid: running.pid,
            through: running.through,
            inner: running.inner,
            command: proc::command(running.pid),
            pidfd: running.pidfd.as_fd(),
            status: &running.status,
            mappings,
        })
        .collect();
    let (_, mut obstacles) = look(&seen, &mut files, None, keeper)?;
    obstacles.extend(filter::survey(&members(&seen, None), keeper));
    let root = seen.first().map(|root| (root.inner, root.command.as_str()));
    obstacles.extend(crate::network::look(keeper, root)?.1);
    let nests = Nests::among(seen.iter().map(|process| process.pid));
    let outer: Vec<&Seen<'_>> =
        seen.iter().filter(|process| nests.keeper_of(process.pid).is_none()).collect();
    obstacles.extend(crate::cap::sysv::survey(&outer));
    Ok(obstacles)
}
