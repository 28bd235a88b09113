//! Running process to image.
//!
//! [`freeze`] finds a process and all of its descendants, stops every thread, captures the four sessions and the
//! capabilities, writes image and pack, and only when both are synced and the image has its name, ends the tree or
//! lets it go on. [`check`] lists what would be in the way, without stopping anything.
//!
//! The work is done by a guardian, a process of its own ([`guardian`]), in named [`STEPS`]. Until the commit every
//! way out, an error, a panic, a SIGKILL of the guardian, lets the program run on as it was: all that was changed in
//! it are the registers of threads inside of a tape, and those find back by themselves
//! (`frost_tracee::inject`).
#![forbid(unsafe_code)]

mod aio;
mod bundle;
pub mod cap;
mod capture;
mod copies;
mod cpu;
mod deposit;
mod difference;
mod dirty;
mod end;
mod failure;
mod file;
mod filter;
mod guardian;
mod held;
mod host;
mod inner;
mod landlock;
pub mod layer;
mod listening;
mod member;
mod nest;
mod network;
mod patience;
mod pd;
mod persist;
mod places;
mod precopy;
mod ram;
mod reach;
mod rm;
mod routes;
mod standing;
mod stash;
mod statuses;
mod survey;
mod target;
mod tidy;
mod unseen;
mod urgent;
mod written;

pub use failure::{Failure, FailureKind};
pub use survey::check;
pub use tidy::tidy;

use frost_model::Steps;
use frost_model::steps::Step;
use frost_store::{Name, Store};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The steps of a freeze in their order, as `--timings` names them and as faults can be injected behind each.
///
/// Those of `precopy` only where memory is copied while the program runs; `freeze.hold` only where there are several
/// processes to end; that, `freeze.announced` before it, and `freeze.ending`, behind each of them, are part of `freeze.end`.
pub const STEPS: [&str; 24] = [
    "freeze.begin",
    "precopy.survey",
    "precopy.stop",
    "precopy.enter",
    "precopy.flags",
    "precopy.copy",
    "precopy.last",
    "freeze.stop",
    "freeze.sweep",
    "freeze.survey",
    "freeze.sync-files",
    "freeze.inner",
    "precopy.rest",
    "freeze.descriptors",
    "freeze.sessions",
    "freeze.memory",
    "freeze.resume",
    "precopy.settle",
    "precopy.verify",
    "freeze.commit",
    "freeze.announced",
    "freeze.hold",
    "freeze.ending",
    "freeze.end",
];

/// The keeper of a program that lives in an environment of the runtime: what a freeze must know of it and tell it.
pub trait Keeper: std::fmt::Debug {
    /// Its pid: the program shares its namespaces, and what the program's processes leave behind become its children.
    fn pid(&self) -> i32;

    /// The process beside the program that leads the session of its terminal, by its number here, if there is one.
    fn leader(&self) -> Option<i32>;

    /// How many filters of system calls the runtime has put on the program, which a thaw puts there again.
    fn filters(&self) -> u32;

    /// Which filters the program has installed itself, as the keeper was told.
    fn notes(&self) -> Vec<frost_keeper::notes::Note>;

    /// What the program gets again where it is thawed.
    fn runtime(&self) -> frost_model::host::Runtime;

    /// Directories of which the program has a view of its own.
    fn layers(&self) -> &[layer::Source];

    /// Whether the program sees other files than we do beside those of its layers: what its image brought along.
    fn is_bundled(&self) -> bool;

    /// Holds a descriptor until it is [given](Self::give) back, instead of an earlier one; it is closed when the program ends.
    ///
    /// # Errors
    /// Why it is not held.
    fn hold(&self, descriptor: rustix::fd::BorrowedFd<'_>) -> Result<(), String>;

    /// Gives the descriptor that it holds, and holds it no more.
    fn give(&self) -> Option<rustix::fd::OwnedFd>;

    /// Keeps sockets, each with its number, while the program is frozen, if it stays then.
    ///
    /// # Errors
    /// Why they are not kept.
    fn keep(&self, sockets: &[(u32, rustix::fd::BorrowedFd<'_>)]) -> Result<(), String>;

    /// Hears that this version of the image is complete and that the program will now be ended.
    ///
    /// # Errors
    /// Why it could not be told: it then takes the program's end for an end.
    fn complete(&self, version: u32) -> Result<(), String>;

    /// Gets the file whose first byte becomes `byte` when that begins: should we die behind it, the keeper ends what is left
    /// of the program.
    fn ending(&self, note: rustix::fd::BorrowedFd<'_>, byte: u8);

    /// Hears that the guardian has died: if the program was not about to be ended, it goes on, and its end will be its own.
    fn desert(&self);
}

/// Says of a keeper what matters to who stops a tree.
fn adopter(keeper: &dyn Keeper) -> frost_tracee::seize::Adopter {
    frost_tracee::seize::Adopter { pid: keeper.pid(), own: keeper.leader(), filters: keeper.filters() }
}

/// Whoever wants to know how far a freeze is.
pub trait Progress: std::fmt::Debug {
    /// Hears, now and then, that `done` of `all` bytes are done, as far as that is known.
    fn update(&self, done: u64, all: u64);
}

/// How to freeze.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Let the program go on afterwards.
    pub leave_running: bool,
    /// Copy memory while the program runs, so that it stands still only for what changed last. A program that goes on
    /// afterwards is always frozen so.
    pub precopy: bool,
    /// Also capture the regular files that it has open for writing.
    pub files: bool,
    /// Also capture the files of this machine that it uses.
    pub bundle: bool,
    /// Freeze although a service manager would start the program again.
    pub force: bool,
    /// Store all of its memory, also what an earlier image of the same name has.
    pub full: bool,
    /// How long a thread may take to stop.
    pub stop_timeout: Duration,
    /// The program's keeper, if it is one of the runtime.
    pub keeper: Option<&'a dyn Keeper>,
    /// Who is told how far it is.
    pub progress: Option<&'a dyn Progress>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            leave_running: false,
            precopy: false,
            files: false,
            bundle: false,
            force: false,
            full: false,
            stop_timeout: Duration::from_secs(10),
            keeper: None,
            progress: None,
        }
    }
}

/// What a freeze made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The name of the instance.
    pub name: String,
    /// The version of this image.
    pub version: u32,
    /// Bytes that the image added to the store.
    pub bytes: u64,
    /// The version whose pages it shares, if it is incremental.
    pub base: Option<u32>,
    /// How many processes it holds.
    pub processes: u32,
    /// How many threads.
    pub threads: u32,
    /// How long the program stood still before it went on or was ended; if it was stopped more than once, the longest.
    pub pause_us: u64,
    /// How often its memory was gone through while it ran; 0 if all was copied while it stood still.
    pub passes: u32,
    /// How many pages were copied while it stood still, after such passes.
    pub dirty_pages: u64,
    /// How long all of it took.
    pub elapsed_us: u64,
    /// Whether the program goes on.
    pub running: bool,
    /// What the user should know, a line each.
    pub warnings: Vec<String>,
    /// How long each step took.
    pub steps: Vec<Step>,
}

/// Freezes process `pid` and all of its descendants under `name`.
///
/// The calling process must be single-threaded, since a guardian is forked from it.
///
/// # Errors
/// [`Failure`] says how things stand; in each case the program runs as before, or its image is complete.
pub fn freeze(store: &Store, pid: i32, name: &Name, options: Options<'_>) -> Result<Frozen, Failure> {
    let mut steps = Steps::start();
    let stat = target::validate(pid, options.force)?;
    let what = format!("cannot freeze process {pid} ({})", String::from_utf8_lossy(&stat.comm));
    let told = |done, all| options.progress.into_iter().for_each(|progress| progress.update(done, all));
    guardian::run(
        &what,
        pid,
        &told,
        || {
            options.keeper.into_iter().for_each(Keeper::desert);
            store.take_up_endings();
        },
        |meter| persist::run(store, pid, name, options, &what, &mut steps, meter),
    )
}
