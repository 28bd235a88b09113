//! Bad input: each time the message says what failed, on which object, why, how things stand and what to do; the
//! exit status is the documented one; nothing is lost, nothing hangs.

use frost_tests::journey::Traveller;
use frost_tests::{
    LIMIT, Outcome, Scene, Started, Stdio, Who, image, is_alive, is_root, listens, skip, until,
};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Exit statuses, as documented.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNSUPPORTED: i32 = 3;
const DAMAGED: i32 = 4;
const DENIED: i32 = 5;
const MISSING: i32 = 6;
const NO_SPACE: i32 = 7;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

fn scene() -> Scene {
    Scene::new(Who::Myself).expect("whoever runs the tests can have a scene")
}

fn set_out<'a>(scene: &'a Scene, name: &str) -> Traveller<'a> {
    Traveller::set_out(scene, binary(), name, Stdio::Files)
}

/// Expects that a program was left alone.
fn unharmed(scene: &Scene, traveller: Traveller<'_>) {
    traveller.arrive("left alone");
    scene.is_empty_soon();
}

// What cannot be frozen.

#[test]
fn no_such_process() {
    let scene = scene();
    // A number that was just given up.
    let mut command = scene.command("true");
    let mut started = Started::spawn(&mut command);
    let pid = started.pid().to_string();
    started.wait("true", LIMIT);
    scene.frost(&["freeze", &pid]).refused(MISSING, &pid);
    scene.frost(&["check", &pid]).refused(MISSING, &pid);
    scene.frost(&["freeze", "99999999999999999999"]).refused(MISSING, "99999999999999999999");
    scene.frost(&["freeze", "no-such-program"]).refused(MISSING, "no-such-program");
}

#[test]
fn a_thread_of_the_kernel() {
    let scene = scene();
    if fs::read_to_string("/proc/2/comm").unwrap_or_default() != "kthreadd\n" {
        skip("no thread of the kernel can be seen from here");
        return;
    }
    scene.frost(&["freeze", "2"]).refused(UNSUPPORTED, "kernel");
}

#[test]
fn itself_and_its_ancestors() {
    let scene = scene();
    let frost = scene.path("bin").join("frost").display().to_string();
    for (script, about) in [("exec FROST freeze $$", "itself"), ("FROST freeze $$; exit $?", "ancestor")] {
        let mut command = scene.command("sh");
        command.args(["-c", &script.replace("FROST", &frost)]);
        scene.run(&mut command, LIMIT).refused(USAGE, about);
    }
    // Those who run the tests are ancestors, too.
    scene.frost(&["freeze", &std::process::id().to_string()]).refused(USAGE, "ancestor");
}

#[test]
fn a_thread_instead_of_a_process() {
    let scene = scene();
    let traveller = set_out(&scene, "thread_local_storage");
    let tasks = fs::read_dir(format!("/proc/{}/task", traveller.pid)).expect("the victim runs");
    let mut tids = tasks.flatten().map(|task| task.file_name().to_string_lossy().into_owned());
    let tid = tids.find(|tid| *tid != traveller.pid.to_string()).expect("it has threads");
    scene.frost(&["freeze", &tid]).refused(USAGE, &traveller.pid.to_string());
    unharmed(&scene, traveller);
}

#[test]
fn another_user_s_program() {
    if !is_root() {
        skip("only root can start programs of two users");
        return;
    }
    let (Some(theirs), Some(ours)) = (Scene::new(Who::Myself), Scene::new(Who::Ordinary)) else { return };
    let traveller = set_out(&theirs, "anonymous_filled");
    let pid = traveller.pid.to_string();
    for command in ["freeze", "check"] {
        ours.frost(&[command, &pid]).refused(DENIED, "it belongs to user 0");
    }
    unharmed(&theirs, traveller);
}

/// A user's own program that has another group, as by sg(1), or rights, as a service may have.
#[test]
fn a_user_s_program_of_another_group_or_with_rights() {
    if !is_root() {
        skip("only root can start programs with other groups and rights");
        return;
    }
    let Some(scene) = Scene::new(Who::Ordinary) else { return };
    let user = fs::metadata(scene.path("stage")).expect("our own directory").uid();
    let start = |group: u32, more: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups"]);
        command.args(more).args(["--", "sleep", "1000"]).current_dir(scene.path("stage"));
        let started = scene.start(&mut command, Stdio::Null);
        let exe = format!("/proc/{}/comm", started.pid());
        until("it sleeps", || fs::read_to_string(&exe).is_ok_and(|name| name == "sleep\n"));
        started
    };
    let rights = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"];
    for (mut started, about) in [
        (start(user + 1, &[]), format!("its group is {}", user + 1)),
        (start(user, &rights), "it has rights".to_owned()),
    ] {
        for command in ["freeze", "check"] {
            scene.frost(&[command, &started.pid().to_string()]).refused(DENIED, &about);
        }
        assert!(is_alive(started.pid()));
        started.child().kill().expect("it is ours");
    }
}

#[test]
fn a_program_that_has_shut_out_all_but_root() {
    let Some(scene) = Scene::new(if is_root() { Who::Ordinary } else { Who::Myself }) else { return };
    if !frost_tests::program::has("ssh-agent") {
        return;
    }
    let agent = scene.start(scene.command("ssh-agent").args(["-D", "-a", "agent"]), Stdio::Null);
    let pid = agent.pid();
    // Its files belong to root from then on; the socket comes later.
    until("it serves", || listens(&scene.stage("agent")));
    for command in ["freeze", "check"] {
        scene.frost(&[command, &pid.to_string()]).refused(DENIED, "it has shut out all but root");
    }
    assert!(is_alive(pid));
}

#[test]
fn a_working_directory_that_is_gone() {
    let scene = scene();
    let (place, elsewhere) = (scene.stage("place"), scene.stage("elsewhere"));
    fs::create_dir(&place).expect("our own directory");
    let mut started = scene.start(scene.command("sleep").arg("1000").current_dir(&place), Stdio::Null);
    let comm = format!("/proc/{}/comm", started.pid());
    until("it sleeps", || fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n"));
    scene.frost(&["freeze", &started.pid().to_string(), "--to", "sleeper"]).ok();
    started.wait("the frozen program", LIMIT);
    fs::rename(&place, &elsewhere).expect("our own directory");
    let what = format!("directory {}: it cannot be opened", place.display());
    scene.frost(&["thaw", "sleeper"]).refused(UNSUPPORTED, &what);
    fs::rename(&elsewhere, &place).expect("our own directory");
    let pid = scene.frost(&["thaw", "sleeper", "--json"]).ok().number("pid");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs"), place);
}

#[test]
fn a_program_of_32_bits() {
    let scene = scene();
    // By the numbers of i386 it waits in epoll_wait(2), which returns EINTR to a stop, and ends if that returns.
    let epoll_create = [0xb8, 0x49, 1, 0, 0, 0x31, 0xdb, 0xcd, 0x80];
    let without_end = [0x89, 0xc3, 0x89, 0xe1, 0xba, 1, 0, 0, 0, 0xbe, 0xff, 0xff, 0xff, 0xff];
    let epoll_wait = [0xb8, 0, 1, 0, 0, 0xcd, 0x80];
    let exit = [0xb8, 1, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xcd, 0x80];
    let code = [&epoll_create[..], &without_end, &epoll_wait, &exit].concat();
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let base = 0x0804_8000u32;
    for half in [2u16, 3] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1u32, base + 84, 52, 0, 0] {
        elf.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1u32, 0, base, base, 84 + code.len() as u32, 84 + code.len() as u32, 5, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    let path = scene.stage("small");
    fs::write(&path, elf).expect("our own directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    let mut probe = scene.command(&path);
    let started = match probe.spawn() {
        Ok(mut child) => {
            // Tried first, since not every kernel runs such programs.
            let _killed = child.kill();
            let _reaped = child.wait();
            scene.start(&mut scene.command(&path), Stdio::Null)
        }
        Err(why) => {
            skip(&format!("this kernel runs no programs of 32 bits: {why}"));
            return;
        }
    };
    let pid = started.pid();
    let syscall = format!("/proc/{pid}/syscall");
    until("it waits", || fs::read_to_string(&syscall).is_ok_and(|call| call.starts_with("256 0x")));
    scene.frost(&["freeze", &pid.to_string()]).refused(UNSUPPORTED, "32 bits");
    let outcome = scene.frost(&["check", &pid.to_string()]);
    assert!(outcome.status == Some(UNSUPPORTED) && outcome.stdout.contains("32 bits"), "{outcome}");
    assert!(is_alive(pid), "it does not run any more");
}

#[test]
fn a_program_under_a_debugger() {
    let scene = scene();
    let traveller = set_out(&scene, "tree_traced");
    let child = frost_tests::tree_of(traveller.pid)[1].to_string();
    scene.frost(&["freeze", &child]).refused(UNSUPPORTED, "trac");
    scene.frost(&["freeze", &traveller.pid.to_string()]).refused(UNSUPPORTED, "trac");
    unharmed(&scene, traveller);
}

/// What a sandbox is made of: a thaw makes one namespace of each kind for all, and none with rights of its own.
#[test]
fn a_program_in_a_sandbox() {
    let Some(scene) = Scene::new(Who::Ordinary) else { return };
    for (script, about) in [
        ("exec unshare --user --map-root-user sh -c 'echo > ready; exec sleep 1000'", "user namespace"),
        ("unshare --user --map-root-user sh -c 'echo > ready; sleep 1000'; true", "user namespace"),
        (
            "unshare --user --map-root-user --pid --fork sh -c 'echo > ready; sleep 1000'; true",
            "pid namespace",
        ),
        ("unshare --user --map-root-user --mount sh -c 'echo > ready; sleep 1000'; true", "mount namespace"),
        (
            "unshare --user --map-root-user --time --fork sh -c 'echo > ready; sleep 1000'; true",
            "time namespace",
        ),
        // One whose first process goes on as what it was: CLONE_NEWUSER and CLONE_NEWPID, by unshare(2).
        (
            "exec perl -e 'syscall(272, 0x30000000); if (!fork) { open my $f, \">ready\"; sleep 1000 } wait'",
            "pid namespace",
        ),
    ] {
        let _absent = fs::remove_file(scene.stage("ready"));
        let mut command = scene.command("setsid");
        let mut started = scene.start(command.args(["sh", "-c", script]), Stdio::Null);
        scene.await_file("ready");
        let pid = started.pid().to_string();
        scene.frost(&["freeze", &pid]).refused(UNSUPPORTED, about);
        scene.frost(&["check", &pid]).refused(UNSUPPORTED, about);
        assert!(started.ended().is_none(), "{script} was ended");
    }
}

/// A ring cannot be carried, and programs do without where there is none.
#[test]
fn a_ring_is_told_with_a_way_to_do_without() {
    let Some(scene) = Scene::new(Who::Ordinary) else { return };
    // io_uring_setup, with `struct io_uring_params` of zeros.
    let script = "my $settings = chr(0) x 120; my $ring = syscall(425, 4, $settings); \
                  open my $file, '>', 'draft'; print $file $ring; close $file; rename 'draft', 'ready'; sleep 1000";
    let mut started = scene.start(scene.command("perl").args(["-e", script]), Stdio::Null);
    if scene.await_file("ready") == "-1" {
        return skip("this kernel gives an ordinary user no io_uring");
    }
    let pid = started.pid().to_string();
    let outcome = scene.frost(&["freeze", &pid]);
    assert!(outcome.stderr.contains("io_uring ring"), "{outcome}");
    outcome.refused(UNSUPPORTED, "start it by `frost run`");
    assert!(started.ended().is_none(), "it was ended");
}

#[test]
fn a_service_that_would_be_started_again() {
    let scene = scene();
    let state = frost_tests::try_output_of(std::process::Command::new("systemctl").arg("is-system-running"));
    let runs = state.is_ok_and(|(_, said)| ["running", "degraded"].contains(&said.trim()));
    if !runs || !is_root() {
        skip("systemd does not run here, or does not take orders: services with Restart= are not tested");
        return;
    }
    let unit = format!("frost-test-{}", std::process::id());
    let mut start = scene.command("systemd-run");
    start.args(["--unit", &unit, "--property=Restart=always", "sleep", "1000"]);
    scene.run(&mut start, LIMIT).ok();
    let show = || {
        let mut show = scene.command("systemctl");
        scene.run(show.args(["show", "--property=MainPID", "--value", &unit]), LIMIT).stdout.trim().to_owned()
    };
    until("it runs", || !["", "0"].contains(&show().as_str()));
    let pid = show();
    let outcome = scene.frost(&["freeze", &pid]);
    scene.run(scene.command("systemctl").args(["stop", &unit]), LIMIT);
    outcome.refused(UNSUPPORTED, "--force");
}

/// A program that uses files which nobody serves while it stands still, or at all, is told so, and left alone soon.
#[test]
fn a_file_system_that_does_not_answer() {
    let python = Path::new("/usr/bin/python3");
    if !is_root() || !python.exists() || !Path::new("/dev/fuse").exists() {
        skip("a file system of FUSE takes root, python3 and /dev/fuse");
        return;
    }
    for place in ["inside", "outside"] {
        let scene = scene();
        for script in ["served.py", "fuse.py"] {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(script);
            fs::copy(program, scene.stage(script)).expect("our own directory");
        }
        let mut command = scene.command("setsid");
        command.args(["unshare", "--mount", "--propagation", "private"]).arg(python);
        command.args(["served.py", place]).current_dir(scene.path("stage"));
        let mut started = scene.start(&mut command, Stdio::Files);
        until("it uses its file", || scene.stage("ready").exists() || started.ended().is_some());
        if started.ended().is_some() {
            skip("a file system of FUSE cannot be mounted here");
            return;
        }
        let server: i32 = scene.await_file("ready").parse().expect("a number");
        let server = rustix::process::Pid::from_raw(server).expect("a process");
        let signal = |signal| rustix::process::kill_process(server, signal).expect("it is ours");
        let goes_on = || {
            let count = || fs::read_to_string(scene.stage("told")).ok()?.parse::<u64>().ok();
            let now = count().unwrap_or(0);
            until("it goes on", || count().is_some_and(|count| count > now + 1));
        };
        let pid = started.pid().to_string();
        if place == "outside" {
            signal(rustix::process::Signal::STOP);
            scene.frost(&["check", &pid]).refused(UNSUPPORTED, "");
        }
        for more in [&[][..], &["--leave-running"]] {
            let arguments = [&["freeze", &pid, "--to", "victim"], more].concat();
            scene.frost(&arguments).refused(UNSUPPORTED, "does not answer");
            goes_on();
        }
        signal(rustix::process::Signal::CONT);
        // Whoever is asked in vain waits until it is answered.
        signal(rustix::process::Signal::KILL);
        started.child().kill().expect("it is ours");
        started.wait("a program that was killed", LIMIT);
        until("all of it has ended", || scene.processes().is_empty());
    }
}

/// A daemon that has nothing to do with the program but a queue of messages, which it would see without them for a moment.
#[test]
fn a_queue_that_a_stranger_has_open() {
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        skip("python3 is not here");
        return;
    }
    let scene = scene();
    let traveller = set_out(&scene, "mqueue_used");
    let program = "import ctypes, os, time\n\
                   if os.fork(): os._exit(0)\n\
                   os.setsid()\n\
                   if os.fork(): os._exit(0)\n\
                   name = open('queue').read().encode()\n\
                   assert ctypes.CDLL(None).mq_open(name, os.O_RDWR) >= 0\n\
                   open('held.draft', 'w').write(str(os.getpid()))\n\
                   os.rename('held.draft', 'held')\n\
                   time.sleep(1000)";
    let mut command = scene.command(python);
    let mut starter =
        scene.start(command.args(["-c", program]).current_dir(scene.path("stage")), Stdio::Files);
    starter.wait("the one that starts it", LIMIT);
    let stranger: i32 = scene.await_file("held").parse().expect("a number");
    let pid = traveller.pid.to_string();
    scene.frost(&["freeze", &pid]).refused(UNSUPPORTED, &format!("process {stranger} (python3)"));
    let stranger = rustix::process::Pid::from_raw(stranger).expect("a process");
    rustix::process::kill_process(stranger, rustix::process::Signal::KILL).expect("it is ours");
    unharmed(&scene, traveller);
}

// Names.

#[test]
fn odd_names() {
    let scene = scene();
    let traveller = set_out(&scene, "anonymous_stack");
    let pid = traveller.pid.to_string();
    let long = "x".repeat(65);
    for name in ["", ".", "..", ".hidden", "a/b", "../escape", "1234", "a@2", "a b", "a\nb", "ä", &long] {
        let outcome = scene.frost(&["freeze", &pid, &format!("--to={name}")]).refused(USAGE, "");
        assert!(is_alive(traveller.pid), "{outcome}");
    }
    for name in ["", "a/b", "a@x", "a@", "@1", "a@99999999999"] {
        let outcome = scene.frost(&["thaw", name]);
        assert!(matches!(outcome.status, Some(USAGE | MISSING)), "{name:?}\n{outcome}");
    }
    for arguments in
        [&["thaw", "nothing"][..], &["verify", "nothing@3"], &["rm", "nothing"], &["export", "nothing"]]
    {
        scene.frost(arguments).refused(MISSING, "nothing");
    }
    assert_eq!(image::files(&scene.path("home")).iter().filter(|f| f.ends_with("manifest")).count(), 0);
    unharmed(&scene, traveller);
}

/// The name of another program's image: a version more, which is said, and the older one stays.
#[test]
fn a_name_that_exists() {
    let scene = scene();
    let other = scene.path("stage").join("other");
    fs::create_dir(&other).expect("our own directory");
    let mut sleeper = scene.start(scene.command("setsid").args(["sleep", "1000"]), Stdio::Null);
    until("it sleeps", || {
        fs::read_to_string(format!("/proc/{}/comm", sleeper.pid())).is_ok_and(|name| name == "sleep\n")
    });
    scene.frost(&["freeze", &sleeper.pid().to_string(), "--to", "victim"]).ok();
    sleeper.wait("a frozen program", LIMIT);
    let mut traveller = set_out(&scene, "anonymous_stack");
    let pid = traveller.pid.to_string();
    let snapshot = |name: &str| scene.frost(&["freeze", &pid, "--to", name, "--leave-running"]).ok().stderr;
    let said = snapshot("victim");
    assert!(said.contains("victim@1 is of another program (`sleep 1000`)"), "{said}");
    let said = [snapshot("victim"), snapshot("own"), snapshot("own")].concat();
    assert!(!said.contains("of another program"), "{said}");
    traveller.freeze();
    let listed = scene.frost(&["list", "--json"]).ok().stdout;
    assert!(listed.contains("\"version\":1") && listed.contains("\"version\":2"), "{listed}");
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.frost(&["thaw", "victim@1"]).ok();
}

// Images that are damaged, or from elsewhere.

/// Freezes a program, hands out its image for harm, and expects that thaw and verify refuse what was made of it.
fn damaged(status: i32, about: &str, harm: impl FnOnce(&Scene)) {
    let scene = scene();
    let mut traveller = set_out(&scene, "anonymous_filled");
    traveller.freeze();
    let before: Vec<(PathBuf, Vec<u8>)> = image::files(&scene.path("home"))
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("our own store")))
        .collect();
    harm(&scene);
    scene.frost(&["thaw", "victim"]).refused(status, about);
    assert!(scene.processes().is_empty(), "something runs of an image that was refused");
    if status == DAMAGED {
        let outcome = scene.frost(&["verify", "victim"]);
        assert_eq!(outcome.status, Some(DAMAGED), "{outcome}");
    }
    // Everything else goes on working beside it.
    let listed = scene.frost(&["list"]);
    assert!(!listed.stderr.contains("panicked"), "{listed}");
    // Made whole again, it thaws.
    for (path, bytes) in before {
        fs::write(path, bytes).expect("our own store");
    }
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// The store's largest file is the pack; a manifest is what begins with the magic.
fn files(scene: &Scene) -> (PathBuf, PathBuf) {
    let files = image::files(&scene.path("home"));
    let begins = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89FROST\x1a\n"));
    let manifest = files.iter().find(|path| begins(path)).expect("there is a manifest").clone();
    let pack = files.iter().max_by_key(|path| fs::metadata(path).map_or(0, |file| file.len()));
    (manifest, pack.expect("there is a pack").clone())
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("our own store");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the file is that long");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("our own store");
}

fn cut(path: &Path, keep: impl Fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(path).expect("our own store");
    let len = file.metadata().expect("our own file").len();
    file.set_len(keep(len)).expect("our own store");
}

#[test]
fn a_bit_of_the_pack_is_flipped() {
    damaged(DAMAGED, "victim", |scene| {
        let pack = files(scene).1;
        let len = fs::metadata(&pack).expect("our own file").len();
        flip(&pack, len / 2 + 77);
    });
}

#[test]
fn bits_of_the_manifest_are_flipped() {
    // In the magic, in the header, at its end, in the manifest's body.
    for offset in [3, 60, 500, 700] {
        damaged(DAMAGED, "victim", |scene| flip(&files(scene).0, offset));
    }
}

#[test]
fn the_pack_is_cut_short() {
    damaged(DAMAGED, "victim", |scene| cut(&files(scene).1, |len| len / 2));
}

#[test]
fn the_manifest_is_cut_short() {
    for keep in [0, 100, 512, 2000] {
        damaged(DAMAGED, "victim", |scene| cut(&files(scene).0, |_| keep));
    }
}

/// Changes the header, and seals it again as its writer would have.
fn forge(scene: &Scene, change: impl FnOnce(&mut [u8])) {
    let path = files(scene).0;
    let mut bytes = fs::read(&path).expect("our own store");
    change(&mut bytes);
    let body = &bytes[512..512
        + u64::from_le_bytes(bytes[48..56].try_into().expect("8 bytes")).min(bytes.len() as u64 - 512)
            as usize];
    let digest = *blake3::hash(body).as_bytes();
    bytes[56..88].copy_from_slice(&digest);
    let seal = *blake3::hash(&bytes[..480]).as_bytes();
    bytes[480..512].copy_from_slice(&seal);
    fs::write(path, bytes).expect("our own store");
}

#[test]
fn an_image_of_a_newer_format() {
    damaged(DAMAGED, "newer", |scene| {
        forge(scene, |bytes| bytes[8..12].copy_from_slice(&9999u32.to_le_bytes()))
    });
    damaged(DAMAGED, "newer", |scene| forge(scene, |bytes| bytes[23] |= 0x80));
}

#[test]
fn an_image_of_another_architecture() {
    damaged(UNSUPPORTED, "aarch64", |scene| {
        forge(scene, |bytes| {
            bytes[32..48].fill(0);
            bytes[32..39].copy_from_slice(b"aarch64");
        });
    });
}

#[test]
fn an_image_with_enormous_counts() {
    // CBOR: an array, a map, a byte string and a text of 2^63 items, where the manifest begins.
    for first in [0x9b, 0xbb, 0x5b, 0x7b] {
        damaged(DAMAGED, "victim", |scene| {
            forge(scene, |bytes| {
                bytes[512] = first;
                bytes[513..521].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
            });
        });
    }
    // Lengths in the header: of the manifest, of the block table, of the pack.
    for offset in [48, 88, 96] {
        damaged(DAMAGED, "victim", |scene| {
            forge(scene, |bytes| bytes[offset..offset + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes()));
        });
    }
}

// The store.

#[test]
fn a_store_that_others_can_write() {
    let scene = scene();
    let traveller = set_out(&scene, "anonymous_stack");
    fs::set_permissions(scene.path("home"), fs::Permissions::from_mode(0o777)).expect("our own directory");
    scene.frost(&["freeze", &traveller.pid.to_string(), "--to", "victim"]).refused(DENIED, "home");
    unharmed(&scene, traveller);
}

#[test]
fn a_store_that_is_none() {
    let scene = scene();
    let traveller = set_out(&scene, "anonymous_stack");
    let stray = scene.path("stray");
    fs::create_dir(&stray).expect("our own directory");
    fs::write(stray.join("letter"), "dear").expect("our own file");
    let store = stray.to_str().expect("a plain path");
    scene.frost(&["--store", store, "list"]).refused(USAGE, "letter");
    let pid = traveller.pid.to_string();
    scene.frost(&["--store", store, "freeze", &pid, "--to", "victim"]).refused(USAGE, "is no store");
    assert_eq!(fs::read_dir(&stray).expect("our own directory").count(), 1, "something was put there");
    unharmed(&scene, traveller);
}

/// A file system of 8 MiB, until this is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted =
            frost_tests::succeeds(std::process::Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// Mounts a file system of 8 MiB in a scene, or tells why it cannot.
fn mount_small(scene: &Scene, name: &str, mode: &str) -> Option<Mounted> {
    let at = scene.path(name);
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size=8m,mode={mode}"), "tmpfs"]).arg(&at);
    if !is_root() || scene.run(&mut mount, LIMIT).status != Some(0) {
        skip("no tmpfs can be mounted here: the full disk is not tested");
        return None;
    }
    scene.give(&at);
    Some(Mounted(at))
}

/// Gives a scene a store of 8 MiB, or tells why it cannot.
fn small_store(scene: &Scene) -> Option<Mounted> {
    mount_small(scene, "home", "0700")
}

/// A file without a name finds no space where it was.
#[test]
fn a_thaw_onto_a_full_disk() {
    for who in [Who::Myself, Who::Ordinary] {
        let Some(scene) = Scene::new(who) else { continue };
        let Some(_mounted) = mount_small(&scene, "stage", "0755") else { return };
        let mut traveller = set_out(&scene, "regular_deleted");
        traveller.freeze();
        // The plan tells what it was called.
        let plan = scene.frost(&["thaw", "victim", "--plan"]).ok();
        assert!(plan.stdout.contains(&format!("deleted file {}/", scene.path("stage").display())), "{plan}");
        let full = scene.stage("full");
        let error = fs::write(&full, vec![0; 16 << 20]).expect_err("so much does not fit");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        scene.frost(&["thaw", "victim"]).refused(NO_SPACE, "deleted file");
        fs::remove_file(full).expect("our own file");
        traveller.thaw(&[]);
        traveller.arrive("thawed");
        scene.is_empty_soon();
    }
}

/// How it ended is told nevertheless.
#[test]
fn a_program_that_ends_on_a_full_disk() {
    let Some(scene) = Scene::with_namespaces(Who::Myself) else { return };
    let Some(_mounted) = small_store(&scene) else { return };
    let ends = |thawed: bool| {
        let started =
            scene.frost(&["run", "--detach", "--json", "--name", "ends", "--", "sleep", "1000"]).ok();
        if thawed {
            scene.frost(&["freeze", "ends"]).ok();
            scene.frost(&["thaw", "ends"]).ok();
        }
        let filler = scene.path("home").join("filler");
        let mut file = fs::File::create(&filler).expect("root may");
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        (started.number("keeper") as i32, filler)
    };
    let state = || scene.frost(&["ps", "ends", "--json"]).ok().record();
    let (_, filler) = ends(true);
    scene.frost(&["kill", "-s", "TERM", "ends"]).ok();
    assert_eq!(scene.frost(&["wait", "ends"]).status, Some(128 + 15));
    assert!(state()["what"].as_str().is_some_and(|what| what.contains("signal 15")), "{}", state());
    fs::remove_file(filler).expect("it is ours");
    scene.frost(&["rm", "ends"]).ok();
    let (_, filler) = ends(false);
    scene.frost(&["kill", "-s", "TERM", "ends"]).ok();
    until("it has ended", || state()["state"] == "ended");
    assert_eq!(scene.frost(&["wait", "ends"]).status, Some(128 + 15));
    // One that could not be started leaves nothing.
    scene.frost(&["run", "--detach", "--name", "late", "--", "sleep", "1000"]).refused(125, "No space left");
    scene.frost(&["ps", "late"]).refused(MISSING, "no program late was started or frozen here");
    fs::remove_file(filler).expect("it is ours");
    // Nothing is told that is not so.
    let (keeper, _filler) = ends(false);
    let keeper = rustix::process::Pid::from_raw(keeper).expect("a pid");
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).expect("ours");
    until("it is lost", || state()["state"] == "lost");
    scene.is_empty_soon();
}

#[test]
fn a_full_disk() {
    let scene = scene();
    let Some(mounted) = small_store(&scene) else { return };
    let home = scene.path("home");
    let traveller = set_out(&scene, "anonymous_filled"); // 64 MiB
    let pid = traveller.pid.to_string();
    scene.frost(&["freeze", &pid, "--to", "victim"]).refused(NO_SPACE, "space");
    scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).refused(NO_SPACE, "space");
    let left: u64 =
        image::files(&home).iter().map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum();
    assert!(left < 1 << 20, "{left} bytes of drafts stay on the full disk");
    traveller.arrive("left alone");
    // A small program still fits.
    for name in ["go", "ready", "result"] {
        let _absent = fs::remove_file(scene.stage(name));
    }
    let mut small = set_out(&scene, "eventfd_count");
    small.freeze();
    small.thaw(&[]);
    small.arrive("thawed");
    scene.is_empty_soon();
    drop(mounted);
}

// What changed while the program was away.

/// Freezes a program with an open file, changes that, and expects a refusal that names it; undone, it thaws.
fn changed(harm: impl FnOnce(&Path), undo: impl FnOnce(&Path)) {
    let scene = scene();
    let mut traveller = set_out(&scene, "regular_offset");
    traveller.freeze();
    let file = scene.stage("file");
    harm(&file);
    let outcome = scene.frost(&["thaw", "victim"]);
    // The plan tells the same beforehand, and does nothing.
    let plan = scene.frost(&["thaw", "victim", "--plan"]);
    assert!(plan.stdout.contains("stage/file") || plan.stderr.contains("stage/file"), "{plan}");
    assert!(matches!(outcome.status, Some(FAILED | UNSUPPORTED | DENIED | MISSING)), "{outcome}");
    let status = outcome.status.expect("it has one");
    outcome.refused(status, "stage/file");
    assert!(scene.processes().is_empty(), "something runs of a thaw that was refused");
    undo(&file);
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

#[test]
fn an_open_file_has_vanished() {
    changed(
        |file| fs::rename(file, file.with_extension("away")).expect("our own file"),
        |file| fs::rename(file.with_extension("away"), file).expect("our own file"),
    );
}

#[test]
fn an_open_file_was_replaced() {
    changed(
        |file| {
            fs::rename(file, file.with_extension("away")).expect("our own file");
            fs::write(file, "one two three").expect("our own file");
        },
        |file| fs::rename(file.with_extension("away"), file).expect("our own file"),
    );
}

#[test]
fn an_open_file_was_changed() {
    let time = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).expect("our own file");
    let mut was = None;
    let was = &mut was;
    let scene = scene();
    let mut traveller = set_out(&scene, "regular_offset");
    traveller.freeze();
    let file = scene.stage("file");
    *was = Some(time(&file));
    fs::write(&file, "one two three, and more").expect("our own file");
    let outcome = scene.frost(&["thaw", "victim"]);
    let status = outcome.status.unwrap_or(0);
    assert_ne!(status, 0, "{outcome}");
    outcome.refused(status, "stage/file");
    // The same content, size and time again: the file that it was.
    fs::write(&file, "one two three").expect("our own file");
    let open = fs::File::options().write(true).open(&file).expect("our own file");
    open.set_modified(was.expect("it was set")).expect("our own file");
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

#[test]
fn an_open_file_is_forbidden_now() {
    if !is_root() {
        skip("only root can give a file to somebody else");
        return;
    }
    let Some(scene) = Scene::new(Who::Ordinary) else { return };
    let mut traveller = set_out(&scene, "regular_offset");
    traveller.freeze();
    let file = scene.stage("file");
    rustix::fs::chown(&file, Some(rustix::fs::Uid::ROOT), None).expect("root may");
    let outcome = scene.frost(&["thaw", "victim"]);
    let status = outcome.status.unwrap_or(0);
    assert_ne!(status, 0, "{outcome}");
    outcome.refused(status, "stage/file");
    scene.give(&file);
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// A server without SO_REUSEADDR: it keeps connections that say `k`, and closes the others.
const SERVER: &str = "import os, socket
server = socket.socket()
server.bind(('127.0.0.1', 0))
server.listen()
with open('port.new', 'w') as file:
    file.write(str(server.getsockname()[1]))
os.rename('port.new', 'port')
kept = []
while True:
    connection, _ = server.accept()
    if connection.recv(1) == b'k':
        connection.send(b'kept')
        kept.append(connection)
    else:
        connection.close()
    del connection
";

/// Says a byte to the server, and reads what it answers, to the end if it ends.
fn say(port: u16, byte: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.write_all(byte).expect("the server reads");
    let mut answer = vec![0; 4];
    let count = stream.read(&mut answer).expect("an answer, or the end");
    answer.truncate(count);
    (stream, answer)
}

fn port_of_ended_connections(who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    fs::write(scene.stage("server.py"), SERVER).expect("our own directory");
    let mut command = scene.command("/usr/bin/python3");
    let mut traveller =
        Traveller::join(&scene, scene.start(command.arg("server.py"), Stdio::Files), "server");
    let port: u16 = scene.await_file("port").parse().expect("a port");
    for _ in 0..2 {
        let (mut open, answer) = say(port, b"k");
        assert_eq!(answer, b"kept");
        traveller.freeze();
        // The freeze has ended the connection, and when this side has closed it too the kernel keeps its port.
        assert_eq!(open.read(&mut [0; 8]).expect("it was closed in order"), 0);
        drop(open);
        traveller.thaw(&[]);
    }
    // One that the server had ended itself keeps it from everybody.
    let (closed, answer) = say(port, b"c");
    assert_eq!(answer, b"");
    drop(closed);
    traveller.freeze();
    let outcome = scene.frost(&["thaw", "victim"]).refused(UNSUPPORTED, "TIME_WAIT");
    assert!(outcome.stderr.contains("try again in a minute"), "{outcome}");
    scene.is_empty_soon();
}

#[test]
fn a_port_that_ended_connections_keep() {
    port_of_ended_connections(Who::Myself);
}

#[test]
fn a_port_that_ended_connections_keep_from_an_ordinary_user() {
    port_of_ended_connections(Who::Ordinary);
}

#[test]
fn a_pid_that_is_taken() {
    if !is_root() {
        skip("only root gets the same pids back");
        return;
    }
    let scene = scene();
    let mut traveller = set_out(&scene, "anonymous_stack");
    traveller.freeze();
    let pid = traveller.pid;
    // Somebody takes the number: as root, by the file that says which is given next, until it works.
    let mut taker = None;
    for _ in 0..1000 {
        if fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
            skip("the next pid cannot be chosen here");
            traveller.thaw(&[]);
            traveller.arrive("thawed");
            return;
        }
        let mut command = scene.command("sleep");
        let started = scene.start(command.arg("1000"), Stdio::Null);
        if started.pid() == pid {
            taker = Some(started);
            break;
        }
    }
    let mut taker = taker.expect("the number is free, so it can be had");
    scene.frost(&["thaw", "victim"]).refused(FAILED, "--clone");
    let outcome = scene.frost(&["thaw", "victim"]);
    assert!(outcome.stderr.contains("sleep"), "nothing tells who has the pid\n{outcome}");
    let _killed = taker.child().kill();
    taker.wait("a killed program", LIMIT);
    traveller.thaw(&[]);
    traveller.arrive("thawed");
}

// Targets that move.

/// Programs that end while they are frozen: either they are frozen, or they are gone; nothing hangs.
#[test]
fn a_program_that_ends_meanwhile() {
    let scene = scene();
    for round in 0..30u64 {
        let mut command = scene.command("setsid");
        let mut started = scene.start(command.args(["sleep", &format!("0.0{:02}", round * 3)]), Stdio::Null);
        let outcome: Outcome = scene.frost(&["freeze", &started.pid().to_string(), "--to", "short"]);
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
        assert!(matches!(outcome.status, Some(0 | FAILED | MISSING)), "{outcome}");
        started.wait("a short program", LIMIT);
    }
    until("nothing is left", || scene.processes().is_empty());
}

/// Frozen again and again, with a program that forks and one that starts threads without pause.
#[test]
fn programs_that_fork_and_clone_without_pause() {
    for name in ["tree_storm", "thread_storm", "thread_executes"] {
        let scene = scene();
        let traveller = set_out(&scene, name);
        for _ in 0..10 {
            let pid = traveller.pid.to_string();
            scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
        }
        unharmed(&scene, traveller);
    }
}

#[test]
fn wrong_command_lines() {
    let scene = scene();
    for arguments in
        [&["freeze"][..], &["thaw"], &["melt"], &["freeze", "1", "--nonsense"], &["thaw", "a", "b"]]
    {
        let outcome = scene.frost(arguments);
        assert_eq!(outcome.status, Some(USAGE), "{outcome}");
        assert!(outcome.stderr.contains("error:"), "{outcome}");
    }
    // Nobody reads what it prints: no word about that.
    let mut command = scene.command("sh");
    let frost = scene.path("bin").join("frost").display().to_string();
    let outcome =
        scene.run(command.args(["-c", &format!("{frost} help | true; {frost} check | head -n 1")]), LIMIT);
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
}

/// A binary without a name is made where nothing forbids to execute it, or not at all.
#[test]
fn a_binary_lies_where_it_can_be_executed() {
    if !is_root() {
        skip("only root can mount something");
        return;
    }
    let scene = scene();
    let mut traveller = set_out(&scene, "binary_replaced");
    traveller.freeze();
    let bin = scene.path("bin");
    let thaw_without = |directories: &str| {
        let mut command = scene.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg(format!(
            "mount --bind {bin} {bin}
             for at in {directories}; do mount --rbind $at $at; mount -o remount,bind,noexec $at; done
             exec {bin}/frost thaw victim --json",
            bin = bin.display()
        ));
        scene.run(&mut command, LIMIT)
    };
    let stage = scene.path("stage").display().to_string();
    thaw_without(&format!("/tmp /var/tmp {stage}")).refused(UNSUPPORTED, "noexec");
    traveller.pid = thaw_without(&stage).ok().number("pid") as i32;
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// Where memory may not be executed, nothing can be started from it: the plan tells so.
#[test]
fn a_thaw_where_memory_may_not_be_executed() {
    if !is_root() {
        return skip("vm.memfd_noexec is root's to set");
    }
    let scene = scene();
    let mut traveller = set_out(&scene, "anonymous_sparse");
    traveller.freeze();
    // The setting is that of a pid namespace and of those within.
    let frost = scene.frost_command(&["thaw", "victim"]);
    let mut within = scene.command("unshare");
    within.args(["--pid", "--fork", "--mount-proc", "sh", "-c"]);
    within.arg("echo 2 >/proc/sys/vm/memfd_noexec || exit 99; \"$@\"; exit $?").arg("sh");
    within.arg(frost.get_program()).args(frost.get_args());
    let outcome = scene.run(&mut within, LIMIT);
    if outcome.status == Some(99) {
        skip("this kernel has no vm.memfd_noexec");
    } else {
        let outcome = outcome.refused(UNSUPPORTED, "memfd_noexec");
        assert!(outcome.stderr.contains("sysctl vm.memfd_noexec=0"), "{outcome}");
    }
    traveller.thaw(&[]);
    traveller.arrive("thawed");
}
