//! Versions that go on with the pack of an earlier one: each page is stored once, and no version minds the others.
#![allow(clippy::unwrap_used, reason = "this is a test")]

#[path = "../../image/tests/sample/mod.rs"]
mod sample;

use frost_model::Checkpoint;
use frost_model::ram::Run;
use frost_store::{Draft, GcOptions, ImageId, Instance, Name, OpenOptions, Store, Then};
use rustix::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

const PAGE: u64 = 4096;
const BLOCK: u64 = 64 * 1024;
/// Pages of the program.
const PAGES: u64 = 200;

fn open(path: &Path) -> Store {
    Store::open(&OpenOptions { root: path.to_owned(), trust_owner: false }).unwrap()
}

fn name() -> Name {
    Name::new("web").unwrap()
}

/// What page `page` holds when it was written by version `version`.
fn content(page: u64, version: u32) -> Vec<u8> {
    (0..PAGE).map(|i| ((page * 31 + u64::from(version) * 7 + i / 64) % 251) as u8).collect()
}

/// A checkpoint whose only memory is one region, with these places of its pages in the pack.
fn checkpoint(places: &[u64]) -> Checkpoint {
    let mut checkpoint = sample::checkpoint();
    checkpoint.objects.unnamed.clear();
    checkpoint.descriptions.clear();
    checkpoint.dataspaces.clear();
    for process in &mut checkpoint.processes {
        process.pd.descriptors.clear();
        process.rm.regions.truncate(1);
    }
    let region = &mut checkpoint.processes[0].rm.regions[0];
    region.attachment = frost_model::rm::Attachment::Anonymous;
    region.range =
        frost_model::rm::PageRange::new(region.range.start(), region.range.start() + PAGES * PAGE).unwrap();
    region.private.runs.clear();
    for (page, place) in (0u64..).zip(places) {
        region.private.push(Run { offset: page * PAGE, len_bytes: PAGE, pack_offset: *place });
    }
    checkpoint
}

/// The program: where the newest content of each page lies, and which version wrote it.
#[derive(Clone)]
struct Program {
    places: Vec<u64>,
    written_by: Vec<u32>,
}

impl Program {
    fn first(store: &Store) -> (Self, ImageId) {
        let mut draft = store.begin(&name()).unwrap();
        let places = (0..PAGES).map(|page| draft.pack().append(&content(page, 1)).unwrap()).collect();
        let program = Self { places, written_by: vec![1; PAGES as usize] };
        let id = program.commit(draft);
        (program, id)
    }

    fn commit(&self, draft: Draft) -> ImageId {
        draft.commit(&checkpoint(&self.places), Instance::default(), Then::End).unwrap().id
    }

    /// Writes `pages` anew into a draft that shares the pack of `earlier`.
    fn change(&mut self, store: &Store, earlier: &ImageId, version: u32, pages: &[u64]) -> Draft {
        let mut draft = store.begin(&name()).unwrap();
        assert!(draft.share_pack(&store.open_image(earlier).unwrap()).unwrap());
        for page in pages {
            self.places[*page as usize] = draft.pack().append(&content(*page, version)).unwrap();
            self.written_by[*page as usize] = version;
        }
        draft
    }

    /// Expects that an image is this program.
    fn is(&self, store: &Store, id: &ImageId) {
        let image = store.open_image(id).unwrap();
        assert!(store.verify(id).unwrap().is_empty());
        let pack = image.pack().unwrap();
        image.verify_pack(pack.as_fd()).unwrap();
        let pack = std::fs::File::from(pack);
        let mut bytes = vec![0; PAGE as usize];
        for run in &image.checkpoint().processes[0].rm.regions[0].private.runs {
            for at in (0..run.len_bytes).step_by(PAGE as usize) {
                let page = (run.offset + at) / PAGE;
                pack.read_exact_at(&mut bytes, run.pack_offset + at).unwrap();
                assert!(bytes == content(page, self.written_by[page as usize]), "page {page} of {id}");
            }
        }
    }
}

fn disk_bytes(store: &Store, id: &ImageId, file: &str) -> u64 {
    std::fs::metadata(store.path_of(id).join(file)).unwrap().blocks() * 512
}

#[test]
fn each_version_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, id1) = Program::first(&store);
    let mut second = first.clone();
    let draft = second.change(&store, &id1, 2, &[3, 4, 77]);
    let committed = draft.commit(&checkpoint(&second.places), Instance::default(), Then::End).unwrap();
    assert!(committed.bytes < 32 * PAGE, "{} bytes for three pages", committed.bytes);
    let id2 = committed.id;
    let mut third = second.clone();
    let draft = third.change(&store, &id2, 3, &[0, 77, PAGES - 1]);
    let id3 = third.commit(draft);
    for (program, id) in [(&first, &id1), (&second, &id2), (&third, &id3)] {
        program.is(&store, id);
    }
    let sizes: Vec<u64> = store.list().unwrap().iter().map(|image| image.disk_bytes).collect();
    assert!(sizes[0] > PAGES * PAGE && sizes[1] < 50 * PAGE && sizes[2] < 50 * PAGE, "{sizes:?}");

    // Each can go without the others.
    let removed = store.remove(&id2).unwrap();
    assert!(removed.freed_bytes < 50 * PAGE, "what others need is not freed");
    first.is(&store, &id1);
    third.is(&store, &id3);
    store.remove(&id1).unwrap();
    third.is(&store, &id3);
}

#[test]
fn a_draft_that_fails_or_dies_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, id1) = Program::first(&store);
    let len = std::fs::metadata(store.path_of(&id1).join("pack")).unwrap().len();
    let draft = first.clone().change(&store, &id1, 2, &[1, 2, 3]);
    // Another freeze meanwhile gets a pack of its own.
    let mut other = store.begin(&name()).unwrap();
    assert!(!other.share_pack(&store.open_image(&id1).unwrap()).unwrap());
    drop(other);
    drop(draft);
    assert_eq!(std::fs::metadata(store.path_of(&id1).join("pack")).unwrap().len(), len);
    // As if killed: what it has added stays until the next one.
    let file = std::fs::File::options().write(true).open(store.path_of(&id1).join("pack")).unwrap();
    file.write_all_at(&[9; 12345], len + BLOCK).unwrap();
    drop(file);
    first.is(&store, &id1);
    let mut second = first.clone();
    let draft = second.change(&store, &id1, 2, &[5]);
    let id2 = second.commit(draft);
    second.is(&store, &id2);
    first.is(&store, &id1);
}

#[test]
fn an_export_holds_one_version_only() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, other) = (open(dir.path()), open(elsewhere.path()));
    let (first, id1) = Program::first(&store);
    let mut second = first.clone();
    // Whole blocks, so that none of the first version is left in them.
    let changed: Vec<u64> = (32..96).collect();
    let draft = second.change(&store, &id1, 2, &changed);
    let id2 = second.commit(draft);
    for (program, id) in [(&first, &id1), (&second, &id2)] {
        let mut stream = Vec::new();
        store.export(id, &mut stream).unwrap();
        let imported = other.import(&mut stream.as_slice(), None).unwrap().committed.id;
        program.is(&other, &imported);
        // And once more from there, although parts of it are not there any more.
        let mut again = Vec::new();
        other.export(&imported, &mut again).unwrap();
        assert!(again == stream);
    }
    let old = content(40, 1);
    let pack = std::fs::read(other.path_of(&other.resolve("web").unwrap()).join("pack")).unwrap();
    assert!(!pack.chunks(PAGE as usize).any(|page| page == old), "a page that only the first version had");
}

#[test]
fn what_no_version_needs_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, id1) = Program::first(&store);
    let mut second = first.clone();
    let changed: Vec<u64> = (16..160).collect();
    let draft = second.change(&store, &id1, 2, &changed);
    let id2 = second.commit(draft);
    let plain = GcOptions::default();
    assert_eq!(store.gc(&plain).unwrap().reclaimed_bytes, 0, "both are needed");
    store.remove(&id1).unwrap();
    let before = disk_bytes(&store, &id2, "pack");
    let collected = store.gc(&plain).unwrap();
    assert!(collected.problems.is_empty());
    assert!(collected.reclaimed_bytes >= 128 * PAGE, "{}", collected.reclaimed_bytes);
    assert_eq!(disk_bytes(&store, &id2, "pack"), before - collected.reclaimed_bytes);
    second.is(&store, &id2);
    assert_eq!(store.gc(&plain).unwrap().reclaimed_bytes, 0, "there is no more");
    // It can still be gone on with.
    let mut third = second.clone();
    let draft = third.change(&store, &id2, 3, &[0, 20]);
    let id3 = third.commit(draft);
    third.is(&store, &id3);
    second.is(&store, &id2);
}

#[test]
fn versions_that_share_a_pack_are_compressed_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, id1) = Program::first(&store);
    let mut second = first.clone();
    let draft = second.change(&store, &id1, 2, &[7, 8, 9]);
    let id2 = second.commit(draft);
    let all = GcOptions { compress_after: Some(Duration::ZERO), level: 3, duplicates: false };
    let collected = store.gc(&all).unwrap();
    assert_eq!((collected.compressed.len(), collected.problems.len()), (1, 0));
    for id in [&id1, &id2] {
        assert!(!store.path_of(id).join("pack").exists());
    }
    first.is(&store, &id1);
    second.is(&store, &id2);
    store.remove(&id2).unwrap();
    first.is(&store, &id1);
    // A cold pack is not gone on with.
    let mut draft = store.begin(&name()).unwrap();
    assert!(!draft.share_pack(&store.open_image(&id1).unwrap()).unwrap());
}
