//! Fanotify groups: what they watch, and whether that can be watched again.

use super::held::Place;
use super::inotify::Finder;
use super::recognise::{CLOSE_FIRST, Refusal};
use super::{Error, Held};
use frost_model::cap::{Fanotify, FanotifyMark, FanotifyTarget, MountPoint};
use frost_model::{BytePath, Obstacle, Pid};
use frost_sys::fanotify::{self, Marked, PERMISSIONS};
use frost_sys::fdinfo::FdInfos;
use frost_sys::mounts::{self, Mount};
use rustix::fd::AsFd;

/// FAN_UNLIMITED_QUEUE.
const UNLIMITED_QUEUE: u32 = 0x10;
/// FAN_CLASS_CONTENT, FAN_CLASS_PRE_CONTENT, FAN_UNLIMITED_QUEUE, FAN_UNLIMITED_MARKS, FAN_REPORT_PIDFD, FAN_REPORT_TID and
/// FAN_REPORT_FD_ERROR: FANOTIFY_ADMIN_INIT_FLAGS of include/linux/fanotify.h.
const OF_ROOT: u32 = 0x21bc;
/// FAN_REPORT_FID and FAN_REPORT_DIR_FID, one of which a group that was made without CAP_SYS_ADMIN has.
const HANDLES: u32 = 0x600;
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Reads the marks of a group and finds what they are of. `holders` are the processes that have it.
pub(super) fn look(
    group: &Held,
    held: &[Held],
    holders: &[Pid],
    finder: &mut Finder,
) -> Result<Result<Fanotify, Refusal>, Error> {
    // First, before our own looking adds to it.
    let queued = fanotify::waiting(group.fd.as_fd()).map_err(|e| group.error(e))? != 0;
    let shown = fanotify::group(&group.info()?).ok_or_else(|| Error::Refused { object: group.describe() })?;
    if shown.marks.iter().any(|mark| mark.mask & PERMISSIONS != 0) {
        return Ok(Err(decides()));
    }
    if shown.marks.iter().any(|mark| mark.of == Marked::Other) {
        return Ok(Err(Refusal::new(
            "fanotify group that watches a mount namespace",
            "mounts are told of by numbers, which are others after a thaw",
            "let the program remove these marks first",
        )));
    }
    if queued && shown.flags & UNLIMITED_QUEUE != 0 {
        return Ok(Err(Refusal::passing(
            "fanotify group with FAN_UNLIMITED_QUEUE and unread events",
            "they cannot be put back, and a queue without a limit cannot tell that some were lost",
            "try again in a moment, when the program has read them",
        )));
    }
    let asks_for_rights = shown.flags & OF_ROOT != 0 || shown.flags & HANDLES == 0;
    if asks_for_rights && !is_admin(std::process::id() as i32) {
        return Ok(Err(Refusal::new(
            "fanotify group of a kind that only root makes",
            "you could not make it again",
            "freeze and thaw it as root",
        )));
    }
    let files = shown.marks.iter().filter_map(|mark| match &mark.of {
        Marked::File(file) => Some(file.clone()),
        _ => None,
    });
    let files: Vec<_> = files.collect();
    let mut targets = finder.targets(&files, held).into_iter();
    let mounts = mounts::of(&group.place.pid.raw().to_string());
    let mut marks = Vec::with_capacity(shown.marks.len());
    for mark in shown.marks {
        let (target, object, remedy) = match mark.of {
            Marked::File(file) => (
                targets.next().flatten().map(FanotifyTarget::File),
                format!("inode {} of device {}:{}", file.inode, file.device >> 20, file.device & 0xf_ffff),
                "freeze it as root, or let the program remove the mark",
            ),
            Marked::Mount(id) => (
                seen(&mounts, |mount| mount.id == id).map(FanotifyTarget::Mount),
                format!("mount {id}"),
                "let the program remove the mark",
            ),
            Marked::FileSystem(device) => (
                seen(&mounts, |mount| mount.device == device).map(FanotifyTarget::FileSystem),
                format!("the file system of device {}:{}", device >> 20, device & 0xf_ffff),
                "let the program remove the mark",
            ),
            Marked::Other => (None, "something unknown".to_owned(), CLOSE_FIRST),
        };
        let Some(target) = target else {
            return Ok(Err(Refusal::new(
                format!("fanotify group with a mark of {object}"),
                "where that lies was not found",
                remedy,
            )));
        };
        marks.push(FanotifyMark { flags: mark.flags, mask: mark.mask, ignored: mark.ignored, target });
    }
    // FANOTIFY_UNPRIV is not shown, and nothing that can be asked of a group depends on it but what is read.
    let privileged = asks_for_rights || holders.iter().any(|pid| is_admin(pid.raw()));
    let (flags, event_flags) = (shown.flags, shown.event_flags);
    Ok(Ok(Fanotify { flags, event_flags, privileged, marks, queued }))
}

fn decides() -> Refusal {
    Refusal::new(
        "fanotify group that decides who may open files (FAN_OPEN_PERM and others)",
        "whoever opens such a file waits for its answer, a freeze or thaw as well, and what it has not answered yet the \
         kernel tells nobody",
        "let the program remove these marks first",
    )
}

/// Finds a group of a tree that runs which decides who may open files. Once it stands still it does not answer, and we would
/// wait for it as soon as we open one.
pub(crate) fn deciding(root: i32) -> Option<Obstacle> {
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        let open = frost_sys::proc::open_files(pid).unwrap_or_default();
        for (number, _) in open.into_iter().filter(|(_, link)| link == b"anon_inode:[fanotify]") {
            let info = FdInfos::of(pid).and_then(|mut infos| infos.read(number));
            let group = info.ok().and_then(|info| fanotify::group(&info));
            if group.is_some_and(|group| group.marks.iter().any(|mark| mark.mask & PERMISSIONS != 0)) {
                let command = frost_sys::proc::stat(pid).map(|stat| stat.comm).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).into_owned();
                let place = Place { pid: Pid::new(pid), command, number: Some(number) };
                return Some(super::obstacle(&place, decides()));
            }
        }
        todo.extend(frost_sys::proc::children(pid).unwrap_or_default());
    }
    None
}

/// Whether a process has CAP_SYS_ADMIN where we are, not only in a user namespace of its own.
fn is_admin(pid: i32) -> bool {
    let namespace = |of: &str| rustix::fs::readlink(format!("/proc/{of}/ns/user"), Vec::new()).ok();
    namespace(&pid.to_string()) == namespace("self")
        && frost_sys::proc::status(pid).is_ok_and(|status| status.cap_effective & CAP_SYS_ADMIN != 0)
}

/// Finds a mount that is not hidden by another one at its place.
fn seen(mounts: &[Mount], is_meant: impl Fn(&Mount) -> bool) -> Option<MountPoint> {
    let is_seen = |(index, mount): &(usize, &Mount)| {
        is_meant(mount) && !mounts[index + 1..].iter().any(|later| later.path == mount.path)
    };
    let (_, mount) = mounts.iter().enumerate().find(is_seen)?;
    Some(MountPoint {
        path: BytePath::new(mount.path.clone()),
        root: BytePath::new(mount.root.clone()),
        file_system: mount.file_system.clone(),
        source: BytePath::new(mount.source.clone()),
    })
}
