//! A tree that stands still, captured: all that a checkpoint tells of it.

use crate::Keeper;
use crate::cap::{Beside, Captured, mqueue, sysv};
use crate::copies::Copies;
use crate::difference::{self, Earlier};
use crate::failure::Failure;
use crate::filter::{self, Filters};
use crate::inner::{self, ProcessFacts, Questions};
use crate::landlock;
use crate::nest::{self, Nests};
use crate::persist::Freeze;
use crate::precopy::Precopy;
use crate::rm::{Backing, Behind, FileCache};
use crate::statuses::Statuses;
use crate::survey::{self, Seen};
use crate::unseen::Onlookers;
use crate::urgent::Urgent;
use crate::{Options, cpu, deposit, file, host, pd, ram, reach, rm, standing, written};
use frost_model::cap::{Capability, Content, Description, FileIdentity, Objects, RegularFile, Unnamed};
use frost_model::clock::Clocks;
use frost_model::id::{DataspaceId, DescriptionId, ObjectId};
use frost_model::pd::Descriptor;
use frost_model::ram::Pages;
use frost_model::rm::{Attachment, PageRange, Region, RmState};
use frost_model::{BytePath, Checkpoint, Pid, Process};
use frost_store::Draft;
use frost_sys::pagemap::Pagemap;
use frost_sys::proc::{self, Mapping, Timer};
use frost_tracee::seize::{StoppedProcess, StoppedTree};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::rc::Rc;
use std::time::Instant;

/// What a living process is known by while it is captured.
struct Known {
    mappings: Vec<Mapping>,
    timers: Vec<Timer>,
    facts: ProcessFacts,
    descriptors: Vec<Descriptor>,
}

/// What a capture gives.
pub(crate) struct Captures {
    pub(crate) checkpoint: Checkpoint,
    /// The processes of the tree that live, the first being its root.
    pub(crate) living: Vec<i32>,
    /// Files that are open for writing.
    pub(crate) written: Vec<OwnedFd>,
    /// System V objects that go with the program.
    pub(crate) own: Vec<sysv::Own>,
    /// Threads whose filters do not forbid the kernel to go on with their calls.
    pub(crate) unhindered: BTreeSet<i32>,
    /// Why there is shared memory of which only that was seen which mappings show.
    pub(crate) unseen: BTreeSet<String>,
}

/// Captures a tree that stands still.
///
/// # Errors
/// What is in the way, or the first thing that could not be read or stored.
pub(crate) fn capture(
    freeze: &mut Freeze<'_>,
    tree: &StoppedTree,
    (stopped, clocks, features): (Instant, Clocks, &[String]),
    mut memory: Memory<'_>,
    options: Options<'_>,
    exact: bool,
) -> Result<Captures, Failure> {
    if let Some(precopy) = &mut memory.precopy {
        precopy.begin_stop();
    }
    let mut files = FileCache::default();
    let statuses = Statuses::of(tree, memory.urgent);
    let living: Vec<&StoppedProcess> = tree.processes().iter().filter(|process| !process.zombie).collect();
    let users: Vec<reach::User> = living
        .iter()
        .map(|process| reach::User {
            through: process.through,
            inner: Pid::new(process.inner),
            command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        })
        .collect();
    // Before anything looks at a file. All else that is in the way cannot be told then.
    let silent = reach::silent(&users);
    if !silent.is_empty() {
        return Err(freeze.refused(silent));
    }
    let mut maps = Vec::with_capacity(living.len());
    for process in &living {
        let found = mappings(process, memory.precopy, exact, options.keeper);
        let found = found.map_err(|error| freeze.failed(&*error))?;
        maps.push(match rm::named(&found, process.through, &mut files) {
            Cow::Borrowed(_) => found,
            Cow::Owned(named) => named,
        });
    }
    for (process, mappings) in living.iter().zip(&maps) {
        crate::aio::settle(process.through, mappings).map_err(|errno| {
            freeze.failed(&errno).cause(format!("asynchronous I/O of process {} does not end", process.pid))
        })?;
    }
    freeze.step("freeze.sweep")?;

    let (written, leased) = written::files(&living, &maps).map_err(|errno| freeze.failed(&errno))?;
    if !options.leave_running {
        // Before anything notes what these files are: their times may change by it.
        written::sync(&written).map_err(|errno| freeze.failed(&errno))?;
        freeze.step("freeze.sync-files")?;
    }

    let seen: Vec<Seen<'_>> = living.iter().zip(&maps).map(|(process, maps)| seen(process, maps)).collect();
    let (mut catalog, mut obstacles) = survey::look(&seen, &mut files, Some(memory.urgent), options.keeper)
        .map_err(|error| freeze.failed(&error))?;
    obstacles.extend(leased);
    let nests = Nests::among(seen.iter().map(|process| process.pid));
    let (filters, in_the_way) = filter::learn(&survey::members(&seen, Some(&statuses)), options.keeper);
    obstacles.extend(in_the_way);
    let root = seen.first().map(|root| (root.inner, root.command.as_str()));
    let (network, in_the_way) =
        crate::network::look(options.keeper, root).map_err(|error| freeze.failed(&error))?;
    obstacles.extend(in_the_way);
    obstacles.extend(living.iter().filter_map(|process| standing::lost_leader(process)));
    obstacles.extend(living.iter().filter_map(|process| standing::dispatching(process)));
    if !obstacles.is_empty() {
        return Err(freeze.refused(obstacles));
    }
    freeze.step("freeze.survey")?;

    let mut known = BTreeMap::new();
    for (process, mappings) in living.iter().zip(maps) {
        let timers = proc::timers(process.through).unwrap_or_default();
        let questions = Questions {
            personality: filters.let_call(process, libc::SYS_personality),
            memory_policy: filters.let_call(process, libc::SYS_get_mempolicy),
            keyrings: filters.let_call(process, libc::SYS_keyctl),
            protection_keys: filters.let_call(process, libc::SYS_pkey_mprotect),
            segments: filters.let_call(process, libc::SYS_modify_ldt),
            processor: filters.let_call(process, libc::SYS_arch_prctl),
            timer_slack: filters.let_option(process, inner::PR_SET_TIMERSLACK),
            other: filters.let_call(process, libc::SYS_kcmp).then(|| landlock::witness(process)).flatten(),
        };
        let facts = inner::read(process, &mappings, &timers, questions, stopped)
            .map_err(|error| freeze.failed(&error))?;
        let descriptors = catalog.descriptors(Pid::new(process.inner));
        known.insert(process.pid, Known { mappings, timers, facts, descriptors });
    }
    let warned =
        |process: &&StoppedProcess| standing::warned_of_leader(tree, process, &known[&process.pid].facts);
    let mut obstacles: Vec<_> = living.iter().filter_map(warned).collect();
    obstacles.extend(
        living.iter().filter_map(|process| standing::own_keyring(process, &known[&process.pid].facts)),
    );
    obstacles.extend(living.iter().filter_map(|process| {
        standing::silent_of_keys(process, &known[&process.pid].mappings, &known[&process.pid].facts)
    }));
    obstacles.extend(
        living.iter().filter_map(|process| standing::own_segments(process, &known[&process.pid].facts)),
    );
    obstacles
        .extend(living.iter().filter_map(|process| landlock::refuse(process, &known[&process.pid].facts)));
    if !obstacles.is_empty() {
        return Err(freeze.refused(obstacles));
    }
    freeze.step("freeze.inner")?;
    // From here on the program does nothing for us, as a rule, and needs no processor: before, it would have had to wait for one.
    // Two of us read now: options of sockets, and memory, unless its places in the pack have to lie behind those of all else.
    catalog.read_ahead(|work| memory.urgent.have_done(work));
    let mut placed = HashMap::new();
    if memory.precopy.is_some() {
        for (at, process) in tree.processes().iter().enumerate() {
            if let Some(known) = known.get(&process.pid) {
                let found = memory.place_all((at, process), &known.mappings, &mut files);
                placed.insert(process.pid, found.map_err(|error| freeze.failed(&error))?);
            }
        }
        freeze.step("precopy.rest")?;
    }

    // Shared memory without a descriptor gets its number behind that which has one.
    let mut unnamed = ram::SharedMemories::new();
    let mut deleted = ram::DeletedFiles::new();
    for process in &living {
        for mapping in &known[&process.pid].mappings {
            if let Ok(backing) = rm::backing(mapping, process.through, &mut files)
                && ram::needs_windows(&backing, &catalog)
            {
                ram::note_shared(&mut unnamed, process.through, mapping, &backing);
            }
            if let Ok(Backing::Deleted { device, inode }) = rm::backing(mapping, process.through, &mut files)
                && catalog.description_of(device, inode).is_none()
            {
                ram::note_deleted(&mut deleted, process.through, mapping);
            }
        }
    }
    // What lives in a nest has another namespace, in which there is nothing.
    let asked: Vec<_> = living
        .iter()
        .filter(|process| nests.keeper_of(process.pid).is_none())
        .map(|process| (*process, known[&process.pid].mappings.as_slice()))
        .collect();
    let has_no_ipc = asked.first().is_some_and(|(process, _)| freeze.has_no_ipc(process.through));
    let sysv = match has_no_ipc {
        true => sysv::Found::default(),
        false => {
            let may = |process: &StoppedProcess, call| filters.let_call(process, call);
            sysv::capture(&asked, &may, memory.draft.pack()).map_err(|error| match error {
                sysv::Error::Unreadable { obstacles } => freeze.refused(obstacles),
                _ => freeze.failed(&error),
            })?
        }
    };
    let own = sysv.own.clone();
    let mut behind = Referents {
        dataspaces: BTreeMap::new(),
        catalog: BTreeMap::new(),
        descriptions: BTreeMap::new(),
        sysv,
    };
    behind.learn(&catalog, known.values().flat_map(|known| &known.mappings));
    for process in &living {
        for mapping in &known[&process.pid].mappings {
            if mapping.shared
                && mapping.flags.has(*b"mw")
                && let Ok(Backing::File(file)) = rm::backing(mapping, process.through, &mut files)
            {
                let command = String::from_utf8_lossy(&process.stat.comm);
                catalog.note_mapped(file.path.as_bytes(), Pid::new(process.pid), &command);
            }
        }
    }
    let nests = nest::capture(tree, &nests, &catalog.terminals()).map_err(|errno| freeze.failed(&errno))?;
    if let Some(earlier) = &*memory.earlier {
        for process in &living {
            earlier.tell(Pid::new(process.inner), &known[&process.pid].mappings, memory.copies);
        }
    }
    let mut sink = Beside { pack: memory.draft.pack(), copies: memory.copies };
    let Captured { mut descriptions, mut objects, mut dataspaces } =
        catalog.capture(&mut sink, options.files, stopped).map_err(|error| freeze.failed(&error))?;
    if let Some((process, _)) = asked.first().filter(|_| !has_no_ipc) {
        let closed = mqueue::capture_closed(process.through, &objects.mqueues);
        objects.mqueues.extend(closed.map_err(|error| freeze.failed(&error))?);
    }
    freeze.step("freeze.descriptors")?;
    let may = |process: &StoppedProcess, call| filters.let_call(process, call);
    let with_mappings = |process: &&'_ StoppedProcess| known[&process.pid].mappings.as_slice();
    let onlookers =
        Onlookers::new(living.iter().map(|process| (*process, with_mappings(process))).collect(), &may);
    let mut unseen = BTreeSet::new();
    for (key, object) in &unnamed {
        let id = DataspaceId::new(dataspaces.len() as u32);
        let copies = (*key, &mut *memory.copies);
        let binary = open_binary(&living, *key);
        let (captured, why) =
            ram::capture_shared_whole(object, copies, binary, &onlookers, memory.draft.pack())
                .map_err(|error| freeze.failed(&error))?;
        unseen.extend(why);
        dataspaces.push(captured);
        behind.dataspaces.insert(*key, id);
    }

    for (key, file) in &deleted {
        let id = DescriptionId::new(descriptions.len() as u32);
        let (captured, why) = capture_deleted(*key, file, &onlookers, &mut objects, memory.draft, clocks)
            .map_err(|error| freeze.failed(&error))?;
        unseen.extend(why);
        descriptions.push(captured);
        behind.descriptions.insert(*key, id);
    }
    onlookers.leave().map_err(|error| freeze.failed(&error))?;

    let mut processes = Vec::with_capacity(tree.processes().len());
    for process in tree.processes() {
        processes.push(match known.remove(&process.pid) {
            Some(known) => {
                let placed = match placed.remove(&process.pid) {
                    Some(placed) => placed,
                    None => memory
                        .place_all((processes.len(), process), &known.mappings, &mut files)
                        .map_err(|error| freeze.failed(&error))?,
                };
                capture_process(
                    tree,
                    process,
                    known,
                    placed,
                    &statuses,
                    (&behind, &filters, stopped),
                    &mut files,
                )
                .map_err(|error| freeze.failed(&*error))?
            }
            None => Process {
                pd: pd::capture_zombie(tree, process),
                cpu: Default::default(),
                rm: Default::default(),
            },
        });
    }
    let xstate = processes.first().and_then(|process| process.cpu.threads.first());
    let xstate = xstate.map_or(&[][..], |thread| thread.xstate.as_slice());
    let mut host = host::describe(
        tree.processes().first().map_or(freeze.pid, |root| root.through),
        xstate,
        features.to_vec(),
        options.keeper,
    );
    if let Some(runtime) = &mut host.runtime {
        runtime.network = network;
    }
    freeze.step("freeze.sessions")?;
    let mut layers = Vec::new();
    for source in options.keeper.map(Keeper::layers).unwrap_or_default() {
        let layer = crate::layer::capture(source, memory.draft.pack());
        layers.push(layer.map_err(|error| freeze.failed(&error))?);
    }
    copy_memory(tree, memory.extents, memory.draft, &filters).map_err(|error| freeze.failed(&error))?;
    freeze.step("freeze.memory")?;
    behind.sysv.put(&mut objects);
    objects.filters = filters.used();
    let mut checkpoint = Checkpoint {
        host,
        clocks,
        processes,
        descriptions,
        objects,
        dataspaces,
        machine: None,
        layers,
        bundle: Vec::new(),
        nests,
    };
    let rules = checkpoint.host.runtime.as_mut().map(|runtime| std::mem::take(&mut runtime.routes));
    let refused = crate::routes::apply(&mut checkpoint, rules.as_deref().unwrap_or_default());
    let refused = refused.map_err(|(path, error)| {
        freeze.failed(&error).cause(format!("{path} cannot be read for its route `truncate`"))
    })?;
    if !refused.is_empty() {
        return Err(freeze.refused(refused));
    }
    if let (Some(runtime), Some(rules)) = (&mut checkpoint.host.runtime, rules) {
        runtime.routes = rules;
    }
    let unhindered = filters.unhindered(tree);
    let living = living.iter().map(|process| process.pid).collect();
    Ok(Captures { checkpoint, living, written, own, unhindered, unseen })
}

/// Opens a file that is the binary of a process, which its user may whatever became of its name.
fn open_binary(living: &[&StoppedProcess], (device, inode): (u64, u64)) -> Option<OwnedFd> {
    let path = living.iter().map(|process| proc::path(process.through, "exe")).find(|path| {
        rustix::fs::stat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
    })?;
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Adds a file without a name, and returns a description of it that no process has, from which it is mapped.
fn unnamed(objects: &mut Objects, file: Unnamed, flags: OFlags) -> Description {
    let content = Content::Unnamed(ObjectId::new(objects.unnamed.len() as u32));
    objects.unnamed.push(file);
    let capability = Capability::Regular(RegularFile { content, position: 0 });
    Description { flags: flags.bits(), owner: None, locks: Vec::new(), node: None, capability }
}

/// Captures a file without a name through its mappings: as a description that no process has, from which it is mapped.
fn capture_deleted(
    (device, inode): (u64, u64),
    file: &ram::DeletedFile,
    onlookers: &Onlookers<'_>,
    objects: &mut Objects,
    draft: &mut Draft,
    clocks: Clocks,
) -> Result<(Description, Option<String>), ram::Error> {
    let ((pages, len_bytes), unseen) = ram::capture_deleted(file, onlookers, draft.pack())?;
    // Owner and mode are not told to whoever may not open it.
    let identity = FileIdentity {
        device,
        inode,
        mode: libc::S_IFREG | 0o600,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        len_bytes,
        modified: clocks.realtime,
        ..FileIdentity::default()
    };
    let file = Unnamed { path: BytePath::new(file.path.as_slice()), identity, pages, marks: None };
    Ok((unnamed(objects, file, OFlags::RDWR), unseen))
}

/// Fills the places that extents have in the pack: each process writes its own where that is sooner and allowed, and
/// the rest is read from outside.
fn copy_memory(
    tree: &StoppedTree,
    extents: &[ram::Extent],
    draft: &mut Draft,
    filters: &Filters,
) -> Result<(), ram::Error> {
    draft.pack().require_reserved()?;
    // Extents of a process lie together, and unreadable ones are few.
    for chunk in extents.chunk_by(|a, b| a.pid == b.pid) {
        let (readable, unreadable): (Vec<_>, Vec<_>) = chunk.iter().partition(|extent| extent.readable);
        let process = tree.processes().iter().find(|process| process.through == chunk[0].pid);
        // First, since its places lie between those of the others, which are hashed as they are written.
        ram::copy(&unreadable, false, draft.pack())?;
        let own = match process {
            Some(process) if !filters.hold(process) => {
                let mappings = proc::bare_mappings(process.through).unwrap_or_default();
                deposit::write(process, &mappings, &readable, draft.pack())?
            }
            _ => false,
        };
        if !own {
            ram::copy(&readable, true, draft.pack())?;
        }
    }
    Ok(())
}

/// How the image refers to memory behind descriptors, once the catalog was used up.
struct Referents {
    dataspaces: BTreeMap<(u64, u64), DataspaceId>,
    catalog: BTreeMap<(u64, u64), DataspaceId>,
    descriptions: BTreeMap<(u64, u64), DescriptionId>,
    sysv: sysv::Found,
}

impl Referents {
    fn learn<'m>(&mut self, catalog: &dyn Behind, mappings: impl Iterator<Item = &'m Mapping>) {
        for mapping in mappings.filter(|mapping| mapping.inode != 0) {
            let key = (mapping.device, mapping.inode);
            self.catalog.extend(catalog.dataspace(key.0, key.1).map(|id| (key, id)));
            self.descriptions.extend(catalog.description(key.0, key.1).map(|id| (key, id)));
        }
    }
}

impl Behind for Referents {
    fn dataspace(&self, device: u64, inode: u64) -> Option<DataspaceId> {
        let key = (device, inode);
        self.catalog.get(&key).or_else(|| self.dataspaces.get(&key)).copied()
    }

    fn description(&self, device: u64, inode: u64) -> Option<DescriptionId> {
        self.descriptions.get(&(device, inode)).copied()
    }

    fn segment(&self, id: i32) -> Option<ObjectId> {
        self.sysv.segment(id)
    }
}

/// Reads the mappings of a stopped process, after removing what a freezer that died may have left there.
fn mappings(
    process: &StoppedProcess,
    precopy: &mut Option<Precopy>,
    exact: bool,
    keeper: Option<&dyn Keeper>,
) -> Result<Vec<Mapping>, Box<dyn Error>> {
    let mut look = || match precopy {
        Some(precopy) => precopy.mappings(process, exact),
        None => proc::mappings(process.through),
    };
    let mappings = look()?;
    if filter::sweep(process, &mappings, keeper)? { Ok(look()?) } else { Ok(mappings) }
}

fn seen<'a>(process: &'a StoppedProcess, mappings: &'a [Mapping]) -> Seen<'a> {
    Seen {
        pid: process.pid,
        through: process.through,
        inner: Pid::new(process.inner),
        command: String::from_utf8_lossy(&process.stat.comm).into_owned(),
        pidfd: process.table(),
        status: &process.status,
        mappings,
    }
}

/// Where private memory goes: at once, if it is compared with an earlier image, else to a place that is noted.
pub(crate) struct Memory<'a> {
    pub(crate) earlier: &'a mut Option<Earlier>,
    pub(crate) draft: &'a mut Draft,
    pub(crate) copies: &'a mut Copies,
    pub(crate) extents: &'a mut Vec<ram::Extent>,
    /// Where the pages of each process lie that was placed already, by its pid.
    pub(crate) placed: &'a mut HashMap<i32, Rc<ram::Placed>>,
    /// Memory that was copied before the stop: its pages are told when the program runs again.
    pub(crate) precopy: &'a mut Option<Precopy>,
    pub(crate) urgent: &'a Urgent,
}

/// Where the pages of a mapping are that belong to it alone, and its guards.
type Placed = (Pages, Vec<PageRange>);

impl Memory<'_> {
    /// Gives the pages of all mappings of a process, which has a number among those of the tree, their places, in this order.
    fn place_all(
        &mut self,
        (at, process): (usize, &StoppedProcess),
        mappings: &[Mapping],
        files: &mut FileCache,
    ) -> Result<Vec<Placed>, ram::Error> {
        let pid = process.through;
        let open = |pid| Pagemap::open(pid).map_err(|source| ram::Error::Pagemap { pid, source });
        let pagemap = open(pid)?;
        let kin = match self.placed.get(&process.parent).cloned() {
            Some(placed) => Some(ram::Kin { pid: process.parent, pagemap: open(process.parent)?, placed }),
            None => None,
        };
        let mut own_placed = ram::Placed::new();
        let mut found = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            let backing = rm::backing(mapping, pid, files).unwrap_or(Backing::Anonymous);
            let region = (at, found.len());
            let placed = self.place(process, &pagemap, mapping, &backing, kin.as_ref(), region)?;
            let runs = placed.0.runs.iter();
            own_placed.extend(runs.map(|run| (mapping.start + run.offset, run.len_bytes, run.pack_offset)));
            found.push(placed);
        }
        if !process.lacks_leader() {
            self.placed.insert(process.pid, Rc::new(own_placed));
        }
        Ok(found)
    }

    fn place(
        &mut self,
        process: &StoppedProcess,
        pagemap: &Pagemap,
        mapping: &Mapping,
        backing: &Backing,
        kin: Option<&ram::Kin>,
        region: (usize, usize),
    ) -> Result<Placed, ram::Error> {
        let (pid, pack) = (process.through, self.draft.pack());
        if let Some(precopy) = self.precopy {
            let guards = precopy.look(process, (pagemap, mapping, backing), region, pack, self.urgent)?;
            return Ok((Pages::default(), guards));
        }
        match self.earlier {
            Some(earlier) if earlier.is_alike(difference::TRIAL_BYTES) => {
                let numbers = (pid, Pid::new(process.inner));
                earlier.store_private(numbers, pagemap, mapping, backing, kin, pack)
            }
            _ => ram::place_private(pid, pagemap, mapping, backing, kin, pack, self.extents),
        }
    }
}

fn capture_process(
    tree: &StoppedTree,
    process: &StoppedProcess,
    known: Known,
    placed: Vec<Placed>,
    statuses: &Statuses,
    (behind, filters, stopped): (&dyn Behind, &Filters, Instant),
    files: &mut FileCache,
) -> Result<Process, Box<dyn Error>> {
    let pid = process.through;
    let link = |name: &str| file::behind_link(&proc::path(pid, name));
    let root = link("root")?;
    let root = (root.path.as_bytes() != b"/").then_some(root);
    // A keeper was executed from memory that is among its own, and so was who leads a session for it.
    let is_keeper = process.status.depth() > 0 && survey::is_keeper(pid);
    let exe = if is_keeper { None } else { rm::binary(pid, &known.mappings, files)? };
    let places = pd::Places { exe, cwd: link("cwd")?, root };
    let mut regions = Vec::with_capacity(known.mappings.len());
    for (mapping, (private, guards)) in known.mappings.iter().zip(placed) {
        let backing = rm::backing(mapping, pid, files).unwrap_or(Backing::Anonymous);
        let attachment = match backing {
            Backing::Aio => Some(Attachment::Aio { events: crate::aio::events(pid, mapping)? }),
            backing => rm::attachment(mapping, backing, behind),
        };
        let (Some(range), Some(attachment)) = (rm::range(mapping), attachment) else {
            return Err(format!("memory {:x} shows an object that is gone", mapping.start).into());
        };
        regions.push(Region {
            range,
            protection: rm::protection(mapping),
            attachment,
            flags: rm::flags(mapping),
            private,
            guards,
            policy: known.facts.policies.get(&mapping.start).cloned(),
            huge_shift: rm::huge_shift(mapping),
        });
    }
    let stat = if process.lacks_leader() { &proc::stat(pid)? } else { &process.stat };
    let bounds = rm::bounds(pid, stat, known.facts.brk);
    let vdso = rm::vdso(pid, &known.mappings);
    let mut captured = Process {
        cpu: cpu::capture(process, &known.facts.threads, statuses, filters)?,
        pd: pd::capture(tree, process, &known.facts, &known.timers, places, known.descriptors)?,
        rm: RmState { keys: rm::keys(&regions, known.facts.protection_keys), regions, bounds, vdso },
    };
    pd::keep_in_period(&mut captured, stopped);
    Ok(captured)
}
