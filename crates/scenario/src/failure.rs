//! What a person is told when a command fails, in the form that all messages of frost have.

use std::fmt;

/// Exit statuses, as those of `frost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Failed = 1,
    Usage = 2,
    Damaged = 4,
    Denied = 5,
    Missing = 6,
}

/// A failure.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    cause: String,
    state: String,
    hint: String,
    /// All of it, as another process has told it.
    told: Option<String>,
    /// The exit status.
    pub(crate) status: u8,
}

impl Failure {
    pub(crate) fn new(status: Status, what: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self {
            what: what.into(),
            cause: cause.to_string(),
            state: "nothing was touched".to_owned(),
            hint: String::new(),
            told: None,
            status: status as u8,
        }
    }

    /// What another process has told, and its exit status.
    pub(crate) fn told(text: &str, status: i32) -> Self {
        let failure = Self::new(Status::Failed, "", "");
        Self { told: Some(text.to_owned()), status: u8::try_from(status).unwrap_or(1), ..failure }
    }

    pub(crate) fn state(mut self, state: impl Into<String>) -> Self {
        self.state = state.into();
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What comes from files and processes shall not talk to the terminal.
        let plain = |text: &str| -> String {
            text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
        };
        if let Some(told) = &self.told {
            return f.write_str(&plain(told));
        }
        write!(
            f,
            "error: {}\n  cause: {}\n  state: {}",
            plain(&self.what),
            plain(&self.cause),
            plain(&self.state)
        )?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint:  {}", plain(&self.hint))?;
        }
        Ok(())
    }
}
