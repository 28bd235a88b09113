//! Components that do what they should not, and files that are wrong: what is told, and that nobody else suffers.

use crate::stage::{Stage, View, as_each_user};
use std::path::Path;
use std::time::Instant;

as_each_user! {
    a_flood_is_held_to_its_budget_and_its_reader_reaches_the_end
    a_cycle_comes_to_rest
    one_without_manners_is_answered_and_nobody_else_notices
    status_tells_who_is_silent_and_who_was_given_up
    the_name_of_a_program_s_image_is_refused
    a_proof_of_what_cannot_be_compared_ends_and_says_so
    a_wrong_file_is_refused_with_the_place_and_the_nearest_name
}

fn a_flood_is_held_to_its_budget_and_its_reader_reaches_the_end() {
    let text = r#"
[component.flood]
RELAY
arguments = ["flood", "400"]
budget = { reports = 200 }
[component.free]
RELAY
arguments = ["flood", "20000"]
[component.reader]
RELAY
arguments = ["relay", "r"]
[component.other]
RELAY
arguments = ["relay", "o"]
[[route]]
match = { component = "reader", rom = "in" }
from = "flood/out"
[[route]]
match = { component = "other", rom = "in" }
from = "free/out"
"#;
    let start = Instant::now();
    let stage = Stage::up(text);
    let mut view = View::of(&stage);
    for name in ["reader/out", "other/out", "flood/out"] {
        view.open(name);
    }
    let (version, _) = view.until("flood/out", |_, text| text == "400");
    let span = start.elapsed();
    // So many in a second, and a tenth of that at once.
    assert!(version as f64 <= span.as_secs_f64() * 200.0 + 21.0, "{version} in {span:?}");
    view.until("reader/out", |_, text| text == "r400");
    let (reads, _) = view.until("other/out", |_, text| text == "o20000");
    // What it had no time to read was skipped.
    assert!(reads <= 20_000, "{reads}");
}

fn a_cycle_comes_to_rest() {
    let text = r#"
[component.one]
RELAY
arguments = ["collect"]
[component.two]
RELAY
arguments = ["collect"]
[document.text]
content = "a b"
[[route]]
match = { component = "one", rom = "in" }
from = "document/text"
[[route]]
match = { component = "one", rom = "known" }
from = "two/known"
sticky = true
[[route]]
match = { component = "two", rom = "known" }
from = "one/known"
sticky = true
[[route]]
match = { component = "two", rom = "in" }
from = "two/known"
"#;
    let stage = Stage::up(text);
    stage.until_report("two/known", "a\nb");
    stage.until_report("one/known", "a\nb");
    let graph = String::from_utf8(stage.run(&["graph", "s"]).stdout).unwrap();
    assert!(graph.contains("a cycle: one -> two -> one") || graph.contains("a cycle: two -> two"), "{graph}");
    let version = stage.document("one/known")["version"].clone();
    for _ in 0..5 {
        assert_eq!(stage.document("one/known")["version"], version);
    }
}

fn one_without_manners_is_answered_and_nobody_else_notices() {
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        return println!("skipped: there is no {}", python.display());
    }
    let text = format!(
        r#"
[component.rude]
binary = {python:?}
arguments = ["PLACE/rude.py"]
paths = ["rude.py"]
log = "64KiB"
reports = ["out"]
[component.polite]
RELAY
arguments = ["relay", "p"]
[document.text]
content = "TEXT"
[[route]]
match = {{ rom = "in" }}
from = "document/text"
"#
    );
    let mut stage = Stage::new("");
    let text = text.replace("PLACE", &stage.place.path().display().to_string());
    stage.write(&text);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenario/rude.py");
    std::fs::copy(script, stage.place.path().join("rude.py")).unwrap();
    stage.start();
    let mut view = View::of(&stage);
    view.open("rude/out");
    let (_, told) = view.until("rude/out", |_, text| text.starts_with("report"));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "report out 1048576", "{told}");
    for line in &lines[1..5] {
        assert!(line.starts_with("error submit out"), "{told}");
    }
    assert!(lines[3].contains("longer than its limit"), "{told}");
    assert_eq!(lines[5], "closed True", "{told}");
    // It goes on for the others.
    stage.write(&text.replace("TEXT", "still"));
    stage.until_report("polite/out", "pstill");
    assert_eq!(stage.component("rude")["starts"], 1);
    let logs = stage.place.path().join("scenarios/s/logs");
    let length = |name: &str| std::fs::metadata(logs.join(name)).map(|meta| meta.len()).unwrap_or_default();
    assert!(length("rude~") > 0 && length("rude") + length("rude~") <= 128 << 10, "{}", length("rude"));
}

fn status_tells_who_is_silent_and_who_was_given_up() {
    let text = r#"
[component.silent]
RELAY
arguments = ["silent"]
reports = ["out"]
[component.crash]
RELAY
arguments = ["crash"]
backoff = "1ms"
attempts = 2
[[route]]
match = { rom = "in" }
from = "silent/out"
"#;
    let stage = Stage::up(text);
    stage.until("it is given up", |stage| stage.component("crash")["state"] == "given-up");
    let told = String::from_utf8(stage.run(&["status", "s"]).stdout).unwrap();
    let line = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("silent").contains("has not reported"), "{told}");
    assert!(line("crash").contains("given-up") && line("crash").contains("ended with status 3"), "{told}");
    // What was given up is tried again when it is another one.
    stage.write(&text.replace("arguments = [\"crash\"]", "arguments = [\"relay\", \"x\"]"));
    stage.until("it runs", |stage| stage.component("crash")["state"] == "running");
}

fn a_wrong_file_is_refused_with_the_place_and_the_nearest_name() {
    for (text, told) in [
        (
            "[component.a]\nbinary = \"x\"\n restrat = \"never\"\n",
            ["line 3, column 2", "did you mean restart?"],
        ),
        ("[component.a]\nbinary = \"x\"\n[component.a]\n", ["line 3, column 12", "duplicate"]),
        (
            "[component.ab]\nbinary = \"x\"\n[[route]]\nmatch = { rom = \"x\" }\nfrom = \"ax/out\"\n",
            ["line 5, column 8", "did you mean ab?"],
        ),
        (
            "[component.a]\nbinary = \"x\"\nbudget = { memroy = \"1MiB\" }\n",
            ["line 3, column 12", "did you mean memory?"],
        ),
        ("[component.a]\nbinary = \"x\"\nbudget = { reports = 0 }\n", ["line 3, column 22", "at least one"]),
        ("[component.a]\nbinary = \"x\"\nfiles = \"yes\"\n", ["line 3, column 9", "true or false"]),
        ("[component.a\n", ["line 1, column", "TOML"]),
        ("[component.a]\nbinary = \"x\"\nconfig_file = \"none\"\n", ["line 3, column 15", "No such file"]),
    ] {
        let stage = Stage::new(text);
        let output = stage.run(&["up", "s.toml"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(told.iter().all(|told| error.contains(told)), "{text}{error}");
    }
}

fn the_name_of_a_program_s_image_is_refused() {
    let stage = Stage::new("[document.text]\ncontent = \"hello\"\n");
    std::fs::create_dir(stage.place.path().join("images/s")).unwrap();
    let output = stage.run(&["up", "s.toml"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("image of a program named s") && told.contains("hint:"), "{told}");
}

fn a_proof_of_what_cannot_be_compared_ends_and_says_so() {
    let text = "[component.a]\nRELAY\narguments = [\"crash\"]\nbackoff = \"1ms\"\nattempts = 2\n";
    let output = Stage::new(text).run(&["up", "s.toml", "--prove"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("a has failed too often") && told.contains("ended with status 3"), "{told}");
    let text = "[component.a]\nbinary = \"true\"\n";
    let output = Stage::new(text).run(&["up", "s.toml", "--prove"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("none of its components reports anything"), "{told}");
}
