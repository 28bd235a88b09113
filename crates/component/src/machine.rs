//! A component as a state machine: a step from what it reads to what it reports.

use crate::error::Error;
use crate::session::{Session, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

/// The ROMs of a component, one version each.
#[derive(Debug, Default)]
pub struct Roms(BTreeMap<String, Version>);

impl Roms {
    /// Returns what a ROM says; nothing if there is no report.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name)?.content.as_deref()
    }

    /// Returns what a ROM says as text, empty if there is no report or it is none.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }

    /// Returns the number of the version.
    pub fn number(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |version| version.number)
    }
}

/// What a step says: names of reports, and what they are from now on. They are submitted in this order, so state that is
/// fed back comes first.
pub type Reports = Vec<(&'static str, Vec<u8>)>;

/// Runs a component: calls `step` with the newest version of all ROMs, now and whenever one of them has changed, and
/// submits what it returns. A report that is what it was is not submitted again, so that a cycle of routes comes to rest.
///
/// What has to survive the process does not belong into `state`: a component reports it, and reads it back as a ROM.
/// `state` is for what can be made again.
///
/// Returns when the scenario ends.
///
/// # Errors
/// Those of [`Session`], [`Error::Gone`] excepted.
pub fn run<S>(
    roms: &[&str],
    reports: &[&str],
    state: S,
    step: impl FnMut(S, &Roms) -> (S, Reports),
) -> Result<(), Error> {
    match live(roms, reports, state, step) {
        Err(Error::Gone) => Ok(()),
        Err(error) => Err(error),
        Ok(never) => match never {},
    }
}

fn live<S>(
    roms: &[&str],
    reports: &[&str],
    mut state: S,
    mut step: impl FnMut(S, &Roms) -> (S, Reports),
) -> Result<Infallible, Error> {
    let mut session = Session::connect()?;
    for name in roms {
        session.rom_sent(name)?;
    }
    for name in reports {
        session.report(name)?;
    }
    let mut read = Roms::default();
    let mut said: BTreeMap<&'static str, Vec<u8>> = BTreeMap::new();
    let mut changed: BTreeSet<String> = roms.iter().map(|name| (*name).to_owned()).collect();
    loop {
        while let Some(name) = session.poll()? {
            changed.insert(name);
        }
        for name in std::mem::take(&mut changed) {
            let version = session.read(&name)?;
            read.0.insert(name, version);
        }
        let (next, outcome) = step(state, &read);
        state = next;
        for (name, report) in outcome {
            if said.get(name) != Some(&report) {
                session.put(name, &report)?;
                said.insert(name, report);
            }
        }
        changed.insert(session.wait()?);
    }
}
