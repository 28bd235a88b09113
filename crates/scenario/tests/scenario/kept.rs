//! What a scenario keeps, by the verbs that programs have; and that neither a full disk nor a dead supervisor loses any of it.

use crate::stage::{SHOUT, Stage, as_each_user, random};
use serde_json::Value;
use std::process::{Output, Stdio};
use std::time::Duration;

as_each_user! {
    a_frozen_scenario_is_listed_inspected_verified_moved_and_removed
    nobody_who_hears_it_is_no_reason_to_end
    programs_of_a_supervisor_that_died_end_by_down
    a_damaged_document_is_not_written_over
    what_persists_from_now_on_is_safe_though_it_was_reported_before
    freezing_at_any_moment_keeps_what_was_acknowledged_and_thawing_loses_nothing_newer
    a_rom_that_could_not_be_written_is_written_later
    what_cannot_be_kept_is_told_and_goes_on_when_it_can
    what_a_component_says_last_is_heard_though_it_ends_at_once
    a_terminal_that_is_hung_up_ends_a_scenario_with_its_programs
}

const TEXT: &str = r#"
[component.a]
RELAY
arguments = ["relay", "a"]
[component.b]
RELAY
arguments = ["relay", "b"]
[document.text]
content = "x"
[[route]]
match = { component = "a", rom = "in" }
from = "document/text"
[[route]]
match = { component = "b", rom = "in" }
from = "a/out"
sticky = true
"#;

fn frost(stage: &Stage, arguments: &[&str]) -> Output {
    stage.program("frost", arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn records(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn end(stage: &mut Stage, verb: &str) {
    let output = stage.run(&[verb, "s"]);
    assert!(output.status.success(), "{output:?}");
    stage.supervisor.take().unwrap().wait().unwrap();
}

fn die(stage: &mut Stage) {
    let mut supervisor = stage.supervisor.take().unwrap();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
}

fn a_frozen_scenario_is_listed_inspected_verified_moved_and_removed() {
    let mut stage = Stage::new(TEXT);
    if !stage.bring_frost() {
        return;
    }
    stage.start();
    stage.until_report("b/out", "bax");
    let running = records(&frost(&stage, &["ps", "--json"]));
    assert_eq!((&running[0]["scenario"], &running[0]["state"]), (&"s".into(), &"running".into()));
    assert_eq!(running[0]["pid"], stage.supervisor.as_ref().unwrap().id());
    // There is no image of it, so there is none to be listed, nor to be removed or moved.
    for verb in ["export", "thaw"] {
        let output = frost(&stage, &[verb, "s"]);
        assert_eq!(output.status.code(), Some(6), "{output:?}");
        assert!(
            told(&output).contains("it has no image") && told(&output).contains("`frost freeze`"),
            "{output:?}"
        );
    }
    assert!(frost(&stage, &["list", "--json"]).stdout.is_empty());
    let output = frost(&stage, &["rm", "s"]);
    assert!(output.status.code() == Some(1) && told(&output).contains("`frost down s`"), "{output:?}");
    end(&mut stage, "freeze");
    for verb in ["list", "ps"] {
        let found = records(&frost(&stage, &[verb, "--json"]));
        assert_eq!((&found[0]["scenario"], &found[0]["state"]), (&"s".into(), &"frozen".into()), "{verb}");
        let shown = told(&frost(&stage, &[verb, "s"]));
        assert!(shown.contains("frozen") && shown.contains("scenario"), "{shown}");
    }
    let content = records(&frost(&stage, &["inspect", "s", "--json"])).remove(0);
    let held = content["held"].as_array().unwrap();
    let held = held.iter().find(|held| held["name"] == "b/out").unwrap();
    assert_eq!((held["version"].as_u64(), held["len_bytes"].as_u64()), (Some(1), Some(3)));
    let shown = told(&frost(&stage, &["inspect", "s"]));
    assert!(shown.contains("s.toml") && shown.contains("b/out"), "{shown}");
    let export = stage.place.path().join("exported");
    let output = frost(&stage, &["export", "s", export.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    // Where its file has gone it is told how another one is named; the image knows what it said.
    let (file, aside) = (stage.place.path().join("s.toml"), stage.place.path().join("aside.toml"));
    std::fs::rename(&file, &aside).unwrap();
    let output = frost(&stage, &["thaw", "s"]);
    assert!(!output.status.success() && told(&output).contains("--file"), "{output:?}");
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(content["text"], std::fs::read_to_string(&file).unwrap());
    // Sound, with nothing named and by its name; and damaged.
    for arguments in [&["verify"][..], &["verify", "s"]] {
        let output = frost(&stage, arguments);
        assert!(output.status.success() && told(&output).contains("scenario s: sound"), "{output:?}");
    }
    let image = stage.place.path().join("scenarios/s/image");
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&image, bytes).unwrap();
    for (arguments, status) in
        [(&["verify"][..], 4), (&["verify", "s"], 4), (&["inspect", "s"], 4), (&["list"], 0)]
    {
        let output = frost(&stage, arguments);
        assert!(output.status.code() == Some(status) && told(&output).contains("damaged"), "{output:?}");
    }
    let output = frost(&stage, &["rm", "s", "--json"]);
    let removed = records(&output);
    assert_eq!((&removed[0]["scenario"], &removed[0]["state"]), (&"s".into(), &"removed".into()));
    assert!(!stage.place.path().join("scenarios/s").exists());
    assert!(frost(&stage, &["ps", "--json"]).stdout.is_empty());
    for verb in ["inspect", "rm", "thaw", "list"] {
        assert_eq!(frost(&stage, &[verb, "s"]).status.code(), Some(6), "{verb}");
    }
    // And back it comes.
    let output = frost(&stage, &["import", export.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let output = frost(&stage, &["thaw", "s"]);
    assert!(output.status.success(), "{output:?}");
    stage.until_report("b/out", "bax");
    // One that runs does not need its image.
    let output = frost(&stage, &["rm", "s"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!image.exists());
    stage.until_report("b/out", "bax");
    assert!(stage.run(&["down", "s"]).status.success());
}

fn nobody_who_hears_it_is_no_reason_to_end() {
    let mut stage = Stage::new(TEXT);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let supervisor = stage.command(&["up", "s.toml"]).stderr(full).stdout(Stdio::null()).spawn().unwrap();
    stage.supervisor = Some(supervisor);
    stage.until("it is up", |stage| stage.run(&["status", "s"]).status.success());
    // It has something to say about this.
    stage.write("[component.a]\nbinary = 3\n");
    stage.until("it has read that", |stage| stage.status()["trouble"].is_string());
    stage.until_report("b/out", "bax");
    // A terminal that has gone.
    end(&mut stage, "down");
    stage.write(TEXT);
    let mut supervisor =
        stage.command(&["up", "s.toml"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    drop(supervisor.stderr.take());
    stage.supervisor = Some(supervisor);
    stage.until_report("b/out", "bax");
    stage.write("[component.a]\nbinary = 3\n");
    stage.until("it has read that", |stage| stage.status()["trouble"].is_string());
    end(&mut stage, "down");
}

fn programs_of_a_supervisor_that_died_end_by_down() {
    let mut stage = Stage::new("[program.sleeper]\ncommand = [\"sleep\", \"1000\"]\n");
    if !stage.bring_frost() {
        return;
    }
    stage.start();
    stage.until("it runs", |stage| stage.status()["programs"][0]["state"] == "running");
    let pid = stage.status()["programs"][0]["pid"].as_i64().unwrap();
    die(&mut stage);
    let output = stage.run(&["down", "s"]);
    assert!(output.status.success() && told(&output).contains("they have ended now"), "{output:?}");
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state().is_empty() || state().contains(") Z"), "{}", state());
    assert_eq!(stage.run(&["down", "s"]).status.code(), Some(6));
}

/// Documents that persist: what a source says, and somebody else reads.
const PERSISTS: &str = r#"
[component.source]
binary = "frost-scenario"
arguments = ["source"]
config = '''
[[step]]
report = "n"
content = "first"
'''
[component.reader]
RELAY
arguments = ["relay", "r"]
[[route]]
match = { component = "reader", rom = "in" }
from = "source/n"
sticky = true
"#;

fn a_damaged_document_is_not_written_over() {
    let mut stage = Stage::up(&format!("{PERSISTS}persist = true\n"));
    stage.until_report("reader/out", "rfirst");
    end(&mut stage, "down");
    let path = stage.place.path().join("scenarios/s/documents/source/n");
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    for arguments in [&["up", "s.toml"][..], &["up", "s.toml", "--detach"]] {
        let output = stage.run(arguments);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        assert!(
            told(&output).contains("documents/source/n") && told(&output).contains("damaged"),
            "{output:?}"
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
    assert_eq!(stage.run(&["verify", "s"]).status.code(), Some(4));
    // What cannot be read is told by its path; what is no document is let be.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let output = stage.run(&["up", "s.toml"]);
    assert!(!output.status.success() && told(&output).contains("documents/source/n"), "{output:?}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, &sound).unwrap();
    std::fs::write(stage.place.path().join("scenarios/s/documents/README"), "not mine").unwrap();
    stage.start();
    stage.until_report("reader/out", "rfirst");
}

fn what_persists_from_now_on_is_safe_though_it_was_reported_before() {
    let mut stage = Stage::up(PERSISTS);
    stage.until_report("reader/out", "rfirst");
    let kept = stage.place.path().join("scenarios/s/documents/source/n");
    assert!(!kept.exists());
    // Its writer has nothing new to say.
    stage.write(&format!("{PERSISTS}persist = true\n"));
    stage.until("it is kept", |_| kept.exists());
    die(&mut stage);
    let silent = format!("{PERSISTS}persist = true\n").replace("report = \"n\"\ncontent = \"first\"", "");
    stage.write(&silent);
    stage.start();
    stage.until_report("reader/out", "rfirst");
    // An image that moves to another store is worth as much as what it was made of.
    end(&mut stage, "freeze");
    std::fs::remove_dir_all(stage.place.path().join("scenarios/s/documents")).unwrap();
    let mut command = stage.command(&["thaw", "s", "--attach"]);
    stage.supervisor = Some(command.stdout(Stdio::null()).spawn().unwrap());
    stage.until("it is kept", |_| kept.exists());
    die(&mut stage);
    stage.start();
    stage.until_report("reader/out", "rfirst");
}

fn freezing_at_any_moment_keeps_what_was_acknowledged_and_thawing_loses_nothing_newer() {
    let mut stage = Stage::new("");
    let acknowledged = stage.place.path().join("acknowledged");
    stage.write(&format!(
        r#"
[component.counter]
RELAY
arguments = ["acked", {acknowledged:?}]
isolated = false
[component.reader]
RELAY
arguments = ["silent"]
[[route]]
match = {{ component = "reader", rom = "in" }}
from = "counter/out"
persist = true
"#
    ));
    let mut seed = u64::from(std::process::id()) | 1 << 42;
    eprintln!("seed {seed}");
    let told_last =
        || -> u64 { std::fs::read_to_string(&acknowledged).unwrap_or_default().parse().unwrap_or(0) };
    let held = |stage: &Stage| {
        let output = stage.run(&["inspect", "s", "--json"]);
        let held = records(&output)[0]["held"].as_array().unwrap().clone();
        held.iter().find(|held| held["name"] == "counter/out").unwrap()["version"].as_u64().unwrap()
    };
    stage.start();
    for _ in 0..6 {
        let before = told_last();
        stage.until("it counts", |_| told_last() > before);
        std::thread::sleep(Duration::from_micros(random(&mut seed) % 40_000));
        end(&mut stage, "freeze");
        let (kept, acknowledged) = (held(&stage), told_last());
        assert!(kept >= acknowledged, "{kept} is in the image, and {acknowledged} was acknowledged");
        // It is the newest there is, so nothing is in its way.
        let mut command = stage.command(&["thaw", "s", "--attach"]);
        stage.supervisor = Some(command.stdout(Stdio::null()).spawn().unwrap());
        stage.until("it is up", |stage| stage.run(&["status", "s"]).status.success());
    }
    // What was acknowledged since the image was made is not lost by thawing that once more.
    let before = held(&stage);
    stage.until("it counts", |_| told_last() > before);
    die(&mut stage);
    let output = stage.run(&["thaw", "s"]);
    let why = told(&output);
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains("counter/out") && why.contains("`frost up ") && why.contains("--back"), "{why}");
    let mut command = stage.command(&["thaw", "s", "--back", "--attach"]);
    stage.supervisor = Some(command.stdout(Stdio::null()).spawn().unwrap());
    stage.until("it is up", |stage| stage.run(&["status", "s"]).status.success());
}

fn a_rom_that_could_not_be_written_is_written_later() {
    let text = SHOUT;
    let stage = Stage::up(text);
    stage.until_report("shell/loud", "HELLO");
    let lives = stage.place.path().join("scenarios/s/c");
    let life = std::fs::read_dir(lives).unwrap().flatten().find(|entry| entry.file_name() != "root").unwrap();
    // What stands in its way, as a full disk would.
    let obstacle = life.path().join("draft");
    std::fs::create_dir(&obstacle).unwrap();
    stage.write(&text.replace("hello", "again"));
    stage.until("it was tried", |stage| stage.document("document/text")["version"].as_u64() > Some(1));
    std::fs::remove_dir(&obstacle).unwrap();
    stage.until_report("shell/loud", "AGAIN");
}

fn what_a_component_says_last_is_heard_though_it_ends_at_once() {
    let mut text = "[document.text]\ncontent = \"x\"\n".to_owned();
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    for name in &names {
        text.push_str(&format!(
            "[component.{name}]\nRELAY\narguments = [\"brief\"]\n[[route]]\nmatch = {{ component = \"{name}\", rom = \"in\" }}\n\
             from = \"document/text\"\n"
        ));
    }
    let stage = Stage::up(&text);
    for name in &names {
        stage.until("it has ended", |stage| stage.component(name)["state"] == "ended");
        assert_eq!(stage.component(name)["last_end"], "ended");
        assert_eq!(stage.report(&format!("{name}/out")), "last", "{name}");
    }
}

fn a_terminal_that_is_hung_up_ends_a_scenario_with_its_programs() {
    let mut stage = Stage::new("[program.sleeper]\ncommand = [\"sleep\", \"1000\"]\n");
    if !stage.bring_frost() {
        return;
    }
    let hang_up = |stage: &Stage| {
        let pid = rustix::process::Pid::from_raw(stage.supervisor.as_ref().unwrap().id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    stage.start();
    stage.until("it runs", |stage| stage.status()["programs"][0]["state"] == "running");
    hang_up(&stage);
    assert!(stage.supervisor.take().unwrap().wait().unwrap().success());
    let records = records(&frost(&stage, &["ps", "s.sleeper", "--json"]));
    assert_eq!(records[0]["state"], "ended", "{records:?}");
    // Whoever was told to ignore it goes on.
    let program = stage.command(&[]).get_program().display().to_string();
    std::fs::write(stage.place.path().join("ignore"), format!("trap '' HUP\nexec {program} up s.toml\n"))
        .unwrap();
    stage.supervisor = Some(stage.shell("ignore").spawn().unwrap());
    stage.until("it runs", |stage| stage.run(&["status", "s"]).status.success());
    hang_up(&stage);
    stage.until("it runs", |stage| stage.status()["programs"][0]["state"] == "running");
    end(&mut stage, "down");
}

fn what_cannot_be_kept_is_told_and_goes_on_when_it_can() {
    let text = format!("{PERSISTS}persist = true\n").replace(
        "[[step]]\nreport = \"n\"\ncontent = \"first\"",
        "[[step]]\nloop = [{ report = \"n\", content = \"{n}\" }, { sleep = \"5ms\" }]",
    );
    let stage = Stage::up(&text);
    stage.until("it is kept", |stage| stage.document("source/n")["version"].as_u64() > Some(1));
    // What stands in its way, as a full disk would.
    let place = stage.place.path().join("scenarios/s/documents/source");
    std::fs::rename(&place, stage.place.path().join("aside")).unwrap();
    std::fs::write(&place, "").unwrap();
    let complaint = |stage: &Stage| stage.component("source")["complaint"].clone();
    stage.until("that is told", |stage| complaint(stage).to_string().contains("n cannot be kept: "));
    let version = stage.document("source/n")["version"].as_u64();
    std::fs::remove_file(&place).unwrap();
    stage.until("it goes on", |stage| stage.document("source/n")["version"].as_u64() > version);
    stage.until("no more is told", |stage| complaint(stage).is_null());
}
