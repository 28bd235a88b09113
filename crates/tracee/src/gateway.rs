//! Calls that a stopped thread makes from the process' own code, before anything of ours is mapped or as it goes.
//!
//! If we die in the middle, the thread comes back from the call into a `ret`, which takes it to the C library's restorer
//! and through a frame on its own stack to its true registers. Where no thread has room for a frame, the registers
//! alone are changed, and the thread is lost should we die within these microseconds.

use crate::elapsed;
use crate::frame::{self, Frame, RESTORER};
use crate::inject::Error;
use crate::restart::{self, ORIG_RAX, RAX, RIP, RSP};
use crate::seize::StoppedThread;
use frost_sys::memory;
use frost_sys::proc::Mapping;
use frost_sys::ptrace::{self, REGISTER_WORDS, Stop};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// `syscall; ret`.
const SYSCALL_RET: [u8; 3] = [0x0f, 0x05, 0xc3];
/// Indices of `struct user_regs_struct` for the arguments of a call: rdi, rsi, rdx, r10, r8, r9.
const ARGUMENTS: [usize; 6] = [14, 13, 12, 7, 9, 8];

/// Code of a process by which calls are made, and the thread that makes them.
#[derive(Clone, Debug)]
pub struct Gateway {
    pid: i32,
    /// Index of the thread that makes these calls.
    thread: usize,
    /// A `syscall` instruction, followed by `ret` if there is a frame.
    syscall: u64,
    /// Code that calls rt_sigreturn, if there is some beside the `syscall; ret`.
    restorer: Option<u64>,
    /// The thread's way back, on its own stack, if that is known to have room.
    frame: Option<Frame>,
}

impl Gateway {
    /// Looks for code and a thread in process `pid`, whose stopped threads and mappings are given. Mappings are in
    /// ascending order.
    ///
    /// # Errors
    /// [`Error::NoSyscall`] if nothing in its memory makes a call.
    pub fn find(pid: i32, threads: &[StoppedThread], mappings: &[Mapping]) -> Result<Self, Error> {
        let mut code: Vec<&Mapping> = mappings
            .iter()
            .filter(|mapping| mapping.execute && mapping.read && mapping.name != b"[vsyscall]")
            .collect();
        // The dynamic linker has both sequences and is smaller than the C library.
        code.sort_by_key(|mapping| (mapping.end - mapping.start, mapping.start));
        let mut found = Places::default();
        for mapping in code {
            let more = search(pid, mapping).map(|offset| mapping.start + offset);
            found = found.or(more);
            if found.returning.is_some() && found.restorer.is_some() {
                break;
            }
        }
        let pair = (found.returning, found.restorer);
        if let (Some(syscall), Some(restorer)) = pair {
            // A frame cannot give a restart block back, so threads with one come last: should we die, their call is
            // issued again instead.
            let mut order: Vec<usize> = (0..threads.len()).collect();
            order.sort_by_key(|index| restart::has_restart_block(&threads[*index].registers));
            let fit = order
                .into_iter()
                .find_map(|index| Some((index, frame_on_stack(&threads[index], mappings, restorer)?)));
            if let Some((thread, frame)) = fit {
                return Ok(Self { pid, thread, syscall, restorer: Some(restorer), frame: Some(frame) });
            }
        }
        let syscall = found.syscall.ok_or(Error::NoSyscall { pid })?;
        Ok(Self { pid, thread: 0, syscall, restorer: None, frame: None })
    }

    /// Returns one by which thread `index` makes its calls, from the same code, with a way back if its stack has room.
    pub fn of_thread(&self, threads: &[StoppedThread], index: usize, mappings: &[Mapping]) -> Self {
        let frame = self.restorer.and_then(|restorer| frame_on_stack(&threads[index], mappings, restorer));
        Self { thread: index, frame, ..self.clone() }
    }

    /// Returns the index of the thread that makes the calls.
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Makes one call and returns what it returned. The thread, one of those that [`find`](Self::find) was given, is then
    /// in a stop at the call's exit with its signals blocked: the caller gives it its registers and mask back, after an
    /// error as well.
    ///
    /// # Errors
    /// [`Error::Gone`] if the process was killed, else [`Error::Kernel`].
    pub fn call(&self, threads: &[StoppedThread], nr: libc::c_long, args: &[u64; 6]) -> Result<i64, Error> {
        let thread = &threads[self.thread];
        let mut registers = thread.registers;
        registers[RIP] = self.syscall;
        registers[RAX] = nr as u64;
        registers[ORIG_RAX] = u64::MAX;
        for (index, value) in ARGUMENTS.into_iter().zip(args) {
            registers[index] = *value;
        }
        if let Some(frame) = &self.frame {
            match memory::write(self.pid, frame.address(), frame.bytes()) {
                Ok(count) if count == frame.bytes().len() => {}
                Ok(_) => return Err(fault(self.pid, thread.tid, "process_vm_writev", Errno::FAULT)),
                Err(source) => return Err(fault(self.pid, thread.tid, "process_vm_writev", source)),
            }
            registers[RSP] = frame.address();
        }
        go(self.pid, thread.tid, &registers, u64::MAX)?;
        self.step_over(thread.tid)
    }

    fn step_over(&self, tid: i32) -> Result<i64, Error> {
        let mut stops = 0;
        let mut resume_with = 0;
        loop {
            ptrace::cont_to_syscall(tid, resume_with)
                .map_err(|source| fault(self.pid, tid, "PTRACE_SYSCALL", source))?;
            resume_with = 0;
            match ptrace::wait(tid, true).map_err(|source| fault(self.pid, tid, "waitpid", source))? {
                Some(Stop::Syscall) => stops += 1,
                Some(Stop::Signal(signal)) => resume_with = signal,
                Some(Stop::Exited(_) | Stop::Killed(_)) => return Err(Error::Gone { pid: self.pid }),
                Some(Stop::Group(_) | Stop::Interrupt | Stop::Event(_)) | None => {}
            }
            // Entry, then exit.
            if stops == 2 {
                let registers = ptrace::registers(tid)
                    .map_err(|source| fault(self.pid, tid, "PTRACE_GETREGSET", source))?;
                return Ok(registers[RAX] as i64);
            }
        }
    }
}

/// Sets registers first: only with them in place is it right to run with another mask.
pub(crate) fn go(pid: i32, tid: i32, registers: &[u64; REGISTER_WORDS], mask: u64) -> Result<(), Error> {
    ptrace::set_registers(tid, registers).map_err(|source| fault(pid, tid, "PTRACE_SETREGSET", source))?;
    ptrace::set_signal_mask(tid, mask).map_err(|source| fault(pid, tid, "PTRACE_SETSIGMASK", source))
}

/// Says which call failed for thread `tid` of process `pid`, or that the process is gone.
pub(crate) fn fault(pid: i32, tid: i32, call: &'static str, source: Errno) -> Error {
    if source == Errno::SRCH { Error::Gone { pid } } else { Error::Kernel { call, tid, source } }
}

/// Builds the way back on the thread's own stack, if that is one whose bounds are known.
fn frame_on_stack(thread: &StoppedThread, mappings: &[Mapping], restorer: u64) -> Option<Frame> {
    let xstate = ptrace::xstate(thread.tid).ok()?;
    let len_bytes = Frame::len_bytes(xstate.len()) as u64;
    // Above a timeout that may lie at the end of the stack for the call the thread is in (`elapsed::shortened`): it is read
    // once more when the thread is frozen.
    let end = frame::end_of_stack(thread, mappings)? + elapsed::ROOM_BYTES;
    let address = frame::below_red_zone(thread, len_bytes).filter(|address| *address >= end)?;
    let shortened = restart::has_restart_block(&thread.registers)
        .then(|| elapsed::shortened(thread, elapsed::remaining(thread), mappings))
        .flatten();
    let registers = shortened.unwrap_or_else(|| thread.resume_registers());
    Some(Frame::new(address, &frame::restarted(&registers), &xstate, thread.mask, restorer))
}

/// Code by which calls can be made: where it lies.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    /// A `syscall`.
    syscall: Option<u64>,
    /// One with a `ret` behind it.
    returning: Option<u64>,
    /// What calls rt_sigreturn.
    restorer: Option<u64>,
}

impl Places {
    fn map(self, change: impl Fn(u64) -> u64) -> Self {
        Self {
            syscall: self.syscall.map(&change),
            returning: self.returning.map(&change),
            restorer: self.restorer.map(&change),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            syscall: self.syscall.or(other.syscall),
            returning: self.returning.or(other.returning),
            restorer: self.restorer.or(other.restorer),
        }
    }

    /// Looks for them in code, until those are found that go together.
    fn in_code(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let starts = bytes.windows(2).enumerate().filter(|(_, pair)| **pair == SYSCALL_RET[..2]);
        for (at, _) in starts {
            found.syscall = found.syscall.or(Some(at as u64));
            if bytes[at..].starts_with(&SYSCALL_RET) {
                found.returning = found.returning.or(Some(at as u64));
            }
            if bytes[..at + 2].ends_with(&RESTORER) {
                found.restorer = found.restorer.or(Some((at + 2 - RESTORER.len()) as u64));
            }
            if found.returning.is_some() && found.restorer.is_some() {
                break;
            }
        }
        found
    }
}

/// Looks for code in a mapping, and gives offsets in it. What was found in a file once is not looked for again, only at.
fn search(pid: i32, mapping: &Mapping) -> Places {
    /// A part of a file: device, inode, offset and length.
    type Part = (u64, u64, u64, u64);
    static KNOWN: Mutex<BTreeMap<Part, Places>> = Mutex::new(BTreeMap::new());
    let part = (mapping.device, mapping.inode, mapping.offset, mapping.end - mapping.start);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let places = known().get(&part).copied().filter(|_| mapping.inode != 0);
    if let Some(places) = places {
        let is = |offset: Option<u64>, code: &[u8]| {
            let mut there = [0; RESTORER.len()];
            let there = &mut there[..code.len()];
            offset.is_none_or(|offset| {
                memory::read(pid, mapping.start + offset, there) == Ok(code.len()) && there == code
            })
        };
        if is(places.syscall, &SYSCALL_RET[..2])
            && is(places.returning, &SYSCALL_RET)
            && is(places.restorer, &RESTORER)
        {
            return places;
        }
    }
    // Enough for every C library; what lies behind is not needed.
    let mut bytes = vec![0; (mapping.end - mapping.start).min(4 << 20) as usize];
    let got = memory::read(pid, mapping.start, &mut bytes).unwrap_or(0);
    let places = Places::in_code(&bytes[..got]);
    // A process that ends meanwhile shows nothing, of which the next one of the file has more.
    if mapping.inode != 0 && got == bytes.len() {
        known().insert(part, places);
    }
    places
}
