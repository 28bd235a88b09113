//! Programs that people use every day, unprepared, frozen and thawed several times in a row, each asked what it knows.
//!
//! `FROST_ROUNDS` says how many times (3).

use frost_tests::journey::Traveller;
use frost_tests::program::{free_port, has, place, rounds, rounds_of, serving, start};
use frost_tests::{LIMIT, Scene, Who, listens, until};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

frost_tests::programs! { nginx memcached erlang ruby perl go mptcp make mariadb ffmpeg emulator multiprocessing subshell }

fn nginx(who: Who) {
    if !has("/usr/sbin/nginx") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port();
    let directory = scene.path("stage").display().to_string();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {directory}/{name}; "))
        .collect();
    let user = if who == Who::Myself && frost_tests::is_root() { "user root;" } else { "" };
    place(
        &scene,
        "nginx.conf",
        &format!(
            "daemon off; {user} worker_processes 2; pid {directory}/pid; error_log {directory}/errors;\n\
             events {{}}\n\
             http {{ access_log {directory}/accesses; {paths}\n\
             server {{ listen 127.0.0.1:{port} reuseport; root {directory}/site;\n\
             location /redirect {{ return 302 /elsewhere; }} }} }}\n"
        ),
    );
    let site = scene.stage("site");
    fs::create_dir(&site).expect("our own directory");
    let page: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    fs::write(site.join("page"), &page).expect("our own directory");
    let mut command = scene.command("setsid");
    let arguments = ["/usr/sbin/nginx", "-p", &directory, "-c", "nginx.conf"];
    let Some(mut traveller) = start(&scene, command.args(arguments)) else { return };
    until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let get = |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("nginx listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("nginx reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("nginx answers");
        answer
    };
    rounds_of(&mut traveller, |round| {
        // Both workers get some of these.
        for _ in 0..20 {
            assert!(get("/page").ends_with(&page), "the page in round {round}");
            assert!(get("/redirect").contains("/elsewhere"), "the redirection in round {round}");
        }
    });
    // The master still rules its workers: it replaces them, and ends them all.
    let signal = |name: &str| {
        // Not by `nginx -s`, which reads the number of the master in its namespace from a file.
        scene.run(scene.command("kill").args([name, &traveller.pid.to_string()]), LIMIT).ok();
    };
    let workers = frost_tests::tree_of(traveller.pid);
    signal("-HUP");
    until("the workers are replaced", || {
        let now = frost_tests::tree_of(traveller.pid);
        now.len() == 3 && !now.iter().any(|pid| workers[1..].contains(pid))
    });
    assert!(get("/page").ends_with(&page));
    signal("-QUIT");
    traveller.ends();
    scene.is_empty_soon();
}

/// A shell, a copy of it, and a program that the copy runs: the last has nothing of the memory that the two share.
fn subshell(who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let script = "(sleep 1000; echo $? > status); true";
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args(["/bin/sh", "-c", script])) else { return };
    let tree = || frost_tests::tree_of(traveller.pid);
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    until("the subshell runs its program", || tree().last().is_some_and(|pid| name(*pid) == "sleep\n"));
    rounds_of(&mut traveller, |_| ());
    let tree = frost_tests::tree_of(traveller.pid);
    assert_eq!(tree.len(), 3);
    scene.run(scene.command("kill").arg(tree[2].to_string()), LIMIT).ok();
    traveller.ends();
    assert_eq!(fs::read_to_string(scene.stage("status")).expect("it was told"), "143\n");
    scene.is_empty_soon();
}

fn memcached(who: Who) {
    const KEYS: u32 = 20_000;
    if !has("memcached") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port();
    let mut command = scene.command("setsid");
    command.args(["memcached", "-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-m", "64"]);
    if frost_tests::is_root() && who == Who::Myself {
        command.args(["-u", "root"]);
    }
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    until("memcached listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let talk = |text: &str, last: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("memcached listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time");
        stream.write_all(text.as_bytes()).expect("memcached reads");
        let mut lines = Vec::new();
        for line in BufReader::new(stream).lines() {
            let line = line.expect("memcached answers");
            let ends = line == last;
            lines.push(line);
            if ends {
                break;
            }
        }
        lines
    };
    let value = |n: u32| format!("{:08x}", n.wrapping_mul(0x9e37_79b9));
    let mut load: String =
        (0..KEYS).map(|n| format!("set key{n} 0 0 8 noreply\r\n{}\r\n", value(n))).collect();
    load.push_str("version\r\nget key0\r\n");
    talk(&load, "END");
    rounds_of(&mut traveller, |round| {
        let keys: Vec<u32> = (0..KEYS).step_by(97).collect();
        let names: Vec<String> = keys.iter().map(|n| format!("key{n}")).collect();
        let lines = talk(&format!("get {}\r\n", names.join(" ")), "END");
        let found: Vec<&String> = lines.iter().skip(1).step_by(2).collect();
        assert_eq!(found, keys.iter().map(|n| value(*n)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        let answer = talk(&format!("set round 0 0 1\r\n{}\r\nget round\r\n", round % 10), "END");
        assert_eq!(answer[0], "STORED", "{answer:?}");
        assert_eq!(answer[2], (round % 10).to_string());
    });
}

fn erlang(who: Who) {
    serving(who, "server.erl", include_str!("../programs/server.erl"), &["escript", "server.erl"]);
}

fn ruby(who: Who) {
    serving(who, "server.rb", include_str!("../programs/server.rb"), &["ruby", "server.rb"]);
}

/// A worker that asks again and again who its peer is.
fn perl(who: Who) {
    serving(who, "server.pl", include_str!("../programs/server.pl"), &["perl", "server.pl"]);
}

/// The Go server, built once for all tests.
fn go_server() -> Option<&'static Path> {
    static SERVER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        if !has("go") {
            return None;
        }
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("cargo's own directory");
        fs::write(directory.join("server.go"), include_str!("../programs/server.go")).expect("our file");
        let mut build = Command::new("go");
        build.args(["build", "-o", "server", "server.go"]).current_dir(&directory);
        build
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"))
            .env("GOFLAGS", "-mod=mod");
        build.env("CGO_ENABLED", "0").env("GO111MODULE", "off");
        frost_tests::output_of(&mut build);
        Some(directory.join("server"))
    });
    server.as_deref()
}

fn go_serves(who: Who, protocol: &str) {
    let Some(server) = go_server() else { return };
    // A copy, where the scene's user can run it; the scene's own directory gives it another name each time.
    let text = fs::read(server).expect("it was built");
    let place = tempfile::tempdir().expect("a temporary directory");
    let copy = place.path().join("server");
    fs::write(&copy, text).expect("our own directory");
    for path in [place.path(), &copy] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our own file");
    }
    serving(who, "protocol", protocol, &[&copy.display().to_string(), protocol]);
}

fn go(who: Who) {
    go_serves(who, "tcp");
}

fn mptcp(who: Who) {
    if fs::read_to_string("/proc/sys/net/mptcp/enabled").unwrap_or_default() != "1\n" {
        frost_tests::skip("this kernel has no MPTCP");
        return;
    }
    go_serves(who, "mptcp");
}

/// A project of C, built by four jobs at a time.
fn make(who: Who) {
    if !has("make") || !has("gcc") {
        return;
    }
    let files = 40 + 40 * rounds();
    let project = |scene: &Scene| {
        let mut makefile = String::from("CFLAGS = -O2\nprogram:");
        for n in 0..files {
            makefile.push_str(&format!(" f{n}.o"));
            let body: String =
                (0..20).map(|i| format!("int f{n}_{i}(int x) {{ return x * {} + {n}; }}\n", i + 3)).collect();
            place(scene, &format!("f{n}.c"), &format!("#include <stdio.h>\n{body}"));
        }
        place(scene, "main.c", "int f0_0(int);\nint main(void) { return f0_0(0); }\n");
        makefile.push_str(" main.o\n\t$(CC) -o $@ $^\n");
        place(scene, "Makefile", &makefile);
        let mut command = scene.command("setsid");
        command.args(["make", "-j4"]);
        command
    };
    let objects = |scene: &Scene| {
        let entries = fs::read_dir(scene.path("stage")).expect("our own directory");
        let mut objects: Vec<(String, Vec<u8>)> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".o") || name == "program")
            .map(|name| (name.clone(), fs::read(scene.stage(&name)).expect("it was built")))
            .collect();
        objects.sort();
        objects
    };
    let Some(quiet) = Scene::new(who) else { return };
    let Some(scene) = Scene::new(who) else { return };
    let mut undisturbed = quiet.start(&mut project(&quiet), frost_tests::Stdio::Files);
    assert!(undisturbed.wait("the undisturbed build", 10 * LIMIT).success());
    let Some(mut traveller) = start(&scene, &mut project(&scene)) else { return };
    for round in 1..=rounds() {
        until("objects are built", || objects(&scene).len() > files * round / (rounds() + 2));
        assert!(!scene.stage("program").exists(), "the build ended before round {round}");
        traveller.freeze();
        traveller.thaw(&[]);
    }
    traveller.ends();
    assert!(objects(&scene) == objects(&quiet), "the objects differ, or some are missing");
    scene.is_empty_soon();
}

fn mariadb(who: Who) {
    if !has("/usr/sbin/mariadbd") || !has("mariadb-install-db") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let data = scene.stage("data").display().to_string();
    let mut install = scene.command("mariadb-install-db");
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.arg(format!("--datadir={data}"));
    let user = (frost_tests::is_root() && who == Who::Myself).then_some("--user=root");
    scene.run(install.args(user), LIMIT).ok();
    let mut command = scene.command("setsid");
    command.args(["/usr/sbin/mariadbd", "--no-defaults", "--skip-networking", "--socket=socket"]);
    // What holds requests in flight in the kernel cannot be carried: `frost check` says so, with this remedy.
    command.args(["--innodb-use-native-aio=0", "--innodb-buffer-pool-size=32M"]);
    command.arg(format!("--datadir={data}")).args(user);
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    let socket = scene.stage("data").join("socket");
    until("MariaDB listens", || listens(&socket));
    let query = |text: &str| {
        let mut client = scene.command("mariadb");
        client.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--socket"]);
        scene.run(client.arg(&socket).args(["--execute", text]), LIMIT).ok().stdout
    };
    query(
        "CREATE DATABASE d; CREATE TABLE d.t (n INT PRIMARY KEY, word CHAR(40)); \
         INSERT INTO d.t SELECT seq, SHA1(seq) FROM d.seq_1_to_20000;",
    );
    rounds_of(&mut traveller, |round| {
        let sum = query("SELECT COUNT(*), SUM(n), MAX(word) FROM d.t WHERE n <= 20000;");
        assert!(sum.starts_with("20000\t200010000\t"), "{sum}");
        query(&format!("INSERT INTO d.t VALUES ({}, 'round');", 20_001 + round));
        assert_eq!(query("SELECT COUNT(*) FROM d.t WHERE word = 'round';"), format!("{}\n", round + 1));
        let check = query("CHECK TABLE d.t EXTENDED;");
        assert!(check.contains("OK"), "{check}");
    });
    query("SHUTDOWN;");
    traveller.ends();
    scene.is_empty_soon();
}

/// A transcode makes the same bytes.
fn ffmpeg(who: Who) {
    if !has("ffmpeg") {
        return;
    }
    let seconds = (20 + 10 * rounds()).to_string();
    let transcode = |scene: &Scene| {
        let mut command = scene.command("setsid");
        command.args(["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-t", &seconds]);
        command.args(["-i", "testsrc=size=320x180:rate=30,noise=alls=20:allf=t"]);
        command.args(["-c:v", "libx264", "-preset", "medium", "-threads", "3", "-flush_packets", "1"]);
        command.args(["-bitexact", "-f", "h264", "out.h264"]);
        command
    };
    let Some(quiet) = Scene::new(who) else { return };
    let Some(scene) = Scene::new(who) else { return };
    let mut undisturbed = quiet.start(&mut transcode(&quiet), frost_tests::Stdio::Files);
    assert!(undisturbed.wait("the undisturbed transcode", 10 * LIMIT).success());
    let expected = fs::read(quiet.stage("out.h264")).expect("it was written");
    let Some(mut traveller) = start(&scene, &mut transcode(&scene)) else { return };
    let len = || fs::metadata(scene.stage("out.h264")).map_or(0, |file| file.len());
    for round in 1..=rounds() {
        until("some of it is written", || len() >= (expected.len() * round / (rounds() + 2)) as u64);
        assert!(len() < expected.len() as u64, "the transcode ended before round {round}");
        traveller.freeze();
        traveller.thaw(&[]);
    }
    traveller.ends();
    let found = fs::read(scene.stage("out.h264")).expect("it was written");
    assert!(found == expected, "{} bytes that differ from {}", found.len(), expected.len());
    scene.is_empty_soon();
}

/// QEMU as a plain process, its guest counting on a serial line.
fn emulator(who: Who) {
    if !has("qemu-system-x86_64") || !has("gcc") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "boot.s", include_str!("../programs/boot.s"));
    scene.run(scene.command("as").args(["--32", "-o", "boot.o", "boot.s"]), LIMIT).ok();
    let link = ["-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-o", "boot", "boot.o"];
    scene.run(scene.command("ld").args(link), LIMIT).ok();
    let mut command = scene.command("setsid");
    command.args(["qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none"]);
    command.args(["-serial", "file:serial", "-drive", "file=boot,format=raw,if=floppy"]);
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    let lines = || {
        let text = fs::read_to_string(scene.stage("serial")).unwrap_or_default();
        text.rfind('\n').map_or(0, |end| {
            let mut count = 0u32;
            for line in text[..end].lines() {
                count += 1;
                assert_eq!(u32::from_str_radix(line, 16), Ok(count), "line {count}");
            }
            count
        })
    };
    until("the guest counts", || lines() > 10);
    rounds_of(&mut traveller, |_| {
        let before = lines();
        until("the guest counts on", || lines() > before + 20);
    });
}

/// Python's Pool and Manager: semaphores without a name, a server on a unix socket, threads that feed queues.
fn multiprocessing(who: Who) {
    const PYTHON: &str = "/usr/bin/python3";
    if !has(PYTHON) {
        return;
    }
    let pieces = 200 + 100 * rounds();
    let run = |scene: &Scene| {
        place(scene, "pool.py", include_str!("../programs/pool.py"));
        let mut command = scene.command("setsid");
        command.args([PYTHON, "pool.py", &pieces.to_string()]);
        command
    };
    let Some(quiet) = Scene::new(who) else { return };
    let Some(scene) = Scene::new(who) else { return };
    let mut undisturbed = quiet.start(&mut run(&quiet), frost_tests::Stdio::Files);
    assert!(undisturbed.wait("the undisturbed run", LIMIT).success());
    let Some(mut traveller) = start(&scene, &mut run(&scene)) else { return };
    frost_tests::program::amid_progress(&scene, &mut traveller, pieces as u64);
    assert_eq!(scene.await_file("done"), quiet.await_file("done"), "the digest of the results");
    traveller.ends();
    scene.is_empty_soon();
}

/// PostgreSQL, which never runs as root: root's frost freezes another user's program then.
#[test]
fn postgresql() {
    database(Who::Myself);
}

#[test]
fn postgresql_by_an_ordinary_user() {
    database(Who::Ordinary);
}

/// The newest of Debian's PostgreSQL, whose programs lie in a directory of its version.
fn postgresql_directory() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let directories = versions.flatten().map(|entry| entry.path().join("bin"));
    let found = directories.filter(|directory| directory.join("pgbench").exists()).max();
    if found.is_none() {
        frost_tests::skip("PostgreSQL is not installed");
    }
    found
}

fn database(who: Who) {
    let Some(directory) = postgresql_directory() else {
        frost_tests::skip("PostgreSQL is not installed");
        return;
    };
    // The program's user and the one who freezes: the same, or root the latter.
    let Some(theirs) = Scene::new(Who::Ordinary) else { return };
    let ours = if who == Who::Ordinary { None } else { Scene::new(who) };
    let by = ours.as_ref().unwrap_or(&theirs);
    let tool = |name: &str| theirs.command(directory.join(name));
    let data = theirs.stage("data").display().to_string();
    let socket = theirs.stage("").display().to_string();
    // It asks for the name of its user, who has none.
    let user = rustix::fs::stat(theirs.stage("")).expect("our own directory").st_uid;
    place(&theirs, "passwd", &format!("u:x:{user}:{user}::/:/bin/sh\n"));
    place(&theirs, "group", &format!("u:x:{user}:\n"));
    let mut init = tool("initdb");
    init.args(["--no-sync", "--auth=trust", "--username=u", "--pgdata", &data]);
    init.env("LD_PRELOAD", "libnss_wrapper.so");
    init.env("NSS_WRAPPER_PASSWD", theirs.stage("passwd")).env("NSS_WRAPPER_GROUP", theirs.stage("group"));
    theirs.run(&mut init, LIMIT).ok();
    let mut command = theirs.command("setsid");
    command.arg(directory.join("postgres")).args(["-D", &data, "-k", &socket, "-c", "listen_addresses="]);
    let started = theirs.start(&mut command, frost_tests::Stdio::Files);
    let mut traveller = Traveller::join(by, started, "postgres");
    let client = |name: &str, arguments: &[&str]| {
        let mut command = tool(name);
        command.args(["--host", &socket, "--username", "u"]).args(arguments);
        theirs.run(&mut command, LIMIT)
    };
    let query = |text: &str| client("psql", &["-d", "postgres", "-Atc", text]).ok().stdout;
    until("PostgreSQL answers", || client("pg_isready", &[]).status == Some(0));
    client("pgbench", &["--initialize", "--scale=2", "--quiet", "postgres"]).ok();
    query("CREATE EXTENSION amcheck");
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers), \
                (SELECT count(*) FROM pgbench_accounts)";
    rounds_of(&mut traveller, |round| {
        client("pgbench", &["--client=4", "--transactions=200", "--no-vacuum", "postgres"]).ok();
        assert_eq!(query(sums), "t|200000\n", "the balances in round {round}");
        assert_eq!(query("SELECT count(*) FROM pgbench_history"), format!("{}\n", 800 * (round + 1)));
    });
    client("pg_amcheck", &["--heapallindexed", "postgres"]).ok();
    // Fast shutdown; what it wrote is whole.
    theirs.run(theirs.command("kill").args(["-INT", &traveller.pid.to_string()]), LIMIT).ok();
    traveller.ends();
    theirs.is_empty_soon();
}
