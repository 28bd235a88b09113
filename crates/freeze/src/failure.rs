//! How a freeze fails: a value that survives the way from the guardian to the command.

use frost_model::Obstacle;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of failure it is, which decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// Something failed that usually works.
    Failed,
    /// The request makes no sense as it stands.
    Usage,
    /// The target holds what cannot be carried; `obstacles` lists it.
    Unsupported,
    /// The kernel lacks something, or we lack the right.
    Denied,
    /// There is no such process or name.
    NotFound,
    /// The disk is full.
    NoSpace,
}

/// Why a freeze did not happen, and how things stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// What failed, on which object: `cannot freeze process 4127 (postgres)`.
    pub what: String,
    /// Why, the nearest cause first.
    pub causes: Vec<String>,
    /// How things stand now.
    pub state: String,
    /// What to do.
    pub hint: Option<String>,
    /// All that is in the way.
    pub obstacles: Vec<Obstacle>,
}

impl Failure {
    /// Starts a failure of `kind`.
    pub fn new(kind: FailureKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            causes: Vec::new(),
            state: String::new(),
            hint: None,
            obstacles: Vec::new(),
        }
    }

    /// Adds an error and what lies behind it as causes.
    pub fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            if error.downcast_ref() == Some(&Errno::MFILE) {
                let most = frost_sys::limits::get(libc::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
                self.hint = Some(format!(
                    "the program has more files open than a freeze may hold: {most}; raise that limit (`ulimit -Hn`, as \
                     root), then freeze it"
                ));
            }
            next = error.source();
        }
        self
    }

    /// Adds a cause in words.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says how things stand.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = state.into();
        self
    }

    /// Says what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Failure {}
