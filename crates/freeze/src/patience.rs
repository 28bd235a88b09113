//! How long something that goes by itself is waited for.
//!
//! A connection that is not accepted yet, a message that is not read yet, are in the way of a freeze for an instant in the
//! life of most programs, and would make it fail by chance. So whoever finds nothing else in the way lets the program go
//! on and looks again.

use std::time::{Duration, Instant};

/// At least so long is waited altogether, and at least so often is looked: on a busy machine a look takes long.
const LONG_ENOUGH: Duration = Duration::from_secs(2);
const OFTEN_ENOUGH: u32 = 20;
/// Between two looks; each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What is left of the patience of one freeze, or one check.
#[derive(Debug)]
pub(crate) struct Patience {
    began: Option<Instant>,
    looks: u32,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { began: None, looks: 0, pause: FIRST_PAUSE }
    }

    /// Waits a little; `false`, if that was done long enough.
    pub(crate) fn wait(&mut self) -> bool {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.looks += 1;
        if began.elapsed() >= LONG_ENOUGH && self.looks >= OFTEN_ENOUGH {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}
