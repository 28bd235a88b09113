//! `frost up` and all else about scenarios: a command of its own does it, found as git finds its.
//!
//! So `frost` itself stays small, and starts fast.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

const PROGRAM: &str = "frost-scenario";

/// Declares a command that is handed on as it is.
macro_rules! handed_on {
    ($($(#[$doc:meta])* $name:ident $verb:literal)*) => {
        $(
            $(#[$doc])*
            #[derive(Args, Debug)]
            #[command(disable_help_flag = true)]
            pub(crate) struct $name {
                /// Its options and arguments; `--help` tells them
                #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
                arguments: Vec<OsString>,
            }

            impl $name {
                /// Runs it.
                pub(crate) fn run(&self, invocation: &Invocation) -> Result<ExitCode, Failure> {
                    hand_on($verb, &self.arguments, invocation)
                }
            }
        )*
    };
}

handed_on! {
    /// Starts a scenario: components wired together
    ///
    /// Each reads documents and reports documents, so that it can be killed, restarted and replaced while nothing is lost.
    Up "up"
    /// Ends a scenario
    Down "down"
    /// Shows how the components of a scenario stand
    State "status"
    /// Puts another implementation in the place of a component
    Replace "replace"
    /// Shows who reads what in a scenario
    Graph "graph"
    /// Shows a document as a component reads it
    Rom "rom"
    /// Shows what a component reports
    Report "report"
}

/// Whether a scenario runs under this name, and no image of a program has it.
pub(crate) fn runs(name: &str, invocation: &Invocation) -> bool {
    is_scenario(name, "control", invocation)
}

/// Whether a scenario was frozen under this name, and no image of a program has it.
pub(crate) fn is_frozen(name: &str, invocation: &Invocation) -> bool {
    is_scenario(name, "image", invocation)
}

/// Freezes a scenario.
pub(crate) fn freeze(name: &str, invocation: &Invocation) -> Result<ExitCode, Failure> {
    hand_on("freeze", &[name.into()], invocation)
}

/// Thaws a scenario.
pub(crate) fn thaw(name: &str, attach: bool, invocation: &Invocation) -> Result<ExitCode, Failure> {
    let mut arguments = vec![OsString::from(name)];
    arguments.extend(attach.then(|| "--attach".into()));
    hand_on("thaw", &arguments, invocation)
}

fn is_scenario(name: &str, file: &str, invocation: &Invocation) -> bool {
    let Ok(place) = invocation.place() else { return false };
    let is_name =
        !name.contains('/') && !name.starts_with('.') && !name.bytes().all(|byte| byte.is_ascii_digit());
    let store = place.directory;
    is_name
        && !store.join("images").join(name).exists()
        && store.join("scenarios").join(name).join(file).exists()
}

fn hand_on(verb: &str, arguments: &[OsString], invocation: &Invocation) -> Result<ExitCode, Failure> {
    let beside =
        std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM)).filter(|path| path.is_file());
    let mut command = Command::new(beside.unwrap_or_else(|| PROGRAM.into()));
    // Global options are taken here; what it needs of them it gets as it would find them.
    command.arg(verb);
    if invocation.global.json {
        command.arg("--json");
    }
    command.args(arguments);
    // Where nobody has a home, its help is still to be had.
    if let Ok(place) = invocation.place() {
        command.env("FROST_HOME", place.directory);
    }
    let error = command.exec();
    Err(Told::new(Status::Failed, format!("cannot run {PROGRAM}"))
        .chain(&error)
        .state("nothing was touched")
        .hint(format!("install {PROGRAM} beside frost, or anywhere on the PATH"))
        .into())
}
