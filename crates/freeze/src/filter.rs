//! Filters of system calls (seccomp(2)): which of them the threads of a tree have, and what they forbid us.
//!
//! The kernel gives filters back to the administrator only (`seccomp_get_filter`, kernel/seccomp.c). For anybody else the
//! keeper of a program of the runtime has noted what was installed ([`Note`]). Notes name the thread that installed a
//! filter, but children and new threads inherit; so which filters a thread has is told by their number, since whoever
//! inherits has a beginning of what its creator has. Where that leaves a choice, nothing is guessed.
//!
//! A tape is run in a filtered thread only if all of its calls are let through, or while its filters are suspended.

use crate::Keeper;
use frost_keeper::notes::Note;
use frost_model::pd::Filter;
use frost_model::pd::filter::installation;
use frost_model::{Obstacle, Pid};
use frost_sys::proc::{self, Mapping, Status};
use frost_sys::{ptrace, seccomp};
use frost_tracee::inject::{self, AREA_BYTES};
use frost_tracee::seize::{StoppedProcess, StoppedTree};
use frost_tracee::{leftover, restart};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap, HashSet};

/// CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;
const OBJECT: &str = "system call filter";

/// A process whose filters are looked for.
pub(crate) struct Member {
    pid: i32,
    inner: Pid,
    command: String,
    /// Its parent, in the pid namespace of the root.
    parent: i32,
    /// Whether it has a filter from a keeper within the tree, which a thaw puts on while it has all rights.
    nested: bool,
    /// Numbers of its threads in our namespace, with their status.
    threads: Vec<(i32, Status)>,
}

impl Member {
    /// Looks at a process; threads that end meanwhile are left out.
    ///
    /// `nested` is one below a keeper within the tree.
    pub(crate) fn look(pid: i32, inner: Pid, command: &str, nested: bool) -> Self {
        let tids = proc::threads(pid).unwrap_or_default();
        let threads =
            tids.into_iter().filter_map(|tid| Some((tid, proc::thread_status(pid, tid).ok()?))).collect();
        Self::with(pid, inner, command, nested, threads)
    }

    /// As [`look`](Self::look), of a process whose threads are known.
    pub(crate) fn with(
        pid: i32,
        inner: Pid,
        command: &str,
        nested: bool,
        threads: Vec<(i32, Status)>,
    ) -> Self {
        let filtered = threads.iter().any(|(_, status)| status.seccomp != 0);
        let parent = proc::stat(pid).ok().filter(|_| filtered).map(|stat| stat.ppid);
        let parent =
            parent.and_then(|parent| Some(noted_as(&proc::status(parent).ok()?, parent))).unwrap_or(0);
        Self { pid, inner, command: command.to_owned(), parent, nested, threads }
    }

    /// Makes what tells that something is in the way of it.
    fn refusing(&self) -> impl Fn(&str, String, &str) -> Obstacle + use<'_> {
        |object, reason, remedy| Obstacle {
            pid: self.inner,
            command: self.command.clone(),
            object: object.to_owned(),
            reason,
            remedy: remedy.to_owned(),
            passes: false,
        }
    }
}

/// The number by which the keeper's notes call it.
fn noted_as(status: &Status, pid: i32) -> i32 {
    status.number().unwrap_or(pid)
}

/// The filters of a tree, beside those that its environment has put on all of it.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    pub(crate) programs: Vec<Filter>,
    chains: HashMap<i32, Vec<u32>>,
    /// Threads whose filters are suspended.
    suspended: HashSet<i32>,
}

impl Filters {
    /// Returns the filters of a thread, by its number in our namespace, the oldest first.
    pub(crate) fn of(&self, tid: i32) -> &[u32] {
        self.chains.get(&tid).map_or(&[], Vec::as_slice)
    }

    /// Returns whether a process may make a call, whatever its arguments are.
    pub(crate) fn let_call(&self, process: &StoppedProcess, nr: libc::c_long) -> bool {
        self.let_call_with(process, nr, &[None; 6])
    }

    /// Returns whether a process may call prctl(2) with an option, whatever comes with it.
    pub(crate) fn let_option(&self, process: &StoppedProcess, option: u64) -> bool {
        self.let_call_with(process, libc::SYS_prctl, &[Some(option), None, None, None, None, None])
    }

    fn let_call_with(&self, process: &StoppedProcess, nr: libc::c_long, args: &[Option<u64>; 6]) -> bool {
        let lets = |tid| self.suspended.contains(&tid) || self.allow(tid, nr, args);
        process.threads.iter().all(|thread| lets(thread.tid))
    }

    /// Returns the threads of a tree whose interrupted calls the kernel may go on with by restart_syscall(2), if it would.
    pub(crate) fn unhindered(&self, tree: &StoppedTree) -> BTreeSet<i32> {
        let threads = tree.processes().iter().flat_map(|process| &process.threads);
        let threads = threads.filter(|thread| restart::has_restart_block(&thread.registers));
        let lets = |tid: &i32| self.allow(*tid, libc::SYS_restart_syscall, &[None; 6]);
        threads.map(|thread| thread.tid).filter(lets).collect()
    }

    /// Returns whether a process has any.
    pub(crate) fn hold(&self, process: &StoppedProcess) -> bool {
        process.threads.iter().any(|thread| !self.of(thread.tid).is_empty())
    }

    /// Returns all that are in use; those that are not stand there as well if they were noted before one that is.
    pub(crate) fn used(&self) -> Vec<Filter> {
        let highest = self.chains.values().flatten().map(|index| *index as usize + 1).max();
        self.programs[..highest.unwrap_or(0)].to_vec()
    }

    fn intern(&mut self, filter: Filter) -> u32 {
        let known = self.programs.iter().position(|known| *known == filter);
        let index = known.unwrap_or_else(|| {
            self.programs.push(filter);
            self.programs.len() - 1
        });
        index as u32
    }

    fn allow(&self, tid: i32, nr: libc::c_long, args: &[Option<u64>; 6]) -> bool {
        self.of(tid).iter().all(|index| self.programs[*index as usize].allows(nr as u64, args))
    }
}

/// How many filters a process has that no thaw has to install: those of the runtime, and of whatever it runs in.
fn base(keeper: Option<&dyn Keeper>) -> u32 {
    keeper.map_or(0, Keeper::filters)
}

/// How many filters a program of the runtime has from its keeper: that has been filtered itself, and puts one on.
fn under_keeper(mut pid: i32) -> u32 {
    while let Ok(stat) = proc::stat(pid) {
        if crate::survey::is_keeper(stat.ppid) {
            return proc::status(stat.ppid).map_or(0, |status| status.seccomp_filters + 1);
        }
        if stat.ppid <= 1 || stat.ppid == pid {
            break;
        }
        pid = stat.ppid;
    }
    0
}

fn has_own(pid: i32, tid: i32, base: u32) -> bool {
    proc::thread_status(pid, tid).is_ok_and(|status| status.seccomp == 1 || status.seccomp_filters > base)
}

/// Returns whether a process has filters of its own.
pub(crate) fn is_filtered(pid: i32, keeper: Option<&dyn Keeper>) -> bool {
    let tids = proc::threads(pid).unwrap_or_default();
    let base = base(keeper).max(keeper.map_or(0, |_| under_keeper(pid)));
    tids.into_iter().any(|tid| has_own(pid, tid, base))
}

/// Finds the filters of all members, which are stopped, and lists what is in the way of carrying them.
///
/// Where filters forbid what a freeze does, they are suspended if that is allowed.
pub(crate) fn learn(members: &[Member], keeper: Option<&dyn Keeper>) -> (Filters, Vec<Obstacle>) {
    let (mut filters, mut obstacles) = (Filters::default(), Vec::new());
    let mut noted = None;
    let can_read = seccomp::can_read();
    for member in members {
        if member
            .threads
            .iter()
            .all(|(_, status)| status.seccomp != 1 && status.seccomp_filters <= base(keeper))
        {
            continue;
        }
        let found = if can_read {
            read(member, base(keeper), &mut filters)
        } else {
            let noted = noted.get_or_insert_with(|| Noted::of(members, keeper, &mut filters));
            noted.chains(member, base(keeper))
        };
        match found {
            Ok(chains) => filters.chains.extend(chains),
            Err(unknown) => obstacles.push(unknown.obstacle(member)),
        }
        obstacles.extend(rights(member, base(keeper)));
        obstacles.extend(listening(member, &filters));
        obstacles.extend(closed(member, &filters));
        let forbidden = forbidden(member, &filters);
        let suspend = |(tid, _): &(i32, Status)| {
            can_read && ptrace::set_options(*tid, ptrace::Options::SUSPEND_FILTERS).is_ok()
        };
        if forbidden.is_empty() {
            continue;
        }
        if member.threads.iter().all(suspend) {
            filters.suspended.extend(member.threads.iter().map(|(tid, _)| *tid));
        } else {
            let refuse = member.refusing();
            let calls = forbidden.into_iter().collect::<Vec<_>>().join(", ");
            obstacles.push(refuse(
                OBJECT,
                format!(
                    "it forbids calls by which a freeze learns what only the process itself can tell: {calls}"
                ),
                "freeze it as root, who may suspend filters",
            ));
        }
    }
    (filters, obstacles)
}

/// Takes out of a stopped process what a freezer or a thaw that died has left there, unless a filter may forbid one of the
/// calls which that takes; tells whether there was something.
///
/// # Errors
/// As [`inject::sweep`].
pub(crate) fn sweep(
    process: &StoppedProcess,
    mappings: &[Mapping],
    keeper: Option<&dyn Keeper>,
) -> Result<bool, inject::Error> {
    let left = mappings.iter().any(|mapping| inject::is_leftover(process.through, mapping))
        || leftover::is_left_in(process.through, mappings);
    if !left {
        return Ok(false);
    }
    let base = base(keeper).max(under_keeper(process.through));
    if process.threads.iter().any(|thread| has_own(process.pid, thread.tid, base)) {
        let command = String::from_utf8_lossy(&process.stat.comm);
        let member = Member::look(process.pid, Pid::new(process.inner), &command, false);
        let (filters, in_the_way) = learn(&[member], keeper);
        if !in_the_way.is_empty() || !filters.let_call(process, libc::SYS_close) {
            // The survey tells of it; what was left harms nobody.
            tracing::info!(
                pid = process.pid,
                "what a killed command has left stays: filters may forbid to remove it"
            );
            return Ok(false);
        }
    }
    inject::sweep(process, mappings)
}

/// Lists what can be told of running processes.
pub(crate) fn survey(members: &[Member], keeper: Option<&dyn Keeper>) -> Vec<Obstacle> {
    if !seccomp::can_read() {
        return learn(members, keeper).1;
    }
    // Only a stopped thread's can be read.
    members.iter().flat_map(|member| rights(member, base(keeper))).collect()
}

/// Why the filters of a thread are not known.
enum Unknown {
    /// The kernel refused to tell, to whom it should.
    Kernel(Errno),
    /// The kernel tells the administrator only, and nobody noted anything.
    Unnoted,
    /// There is a choice.
    Several,
}

impl Unknown {
    fn obstacle(&self, member: &Member) -> Obstacle {
        let refuse = member.refusing();
        match self {
            Self::Kernel(errno) => refuse(
                OBJECT,
                format!("the kernel does not give it back: {errno}"),
                "run the program without its sandbox, where it has a switch for that",
            ),
            Self::Unnoted => refuse(
                OBJECT,
                "the kernel gives filters back to root only".to_owned(),
                "freeze it as root, or start it by `frost run`, which remembers them; below another `frost run` only the outermost keeper is told of them",
            ),
            Self::Several => refuse(
                OBJECT,
                "which of several filters it has inherited cannot be told".to_owned(),
                "freeze it as root, to whom the kernel gives filters back",
            ),
        }
    }
}

/// Reads the filters of a stopped process from the kernel.
fn read(member: &Member, base: u32, filters: &mut Filters) -> Result<Vec<(i32, Vec<u32>)>, Unknown> {
    let mut chains = Vec::new();
    for (tid, status) in &member.threads {
        let chain: Result<Vec<u32>, Errno> = (base..status.seccomp_filters)
            .map(|index| {
                let (code, logs) = ptrace::filter(*tid, index)?;
                Ok(filters.intern(Filter { logs, code }))
            })
            .collect();
        chains.push((*tid, chain.map_err(Unknown::Kernel)?));
    }
    Ok(chains)
}

/// Finds filters that nobody could install again.
fn rights(member: &Member, base: u32) -> Vec<Obstacle> {
    let (refuse, mut obstacles) = (member.refusing(), Vec::new());
    if member.threads.iter().any(|(_, status)| status.seccomp == 1) {
        obstacles.push(refuse(
            OBJECT,
            "seccomp strict mode leaves it no call by which it could be asked anything".to_owned(),
            "run the program without its sandbox, where it has a switch for that",
        ));
    }
    let lacks = |(_, status): &(i32, Status)| {
        status.seccomp_filters > base + u32::from(member.nested)
            && !status.no_new_privs
            && status.cap_effective & SYS_ADMIN == 0
    };
    if member.threads.iter().any(lacks) {
        obstacles.push(refuse(
                OBJECT,
                "it was installed with rights that the program has given up since, so a thaw could not install it".to_owned(),
            "let the program set no_new_privs before it installs the filter",
        ));
    }
    obstacles
}

/// Finds filters that hand calls to a process of their choice: the thread's listener is lost.
fn listening(member: &Member, filters: &Filters) -> Option<Obstacle> {
    const RETURN: u8 = 0x06;
    const RET_USER_NOTIF: u32 = 0x7fc0_0000;
    let hands = |filter: &Filter| {
        filter.code.chunks_exact(8).any(|code| {
            let value = u32::from_le_bytes([code[4], code[5], code[6], code[7]]);
            code[0] == RETURN && value & 0xffff_0000 == RET_USER_NOTIF
        })
    };
    let refuse = member.refusing();
    let chains = member.threads.iter().flat_map(|(tid, _)| filters.of(*tid));
    chains.map(|index| &filters.programs[*index as usize]).any(hands).then(|| {
        refuse(
                OBJECT,
                "it hands calls to another process (SECCOMP_RET_USER_NOTIF), whose descriptor for that cannot be made again"
                .to_owned(),
            "run the program without its sandbox, where it has a switch for that",
        )
    })
}

/// Finds threads whose filters could not be installed one after the other, as far as can be told.
fn closed(member: &Member, filters: &Filters) -> Option<Obstacle> {
    let programs = |chain: &[u32]| -> Vec<&Filter> {
        chain.iter().map(|index| &filters.programs[*index as usize]).collect()
    };
    let is_closed = |(tid, _): &&(i32, Status)| {
        let chain = programs(filters.of(*tid));
        (1..chain.len()).any(|count| installation(&chain[..count], 0).is_none())
    };
    let refuse = member.refusing();
    member.threads.iter().find(is_closed).map(|_| {
        refuse(
            OBJECT,
            "one that was installed first lets no call through by which the next could be installed again"
                .to_owned(),
            "run the program without its sandbox, where it has a switch for that",
        )
    })
}

/// Names the calls of a freeze that the filters of a process do not let through.
fn forbidden(member: &Member, filters: &Filters) -> BTreeSet<&'static str> {
    let any = [None; 6];
    let first = |argument: u64| [Some(argument), None, None, None, None, None];
    let rights = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let map = [None, Some(AREA_BYTES), Some(rights), Some(flags), Some(u64::MAX), Some(0)];
    let mut calls = vec![
        ("mmap of an executable area", libc::SYS_mmap, map),
        ("munmap", libc::SYS_munmap, [None, Some(AREA_BYTES), Some(0), Some(0), Some(0), Some(0)]),
        ("rt_sigaction", libc::SYS_rt_sigaction, any),
        ("rt_sigreturn", libc::SYS_rt_sigreturn, any),
        ("getitimer", libc::SYS_getitimer, any),
        ("brk", libc::SYS_brk, first(0)),
        ("membarrier", libc::SYS_membarrier, any),
        ("sigaltstack", libc::SYS_sigaltstack, [Some(0), None, Some(0), Some(0), Some(0), Some(0)]),
        ("tgkill", libc::SYS_tgkill, any),
    ];
    if proc::timers(member.pid).is_ok_and(|timers| !timers.is_empty()) {
        calls.push(("timer_gettime", libc::SYS_timer_gettime, any));
        calls.push(("timer_getoverrun", libc::SYS_timer_getoverrun, any));
    }
    let prctl = |operation| ("prctl", libc::SYS_prctl, first(operation));
    calls.extend(crate::inner::ASKED_BY_PRCTL.map(prctl));
    let threads = || member.threads.iter().map(|(tid, _)| *tid);
    calls
        .into_iter()
        .filter(|(_, nr, args)| !threads().all(|tid| filters.allow(tid, *nr, args)))
        .map(|(name, ..)| name)
        .collect()
}

/// An installation that was noted.
struct Node {
    tid: i32,
    process: i32,
    for_all: bool,
    /// How many filters the thread had afterwards, beyond those of its environment.
    depth: usize,
    /// All of them; `None` if that cannot be told.
    chain: Option<Vec<u32>>,
}

/// What a keeper noted.
struct Noted {
    nodes: Vec<Node>,
    parents: HashMap<i32, i32>,
}

impl Noted {
    fn of(members: &[Member], keeper: Option<&dyn Keeper>, filters: &mut Filters) -> Self {
        let notes = keeper.map(Keeper::notes).unwrap_or_default();
        let mut noted = Self { nodes: Vec::new(), parents: HashMap::new() };
        for note in &notes {
            noted.add(note, base(keeper), filters);
        }
        for member in members {
            noted.parents.insert(member.inner.raw(), member.parent);
            for (tid, status) in &member.threads {
                // It lives, so what it was to install beyond what it has failed.
                let depth = status.seccomp_filters.saturating_sub(base(keeper)) as usize;
                noted.drop_beyond(noted_as(status, *tid), member.inner.raw(), depth);
            }
        }
        noted
    }

    fn add(&mut self, note: &Note, base: u32, filters: &mut Filters) {
        let Some(before) = note.before.checked_sub(base) else { return };
        self.parents.entry(note.process).or_insert(note.parent);
        self.drop_beyond(note.tid, note.process, before as usize);
        const LOG: u32 = 1 << 1;
        let program = filters.intern(Filter { logs: note.flags & LOG != 0, code: note.code.clone() });
        let chain = self.inherited(note.tid, note.process, before as usize).map(|mut chain| {
            chain.push(program);
            chain
        });
        self.nodes.push(Node {
            tid: note.tid,
            process: note.process,
            for_all: note.for_all(),
            depth: before as usize + 1,
            chain,
        });
    }

    /// Forgets installations of a thread that cannot have succeeded, as it had fewer filters later.
    fn drop_beyond(&mut self, tid: i32, process: i32, depth: usize) {
        self.nodes.retain(|node| (node.tid, node.process) != (tid, process) || node.depth <= depth);
    }

    /// Finds the filters of a thread that has `depth` of them.
    fn inherited(&self, tid: i32, process: i32, depth: usize) -> Option<Vec<u32>> {
        if depth == 0 {
            return Some(Vec::new());
        }
        let of_depth = || self.nodes.iter().filter(|node| node.depth == depth);
        if let Some(own) = of_depth().rfind(|node| (node.tid, node.process) == (tid, process)) {
            return own.chain.clone();
        }
        // A process in which somebody came to that many is where all of its threads have them from; else it was born
        // with them.
        let (mut at, mut seen) = (process, HashSet::new());
        while at > 1 && seen.insert(at) {
            if let Some(shared) = of_depth().rfind(|node| node.process == at && node.for_all) {
                return shared.chain.clone();
            }
            let here: HashSet<_> =
                of_depth().filter(|node| node.process == at).map(|node| &node.chain).collect();
            if !here.is_empty() {
                return only(here);
            }
            at = self.parents.get(&at).copied().unwrap_or(0);
        }
        // Its ancestors have ended: whoever it was, if all had the same.
        only(of_depth().map(|node| &node.chain).collect())
    }

    fn chains(&self, member: &Member, base: u32) -> Result<Vec<(i32, Vec<u32>)>, Unknown> {
        let mut chains = Vec::new();
        for (tid, status) in &member.threads {
            let depth = status.seccomp_filters.saturating_sub(base) as usize;
            if depth > 0 && self.nodes.is_empty() {
                return Err(Unknown::Unnoted);
            }
            let chain = self.inherited(noted_as(status, *tid), member.inner.raw(), depth);
            let chain = chain.ok_or(Unknown::Several)?;
            chains.push((*tid, chain));
        }
        Ok(chains)
    }
}

/// The only element, if there is one only.
fn only(chains: HashSet<&Option<Vec<u32>>>) -> Option<Vec<u32>> {
    if chains.len() == 1 { chains.into_iter().next()?.clone() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(tid: i32, process: i32, parent: i32, before: u32, flags: u32, code: u8) -> Note {
        Note { tid, process, parent, before, flags, code: vec![code; 8] }
    }

    /// What threads with one filter of their environment have, by what was noted.
    fn noted(notes: &[Note]) -> (Noted, Filters) {
        let mut filters = Filters::default();
        let mut noted = Noted { nodes: Vec::new(), parents: HashMap::new() };
        for note in notes {
            noted.add(note, 1, &mut filters);
        }
        (noted, filters)
    }

    #[test]
    fn whoever_inherits_has_a_beginning_of_what_its_creator_has() {
        let (mut noted, _) =
            noted(&[note(2, 2, 1, 1, 0, 10), note(2, 2, 1, 2, 0, 11), note(7, 7, 2, 3, 0, 12)]);
        noted.parents.insert(9, 2);
        assert_eq!(noted.inherited(2, 2, 2), Some(vec![0, 1]));
        assert_eq!(noted.inherited(7, 7, 3), Some(vec![0, 1, 2]));
        // Forked between the first and the second.
        assert_eq!(noted.inherited(9, 9, 1), Some(vec![0]));
        assert_eq!(noted.inherited(9, 9, 0), Some(vec![]));
        assert_eq!(noted.inherited(9, 9, 4), None);
    }

    #[test]
    fn an_installation_that_failed_is_forgotten() {
        let (noted, _) = noted(&[note(2, 2, 1, 1, 0, 10), note(2, 2, 1, 1, 0, 11)]);
        assert_eq!(noted.inherited(2, 2, 1), Some(vec![1]));
    }

    #[test]
    fn threads_have_what_was_installed_for_all_of_them() {
        let (noted, _) = noted(&[note(3, 2, 1, 1, 1, 10), note(4, 2, 1, 2, 0, 11)]);
        assert_eq!(noted.inherited(2, 2, 1), Some(vec![0]));
        assert_eq!(noted.inherited(4, 2, 2), Some(vec![0, 1]));
    }

    #[test]
    fn nothing_is_guessed_where_there_is_a_choice() {
        let (mut noted, _) =
            noted(&[note(3, 2, 1, 1, 0, 10), note(4, 2, 1, 1, 0, 11), note(8, 8, 1, 1, 0, 10)]);
        noted.parents.insert(9, 2);
        assert_eq!(noted.inherited(9, 9, 1), None);
        assert_eq!(noted.inherited(8, 8, 1), Some(vec![0]));
        // An orphan: one of three.
        assert_eq!(noted.inherited(20, 20, 1), None);
        noted.nodes.retain(|node| node.tid != 4);
        assert_eq!(noted.inherited(20, 20, 1), Some(vec![0]));
    }
}
