//! Calls that block: a freeze in the middle of one gives neither EINTR nor a wrong waiting time.
//!
//! The leader makes the call; a second thread says `ready` when it sees it there. A call with a timeout is entered
//! once for 4.2 seconds, and frozen after at least 2.4 of them. Issued again with its full time it would last until 4.2
//! seconds after that: a moment before then the second thread looks whether it still waits. Who looks late on a busy
//! machine sees less, but never a call that has timed out and only waits for a processor: that one is not blocked.

use crate::Victim;
use crate::call::{
    READ_WRITE, c, check_fill, errno, fill, gettid, is_in_call, map, monotonic, nap, pipe, read_all,
    read_some, timespec, timeval, until, write_all, zeroed,
};
use crate::stage::{Stage, Verdict};
use std::ptr::{null, null_mut};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("restart_nanosleep", nanosleep),
    ("restart_nanosleep_interrupted", nanosleep_interrupted),
    ("restart_clock_nanosleep", clock_nanosleep),
    ("restart_clock_nanosleep_absolute", clock_nanosleep_absolute),
    ("restart_clock_nanosleep_realtime", clock_nanosleep_realtime),
    ("restart_poll_timeout", poll_timeout),
    ("restart_ppoll_timeout", ppoll_timeout),
    ("restart_select_timeout", select_timeout),
    ("restart_pselect_timeout", pselect_timeout),
    ("restart_futex_timeout", futex_timeout),
    ("restart_futex_absolute", futex_absolute),
    ("restart_epoll_wait_timeout", epoll_wait_timeout),
    ("restart_epoll_pwait2_timeout", epoll_pwait2_timeout),
    ("restart_sigtimedwait", sigtimedwait),
    ("restart_semtimedop", semtimedop),
    ("restart_recv_timeout", recv_timeout),
    ("restart_poll", poll),
    ("restart_select", select),
    ("restart_futex", futex),
    ("restart_epoll_wait", epoll_wait),
    ("restart_sigwaitinfo", sigwaitinfo),
    ("restart_recv", recv),
    ("restart_recv_all", recv_all),
    ("restart_accept", accept),
    ("restart_read_pipe", read_pipe),
    ("restart_write_pipe", write_pipe),
    ("restart_write_in_part", write_in_part),
    ("restart_send_in_part", send_in_part),
    ("restart_sendfile_in_part", sendfile_in_part),
    ("restart_open_fifo", open_fifo),
    ("restart_wait4", wait4),
    ("restart_waitid", waitid),
    ("restart_nanosleep_signalled", nanosleep_signalled),
    ("restart_calls_signalled", calls_signalled),
    ("restart_stopped_before", stopped_before),
    ("restart_on_small_stacks", on_small_stacks),
    ("restart_on_small_stacks_signalled", on_small_stacks_signalled),
    ("restart_on_fiber", on_fiber),
    ("restart_on_fiber_for_a_signal", on_fiber_for_a_signal),
    ("restart_on_alternate_stack", on_alternate_stack),
    ("restart_on_alternate_stack_for_a_signal", on_alternate_stack_for_a_signal),
    ("restart_pause", pause),
    ("restart_sigsuspend", sigsuspend),
    ("restart_flock", flock),
    ("restart_fcntl_lock", fcntl_lock),
    ("restart_in_threads", in_threads),
    ("restart_in_threads_at_least", in_threads_at_least),
];

const TOTAL: Duration = Duration::from_millis(4200);
const READY_AT: Duration = Duration::from_millis(2400);
/// How long before the end of a call that was issued again with its full time we look.
const BEFORE: Duration = Duration::from_millis(200);
const TOO_LATE: Duration = Duration::from_millis(2000);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Least {
    /// It waits as long as it was asked to.
    AndMost,
    /// It may wait longer.
    Only,
}

fn not_too_early(what: &str, waited: Duration) -> Verdict {
    // Socket and semaphore timeouts are counted in ticks of up to 10 ms.
    check!(waited + Duration::from_millis(12) >= TOTAL, "{what} waited {waited:?}, expected {TOTAL:?}");
    Ok(())
}

/// Checks that thread `leader` does not wait in call `number` any more when it would if that had been issued again with
/// all of its time, at `ready` or later.
fn not_too_late(leader: i32, number: i64, ready: Duration, done: &AtomicBool) -> Verdict {
    while monotonic() < ready + TOTAL - BEFORE {
        if done.load(SeqCst) {
            return Ok(());
        }
        nap(Duration::from_millis(5));
    }
    // In this order: behind the call the leader may wait for us by another one of that number.
    let waits = is_in_call(leader, number);
    check!(
        done.load(SeqCst) || !waits,
        "it waits {:?} after the freeze, with all its time anew",
        TOTAL - BEFORE
    );
    Ok(())
}

/// A call with a timeout, made by the leader.
fn timed(stage: &Stage, number: i64, call: impl FnOnce() -> Verdict) -> Verdict {
    timed_within(stage, number, Least::AndMost, call)
}

/// One that may last longer, if it is issued again; but never less, and never with EINTR.
fn timed_at_least(stage: &Stage, number: i64, call: impl FnOnce() -> Verdict) -> Verdict {
    timed_within(stage, number, Least::Only, call)
}

fn timed_within(stage: &Stage, number: i64, least: Least, call: impl FnOnce() -> Verdict) -> Verdict {
    let leader = gettid();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            let start = monotonic();
            until("the call is entered", || is_in_call(leader, number) || done.load(SeqCst))?;
            while monotonic().saturating_sub(start) < READY_AT {
                nap(Duration::from_millis(5));
            }
            let ready = monotonic();
            stage.ready();
            stage.wait();
            match least {
                Least::AndMost => not_too_late(leader, number, ready, &done),
                Least::Only => Ok(()),
            }
        });
        let start = monotonic();
        let outcome = call();
        let waited = monotonic().saturating_sub(start);
        done.store(true, SeqCst);
        helper.join().map_err(|_| "the helper panicked".to_owned())??;
        outcome.map_err(|why| format!("after {waited:?}: {why}"))?;
        not_too_early("the call", waited)
    })
}

/// A call without a timeout, made by the leader; `wake` ends it, from another thread, after `go`.
fn woken(
    stage: &Stage,
    number: i64,
    call: impl FnOnce() -> Verdict,
    wake: impl FnOnce() -> Verdict + Send,
) -> Verdict {
    let leader = gettid();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            until("the call is entered", || is_in_call(leader, number) || done.load(SeqCst))?;
            stage.ready();
            stage.wait();
            // It may have been issued again; give it the time to stand in the call.
            until("the call stands again", || is_in_call(leader, number) || done.load(SeqCst))?;
            check!(!done.load(SeqCst), "the call returned before it was woken");
            wake()
        });
        let outcome = call();
        done.store(true, SeqCst);
        let woken = helper.join().map_err(|_| "the helper panicked".to_owned())?;
        outcome?;
        woken
    })
}

/// Calls by number, as libc may choose another call than its name says.
macro_rules! raw {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        let returned = unsafe { libc::syscall($number $(, $argument)*) };
        if returned == -1 { Err(errno()) } else { Ok(returned) }
    }};
}

fn expect(what: &str, found: Result<i64, i32>, expected: Result<i64, i32>) -> Verdict {
    same!(found, expected, "{what} returned (an error is its errno)");
    Ok(())
}

fn nanosleep(stage: &Stage) -> Verdict {
    let (time, mut rest) = (timespec(TOTAL), timespec(Duration::from_secs(77)));
    timed(stage, libc::SYS_nanosleep, || {
        expect("nanosleep", raw!(libc::SYS_nanosleep, &time, &mut rest), Ok(0))
    })
}

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn catch(_signal: i32) {
    CAUGHT.fetch_add(1, SeqCst);
}

fn catch_signal(signal: i32) -> Verdict {
    let mut action: libc::sigaction = zeroed();
    action.sa_sigaction = catch as *const () as usize;
    sys!(sigaction(signal, &action, null_mut()))?;
    Ok(())
}

/// A signal of the program's own, after the thaw, does interrupt, and the rest is told rightly.
fn nanosleep_interrupted(stage: &Stage) -> Verdict {
    catch_signal(libc::SIGUSR1)?;
    let leader = gettid();
    let (time, mut rest) = (timespec(Duration::from_secs(1000)), zeroed::<libc::timespec>());
    let start = monotonic();
    woken(
        stage,
        libc::SYS_nanosleep,
        || expect("nanosleep", raw!(libc::SYS_nanosleep, &time, &mut rest), Err(libc::EINTR)),
        || {
            sys!(syscall(libc::SYS_tgkill, libc::getpid(), leader, libc::SIGUSR1))?;
            Ok(())
        },
    )?;
    let waited = monotonic().saturating_sub(start);
    same!(CAUGHT.load(SeqCst), 1, "signals caught");
    let sum = Duration::new(rest.tv_sec as u64, rest.tv_nsec as u32) + waited;
    let expected = Duration::from_secs(1000);
    let slip = sum.abs_diff(expected);
    check!(slip < TOO_LATE, "what was waited and what was left make {sum:?}, expected {expected:?}");
    Ok(())
}

/// Job control has stopped it before, so that the kernel has gone on with the call once, and its number is forgotten. It
/// waits for nothing, for so long that the time might be an address.
fn stopped_before(stage: &Stage) -> Verdict {
    catch_signal(libc::SIGUSR1)?;
    let leader = gettid();
    let done = AtomicBool::new(false);
    let other = r#"kill -STOP $PPID; until grep -q ') T' /proc/$PPID/stat; do :; done; kill -CONT $PPID"#;
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            until("the call is entered", || is_in_call(leader, libc::SYS_poll))?;
            let stopped = std::process::Command::new("sh").args(["-c", other]).status();
            check!(stopped.is_ok_and(|status| status.success()), "no shell stops and continues it");
            until("it is gone on with", || is_in_call(leader, libc::SYS_restart_syscall))?;
            stage.ready();
            stage.wait();
            until("it waits again", || done.load(SeqCst) || is_in_call(leader, libc::SYS_poll))?;
            sys!(syscall(libc::SYS_tgkill, libc::getpid(), leader, libc::SIGUSR1))?;
            Ok(())
        });
        let nothing = null_mut::<libc::pollfd>();
        let outcome = expect("poll", raw!(libc::SYS_poll, nothing, 0, 100_000_000), Err(libc::EINTR));
        done.store(true, SeqCst);
        let helped = helper.join().map_err(|_| "the helper panicked".to_owned())?;
        outcome.and(helped)
    })
}

fn clock_nanosleep(stage: &Stage) -> Verdict {
    let (time, mut rest) = (timespec(TOTAL), zeroed::<libc::timespec>());
    timed(stage, libc::SYS_clock_nanosleep, || {
        expect(
            "clock_nanosleep",
            raw!(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, 0, &time, &mut rest),
            Ok(0),
        )
    })
}

fn clock_nanosleep_absolute(stage: &Stage) -> Verdict {
    let time = timespec(monotonic() + TOTAL);
    timed(stage, libc::SYS_clock_nanosleep, || {
        let null = null_mut::<libc::timespec>();
        let returned =
            raw!(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, null);
        expect("clock_nanosleep", returned, Ok(0))
    })
}

fn clock_nanosleep_realtime(stage: &Stage) -> Verdict {
    let (time, mut rest) = (timespec(TOTAL), zeroed::<libc::timespec>());
    timed(stage, libc::SYS_clock_nanosleep, || {
        expect(
            "clock_nanosleep",
            raw!(libc::SYS_clock_nanosleep, libc::CLOCK_REALTIME, 0, &time, &mut rest),
            Ok(0),
        )
    })
}

fn quiet_pipe() -> Result<libc::pollfd, String> {
    Ok(libc::pollfd { fd: pipe(libc::O_CLOEXEC)?.0, events: libc::POLLIN, revents: 0 })
}

fn poll_timeout(stage: &Stage) -> Verdict {
    let mut fds = [quiet_pipe()?];
    timed(stage, libc::SYS_poll, || {
        expect("poll", raw!(libc::SYS_poll, fds.as_mut_ptr(), 1, TOTAL.as_millis() as i32), Ok(0))
    })
}

fn ppoll_timeout(stage: &Stage) -> Verdict {
    let mut fds = [quiet_pipe()?];
    let mut time = timespec(TOTAL);
    timed(stage, libc::SYS_ppoll, || {
        expect("ppoll", raw!(libc::SYS_ppoll, fds.as_mut_ptr(), 1, &mut time, null::<u64>(), 8), Ok(0))
    })
}

fn select_timeout(stage: &Stage) -> Verdict {
    let mut time = timeval(TOTAL);
    timed(stage, libc::SYS_select, || {
        let none = null_mut::<libc::fd_set>();
        expect("select", raw!(libc::SYS_select, 0, none, none, none, &mut time), Ok(0))
    })
}

fn pselect_timeout(stage: &Stage) -> Verdict {
    let mut time = timespec(TOTAL);
    let fd = quiet_pipe()?.fd;
    let mut set: libc::fd_set = zeroed();
    unsafe { libc::FD_SET(fd, &mut set) };
    timed(stage, libc::SYS_pselect6, || {
        let none = null_mut::<libc::fd_set>();
        expect(
            "pselect",
            raw!(libc::SYS_pselect6, fd + 1, &mut set, none, none, &mut time, null::<u64>()),
            Ok(0),
        )
    })
}

fn futex_timeout(stage: &Stage) -> Verdict {
    let (word, time) = (AtomicU32::new(5), timespec(TOTAL));
    timed(stage, libc::SYS_futex, || {
        let returned =
            raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 5, &time);
        expect("futex", returned, Err(libc::ETIMEDOUT))
    })
}

fn futex_absolute(stage: &Stage) -> Verdict {
    let (word, time) = (AtomicU32::new(5), timespec(monotonic() + TOTAL));
    timed(stage, libc::SYS_futex, || {
        let returned =
            raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT_BITSET, 5, &time, null::<u32>(), u32::MAX);
        expect("futex", returned, Err(libc::ETIMEDOUT))
    })
}

/// An epoll instance that watches an eventfd.
fn watched() -> Result<(i32, i32), String> {
    let (epoll, event) = (sys!(epoll_create1(0))?, sys!(eventfd(0, 0))?);
    let mut interest = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0x1234_5678_9abc };
    sys!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, event, &mut interest))?;
    Ok((epoll, event))
}

fn epoll_wait_timeout(stage: &Stage) -> Verdict {
    let (epoll, _) = watched()?;
    let mut events: [libc::epoll_event; 4] = zeroed();
    timed(stage, libc::SYS_epoll_wait, || {
        let returned = raw!(libc::SYS_epoll_wait, epoll, events.as_mut_ptr(), 4, TOTAL.as_millis() as i32);
        expect("epoll_wait", returned, Ok(0))
    })
}

fn epoll_pwait2_timeout(stage: &Stage) -> Verdict {
    const SYS_EPOLL_PWAIT2: i64 = 441;
    let (epoll, _) = watched()?;
    let time = timespec(TOTAL);
    let mut events: [libc::epoll_event; 4] = zeroed();
    timed(stage, SYS_EPOLL_PWAIT2, || {
        let returned = raw!(SYS_EPOLL_PWAIT2, epoll, events.as_mut_ptr(), 4, &time, null::<u64>(), 8);
        expect("epoll_pwait2", returned, Ok(0))
    })
}

fn epoll_wait(stage: &Stage) -> Verdict {
    let (epoll, event) = watched()?;
    let mut events: [libc::epoll_event; 4] = zeroed();
    woken(
        stage,
        libc::SYS_epoll_wait,
        || {
            expect("epoll_wait", raw!(libc::SYS_epoll_wait, epoll, events.as_mut_ptr(), 4, -1), Ok(1))?;
            let data = events[0].u64;
            same!(data, 0x1234_5678_9abc, "the event's data");
            Ok(())
        },
        || write_all(event, &1u64.to_ne_bytes()),
    )
}

fn blocked(signal: i32) -> Result<libc::sigset_t, String> {
    let mut set: libc::sigset_t = zeroed();
    sys!(sigemptyset(&mut set))?;
    sys!(sigaddset(&mut set, signal))?;
    sys!(sigprocmask(libc::SIG_BLOCK, &set, null_mut()))?;
    Ok(set)
}

fn sigtimedwait(stage: &Stage) -> Verdict {
    let (set, time) = (blocked(libc::SIGUSR2)?, timespec(TOTAL));
    timed(stage, libc::SYS_rt_sigtimedwait, || {
        let returned = raw!(libc::SYS_rt_sigtimedwait, &set, null::<u8>(), &time, 8);
        expect("rt_sigtimedwait", returned, Err(libc::EAGAIN))
    })
}

fn sigwaitinfo(stage: &Stage) -> Verdict {
    let (set, leader) = (blocked(libc::SIGUSR2)?, gettid());
    woken(
        stage,
        libc::SYS_rt_sigtimedwait,
        || {
            let returned = raw!(libc::SYS_rt_sigtimedwait, &set, null::<u8>(), null::<u8>(), 8);
            expect("rt_sigtimedwait", returned, Ok(libc::SIGUSR2.into()))
        },
        || {
            sys!(syscall(libc::SYS_tgkill, libc::getpid(), leader, libc::SIGUSR2))?;
            Ok(())
        },
    )
}

fn semtimedop(stage: &Stage) -> Verdict {
    let set = sys!(semget(libc::IPC_PRIVATE, 1, 0o600))?;
    let (mut operation, time) = (libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 }, timespec(TOTAL));
    let verdict = timed(stage, libc::SYS_semtimedop, || {
        expect("semtimedop", raw!(libc::SYS_semtimedop, set, &mut operation, 1, &time), Err(libc::EAGAIN))
    });
    sys!(semctl(set, 0, libc::IPC_RMID))?;
    verdict
}

fn socket_pair(kind: i32) -> Result<[i32; 2], String> {
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()))?;
    Ok(pair)
}

fn recv_timeout(stage: &Stage) -> Verdict {
    let (pair, time) = (socket_pair(libc::SOCK_STREAM)?, timeval(TOTAL));
    let len = size_of::<libc::timeval>() as u32;
    sys!(setsockopt(pair[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const time).cast(), len))?;
    let mut byte = [0u8; 16];
    // The time belongs to the socket, not to the call: issued again it can only get all of it.
    timed_at_least(stage, libc::SYS_recvfrom, || {
        let returned =
            raw!(libc::SYS_recvfrom, pair[0], byte.as_mut_ptr(), 16, 0, null::<u8>(), null::<u8>());
        expect("recv", returned, Err(libc::EAGAIN))
    })
}

fn poll(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let mut fds = [libc::pollfd { fd: reader, events: libc::POLLIN, revents: 0 }];
    woken(
        stage,
        libc::SYS_poll,
        || expect("poll", raw!(libc::SYS_poll, fds.as_mut_ptr(), 1, -1), Ok(1)),
        || write_all(writer, b"x"),
    )?;
    same!(fds[0].revents, libc::POLLIN, "what poll saw");
    Ok(())
}

fn select(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let mut set: libc::fd_set = zeroed();
    unsafe { libc::FD_SET(reader, &mut set) };
    let none = null_mut::<libc::fd_set>();
    woken(
        stage,
        libc::SYS_select,
        || expect("select", raw!(libc::SYS_select, reader + 1, &mut set, none, none, null::<u8>()), Ok(1)),
        || write_all(writer, b"x"),
    )
}

fn futex(stage: &Stage) -> Verdict {
    let word = AtomicU32::new(5);
    woken(
        stage,
        libc::SYS_futex,
        || expect("futex", raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 5, null::<u8>()), Ok(0)),
        || {
            same!(raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1), Ok(1), "how many were woken");
            Ok(())
        },
    )
}

fn recv(stage: &Stage) -> Verdict {
    let pair = socket_pair(libc::SOCK_SEQPACKET)?;
    let mut bytes = [0u8; 16];
    woken(
        stage,
        libc::SYS_recvfrom,
        || {
            let returned =
                raw!(libc::SYS_recvfrom, pair[0], bytes.as_mut_ptr(), 16, 0, null::<u8>(), null::<u8>());
            expect("recv", returned, Ok(5))
        },
        || write_all(pair[1], b"hello"),
    )
}

/// A part was received already when the freeze comes: MSG_WAITALL goes on waiting for the rest.
fn recv_all(stage: &Stage) -> Verdict {
    let pair = socket_pair(libc::SOCK_STREAM)?;
    write_all(pair[1], b"half")?;
    let mut bytes = [0u8; 8];
    let mut len = 0;
    woken(
        stage,
        libc::SYS_recvfrom,
        || {
            // A stop may cut it short: the kernel returns what it has, which a program must reckon with.
            while len < 8 {
                let rest = &mut bytes[len..];
                let flags = libc::MSG_WAITALL;
                match raw!(
                    libc::SYS_recvfrom,
                    pair[0],
                    rest.as_mut_ptr(),
                    rest.len(),
                    flags,
                    null::<u8>(),
                    null::<u8>()
                ) {
                    Ok(got) if got > 0 => len += got as usize,
                    other => return expect("recv", other, Ok(8)),
                }
            }
            Ok(())
        },
        || write_all(pair[1], b"full"),
    )?;
    same!(&bytes, b"halffull", "what was received");
    Ok(())
}

fn accept(stage: &Stage) -> Verdict {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|why| why.to_string())?;
    let address = listener.local_addr().map_err(|why| why.to_string())?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
    woken(
        stage,
        libc::SYS_accept4,
        || {
            raw!(libc::SYS_accept4, fd, null::<u8>(), null::<u8>(), 0)
                .map(drop)
                .map_err(|e| format!("accept4: errno {e}"))
        },
        || std::net::TcpStream::connect(address).map(drop).map_err(|why| why.to_string()),
    )
}

fn read_pipe(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    woken(
        stage,
        libc::SYS_read,
        || {
            same!(read_some(reader, 16)?, b"data", "what was read");
            Ok(())
        },
        || write_all(writer, b"data"),
    )
}

fn write_pipe(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let capacity = sys!(fcntl(writer, libc::F_GETPIPE_SZ))? as usize;
    write_all(writer, &vec![b'a'; capacity])?;
    woken(
        stage,
        libc::SYS_write,
        || write_all(writer, b"tail"),
        || {
            let first = crate::call::read_all(reader, capacity)?;
            check!(first.len() == capacity && first.iter().all(|b| *b == b'a'), "the pipe's content changed");
            Ok(())
        },
    )?;
    same!(read_some(reader, 16)?, b"tail", "what was written");
    Ok(())
}

/// More than there is room for, of which a part was written already when the freeze comes.
///
/// Any stop cuts such a call short, as SIGSTOP does (pipe_write, unix_stream_sendmsg: what is done counts when a signal comes);
/// what it returns is what the reader finds. `push` writes what begins at an offset.
fn in_part(
    stage: &Stage,
    number: i64,
    reader: i32,
    content: &[u8],
    push: impl Fn(usize) -> Result<i64, i32>,
) -> Verdict {
    woken(
        stage,
        number,
        || {
            let mut done = 0;
            while done < content.len() {
                match push(done) {
                    Ok(pushed) if pushed > 0 => done += pushed as usize,
                    other => return expect("the call", other, Ok(1)),
                }
            }
            Ok(())
        },
        || {
            let found = read_all(reader, content.len())?;
            check!(found == content, "{} bytes came out otherwise than they went in", found.len());
            Ok(())
        },
    )
}

/// Bytes of which no two stretches are alike.
fn stretch() -> Vec<u8> {
    (0..1u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn write_in_part(stage: &Stage) -> Verdict {
    let (reader, writer) = pipe(0)?;
    let content = stretch();
    in_part(stage, libc::SYS_write, reader, &content, |at| {
        raw!(libc::SYS_write, writer, content[at..].as_ptr(), content.len() - at)
    })
}

fn send_in_part(stage: &Stage) -> Verdict {
    let [reader, writer] = socket_pair(libc::SOCK_STREAM)?;
    let content = stretch();
    in_part(stage, libc::SYS_sendto, reader, &content, |at| {
        let rest = &content[at..];
        raw!(libc::SYS_sendto, writer, rest.as_ptr(), rest.len(), 0, null::<u8>(), 0)
    })
}

/// The offset of the file goes on by what was sent.
fn sendfile_in_part(stage: &Stage) -> Verdict {
    let [reader, writer] = socket_pair(libc::SOCK_STREAM)?;
    let content = stretch();
    let path = stage.path("sent");
    std::fs::write(&path, &content).map_err(|why| why.to_string())?;
    let file = crate::call::open(&path, libc::O_RDONLY)?;
    in_part(stage, libc::SYS_sendfile, reader, &content, |at| {
        raw!(libc::SYS_sendfile, writer, file, null::<u8>(), content.len() - at)
    })
}

/// open(2) of a fifo waits for the other end.
fn open_fifo(stage: &Stage) -> Verdict {
    let path = c(&stage.path("fifo").to_string_lossy());
    sys!(mkfifo(path.as_ptr(), 0o600))?;
    woken(
        stage,
        libc::SYS_openat,
        || {
            raw!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY)
                .map(drop)
                .map_err(|e| format!("open: errno {e}"))
        },
        || {
            sys!(open(path.as_ptr(), libc::O_WRONLY | libc::O_NONBLOCK))?;
            Ok(())
        },
    )
}

/// A child that ends when a byte comes, with a status of its own.
fn child_at(stage: &Stage) -> Result<(i32, i32), String> {
    let (reader, writer) = pipe(0)?;
    let child = stage.fork(|| {
        read_some(reader, 1)?;
        unsafe { libc::_exit(7) }
    })?;
    Ok((child, writer))
}

fn wait4(stage: &Stage) -> Verdict {
    let (child, writer) = child_at(stage)?;
    let mut status = 0;
    woken(
        stage,
        libc::SYS_wait4,
        || expect("wait4", raw!(libc::SYS_wait4, -1, &mut status, 0, null::<u8>()), Ok(child.into())),
        || write_all(writer, b"x"),
    )?;
    stage.forget(child);
    same!(status, 7 << 8, "its status");
    Ok(())
}

fn waitid(stage: &Stage) -> Verdict {
    let (child, writer) = child_at(stage)?;
    let mut info: libc::siginfo_t = zeroed();
    woken(
        stage,
        libc::SYS_waitid,
        || {
            expect(
                "waitid",
                raw!(libc::SYS_waitid, libc::P_PID, child, &mut info, libc::WEXITED, null::<u8>()),
                Ok(0),
            )
        },
        || write_all(writer, b"x"),
    )?;
    stage.forget(child);
    same!(unsafe { info.si_status() }, 7, "its status");
    Ok(())
}

fn signal_leader(signal: i32) -> impl FnOnce() -> Verdict + Send {
    let leader = gettid();
    move || {
        sys!(syscall(libc::SYS_tgkill, libc::getpid(), leader, signal))?;
        Ok(())
    }
}

fn pause(stage: &Stage) -> Verdict {
    catch_signal(libc::SIGUSR1)?;
    woken(
        stage,
        libc::SYS_pause,
        || expect("pause", raw!(libc::SYS_pause), Err(libc::EINTR)),
        signal_leader(libc::SIGUSR1),
    )?;
    same!(CAUGHT.load(SeqCst), 1, "signals caught");
    Ok(())
}

/// The mask of before the call is back after it.
fn sigsuspend(stage: &Stage) -> Verdict {
    catch_signal(libc::SIGUSR1)?;
    blocked(libc::SIGUSR1)?;
    let mask: libc::sigset_t = zeroed();
    woken(
        stage,
        libc::SYS_rt_sigsuspend,
        || expect("rt_sigsuspend", raw!(libc::SYS_rt_sigsuspend, &mask, 8), Err(libc::EINTR)),
        signal_leader(libc::SIGUSR1),
    )?;
    same!(CAUGHT.load(SeqCst), 1, "signals caught");
    let mut now: libc::sigset_t = zeroed();
    sys!(sigprocmask(libc::SIG_BLOCK, null(), &mut now))?;
    same!(unsafe { libc::sigismember(&now, libc::SIGUSR1) }, 1, "whether the signal is blocked again");
    Ok(())
}

/// Locked by a child, waited for by the leader.
fn lock_wait(stage: &Stage, number: i64, lock: impl Fn(i32, bool) -> Verdict) -> Verdict {
    let flags = libc::O_RDWR | libc::O_CREAT;
    let (held, holds) = pipe(0)?;
    let (reader, writer) = pipe(0)?;
    let child = stage.fork(|| {
        lock(crate::call::open(&stage.path("lock"), flags)?, true)?;
        write_all(holds, b"x")?;
        read_some(reader, 1)?;
        Ok(()) // ending gives the lock up
    })?;
    read_some(held, 1)?;
    let fd = crate::call::open(&stage.path("lock"), flags)?;
    woken(stage, number, || lock(fd, true), || write_all(writer, b"x"))?;
    stage.reap(child)
}

fn flock(stage: &Stage) -> Verdict {
    lock_wait(stage, libc::SYS_flock, |fd, _| {
        sys!(flock(fd, libc::LOCK_EX))?;
        Ok(())
    })
}

fn fcntl_lock(stage: &Stage) -> Verdict {
    lock_wait(stage, libc::SYS_fcntl, |fd, _| {
        let mut lock: libc::flock = zeroed();
        lock.l_type = libc::F_WRLCK as i16;
        sys!(fcntl(fd, libc::F_SETLKW, &lock))?;
        Ok(())
    })
}

/// Many threads, each in another call, none of them the leader.
fn in_threads(stage: &Stage) -> Verdict {
    threads(stage, Least::AndMost)
}

/// As before, for freezes that fail: a freezer that dies may leave a call with its full time, but never less, and
/// never with EINTR.
fn in_threads_at_least(stage: &Stage) -> Verdict {
    threads(stage, Least::Only)
}

fn threads(stage: &Stage, least: Least) -> Verdict {
    let (reader, _writer) = pipe(0)?;
    let (epoll, _event) = watched()?;
    let pair = socket_pair(libc::SOCK_STREAM)?;
    let socket_time = timeval(TOTAL);
    let len = size_of::<libc::timeval>() as u32;
    sys!(setsockopt(pair[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const socket_time).cast(), len))?;
    let set = blocked(libc::SIGUSR2)?;
    let millis = TOTAL.as_millis() as i32;
    type Issue<'a> = Box<dyn Fn() -> Result<i64, i32> + Send + Sync + 'a>;
    type Call<'a> = (&'static str, i64, Issue<'a>, Result<i64, i32>);
    let calls: Vec<Call> = vec![
        (
            "nanosleep",
            libc::SYS_nanosleep,
            Box::new(|| raw!(libc::SYS_nanosleep, &timespec(TOTAL), null::<u8>())),
            Ok(0),
        ),
        (
            "clock_nanosleep",
            libc::SYS_clock_nanosleep,
            Box::new(|| {
                raw!(libc::SYS_clock_nanosleep, libc::CLOCK_MONOTONIC, 0, &timespec(TOTAL), null::<u8>())
            }),
            Ok(0),
        ),
        (
            "poll",
            libc::SYS_poll,
            Box::new(|| {
                let mut fds = [libc::pollfd { fd: reader, events: libc::POLLIN, revents: 0 }];
                raw!(libc::SYS_poll, fds.as_mut_ptr(), 1, millis)
            }),
            Ok(0),
        ),
        (
            "futex",
            libc::SYS_futex,
            Box::new(|| {
                let word = AtomicU32::new(1);
                raw!(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 1, &timespec(TOTAL))
            }),
            Err(libc::ETIMEDOUT),
        ),
        (
            "epoll_wait",
            libc::SYS_epoll_wait,
            Box::new(|| {
                let mut events: [libc::epoll_event; 4] = zeroed();
                raw!(libc::SYS_epoll_wait, epoll, events.as_mut_ptr(), 4, millis)
            }),
            Ok(0),
        ),
        (
            "rt_sigtimedwait",
            libc::SYS_rt_sigtimedwait,
            Box::new(|| raw!(libc::SYS_rt_sigtimedwait, &set, null::<u8>(), &timespec(TOTAL), 8)),
            Err(libc::EAGAIN),
        ),
        (
            "recv",
            libc::SYS_recvfrom,
            Box::new(|| {
                let mut byte = [0u8; 4];
                raw!(libc::SYS_recvfrom, pair[0], byte.as_mut_ptr(), 4, 0, null::<u8>(), null::<u8>())
            }),
            Err(libc::EAGAIN),
        ),
    ];
    // Of each thread its number, and whether its call has returned.
    let states: Vec<(AtomicI32, AtomicBool)> = calls.iter().map(|_| Default::default()).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .zip(&states)
            .map(|((name, _, call, expected), (tid, done))| {
                scope.spawn(move || {
                    tid.store(gettid(), SeqCst);
                    let start = monotonic();
                    let returned = call();
                    let waited = monotonic().saturating_sub(start);
                    done.store(true, SeqCst);
                    expect(name, returned, *expected).map_err(|why| format!("{why}, after {waited:?}"))?;
                    not_too_early(name, waited)
                })
            })
            .collect();
        nap(READY_AT);
        let ready = monotonic();
        stage.ready();
        stage.wait();
        for ((name, number, ..), (tid, done)) in calls.iter().zip(&states) {
            // See recv_timeout.
            if least == Least::AndMost && *name != "recv" {
                not_too_late(tid.load(SeqCst), *number, ready, done)
                    .map_err(|why| format!("{name}: {why}"))?;
            }
        }
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })
}

/// Children that sleep for moments are signalled as soon as it shows that they were away, when some may not have gone to
/// sleep again yet; none sleeps longer for it.
fn nanosleep_signalled(stage: &Stage) -> Verdict {
    catch_signal(libc::SIGUSR1)?;
    let words = crate::call::shared_words::<2>()?;
    let mut children = Vec::new();
    for _ in 0..24 {
        children.push(stage.fork(|| {
            words[0].fetch_add(1, SeqCst);
            while words[1].load(SeqCst) == 0 {
                nap(Duration::from_millis(30));
            }
            Ok(())
        })?);
    }
    crate::call::until("all stand", || words[0].load(SeqCst) == 24)?;
    let signal = || {
        for child in &children {
            unsafe { libc::kill(*child, libc::SIGUSR1) };
        }
    };
    // What the world's clock is ahead of ours grows only while we are away.
    let ahead = || crate::call::now(libc::CLOCK_REALTIME).saturating_sub(monotonic());
    let mut before = ahead();
    stage.ready();
    while !stage.gone() {
        if ahead().abs_diff(before) > Duration::from_millis(2) {
            signal();
            before = ahead();
        }
    }
    signal();
    words[1].store(1, SeqCst);
    for child in children {
        let mut status = 0;
        crate::call::until("each child has slept", || unsafe {
            libc::waitpid(child, &mut status, libc::WNOHANG) == child
        })?;
        stage.forget(child);
        same!(status, 0, "how child {child} ended");
    }
    Ok(())
}

/// Children wait without end for a signal, each in another call: it ends the call of each, though there is one only. Where
/// `go` says that they were signalled, they were while they stood still.
fn calls_signalled(stage: &Stage) -> Verdict {
    catch_signal(libc::SIGUSR1)?;
    let words = crate::call::shared_words::<1>()?;
    let (epoll, _) = watched()?;
    let (reads, _writes) = pipe(0)?;
    let [socket, _other] = socket_pair(libc::SOCK_STREAM)?;
    let much = timeval(Duration::from_secs(1 << 20));
    let len = size_of::<libc::timeval>() as u32;
    sys!(setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const much).cast(), len))?;
    let times = [1u64 << 20, 0];
    let time = times.as_ptr() as u64;
    let mut byte = [0u8; 16];
    let bytes = byte.as_mut_ptr() as u64;
    let mask = 1u64 << (libc::SIGUSR2 - 1);
    let calls: [(i64, [u64; 4]); 9] = [
        (libc::SYS_epoll_wait, [epoll as u64, bytes, 1, u64::MAX]),
        (libc::SYS_epoll_pwait, [epoll as u64, bytes, 1, i32::MAX as u64]),
        (libc::SYS_read, [reads as u64, bytes, 1, 0]),
        (libc::SYS_recvfrom, [socket as u64, bytes, 1, 0]),
        (libc::SYS_rt_sigtimedwait, [&raw const mask as u64, 0, time, 8]),
        (libc::SYS_nanosleep, [time, 0, 0, 0]),
        (libc::SYS_poll, [0, 0, i32::MAX as u64, 0]),
        (libc::SYS_futex, [bytes, libc::FUTEX_WAIT as u64, 0, time]),
        (libc::SYS_pause, [0; 4]),
    ];
    let mut children = Vec::new();
    for (number, [first, second, third, fourth]) in calls {
        let child = stage.fork(|| {
            let returned = unsafe { libc::syscall(number, first, second, third, fourth, 0, 8) };
            same!((returned, errno()), (-1, libc::EINTR), "call {number}");
            same!(CAUGHT.load(SeqCst), 1, "signals that came to call {number}");
            words[0].fetch_add(1, SeqCst);
            Ok(())
        })?;
        until("a child waits", || is_in_call(child, number))?;
        children.push((child, number));
    }
    stage.freeze_without_facts()?;
    let signalled = std::fs::read(stage.path("go")).is_ok_and(|text| text == b"signalled");
    if !signalled {
        children.iter().for_each(|(child, _)| _ = unsafe { libc::kill(*child, libc::SIGUSR1) });
    }
    if until("each call ends", || words[0].load(SeqCst) as usize == calls.len()).is_err() {
        let waiting = children.iter().filter(|(child, number)| is_in_call(*child, *number));
        let calls: Vec<i64> = waiting.map(|(_, number)| *number).collect();
        return Err(format!("calls that a signal did not end: {calls:?}"));
    }
    children.into_iter().try_for_each(|(child, _)| stage.reap(child))
}

/// A call that a thread with the smallest of stacks makes, and what came of it.
struct Small {
    number: i64,
    arguments: [u64; 4],
    tid: AtomicI32,
    done: AtomicBool,
    returned: AtomicI64,
    waited_ns: AtomicU64,
}

impl Small {
    fn new(number: i64, arguments: [u64; 4]) -> Self {
        Self {
            number,
            arguments,
            tid: AtomicI32::new(0),
            done: AtomicBool::new(false),
            returned: AtomicI64::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }

    extern "C" fn make(of: *mut libc::c_void) -> *mut libc::c_void {
        let own = unsafe { &*of.cast::<Self>() };
        own.tid.store(gettid(), SeqCst);
        let start = monotonic();
        let [first, second, third, fourth] = own.arguments;
        let returned = unsafe { libc::syscall(own.number, first, second, third, fourth, 0, 8) };
        own.returned.store(if returned < 0 { -i64::from(errno()) } else { returned }, SeqCst);
        own.waited_ns.store(monotonic().saturating_sub(start).as_nanos() as u64, SeqCst);
        own.done.store(true, SeqCst);
        null_mut()
    }
}

fn thread_on_small_stack(
    run: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void,
    argument: *mut libc::c_void,
) -> Result<libc::pthread_t, String> {
    let (mut attributes, mut thread): (libc::pthread_attr_t, _) = (zeroed(), 0);
    let made = unsafe {
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstacksize(&mut attributes, libc::PTHREAD_STACK_MIN)
            + libc::pthread_create(&mut thread, &attributes, run, argument)
    };
    same!(made, 0, "pthread_create");
    Ok(thread)
}

/// Threads with 16 KiB of stack, each in another call with a timeout in memory.
fn on_small_stacks(stage: &Stage) -> Verdict {
    const SYS_EPOLL_PWAIT2: i64 = 441;
    let (time, word, set) = (timespec(TOTAL), AtomicU32::new(5), blocked(libc::SIGUSR2)?);
    let (epoll, _event) = watched()?;
    let mut events: [libc::epoll_event; 4] = zeroed();
    let semaphores = sys!(semget(libc::IPC_PRIVATE, 1, 0o600))?;
    let operation = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
    let time = &raw const time as u64;
    let calls = [
        (Small::new(libc::SYS_nanosleep, [time, 0, 0, 0]), 0),
        (Small::new(libc::SYS_clock_nanosleep, [libc::CLOCK_MONOTONIC as u64, 0, time, 0]), 0),
        (Small::new(libc::SYS_futex, [word.as_ptr() as u64, 0, 5, time]), libc::ETIMEDOUT),
        (Small::new(libc::SYS_rt_sigtimedwait, [&raw const set as u64, 0, time, 8]), libc::EAGAIN),
        (
            Small::new(libc::SYS_semtimedop, [semaphores as u64, &raw const operation as u64, 1, time]),
            libc::EAGAIN,
        ),
        (Small::new(SYS_EPOLL_PWAIT2, [epoll as u64, events.as_mut_ptr() as u64, 4, time]), 0),
    ];
    let mut threads = Vec::new();
    for (call, _) in &calls {
        threads.push(thread_on_small_stack(Small::make, (&raw const *call).cast_mut().cast())?);
    }
    nap(READY_AT);
    let ready = monotonic();
    stage.ready();
    stage.wait();
    for (call, _) in &calls {
        not_too_late(call.tid.load(SeqCst), call.number, ready, &call.done)
            .map_err(|why| format!("call {}: {why}", call.number))?;
    }
    for thread in threads {
        unsafe { libc::pthread_join(thread, null_mut()) };
    }
    sys!(semctl(semaphores, 0, libc::IPC_RMID))?;
    for (call, expected) in &calls {
        same!(call.returned.load(SeqCst), -i64::from(*expected), "call {} returned", call.number);
        let waited = Duration::from_nanos(call.waited_ns.load(SeqCst));
        not_too_early(&format!("call {}", call.number), waited)?;
    }
    Ok(())
}

static SLEEPING: AtomicU32 = AtomicU32::new(0);
static AWAKE: AtomicBool = AtomicBool::new(false);

extern "C" fn sleep_for_moments(tid: *mut libc::c_void) -> *mut libc::c_void {
    unsafe { &*tid.cast::<AtomicI32>() }.store(gettid(), SeqCst);
    SLEEPING.fetch_add(1, SeqCst);
    while !AWAKE.load(SeqCst) {
        nap(Duration::from_millis(30));
    }
    SLEEPING.fetch_sub(1, SeqCst);
    null_mut()
}

/// As children that are signalled, but threads with 16 KiB of stack.
fn on_small_stacks_signalled(stage: &Stage) -> Verdict {
    catch_signal(libc::SIGUSR1)?;
    let tids: [AtomicI32; 24] = Default::default();
    let mut threads = Vec::new();
    for tid in &tids {
        threads.push(thread_on_small_stack(sleep_for_moments, (&raw const *tid).cast_mut().cast())?);
    }
    until("all stand", || SLEEPING.load(SeqCst) == 24)?;
    let signal = || {
        for tid in &tids {
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid.load(SeqCst), libc::SIGUSR1) };
        }
    };
    let ahead = || crate::call::now(libc::CLOCK_REALTIME).saturating_sub(monotonic());
    let mut before = ahead();
    stage.ready();
    while !stage.gone() {
        if ahead().abs_diff(before) > Duration::from_millis(2) {
            signal();
            before = ahead();
        }
    }
    signal();
    AWAKE.store(true, SeqCst);
    until("each thread has slept", || SLEEPING.load(SeqCst) == 0)?;
    for thread in threads {
        unsafe { libc::pthread_join(thread, null_mut()) };
    }
    Ok(())
}

/// Makes a call with another stack, as a C library does: its number is loaded right before.
macro_rules! call_on {
    ($top:expr, $number:path, $arguments:expr) => {{
        let [first, second, third, fourth]: [u64; 4] = $arguments;
        let returned: i64;
        unsafe {
            std::arch::asm!(
                "xchg rsp, r12",
                "mov eax, {number}",
                "syscall",
                "xchg rsp, r12",
                number = const $number,
                inout("r12") $top => _,
                out("rax") returned,
                in("rdi") first,
                in("rsi") second,
                in("rdx") third,
                in("r10") fourth,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        if returned < 0 { Err(-returned as i32) } else { Ok(returned) }
    }};
}

const HEAP_BYTES: usize = 64 << 20;
const BELOW: usize = 128 << 10;
const FIBER: usize = 16 << 10;

/// A stack in the middle of a heap as malloc(3) makes them for threads: at its start, which is a multiple of 64 MiB,
/// memory of the one below ends that nobody may use. Returns where the heap begins.
pub(crate) fn heap() -> Result<*mut u8, String> {
    let reserved =
        map(3 * HEAP_BYTES, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)?;
    let start = ((reserved as usize).next_multiple_of(HEAP_BYTES) + HEAP_BYTES) as *mut u8;
    sys!(mprotect(start.cast(), 2 * BELOW + FIBER, READ_WRITE))?;
    fill(start, BELOW, 1);
    fill(start.wrapping_add(BELOW + FIBER), BELOW, 2);
    Ok(start)
}

fn heap_is_whole(start: *mut u8) -> Verdict {
    check_fill("what lies below the stack", start, BELOW, 1)?;
    check_fill("what lies above the stack", start.wrapping_add(BELOW + FIBER), BELOW, 2)
}

/// Sleeps with the stack in the middle of a [`heap`].
pub(crate) fn sleep_on_a_fiber(heap: *mut u8, time: &libc::timespec) -> Verdict {
    let top = heap.wrapping_add(BELOW + FIBER);
    let returned = call_on!(top, libc::SYS_nanosleep, [&raw const *time as u64, 0, 0, 0]);
    expect("nanosleep", returned, Ok(0))
}

/// A coroutine that sleeps has what it shares a heap with left alone. It sleeps no less, but it may sleep longer: nothing is
/// known of the room on its stack, so that what is left has no place there.
fn on_fiber(stage: &Stage) -> Verdict {
    let start = heap()?;
    let time = timespec(TOTAL);
    timed_at_least(stage, libc::SYS_nanosleep, || sleep_on_a_fiber(start, &time))?;
    heap_is_whole(start)
}

fn on_fiber_for_a_signal(stage: &Stage) -> Verdict {
    let start = heap()?;
    let (set, time) = (blocked(libc::SIGUSR2)?, timespec(TOTAL));
    timed_at_least(stage, libc::SYS_rt_sigtimedwait, || {
        let top = start.wrapping_add(BELOW + FIBER);
        let arguments = [&raw const set as u64, 0, &raw const time as u64, 8];
        expect("rt_sigtimedwait", call_on!(top, libc::SYS_rt_sigtimedwait, arguments), Err(libc::EAGAIN))
    })?;
    heap_is_whole(start)
}

static DOZED: AtomicI64 = AtomicI64::new(i64::MIN);

extern "C" fn doze(signal: i32) {
    let time = timespec(TOTAL);
    let returned = if signal == libc::SIGUSR1 {
        raw!(libc::SYS_nanosleep, &time, null::<u8>())
    } else {
        let set = 1u64 << (libc::SIGRTMIN() - 1);
        raw!(libc::SYS_rt_sigtimedwait, &set, null::<u8>(), &time, 8)
    };
    DOZED.store(returned.unwrap_or_else(|errno| -i64::from(errno)), SeqCst);
}

/// A handler that sleeps on an alternate stack, which lies above what it has interrupted.
fn interrupted(signal: i32, expected: i32) -> Verdict {
    const LOCALS: usize = 96 << 10;
    let mut alternate = [0u8; 32 << 10];
    let stack = libc::stack_t { ss_sp: alternate.as_mut_ptr().cast(), ss_flags: 0, ss_size: alternate.len() };
    sys!(sigaltstack(&stack, null_mut()))?;
    let mut action: libc::sigaction = zeroed();
    action.sa_sigaction = doze as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK;
    sys!(sigaction(signal, &action, null_mut()))?;
    #[inline(never)]
    fn deeper(signal: i32) -> Verdict {
        let mut locals = [0u8; LOCALS];
        fill(locals.as_mut_ptr(), LOCALS, 3);
        sys!(raise(signal))?;
        check_fill("what was interrupted", std::hint::black_box(locals.as_ptr()), LOCALS, 3)
    }
    deeper(signal)?;
    same!(DOZED.load(SeqCst), -i64::from(expected), "what the handler's call returned");
    Ok(())
}

fn on_alternate_stack(stage: &Stage) -> Verdict {
    timed(stage, libc::SYS_nanosleep, || interrupted(libc::SIGUSR1, 0))
}

fn on_alternate_stack_for_a_signal(stage: &Stage) -> Verdict {
    blocked(libc::SIGRTMIN())?;
    timed(stage, libc::SYS_rt_sigtimedwait, || interrupted(libc::SIGUSR2, libc::EAGAIN))
}
