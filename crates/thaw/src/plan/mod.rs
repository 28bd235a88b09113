//! The plan: what a thaw would do, and all that is in its way.
//!
//! A plan is a value. It is made without building anything, can be shown to a person or a program, and is then obeyed as
//! it stands. What is missing is collected, all of it, each with the process, the object, the reason and a remedy.

mod files;
mod host;
mod pids;
mod rights;

pub(crate) use pids::are_free;

use crate::baseline::Baseline;
use crate::cap;
use crate::compile::{self, Relation};
use crate::error::{Context, Error};
use crate::kept::Kept;
use crate::stage::Stage;
use frost_keeper::house::Home;
use frost_model::cap::{Capability, Content, Description, RegularFile};
use frost_model::ram::MemoryPolicy;
use frost_model::rm::{Attachment, Region};
use frost_model::route::{IfChanged, Rule};
use frost_model::{Checkpoint, Obstacle, Pid, Process};
use frost_store::{Image, State, Store};
use frost_sys::{network, sched};
use serde::{Deserialize, Serialize};

/// How to thaw.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Stay the parent of the program, lend it our terminal, and learn how it ends.
    pub attach: bool,
    /// Make a copy beside the original, in namespaces of its own.
    pub clone: bool,
    /// The store in which the image is marked as running; a copy is not marked.
    pub store: Option<&'a Store>,
    /// Where it is to live, if it was a program of the runtime; for a plan alone there need be none yet.
    pub home: Option<&'a Home>,
    /// What its keeper has kept while it was frozen.
    pub kept: Option<&'a Kept>,
    /// Rules about how capabilities are obtained, which come before those of the image.
    pub routes: &'a [Rule],
}

impl Options<'_> {
    /// Whether a keeper has a terminal for the program, or will have.
    fn terminal(&self, checkpoint: &Checkpoint) -> bool {
        match (self.home, &checkpoint.host.runtime) {
            (Some(home), _) => home.terminal.is_some(),
            (None, Some(runtime)) => runtime.terminal && !self.attach,
            (None, None) => false,
        }
    }
}

/// What a thaw does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The name of the instance.
    pub name: String,
    /// The version of the image.
    pub version: u32,
    /// Whether we stay its parent.
    pub attach: bool,
    /// Whether a keeper has a terminal for it.
    #[serde(default)]
    pub terminal: bool,
    /// Whether it becomes a copy.
    pub copy: bool,
    /// The namespaces that are made for it.
    pub namespaces: Namespaces,
    /// The processes, parents before their children.
    pub processes: Vec<PlannedProcess>,
    /// How each open file description is obtained that is not simply made again as it was.
    pub capabilities: Vec<cap::Planned>,
    /// What will be different for the program, a line each.
    pub notes: Vec<String>,
    /// What is in the way.
    pub obstacles: Vec<Obstacle>,
}

/// Namespaces of its own that a program gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// A user namespace: whoever thaws is an ordinary user.
    pub user: bool,
    /// Pid and mount namespaces with a keeper as pid 1.
    pub pid: bool,
    /// An IPC namespace: objects of System V are made in it under their old numbers.
    pub ipc: bool,
    /// A time namespace, in which CLOCK_MONOTONIC and CLOCK_BOOTTIME go on where they were.
    pub time: bool,
    /// A devpts of its own, in which its terminals keep their numbers.
    pub terminals: bool,
}

/// A process to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedProcess {
    /// Its pid, as it sees it.
    pub pid: Pid,
    /// Its command name.
    pub command: String,
    /// How many threads it has; none if it had ended.
    pub threads: u32,
    /// Bytes of memory that are read.
    pub memory_bytes: u64,
}

impl Plan {
    /// Works out what a thaw of `image` takes, and what is in its way.
    ///
    /// # Errors
    /// If the host or the store cannot be asked. What is missing is no error: it stands in
    /// [`obstacles`](Self::obstacles).
    pub fn new(image: &Image, options: &Options<'_>) -> Result<Self, Error> {
        let id = image.id();
        let mut plan = Self::of(image.checkpoint(), options)?;
        plan.name = id.name.to_string();
        plan.version = id.version;
        if let Some(store) = options.store.filter(|_| !options.clone) {
            let root = &image.checkpoint().processes[0];
            let runs = |instance: &frost_store::Instance, reason: &str| {
                let reason = format!("{reason} as process {}", instance.pid);
                let remedy = format!(
                    "end or freeze that process, or thaw a copy beside it (`frost thaw {id} --clone`)"
                );
                Obstacle { passes: true, ..obstacle(root, format!("image {id}"), reason, remedy) }
            };
            match store.state(id)? {
                State::Frozen => {}
                // It has its numbers, names and files, of which nothing else need be said.
                State::Running(instance) => plan.obstacles = vec![runs(&instance, "it runs already")],
                State::Superseded(instance) => {
                    plan.obstacles = vec![runs(&instance, "the program that it was made of goes on")];
                }
            }
        }
        Ok(plan)
    }

    /// Works it out for a checkpoint by itself.
    pub(crate) fn of(checkpoint: &Checkpoint, options: &Options<'_>) -> Result<Self, Error> {
        let _meant = meant(checkpoint, options)?;
        let baseline = Baseline::read()?;
        let ordinary = !rustix::process::geteuid().is_root();
        let home = options.home.is_some();
        // It gets a keeper, and has those namespaces.
        let kept = home || checkpoint.host.runtime.is_some();
        let sysv = cap::sysv::plan(checkpoint, options.clone || kept, ordinary);
        let pid = ordinary || options.clone || kept || checkpoint.host.pid_namespace;
        let terminals = pid && !checkpoint.objects.ptys.is_empty();
        // A copy has queues of its own, as has whatever lived in an IPC namespace of its own.
        let own_queues =
            !checkpoint.objects.mqueues.is_empty() && (options.clone || checkpoint.host.ipc_namespace);
        // In a keeper's there may be what an earlier life of the program has left.
        let namespaces = Namespaces {
            user: ordinary,
            pid,
            ipc: sysv.namespace || kept || own_queues,
            time: true,
            terminals,
        };
        let terminal = options.terminal(checkpoint);
        let relation = Relation { attach: options.attach, copy: options.clone };
        let mut rules = rules(checkpoint, options.routes);
        rules.extend(logs_of_keepers(checkpoint));
        let mut obstacles = host::obstacles(checkpoint, &baseline, &sysv.huge_pages);
        obstacles.extend(pids::obstacles(checkpoint, namespaces));
        obstacles.extend(files::obstacles(checkpoint, options.clone, &rules, !home));
        obstacles.extend(rights::obstacles(checkpoint, &baseline, namespaces));
        obstacles.extend(compile::tree_obstacles(checkpoint, relation));
        obstacles.extend(sysv.obstacles);
        let mut context = context(options.attach, options.clone, terminal, namespaces);
        // Nobody sees the files of its layers before it has a home.
        context.layers_unseen = !home;
        let (capabilities, refused) = cap::plan(checkpoint, &context, &rules, options.kept);
        obstacles.extend(refused);
        if !home {
            // Nor those that it brings with it.
            let brought = |obstacle: &Obstacle| {
                checkpoint.bundle.iter().skip(1).any(|bundled| {
                    let path = bundled.path().to_string_lossy().into_owned();
                    obstacle.object.ends_with(&path) || obstacle.object.contains(&format!("{path})"))
                })
            };
            obstacles.retain(|obstacle| !brought(obstacle));
        }
        Ok(Self {
            name: String::new(),
            version: 0,
            attach: options.attach,
            terminal,
            copy: options.clone,
            namespaces,
            processes: checkpoint.processes.iter().map(planned).collect(),
            capabilities,
            notes: notes(checkpoint, namespaces).into_iter().chain(sysv.notes).collect(),
            obstacles,
        })
    }

    /// Returns what the routes of descriptions depend on.
    pub(crate) fn context(&self) -> cap::ThawContext {
        context(self.attach, self.copy, self.terminal, self.namespaces)
    }

    /// Returns how processes stand to us under this plan.
    pub(crate) fn relation(&self) -> Relation {
        Relation { attach: self.attach, copy: self.copy }
    }
}

/// Means the network in which the program will live by what is asked of the kernel: that of its keeper, which is not there
/// yet where only a plan is made.
fn meant(checkpoint: &Checkpoint, options: &Options<'_>) -> Result<Option<network::Meant>, Error> {
    let runtime = checkpoint.host.runtime.as_ref();
    if runtime.is_none_or(|runtime| runtime.network.is_none()) {
        return Ok(None);
    }
    let whose = options.home.map_or(network::Whose::New, |home| network::Whose::Process(home.keeper));
    network::mean(whose).map(Some).at(Stage::Namespaces, || "a network of its own".to_owned())
}

/// The rules that hold for a thaw: those that are given, then those that the program was started with.
pub fn rules(checkpoint: &Checkpoint, given: &[Rule]) -> Vec<Rule> {
    let own = checkpoint.host.runtime.iter().flat_map(|runtime| &runtime.routes);
    given.iter().chain(own).cloned().collect()
}

/// What a keeper within the program has logged since is no reason to refuse that: it only appends to its log, and an image may
/// be thawed once more.
fn logs_of_keepers(checkpoint: &Checkpoint) -> Vec<Rule> {
    let keepers = checkpoint
        .processes
        .iter()
        .filter(|process| checkpoint.nests.iter().any(|nest| nest.keeper == process.pd.relation.pid));
    let held = keepers.flat_map(|keeper| &keeper.pd.descriptors);
    let descriptions = held.filter_map(|entry| checkpoint.descriptions.get(entry.description.index()));
    let log = |description: &Description| match &description.capability {
        Capability::Regular(RegularFile { content: Content::Named { file, .. }, .. })
            if file.path.as_path().file_name().is_some_and(|name| name == "log") =>
        {
            Some(Rule::of_file(&file.path.to_string(), IfChanged::Ignore))
        }
        _ => None,
    };
    descriptions.filter_map(log).collect()
}

fn context(attach: bool, copy: bool, terminal: bool, namespaces: Namespaces) -> cap::ThawContext {
    cap::ThawContext {
        attach,
        copy,
        own_terminals: namespaces.terminals,
        terminal,
        own_ipc: namespaces.ipc,
        own_pids: namespaces.pid,
        layers_unseen: false,
    }
}

fn planned(process: &Process) -> PlannedProcess {
    PlannedProcess {
        pid: process.pd.relation.pid,
        command: process.pd.command.to_string(),
        threads: process.cpu.threads.len() as u32,
        memory_bytes: process.rm.regions.iter().map(|region| region.private.len_bytes()).sum(),
    }
}

fn notes(checkpoint: &Checkpoint, namespaces: Namespaces) -> Vec<String> {
    let mut notes = Vec::new();
    // What `frost run` started had them before.
    let gets = checkpoint.host.runtime.is_none();
    if gets && namespaces.user {
        notes.push(
            "you are no administrator: it gets user and pid namespaces of its own, in which no other user and group has a number \
             and nothing runs as another user (sudo)"
                .to_owned(),
        );
    } else if gets && namespaces.pid {
        notes.push("it gets a pid namespace of its own".to_owned());
    }
    if checkpoint.processes.iter().any(|process| process.pd.root.is_some()) {
        notes.push("a process has a root directory of its own".to_owned());
    }
    notes.extend(places(checkpoint));
    notes
}

/// Says which parts of this machine, to which a program was bound, are not here. It runs without them: they make it fast,
/// and nothing depends on them.
fn places(checkpoint: &Checkpoint) -> impl Iterator<Item = String> {
    let threads = || checkpoint.processes.iter().flat_map(|process| &process.cpu.threads);
    let regions = checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
    let mut policies: Vec<&MemoryPolicy> = Vec::new();
    let named = threads().filter_map(|thread| thread.scheduling.memory_policy.as_ref());
    for policy in named.chain(regions.filter_map(|region| region.policy.as_ref())) {
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    let mut bound: Vec<&[u32]> = Vec::new();
    for thread in threads() {
        // Most are bound to the same as the one before.
        let cpus = thread.scheduling.affinity.as_slice();
        if !cpus.is_empty() && !bound.contains(&cpus) {
            bound.push(cpus);
        }
    }
    let is_here = |result: rustix::io::Result<()>| result != Err(rustix::io::Errno::INVAL);
    let policy = policies.iter().any(|policy| !is_here(sched::try_memory_policy(policy.mode, &policy.nodes)));
    let affinity = bound.iter().any(|cpus| !is_here(sched::try_affinity(cpus)));
    let policy = policy.then_some(
        "none of the nodes of a memory policy is here, or none such: that memory comes from wherever there is some",
    );
    let affinity = affinity.then_some("none of the processors of a thread is here: it runs wherever it can");
    policy.into_iter().chain(affinity).map(str::to_owned)
}

/// Makes an obstacle found in `process`.
fn obstacle(
    process: &Process,
    object: impl Into<String>,
    reason: impl Into<String>,
    remedy: impl Into<String>,
) -> Obstacle {
    Obstacle {
        pid: process.pd.relation.pid,
        command: process.pd.command.to_string(),
        object: object.into(),
        reason: reason.into(),
        remedy: remedy.into(),
        passes: false,
    }
}

/// Says which region is meant.
pub(crate) fn region_text(region: &Region) -> String {
    let what = match &region.attachment {
        Attachment::Anonymous if region.flags.grows_down => "stack".to_owned(),
        Attachment::Anonymous => "anonymous memory".to_owned(),
        Attachment::File { file, .. } => file.path.to_string(),
        Attachment::Dataspace { .. } => "shared memory".to_owned(),
        Attachment::Segment { segment, .. } => format!("System V segment, number {segment} of the image"),
        Attachment::Description { .. } => "a file without a name".to_owned(),
        Attachment::Special(_) => "memory of the kernel".to_owned(),
        Attachment::Aio { .. } => "a ring of asynchronous I/O".to_owned(),
    };
    format!("region {} ({what})", region.range)
}

/// Names of the limits, by number (`include/uapi/asm-generic/resource.h`).
const LIMIT_NAMES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Returns the name of a limit.
pub(crate) fn limit_name(number: u32) -> &'static str {
    LIMIT_NAMES.get(number as usize).copied().unwrap_or("an unknown limit")
}
