//! `frost up --prove`: that components hold nothing that cannot be fed to them again.
//!
//! Beside a component that runs, the same is started anew, and fed the same versions; what it reports is held back. As
//! soon as both have reported the same, the old one is killed at once, and another component has its turn. If what they
//! report differs though no version that they read has changed for a while, the old one knew something that it was not fed,
//! and that is shown.

use crate::engine::{Engine, Timer};
use crate::lives::Phase;
use crate::scenario::Label;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(5);

/// How long versions have to stay before a difference counts: nobody can tell whether a component is still at work.
const SETTLED: Duration = Duration::from_secs(2);

/// How long one that was started anew may take until it asks for anything: the machine may have much else to do.
const BIRTH: Duration = Duration::from_secs(60);

/// How long it is waited for a component that has reported, and so can be compared.
const IDLE: Duration = Duration::from_secs(30);

/// How a proof stands.
#[derive(Debug)]
pub(crate) struct Proof {
    /// How many rounds are to be done.
    rounds: u64,
    done: u64,
    seed: u64,
    now: Option<Round>,
    /// Since when there is nothing to compare.
    idle: Option<Instant>,
    /// What was found.
    pub(crate) found: Option<String>,
}

/// One component beside itself.
#[derive(Debug)]
struct Round {
    component: String,
    old: u64,
    new: u64,
    versions: BTreeMap<Label, u64>,
    /// How much both have done.
    acts: u64,
    since: Instant,
}

impl Proof {
    pub(crate) fn new(rounds: u64) -> Self {
        let seed = u64::from(std::process::id()) | 1 << 40;
        crate::voice::tell(format_args!("proof: {rounds} rounds, seed {seed}"));
        Self { rounds, done: 0, seed, now: None, idle: None, found: None }
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }
}

impl Engine {
    /// Goes on with the proof.
    pub(crate) fn prove(&mut self) {
        let Some(mut proof) = self.proof.take() else { return };
        if self.is_ending {
            self.proof = Some(proof);
            return;
        }
        match proof.now.take() {
            None if proof.done >= proof.rounds => self.end_all(),
            None => {
                proof.now = self.begin_round(&mut proof);
                if proof.now.is_some() {
                    proof.idle = None;
                } else if let Some(why) = self.unprovable(*proof.idle.get_or_insert_with(Instant::now)) {
                    proof.found = Some(why);
                    self.end_all();
                }
            }
            Some(round) => match self.judge(&round) {
                Verdict::Same => {
                    proof.done += 1;
                    self.end(round.new);
                    self.kill(round.old);
                }
                Verdict::Void => self.end(round.new),
                Verdict::Open(versions, acts) if versions == round.versions && acts == round.acts => {
                    let born = |life: &u64| {
                        self.lives.get(life).is_some_and(|life| life.has_reported || !life.clients.is_empty())
                    };
                    let patience = if born(&round.new) { SETTLED } else { BIRTH };
                    if round.since.elapsed() < patience {
                        proof.now = Some(round);
                    } else {
                        proof.found = Some(self.accuse(&round));
                        self.end_all();
                    }
                }
                Verdict::Open(versions, acts) => {
                    proof.now = Some(Round { versions, acts, since: Instant::now(), ..round })
                }
            },
        }
        self.proof = Some(proof);
        self.after(LOOK, Timer::Prove);
    }

    /// Why there is nothing to prove; nothing if there may be yet.
    fn unprovable(&self, since: Instant) -> Option<String> {
        let given_up = self.slots.iter().find(|(_, slot)| slot.phase == Phase::GivenUp);
        if let Some((name, slot)) = given_up {
            let why = slot.last_end.clone().unwrap_or_default();
            return Some(format!("{name} has failed too often, and was given up: {why}"));
        }
        let is_over = self.slots.values().all(|slot| slot.phase == Phase::Ended) || since.elapsed() > IDLE;
        is_over.then(|| "none of its components reports anything that could be compared".to_owned())
    }

    /// Starts a component beside itself, chosen among those that have reported.
    fn begin_round(&mut self, proof: &mut Proof) -> Option<Round> {
        let able: Vec<(String, u64)> = self
            .slots
            .iter()
            .filter_map(|(name, slot)| Some((name.clone(), slot.current?)))
            .filter(|(_, life)| self.lives.get(life).is_some_and(|life| life.has_reported && !life.is_ending))
            .collect();
        if able.is_empty() {
            return None;
        }
        let (component, old) = able.get(proof.random() as usize % able.len())?.clone();
        let spec = self.lives.get(&old)?.spec.clone();
        let new = self.give_birth(&component, &spec, true).ok()?;
        self.lives.get_mut(&new)?.is_on_trial = true;
        Some(Round { component, old, new, versions: BTreeMap::new(), acts: 0, since: Instant::now() })
    }

    fn judge(&self, round: &Round) -> Verdict {
        let is_current = self.slots.get(&round.component).is_some_and(|slot| slot.current == Some(round.old));
        let (Some(old), true) = (self.lives.get(&round.old), is_current) else { return Verdict::Void };
        // One that ends by itself again and again is told of by its other lives.
        let Some(new) = self.lives.get(&round.new) else { return Verdict::Void };
        if old.is_ending {
            return Verdict::Void;
        }
        let differing = self.differing(round);
        if differing.is_empty() && new.has_reported {
            return Verdict::Same;
        }
        let read = old.clients.iter().chain(&new.clients).filter_map(|client| self.clients.get(client));
        let labels = read.flat_map(|client| client.roms.values().map(|rom| rom.label.clone()));
        let files = self.scenario.routes_of(&round.component).into_iter().map(|route| route.from.clone());
        Verdict::Open(
            labels.chain(files).map(|label| (label.clone(), self.documents.get(&label).version)).collect(),
            old.acts + new.acts,
        )
    }

    /// The reports in which the old one and the new one differ.
    fn differing(&self, round: &Round) -> Vec<String> {
        let (Some(old), Some(new)) = (self.lives.get(&round.old), self.lives.get(&round.new)) else {
            return Vec::new();
        };
        let staged = new.staged.as_ref();
        let said = |report: &String| self.documents.get(&Label::new(&round.component, report)).content;
        let all: std::collections::BTreeSet<&String> =
            old.reports.iter().chain(staged.into_iter().flat_map(BTreeMap::keys)).collect();
        let differs =
            |report: &&String| said(report).as_ref() != staged.and_then(|staged| staged.get(*report));
        all.into_iter().filter(differs).cloned().collect()
    }

    /// Tells what a component has kept.
    fn accuse(&self, round: &Round) -> String {
        let mut text = format!("{} started anew does not report what it did", round.component);
        text.push_str("; both have read:");
        for (label, version) in &round.versions {
            text.push_str(&format!(" {label} version {version},"));
        }
        let staged = self.lives.get(&round.new).and_then(|life| life.staged.as_ref());
        for report in self.differing(round) {
            let old = self.documents.get(&Label::new(&round.component, &report)).content;
            let new = staged.and_then(|staged| staged.get(&report)).cloned();
            let lines = |content: Option<frost_component::Content>| -> Vec<String> {
                let text =
                    content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
                text.lines().map(str::to_owned).collect()
            };
            let (old, new) = (lines(old), lines(new));
            text.push_str(&format!("\n--- {report}, as it was\n+++ {report}, anew"));
            for line in old.iter().filter(|line| !new.contains(line)).take(20) {
                text.push_str(&format!("\n-{line}"));
            }
            for line in new.iter().filter(|line| !old.contains(line)).take(20) {
                text.push_str(&format!("\n+{line}"));
            }
        }
        text
    }
}

/// What a look has shown.
enum Verdict {
    Same,
    /// It cannot be judged: one of them has gone.
    Void,
    /// They differ, having read these, and done so much.
    Open(BTreeMap<Label, u64>, u64),
}
