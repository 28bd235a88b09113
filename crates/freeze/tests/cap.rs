//! Surveys and captures descriptors of a process that is not told about it.
//!
//! The test makes the objects, a child inherits them under the same numbers, and the child is what is looked at.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use frost_freeze::cap::{Captured, Catalog, Motion, Observed};
use frost_model::cap::{Capability, Content, OutsideKind, UnixState};
use frost_model::{Obstacle, Pid};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid as RawPid, PidfdFlags, pidfd_open};
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

    fn observed(&self) -> Observed<'_> {
        let pid = self.pid();
        Observed { pid, through: pid.raw(), inner: pid, command: "sleep", pidfd: self.pidfd.as_fd() }
    }

    fn survey(&self) -> (Catalog, Vec<Obstacle>) {
        Catalog::survey(&[self.observed()], Motion::Stopped).unwrap()
    }

    /// What the child has under the number that `fd` has here.
    fn capture(&self, fd: impl AsFd) -> (Capability, Captured, Vec<u8>) {
        let (catalog, obstacles) = self.survey();
        assert_eq!(obstacles, []);
        let table = catalog.descriptors(self.pid());
        let mut pack = Vec::new();
        let captured = catalog.capture(&mut pack, false, std::time::Instant::now()).unwrap();
        let number = fd.as_fd().as_raw_fd();
        let id = table.iter().find(|entry| entry.fd.raw() == number).unwrap().description;
        (captured.descriptions[id.index()].capability.clone(), captured, pack)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
}

fn joined(content: &[serde_bytes::ByteBuf]) -> Vec<u8> {
    content.iter().flat_map(|part| part.iter().copied()).collect()
}

#[test]
fn descriptors_of_one_description_are_found_out() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let dup = rustix::io::fcntl_dupfd_cloexec(file.as_file(), 100).unwrap();
    let other = rustix::fs::open(file.path(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let a = Victim::with(&[file.as_file().as_fd(), dup.as_fd(), other.as_fd()]);
    let b = Victim::with(&[file.as_file().as_fd()]);
    let (catalog, obstacles) = Catalog::survey(&[a.observed(), b.observed()], Motion::Running).unwrap();
    assert_eq!(obstacles, []);
    let find = |victim: &Victim, fd: BorrowedFd<'_>| {
        let table = catalog.descriptors(victim.pid());
        table.iter().find(|entry| entry.fd.raw() == fd.as_raw_fd()).unwrap().description
    };
    let first = find(&a, file.as_file().as_fd());
    assert_eq!((find(&a, dup.as_fd()), find(&b, file.as_file().as_fd())), (first, first));
    assert_ne!(find(&a, other.as_fd()), first);
}

#[test]
fn what_waits_in_a_pipe_is_copied_and_stays() {
    let _alone = alone();
    let (reader, writer) = pipe();
    rustix::pipe::fcntl_setpipe_size(&writer, 1 << 18).unwrap();
    let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    for part in bytes.chunks(5000) {
        rustix::io::write(&writer, part).unwrap();
    }
    let victim = Victim::with(&[reader.as_fd(), writer.as_fd()]);
    for _ in 0..2 {
        let (capability, captured, _) = victim.capture(&reader);
        let Capability::Pipe(end) = capability else { panic!("{capability:?}") };
        let pipe = &captured.objects.pipes[end.pipe.index()];
        assert_eq!(pipe.capacity_bytes, 1 << 18);
        assert_eq!(joined(&pipe.content), bytes);
        assert!(pipe.readers && pipe.writers);
    }
    assert_eq!(rustix::io::ioctl_fionread(&reader).unwrap(), bytes.len() as u64);
}

#[test]
fn packets_of_a_pipe_stay_apart() {
    let _alone = alone();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
    for packet in [&b"one"[..], b"three", b"5"] {
        rustix::io::write(&writer, packet).unwrap();
    }
    let victim = Victim::with(&[reader.as_fd(), writer.as_fd()]);
    let (capability, captured, _) = victim.capture(&reader);
    let Capability::Pipe(end) = capability else { panic!("{capability:?}") };
    let pipe = &captured.objects.pipes[end.pipe.index()];
    let packets: Vec<&[u8]> = pipe.content.iter().map(|packet| packet.as_slice()).collect();
    assert_eq!(packets, [&b"one"[..], b"three", b"5"]);
}

#[test]
fn a_pipe_to_another_program_is_told_from_one_whose_end_is_closed() {
    let _alone = alone();
    let (reader, writer) = pipe();
    rustix::io::write(&writer, b"left").unwrap();
    let victim = Victim::with(&[reader.as_fd()]);
    let (capability, ..) = victim.capture(&reader);
    let Capability::Outside(outside) = capability else { panic!("{capability:?}") };
    let OutsideKind::Pipe { content, .. } = outside.kind else { panic!() };
    assert_eq!(content, b"left");
    drop(writer);
    let (capability, captured, _) = victim.capture(&reader);
    let Capability::Pipe(end) = capability else { panic!("{capability:?}") };
    let pipe = &captured.objects.pipes[end.pipe.index()];
    assert!(!pipe.writers);
    assert_eq!(joined(&pipe.content), b"left");
}

#[test]
fn a_deleted_file_is_stored_with_its_holes_and_its_offset_is_not_moved() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (file, path) = file.into_parts();
    rustix::io::pwrite(&file, b"start", 0).unwrap();
    rustix::io::pwrite(&file, b"end", 10 << 20).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(77)).unwrap();
    let old = path.to_path_buf();
    path.close().unwrap();
    let victim = Victim::with(&[file.as_fd()]);
    let (capability, captured, pack) = victim.capture(&file);
    let Capability::Regular(regular) = capability else { panic!("{capability:?}") };
    assert_eq!(regular.position, 77);
    let Content::Unnamed(id) = regular.content else { panic!() };
    let unnamed = &captured.objects.unnamed[id.index()];
    assert_eq!(unnamed.path.as_path(), old);
    assert_eq!(unnamed.identity.len_bytes, (10 << 20) + 3);
    assert!(pack.len() < 1 << 20, "{}", pack.len());
    let last = unnamed.pages.runs.last().unwrap();
    let at = (last.pack_offset + (10 << 20) - last.offset) as usize;
    assert_eq!(&pack[at..at + 3], b"end");
    assert_eq!(rustix::fs::tell(&file).unwrap(), 77);
}

#[test]
fn an_eventfd_is_told_by_the_kernel_alone() {
    let _alone = alone();
    let counter =
        eventfd(7, EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let victim = Victim::with(&[counter.as_fd()]);
    let (capability, ..) = victim.capture(&counter);
    let Capability::EventFd(event) = capability else { panic!("{capability:?}") };
    assert_eq!((event.count, event.semaphore), (7, true));
}

#[test]
fn queues_of_unix_sockets_are_looked_at_and_stay() {
    let _alone = alone();
    for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET] {
        let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let (reader, writer) = pipe();
        rustix::io::write(&writer, b"in flight").unwrap();
        send(&a, b"one", SendFlags::empty()).unwrap();
        frost_sys::sock::send_unix(&a, b"two", None, &[reader.as_fd(), writer.as_fd()]).unwrap();
        send(&a, b"three", SendFlags::empty()).unwrap();
        drop((reader, writer));
        let victim = Victim::with(&[a.as_fd(), b.as_fd()]);
        for _ in 0..2 {
            let (capability, captured, _) = victim.capture(&b);
            let Capability::Unix(socket) = capability else { panic!("{capability:?}") };
            assert!(matches!(socket.state, UnixState::Connected { .. }));
            let data: Vec<&[u8]> = socket.queue.iter().map(|message| message.data.as_slice()).collect();
            assert_eq!(data, [&b"one"[..], b"two", b"three"]);
            assert_eq!(socket.queue[1].rights.len(), 2);
            let flying = &captured.descriptions[socket.queue[1].rights[0].index()].capability;
            let Capability::Pipe(end) = flying else { panic!("{flying:?}") };
            let pipe = &captured.objects.pipes[end.pipe.index()];
            assert_eq!(joined(&pipe.content), b"in flight");
            assert!(socket.options.is_empty(), "{:?}", socket.options);
        }
    }
}

#[test]
fn a_survey_names_what_cannot_be_carried() {
    let _alone = alone();
    let outside = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let (reader, _writer) = pipe();
    let path = rustix::fs::open(
        format!("/proc/self/fd/{}", reader.as_raw_fd()),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap();
    let victim = Victim::with(&[outside.as_fd(), path.as_fd()]);
    let (_, obstacles) = victim.survey();
    let objects: Vec<&str> = obstacles.iter().map(|obstacle| obstacle.object.as_str()).collect();
    assert_eq!(objects.len(), 2, "{objects:?}");
    let pid = std::process::id();
    assert_eq!(objects[0], format!("fd {} (pidfd of process {pid})", outside.as_raw_fd()));
    assert!(
        objects[1].starts_with(&format!("fd {} (O_PATH descriptor of ", path.as_raw_fd())),
        "{objects:?}"
    );
}
