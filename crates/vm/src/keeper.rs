//! The keeper of a virtual machine: the process that QEMU belongs to, and the only one of frost that lives as long.
//!
//! It is talked to as the keeper of any program is (see `frost_keeper`), so names, `ps`, `logs`, `attach` and `wait` are
//! the same; what only virtual machines know are the words below. It does the freeze, too: the death of the command that
//! asked for it changes nothing. If the keeper dies, the kernel ends QEMU.

use crate::agent::{self, Agent, Frame};
use crate::error::{Error, Result};
use crate::freeze::{self, Answer, Order};
use crate::place::Place;
use crate::qemu::Qemu;
use crate::vmm::Vmm;
use crate::wire;
use frost_keeper::Held;
use frost_keeper::protocol::{self as say, DATA_BYTES, HEAD_BYTES, Message};
use frost_model::machine::Machine;
use frost_store::{ImageId, Store};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// To the keeper: freeze it; the data is an [`Order`].
pub const FREEZE: u32 = 64;
/// From the keeper: the freeze is done; the data is an [`Answer`].
pub const DONE: u32 = 65;
/// To the keeper: a signal for the program; `a` is its number. KILL ends the machine.
pub const SIGNAL: u32 = 66;

/// How long the log may be before it is put aside.
const LOG_BYTES: u64 = 1 << 20;
/// So much output waits for somebody who looks, before the guest waits with it.
const QUEUE_BYTES: usize = 1 << 20;
/// So many frames of input wait for the guest, before whoever types waits.
const QUEUE_FRAMES: usize = 16;
/// How long a guest may take to end its file systems and itself, once its program has ended.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A machine, and what its keeper holds of it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) qemu: Qemu,
    /// The port to frost's init, if that is in there.
    pub(crate) agent: Option<Agent>,
    /// What it is; a freeze fills in the rest.
    pub(crate) machine: Machine,
    /// The newest image whose pack begins with the file that the memory is a private mapping of.
    pub(crate) image: Option<ImageId>,
    /// The file in which disks begin that the image is to hold; of a thawed machine the pack that its memory is of, too.
    pub(crate) source: Option<OwnedFd>,
    pub(crate) place: Place,
    pub(crate) store: Store,
}

/// Somebody who is connected.
#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    watches: bool,
    attached: bool,
    unsent: VecDeque<Vec<u8>>,
    unsent_bytes: usize,
    gone: bool,
}

/// What is to be told of the end.
enum End {
    Ended(i32),
    Frozen(u32),
}

struct Keeper {
    kept: Kept,
    held: Held,
    clients: Vec<Client>,
    log_bytes: u64,
}

/// Keeps a machine that runs, to its end.
pub(crate) fn keep(kept: Kept, mut held: Held) -> ! {
    let mut clients = Vec::new();
    if let Some(watcher) = held.watcher.take() {
        clients.push(Client::new(watcher, true));
    }
    let mut keeper = Keeper { kept, held, clients, log_bytes: 0 };
    let end = keeper.run();
    keeper.finish(end);
    std::process::exit(0);
}

impl Client {
    fn new(fd: OwnedFd, attached: bool) -> Self {
        Self { fd, watches: attached, attached, unsent: VecDeque::new(), unsent_bytes: 0, gone: false }
    }

    fn send(&mut self, message: Message, data: &[u8]) {
        let mut packet = message.to_bytes().to_vec();
        packet.extend_from_slice(data);
        self.unsent_bytes += packet.len();
        self.unsent.push_back(packet);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(packet) = self.unsent.front() {
            match rustix::net::send(&self.fd, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => {
                    self.unsent_bytes -= packet.len();
                    self.unsent.pop_front();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

impl Keeper {
    fn run(&mut self) -> End {
        let mut ended = None;
        loop {
            // What came with the last moments of QEMU is read before its end is acted upon.
            match self.frames() {
                Ok(frames) => {
                    for frame in frames {
                        if let Some(status) = self.frame(&frame) {
                            ended = Some((status, Instant::now() + ENDS_WITHIN));
                        }
                    }
                }
                Err(_) => {
                    // It was killed, or the guest ended without its program having ended, as by a panic.
                    let status = ended.map_or(libc::SIGKILL, |(status, _)| status);
                    return End::Ended(status);
                }
            }
            if let Some((status, deadline)) = ended
                && Instant::now() > deadline
            {
                return End::Ended(status);
            }
            if self.kept.qemu.events().is_err() {
                let status = ended.map_or(libc::SIGKILL, |(status, _)| status);
                // The last output may be on its way still.
                for frame in self.frames().unwrap_or_default() {
                    if let Some(status) = self.frame(&frame) {
                        return End::Ended(status);
                    }
                }
                return End::Ended(status);
            }
            if let Some(end) = self.wait_and_serve(ended.is_some()) {
                return end;
            }
        }
    }

    /// Waits until something comes, and serves whoever is connected.
    fn wait_and_serve(&mut self, ending: bool) -> Option<End> {
        let full = self.clients.iter().any(|client| client.attached && client.unsent_bytes > QUEUE_BYTES);
        let takes_input = self.kept.agent.as_ref().is_none_or(|agent| agent.waiting() < QUEUE_FRAMES);
        let mut fds = Vec::new();
        fds.push(PollFd::from_borrowed_fd(self.kept.qemu.monitor_fd(), PollFlags::IN));
        if let Some((_, listener)) = &self.held.place {
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        if let Some(agent) = &self.kept.agent {
            let mut flags = if full { PollFlags::empty() } else { PollFlags::IN };
            if agent.is_full() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::new(agent, flags));
        }
        let first = fds.len();
        for client in &self.clients {
            let mut flags = if takes_input { PollFlags::IN } else { PollFlags::empty() };
            if !client.unsent.is_empty() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::new(&client.fd, flags));
        }
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let timeout = if ending { Some(&second) } else { None };
        if rustix::event::poll(&mut fds, timeout).is_err() {
            return None;
        }
        let came: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if self.held.place.is_some() && came[1].contains(PollFlags::IN) {
            self.accept();
        }
        let mut end = None;
        for (index, came) in came[first..].iter().enumerate() {
            if came.contains(PollFlags::OUT) {
                self.clients[index].flush();
            }
            if came.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                end = end.or(self.hear(index));
            }
        }
        self.clients.retain(|client| !client.gone);
        end
    }

    fn accept(&mut self) {
        let Some((_, listener)) = &self.held.place else { return };
        if let Ok(fd) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            self.clients.push(Client::new(fd, false));
        }
    }

    fn state(&self) -> Message {
        let terminal = if self.kept.agent.is_some() { say::HAS_TERMINAL } else { 0 };
        Message::new(say::STATE, say::RUNNING, self.kept.qemu.pid(), say::VERSION | terminal)
    }

    /// Reads one message of a client, and does what it says.
    fn hear(&mut self, index: usize) -> Option<End> {
        let mut bytes = [0; HEAD_BYTES + DATA_BYTES];
        let count = match rustix::net::recv(&self.clients[index].fd, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(_) => 0,
        };
        let Some(message) = Message::from_bytes(&bytes[..count]) else {
            self.clients[index].gone = true;
            return None;
        };
        let data = &bytes[HEAD_BYTES..count];
        let state = self.state();
        let client = &mut self.clients[index];
        match message.kind {
            say::STATUS => client.send(state, &[]),
            say::WATCH => {
                client.watches = true;
                client.send(state, &[]);
            }
            say::ATTACH => {
                (client.watches, client.attached) = (true, true);
                client.send(state, &[]);
                self.resize(message.a, message.b);
            }
            say::INPUT => self.tell(wire::INPUT, data),
            say::RESIZE => self.resize(message.a, message.b),
            SIGNAL if message.a == libc::SIGKILL => return Some(End::Ended(libc::SIGKILL)),
            SIGNAL => self.signal(message.a as u8),
            FREEZE => return self.freeze(index, data),
            _ => client.send(Message { kind: say::BUSY, ..state }, &[]),
        }
        None
    }

    /// What the init has sent, if there is one.
    fn frames(&mut self) -> Result<Vec<Frame>> {
        self.kept.agent.as_mut().map_or(Ok(Vec::new()), Agent::frames)
    }

    /// Tells the init, if there is one.
    fn tell(&mut self, word: u8, content: &[u8]) {
        if let Some(agent) = &mut self.kept.agent {
            agent.send(word, content);
        }
    }

    /// Gives the program a signal; a machine without our init has its power button pressed.
    fn signal(&mut self, signal: u8) {
        if self.kept.agent.is_some() {
            self.tell(wire::SIGNAL, &[signal]);
        } else {
            let _ = self.kept.qemu.monitor().ask("system_powerdown", serde_json::json!({}));
        }
    }

    fn resize(&mut self, rows: i32, columns: i32) {
        if rows > 0 && columns > 0 {
            let size: Vec<u8> = [rows as u16, columns as u16].iter().flat_map(|n| n.to_le_bytes()).collect();
            self.tell(wire::WINDOW, &size);
        }
    }

    /// Freezes the machine for a client; the end if it is gone then.
    fn freeze(&mut self, index: usize, order: &[u8]) -> Option<End> {
        let outcome = match serde_json::from_slice::<Order>(order) {
            Ok(order) => self.frozen(&order),
            Err(error) => Err(Error::Speech { what: error.to_string() }),
        };
        let (answer, end) = match outcome {
            Ok(frozen) => {
                let end = (!frozen.running).then_some(End::Frozen(frozen.version));
                (Answer::Done(frozen), end)
            }
            Err(error) => (Answer::of(&error), None),
        };
        if let Some(End::Frozen(version)) = &end {
            // The note is there when the answer is.
            self.note(&format!("frozen {version}\n"));
        }
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.truncate(DATA_BYTES);
        self.clients[index].send(Message::new(DONE, 0, 0, 0), &text);
        end
    }

    fn frozen(&mut self, order: &Order) -> Result<freeze::Frozen> {
        let began = Instant::now();
        self.kept.qemu.pause()?;
        // What the guest wrote before is all in the socket by now.
        for frame in self.frames().unwrap_or_default() {
            self.frame(&frame);
        }
        let outcome = freeze::freeze(&mut self.kept, order, began);
        if !matches!(&outcome, Ok(frozen) if !frozen.running) {
            self.kept.qemu.resume()?;
            // It stood still for a while.
            self.tell(wire::TIME, &agent::time());
        }
        outcome
    }

    /// Takes a frame of the guest's; the status if its program ended.
    fn frame(&mut self, frame: &Frame) -> Option<i32> {
        match (frame.word, frame.content.as_slice()) {
            (wire::OUTPUT, bytes) => {
                self.log(bytes);
                let message = Message::new(say::OUTPUT, 0, 0, 0);
                for client in self.clients.iter_mut().filter(|client| client.attached) {
                    client.send(message, bytes);
                }
                None
            }
            (wire::ENDED, [a, b, c, d, ..]) => Some(i32::from_le_bytes([*a, *b, *c, *d])),
            _ => None,
        }
    }

    /// Puts output into the log. A full disk costs the log, not the program.
    fn log(&mut self, bytes: &[u8]) {
        let (Some(log), Some((directory, _))) = (&self.held.log, &self.held.place) else { return };
        if self.log_bytes >= LOG_BYTES
            && rustix::fs::renameat(directory, "log", directory, "log.1").is_ok()
            && let Ok(new) = frost_keeper::house::open_log(directory.as_fd())
        {
            self.held.log = Some(new);
            self.log_bytes = 0;
            return self.log(bytes);
        }
        self.log_bytes += rustix::io::write(log, bytes).unwrap_or(0) as u64;
    }

    /// Writes the note of its end into the instance's directory.
    fn note(&self, text: &str) {
        let Some((directory, _)) = &self.held.place else { return };
        // Not truncated: room was taken for it, which a full disk would not give again.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if let Ok(file) = rustix::fs::openat(directory, "end.new", flags, Mode::RUSR | Mode::WUSR)
            && rustix::io::write(&file, text.as_bytes()) == Ok(text.len())
        {
            let _ = rustix::fs::renameat(directory, "end.new", directory, "end");
        }
    }

    fn finish(mut self, end: End) {
        if matches!(end, End::Ended(_)) {
            // A guest that ends by itself has said so before QEMU ends.
            self.kept.qemu.wait(Duration::from_secs(5));
        }
        self.kept.qemu.quit();
        // What a guest wrote to its disk outlives it, until its name is removed or taken by another.
        self.kept.place.clear_data(matches!(end, End::Frozen(_)));
        let message = match end {
            End::Ended(status) => {
                self.note(&format!("ended {status}\n"));
                Message::new(say::ENDED, status, 0, 0)
            }
            End::Frozen(version) => Message::new(say::ICE, version as i32, 0, 0),
        };
        // Nobody connects to one that has ended.
        self.held.place = None;
        let deadline = Instant::now() + Duration::from_secs(60);
        for client in self.clients.iter_mut().filter(|client| client.watches) {
            client.send(message, &[]);
        }
        loop {
            self.clients.retain(|client| !client.gone && !client.unsent.is_empty());
            if self.clients.is_empty() || Instant::now() > deadline {
                return;
            }
            let mut fds: Vec<PollFd<'_>> =
                self.clients.iter().map(|client| PollFd::new(&client.fd, PollFlags::OUT)).collect();
            let _ = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
            drop(fds);
            self.clients.iter_mut().for_each(Client::flush);
        }
    }
}
