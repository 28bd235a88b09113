//! Measures freeze and thaw, each beside the floor it is compared with: the least that any program must do.
//!
//! | figure | from | to | floor |
//! |---|---|---|---|
//! | `freeze-SIZE` | start of `frost freeze` | its end: image synced, program gone | write and fsync of as much |
//! | `thaw-SIZE` | start of `frost thaw` | its end: program runs | reading as much into huge pages |
//! | `freeze-4M`, `thaw-4M` | the same | the same | writing and syncing, reading as much |
//! | `start` | start of `frost --version` | its end | |
//! | `freeze-N-threads` and so on | as above | as above | making so many, in the program itself |
//! | `second-time-PART`, `second-bytes-PART` | the second `frost freeze --leave-running` of a program that wrote so much of its memory since the first | its end; what it added to the store | the first one |
//! | `peak-freeze`, `peak-thaw` | | greatest resident set of any process of frost, bytes | |
//! | `pause-SIZE` | the longest gap that a program sees in itself at a stop of a snapshot | | a bare fork() of it |
//! | `stall-SIZE` | the longest gap at any other time of it | | its longest gap when it is left alone |
//! | `pause-held-SIZE`, `stall-held-SIZE` | the same of a program of `frost run`, of which each snapshot goes on from the one before | | the same |
//! | `second-KIND-time-SHARE` and so on | start of the freeze of a second version | its end | the first version |
//! | `redis-longest-wait`, `redis-rate` | of a client while a snapshot is made, 1 s later | | just before |
//!
//! Snapshots (see [`pauses`]) are also measured by `frost-bench snapshots`, as many as one likes.
//!
//! Virtual machines (`vm-freeze-SIZE-KIND` and so on, see [`machines`]) are measured by `frost-bench machines`, beside QEMU's
//! own way into a file; components (see [`components`]) by `frost-bench components`, beside bare unix sockets; the environment
//! of `frost run` (see [`runtime`]) by `frost-bench runtime`, beside life outside of it.
//!
//! The memory is incompressible. Floor and ours take turns in one run, on one file system; what was written stays in
//! the page cache, for both. All raw numbers go to a file below `runs/`, with the machine they come from, and curves
//! beside it: of sizes with both axes logarithmic, of all else linear, but for shares of the pages that reach far down.
#![forbid(unsafe_code)]

mod components;
mod curve;
mod figures;
mod machine;
mod machines;
mod memory;
mod pauses;
mod program;
mod redis;
mod report;
mod runtime;
mod shape;
mod writer;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures freeze and thaw beside their floors
#[derive(Parser)]
#[command(name = "frost-bench")]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Measures all figures
    Run(Run),
    /// Measures virtual machines; there must be a kernel for them in the store (`frost vm setup`)
    Machines(Machines),
    /// Measures components beside bare unix sockets
    Components(components::Options),
    /// Is one of the processes that are measured there
    #[command(hide = true)]
    Component(components::Role),
    /// Measures what a program pays for living in the environment of `frost run`, and its start
    Runtime(runtime::Options),
    /// Is a process that works there
    #[command(hide = true)]
    Work(runtime::Work),
    /// Measures how long programs stand still for snapshots, as they see it themselves
    Snapshots(pauses::Snapshots),
    /// Is the program of which snapshots are made: writes to its memory, and tells what holds it up
    #[command(hide = true)]
    Writer(writer::Writer),
    /// Is the program that is frozen: becomes what it is to be, says `ready`, and sleeps
    #[command(hide = true)]
    Program(shape::Shape),
    /// Runs a command, waits for it and all that it left behind, and prints the greatest resident set of any
    #[command(hide = true)]
    Peak {
        /// Wait for the command only: what it left behind goes on
        #[arg(long)]
        command_only: bool,
        /// The command
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

/// What to measure, and where.
#[derive(clap::Args, Clone)]
struct Run {
    /// The frost to measure
    #[arg(long, default_value = "target/release/frost")]
    frost: PathBuf,
    /// Where the store and the floor's file lie
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Where raw results are kept
    #[arg(long, default_value = "bench/runs")]
    results: PathBuf,
    /// Rounds of each figure; those of 4 GiB have half as many
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// The sizes of the large programs in MiB
    #[arg(long, value_delimiter = ',', default_value = "64,512,1024,4096")]
    sizes: Vec<usize>,
    /// The parts of 10,000 threads, 200 processes, 10,000 mappings and 15,000 descriptors that are measured
    #[arg(long, value_delimiter = ',', default_value = "0.25,0.5,1")]
    parts: Vec<f64>,
    /// Snapshots of each program of `frost run` that judges its pauses; others get two for each round
    #[arg(long, default_value_t = 500)]
    snapshots: u32,
    /// The size of the program that is frozen a second time, in MiB
    #[arg(long, default_value_t = 1024)]
    second: usize,
    /// How much of it is written in between, in percent
    #[arg(long, value_delimiter = ',', default_value = "0,1,10,50,100")]
    written: Vec<u32>,
}

/// What to measure of virtual machines, and where.
#[derive(clap::Args, Clone)]
struct Machines {
    /// The frost to measure
    #[arg(long, default_value = "target/release/frost")]
    frost: PathBuf,
    /// Where the store and the floor's file lie
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Where raw results are kept
    #[arg(long, default_value = "bench/runs")]
    results: PathBuf,
    /// Guests booted for each figure
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Their memory in MiB
    #[arg(long, value_delimiter = ',', default_value = "128,512,2048")]
    sizes: Vec<u64>,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().mode {
        Mode::Run(run) => figures::run(&run),
        Mode::Snapshots(run) => pauses::run(&run),
        Mode::Writer(writer) => writer.be(),
        Mode::Program(shape) => shape.be(),
        Mode::Machines(run) => machines::run(&run),
        Mode::Components(options) => components::run(&options),
        Mode::Component(role) => role.play(),
        Mode::Runtime(options) => runtime::run(&options),
        Mode::Work(work) => work.be(),
        Mode::Peak { command_only, command } => program::print_peak(&command, command_only),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
