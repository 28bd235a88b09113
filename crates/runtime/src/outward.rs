//! A way out of a network of a program's own: a helper outside that serves an interface in there.
//!
//! The helper is slirp4netns, which takes what comes out of the interface as a router would and makes ordinary sockets of
//! its own of it, so that no right is needed. It ends when the other end of a pipe is closed, which the keeper holds.

use frost_keeper::house::OUTWARD;
use frost_sys::spawn::{self, Standing};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::pipe::PipeFlags;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

const HELPER: &str = "slirp4netns";
/// How long it may take to serve.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// The numbers of its descriptors.
const EXIT: i32 = 3;
const READY: i32 = 4;

/// A pipe that a helper is to read from and a keeper to hold.
pub(crate) fn tie() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

/// Starts a helper for the network of a process, and waits until it serves.
///
/// # Errors
/// Why there is no way out, in words.
pub(crate) fn start(process: i32, tied: &OwnedFd) -> Result<(), String> {
    let without = |why: String| format!("its network reaches nowhere outside: {why}");
    let (ready, told) = tie().map_err(|errno| without(errno.to_string()))?;
    let mut command = Command::new(HELPER);
    command
        .args(["--configure", "--mtu=65520", "--disable-host-loopback"])
        .args([format!("--exit-fd={EXIT}"), format!("--ready-fd={READY}")])
        .args([&process.to_string(), OUTWARD])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let given = [(tied.as_raw_fd(), EXIT), (told.as_raw_fd(), READY)];
    match spawn::start(&mut command, Standing::Session, None, &given, Vec::new()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(without(format!("{HELPER} is not installed (package {HELPER})")));
        }
        Err(error) => return Err(without(format!("{HELPER}: {error}"))),
    }
    drop(told);
    let mut fds = [PollFd::new(&ready, PollFlags::IN)];
    let waited = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&PATIENCE)));
    // It writes one byte; at the end of the file it has ended.
    if waited == Ok(1) && rustix::io::read(&ready, &mut [0u8]) == Ok(1) {
        return Ok(());
    }
    Err(without(format!("{HELPER} cannot serve it (`/dev/net/tun` must be there, and open to you)")))
}
