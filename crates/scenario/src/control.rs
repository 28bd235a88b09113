//! What commands ask of a running scenario, over the same kind of packets.

use crate::engine::Engine;
use crate::graph::Graph;
use crate::image::Image;
use crate::scenario::{Component, Label};
use crate::spot;
use frost_component::Content;
use frost_component::wire::Packet;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// What a component is to be replaced by; what is open stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Replacement {
    pub(crate) binary: Option<PathBuf>,
    pub(crate) arguments: Option<Vec<String>>,
    pub(crate) version: Option<String>,
    pub(crate) timeout_ms: u64,
}

impl Replacement {
    /// Returns a component as it is with that.
    pub(crate) fn of(&self, spec: &Component) -> Component {
        let mut spec = spec.clone();
        spec.binary = self.binary.clone().unwrap_or(spec.binary);
        spec.arguments = self.arguments.clone().unwrap_or(spec.arguments);
        spec.version = self.version.clone().unwrap_or(spec.version);
        spec
    }
}

impl Engine {
    /// Does what a command asks for. Returns whether its next packet may be read.
    pub(crate) fn command(&mut self, client: u64, packet: Packet) -> bool {
        let (verb, name, _) = packet.words();
        let (verb, name) = (verb.to_owned(), name.to_owned());
        let answer = match verb.as_str() {
            "status" => Ok(self.full_state_text()),
            "graph" => {
                let graph = Graph::of(&self.name, &self.scenario);
                serde_json::to_string(&graph).map_err(|error| error.to_string())
            }
            "down" => {
                self.told_at_end.push((client, "down".to_owned()));
                self.end_all();
                return true;
            }
            "freeze" => match self.freeze() {
                Ok(told) => {
                    self.told_at_end.push((client, told));
                    return true;
                }
                Err(why) => Err(why),
            },
            "report" => self.view_report(client, &name),
            "rom" => self.view_rom(client, &name),
            "get" => return self.get(client, &name),
            "replace" => match self.begin_replacement(&name, &packet.body, client) {
                Ok(()) => return true,
                Err(why) => Err(why),
            },
            _ => Err("there is no such request".to_owned()),
        };
        match answer {
            Ok(text) => {
                let content = Content::new(text.as_bytes()).ok();
                self.send(client, format!("{verb} {name}"), content)
            }
            Err(why) => self.send(client, format!("error {verb} {name} {why}"), None),
        }
    }

    /// Writes all documents into an image; then the scenario ends. Returns what is told then.
    fn freeze(&mut self) -> Result<String, String> {
        let mut image = Image::new(&self.name, &self.file, &self.scenario.text, &self.documents);
        for (name, slot) in &self.slots {
            if let Some(replacement) = slot.replacement() {
                image.replaced.insert(name.clone(), replacement);
            }
        }
        // What waits for the disk is safe when the image is, and would be lost else: it is on disk later, and is then newer.
        for (label, waiting) in &self.pending {
            if let Some(newest) = waiting.last() {
                image.put(label, newest.version, &newest.content);
            }
        }
        // Programs first: they are what may refuse.
        image.members = self.freeze_members()?;
        let bytes = match image.write(&self.home) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.thaw_members(&image.members);
                return Err(format!("its image cannot be written: {error}"));
            }
        };
        // From here on it is frozen, whatever happens to us.
        self.members_are_gone = true;
        self.end_all();
        Ok(format!("frozen {} {} {bytes} {}", self.name, image.len(), image.members.len()))
    }

    fn view_report(&mut self, client: u64, name: &str) -> Result<String, String> {
        let label = Label::parse(name).ok_or("a report is named COMPONENT/REPORT")?;
        let is_known = self.documents.iter().any(|(known, _)| *known == label)
            || self.scenario.routes.iter().any(|route| route.from == label)
            || self.writers.contains_key(&label)
            || self.may_come(&label);
        if !is_known {
            let known: Vec<String> = self.documents.iter().map(|(label, _)| label.to_string()).collect();
            return Err(format!(
                "there is no such report; {}",
                spot::suggest(name, "reports", known.iter().map(String::as_str))
            ));
        }
        if label == Label::new("scenario", "state") {
            let content = Content::new(self.state_text().as_bytes()).map_err(|errno| errno.to_string())?;
            self.documents.replace(&label, content);
        }
        // Whoever looks from outside sees what sticks as well.
        self.attach(client, name, label, true, false);
        Ok(String::new())
    }

    /// Whether a component may report that, which has not done so yet. One that does not name its reports may report anything;
    /// when it has, a name that it has not used is a wrong one.
    fn may_come(&self, label: &Label) -> bool {
        self.slots.get(&label.writer).is_some_and(|slot| match &slot.spec.reports {
            Some(reports) => reports.contains(&label.report),
            None => {
                self.documents.written_by(&label.writer) == 0
                    && !self.writers.keys().any(|known| known.writer == label.writer)
            }
        })
    }

    fn view_rom(&mut self, client: u64, name: &str) -> Result<String, String> {
        let rom = Label::parse(name).ok_or("a ROM is named COMPONENT/ROM")?;
        if !self.slots.contains_key(&rom.writer) {
            let known = self.slots.keys().map(String::as_str);
            return Err(format!(
                "there is no component {}; {}",
                rom.writer,
                spot::suggest(&rom.writer, "components", known)
            ));
        }
        let route = self.scenario.route(&rom.writer, &rom.report).ok_or_else(|| {
            let known = self.scenario.roms_of(&rom.writer);
            format!(
                "{} has no route for {}; {}",
                rom.writer,
                rom.report,
                spot::suggest(&rom.report, "its ROMs", known)
            )
        })?;
        self.attach(client, name, route.from, route.sticky, false);
        Ok(String::new())
    }

    fn begin_replacement(&mut self, name: &str, body: &[u8], client: u64) -> Result<(), String> {
        let wish: Replacement = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let slot = self.slots.get(name).ok_or_else(|| {
            let known = self.slots.keys().map(String::as_str);
            format!("there is no such component; {}", spot::suggest(name, "components", known))
        })?;
        let spec = wish.of(&slot.spec);
        self.replace(name, spec, Duration::from_millis(wish.timeout_ms), client)
    }
}
