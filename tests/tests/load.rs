//! Servers that are frozen and thawed while clients go on, against a port that stays.
//!
//! `FROST_ROUNDS` says how often (3).

use frost_tests::program::{has, place, rounds};
use frost_tests::{LIMIT, Scene, Started, Stdio, Who, is_root, skip, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

frost_tests::as_each_user! {
    a_web_server_is_called_without_pause
    a_database_acknowledges_no_write_that_is_lost
    a_writer_of_a_database_goes_on
}

fn scene(who: Who) -> Option<Scene> {
    Scene::with_namespaces(who)
}

/// A port that nobody had a moment ago.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    socket.expect("loopback has free ports").port()
}

/// Freezes and thaws a program once a round, always when something more was answered.
fn rounds_of(scene: &Scene, name: &str, mut answered: impl FnMut() -> u64) {
    let mut more = || {
        let now = answered();
        until("more is answered", || answered() > now);
    };
    for _ in 0..rounds() {
        more();
        let frozen = scene.frost(&["freeze", name]).ok();
        assert_eq!(frozen.stderr, "", "{frozen}");
        scene.frost(&["thaw", name]).ok();
    }
    more();
}

/// How much was answered, as the load writes it into a file.
fn noted(scene: &Scene) -> u64 {
    fs::read_to_string(scene.stage("answered")).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn interrupt(program: &Started) {
    let pid = Pid::from_raw(program.pid()).expect("a process has a number");
    kill_process(pid, Signal::INT).expect("it runs");
}

fn a_web_server_is_called_without_pause(scene: &Scene) {
    if !has("/usr/sbin/nginx") || !has("wrk") {
        return;
    }
    let stage = scene.path("stage").display().to_string();
    let port = free_port();
    place(scene, "page.txt", &"a page of nginx\n".repeat(500));
    place(scene, "wrk.lua", include_str!("../programs/wrk.lua"));
    place(
        scene,
        "nginx.conf",
        &format!(
            "daemon off; worker_processes 2; pid {stage}/pid; error_log {stage}/errors;\n\
             events {{ worker_connections 200; }}\n\
             http {{ access_log {stage}/access; client_body_temp_path {stage}/t1; proxy_temp_path {stage}/t2;\n\
             fastcgi_temp_path {stage}/t3; uwsgi_temp_path {stage}/t4; scgi_temp_path {stage}/t5;\n\
             server {{ listen 127.0.0.1:{port}; root {stage}; }} }}\n"
        ),
    );
    // Its workers are of the user that owns the page.
    let mut command =
        vec!["run", "-d", "--name", "nginx", "--", "/usr/sbin/nginx", "-p", &stage, "-c", "nginx.conf"];
    if scene.who() == Who::Myself && is_root() {
        command.extend(["-g", "user root;"]);
    }
    scene.frost(&command).ok();
    until("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let url = format!("http://127.0.0.1:{port}/page.txt");
    let mut load = scene.command("wrk");
    // It ends when it is interrupted, and tells what it saw.
    load.args(["-t", "1", "-c", "8", "-d", "1000", "--timeout", "100", "-s", "wrk.lua", &url]);
    let mut load = scene.start(&mut load, Stdio::Files);
    rounds_of(scene, "nginx", || fs::metadata(scene.stage("access")).map_or(0, |file| file.len()));
    interrupt(&load);
    assert!(load.wait("wrk", LIMIT).success());
    let told = scene.await_file("out");
    let number = |before: &str| -> Option<u64> {
        let text = &told[told.find(before)? + before.len()..];
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    assert!(!told.contains("wrong answer") && !told.contains("Non-2xx"), "{told}");
    // None was turned away; those that were under way at a freeze were cut, and no others.
    assert_eq!(number("Socket errors: connect ").unwrap_or(0), 0, "{told}");
    assert!(number(", read ").unwrap_or(0) <= 8 * rounds() as u64, "{told}");
    scene.frost(&["kill", "nginx"]).ok();
    scene.frost(&["wait", "nginx"]);
    scene.is_empty_soon();
}

/// Where the server's own programs lie, which Debian keeps out of the path.
fn postgresql() -> Option<String> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let directories = versions.flatten().map(|version| version.path().join("bin"));
    let found = directories.into_iter().find(|directory| directory.join("initdb").exists())?;
    Some(found.to_string_lossy().into_owned())
}

fn a_database_acknowledges_no_write_that_is_lost(scene: &Scene) {
    if !has("pgbench") || !has("psql") {
        return;
    }
    let Some(directory) = postgresql() else {
        skip("postgresql is not installed");
        return;
    };
    let tool = |name: &str| format!("{directory}/{name}");
    if scene.who() == Who::Myself && is_root() {
        skip("PostgreSQL does not run as root; the ordinary user's part is tested");
        return;
    }
    let stage = scene.path("stage").display().to_string();
    let port = free_port().to_string();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = scene.command(program);
        scene.run(command.args(arguments), LIMIT)
    };
    // It asks for the name of its user, who has none.
    let user = rustix::fs::stat(scene.stage("")).expect("our own directory").st_uid;
    place(scene, "passwd", &format!("u:x:{user}:{user}::/:/bin/sh\n"));
    place(scene, "group", &format!("u:x:{user}:\n"));
    let mut init = scene.command(tool("initdb"));
    init.args(["-D", "data", "-A", "trust", "-U", "frost", "--no-sync", "--no-locale"]);
    init.env("LD_PRELOAD", "libnss_wrapper.so");
    init.env("NSS_WRAPPER_PASSWD", scene.stage("passwd")).env("NSS_WRAPPER_GROUP", scene.stage("group"));
    scene.run(&mut init, LIMIT).ok();
    let postgres = tool("postgres");
    let server =
        ["run", "-d", "--name", "postgres", "--", &postgres, "-D", "data", "-k", &stage, "-p", &port];
    scene.frost(&server).ok();
    let connect = ["-h", stage.as_str(), "-p", &port, "-U", "frost"];
    let ask = |text: &str| run("psql", &[&connect[..], &["-d", "postgres", "-A", "-t", "-c", text]].concat());
    until("postgres answers", || ask("select 1").status == Some(0));
    run("pgbench", &[&connect[..], &["-i", "-q", "-n", "postgres"]].concat()).ok();
    place(scene, "load.py", include_str!("../programs/load_postgres.py"));
    let mut load = scene.command("/usr/bin/python3");
    load.args(["load.py", &stage, &port]);
    let mut load = scene.start(&mut load, Stdio::Files);
    rounds_of(scene, "postgres", || noted(scene));
    place(scene, "stop", "");
    assert!(load.wait("the load", LIMIT).success(), "{}", scene.await_file("err"));
    let acknowledged: u64 = scene.await_file("sums").parse().expect("a number");
    let sums = ask("select count(*), sum(delta), (select sum(abalance) from pgbench_accounts), \
         (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers) from pgbench_history");
    let sums = sums.ok().stdout;
    let sums: Vec<i64> = sums.trim().split('|').map(|word| word.parse().expect("a number")).collect();
    assert!(sums[0] as u64 >= acknowledged, "{acknowledged} acknowledged, and there are {sums:?}");
    assert!(sums[2..].iter().all(|sum| *sum == sums[1]), "half a transaction: {sums:?}");
    scene.frost(&["kill", "-s", "INT", "postgres"]).ok();
    scene.frost(&["wait", "postgres"]);
    scene.is_empty_soon();
}

fn a_writer_of_a_database_goes_on(scene: &Scene) {
    if !has("sqlite3") {
        return;
    }
    place(scene, "write.py", include_str!("../programs/write_sqlite.py"));
    for journal in ["delete", "wal"] {
        let writer = ["run", "-d", "--name", journal, "--", "/usr/bin/python3", "write.py", journal];
        scene.frost(&writer).ok();
        rounds_of(scene, journal, || noted(scene));
        place(scene, "stop", "");
        assert_eq!(scene.frost(&["wait", journal]).status, Some(0));
        let mut command = scene.command("sqlite3");
        let ask = "pragma integrity_check; select count(*), max(number) from rows; \
                   select count(*) from rows where substr(text, 1, length(number)) != number";
        let told = scene.run(command.args(["rows.db", ask]), LIMIT).ok().stdout;
        let lines: Vec<&str> = told.lines().collect();
        let written = noted(scene);
        assert_eq!(lines[0], "ok");
        assert!(lines[1].starts_with(&format!("{written}|{written}")), "{written} acknowledged: {told}");
        assert_eq!(lines[2], "0");
        for name in ["stop", "answered", "rows.db"] {
            fs::remove_file(scene.stage(name)).expect("our own directory");
        }
    }
    scene.is_empty_soon();
}
