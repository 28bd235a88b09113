//! `frost list`: what there is.

use super::inspect::state_word;
use super::scenario::Shelved;
use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_store::Summary;
use serde::Serialize;
use std::process::ExitCode;

/// So much of a command tells which it is; records have all of it.
const COMMAND_WIDTH: usize = 48;

/// Lists the images, of programs and of scenarios
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only the images of these names
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
    state: &'static str,
    /// The pid of the instance that runs.
    pid: Option<i32>,
    disk_bytes: u64,
    cold: bool,
    /// What follows is absent if the header cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    /// Why the header cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let summaries = store.list().map_err(|error| trouble::of_store("cannot list the images", error))?;
    invocation.steps.end("store.list");
    let mut scenarios = super::scenario::list(&options.names, invocation)?;
    scenarios.retain(|scenario| scenario.image_bytes.is_some());
    let absent = |name: &&String| {
        !summaries.iter().any(|summary| summary.id.name.as_str() == name.as_str())
            && !scenarios.iter().any(|scenario| scenario.scenario == **name)
    };
    if let Some(missing) = options.names.iter().find(absent) {
        return Err(Told::new(Status::Missing, format!("cannot list {}", output::printable(missing)))
            .cause(format!("there is no image {}", output::printable(missing)))
            .state(format!("the store is {}", store.path().display()))
            .hint("`frost list` without a name shows what there is")
            .into());
    }
    let wanted: Vec<&Summary> = summaries
        .iter()
        .filter(|summary| {
            options.names.is_empty() || options.names.iter().any(|name| name == summary.id.name.as_str())
        })
        .collect();
    if invocation.global.json {
        for summary in wanted {
            output::record(&record(summary))?;
        }
        for scenario in &scenarios {
            scenario.print()?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if wanted.is_empty() && scenarios.is_empty() {
        output::note(&format!("no images in {}", store.path().display()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows =
        vec![["IMAGE", "STATE", "SIZE", "PROCESSES", "FROZEN (UTC)", "COMMAND"].map(str::to_owned).to_vec()];
    rows.extend(wanted.into_iter().map(|summary| row(&record(summary))));
    rows.extend(scenarios.iter().map(row_of_scenario));
    output::line(output::table(&rows).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn record(summary: &Summary) -> Record<'_> {
    let header = summary.header.as_ref().ok();
    Record {
        name: summary.id.name.as_str(),
        version: summary.id.version,
        state: state_word(&summary.state),
        pid: summary.state.instance().map(|instance| instance.pid),
        disk_bytes: summary.disk_bytes,
        cold: summary.cold,
        created: header.map(|header| header.created.sec),
        processes: header.map(|header| header.processes),
        threads: header.map(|header| header.threads),
        command: header.map(|header| header.command.as_str()),
        problem: summary.header.as_ref().err().map(trouble::chained),
    }
}

fn row_of_scenario(scenario: &Shelved) -> Vec<String> {
    let state = match (&scenario.problem, scenario.pid) {
        (Some(_), _) => "damaged".to_owned(),
        (None, Some(pid)) => format!("running as {pid}"),
        (None, None) => scenario.state.clone(),
    };
    vec![
        scenario.scenario.clone(),
        state,
        scenario.image_bytes.map_or_else(String::new, output::bytes),
        "scenario".to_owned(),
        scenario.created.map_or_else(String::new, output::time),
        output::printable(&scenario.problem.clone().unwrap_or_else(|| scenario.words())),
    ]
}

fn row(record: &Record<'_>) -> Vec<String> {
    let mut row = vec![format!("{}@{}", record.name, record.version)];
    match (&record.problem, record.pid) {
        (Some(_), _) => row.push("damaged".to_owned()),
        (None, Some(pid)) => row.push(format!("{} as {pid}", record.state)),
        (None, None) => row.push(record.state.to_owned()),
    }
    row.push(format!("{}{}", output::bytes(record.disk_bytes), if record.cold { " cold" } else { "" }));
    // An image of processes has at least one.
    row.push(match record.processes {
        Some(0) => "machine".to_owned(),
        processes => processes.map_or_else(String::new, |processes| processes.to_string()),
    });
    row.push(record.created.map_or_else(String::new, output::time));
    row.push(match (&record.problem, record.command) {
        (Some(problem), _) => output::printable(problem),
        (None, command) => output::cut(&output::printable(command.unwrap_or_default()), COMMAND_WIDTH),
    });
    row
}
