//! The sessions of a component, over one connection.

use crate::Content;
use crate::attention::Attention;
use crate::error::Error;
use crate::wire::{self, Packet};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// Versions that came with their signals and were not read yet.
    sent: BTreeMap<String, Version>,
    /// ROMs of which a version that had come was read: the next one may come.
    owed: BTreeSet<String>,
    /// Why a report that nobody waited for was not taken.
    refused: Option<Error>,
    attention: Attention,
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
        Ok(Self {
            socket,
            changed: VecDeque::new(),
            sent: BTreeMap::new(),
            owed: BTreeSet::new(),
            refused: None,
            attention: Attention::default(),
        })
    }

    /// Opens a ROM session. A change is signalled at once, so that nothing is missed.
    ///
    /// # Errors
    /// [`Error::Denied`] if no route says what this ROM is.
    pub fn rom(&mut self, name: &str) -> Result<(), Error> {
        self.ask("rom", name, &[], None).map(drop)
    }

    /// Opens a ROM session whose signals bring the version along that they tell of, if it is a small one: it takes no
    /// question more to read it. In the meantime there may be a newer one; its signal follows when this one was read.
    ///
    /// # Errors
    /// As [`rom`](Self::rom).
    pub fn rom_sent(&mut self, name: &str) -> Result<(), Error> {
        self.ask("rom", &format!("{name} sent"), &[], None).map(drop)
    }

    /// Opens a Report session, and returns the greatest length of a report in bytes.
    ///
    /// # Errors
    /// [`Error::Denied`] if somebody else writes it.
    pub fn report(&mut self, name: &str) -> Result<u64, Error> {
        let answer = self.ask("report", name, &[], None)?;
        answer.words().2.parse().map_err(|_| Error::Protocol(answer.head))
    }

    /// Goes over to the newest version of a ROM, and returns it; to the one that came with the last signal, if it has brought
    /// one.
    pub fn read(&mut self, name: &str) -> Result<Version, Error> {
        if let Some(version) = self.sent.remove(name) {
            self.owed.insert(name.to_owned());
            return Ok(version);
        }
        // The answer is the newest, and the next one may come.
        self.owed.remove(name);
        let answer = self.ask("get", name, &[], None)?;
        // What came before the answer is no newer than it.
        self.sent.remove(name);
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
        let (body, fd) = parts(&content);
        let words = self.words(name);
        let answer = self.ask("submit", &words, body, fd)?;
        answer.words().2.parse().map_err(|_| Error::Protocol(answer.head.clone()))
    }

    /// Replaces a report without waiting until that is done; if it is not, the next call tells. What comes after it comes
    /// after it to readers as well.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), of an earlier one.
    pub fn put(&mut self, name: &str, report: &[u8]) -> Result<(), Error> {
        self.tell_refusal()?;
        let content = Content::new(report).map_err(Error::Connection)?;
        let (body, fd) = parts(&content);
        let words = self.words(name);
        self.send(&format!("put {words}"), body, fd)
    }

    /// A report's name, and behind it the ROMs that were read by now.
    fn words(&mut self, name: &str) -> String {
        let mut words = name.to_owned();
        for rom in std::mem::take(&mut self.owed) {
            words.push(' ');
            words.push_str(&rom);
        }
        words
    }

    fn tell_refusal(&mut self) -> Result<(), Error> {
        self.refused.take().map_or(Ok(()), Err)
    }

    /// Ends a session.
    pub fn close(&mut self, name: &str) -> Result<(), Error> {
        self.owed.remove(name);
        self.ask("close", name, &[], None).map(drop)
    }

    /// Waits until a ROM changes, and returns its name.
    pub fn wait(&mut self) -> Result<String, Error> {
        loop {
            self.tell_refusal()?;
            if let Some(name) = self.changed.pop_front() {
                return Ok(name);
            }
            self.ask_for_next()?;
            let packet = self.receive()?;
            self.sort_signal(packet)?;
        }
    }

    /// Returns the name of a ROM that has changed, without waiting.
    pub fn poll(&mut self) -> Result<Option<String>, Error> {
        self.ask_for_next()?;
        while self.hear()? {}
        self.tell_refusal()?;
        Ok(self.changed.pop_front())
    }

    /// Returns whether signals were taken in that were not told yet: then one who waits for the socket would miss them.
    pub fn has_signals(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Lets the next versions come; not earlier than their reader has nothing else to do.
    fn ask_for_next(&mut self) -> Result<(), Error> {
        while let Some(name) = self.owed.pop_first() {
            self.send(&format!("next {name}"), &[], None)?;
        }
        Ok(())
    }

    /// Waits for a packet.
    fn receive(&mut self) -> Result<Packet, Error> {
        let socket = &self.socket;
        let received = self.attention.wait(|may_sleep| {
            let flags = if may_sleep { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
            match wire::receive(socket, flags) {
                Err(Errno::AGAIN) => Ok(None),
                other => other.map(Some),
            }
        });
        received.map_err(Error::Connection)?.flatten().ok_or(Error::Gone)
    }

    /// Takes in a packet that is no answer, if there is one. Returns whether there was.
    fn hear(&mut self) -> Result<bool, Error> {
        match wire::receive(&self.socket, RecvFlags::DONTWAIT) {
            Ok(Some(packet)) => self.sort_signal(packet).map(|()| true),
            Ok(None) => Err(Error::Gone),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(Error::Connection(errno)),
        }
    }

    /// Keeps what is no answer.
    fn sort_signal(&mut self, packet: Packet) -> Result<(), Error> {
        self.sort(packet)?.map_or(Ok(()), |answer| Err(Error::Protocol(answer.head)))
    }

    /// Keeps a signal, answers a heartbeat, gives back an answer.
    fn sort(&mut self, packet: Packet) -> Result<Option<Packet>, Error> {
        match packet.words() {
            ("changed", name, number) => {
                let name = name.to_owned();
                if !number.is_empty() {
                    let number = number.parse().map_err(|_| Error::Protocol(packet.head.clone()))?;
                    let content =
                        Content::take(packet.body, packet.fd, u64::MAX).map_err(Error::Connection)?;
                    self.sent.insert(name.clone(), Version { number, content: Some(content) });
                }
                if !self.changed.contains(&name) {
                    self.changed.push_back(name);
                }
                Ok(None)
            }
            ("error", "put", rest) => {
                let (name, reason) = rest.split_once(' ').unwrap_or((rest, "no reason given"));
                self.refused = Some(Error::Denied { what: format!("put {name}"), reason: reason.to_owned() });
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
            let packet = self.receive()?;
            if let Some(answer) = self.sort(packet)? {
                if let ("error", ..) = answer.words() {
                    let reason = answer.head.splitn(4, ' ').nth(3).unwrap_or("no reason given").to_owned();
                    return Err(Error::Denied {
                        // Behind the first name stands what else was asked for.
                        what: format!("{verb} {}", name.split(' ').next().unwrap_or(""))
                            .trim_end()
                            .to_owned(),
                        reason,
                    });
                }
                return Ok(answer);
            }
        }
    }
}

/// A content as it travels.
fn parts(content: &Content) -> (&[u8], Option<BorrowedFd<'_>>) {
    match content {
        Content::Small(bytes) => (bytes, None),
        Content::Large(_) => (&[], content.memory()),
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
