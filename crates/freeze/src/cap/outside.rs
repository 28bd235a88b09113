//! Descriptions whose other end is not in the tree.

use super::pipe::{self, Ends};
use super::pty;
use super::{Error, Held, Members};
use frost_model::cap::{Capability, Description, FileRef, Outside, OutsideKind};
use frost_model::{BytePath, Pid};
use rustix::fd::AsFd;
use rustix::fs::{major, makedev, minor};
use rustix::termios::tcgetwinsize;
use std::collections::{BTreeMap, BTreeSet};

/// Names the other ends of pipes that lead out of a tree, as far as one is found among those who most likely hold it: the
/// ancestors of the tree and their children. It only serves messages, so not all of /proc is read.
///
/// An ordinary user sees only processes of their own; what is not found stays unknown.
pub(crate) fn name_peers(descriptions: &mut [Description], tree: &[i32]) {
    let inode = |capability: &Capability| match capability {
        Capability::Outside(Outside { kind: OutsideKind::Pipe { inode, .. }, .. }) => Some(*inode),
        _ => None,
    };
    let name = |inode: u64| format!("pipe:[{inode}]").into_bytes();
    let sought: BTreeSet<_> = descriptions.iter().filter_map(|it| inode(&it.capability).map(name)).collect();
    let mut holders = BTreeMap::new();
    let own = std::process::id() as i32;
    let parent = |pid: i32| frost_sys::proc::stat(pid).map_or(0, |stat| stat.ppid);
    let mut ancestor = tree.first().map_or(0, |root| parent(*root));
    while ancestor > 1 && holders.len() < sought.len() {
        let mut candidates = vec![ancestor];
        candidates.extend(frost_sys::proc::children(ancestor).unwrap_or_default());
        for pid in candidates.into_iter().filter(|pid| *pid != own && !tree.contains(pid)) {
            for (_, link) in frost_sys::proc::open_files(pid).unwrap_or_default() {
                if sought.contains(&link) {
                    holders.entry(link).or_insert_with(|| (Pid::new(pid), frost_sys::proc::command(pid)));
                }
            }
        }
        ancestor = parent(ancestor);
    }
    for description in descriptions {
        let holder = inode(&description.capability).and_then(|inode| holders.get(&name(inode)));
        if let (Capability::Outside(outside), Some(holder)) = (&mut description.capability, holder) {
            outside.peer = Some(holder.clone());
        }
    }
}

/// Looks among all processes that we may see, but those of the tree, for one that has one of these message queues open.
pub(super) fn find_users(queues: &[&Held], members: &Members) -> BTreeMap<(u64, u64), (Pid, String)> {
    let mut users = BTreeMap::new();
    let names: Vec<&[u8]> = queues.iter().filter_map(|held| held.link.as_deref()).collect();
    let pids = frost_sys::proc::pids().unwrap_or_default();
    let own = std::process::id() as i32;
    for pid in pids.into_iter().filter(|pid| *pid != own && members.inner(Pid::new(*pid)).is_none()) {
        // The links are read without looking at the files, which may lie where nobody answers.
        for (number, link) in frost_sys::proc::open_files(pid).unwrap_or_default() {
            if !names.contains(&link.as_slice()) {
                continue;
            }
            // Each IPC namespace has queues of its own, and another file system may have a file of that name.
            let file = frost_sys::proc::path(pid, &format!("fd/{number}"));
            let Ok(stat) = rustix::fs::stat(file) else { continue };
            let key = (stat.st_dev, stat.st_ino);
            if queues.iter().any(|held| held.key() == key) {
                users.entry(key).or_insert_with(|| (Pid::new(pid), frost_sys::proc::command(pid)));
            }
        }
    }
    users
}

/// Captures a pipe to another program: what waits in it, if the tree reads it.
pub(super) fn capture_pipe(ends: &Ends, held: &Held) -> Result<Capability, Error> {
    let capacity_bytes = pipe::capacity(held)?;
    let content = match ends.reader {
        true => pipe::content(held, held.fd.as_fd(), capacity_bytes)?.into_iter().flatten().collect(),
        false => Vec::new(),
    };
    let kind = OutsideKind::Pipe { inode: held.stat.st_ino, capacity_bytes, content };
    // Who has the other end is looked for when the program runs again, see `name_peers`.
    Ok(Capability::Outside(Outside { kind, peer: None }))
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
