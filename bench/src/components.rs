//! Components: what a document costs on its way, beside messages over bare unix sockets in the same run.
//!
//! | figure | from | to | floor |
//! |---|---|---|---|
//! | `wake` | start of `put` | the reader has the version in hand | a ping-pong: a message there and one back, since a document takes two as well, to whoever serves it and to its reader |
//! | `wake-99` | the same, of which 99 of 100 take less | | the same |
//! | `submit` | start of a submit | its answer, while somebody reads, one after another | a ping-pong of messages as long |
//! | `put` | of 1,000 reports that are not answered, the first | the last is done; divided by 1,000 | the same |
//! | `wake-100-readers` | start of `put` | the last of 100 has the version in hand | a message to each of 100 processes |
//! | `document-100M` | start of `submit` | the reader has mapped it, and read a byte of each page | the same by a memfd over a bare socket |
//! | `start-1000` | `frost up` | the last of 1,000 has reported | starting 1,000 processes that do nothing |
//! | `change-1000` | a document's file is replaced | the last of 1,000 has reported what it says | |
//! | `memory-1000` | | proportional set of all processes of the scenario, bytes | that of 1,000 that do nothing |
//!
//! A reader takes the clock's time when it has the content; the clock is one for all processes. All components are isolated.

use crate::machine::Machine;
use crate::report::{Report, Sample};
use frost_component::wire;
use frost_component::{Content, Error, Session};
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// What to measure, and where.
#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// The frost-scenario to measure
    #[arg(long, default_value = "target/release/frost-scenario")]
    scenario: PathBuf,
    /// Where the store lies; its name has to be short, since sockets lie in it
    #[arg(long, default_value = "/tmp/frost-bench")]
    directory: PathBuf,
    /// Where raw results are kept
    #[arg(long, default_value = "bench/runs")]
    results: PathBuf,
    /// Turns of each figure
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// How many components there are when there are many
    #[arg(long, default_value_t = 1000)]
    many: usize,
}

/// What a process of the bench is, if not the bench.
#[derive(clap::Args, Clone)]
pub(crate) struct Role {
    role: String,
    socket: Option<PathBuf>,
}

/// Messages in a turn.
const MESSAGES: u64 = 1000;
/// The length of a message, and of a report.
const LENGTH: usize = 64;
/// Who reads one report at once.
const READERS: usize = 100;
/// Reports in a turn that all of these read.
const FANNED: u64 = 20;
const LARGE: usize = 100 << 20;

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A message: when it was sent, which one it is, and what fills it up.
fn stamped(number: u64) -> Vec<u8> {
    let mut text = format!("{} {number} ", now()).into_bytes();
    text.resize(LENGTH.max(text.len()), b'.');
    text
}

fn stamp(content: &[u8]) -> Option<(u64, u64)> {
    let mut words = std::str::from_utf8(content.get(..LENGTH.min(content.len()))?).ok()?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn percent(spans: &mut [u64], share: usize) -> u64 {
    spans.sort_unstable();
    spans.get(spans.len().saturating_sub(1) * share / 100).copied().unwrap_or(0)
}

impl Role {
    /// Is the process that it is to be.
    pub(crate) fn play(&self) -> io::Result<()> {
        let done = match self.role.as_str() {
            "ping" => ping(),
            "pong" => pong(),
            "flood" => flood(),
            "follow" => follow(),
            "fan" => fan(),
            "ear" => ear(),
            "large" => large(),
            "large-reader" => large_reader(),
            "relay" => frost_component::run(&["in"], &["out"], (), |(), roms| {
                ((), vec![("out", roms.text("in").into())])
            }),
            role => return self.play_floor(role),
        };
        match done {
            Ok(()) | Err(Error::Gone) => Ok(()),
            Err(error) => Err(other(error)),
        }
    }

    fn play_floor(&self, role: &str) -> io::Result<()> {
        let Some(path) = &self.socket else { return Err(other("there is no such role")) };
        let socket = bare()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        loop {
            let Some(packet) = wire::receive(&socket, RecvFlags::empty())? else { return Ok(()) };
            let now = now();
            match (role, packet.fd) {
                ("echo", _) => wire::send(&socket, "m", &packet.body, None)?,
                ("listener", _) => {
                    let took = stamp(&packet.body).map_or(0, |(sent, _)| now.saturating_sub(sent));
                    wire::send(&socket, &took.to_string(), &[], None)?;
                }
                (_, fd) => {
                    let content = Content::take(packet.body, fd, u64::MAX)?;
                    let sum = touched(&content);
                    wire::send(&socket, &format!("{} {sum}", self::now()), &[], None)?;
                }
            }
        }
    }
}

/// The sum of a byte of each page.
fn touched(content: &[u8]) -> u64 {
    content.iter().step_by(4096).map(|byte| u64::from(*byte)).sum()
}

/// Waits for the next turn: a version of `go`.
fn turn(session: &mut Session) -> Result<u64, Error> {
    loop {
        let name = session.wait()?;
        // What is not read signals no more.
        let version = session.read(&name)?;
        if name == "go" {
            let text = version.content.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            if let Some(number) = text.and_then(|text| text.trim().parse().ok()).filter(|number| *number > 0)
            {
                return Ok(number);
            }
        }
    }
}

fn told(session: &mut Session, turn: u64, mut spans: Vec<u64>) -> Result<(), Error> {
    let text = format!("{turn} {} {}", percent(&mut spans, 50), percent(&mut spans, 99));
    session.submit("figures", text.as_bytes()).map(drop)
}

/// Reports, and waits until `pong` has reported what it read; both ways are measured.
fn ping() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("figures")?;
    session.report("out")?;
    session.rom_sent("in")?;
    session.rom("go")?;
    loop {
        let turn = turn(&mut session)?;
        let mut spans = Vec::new();
        for number in turn * MESSAGES..(turn + 1) * MESSAGES {
            session.put("out", &stamped(number))?;
            loop {
                let name = session.wait()?;
                let version = session.read(&name)?;
                let arrived = now();
                if let Some((sent, answered)) = version.content.as_deref().and_then(stamp)
                    && answered == number
                    && name == "in"
                {
                    spans.push(arrived.saturating_sub(sent));
                    break;
                }
            }
        }
        told(&mut session, turn, spans)?;
    }
}

fn pong() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("out")?;
    session.rom_sent("in")?;
    loop {
        let name = session.wait()?;
        if let Some((_, number)) = session.read(&name)?.content.as_deref().and_then(stamp) {
            session.put("out", &stamped(number))?;
        }
    }
}

/// Reports as fast as it is answered.
fn flood() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("figures")?;
    session.report("out")?;
    session.rom("go")?;
    loop {
        let turn = turn(&mut session)?;
        let start = now();
        for number in 0..MESSAGES {
            session.submit("out", &stamped(number))?;
        }
        let answered = (now() - start) / MESSAGES;
        let start = now();
        for number in 1..MESSAGES {
            session.put("out", &stamped(number))?;
        }
        // Its answer says that all before it are done.
        session.submit("out", &stamped(MESSAGES))?;
        let text = format!("{turn} {answered} {}", (now() - start) / MESSAGES);
        session.submit("figures", text.as_bytes())?;
    }
}

/// Reads all that it can get.
fn follow() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.rom_sent("in")?;
    loop {
        let name = session.wait()?;
        session.read(&name)?;
    }
}

/// Reports to many, and waits until all have read it.
fn fan() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("figures")?;
    session.report("out")?;
    session.rom("go")?;
    for reader in 0..READERS {
        session.rom_sent(&format!("r{reader}"))?;
    }
    loop {
        let turn = turn(&mut session)?;
        let mut spans = Vec::new();
        for number in turn * FANNED..(turn + 1) * FANNED {
            session.put("out", &stamped(number))?;
            let (mut heard, mut last) = (std::collections::BTreeSet::new(), 0);
            while heard.len() < READERS {
                let name = session.wait()?;
                let version = session.read(&name)?;
                if let Some((took, answered)) = version.content.as_deref().and_then(stamp)
                    && answered == number
                    && heard.insert(name)
                {
                    last = last.max(took);
                }
            }
            spans.push(last);
        }
        told(&mut session, turn, spans)?;
    }
}

/// Tells how long each version took.
fn ear() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("took")?;
    session.rom_sent("in")?;
    loop {
        let name = session.wait()?;
        let version = session.read(&name)?;
        let arrived = now();
        if let Some((sent, number)) = version.content.as_deref().and_then(stamp) {
            let text = format!("{} {number} .", arrived.saturating_sub(sent));
            session.put("took", text.as_bytes())?;
        }
    }
}

fn large() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("figures")?;
    session.report("out")?;
    session.rom("go")?;
    session.rom_sent("in")?;
    let mut document = vec![7u8; LARGE];
    loop {
        let turn = turn(&mut session)?;
        document[0] = turn as u8;
        let start = now();
        session.submit("out", &document)?;
        loop {
            let name = session.wait()?;
            let version = session.read(&name)?;
            if let Some((arrived, number)) = version.content.as_deref().and_then(stamp)
                && name == "in"
                && number == u64::from(turn as u8)
            {
                told(&mut session, turn, vec![arrived.saturating_sub(start)])?;
                break;
            }
        }
    }
}

fn large_reader() -> Result<(), Error> {
    let mut session = Session::connect()?;
    session.report("took")?;
    session.rom_sent("in")?;
    loop {
        let name = session.wait()?;
        if let Some(content) = session.read(&name)?.content {
            let sum = touched(&content);
            let text = format!("{} {} {sum}", now(), content.first().copied().unwrap_or(0));
            session.submit("took", text.as_bytes())?;
        }
    }
}

fn bare() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Processes at the other ends of bare sockets.
struct Floor {
    children: Vec<Child>,
    sockets: Vec<OwnedFd>,
}

impl Floor {
    fn start(directory: &Path, role: &str, count: usize) -> io::Result<Self> {
        let path = directory.join("floor");
        let _ = fs::remove_file(&path);
        let listener = bare()?;
        bind(&listener, &SocketAddrUnix::new(&path)?)?;
        listen(&listener, 128)?;
        let mut floor = Self { children: Vec::new(), sockets: Vec::new() };
        for _ in 0..count {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["component", role]).arg(&path).stdin(Stdio::null());
            floor.children.push(command.spawn()?);
            floor.sockets.push(accept_with(&listener, SocketFlags::CLOEXEC)?);
        }
        Ok(floor)
    }

    fn ask(&self, index: usize) -> io::Result<wire::Packet> {
        wire::receive(&self.sockets[index], RecvFlags::empty())?.ok_or_else(|| other("the floor is gone"))
    }

    fn ping_pong(&self) -> io::Result<Vec<u64>> {
        let mut spans = Vec::new();
        for number in 0..MESSAGES {
            let start = now();
            wire::send(&self.sockets[0], "m", &stamped(number), None)?;
            self.ask(0)?;
            spans.push(now() - start);
        }
        Ok(spans)
    }

    fn fan(&self) -> io::Result<Vec<u64>> {
        let mut spans = Vec::new();
        for number in 0..FANNED {
            let message = stamped(number);
            for socket in &self.sockets {
                wire::send(socket, "m", &message, None)?;
            }
            let mut last = 0;
            for index in 0..self.sockets.len() {
                last = last.max(self.ask(index)?.head.parse().unwrap_or(0));
            }
            spans.push(last);
        }
        Ok(spans)
    }

    fn large(&self, document: &[u8]) -> io::Result<u64> {
        let start = now();
        let content = Content::new(document)?;
        wire::send(&self.sockets[0], "m", &[], content.memory())?;
        let answer = self.ask(0)?;
        Ok(answer.words().0.parse::<u64>().unwrap_or(0).saturating_sub(start))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.sockets.clear();
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// A scenario that runs.
struct Stage {
    supervisor: Child,
    directory: PathBuf,
    session: Session,
}

impl Stage {
    fn up(options: &Options, text: &str) -> io::Result<Self> {
        let directory = options.directory.canonicalize()?;
        fs::write(directory.join("go"), "0")?;
        fs::write(directory.join("s.toml"), text)?;
        let mut command = Command::new(options.scenario.canonicalize()?);
        command.args(["up", "s.toml"]).current_dir(&directory).env("FROST_HOME", &directory);
        let mut supervisor =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let control = directory.join("scenarios/s/control");
        let session = loop {
            if let Ok(mut session) = Session::connect_to(&control)
                && session.ask("status", "-", &[], None).is_ok()
            {
                break session;
            }
            if let Some(status) = supervisor.try_wait()? {
                return Err(other(format!("the scenario has ended: {status}")));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        Ok(Self { supervisor, directory, session })
    }

    /// Replaces the document that lets components go on.
    fn go(&self, turn: u64) -> io::Result<()> {
        let draft = self.directory.join("go~");
        fs::write(&draft, turn.to_string())?;
        fs::rename(draft, self.directory.join("go"))
    }

    /// Opens a report, as soon as there is one.
    fn watch(&mut self, name: &str) -> io::Result<()> {
        loop {
            match self.session.ask("report", name, &[], None) {
                Ok(_) => return Ok(()),
                Err(Error::Denied { .. }) => std::thread::sleep(std::time::Duration::from_millis(1)),
                Err(error) => return Err(other(error)),
            }
        }
    }

    /// Waits until one of the reports that were opened says what is wanted.
    fn hear<T>(&mut self, mut wanted: impl FnMut(&str, &str) -> Option<T>) -> io::Result<T> {
        loop {
            let name = self.session.wait().map_err(other)?;
            let version = self.session.read(&name).map_err(other)?;
            let text = version.content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            if let Some(found) = wanted(&name, &text.unwrap_or_default()) {
                return Ok(found);
            }
        }
    }

    /// Lets a turn begin, and returns what the component tells of it: median, and what 99 of 100 are below.
    fn turn(&mut self, turn: u64) -> io::Result<(u64, u64)> {
        self.go(turn)?;
        self.hear(|_, text| {
            let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
            (numbers.len() == 3 && numbers[0] == turn).then(|| (numbers[1], numbers[2]))
        })
    }

    /// The proportional set of all its processes, in bytes.
    fn memory(&self) -> u64 {
        proportional(self.supervisor.id())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.session.ask("down", "", &[], None);
        let _ = self.supervisor.wait();
        let _ = fs::remove_dir_all(self.directory.join("scenarios"));
    }
}

/// The proportional set of a process and all below it.
fn proportional(root: u32) -> u64 {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let status = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = status.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let (mut sum, mut open) = (0, vec![root]);
    while let Some(pid) = open.pop() {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        sum += line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024;
        open.extend(children.remove(&pid).unwrap_or_default());
    }
    sum
}

fn component(name: &str, role: &str, program: &Path) -> String {
    format!(
        "[component.{name}]\nbinary = {:?}\narguments = [\"component\", \"{role}\"]\nlimit = \"128MiB\"\n",
        program.display().to_string()
    )
}

fn route(component: &str, rom: &str, from: &str) -> String {
    format!("[[route]]\nmatch = {{ component = \"{component}\", rom = \"{rom}\" }}\nfrom = \"{from}\"\n")
}

const GO: &str =
    "[document.go]\nfile = \"go\"\n[[route]]\nmatch = { rom = \"go\" }\nfrom = \"document/go\"\n";

/// The samples of a run.
struct Samples<'a> {
    report: &'a mut Report,
    all: Vec<Sample>,
}

impl Samples<'_> {
    fn add(
        &mut self,
        figure: &str,
        side: &'static str,
        round: u32,
        unit: &'static str,
        value: u64,
    ) -> io::Result<()> {
        let sample = Sample { figure: figure.to_owned(), side, round, unit, value };
        self.all.push(sample.clone());
        self.report.add(sample)
    }

    /// Median, least and greatest of a side of a figure.
    fn spread(&self, figure: &str, side: &str) -> Option<(u64, u64, u64)> {
        let of = |sample: &&Sample| sample.figure == figure && sample.side == side;
        let mut values: Vec<u64> = self.all.iter().filter(of).map(|sample| sample.value).collect();
        values.sort_unstable();
        Some((*values.get(values.len() / 2)?, *values.first()?, *values.last()?))
    }

    fn table(&self) -> String {
        let mut text =
            String::from("| figure | frost (least to greatest) | floor (least to greatest) | ratio |\n");
        text.push_str("|---|---|---|---|\n");
        let mut figures: Vec<(&str, &str)> = Vec::new();
        for sample in &self.all {
            if !figures.contains(&(sample.figure.as_str(), sample.unit)) {
                figures.push((&sample.figure, sample.unit));
            }
        }
        for (figure, unit) in figures {
            let (scale, name) = match unit {
                "ns" => (1e3, "us"),
                "us" => (1e3, "ms"),
                _ => (f64::from(1 << 20), "MiB"),
            };
            let cell = |spread: Option<(u64, u64, u64)>| {
                spread.map_or_else(String::new, |(median, least, greatest)| {
                    let [median, least, greatest] =
                        [median, least, greatest].map(|value| value as f64 / scale);
                    format!("{median:.1} {name} ({least:.1} to {greatest:.1})")
                })
            };
            let (frost, floor) = (self.spread(figure, "frost"), self.spread(figure, "floor"));
            let ratio = frost.zip(floor).map_or_else(String::new, |(frost, floor)| {
                format!("{:.2}", frost.0 as f64 / floor.0.max(1) as f64)
            });
            text.push_str(&format!("| {figure} | {} | {} | {ratio} |\n", cell(frost), cell(floor)));
        }
        text
    }
}

/// Measures all figures and prints the table.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    fs::create_dir_all(&options.directory)?;
    let version = Command::new(&options.scenario).arg("--version").output()?.stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let machine = Machine::describe(&options.directory, version.trim().to_owned());
    let mut report = Report::create(&options.results, &machine)?;
    let mut samples = Samples { report: &mut report, all: Vec::new() };
    let program = std::env::current_exe()?;
    messages(options, &program, &mut samples)?;
    readers(options, &program, &mut samples)?;
    document(options, &program, &mut samples)?;
    many(options, &program, &mut samples)?;
    println!("{}\n\n{}", machine.line(), samples.table());
    Ok(())
}

fn messages(options: &Options, program: &Path, samples: &mut Samples<'_>) -> io::Result<()> {
    let text = [
        component("ping", "ping", program),
        component("pong", "pong", program),
        route("ping", "in", "pong/out"),
        route("pong", "in", "ping/out"),
        GO.to_owned(),
    ];
    let floor = Floor::start(&options.directory, "echo", 1)?;
    let mut stage = Stage::up(options, &text.concat())?;
    stage.watch("ping/figures")?;
    for round in 0..options.rounds {
        let mut spans = floor.ping_pong()?;
        let (median, most) = stage.turn(u64::from(round) + 1)?;
        samples.add("wake", "frost", round, "ns", median)?;
        samples.add("wake", "floor", round, "ns", percent(&mut spans, 50))?;
        samples.add("wake-99", "frost", round, "ns", most)?;
        samples.add("wake-99", "floor", round, "ns", percent(&mut spans, 99))?;
    }
    drop(stage);
    let text = [
        component("flood", "flood", program),
        component("follow", "follow", program),
        route("follow", "in", "flood/out"),
        GO.to_owned(),
    ];
    let mut stage = Stage::up(options, &text.concat())?;
    stage.watch("flood/figures")?;
    for round in 0..options.rounds {
        let start = now();
        floor.ping_pong()?;
        let floor = (now() - start) / MESSAGES;
        let (submit, put) = stage.turn(u64::from(round) + 1)?;
        for (figure, took) in [("submit", submit), ("put", put)] {
            samples.add(figure, "floor", round, "ns", floor)?;
            samples.add(figure, "frost", round, "ns", took)?;
        }
    }
    Ok(())
}

fn readers(options: &Options, program: &Path, samples: &mut Samples<'_>) -> io::Result<()> {
    let mut text = component("fan", "fan", program);
    for reader in 0..READERS {
        text.push_str(&component(&format!("e{reader}"), "ear", program));
    }
    for reader in 0..READERS {
        text.push_str(&route("fan", &format!("r{reader}"), &format!("e{reader}/took")));
    }
    text.push_str("[[route]]\nmatch = { rom = \"in\" }\nfrom = \"fan/out\"\n");
    text.push_str(GO);
    let floor = Floor::start(&options.directory, "listener", READERS)?;
    let mut stage = Stage::up(options, &text)?;
    stage.watch("fan/figures")?;
    for round in 0..options.rounds {
        let mut spans = floor.fan()?;
        let (median, _) = stage.turn(u64::from(round) + 1)?;
        samples.add("wake-100-readers", "frost", round, "ns", median)?;
        samples.add("wake-100-readers", "floor", round, "ns", percent(&mut spans, 50))?;
    }
    Ok(())
}

fn document(options: &Options, program: &Path, samples: &mut Samples<'_>) -> io::Result<()> {
    let text = [
        component("large", "large", program),
        component("reader", "large-reader", program),
        route("reader", "in", "large/out"),
        route("large", "in", "reader/took"),
        GO.to_owned(),
    ];
    let floor = Floor::start(&options.directory, "taker", 1)?;
    let mut stage = Stage::up(options, &text.concat())?;
    stage.watch("large/figures")?;
    let document = vec![7u8; LARGE];
    for round in 0..options.rounds {
        samples.add("document-100M", "floor", round, "us", floor.large(&document)? / 1000)?;
        samples.add("document-100M", "frost", round, "us", stage.turn(u64::from(round) + 1)?.0 / 1000)?;
    }
    Ok(())
}

fn many(options: &Options, program: &Path, samples: &mut Samples<'_>) -> io::Result<()> {
    let mut text = String::new();
    for number in 0..options.many {
        text.push_str(&component(&format!("c{number}"), "relay", program));
    }
    text.push_str(
        "[[route]]\nmatch = { rom = \"in\" }\nfrom = \"document/go\"\n[document.go]\nfile = \"go\"\n",
    );
    let count = options.many;
    for round in 0..options.rounds.div_ceil(5) {
        let start = Instant::now();
        let floor = Floor::start(&options.directory, "echo", count)?;
        samples.add(&format!("start-{count}"), "floor", round, "us", start.elapsed().as_micros() as u64)?;
        samples.add(&format!("memory-{count}"), "floor", round, "bytes", proportional(std::process::id()))?;
        drop(floor);
        let start = Instant::now();
        let mut stage = Stage::up(options, &text)?;
        for number in 0..count {
            stage.watch(&format!("c{number}/out"))?;
        }
        let at = |stage: &mut Stage, value: &str| {
            let mut heard = std::collections::BTreeSet::new();
            stage.hear(|name, text| {
                if text == value {
                    heard.insert(name.to_owned());
                }
                (heard.len() == count).then_some(())
            })
        };
        at(&mut stage, "0")?;
        samples.add(&format!("start-{count}"), "frost", round, "us", start.elapsed().as_micros() as u64)?;
        samples.add(&format!("memory-{count}"), "frost", round, "bytes", stage.memory())?;
        let start = Instant::now();
        stage.go(1)?;
        at(&mut stage, "1")?;
        samples.add(&format!("change-{count}"), "frost", round, "us", start.elapsed().as_micros() as u64)?;
    }
    Ok(())
}
