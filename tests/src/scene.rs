//! One test's directory, store and user, and the commands run there.

use crate::processes::{self, Started};
use crate::{LIMIT, until};
use rustix::fs::{Gid, Uid};
use serde_json::Value;
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// As whom a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// As whoever runs the tests.
    Myself,
    /// As an ordinary user; when root runs the tests, a number that no account has.
    Ordinary,
}

/// The ordinary user that root's tests become: no account, so that nothing need be added to the machine.
const ORDINARY: u32 = 64_217;

/// What a program's standard input, output and error are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// `/dev/null`, and files in its directory.
    Files,
    /// `/dev/null`, all three.
    Null,
    /// Pipes to the test for input and output, `/dev/null` for errors.
    Pipes,
}

/// A place for one test. What runs there is killed when it is dropped.
#[derive(Debug)]
pub struct Scene {
    directory: TempDir,
    who: Who,
    commands: AtomicU32,
    /// Held by a scene with objects of System V.
    alone: OnceCell<MutexGuard<'static, ()>>,
}

/// One scene at a time has objects of System V. All tests share one namespace of them, where nothing but the numbers of
/// processes tells whose one is: what a child has made that has ended is that of whoever gets its number, and thaws give
/// many numbers away once more.
static OBJECTS: Mutex<()> = Mutex::new(());

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The command line, for messages.
    pub command: String,
}

impl Outcome {
    /// Returns the last record that it printed.
    ///
    /// # Panics
    /// If it printed none, or one without a version.
    pub fn record(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_else(|| panic!("no record was printed\n{self}"));
        let record: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{line}: {why}\n{self}"));
        assert!(line.starts_with("{\"v\":1,"), "a record begins with its version: {line}");
        record
    }

    /// Returns a number of its record.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn number(&self, field: &str) -> i64 {
        self.record()[field].as_i64().unwrap_or_else(|| panic!("no number {field} in the record\n{self}"))
    }

    /// Expects success.
    ///
    /// # Panics
    /// If it failed.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{self}");
        self
    }

    /// Expects a failure with this exit status, told in the form that all messages have: what failed, why, how
    /// things stand, what to do.
    ///
    /// # Panics
    /// If it succeeded, had another status, panicked, or told less.
    #[track_caller]
    pub fn refused(self, status: i32, about: &str) -> Self {
        assert_eq!(self.status, Some(status), "{self}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert!(lines.iter().any(|line| line.starts_with("error: ")), "no line says what failed\n{self}");
        // A wrong command line is told by its parser, in its own form.
        if !self.stderr.contains("try '--help'") {
            for part in ["cause:", "state:", "hint:"] {
                assert!(
                    lines.iter().any(|line| line.trim_start().starts_with(part)),
                    "no line says {part}\n{self}"
                );
            }
        }
        assert!(!self.stderr.contains("panicked"), "{self}");
        assert!(self.stderr.contains(about), "the message does not speak of {about:?}\n{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nstatus {:?}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }
}

/// Returns whether root runs the tests.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Tells that something is not tested here, and why.
pub fn skip(reason: &str) {
    // Past the test runner's capture, so that a skipped test does not read as a passed one.
    let _written = std::io::stdout().write_all(format!("skipped: {reason}\n").as_bytes());
}

/// Returns the path of the `frost` command, built if it is not: that of `FROST_BIN`, or the workspace's.
///
/// # Panics
/// If it cannot be built.
pub fn frost_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("FROST_BIN") {
            return path.into();
        }
        let mut command = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        command.args(["build", "--quiet", "--package", "frost", "--bin", "frost", "--message-format=json"]);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let built = crate::processes::try_output_of(command.stderr(std::process::Stdio::inherit()));
        let (_, text) = built.expect("cargo can be run");
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut paths = records.filter_map(|record| record["executable"].as_str().map(PathBuf::from));
        let path = paths.next_back();
        path.unwrap_or_else(|| panic!("the frost command does not build"))
    })
}

impl Scene {
    /// Waits until no other scene has objects of System V.
    pub fn with_objects(&self) {
        self.alone.get_or_init(|| OBJECTS.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes a scene, or tells why there can be none for that user here.
    ///
    /// # Panics
    /// If the directory cannot be made.
    pub fn new(who: Who) -> Option<Self> {
        // First of all: once the reaper runs, it would take the end of the build from whoever waits for it.
        let frost = frost_binary();
        let who = match (who, is_root()) {
            (Who::Ordinary, false) => {
                skip("the tests already run as an ordinary user; root's part is not tested");
                return None;
            }
            (who, _) => who,
        };
        if who == Who::Ordinary && !can_unshare() {
            skip("user namespaces are not allowed here: an ordinary user cannot thaw");
            return None;
        }
        let directory =
            tempfile::Builder::new().prefix("frost-test-").tempdir().expect("a temporary directory");
        let scene = Self { directory, who, commands: AtomicU32::new(0), alone: OnceCell::new() };
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own directory")
        };
        mode(scene.directory.path(), 0o755);
        for (name, bits) in [("bin", 0o755), ("stage", 0o755), ("home", 0o700), ("logs", 0o755)] {
            let path = scene.path(name);
            fs::create_dir(&path).expect("our own directory");
            mode(&path, bits);
            scene.give(&path);
        }
        scene.install(frost);
        Some(scene)
    }

    /// Makes one in which `frost run` works; else tells that it does not.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn with_namespaces(who: Who) -> Option<Self> {
        Self::new(who).filter(Self::has_namespaces)
    }

    /// Returns whether its user may make namespaces; tells if not.
    pub fn has_namespaces(&self) -> bool {
        let outcome = self.frost(&["run", "--", "true"]);
        let has = outcome.status != Some(125) || !outcome.stderr.contains("namespaces");
        if !has {
            skip("namespaces are not allowed here");
        }
        has
    }

    /// Copies a program to where the scene's user can run it.
    fn install(&self, program: &Path) -> PathBuf {
        let place = self.path("bin").join(program.file_name().expect("a program has a name"));
        if !place.exists() && fs::hard_link(program, &place).is_err() {
            fs::copy(program, &place).expect("our own directory");
        }
        place
    }

    /// Gives a file to the scene's user.
    ///
    /// # Panics
    /// If that is not allowed.
    pub fn give(&self, path: &Path) {
        if self.who == Who::Ordinary {
            let (uid, gid) = (Uid::from_raw(ORDINARY), Gid::from_raw(ORDINARY));
            rustix::fs::chown(path, Some(uid), Some(gid)).expect("root may give files away");
        }
    }

    /// Returns a path in the scene's directory: `stage` is the program's, `home` is the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns a path in the program's directory.
    pub fn stage(&self, name: &str) -> PathBuf {
        self.path("stage").join(name)
    }

    /// Returns as whom the scene plays.
    pub fn who(&self) -> Who {
        self.who
    }

    /// Builds a command that runs as the scene's user, in its directory, with its store.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.who {
            Who::Myself => Command::new(program),
            Who::Ordinary => {
                let mut command = Command::new("setpriv");
                let id = ORDINARY.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
                command
            }
        };
        let keep: Vec<_> =
            std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "FROST_FAIL_AT").collect();
        command.env_clear().envs(keep);
        command.env("FROST_HOME", self.path("home")).env("HOME", self.path("stage"));
        command.current_dir(self.path("stage"));
        command
    }

    /// Builds a `frost` command.
    pub fn frost_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.path("bin").join("frost"));
        command.args(arguments);
        command
    }

    /// Runs `frost`.
    pub fn frost(&self, arguments: &[&str]) -> Outcome {
        self.run(&mut self.frost_command(arguments), LIMIT)
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Outcome {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        // Files, since a process left behind would hold a pipe open, and we would wait for it.
        let (out, err) = (
            self.path("logs").join(format!("{number}.out")),
            self.path("logs").join(format!("{number}.err")),
        );
        command.stdin(std::process::Stdio::null());
        command.stdout(File::create(&out).expect("our own directory"));
        command.stderr(File::create(&err).expect("our own directory"));
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let text = format!("{} {}", command.get_program().to_string_lossy(), words.join(" "));
        let status = Started::spawn(command).wait(&text, limit);
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        Outcome { status: status.code(), stdout: read(&out), stderr: read(&err), command: text }
    }

    /// Starts a program in its own session, in the scene's stage.
    pub fn start(&self, command: &mut Command, stdio: Stdio) -> Started {
        command.stdin(std::process::Stdio::null());
        match stdio {
            Stdio::Pipes => {
                command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
                command.stderr(std::process::Stdio::null());
            }
            Stdio::Null => {
                command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            }
            Stdio::Files => {
                for (name, is_error) in [("out", false), ("err", true)] {
                    let path = self.stage(name);
                    let file =
                        File::options().append(true).create(true).open(&path).expect("our own directory");
                    self.give(&path);
                    if is_error {
                        command.stderr(file)
                    } else {
                        command.stdout(file)
                    };
                }
            }
        }
        Started::spawn(command)
    }

    /// Returns every living process of this scene.
    pub fn processes(&self) -> Vec<i32> {
        processes::belonging_to(self.directory.path())
    }

    /// Polls until `condition` holds.
    ///
    /// # Panics
    /// After [`LIMIT`], with what was waited for, and how all that runs and lies about here stands.
    #[track_caller]
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !condition() {
            if start.elapsed() > LIMIT {
                let told: Vec<String> = self.processes().into_iter().map(describe).collect();
                let names = |directory: &str| -> Vec<String> {
                    let entries = fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
                    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
                };
                panic!(
                    "waited {LIMIT:?} until {what}; here are {told:#?}, in the stage {:?}, among the drafts {:?}",
                    names("stage"),
                    names("home/drafts"),
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Expects that nothing of the scene runs any more, soon.
    ///
    /// # Panics
    /// If something stays.
    #[track_caller]
    pub fn is_empty_soon(&self) {
        let start = std::time::Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            if start.elapsed() > Duration::from_secs(20) {
                let told: Vec<String> = left.iter().map(|pid| describe(*pid)).collect();
                panic!("processes were left behind: {told:#?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a file of the program's directory exists, and reads it.
    pub fn await_file(&self, name: &str) -> String {
        until(&format!("{name} is written"), || self.stage(name).exists());
        fs::read_to_string(self.stage(name)).unwrap_or_default()
    }
}

fn describe(pid: i32) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (status, wchan) = (read("status"), read("wchan"));
    let field =
        |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or("").replace('\t', " ");
    let line = read("cmdline").replace('\0', " ");
    let fields = ["State:", "PPid:", "TracerPid:", "SigPnd:", "ShdPnd:"].map(field);
    format!("{pid} {line:?} {} in {wchan}", fields.join(" "))
}

fn can_unshare() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let id = ORDINARY.to_string();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "unshare",
            "--user",
            "--pid",
            "--fork",
            "true",
        ]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        Started::spawn(&mut command).wait("unshare", LIMIT).success()
    })
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A process that is killed may have just started another one.
        for _ in 0..200 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            left.into_iter().for_each(processes::kill);
            std::thread::sleep(Duration::from_millis(2));
        }
        if std::thread::panicking() {
            let err = fs::read_to_string(self.stage("err")).unwrap_or_default();
            eprintln!("what the program said:\n{err}");
            if std::env::var_os("FROST_KEEP_SCENES").is_some() {
                self.directory.disable_cleanup(true);
                eprintln!("the scene is kept in {}", self.directory.path().display());
            }
        }
    }
}
