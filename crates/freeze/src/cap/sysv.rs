//! System V segments, semaphores and message queues.
//!
//! They belong to an IPC namespace, not to a process, so it has to be found out which are the program's. In a namespace
//! of its own all are. In one that it shares, those that a process of the tree has attached, has made, was the last to
//! operate on, waits for, or will undo something in when it ends.
//!
//! All is asked by tapes of the processes themselves, in whose namespace and with whose rights it is. Nothing is changed:
//! messages are copied (MSG_COPY), and what SEM_UNDO would undo is found by operations that fail as a whole
//! ([`probe`]).

use crate::ram;
use crate::survey::Seen;
use crate::unseen;
use frost_abi::tape::Entry;
use frost_model::Obstacle;
use frost_model::cap::{
    Ipc, MOST_VALUE, MessageQueue, Objects, QueuedMessage, Segment, SemaphoreSet, SemaphoreUndo,
};
use frost_model::id::{ObjectId, Pid};
use frost_model::ram::Pages;
use frost_store::PackWriter;
use frost_sys::kcmp::{Resource, kcmp};
use frost_sys::proc::{self, Mapping};
use frost_sys::sysv::{self, Kind, Status};
use frost_tracee::inject::{self, AREA_BYTES, Area, Job};
use frost_tracee::seize::StoppedProcess;
use rustix::io::Errno;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Why they could not be captured. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("process {pid} cannot be asked for its System V objects")]
    Inject {
        pid: i32,
        #[source]
        source: inject::Error,
    },
    #[error("{} {id} cannot be read", kind.noun())]
    Object {
        kind: Kind,
        id: i32,
        #[source]
        source: Errno,
    },
    /// What nobody who is asked may read.
    #[error("System V objects cannot be read")]
    Unreadable { obstacles: Vec<Obstacle> },
    /// A process whose filters forbid what is asked of it.
    #[error(
        "process {pid} cannot be asked for its System V objects: its filters of system calls forbid {call}"
    )]
    Forbidden { pid: i32, call: &'static str },
    #[error(transparent)]
    Memory(#[from] ram::Error),
}

/// An object that is to be removed once the image is committed, if nobody else uses it then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    kind: Kind,
    id: i32,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    segments: Vec<Segment>,
    semaphores: Vec<SemaphoreSet>,
    queues: Vec<MessageQueue>,
    /// What lies in a namespace that is ours too and would stay there.
    pub(crate) own: Vec<Own>,
}

impl Found {
    /// Returns the place of segment `id` among the objects.
    pub(crate) fn segment(&self, id: i32) -> Option<ObjectId> {
        let index = self.segments.iter().position(|segment| segment.ipc.id == id)?;
        Some(ObjectId::new(index as u32))
    }

    /// Adds them to the objects of a checkpoint.
    pub(crate) fn put(self, objects: &mut Objects) {
        objects.segments = self.segments;
        objects.semaphores = self.semaphores;
        objects.queues = self.queues;
    }
}

/// Removes what was the program's alone. What is used by somebody else stays.
pub(crate) fn remove(own: &[Own]) {
    for Own { kind, id } in own {
        let used = *kind == Kind::Segment && sysv::status(*kind, *id).map_or(true, |status| status.count > 0);
        if !used {
            // Should it not work, the thaw finds the object as it was, and uses it.
            let _ = sysv::remove(*kind, *id);
        }
    }
}

/// Whether who freezes an object could make it anew: who cannot, as one of another group, leaves it in place.
fn can_be_made(object: &Status) -> bool {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    user.is_root() || (object.uid, object.gid) == (user.as_raw(), group.as_raw())
}

/// Returns whether a program lives in the IPC namespace of its keeper. One that was thawed lives in another.
pub(crate) fn is_housed(pid: i32, keeper: i32) -> bool {
    let link = |pid: i32| rustix::fs::readlink(proc::path(pid, "ns/ipc"), Vec::new()).ok();
    link(pid).is_some_and(|namespace| Some(namespace) == link(keeper))
}

/// A process of the tree and what it has to do with System V objects.
pub(crate) struct User<'a> {
    pub(crate) status: &'a proc::Status,
    pub(crate) mappings: &'a [Mapping],
    /// Its number in the pid namespace of whoever lists the objects.
    pub(crate) pid: i32,
}

impl User<'_> {
    /// Whether it may remove an object.
    fn owns(&self, object: &Status) -> bool {
        [object.uid, object.creator.0].contains(&self.status.uids[1])
    }

    /// Whether it has these rights to an object: 4 to read it, 2 to alter it (`ipcperms`, ipc/util.c).
    fn may(&self, wanted: u32, object: &Status) -> bool {
        const CAP_IPC_OWNER: u32 = 15;
        let in_group = |group: u32| self.status.gids[3] == group || self.status.groups.contains(&group);
        let granted = if self.owns(object) {
            object.mode >> 6
        } else if in_group(object.creator.1) || in_group(object.gid) {
            object.mode >> 3
        } else {
            object.mode
        };
        wanted & !granted == 0 || self.status.cap_effective >> CAP_IPC_OWNER & 1 == 1
    }

    /// How much of a segment it has attached: nothing, some, or all.
    fn attached(&self, id: i32, len_bytes: u64) -> Option<bool> {
        let of_it = || self.mappings.iter().filter(|mapping| crate::rm::segment_id(mapping) == Some(id));
        let is_all = |mapping: &Mapping| mapping.offset == 0 && mapping.end - mapping.start >= len_bytes;
        of_it().next().map(|_| of_it().any(is_all))
    }
}

/// Lists the objects that are the tree's, or may be, and that cannot be read. `asked` will be asked for them; `shared` says
/// that others may be in their IPC namespace, too. `root` is who is named.
pub(crate) fn unreadable(
    objects: &[(Kind, i32, Status)],
    users: &[User<'_>],
    asked: usize,
    shared: bool,
    root: (Pid, &str),
) -> Vec<Obstacle> {
    let Some(reader) = users.get(asked) else { return Vec::new() };
    let cannot_be_read = |(kind, id, status): &&(Kind, i32, Status)| {
        let noted = [status.first_pid, status.last_pid];
        let is_noted = users.iter().any(|user| noted.contains(&user.pid));
        let attached = || users.iter().filter_map(|user| user.attached(*id, status.size));
        // What stays where it is must be compared by who thaws it.
        let is_made_anew = !shared || reader.owns(status) || rustix::process::geteuid().is_root();
        let (concerned, is_seen) = match kind {
            Kind::Segment => {
                (is_noted || attached().next().is_some(), is_made_anew && attached().any(|is_all| is_all))
            }
            Kind::Queue => (is_noted, false),
            // Who operated last on one only those are told who may read it.
            Kind::Semaphores => (users.iter().any(|user| user.may(2, status)), false),
        };
        (concerned || !shared) && !is_seen && !reader.may(4, status)
    };
    let refuse = |(kind, id, _): &(Kind, i32, Status)| Obstacle {
        pid: root.0,
        command: root.1.to_owned(),
        object: format!("System V {} {id}", kind.noun()),
        reason: "the program may not read it".to_owned(),
        remedy: "let its owner permit that (IPC_SET), or remove it (ipcrm)".to_owned(),
        passes: false,
    };
    objects.iter().filter(cannot_be_read).map(refuse).collect()
}

/// Lists the objects that a freeze of these processes, which run on, could not read.
pub(crate) fn survey(seen: &[&Seen<'_>]) -> Vec<Obstacle> {
    let Some(first) = seen.first() else { return Vec::new() };
    // A freeze lets the processes themselves ask, whose namespace need not be entered for that.
    let objects = sysv::objects(first.through).unwrap_or_default();
    let users: Vec<User<'_>> = seen
        .iter()
        .map(|process| User { status: process.status, mappings: process.mappings, pid: process.pid })
        .collect();
    unreadable(&objects, &users, 0, sysv::is_ours(first.through), (first.inner, &first.command))
}

/// A process with its mappings, which makes calls for us.
struct Asked<'a> {
    process: &'a StoppedProcess,
    area: Area<'a>,
}

/// Bytes of an area for the calls of one run and their data, with room for what a run takes itself.
const BATCH_BYTES: usize = AREA_BYTES as usize / 2;

impl<'a> Asked<'a> {
    fn new(process: &'a StoppedProcess, mappings: &[Mapping]) -> Result<Self, Error> {
        let area = Area::map(process, mappings);
        let area = area.map_err(|source| Error::Inject { pid: process.pid, source })?;
        Ok(Self { process, area })
    }

    fn done(self) -> Result<(), Error> {
        let pid = self.process.pid;
        self.area.unmap().map_err(|source| Error::Inject { pid, source })
    }

    /// Makes calls that point into `data`, by its address, and returns their results.
    fn calls(
        &mut self,
        data: &mut Vec<u8>,
        calls: impl FnOnce(u64) -> Vec<(libc::c_long, [u64; 5])>,
    ) -> Result<Vec<Result<i64, Errno>>, Error> {
        let mut job = Job::new(0);
        let address = self.area.data_address(0, 1);
        for (nr, args) in calls(address) {
            job.tape.push(Entry::call(nr as u64, [args[0], args[1], args[2], args[3], args[4], 0]));
        }
        job.data = std::mem::take(data);
        let mut jobs = [job];
        let run = self.area.run(&mut jobs);
        run.map_err(|source| Error::Inject { pid: self.process.pid, source })?;
        let [job] = jobs;
        *data = job.data;
        Ok(job
            .tape
            .iter()
            .map(|entry| match entry.result {
                result if (-4095..0).contains(&result) => Err(Errno::from_raw_os_error(-result as i32)),
                result => Ok(result),
            })
            .collect())
    }

    /// Lists all objects of a kind that the namespace has.
    fn list(&mut self, kind: Kind) -> Result<Vec<(i32, Status)>, Error> {
        let mut room = vec![0; 256];
        let highest = self.calls(&mut room, |at| vec![control(kind, 0, kind.info_command(), at)])?;
        let highest = highest.first().copied().unwrap_or(Ok(0)).unwrap_or(0);
        let mut found = Vec::new();
        let indices: Vec<u64> = (0..=highest as u64).collect();
        for batch in indices.chunks(BATCH_BYTES / 512) {
            let mut room = vec![0; batch.len() * sysv::STATUS_BYTES];
            let place = |index: usize| index * sysv::STATUS_BYTES;
            let results = self.calls(&mut room, |at| {
                let stat = |(index, number): (usize, &u64)| {
                    control(kind, *number, kind.stat_any_command(), at + place(index) as u64)
                };
                batch.iter().enumerate().map(stat).collect()
            })?;
            for (index, id) in results.iter().enumerate() {
                // An index that is not in use.
                let Ok(id) = id else { continue };
                let status = room.get(place(index)..).unwrap_or_default();
                found.push((*id as i32, Status::parse(kind, status)));
            }
        }
        Ok(found)
    }

    /// Reads the values of a set, who operated last on each, and whether anybody waits for one.
    fn semaphores(&mut self, id: i32, count: usize) -> Result<Result<Values, Errno>, Error> {
        let mut room = vec![0; count * 2];
        let results =
            self.calls(&mut room, |at| vec![control(Kind::Semaphores, id as u64, sysv::GETALL, at)])?;
        if let Some(Err(errno)) = results.first() {
            return Ok(Err(*errno));
        }
        let mut values = Values {
            values: room.chunks_exact(2).map(|word| u16::from_ne_bytes([word[0], word[1]])).collect(),
            ..Values::default()
        };
        let numbers: Vec<u64> = (0..count as u64).collect();
        for batch in numbers.chunks(BATCH_BYTES / 512) {
            let results = self.calls(&mut Vec::new(), |_| {
                let of = |number: &u64, command: i32| {
                    (libc::SYS_semctl, [id as u64, *number, command as u64, 0, 0])
                };
                let commands = [sysv::GETPID, sysv::GETNCNT, sysv::GETZCNT];
                batch.iter().flat_map(|number| commands.map(|command| of(number, command))).collect()
            })?;
            for three in results.chunks_exact(3) {
                values.pids.push(three[0].map_or(0, |pid| pid as i32));
                values.awaited |= three[1..].iter().any(|waiting| waiting.is_ok_and(|count| count > 0));
            }
        }
        Ok(Ok(values))
    }

    /// Copies the messages of a queue.
    fn messages(&mut self, id: i32, status: &Status) -> Result<Result<Vec<QueuedMessage>, Errno>, Error> {
        // No message is longer than the queue may hold.
        let most = (status.size as usize).min(BATCH_BYTES - 1024);
        let place = 8 + most.next_multiple_of(8);
        let mut messages = Vec::new();
        let indices: Vec<u64> = (0..status.count).collect();
        for batch in indices.chunks((BATCH_BYTES / (place + 128)).max(1)) {
            let mut room = vec![0; batch.len() * place];
            let results = self.calls(&mut room, |at| {
                let flags = (sysv::MSG_COPY | libc::IPC_NOWAIT) as u64;
                let copy = |(index, number): (usize, &u64)| {
                    let to = at + (index * place) as u64;
                    (libc::SYS_msgrcv, [id as u64, to, most as u64, *number, flags])
                };
                batch.iter().enumerate().map(copy).collect()
            })?;
            for (message, len) in room.chunks_exact(place).zip(results) {
                let len = match len {
                    Ok(len) => len as usize,
                    Err(errno) => return Ok(Err(errno)),
                };
                let kind = message.first_chunk().map_or(1, |word| i64::from_ne_bytes(*word));
                let data = message.get(8..8 + len).unwrap_or_default().to_vec();
                messages.push(QueuedMessage { kind, data });
            }
        }
        Ok(Ok(messages))
    }

    /// Finds what the end of this process would undo in sets of semaphores.
    fn undo(&mut self, sets: &[(i32, Values)]) -> Result<Vec<Vec<i32>>, Error> {
        // Where nobody has operated there is nothing to undo, and asking leaves a trace: the end of a process counts as an
        // operation on each set that it has asked (`exit_sem`, ipc/sem.c), and all processes of several threads are asked, since
        // pthread_create(3) gives them a list to undo (`copy_semundo`).
        let all: Vec<(usize, usize)> = sets
            .iter()
            .enumerate()
            .filter(|(_, (_, values))| values.operated)
            .flat_map(|(set, (_, values))| (0..values.values.len()).map(move |number| (set, number)))
            .collect();
        let mut adjust: Vec<Vec<i32>> = sets.iter().map(|(_, values)| vec![0; values.values.len()]).collect();
        for batch in all.chunks(BATCH_BYTES / 512) {
            // The greatest decrease that the adjustment bears lies in between.
            let mut bounds = vec![(0, 2 * MOST_VALUE + 1); batch.len()];
            // Most have no adjustment, which two questions tell.
            for question in [MOST_VALUE + 1, MOST_VALUE + 2] {
                self.narrow(sets, batch, &mut bounds, |_| question)?;
            }
            while bounds.iter().any(|(low, high)| low < high) {
                self.narrow(sets, batch, &mut bounds, |(low, high)| (low + high + 1) / 2)?;
            }
            for ((set, number), (bears, _)) in batch.iter().zip(bounds) {
                adjust[*set][*number] = bears - (MOST_VALUE + 1);
            }
        }
        Ok(adjust)
    }

    fn narrow(
        &mut self,
        sets: &[(i32, Values)],
        batch: &[(usize, usize)],
        bounds: &mut [(i32, i32)],
        question: impl Fn((i32, i32)) -> i32,
    ) -> Result<(), Error> {
        let asked: Vec<i32> = bounds.iter().map(|bound| question(*bound)).collect();
        let mut operations = Vec::new();
        let mut calls = Vec::new();
        for ((set, number), decrease) in batch.iter().zip(&asked) {
            let (id, values) = &sets[*set];
            let start = operations.len() as u64;
            let count = probe(&mut operations, *number as u16, values.values[*number], *decrease);
            calls.push((*id as u64, start, count));
        }
        let results = self.calls(&mut operations, |at| {
            let operate =
                |(id, start, count): &(u64, u64, u64)| (libc::SYS_semop, [*id, at + start, *count, 0, 0]);
            calls.iter().map(operate).collect()
        })?;
        for ((bound, decrease), result) in bounds.iter_mut().zip(asked).zip(results) {
            match result {
                Err(Errno::RANGE) => bound.1 = bound.1.min(decrease - 1).max(bound.0),
                Err(Errno::AGAIN) => bound.0 = bound.0.max(decrease).min(bound.1),
                // It may not operate on the set, so it has nothing to undo there.
                _ => *bound = (MOST_VALUE + 1, MOST_VALUE + 1),
            }
        }
        Ok(())
    }
}

/// Writes operations that ask whether the adjustment of a semaphore of `value` bears to be decreased by `decrease`.
///
/// The kernel does not tell adjustments, but refuses to let one fall below -32768 (`perform_atomic_semop_slow`,
/// ipc/sem.c). Operations of one call happen all or none, so here the last one can never be done: the call gives ERANGE
/// if the adjustment would have fallen too low, else EAGAIN, and leaves both value and adjustment as they were. An
/// increase with SEM_UNDO lowers the adjustment; beside it stands a decrease without, so that the value stays in bounds.
fn probe(operations: &mut Vec<u8>, number: u16, value: u16, decrease: i32) -> u64 {
    let mut count = 0;
    let mut add = |operation: i32, flags: i16| {
        operations.extend(number.to_ne_bytes());
        operations.extend((operation as i16).to_ne_bytes());
        operations.extend(flags.to_ne_bytes());
        count += 1;
    };
    let value = i32::from(value);
    let (up_first, room) = match MOST_VALUE - value {
        room if room >= value => (true, room),
        _ => (false, value),
    };
    let mut left = decrease;
    while left > 0 {
        let part = left.min(room);
        if up_first {
            add(part, sysv::SEM_UNDO);
            add(-part, 0);
        } else {
            add(-part, 0);
            add(part, sysv::SEM_UNDO);
        }
        left -= part;
    }
    add(i32::from(i16::MIN), libc::IPC_NOWAIT as i16);
    // Calls point to whole words.
    operations.resize(operations.len().next_multiple_of(8), 0);
    count
}

fn control(kind: Kind, id: u64, command: i32, address: u64) -> (libc::c_long, [u64; 5]) {
    let args = match kind {
        Kind::Semaphores => [id, 0, command as u64, address, 0],
        Kind::Segment | Kind::Queue => [id, command as u64, address, 0, 0],
    };
    (kind.control_call(), args)
}

#[derive(Clone, Debug, Default)]
struct Values {
    values: Vec<u16>,
    /// Who operated last on each, 0 for nobody.
    pids: Vec<i32>,
    /// Whether anybody has operated on it since it was made.
    operated: bool,
    /// Whether a process outside waits: those of the tree were taken out of the queue when they were stopped.
    awaited: bool,
}

/// Finds and captures what belongs to the tree. `may` tells whether a process may make a call.
pub(crate) fn capture<'a>(
    living: &[(&'a StoppedProcess, &'a [Mapping])],
    may: &dyn Fn(&StoppedProcess, libc::c_long) -> bool,
    pack: &mut PackWriter,
) -> Result<Found, Error> {
    let Some((first, _)) = living.first() else { return Ok(Found::default()) };
    let shared = sysv::is_ours(first.through);
    let tree = Tree::of(living, shared);
    if shared && !tree.is_concerned(living) {
        return Ok(Found::default());
    }
    // All of them are in one namespace.
    let calls = [
        libc::SYS_shmctl,
        libc::SYS_shmat,
        libc::SYS_shmdt,
        libc::SYS_semctl,
        libc::SYS_msgctl,
        libc::SYS_msgrcv,
    ];
    let free = living.iter().position(|(process, _)| calls.iter().all(|call| may(process, *call)));
    let free = free
        .ok_or(Error::Forbidden { pid: first.pid, call: "shmctl, shmat, shmdt, semctl, msgctl or msgrcv" })?;
    let (process, mappings) = living[free];
    let mut asked = Asked::new(process, mappings)?;
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        objects.extend(asked.list(kind)?.into_iter().map(|(id, status)| (kind, id, status)));
    }
    for (kind, id, status) in objects.iter_mut().filter(|_| shared) {
        // One in a user namespace of its own is not told of users and groups that have no number there.
        if let Ok(seen) = sysv::status(*kind, *id) {
            (status.uid, status.gid, status.creator) = (seen.uid, seen.gid, seen.creator);
        }
    }
    let user = |(process, mappings): &(&'a StoppedProcess, &'a [Mapping])| User {
        status: &process.status,
        mappings,
        pid: process.inner,
    };
    let users: Vec<User<'_>> = living.iter().map(user).collect();
    let command = String::from_utf8_lossy(&first.stat.comm);
    let obstacles = unreadable(&objects, &users, free, shared, (Pid::new(first.inner), &command));
    let found = match obstacles.is_empty() {
        true => capture_by(&mut asked, &objects, living, may, &tree, pack)?,
        false => Found::default(),
    };
    asked.done()?;
    match obstacles.is_empty() {
        true => Ok(found),
        false => Err(Error::Unreadable { obstacles }),
    }
}

/// What is known of the tree beforehand.
struct Tree {
    /// Whether others may be in its IPC namespace, we for one.
    shared: bool,
    /// Pids as the processes see them.
    pids: Vec<i32>,
    /// What its threads were waiting for: the call, and its first argument.
    waits: Vec<(i64, i32)>,
    /// Windows onto each segment: offset, process, address, length.
    windows: BTreeMap<i32, Vec<ram::Window>>,
    /// The logarithms of the page sizes of segments of huge pages.
    huge_shifts: BTreeMap<i32, u32>,
    /// The key that names the attachments of a segment.
    first_keys: BTreeMap<i32, i32>,
    /// The same as we see them.
    outer_pids: Vec<i32>,
}

impl Tree {
    fn of(living: &[(&StoppedProcess, &[Mapping])], shared: bool) -> Self {
        let mut windows: BTreeMap<i32, Vec<ram::Window>> = BTreeMap::new();
        let (mut first_keys, mut huge_shifts) = (BTreeMap::new(), BTreeMap::new());
        for (process, mappings) in living {
            for mapping in *mappings {
                if let Some(id) = crate::rm::segment_id(mapping) {
                    let window =
                        (mapping.offset, process.through, mapping.start, mapping.end - mapping.start);
                    windows.entry(id).or_default().push(window);
                    first_keys.insert(id, crate::rm::segment_key(mapping));
                    huge_shifts.extend(crate::rm::huge_shift(mapping).map(|shift| (id, shift)));
                }
            }
        }
        const ORIG_RAX: usize = frost_tracee::restart::ORIG_RAX;
        const RDI: usize = 14;
        let threads = living.iter().flat_map(|(process, _)| &process.threads);
        Self {
            shared,
            pids: living.iter().map(|(process, _)| process.inner).collect(),
            waits: threads
                .map(|thread| (thread.registers[ORIG_RAX] as i64, thread.registers[RDI] as i32))
                .collect(),
            windows,
            huge_shifts,
            first_keys,
            outer_pids: living.iter().map(|(process, _)| process.pid).collect(),
        }
    }

    fn waits(&self, id: i32, calls: &[libc::c_long]) -> bool {
        self.waits.iter().any(|(call, first)| *first == id && calls.contains(call))
    }

    /// Whether any object of our namespace may be the tree's, as far as we can tell without asking one of its processes, which
    /// takes longer: servers of databases have one as a rule, all that lives on the same machine has none.
    fn is_concerned(&self, living: &[(&StoppedProcess, &[Mapping])]) -> bool {
        let operated = |kind: Kind, id: i32| {
            sysv::last_pids(kind, id)
                .map_or(true, |pids| pids.iter().any(|pid| self.outer_pids.contains(pid)))
        };
        let is_any = |kind: Kind, calls: &[libc::c_long], has_undo: &dyn Fn() -> bool| {
            sysv::ids(kind).map_or(true, |ids| {
                ids.iter().any(|id| self.waits(*id, calls) || operated(kind, *id))
                    || !ids.is_empty() && has_undo()
            })
        };
        let undo = || living.iter().any(|(process, _)| has_undo(process));
        !self.windows.is_empty()
            || is_any(Kind::Segment, &[], &|| false)
            || is_any(Kind::Queue, &[libc::SYS_msgrcv, libc::SYS_msgsnd], &|| false)
            || is_any(Kind::Semaphores, &[libc::SYS_semop, libc::SYS_semtimedop], &undo)
    }

    /// Whether a process that lives outside of the tree was the last to operate on an object: the only sign there is of
    /// others that use it.
    fn is_used(&self, kind: Kind, id: i32) -> bool {
        let alive = |pid: i32| rustix::fs::access(format!("/proc/{pid}"), rustix::fs::Access::EXISTS).is_ok();
        let other = |pid: &i32| *pid != 0 && !self.outer_pids.contains(pid) && alive(*pid);
        sysv::last_pids(kind, id).map_or(true, |pids| pids.iter().any(other))
    }
}

/// Whether the end of a process may undo what it did to semaphores.
fn has_undo(process: &StoppedProcess) -> bool {
    // This thread has no list of that; a process that has none either is equal to it.
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    frost_sys::sysv::forget_undo().is_err()
        || kcmp(process.through, own, Resource::SysVSem) != Ok(Ordering::Equal)
}

fn ipc(id: i32, status: &Status, pids: &[i32]) -> Ipc {
    let (uid, gid) = (status.uid, status.gid);
    let creator = (status.creator != (uid, gid)).then_some(status.creator);
    let pids = match pids.iter().any(|pid| *pid != 0) {
        true => pids.iter().map(|pid| Pid::new(*pid)).collect(),
        false => Vec::new(),
    };
    Ipc { id, key: status.key, uid, gid, mode: status.mode & 0o777, creator, pids }
}

fn capture_by(
    asked: &mut Asked<'_>,
    objects: &[(Kind, i32, Status)],
    living: &[(&StoppedProcess, &[Mapping])],
    may: &dyn Fn(&StoppedProcess, libc::c_long) -> bool,
    tree: &Tree,
    pack: &mut PackWriter,
) -> Result<Found, Error> {
    let mut found = Found::default();
    let of =
        |kind: Kind| objects.iter().filter(move |object| object.0 == kind).map(|object| (object.1, object.2));
    for (id, status) in of(Kind::Segment) {
        let windows = tree.windows.get(&id).map(Vec::as_slice).unwrap_or_default();
        let made_here = [status.first_pid, status.last_pid].iter().any(|pid| tree.pids.contains(pid));
        if tree.shared && windows.is_empty() && !made_here {
            continue;
        }
        if can_be_made(&status) {
            found.own.push(Own { kind: Kind::Segment, id });
        }
        let mut segment = Segment {
            ipc: ipc(id, &status, &[status.first_pid, status.last_pid]),
            len_bytes: status.size,
            pages: Pages::default(),
            digest: [0; 32],
            huge_shift: tree.huge_shifts.get(&id).copied(),
            first_key: tree.first_keys.get(&id).copied().unwrap_or(status.key),
            removed: status.mode & sysv::SHM_DEST != 0,
            locked: status.mode & sysv::SHM_LOCKED != 0,
        };
        (segment.pages, segment.digest) = segment_content(asked, may, &segment, windows, pack)?;
        found.segments.push(segment);
    }
    let mut sets = Vec::new();
    let mut keys = Vec::new();
    for (id, status) in of(Kind::Semaphores) {
        match asked.semaphores(id, status.size as usize)? {
            Ok(values) => {
                sets.push((id, Values { operated: status.operated, ..values }));
                keys.push(status);
            }
            // None of its own, if it may neither read nor alter it.
            Err(_) if tree.shared => {}
            Err(source) => return Err(Error::Object { kind: Kind::Semaphores, id, source }),
        }
    }
    let mut undo: Vec<Vec<SemaphoreUndo>> = vec![Vec::new(); sets.len()];
    let any_operated = sets.iter().any(|(_, values)| values.operated);
    for (process, mappings) in living.iter().filter(|_| any_operated) {
        if !has_undo(process) {
            continue;
        }
        if !may(process, libc::SYS_semop) {
            return Err(Error::Forbidden { pid: process.pid, call: "semop" });
        }
        let adjusted = if process.pid == asked.process.pid {
            asked.undo(&sets)?
        } else {
            let mut asked = Asked::new(process, mappings)?;
            let adjusted = asked.undo(&sets)?;
            asked.done()?;
            adjusted
        };
        for (undo, adjust) in undo.iter_mut().zip(adjusted) {
            if adjust.iter().any(|adjust| *adjust != 0) {
                undo.push(SemaphoreUndo { pid: Pid::new(process.inner), adjust });
            }
        }
    }
    for (((id, values), status), undo) in sets.into_iter().zip(keys).zip(undo) {
        let waited = tree.waits(id, &[libc::SYS_semop, libc::SYS_semtimedop]);
        let operated = values.pids.iter().any(|pid| tree.pids.contains(pid));
        if tree.shared && !operated && !waited && undo.is_empty() {
            continue;
        }
        if can_be_made(&status) && !values.awaited && !tree.is_used(Kind::Semaphores, id) {
            found.own.push(Own { kind: Kind::Semaphores, id });
        }
        let ipc = ipc(id, &status, &values.pids);
        found.semaphores.push(SemaphoreSet { ipc, values: values.values, operated: status.operated, undo });
    }
    for (id, status) in of(Kind::Queue) {
        let pids = [status.first_pid, status.last_pid];
        let operated = pids.iter().any(|pid| tree.pids.contains(pid));
        if tree.shared && !operated && !tree.waits(id, &[libc::SYS_msgrcv, libc::SYS_msgsnd]) {
            continue;
        }
        let messages = asked.messages(id, &status)?;
        let messages = messages.map_err(|source| Error::Object { kind: Kind::Queue, id, source })?;
        if can_be_made(&status) && !tree.is_used(Kind::Queue, id) {
            found.own.push(Own { kind: Kind::Queue, id });
        }
        found.queues.push(MessageQueue {
            ipc: ipc(id, &status, &pids),
            capacity_bytes: status.size,
            messages,
        });
    }
    if !tree.shared {
        // They end with their namespace.
        found.own.clear();
    }
    Ok(found)
}

/// Reads a segment through the attachments of the tree, or through one of our own making where they do not show all.
fn segment_content(
    asked: &mut Asked<'_>,
    may: &dyn Fn(&StoppedProcess, libc::c_long) -> bool,
    segment: &Segment,
    windows: &[ram::Window],
    pack: &mut PackWriter,
) -> Result<(Pages, [u8; 32]), Error> {
    let id = segment.ipc.id;
    let len = segment.attached_bytes().unwrap_or(segment.len_bytes);
    let failed = |source| Error::Object { kind: Kind::Segment, id, source };
    let whole = || windows.iter().filter(|(offset, _, _, bytes)| *offset == 0 && *bytes == len);
    let own = whole().find(|(_, pid, ..)| *pid == asked.process.through);
    let mut digest = blake3::Hasher::new();
    if let Some(window) = own.or_else(|| whole().next()) {
        let parts = if let Some(shift) = segment.huge_shift {
            ram::readable_pages(std::slice::from_ref(window), 1 << shift)?
        } else if own.is_some() && may(asked.process, libc::SYS_mincore) {
            let failed = |source| Error::Inject { pid: asked.process.pid, source };
            unseen::filled(&mut asked.area, *window).map_err(failed)?
        } else {
            vec![*window]
        };
        let (pages, _) = ram::capture_windows(&parts, Some(&mut digest), None, pack)?;
        return Ok((pages, digest.finalize().into()));
    }
    // Attached and detached by one tape, which makes an end of it even without us.
    let mut job = Job::new(0);
    let flags = sysv::SHM_RDONLY as u64;
    let mut attach = Entry::call(libc::SYS_shmat as u64, [id as u64, 0, flags, 0, 0, 0]);
    // The call that makes the tape halt stands between them.
    attach.forward = asked.area.entry_address(2) + Entry::arg_offset(0) as u64;
    job.tape = vec![attach, Entry::call(libc::SYS_shmdt as u64, [0; 6])];
    let through = asked.process.through;
    let ran = asked.area.run_halting(&mut job, 1, |so_far| {
        let address = match so_far.tape[0].result {
            result if (-4095..0).contains(&result) => {
                return Err(failed(Errno::from_raw_os_error(-result as i32)));
            }
            address => address as u64,
        };
        frost_sys::fault::point("freeze.segment").map_err(failed)?;
        let window = (0, through, address, len);
        Ok(ram::capture_windows(&[window], Some(&mut digest), None, pack)?)
    });
    let captured = ran.map_err(|source| Error::Inject { pid: asked.process.pid, source })?;
    Ok((captured?.0, digest.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with such operations, were the adjustment this.
    fn simulated(bytes: &[u8], count: u64, mut value: i32, mut adjust: i32) -> Errno {
        for operation in bytes.chunks_exact(6).take(count as usize) {
            let word = |at: usize| i16::from_ne_bytes([operation[at], operation[at + 1]]);
            value += i32::from(word(2));
            if value < 0 {
                return Errno::AGAIN;
            }
            if value > MOST_VALUE {
                return Errno::RANGE;
            }
            if word(4) & sysv::SEM_UNDO != 0 {
                adjust -= i32::from(word(2));
                if adjust < -MOST_VALUE - 1 {
                    return Errno::RANGE;
                }
            }
        }
        panic!("the operations would have been done");
    }

    #[test]
    fn a_probe_tells_whether_an_adjustment_bears_a_decrease_at_any_value() {
        for value in [0, 1, 16_383, 16_384, 32_766, 32_767] {
            for adjust in [-32_768, -32_767, -1, 0, 1, 5, 32_767] {
                for decrease in [0, 1, 2, 32_767, 32_768, 32_769, 32_773, 65_534, 65_535] {
                    let mut operations = Vec::new();
                    let count = probe(&mut operations, 0, value, decrease);
                    let bears = decrease <= adjust + 32_768;
                    let expected = if bears { Errno::AGAIN } else { Errno::RANGE };
                    let found = simulated(&operations, count, value.into(), adjust);
                    assert_eq!(found, expected, "value {value}, adjustment {adjust}, decrease {decrease}");
                }
            }
        }
    }
}
