//! Why capture of descriptors failed.

use frost_model::Pid;
use rustix::io::Errno;

/// A failure to capture descriptors. Nothing of the program was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A process ended meanwhile.
    #[error("process {pid} is gone")]
    Gone {
        /// The process, as the freezer sees it.
        pid: Pid,
    },
    /// A fact of a process could not be read.
    #[error("cannot read {what} of process {pid}")]
    Process {
        /// The process, as the freezer sees it.
        pid: Pid,
        /// What was read.
        what: String,
        /// Why.
        source: Errno,
    },
    /// A fact or the content of an object could not be read.
    #[error("cannot read {object}")]
    Object {
        /// The object, as `fd 3 of process 12 (pipe:[77])`.
        object: String,
        /// Why.
        source: Errno,
    },
    /// An object is not as the survey found it: it changed although the program stands still.
    #[error("{object} changed while it was captured")]
    Changed {
        /// The object.
        object: String,
    },
    /// An object that the survey refused was to be captured.
    #[error("{object} cannot be captured")]
    Refused {
        /// The object.
        object: String,
    },
    /// The content of an object could not be stored.
    #[error("cannot store the content of {object}")]
    Store {
        /// The object.
        object: String,
        /// Why.
        source: super::StoreError,
    },
    /// The kernel cannot tell which descriptors share an open file.
    #[error("this kernel cannot compare open files (CONFIG_KCMP)")]
    NoKcmp {
        /// What it said.
        source: Errno,
    },
    /// The kernel does not list unix sockets.
    #[error("this kernel does not list unix sockets (CONFIG_UNIX_DIAG)")]
    NoUnixDiag {
        /// What it said.
        source: Errno,
    },
}
