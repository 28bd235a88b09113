//! What `frost diff` and `frost inspect` tell of a program that changes in known ways.

use frost_tests::{LIMIT, Scene, Stdio, Who, skip, until};
use serde_json::Value;
use std::fs;

fn array<'a>(record: &'a Value, field: &str) -> &'a [Value] {
    record[field].as_array().map_or(&[], Vec::as_slice)
}

/// Makes `changing@1`, as it was before, and `changing@2`.
fn changed() -> Option<Scene> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|path| path.join("cc").exists()) {
        skip("cc is not installed");
        return None;
    }
    let scene = Scene::new(Who::Ordinary).or_else(|| Scene::new(Who::Myself))?;
    let source = scene.stage("changing.c");
    fs::write(&source, include_str!("../programs/changing.c")).expect("our own directory");
    let mut command = scene.command("cc");
    scene.run(command.args(["-O1", "-w", "-pthread", "-o", "changing"]).arg(&source), LIMIT).ok();
    let mut command = scene.command("setsid");
    let started = scene.start(command.arg("./changing"), Stdio::Null);
    let pid = started.pid().to_string();
    until("the program is ready", || scene.stage("ready").exists());
    scene.frost(&["freeze", &pid, "--to", "changing", "--leave-running"]).ok();
    scene.run(scene.command("kill").args(["-USR1", &pid]), LIMIT).ok();
    until("the program has changed", || scene.stage("changed").exists());
    scene.frost(&["freeze", &pid, "--to", "changing"]).ok();
    Some(scene)
}

#[test]
fn every_change_is_told() {
    let Some(scene) = changed() else { return };
    let same = scene.frost(&["diff", "changing@2", "changing"]).ok();
    assert_eq!(same.stdout, "changing@2 -> changing@2: nothing changed\n");
    // The digests of a compressed image are the same.
    for cold in [false, true] {
        if cold {
            scene.frost(&["gc", "--compress-after", "0"]).ok();
        }
        let outcome = scene.frost(&["diff", "changing@1", "changing@2", "--json"]).ok();
        let record = outcome.record();
        assert_eq!((array(&record, "come").len(), array(&record, "gone").len()), (1, 1), "{outcome}");
        let [process] = array(&record, "changed") else { panic!("one process changed\n{outcome}") };
        assert_eq!(array(process, "threads_come").len(), 1, "{outcome}");
        assert_eq!(array(process, "threads_moved").len(), 1, "{outcome}");

        let has = |list: &str, fields: &[(&str, Value)]| {
            let found = array(process, list)
                .iter()
                .any(|entry| fields.iter().all(|(field, value)| entry[*field] == *value));
            assert!(found, "{list} has no entry with {fields:?}\n{outcome}");
        };
        let text = |text: &str| Value::from(text);
        has(
            "pages",
            &[
                ("changed_pages", 3.into()),
                ("added_pages", 2.into()),
                ("removed_pages", 5.into()),
                ("bytes", (5 * 4096).into()),
            ],
        );
        has("mappings", &[("change", text("rights")), ("before", text("rw-")), ("after", text("r--"))]);
        has("mappings", &[("change", text("added")), ("bytes", (3 << 20).into())]);
        let log = format!("regular {}, at ", scene.stage("log").display());
        has("descriptors", &[("change", text("state")), ("before", text(&format!("{log}0")))]);
        has("descriptors", &[("change", text("state")), ("after", text(&format!("{log}5")))]);
        has("descriptors", &[("change", text("object")), ("before", text("device /dev/null"))]);
        has("settings", &[("what", text("umask")), ("after", text("137"))]);
        has("settings", &[("what", text("working directory")), ("after", text("/"))]);
        assert!(
            array(process, "settings").iter().any(|entry| entry["what"] == "limit nofile"
                && entry["after"].as_str().is_some_and(|value| value.starts_with("77 of "))),
            "{outcome}"
        );
        let [object] = array(&record, "objects") else { panic!("one object changed\n{outcome}") };
        assert_eq!((object["changed_pages"].as_u64(), object["added_pages"].as_u64()), (Some(1), Some(0)));
    }
    let outcome = scene.frost(&["diff", "changing@1", "changing@2"]).ok();
    for line in
        ["1 came, 1 went, 1 changed", "40.0 KiB: 3 changed, 2 added, 5 removed", "rw- -> r--", "-> 137"]
    {
        assert!(outcome.stdout.contains(line), "{line:?}\n{outcome}");
    }
    scene.frost(&["diff", "changing@1", "changing@3"]).refused(6, "changing@3");
}

#[test]
fn a_tree_is_shown_as_one() {
    let Some(scene) = changed() else { return };
    let outcome = scene.frost(&["inspect", "changing@2"]).ok();
    let record = scene.frost(&["inspect", "changing@2", "--json"]).ok().record();
    let [root, child] = array(&record, "processes") else { panic!("two processes\n{outcome}") };
    let tree = format!("\n  {} ./changing  (2 threads)\n  `-- {} ./changing", root["pid"], child["pid"]);
    assert!(outcome.stdout.contains(&tree), "{tree}\n{outcome}");
    assert_eq!((root["cwd"].as_str(), root["umask"].as_u64()), (Some("/"), Some(0o137)), "{outcome}");
    assert!(outcome.stdout.contains("umask 137"), "{outcome}");
    let kinds: Vec<&str> = array(root, "memory").iter().filter_map(|kind| kind["kind"].as_str()).collect();
    for kind in ["stack", "anonymous", "shared", "file", "kernel"] {
        assert!(kinds.contains(&kind), "{kind}\n{outcome}");
    }
    let own = |list: &[Value]| list.iter().filter_map(|entry| entry["private_bytes"].as_u64()).sum::<u64>();
    assert_eq!(own(array(root, "memory")), own(array(root, "regions")));
    let log = array(root, "descriptors").iter().find(|entry| entry["fd"] == 3).expect("the log");
    assert_eq!((log["kind"].as_str(), log["state"].as_str()), (Some("regular"), Some("at 5")), "{outcome}");
}

/// What processes share by number or name has no descriptor, so that it is told beside them.
#[test]
fn objects_of_system_v_and_message_queues_are_told() {
    let Some(scene) = Scene::new(Who::Ordinary).or_else(|| Scene::new(Who::Myself)) else { return };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|path| path.join("ipcmk").exists()) {
        skip("ipcmk is not installed");
        return;
    }
    let program = "ipcmk -S 3 -p 0640 >&2 && ipcmk -Q >&2 && echo > ready
        while ! [ -e more ]; do sleep 0.02; done
        ipcrm --all=msg && ipcmk -M 8192 >&2 && echo > changed
        exec sleep 1000";
    scene.frost(&["run", "-d", "--name", "sharing", "--", "sh", "-c", program]).ok();
    for (file, next) in [("ready", "more"), ("changed", "end")] {
        scene.await_file(file);
        scene.frost(&["freeze", "sharing", "--leave-running"]).ok();
        fs::write(scene.stage(next), "").expect("our own directory");
    }
    let record = scene.frost(&["inspect", "sharing@1", "--json"]).ok().record();
    let [set, queue] = array(&record, "ipc") else { panic!("a set and a queue\n{record}") };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(text(&set["object"]).starts_with("System V semaphores "), "{record}");
    assert!(text(&set["state"]).ends_with("mode 640, values 0 0 0"), "{record}");
    assert!(text(&queue["state"]).ends_with("unread 0 bytes in 0 messages"), "{record}");
    let shown = scene.frost(&["inspect", "sharing@2"]).ok();
    assert!(shown.stdout.contains("System V segment ") && shown.stdout.contains("bytes 8192"), "{shown}");

    let outcome = scene.frost(&["diff", "sharing@1", "sharing@2", "--json"]).ok();
    let record = outcome.record();
    let [gone, come] = array(&record, "ipc") else { panic!("the queue went, a segment came\n{outcome}") };
    assert_eq!((&gone["what"], &gone["after"]), (&queue["object"], &Value::from("")), "{outcome}");
    assert!(text(&come["what"]).starts_with("System V segment "), "{outcome}");
    assert_eq!(come["before"], "", "{outcome}");
    let shown = scene.frost(&["diff", "sharing@1", "sharing@2"]).ok();
    let gone = format!("-  {}", text(&queue["object"]));
    assert!(shown.stdout.contains(&gone) && shown.stdout.contains("+  System V segment "), "{shown}");
    scene.frost(&["kill", "-s", "KILL", "sharing"]).ok();
    scene.is_empty_soon();
}
