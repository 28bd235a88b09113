//! The commands, one file each.

mod check;
mod freeze;
mod inspect;

use crate::failure::Failure;
use crate::invocation::Invocation;
use clap::Subcommand;
use std::process::ExitCode;

/// All commands there are. The doc comment of each one's options is its help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Check(check::Options),
    Freeze(freeze::Options),
    Inspect(inspect::Options),
}

impl Command {
    /// Runs it.
    pub(crate) fn run(self, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
        match self {
            Command::Check(options) => check::run(&options, invocation),
            Command::Inspect(options) => inspect::run(&options, invocation),
            Command::Freeze(options) => freeze::run(&options, invocation),
        }
    }
}
