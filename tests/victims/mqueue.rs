//! POSIX message queues.

use crate::Victim;
use crate::call::{c, is_in_call, shared_words, until, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{O_CREAT, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};
use std::ffi::CString;
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("mqueue_empty", empty),
    ("mqueue_half_full", half_full),
    ("mqueue_full", full),
    ("mqueue_removed", removed),
    ("mqueue_name_taken", name_taken),
    ("mqueue_descriptions", descriptions),
    ("mqueue_blocked_reader", blocked_reader),
    ("mqueue_blocked_writer", blocked_writer),
    ("mqueue_in_flight", in_flight),
    ("mqueue_epoll", in_epoll),
    ("mqueue_lost", lost),
    ("mqueue_used", used),
    ("mqueue_notified", notified),
    ("mqueue_closed", closed),
    ("mqueue_unreadable", unreadable),
];

/// A queue with a name of its own, which is taken away in the end.
struct Queue {
    name: CString,
    fd: i32,
}

impl Queue {
    fn new(stage: &Stage, messages: i64, bytes: i64) -> Result<Self, String> {
        let mut random = [0u8; 8];
        sys!(getrandom(random.as_mut_ptr().cast(), random.len(), 0))?;
        let name = format!("/frost-victim-{:x}", u64::from_ne_bytes(random));
        // For whoever is to do something to it meanwhile.
        std::fs::write(stage.path("queue"), &name).map_err(|why| why.to_string())?;
        let name = c(&name);
        let mut attributes: libc::mq_attr = zeroed();
        (attributes.mq_maxmsg, attributes.mq_msgsize) = (messages, bytes);
        let flags = O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK | libc::O_CLOEXEC;
        let fd = sys!(mq_open(name.as_ptr(), flags, 0o640, &attributes))?;
        Ok(Self { name, fd })
    }

    fn open(&self, flags: i32) -> Result<i32, String> {
        sys!(mq_open(self.name.as_ptr(), flags | libc::O_CLOEXEC))
    }

    fn send(&self, text: &str, priority: u32) -> Verdict {
        sys!(mq_send(self.fd, text.as_ptr().cast(), text.len(), priority)).map(drop)
    }

    fn receive(&self) -> Result<(String, u32), String> {
        receive(self.fd)
    }

    fn attributes(&self) -> Result<(i64, i64, i64, i64), String> {
        let mut found: libc::mq_attr = zeroed();
        sys!(mq_getattr(self.fd, &mut found))?;
        Ok((found.mq_maxmsg, found.mq_msgsize, found.mq_curmsgs, found.mq_flags))
    }

    /// That it still has its name, and the rights it was made with.
    fn is_there(&self) -> Verdict {
        let mut stat: libc::stat = zeroed();
        let mut named: libc::stat = zeroed();
        let again = self.open(O_RDONLY)?;
        sys!(fstat(self.fd, &mut stat))?;
        sys!(fstat(again, &mut named))?;
        sys!(close(again))?;
        same!(stat.st_mode & 0o777, 0o640 & !umask(), "its rights");
        same!(named.st_ino, stat.st_ino, "the queue of that name");
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        unsafe { libc::mq_unlink(self.name.as_ptr()) };
    }
}

fn umask() -> u32 {
    let mask = unsafe { libc::umask(0) };
    unsafe { libc::umask(mask) };
    mask
}

fn receive(fd: i32) -> Result<(String, u32), String> {
    let mut buffer = vec![0u8; 8192];
    let mut priority = 0;
    let len = sys!(mq_receive(fd, buffer.as_mut_ptr().cast(), buffer.len(), &mut priority))?;
    buffer.truncate(len as usize);
    Ok((String::from_utf8_lossy(&buffer).into_owned(), priority))
}

fn nothing_waits(queue: &Queue) -> Verdict {
    check!(queue.receive().is_err(), "there is one message more");
    same!(crate::call::errno(), libc::EAGAIN, "what tells that nothing waits");
    Ok(())
}

fn empty(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 5, 100)?;
    stage.freeze_here()?;
    same!(queue.attributes()?, (5, 100, 0, i64::from(O_NONBLOCK)), "its attributes");
    queue.is_there()?;
    nothing_waits(&queue)?;
    queue.send("one", 3)?;
    same!(queue.receive()?, ("one".to_owned(), 3), "a message");
    Ok(())
}

/// Of several priorities, some of the same; one message has no bytes.
fn half_full(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 9, 64)?;
    let sent =
        [("low", 0), ("first of many", 5), ("urgent", 32767), ("second of many", 5), ("", 5), ("low too", 0)];
    for (text, priority) in sent {
        queue.send(text, priority)?;
    }
    stage.freeze_here()?;
    same!(queue.attributes()?, (9, 64, 6, i64::from(O_NONBLOCK)), "its attributes");
    queue.is_there()?;
    for index in [2, 1, 3, 4, 0, 5] {
        same!(queue.receive()?, (sent[index].0.to_owned(), sent[index].1), "a message");
    }
    nothing_waits(&queue)
}

fn full(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 8, 512)?;
    let text = |index: u32| format!("{index} {}", "x".repeat(510));
    for index in 0..8 {
        queue.send(&text(index)[..512], index / 3)?;
    }
    check!(queue.send("more", 9).is_err(), "it is not full");
    stage.freeze_here()?;
    check!(queue.send("more", 9).is_err(), "it is not full any more");
    for index in [6, 7, 3, 4, 5, 0, 1, 2] {
        same!(queue.receive()?, (text(index)[..512].to_owned(), index / 3), "a message");
    }
    nothing_waits(&queue)
}

/// Its name was taken away: nobody else can have it, and it goes with the program.
fn removed(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 4, 32)?;
    sys!(mq_unlink(queue.name.as_ptr()))?;
    queue.send("kept", 1)?;
    stage.freeze_here()?;
    check!(queue.open(O_RDONLY).is_err(), "it has its name again");
    same!(queue.attributes()?, (4, 32, 1, i64::from(O_NONBLOCK)), "its attributes");
    same!(queue.receive()?, ("kept".to_owned(), 1), "the message");
    nothing_waits(&queue)
}

/// Its name was taken away and given to another, which the program has open too.
fn name_taken(stage: &Stage) -> Verdict {
    let old = Queue::new(stage, 4, 32)?;
    old.send("in the old one", 1)?;
    sys!(mq_unlink(old.name.as_ptr()))?;
    let mut attributes: libc::mq_attr = zeroed();
    (attributes.mq_maxmsg, attributes.mq_msgsize) = (3, 16);
    let fd = sys!(mq_open(old.name.as_ptr(), O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0o600, &attributes))?;
    let new = Queue { name: old.name.clone(), fd };
    new.send("in the new one", 1)?;
    stage.freeze_without_facts()?;
    same!(old.receive()?, ("in the old one".to_owned(), 1), "the message");
    same!(new.receive()?, ("in the new one".to_owned(), 1), "the message");
    same!(new.attributes()?, (3, 16, 0, i64::from(O_NONBLOCK)), "the attributes of the new one");
    Ok(())
}

/// Three descriptions, of which a child shares one; each has its own rights and its own O_NONBLOCK.
fn descriptions(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 4, 32)?;
    let (reader, writer) = (queue.open(O_RDONLY)?, queue.open(O_WRONLY | O_NONBLOCK)?);
    let words = shared_words::<2>()?;
    let child = stage.fork(|| {
        words[0].store(1, SeqCst);
        until("the parent goes on", || words[1].load(SeqCst) == 1)?;
        sys!(mq_send(writer, c"by the child".as_ptr(), 12, 2)).map(drop)
    })?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    queue.send("before", 1)?;
    let seen = stage.freeze_here();
    words[1].store(1, SeqCst);
    seen?;
    stage.reap(child)?;
    check!(receive(writer).is_err(), "the writer can receive");
    check!(sys!(mq_send(reader, c"x".as_ptr(), 1, 0)).is_err(), "the reader can send");
    same!(receive(reader)?, ("by the child".to_owned(), 2), "the message of the child");
    same!(receive(reader)?, ("before".to_owned(), 1), "the message from before");
    Ok(())
}

/// A child waits for a message.
fn blocked_reader(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 4, 32)?;
    let child = stage.fork(|| {
        let fd = queue.open(O_RDONLY)?;
        same!(receive(fd)?, ("at last".to_owned(), 4), "what it waited for");
        Ok(())
    })?;
    until("the child waits", || is_in_call(child, libc::SYS_mq_timedreceive))?;
    stage.freeze_here()?;
    queue.send("at last", 4)?;
    stage.reap(child)
}

/// A child waits for room.
fn blocked_writer(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 2, 32)?;
    queue.send("first", 1)?;
    queue.send("second", 1)?;
    let child = stage.fork(|| {
        let fd = queue.open(O_WRONLY)?;
        sys!(mq_send(fd, c"third".as_ptr(), 5, 1)).map(drop)
    })?;
    until("the child waits", || is_in_call(child, libc::SYS_mq_timedsend))?;
    stage.freeze_here()?;
    same!(queue.receive()?, ("first".to_owned(), 1), "the first message");
    stage.reap(child)?;
    same!(queue.receive()?, ("second".to_owned(), 1), "the second message");
    same!(queue.receive()?, ("third".to_owned(), 1), "the third message");
    nothing_waits(&queue)
}

/// Its only descriptor is on its way through a socket.
fn in_flight(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 4, 32)?;
    queue.send("on its way", 6)?;
    let mut ends = [0; 2];
    sys!(socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()))?;
    crate::unix::send_descriptor(ends[0], queue.fd)?;
    sys!(close(queue.fd))?;
    stage.freeze_here()?;
    let received = crate::unix::receive_descriptor(ends[1])?;
    same!(receive(received)?, ("on its way".to_owned(), 6), "the message");
    Ok(())
}

/// Watched for messages and for room.
fn in_epoll(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 2, 32)?;
    let epoll = sys!(epoll_create1(libc::EPOLL_CLOEXEC))?;
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 77 };
    sys!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, queue.fd, &mut event))?;
    stage.freeze_here()?;
    let mut found = libc::epoll_event { events: 0, u64: 0 };
    same!(sys!(epoll_wait(epoll, &mut found, 1, 0))?, 0, "events before there is a message");
    queue.send("one", 1)?;
    same!(sys!(epoll_wait(epoll, &mut found, 1, 0))?, 1, "events");
    same!({ found.u64 }, 77, "the word of the watch");
    Ok(())
}

/// The queue is gone when the program is thawed, as after the machine was started anew: it is made as it was.
fn lost(stage: &Stage) -> Verdict {
    half_full(stage)
}

/// Somebody else takes a message while the program is away: refused.
fn used(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 4, 32)?;
    queue.send("the only one", 1)?;
    stage.freeze_here()?;
    same!(queue.receive()?, ("the only one".to_owned(), 1), "the message");
    Ok(())
}

/// To be told of the next message, with a value that the kernel does not tell.
fn notified(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 4, 32)?;
    let mut set: libc::sigset_t = zeroed();
    sys!(sigaddset(&mut set, libc::SIGUSR2))?;
    sys!(sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
    let mut event: libc::sigevent = zeroed();
    (event.sigev_notify, event.sigev_signo) = (libc::SIGEV_SIGNAL, libc::SIGUSR2);
    event.sigev_value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(4711) };
    sys!(mq_notify(queue.fd, &event))?;
    stage.freeze_here()?;
    queue.send("now", 1)?;
    let mut info: libc::siginfo_t = zeroed();
    let minute = libc::timespec { tv_sec: 60, tv_nsec: 0 };
    same!(sys!(sigtimedwait(&set, &mut info, &minute))?, libc::SIGUSR2, "the signal");
    same!(unsafe { info.si_value() }.sival_ptr.addr(), 4711, "its value");
    Ok(())
}

/// Nobody has them open, but they have their names and what waits in them.
fn closed(stage: &Stage) -> Verdict {
    let queues = [Queue::new(stage, 4, 32)?, Queue::new(stage, 7, 64)?];
    queues[0].send("later", 1)?;
    queues[0].send("first", 2)?;
    for queue in &queues {
        sys!(close(queue.fd))?;
    }
    stage.freeze_here()?;
    let again = Queue { fd: queues[0].open(O_RDWR | O_NONBLOCK)?, name: queues[0].name.clone() };
    again.is_there()?;
    same!(again.receive()?, ("first".to_owned(), 2), "a message");
    same!(again.receive()?, ("later".to_owned(), 1), "a message");
    nothing_waits(&again)?;
    let empty = Queue { fd: queues[1].open(O_RDWR | O_NONBLOCK)?, name: queues[1].name.clone() };
    same!(empty.attributes()?, (7, 64, 0, i64::from(O_NONBLOCK)), "the attributes of the empty one");
    Ok(())
}

/// Its owner may not open it any more.
fn unreadable(stage: &Stage) -> Verdict {
    let queue = Queue::new(stage, 4, 32)?;
    queue.send("kept", 3)?;
    sys!(fchmod(queue.fd, 0))?;
    stage.freeze_here()?;
    let mut stat: libc::stat = zeroed();
    sys!(fstat(queue.fd, &mut stat))?;
    same!(stat.st_mode & 0o777, 0, "its rights");
    same!(queue.receive()?, ("kept".to_owned(), 3), "the message");
    Ok(())
}
