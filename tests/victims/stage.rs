//! What every victim shares: the directory it plays in, the wait for `go`, and the verdict.
//!
//! The wait is a loop of nanosleep(2) and access(2) on a regular path, so that the protocol itself uses no kind
//! that is under test. Around the wait, each victim is looked at from outside its own subject: what a program can
//! see of itself (pid, descriptors, mappings, signal masks, ...) must read the same before and after.

use crate::call::{c, monotonic, nap};
use crate::facts::{Facts, Maps};
use std::ffi::CString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// `Ok`, or what was found wrong.
pub(crate) type Verdict = Result<(), String>;

pub(crate) struct Stage {
    dir: PathBuf,
    go: CString,
    ready: [CString; 2],
    leader: i32,
    children: Mutex<Vec<i32>>,
}

impl Stage {
    pub(crate) fn new(dir: &str) -> Self {
        // A process group leader cannot become a session leader; then it stays in the session that it has.
        unsafe { libc::setsid() };
        let dir = PathBuf::from(dir);
        let go = c(&dir.join("go").to_string_lossy());
        let leader = unsafe { libc::getpid() };
        let ready = ["ready.draft", "ready"].map(|name| c(&dir.join(name).to_string_lossy()));
        Self { dir, go, ready, leader, children: Mutex::default() }
    }

    /// Runs a victim to its end and tells the verdict.
    pub(crate) fn play(&self, run: impl FnOnce(&Self) -> Verdict) -> ExitCode {
        let verdict = run(self);
        self.end(&verdict)
    }

    /// Ends the play.
    fn end(&self, verdict: &Verdict) -> ExitCode {
        for child in std::mem::take(&mut *self.children()) {
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        let text = match verdict {
            Ok(()) => "ok".to_owned(),
            Err(why) => {
                eprintln!("failed: {why}");
                let reasons = std::fs::read_to_string(self.path("why")).unwrap_or_default();
                format!("failed: {why}{}{reasons}", if reasons.is_empty() { "" } else { "\n" })
            }
        };
        self.announce("result", &text);
        if verdict.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Plays on in another thread, and ends the one that began.
    pub(crate) fn play_without_leader(&self, run: fn(&Self) -> Verdict) -> Verdict {
        let stage = Self {
            dir: self.dir.clone(),
            go: self.go.clone(),
            ready: self.ready.clone(),
            leader: self.leader,
            children: Mutex::default(),
        };
        std::thread::spawn(move || {
            let leader = stage.leader;
            let ended = crate::call::until("the leader ends", || crate::call::state_of(leader) == Some('Z'));
            let verdict = ended.and_then(|()| run(&stage));
            stage.end(&verdict);
            unsafe { libc::_exit(verdict.is_err().into()) };
        });
        // Neither pthread_exit, which would unwind, nor return.
        loop {
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
    }

    fn children(&self) -> std::sync::MutexGuard<'_, Vec<i32>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file of the protocol in one step.
    fn announce(&self, name: &str, text: &str) {
        let draft = self.path(&format!("{name}.draft"));
        std::fs::write(&draft, text).expect("the victim's directory is writable");
        std::fs::rename(draft, self.path(name)).expect("the victim's directory is writable");
    }

    pub(crate) fn ready(&self) {
        self.draft_ready();
        self.say_ready();
    }

    fn draft_ready(&self) {
        std::fs::write(self.path("ready.draft"), self.leader.to_string())
            .expect("the victim's directory is writable");
    }

    /// Allocates nothing and opens nothing: from here on the freeze may come.
    fn say_ready(&self) {
        unsafe { libc::rename(self.ready[0].as_ptr(), self.ready[1].as_ptr()) };
    }

    /// Whether `go` was said.
    pub(crate) fn gone(&self) -> bool {
        unsafe { libc::access(self.go.as_ptr(), libc::F_OK) == 0 }
    }

    /// Whether this is the thawed program; after `go`.
    pub(crate) fn was_thawed(&self) -> bool {
        std::fs::read(self.path("go")).is_ok_and(|text| text == b"thawed" || text == b"copied")
    }

    /// Whether this is a copy of a program that went on; after `go`.
    pub(crate) fn was_copied(&self) -> bool {
        std::fs::read(self.path("go")).is_ok_and(|text| text == b"copied")
    }

    pub(crate) fn wait(&self) {
        while !self.gone() {
            nap(Duration::from_millis(2));
        }
    }

    /// Says `ready`, waits for `go`, and checks that a single-threaded program saw nothing happen.
    pub(crate) fn freeze_here(&self) -> Verdict {
        self.freeze_with(true)
    }

    /// As [`freeze_here`](Self::freeze_here), for programs that see one of the facts change: a node whose old path is taken
    /// gets another one, a copy has no lease.
    pub(crate) fn freeze_without_facts(&self) -> Verdict {
        self.ready();
        self.wait();
        Ok(())
    }

    /// As [`freeze_here`](Self::freeze_here), for programs whose other threads may map memory meanwhile.
    pub(crate) fn freeze_amid_threads(&self) -> Verdict {
        self.freeze_with(false)
    }

    fn freeze_with(&self, compare_maps: bool) -> Verdict {
        let facts = Facts::look();
        let before = monotonic();
        self.draft_ready();
        let maps = Maps::look(0);
        self.say_ready();
        let mut last = monotonic();
        while !self.gone() {
            nap(Duration::from_millis(2));
            let time = monotonic();
            check!(time >= last, "CLOCK_MONOTONIC went back from {last:?} to {time:?}");
            last = time;
        }
        let after = Maps::look(1);
        check!(monotonic() >= before, "CLOCK_MONOTONIC went back");
        if compare_maps {
            maps.compare(&after)?;
        }
        facts.compare(&Facts::look())
    }

    /// Forks a child that runs `play` and ends with its verdict: status 0, or 1 and a line in `why`.
    pub(crate) fn fork(&self, play: impl FnOnce() -> Verdict) -> Result<i32, String> {
        let pid = sys!(fork())?;
        if pid == 0 {
            let verdict = play();
            if let Err(why) = &verdict {
                self.complain(why);
            }
            unsafe { libc::_exit(verdict.is_err().into()) };
        }
        self.children().push(pid);
        Ok(pid)
    }

    /// Adds a line to what the verdict will say; for children and threads.
    pub(crate) fn complain(&self, why: &str) {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(self.path("why"));
        if let Ok(mut file) = file {
            let line = format!("process {}: {why}\n", unsafe { libc::getpid() });
            let _written = file.write_all(line.as_bytes());
        }
    }

    /// Waits for a child and expects it to be content.
    pub(crate) fn reap(&self, pid: i32) -> Verdict {
        let mut status = 0;
        sys!(waitpid(pid, &mut status, 0))?;
        self.children().retain(|child| *child != pid);
        check!(status == 0, "child {pid} ended with wait status {status:#x}");
        Ok(())
    }

    /// Takes a child off the list of those killed at the end, as it was waited for otherwise.
    pub(crate) fn forget(&self, pid: i32) {
        self.children().retain(|child| *child != pid);
    }
}
