//! How far a long command is: one line on a terminal, after a short delay, gone when the command is done.

use crate::output;
use frost_store::Store;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is done sooner needs no line.
const DELAY: Duration = Duration::from_millis(700);
/// Between two lines; faster cannot be read.
const PAUSE: Duration = Duration::from_millis(200);
/// Before that much has passed, a rate says little.
const STEADY: Duration = Duration::from_millis(300);

/// A line that tells how far a command is. Without a terminal nothing is ever told.
#[derive(Debug)]
pub(crate) struct Progress {
    line: Option<Arc<Mutex<Line>>>,
}

#[derive(Debug)]
struct Line {
    what: String,
    began: Instant,
    /// When it was last written, if it stands there.
    shown: Option<Instant>,
}

impl Progress {
    /// Begins: `what` says what is being done.
    pub(crate) fn start(what: String) -> Self {
        // A dumb terminal cannot take a line back.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let is_welcome = io::stderr().is_terminal() && !is_dumb;
        let line = Line { what, began: Instant::now(), shown: None };
        Self { line: is_welcome.then(|| Arc::new(Mutex::new(line))) }
    }

    /// Returns whether anything will be told.
    pub(crate) fn is_shown(&self) -> bool {
        self.line.is_some()
    }

    /// Is told by the operations of a store.
    pub(crate) fn watch(&self, store: &Store) {
        if let Some(line) = &self.line {
            let line = Arc::clone(line);
            store.watch(move |done, all| lock(&line).update(done, all));
        }
    }

    /// Tells that `done` of `all` bytes are done.
    pub(crate) fn update(&self, done: u64, all: u64) {
        if let Some(line) = &self.line {
            lock(line).update(done, all);
        }
    }

    /// Goes on with something else, from its start.
    pub(crate) fn rename(&self, what: String) {
        if let Some(line) = &self.line {
            let mut line = lock(line);
            line.what = what;
            line.began = Instant::now();
        }
    }

    /// Takes the line away, so that something else may be told.
    pub(crate) fn clear(&self) {
        if let Some(line) = &self.line
            && lock(line).shown.take().is_some()
        {
            output::to_stderr("\r\x1b[K");
        }
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    // A line is whole whatever panicked.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    fn update(&mut self, done: u64, all: u64) {
        let now = Instant::now();
        let elapsed = now.duration_since(self.began);
        let is_due = match self.shown {
            None => elapsed >= DELAY,
            Some(last) => now.duration_since(last) >= PAUSE,
        };
        if is_due && done < all {
            // Back to the start of the line, the text, and nothing behind it.
            output::to_stderr(&format!("\r{}\x1b[K", render(&self.what, done, all, elapsed)));
            self.shown = Some(now);
        }
    }
}

impl frost_freeze::Progress for Progress {
    fn update(&self, done: u64, all: u64) {
        Progress::update(self, done, all);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn render(what: &str, done: u64, all: u64, elapsed: Duration) -> String {
    let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100).min(100);
    let mut text = format!("{what}: {} of {}, {percent} %", output::bytes(done), output::bytes(all));
    if elapsed >= STEADY && done > 0 {
        let rate = done as f64 / elapsed.as_secs_f64();
        let left = Duration::from_secs_f64((all.saturating_sub(done)) as f64 / rate);
        text.push_str(&format!(", {}/s, {} left", output::bytes(rate as u64), clock(left)));
    }
    // So much fits where a terminal is narrow; a line that wraps could not be taken back.
    output::cut(&text, 78)
}

/// Renders how long something will take, as `8 s` or `3:05 min`.
fn clock(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        seconds => format!("{}:{:02} h", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_line_tells_bytes_rate_and_what_is_left() {
        assert_eq!(
            render("exporting web@3", 512 * MIB, 4096 * MIB, Duration::from_secs(2)),
            "exporting web@3: 512 MiB of 4.0 GiB, 12 %, 256 MiB/s, 14 s left"
        );
        assert_eq!(render("x", 0, 0, Duration::ZERO), "x: 0 B of 0 B, 100 %");
        assert!(render(&"long".repeat(40), 1, 2, Duration::from_secs(1)).len() <= 78);
    }

    #[test]
    fn times_are_rendered_at_every_magnitude() {
        assert_eq!(clock(Duration::from_secs(59)), "59 s");
        assert_eq!(clock(Duration::from_secs(185)), "3:05 min");
        assert_eq!(clock(Duration::from_secs(7_380)), "2:03 h");
    }
}
