//! What waits in a pseudoterminal: typed and not read by its slave, written and not read by its master.
//!
//! The kernel shows neither without giving it away, so [`take`] reads it and [`put`] writes it again. Both are for
//! pseudoterminals that stand still: nobody else reads, writes or waits at them.
//!
//! The two line disciplines (drivers/tty/n_tty.c): the slave's keeps what is typed. In canonical mode it marks where lines
//! end, and forgets the marks when that mode is left, so lines are read one by one before the rest is read without it. A
//! line is put back by typing it anew, every special character quoted, under settings that echo nothing and signal
//! nobody. The master's is always raw: its bytes are put back by writing them through the slave without processing.

use super::{TERMIOS2_BYTES, is_packet_mode, set_packet_mode, set_settings, set_stopped, settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, Result};
use rustix::termios::QueueSelector;
use std::time::{Duration, Instant};

/// What waits in a pseudoterminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Complete lines in canonical mode; each is what one read gives. One that ends by no end of line ended by Ctrl-D.
    pub lines: Vec<Vec<u8>>,
    /// What was typed behind them.
    pub typed: Vec<u8>,
    /// Output.
    pub output: Vec<u8>,
    /// Whether output is stopped.
    pub flow: Flow,
    /// What a master in packet mode is told next: TIOCPKT_ bits, 0 for nothing.
    pub status: u8,
    /// Whether the next key is taken literally, since Ctrl-V was typed last.
    pub literal: bool,
    /// The column of output, as [`advance`] takes it; only where output depends on it and runs, else 0.
    pub column: u32,
}

/// Whether output is stopped, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// It is not.
    #[default]
    Runs,
    /// By a key.
    StoppedByKey,
    /// By tcflow(3).
    StoppedByCall,
}

impl Flow {
    /// Returns the one of this number.
    pub fn of(number: u8) -> Self {
        [Self::Runs, Self::StoppedByKey, Self::StoppedByCall]
            .into_iter()
            .find(|flow| *flow as u8 == number)
            .unwrap_or_default()
    }
}

impl Waiting {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.typed.is_empty() && self.output.is_empty()
    }

    /// Whether [`take`] has changed anything.
    pub fn is_to_be_put_back(&self) -> bool {
        !self.is_empty() || self.flow == Flow::StoppedByKey || self.status != 0 || self.literal
    }
}

/// Fields of `struct termios2` (include/uapi/asm-generic/termbits.h): flags of input, output, control and local modes,
/// a byte for the line discipline, then control characters.
#[derive(Clone, Copy)]
struct Modes([u8; TERMIOS2_BYTES]);

const INPUT: usize = 0;
const OUTPUT: usize = 4;
const LOCAL: usize = 12;
const CHARACTERS: usize = 17;
/// How many there are.
const CHARACTER_COUNT: usize = 19;

const IXON: u32 = 0o2000;
const OPOST: u32 = 0o1;
const ONOCR: u32 = 0o20;
const XTABS: u32 = 0o14000;
const ICANON: u32 = 0o2;
const IEXTEN: u32 = 0o100_000;
const EXTPROC: u32 = 0o200_000;

impl Modes {
    fn flags(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn set_flags(&mut self, at: usize, flags: u32) {
        self.0[at..at + 4].copy_from_slice(&flags.to_ne_bytes());
    }

    fn character(&self, index: usize) -> u8 {
        self.0[CHARACTERS + index]
    }

    fn set_character(&mut self, index: usize, value: u8) {
        self.0[CHARACTERS + index] = value;
    }

    fn is_canonical(&self) -> bool {
        self.flags(LOCAL) & ICANON != 0
    }

    /// Whether lines are made of what is typed, and keys are worked on: with EXTPROC the master has done both.
    fn edits_lines(&self) -> bool {
        self.is_canonical() && self.flags(LOCAL) & EXTPROC == 0
    }

    /// Whether what is written comes out differently in another column (do_output_char, drivers/tty/n_tty.c).
    fn tells_column(&self) -> bool {
        let output = self.flags(OUTPUT);
        output & OPOST != 0 && (output & XTABS == XTABS || output & ONOCR != 0)
    }

    /// The characters beside newline that end a line and belong to it.
    fn line_ends(&self) -> [u8; 3] {
        [b'\n', self.character(libc::VEOL), self.character(libc::VEOL2)]
    }

    /// These without canonical mode, in which a read takes what there is and does not wait.
    fn taking(mut self) -> Self {
        self.set_flags(LOCAL, self.flags(LOCAL) & !ICANON);
        self.set_character(libc::VMIN, 0);
        self.set_character(libc::VTIME, 0);
        self
    }

    /// Those under which nothing is done with what is typed or written, but for what `canonical` needs.
    fn putting(&self, canonical: bool, special: &Special) -> Self {
        let mut modes = *self;
        modes.set_flags(INPUT, if canonical { IXON } else { 0 });
        modes.set_flags(OUTPUT, 0);
        // EXTPROC stays: who changes it changes the marks of lines, and tells a master in packet mode.
        let kept = self.flags(LOCAL) & EXTPROC;
        modes.set_flags(LOCAL, kept | if canonical { ICANON | IEXTEN } else { 0 });
        for index in 0..CHARACTER_COUNT {
            if ![libc::VEOL, libc::VEOL2].contains(&index) {
                modes.set_character(index, 0);
            }
        }
        if canonical {
            modes.set_character(libc::VEOF, special.end);
            modes.set_character(libc::VLNEXT, special.quote);
            modes.set_character(libc::VSTOP, special.stop);
            modes.set_character(libc::VSTART, special.start);
        } else {
            modes.set_character(libc::VMIN, 1);
        }
        modes
    }
}

/// Characters that mean something while lines are put back.
struct Special {
    end: u8,
    quote: u8,
    stop: u8,
    start: u8,
}

impl Special {
    /// Chooses four that the least of `bytes` are, and that end no line.
    fn choose(modes: &Modes, bytes: &[u8]) -> Self {
        let mut counts = [0usize; 256];
        for byte in bytes {
            counts[usize::from(*byte)] += 1;
        }
        let mut candidates: Vec<u8> = (1..=u8::MAX)
            .filter(|byte| !modes.line_ends().contains(byte) && !b"\r\t".contains(byte))
            .collect();
        candidates.sort_by_key(|byte| counts[usize::from(*byte)]);
        Self { end: candidates[0], quote: candidates[1], stop: candidates[2], start: candidates[3] }
    }

    fn is_one(&self, byte: u8) -> bool {
        [self.end, self.quote, self.stop, self.start].contains(&byte)
    }
}

fn is_ready(fd: impl AsFd, what: PollFlags) -> Result<bool> {
    let fd = fd.as_fd();
    let mut fds = [PollFd::new(&fd, what)];
    loop {
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(fds[0].revents().contains(what)),
        }
    }
}

/// The longest line, and more than any line discipline holds.
const BUFFER_BYTES: usize = 4096;

/// Takes all that waits; `slave` is one that may be read, if the slave was ever opened.
///
/// The settings are as they were afterwards. Before the first byte is taken nothing but settings has changed.
///
/// # Errors
/// What a read or a change of settings gave; what was read until then is lost.
pub fn take(master: impl AsFd, slave: Option<impl AsFd>) -> Result<Waiting> {
    let (master, slave) = (master.as_fd(), slave.as_ref().map(AsFd::as_fd));
    let mut waiting = Waiting::default();
    let packets = is_packet_mode(master)?;
    if packets {
        if is_ready(master, PollFlags::PRI)? {
            waiting.status = read_status(master)?;
        }
        // Each read would begin with a byte that tells of the packet, and the master would be told of what happens here.
        set_packet_mode(master, false)?;
    }
    let taken = take_all(master, slave, &mut waiting);
    if packets {
        set_packet_mode(master, true)?;
    }
    taken.map(|()| waiting)
}

/// Reads the status alone: a read gives it before all else, and nothing with it (n_tty_read).
fn read_status(master: impl AsFd) -> Result<u8> {
    let mut status = [0];
    rustix::io::read(master, &mut status)?;
    Ok(status[0])
}

fn take_all(master: BorrowedFd<'_>, slave: Option<BorrowedFd<'_>>, waiting: &mut Waiting) -> Result<()> {
    // A line discipline that gave away all it has gets more from the buffer behind it, so that is asked each time.
    while is_ready(master, PollFlags::IN)? {
        read_into(master, &mut waiting.output)?;
    }
    let Some(slave) = slave else { return Ok(()) };
    let modes = Modes(settings(master)?);
    if modes.edits_lines() {
        // In canonical mode a terminal is readable if there is a line; one read takes one line.
        while is_ready(slave, PollFlags::IN)? {
            let mut line = Vec::new();
            read_into(slave, &mut line)?;
            waiting.lines.push(line);
        }
        // Asked before canonical mode is left, which forgets a quote (`lnext` in n_tty_set_termios).
        if !is_ready(slave, PollFlags::OUT)? {
            return take_stopped(master, slave, &modes, waiting);
        }
        waiting.literal = is_literal(master, slave, &modes)?;
    }
    let nothing = !modes.is_canonical() && {
        // Asked first, so that all that was typed is counted.
        is_ready(slave, PollFlags::IN)?;
        rustix::io::ioctl_fionread(slave)? == 0
    };
    if !nothing {
        set_settings(slave, &modes.taking().0)?;
        while read_into(slave, &mut waiting.typed)? != 0 {}
        set_settings(slave, &modes.0)?;
    }
    if waiting.literal {
        // The key by which that was found out.
        waiting.typed.pop();
    }
    // Whoever has room for output and cannot write is stopped.
    if !is_ready(slave, PollFlags::OUT)? {
        waiting.flow = why_stopped(master, slave, &modes)?;
    } else if modes.tells_column() {
        waiting.column = column(master, slave, &modes)?;
    }
    Ok(())
}

/// Finds out whether the next key is taken literally, by one that stops output if not; else it lies behind what was typed.
/// No line waits, and output runs.
///
/// While no line waits, poll(2) has all worked on that was typed (tty_buffer_flush_work in n_tty_poll).
fn is_literal(master: BorrowedFd<'_>, slave: BorrowedFd<'_>, modes: &Modes) -> Result<bool> {
    let mut special = Special::choose(modes, &[]);
    special.quote = 0;
    set_settings(slave, &modes.putting(true, &special).0)?;
    write_all(master, &[special.stop])?;
    is_ready(slave, PollFlags::IN)?;
    let literal = is_ready(slave, PollFlags::OUT)?;
    if !literal {
        write_all(master, &[special.start])?;
        soon(|| is_ready(slave, PollFlags::OUT))?;
    }
    set_settings(slave, &modes.0)?;
    Ok(literal)
}

/// Takes what was typed while output is stopped, and finds out what has stopped it and whether the next key is taken
/// literally: lines are typed, which that key makes others. No line waits.
fn take_stopped(
    master: BorrowedFd<'_>,
    slave: BorrowedFd<'_>,
    modes: &Modes,
    waiting: &mut Waiting,
) -> Result<()> {
    let special = Special::choose(modes, b"12");
    set_settings(slave, &modes.putting(true, &special).0)?;
    // Ends the half line, or is one more character of it; in both cases all behind it means what it says. Only the key that
    // lets output go on undoes what a key did, and only the call what a call did (`start_tty`, drivers/tty/tty_io.c).
    write_all(master, &[special.end, b'1', special.end, special.start, b'2', special.end])?;
    let line = || {
        let mut line = Vec::new();
        soon(|| is_ready(slave, PollFlags::IN))?;
        read_into(slave, &mut line)?;
        Ok(line)
    };
    waiting.typed = line()?;
    if line()? == b"2" {
        waiting.literal = true;
        waiting.typed.truncate(waiting.typed.len().saturating_sub(2));
    } else {
        line()?;
    }
    let runs = is_ready(slave, PollFlags::OUT)?;
    set_settings(slave, &modes.0)?;
    waiting.flow = if runs { Flow::StoppedByKey } else { Flow::StoppedByCall };
    Ok(())
}

/// Finds out what has stopped output of a terminal that edits no lines, as [`take_stopped`] does: that key is typed, and a
/// line behind it, which tells when both were worked on.
fn why_stopped(master: impl AsFd, slave: impl AsFd, modes: &Modes) -> Result<Flow> {
    if modes.flags(LOCAL) & EXTPROC != 0 {
        return Ok(Flow::StoppedByCall);
    }
    let special = Special::choose(modes, &[]);
    set_settings(&slave, &modes.putting(true, &special).0)?;
    write_all(&master, &[special.start, b'\n'])?;
    soon(|| is_ready(&slave, PollFlags::IN))?;
    read_into(&slave, &mut Vec::new())?;
    let runs = is_ready(&slave, PollFlags::OUT)?;
    set_settings(&slave, &modes.0)?;
    Ok(if runs { Flow::StoppedByKey } else { Flow::StoppedByCall })
}

/// Columns between two tab stops.
const TAB: u32 = 8;
/// Beyond that many tab stops, a column is told but for a multiple of [`TAB`].
const MOST_STOPS: u32 = 512;

/// Finds out the column of output, and leaves it: a tab that is expanded tells how far the next stop is, and how many of
/// these are before it, since a backspace does not go beyond the first column (do_output_char, drivers/tty/n_tty.c). What
/// is written comes out at the master, where nothing waits. Neither key changes from where a tab is erased (`canon_column`).
fn column(master: BorrowedFd<'_>, slave: BorrowedFd<'_>, modes: &Modes) -> Result<u32> {
    let mut expanding = *modes;
    expanding.set_flags(OUTPUT, OPOST | XTABS);
    set_settings(slave, &expanding.0)?;
    // How many spaces a tab has behind that many backspaces.
    let tab = |back: u32| -> Result<u32> {
        let mut keys = vec![b'\x08'; back as usize];
        keys.push(b'\t');
        let seen = written(master, slave, &keys)?;
        Ok(seen.iter().filter(|byte| **byte == b' ').count() as u32)
    };
    let first = tab(0)?;
    let mut stops = 0;
    // From a stop that is not the first one this leads to the one before it, by one space.
    while stops < MOST_STOPS && tab(TAB + 1)? == 1 {
        stops += 1;
    }
    let gone_back = stops * TAB;
    let keys = match gone_back.checked_sub(first) {
        Some(missing) => vec![b' '; missing as usize],
        None => vec![b'\x08'; (first - gone_back) as usize],
    };
    written(master, slave, &keys)?;
    set_settings(slave, &modes.0)?;
    Ok((gone_back + TAB).saturating_sub(first))
}

/// Writes to the slave, and takes it from the master; returns what came.
fn written(master: BorrowedFd<'_>, slave: BorrowedFd<'_>, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut seen = Vec::new();
    for piece in bytes.chunks(LAST_BYTES) {
        write_all(slave, piece)?;
        while is_ready(master, PollFlags::IN)? {
            read_into(master, &mut seen)?;
        }
    }
    Ok(seen)
}

/// Sets the column of output of a new pseudoterminal, in which nothing waits, and which is not in packet mode.
///
/// # Errors
/// ETIMEDOUT if the line discipline does not take it within seconds.
pub fn advance(master: impl AsFd, slave: impl AsFd, column: u32) -> Result<()> {
    let most = (MOST_STOPS + 1) * TAB;
    if column > 0 {
        // Processed without any change, which moves the column.
        let mut plain = Modes(settings(&slave)?);
        plain.set_flags(OUTPUT, OPOST);
        set_settings(&slave, &plain.0)?;
        written(master.as_fd(), slave.as_fd(), &vec![b' '; column.min(most) as usize])?;
    }
    Ok(())
}

fn read_into(fd: impl AsFd, into: &mut Vec<u8>) -> Result<usize> {
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        match rustix::io::read(&fd, &mut buffer) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(count) => {
                into.extend_from_slice(&buffer[..count]);
                return Ok(count);
            }
        }
    }
}

/// Puts back what [`take`] took, or into a new pseudoterminal what was in another, and sets its `settings`.
///
/// # Errors
/// ETIMEDOUT if the line discipline does not take it within seconds.
pub fn put(
    master: impl AsFd,
    slave: impl AsFd,
    settings: &[u8; TERMIOS2_BYTES],
    waiting: &Waiting,
) -> Result<()> {
    let (master, slave) = (master.as_fd(), slave.as_fd());
    let modes = Modes(*settings);
    let packets = is_packet_mode(master)?;
    if packets {
        // It would be told of what happens here; and this forgets what it is told so far.
        set_packet_mode(master, false)?;
        if waiting.status != 0 {
            // First, or it would be told which keys stop output now.
            set_settings(slave, settings)?;
            set_packet_mode(master, true)?;
            put_status(slave, waiting.status)?;
        }
    }
    if waiting.flow == Flow::StoppedByCall {
        set_stopped(slave, false)?;
    }
    let canonical = modes.edits_lines();
    let literal = canonical && waiting.literal;
    if !waiting.lines.is_empty() || (canonical && (!waiting.typed.is_empty() || literal)) {
        put_lines(master, slave, &modes, waiting)?;
    } else if !waiting.typed.is_empty() {
        let special = Special::choose(&modes, &[]);
        set_settings(slave, &modes.putting(false, &special).0)?;
        write_all(master, &waiting.typed)?;
        let held = waiting.typed.len().min(BUFFER_BYTES - 1) as u64;
        soon(|| {
            is_ready(slave, PollFlags::IN)?;
            Ok(rustix::io::ioctl_fionread(slave)? >= held)
        })?;
    }
    if !waiting.output.is_empty() {
        let mut plain = Modes(super::settings(slave)?);
        plain.set_flags(OUTPUT, 0);
        set_settings(slave, &plain.0)?;
        write_all(slave, &waiting.output)?;
    }
    match waiting.flow {
        Flow::Runs => {}
        Flow::StoppedByCall => set_stopped(slave, true)?,
        Flow::StoppedByKey => {
            let special = Special::choose(&modes, &[]);
            // Canonical mode stays as it is: who changes it makes whole lines of half ones.
            let mut stopping = modes.putting(true, &special);
            stopping.set_flags(LOCAL, modes.flags(LOCAL) & (ICANON | EXTPROC) | IEXTEN);
            set_settings(slave, &stopping.0)?;
            let keys = [special.stop, special.quote];
            write_all(master, &keys[..1 + usize::from(literal)])?;
            soon(|| Ok(!is_ready(slave, PollFlags::OUT)?))?;
        }
    }
    set_settings(slave, settings)?;
    if packets {
        // Where it is on already, this changes nothing.
        set_packet_mode(master, true)?;
    }
    Ok(())
}

/// Makes a status that the master will be told, while nothing waits: by doing what it tells of.
///
/// What is put back behind it may add that output goes on or is stopped, or by which keys it is; both are then true.
fn put_status(slave: impl AsFd, status: u8) -> Result<()> {
    // include/uapi/asm-generic/ioctls.h: FLUSHREAD, FLUSHWRITE, STOP, START, NOSTOP, DOSTOP, IOCTL. Where output is stopped
    // in the end, it will be by what tells of that; and with IOCTL, each change of settings does.
    for (bit, queue) in [(1, QueueSelector::IFlush), (2, QueueSelector::OFlush)] {
        if status & bit != 0 {
            rustix::termios::tcflush(&slave, queue)?;
        }
    }
    if status & 8 != 0 {
        set_stopped(&slave, true)?;
        set_stopped(&slave, false)?;
    }
    if status & (16 | 32) != 0 {
        // Told whenever those keys begin or end to be Ctrl-S and Ctrl-Q (pty_set_termios, drivers/tty/pty.c).
        let now = Modes(super::settings(&slave)?);
        let mut other = now;
        other.set_flags(INPUT, now.flags(INPUT) ^ IXON);
        set_settings(&slave, &other.0)?;
        set_settings(&slave, &now.0)?;
    }
    Ok(())
}

fn put_lines(master: impl AsFd, slave: impl AsFd, modes: &Modes, waiting: &Waiting) -> Result<()> {
    let all: Vec<u8> = waiting.lines.iter().chain([&waiting.typed]).flatten().copied().collect();
    let special = Special::choose(modes, &all);
    let ends = |byte: u8| byte != 0 && modes.line_ends().contains(&byte);
    let mut keys = Vec::with_capacity(all.len() + 64);
    let quoted = |keys: &mut Vec<u8>, bytes: &[u8]| {
        for byte in bytes {
            if ends(*byte) || special.is_one(*byte) {
                keys.push(special.quote);
            }
            keys.push(*byte);
        }
    };
    for line in &waiting.lines {
        match line.split_last() {
            Some((last, body)) if ends(*last) => {
                quoted(&mut keys, body);
                keys.push(*last);
            }
            _ => {
                quoted(&mut keys, line);
                keys.push(special.end);
            }
        }
    }
    quoted(&mut keys, &waiting.typed);
    set_settings(&slave, &modes.putting(true, &special).0)?;
    write_all(&master, &keys)?;
    // What was written is worked on in the background, and nothing tells when it is done: a key that stops output does,
    // for then nothing can be written.
    write_all(&master, &[special.stop])?;
    soon(|| Ok(!is_ready(&slave, PollFlags::OUT)?))?;
    // Where a key stops output in the end, the quote follows that one, which it would make a literal one. The settings that
    // are set next wait until it was worked on, too: what was written at once is worked on at once, under a lock that keeps
    // settings as they are (termios_rwsem, n_tty_receive_buf_common).
    let keys = [special.start, special.quote];
    let literal = waiting.literal && waiting.flow != Flow::StoppedByKey;
    write_all(&master, &keys[..1 + usize::from(literal)])?;
    soon(|| is_ready(&slave, PollFlags::OUT))
}

/// How long a line discipline may take to work on what it was given; a kernel thread does that, at once as a rule.
const PATIENCE: Duration = Duration::from_secs(10);

fn soon(mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > PATIENCE {
            return Err(Errno::TIMEDOUT);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

/// The buffer between the two sides is a list of pieces, which are a multiple of 256 bytes long and of which new ones are
/// allocated until their sum is beyond a limit (drivers/tty/tty_buffer.c). So it holds most in pieces of just that size
/// and a larger one at the end. Measured: 13,824 bytes in writes of 20,000, but 20,480 in writes of 1.
const PIECE_BYTES: usize = 256;
const LAST_BYTES: usize = 6 * PIECE_BYTES;

/// Writes all, and never waits for a reader: it was in there, so there is room for it.
fn write_all(fd: impl AsFd, bytes: &[u8]) -> Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let fd = fd.as_fd();
    let flags = fcntl_getfl(fd)?;
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    }
    let mut rest = bytes;
    let written = soon(|| {
        let piece = if rest.len() <= LAST_BYTES { rest } else { &rest[..PIECE_BYTES] };
        match rustix::io::write(fd, piece) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(rest.is_empty())
    });
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(fd, flags)?;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::{open_master, open_masters, open_slave};
    use super::*;
    use rustix::fd::OwnedFd;
    use rustix::fs::OFlags;

    fn pair() -> (OwnedFd, OwnedFd) {
        let master = open_master().unwrap();
        let slave = open_slave(&master, OFlags::RDWR).unwrap();
        (master, slave)
    }

    /// Takes what waits, puts it into another one, and takes it from there.
    fn carried(master: &OwnedFd, slave: &OwnedFd) -> (Waiting, Waiting) {
        let now = settings(slave).unwrap();
        let taken = take(master, Some(slave)).unwrap();
        assert_eq!(settings(slave).unwrap(), now, "the settings stay");
        let (other_master, other_slave) = pair();
        set_packet_mode(&other_master, is_packet_mode(master).unwrap()).unwrap();
        put(&other_master, &other_slave, &now, &taken).unwrap();
        assert_eq!(settings(&other_slave).unwrap(), now, "the settings are set");
        let again = take(&other_master, Some(&other_slave)).unwrap();
        (taken, again)
    }

    fn typed(master: &OwnedFd, slave: &OwnedFd, keys: &[u8]) {
        write_all(master, keys).unwrap();
        // The echo of the last key tells that all were worked on.
        let end = [keys[keys.len() - 1]];
        let mut echo = Vec::new();
        soon(|| {
            while is_ready(master, PollFlags::IN)? {
                read_into(master, &mut echo)?;
            }
            Ok(echo.ends_with(&end) || echo.ends_with(b"\r\n"))
        })
        .unwrap();
        assert!(is_ready(slave, PollFlags::OUT).unwrap());
    }

    #[test]
    fn nothing_stays_nothing() {
        let (master, slave) = pair();
        let (taken, again) = carried(&master, &slave);
        assert_eq!((&taken, taken.is_empty()), (&again, true));
    }

    #[test]
    fn lines_keep_their_ends_and_the_half_line_follows() {
        let (master, slave) = pair();
        // Lines, one ended by Ctrl-D, an end of file, a quoted newline, quoted controls, a half line.
        typed(&master, &slave, b"one\ntwo\x04\x04li\x16\nne\n\x16\x04\x16\x03\x16\x11x\nha\x16\x16lf");
        let (taken, again) = carried(&master, &slave);
        let lines: [&[u8]; 5] = [b"one\n", b"two", b"", b"li\nne\n", b"\x04\x03\x11x\n"];
        assert_eq!(taken.lines, lines);
        assert_eq!(taken.typed, b"ha\x16lf");
        assert_eq!(again, taken);
    }

    #[test]
    fn a_half_line_can_be_erased_after_it_was_put_back() {
        let (master, slave) = pair();
        typed(&master, &slave, b"abcx");
        let now = settings(&slave).unwrap();
        let taken = take(&master, Some(&slave)).unwrap();
        put(&master, &slave, &now, &taken).unwrap();
        write_all(&master, b"\x7fd\n").unwrap();
        let mut line = Vec::new();
        read_into(&slave, &mut line).unwrap();
        assert_eq!(line, b"abcd\n");
    }

    /// What comes of a Ctrl-C that is typed next: whether it lies in the line.
    fn takes_control_c(master: &OwnedFd, slave: &OwnedFd, line: &[u8]) {
        write_all(master, b"\x03\n").unwrap();
        let mut read = Vec::new();
        soon(|| is_ready(slave, PollFlags::IN)).unwrap();
        read_into(slave, &mut read).unwrap();
        assert_eq!(read, [line, b"\x03\n"].concat());
    }

    #[test]
    fn a_quote_waits_for_its_key() {
        for (keys, flow) in [
            (&b"\x16"[..], Flow::Runs),
            (b"ab\x16", Flow::Runs),
            (b"one\ntwo\nab\x16", Flow::Runs),
            (b"one\ntwo\nab\x16", Flow::StoppedByCall),
            (b"\x16", Flow::StoppedByCall),
            (b"one\nab\x13\x16", Flow::StoppedByKey),
            (b"\x13\x16", Flow::StoppedByKey),
        ] {
            let (master, slave) = pair();
            let now = settings(&slave).unwrap();
            if flow == Flow::StoppedByCall {
                set_stopped(&slave, true).unwrap();
            }
            write_all(&master, keys).unwrap();
            // The lines tell that those were worked on; where there is none, this waits for all.
            is_ready(&slave, PollFlags::IN).unwrap();
            if flow == Flow::StoppedByKey {
                soon(|| Ok(!is_ready(&slave, PollFlags::OUT)?)).unwrap();
            }
            let taken = take(&master, Some(&slave)).unwrap();
            assert!(taken.literal && taken.flow == flow, "{} {taken:?}", keys.escape_ascii());
            let half: &[u8] = if keys.contains(&b'a') { b"ab" } else { b"" };
            assert_eq!(taken.typed, half, "{}", keys.escape_ascii());
            let lines = taken.lines.len();
            put(&master, &slave, &now, &taken).unwrap();
            let (other_master, other_slave) = pair();
            put(&other_master, &other_slave, &now, &taken).unwrap();
            for (master, slave) in [(&master, &slave), (&other_master, &other_slave)] {
                for _ in 0..lines {
                    read_into(slave, &mut Vec::new()).unwrap();
                }
                takes_control_c(master, slave, half);
                assert_eq!(is_ready(slave, PollFlags::OUT).unwrap(), flow == Flow::Runs);
            }
        }
    }

    #[test]
    fn without_a_quote_keys_act() {
        for line in [&b""[..], b"ab"] {
            let (master, slave) = pair();
            let now = settings(&slave).unwrap();
            write_all(&master, line).unwrap();
            let taken = take(&master, Some(&slave)).unwrap();
            assert!(!taken.literal && taken.typed == line);
            put(&master, &slave, &now, &taken).unwrap();
            write_all(&master, b"\x15c\n").unwrap();
            let mut read = Vec::new();
            soon(|| is_ready(&slave, PollFlags::IN)).unwrap();
            read_into(&slave, &mut read).unwrap();
            assert_eq!(read, b"c\n");
        }
    }

    #[test]
    fn the_column_is_told_and_stays() {
        for column in [0u32, 1, 7, 8, 9, 15, 16, 79, 4000] {
            let (master, slave) = pair();
            let mut modes = Modes(settings(&slave).unwrap());
            modes.set_flags(OUTPUT, OPOST | XTABS | ONOCR);
            set_settings(&slave, &modes.0).unwrap();
            written(master.as_fd(), slave.as_fd(), &vec![b'x'; column as usize]).unwrap();
            let taken = take(&master, Some(&slave)).unwrap();
            assert_eq!((taken.column, taken.is_empty()), (column, true));
            let (other_master, other_slave) = pair();
            advance(&other_master, &other_slave, taken.column).unwrap();
            put(&other_master, &other_slave, &modes.0, &taken).unwrap();
            for (master, slave) in [(&master, &slave), (&other_master, &other_slave)] {
                let back = vec![b'\x08'; column as usize];
                let tab = written(master.as_fd(), slave.as_fd(), b"\t").unwrap();
                assert_eq!(tab.len() as u32, 8 - column % 8, "a tab from column {column}");
                written(master.as_fd(), slave.as_fd(), &vec![b'\x08'; tab.len()]).unwrap();
                written(master.as_fd(), slave.as_fd(), &back).unwrap();
                let none = written(master.as_fd(), slave.as_fd(), b"\r").unwrap();
                assert_eq!(none, b"", "column {column} is that many from the first");
            }
        }
    }

    #[test]
    fn every_byte_passes_in_raw_mode() {
        let (master, slave) = pair();
        let mut modes = Modes(settings(&slave).unwrap());
        modes.set_flags(INPUT, 0);
        modes.set_flags(LOCAL, 0);
        set_settings(&slave, &modes.0).unwrap();
        let bytes: Vec<u8> = (0..3000u32).map(|n| (n % 256) as u8).collect();
        write_all(&master, &bytes).unwrap();
        soon(|| {
            is_ready(&slave, PollFlags::IN)?;
            Ok(rustix::io::ioctl_fionread(&slave)? == 3000)
        })
        .unwrap();
        let (taken, again) = carried(&master, &slave);
        assert!(taken.typed == bytes && taken.lines.is_empty());
        assert!(again == taken);
    }

    #[test]
    fn output_passes_unchanged_until_it_is_full_and_may_be_stopped() {
        let (master, slave) = pair();
        let flags = rustix::fs::fcntl_getfl(&slave).unwrap();
        rustix::fs::fcntl_setfl(&slave, flags | OFlags::NONBLOCK).unwrap();
        let line = b"some line of output\n";
        // Until it stays full: the buffer is emptied in the background.
        let mut idle = 0;
        while idle < 100 {
            match rustix::io::write(&slave, line) {
                Ok(count) if count > 0 => idle = 0,
                _ => idle += 1,
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        set_stopped(&slave, true).unwrap();
        let (taken, again) = carried(&master, &slave);
        assert!(
            taken.flow == Flow::StoppedByCall && taken.output.len() > 8000,
            "{} bytes",
            taken.output.len()
        );
        assert!(taken.output.starts_with(b"some line of output\r\nsome"));
        assert!(again == taken);
    }

    #[test]
    fn packets_have_no_bytes_of_their_own() {
        let (master, slave) = pair();
        set_packet_mode(&master, true).unwrap();
        write_all(&slave, b"hello").unwrap();
        let (taken, again) = carried(&master, &slave);
        assert_eq!(taken.output, b"hello");
        assert_eq!(again, taken);
        let now = settings(&slave).unwrap();
        put(&master, &slave, &now, &taken).unwrap();
        let mut packet = Vec::new();
        read_into(&master, &mut packet).unwrap();
        assert_eq!(packet, b"\0hello");
    }

    #[test]
    fn what_a_master_is_told_next_is_told_once() {
        for told in [1u8, 2, 3, 8, 32, 1 | 32, 4] {
            let (master, slave) = pair();
            set_packet_mode(&master, true).unwrap();
            put_status(&slave, told).unwrap();
            if told == 4 {
                set_stopped(&slave, true).unwrap();
            }
            let (taken, again) = carried(&master, &slave);
            assert_eq!((taken.status, &again), (told, &taken));
            let now = settings(&slave).unwrap();
            put(&master, &slave, &now, &taken).unwrap();
            let mut packet = Vec::new();
            read_into(&master, &mut packet).unwrap();
            assert_eq!(packet, [told]);
            assert!(!is_ready(&master, PollFlags::IN).unwrap());
        }
    }

    #[test]
    fn masters_get_their_numbers() {
        let first = open_masters(&[0, 3]).unwrap();
        let numbers: Vec<u32> = first.iter().map(|master| super::super::number(master).unwrap()).collect();
        drop(first);
        // Whatever other programs have, free numbers are found again unless one of those took them.
        let again = open_masters(&[numbers[1], numbers[0]]).unwrap();
        assert_eq!(again.len(), 2);
    }
}
