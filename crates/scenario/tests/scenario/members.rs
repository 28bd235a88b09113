//! Ordinary programs beside components: frozen as processes, and thawed where they stood.

use crate::stage::{Stage, as_each_user};
use std::process::Stdio;

as_each_user! {
    a_program_is_frozen_with_the_scenario_and_goes_on_counting
    a_program_that_cannot_be_frozen_lets_all_run_on
    a_program_that_cannot_be_started_is_told_of_and_nobody_elses_is_touched
    a_frozen_scenario_with_a_program_moves_to_another_store
}

const TEXT: &str = r#"
[component.a]
RELAY
arguments = ["relay", "a"]
[program.counter]
command = ["/bin/sh", "-c", "n=0; while :; do n=$((n+1)); echo $n >PLACE/n~; mv PLACE/n~ PLACE/n; sleep 0.01; done"]
[document.text]
content = "x"
[[route]]
match = { component = "a", rom = "in" }
from = "document/text"
sticky = true
"#;

fn count(stage: &Stage) -> u64 {
    let text = std::fs::read_to_string(stage.place.path().join("n")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn a_program_is_frozen_with_the_scenario_and_goes_on_counting() {
    let mut stage = Stage::new("");
    if !stage.bring_frost() {
        return;
    }
    let text = TEXT.replace("PLACE", &stage.place.path().display().to_string());
    stage.write(&text);
    stage.start();
    stage.until("it counts", |stage| count(stage) > 5);
    let program = |stage: &Stage| stage.status()["programs"][0].clone();
    assert_eq!(
        (program(&stage)["state"].as_str(), program(&stage)["name"].as_str()),
        (Some("running"), Some("counter"))
    );
    // The supervisor dies; its program has a keeper of its own, and the next one finds it.
    let pid = program(&stage)["pid"].clone();
    let mut supervisor = stage.supervisor.take().unwrap();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    stage.start();
    assert_eq!(program(&stage)["pid"], pid);
    stage.until_report("a/out", "ax");
    let output = stage.run(&["freeze", "s"]);
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success() && told.contains("1 program in an image of its own"), "{output:?}");
    stage.supervisor.take().unwrap().wait().unwrap();
    let frozen = count(&stage);
    let mut command = stage.command(&["thaw", "s", "--attach"]);
    stage.supervisor = Some(command.stdout(Stdio::null()).spawn().unwrap());
    stage.until("it is up", |stage| stage.run(&["status", "s"]).status.success());
    stage.until("it counts on", |stage| count(stage) > frozen + 5);
    stage.until_report("a/out", "ax");
    // It has not begun anew.
    assert!(frozen > 5);
    // One that is taken out of the file ends; the scenario goes on.
    stage.write(&text.replace("[program.counter]\ncommand", "#"));
    stage.until("it is no member any more", |stage| stage.status()["programs"].is_null());
    let told = ps(&stage);
    assert!(!told.contains("\"running\""), "{told}");
    let output = stage.run(&["down", "s"]);
    assert!(output.status.success(), "{output:?}");
    stage.supervisor.take().unwrap().wait().unwrap();
}

/// What frost tells of all programs in the stage's store; the scenario itself is none.
fn ps(stage: &Stage) -> String {
    let told = String::from_utf8(stage.program("frost", &["--json", "ps"]).output().unwrap().stdout).unwrap();
    told.lines().filter(|line| line.contains("\"name\":")).map(|line| format!("{line}\n")).collect()
}

fn state(stage: &Stage, name: &str) -> String {
    let status = stage.status();
    let programs = status["programs"].as_array().cloned().unwrap_or_default();
    let found = programs.iter().find(|program| program["name"] == name);
    found.map(|program| program["state"].as_str().unwrap().to_owned()).unwrap_or_default()
}

fn a_program_that_cannot_be_frozen_lets_all_run_on() {
    let mut stage = Stage::new("");
    if !stage.bring_frost() {
        return;
    }
    // A program with namespaces of its own is refused by `frost freeze`; `counter` was frozen before it.
    let sandbox = "[program.sandbox]\ncommand = [\"unshare\", \"--user\", \"--map-root-user\", \"--mount\", \"sh\", \"-c\", \"touch PLACE/apart; exec sleep 1000\"]\n";
    let place = stage.place.path().display().to_string();
    let text = TEXT.replace("PLACE", &place);
    stage.write(&format!("{text}{}", sandbox.replace("PLACE", &place)));
    stage.start();
    stage.until("it counts", |stage| count(stage) > 5 && stage.place.path().join("apart").exists());
    stage.until_report("a/out", "ax");
    let pid = stage.component("a")["pid"].clone();
    let output = stage.run(&["freeze", "s"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("the program sandbox: ") && told.contains("the scenario is as it was"), "{told}");
    assert!(!stage.place.path().join("scenarios/s/image").exists());
    let counted = count(&stage);
    stage.until("it counts on", |stage| count(stage) > counted + 5);
    assert_eq!((state(&stage, "counter"), state(&stage, "sandbox")), ("running".into(), "running".into()));
    assert_eq!(stage.component("a")["pid"], pid);
    // Without it the scenario can be frozen.
    stage.write(&text);
    stage.until("it has ended", |stage| state(stage, "sandbox").is_empty());
    let output = stage.run(&["freeze", "s"]);
    assert!(output.status.success(), "{output:?}");
    stage.supervisor.take().unwrap().wait().unwrap();
}

fn a_program_that_cannot_be_started_is_told_of_and_nobody_elses_is_touched() {
    let mut stage = Stage::new("");
    if !stage.bring_frost() {
        return;
    }
    let mine = ["run", "--detach", "--name", "s.taken", "--", "sleep", "1000"];
    let output = stage.program("frost", &mine).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let programs = "[program.missing]\ncommand = [\"no-such-program\"]\n[program.taken]\ncommand = [\"sleep\", \"1000\"]\n";
    stage.write(
        &TEXT
            .replace("PLACE", &stage.place.path().display().to_string())
            .replace("[document", &format!("{programs}[document")),
    );
    stage.start();
    stage.until("it counts", |stage| count(stage) > 5);
    let missing = state(&stage, "missing");
    assert!(missing.starts_with("cannot be started: ") && missing.contains("no-such-program"), "{missing}");
    let taken = state(&stage, "taken");
    assert!(taken.contains("s.taken runs already") && taken.contains("`frost kill s.taken`"), "{taken}");
    // One that is not the scenario's is neither frozen nor ended with it.
    let output = stage.run(&["--json", "freeze", "s"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("\"programs\":1"), "{told}");
    stage.supervisor.take().unwrap().wait().unwrap();
    let told = ps(&stage);
    let line = told.lines().find(|line| line.contains("s.taken")).unwrap();
    assert!(line.contains("\"running\""), "{told}");
    let output = stage.program("frost", &["kill", "--signal", "KILL", "s.taken"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn a_frozen_scenario_with_a_program_moves_to_another_store() {
    let mut stage = Stage::new("");
    if !stage.bring_frost() {
        return;
    }
    stage.write(&TEXT.replace("PLACE", &stage.place.path().display().to_string()));
    stage.start();
    stage.until("it counts", |stage| count(stage) > 5);
    stage.until_report("a/out", "ax");
    let output = stage.program("frost", &["freeze", "s"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    stage.supervisor.take().unwrap().wait().unwrap();
    let frost = |arguments: &[&str], home: &str| {
        let mut command = stage.program("frost", arguments);
        command.env("FROST_HOME", stage.place.path().join(home)).output().unwrap()
    };
    let frozen = count(&stage);
    for (image, file) in [("s", "scenario"), ("s.counter", "program")] {
        let output = frost(&["export", image, file], "");
        assert!(output.status.success(), "{output:?}");
    }
    let output = frost(&["import", "scenario"], "far");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("it needs s.counter@1"), "{told}");
    let output = frost(&["import", "scenario"], "far");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // Without its program nothing of it starts.
    let output = frost(&["thaw", "s"], "far");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("the program counter cannot be thawed from s.counter@1"), "{told}");
    assert_eq!((output.status.code(), told.matches("error:").count()), (Some(1), 1), "{told}");
    let output = frost(&["import", "program"], "far");
    assert!(output.status.success(), "{output:?}");
    let output = frost(&["--json", "thaw", "s"], "far");
    assert!(output.status.success(), "{output:?}");
    stage.until("it counts on", |stage| count(stage) > frozen + 5);
    let again = frost(&["thaw", "s"], "far");
    assert!(String::from_utf8(again.stderr).unwrap().contains("it runs already"));
    let record = |output: std::process::Output| {
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default()
    };
    stage.until("it reports", |_| record(frost(&["report", "a/out", "--json"], "far"))["content"] == "ax");
    assert_eq!(record(frost(&["down", "--json"], "far"))["state"], "ended");
}
