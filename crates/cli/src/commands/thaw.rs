//! `frost thaw`: an image to a running program.

use crate::failure::{Failure, Status};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::Args;
use frost_store::Name;
use frost_thaw::cap::Route;
use frost_thaw::{Attached, Ending, Options as How, Plan};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Thaws an image: the program goes on where it stood
///
/// Returns when the program runs, and prints its process id. All that is missing is told at once, before anything is
/// built. Root gets the same process ids back; an ordinary user's program gets namespaces of its own.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The image: a name for its newest version, or NAME@VERSION
    #[arg(value_name = "NAME[@V]")]
    image: String,
    /// Print what would be done and all that is missing, and do nothing
    #[arg(long, conflicts_with = "attach")]
    pub(super) plan: bool,
    /// Stay its parent: pass signals on, lend it this terminal if it had one, exit with its status
    #[arg(long)]
    pub(super) attach: bool,
    /// Make a copy in a pid namespace of its own, beside whatever runs; that of a program of `frost run` has a name of its own,
    /// as NAME-2
    #[arg(long)]
    pub(super) clone: bool,
    /// How what it has open is obtained again: a table of routes, which come before those that it was started with
    /// (`docs/routes.md`)
    #[arg(long, value_name = "FILE")]
    route: Option<PathBuf>,
    /// Of a virtual machine: a port of this machine that leads to one of the guest, in place of the one that did
    #[arg(long, value_name = "HOST:GUEST")]
    pub(super) port: Vec<String>,
    /// How old the command was when this began
    #[arg(skip)]
    pub(super) begun: Duration,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
    /// The name of a copy of a program of `frost run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<&'a str>,
    pid: i32,
    inner_pid: i32,
    processes: usize,
    threads: usize,
    elapsed_us: u64,
    notes: &'a [String],
}

impl Options {
    /// A copy beside whatever runs, made by a command that was so old when this began.
    pub(super) fn copy(image: &str, begun: Duration) -> Self {
        let image = image.to_owned();
        Self { image, plan: false, attach: false, clone: true, route: None, port: Vec::new(), begun }
    }

    /// Returns whether the command ends as the program does.
    pub(crate) fn is_attached(&self) -> bool {
        self.attach
    }
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    if super::scenario::is_kept(&options.image, invocation) {
        let given = [
            (options.plan, "--plan"),
            (options.clone, "--clone"),
            (options.route.is_some(), "--route"),
            (!options.port.is_empty(), "--port"),
        ];
        trouble::not_for("a scenario", format!("cannot thaw {}", options.image), &given)?;
        return super::scenario::thaw(&options.image, options.attach, invocation);
    }
    let outcome = thaw(options, invocation);
    // With --attach every other number is the program's own.
    if options.attach { outcome.map_err(|failure| failure.with_status(Status::Own)) } else { outcome }
}

fn thaw(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let what = || format!("cannot thaw {}", options.image);
    let store = invocation.store()?;
    let failed = |error| trouble::of_store(what(), error);
    let id = store.resolve(&options.image).map_err(failed)?;
    let image = store.open_any(&id).map_err(failed)?;
    invocation.steps.end("image.open");
    if image.checkpoint().machine.is_some() {
        trouble::not_for("a virtual machine", what(), &[(options.route.is_some(), "--route")])?;
        return super::guest::thaw(options, &store, &image, invocation);
    }
    trouble::not_for(
        "a program outside of a virtual machine",
        what(),
        &[(!options.port.is_empty(), "--port")],
    )?;
    let given = crate::routes::given(options.route.as_deref(), &what(), "the image stays as it was")?;
    let mut runtime = image.checkpoint().host.runtime.clone();
    if let Some(runtime) = &mut runtime {
        runtime.routes = frost_thaw::rules(image.checkpoint(), &given);
    }
    // A plan needs no home: nothing is asked of a keeper that is not to be done.
    let mut place = match &runtime {
        Some(runtime) if !options.plan => Some(
            frost_runtime::thaw::place(&store, &image, runtime, options.attach, options.clone)
                .map_err(|error| trouble::of_runtime(what(), error))?,
        ),
        _ => None,
    };
    let sockets = match (&mut place, &runtime) {
        (Some(place), _) => std::mem::take(&mut place.kept),
        (None, Some(_)) => frost_runtime::thaw::kept(&store, &image, options.clone)
            .map_err(|error| trouble::of_runtime(what(), error))?,
        (None, None) => frost_thaw::Kept::default(),
    };
    let home = place.as_ref().map(|place| &place.home);
    let kept = Some(&sockets);
    let how =
        How { attach: options.attach, clone: options.clone, store: Some(&store), home, kept, routes: &given };
    let plan = Plan::new(&image, &how).map_err(|error| trouble::of_thaw(what(), error))?;
    invocation.steps.end("thaw.plan");
    if options.plan {
        if invocation.global.json {
            output::record(&plan)?;
        } else {
            output::line(render(&plan).trim_end())?;
        }
        return if plan.obstacles.is_empty() {
            Ok(ExitCode::SUCCESS)
        } else {
            Err(trouble::in_the_way(format!("{id} cannot be thawed as things are"), &plan.obstacles))
        };
    }
    if !plan.obstacles.is_empty() {
        return Err(trouble::in_the_way(what(), &plan.obstacles));
    }
    let thawed = frost_thaw::thaw(&image, &plan, &how, &mut invocation.steps)
        .map_err(|error| trouble::of_thaw(what(), error))?;
    // They are the program's, which may close them while we stay with it.
    drop(sockets);
    if let Some(place) = &mut place {
        place.settle();
    }
    let copy = place.as_mut().and_then(|place| place.copy.take());
    let elapsed = invocation.steps.elapsed().saturating_sub(options.begun);
    // Behind the thaw: our standard error may be a file that the program has, and that is compared with what it was.
    let without = place.as_ref().and_then(|place| place.note.as_ref());
    for note in plan.notes.iter().chain(without) {
        output::note(&format!("note: {note}"));
    }
    for capability in &plan.capabilities {
        if let Some(effect) = &capability.effect {
            output::note(&output::printable(&format!("note: {}: {effect}", capability.object)));
        }
    }
    if !thawed.clean {
        output::note(&format!(
            "note: a page of frost was left in process {}; the next command removes it",
            thawed.pid
        ));
    }
    if invocation.global.json {
        output::record(&Record {
            name: id.name.as_str(),
            version: id.version,
            copy: copy.as_ref().map(Name::as_str),
            pid: thawed.pid,
            inner_pid: thawed.inner_pid.raw(),
            processes: thawed.processes,
            threads: thawed.threads,
            elapsed_us: elapsed.as_micros() as u64,
            notes: &plan.notes,
        })?;
    } else if !options.attach {
        let inner = match thawed.inner_pid.raw() {
            inner if inner == thawed.pid => String::new(),
            inner => format!(" ({inner} inside)"),
        };
        let what = match &copy {
            Some(copy) => format!("{copy}, a copy of {id},"),
            None => id.to_string(),
        };
        output::line(&format!(
            "{what} runs as process {}{inner}: {}, {}, after {}",
            thawed.pid,
            output::count(thawed.processes as u32, "process", "processes"),
            output::count(thawed.threads as u32, "thread", "threads"),
            output::span(elapsed),
        ))?;
    }
    let watch = place.and_then(|place| place.watch);
    let watched = watch.map(|watch| Attached::kept(Some(thawed.pid), watch, thawed.lent, thawed.passing));
    let Some(attached) = thawed.attached.or(watched) else { return Ok(ExitCode::SUCCESS) };
    let ending = attached.wait().map_err(|error| {
        trouble::of_thaw(format!("cannot stay with process {}, which goes on", thawed.pid), error)
    })?;
    if ending == Ending::Unknown {
        output::note(&format!("note: how process {} ended is not known", thawed.pid));
    }
    Ok(ExitCode::from(u8::try_from(ending.exit_status()).unwrap_or(u8::MAX)))
}

fn render(plan: &Plan) -> String {
    let copy = if plan.copy { ", as a copy" } else { "" };
    let mut text = format!("{}@{} would be thawed{copy}:\n", plan.name, plan.version);
    let namespaces: Vec<&str> = [
        (plan.namespaces.user, "user"),
        (plan.namespaces.pid, "pid and mount"),
        (plan.namespaces.ipc, "IPC"),
        (plan.namespaces.time, "time"),
    ]
    .into_iter()
    .filter_map(|(own, name)| own.then_some(name))
    .collect();
    if !namespaces.is_empty() {
        text.push_str(&format!("  namespaces of its own: {}\n", namespaces.join(", ")));
    }
    for process in &plan.processes {
        text.push_str(&format!(
            "  process {} ({}): {}, {} of memory\n",
            process.pid,
            output::printable(&process.command),
            output::count(process.threads, "thread", "threads"),
            output::bytes(process.memory_bytes),
        ));
    }
    let rows: Vec<Vec<String>> = plan
        .capabilities
        .iter()
        .map(|capability| {
            let route = match capability.route {
                Route::Recreate => "recreate".to_owned(),
                Route::Reopen => "reopen".to_owned(),
                Route::Reconnect => "reconnect".to_owned(),
                Route::Keep => "keep".to_owned(),
                // Of its keeper, or of this command.
                Route::Inherit(_) if capability.effect.is_none() => "inherit".to_owned(),
                Route::Inherit(fd) => format!("inherit fd {fd}"),
                Route::Close => "close".to_owned(),
            };
            let effect = capability.effect.as_ref().map(|effect| format!(": {effect}")).unwrap_or_default();
            vec![format!("  {route}"), output::printable(&format!("{}{effect}", capability.object))]
        })
        .collect();
    text.push_str(&output::table(&rows));
    for note in &plan.notes {
        text.push_str(&format!("  note: {note}\n"));
    }
    for obstacle in &plan.obstacles {
        text.push_str(&format!("  in the way: {}\n", trouble::obstacle(obstacle).replace('\n', "\n    ")));
    }
    text
}
