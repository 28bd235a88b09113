//! Trees of several victims, put together at random from all kinds and states: what stands alone must stand among others.
//!
//! A tree is made of a seed. `FROST_SEEDS` says how many are tried (6) and `FROST_FIRST_SEED` from which on (1); those that
//! failed once are in `tests/seeds` and tried always. A failure names its seed, its shape and its members.

use frost_tests::journey::Traveller;
use frost_tests::program::setting;
use frost_tests::{Scene, Who};
use std::path::Path;
use std::process::Command;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_victim"))
}

/// Victims that do not stand among others: storms, which no other gets a turn beside; what is refused; what is judged by
/// who started it.
const ALONE: [&str; 6] = ["_storm", "vfork_", "outside_", "tree_traced", "refused", "clock_continues"];
/// Victims that are refused or need a harness of their own.
const REFUSED: [&str; 2] = ["unix_pending_data", "prctl_dispatch"];

fn names() -> Vec<String> {
    let text = frost_tests::output_of(Command::new(binary()).arg("list"));
    let stands_among_others = |name: &&str| {
        !ALONE.iter().any(|part| name.contains(part)) && !REFUSED.contains(name) && !is_refused(name)
    };
    text.lines().filter(stands_among_others).map(str::to_owned).collect()
}

/// Whether a list of the suite of single victims has it.
fn is_in_list(list: &str, name: &str) -> bool {
    let suite = include_str!("victims.rs");
    let listed = suite.split_once(&format!("\n{list}! {{\n")).map_or("", |(_, rest)| rest);
    let listed = listed.split_once("\n}").map_or("", |(names, _)| names);
    assert!(!listed.is_empty(), "there is no list of {list} victims");
    listed.split_whitespace().any(|word| word == name)
}

/// Whether the suite of single victims has it as one that is refused, or treats it in its own way.
fn is_refused(name: &str) -> bool {
    let suite = include_str!("victims.rs");
    let special = suite.split_once("const SPECIAL").map_or("", |(_, rest)| rest);
    let special = special.split_once(';').map_or("", |(list, _)| list);
    is_in_list("refused", name) || special.contains(&format!("\"{name}\""))
}

/// A small generator: a seed always gives the same tree as long as the list of victims is the same.
struct Choice(u64);

impl Choice {
    fn of(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % count as u64) as usize
    }
}

fn tree(seed: u64, names: &[String]) -> (String, Vec<&str>) {
    let mut choice = Choice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let count = 2 + choice.of(5);
    let mut members: Vec<&str> = Vec::new();
    while members.len() < count {
        let name = names[choice.of(names.len())].as_str();
        if !members.contains(&name) {
            members.push(name);
        }
    }
    let shape = (0..count).map(|_| ['c', 'g', 's', 'n'][choice.of(4)]).collect();
    (shape, members)
}

/// Seeds that once failed, and as many others as asked for.
fn seeds() -> Vec<u64> {
    let kept =
        include_str!("../seeds").lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let first = setting("FROST_FIRST_SEED", 1) as u64;
    kept.chain(first..first + setting("FROST_SEEDS", 6) as u64).collect()
}

fn journeys(who: Who) {
    let names = names();
    for seed in seeds() {
        let Some(scene) = Scene::new(who) else { return };
        let (shape, members) = tree(seed, &names);
        // What the kernel tells root only, the first or the second time.
        let is_root_s = |member: &&str| {
            frost_tests::journey::ROOT_THEN.contains(member) || is_in_list("filtered", member)
        };
        if who == Who::Ordinary && members.iter().any(is_root_s) {
            continue;
        }
        println!("seed {seed}: {shape} {}", members.join(" "));
        let mut traveller = Traveller::set_out_together(&scene, binary(), &shape, &members);
        for _ in 0..2 {
            traveller.freeze();
            traveller.thaw(&[]);
        }
        traveller.arrive("thawed");
        scene.is_empty_soon();
    }
}

#[test]
fn trees_are_thawed_twice() {
    journeys(Who::Myself);
}

#[test]
fn trees_are_thawed_twice_by_an_ordinary_user() {
    journeys(Who::Ordinary);
}

/// Watches are added by a thread, which is seen for a moment behind its end; senders are looked like by who has one thread only.
#[test]
fn who_has_sent_is_told_also_where_something_is_watched() {
    for who in [Who::Myself, Who::Ordinary] {
        let Some(scene) = Scene::new(who) else { return };
        let members = ["epoll_in_flight", "peers_that_sent"];
        let mut traveller = Traveller::set_out_together(&scene, binary(), "cc", &members);
        traveller.freeze();
        traveller.thaw(&[]);
        traveller.arrive("thawed");
        scene.is_empty_soon();
    }
}

#[test]
fn each_victim_is_a_member_of_some_tree() {
    let names = names();
    let chosen: std::collections::BTreeSet<&str> = (0..5000).flat_map(|seed| tree(seed, &names).1).collect();
    assert_eq!(chosen.len(), names.len());
}
