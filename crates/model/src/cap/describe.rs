//! What to call a capability in a sentence.

use super::{Capability, Content, OutsideKind, PtySide, UnixName, UnixState, UnixType};
use std::fmt;

impl fmt::Display for Capability {
    /// Writes a noun, without article, as `listening TCP socket [::]:80` or `pipe 3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regular(regular) => match &regular.content {
                Content::Named { file, .. } => write!(f, "file {}", file.path),
                Content::Unnamed(id) => write!(f, "deleted file {id}"),
            },
            Self::Directory(directory) => write!(f, "directory {}", directory.file.path),
            Self::Device(device) => write!(f, "device {}", device.file.path),
            Self::Pipe(end) => write!(f, "pipe {}", end.pipe),
            Self::Fifo(fifo) => write!(f, "fifo {}", fifo.file.path),
            Self::EventFd(eventfd) => write!(f, "eventfd with count {}", eventfd.count),
            Self::Epoll(epoll) => write!(f, "epoll instance that watches {}", epoll.watches.len()),
            Self::SignalFd(signalfd) => write!(f, "signalfd of mask {:x}", signalfd.mask),
            Self::TimerFd(timerfd) => match timerfd.spec.value.is_zero() {
                true => write!(f, "timerfd, not armed"),
                false => write!(f, "timerfd, armed"),
            },
            Self::PidFd(pidfd) => match pidfd.pid {
                Some(pid) => write!(f, "pidfd of process {pid}"),
                None => write!(f, "pidfd of a process that is gone"),
            },
            Self::Memfd(memfd) => write!(f, "memfd {}", memfd.dataspace),
            Self::Unix(socket) => {
                let kind = Unix { kind: socket.kind, name: socket.name.as_ref() };
                match socket.state {
                    UnixState::Listening { .. } => write!(f, "listening {kind}"),
                    UnixState::PeerClosed | UnixState::PeerReset => write!(f, "{kind} whose peer is closed"),
                    _ => write!(f, "{kind}"),
                }
            }
            Self::TcpListener(listener) => match (listener.backlog, listener.inet.local) {
                (Some(_), Some(local)) => write!(f, "listening TCP socket {local}"),
                (_, Some(local)) => write!(f, "TCP socket bound to {local}"),
                _ => write!(f, "TCP socket"),
            },
            Self::TcpStream(stream) => match stream.peer {
                Some(peer) if stream.is_connecting() => write!(f, "TCP connection to {peer} in the making"),
                Some(peer) => write!(f, "TCP connection to {peer}"),
                None => write!(f, "closed TCP connection"),
            },
            Self::Udp(socket) => match (socket.peer, socket.inet.local) {
                (Some(peer), _) => write!(f, "UDP socket connected to {peer}"),
                (None, Some(local)) => write!(f, "UDP socket {local}"),
                (None, None) => write!(f, "UDP socket"),
            },
            Self::Pty(end) => match end.side {
                PtySide::Master => write!(f, "master of /dev/pts/{}", end.number),
                PtySide::Slave => write!(f, "terminal /dev/pts/{}", end.number),
                PtySide::Controlling => write!(f, "terminal /dev/pts/{}, as /dev/tty", end.number),
            },
            Self::Inotify(inotify) => write!(f, "inotify instance that watches {}", inotify.watches.len()),
            Self::Fanotify(group) => write!(f, "fanotify group with {} marks", group.marks.len()),
            Self::Mqueue(end) => write!(f, "POSIX message queue {}", end.queue),
            Self::Raw(socket) => {
                f.write_str(if socket.raw { "raw socket" } else { "ping socket" })?;
                socket.peer.map_or(Ok(()), |peer| write!(f, " connected to {}", peer.ip()))
            }
            Self::Packet(socket) => match &socket.interface {
                Some(interface) => write!(f, "packet socket on {interface}"),
                None => f.write_str("packet socket"),
            },
            Self::Netlink(socket) => write!(f, "netlink socket {}", socket.port),
            Self::Outside(outside) => {
                match &outside.kind {
                    OutsideKind::Terminal { file, .. } => write!(f, "terminal {}", file.path)?,
                    OutsideKind::Pipe { inode, .. } => write!(f, "pipe {inode} to another program")?,
                    OutsideKind::Unix { kind, peer_name, .. } => {
                        write!(f, "{} to another program", Unix { kind: *kind, name: peer_name.as_ref() })?;
                    }
                }
                match &outside.peer {
                    Some((pid, command)) => write!(f, ", process {pid} ({command})"),
                    None => Ok(()),
                }
            }
        }
    }
}

struct Unix<'a> {
    kind: UnixType,
    name: Option<&'a UnixName>,
}

impl fmt::Display for Unix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            UnixType::Stream => "unix stream socket",
            UnixType::Datagram => "unix datagram socket",
            UnixType::SeqPacket => "unix packet socket",
        })?;
        self.name.map_or(Ok(()), |name| write!(f, " {name}"))
    }
}

impl fmt::Display for UnixName {
    /// Writes a path as it is, and an abstract name as is usual, with `@` before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, .. } => path.fmt(f),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}
