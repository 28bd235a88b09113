//! What a scenario does, one claim a test.

use crate::stage::{SHOUT, Stage, as_each_user, random};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;

as_each_user! {
    a_pipeline_reaches_the_newest_version_whoever_is_killed_meanwhile
    a_report_goes_with_its_writer_and_stays_for_those_to_whom_it_sticks
    what_is_not_routed_is_denied_and_what_is_outside_is_not_there
    a_component_is_replaced_when_the_new_one_has_reported_and_else_stays
    an_edited_file_changes_what_is_different_and_a_wrong_one_nothing
    what_crashes_again_and_again_is_given_up_and_what_hangs_is_started_again
    what_persists_survives_the_death_of_everything
    a_frozen_scenario_is_thawed_where_it_stood
    a_proof_passes_what_is_pure_and_finds_what_is_kept_in_secret
    a_large_document_arrives_whole
    shells_read_and_report_by_files
    what_is_written_among_reports_has_an_end
    a_graph_shows_who_reads_what
    every_command_prints_records
}

const PIPELINE: &str = r#"
[component.a]
RELAY
arguments = ["relay", "a"]
[component.b]
RELAY
arguments = ["relay", "b"]
[component.c]
RELAY
arguments = ["relay", "c"]
[component.words]
RELAY
arguments = ["collect"]
[document.text]
content = "TEXT"
[[route]]
match = { component = "a", rom = "in" }
from = "document/text"
[[route]]
match = { component = "b", rom = "in" }
from = "a/out"
[[route]]
match = { component = "c", rom = "in" }
from = "b/out"
[[route]]
match = { component = "words", rom = "in" }
from = "document/text"
[[route]]
match = { component = "words", rom = "known" }
from = "words/known"
sticky = true
"#;

fn a_pipeline_reaches_the_newest_version_whoever_is_killed_meanwhile() {
    let stage = Stage::up(&PIPELINE.replace("TEXT", "w0"));
    let rounds: u64 = std::env::var("FROST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let mut seed = u64::from(std::process::id()) | 1 << 40;
    eprintln!("seed {seed}");
    stage.until_report("words/known", "w0");
    for round in 1..=rounds {
        stage.write(&PIPELINE.replace("TEXT", &format!("w{round}")));
        for _ in 0..=random(&mut seed) % 3 {
            std::thread::sleep(Duration::from_micros(random(&mut seed) % 4000));
            stage.kill(["a", "b", "c", "words"][random(&mut seed) as usize % 4]);
        }
        // So that each word is seen: versions between two looks may be skipped.
        let word = format!("w{round}");
        stage
            .until("the word is known", |stage| stage.report("words/known").lines().any(|line| line == word));
    }
    stage.until_report("c/out", &format!("cbaw{rounds}"));
    let mut expected: Vec<String> = (0..=rounds).map(|round| format!("w{round}")).collect();
    expected.sort();
    stage.until_report("words/known", &expected.join("\n"));
    // It may have been killed before it had reported anew, and wait for its next start.
    stage.until("it runs", |stage| stage.component("a")["state"] == "running");
}

fn a_report_goes_with_its_writer_and_stays_for_those_to_whom_it_sticks() {
    let text = r#"
[component.writer]
RELAY
arguments = ["relay", "x"]
restart = "never"
[component.reader]
RELAY
arguments = ["silent"]
[document.text]
content = "1"
[[route]]
match = { component = "writer", rom = "in" }
from = "document/text"
[[route]]
match = { component = "reader", rom = "in" }
from = "writer/out"
[[route]]
match = { component = "reader", rom = "kept" }
from = "writer/out"
sticky = true
"#;
    let stage = Stage::up(text);
    let rom = |name: &str| {
        let output = stage.run(&["rom", name]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    stage.until_report("writer/out", "x1");
    assert_eq!((rom("reader/in"), rom("reader/kept")), ("x1\n".to_owned(), "x1\n".to_owned()));
    stage.kill("writer");
    stage.until("the writer has ended", |stage| stage.component("writer")["state"] == "ended");
    assert_eq!((rom("reader/in"), rom("reader/kept")), (String::new(), "x1\n".to_owned()));
    assert_eq!(stage.document("writer/out")["version"], 1);
    let denied = stage.run(&["rom", "reader/kep"]);
    let told = String::from_utf8(denied.stderr).unwrap();
    assert!(told.contains("reader has no route for kep") && told.contains("did you mean kept?"), "{told}");
}

fn what_is_not_routed_is_denied_and_what_is_outside_is_not_there() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "[component.probe]\nRELAY\narguments = [\"probe\", {:?}]\nreports = [\"out\"]\nlimit = \"64KiB\"\n",
        outside.path()
    );
    let stage = Stage::up(&text);
    stage.until("it has told", |stage| {
        assert_ne!(stage.component("probe")["state"], "given-up", "{}", stage.component("probe"));
        stage.report("probe/out").contains("processes")
    });
    let told = stage.report("probe/out");
    let line = |what: &str| {
        told.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_else(|| panic!("{told}"))
    };
    assert_eq!(line("limit "), "65536");
    assert!(line("rom: ").contains("no route: the ROM nothing of probe"), "{told}");
    assert!(line("undeclared: ").contains("other is no report of probe; its reports: out"), "{told}");
    assert!(line("twice: ").contains("has a writer") && line("second: ").contains("has a writer"), "{told}");
    assert!(line("too long: ").contains("longer than its limit of 65536 bytes"), "{told}");
    assert_eq!(line("file: "), "entity not found");
    assert_ne!(line("write: "), "done");
    assert_eq!(line("tmp: "), "done");
    assert_eq!(line("network: "), "network unreachable");
    assert_eq!(line("processes: "), "2");
}

fn a_component_is_replaced_when_the_new_one_has_reported_and_else_stays() {
    let stage = Stage::up(&PIPELINE.replace("TEXT", "x"));
    stage.until_report("c/out", "cbax");
    let old = stage.component("b")["pid"].clone();
    let output = stage.run(&["replace", "b", "--timeout", "200ms", "--", "silent"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("has not reported out in time"), "{told}");
    let output = stage.run(&["replace", "b", "--", "crash"]);
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("has ended before it reported: ended with status 3")
    );
    assert_eq!(stage.component("b")["pid"], old);
    assert_eq!(stage.report("c/out"), "cbax");
    let output = stage.run(&["replace", "b", "--", "relay", "B"]);
    assert!(output.status.success(), "{output:?}");
    // It had reported before it took over: at no time there was no report.
    assert_eq!(stage.report("b/out"), "Bax");
    assert_ne!(stage.component("b")["pid"], old);
    stage.until_report("c/out", "cBax");
    assert_eq!(stage.component("c")["starts"], 1);
    stage.kill("b");
    stage.until("it is started again, as the new one", |stage| stage.component("b")["starts"] == 2);
    stage.until_report("b/out", "Bax");
}

fn an_edited_file_changes_what_is_different_and_a_wrong_one_nothing() {
    let stage = Stage::up(&PIPELINE.replace("TEXT", "x"));
    stage.until_report("c/out", "cbax");
    let pids = |stage: &Stage| ["a", "b", "c"].map(|name| stage.component(name)["pid"].clone());
    let before = pids(&stage);
    stage.write(&PIPELINE.replace("TEXT", "y"));
    stage.until_report("c/out", "cbay");
    assert_eq!(pids(&stage), before);
    stage.write(&PIPELINE.replace("TEXT", "z").replace("a/out", "d/out"));
    stage.until("its trouble is told", |stage| stage.status()["trouble"].is_string());
    let trouble = stage.status()["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("line 21, column 8") && trouble.contains("no component d"), "{trouble}");
    assert_eq!((stage.report("c/out"), pids(&stage)), ("cbay".to_owned(), before.clone()));
    stage.write(&PIPELINE.replace("TEXT", "z").replace("\"b\"]", "\"B\"]"));
    stage.until_report("c/out", "cBaz");
    let after = pids(&stage);
    assert!(after[0] == before[0] && after[1] != before[1] && after[2] == before[2], "{before:?} {after:?}");
    let (start, end) = (PIPELINE.find("[component.words]").unwrap(), PIPELINE.find("[document").unwrap());
    let routes = PIPELINE.find("[[route]]\nmatch = { component = \"words\"").unwrap();
    let less = format!("{}{}", &PIPELINE[..start], &PIPELINE[end..routes]);
    stage.write(&less.replace("TEXT", "q"));
    stage.until("words has ended", |stage| stage.component("words").is_null());
    stage.until_report("c/out", "cbaq");
}

fn what_crashes_again_and_again_is_given_up_and_what_hangs_is_started_again() {
    let text = r#"
[component.crash]
RELAY
arguments = ["crash"]
backoff = "1ms"
attempts = 3
[component.missing]
binary = "/no/such/file"
backoff = "1ms"
[component.hang]
RELAY
arguments = ["hang"]
heartbeat = "20ms"
backoff = "1ms"
"#;
    let stage = Stage::up(text);
    stage.until("it is given up", |stage| stage.component("crash")["state"] == "given-up");
    assert_eq!(stage.component("crash")["starts"], 3);
    assert_eq!(stage.component("crash")["last_end"], "ended with status 3");
    stage.until("it is given up", |stage| stage.component("missing")["state"] == "given-up");
    assert!(stage.component("missing")["last_end"].as_str().unwrap().contains("cannot start /no/such/file"));
    stage.until("it was started again", |stage| stage.component("hang")["starts"].as_u64() >= Some(2));
    assert_eq!(stage.component("hang")["last_end"], "it has not answered 3 heartbeats");
}

fn what_persists_survives_the_death_of_everything() {
    let text = r#"
[component.source]
binary = "frost-scenario"
arguments = ["source"]
config = '''
[[step]]
loop = [{ report = "n", content = "{n}" }]
'''
[component.reader]
RELAY
arguments = ["silent"]
[[route]]
match = { component = "reader", rom = "in" }
from = "source/n"
persist = true
"#;
    let mut stage = Stage::up(text);
    let mut last = 0;
    for _ in 0..3 {
        // What anybody has seen is safe.
        stage.until("there is more", |stage| stage.document("source/n")["version"].as_u64() > Some(last));
        let seen = stage.document("source/n")["version"].as_u64().unwrap();
        let mut supervisor = stage.supervisor.take().unwrap();
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        stage.start();
        last = stage.document("source/n")["version"].as_u64().unwrap();
        assert!(last >= seen, "{last} {seen}");
    }
    let output = stage.run(&["down", "s"]);
    assert!(output.status.success(), "{output:?}");
    assert!(stage.supervisor.take().unwrap().wait().unwrap().success());
}

fn a_frozen_scenario_is_thawed_where_it_stood() {
    let mut stage = Stage::up(&PIPELINE.replace("TEXT", "x"));
    stage.until_report("words/known", "x");
    stage.write(&PIPELINE.replace("TEXT", "y"));
    stage.until_report("words/known", "x\ny");
    assert!(stage.run(&["replace", "b", "--", "relay", "B"]).status.success());
    stage.until_report("c/out", "cBay");
    let version = stage.document("words/known")["version"].as_u64().unwrap();
    let output = stage.run(&["freeze", "s"]);
    assert!(output.status.success(), "{output:?}");
    stage.supervisor.take().unwrap().wait().unwrap();
    let image = stage.place.path().join("scenarios/s/image");
    assert!(std::fs::metadata(&image).unwrap().len() < 8192);
    // A word that came meanwhile, and one that only the image knows.
    stage.write(&PIPELINE.replace("TEXT", "z"));
    let mut command = stage.command(&["thaw", "s", "--attach"]);
    stage.supervisor = Some(command.stdout(Stdio::null()).spawn().unwrap());
    stage.until("it is up", |stage| stage.run(&["status", "s"]).status.success());
    stage.until_report("words/known", "x\ny\nz");
    assert!(stage.document("words/known")["version"].as_u64() > Some(version));
    stage.until_report("c/out", "cBaz");
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&image, bytes).unwrap();
    assert_eq!(stage.run(&["thaw", "s"]).status.code(), Some(4));
    assert_eq!(stage.run(&["thaw", "t"]).status.code(), Some(6));
}

fn a_proof_passes_what_is_pure_and_finds_what_is_kept_in_secret() {
    let stage = Stage::new(&PIPELINE.replace("TEXT", "x"));
    let output = stage.run(&["up", "s.toml", "--prove", "30"]);
    assert!(output.status.success(), "{output:?}");
    let text = r#"
[component.secret]
RELAY
arguments = ["secret"]
[document.text]
content = "TEXT"
[[route]]
match = { component = "secret", rom = "in" }
from = "document/text"
"#;
    let mut stage = Stage::new(&text.replace("TEXT", "a"));
    let mut command = stage.command(&["up", "s.toml", "--prove", "1000000"]);
    stage.supervisor = Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    // Until one life has read two versions, and was compared with one that has read the second only.
    let starts = |stage: &Stage| {
        let status: Value = serde_json::from_slice(&stage.run(&["status", "s", "--json"]).stdout).ok()?;
        status["components"][0]["starts"].as_u64()
    };
    let ended = |stage: &mut Stage| stage.supervisor.as_mut().unwrap().try_wait().unwrap();
    let mut edits = 0;
    let status = loop {
        if let Some(status) = ended(&mut stage) {
            break status;
        }
        edits += 1;
        stage.write(&text.replace("TEXT", &format!("n{edits}")));
        // While a difference is looked at there is no further start.
        let before = starts(&stage);
        stage.until("it is found or passed", |stage| {
            let now = starts(stage);
            now.is_none() || now > before.map(|before| before + 1)
        });
        assert!(edits < 2000, "it was not found");
    };
    assert_eq!(status.code(), Some(1));
    let mut told = String::new();
    std::io::Read::read_to_string(stage.supervisor.as_mut().unwrap().stderr.as_mut().unwrap(), &mut told)
        .unwrap();
    assert!(told.contains("secret started anew does not report what it did"), "{told}");
    assert!(told.contains("\n+++ out, anew\n") && told.contains("is number 1\n"), "{told}");
}

fn a_large_document_arrives_whole() {
    let text = r#"
[component.large]
RELAY
arguments = ["large", "100"]
limit = "100MiB"
[[route]]
match = { component = "large", rom = "in" }
from = "large/out"
"#;
    let stage = Stage::up(text);
    stage.until_report("large/told", "true 1");
}

fn shells_read_and_report_by_files() {
    let text = SHOUT;
    let stage = Stage::up(text);
    stage.until_report("shell/loud", "HELLO");
    stage.write(&text.replace("hello", "again"));
    stage.until_report("shell/loud", "AGAIN");
}

fn what_is_written_among_reports_has_an_end() {
    let stage = Stage::up(
        r#"
[component.shell]
binary = "/bin/sh"
arguments = ["-c", '''
head -c 200M /dev/zero >"$FROST_REPORT/.hoard" || echo no room for more
ls -A "$FROST_REPORT/.." >&2
rm "$FROST_REPORT/.hoard"
head -c 2M /dev/zero >"$FROST_REPORT/.new" && mv "$FROST_REPORT/.new" "$FROST_REPORT/long"
mkdir "$FROST_REPORT/folder"
echo done >"$FROST_REPORT/.new" && mv "$FROST_REPORT/.new" "$FROST_REPORT/told"
read -r _ <"$FROST_CHANGED"
''']
files = true
"#,
    );
    stage.until_report("shell/told", "done");
    let log = std::fs::read_to_string(stage.place.path().join("scenarios/s/logs/shell")).unwrap();
    assert!(log.contains("No space left") && log.contains("no room for more"), "{log}");
    // Nor does it see what has been taken from it.
    assert!(!log.contains("taken"), "{log}");
}

fn a_graph_shows_who_reads_what() {
    let stage = Stage::new(PIPELINE);
    let text = String::from_utf8(stage.run(&["graph", "s.toml"]).stdout).unwrap();
    assert!(
        text.contains("a/out -> b: in\n") && text.contains("words/known -> words: known (sticky)\n"),
        "{text}"
    );
    assert!(text.contains("a cycle: words -> words"), "{text}");
    let dot = String::from_utf8(stage.run(&["graph", "s.toml", "--format", "dot"]).stdout).unwrap();
    assert!(dot.contains("\"a\" -> \"b\""), "{dot}");
    let svg = String::from_utf8(stage.run(&["graph", "s.toml", "--format", "svg"]).stdout).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    let output = stage.run(&["up", "none.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stage.run(&["status"]).status.code(), Some(6));
}

fn every_command_prints_records() {
    let mut stage = Stage::up(&PIPELINE.replace("TEXT", "x"));
    stage.until_report("c/out", "cbax");
    let record = |arguments: &[&str]| -> Value {
        let output = stage.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("{\"v\":1,") && text.lines().count() == 1, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let report = record(&["report", "c/out", "--json"]);
    assert_eq!((&report["name"], &report["content"]), (&"c/out".into(), &"cbax".into()));
    assert_eq!(report["version"], stage.document("c/out")["version"]);
    assert_eq!(record(&["--json", "rom", "c/in"])["content"], "bax");
    for graph in [record(&["graph", "--json"]), record(&["graph", "s.toml", "--json"])] {
        let routes = graph["routes"].as_array().unwrap();
        assert!(routes.iter().any(|route| route["writer"] == "a" && route["reader"] == "b"), "{graph}");
        assert_eq!(graph["cycle"], serde_json::json!(["words", "words"]));
    }
    let replaced = record(&["replace", "b", "--json", "--", "relay", "B"]);
    assert_eq!((&replaced["component"], &replaced["state"]), (&"b".into(), &"replaced".into()));
    let frozen = record(&["freeze", "--json"]);
    assert_eq!((&frozen["scenario"], &frozen["programs"]), (&"s".into(), &0.into()));
    let length = std::fs::metadata(stage.place.path().join("scenarios/s/image")).unwrap().len();
    assert_eq!(frozen["bytes"], length);
    stage.supervisor.take().unwrap().wait().unwrap();
    assert_eq!(stage.run(&["thaw", "s", "--json", "--file", "none.toml"]).status.code(), Some(2));
    let thawed = record_of(&stage, &["thaw", "s", "--json"]);
    assert_eq!(stage.status()["pid"], thawed["pid"]);
    let ended = record_of(&stage, &["down", "--json"]);
    assert_eq!(ended["state"], "ended");
    let up = record_of(&stage, &["up", "s.toml", "--detach", "--json"]);
    assert!(up["pid"].is_number());
    record_of(&stage, &["down", "s", "--json"]);
}

fn record_of(stage: &Stage, arguments: &[&str]) -> Value {
    let output = stage.run(arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
}
