//! Programs in the environment of `frost run`.
//!
//! `FROST_ROUNDS` says how often a server under load is frozen and thawed (3).

use frost_tests::journey::tracks_writes;
use frost_tests::program::has;
use frost_tests::{LIMIT, Scene, Started, Stdio, Who, is_alive, is_root, skip, tree_of, until};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

frost_tests::as_each_user! {
    a_foreground_program_is_as_if_there_were_no_frost
    a_detached_program_is_frozen_and_thawed_by_its_name
    what_cannot_be_executed_is_told_apart
    real_time_signals_are_the_program_s
    a_frost_run_too_deep_within_others_is_told_so
    a_name_denotes_one_program
    who_may_make_no_namespaces_is_told_which_setting_forbids_it
    what_cannot_be_carried_is_not_given
    frost_runs_in_frost
    job_control_is_the_shell_s
    all_but_the_keeper_may_be_killed_at_any_moment
    a_builder_that_dies_before_the_gate_leaves_the_program_frozen
    the_program_ends_with_its_keeper
    who_ended_a_program_behind_its_guardian_s_death_is_told_apart
    each_snapshot_goes_on_from_the_one_before
    copies_are_forked_from_what_runs
    copies_have_names_of_their_own
    what_logs_could_not_follow_is_told
    processes_whose_parents_have_ended_belong_to_the_program
    objects_of_system_v_go_with_the_program
    a_program_in_the_foreground_is_frozen_from_elsewhere
    servers_and_interpreters_are_frozen_under_load
    a_child_that_stops_at_once_does_not_hang_the_program_up
    a_daemon_goes_on_when_what_started_it_has_ended
    what_was_killed_before_the_end_leaves_no_daemon
    what_was_put_into_the_background_keeps_its_terminal
    servers_that_daemonize_are_frozen_by_their_name
    a_key_that_stops_jobs_stops_nothing_that_nobody_could_continue
    the_session_of_its_terminal_is_the_same_whatever_becomes_of_it
    the_end_of_who_leads_the_session_is_a_hangup
    a_shell_at_its_keeper_s_terminal_has_job_control
    who_asks_is_told_of_freeze_and_thaw
    names_that_are_none_are_refused
    a_start_that_is_cut_short_is_told_so
    one_of_two_freezes_is_told_that_it_is_late
    nonsense_at_the_socket_is_no_matter
    a_clock_that_was_set_back_is_no_matter
    sandboxes_of_real_programs_come_back
    well_known_programs_do_without_what_is_refused
    no_write_is_lost_that_a_server_has_acknowledged
}

/// Makes a scene, unless whoever runs the tests may not make namespaces.
fn scene(who: Who) -> Option<Scene> {
    Scene::with_namespaces(who)
}

fn a_foreground_program_is_as_if_there_were_no_frost(scene: &Scene) {
    let status = |script: &str| scene.frost(&["run", "--", "sh", "-c", script]).status;
    assert_eq!(status("exit 7"), Some(7));
    assert_eq!(status("kill -TERM $$"), Some(128 + 15));
    assert_eq!(scene.frost(&["run", "--", "/nonexistent"]).status, Some(127));
    let empty = scene.frost(&["run", "--", ""]).refused(127, "'': an empty word names no program");
    assert!(empty.stderr.starts_with("error: cannot run ''\n"), "{empty}");
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

fn what_cannot_be_executed_is_told_apart(scene: &Scene) {
    let run = |command: &str| scene.frost(&["run", "--", command]);
    fs::create_dir(scene.stage("closed")).expect("our own directory");
    scene.give(&scene.stage("closed"));
    let mode = |name: &str, mode| {
        fs::set_permissions(scene.stage(name), std::os::unix::fs::PermissionsExt::from_mode(mode))
            .expect("our own file");
    };
    mode("closed", 0o000);
    let mut command = scene.frost_command(&["run", "--", "no-such-program"]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", scene.stage("closed").display()));
    // A directory of PATH that may not be looked into holds nothing.
    scene.run(&mut command, LIMIT).refused(127, "No such file");
    mode("closed", 0o700);
    fs::write(scene.stage("script"), "#!/nonexistent/interpreter -x\necho\n").expect("our own directory");
    run("./script").refused(126, "Permission denied");
    mode("script", 0o755);
    run("./script").refused(126, "its interpreter /nonexistent/interpreter is not there");
    run("./closed").refused(126, "Permission denied");
    run("./script/below").refused(126, "Not a directory");
    // Every smaller number is the program's own, also where the command line is wrong.
    for wrong in
        [&["run"][..], &["run", "--nothing"], &["wait"], &["attach", "--nothing"], &["thaw", "--attach"]]
    {
        assert_eq!(scene.frost(wrong).status, Some(125), "{wrong:?}");
    }
    assert_eq!(scene.frost(&["run", "--help"]).status, Some(0));
    scene.is_empty_soon();
}

fn real_time_signals_are_the_program_s(scene: &Scene) {
    let program = "import os, signal, time
got = []
for number in (34, 50, 64, signal.SIGIO, signal.SIGPWR):
    signal.signal(number, lambda number, _: got.append(int(number)))
open('ready', 'w').close()
while len(got) < 5:
    time.sleep(0.01)
with open('got.new', 'w') as file:
    file.write(repr(sorted(got)))
os.rename('got.new', 'got')
";
    for detached in [false, true] {
        let options: &[&str] = if detached { &["run", "-d"] } else { &["run"] };
        let arguments = [options, &["--name", "it", "--", "/usr/bin/python3", "-c", program]].concat();
        let mut command = scene.start(&mut scene.frost_command(&arguments), Stdio::Null);
        until("it is ready", || scene.stage("ready").exists());
        for (name, number) in [("RTMIN", 34), ("50", 50), ("RTMAX", 64), ("IO", 29), ("PWR", 30)] {
            if detached {
                scene.frost(&["kill", "-s", name, "it"]).ok();
            } else {
                let pid = command.pid().to_string();
                let mut kill = scene.command("kill");
                scene.run(kill.args([format!("-{number}"), pid]), LIMIT).ok();
            }
        }
        assert_eq!(scene.await_file("got"), "[29, 30, 34, 50, 64]");
        // In the foreground nothing is left of it.
        if detached {
            assert_eq!(scene.frost(&["wait", "it"]).status, Some(0));
        }
        assert!(command.wait("frost run", LIMIT).success());
        for name in ["got", "ready"] {
            fs::remove_file(scene.stage(name)).expect("it was there");
        }
    }
    scene.is_empty_soon();
}

/// As deep as the kernel nests pid namespaces; the tests may be in some already.
fn a_frost_run_too_deep_within_others_is_told_so(scene: &Scene) {
    let frost = scene.path("bin").join("frost").display().to_string();
    let script = format!("[ $1 -gt 40 ] && exit 9\nexec {frost} run -- sh ./deeper $(($1 + 1))");
    fs::write(scene.stage("deeper"), script).expect("our own directory");
    let refused = scene.frost(&["run", "--", "sh", "./deeper", "1"]).refused(125, "within each other");
    assert!(refused.stderr.contains("run it further outside"), "{refused}");
    scene.is_empty_soon();
}

fn a_detached_program_is_frozen_and_thawed_by_its_name(scene: &Scene) {
    let script = "n=0; while :; do n=$((n+1)); echo line $n; echo $n > count; sleep 0.02; done";
    let started =
        scene.frost(&["run", "--detach", "--name", "counter", "--json", "--", "sh", "-c", script]).ok();
    let keeper = started.number("keeper") as i32;
    goes_on(scene);
    let record = || scene.frost(&["ps", "counter", "--json"]).ok().record();
    assert_eq!(record()["state"], "running");
    let mut attached = scene.start(&mut scene.frost_command(&["attach", "counter"]), Stdio::Files);
    let shown = || fs::read(scene.stage("out")).map_or(0, |bytes| bytes.len());
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
        // Its terminal is there, or will be.
        let plan = scene.frost(&["thaw", "counter", "--plan"]).ok().stdout;
        assert!(plan.contains("inherit") && !plan.contains("hung up"), "{plan}");
        let thawed = scene.frost(&["thaw", "counter", "--json"]).ok();
        assert_eq!(thawed.number("inner_pid"), 2);
        // All is as it was: the namespaces that it gets it had before.
        assert_eq!(thawed.record()["notes"], Value::Array(Vec::new()), "{thawed}");
        goes_on(scene);
        if round == 0 {
            // Whoever is attached sees the program go on where its keeper stayed.
            let now = shown();
            until("it is shown", || shown() > now);
        } else if round == 1 {
            assert_eq!(attached.wait("frost attach", LIMIT).code(), Some(128 + 9));
        }
    }
    // No line was lost or written twice on the way.
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    assert_eq!(scene.frost(&["wait", "counter"]).status, Some(128 + 9));
    no_line_is_lost(scene, "counter");
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

/// The setting counts in a user namespace of one's own as well, where it is nobody else's.
fn who_may_make_no_namespaces_is_told_which_setting_forbids_it(scene: &Scene) {
    if scene.who() == Who::Myself && frost_tests::is_root() {
        skip("root needs no user namespace; the ordinary user's part is tested");
        return;
    }
    let frost = scene.path("bin").join("frost").display().to_string();
    let without = |kind: &str, script: &str| {
        let mut command = scene.command("unshare");
        let script = format!("echo 0 > /proc/sys/user/max_{kind}_namespaces || exit 99; {script}");
        command.args(["--user", "--map-current-user", "--keep-caps", "sh", "-c", &script]);
        scene.run(&mut command, LIMIT)
    };
    for kind in ["user", "pid", "mnt", "time", "net"] {
        let net = if kind == "net" { "--net none" } else { "" };
        let refused = without(kind, &format!("exec {frost} run {net} --name one -- touch ran"));
        let refused = refused.refused(125, &format!("sysctl user.max_{kind}_namespaces"));
        assert!(refused.stderr.contains("what works without"), "{refused}");
        assert!(!refused.stderr.contains("No space"), "{refused}");
        assert!(!scene.stage("ran").exists());
    }
    for kind in ["user", "time"] {
        let checked = without(kind, &format!("exec {frost} check"));
        assert!(checked.stdout.contains(&format!("sysctl user.max_{kind}_namespaces")), "{checked}");
        assert_ne!(checked.status, Some(0), "{checked}");
    }
    scene.frost(&["run", "--detach", "--name", "away", "--", "sleep", "1000"]).ok();
    scene.frost(&["freeze", "away", "--cold"]).ok();
    without("user", &format!("exec {frost} thaw away")).refused(5, "sysctl user.max_user_namespaces");
    without("time", &format!("exec {frost} thaw away")).refused(5, "a time namespace");
    scene.frost(&["rm", "away"]).ok();
    // Nothing has the name.
    scene.frost(&["run", "--name", "one", "--", "touch", "ran"]).ok();
    assert!(scene.stage("ran").exists());
    scene.is_empty_soon();
}

fn what_cannot_be_carried_is_not_given(scene: &Scene) {
    let script = "import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for number in (425, 323, 298, 321, 300, 444):
    result = libc.syscall(number, 0, 0, 0, 0, 0)
    print(number, os.strerror(ctypes.get_errno()) if result < 0 else 'made')
";
    let run = |allow: &[&str]| {
        let mut arguments = vec!["run"];
        arguments.extend(allow);
        arguments.extend(["--", "/usr/bin/python3", "-c", script]);
        scene.frost(&arguments).ok().stdout
    };
    let refused = run(&[]);
    let expected = [
        "425 Function not implemented",
        "323 Operation not permitted",
        "298 Permission denied",
        "321 Operation not permitted",
        "300 Operation not permitted",
        "444 Operation not supported",
    ];
    assert_eq!(refused.lines().collect::<Vec<_>>(), expected);
    let opened = run(&["--allow", "perf"]);
    assert!(opened.contains("298 Bad address"), "{opened}");
    scene.frost(&["run", "--allow", "everything", "--", "true"]).refused(125, "everything");
}

fn frost_runs_in_frost(scene: &Scene) {
    let frost = scene.path("bin").join("frost");
    let frost = frost.to_str().expect("a temporary directory has a name");
    let outcome = scene.frost(&["run", "--", frost, "run", "--", "sh", "-c", "echo $$; exit 3"]);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(3), "2\n"), "{outcome}");
    scene.is_empty_soon();
}

fn job_control_is_the_shell_s(scene: &Scene) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/terminal.py");
    fs::copy(script, scene.stage("terminal.py")).expect("our own directory");
    let mut command = scene.command("/usr/bin/python3");
    command.arg("terminal.py").arg(scene.path("bin").join("frost"));
    scene.run(&mut command, LIMIT).ok();
}

/// Returns every process that is the scene's `frost`: not the keeper, which is a program of its own.
fn frosts(scene: &Scene) -> Vec<i32> {
    let frost = fs::canonicalize(scene.path("bin").join("frost")).expect("it is installed");
    let ours = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == frost);
    scene.processes().into_iter().filter(ours).collect()
}

fn kill_all(pids: &[i32]) {
    for pid in pids {
        if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

const COUNTER: &str = "n=0; while :; do n=$((n+1)); echo line $n; echo $n > count; sleep 0.01; done";

fn count(scene: &Scene) -> Option<u64> {
    fs::read_to_string(scene.stage("count")).ok()?.trim().parse().ok()
}

#[track_caller]
fn goes_on(scene: &Scene) {
    let now = count(scene).unwrap_or(0);
    until("the program goes on", || count(scene).is_some_and(|count| count > now));
}

fn state(scene: &Scene, name: &str) -> String {
    scene.frost(&["ps", name, "--json"]).ok().record()["state"].as_str().unwrap_or_default().to_owned()
}

/// Checks that the counter's terminal has shown each line once.
#[track_caller]
fn no_line_is_lost(scene: &Scene, name: &str) {
    let log = scene.frost(&["logs", name]).ok().stdout;
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    assert!(lines.len() > 3);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {}", index + 1));
    }
}

fn all_but_the_keeper_may_be_killed_at_any_moment(scene: &Scene) {
    scene.frost(&["run", "--detach", "--name", "counter", "--", "sh", "-c", COUNTER]).ok();
    // Numbers that are spread, and the same each time.
    let mut seed = 12_345u64;
    let mut delay = |most_us: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((seed >> 33) % most_us)
    };
    let mut frozen = 0;
    let mut round = 0;
    // On a busy machine it may take more of them until a freeze comes to its end in time.
    while round < 8 || frozen == 0 {
        let longest_us = 60_000 * (1 + round / 8);
        round += 1;
        goes_on(scene);
        let freeze: &[&str] =
            if round % 2 == 0 { &["freeze", "counter"] } else { &["freeze", "counter", "--cold"] };
        let commands: [&[&str]; 4] =
            [freeze, &["attach", "counter"], &["logs", "-f", "counter"], &["thaw", "counter"]];
        for (index, arguments) in commands.into_iter().enumerate() {
            let mut command = Started::spawn(
                scene
                    .frost_command(arguments)
                    .stdin(std::process::Stdio::null())
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null()),
            );
            let (start, delay) = (Instant::now(), delay(longest_us));
            while start.elapsed() < delay && command.ended().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
            // The command, which may not have been executed yet, and its guardian or builder.
            until("all of frost is dead", || {
                let mut left = frosts(scene);
                if command.ended().is_none() {
                    left.push(command.pid());
                }
                kill_all(&left);
                left.is_empty()
            });
            command.wait("the command", LIMIT);
            if index == 0 && state(scene, "counter") == "frozen" {
                frozen += 1;
            }
        }
        // A death right behind the commit may be seen a moment later.
        until("it is one or the other", || matches!(state(scene, "counter").as_str(), "running" | "frozen"));
        if state(scene, "counter") == "frozen" {
            let outcome = scene.frost(&["thaw", "counter"]);
            assert!(outcome.status == Some(0) || outcome.stderr.contains("runs"), "{outcome}");
        }
    }
    goes_on(scene);
    no_line_is_lost(scene, "counter");
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    scene.is_empty_soon();
}

/// The keeper had been told that the program was about to live; whether it does only the gate tells.
fn a_builder_that_dies_before_the_gate_leaves_the_program_frozen(scene: &Scene) {
    scene.frost(&["run", "-d", "--name", "counter", "--", "sh", "-c", COUNTER]).ok();
    let thaw = |fault: &str| {
        let mut command = scene.frost_command(&["thaw", "counter"]);
        scene.run(command.env("FROST_FAIL_AT", fault), LIMIT)
    };
    for how in [&["freeze", "counter"][..], &["freeze", "counter", "--cold"]] {
        goes_on(scene);
        scene.frost(how).ok();
        let frozen = count(scene);
        for _ in 0..3 {
            assert_ne!(thaw("thaw.commit:kill").status, Some(0));
            until("it is frozen again", || state(scene, "counter") == "frozen");
        }
        assert_eq!(count(scene), frozen);
        scene.frost(&["thaw", "counter"]).ok();
        goes_on(scene);
        scene.frost(how).ok();
        // Behind the gate it lives, whoever dies.
        thaw("thaw.registers:kill");
        until("it runs", || state(scene, "counter") == "running");
    }
    goes_on(scene);
    no_line_is_lost(scene, "counter");
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    scene.is_empty_soon();
}

/// Behind the commit the guardian announces that it ends the program. If it dies before that, whoever ends the program then
/// has ended it; if it dies amid that, the program is frozen, though no other command may ever come.
fn who_ended_a_program_behind_its_guardian_s_death_is_told_apart(scene: &Scene) {
    let alone = "exec sleep 1000";
    let several = "sleep 1000 & sleep 1000 & exec sleep 1000";
    for script in [alone, several] {
        for how in [&["freeze", "it"][..], &["freeze", "it", "--cold"]] {
            for (step, is_ending) in
                [("freeze.announced", false), ("freeze.hold", false), ("freeze.ending", true)]
            {
                // Only of several is one ended before the last, and all are held before the first is.
                if step != "freeze.announced" && script == alone {
                    continue;
                }
                let started =
                    scene.frost(&["run", "-d", "--name", "it", "--json", "--", "sh", "-c", script]).ok();
                let (keeper, root) = (started.number("keeper") as i32, started.number("pid") as i32);
                until("all of it runs", || {
                    tree_of(keeper).len() == 1 + usize::from(script == several) * 2 + 2
                });
                let mut command = scene.frost_command(how);
                command.env("FROST_FAIL_AT", format!("{step}:stop"));
                let mut command = scene.start(&mut command, Stdio::Null);
                let guardian = || tree_of(command.pid()).get(1).copied();
                until("the guardian stands still", || {
                    guardian().is_some_and(|pid| {
                        fs::read_to_string(format!("/proc/{pid}/stat"))
                            .is_ok_and(|stat| stat.contains(") T "))
                    })
                });
                let both: Vec<i32> = [command.pid()].into_iter().chain(guardian()).collect();
                assert_eq!(both.len(), 2, "it stood still just now");
                kill_all(&both);
                command.wait("the command", LIMIT);
                // Until it is dead, and not only killed, the program is in its hands.
                until("the guardian is dead", || !both.iter().any(|pid| is_alive(*pid)));
                if is_ending {
                    until("the rest of it is ended", || !is_alive(root));
                    until("it is frozen", || state(scene, "it") == "frozen");
                    let record = scene.frost(&["ps", "it", "--json"]).ok().record();
                    assert!(record.get("what").is_none(), "{step}: {record}");
                    scene.frost(&["thaw", "it"]).ok();
                }
                scene.frost(&["kill", "-s", "KILL", "it"]).ok();
                assert_eq!(scene.frost(&["wait", "it"]).status, Some(128 + 9), "{step} of {script}");
                let record = scene.frost(&["ps", "it", "--json"]).ok().record();
                let what = record["what"].as_str().unwrap_or_default();
                assert!(what.contains("ended by signal 9"), "{step}: {record}");
                scene.is_empty_soon();
                scene.frost(&["rm", "it"]).ok();
            }
        }
    }
}

fn the_program_ends_with_its_keeper(scene: &Scene) {
    let started = scene.frost(&["run", "-d", "--name", "counter", "--json", "--", "sh", "-c", COUNTER]).ok();
    let keeper = started.number("keeper") as i32;
    goes_on(scene);
    let snapshot = scene.frost(&["freeze", "counter", "--leave-running", "--json"]).ok();
    assert!(!tracks_writes() || snapshot.number("passes") >= 1, "copied while it stood still\n{snapshot}");
    let loses = |keeper| {
        kill_all(&[keeper]);
        scene.is_empty_soon();
        let record = scene.frost(&["ps", "counter", "--json"]).ok().record();
        assert_eq!(record["state"], "frozen", "its image stays: {record}");
        assert!(record["what"].as_str().is_some_and(|what| what.contains("keeper was killed")), "{record}");
        assert_eq!(scene.frost(&["wait", "counter"]).status, Some(128 + 9));
    };
    loses(keeper);
    // That it was frozen once says nothing of its end behind a thaw.
    scene.frost(&["rm", "counter"]).ok();
    let started = scene.frost(&["run", "-d", "--name", "counter", "--json", "--", "sh", "-c", COUNTER]).ok();
    scene.frost(&["freeze", "counter"]).ok();
    scene.frost(&["thaw", "counter"]).ok();
    loses(started.number("keeper") as i32);
    scene.frost(&["rm", "counter"]).ok();
    let started = scene.frost(&["run", "-d", "--name", "counter", "--json", "--", "sh", "-c", COUNTER]).ok();
    kill_all(&[started.number("keeper") as i32]);
    until("it is lost", || state(scene, "counter") == "lost");
    scene.is_empty_soon();
}

fn copies_are_forked_from_what_runs(scene: &Scene) {
    let waits = "while :; do sleep 1000; done";
    let started = scene.frost(&["run", "-d", "--name", "one", "--json", "--", "sh", "-c", waits]).ok();
    let root = started.number("pid") as i32;
    until("its child sleeps", || tree_of(root).len() == 2);
    let forked = scene.frost(&["fork", "one", "-n", "3", "--json"]).ok();
    let records: Vec<Value> =
        forked.stdout.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!((records.len(), &records[0]["running"]), (4, &true.into()), "{forked}");
    let copies: Vec<i32> =
        records[1..].iter().map(|copy| copy["pid"].as_i64().expect("a pid") as i32).collect();
    for copy in &copies {
        assert!(*copy != root && tree_of(*copy).len() == 2, "{forked}");
    }
    assert_eq!(tree_of(root).len(), 2, "it goes on");
    kill_all(&copies);
    scene.frost(&["kill", "-s", "KILL", "one"]).ok();
    scene.is_empty_soon();
    scene.frost(&["fork", "one"]).refused(6, "one");
}

fn what_logs_could_not_follow_is_told(scene: &Scene) {
    let go = scene.path("logs").join("go");
    let script = format!(
        "echo first; until [ -e {go} ]; do sleep 0.01; done; \
         for part in 1 2 3 4 5 6; do head -c 800000 /dev/zero | tr '\\0' x | fold -w 99; done; echo last",
        go = go.display()
    );
    scene.frost(&["run", "-d", "--name", "writer", "--", "sh", "-c", &script]).ok();
    let [shown, told] = ["shown", "told"].map(|name| scene.path("logs").join(name));
    let file = |path: &std::path::Path| std::fs::File::create(path).expect("our own directory");
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut command = scene.frost_command(&["logs", "-f", "writer"]);
    let mut follower = Started::spawn(command.stdout(file(&shown)).stderr(file(&told)));
    until("it is followed", || text(&shown).contains("first"));
    let pid = rustix::process::Pid::from_raw(follower.pid()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it lives");
    std::fs::write(&go, "").expect("our own directory");
    until("all is written", || scene.frost(&["logs", "writer"]).stdout.contains("last"));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("it lives");
    assert!(follower.wait("the end", LIMIT).success());
    assert!(text(&shown).contains("last"), "the end is missing");
    assert!(text(&told).contains("MiB are not shown"), "{}", text(&told));
    scene.is_empty_soon();
}

fn copies_have_names_of_their_own(scene: &Scene) {
    let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done";
    scene.frost(&["run", "-d", "--name", "it", "--", "sh", "-c", script]).ok();
    let shown = |name: &str| scene.frost(&["logs", name]).ok().stdout.lines().count();
    let shows = |name: &str| {
        let now = shown(name);
        until("it goes on", || shown(name) > now);
    };
    shows("it");
    let forked = scene.frost(&["fork", "it", "-n", "2", "--json"]).ok();
    let names: Vec<String> = forked
        .stdout
        .lines()
        .filter_map(|line| {
            let record: Value = serde_json::from_str(line).expect("a record");
            record["copy"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(names, ["it-2", "it-3"], "{forked}");
    for name in ["it", "it-2", "it-3"] {
        assert_eq!(state(scene, name), "running");
        shows(name);
    }
    scene.frost(&["kill", "-s", "TERM", "it-2"]).ok();
    assert_eq!(scene.frost(&["wait", "it-2"]).status, Some(128 + 15));
    assert_eq!(state(scene, "it-2"), "ended");
    // One that fails leaves no name, and what ended keeps its own.
    let mut command = scene.frost_command(&["thaw", "it@1", "--clone"]);
    assert_ne!(scene.run(command.env("FROST_FAIL_AT", "thaw.commit"), LIMIT).status, Some(0));
    // Nor does it get that of a scenario.
    let scenario = scene.path("home/scenarios/it-4");
    fs::create_dir_all(&scenario).expect("our own directory");
    scene.give(&scenario);
    let beside = scene.frost(&["thaw", "it@1", "--clone"]).ok();
    assert!(beside.stdout.starts_with("it-5, a copy of it@1, runs"), "{beside}");
    scene.frost(&["kill", "it-5"]).ok();
    assert_eq!(scene.frost(&["wait", "it-5"]).status, Some(128 + 15));
    fs::remove_dir(&scenario).expect("our own directory");
    let copied = scene.frost(&["thaw", "it@1", "--clone"]).ok();
    assert!(copied.stdout.starts_with("it-4, a copy of it@1, runs"), "{copied}");
    let mut attached = scene.start(&mut scene.frost_command(&["attach", "it-4"]), Stdio::Null);
    // A copy is a program as any other.
    for how in [&["freeze", "it-4"][..], &["freeze", "it-4", "--cold"]] {
        scene.frost(how).ok();
        assert_eq!(state(scene, "it-4"), "frozen");
        assert_eq!(state(scene, "it"), "running");
        scene.frost(&["thaw", "it-4"]).ok();
        shows("it-4");
    }
    assert!(attached.wait("frost attach", LIMIT).code().is_some());
    for name in ["it", "it-3", "it-4"] {
        scene.frost(&["kill", "-s", "KILL", name]).ok();
        assert_eq!(scene.frost(&["wait", name]).status, Some(128 + 9));
    }
    scene.is_empty_soon();
    assert_eq!(scene.frost(&["ps", "--json"]).ok().stdout.lines().count(), 5);
}

/// Its keeper holds what tracks its writes, so that only what was written since is looked at: whatever happens in between,
/// each image is the program as it was.
fn each_snapshot_goes_on_from_the_one_before(scene: &Scene) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/pages.py");
    fs::copy(script, scene.stage("pages.py")).expect("our own directory");
    let started =
        scene.frost(&["run", "-d", "--name", "pages", "--json", "--", "/usr/bin/python3", "pages.py"]).ok();
    let root = started.number("pid");
    let tracked = || {
        let flags = fs::read_to_string(format!("/proc/{root}/smaps")).unwrap_or_default();
        flags.contains(" uw")
    };
    let turn = || fs::read_link(scene.stage("turn")).ok();
    let sound = || {
        let before = turn();
        until("the program goes on", || turn() != before || scene.stage("broken").exists());
        assert!(
            !scene.stage("broken").exists(),
            "{}",
            fs::read_to_string(scene.stage("broken")).unwrap_or_default()
        );
    };
    let snapshot = |more: &[&str]| {
        sound();
        let mut arguments = vec!["freeze", "pages", "--leave-running", "--json"];
        arguments.extend(more);
        let outcome = scene.frost(&arguments).ok();
        assert_eq!(tracked(), tracks_writes(), "{outcome}");
        scene.frost(&["check", "pages"]).ok();
        outcome
    };
    let first = snapshot(&[]);
    let second = snapshot(&[]);
    assert_eq!(second.record()["base"], 1);
    assert!(second.number("bytes") < first.number("bytes") / 2, "{first}\n{second}");
    // Each of these makes what is held useless.
    snapshot(&["--full"]);
    scene.frost(&["rm", "pages@3"]).ok();
    snapshot(&[]);
    scene.frost(&["freeze", "pages", "--leave-running", "--to", "other"]).ok();
    snapshot(&[]);
    let mut command = scene.frost_command(&["freeze", "pages", "--leave-running"]);
    let failed = scene.run(command.env("FROST_FAIL_AT", "freeze.memory:kill"), LIMIT);
    assert_ne!(failed.status, Some(0), "{failed}");
    until("nothing is tracked", || !tracked());
    snapshot(&[]);
    snapshot(&[]);
    scene.frost(&["freeze", "pages", "--precopy"]).ok();
    scene.frost(&["thaw", "pages"]).ok();
    sound();
    scene.frost(&["freeze", "pages", "--leave-running"]).ok();
    sound();
    scene.frost(&["freeze", "pages"]).ok();
    let versions = scene.frost(&["list", "--json"]).ok().stdout;
    for version in versions.lines().filter(|line| line.contains("\"pages\"")) {
        let version: serde_json::Value = serde_json::from_str(version).expect("a record");
        scene.frost(&["thaw", &format!("pages@{}", version["version"])]).ok();
        sound();
        scene.frost(&["kill", "-s", "KILL", "pages"]).ok();
        assert_eq!(scene.frost(&["wait", "pages"]).status, Some(128 + 9));
    }
    scene.is_empty_soon();
}

/// Returns what each process of `orphans.py` tells of itself: its count, and where it is.
fn told(scene: &Scene, names: &[&str]) -> Option<Vec<(u64, String)>> {
    let read = |name: &&str| {
        let text = fs::read_to_string(scene.stage(name)).ok()?;
        let (count, place) = text.split_once(' ')?;
        Some((count.parse().ok()?, place.to_owned()))
    };
    names.iter().map(read).collect()
}

fn processes_whose_parents_have_ended_belong_to_the_program(scene: &Scene) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/orphans.py");
    fs::copy(script, scene.stage("orphans.py")).expect("our own directory");
    let orphans = ["plain", "plain-parent", "lone", "guest-of-orphan", "daemon", "guest", "group"];
    let others = ["root", "plain-child", "worker", "leader"];
    let all = [&orphans[..], &others].concat();
    scene.frost(&["run", "-d", "--name", "tree", "--", "/usr/bin/python3", "orphans.py"]).ok();
    until("all of it is there", || told(scene, &all).is_some());
    let places = |told: &[(u64, String)]| told.iter().map(|(_, place)| place.clone()).collect::<Vec<_>>();
    let first = told(scene, &all).expect("it was there");
    for (name, (_, place)) in orphans.iter().zip(&first) {
        assert_eq!(place.split(' ').nth(1), Some("1"), "{name} is the keeper's child: {place}");
    }
    let obstacles = scene.frost(&["check", "tree"]);
    assert_eq!(obstacles.status, Some(0), "{obstacles}");
    for cold in [false, true, false, true] {
        let cold: &[&str] = if cold { &["--cold"] } else { &[] };
        scene.frost(&[&["freeze", "tree", "--json"], cold].concat()).ok();
        let frozen = told(scene, &all).expect("it was there");
        let thawed = scene.frost(&["thaw", "tree", "--json"]).ok();
        assert_eq!(thawed.number("processes"), all.len() as i64);
        let goes_on = |now: &[(u64, String)]| now.iter().zip(&frozen).all(|(now, then)| now.0 > then.0 + 1);
        until("all of it goes on", || told(scene, &all).is_some_and(|now| goes_on(&now)));
        assert_eq!(places(&told(scene, &all).expect("it goes on")), places(&first));
    }
    scene.frost(&["kill", "tree"]).ok();
    scene.is_empty_soon();
}

fn objects_of_system_v_go_with_the_program(scene: &Scene) {
    let script = "import ctypes, os, time
libc = ctypes.CDLL(None)
name = libc.semget(0x1234, 1, 0o1600)
assert name >= 0 and libc.semctl(name, 0, 16, 7) == 0
round = 0
while True:
    assert libc.semget(0x1234, 1, 0) == name and libc.semctl(name, 0, 12) == 7
    round += 1
    open('new', 'w').write(str(round))
    os.rename('new', 'count')
    time.sleep(0.01)";
    scene.frost(&["run", "-d", "--name", "sysv", "--", "/usr/bin/python3", "-c", script]).ok();
    for how in [&["freeze", "sysv"][..], &["freeze", "sysv"], &["freeze", "sysv", "--cold"]] {
        goes_on(scene);
        scene.frost(how).ok();
        scene.frost(&["thaw", "sysv"]).ok();
    }
    goes_on(scene);
    // What a later version has is not there for an earlier one.
    scene.frost(&["freeze", "sysv"]).ok();
    scene.frost(&["thaw", "sysv@1"]).ok();
    goes_on(scene);
    scene.frost(&["kill", "sysv"]).ok();
    scene.is_empty_soon();
}

fn a_program_in_the_foreground_is_frozen_from_elsewhere(scene: &Scene) {
    let mut command = scene.frost_command(&["run", "--name", "counter", "--", "sh", "-c", COUNTER]);
    let mut parent = scene.start(&mut command, Stdio::Null);
    goes_on(scene);
    scene.frost(&["freeze", "counter"]).ok();
    assert_eq!(parent.wait("frost run", LIMIT).code(), Some(128 + 9));
    let frozen = count(scene);
    scene.frost(&["thaw", "counter"]).ok();
    goes_on(scene);
    assert!(count(scene) > frozen);
    // Whoever stayed with it may be killed as well.
    scene.frost(&["kill", "-s", "USR1", "counter"]).ok();
    scene.is_empty_soon();
    let mut command = scene.frost_command(&["run", "--name", "second", "--", "sh", "-c", COUNTER]);
    let mut parent = scene.start(&mut command, Stdio::Null);
    goes_on(scene);
    kill_all(&[parent.pid()]);
    parent.wait("frost run", LIMIT);
    goes_on(scene);
    assert_eq!(state(scene, "second"), "running");
    scene.frost(&["kill", "second"]).ok();
    assert_eq!(scene.frost(&["wait", "second"]).status, Some(128 + 15));
}

fn servers_and_interpreters_are_frozen_under_load(scene: &Scene) {
    if !has("redis-server") {
        return;
    }
    let socket = scene.stage("redis.sock");
    let socket = socket.to_str().expect("a temporary directory has a name");
    let arguments = [
        "run",
        "-d",
        "--name",
        "redis",
        "--",
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        socket,
        "--save",
        "",
    ];
    scene.frost(&arguments).ok();
    let redis = |words: &[&str]| {
        let mut command = scene.command("redis-cli");
        command.args(["-s", socket]).args(words);
        scene.run(&mut command, LIMIT)
    };
    until("redis answers", || redis(&["ping"]).stdout == "PONG\n");
    for round in 0..6 {
        let expected = format!("{}\n", round + 1);
        assert_eq!(redis(&["incr", "rounds"]).stdout, expected);
        let cold: &[&str] = if round % 3 == 2 { &["--cold"] } else { &[] };
        scene.frost(&[&["freeze", "redis"], cold].concat()).ok();
        scene.frost(&["thaw", "redis"]).ok();
        assert_eq!(redis(&["get", "rounds"]).stdout, expected);
    }
    scene.frost(&["kill", "redis"]).ok();
    assert_eq!(scene.frost(&["wait", "redis"]).status, Some(0));
}

/// The kernel ends a process group by SIGHUP that becomes an orphaned one while a process in it is stopped: it must be one
/// from the first moment, as the child of nobody in its session.
fn a_child_that_stops_at_once_does_not_hang_the_program_up(scene: &Scene) {
    let script = "[ $PPID = 1 ] || exit 9
sleep 60 & kill -STOP $!
for look in 1 2 3 4 5 6 7 8; do [ -e /proc/$! ] || exit 8; done
kill -KILL $!
exit 7";
    for round in 0..12 {
        let name = format!("it{round}");
        for detached in [true, false] {
            let options: &[&str] = if detached { &["run", "--detach"] } else { &["run"] };
            let started = scene.frost(&[options, &["--name", &name, "--", "bash", "-c", script]].concat());
            let ended = if detached { scene.frost(&["wait", &name]) } else { started };
            assert_eq!(ended.status, Some(7), "{ended}");
            scene.frost(&["rm", &name]);
        }
    }
    scene.is_empty_soon();
}

/// As a service manager would have it: what forks, and ends with status 0, has left its work to its child.
fn a_daemon_goes_on_when_what_started_it_has_ended(scene: &Scene) {
    let script = "import os, time
if os.fork():
    os._exit(0)
os.setsid()
nowhere = os.open('/dev/null', os.O_RDWR)
for number in range(3):
    os.dup2(nowhere, number)
count = 0
while True:
    count += 1
    with open('count.new', 'w') as file:
        file.write(str(count))
    os.rename('count.new', 'count')
    with open('own.new', 'w') as file:
        file.write(f'{os.getpid()} {os.getppid()} {os.getsid(0)}')
    os.rename('own.new', 'own')
    time.sleep(0.01)
";
    let own = || scene.await_file("own");
    for detached in [&[][..], &["--detach"]] {
        let run = [&["run", "--name", "daemon"], detached, &["--", "/usr/bin/python3", "-c", script]];
        assert_eq!(scene.frost(&run.concat()).status, Some(0));
        until("what started it has ended", || own().split(' ').nth(1) == Some("1"));
        goes_on(scene);
        let before = own();
        assert_eq!(state(scene, "daemon"), "running");
        for more in [&[][..], &["--cold"]] {
            scene.frost(&[&["freeze", "daemon"], more].concat()).ok();
            scene.frost(&["thaw", "daemon"]).ok();
            goes_on(scene);
            assert_eq!(own(), before, "pid, parent and session");
        }
        scene.frost(&["kill", "daemon"]).ok();
        assert_eq!(scene.frost(&["wait", "daemon"]).status, Some(128 + 15));
        scene.frost(&["rm", "daemon"]).ok();
        fs::remove_file(scene.stage("own")).expect("it was there");
        fs::remove_file(scene.stage("count")).expect("it was there");
    }
    // One that fails takes all with it.
    let run = ["run", "--name", "failing", "--", "sh", "-c", "sleep 1000 & exit 3"];
    assert_eq!(scene.frost(&run).status, Some(3));
    scene.is_empty_soon();
}

/// Status 0 is that of the program though it has killed a helper that is not gone yet; with a daemon it is the daemon's.
///
/// With that much memory the helper's end takes longer than that of the program, which comes behind it.
fn what_was_killed_before_the_end_leaves_no_daemon(scene: &Scene) {
    let begin = "import mmap, os, resource, signal, threading, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def wait(done):
    done()
    signal.pause()
def fork(then=wait):
    ready = os.pipe()
    child = os.fork()
    if child:
        os.close(ready[1])
        os.read(ready[0], 1)
        return child
    os.close(ready[0])
    room = mmap.mmap(-1, 256 << 20)
    for at in range(0, 256 << 20, 4096):
        room[at] = 1
    then(lambda: os.close(ready[1]))
def end(child, number):
    os.kill(child, number)
    os._exit(0)
def late(status):
    time.sleep(0.3)
    os._exit(status)
";
    let caught = "def catch(done):
    signal.signal(signal.SIGTERM, lambda *_: None)
    done()
    late(7)
";
    let blocked = "def block(done):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])
    done()
    late(7)
";
    let threads = "def more(done):
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(1000,)).start()
    done()
    signal.pause()
";
    let parent = "def parent(done):
    left = os.fork()
    done()
    if left == 0:
        late(9)
    signal.pause()
";
    let cases = [
        ("", "end(fork(), signal.SIGTERM)", 0),
        ("", "end(fork(), signal.SIGKILL)", 0),
        ("", "end(fork(), signal.SIGABRT)", 0),
        (threads, "end(fork(more), signal.SIGTERM)", 0),
        (caught, "end(fork(catch), signal.SIGTERM)", 7),
        (blocked, "end(fork(block), signal.SIGABRT)", 7),
        // Who is left goes on, whichever came first.
        (caught, "first = fork()\nfork(catch)\nend(first, signal.SIGKILL)", 7),
        (parent, "end(fork(parent), signal.SIGKILL)", 9),
    ];
    for (defined, script, status) in cases {
        let script = format!("{begin}{defined}{script}");
        scene.frost(&["run", "-d", "--name", "it", "--", "/usr/bin/python3", "-c", &script]).ok();
        assert_eq!(scene.frost(&["wait", "it"]).status, Some(status), "{script}");
        scene.frost(&["rm", "it"]).ok();
        scene.is_empty_soon();
    }
}

/// The end of the first process is not that of its terminal, whoever was quicker: it, or what it has left behind.
fn what_was_put_into_the_background_keeps_its_terminal(scene: &Scene) {
    let job = format!("({COUNTER}) & exit");
    let session = format!("setsid sh -c '{COUNTER}' & exit");
    let twice = format!("setsid sh -c '{job}' & exit");
    for script in [&job, &session, &twice] {
        for cold in [&[][..], &["--cold"]] {
            scene.frost(&["run", "-d", "--name", "left", "--", "sh", "-c", script]).ok();
            let mut waiting = scene.start(&mut scene.frost_command(&["wait", "left"]), Stdio::Null);
            until("it counts", || count(scene).is_some_and(|count| count > 4));
            assert_eq!(state(scene, "left"), "running");
            scene.frost(&[&["freeze", "left"], cold].concat()).ok();
            scene.frost(&["thaw", "left"]).ok();
            goes_on(scene);
            scene.frost(&["kill", "-s", "KILL", "left"]).ok();
            assert_eq!(scene.frost(&["wait", "left"]).status, Some(128 + 9));
            // It has waited for all of it, not for what started it, which ended with status 0.
            assert_eq!(waiting.wait("frost wait", LIMIT).code(), Some(128 + 9));
            no_line_is_lost(scene, "left");
            scene.is_empty_soon();
            scene.frost(&["rm", "left"]).ok();
            fs::remove_file(scene.stage("count")).expect("it was there");
        }
    }
}

/// Connects to a unix socket in the stage, asks, and returns the answer.
fn answer(scene: &Scene, socket: &str, question: &str) -> std::io::Result<String> {
    let mut stream = std::os::unix::net::UnixStream::connect(scene.stage(socket))?;
    stream.write_all(question.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn servers_that_daemonize_are_frozen_by_their_name(scene: &Scene) {
    let stage = scene.path("stage").display().to_string();
    let place = |name: &str, text: String| {
        fs::write(scene.stage(name), text).expect("our own directory");
        scene.give(&scene.stage(name));
    };
    let rounds = |name: &str, answers: &dyn Fn() -> bool| {
        until("it answers", answers);
        for cold in [&[][..], &["--cold"], &[]] {
            scene.frost(&[&["freeze", name], cold].concat()).ok();
            scene.frost(&["thaw", name]).ok();
            until("it answers", answers);
        }
        assert_eq!(state(scene, name), "running");
    };
    if has("redis-server") {
        place(
            "redis.conf",
            format!(
                "daemonize yes\npidfile \"\"\nport 0\nsave \"\"\ndir {stage}\n\
                 unixsocket {stage}/redis\nlogfile {stage}/redis.log\n"
            ),
        );
        let path = scene.stage("redis.conf").display().to_string();
        scene.frost(&["run", "-d", "--name", "redis", "--", "redis-server", &path]).ok();
        rounds("redis", &|| {
            answer(scene, "redis", "PING\r\nQUIT\r\n").is_ok_and(|text| text.starts_with("+PONG"))
        });
        // It ends as its root by then does.
        let _closed = answer(scene, "redis", "SHUTDOWN NOSAVE\r\n");
        assert_eq!(scene.frost(&["wait", "redis"]).status, Some(0));
        scene.is_empty_soon();
    }
    if has("/usr/sbin/nginx") {
        place(
            "nginx.conf",
            format!(
                "daemon on; worker_processes 2; pid {stage}/pid; error_log {stage}/errors;\n\
                 events {{ worker_connections 50; }}\n\
                 http {{ access_log off; client_body_temp_path {stage}/t1; proxy_temp_path {stage}/t2;\n\
                 fastcgi_temp_path {stage}/t3; uwsgi_temp_path {stage}/t4; scgi_temp_path {stage}/t5;\n\
                 server {{ listen unix:{stage}/nginx; location / {{ return 200 pong; }} }} }}\n"
            ),
        );
        let mut run =
            vec!["run", "-d", "--name", "nginx", "--", "/usr/sbin/nginx", "-p", &stage, "-c", "nginx.conf"];
        if scene.who() == Who::Myself && is_root() {
            run.extend(["-g", "user root;"]);
        }
        scene.frost(&run).ok();
        rounds("nginx", &|| {
            answer(scene, "nginx", "GET / HTTP/1.0\r\n\r\n").is_ok_and(|text| text.ends_with("pong"))
        });
        scene.frost(&["kill", "nginx"]).ok();
        assert_eq!(scene.frost(&["wait", "nginx"]).status, Some(0));
        scene.is_empty_soon();
    }
}

/// A shell continues the jobs that Ctrl-Z has stopped; nobody is there who could for a program of a terminal that its
/// keeper holds.
fn a_key_that_stops_jobs_stops_nothing_that_nobody_could_continue(scene: &Scene) {
    // Two processes of one group, of which the keeper is the parent of one.
    let script = "echo ready | cat; while read line; do echo got $line | cat; done";
    scene.frost(&["run", "-d", "--name", "reader", "--", "sh", "-c", script]).ok();
    let shown = |text: &str| scene.frost(&["logs", "reader"]).ok().stdout.contains(text);
    until("it reads", || shown("ready"));
    let mut attached = scene.start(&mut scene.frost_command(&["attach", "reader"]), Stdio::Pipes);
    let mut keys = attached.child().stdin.take().expect("it is a pipe");
    for (round, more) in [&[][..], &["--leave-running"], &[]].into_iter().enumerate() {
        for number in 0..5 {
            // The key throws away what was typed before it, so each line comes when the one before was read.
            keys.write_all(format!("\x1aline {round} {number}\n").as_bytes()).expect("it is attached");
            until("it goes on", || shown(&format!("got line {round} {number}")));
        }
        scene.frost(&[&["freeze", "reader"], more].concat()).ok();
        if more.is_empty() {
            scene.frost(&["thaw", "reader"]).ok();
        }
    }
    scene.frost(&["kill", "-s", "KILL", "reader"]).ok();
    assert_eq!(attached.wait("frost attach", LIMIT).code(), Some(128 + 9));
    scene.is_empty_soon();
}

/// Where every process of a detached program is: its numbers, the foreground of its terminal, the terminal's session.
fn the_session_of_its_terminal_is_the_same_whatever_becomes_of_it(scene: &Scene) {
    let script = "import os, signal, termios, fcntl, struct, time
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
def place():
    number = fcntl.ioctl(0, 0x5429, bytes(4))
    return os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), os.tcgetpgrp(0), struct.unpack('i', number)[0]
def tell(name):
    count = 0
    while True:
        count += 1
        # No file, which a copy could not write as well; that has the same names, and is ended amid whatever it does.
        try:
            os.symlink(f'{count} {place()}', name + '.new')
            os.rename(name + '.new', name)
        except FileExistsError:
            os.unlink(name + '.new')
        except FileNotFoundError:
            pass
        time.sleep(0.01)
if os.fork() == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    tell('job')
if os.fork() == 0:
    if os.fork() == 0:
        tell('orphan')
    os._exit(0)
os.wait()
tell('root')
";
    let names = ["root", "job", "orphan"];
    fs::write(scene.stage("place.py"), script).expect("our own directory");
    scene.frost(&["run", "-d", "--name", "place", "--", "/usr/bin/python3", "place.py"]).ok();
    let told = || {
        let read = |name: &&str| {
            let text = fs::read_link(scene.stage(name)).ok()?.to_string_lossy().into_owned();
            let (count, place) = text.split_once(' ')?;
            Some((count.parse::<u64>().ok()?, place.to_owned()))
        };
        names.iter().map(read).collect::<Option<Vec<_>>>()
    };
    let places = || told().map(|told| told.into_iter().map(|told| told.1).collect::<Vec<_>>());
    // Pid, parent, group, session, foreground, session of the terminal.
    let first =
        ["(2, 1, 2, 3, 4, 3)", "(4, 2, 4, 3, 4, 3)", "(6, 1, 2, 3, 4, 3)"].map(str::to_owned).to_vec();
    until("it is in its place", || places().is_some_and(|places| places == first));
    let told_now = || told().expect("it was there");
    let is_as_before = || {
        let before = told_now();
        until("all of it goes on", || {
            told_now().iter().zip(&before).all(|(now, then)| now.0 > then.0 + 2 || now.0 < then.0)
        });
        assert_eq!(places(), Some(first.clone()));
    };
    for how in [&[][..], &["--cold"], &["--leave-running"], &[]] {
        scene.frost(&[&["freeze", "place"], how].concat()).ok();
        if how != ["--leave-running"] {
            scene.frost(&["thaw", "place"]).ok();
        }
        is_as_before();
        assert_eq!(scene.frost(&["ps", "place", "--json"]).ok().number("processes"), 3);
    }
    scene.frost(&["freeze", "place"]).ok();
    let copy = scene.frost(&["thaw", "place", "--clone", "--json"]).ok().number("pid") as i32;
    is_as_before();
    let keeper = keeper_of(copy);
    let all = tree_of(keeper);
    assert_eq!(all.iter().filter(|pid| leads(**pid)).count(), 1);
    end_process(copy);
    // All of it, which would write beside the original.
    until("the copy has ended", || all.iter().all(|pid| !is_alive(*pid)));
    scene.frost(&["thaw", "place"]).ok();
    is_as_before();
    scene.frost(&["kill", "-s", "KILL", "place"]).ok();
    scene.is_empty_soon();
}

/// Who leads the session of the terminal is no part of the program: whoever kills it hangs the terminal up, as elsewhere.
fn the_end_of_who_leads_the_session_is_a_hangup(scene: &Scene) {
    let script = "trap '' HUP; n=0; while :; do n=$((n+1)); echo $n > count; sleep 0.01; done";
    scene.frost(&["run", "-d", "--name", "hung", "--", "sh", "-c", script]).ok();
    goes_on(scene);
    let record = || scene.frost(&["ps", "hung", "--json"]).ok();
    // It runs sleep, or is about to.
    assert!(record().number("processes") <= 2);
    let leaders = || tree_of(record().number("keeper") as i32).into_iter().filter(|pid| leads(*pid));
    assert_eq!(leaders().count(), 1);
    leaders().for_each(end_process);
    until("it has ended", || leaders().count() == 0);
    for cold in [&[][..], &["--cold"], &[]] {
        goes_on(scene);
        scene.frost(&[&["freeze", "hung"], cold].concat()).ok();
        scene.frost(&["thaw", "hung"]).ok();
        goes_on(scene);
    }
    scene.frost(&["kill", "-s", "KILL", "hung"]).ok();
    assert_eq!(scene.frost(&["wait", "hung"]).status, Some(128 + 9));
    scene.is_empty_soon();
}

fn end_process(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
}

fn keeper_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.and_then(|parent| parent.trim().parse().ok()).expect("a number")
}

fn leads(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "frost-session\n")
}

/// A shell at the terminal that its keeper holds: jobs, keys and the foreground are as ever, behind each thaw too.
fn a_shell_at_its_keeper_s_terminal_has_job_control(scene: &Scene) {
    let shell = ["run", "-d", "--name", "shell", "--", "bash", "--norc", "--noprofile", "--noediting", "-i"];
    scene.frost(&shell).ok();
    let attach = || {
        let mut attached = scene.start(&mut scene.frost_command(&["attach", "shell"]), Stdio::Pipes);
        let keys = attached.child().stdin.take().expect("it is a pipe");
        (attached, keys)
    };
    let (mut attached, keys) = attach();
    let keys = std::cell::RefCell::new(keys);
    let log = || scene.frost(&["logs", "shell"]).ok().stdout.replace('\r', "");
    let type_in = |text: &str| keys.borrow_mut().write_all(text.as_bytes()).expect("it is attached");
    type_in("PS1=; set -m; sleep 1000 & echo begun $?\n");
    until("it has begun a job", || log().contains("\nbegun 0\n"));
    for (round, cold) in [&[][..], &["--cold"]].into_iter().enumerate() {
        // In the foreground over the freeze.
        type_in("cat\n");
        type_in(&format!("before {round}\n"));
        until("it is echoed and shown", || log().matches(&format!("before {round}\n")).count() == 2);
        scene.frost(&[&["freeze", "shell"], cold].concat()).ok();
        if !cold.is_empty() {
            // Before there is another keeper of that name, whose end it would wait for.
            assert_eq!(attached.wait("frost attach", LIMIT).code(), Some(128 + 9));
        }
        scene.frost(&["thaw", "shell"]).ok();
        if !cold.is_empty() {
            let again = attach();
            attached = again.0;
            keys.replace(again.1);
        }
        type_in(&format!("behind {round}\n"));
        until("it is echoed and shown", || log().matches(&format!("behind {round}\n")).count() == 2);
        type_in("\x03");
        // It throws away what was typed until it is back.
        until("the shell is back", || log().matches("^C\n").count() == round + 1);
        type_in(&format!("echo ended {round} $?\n"));
        until("the key has ended it", || log().contains(&format!("\nended {round} 130\n")));
        // Stopped by its key, and continued.
        type_in("cat\n");
        type_in(&format!("again {round}\n"));
        until("it is echoed and shown", || log().matches(&format!("again {round}\n")).count() == 2);
        type_in("\x1a");
        // Until then a line may be the job's.
        until("the key has stopped it", || log().matches("Stopped").count() == round + 1);
        type_in(&format!("jobs -s | wc -l | sed s/^/stopped{round}:/\n"));
        until("it is stopped", || log().contains(&format!("\nstopped{round}:1\n")));
        scene.frost(&["freeze", "shell"]).ok();
        scene.frost(&["thaw", "shell"]).ok();
        type_in("fg %+\n");
        type_in(&format!("last {round}\n"));
        until("it is echoed and shown", || log().matches(&format!("last {round}\n")).count() == 2);
        type_in("\x04");
    }
    type_in("jobs -r | wc -l | sed s/^/running:/; kill %1; exit 5\n");
    until("the job in the background goes on", || log().contains("\nrunning:1\n"));
    assert_eq!(attached.wait("frost attach", LIMIT).code(), Some(5));
    scene.is_empty_soon();
}

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/notices").join(name)
}

/// The examples of the documentation, in both languages.
fn who_asks_is_told_of_freeze_and_thaw(scene: &Scene) {
    fs::copy(example("notices.py"), scene.stage("notices.py")).expect("our own directory");
    let compiled = scene.stage("notices");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-o"]).arg(&compiled).arg(example("notices.rs"));
    let built = frost_tests::succeeds(&mut rustc);
    let python: &[&str] = &["/usr/bin/python3", "notices.py"];
    let compiled = [compiled.to_str().expect("a temporary directory has a name")];
    let mut programs = vec![("python", python)];
    if built {
        programs.push(("rust", &compiled));
    } else {
        skip("there is no rustc to compile the example with");
    }
    for (name, command) in programs {
        let run = ["run", "--detach", "--notices", "--name", name, "--"];
        scene.frost(&[&run, command].concat()).ok();
        let log = || scene.frost(&["logs", name]).ok().stdout;
        until("it has asked", || log().contains("asked"));
        let mut seeds = std::collections::BTreeSet::new();
        for (round, cold) in [(1, false), (2, true), (3, false)] {
            let frozen = scene.frost(&["freeze", name, if cold { "--cold" } else { "--full" }]).ok();
            assert!(!frozen.stderr.contains("did not say"), "{frozen}");
            scene.frost(&["thaw", name]).ok();
            let told = format!("thawed {round} original 0 ");
            until("it is told", || log().contains(&told));
            let log = log();
            assert_eq!(log.matches("freezing 5000").count(), round, "{log}");
            let seed = log.split(&told).nth(1).and_then(|rest| rest.split_ascii_whitespace().next());
            let seed = seed.expect("it is behind").to_owned();
            assert!(seed.len() == 64 && seeds.insert(seed), "a fresh seed each time: {log}");
        }
        // It goes on, and is told so.
        scene.frost(&["freeze", name, "--leave-running", "--to", "copy"]).ok();
        until("it is told", || log().contains("resumed"));
        scene.frost(&["kill", "-s", "KILL", name]).ok();
        scene.frost(&["wait", name]);
        scene.frost(&["rm", "copy"]).ok();
    }
    // Copies are told apart, also those of one fork.
    scene
        .frost(&["run", "--detach", "--notices", "--name", "forked", "--", "/usr/bin/python3", "notices.py"])
        .ok();
    until("it has asked", || scene.frost(&["logs", "forked"]).ok().stdout.contains("asked"));
    scene.frost(&["fork", "forked", "-n", "2"]).ok();
    for (name, copy) in [("forked-2", 1), ("forked-3", 2)] {
        let told = format!("thawed 1 copy {copy} ");
        until("it is told which it is", || scene.frost(&["logs", name]).ok().stdout.contains(&told));
    }
    for name in ["forked", "forked-2", "forked-3"] {
        scene.frost(&["kill", "-s", "KILL", name]).ok();
        scene.frost(&["wait", name]);
    }
    // Without asking for it nobody has the descriptors.
    let script = "test -z \"$FROST_NOTICES\" && ! test -e /proc/self/fd/4";
    assert_eq!(scene.frost(&["run", "--", "sh", "-c", script]).status, Some(0));
    scene.is_empty_soon();
}

fn a_start_that_is_cut_short_is_told_so(scene: &Scene) {
    let frost = scene.path("bin").join("frost").display().to_string();
    // Its output goes through a pipe, which has no length. The keeper is a file in memory of some 50 blocks, which has.
    for (limit, status) in [("-f 0", 125), ("-f 16", 125), ("-S -f 16", 0)] {
        let mut command = scene.command("sh");
        let script = format!("(ulimit {limit}; {frost} run --name short -- true; echo status $?) 2>&1 | cat");
        let outcome = scene.run(command.args(["-c", &script]), LIMIT).ok();
        assert!(outcome.stdout.contains(&format!("status {status}\n")), "{limit}\n{outcome}");
        assert_eq!(outcome.stdout.contains("ulimit -f"), status != 0, "{limit}\n{outcome}");
    }
    scene.frost(&["ps", "short"]).refused(6, "short");
    // As where `frost run` was killed before it had noted what it starts.
    let directory = scene.path("home").join("instances/short");
    fs::create_dir(&directory).expect("our own directory");
    scene.give(&directory);
    let record = scene.frost(&["ps", "short", "--json"]).ok().record();
    assert_eq!((&record["state"], &record["pid"]), (&"lost".into(), &Value::Null), "{record}");
    assert!(record["what"].as_str().is_some_and(|what| what.contains("start it was killed")), "{record}");
    scene.frost(&["wait", "short"]).refused(125, "start it was killed");
    scene.frost(&["run", "--name", "short", "--", "true"]).ok();
    scene.is_empty_soon();
}

fn names_that_are_none_are_refused(scene: &Scene) {
    let long = "x".repeat(300);
    for name in ["", ".", "..", "../up", "a/b", "a b", "a\nb", "name@2", "-x", "17", "\u{1b}[31m", &long] {
        let outcome = scene.frost(&["run", &format!("--name={name}"), "--", "true"]);
        assert_eq!(outcome.status, Some(125), "{name:?}: {outcome}");
        assert!(outcome.stderr.contains("no name"), "{name:?}: {outcome}");
        assert!(!outcome.stderr.contains('\u{1b}'), "{name:?}: {outcome}");
    }
    assert_eq!(scene.frost(&["ps", "--json"]).ok().stdout, "");
}

fn one_of_two_freezes_is_told_that_it_is_late(scene: &Scene) {
    scene.frost(&["run", "--detach", "--name", "counter", "--", "sh", "-c", COUNTER]).ok();
    for _ in 0..4 {
        goes_on(scene);
        let mut both =
            [0, 1].map(|_| scene.start(&mut scene.frost_command(&["freeze", "counter"]), Stdio::Null));
        let statuses = both.each_mut().map(|freeze| freeze.wait("frost freeze", LIMIT).code());
        // The later one finds it being frozen, frozen, or gone.
        let done = statuses.iter().filter(|status| **status == Some(0)).count();
        assert_eq!(done, 1, "{statuses:?}");
        assert_eq!(state(scene, "counter"), "frozen");
        scene.frost(&["thaw", "counter"]).ok();
    }
    goes_on(scene);
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    scene.frost(&["wait", "counter"]);
    no_line_is_lost(scene, "counter");
    scene.is_empty_soon();
}

/// Connects as somebody to a program's socket and says what no command says.
const STRANGER: &str = "import os, socket, sys
for word in [b'', b'x', bytes(16), b'\\xff' * 16, b'\\x09' + bytes(15), b'\\x0b' + bytes(15), b'\\x07' + bytes(4000)]:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(20)
    s.connect(sys.argv[1])
    try:
        s.send(word)
        answer = s.recv(100)
    except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
        answer = type(error).__name__.encode()
    print(len(word), len(answer), flush=True)
";

fn nonsense_at_the_socket_is_no_matter(scene: &Scene) {
    scene.frost(&["run", "--detach", "--name", "counter", "--", "sh", "-c", COUNTER]).ok();
    goes_on(scene);
    let socket = scene.path("home").join("instances/counter/socket");
    fs::copy(&socket, "/nonexistent").expect_err("it is no file");
    // Its path is longer than an address may be.
    let link = scene.stage("socket");
    std::os::unix::fs::symlink(&socket, &link).expect("our own directory");
    let mut command = scene.command("/usr/bin/python3");
    command.args(["-c", STRANGER]).arg(&link);
    scene.run(&mut command, LIMIT);
    goes_on(scene);
    if scene.who() == Who::Myself && frost_tests::is_root() {
        // Others do not come that far; one who did would be left standing.
        let paths = ["", "instances", "instances/counter", "instances/counter/socket"];
        for path in paths {
            let path = scene.path("home").join(path);
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("ours");
        }
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            "64218",
            "--regid",
            "64218",
            "--clear-groups",
            "--",
            "/usr/bin/python3",
            "-c",
        ]);
        command.arg(STRANGER).arg(&link);
        let outcome = scene.run(&mut command, LIMIT);
        for line in outcome.stdout.lines() {
            let answered: usize = line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            assert!(answered != 16, "the keeper answered a stranger: {outcome}");
        }
        let path = scene.path("home");
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
    }
    scene.frost(&["freeze", "counter"]).ok();
    scene.frost(&["thaw", "counter"]).ok();
    goes_on(scene);
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    assert_eq!(scene.frost(&["wait", "counter"]).status, Some(128 + 9));
    scene.is_empty_soon();
}

/// What was written down is later than now.
fn a_clock_that_was_set_back_is_no_matter(scene: &Scene) {
    scene.frost(&["run", "--detach", "--name", "counter", "--", "sh", "-c", COUNTER]).ok();
    goes_on(scene);
    let record = scene.path("home").join("instances/counter/record");
    let text = fs::read_to_string(&record).expect("it was written");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("a record");
    value["started"] = i64::MAX.into();
    fs::write(&record, value.to_string()).expect("our own file");
    for _ in 0..2 {
        scene.frost(&["ps"]).ok();
        scene.frost(&["ps", "--json"]).ok();
        scene.frost(&["freeze", "counter"]).ok();
        // Since when it is frozen.
        for time in ["2100-01-01", "1901-01-01"] {
            let mut touch = scene.command("touch");
            let end = scene.path("home").join("instances/counter/end");
            scene.run(touch.args(["-d", time]).arg(end), LIMIT).ok();
            assert_eq!(scene.frost(&["ps", "counter", "--json"]).ok().record()["state"], "frozen");
            scene.frost(&["ps"]).ok();
        }
        scene.frost(&["thaw", "counter"]).ok();
        goes_on(scene);
        // It runs since it was thawed.
        assert_ne!(scene.frost(&["ps", "counter", "--json"]).ok().number("since"), i64::MAX);
    }
    scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
    scene.frost(&["wait", "counter"]);
    scene.is_empty_soon();
}

/// Filters of programs as people use them, made by libseccomp: `file` and `man` restrict themselves.
fn sandboxes_of_real_programs_come_back(scene: &Scene) {
    if !has("file") {
        return;
    }
    // It reads names as they come, behind its filter.
    rustix::fs::mkfifoat(rustix::fs::CWD, scene.stage("names"), 0o666.into()).expect("our own directory");
    rustix::fs::chmod(scene.stage("names"), 0o666.into()).expect("ours");
    let script = "exec file --no-buffer --files-from - < names > kinds 2> errors";
    scene.frost(&["run", "--detach", "--name", "file", "--", "sh", "-c", script]).ok();
    let open = || fs::OpenOptions::new().write(true).open(scene.stage("names"));
    let mut names = open().expect("it reads");
    let ask = |names: &mut fs::File, answers: usize| {
        std::io::Write::write_all(names, b"/bin/sh\n").expect("it reads");
        let kinds = || fs::read_to_string(scene.stage("kinds")).unwrap_or_default();
        until("file answers", || kinds().lines().count() == answers);
        assert!(kinds().lines().all(|line| line.contains("ELF") || line.contains("symbolic")), "{}", kinds());
    };
    ask(&mut names, 1);
    let record = scene.frost(&["ps", "file", "--json"]).ok().record();
    let filters = |pid: i64| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:").map(str::trim));
        line.and_then(|count| count.parse::<u32>().ok()).unwrap_or(0)
    };
    let before = filters(record["pid"].as_i64().unwrap_or(0));
    let checked = scene.frost(&["check", "file"]);
    if before < 2 {
        skip("this file installs no filter");
    } else if checked.status == Some(3) {
        // It forbids what a freeze asks, so it is told by name, and goes on.
        assert!(checked.stdout.contains("system call filter"), "{checked}");
        scene.frost(&["freeze", "file"]).refused(3, "system call filter");
        ask(&mut names, 2);
    } else {
        scene.frost(&["freeze", "file"]).ok();
        let thawed = scene.frost(&["thaw", "file", "--json"]).ok();
        assert_eq!(filters(thawed.number("pid")), before);
        names = open().expect("it reads again");
        ask(&mut names, 2);
    }
    drop(names);
    assert_eq!(scene.frost(&["wait", "file"]).status, Some(0));
    scene.is_empty_soon();
}

/// Two that would use io_uring: libuv, asked to by its variable, and MariaDB, which says what it falls back to.
fn well_known_programs_do_without_what_is_refused(scene: &Scene) {
    if has("node") {
        let script = "require('fs').promises.readFile('/etc/passwd').then(d => console.log(d.length > 0))";
        let outcome = scene.frost(&["run", "--", "env", "UV_USE_IO_URING=1", "node", "-e", script]);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(0), "true\n"), "{outcome}");
    }
    if has("mariadbd") {
        let script =
            "mkdir db && exec mariadbd --no-defaults --bootstrap --datadir=$PWD/db --user=root < /dev/null";
        let outcome = scene.frost(&["run", "--", "sh", "-c", script]);
        assert_eq!(outcome.status, Some(0), "{outcome}");
        let tried = outcome.stderr.contains("io_uring_queue_init() failed with ENOSYS");
        assert!(!tried || outcome.stderr.contains("Completed initialization of buffer pool"), "{outcome}");
    }
    if has("chromium") {
        let page = "data:text/html,<p id=a></p><script>a.textContent=6*7</script>";
        let profile = format!("--user-data-dir={}", scene.stage("chromium").display());
        let mut words = vec!["run", "--", "chromium", "--headless", "--disable-gpu", &profile];
        // Its sandbox is made of namespaces and filters, which it refuses to do without; root's it does not take at all.
        if scene.who() == Who::Myself && is_root() {
            words.push("--no-sandbox");
        }
        let outcome = scene.frost(&[&words[..], &["--dump-dom", page]].concat());
        assert_eq!(outcome.status, Some(0), "{outcome}");
        assert!(outcome.stdout.contains("<p id=\"a\">42</p>"), "{outcome}");
    }
    // What everybody gets who asks for a ring by liburing, as MariaDB does.
    let ask = "import ctypes, os
ring = ctypes.create_string_buffer(4096)
raise SystemExit(-ctypes.CDLL('liburing.so.2').io_uring_queue_init(8, ring, 0))";
    let outcome = scene.frost(&["run", "--", "/usr/bin/python3", "-c", ask]);
    if outcome.stderr.contains("cannot open shared object") {
        skip("there is no liburing here");
    } else {
        assert_eq!(outcome.status, Some(38), "ENOSYS: {outcome}");
    }
}

/// Counts in redis as fast as it answers, whatever becomes of its connections, until `stop` is there. What was answered
/// must grow; what was sent and not answered may have been done or not.
const LOAD: &str = "import os, socket, sys, time
port, answered, unknown, last, connection = int(sys.argv[1]), 0, 0, 0, None
while not os.path.exists('stop'):
    try:
        if connection is None:
            connection = socket.create_connection(('127.0.0.1', port), 20)
            lines = connection.makefile('rb')
    except OSError:
        time.sleep(0.002)
        continue
    try:
        connection.sendall(b'INCR writes\\r\\n')
        line = lines.readline()
        if not line:
            raise ConnectionResetError
        value = int(line[1:])
        assert line[:1] == b':' and value > last, (line, last)
        answered, last = answered + 1, value
        if answered % 50 == 0:
            open('answered.new', 'w').write(str(answered))
            os.rename('answered.new', 'answered')
    except OSError:
        unknown, connection = unknown + 1, None
open('sums', 'w').write(f'{answered} {unknown} {last}')
";

fn no_write_is_lost_that_a_server_has_acknowledged(scene: &Scene) {
    if !has("redis-server") {
        return;
    }
    let rounds = std::env::var("FROST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    // A number that nobody had a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.expect("loopback has free ports").port().to_string();
    let server = ["run", "-d", "--name", "redis", "--", "redis-server", "--port", &port, "--save", ""];
    scene.frost(&server).ok();
    let mut load = scene.command("/usr/bin/python3");
    load.args(["-c", LOAD, &port]);
    let mut load = scene.start(&mut load, Stdio::Null);
    let answered = || {
        let text = fs::read_to_string(scene.stage("answered")).unwrap_or_default();
        text.parse::<u64>().unwrap_or(0)
    };
    for round in 0..rounds {
        let now = answered();
        until("the server answers", || answered() > now);
        let cold: &[&str] = if round % 3 == 2 { &["--cold"] } else { &[] };
        scene.frost(&[&["freeze", "redis"], cold].concat()).ok();
        scene.frost(&["thaw", "redis"]).ok();
    }
    let now = answered();
    until("the server answers", || answered() > now);
    fs::write(scene.stage("stop"), "").expect("our own directory");
    assert!(load.wait("the load", LIMIT).success(), "something was answered wrongly");
    let sums = scene.await_file("sums");
    let sums: Vec<u64> = sums.split(' ').map(|word| word.parse().expect("a number")).collect();
    let mut command = scene.command("redis-cli");
    let value = scene.run(command.args(["-p", &port, "get", "writes"]), LIMIT).stdout;
    let value: u64 = value.trim().parse().expect("a number");
    assert!(
        sums[0] <= value && value <= sums[0] + sums[1],
        "{value} writes; answered, unknown, last: {sums:?}"
    );
    assert!(sums[2] <= value, "{value} writes; answered, unknown, last: {sums:?}");
    scene.frost(&["kill", "redis"]).ok();
    assert_eq!(scene.frost(&["wait", "redis"]).status, Some(0));
    scene.is_empty_soon();
}
