//! Tables of routes: how a thawed program gets what it had open.

use frost_tests::journey::Traveller;
use frost_tests::{Scene, Stdio, Who, until};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

frost_tests::as_each_user! {
    a_log_that_has_grown_is_taken_if_the_route_says_so
    what_came_behind_is_cut_off_if_the_rest_is_there
    another_file_is_taken_if_the_route_says_so
    what_is_closed_gives_errors_under_its_number
    a_connection_is_made_anew
    output_goes_where_the_route_leads
    what_a_route_refuses_is_not_frozen
    a_copy_shares_a_file_if_the_route_says_so
    wrong_tables_are_refused_at_their_place
}

fn scene(who: Who) -> Option<Scene> {
    let scene = Scene::with_namespaces(who)?;
    for (name, text) in [("log", "first\n"), ("book", "abcdefghijklmnopqrstuvwxyz")] {
        write(&scene, name, text);
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/routed.py");
    fs::copy(program, scene.stage("routed.py")).expect("our own directory");
    Some(scene)
}

fn write(scene: &Scene, name: &str, text: &str) {
    fs::write(scene.stage(name), text).expect("our own directory");
    scene.give(&scene.stage(name));
}

fn read(scene: &Scene, name: &str) -> String {
    fs::read_to_string(scene.stage(name)).unwrap_or_default()
}

/// Writes a table, and returns its path.
fn table(scene: &Scene, text: &str) -> String {
    write(scene, "routes.toml", text);
    scene.stage("routes.toml").to_str().expect("a temporary directory has a name").to_owned()
}

/// Starts the program under the runtime, with more options of `frost run` and arguments of its own.
fn start(scene: &Scene, options: &[&str], arguments: &[&str]) {
    let command = ["--name", "routed", "--", "/usr/bin/python3", "routed.py"];
    scene.frost(&[&["run", "-d"], options, &command, arguments].concat()).ok();
    until("it is ready", || read(scene, "answer") == "ready");
}

/// Has the program do something, and returns what came of it.
fn ask(scene: &Scene, what: &str, word: &str) -> String {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let number = ASKED.fetch_add(1, Ordering::Relaxed).to_string();
    write(scene, "ask.new", &format!("{number} {what} {word}"));
    fs::rename(scene.stage("ask.new"), scene.stage("ask")).expect("our own directory");
    let answer = || read(scene, "answer").strip_prefix(&format!("{number} ")).map(str::to_owned);
    until("it answers", || answer().is_some());
    answer().expect("it answered")
}

fn freeze(scene: &Scene) {
    scene.frost(&["freeze", "routed", "--cold"]).ok();
}

fn end(scene: &Scene) {
    scene.frost(&["kill", "-s", "KILL", "routed"]).ok();
    scene.is_empty_soon();
}

fn append(scene: &Scene, name: &str, text: &str) {
    let file = fs::OpenOptions::new().append(true).open(scene.stage(name));
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("our own directory");
}

fn a_log_that_has_grown_is_taken_if_the_route_says_so(scene: &Scene) {
    start(scene, &[], &[]);
    assert_eq!(ask(scene, "log", "second"), "7");
    freeze(scene);
    append(scene, "log", "meanwhile\n");
    scene.frost(&["thaw", "routed"]).refused(3, "its size changed");
    let grown = "[[route]]\nmatch = { path = \"/**/log\" }\ndo = \"reopen\"\nif_changed = \"grown\"\n";
    let grown = table(scene, grown);
    let plan = scene.frost(&["thaw", "routed", "--plan", "--route", &grown]).ok();
    assert!(plan.stdout.contains("reopen"), "{plan}");
    scene.frost(&["thaw", "routed", "--route", &grown]).ok();
    assert_eq!(ask(scene, "log", "third"), "6");
    assert_eq!(read(scene, "log"), "first\nsecond\nmeanwhile\nthird\n");
    // The table belongs to the instance from then on.
    freeze(scene);
    append(scene, "log", "again\n");
    scene.frost(&["thaw", "routed"]).ok();
    freeze(scene);
    write(scene, "log", "short");
    scene.frost(&["thaw", "routed"]).refused(3, "it was cut");
    let usual =
        table(scene, "[[route]]\nmatch = { kind = \"file\" }\ndo = \"reopen\"\nif_changed = \"same\"\n");
    scene.frost(&["thaw", "routed", "--route", &usual]).refused(3, "its size changed");
}

fn what_came_behind_is_cut_off_if_the_rest_is_there(scene: &Scene) {
    let text = "[[route]]\nmatch = { path = \"/**/log\" }\ndo = \"reopen\"\nif_changed = \"truncate\"\n";
    let path = table(scene, text);
    start(scene, &["--route", &path], &[]);
    assert_eq!(ask(scene, "log", "second"), "7");
    freeze(scene);
    append(scene, "log", "meanwhile\n");
    scene.frost(&["thaw", "routed", "--plan"]).ok();
    assert_eq!(read(scene, "log"), "first\nsecond\nmeanwhile\n");
    scene.frost(&["thaw", "routed"]).ok();
    assert_eq!(read(scene, "log"), "first\nsecond\n");
    assert_eq!(ask(scene, "log", "third"), "6");
    freeze(scene);
    let changed = read(scene, "log").replace("second", "SECOND") + "more\n";
    write(scene, "log", &changed);
    scene.frost(&["thaw", "routed"]).refused(3, "are not what they were");
    assert_eq!(read(scene, "log"), changed);
}

fn another_file_is_taken_if_the_route_says_so(scene: &Scene) {
    start(scene, &[], &[]);
    assert_eq!(ask(scene, "book", "3"), "abc");
    freeze(scene);
    // Made beside the old one, whose inode it would get otherwise.
    write(scene, "book.new", "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    fs::rename(scene.stage("book.new"), scene.stage("book")).expect("our own directory");
    scene.frost(&["thaw", "routed"]).refused(3, "replaced by another file");
    let ignore = table(
        scene,
        "[[route]]\nmatch = { path = \"/**/book\" }\ndo = \"reopen\"\nif_changed = \"ignore\"\n",
    );
    scene.frost(&["thaw", "routed", "--route", &ignore]).ok();
    assert_eq!(ask(scene, "book", "3"), "DEF");
    freeze(scene);
    write(scene, "other", "0123456789");
    let other = scene.stage("other");
    let other = format!(
        "[[route]]\nmatch = {{ path = \"/**/book\" }}\ndo = \"reopen\"\nto = {:?}\nif_changed = \"ignore\"\n",
        other.to_str().expect("a temporary directory has a name")
    );
    scene.frost(&["thaw", "routed", "--route", &table(scene, &other)]).ok();
    assert_eq!(ask(scene, "book", "3"), "678");
    end(scene);
}

fn what_is_closed_gives_errors_under_its_number(scene: &Scene) {
    start(scene, &[], &[]);
    freeze(scene);
    fs::remove_file(scene.stage("book")).expect("it is there");
    scene.frost(&["thaw", "routed"]).refused(3, "does not exist any more");
    let close = table(scene, "[[route]]\nmatch = { path = \"/**/book\" }\ndo = \"close\"\n");
    let thawed = scene.frost(&["thaw", "routed", "--route", &close]).ok();
    assert!(thawed.stderr.contains("EBADF"), "{thawed}");
    assert_eq!(ask(scene, "book", "3"), format!("error {}", bad_descriptor()));
    assert_eq!(ask(scene, "log", "on"), "3");
    // And once more, with what took its place.
    freeze(scene);
    scene.frost(&["thaw", "routed"]).ok();
    assert_eq!(ask(scene, "book", "3"), format!("error {}", bad_descriptor()));
    end(scene);
}

fn bad_descriptor() -> i32 {
    rustix::io::Errno::BADF.raw_os_error()
}

fn a_connection_is_made_anew(scene: &Scene) {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
    let line = |listener: &TcpListener| {
        let (connection, _) = listener.accept().expect("somebody connects");
        BufReader::new(connection)
    };
    let next = |connection: &mut BufReader<std::net::TcpStream>| {
        let mut text = String::new();
        connection.read_line(&mut text).expect("it is open");
        text
    };
    let listener = listen();
    let port = listener.local_addr().expect("it is bound").port();
    let anew =
        format!("[[route]]\nmatch = {{ kind = \"tcp\", peer = \"127.0.0.1:{port}\" }}\ndo = \"reconnect\"\n");
    let path = table(scene, &anew);
    start(scene, &["--route", &path], &["127.0.0.1", &port.to_string()]);
    let mut first = line(&listener);
    assert_eq!(ask(scene, "send", "one"), "4");
    assert_eq!(next(&mut first), "one\n");
    freeze(scene);
    assert_eq!(next(&mut first), "");
    scene.frost(&["thaw", "routed"]).ok();
    let mut second = line(&listener);
    assert_eq!(ask(scene, "send", "two"), "4");
    assert_eq!(next(&mut second), "two\n");
    freeze(scene);
    // Another server takes its place, and then there is none.
    let other = listen();
    let there = other.local_addr().expect("it is bound");
    let elsewhere =
        format!("[[route]]\nmatch = {{ kind = \"tcp\" }}\ndo = \"reconnect\"\nto = \"{there}\"\n");
    let elsewhere = table(scene, &elsewhere);
    scene.frost(&["thaw", "routed", "--route", &elsewhere]).ok();
    let mut third = line(&other);
    assert_eq!(ask(scene, "send", "three"), "6");
    assert_eq!(next(&mut third), "three\n");
    freeze(scene);
    drop((other, third));
    let refused = scene.frost(&["thaw", "routed"]);
    assert!(refused.status != Some(0) && refused.stderr.contains("Connection refused"), "{refused}");
    let closed = table(scene, "[[route]]\nmatch = { kind = \"tcp\" }\ndo = \"close\"\n");
    scene.frost(&["thaw", "routed", "--route", &closed]).ok();
    assert!(ask(scene, "send", "four").starts_with("error"));
    end(scene);
}

fn output_goes_where_the_route_leads(scene: &Scene) {
    let mut command = scene.command("/usr/bin/python3");
    let started = scene.start(command.arg("routed.py"), Stdio::Pipes);
    let mut traveller = Traveller::join(scene, started, "the program");
    until("it is ready", || read(scene, "answer") == "ready");
    assert_eq!(ask(scene, "out", "one"), "4");
    let there = scene.stage("there");
    let there = there.to_str().expect("a temporary directory has a name");
    let rule = format!("[[route]]\nmatch = {{ fd = 1 }}\ndo = \"reopen\"\nto = {there:?}\n");
    traveller.freeze();
    traveller.thaw(&["--route", &table(scene, &rule)]);
    assert_eq!(ask(scene, "out", "two"), "4");
    assert_eq!(read(scene, "there"), "two\n");
    traveller.freeze();
    let other = table(scene, "[[route]]\nmatch = { fd = 1 }\ndo = \"recreate\"\n");
    scene.frost(&["thaw", "victim", "--route", &other]).refused(3, "which it cannot be");
    // A fifo that nobody reads must not make a thaw wait.
    let fifo = scene.stage("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o622))
        .expect("our own directory");
    scene.give(&fifo);
    let fifo = fifo.to_str().expect("a temporary directory has a name");
    let into_fifo = format!("[[route]]\nmatch = {{ fd = 1 }}\ndo = \"reopen\"\nto = {fifo:?}\n");
    let into_fifo = table(scene, &into_fifo);
    scene.frost(&["thaw", "victim", "--route", &into_fifo]).refused(3, "cannot be opened");
    traveller.thaw(&[]);
    assert_eq!(ask(scene, "out", "three"), "6");
    assert_eq!(read(scene, "there"), "two\nthree\n");
}

fn what_a_route_refuses_is_not_frozen(scene: &Scene) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback interface");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let path = table(scene, "[[route]]\nmatch = { kind = \"tcp\" }\ndo = \"refuse\"\n");
    start(scene, &["--route", &path], &["127.0.0.1", &port]);
    scene.frost(&["freeze", "routed"]).refused(3, "says that it is refused");
    assert_eq!(ask(scene, "book", "2"), "ab");
    end(scene);
}

fn a_copy_shares_a_file_if_the_route_says_so(scene: &Scene) {
    start(scene, &[], &[]);
    scene.frost(&["freeze", "routed", "--leave-running"]).ok();
    scene.frost(&["thaw", "routed", "--clone"]).refused(3, "it is open for writing");
    let share = table(scene, "[[route]]\nmatch = { path = \"/**/log\" }\nshare = true\n");
    scene.frost(&["thaw", "routed", "--clone", "--plan", "--route", &share]).ok();
    end(scene);
}

fn wrong_tables_are_refused_at_their_place(scene: &Scene) {
    let path = table(scene, "[[route]]\nmatch = { kind = \"tcp\" }\ndo = \"conect\"\n");
    let outcome = scene.frost(&["run", "--route", &path, "--", "true"]);
    assert_eq!(outcome.status, Some(125), "{outcome}");
    for part in ["routes.toml, line 3, column 6", "conect", "reconnect", "nothing was started"] {
        assert!(outcome.stderr.contains(part), "{outcome}");
    }
    start(scene, &[], &[]);
    freeze(scene);
    scene.frost(&["thaw", "routed", "--route", &path]).refused(2, "line 3, column 6");
    scene.frost(&["thaw", "routed", "--route", "/nonexistent/routes"]).refused(6, "No such file");
    scene.frost(&["thaw", "routed"]).ok();
    end(scene);
}
