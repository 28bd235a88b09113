//! `frost run` within `frost run`: the inner program is frozen with the outer one, and thawed with it.

use frost_tests::{LIMIT, Outcome, Scene, Stdio, Who, until};
use std::fs;

frost_tests::as_each_user! {
    an_inner_program_is_frozen_and_thawed_with_the_outer_one
    a_snapshot_and_a_cold_thaw_take_the_inner_program_along
    what_was_frozen_under_another_name_is_told_by_that
    who_waits_for_an_inner_program_waits_on
    what_lies_between_an_inner_program_and_the_outer_one_goes_on
    threads_and_children_of_an_inner_program_keep_their_numbers
    what_an_inner_program_left_behind_or_stopped_is_so_again
    the_terminal_of_an_inner_program_is_its_own
    whoever_is_attached_to_an_inner_program_stays_so
    a_third_one_within_is_refused
    one_within_a_program_without_an_environment_is_refused
    what_an_inner_program_has_of_its_own_is_refused_by_name
    clocks_that_stand_otherwise_are_refused
    an_inner_program_is_frozen_by_itself_behind_a_thaw_of_both
    a_copy_is_refused_since_the_inner_name_is_one_program_s
    a_builder_that_dies_leaves_no_half_of_both
}

fn scene(who: Who) -> Option<Scene> {
    Scene::with_namespaces(who)
}

/// Makes the commands that the test asks for, one after the other; so something of the outer program is always on its way.
const AGENT: &str = "while :; do
if [ -e ask ]; then sh ./ask > said 2>&1; echo $? > done.new; rm ask; mv done.new done; fi
sleep 0.01
done";

/// Counts, and writes each number on a line of its terminal.
const COUNTER: &str = "n=0; while :; do n=$((n+1)); echo line $n; echo $n > count; sleep 0.01; done";

/// Starts an outer program that starts `inner` and then does what is asked of it.
fn start(scene: &Scene, inner: &str) {
    let script = format!("{inner}\n{AGENT}");
    scene.frost(&["run", "--detach", "--name", "outer", "--", "sh", "-c", &script]).ok();
}

fn frost(scene: &Scene) -> String {
    scene.path("bin").join("frost").display().to_string()
}

/// Lets the outer program run a command.
#[track_caller]
fn within(scene: &Scene, command: &str) -> Outcome {
    let _none = fs::remove_file(scene.stage("done"));
    fs::write(scene.stage("ask.new"), command).expect("our own directory");
    scene.give(&scene.stage("ask.new"));
    fs::rename(scene.stage("ask.new"), scene.stage("ask")).expect("our own directory");
    until("the outer program has done it", || scene.stage("done").exists());
    let read = |name: &str| fs::read_to_string(scene.stage(name)).unwrap_or_default();
    Outcome {
        status: read("done").trim().parse().ok(),
        stdout: read("said"),
        stderr: String::new(),
        command: command.to_owned(),
    }
}

fn count(scene: &Scene, name: &str) -> Option<u64> {
    fs::read_to_string(scene.stage(name)).ok()?.trim().parse().ok()
}

#[track_caller]
fn goes_on(scene: &Scene, name: &str) {
    let now = count(scene, name).unwrap_or(0);
    until("the inner program goes on", || count(scene, name).is_some_and(|count| count > now));
}

/// Ends both.
#[track_caller]
fn end(scene: &Scene) {
    scene.frost(&["kill", "-s", "KILL", "outer"]).ok();
    assert_eq!(scene.frost(&["wait", "outer"]).status, Some(128 + 9));
    scene.is_empty_soon();
}

fn an_inner_program_is_frozen_and_thawed_with_the_outer_one(scene: &Scene) {
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{COUNTER}'"));
    for how in [&["freeze", "outer"][..], &["freeze", "outer", "--cold"], &["freeze", "outer"]] {
        goes_on(scene, "count");
        scene.frost(how).ok();
        let frozen = count(scene, "count");
        // Nobody answers for it, and nothing takes its name.
        let record = scene.frost(&["ps", "inner", "--json"]).ok().record();
        assert_eq!(record["state"], "frozen", "{record}");
        assert!(record["what"].as_str().is_some_and(|what| what.contains("frozen with outer")), "{record}");
        scene.frost(&["run", "--name", "inner", "--", "true"]).refused(125, "frozen with outer");
        scene.frost(&["wait", "inner"]).refused(125, "frozen with outer");
        scene.frost(&["rm", "inner"]).refused(1, "frozen with outer");
        scene.frost(&["set", "inner", "--ram", "1G"]).refused(1, "frozen with outer");
        scene.frost(&["thaw", "outer"]).ok();
        goes_on(scene, "count");
        assert!(count(scene, "count") > frozen);
        assert_eq!(scene.frost(&["ps", "inner", "--json"]).ok().record()["state"], "running");
        // Whoever lives in there sees it as before.
        let listed = within(scene, &format!("{frost} ps inner --json"));
        assert!(listed.stdout.contains("\"state\":\"running\""), "{listed}");
        let log = within(scene, &format!("{frost} logs inner")).ok().stdout;
        for (index, line) in log.lines().enumerate() {
            assert_eq!(line.trim_end(), format!("line {}", index + 1));
        }
    }
    within(scene, &format!("{frost} kill -s TERM inner")).ok();
    assert_eq!(within(scene, &format!("{frost} wait inner")).status, Some(128 + 15));
    end(scene);
}

fn a_snapshot_and_a_cold_thaw_take_the_inner_program_along(scene: &Scene) {
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{COUNTER}'"));
    goes_on(scene, "count");
    for _ in 0..3 {
        scene.frost(&["freeze", "outer", "--leave-running"]).ok();
        goes_on(scene, "count");
    }
    scene.frost(&["freeze", "outer", "--cold"]).ok();
    scene.is_empty_soon();
    scene.frost(&["thaw", "outer"]).ok();
    goes_on(scene, "count");
    scene.frost(&["freeze", "outer", "--leave-running"]).ok();
    goes_on(scene, "count");
    end(scene);
}

fn what_was_frozen_under_another_name_is_told_by_that(scene: &Scene) {
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{COUNTER}'"));
    goes_on(scene, "count");
    let stands = |name: &str, state: &str, what: &str| {
        let record = scene.frost(&["ps", name, "--json"]).ok().record();
        let told = record["what"].as_str().unwrap_or_default();
        assert!(record["state"] == state && told.contains(what), "{record}");
    };
    scene.frost(&["freeze", "outer", "--to", "other"]).ok();
    stands("inner", "frozen", "frozen with other");
    scene.frost(&["run", "--name", "inner", "--", "true"]).refused(125, "frozen with other");
    stands("outer", "ended", "frozen as other@1");
    assert_eq!(scene.frost(&["wait", "outer"]).status, Some(128 + 9));
    // A thaw that fails changes nothing of that.
    let mut failing = scene.frost_command(&["thaw", "other"]);
    assert_ne!(scene.run(failing.env("FROST_FAIL_AT", "thaw.commit:kill"), LIMIT).status, Some(0));
    stands("inner", "frozen", "frozen with other");
    scene.frost(&["thaw", "other"]).ok();
    goes_on(scene, "count");
    stands("inner", "running", "");
    // Whoever thaws that image once more gets it again, whatever it has logged since; so its name is taken.
    scene.frost(&["kill", "-s", "KILL", "other"]).ok();
    assert_eq!(scene.frost(&["wait", "other"]).status, Some(128 + 9));
    stands("inner", "frozen", "frozen with other");
    scene.frost(&["thaw", "other"]).ok();
    goes_on(scene, "count");
    // One that has ended by itself is not.
    scene.frost(&["kill", "-s", "TERM", "inner"]).ok();
    assert_eq!(scene.frost(&["wait", "inner"]).status, Some(128 + 15));
    scene.frost(&["freeze", "other", "--cold"]).ok();
    stands("inner", "ended", "signal 15");
    scene.frost(&["run", "--name", "inner", "--", "true"]).ok();
    scene.frost(&["rm", "other"]).ok();
    scene.is_empty_soon();
}

fn who_waits_for_an_inner_program_waits_on(scene: &Scene) {
    let frost = frost(scene);
    let inner = "n=0; while [ ! -e stop ]; do n=$((n+1)); echo $n > count; sleep 0.01; done; exit 7";
    start(scene, &format!("{{ {frost} run --name inner -- sh -c '{inner}'; echo $? > status; }} &"));
    for _ in 0..2 {
        goes_on(scene, "count");
        scene.frost(&["freeze", "outer"]).ok();
        scene.frost(&["thaw", "outer"]).ok();
    }
    goes_on(scene, "count");
    fs::write(scene.stage("stop"), "").expect("our own directory");
    until("its status was passed on", || count(scene, "status").is_some());
    assert_eq!(count(scene, "status"), Some(7));
    end(scene);
}

fn what_lies_between_an_inner_program_and_the_outer_one_goes_on(scene: &Scene) {
    let frost = frost(scene);
    let from = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.002; done";
    let to = "e=0; while read n; do e=$((e+1)); [ $n = $e ] || { echo $n $e > wrong; exit; }; echo $n > count; done";
    start(scene, &format!("sh -c '{from}' | {frost} run --name inner -- cat | sh -c '{to}' &"));
    for how in [&["freeze", "outer"][..], &["freeze", "outer", "--cold"]] {
        goes_on(scene, "count");
        scene.frost(how).ok();
        scene.frost(&["thaw", "outer"]).ok();
        goes_on(scene, "count");
    }
    assert!(!scene.stage("wrong").exists(), "{:?}", fs::read_to_string(scene.stage("wrong")));
    end(scene);
}

fn threads_and_children_of_an_inner_program_keep_their_numbers(scene: &Scene) {
    let program = "import os, threading, time
def numbers():
    return sorted(map(int, os.listdir('/proc/self/task'))), sorted(map(int, filter(str.isdigit, os.listdir('/proc'))))
def turn(name):
    n = 0
    while True:
        n += 1
        with open(name + '.new', 'w') as file:
            file.write(str(n))
        os.rename(name + '.new', name)
        time.sleep(0.005)
child = os.fork()
if child == 0:
    os.setsid()
    threading.Thread(target=turn, args=('four',)).start()
    turn('three')
for name in ('one', 'two'):
    threading.Thread(target=turn, args=(name,)).start()
while not os.path.exists('two') or not os.path.exists('four'):
    time.sleep(0.01)
before = numbers(), os.getpid(), os.getsid(child), os.readlink('/proc/self')
n = 0
while True:
    n += 1
    now = numbers(), os.getpid(), os.getsid(child), os.readlink('/proc/self')
    if now != before:
        open('wrong', 'w').write(repr((before, now)))
    open('count.new', 'w').write(str(n))
    os.rename('count.new', 'count')
    time.sleep(0.005)
";
    fs::write(scene.stage("program.py"), program).expect("our own directory");
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- /usr/bin/python3 program.py"));
    for how in [&["freeze", "outer"][..], &["freeze", "outer", "--cold"]] {
        for name in ["count", "one", "two", "three", "four"] {
            goes_on(scene, name);
        }
        scene.frost(how).ok();
        scene.frost(&["thaw", "outer"]).ok();
        for name in ["count", "one", "two", "three", "four"] {
            goes_on(scene, name);
        }
        assert!(!scene.stage("wrong").exists(), "{:?}", fs::read_to_string(scene.stage("wrong")));
    }
    end(scene);
}

fn what_an_inner_program_left_behind_or_stopped_is_so_again(scene: &Scene) {
    let program = "import ctypes, os, signal, subprocess, time
def state(pid):
    fields = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()
    return fields[:4]
# Ended, and not collected.
zombie = os.fork()
if zombie == 0:
    os._exit(3)
# Stopped, in a group of its own.
stopped = os.fork()
if stopped == 0:
    os.setpgid(0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
# A daemon: its parent and the leader of its session have ended.
reader, writer = os.pipe()
leader = os.fork()
if leader == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writer, str(os.getpid()).encode())
        signal.pause()
    os._exit(0)
daemon = int(os.read(reader, 20))
os.waitpid(leader, 0)
# Left behind by its parent, in the session of one that lives.
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            signal.pause()
        os._exit(0)
    os.wait()
    signal.pause()
left = int(os.read(reader, 20))
while state(left)[1] != '1':
    time.sleep(0.01)
while state(zombie)[0] != 'Z' or state(stopped)[0] != 'T' or state(daemon)[1] != '1':
    time.sleep(0.01)
sleeper = os.pidfd_open(stopped)
before = [state(pid)[1:] for pid in (zombie, stopped, daemon, left)]
n = 0
while True:
    n += 1
    now = [state(pid)[1:] for pid in (zombie, stopped, daemon, left)]
    if now != before:
        open('wrong', 'w').write(repr((before, now)))
    open('count.new', 'w').write(str(n))
    os.rename('count.new', 'count')
    if os.path.exists('end'):
        # Whoever is let go first sees others still traced.
        while state(stopped)[0] != 'T':
            time.sleep(0.01)
        os.kill(daemon, signal.SIGKILL)
        signal.pidfd_send_signal(sleeper, signal.SIGKILL)
        ended = os.waitpid(zombie, 0), os.waitpid(stopped, 0)
        open('ended.new', 'w').write(repr([status for _, status in ended]))
        os.rename('ended.new', 'ended')
        break
    time.sleep(0.005)
";
    fs::write(scene.stage("program.py"), program).expect("our own directory");
    let frost = frost(scene);
    start(scene, &format!("{frost} run --name inner -- /usr/bin/python3 program.py &"));
    for how in [&["freeze", "outer"][..], &["freeze", "outer", "--cold"], &["freeze", "outer"]] {
        goes_on(scene, "count");
        scene.frost(how).ok();
        scene.frost(&["thaw", "outer"]).ok();
        goes_on(scene, "count");
        assert!(!scene.stage("wrong").exists(), "{:?}", fs::read_to_string(scene.stage("wrong")));
    }
    fs::write(scene.stage("end"), "").expect("our own directory");
    until("it has ended", || scene.stage("ended").exists());
    assert_eq!(fs::read_to_string(scene.stage("ended")).expect("it is there"), "[768, 9]");
    end(scene);
}

fn the_terminal_of_an_inner_program_is_its_own(scene: &Scene) {
    let inner = "tty; stty rows 7 cols 77; n=0; while [ ! -e stop ]; do n=$((n+1)); echo $n > count; sleep 0.01; done; \
                 tty; stty size; read word < stop; echo $word > /dev/tty; exec sleep 1000";
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{inner}'; tty > own"));
    for how in [&["freeze", "outer"][..], &["freeze", "outer", "--cold"]] {
        goes_on(scene, "count");
        scene.frost(how).ok();
        scene.frost(&["thaw", "outer"]).ok();
        goes_on(scene, "count");
    }
    // Both are the first one of a file system of their own.
    assert_eq!(fs::read_to_string(scene.stage("own")).expect("it was written"), "/dev/pts/0\n");
    fs::write(scene.stage("stop.new"), "word\n").expect("our own directory");
    scene.give(&scene.stage("stop.new"));
    fs::rename(scene.stage("stop.new"), scene.stage("stop")).expect("our own directory");
    let log = || within(scene, &format!("{frost} logs inner")).ok().stdout.replace('\r', "");
    until("it has written to its terminal", || log().ends_with("word\n"));
    assert_eq!(log(), "/dev/pts/0\n/dev/pts/0\n7 77\nword\n");
    end(scene);
}

/// From in there, before a freeze of the outer program, over it, and behind it.
fn whoever_is_attached_to_an_inner_program_stays_so(scene: &Scene) {
    let frost = frost(scene);
    let inner = "while read line; do echo got $line; done; exit 4";
    rustix::fs::mkfifoat(rustix::fs::CWD, scene.stage("keys"), 0o600.into()).expect("our own directory");
    scene.give(&scene.stage("keys"));
    let attach = |keys: &str| format!("{{ {frost} attach inner < {keys} > shown; echo $? > status; }} &");
    // The outer program holds the fifo open, so that whoever is attached reads on.
    let attached = format!("exec 7<> keys\n{}", attach("keys"));
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{inner}'\n{attached}"));
    let shown = || fs::read_to_string(scene.stage("shown")).unwrap_or_default();
    let type_in = |line: &str| {
        fs::write(scene.stage("line"), format!("{line}\n")).expect("our own directory");
        within(scene, "cat line > keys").ok();
    };
    type_in("one");
    until("it is shown what the program writes", || shown().contains("got one"));
    for (round, how) in [&["freeze", "outer"][..], &["freeze", "outer", "--cold"]].into_iter().enumerate() {
        scene.frost(how).ok();
        scene.frost(&["thaw", "outer"]).ok();
        type_in(&format!("behind {round}"));
        until("it is shown what the program writes", || shown().contains(&format!("got behind {round}")));
    }
    // Leaves it alone, and another one comes.
    within(scene, "printf '\\020\\021' > keys").ok();
    until("it has left", || count(scene, "status") == Some(0));
    within(scene, "rm status shown").ok();
    within(scene, &attach("keys")).ok();
    type_in("again");
    until("it is shown what the program writes", || shown().contains("got again"));
    within(scene, "printf '\\004' > keys").ok();
    until("it is told the end of the program", || count(scene, "status") == Some(4));
    end(scene);
}

fn a_third_one_within_is_refused(scene: &Scene) {
    let frost = frost(scene);
    let innermost = format!("{frost} run --detach --name innermost -- sh -c '{COUNTER}'; exec sleep 1000");
    fs::write(scene.stage("innermost"), innermost).expect("our own directory");
    start(scene, &format!("{frost} run --detach --name inner -- sh ./innermost"));
    goes_on(scene, "count");
    let what = "`frost run` in a `frost run` in it";
    let checked = scene.frost(&["check", "outer"]);
    assert!(checked.status == Some(3) && checked.stdout.contains(what), "{checked}");
    scene.frost(&["freeze", "outer"]).refused(3, what);
    goes_on(scene, "count");
    end(scene);
}

/// Where the outer program has no keeper, the inner one's is a process that no thaw could make again.
fn one_within_a_program_without_an_environment_is_refused(scene: &Scene) {
    let script = format!("{} run --name inner -- sh -c '{COUNTER}' > /dev/null; true", frost(scene));
    let mut started = scene.start(scene.command("sh").args(["-c", &script]), Stdio::Null);
    let pid = started.pid().to_string();
    goes_on(scene, "count");
    let what = "`frost run` in it";
    let checked = scene.frost(&["check", &pid]);
    assert!(checked.status == Some(3) && checked.stdout.contains(what), "{checked}");
    scene.frost(&["freeze", &pid]).refused(3, what).refused(3, "by its own name");
    goes_on(scene, "count");
    // As the remedy says.
    scene.frost(&["freeze", "inner", "--cold"]).ok();
    started.wait("the outer program", LIMIT);
    scene.frost(&["thaw", "inner"]).ok();
    goes_on(scene, "count");
    scene.frost(&["kill", "-s", "KILL", "inner"]).ok();
    scene.is_empty_soon();
}

fn what_an_inner_program_has_of_its_own_is_refused_by_name(scene: &Scene) {
    let frost = frost(scene);
    let victim = scene.path("bin").join("victim");
    fs::copy(env!("CARGO_BIN_EXE_victim"), &victim).expect("our own directory");
    let victim = |name: &str| format!("{} {name} {}", victim.display(), scene.stage("inner").display());
    let counter = format!("sh -c '{COUNTER}'");
    fs::create_dir(scene.stage("layer")).expect("our own directory");
    scene.give(&scene.stage("layer"));
    let layer = format!("--layer {}", scene.stage("layer").display());
    for (options, program, what) in [
        ("--net own", counter.clone(), "network of a `frost run` in it"),
        (&layer, counter.clone(), "layer of a `frost run` in it"),
        ("", victim("mqueue_half_full"), "POSIX message queue of a `frost run` in it"),
        ("", victim("mqueue_closed"), "POSIX message queue of a `frost run` in it"),
        ("", victim("sysv_segment"), "System V objects of a `frost run` in it"),
        ("", victim("sysv_semaphores"), "System V objects of a `frost run` in it"),
        ("", victim("sysv_queue_half_full"), "System V objects of a `frost run` in it"),
        (
            "",
            format!("unshare --user --map-root-user --uts {counter}"),
            "namespace within a `frost run` in it",
        ),
        ("", format!("sh -c 'exec 5</proc; {COUNTER}'"), "directory of /proc or /dev of a `frost run` in it"),
    ] {
        let _none = fs::remove_file(scene.stage("count"));
        let _none = fs::remove_dir_all(scene.stage("inner"));
        fs::create_dir(scene.stage("inner")).expect("our own directory");
        scene.give(&scene.stage("inner"));
        start(scene, &format!("{frost} run --detach --name inner {options} -- {program}"));
        let stands = || count(scene, "count").is_some() || scene.stage("inner/ready").exists();
        until("the inner program stands", stands);
        let checked = scene.frost(&["check", "outer"]);
        assert!(checked.status == Some(3) && checked.stdout.contains(what), "{what}\n{checked}");
        scene.frost(&["freeze", "outer"]).refused(3, what);
        assert_eq!(scene.frost(&["ps", "inner", "--json"]).ok().record()["state"], "running");
        end(scene);
    }
}

/// An inner program that was frozen by itself has missed some time, which the outer one has not.
fn clocks_that_stand_otherwise_are_refused(scene: &Scene) {
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{COUNTER}'"));
    goes_on(scene, "count");
    within(scene, &format!("{frost} freeze inner")).ok();
    within(scene, &format!("{frost} thaw inner")).ok();
    goes_on(scene, "count");
    let what = "time of a `frost run` in it";
    let checked = scene.frost(&["check", "outer"]);
    assert!(checked.status == Some(3) && checked.stdout.contains(what), "{checked}");
    scene.frost(&["freeze", "outer"]).refused(3, what);
    goes_on(scene, "count");
    end(scene);
}

fn an_inner_program_is_frozen_by_itself_behind_a_thaw_of_both(scene: &Scene) {
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{COUNTER}'"));
    goes_on(scene, "count");
    scene.frost(&["freeze", "outer"]).ok();
    scene.frost(&["thaw", "outer"]).ok();
    goes_on(scene, "count");
    for how in ["", " --cold"] {
        within(scene, &format!("{frost} freeze inner{how}")).ok();
        let frozen = count(scene, "count");
        within(scene, &format!("{frost} thaw inner")).ok();
        goes_on(scene, "count");
        assert!(count(scene, "count") > frozen);
    }
    end(scene);
}

fn a_copy_is_refused_since_the_inner_name_is_one_program_s(scene: &Scene) {
    let frost = frost(scene);
    let inner = "while [ ! -e stop ]; do echo 1 > count; sleep 0.01; done; exit 3";
    let script = format!("{frost} run --name inner -- sh -c '{inner}' > /dev/null 2>&1 < /dev/null; exit $?");
    scene.frost(&["run", "--detach", "--name", "outer", "--", "sh", "-c", &script]).ok();
    until("the inner program runs", || count(scene, "count").is_some());
    scene.frost(&["freeze", "outer"]).ok();
    let copy = scene.frost(&["thaw", "outer", "--clone", "--json"]);
    assert!(copy.status == Some(3) && copy.stderr.contains("instances/inner/"), "{copy}");
    scene.frost(&["thaw", "outer"]).ok();
    fs::write(scene.stage("stop"), "").expect("our own directory");
    assert_eq!(scene.frost(&["wait", "outer"]).status, Some(3));
    scene.is_empty_soon();
}

fn a_builder_that_dies_leaves_no_half_of_both(scene: &Scene) {
    let frost = frost(scene);
    start(scene, &format!("{frost} run --detach --name inner -- sh -c '{COUNTER}'"));
    let with = |fault: &str, arguments: &[&str]| {
        let mut command = scene.frost_command(arguments);
        scene.run(command.env("FROST_FAIL_AT", fault), LIMIT)
    };
    let state = || {
        let record = scene.frost(&["ps", "outer", "--json"]).ok().record();
        record["state"].as_str().unwrap_or_default().to_owned()
    };
    for step in ["freeze.stop", "freeze.inner", "freeze.sessions", "freeze.memory"] {
        goes_on(scene, "count");
        assert_ne!(with(&format!("{step}:kill"), &["freeze", "outer"]).status, Some(0), "{step}");
        goes_on(scene, "count");
    }
    scene.frost(&["freeze", "outer"]).ok();
    let frozen = count(scene, "count");
    let steps = ["thaw.spawn", "tape.clone", "tape.descriptors", "tape.gate", "thaw.arrive", "thaw.check"];
    for step in steps.into_iter().chain(["thaw.stop", "thaw.commit"]) {
        assert_ne!(with(&format!("{step}:kill"), &["thaw", "outer"]).status, Some(0), "{step}");
        until("it is frozen again", || state() == "frozen");
        // The outer keeper stays.
        until("nothing that was built is left", || scene.processes().len() <= 1);
    }
    assert_eq!(count(scene, "count"), frozen);
    scene.frost(&["thaw", "outer"]).ok();
    goes_on(scene, "count");
    end(scene);
}
