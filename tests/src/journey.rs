//! What is done with a program while it waits: the ways through a freeze, each written once.

use crate::{LIMIT, Outcome, Scene, Started, Stdio, Who, is_alive, tree_of, until};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A victim on its way.
#[derive(Debug)]
pub struct Traveller<'a> {
    scene: &'a Scene,
    name: String,
    started: Option<Started>,
    /// Its pid as this test sees it.
    pub pid: i32,
    /// Its pid as it sees it itself.
    inner: i32,
    /// Whether it lives in a pid namespace of its own from the beginning.
    apart: bool,
    /// All pids of its tree when it was last frozen or started.
    pub tree: Vec<i32>,
}

fn victim(scene: &Scene, binary: &Path, name: &str) -> Command {
    if name.starts_with("sysv_") {
        scene.with_objects();
    }
    let stage = scene.path("stage");
    // Its own copy, in a place that the scene's user can reach.
    let copy = scene.path("bin").join("victim");
    if !copy.exists() && std::fs::hard_link(binary, &copy).is_err() {
        std::fs::copy(binary, &copy).expect("our own directory");
    }
    let mut command = scene.command(copy);
    command.arg(name).arg(stage);
    command
}

impl<'a> Traveller<'a> {
    /// Starts a victim and waits until it stands.
    ///
    /// # Panics
    /// If it fails before that.
    pub fn set_out(scene: &'a Scene, binary: &Path, name: &str, stdio: Stdio) -> Self {
        let mut started = scene.start(&mut victim(scene, binary, name), stdio);
        until(&format!("{name} is ready"), || {
            scene.stage("ready").exists() || scene.stage("result").exists() || started.ended().is_some()
        });
        let result = std::fs::read_to_string(scene.stage("result")).unwrap_or_default();
        assert!(scene.stage("ready").exists(), "{name} did not get ready: {result}");
        let pid = started.pid();
        Self {
            scene,
            name: name.to_owned(),
            started: Some(started),
            pid,
            inner: pid,
            apart: false,
            tree: tree_of(pid),
        }
    }

    /// Starts a victim under `frost run`, unless namespaces are not allowed.
    fn set_out_in_the_runtime(scene: &'a Scene, binary: &Path, name: &str) -> Option<Self> {
        let command = victim(scene, binary, name);
        let program = command.get_program().to_string_lossy().into_owned();
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut arguments = vec!["run", "--detach", "--name", "victim", "--json", "--"];
        let own = scene.path("bin").join("victim").to_string_lossy().into_owned();
        arguments.push(&own);
        // What runs a command as the scene's user comes before it.
        let from = words.iter().position(|word| *word == own).map_or(0, |at| at + 1);
        arguments.extend(words[from..].iter().map(String::as_str));
        let outcome = scene.frost(&arguments);
        if outcome.status == Some(125) && outcome.stderr.contains("namespaces") {
            crate::skip("namespaces are not allowed here");
            return None;
        }
        let outcome = outcome.ok();
        until(&format!("{name} is ready"), || {
            scene.stage("ready").exists() || scene.stage("result").exists()
        });
        let result = std::fs::read_to_string(scene.stage("result")).unwrap_or_default();
        assert!(scene.stage("ready").exists(), "{program} {name} did not get ready: {result}");
        let (pid, inner) = (outcome.number("pid") as i32, outcome.number("inner_pid") as i32);
        Some(Self {
            scene,
            name: name.to_owned(),
            started: None,
            pid,
            inner,
            apart: true,
            tree: tree_of(pid),
        })
    }

    /// Starts several victims as one tree, of the shape that `victim compose` knows, and waits until all stand.
    ///
    /// # Panics
    /// If one fails before that.
    pub fn set_out_together(scene: &'a Scene, binary: &Path, shape: &str, names: &[&str]) -> Self {
        let mut command = victim(scene, binary, "compose");
        command.arg(shape).args(names);
        let name = names.join(" with ");
        let mut started = scene.start(&mut command, Stdio::Files);
        until(&format!("{name} are ready"), || {
            scene.stage("ready").exists() || scene.stage("result").exists() || started.ended().is_some()
        });
        let result = std::fs::read_to_string(scene.stage("result")).unwrap_or_default();
        assert!(scene.stage("ready").exists(), "{name} did not get ready: {result}");
        let pid = started.pid();
        Self { scene, name, started: Some(started), pid, inner: pid, apart: false, tree: tree_of(pid) }
    }

    /// Takes a program that was started otherwise along.
    pub fn join(scene: &'a Scene, started: Started, name: &str) -> Self {
        let pid = started.pid();
        Self {
            scene,
            name: name.to_owned(),
            started: Some(started),
            pid,
            inner: pid,
            apart: false,
            tree: tree_of(pid),
        }
    }

    /// Starts a program under `frost run`, which stays its parent, unless namespaces are not allowed.
    ///
    /// # Panics
    /// If it fails.
    pub fn join_in_the_runtime(scene: &'a Scene, command: &Command, name: &str) -> Option<Self> {
        if !scene.has_namespaces() {
            return None;
        }
        let words: Vec<&str> = command.get_args().filter_map(|word| word.to_str()).collect();
        // What runs a command as the scene's user, in a session of its own, comes before it.
        let from = words.iter().position(|word| *word == "setsid").map_or(0, |at| at + 1);
        let mut outer = scene.frost_command(&["run", "--name", "victim", "--"]);
        outer.args(&words[from..]);
        if let Some(directory) = command.get_current_dir() {
            outer.current_dir(directory);
        }
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(variable, value),
                None => outer.env_remove(variable),
            };
        }
        let started = scene.start(&mut outer, Stdio::Files);
        let state = || scene.frost(&["ps", "victim", "--json"]);
        until(&format!("{name} runs"), || state().stdout.contains("\"running\""));
        let pid = state().number("pid") as i32;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last());
        let inner = inner.and_then(|inner| inner.parse().ok()).expect("it has a number inside");
        let name = name.to_owned();
        Some(Self { scene, name, started: Some(started), pid, inner, apart: true, tree: tree_of(pid) })
    }

    /// Takes a program along that has left whoever started it, as a server does.
    pub fn adopt(scene: &'a Scene, pid: i32, name: &str) -> Self {
        Self {
            scene,
            name: name.to_owned(),
            started: None,
            pid,
            inner: pid,
            apart: false,
            tree: tree_of(pid),
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If it runs on.
    pub fn ends(mut self) {
        match self.started.take() {
            Some(mut started) => _ = started.wait("the program", LIMIT),
            None => until("the program ends", || !is_alive(self.pid)),
        }
    }

    /// Freezes it, and checks that nothing of it is left.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn freeze(&mut self) {
        self.tree = tree_of(self.pid);
        let pid = self.pid.to_string();
        let outcome = self.scene.frost(&["freeze", &pid, "--to", "victim", "--json"]).ok();
        assert_eq!(outcome.record()["name"], "victim", "{outcome}");
        for field in ["version", "bytes", "pause_us", "elapsed_us"] {
            outcome.number(field);
        }
        self.is_gone();
    }

    /// Expects that none of its processes runs.
    ///
    /// # Panics
    /// If one does, though the command has returned.
    #[track_caller]
    pub fn is_gone(&mut self) {
        for pid in &self.tree {
            assert!(!is_alive(*pid), "process {pid} of {} runs although it is frozen", self.name);
        }
        if let Some(mut started) = self.started.take() {
            started.wait("the frozen program", LIMIT);
        }
        // Its pids are free once all have been reaped.
        until("the frozen tree is reaped", || {
            self.tree.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        });
    }

    /// Thaws it, and checks that it runs, under its old pids if it can.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn thaw(&mut self, more: &[&str]) {
        self.thaw_image("victim", more);
    }

    #[track_caller]
    fn thaw_image(&mut self, image: &str, more: &[&str]) {
        let mut arguments = vec!["thaw", image, "--json"];
        arguments.extend(more);
        let outcome = self.scene.frost(&arguments).ok();
        assert_eq!(outcome.record()["name"], "victim", "{outcome}");
        for field in ["version", "processes", "threads", "elapsed_us"] {
            outcome.number(field);
        }
        self.pid = outcome.number("pid") as i32;
        let here = self.scene.who() == Who::Myself && crate::is_root() && !self.apart;
        let same_pids = here && !more.contains(&"--clone");
        if same_pids {
            assert_eq!(self.pid, self.inner, "root gets the same pid back");
        }
        assert_eq!(
            outcome.number("inner_pid"),
            i64::from(self.inner),
            "the pid that the program sees\n{outcome}"
        );
        assert!(
            is_alive(self.pid) || self.scene.stage("result").exists(),
            "{} does not run after its thaw\n{outcome}",
            self.name
        );
    }

    /// Lets it judge itself; `how` tells it what it went through.
    ///
    /// # Panics
    /// If it is not content.
    #[track_caller]
    pub fn arrive(mut self, how: &str) {
        let result = self.scene.stage("result");
        self.say_go(how);
        until(&format!("{} tells its verdict", self.name), || result.exists() || !is_alive(self.pid));
        let text = std::fs::read_to_string(&result).unwrap_or_else(|_| "died without a verdict".to_owned());
        let why = std::fs::read_to_string(self.scene.stage("why")).unwrap_or_default();
        assert_eq!(text, "ok", "{} was {how}\n{why}", self.name);
        if let Some(mut started) = self.started.take() {
            started.wait("a victim that has told its verdict", LIMIT);
        }
    }

    /// Lets it go on.
    pub fn say_go(&self, how: &str) {
        let draft = self.scene.stage("go.draft");
        std::fs::write(&draft, how).expect("our own directory");
        std::fs::rename(draft, self.scene.stage("go")).expect("our own directory");
    }
}

/// Run in an environment of the runtime, frozen and thawed with its keeper, without it, and with it again.
pub fn thawed_in_the_runtime(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let Some(mut traveller) = Traveller::set_out_in_the_runtime(&scene, binary, name) else { return };
    for more in [&[][..], &["--cold"], &[]] {
        traveller.tree = tree_of(traveller.pid);
        let mut arguments = vec!["freeze", "victim", "--json"];
        arguments.extend(more);
        scene.frost(&arguments).ok();
        traveller.is_gone();
        traveller.thaw(&[]);
    }
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// Run in an environment of the runtime, and looked at while it is frozen and its keeper stays.
pub fn looked_at_in_the_runtime(binary: &Path, name: &str, who: Who, look: impl FnOnce(&Scene)) {
    let Some(scene) = Scene::new(who) else { return };
    let Some(mut traveller) = Traveller::set_out_in_the_runtime(&scene, binary, name) else { return };
    scene.frost(&["freeze", "victim"]).ok();
    traveller.is_gone();
    look(&scene);
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// Run in an environment of the runtime, something in it cannot be carried.
pub fn refused_in_the_runtime(binary: &Path, name: &str, object: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let Some(traveller) = Traveller::set_out_in_the_runtime(&scene, binary, name) else { return };
    let outcome = scene.frost(&["check", "victim"]);
    assert!(outcome.status == Some(3) && outcome.stdout.contains(object), "no word of {object}\n{outcome}");
    scene.frost(&["freeze", "victim"]).refused(3, object);
    traveller.arrive("left alone");
    scene.is_empty_soon();
}

/// Run in an environment of the runtime, something in it shuts out whoever is not root, as told by name.
pub fn shut_out_in_the_runtime(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let Some(traveller) = Traveller::set_out_in_the_runtime(&scene, binary, name) else { return };
    for verb in ["check", "freeze"] {
        scene.frost(&[verb, "victim"]).refused(5, "may not be looked into");
    }
    traveller.arrive("left alone");
    scene.is_empty_soon();
}

/// Unfrozen: tests the victim itself.
pub fn unfrozen(binary: &Path, name: &str) {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    Traveller::set_out(&scene, binary, name, Stdio::Files).arrive("left alone");
    told_all(&scene, name);
    scene.is_empty_soon();
}

/// What an ordinary user may freeze once only, since the kernel tells root what it takes: a sender that had not got rid of
/// all when it was thawed, and where the watched file of a /proc lies that is not ours.
pub const ROOT_THEN: [&str; 2] = ["tcp_much_queued", "inotify_elsewhere"];

/// Frozen, gone, thawed; an ordinary user's program twice.
pub fn thawed(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let mut traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    traveller.freeze();
    let away = Duration::from_millis(1500);
    if name == "clock_continues" {
        // Not to synchronise: the time away is what this victim must not see.
        std::thread::sleep(away);
    }
    traveller.thaw(&[]);
    if who == Who::Ordinary && !ROOT_THEN.contains(&name) {
        // Once more, from the namespaces of its own in which that put it.
        traveller.freeze();
        traveller.thaw(&[]);
    }
    traveller.arrive("thawed");
    if name == "clock_continues" {
        let jump: u128 = scene.await_file("jump_ms").parse().expect("a number");
        assert!(jump < away.as_millis(), "CLOCK_MONOTONIC jumped by {jump} ms");
    }
    told_all(&scene, name);
    scene.is_empty_soon();
}

/// Frozen, thawed when `meanwhile` has done something to the files of the stage.
pub fn thawed_after(binary: &Path, name: &str, who: Who, meanwhile: impl FnOnce(&Scene)) {
    let Some(scene) = Scene::new(who) else { return };
    let mut traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    traveller.freeze();
    meanwhile(&scene);
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// Frozen; what is done then is in the way of the thaw, which says so by name and leaves the image as it is.
pub fn refused_after(binary: &Path, name: &str, reason: &str, meanwhile: impl FnOnce(&Scene)) {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    traveller.freeze();
    meanwhile(&scene);
    scene.frost(&["thaw", "victim"]).refused(3, reason);
    scene.frost(&["rm", "victim"]).ok();
    scene.is_empty_soon();
}

/// Frozen with pipes to this test as its input and output, then thawed by a command that hands in others.
pub fn thawed_from_pipes(binary: &Path, name: &str) {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = Traveller::set_out(&scene, binary, name, Stdio::Pipes);
    traveller.freeze();
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    assert!(scene.stage("seen").exists(), "what the program saw");
    scene.is_empty_soon();
}

/// Frozen and thawed twice in a row.
pub fn twice(binary: &Path, name: &str) {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    for _ in 0..2 {
        traveller.freeze();
        traveller.thaw(&[]);
    }
    traveller.arrive("thawed");
    told_all(&scene, name);
    scene.is_empty_soon();
}

/// Victims that have a file open, or mapped, for writing: a copy would write to it beside the original.
const WRITERS: [&str; 21] = [
    "file_beyond_end",
    "file_private_read_only",
    "file_shared",
    "flight_locked",
    "regular_against_mode",
    "regular_append",
    "regular_locks",
    "regular_offset",
    "regular_linked",
    "regular_renamed",
    "regular_locks_of_description",
    "regular_locks_of_processes",
    "regular_lease_lowered_writer",
    "thread_leader_gone_root",
    "volatile_open",
    "volatile_mapped",
    "volatile_sparse",
    "volatile_shared",
    "volatile_semaphore",
    "restart_fcntl_lock",
    "restart_flock",
];

/// Frozen with `--leave-running`: the program goes on unharmed; then its image is thawed as a copy.
pub fn copied(binary: &Path, name: &str) {
    copied_by(binary, name, Who::Myself);
}

/// The same by whom one likes.
pub fn copied_by(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Null);
    let pid = traveller.pid.to_string();
    scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running", "--json"]).ok();
    if WRITERS.contains(&name) {
        traveller.arrive("left running");
        scene.frost(&["thaw", "victim", "--clone"]).refused(3, "a copy would");
        return scene.is_empty_soon();
    }
    let (number, tree) = (traveller.pid, traveller.tree.clone());
    traveller.arrive("left running");
    for name in ["go", "result", "why", "seen"] {
        let _absent = std::fs::remove_file(scene.stage(name));
    }
    let mut copy = Traveller {
        scene: &scene,
        name: name.to_owned(),
        started: None,
        pid: number,
        inner: number,
        apart: false,
        tree,
    };
    copy.thaw(&["--clone"]);
    copy.arrive("copied");
    scene.is_empty_soon();
}

/// Looked at and frozen again and again while it runs, whatever passes in it; then away and back.
pub fn passing(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let mut traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    let pid = traveller.pid.to_string();
    for _ in 0..6 {
        scene.frost(&["check", &pid]).ok();
        scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
    }
    traveller.freeze();
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// Frozen with `--leave-running`: the program goes on unharmed.
pub fn left_running(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Null);
    let pid = traveller.pid.to_string();
    scene.frost(&["check", &pid]).ok();
    scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
    traveller.arrive("left running");
    scene.is_empty_soon();
}

/// The same, but the freeze says what its image lacks.
pub fn warned(binary: &Path, name: &str, about: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Null);
    let pid = traveller.pid.to_string();
    let outcome = scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
    assert!(outcome.stderr.contains(about), "{outcome}");
    traveller.arrive("left running");
    scene.is_empty_soon();
}

/// Each process but the first gets one signal while it stands still for an image, which it may take several to see.
pub fn signalled_in_the_stop(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Null);
    let pid = traveller.pid.to_string();
    let children: Vec<i32> = traveller.tree.iter().copied().filter(|pid| *pid != traveller.pid).collect();
    let signalling = std::thread::spawn(move || {
        for child in children {
            let child = rustix::process::Pid::from_raw(child).expect("a pid");
            let stat = format!("/proc/{child}/stat");
            let stands = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") t "));
            let since = std::time::Instant::now();
            while !stands() {
                assert!(since.elapsed() < LIMIT, "process {child} never stood still");
                std::thread::yield_now();
            }
            rustix::process::kill_process(child, rustix::process::Signal::USR1).expect("it lives");
        }
    });
    while !signalling.is_finished() {
        scene.frost(&["freeze", &pid, "--to", "victim", "--leave-running"]).ok();
    }
    signalling.join().expect("all stood still");
    traveller.arrive("signalled");
    scene.is_empty_soon();
}

/// Frozen again and again while it runs, then thawed as a copy from each of the images: whatever it did meanwhile, each is
/// of one instant. Nothing is to be seen in it afterwards.
pub fn snapshots(binary: &Path, name: &str, who: Who, rounds: u32) {
    let copied_before = |outcome: &Outcome| {
        assert!(!tracks_writes() || outcome.number("passes") >= 1, "copied while it stood still\n{outcome}");
    };
    each_snapshot(binary, name, who, rounds, &copied_before);
}

/// As [`snapshots`] of a program whose processes come and go, so that it may be copied either way.
pub fn snapshots_of_comers_and_goers(binary: &Path, name: &str, who: Who, rounds: u32) {
    each_snapshot(binary, name, who, rounds, &|_| {});
}

/// As [`snapshots`] of a program that must be copied while it stands still.
pub fn snapshots_in_the_stop(binary: &Path, name: &str, who: Who, rounds: u32) {
    let all_copied = |outcome: &Outcome| {
        assert!(
            outcome.number("dirty_pages") * 4096 >= 1 << 20,
            "not copied while it stood still\n{outcome}"
        );
    };
    each_snapshot(binary, name, who, rounds, &all_copied);
}

fn each_snapshot(binary: &Path, name: &str, who: Who, rounds: u32, check: &dyn Fn(&Outcome)) {
    let Some(scene) = Scene::new(who) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Null);
    let pid = traveller.pid.to_string();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let before = descriptors();
    for _ in 0..rounds {
        let arguments = ["freeze", &pid, "--to", "victim", "--leave-running", "--full", "--json"];
        let outcome = scene.frost(&arguments).ok();
        check(&outcome);
        let flags = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        assert!(!flags.contains(" uw"), "{name} is still tracked");
        assert_eq!(descriptors(), before, "descriptors of {name}");
    }
    let tree = tree_of(traveller.pid);
    let number = traveller.pid;
    traveller.arrive("left running");
    for version in 1..=rounds {
        for name in ["go", "result", "why", "seen"] {
            let _absent = std::fs::remove_file(scene.stage(name));
        }
        let mut copy = Traveller {
            scene: &scene,
            name: name.to_owned(),
            started: None,
            pid: number,
            inner: number,
            apart: false,
            tree: tree.clone(),
        };
        copy.thaw_image(&format!("victim@{version}"), &["--clone"]);
        copy.arrive("copied");
    }
    scene.is_empty_soon();
}

/// Whether this kernel tells which pages were written: Linux 6.7.
pub fn tracks_writes() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.trim().parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

/// Most of its memory is written while it runs, then it is ended; thawed, it goes on.
pub fn thawed_after_precopy(binary: &Path, name: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let mut traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    for _ in 0..2 {
        traveller.tree = tree_of(traveller.pid);
        let pid = traveller.pid.to_string();
        let outcome = scene.frost(&["freeze", &pid, "--to", "victim", "--precopy", "--json"]).ok();
        assert!(!tracks_writes() || outcome.number("passes") >= 1, "copied while it stood still\n{outcome}");
        traveller.is_gone();
        traveller.thaw(&[]);
    }
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// Something in it cannot be carried: refused by name before anything is touched, and it runs on unharmed.
pub fn refused(binary: &Path, name: &str, object: &str) {
    refused_for(binary, name, object, Who::Myself);
}

/// As [`refused`], for one user.
pub fn refused_for(binary: &Path, name: &str, object: &str, who: Who) {
    let Some(scene) = Scene::new(who) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    let pid = traveller.pid.to_string();
    // All that is in the way is what `check` is asked for: a result, not an error.
    let outcome = scene.frost(&["check", &pid]);
    assert!(outcome.status == Some(3) && outcome.stdout.contains(object), "no word of {object}\n{outcome}");
    scene.frost(&["freeze", &pid, "--to", "victim"]).refused(3, object);
    traveller.arrive("left alone");
    told_all(&scene, name);
    scene.is_empty_soon();
}

/// Something in it that is found only when it is stopped cannot be carried: refused by name, and it runs on unharmed.
pub fn refused_at_the_stop(binary: &Path, name: &str, object: &str) {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    scene.frost(&["freeze", &traveller.pid.to_string(), "--to", "victim"]).refused(3, object);
    traveller.arrive("left alone");
    scene.is_empty_soon();
}

/// Some thread does not stop: told by what it waits for, within a bound, and all of it runs on unharmed.
pub fn unstoppable(binary: &Path, name: &str, object: &str) {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let traveller = Traveller::set_out(&scene, binary, name, Stdio::Files);
    scene.frost(&["freeze", &traveller.pid.to_string(), "--to", "victim"]).refused(1, object);
    traveller.arrive("left alone");
    scene.is_empty_soon();
}

/// What a victim wrote to its standard output is there, all of it, once.
fn told_all(scene: &Scene, name: &str) {
    if name == "outside_standard" {
        assert_eq!(scene.await_file("out"), "before\nafter\n", "what the program wrote");
    }
}
