//! `frost check`: what stands in the way, told before anything is tried.

mod host;

use crate::failure::{Failure, Status};
use crate::invocation::Invocation;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Tells what this machine lacks to freeze and thaw
///
/// Each feature of the kernel that frost uses is tried. `ok` is all there; `limited` works, but not for everything or
/// everybody; `missing` is needed. The exit status is 5 if something needed is missing.
#[derive(Args, Debug)]
pub(crate) struct Options {}

pub(crate) fn run(_options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let place = invocation.place()?;
    let features = host::features(&place);
    invocation.steps.end("check.host");
    let missing = features.iter().filter(|feature| feature.status == host::Verdict::Missing).count();
    if invocation.global.json {
        for feature in &features {
            output::record(feature)?;
        }
    } else {
        output::line(render(&features, output::stdout_has_colour()).trim_end())?;
        let verdict = match missing {
            0 => "This machine can freeze and thaw.".to_owned(),
            n => format!("{n} of what frost needs {} missing.", if n == 1 { "is" } else { "are" }),
        };
        output::line(&format!("\n{verdict}"))?;
    }
    Ok(ExitCode::from(if missing == 0 { 0 } else { Status::Denied.code() }))
}

fn render(features: &[host::Feature], colour: bool) -> String {
    let width = features.iter().map(|feature| feature.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for feature in features {
        let (word, code) = match feature.status {
            host::Verdict::Ok => ("ok", "32"),
            host::Verdict::Limited => ("limited", "33"),
            host::Verdict::Missing => ("missing", "1;31"),
        };
        let padded = format!("{word:<8}");
        let word = if colour { format!("\x1b[{code}m{padded}\x1b[0m") } else { padded };
        text.push_str(&format!("{word} {:<width$}  {}", feature.name, feature.purpose));
        if let Some(detail) = &feature.detail {
            text.push_str(&format!(" ({detail})"));
        }
        text.push('\n');
        if let Some(remedy) = &feature.remedy {
            text.push_str(&format!("{:8} {:<width$}  -> {remedy}\n", "", ""));
        }
    }
    text
}
