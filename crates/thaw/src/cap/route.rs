//! What rules of a route table change about the way in which a capability is obtained.

use super::error::{About, Error};
use super::file::{self, Problem, Same};
use super::{Planned, Route, regular, tcp};
use frost_image::Digest;
use frost_model::cap::{
    Capability, Content, Description, FileRef, Outside, OutsideKind, SocketOption, UnixName,
};
use frost_model::route::{Action, IfChanged, Rule, actions};
use frost_model::{BytePath, Checkpoint, DescriptionId};
use frost_sys::sight;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::SocketAddr;
use std::path::Path;

/// How long a peer may take to accept a connection.
const CONNECTED_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What must be as it was of a named file, by its rule.
pub(super) fn same(rule: Option<&Rule>, flags: u32) -> Same {
    match (regular::same(flags), rule.and_then(|rule| rule.if_changed)) {
        (Same::Content, Some(IfChanged::Grown | IfChanged::Truncate)) => Same::Beginning,
        (_, Some(IfChanged::Ignore)) => Same::Kind,
        (usual, _) => usual,
    }
}

/// The file that is opened: by the rule another one, of which nothing is known.
pub(super) fn instead_of(file: &FileRef, rule: Option<&Rule>) -> FileRef {
    match rule.and_then(|rule| rule.to.as_deref()) {
        Some(to) => FileRef { path: BytePath::from(Path::new(to)), identity: file.identity.clone() },
        None => file.clone(),
    }
}

/// Applies the rule of a description to what is planned for it, and says what is in the way of that.
pub(super) fn apply(
    checkpoint: &Checkpoint,
    id: DescriptionId,
    description: &Description,
    rule: &Rule,
    planned: &mut Planned,
) -> Vec<Problem> {
    let problem = |reason: String, remedy: &str| {
        vec![Problem { reason, remedy: remedy.to_owned(), errno: None, content: false }]
    };
    let possible = actions(&description.capability);
    let Some(action) = rule.action else { return Vec::new() };
    if !possible.contains(&action) {
        let words: Vec<&str> = possible.iter().map(|action| action.word()).collect();
        return problem(
            format!("its route {} says `{}`, which it cannot be", rule.about, action.word()),
            &format!("let the route say one of {}", words.join(", ")),
        );
    }
    match action {
        Action::Refuse => {
            return problem(
                format!("its route {} says that it is refused", rule.about),
                "give another route with --route",
            );
        }
        Action::Close => {
            planned.route = Route::Close;
            let mapped = checkpoint.processes.iter().flat_map(|process| &process.rm.regions);
            if mapped.clone().any(|region| {
                matches!(region.attachment, frost_model::rm::Attachment::Description { description, .. } if description == id)
            }) {
                return problem("its route says `close`, and it is mapped".to_owned(), "give it another route");
            }
            if planned.effect.is_none() || !matches!(description.capability, Capability::TcpStream(_)) {
                planned.effect = Some(closed_text(&description.capability).to_owned());
            }
        }
        Action::Inherit => {
            let numbers = super::numbers(checkpoint, id);
            let number = super::outside::inherited_number(description, &numbers)
                .or_else(|| numbers.into_iter().find(|number| (0..3).contains(number)));
            let Some(number) = number else {
                return problem(
                    "its route says `inherit`, and it is no standard input, output or error".to_owned(),
                    "give it another route",
                );
            };
            planned.route = Route::Inherit(number);
            planned.effect = Some(format!("fd {number} of this command"));
        }
        Action::Reconnect => {
            let to = match &description.capability {
                Capability::TcpStream(stream) => match &rule.to {
                    Some(to) if to.parse::<SocketAddr>().is_err() => {
                        return problem(
                            format!("its route leads to {to:?}, which is no address with a port"),
                            "write it as 10.0.0.5:5432 or [::1]:5432",
                        );
                    }
                    Some(to) => Some(to.clone()),
                    None => stream.peer.map(|peer| peer.to_string()),
                },
                Capability::Outside(Outside { kind: OutsideKind::Unix { peer_name, .. }, .. }) => {
                    rule.to.clone().or_else(|| peer_name.as_ref().map(UnixName::to_string))
                }
                _ => None,
            };
            let Some(to) = to else {
                return problem(
                    "its route says `reconnect`, and the name of its peer is not known".to_owned(),
                    "tell it by `to`",
                );
            };
            planned.route = Route::Reconnect;
            planned.effect = Some(format!("connected anew to {to}; what was under way is lost"));
        }
        Action::Reopen => {
            planned.route = Route::Reopen;
            if let Capability::Outside(_) = &description.capability {
                let Some(to) = &rule.to else {
                    return problem(
                        "its route says `reopen`, and it has no path".to_owned(),
                        "tell the path by `to`",
                    );
                };
                planned.effect = Some(format!("{to} takes its place"));
                if let Err(errno) = try_open(to, description.flags) {
                    return problem(
                        format!("{to}, which is to take its place, cannot be opened: {errno}"),
                        "make it reachable, or give it another route",
                    );
                }
            } else if let Some(to) = &rule.to {
                planned.effect = Some(format!("{to} takes its place"));
            }
        }
        Action::Recreate => {}
    }
    Vec::new()
}

/// Whether the end of a file that has grown may be cut off: what it was must still be there.
pub(super) fn has_prefix(opened: &OwnedFd, file: &FileRef, digest: Option<&[u8; 32]>) -> Result<(), Problem> {
    let problem = |reason: String, remedy: &str| {
        Err(Problem { reason, remedy: remedy.to_owned(), errno: None, content: false })
    };
    let Some(digest) = digest else {
        return problem(
            "its route says `truncate`, and no digest of what it held was noted when it was frozen"
                .to_owned(),
            "give that route when the program is started (`frost run --route`)",
        );
    };
    // The program may have it for writing only.
    let now = std::fs::File::open(file::own_path(opened))
        .and_then(|content| Digest::of_beginning(content, file.identity.len_bytes));
    match now {
        Ok(now) if now.as_bytes() == digest => Ok(()),
        Ok(_) => problem(
            format!("the first {} bytes of it are not what they were", file.identity.len_bytes),
            "put them back as they were when the program was frozen",
        ),
        Err(error) => problem(format!("it cannot be read: {error}"), "let it be readable"),
    }
}

/// Files that are cut to the length they had, once the program is complete.
#[derive(Debug, Default)]
pub(super) struct Cut(Vec<(OwnedFd, FileRef)>);

impl Cut {
    /// Notes the files whose rules say so, as they were opened for the program.
    ///
    /// # Errors
    /// If one cannot be duplicated.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        planned: &[Planned],
        made: &[Option<OwnedFd>],
    ) -> Result<Self, Error> {
        let mut files = Vec::new();
        for ((description, planned), made) in checkpoint.descriptions.iter().zip(planned).zip(made) {
            if let Capability::Regular(regular) = &description.capability
                && let Content::Named { file, .. } = &regular.content
                && planned.rule.as_ref().is_some_and(|rule| rule.if_changed == Some(IfChanged::Truncate))
                && planned.route == Route::Reopen
                && let Some(made) = made
            {
                let copy = rustix::io::fcntl_dupfd_cloexec(made, 0).about("duplicate", &file.path)?;
                files.push((copy, file.clone()));
            }
        }
        Ok(Self(files))
    }

    /// Cuts them.
    pub(super) fn apply(&self) -> Result<(), Error> {
        // All or none, as far as can be told beforehand.
        let mut writable = Vec::with_capacity(self.0.len());
        for (opened, file) in &self.0 {
            let stat = rustix::fs::fstat(opened).about("look at", &file.path)?;
            if stat.st_size.cast_unsigned() <= file.identity.len_bytes {
                continue;
            }
            let access = rustix::fs::fcntl_getfl(opened).about("look at", &file.path)? & OFlags::RWMODE;
            let fd = if access == OFlags::RDONLY {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                rustix::fs::open(file::own_path(opened), flags, Mode::empty())
            } else {
                // Opened again, it would break a lease that the program has on it by now.
                rustix::io::fcntl_dupfd_cloexec(opened, 0)
            };
            writable.push((fd.about("cut", &file.path)?, file));
        }
        writable.iter().try_for_each(|(fd, file)| {
            rustix::fs::ftruncate(fd, file.identity.len_bytes).about("cut", &file.path)
        })
    }
}

/// Makes what takes the place of a description that is closed: one that gives errors, and keeps its number.
pub(super) fn make_closed(capability: &Capability, flags: u32) -> Result<OwnedFd, Error> {
    let kind = match capability {
        Capability::TcpListener(_) => Some(SocketType::STREAM),
        Capability::Udp(_) => Some(SocketType::DGRAM),
        _ => None,
    };
    let v6 = match capability {
        Capability::TcpListener(listener) => listener.inet.v6,
        Capability::Udp(socket) => socket.inet.v6,
        _ => false,
    };
    match kind {
        Some(kind) => {
            let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
            let fd = socket_with(family, kind, SocketFlags::CLOEXEC, None).about("make", capability)?;
            file::set_status(&fd, flags).about("set the flags of", capability)?;
            Ok(fd)
        }
        // Reads, writes and the like give EBADF by it, as open(2) says of O_PATH, and no later open gets its number.
        None => {
            rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).about("close", capability)
        }
    }
}

fn closed_text(capability: &Capability) -> &'static str {
    match capability {
        Capability::TcpListener(_) | Capability::Udp(_) => "a socket without an address",
        Capability::TcpStream(_) => {
            "it was reset by its peer: ECONNRESET, then end of file; writes give EPIPE"
        }
        Capability::Outside(outside) => super::outside::closed_text(outside),
        _ => "it is closed: EBADF",
    }
}

/// Opens the file that takes the place of something outside. For writing it is appended to, and made if need be.
pub(super) fn open_instead(to: &str, flags: u32) -> Result<OwnedFd, Error> {
    // As everywhere here, nothing may make us wait: a fifo without a reader is refused by its error.
    let open = instead_flags(flags);
    let how = open | OFlags::CREATE | OFlags::NONBLOCK;
    let fd = rustix::fs::open(sight::of(Path::new(to)), how, Mode::from_raw_mode(0o666)).about("open", to)?;
    file::set_status(&fd, flags | (open & OFlags::APPEND).bits()).about("set the flags of", to)?;
    Ok(fd)
}

fn instead_flags(flags: u32) -> OFlags {
    let mode = OFlags::from_bits_retain(flags) & OFlags::RWMODE;
    let append = if mode == OFlags::RDONLY { OFlags::empty() } else { OFlags::APPEND };
    mode | append | OFlags::CLOEXEC | OFlags::NOCTTY
}

fn try_open(to: &str, flags: u32) -> rustix::io::Result<()> {
    match rustix::fs::open(sight::of(Path::new(to)), instead_flags(flags) | OFlags::NONBLOCK, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            let parent = Path::new(to).parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.ok_or(Errno::NOENT)?;
            rustix::fs::access(sight::of(parent), rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        }
        Err(errno) => Err(errno),
    }
}

/// Connects to the peer of a connection anew.
pub(super) fn reconnect(description: &Description, rule: Option<&Rule>) -> Result<OwnedFd, Error> {
    let what = || match rule.and_then(|rule| rule.to.as_ref()) {
        Some(to) => format!("{}, by its route to {to}", description.capability),
        None => description.capability.to_string(),
    };
    let fd = match &description.capability {
        Capability::TcpStream(stream) => {
            let to = rule.and_then(|rule| rule.to.as_deref()).and_then(|to| to.parse().ok()).or(stream.peer);
            let to = to.ok_or(Errno::DESTADDRREQ).about("reconnect", what())?;
            connect_tcp(to, &stream.inet.options).about("reconnect", what())?
        }
        Capability::Outside(Outside { kind: OutsideKind::Unix { kind, peer_name, .. }, .. }) => {
            let to = rule.and_then(|rule| rule.to.as_ref());
            let raw = match (to, peer_name) {
                (Some(to), _) => Some(match to.strip_prefix('@') {
                    Some(name) => [b"\0", name.as_bytes()].concat(),
                    None => to.as_bytes().to_vec(),
                }),
                (None, Some(name)) => super::outside::raw_name(name),
                (None, None) => None,
            };
            let raw = raw.ok_or(Errno::DESTADDRREQ).about("reconnect", what())?;
            let kind = super::outside::socket_type(*kind);
            let fd =
                socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
            let fd = fd.about("make", what())?;
            frost_sys::sock::connect_unix(&fd, &raw).about("reconnect", what())?;
            fd
        }
        _ => return Err(Errno::OPNOTSUPP).about("reconnect", what()),
    };
    file::set_status(&fd, description.flags).about("set the flags of", what())?;
    Ok(fd)
}

fn connect_tcp(to: SocketAddr, options: &[SocketOption]) -> rustix::io::Result<OwnedFd> {
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    tcp::set_options(&fd, options);
    match rustix::net::connect(&fd, &to) {
        Ok(()) => return Ok(fd),
        Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    match poll(&mut fds, Some(&CONNECTED_WITHIN))? {
        0 => Err(Errno::TIMEDOUT),
        _ => rustix::net::sockopt::socket_error(fd.as_fd())?.map(|()| fd),
    }
}
