//! The loop that runs a tape inside a target. Position-independent; relies on nothing but its stack pointer.

use std::arch::global_asm;

// The stack pointer is the place in the tape. Offsets are those of `abi::tape::Entry`:
// nr 0, args 8..56, result 56, forward 64, on_error 72, size 80.
global_asm!(
    ".pushsection .rodata.frost_interpreter, \"a\"",
    ".balign 16",
    ".globl frost_interpreter_start",
    ".globl frost_interpreter_end",
    "frost_interpreter_start:",
    "2:",
    "mov rax, [rsp]",
    "cmp rax, -1",
    "je 5f",
    "mov rdi, [rsp + 8]",
    "mov rsi, [rsp + 16]",
    "mov rdx, [rsp + 24]",
    "mov r10, [rsp + 32]",
    "mov r8, [rsp + 40]",
    "mov r9, [rsp + 48]",
    "syscall",
    // A clone arrives here with its own tape in rsp and 0 in rax.
    "mov [rsp + 56], rax",
    "mov rcx, [rsp + 64]",
    "jrcxz 3f",
    "mov [rcx], rax",
    "3:",
    "cmp rax, -4095",
    "jae 6f",
    "4:",
    "add rsp, 80",
    "jmp 2b",
    "5:",
    "mov rcx, [rsp + 8]",
    "mov rax, [rsp + 24]",
    "mov rdi, [rsp + 32]",
    "mov rsi, [rsp + 40]",
    "mov rsp, [rsp + 16]",
    "jmp rcx",
    "6:",
    "mov rcx, [rsp + 72]",
    "jrcxz 4b",
    "mov rsp, rcx",
    "jmp 2b",
    "frost_interpreter_end:",
    ".popsection",
);

unsafe extern "C" {
    static frost_interpreter_start: u8;
    static frost_interpreter_end: u8;
}

/// Returns the machine code of the interpreter; its entry is its first byte.
pub fn code() -> &'static [u8] {
    let start = &raw const frost_interpreter_start;
    let end = &raw const frost_interpreter_end;
    // SAFETY: the assembly above places both symbols around one run of bytes in read-only data.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The offset in [`code`] of the instruction behind `syscall`: where a thread is that waits in a call of a tape.
pub fn after_syscall() -> usize {
    // `0f 05` occurs once in the code; the test below holds that.
    code().windows(2).position(|pair| pair == [0x0f, 0x05]).map_or(0, |at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_holds_one_syscall_instruction() {
        assert_eq!(code().windows(2).filter(|pair| *pair == [0x0f, 0x05]).count(), 1);
        assert!(code().len() < 128);
    }
}
