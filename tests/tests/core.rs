//! Cores of frozen processes, opened by the real gdb.

use frost_tests::{LIMIT, Scene, Stdio, Who, skip, until};
use std::fs;

/// Returns whether gdb and a C compiler are there; tells if they are not.
fn has_tools() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&paths).any(|path| path.join(program).exists());
    for program in ["gdb", "cc", "readelf"] {
        if !found(program) {
            skip(&format!("{program} is not installed"));
            return false;
        }
    }
    true
}

/// Compiles a program into the scene's stage, with what a debugger wants to know.
fn compile(scene: &Scene, name: &str, source: &str, option: &str) {
    let file = scene.stage(&format!("{name}.c"));
    fs::write(&file, source).expect("our own directory");
    let mut command = scene.command("cc");
    scene.run(command.args(["-g", "-O0", "-pthread", option, "-o", name]).arg(&file), LIMIT).ok();
}

/// What gdb says of a core.
fn gdb(scene: &Scene, core: &str, commands: &[&str]) -> String {
    let mut command = scene.command("gdb");
    command.args(["--nx", "--quiet", "--batch", "-iex", "set debuginfod enabled off"]);
    for line in commands {
        command.args(["-ex", line]);
    }
    let outcome = scene.run(command.arg("three").arg(core), LIMIT).ok();
    outcome.to_string()
}

/// Freezes the program with three threads as `three@1`; `option` is the compiler's.
fn frozen(who: Who, option: &str) -> Option<Scene> {
    if !has_tools() {
        return None;
    }
    let scene = Scene::new(who)?;
    compile(&scene, "three", include_str!("../programs/three.c"), option);
    let mut command = scene.command("setsid");
    let started = scene.start(command.arg("./three"), Stdio::Null);
    until("the program is ready", || scene.stage("ready").exists());
    scene.frost(&["freeze", &started.pid().to_string(), "--to", "three"]).ok();
    Some(scene)
}

fn shows_what_the_program_was(scene: &Scene, core: &str) {
    let text = gdb(
        scene,
        core,
        &[
            "thread apply all backtrace",
            "thread apply all print mine",
            "thread apply all print $xmm7.v2_double[0]",
            "print answer",
            "print untouched",
            "print *list->next",
            "print (char *)shared + 8192",
            "info proc mappings",
            "info auxv",
            "thread 1",
            "x/i $pc",
            "print $_siginfo.si_signo",
        ],
    );
    let has = |what: &str| assert!(text.contains(what), "gdb does not show {what:?}\n{text}");
    for frame in [" in main () at ", " in waiter (", "spinner (number=", " start_thread ("] {
        has(frame);
    }
    for value in ["= 71\n", "= 72\n", "= 4711\n", "= 2.5\n", "\"in the file\"", "\"shared memory\""] {
        has(value);
    }
    has("value = 10");
    has("text = \"on the heap");
    has(&scene.stage("three").display().to_string());
    has("AT_SYSINFO_EHDR");
    has("=> 0x");
    assert!(!text.contains("warning:"), "gdb warns\n{text}");
}

fn gdb_opens_it(who: Who) {
    let Some(scene) = frozen(who, "-pie") else { return };
    let outcome = scene.frost(&["core", "three", "core", "--json"]).ok();
    let record = outcome.record();
    assert_eq!((record["threads"].as_i64(), record["processes"].as_i64()), (Some(3), Some(1)), "{outcome}");
    assert_eq!(record["bytes"].as_u64(), Some(fs::metadata(scene.stage("core")).expect("a core").len()));
    shows_what_the_program_was(&scene, "core");

    // The same bytes from a cold pack, into a pipe, and from a named version.
    scene.frost(&["gc", "--compress-after", "0"]).ok();
    let frost = scene.path("bin").join("frost");
    let line = format!("{} core three@1 - | cat > piped", frost.display());
    scene.run(scene.command("sh").args(["-c", &line]), LIMIT).ok();
    let read = |name: &str| fs::read(scene.stage(name)).expect("a core");
    assert!(read("core") == read("piped"), "the core of the cold image differs");
}

#[test]
fn gdb_opens_a_core() {
    gdb_opens_it(Who::Myself);
}

#[test]
fn gdb_opens_a_core_of_an_ordinary_user() {
    gdb_opens_it(Who::Ordinary);
}

#[test]
fn a_changed_program_is_not_taken_for_what_it_was() {
    // A debugger finds where a program lies by its headers, which are not in this core; so it lies where it was linked to.
    let Some(scene) = frozen(Who::Myself, "-no-pie") else { return };
    // Another build, at the same place.
    compile(&scene, "other", "int main(void) { return 3; }", "-pie");
    fs::rename(scene.stage("three"), scene.stage("kept")).expect("our own directory");
    fs::rename(scene.stage("other"), scene.stage("three")).expect("our own directory");
    let outcome = scene.frost(&["core", "three", "core"]).ok();
    assert!(outcome.stderr.contains("three is not the file that was mapped"), "{outcome}");
    let mut command = scene.command("gdb");
    command.args(["--nx", "--quiet", "--batch", "-ex", "info proc mappings", "-ex", "print answer"]);
    let outcome = scene.run(command.args(["kept", "core"]), LIMIT).ok();
    assert!(outcome.stdout.contains("three (changed)"), "{outcome}");
    assert!(outcome.stdout.contains("= 4711"), "what the program wrote is in the core\n{outcome}");
}

#[test]
fn every_process_has_a_core_and_a_zombie_has_none() {
    if !has_tools() {
        return;
    }
    let Some(scene) = Scene::new(Who::Myself) else { return };
    // It ends when its parent has become a program that waits for nobody.
    let script = "sh -c 'while grep -q sh /proc/$PPID/comm; do :; done; exit 3' & sleep 1000 & echo $! > ready; exec sleep 1001";
    let mut command = scene.command("setsid");
    let started = scene.start(command.args(["sh", "-c", script]), Stdio::Null);
    let root = started.pid();
    until("the tree stands", || {
        let stat = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let tree = frost_tests::tree_of(root);
        stat(root).contains("(sleep)")
            && tree.len() == 3
            && tree.iter().any(|pid| stat(*pid).contains(") Z "))
            && tree.iter().filter(|pid| stat(**pid).contains("(sleep)")).count() == 2
    });
    scene.frost(&["freeze", &root.to_string(), "--to", "tree"]).ok();
    let outcome = scene.frost(&["core", "tree", "core"]).ok();
    assert!(outcome.stderr.contains("one of its 3 processes"), "{outcome}");
    let child = scene.await_file("ready").trim().to_owned();
    scene.frost(&["core", "tree", "child", "--process", &child]).ok();
    let outcome = scene.run(scene.command("readelf").args(["--notes", "child"]), LIMIT).ok();
    for note in ["NT_PRSTATUS", "NT_PRPSINFO", "NT_SIGINFO", "NT_AUXV", "NT_FILE", "NT_X86_XSTATE"] {
        assert!(outcome.stdout.contains(note), "{note}\n{outcome}");
    }
    scene.frost(&["core", "tree", "x", "--process", "1"]).refused(6, "no process 1");
    let inspected = scene.frost(&["inspect", "tree", "--json"]).ok().record();
    let processes = inspected["processes"].as_array().cloned().unwrap_or_default();
    let zombie = processes.iter().find(|process| process["life"] == "zombie").expect("a zombie");
    scene.frost(&["core", "tree", "x", "--process", &zombie["pid"].to_string()]).refused(1, "had ended");
    assert!(!scene.stage("x").exists());
}

#[test]
fn memory_without_a_name_is_there_and_what_was_never_touched_takes_no_room() {
    if !has_tools() {
        return;
    }
    let Some(scene) = Scene::new(Who::Ordinary).or_else(|| Scene::new(Who::Myself)) else { return };
    compile(&scene, "hidden", include_str!("../programs/hidden.c"), "-w");
    let mut command = scene.command("setsid");
    let started = scene.start(command.arg("./hidden"), Stdio::Null);
    let pid = started.pid();
    until("the program has stopped itself", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains("(hidden) T "))
    });
    scene.frost(&["freeze", &pid.to_string(), "--to", "hidden"]).ok();
    let outcome = scene.frost(&["core", "hidden", "core", "--json"]).ok();
    // A terabyte is mapped, of which a hundred pages were written.
    assert!(outcome.number("bytes") < 8 << 20, "{outcome}");
    let mut command = scene.command("gdb");
    command.args(["--nx", "--quiet", "--batch", "-iex", "set debuginfod enabled off"]);
    for expression in [
        "deleted + 8192",
        "deleted[4096]",
        "deleted[12288]",
        "memfd + 65536",
        "memfd[70000]",
        "sparse[1ul << 30]",
        "sparse[(1ul << 30) + 8192]",
        "sparse[99ul << 30]",
        "/x *vdso",
    ] {
        command.args(["-ex", &format!("print {expression}")]);
    }
    let outcome = scene.run(command.args(["-ex", "info proc mappings", "hidden", "core"]), LIMIT).ok();
    for found in [
        "$1 = 0x",
        "\"deleted content\"",
        "$2 = 119 'w'",
        "$3 = 0",
        "\"in a memfd\"",
        "$5 = 0",
        "$6 = 98 'b'",
        "$7 = 0",
        "$8 = 118 'v'",
        "$9 = 0x464c457f",
        "gone (deleted)",
        "signal SIGSTOP",
    ] {
        assert!(outcome.stdout.contains(found), "{found:?}\n{outcome}");
    }
}
