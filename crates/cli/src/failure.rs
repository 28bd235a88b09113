//! What a person is told when a command fails, and the exit status that goes with it.

use crate::output;
use std::fmt;
use std::io;

/// How a command ends that does not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads our output any more; not worth a word.
    ClosedPipe,
    /// Something to tell.
    Told(Box<Told>),
}

/// A failure in the form that every message of frost has.
#[derive(Debug)]
pub(crate) struct Told {
    /// What failed, on which object.
    pub(crate) what: String,
    /// Why, the nearest reason first.
    pub(crate) causes: Vec<String>,
    /// How things stand now.
    pub(crate) state: Option<String>,
    /// What to do.
    pub(crate) hints: Vec<String>,
    /// The exit status.
    pub(crate) status: Status,
}

/// Exit statuses: one for each kind of thing that a caller may want to handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It failed, for a reason without a number of its own.
    Failed = 1,
    /// The command line was wrong.
    Usage = 2,
    /// The program has something that cannot be carried.
    Unsupported = 3,
    /// The image is damaged, or newer than this frost.
    Damaged = 4,
    /// The kernel lacks something, or we lack a right.
    Denied = 5,
    /// No such process, name or image.
    Missing = 6,
    /// No space is left.
    NoSpace = 7,
    /// Frost's own failure, where each smaller number is that of the program it runs.
    Own = 125,
    /// The program that was to be run cannot be executed.
    NotExecutable = 126,
    /// It does not exist.
    NotFound = 127,
}

impl Status {
    /// Returns the number.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

impl Told {
    /// Starts a message: what failed.
    pub(crate) fn new(status: Status, what: impl Into<String>) -> Self {
        Self { what: what.into(), causes: Vec::new(), state: None, hints: Vec::new(), status }
    }

    /// Adds a reason.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds an error and all that lies behind it, each text once.
    pub(crate) fn chain(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Some errors print their source too; a text that was told is not told again.
            if !text.is_empty() && !self.causes.iter().any(|told| told.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Says how things stand.
    pub(crate) fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Prints it to standard error.
    pub(crate) fn print(&self) {
        output::to_stderr(&self.render(output::stderr_has_colour()));
    }

    fn render(&self, colour: bool) -> String {
        let paint = |code: &str, word: &str| {
            if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
        };
        // What is named may hold anything, as a program's arguments.
        let mut text = format!("{} {}\n", paint("1;31", "error:"), output::printable(&self.what));
        let mut line = |label: &str, code: &str, content: &str| {
            // A content of several lines stays under its label.
            for (index, part) in content.lines().enumerate() {
                let label = if index == 0 { paint(code, &format!("{label:<6}")) } else { " ".repeat(6) };
                text.push_str(&format!("  {label} {}\n", output::printable(part)));
            }
        };
        for cause in &self.causes {
            line("cause:", "1", cause);
        }
        if let Some(state) = &self.state {
            line("state:", "1", state);
        }
        for hint in &self.hints {
            line("hint:", "1;36", hint);
        }
        text
    }
}

impl Failure {
    /// Says of a part of a command what was asked for: who wants to fork a program did not ask to freeze it.
    pub(crate) fn asked(mut self, part: &str, whole: &str) -> Self {
        if let Failure::Told(told) = &mut self
            && let Some(object) = told.what.strip_prefix(part)
        {
            told.what = format!("{whole}{object}");
        }
        self
    }

    /// Gives it another exit status.
    pub(crate) fn with_status(mut self, status: Status) -> Self {
        if let Failure::Told(told) = &mut self {
            told.status = status;
        }
        self
    }
}

impl From<Told> for Failure {
    fn from(told: Told) -> Self {
        Failure::Told(Box::new(told))
    }
}

impl From<io::Error> for Failure {
    /// An error of writing our own output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            kind => {
                let status =
                    if kind == io::ErrorKind::StorageFull { Status::NoSpace } else { Status::Failed };
                Told::new(status, "cannot write the output")
                    .chain(&error)
                    .state("what the command was to do is done; its result was not printed")
                    .hint("`frost list` shows what there is")
                    .into()
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::ClosedPipe => f.write_str("closed pipe"),
            Failure::Told(told) => f.write_str(&told.render(false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_form_that_people_know() {
        let told = Told::new(Status::Unsupported, "cannot freeze process 4127 (postgres)")
            .cause("fd 11 is an io_uring ring")
            .state("process 4127 is running again, unchanged")
            .hint("start it elsewhere");
        assert_eq!(
            told.render(false),
            "error: cannot freeze process 4127 (postgres)\n\
             \u{20} cause: fd 11 is an io_uring ring\n\
             \u{20} state: process 4127 is running again, unchanged\n\
             \u{20} hint:  start it elsewhere\n"
        );
    }

    #[test]
    fn nothing_that_is_named_can_write_to_the_terminal() {
        let told = Told::new(Status::NotFound, "cannot run x\x1b[31m\n")
            .cause("x\x1b]0;y\x07: not there\n-> \u{9b}31m");
        assert_eq!(
            told.render(false),
            "error: cannot run x?[31m?\n  cause: x?]0;y?: not there\n         -> ?31m\n"
        );
    }

    #[test]
    fn a_source_is_told_once() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "cannot open it: {}", self.0)
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let told = Told::new(Status::Failed, "x").chain(&Outer(io::Error::other("no")));
        assert_eq!(told.causes, ["cannot open it: no"]);
    }
}
