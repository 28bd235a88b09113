//! Programs with a network of their own: `frost run --net`.

use frost_tests::{LIMIT, Scene, Who, is_alive, is_root, skip, until};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A scene in which networks of a program's own can be had.
fn scene(who: Who) -> Option<Scene> {
    let scene = Scene::with_namespaces(who)?;
    let outcome = scene.frost(&["run", "--net", "none", "--", "true"]);
    if outcome.status == Some(125) && outcome.stderr.contains("namespaces") {
        skip("network namespaces are not to be had here");
        return None;
    }
    outcome.ok();
    Some(scene)
}

frost_tests::as_each_user! {
    sockets_in_a_network_of_its_own_are_frozen_and_thawed
    copies_have_the_same_ports_side_by_side
    a_network_of_its_own_is_told_and_has_nothing_of_the_hosts
    what_was_set_in_a_network_is_set_again
}

/// Starts the program that asks itself, with `more` as its arguments.
fn start(scene: &Scene, name: &str, net: &str, more: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/network.py");
    fs::copy(script, scene.stage("network.py")).expect("our own directory");
    let script = scene.stage("network.py");
    let script = script.to_str().expect("a temporary directory has a name");
    let mut command =
        scene.frost_command(&["run", "-d", "--name", name, "--net", net, "--", "/usr/bin/python3", script]);
    command.args(more);
    scene.run(&mut command, LIMIT).ok();
    looks_on(scene, name);
}

/// Waits until the program has looked twice more, and has found all as it was.
#[track_caller]
fn looks_on(scene: &Scene, name: &str) {
    let count = || {
        let log = scene.frost(&["logs", name]).ok().stdout;
        let line = log.lines().next_back()?.trim();
        // What it is writing at this moment is no line yet.
        log.ends_with('\n').then(|| line.parse::<u64>().unwrap_or_else(|_| panic!("{log}")))
    };
    let now = count().unwrap_or(0);
    until("the program goes on", || count().is_some_and(|count| count > now + 1));
}

fn sockets_in_a_network_of_its_own_are_frozen_and_thawed(scene: &Scene) {
    start(scene, "own", "none", &[]);
    assert!(scene.frost(&["check", "own"]).ok().stdout.contains("can be frozen"));
    for how in [&[][..], &["--cold"], &["--precopy"], &["--leave-running"], &["--cold"]] {
        scene.frost(&[&["freeze", "own"][..], how].concat()).ok();
        if how != ["--leave-running"] {
            scene.frost(&["thaw", "own", "--plan"]).ok();
            scene.frost(&["thaw", "own"]).ok();
        }
        looks_on(scene, "own");
    }
    scene.frost(&["kill", "-s", "KILL", "own"]).ok();
    assert_eq!(scene.frost(&["wait", "own"]).status, Some(128 + 9));
    scene.is_empty_soon();
}

fn copies_have_the_same_ports_side_by_side(scene: &Scene) {
    start(scene, "one", "none", &[]);
    scene.frost(&["freeze", "one", "--leave-running"]).ok();
    let copies: Vec<i32> = (0..5)
        .map(|_| scene.frost(&["thaw", "one", "--clone", "--json"]).ok().number("pid") as i32)
        .collect();
    looks_on(scene, "one");
    // Each has bound the port, and ends if an answer is none of its own.
    assert!(copies.iter().all(|pid| is_alive(*pid)));
    let listens = |pid: i32| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
        table.contains("0100007F:0050 00000000:0000 0A")
    };
    assert!(copies.iter().all(|pid| listens(*pid)));
    looks_on(scene, "one");
    assert!(copies.iter().all(|pid| is_alive(*pid)));
    for pid in copies {
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
    }
    scene.frost(&["kill", "-s", "KILL", "one"]).ok();
    scene.is_empty_soon();
}

fn a_network_of_its_own_is_told_and_has_nothing_of_the_hosts(scene: &Scene) {
    let script = "cd /sys/class/net 2>/dev/null; cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '";
    let inside = scene.frost(&["run", "--net", "none", "--", "sh", "-c", script]).ok().stdout;
    assert!(inside.lines().any(|line| line == "lo"), "{inside}");
    assert!(!inside.lines().any(|line| line.starts_with("eth")), "{inside}");
    start(scene, "told", "none", &[]);
    assert_eq!(scene.frost(&["ps", "told", "--json"]).ok().record()["network"], "none");
    assert!(scene.frost(&["ps", "told"]).ok().stdout.contains("NET"));
    scene.frost(&["freeze", "told", "--cold"]).ok();
    let record = scene.frost(&["inspect", "told", "--json"]).ok().record();
    assert_eq!(record["network"]["which"], "none", "{record}");
    assert!(record["network"]["addresses"].to_string().contains("127.0.0.1/8"), "{record}");
    scene.frost(&["run", "-d", "--name", "host", "--", "sleep", "1000"]).ok();
    assert_eq!(scene.frost(&["ps", "host", "--json"]).ok().record()["network"], "host");
    scene.frost(&["kill", "host"]).ok();
    scene.frost(&["run", "--net", "elsewhere", "--", "true"]).refused(125, "elsewhere");
}

/// Runs commands in the network of a program. The shell has no rights in the user namespace of an ordinary user's, but
/// root has.
fn within(scene: &Scene, name: &str, script: &str) {
    let keeper = scene.frost(&["ps", name, "--json"]).ok().record()["keeper"].to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &keeper, "-n", "sh", "-ec", script]);
    let outcome = scene.run(&mut command, LIMIT);
    assert_eq!(outcome.status, Some(0), "{outcome}");
}

/// `frost freeze` tells that something is in the way, and the program goes on.
fn is_in_the_way(scene: &Scene, name: &str, object: &str) {
    let refused = scene.frost(&["freeze", name]);
    assert!(refused.stderr.contains(object), "{refused}");
    refused.refused(3, "only the loopback interface");
    let checked = scene.frost(&["check", name]);
    assert!(format!("{checked}").contains(object), "{checked}");
    looks_on(scene, name);
}

fn what_was_set_in_a_network_is_set_again(scene: &Scene) {
    if !frost_tests::program::has("nsenter") || !frost_tests::program::has("ip") {
        skip("nsenter and ip are not here");
        return;
    }
    if !is_root() {
        skip("only root may set anything in the network of a program from outside");
        return;
    }
    start(scene, "set", "none", &["127.0.0.1"]);
    let script = "sysctl() { echo \"$2\" >/proc/sys/net/$1; }
        sysctl ipv4/tcp_keepalive_time 1234; sysctl ipv4/ip_local_port_range '10000 10100'
        sysctl ipv4/ip_forward 1; sysctl ipv4/conf/lo/forwarding 0
        ip address add 10.9.8.7/24 dev lo; ip address add fd00::7/64 dev lo";
    within(scene, "set", script);
    let is_set = "test \"$(cat /proc/sys/net/ipv4/tcp_keepalive_time)\" = 1234
        test \"$(cat /proc/sys/net/ipv4/ip_local_port_range)\" = \"$(printf '10000\\t10100')\"
        test \"$(cat /proc/sys/net/ipv4/ip_forward)\" = 1; test \"$(cat /proc/sys/net/ipv4/conf/lo/forwarding)\" = 0
        ip address show dev lo | grep -q '10.9.8.7/24'; ip address show dev lo | grep -q fd00::7/64
        test \"$(ip address show dev lo | grep -c '127.0.0.1/8')\" = 1";
    within(scene, "set", is_set);
    scene.frost(&["freeze", "set", "--cold"]).ok();
    let inspected = scene.frost(&["inspect", "set"]).ok().stdout;
    assert!(inspected.contains("net.ipv4.tcp_keepalive_time = 1234"), "{inspected}");
    scene.frost(&["thaw", "set"]).ok();
    looks_on(scene, "set");
    within(scene, "set", is_set);
    // An earlier version has what was set then, also where the namespace stayed.
    within(
        scene,
        "set",
        "echo 99 >/proc/sys/net/ipv4/tcp_keepalive_time; ip address del 10.9.8.7/24 dev lo
        echo 5 >/proc/sys/net/ipv4/tcp_retries1; ip address add 10.9.8.8/24 dev lo",
    );
    scene.frost(&["freeze", "set"]).ok();
    scene.frost(&["thaw", "set@1"]).ok();
    looks_on(scene, "set");
    within(scene, "set", is_set);
    within(
        scene,
        "set",
        "test \"$(cat /proc/sys/net/ipv4/tcp_retries1)\" = 3
        ! ip address show dev lo | grep -q 10.9.8.8",
    );
    // What is not carried is in the way, by its name, and not any more when it is gone.
    let others = [
        ("ip link add frost0 type veth", "network interface frost0 (veth)", "ip link del frost0"),
        ("ip route add 10.1.0.0/16 dev lo", "route 10.1.0.0/16 by lo", "ip route del 10.1.0.0/16"),
        ("ip rule add priority 7 table 7", "routing rule of priority 7", "ip rule del priority 7"),
    ];
    for (make, object, remove) in others {
        // A kernel may lack one.
        within(scene, "set", &format!("({make}) 2>/dev/null || touch {}", scene.stage("lacks").display()));
        if fs::remove_file(scene.stage("lacks")).is_ok() {
            skip(object);
            continue;
        }
        is_in_the_way(scene, "set", object);
        within(scene, "set", remove);
    }
    scene.frost(&["freeze", "set"]).ok();
    scene.frost(&["thaw", "set"]).ok();
    looks_on(scene, "set");
    scene.frost(&["kill", "-s", "KILL", "set"]).ok();
    if is_root() {
        assert_ne!(
            fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time").unwrap_or_default().trim(),
            "1234"
        );
    }
    scene.is_empty_soon();
}
