//! Removing what a freezer that was killed has left in a program.

use crate::failure::{Failure, FailureKind};
use frost_sys::proc;
use frost_tracee::seize::StoppedTree;
use frost_tracee::{inject, leftover};
use std::time::Duration;

/// How long a thread may take to stop: there is no hurry.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often is looked again while threads are on their way out of what is to be removed.
const ATTEMPTS: usize = 100;

/// Removes the areas that a killed freezer left in process `pid`, if it is the one that started at `start_time` (clock
/// ticks since boot), and in its descendants; returns how many there were. Where there are none nothing is stopped.
///
/// # Errors
/// A process cannot be stopped; it runs on, and the inert area stays.
pub fn tidy(pid: i32, start_time: u64) -> Result<usize, Failure> {
    let what = format!("cannot remove what a killed freezer left in process {pid}");
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(FailureKind::Failed, what.clone())
            .because(error)
            .state(format!("process {pid} runs on; a page that nothing uses stays in it"))
            .hint(format!("`frost freeze {pid}` removes it too"))
    };
    if !proc::stat(pid).is_ok_and(|stat| stat.starttime == start_time) {
        return Ok(0);
    }
    let mut tree = vec![pid];
    let mut index = 0;
    while index < tree.len() {
        tree.extend(proc::children(tree[index]).unwrap_or_default());
        index += 1;
    }
    let has_leftover = |pid: &i32| {
        proc::mappings(*pid).is_ok_and(|mappings| {
            mappings.iter().any(|mapping| inject::is_leftover(*pid, mapping))
                || leftover::is_left_in(*pid, &mappings)
        })
    };
    let mut removed = 0;
    for _ in 0..ATTEMPTS {
        if !tree.iter().any(has_leftover) {
            break;
        }
        let stopped = StoppedTree::stop(pid, None, TIMEOUT).map_err(|error| failed(&error))?;
        for process in stopped.processes().iter().filter(|process| !process.zombie) {
            let mappings = proc::mappings(process.pid).map_err(|errno| failed(&errno))?;
            if crate::filter::sweep(process, &mappings, None).map_err(|error| failed(&error))? {
                removed += 1;
            }
        }
        stopped.resume();
        // A thread that is still on its way out has kept it.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(removed)
}
