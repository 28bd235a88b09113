//! What can go wrong for a component.

use rustix::io::Errno;
use std::path::PathBuf;

/// An error of a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment names no socket.
    #[error("FROST_SESSION is not set: this is a component, to be started by `frost up`")]
    Alone,
    /// The socket cannot be reached.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// Whoever ran us is gone: an ordinary end.
    #[error("the scenario has ended")]
    Gone,
    /// A request was denied; nothing has changed.
    #[error("{what} was denied: {reason}")]
    Denied {
        /// The request.
        what: String,
        /// Why.
        reason: String,
    },
    /// The connection failed.
    #[error("the connection to the scenario failed")]
    Connection(#[source] Errno),
    /// An answer that the protocol does not have.
    #[error("the scenario answered {0:?}, which is no answer to that")]
    Protocol(String),
}
