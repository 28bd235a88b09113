//! Whether file systems answer that are served by somebody: by a process, or by another machine.
//!
//! A question to such a file system waits for its server, and cannot be given up once that has heard it
//! (`request_wait_answer`, fs/fuse/dev.c; a hard mount of NFS). Whoever serves it may be dead, or in the very tree that
//! stands still; then we would wait for ever, with the program. So a process that nobody waits for asks first.

use frost_model::{Obstacle, Pid};
use frost_sys::clone::{Clone, close_others, exit_now, fork_beside_threads};
use frost_sys::mounts::{self, Mount};
use frost_sys::proc;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;
use std::collections::BTreeSet;

/// Types of file systems that are served, beside those of FUSE.
const SERVED: [&str; 12] =
    ["9p", "afs", "ceph", "cifs", "coda", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "virtiofs", "vboxsf"];
/// How long a server may take.
const ANSWERS_WITHIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// A process whose files are looked at.
pub(crate) struct User {
    pub(crate) through: i32,
    pub(crate) inner: Pid,
    pub(crate) command: String,
}

/// Whether a file system of this type is served.
fn is_served(kind: &str) -> bool {
    kind.starts_with("fuse") && kind != "fusectl" || SERVED.contains(&kind)
}

/// Whether a path lies where something is mounted, or below.
fn has(place: &[u8], path: &[u8]) -> bool {
    let below = |rest: &[u8]| rest.is_empty() || rest[0] == b'/' || place == b"/";
    path.strip_prefix(place).is_some_and(below)
}

/// Lists the places where a process sees served file systems.
pub(crate) fn served(pid: i32) -> Vec<Mount> {
    mounts::of(&pid.to_string()).into_iter().filter(|mount| is_served(&mount.file_system)).collect()
}

/// Lists the file systems that processes use and that do not answer. Nothing of theirs is touched by us.
pub(crate) fn silent(users: &[User]) -> Vec<Obstacle> {
    let Some(first) = users.first() else { return Vec::new() };
    let mounts = served(first.through);
    let mut obstacles = Vec::new();
    let mut asked = BTreeSet::new();
    if mounts.is_empty() {
        return obstacles;
    }
    for user in users {
        for path in paths(user.through) {
            // The innermost one.
            let mount =
                mounts.iter().filter(|mount| has(&mount.path, &path)).max_by_key(|mount| mount.path.len());
            let Some(mount) = mount.filter(|mount| asked.insert(mount.path.clone())) else { continue };
            // As that process sees it, which may have a mount namespace or a root of its own.
            let place = [format!("/proc/{}/root", user.through).as_bytes(), &mount.path].concat();
            if !answers(&place) {
                let place = String::from_utf8_lossy(&mount.path);
                obstacles.push(Obstacle {
                    pid: user.inner,
                    command: user.command.clone(),
                    object: format!("file system {place} ({})", mount.file_system),
                    reason: format!(
                        "it does not answer, so {} on it cannot be looked at",
                        String::from_utf8_lossy(&path)
                    ),
                    remedy:
                        "look after its server; one that runs within the program has to run outside of it"
                            .to_owned(),
                    passes: false,
                });
            }
        }
    }
    obstacles
}

/// Lists the paths of all that a process has open or mapped, by what the kernel knows of them without asking anybody.
fn paths(pid: i32) -> BTreeSet<Vec<u8>> {
    let links = ["cwd", "root", "exe"].into_iter().map(|name| proc::link(pid, name));
    let open = proc::open_files(pid).unwrap_or_default().into_iter().map(|(_, link)| link);
    let mapped = proc::bare_mappings(pid).unwrap_or_default().into_iter().map(|mapping| mapping.name);
    let all = links.filter_map(Result::ok).chain(open).chain(mapped);
    all.filter(|path| path.starts_with(b"/")).collect()
}

/// Asks a file system for its size: a question that is never answered from a cache.
fn answers(place: &[u8]) -> bool {
    let Ok((reader, writer)) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC) else { return true };
    match fork_beside_threads() {
        Ok(Clone::Child) => {
            // It may stay for ever, and must hold nothing of ours then.
            close_others(&writer);
            let _ = rustix::process::setsid();
            let _ = rustix::fs::statfs(proc::as_path(place));
            let _ = rustix::io::write(&writer, b"answered");
            exit_now(0)
        }
        Ok(Clone::Parent { pid, .. }) => {
            drop(writer);
            let mut fds = [PollFd::new(&reader, PollFlags::IN)];
            let answered = rustix::event::poll(&mut fds, Some(&ANSWERS_WITHIN)) != Ok(0);
            let Some(pid) = rustix::process::Pid::from_raw(pid) else { return answered };
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let options = if answered {
                rustix::process::WaitOptions::empty()
            } else {
                // Where it waits no signal may reach it.
                rustix::process::WaitOptions::NOHANG
            };
            let _ = rustix::process::waitpid(Some(pid), options);
            answered
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn served_file_systems_are_known_by_their_types() {
        for kind in ["fuse.sshfs", "fuseblk", "nfs4", "9p"] {
            assert!(is_served(kind), "{kind}");
        }
        for kind in ["ext4", "fusectl", ""] {
            assert!(!is_served(kind), "{kind}");
        }
        assert!(
            has(b"/mnt/a b", b"/mnt/a b")
                && has(b"/mnt/a b", b"/mnt/a b/c")
                && !has(b"/mnt/a b", b"/mnt/a bc")
        );
        assert!(has(b"/", b"/any"));
    }
}
