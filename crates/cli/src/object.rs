//! The objects of an image, as a person and as a program reads them.

use frost_model::Checkpoint;
use frost_model::cap::{Capability, Content, OutsideKind, UnixName, UnixState};
use frost_model::rm::Attachment;

/// The name of a kind: that of its files in the source.
pub(crate) fn kind(capability: &Capability) -> &'static str {
    match capability {
        Capability::Regular(_) => "regular",
        Capability::Directory(_) => "directory",
        Capability::Device(_) => "device",
        Capability::Pipe(_) => "pipe",
        Capability::Fifo(_) => "fifo",
        Capability::EventFd(_) => "eventfd",
        Capability::Epoll(_) => "epoll",
        Capability::SignalFd(_) => "signalfd",
        Capability::TimerFd(_) => "timerfd",
        Capability::PidFd(_) => "pidfd",
        Capability::Memfd(_) => "memfd",
        Capability::Unix(_) => "unix",
        Capability::TcpListener(_) | Capability::TcpStream(_) => "tcp",
        Capability::Udp(_) => "udp",
        Capability::Outside(_) => "outside",
    }
}

/// What an open file description is, as `/var/log/app.log at 4096`.
pub(crate) fn describe(checkpoint: &Checkpoint, capability: &Capability) -> String {
    match capability {
        Capability::Regular(regular) => match &regular.content {
            Content::Named { file, captured } => {
                let captured = if captured.is_some() { ", captured" } else { "" };
                format!("{} at {}{captured}", file.path, regular.position)
            }
            Content::Unnamed(id) => match checkpoint.objects.unnamed.get(id.index()) {
                Some(file) => format!("{} (deleted) at {}", file.path, regular.position),
                None => "a deleted file".to_owned(),
            },
        },
        Capability::Directory(directory) => directory.file.path.to_string(),
        Capability::Device(device) => device.file.path.to_string(),
        Capability::Pipe(end) => match checkpoint.objects.pipes.get(end.pipe.index()) {
            Some(pipe) => {
                let waiting: usize = pipe.content.iter().map(|packet| packet.len()).sum();
                format!("pipe {}, {waiting} bytes in it", end.pipe)
            }
            None => "a pipe".to_owned(),
        },
        Capability::Fifo(fifo) => fifo.file.path.to_string(),
        Capability::EventFd(eventfd) => format!("count {}", eventfd.count),
        Capability::Epoll(epoll) => format!("watches {}", epoll.watches.len()),
        Capability::SignalFd(signalfd) => format!("mask {:#x}", signalfd.mask),
        Capability::TimerFd(timer) => {
            if timer.spec.value.is_zero() {
                "disarmed".to_owned()
            } else {
                format!("due in {} ms", timer.spec.value.as_nanos() / 1_000_000)
            }
        }
        Capability::PidFd(pidfd) => {
            pidfd.pid.map_or_else(|| "of a process that ended".to_owned(), |pid| format!("of process {pid}"))
        }
        Capability::Memfd(memfd) => match checkpoint.dataspaces.get(memfd.dataspace.index()) {
            Some(space) => format!("{} at {}", crate::output::bytes(space.len_bytes), memfd.position),
            None => "a memfd".to_owned(),
        },
        Capability::Unix(socket) => {
            let name = socket.name.as_ref().map(|name| format!("{}, ", unix_name(name))).unwrap_or_default();
            let state = match &socket.state {
                UnixState::Unconnected => "unconnected",
                UnixState::Listening { .. } => "listens",
                UnixState::Pending => "not accepted yet",
                UnixState::Connected { .. } => "connected",
                UnixState::PeerClosed | UnixState::PeerReset => "its peer is closed",
            };
            format!("{name}{state}, {} messages", socket.queue.len())
        }
        Capability::TcpListener(socket) => {
            let what = if socket.backlog.is_some() { "listens at" } else { "bound to" };
            match socket.inet.local {
                Some(local) => format!("{what} {local}"),
                None => "unbound".to_owned(),
            }
        }
        Capability::TcpStream(stream) => {
            let show = |address: Option<std::net::SocketAddr>| {
                address.map_or_else(|| "nobody".to_owned(), |address| address.to_string())
            };
            format!("{} to {}", show(stream.inet.local), show(stream.peer))
        }
        Capability::Udp(socket) => {
            socket.inet.local.map_or_else(|| "unbound".to_owned(), |local| local.to_string())
        }
        Capability::Outside(outside) => {
            let what = match &outside.kind {
                OutsideKind::Terminal { file, .. } => format!("terminal {}", file.path),
                OutsideKind::Pipe { .. } => "pipe".to_owned(),
                OutsideKind::Unix { peer_name, .. } => match peer_name {
                    Some(name) => format!("unix socket to {}", unix_name(name)),
                    None => "unix socket".to_owned(),
                },
            };
            match &outside.peer {
                Some((pid, command)) => format!("{what}, with process {pid} ({command})"),
                None => what,
            }
        }
    }
}

/// The kind of what a region shows, and what that is.
pub(crate) fn attachment(attachment: &Attachment) -> String {
    match attachment {
        Attachment::Anonymous => "anonymous".to_owned(),
        Attachment::File { file, .. } => file.path.to_string(),
        Attachment::Dataspace { dataspace, .. } => format!("dataspace {dataspace}"),
        Attachment::Description { description, .. } => format!("description {description}"),
        Attachment::Special(special) => format!("[{special:?}]").to_lowercase(),
    }
}

fn unix_name(name: &UnixName) -> String {
    match name {
        UnixName::Path { path, .. } => path.to_string(),
        UnixName::Abstract(bytes) => format!("@{}", String::from_utf8_lossy(bytes)),
    }
}
