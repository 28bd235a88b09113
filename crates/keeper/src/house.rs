//! The inside of a program's namespaces: made fit to live in by their pid 1, which then becomes the keeper.

use crate::connection;
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
}

impl Held {
    /// Makes the socket in an instance's directory; the keeper to be is to say when it can be talked to.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn at(name: &str, directory: OwnedFd) -> Result<Self> {
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
    // Behind the numbers, for people: what it is the keeper of.
    let place = held.place.as_ref().and_then(|(directory, _)| {
        rustix::fs::readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new()).ok()
    });
    let place = place.unwrap_or_default();
    let place = place.to_string_lossy();
    let setup =
        format!("KEEPER={root} {listener} {directory} {log} {master} {watcher} {second} {told} {place}");
    let title =
        if held.name.is_empty() { "frost-keeper".to_owned() } else { format!("frost-keeper {}", held.name) };
    match (CString::new(title), CString::new(setup)) {
        (Ok(title), Ok(setup)) => frost_sys::spawn::become_program(crate::PROGRAM, &title, &setup, &keep),
        _ => Errno::INVAL,
    }
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
    /// The entrances of the control groups that it is to be built in.
    pub groups: Vec<OwnedFd>,
}

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
pub fn map_identity((uid, gid): (u32, u32)) -> std::result::Result<(), Failed> {
    let write = |name: &str, text: String| {
        let path = format!("/proc/self/{name}");
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

/// What there is in `/dev` of the host's. Shared memory is among it, since it has a name that a thaw finds again.
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "shm"];

/// Where the terminal of whoever started the program has a name, since it is not among those of `/dev/pts`.
const CONSOLE: &str = "/dev/console";

/// Puts a `/dev` of a few harmless devices in place of the one there is, with pseudoterminals of its own.
///
/// `console` is the path of a terminal outside, to be found as `/dev/console`: so ttyname(3) has an answer.
///
/// # Errors
/// Which mount failed.
pub fn mount_dev(console: Option<&std::path::Path>) -> std::result::Result<(), Failed> {
    let about = |path: &str| {
        let path = path.to_owned();
        move |errno| (path, errno)
    };
    let named = DEVICES.iter().map(|name| format!("/dev/{name}")).map(|path| (path.clone(), path));
    let console = console.map(|path| (path.to_string_lossy().into_owned(), CONSOLE.to_owned()));
    let mut trees = Vec::new();
    for (from, to) in named.chain(console) {
        let Ok(stat) = rustix::fs::stat(&from) else { continue };
        // A bound /dev/ptmx would not find its devpts (`path_pts`, fs/namei.c); all others are good as they are.
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(CWD, &from, flags).map_err(about(&from))?;
        trees.push((to, tree, FileType::from_raw_mode(stat.st_mode)));
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("frost", "/dev", "tmpfs", flags, Some(c"mode=755,size=64k"))
        .map_err(about("a /dev of its own"))?;
    for (path, tree, kind) in trees {
        if kind == FileType::Directory {
            rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)).map_err(about(&path))?;
        } else {
            rustix::fs::open(&path, OFlags::CREATE | OFlags::CLOEXEC, Mode::empty()).map_err(about(&path))?;
        }
        rustix::mount::move_mount(&tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(about(&path))?;
    }
    rustix::fs::mkdir("/dev/pts", Mode::from_raw_mode(0o755)).map_err(about("/dev/pts"))?;
    mount_terminals()?;
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
        let data = CString::new(text).map_err(|_| failed(Errno::INVAL))?;
        // What is forbidden in the directory is forbidden in the layer.
        let below = rustix::fs::statvfs(&layer.directory).map_err(failed)?.f_flag;
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
        rustix::mount::mount("frost", &layer.directory, "overlay", flags, Some(data.as_c_str()))
            .map_err(failed)?;
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

/// Opens the log in an instance's directory, empty.
///
/// # Errors
/// Those of open(2).
pub fn open_log(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, "log", flags, Mode::RUSR | Mode::WUSR)
}
