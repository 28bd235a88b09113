//! The project's chores: `cargo xtask help` lists them.
#![forbid(unsafe_code)]

mod demo;
mod dist;
mod fuzz;
mod kinds;
mod licences;
mod records;
mod run;
mod setup;
mod soak;
mod suite;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Chores of the Permafrost repository
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs what the tests need (as root; else says what to install) and runs all of them
    Test(suite::Options),
    /// Installs the programs that the tests freeze, by apt
    Setup,
    /// Checks that each kind of object has its files, and writes docs/kinds.md
    Kinds {
        /// Only check, write nothing
        #[arg(long)]
        check: bool,
    },
    /// Writes the records of an image into docs/image.md
    Records {
        /// Only check, write nothing
        #[arg(long)]
        check: bool,
    },
    /// Runs the long versions of the whole-system tests, and keeps their raw results in tests/runs
    Soak(soak::Options),
    /// Runs every fuzz target
    Fuzz {
        /// How long all of them run together
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        seconds: u64,
    },
    /// Builds a static tarball and a Debian package below target/dist, and tries them out
    Dist,
    /// Checks the licences of everything that is linked in
    Licences,
    /// Builds for release and measures freeze and thaw, or `runtime`, or `components`, beside their floors
    Bench {
        /// Options of `frost-bench run`; or `runtime` or `components`, and its options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

fn main() -> ExitCode {
    let root = repository();
    let outcome = match Arguments::parse().chore {
        Chore::Test(options) => return suite::run(&root, &options),
        Chore::Setup => setup::install(&root),
        Chore::Kinds { check } => kinds::run(&root, check),
        Chore::Records { check } => records::run(&root, check),
        Chore::Soak(options) => soak::run(&root, &options),
        Chore::Fuzz { seconds } => fuzz::run(&root, seconds),
        Chore::Dist => dist::run(&root),
        Chore::Licences => licences::check(&root),
        Chore::Bench { options } => bench(&root, &options),
    };
    match outcome {
        run::Outcome::Passed(remark) => {
            if let Some(remark) = remark {
                println!("{remark}");
            }
            ExitCode::SUCCESS
        }
        run::Outcome::Skipped(reason) => {
            println!("skipped: {reason}");
            ExitCode::SUCCESS
        }
        run::Outcome::Failed(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Builds frost and its bench for release, and runs the bench.
fn bench(root: &Path, options: &[String]) -> run::Outcome {
    let hour = Duration::from_secs(3600);
    let mut build = Command::new("cargo");
    let (what, package, option, options) = match options.split_first() {
        Some((first, rest)) if first == "components" => ("components", "frost-scenario", "--scenario", rest),
        Some((first, rest)) if first == "runtime" => ("runtime", "frost", "--frost", rest),
        _ => ("run", "frost", "--frost", options),
    };
    build.args(["build", "--release", "--locked", "-p", package, "-p", "frost-bench"]).current_dir(root);
    match run::limited(&mut build, hour) {
        run::Outcome::Passed(_) => {
            let mut bench = Command::new(run::built(root, "release/frost-bench"));
            bench.arg(what).arg(option).arg(run::built(root, &format!("release/{package}")));
            if what == "runtime" {
                match dist::compile(root, package, package) {
                    Ok(frost) => _ = bench.arg("--static").arg(frost),
                    Err(failure) => return failure.into(),
                }
            }
            run::limited(bench.args(options).current_dir(root), hour)
        }
        failed => failed,
    }
}

/// The directory of the repository: above this package's own.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
