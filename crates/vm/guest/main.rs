//! The guest's init: pid 1 of a virtual machine that `frost run --vm` boots.
//!
//! It lives in the initramfs, loads the modules there, mounts the root, runs one command in it and talks to the host over
//! a port of virtio-serial: what the command writes and how it ends goes out, input, signals and the time come in.
//! It has no library, no heap and one thread. Its words are those of `wire`.
#![no_std]
#![no_main]

#[path = "../../keeper/freestanding/call.rs"]
mod call;
#[path = "../../keeper/freestanding/memory.rs"]
mod memory;
mod raw;
#[path = "../src/wire.rs"]
#[allow(dead_code, reason = "it has the other side's words too")]
mod wire;

use raw::{EAGAIN, EINTR, ENOENT, Errno, POLLHUP, POLLIN, POLLOUT, Result, Text, Texts, Wait, text};
use wire::{DATA_BYTES, FRAME_BYTES};

// The kernel starts it with an aligned stack (the ABI wants 16 bytes before a call), and no arguments that it needs.
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym raw::start,
);

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    // Pid 1 that exits makes the kernel panic, which the host sees on the console.
    raw::exit(101)
}

/// What the host wrote into the initramfs: `KEY=VALUE`, each ended by NUL.
struct Config {
    /// The block device of the root; without one it is in the initramfs.
    root: Option<Text<'static>>,
    /// Whether the command gets a terminal.
    terminal: bool,
    directory: Text<'static>,
    path: &'static [u8],
    program: Text<'static>,
    arguments: Texts,
    environment: Texts,
}

impl Config {
    fn read() -> Result<Self> {
        let bytes = raw::read_config(text!("/config"))?;
        let mut config = Self {
            root: None,
            terminal: false,
            directory: text!("/"),
            path: b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            program: text!(""),
            arguments: Texts::new(),
            environment: Texts::new(),
        };
        for item in bytes.split_inclusive(|byte| *byte == 0) {
            let value = |key: &[u8]| item.strip_prefix(key).map(Text::new);
            if let Some(root) = value(b"root=") {
                config.root = Some(root);
            } else if value(b"terminal=").is_some() {
                config.terminal = true;
            } else if let Some(directory) = value(b"directory=") {
                config.directory = directory;
            } else if let Some(argument) = value(b"argument=") {
                if config.program.bytes().is_empty() {
                    config.program = argument;
                }
                config.arguments.push(argument);
            } else if let Some(variable) = value(b"variable=") {
                if let Some(path) = variable.bytes().strip_prefix(b"PATH=") {
                    config.path = path;
                }
                config.environment.push(variable);
            }
        }
        Ok(config)
    }
}

/// A failure: what, and the error.
type Failed = (&'static str, Errno);

pub(crate) fn run() -> ! {
    mounts();
    load_modules();
    network();
    let mut port = Port { fd: open_port(), frame: [0; FRAME_BYTES], len: 0, escape: false };
    port.send(wire::HELLO, &[]);
    let status = match serve(&mut port) {
        Ok(status) => status,
        Err((what, errno)) => {
            let mut message = [0; 128];
            message[..4].copy_from_slice(&errno.0.to_le_bytes());
            let len = what.len().min(124);
            message[4..4 + len].copy_from_slice(&what.as_bytes()[..len]);
            port.send(wire::FAILED, &message[..4 + len]);
            raw::power_off()
        }
    };
    end_all();
    // What the command wrote is on the disk before anybody hears that it ended.
    for directory in [text!("/root/dev/pts"), text!("/root/dev"), text!("/root/proc"), text!("/root/sys")] {
        let _ = raw::unmount(directory);
    }
    if raw::unmount(text!("/root")).is_err() {
        let _ = raw::make_read_only(text!("/root"));
    }
    raw::sync();
    port.send(wire::ENDED, &status.to_le_bytes());
    raw::power_off()
}

fn mounts() {
    for directory in [text!("/dev"), text!("/proc"), text!("/sys"), text!("/root")] {
        raw::mkdir(directory);
    }
    let _ = raw::mount(text!("dev"), text!("/dev"), text!("devtmpfs"), 2);
    let _ = raw::mount(text!("proc"), text!("/proc"), text!("proc"), raw::MS_NOSUID_NODEV_NOEXEC);
    let _ = raw::mount(text!("sys"), text!("/sys"), text!("sysfs"), raw::MS_NOSUID_NODEV_NOEXEC);
    raw::mkdir(text!("/dev/pts"));
    raw::mkdir(text!("/dev/shm"));
    let _ = raw::mount(text!("devpts"), text!("/dev/pts"), text!("devpts"), 2 | 8);
    // Numbers 0 to 2 are taken, so that nothing that is opened later gets one of them.
    while raw::open(text!("/dev/null"), raw::O_RDWR).is_ok_and(|fd| fd < 2) {}
}

/// Joins a directory and a name into a text.
fn join<'a>(buffer: &'a mut [u8; 512], parts: &[&[u8]]) -> Text<'a> {
    let mut len = 0;
    for part in parts {
        if len + part.len() + 1 > buffer.len() {
            return text!("");
        }
        buffer[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    buffer[len] = 0;
    Text::new(&buffer[..=len])
}

/// Calls `act` with each name in a directory until it returns something.
fn find<T>(directory: Text<'_>, mut act: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
    let fd = raw::open(directory, raw::O_DIRECTORY | raw::O_CLOEXEC).ok()?;
    let mut buffer = [0; 4096];
    let mut found = None;
    'all: while let Ok(len) = raw::entries(fd, &mut buffer) {
        if len == 0 {
            break;
        }
        let mut at = 0;
        // struct linux_dirent64: inode and offset (8 bytes each), length (2), type (1), name.
        while at + 19 < len {
            let record = usize::from(u16::from_le_bytes([buffer[at + 16], buffer[at + 17]]));
            let name = &buffer[at + 19..(at + record).min(len)];
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            if name[0] != b'.' {
                found = act(&name[..end]);
                if found.is_some() {
                    break 'all;
                }
            }
            at += record.max(20);
        }
    }
    raw::close(fd);
    found
}

/// Loads what is in `/modules`, until nothing more can be: one that needs another fails before it.
fn load_modules() {
    let mut loaded = usize::MAX;
    loop {
        let mut now = 0;
        find(text!("/modules"), |name| -> Option<()> {
            let mut path = [0; 512];
            if let Ok(fd) = raw::open(join(&mut path, &[b"/modules/", name]), raw::O_CLOEXEC) {
                // EEXIST: it is there.
                now += usize::from(matches!(raw::load_module(fd), Ok(()) | Err(Errno(17))));
                raw::close(fd);
            }
            None
        });
        if now == loaded || now == 0 {
            return;
        }
        loaded = now;
    }
}

/// Gives the network card the address that QEMU's network has for it, and the loopback its own.
fn network() {
    const SIOCADDRT: usize = 0x890b;
    const SIOCSIFFLAGS: usize = 0x8914;
    const SIOCSIFADDR: usize = 0x8916;
    const SIOCSIFNETMASK: usize = 0x891c;
    const UP_RUNNING: u8 = 0x41;
    let Ok(socket) = raw::datagram_socket() else { return };
    // struct ifreq: a name of 16 bytes, then 24 of an address or of flags.
    let request = |name: &[u8], rest: &[u8]| {
        let mut request = [0u8; 40];
        request[..name.len()].copy_from_slice(name);
        request[16..16 + rest.len()].copy_from_slice(rest);
        request
    };
    let address = |name: &[u8], ip: [u8; 4]| request(name, &[2, 0, 0, 0, ip[0], ip[1], ip[2], ip[3]]);
    let set = |call: usize, mut request: [u8; 40]| {
        let _ = raw::control(socket, call, &mut request);
    };
    set(SIOCSIFFLAGS, request(b"lo", &[UP_RUNNING, 0]));
    set(SIOCSIFADDR, address(b"eth0", [10, 0, 2, 15]));
    set(SIOCSIFNETMASK, address(b"eth0", [255, 255, 255, 0]));
    set(SIOCSIFFLAGS, request(b"eth0", &[UP_RUNNING, 0]));
    // struct rtentry (120 bytes): at 8 the destination, 24 the gateway, 40 the mask, 56 the flags: up, by a gateway.
    let mut route = [0u8; 120];
    (route[8], route[40]) = (2, 2);
    route[24..32].copy_from_slice(&[2, 0, 0, 0, 10, 0, 2, 2]);
    route[56] = 3;
    let _ = raw::control(socket, SIOCADDRT, &mut route);
    raw::close(socket);
}

/// Opens the port named `frost`; the device may come a little later than its driver.
fn open_port() -> i32 {
    loop {
        let found = find(text!("/sys/class/virtio-ports"), |name| {
            let mut path = [0; 512];
            let fd =
                raw::open(join(&mut path, &[b"/sys/class/virtio-ports/", name, b"/name"]), raw::O_CLOEXEC);
            let mut label = [0; 16];
            let len = fd.and_then(|fd| {
                let len = raw::read(fd, &mut label);
                raw::close(fd);
                len
            });
            if label[..len.unwrap_or(0)].trim_ascii() != b"frost" {
                return None;
            }
            raw::open(join(&mut path, &[b"/dev/", name]), raw::O_RDWR | raw::O_CLOEXEC).ok()
        });
        match found {
            Some(fd) => return fd,
            None => raw::sleep_ms(2),
        }
    }
}

/// The port to the host.
struct Port {
    fd: i32,
    frame: [u8; FRAME_BYTES],
    len: usize,
    escape: bool,
}

impl Port {
    /// Sends a frame, and waits until the host's side of the device has it.
    fn send(&mut self, word: u8, content: &[u8]) {
        let mut bytes = [0; 2 * FRAME_BYTES + 2];
        let mut len = 0;
        for byte in core::iter::once(&word).chain(content) {
            let (escape, byte) = wire::escaped(*byte);
            if escape.is_some() {
                bytes[len] = wire::ESCAPE;
                len += 1;
            }
            bytes[len] = byte;
            len += 1;
        }
        bytes[len] = wire::END;
        let mut rest = &bytes[..=len];
        while !rest.is_empty() {
            match raw::write(self.fd, rest) {
                Ok(count) => rest = &rest[count..],
                Err(EINTR) => {}
                // The host has let go, as in the moments of a thaw.
                Err(_) => raw::sleep_ms(5),
            }
        }
    }

    /// Takes a byte of the host's; true if it ended a frame, which then is the first `len` bytes of `frame`.
    fn take(&mut self, byte: u8) -> bool {
        match byte {
            wire::RESET => (self.len, self.escape) = (0, false),
            wire::END => return true,
            wire::ESCAPE if !self.escape => self.escape = true,
            byte => {
                let byte = if self.escape { wire::unescaped(byte) } else { byte };
                self.escape = false;
                if self.len < FRAME_BYTES {
                    self.frame[self.len] = byte;
                    self.len += 1;
                }
            }
        }
        false
    }
}

/// Sets the size of a terminal.
const TIOCSWINSZ: usize = 0x5414;

/// The command, as it runs.
struct Child {
    pid: i32,
    /// Where its output comes from.
    output: i32,
    /// Where its input goes; the same with a terminal, -1 at its end.
    input: i32,
    terminal: bool,
    status: Option<i32>,
    /// Input that the host sent and the command did not take yet.
    pending: [u8; DATA_BYTES],
    pending_from: usize,
    pending_to: usize,
    /// The number of that frame, while it is not acknowledged.
    unacknowledged: Option<u8>,
    end_of_input: bool,
}

/// Runs the command to its end, and returns its status.
fn serve(port: &mut Port) -> core::result::Result<i32, Failed> {
    let config = Config::read().map_err(|errno| ("the configuration in the initramfs", errno))?;
    if let Some(root) = config.root {
        // The disk may come a little later than its driver.
        let mut tries = 0;
        loop {
            match raw::mount(root, text!("/root"), text!("ext4"), 0) {
                Ok(()) => break,
                Err(ENOENT) if tries < 1000 => raw::sleep_ms(5),
                Err(errno) => return Err(("the root file system", errno)),
            }
            tries += 1;
        }
    }
    for directory in [text!("/root/dev"), text!("/root/proc"), text!("/root/sys"), text!("/root/tmp")] {
        raw::mkdir(directory);
    }
    let _ = raw::mount(text!("dev"), text!("/root/dev"), text!("devtmpfs"), 2);
    let _ = raw::mount(text!("/dev/pts"), text!("/root/dev/pts"), text!(""), raw::MS_BIND);
    let _ = raw::mount(text!("proc"), text!("/root/proc"), text!("proc"), raw::MS_NOSUID_NODEV_NOEXEC);
    let _ = raw::mount(text!("sys"), text!("/root/sys"), text!("sysfs"), raw::MS_NOSUID_NODEV_NOEXEC);
    let signals = raw::take_signals().map_err(|errno| ("the init's signals", errno))?;
    let mut child = start(&config)?;
    port.send(wire::STARTED, &child.pid.to_le_bytes());
    let mut numbers = [None; 2];
    let mut buffer = [0; DATA_BYTES];
    loop {
        let more = child.pending_from < child.pending_to;
        let mut waits = [
            Wait { fd: port.fd, events: POLLIN, came: 0 },
            Wait { fd: signals, events: POLLIN, came: 0 },
            Wait { fd: child.output, events: POLLIN, came: 0 },
            Wait { fd: if more { child.input } else { -1 }, events: POLLOUT, came: 0 },
        ];
        raw::wait(&mut waits, None);
        if waits[1].came != 0 {
            let _ = raw::read(signals, &mut [0; 128]);
            while let Some((pid, status)) = raw::reap() {
                if pid == child.pid {
                    child.status = Some(status);
                }
            }
        }
        if waits[2].came != 0 {
            match raw::read(child.output, &mut buffer) {
                Ok(len) if len > 0 => port.send(wire::OUTPUT, &buffer[..len]),
                Err(EINTR | EAGAIN) => {}
                // The end: nobody has the other side any more (EIO, of a terminal).
                _ => {
                    raw::close(child.output);
                    if child.terminal {
                        child.input = -1;
                    }
                    child.output = -1;
                }
            }
        }
        feed(&mut child, port);
        if waits[0].came & POLLIN != 0 {
            if let Ok(len) = raw::read(port.fd, &mut buffer) {
                for byte in &buffer[..len] {
                    if port.take(*byte) {
                        obey(port, &mut child, &mut numbers);
                        port.len = 0;
                    }
                }
            }
        } else if waits[0].came & POLLHUP != 0 {
            raw::sleep_ms(5);
        }
        if let Some(status) = child.status {
            // What it wrote before its end is all there by now; what its children write later is not waited for.
            while child.output >= 0 {
                let mut last = [Wait { fd: child.output, events: POLLIN, came: 0 }];
                raw::wait(&mut last, Some(0));
                match raw::read(child.output, &mut buffer) {
                    Ok(len) if len > 0 && last[0].came & POLLIN != 0 => {
                        port.send(wire::OUTPUT, &buffer[..len])
                    }
                    _ => break,
                }
            }
            return Ok(status);
        }
    }
}

/// Gives the command what it takes of the input that waits, and acknowledges it when that is all.
fn feed(child: &mut Child, port: &mut Port) {
    while child.pending_from < child.pending_to && child.input >= 0 {
        match raw::write(child.input, &child.pending[child.pending_from..child.pending_to]) {
            Ok(count) => child.pending_from += count,
            Err(EINTR) => {}
            Err(EAGAIN) => return,
            Err(_) => {
                if !child.terminal {
                    raw::close(child.input);
                }
                child.input = -1;
            }
        }
    }
    if child.input < 0 {
        child.pending_from = child.pending_to;
    }
    if child.pending_from < child.pending_to {
        return;
    }
    if child.end_of_input && child.input >= 0 {
        if child.terminal {
            // Its end of file, as a person would type it.
            let _ = raw::write(child.input, b"\x04");
        } else {
            raw::close(child.input);
            child.input = -1;
        }
        child.end_of_input = false;
    }
    if let Some(number) = child.unacknowledged.take() {
        port.send(wire::ACK, &[wire::class(wire::INPUT), number]);
    }
}

/// Does what a frame says, once.
fn obey(port: &mut Port, child: &mut Child, numbers: &mut [Option<u8>; 2]) {
    let frame = port.frame;
    let [word, number, content @ ..] = &frame[..port.len] else { return };
    let class = wire::class(*word);
    let again = numbers[usize::from(class)] == Some(*number);
    numbers[usize::from(class)] = Some(*number);
    if *word == wire::INPUT {
        if !again {
            let len = content.len().min(DATA_BYTES);
            child.pending[..len].copy_from_slice(&content[..len]);
            (child.pending_from, child.pending_to) = (0, len);
            child.end_of_input |= len == 0;
        }
        child.unacknowledged = Some(*number);
        feed(child, port);
        return;
    }
    if !again {
        match (*word, content) {
            (wire::SIGNAL, [signal, ..]) => raw::kill(child.pid, *signal),
            (wire::WINDOW, [r0, r1, c0, c1, ..]) if child.terminal && child.output >= 0 => {
                let mut size = [*r0, *r1, *c0, *c1, 0, 0, 0, 0];
                let _ = raw::control(child.output, TIOCSWINSZ, &mut size);
            }
            (wire::TIME, [time @ ..]) if time.len() >= 8 => {
                let mut nanoseconds = [0; 8];
                nanoseconds.copy_from_slice(&time[..8]);
                raw::set_clock(u64::from_le_bytes(nanoseconds));
                reseed(&time[8..]);
            }
            _ => {}
        }
    }
    port.send(wire::ACK, &[class, *number]);
}

/// Makes the kernel's random numbers others than those of any copy of this guest.
fn reseed(bytes: &[u8]) {
    // struct rand_pool_info: bits of entropy, length, bytes (include/uapi/linux/random.h).
    const RNDADDENTROPY: usize = 0x4008_5203;
    const RNDRESEEDCRNG: usize = 0x5207;
    #[repr(C)]
    struct Pool {
        bits: i32,
        len: i32,
        bytes: [u8; 64],
    }
    let len = bytes.len().min(64);
    let mut pool = Pool { bits: 8 * len as i32, len: len as i32, bytes: [0; 64] };
    pool.bytes[..len].copy_from_slice(&bytes[..len]);
    let Ok(fd) = raw::open(text!("/dev/urandom"), raw::O_WRONLY | raw::O_CLOEXEC) else { return };
    let _ = raw::control(fd, RNDADDENTROPY, &mut pool);
    let _ = raw::control_number(fd, RNDRESEEDCRNG, 0);
    raw::close(fd);
}

/// Starts the command.
fn start(config: &Config) -> core::result::Result<Child, Failed> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    const TIOCGPTPEER: usize = 0x5441;
    let failed = |what: &'static str| move |errno| (what, errno);
    // What the child reads and writes, and our ends of it.
    let (theirs, input, output) = if config.terminal {
        let flags = raw::O_RDWR | raw::O_NOCTTY | raw::O_CLOEXEC;
        let master = raw::open(text!("/dev/pts/ptmx"), flags).map_err(failed("a terminal"))?;
        let _ = raw::control(master, TIOCSPTLCK, &mut 0i32);
        // Until somebody looks at it: 24 rows of 80.
        let _ = raw::control(master, TIOCSWINSZ, &mut [24u16, 80, 0, 0]);
        let slave = raw::control_number(master, TIOCGPTPEER, flags).map_err(failed("a terminal"))? as i32;
        ([slave, slave], master, master)
    } else {
        let [child_reads, we_write] = raw::pipe().map_err(failed("a pipe"))?;
        let [we_read, child_writes] = raw::pipe().map_err(failed("a pipe"))?;
        ([child_reads, child_writes], we_write, we_read)
    };
    raw::do_not_wait(input);
    let [failure, told] = raw::pipe().map_err(failed("a pipe"))?;
    let pid = raw::fork().map_err(failed("a process"))?;
    if pid == 0 {
        let errno = become_command(config, theirs);
        let _ = raw::write(told, &errno.0.to_le_bytes());
        raw::exit(127);
    }
    for fd in [theirs[0], theirs[1], told] {
        raw::close(fd);
    }
    let mut errno = [0; 4];
    if raw::read(failure, &mut errno) == Ok(4) {
        return Err(("the command", Errno(i32::from_le_bytes(errno))));
    }
    raw::close(failure);
    Ok(Child {
        pid,
        output,
        input,
        terminal: config.terminal,
        status: None,
        pending: [0; DATA_BYTES],
        pending_from: 0,
        pending_to: 0,
        unacknowledged: None,
        end_of_input: false,
    })
}

fn become_command(config: &Config, theirs: [i32; 2]) -> Errno {
    const TIOCSCTTY: usize = 0x540e;
    raw::new_session();
    if config.terminal {
        let _ = raw::control_number(theirs[0], TIOCSCTTY, 0);
    }
    for (fd, number) in [(theirs[0], 0), (theirs[1], 1), (theirs[1], 2)] {
        raw::dup_to(fd, number);
    }
    if let Err(errno) = become_root() {
        return errno;
    }
    if raw::change_directory(config.directory).is_err() {
        let _ = raw::change_directory(text!("/"));
    }
    raw::set_mask(0);
    let program = config.program.bytes();
    if program.contains(&b'/') {
        return raw::execute(config.program, &config.arguments, &config.environment);
    }
    let mut last = ENOENT;
    for directory in config.path.split(|byte| *byte == b':') {
        let mut path = [0; 512];
        match raw::execute(
            join(&mut path, &[directory, b"/", program]),
            &config.arguments,
            &config.environment,
        ) {
            ENOENT => {}
            errno => last = if errno == raw::EACCES { errno } else { return errno },
        }
    }
    last
}

/// Makes /root the root of a mount namespace of one's own.
///
/// In a root that is only entered (chroot(2)) the kernel makes no user namespaces (`create_user_ns`, kernel/user_namespace.c),
/// and tells of every file by a path that is none there.
fn become_root() -> Result<()> {
    raw::own_mounts()?;
    raw::change_directory(text!("/root"))?;
    if raw::mount(text!("."), text!("/"), text!(""), raw::MS_MOVE).is_err() {
        // Part of the initramfs, and no mount yet.
        raw::mount(text!("/root"), text!("/root"), text!(""), raw::MS_BIND | raw::MS_REC)?;
        raw::change_directory(text!("/root"))?;
        raw::mount(text!("."), text!("/"), text!(""), raw::MS_MOVE)?;
    }
    raw::enter_root(text!("."))?;
    raw::change_directory(text!("/"))
}

/// Ends every other process: first it may end itself.
fn end_all() {
    const SIGTERM: u8 = 15;
    const SIGKILL: u8 = 9;
    for (signal, tries) in [(SIGTERM, 200), (SIGKILL, 400)] {
        raw::kill(-1, signal);
        for _ in 0..tries {
            while raw::reap().is_some() {}
            // ESRCH: there is nobody but us.
            if !others() {
                return;
            }
            raw::sleep_ms(5);
        }
    }
}

/// Whether there are processes with a program beside us; threads of the kernel have none.
fn others() -> bool {
    find(text!("/proc"), |name| {
        if !name[0].is_ascii_digit() || name == b"1" {
            return None;
        }
        let mut path = [0; 512];
        let fd = raw::open(join(&mut path, &[b"/proc/", name, b"/cmdline"]), raw::O_CLOEXEC).ok()?;
        let some = raw::read(fd, &mut [0; 1]).is_ok_and(|len| len > 0);
        raw::close(fd);
        some.then_some(())
    })
    .is_some()
}
