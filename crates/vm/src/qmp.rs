//! QEMU's monitor, as far as it is needed: JSON documents, one to a line, over a unix socket.
//!
//! It is ours, as a dozen commands are used and each of them is the same from QEMU 7.2 to 10: a client that is generated
//! from the schema of one version would bring all of it, and an executor, and would lag behind the next one. Descriptors
//! travel with `getfd`, which such a client does not send.

use crate::error::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long QEMU may take to answer a command. It answers within milliseconds unless it, or its disk, hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest line that is read: the answer to `query-qmp-schema`, which nobody asks for, has 200 KB.
const LINE_BYTES: usize = 1 << 20;

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    unread: Vec<u8>,
    next: u64,
    events: VecDeque<Event>,
}

/// Something that QEMU told unasked.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// As `STOP`, `SHUTDOWN`, `MIGRATION`.
    pub name: String,
    /// What goes with it.
    pub data: Value,
}

/// How QEMU greets: its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// As in 7.2.
    pub major: u64,
    /// As in 7.2.
    pub minor: u64,
    /// The third number.
    pub micro: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl Qmp {
    /// Waits for the greeting on a socket that is connected to a monitor, and makes it take commands.
    ///
    /// # Errors
    /// [`Error::NoMonitor`] if what comes is no greeting; [`Error::Gone`] if it is closed.
    pub fn greet(stream: UnixStream) -> Result<(Self, Version)> {
        let mut qmp = Self { stream, unread: Vec::new(), next: 1, events: VecDeque::new() };
        let greeting = match qmp.document(Instant::now() + PATIENCE) {
            Err(Error::Speech { what }) => return Err(Error::NoMonitor { what }),
            other => other?,
        };
        let version = &greeting["QMP"]["version"]["qemu"];
        let number = |key: &str| version[key].as_u64();
        let (Some(major), Some(minor), Some(micro)) = (number("major"), number("minor"), number("micro"))
        else {
            return Err(Error::NoMonitor { what: "it greets with something else".to_owned() });
        };
        qmp.ask("qmp_capabilities", json!({}))?;
        Ok((qmp, Version { major, minor, micro }))
    }

    /// Gives a command and returns its answer; events that come before it are kept.
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's own words; [`Error::Gone`]; [`Error::Silent`].
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.ask_with(command, arguments, None)
    }

    /// As [`ask`](Self::ask), with a descriptor that QEMU gets.
    fn ask_with(&mut self, command: &str, arguments: Value, fd: Option<BorrowedFd<'_>>) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        let mut document = Map::new();
        document.insert("execute".into(), command.into());
        document.insert("id".into(), id.into());
        if arguments.as_object().is_some_and(|map| !map.is_empty()) {
            document.insert("arguments".into(), arguments);
        }
        let mut line = Value::Object(document).to_string().into_bytes();
        line.push(b'\n');
        self.send(&line, fd)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut answer = self.document(deadline)?;
            if answer["event"].is_string() {
                self.keep(answer);
            } else if answer["id"] == id {
                if let Some(error) = answer.get("error") {
                    let why = error["desc"].as_str().unwrap_or("it gives no reason").to_owned();
                    return Err(Error::Refused { command: command.to_owned(), why });
                }
                return Ok(answer["return"].take());
            }
        }
    }

    /// Gives QEMU a descriptor, which then is `fd:NAME` for a migration.
    ///
    /// # Errors
    /// Those of [`ask`](Self::ask).
    pub fn give(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
        self.ask_with("getfd", json!({ "fdname": name }), Some(fd)).map(drop)
    }

    fn send(&mut self, mut line: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        while !line.is_empty() {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let parts = [IoSlice::new(line)];
            match rustix::net::sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => line = &line[count..],
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return Err(Error::Gone),
            }
            // It went with the first byte.
            fds.clear();
        }
        Ok(())
    }

    /// Returns the next event, waiting for it until `deadline`.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Silent`] if none comes in time.
    pub fn event(&mut self, deadline: Instant) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let document = self.document(deadline)?;
            self.keep(document);
        }
    }

    /// Reads what is there without waiting, and returns the events among it.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn pending(&mut self) -> Result<Vec<Event>> {
        loop {
            match self.document(Instant::now()) {
                Ok(document) => self.keep(document),
                Err(Error::Silent) => return Ok(self.events.drain(..).collect()),
                Err(error) => return Err(error),
            }
        }
    }

    fn keep(&mut self, mut document: Value) {
        if let Some(name) = document["event"].as_str() {
            let name = name.to_owned();
            self.events.push_back(Event { name, data: document["data"].take() });
        }
    }

    /// Reads a line, and the document in it.
    fn document(&mut self, deadline: Instant) -> Result<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| Error::Speech { what: format!("a line of it is no JSON: {error}") });
            }
            if self.unread.len() > LINE_BYTES {
                return Err(Error::Speech { what: "a line of it does not end".to_owned() });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // A timeout of zero would mean none.
            let failed = |_| Error::Gone;
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(failed)?;
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(Error::Gone),
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(Error::Silent);
                }
                Err(_) => return Err(Error::Gone),
            }
        }
    }
}

impl AsFd for Qmp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread;

    const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, \"capabilities\": []}}\r\n";

    /// A monitor that answers each line by what `answer` makes of it.
    fn monitor(greeting: &'static str, answer: impl Fn(Value) -> String + Send + 'static) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            theirs.write_all(greeting.as_bytes()).unwrap();
            let reader = std::io::BufReader::new(theirs.try_clone().unwrap());
            for line in std::io::BufRead::lines(reader) {
                let Ok(line) = line else { return };
                let _ = theirs.write_all(answer(serde_json::from_str(&line).unwrap()).as_bytes());
            }
        });
        ours
    }

    #[test]
    fn events_before_an_answer_are_kept_in_order() {
        let stream = monitor(GREETING, |asked| {
            let id = &asked["id"];
            format!(
                "{{\"event\": \"STOP\"}}\n{{\"event\": \"RESUME\"}}\n{{\"id\": {id}, \"return\": {{\"x\": 1}}}}\n"
            )
        });
        let (mut qmp, version) = Qmp::greet(stream).unwrap();
        assert_eq!(version, Version { major: 7, minor: 2, micro: 22 });
        assert_eq!(qmp.ask("stop", json!({})).unwrap()["x"], 1);
        let names: Vec<String> = qmp.pending().unwrap().into_iter().map(|event| event.name).collect();
        assert_eq!(names, ["STOP", "RESUME", "STOP", "RESUME"]);
    }

    #[test]
    fn what_is_no_monitor_is_told() {
        for greeting in ["SSH-2.0-OpenSSH\r\n", "{\"hello\": 1}\n"] {
            let error = Qmp::greet(monitor(greeting, |_| String::new())).unwrap_err();
            assert!(matches!(error, Error::NoMonitor { .. }), "{error}");
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(Qmp::greet(ours).unwrap_err(), Error::Gone));
    }

    #[test]
    fn a_refusal_has_qemus_own_words() {
        let stream = monitor(GREETING, |asked| match asked["execute"].as_str() {
            Some("qmp_capabilities") => format!("{{\"id\": {}, \"return\": {{}}}}\n", asked["id"]),
            _ => format!(
                "{{\"id\": {}, \"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}}}\n",
                asked["id"]
            ),
        });
        let (mut qmp, _) = Qmp::greet(stream).unwrap();
        match qmp.ask("migrate", json!({ "uri": "x" })) {
            Err(Error::Refused { command, why }) => {
                assert_eq!((command.as_str(), why.as_str()), ("migrate", "no"))
            }
            other => panic!("{other:?}"),
        }
    }
}
