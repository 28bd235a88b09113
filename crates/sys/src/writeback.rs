//! Starting the writing of a file's dirty pages before somebody waits for it.

use crate::raw::check;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Result;

/// Starts writing the dirty pages of a range of a file to its device, and does not wait for it.
///
/// This promises nothing about power loss; it only leaves less to do for the `fdatasync` that does. It can block
/// when the queue of the device is full.
///
/// Source: `sync_file_range(2)`, SYNC_FILE_RANGE_WRITE alone.
pub fn start_writeback(file: BorrowedFd<'_>, offset: u64, len_bytes: u64) -> Result<()> {
    let (offset, len_bytes) = (offset.cast_signed(), len_bytes.cast_signed());
    // SAFETY: the call takes integers and touches no memory of ours.
    let result =
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len_bytes, libc::SYNC_FILE_RANGE_WRITE) };
    check(result).map(drop)
}
