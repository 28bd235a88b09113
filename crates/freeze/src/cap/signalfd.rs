//! Descriptors that read signals.

use super::{Error, Held};
use frost_model::cap::{Capability, SignalFd};

/// Captures a signalfd. What it would read are the pending signals of whoever reads, so it holds none itself.
pub(super) fn capture(held: &Held) -> Result<Capability, Error> {
    let info = held.info()?;
    let mask = info.field("sigmask").and_then(|text| u64::from_str_radix(text, 16).ok());
    let mask = mask.ok_or_else(|| Error::Refused { object: held.describe() })?;
    Ok(Capability::SignalFd(SignalFd { mask }))
}
