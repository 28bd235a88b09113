//! Starts a program in an environment of its own.

use crate::budget::Groups;
use crate::bundle;
use crate::error::Error;
use crate::execution;
use crate::instance::{Claim, Instance, Record, Standing, boot_id, child_numbered, now};
use crate::layer;
use crate::outward;
use frost_keeper::house::{self, Environment};
use frost_keeper::protocol::LEADER;
use frost_keeper::{Connection, Held, admission, notices};
use frost_model::host::Budget;
use frost_model::network::Reach;
use frost_model::route::Rule;
use frost_store::{Name, Store};
use frost_sys::clone::{self, Clone, fork_into_namespaces};
use frost_sys::spawn::{self, Begun, Standing as Place};
use frost_thaw::{Attached, Passing, Terminal};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// How an [`Error::Environment`] calls what the kernel did not give us: most of them at once, and one for its clocks.
pub const NAMESPACES: [&str; 2] = ["namespaces of its own", "a time namespace"];

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name; if there is none, the command's, made unique.
    pub name: Option<Name>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Give it a terminal that its keeper holds, and do not stay with it.
    pub detach: bool,
    /// Kinds of calls that are open to it.
    pub allow: Vec<String>,
    /// How its capabilities are obtained when it is thawed, where that is not to be as usual.
    pub routes: Vec<Rule>,
    /// Give it the descriptors by which it may ask for notices.
    pub notices: bool,
    /// What it may use of the machine.
    pub budget: Budget,
    /// Directories of which it gets a view of its own.
    pub layers: Vec<PathBuf>,
    /// How far its network reaches, if it is not to be the host's.
    pub network: Option<Reach>,
}

/// A program that was started.
#[derive(Debug)]
pub struct Started {
    /// Its name.
    pub name: Name,
    /// The root of its tree in our pid namespace, 0 if all of it has ended already.
    pub pid: i32,
    /// The same as it sees it itself.
    pub inner_pid: i32,
    /// Its keeper.
    pub keeper: i32,
    /// Our hold on it, if we stay with it.
    pub attached: Option<Attached>,
    /// What it has to do without, in words.
    pub note: Option<String>,
}

/// What the keeper to be tells whoever started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The environment is there, and the way out of it can be made; an empty line as answer starts the program.
    Ready,
    /// It was started: the pid of its root inside.
    Started { root: i32 },
    /// It could not be executed.
    NotExecuted { errno: i32 },
    /// The environment could not be made.
    Failed { object: String, errno: i32 },
}

/// Starts a program.
///
/// The calling process must have one thread only, since it forks.
///
/// # Errors
/// Nothing was started then.
pub fn run(store: &Store, options: &Options) -> Result<Started, Error> {
    for name in &options.allow {
        admission::kind(name).ok_or_else(|| Error::Kind(name.clone()))?;
    }
    let directories = layer::check(store, &options.layers)?;
    let program = options.command.first().cloned().unwrap_or_default();
    let (instance, claim) = claim(store, options.name.as_ref(), &program)?;
    layer::sweep(&instance, &[]);
    let layers = layer::fresh(&instance, &directories)?;
    let record = Record {
        command: options.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        started: now(),
        boot_id: boot_id(),
        detached: options.detach,
        allowed: options.allow.clone(),
        notices: options.notices,
        machine: false,
        routes: options.routes.clone(),
        budget: options.budget,
        layers: layers.clone(),
        network: options.network,
        bundle: None,
    };
    bundle::sweep(&instance, None);
    let started = instance.begin(&record, false).and_then(|held| {
        let groups = Groups::make(instance.name().as_str(), &options.budget)?;
        start(options, &program, held, groups, layer::mounted(&layers))
    });
    match started {
        Ok(started) => {
            drop(claim);
            Ok(Started { name: instance.name().clone(), ..started })
        }
        Err(error) => {
            // Nothing ran under that name.
            let _ = instance.remove(claim);
            Err(error)
        }
    }
}

/// Takes a name that no program has that runs or is frozen: the one that is given, or that of a command, made unique.
///
/// # Errors
/// [`Error::Runs`], [`Error::Frozen`], [`Error::Busy`]; [`Error::File`].
pub fn claim(store: &Store, name: Option<&Name>, program: &OsStr) -> Result<(Instance, Claim), Error> {
    let free = |name: &Name| -> Result<(Instance, Claim), Error> {
        let versions = store.versions(name)?;
        if let Some(version) = versions.last() {
            let id = frost_store::ImageId { name: name.clone(), version: *version };
            match store.state(&id)?.instance() {
                Some(running) => return Err(Error::Runs { name: name.to_string(), pid: running.pid }),
                None => return Err(Error::Frozen { name: name.to_string(), version: *version }),
            }
        }
        let (instance, claim) = Instance::claim(store, name)?;
        match instance.standing()? {
            Standing::Kept(kept) => {
                Err(Error::Runs { name: name.to_string(), pid: kept.root().unwrap_or(kept.keeper) })
            }
            Standing::Within(outer) => Err(Error::Within { outer }),
            _ => Ok((instance, claim)),
        }
    };
    if let Some(name) = name {
        return free(name);
    }
    let base = std::path::Path::new(program).file_name().unwrap_or(program);
    let base = Name::from_command(std::os::unix::ffi::OsStrExt::as_bytes(base));
    let numbered = (2..).filter_map(|number| Name::new(&format!("{base}-{number}")).ok());
    for name in std::iter::once(base.clone()).chain(numbered).take(10_000) {
        if crate::instance::is_scenario(store, &name) {
            continue;
        }
        match free(&name) {
            Err(Error::Runs { .. } | Error::Frozen { .. } | Error::Within { .. } | Error::Busy) => {}
            // Who did not choose a name does not replace what another one left under it.
            Ok((instance, _)) if instance.changed().is_some() => {}
            other => return other,
        }
    }
    Err(Error::Busy)
}

/// Takes a name for a copy of what has the name `base`: with a number behind it, from 2 on, that no program has had. Returns
/// which copy that is, from 1 on.
///
/// # Errors
/// [`Error::Busy`] if there is none, [`Error::File`].
pub(crate) fn claim_beside(store: &Store, base: &Name) -> Result<(Instance, Claim, u32), Error> {
    // All at once: to ask for each would take long where there are many.
    let mut taken: HashSet<Name> = crate::instance::names(store)?.into_iter().collect();
    taken.extend(store.names()?);
    for copy in 1..1_000_000 {
        let number = format!("-{}", copy + 1);
        let room = Name::MAX_BYTES - number.len();
        let base = &base.as_str()[..base.as_str().len().min(room)];
        let Some(name) = Name::new(&format!("{base}{number}")).ok().filter(|name| !taken.contains(name))
        else {
            continue;
        };
        if crate::instance::is_scenario(store, &name) {
            continue;
        }
        // Another one may have taken it just now, and have it no more: what it left is its own.
        if let Some((instance, claim)) = Instance::try_claim(store, &name)?
            && instance.changed().is_none()
            && store.versions(&name)?.is_empty()
        {
            return Ok((instance, claim, copy));
        }
    }
    Err(Error::Busy)
}

fn start(
    options: &Options,
    program: &OsStr,
    mut held: Held,
    mut groups: Groups,
    layers: Vec<house::Layer>,
) -> Result<Started, Error> {
    let (connection, watcher) = pair()?;
    // The keeper reads of them before all else when it begins.
    groups.give(&connection)?;
    held.watcher = Some(watcher);
    let terminal = Terminal::ours();
    let console = terminal.as_ref().and_then(Terminal::path);
    let environment = Environment {
        allowed: options.allow.clone(),
        terminal: options.detach,
        console: console.filter(|_| !options.detach),
        layers,
        covers: Vec::new(),
        network: options.network.is_some(),
        outward: options.network == Some(Reach::Outside),
    };
    // Only a job in the foreground gives its terminal away.
    let lent = terminal.as_ref().and_then(Terminal::foreground);
    // Signals are the program's from before it is there.
    let passing = if options.detach { None } else { Some(signals()?) };
    let program = Program {
        name: program,
        arguments: &options.command[1..],
        lent,
        notices: options.notices,
        groups: groups.entrances()?,
        mask: passing.as_ref().map(Passing::before),
    };
    let (keeper, root, note) = bear(environment, options.detach, Some(program), held)?;
    groups.settled();
    // They are the keeper's now: if the program ended at once they are gone already.
    drop(groups);
    // It may have ended by now, as `true` does.
    let mut inner_pid = root;
    let mut pid = child_numbered(keeper, root);
    let attached = if options.detach {
        // Until its keeper answers, our death would end it. That it has ended by then is its own affair.
        if let (Ok(state), None) = (connection.state(), pid) {
            // What it has left behind is the program by now.
            inner_pid = state.root;
            pid = child_numbered(keeper, state.root);
        }
        None
    } else {
        Some(Attached::kept(pid, connection, terminal.map(|terminal| terminal.given_to(pid)), passing))
    };
    let name = Name::from_command(b"program");
    Ok(Started { name, pid: pid.unwrap_or(0), inner_pid, keeper, attached, note })
}

/// Keeps the signals from us that are to be the program's.
fn signals() -> Result<Passing, Error> {
    Passing::begin()
        .map_err(|source| Error::Environment { object: "signals to the program".to_owned(), source })
}

/// Makes a connection to a keeper that is yet to be.
pub(crate) fn pair() -> Result<(Connection, OwnedFd), Error> {
    Connection::pair()
        .map_err(|source| Error::Environment { object: "a socket to the keeper".to_owned(), source })
}

/// Makes an environment with a keeper, and starts a program in it, if one is given; in a session of its own if it is
/// `detached` from ours. Returns the keeper's pid, that of the program's root as it sees it itself, and what it has to do
/// without.
pub(crate) fn bear(
    environment: Environment,
    detached: bool,
    program: Option<Program<'_>>,
    mut held: Held,
) -> Result<(i32, i32, Option<String>), Error> {
    let io = |error: std::io::Error| Error::Environment {
        object: "a socket to the keeper".to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    let (ours, theirs) = UnixStream::pair().map_err(io)?;
    let tied = if environment.outward {
        let about = |source| Error::Environment { object: "a pipe to a helper".to_owned(), source };
        let (tied, tie) = outward::tie().map_err(about)?;
        held.tie = Some(tie);
        Some(tied)
    } else {
        None
    };
    let mut note = None;
    let called =
        program.as_ref().map(|program| program.name.to_string_lossy().into_owned()).unwrap_or_default();
    let birth = Birth {
        program,
        environment,
        detached,
        highest_pid: house::highest_pid(),
        user: !rustix::process::geteuid().is_root(),
        ids: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    let network = if birth.environment.network { clone::NETWORK } else { 0 };
    let forked = fork_into_namespaces(birth.user, clone::IPC_AND_UTS | network);
    let forked = forked.map_err(|source| Error::Environment { object: NAMESPACES[0].to_owned(), source })?;
    let keeper = match forked {
        Clone::Child => {
            drop(ours);
            birth.live(held, theirs);
        }
        Clone::Parent { pid, .. } => pid,
    };
    drop((theirs, held));
    let mut stream = BufReader::new(ours);
    let gone =
        || Error::Environment { object: "the keeper ended at its start".to_owned(), source: Errno::CHILD };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).map_err(io)?;
        let error = match serde_json::from_str(&line).map_err(|_| gone()) {
            Ok(Report::Ready) => {
                // The program finds the way out when it begins.
                note = note.or_else(|| outward::start(keeper, tied.as_ref()?).err());
                stream.get_mut().write_all(b"\n").map_err(io)?;
                continue;
            }
            Ok(Report::Started { root }) => return Ok((keeper, root, note)),
            Ok(Report::NotExecuted { errno }) => {
                Error::Program { source: execution::why(&called, errno), program: called }
            }
            Ok(Report::Failed { object, errno }) => {
                Error::Environment { object, source: Errno::from_raw_os_error(errno) }
            }
            Err(error) => error,
        };
        reap(keeper);
        return Err(error);
    }
}

fn reap(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid);
    while let Err(Errno::INTR) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()) {}
}

/// The two ends of a connection for [`notices`], if there is one, and which of our descriptors become which of the program's.
type Ends = (Option<(OwnedFd, OwnedFd)>, Vec<(i32, i32)>);

/// What is executed.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    name: &'a OsStr,
    arguments: &'a [OsString],
    /// The descriptor of the terminal that it gets as a job in the foreground.
    lent: Option<i32>,
    /// Whether it gets the descriptors of [`notices`].
    notices: bool,
    /// The entrances of the control groups that it is to be in.
    groups: Vec<OwnedFd>,
    /// The signals that it has blocked, if those that we have are not what we were given.
    mask: Option<u64>,
}

impl Program<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.name);
        command.args(self.arguments);
        command
    }

    /// Makes the descriptors of [`notices`], if it gets them, with the numbers that they have then.
    fn ends(&self, command: &mut Command) -> std::io::Result<Ends> {
        if !self.notices {
            return Ok((None, Vec::new()));
        }
        command.env(notices::VARIABLE, notices::PROGRAMS.to_string());
        let (programs, ours) = notices::pair()?;
        let numbered = vec![(programs.as_raw_fd(), notices::PROGRAMS), (ours.as_raw_fd(), notices::OURS)];
        Ok((Some((programs, ours)), numbered))
    }
}

/// What pid 1 of the new namespaces needs.
struct Birth<'a> {
    program: Option<Program<'a>>,
    environment: Environment,
    detached: bool,
    highest_pid: Vec<u8>,
    user: bool,
    ids: (u32, u32),
}

impl Birth<'_> {
    /// The life of pid 1, until it is the keeper.
    fn live(mut self, mut held: Held, stream: UnixStream) -> ! {
        let tell = |report: &Report| {
            let mut line = serde_json::to_vec(report).unwrap_or_default();
            line.push(b'\n');
            (&stream).write_all(&line)
        };
        let slave = match self.prepare(&mut held) {
            Ok(slave) => slave,
            Err((object, errno)) => {
                let _ = tell(&Report::Failed { object, errno: errno.raw_os_error() });
                std::process::exit(1);
            }
        };
        if self.environment.outward
            && (tell(&Report::Ready).is_err() || (&stream).read_exact(&mut [0]).is_err())
        {
            std::process::exit(1);
        }
        held.led = self.program.is_some() && slave.is_some();
        let begun = match (self.program.take(), slave) {
            (Some(program), Some(slave)) => self.spawn_led(program, slave),
            (Some(program), None) => self.spawn(program),
            (None, _) => Ok((0, None)),
        };
        let spawned = begun.map(|(root, listener)| {
            held.listener = listener;
            root
        });
        match spawned {
            Ok(root) => {
                let _ = tell(&Report::Started { root });
                house::become_keeper(root, &held);
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                let _ = tell(&Report::NotExecuted { errno });
            }
        }
        std::process::exit(1);
    }

    /// Makes the environment; returns the slave side of the terminal.
    fn prepare(&self, held: &mut Held) -> Result<Option<OwnedFd>, house::Failed> {
        let about = |object: &str| {
            let object = object.to_owned();
            move |errno| (object, errno)
        };
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        held.hear().map_err(about("the keeper's socket"))?;
        if self.user {
            house::map_identity(self.ids)?;
        }
        house::mount_proc(&self.highest_pid)?;
        if self.environment.network {
            house::begin_network(self.user)?;
        }
        let place = std::env::current_dir();
        house::mount_dev(self.environment.console.as_deref())?;
        house::mount_covers(&self.environment.covers)?;
        house::mount_layers(&self.environment.layers)?;
        let covered = !self.environment.covers.is_empty() || !self.environment.layers.is_empty();
        if let (Ok(place), true) = (place, covered) {
            // We may stand below a layer, where nobody sees what is written.
            std::env::set_current_dir(&place).map_err(|error| {
                (place.display().to_string(), Errno::from_io_error(&error).unwrap_or(Errno::IO))
            })?;
        }
        if self.detached {
            rustix::process::setsid().map_err(about("a session of its own"))?;
        }
        if self.program.is_some() {
            frost_sys::time::unshare_time().map_err(about(NAMESPACES[1]))?;
        }
        if !self.environment.terminal {
            return Ok(None);
        }
        let master = frost_sys::pty::open_master().map_err(about("a terminal"))?;
        let slave = frost_sys::pty::open_slave(&master, OFlags::RDWR).map_err(about("a terminal"))?;
        let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).map_err(about("a terminal"))?;
        held.master = Some(master);
        Ok(Some(slave))
    }

    /// Starts the program in a session on the terminal that a process beside it leads.
    ///
    /// The end of a session's leader hangs its terminal up (`disassociate_ctty`, drivers/tty/tty_jobctrl.c): all that a first
    /// process has left behind whose work is done, as that of what starts a daemon, would lose it, or be ended. Who is in a
    /// session is so by birth; so the leader bears the program, as its own sibling: our child.
    ///
    /// No other process of that session may bear it and end: that would orphan the program's group, and if one in there is
    /// stopped by then, as a child that waits to be let go, the kernel ends all of them by SIGHUP (`kill_orphaned_pgrp`,
    /// kernel/exit.c). We are in another session, so the group is an orphaned one from the beginning.
    fn spawn_led(&self, program: Program<'_>, slave: OwnedFd) -> std::io::Result<Begun> {
        let (ours, theirs) = spawn::channel()?;
        match clone::fork_numbered(LEADER)? {
            Clone::Child => {
                drop(ours);
                self.lead(program, slave, theirs)
            }
            Clone::Parent { .. } => drop(theirs),
        }
        spawn::hear(&ours)
    }

    /// The life of the leader.
    fn lead(&self, program: Program<'_>, slave: OwnedFd, socket: OwnedFd) -> ! {
        let begun = rustix::process::setsid().and_then(|_| rustix::process::ioctl_tiocsctty(&slave));
        match begun.and_then(|()| clone::fork_sibling(None)) {
            Ok(Clone::Child) => {
                let Err(error) = self.become_program(program, slave, &socket);
                let _ = spawn::tell(&socket, &Err(error));
            }
            Ok(Clone::Parent { .. }) => {
                drop(socket);
                house::become_leader(&slave);
            }
            Err(errno) => {
                let _ = spawn::tell(&socket, &Err(errno.into()));
            }
        }
        clone::exit_now(1)
    }

    /// Becomes the program, on the terminal `slave`, of which `socket` is told; returns only if that fails.
    fn become_program(
        &self,
        program: Program<'_>,
        slave: OwnedFd,
        socket: &OwnedFd,
    ) -> std::io::Result<Infallible> {
        let mut command = program.command();
        command.stdin(Stdio::from(slave.try_clone()?));
        command.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave));
        let filter = admission::filter(&self.environment.allowed);
        let (_ends, numbered) = program.ends(&mut command)?;
        let groups = program.groups;
        Err(spawn::become_started(&mut command, Place::Foreground, Some(filter), &numbered, groups, socket))
    }

    /// Starts the program beside us, in a group of its own.
    fn spawn(&self, program: Program<'_>) -> std::io::Result<Begun> {
        if let Some(mask) = program.mask {
            // We are pid 1 here, which no signal ends, and become the keeper, which has a mask of its own.
            frost_sys::signals::set_mask(mask)?;
        }
        let mut command = program.command();
        let standing = Place::Group { terminal: program.lent };
        let filter = admission::filter(&self.environment.allowed);
        let (ends, numbered) = program.ends(&mut command)?;
        let (child, listener) =
            spawn::start(&mut command, standing, Some(filter), &numbered, program.groups)?;
        drop(ends);
        Ok((child.id() as i32, listener))
    }
}
