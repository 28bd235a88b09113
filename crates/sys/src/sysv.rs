//! System V segments, semaphores and message queues.
//!
//! All calls are the kernel's own, so that the structures are those of `include/uapi/asm-generic/{ipcbuf,shmbuf,sembuf,
//! msgbuf}.h` whatever the C library makes of them, and so that what a tape brings home can be read here too.

use crate::clone;
use crate::mqueue;
use crate::raw::check;
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};
use std::ptr::NonNull;

/// One of the three kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Segments of shared memory.
    Segment,
    /// Sets of semaphores.
    Semaphores,
    /// Message queues.
    Queue,
}

/// Commands of shmctl(2), semctl(2) and msgctl(2) that libc does not name on every target.
pub const IPC_RMID: i32 = 0;
/// Sets owner and mode.
pub const IPC_SET: i32 = 1;
/// Reads the status; needs the right to read.
pub const IPC_STAT: i32 = 2;
/// Reads the values of all semaphores.
pub const GETALL: i32 = 13;
/// Reads the process that last operated on a semaphore.
pub const GETPID: i32 = 11;
/// Reads how many processes wait for a semaphore to increase.
pub const GETNCNT: i32 = 14;
/// Reads how many processes wait for a semaphore to become zero.
pub const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
/// The flag of msgrcv(2) that leaves the message where it is (Linux 3.8, CONFIG_CHECKPOINT_RESTORE).
pub const MSG_COPY: i32 = 0o40_000;
/// `SHM_RDONLY` of shmat(2).
pub const SHM_RDONLY: i32 = 0o10_000;
/// In the mode of a segment: it vanishes with its last attachment.
pub const SHM_DEST: u32 = 0o1000;
/// In the mode of a segment: it is locked in memory.
pub const SHM_LOCKED: u32 = 0o2000;
const SHM_LOCK: i32 = 11;
/// SEM_UNDO of semop(2).
pub const SEM_UNDO: i16 = 0x1000;

/// The most bytes that any of the three status structures has.
pub const STATUS_BYTES: usize = 120;

impl Kind {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Segment, Self::Semaphores, Self::Queue];

    /// The number of the call that controls objects of this kind.
    pub const fn control_call(self) -> libc::c_long {
        match self {
            Self::Segment => libc::SYS_shmctl,
            Self::Semaphores => libc::SYS_semctl,
            Self::Queue => libc::SYS_msgctl,
        }
    }

    /// The command that gives the highest index in use (`SHM_INFO`, `SEM_INFO`, `MSG_INFO`).
    pub const fn info_command(self) -> i32 {
        match self {
            Self::Segment => 14,
            Self::Semaphores => 19,
            Self::Queue => 12,
        }
    }

    /// The command that reads the status of the object at an index and gives its identifier, whoever asks
    /// (`SHM_STAT_ANY` and so on, Linux 4.17).
    pub const fn stat_any_command(self) -> i32 {
        match self {
            Self::Segment => 15,
            Self::Semaphores => 20,
            Self::Queue => 13,
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Segment => "shm",
            Self::Semaphores => "sem",
            Self::Queue => "msg",
        }
    }

    /// Returns a noun for messages.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Segment => "shared memory segment",
            Self::Semaphores => "semaphore set",
            Self::Queue => "message queue",
        }
    }
}

/// What the kernel says of an object; fields that its kind does not have are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its key.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// User and group of who made it.
    pub creator: (u32, u32),
    /// Permission bits and [`SHM_DEST`], [`SHM_LOCKED`].
    pub mode: u32,
    /// Bytes of a segment, semaphores of a set, most bytes of a queue.
    pub size: u64,
    /// Who made a segment; who sent last to a queue.
    pub first_pid: i32,
    /// Who attached or detached a segment last; who received last from a queue.
    pub last_pid: i32,
    /// Attachments of a segment, messages of a queue.
    pub count: u64,
    /// Whether anybody has operated on a set of semaphores (`sem_otime`).
    pub operated: bool,
}

impl Status {
    /// Reads it from a `struct shmid64_ds`, `semid64_ds` or `msqid64_ds`.
    pub fn parse(kind: Kind, bytes: &[u8]) -> Self {
        let u32_at = |at: usize| {
            bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
        };
        let u64_at = |at: usize| {
            bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_ne_bytes(*word))
        };
        let (size, first, last, count) = match kind {
            Kind::Segment => (u64_at(48), u32_at(80), u32_at(84), u64_at(88)),
            Kind::Semaphores => (u64_at(80), 0, 0, 0),
            Kind::Queue => (u64_at(88), u32_at(96), u32_at(100), u64_at(80)),
        };
        Self {
            key: u32_at(0) as i32,
            uid: u32_at(4),
            gid: u32_at(8),
            creator: (u32_at(12), u32_at(16)),
            mode: u32_at(20),
            size,
            first_pid: first as i32,
            last_pid: last as i32,
            count,
            operated: kind == Kind::Semaphores && u64_at(48) != 0,
        }
    }
}

fn control(kind: Kind, id: i32, command: i32, bytes: &mut [u8; STATUS_BYTES]) -> Result<i64> {
    let address = bytes.as_mut_ptr();
    // SAFETY: no command given here reads or writes more than STATUS_BYTES, which are there. semctl has one argument
    // more, the number of a semaphore, in the third place.
    check(unsafe {
        match kind {
            Kind::Semaphores => libc::syscall(kind.control_call(), id, 0, command, address),
            Kind::Segment | Kind::Queue => libc::syscall(kind.control_call(), id, command, address),
        }
    })
}

/// The masks of the index that an identifier holds in its low bits; the high ones count how often that was used
/// (`ipcid_to_idx`, ipc/util.h): 15 bits, or 24 with `ipcmni_extend` on the kernel's command line.
const INDICES: [i32; 2] = [0x7fff, 0xff_ffff];

/// Reads the status of object `id` in our IPC namespace, also of one that we may not read.
///
/// # Errors
/// EINVAL or EIDRM if there is none.
pub fn status(kind: Kind, id: i32) -> Result<Status> {
    let mut bytes = [0; STATUS_BYTES];
    let mut told = control(kind, id, IPC_STAT, &mut bytes).map(drop);
    if told == Err(Errno::ACCESS) {
        let mut at = |mask: i32| control(kind, id & mask, kind.stat_any_command(), &mut bytes);
        if INDICES.into_iter().any(|mask| at(mask) == Ok(i64::from(id))) {
            told = Ok(());
        }
    }
    told.map(|()| Status::parse(kind, &bytes))
}

/// Lists all objects of the IPC namespace of process `pid`, also those that nobody may read.
///
/// # Errors
/// EPERM without rights over that namespace.
pub fn objects(pid: i32) -> Result<Vec<(Kind, i32, Status)>> {
    let listed = match is_ours(pid) {
        true => list(),
        false => clone::apart(|| clone::enter_with_user(pid, libc::CLONE_NEWIPC).map(|()| list()))?,
    };
    Ok(parsed(&listed).collect())
}

/// Removes all objects of the IPC namespace of process `pid`, which must not be ours, and the names of its POSIX message
/// queues.
///
/// # Errors
/// EPERM without rights over that namespace; EBUSY if it is ours.
pub fn clear(pid: i32) -> Result<()> {
    if is_ours(pid) {
        return Err(Errno::BUSY);
    }
    clone::apart(|| {
        clone::enter_with_user(pid, libc::CLONE_NEWIPC)?;
        parsed(&list()).try_for_each(|(kind, id, _)| remove(kind, id))?;
        mqueue::names()?.iter().try_for_each(|name| mqueue::unlink(name))?;
        Ok(Vec::new())
    })
    .map(drop)
}

/// Whether a process is in our IPC namespace. One that is gone is.
pub fn is_ours(pid: i32) -> bool {
    crate::proc::is_in_our_namespace(pid, "ipc")
}

/// Reads what [`list`] has written.
fn parsed(listed: &[u8]) -> impl Iterator<Item = (Kind, i32, Status)> + '_ {
    listed.chunks_exact(5 + STATUS_BYTES).filter_map(|entry| {
        let kind = Kind::ALL.into_iter().find(|kind| entry.first() == Some(&(*kind as u8)))?;
        let id = i32::from_ne_bytes(*entry.get(1..)?.first_chunk()?);
        Some((kind, id, Status::parse(kind, entry.get(5..)?)))
    })
}

/// Lists what [`objects`] reads: kind, identifier and status of each.
fn list() -> Vec<u8> {
    let mut listed = Vec::new();
    let mut bytes = [0; STATUS_BYTES];
    for kind in Kind::ALL {
        let highest = control(kind, 0, kind.info_command(), &mut bytes).unwrap_or(0) as i32;
        for index in 0..=highest {
            // Fails for an index that is not in use.
            if let Ok(id) = control(kind, index, kind.stat_any_command(), &mut bytes) {
                listed.push(kind as u8);
                listed.extend((id as i32).to_ne_bytes());
                listed.extend(bytes);
            }
        }
    }
    listed
}

/// Removes object `id`; a segment that is attached vanishes with its last attachment.
pub fn remove(kind: Kind, id: i32) -> Result<()> {
    control(kind, id, IPC_RMID, &mut [0; STATUS_BYTES]).map(drop)
}

/// Sets owner and permission bits, and of a queue the most bytes it takes.
pub fn set(kind: Kind, id: i32, (uid, gid): (u32, u32), mode: u32, capacity: u64) -> Result<()> {
    let mut bytes = [0; STATUS_BYTES];
    bytes[4..8].copy_from_slice(&uid.to_ne_bytes());
    bytes[8..12].copy_from_slice(&gid.to_ne_bytes());
    bytes[20..24].copy_from_slice(&mode.to_ne_bytes());
    if kind == Kind::Queue {
        bytes[88..96].copy_from_slice(&capacity.to_ne_bytes());
    }
    control(kind, id, IPC_SET, &mut bytes).map(drop)
}

/// Returns whether another object has the place that identifier `id` names, so that none can be made with it.
pub fn place_is_taken(kind: Kind, id: i32) -> bool {
    let mut bytes = [0; STATUS_BYTES];
    INDICES.into_iter().any(|mask| {
        let found = control(kind, id & mask, kind.stat_any_command(), &mut bytes);
        found.is_ok_and(|found| found != i64::from(id))
    })
}

/// Lists the objects of a kind that our IPC namespace has, by identifier.
pub fn ids(kind: Kind) -> Result<Vec<i32>> {
    let text = std::fs::read(format!("/proc/sysvipc/{}", kind.file()));
    let text = text.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // The first line names the columns, of which the second is the identifier.
    let lines = String::from_utf8_lossy(&text);
    let id = |line: &str| line.split_ascii_whitespace().nth(1)?.parse().ok();
    Ok(lines.lines().skip(1).filter_map(id).collect())
}

/// Makes an object of a chosen identifier, which nobody but root can use until its mode is [`set`].
///
/// `size` counts bytes of a segment and semaphores of a set; `huge_shift` is the logarithm of the size of a segment's pages, if it
/// is to have huge ones.
///
/// # Errors
/// ENOMEM without so many huge pages, and EPERM without the right to take them in this way (CAP_IPC_LOCK or a group, see
/// vm.hugetlb_shm_group). EEXIST if the key or the identifier is taken; EPERM or EACCES without CAP_CHECKPOINT_RESTORE over our
/// IPC namespace.
///
/// Source: `/proc/sys/kernel/{shm,sem,msg}_next_id` (Documentation/admin-guide/sysctl/kernel.rst), which holds for the
/// next object that anybody in the namespace makes.
pub fn make(kind: Kind, id: i32, key: i32, size: u64, huge_shift: Option<u32>) -> Result<()> {
    const ATTEMPTS: usize = 16;
    let flags = libc::IPC_CREAT | libc::IPC_EXCL;
    // The size has the same place in the flags of mmap(2).
    let size_of_pages = |shift: u32| ((shift & 0x3f) << libc::MAP_HUGE_SHIFT) as i32;
    let huge = huge_shift.map_or(0, |shift| libc::SHM_HUGETLB | size_of_pages(shift));
    for _ in 0..ATTEMPTS {
        std::fs::write(format!("/proc/sys/kernel/{}_next_id", kind.file()), id.to_string())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        // SAFETY: the calls take integers only.
        let made = check(unsafe {
            match kind {
                Kind::Segment => libc::syscall(libc::SYS_shmget, key, size, flags | huge),
                Kind::Semaphores => libc::syscall(libc::SYS_semget, key, size, flags),
                Kind::Queue => libc::syscall(libc::SYS_msgget, key, flags),
            }
        })? as i32;
        if made == id {
            return Ok(());
        }
        remove(kind, made)?;
        if status(kind, id) != Err(Errno::INVAL) {
            return Err(Errno::EXIST);
        }
        // Somebody else made an object in between, and got our number or has its place; once more.
    }
    Err(Errno::EXIST)
}

/// Sets the values of all semaphores of a set; each was 0.
pub fn set_values(id: i32, values: &[u16]) -> Result<()> {
    // SAFETY: the kernel reads one u16 for each semaphore of the set, which the caller made of this size.
    check(unsafe { libc::syscall(libc::SYS_semctl, id, 0, SETALL, values.as_ptr()) }).map(drop)
}

/// Sets the value of one semaphore.
pub fn set_value(id: i32, number: u16, value: u16) -> Result<()> {
    // SAFETY: the call takes integers only.
    check(unsafe { libc::syscall(libc::SYS_semctl, id, u64::from(number), SETVAL, u64::from(value)) })
        .map(drop)
}

/// Operates on a semaphore of a known value so that it keeps it.
pub fn operate_in_vain(id: i32, number: u16, value: u16) -> Result<()> {
    let operation =
        |change: i16| libc::sembuf { sem_num: number, sem_op: change, sem_flg: libc::IPC_NOWAIT as i16 };
    let operations = match value {
        0 => vec![operation(0)],
        // No semaphore is greater than 32767 at any time.
        1..=0x7ffe => vec![operation(1), operation(-1)],
        _ => vec![operation(-1), operation(1)],
    };
    // SAFETY: the kernel reads as many operations as there are.
    check(unsafe { libc::syscall(libc::SYS_semop, id, operations.as_ptr(), operations.len()) }).map(drop)
}

/// Attaches a segment and detaches it again.
pub fn touch(id: i32) -> Result<()> {
    // SAFETY: the kernel chooses an address where nothing is, and what is there then is ours.
    unsafe {
        let address = check(libc::syscall(libc::SYS_shmat, id, 0usize, SHM_RDONLY))?;
        check(libc::syscall(libc::SYS_shmdt, address)).map(drop)
    }
}

/// Reads the values of all semaphores of a set, of which it has `count`.
pub fn values(id: i32, count: usize) -> Result<Vec<u16>> {
    if status(Kind::Semaphores, id)?.size != count as u64 {
        return Err(Errno::INVAL);
    }
    let mut values = vec![0u16; count];
    // SAFETY: a set never changes its size, so the kernel writes `count` values.
    check(unsafe { libc::syscall(libc::SYS_semctl, id, 0, GETALL, values.as_mut_ptr()) })?;
    Ok(values)
}

/// Returns who operated last on an object, as our pid namespace numbers them; 0 for nobody, or for one outside of it.
pub fn last_pids(kind: Kind, id: i32) -> Result<Vec<i32>> {
    let status = status(kind, id)?;
    if kind != Kind::Semaphores {
        return Ok(vec![status.first_pid, status.last_pid]);
    }
    // SAFETY: the call takes integers only.
    let pid = |number: u64| check(unsafe { libc::syscall(libc::SYS_semctl, id, number, GETPID) });
    (0..status.size).map(|number| Ok(pid(number)? as i32)).collect()
}

/// Adds a message to a queue without waiting.
pub fn send(id: i32, kind: i64, data: &[u8]) -> Result<()> {
    let mut message = kind.to_ne_bytes().to_vec();
    message.extend_from_slice(data);
    // SAFETY: the kernel reads a type of eight bytes and `data.len()` bytes behind it.
    check(unsafe { libc::syscall(libc::SYS_msgsnd, id, message.as_ptr(), data.len(), libc::IPC_NOWAIT) })
        .map(drop)
}

/// Reads message number `index` of a queue, which keeps it.
///
/// # Errors
/// ENOMSG if there are not so many; ENOSYS if the kernel lacks MSG_COPY.
pub fn peek(id: i32, index: usize, most_bytes: usize) -> Result<(i64, Vec<u8>)> {
    let mut message = vec![0u8; 8 + most_bytes];
    let flags = MSG_COPY | libc::IPC_NOWAIT;
    // SAFETY: the kernel writes a type of eight bytes and at most `most_bytes` behind it.
    let got = check(unsafe {
        libc::syscall(libc::SYS_msgrcv, id, message.as_mut_ptr(), most_bytes, index, flags)
    })?;
    let kind = message.first_chunk().map_or(0, |word| i64::from_ne_bytes(*word));
    // In a place of its own size: thousands may wait, each of a few bytes.
    Ok((kind, message.get(8..8 + got as usize).unwrap_or_default().to_vec()))
}

/// Takes the oldest message of type `kind` out of a queue.
///
/// # Errors
/// ENOMSG if there is none.
pub fn take(id: i32, kind: i64, most_bytes: usize) -> Result<Vec<u8>> {
    let mut message = vec![0u8; 8 + most_bytes];
    // SAFETY: the kernel writes a type of eight bytes and at most `most_bytes` behind it.
    let got = check(unsafe {
        libc::syscall(libc::SYS_msgrcv, id, message.as_mut_ptr(), most_bytes, kind, libc::IPC_NOWAIT)
    })?;
    message.truncate(8 + got as usize);
    message.drain(..8);
    Ok(message)
}

/// Locks a segment in memory.
pub fn lock(id: i32) -> Result<()> {
    control(Kind::Segment, id, SHM_LOCK, &mut [0; STATUS_BYTES]).map(drop)
}

/// A segment attached to our own memory, of which others may have attachments too.
#[derive(Debug)]
pub struct Attached {
    start: NonNull<u8>,
    len_bytes: usize,
}

impl Attached {
    /// Attaches segment `id`.
    pub fn new(id: i32, writable: bool) -> Result<Self> {
        let flags = if writable { 0 } else { SHM_RDONLY };
        // SAFETY: the kernel chooses an address where nothing is.
        let address = check(unsafe { libc::syscall(libc::SYS_shmat, id, 0usize, flags) })?;
        let start = NonNull::new(address as *mut u8).ok_or(Errno::NOMEM)?;
        let mut attached = Self { start, len_bytes: 0 };
        // It has whole pages, of a size that nothing else tells.
        let mappings = crate::proc::bare_mappings(std::process::id() as i32)?;
        let own = mappings.iter().find(|mapping| mapping.start == address as u64).ok_or(Errno::FAULT)?;
        attached.len_bytes = (own.end - own.start) as usize;
        Ok(attached)
    }

    /// Reads all of `bytes` at `offset`.
    ///
    /// # Errors
    /// EINVAL beyond the end.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.within(offset, bytes.len())?;
        // Through the kernel, since others may write there at the same time.
        let own = std::process::id() as i32;
        let got = crate::memory::read(own, (self.start.as_ptr().addr() + offset) as u64, bytes)?;
        if got == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads `len_bytes` of a file at `from` into it at `offset`.
    ///
    /// # Errors
    /// EINVAL beyond the end, EIO if the file has less.
    pub fn fill(&self, offset: usize, file: BorrowedFd<'_>, from: u64, len_bytes: usize) -> Result<()> {
        use rustix::fd::AsRawFd;
        self.within(offset, len_bytes)?;
        let mut done = 0;
        while done < len_bytes {
            let at = i64::try_from(from + done as u64).map_err(|_| Errno::INVAL)?;
            // SAFETY: the range lies in our attachment, and no reference to it exists.
            let got = check(unsafe {
                let address = self.start.as_ptr().add(offset + done);
                libc::syscall(libc::SYS_pread64, file.as_raw_fd(), address, len_bytes - done, at)
            })?;
            if got == 0 {
                return Err(Errno::IO);
            }
            done += got as usize;
        }
        Ok(())
    }

    fn within(&self, offset: usize, len_bytes: usize) -> Result<()> {
        let end = offset.checked_add(len_bytes);
        if end.is_some_and(|end| end <= self.len_bytes) { Ok(()) } else { Err(Errno::INVAL) }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: the attachment is ours, and nothing refers to it any more.
        unsafe { libc::syscall(libc::SYS_shmdt, self.start.as_ptr()) };
    }
}

/// Undoes what the calling thread's end would undo in semaphores; it has no list of that behind it, not even an empty one, as
/// each thread has that was made by pthread_create(3) or has made one so (`copy_semundo`, ipc/sem.c).
pub fn forget_undo() -> Result<()> {
    // SAFETY: no memory is involved, and nobody else is concerned.
    check(unsafe { libc::unshare(libc::CLONE_SYSVSEM) }).map(drop)
}

/// Moves us into an IPC namespace of our own, with no objects in it.
pub fn unshare() -> Result<()> {
    // SAFETY: the call takes an integer and shares no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWIPC) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_at_the_places_of_the_kernel() {
        // SAFETY: the calls take integers only.
        let id = check(unsafe { libc::syscall(libc::SYS_shmget, 0, 5000, libc::IPC_CREAT | 0o640) });
        let id = id.unwrap() as i32;
        let attached = Attached::new(id, true).unwrap();
        let found = status(Kind::Segment, id).unwrap();
        let own = std::process::id() as i32;
        assert_eq!((found.size, found.mode, found.count), (5000, 0o640, 1));
        assert_eq!((found.first_pid, found.last_pid), (own, own));
        let mut byte = [1];
        attached.read(8191, &mut byte).unwrap();
        assert_eq!((byte, attached.read(8192, &mut byte)), ([0], Err(Errno::INVAL)));
        remove(Kind::Segment, id).unwrap();
        assert_eq!(status(Kind::Segment, id).unwrap().mode, 0o640 | SHM_DEST);
        drop(attached);
        assert!(status(Kind::Segment, id).is_err());
    }

    #[test]
    fn messages_are_read_and_stay() {
        // SAFETY: the calls take integers only.
        let id =
            check(unsafe { libc::syscall(libc::SYS_msgget, 0, libc::IPC_CREAT | 0o600) }).unwrap() as i32;
        send(id, 5, b"one").unwrap();
        send(id, 3, b"").unwrap();
        assert_eq!(status(Kind::Queue, id).unwrap().count, 2);
        assert_eq!(peek(id, 0, 100), Ok((5, b"one".to_vec())));
        assert_eq!(peek(id, 1, 100), Ok((3, Vec::new())));
        assert_eq!(peek(id, 2, 100), Err(Errno::NOMSG));
        remove(Kind::Queue, id).unwrap();
    }
}
