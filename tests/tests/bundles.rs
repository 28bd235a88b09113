//! Images that bring their program's files along: `frost freeze --bundle`.

use frost_tests::{LIMIT, Scene, Who, skip, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A scene in which files can be laid over others, with a program in a directory of its own.
fn scene(who: Who) -> Option<Scene> {
    let scene = Scene::with_namespaces(who)?;
    let directory = scene.stage("there");
    // Where something is missing nothing can be made; in the directories beside it, as ever.
    fs::create_dir(scene.stage("out")).expect("our own directory");
    give(&scene, &scene.stage("out"));
    for name in ["", "lib", "below", "below/sub", "work"] {
        fs::create_dir(directory.join(name)).expect("our own directory");
    }
    fs::copy("/bin/sh", directory.join("program")).expect("there is a shell");
    fs::write(directory.join("data"), "data of the first machine\n").expect("our own directory");
    fs::write(directory.join("below/sub/low"), "low\n").expect("our own directory");
    std::os::unix::fs::symlink("sub/low", directory.join("below/link")).expect("our own directory");
    give(&scene, &directory);
    let below = directory.join("below");
    let outcome = scene.frost(&["run", "--layer", text(&below), "--", "true"]);
    if outcome.status == Some(125) && outcome.stderr.contains("layer over") {
        skip("overlayfs is not to be had here");
        return None;
    }
    outcome.ok();
    Some(scene)
}

fn give(scene: &Scene, path: &Path) {
    scene.give(path);
    let kind = fs::symlink_metadata(path).expect("it is there");
    if kind.is_dir() {
        for entry in fs::read_dir(path).expect("our own directory").flatten() {
            if !entry.path().is_symlink() {
                give(scene, &entry.path());
            }
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary directory has a name")
}

frost_tests::as_each_user! {
    a_program_is_thawed_where_there_are_none_of_its_files
    what_is_there_is_not_brought_along
    what_lies_below_a_layer_is_brought_along
    only_programs_of_the_runtime_have_a_bundle
}

/// Looks at its own binary and at the file it has open, again and again, and prints how often.
const SCRIPT: &str = "exec 3<data; n=0
while :; do n=$((n+1)); read -r line <data || exit 1
    test \"$line\" = 'data of the first machine' || exit 2; test -x program || exit 3
    echo $n >../out/told.new; mv ../out/told.new ../out/told; sleep 0.01; done";

/// Waits until the program has counted on.
#[track_caller]
fn goes_on(scene: &Scene) {
    let count = || fs::read_to_string(scene.stage("out/told")).ok()?.trim().parse::<u64>().ok();
    let now = count().unwrap_or(0);
    until("the program goes on", || count().is_some_and(|count| count > now + 1));
}

fn start(scene: &Scene, more: &[&str], script: &str) -> PathBuf {
    let directory = scene.stage("there");
    let program = directory.join("program");
    let mut command = scene.frost_command(&[&["run", "-d", "--name", "moved"], more].concat());
    command.current_dir(&directory).args(["--", text(&program), "-c", script]);
    scene.run(&mut command, LIMIT).ok();
    goes_on(scene);
    directory
}

/// The store of another machine, in which the image is.
fn exported(scene: &Scene, image: &str) -> String {
    let (stream, other) = (scene.stage("image"), scene.stage("other"));
    scene.frost(&["export", image, text(&stream)]).ok();
    scene.frost(&["--store", text(&other), "import", text(&stream)]).ok();
    text(&other).to_owned()
}

fn a_program_is_thawed_where_there_are_none_of_its_files(scene: &Scene) {
    // It may be frozen while it writes, and is thawed as a copy when the original is gone.
    let share = scene.stage("routes.toml");
    fs::write(&share, "[[route]]\nmatch = { path = \"/**/told.new\" }\nshare = true\n")
        .expect("our directory");
    scene.give(&share);
    let directory = start(scene, &["--route", text(&share)], SCRIPT);
    let bytes = |version: &str| scene.frost(&["inspect", version, "--json"]).ok().number("bytes");
    scene.frost(&["freeze", "moved", "--leave-running", "--full"]).ok();
    let frozen = scene.frost(&["freeze", "moved", "--bundle", "--cold"]).ok();
    assert!(bytes("moved@2") > bytes("moved@1") + 100_000, "{frozen}");
    let other = exported(scene, "moved");
    let frost = |arguments: &[&str]| scene.frost(&[&["--store", &other], arguments].concat());
    // All of it is gone, the directory too.
    fs::rename(&directory, scene.stage("away")).expect("our own directory");
    scene.frost(&["thaw", "moved@1"]).refused(3, "there/program");
    frost(&["thaw", "moved", "--plan"]).ok();
    frost(&["thaw", "moved"]).ok();
    goes_on(scene);
    assert!(!directory.exists());
    // It goes on from there: with the keeper, and without, as a copy, and to a third machine.
    for how in [&[][..], &["--cold"], &["--leave-running"], &["--cold"]] {
        frost(&[&["freeze", "moved"], how].concat()).ok();
        if how != ["--leave-running"] {
            frost(&["thaw", "moved"]).ok();
        }
        goes_on(scene);
    }
    frost(&["freeze", "moved", "--cold"]).ok();
    let copy = frost(&["thaw", "moved", "--clone", "--json"]).ok().number("pid") as i32;
    goes_on(scene);
    let copy = rustix::process::Pid::from_raw(copy).expect("a pid");
    rustix::process::kill_process(copy, rustix::process::Signal::KILL).expect("it lives");
    until("what copies have left is removed", || {
        frost(&["gc"]).ok();
        fs::read_dir(Path::new(&other).join("copies")).map_or(0, Iterator::count) == 0
    });
    // The first that there is of it here.
    frost(&["thaw", "moved@2"]).ok();
    goes_on(scene);
    frost(&["kill", "-s", "KILL", "moved"]).ok();
    assert_eq!(frost(&["wait", "moved"]).status, Some(128 + 9));
    assert!(!directory.exists());
    scene.is_empty_soon();
}

fn what_is_there_is_not_brought_along(scene: &Scene) {
    let directory = start(scene, &[], SCRIPT);
    scene.frost(&["freeze", "moved", "--bundle", "--cold"]).ok();
    scene.frost(&["thaw", "moved"]).ok();
    goes_on(scene);
    let bundles = scene.path("home").join("instances/moved/bundles");
    assert_eq!(fs::read_dir(&bundles).map_or(0, Iterator::count), 0);
    // The program may write beside its files, since nothing lies over them.
    fs::write(directory.join("new"), "").expect("our own directory");
    scene.frost(&["freeze", "moved", "--cold"]).ok();
    // Of a file that is another one the image's is seen, by the program alone.
    fs::write(directory.join("data"), "data of another machine\n").expect("our own directory");
    scene.frost(&["thaw", "moved@1"]).ok();
    goes_on(scene);
    assert_eq!(fs::read_to_string(directory.join("data")).expect("it is there"), "data of another machine\n");
    assert_eq!(fs::read_dir(&bundles).map_or(0, Iterator::count), 1);
    scene.frost(&["kill", "moved"]).ok();
    assert_eq!(scene.frost(&["wait", "moved"]).status, Some(128 + 15));
    scene.frost(&["rm", "moved"]).ok();
    assert!(!bundles.exists());
    scene.is_empty_soon();
}

fn what_lies_below_a_layer_is_brought_along(scene: &Scene) {
    let below = scene.stage("there").join("below");
    let script = "cd below; echo written >new; n=0
while :; do n=$((n+1)); test \"$(cat sub/low link new)\" = \"$(printf 'low\\nlow\\nwritten')\" || exit 1
    test \"$(echo *)\" = 'link new sub' || exit 2
    echo $n >../../out/told.new; mv ../../out/told.new ../../out/told; sleep 0.01; done";
    start(scene, &["--layer", text(&below)], script);
    scene.frost(&["freeze", "moved", "--cold"]).ok();
    scene.frost(&["thaw", "moved"]).ok();
    scene.frost(&["freeze", "moved", "--bundle", "--cold"]).ok();
    let other = exported(scene, "moved");
    let frost = |arguments: &[&str]| scene.frost(&[&["--store", &other], arguments].concat());
    // What is there is something else.
    fs::write(below.join("sub/low"), "other\n").expect("our own directory");
    fs::write(below.join("more"), "").expect("our own directory");
    scene.frost(&["thaw", "moved@1"]).refused(3, "is not what it was below the layer");
    for gone in [false, true] {
        if gone {
            fs::rename(scene.stage("there"), scene.stage("away")).expect("our own directory");
        }
        frost(&["thaw", "moved"]).ok();
        goes_on(scene);
        frost(&["freeze", "moved"]).ok();
        frost(&["thaw", "moved"]).ok();
        goes_on(scene);
        assert!(frost(&["diff", "moved"]).ok().stdout.ends_with("below/new\n"));
        frost(&["freeze", "moved", "--cold"]).ok();
    }
    scene.is_empty_soon();
}

fn only_programs_of_the_runtime_have_a_bundle(scene: &Scene) {
    let sleeper = scene.start(scene.command("sleep").arg("1000"), frost_tests::Stdio::Null);
    scene.frost(&["freeze", &sleeper.pid().to_string(), "--bundle"]).refused(2, "--bundle");
}

/// A machine without the interpreter and its library: root can hide them.
#[test]
fn python_goes_on_where_there_is_no_python() {
    if !frost_tests::is_root() {
        skip("only root can hide the files of a machine");
        return;
    }
    let Some(scene) = scene(Who::Myself) else { return };
    let frost = scene.path("bin").join("frost");
    fs::set_permissions(scene.stage(""), fs::Permissions::from_mode(0o755)).expect("our own directory");
    // Where the interpreter is, and all modules that are loaded late.
    let script = format!(
        "set -e; cd {stage}; python=$(/usr/bin/python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
        library=$(/usr/bin/python3 -c 'import os; print(os.path.realpath(os.path.dirname(os.__file__)))')
        {frost} run -d --name python --layer $library -- $python -c '
import time, os
n = 0
while True:
    n += 1
    if os.path.exists(\"{stage}/late\"):
        import wave, decimal
        assert decimal.Decimal(2) + 2 == 4
        open(\"{stage}/imported\", \"w\").close()
    with open(\"{stage}/told.new\", \"w\") as file: file.write(str(n))
    os.rename(\"{stage}/told.new\", \"{stage}/told\")
    time.sleep(0.01)
'
        until test -e told; do sleep 0.01; done
        {frost} freeze python --bundle --cold; {frost} export python image
        export FROST_HOME={stage}/other; {frost} import image
        mount -t tmpfs none $library; mkdir upper work; mount -t tmpfs none upper; mkdir upper/files upper/work
        mount -t overlay -o lowerdir=$(dirname $python),upperdir=upper/files,workdir=upper/work none $(dirname $python)
        rm $python; ! test -e $python; rm told; {frost} thaw python
        until test -e told; do sleep 0.01; done; touch late; until test -e imported; do sleep 0.01; done
        {frost} kill -s KILL python; {frost} inspect python",
        stage = scene.stage("").display(),
        frost = frost.display(),
    );
    let mut command = scene.command("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let outcome = scene.run(&mut command, LIMIT);
    assert_eq!(outcome.status, Some(0), "{outcome}");
    scene.is_empty_soon();
}
