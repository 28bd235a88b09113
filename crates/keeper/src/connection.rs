//! A connection to a keeper.

use crate::kept;
use crate::protocol::{self as say, DATA_BYTES, HEAD_BYTES, Message};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::time::Duration;

/// How long a keeper may take to answer. It does nothing that takes time, unless somebody stopped it.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWERS_WITHIN: Timespec = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
/// Who has not answered by then may have been stopped.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };

/// Why a keeper could not be talked to.
#[derive(Debug)]
pub enum Error {
    /// There is none, or it has ended.
    Gone,
    /// It says that the program is not in the state for that, or that another command works on it.
    Busy,
    /// It is of another version of frost.
    Foreign(i32),
    /// Somebody stopped it: this is its pid.
    Stopped(i32),
    /// A call failed.
    Kernel(Errno),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("its keeper has ended"),
            Self::Busy => f.write_str("another command freezes or thaws it at this moment"),
            Self::Foreign(version) => {
                write!(
                    f,
                    "its keeper is of another version of frost (it speaks {version}, we {})",
                    say::VERSION
                )
            }
            Self::Stopped(pid) => {
                write!(f, "its keeper, process {pid}, was stopped (SIGSTOP), and does not answer")
            }
            Self::Kernel(Errno::TIMEDOUT | Errno::AGAIN) => {
                f.write_str("its keeper does not answer: as many commands as it can serve talk to it already")
            }
            Self::Kernel(errno) => write!(f, "its keeper does not answer: {errno}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::CONNREFUSED | Errno::NOENT | Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Gone,
            errno => Self::Kernel(errno),
        }
    }
}

/// How a keeper's program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether it is frozen.
    pub frozen: bool,
    /// The pid of its root, as it sees it itself.
    pub root: i32,
    /// Whether the keeper holds a terminal for it.
    pub terminal: bool,
    /// Whether the session of that terminal is led by [`LEADER`](say::LEADER).
    pub led: bool,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The message.
    pub message: Message,
    /// The bytes behind it.
    pub data: Vec<u8>,
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// The name of the socket in an instance's directory.
const SOCKET: &str = "socket";

/// The address of the socket in `directory`: by descriptor, since a path may be longer than an address can be.
fn address(directory: BorrowedFd<'_>) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Makes the socket at which a keeper will hear commands, once it says that it does ([`hear`]).
///
/// # Errors
/// Those of bind(2). A socket that was there is replaced.
pub(crate) fn bind(directory: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::unlinkat(directory, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let fd = socket()?;
    rustix::net::bind(&fd, &address(directory)?)?;
    Ok(fd)
}

/// Begins to hear commands. Whoever calls this is the one whose pid they will find ([`Connection::keeper`]).
pub(crate) fn hear(socket: &OwnedFd) -> rustix::io::Result<()> {
    rustix::net::listen(socket, 64)
}

impl Connection {
    /// Connects to the keeper whose socket lies in `directory`.
    ///
    /// # Errors
    /// [`Error::Gone`] if nobody hears.
    pub fn open(directory: BorrowedFd<'_>) -> Result<Self, Error> {
        let fd = socket()?;
        // Also until there is room in the queue of those who want to connect.
        rustix::net::sockopt::set_socket_timeout(&fd, Timeout::Send, Some(PATIENCE))?;
        rustix::net::connect(&fd, &address(directory)?)?;
        Ok(Self(fd))
    }

    /// Returns the keeper's pid in our namespace, 0 if it has none there: the kernel noted who listened.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn keeper(&self) -> rustix::io::Result<i32> {
        Ok(rustix::net::sockopt::socket_peercred(&self.0)?.pid.as_raw_nonzero().get())
    }

    /// Whether the keeper that listened lives. If not, and the connection is still there, somebody keeps its socket: it is
    /// frozen with a program that it is in, and nobody will answer before that is thawed.
    pub fn is_attended(&self) -> bool {
        let listened = self.keeper().ok().and_then(rustix::process::Pid::from_raw);
        // One that we do not see may live.
        let Some(pid) = listened else { return true };
        if rustix::process::test_kill_process(pid) != Err(Errno::SRCH) {
            return true;
        }
        // It closes what it has before its number is free.
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&none)) != Ok(0)
    }

    /// Makes a connection whose other end is to be given to a keeper when it starts; it watches from the beginning.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> rustix::io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`Error::Gone`] if the keeper has ended.
    pub fn send(&self, message: Message, data: &[u8]) -> Result<(), Error> {
        let mut packet = message.to_bytes().to_vec();
        packet.extend_from_slice(data);
        loop {
            match rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for a message, and takes the descriptor that comes with it.
    fn receive_with(&self) -> Result<(Packet, Option<OwnedFd>), Error> {
        let mut bytes = vec![0; HEAD_BYTES + DATA_BYTES];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptors.into_iter().next();
            }
        }
        let message = Message::from_bytes(&bytes[..received.bytes]).ok_or(Error::Gone)?;
        let data = bytes[HEAD_BYTES..received.bytes].to_vec();
        Ok((Packet { message, data }, descriptor))
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// [`Error::Gone`] if the keeper has ended.
    pub fn receive(&self) -> Result<Packet, Error> {
        self.receive_with().map(|(packet, _)| packet)
    }

    /// Asks, and waits for the answer; events that come before it are dropped. A descriptor may come with it.
    ///
    /// # Errors
    /// [`Error::Busy`] if that is what the keeper says.
    pub fn ask(&self, message: Message) -> Result<(State, Option<OwnedFd>), Error> {
        self.send(message, &[])?;
        self.answer()
    }

    /// Asks as [`ask`](Self::ask) does, and hands a descriptor over.
    ///
    /// # Errors
    /// Those of [`ask`](Self::ask).
    pub fn hand(&self, message: Message, descriptor: BorrowedFd<'_>) -> Result<State, Error> {
        self.send_with(message, &[], descriptor)?;
        self.answer().map(|(state, _)| state)
    }

    /// Lets the keeper keep these sockets of a program while that is frozen; without any, it drops what it keeps.
    ///
    /// # Errors
    /// [`Error::Busy`] if we do not freeze or thaw it, or if the keeper is of a frost that did not know this.
    pub fn keep(&self, sockets: &[(u32, BorrowedFd<'_>)]) -> Result<(), Error> {
        let message = Message::new(say::KEEP, 0, 0, 0);
        match sockets {
            [] => self.ask(message).map(drop),
            sockets => self.hand(message, kept::offer(sockets)?.as_fd()).map(drop),
        }
    }

    /// Returns the sockets that the keeper keeps for its frozen program. They stay there too.
    ///
    /// # Errors
    /// Those of [`ask`](Self::ask).
    pub fn kept(&self) -> Result<Vec<(u32, OwnedFd)>, Error> {
        match self.ask(Message::new(say::KEPT, 0, 0, 0)) {
            Ok((_, Some(offer))) => Ok(kept::look(&offer)?),
            // An older keeper does not know the question, and keeps nothing.
            Ok((_, None)) | Err(Error::Busy) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Tells the keeper of a control group, which it watches and removes from now on.
    ///
    /// # Errors
    /// [`Error::Gone`] if the keeper has ended.
    pub fn give_group(&self, name: &[u8], directory: BorrowedFd<'_>) -> Result<(), Error> {
        self.send_with(Message::new(say::GROUP, 0, 0, 0), name, directory)
    }

    fn send_with(&self, message: Message, data: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), Error> {
        let mut bytes = message.to_bytes().to_vec();
        bytes.extend_from_slice(data);
        let descriptors = [descriptor];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        loop {
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits until there is something to receive.
    fn wait(&self) -> Result<(), Error> {
        for patience in [SOON, ANSWERS_WITHIN] {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            if rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&patience)))? > 0 {
                return Ok(());
            }
            let is_stopped = |pid: &i32| frost_sys::proc::stat(*pid).is_ok_and(|stat| stat.state == b'T');
            if let Some(pid) = self.keeper().ok().filter(is_stopped) {
                return Err(Error::Stopped(pid));
            }
        }
        Err(Error::Kernel(Errno::TIMEDOUT))
    }

    fn answer(&self) -> Result<(State, Option<OwnedFd>), Error> {
        loop {
            self.wait()?;
            let (packet, descriptor) = self.receive_with()?;
            let Message { kind, a, b, c } = packet.message;
            if kind != say::STATE && kind != say::BUSY {
                continue;
            }
            if c & 0xff != say::VERSION {
                return Err(Error::Foreign(c & 0xff));
            }
            if kind == say::BUSY {
                return Err(Error::Busy);
            }
            let state = State {
                frozen: a != say::RUNNING,
                root: b,
                terminal: c & say::HAS_TERMINAL != 0,
                led: c & say::HAS_LEADER != 0,
            };
            return Ok((state, descriptor));
        }
    }

    /// Asks how the program stands.
    ///
    /// # Errors
    /// Those of [`ask`](Self::ask).
    pub fn state(&self) -> Result<State, Error> {
        self.ask(Message::new(say::STATUS, 0, 0, 0)).map(|(state, _)| state)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
