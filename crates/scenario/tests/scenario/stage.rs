//! A scenario on its stage, and what tests ask of it.

use frost_component::Session;
use serde_json::Value;
use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Beyond this a wait is a hang.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// A scenario in a directory of its own, ended with the test.
pub(crate) struct Stage {
    pub(crate) place: tempfile::TempDir,
    pub(crate) supervisor: Option<Child>,
    who: Who,
    /// Where the programs are that it runs.
    bin: PathBuf,
    relay: PathBuf,
    /// Groups that it is in: those which its user was given.
    pub(crate) entrances: Vec<PathBuf>,
}

/// As whom a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// As whoever runs the tests.
    Myself,
    /// As an ordinary user, whom root becomes for it.
    Ordinary,
}

/// No account has this number, so nothing need be added to the machine.
pub(crate) const ORDINARY: u32 = 64_217;

thread_local! {
    static WHO: Cell<Who> = const { Cell::new(Who::Myself) };
}

/// Runs a test whose stages are of that user.
pub(crate) fn run_as(who: Who, test: fn()) {
    if who == Who::Ordinary {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: whoever runs the tests is an ordinary user already");
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "true"]).uid(ORDINARY).gid(ORDINARY);
        if !unshare.output().is_ok_and(|output| output.status.success()) {
            return println!("skipped: an ordinary user may make no user namespaces here");
        }
    }
    WHO.set(who);
    test();
}

/// Makes tests of functions: each as whoever runs the tests, as a rule root, and as an ordinary user.
macro_rules! as_each_user {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn as_myself() {
                crate::stage::run_as(crate::stage::Who::Myself, super::$name);
            }

            #[test]
            fn as_an_ordinary_user() {
                crate::stage::run_as(crate::stage::Who::Ordinary, super::$name);
            }
        }
    )*};
}
pub(crate) use as_each_user;

/// A component that reads and reports by files, and one document.
pub(crate) const SHOUT: &str = r#"
[component.shell]
binary = "/bin/sh"
arguments = ["-c", '''
while read -r _ <&3; do
    tr a-z A-Z <"$FROST_ROM/text" >"$FROST_REPORT/.new" && mv "$FROST_REPORT/.new" "$FROST_REPORT/loud"
done 3<"$FROST_CHANGED"
''']
files = true
[document.text]
content = "hello"
[[route]]
match = { component = "shell", rom = "text" }
from = "document/text"
"#;

/// Puts a program where somebody else can run it.
fn give(program: &Path, place: &Path) {
    if std::fs::hard_link(program, place).is_err() {
        // By a process of its own: what another test forks meanwhile would hold a file of ours open for writing, and a
        // program is not executed then (ETXTBSY).
        assert!(Command::new("cp").arg(program).arg(place).status().unwrap().success());
    }
}

/// Where the programs lie that were built with this test.
pub(crate) fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_frost-scenario")).parent().unwrap()
}

impl Stage {
    pub(crate) fn new(text: &str) -> Self {
        let place = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
        // The scenario's file lies in the store, beside what a store has; a directory of other things would not become one.
        let images = place.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let (who, mut bin, mut relay) =
            (WHO.get(), built().to_owned(), built().join("examples").join("relay"));
        if who == Who::Ordinary {
            // What was built may lie where nobody else may look.
            bin = place.path().join("bin");
            std::fs::create_dir(&bin).unwrap();
            for (from, name) in [(built().join("frost-scenario"), "frost-scenario"), (relay, "relay")] {
                give(&from, &bin.join(name));
            }
            relay = bin.join("relay");
            for place in [place.path(), &images] {
                std::os::unix::fs::chown(place, Some(ORDINARY), Some(ORDINARY)).unwrap();
            }
        }
        let stage = Self { place, supervisor: None, who, bin, relay, entrances: Vec::new() };
        stage.write(text);
        stage
    }

    /// Puts `frost` beside the other programs; returns whether it is built.
    pub(crate) fn bring_frost(&self) -> bool {
        let frost = built().join("frost");
        if !frost.exists() {
            println!("skipped: {} is not built", frost.display());
            return false;
        }
        if self.who == Who::Ordinary {
            give(&frost, &self.bin.join("frost"));
        }
        true
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
        let text = text.replace("RELAY", &format!("binary = \"{}\"", self.relay.display()));
        let draft = self.place.path().join("s.toml~");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.place.path().join("s.toml")).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.program("frost-scenario", arguments)
    }

    /// A program of ours, as the stage's user.
    pub(crate) fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(name));
        if !self.entrances.is_empty() {
            let enter = self.entrances.iter().map(|entrance| format!("echo $$ >{} && ", entrance.display()));
            command = Command::new("/bin/sh");
            command.arg("-c").arg(enter.collect::<String>() + "exec \"$0\" \"$@\"").arg(self.bin.join(name));
        }
        command.args(arguments).current_dir(self.place.path()).env("FROST_HOME", self.place.path());
        // Nobody's settings.
        command.env("HOME", self.place.path()).env_remove("XDG_CONFIG_HOME").env_remove("FROST_LOG");
        if self.who == Who::Ordinary {
            // Its groups go with that, since root has called it.
            command.uid(ORDINARY).gid(ORDINARY);
        }
        command
    }

    /// A script in the stage's directory, as its user.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg(script).current_dir(self.place.path()).env("FROST_HOME", self.place.path());
        command.env("HOME", self.place.path()).env_remove("XDG_CONFIG_HOME").env_remove("FROST_LOG");
        if self.who == Who::Ordinary {
            command.uid(ORDINARY).gid(ORDINARY);
        }
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
        let far = self.place.path().join("far");
        if far.exists() {
            let _ = self.command(&["down", "s"]).env("FROST_HOME", far).output();
        }
        // The keeper of a program that is frozen stays until its image is removed.
        for home in [self.place.path().to_owned(), self.place.path().join("far")] {
            if !home.join("instances").exists() {
                continue;
            }
            let frost =
                |arguments: &[&str]| self.program("frost", arguments).env("FROST_HOME", &home).output();
            let told = frost(&["--json", "ps"]).map(|output| output.stdout).unwrap_or_default();
            for line in String::from_utf8_lossy(&told).lines() {
                let record: Value = serde_json::from_str(line).unwrap_or_default();
                if let Some(name) = record["name"].as_str() {
                    let _ = frost(&["rm", name]);
                }
            }
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
