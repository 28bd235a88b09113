//! Images that were written once are read for ever.
//!
//! `golden/v1.frost` is what `frost export` made of the sample checkpoint. Until the first release the model may change
//! under it; then it is written anew by `FROST_GOLDEN=write cargo test -p frost-store --test golden`, and the change is
//! one of the format. After the release it stays, beside those of later versions.
#![allow(clippy::unwrap_used, reason = "this is a test")]

#[path = "../../image/tests/sample/mod.rs"]
mod sample;

use frost_store::{Instance, Name, OpenOptions, Store, Then};
use rustix::fd::AsFd;
use std::path::Path;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.frost");

fn open(path: &Path) -> Store {
    Store::open(&OpenOptions { root: path.to_owned(), trust_owner: false }).unwrap()
}

fn pack() -> Vec<u8> {
    (0..40 * 4096u32).map(|at| (at / 64) as u8).collect()
}

fn write(path: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut draft = store.begin(&Name::new("golden").unwrap()).unwrap();
    draft.pack().append(&pack()).unwrap();
    let origin = Instance {
        pid: 4127,
        start_time: 812_345,
        pid_namespace: 4_026_531_836,
        boot_id: sample::checkpoint().host.boot_id,
    };
    let id = draft.commit(&sample::checkpoint(), origin, Then::End).unwrap().id;
    store.export(&id, &mut std::fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn an_image_of_version_1_is_read() {
    if std::env::var("FROST_GOLDEN").is_ok_and(|what| what == "write") {
        write(GOLDEN);
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = store.import(&mut std::fs::File::open(GOLDEN).unwrap(), None).unwrap().committed.id;
    assert!(store.verify(&id).unwrap().is_empty());
    let image = store.open_image(&id).unwrap();
    assert_eq!((image.header().format, image.header().processes), (1, 2));
    assert_eq!(
        (image.header().origin.pid, image.header().command.as_str()),
        (4127, "sample --n\u{fffd}n-utf8")
    );
    assert_eq!(
        *image.checkpoint(),
        sample::checkpoint(),
        "the model changed since the image was written; before the first release: \
         FROST_GOLDEN=write cargo test -p frost-store --test golden"
    );
    let mut read = vec![0; pack().len()];
    let file = image.pack().unwrap();
    image.verify_pack(file.as_fd()).unwrap();
    rustix::io::pread(&file, &mut read, 0).unwrap();
    assert!(read == pack());
}
