//! Capture of descriptors: from the descriptor tables of a tree to the capabilities of a checkpoint.
//!
//! It is done from outside, in two steps. [`Catalog::survey`] duplicates every descriptor of every process into our
//! own table (pidfd_getfd), finds out which of them share an open file description (kcmp), recognises the kind of
//! each, and returns all obstacles at once. [`Catalog::capture`] then reads states and contents. One kind, one file,
//! under the same name as in `frost_model::cap`.
//!
//! Nothing the program could notice is changed, whether a capture succeeds, fails, or is killed halfway. A duplicate
//! shares offset, flags and queue with the program's descriptor, so pipes are copied by tee(2), sockets are looked at
//! with MSG_PEEK, files are opened anew to be read, and no call here can block: the tree stands still, so nobody
//! would wake us. The one thing that is moved for an instant, and put back, is SO_PEEK_OFF of a socket whose
//! queue cannot be seen by one look, and what waits in a pseudoterminal or a POSIX message queue, which a process of its
//! own takes and puts back.

mod aside;
pub(crate) mod content;
mod device;
mod directory;
mod epoll;
mod error;
mod eventfd;
pub(crate) mod fanotify;
mod fifo;
mod held;
mod inotify;
mod lock;
mod members;
mod memfd;
pub(crate) mod mqueue;
mod netlink;
mod nodes;
mod options;
mod outside;
mod packet;
mod pidfd;
mod pipe;
mod pty;
mod raw;
mod recognise;
mod regular;
mod signalfd;
pub(crate) mod sysv;
pub(crate) mod tcp;
mod tcp_pair;
mod timerfd;
mod udp;
mod unix;
mod untold;
mod volatile;

pub(crate) use content::Beside;
pub use content::{Sink, StoreError};
pub use error::Error;
pub(crate) use outside::name_peers;
pub(crate) use recognise::FALL_BACK;

use frost_model::cap::{
    Capability, Description, Message, Objects, OutsideKind, Owner, PeerCredentials, Pipe, SocketOption,
};
use frost_model::id::{DataspaceId, DescriptionId, ObjectId, TargetFd};
use frost_model::pd::Descriptor;
use frost_model::ram::Dataspace;
use frost_model::{BytePath, Obstacle, Pid};
use frost_sys::fdinfo::{FdInfo, FdInfos};
use frost_sys::kcmp::{Resource, kcmp};
use frost_sys::pidfd::pidfd_getfd;
use held::{Held, Place};
use members::Members;
use recognise::{Found, OfProcess, Refusal};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use unix::Relation;

/// A process to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its pid as we see it.
    pub pid: Pid,
    /// The number of a thread of it that lives, the leader's if that does.
    pub through: i32,
    /// Its pid in its own pid namespace.
    pub inner: Pid,
    /// Its command name, for messages.
    pub command: &'a str,
    /// Our hold on it.
    pub pidfd: BorrowedFd<'a>,
}

/// Whether the tree stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Every thread is stopped: queues may be walked.
    Stopped,
    /// It runs, as for `frost check`: only what no program can notice is done, and descriptors in flight are not seen.
    Running,
}

/// All descriptions of a tree, each held by a duplicate of ours.
#[derive(Debug)]
pub struct Catalog {
    members: Members,
    tables: BTreeMap<Pid, Vec<Descriptor>>,
    /// Indexed by [`DescriptionId`].
    held: Vec<Held>,
    /// What each of them is; parallel to `held`.
    found: Vec<Option<Found>>,
    /// What the process that was looked at last had under each number.
    numbered: HashMap<i32, DescriptionId>,
    /// Descriptions of the same file, in the order kcmp gives.
    by_file: HashMap<(u64, u64), Vec<usize>>,
    pipes: BTreeMap<(u64, u64), pipe::Ends>,
    ptys: Vec<pty::Pair>,
    unix: unix::Table,
    relations: BTreeMap<usize, Relation>,
    queues: BTreeMap<usize, Vec<Message>>,
    /// Whom unix sockets take for their peers.
    peers: BTreeMap<usize, PeerCredentials>,
    /// What epoll instances watch.
    watches: BTreeMap<usize, Vec<epoll::Seen>>,
    inotify: BTreeMap<usize, frost_model::cap::Inotify>,
    fanotify: BTreeMap<usize, frost_model::cap::Fanotify>,
    tcp: HashMap<usize, frost_model::cap::TcpInside>,
    /// Files without a name and memfds, in the order of their identifiers.
    unnamed: Vec<(u64, u64)>,
    memfds: Vec<(u64, u64)>,
    mqueues: Vec<(u64, u64)>,
    /// Files in memory that are mapped so that they can be written, by their path.
    volatile: BTreeMap<Vec<u8>, Held>,
    memfd_device: Option<u64>,
    /// Options of sockets that are being read.
    ahead: Option<Arc<options::Ahead>>,
}

/// The capabilities of a checkpoint.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Open file descriptions, indexed by [`DescriptionId`].
    pub descriptions: Vec<Description>,
    /// What several of them share.
    pub objects: Objects,
    /// Memory behind descriptors. More may be added behind these.
    pub dataspaces: Vec<Dataspace>,
}

/// What is mapped, if it is something that descriptors can denote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// A memfd.
    Dataspace(DataspaceId),
    /// A file without a name, through this description.
    Description(DescriptionId),
}

impl Catalog {
    /// Looks at every descriptor of every process, and collects all that is in the way.
    ///
    /// A catalog with obstacles can be asked, but not captured.
    ///
    /// # Errors
    /// [`Error::Gone`] if a process ended meanwhile, [`Error::Process`] if we may not look at it. Nothing was changed.
    pub fn survey(processes: &[Observed<'_>], motion: Motion) -> Result<(Self, Vec<Obstacle>), Error> {
        raise_limit();
        let mut catalog = Self {
            members: Members(processes.iter().map(|process| (process.pid, process.inner)).collect()),
            tables: BTreeMap::new(),
            held: Vec::new(),
            found: Vec::new(),
            numbered: HashMap::new(),
            by_file: HashMap::new(),
            pipes: BTreeMap::new(),
            ptys: Vec::new(),
            unix: unix::Table::default(),
            relations: BTreeMap::new(),
            queues: BTreeMap::new(),
            peers: BTreeMap::new(),
            watches: BTreeMap::new(),
            inotify: BTreeMap::new(),
            fanotify: BTreeMap::new(),
            tcp: HashMap::new(),
            unnamed: Vec::new(),
            memfds: Vec::new(),
            mqueues: Vec::new(),
            volatile: BTreeMap::new(),
            memfd_device: memfd::device(),
            ahead: None,
        };
        let mut obstacles = Vec::new();
        for process in processes {
            catalog.read_table(process, &mut obstacles)?;
        }
        let mut refusals = Vec::new();
        catalog.recognise_from(0, &mut refusals)?;
        catalog.look_at_unix(motion, &mut refusals)?;
        if motion == Motion::Stopped {
            catalog.look_at_peers()?;
        }
        catalog.look_at_pipes();
        catalog.look_at_terminals();
        catalog.look_at_watches(motion, &mut refusals)?;
        catalog.look_at_inotify(&mut refusals)?;
        catalog.look_at_tcp(motion, &mut refusals);
        refusals.extend(untold::find(catalog.sockets()));
        catalog.look_at_queues(&mut refusals);
        catalog.look_at_holders(&mut refusals)?;
        for (index, refusal) in refusals {
            let place = &catalog.held[index].place;
            obstacles.push(obstacle(place, refusal));
        }
        Ok((catalog, obstacles))
    }

    /// Has what takes long and changes no more read by another thread, behind a survey of a tree that stands still. `have_done`
    /// gives it work, and tells whether there is one.
    pub fn read_ahead(&mut self, have_done: impl FnOnce(Box<dyn FnOnce() + Send>) -> bool) {
        let sockets = self.sockets().map(|(index, held)| (index, Arc::clone(&held.fd))).collect();
        self.ahead = options::Ahead::of(sockets, have_done);
    }

    /// Lists the sockets, with their indices.
    fn sockets(&self) -> impl Iterator<Item = (usize, &Held)> {
        let is_socket = |found: &Option<Found>| {
            matches!(
                found,
                Some(Found::Unix | Found::Tcp | Found::Udp | Found::Netlink | Found::Raw | Found::Packet)
            )
        };
        self.held.iter().enumerate().filter(move |(index, _)| is_socket(&self.found[*index]))
    }

    /// Returns the descriptor table of a process, by its inner pid.
    pub fn descriptors(&self, inner: Pid) -> Vec<Descriptor> {
        self.tables.get(&inner).cloned().unwrap_or_default()
    }

    /// Returns for each pseudoterminal, in their order among the objects, which file system has its slave.
    pub fn terminals(&self) -> Vec<Option<u64>> {
        self.ptys.iter().map(pty::Pair::instance).collect()
    }

    /// Returns the dataspace of a mapped memfd, if a descriptor denotes it.
    pub fn dataspace_of(&self, device: u64, inode: u64) -> Option<DataspaceId> {
        let index = self.memfds.iter().position(|key| *key == (device, inode))?;
        Some(DataspaceId::new(index as u32))
    }

    /// Returns a description of a mapped file without a name, if a descriptor denotes it; one that can be written if
    /// there is such a one, so that a shared mapping can be made from it.
    pub fn description_of(&self, device: u64, inode: u64) -> Option<DescriptionId> {
        let group = self.by_file.get(&(device, inode))?;
        let usable = |index: &&usize| {
            matches!(self.found[**index], Some(Found::Unnamed)) && self.held[**index].is_readable()
        };
        let candidates = || group.iter().filter(usable);
        let best =
            candidates().find(|index| self.held[**index].is_writable()).or_else(|| candidates().next())?;
        Some(DescriptionId::new(*best as u32))
    }

    /// Returns whether a mapped file without a name can be mapped from a description, for writing too if it must be.
    pub fn has_description(&self, device: u64, inode: u64, written: bool) -> bool {
        let best = self.description_of(device, inode);
        best.is_some_and(|id| !written || self.held[id.index()].is_writable())
    }

    /// The kernel's links to a file behind our own descriptors of it.
    pub fn links_to(&self, device: u64, inode: u64) -> Vec<PathBuf> {
        let group = self.by_file.get(&(device, inode)).map(Vec::as_slice).unwrap_or_default();
        let link = |index: &usize| self.held[*index].fd.as_raw_fd();
        group.iter().map(|index| PathBuf::from(format!("/proc/self/fd/{}", link(index)))).collect()
    }

    /// Adds a mapped file that no descriptor of the program denotes any more, or none by which it could be mapped.
    ///
    /// `None` if it is neither a memfd nor a file without a name.
    ///
    /// # Errors
    /// [`Error::Process`] if its facts cannot be read.
    pub fn adopt(&mut self, file: OwnedFd, pid: Pid, command: &str) -> Result<Option<Mapped>, Error> {
        let place = Place { pid, command: command.to_owned(), number: None };
        let id = self.identify(file, place)?;
        let mut refusals = Vec::new();
        self.recognise_from(self.found.len(), &mut refusals)?;
        let (device, inode) = self.held[id.index()].key();
        Ok(match self.found[id.index()] {
            Some(Found::Memfd) => self.dataspace_of(device, inode).map(Mapped::Dataspace),
            Some(Found::Unnamed) => Some(Mapped::Description(id)),
            _ => None,
        })
    }

    /// Takes note of a file that a process has mapped so that it can be written, should it lie in memory.
    pub fn note_mapped(&mut self, path: &[u8], pid: Pid, command: &str) {
        if !self.volatile.contains_key(path)
            && let Some(held) = volatile::of_mapping(path, pid, command)
        {
            self.volatile.insert(path.to_owned(), held);
        }
    }

    /// Reads states and contents. With `files` also the content of named files that are open for writing. What is left of timers is
    /// what was left when the tree had been `stopped`.
    ///
    /// Files that are open for writing must have been synced, so that the identity recorded here stays.
    ///
    /// # Errors
    /// The first thing that could not be read or stored. The program is as it was.
    pub fn capture(self, sink: &mut dyn Sink, files: bool, stopped: Instant) -> Result<Captured, Error> {
        let mut objects = Objects::default();
        // First, while we have no thread that hashes: a helper is forked.
        for pair in &self.ptys {
            objects.ptys.push(pair.capture(&self.held, &self.members)?);
        }
        for key in &self.mqueues {
            objects.mqueues.push(mqueue::capture(&self.held[self.first_of(*key, |_| true)])?);
        }
        let mut pipe_ids: BTreeMap<(u64, u64), ObjectId> = BTreeMap::new();
        for (key, ends) in self.pipes.iter().filter(|(_, ends)| !ends.outside) {
            pipe_ids.insert(*key, ObjectId::new(objects.pipes.len() as u32));
            objects.pipes.push(self.capture_pipe(ends)?);
        }
        for key in &self.unnamed {
            let index = self.first_of(*key, Held::is_readable);
            let held = &self.held[index];
            let path = held::without_deleted(held.link.as_deref().unwrap_or_default());
            objects.unnamed.push(regular::capture_unnamed(held, path, sink)?);
        }
        objects.volatile = self.capture_volatile(sink)?;
        let mut dataspaces = Vec::new();
        for key in &self.memfds {
            let held = &self.held[self.first_of(*key, Held::is_readable)];
            let name = memfd::name(held, self.memfd_device)
                .ok_or_else(|| Error::Refused { object: held.describe() })?;
            dataspaces.push(memfd::capture_memory(held, name, sink)?);
        }
        let sockets: Vec<_> = self.sockets().collect();
        let mut options = options::differing(&sockets, self.ahead.as_deref())?;
        let mut descriptions = Vec::with_capacity(self.held.len());
        for (index, held) in self.held.iter().enumerate() {
            let found =
                self.found[index].as_ref().ok_or_else(|| Error::Refused { object: held.describe() })?;
            let options = options.remove(&index).unwrap_or_default();
            let capability = match found {
                Found::Named(path) => regular::capture_named(held, path.clone(), files, sink)?,
                Found::OfProcess(found) => self.capture_of_process(held, found)?,
                Found::Unnamed => regular::capture_of_unnamed(held, self.unnamed_id(held)?)?,
                Found::Directory(path) => directory::capture(held, path.clone())?,
                Found::Device(path) => device::capture(held, path.clone())?,
                Found::Pipe => match (self.pipes.get(&held.key()), pipe_ids.get(&held.key())) {
                    (_, Some(pipe)) => Capability::Pipe(frost_model::cap::PipeEnd { pipe: *pipe }),
                    (Some(ends), None) => outside::capture_pipe(ends, held)?,
                    (None, None) => return Err(Error::Refused { object: held.describe() }),
                },
                Found::Fifo(path) => {
                    let pipe = pipe_ids
                        .get(&held.key())
                        .ok_or_else(|| Error::Refused { object: held.describe() })?;
                    let file = regular::reference(held, path.clone())?;
                    let deleted = held.stat.st_nlink == 0;
                    Capability::Fifo(frost_model::cap::Fifo { file, deleted, pipe: *pipe })
                }
                Found::EventFd => eventfd::capture(held)?,
                Found::Epoll => self.capture_epoll(index, held)?,
                Found::SignalFd => signalfd::capture(held)?,
                Found::Inotify => {
                    let seen = self.inotify.get(&index).cloned();
                    Capability::Inotify(seen.ok_or_else(|| Error::Refused { object: held.describe() })?)
                }
                Found::Fanotify => {
                    let seen = self.fanotify.get(&index).cloned();
                    Capability::Fanotify(seen.ok_or_else(|| Error::Refused { object: held.describe() })?)
                }
                Found::TimerFd => timerfd::capture(held, stopped)?,
                Found::PidFd => pidfd::capture(held, &self.members)?,
                Found::Memfd => {
                    let (device, inode) = held.key();
                    let dataspace = self
                        .dataspace_of(device, inode)
                        .ok_or_else(|| Error::Refused { object: held.describe() })?;
                    memfd::capture(held, dataspace)?
                }
                Found::Unix => self.capture_unix(index, held, options)?,
                Found::Tcp => tcp::capture(held, self.tcp.get(&index).cloned(), options)?,
                Found::Udp => udp::capture(held, options)?,
                Found::Pty => {
                    let of = |pair: &&pty::Pair| pair.master == index || pair.slaves.contains(&index);
                    let pair = self.ptys.iter().enumerate().find(|(_, pair)| of(pair));
                    let (id, pair) = pair.ok_or_else(|| Error::Refused { object: held.describe() })?;
                    pair.end(ObjectId::new(id as u32), index, held)
                }
                Found::Mqueue => {
                    let queue = self.mqueues.iter().position(|key| *key == held.key());
                    let queue = queue.ok_or_else(|| Error::Refused { object: held.describe() })?;
                    Capability::Mqueue(frost_model::cap::MqueueEnd { queue: ObjectId::new(queue as u32) })
                }
                Found::Netlink => netlink::capture(held, options)?,
                Found::Raw => raw::capture(held, options)?,
                Found::Packet => packet::capture(held, options)?,
                Found::Terminal(path) => outside::capture_terminal(held, path.clone(), &self.members)?,
            };
            descriptions.push(Description {
                flags: held.flags.bits() & !OFlags::CLOEXEC.bits(),
                owner: self.owner(held),
                locks: held.locks.clone(),
                node: held.is_socket().then(|| held.node()),
                capability,
            });
        }
        Ok(Captured { descriptions, objects, dataspaces })
    }

    /// Duplicates all descriptors of a process.
    fn read_table(&mut self, process: &Observed<'_>, obstacles: &mut Vec<Obstacle>) -> Result<(), Error> {
        let pid = process.pid;
        let fail = |what: &str, source| match source {
            Errno::NOENT | Errno::SRCH => Error::Gone { pid },
            source => Error::Process { pid, what: what.to_owned(), source },
        };
        let numbers =
            frost_sys::proc::numbers(process.through, "fd").map_err(|e| fail("the descriptors", e))?;
        let mut infos = FdInfos::of(process.through).map_err(|e| fail("the descriptors", e))?;
        let mut table = Vec::with_capacity(numbers.len());
        for number in numbers {
            let info = match infos.read(number) {
                Ok(info) => info,
                // Closed since it was listed; only a running process does that.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(fail(&format!("fd {number}"), error)),
            };
            let place = Place { pid, command: process.command.to_owned(), number: Some(number) };
            let id = match self.inherited(process.through, number) {
                Some(id) => id,
                None => match pidfd_getfd(process.pidfd, number) {
                    Ok(fd) => self.identify(fd, place.clone())?,
                    Err(Errno::BADF) => continue,
                    Err(error) => return Err(fail(&format!("fd {number}"), error)),
                },
            };
            self.numbered.insert(number, id);
            let refused = self.add_locks(id, &info, process.inner);
            obstacles.extend(refused.into_iter().map(|refusal| obstacle(&place, refusal)));
            table.push(Descriptor {
                fd: TargetFd::new(number),
                close_on_exec: info.flags() & OFlags::CLOEXEC.bits() != 0,
                description: id,
            });
        }
        self.tables.insert(process.inner, table);
        Ok(())
    }

    /// Adds the locks that are told of a description to those that are known.
    fn add_locks(&mut self, id: DescriptionId, info: &FdInfo, holder: Pid) -> Vec<Refusal> {
        let known = &mut self.held[id.index()].locks;
        let mut refused = Vec::new();
        for lock in lock::parse(info, holder) {
            match lock {
                Ok(lock) if known.contains(&lock) => {}
                Ok(lock) => known.push(lock),
                Err(refusal) => refused.push(refusal),
            }
        }
        refused
    }

    /// Whether a process has the same under a number as the one before it had, which it has of its parent as a rule.
    fn inherited(&self, pid: i32, number: i32) -> Option<DescriptionId> {
        let id = *self.numbered.get(&number)?;
        let own = std::process::id() as i32;
        let file = Resource::File(self.held[id.index()].fd.as_raw_fd(), number);
        (kcmp(own, pid, file) == Ok(Ordering::Equal)).then_some(id)
    }

    /// Finds the description behind `fd` among those we hold, or adds it.
    fn identify(&mut self, fd: OwnedFd, place: Place) -> Result<DescriptionId, Error> {
        let own = std::process::id() as i32;
        let pid = place.pid;
        let fail = |source| Error::Process { pid, what: "an open file".to_owned(), source };
        let held = Held::new(fd, place).map_err(fail)?;
        let group = self.by_file.entry(held.key()).or_default();
        // All anonymous inodes of many kernels are one, so the group may be large; kcmp gives it an order.
        let mut failure = None;
        let position = group.binary_search_by(|index| {
            let file = Resource::File(self.held[*index].fd.as_raw_fd(), held.fd.as_raw_fd());
            kcmp(own, own, file).unwrap_or_else(|source| {
                failure = Some(source);
                Ordering::Equal
            })
        });
        if let Some(source) = failure {
            return Err(Error::NoKcmp { source });
        }
        let index = match position {
            Ok(position) => group[position],
            Err(position) => {
                let index = self.held.len();
                group.insert(position, index);
                self.held.push(held);
                index
            }
        };
        Ok(DescriptionId::new(index as u32))
    }

    /// Recognises the descriptions from `first` on that were not looked at yet.
    fn recognise_from(&mut self, first: usize, refusals: &mut Vec<(usize, Refusal)>) -> Result<(), Error> {
        for index in first..self.held.len() {
            let held = &self.held[index];
            let key = held.key();
            let mut found = recognise::recognise(held, self.memfd_device, &self.members)?;
            if matches!(found, Ok(Found::PidFd)) {
                found = pidfd::target(held, &self.members)?.map(|_| Found::PidFd);
            }
            match &found {
                Ok(Found::Pipe | Found::Fifo(_)) => self.pipes.entry(key).or_default().add(index, held),
                Ok(Found::Unnamed) if !self.unnamed.contains(&key) => self.unnamed.push(key),
                Ok(Found::Mqueue) if !self.mqueues.contains(&key) => self.mqueues.push(key),
                Ok(Found::Memfd) if !self.memfds.contains(&key) => self.memfds.push(key),
                _ => {}
            }
            match found {
                Ok(found) => self.found.push(Some(found)),
                Err(refusal) => {
                    self.found.push(None);
                    refusals.push((index, refusal));
                }
            }
        }
        Ok(())
    }

    /// Finds the description of a descriptor in flight, and its locks: no process has one by which they were told.
    fn in_flight(
        &mut self,
        fd: OwnedFd,
        place: &Place,
        refusals: &mut Vec<(usize, Refusal)>,
    ) -> Result<DescriptionId, Error> {
        let info = FdInfo::of_ours(&fd);
        let fail =
            |source| Error::Process { pid: place.pid, what: "a descriptor in flight".to_owned(), source };
        let id = self.identify(fd, place.clone())?;
        let refused = self.add_locks(id, &info.map_err(fail)?, place.pid);
        refusals.extend(refused.into_iter().map(|refusal| (id.index(), refusal)));
        Ok(id)
    }

    /// Reads the queues of unix sockets and finds their peers. Descriptors in flight join the catalog.
    fn look_at_unix(&mut self, motion: Motion, refusals: &mut Vec<(usize, Refusal)>) -> Result<(), Error> {
        let is_unix = |found: &Option<Found>| matches!(found, Some(Found::Unix));
        if !self.found.iter().any(is_unix) {
            return Ok(());
        }
        self.unix = unix::Table::read()?;
        // Sockets in flight may have descriptors in their own queues, so the list grows while it is walked.
        let mut index = 0;
        while index < self.held.len() {
            let held = &self.held[index];
            if motion == Motion::Stopped && is_unix(&self.found[index]) && self.unix.has_queue(held) {
                let place = Place { number: None, ..held.place.clone() };
                let mut messages = Vec::new();
                for seen in unix::peek_all(held)? {
                    messages.push(unix::record(seen, |fd| self.in_flight(fd, &place, refusals))?);
                }
                self.queues.insert(index, messages);
                self.recognise_from(self.found.len(), refusals)?;
            }
            index += 1;
        }
        let sockets = || self.held.iter().enumerate().filter(|(index, _)| is_unix(&self.found[*index]));
        let inside: HashMap<u32, usize> =
            sockets().map(|(index, held)| (held.stat.st_ino as u32, index)).collect();
        let relations: Vec<_> =
            sockets().map(|(index, held)| (index, self.unix.relation(held, &inside))).collect();
        for (index, relation) in relations {
            match relation {
                Ok(relation) => {
                    self.relations.insert(index, relation);
                }
                Err(refusal) => refusals.push((index, refusal)),
            }
        }
        Ok(())
    }

    /// Finds out whom the unix sockets take for their peers, by the numbers that processes have in the tree's namespace.
    fn look_at_peers(&mut self) -> Result<(), Error> {
        let indices: Vec<usize> = self.relations.keys().copied().collect();
        for index in &indices {
            if let Some(credentials) = unix::credentials(&self.held[*index])? {
                self.peers.insert(*index, credentials);
            }
        }
        let Some(other) = self.members.elsewhere() else { return Ok(()) };
        let asked = |index: &usize| {
            let sent = self
                .queues
                .get(index)
                .is_some_and(|queue| queue.iter().any(|message| message.credentials.is_some()));
            (self.peers.contains_key(index) || sent).then_some((*index, sent))
        };
        let asked: Vec<(usize, bool)> = indices.iter().filter_map(asked).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let sockets: Vec<(&Held, bool)> =
            asked.iter().map(|(index, sent)| (&self.held[*index], *sent)).collect();
        let numbers = unix::numbers_inside(&self.members, &sockets).map_err(|source| Error::Process {
            pid: other,
            what: "its pid namespace".to_owned(),
            source,
        })?;
        for ((index, _), (peer, senders)) in asked.into_iter().zip(numbers) {
            if let Some(credentials) = self.peers.get_mut(&index) {
                credentials.pid = peer;
            }
            let queue = self.queues.get_mut(&index).map(Vec::as_mut_slice).unwrap_or_default();
            for (message, sender) in queue.iter_mut().zip(senders) {
                if let Some(credentials) = &mut message.credentials {
                    credentials.pid = sender;
                }
            }
        }
        Ok(())
    }

    /// Finds TCP connections within the tree.
    fn look_at_tcp(&mut self, motion: Motion, refusals: &mut Vec<(usize, Refusal)>) {
        let all = self.held.iter().enumerate();
        let sockets: Vec<(usize, &Held)> =
            all.filter(|(index, _)| matches!(self.found[*index], Some(Found::Tcp))).collect();
        let (found, refused) = tcp_pair::find(&sockets, motion == Motion::Stopped);
        refusals.extend(refused);
        self.tcp = found;
    }

    /// Finds queues that cannot be carried.
    fn look_at_queues(&self, refusals: &mut Vec<(usize, Refusal)>) {
        let first = |key: &(u64, u64)| self.first_of(*key, |_| true);
        let queues: Vec<usize> = self.mqueues.iter().map(first).collect();
        // Who else has one matters only where something must be taken out.
        let full: Vec<&Held> =
            queues.iter().map(|index| &self.held[*index]).filter(|held| mqueue::has_messages(held)).collect();
        let users = match full.is_empty() {
            true => BTreeMap::new(),
            false => outside::find_users(&full, &self.members),
        };
        for index in queues {
            let held = &self.held[index];
            let other = users.get(&held.key());
            let other = other.map(|(pid, command)| format!("process {pid} ({command})"));
            refusals.extend(mqueue::refusal(held, other.as_deref()).map(|refusal| (index, refusal)));
        }
    }

    /// Finds what inotify instances and fanotify groups watch.
    fn look_at_inotify(&mut self, refusals: &mut Vec<(usize, Refusal)>) -> Result<(), Error> {
        let watches = |found: &Option<Found>| matches!(found, Some(Found::Inotify | Found::Fanotify));
        if !self.found.iter().any(watches) {
            return Ok(());
        }
        let mut finder = inotify::Finder::new(&self.members, &self.held);
        for (index, held) in self.held.iter().enumerate() {
            match self.found[index] {
                Some(Found::Inotify) => match finder.look(held, &self.held)? {
                    Ok(inotify) => {
                        self.inotify.insert(index, inotify);
                    }
                    Err(refusal) => refusals.push((index, refusal)),
                },
                Some(Found::Fanotify) => {
                    let holders = self.holders(index).into_iter();
                    let holders: Vec<Pid> =
                        holders.filter_map(|inner| self.members.outer_of(inner)).collect();
                    match fanotify::look(held, &self.held, &holders, &mut finder)? {
                        Ok(fanotify) => {
                            self.fanotify.insert(index, fanotify);
                        }
                        Err(refusal) => refusals.push((index, refusal)),
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn look_at_pipes(&mut self) {
        for ends in self.pipes.values_mut() {
            let first = ends.descriptions.first().copied();
            if let Some(index) = first.filter(|index| matches!(self.found[*index], Some(Found::Pipe))) {
                ends.look_outside(&self.held[index]);
            }
        }
    }

    /// Finds the slaves of all masters in the tree; the other ends of all other terminals are outside.
    fn look_at_terminals(&mut self) {
        for (index, held) in self.held.iter().enumerate() {
            if matches!(self.found[index], Some(Found::Pty)) {
                self.ptys.extend(pty::Pair::of(index, held));
            }
        }
        for pair in &mut self.ptys {
            for (index, held) in self.held.iter().enumerate() {
                if matches!(self.found[index], Some(Found::Terminal(_)))
                    && pair.has(held, &self.held[pair.master])
                {
                    pair.slaves.push(index);
                    self.found[index] = Some(Found::Pty);
                }
            }
        }
    }

    /// Refuses epoll instances that watch what the tree does not hold.
    fn look_at_watches(&mut self, motion: Motion, refusals: &mut Vec<(usize, Refusal)>) -> Result<(), Error> {
        let is_epoll = |index: &usize| matches!(self.found[*index], Some(Found::Epoll));
        let instances: Vec<usize> = (0..self.held.len()).filter(is_epoll).collect();
        if instances.is_empty() {
            return Ok(());
        }
        let finder = epoll::Finder::new(&self.held, &instances, &self.tables, &self.by_file);
        let watches = instances.iter().map(|index| Ok((*index, finder.watches(*index)?)));
        self.watches = watches.collect::<Result<_, Error>>()?;
        for (&index, watches) in &self.watches {
            for seen in watches {
                if seen.description.is_some_and(|watched| !self.can_add(index, watched, seen.number)) {
                    refusals.push((
                        index,
                        Refusal::new(
                            "epoll instance",
                            format!(
                                "it watches a signalfd or a file of a process that was added as fd {}, which no \
                                 process has under that number any more",
                                seen.number
                            ),
                            "let the program remove the watch",
                        ),
                    ));
                }
                if seen.description.is_none() && motion == Motion::Stopped {
                    refusals.push((
                        index,
                        Refusal::new(
                            "epoll instance",
                            format!(
                                "it watches a file that was added as fd {} and that no process of the tree holds",
                                seen.number
                            ),
                            "freeze an ancestor of all that hold the file, or let the program remove the watch",
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a watch can be made again: one that only a process can add needs one that has both descriptors.
    fn can_add(&self, epoll: usize, watched: usize, number: i32) -> bool {
        if !matches!(self.found[watched], Some(Found::SignalFd | Found::PidFd | Found::OfProcess(..))) {
            return true;
        }
        let (epoll, watched) = (DescriptionId::new(epoll as u32), DescriptionId::new(watched as u32));
        self.tables.values().any(|table| {
            table.iter().any(|entry| entry.description == epoll)
                && table.iter().any(|entry| entry.description == watched && entry.fd.raw() == number)
        })
    }

    /// Refuses what denotes a process or thread that somebody who has it does not see below a `frost run` within.
    fn look_at_holders(&self, refusals: &mut Vec<(usize, Refusal)>) -> Result<(), Error> {
        for (index, held) in self.held.iter().enumerate() {
            let target = match &self.found[index] {
                Some(Found::OfProcess(found)) => Some(found.thread.unwrap_or(found.pid)),
                Some(Found::PidFd) => pidfd::number(held)?.filter(|number| *number > 0),
                _ => None,
            };
            let Some(target) = target else { continue };
            let status = frost_sys::proc::status(target);
            if status.is_ok_and(|status| status.depth() > 0 && status.tgid != target) {
                refusals.push((
                    index,
                    Refusal::new(
                        format!("descriptor of thread {target} of a `frost run` in it"),
                        "that thread gets another number outside of there",
                        "let the program close it first",
                    ),
                ));
            } else if !self.holders(index).iter().all(|holder| self.members.sees(*holder, target)) {
                refusals.push((
                    index,
                    Refusal::new(
                        format!("descriptor of process {target} in a `frost run` in it"),
                        "that process is not seen from in there, so it cannot be opened again",
                        "let the program close it first",
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The processes that have a description, by their inner pids; none for one in flight only.
    fn holders(&self, index: usize) -> Vec<Pid> {
        let id = DescriptionId::new(index as u32);
        let has = |table: &Vec<Descriptor>| table.iter().any(|entry| entry.description == id);
        self.tables.iter().filter(|(_, table)| has(table)).map(|(pid, _)| *pid).collect()
    }

    /// Captures named files in memory, each once.
    fn capture_volatile(&self, sink: &mut dyn Sink) -> Result<Vec<frost_model::cap::Volatile>, Error> {
        let mut files: BTreeMap<&[u8], &Held> =
            self.volatile.iter().map(|(path, held)| (path.as_slice(), held)).collect();
        for (held, found) in self.held.iter().zip(&self.found) {
            if let Some(Found::Named(path)) = found
                && volatile::is_written(held)
            {
                files.insert(path.as_bytes(), held);
            }
        }
        files.into_iter().map(|(path, held)| volatile::capture(held, BytePath::new(path), sink)).collect()
    }

    fn capture_pipe(&self, ends: &pipe::Ends) -> Result<Pipe, Error> {
        let descriptions = || ends.descriptions.iter().map(|index| &self.held[*index]);
        let reader = descriptions().find(|held| held.is_readable());
        let first = &self.held[ends.descriptions[0]];
        match self.found[ends.descriptions[0]] {
            Some(Found::Fifo(_)) => fifo::capture(ends, first, reader),
            _ => pipe::capture(ends, first, reader.map(|held| held.fd.as_fd())),
        }
    }

    /// Captures a file below /proc/PID, under the numbers inside.
    fn capture_of_process(&self, held: &Held, found: &OfProcess) -> Result<Capability, Error> {
        let inside = |number: i32| {
            self.members.number(number).ok_or_else(|| Error::Refused { object: held.describe() })
        };
        let mut path = format!("/proc/{}", inside(found.pid)?).into_bytes();
        if let Some(thread) = found.thread {
            path.extend_from_slice(format!("/task/{}", inside(thread)?).as_bytes());
        }
        if !found.path.as_bytes().is_empty() {
            path.push(b'/');
            path.extend_from_slice(found.path.as_bytes());
        }
        let path = BytePath::new(path);
        match rustix::fs::FileType::from_raw_mode(held.stat.st_mode) {
            rustix::fs::FileType::Directory => directory::capture(held, path),
            _ => regular::capture_named(held, path, false, &mut Vec::new()),
        }
    }

    fn capture_epoll(&self, index: usize, held: &Held) -> Result<Capability, Error> {
        let watches = self.watches.get(&index).map(Vec::as_slice).unwrap_or_default();
        let watches = watches
            .iter()
            .map(|seen| seen.record().ok_or_else(|| Error::Refused { object: held.describe() }))
            .collect::<Result<_, _>>()?;
        Ok(Capability::Epoll(frost_model::cap::Epoll { watches, busy_poll: epoll::busy_poll(held) }))
    }

    fn capture_unix(
        &self,
        index: usize,
        held: &Held,
        options: Vec<SocketOption>,
    ) -> Result<Capability, Error> {
        let queue = self.queues.get(&index).cloned().unwrap_or_default();
        let credentials = self.peers.get(&index).cloned();
        match self.relations.get(&index) {
            Some(Relation::Inside(state)) => {
                self.unix.capture(held, state.clone(), queue, credentials, (&self.members, options))
            }
            Some(Relation::Outside(peer)) => {
                Ok(self.unix.capture_outside(held, *peer, queue, credentials, &self.members))
            }
            None => Err(Error::Refused { object: held.describe() }),
        }
    }

    /// The first description of a file that has a property, else the first.
    fn first_of(&self, key: (u64, u64), property: impl Fn(&Held) -> bool) -> usize {
        let group = self.by_file.get(&key).map(Vec::as_slice).unwrap_or_default();
        let found = group.iter().find(|index| property(&self.held[**index])).or(group.first());
        found.copied().unwrap_or(0)
    }

    fn unnamed_id(&self, held: &Held) -> Result<ObjectId, Error> {
        let index = self.unnamed.iter().position(|key| *key == held.key());
        let index = index.ok_or_else(|| Error::Refused { object: held.describe() })?;
        Ok(ObjectId::new(index as u32))
    }

    /// Whom a description signals, by the pid inside; nobody, if that is no process of the tree.
    fn owner(&self, held: &Held) -> Option<Owner> {
        /// F_OWNER_TID and F_OWNER_PGRP of include/uapi/asm-generic/fcntl.h.
        const THREAD: i32 = 0;
        const GROUP: i32 = 2;
        let owner = held.owner()?;
        let inner = match owner.kind {
            _ if owner.id == 0 => Some(0),
            THREAD => {
                let status = frost_sys::proc::status(owner.id).ok()?;
                self.members.inner(Pid::new(status.tgid))?;
                status.number()
            }
            // It may have no leader any more.
            GROUP => self.members.outer().find_map(|pid| {
                let stat = frost_sys::proc::stat(pid.raw()).ok().filter(|stat| stat.pgrp == owner.id)?;
                frost_sys::proc::status(stat.pid).ok()?.group()
            }),
            _ => self.members.inner(Pid::new(owner.id)).map(Pid::raw),
        };
        // Nobody, if it is nobody of the tree.
        let id = inner.or((owner.signal != 0).then_some(0))?;
        Some(Owner { id, ..owner })
    }
}

impl Captured {
    /// Returns one line for each description that thaw will not find as it was, for people: what lies outside.
    pub fn outside(&self) -> impl Iterator<Item = &Capability> {
        self.descriptions.iter().map(|description| &description.capability).filter(|capability| {
            matches!(capability, Capability::Outside(outside)
                if !matches!(outside.kind, OutsideKind::Terminal { .. }))
                || matches!(capability, Capability::TcpStream(stream)
                    if stream.inside.is_none() && !stream.is_connecting())
        })
    }
}

fn obstacle(place: &Place, refusal: Refusal) -> Obstacle {
    let object = match place.number {
        Some(number) => format!("fd {number} ({})", refusal.what),
        None => format!("descriptor in flight ({})", refusal.what),
    };
    Obstacle {
        pid: place.pid,
        command: place.command.clone(),
        object,
        reason: refusal.reason,
        remedy: refusal.remedy,
        passes: refusal.passes,
    }
}

/// Lets our own table grow as far as we may: we hold one duplicate for each description of the tree.
fn raise_limit() {
    let limit = getrlimit(Limit::Nofile);
    if limit.current != limit.maximum {
        // Should it fail, a table that is too small is reported as such (EMFILE).
        let _ = setrlimit(Limit::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
