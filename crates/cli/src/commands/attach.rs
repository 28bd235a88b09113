//! `frost attach`: the terminal of a program, in front of us.

use super::named;
use super::terminal::{self, Event, Signals};
use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_keeper::Connection;
use frost_keeper::protocol::{self as say, DATA_BYTES, Message};
use frost_runtime::Error;
use frost_runtime::instance::{Instance, Standing};
use frost_thaw::Ending;
use rustix::process::Signal;
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Shows the terminal of a program, and types into it
///
/// Of a program that was started by `frost run --detach`. Ends with the program, with its status, or by the keys that
/// let it alone again. While it is frozen and kept we wait.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The keys that let it alone again
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// The program, by its name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    attach(options, invocation).map_err(|failure| failure.with_status(Status::Own))
}

fn attach(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let keys = Keys::parse(&options.detach_keys).ok_or_else(|| {
        Told::new(Status::Usage, format!("cannot attach to {}", options.name))
            .cause(format!("{:?} names no keys", options.detach_keys))
            .state("nothing was changed")
            .hint("a letter, or ctrl- and one of a-z @ [ \\ ] ^ _, separated by commas: ctrl-p,ctrl-q")
    })?;
    let store = invocation.store()?;
    let failed = |error| trouble::of_runtime(format!("cannot attach to {}", options.name), error);
    let instance = named(&store, &options.name).map_err(failed)?;
    let mut connection = connect(&instance).map_err(failed)?;
    let signals = Signals::take(&[Signal::WINCH, Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM])?;
    let mut matcher = Matcher { keys: keys.0, matched: 0 };
    // What was typed behind the end of a connection, before that was seen.
    let mut unsent = Vec::new();
    loop {
        let left = terminal::pass(&connection, &signals, &mut |event| {
            match event {
                Event::Said(message) if message.kind == say::ENDED && message.b == 0 => {
                    return ControlFlow::Break(Left::Ended(Ending::of_message(message)));
                }
                // It has its terminal as it was when it was frozen; ours may have another size since.
                Event::Said(message) if message.kind == say::LIVES => resize(&connection),
                // Frozen: the keeper stays and so do we, or it ends and tells what became of it.
                Event::Said(_) => {}
                Event::Gone => return ControlFlow::Break(Left::Gone),
                Event::Signal(signal) if signal != Signal::WINCH.as_raw() => {
                    return ControlFlow::Break(Left::Signal(signal));
                }
                Event::Signal(_) => resize(&connection),
                Event::Typed(bytes) => {
                    let (typed, detached) = matcher.take(bytes);
                    for part in typed.chunks(DATA_BYTES) {
                        if connection.send(Message::new(say::INPUT, 0, 0, 0), part).is_err() {
                            unsent.extend_from_slice(part);
                        }
                    }
                    if detached {
                        return ControlFlow::Break(Left::Alone);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        let ending = match left {
            Left::Alone => {
                output::note(&format!("\nfrost: {} goes on", options.name));
                return Ok(ExitCode::SUCCESS);
            }
            Left::Signal(signal) => {
                frost_sys::signals::take(signal);
                return Ok(ExitCode::from(128 + signal as u8));
            }
            // A keeper does not wait for who does not show what it is sent; or it is another one, of a thaw.
            Left::Gone => match connect(&instance) {
                Ok(another) => {
                    connection = another;
                    for part in std::mem::take(&mut unsent).chunks(DATA_BYTES) {
                        let _ = connection.send(Message::new(say::INPUT, 0, 0, 0), part);
                    }
                    output::note(&format!(
                        "frost: attached to {} again; what it showed meanwhile is in `frost logs {0}`",
                        options.name
                    ));
                    continue;
                }
                Err(_) => super::wait::until_end(&instance).map_err(failed)?,
            },
            Left::Ended(ending) => ending,
        };
        super::run::tell(&store, instance.name(), ending);
        return Ok(ExitCode::from(u8::try_from(ending.exit_status()).unwrap_or(u8::MAX)));
    }
}

/// Why we do not show a terminal any more.
enum Left {
    /// Its program ended.
    Ended(Ending),
    /// Its keeper ended, or hung up.
    Gone,
    /// The keys that let it alone were typed.
    Alone,
    /// A signal is to end us.
    Signal(i32),
}

/// Gives the program's terminal the size of ours, if we have one.
fn resize(connection: &Connection) {
    let (rows, columns) = terminal::size();
    if rows > 0 && columns > 0 {
        let _ = connection.send(Message::new(say::RESIZE, rows, columns, 0), &[]);
    }
}

/// Asks the keeper of a program for its terminal, which gets the size of ours.
fn connect(instance: &Instance) -> Result<Connection, Error> {
    let kept = match instance.standing()? {
        Standing::Kept(kept) => kept,
        other => return Err(Error::Ended(super::ps::what_happened(&other))),
    };
    if !kept.state.terminal {
        return Err(Error::NoTerminal);
    }
    let (rows, columns) = terminal::size();
    kept.connection.ask(Message::new(say::ATTACH, rows, columns, 0))?;
    Ok(kept.connection)
}

/// A sequence of keys.
#[derive(Debug, PartialEq, Eq)]
struct Keys(Vec<u8>);

impl Keys {
    fn parse(text: &str) -> Option<Self> {
        let key = |word: &str| -> Option<u8> {
            if let Some(letter) = word.strip_prefix("ctrl-") {
                let [letter] = letter.as_bytes() else { return None };
                let upper = letter.to_ascii_uppercase();
                return (b'@'..=b'_').contains(&upper).then_some(upper - b'@');
            }
            let [letter] = word.as_bytes() else { return None };
            letter.is_ascii_graphic().then_some(*letter)
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.filter(|keys| !keys.is_empty()).map(Self)
    }
}

/// Looks for the keys among what is typed.
struct Matcher {
    keys: Vec<u8>,
    matched: usize,
}

impl Matcher {
    /// Returns what is to be passed on, and whether the keys were typed. The beginning of them is held back.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            while *byte != self.keys[self.matched] && self.matched > 0 {
                // What is not the beginning of the keys any more: their end may be, as the second of `aab` in `aaab`.
                let held = &self.keys[..self.matched];
                let rest =
                    (1..=held.len()).find(|at| self.keys.starts_with(&held[*at..])).unwrap_or(held.len());
                passed.extend_from_slice(&held[..rest]);
                self.matched -= rest;
            }
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_docker_writes_them() {
        assert_eq!(Keys::parse("ctrl-p,ctrl-q"), Some(Keys(vec![16, 17])));
        assert_eq!(Keys::parse("ctrl-],d"), Some(Keys(vec![29, b'd'])));
        assert_eq!(Keys::parse(""), None);
        assert_eq!(Keys::parse("ctrl-"), None);
        assert_eq!(Keys::parse("escape"), None);
    }

    #[test]
    fn a_beginning_of_the_keys_is_passed_on_if_they_do_not_follow() {
        let mut matcher = Matcher { keys: vec![16, 17], matched: 0 };
        assert_eq!(matcher.take(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(matcher.take(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(matcher.take(b"\x10\x10\x11c"), (b"\x10".to_vec(), true));
        let mut matcher = Matcher { keys: b"aab".to_vec(), matched: 0 };
        assert_eq!(matcher.take(b"aacaaab"), (b"aaca".to_vec(), true));
    }
}
