//! What the supervisor says of itself: lines on standard error, which is the scenario's log if it was left running.
//!
//! That nobody can hear it is no reason to end: `eprintln!` panics where its terminal has gone, or the disk that its log is on is
//! full, and the components would end with it.

use rustix::fs::{Mode, OFlags};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A log is not longer, nor is the one before it, which is kept beside it.
const LOG_BYTES: u64 = 1 << 20;

static LOG: OnceLock<PathBuf> = OnceLock::new();

/// Says that standard error is this file, which is to stay short: what is told there can be caused by components.
pub(crate) fn is_log(path: PathBuf) {
    let _ = LOG.set(path);
}

/// The file beside a log that holds what was told before.
pub(crate) fn older(path: &Path) -> PathBuf {
    let mut older = path.as_os_str().to_owned();
    older.push("~");
    PathBuf::from(older)
}

/// Tells a line, to whoever hears it.
pub(crate) fn tell(text: impl Display) {
    if let Some(path) = LOG.get()
        && rustix::fs::fstat(std::io::stderr()).is_ok_and(|meta| meta.st_size as u64 > LOG_BYTES)
    {
        let _ = std::fs::rename(path, older(path));
        let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC;
        let fresh = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let _ = fresh.and_then(|fresh| rustix::stdio::dup2_stderr(&fresh));
    }
    // In one write, so that lines of several processes do not mix.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
