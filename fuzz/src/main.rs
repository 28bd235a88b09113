//! `frost-fuzz TARGET|all --seconds N [--seed S]`: runs a target for that time, or all in turn in that time together.
//!
//! An input that makes it panic, or take longer than a second, is written to `corpus/TARGET`, and the exit status
//! is 1. The seed that is printed repeats the run.
#![forbid(unsafe_code)]

use frost_fuzz::mutate::{Mutator, corpus, corpus_dir};
use frost_fuzz::{TARGETS, Target};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an input may take; a thousand times what the seeds take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much memory a run may need. Inputs are small, so more means that a claim was believed.
const MEMORY_BYTES: u64 = 512 << 20;

struct Options {
    targets: Vec<&'static Target>,
    time: Duration,
    seed: u64,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: frost-fuzz TARGET|all --seconds N [--seed S]\ntargets: {}", names.join(", "));
        return ExitCode::from(2);
    };
    let sound = options.targets.iter().all(|target| run(target, options.time, options.seed));
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let name = arguments.next()?;
    let targets: Vec<_> = TARGETS.iter().filter(|target| name == "all" || name == target.name).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut options = Options { targets, time: Duration::from_secs(10), seed: now.as_micros() as u64 };
    while let Some(argument) = arguments.next() {
        let number = arguments.next()?.parse().ok()?;
        match argument.as_str() {
            "--seconds" => options.time = Duration::from_secs(number),
            "--seed" => options.seed = number,
            _ => return None,
        }
    }
    options.time /= u32::try_from(options.targets.len()).ok().filter(|count| *count > 0)?;
    Some(options)
}

fn run(target: &Target, time: Duration, seed: u64) -> bool {
    println!("{}: seed {seed}", target.name);
    let mut inputs = (target.seeds)();
    inputs.extend(corpus(target.name));
    let mut mutator = Mutator::new(seed, inputs);
    let began = Instant::now();
    let mut count = 0u64;
    while began.elapsed() < time {
        let input = mutator.next_input();
        let started = Instant::now();
        // The panic has printed its message and place by itself.
        let outcome = std::panic::catch_unwind(|| (target.run)(&input));
        let took = started.elapsed();
        count += 1;
        if outcome.is_err() || took > PATIENCE {
            let path = corpus_dir(target.name).join(&blake3::hash(&input).to_hex()[..16]);
            let kept =
                std::fs::create_dir_all(corpus_dir(target.name)).and_then(|()| std::fs::write(&path, &input));
            let why = if outcome.is_err() { "panicked" } else { "took too long" };
            println!("{}: input {count} {why} ({took:?}); kept in {}: {kept:?}", target.name, path.display());
            return false;
        }
    }
    let peak = peak_bytes();
    println!("{}: {count} inputs, peak memory {} MiB", target.name, peak >> 20);
    if peak > MEMORY_BYTES {
        println!("{}: more than {} MiB, so a claim was believed", target.name, MEMORY_BYTES >> 20);
    }
    peak <= MEMORY_BYTES
}

/// The most memory that this process ever had, from `VmHWM` in `/proc/self/status`.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}
