//! `frost set`: another budget for a program.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_model::host::Budget;
use frost_store::Name;
use serde::Serialize;
use std::process::ExitCode;

/// Changes what a program may use of the machine
///
/// One that runs has it at once, one that is frozen when it is thawed. What is not named stays as it is.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The program, by its name
    #[arg(value_name = "NAME")]
    name: String,
    /// The most memory that it may use, as 512M, or none
    #[arg(long, value_name = "SIZE", required_unless_present = "cpu")]
    ram: Option<String>,
    /// The most processor time that it may use: 0.5 or 50% of one processor, 2 of two, or none
    #[arg(long, value_name = "SHARE")]
    cpu: Option<String>,
}

/// What was asked for of a budget: not named, or taken away, or so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    ram_bytes: Option<Option<u64>>,
    cpu_percent: Option<Option<u32>>,
}

/// What is no budget.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    cause: String,
    hint: &'static str,
}

impl Wrong {
    pub(super) fn told(self, what: impl Into<String>, state: &str) -> Failure {
        Told::new(Status::Usage, what).cause(self.cause).state(state).hint(self.hint).into()
    }
}

const NONE: &str = "none";

impl Wish {
    /// Reads what was typed.
    pub(super) fn read(ram: Option<&str>, cpu: Option<&str>) -> Result<Self, Wrong> {
        let ram_bytes = match ram {
            None => None,
            Some(NONE) => Some(None),
            Some(text) => Some(Some(size(text).filter(|bytes| *bytes > 0).ok_or_else(|| Wrong {
                cause: format!("{text:?} is no size of memory"),
                hint: "a number with K, M or G behind it, as 512M",
            })?)),
        };
        let cpu_percent = match cpu {
            None => None,
            Some(NONE) => Some(None),
            Some(text) => Some(Some(share(text).ok_or_else(|| Wrong {
                cause: format!("{text:?} is no share of processors"),
                hint: "how many of them, as 0.5 or 2, or hundredths of one, as 50%; at least 1%",
            })?)),
        };
        Ok(Self { ram_bytes, cpu_percent })
    }

    /// Returns a budget with it.
    pub(super) fn applied_to(self, budget: Budget) -> Budget {
        Budget {
            ram_bytes: self.ram_bytes.unwrap_or(budget.ram_bytes),
            cpu_percent: self.cpu_percent.unwrap_or(budget.cpu_percent),
        }
    }
}

/// Reads a size: a number, with K, M or G behind it.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches(['b', 'B', 'i']);
    let (number, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = number.parse().ok()?;
    // More than any machine has is no size either.
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number && *bytes < 1 << 44)
}

/// Reads a share in hundredths of one processor: the least that the kernel divides by, and the most that any machine has.
fn share(text: &str) -> Option<u32> {
    let text = text.trim();
    let percent = match text.strip_suffix('%') {
        Some(number) => number.trim().parse::<f64>().ok()?,
        None => text.parse::<f64>().ok()? * 100.0,
    };
    let percent = percent.round();
    (1.0..=1_000_000.0).contains(&percent).then_some(percent as u32)
}

/// Shows a share as it is typed.
pub(super) fn shown(percent: u32) -> String {
    format!("{percent}%")
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    ram_bytes: Option<u64>,
    cpu_percent: Option<u32>,
    running: bool,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let what = || format!("cannot change what {} may use", options.name);
    let wish = Wish::read(options.ram.as_deref(), options.cpu.as_deref())
        .map_err(|wrong| wrong.told(what(), "nothing was changed"))?;
    let store = invocation.store()?;
    let failed = |error| trouble::of_runtime(what(), error);
    let name = Name::new(&options.name).map_err(|_| failed(frost_runtime::Error::Missing))?;
    let (budget, running) =
        frost_runtime::budget::set(&store, &name, |budget| wish.applied_to(budget)).map_err(failed)?;
    if invocation.global.json {
        output::record(&Record {
            name: name.as_str(),
            ram_bytes: budget.ram_bytes,
            cpu_percent: budget.cpu_percent,
            running,
        })?;
    } else {
        let ram = budget.ram_bytes.map_or_else(|| "no limit".to_owned(), output::bytes);
        let cpu = budget.cpu_percent.map_or_else(|| "no limit".to_owned(), shown);
        let when = if running { "" } else { ", when it is thawed" };
        output::line(&format!("{name} may use, memory: {ram}, processor: {cpu}{when}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_letter() {
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!(size("2GiB"), Some(2 << 30));
        assert_eq!(size("1048576"), Some(1 << 20));
        for text in ["", "M", "-1M", "1T", "99999999999G", "17179869184M"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn shares_are_numbers_of_processors_or_hundredths_of_one() {
        for (text, percent) in [("0.5", 50), ("50%", 50), ("2", 200), ("150 %", 150), ("0.01", 1)] {
            assert_eq!(share(text), Some(percent), "{text}");
        }
        for text in ["", "%", "0", "-1", "0.001", "NaN", "inf", "1e9", "half"] {
            assert_eq!(share(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let old = Budget { ram_bytes: Some(1), cpu_percent: Some(2) };
        let wish = Wish::read(None, Some("none")).unwrap();
        assert_eq!(wish.applied_to(old), Budget { ram_bytes: Some(1), cpu_percent: None });
        assert_eq!(Wish::read(Some("0"), None).unwrap_err().cause, "\"0\" is no size of memory");
    }
}
