//! A real QEMU with a real guest, by the driver alone.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use frost_model::machine::{Guest, Machine, MachineMemory};
use frost_vm::agent::{Agent, Frame};
use frost_vm::initramfs::{self, Task};
use frost_vm::kernel::Kernel;
use frost_vm::qemu::{self, Parts, Qemu};
use frost_vm::stream::Pages;
use frost_vm::vmm::Vmm;
use frost_vm::{agent, kernel, wire};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::AsFd;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const MEMORY_BYTES: u64 = 128 << 20;

/// The kernel that `cargo xtask setup` gets.
fn kernel() -> Option<Kernel> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
    let store = root.join(target).join("vm-tests");
    match (kernel::installed(&store), qemu::installed()) {
        (Ok(kernel), Ok(_)) => Some(kernel),
        (kernel, qemu) => {
            let reasons: Vec<String> =
                [kernel.err(), qemu.err()].into_iter().flatten().map(|error| error.to_string()).collect();
            println!("skipped: {} (cargo xtask setup)", reasons.join("; "));
            None
        }
    }
}

fn machine() -> Machine {
    Machine {
        vmm: "qemu".to_owned(),
        vmm_version: String::new(),
        board: qemu::BOARD.to_owned(),
        processor: qemu::PROCESSOR.to_owned(),
        accelerator: "tcg".to_owned(),
        cpus: 1,
        memory: MachineMemory::flat(qemu::MEMORY, MEMORY_BYTES),
        disks: Vec::new(),
        forwards: Vec::new(),
        guest: Some(Guest::default()),
        arguments: Vec::new(),
        ignore_shared: true,
        devices: Vec::new().into(),
    }
}

/// Pages that are put into a file.
struct InFile<'a>(&'a File, u64);

impl Pages for InFile<'_> {
    fn page(&mut self, offset: u64, bytes: &[u8; 4096]) -> frost_vm::Result<()> {
        self.1 += 1;
        self.0.write_all_at(bytes, offset).expect("a temporary file can be written");
        Ok(())
    }
}

/// Waits for frames until one satisfies; returns all output before it.
fn until(agent: &mut Agent, wanted: impl Fn(&Frame, &[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut output = Vec::new();
    loop {
        for frame in agent.frames().expect("QEMU lives") {
            if frame.word == wire::OUTPUT {
                output.extend_from_slice(&frame.content);
            }
            if wanted(&frame, &output) {
                return output;
            }
        }
        assert!(Instant::now() < deadline, "nothing more comes after {:?}", String::from_utf8_lossy(&output));
        let mut fds = [PollFd::new(&*agent, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
    }
}

fn lines(output: &[u8]) -> Vec<u64> {
    String::from_utf8_lossy(output).split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

fn boot(directory: &Path, kernel: &Kernel, script: &str) -> (Qemu, Agent, File) {
    let task = Task {
        command: ["sh", "-c", script].into_iter().map(Into::into).collect(),
        environment: vec!["PATH=/bin".into()],
        directory: "/".into(),
        terminal: false,
    };
    let root = initramfs::memory_root(&task, "".as_ref()).expect("busybox is there");
    let initramfs = directory.join("initramfs");
    std::fs::write(&initramfs, initramfs::build(kernel, &task, &root).unwrap()).unwrap();
    let memory = directory.join("memory");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&memory).unwrap();
    file.set_len(MEMORY_BYTES).unwrap();
    let (mut agent, theirs) = Agent::pair().unwrap();
    let console = directory.join("console");
    let parts = Parts {
        memory: file.as_fd(),
        shared: true,
        pack: None,
        layers: Vec::new(),
        console: &console,
        boot: Some((&kernel.image, &initramfs)),
        agent: theirs.as_fd(),
    };
    let mut qemu = Qemu::start(&machine(), &parts).unwrap();
    drop(theirs);
    qemu.resume().unwrap();
    until(&mut agent, |frame, _| frame.word == wire::HELLO);
    agent.send(wire::TIME, &agent::time());
    (qemu, agent, file)
}

fn thaw(directory: &Path, machine: &Machine, file: &File, devices: &[u8], guest: &Guest) -> (Qemu, Agent) {
    let (mut agent, theirs) = Agent::pair().unwrap();
    agent.continue_from(guest);
    let console = directory.join("console");
    let parts = Parts {
        memory: file.as_fd(),
        shared: false,
        pack: None,
        layers: Vec::new(),
        console: &console,
        boot: None,
        agent: theirs.as_fd(),
    };
    let mut qemu = Qemu::start(machine, &parts).unwrap();
    drop(theirs);
    qemu.load(devices, &machine.memory.changed, file.as_fd()).unwrap();
    agent.flush();
    qemu.resume().unwrap();
    agent.send(wire::TIME, &agent::time());
    (qemu, agent)
}

#[test]
fn a_guest_is_frozen_from_shared_memory_and_again_from_private_memory() {
    let Some(kernel) = kernel() else { return };
    let directory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let (mut qemu, mut agent, file) =
        boot(directory.path(), &kernel, "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done");
    let mut seen = lines(&until(&mut agent, |_, output| output.ends_with(b"5\n")));
    println!("booted after {:?}", began.elapsed());
    let mut machine = machine();
    let mut path = file;
    for generation in 0..3 {
        qemu.pause().unwrap();
        let rest = agent.frames().unwrap();
        for frame in rest.iter().filter(|frame| frame.word == wire::OUTPUT) {
            seen.extend(lines(&frame.content));
        }
        let mut guest = Guest::default();
        agent.state_into(&mut guest);
        let next = directory.path().join(format!("memory.{generation}"));
        let copy = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&next).unwrap();
        copy.set_len(MEMORY_BYTES).unwrap();
        let began = Instant::now();
        let mut pages = InFile(&copy, 0);
        let devices = qemu.save(&mut pages).unwrap();
        println!(
            "generation {generation}: {} pages, {} bytes in {:?}",
            pages.1,
            devices.len(),
            began.elapsed()
        );
        assert_eq!(pages.1 == 0, generation == 0, "a shared memory is in its file already");
        machine.ignore_shared = qemu.ignores_shared();
        qemu.quit();
        if generation > 0 {
            path = copy;
        }
        let began = Instant::now();
        (qemu, agent) = thaw(directory.path(), &machine, &path, &devices, &guest);
        let last = *seen.last().unwrap();
        let more = until(&mut agent, |_, output| output.iter().filter(|byte| **byte == b'\n').count() >= 3);
        println!("thawed after {:?}", began.elapsed());
        seen.extend(lines(&more[..=more.iter().rposition(|byte| *byte == b'\n').unwrap()]));
        assert!(seen.contains(&(last + 1)));
    }
    assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
}
