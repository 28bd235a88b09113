//! Whether a decoded checkpoint is well-formed.
//!
//! Decoding only tells that the bytes have the shape of a checkpoint. Thaw indexes tables, maps addresses and
//! reads ranges of the pack by what it says, so each of these claims is checked here, once.

use crate::PAGE_SIZE;
use crate::cap::{
    Capability, Content, FanotifyTarget, INOTIFY_MOST, Ipc, MOST_VALUE, MqueueMessage, Objects, OutsideKind,
    Segment, TcpPeer, UnixState, WatchTarget,
};
use crate::id::{DataspaceId, DescriptionId, ObjectId, Pid};
use crate::layer::{Node, Written};
use crate::machine::{DiskBase, Machine};
use crate::network::Setting;
use crate::path::BytePath;
use crate::pd::filter;
use crate::process::{Checkpoint, Process};
use crate::ram::{MOST_NODES, MemoryPolicy, Pages};
use crate::rm::{Attachment, PROTECTION_KEYS};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// A claim of a checkpoint that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where, as `process 12, region 1000-2000`.
    pub place: String,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for Malformed {}

/// One past the highest address a program can map (47 bits, less the guard page).
const ADDRESS_END: u64 = 0x7fff_ffff_f000;
/// Where `[vsyscall]` lies, beyond what a program can map.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// There are no more pseudoterminals (NR_UNIX98_PTY_MAX, include/linux/devpts_fs.h).
const PTY_NUMBERS: u32 = 1 << 20;
/// The size of `struct termios2`.
const TERMIOS2_BYTES: usize = 44;
/// The longest ring of asynchronous I/O; fs.aio-max-nr limits all of them to less by default.
const AIO_MOST: u64 = 64 << 20;

struct Checker<'a> {
    checkpoint: &'a Checkpoint,
    pack_bytes: u64,
    /// Where the bytes lie in the pack that the checkpoint refers to.
    stored: RefCell<Vec<Range<u64>>>,
}

impl Checkpoint {
    /// Checks every identifier, range and run of pages.
    ///
    /// `pack_bytes` is the length of the pack; no run may reach beyond it.
    ///
    /// # Errors
    /// [`Malformed`] names the first claim that does not hold.
    pub fn validate(&self, pack_bytes: u64) -> Result<(), Malformed> {
        self.checked(pack_bytes).map(drop)
    }

    /// Returns where the bytes lie in the pack that the checkpoint refers to: ranges in ascending order that do not
    /// touch. Whatever lies between them belongs to other versions, or to none.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn stored(&self, pack_bytes: u64) -> Result<Vec<Range<u64>>, Malformed> {
        let mut ranges = self.checked(pack_bytes)?;
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let joins = next.start <= last.end;
            if joins {
                last.end = last.end.max(next.end);
            }
            joins
        });
        Ok(ranges)
    }

    /// One way through all of it, for both: what is not checked would not be found either.
    fn checked(&self, pack_bytes: u64) -> Result<Vec<Range<u64>>, Malformed> {
        let checker = Checker { checkpoint: self, pack_bytes, stored: RefCell::default() };
        if let Some(machine) = &self.machine {
            checker.machine(machine)?;
            return Ok(checker.stored.into_inner());
        }
        checker.processes()?;
        checker.descriptions()?;
        checker.objects()?;
        checker.sysv()?;
        checker.layers()?;
        checker.network()?;
        checker.session()?;
        checker.bundle()?;
        checker.nests()?;
        Ok(checker.stored.into_inner())
    }
}

/// Whether a relative path leads nowhere but down.
fn is_plain(path: &BytePath) -> bool {
    let parts = || path.as_bytes().split(|byte| *byte == b'/');
    !path.as_bytes().contains(&0) && parts().all(|part| !matches!(part, b"" | b"." | b".."))
}

fn malformed(place: impl Into<String>, what: &'static str) -> Malformed {
    Malformed { place: place.into(), what }
}

fn memory_policy(place: &str, policy: Option<&MemoryPolicy>) -> Result<(), Malformed> {
    let nodes = policy.map_or(&[][..], |policy| policy.nodes.as_slice());
    if !nodes.is_sorted_by(|one, next| one < next) || nodes.last().is_some_and(|node| *node >= MOST_NODES) {
        return Err(malformed(
            place,
            "a memory policy names nodes that are too high or not in ascending order",
        ));
    }
    Ok(())
}

impl Checker<'_> {
    fn nests(&self) -> Result<(), Malformed> {
        let processes = &self.checkpoint.processes;
        let mut everywhere = HashSet::new();
        let mut terminals = HashSet::new();
        for nest in &self.checkpoint.nests {
            let place = || format!("nest of process {}", nest.keeper);
            let keeper = processes.iter().skip(1).find(|process| process.pd.relation.pid == nest.keeper);
            let lives = keeper.is_some_and(|keeper| !keeper.cpu.threads.is_empty());
            if self.checkpoint.host.runtime.is_none() || !lives {
                return Err(malformed(
                    place(),
                    "has no keeper that lives, or lies in no environment of the runtime",
                ));
            }
            let ascending = nest.numbers.is_sorted_by(|one, next| one.outer < next.outer);
            let mut inner = HashSet::new();
            let numbers = nest.numbers.iter();
            if !ascending || numbers.clone().any(|it| it.outer.raw() <= 0 || it.inner.raw() <= 0) {
                return Err(malformed(place(), "has numbers that are not positive, or do not ascend"));
            }
            for number in numbers {
                if !inner.insert(number.inner) || !everywhere.insert(number.outer) {
                    return Err(malformed(place(), "has a number that stands twice, or is in another nest"));
                }
            }
            if nest.inner(nest.keeper).map(Pid::raw) != Some(1) {
                return Err(malformed(place(), "has a keeper that is not its pid 1"));
            }
            for process in processes {
                let relation = &process.pd.relation;
                let is_inside = nest.inner(relation.pid).is_some();
                let belongs = relation.pid == nest.keeper
                    || relation.parent.is_some_and(|parent| nest.inner(parent).is_some());
                let threads = process.cpu.threads.iter().map(|thread| Pid::new(thread.tid.raw()));
                if is_inside != belongs
                    || !threads.into_iter().all(|tid| nest.inner(tid).is_some() == is_inside)
                {
                    return Err(malformed(place(), "has not all that lives below its keeper, or has more"));
                }
            }
            for pty in &nest.ptys {
                present(
                    self.checkpoint.objects.ptys.get(pty.index()),
                    &place(),
                    "names a terminal that does not exist",
                )?;
                if !terminals.insert(*pty) {
                    return Err(malformed(place(), "has a terminal that stands twice"));
                }
            }
            let console = nest.console.as_ref().and_then(|path| path.as_bytes().strip_prefix(b"/"));
            if nest.console.is_some() && console.is_none_or(|rest| !is_plain(&BytePath::new(rest))) {
                return Err(malformed(place(), "has a console that is no path"));
            }
        }
        Ok(())
    }

    fn session(&self) -> Result<(), Malformed> {
        let Some(runtime) = &self.checkpoint.host.runtime else { return Ok(()) };
        let Some(leader) = runtime.session else { return Ok(()) };
        let taken = |process: &crate::Process| {
            process.pd.relation.pid == leader
                || process.cpu.threads.iter().any(|thread| thread.tid.raw() == leader.raw())
        };
        if !runtime.terminal || leader.raw() <= 1 || self.checkpoint.processes.iter().any(taken) {
            let why = "has no terminal, or its leader has no number of its own";
            return Err(malformed("session of the terminal", why));
        }
        Ok(())
    }

    fn network(&self) -> Result<(), Malformed> {
        let runtime = self.checkpoint.host.runtime.as_ref();
        let Some(network) = runtime.and_then(|runtime| runtime.network.as_ref()) else { return Ok(()) };
        let place = || "network".to_owned();
        for address in &network.addresses {
            let bits = match address.bytes.len() {
                4 => 32,
                16 => 128,
                _ => return Err(malformed(place(), "an address has neither 4 nor 16 bytes")),
            };
            if address.prefix > bits {
                return Err(malformed(place(), "an address has a longer prefix than bits"));
            }
        }
        if !network.settings.iter().all(Setting::is_named) {
            return Err(malformed(place(), "a setting has a name that leads elsewhere"));
        }
        if !network.settings.is_sorted_by(|one, next| one.name < next.name) {
            return Err(malformed(place(), "settings do not ascend"));
        }
        Ok(())
    }

    fn processes(&self) -> Result<(), Malformed> {
        let mut pids = HashSet::new();
        let mut tids = HashSet::new();
        if self.checkpoint.processes.is_empty() {
            return Err(malformed("checkpoint", "has no process"));
        }
        let all: HashSet<_> =
            self.checkpoint.processes.iter().map(|process| process.pd.relation.pid).collect();
        for (index, process) in self.checkpoint.processes.iter().enumerate() {
            let pid = process.pd.relation.pid;
            let place = format!("process {pid}");
            if pid.raw() <= 0 || !pids.insert(pid) {
                return Err(malformed(place, "its pid is not positive, or stands twice"));
            }
            match process.pd.relation.parent {
                None if index == 0 => {}
                // A child of the keeper, which is made by the leader of its session.
                None if self.checkpoint.host.runtime.is_some() => {
                    let leader = process.pd.relation.session.filter(|leader| all.contains(leader));
                    if leader.is_some_and(|leader| !pids.contains(&leader)) {
                        return Err(malformed(place, "the leader of its session does not come before it"));
                    }
                    if process.cpu.threads.is_empty() {
                        return Err(malformed(place, "has neither a parent nor threads"));
                    }
                }
                Some(parent) if index > 0 && parent != pid && pids.contains(&parent) => {}
                _ => return Err(malformed(place, "its parent does not come before it")),
            }
            let zombie = matches!(process.pd.life, crate::pd::Life::Zombie { .. });
            if zombie != process.cpu.threads.is_empty() {
                return Err(malformed(place, "has no threads and is no zombie, or the reverse"));
            }
            for (index, thread) in process.cpu.threads.iter().enumerate() {
                if thread.tid.raw() <= 0 || !tids.insert(thread.tid) {
                    return Err(malformed(place, "the number of a thread is not positive, or stands twice"));
                }
                if thread.ended.is_some() && (index != 0 || process.cpu.threads.len() < 2) {
                    return Err(malformed(
                        place,
                        "a thread has ended that is no leader, or no other goes on",
                    ));
                }
                if index == 0 && thread.tid != pid.into() {
                    return Err(malformed(place, "its first thread is not its leader"));
                }
                self.filters(&place, &thread.filters)?;
                memory_policy(&place, thread.scheduling.memory_policy.as_ref())?;
            }
            if !zombie && (process.pd.actions.len() != crate::pd::SIGNALS || process.pd.limits.len() > 32) {
                return Err(malformed(place, "has not 64 signal actions, or too many limits"));
            }
            self.regions(process)?;
            let mut last = -1;
            for descriptor in &process.pd.descriptors {
                if descriptor.fd.raw() <= last {
                    return Err(malformed(place, "its descriptors are not in ascending order"));
                }
                last = descriptor.fd.raw();
                self.description(&place, descriptor.description)?;
            }
        }
        Ok(())
    }

    fn filters(&self, place: &str, chain: &[u32]) -> Result<(), Malformed> {
        let filters = &self.checkpoint.objects.filters;
        let mut instructions = 0;
        for index in chain {
            let filter = filters.get(*index as usize);
            present(filter, place, "names a filter that does not exist")?;
            instructions += filter.map_or(0, |filter| filter.code.len() / filter::INSTRUCTION_BYTES + 4);
        }
        if instructions > filter::MOST_OF_A_THREAD {
            return Err(malformed(place, "a thread has more filters than the kernel allows"));
        }
        Ok(())
    }

    fn regions(&self, process: &crate::Process) -> Result<(), Malformed> {
        let mut end = 0;
        let keys = process.rm.keys;
        if keys.allocated >> PROTECTION_KEYS != 0 || keys.execute_only >= PROTECTION_KEYS {
            let place = format!("process {}", process.pd.relation.pid);
            return Err(malformed(place, "has more protection keys than there are"));
        }
        for region in &process.rm.regions {
            let place = format!("process {}, region {}", process.pd.relation.pid, region.range);
            let special = matches!(region.attachment, Attachment::Special(_));
            let in_space = region.range.end() <= ADDRESS_END || (special && region.range.start() == VSYSCALL);
            if !region.range.is_valid() || !in_space {
                return Err(malformed(place, "is not a range of whole pages of user space"));
            }
            if region.range.start() < end {
                return Err(malformed(place, "overlaps the region before it"));
            }
            end = region.range.end();
            if region.protection.key >= PROTECTION_KEYS {
                return Err(malformed(place, "has a protection key that is none"));
            }
            match &region.attachment {
                Attachment::Dataspace { dataspace, offset, .. } => {
                    self.dataspace(&place, *dataspace)?;
                    aligned(&place, *offset)?;
                }
                Attachment::Description { description, offset, .. } => {
                    self.description(&place, *description)?;
                    aligned(&place, *offset)?;
                }
                Attachment::Segment { segment, offset, .. } => {
                    let known = self.checkpoint.objects.segments.get(segment.index());
                    present(known, &place, "names a segment that does not exist")?;
                    aligned(&place, *offset)?;
                    let len = known.and_then(Segment::attached_bytes);
                    if offset.checked_add(region.range.len_bytes()).is_none_or(|end| Some(end) > len) {
                        return Err(malformed(place, "reaches beyond its segment"));
                    }
                }
                Attachment::File { offset, .. } => aligned(&place, *offset)?,
                Attachment::Aio { events } => {
                    // The kernel keeps one place of a ring free (aio_complete), behind a header of 32 bytes.
                    let room = (region.range.len_bytes() - 32) / 32 - 1;
                    let count = events.len() as u64 / 32;
                    if region.range.len_bytes() > AIO_MOST || !events.len().is_multiple_of(32) || count > room
                    {
                        return Err(malformed(place, "is no ring of asynchronous I/O, or holds too much"));
                    }
                }
                Attachment::Anonymous | Attachment::Special(_) => {}
            }
            self.pages(&place, &region.private, region.range.len_bytes(), true)?;
            for guard in &region.guards {
                if !guard.is_valid()
                    || guard.start() < region.range.start()
                    || guard.end() > region.range.end()
                {
                    return Err(malformed(place, "a guard lies outside of it"));
                }
            }
            memory_policy(&place, region.policy.as_ref())?;
            if let Some(shift) = region.huge_shift {
                let is_whole = |address: u64| {
                    1_u64
                        .checked_shl(shift)
                        .is_some_and(|page| page >= PAGE_SIZE && address.is_multiple_of(page))
                };
                if !is_whole(region.range.start()) || !is_whole(region.range.end()) {
                    return Err(malformed(place, "is not of whole huge pages"));
                }
            }
        }
        Ok(())
    }

    fn pages(&self, place: &str, pages: &Pages, len_bytes: u64, whole: bool) -> Result<(), Malformed> {
        let mut end = 0;
        for run in &pages.runs {
            let run_end = run.offset.checked_add(run.len_bytes);
            let pack_end = run.pack_offset.checked_add(run.len_bytes);
            let (Some(run_end), Some(pack_end)) = (run_end, pack_end) else {
                return Err(malformed(place, "the end of a run of pages overflows"));
            };
            if run.len_bytes == 0 || run.offset < end || run_end > len_bytes {
                return Err(malformed(place, "a run of pages is empty, out of order, or reaches beyond it"));
            }
            if pack_end > self.pack_bytes {
                return Err(malformed(place, "a run of pages reaches beyond the pack"));
            }
            if !run.offset.is_multiple_of(PAGE_SIZE)
                || !run.pack_offset.is_multiple_of(PAGE_SIZE)
                || (whole && !run.len_bytes.is_multiple_of(PAGE_SIZE))
            {
                return Err(malformed(place, "a run of pages is not aligned"));
            }
            end = run_end;
            self.stored.borrow_mut().push(run.pack_offset..pack_end);
        }
        Ok(())
    }

    fn layers(&self) -> Result<(), Malformed> {
        for (index, layer) in self.checkpoint.layers.iter().enumerate() {
            let place = format!("layer {index}");
            let absolute = layer.directory.as_bytes().strip_prefix(b"/");
            if absolute.is_none_or(|rest| rest.is_empty() || !is_plain(&BytePath::new(rest))) {
                return Err(malformed(place, "is of no directory"));
            }
            self.tree(&place, layer.written.iter())?;
            let ascending = layer.lower.windows(2).all(|pair| pair[0].path < pair[1].path);
            if !ascending || !layer.lower.iter().all(|lower| is_plain(&lower.path)) {
                return Err(malformed(place, "has paths that do not ascend"));
            }
        }
        Ok(())
    }

    /// Checks a tree of files that a builder makes: the directory in which all are, then what is in it.
    fn tree<'w>(&self, place: &str, all: impl Iterator<Item = &'w Written>) -> Result<(), Malformed> {
        let all: Vec<&Written> = all.collect();
        // A builder follows these paths: nothing may lead it elsewhere, so what is above each is a directory that it
        // has made before.
        let mut directories: HashSet<&[u8]> = HashSet::new();
        let mut paths: HashSet<&[u8]> = HashSet::new();
        for (at, written) in all.iter().enumerate() {
            let path = written.path.as_bytes();
            let place = || format!("{place}, {}", written.path);
            let parent = match path.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => &path[..slash],
                None => &[],
            };
            let first = at == 0 && path.is_empty();
            if !first && (!is_plain(&written.path) || !directories.contains(parent)) || !paths.insert(path) {
                return Err(malformed(place(), "has no directory before it, or stands twice"));
            }
            let kind = written.mode & 0o170_000;
            let fits = match &written.node {
                Node::Directory { .. } => kind == 0o040_000 && directories.insert(path),
                Node::File { len_bytes, pages } => {
                    self.pages(&place(), pages, *len_bytes, false)?;
                    kind == 0o100_000 && i64::try_from(*len_bytes).is_ok()
                }
                Node::Link(first) => {
                    let first = all[..at].get(*first as usize);
                    first.is_some_and(|first| {
                        !matches!(first.node, Node::Directory { .. } | Node::Link(_) | Node::Removed)
                    })
                }
                Node::Symlink(to) => kind == 0o120_000 && !to.as_bytes().contains(&0),
                Node::Special { .. } => matches!(kind, 0o010_000 | 0o020_000 | 0o060_000 | 0o140_000),
                Node::Removed => true,
            };
            if !fits || first && !matches!(written.node, Node::Directory { .. }) {
                return Err(malformed(place(), "is not what its mode says, or a link to nothing"));
            }
            if written.attributes.iter().any(|attribute| attribute.name.as_bytes().contains(&0)) {
                return Err(malformed(place(), "has an attribute without a name"));
            }
        }
        Ok(())
    }

    fn bundle(&self) -> Result<(), Malformed> {
        let bundle = &self.checkpoint.bundle;
        self.tree("bundle", bundle.iter().map(|bundled| &bundled.file))?;
        for bundled in bundle {
            if matches!(bundled.file.node, Node::Link(_) | Node::Removed) {
                return Err(malformed(format!("bundle, {}", bundled.file.path), "is no file"));
            }
        }
        if !bundle.is_sorted_by(|one, next| one.file.path < next.file.path) {
            return Err(malformed("bundle", "has paths that do not ascend"));
        }
        Ok(())
    }

    fn descriptions(&self) -> Result<(), Malformed> {
        for (index, description) in self.checkpoint.descriptions.iter().enumerate() {
            let place = format!("description {index}");
            match &description.capability {
                Capability::Pipe(end) => self.pipe(&place, end.pipe)?,
                Capability::Fifo(fifo) => self.pipe(&place, fifo.pipe)?,
                Capability::Pty(end) => present(
                    self.checkpoint.objects.ptys.get(end.pty.index()),
                    &place,
                    "names a pseudoterminal that does not exist",
                )?,
                Capability::Mqueue(end) => present(
                    self.checkpoint.objects.mqueues.get(end.queue.index()),
                    &place,
                    "names a message queue that does not exist",
                )?,
                Capability::Memfd(memfd) => self.dataspace(&place, memfd.dataspace)?,
                Capability::Regular(regular) => match &regular.content {
                    Content::Named { file, captured, .. } => {
                        if let Some(pages) = captured {
                            self.pages(&place, pages, file.identity.len_bytes, false)?;
                        }
                    }
                    Content::Unnamed(id) => self.unnamed(&place, *id)?,
                },
                Capability::Epoll(epoll) => {
                    for watch in &epoll.watches {
                        self.description(&place, watch.description)?;
                    }
                }
                Capability::Inotify(inotify) => {
                    let mut last = 0;
                    for watch in &inotify.watches {
                        if watch.wd <= last || watch.wd > INOTIFY_MOST {
                            return Err(malformed(
                                place,
                                "its watches are not in ascending order, or too high",
                            ));
                        }
                        last = watch.wd;
                        if let WatchTarget::Description(id) = watch.target {
                            self.description(&place, id)?;
                        }
                    }
                }
                Capability::Fanotify(group) => {
                    for mark in &group.marks {
                        if let FanotifyTarget::File(WatchTarget::Description(id)) = mark.target {
                            self.description(&place, id)?;
                        }
                    }
                }
                Capability::TcpStream(stream) => match stream.inside.as_ref().map(|inside| inside.peer) {
                    None | Some(TcpPeer::Closed) => {}
                    Some(TcpPeer::Listener(id)) => {
                        let other = self.checkpoint.descriptions.get(id.index()).map(|d| &d.capability);
                        if !matches!(other, Some(Capability::TcpListener(_))) {
                            return Err(malformed(place, "waits at what is no listening socket"));
                        }
                    }
                    Some(TcpPeer::Description(id)) => {
                        let other = self.checkpoint.descriptions.get(id.index()).map(|d| &d.capability);
                        let back = match other {
                            Some(Capability::TcpStream(other)) => {
                                other.inside.as_ref().map(|inside| inside.peer)
                            }
                            _ => None,
                        };
                        let own = TcpPeer::Description(DescriptionId::new(index as u32));
                        // One that is connected to itself is its own peer.
                        if back != Some(own) {
                            return Err(malformed(place, "its peer is not connected to it"));
                        }
                    }
                },
                Capability::Unix(socket) => {
                    match &socket.state {
                        UnixState::Connected { peer } => self.description(&place, *peer)?,
                        UnixState::Listening { pending, .. } => {
                            pending.iter().flatten().try_for_each(|id| self.description(&place, *id))?;
                        }
                        _ => {}
                    }
                    self.messages(&place, &socket.queue)?;
                }
                Capability::Outside(outside) => {
                    if let OutsideKind::Unix { queue, .. } = &outside.kind {
                        self.messages(&place, queue)?;
                    }
                }
                Capability::PidFd(pidfd) => {
                    let known = |pid: Pid| {
                        let is_thread = |p: &Process| p.cpu.threads.iter().any(|t| t.tid.raw() == pid.raw());
                        let mut processes = self.checkpoint.processes.iter();
                        processes.any(|p| p.pd.relation.pid == pid || pidfd.thread && is_thread(p))
                    };
                    if pidfd.pid.is_some_and(|pid| !known(pid)) {
                        return Err(malformed(place, "denotes a process that is not in the tree"));
                    }
                }
                Capability::Directory(_)
                | Capability::Device(_)
                | Capability::EventFd(_)
                | Capability::SignalFd(_)
                | Capability::TimerFd(_)
                | Capability::TcpListener(_)
                | Capability::Udp(_)
                | Capability::Netlink(_)
                | Capability::Raw(_)
                | Capability::Packet(_) => {}
            }
        }
        Ok(())
    }

    fn objects(&self) -> Result<(), Malformed> {
        for (index, volatile) in self.checkpoint.objects.volatile.iter().enumerate() {
            let place = format!("file in memory {index}");
            if !volatile.file.path.as_path().is_absolute() {
                return Err(malformed(place, "its path is not absolute"));
            }
            self.pages(&place, &volatile.pages, volatile.file.identity.len_bytes, false)?;
        }
        for (index, unnamed) in self.checkpoint.objects.unnamed.iter().enumerate() {
            self.pages(&format!("unnamed file {index}"), &unnamed.pages, unnamed.identity.len_bytes, false)?;
        }
        if let Some(index) = self.checkpoint.objects.filters.iter().position(|filter| !filter.is_sized()) {
            return Err(malformed(format!("filter {index}"), "has no instructions, or too many"));
        }
        let mut numbers = HashSet::new();
        let mut sessions = HashSet::new();
        for (index, pty) in self.checkpoint.objects.ptys.iter().enumerate() {
            let place = format!("pseudoterminal {index}");
            if pty.number >= PTY_NUMBERS || !numbers.insert(pty.number) {
                return Err(malformed(place, "its number is too large, or stands twice"));
            }
            if pty.settings.len() != TERMIOS2_BYTES {
                return Err(malformed(place, "its settings have not the size of struct termios2"));
            }
            if pty.session.is_some_and(|session| !sessions.insert(session)) {
                return Err(malformed(place, "its session has another controlling terminal"));
            }
        }
        for (index, dataspace) in self.checkpoint.dataspaces.iter().enumerate() {
            let len = dataspace.len_bytes.checked_next_multiple_of(PAGE_SIZE);
            let len = len.ok_or_else(|| malformed(format!("dataspace {index}"), "its length overflows"))?;
            self.pages(&format!("dataspace {index}"), &dataspace.pages, len, true)?;
        }
        Ok(())
    }

    fn sysv(&self) -> Result<(), Malformed> {
        let objects = &self.checkpoint.objects;
        let ids = |ids: Vec<(&'static str, &Ipc, usize)>| {
            let mut seen = HashSet::new();
            for (what, ipc, count) in ids {
                let fit = ipc.pids.is_empty() || ipc.pids.len() == count;
                if !fit || ipc.pids.iter().any(|pid| pid.raw() < 0) {
                    let place = format!("{what} {}", ipc.id);
                    return Err(malformed(place, "who used it last does not fit it"));
                }
                if ipc.id < 0 || ipc.mode > 0o777 || !seen.insert(ipc.id) {
                    let place = format!("{what} {}", ipc.id);
                    return Err(malformed(
                        place,
                        "its number stands twice or is negative, or its mode is none",
                    ));
                }
            }
            Ok(())
        };
        ids(objects.segments.iter().map(|segment| ("segment", &segment.ipc, 2)).collect())?;
        ids(objects.semaphores.iter().map(|set| ("semaphores", &set.ipc, set.values.len())).collect())?;
        ids(objects.queues.iter().map(|queue| ("message queue", &queue.ipc, 2)).collect())?;
        for segment in &objects.segments {
            let place = format!("segment {}", segment.ipc.id);
            let len = segment.attached_bytes().filter(|len| *len > 0);
            let len = len.ok_or_else(|| malformed(&*place, "its length is zero, or overflows"))?;
            self.pages(&place, &segment.pages, len, true)?;
        }
        for set in &objects.semaphores {
            let place = format!("semaphores {}", set.ipc.id);
            // SEMMSL of the default limits; more cannot be made by one call of semget.
            if set.values.is_empty() || set.values.len() > 65_536 {
                return Err(malformed(place, "has no semaphores, or too many"));
            }
            if set.values.iter().any(|value| i32::from(*value) > MOST_VALUE) {
                return Err(malformed(place, "the value of a semaphore is too great"));
            }
            for undo in &set.undo {
                let known = self.checkpoint.processes.iter().any(|p| p.pd.relation.pid == undo.pid);
                let within = |adjust: &i32| (-MOST_VALUE - 1..=MOST_VALUE).contains(adjust);
                if !known || undo.adjust.len() != set.values.len() || !undo.adjust.iter().all(within) {
                    return Err(malformed(place, "what is to be undone fits no process or no semaphore"));
                }
            }
        }
        for (index, queue) in objects.mqueues.iter().enumerate() {
            let place = format!("POSIX message queue {index}");
            let name = queue.name.as_bytes();
            if name.is_empty() || name.len() > 255 || name.contains(&b'/') || name.contains(&0) {
                return Err(malformed(place, "its name is none of a file"));
            }
            let fits = |message: &MqueueMessage| {
                message.priority < 32_768 && message.data.len() as u64 <= u64::from(queue.most_bytes)
            };
            if queue.messages.len() as u64 > u64::from(queue.most_messages)
                || !queue.messages.iter().all(fits)
            {
                return Err(malformed(
                    place,
                    "it has too many messages, or one that is too long or too urgent",
                ));
            }
        }
        for queue in &objects.queues {
            if queue.messages.iter().any(|message| message.kind < 1) {
                return Err(malformed(
                    format!("message queue {}", queue.ipc.id),
                    "the type of a message is not positive",
                ));
            }
        }
        Ok(())
    }

    fn machine(&self, machine: &Machine) -> Result<(), Malformed> {
        let Checkpoint {
            processes,
            descriptions,
            dataspaces,
            objects,
            host: _,
            clocks: _,
            machine: _,
            layers,
            bundle,
            nests,
        } = self.checkpoint;
        let parts = processes.len() + descriptions.len() + dataspaces.len() + nests.len();
        if parts > 0 || !layers.is_empty() || !bundle.is_empty() || *objects != Objects::default() {
            return Err(malformed("virtual machine", "stands beside processes"));
        }
        let place = "virtual machine";
        let memory = machine.memory.bytes;
        // It is mapped as QEMU maps a file: from its beginning.
        if memory.offset != 0 || memory.len_bytes == 0 || !memory.len_bytes.is_multiple_of(PAGE_SIZE) {
            return Err(malformed(
                place,
                "its memory is not at the beginning of the pack, or no whole pages",
            ));
        }
        if machine.cpus == 0 || machine.cpus > 1024 {
            return Err(malformed(place, "it has no processor, or too many"));
        }
        let disks = machine.disks.iter().flat_map(|disk| {
            let base = match &disk.base {
                DiskBase::Pack(extent) => Some(*extent),
                DiskBase::File { .. } => None,
            };
            base.into_iter().chain(disk.layer)
        });
        let mut last = 0;
        for changed in &machine.memory.changed {
            let end = changed.at.checked_add(changed.bytes.len_bytes);
            let whole = changed.at.is_multiple_of(PAGE_SIZE)
                && changed.bytes.len_bytes.is_multiple_of(PAGE_SIZE)
                && changed.bytes.len_bytes > 0;
            match end {
                Some(end) if whole && changed.at >= last && end <= memory.len_bytes => last = end,
                _ => {
                    return Err(malformed(
                        place,
                        "what changed of its memory lies beyond it, overlaps, or is no whole pages",
                    ));
                }
            }
        }
        let changed = machine.memory.changed.iter().map(|changed| changed.bytes);
        for extent in std::iter::once(memory).chain(changed).chain(disks) {
            let end = extent.offset.checked_add(extent.len_bytes);
            if end.is_none_or(|end| end > self.pack_bytes) || !extent.offset.is_multiple_of(PAGE_SIZE) {
                return Err(malformed(
                    place,
                    "its memory, or a disk, reaches beyond the pack or is not aligned",
                ));
            }
            self.stored.borrow_mut().push(extent.offset..extent.offset + extent.len_bytes);
        }
        Ok(())
    }

    fn messages(&self, place: &str, queue: &[crate::cap::Message]) -> Result<(), Malformed> {
        queue.iter().flat_map(|message| &message.rights).try_for_each(|id| self.description(place, *id))
    }

    fn description(&self, place: &str, id: DescriptionId) -> Result<(), Malformed> {
        present(
            self.checkpoint.descriptions.get(id.index()),
            place,
            "names a description that does not exist",
        )
    }

    fn dataspace(&self, place: &str, id: DataspaceId) -> Result<(), Malformed> {
        present(self.checkpoint.dataspaces.get(id.index()), place, "names a dataspace that does not exist")
    }

    fn pipe(&self, place: &str, id: ObjectId) -> Result<(), Malformed> {
        present(self.checkpoint.objects.pipes.get(id.index()), place, "names a pipe that does not exist")
    }

    fn unnamed(&self, place: &str, id: ObjectId) -> Result<(), Malformed> {
        present(self.checkpoint.objects.unnamed.get(id.index()), place, "names a file that does not exist")
    }
}

fn present<T>(found: Option<&T>, place: &str, what: &'static str) -> Result<(), Malformed> {
    found.map(|_| ()).ok_or_else(|| malformed(place, what))
}

fn aligned(place: &str, offset: u64) -> Result<(), Malformed> {
    if offset.is_multiple_of(PAGE_SIZE) { Ok(()) } else { Err(malformed(place, "its offset is not aligned")) }
}
