//! `frost check`: what stands in the way, told before anything is tried.

mod host;

pub(crate) use host::refused_namespaces_remedy;

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_runtime::freeze::Keeper;
use frost_runtime::instance::Kept;
use std::process::ExitCode;

/// Tells what stands in the way of a freeze or a thaw
///
/// Without a target, each feature of the kernel that frost uses is tried. `ok` is all there; `limited` works, but not
/// for everything or everybody; `missing` is needed, and the exit status is then 5.
///
/// With a target, each object in its processes that cannot be carried is listed, with the reason and the remedy; the
/// exit status is 3 if there is any. The program is not stopped.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A process id, or the name of a program that was run or thawed
    #[arg(value_name = "PID|NAME")]
    target: Option<String>,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    match &options.target {
        Some(target) => check_target(target, invocation),
        None => check_host(invocation),
    }
}

/// Lists what is in the way of freezing one program.
fn check_target(target: &str, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let runtime = |error| trouble::of_runtime(format!("cannot check {target}"), error);
    // A pid needs no store, which may not even be usable.
    let number = target.parse::<i32>().ok();
    let store = match number {
        Some(_) => invocation.store().ok(),
        None => Some(invocation.store()?),
    };
    let mut keeper = None;
    if let Some(store) = &store
        && let Some((kept, instance)) = Kept::find(store, target).map_err(runtime)?
    {
        let record = instance.record().map_err(runtime)?;
        if record.machine {
            // What could not be carried was refused when it was started or adopted.
            if !invocation.global.json {
                output::line(&format!("{} is a virtual machine and can be frozen", instance.name()))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        keeper = Some(Keeper::of(store, kept, &instance, &record, true).map_err(runtime)?);
    }
    let pid = match (&keeper, number, &store) {
        (Some(keeper), _, _) => keeper.root(),
        (None, Some(pid), _) => pid,
        (None, None, Some(store)) => super::freeze::find(store, target, "check")?,
        (None, None, None) => return Err(runtime(frost_runtime::Error::Missing)),
    };
    let keeper = keeper.as_ref().map(|keeper| keeper as &dyn frost_freeze::Keeper);
    let obstacles = frost_freeze::check(pid, false, keeper).map_err(trouble::of_freeze)?;
    invocation.steps.end("check.target");
    if invocation.global.json {
        for obstacle in &obstacles {
            output::record(obstacle)?;
        }
    } else if obstacles.is_empty() {
        output::line(&format!("process {pid} can be frozen"))?;
    } else {
        for obstacle in &obstacles {
            output::line(&trouble::obstacle(obstacle).replace('\n', "\n    "))?;
        }
    }
    if obstacles.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let objects: Vec<String> = obstacles.iter().map(|obstacle| output::printable(&obstacle.object)).collect();
    Err(Told::new(Status::Unsupported, format!("process {pid} cannot be frozen as it is"))
        .cause(format!("in the way: {}", objects.join(", ")))
        .state(format!("process {pid} runs on; nothing was touched"))
        .hint("each object has its remedy behind the arrow")
        .into())
}

/// Lists the features of the machine.
fn check_host(invocation: &mut Invocation) -> Result<ExitCode, Failure> {
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
