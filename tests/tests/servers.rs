//! Servers and browsers of every day, unprepared, frozen and thawed several times in a row, each asked what it knows.
//!
//! `FROST_ROUNDS` says how many times (3).

use frost_tests::journey::Traveller;
use frost_tests::program::{free_port, has, place, request, rounds, start};
use frost_tests::{LIMIT, Scene, Who, skip, until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

frost_tests::programs! { chromium cluster gunicorn uvicorn haproxy lighttpd notebook emacs }

fn listens(port: u16) {
    until("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// Freezes and thaws a program once for each round, and lets it be asked after each.
fn rounds_of(traveller: &mut Traveller<'_>, mut ask: impl FnMut()) {
    ask();
    for _ in 0..rounds() {
        traveller.freeze();
        traveller.thaw(&[]);
        ask();
    }
}

/// Asks a server that keeps its connections open, up to the length that it tells.
fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").expect("it reads");
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let got = stream.read(&mut part).expect("the server answers");
        answer.extend_from_slice(&part[..got]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert!(got > 0, "an answer without an end: {text}");
            continue;
        };
        let len = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if got == 0 || len.is_some_and(|len| body.len() >= len) {
            return body.to_owned();
        }
    }
}

/// A browser with processes for network, graphics and the page, whose script and worker count.
fn chromium(who: Who) {
    if !has("chromium") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "count.html", include_str!("../programs/count.html"));
    let page = format!("file://{}", scene.stage("count.html").display());
    let profile = format!("--user-data-dir={}", scene.stage("profile").display());
    let mut command = scene.command("setsid");
    // Its sandbox is made of namespaces and filters, which are refused with this remedy.
    command.args(["chromium", "--headless", "--no-sandbox", "--remote-debugging-port=0", &profile, &page]);
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    let told = scene.stage("profile").join("DevToolsActivePort");
    until("the browser tells its port", || fs::read_to_string(&told).is_ok_and(|text| text.contains('\n')));
    let text = fs::read_to_string(&told).expect("it was told");
    let port: u16 = text.lines().next().and_then(|line| line.parse().ok()).expect("a port");
    let counts = || {
        let pages = get(port, "/json");
        let pages: serde_json::Value = serde_json::from_str(&pages).expect("JSON");
        let all = pages.as_array().expect("pages");
        let page = all.iter().find(|one| one["type"] == "page").expect("the page is open");
        let title = page["title"].as_str().unwrap_or_default();
        let (page, worker) = title.split_once(' ').unwrap_or_default();
        (page.parse::<u64>().unwrap_or(0), worker.parse::<u64>().unwrap_or(0))
    };
    until("the page counts", || counts().1 > 3);
    rounds_of(&mut traveller, || {
        let before = counts();
        until("both count on", || {
            let now = counts();
            assert!(now.0 >= before.0 && now.1 >= before.1, "{now:?} after {before:?}");
            now.0 > before.0 + 5 && now.1 > before.1 + 5
        });
    });
}

/// Node's workers: processes that share a listening socket and speak with the main one, and threads in each.
fn cluster(who: Who) {
    if !has("node") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "cluster.js", include_str!("../programs/cluster.js"));
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args(["node", "cluster.js"])) else { return };
    let port: u16 = scene.await_file("port").parse().expect("a port");
    let mut count = 0;
    let mut workers = std::collections::BTreeSet::new();
    rounds_of(&mut traveller, || {
        for _ in 0..6 {
            let answer = request(port);
            let words: Vec<u64> = answer.split(' ').map(|word| word.parse().expect("a number")).collect();
            count += 1;
            assert_eq!(words[0], count, "{answer}");
            workers.insert(words[1]);
        }
        assert!(workers.len() <= 3, "workers were replaced: {workers:?}");
    });
}

fn counted_by(who: Who, program: &str, arguments: &dyn Fn(&str) -> Vec<String>) {
    if !has(program) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "app.py", include_str!("../programs/app.py"));
    let port = free_port();
    let mut command = scene.command("setsid");
    command.arg(program).args(arguments(&port.to_string()));
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    listens(port);
    let mut count = 0u64;
    rounds_of(&mut traveller, || {
        for _ in 0..5 {
            count += 1;
            assert_eq!(get(port, "/"), format!("{count} word {}", count * 7919 % 50_000));
        }
    });
}

/// A master that watches a worker by its heart beat, a file without a name.
fn gunicorn(who: Who) {
    counted_by(who, "gunicorn", &|port| {
        let bind = format!("127.0.0.1:{port}");
        ["--workers", "1", "--bind", &bind, "app:wsgi"].map(str::to_owned).to_vec()
    });
}

fn uvicorn(who: Who) {
    counted_by(who, "uvicorn", &|port| ["--port", port, "app:asgi"].map(str::to_owned).to_vec());
}

/// A master and a worker with a thread for each CPU, in front of a server.
fn haproxy(who: Who) {
    if !has("/usr/sbin/haproxy") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port();
    place(
        &scene,
        "haproxy.cfg",
        &format!(
            "global\n maxconn 100\n stats socket {}/admin mode 600\n\
             defaults\n mode http\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n\
             frontend f\n bind 127.0.0.1:{port}\n stick-table type ip size 100 expire 1h store http_req_cnt\n \
             http-request track-sc0 src\n \
             http-request return status 200 content-type text/plain lf-string \"%[sc0_http_req_cnt]\"\n",
            scene.path("stage").display()
        ),
    );
    let mut command = scene.command("setsid");
    let Some(mut traveller) =
        start(&scene, command.args(["/usr/sbin/haproxy", "-W", "-db", "-f", "haproxy.cfg"]))
    else {
        return;
    };
    listens(port);
    let mut count: u64 = get(port, "/").parse().expect("a count");
    rounds_of(&mut traveller, || {
        for _ in 0..5 {
            count += 1;
            assert_eq!(get(port, "/"), count.to_string());
        }
    });
}

fn lighttpd(who: Who) {
    if !has("/usr/sbin/lighttpd") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port();
    let directory = scene.path("stage").display().to_string();
    let text = "a page of lighttpd\n".repeat(5000);
    place(&scene, "page.txt", &text);
    place(
        &scene,
        "lighttpd.conf",
        &format!(
            "server.document-root = \"{directory}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
             server.errorlog = \"{directory}/errors\"\n"
        ),
    );
    let mut command = scene.command("setsid");
    let Some(mut traveller) =
        start(&scene, command.args(["/usr/sbin/lighttpd", "-D", "-f", "lighttpd.conf"]))
    else {
        return;
    };
    listens(port);
    rounds_of(&mut traveller, || assert!(get(port, "/page.txt") == text));
}

/// A client of Jupyter's and its kernel, which speak by ZeroMQ over loopback.
fn notebook(who: Who) {
    const PYTHON: &str = "/usr/bin/python3";
    if !has(PYTHON) {
        return;
    }
    let import = ["-c", "import jupyter_client, ipykernel"];
    if !frost_tests::succeeds(Command::new(PYTHON).args(import)) {
        skip("jupyter_client or ipykernel is not installed");
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "notebook.py", include_str!("../programs/notebook.py"));
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args([PYTHON, "notebook.py"])) else { return };
    let count = || scene.await_file("count").trim().parse::<u64>().expect("a number");
    rounds_of(&mut traveller, || {
        let before = count();
        until("the kernel counts on", || count() > before + 5);
    });
    assert!(frost_tests::is_alive(traveller.pid));
}

/// An editor as a server, with a subprocess at a terminal.
fn emacs(who: Who) {
    if !has("emacs") || !has("emacsclient") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let socket = scene.stage("socket").display().to_string();
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args(["emacs", &format!("--fg-daemon={socket}"), "-Q"]))
    else {
        return;
    };
    until("emacs listens", || frost_tests::listens(&scene.stage("socket")));
    let tell = |text: &str| {
        let mut client = scene.command("emacsclient");
        scene.run(client.args(["--socket-name", &socket, "--eval", text]), LIMIT).ok().stdout
    };
    tell("(progn (setq count 0) (setq cat (start-process \"cat\" \"out\" \"cat\")))");
    let mut count = 0;
    rounds_of(&mut traveller, || {
        count += 1;
        assert_eq!(tell("(setq count (1+ count))"), format!("{count}\n"));
        tell(&format!("(process-send-string cat \"line {count}\\n\")"));
        until("the subprocess answers", || {
            tell("(with-current-buffer \"out\" (buffer-string))").contains(&format!("line {count}"))
        });
    });
}
