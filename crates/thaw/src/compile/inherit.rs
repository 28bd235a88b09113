//! Memory that a child shares with its parent by copy-on-write.
//!
//! Where an image stores pages of a child once, with those of its parent at the same addresses, the parent is given its
//! memory before it clones the child. So the child has these pages as it had them from its first fork: the same ones,
//! until one of both writes. It unmaps what it does not keep, and reads only those pages that differ.

use super::tree::makers;
use super::{Compiler, TASK_END};
use crate::control::CONTROL_BYTES;
use crate::script::{Script, Subject};
use crate::stage::Stage;
use frost_model::Checkpoint;
use frost_model::ram::{Pages, Run};
use frost_model::rm::{Attachment, Region};
use std::collections::HashMap;

const MADV_DONTNEED: u64 = 4;

/// What a process has of the memory of its parent.
#[derive(Clone, Debug, Default)]
pub(super) struct Inheritance {
    /// Whether its children have something of its own, so that it is given its memory before it clones them.
    pub(super) early: bool,
    /// Whether its parent has memory when it clones it, which is then there when it starts.
    from_early: bool,
    /// For each region whether it is that of the parent, and how it differs.
    kept: HashMap<usize, Difference>,
    /// Whether the vDSO lies where that of the parent does.
    vdso: bool,
}

/// How the pages of a region differ from those that the parent has at the same place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    shared_bytes: u64,
    /// Pages that are read.
    pub(super) own: Pages,
    /// Ranges that only the parent has: offset and length.
    pub(super) gone: Vec<(u64, u64)>,
}

impl Inheritance {
    /// Works it out for all processes.
    pub(super) fn of(checkpoint: &Checkpoint) -> Vec<Self> {
        let processes = &checkpoint.processes;
        let makers = makers(checkpoint);
        let parent = |number: usize| makers[number];
        let mut all = vec![Self::default(); processes.len()];
        for (number, process) in processes.iter().enumerate() {
            let Some(parent) = parent(number) else { continue };
            let theirs: HashMap<u64, &Region> =
                processes[parent].rm.regions.iter().map(|region| (region.range.start(), region)).collect();
            for (at, region) in process.rm.regions.iter().enumerate() {
                let Some(their) = theirs.get(&region.range.start()) else { continue };
                if !can_be_kept(their, region) {
                    continue;
                }
                let difference = Difference::between(&their.private, &region.private);
                if difference.shared_bytes > 0 {
                    all[number].kept.insert(at, difference);
                }
            }
            all[parent].early |= !all[number].kept.is_empty();
        }
        for (number, process) in processes.iter().enumerate() {
            let Some(parent) = parent(number) else { continue };
            // What the parent has of its own parent is there too.
            all[number].from_early = all[parent].early || all[parent].from_early;
            let address = |vdso: &Option<frost_model::rm::Vdso>| vdso.as_ref().map(|vdso| vdso.address);
            let theirs = address(&processes[parent].rm.vdso);
            all[number].vdso = all[parent].early && theirs.is_some() && theirs == address(&process.rm.vdso);
        }
        all
    }

    /// Returns how region `number` differs from that of the parent; `None` if it is made anew.
    pub(super) fn kept(&self, number: usize) -> Option<&Difference> {
        self.kept.get(&number)
    }

    /// Returns whether the vDSO is there already.
    pub(super) fn has_vdso(&self) -> bool {
        self.vdso
    }
}

/// Whether a child can keep a region of its parent: what fork(2) hands on, and what cannot be changed afterwards, is
/// the same.
fn can_be_kept(parent: &Region, child: &Region) -> bool {
    let private = match &child.attachment {
        Attachment::Anonymous => true,
        Attachment::File { shared, .. }
        | Attachment::Dataspace { shared, .. }
        | Attachment::Description { shared, .. } => !shared,
        Attachment::Special(_) | Attachment::Segment { .. } | Attachment::Aio { .. } => false,
    };
    let forgets = |region: &Region| region.flags.droppable || region.flags.wipe_on_fork;
    let made = |region: &Region| {
        let flags = region.flags;
        (flags.grows_down, flags.no_reserve, flags.huge_page, flags.no_huge_page, flags.hugetlb)
    };
    private
        && parent.range == child.range
        && parent.attachment == child.attachment
        && !forgets(parent)
        && !forgets(child)
        && parent.huge_shift == child.huge_shift
        && made(parent) == made(child)
        && parent.protection.key == child.protection.key
}

impl Difference {
    fn between(parent: &Pages, child: &Pages) -> Self {
        let mut bounds: Vec<u64> = parent
            .runs
            .iter()
            .chain(&child.runs)
            .flat_map(|run| [run.offset, run.offset + run.len_bytes])
            .collect();
        bounds.sort_unstable();
        bounds.dedup();
        let mut difference = Self::default();
        let (mut theirs, mut ours) = (parent.runs.iter().peekable(), child.runs.iter().peekable());
        for pair in bounds.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            let their = covering(&mut theirs, start);
            let our = covering(&mut ours, start);
            let len_bytes = end - start;
            match (their, our) {
                (Some(their), Some(our)) if their == our => difference.shared_bytes += len_bytes,
                (_, Some(pack_offset)) => difference.own.push(Run { offset: start, len_bytes, pack_offset }),
                (Some(_), None) => match difference.gone.last_mut() {
                    Some((from, len)) if *from + *len == start => *len += len_bytes,
                    _ => difference.gone.push((start, len_bytes)),
                },
                (None, None) => {}
            }
        }
        difference
    }
}

/// Returns where in the pack the page at `offset` lies, if a run covers it; runs before it are passed over.
fn covering<'r>(runs: &mut std::iter::Peekable<impl Iterator<Item = &'r Run>>, offset: u64) -> Option<u64> {
    while runs.next_if(|run| run.offset + run.len_bytes <= offset).is_some() {}
    let run = runs.peek().filter(|run| run.offset <= offset)?;
    Some(run.pack_offset + (offset - run.offset))
}

impl Compiler<'_> {
    /// Unmaps what a process has of its parent and does not keep.
    pub(super) fn disinherit(&mut self, script: &mut Script, index: usize) {
        let inheritance = &self.inheritance[index];
        if !inheritance.from_early {
            return;
        }
        let base = self.control.base();
        let mut keep = vec![(base, base + CONTROL_BYTES)];
        keep.extend(self.parking.map(|(address, len)| (address, address + len)));
        for (number, region) in self.checkpoint.processes[index].rm.regions.iter().enumerate() {
            let special = matches!(region.attachment, Attachment::Special(_)) && inheritance.vdso;
            if (inheritance.kept(number).is_some() || special) && region.range.end() <= TASK_END {
                keep.push((region.range.start(), region.range.end()));
            }
        }
        keep.sort_unstable();
        self.about(script, index, Stage::Clean, Subject::Step);
        let mut from = 0;
        for (start, end) in keep {
            if start > from {
                script.call(libc::SYS_munmap, &[from, start - from]);
            }
            from = from.max(end);
        }
        if from < TASK_END {
            script.call(libc::SYS_munmap, &[from, TASK_END - from]);
        }
    }

    /// Makes the pages of a kept region those of the child.
    pub(super) fn differ(&mut self, script: &mut Script, start: u64, difference: &Difference) {
        for (offset, len) in &difference.gone {
            script.call(libc::SYS_madvise, &[start + offset, *len, MADV_DONTNEED]);
        }
        self.fill(script, start, &difference.own, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(runs: &[(u64, u64, u64)]) -> Pages {
        let run = |(offset, len_bytes, pack_offset): &(u64, u64, u64)| Run {
            offset: *offset,
            len_bytes: *len_bytes,
            pack_offset: *pack_offset,
        };
        Pages { runs: runs.iter().map(run).collect() }
    }

    #[test]
    fn pages_at_the_same_place_of_the_pack_are_shared_and_all_others_are_read_or_dropped() {
        let parent = pages(&[(0, 40, 1000), (60, 40, 2000)]);
        let child = pages(&[(10, 10, 1010), (20, 10, 9000), (30, 10, 1030), (50, 20, 3000), (70, 10, 2010)]);
        let difference = Difference::between(&parent, &child);
        assert_eq!(difference.shared_bytes, 30);
        assert_eq!(difference.own, pages(&[(20, 10, 9000), (50, 20, 3000)]));
        assert_eq!(difference.gone, [(0, 10), (80, 20)]);
        let same = Difference::between(&parent, &parent);
        assert_eq!((same.shared_bytes, same.own.is_empty(), same.gone.is_empty()), (80, true, true));
        let none = Difference::between(&parent, &Pages::default());
        assert_eq!((none.shared_bytes, none.gone), (0, vec![(0, 40), (60, 40)]));
    }
}
