//! Virtual machines behind the verbs that all programs have.

use super::terminal::{self, Event, Signals};
use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::{output, trouble as troubles};
use frost_keeper::Connection;
use frost_keeper::protocol::{self as say, Message};
use frost_model::machine::{Forward, Machine};
use frost_runtime::instance::{Instance, Kept};
use frost_store::{Image, Name, Store};
use frost_thaw::Ending;
use frost_vm::accelerator::{self, Accelerator};
use frost_vm::freeze::{Answer, Order};
use frost_vm::initramfs::Task;
use frost_vm::{Error, Started, keeper, kernel};
use rustix::io::Errno;
use rustix::process::Signal;
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Where a guest's commands are, if nobody says otherwise.
const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Serialize)]
struct Record<'a> {
    name: &'a str,
    pid: i32,
    keeper: i32,
    accelerator: &'a str,
    ports: Vec<[u16; 2]>,
    #[serde(flatten)]
    thawed: Option<ThawedRecord>,
}

/// What is told of every program that is thawed; here it is QEMU.
#[derive(Serialize)]
struct ThawedRecord {
    version: u32,
    inner_pid: i32,
    processes: usize,
    threads: usize,
    elapsed_us: u64,
}

/// `frost run --vm`.
pub(super) fn run(options: &super::run::Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let program = super::run::program(options);
    let what = || format!("cannot run {program} in a virtual machine");
    let usage = |cause: String, hint: &str| -> Failure {
        Told::new(Status::Usage, what()).cause(cause).state("nothing was started").hint(hint).into()
    };
    let ram = options.ram.as_deref().unwrap_or("512M");
    let memory_bytes = super::set::size(ram).ok_or_else(|| {
        usage(format!("{ram:?} is no size of memory"), "a number with K, M or G behind it, as 512M")
    })?;
    let forwards = forwards(&options.port).map_err(|cause| usage(cause, PORTS))?;
    let store = invocation.store()?;
    let name = super::run::name(options)?;
    if let Some(name) = &name {
        super::scenario::keep_apart(name, what(), "nothing was started", "--name", invocation)?;
    }
    let failed = |error| trouble(what(), error);
    let kernel = match &options.kernel {
        Some(path) => kernel::given(path),
        None => kernel::installed(store.path()),
    };
    let kernel = kernel.map_err(failed)?;
    let accelerator =
        accelerator::find(store.path(), &kernel, &mut |text| output::note(&format!("note: {text}")));
    let accelerator = accelerator.map_err(failed)?;
    if accelerator.name == accelerator::SOFTWARE {
        output::note(&format!("note: {}", executes(&accelerator)));
    }
    let terminal = options.detach || rustix::termios::isatty(rustix::stdio::stdin());
    let variable = |key: &str, value: OsString| {
        let mut text = OsString::from(format!("{key}="));
        text.push(value);
        text
    };
    let environment = vec![
        variable("PATH", GUEST_PATH.into()),
        variable("HOME", "/root".into()),
        variable("TERM", std::env::var_os("TERM").unwrap_or_else(|| "linux".into())),
    ];
    let how = frost_vm::run::Options {
        name,
        task: Task { command: options.command.clone(), environment, directory: PathBuf::from("/"), terminal },
        path: std::env::var_os("PATH").unwrap_or_else(|| GUEST_PATH.into()),
        memory_bytes,
        cpus: options.cpus,
        root: options.root.clone(),
        forwards,
        accelerator: accelerator.name.clone(),
        detach: options.detach,
    };
    let started = frost_vm::run::run(&store, &kernel, &how).map_err(failed)?;
    invocation.steps.end("vm.boot");
    if options.detach {
        tell_started(&started, &accelerator.name, None, invocation, || {
            format!("{} runs in a virtual machine, as process {}", started.name, started.pid)
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    stay(&store, started)
}

/// `frost vm adopt`.
pub(super) fn adopt(
    store: &Store,
    socket: &Path,
    name: &str,
    invocation: &mut Invocation,
) -> Result<ExitCode, Failure> {
    let what = format!("cannot take over the QEMU behind {}", socket.display());
    let name = Name::new(name).map_err(|error| super::freeze::no_name(what.clone(), name, &error))?;
    super::scenario::keep_apart(&name, what.clone(), "it goes on as before", "--name", invocation)?;
    let started = frost_vm::adopt::adopt(store, socket, &name).map_err(|error| trouble(what, error))?;
    invocation.steps.end("vm.adopt");
    tell_started(&started, "", None, invocation, || {
        format!("process {} is {} from now on: `frost freeze {}`", started.pid, started.name, started.name)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn tell_started(
    started: &Started,
    accelerator: &str,
    thawed: Option<ThawedRecord>,
    invocation: &Invocation,
    text: impl FnOnce() -> String,
) -> io::Result<()> {
    if invocation.global.json {
        output::record(&Record {
            name: started.name.as_str(),
            pid: started.pid,
            keeper: started.keeper,
            accelerator,
            ports: started.ports.iter().map(|(host, guest)| [*host, *guest]).collect(),
            thawed,
        })
    } else {
        let ports: String =
            started.ports.iter().map(|(host, guest)| format!(", port {host} leads to its {guest}")).collect();
        output::line(&format!("{}{ports}", text()))
    }
}

/// Says what executes guests, and what that costs.
pub(super) fn executes(accelerator: &Accelerator) -> String {
    match &accelerator.why {
        None => "this machine's processor executes guests (KVM)".to_owned(),
        Some(why) => {
            format!(
                "software executes guests, which takes some ten times as long as the processor would: {why}"
            )
        }
    }
}

/// What a pair of ports is, for those who gave none.
const PORTS: &str = "a port of this machine and one of the guest, as 8080:80";

/// Reads pairs of ports; else says what is none.
fn forwards(given: &[String]) -> Result<Vec<Forward>, String> {
    given.iter().map(|text| forward(text).ok_or_else(|| format!("{text:?} is no pair of ports"))).collect()
}

fn forward(text: &str) -> Option<Forward> {
    let (host, guest) = text.split_once(':')?;
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    Some(Forward { host: port(host)?, guest: port(guest)? })
}

/// Stays with a guest to its end: its output, our input, our signals, its status.
fn stay(store: &Store, started: Started) -> Result<ExitCode, Failure> {
    let Started { name, connection, .. } = started;
    let passed =
        [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2, Signal::WINCH];
    let ending = pass(&connection, &Signals::take(&passed)?)?;
    let ending = match (ending, named(store, &name)) {
        (Some(ending), _) => ending,
        (None, Some(instance)) => super::wait::until_end(&instance).unwrap_or(Ending::Unknown),
        (None, None) => Ending::Unknown,
    };
    super::run::tell(store, &name, ending);
    if matches!(ending, Ending::Exited(_) | Ending::Killed(_))
        && let Ok((instance, claim)) = Instance::claim(store, &name)
    {
        // Whoever waited for it knows all there is to know.
        let _ = instance.remove(claim);
    }
    Ok(ExitCode::from(u8::try_from(ending.exit_status()).unwrap_or(u8::MAX)))
}

fn named(store: &Store, name: &Name) -> Option<Instance> {
    Instance::find(store, name).ok().flatten()
}

/// Passes everything on until the guest ends; `None` if its keeper ended without a word.
fn pass(connection: &Connection, signals: &Signals) -> io::Result<Option<Ending>> {
    let resize = || {
        let (rows, columns) = terminal::size();
        let _ = connection.send(Message::new(say::RESIZE, rows, columns, 0), &[]);
    };
    resize();
    terminal::pass(connection, signals, &mut |event| {
        match event {
            Event::Said(message) if message.kind == say::ENDED => {
                return ControlFlow::Break(Some(Ending::of_message(message)));
            }
            Event::Said(message) if message.kind == say::ICE => {
                return ControlFlow::Break(Some(Ending::Frozen(message.a as u32)));
            }
            Event::Said(_) => {}
            Event::Gone => return ControlFlow::Break(None),
            Event::Signal(signal) if signal == Signal::WINCH.as_raw() => resize(),
            Event::Signal(signal) => {
                let _ = connection.send(Message::new(keeper::SIGNAL, signal, 0, 0), &[]);
            }
            // No bytes are the end of the program's input.
            Event::Typed(bytes) => drop(connection.send(Message::new(say::INPUT, 0, 0, 0), bytes)),
        }
        ControlFlow::Continue(())
    })
}

#[derive(Serialize)]
struct FrozenRecord<'a> {
    name: &'a str,
    version: u32,
    bytes: u64,
    pause_us: u64,
    elapsed_us: u64,
    running: bool,
}

/// `frost freeze` of a virtual machine; returns the image.
pub(super) fn freeze(
    kept: &Kept,
    name: &Name,
    (leave_running, full): (bool, bool),
    invocation: &mut Invocation,
) -> Result<String, Failure> {
    let order = Order { name: name.to_string(), leave_running, full };
    let what = format!("cannot freeze the virtual machine {name}");
    let answer =
        frost_vm::freeze::order(&kept.connection, &order).map_err(|error| trouble(what.clone(), error))?;
    let frozen = match answer {
        Answer::Done(frozen) => frozen,
        Answer::Failed { no_space, causes } => {
            let mut told = Told::new(if no_space { Status::NoSpace } else { Status::Failed }, what);
            told.causes = causes.iter().map(|cause| output::printable(cause)).collect();
            let hint = if no_space {
                "free some space there (`frost gc`, `frost rm`)"
            } else {
                "`frost ps` shows how it stands"
            };
            return Err(told.state("the virtual machine runs on").hint(hint).into());
        }
    };
    invocation.steps.end("vm.freeze");
    let elapsed = invocation.steps.elapsed();
    let pause = Duration::from_micros(frozen.pause_us);
    if invocation.global.json {
        output::record(&FrozenRecord {
            name: &frozen.name,
            version: frozen.version,
            bytes: frozen.bytes,
            pause_us: frozen.pause_us,
            elapsed_us: elapsed.as_micros() as u64,
            running: frozen.running,
        })?;
    } else {
        let end = if frozen.running {
            format!("it goes on after a pause of {}", output::span(pause))
        } else {
            "it is gone".to_owned()
        };
        output::line(&format!(
            "{}@{}: a virtual machine, {} in {}; {end}",
            frozen.name,
            frozen.version,
            output::bytes(frozen.bytes),
            output::span(elapsed)
        ))?;
    }
    Ok(format!("{}@{}", frozen.name, frozen.version))
}

#[derive(Serialize)]
struct PlanRecord<'a> {
    name: &'a str,
    version: u32,
    notes: &'a [String],
}

/// `frost thaw` of a virtual machine.
pub(super) fn thaw(
    options: &super::thaw::Options,
    store: &Store,
    image: &Image,
    invocation: &mut Invocation,
) -> Result<ExitCode, Failure> {
    let id = image.id();
    let what = || format!("cannot thaw {id}");
    let Some(machine) = &image.checkpoint().machine else { return Ok(ExitCode::SUCCESS) };
    if options.plan {
        let notes = describe(machine);
        if invocation.global.json {
            output::record(&PlanRecord { name: id.name.as_str(), version: id.version, notes: &notes })?;
        } else {
            notes.iter().try_for_each(|line| output::line(&output::printable(line)))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let forwards = forwards(&options.port).map_err(|cause| {
        Told::new(Status::Usage, what()).cause(cause).state("the image is as it was").hint(PORTS)
    })?;
    let how = frost_vm::thaw::Options { clone: options.clone, forwards };
    let started = frost_vm::thaw::thaw(store, image, &how).map_err(|error| trouble(what(), error))?;
    invocation.steps.end("vm.thaw");
    if options.attach {
        return stay(store, started);
    }
    let elapsed = invocation.steps.elapsed().saturating_sub(options.begun);
    let thawed = ThawedRecord {
        version: id.version,
        inner_pid: started.pid,
        processes: 1,
        threads: frost_sys::proc::threads(started.pid).map_or(1, |threads| threads.len()),
        elapsed_us: elapsed.as_micros() as u64,
    };
    tell_started(&started, &machine.accelerator, Some(thawed), invocation, || {
        let copy = if options.clone { format!("{}, a copy of {id},", started.name) } else { id.to_string() };
        format!(
            "{copy} runs in a virtual machine, as process {}, after {}",
            started.pid,
            output::span(elapsed)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Says what a virtual machine is, a line each.
pub(super) fn describe(machine: &Machine) -> Vec<String> {
    let mut lines = vec![
        format!(
            "virtual machine: {}, {} of memory, {}, by {} {}",
            machine.board,
            output::bytes(machine.memory.bytes.len_bytes),
            output::count(machine.cpus, "processor", "processors"),
            machine.vmm,
            machine.vmm_version
        ),
        format!("  processor {}, executed by {}", machine.processor, machine.accelerator),
    ];
    if !machine.memory.changed.is_empty() {
        let changed = output::bytes(machine.memory.changed_bytes());
        lines.push(format!("  {changed} of the memory have changed since an earlier version"));
    }
    for disk in &machine.disks {
        let base = match &disk.base {
            frost_model::machine::DiskBase::Pack(_) => "in the image".to_owned(),
            frost_model::machine::DiskBase::File { path, .. } => format!("over {path}"),
        };
        let layer = disk.layer.map_or(0, |layer| layer.len_bytes);
        lines.push(format!(
            "  disk of {}, {base}, {} written",
            output::bytes(disk.len_bytes),
            output::bytes(layer)
        ));
    }
    for forward in &machine.forwards {
        lines.push(format!("  port {} of this machine leads to its {}", forward.host, forward.guest));
    }
    lines
}

/// Tells an error with its status and what to do.
pub(super) fn trouble(what: String, error: Error) -> Failure {
    let error = match error {
        Error::Store(error) => return troubles::of_store(what, error),
        Error::Runtime(error) => return troubles::of_runtime(what, error),
        error => error,
    };
    let (status, hint) = match &error {
        Error::NoQemu { .. } => (Status::Failed, "install it: apt install qemu-system-x86".to_owned()),
        Error::NoProgram { package, .. } => (Status::Failed, format!("install it: apt install {package}")),
        Error::NoKernel { .. } => {
            (Status::Missing, "`frost vm setup` gets one, or name one by --kernel".to_owned())
        }
        Error::BadKernel { .. } => (Status::Usage, "`frost vm setup` gets one that fits".to_owned()),
        Error::PortInUse { .. } => (
            Status::Failed,
            "choose another one by --port, or thaw a copy (--clone), which gets a free one".to_owned(),
        ),
        Error::NotRun { errno: Errno::NOENT, .. } => {
            (Status::NotFound, "look at PATH, give its path in the guest, or a --root that has it".to_owned())
        }
        Error::NotRun { .. } => (Status::NotExecutable, "look at its mode and its kind (`file`)".to_owned()),
        Error::NotBooted { .. } => {
            (Status::Failed, "try the kernel of `frost vm setup`, or more --ram".to_owned())
        }
        Error::Unsupported { remedy, .. } => (Status::Unsupported, remedy.clone()),
        Error::Disk { .. } => (
            Status::Missing,
            "put it back as it was; the image holds only what was written over it".to_owned(),
        ),
        Error::NoMonitor { .. } => {
            (Status::Usage, "start QEMU with `-qmp unix:SOCKET,server=on,wait=off`".to_owned())
        }
        Error::File { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (Status::NoSpace, "free some space there, or use a store elsewhere by --store".to_owned())
            }
            io::ErrorKind::NotFound => (Status::Missing, "look at the path".to_owned()),
            io::ErrorKind::PermissionDenied => (Status::Denied, "look at its owner and mode".to_owned()),
            _ => (Status::Failed, "`frost check` tells whether the store can be used".to_owned()),
        },
        _ => (Status::Failed, "try again; `frost ps` shows how it stands".to_owned()),
    };
    let mut told = Told::new(status, what).chain(&error);
    if let Error::NotBooted { console, .. } = &error
        && !console.is_empty()
    {
        told = told.cause(format!("the last lines of its console:\n{console}"));
    }
    told.state("nothing runs that did not run before").hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_two_numbers() {
        assert_eq!(forward("8080:80"), Some(Forward { host: 8080, guest: 80 }));
        for text in ["80", "0:80", "80:", "70000:1", "a:b"] {
            assert_eq!(forward(text), None, "{text}");
        }
    }
}
