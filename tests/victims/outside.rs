//! Standard input, output and error, whose other end is not in the tree.
//!
//! The harness hands in what the name says: files, `/dev/null`, or pipes that it holds itself.

use crate::Victim;
use crate::call::{read_some, write_all};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[("outside_standard", standard), ("outside_pipe", pipe)];

/// Output appears where it did, if that was a file.
fn standard(stage: &Stage) -> Verdict {
    write_all(1, b"before\n")?;
    stage.freeze_here()?;
    write_all(1, b"after\n")
}

/// A pipe to another program: thaw hands in another one, or closes it; the program sees an ordinary end.
fn pipe(stage: &Stage) -> Verdict {
    stage.ready();
    stage.wait();
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let written = write_all(1, b"after\n");
    let read = read_some(0, 16);
    std::fs::write(stage.path("seen"), format!("{written:?} {read:?}")).map_err(|why| why.to_string())
}
