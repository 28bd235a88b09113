//! A BLAKE3 digest.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read};

/// A BLAKE3 digest of 32 bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(#[serde(with = "serde_bytes")] [u8; 32]);

impl Digest {
    /// Length of a digest in bytes.
    pub const LEN_BYTES: usize = 32;

    /// Wraps the bytes of a digest.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Computes the digest of the first `len_bytes` that `content` gives.
    ///
    /// # Errors
    /// Those of reading; that of an unexpected end if there are fewer.
    pub fn of_beginning(content: impl Read, len_bytes: u64) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let read = io::copy(&mut content.take(len_bytes), &mut hasher)?;
        if read < len_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Returns its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    /// Writes it as `b3sum` does, in 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
