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
    /// Which processes are the keeper's children, beside the root.
    orphan: Vec<bool>,
}

/// Finds out for each process who clones it, by their index.
///
/// A process whose parent had ended is the keeper's child. It is cloned by a process that ends at once, itself a child
/// of the leader of its session, or else of the root.
pub(super) fn makers(checkpoint: &Checkpoint) -> Vec<Option<usize>> {
    let processes = &checkpoint.processes;
    let index: HashMap<Pid, usize> =
        processes.iter().enumerate().map(|(index, process)| (process.pd.relation.pid, index)).collect();
    let maker = |(number, process): (usize, &Process)| {
        let relation = &process.pd.relation;
        match relation.parent {
            _ if number == 0 => None,
            Some(parent) => index.get(&parent).copied(),
            None => {
                let leader = relation.session.and_then(|leader| index.get(&leader).copied());
                Some(leader.filter(|leader| *leader != number).unwrap_or(0))
            }
        }
    };
    processes.iter().enumerate().map(maker).collect()
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
        let mut session: Vec<Option<Pid>> = Vec::with_capacity(processes.len());
        for process in processes {
            // The root cannot be born into a session whose leader has ended; all others can.
            let can_have = |leader: &Pid| index.contains_key(leader) || !session.is_empty();
            let wanted = process.pd.relation.session.filter(can_have);
            session.push(match wanted {
                Some(leader) if leader == root && lends => None,
                Some(leader) => Some(leader),
                None if detached => Some(root),
                None => None,
            });
        }
        let mut group = vec![None; processes.len()];
        let mut birth_group = vec![None; processes.len()];
        let mut birth_session = vec![None; processes.len()];
        let mut before = vec![Vec::new(); processes.len()];
        let mut after = vec![Vec::new(); processes.len()];
        let mut misplaced = Vec::new();
        let mut lost_sessions: Vec<Vec<(Pid, Vec<usize>)>> = vec![Vec::new(); processes.len()];
        let mut joins: HashMap<Pid, Join> = HashMap::new();
        let makers = makers(checkpoint);
        let is_orphan =
            |(number, process): (usize, &Process)| number > 0 && process.pd.relation.parent.is_none();
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
                        Some((_, children)) if orphan[children[0]] == orphan[number] => children.push(number),
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
        Self { index, before, after, session, group, birth_group, misplaced, lost_sessions, joins, orphan }
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
    session: bool,
    /// Its children are to be the keeper's.
    orphans: bool,
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

    /// Clones a process into a tape, under a number or, if that does not matter, under one that nobody wants.
    fn fork(&mut self, script: &mut Script, pid: Option<Pid>, exit_signal: i32, tape: u64) -> EntryIndex {
        let set_tid = pid.map(|pid| self.control.words(&[pid.raw() as u64]));
        // The interpreter of the child keeps its place in its stack pointer, which the kernel sets to the end of
        // the stack it is given; it refuses an empty one.
        let address = self.clone_args(&frost_sys::clone::CloneArgs {
            exit_signal: exit_signal as u64,
            stack: tape - 64,
            stack_size: 64,
            // The kernel refuses an address with a count of zero.
            set_tid: set_tid.unwrap_or(0),
            set_tid_size: set_tid.iter().len() as u64,
            ..Default::default()
        });
        script.call(libc::SYS_clone3, &[address, CLONE_ARGS_BYTES])
    }

    /// Writes the tapes of the processes that bear those children of `index` that are the keeper's.
    fn bearers(&mut self, index: usize) -> Result<(), Error> {
        let children = self.tree.before[index].iter().chain(&self.tree.after[index]).copied();
        for child in children.filter(|child| self.tree.orphan[*child]).collect::<Vec<_>>() {
            let mut script = Script::start_of_clone(&self.control);
            self.child_of_its_own(&mut script, index, child);
            script.attempt(libc::SYS_exit_group, &[0]);
            self.bearers.insert(child, script.tape.address());
            let placed = script.place(&mut self.control, index, usize::MAX)?;
            self.tapes.push(placed);
        }
        Ok(())
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
            for child in children {
                self.child_of_its_own(&mut script, index, child);
            }
            script.attempt(libc::SYS_exit_group, &[0]);
            ghosts.push(Ghost { pid: leader, tape: script.tape.address(), session: true, orphans });
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
        ghosts.push(Ghost { pid: leader, tape: script.tape.address(), session: false, orphans: false });
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
        let (sessions, ghosts): (Vec<&Ghost>, Vec<&Ghost>) = ghosts.iter().partition(|ghost| ghost.session);
        for ghost in &sessions {
            self.about(script, index, Stage::Session, Subject::Id(ghost.pid.raw()));
            // Its children become ours when it ends, or the keeper's, as they did when the true leader ended.
            self.adopt(script, !ghost.orphans);
            self.fork(script, Some(ghost.pid), 0, ghost.tape);
            script.call(libc::SYS_wait4, &[ghost.pid.raw() as u64, 0, libc::__WALL as u64, 0]);
        }
        if !sessions.is_empty() {
            self.adopt(script, process.pd.relation.subreaper);
        }
        for ghost in &ghosts {
            self.about(script, index, Stage::Group, Subject::Id(ghost.pid.raw()));
            self.fork(script, Some(ghost.pid), 0, ghost.tape);
        }
        self.join(script, index, pid);
        self.foreground(script, index);
        for ghost in &ghosts {
            self.about(script, index, Stage::Group, Subject::Id(ghost.pid.raw()));
            script.call(libc::SYS_wait4, &[ghost.pid.raw() as u64, 0, libc::__WALL as u64, 0]);
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
            let id = self.checkpoint.processes[child].pd.relation.pid.raw();
            self.about(script, index, Stage::Zombie, Subject::Id(id));
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

    /// Lets the first living process of a foreground group put it there; at first it is the leader's own group.
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
        let first = (0..self.checkpoint.processes.len()).filter(lives).find(is_member);
        if !wanted || group == session || first != Some(index) {
            return;
        }
        self.about(script, index, Stage::Group, Subject::Named("the foreground of its terminal"));
        let group = self.control.words(&[group.raw() as u64]);
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
        let made = self.fork(script, None, 0, bearer);
        let ended = script.call(libc::SYS_wait4, &[0, 0, libc::__WALL as u64, 0]);
        script.tape.forward(made, ended, 0);
        if subreaper {
            self.adopt(script, true);
        }
    }

    fn child_of_its_own(&mut self, script: &mut Script, index: usize, child: usize) {
        let process = &self.checkpoint.processes[child];
        let relation = &process.pd.relation;
        self.about(script, index, Stage::Clone, Subject::Id(relation.pid.raw()));
        self.fork(script, Some(relation.pid), relation.exit_signal, self.process_tapes[child]);
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
        let made = script.call(libc::SYS_setpgid, &[0, leader.raw() as u64]);
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
        let signal = status & 0x7f;
        if signal != 0 {
            let core = self.control.words(&[0, 0]);
            script.attempt(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE.into(), core, 0]);
            let mask = self.control.words(&[1 << (signal - 1)]);
            script.attempt(libc::SYS_rt_sigprocmask, &[libc::SIG_UNBLOCK as u64, mask, 0, 8]);
            script.attempt(libc::SYS_kill, &[pid.raw() as u64, signal as u64]);
        }
        script.attempt(libc::SYS_exit_group, &[(status >> 8 & 0xff) as u64]);
        self.process_tapes[index] = script.tape.address();
        let placed = script.place(&mut self.control, index, usize::MAX)?;
        self.tapes.push(placed);
        Ok(())
    }
}

/// The size of `struct clone_args` that we fill.
pub(super) const CLONE_ARGS_BYTES: u64 = size_of::<frost_sys::clone::CloneArgs>() as u64;
