//! Virtual machines: real guests under a real QEMU, frozen and thawed.

use frost_tests::{Outcome, Scene, Stdio, Who, guest, is_alive, output_of, until};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How often a guest is frozen and thawed.
fn rounds() -> u64 {
    std::env::var("FROST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

fn scene(who: Who) -> Option<Scene> {
    let scene = Scene::new(who)?;
    guest::kernel_for(&scene).then_some(scene)
}

/// Starts a guest whose script runs in busybox's shell.
fn start(scene: &Scene, name: &str, more: &[&str], script: &str) -> Outcome {
    let mut arguments = vec!["run", "--vm", "--ram", "128M", "--detach", "--json", "--name", name];
    arguments.extend(more);
    arguments.extend(["--", "/bin/sh", "-c", script]);
    scene.frost(&arguments).ok()
}

fn log(scene: &Scene, name: &str) -> Vec<String> {
    // What is not ended by a newline may be half of a line.
    let text = scene.frost(&["logs", name]).ok().stdout;
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| line.trim().to_owned())
        .collect()
}

/// The last line of a guest's, once it has written `more` of them.
fn later(scene: &Scene, name: &str, more: usize) -> String {
    let before = log(scene, name).len();
    let mut lines = Vec::new();
    until("the guest goes on", || {
        lines = log(scene, name);
        lines.len() >= before + more
    });
    lines.pop().unwrap_or_default()
}

fn state(scene: &Scene, name: &str) -> String {
    scene.frost(&["ps", name, "--json"]).ok().record()["state"].as_str().unwrap_or_default().to_owned()
}

/// Counts, and tells the time.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i $(date +%s); usleep 50000; done";

fn counts_on(scene: &Scene, name: &str) {
    let numbers: Vec<u64> =
        log(scene, name).iter().map(|line| line.split(' ').next().unwrap().parse().expect(line)).collect();
    assert!(!numbers.is_empty());
    assert!(numbers.iter().zip(1..).all(|(number, wanted)| *number == wanted), "{numbers:?}");
}

fn a_counter_goes_on_by_one(scene: &Scene) {
    start(scene, "counter", &[], COUNTER);
    later(scene, "counter", 3);
    for round in 1..=rounds() {
        let frozen = scene.frost(&["freeze", "counter", "--json"]).ok();
        assert_eq!(frozen.number("version"), round as i64);
        assert_eq!(state(scene, "counter"), "frozen");
        scene.is_empty_soon();
        if round == 1 {
            // Time passes that the guest must not miss.
            std::thread::sleep(Duration::from_secs(3));
        }
        scene.frost(&["thaw", "counter"]).ok();
        until("the guest's clock is right", || {
            let line = later(scene, "counter", 1);
            let theirs: u64 = line.split(' ').nth(1).unwrap().parse().expect("a time");
            let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            theirs.abs_diff(ours) <= 1
        });
    }
    scene.frost(&["thaw", "counter"]).refused(1, "runs");
    scene.frost(&["verify"]).ok();
    scene.frost(&["kill", "counter"]).ok();
    assert_eq!(scene.frost(&["wait", "counter"]).status, Some(128 + 15));
    counts_on(scene, "counter");
    scene.is_empty_soon();
}

#[test]
fn a_counter_goes_on_by_one_as_myself() {
    if let Some(scene) = scene(Who::Myself) {
        a_counter_goes_on_by_one(&scene);
    }
}

#[test]
fn a_counter_goes_on_by_one_as_an_ordinary_user() {
    if let Some(scene) = scene(Who::Ordinary) {
        a_counter_goes_on_by_one(&scene);
    }
}

#[test]
fn copies_share_memory_and_an_image_goes_to_another_store() {
    let Some(scene) = scene(Who::Myself) else { return };
    start(&scene, "one", &[], COUNTER);
    later(&scene, "one", 3);
    // It goes on, and is frozen once more from where it then is.
    let forked = scene.frost(&["fork", "one", "-n", "2", "--json"]).ok();
    let records: Vec<Value> =
        forked.stdout.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!((records.len(), &records[0]["running"]), (3, &true.into()), "{forked}");
    for copy in &records[1..] {
        assert_eq!((&copy["version"], &copy["processes"]), (&1.into(), &1.into()), "{forked}");
        assert!(copy["elapsed_us"].is_number() && copy["threads"].is_number(), "{forked}");
        let name = copy["name"].as_str().expect("a copy has a name");
        later(&scene, name, 3);
        scene.frost(&["kill", "-s", "KILL", name]).ok();
        assert_eq!(scene.frost(&["wait", name]).status, Some(128 + 9));
    }
    later(&scene, "one", 3);
    scene.frost(&["freeze", "one"]).ok();
    scene.is_empty_soon();
    counts_on(&scene, "one");
    let mut copies = Vec::new();
    for _ in 0..5 {
        let thawed = scene.frost(&["thaw", "one@1", "--clone", "--json"]).ok();
        copies.push((thawed.record()["name"].as_str().unwrap().to_owned(), thawed.number("pid") as i32));
    }
    for (name, _) in &copies {
        later(&scene, name, 3);
    }
    // All have the pack mapped, and what they read of it is there once.
    let sums: Vec<(u64, u64)> = copies.iter().map(|(_, pid)| memory_of(*pid)).collect();
    let (resident, share) = sums.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("five copies: {resident} KiB of the pack resident in all, {share} KiB of it taken: {sums:?}");
    assert!(share * 3 < resident * 2, "of what five have, each has less than two thirds to itself");
    for (name, _) in &copies {
        scene.frost(&["kill", "-s", "KILL", name]).ok();
        assert_eq!(scene.frost(&["wait", name]).status, Some(128 + 9));
    }
    scene.is_empty_soon();

    let (file, other) = (scene.stage("one.frost"), scene.path("home/other"));
    let (file, other) = (file.to_str().unwrap(), other.to_str().unwrap());
    scene.frost(&["export", "one", file]).ok();
    assert!(fs::metadata(file).unwrap().len() < 80 << 20, "what is zero is not exported");
    scene.frost(&["import", "--store", other, file]).ok();
    scene.frost(&["gc", "--store", other, "--compress-after", "0"]).ok();
    scene.frost(&["thaw", "one", "--store", other]).ok();
    let lines = || scene.frost(&["logs", "one", "--store", other]).ok().stdout;
    until("the imported guest goes on", || lines().lines().count() > 3);
    let first: u64 = lines().split(' ').next().unwrap().parse().expect("a number");
    let last: u64 = log(&scene, "one").last().unwrap().split(' ').next().unwrap().parse().expect("a number");
    assert_eq!(first, last + 1);
    scene.frost(&["kill", "one", "--store", other]).ok();
    scene.frost(&["wait", "one", "--store", other]);
    scene.is_empty_soon();
}

/// Of what a process has mapped of a pack: how much is resident, and how much of that counts as its own, in KiB.
fn memory_of(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("it runs");
    let (mut here, mut sums) = (false, (0, 0));
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            here = line.ends_with("/pack");
        } else if here {
            let kib = || line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
            match first {
                "Rss:" => sums.0 += kib(),
                "Pss:" => sums.1 += kib(),
                _ => {}
            }
        }
    }
    sums
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ask(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(command.as_bytes()).ok()?;
    let mut answer = [0; 256];
    let count = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..count]).trim().to_owned()).filter(|answer| !answer.is_empty())
}

/// Looks again and again whether what it holds in memory is as it was.
const HOLDER: &str = "dd if=/dev/urandom of=/big bs=1M count=24 2>/dev/null; sum=$(md5sum /big)
i=0; while :; do i=$((i+1)); [ \"$(md5sum /big)\" = \"$sum\" ] || { echo broken; exit 1; }; echo $i; usleep 20000; done";

#[test]
fn a_guest_that_was_thawed_is_frozen_by_what_has_changed() {
    let Some(scene) = scene(Who::Myself) else { return };
    start(&scene, "one", &[], HOLDER);
    later(&scene, "one", 2);
    let freeze =
        |more: &[&str]| scene.frost(&[&["freeze", "one", "--json"][..], more].concat()).ok().number("bytes");
    let changed = |version: u32| {
        let record = scene.frost(&["inspect", &format!("one@{version}"), "--json"]).ok().record();
        record["machine"]["changed_bytes"].as_i64().expect("a number")
    };
    let goes_on = || {
        later(&scene, "one", 2);
        counts_on(&scene, "one");
    };
    let first = freeze(&[]);
    assert_eq!(changed(1), 0);
    let mut bytes = Vec::new();
    for (version, more) in [(2, &[][..]), (3, &["--leave-running"]), (4, &[]), (5, &["--full"]), (6, &[])] {
        if version != 4 {
            scene.frost(&["thaw", "one"]).ok();
        }
        goes_on();
        bytes.push(freeze(more));
        let (own, was_full) = (changed(version), version == 5);
        assert_eq!(own == 0, was_full, "{version}: {own}");
        assert!(was_full == (bytes[bytes.len() - 1] * 2 > first), "{first}, then {bytes:?}");
        scene.frost(&["verify"]).ok();
    }
    // Each is whole without those before it, here and elsewhere.
    scene.frost(&["rm", "one@1", "one@2"]).ok();
    scene.frost(&["gc"]).ok();
    let file = scene.stage("one.frost");
    scene.frost(&["export", "one@4", file.to_str().unwrap()]).ok();
    for version in [6, 4, 3] {
        let named = format!("one@{version}");
        let copy = scene.frost(&["thaw", &named, "--clone", "--json"]).ok();
        let name = copy.record()["name"].as_str().unwrap().to_owned();
        later(&scene, &name, 3);
        scene.frost(&["kill", "-s", "KILL", &name]).ok();
    }
    let other = scene.path("home/other");
    let other = other.to_str().unwrap();
    scene.frost(&["import", "--store", other, file.to_str().unwrap()]).ok();
    scene.frost(&["thaw", "one", "--store", other]).ok();
    let lines = || scene.frost(&["logs", "one", "--store", other]).ok().stdout;
    until("the imported guest goes on", || lines().lines().count() > 2);
    assert!(!lines().contains("broken"));
    scene.frost(&["kill", "-s", "KILL", "one", "--store", other]).ok();
    // What changed is read at a thaw, so it is verified.
    let record = scene.frost(&["inspect", "one@6", "--json"]).ok().record();
    let at = record["machine"]["memory_bytes"].as_u64().expect("a number");
    let pack = scene.path("home/images/one/6/pack");
    let mut bytes = fs::read(&pack).unwrap();
    let end = bytes.len();
    bytes[at as usize..end].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&pack, bytes).unwrap();
    scene.frost(&["thaw", "one@6"]).refused(4, "damaged");
    scene.is_empty_soon();
}

#[test]
fn redis_keeps_its_data_and_its_client() {
    let Some(scene) = scene(Who::Myself) else { return };
    if !Path::new("/usr/bin/redis-server").exists() {
        return frost_tests::skip("redis-server is not installed");
    }
    let root = guest::root_of(&scene, &["/usr/bin/redis-server", "/usr/bin/redis-cli"]);
    let script = "/bin/busybox --install -s /bin; export PATH=/bin:/usr/bin
redis-server --save '' --protected-mode no --enable-debug-command yes > /tmp/log &
until redis-cli ping > /dev/null 2>&1; do usleep 100000; done
redis-cli -n 1 debug populate 10000 key 100 > /dev/null
(while :; do echo incr n; usleep 100000; done) | redis-cli";
    let port = free_port();
    let forward = format!("{port}:6379");
    start(&scene, "redis", &["--root", root.to_str().unwrap(), "--port", &forward], script);
    later(&scene, "redis", 3);
    let client = |port: u16| {
        let mut answer = None;
        until("redis answers", || {
            answer = ask(port, "SELECT 1\r\n").and_then(|_| ask(port, "CLIENT LIST\r\n"));
            answer.is_some()
        });
        let clients = answer.unwrap();
        // The client inside is the same one: its id and port are.
        let inside = clients.lines().find(|line| line.contains("addr=127.0.0.1")).map(|line| {
            line.split(' ')
                .filter(|word| word.starts_with("id=") || word.starts_with("addr="))
                .collect::<Vec<_>>()
                .join(" ")
        });
        inside.expect("the client is connected")
    };
    let before = client(port);
    for _ in 0..rounds() {
        scene.frost(&["freeze", "redis"]).ok();
        scene.is_empty_soon();
        scene.frost(&["thaw", "redis"]).ok();
        later(&scene, "redis", 3);
        assert_eq!(client(port), before);
    }
    // Somebody else has the port meanwhile: another one leads to the same of the guest.
    scene.frost(&["freeze", "redis"]).ok();
    let _taken = TcpListener::bind(("127.0.0.1", port)).expect("nobody has it");
    scene.frost(&["thaw", "redis"]).refused(1, "is in use");
    scene.frost(&["thaw", "redis", "--port", "http"]).refused(2, "no pair of ports");
    let port = free_port();
    scene.frost(&["thaw", "redis", "--port", &format!("{port}:6379")]).ok();
    assert_eq!(client(port), before);
    until("all keys are there", || {
        let mut stream = match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => stream,
            Err(_) => return false,
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut answer = String::new();
        let _ = stream.write_all(b"SELECT 1\r\nDBSIZE\r\nQUIT\r\n");
        let _ = stream.read_to_string(&mut answer);
        answer.contains(":10000")
    });
    let numbers: Vec<u64> = log(&scene, "redis").iter().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.iter().zip(1..).all(|(number, wanted)| *number == wanted), "{numbers:?}");
    scene.frost(&["kill", "-s", "KILL", "redis"]).ok();
    scene.is_empty_soon();
}

#[test]
fn a_file_tree_amid_writing_is_clean_after_a_shutdown() {
    let Some(scene) = scene(Who::Myself) else { return };
    let root = guest::root_of(&scene, &[]);
    fs::write(root.join("etc/known"), "what was there before\n").unwrap();
    let script = "/bin/busybox --install -s /bin; export PATH=/bin; trap 'exit 3' TERM; mkdir /data
i=0; while :; do i=$((i+1)); mkdir -p /data/$((i%7)); echo number $i > /data/$((i%7))/$i; rm -f /data/*/$((i-40))
sync; cat /data/$((i%7))/$i; done";
    start(&scene, "tree", &["--root", root.to_str().unwrap()], script);
    later(&scene, "tree", 3);
    let mut last = serde_json::Value::Null;
    for _ in 0..rounds() {
        scene.frost(&["freeze", "tree"]).ok();
        scene.is_empty_soon();
        last = scene.frost(&["inspect", "tree", "--json"]).ok().record();
        scene.frost(&["thaw", "tree"]).ok();
        later(&scene, "tree", 5);
    }
    scene.frost(&["kill", "tree"]).ok();
    assert_eq!(scene.frost(&["wait", "tree"]).status, Some(3));
    scene.is_empty_soon();
    let numbers: Vec<u64> =
        log(&scene, "tree").iter().filter_map(|line| line.strip_prefix("number ")?.parse().ok()).collect();
    assert!(
        numbers.len() > 10 && numbers.iter().zip(1..).all(|(number, wanted)| *number == wanted),
        "{numbers:?}"
    );

    // The disk, as the guest left it: what it began with, from the image, and what it wrote.
    let pack = scene.path("home").join(format!("images/tree/{}/pack", rounds()));
    let base = last["machine"]["disks"][0]["base"][0].as_u64().expect("its disk begins in the image");
    let layer = scene.path("home/instances/tree/machine/layer.0");
    let raw = scene.stage("disk");
    guest::disk([(&pack, base), (&layer, 0)], &raw);
    let said = output_of(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&raw));
    assert!(!said.contains("recovering journal"), "{said}");
    let cat = |path: &str| {
        output_of(Command::new("/usr/sbin/debugfs").args(["-R", &format!("cat {path}")]).arg(&raw))
    };
    assert_eq!(cat("/etc/known"), "what was there before\n");
    let newest = numbers.last().unwrap();
    assert_eq!(cat(&format!("/data/{}/{newest}", newest % 7)), format!("number {newest}\n"));
}

#[test]
fn a_disk_image_is_not_written_to_and_must_stay_as_it_was() {
    let Some(scene) = scene(Who::Myself) else { return };
    let root = guest::root_of(&scene, &[]);
    let image = scene.stage("disk.img");
    let mut mkfs = Command::new("/usr/sbin/mkfs.ext4");
    output_of(mkfs.args(["-q", "-F", "-d"]).arg(&root).arg(&image).arg("64M"));
    let before = fs::read(&image).unwrap();
    start(
        &scene,
        "disk",
        &["--root", image.to_str().unwrap()],
        "/bin/busybox touch /made; i=0; while :; do i=$((i+1)); echo $i; /bin/busybox usleep 50000; done",
    );
    later(&scene, "disk", 3);
    scene.frost(&["freeze", "disk"]).ok();
    scene.is_empty_soon();
    assert!(fs::read(&image).unwrap() == before, "the guest writes to a layer of its own");

    let mut changed = before.clone();
    changed[5000] ^= 1;
    fs::write(&image, &changed).unwrap();
    scene.frost(&["thaw", "disk"]).refused(6, "was changed");
    let aside = scene.stage("aside");
    fs::rename(&image, &aside).unwrap();
    scene.frost(&["thaw", "disk"]).refused(6, "disk.img");
    // Put back by hand it has another time, and the same content.
    fs::write(&image, &before).unwrap();
    scene.frost(&["thaw", "disk"]).ok();
    later(&scene, "disk", 3);
    scene.frost(&["kill", "-s", "KILL", "disk"]).ok();
    scene.is_empty_soon();
}

#[test]
fn nothing_is_lost_when_something_fails() {
    let Some(scene) = scene(Who::Myself) else { return };
    // A keeper that cannot write: the freeze fails, and the guest goes on.
    let mut command = scene.frost_command(&[
        "run", "--vm", "--ram", "128M", "--detach", "--name", "one", "--", "sh", "-c", COUNTER,
    ]);
    scene.run(command.env("FROST_FAIL_AT", "store.pack.sync:ENOSPC"), frost_tests::LIMIT).ok();
    later(&scene, "one", 3);
    for _ in 0..2 {
        scene.frost(&["freeze", "one"]).refused(7, "no space");
        later(&scene, "one", 3);
    }
    counts_on(&scene, "one");
    assert_eq!(scene.frost(&["list", "--json"]).ok().stdout, "");
    // QEMU is killed: that is an end, and told as one.
    let pid = scene.frost(&["ps", "one", "--json"]).ok().number("pid") as i32;
    kill(pid);
    assert_eq!(scene.frost(&["wait", "one"]).status, Some(128 + 9));
    scene.is_empty_soon();
    assert_eq!(state(&scene, "one"), "ended");

    // The keeper is killed: QEMU ends with it.
    let started = start(&scene, "two", &[], COUNTER);
    let (pid, keeper) = (started.number("pid") as i32, started.number("keeper") as i32);
    later(&scene, "two", 1);
    scene.frost(&["freeze", "two", "--leave-running"]).ok();
    kill(keeper);
    until("QEMU ends with its keeper", || !is_alive(pid));
    scene.is_empty_soon();
    // Its threads end one after another.
    until("the machine is told to be frozen", || state(&scene, "two") == "frozen");
    scene.frost(&["thaw", "two"]).ok();
    later(&scene, "two", 3);
    scene.frost(&["kill", "-s", "KILL", "two"]).ok();
    scene.is_empty_soon();
}

/// Starts a command, and kills it after so many milliseconds if it still runs.
fn killed_after(scene: &Scene, arguments: &[&str], moment: u64) {
    let mut command = scene.start(&mut scene.frost_command(arguments), Stdio::Null);
    std::thread::sleep(Duration::from_millis(moment));
    if command.ended().is_none() {
        kill(command.pid());
    }
    command.wait("the killed command", frost_tests::LIMIT);
}

#[test]
fn the_command_is_killed_at_any_moment() {
    let Some(scene) = scene(Who::Myself) else { return };
    start(&scene, "counter", &[], COUNTER);
    later(&scene, "counter", 3);
    for round in 0..2 * rounds() {
        // Spread over the time that either takes.
        killed_after(&scene, &["freeze", "counter"], 7 + round * 131 % 700);
        // It was frozen by its keeper, or never asked for that; a second command finds out.
        until("it is frozen", || {
            let outcome = scene.frost(&["freeze", "counter"]);
            outcome.status == Some(0) || state(&scene, "counter") == "frozen"
        });
        scene.is_empty_soon();
        killed_after(&scene, &["thaw", "counter"], 5 + round * 97 % 400);
        until("it runs", || {
            let outcome = scene.frost(&["thaw", "counter"]);
            outcome.status == Some(0) || state(&scene, "counter") == "running"
        });
        later(&scene, "counter", 2);
    }
    scene.frost(&["verify"]).ok();
    counts_on(&scene, "counter");
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    scene.is_empty_soon();
}

#[test]
fn qemu_or_its_keeper_is_killed_amid_a_freeze() {
    let Some(scene) = scene(Who::Myself) else { return };
    for (round, victim) in ["pid", "keeper"].into_iter().cycle().take(rounds().max(2) as usize).enumerate() {
        let name = format!("guest-{round}");
        let started = start(&scene, &name, &[], COUNTER);
        later(&scene, &name, 2);
        scene.frost(&["freeze", &name, "--leave-running"]).ok();
        later(&scene, &name, 2);
        let mut freeze = scene.start(&mut scene.frost_command(&["freeze", &name]), Stdio::Null);
        std::thread::sleep(Duration::from_millis(20 + 60 * round as u64 % 700));
        let pid = rustix::process::Pid::from_raw(started.number(victim) as i32).expect("a pid");
        // It may have ended by then, as it does when the freeze is done.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        freeze.wait("the freeze", frost_tests::LIMIT);
        scene.is_empty_soon();
        // Version 1 is there in any case, and 2 is there whole or not at all.
        scene.frost(&["verify"]).ok();
        scene.frost(&["thaw", &name]).ok();
        later(&scene, &name, 2);
        scene.frost(&["kill", "-s", "KILL", &name]).ok();
        scene.is_empty_soon();
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
}

#[test]
fn in_the_foreground_it_is_as_any_program() {
    let Some(scene) = scene(Who::Myself) else { return };
    let run = ["run", "--vm", "--ram", "128M", "--"];
    let with = |more: &[&str]| scene.frost(&[&run[..], more].concat());
    let outcome = with(&["sh", "-c", "cat; echo out; kill -TERM $$"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(128 + 15), "out\n"), "{outcome}");
    assert_eq!(scene.frost(&["ps", "--json"]).ok().stdout, "", "nothing is left of what was waited for");
    with(&["/nonexistent"]).refused(127, "/nonexistent");
    with(&["/etc/passwd"]).refused(126, "/etc/passwd");
    // Its root is none that was only entered, in which there are no user namespaces.
    assert_eq!(with(&["sh", "-c", "unshare -U true && echo made"]).ok().stdout, "made\n");
    scene.is_empty_soon();
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts() {
    let Some(scene) = scene(Who::Myself) else { return };
    let run = |more: &[&str]| {
        let mut arguments = vec!["run", "--vm", "--detach", "--name", "no"];
        arguments.extend(more);
        arguments.extend(["--", "sh"]);
        scene.frost(&arguments)
    };
    run(&["--ram", "16M"]).refused(125, "96 MiB");
    run(&["--ram", "much"]).refused(125, "no size");
    run(&["--port", "80"]).refused(125, "no pair of ports");
    run(&["--kernel", "/etc/passwd"]).refused(125, "cannot be used as a guest's kernel");
    run(&["--kernel", "/nonexistent"]).refused(125, "/nonexistent");
    run(&["--root", "/nonexistent"]).refused(125, "/nonexistent");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("{}:80", taken.local_addr().unwrap().port());
    run(&["--port", &port]).refused(125, "is in use");
    let mut command = scene.frost_command(&["run", "--vm", "--", "sh"]);
    scene.run(command.env("PATH", "/nonexistent"), frost_tests::LIMIT).refused(125, "qemu-system-x86");
    // More files than memory: the kernel gives up, and its own words are told.
    let large = scene.stage("large");
    let mut script = b"#!/bin/sh\n".to_vec();
    script.resize(60 << 20, b'#');
    fs::write(&large, script).unwrap();
    fs::set_permissions(&large, fs::Permissions::from_mode(0o755)).unwrap();
    let outcome =
        scene.frost(&["run", "--vm", "--ram", "96M", "--name", "no", "--", large.to_str().unwrap()]);
    outcome.refused(125, "Kernel panic");
    scene.is_empty_soon();
    fs::remove_dir_all(scene.path("home/vm/kernel")).unwrap();
    run(&[]).refused(125, "vm setup");
    assert_eq!(scene.frost(&["ps", "--json"]).ok().stdout, "");
    scene.is_empty_soon();
}

#[test]
fn a_qemu_that_somebody_started_is_taken_over() {
    let Some(scene) = scene(Who::Myself) else { return };
    let script = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
i=0; while :; do i=$((i+1)); echo number $i > /dev/ttyS0; /bin/busybox usleep 50000; done";
    guest::first_root(&scene, &guest::root_of(&scene, &[]), script);
    let kernel = scene.path("home/vm/kernel/vmlinuz");
    let qemu = |socket: &str, more: &[&str]| {
        let mut command = scene.command("qemu-system-x86_64");
        command.args([
            "-M",
            "q35",
            "-m",
            "128",
            "-nodefaults",
            "-display",
            "none",
            "-accel",
            "tcg",
            "-kernel",
        ]);
        command.arg(&kernel).args(["-initrd", "initramfs", "-append", "console=ttyS0 quiet"]);
        command.args(["-chardev", "file,id=out,append=on,path=serial", "-serial", "chardev:out"]);
        command.args(["-qmp", &format!("unix:{socket},server=on,wait=off")]).args(more);
        scene.start(&mut command, frost_tests::Stdio::Null)
    };
    let adopt = |socket: &str| {
        // Its name is there a moment before; a connection would be its only one. The fourth word are flags: __SO_ACCEPTCON.
        until("its monitor listens", || {
            let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
            let named =
                |line: &str| [' ', '/'].iter().any(|before| line.ends_with(&format!("{before}{socket}")));
            sockets.lines().any(|line| named(line) && line.contains(" 00010000 "))
        });
        scene.frost(&["vm", "adopt", "--qmp", socket, "--name", "mine"])
    };
    let numbers = || -> Vec<u64> {
        let text = fs::read_to_string(scene.stage("serial")).unwrap_or_default();
        // The kernel's own words may stand before the first.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| line.trim().split_once("number ")?.1.parse().ok())
            .collect()
    };
    let goes_on = || {
        let before = numbers().len();
        until("the guest counts on", || numbers().len() >= before + 3);
    };

    // One that cannot be carried is left as it was.
    let host = qemu("host", &["-cpu", "max"]);
    adopt("host").refused(3, "max");
    assert!(is_alive(host.pid()));
    kill(host.pid());
    until("it ends", || !is_alive(host.pid()));
    fs::remove_file(scene.stage("serial")).unwrap();
    let silent = std::os::unix::net::UnixListener::bind(scene.stage("silent")).unwrap();
    let answers = std::thread::spawn(move || silent.accept().unwrap().0.write_all(b"SSH-2.0-nothing\r\n"));
    adopt("silent").refused(2, "no QMP monitor");
    answers.join().unwrap().unwrap();

    let mine = qemu("mine", &["-cpu", "Nehalem"]);
    goes_on();
    adopt("mine").ok();
    assert_eq!(state(&scene, "mine"), "running");
    scene.frost(&["check", "mine"]).ok();
    for _ in 0..2 {
        scene.frost(&["freeze", "mine"]).ok();
        assert_eq!(state(&scene, "mine"), "frozen");
        until("QEMU has ended", || !is_alive(mine.pid()));
        scene.is_empty_soon();
        scene.frost(&["thaw", "mine"]).ok();
        goes_on();
    }
    scene.frost(&["freeze", "mine", "--leave-running"]).ok();
    goes_on();
    scene.frost(&["kill", "-s", "KILL", "mine"]).ok();
    scene.is_empty_soon();
    let numbers = numbers();
    assert!(numbers.iter().zip(1..).all(|(number, wanted)| *number == wanted), "{numbers:?}");
}
