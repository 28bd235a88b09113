//! Files that are mapped.

use crate::Victim;
use crate::call::{READ_WRITE, check_fill, fill, open, write_all};
use crate::stage::{Stage, Verdict};
use libc::{MAP_PRIVATE, MAP_SHARED, O_CREAT, O_RDONLY, O_RDWR, PROT_READ};

pub(crate) const VICTIMS: &[Victim] = &[
    ("file_private_untouched", private_untouched),
    ("file_private_written", private_written),
    ("file_private_read_only", private_read_only),
    ("file_shared", shared),
    ("file_shared_read_only", shared_read_only),
    ("file_deleted_mapped", deleted_mapped),
    ("file_deleted_closed", deleted_closed),
    ("file_deleted_hidden", deleted_hidden),
    ("file_deleted_in_memory", deleted_in_memory),
    ("file_beyond_end", beyond_end),
];

const PAGE: usize = 4096;
const LEN: usize = 64 * PAGE;

/// Makes a file whose pages hold the byte of their number.
fn file(stage: &Stage, name: &str) -> Result<i32, String> {
    let fd = open(&stage.path(name), O_RDWR | O_CREAT)?;
    for page in 0..LEN / PAGE {
        write_all(fd, &[page as u8 + 1; PAGE])?;
    }
    Ok(fd)
}

fn mapped(fd: i32, rights: i32, flags: i32, offset: usize) -> Result<*mut u8, String> {
    Ok(sys!(mmap(std::ptr::null_mut(), LEN - offset, rights, flags, fd, offset as i64))?.cast())
}

fn pages(what: &str, memory: *const u8, first: usize, count: usize) -> Verdict {
    for page in 0..count {
        let found = unsafe { memory.add(page * PAGE + 99).read_volatile() };
        same!(found, (first + page) as u8 + 1, "{what}, page {page}");
    }
    Ok(())
}

fn private_untouched(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let memory = mapped(fd, READ_WRITE, MAP_PRIVATE, 16 * PAGE)?;
    sys!(close(fd))?;
    stage.freeze_here()?;
    pages("the mapping", memory, 16, 48)
}

fn private_written(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let memory = mapped(fd, READ_WRITE, MAP_PRIVATE, 0)?;
    sys!(close(fd))?;
    for page in (0..64).step_by(3) {
        fill(unsafe { memory.add(page * PAGE) }, PAGE, page as u64);
    }
    stage.freeze_here()?;
    for page in 0..64 {
        let address = unsafe { memory.add(page * PAGE) };
        if page % 3 == 0 {
            check_fill("a page written", address, PAGE, page as u64)?;
        } else {
            pages("a page not written", address, page, 1)?;
        }
    }
    let text = std::fs::read(stage.path("mapped")).map_err(|why| why.to_string())?;
    check!(
        text.chunks(PAGE).enumerate().all(|(i, p)| p == [i as u8 + 1; PAGE]),
        "the file itself was changed"
    );
    Ok(())
}

/// Written first, then made read-only: as relocated data is.
fn private_read_only(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let memory = mapped(fd, READ_WRITE, MAP_PRIVATE, 0)?;
    fill(memory, PAGE, 1);
    sys!(mprotect(memory.cast(), LEN, PROT_READ))?;
    stage.freeze_here()?;
    check_fill("the page written", memory, PAGE, 1)?;
    pages("the others", unsafe { memory.add(PAGE) }, 1, 63)?;
    sys!(mprotect(memory.cast(), LEN, READ_WRITE))?;
    fill(memory, LEN, 2);
    check_fill("all of it", memory, LEN, 2)
}

fn shared(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let memory = mapped(fd, READ_WRITE, MAP_SHARED, 0)?;
    sys!(close(fd))?;
    fill(memory, PAGE, 1);
    stage.freeze_here()?;
    check_fill("the page written before", memory, PAGE, 1)?;
    fill(unsafe { memory.add(5 * PAGE) }, PAGE, 2);
    let text = std::fs::read(stage.path("mapped")).map_err(|why| why.to_string())?;
    check_fill("the file, before", text.as_ptr(), PAGE, 1)?;
    check_fill("the file, after", text[5 * PAGE..].as_ptr(), PAGE, 2)
}

fn shared_read_only(stage: &Stage) -> Verdict {
    sys!(close(file(stage, "mapped")?))?;
    let fd = open(&stage.path("mapped"), O_RDONLY)?;
    let memory = mapped(fd, PROT_READ, MAP_SHARED, 0)?;
    sys!(close(fd))?;
    stage.freeze_here()?;
    pages("the mapping", memory, 0, 64)?;
    check!(sys!(mprotect(memory.cast(), PAGE, READ_WRITE)).is_err(), "a read-only file became writable");
    Ok(())
}

/// A mapped file that has no name any more, held open beside.
fn deleted_mapped(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let shared = mapped(fd, READ_WRITE, MAP_SHARED, 0)?;
    let private = mapped(fd, READ_WRITE, MAP_PRIVATE, 0)?;
    fill(unsafe { private.add(PAGE) }, PAGE, 4);
    sys!(unlink(crate::call::c(&stage.path("mapped").to_string_lossy()).as_ptr()))?;
    stage.freeze_here()?;
    pages("the shared mapping", shared, 0, 64)?;
    check_fill("the private page", unsafe { private.add(PAGE) }, PAGE, 4)?;
    fill(shared, PAGE, 5);
    let mut bytes = vec![0; PAGE];
    sys!(pread(fd, bytes.as_mut_ptr().cast(), PAGE, 0))?;
    check_fill("the file as read", bytes.as_ptr(), PAGE, 5)
}

/// A mapped file that has neither a name nor a descriptor any more, mapped in two processes and in several ways.
fn deleted_closed(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let shared = mapped(fd, READ_WRITE, MAP_SHARED, 0)?;
    let private = mapped(fd, READ_WRITE, MAP_PRIVATE, 0)?;
    let reading = mapped(fd, PROT_READ, MAP_SHARED, 3 * PAGE)?;
    fill(unsafe { private.add(PAGE) }, PAGE, 4);
    sys!(unlink(crate::call::c(&stage.path("mapped").to_string_lossy()).as_ptr()))?;
    sys!(close(fd))?;
    let child = stage.fork(|| {
        stage.wait();
        pages("the child's view", shared, 0, 64)?;
        fill(shared, PAGE, 5);
        Ok(())
    })?;
    stage.freeze_here()?;
    stage.reap(child)?;
    check_fill("what the child wrote", shared, PAGE, 5)?;
    pages("what it did not write", unsafe { shared.add(PAGE) }, 1, 63)?;
    check_fill("the private page", unsafe { private.add(PAGE) }, PAGE, 4)?;
    pages("private pages that were not written", unsafe { private.add(2 * PAGE) }, 2, 62)?;
    pages("the mapping for reading", reading, 3, 61)?;
    unsafe { shared.add(3 * PAGE).write_volatile(0x77) };
    same!(unsafe { reading.read_volatile() }, 0x77, "what another mapping shows");
    Ok(())
}

/// Such a file of which only a part in the middle is mapped still, by which all of it can be had again.
fn deleted_hidden(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let memory = mapped(fd, READ_WRITE, MAP_SHARED, 0)?;
    sys!(unlink(crate::call::c(&stage.path("mapped").to_string_lossy()).as_ptr()))?;
    sys!(close(fd))?;
    sys!(munmap(memory.cast(), 16 * PAGE))?;
    let kept = unsafe { memory.add(16 * PAGE) };
    sys!(munmap(kept.add(PAGE).cast(), 47 * PAGE))?;
    stage.freeze_here()?;
    let grown = unsafe { libc::mremap(kept.cast(), PAGE, 64 * PAGE, libc::MREMAP_MAYMOVE) };
    check!(grown != libc::MAP_FAILED, "mremap: {}", std::io::Error::last_os_error());
    sys!(remap_file_pages(grown, 64 * PAGE, 0, 0, 0))?;
    pages("all of the file", grown.cast(), 0, 64)
}

/// As sem_open(3) and sem_unlink(3) make it, or shm_open(3): a small file of /dev/shm.
fn deleted_in_memory(stage: &Stage) -> Verdict {
    let path = crate::call::c(&format!("/dev/shm/frost-victim-{}", unsafe { libc::getpid() }));
    let Ok(fd) = sys!(open(path.as_ptr(), O_RDWR | O_CREAT | libc::O_EXCL | libc::O_CLOEXEC, 0o600)) else {
        eprintln!("skipped: nothing can be made in /dev/shm");
        return stage.freeze_here();
    };
    sys!(ftruncate(fd, 32))?;
    let memory = sys!(mmap(std::ptr::null_mut(), 32, READ_WRITE, MAP_SHARED, fd, 0))?.cast::<u8>();
    sys!(unlink(path.as_ptr()))?;
    sys!(close(fd))?;
    let word = unsafe { &*memory.cast::<std::sync::atomic::AtomicU32>() };
    word.store(7, std::sync::atomic::Ordering::SeqCst);
    let child = stage.fork(|| {
        crate::call::until("the parent writes", || word.load(std::sync::atomic::Ordering::SeqCst) == 8)?;
        word.store(9, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    })?;
    stage.freeze_here()?;
    same!(word.swap(8, std::sync::atomic::Ordering::SeqCst), 7, "the word");
    stage.reap(child)?;
    same!(word.load(std::sync::atomic::Ordering::SeqCst), 9, "what the child wrote");
    Ok(())
}

/// A mapping that reaches beyond the end of its file.
fn beyond_end(stage: &Stage) -> Verdict {
    let fd = file(stage, "mapped")?;
    let memory = sys!(mmap(std::ptr::null_mut(), 2 * LEN, READ_WRITE, MAP_PRIVATE, fd, 0))?.cast::<u8>();
    fill(memory, PAGE, 1);
    stage.freeze_here()?;
    check_fill("the page written", memory, PAGE, 1)?;
    sys!(ftruncate(fd, 2 * LEN as i64))?;
    same!(unsafe { memory.add(LEN + 5).read_volatile() }, 0, "a page that the file grew");
    Ok(())
}
