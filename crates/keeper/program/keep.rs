//! What the keeper does: a loop over what may happen.

use crate::child;
use crate::filters::Notes;
use crate::group::{self, GROUPS, Group};
use crate::protocol::{self as say, DATA_BYTES, HEAD_BYTES, Message};
use crate::raw::{self, Area, PollFd};

/// How many commands may talk to it at once; others wait to be accepted.
const CLIENTS: usize = 120;
/// How many packets of one client are taken at once, before others have their turn.
const PACKETS: usize = 64;
/// How long the log may be before it is put aside as `log.1`, so that both take twice as much at most.
const LOG_BYTES: u64 = 1 << 20;
/// How long a command that shows the terminal may keep all others waiting, before it is left out.
const PATIENCE_MS: i64 = 2000;

const SIGKILL: i32 = 9;
/// Descriptors that are polled before those of clients.
const FIXED: usize = NEWS + GROUPS;
/// The first of them that tells of a control group.
const NEWS: usize = 5;
/// How often, and after how long, to look whether what lacked memory was ended, which comes behind the news of it.
const LOOKS: u32 = 200;
const LOOK_MS: i64 = 5;

/// What it is given: numbers of descriptors, -1 for what there is not, and how things stand.
struct Setup {
    /// The pid of the program's root.
    root: i32,
    /// The socket at which commands come.
    socket: i32,
    /// The instance's directory, for the log and the note of its end.
    directory: i32,
    /// The log.
    log: i32,
    /// The master side of the program's terminal.
    master: i32,
    /// A connection that is there already, and watches.
    watcher: i32,
    /// One more.
    second: i32,
    /// The listener of the program's filter.
    listener: i32,
    /// The process that leads the session of the terminal, if there is one.
    leader: i32,
}

impl Setup {
    /// Reads nine numbers behind the first `=`.
    fn read(text: &[u8]) -> Self {
        let start = text.iter().position(|byte| *byte == b'=').map_or(0, |at| at + 1);
        let mut words = text[start..].split(|byte| *byte == b' ').map(number);
        let mut next = || words.next().unwrap_or(-1);
        let (root, socket, directory) = (next(), next(), next());
        let (log, master, watcher, second) = (next(), next(), next(), next());
        let (listener, leader) = (next(), next());
        Self { root, socket, directory, log, master, watcher, second, listener, leader }
    }
}

fn number(word: &[u8]) -> i32 {
    let (negative, digits) = match word.split_first() {
        Some((b'-', digits)) => (true, digits),
        _ => (false, word),
    };
    let value = digits
        .iter()
        .filter(|digit| digit.is_ascii_digit())
        .fold(0i32, |value, digit| value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0')));
    if negative { -value } else { value }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Asking,
    Watching,
    Attached,
}

#[derive(Clone, Copy)]
struct Client {
    fd: i32,
    role: Role,
    /// It has not yet got the terminal's latest bytes.
    owed: bool,
}

/// A program that is built and waits at its gate. Whether that was opened only the gate itself tells: whoever would
/// open it may die at any moment, before or after.
struct Coming {
    /// The pid of its root.
    root: i32,
    /// The process that leads the session of its terminal, if there is one.
    leader: i32,
    /// The gate's reading end. One token in there is for us, so that it is not empty once it was opened.
    gate: i32,
    /// How the root ended meanwhile.
    ended: Option<i32>,
}

struct Keeper {
    setup: Setup,
    clients: [Client; CLIENTS],
    /// The image that was announced to be complete: version, and whether we stay.
    complete: Option<(i32, bool)>,
    /// The file that tells by its first byte whether it is being ended for that, and which byte says so.
    ending: (i32, u8),
    /// The client that freezes or thaws.
    worker: Option<usize>,
    frozen: bool,
    /// The root was dying already when it became that.
    doomed: bool,
    coming: Option<Coming>,
    /// It has not had a program yet.
    fresh: bool,
    /// Who was to give it one is gone.
    deserted: bool,
    log_bytes: u64,
    slave: i32,
    notes: Notes,
    groups: [Group; GROUPS],
    /// Memory lacked; so often it is still to be looked whether something was ended for it.
    looks: u32,
    /// Its memory ran out, for which it is ended.
    starved: bool,
    /// What is held for the next freeze.
    held: i32,
    /// What is kept while the program is frozen.
    kept: i32,
    /// What was typed and the terminal had no room for: nothing more is taken from those who type.
    typed: &'static mut [u8; DATA_BYTES],
    /// Where in that the rest begins, and ends.
    rest: (usize, usize),
    /// There were no more descriptors for another client.
    choked: bool,
}

const NOBODY: Client = Client { fd: -1, role: Role::Asking, owed: false };

/// The bytes that the terminal showed last, for those that are owed them.
static SHOWN: Area<[u8; DATA_BYTES]> = Area::new([0; DATA_BYTES]);
static PACKET: Area<[u8; HEAD_BYTES + DATA_BYTES]> = Area::new([0; HEAD_BYTES + DATA_BYTES]);
static TYPED: Area<[u8; DATA_BYTES]> = Area::new([0; DATA_BYTES]);

pub(crate) fn keep(environment: &[u8]) -> ! {
    raw::settle(b"frost-keeper\0\0\0\0");
    let Ok(signals) = raw::take_signals() else { raw::exit(102) };
    let setup = Setup::read(environment);
    let (shown, packet) = (SHOWN.lend(), PACKET.lend());
    let mut shown_bytes = 0;
    let slave = if setup.master >= 0 { raw::open_slave(setup.master).unwrap_or(-1) } else { -1 };
    if setup.master >= 0 {
        // Whoever types faster than the program reads would have us wait, and with us everybody.
        raw::never_wait(setup.master);
    }
    let mut keeper = Keeper {
        clients: [NOBODY; CLIENTS],
        complete: None,
        ending: (-1, 0),
        worker: None,
        frozen: setup.root <= 0,
        doomed: false,
        coming: None,
        fresh: setup.root <= 0,
        deserted: false,
        log_bytes: 0,
        slave,
        notes: Notes::begin(setup.listener, setup.directory),
        groups: [group::NONE; GROUPS],
        looks: 0,
        starved: false,
        held: -1,
        kept: -1,
        typed: TYPED.lend(),
        rest: (0, 0),
        choked: false,
        setup,
    };
    keeper.clients[0] = Client { fd: keeper.setup.watcher, role: Role::Watching, owed: false };
    keeper.clients[1] = Client { fd: keeper.setup.second, role: Role::Watching, owed: false };
    // What we were told before we began.
    for index in 0..2 {
        while keeper.clients[index].fd >= 0
            && let Ok((count @ 1.., fd)) = raw::receive(keeper.clients[index].fd, packet)
        {
            keeper.asked(index, &packet[..count], fd);
        }
    }
    loop {
        // A child may have ended before signals were taken.
        keeper.collect(shown);
        let owed = keeper.clients.iter().any(|client| client.owed);
        let mut fds = [PollFd { fd: -1, events: raw::POLLIN, revents: 0 }; FIXED + CLIENTS];
        fds[0].fd = signals;
        let is_full = keeper.choked || keeper.clients.iter().all(|client| client.fd >= 0);
        fds[1].fd = if is_full { -1 } else { keeper.setup.socket };
        let has_rest = keeper.has_rest();
        // No more is read of the terminal before all have got what was read.
        fds[2].events = if owed { 0 } else { raw::POLLIN } | if has_rest { raw::POLLOUT } else { 0 };
        fds[2].fd = if fds[2].events == 0 { -1 } else { keeper.setup.master };
        fds[4].fd = keeper.notes.fd();
        fds[3].fd = keeper.coming.as_ref().map_or(-1, |coming| coming.gate);
        for (fd, group) in fds[NEWS..].iter_mut().zip(&keeper.groups) {
            (fd.fd, fd.events) = (group.news, group.what);
        }
        for (fd, client) in fds[FIXED..].iter_mut().zip(&keeper.clients) {
            let waits = has_rest && client.role == Role::Attached;
            fd.events = if waits { 0 } else { raw::POLLIN } | if client.owed { raw::POLLOUT } else { 0 };
            // Of one that waits and is gone we hear only where its place is needed: what it typed last may still be read.
            fd.fd = if fd.events == 0 && !is_full { -1 } else { client.fd };
        }
        let timeout = if owed { PATIENCE_MS } else { -1 };
        let timeout = if keeper.looks > 0 { LOOK_MS } else { timeout };
        raw::poll(&mut fds, timeout);
        let idle = keeper.looks == 0 && fds.iter().all(|fd| fd.revents == 0);
        if fds[NEWS..FIXED].iter().any(|fd| fd.revents != 0) {
            keeper.looks = LOOKS;
        }
        keeper.look_for_want();
        if idle && owed {
            for index in 0..CLIENTS {
                if keeper.clients[index].owed {
                    keeper.leave(index);
                }
            }
        }
        if fds[0].revents != 0 {
            let _ = raw::read(signals, &mut [0; 128]);
            keeper.collect(shown);
        }
        if fds[4].revents != 0 {
            keeper.notes.hear(fds[4].revents);
        }
        if fds[2].revents & raw::POLLOUT != 0 {
            keeper.type_rest();
        }
        if fds[2].revents & !raw::POLLOUT != 0
            && let Ok(count @ 1..) = raw::read(keeper.setup.master, shown)
        {
            shown_bytes = count;
            keeper.show(&shown[..count]);
        }
        // Who asks now may come behind the end of what the one before had to do.
        keeper.look_at_gate(shown);
        if let Some(worker) = keeper.worker {
            keeper.hear_out(worker, packet);
        }
        for index in 0..CLIENTS {
            if fds[FIXED + index].revents & raw::POLLOUT != 0 && keeper.clients[index].owed {
                keeper.send_shown(index, &shown[..shown_bytes]);
            }
            let waits = keeper.has_rest() && keeper.clients[index].role == Role::Attached;
            let news = fds[FIXED + index].revents;
            if waits && is_full && news & raw::POLLHUP != 0 {
                keeper.leave(index);
            } else if news & !raw::POLLOUT != 0 && !waits {
                match raw::receive(keeper.clients[index].fd, packet) {
                    Ok((0, _)) => keeper.leave(index),
                    Ok((count, fd)) => keeper.asked(index, &packet[..count], fd),
                    Err(raw::EAGAIN) => {}
                    Err(_) => keeper.leave(index),
                }
            }
        }
        if fds[1].revents != 0 {
            match (raw::accept(keeper.setup.socket), keeper.clients.iter_mut().find(|client| client.fd < 0)) {
                (Ok(fd), Some(place)) => *place = Client { fd, ..NOBODY },
                (Ok(fd), None) => raw::close(fd),
                (Err(raw::EMFILE), _) => keeper.choked = true,
                (Err(_), _) => {}
            }
        }
        keeper.look_at_gate(shown);
        if keeper.fresh && keeper.deserted && keeper.coming.is_none() {
            // The thaw that it was made for has failed, and nothing is kept.
            raw::exit(0);
        }
    }
}

/// Puts a descriptor in the place of another, which is closed.
fn replace(place: &mut i32, descriptor: i32) {
    if *place >= 0 {
        raw::close(*place);
    }
    *place = descriptor;
}

impl Keeper {
    /// Collects whatever has ended.
    fn collect(&mut self, buffer: &mut [u8]) {
        let mut root_ended = None;
        while let Some((pid, status)) = raw::wait() {
            let stopped = status & 0xff == 0x7f;
            if self.is_coming(pid) {
                // It may have been let go just before.
                self.look_at_gate(buffer);
            }
            if let Some(coming) = &mut self.coming
                && coming.leader == pid
                && !stopped
            {
                coming.leader = -1;
            }
            if pid == self.setup.leader && !stopped {
                // Something in there has killed it, and with it the terminal is hung up.
                self.setup.leader = -1;
                self.renew_slave();
            } else if self.is_coming(pid) {
                if let (Some(coming), false) = (&mut self.coming, stopped) {
                    coming.ended = Some(status);
                }
            } else if pid == self.setup.root && !self.frozen {
                if stopped {
                    self.tell(Message::new(say::STOPPED, status >> 8 & 0xff, 0, 0));
                } else {
                    root_ended = Some(status);
                }
            }
        }
        // When all that had ended is collected: what is left goes on.
        if let Some(status) = root_ended {
            self.ended(status, buffer);
        }
    }

    /// Looks whether something of the program was ended for want of memory: then all of it is.
    fn look_for_want(&mut self) {
        if self.looks == 0 {
            return;
        }
        self.looks -= 1;
        if self.groups.iter().any(Group::starved) && !self.frozen {
            (self.starved, self.looks) = (true, 0);
            raw::kill(self.setup.root, SIGKILL);
        }
    }

    /// Gives up the groups of a program that has ended.
    fn release(&mut self) {
        for group in &mut self.groups {
            if group.is_one() {
                group.release();
            }
        }
        self.looks = 0;
    }

    fn is_coming(&self, pid: i32) -> bool {
        self.coming.as_ref().is_some_and(|coming| coming.root == pid)
    }

    /// Finds out whether a program that waits at its gate was let go, or never will be.
    fn look_at_gate(&mut self, buffer: &mut [u8]) {
        let Some(coming) = &self.coming else { return };
        let mut gate = [PollFd { fd: coming.gate, events: raw::POLLIN, revents: 0 }];
        raw::poll(&mut gate, 0);
        if gate[0].revents == 0 {
            return;
        }
        let Some(Coming { root, leader, gate: fd, ended }) = self.coming.take() else { return };
        raw::close(fd);
        if gate[0].revents & raw::POLLIN == 0 {
            // Closed without a token: nothing was thawed.
            if self.worker.is_none() {
                self.clear();
            }
            return;
        }
        (self.setup.root, self.setup.leader) = (root, leader);
        (self.frozen, self.fresh, self.doomed) = (false, false, false);
        // Nothing is left to do for who has thawed it; a process of theirs may have the connection for a moment longer.
        self.worker = None;
        // They are the program's again, which may close them.
        replace(&mut self.kept, -1);
        // That it is frozen is no longer true of it, also should we be killed; and the next note has its room.
        raw::rename(self.setup.directory, c"end", c"end.new");
        self.tell(Message::new(say::LIVES, root, 0, 0));
        if let Some(status) = ended {
            self.ended(status, buffer);
        }
    }

    /// The program's root has ended.
    fn ended(&mut self, status: i32, buffer: &mut [u8]) {
        match self.complete.take() {
            // It was ended as a freeze does it.
            Some((version, stay)) if status & 0x7f == SIGKILL => {
                self.drain(buffer);
                self.note(b"frozen ", version);
                self.tell(Message::new(say::ICE, version, 0, 0));
                // Whatever its survey did not see must not go on without it.
                self.end_all();
                if !stay {
                    raw::exit(0);
                }
                self.frozen = true;
                replace(&mut self.ending.0, -1);
                replace(&mut self.held, -1);
                if self.setup.leader > 0 {
                    raw::wait_for(self.setup.leader);
                    self.setup.leader = -1;
                }
                self.renew_slave();
            }
            _ => {
                self.starved |= status & 0x7f == SIGKILL && self.groups.iter().any(Group::starved);
                // One that was dying already when it became the root is none that the program has ended with.
                let status = if self.doomed && !self.starved { 0 } else { status };
                // It has done its work and left another one behind, as a daemon does.
                if status == 0
                    && let Some((heir, doomed)) = child::heir(self.setup.leader)
                {
                    (self.setup.root, self.doomed) = (heir, doomed);
                    self.tell(Message::new(say::ENDED, status, heir, 0));
                    return;
                }
                self.drain(buffer);
                self.end_all();
                self.note(if self.starved { b"starved " } else { b"ended " }, status);
                self.tell(Message::new(say::ENDED, status, 0, i32::from(self.starved)));
                raw::exit(0);
            }
        }
    }

    /// Ends whatever is left of the program beside its root, and with it its groups.
    fn end_all(&mut self) {
        raw::kill(-1, SIGKILL);
        if self.groups.iter().any(Group::is_one) {
            while raw::wait_for_any() {}
            self.release();
        }
    }

    /// Ends whatever a thaw has left that did not come to its end, and waits until it is gone: it may hold what the next one
    /// makes anew, as names of sockets.
    fn clear(&mut self) {
        raw::kill(-1, SIGKILL);
        while raw::wait_for_any() {}
        self.release();
    }

    /// Opens the terminal again if it was hung up, as by the end of a session's leader, our own descriptor of it too.
    fn renew_slave(&mut self) {
        let mut slave = [PollFd { fd: self.slave, events: 0, revents: 0 }];
        raw::poll(&mut slave, 0);
        if slave[0].revents & raw::POLLERR != 0 {
            raw::close(self.slave);
            self.slave = raw::open_slave(self.setup.master).unwrap_or(-1);
        }
    }

    /// Reads what is left of the terminal's output.
    fn drain(&mut self, buffer: &mut [u8]) {
        if self.setup.master < 0 {
            return;
        }
        loop {
            let mut ready = [PollFd { fd: self.setup.master, events: raw::POLLIN, revents: 0 }];
            raw::poll(&mut ready, 0);
            if ready[0].revents & raw::POLLIN == 0 {
                return;
            }
            let Ok(count @ 1..) = raw::read(self.setup.master, buffer) else { return };
            self.show(&buffer[..count]);
        }
    }

    /// Writes the note that tells what became of the program, into the room that was taken for it: there may be no
    /// other any more.
    fn note(&self, word: &[u8], number: i32) {
        if self.setup.directory < 0 {
            return;
        }
        let Ok(fd) = raw::open_over(self.setup.directory, c"end.new") else { return };
        let mut text = [b' '; 32];
        text[..word.len()].copy_from_slice(word);
        let mut at = 31;
        text[at] = b'\n';
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let written = raw::write(fd, &text);
        raw::close(fd);
        if written == Ok(text.len()) {
            raw::rename(self.setup.directory, c"end.new", c"end");
        }
    }

    /// Puts what the terminal shows into the log, and before those who look at it.
    fn show(&mut self, bytes: &[u8]) {
        if self.setup.log >= 0 {
            if self.log_bytes >= LOG_BYTES {
                raw::rename(self.setup.directory, c"log", c"log.1");
                if let Ok(fd) = raw::create(self.setup.directory, c"log") {
                    raw::close(self.setup.log);
                    self.setup.log = fd;
                }
                self.log_bytes = 0;
            }
            // A full disk costs the log, not the program.
            self.log_bytes += raw::write(self.setup.log, bytes).unwrap_or(0) as u64;
        }
        for index in 0..CLIENTS {
            if self.clients[index].role == Role::Attached {
                self.clients[index].owed = true;
                self.send_shown(index, bytes);
            }
        }
    }

    fn send_shown(&mut self, index: usize, bytes: &[u8]) {
        let head = Message::new(say::OUTPUT, 0, 0, 0).to_bytes();
        match raw::send(self.clients[index].fd, &head, bytes, -1) {
            Ok(_) => self.clients[index].owed = false,
            Err(raw::EAGAIN) => {}
            Err(_) => self.leave(index),
        }
    }

    /// Tells all who watch. One who does not read what it asked for is left out.
    fn tell(&mut self, message: Message) {
        for index in 0..CLIENTS {
            if self.clients[index].fd >= 0
                && self.clients[index].role != Role::Asking
                && raw::send(self.clients[index].fd, &message.to_bytes(), &[], -1).is_err()
            {
                self.leave(index);
            }
        }
    }

    fn has_rest(&self) -> bool {
        self.rest.0 < self.rest.1
    }

    /// Gives the terminal what it has room for. What the program does not read at all is as lost as on a real one when that ends.
    fn type_rest(&mut self) {
        let (from, to) = self.rest;
        match raw::write(self.setup.master, &self.typed[from..to]) {
            Ok(count) => self.rest.0 += count,
            Err(raw::EAGAIN) => {}
            Err(_) => self.rest = (0, 0),
        }
    }

    fn leave(&mut self, index: usize) {
        if self.clients[index].fd < 0 {
            return;
        }
        raw::close(self.clients[index].fd);
        self.choked = false;
        self.clients[index] = NOBODY;
        if self.worker == Some(index) {
            self.desert();
        }
    }

    /// Whoever freezes or thaws does so no more.
    fn desert(&mut self) {
        self.worker = None;
        self.deserted = true;
        if self.frozen {
            if self.coming.is_none() {
                self.clear();
            }
        } else if self.complete.is_some() && self.is_ending() {
            // Its image is complete, and some of it may have been ended by now.
            raw::kill(-1, SIGKILL);
        } else {
            // The freeze has failed: whoever ends the program now ends it, and what it closes is to be closed.
            self.complete = None;
            replace(&mut self.kept, -1);
            replace(&mut self.ending.0, -1);
        }
    }

    /// Whether who froze the program had begun to end it.
    fn is_ending(&self) -> bool {
        let mut first = [0; 1];
        let (file, word) = self.ending;
        file >= 0 && raw::read_again(file, &mut first) == Ok(1) && first[0] == word
    }

    /// Does all that a client has asked for until now, and lets it go if it has left.
    fn hear_out(&mut self, index: usize, packet: &mut [u8]) {
        for _ in 0..PACKETS {
            if self.clients[index].fd < 0 {
                return;
            }
            match raw::receive(self.clients[index].fd, packet) {
                Ok((count @ 1.., fd)) => self.asked(index, &packet[..count], fd),
                Err(raw::EAGAIN) => return,
                Ok((0, _)) | Err(_) => return self.leave(index),
            }
        }
    }

    fn answer(&mut self, index: usize, kind: u32, descriptor: i32) {
        let state = if self.frozen { say::COLD } else { say::RUNNING };
        let mut flags = say::VERSION;
        if self.setup.master >= 0 {
            flags |= say::HAS_TERMINAL;
        }
        if self.setup.leader > 0 {
            flags |= say::HAS_LEADER;
        }
        let message = Message::new(kind, state, self.setup.root, flags).to_bytes();
        if raw::send(self.clients[index].fd, &message, &[], descriptor).is_err() {
            self.leave(index);
        }
    }

    /// Does what a client asks for; `descriptor` came with it, or is -1.
    fn asked(&mut self, index: usize, packet: &[u8], descriptor: i32) {
        let Some(message) = Message::from_bytes(packet) else { return self.leave(index) };
        let master = self.setup.master;
        let idle = self.worker.is_none() && self.coming.is_none();
        if descriptor >= 0 && !matches!(message.kind, say::LIVE | say::LISTEN | say::GROUP | say::HOLD | say::KEEP | say::ENDING) {
            raw::close(descriptor);
        }
        match message.kind {
            say::STATUS => self.answer(index, say::STATE, -1),
            say::WATCH => {
                self.clients[index].role = Role::Watching;
                self.answer(index, say::STATE, -1);
            }
            say::ATTACH if master >= 0 => {
                if message.a > 0 && message.b > 0 {
                    raw::resize(master, message.a as u16, message.b as u16);
                }
                self.clients[index].role = Role::Attached;
                self.answer(index, say::STATE, -1);
            }
            // Who types without being attached is not kept waiting.
            say::INPUT if master >= 0 && !self.has_rest() => {
                let bytes = &packet[HEAD_BYTES..];
                self.typed[..bytes.len()].copy_from_slice(bytes);
                self.rest = (0, bytes.len());
                self.type_rest();
            }
            say::INPUT if master >= 0 => {}
            say::RESIZE if master >= 0 => raw::resize(master, message.a as u16, message.b as u16),
            say::FREEZE if !self.frozen && self.worker.is_none() => {
                self.worker = Some(index);
                self.complete = None;
                // Who freezes wants to know when that is done.
                self.clients[index].role = Role::Watching;
                self.answer(index, say::STATE, -1);
            }
            say::FROZEN if self.worker == Some(index) && !self.frozen => {
                self.complete = Some((message.a, message.b != 0));
                self.answer(index, say::STATE, -1);
            }
            say::ENDING if self.worker == Some(index) && !self.frozen && descriptor >= 0 => {
                replace(&mut self.ending.0, descriptor);
                self.ending.1 = message.a as u8;
                self.answer(index, say::STATE, -1);
            }
            say::LEAVE if self.worker == Some(index) => {
                self.desert();
                self.answer(index, say::STATE, -1);
            }
            say::HOLD if self.worker == Some(index) && !self.frozen && descriptor >= 0 => {
                replace(&mut self.held, descriptor);
                self.answer(index, say::STATE, -1);
            }
            say::KEEP if self.worker == Some(index) && self.coming.is_none() => {
                replace(&mut self.kept, descriptor);
                self.answer(index, say::STATE, -1);
            }
            say::KEPT => self.answer(index, say::STATE, if self.frozen { self.kept } else { -1 }),
            say::HOLD | say::KEEP | say::ENDING if descriptor >= 0 => {
                raw::close(descriptor);
                self.answer(index, say::BUSY, -1);
            }
            say::TAKE if self.worker == Some(index) => {
                self.answer(index, say::STATE, self.held);
                replace(&mut self.held, -1);
            }
            say::THAW if self.frozen && idle => {
                self.worker = Some(index);
                // One who led a session on it before may have ended since, in a thaw that failed.
                self.renew_slave();
                self.answer(index, say::STATE, self.slave);
            }
            say::LIVE
                if self.frozen
                    && self.worker == Some(index)
                    && self.coming.is_none()
                    && descriptor >= 0 =>
            {
                let leader = if message.b > 0 { message.b } else { -1 };
                self.coming = Some(Coming { root: message.a, leader, gate: descriptor, ended: None });
                self.answer(index, say::STATE, -1);
            }
            say::LISTEN if self.frozen && self.worker == Some(index) && self.coming.is_none() => {
                self.notes.listen(descriptor, self.setup.directory);
                self.answer(index, say::STATE, -1);
            }
            say::LIVE | say::LISTEN if descriptor >= 0 => {
                raw::close(descriptor);
                self.answer(index, say::BUSY, -1);
            }
            say::GROUP if descriptor >= 0 => {
                let place = self.groups.iter_mut().find(|group| !group.is_one());
                match (place, Group::watch(descriptor, &packet[HEAD_BYTES..])) {
                    (Some(place), Some(group)) => *place = group,
                    _ => raw::close(descriptor),
                }
                // It may have lacked before we came.
                self.looks = self.looks.max(1);
            }
            say::GROUP => {}
            say::END if self.frozen && idle => raw::exit(0),
            _ => self.answer(index, say::BUSY, -1),
        }
    }
}
