//! Rebuild of descriptors: from the capabilities of a checkpoint to open file descriptions.
//!
//! [`plan`] decides the route of each description and finds all that is in the way, without making anything that
//! remains. [`build`] obeys it in the builder process; children inherit what it made. What only a process of the tree
//! can do about its descriptors are its [`tape_calls`], and what has to wait until nearly the end is [`Late`]: timers
//! that run, seals that forbid what building needs. One kind, one file, under the same name as in `frost_model::cap`.
//!
//! Nothing here waits: files and fifos are opened with O_NONBLOCK at first, sockets are filled with MSG_DONTWAIT.

mod device;
pub(crate) mod directory;
mod epoll;
mod error;
mod eventfd;
mod fanotify;
mod fifo;
mod file;
mod inotify;
mod lock;
pub(crate) mod memfd;
mod mqueue;
mod netlink;
mod outside;
mod pack;
mod packet;
mod pidfd;
mod pipe;
mod proc;
mod pty;
mod raw;
mod regular;
mod route;
mod signalfd;
pub(crate) mod sysv;
mod tcp;
mod tcp_pair;
mod timerfd;
mod udp;
mod unix;
mod unix_name;
pub(crate) mod volatile;

pub use crate::compile::{InnerCall, When};
pub use error::Error;
pub(crate) use file::is_layered;
pub(crate) use pack::copy;
pub(crate) use pty::of_session;
pub(crate) use unix_name::{is_alive as is_reached, raw as bound_name};

use crate::kept::Kept;
use error::About;
use frost_model::cap::{
    Capability, Content, Description, FileIdentity, FileRef, Lock, LockKind, Owner, UnixName,
};
use frost_model::clock::Clocks;
use frost_model::ram::DataspaceKind;
use frost_model::rm::{Attachment, Region};
use frost_model::route::{self as routes, IfChanged, Rule, Subject};
use frost_model::{BytePath, Checkpoint, DescriptionId, Obstacle, Pid, Process};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, SealFlags};
use rustix::net::SocketType;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What the routes depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThawContext {
    /// The thawing command stays, and hands in its own standard input, output and error.
    pub attach: bool,
    /// The thaw makes a copy beside the one continuation of the program.
    pub copy: bool,
    /// The program gets an instance of devpts of its own.
    pub own_terminals: bool,
    /// A keeper has a terminal for the program: whoever builds it will have that as its standard descriptors.
    pub terminal: bool,
    /// The program gets an IPC namespace of its own.
    pub own_ipc: bool,
    /// Whoever builds it lives in a pid namespace of the program's, where numbers are the program's.
    pub own_pids: bool,
    /// Its layers are not mounted yet, so what lies in them cannot be looked at.
    pub layers_unseen: bool,
}

/// How a description is obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Made again from its saved state.
    Recreate,
    /// Opened by its path, compared with what it was.
    Reopen,
    /// Connected to its peer anew.
    Reconnect,
    /// Kept while it was frozen, and the same again.
    Keep,
    /// Handed in: this standard descriptor of the thawing command.
    Inherit(i32),
    /// Made so that its other end is closed.
    Close,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Recreate => "recreate",
            Self::Reopen => "reopen",
            Self::Reconnect => "reconnect",
            Self::Keep => "keep",
            Self::Inherit(_) => "inherit",
            Self::Close => "close",
        })
    }
}

/// What is done about a description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Its route.
    pub route: Route,
    /// What it is.
    pub object: String,
    /// What the program will find, where that is not what it had.
    pub effect: Option<String>,
    /// The rule of a route table that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
}

/// What was made.
#[derive(Debug)]
pub struct Built {
    /// One descriptor for each description, by its index.
    pub descriptions: Vec<Option<OwnedFd>>,
    /// Descriptors that take the place of a description under one number only: the program may have had one terminal as
    /// its standard input, output and error, while ours are three different things.
    pub instead: Vec<(DescriptionId, i32, OwnedFd)>,
    /// Pseudoterminals that control a session, by their index.
    pub terminals: Vec<(usize, OwnedFd)>,
    /// Directories that were made and removed again.
    pub(crate) removed: directory::Removed,
    /// What is done when all else is complete.
    pub late: Late,
}

/// What is done when every process is complete, right before the program goes on.
#[derive(Debug)]
pub struct Late {
    clocks: Clocks,
    timers: Vec<(OwnedFd, frost_model::cap::TimerFd)>,
    seals: Vec<(OwnedFd, SealFlags)>,
    inotify: Vec<inotify::Late>,
    fanotify: Vec<fanotify::Late>,
    /// Whom descriptions signal, where that is not the first process that has them.
    owners: Vec<(OwnedFd, Owner)>,
    /// The flags of descriptions with O_ASYNC that no process has, as they lie in messages only.
    asynchronous: Vec<(OwnedFd, OFlags)>,
    /// Leases of such descriptions, and whether they are for writing.
    leases: Vec<(OwnedFd, bool)>,
    replaced: regular::Replaced,
    cut: route::Cut,
    /// Unix sockets that are not filled yet.
    unix: Option<unix::Late>,
    unfinished: regular::Unfinished,
    queues: mqueue::Made,
    volatile: volatile::Made,
}

/// Decides how each description is obtained, and finds all that is in the way. Nothing is left behind.
///
/// The first of `rules` that is about a description decides, else the default of its kind.
/// What `kept` has for a description needs not be made.
pub fn plan(
    checkpoint: &Checkpoint,
    context: &ThawContext,
    rules: &[Rule],
    kept: Option<&Kept>,
) -> (Vec<Planned>, Vec<Obstacle>) {
    let mut planned = Vec::with_capacity(checkpoint.descriptions.len());
    let mut obstacles = Vec::new();
    // Sockets that were bound to see whether that works stay until all were tried: some share a port.
    let mut tried = Vec::new();
    let in_memory = volatile::standings(checkpoint);
    let executed = executed(checkpoint);
    for (index, description) in checkpoint.descriptions.iter().enumerate() {
        let id = DescriptionId::new(index as u32);
        let subject = (!rules.is_empty()).then(|| Subject::with(description, numbers(checkpoint, id)));
        let rule = subject.and_then(|subject| routes::find(rules, &subject));
        let mut problems = Vec::new();
        let mut add = |problem: file::Problem| problems.push(problem);
        let (mut route, mut effect) = (Route::Recreate, None);
        let kept_for_another = kept.is_some_and(|kept| kept.is_in_the_way(&description.capability));
        match &description.capability {
            inner if proc::of_process(checkpoint, inner).is_some() => route = Route::Reopen,
            _ if kept.is_some_and(|kept| kept.get(index).is_some()) => route = Route::Keep,
            Capability::TcpListener(_) | Capability::Unix(_) if kept_for_another => {
                // Otherwise it is of another version, and makes room.
                if context.copy {
                    add(kept_elsewhere());
                }
            }
            Capability::Regular(regular) => match &regular.content {
                Content::Named { file, captured, digest } => {
                    route = Route::Reopen;
                    let there = route::instead_of(file, rule);
                    // What a rule says of a file goes before what is known of one in memory.
                    let standing = in_memory.get(&file.path).filter(|_| rule.is_none());
                    let same = match standing {
                        Some(_) => file::Same::Kind,
                        None => route::same(rule, description.flags),
                    };
                    match file::open(&there, description.flags, same) {
                        _ if rule.is_none() && unix::is_node(checkpoint, file) => route = Route::Recreate,
                        _ if standing == Some(&volatile::Standing::Missing) => {
                            route = Route::Recreate;
                            effect = Some("it lay in memory and is gone: it is made again".to_owned());
                        }
                        _ if standing == Some(&volatile::Standing::Different) => add(volatile::changed()),
                        Ok(opened)
                            if rule.is_some_and(|rule| rule.if_changed == Some(IfChanged::Truncate)) =>
                        {
                            route::has_prefix(&opened, &there, digest.as_ref())
                                .err()
                                .into_iter()
                                .for_each(&mut add);
                        }
                        Ok(_) => {}
                        Err(problem)
                            if problem.content && captured.is_some() && !is_mapped(checkpoint, file) =>
                        {
                            route = Route::Recreate;
                            effect = Some(format!(
                                "its captured content replaces what is there: {}",
                                problem.reason
                            ));
                        }
                        Err(problem) => add(problem),
                    }
                    let shared = rule.is_some_and(|rule| rule.share) || checkpoint.is_layered(&file.path);
                    if context.copy && is_written(description) && !shared {
                        add(file::Problem {
                            reason: "it is open for writing, and a copy would write into the same file"
                                .to_owned(),
                            remedy: "end the other one first, then thaw without --clone; or let its route say `share`"
                                .to_owned(),
                            errno: None,
                            content: false,
                        });
                    }
                }
                Content::Unnamed(object) => {
                    let is_executed = executed.contains(&object.index());
                    let unnamed = checkpoint.objects.unnamed.get(object.index());
                    match unnamed.and_then(|unnamed| Some((regular::place(unnamed, is_executed)?, &unnamed.path))) {
                        Some((regular::Place::OldPath | regular::Place::Nameless(_), _)) => {}
                        Some((regular::Place::In(directory), path)) => {
                            let directory = directory.display();
                            effect = Some(format!("it was {path}, and lies in {directory} without a name"));
                        }
                        None if is_executed => add(file::Problem {
                            reason: "no directory takes a file without a name from which a program is executed"
                                .to_owned(),
                            remedy: "make /var/tmp or /tmp writable, on a file system with O_TMPFILE that is not mounted \
                                     with noexec"
                                .to_owned(),
                            errno: None,
                            content: false,
                        }),
                        None => add(file::Problem {
                            reason: "no directory takes a file without a name".to_owned(),
                            remedy: "make /var/tmp or /tmp writable, on a file system with O_TMPFILE"
                                .to_owned(),
                            errno: None,
                            content: false,
                        }),
                    }
                }
            },
            Capability::Directory(directory) if directory.file.identity.removed => {
                match directory::place(&directory.file) {
                    Some(directory::Place::OldPath) => {}
                    Some(directory::Place::In(place)) => {
                        effect = Some(format!("it was removed from {} by another name", place.display()));
                    }
                    None => add(directory::no_place()),
                }
            }
            Capability::Directory(directory) => {
                route = Route::Reopen;
                let opened = directory::open(directory, description.flags);
                opened.err().into_iter().for_each(add);
            }
            Capability::Device(device) => {
                route = Route::Reopen;
                let opened = device::open(device, description.flags);
                opened.err().into_iter().for_each(add);
            }
            Capability::Fifo(fifo) => {
                route = Route::Reopen;
                fifo::look(fifo).err().into_iter().for_each(add);
            }
            Capability::TcpListener(listener) => {
                match tcp::bound(&listener.inet, SocketType::STREAM, false) {
                    Ok(socket) => tried.push(socket),
                    Err(error) => add(socket_problem(&error, listener.inet.local)),
                }
            }
            Capability::Udp(socket) => {
                match tcp::bound(&socket.inet, SocketType::DGRAM, socket.peer.is_some()) {
                    Ok(socket) => tried.push(socket),
                    Err(error) => add(socket_problem(&error, socket.inet.local)),
                }
                effect = udp::effect(checkpoint, socket);
            }
            Capability::Raw(socket) => {
                let made = raw::make(socket, description.flags);
                made.err().into_iter().for_each(|error| add(socket_right(&error)));
            }
            Capability::Packet(socket) => {
                let made = packet::make(socket, description.flags);
                made.err().into_iter().for_each(|error| add(socket_right(&error)));
            }
            Capability::TcpStream(stream) if stream.inside.is_some() => {
                if matches!(&stream.inside, Some(inside) if inside.peer == frost_model::cap::TcpPeer::Closed)
                {
                    effect = Some("what waited in it, then end of file; writes give EPIPE".to_owned());
                }
            }
            Capability::TcpStream(stream) if stream.is_connecting() => {}
            Capability::TcpStream(_) => {
                route = Route::Close;
                effect =
                    Some("it was reset by its peer: ECONNRESET, then end of file; writes give EPIPE".into());
            }
            Capability::Outside(outside) => {
                let number = context
                    .attach
                    .then(|| outside::inherited_number(description, &numbers(checkpoint, id)))
                    .flatten();
                let held = context.terminal && outside::is_terminal(description);
                let number = number.or(held.then_some(0));
                route = number.map_or(Route::Close, Route::Inherit);
                effect = match number {
                    Some(_) if held => None,
                    Some(number) => Some(format!("fd {number} of this command")),
                    None => Some(outside::closed_text(outside).to_owned()),
                };
            }
            Capability::Inotify(inotify) => match inotify::look(inotify) {
                Ok(told) => effect = told,
                Err(problem) => add(problem),
            },
            Capability::Fanotify(group) => match fanotify::look(group, context.own_pids) {
                Ok(told) => effect = told,
                Err(problem) => add(problem),
            },
            Capability::Netlink(socket) => match netlink::make(socket, description.flags) {
                Ok(_) if !socket.groups.is_empty() => {
                    effect = Some("what it listens for and happened meanwhile it is not told".to_owned());
                }
                Ok(_) => {}
                Err(error) => add(socket_right(&error)),
            },
            Capability::Mqueue(end) => {
                if let Some(queue) = checkpoint.objects.mqueues.get(end.queue.index()) {
                    match mqueue::standing(queue, context.own_ipc) {
                        mqueue::Standing::Same => route = Route::Reopen,
                        mqueue::Standing::Missing => effect = mqueue::other_owner(queue),
                        mqueue::Standing::Different(problem) => add(problem),
                    }
                }
            }
            // It was accepted at a socket that is kept, and can do without its name.
            Capability::Unix(socket)
                if socket.name.as_ref().is_some_and(|name| is_of_kept(checkpoint, kept, name)) => {}
            Capability::Unix(socket) => {
                unix::look(checkpoint, socket).err().into_iter().for_each(add);
                if !context.own_pids {
                    effect = unix::effect(checkpoint, socket);
                }
            }
            Capability::Pty(end) => {
                effect = if context.own_terminals { None } else { pty::number_text(end) };
            }
            Capability::Pipe(_)
            | Capability::EventFd(_)
            | Capability::Epoll(_)
            | Capability::SignalFd(_)
            | Capability::TimerFd(_)
            | Capability::PidFd(_)
            | Capability::Memfd(_) => {}
        }
        if context.copy && !description.locks.is_empty() {
            effect = Some("its locks stay with the one continuation".to_owned());
        }
        let mut planning =
            Planned { route, object: object(checkpoint, description), effect, rule: rule.cloned() };
        if let Some(rule) = rule {
            let usual = planning.route;
            let more = route::apply(checkpoint, id, description, rule, &mut planning);
            if planning.route != usual {
                // What is in the way of the usual does not matter.
                problems.clear();
            }
            problems.extend(more);
        }
        if context.layers_unseen
            && place(checkpoint, &description.capability).is_some_and(|place| checkpoint.is_layered(&place))
        {
            problems.clear();
        }
        obstacles.extend(problems.into_iter().map(|problem| obstacle(checkpoint, id, problem)));
        planned.push(planning);
    }
    (planned, obstacles)
}

/// The files without a name from which somebody executes code, by their index.
fn executed(checkpoint: &Checkpoint) -> BTreeSet<usize> {
    let regions = checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
    let code = regions.filter(|region| region.protection.execute);
    let description = |region: &Region| match region.attachment {
        Attachment::Description { description, .. } => checkpoint.descriptions.get(description.index()),
        _ => None,
    };
    let object = |description: &Description| match &description.capability {
        Capability::Regular(regular) => match regular.content {
            Content::Unnamed(object) => Some(object.index()),
            Content::Named { .. } => None,
        },
        _ => None,
    };
    code.filter_map(description).filter_map(object).collect()
}

/// Whether a name is that of a socket that is kept.
fn is_of_kept(checkpoint: &Checkpoint, kept: Option<&Kept>, name: &UnixName) -> bool {
    let Some(kept) = kept else { return false };
    kept.descriptions().any(|index| {
        let description = checkpoint.descriptions.get(index).map(|description| &description.capability);
        matches!(description, Some(Capability::Unix(unix)) if unix.name.as_ref() == Some(name))
    })
}

/// What is in the way of a copy of a program whose sockets wait for it.
fn kept_elsewhere() -> file::Problem {
    file::Problem {
        reason: "it is kept open for the frozen program that this is a copy of".to_owned(),
        remedy: "thaw that one without --clone; or let it go (`frost freeze NAME --cold`)".to_owned(),
        errno: None,
        content: false,
    }
}

/// Where in the file system a capability is found.
fn place(checkpoint: &Checkpoint, capability: &Capability) -> Option<BytePath> {
    let path = match capability {
        Capability::Regular(regular) => match &regular.content {
            Content::Named { file, .. } => &file.path,
            Content::Unnamed(object) => &checkpoint.objects.unnamed.get(object.index())?.path,
        },
        Capability::Directory(directory) => &directory.file.path,
        Capability::Device(device) => &device.file.path,
        Capability::Fifo(fifo) => &fifo.file.path,
        Capability::Unix(socket) => match &socket.name {
            Some(UnixName::Path { path, directory: Some(directory), .. }) => {
                return Some(BytePath::from(directory.as_path().join(path.as_path()).as_path()));
            }
            Some(UnixName::Path { path, .. }) => path,
            _ => return None,
        },
        _ => return None,
    };
    Some(path.clone())
}

/// A name that nobody else has. A pid would not do: it is there once in each pid namespace.
fn nobodys_name() -> String {
    let mut random = [0; 8];
    // There are random numbers from the first moments of the machine on (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    format!("frost-{:016x}", u64::from_ne_bytes(random))
}

/// Makes every description as planned. `pack` is the pack of the image, to be read at offsets.
///
/// # Errors
/// The first object that could not be made; all others are closed again.
pub fn build(
    checkpoint: &Checkpoint,
    planned: &[Planned],
    context: &ThawContext,
    pack: BorrowedFd<'_>,
    kept: Option<&Kept>,
    terminals: &[OwnedFd],
) -> Result<Built, Error> {
    let (volatile, in_memory) = volatile::Made::open_all(checkpoint, pack, context.own_pids)?;
    let (queues, mqueues) = mqueue::Made::open_all(checkpoint, context)?;
    let mut replaced = regular::Replaced::default();
    let mut objects = Objects::make(checkpoint, planned, pack, &mut replaced, terminals)?;
    objects.mqueues = mqueues;
    objects.in_memory = in_memory;
    let mut made: Vec<Option<OwnedFd>> = Vec::with_capacity(checkpoint.descriptions.len());
    let mut connections = tcp_pair::make(checkpoint)?;
    // Their sockets are bound anew, which gives them other nodes.
    let is_node = |description: &Description, rule: Option<&Rule>| match &description.capability {
        Capability::Regular(frost_model::cap::RegularFile {
            content: Content::Named { file, .. }, ..
        }) => rule.is_none() && unix::is_node(checkpoint, file),
        _ => false,
    };
    for (index, description) in checkpoint.descriptions.iter().enumerate() {
        let (route, rule) = planned
            .get(index)
            .map_or((Route::Recreate, None), |planned| (planned.route, planned.rule.as_ref()));
        if route != Route::Close && proc::of_process(checkpoint, &description.capability).is_some() {
            made.push(Some(proc::placeholder().about("make", &description.capability)?));
            continue;
        }
        if let (Route::Keep, Some(kept)) = (route, kept.and_then(|kept| kept.get(index))) {
            made.push(Some(keep(description, kept).about("take back", &description.capability)?));
            continue;
        }
        let connection = connections.remove(&index);
        made.push(match connection {
            Some(connection) => Some(connection),
            None if is_node(description, rule) => None,
            None => make(description, route, rule, &mut objects)?,
        });
    }
    let mut unfinished = regular::Unfinished::default();
    for (fd, unnamed) in objects.unnamed.iter().zip(&checkpoint.objects.unnamed) {
        // At once, since it may be a binary, which is to be executable.
        let mode = rustix::fs::Mode::from_raw_mode(unnamed.identity.mode & 0o7777);
        rustix::fs::fchmod(fd, mode).about("set the mode of", &unnamed.path)?;
        unfinished.add(fd, &unnamed.identity, unnamed.marks.as_ref()).about("hold", &unnamed.path)?;
    }
    for (fd, dataspace) in objects.memfds.iter().zip(&checkpoint.dataspaces) {
        if let (Some(fd), DataspaceKind::Memfd { identity: Some(identity), marks, .. }) =
            (fd, &dataspace.kind)
        {
            unfinished.add(fd, identity, marks.as_ref()).about("hold", "a memfd")?;
        }
    }
    tcp_pair::finish(checkpoint, &mut made)?;
    udp::fill(checkpoint, &made);
    let sockets = unix::make(checkpoint, &mut made)?;
    for (index, description) in checkpoint.descriptions.iter().enumerate() {
        let (route, rule) = planned
            .get(index)
            .map_or((Route::Recreate, None), |planned| (planned.route, planned.rule.as_ref()));
        if made[index].is_none() && is_node(description, rule) {
            made[index] = make(description, route, rule, &mut objects)?;
        }
    }
    epoll::add_watches(checkpoint, &made)?;
    let unfilled = unix::fill(checkpoint, planned, &made, sockets)?;
    for (fd, description) in made.iter().zip(&checkpoint.descriptions) {
        // When all are bound and connected, for which those of one port must have one owner (`inet_bind_conflict`,
        // net/ipv4/inet_connection_sock.c); a route may have made something else of it.
        if let (Some(fd), Some(node)) = (fd, description.node)
            && file::is_socket(fd).about("look at", &description.capability)?
        {
            file::set_node(fd, node).about("set owner and permissions of", &description.capability)?;
        }
    }
    for (fd, file) in objects.put_back.values().zip(objects.put_back_as) {
        regular::finish(fd, &file, None).about("set the mode of", "a file that is put back")?;
    }
    if !context.copy {
        lock::take_in_flight(checkpoint, &made)?;
    }
    let mut terminals = Vec::new();
    for (index, (made, pty)) in objects.ptys.iter().zip(&checkpoint.objects.ptys).enumerate() {
        let terminal = made.finish(pty).about("set up", format!("terminal /dev/pts/{}", pty.number))?;
        terminals.extend(terminal.map(|terminal| (index, terminal)));
    }
    let mut late = Late::of(checkpoint, &made, replaced, (queues, volatile), context.copy)?;
    late.unix = unfilled;
    late.unfinished = unfinished;
    late.cut = route::Cut::of(checkpoint, planned, &made)?;
    let instead = outside::instead(checkpoint, planned)?;
    Ok(Built { descriptions: made, instead, terminals, removed: objects.removed, late })
}

/// Objects behind descriptions, while these are made.
struct Objects {
    pipes: BTreeMap<usize, pipe::Made>,
    /// How many descriptions each has.
    pipe_ends: BTreeMap<usize, usize>,
    fifos: BTreeMap<usize, fifo::Holder>,
    unnamed: Vec<OwnedFd>,
    memfds: Vec<Option<OwnedFd>>,
    /// Those whose first description is a description of the program by now.
    first_memfds: BTreeSet<usize>,
    mqueues: Vec<OwnedFd>,
    /// Files in memory, by their path.
    in_memory: BTreeMap<BytePath, OwnedFd>,
    ptys: Vec<pty::Made>,
    removed: directory::Removed,
    masters: outside::Masters,
    /// Files whose captured content replaces what is there, by their path.
    put_back: BTreeMap<BytePath, OwnedFd>,
    /// What these were, in the same order.
    put_back_as: Vec<FileIdentity>,
}

impl Objects {
    fn make(
        checkpoint: &Checkpoint,
        planned: &[Planned],
        pack: BorrowedFd<'_>,
        replaced: &mut regular::Replaced,
        terminals: &[OwnedFd],
    ) -> Result<Self, Error> {
        let mut objects = Self {
            put_back: BTreeMap::new(),
            put_back_as: Vec::new(),
            pipes: BTreeMap::new(),
            pipe_ends: BTreeMap::new(),
            fifos: BTreeMap::new(),
            unnamed: Vec::new(),
            memfds: Vec::new(),
            first_memfds: BTreeSet::new(),
            mqueues: Vec::new(),
            in_memory: BTreeMap::new(),
            ptys: pty::make_all(checkpoint, terminals)?,
            removed: directory::Removed::default(),
            masters: Vec::new(),
        };
        let mut put_back = BTreeMap::new();
        for (description, planned) in checkpoint.descriptions.iter().zip(planned) {
            if let Capability::Regular(regular) = &description.capability
                && let Content::Named { file, captured: Some(pages), .. } = &regular.content
                && planned.route == Route::Recreate
                && !checkpoint.objects.volatile.iter().any(|volatile| volatile.file.path == file.path)
            {
                put_back.insert(file.path.clone(), (file, pages));
            }
        }
        for (path, (file, pages)) in put_back {
            objects.put_back.insert(path, replaced.make(file, pages, pack)?);
            objects.put_back_as.push(file.identity.clone());
        }
        let executed = executed(checkpoint);
        for (index, unnamed) in checkpoint.objects.unnamed.iter().enumerate() {
            objects.unnamed.push(regular::make(unnamed, executed.contains(&index), pack)?);
        }
        let denoted: BTreeSet<usize> = checkpoint
            .descriptions
            .iter()
            .filter_map(|description| match &description.capability {
                Capability::Memfd(memfd) => Some(memfd.dataspace.index()),
                _ => None,
            })
            .collect();
        for (index, dataspace) in checkpoint.dataspaces.iter().enumerate() {
            // Memory that no descriptor denotes is made where it is mapped.
            let fd = match denoted.contains(&index) {
                true => memfd::make(dataspace, pack).about("make", format!("memfd {index}"))?,
                false => None,
            };
            objects.memfds.push(fd);
        }
        for description in &checkpoint.descriptions {
            match &description.capability {
                Capability::Pipe(end) => {
                    let index = end.pipe.index();
                    *objects.pipe_ends.entry(index).or_default() += 1;
                    if let (Some(pipe), false) =
                        (checkpoint.objects.pipes.get(index), objects.pipes.contains_key(&index))
                    {
                        let made = pipe::make(pipe).about("make", &description.capability)?;
                        objects.pipes.insert(index, made);
                    }
                }
                Capability::Fifo(fifo) => {
                    let index = fifo.pipe.index();
                    if let (Some(pipe), false) =
                        (checkpoint.objects.pipes.get(index), objects.fifos.contains_key(&index))
                    {
                        objects.fifos.insert(index, fifo::hold(fifo, pipe)?);
                    }
                }
                _ => {}
            }
        }
        Ok(objects)
    }
}

/// Takes a socket that was kept. The rest of a unix socket is done with all others.
fn keep(description: &Description, kept: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let fd = match &description.capability {
        Capability::TcpListener(listener) => tcp::keep(kept, listener, description.flags)?,
        _ => rustix::io::fcntl_dupfd_cloexec(kept, 3)?,
    };
    if let Some(owner) = description.owner.filter(|owner| owner.signal != 0) {
        frost_sys::fcntl::set_signal(&fd, owner.signal)?;
    }
    Ok(fd)
}

/// Makes one description. Unix sockets are made later, all together.
fn make(
    description: &Description,
    route: Route,
    rule: Option<&Rule>,
    objects: &mut Objects,
) -> Result<Option<OwnedFd>, Error> {
    let flags = description.flags;
    let what = || description.capability.to_string();
    let missing = rustix::io::Errno::BADF;
    let changed = |problem: file::Problem| Error::Changed { object: what(), reason: problem.reason };
    if let Route::Inherit(number) = route {
        return outside::inherit(number, flags).map(Some);
    }
    let fd = match &description.capability {
        Capability::TcpStream(_) | Capability::Outside(_) if route == Route::Reconnect => {
            route::reconnect(description, rule)?
        }
        Capability::Outside(_) if route == Route::Reopen => {
            let to = rule.and_then(|rule| rule.to.as_deref()).ok_or(missing).about("open", what())?;
            route::open_instead(to, flags)?
        }
        closed if is_placeholder(closed, route) => route::make_closed(closed, flags)?,
        Capability::Regular(regular) => match &regular.content {
            Content::Named { file, .. } if rule.is_none() && objects.in_memory.contains_key(&file.path) => {
                // By its path, so that its flags are those that it had: shm_open gives O_NOFOLLOW.
                let fd = file::open(file, flags, file::Same::Kind).map_err(changed)?;
                regular::seek(&fd, flags, regular.position).about("seek in", what())?;
                fd
            }
            // The node of a socket, which was bound just now.
            Content::Named { file, .. }
                if route == Route::Recreate && !objects.put_back.contains_key(&file.path) =>
            {
                file::open(file, flags, file::Same::Kind).map_err(changed)?
            }
            Content::Named { file, .. } if route == Route::Recreate => {
                let made = objects.put_back.get(&file.path).ok_or(missing).about("put back", what())?;
                regular::description(made, flags, regular.position).about("open", what())?
            }
            Content::Named { file, .. } => {
                let fd = file::open(&route::instead_of(file, rule), flags, route::same(rule, flags));
                let fd = fd.map_err(changed)?;
                regular::seek(&fd, flags, regular.position).about("seek in", what())?;
                fd
            }
            Content::Unnamed(object) => {
                let made = objects.unnamed.get(object.index()).ok_or(missing).about("make", what())?;
                regular::description(made, flags, regular.position).about("open", what())?
            }
        },
        Capability::Directory(directory) if directory.file.identity.removed => {
            let made = objects.removed.get(&directory.file)?;
            let fd = directory::reopen(made, flags).about("open", what())?;
            regular::seek(&fd, flags, directory.position).about("seek in", what())?;
            fd
        }
        Capability::Directory(directory) => {
            let fd = directory::open(directory, flags).map_err(changed)?;
            regular::seek(&fd, flags, directory.position).about("seek in", what())?;
            fd
        }
        Capability::Device(device) => device::open(device, flags).map_err(changed)?,
        Capability::Pipe(end) => {
            let index = end.pipe.index();
            let made = objects.pipes.get_mut(&index).ok_or(missing).about("make", what())?;
            let fd = made.description(flags).about("make", what())?;
            if Some(&made.descriptions()) == objects.pipe_ends.get(&index) {
                // Of thousands of pipes, both of our own ends would use up the limit.
                objects.pipes.remove(&index);
            }
            fd
        }
        Capability::Fifo(fifo) => {
            let held = objects.fifos.get(&fifo.pipe.index()).ok_or(missing).about("make", what())?;
            fifo::description(held, fifo, flags)?
        }
        Capability::EventFd(event) => eventfd::make(*event, flags).about("make", what())?,
        Capability::Epoll(epoll) => {
            let fd = epoll::make(epoll).about("make", what())?;
            file::set_status(&fd, flags).about("set the flags of", what())?;
            fd
        }
        Capability::SignalFd(signals) => signalfd::make(*signals, flags).about("make", what())?,
        Capability::TimerFd(timer) => timerfd::make(timer, flags).about("make", what())?,
        Capability::Inotify(_) => inotify::make(flags).about("make", what())?,
        Capability::Fanotify(group) => fanotify::make(group, flags).about("make", what())?,
        Capability::PidFd(pidfd) => pidfd::make(*pidfd, flags).about("make", what())?,
        Capability::Memfd(memfd) => {
            let index = memfd.dataspace.index();
            let made = objects.memfds.get(index).and_then(Option::as_ref);
            let made = made.ok_or(missing).about("make", what())?;
            let is_first = flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32
                && flags & OFlags::PATH.bits() == 0
                && objects.first_memfds.insert(index);
            memfd::description(made, flags, memfd.position, is_first).about("open", what())?
        }
        Capability::Mqueue(end) => {
            let made = objects.mqueues.get(end.queue.index()).ok_or(missing).about("open", what())?;
            file::reopen(made, flags).about("open", what())?
        }
        Capability::Pty(end) => {
            let made = objects.ptys.get(end.pty.index()).ok_or(missing).about("make", what())?;
            made.description(end, flags).about("make", what())?
        }
        Capability::Unix(_) => return Ok(None),
        Capability::TcpListener(listener) => tcp::make(listener, flags)?,
        // One that waits to be accepted, or calls, is connected when all that listen are there.
        Capability::TcpStream(stream) if stream.inside.is_some() => return Ok(None),
        Capability::TcpStream(stream) if stream.is_connecting() && route != Route::Close => return Ok(None),
        Capability::TcpStream(stream) => tcp::make_reset(stream, flags)?,
        Capability::Udp(socket) => udp::make(socket, flags)?,
        Capability::Raw(socket) => raw::make(socket, flags)?,
        Capability::Packet(socket) => packet::make(socket, flags)?,
        Capability::Netlink(socket) => netlink::make(socket, flags)?,
        Capability::Outside(outside) => outside::make_closed(description, outside, &mut objects.masters)?,
    };
    if let Some(owner) = description.owner.filter(|owner| owner.signal != 0) {
        frost_sys::fcntl::set_signal(&fd, owner.signal).about("choose the signal of", what())?;
    }
    Ok(Some(fd))
}

impl Late {
    fn of(
        checkpoint: &Checkpoint,
        made: &[Option<OwnedFd>],
        replaced: regular::Replaced,
        (queues, volatile): (mqueue::Made, volatile::Made),
        is_copy: bool,
    ) -> Result<Self, Error> {
        let mut late = Self {
            clocks: checkpoint.clocks,
            timers: Vec::new(),
            seals: Vec::new(),
            inotify: Vec::new(),
            fanotify: Vec::new(),
            owners: Vec::new(),
            asynchronous: Vec::new(),
            leases: Vec::new(),
            replaced,
            cut: route::Cut::default(),
            unix: None,
            unfinished: regular::Unfinished::default(),
            queues,
            volatile,
        };
        for (index, (description, fd)) in checkpoint.descriptions.iter().zip(made).enumerate() {
            let Some(fd) = fd else { continue };
            let copy = || {
                let copy = fd.try_clone();
                copy.map_err(|e| rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::MFILE))
                    .about("duplicate", &description.capability)
            };
            let first = first_holder(checkpoint, DescriptionId::new(index as u32));
            if let Some(owner) = description.owner
                && owner.id != 0
                && first.is_none_or(|first| !is_process(&owner, first))
            {
                late.owners.push((copy()?, owner));
            }
            if first.is_none() {
                if let Some(flags) = asynchronous(description) {
                    late.asynchronous.push((copy()?, flags));
                }
                // Its owner is who took it (lease_setup, fs/locks.c).
                let is_lease = |held: &&Lock| held.kind == LockKind::Lease && is_possible(held, description);
                if let Some(lease) = description.locks.iter().find(is_lease).filter(|_| !is_copy) {
                    late.leases.push((copy()?, lease.exclusive));
                }
            }
            match &description.capability {
                Capability::TimerFd(timer) => late.timers.push((copy()?, *timer)),
                Capability::Inotify(inotify) => late.inotify.push(inotify::Late::of(copy()?, inotify, made)?),
                Capability::Fanotify(group) => late.fanotify.push(fanotify::Late::of(copy()?, group, made)?),
                Capability::Memfd(memfd) => {
                    let seals = checkpoint.dataspaces.get(memfd.dataspace.index());
                    let seals = seals.map_or(SealFlags::empty(), memfd::late_seals);
                    if !seals.is_empty() && is_written(description) {
                        late.seals.push((copy()?, seals));
                    }
                }
                _ => {}
            }
        }
        Ok(late)
    }

    /// Sends what denotes processes, arms timers, sets the last seals, puts captured files in the place of those that changed,
    /// and watches files.
    ///
    /// # Errors
    /// The first that failed. The tree must then be ended.
    pub fn apply(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        if let Some(unix) = self.unix.take() {
            unix.apply(checkpoint)?;
        }
        for (fd, seals) in &self.seals {
            let now = rustix::fs::fcntl_get_seals(fd).about("seal", "a memfd")?;
            if !now.contains(*seals) {
                rustix::fs::fcntl_add_seals(fd, *seals & !now).about("seal", "a memfd")?;
            }
        }
        for (fd, owner) in &self.owners {
            let owner = frost_sys::fcntl::Owner { kind: owner.kind, id: owner.id };
            frost_sys::fcntl::set_owner(fd, owner).about("say whom to signal for", "a descriptor")?;
        }
        for (fd, flags) in &self.asynchronous {
            rustix::fs::fcntl_setfl(fd, *flags).about("set the flags of", "a descriptor in flight")?;
        }
        for (fd, exclusive) in &self.leases {
            frost_sys::fcntl::lease(fd, *exclusive).about("take a lease by", "a descriptor in flight")?;
        }
        for (fd, timer) in &self.timers {
            timerfd::arm(fd, timer, &self.clocks).about("arm", "a timerfd")?;
        }
        self.unfinished.finish().about("set owner, mode and times of", "a file without a name")?;
        self.replaced.take_place()?;
        self.cut.apply()?;
        // Last of all, so that they tell of nothing that the thaw itself did.
        self.fanotify.iter_mut().try_for_each(fanotify::Late::prepare)?;
        self.inotify.iter().try_for_each(inotify::Late::apply)?;
        self.fanotify.iter().try_for_each(fanotify::Late::apply)
    }

    /// Lets what was made under names of its own stay: the program goes on.
    pub fn keep(&mut self) {
        self.queues.keep();
        self.volatile.keep();
    }
}

/// Whether a capability denotes a process or thread of the tree, and can be opened when that is there.
fn denotes_process(checkpoint: &Checkpoint, capability: &Capability) -> bool {
    match capability {
        Capability::PidFd(pidfd) => pidfd.pid.is_some(),
        other => proc::of_process(checkpoint, other).is_some(),
    }
}

/// Returns a number as process `viewer` sees it, or one that nobody has.
fn seen_by(checkpoint: &Checkpoint, viewer: Pid, number: i32) -> i32 {
    checkpoint.seen_by(viewer, Pid::new(number)).map_or(i32::MAX, Pid::raw)
}

/// The calls that only `process` can make about its descriptors, once all of them have their numbers.
///
/// What belongs to a description rather than to a process is done by the first process that has it.
pub fn tape_calls(
    checkpoint: &Checkpoint,
    process: &Process,
    context: &ThawContext,
    planned: &[Planned],
) -> Vec<InnerCall> {
    let mut calls = Vec::new();
    let mut last = Vec::new();
    let own = process.pd.relation.pid;
    let mut seen = Vec::new();
    // A session within, as that of a shell in tmux, has a terminal of the tree, whatever else its leader has open.
    let outer = process.pd.relation.controls_terminal && pty::of_session(checkpoint, own).is_none();
    let mut controlled = !(context.terminal && outer);
    for descriptor in &process.pd.descriptors {
        let id = descriptor.description;
        let Some(description) = checkpoint.descriptions.get(id.index()) else { continue };
        let route = planned.get(id.index()).map_or(Route::Recreate, |planned| planned.route);
        if is_placeholder(&description.capability, route) {
            continue;
        }
        let fd = descriptor.fd.raw();
        if !controlled && outside::is_terminal(description) {
            calls.push(InnerCall::new(libc::SYS_ioctl, &[fd as u64, libc::TIOCSCTTY], fd));
            controlled = true;
        }
        let number = |pid: Pid| seen_by(checkpoint, own, pid.raw());
        if let Capability::PidFd(pidfd) = &description.capability
            && let Some(pid) = pidfd.pid
        {
            calls.extend(pidfd::calls(*pidfd, number(pid), description.flags, descriptor));
        }
        if let Some(file) = proc::of_process(checkpoint, &description.capability) {
            let earlier = process.pd.descriptors.iter().find(|entry| entry.description == id);
            let earlier = earlier.map(|entry| entry.fd.raw()).filter(|number| *number != fd);
            calls.extend(proc::calls(&file, number, description.flags, descriptor, earlier));
        }
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let first = first_holder(checkpoint, id) == Some(own);
        if !context.copy {
            let locks = description
                .locks
                .iter()
                .filter(|held| is_possible(held, description) && lock::is_taken_by(held, own, first));
            last.extend(locks.map(|held| lock::call(held, fd)));
        }
        if let Capability::Unix(socket) = &description.capability
            && let frost_model::cap::UnixState::Listening { backlog, .. } = &socket.state
            && unix::listens_by(socket, process).unwrap_or(first)
        {
            // Who connects is told who last called this (unix_listen, net/unix/af_unix.c), and finds it by a pidfd.
            let call = InnerCall::new(libc::SYS_listen, &[fd as u64, u64::from(*backlog)], fd);
            calls.push(InnerCall { when: When::Itself, ..call });
        }
        if !first {
            continue;
        }
        if let Some(owner) = description.owner.filter(|owner| is_process(owner, own)) {
            // struct f_owner_ex: kind and id.
            let mut call =
                InnerCall::new(libc::SYS_fcntl, &[fd as u64, frost_sys::fcntl::F_SETOWN_EX as u64, 0], fd);
            let id = if owner.id == 0 { 0 } else { seen_by(checkpoint, own, owner.id) };
            call.data.push((2, [owner.kind.to_ne_bytes(), id.to_ne_bytes()].concat()));
            calls.push(call);
        }
        if let Some(flags) = asynchronous(description) {
            let args = [fd as u64, libc::F_SETFL as u64, u64::from(flags.bits())];
            calls.push(InnerCall::new(libc::SYS_fcntl, &args, fd));
        }
    }
    // Behind the pidfds, which some of them watch.
    for descriptor in &process.pd.descriptors {
        let id = descriptor.description;
        if first_watcher(checkpoint, id) == Some(own)
            && process.pd.descriptors.iter().find(|entry| entry.description == id) == Some(descriptor)
        {
            last.splice(0..0, epoll::calls(checkpoint, process, id, descriptor.fd.raw()));
        }
    }
    calls.extend(last);
    calls
}

/// Whether something that only gives errors has the number of a capability, so that nothing can be done by it.
fn is_placeholder(capability: &Capability, route: Route) -> bool {
    let broken = matches!(capability, Capability::TcpStream(_) | Capability::Outside(_));
    route == Route::Close && !broken
}

/// Returns the flags that F_SETFL gives a description which signals whoever owns it (O_ASYNC), if it does.
fn asynchronous(description: &Description) -> Option<OFlags> {
    // FASYNC of include/uapi/asm-generic/fcntl.h.
    let asynchronous = OFlags::from_bits_retain(libc::O_ASYNC as u32);
    let settable = OFlags::APPEND | OFlags::NONBLOCK | OFlags::DIRECT | OFlags::NOATIME | asynchronous;
    let flags = OFlags::from_bits_retain(description.flags);
    flags.contains(asynchronous).then_some(flags & settable)
}

/// Whether a lock can be had: what is left of a lease for writing that was about to be lowered could not be had otherwise.
fn is_possible(held: &Lock, description: &Description) -> bool {
    held.kind != LockKind::Lease || held.exclusive || !is_written(description)
}

/// Whether the one to be signalled is process `pid`; it exists when that makes its calls. A thread of it, a group, or
/// another process may come later.
fn is_process(owner: &Owner, pid: Pid) -> bool {
    const F_OWNER_PID: i32 = 1;
    owner.kind == F_OWNER_PID && owner.id == pid.raw()
}

/// The first process that has a description.
fn first_holder(checkpoint: &Checkpoint, id: DescriptionId) -> Option<Pid> {
    let has = |process: &&Process| process.pd.descriptors.iter().any(|entry| entry.description == id);
    checkpoint.processes.iter().find(has).map(|process| process.pd.relation.pid)
}

/// The first process that has an epoll instance and at least one of the files that only a process can add to it.
fn first_watcher(checkpoint: &Checkpoint, id: DescriptionId) -> Option<Pid> {
    let can = |process: &&Process| {
        let entry = process.pd.descriptors.iter().find(|entry| entry.description == id);
        entry.is_some_and(|entry| !epoll::calls(checkpoint, process, id, entry.fd.raw()).is_empty())
    };
    checkpoint.processes.iter().find(can).map(|process| process.pd.relation.pid)
}

/// Whether a process maps a file; then the mapping and its descriptors must show the same one.
fn is_mapped(checkpoint: &Checkpoint, file: &FileRef) -> bool {
    let mut regions = checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
    regions.any(|region| {
        matches!(&region.attachment, frost_model::rm::Attachment::File { file: mapped, .. } if mapped.path == file.path)
    })
}

fn is_written(description: &Description) -> bool {
    let flags = OFlags::from_bits_retain(description.flags);
    !flags.contains(OFlags::PATH) && flags & OFlags::RWMODE != OFlags::RDONLY
}

/// The numbers under which processes of the tree have a description.
pub(super) fn numbers(checkpoint: &Checkpoint, id: DescriptionId) -> Vec<i32> {
    let tables = checkpoint.processes.iter().flat_map(|process| &process.pd.descriptors);
    let mut numbers: Vec<i32> =
        tables.filter(|entry| entry.description == id).map(|entry| entry.fd.raw()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Names what a description refers to, and a deleted file by what it was called.
fn object(checkpoint: &Checkpoint, description: &Description) -> String {
    match &description.capability {
        Capability::Regular(frost_model::cap::RegularFile { content: Content::Unnamed(id), .. }) => {
            match checkpoint.objects.unnamed.get(id.index()) {
                Some(unnamed) => format!("deleted file {}", unnamed.path),
                None => description.capability.to_string(),
            }
        }
        other => other.to_string(),
    }
}

fn obstacle(checkpoint: &Checkpoint, id: DescriptionId, problem: file::Problem) -> Obstacle {
    let what = checkpoint.descriptions.get(id.index()).map(|d| object(checkpoint, d)).unwrap_or_default();
    let mut holders = checkpoint.processes.iter().filter_map(|process| {
        let entry = process.pd.descriptors.iter().find(|entry| entry.description == id)?;
        Some((process, entry.fd.raw()))
    });
    let (pid, command, object) = match holders.next() {
        Some((process, fd)) => {
            (process.pd.relation.pid, process.pd.command.to_string(), format!("fd {fd} ({what})"))
        }
        None => match checkpoint.processes.first() {
            Some(root) => (root.pd.relation.pid, root.pd.command.to_string(), what),
            None => (Pid::new(0), String::new(), what),
        },
    };
    Obstacle { pid, command, object, reason: problem.reason, remedy: problem.remedy, passes: false }
}

fn socket_problem(error: &Error, local: Option<std::net::SocketAddr>) -> file::Problem {
    use rustix::io::Errno;
    let errno = match error {
        Error::Object { source, .. } => Some(*source),
        Error::Changed { .. } | Error::Limit { .. } => None,
    };
    let address = local;
    let local = local.map_or_else(|| "its address".to_owned(), |local| local.to_string());
    let (reason, remedy) = match errno {
        Some(Errno::ADDRINUSE) if address.is_some_and(|address| !tcp::has_owner(address.port())) => (
            format!("{local} is still kept by connections that have ended (TIME_WAIT), for a minute at most"),
            "try again in a minute".to_owned(),
        ),
        Some(Errno::ADDRINUSE) => (
            format!("{local} is taken by another program"),
            "end that program (`ss -lnp` tells which)".to_owned(),
        ),
        Some(Errno::ADDRNOTAVAIL) => (
            format!("{local} is no address of this host"),
            "give the address to an interface (`ip address add`)".to_owned(),
        ),
        Some(Errno::ACCESS | Errno::PERM) => (
            format!("you may not bind {local}"),
            "thaw it as root, or lower net.ipv4.ip_unprivileged_port_start".to_owned(),
        ),
        _ => (error_text(error), "see the cause".to_owned()),
    };
    file::Problem { reason, remedy, errno, content: false }
}

/// What is in the way of a socket that not everybody may make.
fn socket_right(error: &Error) -> file::Problem {
    file::Problem {
        reason: error_text(error),
        remedy: "thaw it as the user it belonged to, or as root".to_owned(),
        errno: None,
        content: false,
    }
}

fn error_text(error: &Error) -> String {
    match error {
        Error::Object { source, .. } => format!("{error}: {source}"),
        Error::Changed { .. } | Error::Limit { .. } => error.to_string(),
    }
}
