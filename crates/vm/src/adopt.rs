//! A QEMU that somebody else started, taken over: frozen and thawed by its name from then on.
//!
//! At a thaw it is started again by its own arguments, with three differences: the type of its machine is the one with a
//! version, its memory is the image's, and it waits for its devices. So all that its arguments name must be there again, and
//! what is not in them cannot be carried.

use crate::birth::{self, Birth, How, Started};
use crate::error::{Error, Result};
use crate::place::Place;
use crate::qemu::{self, Qemu};
use crate::qmp::Qmp;
use frost_model::BytePath;
use frost_model::clock::Timespec;
use frost_model::machine::{Disk, DiskBase, Machine, MachineMemory};
use frost_runtime::instance::Record;
use frost_store::{Name, Store};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Takes over the QEMU whose monitor listens at `socket`.
///
/// The calling process must have one thread only, since it forks.
///
/// # Errors
/// [`Error::NoMonitor`] if nobody there speaks QMP; [`Error::Unsupported`] names what of it cannot be carried. It runs on as
/// it was.
pub fn adopt(store: &Store, socket: &Path, name: &Name) -> Result<Started> {
    let stream = UnixStream::connect(socket).map_err(Error::file(socket))?;
    let peer =
        rustix::net::sockopt::socket_peercred(&stream).map_err(Error::call("cannot tell who listens"))?;
    let pid = peer.pid.as_raw_nonzero().get();
    let (mut monitor, version) = Qmp::greet(stream)?;
    let machine = describe(pid, &mut monitor, version.to_string())?;
    let record = Record {
        command: machine.arguments.iter().map(ToString::to_string).collect(),
        machine: true,
        ..Record::now()
    };
    let (instance, claim) = frost_runtime::run::claim(store, Some(name), OsStr::new(""))?;
    let mut claim = Some(claim);
    let outcome = (|| {
        let held = instance.begin(&record, false)?;
        let place = Place::new(&instance)?;
        let memory = rustix::fs::memfd_create("none", rustix::fs::MemfdFlags::CLOEXEC);
        let qemu = Qemu::adopted(pid, monitor, version, &machine, &place.console())?;
        let birth = Birth {
            machine,
            memory: memory.map_err(Error::call("cannot get memory"))?,
            source: None,
            place,
            name: instance.name().clone(),
            store: store.clone(),
            how: How::Adopt(Box::new(qemu)),
        };
        birth::start(birth, held, &mut claim)
    })();
    crate::run::finish(outcome, instance, claim)
}

fn refused(object: impl Into<String>, why: impl Into<String>, remedy: &str) -> Error {
    Error::Unsupported { object: object.into(), why: why.into(), remedy: remedy.to_owned() }
}

/// Asks for all that an image must say of it.
fn describe(pid: i32, monitor: &mut Qmp, vmm_version: String) -> Result<Machine> {
    let none = || json!({});
    if let Some(reasons) = monitor.ask("query-migrate", none())?["blocked-reasons"].as_array()
        && let Some(reason) = reasons.iter().find_map(Value::as_str)
    {
        return Err(refused("this QEMU", format!("it says: {reason}"), "start it without that"));
    }
    let arguments = arguments_of(pid)?;
    require(&arguments)?;
    let board = monitor.ask("qom-get", json!({ "path": "/machine", "property": "type" }))?;
    let board = board.as_str().unwrap_or_default().trim_end_matches("-machine").to_owned();
    if !board.bytes().any(|byte| byte.is_ascii_digit()) || !board.contains('.') {
        let why = "it has no version, so that another QEMU would build another one";
        return Err(refused(format!("a machine of type {board}"), why, "start it with -machine pc or q35"));
    }
    let memories = monitor.ask("query-memdev", none())?;
    let memory = match memories.as_array().map(Vec::as_slice) {
        Some([only]) => only,
        other => {
            let why = format!("it is in {} parts", other.map_or(0, <[Value]>::len));
            return Err(refused("its memory", why, "start it with one memory (-m SIZE)"));
        }
    };
    if monitor.ask("query-memory-devices", none())?.as_array().is_some_and(|devices| !devices.is_empty()) {
        return Err(refused("a memory device", "it was plugged in", "start it with all of its memory"));
    }
    let kvm = monitor.ask("query-kvm", none())?["enabled"] == true;
    let cpus = monitor.ask("query-cpus-fast", none())?.as_array().map_or(1, Vec::len);
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let mut disks = Vec::new();
    for device in monitor.ask("query-block", none())?.as_array().into_iter().flatten() {
        let inserted = &device["inserted"];
        if inserted.is_null() {
            continue;
        }
        let file = inserted["file"].as_str().unwrap_or_default();
        let path = directory.join(file);
        let Ok(data) = fs::metadata(&path) else {
            let name = device["device"].as_str().or(device["qdev"].as_str()).unwrap_or("a disk");
            return Err(refused(
                format!("{name}, which is {file},"),
                "it is no file of this machine",
                "start it with a file",
            ));
        };
        disks.push(Disk {
            base: DiskBase::File {
                path: path.as_path().into(),
                format: inserted["drv"].as_str().unwrap_or("raw").to_owned(),
                file_bytes: data.len(),
                modified: Timespec { sec: data.mtime(), nsec: data.mtime_nsec() },
                digest: ByteBuf::new(),
            },
            layer: None,
            len_bytes: inserted["image"]["virtual-size"].as_u64().unwrap_or(0),
        });
    }
    Ok(Machine {
        vmm: "qemu".to_owned(),
        vmm_version,
        board,
        processor: value_of(&arguments, "cpu").unwrap_or("the board's own").to_owned(),
        accelerator: if kvm { crate::accelerator::KVM } else { crate::accelerator::SOFTWARE }.to_owned(),
        cpus: cpus as u32,
        memory: MachineMemory::flat(
            memory["id"].as_str().unwrap_or("pc.ram"),
            memory["size"].as_u64().unwrap_or(0),
        ),
        disks,
        forwards: Vec::new(),
        guest: None,
        arguments: std::iter::once(directory.into_os_string().into_vec())
            .chain(arguments.iter().map(|argument| argument.as_bytes().to_vec()))
            .map(BytePath::new)
            .collect(),
        ignore_shared: false,
        devices: ByteBuf::new(),
    })
}

/// The arguments that it was started with; they must be those of the QEMU that would be started here.
fn arguments_of(pid: i32) -> Result<Vec<String>> {
    let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
    let bytes = fs::read(&path).map_err(Error::file(&path))?;
    let words: Vec<String> =
        bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    if program.file_name() != Some(OsStr::new(qemu::PROGRAM)) {
        let why = format!("it is {}, and {} is known only", program.display(), qemu::PROGRAM);
        return Err(refused(
            format!("process {pid}"),
            why,
            "name the socket of a guest of this architecture",
        ));
    }
    // The last word is empty, behind the last NUL.
    Ok(words[1..words.len().max(2) - 1].to_vec())
}

/// The option that a word is, without its dashes.
fn option(word: &str) -> Option<&str> {
    word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|rest| !rest.is_empty())
}

fn value_of<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.windows(2).rfind(|pair| option(&pair[0]) == Some(name)).map(|pair| pair[1].as_str())
}

/// Refuses what arguments alone do not bring back.
fn require(arguments: &[String]) -> Result<()> {
    for word in arguments {
        let inherited = word.split(',').any(|part| part.starts_with("fd=") || part.starts_with("fds="));
        if inherited || word.starts_with("fd:") {
            let why = "it was given a descriptor at its start, which nobody can give it again";
            return Err(refused(format!("the argument {word}"), why, "name a path in its place"));
        }
    }
    if let Some(model @ ("host" | "max")) =
        value_of(arguments, "cpu").map(|cpu| cpu.split(',').next().unwrap_or(cpu))
    {
        let why = "it is another one with another processor or QEMU";
        return Err(refused(
            format!("the processor {model}"),
            why,
            "start it with a named one, as -cpu Nehalem",
        ));
    }
    Ok(())
}

/// The arguments with which it is started for a thaw, behind those that all machines have.
pub(crate) fn again(machine: &Machine, memory: &str) -> Vec<OsString> {
    let mut line = Vec::new();
    // The first is its working directory.
    let mut words = machine.arguments.iter().skip(1).map(ToString::to_string).peekable();
    while let Some(word) = words.next() {
        match option(&word) {
            Some("daemonize" | "S" | "no-reboot") => {}
            Some("incoming" | "loadvm" | "pidfile") => drop(words.next()),
            Some("object") => {
                let value = words.next().unwrap_or_default();
                if !value.contains(&format!("id={}", machine.memory.name)) {
                    line.extend([word, value]);
                }
            }
            _ => line.push(word),
        }
    }
    let name = &machine.memory.name;
    let len_bytes = machine.memory.bytes.len_bytes;
    line.extend([
        "-object".to_owned(),
        format!("memory-backend-file,id={name},size={len_bytes},share=off,mem-path={memory}"),
        // The last word of an option counts.
        "-machine".to_owned(),
        format!("{},memory-backend={name}", machine.board),
        "-incoming".to_owned(),
        "defer".to_owned(),
    ]);
    line.into_iter().map(OsString::from).collect()
}

/// Notes how the disks of a machine that was just ended are, so that a change is seen later.
pub(crate) fn settle(disks: &mut [Disk]) {
    for disk in disks {
        if let DiskBase::File { path, file_bytes, modified, .. } = &mut disk.base
            && disk.layer.is_none()
            && let Ok(data) = fs::metadata(path.as_path())
        {
            *file_bytes = data.len();
            *modified = Timespec { sec: data.mtime(), nsec: data.mtime_nsec() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_cannot_be_brought_back_is_refused() {
        require(&words("-m 512 -cpu Nehalem -qmp unix:/x,server=on,wait=off")).unwrap();
        for line in ["-cpu host", "-cpu max,-x2apic", "-chardev socket,id=a,fd=5", "-netdev tap,id=n,fds=3:4"]
        {
            assert!(matches!(require(&words(line)), Err(Error::Unsupported { .. })), "{line}");
        }
    }

    #[test]
    fn it_is_started_again_with_another_memory() {
        let machine = Machine {
            vmm: String::new(),
            vmm_version: String::new(),
            board: "pc-q35-7.2".to_owned(),
            processor: String::new(),
            accelerator: String::new(),
            cpus: 1,
            memory: MachineMemory::flat("m0", 4096),
            disks: Vec::new(),
            forwards: Vec::new(),
            guest: None,
            arguments: words("/cwd -M q35,memory-backend=m0 -object memory-backend-ram,id=m0,size=4096 -daemonize -S -m 4096")
                .into_iter()
                .map(String::into_bytes)
                .map(BytePath::new)
                .collect(),
            ignore_shared: false,
            devices: ByteBuf::new(),
        };
        let line: Vec<String> =
            again(&machine, "/pack").into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(
            line.join(" "),
            "-M q35,memory-backend=m0 -m 4096 -object memory-backend-file,id=m0,size=4096,share=off,mem-path=/pack \
             -machine pc-q35-7.2,memory-backend=m0 -incoming defer"
        );
    }
}
