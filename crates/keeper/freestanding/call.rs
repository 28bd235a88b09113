//! How a program without any library asks the kernel.

use core::arch::asm;

/// The error of a call, as the kernel gives it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// # Safety
/// As the call's own: each argument that is an address must be one of memory that the call may use as it does.
pub(crate) unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: the kernel's convention (syscall(2)): it changes rax, rcx, r11 and what the arguments let it.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}
