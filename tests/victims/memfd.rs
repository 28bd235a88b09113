//! Memory behind a descriptor.

use crate::Victim;
use crate::call::{READ_WRITE, c, check_fill, check_zero, fill, open, read_all, write_all, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{MAP_PRIVATE, MAP_SHARED, MFD_ALLOW_SEALING, MFD_CLOEXEC, PROT_READ};
use std::path::Path;

pub(crate) const VICTIMS: &[Victim] = &[
    ("memfd_secret", secret),
    ("memfd_plain", plain),
    ("memfd_shared", shared),
    ("memfd_private", private),
    ("memfd_sealed", sealed),
    ("memfd_seals", seals),
    ("memfd_closed", closed),
    ("memfd_sparse", sparse),
    ("memfd_read_only", read_only),
];

const PAGE: usize = 4096;
const LEN: usize = 1 << 20;

fn memfd(flags: u32, len: usize) -> Result<i32, String> {
    let fd = sys!(memfd_create(c"victim".as_ptr(), flags))?;
    sys!(ftruncate(fd, len as i64))?;
    Ok(fd)
}

fn mapped(fd: i32, rights: i32, flags: i32) -> Result<*mut u8, String> {
    Ok(sys!(mmap(std::ptr::null_mut(), LEN, rights, flags, fd, 0))?.cast())
}

fn plain(stage: &Stage) -> Verdict {
    let fd = memfd(0, 0)?;
    write_all(fd, b"one two three")?;
    sys!(lseek(fd, 4, libc::SEEK_SET))?;
    let twin = sys!(dup(fd))?;
    sys!(fchmod(fd, 0o640))?;
    stage.freeze_here()?;
    same!(read_all(fd, 3)?, b"two", "what stands at the offset");
    same!(read_all(twin, 6)?, b" three", "what stands at the shared offset");
    let mut stat: libc::stat = zeroed();
    sys!(fstat(fd, &mut stat))?;
    same!(stat.st_size, 13, "its size");
    same!(stat.st_mode & 0o7777, 0o640, "its mode");
    Ok(())
}

/// Two mappings and the descriptor show one memory, in two processes.
fn shared(stage: &Stage) -> Verdict {
    let fd = memfd(MFD_CLOEXEC, LEN)?;
    let (one, two) = (mapped(fd, READ_WRITE, MAP_SHARED)?, mapped(fd, PROT_READ, MAP_SHARED)?);
    fill(one, LEN, 1);
    let child = stage.fork(|| {
        stage.wait();
        check_fill("the child's view", two, PAGE, 1)?;
        fill(unsafe { one.add(LEN / 2) }, LEN / 2, 2);
        Ok(())
    })?;
    stage.freeze_here()?;
    stage.reap(child)?;
    check_fill("the second mapping", two, PAGE, 1)?;
    check_fill("what the child wrote", unsafe { two.add(LEN / 2) }, LEN / 2, 2)?;
    sys!(pwrite(fd, b"written".as_ptr().cast(), 7, 0))?;
    same!(unsafe { std::slice::from_raw_parts(two, 7) }, b"written", "what write(2) put there");
    Ok(())
}

fn private(stage: &Stage) -> Verdict {
    let fd = memfd(MFD_CLOEXEC, LEN)?;
    let shared = mapped(fd, READ_WRITE, MAP_SHARED)?;
    fill(shared, LEN, 1);
    let own = mapped(fd, READ_WRITE, MAP_PRIVATE)?;
    fill(unsafe { own.add(8 * PAGE) }, PAGE, 2);
    stage.freeze_here()?;
    check_fill("the memfd", shared, LEN, 1)?;
    check_fill("pages not written", own, 8 * PAGE, 1)?;
    check_fill("the page written", unsafe { own.add(8 * PAGE) }, PAGE, 2)?;
    // A page not yet written follows the memfd, as before.
    unsafe { shared.write(0x77) };
    same!(unsafe { own.read() }, 0x77, "a page not written");
    Ok(())
}

fn sealed(stage: &Stage) -> Verdict {
    let fd = memfd(MFD_CLOEXEC | MFD_ALLOW_SEALING, LEN)?;
    let view = mapped(fd, READ_WRITE, MAP_SHARED)?;
    fill(view, LEN, 5);
    sys!(munmap(view.cast(), LEN))?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    sys!(fcntl(fd, libc::F_ADD_SEALS, seals))?;
    let view = mapped(fd, PROT_READ, MAP_SHARED)?;
    stage.freeze_here()?;
    same!(sys!(fcntl(fd, libc::F_GET_SEALS))?, seals, "the seals");
    check!(sys!(ftruncate(fd, 0)).is_err(), "a sealed memfd was cut");
    check_fill("the sealed memfd", view, LEN, 5)
}

/// Each seal alone, all of them, and those that forbid what was there before.
fn seals(stage: &Stage) -> Verdict {
    const F_SEAL_FUTURE_WRITE: i32 = 0x10;
    const F_SEAL_EXEC: i32 = 0x20;
    const MFD_NOEXEC_SEAL: u32 = 8;
    let all = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let wanted = [
        0,
        libc::F_SEAL_SEAL,
        libc::F_SEAL_SHRINK,
        libc::F_SEAL_GROW,
        libc::F_SEAL_WRITE,
        F_SEAL_FUTURE_WRITE,
        F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL,
        F_SEAL_EXEC,
        F_SEAL_EXEC | F_SEAL_FUTURE_WRITE | all,
        all,
    ];
    let mut made = Vec::new();
    for (seed, wanted) in wanted.into_iter().enumerate() {
        let noexec = if wanted & F_SEAL_EXEC != 0 { MFD_NOEXEC_SEAL } else { 0 };
        let Ok(fd) = memfd(MFD_CLOEXEC | MFD_ALLOW_SEALING | noexec, LEN) else {
            eprintln!("skipped: this kernel does not know MFD_NOEXEC_SEAL");
            continue;
        };
        // A mapping for writing that is there before the seal stays; F_SEAL_WRITE does not allow one.
        let writes = wanted & libc::F_SEAL_WRITE == 0;
        let view = mapped(fd, READ_WRITE, MAP_SHARED)?;
        fill(view, LEN, seed as u64);
        if !writes {
            sys!(munmap(view.cast(), LEN))?;
        }
        sys!(fcntl(fd, libc::F_ADD_SEALS, wanted))?;
        let view = if writes { view } else { mapped(fd, PROT_READ, MAP_SHARED)? };
        let mut stat: libc::stat = zeroed();
        sys!(fstat(fd, &mut stat))?;
        made.push((fd, view, writes, sys!(fcntl(fd, libc::F_GET_SEALS))?, stat.st_mode, seed as u64));
    }
    stage.freeze_here()?;
    for (fd, view, writes, seals, mode, seed) in made {
        let about = format!("memfd with seals {seals:#x}");
        same!(sys!(fcntl(fd, libc::F_GET_SEALS))?, seals, "the seals of {about}");
        let mut stat: libc::stat = zeroed();
        sys!(fstat(fd, &mut stat))?;
        same!(stat.st_mode, mode, "the mode of {about}");
        check_fill(&about, view, LEN, seed)?;
        if writes {
            fill(view, PAGE, 99);
            let again = mapped(fd, PROT_READ, MAP_SHARED)?;
            check_fill(&format!("what was written into {about}"), again, PAGE, 99)?;
        }
        let future = seals & (F_SEAL_FUTURE_WRITE | libc::F_SEAL_WRITE) != 0;
        same!(mapped(fd, READ_WRITE, MAP_SHARED).is_err(), future, "whether writing is forbidden to {about}");
        let shrink = seals & libc::F_SEAL_SHRINK != 0;
        same!(sys!(ftruncate(fd, PAGE as i64)).is_err(), shrink, "whether {about} cannot be cut");
    }
    Ok(())
}

/// The mapping outlives its descriptor.
fn closed(stage: &Stage) -> Verdict {
    let fd = memfd(0, LEN)?;
    let memory = mapped(fd, READ_WRITE, MAP_SHARED)?;
    sys!(close(fd))?;
    fill(memory, LEN, 6);
    stage.freeze_here()?;
    check_fill("the memory", memory, LEN, 6)?;
    let child = stage.fork(|| {
        fill(memory, LEN, 7);
        Ok(())
    })?;
    stage.reap(child)?;
    check_fill("what the child wrote", memory, LEN, 7)
}

/// Shared mappings of what was opened for reading never become writable: beside ones that are, with and without
/// descriptors, of a memfd and of a deleted file.
fn read_only(stage: &Stage) -> Verdict {
    let path = stage.path("deleted");
    let file = open(&path, libc::O_RDWR | libc::O_CREAT)?;
    sys!(ftruncate(file, LEN as i64))?;
    let mut maps = Vec::new();
    for (fd, closed) in [(memfd(0, LEN)?, false), (memfd(0, LEN)?, true), (file, true)] {
        let reader = open(Path::new(&format!("/proc/self/fd/{fd}")), libc::O_RDONLY)?;
        let (writable, readable) =
            (mapped(fd, READ_WRITE, MAP_SHARED)?, mapped(reader, PROT_READ, MAP_SHARED)?);
        sys!(close(reader))?;
        if closed {
            sys!(close(fd))?;
        }
        maps.push((writable, readable));
    }
    sys!(unlink(c(&path.to_string_lossy()).as_ptr()))?;
    stage.freeze_here()?;
    for (index, (writable, readable)) in maps.into_iter().enumerate() {
        unsafe { writable.write(7) };
        same!(unsafe { readable.read() }, 7, "what mapping {index} shows");
        let made = sys!(mprotect(readable.cast(), PAGE, READ_WRITE));
        check!(made.is_err(), "mapping {index} became writable");
        sys!(mprotect(writable.cast(), PAGE, READ_WRITE))?;
    }
    Ok(())
}

fn sparse(stage: &Stage) -> Verdict {
    let fd = memfd(0, 1 << 32)?;
    sys!(pwrite(fd, b"far".as_ptr().cast(), 3, (1 << 32) - 3))?;
    stage.freeze_here()?;
    sys!(lseek(fd, -3, libc::SEEK_END))?;
    same!(read_all(fd, 3)?, b"far", "the end of 4 GiB");
    let memory = mapped(fd, PROT_READ, MAP_SHARED)?;
    check_zero("its start", memory, LEN)?;
    let mut stat: libc::stat = zeroed();
    sys!(fstat(fd, &mut stat))?;
    // A huge page may stand behind what was written.
    check!(stat.st_blocks < 32_768, "holes were filled: {} blocks", stat.st_blocks);
    Ok(())
}

/// Memory that nobody but the program may read, mapped, its descriptor closed; refused.
fn secret(stage: &Stage) -> Verdict {
    const SYS_MEMFD_SECRET: libc::c_long = 447;
    let fd = sys!(syscall(SYS_MEMFD_SECRET, 0))? as i32;
    sys!(ftruncate(fd, 4096))?;
    let address = sys!(mmap(std::ptr::null_mut(), 4096, crate::call::READ_WRITE, libc::MAP_SHARED, fd, 0))?;
    sys!(close(fd))?;
    crate::call::fill(address.cast(), 4096, 5);
    stage.freeze_here()?;
    crate::call::check_fill("secret memory", address.cast(), 4096, 5)
}
