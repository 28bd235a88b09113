//! One connection: of a component, or of a command.

use crate::scenario::Label;
use frost_component::Content;
use frost_component::wire;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The component whose life this is.
    Life(u64),
    /// A command of the user.
    Command,
}

/// A ROM session.
#[derive(Debug)]
pub(crate) struct Rom {
    pub(crate) label: Label,
    pub(crate) sticky: bool,
    /// The reader has asked since the last signal; only then it gets another one.
    pub(crate) is_armed: bool,
    /// Its signals bring small versions along.
    pub(crate) is_sent: bool,
    /// The number of the version that it was given last.
    pub(crate) told: u64,
}

/// A packet that waits for room.
#[derive(Debug)]
struct Waiting {
    head: String,
    content: Option<Content>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) owner: Owner,
    pub(crate) roms: BTreeMap<String, Rom>,
    pub(crate) reports: BTreeSet<String>,
    /// It was asked whether it is alive and has not answered.
    pub(crate) is_asked: bool,
    /// Nothing is read from it for a while.
    pub(crate) is_paused: bool,
    /// How often it was read from.
    pub(crate) turns: u32,
    /// There was more than one packet when it was looked.
    pub(crate) is_eager: bool,
    waiting: VecDeque<Waiting>,
}

/// How a connection stands after something was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All is on its way.
    All,
    /// Its queue is full; nothing more is read from it before that is over.
    Full,
    /// The peer is gone.
    Gone,
}

impl Client {
    pub(crate) fn new(socket: OwnedFd, owner: Owner) -> Self {
        Self {
            socket,
            owner,
            roms: BTreeMap::new(),
            reports: BTreeSet::new(),
            is_asked: false,
            is_paused: false,
            turns: 0,
            is_eager: false,
            waiting: VecDeque::new(),
        }
    }

    /// Sends a packet, now or when there is room.
    ///
    /// What waits is bounded: a peer gets one answer for each request, requests are not read while something waits, and a
    /// ROM has one signal under way.
    pub(crate) fn send(&mut self, head: String, content: Option<Content>) -> Sent {
        self.waiting.push_back(Waiting { head, content });
        self.flush()
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self) -> Sent {
        while let Some(next) = self.waiting.front() {
            let memory = next.content.as_ref().and_then(Content::memory);
            let reopened = next.content.as_ref().and_then(Content::reopen);
            let body = match &next.content {
                Some(content) if memory.is_none() => &**content,
                _ => &[],
            };
            let fd = reopened.as_ref().map(AsFd::as_fd).or(memory);
            match wire::send(&self.socket, &next.head, body, fd) {
                Ok(()) => drop(self.waiting.pop_front()),
                // ETOOMANYREFS: too many descriptors are under way to processes that do not take them.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => return Sent::Full,
                Err(_) => return Sent::Gone,
            }
        }
        Sent::All
    }
}
