//! Filters of system calls.

use crate::raw::check;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::{Errno, Result};

/// A call that is refused.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Its number.
    pub number: u32,
    /// The error that it gets.
    pub errno: i32,
    /// With just this first argument, all 64 bits of it, it is let through.
    pub unless: Option<u64>,
}

/// A call that is refused if an argument is what is said, and the error that it gets.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The number of the call.
    pub call: u32,
    /// When it is refused.
    pub when: When,
    /// The error.
    pub errno: i32,
}

/// Which arguments of a call are meant; of each, its lower half is looked at.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Whatever they are.
    Always,
    /// One that has any of these bits.
    Bits(u8, u32),
    /// One that is this.
    Is(u8, u32),
    /// One that is none of these.
    IsNot(u8, &'static [u32]),
}

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
const JUMP_IF_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const ARCH_X86_64: u32 = 0xc000_003e;
const X32_BIT: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The arguments, of 8 bytes each, the lower half first on x86-64.
const ARGUMENTS: u32 = 16;

/// Calls that install a filter, by their number and first argument: seccomp(SECCOMP_SET_MODE_FILTER) and
/// prctl(PR_SET_SECCOMP).
const INSTALLING: [(u32, u32); 2] =
    [(libc::SYS_seccomp as u32, 1), (libc::SYS_prctl as u32, libc::PR_SET_SECCOMP as u32)];

/// Whether the installation of further filters is told to a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
}

fn program(refused: &[Refusal], told: Told) -> Vec<Instruction> {
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
    for Refusal { number, errno, unless } in refused {
        let [low, high] = [ARGUMENTS, ARGUMENTS + 4];
        let except = unless.map(|argument| {
            [
                Instruction(LOAD_WORD, 0, 0, low),
                Instruction(JUMP_IF_EQUAL, 0, 3, argument as u32),
                Instruction(LOAD_WORD, 0, 0, high),
                Instruction(JUMP_IF_EQUAL, 0, 1, (argument >> 32) as u32),
                Instruction(RETURN, 0, 0, RET_ALLOW),
            ]
        });
        let except = except.as_ref().map_or(&[][..], |except| except);
        code.push(Instruction(JUMP_IF_EQUAL, 0, except.len() as u8 + 1, *number));
        code.extend_from_slice(except);
        code.push(error(*errno));
    }
    if told == Told::Yes {
        for (number, argument) in INSTALLING {
            code.push(Instruction(JUMP_IF_EQUAL, 0, 4, number));
            code.push(Instruction(LOAD_WORD, 0, 0, ARGUMENTS));
            code.push(Instruction(JUMP_IF_EQUAL, 0, 1, argument));
            code.push(Instruction(RETURN, 0, 0, RET_USER_NOTIF));
            code.push(Instruction(RETURN, 0, 0, RET_ALLOW));
        }
    }
    code.push(Instruction(RETURN, 0, 0, RET_ALLOW));
    code
}

fn confining(rules: &[Rule]) -> Vec<Instruction> {
    let error = |errno: i32| Instruction(RETURN, 0, 0, RET_ERRNO | errno as u32);
    let argument = |index: u8| Instruction(LOAD_WORD, 0, 0, ARGUMENTS + 8 * u32::from(index));
    let mut code = vec![
        Instruction(LOAD_WORD, 0, 0, ARCH),
        // The calls of 32 bits have other numbers, and would be a way around all rules.
        Instruction(JUMP_IF_EQUAL, 1, 0, ARCH_X86_64),
        error(libc::ENOSYS),
        Instruction(LOAD_WORD, 0, 0, NUMBER),
        Instruction(JUMP_IF_AT_LEAST, 0, 1, X32_BIT),
        error(libc::ENOSYS),
    ];
    for Rule { call, when, errno } in rules {
        let mut body = Vec::new();
        match *when {
            When::Always => body.push(error(*errno)),
            When::Bits(index, bits) => {
                body.extend([argument(index), Instruction(JUMP_IF_ANY, 0, 1, bits), error(*errno)]);
            }
            When::Is(index, value) => {
                body.extend([argument(index), Instruction(JUMP_IF_EQUAL, 0, 1, value), error(*errno)]);
            }
            When::IsNot(index, values) => {
                body.push(argument(index));
                for (at, value) in values.iter().enumerate() {
                    // Over the rest of them, and over the refusal.
                    body.push(Instruction(JUMP_IF_EQUAL, (values.len() - at) as u8, 0, *value));
                }
                body.push(error(*errno));
            }
        }
        // Whatever the rule has loaded, the next one looks at the number again.
        body.push(Instruction(LOAD_WORD, 0, 0, NUMBER));
        code.push(Instruction(JUMP_IF_EQUAL, 0, body.len() as u8, *call));
        code.extend(body);
    }
    code.push(Instruction(RETURN, 0, 0, RET_ALLOW));
    code
}

/// A filter that is ready to be installed, which then takes two system calls at most and no memory.
#[allow(missing_debug_implementations, reason = "it is machine code")]
pub struct Filter {
    /// Tells a listener of further filters; not of those that are for confinement only.
    telling: Option<Vec<Instruction>>,
    /// Does not.
    silent: Vec<Instruction>,
}

impl Filter {
    /// Makes one that refuses calls.
    pub fn refusing(refused: &[Refusal]) -> Self {
        Self { telling: Some(program(refused, Told::Yes)), silent: program(refused, Told::No) }
    }

    /// Makes one that refuses calls by their arguments, and all calls of other architectures.
    pub fn confining(rules: &[Rule]) -> Self {
        Self { telling: None, silent: confining(rules) }
    }

    /// Installs it in the calling thread, for good, and for all that it starts.
    ///
    /// Returns the listener, which is told of filters that will be installed later, and holds these calls up until it
    /// answers; `None` if there is one already: a thread can have one only, and that is told of ours' filters, too
    /// (`has_duplicate_listener`, kernel/seccomp.c).
    ///
    /// # Errors
    /// EACCES without CAP_SYS_ADMIN in the own user namespace: no_new_privs, which would do as well, is left to the
    /// program.
    ///
    /// Source: `seccomp(2)`, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER.
    pub fn install(&self) -> Result<Option<OwnedFd>> {
        const NEW_LISTENER: libc::c_ulong = 1 << 3;
        let Some(telling) = &self.telling else { return set(&self.silent, 0).map(|_| None) };
        match set(telling, NEW_LISTENER) {
            // SAFETY: the kernel has just made the descriptor for us.
            Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
            Err(Errno::BUSY) => set(&self.silent, 0).map(|_| None),
            Err(errno) => Err(errno),
        }
    }
}

fn set(code: &[Instruction], flags: libc::c_ulong) -> Result<i64> {
    const SET_MODE_FILTER: libc::c_int = 1;
    let len = u16::try_from(code.len()).map_err(|_| Errno::TOOBIG)?;
    let program = Program { len, filter: code.as_ptr() };
    // SAFETY: the program and the instructions that it points to live across the call, which copies them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) })
}

/// Returns whether we may read filters of others, and suspend them: with CAP_SYS_ADMIN in the first user namespace,
/// and without a filter of our own.
///
/// Source: `seccomp_get_filter` (kernel/seccomp.c), `check_ptrace_options` (kernel/ptrace.c), both by `capable`.
pub fn can_read() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    // Only the first user namespace maps all of them.
    let first = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
    let own = crate::proc::status(std::process::id() as i32).unwrap_or_default();
    first && own.seccomp == 0 && own.cap_effective & 1 << CAP_SYS_ADMIN != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(code: &[Instruction], arch: u32, number: u32) -> u32 {
        decide_with(code, arch, number, [0; 6])
    }

    fn decide_with(code: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction(op, yes, no, value) = code[at];
            at += 1;
            let skip = |condition| usize::from(if condition { yes } else { no });
            match op {
                LOAD_WORD if value == NUMBER => accumulator = number,
                LOAD_WORD if value == ARCH => accumulator = arch,
                LOAD_WORD => {
                    let (index, byte) = ((value - ARGUMENTS) / 8, (value - ARGUMENTS) % 8);
                    accumulator = (arguments[index as usize] >> (8 * byte)) as u32;
                }
                JUMP_IF_ANY => at += skip(accumulator & value != 0),
                JUMP_IF_EQUAL => at += skip(accumulator == value),
                JUMP_IF_AT_LEAST => at += skip(accumulator >= value),
                _ => return value,
            }
        }
    }

    #[test]
    fn rules_look_at_arguments_and_leave_no_way_around() {
        let code = confining(&[
            Rule { call: 56, when: When::Bits(0, 0x1000_0000), errno: libc::EPERM },
            Rule { call: 72, when: When::Is(1, 1036), errno: libc::EINVAL },
            Rule { call: 41, when: When::IsNot(0, &[1, 2, 10]), errno: libc::EAFNOSUPPORT },
            Rule { call: 250, when: When::Always, errno: libc::ENOSYS },
        ]);
        let look = |number, arguments| decide_with(&code, ARCH_X86_64, number, arguments);
        let refused = |errno: i32| RET_ERRNO | errno as u32;
        assert_eq!(look(56, [0x1000_0011, 0, 0, 0, 0, 0]), refused(libc::EPERM));
        assert_eq!(look(56, [0x11, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(look(72, [3, 1036, 0, 0, 0, 0]), refused(libc::EINVAL));
        assert_eq!(look(72, [1036, 1, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!([1, 2, 10].map(|domain| look(41, [domain, 0, 0, 0, 0, 0])), [RET_ALLOW; 3]);
        assert_eq!(look(41, [40, 1, 0, 0, 0, 0]), refused(libc::EAFNOSUPPORT));
        assert_eq!(look(250, [0; 6]), refused(libc::ENOSYS));
        // What an argument was does not count for the next rule: 250 as an argument is no call.
        assert_eq!(look(56, [250, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(look(1, [0; 6]), RET_ALLOW);
        assert_eq!(decide(&code, 0x4000_0003, 1), refused(libc::ENOSYS));
        assert_eq!(decide(&code, ARCH_X86_64, 1 | X32_BIT), refused(libc::ENOSYS));
    }

    #[test]
    fn only_what_is_named_is_refused_by_its_error() {
        let refusal = |number, errno| Refusal { number, errno, unless: None };
        let code = program(&[refusal(425, libc::ENOSYS), refusal(321, libc::EPERM)], Told::No);
        assert_eq!(decide(&code, ARCH_X86_64, 425), RET_ERRNO | 38);
        assert_eq!(decide(&code, ARCH_X86_64, 321), RET_ERRNO | 1);
        assert_eq!(decide(&code, ARCH_X86_64, 0), RET_ALLOW);
        assert_eq!(decide(&code, ARCH_X86_64, 425 | X32_BIT), RET_ERRNO | 38);
        assert_eq!(decide(&code, 0x4000_0003, 425), RET_ALLOW);
    }

    #[test]
    fn only_what_installs_a_filter_is_told_of() {
        let code = program(&[Refusal { number: 321, errno: libc::EPERM, unless: None }], Told::Yes);
        let seccomp = libc::SYS_seccomp as u32;
        assert_eq!(decide_with(&code, ARCH_X86_64, seccomp, [1, 0, 0, 0, 0, 0]), RET_USER_NOTIF);
        // SECCOMP_GET_ACTION_AVAIL, PR_SET_NAME.
        assert_eq!(decide_with(&code, ARCH_X86_64, seccomp, [2, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(decide_with(&code, ARCH_X86_64, 157, [15, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(decide_with(&code, ARCH_X86_64, 157, [22, 0, 0, 0, 0, 0]), RET_USER_NOTIF);
        assert_eq!(decide_with(&code, ARCH_X86_64, 1, [1, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(decide_with(&code, ARCH_X86_64, 321, [1, 0, 0, 0, 0, 0]), RET_ERRNO | 1);
    }

    #[test]
    fn one_argument_is_let_through() {
        let argument = 0x1234_5678_0000_0801;
        let code = program(
            &[
                Refusal { number: 323, errno: libc::EPERM, unless: Some(argument) },
                Refusal { number: 321, errno: libc::EPERM, unless: None },
            ],
            Told::No,
        );
        let look = |number, first| decide_with(&code, ARCH_X86_64, number, [first, 0, 0, 0, 0, 0]);
        assert_eq!(look(323, argument), RET_ALLOW);
        for other in [0x801, argument ^ 1, argument ^ 1 << 63, 0] {
            assert_eq!(look(323, other), RET_ERRNO | 1, "{other:x}");
        }
        assert_eq!(look(321, argument), RET_ERRNO | 1);
        assert_eq!(look(322, argument), RET_ALLOW);
    }
}
