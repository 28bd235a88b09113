//! Signal actions and queued signals.

use serde::{Deserialize, Serialize};

/// The number of signals; the last one is 64.
pub const SIGNALS: usize = 64;

/// What a signal does: the kernel's `struct sigaction`, not that of a C library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAction {
    /// SIG_DFL (0), SIG_IGN (1), or an address in the program.
    pub handler: u64,
    /// SA_ flags, SA_RESTORER among them.
    pub flags: u64,
    /// The address of the restorer.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: u64,
}

/// A queued signal: the 128 bytes of `siginfo_t`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SigInfo(#[serde(with = "serde_bytes")] Vec<u8>);

impl SigInfo {
    /// The size of `siginfo_t`.
    pub const LEN_BYTES: usize = 128;

    /// Takes the bytes of a `siginfo_t`.
    pub fn new(bytes: [u8; Self::LEN_BYTES]) -> Self {
        Self(bytes.to_vec())
    }

    /// Returns its bytes; fewer than [`LEN_BYTES`](Self::LEN_BYTES) only in an image that was tampered with.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the signal's number, or 0 if the record is too short to hold one.
    pub fn signal(&self) -> i32 {
        self.word(0).unwrap_or(0)
    }

    /// Returns the identifier of the timer made by timer_create(2) that sent it, if one did.
    pub fn timer(&self) -> Option<i32> {
        // si_code and si_tid of include/uapi/asm-generic/siginfo.h.
        const SI_TIMER: i32 = -2;
        if self.word(8) == Some(SI_TIMER) { self.word(16) } else { None }
    }

    fn word(&self, at: usize) -> Option<i32> {
        self.0.get(at..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
    }
}
