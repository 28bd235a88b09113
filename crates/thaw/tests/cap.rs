//! Descriptors there and back: captured from a process that is not told about it, made again here, and compared.
//!
//! The test makes the objects, a child inherits them under the same numbers, and the child is what is looked at. Then
//! everything is dropped, made again, and must behave as it did.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use frost_freeze::cap::{Captured, Catalog, Motion, Observed};
use frost_model::cap::{Capability, Objects};
use frost_model::clock::Clocks;
use frost_model::host::Host;
use frost_model::{Checkpoint, Pid};
use frost_sys::fdinfo::FdInfo;
use frost_sys::sock::{self, int_option, peek, send_unix, set_int_option};
use frost_thaw::cap::{self, Late, Planned, Route, ThawContext};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid as RawPid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What one test makes would also be inherited by the children of others.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that holds descriptors and sleeps.
struct Victim {
    child: Child,
    pidfd: OwnedFd,
}

impl Victim {
    fn with(fds: &[BorrowedFd<'_>]) -> Self {
        fds.iter().for_each(|fd| fcntl_setfd(fd, FdFlags::empty()).unwrap());
        let child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        fds.iter().for_each(|fd| fcntl_setfd(fd, FdFlags::CLOEXEC).unwrap());
        // It has opened and closed what a program opens at its start when it sleeps, in clock_nanosleep (230).
        while !std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap().starts_with("230 ") {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = RawPid::from_raw(child.id() as i32).unwrap();
        Self { pidfd: pidfd_open(pid, PidfdFlags::empty()).unwrap(), child }
    }

    fn pid(&self) -> Pid {
        Pid::new(self.child.id() as i32)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What was captured, as an image would have it.
struct Frozen {
    checkpoint: Checkpoint,
    /// The descriptions of the descriptors that were asked for, in that order.
    ids: Vec<usize>,
    pack: std::fs::File,
}

/// Captures a process that has `fds`, twice, since the first time must change nothing; then ends it.
fn freeze(fds: Vec<OwnedFd>) -> Frozen {
    freeze_with(fds, false)
}

fn freeze_with(fds: Vec<OwnedFd>, files: bool) -> Frozen {
    let all: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let victim = Victim::with(&all);
    let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    // From here on only the victim holds them.
    drop(fds);
    let capture = || {
        let pid = victim.pid();
        let observed =
            Observed { pid, through: pid.raw(), inner: pid, command: "sleep", pidfd: victim.pidfd.as_fd() };
        let (catalog, obstacles) = Catalog::survey(&[observed], Motion::Stopped).unwrap();
        assert_eq!(obstacles, []);
        let table = catalog.descriptors(pid);
        let mut pack = Vec::new();
        let captured = catalog.capture(&mut pack, files, std::time::Instant::now()).unwrap();
        let find =
            |number: &i32| table.iter().find(|entry| entry.fd.raw() == *number).unwrap().description.index();
        (captured, numbers.iter().map(find).collect::<Vec<_>>(), pack)
    };
    let (first, ..) = capture();
    let (captured, ids, bytes) = capture();
    let (first, second) = (without_times(first), without_times(captured.clone()));
    for (first, second) in first.0.iter().zip(&second.0) {
        assert!(first == second, "the second capture differs: {first:?} {second:?}");
    }
    assert!(first == second, "the second capture differs");
    let mut pack = tempfile::tempfile().unwrap();
    pack.write_all(&bytes).unwrap();
    let Captured { descriptions, objects, dataspaces } = captured;
    let host = Host {
        runtime: None,
        architecture: String::new(),
        kernel: String::new(),
        boot_id: String::new(),
        pid_namespace: Default::default(),
        ipc_namespace: false,
        xcr0: 0,
        cpu_features: Vec::new(),
        uid: 0,
        privileged: true,
    };
    let checkpoint = Checkpoint {
        host,
        clocks: Clocks::default(),
        processes: Vec::new(),
        descriptions,
        objects,
        dataspaces,
        machine: None,
        layers: Vec::new(),
        bundle: Vec::new(),
        nests: Vec::new(),
    };
    Frozen { checkpoint, ids, pack }
}

/// All that a capture gives but the times that pass.
fn without_times(captured: Captured) -> (Vec<Capability>, Objects) {
    let capabilities = captured.descriptions.into_iter().map(|description| match description.capability {
        Capability::TimerFd(mut timer) => {
            timer.spec.value = Default::default();
            Capability::TimerFd(timer)
        }
        Capability::Outside(mut outside) => {
            outside.peer = None;
            Capability::Outside(outside)
        }
        other => other,
    });
    (capabilities.collect(), captured.objects)
}

impl Frozen {
    fn plan(&self) -> (Vec<Planned>, Vec<frost_model::Obstacle>) {
        cap::plan(&self.checkpoint, &ThawContext::default(), &[], None)
    }

    /// Makes everything again, and returns what was asked for.
    fn thaw(&self) -> (Vec<OwnedFd>, Late) {
        let (planned, obstacles) = self.plan();
        assert_eq!(obstacles, []);
        let mut built =
            cap::build(&self.checkpoint, &planned, &ThawContext::default(), self.pack.as_fd(), None, &[])
                .unwrap();
        let fds = self.ids.iter().map(|id| match built.descriptions[*id].take() {
            Some(fd) => fd,
            None => panic!("description {id} was asked for twice or not made"),
        });
        (fds.collect(), built.late)
    }

    fn flags(&self, index: usize) -> u32 {
        self.checkpoint.descriptions[self.ids[index]].flags
    }
}

fn there_and_back(fds: Vec<OwnedFd>) -> Vec<OwnedFd> {
    let frozen = freeze(fds);
    let (fds, mut late) = frozen.thaw();
    late.apply(&frozen.checkpoint).unwrap();
    for (index, fd) in fds.iter().enumerate() {
        let now = rustix::fs::fcntl_getfl(fd).unwrap().bits() & !0o100000;
        assert_eq!(now, frozen.flags(index) & !0o100000, "flags of {index}");
    }
    fds
}

fn read(fd: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    let got = rustix::io::read(fd, &mut buffer[..]).unwrap();
    buffer.truncate(got);
    buffer
}

fn events(fd: &OwnedFd) -> PollFlags {
    let mut fds = [PollFd::new(fd, PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    fds[0].revents()
}

fn open(path: &Path, flags: OFlags) -> OwnedFd {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
}

#[test]
fn regular_files_keep_flags_and_offset() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"0123456789").unwrap();
    let plain = open(&path, OFlags::RDONLY);
    rustix::fs::seek(&plain, SeekFrom::Start(4)).unwrap();
    let append = open(&path, OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::DSYNC);
    let path_only = open(&path, OFlags::PATH);
    let folder = open(directory.path(), OFlags::RDONLY | OFlags::DIRECTORY);
    let fds = there_and_back(vec![plain, append, path_only, folder]);
    assert_eq!(read(&fds[0]), b"456789");
    rustix::io::write(&fds[1], b"x").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789x");
    assert_eq!(rustix::io::read(&fds[2], &mut [0; 1][..]), Err(Errno::BADF));
}

#[test]
fn what_changed_since_is_told_with_both_facts() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let make = |content: &[u8]| std::fs::write(&path, content).unwrap();
    let reason = |frozen: &Frozen| {
        let (_, obstacles) = frozen.plan();
        assert_eq!(obstacles.len(), 1, "{obstacles:?}");
        obstacles[0].reason.clone()
    };
    make(b"one");
    let frozen = freeze(vec![open(&path, OFlags::RDWR)]);
    assert_eq!(frozen.plan().1, []);
    make(b"other");
    assert!(reason(&frozen).contains("from 3 to 5 bytes"), "{}", reason(&frozen));
    make(b"two");
    assert!(reason(&frozen).contains("written since"), "{}", reason(&frozen));
    // While it is open its inode number is not given to another file.
    let _deleted = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(reason(&frozen).contains("does not exist any more"), "{}", reason(&frozen));
    make(b"one");
    assert!(reason(&frozen).contains("replaced by another file"), "{}", reason(&frozen));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let text = reason(&frozen);
    assert!(text.contains("cannot be opened") || text.contains("directory"), "{text}");
}

#[test]
fn captured_content_replaces_what_is_there() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"at that instant").unwrap();
    let file = open(&path, OFlags::RDWR);
    rustix::fs::seek(&file, SeekFrom::Start(3)).unwrap();
    let frozen = freeze_with(vec![file], true);
    for now in [Some("something else by now"), None] {
        match now {
            Some(now) => std::fs::write(&path, now).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        // Given up before the end, it leaves all as it is.
        drop(frozen.thaw());
        assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), now);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), usize::from(now.is_some()));
        let (fds, mut late) = frozen.thaw();
        late.apply(&frozen.checkpoint).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"at that instant");
        assert_eq!(read(&fds[0]), b"that instant");
        let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fds[0].as_raw_fd()), Vec::new()).unwrap();
        assert_eq!(link.to_str().unwrap(), path.to_str().unwrap());
    }
}

#[test]
fn deleted_files_come_back_without_a_name() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gone");
    let file = open(&path, OFlags::RDWR | OFlags::CREATE);
    rustix::io::pwrite(&file, b"start", 0).unwrap();
    rustix::io::pwrite(&file, b"end", 5 << 20).unwrap();
    rustix::fs::fchmod(&file, Mode::RUSR).unwrap();
    let reader = open(&path, OFlags::RDONLY);
    rustix::fs::seek(&reader, SeekFrom::Start(2)).unwrap();
    std::fs::remove_file(&path).unwrap();
    let frozen = freeze(vec![file, reader]);
    for taken in [false, true] {
        if taken {
            std::fs::write(&path, b"another file").unwrap();
        }
        let (fds, mut late) = frozen.thaw();
        late.apply(&frozen.checkpoint).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), usize::from(taken));
        let stat = rustix::fs::fstat(&fds[0]).unwrap();
        assert_eq!((stat.st_size, stat.st_nlink, stat.st_mode & 0o777), ((5 << 20) + 3, 0, 0o400));
        assert!(stat.st_blocks * 512 < 1 << 20, "{}", stat.st_blocks);
        assert_eq!(stat.st_ino, rustix::fs::fstat(&fds[1]).unwrap().st_ino);
        let mut end = [0; 3];
        rustix::io::pread(&fds[0], &mut end[..], 5 << 20).unwrap();
        assert_eq!(&end, b"end");
        assert_eq!(&read(&fds[1])[..3], b"art");
        let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fds[0].as_raw_fd()), Vec::new()).unwrap();
        let link = link.to_str().unwrap().to_owned();
        assert_eq!(link == format!("{} (deleted)", path.display()), !taken, "{link}");
    }
}

#[test]
fn devices_come_back() {
    let _alone = alone();
    let fds = there_and_back(
        ["null", "zero", "full", "random", "urandom"]
            .map(|name| open(&Path::new("/dev").join(name), OFlags::RDWR))
            .into(),
    );
    assert_eq!(read(&fds[0]), b"");
    assert!(read(&fds[1]).iter().all(|byte| *byte == 0));
    assert_eq!(rustix::io::write(&fds[2], b"x"), Err(Errno::NOSPC));
}

#[test]
fn pipes_keep_content_capacity_and_ends() {
    let _alone = alone();
    let (reader, writer) = pipe();
    rustix::pipe::fcntl_setpipe_size(&writer, 1 << 17).unwrap();
    rustix::io::write(&writer, b"content").unwrap();
    let both = open(Path::new(&format!("/proc/self/fd/{}", reader.as_raw_fd())), OFlags::RDWR);
    let (half, closed) = pipe();
    rustix::io::write(&closed, b"last words").unwrap();
    drop(closed);
    let (closed, mute) = pipe();
    drop(closed);
    let fds = there_and_back(vec![reader, writer, both, half, mute]);
    assert_eq!(rustix::pipe::fcntl_getpipe_size(&fds[0]).unwrap(), 1 << 17);
    assert_eq!(read(&fds[0]), b"content");
    rustix::io::write(&fds[1], b"more").unwrap();
    rustix::io::write(&fds[2], b"!").unwrap();
    assert_eq!(read(&fds[2]), b"more!");
    assert_eq!((read(&fds[3]), read(&fds[3])), (b"last words".to_vec(), Vec::new()));
    assert!(events(&fds[4]).contains(PollFlags::ERR));
}

#[test]
fn a_full_pipe_and_one_of_packets_come_back() {
    let _alone = alone();
    let (reader, writer) = pipe();
    let mut written = 0;
    while let Ok(bytes) = rustix::io::write(&writer, &[7; 4096]) {
        written += bytes;
    }
    let (packets, sender) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
    for packet in [&b"one"[..], b"three"] {
        rustix::io::write(&sender, packet).unwrap();
    }
    let fds = there_and_back(vec![reader, writer, packets, sender]);
    assert_eq!(rustix::io::write(&fds[1], &[7; 4096]), Err(Errno::AGAIN));
    assert_eq!(read(&fds[0]).len(), written);
    assert_eq!((read(&fds[2]), read(&fds[2])), (b"one".to_vec(), b"three".to_vec()));
}

#[test]
fn fifos_come_back_without_waiting() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let reader = open(&path, OFlags::RDONLY | OFlags::NONBLOCK);
    let writer = open(&path, OFlags::WRONLY);
    rustix::io::write(&writer, b"content").unwrap();
    let fds = there_and_back(vec![reader, writer]);
    assert_eq!(read(&fds[0]), b"content");
    drop(fds);
    let lonely = open(&path, OFlags::RDONLY | OFlags::NONBLOCK);
    assert!(!events(&lonely).contains(PollFlags::HUP));
    let fds = there_and_back(vec![lonely]);
    assert!(!events(&fds[0]).contains(PollFlags::HUP));
}

#[test]
fn eventfds_come_back() {
    let _alone = alone();
    let small = eventfd(7, EventfdFlags::SEMAPHORE | EventfdFlags::CLOEXEC).unwrap();
    let large = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&large, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let fds = there_and_back(vec![small, large]);
    assert_eq!(read(&fds[0]), 1u64.to_ne_bytes());
    assert_eq!(read(&fds[1]), (u64::MAX - 1).to_ne_bytes());
}

#[test]
fn timerfds_go_on_and_keep_their_count() {
    let _alone = alone();
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_gettime,
        timerfd_settime,
    };
    let make = |clock, value: i64, interval: i64| {
        let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).unwrap();
        let time = |nanos: i64| Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
        let spec = Itimerspec { it_interval: time(interval), it_value: time(value) };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &spec).unwrap();
        fd
    };
    let far = make(TimerfdClockId::Monotonic, 100_000_000_000, 0);
    let idle = make(TimerfdClockId::Boottime, 0, 0);
    let expired = make(TimerfdClockId::Realtime, 1, 0);
    let periodic = make(TimerfdClockId::Monotonic, 1_000_000, 60_000_000_000);
    std::thread::sleep(std::time::Duration::from_millis(5));
    let fds = there_and_back(vec![far, idle, expired, periodic]);
    let left = timerfd_gettime(&fds[0]).unwrap().it_value.tv_sec;
    assert!((90..100).contains(&left), "{left}");
    assert_eq!(rustix::io::read(&fds[1], &mut [0; 8][..]), Err(Errno::AGAIN));
    assert_eq!(timerfd_gettime(&fds[1]).unwrap().it_value.tv_sec, 0);
    assert_eq!(read(&fds[2]), 1u64.to_ne_bytes());
    assert_eq!(read(&fds[3]), 1u64.to_ne_bytes());
    let next = timerfd_gettime(&fds[3]).unwrap();
    assert_eq!(next.it_interval.tv_sec, 60);
    assert!((50..60).contains(&next.it_value.tv_sec), "{next:?}");
}

#[test]
fn signalfds_and_pidfds_of_the_dead_come_back() {
    let _alone = alone();
    let signals = frost_sys::signalfd::signalfd(1 << 11 | 1 << 41).unwrap();
    let dead = frost_sys::pidfd::pidfd_of_the_dead(0, 0).unwrap();
    let fds = there_and_back(vec![signals, dead]);
    let mask = FdInfo::of_ours(&fds[0]).unwrap();
    assert_eq!(mask.field("sigmask"), Some("0000020000000800"));
    assert_eq!(FdInfo::of_ours(&fds[1]).unwrap().field("Pid"), Some("-1"));
}

#[test]
fn memfds_come_back_with_content_and_seals() {
    let _alone = alone();
    let memory =
        rustix::fs::memfd_create("shared pool", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memory, (1 << 20) + 5).unwrap();
    rustix::io::pwrite(&memory, b"last", (1 << 20) + 1).unwrap();
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::FUTURE_WRITE | SealFlags::SEAL)
        .unwrap();
    rustix::fs::seek(&memory, SeekFrom::Start(9)).unwrap();
    let reader = open(Path::new(&format!("/proc/self/fd/{}", memory.as_raw_fd())), OFlags::RDONLY);
    let plain = rustix::fs::memfd_create("plain", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&plain, b"plain").unwrap();
    let before = [&memory, &plain].map(|fd| rustix::fs::fcntl_get_seals(fd).unwrap());
    let fds = there_and_back(vec![memory, reader, plain]);
    let stat = rustix::fs::fstat(&fds[0]).unwrap();
    assert_eq!(stat.st_size, (1 << 20) + 5);
    assert!(stat.st_blocks * 512 <= 8192, "{}", stat.st_blocks);
    assert_eq!(rustix::fs::tell(&fds[0]).unwrap(), 9);
    let mut last = [0; 4];
    rustix::io::pread(&fds[1], &mut last[..], (1 << 20) + 1).unwrap();
    assert_eq!(&last, b"last");
    assert_eq!(rustix::fs::fcntl_get_seals(&fds[0]).unwrap(), before[0]);
    assert_eq!(rustix::fs::fcntl_get_seals(&fds[2]).unwrap(), before[1]);
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fds[0].as_raw_fd()), Vec::new()).unwrap();
    assert_eq!(link.to_str().unwrap(), "/memfd:shared pool (deleted)");
}

#[test]
fn epoll_watches_come_back_under_their_numbers() {
    let _alone = alone();
    let (reader, writer) = pipe();
    rustix::io::write(&writer, b"ready").unwrap();
    let inner = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64;
    epoll::add(&inner, &reader, data(u64::MAX - 1), epoll::EventFlags::IN | epoll::EventFlags::ET).unwrap();
    epoll::add(&inner, &writer, data(2), epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT).unwrap();
    epoll::add(&outer, &inner, data(3), epoll::EventFlags::IN).unwrap();
    // Added under a number that is closed then, while the description stays.
    let other = rustix::io::fcntl_dupfd_cloexec(&reader, 200).unwrap();
    epoll::add(&inner, &other, data(4), epoll::EventFlags::IN).unwrap();
    drop(other);
    let numbers = |fd: &OwnedFd| {
        let info = FdInfo::of_ours(fd).unwrap();
        let mut lines: Vec<String> =
            info.fields("tfd").map(|line| line.split("  pos").next().unwrap().to_owned()).collect();
        lines.sort();
        lines
    };
    let before = (numbers(&inner), numbers(&outer));
    assert_eq!(before.0.len(), 3);
    let fds = there_and_back(vec![reader, writer, inner, outer]);
    assert_eq!((numbers(&fds[2]), numbers(&fds[3])), before);
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: data(0) }; 8];
    let got = epoll::wait(&fds[2], &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    let mut seen: Vec<u64> = events[..got].iter().map(|event| event.data.u64()).collect();
    seen.sort_unstable();
    assert_eq!(seen, [2, 4, u64::MAX - 1]);
}

#[test]
fn unix_pairs_keep_their_queues() {
    let _alone = alone();
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        set_int_option(&a, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 3).unwrap();
        set_int_option(&b, libc::SOL_SOCKET, libc::SO_SNDBUF, 100_000).unwrap();
        let (reader, writer) = pipe();
        rustix::io::write(&writer, b"in flight").unwrap();
        send(&b, b"back", SendFlags::empty()).unwrap();
        send(&a, b"one", SendFlags::empty()).unwrap();
        send_unix(&a, b"two", None, &[reader.as_fd()]).unwrap();
        send(&a, b"three", SendFlags::empty()).unwrap();
        let fds = there_and_back(vec![a, b, writer]);
        assert_eq!(int_option(&fds[0], libc::SOL_SOCKET, libc::SO_PEEK_OFF), Ok(3));
        assert_eq!(int_option(&fds[1], libc::SOL_SOCKET, libc::SO_SNDBUF), Ok(200_000));
        assert_eq!(read(&fds[0]), b"back");
        let mut parts = Vec::new();
        while let Some(seen) = peek(&fds[1], 1000).unwrap() {
            let mut taken = vec![0; seen.data.len()];
            // A look at a stream runs on to the descriptors; a read stops before them.
            let got = rustix::io::read(&fds[1], &mut taken).unwrap();
            parts.extend_from_slice(&taken[..got]);
            if !seen.rights.is_empty() {
                rustix::io::fcntl_getfd(&seen.rights[0]).unwrap();
                if rustix::io::ioctl_fionread(&seen.rights[0]).unwrap() > 0 {
                    assert_eq!(read(&seen.rights[0]), b"in flight");
                }
            }
            parts.push(b'|');
        }
        let parts = String::from_utf8(parts).unwrap();
        match kind {
            SocketType::STREAM => assert_eq!(parts.replace('|', ""), "onetwothree"),
            _ => assert_eq!(parts, "one|two|three|"),
        }
        rustix::io::write(&fds[1], b"again").unwrap();
        assert_eq!(read(&fds[0]), b"again");
    }
}

#[test]
fn unix_sockets_whose_peer_is_gone_or_which_are_shut_down_stay_so() {
    let _alone = alone();
    let pair = || socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let (closed, peer) = pair();
    send(&peer, b"last", SendFlags::empty()).unwrap();
    drop(peer);
    let (reset, peer) = pair();
    send(&reset, b"never read", SendFlags::empty()).unwrap();
    drop(peer);
    let (half, other) = pair();
    send(&half, b"before", SendFlags::empty()).unwrap();
    rustix::net::shutdown(&half, Shutdown::Write).unwrap();
    let fds = there_and_back(vec![closed, reset, half, other]);
    assert_eq!((read(&fds[0]), read(&fds[0])), (b"last".to_vec(), Vec::new()));
    assert_eq!(rustix::io::read(&fds[1], &mut [0; 8][..]), Err(Errno::CONNRESET));
    assert_eq!(rustix::io::read(&fds[1], &mut [0; 8][..]), Ok(0));
    assert_eq!((read(&fds[3]), read(&fds[3])), (b"before".to_vec(), Vec::new()));
    rustix::io::write(&fds[3], b"back").unwrap();
    assert_eq!(read(&fds[2]), b"back");
}

fn unix_socket(kind: SocketType) -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn unix_servers_come_back_with_connections_and_clients_that_wait() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let by_path = path.as_os_str().as_encoded_bytes().to_vec();
    let by_name = format!("\0frost-test-{}", std::process::id()).into_bytes();
    for name in [by_path, by_name] {
        let server = unix_socket(SocketType::STREAM);
        sock::bind_unix(&server, &name).unwrap();
        rustix::net::listen(&server, 5).unwrap();
        let connect = || {
            let client = unix_socket(SocketType::STREAM);
            sock::connect_unix(&client, &name).unwrap();
            client
        };
        let first = connect();
        let accepted = rustix::net::accept(&server).unwrap();
        rustix::io::write(&accepted, b"hello").unwrap();
        let second = connect();
        let third = connect();
        let fds = there_and_back(vec![server, first, accepted, second, third]);
        assert_eq!(read(&fds[1]), b"hello");
        assert_eq!(sock::unix_socket_name(&fds[2], false).unwrap().as_deref(), Some(name.as_slice()));
        assert_eq!(sock::unix_socket_name(&fds[1], true).unwrap().as_deref(), Some(name.as_slice()));
        for client in [&fds[3], &fds[4]] {
            let accepted = rustix::net::accept(&fds[0]).unwrap();
            rustix::io::write(&accepted, b"accepted").unwrap();
            assert_eq!(read(client), b"accepted");
        }
        let fresh = unix_socket(SocketType::STREAM);
        sock::connect_unix(&fresh, &name).unwrap();
    }
}

#[test]
fn unix_datagrams_keep_their_senders() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let name = |file: &str| directory.path().join(file).as_os_str().as_encoded_bytes().to_vec();
    let receiver = unix_socket(SocketType::DGRAM);
    sock::bind_unix(&receiver, &name("receiver")).unwrap();
    let sender = unix_socket(SocketType::DGRAM);
    sock::bind_unix(&sender, &name("sender")).unwrap();
    let connected = unix_socket(SocketType::DGRAM);
    sock::connect_unix(&connected, &name("receiver")).unwrap();
    send_unix(&sender, b"from a name", Some(&name("receiver")), &[]).unwrap();
    send_unix(&connected, b"from nobody", None, &[]).unwrap();
    let fds = there_and_back(vec![receiver, sender, connected]);
    let first = peek(&fds[0], 100).unwrap().unwrap();
    assert_eq!((first.data.as_slice(), first.sender), (&b"from a name"[..], Some(name("sender"))));
    assert_eq!((read(&fds[0]), read(&fds[0])), (b"from a name".to_vec(), b"from nobody".to_vec()));
    send_unix(&fds[2], b"on", None, &[]).unwrap();
    assert_eq!(read(&fds[0]), b"on");
}

#[test]
fn tcp_servers_listen_again_and_connections_are_reset() {
    let _alone = alone();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(server) = TcpListener::bind(address) else {
            eprintln!("skipped: {address} cannot be bound here");
            continue;
        };
        let local = server.local_addr().unwrap();
        // Another program's: only one end of each connection is frozen.
        let other = TcpListener::bind(address).unwrap();
        let far = TcpStream::connect(local).unwrap();
        let (accepted, _) = server.accept().unwrap();
        let client = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        let (near, _) = other.accept().unwrap();
        set_int_option(&accepted, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).unwrap();
        let frozen = freeze(vec![server.into(), client.into(), accepted.into()]);
        drop((far, near, other));
        assert!(matches!(
            &frozen.checkpoint.descriptions[frozen.ids[0]].capability,
            Capability::TcpListener(listener) if listener.backlog == Some(128)
        ));
        let (planned, obstacles) = frozen.plan();
        assert_eq!(obstacles, []);
        assert_eq!(planned[frozen.ids[1]].route, Route::Close);
        let (fds, _) = frozen.thaw();
        let again = TcpStream::connect(local).unwrap();
        let accepted = rustix::net::accept(&fds[0]).unwrap();
        rustix::io::write(&accepted, b"served").unwrap();
        assert_eq!(read(&again.into()), b"served");
        assert_eq!(int_option(&fds[2], libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(1));
        for fd in &fds[1..] {
            assert!(events(fd).contains(PollFlags::HUP));
            assert_eq!(rustix::io::read(fd, &mut [0; 8][..]), Err(Errno::CONNRESET));
            assert_eq!(rustix::io::read(fd, &mut [0; 8][..]), Ok(0));
            assert_eq!(send(fd, b"x", SendFlags::NOSIGNAL), Err(Errno::PIPE));
        }
        // And a third time, beside the second: the port is taken now.
        let (_, obstacles) = frozen.plan();
        assert_eq!(obstacles.len(), 1);
        assert!(obstacles[0].reason.contains("is taken by another program"), "{obstacles:?}");
    }
}

#[test]
fn bound_and_unused_tcp_and_udp_sockets_come_back() {
    let _alone = alone();
    let unused = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let bound = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
    set_int_option(&bound, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).unwrap();
    let any: SocketAddr = "[::]:0".parse().unwrap();
    rustix::net::bind(&bound, &any).unwrap();
    let port = SocketAddr::try_from(rustix::net::getsockname(&bound).unwrap()).unwrap().port();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_address = udp.local_addr().unwrap();
    udp.set_broadcast(true).unwrap();
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect(udp_address).unwrap();
    let fds = there_and_back(vec![unused, bound, udp.into(), connected.into()]);
    assert_eq!(events(&fds[0]), PollFlags::OUT | PollFlags::HUP);
    let again = SocketAddr::try_from(rustix::net::getsockname(&fds[1]).unwrap()).unwrap();
    assert_eq!(again.port(), port);
    assert_eq!(int_option(&fds[1], libc::IPPROTO_IPV6, libc::IPV6_V6ONLY), Ok(1));
    assert_eq!(int_option(&fds[2], libc::SOL_SOCKET, libc::SO_BROADCAST), Ok(1));
    rustix::io::write(&fds[3], b"datagram").unwrap();
    assert_eq!(read(&fds[2]), b"datagram");
}

#[test]
fn what_lies_outside_is_closed_by_default() {
    let _alone = alone();
    let (reader, outside) = pipe();
    rustix::io::write(&outside, b"unread").unwrap();
    let (outside_reader, writer) = pipe();
    let (socket, peer) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    send(&peer, b"waits", SendFlags::empty()).unwrap();
    let master = frost_sys::pty::open_master().unwrap();
    let terminal = frost_sys::pty::open_slave(&master, OFlags::RDWR).unwrap();
    let frozen = freeze(vec![reader, writer, socket, terminal]);
    let (planned, _) = frozen.plan();
    assert!(frozen.ids.iter().all(|id| planned[*id].route == Route::Close), "{planned:?}");
    // The ends outside see an ordinary end, and the tree's a closed one, with what waited in it.
    let (fds, _) = frozen.thaw();
    assert_eq!(read(&outside_reader), b"");
    assert_eq!((read(&fds[0]), read(&fds[0])), (b"unread".to_vec(), Vec::new()));
    assert!(events(&fds[1]).contains(PollFlags::ERR));
    assert_eq!((read(&fds[2]), read(&fds[2])), (b"waits".to_vec(), Vec::new()));
    assert_eq!(read(&fds[3]), b"");
    assert_eq!(rustix::io::write(&fds[3], b"x"), Err(Errno::IO));
}
