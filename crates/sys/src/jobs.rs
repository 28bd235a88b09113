//! Job control: process groups and sessions, whose leaders may lie outside of our pid namespace.
//!
//! The kernel then gives 0 as their number, which the calls of rustix take for impossible.

use crate::raw::check;
use rustix::io::Result;
use rustix::process::Pid;

/// Returns the process group of `pid`; `None` if its number means nothing in our pid namespace.
///
/// # Errors
/// ESRCH if there is no such process.
///
/// Source: `getpgid(2)`.
pub fn group(pid: Pid) -> Result<Option<Pid>> {
    // SAFETY: the call takes a number and touches no memory.
    let group = check(unsafe { libc::getpgid(pid.as_raw_nonzero().get()) })?;
    Ok(Pid::from_raw(group as i32))
}

/// Returns the session of `pid`; `None` if its number means nothing in our pid namespace.
///
/// # Errors
/// ESRCH if there is no such process.
///
/// Source: `getsid(2)`.
pub fn session(pid: Pid) -> Result<Option<Pid>> {
    // SAFETY: as in `group`.
    let session = check(unsafe { libc::getsid(pid.as_raw_nonzero().get()) })?;
    Ok(Pid::from_raw(session as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_has_no_session() {
        let pid = {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            Pid::from_raw(child.id() as i32).unwrap()
        };
        assert_eq!(session(pid), Err(rustix::io::Errno::SRCH));
        assert_eq!(group(pid), Err(rustix::io::Errno::SRCH));
    }

    #[test]
    fn a_leader_outside_of_our_pid_namespace_has_no_number() {
        // Neither call may panic, whatever started this test.
        let ours = rustix::process::getpid();
        assert!(session(ours).is_ok() && group(ours).is_ok());
    }
}
