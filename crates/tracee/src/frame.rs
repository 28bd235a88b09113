//! Signal frames: the one structure from which the kernel itself sets all registers of a thread.
//!
//! rt_sigreturn(2) loads general registers, the xsave area and the signal mask from a frame in the thread's own
//! memory. A thread that was told to make calls for us finds its way back through such a frame even when we are
//! gone, and a thread that is thawed can leave its last tape through one.

use crate::seize::StoppedThread;
use frost_sys::memory;
use frost_sys::proc::Mapping;
use frost_sys::ptrace::REGISTER_WORDS;
use std::ops::Range;

/// A frame that lies at a known address of a target.
#[derive(Clone, Debug)]
pub struct Frame {
    address: u64,
    bytes: Vec<u8>,
}

// Offsets in `struct rt_sigframe` of x86-64 (arch/x86/include/asm/sigframe.h): pretcode, then `struct ucontext`
// (uc_flags, uc_link, uc_stack, mcontext, sigmask), then siginfo.
const UC: usize = 8;
const UC_STACK: usize = UC + 16;
const MCONTEXT: usize = UC + 40;
const SIGMASK: usize = MCONTEXT + 256;
const FRAME_BYTES: usize = SIGMASK + 8 + 128;
/// The offset of the fpstate pointer in the mcontext.
const FPSTATE: usize = MCONTEXT + 184;

/// UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS.
const UC_FLAGS: u64 = 7;
/// Flags of uc_stack that sigaltstack(2) refuses, so that the thread's alternate stack stays as it is: the
/// kernel ignores every error of that step but EFAULT (restore_altstack, kernel/signal.c).
const INVALID_STACK_FLAGS: u32 = 0x7777;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where the software-reserved bytes lie in the legacy part of the xsave area.
const SW_RESERVED: usize = 464;

/// Indices of `struct user_regs_struct` in the order in which the mcontext has them: r8 to r15, rdi, rsi, rbp,
/// rbx, rdx, rax, rcx, rsp, rip, eflags.
const MCONTEXT_ORDER: [usize; 18] = [9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16, 18];
const CS: usize = 17;
const SS: usize = 20;

/// `mov $15, %rax; syscall`, the restorer of every C library.
pub(crate) const RESTORER: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

impl Frame {
    /// Returns how many bytes a frame takes at most, for an xsave area of `xstate_bytes`.
    pub const fn len_bytes(xstate_bytes: usize) -> usize {
        FRAME_BYTES + 64 + xstate_bytes + 4
    }

    /// Builds a frame at `address`.
    ///
    /// `registers` are those with which the thread is to go on, an interrupted call already set to be issued
    /// again (see [`restarted`]). `mask` is its signal mask and `xstate` its xsave area as ptrace gives it.
    /// `restorer` is stored as the address a `ret` to the frame goes to: code that calls rt_sigreturn.
    /// fs_base and gs_base are not part of a frame.
    pub fn new(
        address: u64,
        registers: &[u64; REGISTER_WORDS],
        xstate: &[u8],
        mask: u64,
        restorer: u64,
    ) -> Self {
        let fp_at = (address + FRAME_BYTES as u64).next_multiple_of(64) - address;
        let mut bytes = vec![0u8; fp_at as usize + xstate.len() + 4];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &restorer.to_le_bytes());
        put(UC, &UC_FLAGS.to_le_bytes());
        put(UC_STACK + 8, &INVALID_STACK_FLAGS.to_le_bytes());
        for (slot, register) in MCONTEXT_ORDER.into_iter().enumerate() {
            put(MCONTEXT + 8 * slot, &registers[register].to_le_bytes());
        }
        put(MCONTEXT + 144, &(registers[CS] as u16).to_le_bytes());
        put(MCONTEXT + 150, &(registers[SS] as u16).to_le_bytes());
        put(SIGMASK, &mask.to_le_bytes());
        if xstate.len() >= 576 {
            put(FPSTATE, &(address + fp_at).to_le_bytes());
            let at = fp_at as usize;
            put(at, xstate);
            // What the kernel put into these bytes for ptrace is xcr0; a frame needs its own description here.
            let features = u64::from_le_bytes(word(xstate, SW_RESERVED));
            put(at + SW_RESERVED, &FP_XSTATE_MAGIC1.to_le_bytes());
            put(at + SW_RESERVED + 4, &(xstate.len() as u32 + 4).to_le_bytes());
            put(at + SW_RESERVED + 8, &features.to_le_bytes());
            put(at + SW_RESERVED + 16, &(xstate.len() as u32).to_le_bytes());
            put(at + xstate.len(), &FP_XSTATE_MAGIC2.to_le_bytes());
        }
        Self { address, bytes }
    }

    /// Returns the address of the frame: what the stack pointer is to be before a `ret` into the restorer.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the stack pointer with which rt_sigreturn is to be called.
    pub fn sigreturn_stack(&self) -> u64 {
        self.address + UC as u64
    }

    /// Returns the bytes of the frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn word(bytes: &[u8], at: usize) -> [u8; 8] {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    word
}

const RAX: usize = 10;
const ORIG_RAX: usize = 15;
const RIP: usize = 16;
const RSP: usize = 19;
const FS_BASE: usize = 21;

/// Returns the registers as they must be when nobody restarts the interrupted call for the thread: as the kernel
/// itself would set them, the call issued again from its first instruction.
///
/// A call with a restart block (-516) is issued again with its full time, which is the best that a frame can do.
///
/// Source: `arch_do_signal_or_restart`, `arch/x86/kernel/signal.c`.
pub fn restarted(registers: &[u64; REGISTER_WORDS]) -> [u64; REGISTER_WORDS] {
    let mut registers = *registers;
    let interrupted = matches!(registers[RAX] as i64, -512 | -513 | -514 | -516);
    if registers[ORIG_RAX] as i64 >= 0 && interrupted {
        registers[RAX] = registers[ORIG_RAX];
        registers[RIP] = registers[RIP].wrapping_sub(2);
        registers[ORIG_RAX] = u64::MAX;
    }
    registers
}

/// How much of a stack of unknown use is left alone at its end.
const MARGIN_BYTES: u64 = 4096;
/// What malloc(3) of the GNU C library reserves for each heap of a thread (HEAP_MAX_SIZE, malloc/arena.c), at a multiple of
/// it. What a heap does not use yet, nobody may use: it looks like the guard of what begins where it ends.
const HEAP_BYTES: u64 = 64 << 20;

/// Returns where `len_bytes` bytes below the red zone lie, a multiple of 64.
pub(crate) fn below_red_zone(thread: &StoppedThread, len_bytes: u64) -> Option<u64> {
    Some(thread.registers[RSP].checked_sub(128 + len_bytes)? & !63)
}

/// Returns the lowest address of a thread's stack that may be written to, if its bounds are known.
///
/// Only alternate stacks, the main stack and stacks with a guard below are; those of goroutines and fibers lie in heaps, and
/// the map does not show where they end.
pub(crate) fn end_of_stack(thread: &StoppedThread, mappings: &[Mapping]) -> Option<u64> {
    let registers = &thread.registers;
    let stack_pointer = registers[RSP];
    // It may be an array on the thread's own stack, below which lies what the handler has interrupted.
    if let Some(alternate) = alternate_stack(thread, mappings) {
        return Some(alternate.start);
    }
    // They are in ascending order, and thousands of threads have thousands of stacks.
    let index = mappings.partition_point(|mapping| mapping.end <= stack_pointer);
    let mapping = mappings.get(index).filter(|mapping| mapping.start <= stack_pointer)?;
    let guarded = || {
        let below = index.checked_sub(1).and_then(|index| mappings.get(index));
        below.is_some_and(|below| below.end == mapping.start && !below.read && !below.write && !below.execute)
    };
    // A thread's descriptor, to which its register points, lies at the top of the stack that was made for it.
    let own = || (stack_pointer..mapping.end).contains(&registers[FS_BASE]);
    let known =
        mapping.name == b"[stack]" || guarded() && (!mapping.start.is_multiple_of(HEAP_BYTES) || own());
    (mapping.write && !mapping.shared && known).then_some(mapping.start + MARGIN_BYTES)
}

/// How far up a handler's stack the frame of its signal is looked for.
const MOST_BYTES: usize = 16 * 1024;

/// Returns the alternate stack on which a thread handles a signal, if it does. Only the thread itself can ask the kernel for
/// it, but the frame of the signal tells it too (`uc_stack`).
fn alternate_stack(thread: &StoppedThread, mappings: &[Mapping]) -> Option<Range<u64>> {
    // As a rule a handler's own signal is blocked.
    if thread.mask == 0 {
        return None;
    }
    let start = thread.registers[RSP].next_multiple_of(8);
    let mut bytes = vec![0; MOST_BYTES];
    let got = memory::read(thread.tid, start, &mut bytes).unwrap_or(0);
    let words: Vec<u64> = bytes[..got].as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let is_restorer = |address: u64| {
        let at = mappings.partition_point(|mapping| mapping.end <= address);
        let mut code = [0; RESTORER.len()];
        mappings.get(at).is_some_and(|mapping| mapping.start <= address && mapping.execute)
            && memory::read(thread.tid, address, &mut code) == Ok(code.len())
            && code == RESTORER
    };
    words.iter().enumerate().filter(|(_, word)| is_restorer(**word)).find_map(|(index, _)| {
        let [pointer, _, len] = *words.get(index + UC_STACK / 8..)?.first_chunk()?;
        let stack = pointer..pointer.checked_add(len)?;
        stack.contains(&thread.registers[RSP]).then_some(stack)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_has_the_kernels_layout() {
        assert_eq!(MCONTEXT, 48);
        assert_eq!(SIGMASK, 304);
        assert_eq!(FRAME_BYTES, 440);
        let mut xstate = vec![0u8; 2432];
        xstate[SW_RESERVED] = 7;
        let registers = core::array::from_fn(|index| index as u64);
        let frame = Frame::new(0x1008, &registers, &xstate, 5, 0xabc);
        assert!(frame.bytes().len() <= Frame::len_bytes(xstate.len()));
        let fp = u64::from_le_bytes(word(frame.bytes(), FPSTATE));
        assert_eq!(fp % 64, 0);
        assert_eq!(frame.bytes()[(fp - 0x1008) as usize + SW_RESERVED + 8], 7);
        assert_eq!(word(frame.bytes(), 0), 0xabcu64.to_le_bytes());
        // rip is the 17th word of the mcontext.
        assert_eq!(word(frame.bytes(), MCONTEXT + 16 * 8), 16u64.to_le_bytes());
    }
}
