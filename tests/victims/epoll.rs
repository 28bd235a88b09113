//! Epoll instances.

use crate::Victim;
use crate::call::{pipe, read_some, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT};

pub(crate) const VICTIMS: &[Victim] = &[
    ("epoll_watches", watches),
    ("epoll_edge", edge),
    ("epoll_oneshot", oneshot),
    ("epoll_oneshot_hung_up", oneshot_hung_up),
    ("epoll_nested", nested),
    ("epoll_nested_deep", nested_deep),
    ("epoll_wakeup", wakeup),
    ("epoll_busy_poll", busy_poll),
    ("epoll_many", many),
    ("epoll_other_number", other_number),
    ("epoll_other_numbers", other_numbers),
    ("epoll_shared", shared),
    ("epoll_exclusive", exclusive),
    ("epoll_in_flight", in_flight),
    ("epoll_closed_elsewhere", closed_elsewhere),
];

fn add(epoll: i32, fd: i32, events: i32, data: u64) -> Verdict {
    let mut event = libc::epoll_event { events: events as u32, u64: data };
    sys!(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &mut event))?;
    Ok(())
}

/// What is ready now: events and data, by ascending data.
fn ready(epoll: i32) -> Result<Vec<(u32, u64)>, String> {
    let mut events: [libc::epoll_event; 64] = zeroed();
    let count = sys!(epoll_wait(epoll, events.as_mut_ptr(), 64, 0))?;
    let mut ready: Vec<_> = events[..count as usize].iter().map(|event| (event.events, event.u64)).collect();
    ready.sort_by_key(|(_, data)| *data);
    Ok(ready)
}

fn watches(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(libc::EPOLL_CLOEXEC))?;
    let (reader, writer) = pipe(0)?;
    let event = sys!(eventfd(0, 0))?;
    add(epoll, reader, EPOLLIN, 0xdead_beef_0000_0001)?;
    add(epoll, event, EPOLLIN, 2)?;
    add(epoll, writer, EPOLLOUT, u64::MAX)?;
    stage.freeze_here()?;
    same!(ready(epoll)?, [(EPOLLOUT as u32, u64::MAX)], "what is ready");
    write_all(writer, b"x")?;
    write_all(event, &1u64.to_ne_bytes())?;
    let expected =
        [(EPOLLIN as u32, 2), (EPOLLIN as u32, 0xdead_beef_0000_0001), (EPOLLOUT as u32, u64::MAX)];
    same!(ready(epoll)?, expected, "what is ready then");
    sys!(epoll_ctl(epoll, libc::EPOLL_CTL_DEL, event, std::ptr::null_mut()))?;
    same!(ready(epoll)?.len(), 2, "how many are ready without the one taken out");
    Ok(())
}

fn edge(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let (reader, writer) = pipe(libc::O_NONBLOCK)?;
    add(epoll, reader, EPOLLIN | EPOLLET, 7)?;
    write_all(writer, b"x")?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 7)], "the edge before");
    stage.freeze_here()?;
    // An edge told again is allowed; a lost one is not.
    let _again = ready(epoll)?;
    write_all(writer, b"y")?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 7)], "the edge after");
    same!(ready(epoll)?, [], "no edge");
    same!(read_some(reader, 9)?, b"xy", "what came through");
    Ok(())
}

/// A one-shot watch that fired stays silent until it is armed again.
fn oneshot(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let (reader, writer) = pipe(0)?;
    add(epoll, reader, EPOLLIN | EPOLLONESHOT, 9)?;
    write_all(writer, b"x")?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 9)], "the shot");
    stage.freeze_here()?;
    same!(ready(epoll)?, [], "after the shot");
    let mut event = libc::epoll_event { events: (EPOLLIN | EPOLLONESHOT) as u32, u64: 10 };
    sys!(epoll_ctl(epoll, EPOLL_CTL_MOD, reader, &mut event))?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 10)], "armed again");
    Ok(())
}

/// What has fired tells of nothing until it is armed again, not even that the other end is gone.
fn oneshot_hung_up(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()))?;
    let event = sys!(eventfd(1, 0))?;
    add(epoll, event, EPOLLIN, 1)?;
    add(epoll, pair[0], EPOLLIN | EPOLLONESHOT, 2)?;
    write_all(pair[1], b"x")?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 1), (EPOLLIN as u32, 2)], "the shot beside the other");
    stage.freeze_here()?;
    sys!(close(pair[1]))?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 1)], "after the shot");
    let mut rearm = libc::epoll_event { events: (EPOLLIN | EPOLLONESHOT) as u32, u64: 3 };
    sys!(epoll_ctl(epoll, EPOLL_CTL_MOD, pair[0], &mut rearm))?;
    let told = ((EPOLLIN | libc::EPOLLHUP) as u32, 3);
    same!(ready(epoll)?, [(EPOLLIN as u32, 1), told], "armed again");
    Ok(())
}

fn nested(stage: &Stage) -> Verdict {
    let (outer, inner) = (sys!(epoll_create1(0))?, sys!(epoll_create1(0))?);
    let event = sys!(eventfd(0, 0))?;
    add(inner, event, EPOLLIN, 1)?;
    add(outer, inner, EPOLLIN, 2)?;
    stage.freeze_here()?;
    same!(ready(outer)?, [], "what is ready");
    write_all(event, &1u64.to_ne_bytes())?;
    same!(ready(outer)?, [(EPOLLIN as u32, 2)], "what is ready outside");
    same!(ready(inner)?, [(EPOLLIN as u32, 1)], "what is ready inside");
    Ok(())
}

/// As deep as the kernel lets them watch each other (EP_MAX_NESTS, fs/eventpoll.c).
fn nested_deep(stage: &Stage) -> Verdict {
    let event = sys!(eventfd(0, 0))?;
    let mut chain = vec![event];
    for depth in 0..10 {
        let next = sys!(epoll_create1(0))?;
        if add(next, chain[depth], EPOLLIN, depth as u64).is_err() {
            sys!(close(next))?;
            break;
        }
        chain.push(next);
    }
    check!(chain.len() > 4, "only {} could be nested", chain.len());
    stage.freeze_here()?;
    let last = chain.len() - 1;
    same!(ready(chain[last])?, [], "what is ready");
    write_all(event, &1u64.to_ne_bytes())?;
    for depth in (1..=last).rev() {
        same!(ready(chain[depth])?, [(EPOLLIN as u32, depth as u64 - 1)], "what is ready at depth {depth}");
    }
    Ok(())
}

/// One that keeps the machine awake while it is handled; only root may (CAP_BLOCK_SUSPEND), else the kernel drops the flag.
fn wakeup(stage: &Stage) -> Verdict {
    let (epoll, event) = (sys!(epoll_create1(0))?, sys!(eventfd(0, 0))?);
    add(epoll, event, EPOLLIN | libc::EPOLLWAKEUP, 5)?;
    let told =
        || std::fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).map_err(|why| why.to_string());
    let events = |told: String| {
        told.split_once("events:").and_then(|(_, rest)| Some(rest.split_whitespace().next()?.to_owned()))
    };
    let before = events(told()?);
    stage.freeze_here()?;
    same!(events(told()?), before, "its events");
    write_all(event, &1u64.to_ne_bytes())?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 5)], "what is ready");
    Ok(())
}

/// What is polled before it waits (EPIOCSPARAMS, Linux 6.9).
fn busy_poll(stage: &Stage) -> Verdict {
    // `struct epoll_params` of include/uapi/linux/eventpoll.h: microseconds, budget (16 bits), preference (8 bits).
    const SET: u64 = 0x4008_8a01;
    const GET: u64 = 0x8008_8a02;
    let epoll = sys!(epoll_create1(0))?;
    let wanted = [64u32, 32 | 1 << 16];
    let is_known = sys!(ioctl(epoll, SET, wanted.as_ptr())).is_ok();
    stage.freeze_here()?;
    let mut found = [0u32; 2];
    if is_known {
        sys!(ioctl(epoll, GET, found.as_mut_ptr()))?;
        same!(found, wanted, "how it polls");
    }
    Ok(())
}

fn many(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let mut events = Vec::new();
    for data in 0..200 {
        let fd = sys!(eventfd(0, libc::EFD_CLOEXEC))?;
        add(epoll, fd, EPOLLIN, data)?;
        events.push(fd);
    }
    stage.freeze_here()?;
    for (data, fd) in events.into_iter().enumerate() {
        write_all(fd, &1u64.to_ne_bytes())?;
        same!(ready(epoll)?, [(EPOLLIN as u32, data as u64)], "what is ready");
        read_some(fd, 8)?;
    }
    Ok(())
}

/// The number under which a watch was added now belongs to another file: the description counts, not the number.
fn other_number(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let (first, second) = (sys!(eventfd(0, 0))?, sys!(eventfd(1, 0))?);
    add(epoll, first, EPOLLIN, 5)?;
    let kept = sys!(dup(first))?;
    sys!(dup2(second, first))?;
    stage.freeze_here()?;
    same!(ready(epoll)?, [], "what is ready");
    write_all(kept, &1u64.to_ne_bytes())?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 5)], "what is ready then");
    Ok(())
}

/// Each number belongs to a file that was added under another, and all of them have one inode.
fn other_numbers(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let mut numbers = Vec::new();
    let mut kept = Vec::new();
    for data in 0..300 {
        let fd = sys!(eventfd(0, 0))?;
        add(epoll, fd, EPOLLIN, data)?;
        numbers.push(fd);
        kept.push(sys!(dup(fd))?);
    }
    for (number, other) in numbers.iter().zip(kept.iter().cycle().skip(1)) {
        sys!(dup2(*other, *number))?;
    }
    stage.freeze_here()?;
    same!(ready(epoll)?, [], "what is ready");
    for (data, fd) in kept.into_iter().enumerate() {
        write_all(fd, &1u64.to_ne_bytes())?;
        same!(ready(epoll)?, [(EPOLLIN as u32, data as u64)], "what is ready then");
        read_some(fd, 8)?;
    }
    Ok(())
}

fn shared(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let event = sys!(eventfd(0, 0))?;
    add(epoll, event, EPOLLIN, 5)?;
    let child = stage.fork(|| {
        let mut events: [libc::epoll_event; 4] = zeroed();
        same!(sys!(epoll_wait(epoll, events.as_mut_ptr(), 4, -1))?, 1, "events in the child");
        Ok(())
    })?;
    crate::call::until("the child waits", || {
        // Linux numbers both epoll_wait and epoll_pwait; libc chooses.
        crate::call::is_in_call(child, libc::SYS_epoll_wait)
            || crate::call::is_in_call(child, libc::SYS_epoll_pwait)
    })?;
    stage.freeze_here()?;
    write_all(event, &1u64.to_ne_bytes())?;
    stage.reap(child)
}

/// Watches of two instances of which one is told; and ready ones that were not asked for yet.
fn exclusive(stage: &Stage) -> Verdict {
    let event = sys!(eventfd(0, libc::EFD_NONBLOCK))?;
    let both = [sys!(epoll_create1(0))?, sys!(epoll_create1(0))?];
    for (data, epoll) in both.into_iter().enumerate() {
        add(epoll, event, EPOLLIN | libc::EPOLLEXCLUSIVE, data as u64)?;
    }
    stage.freeze_here()?;
    let mut change = libc::epoll_event { events: EPOLLIN as u32, u64: 1 };
    let changed = sys!(epoll_ctl(both[0], EPOLL_CTL_MOD, event, &mut change));
    check!(changed.is_err(), "it is not exclusive any more");
    write_all(event, &1u64.to_ne_bytes())?;
    for (data, epoll) in both.into_iter().enumerate() {
        same!(ready(epoll)?, [(EPOLLIN as u32, data as u64)], "what is ready");
    }
    Ok(())
}

/// An instance that lies in a queue, and watches that queue's other end.
fn in_flight(stage: &Stage) -> Verdict {
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, pair.as_mut_ptr()))?;
    let epoll = sys!(epoll_create1(0))?;
    add(epoll, pair[0], EPOLLIN, 11)?;
    crate::unix::send_descriptor(pair[0], epoll)?;
    sys!(close(epoll))?;
    stage.freeze_here()?;
    let epoll = crate::unix::receive_descriptor(pair[1])?;
    same!(ready(epoll)?, [], "what is ready");
    write_all(pair[1], b"x")?;
    same!(ready(epoll)?, [(EPOLLIN as u32, 11)], "what is ready then");
    Ok(())
}

/// Watched by one process under a number that it closed, while another still has the file.
fn closed_elsewhere(stage: &Stage) -> Verdict {
    let epoll = sys!(epoll_create1(0))?;
    let (reader, writer) = pipe(0)?;
    add(epoll, reader, EPOLLIN, 21)?;
    let child = stage.fork(|| {
        same!(read_some(reader, 1)?, b"x", "what the child read");
        Ok(())
    })?;
    sys!(close(reader))?;
    crate::call::until("the child reads", || crate::call::is_in_call(child, libc::SYS_read))?;
    stage.freeze_here()?;
    same!(ready(epoll)?, [], "what is ready");
    write_all(writer, b"xy")?;
    stage.reap(child)?;
    same!(ready(epoll)?, [], "the last one that had it is gone");
    Ok(())
}
