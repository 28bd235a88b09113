//! Real programs, unprepared, frozen and thawed several times in a row, each with a check of its own.
//!
//! `FROST_ROUNDS` says how many times (3), `FROST_MEMORY_MIB` how large the large one is (512), `FROST_THREADS` how
//! many threads the threaded one has (2000).

use frost_tests::program::{amid_progress, has, place, rounds, serving, setting, start};
use frost_tests::{LIMIT, Scene, Started, Stdio, Who, skip, until};
use std::fs;
use std::net::TcpListener;
use std::process::Command;

frost_tests::programs! { pipeline matrix redis transaction node java threads memory }

fn pipeline(who: Who) {
    if !has("bash") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "pipeline.sh", include_str!("../programs/pipeline.sh"));
    let count = 400_000 + 50_000 * rounds() as u64;
    let expected: String = (1..=count).map(|n| format!("{}\n", n * 7)).collect();
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args(["bash", "pipeline.sh", &count.to_string()])) else {
        return;
    };
    amid_progress(&scene, &mut traveller, expected.len() as u64);
    assert_eq!(scene.await_file("done"), "0 0 0 0\n", "how the four processes ended");
    let found = fs::read_to_string(scene.stage("progress")).expect("the pipeline's output");
    assert!(found == expected, "the output differs: {} bytes, expected {}", found.len(), expected.len());
    traveller.ends();
    scene.is_empty_soon();
}

fn matrix(who: Who) {
    const PYTHON: &str = "/usr/bin/python3";
    if !has(PYTHON) {
        return;
    }
    if !frost_tests::succeeds(Command::new(PYTHON).args(["-c", "import numpy"])) {
        skip("numpy is not installed");
        return;
    }
    let steps = 200 + 100 * rounds();
    let run = |scene: &Scene| {
        place(scene, "matrix.py", include_str!("../programs/matrix.py"));
        let mut command = scene.command("setsid");
        command.args([PYTHON, "matrix.py", &steps.to_string()]);
        command
    };
    let Some(quiet) = Scene::new(who) else { return };
    let Some(scene) = Scene::new(who) else { return };
    let mut undisturbed = quiet.start(&mut run(&quiet), Stdio::Files);
    assert!(undisturbed.wait("the undisturbed run", LIMIT).success());
    let Some(mut traveller) = start(&scene, &mut run(&scene)) else { return };
    amid_progress(&scene, &mut traveller, 3 * steps as u64);
    assert_eq!(scene.await_file("done"), quiet.await_file("done"), "the digest of the results");
    traveller.ends();
    scene.is_empty_soon();
}

fn redis(who: Who) {
    if !has("redis-server") || !has("redis-cli") || !has("redis-benchmark") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    // The kernel finds the port; nobody else gets it in the moment until the server takes it, short of a wrap.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port()
        .to_string();
    let arguments = ["--bind", "127.0.0.1", "--port", &port, "--appendonly", "yes", "--save", ""];
    let mut command = scene.command("setsid");
    command.arg("redis-server").args(arguments).args([
        "--enable-debug-command",
        "yes",
        "--unixsocket",
        "socket",
    ]);
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    let client = |arguments: &[&str]| {
        let mut command = scene.command("redis-cli");
        scene.run(command.args(["-p", &port]).args(arguments), LIMIT)
    };
    until("redis answers", || client(&["PING"]).stdout == "PONG\n");
    let text: String = (0..200_000)
        .map(|n| format!("SET key:{n} value-{}\r\n", u64::from(n as u32).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    place(&scene, "keys", &text);
    let mut load = scene.command("sh");
    scene.run(load.args(["-c", &format!("redis-cli -p {port} --pipe < keys")]), LIMIT).ok();
    assert_eq!(client(&["DBSIZE"]).stdout, "200000\n");
    for round in 1..=rounds() {
        let digest = client(&["DEBUG", "DIGEST"]).ok().stdout;
        traveller.freeze();
        traveller.thaw(&[]);
        assert_eq!(client(&["DEBUG", "DIGEST"]).ok().stdout, digest, "the digest in round {round}");
        assert_eq!(client(&["SET", "round", &round.to_string()]).stdout, "OK\n");
        assert_eq!(client(&["-s", "socket", "GET", "round"]).stdout, format!("{round}\n"));
        let mut benchmark = scene.command("redis-benchmark");
        scene.run(benchmark.args(["-p", &port, "-q", "-n", "2000", "-t", "set,get,lpush"]), LIMIT).ok();
    }
    // What was appended after the thaws can be read back.
    let digest = client(&["DEBUG", "DIGEST"]).ok().stdout;
    client(&["DEBUG", "LOADAOF"]).ok();
    assert_eq!(
        client(&["DEBUG", "DIGEST"]).ok().stdout,
        digest,
        "the digest of what the append-only file holds"
    );
    client(&["SHUTDOWN", "NOSAVE"]);
    traveller.ends();
    scene.is_empty_soon();
}

fn transaction(who: Who) {
    if !has("sqlite3") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "transaction.sql", include_str!("../programs/transaction.sql"));
    let mut command = scene.command("setsid");
    let Some(mut traveller) =
        start(&scene, command.args(["sh", "-c", "exec sqlite3 database < transaction.sql"]))
    else {
        return;
    };
    scene.await_file("ready");
    for round in 1..=rounds() {
        traveller.freeze();
        traveller.thaw(&[]);
        // The lock of the transaction is held: nobody else can write.
        let mut other = scene.command("sqlite3");
        let outcome =
            scene.run(other.args(["database", "INSERT INTO numbers VALUES (0, 'from outside')"]), LIMIT);
        assert!(
            outcome.stderr.contains("locked"),
            "round {round}: the transaction's lock is lost\n{outcome}"
        );
    }
    fs::write(scene.stage("go"), "").expect("our own directory");
    assert_eq!(scene.await_file("done"), "ok\n80000|3200040000|948894\n70000\n");
    traveller.ends();
    scene.is_empty_soon();
}

fn node(who: Who) {
    serving(who, "server.js", include_str!("../programs/server.js"), &["node", "server.js"]);
}

fn java(who: Who) {
    serving(
        who,
        "Server.java",
        include_str!("../programs/Server.java"),
        &["java", "-Xmx256m", "Server.java"],
    );
}

/// Compiles a program of C and runs it; it says ready, waits for go, and tells what is wrong.
fn self_judging(who: Who, name: &str, text: &str, size: usize) {
    if !has("gcc") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let source = format!("{name}.c");
    place(&scene, &source, text);
    let mut compile = scene.command("gcc");
    scene.run(compile.args(["-O2", "-pthread", "-o", name, &source]), LIMIT).ok();
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.arg(scene.stage(name)).arg(size.to_string())) else {
        return;
    };
    scene.await_file("ready");
    for _ in 0..rounds() {
        traveller.freeze();
        traveller.thaw(&[]);
    }
    fs::write(scene.stage("go"), "").expect("our own directory");
    assert_eq!(scene.await_file("done"), "0 wrong\n");
    traveller.ends();
    scene.is_empty_soon();
}

fn threads(who: Who) {
    self_judging(who, "threads", include_str!("../programs/threads.c"), setting("FROST_THREADS", 2000));
}

fn memory(who: Who) {
    self_judging(who, "memory", include_str!("../programs/memory.c"), setting("FROST_MEMORY_MIB", 512));
}

#[test]
fn programs_run_unfrozen() {
    // The servers and the large ones prove themselves on the way; this one judges by a value worked out here.
    if !has("sqlite3") {
        return;
    }
    let Some(scene) = Scene::new(Who::Myself) else { return };
    place(&scene, "transaction.sql", include_str!("../programs/transaction.sql"));
    place(&scene, "go", "");
    let mut command = scene.command("sh");
    let mut started: Started =
        scene.start(command.args(["-c", "exec sqlite3 database < transaction.sql"]), Stdio::Files);
    assert_eq!(scene.await_file("done"), "ok\n80000|3200040000|948894\n70000\n");
    started.wait("sqlite3", LIMIT);
}
