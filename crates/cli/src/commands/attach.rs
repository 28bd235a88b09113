//! `frost attach`: the terminal of a program, in front of us.

use super::named;
use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_keeper::protocol::{self as say, DATA_BYTES, Message};
use frost_runtime::Error;
use frost_runtime::instance::Standing;
use frost_thaw::Ending;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, Write};
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
    let kept = match instance.standing().map_err(failed)? {
        Standing::Kept(kept) => kept,
        other => return Err(failed(Error::Ended(super::ps::what_happened(&other)))),
    };
    if !kept.state.terminal {
        return Err(failed(Error::NoTerminal));
    }
    let stdin = rustix::stdio::stdin();
    let (rows, columns) = size();
    kept.connection.ask(Message::new(say::ATTACH, rows, columns, 0)).map_err(|error| failed(error.into()))?;
    let raw = Raw::enter();
    let winch = 1u64 << (libc_winch() - 1);
    let old = frost_sys::signals::set_mask(winch).map_err(io::Error::from)?;
    let signals = frost_sys::signalfd::signalfd(winch).map_err(io::Error::from)?;
    let mut matcher = Matcher { keys: keys.0, matched: 0 };
    let mut reading = true;
    let ending = loop {
        let mut fds =
            vec![PollFd::new(&kept.connection, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        if reading {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(io::Error::from)?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            match kept.connection.receive() {
                Ok(packet) if packet.message.kind == say::OUTPUT => {
                    let mut out = io::stdout().lock();
                    out.write_all(&packet.data)?;
                    out.flush()?;
                }
                Ok(packet) if packet.message.kind == say::ENDED && packet.message.b == 0 => {
                    break Some(Ending::of_message(packet.message));
                }
                // Frozen: the keeper stays and so do we, or it ends and tells what became of it.
                Ok(_) => {}
                Err(_) => break Some(super::wait::until_end(&instance).unwrap_or(Ending::Unknown)),
            }
        }
        if ready[1] {
            let _ = rustix::io::read(&signals, &mut [0; 128]);
            let (rows, columns) = size();
            let _ = kept.connection.send(Message::new(say::RESIZE, rows, columns, 0), &[]);
        }
        if reading && ready[2] {
            let mut bytes = [0; DATA_BYTES];
            match rustix::io::read(stdin, &mut bytes) {
                Ok(0) | Err(Errno::IO) => reading = false,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
                Ok(count) => {
                    let (typed, detached) = matcher.take(&bytes[..count]);
                    if !typed.is_empty() {
                        let _ = kept.connection.send(Message::new(say::INPUT, 0, 0, 0), &typed);
                    }
                    if detached {
                        break None;
                    }
                }
            }
        }
    };
    drop(raw);
    let _ = frost_sys::signals::set_mask(old);
    match ending {
        None => {
            output::note(&format!("\nfrost: {} goes on", options.name));
            Ok(ExitCode::SUCCESS)
        }
        Some(ending) => {
            super::run::tell(instance.name(), ending);
            Ok(ExitCode::from(u8::try_from(ending.exit_status()).unwrap_or(u8::MAX)))
        }
    }
}

fn libc_winch() -> u32 {
    rustix::process::Signal::WINCH.as_raw() as u32
}

/// Rows and columns of our terminal, 0 if it is none.
pub(super) fn size() -> (i32, i32) {
    tcgetwinsize(rustix::stdio::stdin()).map_or((0, 0), |size| (size.ws_row.into(), size.ws_col.into()))
}

/// Our terminal, passing all that is typed as it is, until this is dropped.
pub(super) struct Raw(Option<Termios>);

impl Raw {
    pub(super) fn enter() -> Self {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Self(None);
        }
        let Ok(before) = tcgetattr(stdin) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = tcsetattr(stdin, OptionalActions::Now, &raw);
        Self(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
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
            if *byte != self.keys[self.matched] && self.matched > 0 {
                passed.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
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
    }
}
