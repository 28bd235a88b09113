//! Which process an image runs as, and whether it still does.

use crate::error::{Error, Result};
use frost_image::Instance;
use frost_sys::proc;
use rustix::io::Errno;
use std::io::ErrorKind;
use std::path::Path;

/// The inode of the pid namespace that all others are below (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const OUTERMOST: u64 = 0xefff_fffc;

/// Observes the process `pid` of our own pid namespace, so that it can be recognised later; `None` if there is none.
///
/// # Errors
/// [`Error::Io`] if `/proc` cannot be read.
pub fn observe(pid: i32) -> Result<Option<Instance>> {
    let Some(start_time) = start_time(pid)? else { return Ok(None) };
    Ok(Some(Instance { pid, start_time, pid_namespace: pid_namespace(), boot_id: boot_id()? }))
}

/// What can be told of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It runs.
    Runs,
    /// It has ended, or was of an earlier boot.
    Ended,
    /// It was seen from another pid namespace of this boot, so its number means nothing here; and what lives in there we
    /// do not see, or something has that number in a namespace below ours.
    Unknown,
}

/// Tells whether the process that `instance` denotes still runs. A zombie does not.
///
/// # Errors
/// [`Error::Io`] if `/proc` cannot be read.
pub fn liveness(instance: &Instance) -> Result<Liveness> {
    if instance.pid <= 0 || instance.boot_id != boot_id()? {
        return Ok(Liveness::Ended);
    }
    let here = pid_namespace();
    if instance.pid_namespace != 0 && here != 0 && instance.pid_namespace != here {
        let gone = here == OUTERMOST && is_nowhere_below(instance.pid);
        return Ok(if gone { Liveness::Ended } else { Liveness::Unknown });
    }
    let runs = start_time(instance.pid)? == Some(instance.start_time);
    Ok(if runs { Liveness::Runs } else { Liveness::Ended })
}

fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
    Ok(text.trim_end().to_owned())
}

/// The inode of our pid namespace, 0 if it cannot be read.
fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// Whether no process has this number in a namespace below the outermost one, which we are in.
///
/// Only from there all are seen, and only if `/proc` does not hide those of others (`hidepid`), as it would our pid 1. By
/// which number a namespace is called tells less: it may be that of a later one by now, and others' may not be looked at.
fn is_nowhere_below(pid: i32) -> bool {
    let (Ok(_), Ok(all)) = (proc::status(1), proc::pids()) else { return false };
    all.into_iter().all(|other| match proc::status(other) {
        Ok(status) => !status.inner_pids.iter().skip(1).any(|inner| *inner == pid),
        // It has just ended, or we are not shown it.
        Err(errno) => matches!(errno, Errno::NOENT | Errno::SRCH),
    })
}

/// The start time of a process that has not ended.
///
/// The kernel shows it in the time namespace of whoever reads (`do_task_stat` in `fs/proc/array.c`), so the store is
/// asked from outside of those that a thaw makes.
fn start_time(pid: i32) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    match std::fs::read(&path) {
        Ok(stat) => Ok(parse_stat(&stat)),
        // ESRCH: it was reaped between open and read.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(None),
        Err(source) => Err(Error::io("read", Path::new(&path), source)),
    }
}

/// Takes the start time (field 22) from `/proc/PID/stat`, unless all threads have ended.
///
/// The command in field 2 may hold anything, so fields are counted from the last parenthesis. A leader that ended
/// before its threads has state Z and more than one thread (field 20).
fn parse_stat(stat: &[u8]) -> Option<u64> {
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    let threads: u64 = fields.get(17)?.parse().ok()?;
    match *fields.first()? {
        "X" => None,
        "Z" if threads <= 1 => None,
        _ => fields.get(19)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_run_and_our_dead_child_does_not() {
        let ours = observe(std::process::id().cast_signed()).unwrap().unwrap();
        assert_eq!(liveness(&ours).unwrap(), Liveness::Runs);
        let another = Instance { start_time: ours.start_time + 1, ..ours.clone() };
        assert_eq!(liveness(&another).unwrap(), Liveness::Ended);
        let earlier = Instance { boot_id: "00000000-0000-0000-0000-000000000000".to_owned(), ..ours.clone() };
        assert_eq!(liveness(&earlier).unwrap(), Liveness::Ended);

        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id().cast_signed();
        let instance = observe(pid).unwrap().unwrap();
        assert_eq!(liveness(&instance).unwrap(), Liveness::Runs);
        child.kill().unwrap();
        // A zombie until we wait for it.
        while liveness(&instance).unwrap() == Liveness::Runs {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(observe(pid).unwrap(), None);
    }

    /// Starts what is pid 1 of a pid namespace of its own; `None` where that is not allowed.
    fn elsewhere() -> Option<std::process::Child> {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--user", "--pid", "--fork", "--kill-child", "sh", "-c", "echo; exec sleep 100"]);
        let mut child = unshare.stdout(std::process::Stdio::piped()).spawn().ok()?;
        let said = std::io::Read::read(child.stdout.as_mut()?, &mut [0]);
        if said.is_ok_and(|count| count == 1) {
            return Some(child);
        }
        child.wait().unwrap();
        None
    }

    #[test]
    fn what_was_seen_from_another_namespace_has_ended_once_nothing_has_its_number() {
        let ours = observe(std::process::id().cast_signed()).unwrap().unwrap();
        let numbered = |pid| Instance { pid, pid_namespace: ours.pid_namespace + 1, ..ours.clone() };
        // A number that no process has, and one that a process has which may be the one.
        let outermost = ours.pid_namespace == OUTERMOST && proc::status(1).is_ok();
        let gone = if outermost { Liveness::Ended } else { Liveness::Unknown };
        assert_eq!(liveness(&numbered(1 << 23)).unwrap(), gone);
        let Some(mut child) = elsewhere() else { return };
        assert_eq!(liveness(&numbered(1)).unwrap(), Liveness::Unknown);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_command_cannot_pose_as_other_fields() {
        let line = b"7 (a) Z 1) R 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 4711 1 1 1";
        assert_eq!(parse_stat(line), Some(4711));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"1 (x)"), None);
    }
}
