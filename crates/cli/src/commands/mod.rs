//! The commands, one file each.

mod attach;
mod check;
mod core;
mod demo;
mod diff;
mod export;
mod fork;
mod freeze;
mod gc;
mod guest;
mod import;
mod inspect;
mod kill;
mod list;
mod logs;
mod ps;
mod rm;
mod run;
mod scenario;
mod set;
mod terminal;
mod thaw;
mod verify;
mod vm;
mod wait;

pub(crate) use check::refused_namespaces_remedy;

use crate::failure::Failure;
use crate::invocation::Invocation;
use clap::Subcommand;
use std::process::ExitCode;

/// All commands there are. The doc comment of each one's options is its help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Attach(attach::Options),
    Check(check::Options),
    Core(core::Options),
    Demo(demo::Options),
    Diff(diff::Options),
    Down(scenario::Down),
    Export(export::Options),
    Fork(fork::Options),
    Freeze(freeze::Options),
    Gc(gc::Options),
    Graph(scenario::Graph),
    Import(import::Options),
    Inspect(inspect::Options),
    Kill(kill::Options),
    List(list::Options),
    Logs(logs::Options),
    Ps(ps::Options),
    Replace(scenario::Replace),
    Report(scenario::Report),
    Rm(rm::Options),
    Rom(scenario::Rom),
    Run(run::Options),
    Set(set::Options),
    Status(scenario::State),
    Thaw(thaw::Options),
    Up(scenario::Up),
    Verify(verify::Options),
    Vm(vm::Options),
    Wait(wait::Options),
}

/// Adds the options of a command to its parser.
pub(crate) type Augment = fn(clap::Command) -> clap::Command;

/// Commands that are to begin at once.
pub(crate) const URGENT: [(&str, Augment); 3] = [
    ("freeze", <freeze::Options as clap::Args>::augment_args),
    ("run", <run::Options as clap::Args>::augment_args),
    ("thaw", <thaw::Options as clap::Args>::augment_args),
];

impl Command {
    /// Returns whether small exit statuses are those of the program it runs.
    pub(crate) fn returns_status_of_program(&self) -> bool {
        match self {
            Command::Run(_) | Command::Wait(_) | Command::Attach(_) => true,
            Command::Thaw(options) => options.is_attached(),
            _ => false,
        }
    }

    /// Runs it.
    pub(crate) fn run(self, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
        match self {
            Command::Attach(options) => attach::run(&options, invocation),
            Command::Check(options) => check::run(&options, invocation),
            Command::Core(options) => core::run(&options, invocation),
            Command::Demo(options) => demo::run(&options, invocation),
            Command::Diff(options) => diff::run(&options, invocation),
            Command::Down(options) => options.run(invocation),
            Command::Export(options) => export::run(&options, invocation),
            Command::Fork(options) => fork::run(&options, invocation),
            Command::Freeze(options) => freeze::run(&options, invocation),
            Command::Gc(options) => gc::run(&options, invocation),
            Command::Graph(options) => options.run(invocation),
            Command::Import(options) => import::run(&options, invocation),
            Command::Inspect(options) => inspect::run(&options, invocation),
            Command::Kill(options) => kill::run(&options, invocation),
            Command::List(options) => list::run(&options, invocation),
            Command::Logs(options) => logs::run(&options, invocation),
            Command::Ps(options) => ps::run(&options, invocation),
            Command::Replace(options) => options.run(invocation),
            Command::Report(options) => options.run(invocation),
            Command::Rm(options) => rm::run(&options, invocation),
            Command::Rom(options) => options.run(invocation),
            Command::Run(options) => run::run(&options, invocation),
            Command::Set(options) => set::run(&options, invocation),
            Command::Status(options) => options.run(invocation),
            Command::Thaw(options) => thaw::run(&options, invocation),
            Command::Up(options) => options.run(invocation),
            Command::Verify(options) => verify::run(&options, invocation),
            Command::Vm(options) => vm::run(&options, invocation),
            Command::Wait(options) => wait::run(&options, invocation),
        }
    }
}

/// Finds the instance of a name, which somebody typed.
fn named(
    store: &frost_store::Store,
    name: &str,
) -> Result<frost_runtime::instance::Instance, frost_runtime::Error> {
    let Ok(parsed) = frost_store::Name::new(name) else { return Err(frost_runtime::Error::Missing) };
    frost_runtime::instance::Instance::find(store, &parsed)?.ok_or(frost_runtime::Error::Missing)
}
