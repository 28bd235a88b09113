//! Listening sockets while a program is frozen: who connects waits for it. And those that a program calls just then.

use frost_tests::journey::Traveller;
use frost_tests::program::{has, place};
use frost_tests::{LIMIT, Outcome, Scene, Stdio, Who, until};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

frost_tests::as_each_user! {
    who_connects_to_a_frozen_program_waits_for_it
    a_program_that_is_frozen_cold_is_not_there
    another_version_has_its_own_sockets
    who_waits_goes_on_waiting_when_a_thaw_fails
    a_copy_does_not_take_what_is_kept
    what_a_connection_within_needs_is_made_anew
    who_was_accepted_and_hung_up_is_not_in_the_way
    whom_a_program_calls_is_called_anew
}

const PYTHON: &str = "/usr/bin/python3";

fn scene(who: Who) -> Option<Scene> {
    if !has(PYTHON) {
        return None;
    }
    Scene::with_namespaces(who)
}

/// The server of `doors.py`.
struct Doors<'a> {
    scene: &'a Scene,
    /// Shared by two sockets; to be closed; not listening.
    ports: [u16; 3],
}

impl<'a> Doors<'a> {
    fn open(scene: &'a Scene) -> Self {
        place(scene, "doors.py", include_str!("../programs/doors.py"));
        let stage = scene.path("stage");
        let stage = stage.to_str().expect("a temporary directory has a name");
        scene.frost(&["run", "--detach", "--name", "doors", "--", PYTHON, "doors.py", stage]).ok();
        let ports = scene.await_file("ports");
        let mut ports = ports.split(' ').map(|word| word.parse().expect("a port"));
        let ports = [(); 3].map(|()| ports.next().expect("three ports"));
        Self { scene, ports }
    }

    /// Calls at each door, `calls` times, without waiting for an answer.
    fn call(&self, round: usize, calls: usize) -> Vec<Call> {
        let mut made = Vec::new();
        for call in 0..calls {
            let word = format!("{round}.{call}");
            let path = UnixStream::connect(self.scene.stage("door")).expect("the path is kept");
            let name = self.scene.path("stage").into_os_string().into_encoded_bytes();
            let name = SocketAddr::from_abstract_name(name).expect("a short name");
            let name = UnixStream::connect_addr(&name).expect("the abstract name is kept");
            made.push(Call::of(path, &word, "1 0 0"));
            made.push(Call::of(name, &word, "1 0 0"));
            for (port, facts) in [(self.ports[0], "1 0 1"), (self.ports[1], "1 0 0")] {
                let stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is kept");
                made.push(Call::of(stream, &word, facts));
            }
        }
        made
    }

    fn ends(&self) {
        self.scene.frost(&["kill", "-s", "KILL", "doors"]).ok();
        assert_eq!(self.scene.frost(&["wait", "doors"]).status, Some(128 + 9));
        // Its second process is killed with the first, and ends a little later.
        until("nobody keeps it when the program has ended", || self.is_refused(0));
        self.scene.is_empty_soon();
    }

    fn is_refused(&self, port: usize) -> bool {
        let connected = TcpStream::connect(("127.0.0.1", self.ports[port]));
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }
}

trait Stream: Read + Write {
    fn wait(&self, wait: bool);
}

impl Stream for TcpStream {
    fn wait(&self, wait: bool) {
        self.set_nonblocking(!wait)
            .and_then(|()| self.set_read_timeout(Some(LIMIT)))
            .expect("our own socket");
    }
}

impl Stream for UnixStream {
    fn wait(&self, wait: bool) {
        self.set_nonblocking(!wait)
            .and_then(|()| self.set_read_timeout(Some(LIMIT)))
            .expect("our own socket");
    }
}

/// A client.
struct Call {
    stream: Box<dyn Stream>,
    expected: String,
}

impl Call {
    fn of(mut stream: impl Stream + 'static, word: &str, facts: &str) -> Self {
        stream.write_all(word.as_bytes()).expect("there is room in the queue");
        Self { stream: Box::new(stream), expected: format!("{word} {facts}") }
    }

    fn waits(&mut self) {
        self.stream.wait(false);
        let got = self.stream.read(&mut [0; 1]).expect_err("nobody answers, and nobody hangs up");
        assert_eq!(got.kind(), ErrorKind::WouldBlock, "{got}");
    }

    fn ends_answered(self) {
        self.stream.wait(true);
        let mut answer = String::new();
        BufReader::new(self.stream).read_line(&mut answer).expect("it is answered");
        assert_eq!(answer.trim_end(), self.expected);
    }
}

fn freeze(scene: &Scene) -> Outcome {
    let frozen = scene.frost(&["freeze", "doors"]).ok();
    assert_eq!(frozen.stderr, "", "{frozen}");
    frozen
}

fn who_connects_to_a_frozen_program_waits_for_it(scene: &Scene) {
    let doors = Doors::open(scene);
    doors.call(0, 1).into_iter().for_each(Call::ends_answered);
    for round in 1..4 {
        freeze(scene);
        let mut calls = doors.call(round, 3);
        let plan = scene.frost(&["thaw", "doors", "--plan"]).ok().stdout;
        assert_eq!(plan.matches("  keep").count(), 6, "{plan}");
        calls.iter_mut().for_each(Call::waits);
        assert!(doors.is_refused(2), "it did not listen");
        scene.frost(&["thaw", "doors"]).ok();
        calls.into_iter().for_each(Call::ends_answered);
        doors.call(round, 2).into_iter().for_each(Call::ends_answered);
    }
    // They are the program's alone.
    place(scene, "close", "");
    until("both have closed it", || doors.is_refused(1));
    doors.ends();
}

fn a_program_that_is_frozen_cold_is_not_there(scene: &Scene) {
    let doors = Doors::open(scene);
    for released in [false, true] {
        if released {
            freeze(scene);
            let mut calls = doors.call(0, 1);
            calls.iter_mut().for_each(Call::waits);
            scene.frost(&["freeze", "doors", "--cold", "--full"]).refused(6, "frozen already");
            calls.iter_mut().for_each(Call::waits);
            let told = scene.frost(&["freeze", "doors", "--cold", "--json"]).ok();
            assert_eq!(told.record()["name"], "doors");
            let again = scene.frost(&["freeze", "doors", "--cold"]);
            assert_ne!(again.status, Some(0), "{again}");
        } else {
            scene.frost(&["freeze", "doors", "--cold"]).ok();
        }
        until("nobody keeps them", || doors.is_refused(0) && doors.is_refused(1));
        scene.is_empty_soon();
        scene.frost(&["thaw", "doors"]).ok();
        doors.call(1, 1).into_iter().for_each(Call::ends_answered);
    }
    freeze(scene);
    let mut calls = doors.call(2, 1);
    calls.iter_mut().for_each(Call::waits);
    scene.frost(&["rm", "doors"]).ok();
    until("nobody keeps them", || doors.is_refused(0) && doors.is_refused(1));
    scene.is_empty_soon();
}

fn another_version_has_its_own_sockets(scene: &Scene) {
    let doors = Doors::open(scene);
    freeze(scene);
    scene.frost(&["thaw", "doors"]).ok();
    place(scene, "close", "");
    until("both have closed it", || doors.is_refused(1));
    freeze(scene);
    // It has what both versions have, and makes the one that was closed anew.
    let shared = TcpStream::connect(("127.0.0.1", doors.ports[0])).expect("the port is kept");
    let shared = Call::of(shared, "shared", "1 0 1");
    assert!(doors.is_refused(1));
    fs::remove_file(scene.stage("close")).expect("our own directory");
    scene.frost(&["thaw", "doors@1"]).ok();
    shared.ends_answered();
    doors.call(1, 2).into_iter().for_each(Call::ends_answered);
    freeze(scene);
    // The other way: what this version has not is closed.
    let lost = TcpStream::connect(("127.0.0.1", doors.ports[1])).expect("the port is kept");
    let mut lost = Call::of(lost, "lost", "");
    lost.waits();
    scene.frost(&["thaw", "doors@2"]).ok();
    assert!(doors.is_refused(1));
    lost.stream.wait(true);
    assert!(!matches!(lost.stream.read(&mut [0; 1]), Ok(1..)));
    doors.ends();
}

fn who_waits_goes_on_waiting_when_a_thaw_fails(scene: &Scene) {
    let doors = Doors::open(scene);
    freeze(scene);
    let mut calls = doors.call(0, 2);
    for at in ["thaw.open", "thaw.commit"] {
        let mut command = scene.frost_command(&["thaw", "doors"]);
        let failed = scene.run(command.env("FROST_FAIL_AT", at), LIMIT);
        assert_ne!(failed.status, Some(0), "{failed}");
        calls.iter_mut().for_each(Call::waits);
        calls.extend(doors.call(1, 1));
    }
    scene.frost(&["thaw", "doors"]).ok();
    calls.into_iter().for_each(Call::ends_answered);
    doors.ends();
}

fn a_copy_does_not_take_what_is_kept(scene: &Scene) {
    let doors = Doors::open(scene);
    freeze(scene);
    let mut calls = doors.call(0, 1);
    let refused = scene.frost(&["thaw", "doors", "--clone"]);
    assert_eq!(refused.stderr.matches("is kept open for the frozen program").count(), 6, "{refused}");
    assert!(refused.stderr.contains("freeze NAME --cold"), "{refused}");
    calls.iter_mut().for_each(Call::waits);
    scene.frost(&["thaw", "doors"]).ok();
    calls.into_iter().for_each(Call::ends_answered);
    doors.ends();
}

/// A program that talks to itself: such a socket is closed and made again, so that what was accepted there can be.
fn what_a_connection_within_needs_is_made_anew(scene: &Scene) {
    let script = "import os, socket, time
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
unix = socket.socket(socket.AF_UNIX)
unix.bind('within')
unix.listen()
waits = socket.socket(socket.AF_UNIX)
waits.connect('within')
count = 0
while True:
    client.sendall(b'x')
    assert accepted.recv(10) == b'x'
    count += 1
    with open('count.new', 'w') as file:
        file.write(str(count))
    os.rename('count.new', 'count')
    time.sleep(0.01)
";
    scene.frost(&["run", "--detach", "--name", "doors", "--", PYTHON, "-c", script]).ok();
    let count = || scene.await_file("count").parse::<u64>().expect("a number");
    for _ in 0..3 {
        let now = count();
        until("it counts", || count() > now);
        freeze(scene);
        scene.frost(&["thaw", "doors"]).ok();
    }
    let now = count();
    until("it counts", || count() > now);
    scene.frost(&["kill", "-s", "KILL", "doors"]).ok();
    assert_eq!(scene.frost(&["wait", "doors"]).status, Some(128 + 9));
    scene.is_empty_soon();
}

/// Connections whose other end is closed are carried with what waits in them, and what they were accepted at is kept.
fn who_was_accepted_and_hung_up_is_not_in_the_way(scene: &Scene) {
    let script = "import os, socket, time
tcp = socket.create_server(('127.0.0.1', 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind('door')
unix.listen()
os.chmod('door', 0o777)
with open('port.new', 'w') as file:
    file.write(str(tcp.getsockname()[1]))
os.rename('port.new', 'port')
accepted = [door.accept()[0] for door in (tcp, unix)]
open('accepted', 'w').close()
while not os.path.exists('go'):
    time.sleep(0.01)
for connection, door in zip(accepted, (tcp, unix)):
    assert connection.makefile().read() == 'last words'
    later, _ = door.accept()
    later.sendall(later.recv(100))
";
    scene.frost(&["run", "--detach", "--name", "doors", "--", PYTHON, "-c", script]).ok();
    let port: u16 = scene.await_file("port").parse().expect("a port");
    let tcp = || TcpStream::connect(("127.0.0.1", port)).expect("the port is kept");
    let unix = || UnixStream::connect(scene.stage("door")).expect("the path is kept");
    tcp().write_all(b"last words").expect("it is read");
    unix().write_all(b"last words").expect("it is read");
    scene.await_file("accepted");
    for _ in 0..2 {
        freeze(scene);
        scene.frost(&["thaw", "doors"]).ok();
    }
    freeze(scene);
    let (mut tcp, mut unix) = (TcpStream::connect(("127.0.0.1", port)).expect("kept"), unix());
    tcp.write_all(b"tcp").and_then(|()| unix.write_all(b"unix")).expect("there is room");
    place(scene, "go", "");
    scene.frost(&["thaw", "doors"]).ok();
    let streams: [(&mut dyn Stream, &str); 2] = [(&mut tcp, "tcp"), (&mut unix, "unix")];
    for (stream, word) in streams {
        stream.wait(true);
        let mut answer = vec![0; word.len()];
        stream.read_exact(&mut answer).expect("it is answered");
        assert_eq!(answer, word.as_bytes());
    }
    assert_eq!(scene.frost(&["wait", "doors"]).status, Some(0));
    scene.is_empty_soon();
}

/// A server that has no room for it yet has some when it is thawed, or is gone: then the program is told so.
fn whom_a_program_calls_is_called_anew(scene: &Scene) {
    place(scene, "calling.py", include_str!("../programs/calling.py"));
    for (stays, told) in [(true, "0 0"), (false, "111 111")] {
        for name in ["ready", "result"] {
            let _absent = fs::remove_file(scene.stage(name));
        }
        let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
        rustix::net::listen(&server, 1).expect("it listens already");
        let at = server.local_addr().expect("it is bound");
        let early = [(); 2].map(|()| TcpStream::connect(at).expect("there is room for two"));
        let mut command = scene.command("setsid");
        command.args([PYTHON, "calling.py", &at.port().to_string()]);
        let mut traveller = Traveller::join(scene, scene.start(&mut command, Stdio::Files), "calling");
        scene.await_file("ready");
        traveller.freeze();
        let server = stays.then_some(server);
        if let Some(server) = &server {
            early.iter().for_each(|_| drop(server.accept().expect("two are there")));
        }
        traveller.thaw(&[]);
        assert_eq!(scene.await_file("result"), told, "what connect(2) and SO_ERROR say");
        traveller.ends();
    }
    scene.is_empty_soon();
}
