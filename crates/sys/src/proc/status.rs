//! `/proc/PID/status`.

use rustix::io::Result;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How far below ours the pid namespace lies in which a tree has its numbers.
static LEVEL: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Means by numbers of processes those that the root of a tree sees, though some of it may live deeper.
///
/// Said once, for the whole process, which deals with no other tree. Until then each process is meant by its own number.
pub fn number_as(root: i32) {
    let level = super::status(root).map_or(0, |status| status.inner_pids.len().saturating_sub(1));
    LEVEL.store(level, Ordering::Relaxed);
}

/// Finds the number of the meant level, or the innermost where there is none as deep.
fn meant(numbers: &[i32]) -> Option<i32> {
    numbers.get(LEVEL.load(Ordering::Relaxed)).or(numbers.last()).copied()
}

/// Fields of `/proc/PID/status` of a process or thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `Name`: of a thread its own.
    pub name: Vec<u8>,
    /// `Umask`.
    pub umask: u32,
    /// `Tgid`.
    pub tgid: i32,
    /// `TracerPid`, 0 for none.
    pub tracer: i32,
    /// `Uid`: real, effective, saved, file system.
    pub uids: [u32; 4],
    /// `Gid`.
    pub gids: [u32; 4],
    /// `Groups`.
    pub groups: Vec<u32>,
    /// `NSpid`: the number in our pid namespace first, that in its own last.
    pub inner_pids: Vec<i32>,
    /// `NSpgid`, likewise; 0 where the group is of an outer namespace.
    pub inner_groups: Vec<i32>,
    /// `NSsid`, likewise.
    pub inner_sessions: Vec<i32>,
    /// `VmLck` in bytes: locked in memory.
    pub locked_bytes: u64,
    /// `VmRSS` in bytes.
    pub resident_bytes: u64,
    /// `SigPnd`: pending for the thread.
    pub pending: u64,
    /// `ShdPnd`: pending for the process.
    pub shared_pending: u64,
    /// `SigBlk`.
    pub blocked: u64,
    /// `SigIgn`.
    pub ignored: u64,
    /// `SigCgt`.
    pub caught: u64,
    /// `CapInh`.
    pub cap_inheritable: u64,
    /// `CapPrm`.
    pub cap_permitted: u64,
    /// `CapEff`.
    pub cap_effective: u64,
    /// `CapBnd`.
    pub cap_bounding: u64,
    /// `CapAmb`.
    pub cap_ambient: u64,
    /// `NoNewPrivs`.
    pub no_new_privs: bool,
    /// `Seccomp`: 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// `Seccomp_filters`: how many there are, those of ancestors included (Linux 5.9).
    pub seccomp_filters: u32,
    /// `Threads`.
    pub threads: u32,
    /// `THP_enabled` is 0.
    pub thp_disabled: bool,
}

impl Status {
    /// Its number for the root of the tree that is [meant](number_as).
    pub fn number(&self) -> Option<i32> {
        meant(&self.inner_pids)
    }

    /// Its group, likewise; 0 where that is of an outer namespace.
    pub fn group(&self) -> Option<i32> {
        meant(&self.inner_groups)
    }

    /// Its session, likewise.
    pub fn session(&self) -> Option<i32> {
        meant(&self.inner_sessions)
    }

    /// How many pid namespaces deeper than the root of that tree it lives.
    pub fn depth(&self) -> usize {
        self.inner_pids.len().saturating_sub(LEVEL.load(Ordering::Relaxed).saturating_add(1))
    }
}

/// Reads `/proc/ID/status`.
///
/// # Errors
/// ENOENT or ESRCH if the process is gone.
pub fn status(id: i32) -> Result<Status> {
    Ok(parse(&super::read(id, "status")?))
}

/// Reads the same of thread `tid` of process `pid`.
///
/// # Errors
/// ENOENT or ESRCH if the thread is gone.
pub fn thread_status(pid: i32, tid: i32) -> Result<Status> {
    Ok(parse(&super::of_thread(pid, tid, "status")?))
}

fn parse(text: &[u8]) -> Status {
    let mut status = Status::default();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(name) = line.strip_prefix(b"Name:\t") {
            status.name = unescape(name);
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let Ok(value) = std::str::from_utf8(&line[colon + 1..]) else { continue };
        let value = value.trim();
        let hex = || u64::from_str_radix(value, 16).unwrap_or(0);
        let number =
            || value.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let list =
            || value.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u32>>();
        let signed =
            || value.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<i32>>();
        match &line[..colon] {
            b"Umask" => status.umask = u32::from_str_radix(value, 8).unwrap_or(0),
            b"Tgid" => status.tgid = number() as i32,
            b"TracerPid" => status.tracer = number() as i32,
            b"Uid" => status.uids = four(&list()),
            b"Gid" => status.gids = four(&list()),
            b"Groups" => status.groups = list(),
            b"NSpid" => status.inner_pids = signed(),
            b"NSpgid" => status.inner_groups = signed(),
            b"NSsid" => status.inner_sessions = signed(),
            b"VmLck" => status.locked_bytes = number() * 1024,
            b"VmRSS" => status.resident_bytes = number() * 1024,
            b"SigPnd" => status.pending = hex(),
            b"ShdPnd" => status.shared_pending = hex(),
            b"SigBlk" => status.blocked = hex(),
            b"SigIgn" => status.ignored = hex(),
            b"SigCgt" => status.caught = hex(),
            b"CapInh" => status.cap_inheritable = hex(),
            b"CapPrm" => status.cap_permitted = hex(),
            b"CapEff" => status.cap_effective = hex(),
            b"CapBnd" => status.cap_bounding = hex(),
            b"CapAmb" => status.cap_ambient = hex(),
            b"NoNewPrivs" => status.no_new_privs = number() != 0,
            b"Seccomp" => status.seccomp = number() as u32,
            b"Seccomp_filters" => status.seccomp_filters = number() as u32,
            b"Threads" => status.threads = number() as u32,
            b"THP_enabled" => status.thp_disabled = number() == 0,
            _ => {}
        }
    }
    status
}

fn four(list: &[u32]) -> [u32; 4] {
    core::array::from_fn(|index| list.get(index).copied().unwrap_or(u32::MAX))
}

/// Decodes `\n` and `\\`, which is all that is escaped in a name (`proc_task_name`, fs/proc/array.c).
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' if bytes.next() == Some(&b'n') => b'\n',
            byte => *byte,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_any_bytes() {
        let status = parse(b"Name:\t a: \\\\\\n\xff \nUmask:\t0022\n");
        assert_eq!(status.name, b" a: \\\n\xff ");
        assert_eq!(status.umask, 0o22);
    }

    #[test]
    fn the_kernel_escapes_what_is_decoded() {
        let named = std::thread::Builder::new().spawn(|| {
            rustix::thread::set_name(c" a\\b\nc:\\n ").unwrap();
            status(rustix::thread::gettid().as_raw_nonzero().get()).unwrap().name
        });
        assert_eq!(named.unwrap().join().unwrap(), b" a\\b\nc:\\n ");
    }
}
