//! Something that is put right by a process of its own, should we die before we have done so.

use crate::clone::{Clone, exit_now, fork_beside_threads};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::pipe::PipeFlags;

/// What the process that waits is told.
const ARMED: u8 = 1;
const DONE: u8 = 0;

/// A process, in a session of its own, that waits for our end.
///
/// It puts right what we leave if we go, or drop this, after [`arm`](Self::arm) and without [`disarm`](Self::disarm).
#[derive(Debug)]
pub struct Undo {
    pipe: Option<OwnedFd>,
    process: OwnedFd,
}

impl Undo {
    /// Starts it. `undo` may allocate and make calls; it must take no lock.
    ///
    /// # Errors
    /// Those of pipe2(2) and fork(2).
    pub fn prepare(undo: impl FnOnce()) -> Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        match fork_beside_threads()? {
            Clone::Child => {
                // Whoever kills our group or session does not mean this.
                let _ = rustix::process::setsid();
                drop(writer);
                let mut last = DONE;
                let mut byte = [0];
                loop {
                    match rustix::io::read(&reader, &mut byte) {
                        Ok(0) => break,
                        Ok(_) => last = byte[0],
                        Err(Errno::INTR) => {}
                        Err(_) => break,
                    }
                }
                if last == ARMED {
                    undo();
                }
                exit_now(0)
            }
            Clone::Parent { pidfd, .. } => Ok(Self { pipe: Some(writer), process: pidfd }),
        }
    }

    /// Starts it, for something that is changed next.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn armed(undo: impl FnOnce()) -> Result<Self> {
        let prepared = Self::prepare(undo)?;
        prepared.arm();
        Ok(prepared)
    }

    /// Says that there is something to be put right from now on.
    pub fn arm(&self) {
        self.tell(ARMED);
    }

    /// Says that all is right; it ends.
    pub fn disarm(self) {
        self.tell(DONE);
    }

    fn tell(&self, word: u8) {
        // A pipe that nobody reads any more: it was killed, and there is nobody to be told.
        let _ = self.pipe.as_ref().map(|pipe| rustix::io::write(pipe, &[word]));
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // It goes when it sees the end of its pipe; what was not said to be right it puts right first.
        self.pipe = None;
        let id = rustix::process::WaitId::PidFd(self.process.as_fd());
        let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
    }
}
