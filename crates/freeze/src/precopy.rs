//! Pre-copy: most of the memory is written while the program runs, and it stops only for what changed last.
//!
//! A first, short stop makes each process create what tracks its writes ([`Tracker`]), and registers its memory. Then, in passes, written pages
//! are protected and copied, in this order: a page that is written while it is copied is found again. First they go to
//! the pack; when less is left than the [`Stash`] has room for, or the program writes as fast as that, they are copied
//! to memory, which is much faster, so that the next pass finds less. When that becomes no shorter the tree is stopped
//! for good: what is now still protected is as it was copied, everything else that is there is copied once more. So what
//! the tracking does not see costs time, never truth.
//!
//! What is in the stash goes to the pack when the program runs again. A page keeps its place there however often it is
//! copied, if the program goes on; if it is ended, it gets a new one each time.
//!
//! Tracking begins and ends only while the program stands still: it would else be registered, or not any more, for a part
//! of a mapping at times, which makes two of it, and an mremap(2) of the program over both fails.
//!
//! The flags of mappings cannot be read without a walk over all page tables, so they are those that were read before;
//! after the stop they are read once more, and if a single one differs the stop is repeated with that walk in it.

use crate::copies::Copies;
use crate::difference::{self, Earlier};
use crate::dirty::{self, Tracker};
use crate::failure::Failure;
use crate::filter;
use crate::held::{self, Held, Known, Since, Tracked};
use crate::member::{CHUNK_BYTES, Member};
use crate::patience::Patience;
use crate::persist::Freeze;
use crate::places::Places;
use crate::ram;
use crate::rm::Backing;
use crate::stash::{Room, Stash};
use crate::urgent::Urgent;
use crate::{Options, survey};
use frost_model::ram::{Pages, Run};
use frost_model::rm::PageRange;
use frost_model::{Checkpoint, PAGE_SIZE, Pid};
use frost_store::PackWriter;
use frost_sys::memory::Part;
use frost_sys::pagemap::{Pagemap, Scan, category};
use frost_sys::proc::{self, Mapping};
use frost_tracee::inject;
use frost_tracee::seize::{Adopter, StoppedProcess, StoppedTree};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So much of what was written since an earlier image is compared with it.
const WRITTEN_TRIAL_BYTES: u64 = 1 << 20;
/// If a pass found no more, what comes next is copied to memory.
const FEW_BYTES: u64 = 24 << 20;
/// So little may be left for the stop: it takes less than the pass that would find less.
const LITTLE_BYTES: u64 = 64 << 10;
/// How often is copied to the pack before the stop, whatever is left.
const MOST_PASSES: usize = 12;
/// How often is copied to memory, whatever is left.
const MOST_LAST_PASSES: usize = 16;
/// So many passes in a row that were no shorter than an earlier one are the end: one of them may have been held up.
const MOST_IN_VAIN: usize = 2;
/// If so much memory came into being behind the first stop, the tree is stopped once more so that it is tracked; less is
/// copied in the last stop in less time than that would take.
const UNTRACKED_BYTES: u64 = 1 << 20;
/// The end of tracking of a process that has no more is a walk of the kernel of 1 ms.
const SMALL_BYTES: u64 = 32 << 20;
/// What is copied to memory before some of it is written to the pack, in the stop if need be; of a small program it is
/// as much as that has.
const STASH_BYTES: Range<u64> = 1 << 20..48 << 20;
/// The same of a program that goes on from an earlier image, beside what it is seen to write. More would be touched in vain, as a
/// rule, which takes as long as to copy it.
const STASH_LEAST_BYTES: u64 = 4 << 20;
/// So much in the stop is worth a word to the user.
const MUCH_BYTES: u64 = 64 << 20;

/// A tree whose memory is copied while it runs.
pub(crate) struct Precopy {
    members: BTreeMap<i32, Member>,
    /// Parents before their children.
    order: Vec<i32>,
    /// Bytes of each pass.
    passes: Vec<u64>,
    stash: Stash,
    /// Bytes that were copied in the last stop.
    stopped_bytes: u64,
    /// Since the last passes: what they leave is the less, the sooner the stop comes.
    urgent: Option<Urgent>,
    looked: Vec<Looked>,
    /// Pages of the processes that were looked at in the stop, each being its own place.
    populated: BTreeMap<i32, ram::Placed>,
    /// Reads the memory of the process that was looked at last, in the stop.
    source: Option<(i32, ram::Source)>,
    /// The parent of the process that was looked at last, as one that it may share pages with.
    kin: Option<(i32, Option<ram::Kin>)>,
    /// Flags of the mappings of the last stop were read before it: by process.
    assumed: Vec<(i32, Vec<Mapping>)>,
    /// Reads the flags that they have behind the stop.
    reading: Option<JoinHandle<Read>>,
    pause: Duration,
}

/// Mappings with their flags, by process.
type Read = BTreeMap<i32, Result<Vec<Mapping>, Errno>>;

/// A process that was made to create what tracks it.
struct Entered {
    pid: i32,
    inner: Pid,
    parent: i32,
    start_time: u64,
    tracker: Tracker,
    /// What it was when the earlier image was made, if it goes on from that.
    known: Option<Known>,
}

/// A region of the checkpoint whose pages are assigned when the program runs again.
#[derive(Debug)]
struct Looked {
    process: usize,
    region: usize,
    pid: i32,
    parent: i32,
    start: u64,
    /// Pages, and whether they are those of the parent at the same addresses.
    populated: Vec<(u64, u64, bool)>,
}

impl Precopy {
    /// Begins to track the tree of `pid` and copies its memory while it runs; `None` if that cannot be done, or if
    /// something is in the way of the freeze, which the stop will tell.
    pub(crate) fn run(
        freeze: &mut Freeze<'_>,
        pid: i32,
        options: Options<'_>,
        pack: &mut PackWriter,
        copies: &mut Copies,
        earlier: &mut Option<Earlier>,
        mut held: Option<Held>,
        patience: &mut Patience,
    ) -> Result<Option<Self>, Failure> {
        let mut seen = survey::Mappings::new();
        let all = held.as_mut().and_then(|held| all_held(held, pid, options));
        let (trackers, pause) = match all {
            // Nothing need be stopped for it, and what is in the way the stop will tell soon.
            Some(trackers) => (trackers, Duration::ZERO),
            None => {
                let found = survey::look_ahead(pid, true, options.keeper, patience).ok();
                let clear = found.filter(|(obstacles, _)| obstacles.is_empty());
                freeze.step("precopy.survey")?;
                let Some((_, mappings)) = clear else { return Ok(None) };
                seen = mappings;
                enter(freeze, pid, options, held.as_mut())?
            }
        };
        // What has ended since.
        drop(held);
        let goes_on = trackers.iter().all(|entered| entered.known.is_some());
        freeze.step("precopy.enter")?;
        let mut precopy = Self {
            members: BTreeMap::new(),
            order: Vec::new(),
            passes: Vec::new(),
            stash: Stash::default(),
            stopped_bytes: 0,
            urgent: None,
            looked: Vec::new(),
            populated: BTreeMap::new(),
            source: None,
            kin: None,
            assumed: Vec::new(),
            reading: None,
            pause,
        };
        for Entered { pid, inner, parent, start_time, tracker, known } in trackers {
            // What they were a moment ago, or when the earlier image was made: the stop takes nothing of it for granted.
            let before = match (&known, seen.remove(&pid)) {
                (Some(known), _) => proc::bare_mappings(pid).ok().and_then(|bare| known.give(bare)),
                (None, seen) => seen,
            };
            let before = before.map_or_else(|| proc::mappings(pid), Ok);
            // Whatever has ended meanwhile is not looked at.
            if let (Ok(before), Ok(pagemap), Ok(mem)) = (before, Pagemap::open(pid), ram::open_mem(pid)) {
                let tracker = Some(tracker).filter(|_| pagemap.can_scan());
                let mut member = Member {
                    start_time,
                    inner,
                    parent,
                    tracker,
                    pagemap,
                    mem,
                    before,
                    // What is still protected is as the earlier image has it.
                    places: earlier
                        .as_ref()
                        .filter(|_| known.is_some())
                        .map(|earlier| earlier.places(inner))
                        .unwrap_or_default(),
                    afresh: !options.leave_running,
                    is_taken: known.is_some(),
                    // What is found to be written since has changed, as a rule.
                    trial_bytes: if known.is_some() { WRITTEN_TRIAL_BYTES } else { difference::TRIAL_BYTES },
                    own_from: pack.len_bytes(),
                    untracked_bytes: 0,
                };
                let mut before = std::mem::take(&mut member.before);
                member.hide_tracking(&mut before);
                member.before = before;
                precopy.members.insert(pid, member);
                precopy.order.push(pid);
            }
        }
        freeze.step("precopy.flags")?;
        if precopy.members.values().all(|member| member.tracker.is_none()) {
            return Ok(None);
        }
        let resident = precopy
            .members
            .keys()
            .map(|pid| proc::status(*pid).map_or(0, |status| status.resident_bytes))
            .sum();
        pack.require_space(resident).map_err(|error| freeze.failed(&error))?;
        // First, since what is written meanwhile of all else is found by the passes.
        precopy.copy_shared(copies, pack, earlier.as_ref()).map_err(|error| freeze.failed(&error))?;
        let found = precopy.passes(freeze, pid, options, goes_on, pack, earlier)?;
        let room = if goes_on { (4 * found).saturating_add(STASH_LEAST_BYTES) } else { STASH_BYTES.end };
        let room = room.min(resident).clamp(STASH_BYTES.start, STASH_BYTES.end);
        precopy.stash = Stash::with_room(room as usize).map_err(|errno| freeze.failed(&errno))?;
        freeze.step("precopy.copy")?;
        precopy.last_passes(pack, earlier).map_err(|error| freeze.failed(&error))?;
        freeze.step("precopy.last")?;
        Ok(Some(precopy))
    }

    /// Copies memory that may be shared, whose writes are not tracked: the stop compares it with that.
    fn copy_shared(
        &self,
        copies: &mut Copies,
        pack: &mut PackWriter,
        earlier: Option<&Earlier>,
    ) -> Result<(), ram::Error> {
        let mut processes = Vec::with_capacity(self.members.len());
        for (pid, member) in &self.members {
            if let Some(earlier) = earlier {
                earlier.tell(member.inner, &member.before, copies);
            }
            if member.pagemap.can_scan() {
                processes.push((*pid, &member.pagemap, member.before.as_slice()));
            }
        }
        let began = Instant::now();
        let bytes = copies.copy_ahead(&processes, pack)?;
        tracing::debug!(bytes, us = began.elapsed().as_micros() as u64, "shared memory is copied ahead");
        Ok(())
    }

    /// Copies what was written since it was copied last to the pack, until little is left or it becomes no less; returns
    /// how much the last pass has found. If all of it `goes_on` from an earlier image, what the first one finds was written
    /// since that, and the next one tells how fast the program writes.
    fn passes(
        &mut self,
        freeze: &Freeze<'_>,
        root: i32,
        options: Options<'_>,
        goes_on: bool,
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<u64, Failure> {
        let (mut last, mut copied) = (u64::MAX, 0);
        while self.passes.len() < MOST_PASSES {
            copied = self.pass(false, pack, earlier).map_err(|error| freeze.failed(&error))?;
            let untracked: u64 = self.members.values().map(|member| member.untracked_bytes).sum();
            if untracked > UNTRACKED_BYTES {
                self.register(freeze, root, options)?;
                // What is tracked from now on is copied once more.
                last = u64::MAX;
                continue;
            }
            let tells_rate = !goes_on || self.passes.len() > 1;
            if tells_rate && (copied <= FEW_BYTES || copied > last / 10 * 8) {
                break;
            }
            last = if tells_rate { copied } else { u64::MAX };
        }
        Ok(copied)
    }

    /// Stops the tree for an instant, and has all that its processes have mapped since tracked.
    fn register(&mut self, freeze: &Freeze<'_>, root: i32, options: Options<'_>) -> Result<(), Failure> {
        let mut urgent = Urgent::first();
        urgent.beside(root);
        let pause = Instant::now();
        let keeper = options.keeper.map(crate::adopter);
        let tree = StoppedTree::stop(root, keeper, options.stop_timeout)
            .map_err(|error| freeze.stop_failed(&error))?;
        for process in tree.processes() {
            if let Some(member) = self.members.get_mut(&process.pid)
                && member.is(process)
                && let Some(tracker) = &mut member.tracker
            {
                let mappings = proc::bare_mappings(process.pid).map_err(|errno| freeze.failed(&errno))?;
                tracker.register(&mappings);
            }
        }
        tree.resume();
        self.pause = self.pause.max(pause.elapsed());
        Ok(())
    }

    /// Copies what was written since it was copied last to memory, until it becomes no shorter.
    fn last_passes(
        &mut self,
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<(), ram::Error> {
        self.refresh_flags();
        let urgent = Urgent::first();
        // It may be born in these passes, if what does not fit into the stash goes to the pack.
        pack.hash_elsewhere(urgent.leave());
        self.urgent = Some(urgent);
        let (mut shortest, mut in_vain) = (Duration::MAX, 0);
        for _ in 0..MOST_LAST_PASSES {
            let began = Instant::now();
            let copied = self.pass(true, pack, earlier)?;
            let took = began.elapsed();
            // What the next one will find was written during this one.
            if took < shortest / 10 * 9 {
                (shortest, in_vain) = (took, 0);
            } else {
                in_vain += 1;
            }
            if copied <= LITTLE_BYTES || in_vain == MOST_IN_VAIN {
                break;
            }
        }
        Ok(())
    }

    /// Copies what was written since the last pass, to the stash as far as there is room, or to the pack; returns how
    /// many bytes.
    fn pass(
        &mut self,
        to_stash: bool,
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<u64, ram::Error> {
        let began = Instant::now();
        let mut copied = 0;
        for pid in &self.order {
            let parent = self.members.get(pid).map_or(0, |member| member.parent);
            let kin = self.members.get(&parent).and_then(|member| {
                let ranges = member.places.ranges();
                let placed = ranges.map(|(start, end)| (start, end - start, start)).collect();
                Some(ram::Kin { pid: parent, pagemap: Pagemap::open(parent).ok()?, placed: Rc::new(placed) })
            });
            if let Some(member) = self.members.get_mut(pid) {
                let stash = to_stash.then_some(&mut self.stash);
                copied += member.pass(*pid, kin.as_ref(), stash, pack, earlier)?;
            }
        }
        tracing::debug!(
            bytes = copied,
            us = began.elapsed().as_micros() as u64,
            to_stash,
            "a pass over the memory"
        );
        self.passes.push(copied);
        Ok(copied)
    }

    /// Reads the flags of mappings anew where there are others than before, so that this need not be done in the stop.
    fn refresh_flags(&mut self) {
        for (pid, member) in &mut self.members {
            let Ok(mut bare) = proc::bare_mappings(*pid) else { continue };
            if !bare.iter_mut().all(|mapping| take_flags(mapping, &member.before))
                && let Ok(mut now) = proc::mappings(*pid)
            {
                member.hide_tracking(&mut now);
                member.before = now;
            }
        }
    }

    /// Returns how many passes there were.
    pub(crate) fn pass_count(&self) -> u32 {
        self.passes.len() as u32
    }

    /// Returns how long the program stood still to be tracked.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Returns how many bytes were copied in the last stop.
    pub(crate) fn stopped_bytes(&self) -> u64 {
        self.stopped_bytes
    }

    /// Hands on that we go before all others.
    pub(crate) fn urgent(&mut self) -> Option<Urgent> {
        self.urgent.take()
    }

    /// Says if the program wrote faster than its memory could be copied.
    pub(crate) fn note(&self) -> Option<String> {
        (self.stopped_bytes > MUCH_BYTES).then(|| {
            format!(
                "{} MiB had to be copied while the program stood still: it writes faster than that, or the memory is of \
                 a kind whose writes cannot be tracked",
                self.stopped_bytes >> 20
            )
        })
    }

    /// Begins a stop: forgets what an earlier one has found.
    pub(crate) fn begin_stop(&mut self) {
        self.stopped_bytes = 0;
        self.looked.clear();
        self.populated.clear();
        self.source = None;
        self.kin = None;
        self.assumed.clear();
    }

    /// Reads the mappings of a stopped process, with the flags that they had before if they are known; `exact` reads
    /// the flags as well.
    pub(crate) fn mappings(&mut self, process: &StoppedProcess, exact: bool) -> Result<Vec<Mapping>, Errno> {
        let Some(member) = self.members.get(&process.pid).filter(|member| member.is(process)) else {
            self.meet(process)?;
            return proc::mappings(process.through);
        };
        if !exact {
            let mut bare = proc::bare_mappings(process.through)?;
            let known = bare.iter_mut().all(|mapping| take_flags(mapping, &member.before));
            // One that was locked since and is released before the flags are read again would be known as before.
            if known && locked_bytes(&bare) == process.status.locked_bytes {
                self.assumed.push((process.pid, bare.clone()));
                return Ok(bare);
            }
        }
        let mut mappings = proc::mappings(process.through)?;
        member.hide_tracking(&mut mappings);
        Ok(mappings)
    }

    /// Looks at the pages of a mapping of a stopped process, and copies those that are not in the pack as they are.
    ///
    /// They are assigned to region `region` of process `at` by [`settle`](Self::settle).
    pub(crate) fn look(
        &mut self,
        process: &StoppedProcess,
        (pagemap, mapping, backing): (&Pagemap, &Mapping, &Backing),
        (at, region): (usize, usize),
        pack: &mut PackWriter,
        urgent: &Urgent,
    ) -> Result<Vec<PageRange>, ram::Error> {
        if !ram::has_private_pages(mapping, backing) {
            return ram::guards_of_shared(process.pid, pagemap, mapping, backing);
        }
        let (pid, through) = (process.pid, process.through);
        let failed = |source| ram::Error::Pagemap { pid, source };
        let tracked = self
            .members
            .get(&pid)
            .is_some_and(|member| member.is(process) && member.tracker.is_some() && pagemap.can_scan());
        let mut guards = Vec::new();
        let mut populated: Vec<(u64, u64)> = Vec::new();
        let mut changed: Vec<(u64, u64)> = Vec::new();
        let mut written: Vec<(u64, u64)> = Vec::new();
        let add = |list: &mut Vec<(u64, u64)>, start: u64, end: u64| match list.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => list.push((start, end)),
        };
        if tracked && dirty::is_trackable(mapping) {
            let member = &self.members[&pid];
            for found in pagemap.scan(Scan::Look, mapping.start, mapping.end).map_err(failed)? {
                if found.categories & category::GUARD != 0 {
                    guards.push(found);
                    continue;
                }
                add(&mut populated, found.start, found.end);
                let tracked = found.categories & category::WPALLOWED != 0;
                if !tracked || found.categories & category::WRITTEN != 0 {
                    add(if tracked { &mut written } else { &mut changed }, found.start, found.end);
                    continue;
                }
                // Protected, but the copy failed, as the page was not to be read then.
                for (start, end) in member.places.missing(found.start, found.end) {
                    let pages = (start..end).step_by(PAGE_SIZE as usize);
                    let missing = pages.filter(|page| !self.stash.has(pid, *page));
                    missing.for_each(|page| add(&mut changed, page, page + PAGE_SIZE));
                }
            }
        } else {
            let (content, found) = pagemap.private_pages(mapping.start, mapping.end).map_err(failed)?;
            guards = found;
            populated = content.iter().map(|region| (region.start, region.end)).collect();
            changed.clone_from(&populated);
        }
        let mut pieces = Vec::with_capacity(populated.len());
        let (mut own, mut exclusive) = (Vec::new(), Vec::new());
        match self.kin(process) {
            Some(kin) => {
                for (start, end) in &populated {
                    for (start, end, parents) in kin.split(through, pagemap, *start, *end)? {
                        pieces.push((start, end, parents.is_some()));
                        if parents.is_none() {
                            own.extend(both(&changed, start, end));
                            exclusive.extend(both(&written, start, end));
                        }
                    }
                }
            }
            None => {
                pieces.extend(populated.iter().map(|(start, end)| (*start, *end, false)));
                (own, exclusive) = (changed, written);
            }
        }
        exclusive.extend(ram::take_exclusive((pid, pagemap), &mut own)?);
        let source = match self.source.take() {
            Some((of, source)) if of == through => source,
            _ => ram::Source::new(through),
        };
        for (ranges, exclusive) in [(own, false), (exclusive, true)] {
            self.copy(&source, pid, &ranges, pack, urgent, |parts| {
                ram::read_parts((through, exclusive), parts, |at, out| source.read(at, out))
            })?;
        }
        self.source = Some((through, source));
        let there = self.populated.entry(pid).or_default();
        there.extend(populated.iter().map(|(start, end)| (*start, end - start, *start)));
        self.looked.push(Looked {
            process: at,
            region,
            pid,
            parent: process.parent,
            start: mapping.start,
            populated: pieces,
        });
        Ok(guards.iter().filter_map(|guard| PageRange::new(guard.start, guard.end)).collect())
    }

    /// Returns the parent of a stopped process, if it was looked at already.
    fn kin(&mut self, process: &StoppedProcess) -> Option<&ram::Kin> {
        if self.kin.as_ref().is_none_or(|(pid, _)| *pid != process.pid) {
            let kin = self.populated.get(&process.parent).cloned().and_then(|placed| {
                let pagemap = Pagemap::open(process.parent).ok()?;
                Some(ram::Kin { pid: process.parent, pagemap, placed: Rc::new(placed) })
            });
            self.kin = Some((process.pid, kin));
        }
        self.kin.as_ref().and_then(|(_, kin)| kin.as_ref())
    }

    /// Copies pages of a stopped process by `read` into the stash, and from `source` to the pack what finds no room there.
    fn copy(
        &mut self,
        source: &ram::Source,
        pid: i32,
        ranges: &[(u64, u64)],
        pack: &mut PackWriter,
        urgent: &Urgent,
        read: impl Fn(&mut [Part<'_>]) -> Result<(), ram::Error> + Sync,
    ) -> Result<(), ram::Error> {
        if ranges.is_empty() {
            return Ok(());
        }
        self.stopped_bytes += ranges.iter().map(|(start, end)| end - start).sum::<u64>();
        // The program leaves its processor to us.
        let left = self.stash.copy(pid, ranges, Room::All, Some(urgent.leave()), read)?;
        if left.is_empty() {
            return Ok(());
        }
        let missing = ram::Error::Read { pid, address: left[0].0, source: Errno::SRCH };
        let member = self.members.get_mut(&pid).ok_or(missing)?;
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for (start, end) in left {
            // Some of it may have an older copy there.
            self.stash.forget(pid, start, end);
            for at in (start..end).step_by(CHUNK_BYTES as usize) {
                let bytes = &mut buffer[..(end - at).min(CHUNK_BYTES) as usize];
                source.read(at, bytes)?;
                member.keep(at, bytes, pack, &mut None)?;
            }
        }
        pack.filled(pack.len_bytes());
        Ok(())
    }

    /// Writes what is in the stash to the pack, but for what the earlier image has, if it is given.
    fn empty_stash(
        &mut self,
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<(), ram::Error> {
        for kept in self.stash.empty() {
            // A process that came into being meanwhile is a member since its mappings were read.
            let Some(member) = self.members.get_mut(&kept.pid) else { continue };
            member.keep(kept.address, self.stash.bytes(kept), pack, earlier)?;
        }
        pack.filled(pack.len_bytes());
        Ok(())
    }

    /// Takes a process into account that was not there at the first stop, or another of the same number.
    fn meet(&mut self, process: &StoppedProcess) -> Result<(), Errno> {
        if self.members.get(&process.pid).is_some_and(|member| member.is(process)) {
            return Ok(());
        }
        let member = Member {
            start_time: process.stat.starttime,
            inner: Pid::new(process.inner),
            parent: process.parent,
            tracker: None,
            pagemap: Pagemap::open(process.through)?,
            mem: ram::open_mem(process.through)?,
            before: Vec::new(),
            places: Places::default(),
            afresh: false,
            is_taken: false,
            trial_bytes: difference::TRIAL_BYTES,
            own_from: 0,
            untracked_bytes: 0,
        };
        self.members.insert(process.pid, member);
        Ok(())
    }

    /// Begins to read the flags of mappings once more, for [`verify`](Self::verify), beside whatever we do; the program
    /// runs again.
    pub(crate) fn look_again(&mut self) {
        let pids: Vec<i32> = self.assumed.iter().map(|(pid, _)| *pid).collect();
        if pids.is_empty() {
            return;
        }
        let read = move || pids.into_iter().map(|pid| (pid, proc::mappings(pid))).collect::<Read>();
        // Else they are read when they are asked for.
        self.reading = std::thread::Builder::new().name("frost-read".to_owned()).spawn(read).ok();
    }

    /// Returns whether the flags of all mappings were those that they had before; `root` runs again.
    pub(crate) fn verify(&mut self, root: i32) -> bool {
        let mut read = self.reading.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        std::mem::take(&mut self.assumed).into_iter().all(|(pid, assumed)| {
            let Some(member) = self.members.get_mut(&pid) else { return false };
            let Ok(mut now) = read.remove(&pid).unwrap_or_else(|| proc::mappings(pid)) else {
                // Gone, and with the root its whole tree may be: nothing is left that could be asked.
                return pid == root;
            };
            member.hide_tracking(&mut now);
            let same = assumed.iter().all(|mapping| {
                let mut as_now = mapping.clone();
                take_flags(&mut as_now, &now) && as_now == *mapping
            });
            member.before = now;
            same
        })
    }

    /// Writes what the stop has left to be written, and gives each region its pages.
    pub(crate) fn settle(
        &mut self,
        checkpoint: &mut Checkpoint,
        pack: &mut PackWriter,
        earlier: &mut Option<Earlier>,
    ) -> Result<(), ram::Error> {
        self.empty_stash(pack, earlier)?;
        // Where the pages of each process lie, those of its parents included.
        let mut all: BTreeMap<i32, Places> = BTreeMap::new();
        for looked in std::mem::take(&mut self.looked) {
            let region = checkpoint
                .processes
                .get_mut(looked.process)
                .and_then(|process| process.rm.regions.get_mut(looked.region));
            let (Some(region), Some(member)) = (region, self.members.get(&looked.pid)) else { continue };
            let mut pages = Pages::default();
            for (start, end, parents) in looked.populated {
                let places = if parents { all.get(&looked.parent) } else { Some(&member.places) };
                for piece in places.unwrap_or(&member.places).find(start, end) {
                    let pack_offset = piece.pack_offset.ok_or(ram::Error::Read {
                        pid: looked.pid,
                        address: piece.address,
                        source: Errno::NODATA,
                    })?;
                    all.entry(looked.pid).or_default().insert(piece.address, piece.len_bytes, pack_offset);
                    let offset = piece.address - looked.start;
                    pages.push(Run { offset, len_bytes: piece.len_bytes, pack_offset });
                }
            }
            region.private = pages;
        }
        Ok(())
    }

    /// Lets a keeper hold the trackers until the next freeze, which goes on from the image `since`.
    pub(crate) fn hold(&mut self, keeper: &dyn crate::Keeper, since: &Since) {
        let mut trackers = Vec::new();
        for (pid, member) in &mut self.members {
            let known = std::mem::take(&mut member.before);
            trackers.extend(member.tracker.take().map(|tracker| (*pid, member.start_time, tracker, known)));
        }
        held::hold(keeper, since, trackers);
    }

    /// Lifts the protection of the memory of a tree that runs on. What is returned does it: it takes a walk over all page
    /// tables.
    pub(crate) fn lift(&mut self) -> impl FnOnce() -> Lifted + Send + use<> {
        let members = self.members.iter_mut();
        let trackers: Vec<_> = members
            .filter_map(|(pid, member)| Some((*pid, member.start_time, member.tracker.take()?)))
            .collect();
        move || {
            let lift = |(pid, start_time, tracker): (i32, u64, Tracker)| {
                // The kernel does it as soon when the tracking ends.
                let is_small = proc::status(pid).is_ok_and(|status| status.resident_bytes < SMALL_BYTES);
                let mappings = proc::bare_mappings(pid).ok().filter(|_| !is_small)?;
                let ranges = tracker.lift(&mappings);
                Some(LiftedProcess { pid, start_time, tracker, ranges })
            };
            Lifted(trackers.into_iter().filter_map(lift).collect())
        }
    }
}

/// Trackers of processes, with the ranges of which the protection is lifted.
pub(crate) struct Lifted(Vec<LiftedProcess>);

struct LiftedProcess {
    pid: i32,
    start_time: u64,
    tracker: Tracker,
    ranges: Vec<(u64, u64)>,
}

impl Lifted {
    /// Ends the tracking of the tree of `root`, for which it stands still an instant; returns how long.
    ///
    /// It ends in any case; yet where it cannot be stopped, what has a fault meanwhile waits for longer.
    pub(crate) fn leave(self, root: i32, keeper: Option<Adopter>, timeout: Duration) -> Duration {
        if self.0.is_empty() {
            return Duration::ZERO;
        }
        let mut urgent = Urgent::first();
        urgent.beside(root);
        let pause = Instant::now();
        let Ok(tree) = StoppedTree::stop(root, keeper, timeout) else { return Duration::ZERO };
        for process in tree.processes() {
            let is_this = |lifted: &&LiftedProcess| {
                lifted.pid == process.pid && lifted.start_time == process.stat.starttime
            };
            if let Some(lifted) = self.0.iter().find(is_this) {
                let mappings = proc::bare_mappings(process.pid).unwrap_or_default();
                lifted.tracker.leave(&lifted.ranges, &mappings);
            }
        }
        tree.resume();
        pause.elapsed()
    }
}

/// Takes the trackers of all processes, if each has one.
fn all_held(held: &mut Held, pid: i32, options: Options<'_>) -> Option<Vec<Entered>> {
    let mut found = Vec::new();
    for pid in survey::tree(pid, options.keeper) {
        let stat = proc::stat(pid).ok()?;
        // One whose leader has ended looks like a zombie, and is copied in the stop, as in `enter`.
        if !stat.is_zombie() {
            let inner = proc::status(pid).ok()?.number()?;
            found.push((pid, stat.starttime, Pid::new(inner), stat.ppid));
        }
    }
    let each: Vec<_> = found.iter().map(|(pid, start_time, ..)| (*pid, *start_time)).collect();
    if !held.covers(&each) {
        return None;
    }
    let entered = |(pid, start_time, inner, parent): (i32, u64, Pid, i32)| {
        let Tracked { tracker, known } = held.remove(pid, start_time)?;
        Some(Entered { pid, inner, parent, start_time, tracker, known: Some(known) })
    };
    found.into_iter().map(entered).collect()
}

/// Stops the tree for an instant, and makes each process create what tracks it.
fn enter(
    freeze: &mut Freeze<'_>,
    pid: i32,
    options: Options<'_>,
    mut held: Option<&mut Held>,
) -> Result<(Vec<Entered>, Duration), Failure> {
    let mut urgent = Urgent::first();
    urgent.beside(pid);
    let pause = Instant::now();
    let keeper = options.keeper.map(crate::adopter);
    let tree =
        StoppedTree::stop(pid, keeper, options.stop_timeout).map_err(|error| freeze.stop_failed(&error))?;
    freeze.step("precopy.stop")?;
    let mut trackers = Vec::new();
    // One whose leader has ended is copied in the stop: it cannot be found by its number between the stops.
    let tracked = |process: &&StoppedProcess| !process.threads.is_empty() && !process.lacks_leader();
    for process in tree.processes().iter().filter(tracked) {
        let (pid, parent, inner) = (process.pid, process.parent, Pid::new(process.inner));
        let start_time = process.stat.starttime;
        if let Some(Tracked { tracker, known }) = held.as_mut().and_then(|held| held.remove(pid, start_time))
        {
            trackers.push(Entered { pid, inner, parent, start_time, tracker, known: Some(known) });
            continue;
        }
        let mut mappings = proc::bare_mappings(process.pid).map_err(|errno| freeze.failed(&errno))?;
        if filter::is_filtered(process.pid, options.keeper) {
            // Its filters may forbid what it takes; all of it is copied in the stop.
            continue;
        }
        if inject::sweep(process, &mappings).map_err(|error| freeze.failed(&error))? {
            mappings = proc::bare_mappings(process.pid).map_err(|errno| freeze.failed(&errno))?;
        }
        match Tracker::enter(process, &mappings) {
            Ok(tracker) => trackers.push(Entered { pid, inner, parent, start_time, tracker, known: None }),
            Err(dirty::Error::Inject(error @ inject::Error::Gone { .. })) => {
                return Err(freeze.failed(&error));
            }
            // Copied in the stop, then: no descriptor is free, or the kernel knows no tracking.
            Err(error) => {
                tracing::info!(pid, %error, "it is copied while it stands still: its writes cannot be tracked");
            }
        }
    }
    tree.resume();
    let pause = pause.elapsed();
    drop(urgent);
    Ok((trackers, pause))
}

/// Lists what of `ranges`, which ascend, lies in `start..end`.
fn both(ranges: &[(u64, u64)], start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let first = ranges.partition_point(|range| range.1 <= start);
    let inside = ranges[first..].iter().take_while(move |range| range.0 < end);
    inside.map(move |range| (range.0.max(start), range.1.min(end)))
}

/// Returns how much memory is locked by the flags of mappings: what the kernel counts as `VmLck`.
fn locked_bytes(mappings: &[Mapping]) -> u64 {
    let locked = mappings.iter().filter(|mapping| mapping.flags.has(*b"lo"));
    locked.map(|mapping| mapping.end - mapping.start).sum()
}

/// Gives a mapping the flags of that among `known` which it is, or has grown out of; tells whether there is one.
fn take_flags(mapping: &mut Mapping, known: &[Mapping]) -> bool {
    let same = |other: &&Mapping| {
        (other.start == mapping.start || other.end == mapping.end)
            && (other.read, other.write, other.execute, other.shared)
                == (mapping.read, mapping.write, mapping.execute, mapping.shared)
            && (other.device, other.inode, &other.name) == (mapping.device, mapping.inode, &mapping.name)
    };
    let at = known.partition_point(|other| other.end <= mapping.start);
    let found = known[at..].iter().take_while(|other| other.start < mapping.end).find(same);
    if let Some(found) = found {
        mapping.flags.clone_from(&found.flags);
        mapping.protection_key = found.protection_key;
        mapping.page_bytes = found.page_bytes;
    }
    found.is_some()
}
