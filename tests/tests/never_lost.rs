//! Never lost: whatever dies or fails at whatever named step, the program runs unharmed or its image is whole; and no
//! half tree stays. For deaths at any moment see `kills.rs`.

use frost_tests::journey::Traveller;
use frost_tests::tally::{Ending, OVER, Tally};
use frost_tests::{
    LIMIT, Outcome, Scene, Stdio, Who, each_below, is_alive, is_frost, is_root, skip, tree_of, until,
};
use rustix::process::{Pid, Signal};
use std::path::Path;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

/// Programs that notice: all registers in use, calls that must not return EINTR, data under way, memory shared.
const VICTIMS: [&str; 4] =
    ["registers_of_threads", "restart_in_threads_at_least", "pipe_stream", "shared_between_processes"];

/// Runs `frost` with a fault at a step.
fn frost_with_fault(scene: &Scene, arguments: &[&str], fault: &str) -> Outcome {
    let mut command = scene.frost_command(arguments);
    command.env("FROST_FAIL_AT", fault);
    scene.run(&mut command, LIMIT)
}

/// The step that a fault hit: none if the command came to its end, since it did not reach that step or did without.
fn hit<'a>(outcome: &Outcome, step: &'a str) -> &'a str {
    if outcome.status == Some(0) { OVER } else { step }
}

/// Whatever happened to a freeze: the program runs and is content, or it is gone and its image can be thawed.
fn safe_and_sound(scene: &Scene, mut traveller: Traveller<'_>, how: &str) -> Ending {
    // Whoever was not killed comes to an end by itself: the guardian, the command.
    scene.until("frost has ended", || scene.processes().iter().all(|pid| !is_frost(*pid)));
    let result = scene.stage("result");
    let mut runs = is_alive(traveller.pid);
    let mut excluded = false;
    if runs {
        // What a guardian that died has left in the program, inert, the next command takes away.
        excluded = scene.frost(&["list"]).ok().stdout.contains("superseded");
        traveller.say_go("left alone");
        // It may have been ended right then, and be on its way out.
        scene.until("it tells its verdict, or has ended", || result.exists() || !is_alive(traveller.pid));
        runs = result.exists();
    }
    let ending = match (runs, excluded) {
        (true, false) => Ending::GoesOn,
        (true, true) => Ending::Excluded,
        (false, _) => Ending::Frozen,
    };
    if runs {
        traveller.arrive("left alone");
    } else {
        let _not_yet = std::fs::remove_file(scene.stage("go"));
        // Its end had begun, and goes on without whoever began it.
        scene.until("all of it has ended", || traveller.tree.iter().all(|pid| !is_alive(*pid)));
        traveller.is_gone();
        let outcome = scene.frost(&["list", "--json"]).ok();
        assert!(
            outcome.stdout.contains("\"victim\""),
            "{how}: the program is gone, and so is its image\n{outcome}"
        );
        traveller.thaw(&[]);
        traveller.arrive("thawed");
    }
    scene.is_empty_soon();
    ending
}

fn set_out<'a>(scene: &'a Scene, name: &str) -> Traveller<'a> {
    Traveller::set_out(scene, binary(), name, Stdio::Files)
}

fn freeze_fault_at_each_step(kind: &str, more: &[&str]) {
    let tally = Tally::default();
    each_below(frost_freeze::STEPS.len(), |index| {
        let step = frost_freeze::STEPS[index];
        let Some(scene) = Scene::new(Who::Myself) else { return };
        // Another program at each step; over all the kinds of faults, each step meets several.
        let traveller = set_out(&scene, VICTIMS[(index + kind.len() + more.len()) % VICTIMS.len()]);
        let pid = traveller.pid.to_string();
        let mut arguments = vec!["freeze", &pid, "--to", "victim"];
        arguments.extend(more);
        let fault = format!("{step}:{kind}");
        let round = tally.begin();
        let outcome = frost_with_fault(&scene, &arguments, &fault);
        // Such a message asks for a report, and no other is one of a panic.
        let asks = outcome.stderr.contains("report it");
        assert_eq!(asks, outcome.stderr.contains("panicked"), "{fault}\n{outcome}");
        assert!(!asks || kind == "panic", "{fault}\n{outcome}");
        if outcome.status != Some(0) {
            // A step that was not reached, or whose failure does no harm, lets the freeze succeed.
            assert!(outcome.stderr.contains("state:"), "{fault}: nothing tells how things stand\n{outcome}");
        }
        round.end(hit(&outcome, step), safe_and_sound(&scene, traveller, &fault));
    });
}

#[test]
fn the_guardian_dies_at_each_step() {
    freeze_fault_at_each_step("kill", &[]);
}

#[test]
fn the_guardian_panics_at_each_step() {
    freeze_fault_at_each_step("panic", &[]);
}

/// No call ends several processes at once: where the guardian dies amid their end, none of them goes on without the others.
#[test]
fn a_tree_ends_as_a_whole_or_goes_on_as_a_whole() {
    for (step, expected) in [("freeze.hold", Ending::Excluded), ("freeze.ending", Ending::Frozen)] {
        // A guardian that stands still is killed with its command.
        for fault in ["kill", "panic", "stop"] {
            for name in ["pipe_stream", "shared_between_processes", "tree_stopped_child"] {
                let Some(scene) = Scene::new(Who::Myself) else { return };
                let traveller = set_out(&scene, name);
                let stand_still =
                    || traveller.tree.iter().copied().filter(|pid| is_stopped(*pid)).collect::<Vec<i32>>();
                let stood_still = stand_still();
                let how = format!("{name}: {step}:{fault}");
                let pid = traveller.pid.to_string();
                let arguments = ["freeze", &pid, "--to", "victim"];
                if fault == "stop" {
                    stopped_and_killed(&scene, &arguments, step, || true);
                } else {
                    let outcome = frost_with_fault(&scene, &arguments, &format!("{step}:{fault}"));
                    assert_ne!(outcome.status, Some(0), "{how}\n{outcome}");
                    // It is its command that takes this up.
                    assert_eq!(is_alive(traveller.pid), expected == Ending::Excluded, "{how}\n{outcome}");
                    if expected == Ending::Excluded {
                        // What stood still goes on for a moment when it is let go.
                        until(&format!("{how}: the same stand still"), || stand_still() == stood_still);
                    }
                }
                assert_eq!(safe_and_sound(&scene, traveller, &how), expected, "{how}");
            }
        }
    }
}

/// Runs `frost` until its guardian stands still at a step, and kills both when `then` holds.
fn stopped_and_killed(scene: &Scene, arguments: &[&str], step: &str, then: impl FnMut() -> bool) {
    let mut command = scene.frost_command(arguments);
    command.env("FROST_FAIL_AT", format!("{step}:stop"));
    let mut command = scene.start(&mut command, Stdio::Files);
    let mut guardian = None;
    scene.until("the guardian stands still", || {
        assert_eq!(command.ended(), None, "{step}: the command has ended");
        guardian = tree_of(command.pid()).get(1).copied();
        guardian.is_some_and(is_stopped)
    });
    scene.until("it may be killed", then);
    for pid in [command.pid()].into_iter().chain(guardian) {
        rustix::process::kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL)
            .expect("it stands still");
    }
    command.wait(step, LIMIT);
}

/// What the ends of processes have undone in a set that stayed is done again by each, some of whom wait for others.
#[test]
fn semaphores_are_operated_again_where_they_stayed() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let traveller = set_out(&scene, "sysv_semaphore_undo");
    let pid = traveller.pid.to_string();
    let last = *traveller.tree.last().expect("it has children");
    // The kernel keeps values from becoming negative, so what is left depends on who ended first.
    let arguments = ["freeze", &pid, "--to", "victim"];
    stopped_and_killed(&scene, &arguments, "freeze.ending", || !is_alive(last));
    assert_eq!(safe_and_sound(&scene, traveller, "freeze.ending:stop"), Ending::Frozen);
}

fn is_stopped(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.contains("State:\tT"))
}

#[test]
fn the_guardian_dies_at_each_step_of_a_snapshot() {
    freeze_fault_at_each_step("kill", &["--leave-running"]);
}

/// What waits in a terminal is taken out and put back by a process of its own, which goes on without the guardian.
#[test]
fn the_guardian_dies_while_a_terminal_is_looked_at() {
    for name in ["pty_typed", "pty_typed_raw", "pty_output_full", "pty_slave_closed", "pty_stopped"] {
        let Some(scene) = Scene::new(Who::Myself) else { return };
        let traveller = set_out(&scene, name);
        let pid = traveller.pid.to_string();
        let outcome = frost_with_fault(&scene, &["freeze", &pid, "--to", "victim"], "freeze.terminals:kill");
        assert!(
            outcome.status != Some(0) && is_alive(traveller.pid),
            "{name}: the guardian was killed\n{outcome}"
        );
        safe_and_sound(&scene, traveller, name);
    }
}

/// So is what waits in a queue, also beside the thread that hashes what a large program has.
#[test]
fn the_guardian_dies_while_a_queue_is_looked_at() {
    for options in [&[][..], &["--leave-running"], &["--precopy"]] {
        for name in ["mqueue_half_full", "mqueue_full"] {
            let Some(scene) = Scene::new(Who::Myself) else { return };
            let traveller = Traveller::set_out_together(&scene, binary(), "cc", &["anonymous_filled", name]);
            let pid = traveller.pid.to_string();
            let arguments = [&["freeze", &pid, "--to", "victim"], options].concat();
            let outcome = frost_with_fault(&scene, &arguments, "freeze.queues:kill");
            assert!(
                outcome.status != Some(0) && is_alive(traveller.pid),
                "{name}: the guardian was killed\n{outcome}"
            );
            safe_and_sound(&scene, traveller, name);
        }
    }
}

/// What is moved for an instant so that all of it can be seen is put back without the guardian.
#[test]
fn the_guardian_dies_while_something_is_moved() {
    // A program that is let go by a kill may write before the repair of its connection is ended, and be told of an error.
    let of_root = [("tcp_full", "freeze.repair", &["EIO"][..])].into_iter().filter(|_| is_root());
    let of_all = [
        ("unix_datagram", "freeze.peek", &["kill", "EIO"][..]),
        ("unix_seqpacket", "freeze.peek", &["kill", "EIO"]),
        ("udp_queued", "freeze.peek", &["kill", "EIO"]),
        ("udp_queued_aimed", "freeze.peek", &["kill", "EIO"]),
        ("sysv_segment_detached", "freeze.segment", &["kill", "EIO"]),
    ];
    for (name, step, faults) in of_all.into_iter().chain(of_root) {
        for fault in faults {
            let Some(scene) = Scene::new(Who::Myself) else { return };
            let traveller = set_out(&scene, name);
            let pid = traveller.pid.to_string();
            let fault = format!("{step}:{fault}");
            let outcome = frost_with_fault(&scene, &["freeze", &pid, "--to", "victim"], &fault);
            assert!(
                outcome.status != Some(0) && is_alive(traveller.pid),
                "{name}: {fault} was not met\n{outcome}"
            );
            safe_and_sound(&scene, traveller, name);
        }
    }
}

/// The view that an ordinary user's program makes of its shared memory goes without the guardian too.
#[test]
fn the_guardian_dies_while_it_looks_through_a_view() {
    for fault in ["freeze.view:kill", "freeze.view:EIO"] {
        let Some(scene) = Scene::new(Who::Ordinary) else { return };
        let traveller = set_out(&scene, "shared_start_hidden");
        let pid = traveller.pid.to_string();
        let maps = || std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
        let before = maps();
        let outcome = frost_with_fault(&scene, &["freeze", &pid, "--to", "victim"], fault);
        assert!(outcome.status != Some(0) && is_alive(traveller.pid), "{fault} was not met\n{outcome}");
        let views = || maps().lines().filter(|line| line.contains("/dev/zero (deleted)")).count();
        let expected = before.lines().filter(|line| line.contains("/dev/zero (deleted)")).count();
        until("its view is gone", || views() == expected);
        safe_and_sound(&scene, traveller, "shared_start_hidden");
    }
}

/// What a thaw makes under a name is gone if it is killed before the program has it, and is made by the next.
#[test]
fn a_thaw_that_is_killed_leaves_no_object_with_a_name() {
    if !is_root() {
        skip("in namespaces of its own a builder's end is everybody's end");
        return;
    }
    for (name, file) in [("mqueue_lost", "queue"), ("volatile_lost", "object")] {
        let Some(scene) = Scene::new(Who::Myself) else { return };
        let mut traveller = set_out(&scene, name);
        let object = std::fs::read_to_string(scene.stage(file)).expect("the victim says how it is called");
        let as_c = std::ffi::CString::new(object.clone()).expect("a name without zeros");
        let remove = || match file {
            // SAFETY: the name ends by a zero.
            "queue" => unsafe { libc::mq_unlink(as_c.as_ptr()) == 0 },
            _ => std::fs::remove_file(&object).is_ok(),
        };
        let is_there = || match file {
            "queue" => {
                // SAFETY: the name ends by a zero, and a number that was given is ours.
                unsafe {
                    let fd = libc::mq_open(as_c.as_ptr(), libc::O_RDONLY);
                    fd >= 0 && libc::mq_close(fd) == 0
                }
            }
            _ => Path::new(&object).exists(),
        };
        traveller.freeze();
        assert!(remove(), "{name}: {object} is not there");
        for step in ["thaw.open", "thaw.arrive", "thaw.verify", "thaw.stop"] {
            let outcome = frost_with_fault(&scene, &["thaw", "victim"], &format!("{step}:kill"));
            assert_ne!(outcome.status, Some(0), "{name}: {step} was not met\n{outcome}");
            until(&format!("{object} is gone behind {step}"), || !is_there());
            until("nothing of it runs", || scene.processes().is_empty());
        }
        traveller.thaw(&[]);
        traveller.arrive("thawed");
        scene.is_empty_soon();
    }
}

#[test]
fn the_guardian_dies_at_each_step_behind_a_precopy() {
    freeze_fault_at_each_step("kill", &["--precopy"]);
}

#[test]
fn each_step_of_a_snapshot_fails() {
    freeze_fault_at_each_step("EIO", &["--leave-running"]);
}

#[test]
fn each_step_of_a_snapshot_finds_the_disk_full() {
    freeze_fault_at_each_step("ENOSPC", &["--leave-running"]);
}

#[test]
fn each_step_of_a_freeze_fails() {
    freeze_fault_at_each_step("EIO", &[]);
}

#[test]
fn each_step_of_a_freeze_finds_the_disk_full() {
    freeze_fault_at_each_step("ENOSPC", &[]);
}

/// Programs whose memory changes while it is copied.
const MOVING: [&str; 4] = ["moving_counters", "moving_mappings", "moving_stack", "anonymous_huge_pages"];

/// Nothing is left of a snapshot whose guardian died: no page is protected, no descriptor is there, no half image.
fn as_before(scene: &Scene, traveller: &Traveller<'_>, descriptors: usize, how: &str) {
    scene.until("frost has ended", || scene.processes().iter().all(|pid| !is_frost(*pid)));
    // The kernel lifts the protection when the last holder of the descriptor is gone, which is just going.
    until("no page is tracked", || {
        frost_tests::tree_of(traveller.pid).iter().all(|pid| {
            let flags = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
            !flags.contains(" uw")
        })
    });
    let now = std::fs::read_dir(format!("/proc/{}/fd", traveller.pid)).map_or(0, Iterator::count);
    assert_eq!(now, descriptors, "{how}: descriptors of the program");
    scene.frost(&["gc"]).ok();
    let drafts = std::fs::read_dir(scene.path("home").join("drafts")).map_or(0, Iterator::count);
    assert_eq!(drafts, 0, "{how}: half an image stays");
}

/// Makes a snapshot that does not come to its end, then one that does.
fn broken_snapshot(name: &str, how: &str, snapshot: impl FnOnce(&Scene, &[&str])) {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let traveller = Traveller::set_out(&scene, binary(), name, Stdio::Null);
    let pid = traveller.pid.to_string();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let arguments = ["freeze", &pid, "--to", "victim", "--leave-running"];
    snapshot(&scene, &arguments);
    assert!(is_alive(traveller.pid), "{how}: {name} is gone");
    as_before(&scene, &traveller, descriptors, how);
    scene.frost(&arguments).ok();
    as_before(&scene, &traveller, descriptors, how);
    traveller.arrive("left running");
    scene.frost(&["verify", "victim"]).ok();
    scene.is_empty_soon();
}

/// The guardian dies, or a write fails, where pages are protected and copied.
#[test]
fn a_snapshot_breaks_amid_its_copying() {
    let steps = [
        "precopy.enter",
        "precopy.flags",
        "precopy.copy",
        "precopy.last",
        "precopy.rest",
        "freeze.memory",
        "precopy.settle",
    ];
    for (index, step) in steps.into_iter().enumerate() {
        for kind in ["kill", "ENOSPC"] {
            let fault = format!("{step}:{kind}");
            broken_snapshot(MOVING[index % MOVING.len()], &fault, |scene, arguments| {
                let outcome = frost_with_fault(scene, arguments, &fault);
                assert_ne!(outcome.status, Some(0), "{fault}\n{outcome}");
                assert!(outcome.stderr.contains("state:"), "{fault}\n{outcome}");
            });
        }
    }
}

/// After a thaw that failed or was killed, nothing of the tree is left, or all of it runs.
fn all_or_nothing(scene: &Scene, mut traveller: Traveller<'_>, outcome: &Outcome, how: &str) -> Ending {
    assert!(!outcome.stderr.contains("panicked"), "{how}\n{outcome}");
    // What a thaw that failed or died behind its commit has left in the program, the next command takes away.
    scene.frost(&["list"]).ok();
    traveller.say_go("thawed");
    let result = scene.stage("result");
    until("the tree runs or is gone", || result.exists() || scene.processes().is_empty());
    let ending = if result.exists() { Ending::GoesOn } else { Ending::Frozen };
    if ending == Ending::Frozen {
        assert_ne!(outcome.status, Some(0), "{how}: thaw said it runs, and nothing runs\n{outcome}");
        // The image is as it was.
        scene.frost(&["verify", "victim"]).ok();
        traveller.thaw(&[]);
    }
    traveller.arrive("thawed");
    scene.is_empty_soon();
    ending
}

fn thaw_fault_at_each_stage(kind: &str, who: Who) {
    let tally = Tally::default();
    // One after another: objects of System V have numbers that belong to the whole machine.
    for (index, stage) in frost_thaw::Stage::ALL.iter().copied().enumerate() {
        let Some(scene) = Scene::new(who) else { return };
        let mut traveller = set_out(
            &scene,
            [
                "tree_zombies",
                "tree_sessions",
                "pipe_stream",
                "thread_local_storage",
                "sysv_segment",
                "sysv_semaphore_undo",
                "sysv_queue_waiters",
            ][index % 7],
        );
        traveller.freeze();
        let fault = format!("{}:{kind}", stage.name());
        let round = tally.begin();
        let outcome = frost_with_fault(&scene, &["thaw", "victim"], &fault);
        round.end(hit(&outcome, stage.name()), all_or_nothing(&scene, traveller, &outcome, &fault));
    }
}

#[test]
fn thaw_dies_at_each_stage() {
    thaw_fault_at_each_stage("kill", Who::Myself);
}

#[test]
fn thaw_dies_at_each_stage_for_an_ordinary_user() {
    thaw_fault_at_each_stage("kill", Who::Ordinary);
}

/// Whoever dies behind the commit leaves a program with its filters, or none.
#[test]
fn no_program_goes_on_without_its_filters() {
    if !is_root() {
        skip("only root can read filters of system calls");
        return;
    }
    let tally = Tally::default();
    const NAMES: [&str; 3] = ["filter_one", "filter_of_threads", "filter_forked"];
    each_below(frost_thaw::Stage::ALL.len() * NAMES.len(), |index| {
        let (stage, name) = (frost_thaw::Stage::ALL[index / NAMES.len()], NAMES[index % NAMES.len()]);
        let Some(scene) = Scene::new(Who::Myself) else { return };
        let mut traveller = set_out(&scene, name);
        traveller.freeze();
        let fault = format!("{}:kill", stage.name());
        let round = tally.begin();
        let outcome = frost_with_fault(&scene, &["thaw", "victim"], &fault);
        let ending = all_or_nothing(&scene, traveller, &outcome, &format!("{name}, {fault}"));
        round.end(hit(&outcome, stage.name()), ending);
    });
}

#[test]
fn each_stage_of_a_thaw_fails() {
    thaw_fault_at_each_stage("EIO", Who::Myself);
}

/// The image of a program that is still alive, since the freeze died between commit and end, cannot be thawed twice.
#[test]
fn an_image_of_a_program_that_runs_is_superseded() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let traveller = set_out(&scene, "anonymous_filled");
    let pid = traveller.pid.to_string();
    let outcome = frost_with_fault(&scene, &["freeze", &pid, "--to", "victim"], "freeze.commit:kill");
    assert_ne!(outcome.status, Some(0), "{outcome}");
    if is_alive(traveller.pid) && scene.frost(&["list"]).ok().stdout.contains("victim") {
        scene.frost(&["thaw", "victim"]).refused(1, "--clone");
    }
    safe_and_sound(&scene, traveller, "dead between commit and end");
}

/// A second thaw of one version says that the instance runs already.
#[test]
fn an_image_is_thawed_once() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = set_out(&scene, "anonymous_filled");
    traveller.freeze();
    traveller.thaw(&[]);
    scene.frost(&["thaw", "victim"]).refused(1, "runs");
    traveller.arrive("thawed");
    scene.is_empty_soon();
}
