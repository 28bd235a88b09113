//! The processes of a test: started, adopted, reaped, and found again by the scene they belong to.
//!
//! A thawed program has no parent that waits for it; on a real machine init adopts and reaps it. Here the test
//! process declares itself subreaper and reaps what it did not start itself, so that no pid stays taken by a zombie.

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// Children that somebody waits for; the others are reaped as they end.
static OWNED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn owned() -> MutexGuard<'static, BTreeSet<u32>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that the test started and waits for.
#[derive(Debug)]
pub struct Started(Child);

impl Started {
    /// Starts a command.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        Self::try_spawn(command).unwrap_or_else(|why| panic!("{command:?} cannot be started: {why}"))
    }

    fn try_spawn(command: &mut Command) -> io::Result<Self> {
        static REAPER: Once = Once::new();
        REAPER.call_once(|| {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .expect("Linux has subreapers");
            std::thread::spawn(reap);
        });
        // Held over both, so that the reaper cannot see the child before we have its number.
        let mut owned = owned();
        let child = command.spawn()?;
        owned.insert(child.id());
        Ok(Self(child))
    }

    /// Returns its pid.
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Gives out what it was started with: pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Returns its status if it has ended.
    ///
    /// # Panics
    /// If it cannot be waited for, which only a fault of the harness brings about.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within `limit`; it is killed then.
    pub fn wait(&mut self, what: &str, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if start.elapsed() > limit {
                let _killed = self.0.kill();
                let _reaped = self.0.wait();
                panic!("{what} did not end within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs a command and returns how it ended and what it printed; the reaper leaves it alone, which might else take its
/// status from [`Command::output`].
///
/// # Errors
/// It cannot be started.
///
/// # Panics
/// If it prints no text, or does not end.
pub fn try_output_of(command: &mut Command) -> io::Result<(ExitStatus, String)> {
    let mut started = Started::try_spawn(command.stdout(std::process::Stdio::piped()))?;
    let mut text = String::new();
    let pipe = started.child().stdout.take().expect("it is piped");
    io::Read::read_to_string(&mut io::BufReader::new(pipe), &mut text).expect("it prints text");
    Ok((started.wait(&format!("{command:?}"), crate::LIMIT), text))
}

/// Runs a command and returns what it prints.
///
/// # Panics
/// If it cannot be started, or fails.
pub fn output_of(command: &mut Command) -> String {
    let (status, text) = try_output_of(command).unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(status.success(), "{command:?}: {status}");
    text
}

/// Runs a command and returns whether it is there and succeeds, as one that asks for something that may be missing.
pub fn succeeds(command: &mut Command) -> bool {
    try_output_of(command.stderr(std::process::Stdio::null())).is_ok_and(|(status, _)| status.success())
}

impl Drop for Started {
    fn drop(&mut self) {
        // A child that was not waited for is left to the reaper.
        owned().remove(&self.0.id());
    }
}

fn reap() {
    loop {
        {
            let owned = owned();
            for pid in children_of(std::process::id() as i32) {
                if !owned.contains(&(pid as u32)) {
                    let _status = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn children_of(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// Returns a process and all its descendants, as they are now.
pub fn tree_of(pid: i32) -> Vec<i32> {
    let mut tree = vec![pid];
    let mut next = 0;
    while next < tree.len() {
        tree.extend(children_of(tree[next]));
        next += 1;
    }
    tree
}

/// Returns whether a process exists and has not ended; a zombie has.
pub fn is_alive(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            let fields: Vec<&str> =
                stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
            // One whose leader has ended while others go on shows the leader's state.
            let threads = fields.get(17).and_then(|count| count.parse().ok()).unwrap_or(0);
            match fields.first() {
                Some(&"Z") => threads > 1,
                Some(&"X") | None => false,
                Some(_) => true,
            }
        }
        Err(_) => false,
    }
}

/// Returns whether a process runs the `frost` command; also one that is on its way out, which has lost its memory, and so
/// the link to its binary, before it gives back its files and their locks (`do_exit`, kernel/exit.c).
pub fn is_frost(pid: i32) -> bool {
    match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(path) => path.ends_with("frost"),
        Err(_) => std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "frost\n"),
    }
}

/// Returns every living process that belongs to a scene: its environment names the scene's directory, or it stands
/// in there.
pub(crate) fn belonging_to(directory: &Path) -> Vec<i32> {
    let text = directory.as_os_str().as_encoded_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let us = std::process::id() as i32;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != us && is_alive(*pid))
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let stands = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            environment.windows(text.len()).any(|window| window == text)
                || stands.as_os_str().as_encoded_bytes().starts_with(text)
        })
        .collect()
}

/// Kills a process if it still is there.
pub(crate) fn kill(pid: i32) {
    let send = || -> io::Result<()> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(rustix::process::pidfd_send_signal(pidfd, Signal::KILL)?)
    };
    // That it is gone is what we want.
    let _sent = send();
}
