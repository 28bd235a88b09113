//! The guardian: the process that does one freeze.
//!
//! It is forked by the command into a session of its own and told nothing by it any more, so that the death of the
//! command, by a closed terminal or a SIGKILL, changes nothing: the freeze ends as it would have. What it has to say goes
//! through a pipe: how far it is, now and then, and in the end what came of it.

use crate::failure::{Failure, FailureKind};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::BufReader;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Between two words on how far it is.
const PAUSE: Duration = Duration::from_millis(100);

/// What a guardian says.
#[derive(Serialize, Deserialize)]
enum Word<T> {
    /// So many bytes of so many are done.
    Progress(u64, u64),
    Outcome(Result<T, Failure>),
    /// It found itself to be wrong, here.
    Panicked(String),
}

/// Tells the command how far the guardian is.
pub(crate) struct Meter {
    writer: Option<OwnedFd>,
    last: Instant,
}

impl Meter {
    /// Tells it, unless that was done just now; a command that does not listen is not waited for.
    pub(crate) fn update(&mut self, done: u64, all: u64) {
        if self.last.elapsed() >= PAUSE
            && let Some(writer) = &self.writer
        {
            self.last = Instant::now();
            let mut bytes = Vec::new();
            // So short a word is written as a whole, or not at all (PIPE_BUF).
            if ciborium::into_writer(&Word::<()>::Progress(done, all), &mut bytes).is_ok() {
                let _ = rustix::io::write(writer, &bytes);
            }
        }
    }
}

/// Runs `work` in a guardian and returns what it returned. `told` hears how far it is; `take_up` is called if the guardian
/// dies or panics, before anybody is told how things stand.
///
/// The caller must be single-threaded, as after its start.
///
/// # Errors
/// What `work` failed with; or that the guardian died, with how things stand as far as that can be told.
pub(crate) fn run<T>(
    what: &str,
    pid: i32,
    told: &dyn Fn(u64, u64),
    take_up: impl FnOnce(),
    work: impl FnOnce(Meter) -> Result<T, Failure>,
) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
{
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(FailureKind::Failed, what).because(error).state("nothing was touched")
    };
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(&errno))?;
    match frost_sys::clone::fork_single_threaded(libc::SIGCHLD) {
        Ok(frost_sys::clone::Clone::Child) => {
            drop(reader);
            // Nobody reads what a panic prints here.
            let first = Arc::new(OnceLock::new());
            let told = first.clone();
            std::panic::set_hook(Box::new(move |panic| _ = told.set(panic.to_string())));
            // Nothing may unwind into the command's own code on this side.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                settle();
                let _ = rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK);
                let again = rustix::io::fcntl_dupfd_cloexec(&writer, 3).ok();
                work(Meter { writer: again, last: Instant::now() })
            }));
            let word = match outcome {
                Ok(outcome) => Word::Outcome(outcome),
                Err(_) => Word::Panicked(first.get().map_or("nobody knows where", String::as_str).to_owned()),
            };
            let mut bytes = Vec::new();
            let _ = rustix::fs::fcntl_setfl(&writer, OFlags::empty());
            if ciborium::into_writer(&word, &mut bytes).is_ok() {
                send(&writer, &bytes);
            }
            frost_sys::clone::exit_now(0)
        }
        Ok(frost_sys::clone::Clone::Parent { pid: guardian, pidfd }) => {
            drop(writer);
            let outcome = receive(reader, told);
            let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
            let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
            let (cause, report) = match outcome {
                Heard::Outcome(outcome) => return outcome,
                Heard::Panic(place) => (
                    format!("the guardian panicked, which is a bug in frost: {place}"),
                    Some("please report it, with this message and what `frost --version` prints"),
                ),
                Heard::Death => (format!("the guardian (process {guardian}) was killed"), None),
            };
            take_up();
            let (state, hint) = standing(pid);
            Err(Failure::new(FailureKind::Failed, what)
                .cause(cause)
                .state(state)
                .hint(report.unwrap_or(hint)))
        }
        Err(errno) => Err(failed(&errno)),
    }
}

/// Says how a process stands that a guardian let go amid its work, and what to do.
fn standing(pid: i32) -> (String, &'static str) {
    if frost_sys::proc::stat(pid).is_ok_and(|stat| !stat.is_zombie()) && !is_ending(pid) {
        (format!("process {pid} runs on, unharmed"), "try again")
    } else {
        let state = format!("process {pid} is gone; if its image was complete, `frost list` shows it");
        (state, "`frost list` shows the image; thaw it")
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
    // It is waited for when threads are to stop.
    let _ = frost_sys::signals::block(libc::SIGCHLD);
    // Whoever has to be killed for want of memory, it should not be us, who have a program in our hands. An ordinary user may
    // not ask for that.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    if let Ok(null) = frost_sys::own::nowhere() {
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

/// What came of a guardian.
enum Heard<T> {
    Outcome(Result<T, Failure>),
    /// It panicked, here. It has let go of what it held, but may have been amid the end of the program.
    Panic(String),
    /// It ended without a word.
    Death,
}

/// Listens until the outcome is told, or the guardian has died.
fn receive<T: DeserializeOwned>(reader: OwnedFd, told: &dyn Fn(u64, u64)) -> Heard<T> {
    let mut reader = BufReader::new(File::from(reader));
    loop {
        match ciborium::from_reader(&mut reader) {
            Ok(Word::Progress(done, all)) => told(done, all),
            Ok(Word::Outcome(outcome)) => return Heard::Outcome(outcome),
            Ok(Word::Panicked(place)) => return Heard::Panic(place),
            Err(_) => return Heard::Death,
        }
    }
}
