//! That a component reaches nothing but what its routes give, and keeps nothing but what it reports.

use crate::stage::{Stage, View, as_each_user, kill};
use std::path::Path;

as_each_user! {
    what_a_component_leaves_behind_its_next_life_does_not_find
}

/// Where something may be left, since it goes with the life that has left it.
const OWN: [&str; 8] =
    ["tmp", "home", "abstract", "shared-memory", "queue", "processes", "document-lock", "descriptors"];

fn what_a_component_leaves_behind_its_next_life_does_not_find() {
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        return println!("skipped: there is no {}", python.display());
    }
    let adversary = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenario/adversary.py");
    let stage = Stage::new(
        &format!(
            r#"
[component.adversary]
binary = {python:?}
arguments = ["/adversary.py"]
reports = ["out"]
paths = ["adversary.py"]
[document.large]
file = "large"
[[route]]
match = {{ component = "adversary", rom = "large" }}
from = "document/large"
"#
        )
        .replace("/adversary.py", &format!("{}/adversary.py", "PLACE")),
    );
    let place = stage.place.path().display().to_string();
    stage
        .write(&std::fs::read_to_string(stage.place.path().join("s.toml")).unwrap().replace("PLACE", &place));
    std::fs::copy(adversary, stage.place.path().join("adversary.py")).unwrap();
    std::fs::write(stage.place.path().join("large"), vec![b'x'; 1 << 20]).unwrap();
    let mut stage = stage;
    stage.start();
    let mut view = View::of(&stage);
    view.open("adversary/out");
    let (first, told) = view.until("adversary/out", |_, text| text.ends_with("end"));
    check(&told);
    let pid = view.component("adversary")["pid"].as_i64().unwrap();
    kill(pid as i32);
    let (_, told) = view.until("adversary/out", |number, text| number > first && text.ends_with("end"));
    check(&told);
    // What it printed is in its log, though it had no file to print to.
    let log = std::fs::read_to_string(stage.place.path().join("scenarios/s/logs/adversary")).unwrap();
    assert!(log.contains("frost-mark-7"), "{log}");
}

fn check(told: &str) {
    for line in told.lines() {
        let mut words = line.splitn(3, ' ');
        match (words.next().unwrap(), words.next(), words.next().unwrap_or("")) {
            ("find", Some(_), found) => assert!(found.starts_with("nothing"), "{line}\n{told}"),
            ("leave", Some(place), left) if !OWN.contains(&place) => {
                assert!(left.starts_with("refused"), "{line}\n{told}");
            }
            _ => {}
        }
    }
}
