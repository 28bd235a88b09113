//! Builds the tree: starts the root as a stub that runs its tape, and waits until every thread is at the gate.

use crate::baseline::{self, Baseline};
use crate::cap::directory::Removed;
use crate::compile::{self, FAILURE, InnerCall, Numbers, Program, Relation, When};
use crate::control::{Area, CONTROL_BYTES, Results};
use crate::error::{Context, Error};
use crate::layout::Gaps;
use crate::nest;
use crate::pool::{self, Pool};
use crate::script::{Expect, Note, Placed, Subject};
use crate::stage::Stage;
use frost_model::{Checkpoint, Pid, Steps};
use frost_sys::{fault, proc, ptrace};
use frost_tracee::stub::Stub;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::borrow::Cow;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Where the stub lies: below all that [`Gaps`] considers.
const STUB_LOAD: u64 = 0x40_0000;
/// How often is looked for deaths that nothing tells of.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long no call at all may end before the thaw gives up. One call reads 1 GiB at most.
const NO_PROGRESS: Duration = Duration::from_secs(300);

/// What is built, opened by the caller.
pub(crate) struct Material {
    /// The raw pages.
    pub(crate) pack: OwnedFd,
    /// Open file descriptions by their index; `None` for those that are not there any more.
    pub(crate) descriptions: Vec<Option<OwnedFd>>,
    /// Descriptors that take the place of a description under one number.
    pub(crate) instead: Vec<(frost_model::DescriptionId, i32, OwnedFd)>,
    /// Pseudoterminals that control a session, by their index.
    pub(crate) terminals: Vec<(usize, OwnedFd)>,
    /// The file systems of the terminals of each nest.
    pub(crate) nests: nest::Terminals,
    /// Directories that were made and removed again.
    pub(crate) removed: Removed,
    /// Calls of each process about its descriptors.
    pub(crate) calls: Vec<Vec<InnerCall>>,
    /// For each set of semaphores whether the ends of the processes were undone in it already.
    pub(crate) undone: Vec<bool>,
}

/// A tree of which not all is known to be right yet; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Half<'a> {
    /// With the numbers that its processes and threads have, which are not those of the image for all.
    pub(crate) checkpoint: Cow<'a, Checkpoint>,
    pub(crate) program: Program,
    pub(crate) numbers: Numbers,
    area: Area,
    /// The root and its pid in our namespace.
    pub(crate) root: i32,
    pub(crate) pidfd: OwnedFd,
    /// The writing end of the gate.
    gate: Option<OwnedFd>,
    /// Its reading end, which tells a keeper whether it was opened.
    pub(crate) gate_read: OwnedFd,
    pub(crate) baseline: Baseline,
    /// Since when the program's clocks go on, if they go on from where they stood.
    pub(crate) clocks_since: Option<Instant>,
    armed: bool,
}

/// Marks the beginning of a step of ours, where a fault may be injected.
pub(crate) fn begin(stage: Stage) -> Result<(), Error> {
    fault::point(stage.name()).at(stage, || "injected fault".to_owned())?;
    if fault::planned(stage.name()) == Some("kill") {
        // Pid 1 of a namespace is not reached by its own signals.
        std::process::exit(128 + libc::SIGKILL);
    }
    Ok(())
}

/// Sets our timer slack, which is the default of our children.
fn inherit_slack(nanos: u64) {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(nanos));
}

/// Raises soft limits as far as they go: the tree's own are set when it is built.
fn raise_limits() {
    for number in [libc::RLIMIT_NOFILE, libc::RLIMIT_AS, libc::RLIMIT_DATA, libc::RLIMIT_STACK]
        .into_iter()
        .chain([libc::RLIMIT_MEMLOCK, libc::RLIMIT_FSIZE, libc::RLIMIT_NPROC, libc::RLIMIT_SIGPENDING])
        .chain([libc::RLIMIT_MSGQUEUE])
    {
        if let Ok((soft, hard)) = frost_sys::limits::get(number)
            && soft < hard
        {
            // If it does not work, what needs it fails by name.
            let _ = frost_sys::limits::set(number, hard, hard);
        }
    }
}

/// Opens, compiles and starts, and returns when every thread is at the gate and all results are as they must be.
///
/// `groups` are our supplementary groups, if they cannot be read here. With `sibling` the root becomes a child of our
/// parent. `beside` is called when the tree is on its way.
pub(crate) fn build<'a>(
    checkpoint: &'a Checkpoint,
    relation: Relation,
    groups: Option<Vec<u32>>,
    sibling: bool,
    material: impl FnOnce() -> Result<Material, Error>,
    beside: impl FnOnce() -> Result<(), Error>,
    steps: &mut Steps,
) -> Result<Half<'a>, Error> {
    begin(Stage::Open)?;
    raise_limits();
    let Material { pack, descriptions, instead, terminals, nests, removed, calls, undone } = material()?;
    let stage = Stage::Open;
    let (gate_read, gate_write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(stage, || "the gate".to_owned())?;
    let arrived = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).at(stage, || "an eventfd".to_owned())?;
    let our_arrived = arrived.try_clone().map_err(|error| Error::Builder {
        stage,
        object: "an eventfd".to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::MFILE),
    })?;
    let our_gate_read = gate_read.try_clone().map_err(|error| Error::Builder {
        stage,
        object: "the gate".to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::MFILE),
    })?;
    let (mut pool, mut numbers) =
        pool::open_all(checkpoint, pack, (descriptions, instead), removed, gate_read, arrived)?;
    for (index, terminal) in terminals {
        let number = pool.adopt(terminal).at(stage, || "a terminal".to_owned())?;
        numbers.terminals.insert(index, number);
    }
    let furnished = match checkpoint.nests.is_empty() {
        true => None,
        false => {
            let (read, write) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(stage, || "a pipe".to_owned())?;
            numbers.furnished = pool.adopt(read).at(stage, || "a pipe".to_owned())?;
            Some(write)
        }
    };
    let meets = |calls: &Vec<InnerCall>| calls.iter().any(|call| call.when == When::Met);
    let met = match calls.iter().any(meets) {
        false => None,
        true => {
            let (read, write) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(stage, || "a pipe".to_owned())?;
            numbers.met = Some(pool.adopt(read).at(stage, || "a pipe".to_owned())?);
            Some(write)
        }
    };
    steps.end(Stage::Open.name());

    begin(Stage::Compile)?;
    let mut baseline = Baseline::read()?;
    if let Some(groups) = groups {
        baseline.credentials.groups = groups;
    }
    let mut gaps = Gaps::of(checkpoint);
    let base = gaps.take(CONTROL_BYTES)?;
    let program = compile::compile(compile::Input {
        checkpoint,
        numbers: &numbers,
        baseline: &baseline,
        relation,
        calls,
        undone,
        base,
        gaps,
    })?;
    let tokens = tokens(&program);
    if tokens > 65_536 {
        rustix::pipe::fcntl_setpipe_size(&gate_write, tokens)
            .at(Stage::Compile, || format!("a gate for {} threads", program.arrivals))?;
    }
    let area = program.control.write([numbers.gate, numbers.arrived])?;
    let copy = area.fd().try_clone().map_err(|error| Error::Builder {
        stage: Stage::Compile,
        object: "the control area".to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::MFILE),
    })?;
    numbers.control = pool.adopt(copy).at(Stage::Compile, || "the control area".to_owned())?;
    let stub = stub(&program, &numbers).at(Stage::Compile, || "the stub".to_owned())?;
    steps.end(Stage::Compile.name());

    begin(Stage::Spawn)?;
    let pid = checkpoint.processes[0].pd.relation.pid;
    let name = checkpoint.processes[0].pd.command.as_bytes();
    let name = std::ffi::CString::new(name).unwrap_or_default();
    // Processes of a half-built tree whose parent ended must not become anybody else's children.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let slack = checkpoint.processes[0].cpu.first_timer_slack_ns();
    if slack != baseline.timer_slack_ns {
        inherit_slack(slack);
    }
    let spawned = frost_sys::stub::spawn(stub.as_fd(), &name, &[pid.raw()], sibling)
        .at(Stage::Spawn, || format!("process {pid}"));
    if slack != baseline.timer_slack_ns {
        inherit_slack(baseline.timer_slack_ns);
    }
    let (root, pidfd) = spawned?;
    let mut half = Half {
        checkpoint: Cow::Borrowed(checkpoint),
        program,
        numbers,
        area,
        root,
        pidfd,
        gate: Some(gate_write),
        gate_read: our_gate_read,
        baseline,
        clocks_since: None,
        armed: true,
    };
    // The tree has its own copies.
    drop::<Pool>(pool);
    drop(stub);
    beside()?;
    steps.end(Stage::Spawn.name());

    begin(Stage::Arrive)?;
    let mut count = 0;
    if let Some(furnished) = furnished {
        let furnisher = nest::Furnisher::new();
        for (nest, terminals) in checkpoint.nests.iter().zip(&nests) {
            half.await_keeper(nest.keeper, &our_arrived, &mut count)?;
            furnisher.furnish(checkpoint, nest, terminals)?;
        }
        drop(nests);
        let waiting: usize = checkpoint.nests.iter().map(|nest| nest::waiting(checkpoint, nest)).sum();
        rustix::io::write(&furnished, &vec![1; waiting]).at(Stage::Arrive, || "a pipe".to_owned())?;
    }
    // Who waits for all others has said so instead of coming to the gate.
    let arrivals = half.program.arrivals;
    half.arrive(&our_arrived, &mut count, arrivals)?;
    if let Some(met) = met {
        let meeting = half.program.meeting;
        rustix::io::write(&met, &vec![1; meeting as usize]).at(Stage::Arrive, || "a pipe".to_owned())?;
        half.arrive(&our_arrived, &mut count, arrivals + meeting)?;
    }
    let learnt = nest::learn(checkpoint)?;
    if !learnt.is_empty() {
        half.renumber(&learnt);
    }
    steps.end(Stage::Arrive.name());
    begin(Stage::Check)?;
    half.check()?;
    steps.end(Stage::Check.name());
    Ok(half)
}

/// The length of what opens the gate: 8 bytes for each thread, and 8 that stay, by which whoever looks at it later sees
/// that it was opened.
fn tokens(program: &Program) -> usize {
    (program.arrivals as usize + 1) * 8
}

fn stub(program: &Program, numbers: &Numbers) -> rustix::io::Result<OwnedFd> {
    let stub = Stub {
        load: STUB_LOAD,
        control_fd: numbers.control,
        control: program.control.base(),
        control_bytes: CONTROL_BYTES,
        tape: program.root,
    };
    // Where memfds are sealed against execution by default (vm.memfd_noexec) it must be asked for; kernels before
    // 6.3 do not know the flag and need none.
    let fd = match rustix::fs::memfd_create("frost-stub", MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("frost-stub", MemfdFlags::CLOEXEC),
        other => other,
    }?;
    rustix::io::write(&fd, &stub.to_elf())?;
    Ok(fd)
}

impl Half<'_> {
    /// Waits until the keeper of a nest is born. `count` are the threads that came to the gate meanwhile.
    fn await_keeper(&self, keeper: Pid, arrived: &OwnedFd, count: &mut u64) -> Result<(), Error> {
        let began = Instant::now();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let number = keeper.raw();
        // A process of that number may be what is left of another thaw, which was killed.
        let is_there = || proc::stat(number).is_ok_and(|stat| !stat.is_ending());
        while !(is_there() && self.made(&self.results()?).contains(&number)) {
            let mut fds = [PollFd::new(arrived, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Err(Errno::INTR) => continue,
                other => other.at(Stage::Arrive, || "waiting for the tree".to_owned())?,
            };
            if fds[0].revents().contains(PollFlags::IN) {
                let mut word = [0; 8];
                rustix::io::read(arrived, &mut word)
                    .at(Stage::Arrive, || "waiting for the tree".to_owned())?;
                *count += u64::from_ne_bytes(word);
                if *count >= FAILURE {
                    return Err(self.failure());
                }
            } else if fds[1].revents().contains(PollFlags::IN) {
                return Err(self.death(0));
            } else {
                let results = self.results()?;
                if let Some(index) = self.dead(&results) {
                    return Err(self.death(index));
                }
                if began.elapsed() > NO_PROGRESS {
                    return Err(self.stuck(&results));
                }
            }
        }
        Ok(())
    }

    /// Calls threads by the numbers that they have got.
    fn renumber(&mut self, learnt: &[(i32, i32)]) {
        nest::renumber(self.checkpoint.to_mut(), learnt);
        for addresses in [&mut self.program.spare, &mut self.program.remaining] {
            let taken: Vec<(i32, u64)> = learnt
                .iter()
                .filter_map(|(recorded, tid)| Some((*tid, addresses.remove(recorded)?)))
                .collect();
            addresses.extend(taken);
        }
    }

    /// Waits until as many threads as `wanted` have said that they are there; `count` have before.
    fn arrive(&self, arrived: &OwnedFd, count: &mut u64, wanted: u64) -> Result<(), Error> {
        let stage = Stage::Arrive;
        let mut progress = (0, Instant::now());
        while *count < wanted {
            let mut fds = [PollFd::new(arrived, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
            let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
            let ready = match rustix::event::poll(&mut fds, Some(&timeout)) {
                Err(Errno::INTR) => continue,
                other => other.at(stage, || "waiting for the tree".to_owned())?,
            };
            if fds[0].revents().contains(PollFlags::IN) {
                let mut word = [0; 8];
                rustix::io::read(arrived, &mut word).at(stage, || "waiting for the tree".to_owned())?;
                *count += u64::from_ne_bytes(word);
                if *count >= FAILURE {
                    return Err(self.failure());
                }
                continue;
            }
            if fds[1].revents().contains(PollFlags::IN) {
                return Err(self.death(0));
            }
            if ready == 0 {
                let results = self.results()?;
                if let Some(index) = self.dead(&results) {
                    return Err(self.death(index));
                }
                let done = self.entries(&results).filter(|(_, _, result)| result.is_some()).count();
                if done != progress.0 {
                    progress = (done, Instant::now());
                } else if progress.1.elapsed() > NO_PROGRESS {
                    return Err(self.stuck(&results));
                }
            }
        }
        Ok(())
    }

    fn results(&self) -> Result<Results, Error> {
        self.area.results().at(Stage::Check, || "the control area".to_owned())
    }

    fn entries<'r>(
        &'r self,
        results: &'r Results,
    ) -> impl Iterator<Item = (&'r Placed, &'r Note, Option<i64>)> + 'r {
        self.program.tapes.iter().flat_map(move |tape| {
            tape.notes
                .iter()
                .enumerate()
                .map(move |(index, note)| (tape, note, results.get(tape.offset, index)))
        })
    }

    /// Checks what every call returned.
    fn check(&self) -> Result<(), Error> {
        let results = self.results()?;
        for (tape, note, result) in self.entries(&results) {
            let Some(result) = result else { continue };
            match note.expect {
                Expect::Success if is_error(result) => return Err(self.call_failed(tape, note, result)),
                Expect::Bytes(wanted) if result != wanted as i64 => {
                    if is_error(result) {
                        return Err(self.call_failed(tape, note, result));
                    }
                    return Err(Error::Short {
                        pid: self.pid(tape.process),
                        object: self.describe(tape.process, note),
                        got: result as u64,
                        wanted,
                    });
                }
                Expect::Success | Expect::Bytes(_) | Expect::Anything => {}
            }
        }
        Ok(())
    }

    fn pid(&self, process: usize) -> Pid {
        self.checkpoint.processes[process].pd.relation.pid
    }

    fn call_failed(&self, tape: &Placed, note: &Note, result: i64) -> Error {
        let mut errno = Errno::from_raw_os_error(-result as i32);
        if note.subject == Subject::Injected
            && let Err(injected) = fault::point(note.stage.name())
        {
            errno = injected;
        }
        Error::Call {
            pid: self.pid(tape.process),
            stage: note.stage,
            object: self.describe(tape.process, note),
            source: errno,
        }
    }

    /// Tells which call failed.
    fn failure(&self) -> Error {
        match self.check() {
            Err(error) => error,
            Ok(()) => self.death(0),
        }
    }

    /// Finds a process that ended though it should not have.
    fn dead(&self, results: &Results) -> Option<usize> {
        let made = self.made(results);
        self.checkpoint.processes.iter().position(|process| {
            let pid = process.pd.relation.pid.raw();
            !process.cpu.threads.is_empty()
                && made.contains(&pid)
                && proc::stat(pid).map_or(true, |stat| matches!(stat.state, b'Z' | b'X'))
        })
    }

    /// Returns the pids of all processes that were cloned so far.
    fn made(&self, results: &Results) -> HashSet<i32> {
        let mut made = HashSet::from([self.root]);
        for (_, note, result) in self.entries(results) {
            if matches!(note.stage, Stage::Clone | Stage::Group | Stage::Session)
                && let (Some(pid), Subject::Id(wanted)) = (result, note.subject)
                && (pid == i64::from(wanted) || Some(pid) == self.inside_nest(wanted))
            {
                made.insert(wanted);
            }
        }
        made
    }

    /// The number of a process of a nest as others in there, who clone it, are told.
    fn inside_nest(&self, pid: i32) -> Option<i64> {
        let pid = Pid::new(pid);
        let nest = self.checkpoint.nest_of(pid)?;
        nest.inner(pid).map(|pid| pid.raw().into())
    }

    /// Says how a process ended and what it did last.
    fn death(&self, process: usize) -> Error {
        let pid = self.pid(process);
        let mut how = "ended".to_owned();
        if let Ok(results) = self.results() {
            for (tape, note, result) in self.entries(&results) {
                if let (Expect::Success | Expect::Bytes(_), Some(result)) = (note.expect, result)
                    && is_error(result)
                {
                    return self.call_failed(tape, note, result);
                }
            }
            let last = self
                .entries(&results)
                .filter(|(tape, _, result)| tape.process == process && result.is_some())
                .last()
                .map(|(tape, note, _)| format!("{}: {}", note.stage, self.describe(tape.process, note)));
            how = match last {
                Some(last) => format!("ended after {last}"),
                None => "ended before its first call".to_owned(),
            };
        }
        Error::Died { pid, how }
    }

    fn stuck(&self, results: &Results) -> Error {
        let waiting = self.program.tapes.iter().find_map(|tape| {
            if tape.thread == usize::MAX {
                return None;
            }
            let reached = |index: &usize| results.get(tape.offset, *index).is_some();
            let last = (0..tape.notes.len()).rev().find(reached).unwrap_or(0);
            let note = &tape.notes[last];
            (note.stage != Stage::Gate).then(|| {
                (self.pid(tape.process), format!("{}: {}", note.stage, self.describe(tape.process, note)))
            })
        });
        let (pid, at) = waiting.unwrap_or((self.pid(0), "the gate".to_owned()));
        Error::Stuck { pid, seconds: NO_PROGRESS.as_secs(), at }
    }

    /// Says what a call was about.
    fn describe(&self, process: usize, note: &Note) -> String {
        let process = &self.checkpoint.processes[process];
        match note.subject {
            Subject::Step => "its own memory".to_owned(),
            Subject::Injected => "injected fault".to_owned(),
            Subject::Named(name) => name.to_owned(),
            Subject::Region(index) => match process.rm.regions.get(index as usize) {
                Some(region) => crate::plan::region_text(region),
                None => format!("region {index}"),
            },
            Subject::Dataspace(index) => format!("shared memory {index}"),
            Subject::Segment(id) => format!("System V segment {id}"),
            Subject::Semaphores(id) => format!("System V semaphores {id}"),
            Subject::Fd(fd) => format!("fd {fd}"),
            Subject::Id(id) => match note.stage {
                Stage::Session => format!("session {id}"),
                Stage::Group => format!("process group {id}"),
                Stage::Clone | Stage::Zombie => {
                    format!("process {id} ({})", baseline::command_in(&self.checkpoint, id))
                }
                _ => format!("thread {id}"),
            },
            Subject::Signal(signal) => format!("the action of signal {signal}"),
            Subject::Limit(number) => crate::plan::limit_name(number).to_owned(),
            Subject::Timer(id) if id >= 0 => format!("timer {id}"),
            Subject::Timer(id) => format!("interval timer {}", -1 - id),
        }
    }

    /// Opens the gate: from here on the tree lives, whatever becomes of us.
    pub(crate) fn open_gate(&mut self) -> Result<(), Error> {
        let tokens = vec![1u8; tokens(&self.program)];
        if let Some(gate) = &self.gate {
            // One write, into a pipe with room for all of it: the kernel copies it without an end in between.
            let written = rustix::io::write(gate, &tokens).at(Stage::Commit, || "the gate".to_owned())?;
            if written != tokens.len() {
                return Err(Error::Builder {
                    stage: Stage::Commit,
                    object: "the gate".to_owned(),
                    source: Errno::NOSPC,
                });
            }
        }
        self.armed = false;
        self.gate = None;
        let _ = rustix::process::set_child_subreaper(None);
        Ok(())
    }

    /// Ends all that was built and waits until it is gone.
    fn end(&mut self) {
        self.gate = None;
        let mut gone: HashSet<i32> = HashSet::new();
        let kill = |pid: i32| {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        };
        loop {
            // The results of a process that ended are final, so this finds every child in the end.
            let made = self.area.results().map(|results| self.made(&results)).unwrap_or_default();
            let mut fresh: Vec<i32> = made.into_iter().filter(|pid| !gone.contains(pid)).collect();
            fresh.sort_by_key(|pid| *pid != self.root);
            if fresh.is_empty() {
                break;
            }
            for pid in &fresh {
                kill(*pid);
            }
            // Parents before children: then a child is ours to reap when its turn has come.
            // The first of a pid namespace ends only when all in there have been reaped (`zap_pid_ns_processes`,
            // kernel/pid_namespace.c), by us too, who may trace them.
            let order = |pid: &i32| {
                let of = |process: &frost_model::Process| process.pd.relation.pid.raw() == *pid;
                (
                    self.checkpoint.kept_by(Pid::new(*pid)).is_some(),
                    self.checkpoint.processes.iter().position(of),
                )
            };
            fresh.sort_by_key(order);
            for pid in fresh {
                // The end of a process is told when its threads are collected, which is ours to do once we trace them.
                let process = self.checkpoint.processes.iter().find(|p| p.pd.relation.pid.raw() == pid);
                let threads = process.map_or(&[][..], |process| &process.cpu.threads);
                for tid in threads.iter().skip(1).map(|thread| thread.tid.raw()).chain([pid]) {
                    while let Ok(Some(stop)) = ptrace::wait(tid, true) {
                        if matches!(stop, ptrace::Stop::Exited(_) | ptrace::Stop::Killed(_)) {
                            break;
                        }
                        kill(pid);
                    }
                }
                gone.insert(pid);
            }
        }
        let _ = rustix::process::set_child_subreaper(None);
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.end();
        }
    }
}

fn is_error(result: i64) -> bool {
    (-4095..0).contains(&result)
}
