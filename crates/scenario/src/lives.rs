//! The lives of components: started, ended, started again, and one put in another's place.

use crate::budget::Groups;
use crate::control::Replacement;
use crate::engine::{Engine, Timer, Token, listen};
use crate::face::Files;
use crate::scenario::{Component, DOCUMENT, Label, Restart, Route, SCENARIO, Scenario};
use crate::stage::{self, Surroundings};
use frost_component::Content;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::RecvFlags;
use rustix::process::{PidfdFlags, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, PipeReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// A component of the scenario, and how it stands.
#[derive(Debug)]
pub(crate) struct Slot {
    /// What it is now.
    pub(crate) spec: Component,
    /// What the file says; not the same after a replacement.
    written: Component,
    /// The life that has its place.
    pub(crate) current: Option<u64>,
    /// The life that is to have it.
    pub(crate) successor: Option<u64>,
    /// How often it has ended since its last report.
    pub(crate) failures: u32,
    pub(crate) starts: u64,
    pub(crate) phase: Phase,
    /// How its last life ended.
    pub(crate) last_end: Option<String>,
    /// Why its last report was not taken.
    pub(crate) complaint: Option<String>,
}

impl Slot {
    /// Returns by what it was replaced since its file was written, if it was.
    pub(crate) fn replacement(&self) -> Option<Replacement> {
        (self.spec != self.written).then(|| Replacement {
            binary: Some(self.spec.binary.clone()),
            arguments: Some(self.spec.arguments.clone()),
            version: Some(self.spec.version.clone()),
            timeout_ms: 0,
        })
    }
}

/// How a component stands of which nothing runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// It is started again in a while.
    Waiting,
    /// It has ended, as its restart policy allows.
    Ended,
    /// It has failed too often.
    GivenUp,
}

/// One process of a component, from its start to its end.
pub(crate) struct Life {
    pub(crate) component: String,
    pub(crate) spec: Component,
    pub(crate) listener: OwnedFd,
    tokens: [u64; 3],
    /// What it prints arrives here.
    heard: PipeReader,
    child: Child,
    pidfd: OwnedFd,
    pub(crate) directory: PathBuf,
    pub(crate) clients: BTreeSet<u64>,
    /// The reports that it writes.
    pub(crate) reports: BTreeSet<String>,
    /// What a successor has reported.
    pub(crate) staged: Option<BTreeMap<String, Content>>,
    /// It is compared with the one that has the place, which it will not take.
    pub(crate) is_on_trial: bool,
    pub(crate) has_reported: bool,
    /// How much it has asked for, and reported.
    pub(crate) acts: u64,
    /// We have asked it to end.
    pub(crate) is_ending: bool,
    /// Why we have killed it.
    why: Option<String>,
    /// How many heartbeats it has not answered.
    pub(crate) skipped: u32,
    /// The command that waits for it to take over.
    patron: Option<u64>,
    /// The process that has connected.
    pub(crate) peer: Option<i32>,
    pub(crate) files: Option<Files>,
    /// When its budget of reports is used up to.
    pub(crate) due: Instant,
    /// What holds it to its budget of the machine.
    pub(crate) groups: Groups,
}

impl Life {
    /// Returns its process: that which has connected, if it has.
    pub(crate) fn pid(&self) -> i32 {
        self.peer.unwrap_or(self.child.id() as i32)
    }
}

/// How many connections a component may have: it needs one.
const CONNECTIONS: usize = 16;

/// How many packets are taken of a life that has ended.
const QUEUE: usize = 1024;

/// How much of what a component prints is taken at once.
const PRINT_BYTES: usize = 64 << 10;

/// Of the heartbeats so many may be missed.
const HEARTBEATS: u32 = 3;

/// How long a component has to end by itself once its connection is closed.
const GRACE: Duration = Duration::from_secs(1);

/// No pause before a new start is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Engine {
    /// Goes over to another scenario: does what is different.
    pub(crate) fn apply(&mut self, new: Scenario) {
        let old = std::mem::replace(&mut self.scenario, new);
        for label in old.documents.keys().map(|name| Label::new(DOCUMENT, name)) {
            if !self.scenario.documents.contains_key(&label.report) {
                self.documents.clear(&label);
            }
        }
        let mut documents: Vec<(Label, Vec<u8>)> = Vec::new();
        for (name, content) in &self.scenario.documents {
            documents.push((Label::new(DOCUMENT, name), content.clone()));
        }
        documents.push((Label::new(SCENARIO, "file"), self.scenario.text.clone().into_bytes()));
        for (label, content) in documents {
            let document = self.documents.get(&label);
            if document.is_live && document.content.as_deref() == Some(&content[..]) {
                continue;
            }
            match Content::new(&content) {
                Ok(content) => {
                    self.documents.replace(&label, content);
                    self.signal(&label);
                }
                Err(errno) => {
                    crate::voice::tell(format_args!("frost-scenario: {label} stays as it was: {errno}"))
                }
            }
        }
        let gone: Vec<String> =
            self.slots.keys().filter(|name| !self.scenario.components.contains_key(*name)).cloned().collect();
        for name in gone {
            let lives = self.slots.remove(&name).map(|slot| [slot.current, slot.successor]);
            for life in lives.into_iter().flatten().flatten() {
                self.end(life);
            }
        }
        let components: Vec<(String, Component)> =
            self.scenario.components.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect();
        for (name, spec) in components {
            let wiring = |scenario: &Scenario| -> Vec<Route> {
                scenario.routes_of(&name).into_iter().cloned().collect()
            };
            let is_rewired = wiring(&old) != wiring(&self.scenario);
            match self.slots.get_mut(&name) {
                None => {
                    let replaced = self.replaced.remove(&name).unwrap_or_default();
                    let slot = Slot {
                        spec: replaced.of(&spec),
                        written: spec,
                        current: None,
                        successor: None,
                        failures: 0,
                        starts: 0,
                        phase: Phase::Waiting,
                        last_end: None,
                        complaint: None,
                    };
                    self.slots.insert(name.clone(), slot);
                    self.start(&name);
                }
                Some(slot) if slot.written != spec || is_rewired => {
                    slot.written = spec.clone();
                    slot.spec = spec;
                    slot.failures = 0;
                    slot.phase = Phase::Waiting;
                    let (current, successor) = (slot.current, slot.successor);
                    if let Some(successor) = successor {
                        self.end(successor);
                    }
                    match current {
                        Some(current) => self.end(current),
                        None => self.start(&name),
                    }
                }
                Some(_) => {}
            }
        }
        self.keep_what_persists(&old.persisted);
        self.apply_members(&old.programs);
        self.watch_files();
        self.is_news = true;
    }

    pub(crate) fn start_if_due(&mut self, name: &str) {
        let is_due =
            self.slots.get(name).is_some_and(|slot| slot.phase == Phase::Waiting && slot.current.is_none());
        if is_due && !self.is_ending {
            self.start(name);
        }
    }

    fn start(&mut self, name: &str) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        slot.starts += 1;
        slot.phase = Phase::Running;
        let spec = slot.spec.clone();
        match self.give_birth(name, &spec, false) {
            Ok(life) => {
                if let Some(slot) = self.slots.get_mut(name) {
                    slot.current = Some(life);
                }
            }
            Err(error) => {
                let why = format!("cannot start {}: {error}", spec.binary.display());
                self.failed(name, why, false);
            }
        }
        self.is_news = true;
    }

    /// Starts a process of a component; if it is `beside` the one that has the place, what it reports is held back.
    pub(crate) fn give_birth(&mut self, name: &str, spec: &Component, is_beside: bool) -> io::Result<u64> {
        let binary = stage::find(&spec.binary)?;
        let number = self.fresh();
        let directory = self.home.join("c").join(number.to_string());
        // What each has its own root mounted on, and sees nothing of.
        let root = self.home.join("c/root");
        // As few as will do: ext4 looks at every inode that was freed in the last seconds before it takes one, so with
        // many lives that end and begin directories are a third of what a start costs.
        let mut places = vec![root.clone(), directory.clone()];
        let mut sessions = directory.clone();
        if spec.files {
            sessions = directory.join("s");
            // If it is isolated its reports are not in there, but somewhere of its own mounted on it.
            places.extend([sessions.join("rom"), sessions.join("report")]);
        }
        for place in places {
            std::fs::create_dir_all(place)?;
        }
        let listener = listen(&sessions.join("session"))?;
        std::fs::create_dir_all(self.home.join("logs"))?;
        let (heard, log) = std::io::pipe()?;
        rustix::io::ioctl_fionbio(&heard, true)?;
        let (files, stage) = match spec.files {
            true => self
                .prepare_files(number, &sessions, spec.isolated)
                .map(|(files, stage)| (Some(files), stage))?,
            false => (None, None),
        };
        let mut surroundings = Surroundings {
            parent: std::process::id() as i32,
            binary,
            arguments: spec.arguments.clone(),
            environment: spec.environment.clone(),
            sessions,
            root,
            isolated: spec.isolated,
            network: spec.network,
            paths: spec.paths.clone(),
            memory_bytes: spec.memory_bytes,
            groups: Vec::new(),
            processes: spec.processes,
            open_files: self.open_files,
            files: spec.files,
            limit_bytes: spec.limit_bytes,
        };
        // No two lives have the same: what removes the group of one that has ended goes by its name.
        let called = format!("{}.{name}.{}.{number}", self.name, std::process::id());
        let mut groups = Groups::make(&called, spec.budget)?;
        surroundings.groups = groups.entrances();
        let mut child = match stage::spawn(&surroundings, log, stage) {
            Ok(child) => child,
            Err(error) => {
                self.leave_groups(groups);
                return Err(error);
            }
        };
        let held = rustix::process::Pid::from_raw(child.id() as i32)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
            .map_err(io::Error::from)
            .and_then(|pidfd| {
                let end = self.listen_to(&pidfd, Token::End(number))?;
                let listens = self.listen_to(&listener, Token::Listener(number))?;
                self.watch_groups(number, &mut groups)?;
                Ok((pidfd, [end, listens, self.listen_to(&heard, Token::Log(number))?]))
            });
        let (pidfd, tokens) = match held {
            Ok(held) => held,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                self.leave_groups(groups);
                return Err(error);
            }
        };
        let life = Life {
            component: name.to_owned(),
            spec: spec.clone(),
            listener,
            tokens,
            heard,
            child,
            pidfd,
            directory,
            clients: BTreeSet::new(),
            reports: BTreeSet::new(),
            staged: is_beside.then(BTreeMap::new),
            is_on_trial: false,
            has_reported: false,
            acts: 0,
            is_ending: false,
            why: None,
            skipped: 0,
            patron: None,
            peer: None,
            files,
            due: Instant::now(),
            groups,
        };
        self.lives.insert(number, life);
        if spec.files {
            let roms: Vec<String> = self.scenario.roms_of(name).into_iter().map(str::to_owned).collect();
            for rom in roms {
                self.open_file_rom(number, name, &rom);
            }
        }
        if let Some(span) = spec.heartbeat {
            self.after(span, Timer::Heartbeat(number));
        }
        Ok(number)
    }

    /// Writes what a life has printed into its component's log, not more than a pipe holds at once, so that the others have
    /// their turn. Returns whether there may be more.
    pub(crate) fn take_print(&mut self, number: u64) -> bool {
        let Some(life) = self.lives.get(&number) else { return false };
        let mut bytes = vec![0; PRINT_BYTES];
        match rustix::io::read(&life.heard, &mut bytes[..]) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
            Ok(count) if count > 0 => {
                let path = self.home.join("logs").join(&life.component);
                if let Err(error) = append(&path, &bytes[..count], life.spec.log_bytes) {
                    crate::voice::tell(format_args!(
                        "frost-scenario: {} is not complete: {error}",
                        path.display()
                    ));
                }
                true
            }
            // Nobody is left who could print.
            _ => {
                self.forget_token(life.tokens[2]);
                false
            }
        }
    }

    /// Lets a process of a component speak to us.
    pub(crate) fn admit(&mut self, number: u64, socket: OwnedFd) {
        if self.lives.get(&number).is_some_and(|life| life.clients.len() >= CONNECTIONS) {
            return;
        }
        let peer = rustix::net::sockopt::socket_peercred(&socket).ok();
        let Some(client) = self.add_client(socket, crate::client::Owner::Life(number)) else { return };
        let Some(life) = self.lives.get_mut(&number) else { return };
        life.clients.insert(client);
        life.peer = peer.map(|peer| rustix::process::Pid::as_raw(Some(peer.pid)));
        let is_ending = life.is_ending;
        self.is_news = true;
        if is_ending {
            self.drop_client(client);
        }
    }

    /// Ends a life: its sessions now, its process when it sees that, or a while later.
    pub(crate) fn end(&mut self, number: u64) {
        let Some(life) = self.lives.get_mut(&number) else { return };
        if std::mem::replace(&mut life.is_ending, true) {
            return;
        }
        let clients = life.clients.clone();
        if clients.is_empty() {
            let _ = rustix::process::pidfd_send_signal(&life.pidfd, Signal::TERM);
        }
        for client in clients {
            self.drop_client(client);
        }
        self.after(GRACE, Timer::Kill(number));
        self.is_news = true;
    }

    pub(crate) fn kill(&mut self, number: u64) {
        if let Some(life) = self.lives.get(&number) {
            let _ = rustix::process::pidfd_send_signal(life.pidfd.as_fd(), Signal::KILL);
        }
    }

    /// Ends the scenario.
    pub(crate) fn end_all(&mut self) {
        self.is_ending = true;
        self.end_members();
        for life in self.lives.keys().copied().collect::<Vec<_>>() {
            self.end(life);
        }
    }

    /// Asks a life whether it is alive; kills it if it has not answered for too long.
    pub(crate) fn heartbeat(&mut self, number: u64) {
        let Some(life) = self.lives.get_mut(&number) else { return };
        let Some(span) = life.spec.heartbeat else { return };
        // Its answer may lie behind what waits for its budget, or for the disk.
        if life.clients.iter().any(|client| self.clients.get(client).is_some_and(|client| client.is_paused)) {
            return self.after(span, Timer::Heartbeat(number));
        }
        if life.skipped >= HEARTBEATS {
            life.why = Some(format!("it has not answered {HEARTBEATS} heartbeats"));
            return self.kill(number);
        }
        life.skipped += 1;
        for client in life.clients.clone() {
            let is_asked = self
                .clients
                .get_mut(&client)
                .is_some_and(|client| std::mem::replace(&mut client.is_asked, true));
            if !is_asked {
                self.send(client, "heartbeat".to_owned(), None);
            }
        }
        self.after(span, Timer::Heartbeat(number));
    }

    /// Takes what a life had said before it ended: that its end is found first is chance.
    fn hear_out(&mut self, number: u64, client: u64) {
        // A queue holds less, as a rule; but somebody whom it has left behind may go on.
        for _ in 0..QUEUE {
            let Some(connection) = self.clients.get(&client) else { return };
            match frost_component::wire::receive(&connection.socket, RecvFlags::DONTWAIT) {
                Ok(Some(packet)) => drop(self.request(client, number, packet)),
                _ => return,
            }
        }
    }

    /// A process has ended: its sessions end, and it may be started again.
    pub(crate) fn life_ended(&mut self, number: u64) {
        let Some(life) = self.lives.get_mut(&number) else { return };
        let status = match life.child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => return,
            Err(_) => ExitStatus::from_raw(0),
        };
        let (clients, is_successor) = (life.clients.clone(), life.staged.is_some());
        for client in clients {
            // A successor that has ended takes nobody's place.
            if !is_successor {
                self.hear_out(number, client);
            }
            self.drop_client(client);
        }
        self.forget_files(number);
        while self.take_print(number) {}
        // Reports that came as files have no connection.
        let reports = self.lives.get(&number).map(|life| life.reports.clone()).unwrap_or_default();
        for report in reports {
            self.close_report(number, &report);
        }
        let Some(mut life) = self.lives.remove(&number) else { return };
        for token in life.tokens {
            self.forget_token(token);
        }
        let _ = std::fs::remove_dir_all(&life.directory);
        self.is_news = true;
        // Whatever else has happened to it, without that it would have gone on.
        let starved = (!status.success() && life.groups.has_starved()).then(|| {
            let allowed = life.spec.budget.ram_bytes.unwrap_or(0);
            format!("ended: it needed more memory than its budget allows, {} KiB (`ram`)", allowed >> 10)
        });
        let is_at_fault = starved.is_some() || life.why.is_some();
        let told = starved.or_else(|| life.why.clone()).unwrap_or_else(|| tell(status));
        self.leave_groups(std::mem::take(&mut life.groups));
        let name = life.component;
        let Some(slot) = self.slots.get_mut(&name) else { return };
        if slot.successor == Some(number) {
            slot.successor = None;
            if let Some(patron) = life.patron {
                let why = format!(
                    "error replace {name} its successor has ended before it reported: {told}; the old one stays"
                );
                self.send(patron, why, None);
            }
            return;
        }
        if slot.current != Some(number) {
            return;
        }
        slot.current = None;
        if self.is_ending {
            slot.phase = Phase::Ended;
            return;
        }
        if life.is_ending {
            return self.start(&name);
        }
        slot.last_end = Some(told.clone());
        let again = match slot.spec.restart {
            Restart::Always => true,
            Restart::OnFailure => !status.success(),
            Restart::Never => false,
        };
        if !again {
            slot.phase = Phase::Ended;
            return;
        }
        // That somebody has killed it is no fault of its own. A reaper tells signals as a shell does.
        let is_killed = !is_at_fault && (status.signal() == Some(9) || status.code() == Some(128 + 9));
        if is_killed && life.has_reported {
            return self.start(&name);
        }
        self.failed(&name, told, is_killed);
    }

    /// Starts a component again, in a while; not if it has failed too often, by its own fault.
    fn failed(&mut self, name: &str, why: String, is_blameless: bool) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        slot.last_end = Some(why);
        slot.phase = Phase::Waiting;
        slot.failures = slot.failures.saturating_add(1);
        if slot.failures >= slot.spec.attempts && !is_blameless {
            slot.phase = Phase::GivenUp;
            return;
        }
        let factor = 1u32.checked_shl(slot.failures - 1).unwrap_or(u32::MAX);
        let pause = slot.spec.backoff.saturating_mul(factor).min(LONGEST_PAUSE);
        self.after(pause, Timer::Start(name.to_owned()));
    }

    /// Starts another implementation of a component beside it, to take its place when it has reported.
    pub(crate) fn replace(
        &mut self,
        name: &str,
        spec: Component,
        span: Duration,
        patron: u64,
    ) -> Result<(), String> {
        let slot = self.slots.get(name).ok_or("there is no such component")?;
        if slot.successor.is_some() {
            return Err("it is being replaced already".to_owned());
        }
        let life = self
            .give_birth(name, &spec, true)
            .map_err(|error| format!("cannot start {}: {error}; the old one stays", spec.binary.display()))?;
        if let Some(slot) = self.slots.get_mut(name) {
            slot.successor = Some(life);
        }
        if let Some(life) = self.lives.get_mut(&life) {
            life.patron = Some(patron);
        }
        self.after(span, Timer::Late(life));
        self.is_news = true;
        Ok(())
    }

    /// Lets a successor take over if it has reported all that its predecessor has.
    pub(crate) fn consider_successor(&mut self, number: u64) {
        let is_on_trial = self.lives.get(&number).is_some_and(|life| life.is_on_trial);
        if is_on_trial || !self.missing(number).is_empty() {
            return;
        }
        let Some(life) = self.lives.get_mut(&number) else { return };
        let (name, spec, patron) = (life.component.clone(), life.spec.clone(), life.patron.take());
        let staged = life.staged.take().unwrap_or_default();
        let open = life.reports.clone();
        let Some(slot) = self.slots.get_mut(&name) else { return };
        let old = slot.current.replace(number);
        slot.successor = None;
        slot.spec = spec;
        slot.failures = 0;
        slot.phase = Phase::Running;
        // The routes switch first, so that the end of the old one clears nothing that is now the new one's.
        for report in open {
            self.writers.insert(Label::new(&name, &report), number);
        }
        for (report, content) in staged {
            self.publish(&Label::new(&name, &report), content, None);
        }
        if let Some(old) = old {
            self.end(old);
        }
        if let Some(patron) = patron {
            self.send(patron, format!("replaced {name}"), None);
        }
        self.is_news = true;
    }

    /// The reports that a successor still owes.
    fn missing(&self, number: u64) -> Vec<String> {
        let Some(life) = self.lives.get(&number) else { return Vec::new() };
        let staged = life.staged.clone().unwrap_or_default();
        let old = self.slots.get(&life.component).and_then(|slot| self.lives.get(&slot.current?));
        let mut missing: Vec<String> = old
            .into_iter()
            .flat_map(|old| &old.reports)
            .filter(|report| self.documents.get(&Label::new(&life.component, report)).content.is_some())
            .filter(|report| !staged.contains_key(*report))
            .cloned()
            .collect();
        if staged.is_empty() && missing.is_empty() {
            missing.push("anything".to_owned());
        }
        missing
    }

    /// A successor has had its time: the old one stays.
    pub(crate) fn successor_is_late(&mut self, number: u64) {
        let missing = self.missing(number);
        let Some(life) = self.lives.get_mut(&number) else { return };
        if life.staged.is_none() {
            return;
        }
        let (name, patron) = (life.component.clone(), life.patron.take());
        if let Some(slot) = self.slots.get_mut(&name) {
            slot.successor = None;
        }
        if let Some(patron) = patron {
            let why = format!(
                "error replace {name} its successor has not reported {} in time; the old one stays",
                missing.join(", ")
            );
            self.send(patron, why, None);
        }
        self.end(number);
    }
}

/// Appends to a log; when it is full it becomes the old one, and what was the old one goes.
fn append(path: &std::path::Path, bytes: &[u8], limit_bytes: u64) -> io::Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    if length > 0 && length + bytes.len() as u64 > limit_bytes / 2 {
        let mut old = path.as_os_str().to_owned();
        // No component's name begins so.
        old.push("~");
        std::fs::rename(path, old)?;
        file = std::fs::File::options().create(true).append(true).open(path)?;
    }
    io::Write::write_all(&mut file, bytes)
}

fn tell(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".to_owned(),
        (Some(code), _) if code > 128 => format!("ended with status {code}, signal {}", code - 128),
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
