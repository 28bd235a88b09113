//! The few facts that only a process itself can read, read by tapes.

use frost_abi::tape::Entry;
use frost_model::clock::{TimerSpec, Timespec};
use frost_model::cpu::{AltStack, ThreadSettings};
use frost_model::pd::{IntervalTimers, SIGNALS, SignalAction};
use frost_model::ram::{MOST_NODES, MemoryPolicy};
use frost_sys::proc::{self, Mapping, Timer};
use frost_tracee::inject::{self, Area, Job};
use frost_tracee::seize::StoppedProcess;
use std::collections::HashMap;

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
    /// PR_GET_THP_DISABLE: bit 0, and flags of PR_SET_THP_DISABLE.
    pub(crate) thp_disable: u32,
    pub(crate) mdwe: u32,
    pub(crate) lock_future: u32,
    pub(crate) memory_merge: bool,
    pub(crate) membarrier: u32,
    /// Memory policies of mappings, by their start.
    pub(crate) policies: HashMap<u64, MemoryPolicy>,
    /// One for each thread, in their order.
    pub(crate) threads: Vec<ThreadFacts>,
}

/// What is asked only of a process whose filters let it answer: hardly any has what it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Questions {
    /// personality(2).
    pub(crate) personality: bool,
    /// get_mempolicy(2).
    pub(crate) memory_policy: bool,
    /// keyctl(2).
    pub(crate) keyrings: bool,
    /// A process that it may compare itself with unless it is in a Landlock domain.
    pub(crate) other: Option<i32>,
}

/// Facts of a thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct ThreadFacts {
    pub(crate) alt_stack: AltStack,
    pub(crate) clear_child_tid: u64,
    pub(crate) parent_death_signal: i32,
    pub(crate) timer_slack_ns: u64,
    pub(crate) securebits: u32,
    pub(crate) settings: ThreadSettings,
    /// personality(2), if it was asked.
    pub(crate) personality: Option<u32>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    /// Whose keyring it has that ends with it: its own, or that of its process.
    pub(crate) keyring: Option<&'static str>,
    /// Whether it may not look at one whom it could look at by its rights.
    pub(crate) confined: bool,
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
/// Where a thread's memory policy is written, behind stack_t, an address and two integers: mode and nodes.
const POLICY_AT: usize = 24 + 8 + 8 + 8;
/// Bytes of data that a thread's own calls need.
const THREAD_DATA_BYTES: usize = POLICY_AT + POLICY_BYTES;
/// Bytes that a job of a thread takes, its tape included.
const THREAD_JOB_BYTES: usize = THREAD_DATA_BYTES + 16 * frost_abi::tape::ENTRY_BYTES;
/// A word for the mode, and a mask of all nodes that there may be: the kernel gives no shorter one.
const POLICY_BYTES: usize = 8 + MOST_NODES as usize / 8;
/// The policy of the range at an address rather than the thread's.
const MPOL_F_ADDR: u64 = 1 << 1;
/// MPOL_DEFAULT.
const DEFAULT_POLICY: u32 = 0;
/// personality(2) with this argument only tells.
const TELL_PERSONALITY: u64 = 0xffff_ffff;
const KEYCTL_GET_KEYRING_ID: u64 = 0;
/// Whether two processes share their working directory, which does not matter here.
const KCMP_FS: u64 = 3;
/// Keyrings that end with whoever has them: KEY_SPEC_THREAD_KEYRING and KEY_SPEC_PROCESS_KEYRING.
const OWN_KEYRINGS: [(i32, &str); 2] = [(-1, "a thread"), (-2, "the process")];

/// Reads the facts of a stopped process.
pub(crate) fn read(
    process: &StoppedProcess,
    mappings: &[Mapping],
    timers: &[Timer],
    questions: Questions,
) -> Result<ProcessFacts, inject::Error> {
    let locked = locked_kib(process.through);
    let mut area = Area::map(process, mappings)?;
    let mut facts = read_process(&mut area, timers)?;
    if locked_kib(process.through) > locked {
        facts.lock_future = lock_future(process.through, area.data_address(0, 1));
    }
    let indices: Vec<usize> = (0..process.threads.len()).collect();
    for batch in indices.chunks(area.capacity(THREAD_JOB_BYTES)) {
        facts.threads.extend(read_threads(&mut area, batch, questions)?);
    }
    if questions.memory_policy {
        facts.policies = read_policies(&mut area, mappings)?;
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
        thp_disable: result(thp) as u32,
        mdwe: result(mdwe) as u32,
        lock_future: 0,
        memory_merge: result(merge) != 0,
        membarrier: result(membarrier) as u32,
        policies: HashMap::new(),
        threads: Vec::new(),
    })
}

/// Asks for the policy of each mapping; the kernel joins none that have different ones.
///
/// Nothing but the process itself can ask: `/proc/PID/numa_maps` walks all pages, and shows a thread's policy where a range
/// has none.
fn read_policies(
    area: &mut Area<'_>,
    mappings: &[Mapping],
) -> Result<HashMap<u64, MemoryPolicy>, inject::Error> {
    let mut policies = HashMap::new();
    for batch in mappings.chunks(1024) {
        let data = area.data_address(0, 1);
        let ask = |mode_at: u64, nodes_at: u64, count: u64, mapping: &Mapping| {
            let args = [mode_at, nodes_at, count, mapping.start, MPOL_F_ADDR, 0];
            Entry::call(libc::SYS_get_mempolicy as u64, args)
        };
        let mut job = Job::new(0);
        job.data = vec![0; batch.len() * 8];
        job.tape.extend(batch.iter().zip(0..).map(|(mapping, index)| ask(data + index * 8, 0, 0, mapping)));
        let mut jobs = [job];
        area.run(&mut jobs)?;
        let [job] = jobs;
        let has =
            |index: usize| job.tape[index].result == 0 && word(&job.data, index * 8) as u32 != DEFAULT_POLICY;
        let found: Vec<&Mapping> =
            batch.iter().enumerate().filter(|(index, _)| has(*index)).map(|(_, mapping)| mapping).collect();
        for batch in found.chunks(256) {
            let mut job = Job::new(0);
            job.data = vec![0; batch.len() * POLICY_BYTES];
            job.tape.extend(batch.iter().zip(0..).map(|(mapping, index)| {
                let at = data + index * POLICY_BYTES as u64;
                ask(at, at + 8, MOST_NODES.into(), mapping)
            }));
            let mut jobs = [job];
            area.run(&mut jobs)?;
            let [job] = jobs;
            let policy = |index: usize| policy(job.tape[index].result, &job.data, index * POLICY_BYTES);
            policies.extend(
                batch.iter().enumerate().filter_map(|(index, mapping)| Some((mapping.start, policy(index)?))),
            );
        }
    }
    Ok(policies)
}

/// Reads what get_mempolicy(2) left at `at`; `None` for the default.
fn policy(result: i64, data: &[u8], at: usize) -> Option<MemoryPolicy> {
    let mode = word(data, at) as u32;
    let is_in = |node: &u32| word(data, at + 8 + *node as usize / 64 * 8) >> (node % 64) & 1 == 1;
    (result == 0 && mode != DEFAULT_POLICY)
        .then(|| MemoryPolicy { mode, nodes: (0..MOST_NODES).filter(is_in).collect() })
}

fn read_threads(
    area: &mut Area<'_>,
    threads: &[usize],
    questions: Questions,
) -> Result<Vec<ThreadFacts>, inject::Error> {
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
            let own = area.process_number() as u64;
            let mut ask = |asked: bool, nr: libc::c_long, args: [u64; 3]| {
                // Something harmless takes the place of a question that is not put.
                let nr = if asked { nr } else { libc::SYS_prctl };
                let args = if asked { args } else { [PR_GET_TIMERSLACK, 0, 0] };
                job.tape.push(Entry::call(nr as u64, [args[0], args[1], args[2], 0, 0, 0]));
            };
            ask(questions.personality, libc::SYS_personality, [TELL_PERSONALITY, 0, 0]);
            let at = data + POLICY_AT as u64;
            ask(questions.memory_policy, libc::SYS_get_mempolicy, [at, at + 8, MOST_NODES.into()]);
            for (keyring, _) in OWN_KEYRINGS {
                let args = [KEYCTL_GET_KEYRING_ID, i64::from(keyring) as u64, 0];
                ask(questions.keyrings, libc::SYS_keyctl, args);
            }
            let args = [own, questions.other.unwrap_or(0) as u64, KCMP_FS];
            ask(questions.other.is_some(), libc::SYS_kcmp, args);
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
                personality: None,
            },
            personality: u32::try_from(job.tape[11].result).ok().filter(|_| questions.personality),
            // All zeros if it was not asked.
            memory_policy: policy(job.tape[12].result.min(0), &job.data, POLICY_AT),
            keyring: OWN_KEYRINGS
                .iter()
                .zip(&job.tape[13..])
                .find(|(_, asked)| questions.keyrings && asked.result > 0)
                .map(|((_, name), _)| *name),
            confined: questions.other.is_some() && job.tape[15].result == -i64::from(libc::EPERM),
        })
        .collect())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}
