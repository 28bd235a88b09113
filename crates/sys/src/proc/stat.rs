//! `/proc/PID/stat`.

use rustix::io::{Errno, Result};

/// Fields of `/proc/PID/stat`, named as in proc(5). Addresses are 0 without the right to read the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of proc_pid_stat(5)")]
pub struct Stat {
    pub pid: i32,
    pub comm: Vec<u8>,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X` or `I`.
    pub state: u8,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    pub tty_nr: i32,
    pub tpgid: i32,
    pub flags: u64,
    pub num_threads: i64,
    /// In clock ticks since boot; with the pid it names a process for the time of a boot.
    pub starttime: u64,
    pub startcode: u64,
    pub endcode: u64,
    pub startstack: u64,
    pub exit_signal: i32,
    /// The CPU it last ran on.
    pub processor: u32,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// As wait(2) would give it.
    pub exit_code: i32,
    pub utime: u64,
    pub stime: u64,
    pub cutime: u64,
    pub cstime: u64,
}

/// The kernel thread flag, PF_KTHREAD of `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// It has called exit(2), PF_EXITING of `include/linux/sched.h`.
const PF_EXITING: u64 = 0x4;
/// Clock ticks of a second in what `/proc` tells (USER_HZ), the same on every x86-64.
const TICKS: u64 = 100;

impl Stat {
    /// Returns whether it has ended, or is about to: it then gives up memory and descriptors before it is a zombie.
    pub fn is_ending(&self) -> bool {
        self.is_zombie() || self.flags & PF_EXITING != 0
    }

    /// Returns whether it has ended and waits for its parent.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// Returns the processor time that it and its children that were waited for have used, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        (self.utime + self.stime + self.cutime + self.cstime).saturating_mul(1_000_000 / TICKS)
    }

    /// Returns whether it is a thread of the kernel.
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// Reads `/proc/ID/stat`.
///
/// # Errors
/// ENOENT or ESRCH if the process is gone.
pub fn stat(id: i32) -> Result<Stat> {
    parse(&super::read(id, "stat")?).ok_or(Errno::IO)
}

/// Reads the line of one thread of process `pid`, which does not add up the times of all the threads of its process.
///
/// # Errors
/// ENOENT or ESRCH if the thread is gone.
pub fn thread_stat(pid: i32, tid: i32) -> Result<Stat> {
    parse(&super::of_thread(pid, tid, "stat")?).ok_or(Errno::IO)
}

fn parse(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    // The name may hold anything, parentheses too; the last one closes it.
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let rest: Vec<&str> =
        std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
    // Field numbers as in proc(5), of which the third is the first behind the name.
    let field = |number: usize| rest.get(number - 3).copied();
    let signed = |number| field(number)?.parse::<i64>().ok();
    let unsigned = |number| field(number).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Some(Stat {
        pid: std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?,
        comm: text.get(open + 1..close)?.to_vec(),
        state: *field(3)?.as_bytes().first()?,
        ppid: signed(4)? as i32,
        pgrp: signed(5)? as i32,
        session: signed(6)? as i32,
        tty_nr: signed(7)? as i32,
        tpgid: signed(8)? as i32,
        flags: unsigned(9),
        num_threads: signed(20)?,
        starttime: unsigned(22),
        startcode: unsigned(26),
        endcode: unsigned(27),
        startstack: unsigned(28),
        exit_signal: signed(38).unwrap_or(0) as i32,
        processor: unsigned(39) as u32,
        start_data: unsigned(45),
        end_data: unsigned(46),
        start_brk: unsigned(47),
        arg_start: unsigned(48),
        arg_end: unsigned(49),
        env_start: unsigned(50),
        env_end: unsigned(51),
        exit_code: signed(52).unwrap_or(0) as i32,
        utime: unsigned(14),
        stime: unsigned(15),
        cutime: unsigned(16),
        cstime: unsigned(17),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_no_trap() {
        let stat = parse(b"42 (a) R (b) S 1 2 3 4 5 6 0 0 0 0 0 0 0 0 20 0 7 0 99 0").unwrap();
        assert_eq!((stat.pid, stat.comm.as_slice(), stat.state), (42, &b"a) R (b"[..], b'S'));
        assert_eq!((stat.num_threads, stat.starttime), (7, 99));
    }
}
