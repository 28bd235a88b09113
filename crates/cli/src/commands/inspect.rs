//! `frost inspect`: what an image holds.

use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Paint};
use crate::trouble;
use clap::Args;
use frost_model::cap::Capability;
use frost_model::machine::{Disk, DiskBase, Extent, Machine};
use frost_model::pd::{Life, SigInfo};
use frost_model::rm::{Attachment, Region};
use frost_model::{Checkpoint, Process};
use frost_store::{Header, State, Then};
use frost_view::object;
use frost_view::object::rights;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

/// Tells what an image holds, without thawing it
///
/// The processes as a tree, and each with its threads, its memory by kind and its descriptors. Reads header and manifest
/// only, not the memory. -v also lists the memory regions. Of a scenario it tells the documents and their versions.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The image: a name for its newest version, or NAME@VERSION
    image: String,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
    state: &'static str,
    /// The pid of the instance that runs.
    pid: Option<i32>,
    bytes: u64,
    command: &'a str,
    created: i64,
    architecture: &'a str,
    kernel: &'a str,
    uid: u32,
    /// What its program may use of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<frost_model::host::Budget>,
    /// Its network, if that is not the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerRecord>,
    /// Files that it brings along.
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<BundleRecord>,
    processes: Vec<ProcessRecord>,
    /// Objects of System V and POSIX message queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ipc: Vec<IpcRecord>,
    /// In place of processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<MachineRecord>,
}

#[derive(Serialize)]
struct IpcRecord {
    object: String,
    state: String,
}

#[derive(Serialize)]
struct BundleRecord {
    files: u32,
    bytes: u64,
}

fn bundle_record(checkpoint: &Checkpoint) -> Option<BundleRecord> {
    use frost_model::layer::Node;
    let files = checkpoint.bundle.iter().filter(|bundled| matches!(bundled.file.node, Node::File { .. }));
    let bytes = files.clone().map(frost_model::bundle::Bundled::len_bytes).sum();
    (!checkpoint.bundle.is_empty()).then(|| BundleRecord { files: files.count() as u32, bytes })
}

#[derive(Serialize)]
struct NetworkRecord {
    /// `none` or `own`, as `frost run --net` calls it.
    which: &'static str,
    up: bool,
    addresses: Vec<String>,
    /// What was set in it (sysctl(8)).
    settings: Vec<String>,
}

/// Describes the network of a program that has one of its own.
fn network_record(checkpoint: &Checkpoint) -> Option<NetworkRecord> {
    let network = checkpoint.host.runtime.as_ref()?.network.as_ref()?;
    let address = |address: &frost_model::network::Address| {
        let ip = match address.bytes.as_slice() {
            [a, b, c, d] => IpAddr::from([*a, *b, *c, *d]),
            bytes => <[u8; 16]>::try_from(bytes).map_or(IpAddr::from([0; 4]), IpAddr::from),
        };
        format!("{ip}/{}", address.prefix)
    };
    let setting = |setting: &frost_model::network::Setting| {
        let value = String::from_utf8_lossy(&setting.value);
        format!("net.{} = {}", setting.name.replace('/', "."), value.trim_end())
    };
    Some(NetworkRecord {
        which: super::run::net_name(Some(network.reach)),
        up: network.up,
        addresses: network.addresses.iter().map(address).collect(),
        settings: network.settings.iter().map(setting).collect(),
    })
}

#[derive(Serialize)]
struct DiskRecord {
    len_bytes: u64,
    /// Where its beginning lies in the pack, in qcow2: offset and length.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<[u64; 2]>,
    /// Or the file that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// What was written since, as `base`.
    layer: Option<[u64; 2]>,
}

/// What was written into a layer.
#[derive(Serialize)]
struct LayerRecord {
    directory: String,
    written: u32,
    /// Content of files.
    bytes: u64,
    /// How much lies below.
    lower: usize,
}

#[derive(Serialize)]
struct MachineRecord {
    vmm: String,
    vmm_version: String,
    board: String,
    processor: String,
    accelerator: String,
    cpus: u32,
    memory_bytes: u64,
    changed_bytes: u64,
    device_bytes: usize,
    disks: Vec<DiskRecord>,
    ports: Vec<[u16; 2]>,
}

#[derive(Serialize)]
struct ProcessRecord {
    pid: i32,
    parent: Option<i32>,
    group: Option<i32>,
    session: Option<i32>,
    command: String,
    arguments: Vec<String>,
    life: &'static str,
    uid: u32,
    gid: u32,
    umask: u32,
    exe: Option<String>,
    cwd: Option<String>,
    pending_signals: Vec<i32>,
    threads: Vec<ThreadRecord>,
    private_bytes: u64,
    memory: Vec<MemoryRecord>,
    regions: Vec<RegionRecord>,
    descriptors: Vec<DescriptorRecord>,
}

#[derive(Serialize)]
struct ThreadRecord {
    tid: i32,
    name: String,
    ip: u64,
    sp: u64,
    /// The number of the system call that it was in.
    syscall: Option<u64>,
    blocked_signals: u64,
    pending_signals: Vec<i32>,
    nice: i32,
}

/// The regions of one kind, together.
#[derive(Serialize)]
struct MemoryRecord {
    kind: &'static str,
    regions: usize,
    mapped_bytes: u64,
    private_bytes: u64,
}

#[derive(Serialize)]
struct RegionRecord {
    range: String,
    protection: String,
    private_bytes: u64,
    shows: String,
}

#[derive(Serialize)]
struct DescriptorRecord {
    fd: i32,
    kind: &'static str,
    description: u32,
    object: String,
    close_on_exec: bool,
    flags: u32,
    state: String,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    if super::scenario::is_kept(&options.image, invocation) {
        return super::scenario::inspect(&options.image, invocation);
    }
    let store = invocation.store()?;
    let failed = |error| trouble::of_store(format!("cannot inspect {}", options.image), error);
    let id = store.resolve(&options.image).map_err(failed)?;
    let image = store.open_any(&id).map_err(failed)?;
    let state = store.state(&id).map_err(failed)?;
    invocation.steps.end("image.open");
    let (header, checkpoint) = (image.header(), image.checkpoint());
    let record = Record {
        name: id.name.as_str(),
        version: id.version,
        state: state_word(&state),
        pid: state.instance().map(|instance| instance.pid),
        bytes: header.file_bytes() + header.pack.len_bytes,
        command: &header.command,
        created: header.created.sec,
        architecture: &header.architecture,
        kernel: &checkpoint.host.kernel,
        uid: header.uid,
        budget: checkpoint
            .host
            .runtime
            .as_ref()
            .map(|runtime| runtime.budget)
            .filter(|own| !own.is_unlimited()),
        network: network_record(checkpoint),
        layers: checkpoint.layers.iter().map(layer_record).collect(),
        bundle: bundle_record(checkpoint),
        processes: checkpoint.processes.iter().map(|process| process_record(checkpoint, process)).collect(),
        ipc: frost_view::ipc::objects(&checkpoint.objects)
            .into_iter()
            .map(|object| IpcRecord { object: object.name, state: object.state })
            .collect(),
        machine: checkpoint.machine.as_ref().map(machine_record),
    };
    if invocation.global.json {
        output::record(&record)?;
    } else {
        let paint = Paint::for_stdout();
        output::line(render(&record, header, &state, invocation.global.verbose > 0, paint).trim_end())?;
        if let Some(machine) = &checkpoint.machine {
            for line in super::guest::describe(machine) {
                output::line(&output::printable(&line))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The word for a state, in text and records.
pub(super) fn state_word(state: &State) -> &'static str {
    match state {
        State::Frozen => "frozen",
        State::Running(_) => "running",
        State::Superseded(_) => "superseded",
    }
}

fn disk_record(disk: &Disk) -> DiskRecord {
    let pair = |extent: Extent| [extent.offset, extent.len_bytes];
    let (base, path) = match &disk.base {
        DiskBase::Pack(extent) => (Some(pair(*extent)), None),
        DiskBase::File { path, .. } => (None, Some(path.to_string())),
    };
    DiskRecord { len_bytes: disk.len_bytes, base, path, layer: disk.layer.map(pair) }
}

fn machine_record(machine: &Machine) -> MachineRecord {
    MachineRecord {
        vmm: machine.vmm.clone(),
        vmm_version: machine.vmm_version.clone(),
        board: machine.board.clone(),
        processor: machine.processor.clone(),
        accelerator: machine.accelerator.clone(),
        cpus: machine.cpus,
        memory_bytes: machine.memory.bytes.len_bytes,
        changed_bytes: machine.memory.changed_bytes(),
        device_bytes: machine.devices.len(),
        disks: machine.disks.iter().map(disk_record).collect(),
        ports: machine.forwards.iter().map(|forward| [forward.host, forward.guest]).collect(),
    }
}

fn process_record(checkpoint: &Checkpoint, process: &Process) -> ProcessRecord {
    let text = |path: &frost_model::BytePath| path.to_string();
    let pid = |pid: Option<frost_model::Pid>| pid.map(frost_model::Pid::raw);
    let signals = |queue: &[SigInfo]| queue.iter().map(SigInfo::signal).collect::<Vec<_>>();
    let (pd, relation) = (&process.pd, &process.pd.relation);
    ProcessRecord {
        pid: relation.pid.raw(),
        parent: pid(relation.parent),
        group: pid(relation.group),
        session: pid(relation.session),
        command: text(&pd.command),
        arguments: pd.arguments.iter().map(text).collect(),
        life: match pd.life {
            Life::Running => "running",
            Life::Stopped { .. } => "stopped",
            Life::Zombie { .. } => "zombie",
        },
        uid: pd.credentials.uids[1],
        gid: pd.credentials.gids[1],
        umask: pd.umask,
        exe: pd.exe.as_ref().map(|file| text(&file.path)),
        cwd: pd.cwd.as_ref().map(|file| text(&file.path)),
        pending_signals: signals(&pd.pending),
        threads: process
            .cpu
            .threads
            .iter()
            .map(|thread| ThreadRecord {
                tid: thread.tid.raw(),
                name: text(&thread.name),
                ip: thread.registers.rip,
                sp: thread.registers.rsp,
                syscall: thread.registers.syscall(),
                blocked_signals: thread.blocked,
                pending_signals: signals(&thread.pending),
                nice: thread.scheduling.nice,
            })
            .collect(),
        private_bytes: process.rm.regions.iter().map(|region| region.private.len_bytes()).sum(),
        memory: memory_records(process),
        regions: process
            .rm
            .regions
            .iter()
            .map(|region| RegionRecord {
                range: region.range.to_string(),
                protection: rights(&region.protection),
                private_bytes: region.private.len_bytes(),
                shows: object::region(checkpoint, process, region),
            })
            .collect(),
        descriptors: pd
            .descriptors
            .iter()
            .filter_map(|descriptor| {
                let description = checkpoint.descriptions.get(descriptor.description.index())?;
                Some(DescriptorRecord {
                    fd: descriptor.fd.raw(),
                    kind: object::kind(&description.capability),
                    description: descriptor.description.raw(),
                    // Within one image the number of a pipe tells which descriptors are its ends, and a process at the
                    // other end of what leads outside tells whose it is.
                    object: match &description.capability {
                        Capability::Pipe(_) | Capability::Outside(_) => description.capability.to_string(),
                        other => object::name(checkpoint, other),
                    },
                    close_on_exec: descriptor.close_on_exec,
                    flags: description.flags,
                    state: object::clause(&object::details(checkpoint, description)),
                })
            })
            .collect(),
    }
}

/// Kinds of memory, in the order in which they are told.
const MEMORY: [&str; 6] = ["heap", "stack", "anonymous", "shared", "file", "kernel"];

fn memory_records(process: &Process) -> Vec<MemoryRecord> {
    let bounds = &process.rm.bounds;
    let kind = |region: &Region| match &region.attachment {
        Attachment::Anonymous
            if region.range.start() < bounds.brk && bounds.start_brk < region.range.end() =>
        {
            "heap"
        }
        Attachment::Anonymous
            if process.cpu.threads.iter().any(|thread| region.range.contains(thread.registers.rsp))
                || region.range.contains(bounds.start_stack) =>
        {
            "stack"
        }
        Attachment::Anonymous => "anonymous",
        Attachment::Dataspace { .. } | Attachment::Segment { .. } => "shared",
        Attachment::File { .. } | Attachment::Description { .. } => "file",
        Attachment::Special(_) | Attachment::Aio { .. } => "kernel",
    };
    let all = MEMORY.map(|name| {
        let regions = process.rm.regions.iter().filter(|region| kind(region) == name);
        regions.fold(
            MemoryRecord { kind: name, regions: 0, mapped_bytes: 0, private_bytes: 0 },
            |sum, region| MemoryRecord {
                regions: sum.regions + 1,
                mapped_bytes: sum.mapped_bytes + region.range.len_bytes(),
                private_bytes: sum.private_bytes + region.private.len_bytes(),
                ..sum
            },
        )
    });
    all.into_iter().filter(|kind| kind.regions > 0).collect()
}

fn layer_record(layer: &frost_model::layer::Layer) -> LayerRecord {
    let bytes = layer.written.iter().map(|written| match &written.node {
        frost_model::layer::Node::File { pages, .. } => pages.len_bytes(),
        _ => 0,
    });
    LayerRecord {
        directory: layer.directory.to_string(),
        written: layer.written.len() as u32,
        bytes: bytes.sum(),
        lower: layer.lower.len(),
    }
}

fn render(record: &Record<'_>, header: &Header, state: &State, verbose: bool, paint: Paint) -> String {
    let title = format!("{}@{}", record.name, record.version);
    let mut text = format!("{}: {}\n", paint.bold(&title), output::printable(record.command));
    let then = match (header.then, state.instance()) {
        (_, Some(instance)) => format!("{}, as process {}", record.state, instance.pid),
        (Then::GoOn, None) => "frozen; the program went on, and does not run here any more".to_owned(),
        (_, None) => record.state.to_owned(),
    };
    let rows = [
        ("state", then),
        ("frozen", format!("{} UTC, of user {}", output::time(record.created), record.uid)),
        ("on", format!("Linux {}, {}", record.kernel, record.architecture)),
        ("size", format!("{} on disk", output::bytes(record.bytes))),
    ];
    for (label, value) in rows {
        text.push_str(&format!("  {label:<7} {value}\n"));
    }
    for layer in &record.layers {
        let written = output::count(layer.written, "entry", "entries");
        let directory = output::printable(&layer.directory);
        text.push_str(&format!(
            "  {:<7} {directory}: {written} written, {}\n",
            "layer",
            output::bytes(layer.bytes)
        ));
    }
    if let Some(bundle) = &record.bundle {
        let files = output::count(bundle.files, "file", "files");
        text.push_str(&format!("  {:<7} {files}, {}\n", "bundle", output::bytes(bundle.bytes)));
    }
    if let Some(network) = &record.network {
        let up = if network.up { "" } else { ", its loopback interface down" };
        let row = format!("{}{up}: {}", network.which, network.addresses.join(", "));
        text.push_str(&format!("  {:<7} {row}\n", "network"));
        for setting in &network.settings {
            text.push_str(&format!("  {:<7} {}\n", "", output::printable(setting)));
        }
    }
    if let Some(budget) = &record.budget {
        let ram = budget.ram_bytes.map(|bytes| format!("{} of memory", output::bytes(bytes)));
        let cpu = budget.cpu_percent.map(|percent| format!("{} of a processor", super::set::shown(percent)));
        let parts: Vec<String> = ram.into_iter().chain(cpu).collect();
        text.push_str(&format!("  {:<7} {}\n", "budget", parts.join(", ")));
    }
    if record.processes.len() > 1 {
        text.push_str(&format!("\n{}\n", paint.bold("processes")));
        text.push_str(&tree(&record.processes, paint));
    }
    for process in record.processes.iter().filter(|process| process.life != "zombie") {
        text.push('\n');
        text.push_str(&one(process, verbose, paint));
    }
    if !record.ipc.is_empty() {
        text.push('\n');
        let row = |object: &IpcRecord| vec![output::printable(&object.object), object.state.clone()];
        section(&mut text, "shared by number or name", record.ipc.iter().map(row));
    }
    text
}

/// How a process is called: by its command line, or by its command name if it has none.
fn called(process: &ProcessRecord) -> String {
    let line =
        if process.arguments.is_empty() { process.command.clone() } else { process.arguments.join(" ") };
    output::printable(&line)
}

/// So much of a command line stands in one line.
const COMMAND_WIDTH: usize = 88;

/// Renders the processes as a tree, each with its command line.
fn tree(processes: &[ProcessRecord], paint: Paint) -> String {
    let mut children: BTreeMap<Option<i32>, Vec<&ProcessRecord>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let mut text = String::new();
    // A list of what is still to be told instead of recursion: a tree may be as deep as an image says.
    let mut open: Vec<(&ProcessRecord, String, &str)> = children
        .get(&None)
        .into_iter()
        .flatten()
        .rev()
        .map(|process| (*process, String::new(), ""))
        .collect();
    while let Some((process, indent, branch)) = open.pop() {
        let mut notes = Vec::new();
        if process.threads.len() > 1 {
            notes.push(output::count(process.threads.len() as u32, "thread", "threads"));
        }
        if process.life != "running" {
            notes.push(process.life.to_owned());
        }
        let notes =
            if notes.is_empty() { String::new() } else { paint.dim(&format!("  ({})", notes.join(", "))) };
        let line = output::cut(&called(process), COMMAND_WIDTH);
        text.push_str(&format!("  {indent}{branch}{} {line}{notes}\n", process.pid));
        let below = match branch {
            "" => indent,
            "`-- " => format!("{indent}    "),
            _ => format!("{indent}|   "),
        };
        let of = children.get(&Some(process.pid)).map_or(&[][..], Vec::as_slice);
        for (index, child) in of.iter().enumerate().rev() {
            open.push((child, below.clone(), if index + 1 == of.len() { "`-- " } else { "|-- " }));
        }
    }
    text
}

/// Renders one process: where it is, its threads, its memory by kind, its descriptors.
fn one(process: &ProcessRecord, verbose: bool, paint: Paint) -> String {
    let life = if process.life == "running" { String::new() } else { format!(", {}", process.life) };
    let title = format!("process {} ({})", process.pid, output::printable(&process.command));
    let mut text = format!("{}{life}\n", paint.bold(&title));
    let mut row = |label: &str, value: String| text.push_str(&format!("  {label:<8} {value}\n"));
    row("command", called(process));
    if let Some(exe) = &process.exe {
        row("program", output::printable(exe));
    }
    if let Some(cwd) = &process.cwd {
        row("in", output::printable(cwd));
    }
    row("as", format!("user {}, group {}, umask {:03o}", process.uid, process.gid, process.umask));
    if !process.pending_signals.is_empty() {
        let numbers: Vec<String> = process.pending_signals.iter().map(i32::to_string).collect();
        row("pending", format!("signals {}", numbers.join(" ")));
    }
    let threads = process.threads.iter().map(|thread| {
        let call =
            thread.syscall.map_or_else(|| "running".to_owned(), |number| format!("in system call {number}"));
        vec![thread.tid.to_string(), output::printable(&thread.name), call, format!("at {:x}", thread.ip)]
    });
    section(&mut text, "threads", threads);
    let memory = process.memory.iter().map(|kind| {
        vec![
            kind.kind.to_owned(),
            output::bytes(kind.mapped_bytes),
            format!("{} its own", output::bytes(kind.private_bytes)),
            output::count(kind.regions as u32, "region", "regions"),
        ]
    });
    section(&mut text, "memory", memory);
    if verbose {
        let regions = process.regions.iter().map(|region| {
            vec![
                region.range.clone(),
                region.protection.clone(),
                output::bytes(region.private_bytes),
                output::printable(&region.shows),
            ]
        });
        section(&mut text, "regions", regions);
    }
    let descriptors = process.descriptors.iter().map(|descriptor| {
        vec![
            descriptor.fd.to_string(),
            descriptor.kind.to_owned(),
            output::printable(&descriptor.object),
            output::printable(&descriptor.state),
        ]
    });
    section(&mut text, "descriptors", descriptors);
    text
}

fn section(text: &mut String, title: &str, rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return;
    }
    text.push_str(&format!("  {title}\n"));
    for line in output::table(&rows).lines() {
        text.push_str(&format!("    {line}\n"));
    }
}
