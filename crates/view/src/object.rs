//! What a description is, in words that mean the same in every image: no index of a table of this one.

use frost_model::cap::{Capability, Content, Description, Outside, OutsideKind, UnixState};
use frost_model::clock::TimerSpec;
use frost_model::ram::{Dataspace, DataspaceKind};
use frost_model::rm::{Attachment, Protection, Region};
use frost_model::{BytePath, Checkpoint, Process};

/// The name of a kind: that of its files in the source.
pub fn kind(capability: &Capability) -> &'static str {
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
        Capability::Pty(_) => "pty",
        Capability::Inotify(_) => "inotify",
        Capability::Netlink(_) => "netlink",
        Capability::Mqueue(_) => "mqueue",
        Capability::Raw(_) => "raw",
        Capability::Packet(_) => "packet",
        Capability::Fanotify(_) => "fanotify",
    }
}

/// The path of a file, if that is what it is.
pub fn path<'a>(checkpoint: &'a Checkpoint, capability: &'a Capability) -> Option<&'a BytePath> {
    match capability {
        Capability::Regular(regular) => match &regular.content {
            Content::Named { file, .. } => Some(&file.path),
            Content::Unnamed(id) => checkpoint.objects.unnamed.get(id.index()).map(|unnamed| &unnamed.path),
        },
        Capability::Directory(directory) => Some(&directory.file.path),
        Capability::Device(device) => Some(&device.file.path),
        Capability::Fifo(fifo) => Some(&fifo.file.path),
        _ => None,
    }
}

/// What it is called: a path where there is one, else a noun.
pub fn name(checkpoint: &Checkpoint, capability: &Capability) -> String {
    match capability {
        Capability::Regular(regular) => {
            let path = path(checkpoint, capability).map(ToString::to_string).unwrap_or_default();
            let deleted = matches!(regular.content, Content::Unnamed(_));
            if deleted { format!("{path} (deleted)") } else { path }
        }
        Capability::Directory(_) | Capability::Device(_) | Capability::Fifo(_) => {
            path(checkpoint, capability).map(ToString::to_string).unwrap_or_default()
        }
        Capability::Pipe(_) => "pipe".to_owned(),
        Capability::EventFd(eventfd) if eventfd.semaphore => "eventfd, a semaphore".to_owned(),
        Capability::EventFd(_) => "eventfd".to_owned(),
        Capability::Epoll(_) => "epoll instance".to_owned(),
        Capability::TimerFd(timerfd) => format!("timerfd of clock {}", timerfd.clock),
        Capability::Memfd(memfd) => {
            let found = checkpoint.dataspaces.get(memfd.dataspace.index());
            match found.map(|dataspace| &dataspace.kind) {
                Some(DataspaceKind::Memfd { name, .. }) => format!("memfd {name}"),
                _ => "memfd".to_owned(),
            }
        }
        // Which process was found at the other end says little: several may hold it.
        Capability::Outside(outside) => {
            Capability::Outside(Outside { kind: outside.kind.clone(), peer: None }).to_string()
        }
        other => other.to_string(),
    }
}

/// What else there is to say of a description, as label and value, for people.
pub fn details(checkpoint: &Checkpoint, description: &Description) -> Vec<(&'static str, String)> {
    let mut details = Vec::new();
    let mut add = |label, value: String| details.push((label, value));
    match &description.capability {
        Capability::Regular(regular) => add("at", regular.position.to_string()),
        Capability::Directory(directory) if directory.position != 0 => {
            add("at", directory.position.to_string())
        }
        Capability::Pipe(end) => pipe(checkpoint, end.pipe.index(), &mut add),
        Capability::Fifo(fifo) => pipe(checkpoint, fifo.pipe.index(), &mut add),
        Capability::EventFd(eventfd) => add("count", eventfd.count.to_string()),
        Capability::Epoll(epoll) => add("watches", epoll.watches.len().to_string()),
        Capability::SignalFd(signalfd) => add("mask", format!("{:x}", signalfd.mask)),
        Capability::TimerFd(timerfd) => {
            add("armed", timer(&timerfd.spec));
            if timerfd.ticks > 0 {
                add("unread expiries", timerfd.ticks.to_string());
            }
        }
        Capability::Memfd(memfd) => add("at", memfd.position.to_string()),
        Capability::Unix(socket) => {
            let state = match &socket.state {
                UnixState::Unconnected => "unconnected",
                UnixState::Listening { .. } => "listening",
                UnixState::Pending => "waiting to be accepted",
                UnixState::Connected { .. } => "connected",
                UnixState::PeerClosed => "peer closed",
                UnixState::PeerReset => "peer reset",
            };
            add("state", state.to_owned());
            let bytes: usize = socket.queue.iter().map(|message| message.data.len()).sum();
            if !socket.queue.is_empty() {
                add("unread", format!("{bytes} bytes in {}", messages(socket.queue.len())));
            }
        }
        Capability::Pty(end) => {
            if let Some(pty) = checkpoint.objects.ptys.get(end.pty.index()) {
                add("size", format!("{}x{}", pty.size[0], pty.size[1]));
                let typed: usize = pty.lines.iter().map(|line| line.len()).sum::<usize>() + pty.typed.len();
                if typed + pty.output.len() > 0 {
                    add("unread", format!("{typed} bytes typed, {} of output", pty.output.len()));
                }
            }
        }
        Capability::Outside(outside) => match &outside.kind {
            OutsideKind::Terminal { size: (rows, columns), .. } => add("size", format!("{rows}x{columns}")),
            OutsideKind::Pipe { content, .. } => add("unread", format!("{} bytes", content.len())),
            OutsideKind::Unix { queue, .. } if !queue.is_empty() => {
                add("unread", messages(queue.len()));
            }
            OutsideKind::Unix { .. } => {}
        },
        Capability::Mqueue(end) => {
            if let Some(queue) = checkpoint.objects.mqueues.get(end.queue.index()) {
                add("name", format!("/{}", queue.name));
                let bytes: usize = queue.messages.iter().map(|message| message.data.len()).sum();
                if !queue.messages.is_empty() {
                    add("unread", format!("{bytes} bytes in {}", messages(queue.messages.len())));
                }
            }
        }
        Capability::Inotify(inotify) => add("watches", inotify.watches.len().to_string()),
        Capability::Fanotify(group) => add("marks", group.marks.len().to_string()),
        Capability::Directory(_)
        | Capability::Device(_)
        | Capability::PidFd(_)
        | Capability::Netlink(_)
        | Capability::TcpListener(_)
        | Capability::TcpStream(_)
        | Capability::Raw(_)
        | Capability::Packet(_) => {}
        Capability::Udp(socket) if !socket.queue.is_empty() => add("unread", messages(socket.queue.len())),
        Capability::Udp(_) => {}
    }
    for (bit, label) in FLAGS {
        if description.flags & bit != 0 {
            details.push((label, String::new()));
        }
    }
    if !description.locks.is_empty() {
        details.push(("locks", description.locks.len().to_string()));
    }
    details
}

/// Status flags of a description worth a word, by their numbers on x86-64.
const FLAGS: [(u32, &str); 4] =
    [(0o2000, "append"), (0o4000, "nonblocking"), (0o40000, "direct"), (0o10_000_000, "path only")];

fn pipe(checkpoint: &Checkpoint, index: usize, add: &mut dyn FnMut(&'static str, String)) {
    let found = checkpoint.objects.pipes.get(index);
    let unread: usize = found.map_or(0, |pipe| pipe.content.iter().map(|part| part.len()).sum());
    add("unread", format!("{unread} bytes"));
}

/// How many messages there are, in words.
pub(crate) fn messages(count: usize) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

fn timer(spec: &TimerSpec) -> String {
    if spec.value.is_zero() {
        return "no".to_owned();
    }
    let seconds = |at: frost_model::clock::Timespec| format!("{}.{:09} s", at.sec, at.nsec);
    match spec.interval.is_zero() {
        true => format!("in {}", seconds(spec.value)),
        false => format!("in {}, then every {}", seconds(spec.value), seconds(spec.interval)),
    }
}

/// Renders details as a clause, as `at 12, append`.
pub fn clause(details: &[(&'static str, String)]) -> String {
    let parts: Vec<String> = details
        .iter()
        .map(|(label, value)| if value.is_empty() { (*label).to_owned() } else { format!("{label} {value}") })
        .collect();
    parts.join(", ")
}

/// What a region is to its process: its heap, a stack, or what it shows.
pub fn region(checkpoint: &Checkpoint, process: &Process, region: &Region) -> String {
    let bounds = &process.rm.bounds;
    if region.attachment == Attachment::Anonymous {
        // As the kernel names them (`show_map_vma`, fs/proc/task_mmu.c).
        if region.range.start() < bounds.brk && bounds.start_brk < region.range.end() {
            return "[heap]".to_owned();
        }
        if region.range.contains(bounds.start_stack) {
            return "[stack]".to_owned();
        }
        let mut others = process.cpu.threads.iter().skip(1);
        if let Some(thread) = others.find(|thread| region.range.contains(thread.registers.rsp)) {
            return format!("[stack of thread {}]", thread.tid);
        }
    }
    attachment(checkpoint, &region.attachment)
}

/// What a region shows.
pub fn attachment(checkpoint: &Checkpoint, attachment: &Attachment) -> String {
    match attachment {
        Attachment::Anonymous => "anonymous".to_owned(),
        Attachment::File { file, .. } => file.path.to_string(),
        Attachment::Dataspace { dataspace, .. } => match checkpoint.dataspaces.get(dataspace.index()) {
            Some(Dataspace { kind: DataspaceKind::Memfd { name, .. }, .. }) => format!("memfd {name}"),
            _ => "shared anonymous".to_owned(),
        },
        Attachment::Description { description, .. } => {
            let found = checkpoint.descriptions.get(description.index());
            found.map_or_else(String::new, |found| name(checkpoint, &found.capability))
        }
        Attachment::Segment { segment, .. } => {
            let found = checkpoint.objects.segments.get(segment.index());
            found.map_or_else(String::new, |segment| format!("System V segment {}", segment.ipc.id))
        }
        Attachment::Aio { .. } => "[aio]".to_owned(),
        Attachment::Special(special) => format!("[{special:?}]").to_lowercase(),
    }
}

/// Renders rights, as `rw-`, with the protection key if there is one.
pub fn rights(protection: &Protection) -> String {
    let flag = |on: bool, letter: char| if on { letter } else { '-' };
    let mut text: String =
        [flag(protection.read, 'r'), flag(protection.write, 'w'), flag(protection.execute, 'x')]
            .iter()
            .collect();
    if protection.key != 0 {
        text.push_str(&format!(" key {}", protection.key));
    }
    text
}
