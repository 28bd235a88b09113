//! Freezes an instance by its name.

use crate::error::Error;
use crate::instance::{self, Instance, Kept, Record, Standing, child_numbered};
use crate::layer;
use frost_freeze::layer::Source;
use frost_freeze::{Failure, Frozen, Options};
use frost_keeper::Connection;
use frost_keeper::notes::{self, Note};
use frost_keeper::notices::{Notices, QUIET_WITHIN, Quiet};
use frost_keeper::protocol::{self as say, Message};
use frost_model::Pid;
use frost_model::host::Runtime;
use frost_model::network::Network;
use frost_store::{ImageId, Name, Store};
use frost_sys::proc;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{BorrowedFd, OwnedFd};
use std::io::Read;

/// The file in which a keeper notes the filters of its program, if that installs one.
const FILTERS_NOTE: &str = "filters";
/// How much of it is read at most: some thousand filters.
const NOTES_BYTES: u64 = 64 << 20;

/// The keeper of a program, as a freeze sees it.
#[derive(Debug)]
pub struct Keeper {
    connection: Connection,
    keeper: i32,
    root: i32,
    leader: Option<i32>,
    runtime: Runtime,
    filters: u32,
    instance: Instance,
    stay: bool,
    layers: Vec<Source>,
    bundled: bool,
}

impl Keeper {
    /// Looks at a keeper whose program runs. With `stay` it holds terminal and namespaces after a freeze.
    ///
    /// # Errors
    /// [`Error::Ended`] if the program does not run, [`Error::Elsewhere`].
    pub fn of(
        store: &Store,
        kept: Kept,
        instance: &Instance,
        record: &Record,
        stay: bool,
    ) -> Result<Self, Error> {
        let root = kept.root()?;
        // It is filtered as its keeper is, and once more.
        let outer = proc::status(kept.keeper).map_or(0, |status| status.seccomp_filters);
        let leader = kept.leader();
        Ok(Self {
            keeper: kept.keeper,
            root,
            leader,
            runtime: Runtime {
                allowed: record.allowed.clone(),
                terminal: kept.state.terminal,
                routes: record.routes.clone(),
                notices: record.notices,
                budget: record.budget,
                network: record.network.map(Network::new),
                session: leader.map(|_| Pid::new(say::LEADER)),
            },
            connection: kept.connection,
            filters: outer + 1,
            instance: instance.again()?,
            stay,
            layers: layer::sources(store, instance.name(), &record.layers, record.bundle.as_ref())?,
            bundled: record.bundle.is_some(),
        })
    }

    /// Returns the root of the program, in our pid namespace.
    pub fn root(&self) -> i32 {
        self.root
    }

    /// Returns who is the root by now, which may be another one than it was at first.
    fn heir(&self) -> Option<i32> {
        let state = self.connection.state().ok().filter(|state| !state.frozen)?;
        child_numbered(self.keeper, state.root)
    }
}

impl frost_freeze::Keeper for Keeper {
    fn pid(&self) -> i32 {
        self.keeper
    }

    fn leader(&self) -> Option<i32> {
        self.leader
    }

    fn filters(&self) -> u32 {
        self.filters
    }

    fn notes(&self) -> Vec<Note> {
        let mut bytes = Vec::new();
        if let Ok(Some(file)) = self.instance.open(FILTERS_NOTE) {
            // Whatever is missing is missed by whoever counts filters.
            let _ = file.take(NOTES_BYTES).read_to_end(&mut bytes);
        }
        notes::read(&bytes)
    }

    fn runtime(&self) -> Runtime {
        self.runtime.clone()
    }

    fn layers(&self) -> &[Source] {
        &self.layers
    }

    fn is_bundled(&self) -> bool {
        self.bundled
    }

    fn hold(&self, descriptor: BorrowedFd<'_>) -> Result<(), String> {
        let message = Message::new(say::HOLD, 0, 0, 0);
        self.connection.hand(message, descriptor).map(drop).map_err(|error| error.to_string())
    }

    fn give(&self) -> Option<OwnedFd> {
        // An older keeper does not know the question, and holds nothing.
        self.connection.ask(Message::new(say::TAKE, 0, 0, 0)).ok()?.1
    }

    fn keep(&self, sockets: &[(u32, BorrowedFd<'_>)]) -> Result<(), String> {
        if !self.stay {
            return Ok(());
        }
        match self.connection.keep(sockets) {
            Err(frost_keeper::Error::Busy) => Err("its keeper is of an older version of frost".to_owned()),
            Err(error) => Err(error.to_string()),
            Ok(()) => Ok(()),
        }
    }

    fn complete(&self, version: u32) -> Result<(), String> {
        let message = Message::new(say::FROZEN, version as i32, i32::from(self.stay), 0);
        self.connection.ask(message).map(drop).map_err(|error| error.to_string())
    }

    fn ending(&self, note: BorrowedFd<'_>, byte: u8) {
        // One of an older frost does not know the word, and takes an end behind our death for another's.
        let _ = self.connection.hand(Message::new(say::ENDING, byte.into(), 0, 0), note);
    }

    fn desert(&self) {
        // Else it hears so when we have ended.
        let _ = self.connection.ask(Message::new(say::LEAVE, 0, 0, 0));
    }
}

/// How long the keeper may take to collect what was ended.
const COLLECTED_WITHIN: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Freezes the program of a keeper as a version of `name`.
///
/// # Errors
/// As [`frost_freeze::freeze`]; the program runs on then.
pub fn freeze(store: &Store, name: &Name, keeper: &Keeper, how: Options<'_>) -> Result<Frozen, Failure> {
    let what = format!("cannot freeze {name}");
    let failed = |error: frost_keeper::Error| {
        Failure::new(frost_freeze::FailureKind::Failed, what.clone())
            .because(&error)
            .state("nothing was touched")
            .hint("try again; `frost ps` shows how it stands")
    };
    keeper.connection.ask(Message::new(say::FREEZE, 0, 0, 0)).map_err(failed)?;
    // Without it the image is told by the program's own name.
    let _ = keeper.instance.note_name(name);
    let notices = if keeper.runtime.notices { Notices::of(keeper.root) } else { None };
    let quiet = notices.as_ref().map_or(Quiet::Unasked, Notices::freezing);
    let told = notices.filter(|_| quiet != Quiet::Unasked);
    // What its image brought along this machine still lacks.
    let bundle = how.bundle || keeper.bundled;
    let how = Options { keeper: Some(keeper), bundle, files: how.files || bundle, ..how };
    let within = within(store, keeper.keeper);
    let mut root = keeper.root;
    let frozen = loop {
        let outcome = frost_freeze::freeze(store, root, name, how);
        // What starts a daemon ends when that runs: the program is what it has left behind.
        let gone = matches!(&outcome, Err(failure) if failure.kind == frost_freeze::FailureKind::NotFound);
        match if gone { keeper.heir() } else { None } {
            Some(heir) if heir != root => root = heir,
            _ => break outcome,
        }
    };
    if let Some(notices) = told
        && frozen.as_ref().map_or(true, |frozen| frozen.running)
    {
        notices.goes_on();
    }
    let mut frozen = frozen?;
    if quiet == Quiet::Late {
        frozen.warnings.push(format!(
            "it asked to be told before it is frozen, but did not say within {} s that it is ready",
            QUIET_WITHIN.as_secs()
        ));
    }
    if !frozen.running {
        let outer = ImageId { name: name.clone(), version: frozen.version };
        for inner in within {
            // Without it `frost ps` takes its keeper for one that was killed.
            let _ = inner.note_within(&outer);
        }
        // So that whoever thaws it next finds the keeper done with the program.
        loop {
            let mut fds = [PollFd::new(&keeper.connection, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&COLLECTED_WITHIN)) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            match keeper.connection.receive() {
                Ok(packet) if packet.message.kind == say::ICE && keeper.stay => break,
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    Ok(frozen)
}

/// Finds the programs that were started in another one, by their keepers, which are below that's.
fn within(store: &Store, keeper: i32) -> Vec<Instance> {
    let below = Kept::below(keeper);
    let is_first = |pid: &i32| proc::status(*pid).is_ok_and(|status| status.inner_pids.last() == Some(&1));
    let first: Vec<i32> = below.into_iter().filter(|pid| *pid != keeper && is_first(pid)).collect();
    if first.is_empty() {
        return Vec::new();
    }
    let found = instance::names(store)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|other| Instance::find(store, &other).ok()?);
    let is_within = |instance: &Instance| matches!(instance.standing(), Ok(Standing::Kept(kept)) if first.contains(&kept.keeper));
    found.filter(is_within).collect()
}
