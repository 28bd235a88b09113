//! How long a program stands still for its snapshots, as it sees that itself.
//!
//! A [`Writer`] tells each gap between two turns of its loop. Those near the stop of a snapshot are its pause, all others
//! while the command runs are what copying holds up before and behind it. Between two snapshots the program forks
//! once, the floor; and as long as a snapshot takes it is left alone, which tells what the machine itself does to it.

use crate::program::frost;
use crate::report::{Report, Sample};
use crate::writer::{Writer, now_us};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Bytes that the program writes in a second.
const RATE: u64 = 100 << 20;
/// A gap that begins so near to a stop is counted to it: the clocks of the steps begin somewhere in the start of frost.
const NEAR_US: u64 = 5000;

/// So many snapshots of a program go on with the pack of the one before. Then one stores all anew, which is not counted: the
/// table of digests of a pack is as long as the pack, of which what belongs to no version any more is a hole.
const TOGETHER: u32 = 32;

/// What to measure of snapshots, and where.
#[derive(clap::Args, Clone)]
pub(crate) struct Snapshots {
    /// The frost to measure
    #[arg(long, default_value = "target/release/frost")]
    pub(crate) frost: PathBuf,
    /// Where the store lies
    #[arg(long, default_value = "target/bench")]
    pub(crate) directory: PathBuf,
    /// Where raw results are kept
    #[arg(long, default_value = "bench/runs")]
    pub(crate) results: PathBuf,
    /// Snapshots of each program
    #[arg(long, default_value_t = 500)]
    pub(crate) snapshots: u32,
    /// Snapshots of each program once more in the environment of `frost run`, where each goes on from the one before:
    /// 500 of 1 GiB take some minutes
    #[arg(long, default_value_t = 500)]
    pub(crate) held: u32,
    /// The sizes of the programs in MiB
    #[arg(long, value_delimiter = ',', default_value = "8,64,256,1024")]
    pub(crate) sizes: Vec<usize>,
    /// All pages are stored each time, none shared with the snapshot before
    #[arg(long)]
    pub(crate) full: bool,
    /// Also print the steps of each snapshot
    #[arg(long)]
    pub(crate) steps: bool,
}

/// Measures all of it and prints the table.
pub(crate) fn run(run: &Snapshots) -> io::Result<()> {
    std::fs::create_dir_all(&run.directory)?;
    let version = frost(&run.frost, &run.directory, &["--version"])?.1;
    let machine = crate::machine::Machine::describe(&run.directory, version.trim().to_owned());
    let mut report = Report::create(&run.results, &machine)?;
    let table = measure_all(run, &mut report)?;
    std::fs::remove_dir_all(&run.directory)?;
    println!("{}\n\n{}\n{table}", machine.line(), report.table());
    report.draw()
}

/// Measures all of it, and returns a table of percentiles.
pub(crate) fn measure_all(run: &Snapshots, report: &mut Report) -> io::Result<String> {
    let mut pauses = Vec::new();
    for mib in &run.sizes {
        for (held, count) in [(false, run.snapshots), (true, run.held)] {
            if count > 0 {
                let program = if held { format!("{mib} MiB, `frost run`") } else { format!("{mib} MiB") };
                pauses.push((program, measure(run, *mib, held, count, report)?));
            }
        }
    }
    second_versions(run, report, false)?;
    second_versions(run, report, true)?;
    crate::redis::measure(&run.frost, &run.directory, run.snapshots.min(20), report)?;
    Ok(percentiles(&pauses))
}

/// What was seen at one size, microseconds.
#[derive(Default)]
struct Seen {
    pauses: Vec<u64>,
    forks: Vec<u64>,
    stalls: Vec<u64>,
    idle: Vec<u64>,
}

/// The value of which so many hundredths are less.
fn percentile(values: &[u64], hundredths: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn percentiles(all: &[(String, Seen)]) -> String {
    let mut text =
        String::from("| memory | gaps of | p50 | p90 | p99 | longest |\n|---|---|---|---|---|---|\n");
    for (program, seen) in all {
        for (what, values) in [
            ("the stop", &seen.pauses),
            ("a bare fork", &seen.forks),
            ("copying beside it", &seen.stalls),
            ("the machine alone", &seen.idle),
        ] {
            let cells = [50, 90, 99, 100].map(|at| format!("{:.1} ms", percentile(values, at) as f64 / 1e3));
            text.push_str(&format!("| {program} | {what} | {} |\n", cells.join(" | ")));
        }
    }
    text
}

/// What share of its pages a program of [`SECOND_MIB`] writes between two versions, in hundredths.
const SHARES: [f64; 7] = [0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
const SECOND_MIB: usize = 1024;

/// Measures second versions, each beside the first of the same program: by comparing all of its memory, and, in the
/// environment of `frost run`, by what was written since.
fn second_versions(run: &Snapshots, report: &mut Report, held: bool) -> io::Result<()> {
    let writer = Writer { bytes: SECOND_MIB << 20, rate: 0 };
    let (mut program, pid) = start(run, writer, held)?;
    let pages = (SECOND_MIB << 20) as f64 / 4096.0;
    for (round, share) in SHARES.into_iter().enumerate() {
        let made = |full: bool| -> io::Result<(f64, f64, u64)> {
            let mut arguments = vec!["freeze", &pid, "--to", "bench", "--leave-running", "--json"];
            arguments.extend(full.then_some("--full"));
            let (took, printed) = frost(&run.frost, &run.directory, &arguments)?;
            let record: Value = serde_json::from_str(printed.lines().next().unwrap_or_default())?;
            let version = record["version"].as_u64().unwrap_or(0);
            Ok((took.as_secs_f64() * 1e6, record["bytes"].as_f64().unwrap_or(0.0), version))
        };
        let first = made(true)?;
        program.ask(&((pages * share / 100.0) as u64).to_string())?;
        let second = made(false)?;
        // Of a program that runs by its name, all versions cannot be removed at once.
        for version in [second.2 - 1, second.2] {
            frost(&run.frost, &run.directory, &["rm", &format!("bench@{version}")])?;
        }
        for (side, (us, bytes, _)) in [("floor", first), ("frost", second)] {
            let round = round as u32;
            let kind = if held { "held" } else { "compared" };
            let figure = |what: &str| format!("second-{kind}-{what}-{share}%");
            report.add(Sample { figure: figure("time"), side, round, unit: "us", value: us as u64 })?;
            report.add(Sample {
                figure: figure("bytes"),
                side,
                round,
                unit: "bytes",
                value: bytes as u64,
            })?;
        }
    }
    program.end()
}

/// The program, running.
struct Running {
    child: Child,
    input: ChildStdin,
    told: Receiver<Told>,
}

/// What the program tells.
enum Told {
    Ready,
    Gap { start: u64, len: u64 },
    Done { len: u64 },
}

impl Running {
    /// Starts it, by itself or as what `under` runs.
    fn start(writer: Writer, under: Option<Command>) -> io::Result<Self> {
        let executable = std::env::current_exe()?;
        let mut command = match under {
            Some(mut command) => {
                command.arg(executable);
                command
            }
            None => Command::new(executable),
        };
        let mut child = command
            .args(["writer".to_owned(), writer.bytes.to_string(), writer.rate.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the program has no pipes"));
        };
        let (sender, told) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut words = line.split(' ');
                let word = words.next().unwrap_or_default();
                let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                let told = match word {
                    "gap" => Told::Gap { start: number(), len: number() },
                    "done" => Told::Done { len: number() },
                    _ => Told::Ready,
                };
                if sender.send(told).is_err() {
                    return;
                }
            }
        });
        let running = Self { child, input, told };
        match running.told.recv() {
            Ok(Told::Ready) => Ok(running),
            _ => Err(io::Error::other("the program did not start")),
        }
    }

    /// Asks it for something, and returns how long that took.
    fn ask(&mut self, what: &str) -> io::Result<u64> {
        writeln!(self.input, "{what}")?;
        loop {
            match self.told.recv() {
                Ok(Told::Done { len }) => return Ok(len),
                Ok(_) => {}
                Err(_) => return Err(io::Error::other("the program is gone")),
            }
        }
    }

    /// Lists the gaps that were told until now.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let gap = |told| if let Told::Gap { start, len } = told { Some((start, len)) } else { None };
        self.told.try_iter().filter_map(gap).collect()
    }

    fn end(mut self) -> io::Result<()> {
        drop(self.input);
        self.child.wait().map(drop)
    }
}

/// Starts the program, by itself or in the environment of `frost run`; also returns what `frost freeze` knows it by.
fn start(run: &Snapshots, writer: Writer, held: bool) -> io::Result<(Running, String)> {
    let mut under = Command::new(&run.frost);
    under.arg("--store").arg(run.directory.join("store")).args(["run", "--name", "bench", "--"]);
    let program = Running::start(writer, held.then_some(under))?;
    let pid = if held { "bench".to_owned() } else { program.child.id().to_string() };
    Ok((program, pid))
}

fn measure(run: &Snapshots, mib: usize, held: bool, count: u32, report: &mut Report) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let (mut program, pid) = start(run, Writer { bytes: mib << 20, rate: RATE }, held)?;
    let mut round = 0;
    for turn in 0.. {
        if round == count {
            break;
        }
        // The first one stores all, and finds everything cold.
        let anew = turn % TOGETHER == 0;
        let fork = program.ask("fork")?;
        program.gaps();
        let began = now_us();
        let (record, ended) = snapshot(run, &pid, anew)?;
        settle();
        let gaps = program.gaps();
        // Left alone for as long, it is held up by the machine only.
        std::thread::sleep(Duration::from_micros(ended - began));
        let idle = program.gaps().iter().map(|gap| gap.1).max().unwrap_or(0);
        let stops = stops(&record, ended);
        let near = |gap: &&(u64, u64)| {
            stops.iter().any(|(from, to)| gap.0 + gap.1 + NEAR_US >= *from && gap.0 <= to + NEAR_US)
        };
        let longest = |gaps: &mut dyn Iterator<Item = &(u64, u64)>| gaps.map(|gap| gap.1).max().unwrap_or(0);
        let pause = longest(&mut gaps.iter().filter(near));
        let stall = longest(&mut gaps.iter().filter(|gap| !near(gap)));
        if run.steps {
            eprintln!("pause {pause} stall {stall} idle {idle} fork {fork} {}", describe(&record));
        }
        if !anew {
            round += 1;
            seen.pauses.push(pause);
            seen.forks.push(fork);
            seen.stalls.push(stall);
            seen.idle.push(idle);
            let mut add = |what: &str, side, unit, value| {
                let figure = format!("{what}-{}{mib}M", if held { "held-" } else { "" });
                report.add(Sample { figure, side, round, unit, value })
            };
            add("pause", "frost", "us", pause)?;
            add("pause", "floor", "us", fork)?;
            add("stall", "frost", "us", stall)?;
            add("stall", "floor", "us", idle)?;
            add("snapshot", "frost", "us", ended - began)?;
            add("snapshot-bytes", "frost", "bytes", record["bytes"].as_u64().unwrap_or(0))?;
            add("stopped-bytes", "frost", "bytes", record["dirty_pages"].as_u64().unwrap_or(0) * 4096)?;
        }
    }
    program.end()?;
    frost(&run.frost, &run.directory, &["rm", "bench"])?;
    Ok(seen)
}

/// Gives the program time to tell its last gap.
fn settle() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Makes a snapshot; returns its record, with its steps below `steps`, and when it ended. The one before is removed.
fn snapshot(run: &Snapshots, pid: &str, anew: bool) -> io::Result<(Value, u64)> {
    let mut arguments = vec!["freeze", pid, "--to", "bench", "--leave-running", "--json", "--timings"];
    if run.full || anew {
        arguments.push("--full");
    }
    let (_, printed) = frost(&run.frost, &run.directory, &arguments)?;
    let ended = now_us();
    let mut record = Value::Null;
    for line in printed.lines() {
        let found: Value = serde_json::from_str(line)?;
        if found["timings"].is_array() {
            let steps = found["timings"].clone();
            record["steps"] = steps;
        } else {
            record = found;
        }
    }
    let version = record["version"].as_u64().unwrap_or(1);
    if version > 1 {
        let _ = frost(&run.frost, &run.directory, &["rm", &format!("bench@{}", version - 1)])?;
    }
    Ok((record, ended))
}

fn steps(record: &Value) -> impl Iterator<Item = (&str, u64)> {
    let steps = record["steps"].as_array().into_iter().flatten();
    steps.filter_map(|step| Some((step["name"].as_str()?, step["us"].as_u64()?)))
}

/// Computes when the program stood still, from the steps of a snapshot that ended at `ended`.
fn stops(record: &Value, ended: u64) -> Vec<(u64, u64)> {
    let total: u64 = steps(record).map(|step| step.1).sum();
    let mut at = ended - total;
    let mut stops = Vec::new();
    for (name, us) in steps(record) {
        let stopped = ["precopy.stop", "precopy.enter"].contains(&name)
            || name.starts_with("freeze.")
                && !["freeze.find", "freeze.begin", "freeze.sync-files", "freeze.commit"].contains(&name);
        if stopped {
            stops.push((at, at + us));
        }
        at += us;
    }
    stops
}

fn describe(record: &Value) -> String {
    let mut text =
        format!("said {} passes {} pages {}:", record["pause_us"], record["passes"], record["dirty_pages"]);
    for (name, us) in steps(record) {
        text.push_str(&format!(" {name}={us}"));
    }
    text
}
