//! Fifos.

use crate::Victim;
use crate::call::{c, is_in_call, open, read_all, read_some, until, write_all};
use crate::stage::{Stage, Verdict};
use libc::{F_GETPIPE_SZ, F_SETPIPE_SZ, O_DIRECT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};

pub(crate) const VICTIMS: &[Victim] = &[
    ("fifo_open", opened),
    ("fifo_one_end", one_end),
    ("fifo_deleted", deleted),
    ("fifo_writer_gone", writer_gone),
    ("fifo_reader_gone", reader_gone),
    ("fifo_full", full),
    ("fifo_blocked_reader", blocked_reader),
    ("fifo_packets", packets),
    ("fifo_renamed", renamed),
    ("fifo_made_anew", made_anew),
];

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

/// Its last writer has left something behind.
fn writer_gone(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let (reader, writer) = (open(&path, O_RDONLY | O_NONBLOCK)?, open(&path, O_WRONLY)?);
    write_all(writer, b"last words")?;
    sys!(close(writer))?;
    stage.freeze_here()?;
    same!(read_some(reader, 100)?, b"last words", "what was left");
    same!(read_some(reader, 100)?, b"", "the end");
    let again = open(&path, O_WRONLY | O_NONBLOCK)?;
    let nothing = sys!(read(reader, [0u8; 1].as_mut_ptr().cast(), 1));
    same!((nothing.is_err(), crate::call::errno()), (true, libc::EAGAIN), "with a new writer");
    write_all(again, b"more")?;
    same!(read_some(reader, 100)?, b"more", "what the new writer wrote");
    Ok(())
}

/// Nobody reads, and what was written waits for the next reader.
fn reader_gone(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let (reader, writer) = (open(&path, O_RDONLY | O_NONBLOCK)?, open(&path, O_WRONLY)?);
    write_all(writer, b"unread")?;
    sys!(close(reader))?;
    stage.freeze_here()?;
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let written = sys!(write(writer, b"x".as_ptr().cast(), 1));
    same!((written.is_err(), crate::call::errno()), (true, libc::EPIPE), "a write without reader");
    let again = open(&path, O_RDONLY | O_NONBLOCK)?;
    write_all(writer, b" and more")?;
    same!(read_some(again, 100)?, b"unread and more", "what a new reader finds");
    Ok(())
}

/// Of a capacity of its own, full, and one waits to write.
fn full(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let (reader, writer) = (open(&path, O_RDONLY | O_NONBLOCK)?, open(&path, O_WRONLY)?);
    let room = sys!(fcntl(writer, F_SETPIPE_SZ, 8192))? as usize;
    let data: Vec<u8> = (0..3 * room as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let child = stage.fork(|| {
        sys!(close(reader))?;
        write_all(writer, &data)
    })?;
    sys!(close(writer))?;
    until("the child waits", || is_in_call(child, libc::SYS_write))?;
    stage.freeze_here()?;
    same!(sys!(fcntl(reader, F_GETPIPE_SZ))? as usize, room, "its capacity");
    sys!(fcntl(reader, libc::F_SETFL, 0))?;
    check!(read_all(reader, data.len() + 1)? == data, "the content changed");
    stage.reap(child)
}

/// One waits to read, another at open(2) for one who reads.
fn blocked_reader(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let second = stage.path("second");
    sys!(mkfifo(c(&second.to_string_lossy()).as_ptr(), 0o600))?;
    let reads = stage.fork(|| {
        let reader = open(&path, O_RDONLY)?;
        same!(read_all(reader, 100)?, b"hello", "what was read");
        Ok(())
    })?;
    let opens = stage.fork(|| write_all(open(&second, O_WRONLY)?, b"opened"))?;
    let writer = open(&path, O_WRONLY)?;
    until("both wait", || is_in_call(reads, libc::SYS_read) && is_in_call(opens, libc::SYS_openat))?;
    stage.freeze_here()?;
    write_all(writer, b"hello")?;
    sys!(close(writer))?;
    same!(read_all(open(&second, O_RDONLY)?, 100)?, b"opened", "what came of the one that waited");
    [reads, opens].into_iter().try_for_each(|pid| stage.reap(pid))
}

/// Two writers, one of which writes packets.
fn packets(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let reader = open(&path, O_RDONLY | O_NONBLOCK)?;
    let (packets, plain) = (open(&path, O_WRONLY)?, open(&path, O_WRONLY)?);
    // Of a fifo, open(2) does not take this flag.
    sys!(fcntl(packets, libc::F_SETFL, O_DIRECT))?;
    write_all(packets, b"one")?;
    write_all(packets, b"two")?;
    write_all(plain, b"three")?;
    stage.freeze_here()?;
    for packet in [&b"one"[..], b"two", b"three"] {
        same!(read_some(reader, 100)?, packet, "a packet");
    }
    write_all(packets, b"four")?;
    write_all(plain, b"five")?;
    same!(read_some(reader, 100)?, b"four", "a packet written after");
    same!(read_some(reader, 100)?, b"five", "what is no packet");
    Ok(())
}

/// It has another name than the one it was opened by.
fn renamed(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let (reader, writer) = (open(&path, O_RDONLY | O_NONBLOCK)?, open(&path, O_WRONLY)?);
    write_all(writer, b"content")?;
    std::fs::rename(&path, stage.path("renamed")).map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    let other = open(&stage.path("renamed"), O_WRONLY | O_NONBLOCK)?;
    write_all(other, b" and more")?;
    same!(read_some(reader, 100)?, b"content and more", "what came through");
    check!(!path.exists(), "the old name is back");
    Ok(())
}

/// Two of one name, of which the first was deleted.
fn made_anew(stage: &Stage) -> Verdict {
    let path = fifo(stage)?;
    let old = (open(&path, O_RDONLY | O_NONBLOCK)?, open(&path, O_WRONLY)?);
    write_all(old.1, b"old")?;
    std::fs::remove_file(&path).map_err(|why| why.to_string())?;
    fifo(stage)?;
    let new = (open(&path, O_RDONLY | O_NONBLOCK)?, open(&path, O_WRONLY)?);
    write_all(new.1, b"new")?;
    // The deleted one is called otherwise, as its name is taken.
    stage.freeze_without_facts()?;
    same!(read_some(old.0, 100)?, b"old", "what waits in the deleted one");
    let other = open(&path, O_WRONLY | O_NONBLOCK)?;
    write_all(other, b"er")?;
    same!(read_some(new.0, 100)?, b"newer", "what waits in the one that has the name");
    Ok(())
}
