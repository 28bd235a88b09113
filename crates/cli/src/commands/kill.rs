//! `frost kill`: a signal for a program.

use super::named;
use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::trouble;
use clap::Args;
use frost_keeper::protocol::Message;
use frost_runtime::Error;
use frost_runtime::instance::Standing;
use frost_sys::signals;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::process::ExitCode;

/// Sends a signal to the root of a program
///
/// When its root ends, the kernel ends all of the program.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The signal, by its name or number, as TERM, 15, RTMIN+3
    #[arg(short, long, value_name = "SIG", default_value = "TERM")]
    signal: String,
    /// The programs, by their names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Signals by name; numbers of x86-64 (signal(7)).
const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

fn parse(text: &str) -> Option<Signal> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    signals::numbered(named.or_else(|| real_time(name)).or_else(|| text.parse().ok())?)
}

/// Real-time signals as `kill -l` calls them: `RTMIN+3`, `RTMAX-1`.
fn real_time(name: &str) -> Option<i32> {
    let (first, last) = (*signals::REAL_TIME.start(), *signals::REAL_TIME.end());
    let (start, rest, sign) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (first, rest, '+'),
        (_, Some(rest)) => (last, rest, '-'),
        _ => return None,
    };
    let distance: i32 = match rest.strip_prefix(sign) {
        None if rest.is_empty() => 0,
        digits => digits.filter(|digits| !digits.starts_with('+'))?.parse::<u8>().ok()?.into(),
    };
    let number = if sign == '+' { start + distance } else { start - distance };
    signals::REAL_TIME.contains(&number).then_some(number)
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let signal = parse(&options.signal).ok_or_else(|| {
        Told::new(Status::Usage, format!("cannot send {}", options.signal))
            .cause("there is no signal of that name")
            .state("nothing was sent")
            .hint("`kill -l` lists them")
    })?;
    let store = invocation.store()?;
    for name in &options.names {
        let failed = |error| trouble::of_runtime(format!("cannot send a signal to {name}"), error);
        let instance = named(&store, name).map_err(failed)?;
        let root = match instance.standing().map_err(failed)? {
            Standing::Kept(kept) if instance.record().map_err(failed)?.machine => {
                let message = Message::new(frost_vm::keeper::SIGNAL, signal.as_raw(), 0, 0);
                kept.connection.send(message, &[]).map_err(|error| failed(error.into()))?;
                continue;
            }
            Standing::Kept(kept) => kept.root().map_err(failed)?,
            other => return Err(failed(Error::Ended(super::ps::what_happened(&other)))),
        };
        let number = Pid::from_raw(root).ok_or_else(|| failed(Error::Elsewhere))?;
        rustix::process::pidfd_open(number, PidfdFlags::empty())
            .and_then(|pidfd| rustix::process::pidfd_send_signal(&pidfd, signal))
            .map_err(|source| failed(Error::Environment { object: format!("process {root}"), source }))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_with_and_without_prefix_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text), Some(Signal::TERM), "{text}");
        }
        for (text, number) in [("RTMIN", 34), ("sigrtmin+3", 37), ("RTMAX-1", 63), ("RTMAX", 64), ("40", 40)]
        {
            assert_eq!(parse(text).map(Signal::as_raw), Some(number), "{text}");
        }
        for text in ["NONE", "0", "32", "65", "-1", "RTMIN-1", "RTMIN+31", "RTMIN+", "RTMIN++1", "RTMAX+1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
