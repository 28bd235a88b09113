//! `frost ps`: programs, running and frozen.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_runtime::budget;
use frost_runtime::instance::{self, Instance, Kept, Standing};
use frost_store::{Name, Summary};
use frost_sys::proc;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// So much of a command tells which it is; records have all of it.
const COMMAND_WIDTH: usize = 40;

/// Lists the programs, running and frozen
///
/// Those of `frost run`, and those of which there is an image. One that ended is listed until its name is taken by
/// another, or removed by `frost rm`. Scenarios are listed as well; `frost status` tells more of one that runs.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only the programs of these names
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Default, Serialize)]
struct Record {
    name: String,
    /// `running`, `frozen`, `ended`, `lost`, `unknown`.
    state: &'static str,
    /// Why, where the state alone does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    /// The root of the tree.
    pid: Option<i32>,
    keeper: Option<i32>,
    /// Whether the keeper is there while the program is frozen.
    kept: bool,
    /// Its images.
    versions: Vec<u32>,
    /// Since when it is in that state, in seconds since 1970.
    since: Option<i64>,
    processes: Option<u32>,
    memory_bytes: Option<u64>,
    /// Memory that counts against its budget.
    ram_bytes: Option<u64>,
    ram_limit_bytes: Option<u64>,
    /// Processor time that it has used.
    cpu_us: Option<u64>,
    cpu_limit_percent: Option<u32>,
    /// Which network it has: `host`, `none`, `own`; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'static str>,
    /// Of its newest image.
    image_bytes: Option<u64>,
    status: Option<i32>,
    command: String,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let what = "cannot list the programs";
    let summaries = store.list().map_err(|error| trouble::of_store(what, error))?;
    let mut images: BTreeMap<String, Vec<&Summary>> = BTreeMap::new();
    for summary in &summaries {
        images.entry(summary.id.name.to_string()).or_default().push(summary);
    }
    let names = instance::names(&store).map_err(|error| trouble::of_runtime(what, error))?;
    let mut all: Vec<String> = names.iter().map(Name::to_string).chain(images.keys().cloned()).collect();
    all.sort();
    all.dedup();
    let scenarios = super::scenario::list(&options.names, invocation)?;
    let is_known =
        |name: &String| all.contains(name) || scenarios.iter().any(|known| known.scenario == *name);
    if let Some(missing) = options.names.iter().find(|name| !is_known(name)) {
        return Err(Told::new(Status::Missing, format!("cannot list {}", output::printable(missing)))
            .cause(format!("no program {} was started or frozen here", output::printable(missing)))
            .state(format!("the store is {}", store.path().display()))
            .hint("`frost ps` without a name shows what there is")
            .into());
    }
    all.retain(|name| options.names.is_empty() || options.names.contains(name));
    let mut records = Vec::new();
    for name in all {
        let found = images.get(&name).map_or(&[][..], Vec::as_slice);
        let mut record = of_images(&name, found);
        match Name::new(&name).map(|name| Instance::find(&store, &name)) {
            Ok(Ok(Some(instance))) => add(&mut record, &instance, found),
            // All others are told nevertheless.
            Ok(Err(error)) => (record.state, record.what) = ("unknown", Some(error.to_string())),
            Ok(Ok(None)) | Err(_) => {}
        }
        records.push(record);
    }
    invocation.steps.end("runtime.list");
    if invocation.global.json {
        for record in &records {
            output::record(record)?;
        }
        for scenario in &scenarios {
            scenario.print()?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if records.is_empty() && scenarios.is_empty() {
        output::note("no program was started or frozen here");
        return Ok(ExitCode::SUCCESS);
    }
    let titles =
        ["NAME", "STATE", "PID", "PROCESSES", "MEMORY", "CPU", "VERSIONS", "IMAGE", "SINCE (UTC)", "COMMAND"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(row));
    // A column of `host` would tell nothing.
    if records.iter().any(|record| record.network.is_some_and(|network| network != "host")) {
        let column = records.iter().map(|record| record.network.unwrap_or_default());
        for (row, network) in rows.iter_mut().zip(std::iter::once("NET").chain(column)) {
            row.insert(row.len() - 1, network.to_owned());
        }
    }
    rows.extend(
        scenarios
            .iter()
            .map(|scenario| {
                let mut row = vec![String::new(); rows[0].len()];
                row[0].clone_from(&scenario.scenario);
                row[1].clone_from(&scenario.state);
                row[2] = scenario.pid.map_or_else(String::new, |pid| pid.to_string());
                row[3] = "scenario".to_owned();
                row[7] = scenario.image_bytes.map_or_else(String::new, output::bytes);
                row[8] = scenario.created.map_or_else(String::new, output::time);
                let last = row.len() - 1;
                row[last] = output::cut(&output::printable(&scenario.words()), COMMAND_WIDTH);
                row
            })
            .collect::<Vec<_>>(),
    );
    output::line(output::table(&rows).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// What the images of a name tell.
fn of_images(name: &str, images: &[&Summary]) -> Record {
    let mut record = Record { name: name.to_owned(), state: "ended", ..Record::default() };
    record.versions = images.iter().map(|summary| summary.id.version).collect();
    record.versions.sort_unstable();
    let newest = images.iter().max_by_key(|summary| summary.id.version);
    let Some(newest) = newest else { return record };
    record.image_bytes = Some(newest.disk_bytes);
    record.state = "frozen";
    if let Ok(header) = &newest.header {
        record.since = Some(header.created.sec);
        record.processes = Some(header.processes);
        record.command = header.command.clone();
    }
    if let Some(running) = newest.state.instance() {
        record.state = "running";
        record.pid = Some(running.pid);
        record.since = None;
        fill(&mut record, &tree(running.pid));
    }
    record
}

fn tree(root: i32) -> Vec<i32> {
    let mut tree = vec![root];
    let mut index = 0;
    while index < tree.len() {
        tree.extend(proc::children(tree[index]).unwrap_or_default());
        index += 1;
    }
    tree
}

fn fill(record: &mut Record, processes: &[i32]) {
    record.processes = Some(processes.len() as u32);
    record.memory_bytes = Some(processes.iter().map(|pid| memory_bytes(*pid)).sum());
}

/// Its share of memory: what several processes share is divided among them.
fn memory_bytes(pid: i32) -> u64 {
    let text = proc::read(pid, "smaps_rollup").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What its directory and its keeper tell.
fn add(record: &mut Record, instance: &Instance, images: &[&Summary]) {
    let started = instance.record().unwrap_or_default();
    if !started.command.is_empty() {
        record.command = started.command.join(" ");
    }
    if started.started > 0 && !started.machine {
        record.network = Some(super::run::net_name(started.network));
    }
    if !started.budget.is_unlimited() {
        record.ram_limit_bytes = started.budget.ram_bytes;
        record.cpu_limit_percent = started.budget.cpu_percent;
    }
    let standing = match instance.standing() {
        Ok(standing) => standing,
        Err(error) => {
            // That its keeper cannot be asked does not mean that it has ended.
            record.state = "unknown";
            record.what = Some(error.to_string());
            return;
        }
    };
    match &standing {
        Standing::Kept(kept) => {
            record.keeper = Some(kept.keeper);
            if kept.state.frozen {
                record.kept = true;
                record.state = "frozen";
                return;
            }
            running(record, kept, started.started);
        }
        // An image is there, whatever became of the program since.
        _ if record.state == "running" => {}
        Standing::Frozen(id) if images.iter().any(|image| image.id == *id) => {
            record.state = "frozen";
        }
        other => {
            if let Standing::Ended(status) | Standing::Starved(status) = other {
                record.status = Some(*status);
            }
            let frozen = !images.is_empty();
            record.what = Some(what_happened(other));
            record.since = instance.changed();
            record.state = match other {
                Standing::Within(_) => "frozen",
                _ if frozen => "frozen",
                Standing::Lost | Standing::Rebooted | Standing::Unstarted => "lost",
                _ => "ended",
            };
            if !frozen {
                record.processes = None;
            }
        }
    }
}

fn running(record: &mut Record, kept: &Kept, started: i64) {
    record.state = "running";
    record.pid = kept.root().ok();
    record.since = Some(started).filter(|started| *started > 0);
    let processes = kept.processes();
    fill(record, &processes);
    if let Some(root) = record.pid {
        let usage = budget::usage(root, &processes);
        record.ram_bytes = usage.ram_bytes;
        record.ram_limit_bytes = usage.budget.ram_bytes;
        record.cpu_us = Some(usage.cpu_us);
        record.cpu_limit_percent = usage.budget.cpu_percent;
    }
}

/// Says what became of a program that does not run.
pub(super) fn what_happened(standing: &Standing) -> String {
    match standing {
        Standing::Ended(status) if status & 0x7f != 0 => format!("it was ended by signal {}", status & 0x7f),
        Standing::Ended(status) => format!("it ended with status {}", status >> 8 & 0xff),
        Standing::Starved(_) => "it needed more memory than its budget allows".to_owned(),
        Standing::Frozen(id) => format!("it was frozen as {id}"),
        Standing::Within(Some(outer)) => format!("it is frozen with {outer}, in which it runs"),
        Standing::Within(None) => "it is frozen with the program in which it runs".to_owned(),
        Standing::Lost => "its keeper was killed, and the program with it".to_owned(),
        Standing::Rebooted => "the machine was restarted".to_owned(),
        Standing::Unstarted => "whoever was to start it was killed".to_owned(),
        Standing::Kept(_) => "it runs".to_owned(),
    }
}

/// What is used, and how much of it may be.
fn limited(used: Option<String>, limit: Option<String>) -> String {
    match (used, limit) {
        (used, None) => used.unwrap_or_default(),
        (None, Some(limit)) => format!("of {limit}"),
        (Some(used), Some(limit)) => format!("{used} of {limit}"),
    }
}

fn row(record: &Record) -> Vec<String> {
    let state = match (&record.what, record.kept) {
        (Some(what), _) => format!("{}: {what}", record.state),
        (None, true) => "frozen, kept".to_owned(),
        (None, false) => record.state.to_owned(),
    };
    let number = |number: Option<i64>| number.map_or_else(String::new, |number| number.to_string());
    let versions = match record.versions.as_slice() {
        [] => String::new(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    };
    // What counts against a limit is what is compared with it.
    let used = record.ram_bytes.filter(|_| record.ram_limit_bytes.is_some()).or(record.memory_bytes);
    let cpu = record.cpu_us.map(|us| output::span(std::time::Duration::from_micros(us)));
    vec![
        record.name.clone(),
        output::printable(&state),
        number(record.pid.map(i64::from)),
        number(record.processes.map(i64::from)),
        limited(used.map(output::bytes), record.ram_limit_bytes.map(output::bytes)),
        limited(cpu, record.cpu_limit_percent.map(super::set::shown)),
        versions,
        record.image_bytes.map_or_else(String::new, output::bytes),
        record.since.map_or_else(String::new, output::time),
        output::cut(&output::printable(&record.command), COMMAND_WIDTH),
    ]
}
