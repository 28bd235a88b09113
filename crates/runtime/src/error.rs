//! What can go wrong with an instance. After each of these it is as it was.

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
    /// The program could not be executed.
    #[error("{program}: {source}")]
    Program {
        /// What was to be executed.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A step in the making of the environment failed.
    #[error("{object}: {source}")]
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
