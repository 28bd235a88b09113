//! Fanotify groups, for those who may make them.

use crate::Victim;
use crate::call::{c, is_in_call, open, read_some, until, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{
    FAN_CREATE, FAN_DELETE, FAN_EVENT_ON_CHILD, FAN_MARK_ADD, FAN_MARK_FILESYSTEM, FAN_MARK_IGNORED_MASK,
    FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_MOUNT, FAN_MODIFY, FAN_ONDIR, FAN_OPEN, FAN_OPEN_PERM,
    FAN_Q_OVERFLOW, FAN_REPORT_DIR_FID, FAN_REPORT_FID, FAN_REPORT_NAME,
};
use std::path::{Path, PathBuf};

pub(crate) const VICTIMS: &[Victim] = &[
    ("fanotify_marks", marks),
    ("fanotify_ignored", ignored),
    ("fanotify_queued", queued),
    ("fanotify_queued_directories", queued_directories),
    ("fanotify_changed", changed),
    ("fanotify_deleted", deleted),
    ("fanotify_epoll", epoll),
    ("fanotify_blocked_reader", blocked_reader),
    ("fanotify_shared", shared),
    ("fanotify_mounts", mounts),
    ("fanotify_files", files),
    ("fanotify_unlimited", unlimited),
    ("fanotify_unlimited_queued", unlimited_queued),
    ("fanotify_permission", permission),
];

/// FAN_MARK_EVICTABLE and FAN_MARK_IGNORE of Linux 5.19 and 6.0.
const EVICTABLE: u32 = 0x200;
const IGNORE: u32 = 0x400;

/// Makes a group; none where that is refused.
fn group(flags: u32) -> Option<i32> {
    let fd = unsafe { libc::fanotify_init(flags | libc::FAN_CLOEXEC, libc::O_RDONLY as u32) };
    if fd < 0 {
        eprintln!("skipped: {}", std::io::Error::last_os_error());
    }
    (fd >= 0).then_some(fd)
}

/// One that tells of names, as an ordinary user may make it.
fn of_names() -> Option<i32> {
    group(FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME | libc::FAN_NONBLOCK)
}

fn mark(fd: i32, flags: u32, mask: u64, path: &Path) -> Result<(), String> {
    let path = c(&path.to_string_lossy());
    sys!(fanotify_mark(fd, FAN_MARK_ADD | flags, mask, libc::AT_FDCWD, path.as_ptr())).map(|_| ())
}

/// The masks of all that waits, and of whom the kernel tells the number.
fn events(fd: i32) -> Result<Vec<(u64, i32)>, String> {
    let mut all = Vec::new();
    loop {
        let mut waiting = 0;
        sys!(ioctl(fd, libc::FIONREAD, &mut waiting))?;
        if waiting == 0 {
            return Ok(all);
        }
        // What is told to wait leaves out all but the first part of each event.
        let bytes = read_some(fd, 8192)?;
        let mut rest = &bytes[..];
        while rest.len() >= 24 {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap_or_default());
            all.push((u64::from(word(8)) | u64::from(word(12)) << 32, word(20) as i32));
            let opened = word(16) as i32;
            if opened >= 0 {
                sys!(close(opened))?;
            }
            rest = &rest[word(0) as usize..];
        }
    }
}

fn masks(fd: i32) -> Result<Vec<u64>, String> {
    Ok(events(fd)?.into_iter().map(|(mask, _)| mask).collect())
}

/// What the kernel tells of a group.
fn shown(fd: i32) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).map_err(|e| e.to_string())?;
    let mut lines: Vec<String> =
        text.lines().filter(|line| line.starts_with("fanotify ")).map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn directory(stage: &Stage) -> Result<PathBuf, String> {
    let path = stage.path("watched");
    std::fs::create_dir(&path).map_err(|e| e.to_string())?;
    Ok(path)
}

fn file(path: &Path) -> Verdict {
    std::fs::write(path, b"x").map_err(|e| e.to_string())
}

/// Checks that nothing waits after a freeze. Returns whether this is a copy, which is told that events were lost.
fn settled(stage: &Stage, fd: i32) -> Result<bool, String> {
    let mut seen = masks(fd)?;
    if stage.was_copied() {
        seen.retain(|mask| *mask != FAN_Q_OVERFLOW);
    }
    same!(seen, [], "events of the freeze");
    Ok(stage.was_copied())
}

fn marks(stage: &Stage) -> Verdict {
    let Some(fd) = of_names() else { return stage.freeze_here() };
    let inside = directory(stage)?;
    file(&inside.join("old"))?;
    mark(fd, 0, FAN_CREATE | FAN_DELETE | FAN_MODIFY | FAN_ONDIR | FAN_EVENT_ON_CHILD, &inside)?;
    mark(fd, 0, libc::FAN_ATTRIB, &inside.join("old"))?;
    let before = shown(fd)?;
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    same!(shown(fd)?, before, "the marks");
    file(&inside.join("new"))?;
    let own = std::process::id() as i32;
    let seen = events(fd)?;
    same!(seen, [(FAN_CREATE, own), (FAN_MODIFY, own)], "events");
    std::fs::create_dir(inside.join("more")).map_err(|e| e.to_string())?;
    same!(masks(fd)?, [FAN_CREATE | FAN_ONDIR], "a directory");
    let path = c(&inside.to_string_lossy());
    sys!(fanotify_mark(fd, libc::FAN_MARK_REMOVE, FAN_CREATE, libc::AT_FDCWD, path.as_ptr()))?;
    file(&inside.join("newer"))?;
    same!(masks(fd)?, [FAN_MODIFY], "after a mark was made smaller");
    Ok(())
}

fn ignored(stage: &Stage) -> Verdict {
    let Some(fd) = of_names() else { return stage.freeze_here() };
    let inside = directory(stage)?;
    for name in ["surviving", "old", "new", "evictable"] {
        file(&inside.join(name))?;
    }
    mark(fd, 0, FAN_MODIFY | FAN_OPEN | FAN_EVENT_ON_CHILD, &inside)?;
    mark(fd, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_MODIFY, &inside.join("surviving"))?;
    mark(fd, FAN_MARK_IGNORED_MASK, FAN_OPEN, &inside.join("old"))?;
    mark(fd, IGNORE | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN, &inside.join("new"))?;
    // Neither is there on old kernels.
    let _ = mark(fd, EVICTABLE, FAN_MODIFY, &inside.join("evictable"));
    let before = shown(fd)?;
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    same!(shown(fd)?, before, "the marks");
    file(&inside.join("surviving"))?;
    same!(masks(fd)?, [FAN_OPEN], "a file of which changes are ignored");
    file(&inside.join("new"))?;
    same!(masks(fd)?, [FAN_MODIFY], "a file of which openings are ignored");
    Ok(())
}

/// What waited cannot be put back: the program is told that events were lost, once and at first.
fn queued_in(stage: &Stage, fd: i32, event: u64) -> Verdict {
    let inside = directory(stage)?;
    mark(fd, 0, FAN_CREATE | FAN_DELETE | FAN_ONDIR, &inside)?;
    file(&inside.join("a"))?;
    stage.freeze_here()?;
    if stage.was_copied() {
        return settled(stage, fd).map(|_| ());
    }
    let expected = if stage.was_thawed() { FAN_Q_OVERFLOW } else { event };
    same!(masks(fd)?, [expected], "what waited");
    std::fs::remove_file(inside.join("a")).map_err(|e| e.to_string())?;
    same!(masks(fd)?, [FAN_DELETE], "what happened then");
    Ok(())
}

fn queued(stage: &Stage) -> Verdict {
    let Some(fd) = of_names() else { return stage.freeze_here() };
    queued_in(stage, fd, FAN_CREATE)
}

/// One that tells of directories only.
fn queued_directories(stage: &Stage) -> Verdict {
    let Some(fd) = group(FAN_REPORT_DIR_FID | FAN_REPORT_NAME) else { return stage.freeze_here() };
    queued_in(stage, fd, FAN_CREATE)
}

/// `go` is made in this directory while the program is away.
fn changed(stage: &Stage) -> Verdict {
    let Some(fd) = of_names() else { return stage.freeze_here() };
    mark(fd, 0, FAN_CREATE, &stage.path("."))?;
    // Not freeze_here: the protocol makes files in this directory.
    stage.ready();
    stage.wait();
    let seen = masks(fd)?;
    check!(!seen.is_empty() || !stage.was_thawed(), "nothing told of it");
    check!(seen.iter().filter(|mask| **mask == FAN_Q_OVERFLOW).count() <= 1, "told twice: {seen:?}");
    Ok(())
}

/// A file that has no name any more is still watched while it is open.
fn deleted(stage: &Stage) -> Verdict {
    let Some(fd) = group(FAN_REPORT_FID | libc::FAN_NONBLOCK) else { return stage.freeze_here() };
    file(&stage.path("unnamed"))?;
    let opened = open(&stage.path("unnamed"), libc::O_RDWR)?;
    std::fs::remove_file(stage.path("unnamed")).map_err(|e| e.to_string())?;
    mark(fd, 0, FAN_MODIFY, Path::new(&format!("/proc/self/fd/{opened}")))?;
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    write_all(opened, b"1")?;
    same!(masks(fd)?, [FAN_MODIFY], "the event");
    Ok(())
}

fn epoll(stage: &Stage) -> Verdict {
    let Some(fd) = of_names() else { return stage.freeze_here() };
    let inside = directory(stage)?;
    mark(fd, 0, FAN_CREATE, &inside)?;
    let epoll = sys!(epoll_create1(0))?;
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 3 };
    sys!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event))?;
    let other = sys!(dup(fd))?;
    stage.freeze_here()?;
    if stage.was_copied() {
        return settled(stage, fd).map(|_| ());
    }
    let mut ready: [libc::epoll_event; 2] = zeroed();
    same!(sys!(epoll_wait(epoll, ready.as_mut_ptr(), 2, 0))?, 0, "what is ready");
    file(&inside.join("a"))?;
    same!(sys!(epoll_wait(epoll, ready.as_mut_ptr(), 2, 1000))?, 1, "what is ready then");
    same!(masks(other)?, [FAN_CREATE], "the event by the other number");
    same!(masks(fd)?, [], "what is left");
    Ok(())
}

fn blocked_reader(stage: &Stage) -> Verdict {
    let Some(fd) = group(FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME) else {
        return stage.freeze_here();
    };
    let inside = directory(stage)?;
    mark(fd, 0, FAN_CREATE, &inside)?;
    let child = stage.fork(|| {
        let bytes = read_some(fd, 4096)?;
        stage.wait();
        let told = stage.was_copied() && bytes[8..16] == FAN_Q_OVERFLOW.to_ne_bytes();
        check!(bytes[8..16] == FAN_CREATE.to_ne_bytes() || told, "what woke it: {bytes:?}");
        Ok(())
    })?;
    until("the child reads", || is_in_call(child, libc::SYS_read))?;
    stage.freeze_here()?;
    if !stage.was_copied() {
        until("the child waits on", || is_in_call(child, libc::SYS_read))?;
        file(&inside.join("a"))?;
    }
    stage.reap(child)
}

/// Two groups mark one directory; one is shared with a child, the other is the child's only.
fn shared(stage: &Stage) -> Verdict {
    let (Some(both), Some(of_child)) = (of_names(), of_names()) else { return stage.freeze_here() };
    let inside = directory(stage)?;
    mark(both, 0, FAN_CREATE, &inside)?;
    mark(of_child, 0, FAN_DELETE, &inside)?;
    let child = stage.fork(|| {
        stage.wait();
        if stage.was_copied() {
            return settled(stage, of_child).map(|_| ());
        }
        file(&inside.join("a"))?;
        std::fs::remove_file(inside.join("a")).map_err(|e| e.to_string())?;
        same!(masks(of_child)?, [FAN_DELETE], "the event of the child");
        Ok(())
    })?;
    sys!(close(of_child))?;
    stage.freeze_here()?;
    stage.reap(child)?;
    if !stage.was_copied() {
        same!(masks(both)?, [FAN_CREATE], "the event of both");
    }
    Ok(())
}

/// Only root may mark mounts and file systems. What others do there is told too.
fn mounts(stage: &Stage) -> Verdict {
    let Some(of_mount) = group(libc::FAN_NONBLOCK) else { return stage.freeze_here() };
    let Some(of_file_system) = of_names() else { return stage.freeze_here() };
    let memory = Path::new("/dev/shm");
    mark(of_mount, FAN_MARK_MOUNT, FAN_OPEN, memory)?;
    mark(of_file_system, FAN_MARK_FILESYSTEM, FAN_CREATE | FAN_EVENT_ON_CHILD, memory)?;
    // A copy has mounts of its own, with other numbers.
    let told = || {
        let mut lines = [shown(of_mount)?, shown(of_file_system)?].concat();
        for line in &mut lines {
            *line = line.split(' ').filter(|word| !word.starts_with("mnt_id:")).collect::<Vec<_>>().join(" ");
        }
        Ok::<_, String>(lines)
    };
    let before = told()?;
    stage.freeze_here()?;
    same!(told()?, before, "the marks");
    for group in [of_mount, of_file_system] {
        let told = masks(group)?.contains(&FAN_Q_OVERFLOW);
        check!(told || !stage.was_thawed(), "not told that events were lost");
    }
    let path = memory.join(format!("frost-fanotify-{}", std::process::id()));
    file(&path)?;
    let seen = (events(of_mount)?, events(of_file_system)?);
    std::fs::remove_file(&path).map_err(|e| e.to_string())?;
    let own = std::process::id() as i32;
    check!(seen.0.contains(&(FAN_OPEN, own)), "events of a mount: {:?}", seen.0);
    check!(seen.1.contains(&(FAN_CREATE, own)), "events of a file system: {:?}", seen.1);
    Ok(())
}

/// Only root may be given open files.
fn files(stage: &Stage) -> Verdict {
    let Some(fd) = group(libc::FAN_CLASS_CONTENT | libc::FAN_NONBLOCK) else { return stage.freeze_here() };
    let inside = directory(stage)?;
    file(&inside.join("a"))?;
    file(&inside.join("b"))?;
    mark(fd, 0, FAN_MODIFY, &inside.join("a"))?;
    let Some(other) = group(0) else { return Err("no second group".to_owned()) };
    mark(other, 0, FAN_MODIFY, &inside.join("b"))?;
    file(&inside.join("b"))?;
    stage.freeze_here()?;
    if stage.was_copied() {
        return settled(stage, fd).map(|_| ());
    }
    same!(masks(fd)?, [], "events of the freeze");
    let expected = if stage.was_thawed() { FAN_Q_OVERFLOW } else { FAN_MODIFY };
    same!(masks(other)?, [expected], "what waited");
    file(&inside.join("a"))?;
    same!(events(fd)?, [(FAN_MODIFY, std::process::id() as i32)], "the event");
    Ok(())
}

fn unlimited(stage: &Stage) -> Verdict {
    let Some(fd) = group(libc::FAN_UNLIMITED_QUEUE | libc::FAN_UNLIMITED_MARKS) else {
        return stage.freeze_here();
    };
    let inside = directory(stage)?;
    file(&inside.join("a"))?;
    mark(fd, 0, FAN_MODIFY, &inside.join("a"))?;
    let before = shown(fd)?;
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    same!(shown(fd)?, before, "the group");
    file(&inside.join("a"))?;
    same!(masks(fd)?, [FAN_MODIFY], "the event");
    Ok(())
}

fn unlimited_queued(stage: &Stage) -> Verdict {
    let Some(fd) = group(libc::FAN_UNLIMITED_QUEUE) else { return stage.freeze_here() };
    let inside = directory(stage)?;
    file(&inside.join("a"))?;
    mark(fd, 0, FAN_MODIFY, &inside.join("a"))?;
    file(&inside.join("a"))?;
    stage.freeze_here()?;
    same!(masks(fd)?, [FAN_MODIFY], "the event");
    Ok(())
}

fn permission(stage: &Stage) -> Verdict {
    let Some(fd) = group(libc::FAN_CLASS_CONTENT | libc::FAN_NONBLOCK) else { return stage.freeze_here() };
    let inside = directory(stage)?;
    file(&inside.join("a"))?;
    mark(fd, 0, FAN_OPEN_PERM, &inside.join("a"))?;
    stage.freeze_here()?;
    same!(masks(fd)?, [], "what is asked");
    Ok(())
}
