//! Names of unix sockets, and the nodes that they have in file systems.

use super::file::Problem;
use super::unix::Sockets;
use super::unix::new_socket;
use frost_model::BytePath;
use frost_model::cap::{UnixName, UnixSocket, UnixType};
use frost_sys::sock::{bind_unix, connect_unix, in_directory};
use frost_sys::unix_diag::{ESTABLISHED, UnixSocket as UnixDiag, unix_sockets};
use frost_sys::{network, sight};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The bytes by which a name is bound.
pub(crate) fn raw(name: &UnixName) -> Vec<u8> {
    match name {
        UnixName::Abstract(name) => [b"\0", name.as_slice()].concat(),
        UnixName::Path { path, .. } => path.as_bytes().to_vec(),
    }
}

/// Where the node of a name lies; `None` for an abstract name, or a relative one whose directory is not known.
pub(super) fn node(name: &UnixName) -> Option<PathBuf> {
    match name {
        UnixName::Abstract(_) => None,
        UnixName::Path { path, directory: Some(directory), .. } => {
            Some(directory.as_path().join(path.as_path()))
        }
        UnixName::Path { path, directory: None, .. } => {
            path.as_path().is_absolute().then(|| path.as_path().to_owned())
        }
    }
}

/// Gives a socket its name, in the directory from which it is meant.
pub(super) fn bind(fd: &OwnedFd, name: &UnixName) -> rustix::io::Result<()> {
    match name {
        UnixName::Path { directory: Some(directory), .. } => {
            in_directory(directory.as_path(), || bind_unix(fd, &raw(name)))
        }
        _ => bind_unix(fd, &raw(name)),
    }
}

/// Returns the name by which a socket is reached: that of a place where its node was found, if it was moved.
pub(super) fn address(socket: &UnixSocket) -> Option<Cow<'_, UnixName>> {
    let name = socket.name.as_ref()?;
    let Some(place) = socket.places.first() else { return Some(Cow::Borrowed(name)) };
    let (parent, last) = (place.as_path().parent()?, place.as_path().file_name()?);
    Some(Cow::Owned(UnixName::Path {
        path: BytePath::from(Path::new(last)),
        directory: Some(BytePath::from(parent)),
        present: true,
        mode: 0,
        uid: 0,
        gid: 0,
    }))
}

/// Connects a socket to the one that has `name`.
pub(super) fn connect(fd: &OwnedFd, name: &UnixName) -> rustix::io::Result<()> {
    match name {
        UnixName::Path { directory: Some(directory), .. } => {
            in_directory(directory.as_path(), || connect_unix(fd, &raw(name)))
        }
        _ => connect_unix(fd, &raw(name)),
    }
}

/// Whether a name is another socket's. Nobody is disturbed by finding out: no connection is tried.
pub(crate) fn is_alive(name: &UnixName) -> bool {
    let Some(path) = node(name) else {
        // An abstract name can be taken for a moment, if it is free.
        let Ok(fd) = new_socket(UnixType::Stream) else { return false };
        return matches!(name, UnixName::Abstract(_)) && bind(&fd, name) == Err(Errno::ADDRINUSE);
    };
    is_node_alive(&path)
}

/// Whether a path leads to the node of another's socket.
fn is_node_alive(path: &Path) -> bool {
    let Ok(stat) = rustix::fs::lstat(sight::of(path)) else { return false };
    let changed = Duration::new(stat.st_ctime.max(0) as u64, stat.st_ctime_nsec as u32);
    NODES.lock().unwrap_or_else(PoisonError::into_inner).has(stat.st_ino as u32, changed)
}

/// The nodes that sockets have, as they were listed last: listing takes as long as there are sockets on the machine.
struct Nodes {
    /// When they were listed, since 1970, and in which network.
    listed: Option<(Duration, Option<u64>)>,
    inodes: BTreeSet<u32>,
}

static NODES: Mutex<Nodes> = Mutex::new(Nodes { listed: None, inodes: BTreeSet::new() });

impl Nodes {
    /// How much older than the list a node must be, which the clocks of file systems do not tell finer than by ticks.
    const MARGIN: Duration = Duration::from_secs(1);

    /// Whether a socket has the node `inode`, which was changed last at `changed`.
    ///
    /// A socket that is bound gets a new node (unix_bind_bsd, net/unix/af_unix.c): who did not have one that was there
    /// before the list has none now.
    fn has(&mut self, inode: u32, changed: Duration) -> bool {
        let network = network::id();
        let holds = self.listed.is_some_and(|(at, of)| of == network && changed + Self::MARGIN < at);
        if holds && !self.inodes.contains(&inode) {
            return false;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Ok(sockets) = unix_sockets() else { return false };
        // Those that were accepted have the name of the listening one too.
        let accepted = |other: &UnixDiag| other.kind != libc::SOCK_DGRAM as u8 && other.state == ESTABLISHED;
        let owners = sockets.iter().filter(|socket| !accepted(socket));
        self.inodes = owners.filter_map(|socket| Some(socket.node?.1)).collect();
        self.listed = Some((now, network));
        self.inodes.contains(&inode)
    }
}

/// How long names are waited for in all, whose sockets may be those of a thaw that was killed a moment ago.
const ON_ITS_WAY_OUT: Duration = Duration::from_secs(1);

/// Returns whether what is alive now is not any more, maybe a moment later.
fn is_free_soon(is_alive: impl Fn() -> bool) -> bool {
    static SINCE: OnceLock<Instant> = OnceLock::new();
    while is_alive() {
        if SINCE.get_or_init(Instant::now).elapsed() > ON_ITS_WAY_OUT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Looks whether a socket's name can be taken, and its node be made.
pub(super) fn look(socket: &UnixSocket) -> Result<(), Problem> {
    let Some(name) = &socket.name else { return Ok(()) };
    for place in &socket.places {
        if !is_free_soon(|| is_node_alive(place.as_path())) {
            return taken(place);
        }
        look_at_node(place.as_path())?;
    }
    if matches!(name, UnixName::Path { present: false, .. }) {
        return Ok(());
    }
    if !is_free_soon(|| is_alive(name)) {
        return taken(name);
    }
    node(name).map_or(Ok(()), |path| look_at_node(&path))
}

fn taken(name: &dyn std::fmt::Display) -> Result<(), Problem> {
    problem(
        format!("{name} is the name of another program's socket now"),
        "end that program (`ss -xlp` tells which)",
    )
}

pub(super) fn problem(reason: String, remedy: &str) -> Result<(), Problem> {
    Err(Problem { reason, remedy: remedy.to_owned(), errno: None, content: false })
}

/// Looks whether the node of a socket can be made.
fn look_at_node(path: &Path) -> Result<(), Problem> {
    match rustix::fs::lstat(sight::of(path)) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            problem(format!("{} is something else now", path.display()), "move it away")
        }
        Ok(_) | Err(Errno::NOENT) => {
            let directory = path.parent().unwrap_or(path);
            match rustix::fs::access(sight::of(directory), rustix::fs::Access::WRITE_OK) {
                Ok(()) => Ok(()),
                Err(error) => problem(
                    format!("no socket can be made in {}: {error}", directory.display()),
                    "make that directory, and let it be writable",
                ),
            }
        }
        Err(error) => problem(format!("{} cannot be looked up: {error}", path.display()), "see the cause"),
    }
}

/// Removes the node that the frozen socket left behind.
pub(super) fn clear(name: &UnixName) -> rustix::io::Result<()> {
    node(name).map_or(Ok(()), |path| clear_node(&path))
}

fn clear_node(path: &Path) -> rustix::io::Result<()> {
    match rustix::fs::lstat(sight::of(path)) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket && !is_node_alive(path) => {
            rustix::fs::unlink(path)
        }
        Ok(_) => Err(Errno::ADDRINUSE),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives a socket the name that it had, if any, and its node the places.
pub(super) fn be_named(fd: &OwnedFd, socket: &UnixSocket, sockets: &mut Sockets) -> rustix::io::Result<()> {
    match &socket.name {
        Some(name) if socket.places.is_empty() => take_name(fd, name, sockets),
        Some(name) => take_places(fd, name, &socket.places),
        None => Ok(()),
    }
}

/// Gives a socket the name it had for good, with the node's owner and mode; a node that was gone goes again at the end.
pub(super) fn take_name(fd: &OwnedFd, name: &UnixName, sockets: &mut Sockets) -> rustix::io::Result<()> {
    if let UnixName::Path { path, directory: None, present: false, .. } = name
        && !path.as_path().is_absolute()
    {
        // Nobody knows from where it was meant, and nobody can use it: its name is lost.
        return Ok(());
    }
    let UnixName::Path { present, mode, uid, gid, .. } = name else { return bind(fd, name) };
    let Some(path) = node(name) else { return bind(fd, name) };
    if !present && rustix::fs::lstat(sight::of(&path)).is_ok() {
        // The path is another's by now, and nobody could reach this socket by it.
        return Ok(());
    }
    clear(name)?;
    match bind(fd, name) {
        Err(_) if !present => return Ok(()),
        other => other?,
    }
    if !present {
        sockets.extra_nodes.push(path);
        return Ok(());
    }
    give(&path, (*mode, *uid, *gid))
}

/// Gives a node its mode and its owner.
fn give(path: &Path, (mode, uid, gid): (u32, u32, u32)) -> rustix::io::Result<()> {
    rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    // An ordinary user cannot give a node away, and need not: it is theirs already.
    let _ = rustix::fs::chownat(
        rustix::fs::CWD,
        path,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    );
    Ok(())
}

/// Gives a socket its name, and its node the places where it was found beside that.
///
/// The name is what is given to bind(2), which makes the node there. Where that cannot be, since its directory is gone or another
/// has taken it, the socket is bound where it was found, and tells that name: that it is reached is more.
fn take_places(fd: &OwnedFd, name: &UnixName, places: &[BytePath]) -> rustix::io::Result<()> {
    let UnixName::Path { present, mode, uid, gid, .. } = name else { return bind(fd, name) };
    let mut places = places.iter().map(BytePath::as_path);
    for place in places.clone() {
        clear_node(place)?;
    }
    let named = node(name);
    let first = match (&named, places.next()) {
        (Some(named), place) if *present => {
            clear(name)?;
            bind(fd, name)?;
            place.map_or(Ok(()), |place| rustix::fs::link(named, place))?;
            named
        }
        (Some(named), Some(place)) if can_move(named, place) && bind(fd, name).is_ok() => {
            rustix::fs::rename(named, place)?;
            place
        }
        (_, Some(place)) => {
            bind_at(fd, place)?;
            place
        }
        (_, None) => return bind(fd, name),
    };
    for place in places {
        rustix::fs::link(first, place)?;
    }
    give(first, (*mode, *uid, *gid))
}

/// Whether a node can be made at one path and moved to another.
fn can_move(from: &Path, to: &Path) -> bool {
    let device =
        |path: &Path| path.parent().and_then(|parent| rustix::fs::stat(parent).ok()).map(|at| at.st_dev);
    matches!(rustix::fs::lstat(from), Err(Errno::NOENT))
        && device(from).is_some()
        && device(from) == device(to)
}

/// Binds a socket at a path, however long that is.
fn bind_at(fd: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    let bytes = path.as_os_str().as_bytes();
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(last)) if bytes.len() > MOST_PATH => {
            in_directory(parent, || bind_unix(fd, last.as_bytes()))
        }
        _ => bind_unix(fd, bytes),
    }
}

/// The longest path of an address, whose end is a NUL (`struct sockaddr_un`).
const MOST_PATH: usize = 107;
