//! `frost freeze`: a running program to an image.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::progress::Progress;
use crate::{output, trouble};
use clap::Args;
use frost_runtime::freeze::Keeper;
use frost_runtime::instance::Kept;
use frost_store::{Header, ImageId, Liveness, Name, Store};
use frost_sys::proc;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// Freezes a running program into an image and ends it
///
/// The process and all its descendants become one image. The command returns when the image is complete and synced;
/// the program is then gone, or goes on with --leave-running. If anything fails, the program runs on as it was.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A process id, or the name of a program that was run or thawed
    #[arg(value_name = "PID|NAME")]
    target: String,
    /// The name of the image [default: the name by which it was run or thawed, else its command's]
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// Let the program go on afterwards
    #[arg(long)]
    leave_running: bool,
    /// Write most of its memory while it still runs, so that it is away for less time
    #[arg(long)]
    precopy: bool,
    /// Also keep the files that it has open for writing, as they are at this instant
    #[arg(long)]
    files: bool,
    /// Also keep the files of this machine that it uses: mapped binaries and libraries, open files, and what lies below its
    /// layers; so it is thawed where there are none of them
    #[arg(long)]
    bundle: bool,
    /// Leave nothing of it in memory: its keeper, which holds its terminal, its namespaces and the sockets at which it
    /// listens, ends too; also that of a program that is frozen already
    #[arg(long, conflicts_with = "leave_running")]
    cold: bool,
    /// Freeze even if a service manager would start the program again
    #[arg(long)]
    force: bool,
    /// Store all of its memory; else pages that the newest image of that name has are shared with it
    #[arg(long)]
    full: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    version: u32,
    bytes: u64,
    base: Option<u32>,
    pause_us: u64,
    passes: u32,
    dirty_pages: u64,
    elapsed_us: u64,
    pid: i32,
    processes: u32,
    threads: u32,
    running: bool,
    warnings: &'a [String],
}

/// Of a program that was frozen before.
#[derive(Serialize)]
struct Released<'a> {
    name: &'a str,
    version: u32,
}

impl Options {
    /// Which options were given, those first that mean nothing for a virtual machine.
    fn given(&self) -> [(bool, &'static str); 8] {
        [
            (self.precopy, "--precopy"),
            (self.files, "--files"),
            (self.force, "--force"),
            (self.bundle, "--bundle"),
            (self.cold, "--cold"),
            (self.full, "--full"),
            (self.to.is_some(), "--to"),
            (self.leave_running, "--leave-running"),
        ]
    }

    /// A snapshot of what goes on, of which copies are to be made.
    pub(super) fn snapshot(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            to: None,
            leave_running: true,
            precopy: false,
            files: false,
            bundle: false,
            cold: false,
            force: false,
            full: false,
        }
    }
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    match options.target.as_str() {
        scenario if super::scenario::runs(scenario, invocation) => {
            trouble::not_for("a scenario", format!("cannot freeze {scenario}"), &options.given())?;
            super::scenario::freeze(scenario, invocation)
        }
        _ => freeze(options, invocation).map(|_| ExitCode::SUCCESS),
    }
}

/// Freezes a program or a virtual machine; returns the image.
pub(super) fn freeze(options: &Options, invocation: &mut Invocation) -> Result<String, Failure> {
    let what = || format!("cannot freeze {}", options.target);
    let given = options.given();
    let store = invocation.store()?;
    let runtime = |error| trouble::of_runtime(what(), error);
    if options.cold
        && given.iter().all(|(given, option)| !given || *option == "--cold")
        && let Some(id) = Kept::release(&store, &options.target).map_err(runtime)?
    {
        if invocation.global.json {
            output::record(&Released { name: id.name.as_str(), version: id.version })?;
        } else {
            output::line(&format!("{id}: nothing of it is left in memory"))?;
        }
        return Ok(id.to_string());
    }
    let (pid, name, keeper) = match Kept::find(&store, &options.target).map_err(runtime)? {
        Some((kept, instance)) => {
            let name = match &options.to {
                Some(_) => name(&store, options, 0)?,
                None => instance.name().clone(),
            };
            let record = instance.record().map_err(runtime)?;
            if record.machine {
                trouble::not_for("a virtual machine", what(), &given[..5])?;
                let _ = instance.note_name(&name);
                let how = (options.leave_running, options.full);
                return super::guest::freeze(&kept, &name, how, invocation);
            }
            // Under another name nobody would look for this keeper.
            let stay = !options.cold && name == *instance.name();
            let keeper = Keeper::of(&store, kept, &instance, &record, stay).map_err(runtime)?;
            (keeper.root(), name, Some(keeper))
        }
        None => {
            let pid = find(&store, &options.target, "freeze")?;
            // Where it is thawed it has no mounts of its own, in which other files could be seen.
            trouble::not_for(
                "a program without an environment of `frost run`",
                what(),
                &[(options.bundle, "--bundle")],
            )?;
            (pid, name(&store, options, pid)?, None)
        }
    };
    super::scenario::keep_apart(&name, what(), "the program goes on", "--to", invocation)?;
    let failed = |error| trouble::of_store(what(), error);
    let other = match (&keeper, frost_store::observe(pid).map_err(failed)?) {
        (None, Some(instance)) => store.of_another(&name, &instance).map_err(failed)?,
        _ => None,
    };
    let progress = Progress::start(format!("freezing {}", options.target));
    let how = frost_freeze::Options {
        progress: (!invocation.global.json && progress.is_shown()).then_some(&progress),
        leave_running: options.leave_running,
        precopy: options.precopy,
        files: options.files || options.bundle,
        bundle: options.bundle,
        force: options.force,
        full: options.full,
        ..frost_freeze::Options::default()
    };
    invocation.steps.end("freeze.find");
    let frozen = match &keeper {
        Some(keeper) => frost_runtime::freeze::freeze(&store, &name, keeper, how),
        None => frost_freeze::freeze(&store, pid, &name, how),
    };
    drop(progress);
    let frozen = frozen.map_err(trouble::of_freeze)?;
    invocation.steps.extend(frozen.steps.clone());
    for warning in &frozen.warnings {
        output::note(&format!("warning: {warning}"));
    }
    let image = || Some(ImageId { name: Name::new(&frozen.name).ok()?, version: frozen.version });
    let is_another = |other: &Header| {
        let new = image().and_then(|id| store.summary(&id).header.ok());
        new.is_some_and(|new| new.command != other.command)
    };
    // A new run of the same command is what one expects under its name.
    if let Some(other) = other.filter(is_another) {
        output::note(&format!(
            "{} is of another program (`{}`); --to gives this one a name of its own",
            other.id, other.command
        ));
    }
    if invocation.global.json {
        output::record(&Record {
            name: &frozen.name,
            version: frozen.version,
            bytes: frozen.bytes,
            base: frozen.base,
            pause_us: frozen.pause_us,
            passes: frozen.passes,
            dirty_pages: frozen.dirty_pages,
            elapsed_us: frozen.elapsed_us,
            pid,
            processes: frozen.processes,
            threads: frozen.threads,
            running: frozen.running,
            warnings: &frozen.warnings,
        })?;
    } else {
        let end = if frozen.running {
            format!(
                "the program goes on after a pause of {}",
                output::span(Duration::from_micros(frozen.pause_us))
            )
        } else {
            "the program is gone".to_owned()
        };
        output::line(&format!(
            "{}@{}: {}, {}, {}{} in {}; {end}",
            frozen.name,
            frozen.version,
            output::count(frozen.processes, "process", "processes"),
            output::count(frozen.threads, "thread", "threads"),
            output::bytes(frozen.bytes),
            frozen.base.map(|base| format!(" more than @{base}")).unwrap_or_default(),
            output::span(Duration::from_micros(frozen.elapsed_us)),
        ))?;
    }
    Ok(format!("{}@{}", frozen.name, frozen.version))
}

/// Finds the process that is meant: digits are a pid, anything else names a program that was thawed.
pub(super) fn find(store: &Store, target: &str, doing: &str) -> Result<i32, Failure> {
    if target.bytes().all(|byte| byte.is_ascii_digit()) && !target.is_empty() {
        return target.parse().map_err(|_| {
            Told::new(Status::Missing, format!("cannot {doing} process {target}"))
                .cause("no process has so high a number")
                .state("nothing was touched")
                .hint("`ps -e` lists the processes that run")
                .into()
        });
    }
    let failed = |error| trouble::of_store(format!("cannot {doing} {target}"), error);
    let name =
        Name::new(target).map_err(|error| no_name(format!("cannot {doing} {target:?}"), target, &error))?;
    for version in store.versions(&name).map_err(failed)?.into_iter().rev() {
        let state = store.state(&ImageId { name: name.clone(), version }).map_err(failed)?;
        let Some(instance) = state.instance() else { continue };
        // The number that it has in another pid namespace may be anybody's here.
        return match frost_store::liveness(instance).map_err(failed)? {
            Liveness::Runs => Ok(instance.pid),
            Liveness::Ended => continue,
            Liveness::Unknown => Err(Told::new(Status::Denied, format!("cannot {doing} {target}"))
                .cause(format!(
                    "{name}@{version} was thawed in another pid namespace, as process {} there",
                    instance.pid
                ))
                .state("nothing was touched")
                .hint("run this from in there; if it has ended with its namespace, `frost thaw --clone` goes on")
                .into()),
        };
    }
    if let Some(version) = store.versions(&name).map_err(failed)?.last() {
        return Err(Told::new(Status::Missing, format!("cannot {doing} {target}"))
            .cause(format!("it does not run: {name}@{version} is its newest image"))
            .state("nothing was touched")
            .hint(format!("`frost thaw {name}` lets it go on; `frost ps` shows what runs"))
            .into());
    }
    Err(Told::new(Status::Missing, format!("cannot {doing} {target}"))
        .cause("no program runs that was started by that name, or thawed from an image of it")
        .state("nothing was touched")
        .hint("name a process id; `frost list` and `frost ps` show what runs")
        .into())
}

/// Tells that `given` is no name, and what is one.
pub(super) fn no_name(what: String, given: &str, error: &dyn std::error::Error) -> Failure {
    Told::new(Status::Usage, what)
        .cause(format!("{given:?} is no name"))
        .chain(error)
        .state("nothing was touched")
        .hint("letters, digits, `.`, `_` and `-` make a name, and digits alone a process id")
        .into()
}

/// The name of the image: as asked for, or that of the instance, or that of the command.
fn name(store: &Store, options: &Options, pid: i32) -> Result<Name, Failure> {
    let what = || format!("cannot freeze {}", options.target);
    if let Some(name) = &options.to {
        return Name::new(name).map_err(|error| no_name(what(), name, &error));
    }
    let failed = |error| trouble::of_store(what(), error);
    if let Some(instance) = frost_store::observe(pid).map_err(failed)?
        && let Some(image) = store.thawed_from(&instance).map_err(failed)?
    {
        return Ok(image.name);
    }
    Ok(Name::from_command(proc::command(pid).as_bytes()))
}
