//! Pipes.

use crate::Victim;
use crate::call::{pipe, read_all, read_some, shared_words, until, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{F_GETPIPE_SZ, F_SETPIPE_SZ, O_CLOEXEC, O_DIRECT, O_NONBLOCK};
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("pipe_empty", empty),
    ("pipe_half_full", half_full),
    ("pipe_full", full),
    ("pipe_large", large),
    ("pipe_packets", packets),
    ("pipe_no_writer", no_writer),
    ("pipe_no_reader", no_reader),
    ("pipe_blocked_reader", blocked_reader),
    ("pipe_blocked_writer", blocked_writer),
    ("pipe_reopened", reopened),
    ("pipe_stream", stream),
    ("pipe_packet_alone", packet_alone),
    ("pipe_packets_full", packets_full),
    ("pipe_spliced", spliced),
    ("pipe_both_ends", both_ends),
    ("pipe_blocked_several", blocked_several),
    ("pipe_permissions", permissions),
];

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn is_empty(reader: i32) -> Verdict {
    let mut waiting = 0i32;
    sys!(ioctl(reader, libc::FIONREAD, &mut waiting))?;
    same!(waiting, 0, "bytes that wait in the pipe");
    Ok(())
}

fn empty(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(O_CLOEXEC | O_NONBLOCK)?;
    stage.freeze_here()?;
    check!(read_some(reader, 1).is_err(), "something is in the pipe");
    write_all(writer, b"hello")?;
    same!(read_some(reader, 16)?, b"hello", "what came through");
    Ok(())
}

fn half_full(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let data = pattern(10_001);
    write_all(writer, &data)?;
    same!(read_all(reader, 1)?, data[..1], "the first byte");
    stage.freeze_here()?;
    write_all(writer, b"more")?;
    check!(read_all(reader, 10_000)? == data[1..], "the content changed");
    same!(read_all(reader, 4)?, b"more", "what was written after");
    is_empty(reader)
}

fn full(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(O_NONBLOCK)?;
    let data = pattern(sys!(fcntl(writer, F_GETPIPE_SZ))? as usize);
    write_all(writer, &data)?;
    check!(write_all(writer, b"x").is_err(), "the pipe is not full");
    stage.freeze_here()?;
    check!(write_all(writer, b"x").is_err(), "the pipe is no longer full");
    check!(read_all(reader, data.len())? == data, "the content changed");
    is_empty(reader)
}

fn large(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let len = sys!(fcntl(writer, F_SETPIPE_SZ, 1 << 20))? as usize;
    let small = pipe(0)?;
    let page = sys!(fcntl(small.0, F_SETPIPE_SZ, 4096))?;
    let data = pattern(len);
    write_all(writer, &data)?;
    stage.freeze_here()?;
    same!(sys!(fcntl(reader, F_GETPIPE_SZ))? as usize, len, "the capacity of the large one");
    same!(sys!(fcntl(small.1, F_GETPIPE_SZ))?, page, "the capacity of the small one");
    check!(read_all(reader, len)? == data, "the content changed");
    is_empty(reader)
}

/// O_DIRECT: each write is a packet, and each read takes one.
fn packets(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(O_DIRECT | O_NONBLOCK)?;
    let sizes = [1, 100, 4096, 17];
    for size in sizes {
        write_all(writer, &pattern(size))?;
    }
    stage.freeze_here()?;
    for size in sizes {
        check!(read_some(reader, 8192)? == pattern(size), "a packet of {size} bytes changed");
    }
    write_all(writer, b"a")?;
    write_all(writer, b"b")?;
    same!(read_some(reader, 8192)?, b"a", "a packet written after");
    Ok(())
}

fn no_writer(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    write_all(writer, b"last words")?;
    sys!(close(writer))?;
    stage.freeze_here()?;
    same!(read_some(reader, 100)?, b"last words", "what was left");
    same!(read_some(reader, 100)?, b"", "the end of the file");
    Ok(())
}

fn no_reader(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    sys!(close(reader))?;
    stage.freeze_here()?;
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let returned = sys!(write(writer, b"x".as_ptr().cast(), 1));
    check!(returned.is_err() && crate::call::errno() == libc::EPIPE, "a write without reader: {returned:?}");
    Ok(())
}

fn blocked_reader(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let child = stage.fork(|| {
        sys!(close(writer))?;
        same!(read_some(reader, 16)?, b"hello", "what was read");
        same!(read_some(reader, 16)?, b"", "the end of the file");
        Ok(())
    })?;
    until("the child reads", || crate::call::is_in_call(child, libc::SYS_read))?;
    stage.freeze_here()?;
    write_all(writer, b"hello")?;
    sys!(close(writer))?;
    stage.reap(child)
}

fn blocked_writer(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let data = pattern(300_000);
    let child = stage.fork(|| {
        sys!(close(reader))?;
        write_all(writer, &data)
    })?;
    sys!(close(writer))?;
    until("the child writes", || crate::call::is_in_call(child, libc::SYS_write))?;
    stage.freeze_here()?;
    check!(read_all(reader, 400_000)? == data, "the content changed");
    stage.reap(child)
}

/// An end opened again through /proc/self/fd: two descriptions of one end.
fn reopened(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let other = crate::call::open(std::path::Path::new(&format!("/proc/self/fd/{writer}")), libc::O_WRONLY)?;
    let both = crate::call::open(std::path::Path::new(&format!("/proc/self/fd/{reader}")), libc::O_RDWR)?;
    write_all(other, b"one ")?;
    stage.freeze_here()?;
    write_all(writer, b"two ")?;
    write_all(both, b"three")?;
    same!(read_some(reader, 100)?, b"one two three", "what came through");
    Ok(())
}

/// Data flows without pause through three processes; not a byte is lost, doubled or moved.
fn stream(stage: &Stage) -> Verdict {
    let (first, second) = (pipe(0)?, pipe(0)?);
    // The first tells to end, two are the halves of how many numbers were written: of 32 bits there are not enough for a
    // stream that is frozen again and again.
    let words = shared_words::<3>()?;
    let end = |fds: [i32; 2]| -> Verdict {
        for fd in fds {
            sys!(close(fd))?;
        }
        Ok(())
    };
    let writer = stage.fork(|| {
        end([first.0, second.0])?;
        end([second.1, second.1]).ok();
        let mut count = 0u64;
        while words[0].load(SeqCst) == 0 || count < 200_000 {
            let block: Vec<u8> = (0..251).flat_map(|i| (count + i).to_le_bytes()).collect();
            write_all(first.1, &block)?;
            count += 251;
        }
        words[1].store(count as u32, SeqCst);
        words[2].store((count >> 32) as u32, SeqCst);
        Ok(())
    })?;
    let middle = stage.fork(|| {
        end([first.1, second.0])?;
        loop {
            let some = read_some(first.0, 7777)?;
            if some.is_empty() {
                return Ok(());
            }
            write_all(second.1, &some)?;
        }
    })?;
    let last = stage.fork(|| {
        end([first.0, first.1])?;
        sys!(close(second.1))?;
        let mut count = 0u64;
        loop {
            let block = read_all(second.0, 4096)?;
            for number in block.chunks(8) {
                same!(number, count.to_le_bytes(), "the number in the stream");
                count += 1;
            }
            if block.len() < 4096 {
                let [low, high] = [1, 2].map(|half| u64::from(words[half].load(SeqCst)));
                same!(count, high << 32 | low, "how many numbers came");
                return Ok(());
            }
        }
    })?;
    end([first.0, first.1])?;
    end([second.0, second.1])?;
    stage.freeze_here()?;
    words[0].store(1, SeqCst);
    stage.reap(writer)?;
    stage.reap(middle)?;
    stage.reap(last)
}

/// What is written behind the only packet that waits does not become part of it.
fn packet_alone(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(O_DIRECT | O_NONBLOCK)?;
    let (plain_reader, plain_writer) = pipe(O_NONBLOCK)?;
    for writer in [writer, plain_writer] {
        write_all(writer, b"first")?;
    }
    stage.freeze_here()?;
    for writer in [writer, plain_writer] {
        write_all(writer, b"second")?;
    }
    same!(read_some(reader, 3)?, b"fir", "the begin of the packet, whose rest is lost by that");
    same!(read_some(reader, 100)?, b"second", "the packet written after");
    same!(read_some(plain_reader, 100)?, b"firstsecond", "what is no packet");
    Ok(())
}

/// As many packets as there is room for, each of one byte; then a writer waits.
fn packets_full(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(O_DIRECT)?;
    let room = sys!(fcntl(writer, F_GETPIPE_SZ))? as u32 / 4096;
    let child = stage.fork(|| {
        sys!(close(reader))?;
        (0..room + 3).try_for_each(|n| write_all(writer, &[n as u8]))
    })?;
    sys!(close(writer))?;
    until("the child waits", || crate::call::is_in_call(child, libc::SYS_write))?;
    stage.freeze_here()?;
    for n in 0..room + 3 {
        same!(read_some(reader, 100)?, [n as u8], "a packet");
    }
    same!(read_some(reader, 100)?, b"", "the end");
    stage.reap(child)
}

/// Pages of a file and of the program itself lie in it, each in part, so that there is no room though little is in it.
fn spliced(stage: &Stage) -> Verdict {
    let path = stage.path("file");
    std::fs::write(&path, pattern(9000)).map_err(|why| why.to_string())?;
    let file = crate::call::open(&path, libc::O_RDONLY)?;
    let (reader, writer) = pipe(O_NONBLOCK)?;
    let own = pattern(300);
    let part = libc::iovec { iov_base: own.as_ptr().cast_mut().cast(), iov_len: own.len() };
    let mut expected = Vec::new();
    let mut place = 0i64;
    loop {
        let begin = place as usize;
        if sys!(splice(file, &mut place, writer, std::ptr::null_mut(), 100, libc::SPLICE_F_NONBLOCK)).is_err()
        {
            break;
        }
        expected.extend_from_slice(&pattern(9000)[begin..place as usize]);
        if sys!(vmsplice(writer, &part, 1, libc::SPLICE_F_NONBLOCK)).is_ok() {
            expected.extend_from_slice(&own);
        }
    }
    std::fs::write(stage.path("other"), b"x").map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    check!(read_all(reader, expected.len())? == expected, "the content changed");
    is_empty(reader)
}

/// One description is both ends.
fn both_ends(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let path = format!("/proc/self/fd/{reader}");
    let both = crate::call::open(std::path::Path::new(&path), libc::O_RDWR | O_NONBLOCK)?;
    sys!(close(reader))?;
    sys!(close(writer))?;
    write_all(both, b"within")?;
    stage.freeze_here()?;
    same!(read_some(both, 100)?, b"within", "what waits in it");
    check!(read_some(both, 1).is_err() && crate::call::errno() == libc::EAGAIN, "it looks ended");
    write_all(both, b"again")?;
    same!(read_some(both, 100)?, b"again", "what is written then");
    Ok(())
}

/// Two processes wait to read and one to be told that it may; each is given what it waits for.
fn blocked_several(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(O_DIRECT)?;
    let read = || {
        sys!(close(writer))?;
        same!(read_some(reader, 16)?, b"packet", "what was read");
        Ok(())
    };
    let readers = [stage.fork(read)?, stage.fork(read)?];
    let watcher = stage.fork(|| {
        let mut poll = libc::pollfd { fd: reader, events: 0, revents: 0 };
        sys!(close(writer))?;
        same!(sys!(poll(&mut poll, 1, -1))?, 1, "what is told of");
        same!(poll.revents, libc::POLLHUP, "what is told");
        Ok(())
    })?;
    let in_call = |pid, call| crate::call::is_in_call(pid, call);
    until("all wait", || {
        readers.iter().all(|pid| in_call(*pid, libc::SYS_read)) && in_call(watcher, libc::SYS_poll)
    })?;
    stage.freeze_here()?;
    write_all(writer, b"packet")?;
    write_all(writer, b"packet")?;
    readers.into_iter().try_for_each(|pid| stage.reap(pid))?;
    sys!(close(writer))?;
    stage.reap(watcher)
}

/// Others may open it through /proc, as programs open /dev/stdout.
fn permissions(stage: &Stage) -> Verdict {
    let node = |fd: i32| {
        let mut stat: libc::stat = zeroed();
        sys!(fstat(fd, &mut stat))?;
        Ok::<_, String>((stat.st_mode, stat.st_uid, stat.st_gid))
    };
    let (reader, writer) = pipe(0)?;
    let (other, _other_writer) = pipe(0)?;
    sys!(fchmod(writer, 0o622))?;
    // Only root may give it away.
    if unsafe { libc::geteuid() } == 0 {
        sys!(fchown(writer, 4711, u32::MAX))?;
    }
    let before = (node(reader)?, node(other)?);
    stage.freeze_here()?;
    same!((node(reader)?, node(other)?), before, "mode, owner and group");
    Ok(())
}
