//! Images that store only what changed since an earlier one: each of them is the program as it was.

use frost_tests::journey::Traveller;
use frost_tests::{Scene, Stdio, Who, is_alive, until};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

fn set_out<'a>(scene: &'a Scene, name: &str) -> Traveller<'a> {
    Traveller::set_out(scene, Path::new(env!("CARGO_BIN_EXE_victim")), name, Stdio::Files)
}

/// Programs whose memory is of many kinds: filled, sparse, copied by fork, not readable, of files, in threads.
const VICTIMS: [&str; 14] = [
    "anonymous_filled",
    "anonymous_sparse",
    "anonymous_forked",
    "anonymous_unreadable",
    "anonymous_guard_regions",
    "registers_of_threads",
    "shared_between_processes",
    "shared_sparse",
    "shared_part_unmapped",
    "memfd_shared",
    "memfd_closed",
    "volatile_mapped",
    "volatile_shared",
    "pipe_stream",
];

fn snapshots(who: Who) {
    for name in VICTIMS {
        let Some(scene) = Scene::new(who) else { return };
        let mut traveller = set_out(&scene, name);
        let pid = traveller.pid.to_string();
        let snapshot = |more: &[&str]| {
            let mut arguments = vec!["freeze", &pid, "--to", "victim", "--leave-running", "--json"];
            arguments.extend(more);
            scene.frost(&arguments).ok().record()
        };
        let first = snapshot(&[]);
        assert!(first["base"].is_null(), "{name}: {first}");
        let second = snapshot(&[]);
        assert_eq!(second["base"], 1, "{name}: {second}");
        assert!(second["bytes"].as_u64() <= first["bytes"].as_u64(), "{name}: {second} after {first}");
        let full = snapshot(&["--full"]);
        assert!(full["base"].is_null(), "{name}: {full}");
        traveller.freeze();
        // What one needs is not taken away with another.
        scene.frost(&["rm", "victim@1"]).ok();
        scene.frost(&["rm", "victim@3"]).ok();
        scene.frost(&["gc"]).ok();
        scene.frost(&["verify", "victim@2"]).ok();
        scene.frost(&["verify", "victim@4"]).ok();
        // From elsewhere, as one stream.
        scene.frost(&["export", "victim@4", &scene.path("stage").join("stream").display().to_string()]).ok();
        scene.frost(&["rm", "victim"]).ok();
        scene.frost(&["import", &scene.path("stage").join("stream").display().to_string()]).ok();
        traveller.thaw(&[]);
        traveller.arrive("thawed");
        scene.is_empty_soon();
    }
}

#[test]
fn each_image_is_whole() {
    snapshots(Who::Myself);
}

#[test]
fn each_image_is_whole_for_an_ordinary_user() {
    snapshots(Who::Ordinary);
}

/// An earlier version is thawed, goes on, and is frozen: the newest one is not what it came from.
#[test]
fn versions_branch() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = set_out(&scene, "anonymous_filled");
    let pid = traveller.pid.to_string();
    for _ in 0..2 {
        scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
    }
    kill_process(Pid::from_raw(traveller.pid).expect("it runs"), Signal::KILL).expect("our own program");
    until("the program has ended", || !is_alive(traveller.pid));
    traveller.is_gone();
    for version in ["victim@1", "victim@2", "victim@1"] {
        let thawed = scene.frost(&["thaw", version, "--json"]).ok();
        traveller.pid = thawed.number("pid") as i32;
        assert!(is_alive(traveller.pid));
        traveller.freeze();
    }
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// The disk is full in the middle of an incremental image: the earlier one is as it was.
#[test]
fn a_full_disk_leaves_the_earlier_image_whole() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = set_out(&scene, "anonymous_filled");
    let pid = traveller.pid.to_string();
    scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
    for step in
        ["store.pack.sync:ENOSPC", "store.manifest.sync:EIO", "freeze.sessions:kill", "freeze.memory:kill"]
    {
        let mut command = scene.frost_command(&["freeze", &pid, "--to", "victim", "--leave-running"]);
        command.env("FROST_FAIL_AT", step);
        let outcome = scene.run(&mut command, frost_tests::LIMIT);
        assert_ne!(outcome.status, Some(0), "{step}\n{outcome}");
        scene.frost(&["verify", "victim@1"]).ok();
    }
    traveller.freeze();
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// A program that is written all over again and again: now and then an image begins a new pack, so that none lists the
/// blocks of all that there ever were.
#[test]
fn a_pack_does_not_grow_for_ever() {
    const PROGRAM: &str = "\
import mmap, os
memory = mmap.mmap(-1, 12 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
while True:
    memory[:] = os.urandom(len(memory))
    print(flush=True)
    if not input():
        break
";
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut command = scene.command("python3");
    command.args(["-c", PROGRAM]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut program = command.spawn().expect("python3 is there");
    let pid = program.id().to_string();
    let mut written = BufReader::new(program.stdout.take().expect("piped"));
    let mut stdin = program.stdin.take().expect("piped");
    let mut begun = Vec::new();
    for version in 1..=40 {
        written.read_line(&mut String::new()).expect("it says when it has written");
        let image =
            scene.frost(&["freeze", &pid, "--to", "written", "--leave-running", "--json"]).ok().record();
        if image["base"].is_null() {
            begun.push(version);
        } else {
            assert_eq!(image["base"], version - 1, "{image}");
        }
        stdin.write_all(b"again\n").expect("it reads");
    }
    assert!(begun.len() > 1 && begun[0] == 1 && begun[1] > 10, "{begun:?}");
    let manifest = |version: u32| {
        let path = scene.path("home").join(format!("images/written/{version}/manifest"));
        std::fs::metadata(path).expect("it has a manifest").len()
    };
    assert!(manifest(begun[1]) < manifest(begun[1] - 1), "{begun:?}");
    program.kill().expect("our own program");
    program.wait().expect("our own program");
    for version in [1, begun[1] - 1, begun[1], 40] {
        scene.frost(&["verify", &format!("written@{version}")]).ok();
    }
    scene.frost(&["rm", "written"]).ok();
    scene.is_empty_soon();
}
