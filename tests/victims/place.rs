//! Where the program stands in the file system.

use crate::Victim;
use crate::call::c;
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("place_directory", directory),
    ("place_deleted_directory", deleted_directory),
    ("place_umask", umask),
    ("place_root", root),
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

/// A working directory that was removed.
fn deleted_directory(stage: &Stage) -> Verdict {
    let inner = stage.path("gone");
    std::fs::create_dir(&inner).map_err(|why| why.to_string())?;
    std::env::set_current_dir(&inner).map_err(|why| why.to_string())?;
    std::fs::remove_dir(&inner).map_err(|why| why.to_string())?;
    stage.freeze_here()
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
