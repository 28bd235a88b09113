//! System V objects that others use too, that have changed, or whose numbers are taken.

use frost_sys::sysv::{self, Attached, Kind};
use frost_sys::{clone, mqueue};
use frost_tests::journey::{self, Traveller};
use frost_tests::{Scene, Stdio, Who, is_root, skip, until};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const UNSUPPORTED: i32 = 3;

fn set_out<'a>(scene: &'a Scene, name: &str) -> Traveller<'a> {
    Traveller::set_out(scene, Path::new(env!("CARGO_BIN_EXE_victim")), name, Stdio::Null)
}

/// The segment that a process has attached: the inode that the kernel shows for it.
fn segment_of(pid: i32) -> i32 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the victim runs");
    let line = maps.lines().find(|line| line.contains("/SYSV")).expect("it has a segment");
    line.split_ascii_whitespace().nth(4).and_then(|inode| inode.parse().ok()).expect("an inode")
}

#[test]
fn a_segment_goes_with_its_program() {
    for who in [Who::Myself, Who::Ordinary] {
        let Some(scene) = Scene::new(who) else { return };
        let mut traveller = set_out(&scene, "sysv_segment_key");
        let id = segment_of(traveller.pid);
        traveller.freeze();
        assert!(sysv::status(Kind::Segment, id).is_err(), "segment {id} of a frozen program takes memory");
        traveller.thaw(&[]);
        traveller.arrive("thawed");
        scene.is_empty_soon();
    }
}

/// What a thaw has made anew is the program's as before, also if that has not touched it since: nothing but the numbers of
/// processes tells so in a namespace that others share.
#[test]
fn what_was_made_anew_goes_with_its_program_once_more() {
    if !is_root() {
        skip("only root has such objects in a namespace that others share");
        return;
    }
    for (name, kind) in [
        ("sysv_segment_detached", Kind::Segment),
        ("sysv_semaphores", Kind::Semaphores),
        ("sysv_queue_half_full", Kind::Queue),
        ("sysv_queue_users", Kind::Queue),
    ] {
        let Some(scene) = Scene::new(Who::Myself) else { return };
        let mut traveller = set_out(&scene, name);
        let mut ids = sysv::ids(kind).expect("the kernel has it");
        ids.retain(|id| sysv::last_pids(kind, *id).is_ok_and(|pids| pids.contains(&traveller.pid)));
        assert!(!ids.is_empty(), "{name} has one");
        for _ in 0..2 {
            traveller.freeze();
            for id in &ids {
                assert!(sysv::status(kind, *id).is_err(), "{name}: number {id} stays behind");
            }
            traveller.thaw(&[]);
        }
        traveller.arrive("thawed");
        scene.is_empty_soon();
    }
}

#[test]
fn a_segment_that_others_have_attached_stays_and_is_used_again() {
    for who in [Who::Myself, Who::Ordinary] {
        let Some(scene) = Scene::new(who) else { return };
        let mut traveller = set_out(&scene, "sysv_segment_key");
        let id = segment_of(traveller.pid);
        let attached = Attached::new(id, false).expect("root may attach it, and its owner");
        traveller.freeze();
        let plan = scene.frost(&["thaw", "victim", "--plan"]).ok();
        assert!(plan.stdout.contains("is used again"), "{plan}");
        traveller.thaw(&[]);
        // A child that another test has for a moment has it attached, too, as we do.
        let count = || sysv::status(Kind::Segment, id).expect("it stayed").count;
        until("the program and we have it attached", || count() == 2);
        traveller.arrive("thawed");
        drop(attached);
        scene.is_empty_soon();
    }
}

#[test]
fn a_segment_that_others_have_changed_is_refused_by_name() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = set_out(&scene, "sysv_segment_key");
    let id = segment_of(traveller.pid);
    let attached = Attached::new(id, true).expect("root may attach it, and its owner");
    traveller.freeze();
    let zero = std::fs::File::open("/dev/zero").expect("there is /dev/zero");
    attached.fill(4096, zero.as_fd(), 0, 1).expect("a byte of it");
    scene.frost(&["thaw", "victim"]).refused(UNSUPPORTED, &format!("shared memory segment {id}"));
    scene.frost(&["thaw", "victim"]).refused(UNSUPPORTED, "content changed");
    // A copy gets a segment of its own.
    traveller.thaw(&["--clone"]);
    traveller.arrive("copied");
    drop(attached);
    sysv::remove(Kind::Segment, id).expect("it is still there");
    scene.is_empty_soon();
}

/// A queue to which another program sent last stays; a message less is a change.
#[test]
fn a_queue_that_others_use_stays() {
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = set_out(&scene, "sysv_queue_empty");
    let text = std::fs::read_to_string("/proc/sysvipc/msg").expect("the kernel has it");
    let mut ids = text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse().ok());
    let of_victim =
        |id: &i32| sysv::last_pids(Kind::Queue, *id).is_ok_and(|pids| pids.contains(&traveller.pid));
    let id = ids.find(of_victim).expect("the victim's queue");
    sysv::send(id, 99, b"ours").expect("root may, and its owner");
    traveller.freeze();
    assert_eq!(sysv::status(Kind::Queue, id).expect("a queue that we use is gone").count, 1);
    sysv::take(id, 99, 100).expect("it is there");
    scene.frost(&["thaw", "victim"]).refused(UNSUPPORTED, &format!("message queue {id}"));
    sysv::send(id, 99, b"ours").expect("root may, and its owner");
    traveller.thaw(&[]);
    sysv::take(id, 99, 100).expect("it is there");
    traveller.arrive("thawed");
    scene.is_empty_soon();
}

/// A process that was asked what its end will undo in a set counts as one that has operated on it when it ends, and each one of
/// several threads is asked.
#[test]
fn a_set_that_nobody_has_operated_on_stays_so() {
    if !is_root() {
        skip("only root can choose the number of a set");
        return;
    }
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut numbers = (300..400).map(|index| 5 << 15 | index);
    let id = numbers.find(|id| sysv::make(Kind::Semaphores, *id, 0, 2, None).is_ok()).expect("one is free");
    let mut traveller = set_out(&scene, "thread_local_storage");
    traveller.freeze();
    let is_operated = || sysv::status(Kind::Semaphores, id).expect("it is ours").operated;
    assert!(!is_operated(), "set {id} behind the freeze");
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    assert!(!is_operated(), "set {id} behind the end of the program");
    sysv::remove(Kind::Semaphores, id).expect("it is ours");
    scene.is_empty_soon();
}

/// What not even its owner may read only root can keep; `check` foresees it.
#[test]
fn what_its_user_may_not_read_is_told_by_its_number() {
    let binary = Path::new(env!("CARGO_BIN_EXE_victim"));
    for (name, object) in [
        ("sysv_segment_unreadable", "System V shared memory segment "),
        ("sysv_queue_unreadable", "System V message queue "),
        // Whoever may alter it may have something to undo there, which a thaw would not know of.
        ("sysv_semaphores_unreadable", "System V semaphore set "),
    ] {
        journey::unfrozen(binary, name);
        for who in [Who::Ordinary, Who::Myself] {
            if who == Who::Ordinary || !is_root() {
                journey::refused_for(binary, name, object, who);
                journey::refused_in_the_runtime(binary, name, object, who);
            } else {
                journey::thawed(binary, name, who);
            }
        }
    }
}

/// They stay, and are used again, also from the user namespace of an ordinary user's program, in which their owner has no number.
#[test]
fn objects_of_another_user_are_used_again() {
    journey::unfrozen(Path::new(env!("CARGO_BIN_EXE_victim")), "sysv_of_another");
    if !is_root() {
        skip("only root can make objects for another user");
        return;
    }
    let Some(scene) = Scene::new(Who::Ordinary) else { return };
    let user = std::fs::metadata(scene.path("stage")).expect("our own directory").uid();
    drop(scene);
    // What is its own, but of a group that it has not, an ordinary user could remove, but not make anew.
    for owner in [(0, 0), (user, 0)] {
        let Some(scene) = Scene::new(Who::Ordinary) else { return };
        scene.with_objects();
        let make = |kind: Kind, size: u64, mode: u32| {
            let mut numbers = (400..500).map(|index| 5 << 15 | index);
            let id = numbers.find(|id| sysv::make(kind, *id, 0, size, None).is_ok()).expect("one is free");
            sysv::set(kind, id, owner, mode, 16_384).expect("it is ours");
            (kind, id)
        };
        let made =
            [make(Kind::Segment, 4096, 0o644), make(Kind::Semaphores, 1, 0o666), make(Kind::Queue, 0, 0o666)];
        let ids = made.map(|(_, id)| id.to_string()).join(" ");
        std::fs::write(scene.stage("ids"), ids).expect("our own directory");
        let mut traveller = set_out(&scene, "sysv_of_another");
        for _ in 0..2 {
            traveller.freeze();
            traveller.thaw(&[]);
        }
        traveller.freeze();
        let what = format!("it belongs to user {}, group 0", owner.0);
        scene.frost(&["thaw", "victim", "--clone"]).refused(UNSUPPORTED, &what);
        traveller.thaw(&[]);
        traveller.arrive("thawed");
        for (kind, id) in made {
            sysv::remove(kind, id).expect("it was left in place");
        }
        scene.is_empty_soon();
    }
}

/// A keeper stays in the IPC namespace in which its program was: what that had there is in the image, and nowhere else.
#[test]
fn a_keeper_has_nothing_of_a_frozen_program() {
    for name in [
        "sysv_segment_key",
        "sysv_queue_half_full",
        "sysv_semaphore_undo",
        "mqueue_half_full",
        "mqueue_closed",
    ] {
        for who in [Who::Myself, Who::Ordinary] {
            let binary = Path::new(env!("CARGO_BIN_EXE_victim"));
            let left = |scene: &Scene| {
                // What has frozen it may be about to end.
                let is_keeper = |pid: &i32| {
                    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                    exe.to_string_lossy().contains("frost-keeper")
                };
                let keeper = scene.processes().into_iter().find(is_keeper).expect("its keeper stays");
                // The tests' own reaper may be faster than who looks for the process that looks.
                let mut objects = Err(Errno::SRCH);
                until("its objects are listed", || {
                    objects = sysv::objects(keeper);
                    objects.as_ref().err() != Some(&Errno::SRCH)
                });
                let objects = objects.expect("its namespace is ours, or root's");
                assert_eq!(objects, [], "{name} has left something behind");
                let enter = || clone::enter_with_user(keeper, libc::CLONE_NEWIPC);
                let mut names = Err(Errno::SRCH);
                until("its queues are listed", || {
                    names = clone::apart(|| Ok(enter().and_then(|()| mqueue::names())?.concat()));
                    names.as_ref().err() != Some(&Errno::SRCH)
                });
                let names = names.expect("as above");
                assert!(names.is_empty(), "{name} has left {:?} behind", String::from_utf8_lossy(&names));
            };
            journey::looked_at_in_the_runtime(binary, name, who, left);
        }
    }
}

#[test]
fn a_number_that_is_taken_is_refused_by_name() {
    if !is_root() {
        skip("only root can choose the number of a segment");
        return;
    }
    let Some(scene) = Scene::new(Who::Myself) else { return };
    let mut traveller = set_out(&scene, "sysv_segment");
    let id = segment_of(traveller.pid);
    traveller.freeze();
    // Other programs may have its place for a moment.
    until("the number is free", || sysv::make(Kind::Segment, id, 0, 100, None).is_ok());
    scene.frost(&["thaw", "victim"]).refused(UNSUPPORTED, "another one has its number");
    sysv::remove(Kind::Segment, id).expect("it is ours");
    traveller.thaw(&[]);
    traveller.arrive("thawed");
    scene.is_empty_soon();
}
