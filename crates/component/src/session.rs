//! The sessions of a component, over one connection.

use crate::Content;
use crate::error::Error;
use crate::wire::{self, Packet};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::VecDeque;
use std::path::Path;

/// The variable that names the socket.
pub const SOCKET: &str = "FROST_SESSION";

/// One version of a document.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its number: how many there have been. What lies between two that were read was skipped.
    pub number: u64,
    /// What it says; nothing if there is no report, or its writer has gone.
    pub content: Option<Content>,
}

/// A connection to whoever runs this component.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    /// ROMs that changed and were not told to the caller yet.
    changed: VecDeque<String>,
}

impl Session {
    /// Connects to the socket that the environment names.
    ///
    /// # Errors
    /// [`Error::Alone`] if it names none.
    pub fn connect() -> Result<Self, Error> {
        Self::connect_to(Path::new(&std::env::var_os(SOCKET).ok_or(Error::Alone)?))
    }

    /// Connects to a socket.
    pub fn connect_to(path: &Path) -> Result<Self, Error> {
        let failed = |errno| Error::Connect { path: path.to_owned(), source: errno };
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        rustix::net::connect(&socket, &address).map_err(failed)?;
        Ok(Self { socket, changed: VecDeque::new() })
    }

    /// Opens a ROM session. A change is signalled at once, so that nothing is missed.
    ///
    /// # Errors
    /// [`Error::Denied`] if no route says what this ROM is.
    pub fn rom(&mut self, name: &str) -> Result<(), Error> {
        self.ask("rom", name, &[], None).map(drop)
    }

    /// Opens a Report session, and returns the greatest length of a report in bytes.
    ///
    /// # Errors
    /// [`Error::Denied`] if somebody else writes it.
    pub fn report(&mut self, name: &str) -> Result<u64, Error> {
        let answer = self.ask("report", name, &[], None)?;
        answer.words().2.parse().map_err(|_| Error::Protocol(answer.head))
    }

    /// Goes over to the newest version of a ROM, and returns it.
    pub fn read(&mut self, name: &str) -> Result<Version, Error> {
        let answer = self.ask("get", name, &[], None)?;
        let (verb, _, number) = answer.words();
        let number = number.parse().map_err(|_| Error::Protocol(answer.head.clone()))?;
        let content = match verb {
            "empty" => None,
            _ => Some(Content::take(answer.body, answer.fd, u64::MAX).map_err(Error::Connection)?),
        };
        Ok(Version { number, content })
    }

    /// Replaces a report, and returns the number of its version: 0 if this component is still to take another's place,
    /// whose report stands until then.
    ///
    /// If the route of a reader says `persist`, the report survives a loss of power once this has returned.
    ///
    /// # Errors
    /// [`Error::Denied`] if it is too long, or not ours; the report is as it was then.
    pub fn submit(&mut self, name: &str, report: &[u8]) -> Result<u64, Error> {
        let content = Content::new(report).map_err(Error::Connection)?;
        let (body, fd) = match &content {
            Content::Small(bytes) => (&**bytes, None),
            Content::Large(_) => (&[][..], content.memory()),
        };
        let answer = self.ask("submit", name, body, fd)?;
        answer.words().2.parse().map_err(|_| Error::Protocol(answer.head.clone()))
    }

    /// Ends a session.
    pub fn close(&mut self, name: &str) -> Result<(), Error> {
        self.ask("close", name, &[], None).map(drop)
    }

    /// Waits until a ROM changes, and returns its name.
    pub fn wait(&mut self) -> Result<String, Error> {
        loop {
            if let Some(name) = self.changed.pop_front() {
                return Ok(name);
            }
            self.hear(RecvFlags::empty())?;
        }
    }

    /// Returns the name of a ROM that has changed, without waiting.
    pub fn poll(&mut self) -> Result<Option<String>, Error> {
        while self.hear(RecvFlags::DONTWAIT)? {}
        Ok(self.changed.pop_front())
    }

    /// Returns whether signals were taken in that were not told yet: then one who waits for the socket would miss them.
    pub fn has_signals(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes in a packet that is no answer. Returns whether there was one.
    fn hear(&mut self, flags: RecvFlags) -> Result<bool, Error> {
        match wire::receive(&self.socket, flags) {
            Ok(Some(packet)) => match self.sort(packet)? {
                None => Ok(true),
                Some(answer) => Err(Error::Protocol(answer.head)),
            },
            Ok(None) => Err(Error::Gone),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(Error::Connection(errno)),
        }
    }

    /// Keeps a signal, answers a heartbeat, gives back an answer.
    fn sort(&mut self, packet: Packet) -> Result<Option<Packet>, Error> {
        match packet.words() {
            ("changed", name, _) => {
                if !self.changed.iter().any(|known| known == name) {
                    self.changed.push_back(name.to_owned());
                }
                Ok(None)
            }
            ("heartbeat", ..) => self.send("alive", &[], None).map(|()| None),
            _ => Ok(Some(packet)),
        }
    }

    fn send(&self, head: &str, body: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        wire::send(&self.socket, head, body, fd).map_err(|errno| match errno {
            Errno::PIPE | Errno::CONNRESET => Error::Gone,
            errno => Error::Connection(errno),
        })
    }

    /// Sends a request and waits for its answer; signals that come before it are kept.
    pub fn ask(
        &mut self,
        verb: &str,
        name: &str,
        body: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Packet, Error> {
        self.send(format!("{verb} {name}").trim_end(), body, fd)?;
        loop {
            let packet = match wire::receive(&self.socket, RecvFlags::empty()) {
                Ok(packet) => packet.ok_or(Error::Gone)?,
                Err(errno) => return Err(Error::Connection(errno)),
            };
            if let Some(answer) = self.sort(packet)? {
                if let ("error", ..) = answer.words() {
                    let reason = answer.head.splitn(4, ' ').nth(3).unwrap_or("no reason given").to_owned();
                    return Err(Error::Denied {
                        what: format!("{verb} {name}").trim_end().to_owned(),
                        reason,
                    });
                }
                return Ok(answer);
            }
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
