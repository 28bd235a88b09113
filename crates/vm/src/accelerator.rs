//! What executes guests: the processor itself by KVM, where a guest really boots on it, or software.
//!
//! That the device can be opened says little: on a machine that is itself a guest, KVM may take every call and never come
//! to a guest's first line. So a guest is booted once, and what came of it is remembered beside the kernel.

use crate::agent::Agent;
use crate::error::Result;
use crate::initramfs::{self, Root, Task};
use crate::kernel::Kernel;
use crate::qemu::{self, Parts, Qemu};
use crate::vmm::Vmm;
use crate::wire;
use frost_model::machine::{Guest, Machine, MachineMemory};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::AsFd;
use rustix::fs::MemfdFlags;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Executed by software.
pub const SOFTWARE: &str = "tcg";
/// Executed by the processor.
pub const KVM: &str = "kvm";

const DEVICE: &str = "/dev/kvm";
/// A guest that boots on KVM says hello within a second.
const PROBES_FOR: Duration = Duration::from_secs(10);

/// What executes guests here, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// [`SOFTWARE`] or [`KVM`].
    pub name: String,
    /// Why not KVM.
    pub why: Option<String>,
}

/// Finds what executes guests. The first time on a machine that has KVM it takes up to ten seconds, which `say` hears.
///
/// # Errors
/// [`Error::NoQemu`](crate::Error::NoQemu); [`Error::File`](crate::Error::File).
pub fn find(store: &Path, kernel: &Kernel, say: &mut dyn FnMut(&str)) -> Result<Accelerator> {
    let software = |why: String| Accelerator { name: SOFTWARE.to_owned(), why: Some(why) };
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
        return Ok(software(format!("{DEVICE} cannot be used: {error}")));
    }
    // Another kernel here, or another QEMU, may do better.
    let uname = rustix::system::uname();
    let machine = format!("{} with {}", uname.release().to_string_lossy(), qemu::installed()?);
    let path = store.join("vm/accelerator");
    let never = || software(format!("no guest boots on {DEVICE} of this machine"));
    if let Ok(note) = fs::read_to_string(&path) {
        if note == format!("{machine}\nkvm\n") {
            return Ok(Accelerator { name: KVM.to_owned(), why: None });
        }
        if note == format!("{machine}\ntcg\n") {
            return Ok(never());
        }
    }
    say(&format!("looking whether a guest boots on {DEVICE}: once, for up to {} s", PROBES_FOR.as_secs()));
    let boots = boots(store, kernel).unwrap_or(false);
    let name = if boots { KVM } else { SOFTWARE };
    let _ = fs::create_dir_all(store.join("vm"));
    // Not to be able to remember it costs the next one ten seconds.
    let _ = fs::write(&path, format!("{machine}\n{name}\n"));
    Ok(if boots { Accelerator { name: KVM.to_owned(), why: None } } else { never() })
}

/// Whether a guest says hello on KVM.
fn boots(store: &Path, kernel: &Kernel) -> Result<bool> {
    const MEMORY_BYTES: u64 = 128 << 20;
    let place = store.join(format!("vm/probe.{}", std::process::id()));
    fs::create_dir_all(&place).map_err(crate::Error::file(&place))?;
    let outcome = (|| {
        let task = Task { directory: PathBuf::from("/"), ..Task::default() };
        let initramfs = place.join("initramfs");
        let content = initramfs::build(kernel, &task, &Root::Memory(BTreeMap::new()))?;
        fs::write(&initramfs, content).map_err(crate::Error::file(&initramfs))?;
        let call = crate::Error::call;
        let memory = rustix::fs::memfd_create("frost-probe", MemfdFlags::CLOEXEC)
            .map_err(call("cannot get memory"))?;
        rustix::fs::ftruncate(&memory, MEMORY_BYTES).map_err(call("cannot get memory"))?;
        let machine = Machine {
            vmm: "qemu".to_owned(),
            vmm_version: String::new(),
            board: qemu::BOARD.to_owned(),
            processor: qemu::PROCESSOR.to_owned(),
            accelerator: KVM.to_owned(),
            cpus: 1,
            memory: MachineMemory::flat(qemu::MEMORY, MEMORY_BYTES),
            disks: Vec::new(),
            forwards: Vec::new(),
            guest: Some(Guest::default()),
            arguments: Vec::new(),
            ignore_shared: true,
            devices: serde_bytes::ByteBuf::new(),
        };
        let (mut agent, theirs) = Agent::pair()?;
        let console = place.join("console");
        let mut qemu = Qemu::start(
            &machine,
            &Parts {
                memory: memory.as_fd(),
                shared: true,
                pack: None,
                layers: Vec::new(),
                console: &console,
                boot: Some((&kernel.image, &initramfs)),
                agent: theirs.as_fd(),
            },
        )?;
        drop(theirs);
        qemu.resume()?;
        let deadline = Instant::now() + PROBES_FOR;
        while Instant::now() < deadline {
            if agent.frames()?.iter().any(|frame| frame.word == wire::HELLO) {
                return Ok(true);
            }
            let mut fds = [PollFd::new(&agent, PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        }
        Ok(false)
    })();
    let _ = fs::remove_dir_all(&place);
    outcome
}
