//! Never lost, at any moment: whoever is killed, at whatever step, the program runs unharmed or its image is whole; never
//! both, never neither, and no half tree.
//!
//! `FROST_KILLS` says how often each test kills (10), `FROST_KILLS_OF` of which program only. A program lives through several kills: behind each it is looked at
//! from outside, at its end it judges itself. Where each kill hit and how it ended is printed as a record.

use frost_tests::journey::Traveller;
use frost_tests::tally::{Ending, OVER, Tally};
use frost_tests::trail::{Course, Moment, Moments, Trail};
use frost_tests::{LIMIT, Outcome, Scene, Started, Stdio, Who, is_alive, is_frost, tree_of, until};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

fn set_out<'a>(scene: &'a Scene, name: &str) -> Traveller<'a> {
    Traveller::set_out(scene, binary(), name, Stdio::Files)
}

/// So many kills a program lives through at most.
const KILLS_A_LIFE: u64 = 8;

/// One program's life: so many kills, which differ from those of all others.
struct Life<'a> {
    name: &'static str,
    who: Who,
    kills: u64,
    moments: Moments,
    tally: &'a Tally,
    /// What has happened to it, told if it does not end well.
    story: Vec<String>,
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} as {:?} lived through {:#?}", self.name, self.who, self.story);
        }
    }
}

/// Lets programs live until there were so many kills as asked for, several beside each other: each of the names as each
/// user. A life returns how many kills it had, none where this machine cannot do it.
fn lives(seed: u64, names: &'static [&'static str], live: impl Fn(&mut Life<'_>) -> u64 + Sync) {
    let kills: u64 = std::env::var("FROST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let kinds = 2 * names.len() as u64;
    let kills_a_life = (kills / (4 * kinds)).clamp(1, KILLS_A_LIFE);
    let only = std::env::var("FROST_KILLS_OF").ok();
    // Programs wait more than they work.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if kills_a_life == 1 { 2 } else { 2 * cpus };
    let (tally, next, done) = (Tally::default(), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) < kills && !tally.is_lost() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let who = if (number / names.len() as u64).is_multiple_of(2) {
                        Who::Myself
                    } else {
                        Who::Ordinary
                    };
                    if only
                        .as_deref()
                        .is_some_and(|only| only != names[(number % names.len() as u64) as usize])
                    {
                        continue;
                    }
                    let mut life = Life {
                        name: names[(number % names.len() as u64) as usize],
                        who,
                        kills: kills_a_life,
                        moments: Moments::new(seed + number),
                        tally: &tally,
                        story: Vec::new(),
                    };
                    // One that cannot be lived here counts, so that this comes to an end.
                    let kills = live(&mut life).max(1);
                    done.fetch_add(kills, Ordering::Relaxed);
                }
            });
        }
    });
}

/// How freezes and thaws of a program go undisturbed, looked at once.
#[derive(Default)]
struct Courses(Mutex<HashMap<(&'static str, bool), [Course; 2]>>);

impl Courses {
    /// Returns those of a freeze and of a thaw.
    fn of(&self, name: &'static str, who: Who) -> Option<[Course; 2]> {
        let key = (name, who == Who::Ordinary);
        let known = self.0.lock().expect("nobody panics with it").get(&key).copied();
        if known.is_some() {
            return known;
        }
        let scene = Scene::new(who)?;
        let mut traveller = set_out(&scene, name);
        let trail = Trail::new(&scene);
        let pid = traveller.pid.to_string();
        traveller.tree = tree_of(traveller.pid);
        let freeze = undisturbed(&scene, &trail, &["freeze", &pid, "--to", "victim"]);
        traveller.is_gone();
        let thaw = undisturbed(&scene, &trail, &["thaw", "victim"]);
        self.0.lock().expect("nobody panics with it").insert(key, [freeze, thaw]);
        Some([freeze, thaw])
    }
}

impl Courses {
    /// Learns from a kill: what takes less time than when it was looked at, on a busy machine, is killed earlier.
    fn learn(&self, name: &'static str, who: Who, of_thaw: bool, was_late: bool) {
        let mut known = self.0.lock().expect("nobody panics with it");
        if let Some(courses) = known.get_mut(&(name, who == Who::Ordinary)) {
            let whole = &mut courses[usize::from(of_thaw)].whole;
            *whole = if was_late { *whole * 2 / 3 } else { *whole * 9 / 8 };
        }
    }
}

fn undisturbed(scene: &Scene, trail: &Trail, arguments: &[&str]) -> Course {
    let mut command = scene.frost_command(arguments);
    trail.follow(&mut command);
    let start = Instant::now();
    scene.run(&mut command, LIMIT).ok();
    let course = Course { whole: start.elapsed(), steps: trail.len() };
    assert!(course.steps > 3, "no trail of {arguments:?}");
    course
}

/// Starts a command that leaves its trail, and returns while it runs.
fn start_frost(scene: &Scene, trail: &Trail, arguments: &[&str]) -> Started {
    let mut command = scene.frost_command(arguments);
    trail.follow(&mut command);
    let log = File::create(scene.path("logs").join("killed")).expect("our own directory");
    Started::spawn(
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log),
    )
}

/// Waits for the end of such a command, and tells what it said.
fn finish(scene: &Scene, mut command: Started, what: &str) -> Outcome {
    let status = command.wait(what, LIMIT).code();
    let stderr = fs::read_to_string(scene.path("logs").join("killed")).unwrap_or_default();
    let outcome = Outcome { status, stdout: String::new(), stderr, command: what.to_owned() };
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    outcome
}

fn kill(pid: i32) {
    if let Some(pidfd) =
        Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok())
    {
        let _gone_already = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}

/// Whoever was not killed comes to an end by itself: the guardian, the command.
fn frost_has_ended(scene: &Scene) {
    scene.until("frost has ended", || scene.processes().iter().all(|pid| !is_frost(*pid)));
}

/// The guardian, looked for without a break: much happens in its first millisecond.
fn guardian_of(command: &mut Started) -> Option<i32> {
    loop {
        if let Some(guardian) = tree_of(command.pid()).get(1) {
            return Some(*guardian);
        }
        command.ended().map_or(Some(()), |_| None)?;
    }
}

/// How often each thread of a process has waited for something.
fn waits(pid: i32) -> HashMap<String, u64> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return HashMap::new() };
    let of_thread = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"))?;
        let count = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), count))
    };
    tasks.flatten().filter_map(of_thread).collect()
}

/// Whether a process is being built: its builder may be dead, which it hears only when it is done.
fn is_being_built(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.to_string_lossy().contains("frost-stub"))
}

/// Tells whether a process goes on, as its naps show, or has ended; one that does neither is waited for in vain.
fn goes_on(pid: i32, how: &str) -> bool {
    until(&format!("process {pid} is built or has ended ({how})"), || !is_being_built(pid) || !is_alive(pid));
    let before = waits(pid);
    let mut on = false;
    until(&format!("process {pid} goes on or has ended ({how})"), || {
        // One that is on its way out waits too, or each of its threads at the gate, but not again and again.
        let now = waits(pid);
        on =
            is_alive(pid) && now.iter().any(|(thread, count)| *count >= before.get(thread).unwrap_or(&0) + 5);
        on || !is_alive(pid)
    });
    on
}

/// Checks that nobody holds or has stopped any thread of a tree that goes on.
fn is_let_alone(tree: &[i32], how: &str) {
    for pid in tree {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for status in tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok()) {
            let held = status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
            let stopped = status.lines().any(|line| line.starts_with("State:") && line.contains("stop"));
            assert!(!held && !stopped, "{how}: process {pid} is held or stopped\n{status}");
        }
    }
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The images of a scene: version and state. What a dead guardian or builder has left is taken away by this command too.
fn images(scene: &Scene) -> Vec<(i64, String)> {
    let outcome = scene.frost(&["list", "--json"]).ok();
    let records = outcome.stdout.lines().map(|line| {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|why| panic!("{why}: {outcome}"))
    });
    records
        .map(|record| {
            assert!(record.get("problem").is_none(), "an image that is not whole\n{outcome}");
            (record["version"].as_i64().unwrap_or(0), record["state"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

/// The newest image that is not superseded.
fn newest(images: &[(i64, String)]) -> i64 {
    images.iter().filter(|(_, state)| state != "superseded").map(|(version, _)| *version).max().unwrap_or(0)
}

/// Whatever happened to a freeze: the program runs and no image says otherwise, or it is gone and its image is whole.
///
/// `before` are the images that there were, and become those that there are.
fn safe_and_sound(
    scene: &Scene,
    traveller: &mut Traveller<'_>,
    before: &mut Vec<(i64, String)>,
    how: &str,
) -> Ending {
    frost_has_ended(scene);
    let newest_before = newest(before);
    let known = std::mem::replace(before, images(scene));
    let images = before;
    if goes_on(traveller.pid, how) {
        let lost: Vec<&i32> = traveller.tree.iter().filter(|pid| !is_alive(**pid)).collect();
        assert!(lost.is_empty(), "{how}: of the tree {lost:?} are gone");
        is_let_alone(&traveller.tree, how);
        assert_eq!(newest(images), newest_before, "{how}: it goes on, and could be thawed: {images:?}");
        if images.iter().any(|(_, state)| state == "superseded") {
            scene.frost(&["thaw", "victim"]).refused(1, "--clone");
        }
        // It may be that of an earlier kill.
        if images.iter().any(|image| image.1 == "superseded" && !known.contains(image)) {
            return Ending::Excluded;
        }
        return Ending::GoesOn;
    }
    // Its end had begun, and goes on without whoever began it.
    until("all of it has ended", || traveller.tree.iter().all(|pid| !is_alive(*pid)));
    traveller.is_gone();
    // It may have ended only after they were listed.
    *images = self::images(scene);
    assert!(
        images.iter().any(|(version, state)| *version > newest_before && state == "frozen"),
        "{how}: the program is gone, and so is its image: {images:?}"
    );
    Ending::Frozen
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Command,
    Guardian,
}

fn dies_amid_freezes(courses: &Courses, whom: Whom, life: &mut Life<'_>) -> u64 {
    if courses.of(life.name, life.who).is_none() {
        return 0;
    }
    let Some(scene) = Scene::new(life.who) else { return 0 };
    let mut traveller = set_out(&scene, life.name);
    let trail = Trail::new(&scene);
    let open = descriptors(traveller.pid);
    let (mut way, mut before, mut kills) = ("left alone", Vec::new(), 0);
    while kills < life.kills && !life.tally.is_lost() {
        kills += 1;
        let Some([course, _]) = courses.of(life.name, life.who) else { break };
        let round = life.tally.begin();
        let moment = life.moments.of(course);
        let how = format!("{} as {:?}, killed {moment:?}", life.name, life.who);
        let pid = traveller.pid.to_string();
        let mut command = start_frost(&scene, &trail, &["freeze", &pid, "--to", "victim"]);
        let target = match whom {
            Whom::Command => Some(command.pid()),
            Whom::Guardian => guardian_of(&mut command),
        };
        trail.wait(moment, &mut command);
        let at = trail.last();
        target.into_iter().for_each(kill);
        let outcome = finish(&scene, command, &how);
        life.story.push(format!("{how} behind {at}: {:?}", outcome.status));
        let step = match (whom, outcome.status) {
            (Whom::Command, None) => at,
            (Whom::Guardian, Some(status)) if status != 0 => {
                assert!(outcome.stderr.contains("state:"), "nothing tells how things stand\n{outcome}");
                // It is dead: this is how far it came.
                trail.last()
            }
            (_, Some(0)) => OVER.to_owned(),
            _ => panic!("{how}\n{outcome}"),
        };
        courses.learn(life.name, life.who, false, step == OVER);
        let ending = safe_and_sound(&scene, &mut traveller, &mut before, &how);
        match ending {
            Ending::GoesOn | Ending::Excluded => {
                assert_eq!(descriptors(traveller.pid), open, "{how}: its descriptors");
            }
            Ending::Frozen => {
                traveller.thaw(&[]);
                traveller.tree = tree_of(traveller.pid);
                way = "thawed";
                before = images(&scene);
            }
        }
        round.end(&step, ending);
        if ending == Ending::Frozen && life.who == Who::Ordinary {
            // It lives in namespaces of its own now, which is another test.
            break;
        }
    }
    // What was harmed without a sign is found now: a program that is not content counts as a kill that lost it.
    life.tally.judge(|| {
        traveller.arrive(way);
        scene.is_empty_soon();
    });
    kills
}

#[test]
fn the_command_dies_at_any_moment() {
    // All registers in use, calls that must not return EINTR, data under way, memory shared.
    const NAMES: &[&str] =
        &["registers_of_threads", "restart_in_threads_at_least", "pipe_stream", "shared_between_processes"];
    let courses = Courses::default();
    lives(0x1234_5678, NAMES, |life| dies_amid_freezes(&courses, Whom::Command, life));
}

#[test]
fn the_guardian_dies_at_any_moment() {
    // Not the calls: between a stop and the repair of what it interrupted, no order of calls can help.
    const NAMES: &[&str] = &[
        "registers_of_threads",
        "pipe_stream",
        "shared_between_processes",
        "anonymous_filled",
        "tree_sessions",
        "signals_pending_many",
    ];
    let courses = Courses::default();
    lives(0x9e37_79b9, NAMES, |life| dies_amid_freezes(&courses, Whom::Guardian, life));
}

/// Nothing is left of a snapshot: no page is protected, no descriptor is there, no half image.
fn as_before(scene: &Scene, traveller: &Traveller<'_>, open: usize, how: &str) {
    frost_has_ended(scene);
    // The kernel lifts the protection when the last holder of the descriptor is gone, which is just going.
    until("no page is tracked", || {
        tree_of(traveller.pid).iter().all(|pid| {
            let flags = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
            !flags.contains(" uw")
        })
    });
    assert_eq!(descriptors(traveller.pid), open, "{how}: descriptors of the program");
    scene.frost(&["gc"]).ok();
    let drafts = fs::read_dir(scene.path("home").join("drafts")).map_or(0, Iterator::count);
    assert_eq!(drafts, 0, "{how}: half an image stays");
    is_let_alone(&traveller.tree, how);
}

#[test]
fn the_guardian_of_a_snapshot_dies_at_any_moment() {
    // Programs whose memory changes while it is copied.
    const MOVING: &[&str] = &["moving_counters", "moving_mappings", "moving_stack", "anonymous_huge_pages"];
    lives(0x0dd0_5eed, MOVING, |life| {
        let Some(scene) = Scene::new(life.who) else { return 0 };
        let traveller = Traveller::set_out(&scene, binary(), life.name, Stdio::Null);
        let trail = Trail::new(&scene);
        let pid = traveller.pid.to_string();
        let open = descriptors(traveller.pid);
        let arguments = ["freeze", &pid, "--to", "victim", "--leave-running"];
        let mut course = undisturbed(&scene, &trail, &arguments);
        let mut kills = 0;
        while kills < life.kills && !life.tally.is_lost() {
            kills += 1;
            let round = life.tally.begin();
            let moment = life.moments.of(course);
            let how = format!("{} as {:?}, killed {moment:?}", life.name, life.who);
            let before = newest(&images(&scene));
            let mut command = start_frost(&scene, &trail, &arguments);
            let guardian = guardian_of(&mut command);
            trail.wait(moment, &mut command);
            guardian.into_iter().for_each(kill);
            let outcome = finish(&scene, command, &how);
            life.story.push(format!("{how} behind {}: {:?}", trail.last(), outcome.status));
            // It ends by itself if it finds harm.
            let told = || fs::read_to_string(scene.stage("result")).unwrap_or_default();
            assert!(is_alive(traveller.pid), "{how}: it is gone: {:?}\n{outcome}", told());
            as_before(&scene, &traveller, open, &how);
            let is_there = newest(&images(&scene)) > before;
            let is_over = outcome.status == Some(0);
            assert!(is_there || !is_over, "{how}: there is no image\n{outcome}");
            if is_there {
                scene.frost(&["verify", "victim"]).ok();
            }
            let step = if is_over { OVER.to_owned() } else { trail.last() };
            // One that nobody disturbs behind it, of a program that the dead one had begun to track.
            course = undisturbed(&scene, &trail, &arguments);
            as_before(&scene, &traveller, open, &how);
            round.end(&step, Ending::GoesOn);
        }
        life.tally.judge(|| {
            traveller.arrive("left running");
            scene.frost(&["verify", "victim"]).ok();
            scene.is_empty_soon();
        });
        kills
    });
}

/// After a thaw that was killed, all of the tree runs or nothing of it is left, and the image is as it was.
fn all_or_nothing(scene: &Scene, members: &[i32], root: i32, outcome: &Outcome, how: &str) -> Ending {
    frost_has_ended(scene);
    // What it has left in the program behind its commit, the next command takes away.
    images(scene);
    if goes_on(root, how) {
        let lost: Vec<&i32> = members.iter().filter(|pid| !is_alive(**pid)).collect();
        assert!(lost.is_empty(), "{how}: of the tree {lost:?} are missing\n{outcome}");
        is_let_alone(members, how);
        return Ending::GoesOn;
    }
    nothing_of_it_runs(scene, outcome, how);
    Ending::Frozen
}

fn nothing_of_it_runs(scene: &Scene, outcome: &Outcome, how: &str) {
    until("nothing of it is left", || scene.processes().is_empty());
    assert_ne!(outcome.status, Some(0), "{how}: thaw said it runs, and nothing runs\n{outcome}");
    assert!(outcome.status.is_none() || outcome.stderr.contains("state:"), "{how}\n{outcome}");
    scene.frost(&["verify", "victim"]).ok();
    // The first process of a pid namespace has no memory and no directory any more while it waits for the others to end
    // (zap_pid_ns_processes, kernel/pid_namespace.c), so that it is no process of the scene; it counts as running still.
    until(&format!("{how}: the image is frozen"), || {
        images(scene).iter().max().is_some_and(|(_, state)| state == "frozen")
    });
}

#[test]
fn thaw_dies_at_any_moment() {
    const NAMES: &[&str] = &[
        "thread_local_storage",
        "tree_sessions",
        "registers_of_threads",
        "tree_zombies",
        "anonymous_filled",
        "pipe_stream",
        "tree_fifty",
        "restart_in_threads_at_least",
    ];
    let courses = Courses::default();
    lives(0xfeed_beef, NAMES, |life| {
        if courses.of(life.name, life.who).is_none() {
            return 0;
        }
        let Some(scene) = Scene::new(life.who) else { return 0 };
        let mut traveller = set_out(&scene, life.name);
        let members: Vec<i32> = traveller.tree.iter().copied().filter(|pid| is_alive(*pid)).collect();
        let trail = Trail::new(&scene);
        traveller.freeze();
        let mut frozen = true;
        let mut kills = 0;
        while kills < life.kills && !life.tally.is_lost() {
            kills += 1;
            if !frozen {
                traveller.freeze();
            }
            let Some([_, course]) = courses.of(life.name, life.who) else { break };
            let round = life.tally.begin();
            let moment = life.moments.of(course);
            let how = format!("{} as {:?}, thaw killed {moment:?}", life.name, life.who);
            let mut command = start_frost(&scene, &trail, &["thaw", "victim"]);
            trail.wait(moment, &mut command);
            let at = trail.last();
            // The command, or one of those it has made for the work.
            let of_frost: Vec<i32> = tree_of(command.pid())
                .into_iter()
                .filter(|pid| *pid == command.pid() || is_frost(*pid))
                .collect();
            let target = if life.moments.below(3) == 0 {
                of_frost[life.moments.below(of_frost.len() as u64) as usize]
            } else {
                command.pid()
            };
            kill(target);
            let is_command_s = target == command.pid();
            let mut outcome = finish(&scene, command, &how);
            life.story
                .push(format!("{how} behind {at}: process {target} of {of_frost:?}, {:?}", outcome.status));
            let step = if outcome.status == Some(0) { OVER.to_owned() } else { at };
            courses.learn(life.name, life.who, true, step == OVER);
            if !is_command_s {
                // The first process of its namespaces keeps it, and may have been hit when all was done and said.
                outcome.status = outcome.status.filter(|status| *status != 0);
            }
            if life.who == Who::Ordinary {
                // Nobody has told its pid, so only it can tell that it runs.
                frost_has_ended(&scene);
                images(&scene);
                traveller.say_go("thawed");
                let result = scene.stage("result");
                until("the tree runs or is gone", || result.exists() || scene.processes().is_empty());
                if result.exists() {
                    traveller.arrive("thawed");
                    scene.is_empty_soon();
                    round.end(&step, Ending::GoesOn);
                    return kills;
                }
                nothing_of_it_runs(&scene, &outcome, &how);
                fs::remove_file(scene.stage("go")).expect("it was said");
                round.end(&step, Ending::Frozen);
                continue;
            }
            let ending = all_or_nothing(&scene, &members, traveller.pid, &outcome, &how);
            frozen = ending == Ending::Frozen;
            life.story.push(format!("{ending:?}"));
            round.end(&step, ending);
        }
        life.tally.judge(|| {
            if frozen {
                traveller.thaw(&[]);
            }
            traveller.arrive("thawed");
            scene.is_empty_soon();
        });
        kills
    });
}

/// Somebody else kills a process of the program while it is frozen. It may be in the image as it was before, or the freeze
/// says that it cannot be done; the others go on in any case, and their parent hears of the dead one once.
#[test]
fn a_process_of_the_program_dies_amid_its_freeze() {
    let courses = Courses::default();
    lives(0x0c0f_fee0, &["tree_mourned"], |life| {
        let Some([course, _]) = courses.of(life.name, life.who) else { return 0 };
        let Some(scene) = Scene::new(life.who) else { return 0 };
        let mut traveller = set_out(&scene, life.name);
        let trail = Trail::new(&scene);
        let (mut way, mut kills) = ("left alone", 0);
        // Its four children one after the other, and in the end itself.
        while kills < life.kills && !life.tally.is_lost() {
            traveller.tree = tree_of(traveller.pid);
            let mut children: Vec<i32> = traveller
                .tree
                .iter()
                .copied()
                .filter(|pid| *pid != traveller.pid && is_alive(*pid))
                .collect();
            let is_root_s = children.is_empty() || life.moments.below(6) == 0;
            let target = match is_root_s {
                true => traveller.pid,
                false => children.swap_remove(life.moments.below(children.len() as u64) as usize),
            };
            kills += 1;
            let round = life.tally.begin();
            let moment = life.moments.of(course);
            let how = format!(
                "as {:?}, {} killed {moment:?}",
                life.who,
                if is_root_s { "its root" } else { "a child" }
            );
            let pid = traveller.pid.to_string();
            let mut command = start_frost(&scene, &trail, &["freeze", &pid, "--to", "victim"]);
            trail.wait(moment, &mut command);
            let at = trail.last();
            kill(target);
            let outcome = finish(&scene, command, &how);
            life.story.push(format!("{how} behind {at}: process {target}\n{outcome}"));
            frost_has_ended(&scene);
            let ending = if outcome.status == Some(0) {
                traveller.is_gone();
                traveller.thaw(&[]);
                way = "thawed";
                Ending::Frozen
            } else {
                assert!(outcome.stderr.contains("state:"), "{how}\n{outcome}");
                for pid in &children {
                    assert!(goes_on(*pid, &how), "{how}: child {pid} is gone too\n{outcome}");
                }
                is_let_alone(&children, &how);
                assert!(is_root_s || goes_on(traveller.pid, &how), "{how}: it is gone too\n{outcome}");
                Ending::GoesOn
            };
            round.end(&at, ending);
            if ending == Ending::GoesOn && is_root_s {
                // Who would judge is dead; the rest is ended with the scene.
                return kills;
            }
            if ending == Ending::Frozen && life.who == Who::Ordinary {
                break;
            }
        }
        life.tally.judge(|| {
            traveller.arrive(way);
            scene.is_empty_soon();
        });
        kills
    });
}

/// Somebody else kills a process of the program while it is thawed: all of it runs but that one, or nothing does and the
/// image is as it was.
#[test]
fn a_process_of_the_program_dies_amid_its_thaw() {
    let courses = Courses::default();
    lives(0xba5e_ba11, &["tree_mourned"], |life| {
        let Some([_, course]) = courses.of(life.name, life.who) else { return 0 };
        let Some(scene) = Scene::new(life.who) else { return 0 };
        let mut traveller = set_out(&scene, life.name);
        let trail = Trail::new(&scene);
        traveller.freeze();
        let mut kills = 0;
        while kills < life.kills && !life.tally.is_lost() {
            kills += 1;
            let round = life.tally.begin();
            let moment = life.moments.of(course);
            let how = format!("as {:?}, killed {moment:?}", life.who);
            let mut command = start_frost(&scene, &trail, &["thaw", "victim"]);
            trail.wait(moment, &mut command);
            let at = trail.last();
            // Those that are being built are below the command; those that run under their old numbers are ours.
            let mut built: Vec<i32> = tree_of(command.pid())
                .into_iter()
                .filter(|pid| *pid != command.pid() && !is_frost(*pid))
                .collect();
            if built.is_empty()
                && life.who == Who::Myself
                && tree_of(std::process::id() as i32).contains(&traveller.pid)
            {
                built = tree_of(traveller.pid);
            }
            let target = (!built.is_empty()).then(|| built[life.moments.below(built.len() as u64) as usize]);
            target.into_iter().for_each(kill);
            let outcome = finish(&scene, command, &how);
            life.story.push(format!("{how} behind {at}: {target:?} of {built:?}\n{outcome}"));
            frost_has_ended(&scene);
            images(&scene);
            let step = if target.is_some() { at } else { OVER.to_owned() };
            if outcome.status != Some(0) {
                nothing_of_it_runs(&scene, &outcome, &how);
                round.end(&step, Ending::Frozen);
                continue;
            }
            // It was let go. If its root was hit, nobody is left to judge; what is left is ended, and it is thawed anew.
            let result = scene.stage("result");
            traveller.say_go("thawed");
            until("it tells its verdict or has ended", || {
                result.exists()
                    || !scene.processes().iter().any(|pid| tree_of(*pid).len() > 1)
                    || (life.who == Who::Myself && !is_alive(traveller.pid))
            });
            if result.exists() {
                traveller.arrive("thawed");
                scene.is_empty_soon();
                round.end(&step, Ending::GoesOn);
                return kills;
            }
            assert!(target.is_some(), "{how}: thaw said it runs, and it does not\n{outcome}");
            until("what is left of it has ended", || {
                let left = scene.processes();
                left.iter().copied().for_each(kill);
                left.is_empty()
            });
            fs::remove_file(scene.stage("go")).expect("it was said");
            round.end(&step, Ending::GoesOn);
        }
        life.tally.judge(|| {
            traveller.thaw(&[]);
            traveller.arrive("thawed");
            scene.is_empty_soon();
        });
        kills
    });
}

/// It has no file open that changes, which an older image could not be thawed beside.
const COUNTER: &str = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done";

/// What its terminal has shown.
fn log(scene: &Scene) -> String {
    scene.frost(&["logs", "counter"]).ok().stdout
}

/// The numbers of a part of the log that begins with a line: of those that are whole.
fn numbers(log: &str) -> impl DoubleEndedIterator<Item = u64> + '_ {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| line.trim().parse().unwrap_or_else(|why| panic!("{line:?}: {why}")))
}

fn count(scene: &Scene) -> u64 {
    numbers(&log(scene)).next_back().unwrap_or(0)
}

fn counts_on(scene: &Scene) {
    let before = count(scene);
    until("the program counts on", || count(scene) > before);
}

/// Processes of a scene that are the first of their pid namespace.
fn keepers(scene: &Scene) -> Vec<i32> {
    let is_first = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        let own = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let depth = own
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .map_or(1, |n| n.split_whitespace().count());
        numbers.len() > depth && numbers.last() == Some(&"1")
    };
    scene.processes().into_iter().filter(is_first).collect()
}

/// The kernel ends the program with its keeper; its last whole image stays, and is thawed.
#[test]
fn the_keeper_dies_at_any_moment() {
    lives(0x5afe_c0de, &["freeze", "freeze --cold", "thaw", "thaw behind --cold"], |life| {
        let Some(scene) = Scene::with_namespaces(life.who) else { return 0 };
        let trail = Trail::new(&scene);
        let state =
            || scene.frost(&["ps", "counter", "--json"]).ok().record()["state"].as_str().map(str::to_owned);
        let freeze: &[&str] = if life.name.contains("cold") {
            &["freeze", "counter", "--cold"]
        } else {
            &["freeze", "counter"]
        };
        scene.frost(&["run", "--detach", "--name", "counter", "--", "sh", "-c", COUNTER]).ok();
        counts_on(&scene);
        let courses =
            [undisturbed(&scene, &trail, freeze), undisturbed(&scene, &trail, &["thaw", "counter"])];
        let mut kills = 0;
        while kills < life.kills && !life.tally.is_lost() {
            kills += 1;
            counts_on(&scene);
            let mut least = count(&scene);
            scene.frost(&["freeze", "counter", "--leave-running"]).ok();
            let is_thaw = life.name.starts_with("thaw");
            if is_thaw {
                counts_on(&scene);
                scene.frost(freeze).ok();
                least = count(&scene);
            }
            let round = life.tally.begin();
            let moment = life.moments.of(courses[usize::from(is_thaw)]);
            let how = format!("{} as {:?}, keeper killed {moment:?}", life.name, life.who);
            let arguments: &[&str] = if is_thaw { &["thaw", "counter"] } else { freeze };
            let mut keeper = keepers(&scene);
            let mut command = start_frost(&scene, &trail, arguments);
            trail.wait(moment, &mut command);
            let at = trail.last();
            if keeper.is_empty() {
                keeper = keepers(&scene);
            }
            keeper.iter().copied().for_each(kill);
            let outcome = finish(&scene, command, &how);
            life.story.push(format!("{how} behind {at}: {keeper:?}\n{outcome}"));
            let is_over = keeper.is_empty();
            if !is_over {
                assert!(outcome.status == Some(0) || outcome.stderr.contains("state:"), "{how}\n{outcome}");
            }
            frost_has_ended_beside_keepers(&scene);
            let step = if is_over { OVER.to_owned() } else { at };
            if !is_thaw && outcome.status == Some(0) {
                least = count(&scene);
            }
            // It ends when all in its namespace have.
            until("the keeper has ended", || is_over || keeper.iter().all(|pid| !is_alive(*pid)));
            // One that had kept it warm may die before it is asked; then the thaw makes another.
            let may_run = is_thaw && outcome.status == Some(0);
            let mut runs = false;
            until(&format!("it is frozen ({how})"), || {
                let state = state();
                runs = may_run && state.as_deref() == Some("running");
                runs || state.as_deref() == Some("frozen")
            });
            if runs {
                counts_on(&scene);
                round.end(&step, Ending::GoesOn);
                continue;
            }
            let told = log(&scene);
            scene.frost(&["thaw", "counter"]).ok();
            let mut next = None;
            until(&format!("it counts on ({how})"), || {
                let log = log(&scene);
                let mut new = log.get(told.len()..).unwrap_or_default();
                // The keeper may have died amid a line.
                if !told.ends_with('\n') {
                    new = new.split_once('\n').map_or("", |(_, rest)| rest);
                }
                next = numbers(new).next();
                next.is_some()
            });
            assert!(next > Some(least), "{how}: it went on at {next:?}, its last image was behind {least}");
            round.end(&step, Ending::Frozen);
        }
        scene.frost(&["kill", "-s", "KILL", "counter"]).ok();
        scene.is_empty_soon();
        kills
    });
}

/// The command and whoever works for it; keepers are frost too, and stay.
fn frost_has_ended_beside_keepers(scene: &Scene) {
    until("frost has ended", || {
        let keepers = keepers(scene);
        scene.processes().iter().all(|pid| keepers.contains(pid) || !is_frost(*pid))
    });
}

/// Counts in a file, from one on.
fn counter(name: &str) -> String {
    format!("n=0; while :; do n=$((n+1)); echo $n > {name}.new; mv {name}.new {name}; sleep 0.01; done")
}

/// What the outer program and the one in it have counted.
fn both(scene: &Scene) -> [u64; 2] {
    ["outer", "inner"].map(|name| {
        fs::read_to_string(scene.stage(name)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    })
}

/// Whether both count on, each behind `least`: the one without the other is not what was frozen.
fn both_go_on(scene: &Scene, least: [u64; 2], how: &str) {
    let before = both(scene);
    until(&format!("the outer and the inner program go on ({how})"), || {
        both(scene).iter().zip(before).all(|(now, before)| *now > before + 1)
    });
    let now = both(scene);
    assert!(now.iter().zip(least).all(|(now, least)| *now > least), "{how}: {now:?} behind {least:?}");
}

/// Whoever works at it is killed: a program with another one in it runs with that, or neither does and both are thawed. The
/// next thaw comes right behind one that was killed.
#[test]
fn one_who_works_at_a_program_within_a_program_dies_at_any_moment() {
    let names = &["freeze: command", "thaw: command", "freeze: guardian", "thaw: builder"];
    lives(0x0e57_0e57, names, |life| {
        let Some(scene) = Scene::with_namespaces(life.who) else { return 0 };
        let trail = Trail::new(&scene);
        let frost = scene.path("bin").join("frost").display().to_string();
        let inner = format!("{frost} run --detach --name inner -- sh -c '{}'", counter("inner"));
        let script = format!("{inner} && {}", counter("outer"));
        scene.frost(&["run", "--detach", "--name", "outer", "--", "sh", "-c", &script]).ok();
        both_go_on(&scene, [0; 2], "begun");
        let courses = [
            undisturbed(&scene, &trail, &["freeze", "outer"]),
            undisturbed(&scene, &trail, &["thaw", "outer"]),
        ];
        let is_thaw = life.name.starts_with("thaw");
        let mut kills = 0;
        while kills < life.kills && !life.tally.is_lost() {
            kills += 1;
            let mut least = both(&scene);
            both_go_on(&scene, least, "undisturbed");
            if is_thaw {
                scene.frost(&["freeze", "outer"]).ok();
                least = both(&scene);
            }
            let round = life.tally.begin();
            let moment = life.moments.of(courses[usize::from(is_thaw)]);
            let how = format!("{} as {:?}, killed {moment:?}", life.name, life.who);
            let mut command =
                start_frost(&scene, &trail, &[if is_thaw { "thaw" } else { "freeze" }, "outer"]);
            let guardian = (life.name == "freeze: guardian").then(|| guardian_of(&mut command)).flatten();
            trail.wait(moment, &mut command);
            let at = trail.last();
            let target = match life.name {
                "freeze: guardian" => guardian,
                "thaw: builder" => {
                    let is_one = |pid: &i32| is_frost(*pid) && *pid != command.pid();
                    let others: Vec<i32> = scene.processes().into_iter().filter(is_one).collect();
                    let which = life.moments.below(others.len().max(1) as u64) as usize;
                    others.get(which).copied()
                }
                _ => Some(command.pid()),
            };
            target.into_iter().for_each(kill);
            let outcome = finish(&scene, command, &how);
            life.story.push(format!("{how} behind {at}: {target:?}\n{outcome}"));
            let step = if target.is_none() || outcome.status == Some(0) { OVER.to_owned() } else { at };
            let thawed = |scene: &Scene| {
                let (mut thawed, mut seen) = (false, None);
                until(&format!("it is thawed, or both go on ({how})"), || {
                    let again = scene.frost(&["thaw", "outer"]);
                    thawed = again.status == Some(0);
                    // Whoever builds without the command that was killed hears of that when all is built.
                    let busy = again.stderr.contains("another command is starting it");
                    let runs = again.stderr.contains("runs already") || again.stderr.contains("--clone");
                    assert!(thawed || busy || runs, "{how}\n{again}");
                    // It may be on its way out.
                    let now = both(scene);
                    let then = *seen.get_or_insert(now);
                    thawed || runs && now.iter().zip(then).all(|(now, then)| *now > then + 1)
                });
                thawed
            };
            // At once, as whoever is impatient does.
            let was_frozen = if is_thaw {
                thawed(&scene)
            } else {
                frost_has_ended_beside_keepers(&scene);
                let state = scene.frost(&["ps", "outer", "--json"]).ok().record();
                life.story.push(format!("{state}"));
                state["state"] == "frozen" && {
                    least = both(&scene);
                    until(&format!("nothing of both is left ({how})"), || scene.processes().len() <= 1);
                    assert!(thawed(&scene), "{how}: it is frozen, and runs");
                    true
                }
            };
            both_go_on(&scene, least, &how);
            frost_has_ended_beside_keepers(&scene);
            is_let_alone(&scene.processes(), &how);
            round.end(&step, if was_frozen { Ending::Frozen } else { Ending::GoesOn });
        }
        // By another signal than that by which a freeze ends it, whose guardian may just have announced so.
        scene.frost(&["kill", "outer"]).ok();
        scene.is_empty_soon();
        kills
    });
}

/// A moment is one of the whole course, or right behind one of its steps.
#[test]
fn moments_spread_over_all_steps() {
    let course = Course { whole: std::time::Duration::from_millis(20), steps: 12 };
    let mut moments = Moments::new(1);
    let mut behind = [0; 13];
    let mut after = [0; 4];
    for _ in 0..2000 {
        match moments.of(course) {
            Moment::After(delay) => after[(delay.as_micros() / 5000) as usize] += 1,
            Moment::Behind(steps, _) => behind[steps] += 1,
        }
    }
    assert!(
        behind.iter().all(|count| *count > 30) && after.iter().all(|count| *count > 150),
        "{behind:?} {after:?}"
    );
}
