//! Capabilities: open file descriptions and what lies behind them. One kind, one file.

mod describe;
mod device;
mod directory;
mod epoll;
mod eventfd;
mod fanotify;
mod fifo;
mod file;
mod inotify;
mod lock;
mod memfd;
mod mqueue;
mod netlink;
mod outside;
mod packet;
mod pidfd;
mod pipe;
mod pty;
mod raw;
mod regular;
mod signalfd;
mod sysv;
mod tcp;
mod timerfd;
mod udp;
mod unix;
mod volatile;

pub use device::Device;
pub use directory::Directory;
pub use epoll::{BusyPoll, Epoll, Watch};
pub use eventfd::EventFd;
pub use fanotify::{Fanotify, FanotifyMark, FanotifyTarget, MountPoint};
pub use fifo::Fifo;
pub use file::{FileIdentity, FileMarks, FileRef};
pub use inotify::{INOTIFY_MOST, Inotify, InotifyWatch, WatchTarget};
pub use lock::{Lock, LockKind};
pub use memfd::Memfd;
pub use mqueue::{Mqueue, MqueueEnd, MqueueMessage};
pub use netlink::NetlinkSocket;
pub use outside::{Outside, OutsideKind};
pub use packet::{PacketMembership, PacketSocket};
pub use pidfd::PidFd;
pub use pipe::{Pipe, PipeEnd};
pub use pty::{Flow, Pty, PtyEnd, PtySide};
pub use raw::RawSocket;
pub use regular::{Content, RegularFile, Unnamed};
pub use signalfd::SignalFd;
pub use sysv::{Ipc, MOST_VALUE, MessageQueue, QueuedMessage, Segment, SemaphoreSet, SemaphoreUndo};
pub use tcp::{Inet, SocketOption, TcpInside, TcpListener, TcpPeer, TcpStream};
pub use timerfd::TimerFd;
pub use udp::{Datagram, UdpSocket};
pub use unix::{Message, PeerCredentials, SenderCredentials, UnixName, UnixSocket, UnixState, UnixType};
pub use volatile::Volatile;

use serde::{Deserialize, Serialize};

/// An open file description: what dup(2) shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Access mode and status flags as F_GETFL returns them (O_ACCMODE, O_APPEND, O_NONBLOCK, O_PATH, ...).
    pub flags: u32,
    /// Who gets SIGIO (F_SETOWN and F_SETSIG), if anyone.
    pub owner: Option<Owner>,
    /// Locks that are held through it.
    pub locks: Vec<Lock>,
    /// Owner and permissions of a socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// What it is.
    pub capability: Capability,
}

/// Owner and permissions of a pipe or socket, which matter to who opens that through /proc (as /dev/stdout), and to whose
/// a socket is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits, at most 0o7777; of a new one 0o600, and 0o777 of a socket.
    pub mode: u32,
}

/// Whom an asynchronous description signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// F_OWNER_TID (0), F_OWNER_PID (1) or F_OWNER_PGRP (2).
    pub kind: i32,
    /// The thread, process or group.
    pub id: i32,
    /// F_GETSIG, 0 for SIGIO.
    pub signal: i32,
}

/// Every kind of description that can be written into an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capability {
    /// A regular file with a name, or one that was deleted; with O_PATH a node of any type but a directory.
    Regular(RegularFile),
    /// A directory.
    Directory(Directory),
    /// A device that holds no state: null, zero, full, random, urandom.
    Device(Device),
    /// One end (or both) of a pipe.
    Pipe(PipeEnd),
    /// An open fifo.
    Fifo(Fifo),
    /// An eventfd.
    EventFd(EventFd),
    /// An epoll instance.
    Epoll(Epoll),
    /// A signalfd.
    SignalFd(SignalFd),
    /// A timerfd.
    TimerFd(TimerFd),
    /// A pidfd of a process of the tree.
    PidFd(PidFd),
    /// A memfd.
    Memfd(Memfd),
    /// A unix socket.
    Unix(UnixSocket),
    /// A TCP socket that is closed, bound, or listening.
    TcpListener(TcpListener),
    /// An established TCP connection.
    TcpStream(TcpStream),
    /// A UDP socket.
    Udp(UdpSocket),
    /// Something whose other end is not in the tree, as a terminal or the pipe to another program.
    Outside(Outside),
    /// A side of a pseudoterminal.
    Pty(PtyEnd),
    /// An inotify instance.
    Inotify(Inotify),
    /// A netlink socket.
    Netlink(NetlinkSocket),
    /// A POSIX message queue.
    Mqueue(MqueueEnd),
    /// A raw or ping socket.
    Raw(RawSocket),
    /// A packet socket.
    Packet(PacketSocket),
    /// A fanotify group.
    Fanotify(Fanotify),
}

/// Objects that several descriptions share or that lie beside them, each table indexed by [`ObjectId`](crate::ObjectId).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// Pipes, and fifos of which an end is open.
    pub pipes: Vec<Pipe>,
    /// Files without a name, with their content.
    pub unnamed: Vec<Unnamed>,
    /// Segments of System V shared memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<Segment>,
    /// Sets of System V semaphores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub semaphores: Vec<SemaphoreSet>,
    /// System V message queues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<MessageQueue>,
    /// Pseudoterminals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ptys: Vec<Pty>,
    /// POSIX message queues.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mqueues: Vec<Mqueue>,
    /// Named files of file systems in memory, with their content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volatile: Vec<Volatile>,
    /// Filters of system calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<crate::pd::Filter>,
}
