//! Virtual machines: frost beside QEMU's own way into a file and out of it.
//!
//! The floor is the same guest under the same QEMU, saved by `migrate` to a file with its bandwidth unlimited, synced, and
//! QEMU ended; and a QEMU that is started to load that file. Each figure is of a guest that was booted for it; `refreeze`
//! is that of a guest that was thawed, where frost has the same stream to write.

use crate::Machines;
use crate::machine::Machine as Host;
use crate::program::frost;
use crate::report::{Report, Sample};
use frost_model::machine::{Guest, Machine, MachineMemory};
use frost_vm::agent::{self, Agent};
use frost_vm::initramfs::{self, Task};
use frost_vm::qemu::{self, Parts, Qemu};
use frost_vm::vmm::Vmm;
use frost_vm::{kernel, wire};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use serde_json::json;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = "bench";

/// What a figure of a machine takes: times, and the room on disk.
struct Taken {
    freeze: Duration,
    thaw: Duration,
    bytes: u64,
    refreeze: Option<Duration>,
}

/// Measures all figures and prints the table.
pub(crate) fn run(run: &Machines) -> io::Result<()> {
    fs::create_dir_all(&run.directory)?;
    let version = frost(&run.frost, &run.directory, &["--version"])?.1;
    let host = Host::describe(&run.directory, version.trim().to_owned());
    let mut report = Report::create(&run.results, &host)?;
    for mib in &run.sizes {
        for full in [false, true] {
            for round in 0..run.rounds {
                // Who comes second finds memory that was in use a moment before: they take turns at that.
                let (ours, floor) = if round % 2 == 0 {
                    let ours = by_frost(run, *mib, full)?;
                    (ours, by_qemu(run, *mib, full)?)
                } else {
                    let floor = by_qemu(run, *mib, full)?;
                    (by_frost(run, *mib, full)?, floor)
                };
                let kind = if full { "full" } else { "idle" };
                for (side, taken) in [("frost", ours), ("floor", floor)] {
                    let mut add = |figure: &str, unit, value| {
                        let figure = format!("{figure}-{mib}M-{kind}");
                        report.add(Sample { figure, side, round, unit, value })
                    };
                    add("vm-freeze", "us", taken.freeze.as_micros() as u64)?;
                    add("vm-thaw", "us", taken.thaw.as_micros() as u64)?;
                    add("vm-size", "bytes", taken.bytes)?;
                    if let Some(refreeze) = taken.refreeze {
                        add("vm-refreeze", "us", refreeze.as_micros() as u64)?;
                    }
                }
            }
        }
    }
    println!("{}\n\n{}", host.line(), report.table());
    Ok(())
}

/// What the guest runs: it fills three quarters of the memory that the kernel leaves, or none, and waits. A random block
/// again and again is as good as random memory, as nothing of what is measured compresses or compares.
fn script(mib: u64, full: bool) -> String {
    // The kernel has some 70 MiB to itself.
    let blocks = if full { (mib - 72) * 3 / 4 } else { 0 };
    format!(
        "mount -t tmpfs -o size=90% none /tmp; dd if=/dev/urandom of=/block bs=1M count=1 2>/dev/null; n=0
while [ $n -lt {blocks} ]; do cat /block; n=$((n+1)); done > /tmp/fill; echo ready; while :; do sleep 1; done"
    )
}

fn by_frost(run: &Machines, mib: u64, full: bool) -> io::Result<Taken> {
    let frost = |arguments: &[&str]| frost(&run.frost, &run.directory, arguments);
    let ram = format!("{mib}M");
    frost(&["run", "--vm", "--ram", &ram, "--detach", "--name", NAME, "--", "sh", "-c", &script(mib, full)])?;
    while !frost(&["logs", NAME])?.1.contains("ready") {
        if !frost(&["ps", NAME, "--json"])?.1.contains("\"running\"") {
            return Err(io::Error::other("the guest ended before it was ready"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (freeze, record) = frost(&["freeze", NAME, "--json"])?;
    let record: serde_json::Value = serde_json::from_str(record.trim()).map_err(io::Error::other)?;
    let (thaw, _) = frost(&["thaw", NAME])?;
    let (refreeze, _) = frost(&["freeze", NAME])?;
    frost(&["rm", NAME])?;
    Ok(Taken { freeze, thaw, bytes: record["bytes"].as_u64().unwrap_or(0), refreeze: Some(refreeze) })
}

fn by_qemu(run: &Machines, mib: u64, full: bool) -> io::Result<Taken> {
    let file = run.directory.join("saved");
    let kernel = kernel::installed(&run.directory.join("store")).map_err(io::Error::other)?;
    let task = Task {
        command: ["sh", "-c", &script(mib, full)].map(Into::into).to_vec(),
        environment: vec!["PATH=/bin".into()],
        directory: "/".into(),
        terminal: false,
    };
    let root = initramfs::memory_root(&task, "".as_ref()).map_err(io::Error::other)?;
    let initramfs = run.directory.join("initramfs");
    fs::write(&initramfs, initramfs::build(&kernel, &task, &root).map_err(io::Error::other)?)?;

    let (mut qemu, mut agent) = start(mib, &run.directory, Some((&kernel.image, &initramfs)))?;
    qemu.resume().map_err(io::Error::other)?;
    let mut output = Vec::new();
    while !output.windows(5).any(|word| word == b"ready") {
        for frame in agent.frames().map_err(io::Error::other)? {
            match frame.word {
                wire::HELLO => agent.send(wire::TIME, &agent::time()),
                wire::OUTPUT => output.extend_from_slice(&frame.content),
                _ => {}
            }
        }
        let mut fds = [PollFd::new(&agent, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
    }

    let began = Instant::now();
    qemu.pause().map_err(io::Error::other)?;
    let quoted = format!("'{}'", std::path::absolute(&file)?.display());
    migrate(&mut qemu, "migrate", &format!("exec:cat > {quoted}"))?;
    File::open(&file)?.sync_all()?;
    qemu.quit();
    let freeze = began.elapsed();
    drop(qemu);

    let began = Instant::now();
    let (mut qemu, _agent) = start(mib, &run.directory, None)?;
    migrate(&mut qemu, "migrate-incoming", &format!("exec:cat {quoted}"))?;
    qemu.resume().map_err(io::Error::other)?;
    let thaw = began.elapsed();
    qemu.quit();
    let bytes = fs::metadata(&file)?.len();
    fs::remove_file(&file)?;
    Ok(Taken { freeze, thaw, bytes, refreeze: None })
}

fn migrate(qemu: &mut Qemu, command: &str, uri: &str) -> io::Result<()> {
    let mut ask = |command: &str, arguments| qemu.monitor().ask(command, arguments).map_err(io::Error::other);
    ask("migrate-set-parameters", json!({ "max-bandwidth": 1u64 << 50 }))?;
    ask(command, json!({ "uri": uri }))?;
    loop {
        match ask("query-migrate", json!({}))?["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed") => return Err(io::Error::other(format!("{command} failed"))),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Starts a QEMU whose memory is in no file.
fn start(mib: u64, directory: &Path, boot: Option<(&Path, &Path)>) -> io::Result<(Qemu, Agent)> {
    let memory: OwnedFd = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memory, mib << 20)?;
    let machine = Machine {
        vmm: "qemu".to_owned(),
        vmm_version: String::new(),
        board: qemu::BOARD.to_owned(),
        processor: qemu::PROCESSOR.to_owned(),
        accelerator: frost_vm::accelerator::SOFTWARE.to_owned(),
        cpus: 1,
        memory: MachineMemory::flat(qemu::MEMORY, mib << 20),
        disks: Vec::new(),
        forwards: Vec::new(),
        guest: Some(Guest::default()),
        arguments: Vec::new(),
        ignore_shared: false,
        devices: Vec::new().into(),
    };
    let (agent, theirs) = Agent::pair().map_err(io::Error::other)?;
    let console = directory.join("console");
    let parts = Parts {
        memory: memory.as_fd(),
        shared: true,
        pack: None,
        layers: Vec::new(),
        console: &console,
        boot,
        agent: theirs.as_fd(),
    };
    Ok((Qemu::start(&machine, &parts).map_err(io::Error::other)?, agent))
}
