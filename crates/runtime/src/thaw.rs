//! Where an image of the runtime is thawed: with the keeper that was kept for it, or with a new one.

use crate::budget::Groups;
use crate::bundle;
use crate::error::Error;
use crate::instance::{Claim, Instance, Record, Standing, boot_id, now};
use crate::layer;
use crate::run;
use frost_keeper::house::{Environment, Home};
use frost_keeper::protocol::{self as say, Message};
use frost_keeper::{Connection, Held};
use frost_model::host::{Budget, Runtime};
use frost_model::network::Reach;
use frost_model::{BytePath, Checkpoint};
use frost_store::{Image, Name, Store};
use frost_sys::network::{Whose, census};
use frost_thaw::Kept;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags};

/// A home for an image, and what belongs to it.
#[derive(Debug)]
pub struct Place {
    /// Where the engine builds the program.
    pub home: Home,
    /// A connection that watches the keeper, for whoever stays attached.
    pub watch: Option<Connection>,
    /// Whether its namespaces were kept.
    pub warm: bool,
    /// The sockets that were kept for it, or are for the program that it is a copy of.
    pub kept: Kept,
    /// What it has to do without, in words.
    pub note: Option<String>,
    /// The name of a copy, by which it is found as any other program.
    pub copy: Option<Name>,
    /// Drops what an earlier life of the program has left, or brings it back.
    succession: Option<Succession>,
    newcomer: Option<Newcomer>,
    _claim: Option<Claim>,
    _groups: Groups,
}

impl Place {
    /// The program is thawed: what its earlier life has left in layers is not needed any more.
    pub fn settle(&mut self) {
        if let Some(mut succession) = self.succession.take() {
            succession.settled = true;
        }
        if let Some(mut newcomer) = self.newcomer.take() {
            newcomer.place = None;
        }
    }
}

/// The place of a copy, which is nobody's if that does not come to live.
#[derive(Debug)]
struct Newcomer {
    place: Option<(Instance, Claim)>,
    /// Its keeper, once there is one, which ends when nobody thaws there any more.
    keeper: Option<OwnedFd>,
}

/// How long a keeper that nobody needs may take to end.
const ENDED_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

impl Drop for Newcomer {
    fn drop(&mut self) {
        let Some((instance, claim)) = self.place.take() else { return };
        if let Some(keeper) = &self.keeper {
            let _ = rustix::event::poll(&mut [PollFd::new(keeper, PollFlags::IN)], Some(&ENDED_WITHIN));
        }
        // If it has not ended yet, `frost ps` shows what is left.
        let _ = instance.remove(claim);
    }
}

/// The layers of a program that ended by itself, which has written more than its image has: they are there until its next
/// life has begun.
#[derive(Debug)]
struct Succession {
    instance: Instance,
    before: Record,
    layers: Vec<layer::Place>,
    bundle: Option<BytePath>,
    settled: bool,
}

impl Drop for Succession {
    fn drop(&mut self) {
        if self.settled {
            layer::sweep(&self.instance, &self.layers);
            bundle::sweep(&self.instance, self.bundle.as_ref());
        } else if self.instance.write_record(&self.before).is_ok() {
            layer::sweep(&self.instance, &self.before.layers);
            bundle::sweep(&self.instance, self.before.bundle.as_ref());
        }
    }
}

/// Finds the sockets that the keeper of an image's program keeps while that is frozen, and which of them the image gets.
///
/// # Errors
/// [`Error::Keeper`], [`Error::File`].
pub fn kept(store: &Store, image: &Image, copy: bool) -> Result<Kept, Error> {
    let Some(instance) = Instance::find(store, &image.id().name)? else { return Ok(Kept::default()) };
    let Standing::Kept(keeper) = instance.standing()? else { return Ok(Kept::default()) };
    let found = keeper.connection.kept()?;
    Ok(if copy { Kept::for_another(found) } else { Kept::of(image.checkpoint(), found) })
}

/// Finds or makes a home for the image of a program of the runtime; a copy has one of its own, under a name of its own.
///
/// The routes of `runtime` become those of the instance.
///
/// # Errors
/// [`Error::Runs`] if the instance runs; [`Error::Busy`].
pub fn place(
    store: &Store,
    image: &Image,
    runtime: &Runtime,
    attach: bool,
    copy: bool,
) -> Result<Place, Error> {
    for name in &runtime.allowed {
        frost_keeper::admission::kind(name).ok_or_else(|| Error::Kind(name.clone()))?;
    }
    let name = &image.id().name;
    let budget = budget(store, name, runtime)?;
    if let Some(most) = budget.ram_bytes {
        let needs = needs_bytes(image.checkpoint());
        if needs > most {
            return Err(Error::DoesNotFit { needs_bytes: needs, budget_bytes: most });
        }
    }
    let environment = Environment {
        allowed: runtime.allowed.clone(),
        terminal: runtime.terminal && !attach,
        console: None,
        layers: Vec::new(),
        covers: Vec::new(),
        network: runtime.network.is_some(),
        outward: runtime.network.as_ref().is_some_and(|network| network.reach == Reach::Outside),
    };
    if copy {
        let (instance, claim, number) = run::claim_beside(store, name)?;
        let copy = instance.name().clone();
        let mut newcomer = Newcomer { place: Some((instance, claim)), keeper: None };
        let Some((instance, _)) = &newcomer.place else { return Err(Error::Busy) };
        let groups = Groups::make(copy.as_str(), &budget)?;
        let (environment, record) = furnish(image, instance, environment, runtime, budget)?;
        let held = instance.begin(&record, false)?;
        let mut place = born(environment, held, attach, None, runtime.notices, groups)?;
        place.home.copy = number;
        newcomer.keeper = place.home.pidfd.try_clone().ok();
        let kept = kept(store, image, true)?;
        return Ok(Place { kept, copy: Some(copy), newcomer: Some(newcomer), ..place });
    }
    let groups = Groups::make(name.as_str(), &budget)?;
    let (instance, claim) = Instance::claim(store, name)?;
    let standing = instance.standing()?;
    if let Standing::Within(outer) = standing {
        return Err(Error::Within { outer });
    }
    if let Standing::Kept(kept) = standing {
        if !kept.state.frozen {
            return Err(Error::Runs { name: name.to_string(), pid: kept.root().unwrap_or(kept.keeper) });
        }
        if frost_sys::network::is_ours(kept.keeper) != runtime.network.is_none() {
            return Err(Error::Network);
        }
        if runtime.network.is_some() {
            // Without these the program's ports are free at once. They fail to be told only where they are kept.
            let _ = census::end_connections(Whose::Process(kept.keeper));
        }
        let before = instance.record()?;
        // Where it has what an image brought along, it has it still.
        if before.bundle.is_none() && !lack(image)?.is_empty() {
            return Err(Error::Kept);
        }
        let watch = if attach { Some(watching(store, name)?) } else { None };
        let layers = layer::restored(&instance, image)?;
        let number = Pid::from_raw(kept.keeper).filter(|_| kept.keeper > 0).ok_or(Error::Elsewhere)?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())
            .map_err(|source| Error::Environment { object: format!("keeper {}", kept.keeper), source })?;
        layer::remount(&pidfd, &layer::mounted(&layers))?;
        let record = Record { started: now(), layers, routes: runtime.routes.clone(), ..before };
        instance.write_record(&record)?;
        layer::sweep(&instance, &record.layers);
        let program = (environment.allowed, runtime.notices);
        let layered = !record.layers.is_empty() || record.bundle.is_some();
        let sockets = kept.connection.kept()?;
        let place =
            announced(kept.keeper, kept.connection, program, watch, Some(claim), true, groups, layered)?;
        let mut kept = Kept::of(image.checkpoint(), sockets);
        if let Some(sockets) = kept.without_others() {
            // What another version had, and this one has not, nobody will accept at; it may be in the way.
            place.home.connection.keep(&sockets)?;
            kept.drop_others();
        }
        return Ok(Place { kept, ..place });
    }
    let before = instance.record()?;
    let (environment, record) = furnish(image, &instance, environment, runtime, budget)?;
    // Also should it fail from here on.
    let succession = Succession {
        instance: Instance::find(store, name)?.ok_or(Error::Busy)?,
        before,
        layers: record.layers.clone(),
        bundle: record.bundle.clone(),
        settled: false,
    };
    let held = instance.begin(&record, true)?;
    let place = born(environment, held, attach, Some(claim), runtime.notices, groups)?;
    Ok(Place { succession: Some(succession), ..place })
}

/// Makes what a new keeper of an instance is to show of an image's files, and the record of that.
fn furnish(
    image: &Image,
    instance: &Instance,
    environment: Environment,
    runtime: &Runtime,
    budget: Budget,
) -> Result<(Environment, Record), Error> {
    let lack = lack(image)?;
    let layers = layer::restored(instance, image)?;
    let (mut covers, mut brought) = (Vec::new(), None);
    if !lack.is_empty() {
        let place = bundle::new_place(instance);
        covers = bundle::make(image, &lack, &place).inspect_err(|_| layer::remove(&place))?;
        brought = Some(BytePath::from(place.as_path()));
    }
    let environment = Environment { layers: layer::mounted(&layers), covers, ..environment };
    let arguments = image.checkpoint().processes[0].pd.arguments.iter();
    let record = Record {
        command: arguments.map(ToString::to_string).collect(),
        started: now(),
        boot_id: boot_id(),
        detached: environment.terminal,
        allowed: runtime.allowed.clone(),
        notices: runtime.notices,
        machine: false,
        routes: runtime.routes.clone(),
        budget,
        layers,
        network: runtime.network.as_ref().map(|network| network.reach),
        bundle: brought,
    };
    Ok((environment, record))
}

/// Finds what of an image's files this machine does not have.
///
/// # Errors
/// [`Error::Lower`] where what lies below a layer is something else, and the image does not bring it along.
fn lack(image: &Image) -> Result<bundle::Lack, Error> {
    let checkpoint = image.checkpoint();
    let differing = layer::compare(&checkpoint.layers, !checkpoint.bundle.is_empty())?;
    bundle::lacking(checkpoint, &differing)
}

/// What a program may use: as its instance has it, which may have been changed since it was frozen, or as its image has it.
fn budget(store: &Store, name: &Name, runtime: &Runtime) -> Result<Budget, Error> {
    let record = match Instance::find(store, name)? {
        Some(instance) => instance.record()?,
        None => Record::default(),
    };
    Ok(if record.started > 0 { record.budget } else { runtime.budget })
}

/// How much memory an image fills at once. What several processes share by copy-on-write is stored, and filled, once.
fn needs_bytes(checkpoint: &Checkpoint) -> u64 {
    let private = checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
    let shared = checkpoint.dataspaces.iter().flat_map(|dataspace| &dataspace.pages.runs);
    let runs = private.flat_map(|region| &region.private.runs).chain(shared);
    let mut runs: Vec<(u64, u64)> =
        runs.map(|run| (run.pack_offset, run.pack_offset.saturating_add(run.len_bytes))).collect();
    runs.sort_unstable();
    let mut bytes = 0;
    let mut reached = 0;
    for (start, end) in runs {
        bytes += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    bytes
}

/// Makes a keeper without a program, which ends if it does not get one.
fn born(
    environment: Environment,
    mut held: Held,
    attach: bool,
    claim: Option<Claim>,
    notices: bool,
    groups: Groups,
) -> Result<Place, Error> {
    let (connection, watcher) = run::pair()?;
    held.watcher = Some(watcher);
    let second = if attach { Some(run::pair()?) } else { None };
    let (watch, other) = second.unzip();
    held.second = other;
    let allowed = environment.allowed.clone();
    let layered = !environment.layers.is_empty() || !environment.covers.is_empty();
    let (keeper, _, note) = run::bear(environment, !attach, None, held)?;
    let place = announced(keeper, connection, (allowed, notices), watch, claim, false, groups, layered)?;
    Ok(Place { note, ..place })
}

/// Tells a keeper that its program will be thawed.
fn announced(
    keeper: i32,
    connection: Connection,
    (allowed, notices): (Vec<String>, bool),
    watch: Option<Connection>,
    claim: Option<Claim>,
    warm: bool,
    groups: Groups,
    layered: bool,
) -> Result<Place, Error> {
    let number = Pid::from_raw(keeper).filter(|_| keeper > 0).ok_or(Error::Elsewhere)?;
    let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())
        .map_err(|source| Error::Environment { object: format!("keeper {keeper}"), source })?;
    let entrances = groups.entrances()?;
    groups.give(&connection)?;
    let (_, terminal) = connection.ask(Message::new(say::THAW, 0, 0, 0))?;
    // Whoever stays attached hands in a terminal of their own.
    let terminal = terminal.filter(|_| watch.is_none());
    // Its files are what they are to the keeper; whoever builds there says when that is itself.
    frost_sys::sight::set(layered.then_some(keeper));
    let home = Home { keeper, pidfd, connection, terminal, allowed, notices, copy: 0, groups: entrances };
    let kept = Kept::default();
    Ok(Place {
        home,
        watch,
        warm,
        kept,
        note: None,
        copy: None,
        succession: None,
        newcomer: None,
        _claim: claim,
        _groups: groups,
    })
}

/// Connects to the keeper of `name` and watches it.
///
/// # Errors
/// [`Error::Missing`] or [`Error::Ended`] if there is none.
pub fn watching(store: &Store, name: &Name) -> Result<Connection, Error> {
    let instance = Instance::find(store, name)?.ok_or(Error::Missing)?;
    match instance.standing()? {
        Standing::Kept(kept) => {
            kept.connection.ask(Message::new(say::WATCH, 0, 0, 0))?;
            Ok(kept.connection)
        }
        _ => Err(Error::Ended("its keeper has ended".to_owned())),
    }
}
