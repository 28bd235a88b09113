//! What `/proc` says of a process, parsed.
//!
//! All of it is read as bytes: a command name or a path may be anything but NUL.

mod children;
mod limits;
mod maps;
mod sleep;
mod stat;
mod status;
mod timers;

pub use children::{Families, children, children_of};
pub use limits::limits;
pub use maps::{Mapping, NEWLINE, VmFlags, bare_mappings, mappings};
pub use sleep::{Asleep, Call, blocked_in};
pub use stat::{Stat, stat, thread_stat};
pub use status::{Status, number_as, status, thread_status};
pub use timers::{Target, Timer, timers};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Returns the path of `name` for process or thread `id`.
pub fn path(id: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{id}/{name}"))
}

/// Returns whether something is so for longer than moments: at each of several looks, 20 ms long.
///
/// Amid execve(2), and on its way to its end, a process shows parts of what it was beside parts of what it will be
/// (`begin_new_exec` and `de_thread`, fs/exec.c; `do_exit`, kernel/exit.c). What is said of it had better be so of the rest.
pub fn lasts(mut is_so: impl FnMut() -> bool) -> bool {
    const LOOKS: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(1);
    (0..LOOKS).all(|look| {
        if look > 0 {
            std::thread::sleep(PAUSE);
        }
        is_so()
    })
}

/// Reads a whole file of `/proc/ID`.
///
/// # Errors
/// ENOENT or ESRCH if the process is gone.
pub fn read(id: i32, name: &str) -> Result<Vec<u8>> {
    file(&path(id, name))
}

/// Reads a whole file of a thread.
///
/// `/proc/TID` has them too, but is made anew for each thread that is asked for there, beside this one, and taken down
/// with it.
fn of_thread(pid: i32, tid: i32, name: &str) -> Result<Vec<u8>> {
    read(pid, &format!("task/{tid}/{name}"))
}

/// Reads a whole file of `/proc`, by its path.
///
/// These tell no length, and give a page at a time: `std::fs::read` would begin with 32 bytes and need ten calls.
pub fn file(path: &std::path::Path) -> Result<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(8192);
    loop {
        // Most files are smaller, and need no more room to be found at their end.
        if bytes.capacity() - bytes.len() < 4096 {
            bytes.reserve(8192);
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a file of `/proc/ID`.
pub fn write(id: i32, name: &str, bytes: &[u8]) -> Result<()> {
    let file = rustix::fs::open(path(id, name), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}

/// Reads a symbolic link of `/proc/ID`, as `exe` or `fd/3`.
pub fn link(id: i32, name: &str) -> Result<Vec<u8>> {
    rustix::fs::readlink(path(id, name), Vec::new()).map(|link| link.into_bytes())
}

/// Lists the entries of a directory of `/proc/ID` whose names are numbers, in ascending order.
pub fn numbers(id: i32, name: &str) -> Result<Vec<i32>> {
    numbers_in(&path(id, name))
}

/// Lists the processes that we may see, in ascending order.
pub fn pids() -> Result<Vec<i32>> {
    numbers_in(std::path::Path::new("/proc"))
}

/// Lists the descriptors of a process in ascending order, each with what the kernel calls it: a path, or a name as `pipe:[77]`. One
/// whose path is longer than a page, or that was closed meanwhile, is left out.
pub fn open_files(id: i32) -> Result<Vec<(i32, Vec<u8>)>> {
    let directory = directory(&path(id, "fd"))?;
    let link = |number: i32| {
        // By way of the directory: the path to it is as long as the link itself to look up.
        let link = rustix::fs::readlinkat(&directory, number.to_string(), Vec::new()).ok()?;
        Some((number, link.into_bytes()))
    };
    Ok(numbers_of(&directory)?.into_iter().filter_map(link).collect())
}

fn directory(path: &std::path::Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn numbers_in(path: &std::path::Path) -> Result<Vec<i32>> {
    numbers_of(&directory(path)?)
}

fn numbers_of(directory: &OwnedFd) -> Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether a process is in our namespace of a kind, as `/proc/PID/ns` calls it. One that is gone is.
pub fn is_in_our_namespace(pid: i32, kind: &str) -> bool {
    let link = |id: &str| rustix::fs::readlink(format!("/proc/{id}/ns/{kind}"), Vec::new()).ok();
    let theirs = link(&pid.to_string());
    theirs.is_none() || theirs == link("self")
}

/// Takes the number off with which a path below `/proc` begins, and returns it and the rest; `None` if it begins with a name.
pub fn first_number(path: &[u8]) -> Option<(i32, &[u8])> {
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    let number = std::str::from_utf8(&path[..end]).ok()?.parse().ok()?;
    Some((number, path.get(end + 1..).unwrap_or_default()))
}

/// Lists the threads of a process in ascending order.
pub fn threads(pid: i32) -> Result<Vec<i32>> {
    numbers(pid, "task")
}

/// Returns the command name of a process, for messages; empty if it is gone.
pub fn command(pid: i32) -> String {
    let name = read(pid, "comm").unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}

/// Decodes the octal escapes (`\012`) that `/proc` puts into paths.
pub fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Views bytes as a path.
pub fn as_path(bytes: &[u8]) -> &std::path::Path {
    std::path::Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded() {
        assert_eq!(unescape(b"/a\\012b\\134\\9"), b"/a\nb\\\\9");
    }

    #[test]
    fn our_own_process_is_read() {
        let pid = std::process::id() as i32;
        assert_eq!(stat(pid).unwrap().pid, pid);
        assert!(threads(pid).unwrap().contains(&pid));
        let status = status(pid).unwrap();
        assert_eq!(status.inner_pids.first(), Some(&pid));
        assert_eq!(status.uids[0], rustix::process::getuid().as_raw());
        let maps = mappings(pid).unwrap();
        assert!(maps.iter().any(|mapping| mapping.name == b"[stack]" && mapping.flags.has(*b"gd")));
        assert!(maps.iter().any(|mapping| mapping.inode != 0 && mapping.execute));
    }
}
