//! Files that the kernel makes for one process, below `/proc/PID`.
//!
//! Only that process has them open, and only it can open them again, once it is there.

use super::InnerCall;
use frost_model::cap::{Capability, Content};
use frost_model::pd::Descriptor;
use frost_model::{BytePath, Checkpoint, Pid};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// Returns the process and the path below its directory, if `capability` is such a file.
pub(super) fn of_process<'a>(checkpoint: &Checkpoint, capability: &'a Capability) -> Option<(Pid, &'a [u8])> {
    let path: &BytePath = match capability {
        Capability::Regular(regular) => match &regular.content {
            Content::Named { file, .. } => &file.path,
            Content::Unnamed(_) => return None,
        },
        Capability::Directory(directory) => &directory.file.path,
        _ => return None,
    };
    let rest = path.as_bytes().strip_prefix(b"/proc/")?;
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let pid = Pid::new(std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?);
    let known = checkpoint.processes.iter().any(|process| process.pd.relation.pid == pid);
    known.then(|| (pid, rest.get(end + 1..).unwrap_or_default()))
}

/// Makes something that keeps the number until the process opens the file itself.
pub(super) fn placeholder() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The calls by which the process opens such a file under whatever number is free, gives it its own one and goes to its
/// offset; or, if `first` already has it, takes it from there.
pub(super) fn calls(
    path: &[u8],
    flags: u32,
    position: u64,
    descriptor: &Descriptor,
    first: Option<i32>,
) -> Vec<InnerCall> {
    let fd = descriptor.fd.raw();
    let cloexec = if descriptor.close_on_exec { OFlags::CLOEXEC.bits() } else { 0 };
    if let Some(first) = first {
        return vec![InnerCall::new(libc::SYS_dup3, &[first as u64, fd as u64, u64::from(cloexec)], fd)];
    }
    let mut name = b"/proc/self/".to_vec();
    name.extend_from_slice(path);
    name.push(0);
    let open_flags = flags & !(OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC).bits();
    let args = [libc::AT_FDCWD as u64, 0, u64::from(open_flags)];
    let mut open = InnerCall::new(libc::SYS_openat, &args, fd);
    open.data.push((1, name));
    open.result_to = Some((1, 0));
    let mut calls = vec![open, InnerCall::new(libc::SYS_dup3, &[0, fd as u64, u64::from(cloexec)], fd)];
    if position != 0 {
        calls.push(InnerCall::new(libc::SYS_lseek, &[fd as u64, position, libc::SEEK_SET as u64], fd));
    }
    calls
}
