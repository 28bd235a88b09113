//! Those who look at a program of `frost run --detach`: many at once, ones that type faster than it reads, ones that are too
//! slow for what it shows.

use frost_tests::{LIMIT, Scene, Started, Stdio, Who, until};
use rustix::fs::Access;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

frost_tests::as_each_user! {
    many_commands_at_once_do_not_make_a_program_look_lost
    one_that_cannot_be_looked_at_hides_no_other
    a_keeper_that_was_stopped_is_told_at_once
    what_is_typed_faster_than_it_is_read_is_not_lost
    who_has_gone_keeps_no_place_before_a_program_that_reads_nothing
    whoever_was_too_slow_is_attached_again
    the_terminal_of_who_is_attached_is_as_it_was_and_its_size_the_program_s
}

fn scene(who: Who) -> Option<Scene> {
    Scene::with_namespaces(who)
}

fn state(scene: &Scene, name: &str) -> String {
    scene.frost(&["ps", name, "--json"]).ok().record()["state"].as_str().unwrap_or_default().to_owned()
}

fn read(scene: &Scene, name: &str) -> String {
    fs::read_to_string(scene.stage(name)).unwrap_or_default()
}

/// Whether a command holds a connection.
fn is_connected(one: &Started) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", one.pid())).into_iter().flatten().flatten();
    let mut leads = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok());
    leads.any(|to| to.to_string_lossy().starts_with("socket:"))
}

fn many_commands_at_once_do_not_make_a_program_look_lost(scene: &Scene) {
    let program = "trap 'exit 7' TERM; touch ready; while :; do sleep 0.01; done";
    scene.frost(&["run", "-d", "--name", "one", "--", "sh", "-c", program]).ok();
    scene.await_file("ready");
    let waiting: Vec<Started> =
        (0..40).map(|_| scene.start(&mut scene.frost_command(&["wait", "one"]), Stdio::Null)).collect();
    until("all of them wait", || waiting.iter().all(is_connected));
    assert_eq!(state(scene, "one"), "running");
    scene.frost(&["run", "--name", "one", "--", "true"]).refused(125, "runs already");
    scene.frost(&["kill", "one"]).ok();
    for mut one in waiting {
        assert_eq!(one.wait("frost wait", LIMIT).code(), Some(7));
    }
    scene.is_empty_soon();
}

fn one_that_cannot_be_looked_at_hides_no_other(scene: &Scene) {
    let started = scene.frost(&["run", "-d", "--name", "one", "--json", "--", "sleep", "1000"]).ok();
    // Before the other one, by its name.
    let locked = scene.path("home").join("instances/locked");
    fs::create_dir(&locked).expect("our own directory");
    scene.give(&locked);
    fs::set_permissions(&locked, Permissions::from_mode(0o000)).expect("our own directory");
    let listed = scene.frost(&["ps", "--json"]).ok().stdout;
    let states: Vec<&str> = listed.lines().filter(|line| line.contains("\"state\":\"running\"")).collect();
    assert!(states.len() == 1 && listed.lines().count() == 2, "{listed}");
    if !rustix::fs::access(&locked, Access::READ_OK).is_ok_and(|()| scene.who() == Who::Myself) {
        assert!(listed.contains("Permission denied"), "{listed}");
    }
    scene.frost(&["freeze", &started.number("pid").to_string()]).ok();
    scene.frost(&["thaw", "one"]).ok();
    scene.frost(&["kill", "-s", "KILL", "one"]).ok();
    assert_eq!(scene.frost(&["wait", "one"]).status, Some(128 + 9));
    // A umask that takes all from its owner leaves no such directory behind.
    let mut command = scene.command("sh");
    command
        .args(["-c", "umask 0777; exec \"$0\" run --name two -- true"])
        .arg(scene.path("bin").join("frost"));
    let outcome = scene.run(&mut command, LIMIT);
    assert!(outcome.status == Some(0) || !scene.path("home").join("instances/two").exists(), "{outcome}");
    assert!(outcome.status == Some(0) || outcome.to_string().contains("umask 0077"), "{outcome}");
    scene.is_empty_soon();
}

fn a_keeper_that_was_stopped_is_told_at_once(scene: &Scene) {
    let started = scene.frost(&["run", "-d", "--name", "one", "--json", "--", "sleep", "1000"]).ok();
    let keeper = rustix::process::Pid::from_raw(started.number("keeper") as i32).expect("a pid");
    rustix::process::kill_process(keeper, rustix::process::Signal::STOP).expect("it lives");
    let record = scene.frost(&["ps", "one", "--json"]).ok().record();
    assert!(record["state"] == "unknown" && record.to_string().contains("was stopped"), "{record}");
    for command in [&["freeze", "one"][..], &["attach", "one"], &["wait", "one"]] {
        let status = if command[0] == "freeze" { 1 } else { 125 };
        scene.frost(command).refused(status, &format!("kill -CONT {}", keeper.as_raw_nonzero()));
    }
    rustix::process::kill_process(keeper, rustix::process::Signal::CONT).expect("it lives");
    assert_eq!(state(scene, "one"), "running");
    scene.frost(&["kill", "-s", "KILL", "one"]).ok();
    assert_eq!(scene.frost(&["wait", "one"]).status, Some(128 + 9));
    scene.is_empty_soon();
}

/// Much more than terminal and sockets hold.
const LINES: u32 = 200_000;

fn what_is_typed_faster_than_it_is_read_is_not_lost(scene: &Scene) {
    let program = "stty raw -echo; touch ready; while ! test -e go; do sleep 0.01; done
n=$(head -n 200000 | md5sum); echo \"$n\" > sum; exit 3";
    scene.frost(&["run", "-d", "--name", "reader", "--", "sh", "-c", program]).ok();
    scene.await_file("ready");
    let text: String = (0..LINES).map(|number| format!("{number}\n")).collect();
    fs::write(scene.stage("text"), &text).expect("our own directory");
    let file = fs::File::open(scene.stage("text")).expect("it is there");
    let sum = frost_tests::output_of(Command::new("md5sum").stdin(file));
    let mut attached = scene.start(&mut scene.frost_command(&["attach", "reader"]), Stdio::Pipes);
    let mut keys = attached.child().stdin.take().expect("it is a pipe");
    let typing = std::thread::spawn(move || keys.write_all(text.as_bytes()).map(|()| keys));
    // The terminal is full, and the keeper still answers everybody; what it could not be given yet comes behind a thaw.
    for _ in 0..2 {
        assert_eq!(state(scene, "reader"), "running");
        scene.frost(&["freeze", "reader"]).ok();
        scene.frost(&["thaw", "reader"]).ok();
    }
    fs::write(scene.stage("go"), "").expect("our own directory");
    assert_eq!(attached.wait("frost attach", LIMIT).code(), Some(3));
    let _keys = typing.join().expect("it does not panic").expect("it is attached");
    assert_eq!(read(scene, "sum"), sum);
    scene.is_empty_soon();
}

fn who_has_gone_keeps_no_place_before_a_program_that_reads_nothing(scene: &Scene) {
    let program = "stty raw -echo; touch ready; while :; do sleep 0.01; done";
    scene.frost(&["run", "-d", "--name", "deaf", "--", "sh", "-c", program]).ok();
    scene.await_file("ready");
    let attach = |stdio| scene.start(&mut scene.frost_command(&["attach", "deaf"]), stdio);
    let mut typist = attach(Stdio::Pipes);
    let mut keys = typist.child().stdin.take().expect("it is a pipe");
    let typing = std::thread::spawn(move || keys.write_all(&vec![b'x'; 1 << 20]));
    // More than a keeper has places for; some have to wait for one.
    let mut others: Vec<Started> = (0..130).map(|_| attach(Stdio::Null)).collect();
    until("most are attached", || others.iter().filter(|one| is_connected(one)).count() > 120);
    for one in others.iter_mut().chain([&mut typist]) {
        one.child().kill().expect("our own child");
        one.wait("frost attach", LIMIT);
    }
    let _broken = typing.join().expect("it does not panic");
    assert_eq!(state(scene, "deaf"), "running");
    scene.frost(&["kill", "-s", "KILL", "deaf"]).ok();
    assert_eq!(scene.frost(&["wait", "deaf"]).status, Some(128 + 9));
    scene.is_empty_soon();
}

fn whoever_was_too_slow_is_attached_again(scene: &Scene) {
    let program = "read first; seq 100000; touch shown; read word; echo got $word; exit 5";
    scene.frost(&["run", "-d", "--name", "talker", "--", "sh", "-c", program]).ok();
    let mut attached = scene.start(&mut scene.frost_command(&["attach", "talker"]), Stdio::Pipes);
    let mut keys = attached.child().stdin.take().expect("it is a pipe");
    let output = attached.child().stdout.take().expect("it is a pipe");
    keys.write_all(b"first\n").expect("it is attached");
    let mut lines = BufReader::new(output);
    let mut line = String::new();
    lines.read_line(&mut line).expect("a pipe");
    assert_eq!(line, "first\r\n");
    // Nobody reads what the command shows, so that it is left out; the program goes on.
    scene.await_file("shown");
    keys.write_all(b"word\n").expect("it is attached");
    let rest = std::thread::spawn(move || {
        let mut text = String::new();
        lines.read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(attached.wait("frost attach", LIMIT).code(), Some(5));
    drop(keys);
    assert!(rest.join().expect("it does not panic").is_ok());
    let log = scene.frost(&["logs", "talker"]).ok().stdout;
    assert!(log.contains("\n100000\r\n") && log.ends_with("got word\r\n"));
    scene.is_empty_soon();
}

fn the_terminal_of_who_is_attached_is_as_it_was_and_its_size_the_program_s(scene: &Scene) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/attached.py");
    fs::copy(script, scene.stage("attached.py")).expect("our own directory");
    let program = "while :; do stty size > new; mv new size; sleep 0.01; done";
    scene.frost(&["run", "-d", "--name", "one", "--", "sh", "-c", program]).ok();
    let mut command = scene.command("/usr/bin/python3");
    command.arg("attached.py").arg(scene.path("bin").join("frost")).arg("one");
    scene.run(&mut command, LIMIT).ok();
    assert_eq!(state(scene, "one"), "running");
    scene.frost(&["kill", "-s", "KILL", "one"]).ok();
    assert_eq!(scene.frost(&["wait", "one"]).status, Some(128 + 9));
    scene.is_empty_soon();
}
