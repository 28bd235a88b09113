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

/// Removes what dead commands left, compresses images that lie long, and shares what several have
///
/// No image is removed. A compressed image is inflated when it is thawed, which takes longer.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Compress images that were neither frozen nor thawed for so many days
    #[arg(long, value_name = "DAYS")]
    compress_after: Option<u64>,
    /// Read all images that are not compressed for memory that several have, so that it lies on the disk once: it takes a file
    /// system whose files can share, as btrfs and XFS
    #[arg(long)]
    duplicates: bool,
}

#[derive(Serialize)]
struct Record {
    freed_bytes: u64,
    leftovers: usize,
    compressed: Vec<String>,
    /// Memory that stood on the disk more than once, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate_bytes: Option<u64>,
    /// How much of that is shared now.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_bytes: Option<u64>,
    problems: Vec<String>,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let how = GcOptions {
        compress_after: options.compress_after.map(|days| Duration::from_secs(days.saturating_mul(86_400))),
        duplicates: options.duplicates,
        ..GcOptions::default()
    };
    let doing = if options.duplicates { "collecting" } else { "compressing" };
    let progress = Progress::start(doing.to_owned());
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
        duplicate_bytes: done.duplicates.map(|found| found.found_bytes),
        shared_bytes: done.duplicates.map(|found| found.shared_bytes),
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
        if let Some(found) = done.duplicates {
            let shared = if found.shared_bytes < found.found_bytes {
                "; the file system of the store cannot let files share it, as btrfs and XFS can"
            } else {
                ""
            };
            output::line(&format!("{} stood there twice{shared}", output::bytes(found.found_bytes)))?;
        }
        output::line(&format!("{} freed", output::bytes(record.freed_bytes)))?;
    }
    for problem in &record.problems {
        output::note(&format!("warning: {problem}"));
    }
    Ok(ExitCode::SUCCESS)
}
