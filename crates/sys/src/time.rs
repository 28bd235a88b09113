//! Clocks and timers: what the children of the calling process will see.

use crate::raw::check;
use rustix::io::Result;

/// Gives the children of the calling process a time namespace of their own.
///
/// Its offsets are set through `/proc/self/timens_offsets` before the first child is born. The calling process
/// itself stays where it is, so nothing of ours changes meaning.
///
/// Source: `unshare(2)`, CLONE_NEWTIME, Linux 5.6; needs CAP_SYS_ADMIN.
pub fn unshare_time() -> Result<()> {
    const CLONE_NEWTIME: libc::c_int = 0x80;
    // SAFETY: the flag concerns children born later only; no state that the standard library relies on changes.
    check(unsafe { libc::unshare(CLONE_NEWTIME) }).map(drop)
}

/// Returns whether POSIX timers can be made with chosen identifiers.
///
/// Source: PR_TIMER_CREATE_RESTORE_IDS (77) with PR_TIMER_CREATE_RESTORE_IDS_GET (2), Linux 6.15.
pub fn timer_ids_can_be_chosen() -> bool {
    // SAFETY: the call takes integers only, and changes nothing.
    check(unsafe { libc::prctl(77, 2u64, 0u64, 0u64, 0u64) }).is_ok()
}
