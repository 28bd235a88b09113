//! The life of a freeze, in its guardian.

use crate::Keeper;
use crate::cap::{name_peers, sysv, tcp};
use crate::capture::{Captures, Memory, capture};
use crate::copies::Copies;
use crate::difference::Earlier;
use crate::failure::{Failure, FailureKind};
use crate::guardian::Meter;
use crate::held::{Held, Since};
use crate::listening;
use crate::patience::Patience;
use crate::precopy::Precopy;
use crate::survey;
use crate::urgent::Urgent;
use crate::{Frozen, Options, end, host, ram, written};
use frost_model::cap::{Capability, UnixName, UnixState};
use frost_model::{Checkpoint, Obstacle, PAGE_SIZE, Steps};
use frost_store::{Draft, Name, Store, Then};
use frost_sys::{fault, ipc, proc};
use frost_tracee::seize::{self, StoppedTree};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::time::{Duration, Instant};

/// Everything needed to say what failed.
pub(crate) struct Freeze<'a> {
    pub(crate) pid: i32,
    what: &'a str,
    steps: &'a mut Steps,
    /// What the program's IPC namespace has, if that is not ours.
    ipc: Option<ipc::Lists>,
}

impl Freeze<'_> {
    /// Returns whether process `pid`, which stands still, has an IPC namespace of its own that has nothing in it. Most
    /// programs have not, and that is told without anything made in there.
    pub(crate) fn has_no_ipc(&self, pid: i32) -> bool {
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
    pub(crate) fn refused(&self, obstacles: Vec<frost_model::Obstacle>) -> Failure {
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
    if let Some(obstacle) = crate::cap::fanotify::deciding(pid) {
        return Err(freeze.refused(vec![obstacle]));
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
        let stopped = Instant::now();
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
        let mut captures = match capture(freeze, &tree, (stopped, clocks, &features), memory, options, exact)
        {
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
    let Captures { mut checkpoint, living, written, own, unseen, .. } = captures;
    name_peers(&mut checkpoint.descriptions, &living);
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
        written::sync(&written).map_err(|errno| freeze.failed(&errno))?;
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
    frozen.warnings.extend(strangers(&checkpoint, &living, options));
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

/// Tells of a unix socket that listens, but has no file by which it is reached.
fn unreachable(capability: &Capability) -> Option<String> {
    let Capability::Unix(socket) = capability else { return None };
    let lost = matches!(socket.name, Some(UnixName::Path { present: false, .. })) && socket.places.is_empty();
    (lost && matches!(socket.state, UnixState::Listening { .. })).then(|| {
        format!("nobody can connect to a {capability} when it is thawed: its file was deleted, or moved to where it was not found")
    })
}

/// Says what will not be as the user may expect.
fn warnings(checkpoint: &Checkpoint, options: Options<'_>) -> Vec<String> {
    let mut warnings: Vec<String> = checkpoint
        .descriptions
        .iter()
        .map(|description| &description.capability)
        .filter(|capability| match capability {
            Capability::Raw(socket) => socket.waited,
            Capability::Packet(socket) => socket.waited,
            _ => false,
        })
        .map(|capability| format!("packets wait in a {capability}, which the image does not hold"))
        .collect();
    warnings.extend(
        checkpoint.descriptions.iter().map(|description| &description.capability).filter_map(unreachable),
    );
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

/// Names the processes outside of the tree that keep numbers of it taken after its end: those in its sessions and groups.
///
/// A thaw by root, of a program without a keeper, is one under the old numbers in the same pid namespace.
fn strangers(checkpoint: &Checkpoint, tree: &[i32], options: Options<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let numbers: HashSet<i32> =
        checkpoint.processes.iter().map(|process| process.pd.relation.pid.raw()).collect();
    let renumbered = tree.iter().any(|pid| !numbers.contains(pid));
    if options.keeper.is_some() || renumbered || !rustix::process::geteuid().is_root() {
        return found;
    }
    for pid in proc::pids().unwrap_or_default() {
        let Some(stat) = proc::stat(pid).ok().filter(|stat| !numbers.contains(&pid) && !stat.is_zombie())
        else {
            continue;
        };
        let (kind, number) = match (numbers.contains(&stat.pgrp), numbers.contains(&stat.session)) {
            (true, _) => ("group", stat.pgrp),
            (_, true) => ("session", stat.session),
            _ => continue,
        };
        found.push(format!(
            "process {pid} ({}), which is not in the tree, is in its {kind} {number}: before that ends, the number is not free, \
             and it can only be thawed as a copy (--clone)",
            proc::command(pid)
        ));
    }
    found
}
