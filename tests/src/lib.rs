//! The harness of the whole-system tests: a scene of its own for each test, real processes, the real command.
//!
//! A test takes a [`Scene`] (a directory, a store, a user), starts a program in it, and lets it make a [`journey`]:
//! frozen, gone, thawed, judged by itself. Scenes share nothing, so tests run beside each other. Nothing sleeps to
//! synchronise; every wait polls for what it waits for, with a limit that only a hang reaches. What a machine cannot
//! do is told in a line that begins with `skipped: `.
#![forbid(unsafe_code)]

pub mod guest;
pub mod image;
pub mod journey;
mod processes;
pub mod program;
mod scene;
pub mod tally;
pub mod trail;

pub use processes::{Started, is_alive, is_frost, output_of, succeeds, tree_of, try_output_of};
pub use scene::{Outcome, Scene, Stdio, Who, frost_binary, is_root, skip};

use std::time::{Duration, Instant};

/// Beyond this a wait is a hang.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Makes tests of functions that take a scene: each as whoever runs the tests, as a rule root, and as an ordinary user. The
/// module has a function `scene` that makes one for a [`Who`], or tells why this machine cannot.
#[macro_export]
macro_rules! as_each_user {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn as_myself() {
                if let Some(scene) = scene($crate::Who::Myself) {
                    super::$name(&scene);
                }
            }

            #[test]
            fn as_an_ordinary_user() {
                if let Some(scene) = scene($crate::Who::Ordinary) {
                    super::$name(&scene);
                }
            }
        }
    )*};
}

/// Polls until `condition` holds.
///
/// # Panics
/// After [`LIMIT`], with what was waited for.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether somebody listens at the unix socket `path`, found out by a connection that ends at once.
///
/// Its name is there from bind(2) on, but connections are refused until listen(2).
pub fn listens(path: &std::path::Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// Does something for each number below `count`, several at a time: programs wait more than they work.
///
/// # Panics
/// If one of them does, when all have ended.
pub fn each_below(count: usize, what: impl Fn(usize) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let workers = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    what(index);
                }
            });
        }
    });
}
