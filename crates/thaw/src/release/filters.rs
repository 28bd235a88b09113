//! The program's own filters of system calls: the last thing that a thread gets, since nothing takes one off again.
//!
//! Our area is gone by then, and a filter may forbid whatever we would still want of the thread. So each is installed by
//! the program's own code, from memory of the program that gets its content back at once.

use super::to_interrupt;
use crate::build::Half;
use frost_model::Process;
use frost_model::cpu::Thread;
use frost_model::pd::Filter;
use frost_model::pd::filter::{FOR_ALL, LOGS, installation};
use frost_sys::proc::Mapping;
use frost_sys::{memory, ptrace};
use frost_tracee::gateway::Gateway;
use frost_tracee::inject;
use frost_tracee::seize::StoppedThread;
use rustix::io::Errno;

/// SECCOMP_FILTER_FLAG_SPEC_ALLOW: what is turned off of the processor stands in the image by itself.
const SPEC_ALLOW: u64 = 4;
/// `struct sock_fprog`.
const HEAD_BYTES: usize = 16;

/// Installs the filters of all threads of a process, which are at the end of a thaw, and have their registers afterwards.
///
/// What all threads have they get in one call, as a filter that they share: a thread may give its filters to the others
/// (SECCOMP_FILTER_FLAG_TSYNC) only as long as what these have is a part of its own.
pub(super) fn install(
    half: &Half<'_>,
    process: &Process,
    threads: &[StoppedThread],
    mappings: &[Mapping],
) -> Result<(), inject::Error> {
    let pid = process.pd.relation.pid.raw();
    let all = &process.cpu.threads;
    let filters = |thread: &Thread| -> Vec<&Filter> {
        thread.filters.iter().map(|index| &half.checkpoint.objects.filters[*index as usize]).collect()
    };
    let gateway = Gateway::find(pid, threads, mappings)?;
    let installer = Installer { pid, threads, mappings, gateway };
    // In a nest the first one was put on when all rights were there, and threads have inherited it.
    let nested = half.checkpoint.nest_of(process.pd.relation.pid).is_some();
    let mut common = usize::from(nested && !all[0].filters.is_empty());
    if all.len() > 1
        && all.iter().all(|thread| no_new_privs(process, thread) == no_new_privs(process, &all[0]))
    {
        let leader = filters(&all[0]);
        while common < leader.len()
            && all.iter().all(|thread| thread.filters.get(common) == all[0].filters.get(common))
            && installer.install(&all[0], &leader[..=common], FOR_ALL)?
        {
            common += 1;
        }
    }
    for thread in all {
        let chain = filters(thread);
        for count in common..chain.len() {
            if !installer.install(thread, &chain[..=count], 0)? {
                return Err(installer.failed(thread.tid.raw(), Errno::PERM));
            }
        }
    }
    Ok(())
}

fn no_new_privs(process: &Process, thread: &Thread) -> bool {
    thread.credentials.as_ref().unwrap_or(&process.pd.credentials).no_new_privs
}

struct Installer<'a> {
    pid: i32,
    threads: &'a [StoppedThread],
    mappings: &'a [Mapping],
    gateway: Gateway,
}

impl Installer<'_> {
    fn failed(&self, tid: i32, source: Errno) -> inject::Error {
        inject::Error::Kernel { call: "seccomp", tid, source }
    }

    /// Lets a thread install the last of `chain`, whose others it has; whether they let it.
    fn install(&self, thread: &Thread, chain: &[&Filter], flags: u64) -> Result<bool, inject::Error> {
        let tid = thread.tid.raw();
        let Some((last, installed)) = chain.split_last() else { return Ok(true) };
        let flags = flags | SPEC_ALLOW | if last.logs { LOGS } else { 0 };
        let Some((nr, [first, second])) = installation(installed, flags) else { return Ok(false) };
        let index = self.threads.iter().position(|stopped| stopped.tid == tid);
        let index = index.ok_or_else(|| self.failed(tid, Errno::SRCH))?;
        let gateway = self.gateway.of_thread(self.threads, index, self.mappings);
        let len_bytes = HEAD_BYTES + last.code.len();
        let mut outcome = Err(self.failed(tid, Errno::NOMEM));
        for address in places(self.mappings, &self.threads[index], len_bytes as u64) {
            let mut program = Vec::with_capacity(len_bytes);
            let count = (last.code.len() / frost_model::pd::filter::INSTRUCTION_BYTES) as u64;
            program.extend(count.to_ne_bytes());
            program.extend((address + HEAD_BYTES as u64).to_ne_bytes());
            program.extend(&last.code);
            let mut before = vec![0; len_bytes];
            if memory::read(self.pid, address, &mut before) != Ok(len_bytes) {
                continue;
            }
            let written = memory::write(self.pid, address, &program);
            let made = (written == Ok(len_bytes))
                .then(|| gateway.call(self.threads, nr as libc::c_long, &[first, second, address, 0, 0, 0]));
            let back = memory::write(self.pid, address, &before);
            let Some(result) = made else { continue };
            self.give_back(index)?;
            outcome = match (result?, back) {
                (0, Ok(count)) if count == len_bytes => return Ok(true),
                (0, _) => Err(self.failed(tid, Errno::FAULT)),
                // Another thread would have to have less than it has; each gets its own, then.
                (1.., _) => return Ok(false),
                (errno, _) => Err(self.failed(tid, Errno::from_raw_os_error(-errno as i32))),
            };
            // Memory that the thread itself may not read, by a protection key as it may be.
            if !matches!(outcome, Err(inject::Error::Kernel { source: Errno::FAULT, .. })) {
                break;
            }
        }
        outcome
    }

    /// Gives a thread that has made a call its own registers.
    fn give_back(&self, index: usize) -> Result<(), inject::Error> {
        let thread = &self.threads[index];
        to_interrupt(thread.tid)
            .and_then(|()| ptrace::set_signal_mask(thread.tid, thread.mask))
            .and_then(|()| ptrace::set_registers(thread.tid, &thread.registers))
            .map_err(|source| self.failed(thread.tid, source))
    }
}

/// Where `len_bytes` may be put for a moment in which nothing else of the process runs: in memory of its own alone, and
/// below where the thread's stack is in use.
fn places(mappings: &[Mapping], thread: &StoppedThread, len_bytes: u64) -> impl Iterator<Item = u64> + use<> {
    /// More than a frame on the thread's stack takes.
    const FRAME_BYTES: u64 = 64 << 10;
    let stack = thread.registers[frost_tracee::restart::RSP];
    let fits = |mapping: &&Mapping| {
        let end = if (mapping.start..mapping.end).contains(&stack) {
            stack.saturating_sub(FRAME_BYTES)
        } else {
            mapping.end
        };
        let ours = mapping.read && mapping.write && !mapping.shared && mapping.inode == 0;
        ours && end.saturating_sub(mapping.start) >= len_bytes
    };
    let places: Vec<u64> = mappings.iter().filter(fits).map(|mapping| mapping.start).collect();
    places.into_iter()
}
