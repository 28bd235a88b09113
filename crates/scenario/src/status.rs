//! How a scenario stands: what its state report says, and `frost status`.

use crate::engine::Engine;
use crate::lives::Phase;
use crate::members::MemberState;
use crate::scenario::Label;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of a scenario.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) v: u32,
    pub(crate) scenario: String,
    /// The supervisor.
    pub(crate) pid: u32,
    /// Why the file, as it is now, is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
    pub(crate) components: Vec<ComponentState>,
    pub(crate) documents: Vec<DocumentState>,
    /// Programs that are members; only for a command, since it takes another command to tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) programs: Vec<MemberState>,
}

/// The state of a component.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ComponentState {
    pub(crate) name: String,
    /// `running`, `waiting`, `ended`, `given-up`.
    pub(crate) state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    pub(crate) binary: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
    /// What it may use of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ram_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_percent: Option<u32>,
    /// How much memory it uses, if that is limited; only for a command, since it changes all the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ram_used_bytes: Option<u64>,
    /// How often it was started.
    pub(crate) starts: u64,
    /// It has reported since it was started.
    pub(crate) has_reported: bool,
    /// Others read what it reports, and it has not reported yet.
    #[serde(default)]
    pub(crate) is_silent: bool,
    /// Another one is about to take its place.
    pub(crate) is_being_replaced: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_end: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) complaint: Option<String>,
}

/// The state of a document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DocumentState {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) len_bytes: u64,
    /// Its writer is there.
    pub(crate) is_live: bool,
    pub(crate) readers: usize,
}

impl Engine {
    /// Tells how things stand, as JSON.
    pub(crate) fn state_text(&self) -> String {
        serde_json::to_string(&self.state()).unwrap_or_default()
    }

    /// Tells as well how the members stand.
    pub(crate) fn full_state_text(&self) -> String {
        let mut state = State { programs: self.member_states(), ..self.state() };
        for component in &mut state.components {
            let life = self.slots.get(&component.name).and_then(|slot| self.lives.get(&slot.current?));
            component.ram_used_bytes = life.and_then(|life| life.groups.memory_bytes());
        }
        serde_json::to_string(&state).unwrap_or_default()
    }

    fn state(&self) -> State {
        let mut readers: BTreeMap<&Label, usize> = BTreeMap::new();
        for (label, sessions) in &self.readers {
            *readers.entry(label).or_default() += sessions.len();
        }
        for (label, files) in &self.file_readers {
            *readers.entry(label).or_default() += files.len();
        }
        let components = self.slots.iter().map(|(name, slot)| {
            let life = slot.current.and_then(|life| self.lives.get(&life));
            ComponentState {
                name: name.clone(),
                state: match slot.phase {
                    Phase::Running => "running",
                    Phase::Waiting => "waiting",
                    Phase::Ended => "ended",
                    Phase::GivenUp => "given-up",
                }
                .to_owned(),
                pid: life.map(crate::lives::Life::pid),
                binary: slot.spec.binary.display().to_string(),
                version: slot.spec.version.clone(),
                ram_bytes: slot.spec.budget.ram_bytes,
                cpu_percent: slot.spec.budget.cpu_percent,
                ram_used_bytes: None,
                starts: slot.starts,
                has_reported: life.is_some_and(|life| life.has_reported),
                is_silent: slot.phase == Phase::Running
                    && !life.is_some_and(|life| life.has_reported)
                    && (slot.spec.reports.as_ref().is_some_and(|reports| !reports.is_empty())
                        || self.scenario.routes.iter().any(|route| route.from.writer == *name)),
                is_being_replaced: slot.successor.is_some(),
                last_end: slot.last_end.clone(),
                complaint: slot.complaint.clone(),
            }
        });
        let documents = self.documents.iter().map(|(label, document)| DocumentState {
            name: label.to_string(),
            version: document.version,
            len_bytes: document.content.as_ref().map_or(0, |content| content.len() as u64),
            is_live: document.is_live,
            readers: readers.get(label).copied().unwrap_or(0),
        });
        State {
            v: 1,
            scenario: self.name.clone(),
            pid: std::process::id(),
            trouble: self.trouble.clone(),
            components: components.collect(),
            // Its own report would tell of itself.
            documents: documents.filter(|document| document.name != "scenario/state").collect(),
            programs: Vec::new(),
        }
    }
}
