//! The program that is frozen and thawed, and the commands that do it.

use crate::shape::Shape;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, wait};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The program, running as a child of ours in a session of its own.
pub(crate) struct Program {
    child: Child,
    /// Where one that rewrites its memory is told how much, and answers.
    line: Option<(ChildStdin, BufReader<ChildStdout>)>,
    made: Duration,
}

impl Program {
    /// Starts it and waits until it is what it is to be.
    pub(crate) fn start(shape: Shape) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(shape.arguments())
            .process_group(0)
            .stdin(if shape.rewrites { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        let mut line = String::new();
        let stdout = match stdout {
            Some(mut stdout) => {
                stdout.read_line(&mut line)?;
                Some(stdout)
            }
            None => None,
        };
        match line.trim().strip_prefix("ready ").and_then(|us| us.parse().ok()) {
            // Without a line to it, its end of the pipe is that of one who is not listened to.
            Some(us) => Ok(Self { child, line: stdin.zip(stdout), made: Duration::from_micros(us) }),
            None => Err(io::Error::other("the program did not start")),
        }
    }

    /// Lets it write so many percent of its pages.
    pub(crate) fn rewrite(&mut self, percent: u32) -> io::Result<()> {
        let no_line = || io::Error::other("the program does not rewrite its memory");
        let (stdin, stdout) = self.line.as_mut().ok_or_else(no_line)?;
        writeln!(stdin, "{percent}")?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if line.trim() == "done" { Ok(()) } else { Err(io::Error::other("the program ended")) }
    }

    /// How long it took to make what it has.
    pub(crate) fn made(&self) -> Duration {
        self.made
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it if it runs, and reaps it, so that its pid is free.
    pub(crate) fn reap(mut self) -> io::Result<()> {
        let _ = self.child.kill();
        self.child.wait()?;
        // Its children were killed with it.
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        Ok(())
    }
}

/// Runs frost with a store below `directory` and returns how long it took and what it printed.
pub(crate) fn frost(frost: &Path, directory: &Path, arguments: &[&str]) -> io::Result<(Duration, String)> {
    let mut command = Command::new(frost);
    command.arg("--store").arg(directory.join("store")).args(arguments).stdin(Stdio::null());
    let began = Instant::now();
    let output = command.output()?;
    let elapsed = began.elapsed();
    if output.status.success() {
        Ok((elapsed, String::from_utf8_lossy(&output.stdout).into_owned()))
    } else {
        Err(io::Error::other(format!(
            "frost {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )))
    }
}

/// Ends a thawed program, by what the thaw printed, and waits until its pid is free.
pub(crate) fn end_thawed(record: &str) -> io::Result<()> {
    let record: serde_json::Value = serde_json::from_str(record.lines().next().unwrap_or_default())?;
    let pid = record["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.ok_or_else(|| io::Error::other("the thaw printed no pid"))?;
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_send_signal(&handle, Signal::KILL)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    // Whose child it is depends on how it was thawed; gone it is when its number is.
    while Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("process {} does not go away", pid.as_raw_nonzero())));
        }
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
        std::thread::sleep(Duration::from_millis(1));
    }
    // Its children end with it.
    while wait(WaitOptions::empty()).is_ok() {}
    Ok(())
}

/// Runs a command under a watcher and returns the greatest resident set of any of its processes, in bytes.
pub(crate) fn peak(
    frost: &Path,
    directory: &Path,
    arguments: &[&str],
    command_only: bool,
) -> io::Result<(u64, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("peak");
    if command_only {
        command.arg("--command-only");
    }
    command
        .arg("--")
        .arg(frost)
        .arg("--store")
        .arg(directory.join("store"))
        .args(arguments)
        .stdin(Stdio::null());
    let output = command.output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (printed, peak) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    let bytes = peak.trim().parse().map_err(|_| io::Error::other(format!("not a number: {peak}")))?;
    Ok((bytes, printed.to_owned()))
}

/// Is the watcher: it adopts what the command leaves behind, so that it can wait for that too.
pub(crate) fn print_peak(command: &[String], command_only: bool) -> io::Result<()> {
    let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    if !command_only {
        // Any pid turns it on; zero would turn it off.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    }
    let status = Command::new(program).args(arguments).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{program}: {status}")));
    }
    if !command_only {
        while wait(WaitOptions::empty()).is_ok() {}
    }
    println!("{}", frost_sys::own::peak_of_children_bytes()?);
    Ok(())
}
