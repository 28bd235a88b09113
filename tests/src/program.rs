//! Real programs, unprepared, on their way: started, frozen and thawed several times in a row, asked what they know.
//!
//! `FROST_ROUNDS` says how many times (3).

use crate::journey::Traveller;
use crate::{Scene, Stdio, Who, skip, until};
use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Returns a number from the environment.
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Returns how often each program is frozen and thawed in a row.
pub fn rounds() -> usize {
    setting("FROST_ROUNDS", 3)
}

/// Returns whether a program is there; tells if it is not.
pub fn has(program: &str) -> bool {
    let found = if program.starts_with('/') {
        Path::new(program).exists()
    } else {
        std::env::var_os("PATH")
            .is_some_and(|paths| std::env::split_paths(&paths).any(|path| path.join(program).exists()))
    };
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

thread_local! {
    /// Whether programs that this test starts are started by `frost run`.
    static IN_THE_RUNTIME: Cell<bool> = const { Cell::new(false) };
}

/// Does something with programs that `frost run` starts; each test has a thread of its own.
pub fn in_the_runtime(test: impl FnOnce()) {
    IN_THE_RUNTIME.set(true);
    test();
    IN_THE_RUNTIME.set(false);
}

/// Starts a program in its stage, or not, if namespaces are needed for it and not allowed.
pub fn start<'a>(scene: &'a Scene, command: &mut Command) -> Option<Traveller<'a>> {
    match IN_THE_RUNTIME.get() {
        true => Traveller::join_in_the_runtime(scene, command, "program"),
        false => Some(Traveller::join(scene, scene.start(command, Stdio::Files), "program")),
    }
}

/// Writes a file into the stage, for the scene's user.
pub fn place(scene: &Scene, name: &str, text: &str) {
    let path = scene.stage(name);
    fs::write(&path, text).expect("our own directory");
    scene.give(&path);
}

/// Returns a port that the kernel found free; nobody else gets it in the moment until the server takes it, short of a wrap.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Freezes and thaws a program once for each round, and lets it be asked before and after each.
pub fn rounds_of(traveller: &mut Traveller<'_>, mut ask: impl FnMut(usize)) {
    ask(0);
    for round in 1..=rounds() {
        traveller.freeze();
        traveller.thaw(&[]);
        ask(round);
    }
}

/// Freezes and thaws a program in so many steps of its progress, told by the length of the file `progress`. It has half of its
/// way before it then, so that it does not come to its end where frost has to wait for a processor.
pub fn amid_progress(scene: &Scene, traveller: &mut Traveller<'_>, whole: u64) {
    let rounds = rounds() as u64;
    for round in 1..=rounds {
        until("the program makes progress", || {
            fs::metadata(scene.stage("progress"))
                .is_ok_and(|file| file.len() >= whole * round / (2 * rounds + 2))
                || scene.stage("done").exists()
        });
        assert!(!scene.stage("done").exists(), "the program ended before round {round}: make it longer");
        traveller.freeze();
        traveller.thaw(&[]);
    }
}

/// Sends a request to a server that counts them.
pub fn request(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // Node sends chunks; the line with the count is the longest.
    body.lines().max_by_key(|line| line.len()).unwrap_or_default().to_owned()
}

pub fn serving(who: Who, file: &str, text: &str, arguments: &[&str]) {
    if !has(arguments[0]) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, file, text);
    let mut command = scene.command("setsid");
    let Some(mut traveller) = start(&scene, command.args(arguments)) else { return };
    let port: u16 = scene.await_file("port").parse().expect("a port");
    let mut count = 0u64;
    let mut ask = || {
        count += 1;
        assert_eq!(request(port), format!("{count} word {}", count * 7919 % 50_000));
    };
    (0..5).for_each(|_| ask());
    for _ in 0..rounds() {
        traveller.freeze();
        if !IN_THE_RUNTIME.get() {
            // Its keeper would: whoever connects waits.
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody listens for a frozen server");
        }
        traveller.thaw(&[]);
        (0..5).for_each(|_| ask());
    }
}

/// Defines a test of each function as whoever runs the tests, one as an ordinary user, and one as that under `frost run`.
#[macro_export]
macro_rules! programs {
    ($($name:ident)*) => {$(
        mod $name {
            use frost_tests::Who;

            #[test]
            fn frozen_and_thawed() {
                super::$name(Who::Myself);
            }

            #[test]
            fn frozen_and_thawed_by_an_ordinary_user() {
                super::$name(Who::Ordinary);
            }

            #[test]
            fn frozen_and_thawed_in_the_runtime() {
                frost_tests::program::in_the_runtime(|| super::$name(Who::Ordinary));
            }
        }
    )*};
}
