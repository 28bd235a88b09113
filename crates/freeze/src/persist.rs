//! The life of a freeze, in its guardian.

use crate::Keeper;
use crate::cap::{Beside, Captured, Motion, mqueue, sysv, tcp};
use crate::copies::Copies;
use crate::difference::{self, Earlier};
use crate::failure::{Failure, FailureKind};
use crate::filter::{self, Filters};
use crate::guardian::Meter;
use crate::held::{Held, Since};
use crate::inner::{self, ProcessFacts, Questions};
use crate::landlock;
use crate::listening;
use crate::nest::{self, Nests};
use crate::patience::Patience;
use crate::precopy::Precopy;
use crate::rm::{Backing, Behind, FileCache};
use crate::statuses::Statuses;
use crate::survey::{self, Seen};
use crate::unseen::Onlookers;
use crate::urgent::Urgent;
use crate::{Frozen, Options, cpu, deposit, end, file, host, pd, ram, reach, rm};
use frost_model::cap::{Capability, Content, Description, FileIdentity, Objects, RegularFile, Unnamed};
use frost_model::clock::Clocks;
use frost_model::id::{DataspaceId, DescriptionId, ObjectId};
use frost_model::pd::Descriptor;
use frost_model::ram::Pages;
use frost_model::rm::{Attachment, PageRange, Region, RmState};
use frost_model::{BytePath, Checkpoint, Obstacle, PAGE_SIZE, Pid, Process, Steps};
use frost_store::{Draft, Name, Store, Then};
use frost_sys::lease::Leases;
use frost_sys::pagemap::Pagemap;
use frost_sys::proc::{self, Mapping, Timer};
use frost_sys::{fault, ipc, pidfd, ptrace, sight};
use frost_tracee::seize::{self, StoppedProcess, StoppedTree};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What a living process is known by while it is captured.
struct Known {
    mappings: Vec<Mapping>,
    timers: Vec<Timer>,
    facts: ProcessFacts,
    descriptors: Vec<Descriptor>,
}

/// Everything needed to say what failed.
pub(crate) struct Freeze<'a> {
    pid: i32,
    what: &'a str,
    steps: &'a mut Steps,
    /// What the program's IPC namespace has, if that is not ours.
    ipc: Option<ipc::Lists>,
}

impl Freeze<'_> {
    /// Returns whether process `pid`, which stands still, has an IPC namespace of its own that has nothing in it. Most
    /// programs have not, and that is told without anything made in there.
    fn has_no_ipc(&self, pid: i32) -> bool {
        self.ipc.as_ref().is_some_and(|lists| lists.are_empty_for(pid).unwrap_or(false))
    }

    /// Ends a step; a fault may be injected behind it.
    pub(crate) fn step(&mut self, name: &str) -> Result<(), Failure> {
        self.steps.end(name);
        fault::point(name).map_err(|errno| self.failed(&errno).cause(format!("at step {name}")))
    }

    pub(crate) fn failed(&self, error: &(dyn Error + 'static)) -> Failure {
        let mut kind = FailureKind::Failed;
        let mut at: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = at {
            // An error that is passed on as it is does not appear among the sources.
            let passed_on = match error.downcast_ref::<ram::Error>() {
                Some(ram::Error::Store(inner)) => Some(inner),
                _ => error.downcast_ref::<frost_store::Error>(),
            };
            let full = passed_on.is_some_and(frost_store::Error::is_no_space)
                || matches!(
                    error.downcast_ref::<Errno>(),
                    Some(&(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
                );
            let denied = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                matches!(
                    error.kind(),
                    std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem
                )
            });
            if full {
                kind = FailureKind::NoSpace;
            } else if denied && kind == FailureKind::Failed {
                kind = FailureKind::Denied;
            }
            at = error.source();
        }
        let failure = Failure::new(kind, self.what)
            .because(error)
            .state(format!("process {} is running again, unchanged", self.pid));
        if kind == FailureKind::NoSpace {
            failure.hint("make room, or choose a store elsewhere by $FROST_HOME")
        } else {
            failure
        }
    }

    /// The program cannot be carried.
    fn refused(&self, obstacles: Vec<frost_model::Obstacle>) -> Failure {
        tracing::info!(obstacles = obstacles.len(), "the program cannot be carried");
        Failure {
            obstacles,
            ..Failure::new(FailureKind::Unsupported, self.what)
                .state(format!("process {} is running again, unchanged", self.pid))
        }
    }

    pub(crate) fn stop_failed(&self, error: &seize::Error) -> Failure {
        let failure = self.failed(error);
        match error {
            seize::Error::Gone { .. } => Failure { kind: FailureKind::NotFound, ..failure }
                .state("it ended while it was being stopped"),
            seize::Error::Denied { why, .. } => {
                Failure { kind: FailureKind::Denied, ..failure }.hint(why.remedy())
            }
            seize::Error::Traced { .. } => Failure { kind: FailureKind::Unsupported, ..failure }
                .hint("detach the debugger, then freeze it"),
            seize::Error::Narrow { .. } => Failure { kind: FailureKind::Unsupported, ..failure }
                .hint("only programs of 64 bits are carried"),
            seize::Error::Timeout { .. } => {
                failure.hint("try again; `frost check` shows what the kernel supports")
            }
            seize::Error::Growing { .. } => failure.hint("stop what forks without end, then try again"),
            seize::Error::Kernel { .. } => failure,
        }
    }
}

/// Freezes `pid`; runs in the guardian.
pub(crate) fn run(
    store: &Store,
    pid: i32,
    name: &Name,
    options: Options<'_>,
    what: &str,
    steps: &mut Steps,
    mut meter: Meter,
) -> Result<Frozen, Failure> {
    // Without them the program is asked.
    let mut freeze = Freeze { pid, what, steps, ipc: ipc::Lists::of(pid).ok().flatten() };
    survey::see_as(options.keeper);
    proc::number_as(pid);
    let _meant = crate::network::mean(options.keeper).map_err(|error| freeze.failed(&error))?;
    let mut draft = store.begin(name).map_err(|error| freeze.failed(&error))?;
    let origin = frost_store::observe(pid).map_err(|error| freeze.failed(&error))?.unwrap_or_default();
    draft.aim_at(&origin).map_err(|error| freeze.failed(&error))?;
    let mut earlier = None;
    if !options.full {
        earlier = Earlier::find(store, name, &mut draft).map_err(|error| freeze.failed(&error))?;
    }
    if options.progress.is_some() {
        let resident = resident_bytes(pid);
        draft.pack().watch(move |done, reserved| meter.update(done, reserved.max(resident)));
    }
    // Here, not in the stop, and not between what is copied last and the stop.
    let features = host::cpu_features();
    freeze.step("freeze.begin")?;

    let mut patience = Patience::new();
    let copies_before = options.leave_running || options.precopy;
    let mut held = None;
    if let Some(found) = options.keeper.and_then(Held::take) {
        // Of no use beside another image, nor if all is copied while the program stands still.
        let fits = |earlier: &Earlier| found.is_since(earlier.since());
        let is_of_use = copies_before && earlier.as_ref().is_some_and(fits);
        held = is_of_use.then_some(found);
    }
    let mut copies = Copies::default();
    let mut precopy = if copies_before {
        let pack = draft.pack();
        Precopy::run(&mut freeze, pid, options, pack, &mut copies, &mut earlier, held, &mut patience)?
    } else {
        None
    };
    let keeper = options.keeper.map(crate::adopter);
    let mut longest = precopy.as_ref().map_or(Duration::ZERO, Precopy::pause);
    let mut stop = |freeze: &mut Freeze<'_>,
                    precopy: &mut Option<Precopy>,
                    draft: &mut Draft,
                    earlier: &mut Option<Earlier>,
                    exact| {
        let mut urgent = precopy.as_mut().and_then(Precopy::urgent).unwrap_or_else(Urgent::first);
        urgent.beside(pid);
        draft.pack().hash_elsewhere(urgent.leave());
        let pause = Instant::now();
        let tree = StoppedTree::stop(pid, keeper, options.stop_timeout)
            .map_err(|error| freeze.stop_failed(&error))?;
        tracing::info!(processes = tree.processes().len(), "process {pid} and its descendants stand still");
        let clocks = host::clocks(pid);
        freeze.step("freeze.stop")?;
        let memory = Memory {
            earlier,
            draft,
            copies: &mut copies,
            extents: &mut Vec::new(),
            placed: &mut HashMap::new(),
            precopy,
            urgent: &urgent,
        };
        let mut captures = match capture(freeze, &tree, (clocks, &features), memory, options, exact) {
            Ok(captures) => captures,
            Err(failure) => {
                drop(tree);
                longest = longest.max(pause.elapsed());
                return Err(failure);
            }
        };
        if !options.leave_running {
            return Ok((captures, Some(tree), pause));
        }
        tree.resume_knowing(std::mem::take(&mut captures.unhindered));
        longest = longest.max(pause.elapsed());
        drop(urgent);
        freeze.step("freeze.resume")?;
        Ok((captures, None, pause))
    };
    let mut stop = |freeze: &mut Freeze<'_>,
                    precopy: &mut Option<Precopy>,
                    draft: &mut Draft,
                    earlier: &mut Option<Earlier>,
                    exact| {
        loop {
            match stop(freeze, precopy, draft, earlier, exact) {
                Err(failure) if Obstacle::all_pass(&failure.obstacles) && patience.wait() => {}
                outcome => return outcome,
            }
        }
    };
    // A program that is ended cannot be asked afterwards.
    let exact = !options.leave_running;
    let (mut captures, mut stopped, pause) =
        stop(&mut freeze, &mut precopy, &mut draft, &mut earlier, exact)?;
    let mut lifting = None;
    if let Some(precopy) = &mut precopy {
        if options.leave_running {
            precopy.look_again();
        }
        precopy
            .settle(&mut captures.checkpoint, draft.pack(), &mut earlier)
            .map_err(|error| freeze.failed(&error))?;
        freeze.step("precopy.settle")?;
    }
    if options.leave_running && precopy.is_some() {
        if options.keeper.is_some() {
            // While a thread reads the flags of mappings.
            draft.pack().sync().map_err(|error| freeze.failed(&error))?;
        } else {
            // While the protection is lifted.
            draft.pack().begin_sync();
        }
        if precopy.as_mut().is_some_and(|precopy| !precopy.verify(pid)) {
            (captures, _, _) = stop(&mut freeze, &mut precopy, &mut draft, &mut earlier, true)?;
            if let Some(precopy) = &mut precopy {
                precopy
                    .settle(&mut captures.checkpoint, draft.pack(), &mut earlier)
                    .map_err(|error| freeze.failed(&error))?;
            }
        }
        freeze.step("precopy.verify")?;
        if options.keeper.is_none() {
            // While the device writes.
            let lift = precopy.as_mut().map(Precopy::lift);
            let named = || std::thread::Builder::new().name("frost-lift".to_owned());
            lifting = lift.and_then(|lift| named().spawn(lift).ok());
        }
    }
    let Captures { mut checkpoint, written, own, unseen, .. } = captures;
    if options.bundle {
        let known = earlier.as_ref().map_or(&[][..], |earlier| earlier.bundle.as_slice());
        checkpoint.bundle = crate::bundle::gather(
            &checkpoint,
            known,
            options.keeper.map_or(&[], Keeper::layers),
            draft.pack(),
        )
        .map_err(|error| freeze.failed(&error))?;
    }
    let threads = checkpoint.processes.iter().map(|process| process.cpu.threads.len()).sum::<usize>() as u32;
    let mut frozen = Frozen {
        name: name.to_string(),
        version: 0,
        bytes: 0,
        base: earlier.map(|earlier| earlier.version()),
        processes: checkpoint.processes.len() as u32,
        threads,
        pause_us: longest.as_micros() as u64,
        passes: precopy.as_ref().map_or(0, Precopy::pass_count),
        dirty_pages: precopy.as_ref().map_or(0, |precopy| precopy.stopped_bytes() / PAGE_SIZE),
        elapsed_us: 0,
        running: options.leave_running,
        warnings: warnings(&checkpoint, options),
        steps: Vec::new(),
    };
    frozen.warnings.extend(precopy.as_ref().and_then(Precopy::note));
    let told = |why| {
        format!(
            "of shared memory without a name or a descriptor only what is mapped is in the image ({why}); if the program has \
             hidden a part of it by munmap or remap_file_pages, that is lost (root sees all of it)"
        )
    };
    frozen.warnings.extend(unseen.into_iter().map(told));
    if options.leave_running {
        sync(&written).map_err(|errno| freeze.failed(&errno))?;
        freeze.step("freeze.sync-files")?;
    }
    let ending = match &stopped {
        Some(tree) => end::note(store, name, tree, options.keeper).map_err(|error| freeze.failed(&error))?,
        None => None,
    };
    let then = if options.leave_running { Then::GoOn } else { Then::End };
    let committed = draft.commit(&checkpoint, origin, then);
    if let Some(Ok(lifted)) = lifting.map(std::thread::JoinHandle::join) {
        let pause = lifted.leave(pid, keeper, options.stop_timeout);
        frozen.pause_us = frozen.pause_us.max(pause.as_micros() as u64);
    }
    let committed = committed.map_err(|error| freeze.failed(&error))?;
    tracing::info!(bytes = committed.bytes, "{} is complete and synced", committed.id);
    frozen.version = committed.id.version;
    frozen.bytes = committed.bytes;
    frozen.warnings.extend(
        committed.replaced.iter().map(|id| format!("{id} was superseded, and is replaced by this image")),
    );
    // From here on the image is complete: a fault is no failure of the freeze any more, but a death of the guardian
    // leaves the program running and the image superseded.
    freeze.steps.end("freeze.commit");
    let survived = fault::point("freeze.commit").is_ok();
    if options.leave_running
        && let (Some(precopy), Some(keeper)) = (&mut precopy, options.keeper)
    {
        precopy.hold(keeper, &Since { version: committed.id.version, digest: committed.manifest_digest });
    }
    if let Some(tree) = stopped.take() {
        if survived
            && let Some(keeper) = options.keeper
            && let Err(why) = keeper.complete(frozen.version)
        {
            frozen.warnings.push(format!("its keeper does not know that it was frozen: {why}"));
        }
        if survived {
            let kept = options.keeper.and_then(|keeper| listening::keep(&tree, &checkpoint, keeper));
            frozen.warnings.extend(kept);
            tcp::give_ports_free(&tree, &checkpoint);
            let housed = options.keeper.filter(|keeper| sysv::is_housed(pid, keeper.pid()));
            end::end(tree, ending.as_ref(), options.keeper);
            sysv::remove(&own);
            // A keeper that stays would keep them in memory; should that not work, nothing but memory is lost.
            let _ = housed.map(|keeper| frost_sys::sysv::clear(keeper.pid()));
        }
        frozen.pause_us = longest.max(pause.elapsed()).as_micros() as u64;
        freeze.steps.end("freeze.end");
    }
    frozen.running |= !survived;
    frozen.elapsed_us = freeze.steps.elapsed().as_micros() as u64;
    frozen.steps = freeze.steps.done().to_vec();
    Ok(frozen)
}

/// Returns how much memory a process and its descendants have; what they share is counted for each.
fn resident_bytes(pid: i32) -> u64 {
    let children = proc::children(pid).unwrap_or_default();
    proc::status(pid).map_or(0, |status| status.resident_bytes)
        + children.into_iter().map(resident_bytes).sum::<u64>()
}

/// What a capture gives.
struct Captures {
    checkpoint: Checkpoint,
    /// Files that are open for writing.
    written: Vec<OwnedFd>,
    /// System V objects that go with the program.
    own: Vec<sysv::Own>,
    /// Threads whose filters do not forbid the kernel to go on with their calls.
    unhindered: BTreeSet<i32>,
    /// Why there is shared memory of which only that was seen which mappings show.
    unseen: BTreeSet<String>,
}

fn capture(
    freeze: &mut Freeze<'_>,
    tree: &StoppedTree,
    (clocks, features): (Clocks, &[String]),
    mut memory: Memory<'_>,
    options: Options<'_>,
    exact: bool,
) -> Result<Captures, Failure> {
    if let Some(precopy) = &mut memory.precopy {
        precopy.begin_stop();
    }
    let mut files = FileCache::default();
    let statuses = Statuses::of(tree, memory.urgent);
    let living: Vec<&StoppedProcess> = tree.processes().iter().filter(|process| !process.zombie).collect();
    let users: Vec<reach::User> = living
        .iter()
        .map(|process| reach::User {
            through: process.through,
            inner: Pid::new(process.inner),
            command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        })
        .collect();
    // Before anything looks at a file. All else that is in the way cannot be told then.
    let silent = reach::silent(&users);
    if !silent.is_empty() {
        return Err(freeze.refused(silent));
    }
    let mut maps = Vec::with_capacity(living.len());
    for process in &living {
        let found = mappings(process, memory.precopy, exact, options.keeper);
        let found = found.map_err(|error| freeze.failed(&*error))?;
        maps.push(match rm::named(&found, process.through, &mut files) {
            Cow::Borrowed(_) => found,
            Cow::Owned(named) => named,
        });
    }
    for (process, mappings) in living.iter().zip(&maps) {
        crate::aio::settle(process.through, mappings).map_err(|errno| {
            freeze.failed(&errno).cause(format!("asynchronous I/O of process {} does not end", process.pid))
        })?;
    }
    freeze.step("freeze.sweep")?;

    let (written, leased) = written_files(&living, &maps).map_err(|errno| freeze.failed(&errno))?;
    if !options.leave_running {
        // Before anything notes what these files are: their times may change by it.
        sync(&written).map_err(|errno| freeze.failed(&errno))?;
        freeze.step("freeze.sync-files")?;
    }

    let seen: Vec<Seen<'_>> = living.iter().zip(&maps).map(|(process, maps)| seen(process, maps)).collect();
    let (mut catalog, mut obstacles) = survey::look(&seen, &mut files, Motion::Stopped, options.keeper)
        .map_err(|error| freeze.failed(&error))?;
    obstacles.extend(leased);
    let nests = Nests::among(seen.iter().map(|process| process.pid));
    let (filters, in_the_way) = filter::learn(&survey::members(&seen, Some(&statuses)), options.keeper);
    obstacles.extend(in_the_way);
    let root = seen.first().map(|root| (root.inner, root.command.as_str()));
    let (network, in_the_way) =
        crate::network::look(options.keeper, root).map_err(|error| freeze.failed(&error))?;
    obstacles.extend(in_the_way);
    obstacles.extend(living.iter().filter_map(|process| lost_leader(process)));
    obstacles.extend(living.iter().filter_map(|process| dispatching(process)));
    if !obstacles.is_empty() {
        return Err(freeze.refused(obstacles));
    }
    freeze.step("freeze.survey")?;

    let mut known = BTreeMap::new();
    for (process, mappings) in living.iter().zip(maps) {
        let timers = proc::timers(process.through).unwrap_or_default();
        let questions = Questions {
            personality: filters.let_call(process, libc::SYS_personality),
            memory_policy: filters.let_call(process, libc::SYS_get_mempolicy),
            keyrings: filters.let_call(process, libc::SYS_keyctl),
            protection_keys: filters.let_call(process, libc::SYS_pkey_mprotect),
            segments: filters.let_call(process, libc::SYS_modify_ldt),
            processor: filters.let_call(process, libc::SYS_arch_prctl),
            other: filters.let_call(process, libc::SYS_kcmp).then(|| landlock::witness(process)).flatten(),
        };
        let facts =
            inner::read(process, &mappings, &timers, questions).map_err(|error| freeze.failed(&error))?;
        let descriptors = catalog.descriptors(Pid::new(process.inner));
        known.insert(process.pid, Known { mappings, timers, facts, descriptors });
    }
    let warned = |process: &&StoppedProcess| warned_of_leader(tree, process, &known[&process.pid].facts);
    let mut obstacles: Vec<_> = living.iter().filter_map(warned).collect();
    obstacles.extend(living.iter().filter_map(|process| own_keyring(process, &known[&process.pid].facts)));
    obstacles.extend(living.iter().filter_map(|process| silent_of_keys(process, &known[&process.pid])));
    obstacles.extend(living.iter().filter_map(|process| own_segments(process, &known[&process.pid].facts)));
    let keepers: Vec<_> = living
        .iter()
        .filter(|process| nests.keeper_of(process.pid) == Some(process.pid))
        .map(|process| (*process, known[&process.pid].mappings.as_slice()))
        .collect();
    obstacles.extend(nest::survey_ipc(&keepers).map_err(|error| freeze.failed(&error))?);
    obstacles
        .extend(living.iter().filter_map(|process| landlock::refuse(process, &known[&process.pid].facts)));
    if !obstacles.is_empty() {
        return Err(Failure {
            obstacles,
            ..Failure::new(FailureKind::Unsupported, freeze.what)
                .state(format!("process {} is running again, unchanged", freeze.pid))
        });
    }
    freeze.step("freeze.inner")?;
    // From here on the program does nothing for us, and needs no processor. What is read now is read by two of us: options of
    // sockets, and memory, unless its places in the pack have to lie behind those of all else.
    catalog.read_ahead(|work| memory.urgent.have_done(work));
    let mut placed = HashMap::new();
    if memory.precopy.is_some() {
        for (at, process) in tree.processes().iter().enumerate() {
            if let Some(known) = known.get(&process.pid) {
                let found = memory.place_all((at, process), &known.mappings, &mut files);
                placed.insert(process.pid, found.map_err(|error| freeze.failed(&error))?);
            }
        }
        freeze.step("precopy.rest")?;
    }

    // Shared memory without a descriptor gets its number behind that which has one.
    let mut unnamed = ram::SharedMemories::new();
    let mut deleted = ram::DeletedFiles::new();
    for process in &living {
        for mapping in &known[&process.pid].mappings {
            if let Ok(backing) = rm::backing(mapping, process.through, &mut files)
                && ram::needs_windows(&backing, &catalog)
            {
                ram::note_shared(&mut unnamed, process.through, mapping, &backing);
            }
            if let Ok(Backing::Deleted { device, inode }) = rm::backing(mapping, process.through, &mut files)
                && catalog.description_of(device, inode).is_none()
            {
                ram::note_deleted(&mut deleted, process.through, mapping);
            }
        }
    }
    // What lives in a nest has another namespace, in which there is nothing.
    let asked: Vec<_> = living
        .iter()
        .filter(|process| nests.keeper_of(process.pid).is_none())
        .map(|process| (*process, known[&process.pid].mappings.as_slice()))
        .collect();
    let has_no_ipc = asked.first().is_some_and(|(process, _)| freeze.has_no_ipc(process.through));
    let sysv = match has_no_ipc {
        true => sysv::Found::default(),
        false => {
            let may = |process: &StoppedProcess, call| filters.let_call(process, call);
            sysv::capture(&asked, &may, memory.draft.pack()).map_err(|error| match error {
                sysv::Error::Unreadable { obstacles } => freeze.refused(obstacles),
                _ => freeze.failed(&error),
            })?
        }
    };
    let own = sysv.own.clone();
    let mut behind = Referents {
        dataspaces: BTreeMap::new(),
        catalog: BTreeMap::new(),
        descriptions: BTreeMap::new(),
        sysv,
    };
    behind.learn(&catalog, known.values().flat_map(|known| &known.mappings));
    for process in &living {
        for mapping in &known[&process.pid].mappings {
            if mapping.shared
                && mapping.flags.has(*b"mw")
                && let Ok(Backing::File(file)) = rm::backing(mapping, process.through, &mut files)
            {
                let command = String::from_utf8_lossy(&process.stat.comm);
                catalog.note_mapped(file.path.as_bytes(), Pid::new(process.pid), &command);
            }
        }
    }
    let nests = nest::capture(tree, &nests, &catalog.terminals()).map_err(|errno| freeze.failed(&errno))?;
    if let Some(earlier) = &*memory.earlier {
        for process in &living {
            earlier.tell(Pid::new(process.inner), &known[&process.pid].mappings, memory.copies);
        }
    }
    let mut sink = Beside { pack: memory.draft.pack(), copies: memory.copies };
    let Captured { mut descriptions, mut objects, mut dataspaces } =
        catalog.capture(&mut sink, options.files).map_err(|error| freeze.failed(&error))?;
    if let Some((process, _)) = asked.first().filter(|_| !has_no_ipc) {
        let closed = mqueue::capture_closed(process.through, &objects.mqueues);
        objects.mqueues.extend(closed.map_err(|error| freeze.failed(&error))?);
    }
    freeze.step("freeze.descriptors")?;
    let may = |process: &StoppedProcess, call| filters.let_call(process, call);
    let with_mappings = |process: &&'_ StoppedProcess| known[&process.pid].mappings.as_slice();
    let onlookers =
        Onlookers::new(living.iter().map(|process| (*process, with_mappings(process))).collect(), &may);
    let mut unseen = BTreeSet::new();
    for (key, object) in &unnamed {
        let id = DataspaceId::new(dataspaces.len() as u32);
        let copies = (*key, &mut *memory.copies);
        let binary = open_binary(&living, *key);
        let (captured, why) =
            ram::capture_shared_whole(object, copies, binary, &onlookers, memory.draft.pack())
                .map_err(|error| freeze.failed(&error))?;
        unseen.extend(why);
        dataspaces.push(captured);
        behind.dataspaces.insert(*key, id);
    }

    for (key, file) in &deleted {
        let id = DescriptionId::new(descriptions.len() as u32);
        let (captured, why) = capture_deleted(*key, file, &onlookers, &mut objects, memory.draft, clocks)
            .map_err(|error| freeze.failed(&error))?;
        unseen.extend(why);
        descriptions.push(captured);
        behind.descriptions.insert(*key, id);
    }
    onlookers.leave().map_err(|error| freeze.failed(&error))?;

    let mut processes = Vec::with_capacity(tree.processes().len());
    for process in tree.processes() {
        processes.push(match known.remove(&process.pid) {
            Some(known) => {
                let placed = match placed.remove(&process.pid) {
                    Some(placed) => placed,
                    None => memory
                        .place_all((processes.len(), process), &known.mappings, &mut files)
                        .map_err(|error| freeze.failed(&error))?,
                };
                capture_process(tree, process, known, placed, &statuses, (&behind, &filters), &mut files)
                    .map_err(|error| freeze.failed(&*error))?
            }
            None => Process {
                pd: pd::capture_zombie(tree, process),
                cpu: Default::default(),
                rm: Default::default(),
            },
        });
    }
    let xstate = processes.first().and_then(|process| process.cpu.threads.first());
    let xstate = xstate.map_or(&[][..], |thread| thread.xstate.as_slice());
    let mut host = host::describe(
        tree.processes().first().map_or(freeze.pid, |root| root.through),
        xstate,
        features.to_vec(),
        options.keeper,
    );
    if let Some(runtime) = &mut host.runtime {
        runtime.network = network;
    }
    freeze.step("freeze.sessions")?;
    let mut layers = Vec::new();
    for source in options.keeper.map(Keeper::layers).unwrap_or_default() {
        let layer = crate::layer::capture(source, memory.draft.pack());
        layers.push(layer.map_err(|error| freeze.failed(&error))?);
    }
    copy_memory(tree, memory.extents, memory.draft, &filters).map_err(|error| freeze.failed(&error))?;
    freeze.step("freeze.memory")?;
    behind.sysv.put(&mut objects);
    objects.filters = filters.used();
    let mut checkpoint = Checkpoint {
        host,
        clocks,
        processes,
        descriptions,
        objects,
        dataspaces,
        machine: None,
        layers,
        bundle: Vec::new(),
        nests,
    };
    let rules = checkpoint.host.runtime.as_mut().map(|runtime| std::mem::take(&mut runtime.routes));
    let refused = crate::routes::apply(&mut checkpoint, rules.as_deref().unwrap_or_default());
    let refused = refused.map_err(|(path, error)| {
        freeze.failed(&error).cause(format!("{path} cannot be read for its route `truncate`"))
    })?;
    if !refused.is_empty() {
        return Err(freeze.refused(refused));
    }
    if let (Some(runtime), Some(rules)) = (&mut checkpoint.host.runtime, rules) {
        runtime.routes = rules;
    }
    let unhindered = filters.unhindered(tree);
    Ok(Captures { checkpoint, written, own, unhindered, unseen })
}

/// Opens a file that is the binary of a process, which its user may whatever became of its name.
fn open_binary(living: &[&StoppedProcess], (device, inode): (u64, u64)) -> Option<OwnedFd> {
    let path = living.iter().map(|process| proc::path(process.through, "exe")).find(|path| {
        rustix::fs::stat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
    })?;
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Adds a file without a name, and returns a description of it that no process has, from which it is mapped.
fn unnamed(objects: &mut Objects, file: Unnamed, flags: OFlags) -> Description {
    let content = Content::Unnamed(ObjectId::new(objects.unnamed.len() as u32));
    objects.unnamed.push(file);
    let capability = Capability::Regular(RegularFile { content, position: 0 });
    Description { flags: flags.bits(), owner: None, locks: Vec::new(), capability }
}

/// Captures a file without a name through its mappings: as a description that no process has, from which it is mapped.
fn capture_deleted(
    (device, inode): (u64, u64),
    file: &ram::DeletedFile,
    onlookers: &Onlookers<'_>,
    objects: &mut Objects,
    draft: &mut Draft,
    clocks: Clocks,
) -> Result<(Description, Option<String>), ram::Error> {
    let ((pages, len_bytes), unseen) = ram::capture_deleted(file, onlookers, draft.pack())?;
    // Owner and mode are not told to whoever may not open it.
    let identity = FileIdentity {
        device,
        inode,
        mode: libc::S_IFREG | 0o600,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        len_bytes,
        modified: clocks.realtime,
        ..FileIdentity::default()
    };
    let file = Unnamed { path: BytePath::new(file.path.as_slice()), identity, pages, marks: None };
    Ok((unnamed(objects, file, OFlags::RDWR), unseen))
}

/// Fills the places that extents have in the pack: each process writes its own where that is sooner and allowed, and
/// the rest is read from outside.
fn copy_memory(
    tree: &StoppedTree,
    extents: &[ram::Extent],
    draft: &mut Draft,
    filters: &Filters,
) -> Result<(), ram::Error> {
    draft.pack().require_reserved()?;
    // Extents of a process lie together, and unreadable ones are few.
    for chunk in extents.chunk_by(|a, b| a.pid == b.pid) {
        let (readable, unreadable): (Vec<_>, Vec<_>) = chunk.iter().partition(|extent| extent.readable);
        let process = tree.processes().iter().find(|process| process.through == chunk[0].pid);
        // First, since its places lie between those of the others, which are hashed as they are written.
        ram::copy(&unreadable, false, draft.pack())?;
        let own = match process {
            Some(process) if !filters.hold(process) => {
                let mappings = proc::bare_mappings(process.through).unwrap_or_default();
                deposit::write(process, &mappings, &readable, draft.pack())?
            }
            _ => false,
        };
        if !own {
            ram::copy(&readable, true, draft.pack())?;
        }
    }
    Ok(())
}

/// How the image refers to memory behind descriptors, once the catalog was used up.
struct Referents {
    dataspaces: BTreeMap<(u64, u64), DataspaceId>,
    catalog: BTreeMap<(u64, u64), DataspaceId>,
    descriptions: BTreeMap<(u64, u64), DescriptionId>,
    sysv: sysv::Found,
}

impl Referents {
    fn learn<'m>(&mut self, catalog: &dyn Behind, mappings: impl Iterator<Item = &'m Mapping>) {
        for mapping in mappings.filter(|mapping| mapping.inode != 0) {
            let key = (mapping.device, mapping.inode);
            self.catalog.extend(catalog.dataspace(key.0, key.1).map(|id| (key, id)));
            self.descriptions.extend(catalog.description(key.0, key.1).map(|id| (key, id)));
        }
    }
}

impl Behind for Referents {
    fn dataspace(&self, device: u64, inode: u64) -> Option<DataspaceId> {
        let key = (device, inode);
        self.catalog.get(&key).or_else(|| self.dataspaces.get(&key)).copied()
    }

    fn description(&self, device: u64, inode: u64) -> Option<DescriptionId> {
        self.descriptions.get(&(device, inode)).copied()
    }

    fn segment(&self, id: i32) -> Option<ObjectId> {
        self.sysv.segment(id)
    }
}

/// Reads the mappings of a stopped process, after removing what a freezer that died may have left there.
fn mappings(
    process: &StoppedProcess,
    precopy: &mut Option<Precopy>,
    exact: bool,
    keeper: Option<&dyn Keeper>,
) -> Result<Vec<Mapping>, Box<dyn Error>> {
    let mut look = || match precopy {
        Some(precopy) => precopy.mappings(process, exact),
        None => proc::mappings(process.through),
    };
    let mappings = look()?;
    if filter::sweep(process, &mappings, keeper)? { Ok(look()?) } else { Ok(mappings) }
}

fn seen<'a>(process: &'a StoppedProcess, mappings: &'a [Mapping]) -> Seen<'a> {
    Seen {
        pid: process.pid,
        through: process.through,
        inner: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        pidfd: process.table(),
        status: &process.status,
        mappings,
    }
}

/// Refuses a process whose leader has ended, if the rest of it cannot be reached.
fn lost_leader(process: &StoppedProcess) -> Option<frost_model::Obstacle> {
    if !process.lacks_leader() {
        return None;
    }
    process.thread_pidfd.is_none().then(|| frost_model::Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: "main thread".to_owned(),
        reason: "it has ended, and this kernel gives no hold on the descriptors of the other threads"
            .to_owned(),
        remedy: "freeze it on Linux 6.9 or later".to_owned(),
        passes: false,
    })
}

/// Refuses a process that asked for a signal at the end of its parent, if the leader of that has ended already: the signal
/// comes with the end of the thread that made it (`forget_original_parent`, kernel/exit.c), and would come once more when
/// that ends again in the thawed program.
fn warned_of_leader(
    tree: &StoppedTree,
    process: &StoppedProcess,
    facts: &ProcessFacts,
) -> Option<frost_model::Obstacle> {
    let parent = tree.processes().iter().find(|other| other.pid == process.parent)?;
    let asked = facts.threads.iter().any(|thread| thread.parent_death_signal != 0);
    (asked && parent.lacks_leader()).then(|| frost_model::Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: "parent-death signal".to_owned(),
        reason: "the main thread of its parent has ended while others go on, and would end once more"
            .to_owned(),
        remedy: "let the program turn that signal off (PR_SET_PDEATHSIG)".to_owned(),
        passes: false,
    })
}

/// Refuses a process that has a keyring which would end with it. Only it can be asked.
fn own_keyring(process: &StoppedProcess, facts: &ProcessFacts) -> Option<frost_model::Obstacle> {
    let keyring = facts.threads.iter().find_map(|thread| thread.keyring)?;
    Some(frost_model::Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: format!("keyring of {keyring}"),
        reason: "the kernel does not give back all keys, nor takes them under their numbers".to_owned(),
        remedy: "let the program keep its keys in another keyring (keyrings(7)), as that of its user"
            .to_owned(),
        passes: false,
    })
}

/// Refuses a process with protection keys whose filters do not let it tell which it has.
fn silent_of_keys(process: &StoppedProcess, known: &Known) -> Option<frost_model::Obstacle> {
    let keyed = known.mappings.iter().find(|mapping| mapping.protection_key != 0)?;
    known.facts.protection_keys.is_none().then(|| frost_model::Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: format!("memory {:x}-{:x}", keyed.start, keyed.end),
        reason: "it has a protection key, and a filter forbids the call that tells which there are"
            .to_owned(),
        remedy: "let the program's filter (seccomp) allow pkey_mprotect".to_owned(),
        passes: false,
    })
}

/// Refuses a process with segments of its own, as Wine makes them for programs of 32 and 16 bits. Only it can be asked.
fn own_segments(process: &StoppedProcess, facts: &ProcessFacts) -> Option<frost_model::Obstacle> {
    facts.segments.then(|| frost_model::Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: "segments (modify_ldt)".to_owned(),
        reason: "frost does not carry the local descriptor table of a process".to_owned(),
        remedy: "run the program without those, as one of 64 bits".to_owned(),
        passes: false,
    })
}

/// Refuses a process with a thread that is handed its own calls: those of a tape would be, too.
fn dispatching(process: &StoppedProcess) -> Option<frost_model::Obstacle> {
    let dispatches =
        process.threads.iter().find(|thread| ptrace::dispatches_calls(thread.tid).unwrap_or(false))?;
    Some(frost_model::Obstacle {
        pid: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        object: format!("thread {}", dispatches.inner),
        reason: "it handles its own system calls (PR_SET_SYSCALL_USER_DISPATCH)".to_owned(),
        remedy: "freeze it when it does not, or run the program without that".to_owned(),
        passes: false,
    })
}

/// Collects every regular file that the tree has open for writing or mapped so: what must be synced, so that the
/// files on disk are those of the image. A mapped file is opened only if no descriptor leads to it.
///
/// Also tells what keeps one from being synced.
fn written_files(
    living: &[&StoppedProcess],
    maps: &[Vec<Mapping>],
) -> Result<(Vec<OwnedFd>, Vec<Obstacle>), Errno> {
    let written = |mapping: &&Mapping| mapping.shared && mapping.flags.has(*b"mw") && is_file(&mapping.name);
    let mapped: HashSet<u64> = maps.iter().flatten().filter(written).map(|mapping| mapping.inode).collect();
    let (mut files, mut obstacles) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    let mut add = |file: OwnedFd| {
        let stat = rustix::fs::fstat(&file)?;
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        if regular && known.insert((stat.st_dev, stat.st_ino)) {
            files.push(file);
        }
        Ok(())
    };
    for process in living {
        for fd in proc::numbers(process.through, "fd")? {
            let link = proc::link(process.through, &format!("fd/{fd}")).unwrap_or_default();
            if is_file(&link)
                && let Ok(ours) = pidfd::pidfd_getfd(process.table(), fd)
                && let flags = rustix::fs::fcntl_getfl(&ours)?
                && !flags.contains(OFlags::PATH)
                && (flags.intersects(OFlags::WRONLY | OFlags::RDWR)
                    // What is mapped may have been written, whatever this descriptor is for.
                    || !mapped.is_empty() && mapped.contains(&rustix::fs::fstat(&ours)?.st_ino))
            {
                add(ours)?;
            }
        }
    }
    if mapped.is_empty() {
        return Ok((files, obstacles));
    }
    let leases = Leases::recent();
    for (process, mappings) in living.iter().zip(maps) {
        for mapping in mappings.iter().filter(written) {
            let path = sight::of(proc::as_path(&mapping.name));
            // Which of them can be found by its path again is for the survey to tell.
            let Ok(stat) = rustix::fs::stat(&path) else { continue };
            if known.contains(&(stat.st_dev, stat.st_ino)) {
                continue;
            }
            match leases.open(&path, OFlags::RDONLY) {
                Ok(file) => {
                    known.insert((stat.st_dev, stat.st_ino));
                    files.push(file);
                }
                Err(Errno::AGAIN) => obstacles.push(Obstacle {
                    pid: Pid::new(process.inner),
                    command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
                    object: format!("file {}", String::from_utf8_lossy(&mapping.name)),
                    reason: "it is mapped for writing, and somebody has a lease on it (F_SETLEASE), which would be broken by \
                             syncing it"
                        .to_owned(),
                    remedy: "let the program keep a descriptor of it, or give the lease up".to_owned(),
                    passes: false,
                }),
                Err(_) => {}
            }
        }
    }
    Ok((files, obstacles))
}

/// Whether what the kernel shows is the path of a file that still has a name.
fn is_file(path: &[u8]) -> bool {
    path.starts_with(b"/")
        && !path.starts_with(b"/dev/")
        && !path.starts_with(b"/memfd:")
        && !path.ends_with(file::DELETED)
}

fn sync(files: &[OwnedFd]) -> Result<(), Errno> {
    for file in files {
        match rustix::fs::fsync(file) {
            // A file system without fsync has nothing to be synced, as proc or sysfs; O_PATH is not open for writing.
            Ok(()) | Err(Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP | Errno::BADF) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Where private memory goes: at once, if it is compared with an earlier image, else to a place that is noted.
struct Memory<'a> {
    earlier: &'a mut Option<Earlier>,
    draft: &'a mut Draft,
    copies: &'a mut Copies,
    extents: &'a mut Vec<ram::Extent>,
    /// Where the pages of each process lie that was placed already, by its pid.
    placed: &'a mut HashMap<i32, Rc<ram::Placed>>,
    /// Memory that was copied before the stop: its pages are told when the program runs again.
    precopy: &'a mut Option<Precopy>,
    urgent: &'a Urgent,
}

/// Where the pages of a mapping are that belong to it alone, and its guards.
type Placed = (Pages, Vec<PageRange>);

impl Memory<'_> {
    /// Gives the pages of all mappings of a process, which has a number among those of the tree, their places, in this order.
    fn place_all(
        &mut self,
        (at, process): (usize, &StoppedProcess),
        mappings: &[Mapping],
        files: &mut FileCache,
    ) -> Result<Vec<Placed>, ram::Error> {
        let pid = process.through;
        let open = |pid| Pagemap::open(pid).map_err(|source| ram::Error::Pagemap { pid, source });
        let pagemap = open(pid)?;
        let kin = match self.placed.get(&process.parent).cloned() {
            Some(placed) => Some(ram::Kin { pid: process.parent, pagemap: open(process.parent)?, placed }),
            None => None,
        };
        let mut own_placed = ram::Placed::new();
        let mut found = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            let backing = rm::backing(mapping, pid, files).unwrap_or(Backing::Anonymous);
            let region = (at, found.len());
            let placed = self.place(process, &pagemap, mapping, &backing, kin.as_ref(), region)?;
            let runs = placed.0.runs.iter();
            own_placed.extend(runs.map(|run| (mapping.start + run.offset, run.len_bytes, run.pack_offset)));
            found.push(placed);
        }
        if !process.lacks_leader() {
            self.placed.insert(process.pid, Rc::new(own_placed));
        }
        Ok(found)
    }

    fn place(
        &mut self,
        process: &StoppedProcess,
        pagemap: &Pagemap,
        mapping: &Mapping,
        backing: &Backing,
        kin: Option<&ram::Kin>,
        region: (usize, usize),
    ) -> Result<Placed, ram::Error> {
        let (pid, pack) = (process.through, self.draft.pack());
        if let Some(precopy) = self.precopy {
            let guards = precopy.look(process, (pagemap, mapping, backing), region, pack, self.urgent)?;
            return Ok((Pages::default(), guards));
        }
        match self.earlier {
            Some(earlier) if earlier.is_alike(difference::TRIAL_BYTES) => {
                let numbers = (pid, Pid::new(process.inner));
                earlier.store_private(numbers, pagemap, mapping, backing, kin, pack)
            }
            _ => ram::place_private(pid, pagemap, mapping, backing, kin, pack, self.extents),
        }
    }
}

fn capture_process(
    tree: &StoppedTree,
    process: &StoppedProcess,
    known: Known,
    placed: Vec<Placed>,
    statuses: &Statuses,
    (behind, filters): (&dyn Behind, &Filters),
    files: &mut FileCache,
) -> Result<Process, Box<dyn Error>> {
    let pid = process.through;
    let link = |name: &str| file::behind_link(&proc::path(pid, name));
    let root = link("root")?;
    let root = (root.path.as_bytes() != b"/").then_some(root);
    // A keeper was executed from memory that is among its own, and so was who leads a session for it.
    let is_keeper = process.status.depth() > 0 && survey::is_keeper(pid);
    let exe = if is_keeper { None } else { rm::binary(pid, &known.mappings, files)? };
    let places = pd::Places { exe, cwd: link("cwd")?, root };
    let mut regions = Vec::with_capacity(known.mappings.len());
    for (mapping, (private, guards)) in known.mappings.iter().zip(placed) {
        let backing = rm::backing(mapping, pid, files).unwrap_or(Backing::Anonymous);
        let attachment = match backing {
            Backing::Aio => Some(Attachment::Aio { events: crate::aio::events(pid, mapping)? }),
            backing => rm::attachment(mapping, backing, behind),
        };
        let (Some(range), Some(attachment)) = (rm::range(mapping), attachment) else {
            return Err(format!("memory {:x} shows an object that is gone", mapping.start).into());
        };
        regions.push(Region {
            range,
            protection: rm::protection(mapping),
            attachment,
            flags: rm::flags(mapping),
            private,
            guards,
            policy: known.facts.policies.get(&mapping.start).cloned(),
            huge_shift: rm::huge_shift(mapping),
        });
    }
    let stat = if process.lacks_leader() { &proc::stat(pid)? } else { &process.stat };
    let bounds = rm::bounds(pid, stat, known.facts.brk);
    let vdso = rm::vdso(pid, &known.mappings);
    Ok(Process {
        cpu: cpu::capture(process, &known.facts.threads, statuses, filters)?,
        pd: pd::capture(tree, process, &known.facts, &known.timers, places, known.descriptors)?,
        rm: RmState { keys: rm::keys(&regions, known.facts.protection_keys), regions, bounds, vdso },
    })
}

/// Says what will not be as the user may expect.
fn warnings(checkpoint: &Checkpoint, options: Options<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    if options.leave_running && !options.files {
        for description in &checkpoint.descriptions {
            if let Capability::Regular(regular) = &description.capability
                && let frost_model::cap::Content::Named { file, .. } = &regular.content
                && description.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32
                && !checkpoint.is_layered(&file.path)
            {
                warnings.push(format!(
                    "{} is open for writing: if the program changes it, this image can no longer be thawed \
                             with it (--files captures it)",
                    file.path
                ));
            }
        }
        warnings.dedup();
    }
    warnings
}
