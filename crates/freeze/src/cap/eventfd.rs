//! Event counters.

use super::{Error, Held};
use frost_model::cap::{Capability, EventFd};

/// Captures an eventfd, whose value fdinfo tells.
pub(super) fn capture(held: &Held) -> Result<Capability, Error> {
    let info = held.info()?;
    // In hexadecimal: fs/eventfd.c prints it with %16llx.
    let count = info.field("eventfd-count").and_then(|text| u64::from_str_radix(text, 16).ok());
    let semaphore = info.field("eventfd-semaphore");
    match (count, semaphore) {
        (Some(count), Some(semaphore)) => {
            Ok(Capability::EventFd(EventFd { count, semaphore: semaphore == "1" }))
        }
        _ => Err(Error::Refused { object: held.describe() }),
    }
}

/// Returns whether this kernel tells all about an eventfd: EFD_SEMAPHORE is told since Linux 6.5.
pub(super) fn is_told(held: &Held) -> Result<bool, Error> {
    Ok(held.info()?.field("eventfd-semaphore").is_some())
}
