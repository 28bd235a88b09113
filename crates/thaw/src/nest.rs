//! Namespaces of a `frost run` within the tree. Their keeper is cloned with them by whoever made it; what is mounted in them
//! is made here, by a helper of the builder that enters them, since no tape could.

use crate::error::{Context, Error};
use crate::stage::Stage;
use frost_keeper::house;
use frost_model::nest::Nest;
use frost_model::{Checkpoint, Pid};
use frost_sys::clone::{self, Clone};
use frost_sys::{proc, ptrace};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::PidfdFlags;
use std::collections::HashSet;
use std::io::{Read, Write};

/// Numbers that nobody has in a nest: not those which the kernel gives before others.
#[derive(Debug)]
pub(crate) struct Spare {
    taken: HashSet<i32>,
    next: i32,
}

impl Spare {
    /// Below this the kernel gives no numbers when it begins anew (RESERVED_PIDS, `kernel/pid.c`), but any may be chosen.
    const FIRST: i32 = 300;

    pub(crate) fn of(nest: &Nest) -> Self {
        Self { taken: nest.numbers.iter().map(|number| number.inner.raw()).collect(), next: Self::FIRST }
    }
}

impl Iterator for Spare {
    type Item = i32;

    fn next(&mut self) -> Option<i32> {
        while self.taken.contains(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

/// What is made before there are processes: the file system of the terminals of each nest, in their order.
pub(crate) type Terminals = Vec<OwnedFd>;

/// Makes the file systems of terminals.
pub(crate) fn terminals(checkpoint: &Checkpoint) -> Result<Terminals, Error> {
    let make = |_: &Nest| house::new_terminals();
    let made: rustix::io::Result<Vec<OwnedFd>> = checkpoint.nests.iter().map(make).collect();
    made.at(Stage::Open, || "terminals of a `frost run` in it".to_owned())
}

/// How many living processes wait until a nest is furnished.
pub(crate) fn waiting(checkpoint: &Checkpoint, nest: &Nest) -> usize {
    let lives = |number: &frost_model::nest::NestNumber| {
        let of = |process: &&frost_model::Process| process.pd.relation.pid == number.outer;
        checkpoint.processes.iter().find(of).is_some_and(|process| !process.cpu.threads.is_empty())
    };
    nest.numbers.iter().filter(|number| lives(number)).count()
}

/// What namespaces of ours a nest has as well, and ids.
pub(crate) struct Furnisher {
    highest_pid: Vec<u8>,
    ids: (u32, u32),
}

impl Furnisher {
    pub(crate) fn new() -> Self {
        Self {
            highest_pid: house::highest_pid(),
            ids: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        }
    }

    /// Furnishes the namespaces of a keeper that was just born.
    pub(crate) fn furnish(
        &self,
        checkpoint: &Checkpoint,
        nest: &Nest,
        terminals: &OwnedFd,
    ) -> Result<(), Error> {
        let stage = Stage::Namespaces;
        let about = || format!("the namespaces of the `frost run` with process {}", nest.keeper);
        let number = rustix::process::Pid::from_raw(nest.keeper.raw()).ok_or(Errno::SRCH).at(stage, about)?;
        let keeper = rustix::process::pidfd_open(number, PidfdFlags::empty()).at(stage, about)?;
        let failed = |(object, source)| Error::Builder { stage, object, source };
        if nest.user {
            house::map_identity_of(&nest.keeper.to_string(), self.ids).map_err(failed)?;
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(stage, about)?;
        let helper = match clone::fork_single_threaded(libc::SIGCHLD).at(stage, about)? {
            Clone::Child => {
                let outcome = self.help(checkpoint, nest, &keeper, terminals);
                let status = tell(write, outcome);
                clone::exit_now(status)
            }
            Clone::Parent { pid, .. } => pid,
        };
        drop(write);
        let mut text = String::new();
        let _ = std::fs::File::from(read).read_to_string(&mut text);
        let ended = loop {
            match ptrace::wait(helper, true) {
                Ok(Some(ptrace::Stop::Exited(status))) => break status == 0,
                Ok(Some(ptrace::Stop::Killed(_))) | Err(_) => break false,
                Ok(_) => {}
            }
        };
        match text.split_once('\n') {
            Some((errno, object)) => {
                let errno = errno.parse().ok().filter(|errno| (1..4096).contains(errno));
                let source = Errno::from_raw_os_error(errno.unwrap_or(libc::EIO));
                Err(Error::Builder { stage, object: object.to_owned(), source })
            }
            None if ended => Ok(()),
            None => Err(Error::Builder { stage, object: about(), source: Errno::CHILD }),
        }
    }

    /// The life of the helper: it enters, and lets its child, who lives there, mount.
    fn help(
        &self,
        checkpoint: &Checkpoint,
        nest: &Nest,
        keeper: &OwnedFd,
        terminals: &OwnedFd,
    ) -> Result<(), house::Failed> {
        let about = |object: &str| {
            let object = format!("{object} of the `frost run` with process {}", nest.keeper);
            move |errno| (object, errno)
        };
        let user = if nest.user { libc::CLONE_NEWUSER } else { 0 };
        let kinds = user | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        clone::enter(keeper.as_fd(), kinds as u64).map_err(about("the namespaces"))?;
        // Behind the numbers of those who bear others there.
        let spare = Spare::of(nest).nth(checkpoint.processes.len()).unwrap_or(i32::MAX);
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(about("a pipe"))?;
        match clone::fork_numbered(spare).map_err(about("a process in the namespaces"))? {
            Clone::Child => {
                let status = tell(write, self.mount(nest, terminals));
                clone::exit_now(status)
            }
            Clone::Parent { pid, .. } => {
                drop(write);
                let mut text = String::new();
                let _ = std::fs::File::from(read).read_to_string(&mut text);
                let ended = ptrace::wait(pid, true);
                match text.split_once('\n') {
                    Some((errno, object)) => {
                        let errno = errno.parse().unwrap_or(libc::EIO);
                        Err((object.to_owned(), Errno::from_raw_os_error(errno)))
                    }
                    None if matches!(ended, Ok(Some(ptrace::Stop::Exited(0)))) => Ok(()),
                    None => Err(about("a process in the namespaces")(Errno::CHILD)),
                }
            }
        }
    }

    /// Mounts what a keeper mounts.
    fn mount(&self, nest: &Nest, terminals: &OwnedFd) -> Result<(), house::Failed> {
        house::mount_proc(&self.highest_pid)?;
        house::mount_dev_with(nest.console.as_ref().map(|path| path.as_path()), Some(terminals.as_fd()))?;
        // The next number is given behind the last one, not among those that are in use.
        let last = nest.numbers.iter().map(|number| number.inner.raw()).max().unwrap_or(1);
        let _ = std::fs::write("/proc/sys/kernel/ns_last_pid", last.to_string());
        Ok(())
    }
}

/// Writes what failed, and returns the exit status that says so.
fn tell(pipe: OwnedFd, outcome: Result<(), house::Failed>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err((object, errno)) => {
            let text = format!("{}\n{object}", errno.raw_os_error());
            let _ = std::fs::File::from(pipe).write_all(text.as_bytes());
            1
        }
    }
}

/// Finds the numbers that threads have got which could not choose them: by that of the image.
///
/// # Errors
/// That one is not there.
pub(crate) fn learn(checkpoint: &Checkpoint) -> Result<Vec<(i32, i32)>, Error> {
    let mut learnt = Vec::new();
    for nest in checkpoint.nests.iter().filter(|nest| nest.user) {
        for process in checkpoint.processes.iter().filter(|it| nest.inner(it.pd.relation.pid).is_some()) {
            let pid = process.pd.relation.pid;
            if process.cpu.threads.len() < 2 {
                continue;
            }
            let about = || format!("the threads of process {pid}");
            let mut found: Vec<(i32, i32)> = Vec::new();
            for tid in proc::threads(pid.raw()).at(Stage::Arrive, about)? {
                let status = proc::thread_status(pid.raw(), tid).at(Stage::Arrive, about)?;
                found.extend(status.inner_pids.last().map(|inner| (*inner, tid)));
            }
            for thread in &process.cpu.threads {
                let wanted = nest.inner(Pid::new(thread.tid.raw())).map(Pid::raw);
                let tid = found.iter().find(|(inner, _)| Some(*inner) == wanted).map(|(_, tid)| *tid);
                let tid = tid.ok_or(Errno::SRCH).at(Stage::Arrive, || format!("thread {}", thread.tid))?;
                learnt.push((thread.tid.raw(), tid));
            }
        }
    }
    Ok(learnt)
}

/// Gives threads in a checkpoint the numbers that they have got.
pub(crate) fn renumber(checkpoint: &mut Checkpoint, learnt: &[(i32, i32)]) {
    let actual = |tid: i32| learnt.iter().find(|(recorded, _)| *recorded == tid).map_or(tid, |(_, tid)| *tid);
    let user: Vec<usize> = (0..checkpoint.nests.len()).filter(|nest| checkpoint.nests[*nest].user).collect();
    for nest in user {
        for process in &mut checkpoint.processes {
            if checkpoint.nests[nest].inner(process.pd.relation.pid).is_some() {
                for thread in &mut process.cpu.threads {
                    thread.tid = frost_model::Tid::new(actual(thread.tid.raw()));
                }
            }
        }
        for number in &mut checkpoint.nests[nest].numbers {
            number.outer = Pid::new(actual(number.outer.raw()));
        }
        checkpoint.nests[nest].numbers.sort_unstable_by_key(|number| number.outer);
    }
}
