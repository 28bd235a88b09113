//! Children that do not outlive us.

use crate::raw::check;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Starts a program that the kernel kills when the calling thread ends, in a session of its own.
///
/// # Errors
/// Those of starting it.
///
/// Source: `PR_SET_PDEATHSIG` (prctl(2)). It is kept over execve(2), unless that raises privileges.
pub fn start_bound(command: &mut Command) -> io::Result<Child> {
    let parent = std::process::id() as i32;
    let prepare = move || -> io::Result<()> {
        // SAFETY: the calls take numbers, and are async-signal-safe.
        unsafe {
            check(i64::from(libc::setsid()))?;
            check(i64::from(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0)))?;
            // It may have ended before that call: then nobody will be told.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
