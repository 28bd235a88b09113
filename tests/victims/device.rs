//! Devices that hold no state.

use crate::Victim;
use crate::call::{errno, open, read_some, write_all};
use crate::stage::{Stage, Verdict};
use std::path::Path;

pub(crate) const VICTIMS: &[Victim] = &[("device_stateless", stateless), ("device_made_anew", made_anew)];

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

/// By a node that was made anew since: which device it is counts. Only root makes nodes.
fn made_anew(stage: &Stage) -> Verdict {
    let [path, other] = ["null", "other"].map(|name| stage.path(name));
    let make = |path: &std::path::Path| {
        let name = crate::call::c(&path.to_string_lossy());
        sys!(mknod(name.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)))
    };
    let is_made = make(&path).is_ok();
    let opened = if is_made { path.clone() } else { std::path::PathBuf::from("/dev/null") };
    let fd = open(&opened, libc::O_RDWR)?;
    if is_made {
        make(&other)?;
        std::fs::rename(&other, &path).map_err(|why| why.to_string())?;
    }
    stage.freeze_without_facts()?;
    same!(read_some(fd, 1)?, b"", "what it gives");
    write_all(fd, b"taken")
}
