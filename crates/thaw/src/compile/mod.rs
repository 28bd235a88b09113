//! Compiles a checkpoint into tapes.
//!
//! Each process and each thread gets one tape. Tapes are placed children first, since a parent's clone calls name
//! the tape of the child. What a tape relies on: every descriptor it needs is in the table it inherits, under the
//! numbers of [`Numbers`]; the control area is mapped; all signals are blocked and have their default action.

mod credentials;
mod descriptors;
mod inherit;
mod keys;
mod memory;
mod process;
mod sysv;
mod thread;
mod tree;

pub(crate) use memory::least_aio_ring;
pub(crate) use process::MOST_TIMER_STEPS;
pub(crate) use thread::{ended_with, words};
pub(crate) use tree::{led, obstacles as tree_obstacles};

use crate::baseline::Baseline;
use crate::control::Control;
use crate::error::Error;
use crate::layout::Gaps;
use crate::script::{Placed, Script, Subject};
use crate::stage::Stage;
use frost_model::cap::FileRef;
use frost_model::{Checkpoint, Process};
use frost_sys::fault;
use inherit::Inheritance;
use std::collections::HashMap;
use tree::Tree;

/// The numbers of inherited descriptors, none of which a process of the image uses.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// The reading end of the gate.
    pub(crate) gate: i32,
    /// The eventfd by which threads say that they are at the gate.
    pub(crate) arrived: i32,
    /// The pack.
    pub(crate) pack: i32,
    /// The control area.
    pub(crate) control: i32,
    /// Where a byte comes for each living process of a nest, once that is furnished.
    pub(crate) furnished: i32,
    /// Where a byte comes for each process that waits until all others are there, if any does.
    pub(crate) met: Option<i32>,
    /// Descriptions of the image, by their index.
    pub(crate) descriptions: Vec<Option<i32>>,
    /// What takes the place of a description (by index) under one number of the program.
    pub(crate) instead: HashMap<(usize, i32), i32>,
    /// Pseudoterminals that control a session, by their index.
    pub(crate) terminals: HashMap<usize, i32>,
    /// Memfds of dataspaces, by their index.
    pub(crate) dataspaces: Vec<Option<i32>>,
    /// Such memfds opened for reading, by the index of the dataspace, where a shared mapping may not become writable.
    pub(crate) dataspaces_to_read: HashMap<usize, i32>,
    /// Files without a name that mappings show, opened anew for that: by description, and whether it is for writing, too.
    pub(crate) descriptions_shown: HashMap<(usize, bool), i32>,
    /// Files that are mapped, executed, or are a directory of a process.
    pub(crate) files: HashMap<FileUse, i32>,
}

/// A file and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileUse {
    /// Its path.
    pub(crate) path: Vec<u8>,
    /// How.
    pub(crate) mode: FileMode,
    /// Device and inode of a directory that had been removed: there may have been several by one path.
    pub(crate) removed: Option<(u64, u64)>,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileMode {
    /// For reading.
    Read,
    /// For reading and writing: a shared mapping that may be written.
    Write,
    /// As a directory to go to.
    Directory,
}

impl FileUse {
    /// Names a file and how it is opened.
    pub(crate) fn new(file: &FileRef, mode: FileMode) -> Self {
        let identity = &file.identity;
        let removed = identity.removed.then_some((identity.device, identity.inode));
        Self { path: file.path.as_bytes().to_vec(), mode, removed }
    }
}

/// How the tree stands to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    /// We stay its parent and lend it our terminal.
    pub(crate) attach: bool,
    /// It is a copy beside the original.
    pub(crate) copy: bool,
}

/// The tapes of a checkpoint.
#[derive(Debug)]
pub(crate) struct Program {
    /// The control area they lie in.
    pub(crate) control: Control,
    /// All tapes.
    pub(crate) tapes: Vec<Placed>,
    /// The address of the root's tape.
    pub(crate) root: u64,
    /// How many threads come to the gate.
    pub(crate) arrivals: u64,
    /// How many of them say before that, too, that they are there, and wait for all others.
    pub(crate) meeting: u64,
    /// Where a mask with SIGCHLD alone and a time of zero lie.
    pub(crate) drain: [u64; 2],
    /// Where the time lies that the interrupted call of a thread had left, by its number.
    pub(crate) remaining: HashMap<i32, u64>,
    /// The address of the entry in front of that by which a thread leaves its tape, by its number.
    pub(crate) spare: HashMap<i32, u64>,
}

/// The value by which a thread says at the gate's eventfd that it failed.
pub(crate) const FAILURE: u64 = 1 << 32;

struct Compiler<'a> {
    checkpoint: &'a Checkpoint,
    numbers: &'a Numbers,
    baseline: &'a Baseline,
    relation: Relation,
    tree: Tree,
    /// What each process has of its parent's memory, by index.
    inheritance: Vec<Inheritance>,
    control: Control,
    tapes: Vec<Placed>,
    /// Tape addresses of processes that are compiled already, by index.
    process_tapes: Vec<u64>,
    /// Tape addresses of those who bear children of the keeper, by the index of the child.
    bearers: HashMap<usize, u64>,
    /// Where each shared anonymous dataspace is parked, by index.
    parked: Vec<Option<u64>>,
    /// Where each segment is parked that is attached for writing, or for reading only.
    segments: Vec<[Option<u64>; 2]>,
    parking: Option<(u64, u64)>,
    undone: Vec<bool>,
    one: u64,
    failure: u64,
    long_wait: u64,
    drain: [u64; 2],
    calls: Vec<Vec<InnerCall>>,
    /// Numbers that nobody has in each nest.
    spare_numbers: Vec<crate::nest::Spare>,
    fault_due: bool,
    remaining: HashMap<i32, u64>,
    spare: HashMap<i32, u64>,
}

/// A call that a process makes once its descriptors are in place.
#[derive(Clone, Debug)]
pub struct InnerCall {
    /// The number of the call.
    pub nr: libc::c_long,
    /// Its arguments.
    pub args: [u64; 6],
    /// Arguments that point to bytes: their index, and the bytes.
    pub data: Vec<(usize, Vec<u8>)>,
    /// The descriptor it is about.
    pub fd: i32,
    /// What it returns becomes an argument of a later call: how many calls on, and which argument.
    pub result_to: Option<(usize, usize)>,
    /// When it is made.
    pub when: When,
}

/// When a process makes a call about its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once they are in place.
    Placed,
    /// When every process and thread of the tree is there, by its number.
    Met,
    /// When all other descriptors of the building are closed.
    Alone,
    /// When it is itself, with its own user and groups.
    Itself,
}

impl InnerCall {
    /// Makes call `nr` about descriptor `fd`; arguments that are not given are zero.
    pub fn new(nr: libc::c_long, args: &[u64], fd: i32) -> Self {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Self { nr, args: all, data: Vec::new(), fd, result_to: None, when: When::Placed }
    }
}

/// What is compiled.
pub(crate) struct Input<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) numbers: &'a Numbers,
    pub(crate) baseline: &'a Baseline,
    pub(crate) relation: Relation,
    /// Calls of each process about its descriptors, by its index.
    pub(crate) calls: Vec<Vec<InnerCall>>,
    /// For each set of semaphores whether the ends of the processes were undone in it already.
    pub(crate) undone: Vec<bool>,
    /// Where the control area lies.
    pub(crate) base: u64,
    pub(crate) gaps: Gaps,
}

/// Compiles a checkpoint.
pub(crate) fn compile(input: Input<'_>) -> Result<Program, Error> {
    let Input { checkpoint, numbers, baseline, relation, calls, undone, base, gaps } = input;
    let mut control = Control::at(base);
    let one = control.words(&[1]);
    let failure = control.words(&[FAILURE]);
    // Bounds a wait for another process of the tree: it ends by itself should that one have failed.
    let long_wait = control.words(&[120, 0]);
    let drain = [control.words(&[1 << (libc::SIGCHLD - 1)]), control.words(&[0, 0])];
    let mut compiler = Compiler {
        checkpoint,
        numbers,
        baseline,
        relation,
        tree: Tree::of(checkpoint, relation),
        inheritance: Inheritance::of(checkpoint),
        control,
        tapes: Vec::new(),
        process_tapes: vec![0; checkpoint.processes.len()],
        bearers: HashMap::new(),
        parked: Vec::new(),
        segments: Vec::new(),
        parking: None,
        undone,
        one,
        failure,
        long_wait,
        drain,
        calls,
        spare_numbers: checkpoint.nests.iter().map(crate::nest::Spare::of).collect(),
        fault_due: true,
        remaining: HashMap::new(),
        spare: HashMap::new(),
    };
    compiler.park(gaps)?;
    compiler.make_words();
    let (mut arrivals, mut meeting) = (0, 0);
    for index in (0..checkpoint.processes.len()).rev() {
        compiler.process(index)?;
        arrivals += checkpoint.processes[index].cpu.threads.len() as u64;
        meeting += u64::from(compiler.meets(index));
    }
    let root = compiler.process_tapes[0];
    Ok(Program {
        control: compiler.control,
        tapes: compiler.tapes,
        root,
        arrivals,
        meeting,
        drain: compiler.drain,
        remaining: compiler.remaining,
        spare: compiler.spare,
    })
}

impl Compiler<'_> {
    /// Says what the next entries of `script` are about, and injects a fault if one is due there.
    fn about(&mut self, script: &mut Script, process: usize, stage: Stage, subject: Subject) {
        script.about(stage, subject);
        if !self.fault_due || process != 0 {
            return;
        }
        let Some(fault) = fault::planned(stage.name()) else { return };
        self.fault_due = false;
        if fault == "kill" {
            script.attempt(libc::SYS_kill, &[self.baseline.pid as u64, libc::SIGKILL as u64]);
        } else {
            script.about(stage, Subject::Injected);
            script.call(libc::SYS_close, &[u64::MAX]);
            script.about(stage, subject);
        }
    }

    fn process(&mut self, index: usize) -> Result<(), Error> {
        let process = &self.checkpoint.processes[index];
        if process.cpu.threads.is_empty() {
            return self.zombie(index, process);
        }
        let mut threads = Vec::with_capacity(process.cpu.threads.len());
        for number in 1..process.cpu.threads.len() {
            threads.push(self.thread(index, process, number)?);
        }
        let ghosts = self.ghosts(index, process)?;
        let mut script =
            if index == 0 { Script::start(&self.control) } else { Script::start_of_clone(&self.control) };
        let script_mut = &mut script;
        if index == 0 {
            self.clean(script_mut);
            self.build_parking(script_mut);
        }
        self.disinherit(script_mut, index);
        let early = self.inheritance[index].early;
        if early {
            self.memory(script_mut, index, process);
        }
        self.family(script_mut, index, process, &ghosts);
        self.enter_nest(script_mut, index, process);
        self.descriptors(script_mut, index, process);
        if !early {
            self.memory(script_mut, index, process);
        }
        self.finish_memory(script_mut, index, process);
        self.bounds(script_mut, index, process);
        self.actions(script_mut, index, process);
        self.settings(script_mut, index, process);
        self.clone_threads(script_mut, index, process, &threads);
        // It may wait for others, who must not wait for us at their meeting then.
        self.undo(script_mut, index, process);
        self.meet(script_mut, index);
        self.directories(script_mut, index, process);
        self.close_rest(script_mut, index);
        self.timers(script_mut, index, process);
        self.limits(script_mut, index, process);
        self.thread_state(script_mut, index, process, 0);
        self.inner_calls(script_mut, index, When::Itself);
        self.gate(script_mut, index, process, 0);
        self.process_tapes[index] = script.tape.address();
        let placed = script.place(&mut self.control, index, 0)?;
        self.tapes.push(placed);
        Ok(())
    }

    /// Unmaps all but the control area: the stub itself, its stack and its vDSO.
    fn clean(&mut self, script: &mut Script) {
        self.about(script, 0, Stage::Clean, Subject::Step);
        let base = self.control.base();
        let end = base + crate::control::CONTROL_BYTES;
        script.call(libc::SYS_munmap, &[0, base]);
        script.call(libc::SYS_munmap, &[end, TASK_END - end]);
    }
}

/// One past the highest address of user space with four-level page tables.
const TASK_END: u64 = 0x7fff_ffff_f000;

/// Returns what `thread` of `process` is to have as credentials.
fn credentials_of(process: &Process, thread: usize) -> &frost_model::pd::Credentials {
    process.cpu.threads[thread].credentials.as_ref().unwrap_or(&process.pd.credentials)
}
