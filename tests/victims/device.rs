//! Devices that hold no state.

use crate::Victim;
use crate::call::{errno, open, read_some, write_all};
use crate::stage::{Stage, Verdict};
use std::path::Path;

pub(crate) const VICTIMS: &[Victim] = &[("device_stateless", stateless)];

fn stateless(stage: &Stage) -> Verdict {
    let opened = ["null", "zero", "full", "random", "urandom"].map(|name| {
        open(Path::new(&format!("/dev/{name}")), libc::O_RDWR)
            .or_else(|_| open(Path::new(&format!("/dev/{name}")), libc::O_RDONLY))
    });
    let [null, zero, full, random, urandom] = opened;
    let (null, zero, full, random, urandom) = (null?, zero?, full?, random?, urandom?);
    stage.freeze_here()?;
    write_all(null, b"x")?;
    same!(read_some(null, 4)?, b"", "null");
    same!(read_some(zero, 4)?, [0; 4], "zero");
    check!(write_all(full, b"x").is_err() && errno() == libc::ENOSPC, "full takes data");
    check!(read_some(random, 32)? != read_some(urandom, 32)?, "random numbers are equal");
    Ok(())
}
