//! What lies at the addresses of a frozen process.

use frost_model::Checkpoint;
use frost_model::cap::{Capability, Content, FileIdentity, FileRef};
use frost_model::ram::Pages;
use frost_model::rm::{Attachment, Region, SpecialRegion};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// Consecutive addresses whose content comes from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first address.
    pub start: u64,
    /// How many bytes.
    pub len_bytes: u64,
    /// Where the content is.
    pub source: Source,
}

/// Where the content of a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the pack, from this offset on.
    Pack(u64),
    /// Nowhere: it is zeros.
    Zeros,
    /// In the file that the region shows, from this offset on.
    File(u64),
    /// Nowhere that an image tells: memory of the kernel's making.
    Kernel,
}

/// What a region shows where the program has not written pages of its own.
#[derive(Clone, Copy, Debug)]
pub enum Base<'a> {
    /// Zeros.
    Zeros,
    /// Stored pages from an offset on; what they leave out is zeros.
    Stored(&'a Pages, u64),
    /// A file by name, from an offset on.
    File(&'a FileRef, u64),
    /// Memory of the kernel's making.
    Kernel(SpecialRegion),
}

/// Returns what a region shows below the pages of its own.
pub fn base<'a>(checkpoint: &'a Checkpoint, region: &'a Region) -> Base<'a> {
    match &region.attachment {
        // What waits in a ring is no memory of the program's making.
        Attachment::Anonymous | Attachment::Aio { .. } => Base::Zeros,
        Attachment::File { file, offset, .. } => Base::File(file, *offset),
        Attachment::Dataspace { dataspace, offset, .. } => {
            let found = checkpoint.dataspaces.get(dataspace.index());
            found.map_or(Base::Zeros, |dataspace| Base::Stored(&dataspace.pages, *offset))
        }
        Attachment::Description { description, offset, .. } => {
            let found = checkpoint.descriptions.get(description.index());
            match found.map(|description| &description.capability) {
                Some(Capability::Regular(regular)) => match &regular.content {
                    Content::Named { file, .. } => Base::File(file, *offset),
                    Content::Unnamed(id) => {
                        let found = checkpoint.objects.unnamed.get(id.index());
                        found.map_or(Base::Zeros, |unnamed| Base::Stored(&unnamed.pages, *offset))
                    }
                },
                _ => Base::Zeros,
            }
        }
        Attachment::Segment { segment, offset, .. } => {
            let found = checkpoint.objects.segments.get(segment.index());
            found.map_or(Base::Zeros, |segment| Base::Stored(&segment.pages, *offset))
        }
        Attachment::Special(special) => Base::Kernel(*special),
    }
}

/// Divides a region into pieces: ascending, without gaps, from its first address to its last.
pub fn pieces(checkpoint: &Checkpoint, region: &Region) -> Vec<Piece> {
    let (start, end) = (region.range.start(), region.range.end());
    let base = base(checkpoint, region);
    let mut pieces = Vec::new();
    let mut at = start;
    for run in &region.private.runs {
        let own = start + run.offset;
        below(base, start, at, own, &mut pieces);
        pieces.push(Piece { start: own, len_bytes: run.len_bytes, source: Source::Pack(run.pack_offset) });
        at = own + run.len_bytes;
    }
    below(base, start, at, end, &mut pieces);
    pieces
}

/// Adds what a region that begins at `start` shows from `from` to `to` below the pages of its own.
fn below(base: Base<'_>, start: u64, from: u64, to: u64, pieces: &mut Vec<Piece>) {
    if from >= to {
        return;
    }
    let mut push = |start, len_bytes, source| {
        if len_bytes > 0 {
            pieces.push(Piece { start, len_bytes, source });
        }
    };
    match base {
        Base::Zeros => push(from, to - from, Source::Zeros),
        Base::Kernel(_) => push(from, to - from, Source::Kernel),
        Base::File(_, offset) => push(from, to - from, Source::File(offset.saturating_add(from - start))),
        Base::Stored(pages, offset) => {
            // Offsets of the object; one that overflows is of a hostile image and shows nothing.
            let first = offset.saturating_add(from - start);
            let last = offset.saturating_add(to - start);
            let address = |at: u64| from + (at - first);
            let mut at = first;
            let begin = pages.runs.partition_point(|run| run.offset + run.len_bytes <= first);
            for run in pages.runs[begin..].iter().take_while(|run| run.offset < last) {
                let (low, high) = (run.offset.max(first), (run.offset + run.len_bytes).min(last));
                push(address(at), low - at, Source::Zeros);
                push(address(low), high - low, Source::Pack(run.pack_offset + (low - run.offset)));
                at = high;
            }
            push(address(at), last - at, Source::Zeros);
        }
    }
}

/// Opens a file if it is still what it was when the program was frozen.
///
/// A binary with a build-id is the same wherever it lies; any other file by inode, length and time of change, as at thaw.
pub fn open_unchanged(file: &FileRef) -> Option<OwnedFd> {
    // Without O_NONBLOCK a fifo that took the file's place would let us wait for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(file.path.as_path(), flags, Mode::empty()).ok()?;
    let was: &FileIdentity = &file.identity;
    let now = rustix::fs::fstat(&opened).ok()?;
    let is_regular = |mode: u32| rustix::fs::FileType::from_raw_mode(mode).is_file();
    if !is_regular(now.st_mode) || !is_regular(was.mode) {
        return None;
    }
    let same = now.st_ino == was.inode
        && now.st_size.cast_unsigned() == was.len_bytes
        && (now.st_mtime, now.st_mtime_nsec as i64) == (was.modified.sec, was.modified.nsec);
    let same_build = || was.build_id.is_some() && frost_sys::elf::build_id(opened.as_fd()) == was.build_id;
    (same || same_build()).then_some(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use frost_model::ram::Run;

    const PAGE: u64 = frost_model::PAGE_SIZE;

    fn run(offset: u64, pages: u64, pack: u64) -> Run {
        Run { offset: offset * PAGE, len_bytes: pages * PAGE, pack_offset: pack * PAGE }
    }

    #[test]
    fn stored_pages_are_clipped_to_the_window_that_is_shown() {
        let pages = Pages { runs: vec![run(0, 2, 10), run(4, 4, 20)] };
        let mut pieces = Vec::new();
        // The window begins at page 1 of the object, and shows 5 pages of it.
        below(Base::Stored(&pages, PAGE), 0x1000, 0x1000, 0x6000, &mut pieces);
        let piece = |start, pages, source| Piece { start, len_bytes: pages * PAGE, source };
        assert_eq!(
            pieces,
            [
                piece(0x1000, 1, Source::Pack(11 * PAGE)),
                piece(0x2000, 2, Source::Zeros),
                piece(0x4000, 2, Source::Pack(20 * PAGE)),
            ]
        );
    }

    #[test]
    fn what_lies_behind_the_stored_pages_is_zeros() {
        let mut pieces = Vec::new();
        below(Base::Stored(&Pages::default(), 0), 0, 0, PAGE, &mut pieces);
        assert_eq!(pieces, [Piece { start: 0, len_bytes: PAGE, source: Source::Zeros }]);
    }
}
