//! From a submit to the reader's wake-up, beside a bare ping-pong over a unix socket in the same run.
//!
//! Two of these make a scenario: `ping` reports and waits for `pong` to report what it has read.
#![forbid(unsafe_code)]

use frost_component::{Error, Session};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5_000;

fn main() -> Result<(), Error> {
    match std::env::args().nth(1).as_deref() {
        Some("pong") => pong(),
        _ => ping(),
    }
}

fn pong() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("out")?;
    session.rom("in")?;
    loop {
        let name = session.wait()?;
        if let Some(content) = session.read(&name)?.content {
            session.submit("out", &content)?;
        }
    }
}

fn ping() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("out")?;
    session.report("figures")?;
    session.rom("in")?;
    let mut there_and_back = Vec::new();
    for round in 0..ROUNDS {
        let (start, text) = (Instant::now(), round.to_string());
        session.submit("out", text.as_bytes())?;
        loop {
            let name = session.wait()?;
            if session.read(&name)?.content.is_some_and(|content| *content == *text.as_bytes()) {
                break;
            }
        }
        there_and_back.push(start.elapsed());
    }
    let text = format!("frost: {}\nfloor: {}\n", tell(there_and_back), tell(floor()));
    session.submit("figures", text.as_bytes())?;
    loop {
        session.wait()?;
    }
}

/// A process is too much to start where there is but this binary: another thread answers.
fn floor() -> Vec<Duration> {
    let Ok((mut ours, mut theirs)) = UnixStream::pair() else { return Vec::new() };
    std::thread::spawn(move || {
        let mut byte = [0];
        while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
    });
    let mut spans = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        if ours.write_all(&[1]).and_then(|()| ours.read_exact(&mut [0])).is_err() {
            break;
        }
        spans.push(start.elapsed());
    }
    spans
}

/// One way, since there and back are two.
fn tell(mut spans: Vec<Duration>) -> String {
    spans.sort_unstable();
    let at = |share: usize| {
        spans.get(spans.len().saturating_sub(1) * share / 1000).copied().unwrap_or_default() / 2
    };
    format!("one way {:?} median, {:?} at 99 %", at(500), at(990))
}
