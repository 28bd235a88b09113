//! Files that the kernel makes for one process or thread, below `/proc/PID`.
//!
//! They can be opened when that is there: by each process that has one, and by us if they lie in messages only.

use super::{InnerCall, When};
use frost_model::cap::{Capability, Content};
use frost_model::pd::Descriptor;
use frost_model::{BytePath, Checkpoint, Pid};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// What it is of, by the numbers of the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfProcess<'a> {
    pid: Pid,
    thread: Option<Pid>,
    /// The path below the directory of the process or thread.
    path: &'a [u8],
    /// The offset in the file.
    position: u64,
}

/// Returns what `capability` is of, if it is such a file.
pub(super) fn of_process<'a>(checkpoint: &Checkpoint, capability: &'a Capability) -> Option<OfProcess<'a>> {
    let (path, position): (&BytePath, u64) = match capability {
        Capability::Regular(regular) => match &regular.content {
            Content::Named { file, .. } => (&file.path, regular.position),
            Content::Unnamed(_) => return None,
        },
        Capability::Directory(directory) => (&directory.file.path, directory.position),
        _ => return None,
    };
    let (pid, path) = first_pid(path.as_bytes().strip_prefix(b"/proc/")?)?;
    // That of a thread is there, too, though no look at /proc shows it.
    let known = checkpoint.processes.iter().any(|process| {
        process.pd.relation.pid == pid
            || process.cpu.threads.iter().any(|thread| thread.tid.raw() == pid.raw())
    });
    let (thread, path) = match path.strip_prefix(b"task/").and_then(first_pid) {
        Some((thread, path)) => (Some(thread), path),
        None => (None, path),
    };
    known.then_some(OfProcess { pid, thread, path, position })
}

fn first_pid(path: &[u8]) -> Option<(Pid, &[u8])> {
    frost_sys::proc::first_number(path).map(|(number, rest)| (Pid::new(number), rest))
}

impl OfProcess<'_> {
    /// Its path where numbers are as `number` tells.
    fn path(&self, number: impl Fn(Pid) -> i32) -> Vec<u8> {
        let mut path = format!("/proc/{}", number(self.pid)).into_bytes();
        if let Some(thread) = self.thread {
            path.extend_from_slice(format!("/task/{}", number(thread)).as_bytes());
        }
        if !self.path.is_empty() {
            path.push(b'/');
            path.extend_from_slice(self.path);
        }
        path
    }

    /// Opens it; what it is of is there.
    pub(super) fn open(&self, flags: u32) -> rustix::io::Result<OwnedFd> {
        let open_flags = OFlags::from_bits_retain(open_flags(flags)) | OFlags::CLOEXEC;
        let fd = rustix::fs::open(self.path(Pid::raw), open_flags, Mode::empty())?;
        if self.position != 0 {
            rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(self.position))?;
        }
        Ok(fd)
    }
}

fn open_flags(flags: u32) -> u32 {
    flags & !(OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC).bits()
}

/// Makes something that keeps the number until the process opens the file itself.
pub(super) fn placeholder() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The calls by which a process that has such a file opens it under whatever number is free, gives it its own one and goes
/// to its offset; or, if it already has it as `first`, takes it from there. `number` tells how it sees processes.
pub(super) fn calls(
    file: &OfProcess<'_>,
    number: impl Fn(Pid) -> i32,
    flags: u32,
    descriptor: &Descriptor,
    first: Option<i32>,
) -> Vec<InnerCall> {
    let fd = descriptor.fd.raw();
    let cloexec = if descriptor.close_on_exec { OFlags::CLOEXEC.bits() } else { 0 };
    let call = |nr, args: &[u64]| InnerCall { when: When::Met, ..InnerCall::new(nr, args, fd) };
    let place = |from: u64| call(libc::SYS_dup3, &[from, fd as u64, u64::from(cloexec)]);
    if let Some(first) = first {
        return vec![place(first as u64)];
    }
    let mut name = file.path(number);
    name.push(0);
    let mut open = call(libc::SYS_openat, &[libc::AT_FDCWD as u64, 0, u64::from(open_flags(flags))]);
    open.data.push((1, name));
    open.result_to = Some((1, 0));
    let mut calls = vec![open, place(0)];
    if file.position != 0 {
        calls.push(call(libc::SYS_lseek, &[fd as u64, file.position, libc::SEEK_SET as u64]));
    }
    calls
}
