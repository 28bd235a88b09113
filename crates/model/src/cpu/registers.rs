//! General registers of x86-64.

use serde::{Deserialize, Serialize};

/// The 27 words of the kernel's `struct user_regs_struct` (`arch/x86/include/uapi/asm/ptrace.h` and
/// `sys/user.h`), in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the processor's")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call the thread is in, or -1.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// How many words `struct user_regs_struct` has.
pub const REGISTER_WORDS: usize = 27;

impl From<[u64; REGISTER_WORDS]> for Registers {
    fn from(words: [u64; REGISTER_WORDS]) -> Self {
        #[rustfmt::skip]
        let [
            r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi,
            rdi, orig_rax, rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs,
        ] = words;
        #[rustfmt::skip]
        let registers = Self {
            r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi,
            rdi, orig_rax, rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs,
        };
        registers
    }
}

impl From<Registers> for [u64; REGISTER_WORDS] {
    fn from(r: Registers) -> Self {
        [
            r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi,
            r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs,
            r.gs,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_order() {
        let words = core::array::from_fn(|index| index as u64);
        let registers = Registers::from(words);
        assert_eq!((registers.r15, registers.rip, registers.gs), (0, 16, 26));
        assert_eq!(<[u64; REGISTER_WORDS]>::from(registers), words);
    }
}
