//! Snapshots of a redis of 100 MiB under load: the longest that a client waits, and the rate a second later.
//!
//! The load is redis-benchmark's own, 50 clients that set one of 100,000 keys each time (`redis-benchmark-...`); and one client
//! that sends batches of writes of 1 KiB over a socket and waits for the answers, as redis-benchmark does with a pipeline, which
//! writes to as many pages as can be copied in that time.

use crate::program::frost;
use crate::report::{Report, Sample};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 1000;
/// Requests of a batch.
const BATCH: u64 = 16;
/// Over so long a rate is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// What the client has seen since it was asked last.
#[derive(Clone, Copy, Default)]
struct Seen {
    longest: Duration,
    requests: u64,
}

struct Client {
    seen: Arc<Mutex<Seen>>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Client {
    fn start(mut socket: UnixStream) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let end = Arc::new(AtomicBool::new(false));
        let (told, ended) = (Arc::clone(&seen), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            let mut request = Vec::new();
            let mut answer = [0; 5 * BATCH as usize];
            while !ended.load(Ordering::Relaxed) {
                request.clear();
                for _ in 0..BATCH {
                    random ^= random >> 12;
                    random ^= random << 25;
                    random ^= random >> 27;
                    let key = format!("key:{}", random % KEYS);
                    write!(request, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE_BYTES}\r\n", key.len())?;
                    request.resize(request.len() + VALUE_BYTES, b'a' + (random >> 60) as u8);
                    request.extend(b"\r\n");
                }
                let began = Instant::now();
                socket.write_all(&request)?;
                // Each is `+OK`.
                socket.read_exact(&mut answer)?;
                let took = began.elapsed();
                let mut seen = told.lock().unwrap_or_else(PoisonError::into_inner);
                seen.longest = seen.longest.max(took);
                seen.requests += BATCH;
            }
            Ok(())
        });
        Self { seen, end, thread }
    }

    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns requests a second, and the longest wait, over a window.
    fn rate(&self) -> (u64, Duration) {
        self.take();
        let began = Instant::now();
        std::thread::sleep(WINDOW);
        let seen = self.take();
        ((seen.requests as f64 / began.elapsed().as_secs_f64()) as u64, seen.longest)
    }

    fn end(self) -> io::Result<()> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| io::Error::other("the client panicked"))?
    }
}

/// Starts it and fills it. `None` where there is no redis.
fn server(directory: &Path) -> io::Result<Option<(Child, UnixStream)>> {
    let socket = directory.join("redis");
    let started = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--enable-debug-command", "yes", "--unixsocket"])
        .arg(&socket)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut server = match started {
        Ok(server) => server,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) if server.try_wait()?.is_none() => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error),
        }
    };
    write!(stream, "DEBUG POPULATE {KEYS} key {VALUE_BYTES}\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    if answer != *b"+OK\r\n" {
        return Err(io::Error::other(format!("redis says {}", String::from_utf8_lossy(&answer))));
    }
    Ok(Some((server, stream)))
}

/// The requests of a run of redis-benchmark, which take some seconds.
const REQUESTS: &str = "400000";

/// Lets redis-benchmark set random keys, and returns how long a request took at most. `act` is done amid it.
fn benchmark(directory: &Path, act: impl FnOnce() -> io::Result<()>) -> io::Result<Option<u64>> {
    let started = Command::new("redis-benchmark")
        .args(["-t", "set", "-r", &KEYS.to_string(), "-n", REQUESTS, "--csv", "-s"])
        .arg(directory.join("redis"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let running = match started {
        Ok(running) => running,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    std::thread::sleep(WINDOW);
    act()?;
    let output = running.wait_with_output()?;
    // The last line is of the test, its last column the longest in milliseconds.
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().and_then(|line| line.rsplit(',').next());
    let longest = last.and_then(|cell| cell.trim_matches('"').parse::<f64>().ok());
    match longest {
        Some(ms) if output.status.success() => Ok(Some((ms * 1000.0) as u64)),
        _ => Err(io::Error::other(format!("redis-benchmark says {text}"))),
    }
}

/// Measures snapshots while redis-benchmark runs: how long it waited at most, beside a run without one, and how long the
/// server stood still.
fn under_benchmark(
    frost_binary: &Path,
    directory: &Path,
    pid: &str,
    rounds: u32,
    report: &mut Report,
) -> io::Result<()> {
    for round in 0..=rounds {
        let Some(usual) = benchmark(directory, || Ok(()))? else {
            eprintln!("skipped: there is no redis-benchmark");
            return Ok(());
        };
        let mut pause = 0;
        let waited = benchmark(directory, || {
            let arguments = ["freeze", pid, "--to", "redis", "--leave-running", "--full", "--json"];
            let (_, printed) = frost(frost_binary, directory, &arguments)?;
            let record: Value = serde_json::from_str(printed.lines().next().unwrap_or_default())?;
            pause = record["pause_us"].as_u64().unwrap_or(0);
            Ok(())
        })?;
        frost(frost_binary, directory, &["rm", "redis"])?;
        if round > 0 {
            let mut add = |figure: &str, side, value| {
                report.add(Sample { figure: figure.to_owned(), side, round, unit: "us", value })
            };
            add("redis-benchmark-longest-wait", "floor", usual)?;
            add("redis-benchmark-longest-wait", "frost", waited.unwrap_or(0))?;
            add("redis-benchmark-pause", "frost", pause)?;
        }
    }
    Ok(())
}

/// Measures `rounds` snapshots; the floor of a wait and of a rate is what the client saw just before.
pub(crate) fn measure(
    frost_binary: &Path,
    directory: &Path,
    rounds: u32,
    report: &mut Report,
) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    let Some((mut server, stream)) = server(&directory)? else {
        eprintln!("skipped: there is no redis-server");
        return Ok(());
    };
    let pid = server.id().to_string();
    let client = Client::start(stream);
    for round in 0..=rounds {
        let (before, usual) = client.rate();
        frost(frost_binary, &directory, &["freeze", &pid, "--to", "redis", "--leave-running", "--full"])?;
        let waited = client.take().longest;
        std::thread::sleep(Duration::from_secs(1));
        let (after, _) = client.rate();
        frost(frost_binary, &directory, &["rm", "redis"])?;
        if round > 0 {
            let mut add = |figure: &str, side, unit, value| {
                report.add(Sample { figure: figure.to_owned(), side, round, unit, value })
            };
            add("redis-longest-wait", "floor", "us", usual.as_micros() as u64)?;
            add("redis-longest-wait", "frost", "us", waited.as_micros() as u64)?;
            add("redis-rate", "floor", "1/s", before)?;
            add("redis-rate", "frost", "1/s", after)?;
        }
    }
    let ended = client.end().and_then(|()| under_benchmark(frost_binary, &directory, &pid, rounds, report));
    server.kill()?;
    server.wait()?;
    ended
}
