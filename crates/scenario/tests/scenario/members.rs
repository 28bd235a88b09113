//! Ordinary programs beside components: frozen as processes, and thawed where they stood.

use crate::stage::Stage;
use std::path::Path;
use std::process::Stdio;

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

#[test]
fn a_program_is_frozen_with_the_scenario_and_goes_on_counting() {
    let frost = Path::new(env!("CARGO_BIN_EXE_frost-scenario")).with_file_name("frost");
    if !frost.exists() {
        return println!("skipped: {} is not built", frost.display());
    }
    let mut stage = Stage::new("");
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
    assert!(output.status.success() && told.contains("1 programs"), "{output:?}");
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
    let ps = std::process::Command::new(&frost)
        .args(["--json", "ps"])
        .env("FROST_HOME", stage.place.path())
        .output()
        .unwrap();
    let told = String::from_utf8(ps.stdout).unwrap();
    assert!(!told.contains("\"running\""), "{told}");
    let output = stage.run(&["down", "s"]);
    assert!(output.status.success(), "{output:?}");
    stage.supervisor.take().unwrap().wait().unwrap();
}
