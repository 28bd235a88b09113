//! Where the program stands in the file system.

use crate::Victim;
use crate::call::c;
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("place_directory", directory),
    ("place_deleted_directory", deleted_directory),
    ("place_deleted_with_parent", deleted_with_parent),
    ("place_deleted_root", deleted_root),
    ("place_umask", umask),
    ("place_root", root),
    ("place_of_process", of_process),
];

fn directory(stage: &Stage) -> Verdict {
    let inner = stage.path("a directory\nwith an odd name");
    std::fs::create_dir(&inner).map_err(|why| why.to_string())?;
    std::env::set_current_dir(&inner).map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    std::fs::write("inside", "x").map_err(|why| why.to_string())?;
    check!(inner.join("inside").exists(), "a relative path leads elsewhere");
    Ok(())
}

/// The directory of a process; refused.
fn of_process(stage: &Stage) -> Verdict {
    std::env::set_current_dir("/proc/self").map_err(|why| why.to_string())?;
    stage.freeze_here()
}

/// A working directory that was removed.
fn deleted_directory(stage: &Stage) -> Verdict {
    let inner = stage.path("gone");
    std::fs::create_dir(&inner).map_err(|why| why.to_string())?;
    std::env::set_current_dir(&inner).map_err(|why| why.to_string())?;
    std::fs::remove_dir(&inner).map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    check!(
        sys!(open(c"file".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600)).is_err(),
        "a file can be made in it"
    );
    check!(!inner.exists(), "it has its name again");
    let mut stat: libc::stat = crate::call::zeroed();
    sys!(stat(c".".as_ptr(), &mut stat))?;
    same!(stat.st_nlink, 0, "how many names it has");
    sys!(chdir(c"..".as_ptr()))?;
    same!(
        std::env::current_dir().map_err(|why| why.to_string())?,
        inner.parent().unwrap_or(&inner),
        "what is above it"
    );
    Ok(())
}

/// The directory above was removed as well, and another one has the name of the directory by now.
fn deleted_with_parent(stage: &Stage) -> Verdict {
    let inner = stage.path("above/gone");
    let taken = stage.path("taken");
    for path in [&inner, &taken] {
        std::fs::create_dir_all(path).map_err(|why| why.to_string())?;
    }
    std::env::set_current_dir(&inner).map_err(|why| why.to_string())?;
    let other = crate::call::open(&taken, libc::O_RDONLY | libc::O_DIRECTORY)?;
    for path in [&inner, &stage.path("above"), &taken] {
        std::fs::remove_dir(path).map_err(|why| why.to_string())?;
    }
    std::fs::create_dir(&taken).map_err(|why| why.to_string())?;
    stage.freeze_without_facts()?;
    for fd in [other, libc::AT_FDCWD] {
        check!(
            sys!(openat(fd, c"file".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600)).is_err(),
            "a file can be made in it"
        );
    }
    check!(!stage.path("above").exists(), "the directory above it has its name again");
    let there = std::fs::read_dir(stage.path("")).map_err(|why| why.to_string())?;
    let strange = there.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(".frost"));
    check!(strange.is_none(), "{strange:?} was left behind");
    Ok(())
}

/// The root of a child is a directory that was removed.
fn deleted_root(stage: &Stage) -> Verdict {
    use std::sync::atomic::Ordering::SeqCst;
    let jail = stage.path("jail");
    std::fs::create_dir(&jail).map_err(|why| why.to_string())?;
    let words = crate::call::shared_words::<2>()?;
    let child = stage.fork(|| {
        let path = c(&jail.to_string_lossy());
        let jailed = sys!(chroot(path.as_ptr())).is_ok() && sys!(chdir(c"/".as_ptr())).is_ok();
        words[0].store(if jailed { 1 } else { 2 }, SeqCst);
        crate::call::until("the parent goes on", || words[1].load(SeqCst) == 1)?;
        check!(!jailed || sys!(access(c"/bin".as_ptr(), libc::F_OK)).is_err(), "the root is another one");
        Ok(())
    })?;
    crate::call::until("the child stands", || words[0].load(SeqCst) != 0)?;
    std::fs::remove_dir(&jail).map_err(|why| why.to_string())?;
    if words[0].load(SeqCst) == 2 {
        eprintln!("skipped: only root can change its root");
    }
    let seen = stage.freeze_here();
    words[1].store(1, SeqCst);
    seen?;
    stage.reap(child)
}

fn umask(stage: &Stage) -> Verdict {
    unsafe { libc::umask(0o137) };
    stage.freeze_here()?;
    let path = c(&stage.path("made").to_string_lossy());
    let fd = sys!(open(path.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o777))?;
    let mut stat: libc::stat = crate::call::zeroed();
    sys!(fstat(fd, &mut stat))?;
    same!(stat.st_mode & 0o777, 0o640, "the mode of a new file");
    Ok(())
}

/// A root of its own, by a child, since the protocol's paths are outside of it.
fn root(stage: &Stage) -> Verdict {
    let jail = stage.path("jail");
    std::fs::create_dir(&jail).map_err(|why| why.to_string())?;
    std::fs::write(jail.join("inside"), "x").map_err(|why| why.to_string())?;
    let words = crate::call::shared_words::<2>()?;
    use std::sync::atomic::Ordering::SeqCst;
    let child = stage.fork(|| {
        let path = c(&jail.to_string_lossy());
        let jailed = sys!(chroot(path.as_ptr())).is_ok() && sys!(chdir(c"/".as_ptr())).is_ok();
        words[0].store(if jailed { 1 } else { 2 }, SeqCst);
        crate::call::until("the parent goes on", || words[1].load(SeqCst) == 1)?;
        check!(!jailed || sys!(access(c"/inside".as_ptr(), libc::F_OK)).is_ok(), "the root is another one");
        Ok(())
    })?;
    crate::call::until("the child stands", || words[0].load(SeqCst) != 0)?;
    if words[0].load(SeqCst) == 2 {
        eprintln!("skipped: only root can change its root");
    }
    let seen = stage.freeze_here();
    words[1].store(1, SeqCst);
    seen?;
    stage.reap(child)
}
