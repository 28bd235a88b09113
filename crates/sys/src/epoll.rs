//! Epoll sets that are filled on behalf of others.

use crate::raw::check;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::{Errno, Result};
use std::collections::HashMap;

/// How an instance polls devices before it waits: `struct epoll_params` (include/uapi/linux/eventpoll.h, Linux 6.9).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyPoll {
    /// For how long, in microseconds.
    pub usecs: u32,
    /// For how many packets at a time.
    pub budget: u16,
    /// Whether that is preferred to interrupts.
    pub prefer: u8,
    zero: u8,
}

const _: () = assert!(size_of::<BusyPoll>() == 8);

impl BusyPoll {
    /// Sets all of it.
    pub fn new(usecs: u32, budget: u16, prefer: bool) -> Self {
        Self { usecs, budget, prefer: prefer.into(), zero: 0 }
    }

    /// Reads that of an instance (EPIOCGPARAMS); ENOTTY or EINVAL if the kernel has no such thing.
    pub fn of(epoll: BorrowedFd<'_>) -> Result<Self> {
        const EPIOCGPARAMS: libc::Ioctl = 0x8008_8a02;
        let mut params = Self::default();
        // SAFETY: the call fills 8 bytes, which `params` has.
        check(unsafe { libc::ioctl(epoll.as_raw_fd(), EPIOCGPARAMS, &raw mut params) })?;
        Ok(params)
    }

    /// Gives it to an instance (EPIOCSPARAMS).
    pub fn set(&self, epoll: BorrowedFd<'_>) -> Result<()> {
        const EPIOCSPARAMS: libc::Ioctl = 0x4008_8a01;
        // SAFETY: the call reads 8 bytes, which `self` has.
        check(unsafe { libc::ioctl(epoll.as_raw_fd(), EPIOCSPARAMS, std::ptr::from_ref(self)) }).map(drop)
    }
}

/// A file to be watched.
#[derive(Clone, Copy, Debug)]
pub struct Add<'a> {
    /// The epoll instance.
    pub epoll: BorrowedFd<'a>,
    /// The file.
    pub file: BorrowedFd<'a>,
    /// The number under which it is added, by which a program later changes or removes it.
    pub number: i32,
    /// EPOLL event bits and flags.
    pub events: u32,
    /// The user's word.
    pub data: u64,
}

/// Adds files to epoll instances, each under a number that is not its own in our table. Returns how many there are, or the
/// index of one that could not be added, and why.
///
/// A watch for one event that has come already (EPOLLONESHOT) must be of an instance that has no others yet but those that
/// are added here.
///
/// The kernel's key of a watch is the pair of file and number at the time it is added. So this is done by a thread
/// with a descriptor table of its own, in which any number can be given away.
pub fn add_under_numbers(adds: &[Add<'_>]) -> (usize, Result<()>) {
    if adds.is_empty() {
        return (0, Ok(()));
    }
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().spawn_scoped(scope, || {
            // SAFETY: only the table of this thread, which ends below, becomes its own; what it closes or replaces
            // there leaves the descriptors of everybody else as they are.
            if let Err(error) = check(unsafe { libc::unshare(libc::CLONE_FILES) }) {
                return (0, Err(error));
            }
            add_all(adds)
        });
        match worker.map(|worker| worker.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => (0, Err(Errno::IO)),
            Err(error) => (0, Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))),
        }
    })
}

/// What a file can be ready for.
const ALL: u32 = (libc::EPOLLIN
    | libc::EPOLLPRI
    | libc::EPOLLOUT
    | libc::EPOLLRDNORM
    | libc::EPOLLRDBAND
    | libc::EPOLLWRNORM
    | libc::EPOLLWRBAND
    | libc::EPOLLMSG
    | libc::EPOLLRDHUP) as u32;

impl Add<'_> {
    /// Whether it is a watch for one event (EPOLLONESHOT) that has come: it waits for nothing, not even for errors, for
    /// which every other watch waits.
    fn is_spent(&self) -> bool {
        const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
        self.events & libc::EPOLLONESHOT as u32 != 0 && self.events & ALWAYS == 0
    }
}

fn add_all(adds: &[Add<'_>]) -> (usize, Result<()>) {
    // Out of the way of all numbers first.
    let above = adds.iter().map(|add| add.number).max().unwrap_or(0).saturating_add(1);
    let mut moved: HashMap<i32, i32> = HashMap::new();
    for fd in adds.iter().flat_map(|add| [add.epoll.as_raw_fd(), add.file.as_raw_fd()]) {
        if moved.contains_key(&fd) {
            continue;
        }
        // SAFETY: the command takes an integer; the new number is known to this thread's table only.
        match check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, above) }) {
            Ok(copy) => moved.insert(fd, copy as i32),
            Err(error) => return (0, Err(error)),
        };
    }
    // While an instance has none but spent watches, none of the others' events is taken.
    let (spent, others): (Vec<_>, Vec<_>) = adds.iter().enumerate().partition(|(_, add)| add.is_spent());
    for (index, add) in spent.into_iter().chain(others) {
        let (epoll, file) = (moved[&add.epoll.as_raw_fd()], moved[&add.file.as_raw_fd()]);
        let wait_for = if add.is_spent() { ALL } else { 0 };
        let mut event = libc::epoll_event { events: add.events | wait_for, u64: add.data };
        // SAFETY: whatever was under that number in this thread's own table is not used by it: all that it uses was
        // moved above every number.
        let result = check(unsafe { libc::dup2(file, add.number) }).and_then(|_| {
            // SAFETY: `event` is a live object, and the call keeps no reference to it.
            check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, add.number, &raw mut event) })
        });
        let result = match add.is_spent() {
            true => result.and_then(|_| spend(epoll, add)),
            false => result,
        };
        if let Err(error) = result {
            return (index, Err(error));
        }
    }
    (adds.len(), Ok(()))
}

/// Takes the event for which a watch was added, so that it is spent again. If the file is ready for nothing, nothing does
/// that, and it waits for errors (`ep_send_events` and `ep_modify`, fs/eventpoll.c).
fn spend(epoll: i32, add: &Add<'_>) -> Result<i64> {
    let mut event = libc::epoll_event { events: add.events, u64: add.data };
    // SAFETY: `event` is a live object with room for one event, which is all that the call writes.
    if check(i64::from(unsafe { libc::epoll_wait(epoll, &raw mut event, 1, 0) }))? == 1 {
        return Ok(1);
    }
    event = libc::epoll_event { events: add.events, u64: add.data };
    // SAFETY: `event` is a live object, and the call keeps no reference to it.
    check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, add.number, &raw mut event) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fdinfo::FdInfo;
    use rustix::event::{EventfdFlags, epoll, eventfd};
    use rustix::fd::AsFd;

    #[test]
    fn a_watch_has_the_number_it_is_told_even_if_that_is_taken() {
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let file = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        let add = |number, data| Add { epoll: instance.as_fd(), file: file.as_fd(), number, events: 1, data };
        // 0 is our standard input, and the instance's own number is as good as any.
        let (done, result) = add_under_numbers(&[add(0, 7), add(instance.as_raw_fd(), 8), add(900, 9)]);
        assert_eq!((done, result), (3, Ok(())));
        let info = FdInfo::of_ours(&instance).unwrap();
        let mut numbers: Vec<i32> =
            info.fields("tfd").map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
        numbers.sort_unstable();
        let mut wanted = vec![0, instance.as_raw_fd(), 900];
        wanted.sort_unstable();
        assert_eq!(numbers, wanted);
        assert_eq!(FdInfo::of_ours(&file).unwrap().field("eventfd-count"), Some("1"));
    }
}
