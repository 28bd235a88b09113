//! The environment of `frost run`: what a program pays for living in it, and what it costs to be started there.
//!
//! | figure | unit of work | measured as |
//! |---|---|---|
//! | `getpid`, `read` | a system call: getpid(2), a read of one byte from `/dev/zero` | processor time of the process |
//! | `compute` | a multiplication, a rotation and an access to 1 MiB of memory | the same |
//! | `redis` | a request of redis-benchmark, over a unix socket | processor time of the server, all its threads |
//! | `build` | compiling and linking a project of C files | processor time of all compilers |
//! | `start` | `frost run -- true` | wall time; the floor is unshare(1) with the same namespaces |
//! | `start-static` | the same of the static build, which is distributed | the same |
//!
//! Inside and outside take turns, each turn the other first. What is told of processor time is the mean of the logarithms of
//! the ratios of the turns, with the 95 % interval of Student's distribution: so a machine that is busier in one turn than in
//! another widens the interval, and does not move it.

use crate::machine::Machine;
use crate::program::frost;
use crate::report::{Report, Sample, Spread};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What to measure, and where.
#[derive(clap::Args, Clone)]
pub(crate) struct Options {
    /// The frost to measure
    #[arg(long, default_value = "target/release/frost")]
    frost: PathBuf,
    /// The static build of it, as it is distributed, whose start is measured as well
    #[arg(long = "static", value_name = "FROST")]
    distributed: Option<PathBuf>,
    /// Where the store and the project that is built lie
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Where raw results are kept
    #[arg(long, default_value = "bench/runs")]
    results: PathBuf,
    /// Turns of each figure; four times as many of the start
    #[arg(long, default_value_t = 12)]
    rounds: u32,
}

/// What a process of the bench does, if it is not the bench.
#[derive(clap::Args, Clone)]
pub(crate) struct Work {
    kind: Kind,
    directory: PathBuf,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Kind {
    Getpid,
    Read,
    Compute,
    Build,
}

const CALLS: u64 = 2_000_000;
const STEPS: u64 = 60_000_000;
const REQUESTS: u64 = 60_000;
const FILES: usize = 8;

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Work {
    /// Does it, and prints the processor time that it took.
    pub(crate) fn be(&self) -> io::Result<()> {
        let began = processor_time();
        let spent = match self.kind {
            Kind::Getpid => {
                for _ in 0..CALLS {
                    black_box(rustix::process::getpid());
                }
                processor_time() - began
            }
            Kind::Read => {
                let mut zero = std::fs::File::open("/dev/zero")?;
                let mut byte = [0];
                for _ in 0..CALLS {
                    zero.read_exact(&mut byte)?;
                }
                processor_time() - began
            }
            Kind::Compute => {
                black_box(compute());
                processor_time() - began
            }
            Kind::Build => build(&self.directory)?,
        };
        println!("{}", spent.as_nanos());
        Ok(())
    }
}

fn compute() -> u64 {
    let mut memory = vec![0u64; 1 << 17];
    let mut value = 0x9e37_79b9_7f4a_7c15_u64;
    for step in 0..STEPS {
        value = value.wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(31) ^ step;
        let place = (value >> 47) as usize;
        memory[place] = memory[place].wrapping_add(value);
        value ^= memory[place >> 1];
    }
    value
}

/// Compiles and links what [`project`] has written.
fn build(directory: &Path) -> io::Result<Duration> {
    let before = frost_sys::own::processor_time_of_children()?;
    let mut objects = Vec::new();
    for number in 0..FILES {
        let object = directory.join(format!("{number}.o"));
        let source = directory.join(format!("{number}.c"));
        done(Command::new("gcc").args(["-O1", "-c", "-o"]).arg(&object).arg(source))?;
        objects.push(object);
    }
    done(Command::new("gcc").arg("-o").arg(directory.join("project")).args(objects))?;
    Ok(frost_sys::own::processor_time_of_children()? - before)
}

fn done(command: &mut Command) -> io::Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}

/// Writes the sources of a program of several files.
fn project(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for number in 0..FILES {
        let mut text = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
        for function in 0..40 {
            text.push_str(&format!(
                "int f{number}_{function}(int n) {{ int s = {function}; for (int i = 0; i < n; i++) \
                 s = s * {} + (i ^ n) % {}; return s; }}\n",
                function * 2 + 3,
                number + function + 2
            ));
        }
        if number == 0 {
            text.push_str(
                "int main(int count, char **words) { printf(\"%d\\n\", f0_0(count)); return 0; }\n",
            );
        }
        std::fs::write(directory.join(format!("{number}.c")), text)?;
    }
    Ok(())
}

struct Bench {
    frost: PathBuf,
    directory: PathBuf,
    report: Report,
}

impl Bench {
    /// Lets a process of ours work, inside or outside, and returns the processor time that it tells, in nanoseconds.
    fn work(&self, kind: &str, inside: bool) -> io::Result<u64> {
        let own = std::env::current_exe()?;
        let project = self.directory.join("project");
        let mut command = if inside { self.run(&["--"]) } else { Command::new(&own) };
        if inside {
            command.arg(&own);
        }
        let output = command.args(["work", kind]).arg(project).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().map_err(|_| {
            io::Error::other(format!("{kind}: {text}{}", String::from_utf8_lossy(&output.stderr)))
        })
    }

    fn run(&self, more: &[&str]) -> Command {
        self.run_by(&self.frost, more)
    }

    fn run_by(&self, frost: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(frost);
        command.arg("--store").arg(self.directory.join("store")).arg("run").args(more);
        command
    }

    fn add(&mut self, figure: &str, inside: bool, round: u32, value: u64) -> io::Result<()> {
        let side = if inside { "frost" } else { "floor" };
        self.report.add(Sample { figure: figure.to_owned(), side, round, unit: "ns", value })
    }
}

/// A redis server, inside or outside.
struct Redis {
    pid: i32,
    socket: PathBuf,
    /// Ours, if it is outside.
    child: Option<std::process::Child>,
}

impl Redis {
    fn start(bench: &Bench, inside: bool) -> io::Result<Self> {
        let socket = bench.directory.join(if inside { "redis-in" } else { "redis-out" });
        let words = ["redis-server", "--port", "0", "--save", "", "--unixsocket"];
        let (pid, child) = if inside {
            let output = bench
                .run(&["--detach", "--json", "--name", "bench-redis", "--"])
                .args(words)
                .arg(&socket)
                .output()?;
            let record: serde_json::Value = serde_json::from_slice(&output.stdout)
                .map_err(|_| io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))?;
            (record["pid"].as_i64().unwrap_or(0) as i32, None)
        } else {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
            let child = command.spawn()?;
            (child.id() as i32, Some(child))
        };
        let redis = Self { pid, socket, child };
        let began = Instant::now();
        while UnixStream::connect(&redis.socket).is_err() {
            if began.elapsed() > Duration::from_secs(20) {
                return Err(io::Error::other("redis does not answer"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(redis)
    }

    /// Nanoseconds on a processor of all its threads: the first number of `schedstat`.
    fn spent(&self) -> io::Result<u64> {
        let mut sum = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            sum += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }

    fn load(&self) -> io::Result<u64> {
        let before = self.spent()?;
        let mut command = Command::new("redis-benchmark");
        command.arg("-s").arg(&self.socket).args(["-q", "-t", "set", "-c", "8", "-r", "1000", "-n"]);
        done(command.arg(REQUESTS.to_string()).stdout(Stdio::null()))?;
        Ok(self.spent()? - before)
    }

    fn end(self, bench: &Bench) -> io::Result<()> {
        match self.child {
            Some(mut child) => {
                child.kill()?;
                child.wait()?;
            }
            None => {
                frost(&bench.frost, &bench.directory, &["kill", "-s", "KILL", "bench-redis"])?;
                // It tells how the program ended by its own status.
                let _ = frost(&bench.frost, &bench.directory, &["wait", "bench-redis"]);
                frost(&bench.frost, &bench.directory, &["rm", "bench-redis"])?;
            }
        }
        let _ = std::fs::remove_file(self.socket);
        Ok(())
    }
}

/// The start of a program in namespaces like those of `frost run`, by util-linux.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount", "--mount-proc", "--ipc", "--uts", "--time"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user"]);
    }
    command.arg("true");
    command
}

/// Measures all of it.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    std::fs::create_dir_all(&options.directory)?;
    let directory = options.directory.canonicalize()?;
    let frost_path = options.frost.canonicalize()?;
    let (_, version) = frost(&frost_path, &directory, &["--version"])?;
    let machine = Machine::describe(&directory, version.trim().to_owned());
    println!("{}", machine.line());
    let report = Report::create(&options.results, &machine)?;
    let mut bench = Bench { frost: frost_path, directory, report };
    project(&bench.directory.join("project"))?;
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let mut table =
        String::from("| figure | inside, one unit | outside | difference (95 %) |\n|---|---|---|---|\n");
    for (kind, units) in [("getpid", CALLS), ("read", CALLS), ("compute", STEPS), ("build", 1)] {
        if kind == "build" && !has("gcc") {
            println!("skipped: gcc is not installed");
            continue;
        }
        // The first turn warms caches up, and does not count.
        let mut turns = Vec::new();
        for round in 0..=options.rounds {
            let mut pair = [0; 2];
            for inside in order(round) {
                pair[usize::from(inside)] = bench.work(kind, inside)?;
            }
            if round > 0 {
                bench.add(kind, false, round, pair[0])?;
                bench.add(kind, true, round, pair[1])?;
                turns.push(pair);
            }
        }
        table.push_str(&row(kind, units, &turns));
    }
    if has("redis-server") && has("redis-benchmark") {
        let servers = [Redis::start(&bench, false)?, Redis::start(&bench, true)?];
        let mut turns = Vec::new();
        for round in 0..=options.rounds {
            let mut pair = [0; 2];
            for inside in order(round) {
                pair[usize::from(inside)] = servers[usize::from(inside)].load()?;
            }
            if round > 0 {
                bench.add("redis", false, round, pair[0])?;
                bench.add("redis", true, round, pair[1])?;
                turns.push(pair);
            }
        }
        for server in servers {
            server.end(&bench)?;
        }
        table.push_str(&row("redis", REQUESTS, &turns));
    } else {
        println!("skipped: redis is not installed");
    }
    println!("{table}");
    starts(&mut bench, options)
}

/// Measures starts, each in turn the first.
fn starts(bench: &mut Bench, options: &Options) -> io::Result<()> {
    let mut builds = vec![("start", bench.frost.clone())];
    if let Some(distributed) = &options.distributed {
        builds.push(("start-static", distributed.canonicalize()?));
    }
    // The floor is the last.
    let mut spans = vec![Vec::new(); builds.len() + 1];
    for round in 0..=options.rounds * 4 {
        for turn in 0..spans.len() {
            let index = (turn + round as usize) % spans.len();
            let build = builds.get(index);
            let mut command = match build {
                Some((_, frost)) => bench.run_by(frost, &["--", "true"]),
                None => unshare(),
            };
            let began = Instant::now();
            done(&mut command)?;
            let took = began.elapsed().as_nanos() as u64;
            if round > 0 {
                let figure = build.map_or("start", |(figure, _)| *figure);
                bench.add(figure, build.is_some(), round, took)?;
                spans[index].push(took);
            }
        }
    }
    let spans: Vec<Spread> = spans.iter().map(|values| Spread::of(values)).collect();
    let floor = &spans[builds.len()];
    let told = |name: &str, span: &Spread| {
        let ms = |value: u64| value as f64 / 1e6;
        format!("{name} {:.2} ms ({:.2} to {:.2})", ms(span.median), ms(span.least), ms(span.greatest))
    };
    for ((figure, _), span) in builds.iter().zip(&spans) {
        let ratio = span.median as f64 / floor.median as f64;
        println!("{}, {}, ratio {ratio:.2}", told(figure, span), told("unshare", floor));
    }
    Ok(())
}

/// Who is first: in each turn the other one.
fn order(round: u32) -> [bool; 2] {
    if round.is_multiple_of(2) { [false, true] } else { [true, false] }
}

/// A line of the table: pairs of outside and inside, of so many units each.
fn row(figure: &str, units: u64, turns: &[[u64; 2]]) -> String {
    let of_unit = |index: usize| {
        let sum: u64 = turns.iter().map(|pair| pair[index]).sum();
        let ns = sum as f64 / turns.len().max(1) as f64 / units as f64;
        if ns > 1e6 { format!("{:.1} ms", ns / 1e6) } else { format!("{ns:.2} ns") }
    };
    let (mean, half) = interval(turns);
    format!(
        "| {figure} | {} | {} | {:+.2} % ({:+.2} to {:+.2}) |\n",
        of_unit(1),
        of_unit(0),
        percent(mean),
        percent(mean - half),
        percent(mean + half)
    )
}

fn percent(logarithm: f64) -> f64 {
    (logarithm.exp() - 1.0) * 100.0
}

/// The mean logarithm of the ratios of pairs, and half of its 95 % interval.
fn interval(turns: &[[u64; 2]]) -> (f64, f64) {
    let logarithms: Vec<f64> =
        turns.iter().map(|[outside, inside]| (*inside as f64 / *outside as f64).ln()).collect();
    let count = logarithms.len() as f64;
    let mean = logarithms.iter().sum::<f64>() / count;
    if logarithms.len() < 2 {
        return (mean, f64::INFINITY);
    }
    let variance = logarithms.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, student(logarithms.len() - 1) * (variance / count).sqrt())
}

/// The 97.5 % quantile of Student's distribution, by degrees of freedom; from 30 on the next smaller entry is a little wide.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    TABLE.get(freedom.saturating_sub(1)).copied().unwrap_or(TABLE[29])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_that_of_the_pairs() {
        let (mean, half) = interval(&[[100, 101], [1000, 1010], [10, 10]]);
        // Logarithms 0.00995, 0.00995 and 0: mean 0.006634, deviation 0.005745.
        assert!((mean - 0.006_634).abs() < 1e-5 && (half - 4.303 * 0.005_745 / 3f64.sqrt()).abs() < 1e-5);
        assert!((percent(mean) - 0.665_6).abs() < 1e-3);
        assert_eq!(interval(&[[100, 100], [7, 7]]), (0.0, 0.0));
    }

    #[test]
    fn both_are_first_in_turn() {
        assert_eq!([order(1), order(2)], [[true, false], [false, true]]);
    }
}
