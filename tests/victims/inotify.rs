//! Inotify instances.

use crate::Victim;
use crate::call::{c, is_in_call, open, read_some, until, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{
    IN_ALL_EVENTS, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_EXCL_UNLINK, IN_IGNORED, IN_MODIFY, IN_ONESHOT,
    IN_Q_OVERFLOW,
};
use std::path::{Path, PathBuf};

pub(crate) const VICTIMS: &[Victim] = &[
    ("inotify_watches", watches),
    ("inotify_numbers", numbers),
    ("inotify_flags", flags),
    ("inotify_queued", queued),
    ("inotify_changed", changed),
    ("inotify_gone", gone),
    ("inotify_epoll", epoll),
    ("inotify_blocked_reader", blocked_reader),
    ("inotify_deleted", deleted),
    ("inotify_closed_number", closed_number),
    ("inotify_elsewhere", elsewhere),
    ("inotify_replaced", replaced),
];

/// What an event says: watch, mask, name.
type Event = (i32, u32, String);

fn instance() -> Result<i32, String> {
    sys!(inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC))
}

fn watch(fd: i32, path: &Path, mask: u32) -> Result<i32, String> {
    let path = c(&path.to_string_lossy());
    sys!(inotify_add_watch(fd, path.as_ptr(), mask))
}

/// All that waits.
fn events(fd: i32) -> Result<Vec<Event>, String> {
    let mut all = Vec::new();
    loop {
        let mut waiting = 0;
        sys!(ioctl(fd, libc::FIONREAD, &mut waiting))?;
        if waiting == 0 {
            return Ok(all);
        }
        let bytes = read_some(fd, waiting as usize)?;
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap_or_default());
            let name_end = 16 + word(12) as usize;
            let name = String::from_utf8_lossy(&rest[16..name_end]).trim_end_matches('\0').to_owned();
            all.push((word(0) as i32, word(4), name));
            rest = &rest[name_end..];
        }
    }
}

fn directory(stage: &Stage, name: &str) -> Result<PathBuf, String> {
    let path = stage.path(name);
    std::fs::create_dir(&path).map_err(|e| e.to_string())?;
    Ok(path)
}

fn file(path: &Path) -> Verdict {
    std::fs::write(path, b"x").map_err(|e| e.to_string())
}

fn watches(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let inside = directory(stage, "watched")?;
    file(&inside.join("old"))?;
    let in_directory = watch(fd, &inside, IN_CREATE | IN_DELETE)?;
    let of_file = watch(fd, &inside.join("old"), IN_MODIFY)?;
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    file(&inside.join("new"))?;
    file(&inside.join("old"))?;
    std::fs::remove_file(inside.join("new")).map_err(|e| e.to_string())?;
    let expected = [
        (in_directory, IN_CREATE, "new".to_owned()),
        (of_file, IN_MODIFY, String::new()),
        (in_directory, IN_DELETE, "new".to_owned()),
    ];
    same!(events(fd)?, expected, "events");
    sys!(inotify_rm_watch(fd, of_file))?;
    same!(events(fd)?, [(of_file, IN_IGNORED, String::new())], "the end of a watch");
    Ok(())
}

/// Numbers are not used again, so those of a program that runs for long have gaps.
fn numbers(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let inside = directory(stage, "watched")?;
    let mut kept = Vec::new();
    for number in 1..=9000 {
        let path = inside.join(number.to_string());
        if number % 1000 == 0 {
            file(&path)?;
            kept.push((watch(fd, &path, IN_MODIFY)?, path));
        } else {
            let wd = watch(fd, &inside, IN_DELETE_SELF)?;
            sys!(inotify_rm_watch(fd, wd))?;
        }
    }
    let before = events(fd)?;
    same!(before.len(), 8991, "how many ended");
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    for (wd, path) in kept {
        file(&path)?;
        same!(events(fd)?, [(wd, IN_MODIFY, String::new())], "the event of {}", path.display());
    }
    let next = watch(fd, &inside, IN_CREATE)?;
    same!(next, 9001, "the next number");
    Ok(())
}

fn flags(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let inside = directory(stage, "watched")?;
    file(&inside.join("open"))?;
    let once = watch(fd, stage.path("watched/open").as_path(), IN_MODIFY | IN_ONESHOT)?;
    let unlinked = watch(fd, &inside, IN_MODIFY | IN_EXCL_UNLINK)?;
    check!(unlinked != once, "one number for two");
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    let opened = open(&inside.join("open"), libc::O_WRONLY)?;
    std::fs::remove_file(inside.join("open")).map_err(|e| e.to_string())?;
    write_all(opened, b"1")?;
    write_all(opened, b"2")?;
    let expected = [(once, IN_MODIFY, String::new()), (once, IN_IGNORED, String::new())];
    same!(events(fd)?, expected, "one event, and none of a file that was unlinked");
    Ok(())
}

/// Checks that nothing waits after a freeze. Returns whether this is a copy: the program that went on has changed the
/// files meanwhile, so it is told that events were lost and what was deleted, and nothing else.
fn settled(stage: &Stage, fd: i32) -> Result<bool, String> {
    let mut seen = events(fd)?;
    if stage.was_copied() {
        seen.retain(|(_, mask, _)| mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_IGNORED) == 0);
    }
    same!(seen, [], "events of the freeze");
    Ok(stage.was_copied())
}

fn lost() -> Event {
    (-1, IN_Q_OVERFLOW, String::new())
}

/// What waited cannot be put back: the program is told that events were lost, once and at first.
fn queued(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let inside = directory(stage, "watched")?;
    let wd = watch(fd, &inside, IN_CREATE | IN_DELETE)?;
    file(&inside.join("a"))?;
    file(&inside.join("b"))?;
    stage.freeze_here()?;
    if stage.was_copied() {
        return settled(stage, fd).map(|_| ());
    }
    let expected = match stage.was_thawed() {
        true => vec![lost()],
        false => vec![(wd, IN_CREATE, "a".to_owned()), (wd, IN_CREATE, "b".to_owned())],
    };
    same!(events(fd)?, expected, "what waited");
    std::fs::remove_file(inside.join("a")).map_err(|e| e.to_string())?;
    same!(events(fd)?, [(wd, IN_DELETE, "a".to_owned())], "what happened then");
    Ok(())
}

/// `go` is made in this directory while the program is away.
fn changed(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let wd = watch(fd, &stage.path("."), IN_CREATE)?;
    // Not freeze_here: the protocol makes files in this directory.
    stage.ready();
    stage.wait();
    let seen = events(fd)?;
    let told = seen.contains(&lost())
        || seen.iter().any(|(number, _, name)| *number == wd && name.starts_with("go"));
    // Run from the start with `go` there, nothing happened.
    check!(told || !stage.was_thawed(), "nothing told of it: {seen:?}");
    check!(seen.iter().filter(|event| **event == lost()).count() <= 1, "told twice: {seen:?}");
    Ok(())
}

/// A file that was watched is gone already, and what told of it waits.
fn gone(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let inside = directory(stage, "watched")?;
    let (first, second) = (inside.join("first"), inside.join("second"));
    file(&first)?;
    file(&second)?;
    let of_first = watch(fd, &first, IN_MODIFY | IN_DELETE_SELF)?;
    let of_second = watch(fd, &second, IN_MODIFY | IN_DELETE_SELF)?;
    std::fs::remove_file(&first).map_err(|e| e.to_string())?;
    stage.freeze_here()?;
    if stage.was_copied() {
        return settled(stage, fd).map(|_| ());
    }
    let seen = events(fd)?;
    match stage.was_thawed() {
        true => same!(seen, [lost()], "what waited"),
        false => same!(
            seen,
            [(of_first, IN_DELETE_SELF, String::new()), (of_first, IN_IGNORED, String::new())],
            "what waited"
        ),
    }
    file(&second)?;
    same!(events(fd)?, [(of_second, IN_MODIFY, String::new())], "what happened then");
    Ok(())
}

fn epoll(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let inside = directory(stage, "watched")?;
    let wd = watch(fd, &inside, IN_CREATE)?;
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
    same!(events(other)?, [(wd, IN_CREATE, "a".to_owned())], "the event by the other number");
    same!(events(fd)?, [], "what is left");
    Ok(())
}

fn blocked_reader(stage: &Stage) -> Verdict {
    let fd = sys!(inotify_init1(0))?;
    let inside = directory(stage, "watched")?;
    let wd = watch(fd, &inside, IN_CREATE)?;
    let child = stage.fork(|| {
        let bytes = read_some(fd, 4096)?;
        stage.wait();
        let woken = [wd.to_ne_bytes(), IN_CREATE.to_ne_bytes()].concat();
        let told = [(-1i32).to_ne_bytes(), IN_Q_OVERFLOW.to_ne_bytes()].concat();
        check!(bytes[..8] == woken || (stage.was_copied() && bytes[..8] == told), "what woke it: {bytes:?}");
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

/// A file that has no name any more is still watched while it is open.
fn deleted(stage: &Stage) -> Verdict {
    let fd = instance()?;
    file(&stage.path("unnamed"))?;
    let opened = open(&stage.path("unnamed"), libc::O_RDWR)?;
    std::fs::remove_file(stage.path("unnamed")).map_err(|e| e.to_string())?;
    let path = PathBuf::from(format!("/proc/self/fd/{opened}"));
    let wd = watch(fd, &path, IN_MODIFY)?;
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    write_all(opened, b"1")?;
    same!(events(fd)?, [(wd, IN_MODIFY, String::new())], "the event");
    Ok(())
}

/// Two instances watch one file, one of them in a child only.
fn closed_number(stage: &Stage) -> Verdict {
    let inside = directory(stage, "watched")?;
    let (mine, of_child) = (instance()?, instance()?);
    let wd = watch(mine, &inside, IN_ALL_EVENTS)?;
    watch(of_child, &stage.path("."), IN_DELETE)?;
    let second = watch(of_child, &inside, IN_CREATE)?;
    let child = stage.fork(|| {
        stage.wait();
        let start = crate::call::monotonic();
        while crate::call::monotonic() - start < std::time::Duration::from_secs(60) {
            let seen = events(of_child)?;
            let told = stage.was_copied() && seen.contains(&lost());
            if told || seen.contains(&(second, IN_CREATE, "a".to_owned())) {
                return Ok(());
            }
            crate::call::nap(std::time::Duration::from_millis(1));
        }
        Err("no event came".to_owned())
    })?;
    sys!(close(of_child))?;
    stage.freeze_here()?;
    if !stage.was_copied() {
        file(&inside.join("a"))?;
        check!(events(mine)?.contains(&(wd, IN_CREATE, "a".to_owned())), "no event in the parent");
    }
    stage.reap(child)
}

/// Nothing that the program has open or is in leads to what it watches.
fn elsewhere(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let deep = stage.path("a/b/c");
    std::fs::create_dir_all(&deep).map_err(|e| e.to_string())?;
    file(&deep.join("file"))?;
    let wd = watch(fd, &deep.join("file"), IN_MODIFY)?;
    let in_memory = watch(fd, Path::new("/dev/shm"), IN_DELETE_SELF)?;
    let of_proc = watch(fd, Path::new("/proc/sys"), IN_DELETE_SELF)?;
    sys!(chdir(c"/".as_ptr()))?;
    stage.freeze_here()?;
    if settled(stage, fd)? {
        return Ok(());
    }
    file(&deep.join("file"))?;
    same!(events(fd)?, [(wd, IN_MODIFY, String::new())], "the event");
    for wd in [in_memory, of_proc] {
        sys!(inotify_rm_watch(fd, wd))?;
        same!(events(fd)?, [(wd, IN_IGNORED, String::new())], "the end of a watch");
    }
    Ok(())
}

/// The test replaces one file and deletes another while the program is away.
fn replaced(stage: &Stage) -> Verdict {
    let fd = instance()?;
    let inside = directory(stage, "watched")?;
    let mut wds = Vec::new();
    for (name, mask) in
        [("replaced", IN_MODIFY | IN_DELETE_SELF), ("kept", IN_MODIFY), ("deleted", IN_MODIFY)]
    {
        file(&inside.join(name))?;
        wds.push(watch(fd, &inside.join(name), mask)?);
    }
    stage.freeze_here()?;
    let seen = events(fd)?;
    if stage.was_thawed() {
        let expected = [
            (wds[0], IN_DELETE_SELF, String::new()),
            (wds[0], IN_IGNORED, String::new()),
            (wds[2], IN_IGNORED, String::new()),
        ];
        same!(seen, expected, "what it is told");
    }
    file(&inside.join("kept"))?;
    same!(events(fd)?, [(wds[1], IN_MODIFY, String::new())], "the event of the file that was kept");
    check!(
        unsafe { libc::inotify_rm_watch(fd, wds[0]) } == if stage.was_thawed() { -1 } else { 0 },
        "the watch of a file that is gone"
    );
    Ok(())
}
