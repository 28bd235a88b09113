//! Programs that earlier versions of frost froze are thawed by this one.
//!
//! `golden/vN.frost` is an image of format N, as `frost export` made it, and `golden/vN` the program that it was made of:
//! `program.c`, which needs nothing of a host but the kernel. Facts of the machine it was frozen on, by which a thaw elsewhere
//! is refused, were taken out of the image (its vDSO, its processor, its limits). The program lay in `/mnt`; a mount namespace
//! gives every test one of its own, and a user namespace lets an ordinary user have it.
//!
//! `FROST_GOLDEN=write cargo test -p frost-tests --test golden` makes the image of the present format, as root. Until the first
//! release a change of the format replaces it; then it stays for ever.

use frost_image::FORMAT;
use frost_model::Checkpoint;
use frost_model::rm::Attachment;
use frost_store::{Instance, Name, OpenOptions, Store, Then};
use frost_tests::{LIMIT, Scene, Who, is_root, skip};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Runs a script as root of namespaces of its own, in which `/mnt` is empty and pids are free.
fn apart(scene: &Scene, script: &str) -> frost_tests::Outcome {
    let mut command = scene.command("unshare");
    if scene.who() == Who::Ordinary || !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-ec"]);
    command.arg(format!("mount -t tmpfs golden /mnt; {script}"));
    scene.run(&mut command, LIMIT)
}

/// Returns whether such namespaces can be had; tells if they cannot.
fn can_be_apart(scene: &Scene) -> bool {
    let tried = apart(scene, "true");
    if tried.status != Some(0) {
        skip(&format!("no namespaces of its own for /mnt: {}", tried.stderr.trim()));
    }
    tried.status == Some(0)
}

fn thaws(who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    if !can_be_apart(&scene) {
        return;
    }
    if std::env::var("FROST_GOLDEN").is_ok_and(|what| what == "write") && is_root() && who == Who::Myself {
        write(&scene);
    }
    let mut versions = 0;
    for version in 1..=FORMAT {
        for suffix in ["", ".frost"] {
            let name = format!("v{version}{suffix}");
            let from = directory().join(&name);
            fs::copy(&from, scene.stage(&name)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            scene.give(&scene.stage(&name));
        }
        let script = format!(
            "cp v{version} /mnt/program; chmod 755 /mnt/program; touch /mnt/go; \
             ../bin/frost import v{version}.frost --to golden{version} >&2; \
             ../bin/frost thaw golden{version} --attach; cat /mnt/verdict"
        );
        let outcome = apart(&scene, &script);
        assert_eq!(
            outcome.stdout, "sound",
            "an image of format {version} is not thawed as it was\n{outcome}"
        );
        versions += 1;
    }
    assert!(versions > 0);
}

#[test]
fn images_of_every_format_are_thawed() {
    thaws(Who::Myself);
}

#[test]
fn images_of_every_format_are_thawed_by_an_ordinary_user() {
    thaws(Who::Ordinary);
}

/// Freezes the program, and keeps what is of it and not of this machine.
fn write(scene: &Scene) {
    let source = directory().join("program.c");
    let mut command = scene.command("cc");
    command.args([
        "-O1",
        "-static",
        "-nostdlib",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fno-pie",
        "-no-pie",
    ]);
    command.args(["-fno-asynchronous-unwind-tables", "-mno-red-zone", "-mno-sse", "-Wl,--build-id=sha1,-s"]);
    scene.run(command.args(["-Wl,-z,noseparate-code", "-o", "program"]).arg(source), LIMIT).ok();
    let script = "cp program /mnt; echo 4000 > /proc/sys/kernel/ns_last_pid; frost=$PWD/../bin/frost; cd /mnt; \
                  env -i setsid ./program < /dev/null > /dev/null 2>&1 & \
                  until [ -e /mnt/ready ]; do :; done; $frost freeze $! --to made";
    apart(scene, script).ok();
    let options = OpenOptions { root: scene.path("home"), trust_owner: true };
    let store = Store::open(&options).expect("our own store");
    let image = store.open_image(&store.resolve("made").expect("an image")).expect("an image");
    let mut bytes = vec![0; image.header().pack.len_bytes as usize];
    image.pages().and_then(|mut pages| pages.read(0, &mut bytes)).expect("its pack");
    let mut draft = store.begin(&Name::new("golden").expect("a name")).expect("a draft");
    draft.pack().append(&bytes).expect("room");
    let checkpoint = of_no_machine(image.checkpoint().clone());
    let origin = Instance { pid: 4001, boot_id: checkpoint.host.boot_id.clone(), ..Instance::default() };
    let id = draft.commit(&checkpoint, origin, Then::End).expect("room").id;
    let place = |suffix: &str| directory().join(format!("v{FORMAT}{suffix}"));
    store.export(&id, &mut File::create(place(".frost")).expect("the repository")).expect("an image");
    fs::copy(scene.stage("program"), place("")).expect("the repository");
}

/// Takes out what is of the machine, and of the user who made it.
fn of_no_machine(mut checkpoint: Checkpoint) -> Checkpoint {
    checkpoint.host.kernel = "6.1.0".to_owned();
    checkpoint.host.boot_id = "00000000-0000-0000-0000-000000000000".to_owned();
    checkpoint.host.xcr0 = 3;
    checkpoint.host.cpu_features.clear();
    checkpoint.host.uid = 0;
    for process in &mut checkpoint.processes {
        process.rm.vdso = None;
        process.rm.regions.retain(|region| !matches!(region.attachment, Attachment::Special(_)));
        let credentials = &mut process.pd.credentials;
        (credentials.groups, credentials.inheritable) = (Vec::new(), 0);
        (credentials.permitted, credentials.effective) = (0, 0);
        (credentials.bounding, credentials.ambient) = (0, 0);
        process.pd.prctl.oom_score_adj = 1000;
        // Lower than anywhere: a hard limit that is above the thawer's cannot be set again.
        for (number, limit) in process.pd.limits.iter_mut().enumerate() {
            const COUNTS: [usize; 3] = [6, 7, 11]; // RLIMIT_NPROC, NOFILE, SIGPENDING
            const SMALL: [usize; 2] = [8, 12]; // RLIMIT_MEMLOCK, MSGQUEUE
            let most = match number {
                number if COUNTS.contains(&number) => 1024,
                number if SMALL.contains(&number) => 1 << 16,
                _ => 1 << 20,
            };
            limit.hard = limit.hard.min(most);
            limit.soft = limit.soft.min(limit.hard);
        }
        for thread in &mut process.cpu.threads {
            thread.xstate.clear();
            thread.credentials = None;
            thread.scheduling.nice = 19;
            thread.scheduling.affinity.truncate(1);
        }
    }
    checkpoint
}
