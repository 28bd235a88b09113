//! Descriptions whose other end was not in the tree.
//!
//! Without `--attach` they are closed by their route: the object is of the kind it was, and its other end is gone.
//! The thawing command's own descriptors are never handed in then: a script that reads its output would wait for the
//! thawed program to close it.

use super::error::{About, Error};
use super::{Planned, Route, file, pipe, unix};
use frost_model::cap::{Description, Outside, OutsideKind, UnixName, UnixType};
use frost_model::{Checkpoint, DescriptionId};
use frost_sys::pty;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::termios::{Winsize, isatty, tcsetwinsize};

/// Masters of pseudoterminals that are closed when all slaves are open: that hangs them up.
pub(super) type Masters = Vec<OwnedFd>;

/// Makes a description that is closed at its other end.
pub(super) fn make_closed(
    description: &Description,
    outside: &Outside,
    masters: &mut Masters,
) -> Result<OwnedFd, Error> {
    let what = || description.capability.to_string();
    let flags = description.flags;
    match &outside.kind {
        OutsideKind::Terminal { settings, size, .. } => {
            hung_up_terminal(flags, settings, *size, masters).about("make", what())
        }
        OutsideKind::Pipe { capacity_bytes, content, .. } => {
            let recorded = frost_model::cap::Pipe {
                capacity_bytes: *capacity_bytes,
                content: vec![serde_bytes::ByteBuf::from(content.as_slice())],
                readers: false,
                writers: false,
                node: None,
            };
            let mut made = pipe::make(&recorded).about("make", what())?;
            made.description(flags).about("make", what())
        }
        OutsideKind::Unix { kind, peer_name, queue, credentials, .. } => {
            let fd = match reconnected(*kind, peer_name.as_ref()) {
                Some(fd) => fd,
                None => {
                    // As who was its peer, since a program may go by who has said what waits.
                    let (ours, theirs) = unix::pair_of(*kind, credentials.as_ref()).about("make", what())?;
                    for message in queue {
                        frost_sys::sock::send_unix(&theirs, &message.data, None, &[])
                            .about("fill the queue of", what())?;
                    }
                    ours
                }
            };
            file::set_status(&fd, flags).about("set the flags of", what())?;
            Ok(fd)
        }
    }
}

/// Says what a closed description will show to the program.
pub(super) fn closed_text(outside: &Outside) -> &'static str {
    match &outside.kind {
        OutsideKind::Terminal { .. } => "a terminal that was hung up: reads end, writes give EIO",
        OutsideKind::Pipe { .. } => "what waited in it, then end of file; writes give EPIPE",
        OutsideKind::Unix { kind: UnixType::Datagram, peer_name: Some(_), .. } => {
            "connected again by its name if that is there, else its peer is closed"
        }
        OutsideKind::Unix { .. } => "what waited in it, then end of file; writes give EPIPE",
    }
}

pub(super) fn socket_type(kind: UnixType) -> SocketType {
    match kind {
        UnixType::Stream => SocketType::STREAM,
        UnixType::Datagram => SocketType::DGRAM,
        UnixType::SeqPacket => SocketType::SEQPACKET,
    }
}

/// Connects a datagram socket to its peer's name: such a peer, as a logging service, knows of no connection that could
/// have been broken.
fn reconnected(kind: UnixType, name: Option<&UnixName>) -> Option<OwnedFd> {
    let (UnixType::Datagram, Some(name)) = (kind, name) else { return None };
    let raw = raw_name(name)?;
    let fd = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    frost_sys::sock::connect_unix(&fd, &raw).ok().map(|()| fd)
}

/// Returns a name as connect(2) takes it; `None` if it counts from a working directory.
pub(super) fn raw_name(name: &UnixName) -> Option<Vec<u8>> {
    match name {
        UnixName::Abstract(name) => Some([b"\0", name.as_slice()].concat()),
        UnixName::Path { path, directory: None, .. } => Some(path.as_bytes().to_vec()),
        UnixName::Path { .. } => None,
    }
}

/// Opens the slave of a new pseudoterminal whose master will be closed.
fn hung_up_terminal(
    flags: u32,
    settings: &[u8],
    size: (u16, u16),
    masters: &mut Masters,
) -> rustix::io::Result<OwnedFd> {
    let master = pty::open_master()?;
    let mode = OFlags::from_bits_retain(flags) & OFlags::RWMODE;
    let slave = pty::open_slave(&master, mode | OFlags::NONBLOCK)?;
    if let Ok(settings) = settings.try_into() {
        pty::set_settings(&slave, settings)?;
        let size = Winsize { ws_row: size.0, ws_col: size.1, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size)?;
    }
    file::set_status(&slave, flags)?;
    masters.push(master);
    Ok(slave)
}

/// Finds the one of our own standard descriptors to hand in for a description that the program has under `numbers`.
pub(super) fn inherited_number(description: &Description, numbers: &[i32]) -> Option<i32> {
    let mode = |flags: OFlags| flags & OFlags::RWMODE;
    let wanted = mode(OFlags::from_bits_retain(description.flags));
    let own = |number: i32| -> Option<OFlags> {
        let flags = rustix::fs::fcntl_getfl(standard(number)).ok()?;
        Some(mode(flags))
    };
    let serves = |number: &i32| match (wanted, own(*number)) {
        (_, None) => false,
        (_, Some(own)) if own == OFlags::RDWR => true,
        (wanted, Some(own)) => wanted == own,
    };
    // Terminals are one device whichever of the three shows it, so any will do for the program's own.
    if is_terminal(description) && any_terminal() {
        return [0, 1, 2].into_iter().find(|number| isatty(standard(*number)));
    }
    let candidates = || numbers.iter().copied().filter(|number| (0..3).contains(number));
    candidates().find(serves).or_else(|| candidates().next())
}

/// Returns whether it was a terminal.
pub(super) fn is_terminal(description: &Description) -> bool {
    use frost_model::cap::Capability;
    matches!(&description.capability, Capability::Outside(Outside { kind: OutsideKind::Terminal { .. }, .. }))
}

fn any_terminal() -> bool {
    [0, 1, 2].into_iter().any(|number| isatty(standard(number)))
}

/// Hands in one of our own standard descriptors.
pub(super) fn inherit(number: i32, flags: u32) -> Result<OwnedFd, Error> {
    let own = standard(number);
    let what = || format!("fd {number} of this command");
    if isatty(own) {
        // A description of its own, so that its O_NONBLOCK is not that of the user's shell.
        let open = OFlags::from_bits_retain(flags) & OFlags::RWMODE;
        let open = open | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::open(file::own_path(own), open, Mode::empty()) {
            Ok(fd) => {
                file::set_status(&fd, flags).about("set the flags of", what())?;
                return Ok(fd);
            }
            // It belongs to somebody else, as after su(1): then the program gets what we were given, as it is.
            Err(Errno::ACCESS | Errno::PERM | Errno::IO) => {}
            Err(error) => return Err(error).about("open", what()),
        }
    }
    own.try_clone_to_owned()
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
        .about("duplicate", what())
}

/// Hands in our own standard descriptors where the program has an inherited description under such a number, and ours
/// is not the same terminal under all of them.
pub(super) fn instead(
    checkpoint: &Checkpoint,
    planned: &[Planned],
) -> Result<Vec<(DescriptionId, i32, OwnedFd)>, Error> {
    let mut instead = Vec::new();
    for (index, (planned, description)) in planned.iter().zip(&checkpoint.descriptions).enumerate() {
        let Route::Inherit(inherited) = planned.route else { continue };
        let id = DescriptionId::new(index as u32);
        for number in super::numbers(checkpoint, id).into_iter().filter(|number| (0..3).contains(number)) {
            let own_is_terminal = isatty(standard(number));
            if number != inherited && !(own_is_terminal && isatty(standard(inherited))) {
                instead.push((id, number, inherit(number, description.flags)?));
            }
        }
    }
    Ok(instead)
}

fn standard(number: i32) -> BorrowedFd<'static> {
    match number {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}
