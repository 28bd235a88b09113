//! Tapes run by the threads of a process that is not ours.
//!
//! An [`Area`] of anonymous memory is mapped into the stopped process; it holds the interpreter, tapes and what their
//! calls point to. Where no memory may be both written and executed the interpreter has a page for itself. A thread is set to run a tape there, stops at its end, and gets its own registers back.
//!
//! **If we die** at any instant, a thread in the middle of a tape finishes it and leaves it by rt_sigreturn from a
//! frame with its true registers (see [`frame`]). The two calls that are made outside of the area, to
//! map and to unmap it, go through an existing `syscall; ret` with a frame on the thread's own stack. An area left
//! behind is inert, lies at one of a few addresses, starts with a magic word, and is removed by [`sweep`].
//!
//! Nothing here single-steps or ends in a breakpoint: both leave a trap that kills the process once its tracer is
//! gone. A tape ends with a signal to the thread itself that the process ignores.
//!
//! The calls of a tape must not block: a call that is interrupted would replace the thread's restart block.

use crate::frame::{self, Frame};
use crate::gateway::{self, Gateway};
use crate::interpreter;
use crate::restart::{ORIG_RAX, RIP, RSP};
use crate::seize::{StoppedProcess, StoppedThread};
use crate::tape::Tape;
use frost_abi::tape::Entry;
use frost_sys::memory;
use frost_sys::proc::Mapping;
use frost_sys::ptrace::{self, Stop};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ops::Range;

/// Why a tape could not be run. The threads have their own registers again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process was killed meanwhile.
    #[error("process {pid} was killed")]
    Gone {
        /// Which.
        pid: i32,
    },
    /// No executable mapping holds a system call instruction.
    #[error("process {pid} has no system call instruction in its memory")]
    NoSyscall {
        /// Which.
        pid: i32,
    },
    /// No address is free for the area, or it may not be mapped.
    #[error("no executable page can be mapped in process {pid}: {why}")]
    NoArea {
        /// Which.
        pid: i32,
        /// What stands in the way.
        why: String,
    },
    /// A call failed that should not.
    #[error("{call} failed for thread {tid}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// The thread.
        tid: i32,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A thread stopped for a reason of its own.
    #[error("thread {tid} stopped unexpectedly: {stop:?}")]
    Astray {
        /// The thread.
        tid: i32,
        /// How.
        stop: Stop,
    },
}

/// First word of an area.
const MAGIC: [u8; 16] = *b"permafrost-area\0";
/// Where an area may lie: a fixed choice, so that one left behind is found again.
const ADDRESSES: [u64; 6] =
    [0x10_0000_0000, 0x20_0000_0000, 0x1000_0000_0000, 0x3000_0000_0000, 0x6800_0000_0000, 0x3000_0000];
/// Bytes of an area.
pub const AREA_BYTES: u64 = 1 << 20;
/// Where the interpreter starts in it, behind the magic word.
const CODE: u64 = 16;
/// Where tapes and data may start.
const FREE: u64 = 512;
/// The same where the interpreter has a page for itself.
const FREE_BEHIND_PAGE: u64 = PAGE_BYTES;
const PAGE_BYTES: u64 = 4096;

/// Memory of ours in a stopped process.
#[derive(Debug)]
pub struct Area<'a> {
    process: &'a StoppedProcess,
    address: u64,
    /// Where tapes and data may start in it.
    free: u64,
    gateway: Gateway,
    signal: i32,
    mapped: bool,
}

/// A tape for one thread.
#[derive(Debug)]
pub struct Job {
    /// Index of the thread in [`StoppedProcess::threads`].
    pub thread: usize,
    /// Its calls, without an end of their own; after [`Area::run`] with their results.
    pub tape: Vec<Entry>,
    /// What the calls point to; after [`Area::run`] what they left there.
    pub data: Vec<u8>,
    /// Calls that are made only if we die before the thread was stopped at the end of its tape: what it takes to
    /// leave nothing behind.
    pub cleanup: Vec<Entry>,
}

impl Job {
    /// Starts an empty job.
    pub fn new(thread: usize) -> Self {
        Self { thread, tape: Vec::new(), data: Vec::new(), cleanup: Vec::new() }
    }
}

/// Jobs of one thread that are run by one tape: each time a thread is set to run and stops again, another processor may
/// have to be woken for it, which takes as long as hundreds of calls.
#[derive(Debug)]
pub struct Chain {
    thread: usize,
    /// Where data lies in the area.
    address: u64,
    data: Vec<u8>,
    tape: Vec<Entry>,
    /// Which of the data and of the calls are each job's.
    parts: Vec<(Range<usize>, Range<usize>)>,
}

impl Chain {
    /// Adds a job, made for the address at which its data will lie.
    pub fn add(&mut self, make: impl FnOnce(u64) -> Job) {
        let at = self.data.len().next_multiple_of(64);
        let job = make(self.address + at as u64);
        self.data.resize(at, 0);
        self.data.extend(&job.data);
        let calls = self.tape.len()..self.tape.len() + job.tape.len();
        self.tape.extend(job.tape);
        self.parts.push((at..self.data.len(), calls));
    }
}

impl<'a> Area<'a> {
    /// Maps an area into `process`, whose mappings are given in ascending order.
    ///
    /// # Errors
    /// See [`Error`]; the process is as it was.
    pub fn map(process: &'a StoppedProcess, mappings: &[Mapping]) -> Result<Self, Error> {
        let gateway = Gateway::find(process.through, &process.threads, mappings)?;
        let free = |address: &&u64| {
            !mappings.iter().any(|mapping| mapping.start < **address + AREA_BYTES && **address < mapping.end)
        };
        let address = ADDRESSES.iter().find(free).copied().ok_or_else(|| Error::NoArea {
            pid: process.pid,
            why: "every address for it is in use".to_owned(),
        })?;
        let mut area =
            Self { process, address, free: FREE, gateway, signal: stop_signal(process), mapped: false };
        let mut head = MAGIC.to_vec();
        head.extend(interpreter::code());
        let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        match area.map_part(address, AREA_BYTES, read | write | execute, libc::MAP_FIXED_NOREPLACE)? {
            Ok(()) => {
                area.mapped = true;
                area.write(address, &head)?;
            }
            // PR_SET_MDWE, or what a security module has against it (execmem): code that was never writable is let through.
            Err(Errno::ACCESS | Errno::PERM) => {
                let refused = |why: Errno| Error::NoArea { pid: process.pid, why: why.to_string() };
                // All of it first, so that it is found again if we die in between.
                area.map_part(address, AREA_BYTES, read | execute, libc::MAP_FIXED_NOREPLACE)?
                    .map_err(refused)?;
                area.mapped = true;
                area.free = FREE_BEHIND_PAGE;
                let behind = address + PAGE_BYTES;
                area.map_part(behind, AREA_BYTES - PAGE_BYTES, read | write, libc::MAP_FIXED)?
                    .map_err(refused)?;
                area.write_code(&head)?;
            }
            Err(why) => return Err(Error::NoArea { pid: process.pid, why: why.to_string() }),
        }
        Ok(area)
    }

    /// Maps anonymous memory; the inner error is that of the call.
    fn map_part(
        &mut self,
        address: u64,
        len_bytes: u64,
        rights: i32,
        how: i32,
    ) -> Result<Result<(), Errno>, Error> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | how;
        let args = [address, len_bytes, rights as u64, flags as u64, u64::MAX, 0];
        let result = self.call_outside(libc::SYS_mmap, args)?;
        Ok(if result < 0 { Err(Errno::from_raw_os_error(-result as i32)) } else { Ok(()) })
    }

    /// Writes the head of an area that the process itself may not write to: who traces it may, to private memory (FOLL_FORCE,
    /// `check_vma_flags`, mm/gup.c).
    fn write_code(&self, head: &[u8]) -> Result<(), Error> {
        let path = frost_sys::proc::path(self.process.through, "mem");
        let written = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|mem| rustix::io::pwrite(&mem, head, self.address));
        let thread = &self.process.threads[self.gateway.thread()];
        match written {
            Ok(count) if count == head.len() => Ok(()),
            Ok(_) => Err(self.fault("pwrite to its memory", thread, Errno::FAULT)),
            Err(source) => Err(self.fault("pwrite to its memory", thread, source)),
        }
    }

    /// Returns the number by which the process knows itself.
    pub fn process_number(&self) -> i32 {
        self.process.own
    }

    /// Returns how many bytes a job may take, its tape and data, if `jobs` of them run at a time.
    pub fn room(&self, jobs: usize) -> usize {
        (AREA_BYTES - self.free) as usize / jobs.max(1) / 64 * 64
    }

    /// Returns how many jobs of `bytes` bytes (tape and data) can run at a time.
    pub fn capacity(&self, bytes: usize) -> usize {
        ((AREA_BYTES - self.free) as usize / (bytes + self.overhead()).next_multiple_of(64)).max(1)
    }

    /// What a job takes beside its own tape and data: the end of its tape and a frame.
    fn overhead(&self) -> usize {
        4 * frost_abi::tape::ENTRY_BYTES + Frame::len_bytes(12 * 1024) + 128
    }

    /// Returns the address at which the data of job `index` will lie when `jobs` run at a time, so that its calls
    /// can point to it.
    pub fn data_address(&self, index: usize, jobs: usize) -> u64 {
        self.address + self.free + (index * self.room(jobs)) as u64
    }

    /// Runs jobs, at most one for each thread, all at the same time.
    ///
    /// Data lies at the start of each job's room, then its tape, then its frame.
    ///
    /// # Errors
    /// The first failure; every thread that can be reached has its own registers again.
    pub fn run(&mut self, jobs: &mut [Job]) -> Result<(), Error> {
        let count = jobs.len();
        let mut started = Vec::with_capacity(count);
        let mut outcome = Ok(());
        for (index, job) in jobs.iter().enumerate() {
            match self.start(index, count, job) {
                Ok(tape) => started.push(tape),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // The last one first: whoever waits for a thread is woken by that one only, and finds most of the others there.
        for (job, tape) in jobs.iter_mut().zip(&started).rev() {
            let thread = &self.process.threads[job.thread];
            let ended = self.wait_for_end(thread).and_then(|()| self.collect(job, *tape));
            let restored = restore(thread);
            outcome = outcome.and(ended).and(restored);
        }
        outcome
    }

    /// Begins a chain of jobs of a thread.
    pub fn chain(&self, thread: usize) -> Chain {
        let address = self.data_address(0, 1);
        Chain { thread, address, data: Vec::new(), tape: Vec::new(), parts: Vec::new() }
    }

    /// Runs a chain; returns its jobs with their results, in the order in which they were added.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_chain(&mut self, chain: Chain) -> Result<Vec<Job>, Error> {
        let Chain { thread, data, tape, parts, .. } = chain;
        let mut jobs = [Job { tape, data, ..Job::new(thread) }];
        self.run(&mut jobs)?;
        let [whole] = jobs;
        let part = |(data, calls): (Range<usize>, Range<usize>)| Job {
            data: whole.data[data].to_vec(),
            tape: whole.tape[calls].to_vec(),
            ..Job::new(thread)
        };
        Ok(parts.into_iter().map(part).collect())
    }

    /// Runs one job that stops once on its way: behind `before` calls of its tape `between` is given the results so
    /// far, then the rest is run.
    ///
    /// Should we die amid it, the rest is run all the same: what the first calls have made, the others can take away.
    ///
    /// # Errors
    /// As [`run`](Self::run); `between` may then not have been called.
    pub fn run_halting<T>(
        &mut self,
        job: &mut Job,
        before: usize,
        between: impl FnOnce(&Job) -> T,
    ) -> Result<T, Error> {
        let mut whole =
            Job { thread: job.thread, tape: job.tape.clone(), data: job.data.clone(), ..Job::new(0) };
        whole.cleanup.clone_from(&job.cleanup);
        let thread = &self.process.threads[job.thread];
        whole.tape.insert(before, self.halt(thread));
        let place = self.start(0, 1, &whole)?;
        let outcome =
            self.wait_for_end(thread).and_then(|()| self.collect(&mut whole, place)).and_then(|()| {
                let mut so_far = Job { data: whole.data.clone(), ..Job::new(job.thread) };
                so_far.tape = whole.tape[..before].to_vec();
                let outcome = between(&so_far);
                ptrace::cont(thread.tid, 0).map_err(|source| self.fault("PTRACE_CONT", thread, source))?;
                self.wait_for_end(thread)?;
                self.collect(&mut whole, place)?;
                Ok(outcome)
            });
        let restored = restore(thread);
        whole.tape.remove(before);
        job.tape = whole.tape;
        job.data = whole.data;
        restored.and(outcome)
    }

    /// Returns the address at which call `index` of the only job, without data, will lie.
    pub fn entry_address(&self, index: usize) -> u64 {
        self.data_address(0, 1).next_multiple_of(64) + (index * frost_abi::tape::ENTRY_BYTES) as u64
    }

    /// The call by which a thread comes back to us: a signal to itself that the process ignores.
    fn halt(&self, thread: &StoppedThread) -> Entry {
        let ids = [self.process.own as u64, thread.own as u64, self.signal as u64];
        Entry::call(libc::SYS_tgkill as u64, [ids[0], ids[1], ids[2], 0, 0, 0])
    }

    /// Unmaps the area.
    ///
    /// # Errors
    /// See [`Error`]; the area may then be left behind for [`sweep`].
    pub fn unmap(mut self) -> Result<(), Error> {
        self.unmap_now()
    }

    fn unmap_now(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.mapped, false) {
            self.call_outside(libc::SYS_munmap, [self.address, AREA_BYTES, 0, 0, 0, 0])?;
        }
        Ok(())
    }

    fn start(&self, index: usize, count: usize, job: &Job) -> Result<(u64, usize), Error> {
        let thread = &self.process.threads[job.thread];
        let data_at = self.data_address(index, count);
        let tape_at = (data_at + job.data.len() as u64).next_multiple_of(64);
        let mut tape = Tape::at(tape_at);
        for entry in &job.tape {
            tape.push(*entry);
        }
        tape.push(self.halt(thread));
        for entry in &job.cleanup {
            tape.push(*entry);
        }
        let frame_at = (tape.end() + frost_abi::tape::ENTRY_BYTES as u64).next_multiple_of(64);
        let xstate =
            ptrace::xstate(thread.tid).map_err(|source| self.fault("PTRACE_GETREGSET", thread, source))?;
        let registers = frame::restarted(&thread.resume_registers());
        let way_back = Frame::new(frame_at, &registers, &xstate, thread.mask, 0);
        // Only if we are gone: with us, the thread is given its registers at the stop before this entry.
        let syscall = self.address + CODE + interpreter::after_syscall() as u64 - 2;
        let sigreturn = libc::SYS_rt_sigreturn as u64;
        tape.push(Entry::leave(syscall, way_back.sigreturn_stack(), sigreturn, 0, 0));
        if frame_at + way_back.bytes().len() as u64 > data_at + self.room(count) as u64 {
            return Err(Error::NoArea { pid: self.process.pid, why: "a tape is too long".to_owned() });
        }
        let mut bytes = job.data.clone();
        bytes.resize((tape_at - data_at) as usize, 0);
        bytes.extend(tape.to_bytes());
        bytes.resize((frame_at - data_at) as usize, 0);
        bytes.extend(way_back.bytes());
        self.write(data_at, &bytes)?;

        let mut registers = thread.registers;
        registers[RIP] = self.address + CODE;
        registers[RSP] = tape_at;
        registers[ORIG_RAX] = u64::MAX;
        gateway::go(self.process.pid, thread.tid, &registers, !(1u64 << (self.signal - 1)))?;
        ptrace::cont(thread.tid, 0).map_err(|source| self.fault("PTRACE_CONT", thread, source))?;
        Ok((tape_at, job.tape.len()))
    }

    fn wait_for_end(&self, thread: &StoppedThread) -> Result<(), Error> {
        let end = self.address + CODE + interpreter::after_syscall() as u64;
        loop {
            let stop =
                ptrace::wait(thread.tid, true).map_err(|source| self.fault("waitpid", thread, source))?;
            let resume_with = match stop {
                Some(Stop::Signal(signal)) if signal == self.signal => {
                    let registers = ptrace::registers(thread.tid)
                        .map_err(|source| self.fault("PTRACE_GETREGSET", thread, source))?;
                    if registers[RIP] == end {
                        return Ok(());
                    }
                    signal
                }
                // Faults of our own making would come as these; passing them on would kill the program.
                Some(stop @ Stop::Signal(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGSYS)) => {
                    return Err(Error::Astray { tid: thread.tid, stop });
                }
                Some(Stop::Signal(signal)) => signal,
                Some(Stop::Exited(_) | Stop::Killed(_)) => return Err(Error::Gone { pid: self.process.pid }),
                Some(Stop::Group(_) | Stop::Interrupt | Stop::Syscall | Stop::Event(_)) | None => 0,
            };
            ptrace::cont(thread.tid, resume_with)
                .map_err(|source| self.fault("PTRACE_CONT", thread, source))?;
        }
    }

    fn collect(&self, job: &mut Job, (tape_at, entries): (u64, usize)) -> Result<(), Error> {
        let mut bytes = vec![0; entries * frost_abi::tape::ENTRY_BYTES];
        self.read(tape_at, &mut bytes)?;
        for (entry, raw) in job.tape.iter_mut().zip(bytes.chunks_exact(frost_abi::tape::ENTRY_BYTES)) {
            let mut word = [0; 8];
            word.copy_from_slice(&raw[frost_abi::tape::RESULT_OFFSET..][..8]);
            entry.result = i64::from_ne_bytes(word);
        }
        let data_at = (tape_at - job.data.len() as u64) & !63;
        if job.data.is_empty() { Ok(()) } else { self.read(data_at, &mut job.data) }
    }

    /// Makes one call from the process' own code, before the area exists or as it goes.
    fn call_outside(&self, nr: libc::c_long, args: [u64; 6]) -> Result<i64, Error> {
        let threads = &self.process.threads;
        let result = self.gateway.call(threads, nr, &args);
        restore(&threads[self.gateway.thread()])?;
        result
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let thread = &self.process.threads[self.gateway.thread()];
        match memory::write(self.process.through, address, bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) => Err(self.fault("process_vm_writev", thread, Errno::FAULT)),
            Err(source) => Err(self.fault("process_vm_writev", thread, source)),
        }
    }

    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Error> {
        let thread = &self.process.threads[self.gateway.thread()];
        match memory::read(self.process.through, address, out) {
            Ok(count) if count == out.len() => Ok(()),
            Ok(_) => Err(self.fault("process_vm_readv", thread, Errno::FAULT)),
            Err(source) => Err(self.fault("process_vm_readv", thread, source)),
        }
    }

    fn fault(&self, call: &'static str, thread: &StoppedThread, source: Errno) -> Error {
        gateway::fault(self.process.pid, thread.tid, call, source)
    }
}

impl Drop for Area<'_> {
    fn drop(&mut self) {
        // Nothing is lost if it fails: the area is inert, and the next command removes it.
        let _ = self.unmap_now();
    }
}

/// Gives a thread its own mask and registers back.
///
/// The mask first: until it has its registers the thread finds back through its frame, which has the mask too. With its
/// registers and without its mask it would go on with all signals blocked, should we die in between.
fn restore(thread: &StoppedThread) -> Result<(), Error> {
    let set = ptrace::set_signal_mask(thread.tid, thread.mask)
        .and_then(|()| ptrace::set_registers(thread.tid, &thread.resume_registers()));
    match set {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(source) => Err(Error::Kernel { call: "PTRACE_SETREGSET", tid: thread.tid, source }),
    }
}

/// Chooses the signal by which a tape ends: one that the process does not catch and whose default is to be
/// ignored, so that nothing happens should it be delivered.
fn stop_signal(process: &StoppedProcess) -> i32 {
    let taken = process.status.caught | process.status.pending | process.status.shared_pending;
    let candidates = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD, libc::SIGCONT];
    let free = |signal: &&i32| taken & (1 << (**signal - 1)) == 0;
    candidates.iter().find(free).copied().unwrap_or(libc::SIGURG)
}

/// Unmaps an area that a tracer which died has left in `process`; tells whether there was one.
///
/// # Errors
/// As for [`Area::map`].
pub fn sweep(process: &StoppedProcess, mappings: &[Mapping]) -> Result<bool, Error> {
    for mapping in mappings.iter().filter(|mapping| is_leftover(process.through, mapping)) {
        let inside = |thread: &StoppedThread| {
            (mapping.start..mapping.end).contains(&thread.registers[RIP])
                || (mapping.start..mapping.end).contains(&thread.registers[RSP])
        };
        if process.threads.iter().any(inside) {
            // It is still on its way out; it will be gone from there in microseconds.
            continue;
        }
        let gateway = Gateway::find(process.through, &process.threads, mappings)?;
        let (address, signal) = (mapping.start, stop_signal(process));
        let area = Area { process, address, free: FREE, gateway, signal, mapped: true };
        area.unmap()?;
        return Ok(true);
    }
    crate::leftover::sweep(process, mappings)
}

/// Returns whether a mapping is an area of ours that was left behind.
pub fn is_leftover(pid: i32, mapping: &Mapping) -> bool {
    let mut head = [0; MAGIC.len()];
    let len_bytes = mapping.end - mapping.start;
    ADDRESSES.contains(&mapping.start)
        // The page of the interpreter, where that has one for itself.
        && (len_bytes == AREA_BYTES || len_bytes == PAGE_BYTES && !mapping.write)
        && mapping.execute
        && mapping.inode == 0
        && memory::read(pid, mapping.start, &mut head).is_ok()
        // Died between the call that maps it and the write of the magic word: all zero.
        && (head == MAGIC || head == [0; MAGIC.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seize::StoppedTree;
    use std::process::{Child, Command};
    use std::time::Duration;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_stopped_process_makes_our_calls_and_forgets_them() {
        let child = sleeper();
        let pid = child.id() as i32;
        // Until it sleeps it may still be in the dynamic linker.
        while !frost_sys::proc::read(pid, "syscall").unwrap().starts_with(b"230 ") {
            std::thread::yield_now();
        }
        let before = frost_sys::proc::mappings(pid).unwrap();
        for _ in 0..20 {
            let tree = StoppedTree::stop(pid, None, Duration::from_secs(5)).unwrap();
            let process = &tree.processes()[0];
            let registers = process.threads[0].registers;
            let mut area = Area::map(process, &frost_sys::proc::mappings(pid).unwrap()).unwrap();
            let mut job = Job::new(0);
            job.data = vec![0; 256];
            let data = area.data_address(0, 1);
            job.tape.push(Entry::call(libc::SYS_getpid as u64, [0; 6]));
            job.tape.push(Entry::call(libc::SYS_getcwd as u64, [data, 256, 0, 0, 0, 0]));
            job.tape.push(Entry::call(libc::SYS_close as u64, [u64::MAX, 0, 0, 0, 0, 0]));
            let mut jobs = [job];
            area.run(&mut jobs).unwrap();
            assert_eq!(jobs[0].tape[0].result, i64::from(pid));
            let cwd = std::env::current_dir().unwrap();
            assert!(jobs[0].data.starts_with(cwd.as_os_str().as_encoded_bytes()));
            assert_eq!(jobs[0].tape[2].result, -i64::from(libc::EBADF));
            area.unmap().unwrap();
            assert_eq!(ptrace::registers(pid).unwrap(), registers);
            tree.resume();
        }
        assert_eq!(frost_sys::proc::mappings(pid).unwrap(), before);
        assert_eq!(frost_sys::proc::status(pid).unwrap().tracer, 0);
        end(child);
    }

    #[test]
    fn a_tape_halts_on_its_way_and_takes_away_what_it_made() {
        let child = sleeper();
        let pid = child.id() as i32;
        while !frost_sys::proc::read(pid, "syscall").unwrap().starts_with(b"230 ") {
            std::thread::yield_now();
        }
        let before = frost_sys::proc::numbers(pid, "fd").unwrap();
        let tree = StoppedTree::stop(pid, None, Duration::from_secs(5)).unwrap();
        let process = &tree.processes()[0];
        let mut area = Area::map(process, &frost_sys::proc::mappings(pid).unwrap()).unwrap();
        let mut job = Job::new(0);
        job.tape.push(Entry::call(libc::SYS_dup as u64, [0; 6]));
        job.tape.push(Entry::call(libc::SYS_close as u64, [u64::MAX, 0, 0, 0, 0, 0]));
        job.tape[0].forward = area.entry_address(2) + Entry::arg_offset(0) as u64;
        let seen = area
            .run_halting(&mut job, 1, |so_far| {
                (so_far.tape[0].result, frost_sys::proc::numbers(pid, "fd").unwrap())
            })
            .unwrap();
        assert!(seen.1.contains(&(seen.0 as i32)) && !before.contains(&(seen.0 as i32)));
        assert_eq!((job.tape.len(), job.tape[1].result), (2, 0));
        area.unmap().unwrap();
        tree.resume();
        assert_eq!(frost_sys::proc::numbers(pid, "fd").unwrap(), before);
        end(child);
    }

    #[test]
    fn an_area_left_behind_is_swept() {
        let child = sleeper();
        let pid = child.id() as i32;
        while !frost_sys::proc::read(pid, "syscall").unwrap().starts_with(b"230 ") {
            std::thread::yield_now();
        }
        let tree = StoppedTree::stop(pid, None, Duration::from_secs(5)).unwrap();
        let process = &tree.processes()[0];
        let mut area = Area::map(process, &frost_sys::proc::mappings(pid).unwrap()).unwrap();
        area.mapped = false;
        drop(area);
        assert!(sweep(process, &frost_sys::proc::mappings(pid).unwrap()).unwrap());
        assert!(!sweep(process, &frost_sys::proc::mappings(pid).unwrap()).unwrap());
        tree.resume();
        end(child);
    }
}
