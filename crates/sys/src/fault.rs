//! Faults injected at named steps, so that tests can show what a failure or a death leaves behind.
//!
//! `FROST_FAIL_AT=STEP` makes that step fail with EIO; `STEP:ENOSPC` (or another number or name of the few below)
//! with that error; `STEP:kill` kills the process at that point, as if by SIGKILL from outside; `STEP:stop` stops
//! it there, so that a test can do it harm by hand; `STEP:panic` panics. A comma separates several.
//!
//! `FROST_TRAIL=FILE` adds the name of each step that is reached to a file that is there, a line each: so a test knows how
//! far a process had come when it was killed from outside.

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::Signal;
use std::ffi::OsString;
use std::sync::OnceLock;

/// Returns what the environment asks for at a step that is not ours to make, as one of a tape: `kill`, `stop`, or an
/// error.
pub fn planned(step: &str) -> Option<&'static str> {
    static PLAN: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| parse(&std::env::var("FROST_FAIL_AT").unwrap_or_default()));
    plan.iter().find(|(name, _)| name == step).map(|(_, what)| what.as_str())
}

/// Fails, dies or stops here if the environment asks for it; else does nothing.
pub fn point(step: &str) -> Result<()> {
    leave_trail(step);
    match planned(step) {
        None => Ok(()),
        Some("kill") => raise(Signal::KILL),
        Some("stop") => raise(Signal::STOP),
        #[allow(clippy::panic, reason = "what a bug would do, on demand")]
        Some("panic") => panic!("FROST_FAIL_AT asks for it"),
        Some("ENOSPC") => Err(Errno::NOSPC),
        Some("ENOMEM") => Err(Errno::NOMEM),
        Some("EPERM") => Err(Errno::PERM),
        Some(number) => Err(Errno::from_raw_os_error(number.parse().unwrap_or(libc::EIO))),
    }
}

/// Opened anew at each step: what holds no descriptor hands none on to whatever is forked in between.
fn leave_trail(step: &str) {
    static FILE: OnceLock<Option<OsString>> = OnceLock::new();
    let Some(path) = FILE.get_or_init(|| std::env::var_os("FROST_TRAIL")) else { return };
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if let Ok(file) = rustix::fs::open(path.as_os_str(), flags, Mode::empty()) {
        // In one call, so that it is there as a whole or not at all. A test that misses it says so.
        let _ = rustix::io::write(file, format!("{step}\n").as_bytes());
    }
}

fn raise(signal: Signal) -> Result<()> {
    rustix::process::kill_process(rustix::process::getpid(), signal)
}

fn parse(text: &str) -> Vec<(String, String)> {
    text.split(',')
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (step, what) = entry.split_once(':').unwrap_or((entry, "EIO"));
            (step.to_owned(), what.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_steps_and_what_happens_there() {
        let pair = |step: &str, what: &str| (step.to_owned(), what.to_owned());
        assert_eq!(parse("a.b,c:kill"), vec![pair("a.b", "EIO"), pair("c", "kill")]);
        assert!(parse("").is_empty());
    }
}
