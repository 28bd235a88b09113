//! What the builder is and has: its children inherit it, so that only differences need a call.

use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_model::Checkpoint;
use frost_model::clock::Timespec;
use frost_model::pd::{Credentials, Limit};
use frost_model::ram::MemoryPolicy;
use frost_sys::proc;
use frost_sys::sched::{self, SchedAttr};
use frost_sys::time;
use rustix::time::ClockId;
use std::path::Path;

/// The number of resource limits (RLIM_NLIMITS).
pub(crate) const LIMITS: usize = 16;

/// What a child of the builder starts with.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    /// The builder's pid as its children see it.
    pub(crate) pid: i32,
    /// Resource limits by number.
    pub(crate) limits: Vec<Limit>,
    /// Scheduling.
    pub(crate) sched: SchedAttr,
    /// CPUs it may run on, ascending.
    pub(crate) affinity: Vec<u32>,
    /// ioprio_get(2).
    pub(crate) io_priority: u32,
    /// Timer slack in nanoseconds.
    pub(crate) timer_slack_ns: u64,
    /// From which nodes memory is taken.
    pub(crate) memory_policy: Option<MemoryPolicy>,
    /// PR_GET_THP_DISABLE: 0, or 1 and flags.
    pub(crate) thp_disable: u32,
    /// Credentials.
    pub(crate) credentials: Credentials,
    /// `/proc/self/oom_score_adj`.
    pub(crate) oom_score_adj: i32,
    /// `/proc/self/coredump_filter`.
    pub(crate) coredump_filter: u32,
    /// `/proc/self/personality`.
    pub(crate) personality: u32,
    /// Whether timers can be made with chosen identifiers at once (PR_TIMER_CREATE_RESTORE_IDS).
    pub(crate) timer_ids: bool,
    /// CLOCK_REALTIME.
    pub(crate) realtime: Timespec,
}

fn text(name: &str) -> rustix::io::Result<String> {
    let bytes = proc::file(&Path::new("/proc/self").join(name))?;
    Ok(String::from_utf8_lossy(bytes.trim_ascii()).into_owned())
}

impl Baseline {
    /// Looks at the calling process.
    pub(crate) fn read() -> Result<Self, Error> {
        let about = |name: &'static str| move || format!("/proc/self/{name}");
        let stage = Stage::Compile;
        let status = text("status").at(stage, about("status"))?;
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("").trim()
        };
        let numbers = |name: &str| -> Vec<u32> {
            field(name).split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        let four = |name: &str| {
            let found = numbers(name);
            std::array::from_fn(|index| found.get(index).copied().unwrap_or(0))
        };
        let hex = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(0);
        let credentials = Credentials {
            uids: four("Uid"),
            gids: four("Gid"),
            groups: numbers("Groups"),
            inheritable: hex("CapInh"),
            permitted: hex("CapPrm"),
            effective: hex("CapEff"),
            bounding: hex("CapBnd"),
            ambient: hex("CapAmb"),
            securebits: rustix::thread::capabilities_secure_bits().map_or(0, |bits| bits.bits()),
            no_new_privs: field("NoNewPrivs") == "1",
        };
        let affinity = rustix::thread::sched_getaffinity(None).at(stage, || "its affinity".to_owned())?;
        let realtime = rustix::time::clock_gettime(ClockId::Realtime);
        Ok(Self {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            limits: (0..LIMITS).map(|number| limit(number as u32)).collect(),
            sched: sched::attributes(0).at(stage, || "its scheduling".to_owned())?,
            affinity: (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|cpu| affinity.is_set(*cpu))
                .map(|cpu| cpu as u32)
                .collect(),
            io_priority: sched::io_priority(0).unwrap_or(0),
            timer_slack_ns: rustix::thread::current_timer_slack().unwrap_or(50_000),
            memory_policy: sched::memory_policy()
                .ok()
                .filter(|(mode, _)| *mode != 0)
                .map(|(mode, nodes)| MemoryPolicy { mode, nodes }),
            thp_disable: sched::huge_pages_disabled().unwrap_or(0),
            credentials,
            oom_score_adj: text("oom_score_adj").ok().and_then(|text| text.parse().ok()).unwrap_or(0),
            coredump_filter: text("coredump_filter")
                .ok()
                .and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok())
                .unwrap_or(0x33),
            personality: text("personality")
                .ok()
                .and_then(|text| u32::from_str_radix(&text, 16).ok())
                .unwrap_or(0),
            timer_ids: time::timer_ids_can_be_chosen(),
            realtime: Timespec { sec: realtime.tv_sec, nsec: realtime.tv_nsec },
        })
    }

    /// Returns whether it has capability `number`.
    pub(crate) fn capable(&self, number: u32) -> bool {
        self.credentials.effective & (1 << number) != 0
    }
}

/// Reads a limit of the calling process by its number.
pub(crate) fn limit(number: u32) -> Limit {
    frost_sys::limits::get(number)
        .map_or(Limit { soft: u64::MAX, hard: u64::MAX }, |(soft, hard)| Limit { soft, hard })
}

/// Returns the command name of a process that runs here, or `?`.
pub(crate) fn command(pid: i32) -> String {
    let command = proc::command(pid);
    if command.is_empty() { "?".to_owned() } else { command }
}

/// Returns the command name of a process of the image, or `?`.
pub(crate) fn command_in(checkpoint: &Checkpoint, pid: i32) -> String {
    let process = checkpoint.processes.iter().find(|process| process.pd.relation.pid.raw() == pid);
    process.map_or_else(|| "?".to_owned(), |process| process.pd.command.to_string())
}
