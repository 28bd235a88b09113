//! The `frost` command: freezes a running program, keeps it, and thaws it.
//!
//! It is a library only for what is made of its definition, the manual pages and completions. This crate is the only one that prints, reads the environment or knows a terminal. A command is one file of
//! [`commands`]; it gets its own options and the [`Invocation`], and returns how it ended. What went wrong comes back
//! as a [`Failure`], which [`failure`] renders and turns into an exit status.
#![forbid(unsafe_code)]

mod commands;
mod destination;
mod failure;
mod help;
mod invocation;
mod log;
mod output;
mod place;
mod progress;
mod routes;
mod settings;
mod trouble;

use failure::Failure;
use invocation::Invocation;
use std::process::ExitCode;

/// Returns the definition of the command line.
pub fn command() -> clap::Command {
    help::command()
}

fn dispatch(arguments: help::Arguments) -> Result<ExitCode, Failure> {
    let command = arguments.command;
    let mut invocation = Invocation::new(arguments.global).map_err(|failure| {
        if command.returns_status_of_program() { failure.with_status(failure::Status::Own) } else { failure }
    })?;
    let outcome = command.run(&mut invocation);
    match invocation.finish() {
        Err(failure) => outcome.and(Err(failure)),
        Ok(()) => outcome,
    }
}

/// Runs the command that the arguments of this process ask for.
pub fn run() -> ExitCode {
    let first = std::env::args_os().nth(1);
    let matches = match help::parser(first.as_deref()).try_get_matches() {
        Err(error) if error.kind() != clap::error::ErrorKind::DisplayVersion => {
            // Once more, by the parser that can tell all that there is to say.
            help::command().try_get_matches()
        }
        other => other,
    };
    let matches = match matches {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version come this way too. That nobody reads them is not worth a message.
            let _ = error.print();
            // Where every other number is the program's own, a wrong command line is told apart as well.
            let asked = first.as_deref().and_then(std::ffi::OsStr::to_str);
            let attached = || std::env::args_os().any(|word| word == "--attach");
            let of_program = match asked {
                Some("run" | "wait" | "attach") => true,
                Some("thaw") => attached(),
                _ => false,
            };
            return ExitCode::from(match error.use_stderr() {
                false => 0,
                true if of_program => failure::Status::Own.code(),
                true => failure::Status::Usage.code(),
            });
        }
    };
    let arguments = match <help::Arguments as clap::FromArgMatches>::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match dispatch(arguments) {
        Ok(code) => code,
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Told(told)) => {
            told.print();
            ExitCode::from(told.status.code())
        }
    }
}
