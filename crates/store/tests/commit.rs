//! Drafts become images: whole, in ascending versions, or not at all.
#![allow(clippy::unwrap_used, reason = "this is a test")]

#[path = "../../image/tests/sample/mod.rs"]
mod sample;

use frost_store::{Error, ImageId, Instance, Name, OpenOptions, State, Store, Then, observe};
use rustix::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn open(path: &Path) -> Store {
    Store::open(&OpenOptions { root: path.to_owned(), trust_owner: false }).unwrap()
}

fn commit(store: &Store, name: &str, pack: &[u8]) -> ImageId {
    let mut draft = store.begin(&Name::new(name).unwrap()).unwrap();
    assert_eq!(draft.pack().append(pack).unwrap(), 0);
    draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap().id
}

fn pages(count: usize) -> Vec<u8> {
    (0..count * 4096).map(|i| (i / 512 + i) as u8).collect()
}

#[test]
fn a_committed_image_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("deep/store"));
    let bytes = pages(600);
    let mut draft = store.begin(&Name::new("web").unwrap()).unwrap();
    assert_eq!(draft.pack().append(&bytes[..5000]).unwrap(), 0);
    let at = draft.pack().reserve(2_000_001);
    assert_eq!(at, 8192);
    assert_eq!(draft.pack().append(&bytes[..1]).unwrap(), 8192 + 2_002_944);
    rustix::io::pwrite(draft.pack().file(), &bytes[..2_000_001], at).unwrap();
    draft.pack().filled(u64::MAX);
    let tail = draft.pack().reserve(10_000);
    let end = tail + 12288;
    assert_eq!(draft.pack().len_bytes(), end);
    let committed = draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap();
    assert_eq!(committed.id.to_string(), "web@1");

    let store = open(&dir.path().join("deep/store"));
    assert_eq!(store.swept(), []);
    let image = store.open_image(&store.resolve("web").unwrap()).unwrap();
    assert_eq!(*image.checkpoint(), sample::checkpoint());
    assert_eq!(image.header().processes, 2);
    assert_eq!(image.header().threads, 2);
    assert_eq!(image.header().command, "sample --n\u{fffd}n-utf8");
    let pack = image.pack().unwrap();
    image.verify_pack(pack.as_fd()).unwrap();
    let mut read = vec![1; end as usize];
    rustix::io::pread(&pack, &mut read, 0).unwrap();
    assert_eq!(read[..5000], bytes[..5000]);
    assert_eq!(read[8192..8192 + 2_000_001], bytes[..2_000_001]);
    assert!(read[tail as usize..].iter().all(|byte| *byte == 0));
    assert_eq!(image.header().pack.root, frost_image::Digest::of(&read), "the root is the hash of the pack");

    let flat = store.path_of(image.id());
    for file in ["manifest", "pack"] {
        assert_eq!(std::fs::metadata(flat.join(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(store.path().join("drafts")).unwrap().count(), 0);
}

#[test]
fn holes_count_as_zeros_and_a_file_of_others_gets_a_second_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let path = dir.path().join("memory");
    let memory = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let bytes = pages(3);
    let len_bytes = 40 << 20;
    memory.set_len(len_bytes + 5000).unwrap();
    // Amid a block, across two, at the end; and some behind the end that is meant.
    for offset in [5 << 20, (9 << 20) + 65536 - 4096, len_bytes - 12288, len_bytes] {
        rustix::io::pwrite(&memory, &bytes[..12288.min((len_bytes + 5000 - offset) as usize)], offset)
            .unwrap();
    }
    let begin = || store.begin_over(&Name::new("vm").unwrap(), &path, len_bytes).unwrap();
    // Dropped, it leaves the file as it was, but for its end.
    drop(begin());
    assert_eq!(memory.metadata().unwrap().len(), len_bytes);
    let mut draft = begin();
    draft.pack().filled(len_bytes);
    let more = draft.pack().append(&bytes).unwrap();
    assert_eq!(more, len_bytes);
    let id = draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap().id;
    assert!(store.verify(&id).unwrap().is_empty());
    let image = store.open_image(&id).unwrap();
    let mut read = vec![1; len_bytes as usize + bytes.len()];
    rustix::io::pread(image.pack().unwrap(), &mut read, 0).unwrap();
    assert_eq!(image.header().pack.root, frost_image::Digest::of(&read));
    assert_eq!(read[5 << 20..][..12288], bytes[..]);
    assert!(read[..5 << 20].iter().all(|byte| *byte == 0));
}

#[test]
fn versions_ascend_and_resolve() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for version in 1..=11 {
        assert_eq!(commit(&store, "web", &pages(7)).version, version);
    }
    assert_eq!(commit(&store, "other", &pages(7)).version, 1);
    assert_eq!(store.resolve("web").unwrap().version, 11, "the newest, by number and not by text");
    assert_eq!(store.resolve("web@2").unwrap().version, 2);
    assert!(
        matches!(store.resolve("web@12"), Err(Error::NoSuchImage { versions, .. }) if versions.len() == 11)
    );
    assert!(
        matches!(store.resolve("nobody"), Err(Error::NoSuchImage { versions, .. }) if versions.is_empty())
    );
    assert!(matches!(store.resolve("../web"), Err(Error::Name { .. })));
    assert!(matches!(store.resolve("12"), Err(Error::Name { .. })));
}

#[test]
fn a_dropped_draft_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut draft = store.begin(&Name::new("web").unwrap()).unwrap();
    draft.pack().append(&pages(1000)).unwrap();
    assert_eq!(open(dir.path()).swept(), [], "its process lives");
    drop(draft);
    assert_eq!(std::fs::read_dir(dir.path().join("drafts")).unwrap().count(), 0);
    assert!(store.resolve("web").is_err());
}

#[test]
fn a_checkpoint_that_contradicts_itself_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut draft = store.begin(&Name::new("web").unwrap()).unwrap();
    draft.pack().append(&pages(6)).unwrap();
    let result = draft.commit(&sample::checkpoint(), Instance::default(), Then::End);
    assert!(matches!(result, Err(Error::Image { .. })), "a run reaches beyond the pack");
    assert!(store.resolve("web").is_err());
    assert_eq!(std::fs::read_dir(dir.path().join("drafts")).unwrap().count(), 0);
}

#[test]
fn a_store_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { root: dir.path().to_owned(), trust_owner: false };
    for mode in [0o770, 0o707, 0o722] {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let error = Store::open(&options).unwrap_err();
        assert!(
            matches!(&error, Error::Writable { path, mode: found } if path == dir.path() && *found == mode)
        );
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let store = Store::open(&options).unwrap();
    let id = commit(&store, "web", &pages(7));
    let pack = store.path_of(&id).join("pack");
    std::fs::set_permissions(&pack, std::fs::Permissions::from_mode(0o620)).unwrap();
    let image = store.open_image(&id).unwrap();
    assert!(matches!(image.pack(), Err(Error::Writable { path, .. }) if path == pack));
}

#[test]
fn a_directory_of_something_else_does_not_become_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { root: dir.path().to_owned(), trust_owner: false };
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let stray = dir.path().join("passwd");
    std::fs::write(&stray, "").unwrap();
    let error = Store::open(&options).unwrap_err();
    assert!(matches!(&error, Error::NoStore { found, .. } if found == "passwd"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    std::fs::remove_file(&stray).unwrap();
    let store = Store::open(&options).unwrap();
    // One that is a store stays it, whatever is put there.
    std::fs::write(&stray, "").unwrap();
    let id = commit(&store, "web", &pages(7));
    assert!(Store::open(&options).unwrap().open_image(&id).is_ok());
}

#[test]
fn a_store_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make a store of another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(1234), Some(1234)).unwrap();
    let options = |trust_owner| OpenOptions { root: dir.path().to_owned(), trust_owner };
    assert!(matches!(Store::open(&options(false)), Err(Error::OtherOwner { owner: 1234, user: 0, .. })));
    let store = Store::open(&options(true)).unwrap();
    let id = commit(&store, "web", &pages(7));
    store.open_image(&id).unwrap();
    let manifest = std::fs::metadata(store.path_of(&id).join("manifest")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&manifest), 1234, "what root makes there is the owner's");
}

#[test]
fn damage_is_located() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = commit(&store, "web", &pages(100));
    let pack = store.path_of(&id).join("pack");
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[3 * 65536 + 17] ^= 4;
    std::fs::write(&pack, &bytes).unwrap();
    let image = store.open_image(&id).unwrap();
    let file = image.pack().unwrap();
    let error = image.verify_pack(file.as_fd()).unwrap_err();
    assert!(
        matches!(error, Error::BlockDamaged { block: 3, offset: 196_608, len_bytes: 65536, .. }),
        "{error}"
    );
    let blocks = image.blocks().unwrap();
    blocks.verify(file.as_fd(), 0..3 * 65536).unwrap();
    blocks.verify(file.as_fd(), 4 * 65536..u64::MAX).unwrap();
    blocks.verify(file.as_fd(), 3 * 65536..3 * 65536 + 1).unwrap_err();

    std::fs::write(&pack, &bytes[..70_000]).unwrap();
    let cut = image.pack().unwrap_err();
    assert!(matches!(cut, Error::Image { source: frost_image::Error::CutShort { .. }, .. }), "{cut}");
}

#[test]
fn a_program_never_runs_twice_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ours = observe(std::process::id() as i32).unwrap().unwrap();
    let id = commit(&store, "web", &pages(7));
    assert_eq!(store.state(&id).unwrap(), State::Frozen);
    store.claim(&id, &ours).unwrap();
    assert_eq!(store.state(&id).unwrap(), State::Running(ours.clone()));
    assert_eq!(store.thawed_from(&ours).unwrap(), Some(id.clone()));
    let another = Instance { pid: 1, ..ours.clone() };
    assert!(matches!(store.claim(&id, &another), Err(Error::Runs { instance, .. }) if instance == ours));
    store.release(&id).unwrap();
    assert_eq!(store.state(&id).unwrap(), State::Frozen);
    store.claim(&id, &another).unwrap();
    assert_eq!(store.state(&id).unwrap(), State::Frozen, "there is no process 1 that began when we did");
    store.claim(&id, &ours).unwrap();
    std::fs::write(store.path_of(&id).join("state"), b"runn").unwrap();
    assert_eq!(store.state(&id).unwrap(), State::Frozen, "a torn mark denotes no process");
}

#[test]
fn a_superseded_image_is_replaced_by_the_next_freeze() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ours = observe(std::process::id() as i32).unwrap().unwrap();
    let freeze = |then| {
        let mut draft = store.begin(&Name::new("web").unwrap()).unwrap();
        draft.pack().append(&pages(7)).unwrap();
        draft.commit(&sample::checkpoint(), ours.clone(), then).unwrap()
    };
    let snapshot = freeze(Then::GoOn).id;
    assert_eq!(store.state(&snapshot).unwrap(), State::Running(ours.clone()));
    let first = freeze(Then::End).id;
    assert_eq!(store.state(&first).unwrap(), State::Superseded(ours.clone()));
    assert!(matches!(store.claim(&first, &Instance::default()), Err(Error::Runs { .. })));
    let second = freeze(Then::End);
    assert_eq!(second.id.version, 3);
    assert_eq!(second.replaced, std::slice::from_ref(&first));
    assert_eq!(store.versions(&first.name).unwrap(), [1, 3], "a snapshot stays");
    assert_eq!(std::fs::read_dir(dir.path().join("drafts")).unwrap().count(), 0);
}

#[test]
fn of_many_that_thaw_one_image_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = commit(&store, "web", &pages(7));
    // Ten processes, each of which would be the program.
    let mut children: Vec<_> =
        (0..10).map(|_| std::process::Command::new("sleep").arg("60").spawn().unwrap()).collect();
    let instances: Vec<_> =
        children.iter().map(|child| observe(child.id() as i32).unwrap().unwrap()).collect();
    let won: usize = std::thread::scope(|scope| {
        let claims: Vec<_> = instances
            .iter()
            .map(|instance| {
                let (store, id) = (open(dir.path()), &id);
                scope.spawn(move || usize::from(store.claim(id, instance).is_ok()))
            })
            .collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).sum()
    });
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(won, 1);
    assert_eq!(store.state(&id).unwrap(), State::Frozen, "and it has ended");
}

#[test]
fn bytes_that_were_hashed_and_are_written_once_more_are_hashed_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut draft = store.begin(&Name::new("web").unwrap()).unwrap();
    let len = 5 << 20;
    let at = draft.pack().reserve(len);
    rustix::io::pwrite(draft.pack().file(), &pages(len as usize / 4096), at).unwrap();
    draft.pack().filled(u64::MAX);
    // Some while the others are hashed, in the first and in the last block, which is cut short by what follows.
    for round in 0..50u64 {
        for place in [0, 65_536 * (round % 70) + 4096, len - 4096] {
            rustix::io::pwrite(draft.pack().file(), &[round as u8; 4096], place).unwrap();
            draft.pack().changed(place, 4096);
        }
    }
    draft.pack().append(b"end").unwrap();
    let committed = draft.commit(&sample::checkpoint(), Instance::default(), Then::GoOn).unwrap();
    let image = store.open_image(&committed.id).unwrap();
    image.verify_pack(image.pack().unwrap().as_fd()).unwrap();
}
