//! `frost-scenario`: components wired together, started, fed, watched, replaced.
//!
//! `frost up` and its companions are this program. A scenario has a supervisor, [`engine`], which is this process or, with
//! `--detach`, one that it leaves behind; the other commands are its clients. It is found by the directory of its name
//! below `scenarios` in the store.
#![forbid(unsafe_code)]

mod budget;
mod client;
mod command;
mod confine;
mod control;
mod document;
mod engine;
mod face;
mod failure;
mod graph;
mod image;
mod lives;
mod members;
mod place;
mod proof;
mod scenario;
mod sessions;
mod shelf;
mod source;
mod spot;
mod stage;
mod status;
mod vault;
mod voice;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before the parser: it is started for each life of a component.
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("stage") {
        return ExitCode::from(stage::run(&arguments.next().unwrap_or_default()));
    }
    match command::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            voice::tell(&failure);
            ExitCode::from(failure.status)
        }
    }
}
