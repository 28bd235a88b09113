//! A component that reports what its script says: documents, pauses, loops. For tests and trials.
//!
//! The script is its ROM `config`. When that changes it begins anew.

use crate::scenario::parse_duration;
use frost_component::{Error, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    #[serde(default)]
    step: Vec<Step>,
}

/// One step: of these, those that are there, in this order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// The report that is replaced, by `content`, in which `{n}` is the number of the round.
    report: Option<String>,
    content: Option<String>,
    /// The report that is cleared.
    empty: Option<String>,
    sleep: Option<String>,
    /// The steps that are repeated so often; without end if `times` is missing.
    #[serde(rename = "loop")]
    body: Option<Vec<Step>>,
    times: Option<u64>,
}

/// Why a script was left.
enum Left {
    Changed,
    Failed(String),
}

impl From<Error> for Left {
    fn from(error: Error) -> Self {
        Left::Failed(error.to_string())
    }
}

struct Source {
    session: Session,
    open: BTreeSet<String>,
}

/// The life of a source.
pub(crate) fn run() -> Result<(), String> {
    let mut source =
        Source { session: Session::connect().map_err(|error| error.to_string())?, open: BTreeSet::new() };
    source.session.rom("config").map_err(|error| error.to_string())?;
    let mut is_known = false;
    loop {
        match source.play(&mut is_known) {
            Ok(()) | Err(Left::Changed) => {}
            Err(Left::Failed(why)) if why == Error::Gone.to_string() => return Ok(()),
            Err(Left::Failed(why)) => return Err(why),
        }
    }
}

impl Source {
    /// Plays the script to its end, and waits there until there is another one.
    fn play(&mut self, is_known: &mut bool) -> Result<(), Left> {
        if !std::mem::replace(is_known, true) {
            self.session.wait()?;
        }
        while self.session.poll()?.is_some() {}
        let content = self.session.read("config")?.content;
        let text = content.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("");
        let script: Script =
            toml::from_str(text).map_err(|error| Left::Failed(format!("its script: {error}")))?;
        self.steps(&script.step, 1)?;
        self.session.wait()?;
        Ok(())
    }

    fn steps(&mut self, steps: &[Step], round: u64) -> Result<(), Left> {
        for step in steps {
            if let Some(report) = &step.report {
                self.open(report)?;
                let content = step.content.as_deref().unwrap_or("").replace("{n}", &round.to_string());
                self.session.submit(report, content.as_bytes())?;
            }
            if let Some(report) = &step.empty
                && self.open.remove(report)
            {
                self.session.close(report)?;
            }
            if let Some(span) = &step.sleep {
                let span = parse_duration(span)
                    .ok_or_else(|| Left::Failed(format!("its script: {span} is no span of time")))?;
                self.sleep(span)?;
            }
            let mut round = 0;
            while let Some(body) = &step.body
                && step.times.is_none_or(|times| round < times)
            {
                round += 1;
                self.steps(body, round)?;
                self.sleep(Duration::ZERO)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, report: &str) -> Result<(), Left> {
        if self.open.insert(report.to_owned()) {
            self.session.report(report)?;
        }
        Ok(())
    }

    /// Waits so long, or until the script changes.
    fn sleep(&mut self, span: Duration) -> Result<(), Left> {
        let end = Instant::now() + span;
        loop {
            if self.session.poll()?.is_some() {
                return Err(Left::Changed);
            }
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(());
            }
            let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
            let _ = poll(&mut [PollFd::new(&self.session, PollFlags::IN)], Some(&rest));
        }
    }
}
