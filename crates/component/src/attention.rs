//! Waiting for what comes soon.

use std::time::{Duration, Instant};

/// Where one thing followed another within this, the next one is looked for for as long before whoever waits for it sleeps.
const SOON: Duration = Duration::from_micros(100);

/// If giving the processor away has taken longer than this, somebody else computes on it, and whoever stays awake only loses
/// its turns. Then it sleeps at once for the first of these spans, and for twice as long each time that it finds the same soon
/// after, up to the second.
const TURN: Duration = Duration::from_micros(400);
const REST: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(160)];

/// Whether things come one soon after another.
///
/// To be woken takes some 15 us where a processor is idle, since the kernel likes to wake a process there, and a virtual
/// processor that sleeps is woken by its host: several times as long as a message takes. So one who waits stays awake a
/// moment while messages come that fast, and lets others have the processor meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention {
    is_lively: bool,
    tired: Option<Instant>,
    rest: Duration,
}

impl Attention {
    /// Calls `look`, which is told whether it may sleep, until it has found something, or could have slept.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn wait<T, E>(&mut self, mut look: impl FnMut(bool) -> Result<Option<T>, E>) -> Result<Option<T>, E> {
        let began = Instant::now();
        let is_awake = std::mem::take(&mut self.is_lively) && self.tired.is_none_or(|until| began > until);
        while is_awake && began.elapsed() < SOON {
            let found = look(false)?;
            if found.is_some() {
                self.is_lively = true;
                return Ok(found);
            }
            let before = Instant::now();
            // Whoever is to send it may need this processor.
            std::thread::yield_now();
            if before.elapsed() > TURN {
                let again = self.tired.is_some_and(|until| before < until + self.rest);
                self.rest = if again { REST[1].min(2 * self.rest) } else { REST[0] };
                self.tired = Some(before + self.rest);
            }
        }
        let found = look(true)?;
        self.is_lively = began.elapsed() < SOON;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_awake_before_something_came_soon() {
        let mut attention = Attention::default();
        let mut slept = 0;
        for _ in 0..1000 {
            let found = attention.wait(|may_sleep| {
                slept += u32::from(may_sleep);
                Ok::<_, ()>(Some(7))
            });
            assert_eq!(found, Ok(Some(7)));
        }
        // The first sleeps in any case; most of the others need not, unless this thread was held up each time.
        assert!((1..1000).contains(&slept), "{slept}");
    }

    #[test]
    fn what_does_not_come_is_waited_for_asleep() {
        let mut attention = Attention { is_lively: true, ..Attention::default() };
        let found = attention.wait(|may_sleep| Ok::<_, ()>(may_sleep.then_some(1)));
        assert_eq!(found, Ok(Some(1)));
        assert_eq!(attention.wait(|_| Err::<Option<()>, _>(5)), Err(5));
        let nothing = attention.wait(|_| Ok::<Option<()>, ()>(None));
        assert_eq!(nothing, Ok(None));
    }
}
