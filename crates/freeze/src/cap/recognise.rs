//! What a description is, and whether that can be carried.

use super::held::without_deleted;
use super::{Error, Held, Members, device, eventfd, memfd, netlink, packet, raw, regular, udp, untold};
use frost_model::{BytePath, Pid};
use frost_sys::sock::int_option;
use rustix::fs::{FileType, OFlags, major, minor};

/// A kind of description that is carried, with what is known of it at once.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Named(BytePath),
    Unnamed,
    /// A file or directory that the kernel makes for one process or thread.
    OfProcess(OfProcess),
    Directory(BytePath),
    Device(BytePath),
    Pipe,
    Fifo(BytePath),
    EventFd,
    Epoll,
    SignalFd,
    TimerFd,
    Inotify,
    Fanotify,
    PidFd,
    Memfd,
    Unix,
    Tcp,
    Udp,
    Raw,
    Packet,
    Netlink,
    Mqueue,
    Terminal(BytePath),
    /// A side of a pseudoterminal whose master is in the tree.
    Pty,
}

/// What lies below `/proc/PID`, by numbers as we see them.
#[derive(Clone, Debug)]
pub(super) struct OfProcess {
    pub(super) pid: i32,
    /// The thread, if it lies below its directory, `task/TID`.
    pub(super) thread: Option<i32>,
    /// The path below the directory of the process or thread.
    pub(super) path: BytePath,
}

/// Why something is not carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What it is, a noun.
    pub(super) what: String,
    /// Why it cannot be carried.
    pub(super) reason: String,
    /// What the user can do.
    pub(super) remedy: String,
    /// Whether it goes by itself as a rule, so that it is worth to look again a little later.
    pub(super) passes: bool,
}

impl Refusal {
    pub(super) fn new(what: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), remedy: remedy.into(), passes: false }
    }

    /// Of something that goes by itself as a rule, as the program or its peer goes on.
    pub(super) fn passing(
        what: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { passes: true, ..Self::new(what, reason, remedy) }
    }
}

pub(super) const CLOSE_FIRST: &str = "let the program close it first";
/// Of what `frost run` refuses to programs, which do without it then.
pub(crate) const FALL_BACK: &str =
    "start it by `frost run`, under which it does without, or run it with that turned off";

/// Decides what `held` is. `memfds` is the device number of memfds.
pub(super) fn recognise(
    held: &Held,
    memfds: Option<u64>,
    members: &Members,
) -> Result<Result<Found, Refusal>, Error> {
    let link = held.link.as_deref().unwrap_or_default();
    // First, since some kernels give these the type of a regular file.
    if let Some(name) = link.strip_prefix(b"anon_inode:") {
        return anonymous(held, name);
    }
    if memfd::name(held, memfds).is_some() && !held.flags.contains(OFlags::PATH) {
        return Ok(Ok(Found::Memfd));
    }
    let kind = FileType::from_raw_mode(held.stat.st_mode);
    if held.flags.contains(OFlags::PATH) {
        return Ok(match kind {
            _ if !link.starts_with(b"/") => Err(Refusal::new(
                format!("O_PATH descriptor of {}", held.name()),
                "it has no path to open again",
                CLOSE_FIRST,
            )),
            FileType::Directory => named_directory(held, members),
            _ => file_of_process(held, members).unwrap_or_else(|| regular::recognise(held)),
        });
    }
    Ok(match kind {
        FileType::RegularFile if is_queue(held) => Ok(Found::Mqueue),
        FileType::RegularFile => {
            let own = || own_namespace(held).map(|found| Ok(Found::OfProcess(found)));
            match (file_of_process(held, members).or_else(own), special_file_system(held)) {
                (Some(found), _) => found,
                (None, Some(refusal)) => Err(refusal),
                (None, None) => regular::recognise(held),
            }
        }
        // F_NOTIFY makes the process the owner of the directory (fcntl_dirnotify, fs/notify/dnotify/dnotify.c), of which
        // nothing else does; of what it asked for nobody is told.
        FileType::Directory if held.owner().is_some_and(|owner| owner.id != 0) => Err(Refusal::new(
            format!("directory {} that is watched by F_NOTIFY", held.name()),
            "the kernel does not tell of what",
            CLOSE_FIRST,
        )),
        FileType::Directory => named_directory(held, members),
        FileType::CharacterDevice => character_device(held),
        FileType::Fifo if link.starts_with(b"pipe:") => Ok(Found::Pipe),
        FileType::Fifo if held.stat.st_nlink == 0 => Ok(Found::Fifo(without_deleted(link))),
        FileType::Fifo => regular::named_path(held).map(Found::Fifo),
        FileType::Socket => socket(held),
        FileType::BlockDevice => Err(Refusal::new(
            format!("block device {}", held.name()),
            "what is on it may change while the program is away",
            CLOSE_FIRST,
        )),
        _ => Err(Refusal::new(held.name(), "frost does not know this kind of file", CLOSE_FIRST)),
    })
}

fn anonymous(held: &Held, name: &[u8]) -> Result<Result<Found, Refusal>, Error> {
    let refuse = |what: &str, reason: &str, remedy: &str| Ok(Err(Refusal::new(what, reason, remedy)));
    match name {
        b"[eventfd]" if eventfd::is_told(held)? => Ok(Ok(Found::EventFd)),
        b"[eventfd]" => refuse(
            "eventfd",
            "this kernel does not tell whether it is a semaphore",
            "freeze it on Linux 6.5 or later",
        ),
        b"[eventpoll]" => Ok(Ok(Found::Epoll)),
        b"[signalfd]" => Ok(Ok(Found::SignalFd)),
        b"[timerfd]" => Ok(Ok(Found::TimerFd)),
        b"[pidfd]" => Ok(Ok(Found::PidFd)),
        b"[io_uring]" => {
            refuse("io_uring ring", "its state is one that the kernel does not give back", FALL_BACK)
        }
        b"inotify" | b"[inotify]" => Ok(Ok(Found::Inotify)),
        b"[fanotify]" => Ok(Ok(Found::Fanotify)),
        b"[userfaultfd]" => {
            refuse("userfaultfd", "who registered which memory with it is not told by the kernel", FALL_BACK)
        }
        b"[perf_event]" => refuse("perf event", "its counters cannot be set", FALL_BACK),
        b"seccomp notify" => {
            refuse("seccomp listener", "the filter that it belongs to cannot be read back", CLOSE_FIRST)
        }
        b"bpf-map" | b"bpf-prog" | b"bpf_link" | b"[bpf-link]" | b"btf" => {
            refuse("BPF object", "the kernel does not give back what it was loaded from", FALL_BACK)
        }
        b"[landlock-ruleset]" => refuse("landlock ruleset", "its rules cannot be read back", CLOSE_FIRST),
        name => {
            let name = String::from_utf8_lossy(name).trim_matches(['[', ']']).to_owned();
            refuse(&format!("{name} descriptor"), "its state is not given back by the kernel", CLOSE_FIRST)
        }
    }
}

/// File systems whose files are not data that lies somewhere: opening them again would give something else.
fn special_file_system(held: &Held) -> Option<Refusal> {
    let magic = rustix::fs::fstatfs(&held.fd).ok()?.f_type as u32;
    // Magic numbers of include/uapi/linux/magic.h.
    let (what, reason) = match magic {
        0x6e73_6673 => ("namespace", "it is not that of the process which has it open"),
        0x5049_4446 => ("pidfd", "the kernel does not tell of which process"),
        0x5345_434d => ("secret memory", "nobody but the program may read it"),
        0xcafe_4a11 => ("BPF file", "it is an object of the kernel"),
        0x7472_6163 | 0x6462_6720 => ("file of tracefs or debugfs", "it is a stream of events"),
        _ => return None,
    };
    Some(Refusal::new(format!("{what} {}", held.name()), reason, CLOSE_FIRST))
}

/// Returns the path below `/proc/PID` of a namespace, if it is that of the process in which it was found.
fn own_namespace(held: &Held) -> Option<OfProcess> {
    let link = std::str::from_utf8(held.link.as_deref()?).ok()?;
    let kind = link.split_once(":[")?.0;
    // What children get may be another one than its own.
    let same = |name: &str| {
        let path = frost_sys::proc::path(crate::target::shown_by(held.place.pid), &format!("ns/{name}"));
        rustix::fs::stat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == held.key())
    };
    let known = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"].contains(&kind);
    let path = || BytePath::new(format!("ns/{kind}"));
    (known && same(kind)).then(|| OfProcess { pid: held.place.pid.raw(), thread: None, path: path() })
}

fn is_queue(held: &Held) -> bool {
    rustix::fs::fstatfs(&held.fd).is_ok_and(|stat| stat.f_type as u32 == frost_sys::mqueue::FILE_SYSTEM)
}

/// Recognises what lies below `/proc/PID` of a process of the tree, in our instance of procfs or in that of the tree's pid
/// namespace.
fn of_process(held: &Held, members: &Members) -> Option<OfProcess> {
    if !regular::is_proc(held) {
        return None;
    }
    let (shown, path) = frost_sys::proc::first_number(held.link.as_deref()?.strip_prefix(b"/proc/")?)?;
    // Each instance counts in its own pid namespace: that of a program thawed by an ordinary user is not ours.
    let is_ours = rustix::fs::stat("/proc").is_ok_and(|ours| ours.st_dev == held.stat.st_dev);
    let pid = match is_ours {
        true => shown,
        false => members.shown_as(held.stat.st_dev, Pid::new(shown))?.raw(),
    };
    members.number(pid)?;
    let (thread, path) = match path.strip_prefix(b"task/").map(frost_sys::proc::first_number) {
        Some(Some((thread, path))) => (Some(members.thread_shown_as(pid, is_ours, [shown, thread])?), path),
        Some(None) => return None,
        None => (None, path),
    };
    Some(OfProcess { pid, thread, path: BytePath::new(path) })
}

/// Decides about what lies below `/proc/PID`, or below the directory of a process in another procfs.
fn file_of_process(held: &Held, members: &Members) -> Option<Result<Found, Refusal>> {
    let is_numbered = |path: &[u8]| path.first().is_some_and(u8::is_ascii_digit);
    let path = held.link.as_deref().filter(|_| regular::is_proc(held))?;
    if let Some(rest) = path.strip_prefix(b"/proc/") {
        // As of whoever looks at processes, and soon closes it.
        let of_another = || {
            Err(Refusal::passing(
                format!("file of /proc {}", held.name()),
                "it tells of a process that is not in the tree, or that has ended",
                CLOSE_FIRST,
            ))
        };
        return match of_process(held, members) {
            Some(found) => Some(Ok(Found::OfProcess(found))),
            None => is_numbered(rest).then(of_another),
        };
    }
    let elsewhere = || {
        Err(Refusal::passing(
            format!("file of procfs {}", held.name()),
            "it tells of a process, and does not lie in /proc",
            CLOSE_FIRST,
        ))
    };
    is_numbered(regular::below_proc(path)?).then(elsewhere)
}

fn named_directory(held: &Held, members: &Members) -> Result<Found, Refusal> {
    let link = held.link.as_deref().unwrap_or_default();
    if held.stat.st_nlink == 0 && link.starts_with(b"/") {
        return Ok(Found::Directory(without_deleted(link)));
    }
    let named = || regular::named_path(held).map(Found::Directory);
    file_of_process(held, members).unwrap_or_else(named)
}

fn character_device(held: &Held) -> Result<Found, Refusal> {
    let rdev = held.stat.st_rdev;
    if device::is_stateless(rdev) {
        return device::path(held).map(Found::Device);
    }
    let path = || BytePath::new(held.link.clone().unwrap_or_default());
    // Documentation/admin-guide/devices.txt: 4 consoles and serial lines, 5 /dev/tty, /dev/console, /dev/ptmx,
    // 136-143 pseudoterminals.
    match (major(rdev), minor(rdev)) {
        (5, 2) if frost_sys::pty::has_locked_settings(&held.fd) => Err(Refusal::new(
            "pseudoterminal with locked settings (TIOCSLCKTRMIOS)",
            "what was typed there cannot be looked at without changing them for a moment",
            "let the program unlock them first",
        )),
        (5, 2) | (136..=143, _) if frost_sys::pty::has_other_discipline(&held.fd) => Err(Refusal::new(
            "pseudoterminal with another line discipline than N_TTY (TIOCSETD)",
            "what waits in it is not given back by the kernel",
            "let the program set N_TTY first",
        )),
        (5, 2) if frost_sys::pty::number(&held.fd).is_some() => Ok(Found::Pty),
        (4 | 5 | 136..=143, _) => Ok(Found::Terminal(path())),
        // Other serial lines and consoles answer as a terminal does.
        _ if frost_sys::pty::settings(&held.fd).is_ok() => Ok(Found::Terminal(path())),
        _ => Err(Refusal::new(
            format!("device {}", held.name()),
            "what it holds is not given back by the kernel",
            CLOSE_FIRST,
        )),
    }
}

fn socket(held: &Held) -> Result<Found, Refusal> {
    let fact = |name| int_option(&held.fd, libc::SOL_SOCKET, name).unwrap_or(-1);
    if frost_sys::sock_options::filter(&held.fd) == Err(rustix::io::Errno::ACCESS) {
        return Err(Refusal::new(
            "socket with an eBPF program",
            "the kernel does not give back what it was loaded from",
            FALL_BACK,
        ));
    }
    let (domain, kind, protocol) = (fact(libc::SO_DOMAIN), fact(libc::SO_TYPE), fact(libc::SO_PROTOCOL));
    if matches!(domain, libc::AF_INET | libc::AF_INET6 | libc::AF_PACKET) {
        untold::nothing_told(held)?;
    }
    let what = match (domain, kind, protocol) {
        (libc::AF_UNIX, ..) => return Ok(Found::Unix),
        // 262 is IPPROTO_MPTCP.
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP | 262) => {
            return Ok(Found::Tcp);
        }
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => {
            return udp::recognise(held).map(|()| Found::Udp);
        }
        (libc::AF_NETLINK, ..) => return netlink::recognise(held).map(|()| Found::Netlink),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW, _) => {
            return raw::recognise(held, "raw").map(|()| Found::Raw);
        }
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) => {
            return raw::recognise(held, "ping").map(|()| Found::Raw);
        }
        (libc::AF_PACKET, ..) => return packet::recognise(held).map(|()| Found::Packet),
        (libc::AF_VSOCK, ..) => "vsock socket",
        (libc::AF_ALG, ..) => "crypto (AF_ALG) socket",
        (libc::AF_XDP, ..) => "XDP socket",
        (libc::AF_INET | libc::AF_INET6, ..) => "socket of another protocol (SCTP, DCCP)",
        _ => "socket of another family",
    };
    Err(Refusal::new(what, "its state is not given back by the kernel", CLOSE_FIRST))
}
