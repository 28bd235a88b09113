//! How long each named step of an operation took.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// One step that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// A short name that stays the same from release to release, as `capture.fds`.
    pub name: String,
    /// How long it took, in microseconds.
    pub us: u64,
}

/// A stopwatch that is told when each step ends.
#[derive(Clone, Debug)]
pub struct Steps {
    began: Instant,
    last: Instant,
    done: Vec<Step>,
}

impl Steps {
    /// Starts the clock.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, done: Vec::new() }
    }

    /// Ends the step `name`, which began when the one before it ended.
    pub fn end(&mut self, name: &str) {
        let now = Instant::now();
        let us = now.duration_since(self.last).as_micros() as u64;
        tracing::debug!(target: "step", us, "{name}");
        self.done.push(Step { name: name.to_owned(), us });
        self.last = now;
    }

    /// Adds steps that were timed elsewhere; the current step starts anew.
    pub fn extend(&mut self, steps: Vec<Step>) {
        self.done.extend(steps);
        self.last = Instant::now();
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the steps that ended, in order.
    pub fn done(&self) -> &[Step] {
        &self.done
    }

    /// Gives the steps away.
    pub fn into_done(self) -> Vec<Step> {
        self.done
    }
}
