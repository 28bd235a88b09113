//! Where the content of a file lies on the disk, and letting two files have it together.

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{Errno, Result};

// `include/uapi/linux/fs.h`.
const FIDEDUPERANGE: u64 = 0xc018_9436;
const FILE_DEDUPE_RANGE_SAME: i32 = 0;
// `include/uapi/linux/fiemap.h`.
const FS_IOC_FIEMAP: u64 = 0xc020_660b;
/// FIEMAP_EXTENT_UNKNOWN, _DELALLOC, _ENCODED: there is no place on the disk that could be compared.
const NOWHERE: u32 = 0x2 | 0x4 | 0x8;

#[repr(C)]
#[derive(Default)]
struct DedupeRange {
    src_offset: u64,
    src_length: u64,
    dest_count: u16,
    reserved1: u16,
    reserved2: u32,
    dest_fd: i64,
    dest_offset: u64,
    bytes_deduped: u64,
    status: i32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    logical: u64,
    physical: u64,
    extent_length: u64,
    reserved64: [u64; 2],
    extent_flags: u32,
    extent_reserved: [u32; 3],
}

const _: () = assert!(size_of::<DedupeRange>() == 24 + 32);
const _: () = assert!(size_of::<Fiemap>() == 32 + 56);

/// Lets `to` have the content of a range of `from` together with it, if it has the same there; returns of how many bytes, 0
/// if they differ. The kernel compares both, so that nothing can be lost by it.
///
/// Offsets and length are multiples of the block size of the file system. Source: ioctl_fideduperange(2).
///
/// # Errors
/// [`Errno::OPNOTSUPP`], [`Errno::NOTTY`], [`Errno::INVAL`] or [`Errno::XDEV`] where the file system cannot.
pub fn share(from: impl AsFd, offset: u64, to: impl AsFd, to_offset: u64, len_bytes: u64) -> Result<u64> {
    let mut range = DedupeRange {
        src_offset: offset,
        src_length: len_bytes,
        dest_count: 1,
        dest_fd: i64::from(to.as_fd().as_raw_fd()),
        dest_offset: to_offset,
        ..DedupeRange::default()
    };
    // SAFETY: the request reads and writes a struct file_dedupe_range with one struct file_dedupe_range_info behind it, which
    // `range` is (size asserted above).
    check(unsafe { libc::ioctl(from.as_fd().as_raw_fd(), FIDEDUPERANGE as _, &raw mut range) })?;
    match range.status {
        FILE_DEDUPE_RANGE_SAME => Ok(range.bytes_deduped),
        status if status < 0 => Err(Errno::from_raw_os_error(-status)),
        _ => Ok(0),
    }
}

/// Returns where on the disk the byte at `offset` of a file lies; `None` for a hole, or if that cannot be told.
///
/// # Errors
/// [`Errno::OPNOTSUPP`] where the file system does not tell.
pub fn place(file: impl AsFd, offset: u64) -> Result<Option<u64>> {
    let mut map = Fiemap { start: offset, length: 1, extent_count: 1, ..Fiemap::default() };
    // SAFETY: the request reads and writes a struct fiemap with one struct fiemap_extent behind it, which `map` is (size
    // asserted above).
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) })?;
    let is_somewhere = map.mapped_extents == 1
        && map.extent_flags & NOWHERE == 0
        && map.logical <= offset
        && map.physical != 0;
    Ok(is_somewhere.then(|| map.physical + (offset - map.logical)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_share_what_is_the_same_or_the_file_system_cannot() {
        let path =
            |name: &str| std::env::temp_dir().join(format!("frost-extent-{name}-{}", std::process::id()));
        let make = |name: &str, byte: u8| {
            std::fs::write(path(name), vec![byte; 1 << 16]).unwrap();
            let file = std::fs::File::open(path(name)).unwrap();
            std::fs::remove_file(path(name)).unwrap();
            file.sync_all().unwrap();
            file
        };
        let (one, same, other) = (make("one", 1), make("same", 1), make("other", 2));
        match share(&one, 0, &same, 0, 1 << 16) {
            Ok(bytes) => {
                assert_eq!(bytes, 1 << 16);
                assert_eq!(place(&one, 4096).unwrap(), place(&same, 4096).unwrap());
                assert_eq!(share(&one, 0, &other, 0, 1 << 16), Ok(0));
                assert_ne!(place(&one, 4096).unwrap(), place(&other, 4096).unwrap());
            }
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {
                eprintln!("skipped: files cannot share on this file system");
            }
            Err(errno) => panic!("{errno}"),
        }
    }
}
