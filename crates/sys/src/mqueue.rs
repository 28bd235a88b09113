//! POSIX message queues, by their descriptors: these are files of an own file system (ipc/mqueue.c).

use crate::raw::check;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::{Errno, Result};
use std::ffi::CString;

/// The magic number of the file system, MQUEUE_MAGIC of ipc/mqueue.c.
pub const FILE_SYSTEM: u32 = 0x1980_0202;

/// `struct mq_attr` of include/uapi/linux/mqueue.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// O_NONBLOCK, of the description.
    pub flags: i64,
    /// The most messages that it holds.
    pub most_messages: i64,
    /// The most bytes of a message.
    pub most_bytes: i64,
    /// How many messages wait.
    pub waiting: i64,
    reserved: [i64; 4],
}

const _: () = assert!(size_of::<Attributes>() == 64);

impl Attributes {
    /// Those of a queue to be made.
    pub fn of(most_messages: i64, most_bytes: i64) -> Self {
        Self { most_messages, most_bytes, ..Self::default() }
    }
}

/// Reads the attributes of a queue.
pub fn attributes(queue: impl AsFd) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    let null = std::ptr::null::<Attributes>();
    let fd = queue.as_fd().as_raw_fd();
    // SAFETY: `attributes` is a live object of the layout that the call fills, and nothing is set.
    check(unsafe { libc::syscall(libc::SYS_mq_getsetattr, fd, null, &raw mut attributes) })?;
    Ok(attributes)
}

/// Takes the oldest of the most urgent messages: its length and its priority. `buffer` has room for the longest one.
pub fn receive(queue: impl AsFd, buffer: &mut [u8]) -> Result<(usize, u32)> {
    let mut priority = 0u32;
    let fd = queue.as_fd().as_raw_fd();
    let (to, room, forever) = (buffer.as_mut_ptr(), buffer.len(), std::ptr::null::<libc::timespec>());
    // SAFETY: `to` has room for `room` bytes, and `priority` is a live integer.
    let got = unsafe { libc::syscall(libc::SYS_mq_timedreceive, fd, to, room, &raw mut priority, forever) };
    Ok((check(got)? as usize, priority))
}

/// Sends a message.
pub fn send(queue: impl AsFd, message: &[u8], priority: u32) -> Result<()> {
    let fd = queue.as_fd().as_raw_fd();
    let forever = std::ptr::null::<libc::timespec>();
    // SAFETY: the call reads `message.len()` bytes from a live slice.
    let sent = unsafe {
        libc::syscall(libc::SYS_mq_timedsend, fd, message.as_ptr(), message.len(), priority, forever)
    };
    check(sent).map(drop)
}

/// Opens the queue of this name, which has no slash; with attributes one is made that must not be there yet.
pub fn open(name: &[u8], flags: i32, mode: u32, attributes: Option<Attributes>) -> Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let made = if attributes.is_some() { libc::O_CREAT | libc::O_EXCL } else { 0 };
    let pointer = attributes.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let flags = flags | made | libc::O_CLOEXEC;
    // SAFETY: the name ends by a zero, and `pointer` is null or points to a live object of the right layout.
    let fd = check(unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), flags, mode, pointer) })?;
    // SAFETY: the kernel just installed this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes the name of a queue away.
pub fn unlink(name: &[u8]) -> Result<()> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    // SAFETY: the name ends by a zero.
    check(unsafe { libc::syscall(libc::SYS_mq_unlink, name.as_ptr()) }).map(drop)
}

/// Opens the directory of all queues of our IPC namespace, by a file system that nobody else sees; from then on we are in a
/// mount namespace of our own. `None` for a kernel without such queues.
///
/// # Errors
/// EPERM without rights over our namespaces.
pub fn directory() -> Result<Option<OwnedFd>> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
    // SAFETY: the mounts of this process change, and no memory.
    check(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    let context = match fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => return Ok(None),
        other => other?,
    };
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(Some)
}

/// Lists the names of all queues in a [directory] of them.
pub fn names_in(directory: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = Dir::new(rustix::fs::openat(directory, ".", flags, Mode::empty())?)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
    names.filter(|name| !matches!(name.as_deref(), Ok(b"." | b".."))).collect()
}

/// Lists the names of all queues of our IPC namespace, as [directory].
///
/// # Errors
/// As there.
pub fn names() -> Result<Vec<Vec<u8>>> {
    directory()?.map_or(Ok(Vec::new()), names_in)
}

/// Returns the process that is to be told of the next message (mq_notify), if there is one.
///
/// `queue` is a description of our own, since what it reads moves its offset.
///
/// Source: `mqueue_read_file`, ipc/mqueue.c: `QSIZE:0 NOTIFY:0 SIGNO:10 NOTIFY_PID:4127`.
pub fn told(queue: impl AsFd) -> Result<Option<i32>> {
    let mut text = [0; 256];
    let len = rustix::io::pread(queue, &mut text, 0)?;
    let text = String::from_utf8_lossy(&text[..len]).into_owned();
    let pid = text.split_whitespace().find_map(|field| field.strip_prefix("NOTIFY_PID:")?.parse().ok());
    Ok(pid.filter(|pid| *pid != 0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_message_comes_first_and_a_name_can_be_taken_away() {
        let name = format!("frost-test-{}", std::process::id()).into_bytes();
        let queue = open(&name, libc::O_RDWR | libc::O_NONBLOCK, 0o600, Some(Attributes::of(4, 32))).unwrap();
        assert_eq!(open(&name, libc::O_RDWR, 0o600, Some(Attributes::of(4, 32))).err(), Some(Errno::EXIST));
        unlink(&name).unwrap();
        assert_eq!(open(&name, libc::O_RDWR, 0, None).err(), Some(Errno::NOENT));
        send(&queue, b"later", 1).unwrap();
        send(&queue, b"sooner", 7).unwrap();
        let found = attributes(&queue).unwrap();
        assert_eq!((found.most_messages, found.most_bytes, found.waiting), (4, 32, 2));
        assert_eq!(told(&queue).unwrap(), None);
        let mut buffer = [0; 32];
        assert_eq!(receive(&queue, &mut buffer).unwrap(), (6, 7));
        assert_eq!(&buffer[..6], b"sooner");
        assert_eq!(receive(&queue, &mut buffer).unwrap(), (5, 1));
        assert_eq!(receive(&queue, &mut buffer), Err(Errno::AGAIN));
    }
}
