//! Contexts of asynchronous I/O.

use crate::Victim;
use crate::call::{is_in_call, open, pipe, until, write_all};
use crate::stage::{Stage, Verdict};

pub(crate) const VICTIMS: &[Victim] = &[
    ("aio_idle", idle),
    ("aio_events_waiting", events_waiting),
    ("aio_wrapped", wrapped),
    ("aio_several", several),
    ("aio_blocked", blocked),
    ("aio_forked", forked),
];

/// `struct iocb` of include/uapi/linux/aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

const PREAD: u16 = 0;
const POLL: u16 = 5;

/// Data, result.
type Event = (u64, i64);

fn setup(requests: u32) -> Result<u64, String> {
    let mut context = 0u64;
    sys!(syscall(libc::SYS_io_setup, requests, &mut context))?;
    Ok(context)
}

fn submit(context: u64, iocb: &mut Iocb) -> Verdict {
    let mut list = [std::ptr::from_mut(iocb)];
    same!(sys!(syscall(libc::SYS_io_submit, context, 1, list.as_mut_ptr()))?, 1, "requests that were taken");
    Ok(())
}

/// Reads from a file of ten bytes that counts.
fn read(context: u64, fd: i32, data: u64, buffer: &mut [u8], offset: i64) -> Verdict {
    let mut iocb = Iocb {
        data,
        opcode: PREAD,
        fd: fd as u32,
        buffer: buffer.as_mut_ptr() as u64,
        len: buffer.len() as u64,
        offset,
        ..Iocb::default()
    };
    submit(context, &mut iocb)
}

/// Takes at least `least` events, waiting as long as that takes.
fn take(context: u64, least: i64) -> Result<Vec<Event>, String> {
    let mut events = [[0i64; 4]; 64];
    let null = std::ptr::null::<libc::timespec>();
    let got = sys!(syscall(libc::SYS_io_getevents, context, least, 64i64, events.as_mut_ptr(), null))?;
    Ok(events[..got as usize].iter().map(|event| (event[0] as u64, event[2])).collect())
}

fn counting(stage: &Stage) -> Result<i32, String> {
    std::fs::write(stage.path("counting"), b"0123456789").map_err(|e| e.to_string())?;
    open(&stage.path("counting"), libc::O_RDONLY)
}

fn works(context: u64, fd: i32) -> Verdict {
    let mut buffer = [0u8; 4];
    read(context, fd, 77, &mut buffer, 3)?;
    same!(take(context, 1)?, [(77, 4)], "the event of a new request");
    same!(&buffer, b"3456", "what was read");
    same!(take(context, 0)?, [], "what is left");
    Ok(())
}

fn idle(stage: &Stage) -> Verdict {
    let fd = counting(stage)?;
    let context = setup(32)?;
    stage.freeze_here()?;
    works(context, fd)?;
    sys!(syscall(libc::SYS_io_destroy, context))?;
    check!(take(context, 0).is_err(), "it is still there");
    Ok(())
}

/// Requests have ended, and nobody has taken their events.
fn events_waiting(stage: &Stage) -> Verdict {
    let fd = counting(stage)?;
    let context = setup(200)?;
    let mut buffers = [[0u8; 2]; 50];
    for (index, buffer) in buffers.iter_mut().enumerate() {
        read(context, fd, 1000 + index as u64, buffer, index as i64 % 10)?;
    }
    stage.freeze_here()?;
    let expected: Vec<Event> =
        (0..50).map(|index| (1000 + index, if index % 10 == 9 { 1 } else { 2 })).collect();
    same!(take(context, 50)?, expected, "the events that waited");
    works(context, fd)
}

/// The events that wait lie at the end of the ring and at its beginning.
fn wrapped(stage: &Stage) -> Verdict {
    let fd = counting(stage)?;
    let context = setup(1)?;
    let mut buffer = [0u8; 1];
    // A ring of one page has 127 places.
    for round in 0..120 {
        read(context, fd, round, &mut buffer, 0)?;
        same!(take(context, 1)?, [(round, 1)], "an event");
    }
    for data in 0..20 {
        read(context, fd, data, &mut buffer, 0)?;
    }
    stage.freeze_here()?;
    let expected: Vec<Event> = (0..20).map(|data| (data, 1)).collect();
    same!(take(context, 20)?, expected, "the events that waited");
    works(context, fd)
}

fn several(stage: &Stage) -> Verdict {
    let fd = counting(stage)?;
    let contexts = [setup(1)?, setup(64)?, setup(1000)?, setup(7)?];
    sys!(syscall(libc::SYS_io_destroy, contexts[0]))?;
    let mut buffer = [0u8; 3];
    read(contexts[2], fd, 5, &mut buffer, 7)?;
    stage.freeze_here()?;
    same!(take(contexts[2], 1)?, [(5, 3)], "the event that waited in one");
    for context in &contexts[1..] {
        works(*context, fd)?;
    }
    Ok(())
}

/// A child waits for an event of its own context.
fn blocked(stage: &Stage) -> Verdict {
    let child = stage.fork(|| {
        let context = setup(8)?;
        let fd = counting(stage)?;
        let taker = std::thread::spawn(move || take(context, 1));
        stage.wait();
        let mut buffer = [0u8; 2];
        read(context, fd, 9, &mut buffer, 0)?;
        same!(taker.join().map_err(|_| "the thread panicked")??, [(9, 2)], "the event");
        Ok(())
    })?;
    let threads = || std::fs::read_dir(format!("/proc/{child}/task")).into_iter().flatten().flatten();
    until("a thread of the child waits", || {
        threads().any(|entry| {
            let tid = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            is_in_call(tid, libc::SYS_io_getevents)
        })
    })?;
    stage.freeze_here()?;
    stage.reap(child)
}

/// A child has the mapping of its parent's ring, but not the context.
fn forked(stage: &Stage) -> Verdict {
    let fd = counting(stage)?;
    let context = setup(32)?;
    let (reader, writer) = pipe(0)?;
    let child = stage.fork(|| {
        let own = setup(16)?;
        stage.wait();
        works(own, fd)
    })?;
    stage.freeze_here()?;
    let mut iocb =
        Iocb { data: 3, opcode: POLL, fd: reader as u32, buffer: libc::POLLIN as u64, ..Iocb::default() };
    submit(context, &mut iocb)?;
    same!(take(context, 0)?, [], "what is ready");
    write_all(writer, b"x")?;
    same!(take(context, 1)?, [(3, (libc::POLLIN | libc::POLLRDNORM).into())], "what is ready then");
    works(context, fd)?;
    stage.reap(child)
}
