//! POSIX message queues.
//!
//! Their messages can only be taken out and sent again, which gives the same order: a queue holds them by priority, and
//! by age among those of one. Who waits to receive or to send is a thread of the tree, and stands still; if anybody else
//! has the queue open and there is something to take, that is refused.

use super::aside::aside;
use super::held::{own_path, without_deleted};
use super::recognise::Refusal;
use super::{Error, Held};
use frost_model::BytePath;
use frost_model::cap::{Mqueue, MqueueMessage};
use frost_model::clock::Timespec;
use frost_sys::{clone, mqueue, sysv};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use std::time::{Duration, Instant};

/// Opens the queue behind a description anew, with a description of our own that never waits.
fn open(held: &Held) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(own_path(held.fd.as_fd()), flags, Mode::empty())
}

/// Whether messages wait in a queue, as far as that can be told.
pub(super) fn has_messages(held: &Held) -> bool {
    let queue = open(held).and_then(|queue| mqueue::attributes(&queue));
    queue.map_or(true, |attributes| attributes.waiting > 0)
}

/// Says why a queue cannot be carried, if it cannot. `other` is a process outside of the tree that has it open.
pub(super) fn refusal(held: &Held, other: Option<&str>) -> Option<Refusal> {
    let what = format!("POSIX message queue {}", held.name());
    let queue = match open(held) {
        Ok(queue) => queue,
        Err(errno) => {
            let reason =
                format!("its messages must be taken out and put back, and it cannot be opened: {errno}");
            let remedy =
                "freeze it as root, or let its owner give you the rights to read and write it (fchmod)";
            return Some(Refusal::new(what, reason, remedy));
        }
    };
    if let Ok(Some(pid)) = mqueue::told(&queue) {
        return Some(Refusal::new(
            what,
            format!(
                "process {pid} is to be told of the next message (mq_notify), and the kernel does not tell with which value"
            ),
            "let the program wait for messages in another way, or try again when one has come",
        ));
    }
    let waiting = mqueue::attributes(&queue).map_or(0, |attributes| attributes.waiting);
    let other = other.filter(|_| waiting > 0)?;
    Some(Refusal::passing(
        what,
        format!(
            "messages wait in it, and {other}, which is not in the tree, has it open and would see them gone for a moment"
        ),
        "freeze an ancestor of both, or let the messages be received first",
    ))
}

/// Captures a queue.
pub(super) fn capture(held: &Held) -> std::result::Result<Mqueue, Error> {
    let path = without_deleted(held.link.as_deref().unwrap_or_default());
    let name = path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let read = || read(&open(held)?, name, |take| aside("freeze.queues", take));
    read().map_err(|errno| held.error(errno))
}

/// Captures the queues that no process has open, in the IPC namespace of process `pid` if that is not ours: it is the program's
/// then, and they end with it. `known` are those that were captured.
pub(crate) fn capture_closed(pid: i32, known: &[Mqueue]) -> std::result::Result<Vec<Mqueue>, Error> {
    if sysv::is_ours(pid) {
        return Ok(Vec::new());
    }
    let captured = aside("freeze.queues", || {
        clone::enter_with_user(pid, libc::CLONE_NEWIPC)?;
        let mut captured = Vec::new();
        for name in mqueue::names()? {
            let queue = mqueue::open(&name, libc::O_RDWR | libc::O_NONBLOCK, 0, None)?;
            let inode = rustix::fs::fstat(&queue)?.st_ino;
            if !known.iter().any(|known| known.inode == inode) {
                captured.push(read(&queue, &name, |take| take())?);
            }
        }
        Ok(captured)
    });
    captured.map_err(|source| Error::Object { object: "its POSIX message queues".to_owned(), source })
}

/// What takes all messages out of a queue and puts them back.
type Take<'a> = &'a dyn Fn() -> Result<Vec<MqueueMessage>>;

fn read(
    queue: &OwnedFd,
    name: &[u8],
    run: impl FnOnce(Take<'_>) -> Result<Vec<MqueueMessage>>,
) -> Result<Mqueue> {
    let attributes = mqueue::attributes(queue)?;
    let most_bytes = u32::try_from(attributes.most_bytes).map_err(|_| Errno::OVERFLOW)?;
    let messages = match attributes.waiting {
        0 => Vec::new(),
        _ => run(&|| take_and_put_back(queue, most_bytes as usize))?,
    };
    // Behind that, since it changed the time.
    let stat = rustix::fs::fstat(queue)?;
    Ok(Mqueue {
        name: BytePath::new(name),
        removed: stat.st_nlink == 0,
        inode: stat.st_ino,
        modified: Timespec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        most_messages: u32::try_from(attributes.most_messages).map_err(|_| Errno::OVERFLOW)?,
        most_bytes,
        messages,
    })
}

/// How long a message may have to wait for room in the queue that it was taken out of.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

fn take_and_put_back(queue: &OwnedFd, most_bytes: usize) -> Result<Vec<MqueueMessage>> {
    let mut buffer = vec![0; most_bytes];
    let mut messages = Vec::new();
    let taken = loop {
        match mqueue::receive(queue, &mut buffer) {
            Ok((len, priority)) => messages.push(MqueueMessage { priority, data: buffer[..len].to_vec() }),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break Ok(()),
            Err(errno) => break Err(errno),
        }
    };
    let mut outcome = taken;
    for message in &messages {
        let began = Instant::now();
        let sent = loop {
            match mqueue::send(queue, &message.data, message.priority) {
                Err(Errno::INTR) => {}
                // Somebody outside has taken the room, or the memory: they may give it back.
                Err(Errno::AGAIN | Errno::NOMEM) if began.elapsed() < ROOM_WITHIN => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => break other,
            }
        };
        outcome = outcome.and(sent);
    }
    outcome.map(|()| messages)
}
