//! The content of a document: bytes that never change.

use crate::wire::INLINE_BYTES;
use frost_sys::sealed::{self, Sealed};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use std::sync::Arc;

/// One version's content. Cloning it copies nothing.
#[derive(Clone, Debug)]
pub enum Content {
    /// A small one.
    Small(Arc<[u8]>),
    /// A large one: sealed memory, mapped.
    Large(Arc<(OwnedFd, Sealed)>),
}

impl Content {
    /// Makes one of bytes.
    ///
    /// # Errors
    /// ENOMEM, EMFILE if there is no room for a memfd.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() <= INLINE_BYTES {
            Ok(Self::Small(bytes.into()))
        } else {
            Self::mapped(sealed::create(bytes)?)
        }
    }

    /// Takes what came in a packet.
    ///
    /// # Errors
    /// EFBIG if it is longer than `limit`; those of [`sealed::seal`] if it is no memory that can be sealed.
    pub fn take(body: Vec<u8>, fd: Option<OwnedFd>, limit: u64) -> Result<Self> {
        let Some(fd) = fd else {
            return if body.len() as u64 > limit { Err(Errno::FBIG) } else { Ok(Self::Small(body.into())) };
        };
        if sealed::seal(&fd)? > limit {
            return Err(Errno::FBIG);
        }
        Self::mapped(fd)
    }

    fn mapped(fd: OwnedFd) -> Result<Self> {
        let map = Sealed::map(&fd)?;
        Ok(Self::Large(Arc::new((fd, map))))
    }

    /// Returns the memory that holds it, if it is a large one.
    pub fn memory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Small(_) => None,
            Self::Large(large) => Some(large.0.as_fd()),
        }
    }

    /// Opens the memory anew, to be read only: descriptors that are shared by SCM_RIGHTS share their offset too, so
    /// that one reader's read(2) would move another's.
    pub fn reopen(&self) -> Option<OwnedFd> {
        use rustix::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.memory()?.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
    }
}

impl std::ops::Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(large) => &large.1,
        }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
