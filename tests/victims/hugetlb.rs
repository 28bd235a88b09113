//! Huge pages of hugetlbfs: private, shared, behind a descriptor, in files and in segments of System V.

use crate::Victim;
use crate::call::{READ_WRITE, c, check_fill, fill, shared_words, until, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{
    IPC_CREAT, IPC_PRIVATE, IPC_RMID, MAP_ANONYMOUS, MAP_HUGETLB, MAP_PRIVATE, MAP_SHARED, MFD_HUGETLB,
    PROT_READ,
};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("hugetlb_private", private),
    ("hugetlb_forked", forked),
    ("hugetlb_unreserved", unreserved),
    ("hugetlb_shared", shared),
    ("hugetlb_memfd", memfd),
    ("hugetlb_memfd_closed", memfd_closed),
    ("hugetlb_memfd_private", memfd_private),
    ("hugetlb_file", file),
    ("hugetlb_file_deleted", file_deleted),
    ("hugetlb_segment", segment),
];

const HUGE: usize = 2 << 20;
const LEN: usize = 3 * HUGE;

/// Maps huge pages; `None`, and a word on it, if the machine has none to give.
fn map(len: usize, rights: i32, flags: i32, fd: i32) -> Result<Option<*mut u8>, String> {
    let flags = if fd < 0 { flags | MAP_ANONYMOUS | MAP_HUGETLB } else { flags };
    let address = unsafe { libc::mmap(std::ptr::null_mut(), len, rights, flags, fd, 0) };
    if address == libc::MAP_FAILED {
        let why = std::io::Error::last_os_error();
        check!(why.raw_os_error() == Some(libc::ENOMEM), "mmap: {why}");
        eprintln!("skipped: the machine has no huge pages left (vm.nr_overcommit_hugepages)");
        return Ok(None);
    }
    Ok(Some(address.cast()))
}

fn at(memory: *mut u8, page: usize) -> *mut u8 {
    unsafe { memory.add(page * HUGE) }
}

/// Returns a field of the mapping at an address, as smaps has it.
fn field(address: *mut u8, name: &str) -> Result<String, String> {
    let text = std::fs::read_to_string("/proc/self/smaps").map_err(|e| e.to_string())?;
    let head = format!("{:x}-", address.addr());
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&head));
    let line = lines.find(|line| line.starts_with(name)).unwrap_or_default();
    Ok(line.split_once(':').map_or("", |(_, value)| value).trim().to_owned())
}

/// Written, never touched, and a page of zeros; and such that may not be written any more.
fn private(stage: &Stage) -> Verdict {
    let Some(memory) = map(LEN, READ_WRITE, MAP_PRIVATE, -1)? else { return stage.freeze_here() };
    fill(memory, HUGE, 1);
    fill(at(memory, 2), 4096, 2);
    sys!(mprotect(memory.cast(), HUGE, PROT_READ))?;
    stage.freeze_here()?;
    check_fill("the first page", memory, HUGE, 1)?;
    check_fill("the start of the last page", at(memory, 2), 4096, 2)?;
    same!(unsafe { at(memory, 2).add(HUGE - 1).read() }, 0, "the end of the last page");
    same!(unsafe { at(memory, 1).read() }, 0, "the page that was not touched");
    same!(field(memory, "KernelPageSize")?, "2048 kB", "the size of its pages");
    unsafe { at(memory, 1).write(1) };
    sys!(munmap(memory.cast(), LEN)).map(drop)
}

/// A child has pages of its parent by copy-on-write, and some of its own.
fn forked(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let Some(memory) = map(LEN, READ_WRITE, MAP_PRIVATE, -1)? else { return stage.freeze_here() };
    (0..3).for_each(|page| fill(at(memory, page), HUGE, page as u64 + 1));
    let child = stage.fork(|| {
        unsafe { at(memory, 1).write(0x77) };
        words[0].store(1, SeqCst);
        stage.wait();
        check_fill("the first page of the child", memory, HUGE, 1)?;
        same!(unsafe { at(memory, 1).read() }, 0x77, "what the child wrote");
        check_fill("the last page of the child", at(memory, 2), HUGE, 3)
    })?;
    until("the child has written", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    stage.reap(child)?;
    (0..3).try_for_each(|page| check_fill("a page of the parent", at(memory, page), HUGE, page as u64 + 1))
}

/// More than there is: nothing is reserved, and a page of it is there.
fn unreserved(stage: &Stage) -> Verdict {
    let flags = MAP_PRIVATE | libc::MAP_NORESERVE;
    let len = 1 << 40;
    let Some(probe) = map(HUGE, READ_WRITE, MAP_PRIVATE, -1)? else { return stage.freeze_here() };
    sys!(munmap(probe.cast(), HUGE))?;
    let Some(memory) = map(len, READ_WRITE, flags, -1)? else { return stage.freeze_here() };
    fill(at(memory, 1000), HUGE, 5);
    stage.freeze_here()?;
    check_fill("the page that was written", at(memory, 1000), HUGE, 5)?;
    sys!(munmap(memory.cast(), len)).map(drop)
}

/// Shared with a child, and not all of it there.
fn shared(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let Some(memory) = map(LEN, READ_WRITE, MAP_SHARED, -1)? else { return stage.freeze_here() };
    fill(memory, HUGE, 1);
    let child = stage.fork(|| {
        fill(at(memory, 2), HUGE, 3);
        words[0].store(1, SeqCst);
        stage.wait();
        check_fill("the child's view", memory, HUGE, 1)?;
        fill(memory, HUGE, 2);
        Ok(())
    })?;
    until("the child has written", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    stage.reap(child)?;
    check_fill("what the child wrote since", memory, HUGE, 2)?;
    check_fill("what the child wrote before", at(memory, 2), HUGE, 3)?;
    same!(unsafe { at(memory, 1).read() }, 0, "the page that was not touched");
    same!(field(memory, "KernelPageSize")?, "2048 kB", "the size of its pages");
    Ok(())
}

fn make(len: usize, flags: u32) -> Result<i32, String> {
    let fd = sys!(memfd_create(c"huge".as_ptr(), MFD_HUGETLB | flags))?;
    sys!(ftruncate(fd, len as i64))?;
    Ok(fd)
}

/// Its descriptor, offset, seals and size, more of it than is mapped.
fn memfd(stage: &Stage) -> Verdict {
    let fd = make(LEN, libc::MFD_ALLOW_SEALING)?;
    let Some(memory) = map(2 * HUGE, READ_WRITE, MAP_SHARED, fd)? else { return stage.freeze_here() };
    let Some(rest) = map(LEN, READ_WRITE, MAP_SHARED, fd)? else { return stage.freeze_here() };
    fill(memory, HUGE, 1);
    fill(at(rest, 2), HUGE, 3);
    sys!(munmap(rest.cast(), LEN))?;
    sys!(lseek(fd, 1000, libc::SEEK_SET))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    sys!(fcntl(fd, libc::F_ADD_SEALS, seals))?;
    let empty = make(0, 0)?;
    stage.freeze_here()?;
    check_fill("what is mapped", memory, HUGE, 1)?;
    let Some(rest) = map(LEN, READ_WRITE, MAP_SHARED, fd)? else { return Err("no huge pages".to_owned()) };
    check_fill("what is not mapped", at(rest, 2), HUGE, 3)?;
    unsafe { memory.write(0x55) };
    same!(unsafe { rest.read() }, 0x55, "what the other mapping wrote");
    same!(sys!(lseek(fd, 0, libc::SEEK_CUR))?, 1000, "the offset");
    same!(sys!(fcntl(fd, libc::F_GET_SEALS))?, seals, "the seals");
    let mut stat: libc::stat = zeroed();
    sys!(fstat(fd, &mut stat))?;
    same!(stat.st_size, LEN as i64, "the size");
    sys!(fstat(empty, &mut stat))?;
    same!((stat.st_size, stat.st_blksize), (0, HUGE as i64), "the empty one");
    Ok(())
}

/// Nothing but a mapping of its middle is left.
fn memfd_closed(stage: &Stage) -> Verdict {
    let fd = make(LEN, 0)?;
    let Some(memory) = map(LEN, READ_WRITE, MAP_SHARED, fd)? else { return stage.freeze_here() };
    sys!(close(fd))?;
    fill(at(memory, 1), HUGE, 2);
    sys!(munmap(memory.cast(), HUGE))?;
    sys!(munmap(at(memory, 2).cast(), HUGE))?;
    stage.freeze_here()?;
    check_fill("what is mapped", at(memory, 1), HUGE, 2)
}

/// Private pages of a memfd, and those of the memfd behind them.
fn memfd_private(stage: &Stage) -> Verdict {
    let fd = make(LEN, 0)?;
    let Some(memory) = map(LEN, READ_WRITE, MAP_SHARED, fd)? else { return stage.freeze_here() };
    let Some(own) = map(LEN, READ_WRITE, MAP_PRIVATE, fd)? else { return stage.freeze_here() };
    (0..3).for_each(|page| fill(at(memory, page), HUGE, page as u64 + 1));
    fill(at(own, 1), HUGE, 9);
    stage.freeze_here()?;
    check_fill("the memfd", at(memory, 1), HUGE, 2)?;
    check_fill("the page that is its own", at(own, 1), HUGE, 9)?;
    check_fill("a page that is not", at(own, 2), HUGE, 3)
}

/// Returns where a hugetlbfs of 2 MiB pages is mounted that we may write.
fn mount() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next() == Some("hugetlbfs")
            && words.next()?.contains("pagesize=2M")
            && unsafe { libc::access(c(place).as_ptr(), libc::W_OK) } == 0)
            .then(|| place.to_owned())
    });
    if found.is_none() {
        eprintln!("skipped: no hugetlbfs is mounted where it may be written");
    }
    found
}

fn in_file(stage: &Stage, deleted: bool) -> Verdict {
    let Some(place) = mount() else { return stage.freeze_here() };
    let directory = stage.path("");
    let name =
        directory.as_os_str().as_bytes().iter().map(|byte| if *byte == b'/' { '-' } else { *byte as char });
    let path = format!("{place}/{}", name.collect::<String>());
    let fd = sys!(open(c(&path).as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600))?;
    std::fs::write(stage.path("object"), &path).map_err(|e| e.to_string())?;
    sys!(ftruncate(fd, LEN as i64))?;
    let mapped = map(LEN, READ_WRITE, MAP_SHARED, fd)?;
    if deleted || mapped.is_none() {
        sys!(unlink(c(&path).as_ptr()))?;
    }
    let Some(memory) = mapped else { return stage.freeze_here() };
    fill(memory, HUGE, 1);
    fill(at(memory, 2), HUGE, 3);
    sys!(close(fd))?;
    stage.freeze_here()?;
    check_fill("the first page", memory, HUGE, 1)?;
    check_fill("the last page", at(memory, 2), HUGE, 3)?;
    same!(field(memory, "KernelPageSize")?, "2048 kB", "the size of its pages");
    if !deleted {
        sys!(unlink(c(&path).as_ptr()))?;
    }
    Ok(())
}

fn file(stage: &Stage) -> Verdict {
    in_file(stage, false)
}

fn file_deleted(stage: &Stage) -> Verdict {
    in_file(stage, true)
}

/// Attached by two processes, and by one of them for reading only as well.
fn segment(stage: &Stage) -> Verdict {
    let id = unsafe { libc::shmget(IPC_PRIVATE, LEN - 100, IPC_CREAT | 0o600 | libc::SHM_HUGETLB) };
    if id < 0 {
        eprintln!("skipped: shmget: {}", std::io::Error::last_os_error());
        return stage.freeze_here();
    }
    let memory: *mut u8 = sys!(shmat(id, std::ptr::null(), 0))?.cast();
    let reading: *mut u8 = sys!(shmat(id, std::ptr::null(), libc::SHM_RDONLY))?.cast();
    fill(memory, HUGE, 1);
    fill(at(memory, 2), HUGE, 3);
    let child = stage.fork(|| {
        stage.wait();
        check_fill("the child's view", memory, HUGE, 1)?;
        fill(memory, HUGE, 2);
        Ok(())
    })?;
    stage.freeze_here()?;
    stage.reap(child)?;
    check_fill("what the child wrote", reading, HUGE, 2)?;
    check_fill("the last page", at(reading, 2), HUGE, 3)?;
    same!(unsafe { at(memory, 1).read() }, 0, "the page that was not touched");
    same!(field(memory, "KernelPageSize")?, "2048 kB", "the size of its pages");
    check!(
        sys!(mprotect(reading.cast(), LEN, READ_WRITE)).is_err(),
        "what was attached for reading can be written"
    );
    let mut status: libc::shmid_ds = zeroed();
    sys!(shmctl(id, libc::IPC_STAT, &mut status))?;
    same!((status.shm_segsz, status.shm_nattch), (LEN - 100, 2), "its size and attachments");
    sys!(shmctl(id, IPC_RMID, std::ptr::null_mut())).map(drop)
}
