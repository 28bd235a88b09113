//! Directories of which a program has a view of its own: `frost run --layer`.

use frost_tests::{LIMIT, Scene, Who, is_root, skip, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A scene in which layers can be had, with a directory for one.
fn scene(who: Who) -> Option<Scene> {
    let scene = Scene::new(who)?;
    let directory = below(&scene);
    for name in ["", "sub", "replaced", "replaced/deep"] {
        fs::create_dir(directory.join(name)).expect("our own directory");
    }
    for name in ["low", "removed", "sub/keep", "replaced/gone", "replaced/deep/gone"] {
        fs::write(directory.join(name), name).expect("our own directory");
    }
    give(&scene, &directory);
    let outcome = scene.frost(&["run", "--layer", text(&directory), "--", "true"]);
    if outcome.status == Some(125) && outcome.stderr.contains("layer over") {
        skip("overlayfs is not to be had here");
        return None;
    }
    outcome.ok();
    Some(scene)
}

fn below(scene: &Scene) -> PathBuf {
    scene.stage("below")
}

fn give(scene: &Scene, path: &Path) {
    scene.give(path);
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("our own directory").flatten() {
            give(scene, &entry.path());
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary directory has a name")
}

frost_tests::as_each_user! {
    what_is_written_is_frozen_and_thawed_and_nobody_else_sees_it
    an_earlier_version_has_what_was_written_then
    a_layer_is_thawed_only_over_what_was_below_it
    where_there_can_be_no_layer_that_is_said
    a_thaw_that_fails_leaves_what_the_ended_program_has_written
}

/// Starts the program that writes in every way.
fn start(scene: &Scene, directory: &Path, name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/layer.py");
    fs::copy(script, scene.stage("layer.py")).expect("our own directory");
    let script = scene.stage("layer.py");
    let mut command = scene.frost_command(&["run", "-d", "--name", name, "--layer", text(directory), "--"]);
    command.current_dir(directory).args(["/usr/bin/python3", text(&script)]);
    scene.run(&mut command, LIMIT).ok();
    looks_on(scene);
}

/// Waits until the program has looked twice more, and has found all as it was.
#[track_caller]
fn looks_on(scene: &Scene) {
    let count = || {
        let log = scene.frost(&["logs", "layered"]).ok().stdout;
        let line = log.lines().next_back()?.trim();
        // What it is writing at this moment is no line yet.
        log.ends_with('\n').then(|| line.parse::<u64>().unwrap_or_else(|_| panic!("{line}")))
    };
    let now = count().unwrap_or(0);
    until("the program goes on", || count().is_some_and(|count| count > now + 1));
}

/// Waits until the program that counts has counted on.
#[track_caller]
fn goes_on(scene: &Scene) {
    let count = || counted(scene).and_then(|text| text.parse::<u64>().ok());
    let now = count().unwrap_or(0);
    until("the program goes on", || count().is_some_and(|count| count > now + 1));
}

/// How far the program has counted that counts.
fn counted(scene: &Scene) -> Option<String> {
    fs::read_link(scene.stage("told")).ok()?.into_os_string().into_string().ok()
}

fn listing(scene: &Scene, name: &str) -> Vec<String> {
    let outcome = scene.frost(&["diff", name]).ok();
    outcome.stdout.lines().map(|line| line.replace(text(&scene.stage("below")), "")).collect()
}

const WRITTEN: [&str; 14] = [
    "C /low",
    "A /made",
    "A /made/fifo",
    "A /made/file",
    "A /made/link",
    "A /made/secret",
    "A /made/socket",
    "A /made/sparse",
    "A /made/symlink",
    "A /mapped",
    "D /removed",
    "C /replaced",
    "C /sub",
    "",
];

fn what_is_written_is_frozen_and_thawed_and_nobody_else_sees_it(scene: &Scene) {
    let directory = &below(scene);
    start(scene, directory, "layered");
    let untouched = || {
        let mut names: Vec<_> = fs::read_dir(directory).expect("it is there").flatten().collect();
        names.sort_by_key(fs::DirEntry::file_name);
        let names: Vec<_> =
            names.iter().map(|entry| entry.file_name().into_string().expect("text")).collect();
        assert_eq!(names, ["low", "removed", "replaced", "sub"]);
        assert_eq!(fs::read_to_string(directory.join("low")).expect("it is there"), "low");
        assert_eq!(fs::read_to_string(directory.join("replaced/deep/gone")).expect("it is there").len(), 18);
    };
    untouched();
    let expected: Vec<String> =
        WRITTEN.iter().filter(|line| !line.is_empty()).map(|line| (*line).to_owned()).collect();
    assert_eq!(listing(scene, "layered"), expected);
    assert!(scene.frost(&["check", "layered"]).ok().stdout.contains("can be frozen"));
    for (round, how) in [&[][..], &["--cold"], &["--precopy"], &[], &["--cold"]].into_iter().enumerate() {
        scene.frost(&[&["freeze", "layered"][..], how].concat()).ok();
        untouched();
        assert_eq!(listing(scene, "layered"), expected);
        assert_eq!(listing(scene, &format!("layered@{}", round + 1)), expected);
        scene.frost(&["thaw", "layered", "--plan"]).ok();
        scene.frost(&["thaw", "layered"]).ok();
        looks_on(scene);
    }
    // An image of it while it goes on can be thawed whatever it writes then; what was written before stays as it was.
    let warned = scene.frost(&["freeze", "layered", "--leave-running"]).ok();
    assert!(!warned.stderr.contains(text(directory)), "{warned}");
    looks_on(scene);
    // Each copy writes for itself.
    let copies: Vec<i64> =
        (0..2).map(|_| scene.frost(&["thaw", "layered@4", "--clone", "--json"]).ok().number("pid")).collect();
    looks_on(scene);
    assert!(copies.iter().all(|pid| frost_tests::is_alive(*pid as i32)));
    for pid in copies {
        let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
    }
    looks_on(scene);
    until("what copies have left is removed", || {
        scene.frost(&["gc"]).ok();
        fs::read_dir(scene.path("home").join("copies")).map_or(0, Iterator::count) == 0
    });
    scene.frost(&["kill", "-s", "KILL", "layered"]).ok();
    assert_eq!(scene.frost(&["wait", "layered"]).status, Some(128 + 9));
    // What it wrote is there until its name is given free.
    assert_eq!(listing(scene, "layered"), expected);
    scene.frost(&["rm", "layered"]).ok();
    assert!(!scene.path("home").join("instances/layered").exists());
    untouched();
    scene.is_empty_soon();
}

/// It tells by a link, since a file beside the layer that is open at the instant of a freeze would have to be there at a thaw.
const COUNTER: &str = "n=0; while :; do n=$((n+1)); echo $n > count; test $n = $(cat count) || exit 1;
    ln -sfn $n ../told; sleep 0.01; done";

fn counter(scene: &Scene, directory: &Path) {
    let mut command =
        scene.frost_command(&["run", "-d", "--name", "layered", "--layer", text(directory), "--"]);
    command.current_dir(directory).args(["sh", "-c", COUNTER]);
    scene.run(&mut command, LIMIT).ok();
    goes_on(scene);
}

fn an_earlier_version_has_what_was_written_then(scene: &Scene) {
    let directory = &below(scene);
    counter(scene, directory);
    let count = || counted(scene).expect("it is told");
    scene.frost(&["freeze", "layered"]).ok();
    let then = count();
    for _ in 0..2 {
        scene.frost(&["thaw", "layered"]).ok();
        goes_on(scene);
        scene.frost(&["freeze", "layered"]).ok();
    }
    assert_ne!(count(), then);
    // The keeper stayed, and with it the namespaces in which the later one was mounted.
    fs::remove_file(scene.stage("told")).expect("it is told");
    scene.frost(&["thaw", "layered@1"]).ok();
    goes_on(scene);
    scene.frost(&["kill", "layered"]).ok();
    assert_eq!(scene.frost(&["wait", "layered"]).status, Some(128 + 15));
}

fn a_layer_is_thawed_only_over_what_was_below_it(scene: &Scene) {
    let directory = &below(scene);
    counter(scene, directory);
    scene.frost(&["freeze", "layered", "--cold"]).ok();
    let low = directory.join("low");
    let time = fs::metadata(&low).and_then(|low| low.modified()).expect("it is there");
    fs::write(&low, "LOW").expect("our own directory");
    fs::write(directory.join("sub/new"), "").expect("our own directory");
    fs::remove_file(directory.join("removed")).expect("our own directory");
    let refused = scene.frost(&["thaw", "layered"]);
    assert!(refused.stderr.contains("low differs, removed is missing, sub/new is new"), "{refused}");
    refused.refused(3, "is not what it was below the layer");
    assert_eq!(scene.frost(&["ps", "layered", "--json"]).ok().record()["state"], "frozen");
    // As on another machine: of the same content, and of another time and place.
    fs::remove_file(directory.join("sub/new")).expect("our own directory");
    fs::write(directory.join("removed"), "removed").expect("our own directory");
    fs::remove_file(&low).expect("our own directory");
    fs::write(&low, "low").expect("our own directory");
    assert_ne!(fs::metadata(&low).and_then(|low| low.modified()).expect("it is there"), time);
    give(scene, directory);
    let (image, other) = (scene.stage("image"), scene.stage("other"));
    scene.frost(&["export", "layered", text(&image)]).ok();
    scene.frost(&["--store", text(&other), "import", text(&image)]).ok();
    scene.frost(&["--store", text(&other), "thaw", "layered"]).ok();
    goes_on(scene);
    scene.frost(&["--store", text(&other), "kill", "layered"]).ok();
    scene.is_empty_soon();
}

fn where_there_can_be_no_layer_that_is_said(scene: &Scene) {
    let directory = &below(scene);
    let refused = |layer: &str, about: &str| {
        scene.frost(&["run", "--name", "none", "--layer", layer, "--", "true"]).refused(125, about);
    };
    refused("/", "is mounted in it");
    refused("/nonexistent", "No such file");
    refused(text(&directory.join("low")), "no directory");
    refused(text(&scene.path("home")), "the store");
    refused("/proc/self", "no files");
    let (whole, part) = (text(directory), directory.join("sub"));
    let outcome = scene.frost(&["run", "--layer", whole, "--layer", text(&part), "--", "true"]);
    outcome.refused(125, "overlaps");
    assert_eq!(scene.frost(&["ps", "--json"]).ok().stdout, "");
    scene.frost(&["run", "-d", "--name", "plain", "--", "sleep", "1000"]).ok();
    scene.frost(&["diff", "plain"]).refused(2, "no layer");
    scene.frost(&["diff", "nobody"]).refused(6, "nobody");
    scene.frost(&["kill", "plain"]).ok();
}

#[test]
fn a_full_disk_below_a_layer_is_the_programs_to_hear_of() {
    if !is_root() {
        skip("only root can make a small disk");
        return;
    }
    let Some(scene) = scene(Who::Myself) else { return };
    let directory = below(&scene);
    let home = scene.path("small");
    fs::create_dir(&home).expect("our own directory");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("our own directory");
    let frost = scene.path("bin").join("frost");
    // What the program says goes past its log, for which there is no room either.
    let script = format!(
        "set -e; mount -t tmpfs -o size=8m,mode=700 small {home}; export FROST_HOME={home}
        frost={frost}
        $frost run -d --name full --layer {directory} -- sh -c '
            exec >{told} 2>&1
            cd {directory}; dd if=/dev/zero of=big bs=1M count=20; echo dd $?; rm low && echo removed
            until test -e {go}; do sleep 0.01; done; cat big >/dev/null; echo on $?; rm big; echo done; sleep 1000'
        until grep -q removed {told}; do sleep 0.01; done
        grep -q 'No space left' {told}; grep -q 'dd 1' {told}
        $frost ps full; $frost diff full
        ! $frost freeze full 2>refused; grep -q 'make room' refused
        touch {go}; until grep -q done {told}; do sleep 0.01; done; grep -q 'on 0' {told}
        $frost freeze full; $frost thaw full
        $frost kill full; ! $frost wait full; $frost rm full; ls {home}/instances",
        told = scene.stage("said").display(),
        home = home.display(),
        frost = frost.display(),
        directory = directory.display(),
        go = scene.stage("go").display(),
    );
    let mut command = scene.command("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let outcome = scene.run(&mut command, LIMIT);
    let refused = fs::read_to_string(scene.stage("refused")).unwrap_or_default();
    assert_eq!(outcome.status, Some(0), "{outcome}\n{refused}");
    assert!(outcome.stdout.contains("A ") && outcome.stdout.contains("D "), "{outcome}");
    scene.is_empty_soon();
}

fn a_thaw_that_fails_leaves_what_the_ended_program_has_written(scene: &Scene) {
    let directory = below(scene);
    let outside = scene.stage("outside");
    fs::write(&outside, "outside").expect("our own directory");
    scene.give(&outside);
    let script = "exec 3<outside; echo 1 >below/one; touch started
while [ ! -e go ]; do sleep 0.01; done; echo 2 >below/two";
    let command = ["--layer", text(&directory), "--", "sh", "-c", script];
    scene.frost(&[&["run", "-d", "--name", "ended"], &command[..]].concat()).ok();
    until("it has begun", || scene.stage("started").exists());
    scene.frost(&["freeze", "ended", "--leave-running"]).ok();
    fs::write(scene.stage("go"), "").expect("our own directory");
    assert_eq!(scene.frost(&["wait", "ended"]).status, Some(0));
    let written = || scene.frost(&["diff", "ended"]).ok().stdout;
    assert!(written().contains("below/two"), "{}", written());
    let away = scene.stage("away");
    fs::rename(&outside, &away).expect("our own directory");
    scene.frost(&["thaw", "ended"]).refused(3, "does not exist any more");
    assert!(written().contains("below/two"), "{}", written());
    fs::rename(&away, &outside).expect("our own directory");
    fs::remove_file(scene.stage("go")).expect("our own directory");
    scene.frost(&["thaw", "ended"]).ok();
    assert!(!written().contains("below/two"), "{}", written());
    scene.frost(&["kill", "-s", "KILL", "ended"]).ok();
    scene.is_empty_soon();
}
