//! `frost gc`: room.

use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::progress::Progress;
use crate::{output, trouble};
use clap::Args;
use frost_store::GcOptions;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// Removes what dead commands left, and compresses images that lie long
///
/// No image is removed. A compressed image is inflated when it is thawed, which takes longer.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Compress images that were neither frozen nor thawed for so many days
    #[arg(long, value_name = "DAYS")]
    compress_after: Option<u64>,
}

#[derive(Serialize)]
struct Record {
    freed_bytes: u64,
    leftovers: usize,
    compressed: Vec<String>,
    problems: Vec<String>,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let how = GcOptions {
        compress_after: options.compress_after.map(|days| Duration::from_secs(days.saturating_mul(86_400))),
        ..GcOptions::default()
    };
    let progress = Progress::start("compressing".to_owned());
    progress.watch(&store);
    let done = store.gc(&how).map_err(|error| trouble::of_store("cannot collect", error))?;
    drop(progress);
    invocation.steps.end("store.gc");
    let record = Record {
        freed_bytes: done.freed_bytes,
        leftovers: done.leftovers.len()
            + done.strays.len()
            + frost_runtime::budget::sweep()
            + frost_runtime::layer::sweep_copies(&store),
        compressed: done.compressed.iter().map(|compressed| compressed.id.to_string()).collect(),
        problems: done
            .problems
            .iter()
            .map(|(id, error)| format!("{id}: {}", trouble::chained(error)))
            .collect(),
    };
    if invocation.global.json {
        output::record(&record)?;
    } else {
        for compressed in &done.compressed {
            output::line(&format!(
                "compressed {}: {} to {}",
                compressed.id,
                output::bytes(compressed.before_bytes),
                output::bytes(compressed.after_bytes)
            ))?;
        }
        output::line(&format!("{} freed", output::bytes(record.freed_bytes)))?;
    }
    for problem in &record.problems {
        output::note(&format!("warning: {problem}"));
    }
    Ok(ExitCode::SUCCESS)
}
