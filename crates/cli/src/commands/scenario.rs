//! `frost up` and all else about scenarios: a command of its own does it, found as git finds its.
//!
//! So `frost` itself stays small, and starts fast.

use crate::destination::{self, Destination};
use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::output;
use clap::Args;
use frost_store::Name;
use serde::Deserialize;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

const PROGRAM: &str = "frost-scenario";

/// Declares a command that is handed on as it is.
macro_rules! handed_on {
    ($($(#[$doc:meta])* $name:ident $verb:literal)*) => {
        $(
            $(#[$doc])*
            #[derive(Args, Debug)]
            #[command(disable_help_flag = true)]
            pub(crate) struct $name {
                /// Its options and arguments; `--help` tells them
                #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
                arguments: Vec<OsString>,
            }

            impl $name {
                /// Runs it.
                pub(crate) fn run(&self, invocation: &Invocation) -> Result<ExitCode, Failure> {
                    hand_on($verb, &self.arguments, invocation)
                }
            }
        )*
    };
}

handed_on! {
    /// Starts a scenario: components wired together
    ///
    /// Each reads documents and reports documents, so that it can be killed, restarted and replaced while nothing is lost.
    Up "up"
    /// Ends a scenario
    Down "down"
    /// Shows how the components of a scenario stand
    State "status"
    /// Puts another implementation in the place of a component
    Replace "replace"
    /// Shows who reads what in a scenario
    Graph "graph"
    /// Shows a document as a component reads it
    Rom "rom"
    /// Shows what a component reports
    Report "report"
}

/// Whether a scenario runs under this name, and no image of a program has it.
pub(crate) fn runs(name: &str, invocation: &Invocation) -> bool {
    is_scenario(name, "control", invocation)
}

/// Freezes a scenario.
pub(crate) fn freeze(name: &str, invocation: &Invocation) -> Result<ExitCode, Failure> {
    hand_on("freeze", &[name.into()], invocation)
}

/// Thaws a scenario.
pub(crate) fn thaw(name: &str, attach: bool, invocation: &Invocation) -> Result<ExitCode, Failure> {
    let mut arguments = vec![OsString::from(name)];
    arguments.extend(attach.then(|| "--attach".into()));
    hand_on("thaw", &arguments, invocation)
}

/// Whether the store keeps a scenario of this name, running or not, and no image of a program.
pub(crate) fn is_kept(name: &str, invocation: &Invocation) -> bool {
    is_scenario(name, "", invocation)
}

/// Refuses the name of a scenario for a program: commands that take either could not tell which one is meant.
///
/// `option` is what gives it another one, `state` how things stand.
pub(crate) fn keep_apart(
    name: &Name,
    what: String,
    state: &str,
    option: &str,
    invocation: &Invocation,
) -> Result<(), Failure> {
    if !is_kept(name.as_str(), invocation) {
        return Ok(());
    }
    Err(Told::new(Status::Failed, what)
        .cause(format!("the store keeps a scenario named {name}"))
        .state(state)
        .hint(format!("give it another name by {option}, or `frost rm {name}` removes the scenario"))
        .into())
}

/// Tells what a scenario keeps.
pub(crate) fn inspect(name: &str, invocation: &Invocation) -> Result<ExitCode, Failure> {
    hand_on("inspect", &[name.into()], invocation)
}

/// Verifies scenarios, all if none is named; the exit status says whether all are sound.
pub(crate) fn verify(names: &[&str], invocation: &Invocation) -> Result<ExitCode, Failure> {
    apart("verify", names, invocation)
}

/// Removes scenarios.
pub(crate) fn remove(names: &[&str], invocation: &Invocation) -> Result<ExitCode, Failure> {
    apart("rm", names, invocation)
}

/// Runs a command beside this one, unless there is nothing that it could be about.
fn apart(verb: &str, names: &[&str], invocation: &Invocation) -> Result<ExitCode, Failure> {
    if names.is_empty() && !has_any(invocation) {
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<OsString> = names.iter().map(OsString::from).collect();
    let status = command(verb, &names, invocation).status().map_err(|error| missing(&error))?;
    Ok(status_of(status))
}

/// How a scenario stands.
#[derive(Debug, Deserialize)]
pub(crate) struct Shelved {
    pub(crate) scenario: String,
    pub(crate) state: String,
    pub(crate) pid: Option<i32>,
    pub(crate) image_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) created: Option<i64>,
    documents: u64,
    #[serde(default)]
    programs: Vec<String>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    pub(crate) problem: Option<String>,
    /// The record that told all this.
    #[serde(skip)]
    record: String,
}

impl Shelved {
    /// What it is, in a few words.
    pub(crate) fn words(&self) -> String {
        let file = self.file.as_ref().map(|file| format!(" of {file}")).unwrap_or_default();
        let documents =
            output::count(u32::try_from(self.documents).unwrap_or(u32::MAX), "document", "documents");
        let programs = match self.programs.len() {
            0 => String::new(),
            count => format!(", {}", output::count(count as u32, "program", "programs")),
        };
        let persist = if self.image_bytes.is_none() { " kept" } else { "" };
        format!("scenario{file}: {documents}{persist}{programs}")
    }

    /// Prints its record.
    pub(crate) fn print(&self) -> Result<(), Failure> {
        Ok(output::line(&self.record)?)
    }
}

/// Tells how scenarios stand: those of these names, all if none is named.
pub(crate) fn list(names: &[String], invocation: &Invocation) -> Result<Vec<Shelved>, Failure> {
    let mut arguments: Vec<OsString> = vec!["--json".into()];
    let known = names.iter().filter(|name| is_kept(name, invocation));
    arguments.extend(known.map(OsString::from));
    if !has_any(invocation) || !names.is_empty() && arguments.len() == 1 {
        return Ok(Vec::new());
    }
    let mut command = command("list", &arguments, invocation);
    let told = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let lines = told.map_err(|error| missing(&error))?.stdout;
    let records = String::from_utf8_lossy(&lines);
    let read = |line: &str| {
        let shelved: Shelved = serde_json::from_str(line).ok()?;
        Some(Shelved { record: line.to_owned(), ..shelved })
    };
    Ok(records.lines().filter_map(read).collect())
}

/// Whether the store keeps scenarios at all.
fn has_any(invocation: &Invocation) -> bool {
    let Ok(place) = invocation.place() else { return false };
    std::fs::read_dir(place.directory.join("scenarios")).is_ok_and(|mut entries| entries.next().is_some())
}

fn is_scenario(name: &str, file: &str, invocation: &Invocation) -> bool {
    let Ok(place) = invocation.place() else { return false };
    let is_name = !name.is_empty()
        && !name.contains(['/', '@'])
        && !name.starts_with('.')
        && !name.bytes().all(|byte| byte.is_ascii_digit());
    let store = place.directory;
    is_name
        && !store.join("images").join(name).exists()
        && store.join("scenarios").join(name).join(file).exists()
}

/// With what an exported scenario begins, of whatever format.
pub(crate) const MAGIC: &[u8] = b"frost-scenario-";

/// Writes the image of a frozen scenario into a file, or to standard output.
pub(crate) fn export(name: &str, file: &Path, invocation: &Invocation) -> Result<ExitCode, Failure> {
    let what = format!("cannot export scenario {name}");
    let mut to_file = None;
    if file == Path::new("-") {
        let hint = format!("name a file, or a pipe: frost export {name} - | ssh host frost import -");
        drop(destination::stdout(&what, "an image is no text", &hint)?);
    } else {
        to_file = Some(Destination::create(&what, file)?);
    }
    let mut command = command("export", &[name.into()], invocation);
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|error| missing(&error))?;
    if !output.status.success() {
        return Ok(status_of(output.status));
    }
    match to_file {
        None => io::stdout().lock().write_all(&output.stdout)?,
        Some(mut destination) => {
            let written = destination.file().write_all(&output.stdout);
            written.map_err(|error| destination.failed(&error))?;
            destination.publish()?;
            let bytes = output::bytes(output.stdout.len() as u64);
            output::note(&format!("exported scenario {name} to {}, {bytes}", file.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the image of a scenario from a stream that begins with it.
pub(crate) fn import(input: &mut dyn Read, invocation: &Invocation) -> Result<ExitCode, Failure> {
    let mut command = command("import", &[], invocation);
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(|error| missing(&error))?;
    let mut pipe = child.stdin.take();
    let copied = pipe.as_mut().map_or(Ok(0), |pipe| io::copy(input, pipe));
    drop(pipe);
    let ended = child.wait();
    match (copied, ended) {
        // It says itself why it reads no more.
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Told::new(Status::Failed, "cannot import a scenario")
                .chain(&error)
                .state("the store is as it was before")
                .hint("name a file that `frost export` wrote")
                .into())
        }
        (_, ended) => Ok(ended.map_or(ExitCode::FAILURE, status_of)),
    }
}

fn status_of(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn hand_on(verb: &str, arguments: &[OsString], invocation: &Invocation) -> Result<ExitCode, Failure> {
    let error = command(verb, arguments, invocation).exec();
    Err(missing(&error))
}

fn command(verb: &str, arguments: &[OsString], invocation: &Invocation) -> Command {
    let beside =
        std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM)).filter(|path| path.is_file());
    let mut command = Command::new(beside.unwrap_or_else(|| PROGRAM.into()));
    // Global options are taken here; what it needs of them it gets as it would find them.
    command.arg(verb);
    if invocation.global.json && !arguments.iter().any(|argument| argument == "--json") {
        command.arg("--json");
    }
    command.args(arguments);
    // Where nobody has a home, its help is still to be had.
    if let Ok(place) = invocation.place() {
        command.env("FROST_HOME", place.directory);
    }
    command
}

fn missing(error: &io::Error) -> Failure {
    Told::new(Status::Failed, format!("cannot run {PROGRAM}"))
        .chain(error)
        .state("nothing was touched")
        .hint(format!("install {PROGRAM} beside frost, or anywhere on the PATH"))
        .into()
}
