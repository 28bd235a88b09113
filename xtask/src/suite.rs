//! Everything that must hold before a change is taken, as steps that are reported one by one.

use crate::run::{Outcome, limited, watched};
use crate::{demo, fuzz, kinds, licences, records, setup};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the steps whose names contain one of these
    steps: Vec<String>,
    /// How long all fuzz targets run together
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    fuzz_seconds: u64,
}

/// What the test runners reported.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests that said that they were skipped.
    ended_early: u64,
    /// The reasons that tests gave for being skipped.
    reasons: Vec<String>,
}

/// Runs the steps; the exit status tells whether all of them passed.
pub(crate) fn run(root: &Path, options: &Options) -> ExitCode {
    type Step<'a> = (&'static str, Box<dyn FnOnce(&mut Tally) -> Outcome + 'a>);
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(root);
        command
    };
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let steps: Vec<Step<'_>> = vec![
        ("setup", Box::new(|_| setup::install(root))),
        ("format", Box::new(|_| limited(&mut cargo(&["fmt", "--all", "--check"]), minutes(2)))),
        ("kinds", Box::new(|_| kinds::run(root, true))),
        ("records", Box::new(|_| records::run(root, true))),
        ("licences", Box::new(|_| licences::check(root))),
        (
            "lint",
            Box::new(|_| {
                let arguments =
                    ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
                limited(&mut cargo(&arguments), minutes(10))
            }),
        ),
        (
            "docs",
            Box::new(|_| {
                // Nothing here is published: who reads these pages works on the code.
                let arguments = ["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"];
                let mut command = cargo(&arguments);
                limited(
                    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"),
                    minutes(5),
                )
            }),
        ),
        (
            "tests",
            Box::new(|tally| {
                let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
                watched(&mut command, minutes(60), |line| tally.read(line))
            }),
        ),
        ("demo", Box::new(|_| demo::run(root))),
        ("fuzz", Box::new(|_| fuzz::run(root, options.fuzz_seconds))),
    ];
    let mut tally = Tally::default();
    let mut failed = false;
    let mut report = Vec::new();
    for (name, step) in steps {
        if !options.steps.is_empty() && !options.steps.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        println!("== {name}");
        let began = Instant::now();
        let outcome = step(&mut tally);
        let seconds = began.elapsed().as_secs_f64();
        let (word, remark) = match outcome {
            Outcome::Passed(remark) => ("ok", remark.unwrap_or_default()),
            Outcome::Skipped(reason) => ("skipped", reason),
            Outcome::Failed(reason) => {
                failed = true;
                ("FAILED", reason)
            }
        };
        report.push(format!("{word:<8} {name:<9} {seconds:>6.1} s  {remark}").trim_end().to_owned());
    }
    println!("\n== summary");
    for line in &report {
        println!("{line}");
    }
    tally.reasons.sort();
    tally.reasons.dedup();
    for reason in &tally.reasons {
        println!("skipped: {reason}");
    }
    let (passed, skipped) = tally.honest();
    println!("tests: {passed} passed, {} failed, {skipped} skipped", tally.failed);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Tally {
    /// How many tests passed, and how many were skipped, in truth.
    fn honest(&self) -> (u64, u64) {
        (self.passed.saturating_sub(self.ended_early), self.skipped + self.ended_early)
    }

    /// Reads a line that cargo's test runner printed.
    fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            // `ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`
            let number = |word: &str| {
                let before = result.split_once(word)?.0;
                before.rsplit([' ', ';']).find(|part| !part.is_empty())?.parse::<u64>().ok()
            };
            self.passed += number(" passed").unwrap_or(0);
            self.failed += number(" failed").unwrap_or(0);
            self.skipped += number(" ignored").unwrap_or(0);
        } else if let Some((_, reason)) = line.split_once("skipped: ") {
            // Such a test ends early, which its runner counts as passed.
            self.ended_early += 1;
            self.reasons.push(reason.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_s_lines_are_added_up() {
        let mut tally = Tally::default();
        tally.read(
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.read("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.read("skipped: no numpy");
        tally.read("test a ... ok");
        assert_eq!((tally.honest(), tally.failed), ((8, 2), 3));
        assert_eq!(tally.reasons, ["no numpy"]);
    }
}
