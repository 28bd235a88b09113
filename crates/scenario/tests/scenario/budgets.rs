//! What components may use of the machine, by control groups.

use crate::stage::{ORDINARY, Stage, Who, run_as};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const HOG: &str = r#"
[component.hog]
binary = "/usr/bin/python3"
arguments = ["-c", """
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(os.environ["FROST_SESSION"])
if os.fork() == 0:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))
while True:
    os.wait()
"""]
budget = { ram = "48MiB" }
backoff = "1ms"
attempts = 3
[component.busy]
binary = "/bin/sh"
arguments = ["-c", "while :; do :; done"]
budget = { ram = "64MiB", cpu = "20%" }
[component.polite]
RELAY
arguments = ["relay", "p"]
budget = { ram = "64MiB", cpu = 0.5 }
[document.text]
content = "x"
[[route]]
match = { rom = "in" }
from = "document/text"
"#;

/// Groups that were made for a test; removed with it.
struct Given(Vec<PathBuf>);

impl Drop for Given {
    fn drop(&mut self) {
        for group in &self.0 {
            // What is in there has ended, and leaves it soon.
            for _ in 0..2000 {
                let _ = std::fs::remove_dir(group.join("frost"));
                if std::fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

/// Where the controllers of version 1 for memory and processors are mounted, or that of version 2 with both.
fn hierarchies() -> Vec<PathBuf> {
    let has = |place: &Path, name: &str| {
        std::fs::read_to_string(place.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_whitespace().any(|word| word == name))
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let (Some((place, kind)), Some(mount)) = (line.split_once(" - "), line.split(' ').nth(4)) else {
            continue;
        };
        let mount = PathBuf::from(mount);
        let options: Vec<&str> = kind.rsplit(' ').next().unwrap_or_default().split(',').collect();
        let is_one = kind.starts_with("cgroup ") && (options.contains(&"memory") || options.contains(&"cpu"));
        if !place.is_empty() && (is_one || kind.starts_with("cgroup2 ") && has(&mount, "memory")) {
            found.push(mount);
        }
    }
    found
}

/// A stage that may make groups, with those that its user was given; none if none can be made here.
fn stage(who: Who) -> Option<(Given, Stage)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut stage = Stage::new(HOG);
    let mut given = Given(Vec::new());
    let name = format!("frost-scenario-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    if who == Who::Ordinary {
        for root in hierarchies() {
            let group = root.join(&name);
            if std::fs::create_dir(&group).is_err() {
                println!("skipped: no control groups may be made here");
                return None;
            }
            given.0.push(group.clone());
            let files = ["", "cgroup.procs", "cgroup.subtree_control", "tasks"].map(|file| group.join(file));
            for file in files.iter().filter(|file| file.exists()) {
                std::os::unix::fs::chown(file, Some(ORDINARY), Some(ORDINARY)).unwrap();
            }
            // The process that enters is the user's already, and may not take itself out of where it is.
            stage.entrances.push(group.join("cgroup.procs"));
        }
    }
    Some((given, stage))
}

fn groups_of(pid: i64) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

fn a_budget(who: Who) {
    if !Path::new("/usr/bin/python3").exists() {
        return println!("skipped: there is no /usr/bin/python3");
    }
    let Some((given, mut stage)) = stage(who) else { return };
    if hierarchies().is_empty() {
        return println!("skipped: no control groups are mounted here");
    }
    let check = stage.run(&["up", "s.toml", "--detach"]);
    if check.status.code() == Some(5) {
        return println!("skipped: {}", String::from_utf8_lossy(&check.stderr));
    }
    assert!(check.status.success(), "{check:?}");
    stage.until("it is given up", |stage| stage.component("hog")["state"] == "given-up");
    let hog = stage.component("hog");
    assert_eq!(hog["starts"], 3, "{hog}");
    let told = hog["last_end"].as_str().unwrap();
    // All of it has ended, though only its child took the memory.
    assert!(told.contains("more memory than its budget allows, 49152 KiB"), "{told}");
    stage.until_report("polite/out", "px");
    let polite = stage.component("polite");
    assert_eq!((&polite["ram_bytes"], &polite["cpu_percent"]), (&(64 << 20).into(), &50.into()));
    assert!(polite["ram_used_bytes"].as_u64().unwrap() > 0, "{polite}");
    assert_eq!(polite["starts"], 1);
    let groups = groups_of(polite["pid"].as_i64().unwrap());
    assert!(groups.contains("/frost/s.polite."), "{groups}");
    // Whoever looks after what is left does not take them away.
    let pid = stage.component("busy")["pid"].as_i64().unwrap();
    let group = groups_of(pid).lines().find_map(|line| Some(line.split_once("/frost/s.busy.")?.1.to_owned()));
    assert!(group.is_some(), "{}", groups_of(pid));
    assert!(stage.run(&["down"]).status.success());
    // Nothing of it is left.
    let left = |name: &str| {
        let parents = if given.0.is_empty() { hierarchies() } else { given.0.clone() };
        let entries =
            parents.iter().flat_map(|parent| std::fs::read_dir(parent.join("frost")).into_iter().flatten());
        let number = format!(".{}", polite_supervisor(&groups));
        entries.flatten().any(|entry| {
            let entry = entry.file_name().to_string_lossy().into_owned();
            entry.starts_with(name) && entry.contains(&number)
        })
    };
    assert!(!left("s.polite") && !left("s.hog"));
    stage.entrances.clear();
}

/// The supervisor's number, by which its groups are named.
fn polite_supervisor(groups: &str) -> String {
    let rest = groups.split("/frost/s.polite.").nth(1).unwrap_or_default();
    rest.chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn a_component_that_needs_more_than_its_budget_is_ended_and_that_is_said_as_myself() {
    run_as(Who::Myself, || a_budget(Who::Myself));
}

#[test]
fn a_component_that_needs_more_than_its_budget_is_ended_and_that_is_said_as_an_ordinary_user() {
    run_as(Who::Ordinary, || a_budget(Who::Ordinary));
}

#[test]
fn without_a_delegated_group_nothing_is_started() {
    run_as(Who::Ordinary, || {
        let stage = Stage::new(HOG);
        let output = stage.run(&["up", "s.toml"]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{told}");
        assert!(told.contains("cannot have its budget") && told.contains("hint:  "), "{told}");
        // To draw it none is needed.
        assert!(stage.run(&["graph", "s.toml"]).status.success());
    });
}
