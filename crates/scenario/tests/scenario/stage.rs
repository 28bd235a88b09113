//! A scenario on its stage, and what tests ask of it.

use frost_component::Session;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Beyond this a wait is a hang.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// A scenario in a directory of its own, ended with the test.
pub(crate) struct Stage {
    pub(crate) place: tempfile::TempDir,
    pub(crate) supervisor: Option<Child>,
}

pub(crate) fn relay() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_frost-scenario")).with_file_name("examples").join("relay")
}

impl Stage {
    pub(crate) fn new(text: &str) -> Self {
        let stage =
            Self { place: tempfile::Builder::new().prefix("fs").tempdir().unwrap(), supervisor: None };
        stage.write(text);
        stage
    }

    pub(crate) fn up(text: &str) -> Self {
        let mut stage = Self::new(text);
        stage.start();
        stage
    }

    pub(crate) fn start(&mut self) {
        let mut command = self.command(&["up", "s.toml"]);
        self.supervisor = Some(command.stderr(Stdio::inherit()).stdout(Stdio::null()).spawn().unwrap());
        self.until("it is up", |stage| stage.run(&["status", "s"]).status.success());
    }

    /// Replaces the file, as an editor does; RELAY is the test's component.
    pub(crate) fn write(&self, text: &str) {
        let text = text.replace("RELAY", &format!("binary = \"{}\"", relay().display()));
        let draft = self.place.path().join("s.toml~");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.place.path().join("s.toml")).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frost-scenario"));
        command.args(arguments).current_dir(self.place.path()).env("FROST_HOME", self.place.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn report(&self, name: &str) -> String {
        String::from_utf8(self.run(&["report", name, "--scenario", "s"]).stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    }

    pub(crate) fn status(&self) -> Value {
        let output = self.run(&["status", "s", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    pub(crate) fn component(&self, name: &str) -> Value {
        let status = self.status();
        let components = status["components"].as_array().unwrap();
        components.iter().find(|component| component["name"] == name).cloned().unwrap_or(Value::Null)
    }

    pub(crate) fn document(&self, name: &str) -> Value {
        let status = self.status();
        let documents = status["documents"].as_array().unwrap();
        documents.iter().find(|document| document["name"] == name).cloned().unwrap_or(Value::Null)
    }

    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < LIMIT, "waited until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn until_report(&self, name: &str, text: &str) {
        self.until(&format!("{name} is {text:?}"), |stage| stage.report(name) == text);
    }

    pub(crate) fn kill(&self, name: &str) {
        if let Some(pid) = self.component(name)["pid"].as_i64() {
            kill(pid as i32);
        }
    }
}

pub(crate) fn kill(pid: i32) {
    // That it has ended meanwhile is as good.
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let text = std::fs::read_to_string(self.place.path().join("s.toml")).unwrap_or_default();
        if text.contains("[program.") {
            // They have keepers of their own.
            let _ = self.run(&["down", "s"]);
        }
        if let Some(mut supervisor) = self.supervisor.take() {
            // Its components end with it.
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
        if std::thread::panicking() {
            for entry in
                std::fs::read_dir(self.place.path().join("scenarios/s/logs")).into_iter().flatten().flatten()
            {
                eprintln!(
                    "{:?}: {}",
                    entry.file_name(),
                    std::fs::read_to_string(entry.path()).unwrap_or_default()
                );
            }
        }
    }
}

/// Numbers that can be guessed by nobody who does not know the seed.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A command's connection to a scenario that runs.
pub(crate) struct View {
    pub(crate) session: Session,
}

impl View {
    pub(crate) fn of(stage: &Stage) -> Self {
        Self { session: Session::connect_to(&stage.place.path().join("scenarios/s/control")).unwrap() }
    }

    /// Opens a report, as soon as it is known.
    pub(crate) fn open(&mut self, name: &str) {
        let start = Instant::now();
        while let Err(error) = self.session.ask("report", name, &[], None) {
            assert!(start.elapsed() < LIMIT, "{name}: {error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Goes over to the newest version of a report: its number, and what it says.
    pub(crate) fn read(&mut self, name: &str) -> (u64, String) {
        let version = self.session.read(name).unwrap();
        let text = version.content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (version.number, text.unwrap_or_default())
    }

    /// Waits until a report is what is wanted.
    pub(crate) fn until(&mut self, name: &str, mut wanted: impl FnMut(u64, &str) -> bool) -> (u64, String) {
        let start = Instant::now();
        loop {
            let (number, text) = self.read(name);
            if wanted(number, &text) {
                return (number, text);
            }
            assert!(start.elapsed() < LIMIT, "{name} is version {number}, {text:?}");
            let rest = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if !self.session.has_signals() {
                let mut fds = [rustix::event::PollFd::new(&self.session, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut fds, Some(&rest)).unwrap();
            }
            while self.session.poll().unwrap().is_some() {}
        }
    }

    /// How a component stands.
    pub(crate) fn component(&mut self, name: &str) -> Value {
        let packet = self.session.ask("status", "-", &[], None).unwrap();
        let content = frost_component::Content::take(packet.body, packet.fd, u64::MAX).unwrap();
        let status: Value = serde_json::from_slice(&content).unwrap();
        let components = status["components"].as_array().unwrap();
        components.iter().find(|component| component["name"] == name).cloned().unwrap_or(Value::Null)
    }
}
