//! The guardian: the process that does one freeze.
//!
//! It is forked by the command into a session of its own and told nothing by it any more, so that the death of the
//! command, by a closed terminal or a SIGKILL, changes nothing: the freeze ends as it would have.

use crate::failure::{Failure, FailureKind};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Runs `work` in a guardian and returns what it returned.
///
/// The caller must be single-threaded, as after its start.
///
/// # Errors
/// What `work` failed with; or that the guardian died, with how things stand as far as that can be told.
pub(crate) fn run<T>(what: &str, pid: i32, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
{
    let failed = |error: &dyn std::error::Error| {
        Failure::new(FailureKind::Failed, what).because(error).state("nothing was touched")
    };
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(&errno))?;
    match frost_sys::clone::fork_single_threaded(libc::SIGCHLD) {
        Ok(frost_sys::clone::Clone::Child) => {
            drop(reader);
            // Nothing may unwind into the command's own code on this side.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                settle();
                work()
            }));
            let outcome = outcome.unwrap_or_else(|_| {
                Err(Failure::new(FailureKind::Failed, what)
                    .cause("the guardian panicked, which is a bug in frost")
                    .state(format!("process {pid} runs on")))
            });
            let mut bytes = Vec::new();
            if ciborium::into_writer(&outcome, &mut bytes).is_ok() {
                send(&writer, &bytes);
            }
            frost_sys::clone::exit_now(0)
        }
        Ok(frost_sys::clone::Clone::Parent { pid: guardian, pidfd }) => {
            drop(writer);
            let bytes = receive(&reader);
            let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
            let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
            ciborium::from_reader(bytes.as_slice()).unwrap_or_else(|_| {
                let alive = frost_sys::proc::stat(pid).is_ok_and(|stat| !stat.is_zombie()) && !is_ending(pid);
                Err(Failure::new(FailureKind::Failed, what)
                    .cause(format!("the guardian (process {guardian}) was killed"))
                    .state(if alive {
                        format!("process {pid} runs on, unharmed")
                    } else {
                        format!("process {pid} is gone; if its image was complete, `frost list` shows it")
                    })
                    .hint(if alive { "try again" } else { "`frost list` shows the image; thaw it" }))
            })
        }
        Err(errno) => Err(failed(&errno)),
    }
}

/// Whether a process was killed and is on its way out: behind the commit the guardian may have done that before it died.
fn is_ending(pid: i32) -> bool {
    let killed = |status: frost_sys::proc::Status| status.pending & 1 << (libc::SIGKILL - 1) != 0;
    // It has no memory any more, or will not see another instruction.
    frost_sys::proc::status(pid).is_ok_and(killed)
        || frost_sys::proc::read(pid, "maps").is_ok_and(|maps| maps.is_empty())
}

/// Lets go of all that ties the guardian to the command.
fn settle() {
    let _ = rustix::process::setsid();
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) {
        // A pipe that the command's caller reads to its end must not be kept open by us.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn send(writer: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(writer, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // The command is gone; nobody is left to be told.
            Err(_) => return,
        }
    }
}

fn receive(reader: &OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(4096);
        match rustix::io::read(reader, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return bytes,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return bytes,
        }
    }
}
