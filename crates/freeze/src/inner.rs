//! The few facts that only a process itself can read, read by tapes.

use frost_abi::tape::Entry;
use frost_model::clock::{TimerSpec, Timespec};
use frost_model::cpu::{AltStack, ThreadSettings};
use frost_model::pd::{IntervalTimers, SIGNALS, SignalAction};
use frost_sys::proc::{self, Mapping, Timer};
use frost_tracee::inject::{self, Area, Job};
use frost_tracee::seize::StoppedProcess;

/// Facts of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessFacts {
    pub(crate) actions: Vec<SignalAction>,
    pub(crate) interval_timers: IntervalTimers,
    /// Setting and overrun of each timer asked for.
    pub(crate) timers: Vec<(TimerSpec, i32)>,
    pub(crate) brk: u64,
    pub(crate) dumpable: u32,
    pub(crate) subreaper: bool,
    pub(crate) thp_disable: bool,
    pub(crate) mdwe: u32,
    pub(crate) lock_future: u32,
    pub(crate) memory_merge: bool,
    pub(crate) membarrier: u32,
    /// One for each thread, in their order.
    pub(crate) threads: Vec<ThreadFacts>,
}

/// Facts of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThreadFacts {
    pub(crate) alt_stack: AltStack,
    pub(crate) clear_child_tid: u64,
    pub(crate) parent_death_signal: i32,
    pub(crate) timer_slack_ns: u64,
    pub(crate) securebits: u32,
    pub(crate) settings: ThreadSettings,
}

// Numbers of prctl(2), include/uapi/linux/prctl.h.
const PR_GET_PDEATHSIG: u64 = 2;
const PR_GET_DUMPABLE: u64 = 3;
const PR_GET_TSC: u64 = 25;
const PR_GET_SECUREBITS: u64 = 27;
const PR_GET_TIMERSLACK: u64 = 30;
const PR_MCE_KILL_GET: u64 = 34;
const PR_GET_CHILD_SUBREAPER: u64 = 37;
const PR_GET_TID_ADDRESS: u64 = 40;
const PR_GET_THP_DISABLE: u64 = 42;
const PR_GET_SPECULATION_CTRL: u64 = 52;
const PR_GET_IO_FLUSHER: u64 = 58;
const PR_GET_MDWE: u64 = 66;
const PR_GET_MEMORY_MERGE: u64 = 68;
/// All of them: a process whose filters forbid one of these cannot be asked.
pub(crate) const ASKED_BY_PRCTL: [u64; 13] = [
    PR_GET_PDEATHSIG,
    PR_GET_DUMPABLE,
    PR_GET_TSC,
    PR_GET_SECUREBITS,
    PR_GET_TIMERSLACK,
    PR_MCE_KILL_GET,
    PR_GET_CHILD_SUBREAPER,
    PR_GET_TID_ADDRESS,
    PR_GET_THP_DISABLE,
    PR_GET_SPECULATION_CTRL,
    PR_GET_IO_FLUSHER,
    PR_GET_MDWE,
    PR_GET_MEMORY_MERGE,
];
/// PR_TSC_SIGSEGV.
const TSC_SIGSEGV: u32 = 2;
/// PR_MCE_KILL_DEFAULT.
const MCE_KILL_DEFAULT: i64 = 2;
/// Bits of a misfeature that was turned off: PR_SPEC_DISABLE, PR_SPEC_FORCE_DISABLE, PR_SPEC_DISABLE_NOEXEC.
const SPEC_OFF: u32 = 1 << 2 | 1 << 3 | 1 << 4;
/// PR_SPEC_PRCTL: it can be set for each thread.
const SPEC_PRCTL: u32 = 1;
/// MEMBARRIER_CMD_GET_REGISTRATIONS, Linux 6.3.
const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;

const ACTION_BYTES: usize = 32;
const SPEC_BYTES: usize = 32;
/// Bytes of data that a thread's own calls need: stack_t, an address, two integers.
const THREAD_DATA_BYTES: usize = 24 + 8 + 8 + 8;
/// Bytes that a job of a thread takes, its tape included.
const THREAD_JOB_BYTES: usize = THREAD_DATA_BYTES + 11 * frost_abi::tape::ENTRY_BYTES;

/// Reads the facts of a stopped process.
pub(crate) fn read(
    process: &StoppedProcess,
    mappings: &[Mapping],
    timers: &[Timer],
) -> Result<ProcessFacts, inject::Error> {
    let locked = locked_kib(process.through);
    let mut area = Area::map(process, mappings)?;
    let mut facts = read_process(&mut area, timers)?;
    if locked_kib(process.through) > locked {
        facts.lock_future = lock_future(process.through, area.data_address(0, 1));
    }
    let indices: Vec<usize> = (0..process.threads.len()).collect();
    for batch in indices.chunks(area.capacity(THREAD_JOB_BYTES)) {
        facts.threads.extend(read_threads(&mut area, batch)?);
    }
    area.unmap()?;
    Ok(facts)
}

/// Returns how much of a process is locked in memory.
fn locked_kib(pid: i32) -> u64 {
    let status = proc::read(pid, "status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Tells what mlockall(2) does with mappings to come: nothing tells but a mapping that came, as our area.
fn lock_future(pid: i32, address: u64) -> u32 {
    const MCL_ONFAULT: i32 = 4;
    let mappings = proc::mappings(pid).unwrap_or_default();
    let area = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
    let on_fault = area.is_some_and(|area| area.flags.has(*b"lf"));
    (libc::MCL_FUTURE | if on_fault { MCL_ONFAULT } else { 0 }) as u32
}

fn read_process(area: &mut Area<'_>, timers: &[Timer]) -> Result<ProcessFacts, inject::Error> {
    let data = area.data_address(0, 1);
    let specs_at = SIGNALS * ACTION_BYTES;
    let subreaper_at = specs_at + (3 + timers.len()) * SPEC_BYTES;
    let mut job = Job::new(0);
    job.data = vec![0; subreaper_at + 8];
    let mut call = |nr: libc::c_long, args: &[u64]| {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        job.tape.push(Entry::call(nr as u64, all));
        job.tape.len() - 1
    };
    for signal in 0..SIGNALS {
        let action_at = data + (signal * ACTION_BYTES) as u64;
        call(libc::SYS_rt_sigaction, &[signal as u64 + 1, 0, action_at, 8]);
    }
    let spec_at = |index: usize| data + (specs_at + index * SPEC_BYTES) as u64;
    for which in 0..3 {
        call(libc::SYS_getitimer, &[which as u64, spec_at(which)]);
    }
    let mut overruns = Vec::with_capacity(timers.len());
    for (index, timer) in timers.iter().enumerate() {
        call(libc::SYS_timer_gettime, &[timer.id as u64, spec_at(3 + index)]);
        overruns.push(call(libc::SYS_timer_getoverrun, &[timer.id as u64]));
    }
    let brk = call(libc::SYS_brk, &[0]);
    let dumpable = call(libc::SYS_prctl, &[PR_GET_DUMPABLE]);
    let thp = call(libc::SYS_prctl, &[PR_GET_THP_DISABLE]);
    let mdwe = call(libc::SYS_prctl, &[PR_GET_MDWE]);
    let merge = call(libc::SYS_prctl, &[PR_GET_MEMORY_MERGE]);
    let membarrier = call(libc::SYS_membarrier, &[MEMBARRIER_GET_REGISTRATIONS]);
    call(libc::SYS_prctl, &[PR_GET_CHILD_SUBREAPER, data + subreaper_at as u64]);

    let mut jobs = [job];
    area.run(&mut jobs)?;
    let [job] = jobs;
    // A kernel that does not know one of these calls has nothing to tell either.
    let result = |index: usize| u64::try_from(job.tape[index].result).unwrap_or(0);
    let word = |at: usize| word(&job.data, at);
    let spec = |index: usize, unit: i64| {
        let at = specs_at + index * SPEC_BYTES;
        let time = |at: usize| Timespec { sec: word(at) as i64, nsec: word(at + 8) as i64 * unit };
        TimerSpec { interval: time(at), value: time(at + 16) }
    };
    Ok(ProcessFacts {
        actions: (0..SIGNALS)
            .map(|signal| {
                let at = signal * ACTION_BYTES;
                SignalAction {
                    handler: word(at),
                    flags: word(at + 8),
                    restorer: word(at + 16),
                    mask: word(at + 24),
                }
            })
            .collect(),
        // getitimer counts in microseconds.
        interval_timers: IntervalTimers { real: spec(0, 1000), virtual_: spec(1, 1000), prof: spec(2, 1000) },
        timers: overruns
            .iter()
            .enumerate()
            .map(|(index, at)| (spec(3 + index, 1), result(*at) as i32))
            .collect(),
        brk: result(brk),
        dumpable: result(dumpable) as u32,
        subreaper: word(subreaper_at) as u32 != 0,
        thp_disable: result(thp) != 0,
        mdwe: result(mdwe) as u32,
        lock_future: 0,
        memory_merge: result(merge) != 0,
        membarrier: result(membarrier) as u32,
        threads: Vec::new(),
    })
}

fn read_threads(area: &mut Area<'_>, threads: &[usize]) -> Result<Vec<ThreadFacts>, inject::Error> {
    let mut jobs: Vec<Job> = threads
        .iter()
        .enumerate()
        .map(|(index, thread)| {
            let data = area.data_address(index, threads.len());
            let prctl = |args: [u64; 2]| Entry::call(libc::SYS_prctl as u64, [args[0], args[1], 0, 0, 0, 0]);
            let mut job = Job::new(*thread);
            job.data = vec![0; THREAD_DATA_BYTES];
            job.tape.push(Entry::call(libc::SYS_sigaltstack as u64, [0, data, 0, 0, 0, 0]));
            job.tape.push(prctl([PR_GET_TID_ADDRESS, data + 24]));
            job.tape.push(prctl([PR_GET_PDEATHSIG, data + 32]));
            job.tape.push(prctl([PR_GET_TIMERSLACK, 0]));
            job.tape.push(prctl([PR_GET_SECUREBITS, 0]));
            job.tape.push(prctl([PR_GET_TSC, data + 40]));
            job.tape.push(prctl([PR_MCE_KILL_GET, 0]));
            job.tape.push(prctl([PR_GET_IO_FLUSHER, 0]));
            job.tape.extend((0..3).map(|which| prctl([PR_GET_SPECULATION_CTRL, which])));
            job
        })
        .collect();
    area.run(&mut jobs)?;
    Ok(jobs
        .iter()
        .map(|job| ThreadFacts {
            alt_stack: AltStack {
                address: word(&job.data, 0),
                flags: word(&job.data, 8) as u32,
                len_bytes: word(&job.data, 16),
            },
            clear_child_tid: word(&job.data, 24),
            parent_death_signal: word(&job.data, 32) as i32,
            timer_slack_ns: u64::try_from(job.tape[3].result).unwrap_or(0),
            securebits: u64::try_from(job.tape[4].result).unwrap_or(0) as u32,
            settings: ThreadSettings {
                memory_failure: Some(job.tape[6].result)
                    .filter(|policy| (0..MCE_KILL_DEFAULT).contains(policy))
                    .map(|policy| policy as u32),
                no_time_stamps: word(&job.data, 40) as u32 == TSC_SIGSEGV,
                io_flusher: job.tape[7].result == 1,
                speculation: [8, 9, 10].map(|index: usize| {
                    let state = u32::try_from(job.tape[index].result).unwrap_or(0);
                    if state & SPEC_PRCTL != 0 { state & SPEC_OFF } else { 0 }
                }),
            },
        })
        .collect())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}
