//! What `/proc` says of each thread of a stopped tree, which is read once.

use crate::urgent::Urgent;
use frost_sys::proc::{self, Status};
use frost_tracee::seize::StoppedTree;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// From so many threads on a helper reads the last of them on another processor, while the guardian asks for the first.
///
/// Below it costs more than it saves: two threads share their descriptor table, which then grows only after a grace period
/// of RCU (`expand_fdtable`, fs/file.c): some milliseconds, a few times.
const MANY: usize = 1000;

/// The states of all threads.
pub(crate) struct Statuses {
    table: Arc<Table>,
    /// Where the threads of each process stand in the table.
    places: HashMap<i32, Range<usize>>,
    helper: Option<JoinHandle<()>>,
}

struct Table {
    threads: Vec<Entry>,
    /// Nobody will ask any more.
    over: AtomicBool,
}

struct Entry {
    pid: i32,
    tid: i32,
    status: OnceLock<Result<Status, Errno>>,
}

impl Entry {
    fn read(&self) -> Result<&Status, Errno> {
        let read = || proc::thread_status(self.pid, self.tid);
        self.status.get_or_init(read).as_ref().map_err(|errno| *errno)
    }
}

impl Statuses {
    /// Prepares to tell of a tree.
    pub(crate) fn of(tree: &StoppedTree, urgent: &Urgent) -> Self {
        let mut threads = Vec::new();
        let mut places = HashMap::new();
        for process in tree.processes() {
            let first = threads.len();
            for thread in &process.threads {
                let known = (thread.tid == process.pid).then(|| OnceLock::from(Ok(process.status.clone())));
                threads.push(Entry { pid: process.pid, tid: thread.tid, status: known.unwrap_or_default() });
            }
            places.insert(process.pid, first..threads.len());
        }
        let table = Arc::new(Table { threads, over: AtomicBool::new(false) });
        let mut helper = None;
        if table.threads.len() >= MANY {
            let (table, leave) = (Arc::clone(&table), urgent.leave());
            let read = move || {
                leave();
                for entry in table.threads.iter().rev().take_while(|_| !table.over.load(Ordering::Relaxed)) {
                    // Who asks for it is told what is wrong.
                    let _ = entry.read();
                }
            };
            // Without it all is read when it is asked for.
            helper = std::thread::Builder::new().name("frost-read".to_owned()).spawn(read).ok();
        }
        Self { table, places, helper }
    }

    /// Lists the threads of a process of the tree, in the order of [`StoppedProcess::threads`], with their states.
    ///
    /// A state that cannot be read is ESRCH as a rule: the process was killed.
    ///
    /// [`StoppedProcess::threads`]: frost_tracee::seize::StoppedProcess::threads
    pub(crate) fn of_process(&self, pid: i32) -> impl Iterator<Item = (i32, Result<&Status, Errno>)> {
        let range = self.places.get(&pid).cloned().unwrap_or_default();
        self.table.threads[range].iter().map(|entry| (entry.tid, entry.read()))
    }
}

impl Drop for Statuses {
    fn drop(&mut self) {
        self.table.over.store(true, Ordering::Relaxed);
        if let Some(helper) = self.helper.take() {
            // The program is not to be looked at any more when it goes on.
            let _ = helper.join();
        }
    }
}
