//! Regular files, with and without a name.

use super::held::own_path;
use super::recognise::{CLOSE_FIRST, Found, Refusal};
use super::{Error, Held, Sink, content};
use crate::file::{DELETED, identity, marks, other_name};
use frost_model::BytePath;
use frost_model::cap::{Capability, Content, FileRef, RegularFile, Unnamed};
use frost_model::id::ObjectId;
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::ffi::CString;

/// Decides what a file of the file system is: it has a name, none, or one that leads elsewhere.
pub(super) fn recognise(held: &Held) -> Result<Found, Refusal> {
    if has_trigger(held) {
        return Err(Refusal::new(
            format!("pressure file {} with a trigger", held.name()),
            "the kernel does not tell what it waits for",
            CLOSE_FIRST,
        ));
    }
    if held.stat.st_nlink > 0 {
        let named = named_path(held);
        // While the program runs it may be deleted before its name is looked up, as one that another replaces.
        let is_deleted = || rustix::fs::fstat(&held.fd).is_ok_and(|stat| stat.st_nlink == 0);
        if named.is_ok() || !is_deleted() {
            return named.map(Found::Named);
        }
    }
    if held.flags.contains(OFlags::PATH)
        && FileType::from_raw_mode(held.stat.st_mode) != FileType::RegularFile
    {
        return Err(Refusal::new(
            "O_PATH descriptor of a deleted node",
            "a node that is no regular file cannot be made again without a name",
            "close it first",
        ));
    }
    Ok(Found::Unnamed)
}

/// How often a file is looked for that is renamed meanwhile.
const MOST_LOOKS: usize = 10;

/// Returns the path of a file, if that path leads to this very file.
///
/// While the program runs it may be given another name before that is looked up, as one that is written and then renamed.
pub(super) fn named_path(held: &Held) -> Result<BytePath, Refusal> {
    let mut link = held.link.clone();
    let mut found = path_of_link(held, link.as_deref());
    for _ in 0..MOST_LOOKS {
        let now = rustix::fs::readlink(own_path(held.fd.as_fd()), Vec::new()).ok().map(CString::into_bytes);
        if found.is_ok() || now == link {
            break;
        }
        found = path_of_link(held, now.as_deref());
        link = now;
    }
    found
}

fn path_of_link(held: &Held, link: Option<&[u8]>) -> Result<BytePath, Refusal> {
    let Some(link) = link else {
        return Err(Refusal::new(
            "file",
            "its path is longer than 4095 bytes, so it cannot be opened again",
            "move it to a shorter path",
        ));
    };
    let path = BytePath::new(link);
    let found = if FileType::from_raw_mode(held.stat.st_mode) == FileType::Symlink {
        rustix::fs::lstat(frost_sys::sight::of(path.as_path()))
    } else {
        rustix::fs::stat(frost_sys::sight::of(path.as_path()))
    };
    let what = format!("file {path}");
    match found {
        Ok(stat) if (stat.st_dev, stat.st_ino) == held.key() => Ok(path),
        // Each pid namespace has an instance of its own, in which what is not of a process is the same by name.
        Ok(stat) if stat.st_mode == held.stat.st_mode && is_proc(held) && is_on_proc(&path) => Ok(path),
        Ok(_) => Err(Refusal::new(
            what,
            "its path leads to another file (another mount namespace, or something mounted over it)",
            "freeze it from within its mount namespace, or undo the mount",
        )),
        Err(Errno::NOENT | Errno::NOTDIR) if link.ends_with(DELETED) => {
            other_name(link, held.key()).map(BytePath::new).ok_or_else(|| {
                Refusal::new(
                    what,
                    "this name of it was deleted, while it has another one, which the kernel does not tell",
                    "give it this name again with ln(1), or delete the other one",
                )
            })
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Err(Refusal::new(
            what,
            "its path does not exist here (another mount namespace or root directory)",
            "freeze it from within its mount namespace",
        )),
        Err(error) => Err(Refusal::new(
            what,
            format!("its path cannot be looked up: {error}"),
            "freeze it as a user who may",
        )),
    }
}

// PROC_SUPER_MAGIC and CGROUP2_SUPER_MAGIC of include/uapi/linux/magic.h.
const PROC: u32 = 0x9fa0;
const CGROUP2: u32 = 0x6367_7270;

/// Whether a description of a file that tells of pressure (PSI), of the machine or of a cgroup, has a trigger that was written.
///
/// A description has one at most, and whether it has is asked before what is written is looked at (`psi_write`,
/// kernel/sched/psi.c; `pressure_write`, kernel/cgroup/cgroup.c). To poll it would take an event from the program.
fn has_trigger(held: &Held) -> bool {
    const NO_TRIGGER: &[u8] = b"x";
    if !held.is_writable() {
        return false;
    }
    let link = held.link.as_deref().unwrap_or_default();
    let file_system = match link.rsplit(|byte| *byte == b'/').nth(1) {
        _ if link.ends_with(b".pressure") => CGROUP2,
        Some(b"pressure") => PROC,
        _ => return false,
    };
    let is_there = rustix::fs::fstatfs(&held.fd).is_ok_and(|stat| stat.f_type as u32 == file_system);
    is_there && rustix::io::write(&held.fd, NO_TRIGGER) == Err(Errno::BUSY)
}

/// Returns whether a description is of a file of procfs.
pub(super) fn is_proc(held: &Held) -> bool {
    rustix::fs::fstatfs(&held.fd).is_ok_and(|stat| stat.f_type as u32 == PROC)
}

fn is_on_proc(path: &BytePath) -> bool {
    rustix::fs::statfs(frost_sys::sight::of(path.as_path())).is_ok_and(|stat| stat.f_type as u32 == PROC)
}

/// Returns what a path of a file of procfs has behind the place where that is mounted.
pub(super) fn below_proc(path: &[u8]) -> Option<&[u8]> {
    let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    let mut mounted = ends.filter(|end| is_on_proc(&BytePath::new(&path[..*end])));
    mounted.next().and_then(|end| path.get(end + 1..))
}

/// Makes a reference to a named file, with its identity as of now.
pub(super) fn reference(held: &Held, path: BytePath) -> Result<FileRef, Error> {
    let stat = rustix::fs::fstat(&held.fd).map_err(|e| held.error(e))?;
    Ok(FileRef { path, identity: identity(&stat) })
}

/// Captures a named file. One that is open for writing was synced before, so its time of change stays.
pub(super) fn capture_named(
    held: &Held,
    path: BytePath,
    files: bool,
    sink: &mut dyn Sink,
) -> Result<Capability, Error> {
    let mut captured = None;
    let file = reference(held, path)?;
    if files && held.is_writable() {
        captured = Some(content::store(held, file.identity.len_bytes, false, sink)?);
    }
    let position = position(held)?;
    Ok(Capability::Regular(RegularFile {
        content: Content::Named { file, captured, digest: None },
        position,
    }))
}

/// Captures a file without a name.
pub(super) fn capture_unnamed(held: &Held, path: BytePath, sink: &mut dyn Sink) -> Result<Unnamed, Error> {
    let stat = rustix::fs::fstat(&held.fd).map_err(|e| held.error(e))?;
    let identity = identity(&stat);
    let marks = marks(held.fd.as_fd(), &stat).map_err(|e| held.error(e))?;
    let pages = content::store(held, identity.len_bytes, false, sink)?;
    Ok(Unnamed { path, identity, pages, marks: Some(marks) })
}

/// Captures a description of a file without a name.
pub(super) fn capture_of_unnamed(held: &Held, object: ObjectId) -> Result<Capability, Error> {
    Ok(Capability::Regular(RegularFile { content: Content::Unnamed(object), position: position(held)? }))
}

fn position(held: &Held) -> Result<u64, Error> {
    if held.flags.contains(OFlags::PATH) { Ok(0) } else { Ok(held.info()?.position()) }
}
