//! Tools of every day that sit and wait to be told something: interpreters, agents, a bus, a display.
//!
//! `FROST_ROUNDS` says how many times each is frozen and thawed (3).

use frost_tests::program::{has, place, rounds_of, start};
use frost_tests::{LIMIT, Scene, Who, listens, skip, until};
use std::fs;
use std::io::Write;

frost_tests::programs! { sqlite perl php lua r tcl scheme lisp zsh valgrind agent bus display watcher }

/// An interpreter that reads lines from a fifo, which it holds open for both, and keeps a sum. `line` makes the line that
/// adds a number, upon which it is to write what is 1000 and the sum.
fn sums(who: Who, program: &[&str], first: &str, line: impl Fn(usize) -> String) {
    if !has(program[0]) || !has("stdbuf") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let fifo = scene.stage("fifo");
    scene.run(scene.command("mkfifo").arg(&fifo), LIMIT).ok();
    let mut command = scene.command("setsid");
    command.args(["sh", "-c", "exec \"$@\" <>fifo >sums", "sh", "stdbuf", "-oL"]).args(program);
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    until("it reads", || scene.stage("sums").exists());
    let tell = |text: &str| {
        let mut fifo = fs::OpenOptions::new().write(true).open(&fifo).expect("it has a reader");
        writeln!(fifo, "{text}").expect("it is read");
    };
    if !first.is_empty() {
        tell(first);
    }
    let mut expected = String::new();
    let mut sum = 1000;
    rounds_of(&mut traveller, |round| {
        for number in round * 10..round * 10 + 10 {
            sum += number;
            expected += &format!("{sum}\n");
            tell(&line(number));
        }
        let told = || fs::read_to_string(scene.stage("sums")).unwrap_or_default();
        until("it answers", || told().len() >= expected.len());
        assert_eq!(told(), expected, "in round {round}");
    });
}

fn sqlite(who: Who) {
    let first = "CREATE TABLE numbers (n INTEGER); INSERT INTO numbers VALUES (1000);";
    sums(who, &["sqlite3", ":memory:"], first, |number| {
        format!("INSERT INTO numbers VALUES ({number}); SELECT sum(n) FROM numbers;")
    });
}

fn perl(who: Who) {
    let script = "$| = 1; my $sum = 1000; while (<STDIN>) { $sum += $_; print \"$sum\\n\" }";
    sums(who, &["perl", "-e", script], "", |number| number.to_string());
}

fn php(who: Who) {
    let script =
        "$sum = 1000; while (($line = fgets(STDIN)) !== false) { $sum += (int) $line; echo $sum, \"\\n\"; }";
    sums(who, &["php", "-r", script], "", |number| number.to_string());
}

fn lua(who: Who) {
    let script =
        "local sum = 1000; for line in io.lines() do sum = sum + math.tointeger(line); print(sum) end";
    sums(who, &["lua5.4", "-e", script], "", |number| number.to_string());
}

fn r(who: Who) {
    let script = "sum <- 1000; input <- file('stdin', 'r'); \
                  while (length(line <- readLines(input, 1)) > 0) { \
                  sum <- sum + as.integer(line); cat(sum, '\\n', sep = ''); flush(stdout()) }";
    sums(who, &["Rscript", "-e", script], "", |number| number.to_string());
}

fn tcl(who: Who) {
    sums(who, &["tclsh"], "set sum 1000", |number| format!("puts [incr sum {number}]"));
}

/// Its collector looks for its roots on stacks and in registers, and its threads wait for signals from it.
fn scheme(who: Who) {
    let script = "(let loop ((sum (+ 1000 (read)))) \
                  (write sum) (newline) (force-output) (loop (+ sum (read))))";
    sums(who, &["guile", "--no-auto-compile", "-c", script], "", |number| number.to_string());
}

/// Its memory is an image of its own, mapped at fixed addresses, whose pages its collector protects.
fn lisp(who: Who) {
    let script = "(let ((sum 1000)) (loop (incf sum (read)) (format t \"~a~%\" sum) (finish-output)))";
    let program = ["sbcl", "--noinform", "--non-interactive", "--no-userinit", "--eval", script];
    sums(who, &program, "", |number| number.to_string());
}

/// A shell with a coprocess at pipes and one at a terminal of its own, both of which see each number.
fn zsh(who: Who) {
    let script = "zmodload zsh/zpty; coproc cat; zpty other 'stty -echo; echo stands; cat'; zpty -r other line; \
                  sum=1000; while read n; do print -p $n; read -p first; zpty -w other $n; zpty -r other second; \
                  (( first == ${second//[^0-9]/} && (sum += first) )); print $sum; done";
    sums(who, &["zsh", "-fc", script], "", |number| number.to_string());
}

/// A program within another, which translates it as it goes, at addresses of its own.
fn valgrind(who: Who) {
    let script = "BEGIN { sum = 1000 } { sum += $1; print sum; fflush() }";
    sums(who, &["valgrind", "-q", "mawk", "-W", "interactive", script], "", |number| number.to_string());
}

/// It keeps its keys from everybody but root: nobody else can look into it.
fn agent(who: Who) {
    if !has("ssh-agent") {
        return;
    }
    if who == Who::Ordinary || !frost_tests::is_root() {
        return skip("only root can freeze a program that keeps debuggers out");
    }
    let Some(scene) = Scene::new(who) else { return };
    let path = |name: &str| scene.stage(name).display().to_string();
    let (socket, key) = (path("socket"), path("key"));
    scene.run(scene.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]), LIMIT).ok();
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args(["ssh-agent", "-D", "-a", &socket])) else { return };
    until("it listens", || listens(&scene.stage("socket")));
    let add = |arguments: &[&str]| {
        let mut command = scene.command("ssh-add");
        scene.run(command.env("SSH_AUTH_SOCK", &socket).args(arguments), LIMIT).ok().stdout
    };
    add(&["-q", &key]);
    let keys = add(&["-L"]);
    fs::remove_file(&key).expect("our own directory");
    // What it signs with the key that it alone has, the public one confirms.
    rounds_of(&mut traveller, |_| {
        assert_eq!(add(&["-L"]), keys);
        add(&["-T", &format!("{key}.pub")]);
    });
}

fn bus(who: Who) {
    if !has("dbus-daemon") || !has("dbus-send") {
        return;
    }
    if who == Who::Ordinary {
        return skip("a bus lets nobody in who has no name, as the tests' ordinary user");
    }
    let Some(scene) = Scene::new(who) else { return };
    place(
        &scene,
        "bus.conf",
        &format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>session</type><listen>unix:path={}</listen>\n\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n",
            scene.stage("socket").display()
        ),
    );
    let mut command = scene.command("setsid");
    let Some(mut traveller) =
        start(&scene, command.args(["dbus-daemon", "--config-file=bus.conf", "--nofork"]))
    else {
        return;
    };
    until("it listens", || listens(&scene.stage("socket")));
    let address = format!("unix:path={}", scene.stage("socket").display());
    let ask = |method: &str| {
        let mut command = scene.command("dbus-send");
        command.args([&format!("--bus={address}"), "--print-reply=literal", "--dest=org.freedesktop.DBus"]);
        scene.run(command.args(["/", &format!("org.freedesktop.DBus.{method}")]), LIMIT).ok().stdout
    };
    let id = ask("GetId");
    let mut names = 0;
    rounds_of(&mut traveller, |_| {
        assert_eq!(ask("GetId"), id, "the bus");
        // Each client gets a number of its own, never given twice.
        let told = ask("ListNames");
        let number =
            told.split_whitespace().filter_map(|name| name.strip_prefix(":1.")?.parse::<u32>().ok()).max();
        let number = number.expect("the client itself");
        assert!(number >= names, "{told}");
        names = number + 1;
    });
}

/// A display in memory, a property of its root window, and a terminal that shows on it.
fn display(who: Who) {
    if !["Xvfb", "xterm", "xprop", "xwininfo"].into_iter().all(has) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "count", "n=0; while sleep 0.1; do n=$((n + 1)); echo $n >lines; done\n");
    // The number of a display that is free is told by the server when it listens.
    place(
        &scene,
        "both",
        "mkfifo number; Xvfb -displayfd 3 -screen 0 640x480x24 -nolisten tcp 3>number &\n\
         read n <number; echo $n >draft; mv draft display; DISPLAY=:$n xterm -title counter -e sh count & wait\n",
    );
    let Some(mut traveller) = start(&scene, scene.command("setsid").args(["sh", "both"])) else { return };
    let display = format!(":{}", scene.await_file("display").trim());
    let ask = |program: &str, arguments: &[&str]| {
        scene.run(scene.command(program).args(["-display", &display]).args(arguments), LIMIT).ok().stdout
    };
    let count =
        || fs::read_to_string(scene.stage("lines")).ok().and_then(|text| text.trim().parse::<u64>().ok());
    until("the terminal's program counts", || count().is_some());
    // Not before: a server forgets all when its only client leaves.
    ask("xprop", &["-root", "-f", "WORD", "8s", "-set", "WORD", "kept"]);
    let geometry = || {
        let told = ask("xwininfo", &["-name", "counter"]);
        told.lines().filter(|line| line.contains("Width") || line.contains("Height")).collect::<String>()
    };
    let before = geometry();
    rounds_of(&mut traveller, |_| {
        assert!(ask("xprop", &["-root", "WORD"]).contains("kept"));
        assert_eq!(geometry(), before, "the size of the window");
        let counted = count();
        until("it counts on", || count() > counted);
    });
}

/// It watches a directory and what is made in there, and tells of each file once.
fn watcher(who: Who) {
    if !has("inotifywait") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    fs::create_dir(scene.stage("watched")).expect("our own directory");
    let mut command = scene.command("setsid");
    command.args(["inotifywait", "-m", "-r", "-e", "create,close_write", "--format", "%e %w%f", "watched"]);
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    until("it watches", || {
        fs::read_to_string(scene.stage("err")).is_ok_and(|said| said.contains("established"))
    });
    let told = || fs::read_to_string(scene.stage("out")).unwrap_or_default();
    let mut expected = Vec::new();
    rounds_of(&mut traveller, |round| {
        let inner = format!("watched/{round}");
        fs::create_dir(scene.stage(&inner)).expect("our own directory");
        // What is made in there before it is watched is nobody's to tell.
        until("the new directory is watched", || {
            let _absent = fs::remove_file(scene.stage(&inner).join("probe"));
            fs::write(scene.stage(&inner).join("probe"), "").expect("our own directory");
            told().contains(&format!("{inner}/probe"))
        });
        for name in [format!("watched/file-{round}"), format!("{inner}/file")] {
            fs::write(scene.stage(&name), "text").expect("our own directory");
            expected.push(format!("CLOSE_WRITE,CLOSE {name}"));
        }
        let files = || {
            let told = told();
            let lines = told.lines().filter(|line| line.starts_with("CLOSE_WRITE") && line.contains("file"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        until("it tells of all files", || files().len() >= expected.len());
        assert_eq!(files(), expected, "in round {round}");
    });
}
