//! Programs at terminals: those that bring their own, frozen with what runs in them, and one that comes back to the
//! terminal of the thawing command.
#![forbid(unsafe_code)]

use frost_tests::journey::Traveller;
use frost_tests::program::{has, place};
use frost_tests::{LIMIT, Scene, Started, Stdio, Who, is_root, programs, skip, until};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Returns whether all programs are there; tells if one is not.
fn have(programs: &[&str]) -> bool {
    programs.iter().all(|program| has(program))
}

fn at_terminal(command: &mut Command) -> &mut Command {
    command.env("TERM", "xterm").env("LC_ALL", "C.UTF-8")
}

/// A tmux server of the scene.
struct Tmux<'a> {
    scene: &'a Scene,
    pid: i32,
}

impl<'a> Tmux<'a> {
    fn command(scene: &Scene, words: &[&str]) -> String {
        let mut command = scene.command("tmux");
        command.args(["-f", "/dev/null", "-S", "tmux"]).args(words);
        scene.run(at_terminal(&mut command), LIMIT).ok().stdout
    }

    /// Starts a server with one pane for each program.
    fn start(scene: &'a Scene, programs: &[&str]) -> Self {
        let (first, rest) = programs.split_first().expect("a program");
        let pane = |words: &[&str]| Self::command(scene, words);
        pane(&["new-session", "-d", "-s", "s", "-x", "80", "-y", "24", "-n", "0", first]);
        for (index, program) in rest.iter().enumerate() {
            pane(&["new-window", "-d", "-t", &format!("s:{}", index + 1), program]);
        }
        let pid = pane(&["display-message", "-p", "#{pid}"]).trim().parse().expect("a number");
        Self { scene, pid }
    }

    fn keys(&self, pane: usize, keys: &[&str]) {
        let target = format!("s:{pane}");
        Self::command(self.scene, &[&["send-keys", "-t", &target], keys].concat());
    }

    fn screen(&self, pane: usize) -> String {
        Self::command(self.scene, &["capture-pane", "-p", "-t", &format!("s:{pane}")])
    }

    /// Waits until a screen shows something.
    fn shows(&self, pane: usize, text: &str) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen(pane);
            if screen.contains(text) {
                return screen;
            }
            assert!(start.elapsed() < LIMIT, "pane {pane} never shows {text:?}:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn terminals(&self) -> String {
        Self::command(self.scene, &["list-panes", "-a", "-F", "#{pane_tty} #{pane_pid}"])
    }
}

/// vim amid a change, less, a shell with a stopped job and one in the background, python, and a dialogue.
fn tmux(who: Who, more: &[&str]) {
    if !have(&["tmux", "vim", "less", "bash", "python3", "whiptail"]) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let text: String = (1..=40).map(|n| format!("line {n} of the file\n")).collect();
    place(&scene, "text", &text);
    let tmux = Tmux::start(
        &scene,
        &[
            "vim -u NONE -N -n text",
            "less text",
            "PS1='> ' bash --norc --noprofile",
            "python3 -q",
            "whiptail --inputbox name 10 40",
        ],
    );
    tmux.shows(0, "line 1 of");
    tmux.keys(0, &["5dd", "G", "onew words"]);
    tmux.shows(0, "new words");
    tmux.shows(1, "line 1 of");
    tmux.keys(1, &["Space"]);
    tmux.shows(1, "line 30 of");
    tmux.shows(2, ">");
    tmux.keys(2, &["X=17; sleep 1000 & cat", "Enter"]);
    tmux.shows(2, "[1]");
    tmux.keys(2, &["echoed", "Enter"]);
    tmux.shows(2, "echoed\nechoed");
    tmux.keys(2, &["C-z"]);
    tmux.shows(2, "Stopped");
    tmux.shows(3, ">>>");
    tmux.keys(3, &["x = 41", "Enter", "x +"]);
    tmux.shows(3, "x +");
    tmux.shows(4, "name");
    tmux.keys(4, &["abc"]);
    tmux.shows(4, "abc");

    let own_numbers = who == Who::Ordinary || more.contains(&"--clone");
    let mut traveller = Traveller::adopt(&scene, tmux.pid, "tmux");
    for _ in 0..2 {
        let terminals = tmux.terminals();
        let screens: Vec<String> = (0..5).map(|pane| tmux.screen(pane)).collect();
        traveller.freeze();
        traveller.thaw(more);
        for (pane, screen) in screens.iter().enumerate() {
            assert_eq!(&tmux.screen(pane), screen, "pane {pane}");
        }
        // Elsewhere another program may have taken a number meanwhile.
        if own_numbers {
            assert_eq!(tmux.terminals(), terminals, "the terminals by name");
        }
    }
    tmux.keys(0, &[" and more", "Escape", ":w out", "Enter"]);
    tmux.shows(0, "written");
    let written = fs::read_to_string(scene.stage("out")).expect("what vim wrote");
    assert!(written.starts_with("line 6 ") && written.ends_with("line 40 of the file\nnew words and more\n"));
    tmux.keys(1, &["b"]);
    tmux.shows(1, "line 1 of");
    tmux.keys(2, &["fg", "Enter"]);
    tmux.shows(2, "> fg\ncat");
    tmux.keys(2, &["to the job", "Enter"]);
    tmux.shows(2, "to the job\nto the job");
    tmux.keys(2, &["C-c"]);
    tmux.shows(2, "^C\n>");
    tmux.keys(2, &["jobs; echo $((X + 1)); kill %1", "Enter"]);
    tmux.shows(2, "Running");
    tmux.shows(2, "\n18\n");
    tmux.keys(3, &["1", "Enter"]);
    tmux.shows(3, "\n42\n");
    tmux.keys(4, &["d"]);
    tmux.shows(4, "abcd");
    Tmux::command(&scene, &["kill-server"]);
    traveller.ends();
    scene.is_empty_soon();
}

mod tmux_server {
    use super::*;

    #[test]
    fn frozen_and_thawed() {
        tmux(Who::Myself, &[]);
    }

    #[test]
    fn frozen_and_thawed_by_an_ordinary_user() {
        tmux(Who::Ordinary, &[]);
    }

    #[test]
    fn frozen_and_thawed_as_a_copy() {
        tmux(Who::Myself, &["--clone"]);
    }
}

/// A snapshot of a tmux server: it goes on, and a copy of it starts from there.
#[test]
fn a_snapshot_of_tmux_is_copied() {
    if !have(&["tmux", "bash"]) {
        return;
    }
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let tmux = Tmux::start(&scene, &["PS1='> ' bash --norc --noprofile"]);
    tmux.shows(0, ">");
    tmux.keys(0, &["echo half of a li"]);
    let screen = tmux.shows(0, "half of a li");
    scene.frost(&["freeze", &tmux.pid.to_string(), "--to", "victim", "--leave-running"]).ok();
    assert_eq!(tmux.screen(0), screen, "the screen of the one that goes on");
    tmux.keys(0, &["ne", "Enter"]);
    tmux.shows(0, "\nhalf of a line\n");
    Tmux::command(&scene, &["kill-server"]);
    scene.is_empty_soon();
    let mut copy = Traveller::adopt(&scene, tmux.pid, "tmux");
    copy.thaw(&["--clone"]);
    assert_eq!(tmux.screen(0), screen, "the screen of the copy");
    tmux.keys(0, &["fe", "Enter"]);
    tmux.shows(0, "\nhalf of a life\n");
    Tmux::command(&scene, &["kill-server"]);
    scene.is_empty_soon();
}

programs! { script expect attached hung_up }

/// `script` below `script`, each with its terminal, and a program at the lower one that waits for a line.
fn script(who: Who) {
    if !have(&["script", "bash"]) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(&scene, "lower.sh", "tty > lower.tty; read -r line; echo \"got $line\"; test -t 0 && exit 5\n");
    let lower = "script -q -e -c 'bash lower.sh' lower.log";
    let mut command = scene.command("setsid");
    // A fifo that it can write itself never has an end.
    let upper = format!("mkfifo keys && exec script -q -e -c \"{lower}\" upper.log 0<>keys > shown");
    command.args(["bash", "-c", &upper]);
    let started = scene.start(at_terminal(&mut command), Stdio::Null);
    let mut traveller = Traveller::join(&scene, started, "script");
    scene.await_file("lower.tty");
    for _ in 0..2 {
        traveller.freeze();
        traveller.thaw(&[]);
    }
    fs::write(scene.stage("keys"), "typed\n").expect("script reads it");
    traveller.ends();
    for name in ["lower.log", "upper.log"] {
        let log = fs::read_to_string(scene.stage(name)).expect("a log");
        assert!(log.contains("got typed") && log.contains("COMMAND_EXIT_CODE=\"5\""), "{name}:\n{log}");
    }
    scene.is_empty_soon();
}

/// `expect` drives a shell: what that holds, and what was typed to it and not read.
fn expect(who: Who) {
    if !have(&["expect", "bash"]) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    place(
        &scene,
        "drive.exp",
        "set timeout 100\n\
         spawn env PS1=>> bash --norc --noprofile\n\
         expect_after timeout {puts LOST; exit 9}\n\
         expect >>\n\
         send \"A=40; printf =%s= begun; cat\\r\"\n\
         expect =begun=\n\
         send \"first\\r\"\n\
         expect first\\r\\nfirst\\r\n\
         exec touch standing\n\
         while {![file exists go]} { after 20 }\n\
         send \"second\\r\"\n\
         expect second\\r\\nsecond\\r\n\
         send \"hal\"\n\
         expect hal\n\
         exec touch half\n\
         while {![file exists on]} { after 20 }\n\
         send \"f\\r\\004\"\n\
         expect f\\r\\nhalf\\r\n\
         expect >>\n\
         send \"echo =\\$((A + 2))=\\r\"\n\
         expect =42=\n\
         send \"exit 3\\r\"\n\
         expect eof\n\
         exit [lindex [wait] 3]\n",
    );
    let mut command = scene.command("setsid");
    command.args(["expect", "drive.exp"]);
    let started = scene.start(at_terminal(&mut command), Stdio::Files);
    let mut traveller = Traveller::join(&scene, started, "expect");
    scene.await_file("standing");
    traveller.freeze();
    traveller.thaw(&[]);
    place(&scene, "go", "");
    scene.await_file("half");
    traveller.freeze();
    traveller.thaw(&[]);
    place(&scene, "on", "");
    traveller.ends();
    let told = fs::read_to_string(scene.stage("out")).expect("what expect told");
    assert!(told.contains("=42=") && !told.contains("LOST"), "{told}");
    scene.is_empty_soon();
}

/// A terminal of the test with a shell at it.
struct Terminal {
    master: OwnedFd,
    seen: Vec<u8>,
    shell: Started,
}

const PROMPT: &str = "at your command> ";

impl Terminal {
    fn with_shell(scene: &Scene) -> Self {
        let master = frost_sys::pty::open_master().expect("a pseudoterminal");
        let slave = frost_sys::pty::open_slave(&master, OFlags::RDWR).expect("its slave");
        let mut command = scene.command("setsid");
        command
            .args(["--ctty", "bash", "--norc", "--noprofile", "-i"])
            .env("PS1", PROMPT)
            .env("TERM", "dumb");
        command.env("LC_ALL", "C.UTF-8");
        let copy = || slave.try_clone().expect("a descriptor");
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let shell = Started::spawn(&mut command);
        let mut terminal = Self { master, seen: Vec::new(), shell };
        terminal.resize(24, 80);
        terminal.shows(PROMPT);
        terminal
    }

    fn keys(&self, keys: &str) {
        rustix::io::write(&self.master, keys.as_bytes()).expect("the terminal takes keys");
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("a size");
    }

    /// Waits until something is shown, and forgets all before its end.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|part| part == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return;
            }
            let shown = String::from_utf8_lossy(&self.seen);
            assert!(start.elapsed() < LIMIT, "the terminal never shows {text:?}, but {shown:?}");
            let mut fds = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
            let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            if rustix::event::poll(&mut fds, Some(&wait)).is_ok_and(|count| count > 0) {
                let mut buffer = [0; 4096];
                let count = rustix::io::read(&self.master, &mut buffer).unwrap_or(0);
                self.seen.extend_from_slice(&buffer[..count]);
            }
        }
    }

    /// Runs a command of the shell to its end.
    #[track_caller]
    fn run(&mut self, line: &str) {
        self.keys(&format!("{line}\n"));
        self.shows("\n");
        self.shows(PROMPT);
    }
}

/// Starts a program in raw mode from a shell, and freezes it there.
fn frozen_at_terminal(scene: &Scene) -> Terminal {
    place(scene, "raw.py", include_str!("../programs/raw.py"));
    let mut terminal = Terminal::with_shell(scene);
    terminal.run("stty -g > before");
    terminal.keys("python3 raw.py\n");
    terminal.shows("stands");
    terminal.keys("a");
    terminal.shows("key 97\r\n");
    let pid = scene.await_file("raw.pid");
    scene.frost(&["freeze", &pid, "--to", "raw"]).ok();
    terminal.shows(PROMPT);
    until("the shell has collected it", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    terminal.run("stty sane; stty -echo; stty -g > before; stty echo; stty -g > before");
    terminal
}

/// With `--attach` it has the terminal of the thawing command: as it left it, and as a job of the shell.
fn attached(who: Who) {
    if !have(&["bash", "python3"]) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let mut terminal = frozen_at_terminal(&scene);
    let frost = scene.path("bin").join("frost");
    for (round, more) in ["", "--clone"].into_iter().enumerate() {
        let size = 30 + round as u16;
        terminal.resize(size, 100);
        terminal.keys(&format!("{} thaw raw --attach {more}\n", frost.display()));
        terminal.shows(&format!("size {size} 100\r\n"));
        // Raw: neither is a signal, or a line, made of keys.
        terminal.keys("b");
        terminal.shows("key 98\r\n");
        terminal.keys("\x03");
        terminal.shows("key 3\r\n");
        terminal.resize(size, 90);
        terminal.shows(&format!("size {size} 90\r\n"));
        for _ in 0..2 {
            terminal.keys("z");
            terminal.shows("Stopped");
            terminal.shows(PROMPT);
            terminal.run("stty -g > stopped");
            terminal.run("jobs > jobs.txt");
            assert!(scene.await_file("jobs.txt").contains("Stopped"));
            assert_eq!(
                scene.await_file("stopped"),
                scene.await_file("before"),
                "the settings while it is stopped"
            );
            terminal.keys("fg\n");
            terminal.shows("again\r\n");
            terminal.keys("c");
            terminal.shows("key 99\r\n");
        }
        // Once by each `fg`: one more would undo a stop that came behind it.
        terminal.keys("n");
        terminal.shows("continued 2 times\r\n");
        terminal.keys("q");
        terminal.shows(PROMPT);
        terminal.run("echo status $? > status; stty -g > after");
        assert_eq!(scene.await_file("status"), "status 7\n");
        assert_eq!(scene.await_file("after"), scene.await_file("before"), "the settings in the end");
    }
    terminal.keys("exit\n");
    terminal.shell.wait("the shell", LIMIT);
    scene.is_empty_soon();
}

/// A signal to the command that comes when the program was let go, and the command has not yet looked for any.
#[test]
fn a_signal_that_comes_at_once_is_the_program_s() {
    if !is_root() {
        skip("the builder is pid 1 of a namespace, which cannot be stopped at a step");
        return;
    }
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let script = "trap 'exit 9' TERM; echo > stands; while :; do sleep 0.02; done";
    let started = scene.start(scene.command("sh").args(["-c", script]), Stdio::Files);
    let mut traveller = Traveller::join(&scene, started, "sh");
    scene.await_file("stands");
    traveller.freeze();
    let mut command = scene.frost_command(&["thaw", "victim", "--attach"]);
    let mut thaw = scene.start(command.env("FROST_FAIL_AT", "thaw.registers:stop"), Stdio::Files);
    // Its notes go into the file that the program has as its standard error: that is no change of it.
    let pid = Pid::from_raw(thaw.pid()).expect("a number");
    let stands = |thaw: &Started| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", thaw.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    until("the command stands behind the commit", || stands(&thaw) || thaw.ended().is_some());
    let _sent = rustix::process::kill_process(pid, Signal::TERM);
    // It stands once for each process.
    until("the command has ended", || {
        let _sent = rustix::process::kill_process(pid, Signal::CONT);
        thaw.ended().is_some()
    });
    assert_eq!(thaw.wait("frost thaw --attach", LIMIT).code(), Some(9));
    scene.is_empty_soon();
}

/// Without `--attach` its terminal is hung up, and that of the thawing command is left alone.
fn hung_up(who: Who) {
    if !have(&["bash", "python3"]) {
        return;
    }
    let Some(scene) = Scene::new(who) else { return };
    let mut terminal = frozen_at_terminal(&scene);
    terminal.run(&format!("{} thaw raw > thawed.txt 2>&1", scene.path("bin").join("frost").display()));
    scene.await_file("hung.up");
    terminal.run("stty -g > after");
    assert_eq!(scene.await_file("after"), scene.await_file("before"), "the settings");
    assert!(scene.await_file("thawed.txt").contains("hung up"));
    terminal.keys("exit\n");
    terminal.shell.wait("the shell", LIMIT);
    scene.is_empty_soon();
}
