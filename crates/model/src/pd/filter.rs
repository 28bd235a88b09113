//! Filters of system calls (seccomp(2)), and what they let through.

use serde::{Deserialize, Serialize};

/// A filter that a program has installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Filter {
    /// Whether all that it does not allow is logged (SECCOMP_FILTER_FLAG_LOG).
    pub logs: bool,
    /// Its instructions: `struct sock_filter` (code, jump if true, jump if false, value), 8 bytes each.
    #[serde(with = "serde_bytes")]
    pub code: Vec<u8>,
}

/// The size of an instruction.
pub const INSTRUCTION_BYTES: usize = 8;
/// The most instructions of one filter (BPF_MAXINSNS).
pub const MOST_INSTRUCTIONS: usize = 4096;
/// The most instructions of all filters of a thread (MAX_INSNS_PER_PATH), each filter counting 4 more.
pub const MOST_OF_A_THREAD: usize = 32_768;

// Numbers of x86-64; this crate has no libc.
const PRCTL: u64 = 157;
const SECCOMP: u64 = 317;
/// SECCOMP_FILTER_FLAG_TSYNC: all threads of the process get the filter.
pub const FOR_ALL: u64 = 1;
/// SECCOMP_FILTER_FLAG_LOG.
pub const LOGS: u64 = 2;

/// Finds a call, its number and its first two arguments, by which a thread may install one more filter with these flags
/// beside those that it has; its third argument is the program's address.
pub fn installation(installed: &[&Filter], flags: u64) -> Option<(u64, [u64; 2])> {
    const SET_MODE_FILTER: u64 = 1;
    const PR_SET_SECCOMP: u64 = 22;
    const MODE_FILTER: u64 = 2;
    // prctl(2) has no flags: what is logged is the least that could be lost.
    let by_prctl = (flags & FOR_ALL == 0).then_some((PRCTL, [PR_SET_SECCOMP, MODE_FILTER]));
    [Some((SECCOMP, [SET_MODE_FILTER, flags])), by_prctl].into_iter().flatten().find(|(nr, args)| {
        let args = [Some(args[0]), Some(args[1]), None, Some(0), Some(0), Some(0)];
        installed.iter().all(|filter| filter.allows(*nr, &args))
    })
}

/// AUDIT_ARCH_X86_64.
const ARCH: u32 = 0xc000_003e;
/// SECCOMP_RET_LOG; above it is only SECCOMP_RET_ALLOW.
const RET_LOG: u32 = 0x7ffc_0000;
/// How many instructions are followed before a filter is taken to refuse: more than any that was not made to be slow.
const MOST_STEPS: usize = 1 << 18;

/// One way through a program: where it is, and what is known of its registers and memory.
#[derive(Clone, Copy)]
struct Way {
    at: usize,
    a: Option<u32>,
    x: Option<u32>,
    memory: [Option<u32>; 16],
}

impl Filter {
    /// Returns whether a call is let through, whatever the arguments are that are not given.
    ///
    /// The program is followed on every way that is open; an instruction that is not known counts as a refusal.
    pub fn allows(&self, nr: u64, args: &[Option<u64>; 6]) -> bool {
        let mut ways = vec![Way { at: 0, a: Some(0), x: Some(0), memory: [None; 16] }];
        let mut steps = 0;
        while let Some(mut way) = ways.pop() {
            loop {
                steps += 1;
                let Some(instruction) = self.instruction(way.at).filter(|_| steps <= MOST_STEPS) else {
                    return false;
                };
                way.at += 1;
                let (code, value) = (instruction.0, instruction.3);
                // linux/bpf_common.h; which of them there may be: seccomp_check_filter, kernel/seccomp.c.
                match code & 0x07 {
                    // LD and LDX: immediate, data of the call, memory, its length.
                    0x00 | 0x01 => {
                        let loaded = match code & 0xe0 {
                            0x00 => Some(value),
                            0x20 if code & 0x07 == 0 => word(value, nr, args),
                            0x60 => way.memory[value as usize & 15],
                            0x80 => Some(64),
                            _ => return false,
                        };
                        if code & 0x07 == 0 { way.a = loaded } else { way.x = loaded }
                    }
                    0x02 => way.memory[value as usize & 15] = way.a,
                    0x03 => way.memory[value as usize & 15] = way.x,
                    0x04 => {
                        let other = if code & 0x08 == 0 { Some(value) } else { way.x };
                        way.a = match (way.a, other) {
                            (Some(a), Some(b)) => match compute(code & 0xf0, a, b) {
                                Some(result) => Some(result),
                                None => return false,
                            },
                            _ => None,
                        };
                    }
                    0x05 if code & 0xf0 == 0 => way.at = way.at.saturating_add(value as usize),
                    0x05 => {
                        let other = if code & 0x08 == 0 { Some(value) } else { way.x };
                        let (yes, no) = (usize::from(instruction.1), usize::from(instruction.2));
                        match (way.a, other) {
                            (Some(a), Some(b)) => match compare(code & 0xf0, a, b) {
                                Some(true) => way.at += yes,
                                Some(false) => way.at += no,
                                None => return false,
                            },
                            _ if yes == no => way.at += yes,
                            _ => {
                                ways.push(Way { at: way.at + no, ..way });
                                way.at += yes;
                            }
                        }
                    }
                    0x06 => {
                        let result = if code & 0x18 == 0x10 { way.a } else { Some(value) };
                        if result.is_none_or(|result| result & 0xffff_0000 < RET_LOG || result >> 31 != 0) {
                            return false;
                        }
                        break;
                    }
                    _ if code & 0xf8 == 0 => way.x = way.a,
                    _ => way.a = way.x,
                }
            }
        }
        true
    }

    /// Code, both jumps and the value of instruction `index`.
    fn instruction(&self, index: usize) -> Option<(u16, u8, u8, u32)> {
        let at = index.checked_mul(INSTRUCTION_BYTES)?;
        let bytes: [u8; INSTRUCTION_BYTES] = self.code.get(at..at + INSTRUCTION_BYTES)?.try_into().ok()?;
        let [a, b, yes, no, value @ ..] = bytes;
        Some((u16::from_le_bytes([a, b]), yes, no, u32::from_le_bytes(value)))
    }

    /// Returns whether it has a length that the kernel takes.
    pub fn is_sized(&self) -> bool {
        let count = self.code.len() / INSTRUCTION_BYTES;
        self.code.len().is_multiple_of(INSTRUCTION_BYTES) && (1..=MOST_INSTRUCTIONS).contains(&count)
    }
}

/// A word of `struct seccomp_data`: number, architecture, instruction pointer, arguments.
fn word(offset: u32, nr: u64, args: &[Option<u64>; 6]) -> Option<u32> {
    match offset {
        0 => Some(nr as u32),
        4 => Some(ARCH),
        16..64 => {
            let argument = args[(offset as usize - 16) / 8]?;
            Some(if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 })
        }
        _ => None,
    }
}

fn compute(operation: u16, a: u32, b: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        // The program ends with 0, SECCOMP_RET_KILL_THREAD.
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.checked_shl(b).unwrap_or(0),
        0x70 => a.checked_shr(b).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0xa0 => a ^ b,
        _ => return None,
    })
}

fn compare(operation: u16, a: u32, b: u32) -> Option<bool> {
    match operation {
        0x10 => Some(a == b),
        0x20 => Some(a > b),
        0x30 => Some(a >= b),
        0x40 => Some(a & b != 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0001;

    fn filter(code: &[(u16, u8, u8, u32)]) -> Filter {
        let bytes = |(code, yes, no, value): &(u16, u8, u8, u32)| {
            let [a, b] = code.to_le_bytes();
            let [c, d, e, f] = value.to_le_bytes();
            [a, b, *yes, *no, c, d, e, f]
        };
        Filter { logs: false, code: code.iter().flat_map(bytes).collect() }
    }

    #[test]
    fn a_call_is_allowed_if_its_number_is() {
        let filter = filter(&[(0x20, 0, 0, 0), (0x15, 0, 1, 39), (6, 0, 0, ERRNO), (6, 0, 0, ALLOW)]);
        assert!(!filter.allows(39, &[None; 6]));
        assert!(filter.allows(40, &[None; 6]));
    }

    #[test]
    fn an_argument_that_is_not_known_must_not_matter() {
        // Refuses mmap with PROT_WRITE and PROT_EXEC.
        let filter = filter(&[
            (0x20, 0, 0, 0),
            (0x15, 0, 4, 9),
            (0x20, 0, 0, 32),
            (0x54, 0, 0, 6),
            (0x15, 0, 1, 6),
            (6, 0, 0, ERRNO),
            (6, 0, 0, ALLOW),
        ]);
        let with = |rights| [None, None, rights, None, None, None];
        assert!(filter.allows(9, &with(Some(3))));
        assert!(!filter.allows(9, &with(Some(7))));
        assert!(!filter.allows(9, &with(None)));
        assert!(filter.allows(10, &with(None)));
    }

    #[test]
    fn what_kills_traps_or_cannot_be_followed_is_refused() {
        for result in [0, 0x8000_0000, 0x0003_0000, 0x7fc0_0000, 0x7ff0_0000] {
            assert!(!filter(&[(6, 0, 0, result)]).allows(0, &[None; 6]), "{result:x}");
        }
        assert!(filter(&[(6, 0, 0, 0x7ffc_0000)]).allows(0, &[None; 6]));
        assert!(!filter(&[(0x20, 0, 0, 0)]).allows(0, &[None; 6]));
        assert!(!Filter::default().allows(0, &[None; 6]));
    }

    #[test]
    fn a_filter_that_forbids_seccomp_may_leave_prctl() {
        let filter = filter(&[(0x20, 0, 0, 0), (0x15, 0, 1, 317), (6, 0, 0, ERRNO), (6, 0, 0, ALLOW)]);
        assert_eq!(installation(&[], LOGS), Some((317, [1, 2])));
        assert_eq!(installation(&[&filter], 0), Some((157, [22, 2])));
        assert_eq!(installation(&[&filter], FOR_ALL), None);
    }

    #[test]
    fn registers_and_memory_are_followed() {
        // (number + 2) in memory, to X, compared with 41.
        let filter = filter(&[
            (0x20, 0, 0, 0),
            (0x04, 0, 0, 2),
            (0x02, 0, 0, 3),
            (0x61, 0, 0, 3),
            (0x00, 0, 0, 41),
            (0x1d, 1, 0, 0),
            (6, 0, 0, ERRNO),
            (6, 0, 0, ALLOW),
        ]);
        assert!(filter.allows(39, &[None; 6]));
        assert!(!filter.allows(38, &[None; 6]));
    }
}
