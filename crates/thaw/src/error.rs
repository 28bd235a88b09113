//! Why a thaw failed. After each of these nothing is left of what was built, and the image is as it was.

use crate::stage::Stage;
use frost_model::{Obstacle, Pid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Why a thaw failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something the program needs is missing; all of it is listed.
    #[error("{} in the way", crate::error::count(obstacles.len()))]
    Obstacles {
        /// What.
        obstacles: Vec<Obstacle>,
    },
    /// A call that a process made to build itself failed.
    #[error("process {pid}: {stage}: {object}")]
    Call {
        /// The process, by its number in the image.
        pid: Pid,
        /// The step.
        stage: Stage,
        /// What the call was about.
        object: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A call of ours failed.
    #[error("{stage}: {object}")]
    Builder {
        /// The step.
        stage: Stage,
        /// What the call was about.
        object: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The kernel gave less of the pack than the image says there is.
    #[error("process {pid}: {object}: the pack gave {got} of {wanted} bytes")]
    Short {
        /// The process, by its number in the image.
        pid: Pid,
        /// What was read.
        object: String,
        /// How many bytes came.
        got: u64,
        /// How many were asked for.
        wanted: u64,
    },
    /// A process ended while it was built.
    #[error("process {pid} {how} while it was built")]
    Died {
        /// The process, by its number in the image.
        pid: Pid,
        /// How.
        how: String,
    },
    /// The processes made no progress for a long time.
    #[error("process {pid} did not come to the gate within {seconds} s: {at}")]
    Stuck {
        /// A process that had not come, by its number in the image.
        pid: Pid,
        /// How long it was waited for without any progress.
        seconds: u64,
        /// Where it was.
        at: String,
    },
    /// No address range is free in every process.
    #[error("no {len_bytes} bytes of address space are free in every process of the image")]
    NoRoom {
        /// How many bytes were wanted.
        len_bytes: u64,
    },
    /// An image that asks for more than there can be.
    #[error("the image is too large to be thawed: {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
    },
    /// The pack does not have the content that the manifest says.
    #[error("{source}")]
    Store {
        /// What the store found.
        #[from]
        source: frost_store::Error,
    },
    /// An open file description could not be made again.
    #[error(transparent)]
    Description(#[from] crate::cap::Error),
    /// The process that builds in namespaces of its own failed or died; what it said.
    #[error("{message}")]
    Inside {
        /// Its message.
        message: String,
        /// What it lacked, if that is known.
        lack: Option<Lack>,
    },
}

/// What a thaw can lack that its user can see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lack {
    /// A right.
    Right,
    /// Space in a file system.
    Space,
}

impl Error {
    /// Returns whether it is about the namespaces of the program.
    pub fn is_about_namespaces(&self) -> bool {
        matches!(self, Self::Call { stage, .. } | Self::Builder { stage, .. } if *stage == Stage::Namespaces)
    }

    /// Returns whether a process or thread could not be made because its number is in use.
    pub(crate) fn is_number_in_use(&self) -> bool {
        match self {
            Self::Builder { stage: Stage::Spawn, source, .. } => *source == Errno::EXIST,
            Self::Call { stage: Stage::Clone | Stage::Thread | Stage::Zombie, source, .. }
            | Self::Call { stage: Stage::Group | Stage::Session, source, .. } => *source == Errno::EXIST,
            _ => false,
        }
    }
}

pub(crate) fn count(obstacles: usize) -> String {
    match obstacles {
        1 => "one obstacle is".to_owned(),
        n => format!("{n} obstacles are"),
    }
}

/// Names the step and the object of a call of ours that failed.
pub(crate) trait Context<T> {
    /// Adds them.
    fn at(self, stage: Stage, object: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn at(self, stage: Stage, object: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Builder { stage, object: object(), source })
    }
}
