//! The inside of a program's namespaces: made fit to live in by their pid 1, which then becomes the keeper.

use crate::connection;
use crate::protocol::LEADER;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// What a keeper holds. It serves the program and those who look at it; an image needs none of it.
#[derive(Debug, Default)]
pub struct Held {
    /// What a list of processes shows behind its name.
    pub name: String,
    /// The instance's directory, in which are its log and the note of its end, and the socket in it.
    pub place: Option<(OwnedFd, OwnedFd)>,
    /// The log.
    pub log: Option<OwnedFd>,
    /// The master side of the program's terminal.
    pub master: Option<OwnedFd>,
    /// The other end of a connection of somebody who watches.
    pub watcher: Option<OwnedFd>,
    /// One more.
    pub second: Option<OwnedFd>,
    /// The listener of the program's filter.
    pub listener: Option<OwnedFd>,
    /// What tells somebody by being closed that the keeper has ended; it does nothing else with it.
    pub tie: Option<OwnedFd>,
    /// Whether the session of the terminal is led by [`LEADER`], which is there already.
    pub led: bool,
}

impl Held {
    /// Makes the socket in an instance's directory; the keeper to be is to say when it can be talked to.
    ///
    /// # Errors
    /// Those of bind(2); EFBIG if no file may be as long as the keeper (RLIMIT_FSIZE), which is one in memory.
    pub fn at(name: &str, directory: OwnedFd) -> Result<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).maximum;
        if limit.is_some_and(|limit| limit < crate::PROGRAM.len() as u64) {
            return Err(Errno::FBIG);
        }
        let listener = connection::bind(rustix::fd::AsFd::as_fd(&directory))?;
        Ok(Self { name: name.to_owned(), place: Some((directory, listener)), ..Self::default() })
    }

    /// Takes connections from now on; to be called by the process that becomes the keeper.
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn hear(&self) -> Result<()> {
        match &self.place {
            Some((_, socket)) => connection::hear(socket),
            None => Ok(()),
        }
    }
}

/// Becomes the keeper of the program whose root is our child `root`. Every descriptor but those held is closed.
///
/// Returns only if that fails; the process can then only end.
pub fn become_keeper(root: i32, held: &Held) -> Errno {
    let mut keep: Vec<i32> = Vec::new();
    let mut number = |fd: Option<&OwnedFd>| match fd {
        Some(fd) => {
            keep.push(fd.as_raw_fd());
            keep.len() as i32 + 2
        }
        None => -1,
    };
    let (directory, listener) = match &held.place {
        Some((directory, listener)) => (number(Some(directory)), number(Some(listener))),
        None => (-1, -1),
    };
    let (log, master) = (number(held.log.as_ref()), number(held.master.as_ref()));
    let (watcher, second) = (number(held.watcher.as_ref()), number(held.second.as_ref()));
    let told = number(held.listener.as_ref());
    number(held.tie.as_ref());
    // Behind the numbers, for people: what it is the keeper of.
    let place = held.place.as_ref().and_then(|(directory, _)| {
        rustix::fs::readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new()).ok()
    });
    let place = place.unwrap_or_default();
    let place = place.to_string_lossy();
    let leader = if held.led { LEADER } else { -1 };
    let setup = format!(
        "KEEPER={root} {listener} {directory} {log} {master} {watcher} {second} {told} {leader} {place}"
    );
    let title =
        if held.name.is_empty() { "frost-keeper".to_owned() } else { format!("frost-keeper {}", held.name) };
    match (CString::new(title), CString::new(setup)) {
        (Ok(title), Ok(setup)) => frost_sys::spawn::become_program(crate::PROGRAM, &title, &setup, &keep),
        _ => Errno::INVAL,
    }
}

/// Becomes the leader of the session of a program's terminal, which leads it already, and does nothing more. Every
/// descriptor but that of the terminal is closed.
///
/// Returns only if that fails; the process can then only end.
pub fn become_leader(terminal: &OwnedFd) -> Errno {
    frost_sys::spawn::become_program(crate::PROGRAM, c"frost-session", c"LEADER=", &[terminal.as_raw_fd()])
}

/// How the namespaces of a program under the runtime are more than those of one that was only thawed.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The kinds of [`admission`](crate::admission) that are open to it.
    pub allowed: Vec<String>,
    /// Whether the keeper has a terminal for it.
    pub terminal: bool,
    /// The terminal outside that it shall find as `/dev/console`.
    pub console: Option<PathBuf>,
    /// Directories of which it has a view of its own.
    pub layers: Vec<Layer>,
    /// What its image brought along for directories.
    pub covers: Vec<Cover>,
    /// Whether it has a network of its own.
    pub network: bool,
    /// Whether that is to reach outside, if it can.
    pub outward: bool,
}

/// Where a program of the runtime is to be thawed: in the namespaces of a keeper.
#[derive(Debug)]
pub struct Home {
    /// The keeper's pid.
    pub keeper: i32,
    /// The keeper.
    pub pidfd: OwnedFd,
    /// The connection on which the thaw was announced.
    pub connection: crate::Connection,
    /// The terminal that the keeper holds: its slave side.
    pub terminal: Option<OwnedFd>,
    /// What is refused to the program.
    pub allowed: Vec<String>,
    /// Whether it may have asked for notices.
    pub notices: bool,
    /// Which copy of a program it is, 0 if it is none.
    pub copy: u32,
    /// The entrances of the control groups that it is to be built in.
    pub groups: Vec<OwnedFd>,
}

/// The interface by which a network of a program's own reaches outside, if somebody there serves it.
pub const OUTWARD: &str = "tap0";

/// What failed, and why.
pub type Failed = (String, Errno);

/// The highest pid there may be, and one more; since Linux 6.14 each pid namespace has its own, the greatest there is.
const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// Reads how high pids may be where we are; to be called before namespaces are made, for [`mount_proc`].
pub fn highest_pid() -> Vec<u8> {
    std::fs::read(PID_MAX).unwrap_or_default()
}

/// Maps our own user and group into a fresh user namespace, as themselves.
///
/// # Errors
/// Which file could not be written.
pub fn map_identity(ids: (u32, u32)) -> std::result::Result<(), Failed> {
    map_identity_of("self", ids)
}

/// Maps a user and group into the fresh user namespace of a process, as themselves.
///
/// # Errors
/// Which file could not be written.
pub fn map_identity_of(process: &str, (uid, gid): (u32, u32)) -> std::result::Result<(), Failed> {
    let write = |name: &str, text: String| {
        let path = format!("/proc/{process}/{name}");
        std::fs::write(&path, text).map_err(|error| (path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    };
    // user_namespaces(7): a group may be mapped by an ordinary user only when setgroups is given up.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{uid} {uid} 1"))?;
    write("gid_map", format!("{gid} {gid} 1"))
}

/// Mounts a `/proc` that shows our pid namespace, in which pids are no higher than outside: an image is to be thawed there. Mounts made here are not seen outside; those made there later are seen
/// here.
///
/// # Errors
/// Which mount failed.
pub fn mount_proc(highest_pid: &[u8]) -> std::result::Result<(), Failed> {
    let receive = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", receive).map_err(|errno| ("mounts of its own".to_owned(), errno))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", flags, None)
        .map_err(|errno| ("a /proc of its own".to_owned(), errno))?;
    // Before 6.14 it is one for all, and not ours to set.
    let _ = std::fs::write(PID_MAX, highest_pid);
    Ok(())
}

/// Makes a new network namespace, in which we are, as its program finds it.
///
/// There are no ports in there that are others' to protect: an ordinary `user`'s program, which has no rights over it, may
/// have the low ones too.
///
/// # Errors
/// What failed.
pub fn begin_network(user: bool) -> std::result::Result<(), Failed> {
    const LOW_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    frost_sys::network::census::begin().map_err(|errno| ("its loopback interface".to_owned(), errno))?;
    if user {
        let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        std::fs::write(LOW_PORTS, "0").map_err(|error| (LOW_PORTS.to_owned(), io(error)))?;
    }
    Ok(())
}

/// What there is in `/dev` of the host's: devices, and the directory [`SHARED`].
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", SHARED];

/// Shared memory is among it, since it has a name that a thaw finds again.
const SHARED: &str = "shm";

/// Where the terminal of whoever started the program has a name, since it is not among those of `/dev/pts`.
const CONSOLE: &str = "/dev/console";

/// Puts a `/dev` of a few harmless devices in place of the one there is, with pseudoterminals of its own.
///
/// `console` is the path of a terminal outside, to be found as `/dev/console`: so ttyname(3) has an answer.
///
/// # Errors
/// Which mount failed.
pub fn mount_dev(console: Option<&std::path::Path>) -> std::result::Result<(), Failed> {
    mount_dev_with(console, None)
}

/// Mounts a `/dev` as [`mount_dev`] does, with pseudoterminals that are there already, as [`new_terminals`] makes them.
///
/// # Errors
/// Which mount failed.
pub fn mount_dev_with(
    console: Option<&std::path::Path>,
    terminals: Option<BorrowedFd<'_>>,
) -> std::result::Result<(), Failed> {
    let about = |path: &str| {
        let path = path.to_owned();
        move |errno| (path, errno)
    };
    let named = DEVICES.iter().map(|name| {
        let path = format!("/dev/{name}");
        (path.clone(), path, *name == SHARED)
    });
    let console = console.map(|path| (path.to_string_lossy().into_owned(), CONSOLE.to_owned(), false));
    let mut trees = Vec::new();
    for (from, to, is_directory) in named.chain(console) {
        // A bound /dev/ptmx would not find its devpts (`path_pts`, fs/namei.c); all others are good as they are.
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        match rustix::mount::open_tree(CWD, &from, flags) {
            Ok(tree) => trees.push((to, tree, is_directory)),
            Err(Errno::NOENT | Errno::ACCESS) => {}
            Err(errno) => return Err(about(&from)(errno)),
        }
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("frost", "/dev", "tmpfs", flags, Some(c"mode=755,size=64k"))
        .map_err(about("a /dev of its own"))?;
    for (path, tree, is_directory) in trees {
        if is_directory {
            rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)).map_err(about(&path))?;
        } else {
            rustix::fs::mknodat(CWD, &path, FileType::RegularFile, Mode::empty(), 0).map_err(about(&path))?;
        }
        rustix::mount::move_mount(&tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(about(&path))?;
    }
    rustix::fs::mkdir("/dev/pts", Mode::from_raw_mode(0o755)).map_err(about("/dev/pts"))?;
    match terminals {
        Some(tree) => {
            rustix::mount::move_mount(tree, "", CWD, "/dev/pts", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(about("/dev/pts"))?;
        }
        None => mount_terminals()?,
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, to) in links {
        let path = format!("/dev/{name}");
        rustix::fs::symlink(to, &path).map_err(about(&path))?;
    }
    Ok(())
}

/// A directory of which a program gets a view of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The directory.
    pub directory: PathBuf,
    /// The directory for what is written there; below it are those that overlayfs needs.
    pub place: PathBuf,
}

impl Layer {
    /// Returns where what is written lies.
    pub fn upper(&self) -> PathBuf {
        self.place.join("upper")
    }

    /// Returns where overlayfs works; whatever is in it means nothing.
    pub fn work(&self) -> PathBuf {
        self.place.join("work")
    }
}

/// Files that are laid over those of a directory; nobody can make anything in it then. The directories in it are as
/// they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// The directory.
    pub directory: PathBuf,
    /// Where those files lie.
    pub files: PathBuf,
    /// An empty directory beside them.
    pub empty: PathBuf,
    /// Whether nothing else is to be seen in it.
    pub whole: bool,
}

/// Lays files over directories, of which an outer one stands before those in it. What is mounted in these stays to be
/// seen.
///
/// # Errors
/// Which mount failed.
pub fn mount_covers(covers: &[Cover]) -> std::result::Result<(), Failed> {
    for cover in covers {
        let failed = |errno| (format!("files over {}", cover.directory.display()), errno);
        // An overlay takes no directory that is in another of its own (ELOOP), as the store is in its user's home.
        let inside = cover.files.starts_with(&cover.directory);
        let mut points = Vec::new();
        if !cover.whole {
            points = expose(cover, inside).map_err(failed)?;
            for point in mounted_in(&cover.directory) {
                if !points.iter().any(|shown| point.starts_with(shown)) {
                    points.push(point);
                }
            }
        }
        let mut trees = Vec::new();
        for point in points {
            // Mounts that are locked, as those are that an ordinary user did not make, can be taken with all that is in
            // them (`has_locked_children`, fs/namespace.c).
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE
                | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
            trees.push((rustix::mount::open_tree(CWD, &point, flags).map_err(failed)?, point));
        }
        let below = if inside || cover.whole { &cover.empty } else { &cover.directory };
        let text = format!("lowerdir={}:{},userxattr", escaped(&cover.files), escaped(below));
        mount_overlay(&cover.directory, text).map_err(failed)?;
        for (tree, point) in trees {
            let to_empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(&tree, "", CWD, &point, to_empty).map_err(failed)?;
        }
    }
    Ok(())
}

/// Lists what in a directory is to be seen as it is: the directories, and of those that are seen through no overlay
/// (`alone`) all that is not among the files that are laid over it. Each gets a place among these.
fn expose(cover: &Cover, alone: bool) -> Result<Vec<PathBuf>> {
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&cover.directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let (kind, place) = (entry.file_type().map_err(io)?, cover.files.join(entry.file_name()));
        let is_there = place.symlink_metadata().is_ok();
        if kind.is_dir() {
            if alone && !is_there {
                std::fs::create_dir(&place).map_err(io)?;
            }
            found.push(entry.path());
        } else if alone && !is_there {
            if kind.is_symlink() {
                let to = std::fs::read_link(entry.path()).map_err(io)?;
                std::os::unix::fs::symlink(to, &place).map_err(io)?;
            } else {
                std::fs::File::create_new(&place).map_err(io)?;
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Lists what is mounted in a directory, without what is mounted in those in turn.
fn mounted_in(directory: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<PathBuf> = points.map(frost_sys::cgroup::unescaped).collect();
    points.retain(|point| point != directory && point.starts_with(directory));
    points.sort();
    points.dedup();
    let all = points.clone();
    points.retain(|point| !all.iter().any(|other| other != point && point.starts_with(other)));
    points
}

/// Mounts an overlay over a directory; what is forbidden in that is forbidden in the overlay.
fn mount_overlay(directory: &Path, text: String) -> Result<()> {
    let data = CString::new(text).map_err(|_| Errno::INVAL)?;
    let below = rustix::fs::statvfs(directory)?.f_flag;
    let mut flags = MountFlags::empty();
    for (there, here) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        if below.contains(there) {
            flags |= here;
        }
    }
    rustix::mount::mount("frost", directory, "overlay", flags, Some(data.as_c_str()))
}

/// Mounts layers over their directories.
///
/// # Errors
/// Which mount failed.
pub fn mount_layers(layers: &[Layer]) -> std::result::Result<(), Failed> {
    for layer in layers {
        let failed = |errno| (format!("a layer over {}", layer.directory.display()), errno);
        // What overlayfs notes stands in attributes that an ordinary user may set (Linux 5.11), root's too, so that
        // each can be made from the image of the other.
        let text = format!(
            "lowerdir={},upperdir={},workdir={},userxattr",
            escaped(&layer.directory),
            escaped(&layer.upper()),
            escaped(&layer.work()),
        );
        mount_overlay(&layer.directory, text).map_err(failed)?;
    }
    Ok(())
}

/// Writes a path as overlayfs reads it: backslashes, colons and commas with a backslash before them.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, '\\' | ':' | ',') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// Mounts a `/dev/pts` whose terminals have numbers of their own.
///
/// Each mount of devpts is an instance (Linux 4.7). A user namespace without a group 5 cannot give the slaves to it.
///
/// # Errors
/// Which mount failed.
pub fn mount_terminals() -> std::result::Result<(), Failed> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("devpts", "/dev/pts", "devpts", flags, Some(c"mode=620,ptmxmode=666"))
        .map_err(|errno| ("a /dev/pts of its own".to_owned(), errno))
}

/// Makes pseudoterminals as [`mount_terminals`] does, but nowhere: returns the root directory of their file system, which
/// can be mounted later.
///
/// # Errors
/// Those of fsopen(2) and its like.
pub fn new_terminals() -> Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let context = rustix::mount::fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "mode", "620")?;
    rustix::mount::fsconfig_set_string(&context, "ptmxmode", "666")?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Opens the log in an instance's directory, empty.
///
/// # Errors
/// Those of open(2).
pub fn open_log(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, "log", flags, Mode::RUSR | Mode::WUSR)
}
