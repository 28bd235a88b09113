//! Components that are killed again and again under a stream of updates, beside the same ones that are left alone.

use crate::stage::{Stage, View, as_each_user, kill, random};
use std::time::{Duration, Instant};

as_each_user! {
    components_that_are_killed_in_a_stream_end_where_those_do_that_are_left_alone
    no_version_that_was_acknowledged_is_lost_when_all_is_killed
}

const STREAM: &str = r#"
[component.a]
RELAY
arguments = ["relay", "a"]
backoff = "1ms"
[component.b]
RELAY
arguments = ["relay", "b"]
backoff = "1ms"
[component.c]
RELAY
arguments = ["relay", "c"]
backoff = "1ms"
[component.d]
RELAY
arguments = ["relay", "d"]
backoff = "1ms"
[component.ledger]
RELAY
arguments = ["ledger"]
backoff = "1ms"
[document.text]
file = "text"
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
match = { component = "d", rom = "in" }
from = "c/out"
[[route]]
match = { component = "ledger", rom = "in" }
from = "d/out"
[[route]]
match = { component = "ledger", rom = "known" }
from = "ledger/known"
sticky = true
"#;

const ALL: [(&str, &str); 5] =
    [("a", "a/out"), ("b", "b/out"), ("c", "c/out"), ("d", "d/out"), ("ledger", "ledger/known")];

fn update(stage: &Stage, text: &str) {
    let place = stage.place.path();
    std::fs::write(place.join("text~"), text).unwrap();
    std::fs::rename(place.join("text~"), place.join("text")).unwrap();
}

/// Sends so many rounds of updates through the five, kills some of them if it is to, and returns what all say at the end,
/// with how often something was killed, and how long it took from there to the first report.
fn stream(rounds: u64, seed: Option<u64>) -> (Vec<String>, u64, Vec<Duration>) {
    let mut stage = Stage::new(STREAM);
    update(&stage, "0!");
    stage.start();
    let mut view = View::of(&stage);
    for (_, report) in ALL {
        view.open(report);
    }
    view.until("ledger/known", |_, text| text.starts_with("0 "));
    let (mut kills, mut spans) = (0, Vec::new());
    let mut seed_now = seed.unwrap_or(1);
    for round in 1..=rounds {
        if seed.is_some() {
            // One that stands still is killed: what it reports next is its first report.
            let (name, report) = ALL[random(&mut seed_now) as usize % ALL.len()];
            let mut before = view.component(name);
            let start = Instant::now();
            while before["has_reported"] != true {
                assert!(start.elapsed() < crate::stage::LIMIT, "{before}");
                std::thread::sleep(Duration::from_millis(1));
                before = view.component(name);
            }
            let (version, _) = view.read(report);
            let start = Instant::now();
            kill(before["pid"].as_i64().unwrap() as i32);
            view.until(report, |number, _| number > version);
            spans.push(start.elapsed());
            kills += 1;
        }
        // Updates that may be skipped, and one that each has to see; while they run, others are killed at any moment.
        for step in 0..random(&mut seed_now) % 4 {
            update(&stage, &format!("{round}.{step}"));
            if seed.is_some() && random(&mut seed_now).is_multiple_of(4) {
                std::thread::sleep(Duration::from_micros(random(&mut seed_now) % 2000));
                let (name, _) = ALL[random(&mut seed_now) as usize % ALL.len()];
                if let Some(pid) = view.component(name)["pid"].as_i64() {
                    kill(pid as i32);
                    kills += 1;
                }
            }
        }
        update(&stage, &format!("{round}!"));
        view.until("ledger/known", |_, text| text.starts_with(&format!("{round} ")));
    }
    // Who was killed last may not have reported again.
    let expected = |prefix: &str| format!("{prefix}{rounds}!");
    for (report, prefix) in [("a/out", "a"), ("b/out", "ba"), ("c/out", "cba"), ("d/out", "dcba")] {
        view.until(report, |_, text| text == expected(prefix));
    }
    (ALL.map(|(_, report)| view.read(report).1).to_vec(), kills, spans)
}

fn components_that_are_killed_in_a_stream_end_where_those_do_that_are_left_alone() {
    let rounds: u64 = std::env::var("FROST_RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let seed = u64::from(std::process::id()) | 1 << 40;
    eprintln!("seed {seed}");
    let (left_alone, none, _) = stream(rounds, None);
    let (killed, kills, mut spans) = stream(rounds, Some(seed));
    assert_eq!(none, 0);
    assert!(kills >= rounds);
    // The ledger tells every round once, in its order, or that there was a gap.
    assert!(left_alone[4].starts_with(&format!("{rounds} {rounds} ")), "{left_alone:?}");
    assert_eq!(killed, left_alone);
    spans.sort_unstable();
    let at = |share: usize| spans[(spans.len() - 1) * share / 100].as_micros();
    eprintln!(
        "record: {}",
        serde_json::json!({
            "rounds": rounds,
            "kills": kills,
            "seed": seed,
            "restart_us": { "least": at(0), "median": at(50), "p99": at(99), "greatest": at(100) },
        })
    );
}

fn no_version_that_was_acknowledged_is_lost_when_all_is_killed() {
    let mut stage = Stage::new("");
    let acknowledged = stage.place.path().join("acknowledged");
    let text = format!(
        r#"
[component.counter]
RELAY
arguments = ["acked", {acknowledged:?}]
isolated = false
[component.reader]
RELAY
arguments = ["relay", "r"]
[[route]]
match = {{ component = "reader", rom = "in" }}
from = "counter/out"
persist = true
"#
    );
    stage.write(&text);
    let mut seed = u64::from(std::process::id()) | 1 << 41;
    eprintln!("seed {seed}");
    let told = || -> u64 { std::fs::read_to_string(&acknowledged).unwrap_or_default().parse().unwrap_or(0) };
    for _ in 0..8 {
        let before = told();
        stage.start();
        stage.until("it counts", |_| told() > before);
        std::thread::sleep(Duration::from_micros(random(&mut seed) % 40_000));
        // Its components end with it.
        let mut supervisor = stage.supervisor.take().unwrap();
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        // Whatever the counter still writes down it was told before.
        let acknowledged = told();
        let bytes = std::fs::read(stage.place.path().join("scenarios/s/documents/counter/out")).unwrap();
        let content = &bytes[bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1..];
        let kept: u64 = std::str::from_utf8(content).unwrap().parse().unwrap();
        assert!(kept >= acknowledged, "{kept} is kept, and {acknowledged} was acknowledged");
    }
}
