//! A thaw in namespaces of the program's own, whose pid 1 is a keeper.
//!
//! Where they are made for it, their pid 1 builds the tree, and becomes the keeper by executing it: if it dies before it
//! is done, or if we die, the kernel ends all of it. Where there is a keeper, as for every program of the runtime, the
//! builder is born into its namespaces as its child, and makes the root its own sibling; if it dies, the gate ends the
//! tree, and the keeper stays.

use crate::attach::{Attached, Passing, Terminal};
use crate::build::begin;
use crate::compile;
use crate::error::{Context, Error, Lack};
use crate::kept::Kept;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::thaw;
use crate::verify::Verification;
use frost_keeper::house::Home;
use frost_keeper::protocol::{self as say, Message};
use frost_keeper::{Connection, Held, admission, house};
use frost_model::cap::{Capability, Outside, OutsideKind};
use frost_model::steps::Step;
use frost_model::{Checkpoint, Steps};
use frost_store::Image;
use frost_sys::clone::{self, Clone, fork_into_namespaces};
use frost_sys::network::census;
use frost_sys::{proc, ptrace, signals};

use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, getpid};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// What the builder tells whoever started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The tree is built and waits; an empty line as answer lets it go. The builder has this number beside the tree.
    Ready { builder: i32 },
    /// It goes on.
    Done { clean: bool, steps: Vec<Step> },
    /// Nothing was built.
    Failed { message: String, lack: Option<Lack> },
}

fn send(stream: &mut UnixStream, report: &Report) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn receive(stream: &mut BufReader<UnixStream>) -> Option<Report> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// A tree that goes on, as whoever asked for it sees it.
#[derive(Debug)]
pub(crate) struct Alive {
    pub(crate) root: i32,
    pub(crate) clean: bool,
    pub(crate) attached: Option<Attached>,
    /// Our terminal, if nobody is attached yet who has it.
    pub(crate) lent: Option<Terminal>,
    /// What is the program's to take of our signals, in the same case.
    pub(crate) passing: Option<Passing>,
}

/// Starts a builder that thaws `image`, and waits until the tree goes on.
pub(crate) fn in_namespaces(
    image: &Image,
    plan: &Plan,
    (home, kept): (Option<&Home>, Option<&Kept>),
    mark: &dyn Fn(i32) -> Result<(), Error>,
    steps: &mut Steps,
) -> Result<Alive, Error> {
    let stage = Stage::Namespaces;
    begin(stage)?;
    let failed = |error: std::io::Error| Error::Builder {
        stage,
        object: "a socket to the builder".to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    // Whoever stays attached watches the keeper from its first moment.
    let mut watch = None;
    let mut plain = Held { name: image.id().name.to_string(), ..Held::default() };
    if plan.attach && home.is_none() {
        let (connection, end) = Connection::pair().at(stage, || "a socket to the keeper".to_owned())?;
        watch = Some(connection);
        plain.watcher = Some(end);
    }
    let groups =
        rustix::process::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect();
    let builder = Builder {
        image,
        plan,
        kept,
        groups,
        ids: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        highest_pid: house::highest_pid(),
        steps: steps.clone(),
    };
    let namespaces = || "namespaces of its own".to_owned();
    let forked = match home {
        Some(_) => clone::fork_single_threaded(libc::SIGCHLD),
        None => fork_into_namespaces(plan.namespaces.user, 0),
    };
    let (child, _child_fd) = match forked.at(stage, namespaces)? {
        Clone::Child => {
            drop(ours);
            match home {
                Some(home) => builder.join(home, theirs),
                None => builder.keep(&plain, theirs),
            }
        }
        Clone::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    drop(plain);
    let keeper = home.map_or(child, |home| home.keeper);
    let mut stream = BufReader::new(ours);
    let end = |error: Error| {
        if let Some(pid) = Pid::from_raw(child) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        reap(child);
        error
    };
    // The pack is compared with its digests while the builder reads it, who waits for our word in the end.
    let mut verification = Verification::of(image);
    verification.begin().map_err(end)?;
    let mut verification = Some(verification);
    let inner = image.checkpoint().processes[0].pd.relation.pid.raw();
    let mut root = 0;
    let mut builder = None;
    let (mut terminal, mut passing) = (None, None);
    loop {
        match receive(&mut stream) {
            Some(Report::Ready { builder: number }) => {
                if let Some(verification) = verification.take() {
                    verification.finish().map_err(end)?;
                    steps.end(Stage::Verify.name());
                }
                if child != keeper {
                    builder = child_numbered(keeper, number).and_then(pidfd);
                }
                root = match child_numbered(keeper, inner) {
                    Some(root) => root,
                    None => {
                        let source = Errno::SRCH;
                        return Err(end(Error::Builder { stage, object: "the root".to_owned(), source }));
                    }
                };
                if plan.attach {
                    let about = || "signals to the program".to_owned();
                    passing = Some(Passing::begin().at(stage, about).map_err(end)?);
                }
                mark(root).map_err(end)?;
                terminal = Terminal::lend_to(image.checkpoint(), plan, root);
                stream.get_mut().write_all(b"\n").map_err(failed).map_err(end)?;
            }
            Some(Report::Done { clean, steps: done }) => {
                steps.extend(done);
                if child != keeper {
                    reap(child);
                }
                // As a child of the keeper it would be taken for one of the program's, by a freeze that comes at once.
                if let Some(builder) = builder.take() {
                    let mut end = [PollFd::new(&builder, PollFlags::IN)];
                    let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut end, None));
                }
                let Some(connection) = watch.take() else {
                    return Ok(Alive { root, clean, attached: None, lent: terminal, passing });
                };
                let attached = Some(Attached::kept(Some(root), connection, terminal, passing));
                return Ok(Alive { root, clean, attached, lent: None, passing: None });
            }
            Some(Report::Failed { message, lack }) => {
                // A pack that is damaged or cut short is why, if it is.
                if let Some(verification) = verification.take() {
                    verification.finish().map_err(end)?;
                }
                return Err(end(Error::Inside { message, lack }));
            }
            None => {
                let message = "the builder ended before it had built the program".to_owned();
                return Err(end(Error::Inside { message, lack: None }));
            }
        }
    }
}

/// Which network namespace we are in.
fn own_network() -> Option<std::ffi::CString> {
    rustix::fs::readlink("/proc/self/ns/net", Vec::new()).ok()
}

/// Finds the child of `parent` that has this pid in its own namespace.
fn child_numbered(parent: i32, inner: i32) -> Option<i32> {
    let children = proc::children(parent).ok()?;
    children.into_iter().find(|child| {
        proc::status(*child).is_ok_and(|status| status.inner_pids.last().copied().unwrap_or(*child) == inner)
    })
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn reap(pid: i32) {
    while let Ok(Some(stop)) = ptrace::wait(pid, true) {
        if matches!(stop, ptrace::Stop::Exited(_) | ptrace::Stop::Killed(_)) {
            break;
        }
    }
}

/// How many pids the builder may need: its own, and those of threads that it has for moments. Each child of the keeper
/// needs one more.
const SPARE: i32 = 128;
/// Below this the kernel gives no numbers when it begins anew (RESERVED_PIDS, `kernel/pid.c`).
const FIRST_SPARE: i32 = 300;
/// The pid that the kernel gave last in our namespace. It goes on from there; a chosen one does not change it.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// What is the same wherever it is built.
struct Builder<'a> {
    image: &'a Image,
    plan: &'a Plan,
    kept: Option<&'a Kept>,
    groups: Vec<u32>,
    ids: (u32, u32),
    highest_pid: Vec<u8>,
    steps: Steps,
}

impl Builder<'_> {
    /// The life of pid 1: it builds, and becomes the keeper.
    fn keep(mut self, held: &Held, mut stream: UnixStream) -> ! {
        let result = self.prepare().and_then(|()| self.build(&mut stream, None));
        match result {
            Ok(root) => {
                // It belongs to nobody's job, unless it stands between a program and the terminal: a group whose
                // processes have no parent in their session cannot be stopped from there, for nobody would continue it
                // (`is_orphaned_pgrp`, kernel/exit.c). As pid 1 it is not reached by the terminal's signals.
                if !self.plan.attach {
                    let _ = rustix::process::setsid();
                }
                house::become_keeper(root, held);
            }
            Err(error) => {
                let _ = send(&mut stream, &failure(&error));
            }
        }
        std::process::exit(1)
    }

    /// The life of a builder that is born into the namespaces of a keeper.
    fn join(mut self, home: &Home, mut stream: UnixStream) -> ! {
        let result = self.enter(home).and_then(|born| {
            if !born {
                // The builder is on its way.
                std::process::exit(0);
            }
            self.settle(home)?;
            self.build(&mut stream, Some(home))
        });
        match result {
            Ok(_) => std::process::exit(0),
            Err(error) => {
                let _ = send(&mut stream, &failure(&error));
                std::process::exit(1);
            }
        }
    }

    /// Enters a keeper's namespaces and bears a child of the keeper there; returns whether this is that child.
    fn enter(&self, home: &Home) -> Result<bool, Error> {
        let stage = Stage::Namespaces;
        let about = || "the keeper's namespaces".to_owned();
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let user = if self.plan.namespaces.user { libc::CLONE_NEWUSER } else { 0 };
        let runtime = self.image.checkpoint().host.runtime.as_ref();
        // Nobody who is not root may enter the host's once more.
        let network = match runtime.and_then(|runtime| runtime.network.as_ref()) {
            Some(_) => libc::CLONE_NEWNET,
            None => 0,
        };
        let kinds = user | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        let outside = own_network();
        clone::enter(home.pidfd.as_fd(), (kinds | network) as u64).at(stage, about)?;
        if network != 0 && own_network() == outside {
            // It would be the host's that is changed.
            return Err(Error::Builder { stage, object: "its network".to_owned(), source: Errno::INVAL });
        }
        // From here on its files are ours, and its network.
        frost_sys::sight::set(None);
        frost_sys::network::forget();
        if self.plan.namespaces.user {
            frost_sys::own::keep_capabilities_over_exec().at(stage, || "ambient capabilities".to_owned())?;
        }
        let spare = self.spare_numbers();
        let (ended, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).at(stage, about)?;
        // Our child has no parent there; its own child is the keeper's once it has ended.
        match clone::fork_numbered(spare).at(stage, about)? {
            Clone::Parent { pid, .. } => {
                reap(pid);
                drop(end);
                Ok(false)
            }
            Clone::Child => match clone::fork_numbered(self.led().unwrap_or(spare + 1)).at(stage, about)? {
                Clone::Parent { .. } => Ok(false),
                Clone::Child => {
                    // Until it has been reaped, it may be our parent still, and that of the tree, which is born beside
                    // us. Its own end of the pipe is closed before its children are given on (`do_exit`, kernel/exit.c).
                    drop(end);
                    rustix::io::retry_on_intr(|| rustix::io::read(&ended, &mut [0_u8])).at(stage, about)?;
                    if self.led().is_some() {
                        self.lead(home, spare + 1).at(stage, || "the session of its terminal".to_owned())?;
                    }
                    Ok(true)
                }
            },
        }
    }

    /// The number of the process that leads the session of the terminal, if that is not one of the tree.
    fn led(&self) -> Option<i32> {
        compile::led(self.image.checkpoint()).filter(|_| !self.plan.attach).map(|leader| leader.raw())
    }

    /// Goes on as a child of the keeper that is in a session on its terminal, under this number. The process that was here
    /// leads it, and does nothing else from now on.
    fn lead(&self, home: &Home, number: i32) -> rustix::io::Result<()> {
        let terminal = home.terminal.as_ref().ok_or(Errno::NOTTY)?;
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(terminal)?;
        let (executed, failed) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        match clone::fork_sibling(Some(number))? {
            Clone::Parent { .. } => {
                drop(executed);
                house::become_leader(terminal);
                let _ = rustix::io::write(&failed, b"!");
                clone::exit_now(1)
            }
            Clone::Child => {
                drop(failed);
                match rustix::io::retry_on_intr(|| rustix::io::read(&executed, &mut [0_u8]))? {
                    0 => Ok(()),
                    _ => Err(Errno::NOEXEC),
                }
            }
        }
    }

    /// Puts the group into the foreground of the terminal that was there, or that of the root.
    fn foreground(&self, terminal: &OwnedFd) {
        let checkpoint = self.image.checkpoint();
        let root = &checkpoint.processes[0].pd.relation;
        let recorded = recorded_terminal(checkpoint).and_then(|terminal| match &terminal.kind {
            OutsideKind::Terminal { foreground, .. } => *foreground,
            OutsideKind::Pipe { .. } | OutsideKind::Unix { .. } => None,
        });
        // We are in the background ourselves.
        let old = signals::set_mask(u64::MAX);
        for group in [recorded, root.group, Some(root.pid)].into_iter().flatten() {
            let group = Pid::from_raw(group.raw());
            if group.is_some_and(|group| rustix::termios::tcsetpgrp(terminal, group).is_ok()) {
                break;
            }
        }
        if let Ok(old) = old {
            let _ = signals::set_mask(old);
        }
    }

    /// Finds a run of pids that nobody in the image has, and returns the first.
    fn spare_numbers(&self) -> i32 {
        let highest = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
        let highest: i32 = highest.and_then(|text| text.trim().parse().ok()).unwrap_or(32_768);
        let mut taken: Vec<i32> = Vec::new();
        for process in &self.image.checkpoint().processes {
            let relation = &process.pd.relation;
            let numbers = [Some(relation.pid), relation.group, relation.session];
            taken.extend(numbers.into_iter().flatten().map(|pid| pid.raw()));
            taken.extend(process.cpu.threads.iter().map(|thread| thread.tid.raw()));
        }
        // Whom sockets take for their peers: there will be processes with these numbers for a moment.
        taken.extend(self.image.checkpoint().descriptions.iter().filter_map(|description| {
            match &description.capability {
                Capability::Unix(socket) => socket.credentials.as_ref().map(|peer| peer.pid),
                Capability::Outside(Outside { kind: OutsideKind::Unix { credentials, .. }, .. }) => {
                    credentials.as_ref().map(|peer| peer.pid)
                }
                _ => None,
            }
        }));
        taken.sort_unstable();
        let orphans = self.image.checkpoint().processes.iter().filter(|process| {
            let parent = process.pd.relation.parent;
            parent.is_none_or(|parent| self.image.checkpoint().kept_by(parent).is_some())
        });
        // Threads in user namespaces of their own get a number of these, too.
        let nests = self.image.checkpoint().nests.iter().filter(|nest| nest.user);
        let threads: usize = nests.map(|nest| nest.numbers.len()).sum();
        let spare = SPARE + (orphans.count() + threads) as i32;
        let mut end = highest;
        for number in taken.iter().rev() {
            if end - number > spare {
                break;
            }
            end = end.min(*number);
        }
        (end - spare).max(FIRST_SPARE)
    }

    /// Makes a builder in a keeper's namespaces fit to build.
    fn settle(&self, home: &Home) -> Result<(), Error> {
        let stage = Stage::Namespaces;
        frost_sys::spawn::enter_groups(&home.groups).at(stage, || "its control group".to_owned())?;
        self.settle_network()?;
        if let Some(terminal) = &home.terminal {
            use_terminal(terminal, self.image.checkpoint())?;
        }
        let listener = admission::filter(&home.allowed)
            .install()
            .at(stage, || "the filter of system calls".to_owned())?;
        let told = Message::new(say::LISTEN, 0, 0, 0);
        let heard = match &listener {
            Some(listener) => home.connection.hand(told, listener.as_fd()).map(drop),
            None => home.connection.ask(told).map(drop),
        };
        heard.map_err(|error| Error::Inside { message: error.to_string(), lack: None })
    }

    /// Makes the network in which we are what the program's was.
    fn settle_network(&self) -> Result<(), Error> {
        let runtime = self.image.checkpoint().host.runtime.as_ref();
        let Some(network) = runtime.and_then(|runtime| runtime.network.as_ref()) else { return Ok(()) };
        let addresses = network.addresses.iter().map(|address| census::Address {
            bytes: address.bytes.clone(),
            prefix: address.prefix,
            scope: address.scope,
        });
        let settings = network.settings.iter().map(|setting| census::Setting {
            name: setting.name.clone(),
            value: setting.value.clone(),
            usual: Vec::new(),
        });
        let wanted = census::Census {
            up: network.up,
            mtu: network.mtu,
            addresses: addresses.collect(),
            settings: settings.collect(),
            others: Vec::new(),
        };
        let failed = |(object, source)| Error::Builder { stage: Stage::Namespaces, object, source };
        census::establish(&wanted).map_err(failed)
    }

    /// Builds the tree and lets it go; returns the pid of its root.
    fn build(&mut self, stream: &mut UnixStream, home: Option<&Home>) -> Result<i32, Error> {
        let known = self.steps.done().len();
        // A thread of ours must not get one of the program's numbers. The file is there if PR_SET_MM_MAP is.
        let last = std::fs::read_to_string(LAST_PID).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let _ = std::fs::write(LAST_PID, (self.spare_numbers() + 1).to_string());
        let threads = self.image.checkpoint().processes.iter().flat_map(|process| &process.cpu.threads);
        let last = threads.map(|thread| thread.tid.raw()).chain(last).max().unwrap_or(1);
        let inner = self.image.checkpoint().processes[0].pd.relation.pid.raw();
        let leader = self.led();
        let mut ready = |half: &crate::build::Half<'_>| {
            if let (Some(_), Some(terminal)) = (leader, home.and_then(|home| home.terminal.as_ref())) {
                self.foreground(terminal);
            }
            let gone = || Error::Inside { message: "whoever asked for it is gone".to_owned(), lack: None };
            send(stream, &Report::Ready { builder: getpid().as_raw_nonzero().get() })
                .and_then(|()| std::io::Read::read_exact(stream, &mut [0]))
                .map_err(|_| gone())?;
            let _ = std::fs::write(LAST_PID, last.to_string());
            match home {
                None => Ok(()),
                Some(home) => home
                    .connection
                    .hand(Message::new(say::LIVE, inner, leader.unwrap_or(0), 0), half.gate_read.as_fd())
                    .map(drop)
                    .map_err(|error| Error::Inside { message: error.to_string(), lack: None }),
            }
        };
        let groups = self.plan.namespaces.user.then(|| self.groups.clone());
        let inside = thaw::Inside { groups, sibling: home.is_some(), kept: self.kept };
        let mut steps = self.steps.clone();
        let built = thaw::numbered(self.image, self.plan, Some(&inside), &mut ready, &mut steps)?;
        self.steps = steps;
        // From here on the program lives without whoever asked for it.
        let _ = rustix::process::set_parent_process_death_signal(None);
        let done = self.steps.done().get(known..).unwrap_or_default().to_vec();
        let _ = send(stream, &Report::Done { clean: built.clean, steps: done });
        Ok(built.root)
    }

    /// Makes the inside of new namespaces usable: identity, capabilities for the stub, a `/proc` that shows it.
    fn prepare(&self) -> Result<(), Error> {
        let stage = Stage::Namespaces;
        let failed = |(object, source): house::Failed| Error::Builder { stage, object, source };
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        if self.plan.namespaces.user {
            house::map_identity(self.ids).map_err(failed)?;
            frost_sys::own::keep_capabilities_over_exec().at(stage, || "ambient capabilities".to_owned())?;
        }
        house::mount_proc(&self.highest_pid).map_err(failed)?;
        if self.plan.namespaces.terminals {
            house::mount_terminals().map_err(failed)?;
        }
        Ok(())
    }
}

/// Finds the terminal that the program had.
fn recorded_terminal(checkpoint: &Checkpoint) -> Option<&Outside> {
    checkpoint.descriptions.iter().find_map(|description| match &description.capability {
        Capability::Outside(outside) => {
            matches!(outside.kind, OutsideKind::Terminal { .. }).then_some(outside)
        }
        _ => None,
    })
}

/// Sets a terminal as the program had it, and makes it our standard descriptors, of which the tree takes it.
fn use_terminal(slave: &OwnedFd, checkpoint: &Checkpoint) -> Result<(), Error> {
    let about = || "the terminal".to_owned();
    let stage = Stage::Namespaces;
    let terminal = recorded_terminal(checkpoint).and_then(|terminal| match &terminal.kind {
        OutsideKind::Terminal { settings, size, .. } => Some((settings, *size)),
        OutsideKind::Pipe { .. } | OutsideKind::Unix { .. } => None,
    });
    if let Some((settings, (rows, columns))) = terminal
        && let Ok(settings) = settings.as_slice().try_into()
    {
        frost_sys::pty::set_settings(slave, settings).at(stage, about)?;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(slave, size).at(stage, about)?;
    }
    rustix::stdio::dup2_stdin(slave).at(stage, about)?;
    rustix::stdio::dup2_stdout(slave).at(stage, about)?;
    rustix::stdio::dup2_stderr(slave).at(stage, about)
}

fn failure(error: &Error) -> Report {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut lack = None;
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        lack = match cause.downcast_ref::<Errno>() {
            Some(&Errno::PERM | &Errno::ACCESS) => Some(Lack::Right),
            Some(&Errno::NOSPC | &Errno::USERS) if error.is_about_namespaces() => Some(Lack::Right),
            Some(&Errno::NOSPC | &Errno::DQUOT) => Some(Lack::Space),
            _ => lack,
        };
        source = cause.source();
    }
    Report::Failed { message, lack }
}
