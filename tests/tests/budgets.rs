//! What a program may use of the machine: `frost run --ram --cpu`, `frost set`.
//!
//! A machine has control groups of one version as a rule; those of version 2 are had in a guest, in which all of these tests
//! run once more.

use frost_tests::{LIMIT, Outcome, Scene, Stdio, Who, guest, is_root, skip, until};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A group that an ordinary user was given, as a service manager does it.
struct Delegated(Vec<PathBuf>);

impl Drop for Delegated {
    fn drop(&mut self) {
        for group in &self.0 {
            until("the delegated group is empty", || {
                for below in ["frost", OTHERS] {
                    let _left = fs::remove_dir(group.join(below));
                }
                fs::remove_dir(group).is_ok()
            });
        }
    }
}

/// Where frost puts those who are in a group of version 2 when it makes groups below that.
const OTHERS: &str = "frost-others";

/// A scene whose commands may make control groups, or the reason why there are none.
struct Budgeted {
    scene: Scene,
    delegated: Delegated,
}

impl Budgeted {
    fn new(who: Who) -> Option<Self> {
        let scene = Scene::new(who)?;
        let delegated = if who == Who::Ordinary { delegate(&scene)? } else { Delegated(Vec::new()) };
        let budgeted = Self { scene, delegated };
        let outcome = budgeted.frost(&["run", "--ram", "512M", "--cpu", "2", "--", "true"]);
        if outcome.status == Some(125) && outcome.stderr.contains("control group") {
            skip("no control groups may be made here");
            return None;
        }
        outcome.ok();
        Some(budgeted)
    }

    fn frost(&self, arguments: &[&str]) -> Outcome {
        self.scene.run(&mut self.command(arguments), LIMIT)
    }

    /// Builds a `frost` command that is put into the delegated groups first, as a manager of services does it: who it is for
    /// may not take it out of the group that it is in.
    fn command(&self, arguments: &[&str]) -> Command {
        let frost = self.scene.frost_command(arguments);
        let mut script = String::new();
        for group in &self.delegated.0 {
            let group = group.display();
            // Where there are groups with controllers below it, it has no processes of its own.
            script.push_str(&format!(
                "{{ echo $$ > {group}/cgroup.procs || echo $$ > {group}/{OTHERS}/cgroup.procs; }} 2>/dev/null && "
            ));
        }
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{script} exec \"$0\" \"$@\"")).arg(frost.get_program());
        command.args(frost.get_args()).env_clear();
        command.envs(frost.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(self.scene.path("stage"));
        command
    }

    fn ps(&self, name: &str) -> serde_json::Value {
        self.frost(&["ps", name, "--json"]).ok().record()
    }

    /// Returns the directories of the groups of a program.
    fn groups(&self, name: &str) -> Vec<PathBuf> {
        let roots = if self.delegated.0.is_empty() { roots() } else { self.delegated.0.clone() };
        let parents = roots.iter().filter_map(|root| fs::read_dir(root.join("frost")).ok());
        let entries = parents.flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let ours = |path: &PathBuf| {
            path.file_name().is_some_and(|own| own.to_string_lossy().starts_with(&format!("{name}.")))
        };
        entries.filter(ours).collect()
    }
}

/// Where the controllers are mounted.
fn roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there is a /proc");
    let mut roots = Vec::new();
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let options = kind.rsplit(' ').next().unwrap_or_default();
        let ours = kind.starts_with("cgroup2 ")
            || kind.starts_with("cgroup ")
                && options.split(',').any(|name| name == "memory" || name == "cpu");
        if let (true, Some(mount)) = (ours, place.split(' ').nth(4)) {
            roots.push(PathBuf::from(mount));
        }
    }
    roots
}

/// Gives a group of each hierarchy to the scene's user.
fn delegate(scene: &Scene) -> Option<Delegated> {
    if !is_root() {
        skip("only root can delegate a control group for a test");
        return None;
    }
    let mut groups = Delegated(Vec::new());
    for root in roots() {
        let group = root.join(unique("frost-test"));
        // Where the controllers are in version 1, that of version 2 has none of them.
        let controllers = fs::read_to_string(root.join("cgroup.controllers"));
        if controllers.as_ref().is_ok_and(|list| !list.split_whitespace().any(|name| name == "memory")) {
            continue;
        }
        if controllers.is_ok() && fs::write(root.join("cgroup.subtree_control"), "+memory +cpu").is_err() {
            skip("no control groups may be made here");
            return None;
        }
        if fs::create_dir(&group).is_err() {
            skip("no control groups may be made here");
            return None;
        }
        groups.0.push(group.clone());
        scene.give(&group);
        for name in ["cgroup.procs", "cgroup.subtree_control", "tasks"] {
            if group.join(name).exists() {
                scene.give(&group.join(name));
            }
        }
    }
    Some(groups)
}

/// A name that no other test has, of this run or another: all make their groups at one place.
fn unique(base: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{base}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

macro_rules! budgets {
    ($($name:ident)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn as_myself() {
                if let Some(scene) = Budgeted::new(Who::Myself) {
                    super::$name(&scene);
                }
            }

            #[test]
            fn as_an_ordinary_user_with_a_group() {
                if let Some(scene) = Budgeted::new(Who::Ordinary) {
                    super::$name(&scene);
                }
            }
        }
    )*};
}

budgets! {
    a_program_that_needs_more_memory_is_ended_and_that_is_said
    a_budget_is_shown_and_changed_and_goes_with_the_program
    processor_time_is_limited
    a_program_without_a_budget_gets_one_while_it_runs
    what_a_killed_keeper_left_is_removed_by_the_next_command
}

/// A program that takes so many MiB, says so, and waits, with all of them in memory: it writes them to somebody who reads
/// no more than the first byte.
fn taking(mib: u32) -> String {
    let reader = "[ \"$(head -c 1 | tr '\\0' x)\" = x ] && echo > taken; exec sleep 100000";
    format!("dd if=/dev/zero bs={mib}M count=1 2> /dev/null | {{ {reader}; }}")
}

fn a_program_that_needs_more_memory_is_ended_and_that_is_said(budgeted: &Budgeted) {
    let greedy = ["dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1"];
    let outcome = budgeted.frost(&[&["run", "--ram", "64M", "--"][..], &greedy].concat());
    assert_eq!(outcome.status, Some(128 + 9), "{outcome}");
    assert!(outcome.stderr.contains("more memory than its budget"), "{outcome}");
    // The kernel ends the child, which is the one that is large; the program is ended for it.
    let name = unique("greedy");
    budgeted.frost(&["run", "-d", "--name", &name, "--ram", "64M", "--", "sh", "-c", &taking(300)]).ok();
    let outcome = budgeted.frost(&["wait", &name]);
    assert_eq!(outcome.status, Some(128 + 9), "{outcome}");
    assert!(outcome.stderr.contains("more memory than its budget"), "{outcome}");
    let record = budgeted.ps(&name);
    assert_eq!(record["state"], "ended");
    assert!(record["what"].as_str().is_some_and(|what| what.contains("memory")), "{record}");
    assert!(!budgeted.scene.stage("taken").exists());
    until("its groups are gone", || budgeted.groups(&name).is_empty());
    // One that ends by itself, or by the same signal from elsewhere, has not run out of memory.
    let outcome = budgeted.frost(&["run", "--ram", "64M", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(128 + 9), ""), "{outcome}");
}

const MIB: i64 = 1 << 20;

fn a_budget_is_shown_and_changed_and_goes_with_the_program(budgeted: &Budgeted) {
    let name = unique("sized");
    let program = taking(40);
    let start = ["run", "-d", "--name", &name, "--ram", "100M", "--cpu", "1.5"];
    budgeted.frost(&[&start[..], &["--", "sh", "-c", &program]].concat()).ok();
    budgeted.scene.await_file("taken");
    let record = budgeted.ps(&name);
    assert_eq!(
        (&record["ram_limit_bytes"], &record["cpu_limit_percent"]),
        (&(100 * MIB).into(), &150.into())
    );
    assert!(record["ram_bytes"].as_i64().is_some_and(|bytes| bytes > 40 * MIB), "{record}");
    assert!(record["cpu_us"].as_i64().is_some(), "{record}");
    assert!(budgeted.frost(&["ps", &name]).ok().stdout.contains("of 100 MiB"));
    budgeted.frost(&["set", &name, "--ram", "20M"]).refused(1, "20480 KiB of memory");
    budgeted.frost(&["set", &name, "--ram", "much"]).refused(2, "much");
    budgeted.frost(&["set", &name, "--ram", "80M"]).ok();
    let limit = |expected: i64| {
        let record = budgeted.ps(&name);
        assert_eq!((&record["state"], &record["ram_limit_bytes"]), (&"running".into(), &expected.into()));
    };
    limit(80 * MIB);
    for cold in [&[][..], &["--cold"]] {
        budgeted.frost(&[&["freeze", &name][..], cold].concat()).ok();
        until("its groups are gone", || budgeted.groups(&name).is_empty());
        budgeted.frost(&["set", &name, "--ram", "10M"]).ok();
        budgeted.frost(&["thaw", &name]).refused(1, "does not fit into its budget of 10240 KiB");
        budgeted.frost(&["set", &name, "--ram", "90M", "--cpu", "none"]).ok();
        budgeted.frost(&["thaw", &name]).ok();
        limit(90 * MIB);
        assert!(budgeted.ps(&name)["cpu_limit_percent"].is_null());
        budgeted.frost(&["set", &name, "--ram", "80M", "--cpu", "50%"]).ok();
    }
    // All of it is in the image, so that another store's instance has it too.
    budgeted.frost(&["freeze", &name]).ok();
    let inspected = budgeted.frost(&["inspect", &name]).ok();
    assert!(inspected.stdout.contains("80.0 MiB of memory, 50% of a processor"), "{inspected}");
    let (file, other) = (budgeted.scene.stage("image"), budgeted.scene.stage("other"));
    let (file, other) = (file.to_str().expect("a path"), other.to_str().expect("a path"));
    budgeted.frost(&["export", &name, file]).ok();
    budgeted.frost(&["rm", &name]).ok();
    budgeted.frost(&["--store", other, "import", file]).ok();
    budgeted.frost(&["--store", other, "set", &name, "--cpu", "40%"]).ok();
    budgeted.frost(&["--store", other, "thaw", &name]).ok();
    let record = budgeted.frost(&["--store", other, "ps", &name, "--json"]).ok().record();
    assert_eq!((&record["ram_limit_bytes"], &record["cpu_limit_percent"]), (&(80 * MIB).into(), &40.into()));
    budgeted.frost(&["--store", other, "kill", &name]).ok();
    budgeted.frost(&["--store", other, "wait", &name]);
    assert!(budgeted.groups(&name).is_empty());
}

fn processor_time_is_limited(budgeted: &Budgeted) {
    let name = unique("busy");
    budgeted
        .frost(&["run", "-d", "--name", &name, "--cpu", "10%", "--", "sh", "-c", "while :; do :; done"])
        .ok();
    let throttled = || {
        budgeted.groups(&name).iter().any(|group| {
            let text = fs::read_to_string(group.join("cpu.stat")).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("nr_throttled "));
            lines.any(|count| count != "0")
        })
    };
    until("it has to wait for its share", throttled);
    budgeted.frost(&["kill", &name]).ok();
    budgeted.frost(&["wait", &name]);
    assert!(budgeted.groups(&name).is_empty());
}

fn a_program_without_a_budget_gets_one_while_it_runs(budgeted: &Budgeted) {
    let name = unique("late");
    let script = format!("while ! test -e go; do sleep 0.01; done; {}", taking(300));
    let mut command = budgeted.command(&["run", "--name", &name, "--", "sh", "-c", &script]);
    let mut parent = budgeted.scene.start(&mut command, Stdio::Files);
    until("it runs", || budgeted.frost(&["ps", &name, "--json"]).stdout.contains("running"));
    assert!(budgeted.groups(&name).is_empty());
    budgeted.frost(&["set", &name, "--ram", "64M"]).ok();
    assert_eq!(budgeted.ps(&name)["ram_limit_bytes"], 64 * MIB);
    fs::write(budgeted.scene.stage("go"), "").expect("our own directory");
    assert_eq!(parent.wait("frost run", LIMIT).code(), Some(128 + 9));
    assert!(!budgeted.scene.stage("taken").exists());
    assert!(budgeted.groups(&name).is_empty());
    let told = fs::read_to_string(budgeted.scene.stage("err")).unwrap_or_default();
    assert!(told.contains("more memory than its budget"), "{told}");
}

fn what_a_killed_keeper_left_is_removed_by_the_next_command(budgeted: &Budgeted) {
    let name = unique("left");
    let started =
        budgeted.frost(&["run", "-d", "--name", &name, "--ram", "64M", "--json", "--", "sleep", "1000"]).ok();
    let keeper = rustix::process::Pid::from_raw(started.number("keeper") as i32).expect("a pid");
    assert!(!budgeted.groups(&name).is_empty());
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).expect("it lives");
    until("nothing is left", || {
        budgeted.frost(&["gc"]).ok();
        budgeted.groups(&name).is_empty()
    });
    assert_eq!(budgeted.ps(&name)["state"], "lost");
}

#[test]
fn where_nothing_is_delegated_that_is_said_with_the_remedy() {
    let Some(scene) = Scene::new(Who::Ordinary) else { return };
    let outcome = scene.frost(&["run", "--ram", "64M", "--", "true"]);
    if outcome.status == Some(0) {
        skip("a control group is delegated to ordinary users here");
        return;
    }
    outcome.refused(125, "systemd-run --user --scope -p Delegate=yes");
    assert_eq!(scene.frost(&["run", "--", "true"]).status, Some(0));
    assert_eq!(scene.frost(&["ps", "--json"]).ok().stdout, "");
    scene.frost(&["run", "--detach", "--name", "free", "--", "sleep", "1000"]).ok();
    scene.frost(&["set", "free", "--cpu", "1"]).refused(5, "delegated");
    scene.frost(&["set", "free", "--cpu", "none"]).ok();
    // What it is to have is known when it is frozen, and said when it cannot be had.
    scene.frost(&["freeze", "free"]).ok();
    scene.frost(&["set", "free", "--cpu", "1"]).ok();
    scene.frost(&["thaw", "free"]).refused(5, "delegated");
    scene.frost(&["set", "free", "--cpu", "none"]).ok();
    scene.frost(&["thaw", "free"]).ok();
    scene.frost(&["kill", "free"]).ok();
    assert_eq!(scene.frost(&["wait", "free"]).status, Some(128 + 15));
    scene.frost(&["set", "nobody", "--cpu", "1"]).refused(6, "no program of that name");
    scene.frost(&["run", "--cpu", "0", "--", "true"]).refused(125, "share");
}

/// Control groups of version 2: memory.max, memory.reclaim, memory.events, cpu.max, cgroup.subtree_control.
#[test]
fn all_of_this_holds_with_version_2() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    if !guest::kernel_for(&scene) {
        return;
    }
    let init = "mount -t cgroup2 none /sys/fs/cgroup";
    let told = guest::test_in_a_guest(&scene, init, "--skip all_of_this_holds_with_version_2", &[]);
    println!("{told}");
    assert!(told.contains("test result: ok. ") && !told.contains("skipped: "), "{told}");
}
