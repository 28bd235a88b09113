//! Standard output and error: lines, records, colour, and quantities as a person reads them.

use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// The version of the records that `--json` prints; each begins with it.
const RECORD_VERSION: u32 = 1;

/// A record as it is printed: the version first.
#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    record: &'a T,
}

/// Prints a line of the result to standard output.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints a record of the result to standard output, on a line of its own.
pub(crate) fn record<T: Serialize>(record: &T) -> io::Result<()> {
    let text = serde_json::to_string(&Versioned { v: RECORD_VERSION, record }).map_err(io::Error::other)?;
    line(&text)
}

/// Tells the user something that is not the result.
pub(crate) fn note(text: &str) {
    to_stderr(&format!("{text}\n"));
}

/// Writes to standard error. If that fails there is nobody left to tell.
pub(crate) fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Returns whether standard error is a regular file.
pub(crate) fn is_stderr_file() -> bool {
    let stat = rustix::fs::fstat(rustix::stdio::stderr());
    stat.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// On a terminal that is none of those that show codes as text, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What the user has set; until that is known, as by default.
static COLOUR: OnceLock<Colour> = OnceLock::new();

/// Decides when to colour, once.
pub(crate) fn set_colour(colour: Colour) {
    COLOUR.get_or_init(|| colour);
}

/// Returns whether to colour what goes to standard error.
pub(crate) fn stderr_has_colour() -> bool {
    has_colour(|| io::stderr().is_terminal())
}

/// Returns whether to colour what goes to standard output.
pub(crate) fn stdout_has_colour() -> bool {
    has_colour(|| io::stdout().is_terminal())
}

/// `NO_COLOR` is for those who have configured nothing, as its authors say.
fn has_colour(is_terminal: impl FnOnce() -> bool) -> bool {
    match COLOUR.get().unwrap_or(&Colour::Auto) {
        Colour::Auto => is_terminal() && colour_is_welcome(),
        Colour::Always => true,
        Colour::Never => false,
    }
}

/// Colours, where they are welcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// For what goes to standard output.
    pub(crate) fn for_stdout() -> Self {
        Self { colour: stdout_has_colour() }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}

/// `NO_COLOR` counts unless it is empty, as its authors say; a dumb terminal shows codes as text.
fn colour_is_welcome() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Renders a size, as `4.1 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be rounded to 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 99.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// Renders a number of things, as `1 process`.
pub(crate) fn count(count: u32, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// Renders a span, as `3.2 ms`.
pub(crate) fn span(span: Duration) -> String {
    let us = span.as_secs_f64() * 1e6;
    if us < 1000.0 {
        format!("{us:.0} us")
    } else if us < 1e6 {
        format!("{:.1} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

/// Renders a time in UTC, as `2026-11-23 19:31:10`.
pub(crate) fn time(seconds_since_1970: i64) -> String {
    let (days, second) = (seconds_since_1970.div_euclid(86_400), seconds_since_1970.rem_euclid(86_400));
    // Days are counted from 1 March of year 0, so that a leap day is the last of its year; 400 years have 146,097.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Makes a text of the world outside fit to be printed: control characters would talk to the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Cuts a text to so many characters, and shows that it did.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
}

/// Renders columns: each as wide as its widest cell, the last one as it is.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                line.push_str(cell);
            } else {
                line.push_str(&format!("{cell:<width$}  ", width = widths[column]));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well_at_every_magnitude() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(512 * 1024 * 1024), "512 MiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }

    #[test]
    fn spans_read_well_at_every_magnitude() {
        assert_eq!(span(Duration::from_micros(12)), "12 us");
        assert_eq!(span(Duration::from_micros(3_240)), "3.2 ms");
        assert_eq!(span(Duration::from_millis(1_500)), "1.50 s");
    }

    #[test]
    fn a_text_is_cut_at_characters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("äbcdefg", 6), "äbc...");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(951_827_696), "2000-02-29 12:34:56");
        assert_eq!(time(1_795_462_270), "2026-11-23 19:31:10");
        assert_eq!(time(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn a_record_begins_with_its_version() {
        #[derive(Serialize)]
        struct Pid {
            pid: i32,
        }
        let text = serde_json::to_string(&Versioned { v: RECORD_VERSION, record: &Pid { pid: 7 } }).unwrap();
        assert_eq!(text, r#"{"v":1,"pid":7}"#);
    }
}
