//! What components ask for: ROM and Report sessions.

use crate::client::Rom;
use crate::engine::Engine;
use crate::scenario::Label;
use crate::spot;
use frost_component::Content;
use frost_component::wire::{Packet, is_name};
use rustix::io::Errno;

impl Engine {
    /// Does what a component asks for. Returns whether its next packet may be read.
    pub(crate) fn request(&mut self, client: u64, life: u64, packet: Packet) -> bool {
        let (verb, name, _) = packet.words();
        let (verb, name) = (verb.to_owned(), name.to_owned());
        if verb == "alive" {
            if let Some(client) = self.clients.get_mut(&client) {
                client.is_asked = false;
            }
            if let Some(life) = self.lives.get_mut(&life) {
                life.skipped = 0;
            }
            return true;
        }
        let answer = match verb.as_str() {
            _ if !is_name(&name) => Err("this is no name".to_owned()),
            "rom" => self.open_rom(client, life, &name),
            "get" => return self.get(client, &name),
            "report" => self.open_report(client, life, &name),
            "submit" => match self.submit(client, life, &name, packet) {
                Ok(None) => return true,
                Ok(Some(answer)) => Ok(answer),
                Err(error) => Err(error),
            },
            "close" => self.close(client, life, &name),
            _ => Err("there is no such request; docs/component.md lists all".to_owned()),
        };
        match answer {
            Ok(answer) => self.send(client, answer, None),
            Err(error) => {
                let name = if is_name(&name) { &name } else { "-" };
                self.send(client, format!("error {verb} {name} {error}"), None)
            }
        }
    }

    fn open_rom(&mut self, client: u64, life: u64, name: &str) -> Result<String, String> {
        let component = self.lives.get(&life).map(|life| life.component.clone()).unwrap_or_default();
        let route = self.scenario.route(&component, name).ok_or_else(|| {
            let known = self.scenario.roms_of(&component);
            format!(
                "no route: the ROM {name} of {component} leads to no report; {}",
                spot::suggest(name, "its ROMs", known)
            )
        })?;
        self.attach(client, name, route.from, route.sticky);
        Ok(format!("rom {name}"))
    }

    /// Lets a connection read a document, and signals it at once, behind the answer.
    pub(crate) fn attach(&mut self, client: u64, name: &str, label: Label, sticky: bool) {
        self.detach(client, name);
        let Some(connection) = self.clients.get_mut(&client) else { return };
        connection.roms.insert(name.to_owned(), Rom { label: label.clone(), sticky, is_armed: false });
        self.readers.entry(label).or_default().insert((client, name.to_owned()));
        self.send(client, format!("changed {name}"), None);
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
        match document.seen(sticky) {
            Some(content) => {
                self.send(client, format!("version {name} {}", document.version), Some(content.clone()))
            }
            None => self.send(client, format!("empty {name} {}", document.version), None),
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
        if self.take_report(life, name, content, Some((client, name.to_owned()))) {
            return Ok(None);
        }
        Ok(Some(format!("submitted {name} 0")))
    }

    /// Takes a report. Returns whether it is published, and its writer thus answered; else it is held.
    pub(crate) fn take_report(
        &mut self,
        life: u64,
        name: &str,
        content: Content,
        from: Option<(u64, String)>,
    ) -> bool {
        let Some(writer) = self.lives.get_mut(&life) else { return true };
        writer.has_reported = true;
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
