//! Raw system calls.

use rustix::io::Errno;

/// Turns the -1 and errno of libc into a result.
pub(crate) fn check(result: libc::c_long) -> rustix::io::Result<i64> {
    if result == -1 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(result)
    }
}
