//! How far a command has come, as it tells step by step (`FROST_TRAIL`): so kills can be aimed, and told where they hit.

use crate::{Scene, Started};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The trail of one command at a time.
#[derive(Debug)]
pub struct Trail {
    path: PathBuf,
    file: File,
}

/// When to kill.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So long after the start.
    After(Duration),
    /// So long after so many steps were reached.
    Behind(usize, Duration),
}

/// How a command went that nobody disturbed.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// How long it took.
    pub whole: Duration,
    /// How many steps it told.
    pub steps: usize,
}

impl Trail {
    /// Makes one for a scene, whose user writes it.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(scene: &Scene) -> Self {
        let path = scene.path("logs").join("trail");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("our own directory");
        scene.give(&path);
        Self { path, file }
    }

    /// Lets a command leave it, from the beginning.
    ///
    /// # Panics
    /// If what an earlier one left cannot be removed.
    pub fn follow(&self, command: &mut Command) {
        self.file.set_len(0).expect("our own file");
        command.env("FROST_TRAIL", &self.path);
    }

    fn text(&self) -> String {
        let mut bytes = [0; 4096];
        let len = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    /// Returns how many steps were reached so far.
    pub fn len(&self) -> usize {
        self.text().lines().count()
    }

    /// Returns whether no step was reached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the step that was reached last.
    pub fn last(&self) -> String {
        self.text().lines().last().unwrap_or("start").to_owned()
    }

    /// Waits for a moment; not longer than the command lives.
    ///
    /// Several of us that only looked at the clock would keep the command itself from its processors.
    pub fn wait(&self, moment: Moment, command: &mut Started) {
        let delay = match moment {
            Moment::After(delay) => delay,
            Moment::Behind(steps, delay) => {
                while self.len() < steps && command.ended().is_none() {
                    rest(LOOK);
                }
                delay
            }
        };
        let start = Instant::now();
        rest(delay.saturating_sub(LATE));
        while start.elapsed() < delay {
            std::hint::spin_loop();
        }
    }
}

/// How often is looked whether a step was reached.
const LOOK: Duration = Duration::from_micros(20);
/// By so much a sleep is too long, about.
const LATE: Duration = Duration::from_micros(100);

/// Sleeps as exactly as can be had.
fn rest(delay: Duration) {
    // By default the kernel may let a thread sleep 50 us longer than it asked for (`timerslack_ns`, proc_pid_timerslack_ns(5)).
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    if !delay.is_zero() {
        std::thread::sleep(delay);
    }
}

/// A small generator: which moment is not important, that they differ is.
#[derive(Clone, Debug)]
pub struct Moments(u64);

impl Moments {
    /// Makes one that differs from those of other seeds.
    pub fn new(seed: u64) -> Self {
        let mut moments = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // What is near to another seed gives near numbers at first.
        (0..8).for_each(|_| _ = moments.below(2));
        moments
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }

    /// Chooses a moment of a command: at any time, or right behind any of its steps, short ones too.
    pub fn of(&mut self, course: Course) -> Moment {
        let whole = course.whole.as_micros() as u64;
        if self.below(2) == 0 {
            return Moment::After(Duration::from_micros(self.below(whole)));
        }
        let steps = self.below(course.steps as u64 + 1) as usize;
        // Most of the steps take less than a millisecond.
        let longest = [50, 500, whole / 4][self.below(3) as usize];
        Moment::Behind(steps, Duration::from_micros(self.below(longest)))
    }
}
