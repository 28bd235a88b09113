//! Whether the numbers of all processes and threads are free.

use super::{Namespaces, obstacle};
use crate::baseline::command;
use frost_model::{Checkpoint, Obstacle};
use frost_sys::proc;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(super) fn obstacles(checkpoint: &Checkpoint, namespaces: Namespaces) -> Vec<Obstacle> {
    let root = &checkpoint.processes[0];
    let mut found = Vec::new();
    let highest = std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(i32::MAX);
    let mut tids_wanted = Vec::new();
    for process in &checkpoint.processes {
        let pid = process.pd.relation.pid.raw();
        let tids = process.cpu.threads.iter().map(|thread| thread.tid.raw()).filter(|tid| *tid != pid);
        for tid in std::iter::once(pid).chain(tids) {
            if tid >= highest {
                let remedy = format!("raise it: sysctl kernel.pid_max={}", tid.saturating_add(1));
                let reason = format!("numbers end at {highest} here (kernel.pid_max)");
                found.push(obstacle(process, format!("pid {tid}"), reason, remedy));
            }
            if namespaces.pid {
                if tid == 1 {
                    let reason = "pid 1 of a namespace of its own is its keeper";
                    let remedy = "thaw it as root, without --clone, in a fresh pid namespace";
                    found.push(obstacle(process, "pid 1", reason, remedy));
                }
            } else {
                tids_wanted.push(tid);
            }
        }
    }
    let mut holders = holders_of(&tids_wanted);
    let began = Instant::now();
    while !holders.is_empty() {
        let patience =
            if holders.keys().all(|holder| is_zombie(*holder)) { COLLECTED_WITHIN } else { ENDED_WITHIN };
        if began.elapsed() > patience {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
        holders = holders_of(&tids_wanted);
    }
    for (holder, tids) in holders {
        let some: Vec<String> = tids.iter().take(4).map(i32::to_string).collect();
        let more = tids.len().saturating_sub(some.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let object = format!("pid {}{more}", some.join(", "));
        let name = command(holder);
        let (reason, remedy) = match proc::stat(holder) {
            Ok(stat) if stat.is_zombie() => (
                format!(
                    "taken by process {holder} ({name}), which has ended, but its parent {} ({}) has not collected it",
                    stat.ppid,
                    command(stat.ppid)
                ),
                "end that parent, or thaw a copy in a pid namespace of its own (--clone)".to_owned(),
            ),
            Ok(stat) if tids.iter().all(|tid| *tid == stat.session && *tid != stat.pgrp) => (
                format!("taken by process {holder} ({name}), which is in the session of this number"),
                "end that process, or thaw a copy in a pid namespace of its own (--clone)".to_owned(),
            ),
            _ => (
                format!("taken by process {holder} ({name})"),
                "end that process, or thaw a copy in a pid namespace of its own (--clone)".to_owned(),
            ),
        };
        found.push(Obstacle { passes: true, ..obstacle(root, object, reason, remedy) });
    }
    found
}

/// How long we wait for processes that have ended to be collected: a program that was frozen a moment ago leaves its
/// children to init, which takes its time.
const COLLECTED_WITHIN: Duration = Duration::from_secs(5);
/// How long we wait for processes that have not ended: a half-built tree ends by itself when the thaw that built it was
/// killed, but not in the same instant.
const ENDED_WITHIN: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Returns whether no process has any of the numbers of `checkpoint`, but for such as have ended.
pub(crate) fn are_free(checkpoint: &Checkpoint) -> bool {
    let threads = checkpoint.processes.iter().flat_map(|process| &process.cpu.threads);
    let pids = checkpoint.processes.iter().map(|process| process.pd.relation.pid.raw());
    let numbers: Vec<i32> = threads.map(|thread| thread.tid.raw()).chain(pids).collect();
    holders_of(&numbers).keys().all(|holder| is_zombie(*holder))
}

fn is_zombie(pid: i32) -> bool {
    proc::stat(pid).map_or(true, |stat| stat.is_zombie())
}

/// Returns the numbers that are taken, by whoever holds them: the original program, still running, holds one for each
/// thread.
fn holders_of(tids: &[i32]) -> BTreeMap<i32, Vec<i32>> {
    let mut holders: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let kin = if tids.is_empty() { BTreeMap::new() } else { kin() };
    for tid in tids {
        if let Some(holder) = holder(*tid, &kin) {
            holders.entry(holder).or_default().push(*tid);
        }
    }
    holders
}

/// Returns the process that has a number, as process or thread, group or session.
fn holder(tid: i32, kin: &BTreeMap<i32, i32>) -> Option<i32> {
    let pid = rustix::process::Pid::from_raw(tid)?;
    if rustix::process::test_kill_process(pid) == Err(Errno::SRCH) {
        // A number stays taken while a group or a session has it, though its process has ended (`__change_pid`, kernel/pid.c).
        let member = kin.get(&tid).copied();
        return match rustix::process::test_kill_process_group(pid) {
            Err(Errno::SRCH) => member,
            _ => Some(member.unwrap_or(tid)),
        };
    }
    let leader = proc::status(tid).ok().map(|status| status.tgid);
    Some(leader.unwrap_or(tid))
}

/// Returns the first process of each group and session. No call tells by the number of a session whether it has any.
fn kin() -> BTreeMap<i32, i32> {
    let mut kin = BTreeMap::new();
    for pid in proc::pids().unwrap_or_default() {
        if let Ok(stat) = proc::stat(pid) {
            kin.entry(stat.pgrp).or_insert(pid);
            kin.entry(stat.session).or_insert(pid);
        }
    }
    kin
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_number_is_taken_while_a_session_has_it() {
        // With job control each job is in a group of its own.
        let script = "set -m; sleep 60 >/dev/null 2>&1 </dev/null & echo $$ $!";
        let told = Command::new("setsid").args(["-w", "bash", "-c", script]).output().unwrap().stdout;
        let numbers: Vec<i32> =
            String::from_utf8(told).unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
        let (leader, member) = (numbers[0], numbers[1]);
        let found = holders_of(&[leader]);
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(member).unwrap(),
            rustix::process::Signal::KILL,
        );
        assert_eq!(found, BTreeMap::from([(member, vec![leader])]));
    }
}
