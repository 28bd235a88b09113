//! What `/proc` says of each of many threads, read on another processor while the guardian asks the threads themselves.

use crate::urgent::Urgent;
use frost_sys::proc::{self, Status};
use frost_tracee::seize::StoppedTree;
use std::collections::HashMap;
use std::thread::JoinHandle;

/// Below this many threads, one to help costs more than it saves.
///
/// Two threads share their descriptor table, which then grows only after a grace period of RCU (`expand_fdtable`,
/// fs/file.c): some milliseconds, a few times.
const MANY: usize = 1000;

/// The states of threads, on their way.
pub(crate) struct Ahead(Option<JoinHandle<HashMap<i32, Status>>>);

impl Ahead {
    /// Begins to read, if there are many threads.
    pub(crate) fn of(tree: &StoppedTree, urgent: &Urgent) -> Self {
        let threads = |process: &frost_tracee::seize::StoppedProcess| {
            let pid = process.pid;
            process.threads.iter().map(move |thread| (pid, thread.tid)).collect::<Vec<_>>()
        };
        let threads: Vec<(i32, i32)> = tree.processes().iter().flat_map(threads).collect();
        if threads.len() < MANY {
            return Self(None);
        }
        let leave = urgent.leave();
        let read = move || {
            leave();
            // Who is missing is asked for once more, and found missing then.
            threads
                .into_iter()
                .filter_map(|(pid, tid)| Some((tid, proc::thread_status(pid, tid).ok()?)))
                .collect()
        };
        Self(std::thread::Builder::new().name("frost-read".to_owned()).spawn(read).ok())
    }

    /// Waits for what was not read yet.
    pub(crate) fn finish(mut self) -> HashMap<i32, Status> {
        self.0.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // The program is not to be looked at any more when it goes on.
            let _ = thread.join();
        }
    }
}
