//! The supervisor: one thread that waits for everything at once, and does what there is to do without ever waiting in it.
//!
//! What it knows lies in [`Engine`]; [`crate::sessions`] serves components, [`crate::lives`] starts and ends them,
//! [`crate::face`] serves those whose sessions are files, [`crate::control`] serves commands.

use crate::budget::{self, Groups};
use crate::client::{Client, Owner, Sent};
use crate::control::Replacement;
use crate::document::Documents;
use crate::face;
use crate::image::Image;
use crate::lives::{Life, Slot};
use crate::members;
use crate::proof::Proof;
use crate::scenario::{self, Label, SCENARIO, Scenario};
use crate::vault::{self, Vault};
use frost_component::{Attention, Content};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Signals,
    Bell,
    Watch,
    Control,
    /// Somebody connects to the socket of a life.
    Listener(u64),
    /// A life has ended.
    End(u64),
    /// A life has printed something.
    Log(u64),
    /// The memory of a life lacks.
    Want(u64),
    /// The stage of a life tells where its reports are.
    Reports(u64),
    Client(u64),
}

/// What is to be done at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Start a component again.
    Start(String),
    /// Kill a life that has not ended by itself.
    Kill(u64),
    Heartbeat(u64),
    /// Read from a connection again.
    Resume(u64),
    /// Look for reports of a life that are files.
    Reports(u64),
    /// Write a ROM of a life that is a file once more.
    Rom(u64, String),
    /// A successor has not reported.
    Late(u64),
    /// Look whether something of a life was ended for want of memory, so many times.
    Want(u64, u32),
    /// Look whether a life is in its control groups.
    Groups(u64),
    /// Remove control groups that were busy.
    Left,
    /// Tell how things stand.
    State,
    /// Look at the proof.
    Prove,
}

/// Whose report it is.
pub(crate) struct Origin {
    pub(crate) client: u64,
    /// The report.
    pub(crate) name: String,
    /// It waits for an answer.
    pub(crate) is_answered: bool,
}

/// A version that is not safe on disk yet; readers do not see it before.
pub(crate) struct Pending {
    pub(crate) version: u64,
    pub(crate) content: Content,
    pub(crate) from: Option<Origin>,
}

/// The supervisor of one scenario.
pub(crate) struct Engine {
    /// Its directory.
    pub(crate) home: PathBuf,
    /// Its file.
    pub(crate) file: PathBuf,
    pub(crate) name: String,
    pub(crate) scenario: Scenario,
    /// Why the file, as it is now, is not used.
    pub(crate) trouble: Option<String>,
    pub(crate) documents: Documents,
    pub(crate) slots: BTreeMap<String, Slot>,
    pub(crate) lives: BTreeMap<u64, Life>,
    pub(crate) clients: BTreeMap<u64, Client>,
    /// Who reads a document: connections, and the ROM that it is to them.
    pub(crate) readers: BTreeMap<Label, BTreeSet<(u64, String)>>,
    /// Who reads it as a file.
    pub(crate) file_readers: BTreeMap<Label, BTreeSet<(u64, String)>>,
    /// The life that writes a document.
    pub(crate) writers: BTreeMap<Label, u64>,
    pub(crate) pending: BTreeMap<Label, Vec<Pending>>,
    /// What was found on disk when it began.
    safe: BTreeMap<Label, (u64, Content)>,
    /// The connections that wait for the end, and what they are told then.
    pub(crate) told_at_end: Vec<(u64, String)>,
    /// Components that were replaced before the scenario was frozen.
    pub(crate) replaced: BTreeMap<String, Replacement>,
    /// What went wrong with members.
    pub(crate) members: BTreeMap<String, String>,
    /// Those that this scenario has started; the names are kept on disk.
    pub(crate) started: BTreeSet<String>,
    /// They were ended, or frozen.
    pub(crate) members_are_gone: bool,
    pub(crate) is_ending: bool,
    /// Control groups of lives that have ended, not empty yet.
    pub(crate) left: Vec<Groups>,
    /// Components are compared with themselves.
    pub(crate) proof: Option<Proof>,
    /// Something has changed that the state report tells.
    pub(crate) is_news: bool,
    /// How many files this process was allowed to open before it has raised that, which components are not to notice.
    pub(crate) open_files: Option<u64>,
    last_state: Option<Instant>,
    vault: Vault,
    epoll: OwnedFd,
    bell: OwnedFd,
    signals: OwnedFd,
    pub(crate) watch: OwnedFd,
    /// What a watch is for: a life's reports, or a directory with files of the scenario.
    pub(crate) watched: BTreeMap<i32, face::Watched>,
    control: OwnedFd,
    tokens: BTreeMap<u64, Token>,
    timers: BTreeMap<(Instant, u64), Timer>,
    attention: Attention,
    next: u64,
}

/// The signals that end a scenario, as a mask: SIGINT, SIGTERM, and SIGHUP, when the terminal has gone at which it was started,
/// unless whoever has started it has it ignored, as nohup(1) does; a signalfd would tell of it nevertheless.
fn end_signals() -> u64 {
    const HANGUP: u64 = 1;
    let status = frost_sys::proc::status(std::process::id() as i32);
    let ignored = status.map_or(0, |status| status.ignored);
    (1 << 1 | 1 << 14) | (HANGUP & !ignored)
}

/// State is told at most so often.
const STATE_SPAN: Duration = Duration::from_millis(50);

/// How many packets of one connection are taken before the others have their turn.
const TURN: usize = 32;

impl Engine {
    /// Makes the supervisor of a scenario, with the documents that were kept, and those of an image.
    pub(crate) fn new(
        home: &Path,
        file: &Path,
        name: &str,
        scenario: Scenario,
        image: Option<Image>,
    ) -> io::Result<Self> {
        let end_signals = end_signals();
        frost_sys::signals::set_mask(end_signals)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let kept = home.join("documents");
        let control = listen(&home.join("control"))?;
        let signals = frost_sys::signalfd::signalfd(end_signals)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mut tokens = BTreeMap::new();
        let always = [
            (&signals, Token::Signals),
            (&bell, Token::Bell),
            (&watch, Token::Watch),
            (&control, Token::Control),
        ];
        for (number, (fd, token)) in (0..).zip(always) {
            epoll::add(&epoll, fd, EventData::new_u64(number), EventFlags::IN)?;
            tokens.insert(number, token);
        }
        let mut engine = Self {
            home: home.to_owned(),
            file: file.to_owned(),
            name: name.to_owned(),
            scenario: Scenario::default(),
            trouble: None,
            documents: Documents::default(),
            slots: BTreeMap::new(),
            lives: BTreeMap::new(),
            clients: BTreeMap::new(),
            readers: BTreeMap::new(),
            file_readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            pending: BTreeMap::new(),
            safe: BTreeMap::new(),
            told_at_end: Vec::new(),
            replaced: BTreeMap::new(),
            members: BTreeMap::new(),
            started: members::started(home),
            members_are_gone: false,
            is_ending: false,
            left: Vec::new(),
            proof: None,
            is_news: true,
            open_files: raise_open_files(),
            last_state: None,
            vault: Vault::start(kept.clone(), bell.try_clone()?)?,
            epoll,
            bell,
            signals,
            watch,
            watched: BTreeMap::new(),
            control,
            tokens,
            timers: BTreeMap::new(),
            attention: Attention::default(),
            next: 16,
        };
        let (documents, damaged) = vault::load(&kept)?;
        for (label, version, content) in documents {
            engine.safe.insert(label.clone(), (version, content.clone()));
            engine.documents.restore(label, version, Some(content));
        }
        if let Some(path) = damaged.first() {
            // To go on without it would write over it.
            let why = format!(
                "{path}, a document that persists, is damaged; put it back, or begin without it: remove it"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        if let Some(image) = image {
            image.restore(&mut engine.documents)?;
            // Before anything of it runs, and before a program that is missing would be started anew.
            engine.take_back_members(&scenario, &image.members).map_err(io::Error::other)?;
            engine.replaced = image.replaced;
        }
        engine.apply(scenario);
        // From here on they change.
        engine.safe.clear();
        Ok(engine)
    }

    /// Returns a number that nothing else has.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Waits for events of a descriptor from now on, and returns the number of that.
    pub(crate) fn listen_to(&mut self, fd: impl AsFd, token: Token) -> io::Result<u64> {
        let number = self.fresh();
        self.tokens.insert(number, token);
        epoll::add(&self.epoll, fd, EventData::new_u64(number), EventFlags::IN)?;
        Ok(number)
    }

    /// Adds a connection.
    pub(crate) fn add_client(&mut self, socket: OwnedFd, owner: Owner) -> Option<u64> {
        // It is known by the number of its token.
        let number = self.next + 1;
        match self.listen_to(&socket, Token::Client(number)) {
            Ok(number) => {
                self.clients.insert(number, Client::new(socket, owner));
                Some(number)
            }
            Err(error) => {
                crate::voice::tell(format_args!("frost-scenario: a connection is refused: {error}"));
                None
            }
        }
    }

    /// Nothing that has that number is an event any more.
    pub(crate) fn forget_token(&mut self, number: u64) {
        self.tokens.remove(&number);
    }

    /// Does something later.
    pub(crate) fn after(&mut self, span: Duration, timer: Timer) {
        let number = self.fresh();
        self.timers.insert((Instant::now() + span, number), timer);
    }

    /// Does something later, if that is not to be done yet.
    pub(crate) fn once_after(&mut self, span: Duration, timer: Timer) {
        if !self.timers.values().any(|waiting| *waiting == timer) {
            self.after(span, timer);
        }
    }

    /// Lets components be killed and compared with themselves, so many times; then the scenario ends.
    pub(crate) fn begin_proof(&mut self, rounds: u64) {
        self.proof = Some(Proof::new(rounds));
        self.after(Duration::ZERO, Timer::Prove);
    }

    /// Supervises until the end of the scenario; `lock` is held for so long. Returns what a proof has found.
    pub(crate) fn run(mut self, lock: File) -> io::Result<Option<String>> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        while !(self.is_ending && self.lives.is_empty() && self.pending.is_empty()) {
            self.tell_state();
            let wait = self.timers.first_key_value().map(|((at, _), _)| {
                let span = at.saturating_duration_since(Instant::now());
                Timespec { tv_sec: span.as_secs() as i64, tv_nsec: i64::from(span.subsec_nanos()) }
            });
            events.clear();
            let (epoll, now) = (&self.epoll, Timespec { tv_sec: 0, tv_nsec: 0 });
            self.attention.wait(|may_sleep| {
                let limit = if may_sleep { wait.as_ref() } else { Some(&now) };
                match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), limit) {
                    Ok(_) | Err(Errno::INTR) => Ok((!events.is_empty()).then_some(())),
                    Err(errno) => Err(errno),
                }
            })?;
            for event in &events {
                let number = event.data.u64();
                // What an earlier event has ended has no token any more.
                if let Some(token) = self.tokens.get(&number).copied() {
                    self.handle(token, event.flags);
                }
            }
            while let Some(entry) = self.timers.first_entry() {
                if entry.key().0 > Instant::now() {
                    break;
                }
                let timer = entry.remove();
                self.fire(timer);
            }
        }
        self.remove_last();
        // Whoever is told that it has ended may start it again at once.
        let _ = std::fs::remove_file(self.home.join("control"));
        drop(lock);
        for (client, told) in std::mem::take(&mut self.told_at_end) {
            self.send(client, told, None);
        }
        Ok(self.proof.and_then(|proof| proof.found))
    }

    fn handle(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Signals => {
                let _ = rustix::io::read(&self.signals, &mut [0; 128]);
                self.end_all();
            }
            Token::Bell => {
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
                self.settle();
            }
            Token::Watch => self.look_at_files(),
            Token::Control => {
                if let Some(socket) = accept(&self.control) {
                    self.add_client(socket, Owner::Command);
                }
            }
            Token::Listener(life) => {
                let socket = self.lives.get(&life).and_then(|life| accept(&life.listener));
                if let Some(socket) = socket {
                    self.admit(life, socket);
                }
            }
            Token::End(life) => self.life_ended(life),
            Token::Log(life) => drop(self.take_print(life)),
            Token::Want(life) => self.wants(life),
            Token::Reports(life) => self.find_reports(life),
            Token::Client(number) => self.serve(number, flags),
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Start(name) => self.start_if_due(&name),
            Timer::Kill(life) => self.kill(life),
            Timer::Heartbeat(life) => self.heartbeat(life),
            Timer::Resume(client) => self.resume(client),
            Timer::Reports(life) => self.take_late(life),
            Timer::Rom(life, name) => self.write_rom(life, &name),
            Timer::Late(life) => self.successor_is_late(life),
            Timer::Want(life, looks) => self.look_for_want(life, looks),
            Timer::Groups(life) => self.settle_groups(life),
            Timer::Left => self.remove_left(),
            Timer::State => self.tell_state(),
            Timer::Prove => self.prove(),
        }
    }

    /// Takes what a connection has sent, and sends what it waits for.
    fn serve(&mut self, number: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            let sent = self.clients.get_mut(&number).map(Client::flush);
            match sent {
                Some(Sent::All) => self.turn(number, EventFlags::IN),
                Some(Sent::Full) => return,
                _ => return self.drop_client(number),
            }
        }
        // Who speaks waits for an answer, as a rule: to look for more would cost as much again as what is there. Whether it
        // is one that sends several at once is looked now and then.
        let Some(client) = self.clients.get_mut(&number) else { return };
        client.turns = client.turns.wrapping_add(1);
        let turn = if client.is_eager || client.turns % 16 == 0 { TURN } else { 1 };
        client.is_eager = false;
        for count in 0..turn {
            let Some(client) = self.clients.get(&number) else { return };
            let packet =
                match frost_component::wire::receive(&client.socket, rustix::net::RecvFlags::DONTWAIT) {
                    Ok(Some(packet)) => packet,
                    Err(Errno::AGAIN) => return,
                    // It is gone, or does not speak the protocol.
                    _ => return self.drop_client(number),
                };
            if count > 0
                && let Some(client) = self.clients.get_mut(&number)
            {
                client.is_eager = true;
            }
            let Some(client) = self.clients.get(&number) else { return };
            let goes_on = match client.owner {
                Owner::Life(life) => self.request(number, life, packet),
                Owner::Command => self.command(number, packet),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Sends a packet; returns whether more may be read from that connection.
    pub(crate) fn send(&mut self, number: u64, head: String, content: Option<Content>) -> bool {
        let Some(client) = self.clients.get_mut(&number) else { return false };
        match client.send(head, content) {
            Sent::All => true,
            Sent::Full => {
                self.turn(number, EventFlags::OUT);
                false
            }
            // Its end is found when it is read from, in the order of events.
            Sent::Gone => true,
        }
    }

    /// Reads nothing from a connection for a while.
    pub(crate) fn pause(&mut self, number: u64) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.is_paused = true;
        }
        self.turn(number, EventFlags::empty());
    }

    /// Reads from a connection again.
    pub(crate) fn resume(&mut self, number: u64) {
        if let Some(client) = self.clients.get_mut(&number)
            && std::mem::take(&mut client.is_paused)
        {
            // If its queue is full that is found at the next answer.
            self.turn(number, EventFlags::IN);
        }
    }

    fn turn(&self, number: u64, flags: EventFlags) {
        if let Some(client) = self.clients.get(&number) {
            let _ = epoll::modify(&self.epoll, &client.socket, EventData::new_u64(number), flags);
        }
    }

    /// Replaces a document for all its readers, and answers its writer; at once, or when it is safe.
    pub(crate) fn publish(&mut self, label: &Label, content: Content, from: Option<Origin>) {
        // What was to persist until just now is in its turn still: a newer version must not be overtaken by it.
        if self.scenario.persisted.contains(label) || self.pending.contains_key(label) {
            let waiting = self.pending.entry(label.clone()).or_default();
            let last = waiting.last().map(|pending| pending.version);
            let version = last.unwrap_or_else(|| self.documents.get(label).version) + 1;
            waiting.push(Pending { version, content: content.clone(), from });
            self.vault.keep(label.clone(), version, content);
            return;
        }
        let version = self.documents.replace(label, content);
        // Readers first: they wait for something, the writer only for its turn.
        self.signal(label);
        if let Some(Origin { client, name, is_answered: true }) = from {
            self.send(client, format!("submitted {name} {version}"), None);
        }
    }

    /// Makes documents safe that persist from now on, though they were reported before.
    pub(crate) fn keep_what_persists(&mut self, before: &BTreeSet<Label>) {
        for label in self.scenario.persisted.difference(before) {
            let document = self.documents.get(label);
            let Some(content) = document.content else { continue };
            // What waits for the disk is newer.
            let waits = self.pending.contains_key(label);
            if !waits && self.safe.get(label) != Some(&(document.version, content.clone())) {
                self.vault.keep(label.clone(), document.version, content);
            }
        }
    }

    /// Publishes what has become safe.
    fn settle(&mut self) {
        for (label, safe, result) in self.vault.done() {
            let waiting = self.pending.remove(&label).unwrap_or_default();
            let (done, rest): (Vec<Pending>, Vec<Pending>) =
                waiting.into_iter().partition(|pending| pending.version <= safe);
            if !rest.is_empty() {
                self.pending.insert(label.clone(), rest);
            }
            if let (Ok(()), Some(newest)) = (&result, done.last()) {
                self.documents.restore(label.clone(), newest.version, Some(newest.content.clone()));
                if self.writers.contains_key(&label) {
                    self.documents.revive(&label);
                }
            }
            // Its own log may be on the same disk: status tells it, until one is kept again.
            if let Some(slot) = self.slots.get_mut(&label.writer) {
                slot.complaint =
                    result.as_ref().err().map(|why| format!("{} cannot be kept: {why}", label.report));
                self.is_news = true;
            }
            if let (Err(why), true) = (&result, done.is_empty()) {
                crate::voice::tell(format_args!("frost-scenario: {label} cannot be kept: {why}"));
            }
            for Pending { version, from, .. } in done {
                let Some(Origin { client, name, is_answered }) = from else { continue };
                let verb = if is_answered { "submit" } else { "put" };
                match &result {
                    Ok(()) if !is_answered => {}
                    Ok(()) => drop(self.send(client, format!("submitted {name} {version}"), None)),
                    Err(why) => {
                        let told = format!("error {verb} {name} cannot be kept: {why}; it is as it was");
                        self.send(client, told, None);
                    }
                }
                self.resume(client);
            }
            if result.is_ok() {
                self.signal(&label);
            }
        }
    }

    /// Tells a document's readers that there is a newer version.
    pub(crate) fn signal(&mut self, label: &Label) {
        let readers: Vec<(u64, String)> = self.readers.get(label).into_iter().flatten().cloned().collect();
        for (client, name) in readers {
            self.tell(client, &name);
        }
        let readers: Vec<(u64, String)> =
            self.file_readers.get(label).into_iter().flatten().cloned().collect();
        for (life, name) in readers {
            self.write_rom(life, &name);
        }
        // The state tells versions; its own change is no news.
        self.is_news |= label.writer != SCENARIO;
    }

    /// Replaces the report on the scenario itself, if there is news, and it is time.
    fn tell_state(&mut self) {
        if !self.is_news {
            return;
        }
        // Nobody reads it, as a rule; and a thousand components make it long.
        let label = Label::new(SCENARIO, "state");
        if !self.scenario.tells_state && !self.readers.contains_key(&label) {
            self.is_news = false;
            return;
        }
        if let Some(last) = self.last_state
            && last.elapsed() < STATE_SPAN
        {
            self.once_after(STATE_SPAN - last.elapsed().min(STATE_SPAN), Timer::State);
            return;
        }
        self.is_news = false;
        self.last_state = Some(Instant::now());
        if let Ok(content) = Content::new(self.state_text().as_bytes())
            && self.documents.get(&label).content.as_ref() != Some(&content)
        {
            self.publish(&label, content, None);
        }
    }

    /// Reads the scenario's file anew, and does what has changed.
    pub(crate) fn reload(&mut self) {
        let new = scenario::load(&self.file);
        match new.and_then(|new| budget::check(&new).map(|()| new)) {
            Ok(new) => {
                self.trouble = None;
                self.apply(new);
            }
            Err(unusable) => {
                let text = format!("{}; {}", unusable.why, unusable.remedy);
                if self.trouble.as_ref() != Some(&text) {
                    crate::voice::tell(format_args!(
                        "frost-scenario: {} is not used: {text}",
                        self.file.display()
                    ));
                }
                self.trouble = Some(text);
            }
        }
        self.is_news = true;
    }
}

/// Lets this process open as many files as it may; a component takes four. Returns what the limit was.
fn raise_open_files() -> Option<u64> {
    let limits = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    // Where that fails, it goes as far as it goes.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    limits.current
}

/// Makes a socket that components or commands connect to.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Takes a connection, if it is one of our own user.
fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
    let (user, ours) = (peer.uid, rustix::process::geteuid());
    (user == ours || user.is_root()).then_some(socket)
}
