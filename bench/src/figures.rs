//! The figures, measured in turn with their floors.

use crate::machine::Machine;
use crate::pauses::{self, Snapshots};
use crate::program::{Program, end_thawed, frost, peak};
use crate::report::{Report, Sample};
use crate::shape::Shape;
use crate::{Run, memory};
use std::io;
use std::path::Path;
use std::time::Duration;

/// A program of 4 MiB, as small as real ones get.
const SMALL: usize = 4 << 20;
/// So much of one thing that what grows faster than it shows.
const MANY: [(&str, Shape); 4] = [
    ("threads", Shape { threads: 10_000, ..NOTHING }),
    ("processes", Shape { processes: 200, ..NOTHING }),
    ("mappings", Shape { mappings: 10_000, ..NOTHING }),
    ("descriptors", Shape { descriptors: 15_000, ..NOTHING }),
];
const NOTHING: Shape = Shape {
    bytes: 0,
    threads: 0,
    processes: 0,
    mappings: 0,
    descriptors: 0,
    dependent: false,
    rewrites: false,
};
/// The sizes of which snapshots are made.
const SNAPSHOT_MIB: [usize; 4] = [8, 64, 256, 1024];
/// Above this, half of the rounds are enough.
const LARGE: usize = 1 << 30;

/// Measures all figures and prints the table.
pub(crate) fn run(run: &Run) -> io::Result<()> {
    std::fs::create_dir_all(&run.directory)?;
    // What is orphaned is ours to collect: init takes its time, and a thaw waits until its numbers are free.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let version = frost(&run.frost, &run.directory, &["--version"])?.1;
    let machine = Machine::describe(&run.directory, version.trim().to_owned());
    let mut bench = Bench { run, report: Report::create(&run.results, &machine)? };
    bench.small()?;
    bench.many()?;
    for mib in &run.sizes {
        bench.large(mib << 20)?;
    }
    bench.second()?;
    if let Some(mib) = run.sizes.iter().max() {
        bench.peak(mib << 20)?;
    }
    let snapshots = Snapshots {
        frost: run.frost.clone(),
        directory: run.directory.clone(),
        results: run.results.clone(),
        snapshots: run.rounds * 2,
        held: run.snapshots,
        sizes: SNAPSHOT_MIB.to_vec(),
        full: false,
        steps: false,
    };
    let pauses = pauses::measure_all(&snapshots, &mut bench.report)?;
    std::fs::remove_dir_all(&run.directory)?;
    println!("{}\n\n{}\n{pauses}", machine.line(), bench.report.table());
    bench.report.draw()
}

struct Bench<'a> {
    run: &'a Run,
    report: Report,
}

impl Bench<'_> {
    fn time(&mut self, figure: &str, side: &'static str, round: u32, elapsed: Duration) -> io::Result<()> {
        let value = elapsed.as_micros() as u64;
        self.report.add(Sample { figure: figure.to_owned(), side, round, unit: "us", value })
    }

    fn frost(&self, arguments: &[&str]) -> io::Result<(Duration, String)> {
        frost(&self.run.frost, &self.run.directory, arguments)
    }

    fn directory(&self) -> &Path {
        &self.run.directory
    }

    /// Freezes and thaws a program once; returns both times, and how long it took to make what it has.
    fn round_trip(&self, shape: Shape) -> io::Result<(Duration, Duration, Duration)> {
        let program = Program::start(shape)?;
        let made = program.made();
        let (freeze, _) = self.frost(&["freeze", &program.pid().to_string(), "--to", "bench", "--json"])?;
        program.reap()?;
        let (thaw, record) = self.frost(&["thaw", "bench", "--json"])?;
        end_thawed(&record)?;
        self.frost(&["rm", "bench"])?;
        Ok((freeze, thaw, made))
    }

    fn small(&mut self) -> io::Result<()> {
        for round in 0..=self.run.rounds * 2 {
            let (start, _) = self.frost(&["--version"])?;
            let floor = self.floor(SMALL)?;
            let (freeze, thaw, _) = self.round_trip(Shape { bytes: SMALL, ..NOTHING })?;
            // The first round only warms up.
            if round > 0 {
                self.time("start", "frost", round, start)?;
                self.time("freeze-4M", "floor", round, floor.0)?;
                self.time("freeze-4M", "frost", round, freeze)?;
                self.time("thaw-4M", "floor", round, floor.1)?;
                self.time("thaw-4M", "frost", round, thaw)?;
            }
        }
        Ok(())
    }

    /// Programs that have much of one thing: the floor is the time in which they made it.
    fn many(&mut self) -> io::Result<()> {
        for (what, whole) in MANY {
            for part in self.run.parts.clone() {
                let of = |count: usize| (count as f64 * part) as usize;
                let shape = Shape {
                    bytes: 0,
                    threads: of(whole.threads),
                    processes: of(whole.processes),
                    mappings: of(whole.mappings),
                    descriptors: of(whole.descriptors),
                    ..NOTHING
                };
                let count = shape.threads + shape.processes + shape.mappings + shape.descriptors;
                for round in 0..=self.run.rounds.div_ceil(2) {
                    let (freeze, thaw, made) = self.round_trip(shape)?;
                    if round > 0 {
                        for (figure, ours) in [("freeze", freeze), ("thaw", thaw)] {
                            let figure = format!("{figure}-{count}-{what}");
                            self.time(&figure, "floor", round, made)?;
                            self.time(&figure, "frost", round, ours)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn large(&mut self, len_bytes: usize) -> io::Result<()> {
        let rounds = if len_bytes > LARGE { self.run.rounds.div_ceil(2) } else { self.run.rounds };
        let (freeze_figure, thaw_figure) =
            (format!("freeze-{}M", len_bytes >> 20), format!("thaw-{}M", len_bytes >> 20));
        for round in 0..=rounds {
            // Who comes second finds memory that was in use a moment before, which is faster in a virtual machine: they
            // take turns at that, too.
            let (floor, ours) = if round % 2 == 0 {
                let floor = self.floor(len_bytes)?;
                (floor, self.round_trip(Shape { bytes: len_bytes, ..NOTHING })?)
            } else {
                let ours = self.round_trip(Shape { bytes: len_bytes, ..NOTHING })?;
                (self.floor(len_bytes)?, ours)
            };
            if round > 0 {
                self.time(&freeze_figure, "floor", round, floor.0)?;
                self.time(&freeze_figure, "frost", round, ours.0)?;
                self.time(&thaw_figure, "floor", round, floor.1)?;
                self.time(&thaw_figure, "frost", round, ours.1)?;
            }
        }
        Ok(())
    }

    /// A second image of a program that goes on, beside the first.
    fn second(&mut self) -> io::Result<()> {
        let shape = Shape { bytes: self.run.second << 20, rewrites: true, ..NOTHING };
        for percent in self.run.written.clone() {
            for round in 0..self.run.rounds.div_ceil(2) {
                let mut program = Program::start(shape)?;
                let pid = program.pid().to_string();
                let freeze = || -> io::Result<(Duration, u64)> {
                    let (elapsed, record) =
                        self.frost(&["freeze", &pid, "--to", "bench", "--leave-running", "--json"])?;
                    let record: serde_json::Value =
                        serde_json::from_str(record.lines().next().unwrap_or_default())?;
                    Ok((elapsed, record["bytes"].as_u64().unwrap_or(0)))
                };
                let first = freeze()?;
                program.rewrite(percent)?;
                let second = freeze()?;
                program.reap()?;
                self.frost(&["rm", "bench"])?;
                for (side, (elapsed, bytes)) in [("floor", first), ("frost", second)] {
                    self.time(&format!("second-time-{percent}%"), side, round, elapsed)?;
                    let figure = format!("second-bytes-{percent}%");
                    self.report.add(Sample { figure, side, round, unit: "bytes", value: bytes })?;
                }
            }
        }
        Ok(())
    }

    /// What must be done at the least: writes and syncs as much, and reads it into huge pages.
    fn floor(&self, len_bytes: usize) -> io::Result<(Duration, Duration)> {
        let path = self.directory().join("floor");
        let content = memory::incompressible(len_bytes)?;
        let write = memory::write_and_sync(&content, &path)?;
        drop(content);
        let read = memory::read_into_huge_pages(&path, len_bytes)?;
        std::fs::remove_file(&path)?;
        Ok((write, read))
    }

    /// The memory that frost itself takes, of all its processes the greatest.
    fn peak(&mut self, len_bytes: usize) -> io::Result<()> {
        for round in 0..3 {
            let program = Program::start(Shape { bytes: len_bytes, ..NOTHING })?;
            let pid = program.pid().to_string();
            let (freeze, _) =
                peak(&self.run.frost, self.directory(), &["freeze", &pid, "--to", "bench", "--json"], false)?;
            program.reap()?;
            let (thaw, record) = peak(&self.run.frost, self.directory(), &["thaw", "bench", "--json"], true)?;
            end_thawed(&record)?;
            self.frost(&["rm", "bench"])?;
            for (figure, value) in [("peak-freeze", freeze), ("peak-thaw", thaw)] {
                let figure = figure.to_owned();
                self.report.add(Sample { figure, side: "frost", round, unit: "bytes", value })?;
            }
        }
        Ok(())
    }
}
