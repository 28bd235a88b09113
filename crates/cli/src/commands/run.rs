//! `frost run`: a program in an environment of its own.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble};
use clap::{Args, ValueEnum};
use frost_model::network::Reach;
use frost_runtime::instance::Instance;
use frost_runtime::run::Options as How;
use frost_store::{ImageId, Name, Store};
use frost_thaw::Ending;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a program so that it can be frozen at any time
///
/// It and all that it starts live in user, pid, mount, IPC, host name and time namespaces of their own, below a keeper.
/// Calls that make what cannot be carried are refused, so that it does without. In the foreground frost is as good as
/// not there: terminal, job control, signals, exit status and standard descriptors are the program's.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Its name [default: that of the command]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Leave it alone, with a terminal and a log that its keeper holds
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Open a kind of calls to it that are refused to others: io-uring, userfaultfd, perf, bpf, fanotify, landlock
    #[arg(long, value_name = "KIND", value_delimiter = ',', conflicts_with = "vm")]
    allow: Vec<String>,
    /// How what it has open is obtained again when it is thawed: a table of routes (`docs/routes.md`)
    #[arg(long, value_name = "FILE", conflicts_with = "vm")]
    route: Option<PathBuf>,
    /// Let it ask to be told of freeze and thaw, by a descriptor whose number is in FROST_NOTICES
    #[arg(long, conflicts_with = "vm")]
    notices: bool,
    /// The most memory that it may use, as 512M; in a virtual machine what that has [default there: 512M]
    #[arg(long, value_name = "SIZE")]
    pub(super) ram: Option<String>,
    /// The most processor time that it may use: 0.5 or 50% of one processor, 2 of two
    #[arg(long, value_name = "SHARE", conflicts_with = "vm")]
    cpu: Option<String>,
    /// Give it a view of its own of this directory: what it writes there nobody else sees, and is frozen with it
    #[arg(long, value_name = "DIR", conflicts_with = "vm")]
    layer: Vec<PathBuf>,
    /// Which network it has: the host's, none but a loopback of its own, or one of its own that reaches outside
    #[arg(long, value_name = "WHICH", default_value = "host", conflicts_with = "vm")]
    net: Net,
    /// Run it in a virtual machine of its own; these options are for that
    #[arg(long, help_heading = "Virtual machine")]
    pub(super) vm: bool,
    /// How many processors it has
    #[arg(long, value_name = "N", default_value_t = 1, requires = "vm", help_heading = "Virtual machine",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) cpus: u32,
    /// Its kernel [default: that of `frost vm setup`]
    #[arg(long, value_name = "FILE", requires = "vm", help_heading = "Virtual machine")]
    pub(super) kernel: Option<PathBuf>,
    /// Its files: a directory, which is copied, or a disk image, which is not written to [default: busybox, and CMD
    /// with its libraries]
    #[arg(long, value_name = "DIR|IMAGE", requires = "vm", help_heading = "Virtual machine")]
    pub(super) root: Option<PathBuf>,
    /// A port of this machine that leads to one of the guest
    #[arg(long, value_name = "HOST:GUEST", requires = "vm", help_heading = "Virtual machine")]
    pub(super) port: Vec<String>,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub(super) command: Vec<OsString>,
}

/// A network for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Net {
    Host,
    None,
    Own,
}

/// How a network is called.
pub(super) fn net_name(reach: Option<Reach>) -> &'static str {
    match reach {
        None => "host",
        Some(Reach::Loopback) => "none",
        Some(Reach::Outside) => "own",
    }
}

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    pid: i32,
    inner_pid: i32,
    keeper: i32,
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    // Every smaller number is the program's own.
    let outcome =
        if options.vm { super::guest::run(options, invocation) } else { start(options, invocation) };
    outcome.map_err(|failure| match &failure {
        Failure::Told(told) if matches!(told.status, Status::NotFound | Status::NotExecutable) => failure,
        _ => failure.with_status(Status::Own),
    })
}

fn start(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let program = program(options);
    let what = || format!("cannot run {program}");
    let store = invocation.store()?;
    let name = name(options)?;
    if let Some(name) = &name {
        super::scenario::keep_apart(name, what(), "nothing was started", "--name", invocation)?;
    }
    let budget = super::set::Wish::read(options.ram.as_deref(), options.cpu.as_deref())
        .map_err(|wrong| wrong.told(what(), "nothing was started"))?;
    let how = How {
        name,
        command: options.command.clone(),
        detach: options.detach,
        allow: options.allow.clone(),
        routes: crate::routes::given(options.route.as_deref(), &what(), "nothing was started")?,
        notices: options.notices,
        budget: budget.applied_to(Default::default()),
        layers: options.layer.clone(),
        network: match options.net {
            Net::Host => None,
            Net::None => Some(Reach::Loopback),
            Net::Own => Some(Reach::Outside),
        },
    };
    let started =
        frost_runtime::run::run(&store, &how).map_err(|error| trouble::of_runtime(what(), error))?;
    invocation.steps.end("run.start");
    if let Some(note) = &started.note {
        output::note(&format!("note: {note}"));
    }
    let Some(attached) = started.attached else {
        if invocation.global.json {
            output::record(&Record {
                name: started.name.as_str(),
                pid: started.pid,
                inner_pid: started.inner_pid,
                keeper: started.keeper,
            })?;
        } else if started.pid == 0 {
            output::line(&format!("{} has ended already", started.name))?;
        } else {
            output::line(&format!("{} runs as process {}", started.name, started.pid))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let ending = attached.wait().map_err(|error| {
        trouble::of_thaw(format!("cannot stay with {}, which goes on", started.name), error)
    })?;
    tell(&store, &started.name, ending);
    if matches!(ending, Ending::Exited(_) | Ending::Killed(_) | Ending::Starved)
        && let Ok((instance, claim)) = Instance::claim(&store, &started.name)
    {
        // Whoever waited for it knows all there is to know.
        let _ = instance.remove(claim);
    }
    Ok(ExitCode::from(u8::try_from(ending.exit_status()).unwrap_or(u8::MAX)))
}

/// What is to be run, for messages.
pub(super) fn program(options: &Options) -> String {
    let word = options.command.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    if word.is_empty() { "''".to_owned() } else { word.into_owned() }
}

/// The name that was asked for, if one was.
pub(super) fn name(options: &Options) -> Result<Option<Name>, Failure> {
    let parsed = options.name.as_deref().map(Name::new).transpose();
    parsed.map_err(|error| {
        let name = options.name.as_deref().unwrap_or_default();
        Told::new(Status::Usage, format!("cannot run {}", program(options)))
            .cause(format!("{name:?} is no name"))
            .chain(&error)
            .state("nothing was started")
            .hint("letters, digits, `.`, `_` and `-` make a name")
            .into()
    })
}

/// Tells how a program left whoever stayed with it, if its status does not.
pub(super) fn tell(store: &Store, name: &Name, ending: Ending) {
    match ending {
        // A file may be one of the program's, and has to be as it was when it is thawed; the exit status tells, too.
        Ending::Frozen(_) if output::is_stderr_file() => {}
        Ending::Frozen(version) => {
            let instance = Instance::find(store, name).ok().flatten();
            let id = instance.map_or_else(
                || ImageId { name: name.clone(), version },
                |instance| instance.frozen_as(version),
            );
            output::note(&format!("frost: {name} was frozen as {id}"));
        }
        Ending::Unknown => {
            output::note(&format!("frost: the keeper of {name} was killed, and the program with it"));
        }
        Ending::Starved => output::note(&format!(
            "frost: {name} was ended: it needed more memory than its budget allows (`--ram`)"
        )),
        Ending::Exited(_) | Ending::Killed(_) | Ending::Left => {}
    }
}
