//! Who is whose child.

use super::{of_thread, threads};
use rustix::io::{Errno, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Lists the children of a process, of all of its threads.
///
/// What comes or goes meanwhile may be listed or not; what stays is. Needs CONFIG_PROC_CHILDREN.
pub fn children(pid: i32) -> Result<Vec<i32>> {
    let mut children = Vec::new();
    for tid in threads(pid)? {
        children.extend(children_of(pid, tid)?);
    }
    Ok(children)
}

/// How many lists of children that change under the reader are taken together.
const CHANGING_LISTS: usize = 64;

/// Lists the children of one thread of a process, as [`children`]; none if it is gone.
pub fn children_of(pid: i32, tid: i32) -> Result<Vec<i32>> {
    // When the child that was written last has ended before the next is looked for, the kernel counts on from the
    // beginning and skips as many as have ended (`get_children_pid`, fs/proc/array.c): one that lives is then missing.
    // A list that was cut so has somebody who is not in the next one.
    let mut list = children_once(pid, tid)?;
    if list.is_empty() {
        // The first of a list is never missed.
        return Ok(list);
    }
    let mut seen = BTreeSet::new();
    for _ in 0..CHANGING_LISTS {
        let again = children_once(pid, tid)?;
        if again.starts_with(&list) || BTreeSet::from_iter(&again).is_superset(&list.iter().collect()) {
            return Ok(again);
        }
        seen.extend(list);
        list = again;
    }
    // They end faster than they can be listed. Who was in none of so many lists has come since, or not at all.
    seen.extend(list);
    Ok(seen.into_iter().collect())
}

fn children_once(pid: i32, tid: i32) -> Result<Vec<i32>> {
    match of_thread(pid, tid, "children") {
        Ok(text) => Ok(text
            .split(|byte| *byte == b' ')
            .filter_map(|word| std::str::from_utf8(word).ok()?.trim().parse().ok())
            .collect()),
        Err(Errno::NOENT | Errno::SRCH) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Who is whose child, as every process of `/proc` tells: one look, however many threads the parents have.
#[derive(Clone, Debug)]
pub struct Families(BTreeMap<i32, Vec<i32>>);

impl Families {
    /// Looks at every process; `None` if this `/proc` may hide some.
    ///
    /// Who comes or goes meanwhile may be missing; who stays is not: a process keeps its number and its entry when it
    /// executes a program, too (`next_tgid`, fs/proc/base.c; `de_thread`, fs/exec.c).
    #[must_use]
    pub fn read() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        if hides(&mounts) {
            return None;
        }
        let mut families: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for pid in super::pids().ok()? {
            match super::stat(pid) {
                Ok(stat) => families.entry(stat.ppid).or_default().push(pid),
                Err(Errno::NOENT | Errno::SRCH) => {}
                Err(_) => return None,
            }
        }
        Some(Self(families))
    }

    /// The children of a process, in ascending order.
    #[must_use]
    pub fn of(&self, pid: i32) -> &[i32] {
        self.0.get(&pid).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Whether what is mounted at `/proc` is not known to show all processes: the option `hidepid` of proc(5).
///
/// `22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw,hidepid=2`; of several the last is on top.
fn hides(mounts: &str) -> bool {
    let mut shown = None;
    for line in mounts.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        if mount.split(' ').nth(4) == Some("/proc") {
            let whole = mount.split(' ').nth(3) == Some("/");
            let options = kind.split(' ').nth(2).unwrap_or_default();
            shown = Some(whole && kind.starts_with("proc ") && !options.contains("hidepid="));
        }
    }
    shown != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_the_children_of_all_threads() {
        let spawn = || std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut ours = [spawn(), std::thread::spawn(spawn).join().unwrap()];
        let own = std::process::id() as i32;
        let families = Families::read();
        let all = children(own).unwrap();
        for child in &mut ours {
            let pid = child.id() as i32;
            assert!(all.contains(&pid));
            // Where /proc hides processes, there are no families.
            assert!(families.as_ref().is_none_or(|families| families.of(own).contains(&pid)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(families.is_none_or(|families| families.of(ours[0].id() as i32).is_empty()));
    }

    #[test]
    fn a_proc_that_may_hide_processes_is_recognised() {
        let mount = |options: &str| format!("22 28 0:21 / /proc rw,nosuid shared:12 - proc proc {options}\n");
        assert!(!hides(&mount("rw")));
        assert!(!hides(&(mount("rw,hidepid=invisible") + &mount("rw"))));
        assert!(hides(&mount("rw,hidepid=invisible")));
        assert!(hides(&(mount("rw") + &mount("rw,gid=5,hidepid=1"))));
        assert!(hides("22 28 0:21 / /proc rw - tmpfs none rw\n"));
        assert!(hides("22 28 0:21 /1 /proc rw - proc proc rw\n"));
        assert!(hides("22 28 0:21 / /mnt rw - proc proc rw\n"));
    }
}
