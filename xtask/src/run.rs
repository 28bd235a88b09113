//! Commands with a time limit, whose output is shown and read at once.

use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How a step ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It did what it should, with a remark where there is one.
    Passed(Option<String>),
    /// It did not.
    Failed(String),
    /// This machine cannot do it, and why.
    Skipped(String),
}

impl Outcome {
    /// Passes without a remark.
    pub(crate) const PASSED: Self = Outcome::Passed(None);
}

/// Runs `command` for at most `limit`, copies what it prints to standard output, and hands each line to `look`.
///
/// A command that takes longer is killed with its process group, which is its own.
pub(crate) fn watched(command: &mut Command, limit: Duration, mut look: impl FnMut(&str)) -> Outcome {
    let name = rendered(command);
    let deadline = Instant::now() + limit;
    let child =
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Outcome::Failed(format!("cannot start `{name}`: {error}")),
    };
    let (sender, lines) = mpsc::channel();
    let streams: [Option<Box<dyn std::io::Read + Send>>; 2] =
        [child.stdout.take().map(|s| Box::new(s) as _), child.stderr.take().map(|s| Box::new(s) as _)];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    // Ends when both streams do; or soon after the child, since a process that it left behind may keep them open.
    let mut ended_at = None;
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{line}");
                drop(out);
                look(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => match ended_at {
                Some(at) if Instant::now() > at => break,
                Some(_) => {}
                None => {
                    if let Ok(Some(_)) = child.try_wait() {
                        ended_at = Some(Instant::now() + Duration::from_secs(1));
                    }
                }
            },
        }
        if ended_at.is_none() && Instant::now() > deadline {
            // The group is the one made above, and its leader is not reaped yet, so the number is still its.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            return Outcome::Failed(format!("`{name}` took longer than {} s", limit.as_secs()));
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Outcome::PASSED,
        Ok(status) => Outcome::Failed(format!("`{name}`: {status}")),
        Err(error) => Outcome::Failed(format!("`{name}`: {error}")),
    }
}

/// Runs `command` as [`watched`] does, without reading what it prints.
pub(crate) fn limited(command: &mut Command, limit: Duration) -> Outcome {
    watched(command, limit, |_| {})
}

/// Returns where cargo puts a program: `path` is below its target directory, as `debug/frost`.
pub(crate) fn built(root: &Path, path: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    // A relative one counts from where cargo runs, which is the root for all that we start.
    root.join(target).join(path)
}

/// Returns whether a program of that name is on the path.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .any(|directory| rustix::fs::access(directory.join(program), rustix::fs::Access::EXEC_OK).is_ok())
}

fn rendered(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended() {
        let began = Instant::now();
        let outcome = limited(Command::new("sleep").arg("60"), Duration::from_millis(200));
        assert!(matches!(outcome, Outcome::Failed(_)) && began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn each_line_is_seen() {
        let mut seen = Vec::new();
        let outcome = watched(
            Command::new("sh").args(["-c", "echo out; echo err >&2"]),
            Duration::from_secs(10),
            |line| seen.push(line.to_owned()),
        );
        seen.sort();
        assert!(matches!(outcome, Outcome::Passed(_)));
        assert_eq!(seen, ["err", "out"]);
    }
}
