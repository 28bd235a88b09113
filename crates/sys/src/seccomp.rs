//! Filters of system calls.

use crate::raw::check;
use rustix::io::{Errno, Result};

/// A call, and the error that it gets.
pub type Refusal = (u32, i32);

/// `struct sock_filter`: code, jump if true, jump if false, value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction(u16, u8, u8, u32);

const _: () = assert!(size_of::<Instruction>() == 8);

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

// include/uapi/linux/bpf_common.h, include/uapi/linux/seccomp.h, include/uapi/linux/audit.h
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const ARCH_X86_64: u32 = 0xc000_003e;
const X32_BIT: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

fn program(refused: &[Refusal]) -> Vec<Instruction> {
    let error = |errno: i32| Instruction(RETURN, 0, 0, RET_ERRNO | errno as u32);
    let mut code = vec![
        Instruction(LOAD_WORD, 0, 0, ARCH),
        // Programs of 32 bits are refused by name when they are to be frozen.
        Instruction(JUMP_IF_EQUAL, 1, 0, ARCH_X86_64),
        Instruction(RETURN, 0, 0, RET_ALLOW),
        Instruction(LOAD_WORD, 0, 0, NUMBER),
        // As on a kernel without the x32 ABI, whose numbers would be a way around.
        Instruction(JUMP_IF_AT_LEAST, 0, 1, X32_BIT),
        error(libc::ENOSYS),
    ];
    for (number, errno) in refused {
        code.push(Instruction(JUMP_IF_EQUAL, 0, 1, *number));
        code.push(error(*errno));
    }
    code.push(Instruction(RETURN, 0, 0, RET_ALLOW));
    code
}

/// A filter that is ready to be installed, which then takes one system call and no memory.
#[allow(missing_debug_implementations, reason = "it is machine code")]
pub struct Filter(Vec<Instruction>);

impl Filter {
    /// Makes one that refuses calls.
    pub fn refusing(refused: &[Refusal]) -> Self {
        Self(program(refused))
    }

    /// Installs it in the calling thread, for good, and for all that it starts.
    ///
    /// # Errors
    /// EACCES without CAP_SYS_ADMIN in the own user namespace: no_new_privs, which would do as well, is left to the
    /// program.
    ///
    /// Source: `seccomp(2)`, SECCOMP_SET_MODE_FILTER.
    pub fn install(&self) -> Result<()> {
        const SET_MODE_FILTER: libc::c_int = 1;
        let len = u16::try_from(self.0.len()).map_err(|_| Errno::TOOBIG)?;
        let program = Program { len, filter: self.0.as_ptr() };
        // SAFETY: the program and the instructions that it points to live across the call, which copies them.
        check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(code: &[Instruction], arch: u32, number: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction(op, yes, no, value) = code[at];
            at += 1;
            let skip = |condition| usize::from(if condition { yes } else { no });
            match op {
                LOAD_WORD if value == NUMBER => accumulator = number,
                LOAD_WORD => accumulator = arch,
                JUMP_IF_EQUAL => at += skip(accumulator == value),
                JUMP_IF_AT_LEAST => at += skip(accumulator >= value),
                _ => return value,
            }
        }
    }

    #[test]
    fn only_what_is_named_is_refused_by_its_error() {
        let code = program(&[(425, libc::ENOSYS), (321, libc::EPERM)]);
        assert_eq!(decide(&code, ARCH_X86_64, 425), RET_ERRNO | 38);
        assert_eq!(decide(&code, ARCH_X86_64, 321), RET_ERRNO | 1);
        assert_eq!(decide(&code, ARCH_X86_64, 0), RET_ALLOW);
        assert_eq!(decide(&code, ARCH_X86_64, 425 | X32_BIT), RET_ERRNO | 38);
        assert_eq!(decide(&code, 0x4000_0003, 425), RET_ALLOW);
    }
}
