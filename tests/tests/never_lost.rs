//! Never lost: whatever dies or fails, the program runs unharmed or its image is whole; and no half tree stays.
//!
//! `FROST_KILLS` says how often something is killed at a random moment (10).

use frost_tests::journey::Traveller;
use frost_tests::{LIMIT, Outcome, Scene, Started, Stdio, Who, is_alive, is_root, skip, until};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

fn kills() -> u64 {
    std::env::var("FROST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
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

/// Whatever happened to a freeze: the program runs and is content, or it is gone and its image can be thawed.
fn safe_and_sound(scene: &Scene, mut traveller: Traveller<'_>, how: &str) {
    // Whoever was not killed comes to an end by itself: the guardian, the command.
    until("frost has ended", || scene.processes().iter().all(|pid| !is_frost(*pid)));
    let result = scene.stage("result");
    let mut runs = is_alive(traveller.pid);
    if runs {
        // What a guardian that died has left in the program, inert, the next command takes away.
        scene.frost(&["list"]).ok();
        traveller.say_go("left alone");
        // It may have been ended right then, and be on its way out.
        until("it tells its verdict, or has ended", || result.exists() || !is_alive(traveller.pid));
        runs = result.exists();
    }
    if runs {
        traveller.arrive("left alone");
    } else {
        let _not_yet = std::fs::remove_file(scene.stage("go"));
        // Its end had begun, and goes on without whoever began it.
        until("all of it has ended", || traveller.tree.iter().all(|pid| !is_alive(*pid)));
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
}

fn is_frost(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.ends_with("frost"))
}

fn set_out<'a>(scene: &'a Scene, name: &str) -> Traveller<'a> {
    Traveller::set_out(scene, binary(), name, Stdio::Files)
}

fn freeze_fault_at_each_step(kind: &str, more: &[&str]) {
    for (index, step) in frost_freeze::STEPS.iter().enumerate() {
        let Some(scene) = Scene::new(Who::Myself) else { return };
        // Another program at each step; over all the kinds of faults, each step meets several.
        let traveller = set_out(&scene, VICTIMS[(index + kind.len() + more.len()) % VICTIMS.len()]);
        let pid = traveller.pid.to_string();
        let mut arguments = vec!["freeze", &pid, "--to", "victim"];
        arguments.extend(more);
        let fault = format!("{step}:{kind}");
        let outcome = frost_with_fault(&scene, &arguments, &fault);
        assert!(!outcome.stderr.contains("panicked"), "{fault}\n{outcome}");
        if outcome.status != Some(0) {
            // A step that was not reached, or whose failure does no harm, lets the freeze succeed.
            assert!(outcome.stderr.contains("state:"), "{fault}: nothing tells how things stand\n{outcome}");
        }
        safe_and_sound(&scene, traveller, &fault);
    }
}

#[test]
fn the_guardian_dies_at_each_step() {
    freeze_fault_at_each_step("kill", &[]);
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

/// A small generator: which moment is not important, that they differ is.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Starts a command and returns while it runs.
fn start_frost(scene: &Scene, arguments: &[&str]) -> Started {
    let mut command = scene.frost_command(arguments);
    let log = File::create(scene.path("logs").join("killed")).expect("our own directory");
    Started::spawn(command.stdout(log.try_clone().expect("a file")).stderr(log))
}

/// In turn as whoever runs the tests and as an ordinary user; `victims` rounds have one user.
fn whose(round: u64, victims: usize) -> Who {
    if (round / victims as u64).is_multiple_of(2) { Who::Myself } else { Who::Ordinary }
}

/// How long a freeze of this victim takes, so that the moments spread over all of it.
fn freeze_time(name: &str, who: Who) -> Duration {
    let Some(scene) = Scene::new(who) else { return Duration::ZERO };
    let mut traveller = set_out(&scene, name);
    let start = Instant::now();
    traveller.freeze();
    start.elapsed()
}

fn spin(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
}

fn kill(pid: i32) {
    if let Some(pidfd) =
        Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok())
    {
        let _gone_already = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}

#[test]
fn the_command_dies_at_any_moment() {
    let mut moments = Moments(0x1234_5678_9abc_def1);
    for round in 0..kills() {
        let name = VICTIMS[round as usize % VICTIMS.len()];
        let who = whose(round, VICTIMS.len());
        let whole = freeze_time(name, who).as_micros() as u64;
        let Some(scene) = Scene::new(who) else { continue };
        let traveller = set_out(&scene, name);
        let mut command = start_frost(&scene, &["freeze", &traveller.pid.to_string(), "--to", "victim"]);
        let moment = Duration::from_micros(moments.next(whole.max(1)));
        spin(moment);
        kill(command.pid());
        command.wait("a killed command", LIMIT);
        safe_and_sound(&scene, traveller, &format!("{name}, the command killed after {moment:?}"));
    }
}

#[test]
fn the_guardian_dies_at_any_moment() {
    let mut moments = Moments(0x9e37_79b9_7f4a_7c15);
    for round in 0..kills() {
        // Not the calls: between a stop and the repair of what it interrupted, no order of calls can help.
        const NAMES: [&str; 6] = [
            "registers_of_threads",
            "pipe_stream",
            "shared_between_processes",
            "anonymous_filled",
            "tree_sessions",
            "signals_pending_many",
        ];
        let name = NAMES[round as usize % NAMES.len()];
        let who = whose(round, NAMES.len());
        let whole = freeze_time(name, who).as_micros() as u64;
        let Some(scene) = Scene::new(who) else { continue };
        let traveller = set_out(&scene, name);
        let mut command = start_frost(&scene, &["freeze", &traveller.pid.to_string(), "--to", "victim"]);
        let mut guardian = None;
        let us = command.pid();
        until("there is a guardian", || {
            guardian = frost_tests::tree_of(us).get(1).copied();
            guardian.is_some() || command.ended().is_some()
        });
        let moment = Duration::from_micros(moments.next(whole.max(1)));
        spin(moment);
        guardian.into_iter().for_each(kill);
        command.wait("a command whose guardian was killed", LIMIT);
        safe_and_sound(&scene, traveller, &format!("{name}, the guardian killed after {moment:?}"));
    }
}

/// Programs whose memory changes while it is copied.
const MOVING: [&str; 4] = ["moving_counters", "moving_mappings", "moving_stack", "anonymous_huge_pages"];

/// Nothing is left of a snapshot whose guardian died: no page is protected, no descriptor is there, no half image.
fn as_before(scene: &Scene, traveller: &Traveller<'_>, descriptors: usize, how: &str) {
    until("frost has ended", || scene.processes().iter().all(|pid| !is_frost(*pid)));
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

#[test]
fn the_guardian_of_a_snapshot_dies_at_any_moment() {
    let mut moments = Moments(0x0dd0_5eed_1357_9bdf);
    for round in 0..kills() {
        let name = MOVING[round as usize % MOVING.len()];
        // Spread over short times too: much happens in the first milliseconds.
        let moment = Duration::from_micros(moments.next(if round % 2 == 0 { 20_000 } else { 400_000 }));
        let how = format!("the guardian killed after {moment:?}");
        broken_snapshot(name, &how, |scene, arguments| {
            let mut command = start_frost(scene, arguments);
            let mut guardian = None;
            let us = command.pid();
            until("there is a guardian", || {
                guardian = frost_tests::tree_of(us).get(1).copied();
                guardian.is_some() || command.ended().is_some()
            });
            spin(moment);
            guardian.into_iter().for_each(kill);
            command.wait("a command whose guardian was killed", LIMIT);
        });
    }
}

/// The guardian dies, or a write fails, where pages are protected and copied.
#[test]
fn a_snapshot_breaks_amid_its_copying() {
    let steps =
        ["precopy.enter", "precopy.flags", "precopy.copy", "precopy.last", "freeze.memory", "precopy.settle"];
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
fn all_or_nothing(scene: &Scene, mut traveller: Traveller<'_>, outcome: &Outcome, how: &str) {
    assert!(!outcome.stderr.contains("panicked"), "{how}\n{outcome}");
    // What a thaw that failed or died behind its commit has left in the program, the next command takes away.
    scene.frost(&["list"]).ok();
    traveller.say_go("thawed");
    let result = scene.stage("result");
    until("the tree runs or is gone", || result.exists() || scene.processes().is_empty());
    if !result.exists() {
        assert_ne!(outcome.status, Some(0), "{how}: thaw said it runs, and nothing runs\n{outcome}");
        // The image is as it was.
        scene.frost(&["verify", "victim"]).ok();
        traveller.thaw(&[]);
    }
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

fn thaw_fault_at_each_stage(kind: &str, who: Who) {
    for (index, stage) in frost_thaw::Stage::ALL.iter().enumerate() {
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
        let outcome = frost_with_fault(&scene, &["thaw", "victim"], &fault);
        all_or_nothing(&scene, traveller, &outcome, &fault);
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
    for stage in frost_thaw::Stage::ALL {
        for name in ["filter_one", "filter_of_threads", "filter_forked"] {
            let Some(scene) = Scene::new(Who::Myself) else { return };
            let mut traveller = set_out(&scene, name);
            traveller.freeze();
            let fault = format!("{}:kill", stage.name());
            let outcome = frost_with_fault(&scene, &["thaw", "victim"], &fault);
            all_or_nothing(&scene, traveller, &outcome, &format!("{name}, {fault}"));
        }
    }
}

#[test]
fn each_stage_of_a_thaw_fails() {
    thaw_fault_at_each_stage("EIO", Who::Myself);
}

#[test]
fn thaw_dies_at_any_moment() {
    let mut moments = Moments(0xfeed_beef_dead_1234);
    for round in 0..kills() {
        const NAMES: [&str; 8] = [
            "thread_local_storage",
            "tree_sessions",
            "registers_of_threads",
            "tree_zombies",
            "anonymous_filled",
            "pipe_stream",
            "tree_fifty",
            "restart_in_threads_at_least",
        ];
        let name = NAMES[round as usize % NAMES.len()];
        let Some(scene) = Scene::new(whose(round, NAMES.len())) else { continue };
        let mut traveller = set_out(&scene, name);
        traveller.freeze();
        // A tree of fifty takes its time, most of it behind the commit.
        let moment = moments.next(if name == "tree_fifty" { 200_000 } else { 60_000 });
        let moment = Duration::from_micros(moment);
        let mut command = start_frost(&scene, &["thaw", "victim"]);
        spin(moment);
        kill(command.pid());
        let status = command.wait("a killed command", LIMIT).code();
        let stderr = std::fs::read_to_string(scene.path("logs").join("killed")).unwrap_or_default();
        let outcome =
            Outcome { status, stdout: String::new(), stderr, command: "frost thaw victim".to_owned() };
        all_or_nothing(&scene, traveller, &outcome, &format!("{name}, thaw killed after {moment:?}"));
    }
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
