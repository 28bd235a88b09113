//! Components for the tests: what each does is its first argument.
#![forbid(unsafe_code)]

use frost_component::{Error, Session, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mode, word) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let done = match mode.as_str() {
        // A pure function of what it reads.
        "relay" => run(&["in"], &["out"], (), |(), roms| {
            let report = format!("{word}{}", roms.text("in"));
            ((), if roms.get("in").is_some() { vec![("out", report.into_bytes())] } else { Vec::new() })
        }),
        // Collects the words that it reads; what it knows is its report, fed back to it.
        "collect" => run(&["in", "known"], &["known"], (), |(), roms| {
            let mut known: Vec<&str> =
                roms.text("known").lines().chain(roms.text("in").split_whitespace()).collect();
            known.sort_unstable();
            known.dedup();
            ((), vec![("known", known.join("\n").into_bytes())])
        }),
        // Writes down each round once: the last one, how many, and a sum that depends on their order.
        "ledger" => {
            run(&["in", "known"], &["known"], (), |(), roms| ((), vec![("known", ledger(roms).into_bytes())]))
        }
        // Keeps in secret how many versions it has read.
        "secret" => run(&["in"], &["out"], 0u32, |count, roms| {
            let report = format!("{} is number {}", roms.text("in"), count + 1);
            (count + 1, vec![("out", report.into_bytes())])
        }),
        "silent" => run(&["in"], &[], (), |(), _| ((), Vec::new())),
        "crash" => return ExitCode::from(3),
        "hang" => hang(),
        "flood" => flood(&word),
        "acked" => acked(&word),
        "probe" => probe(&word),
        "large" => large(&word),
        "brief" => brief(),
        _ => Err(Error::Alone),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn ledger(roms: &frost_component::Roms) -> String {
    let known = roms.text("known").to_owned();
    let mut words = known.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
    let (last, count, sum) =
        (words.next().unwrap_or(0), words.next().unwrap_or(0), words.next().unwrap_or(0));
    let told = roms.text("in").trim_start_matches(|c: char| c.is_ascii_alphabetic());
    match told.strip_suffix('!').and_then(|number| number.parse::<u64>().ok()) {
        Some(number) if number > last => {
            let sum = (sum ^ number).wrapping_mul(0x0100_0000_01b3);
            let gap = if number == last + 1 { "" } else { " gap" };
            format!("{number} {} {sum}{gap}", count + 1)
        }
        _ if known.is_empty() => "0 0 0".to_owned(),
        _ => known,
    }
}

/// Counts; what was acknowledged it writes down in a file.
fn acked(path: &str) -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("out")?;
    let before = std::fs::read_to_string(path).unwrap_or_default();
    for number in before.trim().parse::<u64>().unwrap_or(0) + 1.. {
        session.submit("out", number.to_string().as_bytes())?;
        let draft = format!("{path}~");
        let written = std::fs::write(&draft, number.to_string()).and_then(|()| std::fs::rename(&draft, path));
        written.map_err(|error| Error::Protocol(error.to_string()))?;
    }
    Ok(())
}

/// Reports so often as fast as it can.
fn flood(count: &str) -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("out")?;
    for number in 1..=count.parse::<u64>().unwrap_or(1) {
        session.submit("out", number.to_string().as_bytes())?;
    }
    loop {
        session.wait()?;
    }
}

/// Reports, and does not look at its connection any more.
fn hang() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("out")?;
    session.submit("out", b"here")?;
    loop {
        std::thread::park();
    }
}

/// Tells what it reaches, and what is denied to it.
fn probe(outside: &str) -> Result<(), Error> {
    let mut session = Session::connect()?;
    let limit = session.report("out")?;
    let mut lines = vec![format!("limit {limit}")];
    let mut note = |what: &str, result: Result<(), String>| {
        lines.push(format!("{what}: {}", result.err().unwrap_or_else(|| "done".to_owned())));
    };
    let text = |error: &dyn std::fmt::Display| error.to_string();
    note("rom", session.rom("nothing").map_err(|error| text(&error)));
    note("undeclared", session.report("other").map(drop).map_err(|error| text(&error)));
    note("twice", session.report("out").map(drop).map_err(|error| text(&error)));
    note(
        "too long",
        session.submit("out", &vec![0; limit as usize + 1]).map(drop).map_err(|error| text(&error)),
    );
    let mut second = Session::connect()?;
    note("second", second.report("out").map(drop).map_err(|error| text(&error)));
    note("file", std::fs::read(outside).map(drop).map_err(|error| error.kind().to_string()));
    note("write", std::fs::write("/usr/probe", "x").map_err(|error| error.kind().to_string()));
    note("tmp", std::fs::write("/tmp/probe", "x").map_err(|error| error.kind().to_string()));
    let connected = std::net::TcpStream::connect("127.0.0.1:9");
    note("network", connected.map(drop).map_err(|error| error.kind().to_string()));
    let processes = std::fs::read_dir("/proc").map(|entries| {
        let names =
            entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        names.count()
    });
    lines.push(format!("processes: {}", processes.unwrap_or(0)));
    session.submit("out", lines.join("\n").as_bytes())?;
    loop {
        session.wait()?;
    }
}

/// Reports without waiting for answers, and ends at once; what it was told meanwhile it does not read.
fn brief() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("out")?;
    session.rom("in")?;
    for report in ["first", "second", "third", "last"] {
        session.put("out", report.as_bytes())?;
    }
    Ok(())
}

/// Passes a large document on: its length and whether all is there.
fn large(megabytes: &str) -> Result<(), Error> {
    let length = megabytes.parse::<usize>().unwrap_or(1) << 20;
    let document: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    let mut session = Session::connect()?;
    session.report("out")?;
    session.submit("out", &document)?;
    session.report("told")?;
    session.rom("in")?;
    session.wait()?;
    let version = session.read("in")?;
    let same = version.content.as_deref() == Some(&document[..]);
    session.submit("told", format!("{same} {}", version.number).as_bytes())?;
    loop {
        session.wait()?;
    }
}
