//! Memory that changes while it is copied: each writer knows what it must find, so that a snapshot of two instants tells.

use crate::Victim;
use crate::call::{READ_WRITE, c, check_fill, check_zero, fill, map, nap, zeroed};
use crate::stage::{Stage, Verdict};
use libc::MAP_PRIVATE;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

pub(crate) const VICTIMS: &[Victim] = &[
    ("moving_counters", counters),
    ("moving_leader", leader),
    ("moving_leaders_end", leaders_end),
    ("moving_locks", locks),
    ("moving_mappings", mappings),
    ("moving_remapped", remapped),
    ("moving_shared", shared),
    ("moving_stack", stack),
    ("moving_file", file),
    ("moving_direct", direct),
];

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

/// Runs `writers` while the freeze goes on; each is asked to end when the verdict is due.
fn meanwhile(stage: &Stage, writers: &[&(dyn Fn(&AtomicBool) -> Verdict + Sync)]) -> Verdict {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = writers.iter().map(|writer| scope.spawn(|| writer(&end))).collect();
        let seen = stage.freeze_amid_threads();
        end.store(true, SeqCst);
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked".to_owned())??;
        }
        seen
    })
}

/// Each page of an area holds the number of the round that wrote it, at both of its ends: who comes with the next round
/// finds the one before, on every page.
fn rounds(area: *mut u8, len: usize, end: &AtomicBool) -> Verdict {
    let mut round = 0;
    while !end.load(SeqCst) {
        round += 1;
        for page in 0..len / PAGE {
            for at in [page * PAGE, (page + 1) * PAGE - 8] {
                let word = unsafe { &*area.add(at).cast::<AtomicU64>() };
                let found = word.load(Relaxed);
                check!(found == round - 1, "byte {at:#x} is of round {found}, in round {round}");
                word.store(round, Relaxed);
            }
            if page % 64 == 0 {
                nap(Duration::from_micros(100));
            }
        }
    }
    Ok(())
}

fn counters(stage: &Stage) -> Verdict {
    let len = 8 * MIB;
    let areas: Vec<usize> = (0..3)
        .map(|_| map(len, READ_WRITE, MAP_PRIVATE).map(|area| area as usize))
        .collect::<Result<_, _>>()?;
    // One of them locked, one in huge pages.
    sys!(mlock(areas[1] as *const libc::c_void, len))?;
    sys!(madvise(areas[2] as *mut libc::c_void, len, libc::MADV_HUGEPAGE))?;
    let writers: Vec<_> =
        areas.iter().map(|area| move |end: &AtomicBool| rounds(*area as *mut u8, len, end)).collect();
    let writers: Vec<&(dyn Fn(&AtomicBool) -> Verdict + Sync)> =
        writers.iter().map(|writer| writer as _).collect();
    meanwhile(stage, &writers)
}

/// Memory that a child writes too; and a memfd, written by two mappings, by its descriptor, and given back in part.
fn shared(stage: &Stage) -> Verdict {
    let len = 8 * MIB;
    let [ours, theirs, flag] = [len, len, PAGE].map(|len| map(len, READ_WRITE, libc::MAP_SHARED));
    let (ours, theirs, end) = (ours? as usize, theirs? as usize, flag?.cast::<AtomicBool>());
    let child = stage.fork(|| rounds(theirs as *mut u8, len, unsafe { &*end }))?;
    let fd = sys!(memfd_create(c("moving").as_ptr(), libc::MFD_CLOEXEC))?;
    let pages = 512;
    sys!(ftruncate(fd, (pages * PAGE) as i64))?;
    let view = || {
        let none = std::ptr::null_mut();
        sys!(mmap(none, pages * PAGE, READ_WRITE, libc::MAP_SHARED, fd, 0)).map(|view| view as usize)
    };
    let views = [view()?, view()?];
    let in_all_ways = |end: &AtomicBool| {
        let word = |view: usize, page: usize| unsafe { &*((views[view] + page * PAGE) as *const AtomicU64) };
        let mut round = 0;
        while !end.load(SeqCst) {
            round += 1;
            for page in 0..pages {
                let found = word(page % 2, page).load(SeqCst);
                check!(found == round - 1, "page {page} is of round {found}, in round {round}");
                match (page as u64 + round) % 4 {
                    0 => {
                        let bytes = round.to_le_bytes();
                        sys!(pwrite(fd, bytes.as_ptr().cast(), 8, (page * PAGE) as i64))?;
                    }
                    1 => {
                        let address = (views[0] + page * PAGE) as *mut libc::c_void;
                        sys!(madvise(address, PAGE, libc::MADV_REMOVE))?;
                        same!(word(1, page).load(SeqCst), 0, "a page that was given back");
                        word(1, page).store(round, SeqCst);
                    }
                    way => word(way as usize % 2, page).store(round, SeqCst),
                }
                if page % 64 == 0 {
                    nap(Duration::from_micros(100));
                }
            }
        }
        Ok(())
    };
    meanwhile(stage, &[&|end: &AtomicBool| rounds(ours as *mut u8, len, end), &in_all_ways])?;
    unsafe { &*end }.store(true, SeqCst);
    stage.reap(child)
}

/// One thread leads, another follows what it reads of it, each in memory of its own, with much between them: never is the
/// follower ahead.
fn leader(stage: &Stage) -> Verdict {
    let area = map(64 * MIB, READ_WRITE, MAP_PRIVATE)?;
    fill(area, 64 * MIB, 1);
    let (lead, follow) =
        unsafe { (&*area.cast::<AtomicU64>(), &*area.add(64 * MIB - PAGE).cast::<AtomicU64>()) };
    lead.store(0, SeqCst);
    follow.store(0, SeqCst);
    let leads = |end: &AtomicBool| {
        while !end.load(SeqCst) {
            let (ahead, own) = (follow.load(SeqCst), lead.load(SeqCst));
            check!(ahead <= own, "the follower is at {ahead}, the leader at {own}");
            lead.store(own + 1, SeqCst);
            if own % 256 == 0 {
                nap(Duration::from_micros(100));
            }
        }
        Ok(())
    };
    let follows = |end: &AtomicBool| {
        while !end.load(SeqCst) {
            let own = follow.load(SeqCst);
            let seen = lead.load(SeqCst);
            check!(seen >= own, "the leader is at {seen}, and was at {own}");
            follow.store(seen, SeqCst);
            if seen % 16 == 0 {
                nap(Duration::from_micros(100));
            }
        }
        Ok(())
    };
    meanwhile(stage, &[&leads, &follows])
}

/// A mapping and what it must hold: a seed, or zeros.
struct Slot {
    at: *mut u8,
    len: usize,
    seed: Option<u64>,
}

impl Slot {
    fn new(len: usize, seed: u64) -> Result<Self, String> {
        let at = map(len, READ_WRITE, MAP_PRIVATE)?;
        fill(at, len, seed);
        Ok(Self { at, len, seed: Some(seed) })
    }

    fn check(&self) -> Verdict {
        match self.seed {
            Some(seed) => check_fill("a mapping", self.at, self.len, seed),
            None => check_zero("a mapping that was given back", self.at, self.len),
        }
    }

    fn refill(&mut self, seed: u64) {
        fill(self.at, self.len, seed);
        self.seed = Some(seed);
    }
}

/// Maps, grows, moves, protects, gives back and forks without pause.
fn mappings(stage: &Stage) -> Verdict {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let mut slots: Vec<Slot> = (0..24)
        .map(|index| Slot::new((1 + index % 5) * 64 * PAGE, index as u64))
        .collect::<Result<_, _>>()?;
    // What spans whole page tables goes with them when it is given back.
    slots.push(Slot::new(6 * MIB, 99)?);
    stage.ready();
    let mut step = 100;
    while !stage.gone() {
        for _ in 0..8 {
            step += 1;
            let index = next(slots.len() as u64) as usize;
            let slot = &mut slots[index];
            slot.check()?;
            let memory = slot.at.cast::<libc::c_void>();
            match next(9) {
                0 => slot.refill(step),
                1 => {
                    sys!(munmap(memory, slot.len))?;
                    *slot = Slot::new(slot.len, step)?;
                }
                2 => {
                    let free = map(slot.len, libc::PROT_NONE, MAP_PRIVATE)?;
                    let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    let to = sys!(mremap(memory, slot.len, slot.len, how, free))?;
                    slot.at = to.cast();
                }
                3 if slot.len < MIB => {
                    slot.at =
                        sys!(mremap(memory, slot.len, slot.len + 64 * PAGE, libc::MREMAP_MAYMOVE))?.cast();
                    check_zero("what it has grown by", unsafe { slot.at.add(slot.len) }, 64 * PAGE)?;
                    slot.len += 64 * PAGE;
                    slot.refill(step);
                }
                4 => {
                    sys!(madvise(memory, slot.len, libc::MADV_DONTNEED))?;
                    slot.seed = None;
                }
                5 => {
                    // Until it is written it may be lost at any time, so nothing is to be expected of it before.
                    sys!(madvise(memory, slot.len, libc::MADV_FREE))?;
                    slot.refill(step);
                }
                6 => {
                    sys!(mprotect(memory, slot.len, libc::PROT_NONE))?;
                    nap(Duration::from_micros(200));
                    sys!(mprotect(memory, slot.len, READ_WRITE))?;
                }
                7 => {
                    let child = sys!(fork())?;
                    if child == 0 {
                        let content = slot.check();
                        slot.refill(step + 1);
                        unsafe { libc::_exit(content.and_then(|()| slot.check()).is_err().into()) };
                    }
                    let mut status = 0;
                    sys!(waitpid(child, &mut status, 0))?;
                    check!(status == 0, "a child found other memory: wait status {status:#x}");
                }
                _ => {
                    let before = sys!(sbrk(64 * PAGE as isize))?.cast::<u8>();
                    fill(before, 64 * PAGE, step);
                    check_fill("the heap's end", before, 64 * PAGE, step)?;
                    sys!(sbrk(-64 * PAGE as isize))?;
                }
            }
        }
        nap(Duration::from_micros(300));
    }
    slots.iter().try_for_each(Slot::check)
}

/// A whole mapping that is locked in memory and released without pause: it is what was done last.
fn locks(stage: &Stage) -> Verdict {
    let len = 16 * PAGE;
    // Between neighbours that it is never joined with.
    let all = map(3 * len, libc::PROT_NONE, MAP_PRIVATE)?;
    let area = unsafe { all.add(len) }.cast::<libc::c_void>();
    sys!(mprotect(area, len, READ_WRITE))?;
    fill(area.cast(), len, 1);
    // What there is to copy meanwhile.
    fill(map(64 * MIB, READ_WRITE, MAP_PRIVATE)?, 64 * MIB, 2);
    // Tells without looking whether memory is locked, msync(2).
    let is_locked = || unsafe { libc::msync(area, PAGE, libc::MS_ASYNC | libc::MS_INVALIDATE) != 0 };
    stage.ready();
    while !stage.gone() {
        sys!(mlock(area, len))?;
        nap(Duration::from_micros(500));
        check!(is_locked(), "what was locked is not");
        sys!(munlock(area, len))?;
        nap(Duration::from_micros(500));
        check!(!is_locked(), "what was released is locked");
    }
    Ok(())
}

/// A mapping that is moved as a whole without pause, and others that come and go at its old places: never is it two.
fn remapped(stage: &Stage) -> Verdict {
    let len = 72 * MIB;
    let mut area = map(len, READ_WRITE, MAP_PRIVATE)?;
    fill(area, len, 1);
    let mut places = [0usize; 2];
    for place in &mut places {
        *place = map(len, libc::PROT_NONE, MAP_PRIVATE)? as usize;
    }
    stage.ready();
    let mut round = 0;
    while !stage.gone() {
        round += 1;
        let to = places[round % 2];
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let old = std::mem::replace(&mut places[round % 2], area as usize);
        area = sys!(mremap(area.cast(), len, len, how, to))?.cast();
        check!(area as usize == old, "it was moved to {area:?}");
        // Something shorter, for an instant, where it was.
        let fixed = MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let short = (1 + round % 5) * MIB + (round % 7) * PAGE;
        let at = places[round % 2] as *mut libc::c_void;
        sys!(mmap(at, short, READ_WRITE, fixed, -1, 0))?;
        fill(at.cast(), PAGE, round as u64);
        let shorter = sys!(mremap(at, short, short - PAGE, 0))?;
        check!(shorter == at, "it was moved to {shorter:?}");
        sys!(mmap(at, len, libc::PROT_NONE, fixed, -1, 0))?;
        if round % 64 == 0 {
            nap(Duration::from_micros(100));
        }
    }
    check_fill("what was moved", area, len, 1)
}

/// A stack that grows and shrinks, each frame knowing what it holds.
fn stack(stage: &Stage) -> Verdict {
    fn deeper(depth: u64, stage: &Stage) -> Verdict {
        let mut frame = [0u64; 2048];
        fill(frame.as_mut_ptr().cast(), size_of_val(&frame), depth);
        if depth > 0 && !stage.gone() {
            deeper(depth - 1, stage)?;
        }
        check_fill("a frame", frame.as_ptr().cast(), size_of_val(&frame), depth)
    }
    stage.ready();
    let mut depth = 1;
    while !stage.gone() {
        deeper(depth, stage)?;
        depth = depth % 300 + 37;
        nap(Duration::from_micros(200));
    }
    Ok(())
}

/// Private pages of a file that are written, and given back so that the file shows again.
fn file(stage: &Stage) -> Verdict {
    let path = stage.path("moving");
    let len = 64 * PAGE;
    let mut content = vec![0u8; len];
    fill(content.as_mut_ptr(), len, 7);
    std::fs::write(&path, &content).map_err(|why| why.to_string())?;
    let fd = crate::call::open(&path, libc::O_RDONLY)?;
    let at = sys!(mmap(std::ptr::null_mut(), len, READ_WRITE, MAP_PRIVATE, fd, 0))?.cast::<u8>();
    sys!(close(fd))?;
    stage.ready();
    let mut step = 0;
    while !stage.gone() {
        step += 1;
        check_fill("the file", at, len, 7)?;
        let from = (step as usize * 7 % 60) * PAGE;
        let part = unsafe { at.add(from) };
        fill(part, 3 * PAGE, 100 + step);
        nap(Duration::from_micros(500));
        check_fill("what was written over it", part, 3 * PAGE, 100 + step)?;
        sys!(madvise(part.cast(), 3 * PAGE, libc::MADV_DONTNEED))?;
    }
    check_fill("the file", at, len, 7)
}

/// A device writes to its memory, by reads past the page cache: whatever a read has given is there.
fn direct(stage: &Stage) -> Verdict {
    const BLOCKS: usize = 256;
    let path = stage.path("direct");
    let len = BLOCKS * PAGE;
    let mut content = vec![0u8; len];
    for (index, block) in content.chunks_mut(PAGE).enumerate() {
        fill(block.as_mut_ptr(), PAGE, index as u64 + 1);
    }
    std::fs::write(&path, &content).map_err(|why| why.to_string())?;
    // Where the file system has no such reads, ordinary ones must come out the same.
    let fd = crate::call::open(&path, libc::O_RDONLY | libc::O_DIRECT)
        .or_else(|_| crate::call::open(&path, libc::O_RDONLY))?;
    let area = map(len, READ_WRITE, MAP_PRIVATE)?;
    fill(area, len, 0);
    let mut holds = vec![None; BLOCKS];
    stage.ready();
    let mut step = 0;
    while !stage.gone() {
        step += 1;
        let (slot, block) = (step * 7 % BLOCKS, step * 13 % BLOCKS);
        let at = unsafe { area.add(slot * PAGE) };
        let read = sys!(pread(fd, at.cast(), PAGE, (block * PAGE) as libc::off_t))?;
        check!(read as usize == PAGE, "{read} bytes of block {block}");
        holds[slot] = Some(block);
        let looked = step * 31 % BLOCKS;
        if let Some(block) = holds[looked] {
            check_fill("what was read", unsafe { area.add(looked * PAGE) }, PAGE, block as u64 + 1)?;
        }
    }
    for (slot, block) in holds.iter().enumerate() {
        if let Some(block) = block {
            check_fill("what was read", unsafe { area.add(slot * PAGE) }, PAGE, *block as u64 + 1)?;
        }
    }
    Ok(())
}

/// Processes whose leaders end while another thread goes on for a moment: at any time one is on its way to its end.
fn leaders_end(stage: &Stage) -> Verdict {
    // Not std's: other threads of the parent may have locks of it.
    extern "C" fn other(_: *mut libc::c_void) -> *mut libc::c_void {
        nap(Duration::from_millis(1));
        unsafe { libc::_exit(0) }
    }
    fn child() -> ! {
        let mut thread = zeroed();
        unsafe {
            libc::pthread_create(&mut thread, std::ptr::null(), other, std::ptr::null_mut());
            libc::syscall(libc::SYS_exit, 0);
        }
        unreachable!("a thread that has ended")
    }
    let parent = |end: &AtomicBool| {
        while !end.load(SeqCst) {
            let pid = sys!(fork())?;
            if pid == 0 {
                child();
            }
            let mut status = 0;
            sys!(waitpid(pid, &mut status, 0))?;
            same!(status, 0, "the status of a child");
        }
        Ok(())
    };
    meanwhile(stage, &[&parent as &(dyn Fn(&AtomicBool) -> Verdict + Sync); 8])
}
