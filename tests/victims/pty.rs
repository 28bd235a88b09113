//! Pseudoterminals with both sides in the tree.

use crate::Victim;
use crate::call::{is_in_call, open, read_all, read_some, shared_words, state_of, until, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, POLLHUP, POLLIN, POLLOUT};
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("pty_settings", settings),
    ("pty_many", many),
    ("pty_typed", typed),
    ("pty_typed_raw", typed_raw),
    ("pty_output", output),
    ("pty_output_full", output_full),
    ("pty_stopped", stopped),
    ("pty_packets", packets),
    ("pty_exclusive", exclusive),
    ("pty_locked", locked),
    ("pty_locked_settings", locked_settings),
    ("pty_unopened", unopened),
    ("pty_slave_closed", slave_closed),
    ("pty_hung_up", hung_up),
    ("pty_several", several),
    ("pty_epoll", epoll),
    ("pty_blocked_readers", blocked_readers),
    ("pty_blocked_writer", blocked_writer),
    ("pty_session", session),
    ("pty_own_session", own_session),
    ("pty_foreground", foreground),
    ("pty_foreground_ended", foreground_ended),
    ("pty_foreground_not_reaped", foreground_not_reaped),
    ("pty_background_stopped", background_stopped),
    ("pty_dev_tty", dev_tty),
    ("pty_nested", nested),
    ("pty_packet_status", packet_status),
    ("pty_typed_full", typed_full),
    ("pty_two_sessions", two_sessions),
    ("pty_stopped_writer", stopped_writer),
    ("pty_quote", quote),
    ("pty_column", column),
    ("pty_discipline", discipline),
];

const TIOCGPTPEER: u64 = 0x5441;
const TIOCPKT: u64 = 0x5420;
const TIOCGPKT: u64 = 0x8004_5438;
const TIOCGEXCL: u64 = 0x8004_5440;
const TIOCGPTLCK: u64 = 0x8004_5439;

fn new_master(flags: i32) -> Result<i32, String> {
    let master = sys!(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | flags))?;
    sys!(unlockpt(master))?;
    Ok(master)
}

fn peer(master: i32, flags: i32) -> Result<i32, String> {
    // Given here, O_CLOEXEC would stay in the flags of the description.
    sys!(ioctl(master, TIOCGPTPEER, flags | O_NOCTTY))
}

fn pair() -> Result<(i32, i32), String> {
    let master = new_master(0)?;
    Ok((master, peer(master, O_RDWR)?))
}

fn number(master: i32) -> Result<u32, String> {
    let mut number = 0u32;
    sys!(ioctl(master, libc::TIOCGPTN, &mut number))?;
    Ok(number)
}

/// Expects the old number, unless the program came back among others of the machine, which may have taken it.
fn same_number(stage: &Stage, master: i32, before: u32) -> Verdict {
    let own = stage.was_copied() || !stage.was_thawed() || unsafe { libc::geteuid() } != 0;
    let now = number(master)?;
    check!(!own || now == before, "the number of the terminal: {now}, expected {before}");
    // Whichever it is, the path leads to the slave.
    let slave = open(Path::new(&format!("/dev/pts/{now}")), O_RDWR | O_NOCTTY)?;
    let (mut a, mut b): (libc::winsize, libc::winsize) = (zeroed(), zeroed());
    sys!(ioctl(slave, libc::TIOCGWINSZ, &mut a))?;
    sys!(ioctl(master, libc::TIOCGWINSZ, &mut b))?;
    same!((a.ws_row, a.ws_col), (b.ws_row, b.ws_col), "the size by path");
    sys!(close(slave))?;
    Ok(())
}

fn modes(fd: i32) -> Result<libc::termios, String> {
    let mut modes: libc::termios = zeroed();
    sys!(tcgetattr(fd, &mut modes))?;
    Ok(modes)
}

fn change(fd: i32, change: impl FnOnce(&mut libc::termios)) -> Verdict {
    let mut modes = modes(fd)?;
    change(&mut modes);
    sys!(tcsetattr(fd, libc::TCSANOW, &modes))?;
    Ok(())
}

fn raw(fd: i32) -> Verdict {
    change(fd, |modes| unsafe { libc::cfmakeraw(modes) })
}

fn no_echo(fd: i32) -> Verdict {
    change(fd, |modes| modes.c_lflag &= !libc::ECHO)
}

fn events(fd: i32) -> i16 {
    let mut poll = libc::pollfd { fd, events: POLLIN | POLLOUT, revents: 0 };
    unsafe { libc::poll(&mut poll, 1, 0) };
    poll.revents
}

/// How much waits to be read.
fn waiting(fd: i32) -> Result<usize, String> {
    // Asked first: it has what was written a moment ago worked on.
    events(fd);
    let mut count = 0i32;
    sys!(ioctl(fd, libc::FIONREAD, &mut count))?;
    Ok(count as usize)
}

/// A line goes each way.
fn is_alive(master: i32, slave: i32) -> Verdict {
    write_all(master, b"ping\n")?;
    same!(read_some(slave, 100)?, b"ping\n", "a line that is typed");
    write_all(slave, b"pong")?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"pong") {
        until("the output arrives", || events(master) & POLLIN != 0)?;
        seen.extend(read_some(master, 100)?);
    }
    Ok(())
}

fn settings(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let size = libc::winsize { ws_row: 33, ws_col: 77, ws_xpixel: 5, ws_ypixel: 6 };
    sys!(ioctl(master, libc::TIOCSWINSZ, &size))?;
    change(slave, |modes| {
        modes.c_cc[libc::VINTR] = 7;
        modes.c_iflag |= libc::IXANY;
        modes.c_oflag &= !libc::ONLCR;
        modes.c_lflag &= !libc::ECHOK;
        unsafe { libc::cfsetspeed(modes, libc::B9600) };
    })?;
    let all = |fd| {
        let modes = modes(fd)?;
        let flags = [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag];
        Ok::<_, String>((flags, modes.c_cc, modes.c_ispeed, modes.c_ospeed))
    };
    let (before, number) = (all(slave)?, number(master)?);
    stage.freeze_here()?;
    same!(all(slave)?, before, "the settings");
    same!(all(master)?, before, "the settings by the master");
    let mut size: libc::winsize = zeroed();
    sys!(ioctl(slave, libc::TIOCGWINSZ, &mut size))?;
    same!((size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel), (33, 77, 5, 6), "the size");
    same_number(stage, master, number)?;
    is_alive(master, slave)
}

fn many(stage: &Stage) -> Verdict {
    let mut masters = Vec::new();
    for _ in 0..12 {
        masters.push(new_master(0)?);
    }
    // Numbers with gaps, in no order.
    for index in [9, 6, 2, 0] {
        sys!(close(masters.remove(index)))?;
    }
    masters.reverse();
    let mut pairs = Vec::new();
    for master in masters {
        pairs.push((master, peer(master, O_RDWR)?, number(master)?));
    }
    stage.freeze_here()?;
    for (master, slave, number) in pairs {
        same_number(stage, master, number)?;
        is_alive(master, slave)?;
    }
    Ok(())
}

/// Complete lines, one ended by Ctrl-D, an end of file, a quoted newline, and a half line that is still edited.
fn typed(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    write_all(master, b"first\nsecond\x04\x04quo\x16\nted\nhalx")?;
    until("all is echoed", || waiting(master).is_ok_and(|count| count >= 28))?;
    let echo = read_some(master, 100)?;
    check!(echo.ends_with(b"halx"), "the echo: {}", echo.escape_ascii());
    stage.freeze_here()?;
    same!(waiting(master)?, 0, "nothing is echoed twice");
    for line in [&b"first\n"[..], b"second", b"", b"quo\nted\n"] {
        same!(read_some(slave, 100)?, line, "a line");
    }
    same!(events(slave) & POLLIN, 0, "half a line cannot be read");
    write_all(master, b"\x7ff\n")?;
    same!(read_some(slave, 100)?, b"half\n", "the line that was begun");
    Ok(())
}

/// Ctrl-V was typed, and not the key that it quotes.
fn quote(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    write_all(master, b"first\nab\x16")?;
    // Echoed as a caret and a backspace.
    until("all is echoed", || waiting(master).is_ok_and(|count| count >= 11))?;
    read_some(master, 100)?;
    stage.freeze_here()?;
    same!(waiting(master)?, 0, "nothing is echoed twice");
    write_all(master, b"\x15c\n")?;
    same!(read_some(slave, 100)?, b"first\n", "the line before it");
    same!(read_some(slave, 100)?, b"ab\x15c\n", "the key is taken literally");
    Ok(())
}

/// A tab that the terminal makes spaces, and a carriage return that it leaves out at the begin of a line.
fn column(stage: &Stage) -> Verdict {
    let mut pairs = Vec::new();
    for line in [&b""[..], b"abc", b"1234567890"] {
        let (master, slave) = pair()?;
        change(slave, |modes| modes.c_oflag |= libc::XTABS | libc::ONOCR)?;
        write_all(slave, line)?;
        until("it is written", || waiting(master).is_ok_and(|count| count == line.len()))?;
        if !line.is_empty() {
            read_some(master, 100)?;
        }
        pairs.push((master, slave, line.len()));
    }
    stage.freeze_here()?;
    for (master, slave, column) in pairs {
        same!(waiting(master)?, 0, "nothing is written twice");
        write_all(slave, b"\t\x08\r\r.")?;
        let expected = [&b"        "[column % 8..], b"\x08\r."].concat();
        until("it is written", || waiting(master).is_ok_and(|count| count == expected.len()))?;
        same!(read_some(master, 100)?, expected, "a tab from column {column}");
    }
    Ok(())
}

fn typed_raw(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    raw(slave)?;
    let bytes: Vec<u8> = (0..2000u32).map(|n| (n * 7) as u8).collect();
    write_all(master, &bytes)?;
    until("all has come", || waiting(slave).is_ok_and(|count| count == 2000))?;
    same!(read_all(slave, 10)?, bytes[..10], "the first bytes");
    stage.freeze_here()?;
    write_all(master, b"more")?;
    check!(read_all(slave, 1990)? == bytes[10..], "what was typed changed");
    same!(read_all(slave, 4)?, b"more", "what was typed after");
    Ok(())
}

fn output(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    write_all(slave, b"one\ntwo\n\xff\x00\x11\x13")?;
    stage.freeze_here()?;
    write_all(slave, b"three")?;
    same!(read_all(master, 19)?, b"one\r\ntwo\r\n\xff\x00\x11\x13three", "the output");
    same!(waiting(master)?, 0, "what is left");
    Ok(())
}

fn output_full(stage: &Stage) -> Verdict {
    let master = new_master(O_NONBLOCK)?;
    let slave = peer(master, O_RDWR | O_NONBLOCK)?;
    let (mut len, mut idle) = (0u32, 0);
    while idle < 50 {
        let bytes: Vec<u8> = (len..len + 100).map(|n| b'a' + (n % 23) as u8).collect();
        match sys!(write(slave, bytes.as_ptr().cast(), bytes.len())) {
            Ok(written) if written > 0 => (len, idle) = (len + written as u32, 0),
            // The buffer is emptied in the background until the line discipline is full, too.
            _ => idle += 1,
        }
        crate::call::nap(std::time::Duration::from_micros(100));
    }
    stage.freeze_here()?;
    let mut bytes = Vec::new();
    while bytes.len() < len as usize {
        until("there is output", || events(master) & POLLIN != 0)?;
        bytes.extend(read_some(master, 4096)?);
    }
    let wrong = bytes.iter().enumerate().find(|(n, byte)| **byte != b'a' + (n % 23) as u8);
    check!(bytes.len() == len as usize && wrong.is_none(), "{} of {len} bytes, {wrong:?}", bytes.len());
    is_alive(master, slave)
}

/// Output that was stopped by Ctrl-S is let go on by Ctrl-Q, and only by that; the same by tcflow(3).
fn stopped(stage: &Stage) -> Verdict {
    let (by_key, by_call) = (pair()?, pair()?);
    for (_, slave) in [by_key, by_call] {
        write_all(slave, b"before")?;
    }
    write_all(by_key.0, b"\x13")?;
    sys!(tcflow(by_call.1, libc::TCOOFF))?;
    until("both are stopped", || [by_key, by_call].iter().all(|pair| events(pair.1) & POLLOUT == 0))?;
    stage.freeze_here()?;
    for (master, slave) in [by_key, by_call] {
        same!(events(slave) & POLLOUT, 0, "it can be written again");
        same!(read_some(master, 100)?, b"before", "the output");
    }
    write_all(by_key.0, b"\x11")?;
    write_all(by_call.0, b"\x11line\n")?;
    same!(read_some(by_call.1, 100)?, b"line\n", "the line behind the key");
    same!(events(by_call.1) & POLLOUT, 0, "a key lets it go on");
    sys!(tcflow(by_call.1, libc::TCOON))?;
    for (master, slave) in [by_key, by_call] {
        until("it goes on", || events(slave) & POLLOUT != 0)?;
        is_alive(master, slave)?;
    }
    Ok(())
}

fn packets(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    sys!(ioctl(master, TIOCPKT, &1i32))?;
    write_all(slave, b"data")?;
    write_all(master, b"key")?;
    no_echo(slave)?;
    stage.freeze_here()?;
    let mut on = 0i32;
    sys!(ioctl(master, TIOCGPKT, &mut on))?;
    same!(on, 1, "packet mode");
    let packet = read_some(master, 100)?;
    check!(packet.starts_with(b"\0data"), "the packet: {}", packet.escape_ascii());
    sys!(tcflush(slave, libc::TCIOFLUSH))?;
    let status = read_some(master, 100)?;
    check!(status.len() == 1 && status[0] != 0, "the status: {}", status.escape_ascii());
    Ok(())
}

fn exclusive(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    sys!(ioctl(slave, libc::TIOCEXCL))?;
    write_all(master, b"waits\n")?;
    stage.freeze_here()?;
    let mut on = 0i32;
    sys!(ioctl(slave, TIOCGEXCL, &mut on))?;
    check!(on != 0, "it is not exclusive any more");
    same!(read_some(slave, 100)?, b"waits\n", "what was typed");
    is_alive(master, slave)
}

fn locked(stage: &Stage) -> Verdict {
    let master = sys!(posix_openpt(O_RDWR | O_NOCTTY))?;
    stage.freeze_here()?;
    let mut on = 0i32;
    sys!(ioctl(master, TIOCGPTLCK, &mut on))?;
    same!(on, 1, "the lock");
    check!(peer(master, O_RDWR).is_err(), "a locked slave can be opened");
    sys!(unlockpt(master))?;
    is_alive(master, peer(master, O_RDWR)?)
}

/// Some settings cannot be changed; refused.
fn locked_settings(stage: &Stage) -> Verdict {
    const TIOCSLCKTRMIOS: u64 = 0x5457;
    let (_master, slave) = pair()?;
    let mut locks: libc::termios = zeroed();
    locks.c_lflag = libc::ICANON;
    sys!(ioctl(slave, TIOCSLCKTRMIOS, &locks))?;
    stage.freeze_here()
}

/// Its slave has a line discipline that throws all away.
fn discipline(stage: &Stage) -> Verdict {
    const TIOCSETD: u64 = 0x5423;
    const N_NULL: i32 = 27;
    let (_master, slave) = pair()?;
    sys!(ioctl(slave, TIOCSETD, &N_NULL))?;
    stage.freeze_here()
}

fn unopened(stage: &Stage) -> Verdict {
    let master = new_master(0)?;
    let before = number(master)?;
    stage.freeze_here()?;
    same!(events(master) & POLLHUP, 0, "it looks as if its slave was closed");
    same_number(stage, master, before)?;
    is_alive(master, peer(master, O_RDWR)?)
}

fn slave_closed(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    write_all(slave, b"last words")?;
    write_all(master, b"too late\n")?;
    sys!(close(slave))?;
    stage.freeze_here()?;
    check!(events(master) & POLLHUP != 0, "it does not look closed");
    let last = read_some(master, 100)?;
    check!(last.starts_with(b"last words"), "the output: {}", last.escape_ascii());
    let end = sys!(read(master, [0u8; 8].as_mut_ptr().cast(), 8));
    check!(end.is_err() && crate::call::errno() == libc::EIO, "a read without slave: {end:?}");
    let slave = peer(master, O_RDWR)?;
    same!(read_some(slave, 100)?, b"too late\n", "what was typed before");
    is_alive(master, slave)
}

fn hung_up(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    sys!(close(master))?;
    stage.freeze_here()?;
    same!(read_some(slave, 100)?, b"", "the end");
    let written = sys!(write(slave, b"x".as_ptr().cast(), 1));
    check!(written.is_err() && crate::call::errno() == libc::EIO, "a write to it: {written:?}");
    Ok(())
}

/// Descriptions of the slave with other access modes and flags, and one shared.
fn several(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    no_echo(slave)?;
    let (reader, writer) = (peer(master, O_RDONLY | O_NONBLOCK)?, peer(master, O_WRONLY)?);
    let shared = sys!(dup(reader))?;
    stage.freeze_here()?;
    check!(read_some(shared, 1).is_err() && crate::call::errno() == libc::EAGAIN, "O_NONBLOCK is not shared");
    sys!(fcntl(reader, libc::F_SETFL, 0))?;
    same!(sys!(fcntl(shared, libc::F_GETFL))? & O_NONBLOCK, 0, "the shared flag");
    same!(sys!(fcntl(writer, libc::F_GETFL))? & libc::O_ACCMODE, O_WRONLY, "the mode of the writer");
    write_all(master, b"in\n")?;
    same!(read_some(shared, 100)?, b"in\n", "what was typed");
    write_all(writer, b"out")?;
    same!(read_some(master, 100)?, b"out", "what was written");
    for fd in [slave, reader, writer, shared] {
        same!(events(master) & POLLHUP, 0, "the slave is closed too early");
        sys!(close(fd))?;
    }
    check!(events(master) & POLLHUP != 0, "the slave is not closed");
    Ok(())
}

fn epoll(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let epoll = sys!(epoll_create1(O_CLOEXEC))?;
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 };
    sys!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, master, &mut event))?;
    stage.freeze_here()?;
    same!(sys!(epoll_wait(epoll, &mut event, 1, 0))?, 0, "events of a quiet terminal");
    write_all(slave, b"x")?;
    same!(sys!(epoll_wait(epoll, &mut event, 1, 10_000))?, 1, "events");
    same!({ event.u64 }, 7, "the word");
    is_alive(master, slave)
}

fn blocked_readers(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    no_echo(slave)?;
    let reader = stage.fork(|| {
        same!(read_some(slave, 100)?, b"typed\n", "the line");
        write_all(slave, b"thanks")
    })?;
    let other = stage.fork(|| {
        same!(read_some(master, 100)?, b"thanks", "the output");
        Ok(())
    })?;
    let reads = |pid| is_in_call(pid, libc::SYS_read);
    until("both read", || reads(reader) && reads(other))?;
    stage.freeze_here()?;
    write_all(master, b"typed\n")?;
    stage.reap(reader)?;
    stage.reap(other)
}

fn blocked_writer(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    raw(slave)?;
    let bytes: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let writer = stage.fork(|| write_all(slave, &bytes))?;
    until("the child waits for room", || {
        is_in_call(writer, libc::SYS_write) && state_of(writer) == Some('S') && events(slave) & POLLOUT == 0
    })?;
    stage.freeze_here()?;
    check!(read_all(master, bytes.len())? == bytes, "the output changed");
    stage.reap(writer)
}

fn ids(fd: i32) -> Result<(i32, i32), String> {
    Ok((sys!(tcgetsid(fd))?, sys!(tcgetpgrp(fd))?))
}

/// A child leads a session on the terminal; both sides tell so, and a key signals it.
fn session(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let words = shared_words::<2>()?;
    let child = stage.fork(|| {
        sys!(close(master))?;
        sys!(setsid())?;
        sys!(ioctl(slave, libc::TIOCSCTTY, 0))?;
        unsafe { libc::signal(libc::SIGINT, count as *const () as usize) };
        COUNT.store(std::ptr::from_ref(&words[1]).cast_mut(), SeqCst);
        let own = unsafe { libc::getpid() };
        same!(ids(slave)?, (own, own), "session and foreground");
        words[0].store(1, SeqCst);
        stage.wait();
        same!(ids(slave)?, (own, own), "session and foreground");
        let tty = open(Path::new("/dev/tty"), O_RDWR)?;
        same!(ids(tty)?, (own, own), "session and foreground by /dev/tty");
        until("the key comes", || words[1].load(SeqCst) == 1)
    })?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    same!(ids(master)?, (child, child), "session and foreground");
    write_all(master, b"\x03")?;
    stage.reap(child)
}

static COUNT: std::sync::atomic::AtomicPtr<AtomicU32> =
    std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());

extern "C" fn count(_signal: i32) {
    let word = COUNT.load(SeqCst);
    if let Some(word) = unsafe { word.as_ref() } {
        word.fetch_add(1, SeqCst);
    }
}

/// The root itself, which leads a session, has it on its own terminal.
fn own_session(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let own = unsafe { libc::getpid() };
    if sys!(getsid(0))? != own || sys!(ioctl(slave, libc::TIOCSCTTY, 0)).is_err() {
        // It was started as the leader of a group in a session that has a terminal; then a child does it.
        sys!(close(slave))?;
        sys!(close(master))?;
        return session(stage);
    }
    stage.freeze_here()?;
    same!(ids(slave)?, (own, own), "session and foreground");
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    is_alive(master, slave)
}

/// A shell with a job in the foreground whose leader has ended, and one in the background.
fn foreground(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let words = shared_words::<4>()?;
    let shell = stage.fork(|| {
        sys!(setsid())?;
        sys!(ioctl(slave, libc::TIOCSCTTY, 0))?;
        unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
        // The orphan stays in this tree.
        sys!(prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
        let background = stage.fork(|| {
            sys!(setpgid(0, 0))?;
            words[0].fetch_add(1, SeqCst);
            until("the end", || words[2].load(SeqCst) == 1)
        })?;
        let leader = stage.fork(|| {
            sys!(setpgid(0, 0))?;
            sys!(tcsetpgrp(slave, libc::getpid()))?;
            let member = stage.fork(|| {
                words[1].store(unsafe { libc::getpgrp() } as u32, SeqCst);
                words[0].fetch_add(1, SeqCst);
                stage.wait();
                let group = words[1].load(SeqCst) as i32;
                same!(sys!(tcgetpgrp(slave))?, group, "the foreground that a member sees");
                same!(read_some(slave, 100)?, b"to the job\n", "what was typed");
                words[3].store(1, SeqCst);
                Ok(())
            })?;
            until("its child stands", || words[1].load(SeqCst) != 0)?;
            stage.forget(member);
            Ok(())
        })?;
        stage.reap(leader)?;
        words[0].fetch_add(1, SeqCst);
        stage.wait();
        until("the job is done", || words[3].load(SeqCst) == 1)?;
        sys!(tcsetpgrp(slave, libc::getpgrp()))?;
        words[2].store(1, SeqCst);
        stage.reap(background)
    })?;
    until("all stand", || words[0].load(SeqCst) == 3)?;
    stage.freeze_here()?;
    same!(ids(master)?, (shell, words[1].load(SeqCst) as i32), "session and foreground");
    write_all(master, b"to the job\n")?;
    stage.reap(shell)
}

/// The job in the foreground has ended, and the shell has not taken the terminal back.
fn foreground_ended(stage: &Stage) -> Verdict {
    foreground_without_living(stage, true)
}

fn foreground_not_reaped(stage: &Stage) -> Verdict {
    foreground_without_living(stage, false)
}

fn foreground_without_living(stage: &Stage, reaped: bool) -> Verdict {
    let (master, slave) = pair()?;
    let words = shared_words::<2>()?;
    let shell = stage.fork(|| {
        sys!(setsid())?;
        sys!(ioctl(slave, libc::TIOCSCTTY, 0))?;
        unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
        let job = stage.fork(|| {
            sys!(setpgid(0, 0))?;
            sys!(tcsetpgrp(slave, libc::getpid())).map(drop)
        })?;
        if reaped {
            stage.reap(job)?;
        } else {
            until("the job ends", || state_of(job) == Some('Z'))?;
        }
        words[0].store(job as u32, SeqCst);
        stage.wait();
        let told = sys!(tcgetpgrp(slave))?;
        let free = !reaped || crate::peers::has_numbers_of_its_own();
        // Another process may have had the number of one that was reaped when it was thawed.
        check!(
            told == job || !free && told == unsafe { libc::getpid() },
            "the foreground is {told}, not {job}"
        );
        words[1].store(1, SeqCst);
        if !reaped {
            stage.reap(job)?;
        }
        sys!(tcsetpgrp(slave, libc::getpgrp()))?;
        same!(read_some(slave, 100)?, b"to the shell\n", "what was typed");
        Ok(())
    })?;
    until("the shell stands", || words[0].load(SeqCst) != 0)?;
    let job = words[0].load(SeqCst) as i32;
    same!(ids(master)?, (shell, job), "session and foreground");
    stage.freeze_here()?;
    until("the shell has looked", || words[1].load(SeqCst) == 1 || state_of(shell) == Some('Z'))?;
    write_all(master, b"to the shell\n")?;
    stage.reap(shell)
}

/// A job that read in the background was stopped by SIGTTIN; brought to the foreground it reads.
fn background_stopped(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let words = shared_words::<1>()?;
    let shell = stage.fork(|| {
        sys!(setsid())?;
        sys!(ioctl(slave, libc::TIOCSCTTY, 0))?;
        unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
        let job = stage.fork(|| {
            sys!(setpgid(0, 0))?;
            same!(read_some(slave, 100)?, b"now\n", "what was typed");
            Ok(())
        })?;
        let mut status = 0;
        sys!(waitpid(job, &mut status, libc::WUNTRACED))?;
        check!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTTIN, "it did not stop");
        words[0].store(job as u32, SeqCst);
        stage.wait();
        same!(state_of(job), Some('T'), "the state of the job");
        sys!(tcsetpgrp(slave, job))?;
        sys!(kill(-job, libc::SIGCONT))?;
        stage.reap(job)
    })?;
    until("the job is stopped", || words[0].load(SeqCst) != 0)?;
    stage.freeze_here()?;
    write_all(master, b"now\n")?;
    stage.reap(shell)
}

/// A descriptor of /dev/tty is one of that terminal.
fn dev_tty(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let words = shared_words::<1>()?;
    let child = stage.fork(|| {
        sys!(setsid())?;
        sys!(ioctl(slave, libc::TIOCSCTTY, 0))?;
        let tty = open(Path::new("/dev/tty"), O_RDWR)?;
        sys!(close(slave))?;
        words[0].store(1, SeqCst);
        stage.wait();
        same!(sys!(tcgetsid(tty))?, sys!(getpid())?, "the session");
        same!(read_some(tty, 100)?, b"hello\n", "what was typed");
        write_all(tty, b"bye")
    })?;
    sys!(close(slave))?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    write_all(master, b"hello\n")?;
    same!(read_all(master, 7)?, b"hello\r\n", "the echo");
    same!(read_all(master, 3)?, b"bye", "the answer");
    stage.reap(child)
}

/// A session on a terminal whose master belongs to a session on another one, as `script` within `script`.
fn nested(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    let words = shared_words::<1>()?;
    let outer = stage.fork(|| {
        sys!(close(master))?;
        sys!(setsid())?;
        sys!(ioctl(slave, libc::TIOCSCTTY, 0))?;
        let (inner_master, inner_slave) = pair()?;
        let inner = stage.fork(|| {
            sys!(close(slave))?;
            sys!(close(inner_master))?;
            sys!(setsid())?;
            sys!(ioctl(inner_slave, libc::TIOCSCTTY, 0))?;
            words[0].store(1, SeqCst);
            same!(read_some(inner_slave, 100)?, b"deep\n", "what came through");
            same!(sys!(tcgetsid(inner_slave))?, sys!(getpid())?, "the session");
            Ok(())
        })?;
        let line = read_some(slave, 100)?;
        same!(sys!(tcgetsid(slave))?, sys!(getpid())?, "the session");
        write_all(inner_master, &line)?;
        stage.reap(inner)
    })?;
    until("all stand", || words[0].load(SeqCst) == 1 && is_in_call(outer, libc::SYS_read))?;
    stage.freeze_here()?;
    write_all(master, b"deep\n")?;
    stage.reap(outer)
}

/// A status waits for the master beside output: which queue was flushed, that output was stopped.
fn packet_status(stage: &Stage) -> Verdict {
    const STOP: u8 = 4;
    const FLUSH_READ: u8 = 1;
    let (flushed, halted, quiet) = (pair()?, pair()?, pair()?);
    for (master, slave) in [flushed, halted, quiet] {
        sys!(ioctl(master, TIOCPKT, &1i32))?;
        no_echo(slave)?;
        write_all(slave, b"data")?;
    }
    // What changing the settings told of is taken first.
    for (master, _) in [flushed, halted, quiet] {
        until("the output arrives", || events(master) & POLLIN != 0)?;
    }
    sys!(tcflush(flushed.1, libc::TCIFLUSH))?;
    sys!(tcflow(halted.1, libc::TCOOFF))?;
    stage.freeze_here()?;
    same!(read_some(flushed.0, 100)?, [FLUSH_READ], "the status of the one that was flushed");
    same!(read_some(halted.0, 100)?, [STOP], "the status of the one that was stopped");
    for (master, _) in [flushed, halted, quiet] {
        same!(read_some(master, 100)?, b"\0data", "the output");
    }
    sys!(tcflow(halted.1, libc::TCOON))?;
    same!(read_some(halted.0, 100)?, [8], "that it goes on");
    Ok(())
}

/// As much is typed as there is room for, and somebody waits to type more.
fn typed_full(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    raw(slave)?;
    let bytes: Vec<u8> = (0..90_000u32).map(|n| (n % 241) as u8).collect();
    let typist = stage.fork(|| write_all(master, &bytes))?;
    until("the child waits for room", || {
        is_in_call(typist, libc::SYS_write) && state_of(typist) == Some('S') && events(master) & POLLOUT == 0
    })?;
    stage.freeze_here()?;
    check!(read_all(slave, bytes.len())? == bytes, "what was typed changed");
    stage.reap(typist)
}

/// Two sessions, each on a terminal of its own, and their keys.
fn two_sessions(stage: &Stage) -> Verdict {
    let words = shared_words::<4>()?;
    let mut sessions = Vec::new();
    for index in 0..2 {
        let (master, slave) = pair()?;
        let child = stage.fork(|| {
            sys!(setsid())?;
            sys!(ioctl(slave, libc::TIOCSCTTY, 0))?;
            unsafe { libc::signal(libc::SIGQUIT, count as *const () as usize) };
            COUNT.store(std::ptr::from_ref(&words[2 + index]).cast_mut(), SeqCst);
            let own = unsafe { libc::getpid() };
            words[index].store(1, SeqCst);
            stage.wait();
            same!(ids(slave)?, (own, own), "session and foreground");
            until("the key comes", || words[2 + index].load(SeqCst) == 1)
        })?;
        sessions.push((master, child));
    }
    until("both stand", || words[0].load(SeqCst) + words[1].load(SeqCst) == 2)?;
    stage.freeze_here()?;
    for (index, (master, child)) in sessions.into_iter().enumerate() {
        same!(ids(master)?, (child, child), "session and foreground");
        write_all(master, b"\x1c")?;
        stage.reap(child)?;
        same!(words[2 + index].load(SeqCst), 1, "how often the key was heard");
    }
    Ok(())
}

/// Output was stopped by a key, and somebody waits to write.
fn stopped_writer(stage: &Stage) -> Verdict {
    let (master, slave) = pair()?;
    no_echo(slave)?;
    write_all(slave, b"before")?;
    write_all(master, b"\x13")?;
    until("it is stopped", || events(slave) & POLLOUT == 0)?;
    let writer = stage.fork(|| write_all(slave, b" after"))?;
    until("the child waits", || is_in_call(writer, libc::SYS_write) && state_of(writer) == Some('S'))?;
    stage.freeze_here()?;
    same!(read_some(master, 100)?, b"before", "the output");
    write_all(master, b"\x11")?;
    same!(read_all(master, 6)?, b" after", "the output then");
    stage.reap(writer)
}
