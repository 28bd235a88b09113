//! Curves: what was measured over how much of it there was, as SVG.

use crate::report::{Sample, Spread};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a figure's name says it was measured over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Over<'a> {
    /// `freeze-512M`: MiB of memory.
    Size,
    /// `second-time-1%`: how much of it was written in between.
    Written,
    /// `freeze-2500-threads`: so many of these.
    Count(&'a str),
}

impl Over<'_> {
    fn label(self) -> String {
        match self {
            Over::Size => "MiB of memory".to_owned(),
            Over::Written => "% of the pages written since".to_owned(),
            Over::Count(things) => things.to_owned(),
        }
    }

    fn name(self) -> String {
        match self {
            Over::Size => "size".to_owned(),
            Over::Written => "written".to_owned(),
            Over::Count(things) => things.to_owned(),
        }
    }
}

/// Splits the name of a figure that was measured at several places: what, over what, and where.
fn place(figure: &str) -> Option<(&str, Over<'_>, f64)> {
    let (rest, last) = figure.rsplit_once('-')?;
    if let Some(size) = last.strip_suffix('M') {
        return Some((rest, Over::Size, size.parse().ok()?));
    }
    if let Some(part) = last.strip_suffix('%') {
        return Some((rest, Over::Written, part.parse().ok()?));
    }
    let (what, count) = rest.rsplit_once('-')?;
    Some((what, Over::Count(last), count.parse().ok()?))
}

/// The values of each side, by thousandths of where they were measured, which have an order.
type Sides<'a> = BTreeMap<&'a str, BTreeMap<u64, Vec<u64>>>;

/// A point: where, and the values there.
type Points = Vec<(f64, Spread)>;

/// Draws all curves that have two points at least: the name of each and its text.
pub(crate) fn draw(samples: &[Sample]) -> Vec<(String, String)> {
    let mut curves: BTreeMap<(&str, Over<'_>, &str), Sides<'_>> = BTreeMap::new();
    for sample in samples {
        let Some((what, over, at)) = place(&sample.figure) else { continue };
        let sides = curves.entry((what, over, sample.unit)).or_default();
        sides
            .entry(sample.side)
            .or_default()
            .entry((at * 1e3).round() as u64)
            .or_default()
            .push(sample.value);
    }
    let curves = curves.into_iter().filter_map(|((what, over, unit), sides)| {
        let lines: Vec<(&str, Points)> = sides
            .into_iter()
            .map(|(side, points)| {
                (side, points.iter().map(|(at, values)| (*at as f64 / 1e3, Spread::of(values))).collect())
            })
            .collect();
        let several = lines.iter().any(|(_, points)| points.len() > 1);
        several.then(|| (format!("{what}-{}", over.name()), svg(what, over, unit, &lines)))
    });
    curves.collect()
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// Room beside the axes: left, right, above, below.
const MARGINS: [f64; 4] = [80.0, 20.0, 40.0, 50.0];

/// From values to places on an axis.
struct Axis {
    least: f64,
    greatest: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// Sizes double; of all else one is to see whether the line is straight.
    fn new(values: impl Iterator<Item = f64> + Clone, logarithmic: bool, from: f64, to: f64) -> Self {
        let greatest = values.clone().fold(f64::MIN_POSITIVE, f64::max);
        let least = values.filter(|value| *value > 0.0).fold(greatest, f64::min);
        if logarithmic {
            let (least, greatest) = (10f64.powf(least.log10().floor()), 10f64.powf(greatest.log10().ceil()));
            Self { least, greatest: greatest.max(least * 10.0), logarithmic, from, to }
        } else {
            let step = step(greatest);
            Self { least: 0.0, greatest: (greatest / step).ceil() * step, logarithmic, from, to }
        }
    }

    fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.least) / self.least).log10() / (self.greatest / self.least).log10()
        } else {
            (value - self.least) / (self.greatest - self.least)
        };
        self.from + part * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (self.greatest / self.least).log10().round() as i32;
            (0..=decades).map(|decade| self.least * 10f64.powi(decade)).collect()
        } else {
            let step = step(self.greatest);
            (0..=(self.greatest / step).round() as u32).map(|tick| f64::from(tick) * step).collect()
        }
    }
}

/// A round number of which some four to ten make up `greatest`.
fn step(greatest: f64) -> f64 {
    let decade = 10f64.powf((greatest / 4.0).log10().floor());
    [5.0, 2.0].into_iter().map(|times| times * decade).find(|step| greatest / step >= 4.0).unwrap_or(decade)
}

fn svg(what: &str, over: Over<'_>, unit: &str, lines: &[(&str, Points)]) -> String {
    let (unit, scale) = match unit {
        "us" => ("ms", 1e3),
        "bytes" => ("MiB", f64::from(1 << 20)),
        other => (other, 1.0),
    };
    let [left, right, above, below] = MARGINS;
    let logarithmic = over == Over::Size;
    let points = || lines.iter().flat_map(|(_, points)| points);
    // Shares of the pages begin with none, or with so few that nothing else shows them.
    let few = over == Over::Written && points().all(|(at, _)| *at > 0.0);
    let x = Axis::new(points().map(|(at, _)| *at), logarithmic || few, left, WIDTH - right);
    let values = || points().flat_map(|(_, spread)| [spread.least, spread.greatest]);
    let y = Axis::new(values().map(|value| value as f64 / scale), logarithmic, HEIGHT - below, above);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{left}\" y=\"20\" \
         font-size=\"14\">{what}: {unit} over {}</text>\n",
        over.label()
    );
    // Writing to a String does not fail.
    for tick in x.ticks() {
        let (at, bottom) = (x.place(tick), HEIGHT - below);
        let _ = writeln!(text, "<path d=\"M{at:.1} {above}V{bottom}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            text,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            short(tick)
        );
    }
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = writeln!(text, "<path d=\"M{left} {at:.1}H{}\" stroke=\"#ddd\"/>", WIDTH - right);
        let (beside, lower) = (left - 8.0, at + 4.0);
        let _ = writeln!(
            text,
            "<text x=\"{beside}\" y=\"{lower:.1}\" text-anchor=\"end\">{}</text>",
            short(tick)
        );
    }
    for (index, (side, points)) in lines.iter().enumerate() {
        let colour = if *side == "frost" { "#06c" } else { "#888" };
        let mut path = String::new();
        for (at, spread) in points {
            let to = |value: u64| y.place(value as f64 / scale);
            let (at, middle) = (x.place(*at), to(spread.median));
            let _ = write!(path, "{}{at:.1} {middle:.1}", if path.is_empty() { "M" } else { "L" });
            let (low, high) = (to(spread.least), to(spread.greatest));
            let _ = writeln!(text, "<path d=\"M{at:.1} {low:.1}V{high:.1}\" stroke=\"{colour}\"/>");
            let _ = writeln!(text, "<circle cx=\"{at:.1}\" cy=\"{middle:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let _ = writeln!(text, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        let lower = above + 16.0 + 16.0 * index as f64;
        let _ = writeln!(text, "<text x=\"{}\" y=\"{lower}\" fill=\"{colour}\">{side}</text>", left + 10.0);
    }
    text.push_str("</svg>\n");
    text
}

/// Without the digits that a sum of fractions leaves.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_they_were_measured() {
        assert_eq!(place("freeze-512M"), Some(("freeze", Over::Size, 512.0)));
        assert_eq!(place("thaw-2500-threads"), Some(("thaw", Over::Count("threads"), 2500.0)));
        assert_eq!(place("second-time-1%"), Some(("second-time", Over::Written, 1.0)));
        assert_eq!((place("start"), place("peak-freeze")), (None, None));
    }

    #[test]
    fn what_has_one_point_is_no_curve() {
        let sample = |figure: &str, side, value| Sample {
            figure: figure.to_owned(),
            side,
            round: 1,
            unit: "us",
            value,
        };
        let mut samples = vec![sample("freeze-4M", "frost", 10_000), sample("start", "frost", 1000)];
        assert!(draw(&samples).is_empty());
        samples.extend([sample("freeze-512M", "frost", 200_000), sample("freeze-512M", "floor", 180_000)]);
        let curves = draw(&samples);
        assert_eq!(curves.len(), 1);
        assert_eq!(curves[0].0, "freeze-size");
        assert!(curves[0].1.contains("freeze: ms over MiB of memory"));
        assert_eq!(curves[0].1.matches("<circle").count(), 3);
    }

    #[test]
    fn small_shares_are_told_apart() {
        let shares = |least: &str| {
            let sample = |share: &str| Sample {
                figure: format!("second-held-time-{share}%"),
                side: "frost",
                round: 1,
                unit: "us",
                value: 1000,
            };
            let curves = draw(&[least, "0.1", "10"].map(sample));
            assert_eq!(curves[0].0, "second-held-time-written");
            curves[0].1.matches("text-anchor=\"middle\">0.01<").count()
        };
        assert_eq!((shares("0.01"), shares("0")), (1, 0));
    }

    #[test]
    fn ticks_are_round_and_reach_the_end() {
        let axis = Axis::new([3.0, 930.0].into_iter(), false, 0.0, 100.0);
        assert_eq!(axis.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!((axis.place(0.0), axis.place(1000.0)), (0.0, 100.0));
        let axis = Axis::new([4.0, 4096.0].into_iter(), true, 0.0, 80.0);
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!(axis.place(100.0), 40.0);
    }
}
