//! Services that others talk to all day, each with processes and users of its own: names, mail, messages, shells.
//!
//! `FROST_ROUNDS` says how many times each is frozen and thawed (3).

use frost_tests::program::{free_port, has, place, rounds_of, start};
use frost_tests::{LIMIT, Scene, Who, skip, until};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, UdpSocket};

frost_tests::programs! { broker names directory queue mail shell }

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time");
    stream
}

fn listens(port: u16) {
    until("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
}

fn user(who: Who) -> Option<&'static str> {
    (who == Who::Myself && frost_tests::is_root()).then_some("root")
}

/// A broker and one of its subscribers in one tree, which share a connection with a promise: each message comes once.
fn broker(who: Who) {
    if !["mosquitto", "mosquitto_pub", "mosquitto_sub"].into_iter().all(has) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port().to_string();
    let own = user(who).map(|user| format!("user {user}\n")).unwrap_or_default();
    place(&scene, "broker.conf", &format!("listener {port} 127.0.0.1\nallow_anonymous true\n{own}"));
    place(
        &scene,
        "both",
        "mosquitto -c broker.conf & until mosquitto_pub -p $1 -t none -n; do sleep 0.05; done\n\
         mosquitto_sub -p $1 -i one -q 2 -t count/# >got & wait\n",
    );
    let Some(mut traveller) = start(&scene, scene.command("setsid").args(["sh", "both", &port])) else {
        return;
    };
    let publish = |arguments: &[&str]| {
        let mut command = scene.command("mosquitto_pub");
        scene.run(command.args(["-p", &port]).args(arguments), LIMIT)
    };
    let got = || fs::read_to_string(scene.stage("got")).unwrap_or_default();
    until("the subscriber is there", || {
        let _sent = publish(&["-t", "count/begin", "-m", "begin"]);
        got().contains("begin")
    });
    publish(&["-r", "-t", "kept", "-m", "a word"]).ok();
    let mut sent = Vec::new();
    rounds_of(&mut traveller, |round| {
        for n in round * 5..round * 5 + 5 {
            sent.push(n.to_string());
            publish(&["-q", "2", "-t", "count/n", "-m", &n.to_string()]).ok();
        }
        let numbers = || got().lines().filter(|line| *line != "begin").map(str::to_owned).collect::<Vec<_>>();
        until("all messages came", || numbers().len() >= sent.len());
        assert_eq!(numbers(), sent, "in round {round}");
        let mut late = scene.command("mosquitto_sub");
        let kept = scene.run(late.args(["-p", &port, "-t", "kept", "-C", "1"]), LIMIT).ok();
        assert_eq!(kept.stdout, "a word\n", "what the broker keeps for those who come later");
    });
}

/// Asks a server of names for an address, by a datagram as in RFC 1035.
fn resolve(port: u16, name: &str) -> Option<[u8; 4]> {
    let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend(b"\x00\x00\x01\x00\x01");
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).ok()?;
    socket.send_to(&question, ("127.0.0.1", port)).ok()?;
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer).ok()?;
    // One answer, whose last bytes are the address.
    (answer[6..8] == [0, 1]).then(|| answer[len - 4..len].try_into().ok())?
}

/// It listens for changes of the machine's addresses, and reads its names anew when it is told to.
fn names(who: Who) {
    if !has("/usr/sbin/dnsmasq") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port();
    place(&scene, "hosts", "10.1.2.3 thing.test\n");
    let mut command = scene.command("setsid");
    command.args(["/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"]);
    command.args(["--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-"]);
    command.arg(format!("--port={port}")).arg(format!("--addn-hosts={}", scene.stage("hosts").display()));
    command.arg(format!("--pid-file={}", scene.stage("pid").display()));
    command.args(user(who).map(|user| format!("--user={user}")));
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    until("it answers", || resolve(port, "thing.test") == Some([10, 1, 2, 3]));
    let program = std::cell::Cell::new(traveller.pid);
    for round in 0..=frost_tests::program::rounds() as u8 {
        if round > 0 {
            traveller.freeze();
            traveller.thaw(&[]);
            program.set(traveller.pid);
        }
        assert_eq!(resolve(port, "thing.test"), Some([10, 1, 2, 3]), "in round {round}");
        let text = format!("10.1.2.3 thing.test\n10.1.2.{round} round-{round}.test\n");
        fs::write(scene.stage("hosts"), text).expect("our own directory");
        scene.run(scene.command("kill").args(["-HUP", &program.get().to_string()]), LIMIT).ok();
        let name = format!("round-{round}.test");
        until("it has read its names anew", || resolve(port, &name) == Some([10, 1, 2, round]));
    }
}

/// A directory in a mapped file, with locks that lie in shared memory.
fn directory(who: Who) {
    const SERVER: &str = "/usr/sbin/slapd";
    if ![SERVER, "ldapadd", "ldapsearch"].into_iter().all(has) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let at = format!("ldap://127.0.0.1:{}", free_port());
    let data = scene.stage("data");
    fs::create_dir(&data).expect("our own directory");
    scene.give(&data);
    place(
        &scene,
        "slapd.conf",
        &format!(
            "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             pidfile {}\ndatabase mdb\nmaxsize 16777216\nsuffix dc=test\nrootdn cn=root,dc=test\nrootpw word\n\
             directory {}\n",
            scene.stage("pid").display(),
            data.display()
        ),
    );
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args([SERVER, "-d", "0", "-f", "slapd.conf", "-h", &at]))
    else {
        return;
    };
    let ask = |program: &str, arguments: &[&str]| {
        let mut command = scene.command(program);
        command.args(["-x", "-H", &at, "-D", "cn=root,dc=test", "-w", "word"]);
        scene.run(command.args(arguments), LIMIT)
    };
    let add = |entry: &str| {
        place(&scene, "entry", entry);
        ask("ldapadd", &["-f", "entry"])
    };
    let top = "dn: dc=test\nobjectClass: dcObject\nobjectClass: organization\ndc: test\no: test\n";
    until("the directory takes entries", || matches!(add(top).status, Some(0 | 68)));
    let mut count = 0;
    rounds_of(&mut traveller, |round| {
        for _ in 0..3 {
            count += 1;
            add(&format!("dn: cn=p{count},dc=test\nobjectClass: person\ncn: p{count}\nsn: of {round}\n"))
                .ok();
        }
        let found = ask("ldapsearch", &["-LLL", "-b", "dc=test", "(objectClass=person)", "sn"]).ok().stdout;
        assert_eq!(found.matches("\nsn: of ").count(), count, "{found}");
    });
}

/// A queue of work with a log that it has open for writing, though its mode lets nobody write.
fn queue(who: Who) {
    if !has("beanstalkd") {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port();
    let mut command = scene.command("setsid");
    command.args(["beanstalkd", "-l", "127.0.0.1", "-p", &port.to_string(), "-b"]).arg(scene.path("stage"));
    let Some(mut traveller) = start(&scene, &mut command) else { return };
    listens(port);
    let tell = |text: &str| {
        let mut stream = connect(port);
        write!(stream, "{text}\r\n").expect("it reads");
        BufReader::new(stream).lines().next().and_then(Result::ok).unwrap_or_default()
    };
    let mut jobs = 0;
    rounds_of(&mut traveller, |_| {
        for _ in 0..3 {
            jobs += 1;
            assert_eq!(tell("put 0 0 60 4\r\nwork"), format!("INSERTED {jobs}"));
        }
        assert_eq!(tell(&format!("peek {}", jobs / 2 + 1)), format!("FOUND {} 4", jobs / 2 + 1));
    });
    let log = fs::read(scene.stage("binlog.1")).expect("its log");
    assert_eq!(log.windows(4).filter(|window| window == b"work").count(), jobs, "jobs in its log");
}

/// Seven processes of four users, some of which have a root directory of their own.
fn mail(who: Who) {
    const SERVER: &str = "/usr/sbin/dovecot";
    if !has(SERVER) {
        return;
    }
    if user(who).is_none() {
        return skip("only root can start a server whose processes have users of their own");
    }
    let Some(scene) = Scene::new(who) else { return };
    let port = free_port();
    let at = |name: &str| scene.stage(name).display().to_string();
    place(&scene, "users", "somebody:{PLAIN}word\n");
    fs::create_dir(scene.stage("mail")).expect("our own directory");
    let nobody = rustix::fs::Uid::from_raw(65_534);
    rustix::fs::chown(scene.stage("mail"), Some(nobody), None).expect("root may give files away");
    place(
        &scene,
        "dovecot.conf",
        &format!(
            "base_dir = {}\nstate_dir = {}\nlog_path = {}\nprotocols = imap\nssl = no\nlisten = 127.0.0.1\n\
             disable_plaintext_auth = no\nmail_location = maildir:{mail}\nfirst_valid_gid = 0\n\
             service imap-login {{\n inet_listener imap {{\n port = {port}\n }}\n\
             inet_listener imaps {{\n port = 0\n }}\n}}\n\
             passdb {{\n driver = passwd-file\n args = {}\n}}\n\
             userdb {{\n driver = static\n args = uid=65534 gid=65534 home={mail}\n}}\n",
            at("run"),
            at("state"),
            at("log"),
            at("users"),
            mail = at("mail"),
        ),
    );
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args([SERVER, "-F", "-c", "dovecot.conf"])) else {
        return;
    };
    listens(port);
    // Commands one after the other, each answered by a line that begins with its tag; what came before that is told.
    let talk = |commands: &[&str]| {
        let mut stream = connect(port);
        let mut lines = BufReader::new(stream.try_clone().expect("a copy")).lines().map_while(Result::ok);
        let mut told = lines.next().expect("a greeting");
        for command in commands {
            write!(stream, "t {command}\r\n").expect("it reads");
            loop {
                let line = lines.next().unwrap_or_else(|| panic!("no answer to {command:?}: {told}"));
                assert!(!line.starts_with("t NO") && !line.starts_with("t BAD"), "{command:?}: {line}");
                told += &format!("\n{line}");
                if line.starts_with("t OK") || line.starts_with('+') {
                    break;
                }
            }
        }
        told
    };
    const LOGIN: &str = "LOGIN somebody word";
    rounds_of(&mut traveller, |round| {
        let text = format!("Subject: {round}\r\n\r\nof round {round}");
        let told = talk(&[LOGIN, &format!("APPEND INBOX {{{}+}}\r\n{text}", text.len()), "SELECT INBOX"]);
        assert!(told.contains(&format!("* {} EXISTS", round + 1)), "{told}");
        let told = talk(&[LOGIN, "SELECT INBOX", "FETCH 1:* BODY.PEEK[TEXT]"]);
        for round in 0..=round {
            assert!(told.contains(&format!("of round {round}")), "{told}");
        }
    });
}

/// A server of shells, a client of it and what runs between them: keys and counters of both sides go on.
fn shell(who: Who) {
    const SERVER: &str = "/usr/sbin/sshd";
    if ![SERVER, "ssh", "ssh-keygen"].into_iter().all(has) {
        return;
    }
    if user(who).is_none() {
        return skip("a shell is for users with a name, which the tests' ordinary user has not");
    }
    if fs::create_dir_all("/run/sshd").is_err() {
        return skip("sshd needs a directory /run/sshd");
    }
    let Some(scene) = Scene::new(who) else { return };
    let at = |name: &str| scene.stage(name).display().to_string();
    for key in ["host", "key"] {
        scene.run(scene.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key]), LIMIT).ok();
    }
    let port = free_port();
    place(
        &scene,
        "sshd.conf",
        &format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nPidFile none\n",
            at("host"),
            at("key.pub"),
        ),
    );
    place(&scene, "session", "sum=1000; while read n; do sum=$((sum + n)); echo \"sum $sum\"; done\n");
    scene.run(scene.command("mkfifo").arg(scene.stage("fifo")), LIMIT).ok();
    place(
        &scene,
        "both",
        &format!(
            "{SERVER} -D -e -f sshd.conf & exec <>fifo\n\
             until ssh -tt -i key -p {port} -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no root@127.0.0.1 \
             'cd {}; stty -echo; echo stands; exec sh session' >sums; do sleep 0.1; done; wait\n",
            scene.path("stage").display()
        ),
    );
    let Some(mut traveller) = start(&scene, scene.command("setsid").args(["sh", "both"])) else { return };
    let told = || fs::read_to_string(scene.stage("sums")).unwrap_or_default().replace('\r', "");
    until("the shell stands", || told().contains("stands"));
    let mut fifo =
        fs::OpenOptions::new().read(true).write(true).open(scene.stage("fifo")).expect("it is there");
    let (mut sum, mut expected) = (1000, "stands\n".to_owned());
    rounds_of(&mut traveller, |round| {
        for number in round * 10..round * 10 + 10 {
            sum += number;
            expected += &format!("sum {sum}\n");
            writeln!(fifo, "{number}").expect("it is read");
        }
        until("it answers", || told().len() >= expected.len());
        assert_eq!(told(), expected, "in round {round}");
    });
}
