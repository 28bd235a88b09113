//! `frost core`: an ELF core of a frozen process, for a debugger.

use crate::destination::{self, Destination};
use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::progress::Progress;
use crate::{output, trouble};
use clap::Args;
use frost_model::{Checkpoint, Process};
use frost_store::ImageId;
use frost_view::elf::{FileSink, StreamSink};
use frost_view::{Core, Error};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Writes a core that a debugger opens, of a frozen process
///
/// The process need not be thawed, and stays as it is. A core is of one process: that of --process, or the root of the
/// tree. It holds all memory of the process, and names the files that were mapped: a debugger reads from them what the
/// process had not written to. `gdb PROGRAM FILE` opens it.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The image: a name for its newest version, or NAME@VERSION
    image: String,
    /// The file, which only you will be able to read; `-` is standard output
    #[arg(default_value = "-", value_name = "FILE|-")]
    file: PathBuf,
    /// The process, by the pid it had [default: the root of the tree]
    #[arg(long, value_name = "PID")]
    process: Option<i32>,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
    pid: i32,
    threads: usize,
    processes: usize,
    bytes: u64,
    changed_files: Vec<String>,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let failed = |error| trouble::of_store(format!("cannot make a core of {}", options.image), error);
    let id = store.resolve(&options.image).map_err(failed)?;
    let image = store.open_image(&id).map_err(failed)?;
    invocation.steps.end("image.open");
    let checkpoint = image.checkpoint();
    let process = find(options, &id, checkpoint)?;
    let pid = process.pd.relation.pid;
    let what = format!("cannot write a core of process {pid} of {id}");
    let core = Core::plan(&image, process).ok_or_else(|| nothing_left(&what, process, checkpoint))?;
    let to_stdout = options.file == Path::new("-");
    let bytes = core.len_bytes();
    let progress = Progress::start(format!("writing a core of {id}"));
    let tell = &mut |done| progress.update(done, bytes);
    if to_stdout {
        let hint = format!("name a file: frost core {id} core");
        let out = destination::stdout(&what, "a core is no text", &hint)?;
        core.write(&mut StreamSink::new(out), tell).map_err(|error| match error {
            Error::Output { source } => source.into(),
            other => told(&what, other),
        })?;
    } else {
        let mut destination = Destination::create(&what, &options.file)?;
        let written = core.write(&mut FileSink::new(destination.file()), tell);
        written.map_err(|error| match error {
            Error::Output { source } => destination.failed(&source),
            other => told(&what, other),
        })?;
        destination.publish()?;
    }
    drop(progress);
    invocation.steps.end("core.write");
    let changed: Vec<String> =
        core.changed_files().map(|path| output::printable(&path.to_string())).collect();
    for path in &changed {
        output::note(&format!(
            "warning: {path} is not the file that was mapped; what lay there is not in the core"
        ));
    }
    if invocation.global.json && !to_stdout {
        output::record(&Record {
            name: id.name.as_str(),
            version: id.version,
            pid: pid.raw(),
            threads: process.cpu.threads.len(),
            processes: checkpoint.processes.len(),
            bytes,
            changed_files: changed,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let others = match checkpoint.processes.len() {
        1 => String::new(),
        count => format!("; --process takes another one of its {count} processes: {}", list(checkpoint)),
    };
    output::note(&format!(
        "note: core of process {pid} ({}) of {id}, {}, {}{others}",
        output::printable(&process.pd.command.to_string()),
        output::count(process.cpu.threads.len() as u32, "thread", "threads"),
        output::bytes(bytes),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Finds the process that is meant.
fn find<'a>(options: &Options, id: &ImageId, checkpoint: &'a Checkpoint) -> Result<&'a Process, Failure> {
    let wanted = |process: &&Process| options.process.is_none_or(|pid| process.pd.relation.pid.raw() == pid);
    checkpoint.processes.iter().find(wanted).ok_or_else(|| {
        Told::new(Status::Missing, format!("cannot make a core of {id}"))
            .cause(format!("it has no process {}", options.process.unwrap_or_default()))
            .state("nothing was written")
            .hint(format!("it has {}", list(checkpoint)))
            .into()
    })
}

fn nothing_left(what: &str, process: &Process, checkpoint: &Checkpoint) -> Failure {
    Told::new(Status::Failed, what)
        .cause(format!("process {} had ended; it has neither memory nor threads", process.pd.relation.pid))
        .state("nothing was written")
        .hint(format!("take another process by --process: {}", list(checkpoint)))
        .into()
}

/// How many processes are named before the rest is counted.
const NAMED: usize = 12;

fn list(checkpoint: &Checkpoint) -> String {
    let mut all = frost_view::elf::processes(checkpoint);
    let mut names: Vec<String> = all
        .by_ref()
        .take(NAMED)
        .map(|process| {
            format!("{} ({})", process.pd.relation.pid, output::printable(&process.pd.command.to_string()))
        })
        .collect();
    match all.count() {
        0 => {}
        rest => names.push(format!("and {rest} more")),
    }
    names.join(", ")
}

fn told(what: &str, error: Error) -> Failure {
    match error {
        Error::Store(error) => trouble::of_store(what, error),
        error => Told::new(Status::Failed, what)
            .chain(&error)
            .state("the image is as it was before; what was written is not whole")
            .hint("try again")
            .into(),
    }
}
