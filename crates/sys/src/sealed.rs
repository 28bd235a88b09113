//! Sealed memory: a memfd that nobody can change any more, so that it may be handed to anybody and mapped as bytes.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags};
use std::ops::Deref;
use std::ptr::NonNull;

/// What makes the content final: no write, no other length, and no mapping through which one could still write.
const FINAL: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// Makes a sealed memfd that holds `bytes`.
pub fn create(bytes: &[u8]) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("document", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::fcntl_add_seals(&fd, FINAL | SealFlags::SEAL)?;
    Ok(fd)
}

/// Seals a memfd of somebody else, if it is not, and returns its length.
///
/// # Errors
/// EINVAL if it is no memfd; EPERM if it may not be sealed; EBUSY if somebody has a mapping of it to write through.
pub fn seal(fd: impl AsFd) -> Result<u64> {
    let has = rustix::fs::fcntl_get_seals(&fd)?;
    if !has.contains(FINAL) {
        rustix::fs::fcntl_add_seals(&fd, FINAL)?;
    }
    let stat = rustix::fs::fstat(&fd)?;
    u64::try_from(stat.st_size).map_err(|_| Errno::INVAL)
}

/// A sealed memfd, mapped to be read.
#[derive(Debug)]
pub struct Sealed {
    start: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: the memory is read only, and the seals rule out that anybody changes it.
unsafe impl Send for Sealed {}
// SAFETY: as above.
unsafe impl Sync for Sealed {}

impl Sealed {
    /// Maps all of it.
    ///
    /// # Errors
    /// EINVAL if it is no memfd or is not sealed: another process could change it under our eyes, or shorten it, and a
    /// look at it would be a SIGBUS.
    pub fn map(fd: impl AsFd) -> Result<Self> {
        let fd = fd.as_fd();
        if !rustix::fs::fcntl_get_seals(fd)?.contains(FINAL) {
            return Err(Errno::INVAL);
        }
        let len_bytes = usize::try_from(rustix::fs::fstat(fd)?.st_size).map_err(|_| Errno::INVAL)?;
        if len_bytes == 0 {
            return Ok(Self { start: NonNull::dangling(), len_bytes });
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody has.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len_bytes, ProtFlags::READ, MapFlags::PRIVATE, fd, 0)
        }?;
        Ok(Self { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, len_bytes })
    }
}

impl Deref for Sealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `map` found the seals that keep this many bytes there and unchanged, and they cannot be taken off.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len_bytes) }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if self.len_bytes > 0 {
            // SAFETY: the mapping is ours, and no borrow of it outlives `self`. It cannot fail for such a range.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len_bytes) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_cannot_be_changed_and_is_mapped() {
        let fd = create(b"once").unwrap();
        assert_eq!(&*Sealed::map(&fd).unwrap(), b"once");
        assert_eq!(rustix::io::write(&fd, b"twice"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM));
        assert_eq!(&*Sealed::map(create(b"").unwrap()).unwrap(), b"");
    }

    #[test]
    fn what_is_not_sealed_is_not_mapped_until_it_is() {
        let fd = rustix::fs::memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&fd, b"abc").unwrap();
        assert_eq!(Sealed::map(&fd).map(|_| ()), Err(Errno::INVAL));
        assert_eq!(seal(&fd), Ok(3));
        assert_eq!(&*Sealed::map(&fd).unwrap(), b"abc");
        let pipe = rustix::pipe::pipe().unwrap();
        assert!(seal(&pipe.0).is_err());
    }
}
