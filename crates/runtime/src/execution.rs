//! Why a program could not be executed.

use rustix::io::Errno;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Says it in words that mean what they say: the kernel's errno does not tell a missing program from a missing interpreter,
/// and a directory of `PATH` that may not be looked into from a program that may not be executed.
pub(crate) fn why(program: &str, errno: i32) -> Error {
    if program.is_empty() {
        return Error::new(ErrorKind::NotFound, "an empty word names no program");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found: Option<PathBuf> = if program.contains('/') {
        Path::new(program).symlink_metadata().is_ok().then(|| program.into())
    } else {
        // What may not be looked at is not found, as shells have it.
        std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.exists())
    };
    let error = Error::from_raw_os_error(errno);
    match (Errno::from_raw_os_error(errno), found) {
        (Errno::ACCESS, None) if !program.contains('/') => Error::from(Errno::NOENT),
        (Errno::NOENT, Some(found)) => {
            let missing = match interpreter(&found) {
                Some(interpreter) => format!("its interpreter {interpreter} is not there"),
                None => "what it names as its interpreter is not there".to_owned(),
            };
            Error::new(ErrorKind::InvalidData, missing)
        }
        _ => error,
    }
}

/// Returns what the first line of a script names.
fn interpreter(path: &Path) -> Option<String> {
    // So much of it the kernel reads (BINPRM_BUF_SIZE).
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(256).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    Some(line.split_whitespace().next()?.to_owned())
}
