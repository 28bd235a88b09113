//! Fifos.

use crate::Victim;
use crate::call::{c, open, read_some, write_all};
use crate::stage::{Stage, Verdict};
use libc::{O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};

pub(crate) const VICTIMS: &[Victim] =
    &[("fifo_open", opened), ("fifo_one_end", one_end), ("fifo_deleted", deleted)];

fn fifo(stage: &Stage) -> Result<std::path::PathBuf, String> {
    let path = stage.path("fifo");
    sys!(mkfifo(c(&path.to_string_lossy()).as_ptr(), 0o600))?;
    Ok(path)
}

fn opened(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let reader = open(&path, O_RDONLY | O_NONBLOCK)?;
    let writer = open(&path, O_WRONLY)?;
    write_all(writer, b"content")?;
    stage.freeze_here()?;
    // A new opener meets the same content.
    let other = open(&path, O_RDWR | O_NONBLOCK)?;
    write_all(other, b" and more")?;
    same!(read_some(reader, 100)?, b"content and more", "what came through");
    Ok(())
}

fn one_end(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let reader = open(&path, O_RDONLY | O_NONBLOCK)?;
    stage.freeze_here()?;
    same!(read_some(reader, 10)?, b"", "without a writer");
    let writer = open(&path, O_WRONLY | O_NONBLOCK)?;
    write_all(writer, b"content")?;
    same!(read_some(reader, 10)?, b"content", "what came through");
    Ok(())
}

fn deleted(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let (reader, writer) = (open(&path, O_RDONLY | O_NONBLOCK)?, open(&path, O_WRONLY)?);
    write_all(writer, b"content")?;
    std::fs::remove_file(path).map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    same!(read_some(reader, 100)?, b"content", "what came through");
    write_all(writer, b"more")?;
    same!(read_some(reader, 100)?, b"more", "what came after");
    Ok(())
}
