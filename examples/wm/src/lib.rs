//! What the components of the example share: the documents they speak in, and waiting for two things at once.
//!
//! `wm` knows the windows and has no policy; `layouter` decides where they are, and holds nothing but what it reports as
//! `rules` and reads back; a decorator draws frames, a pure function of what it reads.
#![forbid(unsafe_code)]

pub mod decorator;

use frost_component::{Error, Session};
use rustix::event::{PollFd, PollFlags, poll};
use std::fmt;
use x11rb::rust_connection::RustConnection;

/// Where a window is, and what it is called: a line of `window_layout` and `rules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The window's number.
    pub window: u32,
    /// From the left, in pixels.
    pub x: i16,
    /// From the top.
    pub y: i16,
    /// The content's width, without its frame.
    pub width: u16,
    /// The content's height.
    pub height: u16,
    /// Its title.
    pub title: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {} {}", self.window, self.x, self.y, self.width, self.height, self.title)
    }
}

impl Place {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        Some(Self {
            window: words.next()?.parse().ok()?,
            x: words.next()?.parse().ok()?,
            y: words.next()?.parse().ok()?,
            width: words.next()?.parse().ok()?,
            height: words.next()?.parse().ok()?,
            title: words.next().unwrap_or("").to_owned(),
        })
    }

    /// Reads a document; lines that are no places are left out.
    pub fn all(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::parse).collect()
    }
}

/// Writes a document of lines.
pub fn lines<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

/// Reads a ROM as text; empty if there is no report.
pub fn text(session: &mut Session, name: &str) -> Result<String, Error> {
    let version = session.read(name)?;
    Ok(version.content.map(|content| String::from_utf8_lossy(&content).into_owned()).unwrap_or_default())
}

/// Waits until the X server or the scenario says something.
///
/// To be called when no event is left in the connection: what it has taken in already nobody would be woken for.
pub fn wait(connection: &RustConnection, session: &Session) {
    if session.has_signals() {
        return;
    }
    let mut both = [PollFd::new(connection.stream(), PollFlags::IN), PollFd::new(session, PollFlags::IN)];
    let _ = poll(&mut both, None);
}

/// Ends a component: that the scenario has ended is no failure.
pub fn end(result: Result<(), Box<dyn std::error::Error>>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(Error::Gone)) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
