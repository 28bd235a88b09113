//! The tree of processes: who clones whom, sessions, groups, and those that had ended.

use super::{Compiler, Relation};
use crate::error::Error;
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_model::pd::Life;
use frost_model::{Checkpoint, Obstacle, Pid, Process};
use frost_tracee::tape::EntryIndex;
use std::collections::HashMap;

/// What follows from the relations of all processes.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The index of each process by its pid.
    pub(crate) index: HashMap<Pid, usize>,
    /// Children of each process that are cloned before it makes a session of its own.
    before: Vec<Vec<usize>>,
    /// Children that are cloned after.
    after: Vec<Vec<usize>>,
    /// The session each has in the end; `None` is that of the builder.
    session: Vec<Option<Pid>>,
    /// The group each has in the end, and the one it is born in.
    group: Vec<Option<Pid>>,
    birth_group: Vec<Option<Pid>>,
    /// Processes whose session cannot be had by any order of calls.
    pub(crate) misplaced: Vec<usize>,
    /// Sessions whose leader has ended, and the children of a process that are the first in one.
    lost_sessions: Vec<Vec<(Pid, Vec<usize>)>>,
    /// For each group that is joined: its word, 1 until it exists, and the members.
    joins: HashMap<Pid, Join>,
    /// Which processes are children of the keeper, beside the root, or of one within the tree: not of who makes them.
    orphan: Vec<bool>,
    /// For children of a keeper within the tree that are made from outside, its nest.
    nested: Vec<Option<usize>>,
}

/// Finds out for each process who clones it, by their index.
///
/// A child of a keeper within the tree is made by the leader of its session, if that lives there, or else by who makes the
/// keeper, since that may not choose numbers outside of its own namespaces.
/// A process whose parent had ended is the keeper's child. It is cloned by a process that ends at once, itself a child
/// of the leader of its session, or else of the root.
pub(super) fn makers(checkpoint: &Checkpoint) -> Vec<Option<usize>> {
    let processes = &checkpoint.processes;
    let index: HashMap<Pid, usize> =
        processes.iter().enumerate().map(|(index, process)| (process.pd.relation.pid, index)).collect();
    let mut makers: Vec<Option<usize>> = Vec::with_capacity(processes.len());
    for (number, process) in processes.iter().enumerate() {
        let relation = &process.pd.relation;
        let maker = match relation.parent {
            _ if number == 0 => None,
            Some(parent) => match checkpoint.kept_by(parent) {
                Some(nest) => {
                    let leader = relation.session.filter(|leader| {
                        *leader != parent && *leader != relation.pid && nest.inner(*leader).is_some()
                    });
                    let leader = leader.and_then(|leader| index.get(&leader).copied());
                    // The keeper stands before its children, so its own maker is known.
                    leader.filter(|leader| *leader < number).or_else(|| {
                        index.get(&parent).and_then(|keeper| makers.get(*keeper).copied().flatten())
                    })
                }
                None => index.get(&parent).copied(),
            },
            None => {
                let leader = relation.session.and_then(|leader| index.get(&leader).copied());
                Some(leader.filter(|leader| *leader != number).unwrap_or(0))
            }
        };
        makers.push(maker);
    }
    makers
}

/// The session of the terminal that a process of the runtime leads. A tree that is attached is in ours instead.
pub(crate) fn led(checkpoint: &Checkpoint) -> Option<Pid> {
    checkpoint.host.runtime.as_ref()?.session
}

#[derive(Debug, Default)]
struct Join {
    members: Vec<usize>,
    /// The address of the word that its leader sets to 0.
    word: u64,
    /// A word for each member of a group without a living leader.
    joined: Vec<u64>,
}

impl Tree {
    /// Works it out.
    pub(crate) fn of(checkpoint: &Checkpoint, relation: Relation) -> Self {
        let processes = &checkpoint.processes;
        let index: HashMap<Pid, usize> =
            processes.iter().enumerate().map(|(index, process)| (process.pd.relation.pid, index)).collect();
        let root = processes.first().map_or(Pid::new(0), |process| process.pd.relation.pid);
        // A tree that is not attached gets a session of its own, so that nobody's terminal reaches it. One that
        // is attached stays in ours, as a job of its own, even if it led a session: the terminal is ours to lend.
        let detached = !relation.attach;
        let lends = relation.attach
            && crate::cap::of_session(checkpoint, root).is_none()
            && processes.first().is_some_and(|p| p.pd.relation.controls_terminal);
        // A builder is born into the session that somebody beside the tree leads.
        let led = led(checkpoint);
        let mut session: Vec<Option<Pid>> = Vec::with_capacity(processes.len());
        for process in processes {
            // The root cannot be born into a session whose leader has ended; all others can.
            let can_have = |leader: &Pid| index.contains_key(leader) || !session.is_empty();
            let wanted = process.pd.relation.session.filter(can_have);
            session.push(match wanted {
                _ if led.is_some() && process.pd.relation.session == led => None,
                Some(leader) if leader == root && lends => None,
                Some(leader) => Some(leader),
                None if detached => Some(root),
                None => None,
            });
        }
        let mut group = vec![None; processes.len()];
        let mut birth_group = vec![None; processes.len()];
        if let (Some(first), false) = (birth_group.first_mut(), relation.attach) {
            *first = led;
        }
        let mut birth_session = vec![None; processes.len()];
        let mut before = vec![Vec::new(); processes.len()];
        let mut after = vec![Vec::new(); processes.len()];
        let mut misplaced = Vec::new();
        let mut lost_sessions: Vec<Vec<(Pid, Vec<usize>)>> = vec![Vec::new(); processes.len()];
        let mut joins: HashMap<Pid, Join> = HashMap::new();
        let makers = makers(checkpoint);
        let kept = |process: &Process| {
            let parent = process.pd.relation.parent?;
            checkpoint.nests.iter().position(|nest| nest.keeper == parent)
        };
        let from_outside = |(process, maker): (&Process, &Option<usize>)| {
            let maker = processes[(*maker)?].pd.relation.pid;
            kept(process).filter(|nest| checkpoint.nests[*nest].inner(maker).is_none())
        };
        let nested: Vec<Option<usize>> = processes.iter().zip(&makers).map(from_outside).collect();
        let is_orphan = |(number, process): (usize, &Process)| {
            number > 0 && (process.pd.relation.parent.is_none() || kept(process).is_some())
        };
        let orphan: Vec<bool> = processes.iter().enumerate().map(is_orphan).collect();
        for (number, process) in processes.iter().enumerate() {
            let relation = &process.pd.relation;
            let leads_session = session[number] == Some(relation.pid);
            if let Some(parent) = makers[number] {
                let parent_session = session[parent];
                if processes[parent].cpu.threads.is_empty() {
                    misplaced.push(number);
                } else if leads_session || session[number] == parent_session {
                    after[parent].push(number);
                    birth_session[number] = parent_session;
                    // The parent has led its own group by then, if it does, but not joined another's.
                    let own = processes[parent].pd.relation.pid;
                    birth_group[number] =
                        if group[parent] == Some(own) { Some(own) } else { birth_group[parent] };
                } else if session[number] == birth_session[parent] {
                    before[parent].push(number);
                    birth_session[number] = birth_session[parent];
                    birth_group[number] = birth_group[parent];
                } else if let Some(leader) = session[number].filter(|leader| !index.contains_key(leader)) {
                    match lost_sessions[parent].iter_mut().find(|(known, _)| *known == leader) {
                        Some((_, children))
                            if (orphan[children[0]], nested[children[0]])
                                == (orphan[number], nested[number]) =>
                        {
                            children.push(number);
                        }
                        Some(_) => misplaced.push(number),
                        None => lost_sessions[parent].push((leader, vec![number])),
                    }
                    birth_session[number] = Some(leader);
                    birth_group[number] = Some(leader);
                } else {
                    misplaced.push(number);
                }
            }
            let leads_group = relation.group == Some(relation.pid);
            group[number] = if leads_session || leads_group {
                Some(relation.pid)
            } else if relation.group == Some(root) && session[0] == Some(root) {
                Some(root)
            } else {
                relation.group
            };
            match group[number] {
                Some(leader) if leader != relation.pid && group[number] != birth_group[number] => {
                    joins.entry(leader).or_default().members.push(number);
                }
                _ => {}
            }
        }
        // A group whose leader has moved to another one cannot be made while that process lives.
        joins.retain(|leader, join| {
            let lives = index.get(leader).is_none_or(|number| group[*number] == Some(*leader));
            if !lives {
                for member in &join.members {
                    group[*member] = birth_group[*member];
                }
            }
            lives
        });
        Self {
            index,
            before,
            after,
            session,
            group,
            birth_group,
            misplaced,
            lost_sessions,
            joins,
            orphan,
            nested,
        }
    }

    fn leads_session(&self, index: usize, pid: Pid) -> bool {
        self.session[index] == Some(pid)
    }

    /// Returns whether a process is made the leader of its group by a call, and not by making a session.
    fn leads_group(&self, index: usize, pid: Pid) -> bool {
        self.group[index] == Some(pid)
            && !self.leads_session(index, pid)
            && self.birth_group[index] != Some(pid)
    }
}

/// Lists the processes whose place in a session cannot be rebuilt.
pub(crate) fn obstacles(checkpoint: &Checkpoint, relation: Relation) -> Vec<Obstacle> {
    let tree = Tree::of(checkpoint, relation);
    let obstacle = |index: &usize| {
        let process = &checkpoint.processes[*index];
        let relation = &process.pd.relation;
        Obstacle {
            pid: relation.pid,
            command: process.pd.command.to_string(),
            object: "its session".to_owned(),
            reason: "it was adopted from another session than its parent's, which no order of calls gives"
                .to_owned(),
            remedy: "freeze the tree when that process has ended".to_owned(),
            passes: false,
        }
    };
    tree.misplaced.iter().map(obstacle).collect()
}

/// A process that only lends its pid to a group or a session whose leader has ended.
#[derive(Debug)]
pub(super) struct Ghost {
    pid: Pid,
    tape: u64,
    kind: GhostKind,
    /// The nest into which it is born from outside.
    nest: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GhostKind {
    /// It leads a session; whether its children are to be the keeper's.
    Session { orphans: bool },
    /// It leads a group.
    Group,
    /// It leads a group that is in the foreground of a terminal and has no member.
    Foreground,
}

impl Compiler<'_> {
    /// Makes the words by which processes wait for each other.
    pub(super) fn make_words(&mut self) {
        for (leader, join) in &mut self.tree.joins {
            join.word = self.control.words(&[1]);
            if !self.tree.index.contains_key(leader) {
                join.joined = join.members.iter().map(|_| self.control.words(&[1])).collect();
            }
        }
    }

    /// Writes the arguments of a clone and returns their address.
    pub(super) fn clone_args(&mut self, args: &frost_sys::clone::CloneArgs) -> u64 {
        let words = [
            args.flags,
            args.pidfd,
            args.child_tid,
            args.parent_tid,
            args.exit_signal,
            args.stack,
            args.stack_size,
            args.tls,
            args.set_tid,
            args.set_tid_size,
            args.cgroup,
        ];
        self.control.words(&words)
    }

    /// Returns the number of a process or thread as process `index` sees it: in a nest it is another one.
    pub(super) fn seen_by(&self, index: usize, pid: Pid) -> i32 {
        /// Nobody has it, so that a call that relies on it fails.
        const NOBODY: i32 = i32::MAX;
        let viewer = self.checkpoint.processes[index].pd.relation.pid;
        self.checkpoint.seen_by(viewer, pid).map_or(NOBODY, Pid::raw)
    }

    /// Writes the numbers that a process or thread is to have, the innermost first, and returns their address and count.
    fn set_tid(&mut self, numbers: &[i32]) -> [u64; 2] {
        if numbers.is_empty() {
            // The kernel refuses an address with a count of zero.
            return [0; 2];
        }
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        [self.control.blob_aligned(&bytes, 8), numbers.len() as u64]
    }

    /// The numbers of a process, the innermost first.
    fn numbers_of(&self, pid: Pid) -> Vec<i32> {
        let inner = self.checkpoint.nest_of(pid).and_then(|nest| nest.inner(pid));
        inner.into_iter().chain([pid]).map(Pid::raw).collect()
    }

    /// The numbers that a thread other than the leader gets.
    ///
    /// In a user namespace of its own a process may not choose numbers of another one (`alloc_pid`, kernel/pid.c), and it
    /// has to enter that before it has threads. What number they have outside is of no use to anybody.
    pub(super) fn thread_numbers(&mut self, tid: Pid) -> [u64; 2] {
        let mut numbers = self.numbers_of(tid);
        if self.checkpoint.nest_of(tid).is_some_and(|nest| nest.user) {
            numbers.truncate(1);
        }
        self.set_tid(&numbers)
    }

    /// Clones a process into a tape, under a number or, if that does not matter, under one that nobody wants.
    fn fork(&mut self, script: &mut Script, pid: Option<Pid>, exit_signal: i32, tape: u64) -> EntryIndex {
        let numbers = pid.map(|pid| self.numbers_of(pid)).unwrap_or_default();
        let keeper = pid.and_then(|pid| self.checkpoint.kept_by(pid));
        let flags = keeper.map_or(0, |nest| NEST | if nest.user { libc::CLONE_NEWUSER } else { 0 });
        self.fork_as(script, flags as u64, &numbers, exit_signal, tape)
    }

    fn fork_as(
        &mut self,
        script: &mut Script,
        flags: u64,
        numbers: &[i32],
        exit_signal: i32,
        tape: u64,
    ) -> EntryIndex {
        let address = self.fork_args(flags, numbers, exit_signal, tape);
        script.call(libc::SYS_clone3, &[address, CLONE_ARGS_BYTES])
    }

    fn fork_args(&mut self, flags: u64, numbers: &[i32], exit_signal: i32, tape: u64) -> u64 {
        let [set_tid, set_tid_size] = self.set_tid(numbers);
        // The interpreter of the child keeps its place in its stack pointer, which the kernel sets to the end of
        // the stack it is given; it refuses an empty one.
        self.clone_args(&frost_sys::clone::CloneArgs {
            flags,
            exit_signal: exit_signal as u64,
            stack: tape - 64,
            stack_size: 64,
            set_tid,
            set_tid_size,
            ..Default::default()
        })
    }

    /// Writes the tapes of the processes that bear those children of `index` that are the keeper's.
    fn bearers(&mut self, index: usize) -> Result<(), Error> {
        let children = self.tree.before[index].iter().chain(&self.tree.after[index]).copied();
        for child in children.filter(|child| self.tree.orphan[*child]).collect::<Vec<_>>() {
            let mut script = Script::start_of_clone(&self.control);
            // From within a nest the builder, whom a fault may be to end, is not seen.
            let pid = self.checkpoint.processes[child].pd.relation.pid;
            let nested = self.checkpoint.kept_by(pid).is_none() && self.checkpoint.nest_of(pid).is_some();
            let due = self.fault_due;
            self.fault_due = due && !nested;
            self.child_of_its_own(&mut script, index, child);
            self.fault_due |= due && nested;
            script.attempt(libc::SYS_exit_group, &[0]);
            self.bearers.insert(child, script.tape.address());
            let placed = script.place(&mut self.control, index, usize::MAX)?;
            self.tapes.push(placed);
        }
        Ok(())
    }

    /// Lets the children that process `index` clones from here on be born into a nest, or no more if there is none.
    fn bear_in(&mut self, script: &mut Script, index: usize, nest: Option<usize>) {
        let own = self.checkpoint.processes[index].pd.relation.pid;
        let where_to = nest.map_or(own, |nest| self.checkpoint.nests[nest].keeper);
        let number = self.seen_by(index, where_to);
        // The descriptor is closed with all others that the program does not have.
        let opened = script.call(libc::SYS_pidfd_open, &[number as u64, 0]);
        let entered = script.call(libc::SYS_setns, &[0, libc::CLONE_NEWPID as u64]);
        script.tape.forward(opened, entered, 0);
    }

    /// Lets a living process enter the namespaces of its nest, once these are furnished.
    ///
    /// Behind the cloning of its children, which takes rights outside, and before that of its threads, since a process with
    /// threads may not.
    pub(super) fn enter_nest(&mut self, script: &mut Script, index: usize, process: &Process) {
        let pid = process.pd.relation.pid;
        let Some(nest) = self.checkpoint.nest_of(pid) else { return };
        let (is_keeper, user) = (nest.keeper == pid, nest.user);
        self.about(script, index, Stage::Namespaces, Subject::Named("the namespaces of a `frost run` in it"));
        let slot = self.control.words(&[0]);
        // End of file, should the builder have died, as at the gate.
        script.call(libc::SYS_read, &[self.numbers.furnished as u64, slot, 1]);
        if is_keeper {
            return;
        }
        let opened = script.call(libc::SYS_pidfd_open, &[1, 0]);
        let kinds = NEST & !libc::CLONE_NEWPID | if user { libc::CLONE_NEWUSER } else { 0 };
        let entered = script.call(libc::SYS_setns, &[0, kinds as u64]);
        script.tape.forward(opened, entered, 0);
        self.first_filter(script, index, process);
    }

    /// Puts on the filter that a process has from the keeper of its nest. It may have no right to, later.
    fn first_filter(&mut self, script: &mut Script, index: usize, process: &Process) {
        const SET_MODE_FILTER: u64 = 1;
        /// SECCOMP_FILTER_FLAG_SPEC_ALLOW: what is turned off of the processor stands in the image by itself.
        const SPEC_ALLOW: u64 = 4;
        let first = process.cpu.threads.first().and_then(|thread| thread.filters.first());
        let Some(filter) = first.and_then(|first| self.checkpoint.objects.filters.get(*first as usize))
        else {
            return;
        };
        self.about(script, index, Stage::Filters, Subject::Step);
        let count = filter.code.len() / frost_model::pd::filter::INSTRUCTION_BYTES;
        let code = self.control.blob_aligned(&filter.code, 8);
        let program = self.control.words(&[count as u64, code]);
        let flags = SPEC_ALLOW | if filter.logs { frost_model::pd::filter::LOGS } else { 0 };
        script.call(libc::SYS_seccomp, &[SET_MODE_FILTER, flags, program]);
    }

    /// Says whether children of our children become ours when those end, or the keeper's.
    fn adopt(&self, script: &mut Script, ours: bool) {
        script.call(libc::SYS_prctl, &[libc::PR_SET_CHILD_SUBREAPER as u64, u64::from(ours)]);
    }

    /// Writes the tapes of the ghosts that process `index` has to make.
    pub(super) fn ghosts(&mut self, index: usize, process: &Process) -> Result<Vec<Ghost>, Error> {
        self.bearers(index)?;
        let mut ghosts = Vec::new();
        for (leader, children) in self.tree.lost_sessions[index].clone() {
            let mut script = Script::start_of_clone(&self.control);
            self.about(&mut script, index, Stage::Session, Subject::Id(leader.raw()));
            script.attempt(libc::SYS_setsid, &[]);
            let orphans = children.iter().any(|child| self.tree.orphan[*child]);
            let nest = children.iter().find_map(|child| self.tree.nested[*child]);
            for child in children {
                self.child_of_its_own(&mut script, index, child);
            }
            script.attempt(libc::SYS_exit_group, &[0]);
            let nest = nest.filter(|_| self.checkpoint.nest_of(process.pd.relation.pid).is_none());
            ghosts.push(Ghost {
                pid: leader,
                tape: script.tape.address(),
                kind: GhostKind::Session { orphans },
                nest,
            });
            let placed = script.place(&mut self.control, index, usize::MAX)?;
            self.tapes.push(placed);
        }
        if let Some((terminal, group)) = self.empty_foreground(process.pd.relation.pid) {
            let mut script = Script::start_of_clone(&self.control);
            self.about(&mut script, index, Stage::Group, Subject::Id(group.raw()));
            script.attempt(libc::SYS_setpgid, &[0, 0]);
            let number = self.seen_by(index, group);
            let word = self.control.words(&[number as u64]);
            script.attempt(libc::SYS_ioctl, &[terminal as u64, frost_sys::pty::TIOCSPGRP, word]);
            script.attempt(libc::SYS_exit_group, &[0]);
            ghosts.push(Ghost {
                pid: group,
                tape: script.tape.address(),
                kind: GhostKind::Foreground,
                nest: None,
            });
            let placed = script.place(&mut self.control, index, usize::MAX)?;
            self.tapes.push(placed);
        }
        let Some(leader) = self.tree.group[index].filter(|leader| *leader != process.pd.relation.pid) else {
            return Ok(ghosts);
        };
        let Some(join) = self.tree.joins.get(&leader) else { return Ok(ghosts) };
        if self.tree.index.contains_key(&leader) || join.members.first() != Some(&index) {
            return Ok(ghosts);
        }
        let (word, joined) = (join.word, join.joined.clone());
        let mut script = Script::start_of_clone(&self.control);
        self.about(&mut script, index, Stage::Group, Subject::Id(leader.raw()));
        let made = script.attempt(libc::SYS_setpgid, &[0, 0]);
        script.tape.entry_mut(made).forward = word;
        self.wake(&mut script, word);
        for word in joined {
            self.wait_for(&mut script, word);
        }
        script.attempt(libc::SYS_exit_group, &[0]);
        ghosts.push(Ghost { pid: leader, tape: script.tape.address(), kind: GhostKind::Group, nest: None });
        let placed = script.place(&mut self.control, index, usize::MAX)?;
        self.tapes.push(placed);
        Ok(ghosts)
    }

    fn wake(&self, script: &mut Script, word: u64) {
        script.attempt(libc::SYS_futex, &[word, libc::FUTEX_WAKE as u64, i32::MAX as u64]);
    }

    fn wait_for(&self, script: &mut Script, word: u64) {
        // EAGAIN if the word has changed already. After a timeout the call that relies on it fails by itself.
        script.attempt(libc::SYS_futex, &[word, libc::FUTEX_WAIT as u64, 1, self.long_wait]);
    }

    /// Session, group and children of a process.
    pub(super) fn family(&mut self, script: &mut Script, index: usize, process: &Process, ghosts: &[Ghost]) {
        let pid = process.pd.relation.pid;
        if process.pd.relation.subreaper {
            self.about(script, index, Stage::Settings, Subject::Named("child subreaper"));
            self.adopt(script, true);
        }
        for child in self.tree.before[index].clone() {
            self.child(script, index, child);
        }
        self.own_place(script, index, pid);
        for child in self.tree.after[index].clone() {
            self.child(script, index, child);
        }
        let of = |kind| ghosts.iter().filter(move |ghost: &&Ghost| ghost.kind == kind);
        let mut any = false;
        for ghost in ghosts {
            let GhostKind::Session { orphans } = ghost.kind else { continue };
            any = true;
            self.about(script, index, Stage::Session, Subject::Id(ghost.pid.raw()));
            // Its children become ours when it ends, or the keeper's, as they did when the true leader ended.
            self.adopt(script, !orphans);
            if ghost.nest.is_some() {
                self.bear_in(script, index, ghost.nest);
            }
            self.fork(script, Some(ghost.pid), 0, ghost.tape);
            let number = self.seen_by(index, ghost.pid);
            script.call(libc::SYS_wait4, &[number as u64, 0, libc::__WALL as u64, 0]);
            if ghost.nest.is_some() {
                self.bear_in(script, index, None);
            }
        }
        if any {
            self.adopt(script, process.pd.relation.subreaper);
        }
        for ghost in of(GhostKind::Group) {
            self.about(script, index, Stage::Group, Subject::Id(ghost.pid.raw()));
            self.fork(script, Some(ghost.pid), 0, ghost.tape);
        }
        self.join(script, index, pid);
        self.foreground(script, index);
        for ghost in of(GhostKind::Foreground) {
            self.about(script, index, Stage::Group, Subject::Named("the foreground of its terminal"));
            let numbers = self.numbers_of(ghost.pid);
            let args = self.fork_args(0, &numbers, 0, ghost.tape);
            // Its number may be another process' by now; then the terminal tells of the session's leader.
            script.attempt(libc::SYS_clone3, &[args, CLONE_ARGS_BYTES]);
            let number = self.seen_by(index, ghost.pid);
            script.attempt(libc::SYS_wait4, &[number as u64, 0, libc::__WALL as u64, 0]);
        }
        for ghost in of(GhostKind::Group) {
            self.about(script, index, Stage::Group, Subject::Id(ghost.pid.raw()));
            let number = self.seen_by(index, ghost.pid);
            script.call(libc::SYS_wait4, &[number as u64, 0, libc::__WALL as u64, 0]);
        }
        let adopted = self.tree.lost_sessions[index].iter().flat_map(|(_, children)| children);
        let zombies = self.tree.before[index].iter().chain(&self.tree.after[index]).chain(adopted).copied();
        let has_ended = |child: &usize| {
            self.checkpoint.processes[*child].cpu.threads.is_empty() && !self.tree.orphan[*child]
        };
        let zombies: Vec<usize> = zombies.filter(has_ended).collect();
        if zombies.is_empty() {
            return;
        }
        for child in zombies {
            let pid = self.checkpoint.processes[child].pd.relation.pid;
            self.about(script, index, Stage::Zombie, Subject::Id(pid.raw()));
            let id = self.seen_by(index, pid);
            let options = libc::WEXITED | libc::WNOWAIT | libc::__WALL;
            script.call(libc::SYS_waitid, &[libc::P_PID.into(), id as u64, 0, options as u64, 0]);
        }
        // Their ends have been signalled; what was pending in the image is queued later.
        let [chld, at_once] = self.drain;
        for _ in 0..2 {
            script.attempt(libc::SYS_rt_sigtimedwait, &[chld, 0, at_once, 8]);
        }
    }

    /// Makes the session or group that a process leads.
    fn own_place(&mut self, script: &mut Script, index: usize, pid: Pid) {
        if self.tree.leads_session(index, pid) {
            self.about(script, index, Stage::Session, Subject::Id(pid.raw()));
            let made = script.call(libc::SYS_setsid, &[]);
            // Before it has children, which inherit it, and before a group of them can be in the foreground.
            if let Some(terminal) = self.terminal_of(pid) {
                self.about(script, index, Stage::Session, Subject::Named("its controlling terminal"));
                script.call(libc::SYS_ioctl, &[terminal as u64, frost_sys::pty::TIOCSCTTY, 0]);
            }
            self.tell(script, pid, made);
        } else if self.tree.leads_group(index, pid) {
            self.about(script, index, Stage::Group, Subject::Id(pid.raw()));
            let made = script.call(libc::SYS_setpgid, &[0, 0]);
            self.tell(script, pid, made);
        }
    }

    /// The number of the terminal that controls the session of `leader`.
    fn terminal_of(&self, leader: Pid) -> Option<i32> {
        let pty = crate::cap::of_session(self.checkpoint, leader)?;
        self.numbers.terminals.get(&pty).copied()
    }

    /// The terminal of the session of `leader`, and its foreground group if nobody is in that.
    fn empty_foreground(&self, leader: Pid) -> Option<(i32, Pid)> {
        let terminal = self.terminal_of(leader)?;
        let ptys = &self.checkpoint.objects.ptys;
        let group = ptys.iter().find(|pty| pty.session == Some(leader))?.foreground?;
        let is_used = self.tree.index.contains_key(&group) || self.tree.group.contains(&Some(group));
        (group.raw() > 0 && !is_used).then_some((terminal, group))
    }

    /// Lets the first process of a foreground group put it there, a living one if there is one; at first it is the leader's
    /// own group.
    ///
    /// All signals are blocked, so SIGTTOU is no matter (`tty_check_change`, drivers/tty/tty_jobctrl.c).
    fn foreground(&mut self, script: &mut Script, index: usize) {
        let (Some(session), Some(group)) = (self.tree.session[index], self.tree.group[index]) else { return };
        let Some(terminal) = self.terminal_of(session) else { return };
        let ptys = &self.checkpoint.objects.ptys;
        let wanted = ptys.iter().any(|pty| pty.session == Some(session) && pty.foreground == Some(group));
        let lives = |other: &usize| !self.checkpoint.processes[*other].cpu.threads.is_empty();
        let is_member = |other: &usize| {
            self.tree.session[*other] == Some(session) && self.tree.group[*other] == Some(group)
        };
        let all = 0..self.checkpoint.processes.len();
        let first = all.clone().filter(lives).find(is_member).or_else(|| all.clone().find(is_member));
        if !wanted || group == session || first != Some(index) {
            return;
        }
        self.about(script, index, Stage::Group, Subject::Named("the foreground of its terminal"));
        let group = self.control.words(&[self.seen_by(index, group) as u64]);
        script.call(libc::SYS_ioctl, &[terminal as u64, frost_sys::pty::TIOCSPGRP, group]);
    }

    fn tell(&mut self, script: &mut Script, pid: Pid, made: EntryIndex) {
        if let Some(word) = self.tree.joins.get(&pid).map(|join| join.word) {
            // setsid returns the session's number, which is not 1 either unless it is that of pid 1.
            script.tape.entry_mut(made).forward = word;
            self.wake(script, word);
        }
    }

    fn child(&mut self, script: &mut Script, index: usize, child: usize) {
        let Some(bearer) = self.bearers.get(&child).copied() else {
            return self.child_of_its_own(script, index, child);
        };
        self.about(script, index, Stage::Clone, Subject::Named("a process that ends at once"));
        let subreaper = self.checkpoint.processes[index].pd.relation.subreaper;
        if subreaper {
            self.adopt(script, false);
        }
        let nest = self.tree.nested[child];
        if nest.is_some() {
            self.bear_in(script, index, nest);
        }
        // Pids begin anew in a nest, with those of the program.
        let pid = self.checkpoint.processes[child].pd.relation.pid;
        let within =
            self.checkpoint.nests.iter().position(|nest| nest.keeper != pid && nest.inner(pid).is_some());
        let spare = within.and_then(|nest| self.spare_numbers.get_mut(nest)?.next());
        let numbers: Vec<i32> = spare.into_iter().collect();
        let made = self.fork_as(script, 0, &numbers, 0, bearer);
        let ended = script.call(libc::SYS_wait4, &[0, 0, libc::__WALL as u64, 0]);
        script.tape.forward(made, ended, 0);
        if nest.is_some() {
            self.bear_in(script, index, None);
        }
        if subreaper {
            self.adopt(script, true);
        }
    }

    fn child_of_its_own(&mut self, script: &mut Script, index: usize, child: usize) {
        let process = &self.checkpoint.processes[child];
        let relation = &process.pd.relation;
        self.about(script, index, Stage::Clone, Subject::Id(relation.pid.raw()));
        let first = process.cpu.first_timer_slack_ns();
        let own = self.checkpoint.processes[index].cpu.first_timer_slack_ns();
        if first != own {
            self.slack(script, first);
        }
        self.fork(script, Some(relation.pid), relation.exit_signal, self.process_tapes[child]);
        if first != own {
            self.slack(script, own);
        }
    }

    /// Joins the group of another process.
    fn join(&mut self, script: &mut Script, index: usize, pid: Pid) {
        let Some(leader) = self.tree.group[index] else { return };
        if leader == pid || self.tree.birth_group[index] == Some(leader) {
            return;
        }
        let Some(join) = self.tree.joins.get(&leader) else { return };
        let member = join.members.iter().position(|member| *member == index);
        let joined = member.and_then(|member| join.joined.get(member).copied());
        let word = join.word;
        self.about(script, index, Stage::Group, Subject::Id(leader.raw()));
        self.wait_for(script, word);
        let number = self.seen_by(index, leader);
        let made = script.call(libc::SYS_setpgid, &[0, number as u64]);
        if let Some(word) = joined {
            script.tape.entry_mut(made).forward = word;
            self.wake(script, word);
        }
    }

    /// Writes the tape of a process that had ended.
    pub(super) fn zombie(&mut self, index: usize, process: &Process) -> Result<(), Error> {
        let pid = process.pd.relation.pid;
        let status = match process.pd.life {
            Life::Zombie { status } => status,
            Life::Running | Life::Stopped { .. } => 0,
        };
        let mut script = Script::start_of_clone(&self.control);
        self.about(&mut script, index, Stage::Zombie, Subject::Id(pid.raw()));
        self.name(&mut script, process.pd.command.as_bytes());
        self.own_place(&mut script, index, pid);
        self.join(&mut script, index, pid);
        self.foreground(&mut script, index);
        // Its parent is told of whom it was.
        let (have, want) = (&self.baseline.credentials, &process.pd.credentials);
        if (have.uids, have.gids) != (want.uids, want.gids) {
            let ids = |ids: [u32; 4]| [ids[0].into(), ids[1].into(), ids[2].into()];
            script.attempt(libc::SYS_setresgid, &ids(want.gids));
            script.attempt(libc::SYS_setresuid, &ids(want.uids));
        }
        let signal = status & 0x7f;
        if signal != 0 {
            let core = self.control.words(&[0, 0]);
            script.attempt(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE.into(), core, 0]);
            let mask = self.control.words(&[1 << (signal - 1)]);
            script.attempt(libc::SYS_rt_sigprocmask, &[libc::SIG_UNBLOCK as u64, mask, 0, 8]);
            let number = self.seen_by(index, pid);
            script.attempt(libc::SYS_kill, &[number as u64, signal as u64]);
        }
        script.attempt(libc::SYS_exit_group, &[(status >> 8 & 0xff) as u64]);
        self.process_tapes[index] = script.tape.address();
        let placed = script.place(&mut self.control, index, usize::MAX)?;
        self.tapes.push(placed);
        Ok(())
    }
}

/// The namespaces that a keeper makes, beside one for users.
const NEST: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// The size of `struct clone_args` that we fill.
pub(super) const CLONE_ARGS_BYTES: u64 = size_of::<frost_sys::clone::CloneArgs>() as u64;
