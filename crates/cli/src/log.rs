//! What the engine does, told to standard error: `-v`, `-vv`, or `FROST_LOG`.
//!
//! Off, which is the rule, nothing is installed, and an event costs the comparison of one number.

use crate::failure::{Failure, Status, Told};
use rustix::fd::OwnedFd;
use std::fmt::{self, Write};
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// The words that FROST_LOG and the configuration know.
pub(crate) const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// Finds the level of a word.
pub(crate) fn level(word: &str) -> Option<LevelFilter> {
    LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, level)| *level)
}

/// Chooses how much is told: what the command line asks for, else FROST_LOG, else the configuration.
pub(crate) fn choose(verbose: u8, configured: Option<LevelFilter>) -> Result<LevelFilter, Failure> {
    match verbose {
        0 => {}
        1 => return Ok(LevelFilter::INFO),
        2 => return Ok(LevelFilter::DEBUG),
        _ => return Ok(LevelFilter::TRACE),
    }
    match std::env::var("FROST_LOG") {
        Ok(word) if !word.is_empty() => level(&word).ok_or_else(|| {
            let words = LEVELS.map(|(name, _)| name).join(", ");
            Told::new(Status::Usage, format!("cannot log by FROST_LOG={}", crate::output::printable(&word)))
                .cause("there is no such level")
                .state("nothing was touched")
                .hint(format!("it is one of {words}"))
                .into()
        }),
        _ => Ok(configured.unwrap_or(LevelFilter::OFF)),
    }
}

/// Begins to tell events up to `level`.
pub(crate) fn start(level: LevelFilter) {
    if level == LevelFilter::OFF {
        return;
    }
    // Another descriptor than 2: who does a freeze, or builds a program, lets go of the standard ones. It is closed by
    // whatever is executed.
    let Ok(out) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3) else { return };
    // A second one would be a bug, and the first goes on.
    let _ = tracing::subscriber::set_global_default(Log { level, out, began: Instant::now() });
}

struct Log {
    level: LevelFilter,
    out: OwnedFd,
    began: Instant,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let part = metadata.target().split("::").next().unwrap_or_default();
        let mut line = Line(format!(
            "{:>9.3} ms  {:<5} {:>6}  {}:",
            self.began.elapsed().as_secs_f64() * 1e3,
            metadata.level().as_str().to_ascii_lowercase(),
            rustix::process::getpid(),
            part.trim_start_matches("frost_"),
        ));
        event.record(&mut line);
        line.0.push('\n');
        // One call, so that lines of several processes do not mix. If it fails there is nobody to tell.
        let _ = rustix::io::write(&self.out, line.0.as_bytes());
    }

    // There are no spans: what takes time is told as a step, when it has ended.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A line that grows by the fields of an event.
struct Line(String);

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = crate::output::printable(&format!("{value:?}"));
        let _ = match field.name() {
            "message" => write!(self.0, " {text}"),
            name => write!(self.0, " {name}={text}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_command_line_asks_for_comes_first() {
        assert_eq!(choose(1, Some(LevelFilter::TRACE)).unwrap(), LevelFilter::INFO);
        assert_eq!(choose(9, None).unwrap(), LevelFilter::TRACE);
    }

    #[test]
    fn levels_are_known_by_their_words() {
        assert_eq!(level("Debug"), Some(LevelFilter::DEBUG));
        assert_eq!(level("loud"), None);
    }
}
