//! The long versions of the whole-system tests, whose raw results are kept.

use crate::run::{Outcome, built, limited, watched};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The test of components that are killed in a stream.
const ROUNDS: &str =
    "rounds::components_that_are_killed_in_a_stream_end_where_those_do_that_are_left_alone::as_myself";

/// How long the long versions are.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each real program is frozen and thawed in a row
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// How often a freeze or a thaw is killed
    #[arg(long, default_value_t = 2000)]
    kills: u32,
    /// How large the large program is
    #[arg(long, default_value_t = 4096)]
    memory_mib: u32,
    /// How many rounds of kills components go through in a stream of updates
    #[arg(long, default_value_t = 10_000)]
    restarts: u32,
    /// Only tests whose names contain one of these
    filters: Vec<String>,
}

/// Runs the tests one after another, and writes a line for each to `tests/runs`.
pub(crate) fn run(root: &Path, options: &Options) -> Outcome {
    // Components need nothing of all the rest.
    let only_components =
        !options.filters.is_empty() && options.filters.iter().all(|filter| ROUNDS.contains(filter.as_str()));
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked", "--package", "frost", "--bin", "frost"]).current_dir(root);
    if !only_components && let failed @ Outcome::Failed(_) = limited(&mut build, Duration::from_secs(1800)) {
        return failed;
    }
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let directory = root.join("tests/runs");
    let name = format!("soak-{time}.jsonl");
    let mut file =
        match std::fs::create_dir_all(&directory).and_then(|()| File::create_new(directory.join(&name))) {
            Ok(file) => file,
            Err(error) => return Outcome::Failed(format!("cannot write tests/runs/{name}: {error}")),
        };
    let mut write = |record: serde_json::Value| {
        if let Err(error) = writeln!(file, "{record}") {
            eprintln!("cannot write tests/runs/{name}: {error}");
        }
    };
    write(serde_json::json!({
        "v": 1,
        "time": time,
        "commit": commit(root),
        "kernel": rustix::system::uname().release().to_string_lossy(),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "root": rustix::process::geteuid().is_root(),
        "rounds": options.rounds,
        "kills": options.kills,
        "memory_mib": options.memory_mib,
        "restarts": options.restarts,
    }));
    let mut command = Command::new("cargo");
    command
        .args(["test", "--release", "--locked", "--no-fail-fast", "--package", "frost-tests", "--"])
        // One after another, so that the time of each means something.
        .arg("--test-threads=1")
        .args(&options.filters)
        .env("FROST_BIN", built(root, "release/frost"))
        .env("FROST_ROUNDS", options.rounds.to_string())
        .env("FROST_KILLS", options.kills.to_string())
        .env("FROST_MEMORY_MIB", options.memory_mib.to_string())
        .current_dir(root);
    let mut components = Command::new("cargo");
    components
        .args(["test", "--release", "--locked", "--package", "frost-scenario", "--test", "scenario", "--"])
        .args(["--test-threads=1", "--nocapture", ROUNDS])
        .env("FROST_RESTARTS", options.restarts.to_string())
        .current_dir(root);
    let is_asked = |test: &str| {
        options.filters.is_empty() || options.filters.iter().any(|filter| test.contains(filter.as_str()))
    };
    let mut commands = if only_components { Vec::new() } else { vec![command] };
    if is_asked(ROUNDS) {
        // The components of the tests are examples, which a test that is named does not build.
        let mut build = Command::new("cargo");
        build.args(["build", "--release", "--locked", "--package", "frost-scenario", "--bins", "--examples"]);
        if let failed @ Outcome::Failed(_) = limited(build.current_dir(root), Duration::from_secs(1800)) {
            return failed;
        }
        commands.push(components);
    }
    let (mut passed, mut failed) = (0_u32, 0_u32);
    let mut began = Instant::now();
    let mut running = String::new();
    let mut note = |line: &str| {
        // The name is printed before a test runs, its verdict when it has: what the test prints stands between.
        let mut rest = line;
        if let Some((test, after)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            running = test.to_owned();
            rest = after;
        }
        if let Some((_, reason)) = rest.split_once("skipped: ") {
            write(serde_json::json!({ "test": running, "skipped": reason }));
        }
        if let Some(record) = rest.strip_prefix("record: ").and_then(|text| serde_json::from_str(text).ok()) {
            let record: serde_json::Value = record;
            write(serde_json::json!({ "test": running, "record": record }));
        }
        if !running.is_empty() && ["ok", "FAILED", "ignored"].contains(&rest) {
            let ok = rest != "FAILED";
            passed += u32::from(ok);
            failed += u32::from(!ok);
            let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            write(serde_json::json!({ "test": running, "ok": ok, "seconds": seconds }));
            running.clear();
            began = Instant::now();
        }
    };
    let mut outcome = Outcome::Passed(None);
    for mut command in commands {
        let one = watched(&mut command, Duration::from_secs(6 * 3600), &mut note);
        if !matches!(one, Outcome::Passed(_)) {
            outcome = one;
        }
    }
    write(serde_json::json!({ "passed": passed, "failed": failed }));
    match outcome {
        Outcome::Passed(_) => {
            Outcome::Passed(Some(format!("{passed} passed, {failed} failed: tests/runs/{name}")))
        }
        other => other,
    }
}

fn commit(root: &Path) -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
