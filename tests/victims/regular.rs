//! Open regular files. Flags and offsets of every descriptor are among the facts that every victim compares.

use crate::Victim;
use crate::call::{c, open, read_all, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;

use libc::{O_APPEND, O_CREAT, O_PATH, O_RDONLY, O_RDWR, O_WRONLY, SEEK_CUR, SEEK_END, SEEK_SET};

pub(crate) const VICTIMS: &[Victim] = &[
    ("regular_offset", offset),
    ("regular_append", append),
    ("regular_read_only", read_only),
    ("regular_path_only", path_only),
    ("regular_shared_offset", shared_offset),
    ("regular_shared_offset_fork", shared_offset_fork),
    ("regular_deleted", deleted),
    ("regular_deleted_large", deleted_large),
    ("regular_deleted_shared", deleted_shared),
    ("regular_deleted_marks", deleted_marks),
    ("regular_deleted_mapped_sparse", deleted_mapped_sparse),
    ("regular_tmpfile", tmpfile),
    ("regular_renamed", renamed),
    ("regular_linked", linked),
    ("regular_high_numbers", high_numbers),
    ("regular_thousand", thousand),
    ("regular_locks", locks),
    ("regular_locks_of_description", locks_of_description),
    ("regular_locks_of_processes", locks_of_processes),
    ("regular_lease_read", lease_read),
    ("regular_lease_write", lease_write),
    ("regular_lease_mapped", lease_mapped),
    ("regular_lease_breaking", lease_breaking),
    ("regular_lease_lowered", lease_lowered),
    ("regular_lease_lowered_writer", lease_lowered_writer),
    ("regular_owner", owner),
    ("regular_odd_names", odd_names),
    ("regular_deleted_mapped_and_written", deleted_mapped_and_written),
    ("regular_deleted_mapped_locked", deleted_mapped_locked),
    ("regular_proc", proc),
    ("regular_proc_of_others", proc_of_others),
    ("regular_proc_paths", proc_paths),
    ("regular_proc_global", proc_global),
    ("regular_namespaces", namespaces),
    ("regular_namespace_of_another", namespace_of_another),
    ("regular_link_itself", link_itself),
    ("regular_tmpfile_linked_later", tmpfile_linked_later),
    ("regular_replaced", replaced),
    ("regular_flags", flags),
    ("regular_names", names),
    ("regular_against_mode", against_mode),
    ("regular_pressure", pressure),
];

fn text(stage: &Stage, name: &str, content: &str) -> Result<std::path::PathBuf, String> {
    let path = stage.path(name);
    std::fs::write(&path, content).map_err(|why| why.to_string())?;
    Ok(path)
}

fn offset(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "one two three")?;
    let fd = open(&path, O_RDWR)?;
    sys!(lseek(fd, 4, SEEK_SET))?;
    let beyond = open(&path, O_RDWR)?;
    sys!(lseek(beyond, 100, SEEK_SET))?;
    stage.freeze_here()?;
    same!(read_all(fd, 3)?, b"two", "what stands at the offset");
    write_all(fd, b"!")?;
    same!(std::fs::read(&path).map_err(|why| why.to_string())?, b"one two!three", "the file");
    same!(sys!(lseek(beyond, 0, SEEK_CUR))?, 100, "an offset beyond the end");
    Ok(())
}

fn append(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "first\n")?;
    let fd = open(&path, O_WRONLY | O_APPEND)?;
    write_all(fd, b"second\n")?;
    stage.freeze_here()?;
    write_all(fd, b"third\n")?;
    same!(
        std::fs::read_to_string(&path).map_err(|why| why.to_string())?,
        "first\nsecond\nthird\n",
        "the file"
    );
    Ok(())
}

fn read_only(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let fd = open(&path, O_RDONLY | libc::O_NONBLOCK | libc::O_NOATIME)?;
    stage.freeze_here()?;
    check!(write_all(fd, b"x").is_err(), "a read-only file can be written");
    same!(read_all(fd, 20)?, b"content", "the file");
    Ok(())
}

fn path_only(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let fd = open(&path, O_PATH)?;
    stage.freeze_here()?;
    check!(read_all(fd, 1).is_err(), "an O_PATH descriptor can be read");
    let again = open(std::path::Path::new(&format!("/proc/self/fd/{fd}")), O_RDONLY)?;
    same!(read_all(again, 20)?, b"content", "the file");
    Ok(())
}

fn shared_offset(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "abcdefgh")?;
    let fd = open(&path, O_RDONLY)?;
    let twin = sys!(dup(fd))?;
    let far = sys!(fcntl(fd, libc::F_DUPFD_CLOEXEC, 77))?;
    let other = open(&path, O_RDONLY)?;
    sys!(lseek(fd, 2, SEEK_SET))?;
    stage.freeze_here()?;
    same!(read_all(fd, 1)?, b"c", "first");
    same!(read_all(twin, 1)?, b"d", "through its duplicate");
    same!(read_all(far, 1)?, b"e", "through another");
    same!(read_all(other, 1)?, b"a", "through a description of its own");
    Ok(())
}

fn shared_offset_fork(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "abcdefgh")?;
    let fd = open(&path, O_RDONLY)?;
    let words = crate::call::shared_words::<1>()?;
    let child = stage.fork(|| {
        crate::call::until("the parent goes on", || words[0].load(SeqCst) == 1)?;
        same!(read_all(fd, 3)?, b"abc", "what the child reads");
        Ok(())
    })?;
    stage.freeze_here()?;
    words[0].store(1, SeqCst);
    stage.reap(child)?;
    same!(read_all(fd, 3)?, b"def", "what the parent reads then");
    Ok(())
}

fn unlink(path: &std::path::Path) -> Verdict {
    std::fs::remove_file(path).map_err(|why| why.to_string())
}

fn deleted(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "one two three")?;
    let fd = open(&path, O_RDWR)?;
    sys!(lseek(fd, 4, SEEK_SET))?;
    unlink(&path)?;
    stage.freeze_here()?;
    same!(read_all(fd, 20)?, b"two three", "the file");
    write_all(fd, b" four")?;
    sys!(lseek(fd, 0, SEEK_SET))?;
    same!(read_all(fd, 30)?, b"one two three four", "the file");
    let mut stat: libc::stat = zeroed();
    sys!(fstat(fd, &mut stat))?;
    same!(stat.st_nlink, 0, "how many names it has");
    check!(!path.exists(), "the file has a name again");
    Ok(())
}

/// A large one with holes, which stay holes.
fn deleted_large(stage: &Stage) -> Verdict {
    let path = stage.path("file");
    let fd = open(&path, O_RDWR | O_CREAT)?;
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for spot in [0i64, 100 << 20, 3 << 30] {
        sys!(pwrite(fd, block.as_ptr().cast(), block.len(), spot))?;
    }
    sys!(ftruncate(fd, 5 << 30))?;
    unlink(&path)?;
    stage.freeze_here()?;
    for spot in [0i64, 100 << 20, 3 << 30] {
        sys!(lseek(fd, spot, SEEK_SET))?;
        check!(read_all(fd, block.len())? == block, "the file differs at {spot}");
    }
    same!(read_all(fd, 4096)?, vec![0; 4096], "a hole");
    same!(sys!(lseek(fd, 0, SEEK_END))?, 5 << 30, "its size");
    let mut stat: libc::stat = zeroed();
    sys!(fstat(fd, &mut stat))?;
    check!(stat.st_blocks < 16384, "holes were filled: {} blocks", stat.st_blocks);
    Ok(())
}

/// Two descriptions of one deleted file still show one file.
fn deleted_shared(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let (one, two) = (open(&path, O_RDWR)?, open(&path, O_RDONLY)?);
    unlink(&path)?;
    stage.freeze_here()?;
    write_all(one, b"CON")?;
    same!(read_all(two, 20)?, b"CONtent", "the file through the other description");
    Ok(())
}

/// What else there is to files without a name, on disk and in memory: owner, group, mode, times, attributes.
fn deleted_marks(stage: &Stage) -> Verdict {
    let memory = std::path::PathBuf::from(format!("/dev/shm/frost-marks-{}", unsafe { libc::getpid() }));
    let mut marked = Vec::new();
    for path in [stage.path("file"), memory] {
        let fd = open(&path, O_RDWR | O_CREAT)?;
        unlink(&path)?;
        marked.push((fd, Marks::put_on(fd)?));
    }
    let memfd = sys!(memfd_create(c"marked".as_ptr(), libc::MFD_CLOEXEC))?;
    marked.push((memfd, Marks::put_on(memfd)?));
    stage.freeze_here()?;
    for (index, (fd, marks)) in marked.iter().enumerate() {
        same!(Marks::look(*fd)?, *marks, "what there is to file {index}");
    }
    Ok(())
}

/// What a file has beside its content.
#[derive(Debug, PartialEq)]
struct Marks {
    owner: (u32, u32),
    mode: u32,
    accessed: (i64, i64),
    modified: (i64, i64),
    attribute: Vec<u8>,
}

impl Marks {
    fn put_on(fd: i32) -> Result<Self, String> {
        write_all(fd, b"content")?;
        if unsafe { libc::geteuid() } == 0 {
            sys!(fchown(fd, 1234, 2345))?;
        }
        sys!(fchmod(fd, 0o651))?;
        let time = |tv_sec, tv_nsec| libc::timespec { tv_sec, tv_nsec };
        sys!(fsetxattr(fd, c"user.mark".as_ptr(), b"marked".as_ptr().cast(), 6, 0)).ok();
        sys!(futimens(fd, [time(1_000_000_001, 12), time(1_100_000_002, 34)].as_ptr()))?;
        Self::look(fd)
    }

    fn look(fd: i32) -> Result<Self, String> {
        let mut stat: libc::stat = zeroed();
        sys!(fstat(fd, &mut stat))?;
        let mut attribute = vec![0; 64];
        // Not every file system has them.
        let room = attribute.len();
        let len = sys!(fgetxattr(fd, c"user.mark".as_ptr(), attribute.as_mut_ptr().cast(), room));
        attribute.truncate(len.unwrap_or(0) as usize);
        Ok(Self {
            owner: (stat.st_uid, stat.st_gid),
            mode: stat.st_mode,
            accessed: (stat.st_atime, stat.st_atime_nsec),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            attribute,
        })
    }
}

/// In memory, with a mapping and nothing else: its holes take no memory.
fn deleted_mapped_sparse(stage: &Stage) -> Verdict {
    const PAGES: usize = 256;
    let path = std::path::PathBuf::from(format!("/dev/shm/frost-sparse-{}", unsafe { libc::getpid() }));
    let fd = open(&path, O_RDWR | O_CREAT)?;
    unlink(&path)?;
    let len = PAGES * 4096;
    sys!(ftruncate(fd, len as i64))?;
    for page in [3, 200] {
        sys!(pwrite(fd, b"written".as_ptr().cast(), 7, page * 4096))?;
    }
    let address: *mut u8 =
        sys!(mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0))?
            .cast();
    sys!(close(fd))?;
    let there = || {
        let mut pages = [0u8; PAGES];
        sys!(mincore(address.cast(), len, pages.as_mut_ptr()))?;
        Ok::<Vec<usize>, String>((0..PAGES).filter(|page| pages[*page] & 1 == 1).collect())
    };
    same!(there()?, [3, 200], "pages that there are before");
    stage.freeze_here()?;
    same!(there()?, [3, 200], "pages that there are");
    for page in [3, 200] {
        let written = unsafe { std::slice::from_raw_parts(address.add(page * 4096), 7) };
        same!(written, b"written", "what page {page} begins with");
    }
    crate::call::check_zero("a hole", unsafe { address.add(4096) }, 4096)
}

/// Never had a name.
fn tmpfile(stage: &Stage) -> Verdict {
    let path = c(&stage.path("").to_string_lossy());
    let fd = sys!(open(path.as_ptr(), libc::O_TMPFILE | O_RDWR, 0o640))?;
    write_all(fd, b"never named")?;
    stage.freeze_here()?;
    sys!(lseek(fd, 0, SEEK_SET))?;
    same!(read_all(fd, 20)?, b"never named", "the file");
    let mut stat: libc::stat = zeroed();
    sys!(fstat(fd, &mut stat))?;
    same!(stat.st_mode & 0o777, 0o640, "its mode");
    Ok(())
}

/// Opened under one name, known by another now.
fn renamed(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let fd = open(&path, O_RDWR)?;
    std::fs::rename(&path, stage.path("other \\ name\n")).map_err(|why| why.to_string())?;
    text(stage, "file", "another")?;
    stage.freeze_here()?;
    same!(read_all(fd, 20)?, b"content", "the file");
    Ok(())
}

/// Opened under a name for the moment, then linked to its own; one is open, another is mapped.
fn linked(stage: &Stage) -> Verdict {
    let made = |draft: &str, name: &str| {
        let path = text(stage, draft, "content")?;
        let fd = open(&path, O_RDWR)?;
        std::fs::hard_link(&path, stage.path(name)).map_err(|why| why.to_string())?;
        std::fs::remove_file(&path).map_err(|why| why.to_string())?;
        Ok::<i32, String>(fd)
    };
    let (opened, mapped) = (made("draft", "opened")?, made("draft", "mapped")?);
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let memory = sys!(mmap(std::ptr::null_mut(), 4096, rights, libc::MAP_SHARED, mapped, 0))?.cast::<u8>();
    sys!(close(mapped))?;
    // They have their own names then.
    stage.freeze_without_facts()?;
    write_all(opened, b"CON")?;
    unsafe { memory.copy_from(b"new".as_ptr(), 3) };
    for (name, expected) in [("opened", "CONtent"), ("mapped", "newtent")] {
        same!(std::fs::read_to_string(stage.path(name)).map_err(|why| why.to_string())?, expected, "{name}");
    }
    check!(!stage.path("draft").exists(), "the name for the moment is back");
    Ok(())
}

fn high_numbers(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "abc")?;
    let fd = open(&path, O_RDONLY)?;
    let numbers = [9, 255, 256, 700];
    for (index, number) in numbers.into_iter().enumerate() {
        sys!(dup3(fd, number, if index % 2 == 0 { libc::O_CLOEXEC } else { 0 }))?;
    }
    sys!(close(fd))?;
    stage.freeze_here()?;
    same!(read_all(700, 3)?, b"abc", "the file");
    same!(sys!(open(c(&path.to_string_lossy()).as_ptr(), O_RDONLY))?, fd, "the lowest free number");
    Ok(())
}

fn thousand(stage: &Stage) -> Verdict {
    let mut limit: libc::rlimit = zeroed();
    sys!(getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
    limit.rlim_cur = limit.rlim_max.min(4096);
    sys!(setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    let count = (limit.rlim_cur as usize - 30).min(1000);
    let mut fds = Vec::new();
    for index in 0..count {
        let path = text(stage, &format!("file{}", index % 50), "0123456789")?;
        let fd = open(&path, O_RDONLY)?;
        sys!(lseek(fd, index as i64 % 10, SEEK_SET))?;
        fds.push(fd);
    }
    stage.freeze_here()?;
    for (index, fd) in fds.into_iter().enumerate() {
        same!(read_all(fd, 1)?, [b'0' + (index % 10) as u8], "file {index}");
    }
    Ok(())
}

/// A lock that the program holds is held after the thaw.
fn locks(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let fd = open(&path, O_RDWR)?;
    sys!(flock(fd, libc::LOCK_EX))?;
    let region = text(stage, "region", "content")?;
    let posix = open(&region, O_RDWR)?;
    let mut lock: libc::flock = zeroed();
    lock.l_type = libc::F_WRLCK as i16;
    (lock.l_start, lock.l_len) = (2, 3);
    sys!(fcntl(posix, libc::F_SETLK, &lock))?;
    stage.freeze_here()?;
    let child = stage.fork(|| {
        let other = open(&path, O_RDWR)?;
        check!(sys!(flock(other, libc::LOCK_EX | libc::LOCK_NB)).is_err(), "the flock is lost");
        let other = open(&region, O_RDWR)?;
        let mut probe: libc::flock = zeroed();
        probe.l_type = libc::F_WRLCK as i16;
        sys!(fcntl(other, libc::F_GETLK, &mut probe))?;
        same!(
            (i32::from(probe.l_type), probe.l_start, probe.l_len),
            (libc::F_WRLCK, 2, 3),
            "the record lock"
        );
        Ok(())
    })?;
    stage.reap(child)
}

/// Takes or probes a lock on `start..start+len` by a command of fcntl(2); what a probe finds is its type, or F_UNLCK.
fn record(fd: i32, command: i32, kind: i32, start: i64, len: i64) -> Result<i32, String> {
    let mut lock: libc::flock = zeroed();
    lock.l_type = kind as i16;
    (lock.l_start, lock.l_len) = (start, len);
    sys!(fcntl(fd, command, &mut lock))?;
    Ok(lock.l_type.into())
}

/// Locks of an open file description, which a forked child shares, for reading and for writing.
fn locks_of_description(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "some content")?;
    let (fd, other) = (open(&path, O_RDWR)?, open(&path, O_RDWR)?);
    record(fd, libc::F_OFD_SETLK, libc::F_WRLCK, 2, 3)?;
    record(fd, libc::F_OFD_SETLK, libc::F_RDLCK, 8, 1)?;
    record(other, libc::F_OFD_SETLK, libc::F_RDLCK, 8, 1)?;
    stage.freeze_here()?;
    if stage.was_copied() {
        return Ok(());
    }
    same!(record(other, libc::F_OFD_GETLK, libc::F_RDLCK, 2, 3)?, libc::F_WRLCK, "the lock for writing");
    same!(record(other, libc::F_OFD_GETLK, libc::F_WRLCK, 8, 1)?, libc::F_RDLCK, "the lock for reading");
    same!(record(other, libc::F_OFD_GETLK, libc::F_WRLCK, 5, 3)?, libc::F_UNLCK, "what lies between");
    same!(record(fd, libc::F_OFD_GETLK, libc::F_WRLCK, 8, 1)?, libc::F_RDLCK, "the other's lock");
    record(fd, libc::F_OFD_SETLK, libc::F_UNLCK, 0, 0)?;
    same!(record(other, libc::F_OFD_GETLK, libc::F_WRLCK, 0, 0)?, libc::F_UNLCK, "what was given up");
    Ok(())
}

/// Two processes have locks on parts of one file by one description that both have.
fn locks_of_processes(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "some content")?;
    let fd = open(&path, O_RDWR)?;
    record(fd, libc::F_SETLK, libc::F_WRLCK, 0, 2)?;
    let words = crate::call::shared_words::<2>()?;
    let child = stage.fork(|| {
        record(fd, libc::F_SETLK, libc::F_WRLCK, 4, 2)?;
        words[0].store(1, SeqCst);
        crate::call::until("the parent goes on", || words[1].load(SeqCst) == 1)?;
        if !stage.was_copied() {
            same!(record(fd, libc::F_GETLK, libc::F_WRLCK, 0, 2)?, libc::F_WRLCK, "the parent's lock");
        }
        Ok(())
    })?;
    crate::call::until("the child stands", || words[0].load(SeqCst) == 1)?;
    let seen = stage.freeze_here();
    let found = record(fd, libc::F_GETLK, libc::F_WRLCK, 4, 2)?;
    words[1].store(1, SeqCst);
    seen?;
    check!(stage.was_copied() || found == libc::F_WRLCK, "the child's lock is lost");
    stage.reap(child)
}

/// The signal by which a lease is broken, with the descriptor in it.
fn lease_signal() -> i32 {
    libc::SIGRTMIN() + 3
}

fn lease(stage: &Stage, flags: i32, kind: i32) -> Result<(std::path::PathBuf, i32), String> {
    let path = text(stage, "leased", "content")?;
    let fd = open(&path, flags)?;
    let mut set: libc::sigset_t = zeroed();
    sys!(sigaddset(&mut set, lease_signal()))?;
    sys!(sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
    const F_SETSIG: i32 = 10;
    sys!(fcntl(fd, F_SETSIG, lease_signal()))?;
    sys!(fcntl(fd, libc::F_SETLEASE, kind))?;
    Ok((path, fd))
}

/// Takes the signal that tells of an open by another.
fn told_of(fd: i32) -> Verdict {
    let mut set: libc::sigset_t = zeroed();
    sys!(sigaddset(&mut set, lease_signal()))?;
    let mut info: libc::siginfo_t = zeroed();
    let minute = libc::timespec { tv_sec: 60, tv_nsec: 0 };
    same!(sys!(sigtimedwait(&set, &mut info, &minute))?, lease_signal(), "the signal");
    // si_band, and behind it si_fd.
    let told = unsafe { *(&raw const info).cast::<i32>().add(6) };
    same!(told, fd, "the descriptor that the signal names");
    Ok(())
}

fn lease_read(stage: &Stage) -> Verdict {
    let (path, fd) = lease(stage, O_RDONLY, libc::F_RDLCK)?;
    stage.freeze_without_facts()?;
    if stage.was_copied() {
        same!(sys!(fcntl(fd, libc::F_GETLEASE))?, libc::F_UNLCK, "the lease of a copy");
        return Ok(());
    }
    same!(sys!(fcntl(fd, libc::F_GETLEASE))?, libc::F_RDLCK, "the lease");
    let reader = open(&path, O_RDONLY)?;
    check!(open(&path, O_WRONLY | libc::O_NONBLOCK).is_err(), "another may write though the lease holds");
    told_of(fd)?;
    sys!(close(reader))?;
    sys!(fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK))?;
    open(&path, O_WRONLY | libc::O_NONBLOCK).map(drop)
}

/// A lease for writing, which a description for reading may have too.
fn lease_write(stage: &Stage) -> Verdict {
    let (path, fd) = lease(stage, O_RDONLY, libc::F_WRLCK)?;
    stage.freeze_without_facts()?;
    if stage.was_copied() {
        return Ok(());
    }
    same!(sys!(fcntl(fd, libc::F_GETLEASE))?, libc::F_WRLCK, "the lease");
    check!(open(&path, O_RDONLY | libc::O_NONBLOCK).is_err(), "another may read though the lease holds");
    told_of(fd)?;
    sys!(fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK))?;
    open(&path, O_RDONLY | libc::O_NONBLOCK).map(drop)
}

/// A lease on a file that is also mapped, so that it has to be synced: whoever does that must not open it.
fn lease_mapped(stage: &Stage) -> Verdict {
    let path = text(stage, "leased", "content")?;
    let fd = open(&path, O_RDWR)?;
    let (rights, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, shared, fd, 0) };
    check!(memory != libc::MAP_FAILED, "it cannot be mapped");
    unsafe { memory.cast::<u8>().write(b'C') };
    // So is one that is only read and run, as a library may be.
    let private =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0) };
    check!(private != libc::MAP_FAILED, "it cannot be mapped");
    let mut set: libc::sigset_t = zeroed();
    sys!(sigaddset(&mut set, lease_signal()))?;
    sys!(sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
    const F_SETSIG: i32 = 10;
    sys!(fcntl(fd, F_SETSIG, lease_signal()))?;
    sys!(fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK))?;
    stage.freeze_without_facts()?;
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let told = unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &none) };
    same!(told, -1, "the signal that tells of an open by another");
    same!(sys!(fcntl(fd, libc::F_GETLEASE))?, libc::F_WRLCK, "the lease");
    same!(unsafe { memory.cast::<u8>().read() }, b'C', "the memory");
    Ok(())
}

/// Makes a lease, and a child that waits to open the file with `flags`; the signal that tells of it was taken.
fn breaking(stage: &Stage, own: i32, kind: i32, flags: i32) -> Result<(i32, i32), String> {
    let (path, fd) = lease(stage, own, kind)?;
    let child = stage.fork(|| {
        // A copy of the descriptor would be the lease's own.
        sys!(close(fd))?;
        open(&path, flags).map(drop)
    })?;
    crate::call::until("the child waits", || crate::call::is_in_call(child, libc::SYS_openat))?;
    told_of(fd)?;
    Ok((fd, child))
}

/// Frozen when another waits to write: it does, once the lease is given up, or as if the time for that had run out.
fn lease_breaking(stage: &Stage) -> Verdict {
    let (fd, child) = breaking(stage, O_RDONLY, libc::F_RDLCK, O_WRONLY)?;
    stage.freeze_without_facts()?;
    same!(sys!(fcntl(fd, libc::F_GETLEASE))?, libc::F_UNLCK, "what is to be left of the lease");
    let _gone = sys!(fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK));
    stage.reap(child)
}

/// Frozen when another waits to read: a lease for reading is to be left.
fn lease_lowered(stage: &Stage) -> Verdict {
    let (fd, child) = breaking(stage, O_RDONLY, libc::F_WRLCK, O_RDONLY)?;
    stage.freeze_without_facts()?;
    if !stage.was_copied() {
        same!(sys!(fcntl(fd, libc::F_GETLEASE))?, libc::F_RDLCK, "what is to be left of the lease");
        sys!(fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK))?;
    }
    stage.reap(child)
}

/// As before, of a description that writes: it could never have a lease for reading, so none is left.
fn lease_lowered_writer(stage: &Stage) -> Verdict {
    let (fd, child) = breaking(stage, O_RDWR, libc::F_WRLCK, O_RDONLY)?;
    stage.freeze_without_facts()?;
    let _gone = sys!(fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK));
    same!(sys!(fcntl(fd, libc::F_GETLEASE))?, libc::F_UNLCK, "what is left of the lease");
    stage.reap(child)
}

/// Whom descriptors signal, and by which signal: a process, a thread, a group, a child, nobody.
fn owner(stage: &Stage) -> Verdict {
    const F_SETSIG: i32 = 10;
    const F_GETSIG: i32 = 11;
    const F_SETOWN_EX: i32 = 15;
    const F_GETOWN_EX: i32 = 16;
    let own = unsafe { libc::getpid() };
    let words = crate::call::shared_words::<1>()?;
    let goes_on = || crate::call::until("it is told to end", || words[0].load(SeqCst) == 1);
    let child = stage.fork(goes_on)?;
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _sent = send.send(crate::call::gettid());
        crate::call::until("it is told to end", || words[0].load(SeqCst) == 1)
    });
    let tid = receive.recv().map_err(|why| why.to_string())?;
    // F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2.
    let group = unsafe { libc::getpgrp() };
    let wanted =
        [(1, own, 0), (0, tid, 12), (2, group, 10), (1, child, 34), (0, own, 0), (1, 0, 12), (1, 0, 0)];
    let mut ends = Vec::new();
    for (kind, id, signal) in wanted {
        let (from, to) = crate::call::pipe(libc::O_CLOEXEC)?;
        sys!(fcntl(from, F_SETOWN_EX, &[kind, id]))?;
        sys!(fcntl(from, F_SETSIG, signal))?;
        ends.push((from, to));
    }
    let seen = stage.freeze_amid_threads();
    let owner_of = |from: i32| {
        let mut found = [0; 2];
        sys!(fcntl(from, F_GETOWN_EX, &mut found)).map(|_| found)
    };
    // While all of them are there: the kernel tells of nobody who has ended.
    let found: Vec<_> = ends.iter().map(|(from, _)| owner_of(*from)).collect();
    words[0].store(1, SeqCst);
    seen?;
    for ((found, (from, _)), (kind, id, signal)) in found.into_iter().zip(ends).zip(wanted) {
        let [found_kind, found_id] = found?;
        let kind = if id == 0 { found_kind } else { kind };
        same!((found_kind, found_id), (kind, id), "whom a descriptor signals");
        same!(sys!(fcntl(from, F_GETSIG))?, signal, "the signal for {id}");
    }
    check!(thread.join().is_ok_and(|ended| ended.is_ok()), "the thread did not end well");
    stage.reap(child)
}

/// Files of /proc about the program itself.
fn proc(stage: &Stage) -> Verdict {
    let fd = open(std::path::Path::new("/proc/self/status"), O_RDONLY)?;
    stage.freeze_here()?;
    let text = read_all(fd, 4096)?;
    let pid = format!("Pid:\t{}\n", unsafe { libc::getpid() });
    check!(String::from_utf8_lossy(&text).contains(&pid), "it tells about another process");
    Ok(())
}

/// Files of /proc about other processes and single threads, in the program and in a child.
fn proc_of_others(stage: &Stage) -> Verdict {
    let words = crate::call::shared_words::<3>()?;
    let [tid, stands, end] = words;
    let thread = std::thread::spawn(|| {
        tid.store(crate::call::gettid() as u32, SeqCst);
        crate::call::until("it may end", || end.load(SeqCst) == 1)
    });
    crate::call::until("the thread stands", || tid.load(SeqCst) != 0)?;
    let (own, tid) = (unsafe { libc::getpid() }, tid.load(SeqCst) as i32);
    let at = |name: String| open(&std::path::Path::new("/proc").join(name), O_RDONLY);
    let is_of = |fd: i32, number: i32| {
        let told = read_all(fd, 4096)?;
        let line = format!("\nPid:\t{number}\n");
        check!(String::from_utf8_lossy(&told).contains(&line), "it tells about another than {number}");
        Ok(())
    };
    let parents = at(format!("{own}/status"))?;
    let child = stage.fork(|| {
        let of_thread = at(format!("{own}/task/{tid}/status"))?;
        stands.store(1, SeqCst);
        stage.wait();
        is_of(of_thread, tid)
    })?;
    crate::call::until("the child stands", || stands.load(SeqCst) == 1)?;
    let of_child = at(format!("{child}/status"))?;
    let of_thread = at(format!("self/task/{tid}/status"))?;
    let of_number = at(format!("{tid}/status"))?;
    let task = open(std::path::Path::new(&format!("/proc/self/task/{tid}")), O_RDONLY | libc::O_DIRECTORY)?;
    let seen = stage.freeze_amid_threads();
    is_of(parents, own)?;
    is_of(of_child, child)?;
    is_of(of_thread, tid)?;
    is_of(of_number, tid)?;
    is_of(sys!(openat(task, c"status".as_ptr(), O_RDONLY | libc::O_CLOEXEC))?, tid)?;
    // It reads about the thread, too.
    let reaped = stage.reap(child);
    end.store(1, SeqCst);
    seen?;
    check!(thread.join().is_ok_and(|ended| ended.is_ok()), "the thread did not end well");
    reaped
}

/// Paths of files of /proc about the program, and of a link.
fn proc_paths(stage: &Stage) -> Verdict {
    let at = |name: &str, more: i32| open(&std::path::Path::new("/proc/self").join(name), O_PATH | more);
    let (status, exe) = (at("status", 0)?, at("exe", libc::O_NOFOLLOW)?);
    stage.freeze_here()?;
    let text = std::fs::read_to_string(format!("/proc/self/fd/{status}")).map_err(|why| why.to_string())?;
    let pid = unsafe { libc::getpid() };
    check!(text.contains(&format!("\nPid:\t{pid}\n")), "it tells about another process");
    let mut target = [0u8; 4096];
    let len = sys!(readlinkat(exe, c"".as_ptr(), target.as_mut_ptr().cast(), target.len()))?;
    let own = std::env::current_exe().map_err(|why| why.to_string())?;
    same!(&target[..len as usize], own.as_os_str().as_encoded_bytes(), "where the link leads");
    Ok(())
}

/// Files of /proc that are not about one process, one of them read in part.
fn proc_global(stage: &Stage) -> Verdict {
    let at = |name: &str| open(&std::path::Path::new("/proc").join(name), O_RDONLY);
    let (systems, kind, directory) = (at("filesystems")?, at("sys/kernel/ostype")?, at("sys/kernel")?);
    let all = std::fs::read("/proc/filesystems").map_err(|why| why.to_string())?;
    let mut seen = read_all(systems, 40)?;
    stage.freeze_here()?;
    while let part = read_all(systems, 4096)?
        && !part.is_empty()
    {
        seen.extend(part);
    }
    same!(seen, all, "the list of file systems");
    same!(read_all(kind, 100)?, b"Linux\n", "a setting");
    let again = sys!(openat(directory, c"ostype".as_ptr(), O_RDONLY))?;
    same!(read_all(again, 100)?, b"Linux\n", "a setting by its directory");
    Ok(())
}

/// What setns(2) takes: its own namespaces, one of them in two descriptors.
fn namespaces(stage: &Stage) -> Verdict {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let path = |name: &str| std::path::Path::new("/proc/self/ns").join(name);
    let mut held = Vec::new();
    for name in names {
        held.push((name, open(&path(name), O_RDONLY)?));
    }
    held.push((names[0], sys!(dup(held[0].1))?));
    stage.freeze_here()?;
    for (name, fd) in held {
        let (mut found, mut own): (libc::stat, libc::stat) = (zeroed(), zeroed());
        sys!(fstat(fd, &mut found))?;
        sys!(stat(c(&path(name).to_string_lossy()).as_ptr(), &mut own))?;
        same!((found.st_dev, found.st_ino), (own.st_dev, own.st_ino), "the {name} namespace");
    }
    Ok(())
}

/// One that a thaw does not make; refused.
fn namespace_of_another(stage: &Stage) -> Verdict {
    let words = crate::call::shared_words::<2>()?;
    let child = stage.fork(|| {
        // Only root has the right; a user namespace gives it to others.
        let made = sys!(unshare(libc::CLONE_NEWUTS))
            .or_else(|_| sys!(unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWUTS)));
        words[0].store(1, SeqCst);
        crate::call::until("it was opened", || words[1].load(SeqCst) == 1)?;
        made.map(|_| ())
    })?;
    crate::call::until("the child stands", || words[0].load(SeqCst) == 1)?;
    open(std::path::Path::new(&format!("/proc/{child}/ns/uts")), O_RDONLY)?;
    words[1].store(1, SeqCst);
    stage.reap(child)?;
    stage.freeze_here()
}

/// The symbolic link, not what it leads to.
fn link_itself(stage: &Stage) -> Verdict {
    let link = stage.path("link");
    std::os::unix::fs::symlink("nowhere at all", &link).map_err(|why| why.to_string())?;
    let fd = open(&link, O_PATH | libc::O_NOFOLLOW)?;
    stage.freeze_here()?;
    let mut target = [0u8; 64];
    let len = sys!(readlinkat(fd, c"".as_ptr(), target.as_mut_ptr().cast(), 64))?;
    same!(&target[..len as usize], b"nowhere at all", "where it leads");
    Ok(())
}

/// Mapped files with names that the kernel shows as others, or as those of deleted ones.
fn odd_names(stage: &Stage) -> Verdict {
    let mut files = Vec::new();
    for name in ["a (deleted)", "b\\012c", "d\ne", "f\n\\012\\134g (deleted)"] {
        let path = text(stage, name, &"x".repeat(4096))?;
        let fd = open(&path, O_RDONLY)?;
        let address = sys!(mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0))?;
        sys!(close(fd))?;
        files.push((path, address.cast::<u8>()));
    }
    stage.freeze_here()?;
    for (path, address) in files {
        let shown = unsafe { std::slice::from_raw_parts(address, 4096) };
        check!(shown.iter().all(|byte| *byte == b'x'), "what the mapping of {} shows", path.display());
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|why| why.to_string())?;
        let name = path.to_string_lossy().replace('\n', "\\012");
        check!(maps.contains(&name), "{} is mapped no more", path.display());
    }
    Ok(())
}

/// Without a name, mapped by way of a descriptor that is closed, and open for writing only.
fn deleted_mapped_and_written(stage: &Stage) -> Verdict {
    let path = text(stage, "file", &"x".repeat(8192))?;
    let from = open(&path, O_RDONLY)?;
    let address = sys!(mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_SHARED, from, 0))?;
    sys!(close(from))?;
    let to = open(&path, O_WRONLY)?;
    std::fs::remove_file(path).map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    write_all(to, b"y")?;
    let seen = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), 8192) };
    same!(&seen[..2], b"yx", "what the mapping shows of what was written");
    Ok(())
}

/// One without a name may be given one later, unless it was opened so that it may not.
fn tmpfile_linked_later(stage: &Stage) -> Verdict {
    let path = c(&stage.path("").to_string_lossy());
    let fd = sys!(open(path.as_ptr(), libc::O_TMPFILE | O_RDWR, 0o640))?;
    write_all(fd, b"not yet named")?;
    stage.freeze_here()?;
    let own = c(&format!("/proc/self/fd/{fd}"));
    let name = stage.path(if stage.was_copied() { "copy" } else { "name" });
    let to = c(&name.to_string_lossy());
    sys!(linkat(libc::AT_FDCWD, own.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW))?;
    same!(std::fs::read(name).map_err(|why| why.to_string())?, b"not yet named", "the file");
    Ok(())
}

/// Another file has its name by now, as when an editor saves.
fn replaced(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "old content")?;
    let (fd, other) = (open(&path, O_RDWR)?, text(stage, "new", "new")?);
    std::fs::rename(other, &path).map_err(|why| why.to_string())?;
    let new = open(&path, O_RDONLY)?;
    stage.freeze_without_facts()?;
    same!(read_all(fd, 20)?, b"old content", "the old file");
    same!(read_all(new, 20)?, b"new", "the new file");
    write_all(fd, b" of it")?;
    same!(std::fs::read(path).map_err(|why| why.to_string())?, b"new", "the file by its name");
    Ok(())
}

/// What open(2) was told beside the mode.
fn flags(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let mut held = Vec::new();
    for more in [libc::O_SYNC, libc::O_DSYNC, libc::O_NOATIME, libc::O_DIRECT, libc::O_NONBLOCK, O_APPEND] {
        if let Ok(fd) = open(&path, O_RDONLY | more) {
            held.push((fd, sys!(fcntl(fd, libc::F_GETFL))?));
        }
    }
    check!(held.len() >= 5, "{} of them could be opened", held.len());
    stage.freeze_here()?;
    for (fd, before) in held {
        same!(sys!(fcntl(fd, libc::F_GETFL))?, before, "the flags of a file");
    }
    Ok(())
}

/// A file without a name, mapped through one descriptor and locked through another: the locks end with that one.
fn deleted_mapped_locked(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let (mapped, locked) = (open(&path, O_RDWR)?, open(&path, O_RDWR)?);
    let map = |protection: i32| {
        let shown = unsafe { libc::mmap(null_mut(), 4096, protection, libc::MAP_SHARED, mapped, 0) };
        check!(shown != libc::MAP_FAILED, "it cannot be mapped");
        Ok(shown.cast::<u8>())
    };
    let (written, read) = (map(libc::PROT_READ | libc::PROT_WRITE)?, map(libc::PROT_READ)?);
    sys!(flock(locked, libc::LOCK_EX))?;
    record(locked, libc::F_OFD_SETLK, libc::F_WRLCK, 2, 3)?;
    record(mapped, libc::F_SETLK, libc::F_WRLCK, 8, 1)?;
    std::fs::remove_file(&path).map_err(|why| why.to_string())?;
    stage.freeze_here()?;
    unsafe { *written = b'C' };
    same!(unsafe { *read }, b'C', "what one mapping shows of a write to the other");
    same!(read_all(mapped, 7)?, b"Content", "the file");
    let link = PathBuf::from(format!("/proc/self/fd/{mapped}"));
    let other = open(&link, O_RDWR)?;
    if !stage.was_copied() {
        check!(sys!(flock(other, libc::LOCK_EX | libc::LOCK_NB)).is_err(), "the lock is lost");
        same!(
            record(other, libc::F_OFD_GETLK, libc::F_RDLCK, 2, 3)?,
            libc::F_WRLCK,
            "the lock of a description"
        );
        same!(
            record(other, libc::F_OFD_GETLK, libc::F_RDLCK, 8, 1)?,
            libc::F_WRLCK,
            "the lock of the process"
        );
    }
    sys!(close(locked))?;
    sys!(flock(other, libc::LOCK_EX | libc::LOCK_NB))?;
    same!(
        record(other, libc::F_OFD_GETLK, libc::F_RDLCK, 2, 3)?,
        libc::F_UNLCK,
        "a lock whose descriptor is closed"
    );
    Ok(())
}

/// Two names of one file, each opened, and a lock by one of them.
fn names(stage: &Stage) -> Verdict {
    let path = text(stage, "file", "content")?;
    let other = stage.path("other");
    std::fs::hard_link(&path, &other).map_err(|why| why.to_string())?;
    let (one, two) = (open(&path, O_RDONLY)?, open(&other, O_RDONLY)?);
    sys!(flock(one, libc::LOCK_EX))?;
    stage.freeze_here()?;
    let mut numbers = [0; 2];
    for (number, fd) in numbers.iter_mut().zip([one, two]) {
        let mut stat: libc::stat = zeroed();
        sys!(fstat(fd, &mut stat))?;
        *number = stat.st_ino;
        same!(read_all(fd, 20)?, b"content", "the file by one of its names");
    }
    same!(numbers[0], numbers[1], "the numbers of the file");
    if !stage.was_copied() {
        check!(sys!(flock(two, libc::LOCK_SH | libc::LOCK_NB)).is_err(), "the lock is lost");
    }
    Ok(())
}

/// Made with a mode by which its owner may not open it so again, as locks are.
fn against_mode(stage: &Stage) -> Verdict {
    let make = |name: &str, flags: i32, mode: u32| {
        let path = c(&stage.path(name).to_string_lossy());
        sys!(open(path.as_ptr(), flags | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC, mode))
    };
    let (lock, secret) = (make("lock", O_WRONLY, 0o400)?, make("secret", O_RDWR, 0)?);
    write_all(secret, b"secret")?;
    sys!(lseek(secret, 0, SEEK_SET))?;
    stage.freeze_here()?;
    same!(read_all(secret, 20)?, b"secret", "what may be read only by the one who made it");
    write_all(lock, b"taken")?;
    let told = std::fs::read_to_string(stage.path("lock")).map_err(|why| why.to_string())?;
    same!(told, "taken", "what was written");
    for (fd, mode) in [(lock, 0o400), (secret, 0)] {
        let mut stat: libc::stat = zeroed();
        sys!(fstat(fd, &mut stat))?;
        same!(stat.st_mode & 0o7777, mode, "its mode");
    }
    Ok(())
}

/// It waits for pressure of memory, as programs do that give some back before the kernel takes it.
fn pressure(stage: &Stage) -> Verdict {
    let file = open(std::path::Path::new("/proc/pressure/memory"), libc::O_RDWR | libc::O_NONBLOCK)?;
    // Everybody may ask for multiples of two seconds; the last byte is taken for the end of it (psi_write).
    write_all(file, b"some 500000 4000000\n")?;
    stage.freeze_here()
}
