//! Descriptions whose other end is not in the tree.

use super::pipe::{self, Ends};
use super::pty;
use super::{Error, Held, Members};
use frost_model::cap::{Capability, FileRef, Outside, OutsideKind};
use frost_model::{BytePath, Pid};
use rustix::fd::AsFd;
use rustix::fs::{major, makedev, minor};
use rustix::termios::tcgetwinsize;
use std::collections::BTreeMap;

/// Processes that are not in the tree and hold one of the sought objects, by the name the kernel gives it.
pub(super) type Holders = BTreeMap<Vec<u8>, (Pid, String)>;

/// Looks for the names in `sought` among the descriptors of those who most likely hold them: the ancestors of the tree and
/// their children. It only serves messages, and is done while the program stands still, so not all of /proc is read.
///
/// An ordinary user sees only processes of their own; what is not found stays unknown.
pub(super) fn find_holders(sought: &[Vec<u8>], members: &Members) -> Holders {
    let mut holders = Holders::new();
    if sought.is_empty() {
        return holders;
    }
    let own = std::process::id() as i32;
    let parent = |pid: i32| frost_sys::proc::stat(pid).map_or(0, |stat| stat.ppid);
    let mut ancestor = members.outer().next().map_or(0, |root| parent(root.raw()));
    while ancestor > 1 && holders.len() < sought.len() {
        let mut candidates = vec![ancestor];
        candidates.extend(frost_sys::proc::children(ancestor).unwrap_or_default());
        for pid in candidates {
            if members.inner(Pid::new(pid)).is_some() || pid == own {
                continue;
            }
            for number in frost_sys::proc::numbers(pid, "fd").unwrap_or_default() {
                let Ok(link) = frost_sys::proc::link(pid, &format!("fd/{number}")) else { continue };
                if sought.contains(&link) {
                    holders.entry(link).or_insert_with(|| (Pid::new(pid), frost_sys::proc::command(pid)));
                }
            }
        }
        ancestor = parent(ancestor);
    }
    holders
}

/// Looks among all processes that we may see, but those of the tree, for one that has one of these message queues open.
pub(super) fn find_users(queues: &[&Held], members: &Members) -> BTreeMap<(u64, u64), (Pid, String)> {
    let mut users = BTreeMap::new();
    let names: Vec<&[u8]> = queues.iter().filter_map(|held| held.link.as_deref()).collect();
    let pids = frost_sys::proc::pids().unwrap_or_default();
    let own = std::process::id() as i32;
    for pid in pids.into_iter().filter(|pid| *pid != own && members.inner(Pid::new(*pid)).is_none()) {
        for number in frost_sys::proc::numbers(pid, "fd").unwrap_or_default() {
            let name = format!("fd/{number}");
            // The link is read without looking at the file, which may lie where nobody answers.
            if !frost_sys::proc::link(pid, &name).is_ok_and(|link| names.contains(&link.as_slice())) {
                continue;
            }
            // Each IPC namespace has queues of its own, and another file system may have a file of that name.
            let Ok(stat) = rustix::fs::stat(frost_sys::proc::path(pid, &name)) else { continue };
            let key = (stat.st_dev, stat.st_ino);
            if queues.iter().any(|held| held.key() == key) {
                users.entry(key).or_insert_with(|| (Pid::new(pid), frost_sys::proc::command(pid)));
            }
        }
    }
    users
}

/// Captures a pipe to another program: what waits in it, if the tree reads it.
pub(super) fn capture_pipe(ends: &Ends, held: &Held, holders: &Holders) -> Result<Capability, Error> {
    let capacity_bytes = pipe::capacity(held)?;
    let content = match ends.reader {
        true => pipe::content(held, held.fd.as_fd(), capacity_bytes)?.into_iter().flatten().collect(),
        false => Vec::new(),
    };
    let peer = held.link.as_ref().and_then(|link| holders.get(link)).cloned();
    let kind = OutsideKind::Pipe { inode: held.stat.st_ino, capacity_bytes, content };
    Ok(Capability::Outside(Outside { kind, peer }))
}

/// Captures a terminal: what it was, and its settings.
pub(super) fn capture_terminal(held: &Held, path: BytePath, members: &Members) -> Result<Capability, Error> {
    // A terminal that was hung up gives EIO: it has no settings any more.
    let settings = frost_sys::pty::settings(&held.fd).map(Vec::from).unwrap_or_default();
    let size = tcgetwinsize(&held.fd).map(|size| (size.ws_row, size.ws_col)).unwrap_or_default();
    let rdev = held.stat.st_rdev;
    // /dev/tty is whatever terminal controls the one who opens it.
    let by_name = (major(rdev), minor(rdev)) == (5, 0);
    let users = || {
        let stats = members.outer().filter_map(|pid| frost_sys::proc::stat(pid.raw()).ok());
        stats.filter(|stat| stat.tty_nr != 0 && (by_name || is_terminal(stat.tty_nr, rdev)))
    };
    let controlling = by_name || users().next().is_some();
    let foreground = users().find_map(|stat| pty::inner_group(stat.tpgid, members));
    let file = FileRef { path, identity: crate::file::identity(&held.stat) };
    let kind = OutsideKind::Terminal { file, settings, size, controlling, foreground };
    Ok(Capability::Outside(Outside { kind, peer: None }))
}

/// Compares the terminal of `/proc/PID/stat`, in the kernel's old form (minor in bits 31-20 and 7-0), with a device.
fn is_terminal(tty_nr: i32, rdev: u64) -> bool {
    let number = tty_nr as u32;
    makedev((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00)) == rdev
}
