//! What changed in memory: attachments by address, and pages by content.

use super::{ObjectDifference, Presence, RegionPages};
use crate::Error;
use crate::object;
use frost_model::cap::Unnamed;
use frost_model::ram::{Dataspace, DataspaceKind, Pages, Run};
use frost_model::rm::{Attachment, Region, RegionFlags};
use frost_model::{Checkpoint, PAGE_SIZE, Process};
use frost_store::PackPages;
use std::collections::BTreeSet;

/// How much is compared at a time.
const CHUNK_BYTES: u64 = 64 * 1024;

/// A stretch of addresses whose mapping differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// The address behind it.
    pub end: u64,
    /// What lies there.
    pub shows: String,
    /// How it differs.
    pub change: MappingChange,
}

/// How a mapping differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappingChange {
    /// It was unmapped.
    Removed,
    /// It was mapped.
    Added,
    /// It has other rights.
    Rights {
        /// Those it had, as `rw-`.
        before: String,
        /// Those it has.
        after: String,
    },
    /// It has other flags: locked, advised, grown downwards.
    Flags {
        /// The names of those that were taken away.
        removed: Vec<&'static str>,
        /// The names of those that were set.
        added: Vec<&'static str>,
    },
}

/// Numbers of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCount {
    /// Those that both images have, with other content.
    pub changed: u64,
    /// Those that only the second image has.
    pub added: u64,
    /// Those that only the first image has.
    pub removed: u64,
}

impl PageCount {
    /// Returns whether there are none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns how many bytes of the second image differ from the first.
    pub fn written_bytes(self) -> u64 {
        (self.changed + self.added) * PAGE_SIZE
    }

    fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.added += other.added;
        self.removed += other.removed;
    }
}

/// The contents of both images.
pub(super) struct Contents<'a> {
    one: PackPages,
    two: PackPages,
    buffers: (Vec<u8>, Vec<u8>),
    compared: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Contents<'a> {
    pub(super) fn new(one: PackPages, two: PackPages, progress: &'a mut dyn FnMut(u64)) -> Self {
        let buffer = || vec![0; CHUNK_BYTES as usize];
        Self { one, two, buffers: (buffer(), buffer()), compared: 0, progress }
    }

    /// Counts the pages that differ among `len_bytes` at these offsets of the packs.
    fn changed(&mut self, one: u64, two: u64, len_bytes: u64) -> Result<u64, Error> {
        let (mut done, mut changed) = (0, 0);
        while done < len_bytes {
            let (first, second) = (one + done, two + done);
            let known = if first == second { self.one.known_same(&self.two, first) } else { 0 };
            let len = if known > 0 { known } else { CHUNK_BYTES - first % CHUNK_BYTES };
            let len = len.min(len_bytes - done);
            if known == 0 {
                let (left, right) =
                    (&mut self.buffers.0[..len as usize], &mut self.buffers.1[..len as usize]);
                self.one.read(first, left)?;
                self.two.read(second, right)?;
                let page = PAGE_SIZE as usize;
                let pairs = left.chunks(page).zip(right.chunks(page));
                changed += pairs.filter(|(left, right)| left != right).count() as u64;
            }
            done += len;
            self.compared += len;
            (self.progress)(self.compared);
        }
        Ok(changed)
    }

    /// Compares two lists of runs within the window from `low` to `high`; each offset has its own origin added, so that
    /// both count in the same unit.
    fn pages(
        &mut self,
        (one, one_origin): (&Pages, u64),
        (two, two_origin): (&Pages, u64),
        (low, high): (u64, u64),
    ) -> Result<PageCount, Error> {
        let mut count = PageCount::default();
        let pages = |bytes: u64| bytes.div_ceil(PAGE_SIZE);
        let (mut left, mut right) =
            (clipped(one, one_origin, low, high).peekable(), clipped(two, two_origin, low, high).peekable());
        loop {
            match (left.peek_mut(), right.peek_mut()) {
                (None, None) => return Ok(count),
                (Some(run), None) => {
                    count.removed += pages(run.len_bytes);
                    left.next();
                }
                (None, Some(run)) => {
                    count.added += pages(run.len_bytes);
                    right.next();
                }
                (Some(first), Some(second)) => {
                    // The part of one that lies before the other belongs to it alone.
                    let alone = second.offset.abs_diff(first.offset);
                    let len = if first.offset < second.offset {
                        let len = alone.min(first.len_bytes);
                        count.removed += pages(len);
                        skip(first, len);
                        0
                    } else if second.offset < first.offset {
                        let len = alone.min(second.len_bytes);
                        count.added += pages(len);
                        skip(second, len);
                        0
                    } else {
                        first.len_bytes.min(second.len_bytes)
                    };
                    if len > 0 {
                        let (at, other) = (first.pack_offset, second.pack_offset);
                        skip(first, len);
                        skip(second, len);
                        count.changed += self.changed(at, other, len)?;
                    }
                    if left.peek().is_some_and(|run| run.len_bytes == 0) {
                        left.next();
                    }
                    if right.peek().is_some_and(|run| run.len_bytes == 0) {
                        right.next();
                    }
                }
            }
        }
    }
}

fn skip(run: &mut Run, len: u64) {
    run.offset += len;
    run.pack_offset += len;
    run.len_bytes -= len;
}

/// The runs of `pages`, with `origin` added to their offsets, as far as they lie between `low` and `high`.
fn clipped(pages: &Pages, origin: u64, low: u64, high: u64) -> impl Iterator<Item = Run> {
    let begin = pages.runs.partition_point(|run| run.offset + run.len_bytes + origin <= low);
    pages.runs[begin..].iter().take_while(move |run| run.offset + origin < high).map(move |run| {
        let start = (run.offset + origin).max(low);
        let end = (run.offset + run.len_bytes + origin).min(high);
        Run {
            offset: start,
            len_bytes: end - start,
            pack_offset: run.pack_offset + (start - origin - run.offset),
        }
    })
}

/// Compares the memory of a process: what is mapped, and the pages of its own.
pub(super) fn of_process(
    (one, before): (&Checkpoint, &Process),
    (two, after): (&Checkpoint, &Process),
    contents: &mut Contents<'_>,
) -> Result<(Vec<Mapping>, Vec<RegionPages>), Error> {
    let regions = before.rm.regions.iter().chain(&after.rm.regions);
    let cuts: BTreeSet<u64> = regions.flat_map(|region| [region.range.start(), region.range.end()]).collect();
    let cuts: Vec<u64> = cuts.into_iter().collect();
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut pages: Vec<RegionPages> = Vec::new();
    // A stretch of the same kind as one right before it is one with it; one address may have two changes.
    let mut map = |start: u64, end: u64, shows: String, change: MappingChange| {
        let near = mappings.iter_mut().rev().take(4);
        match near.into_iter().find(|last| last.end == start && last.shows == shows && last.change == change)
        {
            Some(last) => last.end = end,
            None => mappings.push(Mapping { start, end, shows, change }),
        }
    };
    for pair in cuts.windows(2) {
        let (low, high) = (pair[0], pair[1]);
        let (first, second) = (at(&before.rm.regions, low), at(&after.rm.regions, low));
        match (first, second) {
            (None, None) => {}
            (Some(first), None) => map(low, high, object::region(one, before, first), MappingChange::Removed),
            (None, Some(second)) => map(low, high, object::region(two, after, second), MappingChange::Added),
            (Some(first), Some(second)) if !same_object((one, first), (two, second)) => {
                map(low, high, object::region(one, before, first), MappingChange::Removed);
                map(low, high, object::region(two, after, second), MappingChange::Added);
            }
            (Some(first), Some(second)) => {
                let text = object::region(two, after, second);
                if first.protection != second.protection {
                    let (before, after) =
                        (object::rights(&first.protection), object::rights(&second.protection));
                    map(low, high, text.clone(), MappingChange::Rights { before, after });
                }
                if first.flags != second.flags {
                    let (was, is) = (flags(&first.flags), flags(&second.flags));
                    let without = |names: &[&'static str], others: &[&'static str]| {
                        names.iter().filter(|name| !others.contains(name)).copied().collect::<Vec<_>>()
                    };
                    let (removed, added) = (without(&was, &is), without(&is, &was));
                    map(low, high, text.clone(), MappingChange::Flags { removed, added });
                }
                let count = contents.pages(
                    (&first.private, first.range.start()),
                    (&second.private, second.range.start()),
                    (low, high),
                )?;
                if !count.is_empty() {
                    add_pages(&mut pages, low, high, text, count);
                }
            }
        }
    }
    Ok((mappings, pages))
}

/// Counts pages to the stretch before, if that shows the same and ends where this one begins.
fn add_pages(pages: &mut Vec<RegionPages>, start: u64, end: u64, shows: String, count: PageCount) {
    match pages.last_mut() {
        Some(last) if last.end == start && last.shows == shows => {
            last.end = end;
            last.count.add(count);
        }
        _ => pages.push(RegionPages { start, end, shows, count }),
    }
}

fn at(regions: &[Region], address: u64) -> Option<&Region> {
    let index = regions.partition_point(|region| region.range.end() <= address);
    regions.get(index).filter(|region| region.range.contains(address))
}

/// Whether two regions show the same object, so that the same address is the same byte of it.
fn same_object((one, first): (&Checkpoint, &Region), (two, second): (&Checkpoint, &Region)) -> bool {
    let same_place = |left: u64, right: u64| {
        left.wrapping_sub(first.range.start()) == right.wrapping_sub(second.range.start())
    };
    match (&first.attachment, &second.attachment) {
        (Attachment::Anonymous, Attachment::Anonymous) => true,
        (Attachment::Special(left), Attachment::Special(right)) => left == right,
        (
            Attachment::File { file: left, offset: left_at, shared: left_shared, .. },
            Attachment::File { file: right, offset: right_at, shared: right_shared, .. },
        ) => left.path == right.path && left_shared == right_shared && same_place(*left_at, *right_at),
        (
            Attachment::Dataspace { offset: left_at, shared: left_shared, .. },
            Attachment::Dataspace { offset: right_at, shared: right_shared, .. },
        )
        | (
            Attachment::Description { offset: left_at, shared: left_shared, .. },
            Attachment::Description { offset: right_at, shared: right_shared, .. },
        ) => {
            object::attachment(one, &first.attachment) == object::attachment(two, &second.attachment)
                && left_shared == right_shared
                && same_place(*left_at, *right_at)
        }
        (Attachment::Segment { offset: left_at, .. }, Attachment::Segment { offset: right_at, .. }) => {
            object::attachment(one, &first.attachment) == object::attachment(two, &second.attachment)
                && same_place(*left_at, *right_at)
        }
        _ => false,
    }
}

fn flags(flags: &RegionFlags) -> Vec<&'static str> {
    let RegionFlags {
        grows_down,
        locked,
        lock_on_fault,
        dont_fork,
        wipe_on_fork,
        dont_dump,
        huge_page,
        no_huge_page,
        mergeable,
        sequential,
        random,
        no_reserve,
        hugetlb,
        sealed,
        droppable,
    } = *flags;
    [
        (grows_down, "grows down"),
        (locked, "locked"),
        (lock_on_fault, "locked when touched"),
        (dont_fork, "not inherited"),
        (wipe_on_fork, "wiped on fork"),
        (dont_dump, "not dumped"),
        (huge_page, "huge pages"),
        (no_huge_page, "no huge pages"),
        (mergeable, "mergeable"),
        (sequential, "read in sequence"),
        (random, "read at random"),
        (no_reserve, "not reserved"),
        (hugetlb, "hugetlb"),
        (sealed, "sealed"),
        (droppable, "droppable"),
    ]
    .into_iter()
    .filter_map(|(on, name)| on.then_some(name))
    .collect()
}

/// Compares what belongs to no process alone. Objects have no name that both images share: those of the same kind and
/// name are matched in their order.
pub(super) fn objects(
    one: &Checkpoint,
    two: &Checkpoint,
    contents: &mut Contents<'_>,
) -> Result<Vec<ObjectDifference>, Error> {
    let mut found = Vec::new();
    let spaces = matched(&one.dataspaces, &two.dataspaces, dataspace);
    let files = matched(&one.objects.unnamed, &two.objects.unnamed, unnamed);
    let spaces = spaces
        .into_iter()
        .map(|(name, left, right)| (name, left.map(|space| &space.pages), right.map(|space| &space.pages)));
    let files = files
        .into_iter()
        .map(|(name, left, right)| (name, left.map(|file| &file.pages), right.map(|file| &file.pages)));
    let nothing = Pages::default();
    for (object, left, right) in spaces.chain(files) {
        let window = (0, u64::MAX);
        let pages = (left.unwrap_or(&nothing), right.unwrap_or(&nothing));
        let count = contents.pages((pages.0, 0), (pages.1, 0), window)?;
        let presence = match (left, right) {
            (Some(_), None) => Presence::Gone,
            (None, Some(_)) => Presence::Come,
            _ => Presence::Both,
        };
        if !count.is_empty() || presence != Presence::Both {
            found.push(ObjectDifference { object, count, presence });
        }
    }
    Ok(found)
}

fn dataspace(space: &Dataspace) -> String {
    match &space.kind {
        DataspaceKind::SharedAnonymous => "shared anonymous memory".to_owned(),
        DataspaceKind::Memfd { name, .. } => format!("memfd {name}"),
    }
}

fn unnamed(file: &Unnamed) -> String {
    format!("deleted file {}", file.path)
}

type Matched<'a, T> = Vec<(String, Option<&'a T>, Option<&'a T>)>;

/// Pairs the objects of both lists that have the same name, in their order.
fn matched<'a, T>(one: &'a [T], two: &'a [T], name: impl Fn(&T) -> String) -> Matched<'a, T> {
    let mut left: Vec<Option<&T>> = two.iter().map(Some).collect();
    let mut pairs: Matched<'a, T> = one
        .iter()
        .map(|object| {
            let name_of = name(object);
            let other = left.iter_mut().find(|slot| slot.is_some_and(|other| name(other) == name_of));
            (name_of, Some(object), other.and_then(Option::take))
        })
        .collect();
    pairs.extend(left.into_iter().flatten().map(|object| (name(object), None, Some(object))));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_clipped_to_a_window_and_keep_their_place_in_the_pack() {
        let pages =
            Pages { runs: vec![Run { offset: 0, len_bytes: 4 * PAGE_SIZE, pack_offset: 100 * PAGE_SIZE }] };
        let origin = 0x10000;
        let found: Vec<Run> = clipped(&pages, origin, origin + PAGE_SIZE, origin + 3 * PAGE_SIZE).collect();
        let expected =
            Run { offset: origin + PAGE_SIZE, len_bytes: 2 * PAGE_SIZE, pack_offset: 101 * PAGE_SIZE };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn objects_of_one_name_are_paired_in_their_order() {
        let name = |text: &&str| text.chars().take(1).collect::<String>();
        let pairs = matched(&["a1", "a2", "b1"], &["b9", "a9"], name);
        let texts: Vec<(Option<&str>, Option<&str>)> =
            pairs.iter().map(|(_, left, right)| (left.copied(), right.copied())).collect();
        assert_eq!(texts, [(Some("a1"), Some("a9")), (Some("a2"), None), (Some("b1"), Some("b9"))]);
    }
}
