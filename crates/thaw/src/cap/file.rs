//! Files by path: whether they are what they were, and how they are opened.

use frost_model::cap::{FileIdentity, FileRef, Node};
use frost_model::clock::Timespec;
use frost_sys::undo::Undo;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::path::Path;

/// How much of a file's identity must be as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Same {
    /// All: it holds data that the program relies on.
    Content,
    /// That it is the same node, and not shorter: something may have been appended.
    Beginning,
    /// That it is the same node: a directory, a fifo, an O_PATH descriptor.
    Node,
    /// That it is the same device, wherever its node lies.
    Device,
    /// That it is of the same type.
    Kind,
}

/// Why a file cannot be opened as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Why, with the old and the new fact.
    pub(crate) reason: String,
    /// What the user can do.
    pub(crate) remedy: String,
    /// What the kernel said, if it did.
    pub(crate) errno: Option<Errno>,
    /// Whether the file would be as it was with its content put back: it changed, was replaced, or is gone.
    pub(crate) content: bool,
}

/// Open flags that open(2) takes; O_CREAT, O_EXCL and O_TRUNC are never given again.
fn open_flags(flags: u32) -> OFlags {
    let kept = OFlags::RWMODE
        | OFlags::APPEND
        | OFlags::DSYNC
        | OFlags::SYNC
        | OFlags::DIRECT
        | OFlags::NOATIME
        | OFlags::DIRECTORY
        | OFlags::NOFOLLOW
        | OFlags::PATH;
    let mut flags = OFlags::from_bits_retain(flags);
    if flags.contains(OFlags::TMPFILE) {
        // Includes O_DIRECTORY, which told where the file was made.
        flags &= !OFlags::TMPFILE;
    }
    let flags = flags & kept;
    if flags.contains(OFlags::PATH) {
        // All others but these are ignored with O_PATH, and some refused.
        return (flags & (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)) | OFlags::CLOEXEC;
    }
    // O_NONBLOCK so that nothing can make us wait; it is set as it was afterwards.
    flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK
}

/// Opens a file with recorded flags, if it is still what it was.
pub(super) fn open(file: &FileRef, flags: u32, same: Same) -> Result<OwnedFd, Problem> {
    let path = file.path.as_path();
    let mut open = open_flags(flags);
    if FileType::from_raw_mode(file.identity.mode) == FileType::Symlink {
        open |= OFlags::NOFOLLOW;
    }
    let fd = match rustix::fs::open(frost_sys::sight::of(path), open, Mode::empty()) {
        Err(Errno::ACCESS) => open_as_owner(path, open),
        other => other,
    };
    let fd = fd.map_err(|errno| cannot_open(file, errno, open))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| cannot_open(file, errno, open))?;
    let same = if same == Same::Content && is_virtual(&fd) { Same::Node } else { same };
    compare(&file.identity, &stat, same, is_virtual(&fd), is_layered(&fd))?;
    if !open.contains(OFlags::PATH) {
        set_status(&fd, flags).map_err(|errno| cannot_open(file, errno, open))?;
    }
    Ok(fd)
}

/// Opens a file that is ours against its mode, which did not hold yet for the program that made it (O_CREAT with a mode of
/// 0400, as of a lock): with the rights of its owner, who may give himself those.
fn open_as_owner(path: &Path, open: OFlags) -> rustix::io::Result<OwnedFd> {
    let node = open & OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
    let node = rustix::fs::open(frost_sys::sight::of(path), node, Mode::empty())?;
    let stat = rustix::fs::fstat(&node)?;
    let bits = Mode::from_raw_mode(stat.st_mode);
    let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && !bits.intersects(Mode::SUID | Mode::SGID | Mode::SVTX);
    if !plain || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::ACCESS);
    }
    let own = own_path(&node);
    let put_back = || rustix::fs::chmod(&*own, bits);
    let undo = Undo::armed(|| _ = put_back())?;
    rustix::fs::chmod(&*own, bits | Mode::RUSR | Mode::WUSR)?;
    let opened = rustix::fs::open(&*own, open & !OFlags::NOFOLLOW, Mode::empty());
    put_back()?;
    undo.disarm();
    opened
}

/// Opens the file behind one of our descriptors anew, with recorded flags: a description of its own.
pub(super) fn reopen(fd: impl AsFd, flags: u32) -> rustix::io::Result<OwnedFd> {
    // O_NOFOLLOW would refuse the link that leads to the file.
    let open = open_flags(flags) & !OFlags::NOFOLLOW;
    let anew = rustix::fs::open(own_path(&fd), open, Mode::empty())?;
    if !open.contains(OFlags::PATH) {
        set_status(&anew, flags)?;
    }
    Ok(anew)
}

/// The path that leads to the file behind a descriptor of ours.
pub(super) fn own_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Sets the flags that F_SETFL can set. O_ASYNC is set once there is somebody to be signalled.
pub(super) fn set_status(fd: impl AsFd, flags: u32) -> rustix::io::Result<()> {
    let settable = OFlags::APPEND | OFlags::NONBLOCK | OFlags::DIRECT | OFlags::NOATIME;
    let now = rustix::fs::fcntl_getfl(&fd)?;
    let wanted = (now & !settable) | (OFlags::from_bits_retain(flags) & settable);
    if wanted == now { Ok(()) } else { rustix::fs::fcntl_setfl(&fd, wanted) }
}

fn cannot_open(file: &FileRef, errno: Errno, flags: OFlags) -> Problem {
    let path = &file.path;
    let (reason, remedy) = match errno {
        Errno::NOENT | Errno::NOTDIR => (
            format!("{path} does not exist any more"),
            format!("bring {path} back, from a backup or by its package"),
        ),
        Errno::ACCESS | Errno::PERM => {
            let how = if flags & OFlags::RWMODE == OFlags::RDONLY { "read" } else { "write" };
            (format!("you may not {how} {path}"), "thaw it as the user it belonged to, or as root".to_owned())
        }
        Errno::ROFS => {
            (format!("{path} is on a file system that is read-only now"), "remount it for writing".to_owned())
        }
        Errno::TXTBSY => {
            (format!("{path} is being executed, so it cannot be written"), "end what executes it".to_owned())
        }
        Errno::INVAL if flags.contains(OFlags::DIRECT) => (
            format!("the file system of {path} does not support O_DIRECT"),
            "put the file back on the file system it was on".to_owned(),
        ),
        errno => (format!("{path} cannot be opened: {errno}"), "see open(2) for this error".to_owned()),
    };
    Problem { reason, remedy, errno: Some(errno), content: errno == Errno::NOENT }
}

/// Returns whether a file lies on a file system whose inodes and times mean nothing: proc, sysfs, cgroup.
pub(super) fn is_virtual(fd: &OwnedFd) -> bool {
    // Magic numbers of include/uapi/linux/magic.h.
    let magic = rustix::fs::fstatfs(fd).map_or(0, |stat| stat.f_type as u32);
    matches!(magic, 0x9fa0 | 0x6265_6572 | 0x0027_e0eb | 0x6367_7270)
}

/// Returns whether a file lies on an overlay, whose inodes get other numbers when it is mounted anew.
pub(crate) fn is_layered(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type as u32 == 0x794c_7630)
}

/// Compares what a file is with what it was. Device numbers are left out: those of virtual disks, overlays and
/// network file systems are given anew at each mount.
fn compare(
    old: &FileIdentity,
    stat: &Stat,
    same: Same,
    is_virtual: bool,
    is_layered: bool,
) -> Result<(), Problem> {
    let differs = |reason: String, remedy: &str| {
        Err(Problem { reason, remedy: remedy.to_owned(), errno: None, content: false })
    };
    let changed =
        |reason: String| Err(Problem { reason, remedy: PUT_BACK.to_owned(), errno: None, content: true });
    let (was, is) = (FileType::from_raw_mode(old.mode), FileType::from_raw_mode(stat.st_mode));
    if was != is {
        return differs(format!("it was {}, and is {} now", type_name(was), type_name(is)), PUT_BACK);
    }
    if same == Same::Device {
        return match stat.st_rdev == old.rdev {
            true => Ok(()),
            false => {
                differs("it is another device now".to_owned(), "make the device node again with mknod(1)")
            }
        };
    }
    if is_virtual {
        return Ok(());
    }
    if same == Same::Kind {
        return Ok(());
    }
    if stat.st_ino != old.inode && !is_layered {
        return changed(format!(
            "it was replaced by another file (inode {} then, {} now)",
            old.inode, stat.st_ino
        ));
    }
    if same == Same::Node {
        return Ok(());
    }
    if same == Same::Beginning {
        return match stat.st_size.cast_unsigned() >= old.len_bytes {
            true => Ok(()),
            false => changed(format!("it was cut (from {} to {} bytes)", old.len_bytes, stat.st_size)),
        };
    }
    if stat.st_size as u64 != old.len_bytes {
        return changed(format!("its size changed (from {} to {} bytes)", old.len_bytes, stat.st_size));
    }
    let modified = Timespec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 };
    if modified != old.modified {
        let (then, now) = (seconds(old.modified), seconds(modified));
        return changed(format!("it was written since (last change {then} then, {now} now)"));
    }
    if is_other(stat.st_uid, old.uid) || is_other(stat.st_gid, old.gid) {
        return differs(
            format!("its owner changed (from {}:{} to {}:{})", old.uid, old.gid, stat.st_uid, stat.st_gid),
            "give it back with chown(1)",
        );
    }
    if stat.st_mode & 0o7777 != old.mode & 0o7777 {
        return differs(
            format!("its mode changed (from {:o} to {:o})", old.mode & 0o7777, stat.st_mode & 0o7777),
            "set it back with chmod(1)",
        );
    }
    Ok(())
}

/// Whether a user or group that something has is another than it was, as far as that is told: in a user namespace, whoever has no
/// number there is shown as nobody.
pub(super) fn is_other(now: u32, then: u32) -> bool {
    // The default of kernel.overflowuid and kernel.overflowgid.
    const OVERFLOW_ID: u32 = 65534;
    now != OVERFLOW_ID && now != then
}

const PUT_BACK: &str = "put the file back as it was when the program was frozen, or freeze the program anew";

fn seconds(time: Timespec) -> String {
    format!("{}.{:09}", time.sec, time.nsec)
}

fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something else",
    }
}

/// Returns whether a descriptor is that of a socket.
pub(super) fn is_socket(fd: impl AsFd) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Socket)
}

/// Sets owner and permissions of a pipe or socket. Who may not give one away has made one that is theirs, as the program has.
pub(super) fn set_node(fd: impl AsFd, node: Node) -> rustix::io::Result<()> {
    let now = rustix::fs::fstat(&fd)?;
    // While it is ours: of another's only who has CAP_FOWNER may set them (setattr_prepare, fs/attr.c).
    if now.st_mode & 0o7777 != node.mode {
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(node.mode))?;
    }
    if (now.st_uid, now.st_gid) != (node.uid, node.gid) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(node.uid), rustix::fs::Gid::from_raw(node.gid));
        match rustix::fs::fchown(&fd, Some(uid), Some(gid)) {
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
