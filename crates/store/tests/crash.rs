//! What holds when a process dies, several work at once, or the disk is full.
//!
//! The processes are this test program again: [`child`] does what the environment says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

#[path = "../../image/tests/sample/mod.rs"]
mod sample;

use frost_store::{Error, GcOptions, ImageId, Instance, Name, OpenOptions, SpaceLimit, Store, Then};
use rustix::fd::AsFd;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const STEPS: [&str; 5] =
    ["store.pack.sync", "store.manifest.write", "store.manifest.sync", "store.rename", "store.renamed"];

/// EDQUOT, as a number.
const EDQUOT: &str = "122";

fn open(path: &Path) -> Store {
    Store::open(&OpenOptions { root: path.to_owned(), trust_owner: false }).unwrap()
}

fn web() -> Name {
    Name::new("web").unwrap()
}

fn pack(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 4096 + i % 251) as u8).collect()
}

fn commit(store: &Store, len: usize) -> Result<ImageId, Error> {
    let mut draft = store.begin(&web())?;
    draft.pack().append(&pack(len))?;
    Ok(draft.commit(&sample::checkpoint(), Instance::default(), Then::End)?.id)
}

/// All images of the store are whole, and nothing else is in it.
fn assert_whole(store: &Store) -> Vec<u32> {
    for image in store.list().unwrap() {
        let problems = store.verify(&image.id).unwrap();
        assert!(problems.is_empty(), "{}: {problems:?}", image.id);
        store.open_image(&image.id).unwrap();
    }
    assert_eq!(std::fs::read_dir(store.path().join("drafts")).unwrap().count(), 0, "nothing is left over");
    store.versions(&web()).unwrap()
}

fn spawn(wrapper: &[&str], job: &str, root: &Path, fail_at: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let test = ["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let mut command = match wrapper {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command.args(test).env("STORE_JOB", job).env("STORE_ROOT", root).env("FROST_FAIL_AT", fail_at);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a job that must succeed.
fn finish(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The jobs of the processes that the tests start.
#[test]
#[ignore = "it is run by the other tests, with a job"]
fn child() {
    let (Ok(job), Ok(root)) = (std::env::var("STORE_JOB"), std::env::var("STORE_ROOT")) else { return };
    let root = Path::new(&root);
    match job.as_str() {
        "commit forever" => loop {
            println!("committed {}", commit(&open(root), 300_000).unwrap().version);
        },
        "commit 12" => (0..12).for_each(|_| drop(commit(&open(root), 100_000).unwrap())),
        "commit one" => println!("committed {}", commit(&open(root), 300_000).unwrap().version),
        "fail" => {
            let error = commit(&open(root), 300_000).unwrap_err();
            println!("failed: {error}");
            let fault = std::env::var("FROST_FAIL_AT").unwrap();
            assert_eq!(error.is_no_space(), fault.ends_with("ENOSPC") || fault.ends_with(EDQUOT));
            assert_eq!(
                matches!(error, Error::NoSpace { limit: SpaceLimit::Quota, .. }),
                fault.ends_with(EDQUOT)
            );
            assert_eq!(assert_whole(&open(root)), [1]);
        }
        "full disk" => full_disk(root),
        "power loss" => power_loss(root),
        "read only" => read_only(root),
        "small files" => small_files(root),
        "duplicates" => duplicates(&root.join("disk/store"), true),
        other => panic!("no such job: {other}"),
    }
}

#[test]
fn a_process_killed_while_it_commits_leaves_whole_images_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut swept = 0;
    let mut present = Vec::new();
    for round in 0..60u64 {
        let mut child = spawn(&[], "commit forever", dir.path(), "");
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        // Wait for a first commit, so that the kill strikes the work and not the start of the program.
        let mut committed = Vec::new();
        let mut line = String::new();
        while committed.is_empty() && lines.read_line(&mut line).unwrap() > 0 {
            committed.extend(line.trim().rsplit_once("committed ").map(|(_, version)| version.to_owned()));
            line.clear();
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        committed.extend(rest.lines().filter_map(|line| line.strip_prefix("committed ")).map(str::to_owned));

        let store = open(dir.path());
        swept += store.swept().len();
        let versions = assert_whole(&store);
        for version in committed {
            assert!(versions.contains(&version.parse().unwrap()), "{version} was committed");
        }
        assert!(present.iter().all(|version| versions.contains(version)), "what was there is there");
        present = versions;
        for version in present.drain(..present.len() - 1) {
            store.remove(&ImageId { name: web(), version }).unwrap();
        }
    }
    assert!(swept > 10, "only {swept} of 60 were killed amid a draft");
}

#[test]
fn a_process_killed_at_a_step_leaves_all_or_nothing() {
    for step in STEPS {
        let dir = tempfile::tempdir().unwrap();
        commit(&open(dir.path()), 50_000).unwrap();
        let output =
            spawn(&[], "commit one", dir.path(), &format!("{step}:kill")).wait_with_output().unwrap();
        assert!(!output.status.success(), "{step}");
        let store = open(dir.path());
        let renamed = step == "store.renamed";
        assert_eq!(store.swept().len(), usize::from(!renamed), "{step}");
        assert_eq!(assert_whole(&store), if renamed { vec![1, 2] } else { vec![1] }, "{step}");
        assert_eq!(commit(&store, 50_000).unwrap().version, if renamed { 3 } else { 2 });
    }
}

#[test]
fn an_error_at_a_step_leaves_the_store_as_it_was() {
    for step in STEPS {
        for errno in ["EIO", "ENOSPC", EDQUOT] {
            let dir = tempfile::tempdir().unwrap();
            commit(&open(dir.path()), 50_000).unwrap();
            finish(spawn(&[], "fail", dir.path(), &format!("{step}:{errno}")));
            assert_eq!(commit(&open(dir.path()), 50_000).unwrap().version, 2);
        }
    }
}

#[test]
fn processes_that_commit_at_once_get_versions_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..5).map(|_| spawn(&[], "commit 12", dir.path(), "")).collect();
    children.into_iter().for_each(|child| drop(finish(child)));
    assert_eq!(assert_whole(&open(dir.path())), (1..=60).collect::<Vec<_>>());
}

#[test]
fn a_full_tmpfs_is_told_and_nothing_is_lost() {
    in_mount("mount -t tmpfs -o size=8m,mode=700 none DIR", "full disk");
}

/// As ext4 allocates blocks when it writes them back, that it is full may show as late as in the sync.
#[test]
fn a_full_ext4_is_told_and_nothing_is_lost() {
    let make =
        "truncate -s 9m DIR/image && mkfs.ext4 -q -m 0 -I 256 DIR/image && mount -o loop DIR/image DIR";
    in_mount(make, "full disk");
}

/// What a device holds at some instant is what is left of a store when the power goes.
#[test]
fn what_was_committed_survives_a_power_loss() {
    let make = "truncate -s 40m DIR/image && mkfs.ext4 -q -m 0 -I 256 DIR/image && mkdir DIR/disk DIR/after && \
                mount -o loop DIR/image DIR/disk && mkdir DIR/disk/store";
    in_mount(make, "power loss");
}

#[test]
fn what_two_images_have_is_found() {
    let dir = tempfile::tempdir().unwrap();
    duplicates(dir.path(), false);
}

#[test]
fn what_two_images_have_lies_on_an_xfs_once() {
    let make = "truncate -s 400m DIR/image && mkfs.xfs -q DIR/image && mkdir DIR/disk && mount -o loop DIR/image DIR/disk && \
                mkdir -m 700 DIR/disk/store";
    in_mount(make, "duplicates");
}

/// Two programs that have much in common, at other places and with other pages between, and one with nothing.
fn duplicates(dir: &Path, shares: bool) {
    let store = open(dir);
    let mut random = 7u64;
    let mut pages = |count: usize| -> Vec<u8> {
        let mut word = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 32) as u32
        };
        (0..count * 1024).flat_map(|_| word().to_le_bytes()).collect()
    };
    let (common, more) = (pages(1000), pages(300));
    let contents = [
        [&common[..], &pages(50)].concat(),
        [&pages(3), &common[..600 * 4096], &vec![0; 90 * 4096], &pages(1), &common[600 * 4096..], &more]
            .concat(),
        // Too short to be of use, and a range that it has twice itself.
        [&pages(200), &common[..9 * 4096], &pages(40), &more[..80 * 4096], &pages(1), &more[..80 * 4096]]
            .concat(),
    ];
    let ids: Vec<ImageId> = contents
        .iter()
        .zip(["one", "two", "three"])
        .map(|(content, name)| {
            let mut draft = store.begin(&Name::new(name).unwrap()).unwrap();
            draft.pack().append(content).unwrap();
            draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap().id
        })
        .collect();
    let how = GcOptions { duplicates: true, ..GcOptions::default() };
    let found = store.gc(&how).unwrap().duplicates.unwrap();
    let expected = (1000 + 80 + 80) * 4096;
    assert_eq!(found.found_bytes, expected);
    for (id, content) in ids.iter().zip(&contents) {
        let image = store.open_image(id).unwrap();
        let pack = image.pack().unwrap();
        image.verify_pack(pack.as_fd()).unwrap();
        let mut read = vec![0; content.len()];
        rustix::io::pread(&pack, &mut read, 0).unwrap();
        assert!(read == *content, "{id}");
    }
    let again = store.gc(&how).unwrap().duplicates.unwrap();
    if shares {
        assert_eq!((found.shared_bytes, again.found_bytes), (expected, 0));
        // A removed one takes nothing along.
        store.remove(&ids[0]).unwrap();
        let image = store.open_image(&ids[1]).unwrap();
        image.verify_pack(image.pack().unwrap().as_fd()).unwrap();
    }
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    in_mount("mount -t tmpfs -o mode=700 none DIR", "read only");
}

fn read_only(dir: &Path) {
    let id = commit(&open(dir), 300_000).unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(dir).output().unwrap();
    assert!(remounted.status.success(), "{}", String::from_utf8_lossy(&remounted.stderr));
    let store = open(dir);
    assert_eq!(assert_whole(&store), [1]);
    store.open_image(&id).unwrap().pack().unwrap();
    store.export(&id, &mut std::io::sink()).unwrap();
    for error in
        [store.begin(&web()).err(), store.remove(&id).err(), store.claim(&id, &Instance::default()).err()]
    {
        let error = error.unwrap();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
        );
    }
    assert_eq!(assert_whole(&store), [1]);
}

/// Runs a job in a mount namespace of its own, so that nothing of it remains, however it ends.
fn in_mount(mount: &str, job: &str) {
    // The probe and the job both begin with an empty directory.
    let run = |last: &dyn Fn(&[&str], &Path)| {
        let dir = tempfile::tempdir().unwrap();
        let mount = mount.replace("DIR", &format!("'{}'", dir.path().display()));
        let mount = format!("PATH=$PATH:/usr/sbin:/sbin; {mount} && exec \"$@\"");
        let user = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
        last(&["unshare", user, "sh", "-c", &mount, "sh"], dir.path());
    };
    let reason = std::cell::RefCell::new(None);
    run(&|wrapper, _| match Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => *reason.borrow_mut() = Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => *reason.borrow_mut() = Some(format!("cannot run unshare: {error}")),
    });
    match reason.into_inner() {
        Some(reason) => eprintln!("skipped: cannot mount a small file system: {reason}"),
        None => run(&|wrapper, dir| println!("{}", finish(spawn(wrapper, job, dir, "")))),
    }
}

/// Commits to a file system in a file, and looks at copies of that file, taken while nothing moves.
fn power_loss(dir: &Path) {
    let run = |command: &str| {
        let command = command.replace("DIR", &format!("'{}'", dir.display()));
        let output = Command::new("sh").arg("-c").arg(&command).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let store = dir.join("disk/store");
    let mut lost_drafts = 0;
    for round in 0..20u64 {
        let mut child = spawn(&[], "commit forever", &store, "");
        let lines = BufReader::new(child.stdout.take().unwrap());
        let committed: Arc<Mutex<Vec<u32>>> = Arc::default();
        let seen = Arc::clone(&committed);
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some((_, version)) = line.rsplit_once("committed ") {
                    seen.lock().unwrap().push(version.parse().unwrap());
                }
            }
        });
        while committed.lock().unwrap().len() < 2 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let committed_then = committed.lock().unwrap().clone();
        // What lies in the page cache of the inner file system only is not in this copy.
        run("cp --sparse=always DIR/image DIR/copy");
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();

        run("mount -o loop DIR/copy DIR/after");
        let after = open(&dir.join("after/store"));
        lost_drafts += after.swept().len();
        let versions = assert_whole(&after);
        for version in committed_then {
            assert!(versions.contains(&version), "version {version} was committed, and is lost");
        }
        drop(after);
        run("umount DIR/after");
        // Make room, and begin each round with as little.
        drop(open(&store).remove_name(&web()));
    }
    println!("{lost_drafts} drafts were found after 20 power losses");
}

/// In a file system of about 8 MiB.
fn full_disk(root: &Path) {
    let store = open(root);
    let free = store.free_bytes();
    assert!(free > 6 << 20 && free < 9 << 20, "{free} bytes are free, so this is not the small disk");
    commit(&store, 1 << 20).unwrap();

    let mut draft = store.begin(&web()).unwrap();
    assert!(matches!(draft.pack().require_space(64 << 20), Err(Error::NoSpace { .. })));
    draft.pack().require_space(1 << 20).unwrap();
    draft.pack().reserve(2 << 20);
    draft.pack().require_reserved().unwrap();
    draft.pack().reserve(64 << 20);
    assert!(
        matches!(draft.pack().require_reserved(), Err(Error::NoSpace { needed_bytes, .. }) if needed_bytes >= 66 << 20)
    );
    drop(draft);
    let mut draft = store.begin(&web()).unwrap();
    let error = loop {
        if let Err(error) = draft.pack().append(&pack(1 << 20)) {
            break error;
        }
    };
    let full = |error: &Error| matches!(error, Error::NoSpace { limit: SpaceLimit::FileSystem, needed_bytes, .. } if *needed_bytes > 0);
    assert!(full(&error), "{error}");
    println!("append: {error}");
    drop(draft);
    assert_eq!(assert_whole(&store), [1]);

    // To the last page, so that there is none for the manifest.
    let mut draft = store.begin(&web()).unwrap();
    while draft.pack().append(&[1; 4096]).is_ok() {}
    let error = draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap_err();
    assert!(full(&error), "{error}");
    println!("commit: {error}");
    assert_eq!(assert_whole(&store), [1]);

    // What was freed is of use again.
    let large = commit(&store, 4 << 20).unwrap();
    let mut stream = Vec::new();
    store.export(&large, &mut stream).unwrap();
    let error = store.import(&mut stream.as_slice(), None).unwrap_err();
    assert!(full(&error), "{error}");
    println!("import: {error}");
    assert_eq!(assert_whole(&store), [1, 2]);

    let done =
        store.gc(&GcOptions { compress_after: Some(Duration::ZERO), level: 3, duplicates: false }).unwrap();
    assert_eq!(done.compressed.len(), 2, "{:?}", done.problems);
    commit(&store, 4 << 20).unwrap();
    let error = store.open_image(&large).unwrap().pack().unwrap_err();
    assert!(full(&error), "{error}");
    println!("inflate: {error}");
    assert_eq!(assert_whole(&store), [1, 2, 3]);

    // A disk without room for anything can still be freed.
    let file = std::fs::File::create(root.join("filler")).unwrap();
    let mut at = 0;
    while rustix::io::pwrite(&file, &[1; 4096], at).is_ok() {
        at += 4096;
    }
    let error = commit(&store, 50_000).unwrap_err();
    assert!(full(&error), "{error}");
    store.remove(&large).unwrap();
    store.remove_name(&web()).unwrap();
    std::fs::remove_file(root.join("filler")).unwrap();
    assert_eq!(assert_whole(&store), []);
}

#[test]
fn a_limit_of_file_sizes_is_told_and_does_not_end_us() {
    let dir = tempfile::tempdir().unwrap();
    commit(&open(dir.path()), 50_000).unwrap();
    finish(spawn(&["sh", "-c", "ulimit -f 200; exec \"$@\"", "sh"], "small files", dir.path(), ""));
    finish(spawn(&["sh", "-c", "ulimit -f 2; exec \"$@\"", "sh"], "small files", dir.path(), ""));
    assert_eq!(assert_whole(&open(dir.path())), [1]);
}

fn small_files(root: &Path) {
    let store = open(root);
    let mut draft = store.begin(&web()).unwrap();
    let limited = |error: Error| {
        assert!(matches!(error, Error::NoSpace { limit: SpaceLimit::FileSize, .. }), "{error}");
    };
    limited(draft.pack().require_space(1 << 20).unwrap_err());
    limited(draft.pack().append(&pack(1 << 20)).unwrap_err());
    drop(draft);
    limited(commit(&store, 150_000).unwrap_err());
    assert_eq!(assert_whole(&store), [1]);
}
