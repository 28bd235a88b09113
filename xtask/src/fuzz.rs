//! Fuzz targets: one for each decoder of bytes that may be hostile.

use crate::run::{Outcome, built, limited};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Runs every target in turn, `seconds` in all.
pub(crate) fn run(root: &Path, seconds: u64) -> Outcome {
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--quiet", "--package", "frost-fuzz"]).current_dir(root);
    if let failed @ Outcome::Failed(_) = limited(&mut build, Duration::from_secs(900)) {
        return failed;
    }
    let mut command = Command::new(built(root, "debug/frost-fuzz"));
    command.args(["all", "--seconds", &seconds.to_string()]).current_dir(root.join("fuzz"));
    match limited(&mut command, Duration::from_secs(2 * seconds + 60)) {
        Outcome::Passed(_) => Outcome::Passed(Some(format!("all targets, {seconds} s in all"))),
        other => other,
    }
}
