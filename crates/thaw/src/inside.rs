//! A thaw in pid and mount namespaces of its own, with a keeper as pid 1.
//!
//! The keeper builds the tree there. If it dies before it is done, or if we die, the kernel ends all of it. Done, it
//! lets go of everything and stays to collect what ends in there; when nothing is left, it ends too.

use crate::attach::{Attached, Terminal};
use crate::build::begin;
use crate::error::{Context, Error};
use crate::plan::Plan;
use crate::stage::Stage;
use crate::thaw;
use frost_model::Steps;
use frost_model::steps::Step;
use frost_store::Image;
use frost_sys::clone::{Clone, fork_into_namespaces};
use frost_sys::{proc, ptrace};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// What the keeper tells whoever started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The tree is built and waits; an empty line as answer lets it go.
    Ready,
    /// It goes on.
    Done { clean: bool, steps: Vec<Step> },
    /// Nothing was built.
    Failed { message: String, denied: bool },
    /// Job control stopped the root of the tree by this signal.
    Stopped { signal: i32 },
    /// The root of the tree ended with this status, as of wait(2).
    Ended { status: i32 },
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

/// Starts a keeper that thaws `image`, and waits until the tree goes on.
pub(crate) fn in_namespaces(
    image: &Image,
    plan: &Plan,
    mark: &dyn Fn(i32) -> Result<(), Error>,
    steps: &mut Steps,
) -> Result<(i32, bool, Option<Attached>), Error> {
    let stage = Stage::Namespaces;
    begin(stage)?;
    let failed = |error: std::io::Error| Error::Builder {
        stage,
        object: "a socket to the keeper".to_owned(),
        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let groups =
        rustix::process::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect();
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let namespaces = || "pid and mount namespaces".to_owned();
    let (keeper, _keeper_fd) = match fork_into_namespaces(plan.namespaces.user).at(stage, namespaces)? {
        Clone::Child => {
            drop(ours);
            keep(image, plan, groups, ids, theirs, steps.clone());
        }
        Clone::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let mut stream = BufReader::new(ours);
    let end = |error: Error| {
        if let Some(pid) = Pid::from_raw(keeper) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        reap(keeper);
        error
    };
    let mut root = 0;
    let mut terminal = None;
    loop {
        match receive(&mut stream) {
            Some(Report::Ready) => {
                // Nothing else can be a child of the keeper yet but the root.
                root = match proc::children(keeper).map(|children| children.first().copied()) {
                    Ok(Some(root)) => root,
                    _ => {
                        let source = Errno::SRCH;
                        return Err(end(Error::Builder { stage, object: "the root".to_owned(), source }));
                    }
                };
                mark(root).map_err(end)?;
                terminal = Terminal::lend_to(image.checkpoint(), plan, root);
                stream.get_mut().write_all(b"\n").map_err(failed).map_err(end)?;
            }
            Some(Report::Done { clean, steps: done }) => {
                steps.extend(done);
                let attached = if plan.attach {
                    let pid = Pid::from_raw(root).unwrap_or(Pid::INIT);
                    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
                    let pidfd = pidfd.at(Stage::Release, || format!("process {root}"))?;
                    Some(Attached::kept(root, pidfd, stream, terminal))
                } else {
                    None
                };
                return Ok((root, clean, attached));
            }
            Some(Report::Failed { message, denied }) => return Err(end(Error::Inside { message, denied })),
            Some(Report::Stopped { .. } | Report::Ended { .. }) | None => {
                let message = "the keeper ended while it built the program".to_owned();
                return Err(end(Error::Inside { message, denied: false }));
            }
        }
    }
}

/// What became of the root of the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Stopped { signal: i32 },
    Ended { status: i32 },
}

/// Reads what became of the root of the tree.
pub(crate) fn fate(stream: &mut BufReader<UnixStream>) -> Option<Fate> {
    loop {
        match receive(stream)? {
            Report::Ended { status } => return Some(Fate::Ended { status }),
            Report::Stopped { signal } => return Some(Fate::Stopped { signal }),
            Report::Ready | Report::Done { .. } | Report::Failed { .. } => {}
        }
    }
}

fn reap(pid: i32) {
    while let Ok(Some(stop)) = ptrace::wait(pid, true) {
        if matches!(stop, ptrace::Stop::Exited(_) | ptrace::Stop::Killed(_)) {
            break;
        }
    }
}

/// The life of the keeper.
fn keep(
    image: &Image,
    plan: &Plan,
    groups: Vec<u32>,
    ids: (u32, u32),
    mut stream: UnixStream,
    mut steps: Steps,
) -> ! {
    let known = steps.done().len();
    let result = prepare(plan, ids).and_then(|()| {
        let mut ready = |_: &crate::build::Half<'_>| {
            let answer = send(&mut stream, &Report::Ready).and_then(|()| {
                let mut byte = [0];
                std::io::Read::read_exact(&mut stream, &mut byte)
            });
            answer.map_err(|_| Error::Inside {
                message: "whoever asked for it is gone".to_owned(),
                denied: false,
            })
        };
        let groups = plan.namespaces.user.then_some(groups);
        thaw::here(image, plan, groups, &mut ready, &mut steps)
    });
    let built = match result {
        Ok(built) => built,
        Err(error) => {
            let _ = send(&mut stream, &failure(&error));
            std::process::exit(1);
        }
    };
    // From here on the program lives without whoever asked for it.
    let _ = rustix::process::set_parent_process_death_signal(None);
    let done = steps.done().get(known..).unwrap_or_default().to_vec();
    let _ = send(&mut stream, &Report::Done { clean: built.clean, steps: done });
    let root = built.root;
    drop(built);
    let stream = if plan.attach { Some(stream) } else { None };
    // It belongs to nobody's job, unless it stands between a program and the terminal: a group whose processes have no
    // parent in their session cannot be stopped from there, for nobody would continue it (`is_orphaned_pgrp`,
    // kernel/exit.c). As pid 1 it is not reached by the terminal's signals.
    if stream.is_none() {
        let _ = rustix::process::setsid();
    }
    // A list of processes tells what it is.
    let _ = rustix::thread::set_name(c"frost-keeper");
    let keep_fd = stream.as_ref().map(std::os::fd::AsRawFd::as_raw_fd);
    frost_sys::own::close_all_but(keep_fd);
    collect(root, stream)
}

/// Collects what ends, until nothing is left.
fn collect(root: i32, mut stream: Option<UnixStream>) -> ! {
    let _ = std::env::set_current_dir("/");
    loop {
        match ptrace::wait_child() {
            Ok((pid, stop)) => {
                let status = match stop {
                    ptrace::Stop::Exited(code) => code << 8,
                    ptrace::Stop::Killed(signal) => signal,
                    ptrace::Stop::Signal(signal) if pid == root => {
                        if let Some(stream) = &mut stream {
                            let _ = send(stream, &Report::Stopped { signal });
                        }
                        continue;
                    }
                    _ => continue,
                };
                if pid == root
                    && let Some(mut stream) = stream.take()
                {
                    let _ = send(&mut stream, &Report::Ended { status });
                }
            }
            Err(_) => std::process::exit(0),
        }
    }
}

fn failure(error: &Error) -> Report {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut denied = false;
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        denied |= matches!(cause.downcast_ref::<Errno>(), Some(&Errno::PERM | &Errno::ACCESS));
        source = cause.source();
    }
    Report::Failed { message, denied }
}

/// Makes the inside of the namespaces usable: identity, capabilities for the stub, a `/proc` that shows it.
fn prepare(plan: &Plan, (uid, gid): (u32, u32)) -> Result<(), Error> {
    let stage = Stage::Namespaces;
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if plan.namespaces.user {
        let write = |name: &str, text: String| {
            std::fs::write(format!("/proc/self/{name}"), text)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
                .at(stage, || format!("/proc/self/{name}"))
        };
        // user_namespaces(7): a group may be mapped by an ordinary user only when setgroups is given up.
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{uid} {uid} 1"))?;
        write("gid_map", format!("{gid} {gid} 1"))?;
        frost_sys::own::keep_capabilities_over_exec().at(stage, || "ambient capabilities".to_owned())?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).at(stage, || "mounts of its own".to_owned())?;
    rustix::mount::mount(
        "proc",
        "/proc",
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .at(stage, || "a /proc of its own".to_owned())?;
    if plan.namespaces.terminals {
        // Each mount of devpts is an instance with numbers of its own (Linux 4.7). A user namespace without a group 5
        // cannot give the slaves to it.
        rustix::mount::mount(
            "devpts",
            "/dev/pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            Some(c"mode=620,ptmxmode=666"),
        )
        .at(stage, || "a /dev/pts of its own".to_owned())?;
    }
    Ok(())
}
