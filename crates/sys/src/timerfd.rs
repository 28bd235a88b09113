//! What rustix lacks of timerfd.

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Result;

/// `TFD_IOC_SET_TICKS`, `_IOW('T', 0, __u64)` of `include/uapi/linux/timerfd.h`.
const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;

/// Sets how many expiries the next read returns; `ticks` is not 0.
///
/// # Errors
/// ENOTTY where the kernel is built without CONFIG_CHECKPOINT_RESTORE.
pub fn set_ticks(fd: impl AsFd, ticks: u64) -> Result<()> {
    // SAFETY: `ticks` is a live word, which the ioctl only reads.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) };
    check(i64::from(result)).map(drop)
}
