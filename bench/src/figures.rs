//! The figures, measured in turn with their floors.

use crate::machine::Machine;
use crate::program::{Program, end_thawed, frost, peak};
use crate::report::{Report, Sample};
use crate::{Run, memory};
use std::io;
use std::path::Path;
use std::time::Duration;

/// A program of 4 MiB, as small as real ones get.
const SMALL: usize = 4 << 20;
/// Above this, half of the rounds are enough.
const LARGE: usize = 1 << 30;

/// Measures all figures and prints the table.
pub(crate) fn run(run: &Run) -> io::Result<()> {
    std::fs::create_dir_all(&run.directory)?;
    let version = frost(&run.frost, &run.directory, &["--version"])?.1;
    let machine = Machine::describe(&run.directory, version.trim().to_owned());
    let mut bench = Bench { run, report: Report::create(&run.results, &machine)? };
    bench.small()?;
    for mib in &run.sizes {
        bench.large(mib << 20)?;
    }
    if let Some(mib) = run.sizes.iter().max() {
        bench.peak(mib << 20)?;
    }
    std::fs::remove_dir_all(&run.directory)?;
    println!("{}\n\n{}", machine.line(), bench.report.table());
    Ok(())
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

    /// Freezes and thaws a program of `len_bytes` once; returns both times.
    fn round_trip(&self, len_bytes: usize) -> io::Result<(Duration, Duration)> {
        let program = Program::start(len_bytes)?;
        let (freeze, _) = self.frost(&["freeze", &program.pid().to_string(), "--to", "bench", "--json"])?;
        program.reap()?;
        let (thaw, record) = self.frost(&["thaw", "bench", "--json"])?;
        end_thawed(&record)?;
        self.frost(&["rm", "bench"])?;
        Ok((freeze, thaw))
    }

    fn small(&mut self) -> io::Result<()> {
        for round in 0..=self.run.rounds * 2 {
            let (floor, _) = self.frost(&["--version"])?;
            let (freeze, thaw) = self.round_trip(SMALL)?;
            // The first round only warms up.
            if round > 0 {
                for (figure, ours) in [("freeze-4M", freeze), ("thaw-4M", thaw)] {
                    self.time(figure, "floor", round, floor)?;
                    self.time(figure, "frost", round, ours)?;
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
                (floor, self.round_trip(len_bytes)?)
            } else {
                let ours = self.round_trip(len_bytes)?;
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
            let program = Program::start(len_bytes)?;
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
