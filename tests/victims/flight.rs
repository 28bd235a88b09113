//! Descriptors that nobody holds but a message: passed over a unix socket (SCM_RIGHTS), and not received yet.

use crate::Victim;
use crate::call::{is_in_call, now, open, pipe, read_all, read_some, until, write_all, zeroed};
use crate::pidfd::{pid_of, pidfd, pidfd_of_thread, ready};
use crate::stage::{Stage, Verdict};
use crate::unix::{receive_descriptor, send_descriptor};
use libc::{O_NONBLOCK, O_RDONLY, O_RDWR};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("flight_counters", counters),
    ("flight_files", files),
    ("flight_processes", processes),
    ("flight_files_of_processes", files_of_processes),
    ("flight_locked", locked),
    ("flight_owned", owned),
    ("flight_sockets", sockets),
    ("flight_terminals", terminals),
    ("flight_ends", ends),
];

fn text<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|why| why.to_string())
}

/// What comes out of a message, judged.
type Judge<'a> = Box<dyn FnOnce(i32) -> Verdict + 'a>;

/// A descriptor to be passed, and what is expected of it when it has been received.
fn passed<'a>(fd: i32, judge: impl FnOnce(i32) -> Verdict + 'a) -> (i32, Judge<'a>) {
    (fd, Box::new(judge))
}

/// Passes all of them, one message each, freezes, and judges what is received.
fn fly(stage: &Stage, all: Vec<(i32, Judge<'_>)>) -> Verdict {
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()))?;
    let mut judges = Vec::new();
    for (fd, judge) in all {
        send_descriptor(pair[0], fd)?;
        sys!(close(fd))?;
        judges.push(judge);
    }
    stage.freeze_here()?;
    for (index, judge) in judges.into_iter().enumerate() {
        let fd = receive_descriptor(pair[1])?;
        judge(fd).map_err(|why| format!("the one with index {index}: {why}"))?;
        sys!(close(fd))?;
    }
    Ok(())
}

fn counters(stage: &Stage) -> Verdict {
    let event = sys!(eventfd(7, libc::EFD_NONBLOCK))?;
    let timer = sys!(timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK))?;
    let hour = Duration::from_secs(3600);
    let setting = libc::itimerspec {
        it_interval: crate::call::timespec(Duration::ZERO),
        it_value: crate::call::timespec(hour),
    };
    sys!(timerfd_settime(timer, 0, &setting, std::ptr::null_mut()))?;
    let mut set: libc::sigset_t = zeroed();
    unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
    sys!(sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
    let signals = sys!(signalfd(-1, &set, libc::SFD_NONBLOCK))?;
    let inotify = sys!(inotify_init1(libc::IN_NONBLOCK))?;
    let watched = crate::call::c(&stage.path("").to_string_lossy());
    let watch = sys!(inotify_add_watch(inotify, watched.as_ptr(), libc::IN_DELETE))?;
    let armed = now(libc::CLOCK_MONOTONIC);
    fly(
        stage,
        vec![
            passed(event, |fd| {
                same!(read_some(fd, 8)?, 7u64.to_ne_bytes(), "the count");
                Ok(())
            }),
            passed(timer, |fd| {
                let mut left: libc::itimerspec = zeroed();
                sys!(timerfd_gettime(fd, &mut left))?;
                let left = Duration::new(left.it_value.tv_sec as u64, left.it_value.tv_nsec as u32);
                let end = now(libc::CLOCK_MONOTONIC) + left;
                let error = end.abs_diff(armed + hour);
                check!(error < Duration::from_secs(5), "it ends {error:?} beside its time");
                Ok(())
            }),
            passed(signals, |fd| {
                check!(!ready(fd)?, "a signal is there before it was sent");
                sys!(kill(libc::getpid(), libc::SIGUSR2))?;
                same!(read_some(fd, 128)?.len(), 128, "the record of the signal");
                Ok(())
            }),
            passed(inotify, |fd| {
                text(std::fs::write(stage.path("short-lived"), ""))?;
                text(std::fs::remove_file(stage.path("short-lived")))?;
                let events = read_some(fd, 4096)?;
                same!(events[..4], watch.to_ne_bytes(), "the number of the watch");
                Ok(())
            }),
        ],
    )
}

fn files(stage: &Stage) -> Verdict {
    let path = stage.path("deleted");
    text(std::fs::write(&path, "deleted"))?;
    let deleted = open(&path, O_RDWR)?;
    sys!(lseek(deleted, 3, libc::SEEK_SET))?;
    text(std::fs::remove_file(&path))?;
    let memory = sys!(memfd_create(c"flying".as_ptr(), 0))?;
    write_all(memory, b"in memory")?;
    let directory = open(&stage.path(""), O_RDONLY | libc::O_DIRECTORY)?;
    text(std::fs::write(stage.path("named"), "named"))?;
    let node = open(&stage.path("named"), libc::O_PATH)?;
    let null = open(std::path::Path::new("/dev/null"), O_RDWR)?;
    let fifo = stage.path("fifo");
    sys!(mkfifo(crate::call::c(&fifo.to_string_lossy()).as_ptr(), 0o600))?;
    let both = open(&fifo, O_RDWR | O_NONBLOCK)?;
    write_all(both, b"in a fifo")?;
    fly(
        stage,
        vec![
            passed(deleted, |fd| {
                same!(read_some(fd, 100)?, b"eted", "the rest of the deleted file");
                let mut found: libc::stat = zeroed();
                sys!(fstat(fd, &mut found))?;
                same!(found.st_nlink, 0, "names of the deleted file");
                Ok(())
            }),
            passed(memory, |fd| {
                sys!(lseek(fd, 3, libc::SEEK_SET))?;
                same!(read_some(fd, 100)?, b"memory", "the memory");
                Ok(())
            }),
            passed(directory, |fd| {
                let file = sys!(openat(fd, c"named".as_ptr(), O_RDONLY | libc::O_CLOEXEC))?;
                same!(read_some(file, 100)?, b"named", "a file of the directory");
                sys!(close(file))?;
                Ok(())
            }),
            passed(node, |fd| {
                let again = open(std::path::Path::new(&format!("/proc/self/fd/{fd}")), O_RDONLY)?;
                same!(read_some(again, 100)?, b"named", "the file of a path");
                sys!(close(again))?;
                Ok(())
            }),
            passed(null, |fd| {
                same!(read_some(fd, 1)?, b"", "what the device gives");
                write_all(fd, b"x")
            }),
            passed(both, |fd| {
                same!(read_some(fd, 100)?, b"in a fifo", "the fifo's content");
                Ok(())
            }),
        ],
    )
}

/// Pidfds, one of which its process has as well, and one of which is in a socket that is in flight itself.
fn processes(stage: &Stage) -> Verdict {
    let child = stage.fork(|| {
        stage.wait();
        loop {
            crate::call::nap(Duration::from_millis(5));
        }
    })?;
    let ended = stage.fork(|| Ok(()))?;
    until("it is a zombie", || crate::call::state_of(ended) == Some('Z'))?;
    let own = unsafe { libc::getpid() };
    let is_of = |fd: i32, pid: i32| {
        same!(pid_of(fd)?, pid.to_string(), "whose pidfd it is");
        Ok(())
    };
    let held = pidfd(own)?;
    let mut inner = [0; 2];
    sys!(socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, inner.as_mut_ptr()))?;
    let (from, to) = (inner[0], inner[1]);
    let deep = pidfd(child)?;
    send_descriptor(from, deep)?;
    sys!(close(deep))?;
    sys!(shutdown(from, libc::SHUT_WR))?;
    let mut all = vec![
        passed(pidfd(child)?, |fd| {
            is_of(fd, child)?;
            check!(!ready(fd)?, "the child has ended");
            sys!(syscall(libc::SYS_pidfd_send_signal, fd, 0, std::ptr::null::<u8>(), 0))?;
            Ok(())
        }),
        passed(sys!(dup(held))?, |fd| {
            is_of(fd, own)?;
            is_of(held, own)
        }),
        passed(pidfd(ended)?, |fd| {
            check!(ready(fd)?, "the zombie is not seen as ended");
            stage.reap(ended)
        }),
        passed(to, |fd| {
            let deep = receive_descriptor(fd)?;
            is_of(deep, child)?;
            sys!(close(deep))?;
            same!(read_some(fd, 1)?, b"", "what follows");
            Ok(())
        }),
    ];
    if let Some(leader) = pidfd_of_thread(own)? {
        let flags = sys!(fcntl(leader, libc::F_GETFL))?;
        all.push(passed(leader, move |fd| {
            same!(sys!(fcntl(fd, libc::F_GETFL))?, flags, "flags of the one of a thread");
            is_of(fd, own)
        }));
    }
    fly(stage, all)
}

/// Files that the kernel makes for a process, of which one was read in part.
fn files_of_processes(stage: &Stage) -> Verdict {
    let child = stage.fork(|| {
        stage.wait();
        Ok(())
    })?;
    let own = unsafe { libc::getpid() };
    let at = |name: &str| open(&std::path::Path::new("/proc").join(name), O_RDONLY);
    let tells = |fd: i32, line: String| {
        let told = read_some(fd, 4096)?;
        check!(String::from_utf8_lossy(&told).contains(&line), "there is no {line:?} in {told:?}");
        Ok(())
    };
    let half = at("self/status")?;
    same!(read_some(half, 5)?, b"Name:", "what it begins with");
    let directory = open(std::path::Path::new("/proc/self"), O_RDONLY | libc::O_DIRECTORY)?;
    fly(
        stage,
        vec![
            passed(half, |fd| tells(fd, format!("\nPid:\t{own}\n"))),
            passed(at("self/maps")?, |fd| tells(fd, " r-xp ".to_owned())),
            passed(at(&format!("{child}/status"))?, |fd| tells(fd, format!("\nPid:\t{child}\n"))),
            passed(at(&format!("self/task/{own}/status"))?, |fd| tells(fd, format!("\nPid:\t{own}\n"))),
            passed(directory, |fd| {
                let status = sys!(openat(fd, c"status".as_ptr(), O_RDONLY | libc::O_CLOEXEC))?;
                tells(status, format!("\nPid:\t{own}\n"))?;
                sys!(close(status))?;
                Ok(())
            }),
        ],
    )?;
    stage.reap(child)
}

/// Locks of a description last as long as it does, wherever it is.
fn locked(stage: &Stage) -> Verdict {
    let path = stage.path("locked");
    text(std::fs::write(&path, "0123456789"))?;
    let (whole, part) = (open(&path, O_RDWR)?, open(&path, O_RDWR)?);
    sys!(flock(whole, libc::LOCK_EX))?;
    let range = |kind: i32| {
        let mut lock: libc::flock = zeroed();
        (lock.l_type, lock.l_start, lock.l_len) = (kind as i16, 2, 3);
        lock
    };
    sys!(fcntl(part, libc::F_OFD_SETLK, &range(libc::F_WRLCK)))?;
    let other = open(&path, O_RDWR)?;
    let takes_whole = || sys!(flock(other, libc::LOCK_EX | libc::LOCK_NB)).is_ok();
    let takes_part = || sys!(fcntl(other, libc::F_OFD_SETLK, &range(libc::F_RDLCK))).is_ok();
    check!(!takes_whole() && !takes_part(), "it is not locked before");
    let mut pair = [0; 2];
    sys!(socketpair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()))?;
    for fd in [whole, part] {
        send_descriptor(pair[0], fd)?;
        sys!(close(fd))?;
    }
    stage.freeze_here()?;
    check!(!takes_whole(), "the lock of the whole file is lost");
    check!(!takes_part(), "the lock of a range is lost");
    for _ in 0..2 {
        sys!(close(receive_descriptor(pair[1])?))?;
    }
    check!(takes_whole() && takes_part(), "the locks outlast their descriptions");
    Ok(())
}

/// One that signals the program, and one with a lease, of which it tells the program.
fn owned(stage: &Stage) -> Verdict {
    const F_SETSIG: i32 = 10;
    const ASYNCHRONOUS: i32 = libc::O_ASYNC | O_NONBLOCK;
    let signal = libc::SIGRTMIN() + 4;
    let mut set: libc::sigset_t = zeroed();
    sys!(sigaddset(&mut set, signal))?;
    sys!(sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
    let told = |what: &str| {
        let minute = libc::timespec { tv_sec: 60, tv_nsec: 0 };
        same!(sys!(sigtimedwait(&set, std::ptr::null_mut(), &minute))?, signal, "the signal of {what}");
        Ok(())
    };
    let (reader, writer) = pipe(0)?;
    sys!(fcntl(reader, libc::F_SETOWN, libc::getpid()))?;
    sys!(fcntl(reader, F_SETSIG, signal))?;
    sys!(fcntl(reader, libc::F_SETFL, ASYNCHRONOUS))?;
    let path = stage.path("leased");
    text(std::fs::write(&path, "content"))?;
    let leased = open(&path, O_RDONLY)?;
    sys!(fcntl(leased, F_SETSIG, signal))?;
    sys!(fcntl(leased, libc::F_SETLEASE, libc::F_RDLCK))?;
    fly(
        stage,
        vec![
            passed(reader, |fd| {
                same!(sys!(fcntl(fd, libc::F_GETFL))? & ASYNCHRONOUS, ASYNCHRONOUS, "its flags");
                write_all(writer, b"x")?;
                told("the pipe")
            }),
            passed(leased, |fd| {
                let lease = sys!(fcntl(fd, libc::F_GETLEASE))?;
                if stage.was_copied() {
                    same!(lease, libc::F_UNLCK, "the lease of a copy");
                    return Ok(());
                }
                same!(lease, libc::F_RDLCK, "the lease");
                check!(open(&path, O_RDWR | O_NONBLOCK).is_err(), "another may write though the lease holds");
                told("the lease")
            }),
        ],
    )
}

fn sockets(stage: &Stage) -> Verdict {
    let listener = text(TcpListener::bind("127.0.0.1:0"))?;
    let address = text(listener.local_addr())?;
    let mut client = text(TcpStream::connect(address))?;
    let (mut server, _) = text(listener.accept())?;
    text(client.write_all(b"to the server"))?;
    text(server.write_all(b"to the client"))?;
    let udp = text(UdpSocket::bind("127.0.0.1:0"))?;
    let to = text(udp.local_addr())?;
    let sender = text(UdpSocket::bind("127.0.0.1:0"))?;
    text(sender.send_to(b"datagram", to))?;
    let named = text(UnixDatagram::bind(stage.path("named")))?;
    text(text(UnixDatagram::unbound())?.send_to(b"queued", stage.path("named")))?;
    let netlink = sys!(socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE))?;
    let unbound = sys!(socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
    fly(
        stage,
        vec![
            passed(server.into_raw_fd(), |fd| {
                same!(read_some(fd, 100)?, b"to the server", "what waited at the server");
                let mut bytes = [0; 13];
                text(client.read_exact(&mut bytes))?;
                same!(&bytes, b"to the client", "what waited at the client");
                write_all(fd, b"on")?;
                text(client.read_exact(&mut bytes[..2]))?;
                same!(&bytes[..2], b"on", "what was sent then");
                Ok(())
            }),
            passed(listener.into_raw_fd(), |fd| {
                let mut client = text(TcpStream::connect(address))?;
                let accepted = sys!(accept(fd, std::ptr::null_mut(), std::ptr::null_mut()))?;
                write_all(accepted, b"served")?;
                sys!(close(accepted))?;
                let mut served = String::new();
                text(client.read_to_string(&mut served))?;
                same!(served, "served", "what came through");
                Ok(())
            }),
            passed(udp.into_raw_fd(), |fd| {
                same!(read_some(fd, 100)?, b"datagram", "what waited");
                text(sender.send_to(b"another", to))?;
                same!(read_some(fd, 100)?, b"another", "what came then");
                Ok(())
            }),
            passed(named.into_raw_fd(), |fd| {
                same!(read_some(fd, 100)?, b"queued", "what waited");
                text(text(UnixDatagram::unbound())?.send_to(b"more", stage.path("named")))?;
                same!(read_some(fd, 100)?, b"more", "what came then");
                Ok(())
            }),
            passed(netlink, |fd| {
                same!(
                    crate::call::sys_socket_option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?,
                    0,
                    "protocol"
                );
                Ok(())
            }),
            passed(unbound, |fd| {
                sys!(listen(fd, 1))?;
                let own = std::mem::ManuallyDrop::new(unsafe { TcpListener::from_raw_fd(fd) });
                text(TcpStream::connect(text(own.local_addr())?).map(drop))
            }),
        ],
    )
}

/// A terminal of which both sides are on their way, with something typed and something shown.
fn terminals(stage: &Stage) -> Verdict {
    let master = sys!(posix_openpt(O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))?;
    sys!(unlockpt(master))?;
    const TIOCGPTPEER: u64 = 0x5441;
    let slave = sys!(ioctl(master, TIOCGPTPEER, O_RDWR | libc::O_NOCTTY))?;
    let size = libc::winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    sys!(ioctl(master, libc::TIOCSWINSZ, &size))?;
    write_all(slave, b"shown")?;
    write_all(master, b"typed\n")?;
    let shown: &[u8] = b"showntyped\r\n";
    fly(
        stage,
        vec![
            passed(slave, |fd| {
                same!(read_some(fd, 100)?, b"typed\n", "what was typed");
                let mut found: libc::winsize = zeroed();
                sys!(ioctl(fd, libc::TIOCGWINSZ, &mut found))?;
                same!((found.ws_row, found.ws_col), (33, 99), "its size");
                Ok(())
            }),
            passed(master, |fd| {
                same!(read_all(fd, shown.len())?, shown, "what was shown");
                let ended = sys!(read(fd, [0u8; 1].as_mut_ptr().cast(), 1));
                let error = crate::call::errno();
                same!((ended.is_err(), error), (true, libc::EIO), "what a master is told without slave");
                Ok(())
            }),
        ],
    )
}

/// Ends of pipes, whose other end somebody holds who waits at it.
fn ends(stage: &Stage) -> Verdict {
    let (reader, full) = pipe(0)?;
    let (empty, writer) = pipe(0)?;
    let data: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let writes = stage.fork(|| {
        for fd in [reader, empty, writer] {
            sys!(close(fd))?;
        }
        write_all(full, &data)
    })?;
    let reads = stage.fork(|| {
        for fd in [reader, full, writer] {
            sys!(close(fd))?;
        }
        same!(read_all(empty, 100)?, b"through", "what the child read");
        Ok(())
    })?;
    for fd in [full, empty] {
        sys!(close(fd))?;
    }
    until("both wait", || is_in_call(writes, libc::SYS_write) && is_in_call(reads, libc::SYS_read))?;
    fly(
        stage,
        vec![
            passed(reader, |fd| {
                check!(read_all(fd, data.len() + 1)? == data, "the content changed");
                Ok(())
            }),
            passed(writer, |fd| write_all(fd, b"through")),
        ],
    )?;
    [writes, reads].into_iter().try_for_each(|pid| stage.reap(pid))
}
