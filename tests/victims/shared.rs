//! Shared anonymous memory.

use crate::Victim;
use crate::call::{READ_WRITE, check_fill, check_zero, fill, map, shared_words, until};
use crate::stage::{Stage, Verdict};
use libc::{MAP_NORESERVE, MAP_SHARED};
use std::sync::atomic::Ordering::SeqCst;

pub(crate) const VICTIMS: &[Victim] = &[
    ("shared_alone", alone),
    ("shared_between_processes", between),
    ("shared_sparse", sparse),
    ("shared_part_unmapped", part),
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
    stage.freeze_here()?;
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
