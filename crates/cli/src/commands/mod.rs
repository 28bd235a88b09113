//! The commands, one file each.

mod check;
mod core;
mod demo;
mod diff;
mod export;
mod freeze;
mod gc;
mod import;
mod inspect;
mod list;
mod rm;
mod thaw;
mod verify;

use crate::failure::Failure;
use crate::invocation::Invocation;
use clap::Subcommand;
use std::process::ExitCode;

/// All commands there are. The doc comment of each one's options is its help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Check(check::Options),
    Core(core::Options),
    Demo(demo::Options),
    Diff(diff::Options),
    Export(export::Options),
    Freeze(freeze::Options),
    Gc(gc::Options),
    Import(import::Options),
    Inspect(inspect::Options),
    List(list::Options),
    Rm(rm::Options),
    Thaw(thaw::Options),
    Verify(verify::Options),
}

impl Command {
    /// Returns whether small exit statuses are those of the program it runs.
    pub(crate) fn returns_status_of_program(&self) -> bool {
        matches!(self, Command::Thaw(options) if options.is_attached())
    }

    /// Runs it.
    pub(crate) fn run(self, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
        match self {
            Command::Check(options) => check::run(&options, invocation),
            Command::Core(options) => core::run(&options, invocation),
            Command::Demo(options) => demo::run(&options, invocation),
            Command::Diff(options) => diff::run(&options, invocation),
            Command::Export(options) => export::run(&options, invocation),
            Command::Freeze(options) => freeze::run(&options, invocation),
            Command::Gc(options) => gc::run(&options, invocation),
            Command::Import(options) => import::run(&options, invocation),
            Command::Inspect(options) => inspect::run(&options, invocation),
            Command::List(options) => list::run(&options, invocation),
            Command::Rm(options) => rm::run(&options, invocation),
            Command::Thaw(options) => thaw::run(&options, invocation),
            Command::Verify(options) => verify::run(&options, invocation),
        }
    }
}
