//! Programs whose binary has no name any more, or never had one.

use crate::Victim;
use crate::call::c;
use crate::stage::{Stage, Verdict};
use std::ffi::CString;
use std::path::Path;

pub(crate) const VICTIMS: &[Victim] = &[
    ("binary_deleted", deleted),
    ("binary_replaced", replaced),
    ("binary_linked", linked),
    ("binary_denoted", denoted),
    ("binary_memory", memory),
    ("binary_memory_open", memory_open),
];

pub(crate) const SELF: &str = "/proc/self/exe";

/// Says that we were executed once more.
const COPIED: &str = "FROST_VICTIM_COPIED";

fn text(why: impl std::fmt::Display) -> String {
    why.to_string()
}

/// Executes the victim that we are once more, from the file behind a path.
pub(crate) fn execute(path: &str) -> Verdict {
    let words: Vec<CString> = std::env::args().map(|word| c(&word)).collect();
    let mut words: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    words.push(std::ptr::null());
    let variable = c(&format!("{COPIED}=1"));
    let variables = [variable.as_ptr(), std::ptr::null()];
    sys!(execve(c(path).as_ptr(), words.as_ptr(), variables.as_ptr())).map(drop)
}

pub(crate) fn was_copied() -> bool {
    std::env::var_os(COPIED).is_some()
}

/// Goes on as a copy of our binary, of which the path is returned.
fn go_on_as_copy(stage: &Stage) -> Result<std::path::PathBuf, String> {
    let path = stage.path("binary");
    if !was_copied() {
        std::fs::copy(SELF, &path).map_err(text)?;
        execute(&path.to_string_lossy())?;
    }
    Ok(path)
}

/// That the binary is what it was, and can be executed.
fn same_binary(stage: &Stage, wait: fn(&Stage) -> Verdict) -> Verdict {
    let digest = || -> Result<_, String> {
        let bytes = std::fs::read(SELF).map_err(text)?;
        let sum = bytes.iter().fold(5381_u64, |sum, byte| sum.wrapping_mul(33).wrapping_add((*byte).into()));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(SELF).map_err(text)?);
        Ok((bytes.len(), sum, mode))
    };
    let before = digest()?;
    wait(stage)?;
    same!(digest()?, before, "length, content and mode of the binary");
    let output = std::process::Command::new(SELF).arg("list").output().map_err(text)?;
    check!(output.status.success() && !output.stdout.is_empty(), "executed once more it gave {output:?}");
    Ok(())
}

fn deleted(stage: &Stage) -> Verdict {
    let path = go_on_as_copy(stage)?;
    std::fs::remove_file(path).map_err(text)?;
    same_binary(stage, Stage::freeze_here)
}

/// Another program has its name, as after an upgrade.
fn replaced(stage: &Stage) -> Verdict {
    let path = go_on_as_copy(stage)?;
    let other = stage.path("other");
    std::fs::write(&other, "another program").map_err(text)?;
    std::fs::rename(other, &path).map_err(text)?;
    same_binary(stage, Stage::freeze_without_facts)?;
    same!(std::fs::read(path).map_err(text)?, b"another program", "what has its name");
    Ok(())
}

/// A descriptor denotes it by which nobody can read it.
fn denoted(stage: &Stage) -> Verdict {
    let path = go_on_as_copy(stage)?;
    let fd = crate::call::open(&path, libc::O_PATH)?;
    std::fs::remove_file(path).map_err(text)?;
    same_binary(stage, Stage::freeze_here)?;
    let number = |path: &str| {
        let found = std::fs::metadata(path).map_err(text)?;
        Ok::<_, String>(std::os::unix::fs::MetadataExt::ino(&found))
    };
    same!(number(&format!("/proc/self/fd/{fd}"))?, number(SELF)?, "the numbers of the file");
    Ok(())
}

/// It has another name than the one by which it was executed.
fn linked(stage: &Stage) -> Verdict {
    let path = go_on_as_copy(stage)?;
    std::fs::hard_link(&path, stage.path("link")).map_err(text)?;
    std::fs::remove_file(path).map_err(text)?;
    same_binary(stage, Stage::freeze_without_facts)
}

/// Goes on as a memfd with all seals, or an open one without.
fn go_on_from_memory(flags: u32) -> Verdict {
    if was_copied() {
        return Ok(());
    }
    let fd = sys!(memfd_create(c"binary".as_ptr(), flags))?;
    let path = format!("/proc/self/fd/{fd}");
    std::fs::copy(SELF, Path::new(&path)).map_err(text)?;
    if flags & libc::MFD_ALLOW_SEALING != 0 {
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        sys!(fcntl(fd, libc::F_ADD_SEALS, seals))?;
    }
    execute(&path)
}

fn memory(stage: &Stage) -> Verdict {
    go_on_from_memory(libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC)?;
    same_binary(stage, Stage::freeze_here)
}

fn memory_open(stage: &Stage) -> Verdict {
    go_on_from_memory(0)?;
    same_binary(stage, Stage::freeze_here)
}
