//! Raw system calls.

use rustix::io::Errno;

/// Turns the -1 and errno of libc into a result.
pub(crate) fn check(result: impl Into<i64>) -> rustix::io::Result<i64> {
    let result = result.into();
    if result == -1 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(result)
    }
}
