//! What becomes of images: listed, removed, verified, compressed, exported, imported.
#![allow(clippy::unwrap_used, reason = "this is a test")]

#[path = "../../image/tests/sample/mod.rs"]
mod sample;

use frost_store::{Error, GcOptions, ImageId, Instance, Name, OpenOptions, State, Store, Then, observe};
use proptest::prelude::*;
use rustix::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

fn open(path: &Path) -> Store {
    Store::open(&OpenOptions { root: path.to_owned(), trust_owner: false }).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn commit(store: &Store, name: &str, pack: &[u8]) -> ImageId {
    let mut draft = store.begin(&Name::new(name).unwrap()).unwrap();
    draft.pack().append(pack).unwrap();
    draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap().id
}

/// Bytes that compress to about a quarter, with a hole in the middle.
fn pack(pages: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes: Vec<u8> = (0..pages * 4096)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 4 == 0 { (state >> 24) as u8 } else { 7 }
        })
        .collect();
    let middle = bytes.len() / 2;
    bytes[middle..][..(pages / 8) * 4096].fill(0);
    bytes
}

fn read(store: &Store, id: &ImageId) -> Vec<u8> {
    let image = store.open_image(id).unwrap();
    assert_eq!(*image.checkpoint(), sample::checkpoint());
    let file = image.pack().unwrap();
    image.verify_pack(file.as_fd()).unwrap();
    let mut bytes = vec![0; image.header().pack.len_bytes as usize];
    std::fs::File::from(file).read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn exported(store: &Store, id: &ImageId) -> Vec<u8> {
    let mut stream = Vec::new();
    store.export(id, &mut stream).unwrap();
    stream
}

fn drafts(store: &Store) -> usize {
    std::fs::read_dir(store.path().join("drafts")).unwrap().count()
}

const ALL: GcOptions = GcOptions { compress_after: Some(Duration::ZERO), level: 3, duplicates: false };

#[test]
fn a_list_tells_of_each_image_even_of_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.list().unwrap().is_empty());
    for which in ["web", "db", "web"] {
        commit(&store, which, &pack(50));
    }
    std::fs::write(store.path_of(&store.resolve("db").unwrap()).join("manifest"), b"not one").unwrap();
    let list = store.list().unwrap();
    assert_eq!(list.iter().map(|image| image.id.to_string()).collect::<Vec<_>>(), ["db@1", "web@1", "web@2"]);
    assert!(list[0].header.as_ref().unwrap_err().is_bad_image());
    let header = list[2].header.as_ref().unwrap();
    assert_eq!((header.processes, header.created.sec), (2, 1_700_000_000));
    assert_eq!((list[2].cold, &list[2].state), (false, &State::Frozen));
    assert!(list[2].disk_bytes >= 50 * 4096);
}

#[test]
fn a_version_is_not_given_twice_while_its_name_lives() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids: Vec<_> = (0..3).map(|_| commit(&store, "web", &pack(7))).collect();
    let removed = store.remove(&ids[2]).unwrap();
    assert_eq!(removed.ids, [ids[2].clone()]);
    assert!(removed.freed_bytes > 0);
    assert!(matches!(store.remove(&ids[2]), Err(Error::NoSuchImage { versions, .. }) if versions == [1, 2]));
    assert_eq!(commit(&store, "web", &pack(7)).version, 4);
    for version in [1, 2, 4] {
        store.remove(&ImageId { name: name("web"), version }).unwrap();
    }
    assert!(matches!(store.resolve("web"), Err(Error::NoSuchImage { .. })));
    assert_eq!(commit(&open(dir.path()), "web", &pack(7)).version, 5);
    assert_eq!(store.remove_name(&name("web")).unwrap().ids.len(), 1);
    assert!(matches!(store.remove_name(&name("web")), Err(Error::NoSuchImage { .. })));
    assert_eq!(commit(&store, "web", &pack(7)).version, 1, "the name died, so did its versions");
    assert_eq!(drafts(&store), 0);
}

#[test]
fn an_image_that_is_being_read_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = commit(&store, "web", &pack(100));
    let image = store.open_image(&id).unwrap();
    let file = image.pack().unwrap();
    store.remove(&id).unwrap();
    image.verify_pack(file.as_fd()).unwrap();
}

#[test]
fn verify_names_the_damaged_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let bytes = pack(1000);
    let id = commit(&store, "web", &bytes);
    assert!(store.verify(&id).unwrap().is_empty());
    let file = std::fs::OpenOptions::new().write(true).open(store.path_of(&id).join("pack")).unwrap();
    for offset in [5, 70_000, 3_000_000] {
        file.write_all_at(&[!bytes[offset as usize]], offset).unwrap();
    }
    let blocks: Vec<_> = store
        .verify(&id)
        .unwrap()
        .into_iter()
        .map(|problem| match problem {
            Error::BlockDamaged { block, .. } => block,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(blocks, [0, 1, 45]);
    assert!(store.gc(&ALL).unwrap().problems.len() == 1, "what is damaged is not compressed");
    let error = store.export(&id, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::BlockDamaged { block: 0, .. }));
    std::fs::remove_file(store.path_of(&id).join("pack")).unwrap();
    assert!(store.verify(&id).unwrap()[0].to_string().contains("is missing"));
}

#[test]
fn a_cold_image_is_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let bytes = pack(1000);
    let id = commit(&store, "web", &bytes);
    let open_before = store.open_image(&id).unwrap().pack().unwrap();
    let before = std::fs::metadata(store.path_of(&id).join("pack")).unwrap().blocks();
    let done = store.gc(&ALL).unwrap();
    assert_eq!(done.compressed.len(), 1);
    assert_eq!(done.compressed[0].before_bytes, before * 512);
    assert!(done.compressed[0].after_bytes < before * 512 / 2);
    assert_eq!(done.freed_bytes, done.compressed[0].before_bytes - done.compressed[0].after_bytes);
    assert!(store.list().unwrap()[0].cold);
    assert!(!store.path_of(&id).join("pack").exists());
    assert_eq!(read(&store, &id), bytes);
    assert!(store.verify(&id).unwrap().is_empty());
    assert!(store.gc(&ALL).unwrap().compressed.is_empty(), "it is compressed once");
    assert_eq!(drafts(&store), 0);
    drop(open_before);

    let cold = store.path_of(&id).join("pack.zst");
    let size = std::fs::metadata(&cold).unwrap().len();
    let stored = std::fs::read(&cold).unwrap();
    for at in [0, size / 2, size - 30, size - 1] {
        let mut damaged = stored.clone();
        damaged[at as usize] ^= 0x10;
        std::fs::write(&cold, &damaged).unwrap();
        assert!(store.open_image(&id).unwrap().pack().is_err(), "byte {at}");
        assert_eq!(store.verify(&id).unwrap().len(), 1, "byte {at}");
    }
    std::fs::write(&cold, &stored[..100]).unwrap();
    assert!(store.open_image(&id).unwrap().pack().is_err());
}

#[test]
fn a_cold_pack_is_what_zstd_decompresses() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let bytes = pack(700);
    let id = commit(&store, "web", &bytes);
    store.gc(&ALL).unwrap();
    let output =
        std::process::Command::new("zstd").arg("-dcq").arg(store.path_of(&id).join("pack.zst")).output();
    match output {
        Ok(output) => assert!(output.status.success() && output.stdout == bytes),
        Err(error) => eprintln!("skipped: cannot run zstd: {error}"),
    }
}

#[test]
fn what_does_not_shrink_or_is_not_cold_stays_raw() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut noise = vec![0; 3 << 20];
    rustix::rand::getrandom(&mut noise, rustix::rand::GetRandomFlags::empty()).unwrap();
    commit(&store, "noise", &noise);
    let running = commit(&store, "running", &pack(100));
    store.claim(&running, &observe(std::process::id() as i32).unwrap().unwrap()).unwrap();
    let done = store.gc(&ALL).unwrap();
    assert!(done.compressed.is_empty() && done.problems.is_empty());
    let thawed = commit(&store, "thawed", &pack(100));
    store.claim(&thawed, &Instance::default()).unwrap();
    let hour = GcOptions { compress_after: Some(Duration::from_secs(3600)), ..GcOptions::default() };
    assert!(store.gc(&hour).unwrap().compressed.is_empty(), "it was thawed just now");
    assert!(store.gc(&GcOptions::default()).unwrap().compressed.is_empty());
    assert_eq!(store.gc(&ALL).unwrap().compressed.len(), 1);
    assert_eq!(drafts(&store), 0);
}

#[test]
fn an_exported_image_is_imported_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(from.path()), open(to.path()));
    let bytes = pack(1000);
    for _ in 0..2 {
        commit(&from, "web", &bytes);
    }
    let id = commit(&from, "web", &bytes);
    let hot = exported(&from, &id);
    from.gc(&ALL).unwrap();
    let cold = exported(&from, &id);

    let first = to.import(&mut hot.as_slice(), None).unwrap();
    assert_eq!(first.exported, id);
    assert_eq!(first.committed.id, id, "the version is kept where it can be");
    let second = to.import(&mut cold.as_slice(), None).unwrap();
    assert_eq!(
        (second.exported, second.committed.id.version),
        (id, 4),
        "and is the next one where it cannot"
    );
    let other = to.import(&mut hot.as_slice(), Some(&name("other"))).unwrap();
    assert_eq!(other.committed.id.to_string(), "other@3");
    for image in to.list().unwrap() {
        assert_eq!(read(&to, &image.id), bytes);
        assert!(to.verify(&image.id).unwrap().is_empty());
    }
    let again = exported(&to, &first.committed.id);
    assert!(again == hot, "the same image is the same stream");
    let sparse = std::fs::metadata(to.path_of(&first.committed.id).join("pack")).unwrap();
    assert!(sparse.blocks() * 512 < sparse.len(), "blocks of zeros are holes");
}

#[test]
fn a_stream_goes_through_a_pipe() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(from.path()), open(to.path()));
    let id = commit(&from, "web", &pack(1000));
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let sender = std::thread::spawn(move || from.export(&id, &mut writer));
    to.import(&mut reader, None).unwrap();
    sender.join().unwrap().unwrap();
}

#[test]
fn a_stream_that_is_cut_or_changed_imports_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = commit(&store, "web", &pack(300));
    let stream = exported(&store, &id);
    store.remove_name(&id.name).unwrap();
    let step = stream.len() / 200;
    for len in (0..stream.len()).step_by(step).chain([511, 512, 527, 528, stream.len() - 1]) {
        let error = store.import(&mut &stream[..len], None).unwrap_err();
        let cut = matches!(error, Error::Image { source: frost_image::Error::CutShort { .. }, .. });
        assert!(cut, "{len} bytes: {error:?}");
    }
    for at in (0..stream.len()).step_by(step).chain(16..528) {
        let mut changed = stream.clone();
        changed[at] ^= 0x40;
        let error = store.import(&mut changed.as_slice(), None).unwrap_err();
        assert!(error.is_bad_image(), "byte {at}: {error:?}");
    }
    for junk in [b"junk\n".as_slice(), b"\x89PNG\r\n\x1a\n", &[0; 600]] {
        let error = store.import(&mut &*junk, None).unwrap_err();
        assert!(matches!(error, Error::Image { source: frost_image::Error::NotAnImage, .. }), "{error:?}");
    }
    let mut longer = stream.clone();
    longer.push(0);
    assert!(store.import(&mut longer.as_slice(), None).unwrap_err().is_bad_image());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(drafts(&store), 0);
    store.import(&mut stream.as_slice(), None).unwrap();
}

#[test]
fn enormous_sizes_in_a_stream_are_only_claims() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = commit(&store, "web", &pack(300));
    let stream = exported(&store, &id);
    let header = frost_image::Header::decode(&stream[16..]).unwrap();
    let claim = |change: &dyn Fn(&mut frost_image::Header)| {
        let mut header = header.clone();
        change(&mut header);
        let mut stream = stream.clone();
        stream[16..528].copy_from_slice(&header.encode());
        store.import(&mut stream.as_slice(), None).unwrap_err()
    };
    let huge = claim(&|header| header.manifest_bytes = u64::MAX);
    assert!(matches!(huge, Error::Image { source: frost_image::Error::TooLarge { .. }, .. }), "{huge}");
    let huge = claim(&|header| {
        header.pack.len_bytes = frost_image::PACK_LIMIT_BYTES;
        header.pack.blocks = frost_image::Blocks::count_for(header.pack.len_bytes);
    });
    assert!(huge.is_bad_image(), "{huge}");
    let long = claim(&|header| header.manifest_bytes = 1 << 30);
    assert!(matches!(long, Error::Image { source: frost_image::Error::CutShort { .. }, .. }), "{long}");
    assert_eq!(drafts(&store), 0);
}

#[test]
fn gc_removes_what_has_no_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = commit(&store, "web", &pack(7));
    std::fs::remove_file(store.path_of(&id).join("manifest")).unwrap();
    let kept = commit(&store, "web", &pack(7));
    let leftover = dir.path().join("drafts/freeze.1.0123.web");
    std::fs::create_dir(&leftover).unwrap();
    std::fs::write(leftover.join("pack"), vec![1; 100_000]).unwrap();
    let done = store.gc(&GcOptions::default()).unwrap();
    assert_eq!(done.strays, [id]);
    assert_eq!((done.leftovers[0].doing.as_str(), done.leftovers[0].name.as_str()), ("freeze", "web"));
    assert!(done.freed_bytes >= 100_000);
    assert_eq!(store.versions(&kept.name).unwrap(), [2]);
    assert_eq!(drafts(&store), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// However a pack is put together, it reads back as written, hot, cold, and imported.
    #[test]
    fn packs_of_all_shapes_survive(parts in prop::collection::vec((0usize..300_000, any::<bool>(), any::<u8>()), 0..8)) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut draft = store.begin(&name("web")).unwrap();
        let mut expected = pack(7);
        draft.pack().append(&expected).unwrap();
        for (len, reserved, fill) in parts {
            let bytes = vec![fill; len];
            let offset = if reserved {
                let offset = draft.pack().reserve(len as u64);
                rustix::io::pwrite(draft.pack().file(), &bytes, offset).unwrap();
                draft.pack().filled(offset + len as u64);
                offset
            } else {
                draft.pack().append(&bytes).unwrap()
            };
            prop_assert_eq!(offset as usize, expected.len());
            expected.extend_from_slice(&bytes);
            expected.resize(expected.len().next_multiple_of(4096), 0);
        }
        let id = draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap().id;
        prop_assert!(read(&store, &id) == expected);
        let hot = exported(&store, &id);
        store.gc(&ALL).unwrap();
        prop_assert!(read(&store, &id) == expected);
        let imported = store.import(&mut hot.as_slice(), Some(&name("copy"))).unwrap();
        prop_assert!(read(&store, &imported.committed.id) == expected);
    }
}
