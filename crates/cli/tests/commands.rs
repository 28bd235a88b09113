//! The command as a user and a script meet it: records, messages, exit statuses, streams.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A store of its own, and commands that use it.
struct Frost {
    directory: tempfile::TempDir,
}

impl Frost {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frost"));
        command
            .args(arguments)
            .env("FROST_HOME", self.store())
            .env_remove("SUDO_USER")
            .env_remove("FROST_LOG")
            .env("XDG_CONFIG_HOME", self.directory.path().join("none"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("frost starts")
    }

    /// Runs a command that succeeds and says nothing beside its result.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{arguments:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("results are text")
    }

    /// Runs a command that fails with `status`, and returns what it says.
    #[track_caller]
    fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}\n{stderr}");
        assert!(stderr.starts_with("error: "), "{arguments:?}\n{stderr}");
        // A command line that cannot be parsed is told in the parser's own form.
        if !stderr.contains("try '--help'") {
            for part in ["\n  state: ", "\n  hint:  "] {
                assert!(stderr.contains(part), "{arguments:?} says no{part}\n{stderr}");
            }
        }
        stderr
    }

    /// Freezes a program that sleeps, as `name`.
    fn image(&self, name: &str) {
        let mut sleeper = Sleeper::start();
        self.ok(&["freeze", &sleeper.pid(), "--to", name]);
        assert!(!sleeper.0.wait().expect("our own child").success());
    }
}

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("sleep is everywhere");
        // Until it sleeps it may still be this test's program, or amid its start.
        let comm = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&comm).is_ok_and(|name| name.trim() != "sleep") {
            std::thread::yield_now();
        }
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn records(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .map(|line| {
            assert!(line.starts_with("{\"v\":1,"), "{line}");
            serde_json::from_str(line).expect("a record is JSON")
        })
        .collect()
}

#[test]
fn a_freeze_reports_what_its_contract_names() {
    let frost = Frost::new();
    let mut sleeper = Sleeper::start();
    let record = &records(&frost.ok(&["freeze", &sleeper.pid(), "--to", "nap", "--json"]))[0];
    assert_eq!((&record["name"], &record["version"]), (&"nap".into(), &1.into()));
    for field in ["bytes", "pause_us", "elapsed_us"] {
        assert!(record[field].as_u64().is_some_and(|value| value > 0), "{field}: {record}");
    }
    assert!(!sleeper.0.wait().expect("our own child").success());
}

#[test]
fn a_snapshot_leaves_the_program_running() {
    let frost = Frost::new();
    let mut sleeper = Sleeper::start();
    frost.ok(&["freeze", &sleeper.pid(), "--leave-running"]);
    assert!(sleeper.0.try_wait().expect("our own child").is_none());
    let record = &records(&frost.ok(&["list", "--json"]))[0];
    assert_eq!((&record["name"], &record["state"]), (&"sleep".into(), &"running".into()));
    assert_eq!(record["pid"], sleeper.0.id());
}

#[test]
fn an_image_travels_as_one_stream() {
    let frost = Frost::new();
    frost.image("nap");
    let file = frost.directory.path().join("nap.frost");
    let mut export =
        frost.command(&["export", "nap", "-"]).stdout(Stdio::piped()).spawn().expect("frost starts");
    let mut import = frost.command(&["import", "-", "--to", "copy"]);
    import.stdin(export.stdout.take().expect("it is piped"));
    assert!(import.status().expect("frost starts").success());
    assert!(export.wait().expect("our own child").success());
    assert!(frost.run(&["export", "copy@1", &file.to_string_lossy()]).status.success());
    assert_eq!(fs::metadata(&file).expect("it was exported").permissions().mode() & 0o777, 0o600);
    frost.ok(&["import", &file.to_string_lossy()]);
    let names: Vec<String> = records(&frost.ok(&["list", "--json"]))
        .iter()
        .map(|record| format!("{}@{}", record["name"].as_str().unwrap_or(""), record["version"]))
        .collect();
    assert_eq!(names, ["copy@1", "copy@2", "nap@1"]);
    assert_eq!(frost.ok(&["verify"]), "copy@1: sound\ncopy@2: sound\nnap@1: sound\n");
}

#[test]
fn an_image_is_told_without_being_thawed() {
    let frost = Frost::new();
    frost.image("nap");
    let record = &records(&frost.ok(&["inspect", "nap", "--json"]))[0];
    let process = &record["processes"][0];
    assert_eq!(process["command"], "sleep");
    assert_eq!(process["arguments"], serde_json::json!(["sleep", "1000"]));
    assert_eq!(process["descriptors"][0]["kind"], "device");
    assert!(frost.ok(&["inspect", "nap@1"]).contains("process "));
}

#[test]
fn what_is_no_file_is_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let frost = Frost::new();
    frost.image("nap");
    let path = |name: &str| frost.directory.path().join(name);
    let text = |path: &Path| path.to_str().expect("our own path").to_owned();
    let fifo = path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("coreutils").success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).expect("what was exported")
    });
    assert!(frost.run(&["export", "nap", &text(&fifo)]).status.success());
    let streamed = reader.join().expect("the reader");
    assert!(fs::metadata(&fifo).expect("it is there").file_type().is_fifo());
    // A link stays one; what it leads to is replaced.
    fs::write(path("file"), "before").expect("our own directory");
    std::os::unix::fs::symlink("file", path("link")).expect("our own directory");
    assert!(frost.run(&["export", "nap", &text(&path("link"))]).status.success());
    assert!(fs::symlink_metadata(path("link")).expect("it is there").is_symlink());
    assert_eq!(fs::read(path("file")).expect("it is there"), streamed);
    assert_eq!(fs::read_dir(frost.directory.path()).expect("our own directory").count(), 4);
    // Of a device that takes nothing all is told.
    let said = frost.fails(7, &["export", "nap", "/dev/full"]);
    assert!(said.contains("/dev/full"), "{said}");
    assert!(fs::metadata("/dev/full").expect("it is there").file_type().is_char_device());
    let said = frost.fails(1, &["export", "nap", &text(&path("none/file"))]);
    assert!(said.contains("none/file") && !said.contains("draft"), "{said}");
}

#[test]
fn what_cannot_be_imported_is_told_with_where_to_look() {
    let frost = Frost::new();
    assert!(frost.fails(4, &["import", "-"]).contains("nothing came"));
    assert!(frost.fails(1, &["import", "/"]).contains("`frost export` wrote"));
    assert!(frost.fails(4, &["import", "/proc/self/exe"]).contains("`frost export` wrote"));
    frost.image("nap");
    let file = frost.directory.path().join("file");
    let path = file.to_str().expect("our own path");
    assert!(frost.run(&["export", "nap", path]).status.success());
    let whole = fs::read(&file).expect("it was exported");
    fs::write(&file, &whole[..whole.len() / 2]).expect("our own file");
    assert!(frost.fails(4, &["import", path]).contains("export the image again"));
    frost.fails(2, &["import", path, "--to", "a/b"]);
}

#[test]
fn an_image_that_lost_a_file_is_damaged() {
    for name in ["pack", "manifest"] {
        let frost = Frost::new();
        frost.image("nap");
        let file = frost.store().join("images/nap/1").join(name);
        fs::remove_file(&file).expect("it was there");
        for arguments in [&["thaw", "nap"][..], &["thaw", "nap@1", "--plan"], &["export", "nap", "-"]] {
            if name == "manifest" || !arguments.contains(&"--plan") {
                assert!(frost.fails(4, arguments).contains("is missing"));
            }
        }
        let output = frost.run(&["verify", "nap"]);
        assert_eq!(output.status.code(), Some(4));
        frost.ok(&["rm", "nap"]);
    }
}

#[test]
fn versions_are_removed_one_by_one_and_names_whole() {
    let frost = Frost::new();
    frost.image("nap");
    frost.image("nap");
    frost.ok(&["rm", "nap@1"]);
    assert_eq!(records(&frost.ok(&["list", "--json"])).len(), 1);
    frost.fails(6, &["rm", "nap@1"]);
    frost.ok(&["rm", "nap"]);
    assert!(frost.fails(6, &["inspect", "nap"]).contains("there is no image nap"));
    assert!(frost.ok(&["gc"]).contains("freed"));
}

#[test]
fn what_is_missing_or_odd_is_told_with_its_status() {
    let frost = Frost::new();
    frost.fails(6, &["freeze", "2147483647"]);
    frost.fails(6, &["freeze", "99999999999999999999"]);
    frost.fails(6, &["freeze", "nobody"]);
    frost.fails(6, &["check", "2147483647"]);
    frost.fails(6, &["import", "/nonexistent/file"]);
    frost.fails(2, &["freeze", "a/b"]);
    frost.fails(2, &["inspect", "a/b"]);
    frost.fails(2, &["inspect", "nap@x"]);
    frost.fails(2, &["freeze"]);
    frost.fails(2, &["nonsense"]);
    let sleeper = Sleeper::start();
    for name in ["", ".hidden", "-x", "12", "a b", "a@1", &"long".repeat(20)] {
        frost.fails(2, &["freeze", &sleeper.pid(), &format!("--to={name}")]);
    }
}

#[test]
fn the_command_and_its_ancestors_are_not_frozen() {
    let frost = Frost::new();
    let message = frost.fails(2, &["freeze", &std::process::id().to_string()]);
    assert!(message.contains("ancestor"), "{message}");
    for part in ["  cause: ", "  state: nothing was touched", "  hint:  "] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_changed_image_is_told_from_a_short_one() {
    let frost = Frost::new();
    frost.image("nap");
    let pack = frost.store().join("images/nap/1/pack");
    let sound = fs::read(&pack).expect("there is a pack");
    let mut changed = sound.clone();
    changed[4096] ^= 1;
    fs::write(&pack, &changed).expect("our own file");
    assert!(frost.fails(4, &["verify", "nap"]).contains("cannot be thawed"));
    fs::write(&pack, &sound[..4096]).expect("our own file");
    let output = frost.run(&["verify", "nap"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains("cut short"));
    fs::write(&pack, &sound).expect("our own file");
    frost.ok(&["verify", "nap"]);
}

#[test]
fn a_store_that_others_can_write_is_refused() {
    let frost = Frost::new();
    frost.ok(&["gc"]);
    assert_eq!(fs::metadata(frost.store()).expect("it was made").permissions().mode() & 0o777, 0o700);
    fs::set_permissions(frost.store(), fs::Permissions::from_mode(0o777)).expect("our own directory");
    assert!(frost.fails(5, &["list"]).contains("others may write"));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let frost = Frost::new();
    frost.image("nap");
    for arguments in [&["list"][..], &["inspect", "nap", "--json"], &["export", "nap"], &["check"], &["help"]]
    {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = frost.command(arguments).stdout(writer).output().expect("frost starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn results_and_all_else_go_their_own_ways() {
    let frost = Frost::new();
    frost.image("nap");
    let output = frost.run(&["list", "--timings"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.starts_with("IMAGE") && stderr.contains("store.list"));
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'));
    let output = frost.ok(&["list", "--json", "--timings"]);
    assert!(records(&output)[1]["timings"].is_array());
}

#[test]
fn every_feature_of_the_machine_is_told() {
    let frost = Frost::new();
    let output = frost.run(&["check", "--json"]);
    let features = records(&String::from_utf8_lossy(&output.stdout));
    assert!(features.len() > 15);
    let missing = features.iter().any(|feature| feature["status"] == "missing");
    assert_eq!(output.status.code(), Some(if missing { 5 } else { 0 }));
    assert!(!Path::new(&frost.store()).exists(), "looking makes no store");
}

/// Waits until `condition` holds.
#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "it takes too long");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Freezes a shell that ends with status 7 when it is told to end.
fn trapping(frost: &Frost) {
    let script = "trap 'exit 7' TERM; : > \"$0\"; while :; do sleep 0.01; done";
    let ready = frost.directory.path().join("ready");
    let mut shell = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(&ready)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh is everywhere");
    until(|| ready.exists());
    frost.ok(&["freeze", &shell.id().to_string(), "--to", "shell"]);
    let _ = shell.wait();
}

/// Whether somebody who may not thaw here at all runs this; then there is nothing to test.
fn cannot_thaw(frost: &Frost) -> bool {
    let missing = frost.run(&["check"]).status.code() == Some(5);
    if missing {
        println!("skipped: this machine lacks something that a thaw needs");
    }
    missing
}

#[test]
fn attached_the_status_is_the_program_s_own() {
    let frost = Frost::new();
    if cannot_thaw(&frost) {
        return;
    }
    trapping(&frost);
    let mut thaw = frost.command(&["thaw", "shell", "--attach"]).spawn().expect("frost starts");
    let running = || records(&frost.ok(&["list", "--json"]))[0]["state"] == "running";
    // It passes signals on from the moment that it takes them from a queue, for which it blocks them.
    let status = format!("/proc/{}/status", thaw.id());
    let passes_on = || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let blocked = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let blocked = u64::from_str_radix(blocked.unwrap_or("0").trim(), 16).unwrap_or(0);
        running() && blocked >> (15 - 1) & 1 == 1
    };
    until(|| passes_on() || thaw.try_wait().expect("our own child").is_some());
    let terminate = Command::new("kill").args(["-TERM", &thaw.id().to_string()]).status();
    assert!(terminate.expect("kill is everywhere").success());
    assert_eq!(thaw.wait().expect("our own child").code(), Some(7));
    assert!(!running());
    frost.fails(125, &["thaw", "nobody", "--attach"]);
}

#[test]
fn what_runs_is_not_thawed_again_but_a_copy_is() {
    let frost = Frost::new();
    if cannot_thaw(&frost) {
        return;
    }
    trapping(&frost);
    let thawed = |arguments: &[&str]| {
        let output = frost.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        records(&String::from_utf8_lossy(&output.stdout))[0].clone()
    };
    let plan = thawed(&["thaw", "shell", "--plan", "--json"]);
    assert_eq!(plan["obstacles"], serde_json::json!([]));
    let first = thawed(&["thaw", "shell", "--json"]);
    for field in ["name", "version", "pid", "inner_pid", "processes", "threads", "elapsed_us"] {
        assert!(!first[field].is_null(), "{field}: {first}");
    }
    assert!(frost.fails(1, &["thaw", "shell"]).contains("--clone"));
    let copy = thawed(&["thaw", "shell", "--clone", "--json"]);
    assert_eq!(copy["inner_pid"], first["inner_pid"]);
    assert_ne!(copy["pid"], first["pid"]);
    // By its name, the running one is frozen again.
    frost.ok(&["freeze", "shell"]);
    assert_eq!(records(&frost.ok(&["list", "--json"])).len(), 2);
    let kill = Command::new("kill").args(["-KILL", &copy["pid"].to_string()]).status();
    assert!(kill.expect("kill is everywhere").success());
}

#[test]
fn a_configuration_is_obeyed_and_a_wrong_one_refused_at_its_place() {
    let frost = Frost::new();
    let directory = frost.directory.path().join("config/frost");
    fs::create_dir_all(&directory).expect("our own directory");
    let run = |text: &str, arguments: &[&str]| {
        fs::write(directory.join("config.toml"), text).expect("our own directory");
        let mut command = frost.command(arguments);
        command.env("XDG_CONFIG_HOME", frost.directory.path().join("config")).env_remove("FROST_HOME");
        let output = command.output().expect("frost starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let elsewhere = frost.directory.path().join("elsewhere");
    let (status, told) = run(&format!("store = {elsewhere:?}\n"), &["list"]);
    assert!(status == Some(0) && told.contains(&format!("no images in {}", elsewhere.display())), "{told}");
    let (status, told) = run("color = \"always\"", &["inspect", "none"]);
    assert!(status == Some(6) && told.starts_with("\u{1b}["), "{told}");
    for (text, place, hint) in [
        (
            "log = \"info\"\nstoer = \"/x\"",
            "line 2, column 1: there is no setting stoer",
            "did you mean store?",
        ),
        ("color = \"blue\"", "line 1, column 9: there is no value blue", "auto, always, never"),
        ("store =", "line 1", "key = "),
    ] {
        let (status, told) = run(text, &["list"]);
        assert!(status == Some(2) && told.contains(place) && told.contains(hint), "{text}: {told}");
        assert!(told.contains("state:"), "{told}");
    }
    // Whoever takes the status for the program's is not misled.
    let (status, told) = run("color = 1", &["thaw", "none", "--attach"]);
    assert_eq!(status, Some(125), "{told}");
}

#[test]
fn what_is_done_is_told_if_asked_for_also_by_the_guardian() {
    let frost = Frost::new();
    let told = |level: Option<&str>, arguments: &[&str]| {
        let mut sleeper = Sleeper::start();
        let mut command = frost.command(&["freeze", &sleeper.pid()]);
        level.map(|level| command.env("FROST_LOG", level));
        let output = command.args(arguments).output().expect("frost starts");
        assert!(output.status.success(), "{output:?}");
        assert!(!sleeper.0.wait().expect("our own child").success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(told(None, &[]), "");
    assert_eq!(told(Some("warn"), &[]), "");
    for (level, arguments) in [(Some("info"), &[][..]), (None, &["-v"])] {
        let text = told(level, arguments);
        assert!(text.contains("is complete and synced") && !text.contains("step:"), "{text}");
    }
    let text = told(Some("off"), &["-vv"]);
    assert!(text.contains("step: freeze.stop us="), "{text}");
    let output = frost.command(&["list"]).env("FROST_LOG", "loud").output().expect("frost starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn progress_is_told_on_a_terminal_only_and_taken_away() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: script (util-linux) is not installed");
        return;
    }
    let frost = Frost::new();
    // Some frames of what cannot be compressed, so that the stream is as long as they are.
    let mut program = Command::new("python3")
        .args(["-c", "import os; m = os.urandom(8 << 20); print(len(m), flush=True); input()"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Sleeper)
        .expect("python3 starts");
    let mut first = [0; 1];
    let mut out = program.0.stdout.take().expect("a pipe");
    std::io::Read::read_exact(&mut out, &mut first).expect("it says how much it has");
    frost.ok(&["freeze", &program.pid(), "--to", "noise"]);
    program.0.wait().expect("our own child");
    let stream = frost.run(&["export", "noise"]).stdout;
    assert!(stream.len() > 8 << 20);

    // Half of it, a second of nothing, which is more than the delay, and the rest: from a pipe, on a terminal or not.
    let file = frost.directory.path().join("stream");
    fs::write(&file, &stream).expect("our own directory");
    let half = stream.len() / 2;
    let binary = env!("CARGO_BIN_EXE_frost");
    let line = format!(
        "(head -c {half} {file}; sleep 1; tail -c +{rest} {file}) | {binary} import - --to NAME",
        file = file.display(),
        rest = half + 1
    );
    let run = |command: &mut Command| {
        command.env("FROST_HOME", frost.store()).env("TERM", "xterm").stdin(Stdio::null());
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let on_terminal = run(Command::new("script").args(["-qec", &line.replace("NAME", "on"), "/dev/null"]));
    assert!(
        on_terminal.contains("\rimporting: ") && on_terminal.contains(" left\u{1b}[K"),
        "{on_terminal:?}"
    );
    let (_, end) = on_terminal.rsplit_once("\r\u{1b}[K").expect("the line is taken away");
    assert!(end.starts_with("on@1: "), "{on_terminal:?}");
    let off_terminal = run(Command::new("sh").args(["-c", &line.replace("NAME", "off")]));
    assert!(off_terminal.starts_with("off@1: ") && !off_terminal.contains('\r'), "{off_terminal:?}");
}

#[test]
fn a_relative_home_makes_no_store() {
    let frost = Frost::new();
    let directory = frost.directory.path();
    let run = |home: &str, data: &str| {
        let mut command = frost.command(&["list"]);
        command.current_dir(directory).env_remove("FROST_HOME").env("HOME", home).env("XDG_DATA_HOME", data);
        let output = command.output().expect("frost starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for data in ["", "data"] {
        let (status, said) = run("home", data);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("HOME is \"home\", a relative path") && said.contains("--store"), "{said}");
    }
    let absolute = directory.join("ann");
    let (status, said) = run(absolute.to_str().expect("a temporary directory has a name"), "data");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("XDG_DATA_HOME is \"data\", a relative path"), "{said}");
    let made: Vec<_> =
        fs::read_dir(directory).expect("our own").flatten().map(|entry| entry.path()).collect();
    assert_eq!(made, [absolute]);
}

#[test]
fn a_name_that_there_is_not_is_no_empty_list() {
    let frost = Frost::new();
    let said = frost.fails(6, &["list", "web"]);
    assert!(said.contains("there is no image web"), "{said}");
    let said = frost.fails(6, &["check", "web"]);
    assert!(said.starts_with("error: cannot check web"), "{said}");
    let said = frost.fails(6, &["ps", "web"]);
    assert!(said.starts_with("error: cannot list web"), "{said}");
}

#[test]
fn who_asks_for_a_copy_is_told_of_copies() {
    let frost = Frost::new();
    for target in ["nosuch", "999999999"] {
        let told = frost.fails(6, &["fork", target]);
        assert!(told.starts_with("error: cannot fork ") && told.contains(target), "{told}");
    }
    let own = std::process::id().to_string();
    let told = frost.run(&["fork", &own]);
    let told = String::from_utf8_lossy(&told.stderr);
    assert!(told.starts_with("error: cannot fork "), "{told}");
}

#[test]
fn options_that_mean_nothing_for_a_scenario_are_refused() {
    let frost = Frost::new();
    let place = frost.store().join("scenarios/desk");
    fs::create_dir_all(&place).expect("a directory of our own");
    fs::set_permissions(frost.store(), fs::Permissions::from_mode(0o700)).expect("our own directory");
    for name in ["image", "control"] {
        fs::write(place.join(name), "").expect("a directory of our own");
    }
    for option in ["--plan", "--clone", "--route=/dev/null"] {
        let said = frost.fails(2, &["thaw", "desk", option]);
        assert!(said.contains("it is a scenario") && said.contains("nothing was touched"), "{said}");
    }
    for option in ["--leave-running", "--precopy", "--files", "--full", "--cold", "--force", "--to=other"] {
        let said = frost.fails(2, &["freeze", "desk", option]);
        assert!(said.contains("it is a scenario") && said.contains("leave --"), "{said}");
    }
}

#[test]
fn a_program_and_a_scenario_have_not_the_same_name() {
    let frost = Frost::new();
    fs::create_dir_all(frost.store().join("scenarios/weather")).expect("our own directory");
    fs::set_permissions(frost.store(), fs::Permissions::from_mode(0o700)).expect("our own directory");
    let mut sleeper = Sleeper::start();
    let told = frost.fails(1, &["freeze", &sleeper.pid(), "--to", "weather"]);
    assert!(told.contains("scenario named weather") && told.contains("--to"), "{told}");
    assert!(sleeper.0.try_wait().expect("our own child").is_none());
    frost.image("calm");
    let stream = frost.directory.path().join("stream");
    assert!(frost.run(&["export", "calm", stream.to_str().expect("it is text")]).status.success());
    frost.fails(1, &["import", stream.to_str().expect("it is text"), "--to", "weather"]);
    let told = frost.fails(125, &["run", "--name", "weather", "--", "true"]);
    assert!(told.contains("nothing was started"), "{told}");
}

/// Starts what has the number `pid` in a pid namespace of its own; `None` where that is not allowed.
fn twin(pid: &str) -> Option<Sleeper> {
    let script =
        "echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid || exit; sleep 1000 & test $! = $1 && echo && wait";
    let mut unshare = Command::new("unshare");
    unshare
        .args("--user --map-root-user --pid --fork --kill-child sh -c".split(' '))
        .args([script, "sh", pid]);
    let mut child = unshare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let said = child.stdout.as_mut().and_then(|stdout| stdout.read(&mut [0]).ok());
    let twin = Sleeper(child);
    (said == Some(1)).then_some(twin)
}

#[test]
fn a_number_of_another_pid_namespace_is_nobodys_here() {
    let frost = Frost::new();
    frost.image("away");
    let mut stranger = Sleeper::start();
    let Some(_twin) = twin(&stranger.pid()) else {
        println!("skipped: no pid namespace with a number of our choice is to be had");
        return;
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("there is a /proc");
    let mark = format!("running {} 1 1 {boot}", stranger.pid());
    fs::write(frost.store().join("images/away/1/state"), mark).expect("our own directory");
    for command in ["freeze", "check"] {
        let told = frost.fails(5, &[command, "away"]);
        assert!(told.contains("another pid namespace") && told.contains("nothing was touched"), "{told}");
    }
    assert!(stranger.0.try_wait().expect("our own child").is_none());
    assert!(frost.ok(&["list", "away"]).lines().count() == 2, "it was not frozen in its stead");
}
