//! The tape: an array of system calls that a loop of some eighty bytes runs inside a target.
//!
//! The loop keeps its place in the stack pointer, so a thread or process that an entry clones goes on at a tape
//! of its own: `clone3` is given that tape's address as stack. It touches no memory but the tape.

/// `nr` of the entry that ends a tape and jumps elsewhere; see [`Entry::leave`].
pub const LEAVE: u64 = u64::MAX;

/// What [`Entry::result`] holds until the call was made; no system call returns it.
pub const PENDING: i64 = i64::MIN;

/// One system call. All fields are words, in the byte order of the target.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the call, or [`LEAVE`].
    pub nr: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// What it returned: a negative errno from -4095 to -1 for a failure.
    pub result: i64,
    /// An address in the target at which the result is stored too, as an argument of a later entry; 0 for none.
    pub forward: u64,
    /// Where the tape goes on after a failure; 0 for the next entry.
    pub on_error: u64,
}

/// The size of an entry in bytes; the interpreter's code relies on it.
pub const ENTRY_BYTES: usize = 80;
const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES);

impl Entry {
    /// Makes the entry for call `nr`; arguments that are not given are zero.
    pub const fn call(nr: u64, args: [u64; 6]) -> Self {
        Self { nr, args, result: PENDING, forward: 0, on_error: 0 }
    }

    /// Makes the entry at which a clone arrives: it makes no call before its first one, but stores the 0 that
    /// clone returned to it as its result.
    pub const fn arrival() -> Self {
        Self::call(0, [0; 6])
    }

    /// Makes the entry that loads rax, rdi and rsi, sets the stack pointer and jumps to `target`.
    pub const fn leave(target: u64, stack: u64, rax: u64, rdi: u64, rsi: u64) -> Self {
        Self::call(LEAVE, [target, stack, rax, rdi, rsi, 0])
    }

    /// Returns the offset of argument `index` in an entry, in bytes.
    pub const fn arg_offset(index: usize) -> usize {
        core::mem::offset_of!(Entry, args) + 8 * index
    }

    /// Returns its bytes.
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let [a, b, c, d, e, f] = self.args;
        let words = [self.nr, a, b, c, d, e, f, self.result as u64, self.forward, self.on_error];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The offset of [`Entry::result`] in an entry, in bytes.
pub const RESULT_OFFSET: usize = core::mem::offset_of!(Entry, result);
