//! What an IPC namespace holds, looked at from outside.

use crate::{clone, mqueue, proc};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

/// The lists of objects of an IPC namespace that is not ours, opened in there: to read them takes no process in it.
///
/// `/proc/sysvipc` shows the namespace of who opened it, whoever reads (`sysvipc_proc_open`, ipc/util.c), and the file system
/// of message queues that of who mounted it (`mqueue_init_fs_context`, ipc/mqueue.c).
#[derive(Debug)]
pub struct Lists {
    /// What `/proc/PID/ns/ipc` says of those who are in it.
    namespace: Vec<u8>,
    system_v: Vec<OwnedFd>,
    /// `None` for a kernel without such queues.
    queues: Option<OwnedFd>,
}

fn namespace(pid: i32) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlink(proc::path(pid, "ns/ipc"), Vec::new())?.into_bytes())
}

impl Lists {
    /// Opens those of the namespace of process `pid`; `None` if it is ours.
    ///
    /// # Errors
    /// EPERM without rights over that namespace; ENOENT if `/proc` shows no such lists.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        if proc::is_in_our_namespace(pid, "ipc") {
            return Ok(None);
        }
        let before = namespace(pid)?;
        let mut opened = clone::opened_apart(|| {
            clone::enter_with_user(pid, libc::CLONE_NEWIPC)?;
            let open = |kind| {
                let path = format!("/proc/sysvipc/{kind}");
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            };
            let mut opened = ["shm", "sem", "msg"].into_iter().map(open).collect::<Result<Vec<_>>>()?;
            opened.extend(mqueue::directory()?);
            Ok(opened)
        })?;
        // It may have entered another one meanwhile.
        if namespace(pid)? != before {
            return Err(Errno::AGAIN);
        }
        let queues = opened.drain(3..).next();
        Ok(Some(Self { namespace: before, system_v: opened, queues }))
    }

    /// Returns whether process `pid` is in that namespace, and there is nothing in it.
    ///
    /// # Errors
    /// ESRCH or ENOENT if the process is gone.
    pub fn are_empty_for(&self, pid: i32) -> Result<bool> {
        Ok(namespace(pid)? == self.namespace && !self.have_objects()? && !self.have_queues()?)
    }

    /// Returns whether there are objects of System V.
    pub fn have_objects(&self) -> Result<bool> {
        for list in &self.system_v {
            let mut bytes = [0; 512];
            let count = rustix::io::pread(list, &mut bytes, 0)?;
            // One line says what stands in the others.
            if bytes[..count].iter().filter(|byte| **byte == b'\n').count() != 1 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether there are POSIX message queues that have a name.
    pub fn have_queues(&self) -> Result<bool> {
        let names = self.queues.as_ref().map_or(Ok(Vec::new()), mqueue::names_in)?;
        Ok(!names.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn what_comes_into_a_namespace_is_seen_from_outside() {
        assert!(Lists::of(std::process::id() as i32).unwrap().is_none());
        for made in ["ipcmk -M 4096", "ipcmk -S 1", "ipcmk -Q", "mount -t mqueue q /mnt && touch /mnt/queue"]
        {
            let script = format!("echo; read line; {{ {made}; }} >&2 && echo made; read line");
            let mut child = Command::new("unshare")
                .args(["--user", "--map-root-user", "--ipc", "--mount", "sh", "-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let pid = child.id() as i32;
            let mut said = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            if line.is_empty() {
                println!("skipped: there are no user namespaces here");
                child.wait().unwrap();
                return;
            }
            let lists = Lists::of(pid).unwrap().unwrap();
            assert!(lists.are_empty_for(pid).unwrap(), "before {made}");
            assert!(!lists.are_empty_for(std::process::id() as i32).unwrap());
            let mut stdin = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, b"\n").unwrap();
            line.clear();
            said.read_line(&mut line).unwrap();
            assert_eq!(line, "made\n", "{made}");
            assert!(!lists.are_empty_for(pid).unwrap(), "behind {made}");
            drop(stdin);
            child.wait().unwrap();
        }
    }
}
