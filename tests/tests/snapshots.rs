//! Images of a program that goes on: each is of one instant, and the program notices nothing.
//!
//! `FROST_SNAPSHOTS` says how many are made of each program (3).

use frost_tests::journey::Traveller;
use frost_tests::{LIMIT, Scene, Stdio, Who, is_root, journey, skip, until};
use std::fs;
use std::path::Path;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

fn rounds() -> u32 {
    std::env::var("FROST_SNAPSHOTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Programs whose memory changes, is mapped and unmapped, while it is copied.
macro_rules! moving {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn each_snapshot_is_of_one_instant() {
                journey::snapshots(binary(), stringify!($name), Who::Myself, rounds());
            }

            #[test]
            fn each_snapshot_by_an_ordinary_user_is_of_one_instant() {
                journey::snapshots(binary(), stringify!($name), Who::Ordinary, rounds());
            }

            #[test]
            fn ended_behind_a_precopy() {
                journey::thawed_after_precopy(binary(), stringify!($name), Who::Myself);
            }
        }
    )*};
}

/// What it reads may be written by a device past all protection, so it is copied while it stands still.
#[test]
fn a_snapshot_of_what_reads_directly_is_of_one_instant() {
    journey::snapshots_in_the_stop(binary(), "moving_direct", Who::Myself, rounds());
}

/// Who executes a program waits for its tracer, who must not wait for it.
#[test]
fn snapshots_of_who_executes_itself_without_end() {
    for who in [Who::Myself, Who::Ordinary] {
        let Some(scene) = Scene::new(who) else { continue };
        let traveller = Traveller::set_out(&scene, binary(), "thread_executing", Stdio::Null);
        let pid = traveller.pid.to_string();
        // The moment that matters is met by one of about ten.
        for _ in 0..40 {
            scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
        }
        traveller.arrive("left running");
        scene.is_empty_soon();
    }
}

/// The same of reads from a file system whose server writes to the reader's memory.
#[test]
fn a_snapshot_of_what_is_served_directly_is_of_one_instant() {
    let python = Path::new("/usr/bin/python3");
    if !is_root() || !python.exists() || !Path::new("/dev/fuse").exists() {
        skip("a file system of FUSE takes root, python3 and /dev/fuse");
        return;
    }
    let Some(scene) = Scene::new(Who::Myself) else { return };
    for script in ["served_directly.py", "fuse.py"] {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(script);
        fs::copy(program, scene.stage(script)).expect("our own directory");
    }
    let mut command = scene.command("setsid");
    command.args(["unshare", "--mount", "--propagation", "private"]).arg(python).arg("served_directly.py");
    let mut started = scene.start(&mut command, Stdio::Null);
    until("it reads", || scene.stage("ready").exists() || started.ended().is_some());
    if started.ended().is_some() {
        skip("a file system of FUSE cannot be mounted here");
        return;
    }
    let server: i32 = scene.await_file("ready").parse().expect("a number");
    // The file system is to be found by the same path.
    let frost = |arguments: &[&str]| {
        let mut command = scene.command("nsenter");
        command.arg(format!("--mount=/proc/{server}/ns/mnt")).arg(scene.path("bin").join("frost"));
        scene.run(command.args(arguments), LIMIT).ok()
    };
    let pid = started.pid().to_string();
    for _ in 0..rounds() {
        let outcome = frost(&["freeze", &pid, "--to", "victim", "--leave-running", "--full", "--json"]);
        assert!(
            outcome.number("dirty_pages") * 4096 >= 8 << 20,
            "not copied while it stood still\n{outcome}"
        );
    }
    let judge = || {
        fs::write(scene.stage("go"), "").expect("our own directory");
        assert_eq!(scene.await_file("result"), "ok");
        fs::remove_file(scene.stage("go")).expect("it is ours");
        fs::remove_file(scene.stage("result")).expect("it is ours");
    };
    judge();
    started.wait("a program that has told its verdict", LIMIT);
    for version in 1..=rounds() {
        frost(&["thaw", &format!("victim@{version}"), "--clone"]);
        judge();
    }
    let server = rustix::process::Pid::from_raw(server).expect("a process");
    rustix::process::kill_process(server, rustix::process::Signal::KILL).expect("it is ours");
    scene.is_empty_soon();
}

/// A leader that is seized on its way to its end is not waited for.
#[test]
fn each_snapshot_amid_the_ends_of_leaders_is_of_one_instant() {
    for who in [Who::Myself, Who::Ordinary] {
        journey::snapshots_of_comers_and_goers(binary(), "moving_leaders_end", who, rounds() * 4);
    }
}

moving! {
    moving_counters
    moving_leader
    moving_locks
    moving_mappings
    moving_remapped
    moving_shared
    memfd_shared
    memfd_sparse
    memfd_closed
    shared_sparse
    shared_part_unmapped
    moving_stack
    moving_file
    anonymous_huge_pages
    anonymous_guard_regions
    anonymous_unreadable
    anonymous_advice
    anonymous_forked
    anonymous_forked_shared
    shared_between_processes
    restart_futex_timeout
    tree_sessions
}
