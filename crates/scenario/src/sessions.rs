//! What components ask for: ROM and Report sessions.

use crate::client::Rom;
use crate::engine::{Engine, Origin, Timer};
use crate::scenario::{Label, SCENARIO};
use crate::spot;
use frost_component::Content;
use frost_component::wire::{Packet, is_name};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// No component has more reports, no connection more ROMs: each takes memory of the supervisor.
const SESSIONS: usize = 1024;

/// How many versions of a report that persists may wait for the disk.
const UNSAFE: usize = 16;

impl Engine {
    /// Does what a component asks for. Returns whether its next packet may be read.
    pub(crate) fn request(&mut self, client: u64, life: u64, packet: Packet) -> bool {
        let (verb, name, more) = packet.words();
        let (verb, name, more) = (verb.to_owned(), name.to_owned(), more.to_owned());
        if verb == "alive" {
            if let Some(client) = self.clients.get_mut(&client) {
                client.is_asked = false;
            }
            if let Some(life) = self.lives.get_mut(&life) {
                life.skipped = 0;
            }
            return true;
        }
        if let Some(life) = self.lives.get_mut(&life) {
            life.acts += 1;
        }
        if verb == "next" {
            return self.next(client, &name);
        }
        let answer = match verb.as_str() {
            _ if !is_name(&name) => Err("this is no name".to_owned()),
            "rom" => match self.open_rom(client, life, &name, more == "sent") {
                Ok(()) => return true,
                Err(error) => Err(error),
            },
            "get" => return self.get(client, &name),
            "report" => self.open_report(client, life, &name),
            "submit" | "put" => match self.submit(client, life, &name, packet, verb == "submit") {
                Ok(None) => {
                    self.next_of(client, &more);
                    return self.may_go_on(client, life, &name);
                }
                Ok(Some(answer)) if verb == "submit" => Ok(answer),
                Ok(Some(_)) => {
                    self.next_of(client, &more);
                    return true;
                }
                Err(error) => Err(error),
            },
            "close" => self.close(client, life, &name),
            _ => Err("there is no such request; docs/component.md lists all".to_owned()),
        };
        if verb == "submit" || verb == "put" {
            self.next_of(client, &more);
        }
        match answer {
            Ok(answer) => self.send(client, answer, None),
            Err(error) => {
                let name = if is_name(&name) { &name } else { "-" };
                self.send(client, format!("error {verb} {name} {error}"), None)
            }
        }
    }

    fn open_rom(&mut self, client: u64, life: u64, name: &str, is_sent: bool) -> Result<(), String> {
        let component = self.lives.get(&life).map(|life| life.component.clone()).unwrap_or_default();
        let route = self.scenario.route(&component, name).ok_or_else(|| {
            let known = self.scenario.roms_of(&component);
            format!(
                "no route: the ROM {name} of {component} leads to no report; {}",
                spot::suggest(name, "its ROMs", known)
            )
        })?;
        if self.clients.get(&client).is_some_and(|client| client.roms.len() >= SESSIONS) {
            return Err(format!("one connection has no more than {SESSIONS} ROM sessions; close one"));
        }
        self.send(client, format!("rom {name}"), None);
        self.attach(client, name, route.from, route.sticky, is_sent);
        Ok(())
    }

    /// Lets a connection read a document, and signals it at once.
    pub(crate) fn attach(&mut self, client: u64, name: &str, label: Label, sticky: bool, is_sent: bool) {
        self.detach(client, name);
        let Some(connection) = self.clients.get_mut(&client) else { return };
        // What nobody has read was not told.
        self.is_news |= label.writer == SCENARIO;
        let rom = Rom { label: label.clone(), sticky, is_armed: true, is_sent, told: 0 };
        connection.roms.insert(name.to_owned(), rom);
        self.readers.entry(label).or_default().insert((client, name.to_owned()));
        self.tell(client, name);
    }

    /// Ends a ROM session. Returns whether there was one.
    fn detach(&mut self, client: u64, name: &str) -> bool {
        let rom = self.clients.get_mut(&client).and_then(|client| client.roms.remove(name));
        let Some(rom) = rom else { return false };
        if let Some(readers) = self.readers.get_mut(&rom.label) {
            readers.remove(&(client, name.to_owned()));
            if readers.is_empty() {
                self.readers.remove(&rom.label);
            }
        }
        true
    }

    /// Gives a reader the newest version.
    pub(crate) fn get(&mut self, client: u64, name: &str) -> bool {
        let rom = self.clients.get_mut(&client).and_then(|client| client.roms.get_mut(name));
        let Some(rom) = rom else {
            return self.send(
                client,
                format!("error get {name} is not open; ask for `rom {name}` first"),
                None,
            );
        };
        rom.is_armed = true;
        let (document, sticky) = (self.documents.get(&rom.label), rom.sticky);
        rom.told = document.version;
        match document.seen(sticky) {
            Some(content) => {
                self.send(client, format!("version {name} {}", document.version), Some(content.clone()))
            }
            None => self.send(client, format!("empty {name} {}", document.version), None),
        }
    }

    /// Does as much for all ROMs that are named.
    fn next_of(&mut self, client: u64, names: &str) {
        for name in names.split(' ').filter(|name| !name.is_empty()) {
            self.next(client, name);
        }
    }

    /// A reader has read the version that its signal has brought: the next signal may come, at once if there is news.
    fn next(&mut self, client: u64, name: &str) -> bool {
        let rom = self.clients.get_mut(&client).and_then(|client| client.roms.get_mut(name));
        let Some(rom) = rom else { return true };
        rom.is_armed = true;
        if self.documents.get(&rom.label).version > rom.told {
            return self.tell(client, name);
        }
        true
    }

    /// Signals a reader that there is a newer version, if it has read the one before. Returns whether more may be read from
    /// that connection.
    pub(crate) fn tell(&mut self, client: u64, name: &str) -> bool {
        let rom = self.clients.get_mut(&client).and_then(|client| client.roms.get_mut(name));
        let Some(rom) = rom else { return true };
        if !std::mem::take(&mut rom.is_armed) {
            return true;
        }
        let document = self.documents.get(&rom.label);
        match document.seen(rom.sticky) {
            Some(content) if rom.is_sent && content.memory().is_none() => {
                rom.told = document.version;
                self.send(client, format!("changed {name} {}", document.version), Some(content.clone()))
            }
            _ => self.send(client, format!("changed {name}"), None),
        }
    }

    fn open_report(&mut self, client: u64, life: u64, name: &str) -> Result<String, String> {
        self.become_writer(life, name)?;
        if let Some(life) = self.lives.get_mut(&life) {
            life.reports.insert(name.to_owned());
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.reports.insert(name.to_owned());
        }
        Ok(format!("report {name} {}", self.limit(life)))
    }

    /// Makes a life the writer of a report, if nobody else is.
    pub(crate) fn become_writer(&mut self, life: u64, name: &str) -> Result<(), String> {
        let Some(writer) = self.lives.get(&life) else { return Err("it has ended".to_owned()) };
        let component = writer.component.clone();
        if let Some(spec) = self.slots.get(&component).map(|slot| &slot.spec)
            && let Some(reports) = &spec.reports
            && !reports.contains(name)
        {
            let known = spot::suggest(name, "its reports", reports.iter().map(String::as_str));
            return Err(format!("{name} is no report of {component}; {known}"));
        }
        let is_new = self.documents.get(&Label::new(&component, name)).version == 0;
        if is_new && self.documents.written_by(&component) + writer.reports.len() >= SESSIONS {
            return Err(format!("{component} has {SESSIONS} reports already, and may have no more"));
        }
        if writer.reports.contains(name) {
            return Err(format!("{component}/{name} has a writer: a report has one, and it is open already"));
        }
        if writer.staged.is_some() {
            // What a successor reports is held until it takes over; the other one writes.
            return Ok(());
        }
        let label = Label::new(&component, name);
        match self.writers.get(&label) {
            Some(other) if *other != life => Err(format!("{label} has a writer, which has not ended yet")),
            _ => {
                self.writers.insert(label, life);
                Ok(())
            }
        }
    }

    /// The greatest length of a life's reports, in bytes.
    pub(crate) fn limit(&self, life: u64) -> u64 {
        let slot = self.lives.get(&life).and_then(|life| self.slots.get(&life.component));
        slot.map_or(0, |slot| slot.spec.limit_bytes)
    }

    fn submit(
        &mut self,
        client: u64,
        life: u64,
        name: &str,
        packet: Packet,
        is_answered: bool,
    ) -> Result<Option<String>, String> {
        let limit = self.limit(life);
        if !self.clients.get(&client).is_some_and(|client| client.reports.contains(name)) {
            return Err(format!("{name} is not open here; ask for `report {name}` first"));
        }
        let content = Content::take(packet.body, packet.fd, limit).map_err(|errno| match errno {
            Errno::FBIG => format!("{name} is longer than its limit of {limit} bytes; it is as it was"),
            errno => {
                format!("{name}: what came with it is no memfd that can be sealed ({errno}); it is as it was")
            }
        })?;
        if self.take_report(life, name, content, Some(Origin { client, name: name.to_owned(), is_answered }))
        {
            return Ok(None);
        }
        Ok(Some(format!("submitted {name} 0")))
    }

    /// Returns whether the next packet of a writer may be read. If not it is looked at again when its budget allows, or when
    /// what it has reported is safe: it waits in its submit, and nobody else is the slower for it.
    fn may_go_on(&mut self, client: u64, life: u64, name: &str) -> bool {
        let component = self.lives.get(&life).map(|life| life.component.clone()).unwrap_or_default();
        if self.pending.get(&Label::new(&component, name)).is_some_and(|waiting| waiting.len() >= UNSAFE) {
            self.pause(client);
            return false;
        }
        match self.spend(life) {
            Some(wait) => {
                self.pause(client);
                self.after(wait, Timer::Resume(client));
                false
            }
            None => true,
        }
    }

    /// Takes a report from a life's budget. Returns how long the next one has to wait.
    pub(crate) fn spend(&mut self, life: u64) -> Option<Duration> {
        let life = self.lives.get_mut(&life)?;
        let span = Duration::from_secs(1) / life.spec.rate?;
        let now = Instant::now();
        // A tenth of a second's reports may come at once.
        let earliest = now.checked_sub(Duration::from_millis(100)).unwrap_or(now);
        life.due = life.due.max(earliest) + span;
        life.due.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Takes a report. Returns whether it is published, and its writer thus answered; else it is held.
    pub(crate) fn take_report(
        &mut self,
        life: u64,
        name: &str,
        content: Content,
        from: Option<Origin>,
    ) -> bool {
        let Some(writer) = self.lives.get_mut(&life) else { return true };
        writer.has_reported = true;
        writer.acts += 1;
        let component = writer.component.clone();
        if let Some(staged) = &mut writer.staged {
            staged.insert(name.to_owned(), content);
            self.consider_successor(life);
            return false;
        }
        if let Some(slot) = self.slots.get_mut(&component) {
            slot.failures = 0;
        }
        self.publish(&Label::new(&component, name), content, from);
        true
    }

    fn close(&mut self, client: u64, life: u64, name: &str) -> Result<String, String> {
        let was_rom = self.detach(client, name);
        let was_report = self.clients.get_mut(&client).is_some_and(|client| client.reports.remove(name));
        if was_report {
            self.close_report(life, name);
        }
        if was_rom || was_report {
            return Ok(format!("closed {name}"));
        }
        Err(format!("{name} is not open"))
    }

    /// Ends a Report session: the report goes, in silence.
    pub(crate) fn close_report(&mut self, life: u64, name: &str) {
        let Some(writer) = self.lives.get_mut(&life) else { return };
        writer.reports.remove(name);
        if let Some(staged) = &mut writer.staged {
            staged.remove(name);
            return;
        }
        let label = Label::new(&writer.component, name);
        if self.writers.get(&label) == Some(&life) {
            self.writers.remove(&label);
            self.documents.clear(&label);
        }
    }

    /// Ends a connection, and with it its sessions.
    pub(crate) fn drop_client(&mut self, number: u64) {
        let Some(client) = self.clients.get(&number) else { return };
        let (roms, reports, owner) =
            (client.roms.keys().cloned().collect::<Vec<_>>(), client.reports.clone(), client.owner);
        for name in roms {
            self.detach(number, &name);
        }
        if let crate::client::Owner::Life(life) = owner {
            for name in &reports {
                self.close_report(life, name);
            }
            if let Some(life) = self.lives.get_mut(&life) {
                life.clients.remove(&number);
            }
        }
        self.clients.remove(&number);
        self.forget_token(number);
        self.is_news = true;
    }
}
