//! Programs in the environment of `frost run`.

use frost_tests::{Scene, Who, is_alive, skip, until};
use std::fs;

/// A test as root, or whoever runs the tests, and one as an ordinary user.
macro_rules! run {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn as_myself() {
                if let Some(scene) = scene(Who::Myself) {
                    super::$name(&scene);
                }
            }

            #[test]
            fn as_an_ordinary_user() {
                if let Some(scene) = scene(Who::Ordinary) {
                    super::$name(&scene);
                }
            }
        }
    )*};
}

run! {
    a_foreground_program_is_as_if_there_were_no_frost
    a_detached_program_is_frozen_and_thawed_by_its_name
    a_name_denotes_one_program
    what_cannot_be_carried_is_not_given
    frost_runs_in_frost
}

/// Makes a scene, unless whoever runs the tests may not make namespaces.
fn scene(who: Who) -> Option<Scene> {
    let scene = Scene::new(who)?;
    let outcome = scene.frost(&["run", "--", "true"]);
    if outcome.status == Some(125) && outcome.stderr.contains("namespaces") {
        skip("namespaces are not allowed here");
        return None;
    }
    Some(scene)
}

fn a_foreground_program_is_as_if_there_were_no_frost(scene: &Scene) {
    let status = |script: &str| scene.frost(&["run", "--", "sh", "-c", script]).status;
    assert_eq!(status("exit 7"), Some(7));
    assert_eq!(status("kill -TERM $$"), Some(128 + 15));
    assert_eq!(scene.frost(&["run", "--", "/nonexistent"]).status, Some(127));
    assert_eq!(scene.frost(&["run", "--", "/etc/passwd"]).status, Some(126));
    assert_eq!(scene.frost(&["run", "--name", "1", "--", "true"]).status, Some(125));
    let outcome = scene.frost(&["run", "--", "sh", "-c", "echo out; echo err >&2; id -u; cat"]).ok();
    let own = if scene.who() == Who::Ordinary { 64_217 } else { rustix::process::geteuid().as_raw() };
    assert_eq!(outcome.stdout, format!("out\n{own}\n"));
    assert_eq!(outcome.stderr, "err\n");
    // Nothing of a program is left that somebody waited for.
    let outcome = scene.frost(&["ps", "--json"]).ok();
    assert_eq!(outcome.stdout, "", "{outcome}");
    scene.is_empty_soon();
}

fn a_detached_program_is_frozen_and_thawed_by_its_name(scene: &Scene) {
    let script = "n=0; while :; do n=$((n+1)); echo line $n; echo $n > count; sleep 0.02; done";
    let started =
        scene.frost(&["run", "--detach", "--name", "counter", "--json", "--", "sh", "-c", script]).ok();
    let keeper = started.number("keeper") as i32;
    let count = || fs::read_to_string(scene.stage("count")).ok()?.trim().parse::<u64>().ok();
    let goes_on = || {
        let now = count().unwrap_or(0);
        until("the program goes on", || count().is_some_and(|count| count > now));
    };
    goes_on();
    let record = || scene.frost(&["ps", "counter", "--json"]).ok().record();
    assert_eq!(record()["state"], "running");
    for (round, cold) in [false, true, false, false, true].into_iter().enumerate() {
        let mut arguments = vec!["freeze", "counter", "--json"];
        if cold {
            arguments.push("--cold");
        }
        let frozen = scene.frost(&arguments).ok();
        assert_eq!(frozen.number("version"), round as i64 + 1);
        let record = record();
        assert_eq!((&record["state"], &record["kept"]), (&"frozen".into(), &(!cold).into()), "{record}");
        if cold {
            scene.is_empty_soon();
        } else if round == 0 {
            assert!(is_alive(keeper));
        }
        let thawed = scene.frost(&["thaw", "counter", "--json"]).ok();
        assert_eq!(thawed.number("inner_pid"), 2);
        goes_on();
    }
    // No line was lost or written twice on the way.
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    assert_eq!(scene.frost(&["wait", "counter"]).status, Some(128 + 9));
    let log = scene.frost(&["logs", "counter"]).ok().stdout;
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    assert!(lines.len() >= 6);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {}", index + 1));
    }
    scene.is_empty_soon();
    scene.frost(&["rm", "counter"]).ok();
    assert_eq!(scene.frost(&["ps", "--json"]).ok().stdout, "");
}

fn a_name_denotes_one_program(scene: &Scene) {
    scene.frost(&["run", "--detach", "--name", "one", "--", "sleep", "1000"]).ok();
    scene.frost(&["run", "--detach", "--name", "one", "--", "sleep", "1000"]).refused(125, "runs already");
    scene.frost(&["freeze", "one"]).ok();
    scene.frost(&["freeze", "one"]).refused(6, "frozen already");
    scene.frost(&["run", "--detach", "--name", "one", "--", "sleep", "1000"]).refused(125, "frozen");
    scene.frost(&["thaw", "one"]).ok();
    scene.frost(&["thaw", "one"]).refused(1, "runs");
    scene.frost(&["kill", "one"]).ok();
    assert_eq!(scene.frost(&["wait", "one"]).status, Some(128 + 15));
    for command in ["kill", "logs", "attach", "wait"] {
        let status = if matches!(command, "attach" | "wait") { 125 } else { 6 };
        scene.frost(&[command, "nobody"]).refused(status, "no program of that name");
    }
}

fn what_cannot_be_carried_is_not_given(scene: &Scene) {
    let script = "import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for number in (425, 206, 323, 298, 321, 300, 444):
    result = libc.syscall(number, 0, 0, 0, 0, 0)
    print(number, os.strerror(ctypes.get_errno()) if result < 0 else 'made')
";
    let run = |allow: &[&str]| {
        let mut arguments = vec!["run"];
        arguments.extend(allow);
        arguments.extend(["--", "python3", "-c", script]);
        scene.frost(&arguments).ok().stdout
    };
    let refused = run(&[]);
    let expected = [
        "425 Function not implemented",
        "206 Function not implemented",
        "323 Operation not permitted",
        "298 Permission denied",
        "321 Operation not permitted",
        "300 Operation not permitted",
        "444 Operation not supported",
    ];
    assert_eq!(refused.lines().collect::<Vec<_>>(), expected);
    let opened = run(&["--allow", "aio"]);
    assert!(opened.contains("206 Invalid argument") || opened.contains("206 Bad address"), "{opened}");
    scene.frost(&["run", "--allow", "everything", "--", "true"]).refused(125, "everything");
}

fn frost_runs_in_frost(scene: &Scene) {
    let frost = scene.path("bin").join("frost");
    let frost = frost.to_str().expect("a temporary directory has a name");
    let outcome = scene.frost(&["run", "--", frost, "run", "--", "sh", "-c", "echo $$; exit 3"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(3), "2\n"), "{outcome}");
}
