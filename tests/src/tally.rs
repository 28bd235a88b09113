//! Kills and what came of them: where each hit and how it ended, told as one record of a test.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How things stand after a kill: nothing else is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The program goes on, and no image says otherwise.
    GoesOn,
    /// The program is gone, its image is whole.
    Frozen,
    /// The program goes on, and an image of it is whole, which is refused as long as that is so.
    Excluded,
}

impl Ending {
    fn word(self) -> &'static str {
        match self {
            Self::GoesOn => "goes on",
            Self::Frozen => "frozen",
            Self::Excluded => "goes on, image refused",
        }
    }
}

/// What a test counts; dropped, it prints its record, also of a test that fails.
#[derive(Debug, Default)]
pub struct Tally {
    begun: AtomicU64,
    judged: AtomicU64,
    lost: AtomicU64,
    steps: Mutex<BTreeMap<String, BTreeMap<&'static str, u64>>>,
}

/// One kill whose ending is not known yet; dropped so, it has lost something.
#[derive(Debug)]
pub struct Round<'a>(&'a Tally);

impl Tally {
    /// Begins a round: until it has ended well, it counts as lost.
    pub fn begin(&self) -> Round<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Round(self)
    }

    /// Lets a program that lived through kills judge itself: one that is not content was lost to one of them.
    pub fn judge(&self, judge: impl FnOnce()) {
        let round = Round(self);
        judge();
        std::mem::forget(round);
        self.judged.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether some round did not end well: no other need begin.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) > 0
    }
}

impl Round<'_> {
    /// Ends it: the kill hit behind `step`.
    pub fn end(self, step: &str, ending: Ending) {
        let mut steps = self.0.steps.lock().unwrap_or_else(PoisonError::into_inner);
        *steps.entry(step.to_owned()).or_default().entry(ending.word()).or_default() += 1;
        drop(steps);
        std::mem::forget(self);
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let steps = std::mem::take(self.steps.get_mut().unwrap_or_else(PoisonError::into_inner));
        let begun = *self.begun.get_mut();
        if begun == 0 {
            return;
        }
        let mut endings: BTreeMap<&str, u64> = BTreeMap::new();
        for (ending, count) in steps.values().flatten() {
            *endings.entry(ending).or_default() += count;
        }
        // What had ended by itself was not hit any more.
        let late: u64 = steps.get(OVER).map_or(0, |endings| endings.values().sum());
        let record = serde_json::json!({
            "kills": begun - late,
            "late": late,
            "lost": *self.lost.get_mut(),
            "judged": *self.judged.get_mut(),
            "endings": endings,
            "by_step": steps,
        });
        // Past the capture of what a test prints, so that whoever runs it long reads it.
        let _written = std::io::stdout().write_all(format!("record: {record}\n").as_bytes());
    }
}

/// The step of a kill that came too late, or of a fault at a step that was not reached.
pub const OVER: &str = "over";
