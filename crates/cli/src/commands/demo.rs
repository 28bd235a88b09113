//! `frost demo`: the whole idea in ten lines.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::output;
use clap::Args;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Freezes and thaws a small program before your eyes
///
/// Starts a program that counts in its memory, freezes it, shows that it is gone, thaws it, and shows that it goes on
/// where it stood. It uses a store of its own and leaves nothing behind.
#[derive(Args, Debug)]
pub(crate) struct Options {}

/// Counts in memory only: the file is written, never read.
const PYTHON: &str = "\
import sys, time
count = 0
with open(sys.argv[1], 'a', buffering=1) as out:
    while True:
        count += 1
        print(count, file=out)
        time.sleep(0.01)
";

/// The same for machines without python3. Each sleep is a process of its own, so this is a tree.
const SHELL: &str = "\
count=0
while :; do
    count=$((count + 1))
    echo $count
    sleep 0.01
done >> \"$1\"
";

/// How long each part of the demonstration lasts.
const WHILE: Duration = Duration::from_millis(800);
/// How long we wait for what should come at once.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Frozen {
    bytes: u64,
    elapsed_us: u64,
}

#[derive(Deserialize)]
struct Thawed {
    pid: i32,
    elapsed_us: u64,
}

pub(crate) fn run(_options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let scratch = tempfile::Builder::new().prefix("frost-demo-").tempdir().map_err(trouble)?;
    let stage = Stage { store: scratch.path().join("store"), counts: scratch.path().join("counts") };
    let (name, mut program) = stage.start()?;
    let pid = program.0.id();
    stage.wait_for_count(1)?;
    thread::sleep(WHILE);
    invocation.steps.end("demo.start");

    output::line(&format!("A {name} program counts in its memory, and writes each number to a file."))?;
    output::line(&prompt(&format!("frost freeze {pid} --to counter")))?;
    let frozen: Frozen = stage.frost(&["freeze", &pid.to_string(), "--to", "counter", "--json"])?;
    // It is our child, so it is a zombie until we wait for it, and its pid is taken for so long.
    program.reap()?;
    let stood_at = stage.last_count()?;
    output::line(&format!(
        "  Frozen when it had counted to {stood_at}: {} on disk, after {}.",
        output::bytes(frozen.bytes),
        output::span(Duration::from_micros(frozen.elapsed_us)),
    ))?;
    thread::sleep(WHILE);
    let still_at = stage.last_count()?;
    if still_at != stood_at || Path::new(&format!("/proc/{pid}")).exists() {
        return Err(Told::new(Status::Failed, "the frozen program still runs")
            .cause(format!("process {pid} is there, or its file grew"))
            .state("it was ended; nothing is left of the demonstration")
            .hint("this is a bug in frost")
            .into());
    }
    output::line(&format!(
        "  Gone: there is no process {pid}; {:.1} s later the file still ends with {still_at}.",
        WHILE.as_secs_f64()
    ))?;
    invocation.steps.end("demo.freeze");

    output::line(&prompt("frost thaw counter"))?;
    let thawed: Thawed = stage.frost(&["thaw", "counter", "--json"])?;
    let resumed = Resumed::hold(thawed.pid)?;
    stage.wait_for_count(stood_at + 1)?;
    thread::sleep(WHILE);
    drop(resumed);
    let counts = stage.counts()?;
    invocation.steps.end("demo.thaw");
    output::line(&format!(
        "  Running again after {}, as process {}.",
        output::span(Duration::from_micros(thawed.elapsed_us)),
        thawed.pid
    ))?;
    let next: Vec<String> =
        counts.iter().filter(|count| **count > stood_at).take(3).map(u64::to_string).collect();
    let last = counts.last().copied().unwrap_or(0);
    output::line(&format!("  It goes on where it stood: {} ... {last}.", next.join(", ")))?;
    if !counts.iter().copied().eq(1..=last) {
        return Err(Told::new(Status::Failed, "the program did not count right")
            .cause("a number is missing, or came twice")
            .state("it was ended; nothing is left of the demonstration")
            .hint("this is a bug in frost")
            .into());
    }
    output::line(&format!("From 1 to {last}, no number is missing and none came twice. It did not notice."))?;
    Ok(ExitCode::SUCCESS)
}

fn prompt(command: &str) -> String {
    if output::stdout_has_colour() { format!("\x1b[1m$ {command}\x1b[0m") } else { format!("$ {command}") }
}

fn trouble(error: std::io::Error) -> Failure {
    Told::new(Status::Failed, "cannot set the demonstration up")
        .chain(&error)
        .state("nothing is left of it")
        .hint("set TMPDIR to a directory where you may write")
        .into()
}

/// Where it all takes place.
struct Stage {
    store: PathBuf,
    counts: PathBuf,
}

impl Stage {
    /// Starts the program that counts.
    fn start(&self) -> Result<(&'static str, Counter), Failure> {
        let mut refused = None;
        for (program, script) in [("python3", PYTHON), ("sh", SHELL)] {
            let mut command = Command::new(program);
            command.args(["-c", script]);
            // A shell takes the first word after its script for its own name.
            if program == "sh" {
                command.arg(program);
            }
            command.arg(&self.counts);
            command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            match command.spawn() {
                Ok(child) => return Ok((program, Counter(child))),
                Err(error) => refused = Some(error),
            }
        }
        Err(trouble(refused.unwrap_or_else(|| std::io::ErrorKind::NotFound.into())))
    }

    /// Runs this very frost, as a user would, and reads the record it prints.
    fn frost<T: for<'a> Deserialize<'a>>(&self, arguments: &[&str]) -> Result<T, Failure> {
        let ourselves = std::env::current_exe().map_err(trouble)?;
        let output = Command::new(ourselves)
            .arg("--store")
            .arg(&self.store)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(trouble)?;
        // What it says beside its result is for the user, good or bad.
        output::to_stderr(&String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(Told::new(Status::Failed, format!("`frost {}` failed", arguments.join(" ")))
                .cause("it says why above")
                .state("nothing is left of the demonstration")
                .hint("`frost check` tells what this machine lacks")
                .into());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| trouble(error.into()))
    }

    fn counts(&self) -> Result<Vec<u64>, Failure> {
        let text = std::fs::read_to_string(&self.counts).map_err(trouble)?;
        // A last line without its end may be half a number.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(|line| line.parse().unwrap_or(0)).collect())
    }

    fn last_count(&self) -> Result<u64, Failure> {
        Ok(self.counts()?.last().copied().unwrap_or(0))
    }

    fn wait_for_count(&self, count: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !self.counts.exists() || self.last_count()? < count {
            if Instant::now() > deadline {
                return Err(Told::new(Status::Failed, "the program does not count")
                    .cause(format!("it did not reach {count} within {}", output::span(PATIENCE)))
                    .state("it was ended; nothing is left of the demonstration")
                    .hint("`frost check` tells what this machine lacks")
                    .into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// The program as our child; whatever happens, it does not outlive us.
struct Counter(Child);

impl Counter {
    fn reap(&mut self) -> Result<(), Failure> {
        self.0.wait().map(drop).map_err(trouble)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The thawed program, ended when the demonstration is over.
struct Resumed(rustix::fd::OwnedFd);

impl Resumed {
    fn hold(pid: i32) -> Result<Self, Failure> {
        let pid = Pid::from_raw(pid).ok_or_else(|| trouble(std::io::ErrorKind::InvalidData.into()))?;
        pidfd_open(pid, PidfdFlags::empty()).map(Self).map_err(|errno| trouble(errno.into()))
    }
}

impl Drop for Resumed {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
        // Readable when it has ended, so that its file is not removed under it.
        let mut wait = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut wait, Some(&patience));
    }
}
