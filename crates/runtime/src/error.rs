//! What can go wrong with an instance. After each of these it is as it was.

use frost_sys::cgroup::{Lack, Resource};
use rustix::io::Errno;
use std::path::PathBuf;

/// Why something could not be done with an instance.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no instance of that name.
    #[error("there is no program of that name")]
    Missing,
    /// It runs already.
    #[error("{name} runs already, as process {pid}")]
    Runs {
        /// Its name.
        name: String,
        /// The root of its tree.
        pid: i32,
    },
    /// It is frozen.
    #[error("{name} is frozen, as version {version}")]
    Frozen {
        /// Its name.
        name: String,
        /// Its newest version.
        version: u32,
    },
    /// It is frozen as a part of another program.
    #[error("it is frozen with {}, in which it runs", outer.as_ref().map_or("the program", |outer| outer.as_str()))]
    Within {
        /// Which, if that is known.
        outer: Option<frost_store::Name>,
    },
    /// It does not run.
    #[error("it does not run: {0}")]
    Ended(String),
    /// Another command is starting or thawing it.
    #[error("another command is starting it at this moment")]
    Busy,
    /// Its keeper could not be talked to.
    #[error(transparent)]
    Keeper(#[from] frost_keeper::Error),
    /// The keeper has no terminal for it.
    #[error("it has no terminal here: it was not started by --detach, and has that of whoever started it")]
    NoTerminal,
    /// It is seen from another pid namespace.
    #[error("its processes are not seen from here: it runs in a pid namespace that is not below ours")]
    Elsewhere,
    /// There is no kind of call of that name.
    #[error("there is no kind {0:?} of calls that could be allowed")]
    Kind(String),
    /// There can be no budget for it here.
    #[error("{}", lack.told(*resource))]
    Budget {
        /// For what.
        resource: Resource,
        /// Why not.
        lack: Lack,
    },
    /// The kernel does not take a limit.
    #[error("the kernel does not take {} as limit{}", amount(*resource, *limit), in_use(*used_bytes))]
    Limit {
        /// Of what.
        resource: Resource,
        /// The limit.
        limit: u64,
        /// How much memory is in use, if it is that.
        used_bytes: Option<u64>,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// There can be no layer over a directory.
    #[error("there can be no layer over {}: {why}", directory.display())]
    Layer {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        why: String,
    },
    /// What lies below a layer is not what it was.
    #[error("{} is not what it was below the layer: {shown}{}", directory.display(), others(*more))]
    Lower {
        /// The directory.
        directory: PathBuf,
        /// The first differences.
        shown: String,
        /// How many more there are.
        more: usize,
    },
    /// What was written into a layer cannot be looked at.
    #[error("{0}")]
    Written(String),
    /// It was not started by `frost run`.
    #[error("it was not started by `frost run`, so it has no environment of its own")]
    Unprepared,
    /// An image needs more memory than its program may have.
    #[error("its memory of {} KiB does not fit into its budget of {} KiB", needs_bytes / 1024, budget_bytes / 1024)]
    DoesNotFit {
        /// What it needs at once.
        needs_bytes: u64,
        /// What it may have.
        budget_bytes: u64,
    },
    /// What an image brings along cannot be put where it belongs.
    #[error("{} cannot be had from what the image brings along: {why}", path.display())]
    Bundle {
        /// Where it belongs.
        path: PathBuf,
        /// What is in the way.
        why: String,
    },
    /// What is kept of a program does not see what its image brings along.
    #[error("what is kept of it does not see the files that this image brings along")]
    Kept,
    /// What is kept of a program lives in another network than its image did.
    #[error("what is kept of it has another network than this image")]
    Network,
    /// The program could not be executed.
    #[error("{}: {source}", word(program))]
    Program {
        /// What was to be executed.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A step in the making of the environment failed.
    #[error("{object}: {}", in_words(object, *source))]
    Environment {
        /// What it was about.
        object: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A file of the instance could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] frost_store::Error),
}

/// A word of a command line, so that it is seen where it is empty.
fn word(word: &str) -> &str {
    if word.is_empty() { "''" } else { word }
}

fn amount(resource: Resource, limit: u64) -> String {
    match resource {
        Resource::Memory => format!("{} KiB of memory", limit / 1024),
        Resource::Cpu => format!("{limit}% of a processor"),
    }
}

/// What an errno says of what it is about, where its own words would lead astray.
fn in_words(object: &str, source: Errno) -> String {
    match source {
        // `inc_ucount` for each kind of namespace, and 33 levels of users' or 32 of pids' (create_user_ns, create_pid_namespace).
        Errno::NOSPC if crate::run::NAMESPACES.contains(&object) => {
            "there are as many as there may be, or as many within each other".to_owned()
        }
        source => source.to_string(),
    }
}

fn others(more: usize) -> String {
    if more > 0 { format!(", and {more} more") } else { String::new() }
}

fn in_use(bytes: Option<u64>) -> String {
    bytes.map(|bytes| format!(" while {} KiB are in use", bytes / 1024)).unwrap_or_default()
}
