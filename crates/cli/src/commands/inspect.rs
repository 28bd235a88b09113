//! `frost inspect`: what an image holds.

use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::{object, output, trouble};
use clap::Args;
use frost_model::{Checkpoint, Process, pd::Life};
use frost_store::{Header, State, Then};
use serde::Serialize;
use std::process::ExitCode;

/// Tells what an image holds, without thawing it
///
/// Reads header and manifest only, not the memory. -v also lists the memory regions.
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
    processes: Vec<ProcessRecord>,
}

#[derive(Serialize)]
struct ProcessRecord {
    pid: i32,
    parent: Option<i32>,
    command: String,
    arguments: Vec<String>,
    life: &'static str,
    uid: u32,
    threads: Vec<ThreadRecord>,
    private_bytes: u64,
    regions: Vec<RegionRecord>,
    descriptors: Vec<DescriptorRecord>,
}

#[derive(Serialize)]
struct ThreadRecord {
    tid: i32,
    name: String,
    ip: u64,
    sp: u64,
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
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let failed = |error| trouble::of_store(format!("cannot inspect {}", options.image), error);
    let id = store.resolve(&options.image).map_err(failed)?;
    let image = store.open_image(&id).map_err(failed)?;
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
        processes: checkpoint.processes.iter().map(|process| process_record(checkpoint, process)).collect(),
    };
    if invocation.global.json {
        output::record(&record)?;
    } else {
        output::line(render(&record, header, &state, invocation.global.verbose).trim_end())?;
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

fn process_record(checkpoint: &Checkpoint, process: &Process) -> ProcessRecord {
    let text = |path: &frost_model::BytePath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    ProcessRecord {
        pid: process.pd.relation.pid.raw(),
        parent: process.pd.relation.parent.map(frost_model::Pid::raw),
        command: text(&process.pd.command),
        arguments: process.pd.arguments.iter().map(text).collect(),
        life: match process.pd.life {
            Life::Running => "running",
            Life::Stopped { .. } => "stopped",
            Life::Zombie { .. } => "zombie",
        },
        uid: process.pd.credentials.uids[1],
        threads: process
            .cpu
            .threads
            .iter()
            .map(|thread| ThreadRecord {
                tid: thread.tid.raw(),
                name: text(&thread.name),
                ip: thread.registers.rip,
                sp: thread.registers.rsp,
            })
            .collect(),
        private_bytes: process.rm.regions.iter().map(|region| region.private.len_bytes()).sum(),
        regions: process
            .rm
            .regions
            .iter()
            .map(|region| {
                let flag = |on: bool, letter: char| if on { letter } else { '-' };
                let protection = &region.protection;
                RegionRecord {
                    range: region.range.to_string(),
                    protection: [
                        flag(protection.read, 'r'),
                        flag(protection.write, 'w'),
                        flag(protection.execute, 'x'),
                    ]
                    .iter()
                    .collect(),
                    private_bytes: region.private.len_bytes(),
                    shows: object::attachment(&region.attachment),
                }
            })
            .collect(),
        descriptors: process
            .pd
            .descriptors
            .iter()
            .filter_map(|descriptor| {
                let description = checkpoint.descriptions.get(descriptor.description.index())?;
                Some(DescriptorRecord {
                    fd: descriptor.fd.raw(),
                    kind: object::kind(&description.capability),
                    description: descriptor.description.raw(),
                    object: description.capability.to_string(),
                })
            })
            .collect(),
    }
}

fn render(record: &Record<'_>, header: &Header, state: &State, verbose: bool) -> String {
    let mut text = format!("{}@{}: {}\n", record.name, record.version, output::printable(record.command));
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
    for process in &record.processes {
        let parent = process.parent.map(|parent| format!(", child of {parent}")).unwrap_or_default();
        let life = if process.life == "running" { String::new() } else { format!(", {}", process.life) };
        text.push_str(&format!(
            "\nprocess {} ({}){parent}{life}: {}, {} of its own in {} regions\n",
            process.pid,
            output::printable(&process.command),
            output::count(process.threads.len() as u32, "thread", "threads"),
            output::bytes(process.private_bytes),
            process.regions.len(),
        ));
        let mut rows: Vec<Vec<String>> = Vec::new();
        if verbose {
            rows.extend(process.regions.iter().map(|region| {
                let size = output::bytes(region.private_bytes);
                vec![
                    "  ".into(),
                    region.range.clone(),
                    region.protection.clone(),
                    size,
                    output::printable(&region.shows),
                ]
            }));
        }
        text.push_str(&output::table(&rows));
        let rows: Vec<Vec<String>> = process
            .descriptors
            .iter()
            .map(|descriptor| {
                vec![
                    format!("  fd {}", descriptor.fd),
                    descriptor.kind.to_owned(),
                    output::printable(&descriptor.object),
                ]
            })
            .collect();
        text.push_str(&output::table(&rows));
    }
    text
}
