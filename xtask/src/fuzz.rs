//! Fuzz targets: one for each decoder of bytes that may be hostile.

use crate::run::{Outcome, is_installed, limited};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What cargo-fuzz passes too, less the sanitizers: those need a nightly compiler, coverage does not.
const FLAGS: &str = "--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
     -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
     -C llvm-args=-sanitizer-coverage-trace-compares -C codegen-units=1 -C debug-assertions -C overflow-checks";

/// The host as target, so that build scripts are not built with the flags.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds all targets and runs each for some seconds.
pub(crate) fn run(root: &Path, seconds: u64) -> Outcome {
    let directory = root.join("fuzz");
    let Ok(entries) = std::fs::read_dir(directory.join("fuzz_targets")) else {
        return Outcome::Skipped("there are no fuzz targets yet".to_owned());
    };
    let mut targets: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().strip_suffix(".rs").map(str::to_owned))
        .collect();
    targets.sort();
    if !is_installed("c++") {
        return Outcome::Skipped("libFuzzer needs a C++ compiler: apt-get install g++".to_owned());
    }
    let built = root.join("target/fuzz");
    let mut build = Command::new("cargo");
    build
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(&built)
        .env("RUSTFLAGS", FLAGS)
        .current_dir(&directory);
    if let failed @ Outcome::Failed(_) = limited(&mut build, Duration::from_secs(900)) {
        return failed;
    }
    for target in &targets {
        println!("-- {target}");
        // What was found to be of interest is kept between runs; what made a target fail is kept for us.
        let corpus = built.join("corpus").join(target);
        let found = built.join("found").join(target);
        for directory in [&corpus, &found] {
            if let Err(error) = std::fs::create_dir_all(directory) {
                return Outcome::Failed(format!("cannot make {}: {error}", directory.display()));
            }
        }
        let mut command = Command::new(built.join(TARGET).join("release").join(target));
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg("-rss_limit_mb=2048")
            .arg("-timeout=10")
            .arg("-print_final_stats=0")
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(&corpus);
        let seeds = directory.join("seeds").join(target);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        if let failed @ Outcome::Failed(_) = limited(&mut command, Duration::from_secs(seconds + 120)) {
            return failed;
        }
    }
    Outcome::Passed(Some(format!("{} targets, {seconds} s each", targets.len())))
}
