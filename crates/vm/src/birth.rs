//! The start of a machine's keeper, and what it tells whoever started it.

use crate::agent::{self, Agent};
use crate::error::{Error, Result};
use crate::keeper::{self, Kept};
use crate::place::Place;
use crate::qemu::{Parts, Qemu};
use crate::vmm::Vmm;
use crate::wire;
use frost_keeper::{Connection, Held};
use frost_model::machine::Machine;
use frost_runtime::instance::Claim;
use frost_store::{ImageId, Name, Store};
use frost_sys::clone::{self, Clone};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a guest may take to boot. Under emulation on a busy machine some 30 s were seen; 3 are usual.
const BOOTS_WITHIN: Duration = Duration::from_secs(180);

/// What a keeper makes a machine of.
pub(crate) struct Birth {
    pub(crate) machine: Machine,
    /// The file of its memory.
    pub(crate) memory: OwnedFd,
    /// The file in which its disks begin, and whose pack it is.
    pub(crate) source: Option<OwnedFd>,
    pub(crate) place: Place,
    pub(crate) name: Name,
    pub(crate) store: Store,
    pub(crate) how: How,
}

/// Whether it begins or goes on.
pub(crate) enum How {
    /// With this kernel, and an initramfs that is in its place.
    Boot(PathBuf),
    /// As this QEMU, which runs already.
    Adopt(Box<Qemu>),
    /// From an image; `claim` says that it is its one continuation.
    Thaw {
        /// Which.
        id: ImageId,
        /// Whether to mark the image as running.
        claim: bool,
    },
}

/// What the keeper tells.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Started { pid: i32 },
    NoQemu { program: String },
    NotStarted { why: String },
    NotBooted { why: String, console: String },
    NotRun { what: String, errno: i32 },
    PortInUse { port: u16 },
    Refused { command: String, why: String },
    Runs { pid: i32 },
    Other { causes: Vec<String> },
}

/// A machine that was started.
#[derive(Debug)]
pub struct Started {
    /// The name of its instance.
    pub name: Name,
    /// QEMU.
    pub pid: i32,
    /// Its keeper.
    pub keeper: i32,
    /// A connection that hears what it writes and how it ends, from the beginning.
    pub connection: Connection,
    /// The ports of this machine that lead to it, each with that of the guest.
    pub ports: Vec<(u16, u16)>,
}

/// Forks the keeper and waits until the machine runs.
///
/// The calling process must have one thread only. The right to the instance stays with it: the keeper has only the name.
pub(crate) fn start(birth: Birth, mut held: Held, claim: &mut Option<Claim>) -> Result<Started> {
    let name = birth.name.clone();
    let ports = birth.machine.forwards.iter().map(|forward| (forward.host, forward.guest)).collect();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(Error::call("cannot make a pipe to the keeper"))?;
    let (connection, watcher) =
        Connection::pair().map_err(Error::call("cannot make a socket to the keeper"))?;
    held.watcher = Some(watcher);
    match clone::fork_single_threaded(libc::SIGCHLD).map_err(Error::call("cannot start a keeper"))? {
        Clone::Child => {
            drop((reader, connection, claim.take()));
            let mut writer = Some(writer);
            let life = || live(birth, held, &mut writer);
            let report = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(life)) {
                Ok(error) => report(&error),
                Err(_) => {
                    Report::Other { causes: vec!["its keeper panicked, which is a bug in frost".to_owned()] }
                }
            };
            if let Some(writer) = &writer {
                tell(writer, &report);
            }
            clone::exit_now(1)
        }
        Clone::Parent { pid: keeper, .. } => {
            drop((writer, held));
            let mut text = Vec::new();
            let read = File::from(reader).read_to_end(&mut text);
            read.map_err(Error::file("a pipe to the keeper"))?;
            let report = serde_json::from_slice(&text);
            match report
                .unwrap_or_else(|_| Report::Other { causes: vec!["its keeper was killed".to_owned()] })
            {
                Report::Started { pid } => Ok(Started { name, pid, keeper, connection, ports }),
                other => {
                    let pid = rustix::process::Pid::from_raw(keeper);
                    let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
                    Err(error(other, name.to_string()))
                }
            }
        }
    }
}

fn tell(writer: &OwnedFd, report: &Report) {
    let text = serde_json::to_vec(report).unwrap_or_default();
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(writer, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn report(error: &Error) -> Report {
    match error {
        Error::NoQemu { program } => Report::NoQemu { program: program.clone() },
        Error::NotStarted { why } => Report::NotStarted { why: why.clone() },
        Error::NotBooted { why, console } => Report::NotBooted { why: why.clone(), console: console.clone() },
        Error::NotRun { what, errno } => Report::NotRun { what: what.clone(), errno: errno.raw_os_error() },
        Error::PortInUse { port } => Report::PortInUse { port: *port },
        Error::Refused { command, why } => Report::Refused { command: command.clone(), why: why.clone() },
        Error::Store(frost_store::Error::Runs { instance, .. }) => Report::Runs { pid: instance.pid },
        error => match crate::freeze::Answer::of(error) {
            crate::freeze::Answer::Failed { causes, .. } => Report::Other { causes },
            crate::freeze::Answer::Done(_) => Report::Other { causes: Vec::new() },
        },
    }
}

fn error(report: Report, name: String) -> Error {
    match report {
        Report::NoQemu { program } => Error::NoQemu { program },
        Report::NotStarted { why } => Error::NotStarted { why },
        Report::NotBooted { why, console } => Error::NotBooted { why, console },
        Report::NotRun { what, errno } => Error::NotRun { what, errno: Errno::from_raw_os_error(errno) },
        Report::PortInUse { port } => Error::PortInUse { port },
        Report::Refused { command, why } => Error::Refused { command, why },
        Report::Runs { pid } => Error::Runtime(frost_runtime::Error::Runs { name, pid }),
        Report::Started { .. } => Error::Gone,
        Report::Other { causes } => Error::Keeper { why: causes.join(": ") },
    }
}

/// The keeper's life. Returns only with what prevented the machine from running; else it takes the writer, and closes it
/// once it has told that the machine runs.
fn live(birth: Birth, held: Held, writer: &mut Option<OwnedFd>) -> Error {
    settle();
    match born(birth, &held) {
        Ok(kept) => {
            if let Some(writer) = writer.take() {
                tell(&writer, &Report::Started { pid: kept.qemu.pid() });
            }
            keeper::keep(kept, held)
        }
        Err(error) => error,
    }
}

/// Lets go of all that ties the keeper to the command.
fn settle() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn born(birth: Birth, held: &Held) -> Result<Kept> {
    let Birth { machine, memory, source, place, name: _, store, how } = birth;
    held.hear().map_err(Error::call("cannot listen at the keeper's socket"))?;
    if let How::Adopt(qemu) = how {
        return Ok(Kept { qemu: *qemu, agent: None, machine, image: None, source, place, store });
    }
    let (mut agent, theirs) = Agent::pair()?;
    let console = place.console();
    let initramfs = place.initramfs();
    let layers = (0..machine.disks.len()).map(|index| place.layer(index)).collect();
    let parts = Parts {
        memory: memory.as_fd(),
        shared: matches!(how, How::Boot(_)),
        pack: source.as_ref().map(AsFd::as_fd),
        layers,
        console: &console,
        boot: match &how {
            How::Boot(kernel) => Some((kernel, &initramfs)),
            How::Thaw { .. } | How::Adopt(_) => None,
        },
        agent: theirs.as_fd(),
    };
    let mut qemu = Qemu::start(&machine, &parts)?;
    drop(theirs);
    match &how {
        How::Adopt(_) => {}
        How::Boot(_) => {
            qemu.resume()?;
            boot(&mut agent, &mut qemu, &place, &machine)?;
            // QEMU has read it.
            let _ = std::fs::remove_file(&initramfs);
        }
        How::Thaw { id, claim } => {
            qemu.load(&machine.devices, &machine.memory.changed, memory.as_fd())?;
            if let Some(guest) = &machine.guest {
                agent.continue_from(guest);
            }
            let instance = frost_store::observe(qemu.pid())?.ok_or(Error::Gone)?;
            if *claim {
                store.claim(id, &instance)?;
            }
            agent.flush();
            qemu.resume()?;
            agent.send(wire::TIME, &agent::time());
        }
    }
    // A freeze writes anew what this held.
    let mut machine = machine;
    machine.devices.clear();
    machine.memory.changed.clear();
    let agent = machine.guest.is_some().then_some(agent);
    let image = match how {
        How::Thaw { id, .. } => Some(id),
        How::Boot(_) | How::Adopt(_) => None,
    };
    Ok(Kept { qemu, agent, machine, image, source, place, store })
}

/// Waits until the guest's init has started the command.
fn boot(agent: &mut Agent, qemu: &mut Qemu, place: &Place, machine: &Machine) -> Result<()> {
    let deadline = Instant::now() + BOOTS_WITHIN;
    let not_booted = |why: String| Error::NotBooted { why, console: place.last_console_lines() };
    loop {
        let frames = match agent.frames() {
            Ok(frames) => frames,
            Err(_) => {
                let words = qemu.last_words().map(|words| format!(" ({words})")).unwrap_or_default();
                return Err(not_booted(format!("it ended before its init could be heard{words}")));
            }
        };
        for frame in frames {
            match (frame.word, frame.content.as_slice()) {
                (wire::HELLO, _) => agent.send(wire::TIME, &agent::time()),
                (wire::STARTED, _) => return Ok(()),
                (wire::FAILED, [a, b, c, d, what @ ..]) => {
                    let errno = Errno::from_raw_os_error(i32::from_le_bytes([*a, *b, *c, *d]).clamp(1, 4095));
                    let mut what = String::from_utf8_lossy(what).into_owned();
                    let command = machine.guest.as_ref().and_then(|guest| guest.command.first());
                    if what == "the command"
                        && let Some(command) = command
                    {
                        what = command.to_string();
                    }
                    return Err(Error::NotRun { what, errno });
                }
                _ => {}
            }
        }
        if Instant::now() > deadline {
            return Err(not_booted(format!("its init was not heard within {} s", BOOTS_WITHIN.as_secs())));
        }
        let mut fds = [PollFd::new(&*agent, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
    }
}
