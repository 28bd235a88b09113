//! Private memory: its content, its holes, its rights and advice, and the regions that grow.

use crate::Victim;
use crate::call::{READ_WRITE, check_fill, check_zero, fill, map, until, zeroed};
use crate::stage::{Stage, Verdict};
use libc::{MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ};
use std::ptr::null_mut;

pub(crate) const VICTIMS: &[Victim] = &[
    ("anonymous_memory_policies", memory_policies),
    ("anonymous_filled", filled),
    ("anonymous_sparse", sparse),
    ("anonymous_forked", forked),
    ("anonymous_forked_shared", forked_shared),
    ("anonymous_protections", protections),
    ("anonymous_unreadable", unreadable),
    ("anonymous_guards", guards),
    ("anonymous_guard_regions", guard_regions),
    ("anonymous_guard_regions_shared", guard_regions_shared),
    ("anonymous_reservation", reservation),
    ("anonymous_advice", advice),
    ("anonymous_locked", locked),
    ("anonymous_lock_future", lock_future),
    ("anonymous_lock_future_on_fault", lock_future_on_fault),
    ("anonymous_sealed", sealed),
    ("anonymous_droppable", droppable),
    ("anonymous_discarded", discarded),
    ("anonymous_huge_pages", huge_pages),
    ("anonymous_heap", heap),
    ("anonymous_stack", stack),
    ("anonymous_growsdown", growsdown),
    ("anonymous_many_mappings", many_mappings),
    ("anonymous_executable", executable),
    ("anonymous_of_zero", of_zero),
];

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

fn filled(stage: &Stage) -> Verdict {
    let memory = map(64 * MIB, READ_WRITE, MAP_PRIVATE)?;
    fill(memory, 64 * MIB, 1);
    let odd = map(7 * PAGE, READ_WRITE, MAP_PRIVATE)?;
    fill(odd, 7 * PAGE, 2);
    stage.freeze_here()?;
    check_fill("64 MiB", memory, 64 * MIB, 1)?;
    check_fill("seven pages", odd, 7 * PAGE, 2)?;
    fill(memory, 64 * MIB, 3);
    check_fill("64 MiB written again", memory, 64 * MIB, 3)
}

fn sparse(stage: &Stage) -> Verdict {
    let len = 1 << 30;
    let memory = map(len, READ_WRITE, MAP_PRIVATE | MAP_NORESERVE)?;
    let spots: Vec<usize> = (0..200).map(|i| i * 5 * MIB + (i % 7) * PAGE).collect();
    for (seed, spot) in spots.iter().enumerate() {
        fill(unsafe { memory.add(*spot) }, PAGE, seed as u64);
    }
    let resident = resident_kib()?;
    stage.freeze_here()?;
    check!(
        resident_kib()? < resident + 64 * 1024,
        "holes were filled: {} KiB, before {resident}",
        resident_kib()?
    );
    for (seed, spot) in spots.iter().enumerate() {
        check_fill("a page amid holes", unsafe { memory.add(*spot) }, PAGE, seed as u64)?;
        check_zero("a hole", unsafe { memory.add(spot + PAGE) }, PAGE)?;
    }
    Ok(())
}

fn resident_kib() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|why| why.to_string())?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).ok_or_else(|| line.to_owned())
}

/// Pages shared by copy-on-write between parent and child stay equal, and separate when written.
fn forked(stage: &Stage) -> Verdict {
    let len = 4 * MIB;
    let memory = map(len, READ_WRITE, MAP_PRIVATE)?;
    fill(memory, len, 5);
    let child = stage.fork(|| {
        fill(memory, PAGE, 6);
        stage.wait();
        check_fill("the child's own page", memory, PAGE, 6)?;
        fill(memory, len, 7);
        check_fill("the child's pages", memory, len, 7)
    })?;
    stage.freeze_here()?;
    stage.reap(child)?;
    check_fill("the parent's pages", memory, len, 5)
}

/// The proportional set size of a region in KiB: a page that two share counts half.
fn pss(address: *const u8) -> Result<u64, String> {
    let text = smaps(address, "Pss")?;
    text.trim_end_matches(" kB").parse().map_err(|_| text)
}

/// Pages shared by copy-on-write take memory once after the thaw too, and stay apart where one has written or discarded
/// them: three generations, each with changes of its own.
fn forked_shared(stage: &Stage) -> Verdict {
    use std::sync::atomic::Ordering::SeqCst;
    let words = crate::call::shared_words::<2>()?;
    let len = 16 * MIB;
    let space = map(len + 2 * PAGE, PROT_NONE, MAP_PRIVATE)?;
    let memory = unsafe { space.add(PAGE) };
    sys!(mprotect(memory.cast(), len, READ_WRITE))?;
    // In pages of 4 KiB, whatever is the system's way: by parts so that a huge page need not be broken to be shared.
    sys!(madvise(memory.cast(), len, libc::MADV_NOHUGEPAGE))?;
    fill(memory, 8 * MIB, 1);
    fill(unsafe { memory.add(8 * MIB) }, 8 * MIB, 2);
    let at = |offset: usize| unsafe { memory.add(offset) };
    let child = stage.fork(|| {
        fill(memory, MIB, 3);
        sys!(madvise(at(2 * MIB).cast(), MIB, libc::MADV_DONTNEED))?;
        let grandchild = stage.fork(|| {
            fill(at(4 * MIB), MIB, 4);
            words[0].fetch_add(1, SeqCst);
            until("the parent has looked", || words[1].load(SeqCst) == 2)?;
            check_fill("what the child wrote", memory, MIB, 3)?;
            check_zero("what the child discarded", at(2 * MIB), MIB)?;
            check_fill("the grandchild's own", at(4 * MIB), MIB, 4)?;
            check_fill("the second half", at(8 * MIB), 8 * MIB, 2)
        })?;
        until("the grandchild stands", || words[0].load(SeqCst) == 1)?;
        words[1].store(1, SeqCst);
        until("the parent has looked", || words[1].load(SeqCst) == 2)?;
        check_fill("the child's own", memory, MIB, 3)?;
        check_zero("what it discarded", at(2 * MIB), MIB)?;
        stage.reap(grandchild)?;
        check_fill("the second half", at(8 * MIB), 8 * MIB, 2)?;
        fill(at(8 * MIB), 8 * MIB, 9);
        Ok(())
    })?;
    until("the child stands", || words[1].load(SeqCst) == 1)?;
    let before = pss(memory)?;
    let maps = smaps(memory, "rights")?;
    stage.freeze_here()?;
    let after = pss(memory)?;
    check!(after <= before + before / 8, "{after} KiB belong to the parent, and were {before} before");
    words[1].store(2, SeqCst);
    same!(smaps(memory, "rights")?, maps, "its rights");
    stage.reap(child)?;
    check_fill("the parent's first half", memory, 8 * MIB, 1)?;
    check_fill("the parent's second half", at(8 * MIB), 8 * MIB, 2)
}

/// Tells whether an access of the kernel on our behalf succeeds, without a signal.
fn accessible(address: *const u8) -> bool {
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: 1 };
    unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) == 1 }
}

/// The value of a field of /proc/self/smaps for the region that starts at an address.
fn smaps(address: *const u8, field: &str) -> Result<String, String> {
    let text = std::fs::read_to_string("/proc/self/smaps").map_err(|why| why.to_string())?;
    let head = format!("{:x}-", address as usize);
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&head));
    let first = lines.next().ok_or_else(|| format!("no region starts at {address:p}"))?;
    if field == "rights" {
        return Ok(first.split(' ').nth(1).unwrap_or("").to_owned());
    }
    let prefix = format!("{field}:");
    let line = lines.find(|line| line.starts_with(&prefix)).ok_or_else(|| format!("no {field} in smaps"))?;
    Ok(line[prefix.len()..].trim().to_owned())
}

/// VmFlags, without those that tell the kernel's bookkeeping rather than what was asked for.
fn flags(address: *const u8) -> Result<String, String> {
    let flags = smaps(address, "VmFlags")?;
    // `sd` is soft-dirty, `ac` accounting (kept while a region is made readable again), `ss` a shadow stack,
    // `uw`/`um` a tracker's registration.
    Ok(flags.split(' ').filter(|flag| !["sd", "ac"].contains(flag)).collect::<Vec<_>>().join(" "))
}

fn protections(stage: &Stage) -> Verdict {
    let rights = [
        PROT_NONE,
        PROT_READ,
        READ_WRITE,
        PROT_READ | PROT_EXEC,
        READ_WRITE | PROT_EXEC,
        libc::PROT_WRITE,
        PROT_EXEC,
    ];
    let mut regions = Vec::new();
    for (seed, rights) in rights.into_iter().enumerate() {
        // Spaced, so that no two can be joined.
        let space = map(6 * PAGE, PROT_NONE, MAP_PRIVATE)?;
        let memory = unsafe { space.add(PAGE) };
        sys!(mprotect(memory.cast(), 4 * PAGE, READ_WRITE))?;
        fill(memory, 4 * PAGE, seed as u64);
        sys!(mprotect(memory.cast(), 4 * PAGE, rights))?;
        regions.push((memory, flags(memory), smaps(memory, "rights")?));
    }
    stage.freeze_here()?;
    for (seed, (memory, flags_before, rights)) in regions.into_iter().enumerate() {
        // A region without rights joins its unreachable neighbours: no line of its own then.
        if let Ok(before) = flags_before {
            same!(flags(memory)?, before, "flags of region {seed}");
        }
        if rights != "---p" {
            same!(smaps(memory, "rights")?, rights, "rights of region {seed}");
        }
        sys!(mprotect(memory.cast(), 4 * PAGE, READ_WRITE))?;
        check_fill(&format!("region {seed}"), memory, 4 * PAGE, seed as u64)?;
    }
    Ok(())
}

/// Content behind PROT_NONE is there when it is made readable again.
fn unreadable(stage: &Stage) -> Verdict {
    let memory = map(8 * MIB, READ_WRITE, MAP_PRIVATE)?;
    fill(memory, 8 * MIB, 9);
    sys!(mprotect(memory.cast(), 8 * MIB, PROT_NONE))?;
    stage.freeze_here()?;
    check!(!accessible(memory), "PROT_NONE memory can be read");
    sys!(mprotect(memory.cast(), 8 * MIB, PROT_READ))?;
    check_fill("memory that was unreadable", memory, 8 * MIB, 9)
}

/// A page without rights in the middle of memory stays one.
fn guards(stage: &Stage) -> Verdict {
    let memory = map(64 * PAGE, READ_WRITE, MAP_PRIVATE)?;
    fill(memory, 64 * PAGE, 4);
    for guard in [3, 17, 40] {
        sys!(mprotect(memory.add(guard * PAGE).cast(), PAGE, PROT_NONE))?;
    }
    stage.freeze_here()?;
    for page in 0..64 {
        let address = unsafe { memory.add(page * PAGE) };
        same!(accessible(address), ![3, 17, 40].contains(&page), "page {page} can be read");
    }
    sys!(mprotect(memory.cast(), 64 * PAGE, READ_WRITE))?;
    check_fill("pages around guards", memory, 64 * PAGE, 4)
}

/// MADV_GUARD_INSTALL (Linux 6.13): guards inside one region, which no map shows.
fn guard_regions(stage: &Stage) -> Verdict {
    const MADV_GUARD_INSTALL: i32 = 102;
    let memory = map(64 * PAGE, READ_WRITE, MAP_PRIVATE)?;
    fill(memory, 64 * PAGE, 4);
    let guarded = [5, 6, 30];
    for page in guarded {
        if let Err(why) = sys!(madvise(memory.add(page * PAGE).cast(), PAGE, MADV_GUARD_INSTALL)) {
            eprintln!("skipped: this kernel has no guard regions: {why}");
            return stage.freeze_here();
        }
    }
    stage.freeze_here()?;
    for page in 0..64 {
        let address = unsafe { memory.add(page * PAGE) };
        same!(accessible(address), !guarded.contains(&page), "page {page} can be read");
    }
    check_fill("pages before the guards", memory, 5 * PAGE, 4)
}

/// Of each of two views of the same memory, one has guards.
fn guard_regions_shared(stage: &Stage) -> Verdict {
    const MADV_GUARD_INSTALL: i32 = 102;
    let memfd = sys!(memfd_create(c"guarded".as_ptr(), libc::MFD_CLOEXEC))?;
    sys!(ftruncate(memfd, 16 * PAGE as i64))?;
    let view = || {
        let memory = unsafe { libc::mmap(null_mut(), 16 * PAGE, READ_WRITE, libc::MAP_SHARED, memfd, 0) };
        check!(memory != libc::MAP_FAILED, "it cannot be mapped");
        Ok(memory.cast::<u8>())
    };
    let (one, other, alone) = (view()?, view()?, map(16 * PAGE, READ_WRITE, libc::MAP_SHARED)?);
    for memory in [one, alone] {
        fill(memory, 16 * PAGE, 4);
        for page in [3, 4, 9] {
            if let Err(why) = sys!(madvise(memory.add(page * PAGE).cast(), PAGE, MADV_GUARD_INSTALL)) {
                eprintln!("skipped: this kernel has no guard regions in shared memory: {why}");
                return stage.freeze_here();
            }
        }
    }
    stage.freeze_here()?;
    for (name, memory) in [("the view", one), ("the memory", alone)] {
        for page in 0..16 {
            let address = unsafe { memory.add(page * PAGE) };
            same!(accessible(address), ![3, 4, 9].contains(&page), "page {page} of {name} can be read");
        }
        const MADV_GUARD_REMOVE: i32 = 103;
        sys!(madvise(memory.cast(), 16 * PAGE, MADV_GUARD_REMOVE))?;
    }
    for (name, memory) in [("the view", one), ("the other view", other), ("the memory", alone)] {
        check_fill(name, memory, 16 * PAGE, 4)?;
    }
    Ok(())
}

/// Address space reserved by the terabyte costs nothing.
fn reservation(stage: &Stage) -> Verdict {
    let none = map(8 << 40, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE)?;
    let usable = map(1 << 40, READ_WRITE, MAP_PRIVATE | MAP_NORESERVE)?;
    let far = unsafe { usable.add((1 << 40) - 16 * PAGE) };
    fill(far, 16 * PAGE, 8);
    let committed = unsafe { none.add(3 << 40) };
    sys!(mprotect(committed.cast(), MIB, READ_WRITE))?;
    fill(committed, MIB, 10);
    stage.freeze_here()?;
    check_fill("the end of a terabyte", far, 16 * PAGE, 8)?;
    check_fill("a part made usable", committed, MIB, 10)?;
    check_zero("the start of a terabyte", usable, PAGE)?;
    check!(!accessible(none), "the reservation can be read");
    sys!(mprotect(none.cast(), MIB, READ_WRITE))?;
    check_zero("a part made usable later", none, MIB)
}

fn advice(stage: &Stage) -> Verdict {
    let advices = [
        ("DONTFORK", libc::MADV_DONTFORK),
        ("WIPEONFORK", libc::MADV_WIPEONFORK),
        ("DONTDUMP", libc::MADV_DONTDUMP),
        ("HUGEPAGE", libc::MADV_HUGEPAGE),
        ("NOHUGEPAGE", libc::MADV_NOHUGEPAGE),
        ("MERGEABLE", libc::MADV_MERGEABLE),
        ("SEQUENTIAL", libc::MADV_SEQUENTIAL),
        ("RANDOM", libc::MADV_RANDOM),
    ];
    let mut regions = Vec::new();
    for (seed, (name, advice)) in advices.into_iter().enumerate() {
        let space = map(66 * PAGE, PROT_NONE, MAP_PRIVATE)?;
        let memory = unsafe { space.add(PAGE) };
        sys!(mprotect(memory.cast(), 64 * PAGE, READ_WRITE))?;
        fill(memory, 64 * PAGE, seed as u64);
        if let Err(why) = sys!(madvise(memory.cast(), 64 * PAGE, advice)) {
            eprintln!("skipped: MADV_{name}: {why}");
            continue;
        }
        regions.push((name, seed as u64, memory, flags(memory)?));
    }
    stage.freeze_here()?;
    for (name, seed, memory, before) in &regions {
        same!(flags(*memory)?, *before, "flags of MADV_{name}");
        if *name == "WIPEONFORK" && stage.was_copied() {
            // A copy is told apart from the program as the child of a fork is.
            check_zero(name, *memory, 64 * PAGE)?;
        } else {
            check_fill(name, *memory, 64 * PAGE, *seed)?;
        }
    }
    let child = stage.fork(|| {
        for (name, seed, memory, _) in &regions {
            match *name {
                "DONTFORK" => check!(!accessible(*memory), "MADV_DONTFORK memory is in the child"),
                "WIPEONFORK" => check_zero(name, *memory, 64 * PAGE)?,
                _ => check_fill(name, *memory, 64 * PAGE, *seed)?,
            }
        }
        Ok(())
    })?;
    stage.reap(child)
}

fn locked(stage: &Stage) -> Verdict {
    let memory = map(16 * PAGE, READ_WRITE, MAP_PRIVATE)?;
    fill(memory, 16 * PAGE, 1);
    let mut limit: libc::rlimit = zeroed();
    sys!(getrlimit(libc::RLIMIT_MEMLOCK, &mut limit))?;
    if limit.rlim_cur < 256 * 1024 {
        eprintln!("skipped: RLIMIT_MEMLOCK is {}", limit.rlim_cur);
        return stage.freeze_here();
    }
    sys!(mlock(memory.cast(), 16 * PAGE))?;
    let lazy = map(16 * PAGE, PROT_READ, MAP_PRIVATE)?;
    sys!(mlock2(lazy.cast(), 16 * PAGE, 1))?;
    let (one, two) = (flags(memory)?, flags(lazy)?);
    let before = status_field("VmLck:")?;
    stage.freeze_here()?;
    same!(flags(memory)?, one, "flags of mlock");
    same!(flags(lazy)?, two, "flags of mlock2(MLOCK_ONFAULT)");
    same!(status_field("VmLck:")?, before, "VmLck");
    same!(smaps(memory, "Locked")?, "64 kB", "what is locked");
    check_fill("locked memory", memory, 16 * PAGE, 1)
}

/// mlockall(2) for what is mapped later; nothing that was mapped before is locked.
fn lock_future(stage: &Stage) -> Verdict {
    all_later(stage, libc::MCL_FUTURE)
}

fn lock_future_on_fault(stage: &Stage) -> Verdict {
    const MCL_ONFAULT: i32 = 4;
    all_later(stage, libc::MCL_FUTURE | MCL_ONFAULT)
}

fn all_later(stage: &Stage, how: i32) -> Verdict {
    let before = map(4 * PAGE, READ_WRITE, MAP_PRIVATE)?;
    fill(before, 4 * PAGE, 1);
    let mut limit: libc::rlimit = zeroed();
    sys!(getrlimit(libc::RLIMIT_MEMLOCK, &mut limit))?;
    if limit.rlim_cur < 32 << 20 {
        eprintln!("skipped: RLIMIT_MEMLOCK is {}", limit.rlim_cur);
        return stage.freeze_here();
    }
    sys!(mlockall(how))?;
    let locked = |len: usize| -> Result<String, String> {
        // Apart from others, so that none is joined with it.
        let space = map(len + 2 * PAGE, PROT_NONE, libc::MAP_SHARED)?;
        sys!(mmap(
            space.add(PAGE).cast(),
            len,
            READ_WRITE,
            MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0
        ))?;
        let found = flags(unsafe { space.add(PAGE) })?;
        sys!(munmap(space.cast(), len + 2 * PAGE))?;
        Ok(found)
    };
    let expected = locked(2 * PAGE)?;
    check!(expected.contains("lo"), "a new mapping is not locked: {expected}");
    stage.freeze_here()?;
    same!(locked(2 * PAGE)?, expected, "flags of a new mapping");
    check!(!flags(before)?.contains("lo"), "an old mapping is locked");
    check_fill("the old mapping", before, 4 * PAGE, 1)
}

/// Sealed by mseal(2): neither its rights nor its place can be changed any more, before or after.
fn sealed(stage: &Stage) -> Verdict {
    const SYS_MSEAL: i64 = 462;
    let space = map(16 * PAGE, READ_WRITE, MAP_PRIVATE)?;
    fill(space, 16 * PAGE, 8);
    let (writable, read_only) = unsafe { (space.add(2 * PAGE), space.add(8 * PAGE)) };
    sys!(mprotect(read_only.cast(), 4 * PAGE, PROT_READ))?;
    for memory in [writable, read_only] {
        if let Err(why) = sys!(syscall(SYS_MSEAL, memory, 4 * PAGE, 0)) {
            eprintln!("skipped: mseal: {why}");
            return stage.freeze_here();
        }
    }
    stage.freeze_here()?;
    for memory in [writable, read_only] {
        let denied = |result: Result<i32, String>| result.is_err() && crate::call::errno() == libc::EPERM;
        check!(denied(sys!(munmap(memory.cast(), PAGE))), "a sealed region was unmapped");
        check!(denied(sys!(mprotect(memory.cast(), PAGE, PROT_NONE))), "a sealed region was protected");
    }
    check_fill("all of it", space, 16 * PAGE, 8)?;
    fill(writable, 4 * PAGE, 9);
    check_fill("what may be written", writable, 4 * PAGE, 9)
}

/// MAP_DROPPABLE (Linux 6.11): what is in it may be gone at any time, the region is not.
fn droppable(stage: &Stage) -> Verdict {
    const MAP_DROPPABLE: i32 = 8;
    let memory =
        sys!(mmap(std::ptr::null_mut(), 8 * PAGE, READ_WRITE, MAP_DROPPABLE | libc::MAP_ANONYMOUS, -1, 0));
    let Ok(memory) = memory else {
        eprintln!("skipped: this kernel has no droppable memory");
        return stage.freeze_here();
    };
    let memory = memory.cast::<u8>();
    fill(memory, 8 * PAGE, 1);
    let before = flags(memory)?;
    check!(before.contains("dp"), "it is not droppable: {before}");
    stage.freeze_here()?;
    same!(flags(memory)?, before, "its flags");
    for page in 0..8 {
        let address = unsafe { memory.add(page * PAGE) };
        let whole = unsafe { std::slice::from_raw_parts(address, PAGE) };
        if stage.was_thawed() {
            check!(whole.iter().all(|byte| *byte == 0), "page {page} holds something");
        }
    }
    fill(memory, 8 * PAGE, 2);
    check_fill("what was written then", memory, 8 * PAGE, 2)
}

fn status_field(name: &str) -> Result<String, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|why| why.to_string())?;
    let line = status.lines().find(|line| line.starts_with(name)).ok_or(format!("no {name}"))?;
    Ok(line[name.len()..].trim().to_owned())
}

/// Allocators rely on zeros after MADV_DONTNEED, and on mremap to grow by zeros.
fn discarded(stage: &Stage) -> Verdict {
    let memory = map(4 * MIB, READ_WRITE, MAP_PRIVATE)?;
    fill(memory, 4 * MIB, 1);
    sys!(madvise(memory.cast(), MIB, libc::MADV_DONTNEED))?;
    stage.freeze_here()?;
    check_zero("discarded before", memory, MIB)?;
    sys!(madvise(memory.add(MIB).cast(), MIB, libc::MADV_DONTNEED))?;
    check_zero("discarded after", unsafe { memory.add(MIB) }, MIB)?;
    sys!(madvise(memory.add(2 * MIB).cast(), MIB, libc::MADV_FREE))?;
    let grown = sys!(mremap(memory.cast(), 4 * MIB, 8 * MIB, libc::MREMAP_MAYMOVE))?.cast::<u8>();
    check_zero("grown", unsafe { grown.add(4 * MIB) }, 4 * MIB)?;
    let child = stage.fork(|| {
        sys!(madvise(grown.cast(), 8 * MIB, libc::MADV_WIPEONFORK))?;
        Ok(())
    })?;
    stage.reap(child)
}

fn huge_pages(stage: &Stage) -> Verdict {
    const HUGE: usize = 2 * MIB;
    let space = map(10 * HUGE, READ_WRITE, MAP_PRIVATE)?;
    let memory = unsafe { space.add(space.align_offset(HUGE)) };
    let advised = sys!(madvise(memory.cast(), 8 * HUGE, libc::MADV_HUGEPAGE));
    fill(memory, 8 * HUGE, 12);
    // One huge page broken up by a discarded page.
    sys!(madvise(memory.add(HUGE + 5 * PAGE).cast(), PAGE, libc::MADV_DONTNEED))?;
    stage.freeze_here()?;
    check_fill("the first huge page", memory, HUGE, 12)?;
    check_zero("the discarded page", unsafe { memory.add(HUGE + 5 * PAGE) }, PAGE)?;
    fill(unsafe { memory.add(HUGE) }, HUGE, 13);
    check_fill("the second huge page", unsafe { memory.add(HUGE) }, HUGE, 13)?;
    check!(advised.is_err() || smaps(memory, "VmFlags")?.contains("hg"), "MADV_HUGEPAGE is lost");
    Ok(())
}

/// Memory as it was made before there was MAP_ANONYMOUS: a private mapping of `/dev/zero`, of which the name is left.
fn of_zero(stage: &Stage) -> Verdict {
    let fd = crate::call::open(std::path::Path::new("/dev/zero"), libc::O_RDWR)?;
    let mapped = |rights: i32| sys!(mmap(std::ptr::null_mut(), 16 * PAGE, rights, libc::MAP_PRIVATE, fd, 0));
    let (memory, reading) = (mapped(READ_WRITE)?.cast::<u8>(), mapped(libc::PROT_READ)?.cast::<u8>());
    sys!(close(fd))?;
    fill(memory, 8 * PAGE, 16);
    // The name is gone then.
    stage.freeze_without_facts()?;
    check_fill("what was written", memory, 8 * PAGE, 16)?;
    check_zero("what was not", unsafe { memory.add(8 * PAGE) }, 8 * PAGE)?;
    check_zero("what cannot be", reading, 16 * PAGE)?;
    sys!(madvise(memory.cast(), PAGE, libc::MADV_DONTNEED))?;
    check_zero("what was given back", memory, PAGE)
}

/// The heap of brk(2) goes on growing and shrinking where it was.
fn heap(stage: &Stage) -> Verdict {
    let start = sys!(sbrk(0))?.cast::<u8>();
    sys!(sbrk(3 * MIB as isize))?;
    fill(start, 3 * MIB, 14);
    stage.freeze_here()?;
    check!(sys!(sbrk(0))?.cast::<u8>() >= unsafe { start.add(3 * MIB) }, "the break moved");
    let end = sys!(sbrk(0))?.cast::<u8>();
    sys!(sbrk(4 * MIB as isize))?;
    check_zero("the grown heap", end, 4 * MIB)?;
    fill(end, 4 * MIB, 15);
    check_fill("the old heap", start, 3 * MIB, 14)?;
    check_fill("the new heap", end, 4 * MIB, 15)?;
    sys!(sbrk(-(4 * MIB as isize)))?;
    same!(sys!(sbrk(0))?.cast::<u8>(), end, "the break after shrinking");
    let allocated = vec![7u8; 40 * MIB];
    check!(std::hint::black_box(allocated).iter().all(|byte| *byte == 7), "malloc hands out wrong memory");
    Ok(())
}

#[inline(never)]
fn descend(depth: u32, seed: u64) -> u64 {
    let mut room = [seed; 1024];
    std::hint::black_box(&mut room);
    let below = if depth == 0 { 1 } else { descend(depth - 1, seed + 1) };
    // Each frame is checked on the way back.
    if room.iter().all(|word| *word == seed) { below } else { 0 }
}

/// The main stack holds what it held, and grows.
fn stack(stage: &Stage) -> Verdict {
    let shallow = [0x5a5a_u64; 512];
    std::hint::black_box(&shallow);
    stage.freeze_here()?;
    check!(shallow.iter().all(|word| *word == 0x5a5a), "the stack changed");
    same!(descend(700, 1), 1, "seven hundred frames of 8 KiB"); // 5.6 MiB of the usual 8
    Ok(())
}

/// A stack of the program's own, mapped with MAP_GROWSDOWN, grows after the thaw.
fn growsdown(stage: &Stage) -> Verdict {
    let space = map(64 * MIB, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE)?;
    sys!(munmap(space.cast(), 64 * MIB))?;
    let top = unsafe { space.add(48 * MIB) };
    let flags_ = MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN | libc::MAP_FIXED_NOREPLACE;
    let memory = sys!(mmap(top.cast(), 16 * PAGE, READ_WRITE, flags_, -1, 0))?.cast::<u8>();
    fill(memory, 16 * PAGE, 3);
    let before = flags(memory)?;
    stage.freeze_here()?;
    same!(flags(memory)?, before, "flags");
    check_fill("the stack", memory, 16 * PAGE, 3)?;
    // Growth is by page faults just below, one after the other.
    for page in 1..=1024 {
        unsafe { memory.sub(page * PAGE).cast::<u64>().write_volatile(page as u64) };
    }
    for page in 1..=1024 {
        let found = unsafe { memory.sub(page * PAGE).cast::<u64>().read_volatile() };
        same!(found, page as u64, "a page grown into");
    }
    check_fill("the stack after growing", memory, 16 * PAGE, 3)
}

fn many_mappings(stage: &Stage) -> Verdict {
    let count = 10_000;
    let memory = map(2 * count * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE)?;
    for index in 0..count {
        let address = unsafe { memory.add(2 * index * PAGE) };
        sys!(mprotect(address.cast(), PAGE, READ_WRITE))?;
        fill(address, PAGE, index as u64);
    }
    stage.freeze_here()?;
    for index in 0..count {
        let address = unsafe { memory.add(2 * index * PAGE) };
        check_fill(&format!("mapping {index}"), address, PAGE, index as u64)?;
    }
    Ok(())
}

/// Code that the program wrote itself, as a just-in-time compiler does.
fn executable(stage: &Stage) -> Verdict {
    let memory = map(PAGE, READ_WRITE, MAP_PRIVATE)?;
    let code = [0xb8, 0x2a, 0, 0, 0, 0xc3]; // mov $42, %eax; ret
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), memory, code.len()) };
    sys!(mprotect(memory.cast(), PAGE, PROT_READ | PROT_EXEC))?;
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(memory) };
    same!(function(), 42, "the code before");
    stage.freeze_here()?;
    same!(function(), 42, "the code after");
    Ok(())
}

/// Ranges that take their pages from certain nodes, one written, one not, one of a mapping with others.
fn memory_policies(stage: &Stage) -> Verdict {
    const LEN: usize = 1 << 20;
    const MPOL_F_ADDR: libc::c_long = 1 << 1;
    let policy = |address: *mut u8| -> Result<(i32, u64), String> {
        let (mut mode, mut nodes) = (0, [0u64; 16]);
        let mask = nodes.as_mut_ptr();
        sys!(syscall(libc::SYS_get_mempolicy, &raw mut mode, mask, 1024, address, MPOL_F_ADDR))?;
        Ok((mode, nodes[0]))
    };
    let memory = map(4 * LEN, READ_WRITE, libc::MAP_PRIVATE)?;
    let shared = map(LEN, READ_WRITE, libc::MAP_SHARED)?;
    let at = |index: usize| unsafe { memory.add(index * LEN) };
    let first = 1u64;
    fill(at(0), LEN, 1);
    // Bound, preferred, interleaved: the last range keeps the thread's own.
    for (address, mode) in [(at(0), 2), (at(1), 1), (at(2), 3), (shared, 2)] {
        if let Err(why) = sys!(syscall(libc::SYS_mbind, address, LEN, mode, &raw const first, 64, 0)) {
            eprintln!("skipped: mbind: {why}");
            return stage.freeze_here();
        }
    }
    fill(at(2), LEN, 2);
    fill(shared, LEN, 3);
    let all = [at(0), at(1), at(2), at(3), shared];
    let look = || all.into_iter().map(policy).collect::<Result<Vec<_>, _>>();
    let before = look()?;
    same!(before, [(2, 1), (1, 1), (3, 1), (0, 0), (2, 1)], "the policies that were set");
    stage.freeze_here()?;
    same!(look()?, before, "the memory policies");
    check_fill("bound memory", at(0), LEN, 1)?;
    check_fill("interleaved memory", at(2), LEN, 2)?;
    check_fill("shared memory", shared, LEN, 3)
}
