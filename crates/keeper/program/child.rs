//! What the root of a program leaves behind: who goes on, and who was dying already.

use crate::raw;

/// The bit of SIGKILL in a set of signals.
const SIGKILL: u64 = 1 << 8;
/// Signals that end a process and make it leave a core, of include/linux/signal.h: SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS,
/// SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS.
const LEAVES_CORE: u64 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 23 | 1 << 24 | 1 << 30;
/// Flags of a thread, include/linux/sched.h: it comes to its end; a signal has ended it.
const PF_EXITING: u64 = 0x4;
const PF_SIGNALED: u64 = 0x400;

/// The child that we have had for longest of those that go on, else of those that are dying; and whether it is. `leader` is
/// none of the program.
pub(crate) fn heir(leader: i32) -> Option<(i32, bool)> {
    let mut first = None;
    let mut living = None;
    raw::any_child(|pid| {
        if pid != leader {
            first = first.or(Some(pid));
            living = (!is_dying(pid)).then_some(pid);
        }
        living.is_some()
    });
    living.map(|pid| (pid, false)).or(first.map(|pid| (pid, true)))
}

/// Returns whether a child is about to end whatever it does: it was sent what ends it, or ends itself.
///
/// Who sends a signal that ends a process marks each of its threads with SIGKILL in the same instant, unless the signal makes
/// a core: that is only pending until a thread takes it (`complete_signal`, kernel/signal.c). Whoever takes it becomes
/// PF_SIGNALED at once (`get_signal`), so the flags are read behind the signals. A first thread that is PF_EXITING has
/// others that go on where it alone has ended.
fn is_dying(pid: i32) -> bool {
    let (mut status, mut stat) = ([0; 4096], [0; 1024]);
    let count = raw::read_of(pid, b"/status\0", &mut status);
    let status = &status[..count];
    let pending = signals(status, b"SigPnd:\t") | signals(status, b"ShdPnd:\t");
    let [blocked, ignored, caught] =
        [b"SigBlk:\t", b"SigIgn:\t", b"SigCgt:\t"].map(|name| signals(status, name));
    let taken = pending & !(blocked | ignored | caught);
    if pending & SIGKILL | taken & LEAVES_CORE != 0 {
        return true;
    }
    let count = raw::read_of(pid, b"/stat\0", &mut stat);
    // The name of a program may hold anything, but is the last that is in parentheses. Behind it come the third field and on.
    let start = stat[..count].iter().rposition(|byte| *byte == b')').map_or(count, |at| at + 2);
    let field = |number: usize| stat[start..count].split(|byte| *byte == b' ').nth(number - 3).map_or(0, decimal);
    let (flags, threads) = (field(9), field(20));
    flags & PF_SIGNALED != 0 || flags & PF_EXITING != 0 && threads < 2
}

/// The set of signals behind a name of /proc/PID/status.
fn signals(status: &[u8], name: &[u8]) -> u64 {
    let mut lines = status.split(|byte| *byte == b'\n');
    let digits = lines.find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let value = |digit: u8| u64::from(if digit.is_ascii_digit() { digit & 15 } else { (digit & 15) + 9 });
    digits.iter().fold(0, |all, digit| all << 4 | value(*digit))
}

fn decimal(word: &[u8]) -> u64 {
    word.iter().fold(0, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0'))))
}
