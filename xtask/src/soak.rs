//! The long versions of the whole-system tests: thousands of kills, and many rounds of every real program.
//!
//! Each test is a process of its own, so that it can be timed, repeated, and left out when it has passed already. The raw
//! result is a file of lines in `tests/runs`: first what ran where, then each test with what it counted itself, in the end
//! the sums.

use crate::run::{Outcome, built, limited, watched};
use crate::setup;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The test of components that are killed in a stream.
const COMPONENTS: &str =
    "rounds::components_that_are_killed_in_a_stream_end_where_those_do_that_are_left_alone::as_myself";

/// How long the long versions are.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each real program is frozen and thawed in a row
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// How often each of the tests that kill at any moment does so
    #[arg(long, default_value_t = 400)]
    kills: u32,
    /// How large the large program is
    #[arg(long, default_value_t = 4096)]
    memory_mib: u32,
    /// How many rounds of kills components go through in a stream of updates
    #[arg(long, default_value_t = 2000)]
    restarts: u32,
    /// Try the frost that `cargo build` makes, rather than that for release
    #[arg(long)]
    dev: bool,
    /// Only this part of it; several may be named
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// How many tests of real programs run beside each other, and beside one that kills
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Go on with a run that did not come to its end: what has passed in this file is not run again
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Only tests whose names contain one of these
    filters: Vec<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Whoever takes part is killed, at any moment and at each step
    Kills,
    /// Real programs and servers
    Programs,
    /// `frost run`, and virtual machines
    Runtime,
    /// Components
    Components,
}

impl Part {
    const ALL: [Self; 4] = [Self::Kills, Self::Programs, Self::Runtime, Self::Components];

    fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Programs => "programs",
            Self::Runtime => "runtime",
            Self::Components => "components",
        }
    }

    /// The package and the test programs, and which of their tests.
    fn tests(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Self::Kills => ("frost-tests", &["kills", "never_lost"], ""),
            Self::Programs => ("frost-tests", &["programs", "servers", "everyday", "tools"], ""),
            Self::Runtime => ("frost-tests", &["run", "load", "machines"], ""),
            Self::Components => ("frost-scenario", &["scenario"], COMPONENTS),
        }
    }
}

/// One test to run.
struct Job {
    part: Part,
    program: PathBuf,
    suite: &'static str,
    test: String,
}

impl Job {
    fn key(&self) -> String {
        format!("{}::{}", self.suite, self.test)
    }
}

/// The file of results and what is known of them.
struct Report {
    file: File,
    passed: u64,
    failed: u64,
    skipped: u64,
    kills: u64,
    lost: u64,
}

impl Report {
    fn write(&mut self, record: &Value) {
        if let Err(error) = writeln!(self.file, "{record}") {
            eprintln!("cannot write the report: {error}");
        }
    }

    /// Adds up what a test has told; a run that is gone on with has told some of it before.
    fn count(&mut self, record: &Value) {
        let Some(ok) = record["ok"].as_bool() else { return };
        self.passed += u64::from(ok);
        self.failed += u64::from(!ok);
        self.skipped += u64::from(record.get("skipped").is_some());
        for told in record["records"].as_array().into_iter().flatten() {
            self.kills += told["kills"].as_u64().unwrap_or(0);
            self.lost += told["lost"].as_u64().unwrap_or(0);
        }
    }
}

/// How much of the end of a failed test's output the report keeps.
const KEPT_LINES: usize = 60;

/// Runs the tests and writes their results to `tests/runs`.
pub(crate) fn run(root: &Path, options: &Options) -> Outcome {
    let began = Instant::now();
    let parts: Vec<Part> = if options.part.is_empty() {
        Part::ALL.to_vec()
    } else {
        Part::ALL.into_iter().filter(|part| options.part.contains(part)).collect()
    };
    match setup::install(root) {
        Outcome::Failed(reason) => return Outcome::Failed(reason),
        Outcome::Passed(said) => said.into_iter().for_each(|said| println!("{said}")),
        Outcome::Skipped(reason) => println!("{reason}"),
    }
    let mut jobs = match build(root, &parts, options.dev) {
        Ok(jobs) => jobs,
        Err(failed) => return failed,
    };
    jobs.retain(|job| {
        options.filters.is_empty() || options.filters.iter().any(|filter| job.key().contains(filter.as_str()))
    });
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let header = header(root, options, &parts, time);
    let (path, mut report) = match open(root, options, &header, time) {
        Ok(opened) => opened,
        Err(why) => return Outcome::Failed(why),
    };
    let all = jobs.len();
    match passed_already(&path) {
        Ok(records) => {
            let names: BTreeSet<&str> = records.keys().map(String::as_str).collect();
            jobs.retain(|job| !names.contains(job.key().as_str()));
            records.values().for_each(|record| report.count(record));
        }
        Err(why) => return Outcome::Failed(why),
    }
    println!("{} of {all} tests are run; the raw result is {}", jobs.len(), path.display());
    let report = Mutex::new(report);
    // Those that kill let several programs live beside each other themselves: one by one, beside all others, which are the
    // load that kills should meet.
    let (kills, others): (VecDeque<&Job>, VecDeque<&Job>) =
        jobs.iter().partition(|job| job.part == Part::Kills);
    let queues = [(Mutex::new(kills), 1), (Mutex::new(others), options.jobs.max(1))];
    std::thread::scope(|scope| {
        for (queue, workers) in &queues {
            for _ in 0..*workers {
                scope.spawn(|| {
                    while let Some(job) = next(queue) {
                        let record = one(root, options, job);
                        let mut report = locked(&report);
                        report.count(&record);
                        report.write(&record);
                    }
                });
            }
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    let ran = report.passed + report.failed;
    // Whoever built something else meanwhile has tested something else.
    let end = tree_of(root);
    let is_same = ["commit", "changed"].iter().all(|what| end[*what] == header[*what]);
    let sums = json!({
        "passed": report.passed,
        "failed": report.failed,
        "skipped": report.skipped,
        "kills": report.kills,
        "lost": report.lost,
        "commit": end["commit"],
        "changed": end["changed"],
        "complete": is_same && options.part.is_empty() && options.filters.is_empty() && ran >= all as u64,
        "seconds": seconds(began),
        "load": load(),
    });
    report.write(&sums);
    let told = format!("{sums}: {}", path.display());
    if report.failed == 0 { Outcome::Passed(Some(told)) } else { Outcome::Failed(told) }
}

fn next<'a>(queue: &Mutex<VecDeque<&'a Job>>) -> Option<&'a Job> {
    locked(queue).pop_front()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

/// Builds frost, as a rule for release, which is what is tested, and the tests as everybody builds them; lists the tests.
fn build(root: &Path, parts: &[Part], dev: bool) -> Result<Vec<Job>, Outcome> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments).arg("--locked").current_dir(root);
        command
    };
    let long = Duration::from_secs(3600);
    let mut builds = vec![cargo(&["build", "--package", "frost", "--bin", "frost"])];
    if !dev {
        builds[0].arg("--release");
    }
    if parts.contains(&Part::Components) {
        // The components of the tests are examples, which a test that is named does not build.
        builds.push(cargo(&["build", "--package", "frost-scenario", "--bins", "--examples"]));
    }
    for mut build in builds {
        if let failed @ Outcome::Failed(_) = limited(&mut build, long) {
            return Err(failed);
        }
    }
    let mut jobs = Vec::new();
    for part in parts {
        let (package, suites, prefix) = part.tests();
        let mut command = cargo(&["test", "--no-run", "--message-format=json", "--package", package]);
        suites.iter().for_each(|suite| _ = command.args(["--test", suite]));
        let output = command
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|error| Outcome::Failed(format!("cannot run cargo: {error}")))?;
        if !output.status.success() {
            return Err(Outcome::Failed(format!("the tests of {} do not build", part.name())));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let artifacts: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for suite in suites {
            let program = artifacts.iter().find_map(|artifact| {
                let is_it = artifact["target"]["name"] == *suite && artifact["target"]["kind"][0] == "test";
                is_it.then(|| artifact["executable"].as_str().map(PathBuf::from)).flatten()
            });
            let program =
                program.ok_or_else(|| Outcome::Failed(format!("cargo built no tests of {suite}")))?;
            let list = Command::new(&program).args(["--list", "--format", "terse"]).output();
            let list = list.map_err(|error| Outcome::Failed(format!("{}: {error}", program.display())))?;
            let list = String::from_utf8_lossy(&list.stdout).into_owned();
            let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
            jobs.extend(tests.filter(|test| test.starts_with(prefix)).map(|test| Job {
                part: *part,
                program: program.clone(),
                suite,
                test: test.to_owned(),
            }));
        }
    }
    Ok(jobs)
}

/// Opens the file of results: a new one, or the one that is gone on with.
fn open(root: &Path, options: &Options, header: &Value, time: u64) -> Result<(PathBuf, Report), String> {
    let path = match &options.resume {
        Some(path) => path.clone(),
        None => root.join("tests/runs").join(format!("soak-{time}.jsonl")),
    };
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let file = match &options.resume {
        Some(_) => File::options().append(true).open(&path),
        None => {
            let directory = path.parent().unwrap_or(root);
            std::fs::create_dir_all(directory).and_then(|()| File::create_new(&path))
        }
    };
    let mut report =
        Report { file: file.map_err(failed)?, passed: 0, failed: 0, skipped: 0, kills: 0, lost: 0 };
    if options.resume.is_some() {
        let first = std::fs::read_to_string(&path).map_err(failed)?;
        let first: Value =
            serde_json::from_str(first.lines().next().unwrap_or_default()).unwrap_or(Value::Null);
        // Of another build or with other numbers it would be another result.
        for what in ["commit", "changed", "frost", "rounds", "kills", "memory_mib", "restarts"] {
            if first[what] != header[what] {
                return Err(format!("{} has another {what}: begin anew", path.display()));
            }
        }
        report.write(&json!({ "resumed": time }));
    } else {
        report.write(header);
    }
    Ok((path, report))
}

/// The tests that have passed according to a file, by name.
fn passed_already(path: &Path) -> Result<BTreeMap<String, Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(records
        .filter(|record| record["ok"] == true)
        .filter_map(|record| {
            Some((format!("{}::{}", record["suite"].as_str()?, record["test"].as_str()?), record))
        })
        .collect())
}

/// Runs one test and returns its record.
fn one(root: &Path, options: &Options, job: &Job) -> Value {
    let began = Instant::now();
    let mut command = Command::new(&job.program);
    command
        .args(["--exact", &job.test, "--nocapture", "--test-threads=1"])
        .env("FROST_BIN", built(root, if options.dev { "debug/frost" } else { "release/frost" }))
        .env("FROST_ROUNDS", options.rounds.to_string())
        .env("FROST_KILLS", options.kills.to_string())
        .env("FROST_MEMORY_MIB", options.memory_mib.to_string())
        .env("FROST_RESTARTS", options.restarts.to_string())
        // As cargo does it: where the package is.
        .current_dir(if job.part == Part::Components {
            root.join("crates/scenario")
        } else {
            root.join("tests")
        });
    let (mut records, mut skipped, mut said) = (Vec::new(), None, VecDeque::new());
    let outcome = watched(&mut command, Duration::from_secs(3 * 3600), |line| {
        // The name stands before what the test prints first.
        let rest = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
            .map_or(line, |(_, rest)| rest);
        if let Some((_, reason)) = rest.split_once("skipped: ") {
            skipped = Some(reason.to_owned());
        }
        if let Some(record) = rest.strip_prefix("record: ").and_then(|text| serde_json::from_str(text).ok()) {
            let record: Value = record;
            records.push(record);
        }
        if said.len() == KEPT_LINES {
            said.pop_front();
        }
        said.push_back(line.to_owned());
    });
    let ok = matches!(outcome, Outcome::Passed(_));
    let mut record = json!({
        "part": job.part.name(),
        "suite": job.suite,
        "test": job.test,
        "ok": ok,
        "seconds": seconds(began),
    });
    if !records.is_empty() {
        record["records"] = records.into();
    }
    if let Some(reason) = skipped {
        record["skipped"] = reason.into();
    }
    if !ok {
        record["said"] = said.into_iter().collect::<Vec<String>>().into();
    }
    record
}

/// Which commit is tested, and whether it was changed.
fn tree_of(root: &Path) -> Value {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root).output();
        output.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    // Results of runs are no part of what is tested.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/runs"]);
    json!({ "commit": git(&["rev-parse", "--short", "HEAD"]), "changed": !changed.is_empty() })
}

/// What ran where, and how long it was to be.
fn header(root: &Path, options: &Options, parts: &[Part], time: u64) -> Value {
    let tree = tree_of(root);
    let read = |path: &str, field: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.trim_start().strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    json!({
        "v": 2,
        "time": time,
        "commit": tree["commit"],
        "changed": tree["changed"],
        "frost": if options.dev { "dev" } else { "release" },
        "kernel": rustix::system::uname().release().to_string_lossy(),
        "processor": read("/proc/cpuinfo", "model name"),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": read("/proc/meminfo", "MemTotal"),
        "load": load(),
        "root": rustix::process::geteuid().is_root(),
        "parts": parts.iter().map(|part| part.name()).collect::<Vec<_>>(),
        "filters": options.filters,
        "jobs": options.jobs,
        "rounds": options.rounds,
        "kills": options.kills,
        "memory_mib": options.memory_mib,
        "restarts": options.restarts,
    })
}

/// The machine's load of the last one, five and fifteen minutes.
fn load() -> Vec<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).filter_map(|number| number.parse().ok()).collect()
}
