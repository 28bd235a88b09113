//! Shared anonymous memory.

use crate::Victim;
use crate::call::{READ_WRITE, check_fill, check_zero, fill, filled_pages, map, shared_words, until};
use crate::stage::{Stage, Verdict};
use libc::{MAP_NORESERVE, MAP_SHARED};
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("shared_alone", alone),
    ("shared_between_processes", between),
    ("shared_sparse", sparse),
    ("shared_part_unmapped", part),
    ("shared_end_hidden", end_hidden),
    ("shared_start_hidden", start_hidden),
    ("shared_memfd_hidden", memfd_hidden),
    ("shared_unreadable_hidden", unreadable_hidden),
    ("shared_most_hidden", most_hidden),
    ("shared_hidden_in_child", hidden_in_child),
    ("shared_locked_hidden", locked_hidden),
    ("shared_limited_hidden", limited_hidden),
    ("shared_memfd_cut", memfd_cut),
];

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

fn alone(stage: &Stage) -> Verdict {
    let memory = map(4 * MIB, READ_WRITE, MAP_SHARED)?;
    fill(memory, 4 * MIB, 1);
    stage.freeze_here()?;
    check_fill("shared memory", memory, 4 * MIB, 1)?;
    let child = stage.fork(|| {
        fill(memory, 4 * MIB, 2);
        Ok(())
    })?;
    stage.reap(child)?;
    check_fill("what the child wrote", memory, 4 * MIB, 2)
}

/// Four processes see each other's writes after the thaw as before.
fn between(stage: &Stage) -> Verdict {
    let words = shared_words::<8>()?;
    let memory = map(2 * MIB, READ_WRITE, MAP_SHARED)?;
    fill(memory, 2 * MIB, 1);
    let mut children = Vec::new();
    for index in 0..4 {
        children.push(stage.fork(|| {
            words[index].store(1, SeqCst);
            stage.wait();
            check_fill("the child's view", memory, MIB, 1)?;
            words[index].store(2, SeqCst);
            until("the parent answers", || words[4 + index].load(SeqCst) == 3)?;
            check_fill("what the parent wrote", memory, 2 * MIB, 9)
        })?);
    }
    until("all children stand", || (0..4).all(|i| words[i].load(SeqCst) >= 1))?;
    stage.freeze_here()?;
    until("all children looked", || (0..4).all(|i| words[i].load(SeqCst) == 2))?;
    fill(memory, 2 * MIB, 9);
    (4..8).for_each(|i| words[i].store(3, SeqCst));
    children.into_iter().try_for_each(|child| stage.reap(child))
}

fn sparse(stage: &Stage) -> Verdict {
    let memory = map(1 << 30, READ_WRITE, MAP_SHARED | MAP_NORESERVE)?;
    let spots = [0, 100 * MIB + PAGE, 512 * MIB, (1 << 30) - PAGE];
    for (seed, spot) in spots.into_iter().enumerate() {
        fill(unsafe { memory.add(spot) }, PAGE, seed as u64);
    }
    let before = filled_pages(memory, 1 << 30)?;
    stage.freeze_here()?;
    let after = filled_pages(memory, 1 << 30)?;
    check!(after <= before, "{after} pages are there, {before} were: who only reads has filled holes");
    for (seed, spot) in spots.into_iter().enumerate() {
        check_fill("a page amid holes", unsafe { memory.add(spot) }, PAGE, seed as u64)?;
    }
    check_zero("a hole", unsafe { memory.add(200 * MIB) }, MIB)
}

/// Two processes map different parts of one object, one of them read-only, with a hole that neither maps.
fn part(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let memory = map(16 * PAGE, READ_WRITE, MAP_SHARED)?;
    fill(memory, 16 * PAGE, 4);
    let child = stage.fork(|| {
        sys!(munmap(memory.cast(), 4 * PAGE))?;
        sys!(mprotect(memory.add(8 * PAGE).cast(), 8 * PAGE, libc::PROT_READ))?;
        words[0].store(1, SeqCst);
        stage.wait();
        until("the parent writes", || words[0].load(SeqCst) == 2)?;
        check_fill("the child's part", unsafe { memory.add(12 * PAGE) }, 4 * PAGE, 8)
    })?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    sys!(munmap(memory.add(4 * PAGE).cast(), 4 * PAGE))?;
    stage.freeze_here()?;
    check_fill("the parent's part", memory, 4 * PAGE, 4)?;
    fill(unsafe { memory.add(12 * PAGE) }, 4 * PAGE, 8);
    words[0].store(2, SeqCst);
    stage.reap(child)
}

/// Its end is unmapped, and mapped again by a mapping that grows.
fn grows_back(stage: &Stage, memory: *mut u8) -> Verdict {
    fill(memory, 4 * PAGE, 4);
    fill(unsafe { memory.add(8 * PAGE) }, 4 * PAGE, 5);
    sys!(munmap(memory.add(4 * PAGE).cast(), 12 * PAGE))?;
    stage.freeze_here()?;
    let grown = unsafe { libc::mremap(memory.cast(), 4 * PAGE, 16 * PAGE, libc::MREMAP_MAYMOVE) };
    check!(grown != libc::MAP_FAILED, "mremap: {}", std::io::Error::last_os_error());
    let grown = grown.cast::<u8>();
    check_fill("what was mapped", grown, 4 * PAGE, 4)?;
    check_zero("a hole", unsafe { grown.add(4 * PAGE) }, 4 * PAGE)?;
    check_fill("what nobody had mapped", unsafe { grown.add(8 * PAGE) }, 4 * PAGE, 5)?;
    check_zero("its end", unsafe { grown.add(12 * PAGE) }, 4 * PAGE)
}

fn end_hidden(stage: &Stage) -> Verdict {
    grows_back(stage, map(16 * PAGE, READ_WRITE, MAP_SHARED)?)
}

/// Its mapping shows one part of it in all places.
fn start_hidden(stage: &Stage) -> Verdict {
    let memory = map(8 * PAGE, READ_WRITE, MAP_SHARED)?;
    fill(memory, 4 * PAGE, 4);
    fill(unsafe { memory.add(4 * PAGE) }, 4 * PAGE, 5);
    let show = |from: usize| sys!(remap_file_pages(memory.cast(), 4 * PAGE, 0, from, 0)).map(drop);
    show(4)?;
    check_fill("before", memory, 4 * PAGE, 5)?;
    stage.freeze_here()?;
    check_fill("one view", memory, 4 * PAGE, 5)?;
    check_fill("the other view", unsafe { memory.add(4 * PAGE) }, 4 * PAGE, 5)?;
    show(0)?;
    check_fill("what nobody had mapped", memory, 4 * PAGE, 4)
}

/// The same of a memfd that has no descriptor any more.
fn memfd_hidden(stage: &Stage) -> Verdict {
    let fd = sys!(memfd_create(c"hidden".as_ptr(), 0))?;
    sys!(ftruncate(fd, (16 * PAGE) as i64))?;
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 16 * PAGE, READ_WRITE, MAP_SHARED, fd, 0) };
    check!(memory != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    sys!(close(fd))?;
    grows_back(stage, memory.cast())
}

/// What is left of it in memory may not even be read, and does not show the start.
fn unreadable_hidden(stage: &Stage) -> Verdict {
    let memory = map(12 * PAGE, READ_WRITE, MAP_SHARED)?;
    fill(memory, 12 * PAGE, 6);
    sys!(mprotect(memory.add(4 * PAGE).cast(), 4 * PAGE, libc::PROT_NONE))?;
    sys!(munmap(memory.cast(), 4 * PAGE))?;
    sys!(munmap(memory.add(8 * PAGE).cast(), 4 * PAGE))?;
    stage.freeze_here()?;
    whole(unsafe { memory.add(4 * PAGE) }, 4 * PAGE, 12 * PAGE, 6)
}

/// Makes a mapping of a part show all of its object, and looks at that.
fn whole(part: *mut u8, part_bytes: usize, all_bytes: usize, seed: u64) -> Verdict {
    let grown = unsafe { libc::mremap(part.cast(), part_bytes, all_bytes, libc::MREMAP_MAYMOVE) };
    check!(grown != libc::MAP_FAILED, "mremap: {}", std::io::Error::last_os_error());
    sys!(remap_file_pages(grown, all_bytes, 0, 0, 0))?;
    sys!(mprotect(grown, all_bytes, READ_WRITE))?;
    check_fill("all of it", grown.cast(), all_bytes, seed)
}

/// One page amid a gigabyte of holes is mapped, and its last page is not.
fn most_hidden(stage: &Stage) -> Verdict {
    let (all, at) = (1 << 30, 300 * MIB);
    let memory = map(all, READ_WRITE, MAP_SHARED | MAP_NORESERVE)?;
    fill(memory, PAGE, 1);
    fill(unsafe { memory.add(at) }, PAGE, 2);
    fill(unsafe { memory.add(all - PAGE) }, PAGE, 3);
    sys!(munmap(memory.cast(), at))?;
    sys!(munmap(memory.add(at + PAGE).cast(), all - at - PAGE))?;
    stage.freeze_here()?;
    let kept = unsafe { memory.add(at) };
    check_fill("what is mapped", kept, PAGE, 2)?;
    let show = |page: usize| sys!(remap_file_pages(kept.cast(), PAGE, 0, page, 0)).map(drop);
    show(0)?;
    check_fill("the first page", kept, PAGE, 1)?;
    show(all / PAGE - 1)?;
    check_fill("the last page", kept, PAGE, 3)?;
    show(200 * MIB / PAGE)?;
    check_zero("a hole", kept, PAGE)
}

/// Only a child has a part of it still.
fn hidden_in_child(stage: &Stage) -> Verdict {
    let words = shared_words::<1>()?;
    let memory = map(16 * PAGE, READ_WRITE, MAP_SHARED)?;
    fill(memory, 16 * PAGE, 7);
    let child = stage.fork(|| {
        sys!(munmap(memory.cast(), 12 * PAGE))?;
        words[0].store(1, SeqCst);
        stage.wait();
        whole(unsafe { memory.add(12 * PAGE) }, 4 * PAGE, 16 * PAGE, 7)
    })?;
    sys!(munmap(memory.cast(), 16 * PAGE))?;
    until("the child stands", || words[0].load(SeqCst) == 1)?;
    stage.freeze_here()?;
    stage.reap(child)
}

/// What is mapped is locked, so that a view of it would be as well.
fn locked_hidden(stage: &Stage) -> Verdict {
    let memory = map(8 * PAGE, READ_WRITE, MAP_SHARED)?;
    fill(memory, 8 * PAGE, 8);
    sys!(munmap(memory.add(4 * PAGE).cast(), 4 * PAGE))?;
    sys!(mlock(memory.cast(), 4 * PAGE))?;
    stage.freeze_here()?;
    whole(memory, 4 * PAGE, 8 * PAGE, 8)
}

/// The program may not map as much as it has hidden.
fn limited_hidden(stage: &Stage) -> Verdict {
    let memory = map(32 * MIB, READ_WRITE, MAP_SHARED)?;
    fill(memory, 32 * MIB, 9);
    sys!(munmap(memory.add(PAGE).cast(), 32 * MIB - PAGE))?;
    let sizes = std::fs::read_to_string("/proc/self/statm").map_err(|error| error.to_string())?;
    let pages: u64 = sizes.split(' ').next().and_then(|pages| pages.parse().ok()).ok_or("no size")?;
    let limit = |rlim_cur| {
        sys!(setrlimit(libc::RLIMIT_AS, &libc::rlimit { rlim_cur, rlim_max: libc::RLIM_INFINITY }))
    };
    limit(pages * PAGE as u64 + 4 * MIB as u64)?;
    stage.freeze_here()?;
    limit(libc::RLIM_INFINITY)?;
    whole(memory, PAGE, 32 * MIB, 9)
}

/// A memfd without a descriptor that has become shorter than what maps it; another mapping is all behind its end.
fn memfd_cut(stage: &Stage) -> Verdict {
    let fd = sys!(memfd_create(c"cut".as_ptr(), 0))?;
    sys!(ftruncate(fd, (8 * PAGE) as i64))?;
    let show = |pages: usize, from: usize| {
        let offset = (from * PAGE) as i64;
        sys!(mmap(std::ptr::null_mut(), pages * PAGE, READ_WRITE, MAP_SHARED, fd, offset))
    };
    let memory = show(8, 0)?.cast::<u8>();
    let beyond = show(2, 6)?.cast::<u8>();
    fill(memory, 8 * PAGE, 4);
    sys!(ftruncate(fd, (4 * PAGE) as i64))?;
    sys!(close(fd))?;
    let ends = || {
        // The kernel cannot fill what lies behind the end.
        let advised = |at: *mut u8| unsafe { libc::madvise(at.cast(), PAGE, libc::MADV_POPULATE_READ) };
        check!(advised(unsafe { memory.add(3 * PAGE) }) == 0, "its last page cannot be read");
        check!(advised(unsafe { memory.add(4 * PAGE) }) < 0, "it does not end");
        check!(advised(beyond) < 0, "what lies behind its end can be read");
        Ok(())
    };
    ends()?;
    stage.freeze_here()?;
    check_fill("what is left", memory, 4 * PAGE, 4)?;
    ends()
}
