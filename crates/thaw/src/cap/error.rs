//! Why descriptions could not be made again.

use rustix::io::Errno;

/// A description that could not be made. What was made before it is closed again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call about an object failed.
    #[error("cannot {action} {object}")]
    Object {
        /// What was done, a verb.
        action: &'static str,
        /// With what.
        object: String,
        /// Why.
        source: Errno,
    },
    /// A file is not what it was any more; the plan said it was, a moment ago.
    #[error("{object}: {reason}")]
    Changed {
        /// The file.
        object: String,
        /// What is different.
        reason: String,
    },
    /// There is a limit to it.
    #[error("cannot make {object}: {limit}")]
    Limit {
        /// What.
        object: String,
        /// Which limit, and how it is raised.
        limit: String,
    },
}

/// Names the object of a call that failed.
pub(super) trait About<T> {
    /// Adds the action and the object.
    fn about(self, action: &'static str, object: impl ToString) -> Result<T, Error>;
}

impl<T> About<T> for rustix::io::Result<T> {
    fn about(self, action: &'static str, object: impl ToString) -> Result<T, Error> {
        self.map_err(|source| Error::Object { action, object: object.to_string(), source })
    }
}
