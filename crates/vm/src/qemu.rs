//! QEMU: its arguments, its start, and its monitor's commands.

use crate::error::{Error, Result};
use crate::qmp::{Event, Qmp, Version};
use crate::stream::{self, Gap, Pages};
use crate::vmm::Vmm;
use frost_model::machine::{Changed, Disk, DiskBase, Extent, Forward, Machine};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use serde_json::json;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The type of machine: one with a version, so that every later QEMU builds the same one. q35 has an HPET and the timer
/// of ACPI, without which a guest under emulation may find no clock that it trusts.
pub const BOARD: &str = "pc-q35-7.2";

/// The model of the processor: a named one, so that it is the same under every QEMU. It is x86-64-v2, which all of
/// today's distributions run on, and emulation has all of it.
pub const PROCESSOR: &str = "Nehalem";

/// What the memory is called.
pub const MEMORY: &str = "ram";

/// The bandwidth of a save in bytes a second: none. The default is 128 MiB, as of a network.
const BANDWIDTH: u64 = 1 << 50;

/// Where a machine's parts are.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The file whose beginning is its memory.
    pub memory: BorrowedFd<'a>,
    /// Whether the file changes with the memory; else changes are the guest's own.
    pub shared: bool,
    /// The file that disks which are in the image lie in.
    pub pack: Option<BorrowedFd<'a>>,
    /// The layers of the disks, in their order.
    pub layers: Vec<PathBuf>,
    /// Where the console's output goes.
    pub console: &'a Path,
    /// What a first start needs: kernel and initramfs.
    pub boot: Option<(&'a Path, &'a Path)>,
    /// The other end of the port to the guest's init.
    pub agent: BorrowedFd<'a>,
}

/// How we hold a QEMU.
#[derive(Debug)]
enum Process {
    /// It is our child.
    Ours(Child),
    /// Somebody else started it.
    Theirs(OwnedFd),
}

/// A QEMU.
#[derive(Debug)]
pub struct Qemu {
    process: Process,
    pid: i32,
    monitor: Qmp,
    version: Version,
    /// Whether a save leaves the memory out, as its file has it.
    ignore_shared: bool,
    /// Whether that save left it out which is to be loaded.
    left_out: bool,
    memory: String,
    memory_bytes: u64,
    words: PathBuf,
}

impl Qemu {
    /// Starts QEMU with a machine that is paused: at its beginning, or waiting for what is [loaded](Vmm::load). It ends
    /// when the calling thread does.
    ///
    /// # Errors
    /// [`Error::NoQemu`]; [`Error::PortInUse`]; [`Error::NotStarted`] with QEMU's last words.
    pub fn start(machine: &Machine, parts: &Parts<'_>) -> Result<Self> {
        for forward in &machine.forwards {
            require_free(*forward)?;
        }
        let (ours, theirs) = UnixStream::pair().map_err(Error::file("a socket to QEMU"))?;
        let arguments = match machine.guest {
            Some(_) => arguments(machine, parts, theirs.as_fd()),
            None => {
                let mut line = crate::adopt::again(machine, &by_number(parts.memory));
                for word in monitor_arguments(theirs.as_fd()) {
                    line.push(word.into());
                }
                line
            }
        };
        Self::spawn(machine, parts, ours, theirs, arguments)
    }

    /// Starts QEMU with given arguments and a monitor at the other end of a socket.
    pub(crate) fn spawn(
        machine: &Machine,
        parts: &Parts<'_>,
        ours: UnixStream,
        theirs: UnixStream,
        arguments: Vec<OsString>,
    ) -> Result<Self> {
        let words = parts.console.with_extension("qemu");
        let log = crate::disk::create(&words)?;
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log));
        let inherited = [Some(theirs.as_fd()), Some(parts.memory), parts.pack, Some(parts.agent)];
        for fd in inherited.iter().flatten() {
            let set = rustix::io::fcntl_setfd(fd, FdFlags::empty());
            set.map_err(Error::call("cannot pass a descriptor to QEMU"))?;
        }
        if let (None, Some(directory)) = (&machine.guest, machine.arguments.first()) {
            command.current_dir(directory.as_path());
        }
        let child = frost_sys::child::start_bound(&mut command);
        for fd in inherited.iter().flatten() {
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoQemu { program: PROGRAM.to_owned() });
            }
            Err(source) => return Err(Error::File { path: PROGRAM.into(), source }),
        };
        drop(theirs);
        match Qmp::greet(ours) {
            Ok((monitor, version)) => Ok(Self {
                pid: child.id().cast_signed(),
                process: Process::Ours(child),
                monitor,
                version,
                ignore_shared: parts.shared,
                left_out: machine.ignore_shared,
                memory: machine.memory.name.clone(),
                memory_bytes: machine.memory.bytes.len_bytes,
                words,
            }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(not_started(&words, &machine.forwards))
            }
        }
    }

    /// Takes over one that runs.
    pub(crate) fn adopted(
        pid: i32,
        monitor: Qmp,
        version: Version,
        machine: &Machine,
        console: &Path,
    ) -> Result<Self> {
        let number = rustix::process::Pid::from_raw(pid).ok_or(Error::Gone)?;
        let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty());
        let pidfd = pidfd.map_err(Error::call("cannot watch it"))?;
        Ok(Self {
            process: Process::Theirs(pidfd),
            pid,
            monitor,
            version,
            ignore_shared: false,
            left_out: false,
            memory: machine.memory.name.clone(),
            memory_bytes: machine.memory.bytes.len_bytes,
            words: console.with_extension("qemu"),
        })
    }

    /// Returns its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns its monitor.
    pub fn monitor(&mut self) -> &mut Qmp {
        &mut self.monitor
    }

    /// Returns what tells that it said something.
    pub(crate) fn monitor_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }

    /// Waits until it has ended by itself, for so long.
    pub(crate) fn wait(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match self.monitor.event(deadline) {
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Whether it leaves memory out of a save that a file holds.
    pub fn ignores_shared(&self) -> bool {
        self.ignore_shared
    }

    /// Returns its last words, if it has any.
    pub fn last_words(&self) -> Option<String> {
        last_line(&self.words)
    }

    /// Reads what it told since, and whether it has ended.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn events(&mut self) -> Result<Vec<Event>> {
        self.monitor.pending()
    }

    /// Makes one that was told to wait for a load know where memory is left out.
    fn prepare(&mut self, ignore_shared: bool) -> Result<()> {
        let capabilities =
            json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": ignore_shared }] });
        self.monitor.ask("migrate-set-capabilities", capabilities)?;
        self.monitor.ask("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH })).map(drop)
    }

    /// Waits until a save or load has ended.
    fn migrated(&mut self, command: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.monitor.ask("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let words = self.last_words();
                    let why = state["error-desc"].as_str().map(str::to_owned).or(words);
                    let why = why.unwrap_or_else(|| "it gives no reason".to_owned());
                    return Err(Error::Refused { command: command.to_owned(), why });
                }
                // The stream has ended, so this is the moment in which it cleans up after it.
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(500)),
                _ => return Err(Error::Silent),
            }
        }
    }
}

impl Vmm for Qemu {
    fn resume(&mut self) -> Result<()> {
        self.monitor.ask("cont", json!({})).map(drop)
    }

    fn pause(&mut self) -> Result<()> {
        self.monitor.ask("stop", json!({})).map(drop)
    }

    fn save(&mut self, pages: &mut dyn Pages) -> Result<Vec<u8>> {
        self.prepare(self.ignore_shared)?;
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::call("cannot make a pipe"))?;
        // More at once; a pipe of the usual size works too.
        let _ = rustix::pipe::fcntl_setpipe_size(&reader, 1 << 20);
        self.monitor.give("save", writer.as_fd())?;
        drop(writer);
        self.monitor.ask("migrate", json!({ "uri": "fd:save" }))?;
        let mut stream = File::from(reader);
        let taken =
            stream::take_apart(&mut stream, &self.memory, self.memory_bytes, self.ignore_shared, pages);
        if taken.is_err() {
            // What QEMU still writes is of no use, and it must not wait for us.
            let _ = self.monitor.ask("migrate_cancel", json!({}));
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        match (taken, self.migrated("migrate")) {
            // Why QEMU gave up says more than that its stream ends early.
            (Err(Error::Stream { .. }), Err(why @ Error::Refused { .. })) => Err(why),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(devices), Ok(())) => Ok(devices),
        }
    }

    fn load(&mut self, devices: &[u8], changed: &[Changed], pack: BorrowedFd<'_>) -> Result<()> {
        let memory = self.memory.clone();
        let gap = Gap::find(devices, &memory, self.memory_bytes, self.left_out)?;
        self.prepare(self.left_out)?;
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::call("cannot make a pipe"))?;
        self.monitor.give("load", reader.as_fd())?;
        drop(reader);
        self.monitor.ask("migrate-incoming", json!({ "uri": "fd:load" }))?;
        let filled = gap.fill(changed, pack, File::from(writer));
        let loaded = self.migrated("migrate-incoming");
        match filled {
            // That QEMU takes no more is told by what it says then.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(Error::file("the pack")(error));
            }
            _ => {}
        }
        match loaded {
            // It ends when it cannot load.
            Err(Error::Gone) => {
                self.quit();
                let why = self.last_words().unwrap_or_else(|| "it ended without a word".to_owned());
                Err(Error::Refused { command: "migrate-incoming".to_owned(), why })
            }
            other => other,
        }
    }

    fn quit(&mut self) {
        match &mut self.process {
            Process::Ours(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Theirs(pidfd) => {
                let _ = self.monitor.ask("quit", json!({}));
                let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
                let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
                // It is the user's, but an image says that it was to be ended.
                if let Ok(0) = rustix::event::poll(&mut fds, Some(&patience)) {
                    let _ = rustix::process::pidfd_send_signal(&*pidfd, rustix::process::Signal::KILL);
                    let _ = rustix::event::poll(&mut fds, Some(&patience));
                }
            }
        }
    }
}

impl Drop for Qemu {
    /// One of ours does not outlive its keeper; one of somebody else's is left alone.
    fn drop(&mut self) {
        if matches!(self.process, Process::Ours(_)) {
            self.quit();
        }
    }
}

/// Tells the version of the QEMU that would be started, as it prints it.
///
/// # Errors
/// [`Error::NoQemu`].
pub fn installed() -> Result<String> {
    let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|_| Error::NoQemu { program: PROGRAM.to_owned() })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Tells which types of machine that QEMU builds.
///
/// # Errors
/// [`Error::NoQemu`].
pub fn boards() -> Result<Vec<String>> {
    let output = Command::new(PROGRAM).args(["-machine", "help"]).stdin(Stdio::null()).output();
    let output = output.map_err(|_| Error::NoQemu { program: PROGRAM.to_owned() })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Checks that a port can be listened at. Somebody may take it before QEMU does, which then says so.
fn require_free(forward: Forward) -> Result<()> {
    match std::net::TcpListener::bind(("127.0.0.1", forward.host)) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::PortInUse { port: forward.host }),
    }
}

/// Finds a port that nobody listens at.
///
/// # Errors
/// [`Error::File`] if there is none.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(Error::file("a free port"))?;
    Ok(listener.local_addr().map_err(Error::file("a free port"))?.port())
}

fn not_started(words: &Path, forwards: &[Forward]) -> Error {
    let why = last_line(words).unwrap_or_else(|| "it ended without a word".to_owned());
    let taken = forwards
        .iter()
        .find(|forward| why.contains("host forwarding rule") && why.contains(&format!(":{}-", forward.host)));
    match taken {
        Some(forward) => Error::PortInUse { port: forward.host },
        None => Error::NotStarted { why },
    }
}

/// The last line of what QEMU said, without its own name before it.
fn last_line(path: &Path) -> Option<String> {
    let text = tail(path, 4096)?;
    let line = text.lines().rfind(|line| !line.trim().is_empty())?.trim();
    Some(line.strip_prefix(PROGRAM).map_or(line, |rest| rest.trim_start_matches([':', ' '])).to_owned())
}

/// The end of a file, as text.
pub(crate) fn tail(path: &Path, bytes: u64) -> Option<String> {
    use std::io::Seek;
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(std::io::SeekFrom::Start(len.saturating_sub(bytes))).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// A path as an option's value has it: commas are doubled.
pub(crate) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The path by which QEMU opens a descriptor that it inherits; it then has a description of its own.
fn by_number(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn monitor_arguments(monitor: BorrowedFd<'_>) -> [String; 4] {
    [
        "-chardev".to_owned(),
        format!("socket,id=frost-monitor,fd={}", monitor.as_raw_fd()),
        "-mon".to_owned(),
        "chardev=frost-monitor,mode=control".to_owned(),
    ]
}

fn arguments(machine: &Machine, parts: &Parts<'_>, monitor: BorrowedFd<'_>) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: String| {
        line.push(format!("-{option}").into());
        if !value.is_empty() {
            line.push(value.into());
        }
    };
    add("nodefaults", String::new());
    add("no-user-config", String::new());
    add("no-reboot", String::new());
    add("display", "none".to_owned());
    add("machine", format!("{},memory-backend={}", machine.board, machine.memory.name));
    add("accel", machine.accelerator.clone());
    add("cpu", machine.processor.clone());
    add("smp", machine.cpus.to_string());
    add("m", format!("{}B", machine.memory.bytes.len_bytes));
    add(
        "object",
        format!(
            "memory-backend-file,id={},size={},share={},mem-path={}",
            machine.memory.name,
            machine.memory.bytes.len_bytes,
            if parts.shared { "on" } else { "off" },
            by_number(parts.memory)
        ),
    );
    for pair in monitor_arguments(monitor).chunks(2) {
        add(&pair[0][1..], pair[1].clone());
    }
    add("chardev", format!("file,id=console,append=on,path={}", escaped(parts.console)));
    add("serial", "chardev:console".to_owned());
    // Their slots never change: a guest finds its devices again at the same places.
    add("device", "virtio-serial-pci,id=ports,bus=pcie.0,addr=2".to_owned());
    add("chardev", format!("socket,id=agent,fd={}", parts.agent.as_raw_fd()));
    add("device", "virtserialport,chardev=agent,name=frost,id=agent0".to_owned());
    let forwards: String = machine
        .forwards
        .iter()
        .map(|forward| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest))
        .collect();
    add("netdev", format!("user,id=net{forwards}"));
    add("device", "virtio-net-pci,netdev=net,romfile=,bus=pcie.0,addr=3".to_owned());
    for (index, (disk, layer)) in machine.disks.iter().zip(&parts.layers).enumerate() {
        add("blockdev", base_node(index, disk, parts));
        // The file is ours, and no other QEMU's: a lock would only be in the way of whoever copies it.
        let file = json!({ "driver": "file", "filename": layer.to_string_lossy(), "locking": "off" });
        let node = json!({
            "driver": "qcow2",
            "node-name": format!("disk{index}"),
            "file": file,
            "backing": format!("base{index}"),
            "discard": "unmap",
        });
        add("blockdev", node.to_string());
        add("device", format!("virtio-blk-pci,drive=disk{index},bus=pcie.0,addr={:#x}", 4 + index));
    }
    match parts.boot {
        Some((kernel, initramfs)) => {
            add("kernel", kernel.to_string_lossy().into_owned());
            add("initrd", initramfs.to_string_lossy().into_owned());
            // A panic ends QEMU by a reboot, and its console tells why. Under emulation the time stamp counter is the
            // host's, which another host may count at another rate.
            let tsc = if machine.accelerator == "tcg" { " tsc=unstable" } else { "" };
            add("append", format!("console=ttyS0 panic=-1{tsc}"));
            add("S", String::new());
        }
        None => add("incoming", "defer".to_owned()),
    }
    line
}

/// What a disk began with, as a node that nobody writes to.
fn base_node(index: usize, disk: &Disk, parts: &Parts<'_>) -> String {
    let node = match (&disk.base, parts.pack) {
        (DiskBase::Pack(Extent { offset, len_bytes }), Some(pack)) => {
            let file =
                json!({ "driver": "file", "filename": by_number(pack), "locking": "off", "read-only": true });
            let part = json!({ "driver": "raw", "offset": offset, "size": len_bytes, "read-only": true, "file": file });
            json!({ "driver": "qcow2", "file": part })
        }
        // Without a pack it cannot be in one; what QEMU says then is as good as ours.
        (DiskBase::Pack(_), None) => json!({ "driver": "null-co", "size": disk.len_bytes }),
        (DiskBase::File { path, format, .. }, _) => {
            let file = json!({ "driver": "file", "filename": path.to_string(), "locking": "off", "read-only": true });
            json!({ "driver": format, "file": file })
        }
    };
    let mut node = node;
    node["node-name"] = format!("base{index}").into();
    node["read-only"] = true.into();
    node.to_string()
}
