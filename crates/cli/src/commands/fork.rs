//! `frost fork`: copies of what runs.

use super::{freeze, thaw};
use crate::failure::Failure;
use crate::invocation::Invocation;
use clap::Args;
use std::process::ExitCode;

/// Makes copies of a running program or virtual machine, which goes on
///
/// A snapshot is taken, and each copy goes on from it, with process ids of its own; that of a program of `frost run` or of a
/// virtual machine has a name of its own, as NAME-2. A virtual machine's has ports of its own, too, and shares the memory that no copy writes. The snapshot stays in the store, until `frost rm`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A process id, or the name of a program or virtual machine that was run or thawed
    #[arg(value_name = "PID|NAME")]
    target: String,
    /// How many copies
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    copies: u32,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let image = freeze::freeze(&freeze::Options::snapshot(&options.target), invocation)
        .map_err(|failure| failure.asked("cannot freeze ", "cannot fork "))?;
    for _ in 0..options.copies {
        thaw::run(&thaw::Options::copy(&image, invocation.steps.elapsed()), invocation)?;
    }
    Ok(ExitCode::SUCCESS)
}
