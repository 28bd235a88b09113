//! The keeper: pid 1 of the namespaces in which a program lives.
//!
//! It is as small as it can be, since there is one beside every program: no library, no heap, fixed tables. It collects
//! what ends in there, holds the program's terminal and its log, and tells commands how the program is. If it dies, the
//! kernel ends all that lives in the namespace; so it does nothing that could fail.
//!
//! What it holds it is given as descriptors by whoever executes it; their numbers are the only variable of its
//! environment (see `Setup` in `keep`).
//!
//! The same program, with another variable, leads the session of the program's terminal, which is all that it does then.
#![no_std]
#![no_main]

#[path = "../freestanding/call.rs"]
mod call;
mod child;
mod filters;
mod group;
mod keep;
#[path = "../freestanding/memory.rs"]
mod memory;
#[path = "../src/protocol.rs"]
#[allow(dead_code, reason = "it has the other side's words too")]
mod protocol;
mod raw;

// rsp points at the argument count, as the kernel leaves it; the ABI wants a stack aligned to 16 bytes before a call.
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    // What every C library has, and a freeze of a program with us in it goes by (`frost_tracee::gateway`): `mov rax, 15`
    // and `syscall`, which return from a signal, and `syscall` with `ret`.
    ".byte 0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05",
    ".byte 0x0f, 0x05, 0xc3",
    main = sym raw::main,
);

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    raw::exit(101)
}
