//! Raw results as lines of a file, and a table of what they say.

use crate::curve;
use crate::machine::Machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Which figure.
    pub(crate) figure: String,
    /// `frost`, or the `floor` it is compared with.
    pub(crate) side: &'static str,
    /// Which turn.
    pub(crate) round: u32,
    /// `us`, `ns`, `bytes` or `1/s`.
    pub(crate) unit: &'static str,
    /// The value.
    pub(crate) value: u64,
}

/// The results of a run.
pub(crate) struct Report {
    /// The path of the raw results, without its extension.
    path: PathBuf,
    file: File,
    samples: Vec<Sample>,
}

impl Report {
    /// Starts a file of raw results whose first line is the machine.
    pub(crate) fn create(directory: &Path, machine: &Machine) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(machine.time().to_string());
        let mut file = File::create_new(path.with_extension("jsonl"))?;
        writeln!(file, "{}", serde_json::json!({ "v": 1, "machine": machine }))?;
        Ok(Self { path, file, samples: Vec::new() })
    }

    /// Adds a measurement, which is on disk before the next one begins.
    pub(crate) fn add(&mut self, sample: Sample) -> io::Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&sample)?)?;
        self.samples.push(sample);
        Ok(())
    }

    /// Draws curves of what was measured at several places, beside the raw results.
    pub(crate) fn draw(&self) -> io::Result<()> {
        for (name, text) in curve::draw(&self.samples) {
            std::fs::write(format!("{}-{name}.svg", self.path.display()), text)?;
        }
        Ok(())
    }

    /// Renders a table: median, least and greatest of each side, and the ratio of the medians.
    pub(crate) fn table(&self) -> String {
        let mut figures: Vec<&str> = Vec::new();
        let mut sides: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        let mut units: BTreeMap<&str, &str> = BTreeMap::new();
        for sample in &self.samples {
            if !figures.contains(&sample.figure.as_str()) {
                figures.push(&sample.figure);
            }
            units.insert(&sample.figure, sample.unit);
            sides.entry((&sample.figure, sample.side)).or_default().push(sample.value);
        }
        let mut text =
            String::from("| figure | frost (least to greatest) | floor (least to greatest) | ratio |\n");
        text.push_str("|---|---|---|---|\n");
        for figure in figures {
            let cell = |side| sides.get(&(figure, side)).map(|values| Spread::of(values));
            let render = |spread: Option<Spread>| {
                spread.map_or_else(String::new, |spread| {
                    spread.render(units.get(figure).copied().unwrap_or(""))
                })
            };
            let (frost, floor) = (cell("frost"), cell("floor"));
            let ratio = match (&frost, &floor) {
                (Some(frost), Some(floor)) if floor.median > 0 => {
                    format!("{:.2}", frost.median as f64 / floor.median as f64)
                }
                _ => String::new(),
            };
            text.push_str(&format!("| {figure} | {} | {} | {ratio} |\n", render(frost), render(floor)));
        }
        text
    }
}

/// The middle and the ends of some values.
pub(crate) struct Spread {
    pub(crate) least: u64,
    pub(crate) median: u64,
    pub(crate) greatest: u64,
}

impl Spread {
    pub(crate) fn of(values: &[u64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0);
        let last = sorted.len().saturating_sub(1);
        // Of an even number the mean of the two in the middle.
        let median = at(last / 2).midpoint(at(sorted.len() / 2));
        Self { least: at(0), median, greatest: at(last) }
    }

    fn render(&self, unit: &str) -> String {
        if unit == "1/s" {
            return format!("{} /s ({} to {})", self.median, self.least, self.greatest);
        }
        let [median, least, greatest] = [self.median, self.least, self.greatest].map(|value| match unit {
            "us" => format!("{:.1}", value as f64 / 1e3),
            _ => format!("{:.1}", value as f64 / f64::from(1 << 20)),
        });
        let unit = if unit == "us" { "ms" } else { "MiB" };
        format!("{median} {unit} ({least} to {greatest})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one() {
        let spread = Spread::of(&[5, 1, 9]);
        assert_eq!((spread.least, spread.median, spread.greatest), (1, 5, 9));
        assert_eq!(Spread::of(&[8, 2]).median, 5);
        assert_eq!(Spread::of(&[1, 2, 4, 100]).median, 3);
    }
}
