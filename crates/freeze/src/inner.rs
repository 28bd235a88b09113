//! The few facts that only a process itself can read, read by tapes.

use crate::host::left_at;
use frost_abi::tape::Entry;
use frost_model::PAGE_SIZE;
use frost_model::clock::{TimerSpec, Timespec};
use frost_model::cpu::{AltStack, ThreadSettings, USUAL_TIMER_SLACK_NS};
use frost_model::pd::{IntervalTimers, SIGNALS, SignalAction};
use frost_model::ram::{MOST_NODES, MemoryPolicy};
use frost_model::rm::PROTECTION_KEYS;
use frost_sys::proc::{self, Mapping, Timer};
use frost_tracee::inject::{self, Area, Job};
use frost_tracee::seize::StoppedProcess;
use std::collections::HashMap;
use std::time::Instant;

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
    /// Protection keys that the program has allocated, bit 1 for key 1; `None` if that was not asked.
    pub(crate) protection_keys: Option<u32>,
    /// Whether it has segments of its own (modify_ldt), if it was asked.
    pub(crate) segments: bool,
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
    /// pkey_mprotect(2).
    pub(crate) protection_keys: bool,
    /// modify_ldt(2).
    pub(crate) segments: bool,
    /// arch_prctl(2).
    pub(crate) processor: bool,
    /// prctl(2) with PR_SET_TIMERSLACK.
    pub(crate) timer_slack: bool,
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
    /// What it goes back to, if that was asked.
    pub(crate) default_timer_slack_ns: Option<u64>,
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
pub(crate) const PR_SET_TIMERSLACK: u64 = 29;
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

/// The last page of all, which nobody can map: a call that names it changes nothing.
const NOWHERE: u64 = 0u64.wrapping_sub(2 * PAGE_SIZE);

const ACTION_BYTES: usize = 32;
const SPEC_BYTES: usize = 32;
/// Where the attribute of a subreaper is written: behind all actions and interval timers.
const SUBREAPER_AT: usize = SIGNALS * ACTION_BYTES + 3 * SPEC_BYTES;
/// Where the first descriptor of a segment is written.
const SEGMENT_AT: usize = SUBREAPER_AT + 8;
/// Bytes of data that the questions to a process need, but for its timers.
const PROCESS_BYTES: usize = SEGMENT_AT + 8;
/// How many timers are asked for by one tape; with the two numbers below it all fits into an area.
const TIMERS_AT_ONCE: usize = 1024;
/// Of how many mappings the policy is asked for.
const MAPPINGS_AT_ONCE: usize = 1024;
/// How many policies are read with their nodes.
const POLICIES_AT_ONCE: usize = 256;
/// Where a thread's memory policy is written, behind stack_t, an address and two integers: mode and nodes.
const POLICY_AT: usize = 24 + 8 + 8 + 8;
/// Bytes of data that a thread's own calls need.
const THREAD_DATA_BYTES: usize = POLICY_AT + POLICY_BYTES;
/// Bytes that a job of a thread takes, its tape included.
const THREAD_JOB_BYTES: usize = THREAD_DATA_BYTES + 17 * frost_abi::tape::ENTRY_BYTES;
/// A word for the mode, and a mask of all nodes that there may be: the kernel gives no shorter one.
const POLICY_BYTES: usize = 8 + MOST_NODES as usize / 8;
/// The policy of the range at an address rather than the thread's.
const MPOL_F_ADDR: u64 = 1 << 1;
/// The descriptor of a segment.
const SEGMENT_BYTES: u64 = 8;
/// The function of modify_ldt(2) that reads.
const READ_SEGMENTS: u64 = 0;
/// ARCH_GET_CPUID of include/uapi/asm/prctl.h: whether the instruction cpuid is let through.
const ARCH_GET_CPUID: u64 = 0x1011;
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
    stopped: Instant,
) -> Result<ProcessFacts, inject::Error> {
    let locked = || proc::status(process.through).map_or(0, |status| status.locked_bytes);
    // An area that was left there may have gone since that was read.
    let before = if process.status.locked_bytes == 0 { 0 } else { locked() };
    let mut area = Area::map(process, mappings)?;
    // Most processes have told everything behind the first chain.
    let mut chain = area.chain(0);
    let (some, more) = timers.split_at(timers.len().min(TIMERS_AT_ONCE));
    chain.add(|data| ask_process(data, some, questions));
    let own = area.process_number();
    chain.add(|data| ask_thread(0, own, data, questions));
    let asked = if questions.memory_policy { mappings } else { &[] };
    let mut batches = asked.chunks(MAPPINGS_AT_ONCE);
    let first = batches.next().unwrap_or_default();
    chain.add(|data| ask_modes(data, first));
    let answers = area.run_chain(chain)?;
    let mut facts = process_facts(&answers[0], some.len(), questions);
    let real = &mut facts.interval_timers.real.value;
    *real = left_at(stopped, *real);
    set_back(&mut facts.timers, some, stopped);
    facts.threads.push(thread_facts(&answers[1], questions));
    let mut found = with_policy(&answers[2], first);
    if locked() > before {
        facts.lock_future = lock_future(process.through, area.data_address(0, 1));
    }
    for batch in more.chunks(TIMERS_AT_ONCE) {
        let job = run_one(&mut area, |data| ask_timers(data, batch))?;
        let mut found = timer_facts(&job.data, &job.tape);
        set_back(&mut found, batch, stopped);
        facts.timers.extend(found);
    }
    for batch in batches {
        found.extend(with_policy(&run_one(&mut area, |data| ask_modes(data, batch))?, batch));
    }
    for batch in found.chunks(POLICIES_AT_ONCE) {
        facts.policies.extend(policies_of(&run_one(&mut area, |data| ask_policies(data, batch))?, batch));
    }
    let others: Vec<usize> = (1..process.threads.len()).collect();
    for batch in others.chunks(area.capacity(THREAD_JOB_BYTES)) {
        let ask = |(index, thread): (usize, &usize)| {
            ask_thread(*thread, own, area.data_address(index, batch.len()), questions)
        };
        let mut jobs: Vec<Job> = batch.iter().enumerate().map(ask).collect();
        area.run(&mut jobs)?;
        facts.threads.extend(jobs.iter().map(|job| thread_facts(job, questions)));
    }
    if questions.timer_slack {
        ask_default_slacks(&mut area, &mut facts.threads)?;
    }
    area.unmap()?;
    Ok(facts)
}

/// Asks for the default timer slack of those threads whose slack is not the usual one: it is told only to a thread that goes
/// back to it (`default_timer_slack_ns`, kernel/sys.c). The same tape sets what it had.
fn ask_default_slacks(area: &mut Area<'_>, threads: &mut [ThreadFacts]) -> Result<(), inject::Error> {
    // That of real-time threads is 0, and stays.
    let unusual = |slack: u64| slack != 0 && slack != USUAL_TIMER_SLACK_NS;
    let asked: Vec<usize> =
        (0..threads.len()).filter(|thread| unusual(threads[*thread].timer_slack_ns)).collect();
    for batch in asked.chunks(area.capacity(4 * frost_abi::tape::ENTRY_BYTES)) {
        let ask_one = |thread: &usize| {
            let mut job = Job::new(*thread);
            ask(&mut job, libc::SYS_prctl, &[PR_SET_TIMERSLACK, 0]);
            ask(&mut job, libc::SYS_prctl, &[PR_GET_TIMERSLACK]);
            ask(&mut job, libc::SYS_prctl, &[PR_SET_TIMERSLACK, threads[*thread].timer_slack_ns]);
            job
        };
        let mut jobs: Vec<Job> = batch.iter().map(ask_one).collect();
        area.run(&mut jobs)?;
        for (thread, job) in batch.iter().zip(jobs) {
            let told = u64::try_from(job.tape[1].result).ok();
            threads[*thread].default_timer_slack_ns = told.filter(|slack| unusual(*slack));
        }
    }
    Ok(())
}

/// Runs a job of the first thread, made for the address at which its data will lie.
fn run_one(area: &mut Area<'_>, make: impl FnOnce(u64) -> Job) -> Result<Job, inject::Error> {
    let mut jobs = [make(area.data_address(0, 1))];
    area.run(&mut jobs)?;
    let [job] = jobs;
    Ok(job)
}

/// Tells what mlockall(2) does with mappings to come: nothing tells but a mapping that came, as our area.
fn lock_future(pid: i32, address: u64) -> u32 {
    const MCL_ONFAULT: i32 = 4;
    let mappings = proc::mappings(pid).unwrap_or_default();
    let area = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
    let on_fault = area.is_some_and(|area| area.flags.has(*b"lf"));
    (libc::MCL_FUTURE | if on_fault { MCL_ONFAULT } else { 0 }) as u32
}

fn ask(job: &mut Job, nr: libc::c_long, args: &[u64]) {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    job.tape.push(Entry::call(nr as u64, all));
}

/// Asks for what a process has but once. Calls lie in the order in which [`process_facts`] reads their results.
fn ask_process(data: u64, timers: &[Timer], questions: Questions) -> Job {
    let of_timers = ask_timers(data + PROCESS_BYTES as u64, timers);
    let mut job = Job { tape: of_timers.tape, ..Job::new(0) };
    job.data = vec![0; PROCESS_BYTES];
    job.data.extend(of_timers.data);
    for signal in 0..SIGNALS {
        let action_at = data + (signal * ACTION_BYTES) as u64;
        ask(&mut job, libc::SYS_rt_sigaction, &[signal as u64 + 1, 0, action_at, 8]);
    }
    for which in 0..3 {
        let spec_at = data + (SIGNALS * ACTION_BYTES + which * SPEC_BYTES) as u64;
        ask(&mut job, libc::SYS_getitimer, &[which as u64, spec_at]);
    }
    ask(&mut job, libc::SYS_prctl, &[PR_GET_CHILD_SUBREAPER, data + SUBREAPER_AT as u64]);
    ask(&mut job, libc::SYS_brk, &[0]);
    for option in [PR_GET_DUMPABLE, PR_GET_THP_DISABLE, PR_GET_MDWE, PR_GET_MEMORY_MERGE] {
        ask(&mut job, libc::SYS_prctl, &[option]);
    }
    ask(&mut job, libc::SYS_membarrier, &[MEMBARRIER_GET_REGISTRATIONS]);
    let (nr, args) = match questions.segments {
        true => (libc::SYS_modify_ldt, [READ_SEGMENTS, data + SEGMENT_AT as u64, SEGMENT_BYTES]),
        // Something harmless takes the place of a question that is not put.
        false => (libc::SYS_prctl, [PR_GET_DUMPABLE, 0, 0]),
    };
    ask(&mut job, nr, &args);
    if questions.protection_keys {
        for key in 1..PROTECTION_KEYS {
            ask(&mut job, libc::SYS_pkey_mprotect, &[NOWHERE, PAGE_SIZE, 0, key.into()]);
        }
    }
    job
}

fn process_facts(job: &Job, timers: usize, questions: Questions) -> ProcessFacts {
    let (of_timers, own) = job.tape.split_at(2 * timers);
    // A kernel that does not know one of these calls has nothing to tell either.
    let result = |index: usize| u64::try_from(own[SIGNALS + 4 + index].result).unwrap_or(0);
    let actions = (0..SIGNALS).map(|signal| {
        let word = |index: usize| word(&job.data, signal * ACTION_BYTES + index * 8);
        SignalAction { handler: word(0), flags: word(1), restorer: word(2), mask: word(3) }
    });
    // The key is looked at before the range: EINVAL for one that is not allocated, then ENOMEM (`do_mprotect_pkey`,
    // mm/mprotect.c). That of memory which may only be executed counts as none (`mm_pkey_is_allocated`,
    // arch/x86/include/asm/pkeys.h).
    let has_key = |key: &u32| own[SIGNALS + 10 + *key as usize].result == -i64::from(libc::ENOMEM);
    let keys = || (1..PROTECTION_KEYS).filter(has_key).fold(0, |keys, key| keys | 1 << key);
    // getitimer counts in microseconds.
    let interval = |which: usize| spec(&job.data, SIGNALS * ACTION_BYTES + which * SPEC_BYTES, 1000);
    ProcessFacts {
        actions: actions.collect(),
        interval_timers: IntervalTimers { real: interval(0), virtual_: interval(1), prof: interval(2) },
        timers: timer_facts(&job.data[PROCESS_BYTES..], of_timers),
        brk: result(0),
        dumpable: result(1) as u32,
        subreaper: word(&job.data, SUBREAPER_AT) as u32 != 0,
        thp_disable: result(2) as u32,
        mdwe: result(3) as u32,
        lock_future: 0,
        memory_merge: result(4) != 0,
        membarrier: result(5) as u32,
        protection_keys: questions.protection_keys.then(keys),
        // Who has none is given nothing (`read_ldt`, arch/x86/kernel/ldt.c); an error is told in 32 bits, and looks positive.
        segments: result(6) == SEGMENT_BYTES,
        policies: HashMap::new(),
        threads: Vec::new(),
    }
}

/// Asks for the setting and the overrun of each of some timers.
fn ask_timers(data: u64, timers: &[Timer]) -> Job {
    let mut job = Job::new(0);
    job.data = vec![0; timers.len() * SPEC_BYTES];
    for (timer, index) in timers.iter().zip(0..) {
        ask(&mut job, libc::SYS_timer_gettime, &[timer.id as u64, data + index * SPEC_BYTES as u64]);
        ask(&mut job, libc::SYS_timer_getoverrun, &[timer.id as u64]);
    }
    job
}

fn timer_facts(data: &[u8], calls: &[Entry]) -> Vec<(TimerSpec, i32)> {
    let overrun = |call: &Entry| u64::try_from(call.result).unwrap_or(0) as i32;
    let each = calls.chunks_exact(2).enumerate();
    each.map(|(index, calls)| (spec(data, index * SPEC_BYTES, 1), overrun(&calls[1]))).collect()
}

/// Sets what is left of timers to what was left when the process had been `stopped`; those of processor time have stood still since.
fn set_back(facts: &mut [(TimerSpec, i32)], timers: &[Timer], stopped: Instant) {
    for ((spec, _), timer) in facts.iter_mut().zip(timers) {
        // Clocks of other processes and threads have negative numbers (`make_process_cpuclock`).
        if timer.clock >= 0
            && !matches!(timer.clock, libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID)
        {
            spec.value = left_at(stopped, spec.value);
        }
    }
}

/// Reads what a timer was set to, in units of `unit` nanoseconds.
fn spec(data: &[u8], at: usize, unit: i64) -> TimerSpec {
    let time = |at: usize| Timespec { sec: word(data, at) as i64, nsec: word(data, at + 8) as i64 * unit };
    TimerSpec { interval: time(at), value: time(at + 16) }
}

fn get_policy(mode_at: u64, nodes_at: u64, count: u64, mapping: &Mapping) -> Entry {
    let args = [mode_at, nodes_at, count, mapping.start, MPOL_F_ADDR, 0];
    Entry::call(libc::SYS_get_mempolicy as u64, args)
}

/// Asks for the policy of each mapping; the kernel joins none that have different ones.
///
/// Nothing but the process itself can ask: `/proc/PID/numa_maps` walks all pages, and shows a thread's policy where a range
/// has none.
fn ask_modes(data: u64, mappings: &[Mapping]) -> Job {
    let mut job = Job::new(0);
    job.data = vec![0; mappings.len() * 8];
    let each = mappings.iter().zip(0..);
    job.tape.extend(each.map(|(mapping, index)| get_policy(data + index * 8, 0, 0, mapping)));
    job
}

/// Lists those that have one.
fn with_policy<'m>(job: &Job, mappings: &'m [Mapping]) -> Vec<&'m Mapping> {
    let has =
        |index: usize| job.tape[index].result == 0 && word(&job.data, index * 8) as u32 != DEFAULT_POLICY;
    mappings.iter().enumerate().filter(|(index, _)| has(*index)).map(|(_, mapping)| mapping).collect()
}

/// Asks for policies with their nodes.
fn ask_policies(data: u64, mappings: &[&Mapping]) -> Job {
    let mut job = Job::new(0);
    job.data = vec![0; mappings.len() * POLICY_BYTES];
    job.tape.extend(mappings.iter().zip(0..).map(|(mapping, index)| {
        let at = data + index * POLICY_BYTES as u64;
        get_policy(at, at + 8, MOST_NODES.into(), mapping)
    }));
    job
}

fn policies_of(job: &Job, mappings: &[&Mapping]) -> Vec<(u64, MemoryPolicy)> {
    let policy = |index: usize| policy(job.tape[index].result, &job.data, index * POLICY_BYTES);
    let each = mappings.iter().enumerate();
    each.filter_map(|(index, mapping)| Some((mapping.start, policy(index)?))).collect()
}

/// Reads what get_mempolicy(2) left at `at`; `None` for the default.
fn policy(result: i64, data: &[u8], at: usize) -> Option<MemoryPolicy> {
    let mode = word(data, at) as u32;
    let is_in = |node: &u32| word(data, at + 8 + *node as usize / 64 * 8) >> (node % 64) & 1 == 1;
    (result == 0 && mode != DEFAULT_POLICY)
        .then(|| MemoryPolicy { mode, nodes: (0..MOST_NODES).filter(is_in).collect() })
}

/// Asks thread `thread` of process `own`. Calls lie in the order in which [`thread_facts`] reads their results.
fn ask_thread(thread: usize, own: i32, data: u64, questions: Questions) -> Job {
    let prctl = |args: [u64; 2]| Entry::call(libc::SYS_prctl as u64, [args[0], args[1], 0, 0, 0, 0]);
    let mut job = Job::new(thread);
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
    let args = [own as u64, questions.other.unwrap_or(0) as u64, KCMP_FS];
    ask(questions.other.is_some(), libc::SYS_kcmp, args);
    ask(questions.processor, libc::SYS_arch_prctl, [ARCH_GET_CPUID, 0, 0]);
    job
}

fn thread_facts(job: &Job, questions: Questions) -> ThreadFacts {
    let result = |index: usize| job.tape[index].result;
    ThreadFacts {
        alt_stack: AltStack {
            address: word(&job.data, 0),
            flags: word(&job.data, 8) as u32,
            len_bytes: word(&job.data, 16),
        },
        clear_child_tid: word(&job.data, 24),
        parent_death_signal: word(&job.data, 32) as i32,
        timer_slack_ns: u64::try_from(result(3)).unwrap_or(0),
        default_timer_slack_ns: None,
        securebits: u64::try_from(result(4)).unwrap_or(0) as u32,
        settings: ThreadSettings {
            memory_failure: Some(result(6))
                .filter(|policy| (0..MCE_KILL_DEFAULT).contains(policy))
                .map(|policy| policy as u32),
            no_time_stamps: word(&job.data, 40) as u32 == TSC_SIGSEGV,
            no_cpuid: questions.processor && result(16) == 0,
            io_flusher: result(7) == 1,
            speculation: [8, 9, 10].map(|index: usize| {
                let state = u32::try_from(result(index)).unwrap_or(0);
                if state & SPEC_PRCTL != 0 { state & SPEC_OFF } else { 0 }
            }),
            personality: None,
        },
        personality: u32::try_from(result(11)).ok().filter(|_| questions.personality),
        // All zeros if it was not asked.
        memory_policy: policy(result(12).min(0), &job.data, POLICY_AT),
        keyring: OWN_KEYRINGS
            .iter()
            .zip(&job.tape[13..])
            .find(|(_, asked)| questions.keyrings && asked.result > 0)
            .map(|((_, name), _)| *name),
        confined: questions.other.is_some() && result(15) == -i64::from(libc::EPERM),
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}
